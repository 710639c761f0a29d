import { asArray, asObject, fromHex, isSealpodError, type JsonObject, type JsonValue, parseJson, toHex } from "@sealpod/core";
import { PLATFORM_FEATURES } from "../abi/platform-info.ts";
import { PRODUCT_NAMES } from "../abi/product.ts";
import { HOST_VMPL } from "../abi/report.ts";
import { SnpError } from "../errors.ts";
import { nearestName } from "./nearest-name.ts";
import {
  type AbiVersion,
  type MinimumTcb,
  type MinimumTcbs,
  type PlatformBitName,
  REPORT_CHECKS,
  type ReportCheck,
  type ReportPolicy,
  type Requirement,
} from "./report-policy.ts";

/** Largest policy document, in characters: a thousand measurements take 100 KiB. */
export const MAX_REPORT_POLICY_LENGTH: number = 256 * 1024;

/** Most entries of a list: an image has a measurement for each number of processors that it may get. */
const MAX_LIST = 1024;

/** Longest name of a root or provider, in characters. */
const MAX_NAME = 256;

/**
 * Reads a policy over reports: a JSON object with every check of {@link ReportPolicy}, each `"any"` or `{"required": …}`. Bytes and bit masks are lower-case hex (masks with `0x`).
 * @param what name of the document, for messages
 * @throws {SnpError} ERR_SNP_POLICY_SYNTAX with the place in `details.path`
 */
export function parseReportPolicy(text: string, what = "report policy"): ReportPolicy {
  let value: JsonValue;
  try {
    value = parseJson(text, what, { maxLength: MAX_REPORT_POLICY_LENGTH, maxDepth: 8 });
  } catch (cause) {
    if (isSealpodError(cause)) throw new SnpError("ERR_SNP_POLICY_SYNTAX", cause.message, { cause, details: cause.details });
    throw cause;
  }
  try {
    return readPolicy(value);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    throw new SnpError("ERR_SNP_POLICY_SYNTAX", `${what}, ${problem.path}: ${problem.message}`, {
      details: { path: problem.path },
      ...(problem.hint !== undefined && { hint: problem.hint }),
    });
  }
}

/**
 * The document of a policy, indented, in the order of {@link ReportPolicy}; it ends in a newline.
 * @throws {SnpError} ERR_SNP_POLICY_SYNTAX if the policy holds what the document cannot, such as a measurement of another length
 */
export function encodeReportPolicy(policy: ReportPolicy): string {
  const text = `${JSON.stringify(Object.fromEntries(REPORT_CHECKS.map((check) => [check, encodeCheck(check, policy)])), null, 2)}\n`;
  parseReportPolicy(text, "report policy to write");
  return text;
}

/** A place in the document and what is wrong there. */
class Problem extends Error {
  readonly path: string;
  readonly hint: string | undefined;

  constructor(path: string, message: string, hint?: string) {
    super(message);
    this.path = path;
    this.hint = hint;
  }
}

/** How a requirement stands in the document. */
interface Form<T> {
  read(value: JsonValue, path: string): T;
  write(value: T): JsonValue;
}

const TCB_COMPONENTS: readonly (keyof MinimumTcb)[] = ["fmc", "bootloader", "tee", "snp", "microcode"];

const TCBS: Form<MinimumTcbs> = { read: readTcbs, write: writeTcbs };
const VERSION: Form<AbiVersion> = { read: readVersion, write: ({ major, minor }) => ({ major, minor }) };

