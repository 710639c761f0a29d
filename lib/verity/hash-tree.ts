import { hash } from "node:crypto";
import { fromHex } from "@sealpod/core";
import type { ByteSource } from "@sealpod/core";
import { VerityError } from "./errors.ts";

/** Size of data and hash blocks. */
export const VERITY_BLOCK = 4096;

/** Bytes of a SHA-256 digest, and digests in a hash block. */
export const DIGEST = 32;
export const DIGESTS_PER_BLOCK: number = VERITY_BLOCK / DIGEST;

/** Longest salt that the kernel's dm-verity takes. */
const MAX_SALT = 256;

/** Hash blocks of each level, leaves first, for a number of data blocks. One data block needs no level: its digest is the root. */
export function levelSizes(dataBlocks: number): readonly number[] {
  const sizes: number[] = [];
  for (let blocks = dataBlocks; blocks > 1;) {
    blocks = Math.ceil(blocks / DIGESTS_PER_BLOCK);
    sizes.push(blocks);
  }
  return sizes;
}

/**
 * Hashes blocks as dm-verity format version 1 does: SHA-256 over salt, then block. Digests are text with one character per
 * byte: `crypto.hash` makes those faster than it makes buffers (specs/uvm.md section 6), and a digest is only ever copied or compared.
 */
export class BlockHasher {
  readonly #input: Buffer;
  readonly #saltLength: number;

  /** @throws {VerityError} ERR_VERITY_ARGUMENT */
  constructor(salt: Uint8Array) {
    if (salt.length > MAX_SALT) throw new VerityError("ERR_VERITY_ARGUMENT", `salt has ${salt.length} bytes, dm-verity takes at most ${MAX_SALT}`);
    this.#input = Buffer.alloc(salt.length + VERITY_BLOCK);
    this.#input.set(salt);
    this.#saltLength = salt.length;
  }

  /** Digest of the block at `offset` of `bytes`. */
  digest(bytes: Uint8Array, offset: number): string {
    this.#input.set(bytes.length === VERITY_BLOCK ? bytes : bytes.subarray(offset, offset + VERITY_BLOCK), this.#saltLength);
    return hash("sha256", this.#input, "binary");
  }
}

/** A digest of {@link BlockHasher} as bytes. */
export function digestBytes(digest: string): Uint8Array {
  return new Uint8Array(Buffer.from(digest, "latin1"));
}

/** One level of the tree while it grows. */
interface Level {
  readonly full: Uint8Array[];
  current: Buffer;
  /** Digests in `current`. */
  filled: number;
}

/** Computes a dm-verity tree in one pass over the data. */
export class HashTreeBuilder {
  readonly #hasher: BlockHasher;
  readonly #keep: boolean | "edge";
  readonly #levels: Level[] = [];
  readonly #partial = new Uint8Array(VERITY_BLOCK);
  #partialFilled = 0;
  #dataBlocks = 0;
  #lastDigest = "";

  /**
   * @param options `keep: false` drops the tree's blocks once they are hashed, when only the root is wanted; `"edge"` keeps the
   * first one of each level, which are those that the first data block has a part in (erofs/late-block.ts)
   */
  constructor(salt: Uint8Array, options: { readonly keep: boolean | "edge" }) {
    this.#hasher = new BlockHasher(salt);
    this.#keep = options.keep;
  }

