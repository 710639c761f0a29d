import { gzipSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { encodeUtf8, isSealpodError } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { blobPath, digestOf } from "./digest.ts";
import { parseConfig, parseIndex, parseManifest } from "./documents.ts";
import type { Image, Layer } from "./image.ts";
import { layerTarOf } from "./layer-tar.ts";
import { openLayout } from "./layout.ts";
import { LayoutWriter } from "./layout-writer.ts";
import { DEFAULT_OCI_LIMITS } from "./limits.ts";
import { MEDIA_TYPES } from "./media-types.ts";
import { collect, inPieces, memoryLayout, putBlob, putIndex } from "./testdata/layouts.ts";

const tar = new Uint8Array(30_000).map((_, i) => (i * i) >> 7);
const CONFIG = { user: "65535:65535", env: ["PATH=/bin"], entrypoint: ["/bin/app", "run"], cmd: [], workingDir: "/srv" };

async function writeSample(name = "sealpod.internal/app:1"): Promise<ReturnType<typeof memoryLayout>> {
  const store = memoryLayout();
  const writer = new LayoutWriter(store);
  const layers = [
    await writer.addLayer(inPieces(tar, 4000), { compression: "gzip", level: 6 }),
    await writer.addLayer(inPieces(tar.subarray(5), 999), { compression: "none" }),
  ];
  await writer.addImage(name, { config: CONFIG, layers });
  await writer.finish();
  return store;
}

/** A layout with one image of one layer, each part replaceable. */
function handmade(
  parts: {
    readonly blob?: Uint8Array;
    readonly mediaType?: string;
    readonly diffId?: string;
    readonly layerSize?: number;
    readonly manifest?: object;
    readonly config?: object;
  } = {},
): ReturnType<typeof memoryLayout> {
  const store = memoryLayout();
  const blob = putBlob(store.files, parts.blob ?? gzipSync(tar));
  const config = putBlob(
    store.files,
    parts.config ?? { architecture: "amd64", os: "linux", config: {}, rootfs: { type: "layers", diff_ids: [parts.diffId ?? digestOf(tar)] } },
  );
  const manifest = putBlob(
    store.files,
    parts.manifest ?? {
      schemaVersion: 2,
      config: { mediaType: MEDIA_TYPES.config, ...config },
      layers: [{ mediaType: parts.mediaType ?? MEDIA_TYPES.layerGzip, ...blob, size: parts.layerSize ?? blob.size }],
    },
  );
  putIndex(store.files, {
    schemaVersion: 2,
    manifests: [{ mediaType: MEDIA_TYPES.manifest, ...manifest, annotations: { "org.opencontainers.image.ref.name": "example.com/app:1" } }],
  });
  return store;
}

async function pull(store: ReturnType<typeof memoryLayout>, reference = "example.com/app:1"): Promise<Uint8Array> {
  const source = await openLayout(store);
  const image = await source.resolve(reference);
  const [layer] = image.layers;
  if (layer === undefined) throw new Error("no layer");
  return collect(source.layerTar(layer));
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    if (isSealpodError(error)) return error.code;
    throw error;
  }
  return "accepted";
}