/** The type has a form for each field: a field without one does not compile. */
const FORMS: { readonly [K in ReportCheck]: Form<Requirement<K>> } = {
  roots: list(name("the name of a root")),
  products: list(word(PRODUCT_NAMES)),
  reportVersions: list(word([2, 3, 4, 5])),
  signingKeys: list(word(["vcek", "vlek"])),
  chipIds: list(hex(64, 8)),
  cspIds: list(name("the id of a provider")),
  reportData: hex(64),
  hostData: hex(32),
  measurements: list(hex(48)),
  vmpls: list(word([0, 1, 2, 3, HOST_VMPL])),
  debug: word(["forbidden"]),
  migrationAgent: word(["forbidden"]),
  smt: word(["forbidden"]),
  singleSocket: word(["required"]),
  cxl: word(["forbidden"]),
  aes256Xts: word(["required"]),
  rapl: word(["forbidden"]),
  ciphertextHiding: word(["required"]),
  pageSwap: word(["forbidden"]),
  minimumGuestAbi: VERSION,
  guestAbiMet: word(["required"]),
  minimumFirmware: VERSION,
  provisionalFirmware: word(["forbidden"]),
  minimumTcb: TCBS,
  minimumCommittedTcb: TCBS,
  minimumCurrentTcb: TCBS,
  minimumLaunchTcb: TCBS,
  minimumGuestSvn: integer(0xffff_ffff),
  familyId: hex(16),
  imageId: hex(16),
  idKeyDigests: list(hex(48)),
  authorKey: word(["required"]),
  authorKeyDigests: list(hex(48)),
  platformSet: list(platformBitName()),
  platformClear: list(platformBitName()),
  launchMitigations: mask(),
  currentMitigations: mask(),
};

function readPolicy(value: JsonValue): ReportPolicy {
  const object = members(value, "$", REPORT_CHECKS);
  const missing = REPORT_CHECKS.filter((check) => object[check] === undefined);
  if (missing.length > 0) {
    throw new Problem(
      "$",
      `${missing.join(", ")} ${missing.length === 1 ? "is" : "are"} missing`,
      'A check that is not wanted is written as "any"; none may be left out.',
    );
  }
  const entries = REPORT_CHECKS.map((check): readonly [ReportCheck, unknown] => [check, readCheck(check, object[check] ?? null)]);
  // Each name of the interface is there, with what its form reads.
  return Object.fromEntries(entries) as unknown as ReportPolicy;
}

function readCheck<K extends ReportCheck>(check: K, value: JsonValue): Requirement<K> | "any" {
  if (value === "any") return "any";
  const path = `$.${check}`;
  if (asObject(value) === undefined) throw new Problem(path, `found ${describe(value)}, expected "any" or {"required": …}`);
  const { required } = members(value, path, ["required"]);
  if (required === undefined) throw new Problem(path, 'found {}, expected "any" or {"required": …}');
  const form: Form<Requirement<K>> = FORMS[check];
  return form.read(required, `${path}.required`);
}

// eslint-disable-next-line typescript/no-unnecessary-type-parameters -- it ties the value of a check to what is done with it
function encodeCheck<K extends ReportCheck>(check: K, policy: ReportPolicy): JsonValue {
  const value = policy[check];
  if (value === undefined) throw new SnpError("ERR_SNP_POLICY_SYNTAX", `report policy: ${check} is missing`);
  if (value === "any") return "any";
  const form: Form<Requirement<K>> = FORMS[check];
  return { required: form.write(value as Requirement<K>) };
}

function list<T>(item: Form<T>): Form<readonly T[]> {
  return {
    read: (value, path) => {
      const items = asArray(value);
      if (items === undefined) throw new Problem(path, `found ${describe(value)}, expected a list`);
      if (items.length > MAX_LIST) throw new Problem(path, `${items.length} entries, more than the limit of ${MAX_LIST}`);
      return items.map((one, index) => item.read(one, `${path}[${index}]`));
    },
    write: (items) => items.map((one) => item.write(one)),
  };
}

function hex(...lengths: readonly number[]): Form<Uint8Array> {
  const expected = `${lengths.map((length) => `${length * 2}`).join(" or ")} lower-case hex digits`;
  return {
    read: (value, path) => {
      if (typeof value !== "string" || !/^[0-9a-f]*$/.test(value) || !lengths.includes(value.length / 2))
        throw new Problem(path, `found ${describe(value)}, expected ${expected}`);
      return fromHex(value);
    },
    write: toHex,
  };
}

function mask(): Form<bigint> {
  return {
    read: (value, path) => {
      if (typeof value !== "string" || !/^0x[0-9a-f]{1,16}$/.test(value))
        throw new Problem(path, `found ${describe(value)}, expected 0x and up to 16 lower-case hex digits`);
      return BigInt(value);
    },
    write: (value) => `0x${value.toString(16)}`,
  };
}

function word<const T extends string | number>(words: readonly T[]): Form<T> {
  return {
    read: (value, path) => {
      const found = words.find((one) => one === value);
      if (found === undefined)
        throw new Problem(path, `found ${describe(value)}, expected ${words.map((one) => JSON.stringify(one)).join(" or ")}`, suggestion(value, words));
      return found;
    },
    write: (value) => value,
  };
}

