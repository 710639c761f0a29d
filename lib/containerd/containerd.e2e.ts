import { execFile, spawn, spawnSync } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { EventEmitter, once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { MOUNT_NAMESPACE, onOwnRoot } from "@sealpod/vmm";
import { digestOf } from "@sealpod/oci";
import { encodeTar } from "@sealpod/verity";
import type { TarItem } from "@sealpod/verity";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { openContainerd } from "./containerd.ts";
import { buildImage, noise, tarHolds, text } from "./test-support.ts";
import type { TestImage } from "./test-support.ts";

// Real containerd and a real registry, in a network namespace of their own; the unix socket is all that leaves it.

const TOOLS = ["containerd", "ctr", "docker-registry", "unshare", "nsenter", "ip"];
const missing = TOOLS.filter((tool) => spawnSync("sh", ["-c", 'command -v "$1"', "sh", tool]).status !== 0);
const reason =
  missing.length > 0
    ? ` (skipped: not installed: ${missing.join(", ")}; apt-get install containerd docker-registry util-linux iproute2)`
    : process.getuid?.() !== 0 || spawnSync("unshare", [...MOUNT_NAMESPACE, "--net", "true"]).status !== 0
      ? " (skipped: needs root and namespaces)"
      : "";

/** bcrypt of "pull-secret", made for this test. */
const HTPASSWD = "puller:$2b$04$CEl5J988cE7BTumJ7nPod.uUJlyBA0p83NzYruRqhE6Rp71gPuUX6\n";
const CREDENTIALS = { username: "puller", password: "pull-secret" };
const IMPORTED = "127.0.0.1:5000/imported:1";
const PUSHED = "127.0.0.1:5000/team/pushed:1";
/** The first layer is larger than what HTTP/2 sends ahead. */
const FILES = [noise(24_000_000), text("the second layer\n")];

/** A daemon with the lines of its log. */
class Daemon {
  readonly child: ChildProcess;
  readonly #news = new EventEmitter();
  log = "";

  /** Starts a command in new namespaces, or in those of another daemon. */
  constructor(command: readonly string[], neighbour?: Daemon) {
    const inNamespaces =
      neighbour === undefined
        ? ["unshare", ...MOUNT_NAMESPACE, "--net", ...onOwnRoot(["/bin/sh", "-c", 'ip link set lo up && exec "$@"', "sh", ...command])]
        : ["nsenter", `--net=/proc/${String(neighbour.child.pid)}/ns/net`, ...command];
    const [program, ...args] = inNamespaces;
    this.child = spawn(program as string, args, { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding("utf8").on("data", (part: string) => {
        this.log += part;
        this.#news.emit("news");
      });
    }
    this.child.once("exit", () => this.#news.emit("news"));
  }

  /** Waits until the log has a text. */
  async says(words: string): Promise<void> {
    while (!this.log.includes(words)) {
      if (this.child.exitCode !== null) throw new Error(`the daemon ended: ${this.log}`);
      await once(this.#news, "news");
    }
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, "exit");
    this.child.kill("SIGTERM");
    await ended;
  }
}

describe.skipIf(reason !== "")(`openContainerd with containerd${reason}`, () => {
  let directory: string;
  let image: TestImage;
  const daemons: Daemon[] = [];
  const path = (name: string): string => join(directory, name);

  /** Starts containerd with its files under a name; the first one makes the network. */
  async function startContainerd(name: string, disabled: readonly string[] = []): Promise<string> {
    const unused = ["internal.v1.opt", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper", "snapshotter.v1.aufs", ...disabled];
    const config = `version = 2
root = "${path(`${name}-root`)}"
state = "${path(`${name}-state`)}"
disabled_plugins = [${unused.map((plugin) => `"io.containerd.${plugin}"`).join(", ")}]
[grpc]
  address = "${path(`${name}.sock`)}"
[ttrpc]
  address = "${path(`${name}.ttrpc`)}"
[plugins."io.containerd.grpc.v1.cri"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "${path("cni")}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`;
    writeFileSync(path(`${name}.toml`), config);
    await runContainerd(name);
    return path(`${name}.sock`);
  }

  async function runContainerd(name: string): Promise<void> {
    const daemon = new Daemon(["containerd", "--config", path(`${name}.toml`)]);
    daemons.push(daemon);
    await daemon.says("containerd successfully booted");
  }

  async function startRegistry(): Promise<void> {
    writeFileSync(path("htpasswd"), HTPASSWD);
    const config = `version: 0.1
storage:
  filesystem:
    rootdirectory: ${path("registry")}
http:
  addr: 127.0.0.1:5000
auth:
  htpasswd:
    realm: test
    path: ${path("htpasswd")}
`;
    writeFileSync(path("registry.yml"), config);
    const daemon = new Daemon(["docker-registry", "serve", path("registry.yml")], daemons[0]);
    daemons.push(daemon);
    await daemon.says("listening on");
  }

  const ctr = async (...args: readonly string[]): Promise<void> => {
    const net = `--net=/proc/${String(daemons[0]?.child.pid)}/ns/net`;
    await promisify(execFile)("nsenter", [net, "ctr", "--address", path("main.sock"), "--namespace", "k8s.io", ...args]);
  };

  /** The image as `ctr images import` takes it: its layout in a tar. */
  async function writeArchive(file: string, layout: TestImage): Promise<void> {
    const base = { mode: 0o644, uid: 0, gid: 0, mtime: 0 };
    const items = [...layout.files].map(([name, data]): TarItem => ({ ...base, kind: "file", path: name, data }));
    await writeFile(file, encodeTar(items));
  }

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-containerd-e2e-"));
    mkdirSync(path("cni"));
    image = await buildImage(FILES, IMPORTED);
    await startContainerd("main");
    await startRegistry();
    await writeArchive(path("image.tar"), image);
    await ctr("images", "import", path("image.tar"));
    await ctr("images", "tag", IMPORTED, PUSHED);
    await ctr("images", "push", "--plain-http", "--user", `${CREDENTIALS.username}:${CREDENTIALS.password}`, PUSHED);
  });
  afterAll(async () => {
    for (const daemon of daemons.toReversed()) await daemon.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const expected = (reference: string): object => ({ reference, manifestDigest: image.manifest, configDigest: image.config, layers: image.layers });

  it("reads an image that was imported", async () => {
    const source = openContainerd({ socketPath: path("main.sock"), pull: "missing" });
    // CRI learns of it by an event of containerd.
    const found = await vi.waitFor(() => source.resolve(IMPORTED), { timeout: 60_000, interval: 100 });
    expect(found).toMatchObject(expected(IMPORTED));
    for (const [i, layer] of found.layers.entries()) expect(await tarHolds(source.layerTar(layer), FILES[i] ?? noise(1))).toBe(true);
  });

  it("pulls with credentials, by tag and by digest, when containerd has nothing of it", async () => {
    await ctr("images", "rm", "--sync", IMPORTED, PUSHED);
    const credentials = (registry: string): Promise<typeof CREDENTIALS | undefined> => Promise.resolve(registry === "127.0.0.1:5000" ? CREDENTIALS : undefined);
    const source = openContainerd({ socketPath: path("main.sock") }, { credentials });
    for (const reference of [PUSHED, `${PUSHED}@${image.manifest}`]) {
      const found = await source.resolve(reference);
      expect(found).toMatchObject(expected(reference));
      for (const [i, layer] of found.layers.entries()) expect(await tarHolds(source.layerTar(layer), FILES[i] ?? noise(1))).toBe(true);
    }
  });

  it("says that credentials are missing, wrong, or the image is", async () => {
    const socketPath = path("main.sock");
    await expect(openContainerd({ socketPath }).resolve(PUSHED)).rejects.toMatchObject({ code: "ERR_CONTAINERD_AUTH" });
    const wrong = openContainerd({ socketPath }, { credentials: () => Promise.resolve({ username: "puller", password: "wrong-secret" }) });
    const error: unknown = await wrong.resolve(PUSHED).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "ERR_CONTAINERD_AUTH" });
    expect(String(error)).not.toContain("wrong-secret");
    const right = openContainerd({ socketPath }, { credentials: () => Promise.resolve(CREDENTIALS) });
    await expect(right.resolve("127.0.0.1:5000/team/none:1")).rejects.toMatchObject({ code: "ERR_CONTAINERD_NOT_FOUND" });
    await expect(right.resolve("127.0.0.1:1/team/none:1")).rejects.toMatchObject({ code: "ERR_CONTAINERD_PULL" });
  });

  it("names a layer that containerd dropped, and its advice brings the layer back", async () => {
    const source = openContainerd({ socketPath: path("main.sock") }, { credentials: () => Promise.resolve(CREDENTIALS) });
    const found = await source.resolve(PUSHED);
    const [layer] = found.layers;
    if (layer === undefined) throw new Error("no layer");
    await ctr("content", "rm", layer.digest);
    await expect(tarHolds(source.layerTar(layer), text(""))).rejects.toMatchObject({ code: "ERR_CONTAINERD_CONTENT", details: { digest: layer.digest } });
    // A pull does not: containerd fetches no layer whose snapshot it has.
    await source.resolve(PUSHED);
    await expect(tarHolds(source.layerTar(layer), text(""))).rejects.toMatchObject({ code: "ERR_CONTAINERD_CONTENT" });
    await ctr("content", "fetch", "--platform", "linux/amd64", "--plain-http", "--user", `${CREDENTIALS.username}:${CREDENTIALS.password}`, PUSHED);
    expect(await tarHolds(source.layerTar(layer), FILES[0] ?? noise(1))).toBe(true);
  });

  it("says that CRI is off, and that a ttRPC socket is another one", async () => {
    const socketPath = await startContainerd("bare", ["grpc.v1.cri"]);
    await expect(openContainerd({ socketPath }).resolve(PUSHED)).rejects.toMatchObject({ code: "ERR_CONTAINERD_SERVICE" });
    const ttrpc = openContainerd({ socketPath: path("bare.ttrpc"), timeouts: { greeting: 500 } });
    await expect(ttrpc.resolve(PUSHED)).rejects.toMatchObject({ code: "ERR_CONTAINERD_PROTOCOL" });
  });

  // Last: it ends the network that the others use.
  it("goes on with a layer after containerd was started again", async () => {
    const source = openContainerd({ socketPath: path("main.sock") }, { credentials: () => Promise.resolve(CREDENTIALS) });
    const found = await source.resolve(PUSHED);
    const [layer] = found.layers;
    if (layer === undefined) throw new Error("no layer");
    const blob = source.layerBlob(layer)[Symbol.asyncIterator]();
    const parts = [(await blob.next()).value as Uint8Array];
    await daemons[0]?.stop();
    await runContainerd("main");
    for (let part = await blob.next(); part.done !== true; part = await blob.next()) parts.push(part.value);
    expect(digestOf(Buffer.concat(parts))).toBe(layer.digest);
  });
});