describe("LayoutWriter and openLayout", () => {
  it("round-trip an image", async () => {
    const store = await writeSample();
    const source = await openLayout(store);
    const image = await source.resolve("sealpod.internal/app:1");
    expect(image.config).toEqual({
      ...CONFIG,
      tty: false,
      volumes: [],
      architecture: "amd64",
      os: "linux",
      diffIds: [digestOf(tar), digestOf(tar.subarray(5))],
    });
    expect(await Promise.all(image.layers.map((layer) => collect(source.layerTar(layer))))).toEqual([tar, tar.subarray(5)]);
  });

  it("give the same bytes for the same input, however it is cut and ordered", async () => {
    const [one, two] = [await writeSample(), await writeSample()];
    expect([...two.files]).toEqual([...one.files]);
    const finish = async (names: readonly string[]): Promise<string> => {
      const writer = new LayoutWriter(memoryLayout());
      for (const name of names) await writer.addImage(name, { config: CONFIG, layers: [] });
      return writer.finish();
    };
    expect(await finish(["a/b", "a/c"])).toBe(await finish(["a/c", "a/b"]));
  });

  it("write no time and no name into gzip headers", async () => {
    const store = memoryLayout();
    const layer = await new LayoutWriter(store).addLayer(inPieces(tar, 100), { compression: "gzip", level: 1 });
    expect([...(store.files.get(blobPath(layer.digest)) ?? [])].slice(0, 8)).toEqual([0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
  });
});

describe("openLayout, names", () => {
  const entry = (name: string | undefined, digest: string, size: number, extra: object = {}): object => ({
    mediaType: MEDIA_TYPES.manifest,
    digest,
    size,
    ...(name === undefined ? {} : { annotations: { "io.containerd.image.name": name } }),
    ...extra,
  });
  const withEntries = (make: (digest: string, size: number) => readonly object[]): ReturnType<typeof memoryLayout> => {
    const store = handmade();
    const index = JSON.parse(new TextDecoder().decode(store.files.get("index.json"))) as { manifests: [{ digest: string; size: number }] };
    putIndex(store.files, { schemaVersion: 2, manifests: make(index.manifests[0].digest, index.manifests[0].size) });
    return store;
  };

  it("normalises both sides", async () => {
    const store = withEntries((digest, size) => [entry("docker.io/library/nginx:1", digest, size)]);
    expect(await codeOf(pull(store, "nginx:1"))).toBe("accepted");
    expect(await codeOf(pull(store, "nginx"))).toBe("ERR_OCI_NOT_FOUND");
    expect(await codeOf(pull(store, "other.io/library/nginx:1"))).toBe("ERR_OCI_NOT_FOUND");
  });

  it("lets the digest decide over the tag, within the repository", async () => {
    let digest = "";
    const store = withEntries((found, size) => [entry("docker.io/library/nginx:1", (digest = found), size)]);
    expect(await codeOf(pull(store, `nginx:other@${digest}`))).toBe("accepted");
    expect(await codeOf(pull(store, `redis@${digest}`))).toBe("ERR_OCI_NOT_FOUND");
    expect(await codeOf(pull(store, `nginx@sha256:${"0".repeat(64)}`))).toBe("ERR_OCI_NOT_FOUND");
    const unnamed = withEntries((found, size) => [entry(undefined, found, size)]);
    expect(await codeOf(pull(unnamed, `nginx@${digest}`))).toBe("accepted");
  });

  it("refuses a name that stands for two digests, and takes one per platform", async () => {
    const other = `sha256:${"1".repeat(64)}`;
    expect(
      await codeOf(
        pull(
          withEntries((digest, size) => [entry("a/b", digest, size), entry("a/b", other, 5)]),
          "a/b",
        ),
      ),
    ).toBe("ERR_OCI_DOCUMENT");
    const arm = { platform: { os: "linux", architecture: "arm64" } };
    expect(
      await codeOf(
        pull(
          withEntries((digest, size) => [entry("a/b", other, 5, arm), entry("a/b", digest, size)]),
          "a/b",
        ),
      ),
    ).toBe("accepted");
    expect(
      await codeOf(
        pull(
          withEntries((digest, size) => [entry("a/b", digest, size, arm)]),
          "a/b",
        ),
      ),
    ).toBe("ERR_OCI_PLATFORM");
  });

  it("does not take a bare tag for a name", async () => {
    const store = withEntries((digest, size) => [
      { mediaType: MEDIA_TYPES.manifest, digest, size, annotations: { "org.opencontainers.image.ref.name": "latest" } },
    ]);
    expect(await codeOf(pull(store, "latest"))).toBe("ERR_OCI_NOT_FOUND");
  });

  it("passes over names that are no references", async () => {
    const other = `sha256:${"3".repeat(64)}`;
    const store = withEntries((digest, size) => [entry("Not A/Reference", other, 5), entry("a/b", digest, size)]);
    expect(await codeOf(pull(store, "a/b"))).toBe("accepted");
  });

  it("follows indexes to the first entry of the platform, but not for ever", async () => {
    const store = handmade();
    const outer = JSON.parse(new TextDecoder().decode(store.files.get("index.json"))) as { manifests: [{ digest: string; size: number }] };
    let current: object = {
      mediaType: MEDIA_TYPES.manifest,
      digest: outer.manifests[0].digest,
      size: outer.manifests[0].size,
      platform: { os: "linux", architecture: "amd64" },
    };
    const foreign = { mediaType: MEDIA_TYPES.manifest, digest: `sha256:${"2".repeat(64)}`, size: 3, platform: { os: "unknown", architecture: "unknown" } };
    const verdicts: string[] = [];
    for (let depth = 0; depth < 5; depth++) {
      putIndex(store.files, { schemaVersion: 2, manifests: [{ ...current, annotations: { "io.containerd.image.name": "docker.io/library/x:latest" } }] });
      verdicts.push(await codeOf(pull(store, "x")));
      const blob = putBlob(store.files, { schemaVersion: 2, mediaType: MEDIA_TYPES.index, manifests: [foreign, current] });
      current = { mediaType: MEDIA_TYPES.index, ...blob, platform: { os: "linux", architecture: "amd64" } };
    }
    expect(verdicts).toEqual(["accepted", "accepted", "accepted", "accepted", "ERR_OCI_LIMIT"]);
    const empty = putBlob(store.files, { schemaVersion: 2, manifests: [foreign] });
    putIndex(store.files, {
      schemaVersion: 2,
      manifests: [{ mediaType: MEDIA_TYPES.index, ...empty, annotations: { "io.containerd.image.name": "docker.io/library/x:latest" } }],
    });
    expect(await codeOf(pull(store, "x"))).toBe("ERR_OCI_PLATFORM");
  });
});

describe("layerTar", () => {
  it("takes gzip, zstd and plain tars, of one member or several, however they are cut", async () => {
    const [head, rest] = [tar.subarray(0, 9000), tar.subarray(9000)];
    const forms: readonly (readonly [string, Uint8Array])[] = [
      [MEDIA_TYPES.layer, tar],
      [MEDIA_TYPES.layerGzip, gzipSync(tar)],
      [MEDIA_TYPES.layerZstd, zstdCompressSync(tar)],
      [MEDIA_TYPES.layerGzip, Buffer.concat([gzipSync(head), gzipSync(rest)])],
      [MEDIA_TYPES.layerZstd, Buffer.concat([zstdCompressSync(head), zstdCompressSync(rest)])],
      // A skippable frame, as zstd:chunked writes.
      [MEDIA_TYPES.layerZstd, Buffer.concat([zstdCompressSync(tar), Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0]), encodeUtf8("toc!")])],
      ["application/vnd.docker.image.rootfs.diff.tar.gzip", gzipSync(tar)],
    ];
    for (const [mediaType, blob] of forms) {
      for (const chunk of [13, 1000, 1_000_000]) {
        const store = handmade({ mediaType, blob });
        expect(Buffer.compare(await pull(memoryLayout(store.files, chunk)), tar), `${mediaType} in chunks of ${chunk}`).toBe(0);
      }
    }
  });

  it.each<readonly [string, Parameters<typeof handmade>[0], string]>([
    ["another diff id", { diffId: digestOf(encodeUtf8("other")) }, "ERR_OCI_MISMATCH"],
    ["a size that is too small", { layerSize: 10 }, "ERR_OCI_MISMATCH"],
    ["a size that is too large", { layerSize: 1_000_000 }, "ERR_OCI_MISMATCH"],
    ["bytes after a gzip member", { blob: Buffer.concat([gzipSync(tar), encodeUtf8("garbage")]) }, "ERR_OCI_COMPRESSION"],
    ["zeros after a gzip member", { blob: Buffer.concat([gzipSync(tar), new Uint8Array(20)]) }, "ERR_OCI_COMPRESSION"],
    [
      "bytes after a zstd frame",
      { blob: Buffer.concat([zstdCompressSync(tar), encodeUtf8("garbage")]), mediaType: MEDIA_TYPES.layerZstd },
      "ERR_OCI_COMPRESSION",
    ],
    ["a gzip that is cut off", { blob: gzipSync(tar).subarray(0, -5) }, "ERR_OCI_COMPRESSION"],
    ["a zstd that is cut off", { blob: zstdCompressSync(tar).subarray(0, -5), mediaType: MEDIA_TYPES.layerZstd }, "ERR_OCI_COMPRESSION"],
    ["an empty gzip", { blob: new Uint8Array() }, "ERR_OCI_COMPRESSION"],
    ["a plain tar called gzip", { blob: tar }, "ERR_OCI_COMPRESSION"],
  ])("refuses %s", async (_, parts, code) => {
    expect(await codeOf(pull(handmade(parts)))).toBe(code);
  });

  it("refuses a blob that was changed, and one that is not there", async () => {
    const store = handmade();
    const image = await (await openLayout(store)).resolve("example.com/app:1");
    const path = blobPath(image.layers[0]?.digest ?? "");
    const blob = store.files.get(path) ?? new Uint8Array();
    await fc.assert(
      fc.asyncProperty(fc.nat(blob.length - 1), fc.nat(7), async (at, bit) => {
        const changed = blob.slice();
        changed[at] = (changed[at] ?? 0) ^ (1 << bit);
        store.files.set(path, changed);
        expect(await codeOf(pull(store))).toMatch(/^ERR_OCI_(MISMATCH|COMPRESSION)$/);
      }),
      { numRuns: 100, seed: 5 },
    );
    store.files.delete(path);
    expect(await codeOf(pull(store))).toBe("ERR_OCI_NOT_FOUND");
  });

  it("stops a bomb at the limit, not at its end", async () => {
    const bomb = new Uint8Array(50_000_000);
    const store = handmade({ blob: gzipSync(bomb), diffId: digestOf(bomb) });
    const source = await openLayout(store, { limits: { maxTarSize: 1_000_000 } });
    const image = await source.resolve("example.com/app:1");
    let seen = 0;
    const code = await codeOf(
      (async () => {
        for await (const chunk of source.layerTar(image.layers[0] as Layer)) seen += chunk.length;
      })(),
    );
    expect(code).toBe("ERR_OCI_LIMIT");
    expect(seen).toBeLessThanOrEqual(1_000_000);
  });

  it("closes the blob when the consumer stops early", async () => {
    const store = handmade({ blob: gzipSync(new Uint8Array(5_000_000)), diffId: digestOf(new Uint8Array(5_000_000)) });
    let open = 0;
    const counting = {
      ...store,
      async *stream(path: string) {
        open++;
        try {
          yield* store.stream(path);
        } finally {
          open--;
        }
      },
    };
    const source = await openLayout(counting);
    const image = await source.resolve("example.com/app:1");
    for await (const _ of source.layerTar(image.layers[0] as Layer)) break;
    await new Promise<void>((resolve) => void setImmediate(resolve));
    expect(open).toBe(0);
  });

  it("is what layerTarOf makes of the stored blob, which comes as it is", async () => {
    const blob = gzipSync(tar);
    const source = await openLayout(handmade({ blob }));
    const [layer] = (await source.resolve("example.com/app:1")).layers as readonly [Layer];
    expect(await collect(source.layerBlob(layer))).toEqual(new Uint8Array(blob));
    expect(await collect(layerTarOf(layer, inPieces(blob, 77)))).toEqual(tar);
    expect(await codeOf(collect(layerTarOf(layer, inPieces(blob, 77), { maxTarSize: tar.length - 1 })))).toBe("ERR_OCI_LIMIT");
    expect(await codeOf(collect(layerTarOf(layer, inPieces(gzipSync(tar.subarray(1)), 77))))).toBe("ERR_OCI_MISMATCH");
  });

  it("refuses a layer object of another kind", async () => {
    const source = await openLayout(handmade());
    expect(await codeOf(collect(source.layerTar({ digest: "sha256:../../x", size: 1, mediaType: MEDIA_TYPES.layer, diffId: "" })))).toBe("ERR_OCI_DIGEST");
    expect(await codeOf(collect(source.layerTar({ digest: `sha256:${"0".repeat(64)}`, size: 1, mediaType: "text/plain", diffId: "" })))).toBe(
      "ERR_OCI_UNSUPPORTED",
    );
  });
});

