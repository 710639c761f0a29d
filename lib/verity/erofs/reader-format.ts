import { isZero } from "@sealpod/core";
import { VerityError } from "../errors.ts";
import { crc32c } from "./crc32c.ts";
import { BLOCK, BLOCK_BITS, FEATURE_COMPAT, FIRST_NID, FORMAT_INLINE, FORMAT_PLAIN, INODE_SIZE, SUPERBLOCK_MAGIC, SUPERBLOCK_OFFSET, TYPES } from "./format.ts";
import { NAMESPACES, TRUSTED, XATTR_HEADER } from "./xattrs.ts";

// The inverse of format.ts and xattrs.ts: FORMAT.md. Everything that has one value only must have it.

/** Kind of an inode that was read: a whiteout is a character device like others. */
export type ReadKind = "file" | "directory" | "symlink" | "character" | "block" | "fifo";

/** What the reader needs of the superblock. */
export interface ReadSuperblock {
  readonly rootNid: number;
  readonly inodes: number;
  /** First block of the metadata. */
  readonly metaBlock: number;
}

/** An inode. */
export interface ReadInode {
  readonly nid: number;
  /** Byte of the image where it stands. */
  readonly at: number;
  readonly kind: ReadKind;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: number;
  readonly links: number;
  /** `i_ino`. */
  readonly number: number;
  /** Bytes of attributes behind it. */
  readonly xattrArea: number;
  /** Bytes of a file, a directory or a target. */
  readonly size: number;
  /** Byte of the image where they begin; 0 if there are none. */
  readonly body: number;
  readonly isInline: boolean;
  /** Numbers of a device; zeros for others. */
  readonly device: { readonly major: number; readonly minor: number };
}

const KINDS: ReadonlyMap<number, ReadKind> = new Map(
  (["file", "directory", "symlink", "character", "block", "fifo"] as const).map((kind) => [TYPES[kind].mode, kind]),
);

const TYPE_BITS = 0o170000;
const NANOSECONDS = 1_000_000_000;

/** @throws {VerityError} ERR_VERITY_LAYOUT */
export function decodeSuperblock(block: Uint8Array, imageBlocks: number): ReadSuperblock {
  const bytes = Buffer.from(block.subarray(SUPERBLOCK_OFFSET));
  const checksum = bytes.readUInt32LE(4);
  bytes.writeUInt32LE(0, 4);
  const constant =
    bytes.readUInt32LE(0) === SUPERBLOCK_MAGIC &&
    bytes.readUInt32LE(8) === FEATURE_COMPAT &&
    bytes.readUInt8(12) === BLOCK_BITS &&
    bytes.readUInt8(13) === 0 &&
    isZero(block.subarray(0, SUPERBLOCK_OFFSET)) &&
    isZero(bytes.subarray(24, 36)) &&
    isZero(bytes.subarray(44, 48)) &&
    isZero(bytes.subarray(64));
  if (!constant || crc32c(0xffff_ffff, bytes) !== checksum) throw malformed("the superblock is none of ours");
  const [inodes, blocks, metaBlock] = [bytes.readBigUInt64LE(16), bytes.readUInt32LE(36), bytes.readUInt32LE(40)];
  // Each inode has its place behind the data.
  if (blocks !== imageBlocks || metaBlock < 1 || metaBlock >= blocks || inodes < 1n || inodes > BigInt(blocks - metaBlock) * BigInt(BLOCK / INODE_SIZE)) {
    throw malformed(`the superblock states ${blocks} blocks, ${inodes} inodes and metadata from block ${metaBlock} on, in an image of ${imageBlocks} blocks`);
  }
  return { rootNid: bytes.readUInt16LE(14), inodes: Number(inodes), metaBlock };
}

