import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { concatBytes, decodeUtf8, encodeUtf8, fromBase64, messageOf } from "@sealpod/core";
import { parse } from "smol-toml";
import { ShimError } from "./errors.ts";

/** The initdata of a pod (specs/runtime.md 3.6). */
export interface PodInitdata {
  /** The document in gzip, as the annotation has it. */
  readonly packed: Uint8Array;
  /** Digest of the document by the algorithm that it names, cut or filled with zeros to 32 bytes. */
  readonly hostData: Uint8Array;
  /** Its `policy.rego`. */
  readonly policy: string | undefined;
}

/** Annotation that carries it. */
export const INITDATA_ANNOTATION = "io.katacontainers.config.hypervisor.cc_init_data";

/** First bytes of the disk; then come u64 length, little-endian, and so many bytes of gzip. */
const MAGIC: Uint8Array = encodeUtf8("initdata");
const HEADER_SIZE = 16;
/** Disks are made of them. */
const SECTOR = 512;

/** The guest's own limit: what is more, no guest takes. */
const MAX_PACKED = 2 * 1024 * 1024;

/** Twice the largest policies, and as much as one may have that comes by SetPolicy. A document that was made to take long takes seconds then, not minutes. */
const MAX_DOCUMENT = 4 * 1024 * 1024;

/** A real document has two levels. */
const MAX_DEPTH = 8;

const VERSION = "0.1.0";
const ALGORITHMS: readonly string[] = ["sha256", "sha384", "sha512"];

/** Length of HOST_DATA in a SEV-SNP report. */
const HOST_DATA_SIZE = 32;

const HINT = "Generate it again: sealpod genpolicy --profile coco.";

/**
 * Reads the annotation: base64 of gzip of TOML. The guest reads the document by a parser of its own, and compares its digest with HOST_DATA; what is
 * read here is the digest's algorithm, and the policy for its hints.
 * @throws {ShimError} ERR_SHIM_POD
 */
export function parseInitdata(annotation: string): PodInitdata {
  // Go's decoder passes over line ends, which YAML's block texts have.
  const text = annotation.replaceAll(/[\r\n]/g, "");
  if (text.length > Math.ceil(MAX_PACKED / 3) * 4) throw refused(`has ${text.length} characters, more than ${MAX_PACKED} bytes in base64`);
  const packed = attempt("is not base64", () => fromBase64(text, "the annotation"));
  const document = attempt(`is no gzip of ${MAX_DOCUMENT} bytes or less`, () => new Uint8Array(gunzipSync(packed, { maxOutputLength: MAX_DOCUMENT })));
  const table = attempt("is not TOML", () => parse(decodeUtf8(document, "initdata"), { maxDepth: MAX_DEPTH }));
  const field = (name: string): unknown => (Object.hasOwn(table, name) ? table[name] : undefined);
  const [version, algorithm, data] = [field("version"), field("algorithm"), field("data")];
  if (version !== VERSION) throw refused(`has version ${shown(version)}, expected "${VERSION}"`);
  if (typeof algorithm !== "string" || !ALGORITHMS.includes(algorithm)) {
    throw refused(`has algorithm ${shown(algorithm)}, expected one of ${ALGORITHMS.join(", ")}`);
  }
  const entries = typeof data === "object" && data !== null ? new Map<string, unknown>(Object.entries(data)) : undefined;
  if (entries === undefined) throw refused("has no table [data]");
  const policy = entries.get("policy.rego");
  const hostData = new Uint8Array(HOST_DATA_SIZE);
  hostData.set(createHash(algorithm).update(document).digest().subarray(0, HOST_DATA_SIZE));
  return { packed, hostData, policy: typeof policy === "string" ? policy : undefined };
}

/** The disk that brings it to the guest. */
export function encodeInitdataImage(packed: Uint8Array): Uint8Array {
  const header = new Uint8Array(HEADER_SIZE);
  header.set(MAGIC);
  new DataView(header.buffer).setBigUint64(MAGIC.length, BigInt(packed.length), true);
  const used = HEADER_SIZE + packed.length;
  return concatBytes(header, packed, new Uint8Array(Math.ceil(used / SECTOR) * SECTOR - used));
}

/** Writes the disk to a file that must not be there. */
export async function writeInitdataImage(path: string, { packed }: PodInitdata): Promise<void> {
  await writeFile(path, encodeInitdataImage(packed), { mode: 0o600, flag: "wx" });
}

function attempt<T>(problem: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    throw refused(`${problem}: ${messageOf(cause).split("\n")[0] ?? ""}`, cause);
  }
}

function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : value === undefined ? "nothing" : `a ${typeof value}`;
}

function refused(problem: string, cause?: unknown): ShimError {
  return new ShimError("ERR_SHIM_POD", `annotation ${INITDATA_ANNOTATION} ${problem}`, { ...(cause === undefined ? {} : { cause }), hint: HINT });
}
