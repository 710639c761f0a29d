import { decodeUtf8, isZero, type ByteSource } from "@sealpod/core";
import { VerityError } from "../errors.ts";
import { openVerifiedImage } from "../layer.ts";
import { MAX_NAME_LENGTH } from "../limits.ts";
import type { TarEntry, TarEntryBase } from "../tar-reader.ts";
import { BLOCK, DIRENT_SIZE, INODE_SIZE, SLOT, TYPES } from "./format.ts";
import { DEFAULT_EROFS_LIMITS, MAX_SYMLINK_TARGET, type ErofsLimits } from "./limits.ts";
import { decodeInode, decodeSuperblock, decodeXattrs, type ReadInode, type ReadSuperblock } from "./reader-format.ts";

/** Layer file with an EROFS image whose blocks are checked as they are read. */
export interface VerifiedErofsLayer {
  /** Bytes of the image. */
  readonly imageSize: number;
  /** {@link readErofs} of the image. */
  entries(): AsyncIterable<TarEntry>;
}

/** Data that is read, checked and handed on at a time. */
const PIECE = 128 * BLOCK;

/** Blocks of metadata that are kept: inodes of a directory stand together, and so do the parts of a directory. */
const CACHED_BLOCKS = 16;

/** Whiteouts, as archives spell them (OCI image layer specification, "Whiteouts"), and the attribute that is one for a whole directory. */
const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";
const OPAQUE_XATTR = "trusted.overlay.opaque";
const OPAQUE_AREA = 32;

/**
 * Opens a layer file of `buildErofsLayer` that an untrusted host supplies. Each block is checked against the root hash when it is read;
 * those that no file of the image refers to are not read.
 * @param rootHash 32 bytes from the policy
 * @throws {VerityError} ERR_VERITY_LAYOUT, ERR_VERITY_ARGUMENT
 */
export async function openErofsLayer(source: ByteSource, rootHash: Uint8Array, limits: Partial<ErofsLimits> = {}): Promise<VerifiedErofsLayer> {
  const image = await openVerifiedImage(source, rootHash);
  return { imageSize: image.size, entries: () => readErofs(image, limits) };
}

/**
 * Reads an image as an archive: what unpacks a layer's tar unpacks the image too, and gets the same tree. A directory comes before what is in it, and of
 * hard links the first is a file; whiteouts and opaque directories come as the members `.wh.NAME` and `.wh..wh..opq`, and nothing else has such a name.
 *
 * What `buildErofsLayer` never writes is refused (FORMAT.md), so each inode is read once, the files have no more data than there is, and the work is linear in the size of the
 * image however its numbers are set. Memory: a bit per inode, the directories whose turn has not come, and the first name of each hard link.
 * @throws {VerityError} ERR_VERITY_LAYOUT, ERR_VERITY_LIMIT, ERR_VERITY_TAR_UNSUPPORTED for names that are not UTF-8, and what reads throw
 */
export async function* readErofs(image: ByteSource, limits: Partial<ErofsLimits> = {}): AsyncIterable<TarEntry> {
  yield* new ErofsReader(image, { ...DEFAULT_EROFS_LIMITS, ...limits }).entries();
}

/** A directory whose entries are to be read. */
interface Pending {
  readonly inode: ReadInode;
  readonly path: string;
  readonly parentNid: number;
}

/** One name in a directory; bytes, one per character. */
interface Dirent {
  readonly name: string;
  readonly nid: number;
  readonly type: number;
}

class ErofsReader {
  readonly #image: ByteSource;
  readonly #limits: ErofsLimits;
  readonly #blocks = new Map<number, Uint8Array>();
  /** A bit for each inode number that was met. */
  #met = new Uint8Array(0);
  #inodes = 0;
  /** By node id: files with several names, the first of them, and how many are still to come. */
  readonly #links = new Map<number, { readonly path: string; left: number }>();
  #nodes = 0;
  #metadata = 0;
  /** Blocks of data. */
  #dataBlocks = 0;

  constructor(image: ByteSource, limits: ErofsLimits) {
    this.#image = image;
    this.#limits = limits;
  }