  /** Takes the next bytes of the data, cut anywhere. */
  update(bytes: Uint8Array): void {
    let at = 0;
    if (this.#partialFilled > 0) {
      at = Math.min(VERITY_BLOCK - this.#partialFilled, bytes.length);
      this.#partial.set(bytes.subarray(0, at), this.#partialFilled);
      this.#partialFilled += at;
      if (this.#partialFilled < VERITY_BLOCK) return;
      this.#block(this.#partial, 0);
      this.#partialFilled = 0;
    }
    for (; at + VERITY_BLOCK <= bytes.length; at += VERITY_BLOCK) this.#block(bytes, at);
    if (at < bytes.length) {
      this.#partial.set(bytes.subarray(at));
      this.#partialFilled = bytes.length - at;
    }
  }

  /**
   * Closes the tree.
   * @returns the root hash, the number of data blocks, and the tree's blocks in file order: top level first
   * @throws {VerityError} ERR_VERITY_ARGUMENT if the data is empty or not a whole number of blocks
   */
  finish(): { readonly rootHash: Uint8Array; readonly dataBlocks: number; readonly blocks: readonly Uint8Array[] } {
    if (this.#partialFilled > 0 || this.#dataBlocks === 0) {
      throw new VerityError("ERR_VERITY_ARGUMENT", `dm-verity data must be one or more blocks of ${VERITY_BLOCK} bytes`);
    }
    let root = this.#lastDigest;
    if (this.#dataBlocks > 1) {
      // Closing a level adds a digest to the next one, so the list may grow while it is walked. The top is the level with one block.
      for (let depth = 0; depth < this.#levels.length; depth++) {
        const level = this.#levels[depth];
        if (level === undefined) break;
        const isTop = depth === levelSizes(this.#dataBlocks).length - 1;
        if (level.filled > 0) root = this.#closeBlock(depth, level, isTop);
        if (isTop) break;
      }
    }
    const depth = levelSizes(this.#dataBlocks).length;
    const blocks = this.#levels
      .slice(0, depth)
      .reverse()
      .flatMap((level) => level.full);
    return { rootHash: digestBytes(root), dataBlocks: this.#dataBlocks, blocks };
  }

  #block(bytes: Uint8Array, offset: number): void {
    this.#dataBlocks++;
    this.#lastDigest = this.#hasher.digest(bytes, offset);
    this.#append(0, this.#lastDigest);
  }

  #append(depth: number, digest: string): void {
    let level = this.#levels[depth];
    if (level === undefined) {
      level = { full: [], current: Buffer.alloc(VERITY_BLOCK), filled: 0 };
      this.#levels.push(level);
    }
    // A full block is closed when the next digest comes, not before: the last block of the top level must not start a level above it.
    if (level.filled === DIGESTS_PER_BLOCK) this.#closeBlock(depth, level, false);
    level.current.write(digest, level.filled * DIGEST, "latin1");
    level.filled++;
  }

  #closeBlock(depth: number, level: Level, isTop: boolean): string {
    const digest = this.#hasher.digest(level.current, 0);
    if (this.#keep === true || (this.#keep === "edge" && level.full.length === 0)) {
      level.full.push(level.current);
      level.current = Buffer.alloc(VERITY_BLOCK);
    } else {
      level.current.fill(0);
    }
    level.filled = 0;
    if (!isTop) this.#append(depth + 1, digest);
    return digest;
  }
}

/** Bytes that {@link verityRoot} reads at a time. */
const READ_SIZE = 1024 * 1024;

/**
 * Root hash (32 bytes) of the dm-verity tree over a whole source, in constant memory: what
 * `veritysetup format --no-superblock --hash sha256 --data-block-size 4096 --hash-block-size 4096 --salt SALT` prints.
 * @throws {VerityError} ERR_VERITY_ARGUMENT if the source is empty or not a whole number of 4096-byte blocks
 */
export async function verityRoot(source: ByteSource, salt: Uint8Array): Promise<Uint8Array> {
  const tree = new HashTreeBuilder(salt, { keep: false });
  for (let at = 0; at < source.size; at += READ_SIZE) tree.update(await source.read(at, Math.min(READ_SIZE, source.size - at)));
  return tree.finish().rootHash;
}

/** A root hash from its hex text, as policies hold it. @throws {VerityError} ERR_VERITY_ARGUMENT */
export function parseRootHash(text: string): Uint8Array {
  if (!/^[0-9a-f]{64}$/.test(text))
    throw new VerityError("ERR_VERITY_ARGUMENT", "root hash is not 64 lower-case hex digits", { details: { length: text.length } });
  return fromHex(text, "root hash");
}
