import { ByteReader, ByteWriter, isZero, toHex } from "@sealpod/core";
import type { ByteSink, ByteSource } from "@sealpod/core";
import type { PatchableSink } from "./erofs/sink.ts";
import { VerityError } from "./errors.ts";
import { BlockHasher, DIGEST, DIGESTS_PER_BLOCK, HashTreeBuilder, levelSizes, VERITY_BLOCK } from "./hash-tree.ts";
import { DEFAULT_TAR_LIMITS } from "./limits.ts";
import type { TarLimits } from "./limits.ts";
import { SUPERBLOCK_SIZE, TarIndex } from "./tar-index.ts";
import { TarScanner } from "./tar-scanner.ts";
import type { TarEvent } from "./tar-scanner.ts";

/** Salt of AKS layers: 32 zero bytes, hashed before each block (specs/genpolicy.md 5.7). */
export const LAYER_SALT_LENGTH = 32;

/** The last 512 bytes of the file begin with u32 data block size, u32 hash block size, u64 number of data blocks. */
const TRAILER_SIZE = 512;

/** What {@link buildLayer} made. */
export interface LayerInfo {
  /** dm-verity root hash, 32 bytes: what the policy pins. */
  readonly rootHash: Uint8Array;
  /** Bytes of the tar. */
  readonly tarSize: number;
  /** Blocks of 4096 bytes under the tree: tar, index and superblock. */
  readonly dataBlocks: number;
  /** Bytes of the layer file. */
  readonly size: number;
}

/** A sink for those who want the root hash alone. */
export const discard: PatchableSink = { write: () => Promise.resolve(), writeAt: () => Promise.resolve() };

/**
 * Makes a layer file from a tar, in one pass: tar, tar index, superblock, dm-verity tree (top level first), trailer.
 * Memory holds the index and the tree (1/128 of the tar) only.
 * @param observe sees the members and their data as they go by, so that nobody has to scan the tar a second time
 * @throws {VerityError} ERR_VERITY_TAR, ERR_VERITY_TAR_TRUNCATED, ERR_VERITY_TAR_UNSUPPORTED, ERR_VERITY_LIMIT
 */
export async function buildLayer(
  tar: AsyncIterable<Uint8Array>,
  sink: ByteSink,
  limits: Partial<TarLimits> = {},
  observe: (event: TarEvent) => void = () => undefined,
): Promise<LayerInfo> {
  const scanner = new TarScanner({ ...DEFAULT_TAR_LIMITS, ...limits });
  const index = new TarIndex();
  const tree = new HashTreeBuilder(new Uint8Array(LAYER_SALT_LENGTH), { keep: sink !== discard });
  for await (const chunk of tar) {
    for (const event of scanner.push(chunk)) {
      observe(event);
      if (event.kind === "member") index.add(event.member);
    }
    tree.update(chunk);
    await sink.write(chunk);
  }
  scanner.end();
  const tarSize = scanner.offset;
  for (const chunk of index.encode(tarSize)) {
    tree.update(chunk);
    await sink.write(chunk);
  }
  const { rootHash, dataBlocks, blocks } = tree.finish();
  for (const block of blocks) await sink.write(block);
  await sink.write(encodeTrailer(dataBlocks));
  return { rootHash, tarSize, dataBlocks, size: layerBlocks(dataBlocks) * VERITY_BLOCK };
}

/** A layer file whose blocks are checked as they are read. */
export interface VerifiedLayer {
  /** Bytes of the tar. */
  readonly tarSize: number;
  /**
   * The tar, every byte checked against the root hash before it comes out. The iterator ends only after the blocks behind
   * the tar (index, superblock) and the whole tree were checked too.
   * @throws {VerityError} ERR_VERITY_CORRUPT
   */
  tar(): AsyncIterable<Uint8Array>;
}

/**
 * Opens a layer file that an untrusted host supplies. Memory is constant: one hash block per level and 512 KiB of data.
 * The source may change between reads; bytes are used from the same buffer that was hashed.
 * @param rootHash 32 bytes from the policy
 * @throws {VerityError} ERR_VERITY_LAYOUT, ERR_VERITY_CORRUPT, ERR_VERITY_ARGUMENT
 */
export async function openLayer(source: ByteSource, rootHash: Uint8Array): Promise<VerifiedLayer> {
  return readTarImage(await openVerifiedImage(source, rootHash));
}

