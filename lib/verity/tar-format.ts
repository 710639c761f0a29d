import { VerityError } from "./errors.ts";

/** Size of a header and unit of a member's data (POSIX.1-2017 pax, "ustar Interchange Format"). */
export const TAR_BLOCK = 512;

/** A field of the 512-byte header: offset and length. */
interface Field {
  readonly at: number;
  readonly length: number;
  readonly name: string;
}

/** Names of the header's fields. */
type FieldName =
  | "name"
  | "mode"
  | "uid"
  | "gid"
  | "size"
  | "mtime"
  | "checksum"
  | "typeflag"
  | "linkName"
  | "magic"
  | "userName"
  | "groupName"
  | "major"
  | "minor"
  | "prefix";

/** Fields of the header; `prefix` exists in the ustar format only, the GNU format keeps other things there. */
export const FIELD: Readonly<Record<FieldName, Field>> = {
  name: { at: 0, length: 100, name: "name" },
  mode: { at: 100, length: 8, name: "mode" },
  uid: { at: 108, length: 8, name: "uid" },
  gid: { at: 116, length: 8, name: "gid" },
  size: { at: 124, length: 12, name: "size" },
  mtime: { at: 136, length: 12, name: "mtime" },
  checksum: { at: 148, length: 8, name: "checksum" },
  typeflag: { at: 156, length: 1, name: "typeflag" },
  linkName: { at: 157, length: 100, name: "linkname" },
  magic: { at: 257, length: 8, name: "magic" },
  userName: { at: 265, length: 32, name: "uname" },
  groupName: { at: 297, length: 32, name: "gname" },
  major: { at: 329, length: 8, name: "devmajor" },
  minor: { at: 337, length: 8, name: "devminor" },
  prefix: { at: 345, length: 155, name: "prefix" },
};

/** Format of one header, told by its magic and version. */
export type TarFormat = "v7" | "ustar" | "gnu";

/** The bytes of a field. */
export function fieldBytes(header: Uint8Array, field: Field): Uint8Array {
  return header.subarray(field.at, field.at + field.length);
}

/** The bytes of a text field up to its first NUL. */
export function fieldText(header: Uint8Array, field: Field): Uint8Array {
  const bytes = fieldBytes(header, field);
  const end = bytes.indexOf(0);
  return end === -1 ? bytes : bytes.subarray(0, end);
}

/** @throws {VerityError} ERR_VERITY_TAR if the magic is none of the three known ones */
export function headerFormat(header: Uint8Array, offset: number): TarFormat {
  const magic = toLatin1(fieldBytes(header, FIELD.magic));
  if (magic === "ustar\u000000") return "ustar";
  if (magic === "ustar  \0") return "gnu";
  if (/^\0+$/.test(magic)) return "v7";
  throw new VerityError("ERR_VERITY_TAR", `tar header at offset ${offset}: magic is ${JSON.stringify(magic)}, expected ustar, GNU or none`, {
    details: { offset },
  });
}

/** Sum of the header's bytes, its checksum field taken as spaces. */
export function headerChecksum(header: Uint8Array): number {
  // Without a test in the loop: this is done for every file of every layer.
  let sum = 8 * 0x20;
  for (let i = 0; i < TAR_BLOCK; i++) sum += header[i] ?? 0;
  for (let i = FIELD.checksum.at; i < FIELD.checksum.at + FIELD.checksum.length; i++) sum -= header[i] ?? 0;
  return sum;
}

/**
 * A numeric field: octal digits, or GNU base-256 when the first byte has its high bit set.
 * An empty field is 0 only where `emptyIsZero`: readers agree on that for the owner, the time and device numbers alone.
 * @throws {VerityError} ERR_VERITY_TAR
 */
export function fieldNumber(
  header: Uint8Array,
  field: Field,
  offset: number,
  options: { readonly emptyIsZero?: boolean; readonly signed?: boolean } = {},
): number {
  const bytes = fieldBytes(header, field);
  const value = ((bytes[0] ?? 0) & 0x80) === 0 ? octal(bytes, options.emptyIsZero ?? false) : base256(bytes);
  if (value === undefined || !Number.isSafeInteger(value) || (value < 0 && options.signed !== true)) {
    throw new VerityError("ERR_VERITY_TAR", `tar header at offset ${offset}: field ${field.name} is not a number in range`, {
      details: { offset, field: field.name, found: toLatin1(bytes) },
    });
  }
  return value;
}

/** Leading spaces, octal digits, then only spaces and NULs. By hand, not by a pattern: there are six in every header. */
function octal(bytes: Uint8Array, emptyIsZero: boolean): number | undefined {
  let at = 0;
  while (bytes[at] === 0x20) at++;
  const start = at;
  let value = 0;
  for (let byte = bytes[at]; byte !== undefined && byte >= 0x30 && byte <= 0x37; byte = bytes[++at]) value = value * 8 + (byte - 0x30);
  if (at === start && !emptyIsZero) return undefined;
  for (; at < bytes.length; at++) if (bytes[at] !== 0x20 && bytes[at] !== 0) return undefined;
  return value;
}

/** GNU base-256: big-endian two's complement whose highest bit is the marker, so the sign is the second bit. */
function base256(bytes: Uint8Array): number {
  let value = BigInt((bytes[0] ?? 0) & 0x7f);
  for (const byte of bytes.subarray(1)) value = (value << 8n) | BigInt(byte);
  return Number(BigInt.asIntN(bytes.length * 8 - 1, value));
}

/** Text with one character per byte: compares and joins as the bytes do. */
export function toLatin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}

/** A copy of a name that was cut from a path: a slice would keep the whole path in memory, 4 KiB for each name. */
export function owned(name: string): string {
  return Buffer.from(name, "latin1").toString("latin1");
}

/** Bytes that follow `size` bytes of data up to the next block. */
export function paddingOf(size: number): number {
  return (TAR_BLOCK - (size % TAR_BLOCK)) % TAR_BLOCK;
}
