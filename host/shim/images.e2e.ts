import { execFile, spawn, spawnSync, type ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { connectContainerd, type Containerd } from "@sealpod/containerd";
import { buildImage, noise, text, type TestImage } from "@sealpod/containerd/testing";
import { toHex, type LogLevel } from "@sealpod/core";
import { chainIds, layerId } from "@sealpod/oci";
import { encodeTar, type TarItem } from "@sealpod/verity";
import { MOUNT_NAMESPACE, onOwnRoot } from "@sealpod/vmm";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { withLock } from "./images-lock.ts";
import { ContainerdImages } from "./images.ts";

// A real containerd in mount and network namespaces of its own, without CRI: containers are made with ctr and not started.

const TOOLS = ["containerd", "ctr", "unshare", "nsenter"];
const missing = TOOLS.filter((tool) => spawnSync("sh", ["-c", 'command -v "$1"', "sh", tool]).status !== 0);
const reason =
  missing.length > 0
    ? ` (skipped: not installed: ${missing.join(", ")}; apt-get install containerd util-linux)`
    : process.getuid?.() !== 0 || spawnSync("unshare", [...MOUNT_NAMESPACE, "--net", "true"]).status !== 0
      ? " (skipped: needs root and namespaces)"
      : "";

const NAME = "local.test/app:1";
const OTHER = "local.test/other:1";

describe.skipIf(reason !== "")(`the shim's images with containerd${reason}`, () => {
  let directory: string;
  let daemon: ChildProcess;
  let image: TestImage;
  let other: TestImage;
  let containerd: Containerd;
  const path = (name: string): string => join(directory, name);

  async function start(): Promise<void> {
    const command = ["unshare", ...MOUNT_NAMESPACE, "--net", ...onOwnRoot(["containerd", "--config", path("config.toml")])];
    const [program, ...args] = command;
    daemon = spawn(program as string, args, { stdio: ["ignore", "pipe", "pipe"] });
    const news = new EventEmitter();
    let log = "";
    for (const stream of [daemon.stdout, daemon.stderr]) {
      stream?.setEncoding("utf8").on("data", (part: string) => {
        log += part;
        news.emit("news");
      });
    }
    daemon.once("exit", () => news.emit("news"));
    while (!log.includes("containerd successfully booted")) {
      if (daemon.exitCode !== null) throw new Error(`containerd ended: ${log}`);
      await once(news, "news");
    }
  }

  async function stop(): Promise<void> {
    const ended = once(daemon, "exit");
    daemon.kill("SIGTERM");
    await ended;
  }

  const ctr = async (namespace: string, ...args: readonly string[]): Promise<string> => {
    // Its mounts are in containerd's namespace.
    const into = [`--mount=/proc/${String(daemon.pid)}/ns/mnt`, "ctr", "--address", path("c.sock"), "--namespace", namespace];
    return (await promisify(execFile)("nsenter", [...into, ...args])).stdout;
  };

  async function importImage(namespace: string, built: TestImage): Promise<void> {
    const base = { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
    const items = [...built.files].map(([name, data]): TarItem => ({ ...base, kind: "file", path: name, data }));
    await writeFile(path("image.tar"), encodeTar(items));
    await ctr(namespace, "images", "import", "--snapshotter", "native", path("image.tar"));
  }

  const makeContainer = (namespace: string, id: string, name = NAME): Promise<string> =>
    ctr(namespace, "containers", "create", "--snapshotter", "native", "--runtime", "io.containerd.kata-cc.v2", name, id, "/app");

  const open = (namespace: string, lines: string[] = []): ContainerdImages =>
    new ContainerdImages({
      address: path("c.sock"),
      namespace,
      layerDirectory: path("layers"),
      logger: { log: (level: LogLevel, message) => void lines.push(`${level}: ${message}`) },
      clock: { now: () => Date.now() },
    });

  const layerFiles = async (): Promise<readonly string[]> => (await readdir(path("layers"))).filter((name) => name.endsWith(".erofs")).toSorted();

  const filesOf = (...images: readonly TestImage[]): readonly string[] =>
    images.flatMap(({ layers }) => layers.map(({ diffId }) => `${diffId.slice(7)}.erofs`)).toSorted();

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-images-e2e-"));
    mkdirSync(path("none"));
    const unused = ["grpc.v1.cri", "internal.v1.opt", ...["btrfs", "zfs", "devmapper", "aufs"].map((name) => `snapshotter.v1.${name}`)];
    writeFileSync(
      path("config.toml"),
      `version = 2
root = "${path("root")}"
state = "${path("state")}"
disabled_plugins = [${unused.map((plugin) => `"io.containerd.${plugin}"`).join(", ")}]
[grpc]
  address = "${path("c.sock")}"
[ttrpc]
  address = "${path("c.ttrpc")}"
`,
    );
    image = await buildImage([noise(3_000_000), text("the second layer\n")], NAME);
    other = await buildImage([text("another image\n")], OTHER);
    await start();
    containerd = connectContainerd({ socketPath: path("c.sock") });
    await importImage("default", image);
    await importImage("default", other);
  });
  afterAll(async () => {
    await stop();
    rmSync(directory, { recursive: true, force: true });
  });

  it("asks containerd what it is, what it has and what it lacks", async () => {
    expect((await containerd.version()).version).toMatch(/^v?[12]\.\d+\.\d+/);
    expect(await containerd.namespaces()).toContain("default");
    const plugins = await containerd.plugins();
    expect(plugins.find(({ type, id }) => type === "io.containerd.snapshotter.v1" && id === "native")).toMatchObject({ problem: undefined });
    expect(plugins.find(({ type, id }) => type === "io.containerd.grpc.v1" && id === "cri")).toBeUndefined();
    const [only, ...rest] = await containerd.plugins(["type==io.containerd.content.v1"]);
    expect([only?.id, rest]).toEqual(["content", []]);
    const namespace = containerd.namespace("default");
    expect((await namespace.images()).map(({ name }) => name).toSorted()).toEqual([NAME, OTHER]);
    expect(await namespace.content(image.manifest)).toMatchObject({ digest: image.manifest, size: image.manifestSize });
    expect(await namespace.content(`sha256:${"0".repeat(64)}`)).toBeUndefined();
    const all: string[] = [];
    for await (const { digest } of namespace.contents()) all.push(digest);
    // Two images' manifests, configurations and layers, and the indexes that ctr imported them by.
    expect(all).toEqual(expect.arrayContaining([image.manifest, image.config, ...image.layers.map(({ digest }) => digest), other.manifest]));
    const labelled: string[] = [];
    const [, second] = image.layers;
    for await (const { digest } of namespace.contents([`labels."containerd.io/uncompressed"==${second?.diffId ?? ""}`])) labelled.push(digest);
    expect(labelled).toEqual([second?.digest]);
    for await (const _ of containerd.namespace("nothing.in.it").contents()) throw new Error("there is something");
  });

  it("reads what ctr made a container from", async () => {
    await makeContainer("default", "record");
    const record = await containerd.namespace("default").container("record");
    expect(record).toMatchObject({ id: "record", image: NAME, runtime: "io.containerd.kata-cc.v2", snapshotter: "native", snapshotKey: "record" });
    const chain = chainIds(image.layers.map(({ diffId }) => diffId)).at(-1);
    expect(await containerd.namespace("default").snapshotParent("native", "record")).toBe(chain);
    expect(await containerd.namespace("default").snapshotParent("native", "absent")).toBeUndefined();
    expect(await containerd.namespace("default").container("absent")).toBeUndefined();
    expect(await containerd.namespace("k8s.io").container("record")).toBeUndefined();
  });

  it("makes the layers of a container, once for two shims", async () => {
    await makeContainer("default", "c1");
    const [layers, again] = await Promise.all([open("default").layersOf("c1", {}, "erofs"), open("default").layersOf("c1", {}, "erofs")]);
    expect(layers.map((layer) => layer.layerId)).toEqual(chainIds(image.layers.map(({ diffId }) => diffId)).map(layerId));
    expect(again.map(({ rootHash }) => toHex(rootHash))).toEqual(layers.map(({ rootHash }) => toHex(rootHash)));
    expect(await layerFiles()).toEqual(filesOf(image));
  });

  it("refuses a container of a directory, one whose tag was moved, and one without its layers' blobs", async () => {
    const images = open("default");
    mkdirSync(path("rootfs"));
    await ctr("default", "containers", "create", "--rootfs", path("rootfs"), "bare", "/app");
    await expect(images.layersOf("bare", {}, "erofs")).rejects.toMatchObject({
      code: "ERR_SHIM_IMAGE",
      message: expect.stringContaining("without an image") as string,
    });

    await ctr("default", "images", "tag", OTHER, "local.test/moving:1");
    await makeContainer("default", "moved", "local.test/moving:1");
    expect(await images.layersOf("moved", {}, "erofs")).toHaveLength(1);
    await ctr("default", "images", "tag", "--force", NAME, "local.test/moving:1");
    await expect(images.layersOf("moved", {}, "erofs")).rejects.toMatchObject({
      code: "ERR_SHIM_IMAGE",
      message: expect.stringContaining("is another image now") as string,
    });
    // CRI's annotation names one that fits.
    expect(await images.layersOf("moved", { "io.kubernetes.cri.image-name": OTHER }, "erofs")).toHaveLength(1);
    await ctr("default", "images", "rm", "local.test/moving:1");

    const [dropped] = other.layers;
    await makeContainer("default", "dropped", OTHER);
    // As discard_unpacked_layers leaves it: the snapshot is there, the blob is not.
    await ctr("default", "content", "rm", dropped?.digest ?? "");
    await images.sweep();
    expect(await layerFiles()).toEqual(filesOf(image));
    await expect(images.layersOf("dropped", {}, "erofs")).rejects.toMatchObject({ code: "ERR_SHIM_IMAGE", details: { image: OTHER, digest: dropped?.digest } });
    await importImage("default", other);
    expect(await images.layersOf("dropped", {}, "erofs")).toHaveLength(1);
  });

  it("keeps the layers of an image that another namespace has, and removes them with the last", async () => {
    const images = open("default");
    await importImage("second", image);
    await importImage("second", other);
    for (const id of ["record", "c1", "bare", "moved", "dropped"]) await ctr("default", "containers", "rm", id);
    await ctr("default", "images", "rm", "--sync", NAME, OTHER);
    expect(await images.sweep()).toEqual([]);
    expect(await layerFiles()).toEqual(filesOf(image, other));
    await ctr("second", "images", "rm", "--sync", OTHER);
    expect(await images.sweep()).toEqual(other.layers.map(({ diffId }) => diffId));
    expect(await layerFiles()).toEqual(filesOf(image));
  });

  it("removes them when containerd says that the image is gone, also after it was started again", async () => {
    const lines: string[] = [];
    const watch = open("second", lines).watch();
    try {
      await ctr("second", "images", "tag", NAME, "local.test/again:1");
      await makeContainer("second", "c2", "local.test/again:1");
      await open("second").layersOf("c2", {}, "erofs");
      await stop();
      await start();
      await ctr("second", "containers", "rm", "c2");
      await ctr("second", "images", "rm", "--sync", NAME, "local.test/again:1");
      await vi.waitFor(async () => expect(await layerFiles()).toEqual([]), { timeout: 120_000, interval: 200 });
      expect(await readdir(path("layers"))).toEqual([]);
      expect(lines.filter((line) => line.startsWith("warn"))).toEqual([]);
    } finally {
      await watch.close();
    }
  });

  it("hears of a removed image", async () => {
    const controller = new AbortController();
    const events = containerd.events(["/images/delete"], controller.signal);
    const first = events.next();
    let heard: unknown;
    void first.then(
      ({ value }) => (heard = value),
      () => undefined,
    );
    await importImage("default", other);
    // When the subscription has reached containerd nobody says: images come and go until one is heard of.
    await vi.waitFor(
      async () => {
        await ctr("default", "images", "tag", OTHER, "local.test/short:1");
        await ctr("default", "images", "rm", "local.test/short:1");
        expect(heard).toMatchObject({ namespace: "default", topic: "/images/delete" });
      },
      { timeout: 60_000, interval: 10 },
    );
    controller.abort(new Error("enough"));
    await expect(
      (async () => {
        for (;;) if ((await events.next()).done === true) return;
      })(),
    ).rejects.toThrow("enough");
  });
});

describe("the lock of a layer", () => {
  it("is free as soon as the process that has it is killed", async () => {
    const directory = mkdtempSync(join(tmpdir(), "sealpod-lock-e2e-"));
    try {
      const path = join(directory, ".lock-x");
      const program = `const { withLock } = await import(process.argv[1]);
        await withLock(process.argv[2], 60_000, (held) => new Promise(() => { process.stdout.write(String(held)); setInterval(() => 0, 60_000); }));`;
      const owner = spawn(process.execPath, ["--input-type=module", "-e", program, join(import.meta.dirname, "images-lock.ts"), path], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const [said] = (await once(owner.stdout, "data")) as [Buffer];
      expect(said.toString()).toBe("true");
      expect(await withLock(path, 0, (held) => Promise.resolve(held))).toBe(false);
      const waiting = withLock(path, 120_000, (held) => Promise.resolve(held));
      owner.kill("SIGKILL");
      expect(await waiting).toBe(true);
      expect(await readdir(directory)).toEqual([]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
