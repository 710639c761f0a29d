import { mkdtemp, readFile, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { concatBytes, fromHex, toHex, type ByteSource } from "@sealpod/core";
import type { Image, ImageSource, Layer } from "@sealpod/oci";
import { buildErofsLayer, openLayer } from "@sealpod/verity";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { prepareImage, prepareLayer } from "./index.ts";

/** Docker's empty layer and its root hash, which occurs in real policies (specs/genpolicy.md 5.7). */
const EMPTY = { diffId: "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef", digest: "", size: 0, mediaType: "" };
const EMPTY_ROOT = "67450082ab56da1aecc5eae2f18d980cd9e7306e79334a1a826a91cfd90114a8";

class Source implements ImageSource {
  reads = 0;
  readonly #fail: boolean;

  constructor(fail = false) {
    this.#fail = fail;
  }

  resolve(): Promise<Image> {
    throw new Error("not used");
  }

  layerBlob(): never {
    throw new Error("not used");
  }

  async *layerTar(_layer: Layer): AsyncGenerator<Uint8Array> {
    this.reads++;
    yield new Uint8Array(700);
    // Lets another maker run in between.
    await new Promise((resolve) => setImmediate(resolve));
    if (this.#fail) throw new Error("digest does not match");
    yield new Uint8Array(324);
  }
}

let directory = "";

beforeEach(async () => {
  directory = join(await mkdtemp(join(tmpdir(), "sealpod-layers-")), "layers");
});

afterEach(async () => {
  await rm(join(directory, ".."), { recursive: true });
});

function memory(bytes: Uint8Array): ByteSource {
  return { size: bytes.length, read: async (offset, length) => bytes.subarray(offset, offset + length) };
}

describe("layer cache", () => {
  const hex = EMPTY.diffId.slice("sha256:".length);

  it("makes a layer file that the guest can verify, once", async () => {
    const source = new Source();
    const first = await prepareLayer(directory, source, EMPTY, "tar");
    expect(toHex(first.rootHash)).toBe(EMPTY_ROOT);
    expect(first.path).toBe(join(directory, `${hex}.layer`));
    expect((await readdir(directory)).sort()).toEqual([`${hex}.layer`, `${hex}.layer.json`]);
    const layer = await openLayer(memory(await readFile(first.path)), first.rootHash);
    let size = 0;
    for await (const chunk of layer.tar()) size += chunk.length;
    expect(size).toBe(1024);
    expect(await prepareLayer(directory, source, EMPTY, "tar")).toEqual(first);
    expect(source.reads).toBe(1);
  });

  it("keeps the two formats of a layer apart", async () => {
    const source = new Source();
    const [tar, erofs] = [await prepareLayer(directory, source, EMPTY, "tar"), await prepareLayer(directory, source, EMPTY, "erofs")];
    expect(erofs.path).toBe(join(directory, `${hex}.erofs`));
    expect(erofs.rootHash).not.toEqual(tar.rootHash);
    const written: Uint8Array[] = [];
    const made = await buildErofsLayer(source.layerTar(EMPTY), {
      write: async (bytes) => void written.push(Uint8Array.from(bytes)),
      writeAt: async (offset, bytes) => written[0]?.set(bytes, offset),
    });
    expect(erofs.rootHash).toEqual(made.rootHash);
    expect(new Uint8Array(await readFile(erofs.path))).toEqual(concatBytes(...written));
    expect([await prepareLayer(directory, source, EMPTY, "tar"), await prepareLayer(directory, source, EMPTY, "erofs")]).toEqual([tar, erofs]);
    expect(source.reads).toBe(3);
  });

  it("takes any number of makers at once", async () => {
    const source = new Source();
    const all = await Promise.all(Array.from({ length: 8 }, () => prepareLayer(directory, source, EMPTY, "tar")));
    expect(new Set(all.map((layer) => toHex(layer.rootHash)))).toEqual(new Set([EMPTY_ROOT]));
    expect((await readdir(directory)).sort()).toEqual([`${hex}.layer`, `${hex}.layer.json`]);
  });

  it("leaves nothing of a layer that is not what its digest says", async () => {
    await expect(prepareLayer(directory, new Source(true), EMPTY, "tar")).rejects.toThrow("digest does not match");
    expect(await readdir(directory)).toEqual([]);
  });

  it.each([
    ["the file is cut off", async (path: string) => truncate(path, 4096)],
    ["the file is gone", async (path: string) => rm(path)],
    ["the note is no JSON", async (_path: string, note: string) => writeFile(note, "{")],
    ["the note is of another form", async (_path: string, note: string) => writeFile(note, '{"rootHash":"zz","size":1}')],
  ])("makes a layer again if %s", async (_what, damage) => {
    const source = new Source();
    const first = await prepareLayer(directory, source, EMPTY, "tar");
    const bytes = await readFile(first.path);
    await damage(first.path, join(directory, `${hex}.layer.json`));
    expect(await prepareLayer(directory, source, EMPTY, "tar")).toEqual(first);
    expect(await readFile(first.path)).toEqual(bytes);
    expect(source.reads).toBe(2);
  });

  it("refuses a diff id that is no digest: it would name a file", async () => {
    for (const diffId of ["sha256:../../etc/passwd", "sha512:aa", `sha256:${"A".repeat(64)}`]) {
      await expect(prepareLayer(directory, new Source(), { ...EMPTY, diffId }, "erofs")).rejects.toMatchObject({ code: "ERR_SANDBOX_LAYER" });
    }
  });

  it("names the layers of an image as policies do", async () => {
    const image = { layers: [EMPTY, EMPTY] } as unknown as Image;
    const layers = await prepareImage(directory, new Source(), image, "tar");
    expect(layers.map((layer) => [layer.layerId.length, layer.path])).toEqual([
      [64, join(directory, `${hex}.layer`)],
      [64, join(directory, `${hex}.layer`)],
    ]);
    expect(layers[0]?.layerId).not.toBe(layers[1]?.layerId);
    expect(layers[0]?.rootHash).toEqual(fromHex(EMPTY_ROOT));
  });
});
