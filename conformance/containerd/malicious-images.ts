import { readFileSync } from "node:fs";
import { open, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { toHex } from "@sealpod/core";
import { blobPath, LayoutWriter } from "@sealpod/oci";
import { criApi } from "@sealpod/proto";
import { buildErofsLayer, encodeTar, patchableSink, VERITY_BLOCK } from "@sealpod/verity";
import type { MaliciousHost } from "./malicious-host.ts";
import { IMAGES, until, type ContainerdWorld } from "./test-support.ts";

/** What a malicious host does to images: another one under the name, other bytes under the layer. */

const IMAGE_STATUS = criApi.ImageService.method.imageStatus;

/** What is in a file of the image, and what the host would rather have there: as long, so that nothing else moves. */
const HONEST = "hello from the pod\n";
const FALSE = "hello from a host!\n";

interface Document {
  readonly config: { readonly digest: string };
  readonly layers: readonly { readonly digest: string }[];
}

/** The busybox image: digest of its configuration, diff id and tar of its layer. */
function honestImage({ directory, images }: ContainerdWorld): {
  readonly id: string;
  readonly diffId: string;
  readonly env: readonly string[];
  readonly tar: Buffer;
} {
  const blob = (digest: string): Buffer => readFileSync(join(directory, "layout", blobPath(digest)));
  const manifest = JSON.parse(blob(images.busybox).toString()) as Document;
  const config = JSON.parse(blob(manifest.config.digest).toString()) as {
    readonly config: { readonly Env: readonly string[] };
    readonly rootfs: { readonly diff_ids: readonly string[] };
  };
  const tar = gunzipSync(blob(manifest.layers[0]?.digest ?? ""));
  return { id: manifest.config.digest, diffId: config.rootfs.diff_ids[0] ?? "", env: config.config.Env, tar };
}

function falseTar(tar: Buffer): Buffer {
  const at = tar.indexOf(HONEST);
  if (at === -1) throw new Error("the image has no such file");
  const changed = Buffer.from(tar);
  changed.write(FALSE, at, "latin1");
  return changed;
}

async function* whole(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield await Promise.resolve(bytes);
}

/** Has containerd run another image under the name of busybox while something is done: it differs in a word of one file. */
export async function withOtherImage<T>({ world }: MaliciousHost, act: () => Promise<T>): Promise<T> {
  const { id, env, tar } = honestImage(world);
  const files = new Map<string, Uint8Array>();
  const parts = (): { write: (bytes: Uint8Array) => Promise<void>; commit: (path: string) => Promise<void>; abort: () => Promise<void> } => {
    const written: Uint8Array[] = [];
    return {
      write: (bytes) => Promise.resolve(void written.push(bytes.slice())),
      commit: (path) => Promise.resolve(void files.set(path, Buffer.concat(written))),
      abort: () => Promise.resolve(),
    };
  };
  const writer = new LayoutWriter({ create: () => Promise.resolve(parts()) });
  const layer = await writer.addLayer(whole(falseTar(tar)), { compression: "none" });
  const config = { user: "", env, entrypoint: [], cmd: ["/bin/sh"], workingDir: "" };
  await writer.addImage(IMAGES.busybox, { config, layers: [layer] });
  await writer.finish();
  const archive = join(world.directory, "other.tar");
  const items = [...files].map(([path, data]) => ({ kind: "file" as const, path, data, mode: 0o644, uid: 0, gid: 0, mtime: 0 }));
  await writeFile(archive, encodeTar(items));
  const images = (...args: readonly string[]): Promise<string> => world.inside("ctr", "--namespace", "k8s.io", "images", ...args);
  // CRI hears of it by an event.
  const known = async (isHonest: boolean): Promise<void> => {
    const { image } = await world.cri(IMAGE_STATUS, { image: { image: IMAGES.busybox } });
    if ((image?.id === id) !== isHonest) throw new Error(`the name stands for ${image?.id ?? "nothing"}`);
  };
  const kept = "sealpod.internal/kept:1";
  await images("tag", IMAGES.busybox, kept);
  try {
    await images("import", "--no-unpack", archive);
    await until(() => known(false));
    return await act();
  } finally {
    await images("tag", "--force", kept, IMAGES.busybox);
    await images("rm", "--sync", kept);
    await until(() => known(true));
  }
}

/** What a host can do to the file of a layer in the cache of its node. */
export type LayerChange = "its first block" | "a file in it" | "its tree" | "all of it, with another root hash";

type Change = (path: string, world: ContainerdWorld) => Promise<void>;

const CHANGES: Readonly<Record<LayerChange, Change>> = {
  "its first block": flip(() => Promise.resolve(1100)),
  "a file in it": flip(async (path) => (await readFile(path)).indexOf(HONEST)),
  "its tree": flip(async (path) => (await stat(path)).size - 2 * VERITY_BLOCK),
  "all of it, with another root hash": remake,
};

function flip(offsetIn: (path: string) => Promise<number>): Change {
  return async (path) => {
    const offset = await offsetIn(path);
    await using file = await open(path, "r+");
    const byte = new Uint8Array(1);
    await file.read(byte, 0, 1, offset);
    await file.write(Uint8Array.of((byte[0] ?? 0) ^ 1), 0, 1, offset);
    await file.sync();
  };
}

async function remake(path: string, world: ContainerdWorld): Promise<void> {
  // The file, as large as before, and the note beside it. Into the same file: machines have it open.
  await using file = await open(path, "r+");
  const sink = patchableSink(async (offset, bytes) => {
    for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at, bytes.length - at, offset + at)).bytesWritten;
  });
  const { rootHash, size } = await buildErofsLayer(whole(falseTar(honestImage(world).tar)), sink);
  if (size !== (await file.stat()).size) throw new Error("the layer has another size");
  await writeFile(`${path}.json`, JSON.stringify({ rootHash: toHex(rootHash), size }));
}

/** Changes the cached layer of busybox while something is done. A pod with the image must have run before. */
export async function withChangedLayer<T>(host: MaliciousHost, change: LayerChange, act: () => Promise<T>): Promise<T> {
  const path = join(host.layerDirectory, `${honestImage(host.world).diffId.replace("sha256:", "")}.erofs`);
  const before = await Promise.all([readFile(path), readFile(`${path}.json`)]);
  try {
    await CHANGES[change](path, host.world);
    return await act();
  } finally {
    await using file = await open(path, "r+");
    await file.writeFile(before[0]);
    await writeFile(`${path}.json`, before[1]);
  }
}
