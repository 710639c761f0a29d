import { ByteWriter } from "@sealpod/core";
import { VerityError } from "./errors.ts";
import { VERITY_BLOCK } from "./hash-tree.ts";
import { MAX_INDEX_NODES, MAX_NAME_LENGTH } from "./limits.ts";
import { owned } from "./tar-format.ts";
import type { TarMember, TarMemberKind } from "./tar-scanner.ts";

/** File type bits of a mode (inode(7)). */
const S_IFMT = 0o170000;
const TYPE_BITS: Readonly<Record<TarMemberKind, number>> = {
  fifo: 0o010000,
  character: 0o020000,
  directory: 0o040000,
  block: 0o060000,
  file: 0o100000,
  hardlink: 0o100000,
  symlink: 0o120000,
};

const INODE_SIZE = 32;
const DIRENT_SIZE = 32;
const FLAG_OPAQUE = 1;
const OPAQUE_MARKER = ".wh..wh..opq";
const WHITEOUT_PREFIX = ".wh.";
/** Where the link name stands in a tar header. */
const LINK_NAME_OFFSET = 157;

/** The superblock is the last 512 bytes of the indexed file: u64 offset of the inode table, u64 number of inodes. */
export const SUPERBLOCK_SIZE = 512;

/** Largest chunk that {@link TarIndex.encode} yields. */
const CHUNK = 64 * 1024;

/** An inode of the index. Hard links share one. */
interface Node {
  mode: number;
  opaque: boolean;
  uid: number;
  gid: number;
  mtime: number;
  size: number;
  offset: bigint;
  /** Names are bytes, one per character, so that the order of strings is the order of bytes. */
  children: Map<string, Node> | undefined;
}

/**
 * The tarfs index that AKS puts behind a layer's tar (specs/genpolicy.md 5.7): it is hashed into the root, so every quirk of
 * the original is kept, also those that look like mistakes (parents that were never declared have mode 0; long symlinks are
 * left out; setuid is dropped).
 */
export class TarIndex {
  readonly #root: Node = { ...emptyNode(), mode: TYPE_BITS.directory | 0o555 };
  #nodes = 1;

  /**
   * Adds a member, in the order of the archive.
   * @throws {VerityError} ERR_VERITY_LIMIT
   */
  add(member: TarMember): void {
    const parts = resolve(member.path);
    if (parts === undefined) return;
    const name = parts.at(-1);
    if (name === OPAQUE_MARKER) {
      this.#walk(parts.slice(0, -1)).opaque = true;
    } else if (name?.startsWith(WHITEOUT_PREFIX) === true) {
      const node = this.#walk([...parts.slice(0, -1), name.slice(WHITEOUT_PREFIX.length)]);
      node.mode = (node.mode & ~S_IFMT) | TYPE_BITS.character;
      node.size = 0;
      node.offset = 0n;
      node.children = undefined;
    } else {
      const node = this.#nodeOf(member);
      if (node !== undefined) this.#put(parts, node);
    }
  }

  /** Number of nodes made so far: what the memory of the index is proportional to. */
  get nodes(): number {
    return this.#nodes;
  }

  /**
   * The bytes that follow the tar: inode table, directory entries, names, a gap of zeros, and the superblock.
   * @param tarSize bytes of the tar
   */
  *encode(tarSize: number): Generator<Uint8Array, void, undefined> {
    const inodes = numberNodes(this.#root);
    const direntsAt = tarSize + inodes.size * INODE_SIZE;
    let entries = 0;
    const directories: { readonly node: Node; readonly at: number; readonly names: readonly string[] }[] = [];
    for (const node of inodes.keys()) {
      if (!isDirectory(node)) continue;
      const names = sortedNames(node);
      directories.push({ node, at: direntsAt + entries * DIRENT_SIZE, names });
      entries += names.length;
    }
    const namesAt = direntsAt + entries * DIRENT_SIZE;
    const positions = new Map(directories.map((directory) => [directory.node, directory.at]));

    let end = namesAt;
    yield* inChunks(function* () {
      for (const node of inodes.keys()) yield encodeInode(node, positions.get(node));
      for (const { node, names } of directories) {
        for (const name of names) {
          const child = node.children?.get(name);
          if (child === undefined) continue;
          yield encodeDirent(inodes.get(child) ?? 0, end, name.length, child.mode);
          end += name.length;
        }
      }
      for (const { names } of directories) for (const name of names) yield Buffer.from(name, "latin1");
    });

    const total = Math.ceil(end / VERITY_BLOCK) * VERITY_BLOCK + VERITY_BLOCK;
    yield new ByteWriter()
      .zeros(total - end - SUPERBLOCK_SIZE)
      .u64le(BigInt(tarSize))
      .u64le(BigInt(inodes.size))
      .zeros(SUPERBLOCK_SIZE - 16)
      .toBytes();
  }

  /** The node of a member, or undefined if the original leaves it out. */
  #nodeOf(member: TarMember): Node | undefined {
    const node: Node = { ...emptyNode(), mode: (member.mode & 0o777) | TYPE_BITS[member.kind], uid: member.uid, gid: member.gid, mtime: member.mtime };
    switch (member.kind) {
      case "file":
        return { ...node, size: member.size, offset: BigInt(member.dataOffset) };
      case "directory":
      case "fifo":
        return node;
      case "character":
      case "block":
        return { ...node, offset: BigInt(member.minor) | (BigInt(member.major) << 32n) };
      case "symlink":
        // The target is read from the header itself at run time, so one that does not fit there cannot be indexed.
        return member.target === member.headerTarget
          ? { ...node, size: member.target.length, offset: BigInt(member.headerOffset + LINK_NAME_OFFSET) }
          : undefined;
      case "hardlink": {
        const parts = resolve(member.target);
        const target = parts === undefined ? undefined : this.#walk(parts);
        return target !== undefined && (target.mode & S_IFMT) === TYPE_BITS.file ? target : undefined;
      }
    }
  }

