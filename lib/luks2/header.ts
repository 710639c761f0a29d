import {
  asArray,
  asObject,
  decodeUtf8,
  encodeUtf8,
  equalBytes,
  fromBase64,
  messageOf,
  parseJson,
  sha256,
  type JsonObject,
  type JsonValue,
} from "@sealpod/core";
import { Luks2Error } from "./errors.ts";

/** Bytes of the binary part of a header; JSON fills the rest of the header's size. */
const BINARY_LENGTH = 4096;
/** "LUKS" and "SKUL", each with 0xba 0xbe: the first copy and the second. */
const MAGIC = Uint8Array.of(0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe);
const SECOND_MAGIC = Uint8Array.of(0x53, 0x4b, 0x55, 0x4c, 0xba, 0xbe);
/** Sizes that a header may have (LUKS2 on-disk format, section 2.1); larger ones than these are allowed there and made by nobody. */
const HEADER_SIZES: readonly number[] = [16_384, 32_768, 65_536, 131_072, 262_144];
/** Offsets in the binary part. */
const AT = { version: 6, size: 8, sequence: 16, label: 24, checksumName: 72, salt: 104, uuid: 168, subsystem: 208, offset: 256, checksum: 448 } as const;
const CHECKSUM_LENGTH = 64;
/** LUKS2 has 32 keyslots at most. */
const MAX_KEYSLOTS = 32;

/** SHA-256. */
const DIGEST_LENGTH = 32;

/** Bytes at the start of a volume that hold both copies of any header, for {@link parseHeader}. */
export const MAX_HEADERS_LENGTH: number = 2 * 262_144;

/** How a keyslot keeps the volume key. */
export interface Keyslot {
  readonly id: number;
  readonly kdf: { readonly type: "pbkdf2"; readonly hash: "sha256"; readonly iterations: number; readonly salt: Uint8Array };
  /** Bytes from the start of the volume. */
  readonly offset: number;
  readonly length: number;
}

/** A keyslot that is not read here, and why. */
export interface ForeignKeyslot {
  readonly id: number;
  readonly problem: string;
}

/** A LUKS2 header that was read. */
export interface Luks2Header {
  readonly size: number;
  readonly sequence: number;
  readonly label: string;
  readonly uuid: string;
  readonly keyslots: readonly Keyslot[];
  readonly foreign: readonly ForeignKeyslot[];
  /** The one encrypted segment. */
  readonly segment: { readonly offset: number; readonly sectorSize: number; readonly encryption: string };
  /** What the volume key is recognised by: PBKDF2 with SHA-256 of it. */
  readonly digest: { readonly keyslots: readonly number[]; readonly iterations: number; readonly salt: Uint8Array; readonly value: Uint8Array };
  /** Which copies are whole. */
  readonly copies: "both" | "first" | "second";
}

/**
 * Reads a LUKS2 header; of two whole copies the one with the higher sequence number counts.
 * @param bytes the start of the volume; as much of {@link MAX_HEADERS_LENGTH} as there is
 * @throws {Luks2Error} ERR_LUKS2_HEADER, ERR_LUKS2_UNSUPPORTED for what is LUKS1, has several segments or another cipher
 */
export function parseHeader(bytes: Uint8Array): Luks2Header {
  if (bytes.length >= 8 && equalBytes(bytes.subarray(0, 6), MAGIC) && viewOf(bytes).getUint16(AT.version) === 1) {
    throw new Luks2Error("ERR_LUKS2_UNSUPPORTED", "the volume is LUKS version 1, expected 2", { hint: "Convert it with: cryptsetup convert --type luks2" });
  }
  const first = readCopy(bytes, 0, MAGIC);
  const places = "problem" in first ? HEADER_SIZES : [first.size];
  const seconds = places.map((size) => readCopy(bytes, size, SECOND_MAGIC)).filter((copy) => !("problem" in copy) && copy.size === copy.offset);
  const second = seconds[0];
  if ("problem" in first) {
    if (second === undefined || "problem" in second)
      throw new Luks2Error("ERR_LUKS2_HEADER", `no LUKS2 header: ${first.problem}; there is no whole second copy either`);
    return { ...readMetadata(second), copies: "second" };
  }
  if (second === undefined || "problem" in second) return { ...readMetadata(first), copies: "first" };
  return { ...readMetadata(second.sequence > first.sequence ? second : first), copies: "both" };
}

