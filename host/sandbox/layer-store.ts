import { mkdir, mkdtemp, open, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { asObject, fromHex, messageOf, parseJson, toHex } from "@sealpod/core";
import { chainIds, layerId, type Image, type ImageSource, type Layer } from "@sealpod/oci";
import { buildErofsLayer, buildLayer, patchableSink, type PatchableSink } from "@sealpod/verity";
import { SandboxError } from "./errors.ts";
import type { ContainerLayer, LayerFormat } from "./storages.ts";

/** A layer file in the cache. */
export interface PreparedLayer {
  /** Absolute path. */
  readonly path: string;
  /** dm-verity root hash, 32 bytes. */
  readonly rootHash: Uint8Array;
}

/** How each format is made, and how its files end. */
const FORMATS: Readonly<Record<LayerFormat, { readonly extension: string; readonly build: typeof buildErofsLayer | typeof buildLayer }>> = {
  erofs: { extension: "erofs", build: buildErofsLayer },
  tar: { extension: "layer", build: buildLayer },
};

/** Largest note beside a layer file; real ones have about 100 bytes. */
const MAX_NOTE_LENGTH = 1024;

/**
 * The layer file of an image layer: taken from the cache directory, or made there. Files are named by diff id and format. They are written in a
 * directory of their own and renamed, and two makers write the same bytes: so any number of processes may use one cache without locks.
 *
 * The cache is not trusted: the guest checks every block against the root hash in the policy.
 * @throws {SandboxError} ERR_SANDBOX_LAYER
 * @throws {OciError} if the image is not what its digests say
 */
export async function prepareLayer(directory: string, source: ImageSource, layer: Layer, format: LayerFormat): Promise<PreparedLayer> {
  const digest = /^sha256:([0-9a-f]{64})$/.exec(layer.diffId)?.[1];
  if (digest === undefined)
    throw new SandboxError("ERR_SANDBOX_LAYER", `diff id ${JSON.stringify(layer.diffId.slice(0, 200))} is not sha256: and 64 hex digits`);
  const { extension, build } = FORMATS[format];
  const path = join(directory, `${digest}.${extension}`);
  const note = `${path}.json`;
  return (await readCached(path, note)) ?? (await makeLayer(directory, { path, note }, (sink) => build(source.layerTar(layer), sink)));
}

/**
 * The layer files of an image, bottom first, with the names that policies have for them.
 * @throws {SandboxError} ERR_SANDBOX_LAYER
 * @throws {OciError} if the image is not what its digests say
 */
export async function prepareImage(directory: string, source: ImageSource, image: Image, format: LayerFormat): Promise<readonly ContainerLayer[]> {
  const ids = chainIds(image.layers.map((layer) => layer.diffId)).map(layerId);
  const layers: ContainerLayer[] = [];
  for (const [index, layer] of image.layers.entries()) {
    layers.push({ layerId: ids[index] ?? "", format, ...(await prepareLayer(directory, source, layer, format)) });
  }
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

interface LayerFiles {
  readonly path: string;
  readonly note: string;
}

async function makeLayer(
  directory: string,
  { path, note }: LayerFiles,
  build: (sink: PatchableSink) => Promise<{ readonly rootHash: Uint8Array; readonly size: number }>,
): Promise<PreparedLayer> {
  let beside: string;
  try {
    await mkdir(directory, { recursive: true });
    beside = await mkdtemp(join(directory, ".making-"));
  } catch (cause) {
    throw new SandboxError("ERR_SANDBOX_LAYER", `cannot write to ${directory}: ${messageOf(cause)}`, { cause });
  }
  try {
    const { rootHash, size } = await writeSynced(join(beside, "layer"), build);
    await writeSynced(join(beside, "note"), (sink) => sink.write(Buffer.from(`${JSON.stringify({ rootHash: toHex(rootHash), size })}\n`)));
    // The note last: where it is, the layer is.
    await rename(join(beside, "layer"), path);
    await rename(join(beside, "note"), note);
    return { path, rootHash };
  } finally {
    await rm(beside, { recursive: true, force: true });
  }
}

async function writeSynced<T>(path: string, fill: (sink: PatchableSink) => Promise<T>): Promise<T> {
  await using handle = await open(path, "wx", 0o644);
  const sink = patchableSink(async (offset, bytes) => {
    for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at, bytes.length - at, offset + at)).bytesWritten;
  });
  const result = await fill(sink);
  await handle.sync();
  return result;
}