/**
 * The blocks under the tree of a layer file that an untrusted host supplies, each checked against the root hash when it is read; one hash block per level is
 * kept in memory. The source may change between reads; bytes are used from the same buffer that was hashed.
 * @param rootHash 32 bytes from the policy
 * @throws {VerityError} ERR_VERITY_LAYOUT, ERR_VERITY_ARGUMENT, ERR_VERITY_CORRUPT; the last from reads too
 */
export async function openVerifiedImage(source: ByteSource, rootHash: Uint8Array): Promise<ByteSource> {
  const reader = await openBlocks(source, rootHash);
  const size = reader.dataBlocks * VERITY_BLOCK;
  return {
    size,
    async read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > size) {
        throw new VerityError("ERR_VERITY_ARGUMENT", `bytes ${offset} to ${offset + length} are not inside an image of ${size}`);
      }
      if (length === 0) return new Uint8Array(0);
      const first = Math.floor(offset / VERITY_BLOCK);
      const bytes = await reader.blocks(first, Math.ceil((offset + length) / VERITY_BLOCK) - first);
      return bytes.subarray(offset - first * VERITY_BLOCK, offset - first * VERITY_BLOCK + length);
    },
  };
}

/**
 * Number of data blocks of a layer file that an untrusted host supplies, as the tree has it: what dm-verity must be told.
 *
 * The root hash alone does not say where the data ends: with the same tree and a smaller number in the trailer, each block that is left still verifies, and the
 * layer is cut. But digests behind the last one are zeros, so a cut shows in the last block of some level. Reads one block per level.
 * @param rootHash 32 bytes from the policy
 * @throws {VerityError} ERR_VERITY_LAYOUT, ERR_VERITY_ARGUMENT, ERR_VERITY_CORRUPT
 */
export async function verifiedDataBlocks(source: ByteSource, rootHash: Uint8Array): Promise<number> {
  return (await openBlocks(source, rootHash)).dataBlocks;
}

/**
 * Reads the tar in the blocks under a tree, which somebody else verifies: {@link openVerifiedImage}, or the kernel's dm-verity.
 * @throws {VerityError} ERR_VERITY_LAYOUT
 */
export async function readTarImage(image: ByteSource): Promise<VerifiedLayer> {
  const tarSize = parseSuperblock(await read(image, image.size - SUPERBLOCK_SIZE, SUPERBLOCK_SIZE), image.size / VERITY_BLOCK);
  return {
    tarSize,
    async *tar() {
      const scanner = new TarScanner(DEFAULT_TAR_LIMITS);
      const index = new TarIndex();
      let rest: ReturnType<typeof comparison> | undefined;
      for (let at = 0; at < image.size; at += GROUP) {
        const bytes = await read(image, at, Math.min(GROUP, image.size - at));
        const part = bytes.subarray(0, Math.max(0, tarSize - at));
        if (part.length > 0) {
          for (const event of scanner.push(part)) if (event.kind === "member") index.add(event.member);
          yield part;
        }
        if (part.length === bytes.length) continue;
        // Where the tar ends is the superblock's word, and what is read as one may be data of a file: the index must be that of this very tar, to the last byte.
        if (rest === undefined) {
          scanner.end();
          rest = comparison(index.encode(tarSize));
        }
        if (!rest(bytes.subarray(part.length))) throw notTheIndex(tarSize);
      }
      if (rest?.(new Uint8Array(0), true) !== true) throw notTheIndex(tarSize);
    },
  };
}

/** Data blocks, tree and trailer. */
export function layerBlocks(dataBlocks: number): number {
  return dataBlocks + levelSizes(dataBlocks).reduce((sum, size) => sum + size, 0) + 1;
}

/** The last block of a layer file. */
export function encodeTrailer(dataBlocks: number): Uint8Array {
  return new ByteWriter()
    .zeros(VERITY_BLOCK - TRAILER_SIZE)
    .u32le(VERITY_BLOCK)
    .u32le(VERITY_BLOCK)
    .u64le(BigInt(dataBlocks))
    .zeros(TRAILER_SIZE - 16)
    .toBytes();
}

/**
 * Number of data blocks of a layer file, which is also the block where its tree begins. The trailer is not under the tree, so it must be exactly
 * what the size of the file says.
 * @throws {VerityError} ERR_VERITY_LAYOUT
 */