interface Copy {
  readonly size: number;
  readonly offset: number;
  readonly sequence: number;
  readonly label: string;
  readonly uuid: string;
  readonly json: string;
}

function readCopy(bytes: Uint8Array, offset: number, magic: Uint8Array): Copy | { readonly problem: string } {
  try {
    return readWholeCopy(bytes, offset, magic);
  } catch (cause) {
    // Text that is none: of one copy, the other may be whole.
    return { problem: messageOf(cause) };
  }
}

function readWholeCopy(bytes: Uint8Array, offset: number, magic: Uint8Array): Copy | { readonly problem: string } {
  const binary = bytes.subarray(offset, offset + BINARY_LENGTH);
  if (binary.length < BINARY_LENGTH) return { problem: `${bytes.length} bytes, expected at least ${offset + BINARY_LENGTH}` };
  if (!equalBytes(binary.subarray(0, 6), magic)) return { problem: `no magic number at ${offset}` };
  const view = viewOf(binary);
  const version = view.getUint16(AT.version);
  if (version !== 2) return { problem: `version ${version}, expected 2` };
  const size = Number(view.getBigUint64(AT.size));
  if (!HEADER_SIZES.includes(size)) return { problem: `a size of ${size} bytes, expected one of ${HEADER_SIZES.join(", ")}` };
  if (Number(view.getBigUint64(AT.offset)) !== offset) return { problem: `an offset of ${view.getBigUint64(AT.offset)}, expected ${offset}` };
  const sequence = view.getBigUint64(AT.sequence);
  if (sequence > BigInt(Number.MAX_SAFE_INTEGER)) return { problem: `a sequence number of ${sequence}` };
  // A copy also of a Buffer, whose own slice() is none.
  const whole = Uint8Array.from(bytes.subarray(offset, offset + size));
  if (whole.length < size) return { problem: `${whole.length} bytes, expected ${size}` };
  const name = text(binary, AT.checksumName, 32);
  if (name !== "sha256") return { problem: `a checksum of kind ${JSON.stringify(name)}, expected "sha256"` };
  const expected = Uint8Array.from(binary.subarray(AT.checksum, AT.checksum + 32));
  whole.fill(0, AT.checksum, AT.checksum + CHECKSUM_LENGTH);
  if (!equalBytes(sha256(whole), expected)) return { problem: "its checksum does not fit" };
  const area = whole.subarray(BINARY_LENGTH);
  const end = area.indexOf(0);
  const json = decodeUtf8(area.subarray(0, end === -1 ? area.length : end), "the metadata");
  return { size, offset, sequence: Number(sequence), label: text(binary, AT.label, 48), uuid: text(binary, AT.uuid, 40), json };
}

