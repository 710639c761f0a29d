import { gzipSync, zstdCompressSync } from "node:zlib";
import { encodeUtf8, type ByteSource } from "@sealpod/core";
import { encodeTar, type TarItem } from "@sealpod/verity";
import { describe, expect, it } from "vitest";
import { digestOf } from "./digest.ts";
import { openDockerArchive } from "./docker-archive.ts";
import { LayoutWriter } from "./layout-writer.ts";
import { failureOf, pull } from "./registry/test-support.ts";
import { collect, inPieces, memoryLayout } from "./testdata/layouts.ts";

const LOWER = new Uint8Array(300_000).map((_, i) => (i * i) >> 8);
const UPPER = new Uint8Array(700).fill(3);
const META = { mode: 0o644, uid: 0, gid: 0, mtime: 0 };

const file = (path: string, content: Uint8Array | object): TarItem => ({
  kind: "file",
  path,
  ...META,
  data: content instanceof Uint8Array ? content : encodeUtf8(JSON.stringify(content)),
});
const symlink = (path: string, target: string): TarItem => ({ kind: "symlink", path, target, ...META });

const configOf = (...tars: readonly Uint8Array[]): object => ({
  architecture: "amd64",
  os: "linux",
  config: { Entrypoint: ["/app"] },
  rootfs: { type: "layers", diff_ids: tars.map((tar) => digestOf(tar)) },
});

/** An archive as a source that counts what is read of it. */
async function archive(...items: readonly TarItem[]): Promise<ByteSource & { bytesRead: number }> {
  const bytes = await collect(encodeTar(items));
  const source = {
    size: bytes.length,
    bytesRead: 0,
    read(offset: number, length: number): Promise<Uint8Array> {
      if (offset < 0 || length < 0 || offset + length > bytes.length) return Promise.reject(new RangeError("outside"));
      source.bytesRead += length;
      return Promise.resolve(bytes.slice(offset, offset + length));
    },
  };
  return source;
}

/** An archive as Docker wrote it until version 25: a folder per layer. */
const classic = (manifest: object, ...more: readonly TarItem[]): Promise<ByteSource & { bytesRead: number }> =>
  archive(
    { kind: "directory", path: "aa/", ...META },
    file("aa/VERSION", encodeUtf8("1.0")),
    file("aa/layer.tar", LOWER),
    file("bb/layer.tar", UPPER),
    file("config.json", configOf(LOWER, UPPER)),
    file("manifest.json", manifest),
    ...more,
  );
const entry = { Config: "config.json", RepoTags: ["team/app:1"], Layers: ["aa/layer.tar", "bb/layer.tar"] };

