import { asArray, asObject, type JsonObject, type JsonValue, messageOf, parseJson } from "@sealpod/core";
import type { UvmTarget } from "./command-line.ts";
import { ARCHITECTURE, type DebianPackage, PACKAGE_NAME, PACKAGE_VERSION, SHA256 } from "./debian-packages.ts";
import { ImageError } from "./errors.ts";

/** A part of an image that is no package. */
export interface ImagePart {
  readonly name: "node" | "sealpod-agent" | "sealpod-helper";
  readonly version: string;
  /** Of its bytes as they were given to the build; 64 hex digits. */
  readonly sha256: string;
}

/** Everything that the bytes of an image come from. The same materials give the same image. */
export interface BillOfMaterials {
  readonly target: UvmTarget;
  /** Sorted by name. */
  readonly packages: readonly DebianPackage[];
  readonly parts: readonly ImagePart[];
}

const FORMAT = { bomFormat: "CycloneDX", specVersion: "1.6" } as const;

/** Largest bill that is read: one has 30 KiB. */
const MAX_BILL = 4 * 1024 * 1024;

const PART_NAMES: readonly ImagePart["name"][] = ["node", "sealpod-agent", "sealpod-helper"];
const PART_VERSION = /^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$/;
const PACKAGE_PROPERTY = "sealpod:debian-architecture";
const TARGET_PROPERTY = "sealpod:target";

/** The bill as a CycloneDX 1.6 document, which inventory tools read. It has no time and no serial number: two builds of one thing have one bill. */
export function encodeBill(bill: BillOfMaterials): string {
  const hashes = (sha256: string): readonly JsonObject[] => [{ alg: "SHA-256", content: sha256 }];
  const document = {
    ...FORMAT,
    version: 1,
    metadata: { component: { type: "operating-system", name: "sealpod-uvm" }, properties: [{ name: TARGET_PROPERTY, value: bill.target }] },
    components: [
      ...bill.packages.map(({ name, version, architecture, sha256 }) => ({
        type: "library",
        name,
        version,
        hashes: hashes(sha256),
        purl: `pkg:deb/debian/${encodeURIComponent(name)}@${encodeURIComponent(version)}?arch=${architecture}`,
        properties: [{ name: PACKAGE_PROPERTY, value: architecture }],
      })),
      ...bill.parts.map(({ name, version, sha256 }) => ({ type: "application", name, version, hashes: hashes(sha256) })),
    ],
  };
  return `${JSON.stringify(document, undefined, 2)}\n`;
}

/**
 * Reads a bill that {@link encodeBill} wrote.
 * @throws {ImageError} ERR_IMAGE_LOCK
 */
export function parseBill(text: string, what: string): BillOfMaterials {
  let document: JsonObject | undefined;
  try {
    document = asObject(parseJson(text, what, { maxLength: MAX_BILL, maxDepth: 16 }));
  } catch (cause) {
    throw malformed(what, messageOf(cause), cause);
  }
  if (document?.["bomFormat"] !== FORMAT.bomFormat || document["specVersion"] !== FORMAT.specVersion)
    throw malformed(what, `it is no ${FORMAT.bomFormat} ${FORMAT.specVersion} document`);
  const target = property(asObject(document["metadata"])?.["properties"], TARGET_PROPERTY);
  if (target !== "emulated" && target !== "snp") throw malformed(what, `${TARGET_PROPERTY} is neither emulated nor snp`);
  const packages: DebianPackage[] = [];
  const parts: ImagePart[] = [];
  for (const value of asArray(document["components"]) ?? []) {
    const item = asObject(value);
    const [name, version] = [textOf(item?.["name"]), textOf(item?.["version"])];
    const hash = asObject(asArray(item?.["hashes"])?.[0]);
    const sha256 = textOf(hash?.["content"]);
    if (hash?.["alg"] !== "SHA-256" || !SHA256.test(sha256)) throw malformed(what, `component ${JSON.stringify(name.slice(0, 100))} has no SHA-256`);
    const architecture = property(item?.["properties"], PACKAGE_PROPERTY);
    if (architecture === undefined) {
      const part = PART_NAMES.find((candidate) => candidate === name);
      if (part === undefined || !PART_VERSION.test(version)) throw malformed(what, `component ${JSON.stringify(name.slice(0, 100))} is no part of an image`);
      parts.push({ name: part, version, sha256 });
    } else {
      if (!PACKAGE_NAME.test(name) || !PACKAGE_VERSION.test(version) || (architecture !== ARCHITECTURE && architecture !== "all"))
        throw malformed(what, `component ${JSON.stringify(name.slice(0, 100))} is no Debian package for ${ARCHITECTURE}`);
      packages.push({ name, version, architecture, sha256 });
    }
  }
  const names = [...packages, ...parts].map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw malformed(what, `component ${twice} stands in it twice`);
  return { target, packages: packages.sort((a, b) => (a.name < b.name ? -1 : 1)), parts };
}

/**
 * Requires that a build has exactly the materials of its lock.
 * @throws {ImageError} ERR_IMAGE_LOCK
 */
export function requireLocked(bill: BillOfMaterials, lock: BillOfMaterials): void {
  if (bill.target !== lock.target) throw new ImageError("ERR_IMAGE_LOCK", `the lock is of an image for ${lock.target}, and this one is for ${bill.target}`);
  const rows = (from: BillOfMaterials): ReadonlyMap<string, string> =>
    new Map([...from.packages, ...from.parts].map(({ name, version, sha256 }) => [name, `${version} (${sha256})`]));
  const [found, expected] = [rows(bill), rows(lock)];
  for (const name of new Set([...found.keys(), ...expected.keys()])) {
    const [have, want] = [found.get(name), expected.get(name)];
    if (have === want) continue;
    throw new ImageError("ERR_IMAGE_LOCK", `${name}: found ${have ?? "nothing"}, the lock has ${want ?? "nothing"}`, {
      details: { name },
      hint: "Build with the sources and tools that the lock was made with, or without --lock.",
    });
  }
}

function property(properties: JsonValue | undefined, name: string): string | undefined {
  for (const value of asArray(properties) ?? []) {
    const item = asObject(value);
    if (item?.["name"] === name) return textOf(item["value"]);
  }
  return undefined;
}

function textOf(value: JsonValue | undefined): string {
  return typeof value === "string" ? value : "";
}

function malformed(what: string, problem: string, cause?: unknown): ImageError {
  return new ImageError("ERR_IMAGE_LOCK", `${what} is no bill of materials of an image: ${problem}`, { cause });
}
