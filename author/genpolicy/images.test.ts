import { chainIds, type Layer, layerId, OciError } from "@sealpod/oci";
import type { Position } from "@sealpod/kube";
import { describe, expect, it } from "vitest";
import { ImageMeasurer, type ImageMeasurerOptions } from "./images.ts";
import { type CacheStore, LayerCacheFile, MemoryLayerCache } from "./layer-cache.ts";
import type { LayerFacts, LayerReader, LayerWish } from "./layers/facts.ts";
import { LayerPool } from "./layers/pool.ts";
import { file, MemoryImages, pieces, PLAIN, sha256, stored, tarOf } from "./layers/test-support.ts";

const BASE = stored(await tarOf({ ...PLAIN, kind: "directory", path: "etc" }, file("etc/passwd", "root:x:0:0::/:\n"), file("etc/group", "root:x:0:\n")));
const MIDDLE = stored(await tarOf(file("app", "one")), "zstd");
const TOP = stored(await tarOf(file("etc/passwd", "app:x:7:7::/:\n"), file("etc/.wh.group")), "none");
const OTHER = stored(await tarOf(file("app", "two")));

const AT: Position = { file: "pod.yaml", line: 9, column: 12 };
const POOL = new LayerPool({ threads: 1 });

function measurer(source: MemoryImages, more: Partial<ImageMeasurerOptions> = {}): ImageMeasurer {
  return new ImageMeasurer({ source, cache: new MemoryLayerCache(), reader: POOL, format: "tarfs", users: "none", ...more });
}

/** A reader that tells what it was asked, and answers what it is told. */
class ToldReader implements LayerReader {
  readonly asked: { readonly digest: string; readonly wish: LayerWish; readonly signal: AbortSignal; readonly answer: PromiseWithResolvers<LayerFacts> }[] = [];
  #more: () => void = () => undefined;

  async read(layer: { readonly digest: string }, _blob: unknown, wish: LayerWish, signal: AbortSignal): Promise<LayerFacts> {
    const answer = Promise.withResolvers<LayerFacts>();
    signal.addEventListener("abort", () => answer.reject(signal.reason));
    this.asked.push({ digest: layer.digest, wish, signal, answer });
    this.#more();
    return answer.promise;
  }

  /** Resolves when so many layers were asked for. */
  async until(count: number): Promise<void> {
    while (this.asked.length < count) {
      await new Promise<void>((resolve) => {
        this.#more = resolve;
      });
    }
  }
}