export async function readLayerTrailer(source: ByteSource): Promise<number> {
  const blocks = source.size / VERITY_BLOCK;
  // Smallest layer: an inode table and a superblock, one hash block, the trailer.
  if (!Number.isSafeInteger(blocks) || blocks < 4) {
    throw new VerityError("ERR_VERITY_LAYOUT", `layer file has ${source.size} bytes, expected a multiple of ${VERITY_BLOCK} and at least ${4 * VERITY_BLOCK}`, {
      details: { size: source.size },
    });
  }
  const reader = new ByteReader(await read(source, source.size - VERITY_BLOCK, VERITY_BLOCK), "layer trailer");
  const before = reader.bytes(VERITY_BLOCK - TRAILER_SIZE);
  const dataBlockSize = reader.u32le();
  const hashBlockSize = reader.u32le();
  const dataBlocks = reader.u64le();
  if (dataBlockSize !== VERITY_BLOCK || hashBlockSize !== VERITY_BLOCK || !isZero(before) || !isZero(reader.bytes(reader.remaining))) {
    throw new VerityError("ERR_VERITY_LAYOUT", `layer trailer: expected block sizes of ${VERITY_BLOCK} and zeros around them`, {
      details: { dataBlockSize, hashBlockSize },
    });
  }
  if (dataBlocks < 2n || dataBlocks >= BigInt(blocks) || layerBlocks(Number(dataBlocks)) !== blocks) {
    throw new VerityError("ERR_VERITY_LAYOUT", `layer trailer states ${dataBlocks} data blocks, which does not fit a file of ${blocks} blocks`, {
      details: { blocks },
      hint: "The file is cut off, has bytes after its end, or is no layer file.",
    });
  }
  return Number(dataBlocks);
}

/** Offset of the inode table, which is the size of the tar. The bytes are verified; the bounds are checked all the same. */
function parseSuperblock(bytes: Uint8Array, dataBlocks: number): number {
  const reader = new ByteReader(bytes, "tar index superblock");
  const tarSize = reader.u64le();
  const inodes = reader.u64le();
  const room = BigInt(dataBlocks - 1) * BigInt(VERITY_BLOCK);
  if (inodes < 1n || inodes > room || tarSize + inodes * 32n > room) {
    throw new VerityError("ERR_VERITY_LAYOUT", `tar index superblock: ${inodes} inodes behind a tar of ${tarSize} bytes do not fit in ${room} bytes`);
  }
  return Number(tarSize);
}

/** Tells piece by piece whether bytes are the expected ones; at the end, whether they were all. */
function comparison(expected: Iterator<Uint8Array>): (bytes: Uint8Array, isEnd?: boolean) => boolean {
  let left: Uint8Array = new Uint8Array(0);
  const fill = (): boolean => {
    while (left.length === 0) {
      const next = expected.next();
      if (next.done === true) return false;
      left = next.value;
    }
    return true;
  };
  return (bytes, isEnd = false) => {
    for (let at = 0; at < bytes.length;) {
      if (!fill()) return false;
      const length = Math.min(left.length, bytes.length - at);
      if (Buffer.compare(left.subarray(0, length), bytes.subarray(at, at + length)) !== 0) return false;
      left = left.subarray(length);
      at += length;
    }
    return !isEnd || !fill();
  };
}

function notTheIndex(tarSize: number): VerityError {
  return new VerityError("ERR_VERITY_LAYOUT", `tar index: what follows the tar of ${tarSize} bytes is not its index`, {
    details: { tarSize },
    hint: "The layer was cut off, or its index was made by a tool that makes another one.",
  });
}

/**
 * The blocks of a layer file, once it is clear how many there are.
 * @throws {VerityError} ERR_VERITY_LAYOUT, ERR_VERITY_ARGUMENT, ERR_VERITY_CORRUPT
 */
async function openBlocks(source: ByteSource, rootHash: Uint8Array): Promise<BlockReader> {
  if (rootHash.length !== DIGEST) throw new VerityError("ERR_VERITY_ARGUMENT", `root hash has ${rootHash.length} bytes, expected ${DIGEST}`);
  const reader = new BlockReader(source, await readLayerTrailer(source), Buffer.from(rootHash).toString("latin1"));
  await reader.requireEnd();
  return reader;
}

/** Bytes under one hash block of the lowest level: read at a time, none of the tree is read twice. */
const GROUP = DIGESTS_PER_BLOCK * VERITY_BLOCK;

