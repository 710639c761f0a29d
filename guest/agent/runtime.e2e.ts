import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { MOUNT_NAMESPACE, onOwnRoot } from "@sealpod/vmm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const BUSYBOX = "/usr/bin/busybox";
const GROUPS = "/sys/fs/cgroup";

/** Process 1 of the private namespaces: shows one hierarchy of version 2, as the guest has it, and reaps orphans while it waits. */
const INIT = `mount --make-rprivate /
umount -R ${GROUPS} 2>/dev/null
mount -t cgroup2 none ${GROUPS} || exit 77
if [ "$1" = probe ]; then exit 0; fi
"$@" & scenario=$!
while kill -0 "$scenario" 2>/dev/null; do wait "$scenario"; status=$?; done
exit "$status"`;

const NAMESPACES = [...MOUNT_NAMESPACE, "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"];
const inNamespaces = (command: readonly string[]): ReturnType<typeof spawnSync> =>
  spawnSync("unshare", [...NAMESPACES, ...onOwnRoot(["/bin/sh", "-c", INIT, "init", ...command])], { timeout: 120_000, encoding: "utf8" });

const haveRuntime = process.getuid?.() === 0 && spawnSync("crun", ["--version"]).status === 0 && spawnSync(BUSYBOX, ["true"]).status === 0;
const possible = haveRuntime && inNamespaces(["probe"]).status === 0;
const haveCompiler = spawnSync("gcc", ["--version"]).status === 0;

/** What testdata/runtime-scenario.ts prints. */
interface Seen {
  readonly [scenario: string]: unknown;
}

describe.skipIf(!possible)("crun and control groups of version 2 (needs root, crun, busybox and a mount of cgroup2)", () => {
  const directory = mkdtempSync(`${tmpdir()}/sealpod-runtime-e2e-`);
  const helper = `${directory}/helper`;
  let seen: Seen = {};

  beforeAll(() => {
    mkdirSync(`${directory}/work`);
    if (haveCompiler) {
      const source = `${import.meta.dirname}/../init/init.c`;
      spawnSync("gcc", ["-O1", "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector", "-o", helper, source], { timeout: 60_000 });
    }
    const scenario = `${import.meta.dirname}/testdata/runtime-scenario.ts`;
    const { stdout, stderr, status } = inNamespaces([process.execPath, scenario, `${directory}/work`, existsSync(helper) ? helper : ""]);
    if (status !== 0) throw new Error(`the scenario ended with ${status}: ${String(stderr)}`);
    seen = JSON.parse(String(stdout)) as Seen;
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it("keep a container in its group, count for it, stop it, let it go on, limit it, kill it, and are gone after it", () => {
    expect(seen["groups"]).toEqual({
      where: "0::/",
      inside: true,
      paused: { events: "populated 1\nfrozen 1", exec: "ERR_AGENT_STATE", again: "ERR_AGENT_CGROUP" },
      resumed: "populated 1\nfrozen 0",
      other: { stdout: "0::/\n", stderr: "", status: 3 },
      used: true,
      limit: "4194304",
      status: 137,
      // crun has removed its own one by then.
      kept: { group: true, cpu: true },
      left: false,
    });
  });

  it("enforce limits and tell of a container that needs more memory (as far as the kernel has controllers here)", () => {
    if (seen["limits"] === "no memory controller") return;
    expect(seen["limits"]).toEqual({
      files: ["33554432", "39", "50000 100000", "50"],
      inForce: [33554432, 50],
      updated: ["25165824", "max"],
      killed: { status: 137, event: "c1", used: true },
      left: false,
    });
  });

  it("keep a container that can make device nodes from opening them (as far as the agent may load a device program here)", () => {
    if (seen["devices"] === "no CAP_SYS_RESOURCE") return;
    expect(seen["devices"]).toMatchObject({ stdout: "4\n", stderr: expect.stringContaining("Operation not permitted") as string });
  });

  it("let a paused container be removed", () => {
    expect(seen["pausedRemoval"]).toEqual({ left: false });
  });

  it("leave nothing of a container that could not be made", () => {
    expect(seen["failure"]).toEqual({ code: "ERR_AGENT_COMMAND", left: false, directory: ["sandbox", "shared"] });
  });

  it("give a process its user, groups, home, sysctls and seccomp profile", () => {
    expect(seen["specification"]).toEqual({
      stdout: "77\n1\nuid=5(five) gid=6 groups=7,8\n/home/five\nNoNewPrivs:\t1\n",
      // The error number is the profile's: EXDEV, which mkdir itself never gives.
      stderr: expect.stringContaining("Invalid cross-device link") as string,
      status: 1,
    });
  });

  it.skipIf(!haveCompiler)(`give it a terminal${haveCompiler ? "" : " (skipped: no gcc for the helper)"}`, () => {
    expect(seen["terminal"]).toEqual({
      none: "ERR_AGENT_NO_PROCESS",
      first: "33 99\r\n",
      // The echo, the answer, the new size, and what comes then.
      lines: ["hello", "got hello", "40 100", "1"],
      count: 20_004,
      last: ["20000", ""],
      stderr: "",
      status: 4,
      other: { stdout: "terminal\r\n", stderr: "", status: 5 },
      missing: "ERR_AGENT_COMMAND",
      noTerminal: "ERR_AGENT_NO_TTY",
    });
  });

  it("say clearly where there can be no terminal", () => {
    expect(seen["withoutHelper"]).toEqual({ code: "ERR_AGENT_UNIMPLEMENTED" });
  });

  it("hold no descriptor, process, group or note of dozens of containers", () => {
    const dozens = seen["dozens"] as { readonly first: unknown; readonly second: unknown; readonly third: unknown };
    expect(dozens.first).toMatchObject({ groups: 0, state: [] });
    expect(dozens.second).toEqual(dozens.first);
    expect(dozens.third).toEqual(dozens.first);
    expect(seen["end"]).toBe(0);
  });
});
