import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  announce,
  buildImage,
  emptyNamespace,
  FakeContainerd,
  METHODS,
  nodeHandlers,
  noise,
  putImage,
  text,
  type Handler,
  type NamespaceState,
  type NodeState,
  type TestImage,
} from "@sealpod/containerd/testing";
import { encodeUtf8, toHex, type ByteSource, type LogLevel } from "@sealpod/core";
import { chainIds, digestOf, layerId } from "@sealpod/oci";
import { openLayer } from "@sealpod/verity";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ContainerdImages, type ContainerdImagesPorts } from "./images.ts";

const NAME = "registry.example.com/team/app:1";
const image = await buildImage([noise(20_000), text("the second layer\n")], NAME);
const other = await buildImage([text("another image\n")], NAME);
const chains = chainIds(image.layers.map(({ diffId }) => diffId));

let root = "";
let state: NodeState;
let namespace: NamespaceState;
let fake: FakeContainerd;
let changes: Map<string, Handler>;
let lines: string[];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "sealpod-images-"));
  namespace = emptyNamespace();
  state = { namespaces: new Map([["k8s.io", namespace]]), subscribers: new Set() };
  putImage(namespace, NAME, image);
  addContainer("c1", NAME);
  changes = new Map();
  lines = [];
  const handlers = nodeHandlers(state);
  fake = await FakeContainerd.start(new Map([...handlers].map(([name, handler]): [string, Handler] => [name, (call) => (changes.get(name) ?? handler)(call)])));
});

afterEach(async () => {
  await fake.close();
  await rm(root, { recursive: true });
});

function addContainer(id: string, name: string, parent = chains.at(-1) ?? ""): void {
  namespace.containers.set(id, { image: name, snapshotter: "overlayfs", snapshotKey: id });
  namespace.snapshots.set(`overlayfs/${id}`, parent);
}

const open = (ports: ContainerdImagesPorts = {}, namespaceName = "k8s.io"): ContainerdImages =>
  new ContainerdImages(
    {
      address: fake.path,
      namespace: namespaceName,
      layerDirectory: join(root, "layers"),
      logger: { log: (level: LogLevel, message) => void lines.push(`${level}: ${message}`) },
      clock: { now: () => Date.now() },
      timeouts: { answer: 2000 },
    },
    ports,
  );

const files = async (): Promise<number> => (await readdir(join(root, "layers"))).filter((name) => /\.(erofs|layer)$/.test(name)).length;

function memory(bytes: Uint8Array): ByteSource {
  return { size: bytes.length, read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)) };
}

/** The error of a container's layers. */
async function failure(id = "c1", annotations: Readonly<Record<string, string>> = {}): Promise<{ code: string; message: string; hint: string }> {
  return open()
    .layersOf(id, annotations, "erofs")
    .then(
      () => {
        throw new Error("the layers are there");
      },
      (error: unknown) => error as { code: string; message: string; hint: string },
    );
}