/** @throws {VerityError} ERR_VERITY_LAYOUT */
export function decodeInode(raw: Uint8Array, nid: number, at: number, { metaBlock }: ReadSuperblock): ReadInode {
  const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.length);
  const format = bytes.readUInt16LE(0);
  const modeField = bytes.readUInt16LE(4);
  const kind = KINDS.get(modeField & TYPE_BITS);
  const isInline = format === FORMAT_INLINE;
  const [size, mtime] = [Number(bytes.readBigUInt64LE(8)), Number(bytes.readBigInt64LE(32))];
  if (nid < FIRST_NID || kind === undefined || !(isInline || format === FORMAT_PLAIN) || bytes.readUInt16LE(6) !== 0 || !isZero(bytes.subarray(48))) {
    throw malformed(`node ${nid} is no inode of ours`);
  }
  if (!Number.isSafeInteger(mtime) || bytes.readUInt32LE(40) >= NANOSECONDS) throw malformed(`node ${nid} has a time that is none`);
  const count = bytes.readUInt16LE(2);
  const xattrArea = count === 0 ? 0 : XATTR_HEADER + (count - 1) * 4;
  const isDevice = kind === "character" || kind === "block";
  const block = bytes.readUInt32LE(16);
  const behind = at + INODE_SIZE + xattrArea;
  let body = 0;
  if (isInline) {
    body = behind;
    const fits = kind !== "file" && size > 0 && block === 0 && behind % BLOCK !== 0 && (behind % BLOCK) + size <= BLOCK;
    if (!fits || (kind !== "directory" && kind !== "symlink")) throw malformed(`node ${nid} has a body behind it that cannot stand there`);
  } else if (kind === "file") {
    body = block * BLOCK;
    if (size === 0 ? block !== 0 : block < 1 || body + size > metaBlock * BLOCK)
      throw malformed(`node ${nid} is a file of ${size} bytes from block ${block} on`);
  } else if (kind === "directory" || kind === "symlink") {
    body = block * BLOCK;
    if (size === 0 || block <= metaBlock) throw malformed(`node ${nid} has a body of ${size} bytes from block ${block} on`);
  } else if (size !== 0 || (!isDevice && block !== 0)) {
    throw malformed(`node ${nid} is a ${kind} with a body`);
  }
  const links = bytes.readUInt32LE(44);
  if (links === 0) throw malformed(`node ${nid} has no links`);
  return {
    nid,
    at,
    kind,
    mode: modeField & 0o7777,
    uid: bytes.readUInt32LE(24),
    gid: bytes.readUInt32LE(28),
    mtime,
    links,
    number: bytes.readUInt32LE(20),
    xattrArea,
    size,
    body,
    isInline,
    // Linux's new_decode_dev().
    device: isDevice ? { major: (block >>> 8) & 0xfff, minor: (block & 0xff) | ((block >>> 12) & 0xfff00) } : { major: 0, minor: 0 },
  };
}

/**
 * The attributes behind an inode, by their full names: bytes, one per character.
 * @throws {VerityError} ERR_VERITY_LAYOUT
 */
export function decodeXattrs(raw: Uint8Array): ReadonlyMap<string, Uint8Array> {
  const area = Buffer.from(raw.buffer, raw.byteOffset, raw.length);
  const found = new Map<string, Uint8Array>();
  if (area.length <= XATTR_HEADER || !isZero(area.subarray(0, XATTR_HEADER))) throw malformed("an area of attributes has no attribute, or another header");
  for (let at = XATTR_HEADER; at < area.length;) {
    const [nameLength, namespace, valueLength] = [area.readUInt8(at), area.readUInt8(at + 1), area.readUInt16LE(at + 2)];
    const [nameAt, valueAt, end] = [at + 4, at + 4 + nameLength, at + 4 + nameLength + valueLength];
    const known = namespace === TRUSTED ? { prefix: "trusted.", whole: false } : NAMESPACES.find((row) => row.namespace === namespace);
    const next = Math.ceil(end / 4) * 4;
    if (known === undefined || known.whole !== (nameLength === 0) || next > area.length || !isZero(area.subarray(end, next)))
      throw malformed("an attribute is malformed");
    const name = known.prefix + area.toString("latin1", nameAt, valueAt);
    if (found.has(name)) throw malformed(`attribute ${JSON.stringify(name)} stands there twice`);
    // A copy, for the block it stands in is kept and used again.
    found.set(name, new Uint8Array(area.subarray(valueAt, end)));
    at = next;
  }
  return found;
}

function malformed(problem: string): VerityError {
  return new VerityError("ERR_VERITY_LAYOUT", `EROFS image: ${problem}`, { hint: "Images are read only as `buildErofsLayer` writes them." });
}
