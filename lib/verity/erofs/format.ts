import { VERITY_BLOCK } from "../hash-tree.ts";
import { crc32c } from "./crc32c.ts";
import type { DirectoryInode, Inode } from "./inode.ts";
import { encodeXattrs, xattrCount } from "./xattrs.ts";

// The on-disk structures, field by field: FORMAT.md. All numbers are little-endian.

/** Block size, and its binary logarithm (`blkszbits`). It is the one size that every kernel with EROFS takes. */
export const BLOCK: number = VERITY_BLOCK;
export const BLOCK_BITS = 12;

/** Unit of node ids, and size of an extended inode. */
export const SLOT = 32;
export const INODE_SIZE = 64;

/** The first node id: 0 would be the inode number 0, which readdir(3) takes for a deleted file. */
export const FIRST_NID: number = INODE_SIZE / SLOT;

/** Where the superblock stands in block 0. */
export const SUPERBLOCK_OFFSET = 1024;
export const SUPERBLOCK_MAGIC = 0xe0f5_e1e2;

/** `feature_compat`: the superblock has a checksum (bit 0), times are those of modification (bit 1). `feature_incompat` is 0: nothing to be understood. */
export const FEATURE_COMPAT = 0b11;

/** `i_format`: extended inode (bit 0), data layout in bits 1 to 3. */
export const FORMAT_PLAIN = 0b0001;
export const FORMAT_INLINE = 0b0101;

/** Bytes of a directory entry. */
export const DIRENT_SIZE = 12;

/** By kind: type bits of a mode (inode(7)), and `EROFS_FT_*` of directory entries. A whiteout is a character device 0:0. */
export const TYPES: Readonly<Record<Inode["kind"], { readonly mode: number; readonly entry: number }>> = {
  file: { mode: 0o100000, entry: 1 },
  directory: { mode: 0o040000, entry: 2 },
  character: { mode: 0o020000, entry: 3 },
  whiteout: { mode: 0o020000, entry: 3 },
  block: { mode: 0o060000, entry: 4 },
  fifo: { mode: 0o010000, entry: 5 },
  symlink: { mode: 0o120000, entry: 7 },
};

/** What the superblock says of one image. */
export interface Superblock {
  readonly inodes: number;
  readonly rootNid: number;
  /** Blocks of the image. */
  readonly blocks: number;
  /** First block of the metadata. */
  readonly metaBlock: number;
  /** 16 bytes. */
  readonly uuid: Uint8Array;
}

/** Block 0. */
export function encodeSuperblock({ inodes, rootNid, blocks, metaBlock, uuid }: Superblock): Uint8Array {
  const bytes = new Uint8Array(BLOCK);
  const view = new DataView(bytes.buffer, SUPERBLOCK_OFFSET);
  view.setUint32(0, SUPERBLOCK_MAGIC, true);
  view.setUint32(8, FEATURE_COMPAT, true);
  view.setUint8(12, BLOCK_BITS);
  view.setUint16(14, rootNid, true);
  setU64(view, 16, inodes);
  view.setUint32(36, blocks, true);
  view.setUint32(40, metaBlock, true);
  bytes.set(uuid, SUPERBLOCK_OFFSET + 48);
  // Over the rest of the block, its own field zero.
  view.setUint32(4, crc32c(0xffff_ffff, bytes.subarray(SUPERBLOCK_OFFSET)), true);
  return bytes;
}

/**
 * An inode with its extended attributes.
 * @param number `i_ino`: the place in the order of inodes, from 1
 * @param body size of a directory or target, and its first block; no block if it stands behind the inode
 */
export function encodeInode(inode: Inode, number: number, body: { readonly size: number; readonly block: number | undefined }): Uint8Array {
  const area = encodeXattrs(inode);
  const bytes = new Uint8Array(INODE_SIZE + area.length);
  const view = new DataView(bytes.buffer);
  const { mode, uid, gid, mtime, nanoseconds } = inode.attributes;
  const isInline = (inode.kind === "directory" || inode.kind === "symlink") && body.block === undefined;
  view.setUint16(0, isInline ? FORMAT_INLINE : FORMAT_PLAIN, true);
  view.setUint16(2, xattrCount(area.length), true);
  view.setUint16(4, TYPES[inode.kind].mode | mode, true);
  setU64(view, 8, body.size);
  view.setUint32(16, inode.kind === "character" || inode.kind === "block" ? encodeDevice(inode.major, inode.minor) : (body.block ?? 0), true);
  view.setUint32(20, number, true);
  view.setUint32(24, uid, true);
  view.setUint32(28, gid, true);
  view.setBigInt64(32, BigInt(mtime), true);
  view.setUint32(40, nanoseconds, true);
  view.setUint32(44, inode.links, true);
  bytes.set(area, INODE_SIZE);
  return bytes;
}

/** Linux's new_encode_dev(): the low byte of the minor number, the major number, the rest of the minor number. */
function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

/** Names of a directory in the order of their bytes, `.` and `..` among them. */
export function listing(directory: DirectoryInode): readonly string[] {
  return [...directory.children.keys(), ".", ".."].sort();
}

/** Size of a directory: whole blocks, and what is used of the last. */
export function directorySize(names: readonly string[]): number {
  let size = 0;
  for (const { used, last } of directoryBlocks(names)) size += last ? used : BLOCK;
  return size;
}

/** The blocks of a directory. The last one has no more bytes than are used. */
export function* encodeDirectory(directory: DirectoryInode): Generator<Uint8Array, void, undefined> {
  const names = listing(directory);
  for (const { from, to, used, last } of directoryBlocks(names)) {
    const bytes = Buffer.alloc(last ? used : BLOCK);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let nameAt = (to - from) * DIRENT_SIZE;
    for (let index = from; index < to; index++) {
      const name = names[index] ?? "";
      const target = name === "." ? directory : name === ".." ? (directory.parent ?? directory) : (directory.children.get(name) ?? directory);
      const at = (index - from) * DIRENT_SIZE;
      setU64(view, at, target.nid);
      view.setUint16(at + 8, nameAt, true);
      view.setUint8(at + 10, TYPES[target.kind].entry);
      nameAt += bytes.write(name, nameAt, "latin1");
    }
    yield bytes;
  }
}

/** Which names stand in which block: as many as fit, for each its entry and its bytes. */
function* directoryBlocks(
  names: readonly string[],
): Generator<{ readonly from: number; readonly to: number; readonly used: number; readonly last: boolean }, void, undefined> {
  let from = 0;
  let used = 0;
  for (const [index, name] of names.entries()) {
    const size = DIRENT_SIZE + name.length;
    if (used + size > BLOCK) {
      yield { from, to: index, used, last: false };
      from = index;
      used = 0;
    }
    used += size;
  }
  yield { from, to: names.length, used, last: true };
}

/** A number below 2^53 as u64. */
function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}