describe("openDockerArchive", () => {
  it("reads what docker save wrote", async () => {
    const source = await openDockerArchive(await classic([entry]));
    for (const name of ["team/app:1", "docker.io/team/app:1"]) expect(await pull(source, name)).toEqual([LOWER, UPPER]);
    const image = await source.resolve("team/app:1");
    expect(image).toMatchObject({ config: { entrypoint: ["/app"] }, configDigest: digestOf(encodeUtf8(JSON.stringify(configOf(LOWER, UPPER)))) });
    expect(image.layers.map(({ digest, diffId }) => digest === diffId)).toEqual([true, true]);
  });

  it("reads headers alone until a layer is asked for", async () => {
    const bytes = await classic([entry]);
    await (await openDockerArchive(bytes)).resolve("team/app:1");
    expect(bytes.bytesRead).toBeLessThan(2 * LOWER.length);
    const before = bytes.bytesRead;
    const opened = await openDockerArchive(bytes);
    expect(bytes.bytesRead - before).toBeLessThan(10_000);
    expect(opened).toBeDefined();
  });

  it("finds layers that podman wrote once and linked", async () => {
    const layers = ["aa/layer.tar", "cc/layer.tar", "dd.tar"];
    const source = await openDockerArchive(
      await archive(
        file("./aa/layer.tar", UPPER),
        symlink("cc/layer.tar", "../aa/layer.tar"),
        { kind: "hardlink", path: "dd.tar", target: "aa/layer.tar", ...META },
        file("config.json", configOf(UPPER, UPPER, UPPER)),
        file("manifest.json", [{ ...entry, Layers: layers }]),
      ),
    );
    expect(await pull(source, "team/app:1")).toEqual([UPPER, UPPER, UPPER]);
  });

  it("takes packed layers for what their first bytes say", async () => {
    const source = await openDockerArchive(
      await archive(
        file("a.tar.gz", gzipSync(LOWER)),
        file("b", zstdCompressSync(UPPER)),
        file("c", new Uint8Array()),
        file("config.json", configOf(LOWER, UPPER, new Uint8Array())),
        file("manifest.json", [{ ...entry, Layers: ["a.tar.gz", "b", "c"] }]),
      ),
    );
    expect(await pull(source, "team/app:1")).toEqual([LOWER, UPPER, new Uint8Array()]);
  });

  /** Members of a layout with one image. */
  async function layout(name: string): Promise<{ readonly items: readonly TarItem[]; readonly digest: string }> {
    const store = memoryLayout();
    const writer = new LayoutWriter(store);
    const layers = [await writer.addLayer(inPieces(LOWER, 1000), { compression: "gzip", level: 6 })];
    const digest = await writer.addImage(name, { config: { user: "", env: [], entrypoint: ["/new"], cmd: [], workingDir: "" }, layers });
    await writer.finish();
    return { digest, items: [...store.files].map(([path, bytes]) => file(path, bytes)) };
  }

  it("prefers the layout inside, with the image's own manifest", async () => {
    const { items, digest } = await layout("team/new:1");
    const source = await openDockerArchive(await classic([entry], ...items));
    expect(await source.resolve(`team/new@${digest}`)).toMatchObject({ manifestDigest: digest, config: { entrypoint: ["/new"] } });
    expect(await pull(source, "team/new:1")).toEqual([LOWER]);
    expect(await pull(source, "team/app:1")).toEqual([LOWER, UPPER]);
    expect(await failureOf(source.resolve("team/none:1"))).toMatchObject({
      code: "ERR_OCI_NOT_FOUND",
      hint: expect.stringContaining("docker.io/team/new:1") as string,
    });
  });

  it("reads a tar of a layout alone", async () => {
    const { items, digest } = await layout("team/new:1");
    const source = await openDockerArchive(await archive(...items));
    expect((await source.resolve("team/new:1")).manifestDigest).toBe(digest);
    expect(await pull(source, "team/new:1")).toEqual([LOWER]);
  });

  it("knows images by name, and says which there are", async () => {
    const source = await openDockerArchive(
      await classic([
        { ...entry, RepoTags: ["team/app:1", "<none>:<none>", "q.example/x:2"] },
        { ...entry, RepoTags: null },
      ]),
    );
    expect((await source.resolve("q.example/x:2")).config.entrypoint).toEqual(["/app"]);
    expect(await failureOf(source.resolve("team/app:2"))).toMatchObject({
      code: "ERR_OCI_NOT_FOUND",
      hint: "The archive has: docker.io/team/app:1, q.example/x:2.",
    });
    const { manifestDigest } = await source.resolve("team/app:1");
    expect(await failureOf(source.resolve(`team/app:1@${manifestDigest}`))).toMatchObject({
      code: "ERR_OCI_NOT_FOUND",
      hint: expect.stringContaining("by its tag") as string,
    });
    const unnamed = await openDockerArchive(await classic([{ ...entry, RepoTags: [] }]));
    expect(await failureOf(unnamed.resolve("team/app:1"))).toMatchObject({ hint: "The archive has: no named image." });
  });

  it("checks layers against the configuration", async () => {
    const items = (config: object): Promise<ByteSource> =>
      archive(file("aa/layer.tar", LOWER), file("bb/layer.tar", UPPER), file("config.json", config), file("manifest.json", [entry]));
    expect(await failureOf(pull(await openDockerArchive(await items(configOf(LOWER, LOWER))), "team/app:1"))).toMatchObject({ code: "ERR_OCI_MISMATCH" });
    for (const config of [configOf(LOWER), configOf(LOWER, UPPER, UPPER)]) {
      expect(await failureOf(pull(await openDockerArchive(await items(config)), "team/app:1"))).toMatchObject({ code: "ERR_OCI_DOCUMENT" });
    }
  });

  it.each<readonly [string, () => Promise<ByteSource>, string]>([
    ["an empty archive", () => archive(), "ERR_OCI_NOT_FOUND"],
    ["a manifest that is no JSON", () => archive(file("manifest.json", encodeUtf8("{"))), "ERR_OCI_DOCUMENT"],
    ["a manifest that is no array", () => archive(file("manifest.json", {})), "ERR_OCI_DOCUMENT"],
    ["an image that is text", () => archive(file("manifest.json", ["x"])), "ERR_OCI_DOCUMENT"],
    ["no configuration", () => archive(file("manifest.json", [{ ...entry, Config: 5 }])), "ERR_OCI_DOCUMENT"],
    ["tags that are a number", () => archive(file("manifest.json", [{ ...entry, RepoTags: [1] }])), "ERR_OCI_DOCUMENT"],
    ["layers that are text", () => archive(file("manifest.json", [{ ...entry, Layers: "x" }])), "ERR_OCI_DOCUMENT"],
    ["501 layers", () => archive(file("manifest.json", [{ ...entry, Layers: Array.from({ length: 501 }, () => "x") }])), "ERR_OCI_LIMIT"],
    ["5 MiB of manifest", () => archive(file("manifest.json", new Uint8Array(5 * 1024 * 1024))), "ERR_OCI_LIMIT"],
    ["a name that stands twice", () => classic([entry], file("config.json", configOf())), "ERR_OCI_DOCUMENT"],
    ["a way out", () => classic([entry], file("../x", {})), "ERR_OCI_DOCUMENT"],
    ["a tar that is none", () => Promise.resolve({ size: 1024, read: (_, length) => Promise.resolve(new Uint8Array(length).fill(1)) }), "ERR_OCI_DOCUMENT"],
  ])("refuses %s", async (_, make, code) => {
    const error = await failureOf((async () => openDockerArchive(await make()))());
    expect(error.code).toBe(code);
  });

  it.each<readonly [string, readonly TarItem[], object, string]>([
    ["a configuration that is missing", [], { ...entry, Config: "x" }, "ERR_OCI_NOT_FOUND"],
    ["a layer that is missing", [], { ...entry, Layers: ["x", "bb/layer.tar"] }, "ERR_OCI_NOT_FOUND"],
    ["a link out of the archive", [symlink("x", "../../etc/passwd")], { ...entry, Config: "x" }, "ERR_OCI_NOT_FOUND"],
    ["an absolute link", [symlink("x", "/config.json")], { ...entry, Config: "x" }, "ERR_OCI_NOT_FOUND"],
    ["a link to itself", [symlink("x", "x")], { ...entry, Config: "x" }, "ERR_OCI_DOCUMENT"],
    ["a configuration that is none", [file("x", [])], { ...entry, Config: "x" }, "ERR_OCI_DOCUMENT"],
    ["names from objects", [], { ...entry, Config: "__proto__" }, "ERR_OCI_NOT_FOUND"],
  ])("refuses %s when the image is asked for", async (_, items, image, code) => {
    const source = await openDockerArchive(await classic([image], ...items));
    expect((await failureOf(source.resolve("team/app:1"))).code).toBe(code);
  });

  it("refuses a name that stands for two images", async () => {
    const source = await openDockerArchive(await classic([entry, { ...entry, Config: "other.json" }], file("other.json", configOf())));
    expect((await failureOf(source.resolve("team/app:1"))).code).toBe("ERR_OCI_DOCUMENT");
  });

  it("refuses an archive that is cut off, wherever", async () => {
    const whole = await classic([entry]);
    const bytes = await whole.read(0, whole.size);
    for (let size = 1; size < bytes.length - 1024; size += 7919) {
      const cut: ByteSource = { size, read: (offset, length) => Promise.resolve(bytes.slice(offset, offset + length)) };
      const error = await failureOf((async () => (await openDockerArchive(cut)).resolve("team/app:1"))());
      expect(error.code).toMatch(/^ERR_OCI_(DOCUMENT|NOT_FOUND)$/);
    }
  });
});
