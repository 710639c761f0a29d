import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { launcherText, parseToml } from "@sealpod/shim";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { type InstallSources, planInstall, planUninstall } from "./index.ts";

const BUILD = resolve("build");
const VERSIONS = [
  { name: "1.6", program: join(BUILD, "tools/usr/bin/containerd"), ctr: join(BUILD, "tools/usr/bin/ctr") },
  { name: "1.7", program: join(BUILD, "tools-1.7/usr/bin/containerd"), ctr: join(BUILD, "tools-1.7/usr/bin/ctr") },
] as const;

const CONFIG = "/etc/containerd/config.toml";

let base = "";
let root = "";
let sources: InstallSources;
const running: ChildProcess[] = [];

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), "he2e-"));
  root = join(base, "root");
  await mkdir(join(root, "etc/containerd"), { recursive: true });
  await mkdir(join(base, "uvm"));
  await writeFile(join(base, "uvm", "uvm.json"), "{}");
  const bundle = join(base, "bundle.mjs");
  await writeFile(bundle, "");
  sources = { node: process.execPath, shim: bundle, agent: bundle, processor: bundle, uvm: join(base, "uvm"), launcher: launcherText };
});
afterEach(async () => rm(base, { recursive: true, force: true }));
afterAll(() => {
  for (const child of running) child.kill("SIGKILL");
});

const call = async (program: string, ...args: readonly string[]): Promise<string> => (await promisify(execFile)(program, args, { timeout: 60_000 })).stdout;
const dump = async (program: string, place: string): Promise<string> => call(program, "--config", place, "config", "dump");

type Tables = Readonly<Record<string, unknown>>;
/** Runtimes of a dump, and the rest of it without what names the file. */
function read(text: string): { readonly runtimes: Readonly<Record<string, Tables>>; readonly rest: unknown } {
  const { imports: _imports, plugins, ...rest } = parseToml(text, "it") as { readonly imports: unknown; readonly plugins: Readonly<Record<string, Tables>> };
  const { "io.containerd.grpc.v1.cri": cri = {}, ...others } = plugins;
  const { containerd, ...ofCri } = cri as { readonly containerd: { readonly runtimes: Readonly<Record<string, Tables>> } };
  const { runtimes, ...ofContainerd } = containerd;
  return { runtimes, rest: { ...rest, others, ofCri, ofContainerd } };
}

/** containerd's own configuration, with everything in private places. */
function configText(): string {
  return `version = 2
root = "${base}/data"
state = "${base}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "${base}/c.sock"
[ttrpc]
  address = "${base}/t.sock"
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "local.test/pause:1"
    restrict_oom_score_adj = true
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "${base}/cni"`;
}

describe.each(VERSIONS)("containerd $name", ({ program, ctr }) => {
  const isHere = existsSync(program);

  it.skipIf(!isHere)("has the runtimes and all that it had before, and nothing of them afterwards", { timeout: 120_000 }, async () => {
    const text = configText();
    await writeFile(join(root, CONFIG), text);
    const before = read(await dump(program, join(root, CONFIG)));
    const ports = { dump: async (place: string) => dump(program, place) };
    await (await planInstall({ root }, sources, true, ports)).apply();

    const after = read(await dump(program, join(root, CONFIG)));
    expect(after.rest).toEqual(before.rest);
    expect(Object.keys(after.runtimes).toSorted()).toEqual(["kata-cc", "kata-cc-isolation", "runc"]);
    expect(after.runtimes["runc"]?.["runtime_type"]).toBe(before.runtimes["runc"]?.["runtime_type"]);
    expect(after.runtimes["kata-cc"]).toMatchObject({
      runtime_type: "io.containerd.kata-cc.v2",
      pod_annotations: ["io.katacontainers.*"],
      options: { ConfigPath: "/etc/sealpod/shim.toml" },
    });

    await (await planUninstall({ root })).apply();
    expect(await readFile(join(root, CONFIG), "utf8")).toBe(text);
  });

  it.skipIf(!isHere || process.getuid?.() !== 0)("starts with it", { timeout: 120_000 }, async () => {
    await writeFile(join(root, CONFIG), configText());
    await (await planInstall({ root }, sources, true, { dump: async (place) => dump(program, place) })).apply();
    const script = 'mount --make-rprivate / && mount -t tmpfs run /run && ip link set lo up && exec "$0" --config "$1"';
    const child = spawn("unshare", ["--mount", "--net", "sh", "-c", script, program, join(root, CONFIG)], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    running.push(child);
    const ended = once(child, "exit");
    let log = "";
    const booted = new Promise<void>((done, fail) => {
      child.stderr.setEncoding("utf8").on("data", (part: string) => {
        log += part;
        if (log.includes("containerd successfully booted")) done();
      });
      child.on("exit", () => fail(new Error(log)));
    });
    try {
      await booted;
      expect(await call(ctr, "--address", `${base}/c.sock`, "plugins", "ls", "id==cri")).toMatch(/io\.containerd\.grpc\.v1\s+cri\s+\S+\s+ok/);
      // What CRI says of its runtimes when it starts is all of its configuration.
      expect(log).toContain("kata-cc-isolation");
    } finally {
      child.kill("SIGTERM");
      await ended;
    }
  });

  it.skipIf(!isHere)("loses CRI's whole part to a file that it imports: why the runtimes are in the file itself", async () => {
    await mkdir(join(root, "etc/containerd/conf.d"));
    await writeFile(join(root, CONFIG), `imports = ["${root}/etc/containerd/conf.d/*.toml"]\n${configText()}`);
    await writeFile(
      join(root, "etc/containerd/conf.d/kata.toml"),
      'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-cc]\n  runtime_type = "x.y.v2"\n',
    );
    const { runtimes, rest } = read(await dump(program, join(root, CONFIG)));
    expect(Object.keys(runtimes)).toEqual(["kata-cc"]);
    expect(JSON.stringify(rest)).not.toContain("local.test/pause:1");
  });

  it.skipIf(!isHere)("says no to what would not count", async () => {
    // The pattern is of the machine, and what it names is not below the root: only containerd itself finds it.
    await mkdir(join(base, "conf.d"));
    await writeFile(join(base, "conf.d/other.toml"), 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "other"\n');
    const text = `imports = ["${base}/conf.d/*.toml"]\n${configText()}`;
    await writeFile(join(root, CONFIG), text);
    const plan = await planInstall({ root }, sources, true, { dump: async (place) => dump(program, place) });
    await expect(plan.apply()).rejects.toMatchObject({
      code: "ERR_INSTALL_CONTAINERD",
      message: expect.stringContaining("does not have the runtimes") as string,
    });
    expect(await readFile(join(root, CONFIG), "utf8")).toBe(text);
    expect(existsSync(join(root, "opt"))).toBe(false);
  });
});