describe("the layers of a container", () => {
  it.each(["erofs", "tar"] as const)("come out of containerd's content store, as %s files that the guest can verify", async (format) => {
    const layers = await open().layersOf("c1", {}, format);
    expect(layers.map((layer) => layer.layerId)).toEqual(chains.map(layerId));
    expect(layers.map((layer) => layer.format)).toEqual([format, format]);
    expect(layers.map((layer) => layer.path)).toEqual(
      image.layers.map(({ diffId }) => join(root, "layers", `${diffId.slice(7)}.${format === "tar" ? "layer" : "erofs"}`)),
    );
    if (format !== "tar") return;
    for (const [i, { path, rootHash }] of layers.entries()) {
      const layer = await openLayer(memory(await readFile(path)), rootHash);
      const parts: Uint8Array[] = [];
      for await (const part of layer.tar()) parts.push(part);
      expect(digestOf(Buffer.concat(parts))).toBe(image.layers[i]?.diffId);
    }
  });

  it("are taken from the cache the second time, by any shim", async () => {
    const first = await open().layersOf("c1", {}, "erofs");
    const reads = (): number => fake.calls.filter((call) => call === METHODS.read).length;
    const before = reads();
    expect(await open().layersOf("c1", {}, "erofs")).toEqual(first);
    // Manifest and configuration.
    expect(reads() - before).toBe(2);
  });

  it("are made once for shims that start at once", async () => {
    const all = await Promise.all(Array.from({ length: 4 }, () => open().layersOf("c1", {}, "erofs")));
    expect(new Set(all.map((layers) => JSON.stringify(layers.map(({ path, rootHash }) => [path, toHex(rootHash)])))).size).toBe(1);
    expect(fake.calls.filter((call) => call === METHODS.read)).toHaveLength(4 * 2 + 2);
  });

  it("may be the same one several times", async () => {
    const twice = await buildImage([text("same\n"), text("x\n"), text("same\n")], NAME);
    // The first and the third are the same but for the name of the file in them, so the third is made the first's twin.
    const repeated = await repeatFirst(twice);
    putImage(namespace, "twice", repeated.image);
    addContainer("c2", "twice", repeated.chain);
    const layers = await open().layersOf("c2", {}, "erofs");
    expect(layers).toHaveLength(3);
    expect(layers[2]?.path).toBe(layers[0]?.path);
    expect(layers[2]?.layerId).not.toBe(layers[0]?.layerId);
  });

  it("are those of the namespace that the shim serves, under whatever name", async () => {
    const imported = "Whatever Somebody Imported";
    const own = emptyNamespace();
    putImage(own, imported, image);
    own.containers.set("c1", { image: imported, snapshotter: "", snapshotKey: "" });
    state.namespaces.set("default", own);
    expect(await open({}, "default").layersOf("c1", {}, "erofs")).toHaveLength(2);
  });

  it("are found by CRI's name if the record's is gone or moved", async () => {
    putImage(namespace, "docker.io/library/app:1", image);
    addContainer("gone", "registry.example.com/no/longer:1");
    addContainer("moved", "registry.example.com/moved:1");
    putImage(namespace, "registry.example.com/moved:1", other);
    for (const id of ["gone", "moved"]) {
      for (const annotation of ["io.kubernetes.cri.image-name", "io.kubernetes.cri.podsandbox.image-name"])
        expect((await open().layersOf(id, { [annotation]: "app:1" }, "erofs")).map((layer) => layer.layerId)).toEqual(chains.map(layerId));
    }
    putImage(namespace, `docker.io/library/app@${image.manifest}`, image);
    expect(await open().layersOf("gone", { "io.kubernetes.cri.image-name": `app:7@${image.manifest}` }, "erofs")).toHaveLength(2);
  });

  it("are those of a snapshot with mapped users, too", async () => {
    addContainer("mapped", NAME, `${chains.at(-1) ?? ""}-1000-1000`);
    expect(await open().layersOf("mapped", {}, "erofs")).toHaveLength(2);
  });

  it("cannot be had for a container that containerd does not know", async () => {
    expect(await failure("c9")).toMatchObject({ code: "ERR_SHIM_IMAGE", message: "containerd has no container c9 in namespace k8s.io" });
  });

  it("cannot be had for a directory of the host (ctr run --rootfs)", async () => {
    namespace.containers.set("bare", { image: "", snapshotter: "", snapshotKey: "" });
    const error = await failure("bare");
    expect(error).toMatchObject({ code: "ERR_SHIM_IMAGE", message: expect.stringContaining("without an image") as string });
    expect(error.hint).toContain("--rootfs");
  });

  it("cannot be had of an image that was removed", async () => {
    namespace.images.clear();
    expect(await failure()).toMatchObject({ code: "ERR_SHIM_IMAGE", message: expect.stringContaining(`image ${NAME} of container c1`) as string });
  });

  it("are not those of the image that the tag was moved to", async () => {
    putImage(namespace, NAME, other);
    const error = await failure();
    expect(error).toMatchObject({ code: "ERR_SHIM_IMAGE", message: expect.stringContaining("is another image now") as string });
    // Nothing was made of it.
    await expect(readdir(join(root, "layers"))).rejects.toMatchObject({ code: "ENOENT" });
  });

  it.each([
    ["a layer", 1],
    ["the configuration", undefined],
  ])("that containerd dropped %s of are one clear error, with what to do", async (_, index) => {
    const digest = index === undefined ? image.config : (image.layers[index]?.digest ?? "");
    namespace.blobs.delete(digest);
    const error = await failure();
    expect(error).toMatchObject({ code: "ERR_SHIM_IMAGE", details: { image: NAME, digest } });
    expect(error.message).toMatch(/discard_unpacked_layers/);
    expect(error.hint).toContain(`ctr --namespace k8s.io content fetch --platform linux/amd64 ${NAME}`);
  });

  it("are refused if a blob is not what its digest says, and leave nothing", async () => {
    const [layer] = image.layers;
    const bytes = namespace.blobs.get(layer?.digest ?? "");
    if (layer === undefined || bytes === undefined) throw new Error("no layer");
    const damaged = Uint8Array.from(bytes);
    damaged[1000] = (damaged[1000] ?? 0) ^ 1;
    namespace.blobs.set(layer.digest, damaged);
    expect(await failure()).toMatchObject({ code: "ERR_OCI_MISMATCH" });
    expect((await readdir(join(root, "layers"))).some((name) => name.startsWith(`${layer.diffId.slice(7)}.erofs`))).toBe(false);
  });

  it("say that containerd is gone", async () => {
    changes.set(METHODS.container, (call) => call.end(14, "shutting down"));
    expect(await failure()).toMatchObject({ code: "ERR_CONTAINERD_STATUS", message: expect.stringContaining("shutting down") as string });
  });
});