function name(what: string): Form<string> {
  return {
    read: (value, path) => {
      if (typeof value !== "string" || value === "" || value.length > MAX_NAME)
        throw new Problem(path, `found ${describe(value)}, expected ${what}, 1 to ${MAX_NAME} characters`);
      return value;
    },
    write: (value) => value,
  };
}

function integer(largest: number): Form<number> {
  return {
    read: (value, path) => {
      if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > largest)
        throw new Problem(path, `found ${describe(value)}, expected an integer of 0 to ${largest}`);
      return value;
    },
    write: (value) => value,
  };
}

function platformBitName(): Form<PlatformBitName> {
  return {
    read: (value, path) => {
      const feature = PLATFORM_FEATURES.find((one) => one === value);
      if (feature !== undefined) return feature;
      if (typeof value === "string" && /^bit([0-9]|[1-5][0-9]|6[0-3])$/.test(value)) return value as `bit${number}`;
      throw new Problem(path, `found ${describe(value)}, expected ${PLATFORM_FEATURES.join(", ")} or bit0 to bit63`, suggestion(value, PLATFORM_FEATURES));
    },
    write: (value) => value,
  };
}

function readVersion(value: JsonValue, path: string): AbiVersion {
  const { major, minor } = members(value, path, ["major", "minor"]);
  if (major === undefined || minor === undefined) throw new Problem(path, `${major === undefined ? "major" : "minor"} is missing`);
  const byte = integer(255);
  return { major: byte.read(major, `${path}.major`), minor: byte.read(minor, `${path}.minor`) };
}

function readTcbs(value: JsonValue, path: string): MinimumTcbs {
  const object = members(value, path, PRODUCT_NAMES);
  const level = integer(255);
  const entries = PRODUCT_NAMES.flatMap((product): readonly (readonly [string, MinimumTcb])[] => {
    const levels = object[product];
    if (levels === undefined) return [];
    // Only Turin has an FMC; asked of another product no report could meet it.
    const found = members(levels, `${path}.${product}`, product === "Turin" ? TCB_COMPONENTS : TCB_COMPONENTS.slice(1));
    return [
      [product, Object.fromEntries(Object.entries(found).map(([component, least]) => [component, level.read(least, `${path}.${product}.${component}`)]))],
    ];
  });
  return Object.fromEntries(entries);
}

/** In a fixed order, so that one policy has one document. */
function writeTcbs(value: MinimumTcbs): JsonValue {
  return ordered(value, PRODUCT_NAMES, (minimum) => ordered(minimum, TCB_COMPONENTS, (level) => level));
}

function ordered<T>(value: Readonly<Record<string, T | undefined>>, names: readonly string[], write: (item: T) => JsonValue): JsonObject {
  const entries = Object.entries(value).flatMap(([key, item]): readonly [string, JsonValue][] => (item === undefined ? [] : [[key, write(item)]]));
  return Object.fromEntries(entries.toSorted(([a], [b]) => names.indexOf(a) - names.indexOf(b)));
}

/** The members of an object that has no others than these. */
function members(value: JsonValue, path: string, names: readonly string[]): JsonObject {
  const object = asObject(value);
  if (object === undefined) throw new Problem(path, `found ${describe(value)}, expected an object`);
  for (const found of Object.keys(object)) {
    if (!names.includes(found))
      throw new Problem(
        path,
        `found the name ${describe(found)}, which is none of its names`,
        suggestion(found, names) ?? `The names are ${names.join(", ")}.`,
      );
  }
  return object;
}

function suggestion(value: JsonValue, names: readonly (string | number)[]): string | undefined {
  if (typeof value !== "string") return undefined;
  const nearest = nearestName(
    value,
    names.filter((one) => typeof one === "string"),
  );
  return nearest === undefined ? undefined : `Did you mean ${JSON.stringify(nearest)}?`;
}

/** A value as it may stand in a message: short. */
function describe(value: JsonValue): string {
  if (asArray(value) !== undefined) return "a list";
  if (asObject(value) !== undefined) return "an object";
  const text = typeof value === "bigint" ? value.toString() : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