function readMetadata(copy: Copy): Omit<Luks2Header, "copies"> {
  const metadata = asObject(readJson(copy.json));
  const segments = Object.values(objectOf(metadata, "segments", "metadata"));
  const segment = asObject(segments[0]);
  if (segments.length !== 1 || segment === undefined) throw unsupported(`${segments.length} segments, expected 1`);
  const encryption = textOf(segment, "encryption", "segment");
  if (
    textOf(segment, "type", "segment") !== "crypt" ||
    encryption !== "aes-xts-plain64" ||
    segment["integrity"] !== undefined ||
    textOf(segment, "iv_tweak", "segment") !== "0"
  ) {
    throw unsupported(
      `a segment of type ${textOf(segment, "type", "segment")} with ${encryption}${segment["integrity"] === undefined ? "" : " and integrity"}, expected crypt with aes-xts-plain64`,
    );
  }
  const sectorSize = integerOf(segment, "sector_size", "segment");
  if (![512, 1024, 2048, 4096].includes(sectorSize)) throw malformed(`sector_size is ${sectorSize}`);
  const offset = decimalOf(segment, "offset", "segment");
  // dm-crypt maps from a sector of the device.
  if (offset % 512 !== 0 || offset < 2 * copy.size) throw malformed(`the segment starts at ${offset}`);

  const digests = Object.values(objectOf(metadata, "digests", "metadata"));
  const digest = asObject(digests[0]);
  if (digests.length !== 1 || digest === undefined) throw unsupported(`${digests.length} digests, expected 1`);
  if (textOf(digest, "type", "digest") !== "pbkdf2" || textOf(digest, "hash", "digest") !== "sha256")
    throw unsupported("a digest that is not pbkdf2 with sha256");

  const keyslots: Keyslot[] = [];
  const foreign: ForeignKeyslot[] = [];
  const entries = Object.entries(objectOf(metadata, "keyslots", "metadata"));
  if (entries.length > MAX_KEYSLOTS) throw malformed(`${entries.length} keyslots, more than ${MAX_KEYSLOTS}`);
  for (const [name, value] of entries) {
    const id = Number(name);
    const slot = asObject(value);
    if (!Number.isInteger(id) || id < 0 || id >= MAX_KEYSLOTS || slot === undefined) throw malformed(`a keyslot ${JSON.stringify(name.slice(0, 20))}`);
    const read = readKeyslot(id, slot, copy, offset);
    if ("problem" in read) foreign.push(read);
    else keyslots.push(read);
  }
  const digestValue = bytesOf(digest, "digest", "digest");
  // PBKDF2 works for each block of its output: a long one would be work without a bound, an empty one equals everything.
  if (digestValue.length !== DIGEST_LENGTH) throw malformed(`the digest has ${digestValue.length} bytes, expected ${DIGEST_LENGTH}`);
  return {
    size: copy.size,
    sequence: copy.sequence,
    label: copy.label,
    uuid: copy.uuid,
    keyslots,
    foreign,
    segment: { offset, sectorSize, encryption },
    digest: {
      keyslots: (asArray(digest["keyslots"]) ?? []).map(Number),
      iterations: integerOf(digest, "iterations", "digest"),
      salt: bytesOf(digest, "salt", "digest"),
      value: digestValue,
    },
  };
}

function readKeyslot(id: number, slot: JsonObject, copy: Copy, dataOffset: number): Keyslot | ForeignKeyslot {
  const what = `keyslot ${id}`;
  const kdf = objectOf(slot, "kdf", what);
  const area = objectOf(slot, "area", what);
  const kind = `${textOf(slot, "type", what)}, ${textOf(kdf, "type", what)}, ${textOf(area, "type", what)}`;
  if (kind !== "luks2, pbkdf2, raw") return { id, problem: `it is ${kind}, expected luks2, pbkdf2, raw` };
  if (textOf(kdf, "hash", what) !== "sha256") return { id, problem: `its hash is ${textOf(kdf, "hash", what)}, expected sha256` };
  const af = objectOf(slot, "af", what);
  if (textOf(af, "type", what) !== "luks1" || integerOf(af, "stripes", what) !== 4000 || textOf(af, "hash", what) !== "sha256") {
    return { id, problem: "its splitter is not luks1 with 4000 stripes and sha256" };
  }
  if (textOf(area, "encryption", what) !== "aes-xts-plain64" || integerOf(area, "key_size", what) !== 64 || integerOf(slot, "key_size", what) !== 64) {
    return { id, problem: "its cipher is not aes-xts-plain64 with keys of 512 bits" };
  }
  const offset = decimalOf(area, "offset", what);
  const length = decimalOf(area, "size", what);
  if (offset < 2 * copy.size || length < 256_000 || offset + length > dataOffset) throw malformed(`${what} lies from ${offset} to ${offset + length}`);
  return { id, kdf: { type: "pbkdf2", hash: "sha256", iterations: integerOf(kdf, "iterations", what), salt: bytesOf(kdf, "salt", what) }, offset, length };
}