/** The image with its third layer replaced by its first. */
async function repeatFirst(built: TestImage): Promise<{ readonly image: TestImage; readonly chain: string }> {
  const decode = (digest: string): Record<string, unknown> =>
    JSON.parse(new TextDecoder().decode(built.files.get(`blobs/sha256/${digest.slice(7)}`))) as Record<string, unknown>;
  const config = decode(built.config) as { rootfs: { diff_ids: string[] } };
  const manifest = decode(built.manifest) as { config: { digest: string; size: number }; layers: unknown[] };
  const diffIds = [config.rootfs.diff_ids[0] ?? "", config.rootfs.diff_ids[1] ?? "", config.rootfs.diff_ids[0] ?? ""];
  config.rootfs.diff_ids = diffIds;
  const configBytes = encodeUtf8(JSON.stringify(config));
  manifest.layers = [manifest.layers[0], manifest.layers[1], manifest.layers[0]];
  manifest.config = { ...manifest.config, digest: digestOf(configBytes), size: configBytes.length };
  const bytes = encodeUtf8(JSON.stringify(manifest));
  const files = new Map(built.files);
  for (const blob of [configBytes, bytes]) files.set(`blobs/sha256/${digestOf(blob).slice(7)}`, blob);
  return { image: { ...built, files, manifest: digestOf(bytes), manifestSize: bytes.length }, chain: chainIds(diffIds).at(-1) ?? "" };
}

describe("a sweep", () => {
  it("removes the layers of an image that no namespace has any more", async () => {
    await open().layersOf("c1", {}, "erofs");
    expect(await open().sweep()).toEqual([]);
    const copy = emptyNamespace();
    putImage(copy, "kept", image);
    state.namespaces.set("default", copy);
    namespace.blobs.clear();
    expect(await open().sweep()).toEqual([]);
    expect(await files()).toBe(2);
    copy.blobs.clear();
    expect([...(await open().sweep())].toSorted()).toEqual(image.layers.map(({ diffId }) => diffId).toSorted());
    expect(await readdir(join(root, "layers"))).toEqual([]);
  });

  it("asks for many blobs by one list", async () => {
    const large = await buildImage(
      Array.from({ length: 12 }, (_, i) => text(`layer ${i}\n`)),
      "large",
    );
    putImage(namespace, "large", large);
    addContainer("c2", "large", chainIds(large.layers.map(({ diffId }) => diffId)).at(-1));
    await open().layersOf("c2", {}, "erofs");
    const before = fake.calls.length;
    expect(await open().sweep()).toEqual([]);
    expect(fake.calls.slice(before)).toEqual([METHODS.namespaces, METHODS.list]);
    const [gone] = large.layers;
    namespace.blobs.delete(gone?.digest ?? "");
    expect(await open().sweep()).toEqual([gone?.diffId]);
    expect(await files()).toBe(11);
  });

  it("removes nothing if containerd does not answer", async () => {
    await open().layersOf("c1", {}, "erofs");
    namespace.blobs.clear();
    changes.set(METHODS.namespaces, (call) => call.end(14, "shutting down"));
    await expect(open().sweep()).rejects.toMatchObject({ code: "ERR_CONTAINERD_STATUS" });
    changes.clear();
    changes.set(METHODS.info, (call) => call.end(2, "disk failed"));
    await expect(open().sweep()).rejects.toMatchObject({ code: "ERR_CONTAINERD_STATUS" });
    expect(await files()).toBe(2);
  });
});

