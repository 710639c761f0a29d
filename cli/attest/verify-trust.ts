import { fromAnyBase64, type Clock } from "@sealpod/core";
import { equalNames, parseCrl, parsePem, type Certificate, type Crl } from "@sealpod/pki";
import { AMD_ROOTS, PRODUCT_NAMES, trustRootOf, type TrustRoot } from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import { readBytes } from "../workspace.ts";
import { recogniseCertificates } from "./verify-input.ts";
import type { VerifyFlags } from "./verify-options.ts";

/** Whom and when to believe. */
export interface Trust {
  readonly roots: readonly TrustRoot[];
  /** Undefined if no list was given, and none is required. */
  readonly revocation: { readonly crls: readonly Crl[]; readonly missing: "accept" | "refuse" } | undefined;
  readonly clock: Clock;
}

/** As attestation services have them in their configuration. */
const ROOT_NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;

/**
 * Reads whom to trust. The emulator's root is taken only from a file that the caller names: never from the evidence.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE, and the errors of the formats
 */
export async function readTrust(flags: VerifyFlags, context: CliContext): Promise<Trust> {
  const roots: TrustRoot[] = [];
  for (const value of new Set(flags.trust ?? ["amd"])) {
    const file = /^emulator=(.+)$/s.exec(value)?.[1];
    if (value === "amd") roots.push(...AMD_ROOTS);
    else if (file !== undefined) roots.push(...(await emulatorRoots(file, context)));
    else
      throw new CliError("ERR_CLI_USAGE", `--trust ${value}: expected amd, or emulator=FILE with the emulator's root certificate`, {
        hint: "A name alone is enough for tokens, whose issuer says which root the evidence rests on.",
      });
  }
  const crls = await Promise.all((flags.crl ?? []).map(async (file) => parseCrl(crlBytes(await readBytes(file, context), file), file)));
  const revocation =
    crls.length === 0 && flags.requireCrl !== true ? undefined : { crls, missing: flags.requireCrl === true ? ("refuse" as const) : ("accept" as const) };
  return { roots, revocation, clock: clockOf(flags, context) };
}

/**
 * The time to judge by.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function clockOf({ at }: Pick<VerifyFlags, "at">, context: CliContext): Clock {
  return at === undefined ? context.clock : fixedClock(at);
}

/**
 * Names of the roots that a token's evidence may rest on: those that are named, else AMD's alone. A file is not read: the issuer held the evidence against its own.
 * @throws {CliError} ERR_CLI_USAGE
 */
export function trustedNames({ trust = ["amd"] }: Pick<VerifyFlags, "trust">): ReadonlySet<string> {
  return new Set(
    trust.map((value) => {
      const name = /^emulator=./s.test(value) ? "emulator" : value;
      if (ROOT_NAME.test(name)) return name;
      throw new CliError("ERR_CLI_USAGE", `--trust ${value.slice(0, 100)}: expected the name of a root, such as emulator, for a token`);
    }),
  );
}

/** The emulator plays any product with one key, so its root counts for each. */
async function emulatorRoots(file: string, context: CliContext): Promise<readonly TrustRoot[]> {
  const certificates = recogniseCertificates(await readBytes(file, context), file);
  const roots = certificates.filter(isSelfIssued);
  const [root] = roots;
  if (root === undefined || roots.length > 1) {
    throw new CliError(
      "ERR_CLI_FILE",
      `${file} has ${roots.length} self-signed certificates among ${certificates.length}, expected one: the emulator's root (ARK)`,
    );
  }
  return PRODUCT_NAMES.map((product) => trustRootOf(root, "emulator", product));
}

function isSelfIssued({ subject, issuer }: Certificate): boolean {
  return equalNames(subject, issuer);
}

function crlBytes(bytes: Uint8Array, file: string): Uint8Array {
  if (bytes[0] === 0x30) return bytes;
  const text = Buffer.from(bytes).toString("latin1").trim();
  if (!text.startsWith("-----BEGIN")) return fromAnyBase64(text.replaceAll(/\s+/g, ""), file);
  const lists = parsePem(text, "X509 CRL", file);
  const [list] = lists;
  if (list === undefined || lists.length > 1) throw new CliError("ERR_CLI_FILE", `${file} has ${lists.length} revocation lists, expected one`);
  return list;
}

/** A clock that stands still: evidence is judged as of that time. */
function fixedClock(text: string): Clock {
  const match = /^\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2}(?:\.\d{1,3})?)?(?:Z|[+-]\d{2}:\d{2}))?$/.exec(text);
  const time = match === null ? Number.NaN : Date.parse(text);
  // Date.parse takes the 31st of February for a day in March.
  if (Number.isNaN(time) || (text.length === 10 && new Date(time).toISOString().slice(0, 10) !== text)) {
    throw new CliError("ERR_CLI_USAGE", `--at ${text}: expected a date, such as 2026-11-22, or a time with its zone, such as 2026-11-22T12:00:00Z`);
  }
  return { now: () => time };
}
