import { mkdir, mkdtemp, open, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { asObject, fromHex, messageOf, parseJson, toHex } from "@sealpod/core";
import { chainIds, layerId, type Image, type ImageSource, type Layer } from "@sealpod/oci";
import { buildLayer } from "@sealpod/verity";
import { SandboxError } from "./errors.ts";
import type { ContainerLayer } from "./storages.ts";

/** A layer file in the cache. */
export interface PreparedLayer {
  /** Absolute path. */
  readonly path: string;
  /** dm-verity root hash, 32 bytes. */
  readonly rootHash: Uint8Array;
}

/** Largest note beside a layer file; real ones have about 100 bytes. */
const MAX_NOTE_LENGTH = 1024;

/**
 * The layer file of an image layer: taken from the cache directory, or made there. Files are named by diff id. They are written in a
 * directory of their own and renamed, and two makers write the same bytes: so any number of processes may use one cache without locks.
 *
 * The cache is not trusted: the guest checks every block against the root hash in the policy.
 * @throws {SandboxError} ERR_SANDBOX_LAYER
 * @throws {OciError} if the image is not what its digests say
 */
export async function prepareLayer(directory: string, source: ImageSource, layer: Layer): Promise<PreparedLayer> {
  const digest = /^sha256:([0-9a-f]{64})$/.exec(layer.diffId)?.[1];
  if (digest === undefined)
    throw new SandboxError("ERR_SANDBOX_LAYER", `diff id ${JSON.stringify(layer.diffId.slice(0, 200))} is not sha256: and 64 hex digits`);
  const path = join(directory, `${digest}.layer`);
  const note = join(directory, `${digest}.json`);
  return (await readCached(path, note)) ?? (await makeLayer(directory, path, note, source.layerTar(layer)));
}

/**
 * The layer files of an image, bottom first, with the names that policies have for them.
 * @throws {SandboxError} ERR_SANDBOX_LAYER
 * @throws {OciError} if the image is not what its digests say
 */
export async function prepareImage(directory: string, source: ImageSource, image: Image): Promise<readonly ContainerLayer[]> {
  const ids = chainIds(image.layers.map((layer) => layer.diffId)).map(layerId);
  const layers: ContainerLayer[] = [];
  for (const [index, layer] of image.layers.entries()) layers.push({ layerId: ids[index] ?? "", ...(await prepareLayer(directory, source, layer)) });
  return layers;
}

async function readCached(path: string, note: string): Promise<PreparedLayer | undefined> {
  try {
    const text = await readFile(note, "utf8");
    const { rootHash, size } = { rootHash: undefined, size: undefined, ...asObject(parseJson(text, note, { maxLength: MAX_NOTE_LENGTH, maxDepth: 2 })) };
    if (typeof rootHash !== "string" || !/^[0-9a-f]{64}$/.test(rootHash) || size !== (await stat(path)).size) return undefined;
    return { path, rootHash: fromHex(rootHash) };
  } catch {
    // Absent or damaged: it is made again, over what is there.
    return undefined;
  }
}

async function makeLayer(directory: string, path: string, note: string, tar: AsyncIterable<Uint8Array>): Promise<PreparedLayer> {
  let beside: string;
  try {
    await mkdir(directory, { recursive: true });
    beside = await mkdtemp(join(directory, ".making-"));
  } catch (cause) {
    throw new SandboxError("ERR_SANDBOX_LAYER", `cannot write to ${directory}: ${messageOf(cause)}`, { cause });
  }
  try {
    const { rootHash, size } = await writeSynced(join(beside, "layer"), (write) => buildLayer(tar, { write }));
    await writeSynced(join(beside, "note"), (write) => write(Buffer.from(`${JSON.stringify({ rootHash: toHex(rootHash), size })}\n`)));
    // The note last: where it is, the layer is.
    await rename(join(beside, "layer"), path);
    await rename(join(beside, "note"), note);
    return { path, rootHash };
  } finally {
    await rm(beside, { recursive: true, force: true });
  }
}

async function writeSynced<T>(path: string, fill: (write: (bytes: Uint8Array) => Promise<void>) => Promise<T>): Promise<T> {
  await using handle = await open(path, "wx", 0o644);
  const result = await fill((bytes) => handle.appendFile(bytes));
  await handle.sync();
  return result;
}