/** A delay that tests let pass. */
class Delays {
  readonly jitter = (): number => 0;
  readonly asked: number[] = [];
  #waiting: { readonly milliseconds: number; readonly resolve: () => void }[] = [];
  readonly #news: (() => void)[] = [];

  readonly delay = (milliseconds: number, signal?: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      this.asked.push(milliseconds);
      this.#waiting.push({ milliseconds, resolve });
      if (signal?.aborted === true) reject(signal.reason as Error);
      signal?.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      for (const tell of this.#news.splice(0)) tell();
    });

  /** Waits until delays of that length are under way, and ends them. */
  async pass(milliseconds: number): Promise<void> {
    const isMeant = (item: { readonly milliseconds: number }): boolean => item.milliseconds === milliseconds;
    while (!this.#waiting.some(isMeant)) await new Promise<void>((resolve) => this.#news.push(resolve));
    for (const { resolve } of this.#waiting.filter(isMeant)) resolve();
    this.#waiting = this.#waiting.filter((item) => !isMeant(item));
  }
}

describe("a watch", () => {
  const subscribed = async (): Promise<void> => {
    while (state.subscribers.size === 0) await new Promise((resolve) => setImmediate(resolve));
  };

  it("removes layers when containerd tells that an image is gone, and looks again while containerd collects", async () => {
    const delays = new Delays();
    const images = open(delays);
    await images.layersOf("c1", {}, "erofs");
    const watch = images.watch();
    await subscribed();
    // containerd tells before it collects.
    announce(state, "k8s.io", "/images/delete");
    await delays.pass(1000);
    // The next delay begins when the first look has ended.
    const [first, second] = image.layers;
    namespace.blobs.delete(first?.digest ?? "");
    await delays.pass(9000);
    namespace.blobs.delete(second?.digest ?? "");
    await delays.pass(50_000);
    await watch.close();
    expect(await files()).toBe(0);
    expect(delays.asked).toEqual([1000, 9000, 50_000]);
    expect(lines).toEqual(Array(2).fill("info: removed layers of images that containerd removed"));
    // The server sees it go, or this waits for ever.
    while (state.subscribers.size > 0) await new Promise((resolve) => setImmediate(resolve));
  });

  it("does not look at the same time as others", async () => {
    const delays = new Delays();
    const watch = open({ delay: delays.delay, jitter: () => 1 }).watch();
    await subscribed();
    announce(state, "k8s.io", "/images/delete");
    for (const pause of [1500, 13_500, 75_000]) await delays.pass(pause);
    await watch.close();
  });

  it("comes back after containerd was away, and looks for what it missed", async () => {
    const delays = new Delays();
    const images = open(delays);
    await images.layersOf("c1", {}, "erofs");
    const watch = images.watch();
    await subscribed();
    namespace.blobs.clear();
    for (const call of state.subscribers) call.cut();
    while (state.subscribers.size > 0) await new Promise((resolve) => setImmediate(resolve));
    await delays.pass(750);
    await delays.pass(1000);
    await delays.pass(9000);
    await subscribed();
    await watch.close();
    expect(await files()).toBe(0);
  });

  it("waits longer each time that containerd does not answer, and says why", async () => {
    const delays = new Delays();
    changes.set(METHODS.subscribe, (call) => call.end(12, "unknown service"));
    const watch = open(delays).watch();
    for (const pause of [750, 1500, 3000, 6000, 12_000, 24_000, 30_000, 30_000]) await delays.pass(pause);
    await watch.close();
    expect(lines).toContain("warn: lost sight of containerd's images");
  });

  it("ends without having begun, and twice", async () => {
    const watch = open().watch();
    await Promise.all([watch.close(), watch.close()]);
  });
});