/** Reads blocks and checks them up to the root. */
class BlockReader {
  readonly dataBlocks: number;
  readonly #source: ByteSource;
  readonly #root: string;
  readonly #hasher = new BlockHasher(new Uint8Array(LAYER_SALT_LENGTH));
  /** Per level, leaves first: first block in the file, and the block that was verified last. */
  readonly #levels: { readonly start: number; index: number; bytes: Buffer }[] = [];

  constructor(source: ByteSource, dataBlocks: number, root: string) {
    this.dataBlocks = dataBlocks;
    this.#source = source;
    this.#root = root;
    let end = layerBlocks(dataBlocks) - 1;
    for (const size of levelSizes(dataBlocks)) {
      end -= size;
      this.#levels.push({ start: end, index: -1, bytes: Buffer.alloc(0) });
    }
  }

  /**
   * Checks that the tree ends where the data does.
   * @throws {VerityError} ERR_VERITY_LAYOUT, ERR_VERITY_CORRUPT
   */
  async requireEnd(): Promise<void> {
    let below = this.dataBlocks;
    for (const [depth, size] of levelSizes(this.dataBlocks).entries()) {
      const last = await this.#hashBlock(depth, size - 1);
      if (!isZero(last.subarray((below - (size - 1) * DIGESTS_PER_BLOCK) * DIGEST))) {
        throw new VerityError("ERR_VERITY_LAYOUT", `layer trailer states ${this.dataBlocks} data blocks, but the hash tree has more`, {
          details: { dataBlocks: this.dataBlocks },
          hint: "The layer was cut off: files at its end are missing.",
        });
      }
      below = size;
    }
  }

  /** Data blocks, verified. */
  async blocks(first: number, count: number): Promise<Uint8Array> {
    const bytes = await read(this.#source, first * VERITY_BLOCK, count * VERITY_BLOCK);
    let leaf: Buffer = Buffer.alloc(0);
    for (let i = 0; i < count; i++) {
      const place = (first + i) % DIGESTS_PER_BLOCK;
      if (i === 0 || place === 0) leaf = await this.#hashBlock(0, Math.floor((first + i) / DIGESTS_PER_BLOCK));
      if (this.#hasher.digest(bytes, i * VERITY_BLOCK) !== leaf.toString("latin1", place * DIGEST, (place + 1) * DIGEST)) {
        throw corrupt("data", first + i, this.#root);
      }
    }
    return bytes;
  }

  /** A block of the tree, verified up to the root. */
  async #hashBlock(depth: number, index: number): Promise<Buffer> {
    const level = this.#levels[depth];
    if (level === undefined) throw new VerityError("ERR_VERITY_LAYOUT", `hash tree has no level ${depth}`);
    if (level.index === index) return level.bytes;
    const expected =
      depth === this.#levels.length - 1
        ? this.#root
        : (await this.#hashBlock(depth + 1, Math.floor(index / DIGESTS_PER_BLOCK))).toString(
            "latin1",
            (index % DIGESTS_PER_BLOCK) * DIGEST,
            ((index % DIGESTS_PER_BLOCK) + 1) * DIGEST,
          );
    const block = await read(this.#source, (level.start + index) * VERITY_BLOCK, VERITY_BLOCK);
    const bytes = Buffer.from(block.buffer, block.byteOffset, block.length);
    if (this.#hasher.digest(bytes, 0) !== expected) throw corrupt("hash", level.start + index, this.#root);
    level.index = index;
    level.bytes = bytes;
    return bytes;
  }
}

/** Reads exactly `length` bytes; a source that returns another number would shift what is checked against what is used. */
async function read(source: ByteSource, offset: number, length: number): Promise<Uint8Array> {
  const bytes = await source.read(offset, length);
  if (bytes.length !== length) {
    throw new VerityError("ERR_VERITY_LAYOUT", `layer source returned ${bytes.length} bytes at offset ${offset}, expected ${length}`);
  }
  return bytes;
}

function corrupt(what: string, block: number, root: string): VerityError {
  return new VerityError("ERR_VERITY_CORRUPT", `layer file: ${what} block ${block} does not match root hash ${toHex(Buffer.from(root, "latin1"))}`, {
    details: { block },
    hint: "The layer is damaged or was changed. Fetch the image again; if the hash still differs, the image is not the one the policy was made for.",
  });
}
