import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { systemClock, systemRandom } from "@sealpod/io";
import { parseCertificatesPem } from "@sealpod/pki";
import { PspClient } from "@sealpod/psp";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CliContext } from "../context.ts";
import type { DeclareVerb } from "../program.ts";
import { run as check } from "../verbs/host-check.ts";
import { run as install } from "../verbs/host-install.ts";
import { run as processor } from "../verbs/host-processor.ts";
import { addHostVerbs } from "./commands.ts";

let base = "";
let root = "";
let output = "";
beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), "host-cli-"));
  root = join(base, "root");
  output = "";
  await mkdir(join(base, "uvm"), { recursive: true });
  await mkdir(root);
  await writeFile(join(base, "uvm", "uvm.json"), "{}");
  for (const name of ["node", "shim.mjs", "agent.mjs", "processor.mjs"]) await writeFile(join(base, name), name);
});
afterEach(async () => rm(base, { recursive: true, force: true }));

function context(signal: AbortSignal = new AbortController().signal): CliContext {
  const sink = { isTerminal: false, write: (text: string) => void (output += text) };
  return {
    env: {},
    cwd: base,
    stdin: (async function* (): AsyncGenerator<Uint8Array> {})(),
    stdout: sink,
    stderr: { ...sink, write: () => undefined },
    clock: systemClock,
    elapsed: () => 0,
    random: systemRandom,
    signal,
  };
}

describe("sealpod host", () => {
  it("has its verbs, each with examples", () => {
    const program = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
    const declared: [string, readonly string[]][] = [];
    const declare: DeclareVerb = (usage, _summary, examples) => {
      declared.push([usage, examples]);
      return program.command(usage);
    };
    addHostVerbs(declare);
    expect(declared.map(([usage]) => usage)).toEqual(["check", "install", "processor"]);
    for (const [usage, examples] of declared) for (const line of examples) expect(line).toContain(`sealpod host ${usage}`);
    expect(() => program.parse(["install", "--emulated", "--hardware"], { from: "user" })).toThrow(/cannot be used with/);
  });
});

describe("sealpod host check", () => {
  it("says of this machine what it can do", async () => {
    const exit = await check({ json: true }, [], context());
    const report = JSON.parse(output) as {
      readonly usable: boolean;
      readonly isolation: string;
      readonly emulated: readonly string[];
      readonly findings: readonly { readonly id: string }[];
    };
    expect(exit).toBe(report.usable ? 0 : 1);
    expect(report.findings.map(({ id }) => id)).toEqual(expect.arrayContaining(["kvm", "sev-snp", "qemu", "containerd", "cgroups"]));
    output = "";
    expect(await check({}, [], context())).toBe(exit);
    if (!existsSync("/dev/sev")) expect(output).toMatch(/EMULATED {2}sev-snp: .*\n.*NO HARDWARE PROTECTION/);
  });
});

describe("sealpod host install", () => {
  const options = (): Parameters<typeof install>[0] => ({ root, uvm: "uvm", bundles: ".", node: "node", emulated: true });

  it("shows, installs, and removes without a trace", async () => {
    expect(await install({ ...options(), dryRun: true }, [], context())).toBe(0);
    expect(output).toMatch(/write {4}\/opt\/sealpod\/shim\.mjs[^]*Nothing was changed/);
    expect(await readdir(root)).toEqual([]);

    output = "";
    await install({ ...options(), json: true }, [], context());
    expect(JSON.parse(output)).toMatchObject({
      applied: true,
      warnings: [],
      notes: [expect.stringContaining("4096 MiB") as string],
      next: expect.arrayContaining(["systemctl restart containerd"]) as string[],
    });
    expect(await readFile(join(root, "etc/containerd/config.toml"), "utf8")).toContain("runtimes.kata-cc]");
    const launcher = join(root, "usr/local/bin/containerd-shim-kata-cc-v2");
    expect((await stat(launcher)).mode & 0o777).toBe(0o755);
    expect(await readFile(launcher, "utf8")).toMatch(
      /^#!\/bin\/sh\n[^]*\nnode='\/opt\/sealpod\/bin\/node'\nshim='\/opt\/sealpod\/shim\.mjs'\nconfig='\/etc\/sealpod\/shim\.toml'\n/,
    );

    await install({ ...options(), uninstall: true }, [], context());
    expect(await readdir(root)).toEqual([]);
    output = "";
    expect(await install({ ...options(), uninstall: true }, [], context())).toBe(0);
    expect(output).toContain("nothing of sealpod is installed here");
  });
});

describe("the emulated security processor of a node", () => {
  it("serves shims, keeps its keys, and says whom to name", { timeout: 120_000 }, async () => {
    const places = { socket: join(base, "run/p.sock"), keys: "state/keys", guests: "run/guests", rootPem: "root.pem" };
    const use = async (): Promise<Uint8Array> => {
      const end = new AbortController();
      const served = processor(places, [], context(end.signal));
      try {
        while (!output.includes(places.socket)) await Promise.race([served, new Promise((resolve) => void setImmediate(resolve))]);
        const client = new PspClient(places.socket);
        const guest = await client.launch({ files: [join(base, "node")], commandLine: "x", hostData: new Uint8Array(32) });
        const { report } = await client.fetchReport(guest.id, Uint8Array.of(1));
        expect(report.length).toBe(1184);
        return (await client.fetchTrust()).root.keySha256;
      } finally {
        end.abort();
        expect(await served).toBe(0);
      }
    };
    const first = await use();
    expect(output).toContain("EMULATED - NO HARDWARE PROTECTION");
    expect(parseCertificatesPem(await readFile(join(base, "root.pem"), "utf8"))).toHaveLength(1);
    output = "";
    expect(await use()).toEqual(first);
    expect(existsSync(places.socket)).toBe(false);
    expect(await readdir(join(base, "run/guests"))).toEqual([]);
    expect((await stat(join(base, "state/keys/psp.json"))).mode & 0o777).toBe(0o600);
  });

  it("is a program of its own, as the unit starts it", { timeout: 120_000 }, async () => {
    const socket = join(base, "run/p.sock");
    const main = join(import.meta.dirname, "../../laptop/psp/main.ts");
    const child = spawn(process.execPath, ["--no-warnings", main, "--socket", socket, "--keys", join(base, "keys"), "--guests", join(base, "guests")], {
      stdio: ["ignore", "ignore", "pipe"],
      env: {},
    });
    const ended = once(child, "exit");
    const [line] = (await Promise.race([once(child.stderr, "data"), ended])) as readonly unknown[];
    expect(String(line)).toContain("EMULATED");
    expect((await new PspClient(socket).fetchTrust()).root.name).toBe("emulator");
    child.kill("SIGTERM");
    expect(await ended).toEqual([0, null]);
    expect(existsSync(socket)).toBe(false);
  });

  it("refuses places that are none", { timeout: 60_000 }, async () => {
    const main = join(import.meta.dirname, "../../laptop/psp/main.ts");
    const child = spawn(process.execPath, ["--no-warnings", main, "--socket", "p.sock"], { stdio: "ignore", env: {} });
    expect(await once(child, "exit")).toEqual([2, null]);
  });
});
