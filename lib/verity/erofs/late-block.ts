import { BlockHasher, digestBytes, levelSizes } from "../hash-tree.ts";

/**
 * Puts block 0 into a tree that was built with other bytes in its place. On each level only the first hash block depends on it.
 * @param tree blocks in file order, top level first: all of them, or the first one of each level; those first ones are changed
 * @returns the root hash
 */
export function replaceFirstBlock(salt: Uint8Array, tree: readonly Uint8Array[], dataBlocks: number, block: Uint8Array): Uint8Array {
  const hasher = new BlockHasher(salt);
  const levels = levelSizes(dataBlocks);
  const isEdge = tree.length === levels.length;
  let digest = hasher.digest(block, 0);
  let at = tree.length;
  for (const size of levels) {
    at -= isEdge ? 1 : size;
    const first = tree[at];
    first?.set(digestBytes(digest));
    digest = first === undefined ? digest : hasher.digest(first, 0);
  }
  return digestBytes(digest);
}