  #put(parts: readonly string[], node: Node): void {
    const name = parts.at(-1);
    if (name === undefined) {
      Object.assign(this.#root, node);
      return;
    }
    const parent = this.#walk(parts.slice(0, -1));
    parent.children ??= new Map();
    const isNew = !parent.children.has(name);
    if (isNew) this.#count();
    parent.children.set(isNew ? owned(name) : name, node);
  }

  /** The node at a path; nodes that are missing on the way are made, with mode 0. */
  #walk(parts: readonly string[]): Node {
    let node = this.#root;
    for (const part of parts) {
      let child = node.children?.get(part);
      if (child === undefined) {
        this.#count();
        child = emptyNode();
        node.children ??= new Map();
        node.children.set(owned(part), child);
      }
      node = child;
    }
    return node;
  }

  #count(): void {
    if (++this.#nodes > MAX_INDEX_NODES) {
      throw new VerityError("ERR_VERITY_LIMIT", `tar index has more than ${MAX_INDEX_NODES} nodes`, { details: { limit: MAX_INDEX_NODES } });
    }
  }
}

function emptyNode(): Node {
  return { mode: 0, opaque: false, uid: 0, gid: 0, mtime: 0, size: 0, offset: 0n, children: undefined };
}

function isDirectory(node: Node): boolean {
  return (node.mode & S_IFMT) === TYPE_BITS.directory;
}

/** Components of a path with `..` applied to the text, as the original does; undefined if it climbs out of the root. */
function resolve(path: string): readonly string[] | undefined {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") {
      if (parts.pop() === undefined) return undefined;
    } else {
      if (part.length > MAX_NAME_LENGTH) {
        throw new VerityError("ERR_VERITY_LIMIT", `tar index: a file name has ${part.length} bytes, Linux takes at most ${MAX_NAME_LENGTH}`);
      }
      parts.push(part);
    }
  }
  return parts;
}

/** Inode numbers from 1, breadth first, children in the order of their names' bytes. The map keeps that order. */
function numberNodes(root: Node): ReadonlyMap<Node, number> {
  const numbers = new Map<Node, number>([[root, 1]]);
  // A Map's iterator visits what is added while it runs: it is the queue of the breadth-first walk.
  for (const node of numbers.keys()) {
    for (const name of sortedNames(node)) {
      const child = node.children?.get(name);
      if (child !== undefined && !numbers.has(child)) numbers.set(child, numbers.size + 1);
    }
  }
  return numbers;
}

function sortedNames(node: Node): readonly string[] {
  return node.children === undefined ? [] : [...node.children.keys()].sort();
}

function encodeInode(node: Node, direntsAt: number | undefined): Uint8Array {
  const bytes = new Uint8Array(INODE_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, node.mode, true);
  view.setUint8(2, node.opaque ? FLAG_OPAQUE : 0);
  view.setUint8(3, highWord(node.mtime) & 0xf);
  view.setUint32(4, node.uid, true);
  view.setUint32(8, node.gid, true);
  view.setUint32(12, lowWord(node.mtime), true);
  setUint64(view, 16, direntsAt === undefined ? node.size : (node.children?.size ?? 0) * DIRENT_SIZE);
  if (direntsAt !== undefined) setUint64(view, 24, direntsAt);
  else view.setBigUint64(24, node.offset, true);
  return bytes;
}

function encodeDirent(inode: number, nameAt: number, nameLength: number, mode: number): Uint8Array {
  const bytes = new Uint8Array(DIRENT_SIZE);
  const view = new DataView(bytes.buffer);
  setUint64(view, 0, inode);
  setUint64(view, 8, nameAt);
  setUint64(view, 16, nameLength);
  // DT_* of readdir(3) is the type nibble of the mode.
  view.setUint8(24, (mode & S_IFMT) >> 12);
  return bytes;
}

/** Writes a safe integer as u64 (two's complement if it is negative); without BigInt, which is slow where there are millions. */
function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, lowWord(value), true);
  view.setUint32(at + 4, highWord(value), true);
}

/** Bits 0 to 31; `>>> 0` takes a number modulo 2^32. */
function lowWord(value: number): number {
  return value >>> 0;
}

function highWord(value: number): number {
  return Math.floor(value / 2 ** 32) >>> 0;
}

/** Gathers small pieces into chunks; a piece is shorter than a chunk. */
function* inChunks(pieces: () => Generator<Uint8Array, void, undefined>): Generator<Uint8Array, void, undefined> {
  let chunk = new Uint8Array(CHUNK);
  let filled = 0;
  for (const piece of pieces()) {
    if (filled + piece.length > CHUNK) {
      yield chunk.subarray(0, filled);
      chunk = new Uint8Array(CHUNK);
      filled = 0;
    }
    chunk.set(piece, filled);
    filled += piece.length;
  }
  if (filled > 0) yield chunk.subarray(0, filled);
}
