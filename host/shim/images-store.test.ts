import { once } from "node:events";
import { mkdir, mkdtemp, readdir, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Image, ImageSource, Layer } from "@sealpod/oci";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LayerStore, type PresentBlobs } from "./images-store.ts";

const EMPTY = { diffId: "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef", size: 0, mediaType: "" };
const HEX = EMPTY.diffId.slice("sha256:".length);
const blob = (digit: string): string => `sha256:${digit.repeat(64)}`;
const layerFrom = (digit: string): Layer => ({ ...EMPTY, digest: blob(digit) });

class Source implements ImageSource {
  reads = 0;

  resolve(): Promise<Image> {
    throw new Error("not used");
  }

  layerBlob(): never {
    throw new Error("not used");
  }

  async *layerTar(): AsyncGenerator<Uint8Array> {
    this.reads++;
    for (let i = 0; i < 2; i++) {
      // Lets another maker run in between.
      await new Promise((resolve) => setImmediate(resolve));
      yield new Uint8Array(512);
    }
  }
}

/** A containerd that has these blobs, and notes how it was asked. */
const having =
  (digits: readonly string[], asked: number[] = []): PresentBlobs =>
  (digests) => {
    asked.push(digests.size);
    return Promise.resolve(new Set([...digests].filter((digest) => digits.map(blob).includes(digest))));
  };

let root = "";
let directory = "";
let now = 0;
const open = (address = "/run/one.sock"): LayerStore => new LayerStore(directory, address, { now: () => now });
const layerFiles = async (): Promise<readonly string[]> => (await readdir(directory)).filter((name) => !/\.from-|^\.swept-/.test(name)).toSorted();
const marks = async (): Promise<number> => (await readdir(directory)).filter((name) => name.includes(".from-")).length;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "sealpod-store-"));
  directory = join(root, "layers");
  now = Date.now();
});

afterEach(async () => {
  await rm(root, { recursive: true });
});

describe("the node's layer files", () => {
  it("are made once, however many shims want one at once", async () => {
    const source = new Source();
    const all = await Promise.all(Array.from({ length: 8 }, (_, i) => open(`/run/${i % 2}.sock`).prepare(source, layerFrom("a"), "erofs")));
    expect(source.reads).toBe(1);
    expect(new Set(all.map(({ path }) => path))).toEqual(new Set([join(directory, `${HEX}.erofs`)]));
    expect(await layerFiles()).toEqual([`${HEX}.erofs`, `${HEX}.erofs.json`]);
    // One for each containerd.
    expect(await marks()).toBe(2);
  });

  it("are not for other users to read", async () => {
    await open().prepare(new Source(), layerFrom("a"), "tar");
    const { mode } = await stat(directory);
    expect(mode & 0o777).toBe(0o700);
  });

  it.each(["sha256:../../etc/passwd", "sha512:aa", ""])("are not named after %j", async (diffId) => {
    await expect(open().prepare(new Source(), { ...layerFrom("a"), diffId }, "erofs")).rejects.toMatchObject({ code: "ERR_OCI_DIGEST" });
    await expect(open().prepare(new Source(), { ...layerFrom("a"), digest: diffId }, "erofs")).rejects.toMatchObject({ code: "ERR_OCI_DIGEST" });
    expect(await readdir(root)).toEqual([]);
  });

  it("say why there can be none", async () => {
    await writeFile(directory, "");
    await expect(open().prepare(new Source(), layerFrom("a"), "erofs")).rejects.toMatchObject({ code: "ERR_SANDBOX_LAYER" });
  });
});