  async *entries(): AsyncGenerator<TarEntry, void, undefined> {
    if (this.#image.size < 2 * BLOCK || this.#image.size % BLOCK !== 0) throw malformed(`the image has ${this.#image.size} bytes, expected two blocks or more`);
    const superblock = decodeSuperblock(await this.#block(0), this.#image.size / BLOCK);
    if (superblock.inodes > this.#limits.maxNodes) throw tooMuch("inodes", superblock.inodes, this.#limits.maxNodes);
    this.#met = new Uint8Array(Math.ceil(superblock.inodes / 8));

    const root = await this.#inode(superblock.rootNid, superblock);
    if (root.kind !== "directory") throw malformed("the root is no directory");
    this.#meet(root, superblock);
    yield* this.#directory(root, "");
    const pending: Pending[] = [{ inode: root, path: "", parentNid: root.nid }];
    for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
      const below: Pending[] = [];
      let subdirectories = 0;
      for await (const dirent of this.#names(at)) {
        const path = at.path === "" ? dirent.name : `${at.path}/${dirent.name}`;
        if (path.length > this.#limits.maxPathLength) throw tooMuch("bytes of a path", path.length, this.#limits.maxPathLength);
        const inode = await this.#inode(dirent.nid, superblock);
        if (TYPES[inode.kind].entry !== dirent.type) throw malformed(`${shown(path)} is a ${inode.kind}, which its directory does not say`);
        if (inode.kind === "directory") {
          this.#meet(inode, superblock);
          subdirectories++;
          yield* this.#directory(inode, path);
          below.push({ inode, path, parentNid: at.inode.nid });
        } else yield await this.#leaf(inode, path, superblock);
      }
      if (at.inode.links !== 2 + subdirectories) throw malformed(`${shown(at.path)} has ${subdirectories} directories and ${at.inode.links} links`);
      // The last one is taken first.
      for (const directory of below.reverse()) pending.push(directory);
    }
    if (this.#inodes !== superblock.inodes) throw malformed(`${this.#inodes} inodes found, the superblock states ${superblock.inodes}`);
    for (const { path, left } of this.#links.values()) if (left > 0) throw malformed(`${shown(path)} has ${left} links too few`);
  }

  async *#directory(inode: ReadInode, path: string): AsyncGenerator<TarEntry, void, undefined> {
    const { opaque, ...base } = await this.#base(inode, path);
    yield { ...base, kind: "directory" };
    if (opaque) yield { ...whiteoutOf(inode), path: text(path === "" ? OPAQUE : `${path}/${OPAQUE}`) };
  }

  async #leaf(inode: ReadInode, path: string, superblock: ReadSuperblock): Promise<TarEntry> {
    const link = this.#links.get(inode.nid);
    if (link !== undefined && link.left-- === 0) throw malformed(`${shown(path)} is one link too many of ${shown(link.path)}`);
    if (link === undefined) {
      this.#meet(inode, superblock);
      if (inode.links > 1) this.#links.set(inode.nid, { path, left: inode.links - 1 });
    }
    // To overlayfs it is a whiteout whatever else it has, also as a device of the archive.
    if (inode.kind === "character" && inode.device.major === 0 && inode.device.minor === 0) {
      const at = path.lastIndexOf("/") + 1;
      if (path.length - at > MAX_NAME_LENGTH - WHITEOUT.length) throw malformed(`${shown(path)} is a whiteout whose name is too long`);
      return { ...whiteoutOf(inode), path: text(`${path.slice(0, at)}${WHITEOUT}${path.slice(at)}`) };
    }
    if (link !== undefined) return { ...withoutData(inode), path: text(path), xattrs: new Map(), kind: "hardlink", target: text(link.path) };
    const { opaque, ...base } = await this.#base(inode, path);
    if (opaque) throw malformed(`${shown(path)} is opaque and no directory`);
    switch (inode.kind) {
      case "file":
        this.#dataBlocks += Math.ceil(inode.size / BLOCK);
        // Each file of ours has data of its own, so all together fit in what lies before the metadata. Files that refer to the same blocks could go on for ever.
        if (this.#dataBlocks > superblock.metaBlock - 1) throw malformed(`${shown(path)} shares data with another file`);
        return { ...base, size: inode.size, data: this.#data(inode.body, inode.size), kind: "file" };
      case "symlink":
        return { ...base, kind: "symlink", target: text(Buffer.from(await this.#body(inode)).toString("latin1")) };
      case "fifo":
        return { ...base, kind: "fifo" };
      case "character":
      case "block":
        return { ...base, kind: inode.kind, ...inode.device };
      case "directory":
        throw malformed("a directory is no leaf");
    }
  }

  /** What all entries have. */
  async #base(inode: ReadInode, path: string): Promise<TarEntryBase & { readonly opaque: boolean }> {
    const all = new Map<string, Uint8Array>();
    if (inode.xattrArea > 0) {
      // As the writer counts: without its own mark of an opaque directory.
      this.#keep(Math.max(0, inode.xattrArea - OPAQUE_AREA));
      for (const [name, value] of decodeXattrs(await this.#bytes(inode.at + INODE_SIZE, inode.xattrArea))) all.set(text(name), value);
    }
    const mark = all.get(OPAQUE_XATTR);
    all.delete(OPAQUE_XATTR);
    if (mark !== undefined && !(mark.length === 1 && mark[0] === 0x79)) throw malformed(`${shown(path)} has a ${OPAQUE_XATTR} that is not y`);
    return { ...withoutData(inode), path: text(path), xattrs: all, opaque: mark !== undefined };
  }

  /** Names of a directory but `.` and `..`, in the order of their bytes. One block is in memory. */
  async *#names({ inode, path, parentNid }: Pending): AsyncGenerator<Dirent, void, undefined> {
    let before = "";
    let dots = 0;
    for (let start = 0; start < inode.size; start += BLOCK) {
      const bytes = await this.#bytes(inode.body + start, Math.min(BLOCK, inode.size - start));
      for (const dirent of direntsOf(bytes, start + BLOCK >= inode.size, path)) {
        const { name, nid, type } = dirent;
        if (name <= before) throw malformed(`${shown(path)} has ${shown(name)} after ${shown(before)}`);
        before = name;
        // A directory that names itself has a body that is no other's.
        if (name === "." || name === "..") {
          if (nid !== (name === "." ? inode.nid : parentNid) || type !== TYPES.directory.entry)
            throw malformed(`${shown(path)} has another directory as ${name}`);
          dots++;
          continue;
        }
        if (name.startsWith(WHITEOUT) || name.includes("/") || name.includes("\0")) throw malformed(`${shown(path)} has the name ${shown(name)}`);
        this.#keep(name.length);
        if (++this.#nodes > this.#limits.maxNodes) throw tooMuch("names", this.#nodes, this.#limits.maxNodes);
        yield dirent;
      }
    }
    if (dots !== 2) throw malformed(`${shown(path)} does not have both . and ..`);
  }

  async #inode(nid: number, superblock: ReadSuperblock): Promise<ReadInode> {
    const at = superblock.metaBlock * BLOCK + nid * SLOT;
    if (at + INODE_SIZE > this.#image.size || (at % BLOCK) + INODE_SIZE > BLOCK) throw malformed(`node ${nid} is not inside a block of the image`);
    const inode = decodeInode(await this.#bytes(at, INODE_SIZE), nid, at, superblock);
    if (inode.body + inode.size > this.#image.size || at + INODE_SIZE + inode.xattrArea > this.#image.size)
      throw malformed(`node ${nid} reaches beyond the image`);
    if (inode.kind === "symlink" && (inode.size === 0 || inode.size > MAX_SYMLINK_TARGET))
      throw malformed(`node ${nid} is a link with a target of ${inode.size} bytes`);
    return inode;
  }

  /** Notes an inode: there is one of each number, and it is read once. */
  #meet(inode: ReadInode, { inodes }: ReadSuperblock): void {
    const bit = inode.number - 1;
    const byte = this.#met[bit >> 3] ?? 0;
    const mask = 1 << (bit & 7);
    if (bit < 0 || bit >= inodes || (byte & mask) !== 0) throw malformed(`node ${inode.nid} has the inode number ${inode.number}, which is taken or none`);
    this.#met[bit >> 3] = byte | mask;
    this.#inodes++;
  }

  async #body(inode: ReadInode): Promise<Uint8Array> {
    this.#keep(inode.size);
    return this.#bytes(inode.body, inode.size);
  }

  async *#data(begin: number, size: number): AsyncGenerator<Uint8Array, void, undefined> {
    for (let at = 0; at < size; at += PIECE) yield await this.#image.read(begin + at, Math.min(PIECE, size - at));
  }

  #keep(bytes: number): void {
    this.#metadata += bytes;
    if (this.#metadata > this.#limits.maxMetadata) throw tooMuch("bytes of names, link targets and attributes", this.#metadata, this.#limits.maxMetadata);
  }

  /** Metadata, which lie in one block but for attributes. */
  async #bytes(offset: number, length: number): Promise<Uint8Array> {
    const [first, last] = [Math.floor(offset / BLOCK), Math.floor((offset + length - 1) / BLOCK)];
    if (first !== last) return this.#image.read(offset, length);
    return (await this.#block(first)).subarray(offset - first * BLOCK, offset - first * BLOCK + length);
  }

  async #block(index: number): Promise<Uint8Array> {
    const found = this.#blocks.get(index);
    if (found !== undefined) return found;
    const bytes = await this.#image.read(index * BLOCK, BLOCK);
    const oldest = this.#blocks.keys().next();
    if (this.#blocks.size === CACHED_BLOCKS && oldest.done !== true) this.#blocks.delete(oldest.value);
    this.#blocks.set(index, bytes);
    return bytes;
  }
}

/** The entries of one block of a directory: first their heads, then their names, the last of which ends with the block or at a zero. */
function* direntsOf(bytes: Uint8Array, isLast: boolean, path: string): Generator<Dirent, void, undefined> {
  const block = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const count = block.length < DIRENT_SIZE ? 0 : block.readUInt16LE(8) / DIRENT_SIZE;
  if (!Number.isInteger(count) || count === 0 || count * DIRENT_SIZE > block.length) throw malformed(`${shown(path)} has a block without names`);
  let begin = count * DIRENT_SIZE;
  for (let index = 0; index < count; index++) {
    const at = index * DIRENT_SIZE;
    const next = index + 1 < count ? block.readUInt16LE(at + DIRENT_SIZE + 8) : block.length;
    const zero = index + 1 < count || isLast ? -1 : block.indexOf(0, begin);
    const end = zero === -1 ? next : zero;
    if (block.readUInt16LE(at + 8) !== begin || end <= begin || end > block.length || end - begin > MAX_NAME_LENGTH || block.readUInt8(at + 11) !== 0) {
      throw malformed(`${shown(path)} has a malformed entry`);
    }
    if (zero !== -1 && !isZero(block.subarray(zero))) throw malformed(`${shown(path)} has bytes behind its names`);
    // Below 2^53 it cannot leave the image unnoticed; above, no image is so large.
    yield { name: block.toString("latin1", begin, end), nid: Number(block.readBigUInt64LE(at)), type: block.readUInt8(at + 10) };
    begin = end;
  }
}

const NOTHING: AsyncIterable<Uint8Array> = {
  [Symbol.asyncIterator]: () => ({ next: () => Promise.resolve({ done: true, value: undefined }) }),
};

function withoutData({ mode, uid, gid, mtime }: ReadInode): Omit<TarEntryBase, "path" | "xattrs"> {
  return { mode, uid, gid, mtime, size: 0, data: NOTHING };
}

/** A member that says that something of a lower layer is not there. */
function whiteoutOf(inode: ReadInode): Omit<TarEntry & { readonly kind: "file" }, "path"> {
  return { ...withoutData(inode), mode: 0, xattrs: new Map(), kind: "file" };
}

function text(latin1: string): string {
  try {
    return decodeUtf8(Buffer.from(latin1, "latin1"));
  } catch (cause) {
    throw new VerityError("ERR_VERITY_TAR_UNSUPPORTED", `EROFS image: ${shown(latin1)} is not valid UTF-8`, { cause });
  }
}

function malformed(problem: string): VerityError {
  return new VerityError("ERR_VERITY_LAYOUT", `EROFS image: ${problem}`, { hint: "Images are read only as `buildErofsLayer` writes them." });
}

function tooMuch(what: string, found: number, limit: number): VerityError {
  return new VerityError("ERR_VERITY_LIMIT", `EROFS image: ${found} ${what}, more than the limit of ${limit}`, { details: { found, limit } });
}

function shown(path: string): string {
  return JSON.stringify(path.slice(0, 200));
}