describe("documents, malformed", () => {
  const bytes = (value: unknown): Uint8Array => encodeUtf8(JSON.stringify(value));
  const blob = { digest: `sha256:${"a".repeat(64)}`, size: 5 };
  const config = { mediaType: MEDIA_TYPES.config, ...blob };
  const layer = { mediaType: MEDIA_TYPES.layerGzip, ...blob };
  const good = { schemaVersion: 2, mediaType: MEDIA_TYPES.manifest, config, layers: [layer] };

  it.each<readonly [string, unknown, string]>([
    ["schema 1 by its version", { schemaVersion: 1, fsLayers: [] }, "ERR_OCI_SCHEMA1"],
    ["schema 1 by its type", { ...good, mediaType: "application/vnd.docker.distribution.manifest.v1+prettyjws" }, "ERR_OCI_SCHEMA1"],
    ["no schema version", { config, layers: [] }, "ERR_OCI_DOCUMENT"],
    ["an array", [], "ERR_OCI_DOCUMENT"],
    ["no config", { schemaVersion: 2, layers: [] }, "ERR_OCI_DOCUMENT"],
    ["no layers", { schemaVersion: 2, config }, "ERR_OCI_DOCUMENT"],
    ["the type of an index", { ...good, mediaType: MEDIA_TYPES.index }, "ERR_OCI_DOCUMENT"],
    ["layers and manifests", { ...good, manifests: [] }, "ERR_OCI_DOCUMENT"],
    ["an artifact", { ...good, config: { ...config, mediaType: "application/vnd.example" } }, "ERR_OCI_UNSUPPORTED"],
    [
      "a layer of another type",
      { ...good, layers: [{ ...layer, mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" }] },
      "ERR_OCI_UNSUPPORTED",
    ],
    ["a digest that is a path", { ...good, layers: [{ ...layer, digest: "sha256:../../etc/passwd" }] }, "ERR_OCI_DIGEST"],
    ["a negative size", { ...good, layers: [{ ...layer, size: -1 }] }, "ERR_OCI_DOCUMENT"],
    ["a fractional size", { ...good, layers: [{ ...layer, size: 1.5 }] }, "ERR_OCI_DOCUMENT"],
    ["a size in text", { ...good, layers: [{ ...layer, size: "5" }] }, "ERR_OCI_DOCUMENT"],
    ["annotations that are no text", { ...good, layers: [{ ...layer, annotations: { a: 1 } }] }, "ERR_OCI_DOCUMENT"],
    ["too many layers", { ...good, layers: Array.from({ length: 501 }, () => layer) }, "ERR_OCI_LIMIT"],
  ])("manifest: refuses %s", (_, value, code) => {
    expect(() => parseManifest(bytes(value), "manifest", DEFAULT_OCI_LIMITS)).toThrow(expect.objectContaining({ code }) as Error);
  });

  it("manifest: refuses duplicate names, bad UTF-8, depth, size, and another type than the descriptor's", () => {
    const parse = (input: Uint8Array, type?: string): string => {
      try {
        parseManifest(input, "manifest", { ...DEFAULT_OCI_LIMITS, maxDocumentSize: 5000 }, type);
      } catch (error) {
        if (isSealpodError(error)) return error.code;
        throw error;
      }
      return "accepted";
    };
    expect(parse(bytes(good), MEDIA_TYPES.manifest)).toBe("accepted");
    expect(parse(bytes(good), "application/vnd.docker.distribution.manifest.v2+json")).toBe("ERR_OCI_DOCUMENT");
    expect(parse(encodeUtf8('{"schemaVersion":2,"schemaVersion":2}'))).toBe("ERR_OCI_DOCUMENT");
    expect(parse(Uint8Array.of(0xff, 0xfe))).toBe("ERR_OCI_DOCUMENT");
    expect(parse(encodeUtf8(`${"[".repeat(40)}${"]".repeat(40)}`))).toBe("ERR_OCI_DOCUMENT");
    expect(parse(encodeUtf8(" ".repeat(5001)))).toBe("ERR_OCI_LIMIT");
    expect(parse(encodeUtf8(`${JSON.stringify(good)}{}`))).toBe("ERR_OCI_DOCUMENT");
  });

  it("index: refuses what is a manifest too", () => {
    expect(() => parseIndex(bytes({ schemaVersion: 2, manifests: [], config }), "index", DEFAULT_OCI_LIMITS)).toThrow(
      expect.objectContaining({ code: "ERR_OCI_DOCUMENT" }) as Error,
    );
    expect(() => parseIndex(bytes({ schemaVersion: 2, manifests: [], layers: [] }), "index", DEFAULT_OCI_LIMITS)).toThrow(
      expect.objectContaining({ code: "ERR_OCI_DOCUMENT" }) as Error,
    );
    expect(parseIndex(bytes({ schemaVersion: 2, manifests: [] }), "index", DEFAULT_OCI_LIMITS).manifests).toEqual([]);
  });

  const rootfs = { type: "layers", diff_ids: [] };
  it("config: reads what runs and takes null for nothing", () => {
    const parsed = parseConfig(
      bytes({
        architecture: "amd64",
        os: "linux",
        rootfs,
        history: [{}],
        config: { User: null, Env: null, Cmd: ["a"], Tty: true, Volumes: { "/b": {}, "/a": {} }, Labels: { x: "y" } },
      }),
      "config",
      DEFAULT_OCI_LIMITS,
    );
    expect(parsed).toMatchObject({ user: "", env: [], cmd: ["a"], entrypoint: [], tty: true, volumes: ["/a", "/b"], workingDir: "" });
  });

  it.each<readonly [string, unknown, string]>([
    ["no architecture", { rootfs }, "ERR_OCI_DOCUMENT"],
    ["no rootfs", { architecture: "amd64" }, "ERR_OCI_DOCUMENT"],
    ["another rootfs", { architecture: "amd64", rootfs: { type: "blob", diff_ids: [] } }, "ERR_OCI_DOCUMENT"],
    ["a diff id that is no digest", { architecture: "amd64", rootfs: { type: "layers", diff_ids: ["x"] } }, "ERR_OCI_DIGEST"],
    ["text for a list", { architecture: "amd64", rootfs, config: { Cmd: "a b" } }, "ERR_OCI_DOCUMENT"],
    ["numbers in a list", { architecture: "amd64", rootfs, config: { Env: [1] } }, "ERR_OCI_DOCUMENT"],
    ["a NUL in a list", { architecture: "amd64", rootfs, config: { Env: ["A=b\0c"] } }, "ERR_OCI_DOCUMENT"],
    ["text for Tty", { architecture: "amd64", rootfs, config: { Tty: "true" } }, "ERR_OCI_DOCUMENT"],
    ["a list of volumes", { architecture: "amd64", rootfs, config: { Volumes: ["/a"] } }, "ERR_OCI_DOCUMENT"],
    ["too many variables", { architecture: "amd64", rootfs, config: { Env: Array.from({ length: 4097 }, () => "A=b") } }, "ERR_OCI_LIMIT"],
  ])("config: refuses %s", (_, value, code) => {
    expect(() => parseConfig(bytes(value), "config", DEFAULT_OCI_LIMITS)).toThrow(expect.objectContaining({ code }) as Error);
  });

  it("image: refuses other platforms and unpaired layers", async () => {
    expect(await codeOf(pull(handmade({ config: { architecture: "arm64", os: "linux", rootfs: { type: "layers", diff_ids: [digestOf(tar)] } } })))).toBe(
      "ERR_OCI_PLATFORM",
    );
    expect(await codeOf(pull(handmade({ config: { architecture: "amd64", rootfs } })))).toBe("ERR_OCI_DOCUMENT");
  });

  it("layout: refuses a missing or strange marker", async () => {
    const store = handmade();
    store.files.set("oci-layout", encodeUtf8('{"imageLayoutVersion":"2.0.0"}'));
    expect(await codeOf(openLayout(store))).toBe("ERR_OCI_DOCUMENT");
    store.files.delete("oci-layout");
    expect(await codeOf(openLayout(store))).toBe("ERR_OCI_NOT_FOUND");
  });

  it("lets nothing but the project's errors out, whatever byte of a document is damaged", async () => {
    const store = await writeSample();
    const documents = [...store.files].filter(([, content]) => content[0] === 0x7b);
    await fc.assert(
      fc.asyncProperty(fc.nat(documents.length - 1), fc.nat(), fc.integer({ min: 0, max: 255 }), async (which, at, byte) => {
        const [path, content] = documents[which] ?? ["", new Uint8Array()];
        const changed = content.slice();
        changed[at % changed.length] = byte;
        const files = new Map(store.files).set(path, changed);
        const outcome = await codeOf((async (): Promise<Image> => (await openLayout(memoryLayout(files))).resolve("sealpod.internal/app:1"))());
        expect(outcome === "accepted" || outcome.startsWith("ERR_OCI_") || outcome.startsWith("ERR_CORE_")).toBe(true);
      }),
      { numRuns: 300, seed: 6 },
    );
  });
});
