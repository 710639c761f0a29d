import { BLOCK, encodeSuperblock } from "./format.ts";
import { ImageWriter } from "./image-writer.ts";
import { replaceFirstBlock } from "./late-block.ts";
import { LayerTree } from "./layer-tree.ts";
import type { UndeclaredDirectories } from "./layer-tree.ts";
import { layOut } from "./layout.ts";
import { DEFAULT_EROFS_LIMITS } from "./limits.ts";
import type { ErofsLimits } from "./limits.ts";
import type { PatchableSink } from "./sink.ts";
import { HashTreeBuilder } from "../hash-tree.ts";
import { discard, encodeTrailer, LAYER_SALT_LENGTH, layerBlocks } from "../layer.ts";
import { TarScanner } from "../tar-scanner.ts";
import type { TarEvent } from "../tar-scanner.ts";

/** What {@link buildErofsLayer} made. */
export interface ErofsLayerInfo {
  /** dm-verity root hash, 32 bytes: what the policy pins. */
  readonly rootHash: Uint8Array;
  /** Bytes of the EROFS image, which is all that is under the tree. */
  readonly imageSize: number;
  /** Blocks of 4096 bytes of the image. */
  readonly dataBlocks: number;
  /** Bytes of the layer file. */
  readonly size: number;
  /** Where the image may hide attributes of lower layers, which a layer alone cannot know (FORMAT.md, "Undeclared directories"). */
  readonly undeclaredDirectories: UndeclaredDirectories;
}

/**
 * Makes a layer file with an EROFS image from a tar, in one pass: image, dm-verity tree (top level first), trailer. The bytes depend
 * on the tar alone (FORMAT.md). Memory holds the metadata and, unless the sink is {@link discard}, the tree (1/128 of the image).
 *
 * Block 0 holds the superblock, which says where the metadata begin, and that is known last: zeros stand in its place until the very end,
 * so a file that was not finished is no EROFS image.
 * @param observe sees the members and their data as they go by, before this function does
 * @throws {VerityError} ERR_VERITY_TAR, ERR_VERITY_TAR_TRUNCATED, ERR_VERITY_TAR_UNSUPPORTED, ERR_VERITY_TAR_PATH, ERR_VERITY_LIMIT
 */
export async function buildErofsLayer(
  tar: AsyncIterable<Uint8Array>,
  sink: PatchableSink,
  limits: Partial<ErofsLimits> = {},
  observe: (event: TarEvent) => void = () => undefined,
): Promise<ErofsLayerInfo> {
  const bounds = { ...DEFAULT_EROFS_LIMITS, ...limits };
  const scanner = new TarScanner(bounds);
  const layer = new LayerTree(bounds);
  const salt = new Uint8Array(LAYER_SALT_LENGTH);
  const tree = new HashTreeBuilder(salt, { keep: sink === discard ? "edge" : true });
  const image = new ImageWriter(sink, tree);

  await image.write(new Uint8Array(BLOCK));
  for await (const chunk of tar) {
    for (const event of scanner.push(chunk)) {
      observe(event);
      if (event.kind === "member") layer.add(event.member, await image.align());
      else await image.write(event.bytes);
    }
  }
  scanner.end();
  const undeclaredDirectories = layer.finish();
  const metaBlock = await image.align();
  const metadata = layOut(layer.root, metaBlock);
  for (const bytes of metadata.encode()) await image.write(bytes);
  await image.align();
  await image.flush();

  const { rootHash: provisional, dataBlocks, blocks } = tree.finish();
  const superblock = encodeSuperblock({ ...metadata, blocks: metadata.imageBlocks, metaBlock, uuid: uuidOf(provisional) });
  const rootHash = replaceFirstBlock(salt, blocks, dataBlocks, superblock);
  if (sink !== discard) for (const block of blocks) await sink.write(block);
  await sink.write(encodeTrailer(dataBlocks));
  await sink.writeAt(0, superblock);
  return { rootHash, imageSize: dataBlocks * BLOCK, dataBlocks, size: layerBlocks(dataBlocks) * BLOCK, undeclaredDirectories };
}

/**
 * A name for the file system, from the hash of all its other blocks (RFC 9562 section 5.8, version 8). Overlayfs tells its lower layers
 * apart by it: with one name for all it would give up stable inode numbers.
 */
function uuidOf(hash: Uint8Array): Uint8Array {
  const uuid = hash.slice(0, 16);
  uuid[6] = ((uuid[6] ?? 0) & 0x0f) | 0x80;
  uuid[8] = ((uuid[8] ?? 0) & 0x3f) | 0x80;
  return uuid;
}