describe("ImageMeasurer", () => {
  it("gives layers top first, with ids and root hashes, and the user files", async () => {
    const source = new MemoryImages({ "app:1": [BASE, MIDDLE, TOP] });
    const image = await measurer(source, { users: "exact" }).measure("app:1", AT);
    const ids = chainIds([BASE, MIDDLE, TOP].map(({ layer }) => layer.diffId)).map((chain) => layerId(chain));
    expect(image.layers.map((layer) => layer.id)).toEqual([...ids].reverse());
    const roots = await Promise.all(
      [TOP, MIDDLE, BASE].map(async (item) => {
        const one = await measurer(new MemoryImages({ x: [item] })).measure("x", AT);
        return one.layers[0]?.rootHash;
      }),
    );
    expect(image.layers.map((layer) => layer.rootHash)).toEqual(roots);
    expect(new Set(roots).size).toBe(3);
    expect(image).toMatchObject({
      reference: "app:1",
      manifestDigest: sha256(Buffer.from("app:1")),
      passwd: "app:x:7:7::/:\n",
      group: "",
      linkedUserFiles: [],
    });
  });

  it("reads only the user files, or nothing at all, where no more is asked for", async () => {
    const source = new MemoryImages({ "app:1": [BASE, TOP] });
    expect(await measurer(source, { format: "none", users: "known" }).measure("app:1", AT)).toMatchObject({ layers: [], passwd: "app:x:7:7::/:\n", group: "" });
    expect(source.read).toHaveLength(2);
    const idle = new MemoryImages({ "app:1": [BASE, TOP] });
    expect(await measurer(idle, { format: "none" }).measure("app:1", AT)).toMatchObject({ layers: [], passwd: "", group: "" });
    expect(idle.read).toEqual([]);
  });

  it("says which user files are links", async () => {
    const links = stored(await tarOf({ ...PLAIN, kind: "symlink", path: "etc/passwd", target: "../usr/passwd" }));
    const image = await measurer(new MemoryImages({ a: [BASE, links] }), { users: "exact" }).measure("a", AT);
    expect(image).toMatchObject({ passwd: "", group: "root:x:0:\n", linkedUserFiles: ["passwd"] });
  });

  it("takes an image without layers", async () => {
    expect((await measurer(new MemoryImages({ scratch: [] }), { users: "exact" }).measure("scratch", AT)).layers).toEqual([]);
  });

  it("resolves each reference and reads each layer once, whatever images and names share it", async () => {
    const source = new MemoryImages({ "app:1": [BASE, MIDDLE], "app:one": [BASE, MIDDLE], "app:2": [BASE, OTHER] });
    const measuring = measurer(source);
    const images = await Promise.all(["app:1", "app:one", "app:2", "app:1"].map(async (name) => measuring.measure(name, AT)));
    expect(images.map((image) => image.reference)).toEqual(["app:1", "app:one", "app:2", "app:1"]);
    expect(images[1]?.layers).toEqual(images[0]?.layers);
    expect(images[2]?.layers[1]).toEqual(images[0]?.layers[1]);
    expect(source.resolved).toEqual(["app:1", "app:one", "app:2"]);
    expect([...source.read].sort()).toEqual([BASE, MIDDLE, OTHER].map(({ layer }) => layer.digest).sort());
  });

  it("asks for all layers of all images at once", async () => {
    const reader = new ToldReader();
    const measuring = measurer(new MemoryImages({ a: [BASE, MIDDLE], b: [OTHER] }), { reader });
    const images = Promise.all(["a", "b"].map(async (reference) => measuring.measure(reference, AT)));
    await reader.until(3);
    // In whatever order the answers come, the results are in that of the questions.
    for (const { answer } of [...reader.asked].reverse()) answer.resolve({ roots: { tarfs: "0".repeat(64) }, users: {} });
    expect((await images).map(({ reference, layers }) => [reference, layers.length])).toEqual([
      ["a", 2],
      ["b", 1],
    ]);
  });

  it("reads no byte and starts no thread with a warm cache file", async () => {
    let bytes: Uint8Array | undefined;
    const store: CacheStore = {
      read: async () => Promise.resolve(bytes),
      update: async (_, change) => void (bytes = await Promise.resolve(change(bytes))),
    };
    const run = async (more: Partial<ImageMeasurerOptions>): Promise<{ source: MemoryImages; layers: unknown; threads: number; progress: string[] }> => {
      await using pool = new LayerPool({ threads: 2, smallLayer: 0 });
      const source = new MemoryImages({ "app:1": [BASE, MIDDLE, TOP] });
      const cache = await LayerCacheFile.open(store, (problem) => expect.unreachable(problem));
      const progress: string[] = [];
      const note = (kind: string) => (layer: string) => void progress.push(`${kind} ${layer}`);
      const listener = { cached: note("cached"), queued: note("queued"), start: note("start"), advance: () => undefined, done: note("done") };
      const layers = await measurer(source, { reader: pool, cache, users: "exact", progress: listener, ...more }).measure("app:1", AT);
      await cache.save();
      return { source, layers, threads: pool.threads, progress };
    };
    const cold = await run({});
    expect([cold.source.read.length, cold.threads, cold.progress.length]).toEqual([3, 2, 9]);
    const warm = await run({});
    expect([warm.source.read, warm.threads, warm.layers]).toEqual([[], 0, cold.layers]);
    expect(warm.progress).toEqual([BASE, MIDDLE, TOP].map(({ layer }) => `cached ${layer.diffId}`));
    // Something else is wanted: only that is found out.
    expect((await run({ users: "known" })).source.read).toHaveLength(3);
    expect((await run({ format: "erofs", users: "none" })).source.read).toHaveLength(3);
    expect((await run({ format: "erofs", users: "known" })).source.read).toHaveLength(0);
  });

  it("asks the reader only for what the cache lacks", async () => {
    const cache = new MemoryLayerCache([
      [BASE.layer.diffId, { roots: { tarfs: "1".repeat(64) }, users: {} }],
      [TOP.layer.diffId, { roots: {}, users: { known: { passwd: { kind: "absent" }, group: { kind: "absent" } } } }],
    ]);
    const reader = new ToldReader();
    const measuring = measurer(new MemoryImages({ a: [BASE, MIDDLE, TOP] }), { reader, cache, users: "known" });
    const image = measuring.measure("a", AT);
    await reader.until(3);
    const users = { known: { passwd: { kind: "absent" }, group: { kind: "absent" } } } as const;
    for (const { answer, wish } of reader.asked) answer.resolve({ roots: wish.format === "none" ? {} : { tarfs: "2".repeat(64) }, users });
    expect((await image).layers.map(({ rootHash }) => rootHash[0])).toEqual(["2", "2", "1"]);
    expect(reader.asked.map(({ digest, wish }) => [digest, wish])).toEqual([
      [BASE.layer.digest, { format: "none", users: "known" }],
      [MIDDLE.layer.digest, { format: "tarfs", users: "known" }],
      [TOP.layer.digest, { format: "tarfs", users: "none" }],
    ]);
  });

  it("names the place of the image that failed, with the hint of what went wrong", async () => {
    const source = new MemoryImages({ bad: [{ ...BASE, bytes: BASE.bytes.subarray(1) }] });
    await expect(measurer(source).measure("none", AT)).rejects.toMatchObject({
      code: "ERR_GENPOLICY_IMAGE",
      message: expect.stringMatching(/^pod\.yaml:9:12.*: image "none": no image none$/) as string,
      hint: "Make one.",
      details: { image: "none" },
    });
    await expect(measurer(source).measure("none", undefined)).rejects.toThrow(/^cluster_config\.pause_container_image: image "none"/);
    await expect(measurer(source).measure("bad", AT)).rejects.toMatchObject({
      code: "ERR_GENPOLICY_IMAGE",
      message: expect.stringMatching(/: layer sha256:[0-9a-f]{64}: gzip stream is damaged/) as string,
      cause: { code: "ERR_OCI_COMPRESSION" },
    });
  });

  it("lets what is no error of this project through as it is", async () => {
    const source = new MemoryImages({});
    const bug = new RangeError("a bug");
    source.resolve = async () => Promise.reject(bug);
    await expect(measurer(source).measure("a", AT)).rejects.toBe(bug);
  });

  it("ends the reading of layers with the first failure, which is what every image says that waits for some", async () => {
    const reader = new ToldReader();
    const measuring = measurer(new MemoryImages({ a: [BASE], b: [OTHER] }), { reader });
    const all = Promise.allSettled(["a", "b"].map(async (name) => measuring.measure(name, { ...AT, line: name === "a" ? 5 : 6 })));
    await reader.until(2);
    reader.asked[1]?.answer.reject(Object.assign(new Error("broken"), { code: "ERR_X", row: {} }));
    const messages = (await all).map((result) => result.status === "rejected" && (result.reason as Error).message);
    expect(messages[0]).toMatch(/^pod\.yaml:6:12.*image "b": broken$/);
    expect(messages[1]).toBe(messages[0]);
    expect(reader.asked[0]?.signal.aborted).toBe(true);
    await expect(measuring.measure("c", AT), "an image that is not there").rejects.toThrow(/image "c": no image c$/);
  });

  /** Registries of which some never answer, and do not look at signals. */
  class StuckImages extends MemoryImages {
    readonly signals: (AbortSignal | undefined)[] = [];

    override async resolve(reference: string, signal?: AbortSignal): ReturnType<MemoryImages["resolve"]> {
      this.signals.push(signal);
      return reference.startsWith("stuck") ? new Promise<never>(() => undefined) : super.resolve(reference);
    }
  }

  it("looks for other images only a while after the first failure", async () => {
    const grace = new AbortController();
    let graces = 0;
    const source = new StuckImages({ slow: [] });
    const measuring = measurer(source, { grace: () => (graces++, grace.signal) });
    const stuck = ["stuck 1", "stuck 2"].map(async (name) => measuring.measure(name, { ...AT, line: 20 }));
    const ends = Promise.allSettled(stuck);
    await expect(measuring.measure("none", AT)).rejects.toThrow(/no image none$/);
    await expect(measuring.measure("nothing", AT)).rejects.toThrow(/no image nothing$/);
    expect((await measuring.measure("slow", AT)).layers, "there is time for those that answer").toEqual([]);
    expect([graces, source.signals.some((signal) => signal?.aborted)]).toEqual([1, false]);
    grace.abort();
    // As if they had waited for a layer: the failure of the first.
    expect((await ends).map((result) => result.status === "rejected" && (result.reason as Error).message)).toEqual(
      Array.from({ length: 2 }, () => expect.stringMatching(/^pod\.yaml:9:12.*no image none$/) as string),
    );
    expect(source.signals.every((signal) => signal?.aborted)).toBe(true);
    await expect(measuring.measure("late", AT)).rejects.toThrow(/no image none$/);
    expect(source.signals).toHaveLength(5);
  });

  it("ends everything with the reason of its signal, as it is", async () => {
    const stop = new AbortController();
    const reason = new OciError("ERR_OCI_NOT_FOUND", "interrupted");
    const reader = new ToldReader();
    const source = new StuckImages({ a: [BASE] });
    const measuring = measurer(source, { reader, signal: stop.signal });
    const all = Promise.allSettled(["a", "stuck"].map(async (name) => measuring.measure(name, AT)));
    await reader.until(1);
    stop.abort(reason);
    expect((await all).map((result) => result.status === "rejected" && (result.reason as unknown))).toEqual([reason, reason]);
    expect([reader.asked[0]?.signal.aborted, source.signals[1]?.aborted]).toEqual([true, true]);
    await expect(measuring.measure("b", AT)).rejects.toBe(reason);
    expect(source.signals).toHaveLength(2);
  });

  it("reads a layer again from elsewhere when what came was wrong, and says where wrong bytes came from", async () => {
    const wrong = [BASE.bytes.toReversed(), BASE.bytes.subarray(0, -9), BASE.bytes];
    const rejected: string[] = [];
    const source = new MemoryImages({ a: [BASE] });
    source.layerBlob = () => pieces(wrong[rejected.length] ?? new Uint8Array());
    let places = wrong.length;
    Object.assign(source, {
      rejectLayer: ({ digest }: Layer) => (rejected.push(digest), { name: `place ${rejected.length}`, hasOther: rejected.length < places }),
    });
    const right = await measurer(new MemoryImages({ a: [BASE] })).measure("a", AT);
    expect(await measurer(source).measure("a", AT)).toEqual(right);
    expect(rejected).toEqual([BASE.layer.digest, BASE.layer.digest]);
    rejected.length = 0;
    places = 2;
    await expect(measurer(source).measure("a", AT)).rejects.toMatchObject({
      code: "ERR_GENPOLICY_IMAGE",
      message: expect.stringMatching(/image "a": layer sha256:[0-9a-f]{64} from place 2: /) as string,
    });
    expect(rejected).toHaveLength(2);
  });
});
