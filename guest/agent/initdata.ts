import { createHash } from "node:crypto";
import { gunzipSync } from "node:zlib";
import { decodeUtf8, encodeUtf8, equalBytes, messageOf } from "@sealpod/core";
import type { Initdata } from "./apply-initdata.ts";
import type { BlockDevices, Disk } from "./block-devices.ts";
import { shown } from "./confined-directory.ts";
import { openDisk } from "./disk-source.ts";
import { AgentError } from "./errors.ts";
import { parseInitdataToml } from "./initdata-toml.ts";

/** First bytes of the disk; then come u64 length, little-endian, and so many bytes of gzip (specs/runtime.md 3.6). */
const MAGIC: Uint8Array = encodeUtf8("initdata");
const HEADER_SIZE = 16;

/** An annotation has at most 256 KiB (Kubernetes), and these bytes are in one, in base64; ten times that for hosts that get them another way. */
const MAX_PACKED = 2 * 1024 * 1024;
/** Policies of the largest pods have some 2 MiB. */
const MAX_TOML = 16 * 1024 * 1024;

const VERSION = "0.1.0";
const ALGORITHMS: ReadonlySet<string> = new Set(["sha256", "sha384", "sha512"]);

/**
 * Finds the pod's initdata among the disks and reads it. Nothing vouches for it here: its digest does, once it was compared with HOST_DATA.
 * @returns undefined if no disk has any
 * @throws {AgentError} ERR_AGENT_INITDATA if it is malformed or too large, or if two disks have some: the host must not choose
 */
export async function readInitdata(devices: BlockDevices): Promise<Initdata | undefined> {
  let found: Initdata | undefined;
  for (const disk of devices.list()) {
    const packed = await readPacked(disk);
    if (packed === undefined) continue;
    if (found !== undefined) throw bad("two disks have initdata");
    found = openInitdata(unpack(packed));
  }
  return found;
}

/**
 * The meaning of the document.
 * @throws {AgentError} ERR_AGENT_INITDATA
 */
export function openInitdata(toml: Uint8Array): Initdata {
  const { fields, entries } = parseInitdataToml(text(toml));
  const unknown = [...fields.keys()].find((name) => name !== "version" && name !== "algorithm");
  if (unknown !== undefined) throw bad(`unknown field ${shown(unknown)}`);
  if (fields.get("version") !== VERSION) throw bad(`version is ${shown(fields.get("version") ?? "")}, expected ${VERSION}`);
  const algorithm = fields.get("algorithm") ?? "";
  if (!ALGORITHMS.has(algorithm)) throw bad(`algorithm is ${shown(algorithm)}, expected one of ${[...ALGORITHMS].join(", ")}`);
  if (entries === undefined) throw bad("it has no table [data]");
  return { toml, digest: new Uint8Array(createHash(algorithm).update(toml).digest()), algorithm, entries };
}

/** The packed document, if the disk has one. */
async function readPacked(disk: Disk): Promise<Uint8Array | undefined> {
  if (disk.size < HEADER_SIZE) return undefined;
  using source = openDisk(disk);
  const header = await source.read(0, HEADER_SIZE);
  if (!equalBytes(header.subarray(0, MAGIC.length), MAGIC)) return undefined;
  const length = new DataView(header.buffer, header.byteOffset, header.length).getBigUint64(MAGIC.length, true);
  if (length > BigInt(MAX_PACKED)) throw bad(`it has ${length} bytes packed, more than the limit of ${MAX_PACKED}`);
  if (length > BigInt(disk.size - HEADER_SIZE)) throw bad(`it has ${length} bytes packed on a disk of ${disk.size}`);
  return await source.read(HEADER_SIZE, Number(length));
}

function unpack(packed: Uint8Array): Uint8Array {
  try {
    const toml = gunzipSync(packed, { maxOutputLength: MAX_TOML });
    return new Uint8Array(toml.buffer, toml.byteOffset, toml.length);
  } catch (cause) {
    throw bad(`its gzip does not unpack to ${MAX_TOML} bytes or less: ${messageOf(cause)}`, cause);
  }
}

function text(toml: Uint8Array): string {
  try {
    return decodeUtf8(toml, "initdata");
  } catch (cause) {
    throw bad("it is not UTF-8", cause);
  }
}

function bad(problem: string, cause?: unknown): AgentError {
  return new AgentError("ERR_AGENT_INITDATA", `initdata: ${problem}`, cause === undefined ? {} : { cause });
}