/** What {@link encodeHeader} writes. */
export interface HeaderFields {
  readonly label: string;
  readonly uuid: string;
  /** 64 bytes each, which make the two copies differ. */
  readonly salts: readonly [Uint8Array, Uint8Array];
  readonly metadata: JsonObject;
  readonly size: number;
}

/** Both copies of a header, one behind the other. @throws {Luks2Error} ERR_LUKS2_ARGUMENT */
export function encodeHeader({ label, uuid, salts, metadata, size }: HeaderFields): Uint8Array {
  const json = encodeUtf8(JSON.stringify(metadata));
  const [labelBytes, uuidBytes] = [encodeUtf8(label), encodeUtf8(uuid)];
  if (labelBytes.length > 47 || label.includes("\0"))
    throw new Luks2Error("ERR_LUKS2_ARGUMENT", `the label has ${labelBytes.length} bytes, expected at most 47`);
  if (json.length >= size - BINARY_LENGTH) throw new Luks2Error("ERR_LUKS2_ARGUMENT", `the metadata has ${json.length} bytes, more than fit`);
  const output = new Uint8Array(2 * size);
  for (const [index, salt] of salts.entries()) {
    const copy = output.subarray(index * size, (index + 1) * size);
    const view = viewOf(copy);
    copy.set(index === 0 ? MAGIC : SECOND_MAGIC);
    view.setUint16(AT.version, 2);
    view.setBigUint64(AT.size, BigInt(size));
    view.setBigUint64(AT.sequence, 1n);
    copy.set(labelBytes, AT.label);
    copy.set(encodeUtf8("sha256"), AT.checksumName);
    copy.set(salt, AT.salt);
    copy.set(uuidBytes, AT.uuid);
    view.setBigUint64(AT.offset, BigInt(index * size));
    copy.set(json, BINARY_LENGTH);
    copy.set(sha256(copy), AT.checksum);
  }
  return output;
}

function readJson(json: string): JsonValue {
  try {
    return parseJson(json, "the metadata", { maxLength: HEADER_SIZES.at(-1) ?? 0, maxDepth: 16 });
  } catch (cause) {
    throw malformed(messageOf(cause));
  }
}

function text(bytes: Uint8Array, offset: number, length: number): string {
  const field = bytes.subarray(offset, offset + length);
  const end = field.indexOf(0);
  return decodeUtf8(field.subarray(0, end === -1 ? length : end), "a field of the header");
}

function objectOf(object: JsonObject | undefined, name: string, what: string): JsonObject {
  const value = asObject(object?.[name]);
  if (value === undefined) throw malformed(`${name} of ${what} is missing or no object`);
  return value;
}

function textOf(object: JsonObject, name: string, what: string): string {
  const value = object[name];
  if (typeof value !== "string") throw malformed(`${name} of ${what} is missing or no text`);
  return value;
}

function integerOf(object: JsonObject, name: string, what: string): number {
  const value = object[name];
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw malformed(`${name} of ${what} is missing or no positive integer`);
  return value;
}

/** Offsets and sizes are decimal text: JSON's numbers end before 2^64. */
function decimalOf(object: JsonObject, name: string, what: string): number {
  const value = textOf(object, name, what);
  const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
  if (!Number.isSafeInteger(number)) throw malformed(`${name} of ${what} is ${JSON.stringify(value.slice(0, 40))}`);
  return number;
}

function bytesOf(object: JsonObject, name: string, what: string): Uint8Array {
  const value = textOf(object, name, what);
  try {
    return fromBase64(value.replace(/\s+$/, ""), name);
  } catch (cause) {
    throw malformed(`${name} of ${what}: ${messageOf(cause)}`);
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function malformed(problem: string): Luks2Error {
  return new Luks2Error("ERR_LUKS2_HEADER", `the LUKS2 metadata is not usable: ${problem}`);
}

function unsupported(problem: string): Luks2Error {
  return new Luks2Error("ERR_LUKS2_UNSUPPORTED", `the LUKS2 volume is not read here: ${problem}`);
}