describe("a sweep", () => {
  it("removes a layer in all its formats when containerd has no blob of it any more", async () => {
    const store = open();
    for (const [digit, format] of [
      ["a", "erofs"],
      ["b", "tar"],
    ] as const)
      await store.prepare(new Source(), layerFrom(digit), format);
    expect(await store.sweep(having(["a", "b"]))).toEqual([]);
    expect(await store.sweep(having(["b"]))).toEqual([]);
    expect(await layerFiles()).toHaveLength(4);
    expect(await marks()).toBe(1);
    expect(await store.sweep(having([]))).toEqual([EMPTY.diffId]);
    expect(await readdir(directory)).toEqual([]);
    expect(await store.sweep(having([]))).toEqual([]);
  });

  it("keeps a layer that another containerd has, and what is somebody else's", async () => {
    const other = `${"1".repeat(64)}.erofs`;
    await open("/run/one.sock").prepare(new Source(), layerFrom("a"), "erofs");
    await open("/run/two.sock").prepare(new Source(), layerFrom("a"), "erofs");
    for (const name of [other, `${other}.json`, "notes.txt", `${HEX}.from-elsewhere`]) await writeFile(join(directory, name), "");
    expect(await open("/run/one.sock").sweep(having([]))).toEqual([]);
    expect(await layerFiles()).toEqual([`${HEX}.erofs`, `${HEX}.erofs.json`, other, `${other}.json`, "notes.txt"].toSorted());
    // A mark of a form that is not known is a mark still.
    expect(await open("/run/two.sock").sweep(having([]))).toEqual([]);
    expect(await layerFiles()).toContain(`${HEX}.erofs`);
  });

  it("looks again under the layer's lock: an image that came back in the meantime keeps its layers", async () => {
    const store = open();
    await store.prepare(new Source(), layerFrom("a"), "erofs");
    const asked: number[] = [];
    const answers = [having([], asked), having(["a"], asked)];
    expect(await store.sweep((digests) => (answers.shift() ?? having([]))(digests))).toEqual([]);
    expect(asked).toEqual([1, 1]);
    expect(await layerFiles()).toHaveLength(2);
  });

  it("leaves a layer alone that is being made", async () => {
    const [entered, left] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const slow = new (class extends Source {
      override async *layerTar(): AsyncGenerator<Uint8Array> {
        entered.resolve();
        await left.promise;
        yield new Uint8Array(1024);
      }
    })();
    const making = open().prepare(slow, layerFrom("a"), "erofs");
    await entered.promise;
    expect(await open().sweep(having([]))).toEqual([]);
    left.resolve();
    expect(await layerFiles()).not.toEqual([]);
    expect((await making).path).toBe(join(directory, `${HEX}.erofs`));
    expect(await layerFiles()).toHaveLength(2);
  });

  it("is one for all that were told of the same removal", async () => {
    await open().prepare(new Source(), layerFrom("a"), "erofs");
    const asked: number[] = [];
    const told = now;
    now += 1000;
    const slow: PresentBlobs = async (digests) => {
      await new Promise((resolve) => setImmediate(resolve));
      return having(["a"], asked)(digests);
    };
    await Promise.all(Array.from({ length: 10 }, () => open().sweep(slow, told)));
    expect(asked).toEqual([1]);
    // What is told after it began is another's to look for, and what another containerd has is, too.
    await open().sweep(slow, now);
    await open("/run/two.sock").sweep(slow, told);
    expect(asked).toEqual([1, 1]);
    expect(await open("/run/two.sock").sweep(slow, told)).toEqual([]);
    // A clock that went back, and one that failed.
    now -= 500;
    await open().sweep(slow, told);
    expect(asked).toEqual([1, 1, 1]);
    now += 1000;
    await expect(open().sweep(() => Promise.reject(new Error("no containerd")), now - 500)).rejects.toThrow("no containerd");
    await open().sweep(slow, told);
    expect(asked).toEqual([1, 1, 1, 1]);
  });

  it("removes nothing if containerd cannot be asked", async () => {
    const store = open();
    await store.prepare(new Source(), layerFrom("a"), "erofs");
    await expect(store.sweep(() => Promise.reject(new Error("no containerd")))).rejects.toThrow("no containerd");
    expect(await layerFiles()).toHaveLength(2);
  });

  it("removes what killed shims left, and not what others are writing", async () => {
    await open().prepare(new Source(), layerFrom("a"), "erofs");
    const half = join(directory, ".making-abcdef");
    await mkdir(half);
    await writeFile(join(half, "layer"), "");
    // The directory is old, what is written in it is not.
    await utimes(half, now / 1000 - 10_000, now / 1000 - 10_000);
    const server = createServer();
    server.listen(join(root, "socket"));
    await once(server, "listening");
    await rename(join(root, "socket"), join(directory, ".lock-0123456789abcdef"));
    server.close();
    await open().sweep(having(["a"]));
    expect(await layerFiles()).toEqual([".making-abcdef", `${HEX}.erofs`, `${HEX}.erofs.json`]);
    now += 2 * 3_600_000;
    await open().sweep(having(["a"]));
    expect(await layerFiles()).toEqual([`${HEX}.erofs`, `${HEX}.erofs.json`]);
  });

  it("asks nothing and makes nothing where nothing is", async () => {
    const asked: number[] = [];
    expect(await open().sweep(having([], asked))).toEqual([]);
    await mkdir(directory);
    expect(await open().sweep(having([], asked))).toEqual([]);
    expect(asked).toEqual([]);
    expect(await readdir(directory)).toEqual([]);
  });

  it("finds the mark of a layer whose making failed", async () => {
    const failing = new (class extends Source {
      // oxlint-disable-next-line require-yield
      override async *layerTar(): AsyncGenerator<Uint8Array> {
        await Promise.reject(new Error("digest does not match"));
      }
    })();
    await expect(open().prepare(failing, layerFrom("a"), "erofs")).rejects.toThrow("digest does not match");
    expect(await marks()).toBe(1);
    expect(await open().sweep(having([]))).toEqual([EMPTY.diffId]);
    expect(await readdir(directory)).toEqual([]);
  });
});
