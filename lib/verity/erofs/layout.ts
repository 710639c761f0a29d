import { VerityError } from "../errors.ts";
import { BLOCK, directorySize, encodeDirectory, encodeInode, INODE_SIZE, listing, FIRST_NID, SLOT } from "./format.ts";
import type { DirectoryInode, Inode } from "./inode.ts";
import { MAX_IMAGE_BLOCKS } from "./limits.ts";
import { xattrAreaSize } from "./xattrs.ts";

/** The metadata of an image, with all addresses fixed. */
export interface Metadata {
  readonly inodes: number;
  readonly rootNid: number;
  /** Blocks of the whole image. */
  readonly imageBlocks: number;
  /** The bytes, which begin at the first block of the metadata; the last block may be cut short. */
  encode(): Generator<Uint8Array, void, undefined>;
}

/**
 * Gives every inode its address and its number of links. Inodes stand breadth first, names in the order of their bytes, so the metadata
 * depend on the tree alone and not on the order of the archive (save for the addresses of the data).
 * @param metaBlock first block of the metadata, which is the first one behind the data
 * @throws {VerityError} ERR_VERITY_LIMIT
 */
export function layOut(root: DirectoryInode, metaBlock: number): Metadata {
  const order = walk(root);
  const sizes = new Float64Array(order.length);
  /** Directories and targets that do not fit behind their inode: block, counted from the first block behind the inodes. */
  const extents = new Map<DirectoryInode | Inode, number>();
  let extentBlocks = 0;
  let end = FIRST_NID * SLOT;
  for (const [index, inode] of order.entries()) {
    const size = bodySize(inode);
    sizes[index] = size;
    const head = INODE_SIZE + xattrAreaSize(inode);
    const hasBody = inode.kind === "directory" || inode.kind === "symlink";
    const isInline = hasBody && head + size <= BLOCK;
    if (hasBody && !isInline) {
      extents.set(inode, extentBlocks);
      extentBlocks += Math.ceil(size / BLOCK);
    }
    // What is read from one block must not cross its end: the inode, and all that comes before an inline body with it.
    const together = isInline ? head + size : INODE_SIZE;
    let at = roundUp(end, SLOT);
    if ((at % BLOCK) + together > BLOCK) at = roundUp(at, BLOCK);
    inode.nid = at / SLOT;
    end = at + head + (isInline ? size : 0);
  }
  const extentsAt = metaBlock + Math.ceil(end / BLOCK);
  const imageBlocks = extentsAt + extentBlocks;
  if (imageBlocks > MAX_IMAGE_BLOCKS) {
    throw new VerityError("ERR_VERITY_LIMIT", `layer: image has ${imageBlocks} blocks, EROFS takes at most ${MAX_IMAGE_BLOCKS}`, {
      details: { found: imageBlocks, limit: MAX_IMAGE_BLOCKS },
    });
  }
  return {
    inodes: order.length,
    rootNid: root.nid,
    imageBlocks,
    *encode() {
      let written = 0;
      for (const [index, inode] of order.entries()) {
        yield new Uint8Array(inode.nid * SLOT - written);
        written = inode.nid * SLOT;
        const extent = extents.get(inode);
        const block = extent !== undefined ? extentsAt + extent : inode.kind === "file" ? inode.block : undefined;
        const head = encodeInode(inode, index + 1, { size: sizes[index] ?? 0, block });
        yield head;
        written += head.length;
        if (extent !== undefined) continue;
        for (const bytes of encodeBody(inode)) {
          yield bytes;
          written += bytes.length;
        }
      }
      for (const inode of extents.keys()) {
        yield new Uint8Array(roundUp(written, BLOCK) - written);
        written = 0;
        for (const bytes of encodeBody(inode)) {
          yield bytes;
          written += bytes.length;
        }
      }
    },
  };
}

/** All inodes, breadth first, each once, and their links counted. */
function walk(root: DirectoryInode): readonly Inode[] {
  const order: Inode[] = [root];
  root.links = 2;
  // An array's iterator visits what is added while it runs: it is the queue of the breadth-first walk.
  for (const inode of order) {
    if (inode.kind !== "directory") continue;
    for (const name of listing(inode)) {
      const child = inode.children.get(name);
      if (child === undefined) continue;
      if (child.links === 0) order.push(child);
      if (child.kind === "directory") inode.links++;
      child.links += child.kind === "directory" ? 2 : 1;
    }
  }
  return order;
}

function bodySize(inode: Inode): number {
  switch (inode.kind) {
    case "file":
      return inode.size;
    case "directory":
      return directorySize(listing(inode));
    case "symlink":
      return inode.target.length;
    default:
      return 0;
  }
}

/** What stands behind the inode or in blocks of its own. */
function* encodeBody(inode: Inode): Generator<Uint8Array, void, undefined> {
  if (inode.kind === "directory") yield* encodeDirectory(inode);
  else if (inode.kind === "symlink") yield Buffer.from(inode.target, "latin1");
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
