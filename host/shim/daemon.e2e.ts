import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { taskApi } from "@sealpod/proto";
import type { TtrpcClient } from "@sealpod/ttrpc";
import { startTimeOf } from "@sealpod/vmm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readRecord } from "./record.ts";
import { noContainerd, openPrivateWorld, PrivateContainerd, type PrivateWorld } from "./testdata/private-world.ts";

const SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin";

describe.skipIf(noContainerd !== undefined)(`a shim under containerd 1.6${noContainerd === undefined ? "" : ` (skipped: ${noContainerd})`}`, () => {
  let world: PrivateWorld;
  let containerd: PrivateContainerd;
  let launcher = "";
  const nodeStarts = (): readonly string[] => {
    const path = join(dirname(launcher), "node-starts");
    return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : [];
  };
  const ctr = async (...args: readonly string[]): Promise<string> => {
    const { exit, stdout, stderr } = await containerd.ctr(...args);
    expect({ args, exit, stderr }).toEqual({ args, exit: 0, stderr: "" });
    return stdout.toString();
  };
  const run = (id: string, ...annotations: readonly string[]): Promise<string> =>
    ctr(
      "run",
      "-d",
      "--runtime",
      "io.containerd.kata-cc.v2",
      ...annotations.flatMap((annotation) => ["--annotation", annotation]),
      "--rootfs",
      world.directory,
      id,
      "/bin/true",
    );
  const tasks = async (): Promise<Readonly<Record<string, string>>> => {
    const lines = (await ctr("tasks", "ls")).trim().split("\n").slice(1);
    return Object.fromEntries(lines.map((line) => line.split(/\s+/)).map(([id = "", , status = ""]) => [id, status]));
  };
  const stop = async (id: string): Promise<void> => {
    await ctr("tasks", "kill", id);
    await expect.poll(async () => (await tasks())[id], { timeout: 20_000 }).toBe("STOPPED");
    await containerd.ctr("tasks", "delete", id);
    await ctr("containers", "rm", id);
  };

  beforeAll(async () => {
    world = await openPrivateWorld();
    launcher = world.launcher(await world.tinyShim());
    containerd = new PrivateContainerd(world, `${dirname(launcher)}:${SYSTEM_PATH}`);
    await containerd.start({ NODE_OPTIONS: "--no-such-flag", NODE_EXTRA_CA_CERTS: "/nowhere", TINY_RUN: join(world.directory, "run") });
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });

  it("runs a pod of two containers, with one start of Node, and leaves nothing", async () => {
    await run("pod");
    await run("second", "io.kubernetes.cri.container-type=container", "io.kubernetes.cri.sandbox-id=pod");
    expect(await tasks()).toEqual({ pod: "RUNNING", second: "RUNNING" });
    expect(containerd.log).toContain('"id":"second","msg":"created"');
    await stop("second");
    expect(await tasks()).toEqual({ pod: "RUNNING" });
    await stop("pod");
    expect(nodeStarts()).toHaveLength(1);
    expect(world.sockets()).toEqual([]);
    expect(readdirSync(join(world.directory, "run"))).toEqual([]);
  });

  it("has room for a connection of each container of a large pod, and tells of those that it refuses", async () => {
    await run("large");
    const address = readFileSync(join(containerd.bundle("large"), "address"), "utf8");
    const clients: TtrpcClient[] = [];
    const ask = (client: TtrpcClient): Promise<unknown> => client.unary(taskApi.Task.method.connect, { id: "large" }, { timeoutMs: 60_000 });
    try {
      while (clients.length < 500) clients.push(await world.client(address));
      await Promise.all(clients.map(ask));
      while (clients.length < 1024) clients.push(await world.client(address));
      expect((await Promise.allSettled(clients.map(ask))).filter(({ status }) => status === "rejected").length).toBeLessThan(10);
      await expect.poll(() => containerd.log, { timeout: 20_000 }).toContain("a connection is refused: there are too many");
    } finally {
      for (const client of clients) client.close();
    }
    await stop("large");
  });

  it("outlives containerd, and is found again", async () => {
    await run("reattached");
    const pid = readRecord(containerd.bundle("reattached"))?.pid ?? 0;
    const startTime = startTimeOf(pid);
    await containerd.kill();
    expect(startTimeOf(pid)).toBe(startTime);
    await containerd.start({ TINY_RUN: join(world.directory, "run") });
    expect(await tasks()).toEqual({ reattached: "RUNNING" });
    expect(startTimeOf(pid)).toBe(startTime);
    await stop("reattached");
    expect(world.sockets()).toEqual([]);
  });

  it("is cleaned up after when it was killed", async () => {
    await run("killed");
    const { pid = 0, directory = "" } = readRecord(containerd.bundle("killed")) ?? {};
    expect(existsSync(directory)).toBe(true);
    process.kill(pid, "SIGKILL");
    await expect.poll(() => existsSync(directory), { timeout: 20_000 }).toBe(false);
    await expect.poll(() => containerd.log, { timeout: 20_000 }).toContain(`machine ${directory}/vm`);
    await expect.poll(tasks, { timeout: 20_000 }).toEqual({});
    expect(world.sockets()).toEqual([]);
    await ctr("containers", "rm", "killed");
  });

  it("says why it does not start where containerd's user sees it", async () => {
    const outcome = await containerd.ctr(
      "run",
      "-d",
      "--runtime",
      "io.containerd.kata-cc.v2",
      "--annotation",
      "io.kubernetes.cri.container-type=container",
      "--annotation",
      "io.kubernetes.cri.sandbox-id=nobody",
      "--rootfs",
      world.directory,
      "orphan",
      "/bin/true",
    );
    expect(outcome.exit).toBe(1);
    expect(outcome.stderr).toContain("container orphan belongs to sandbox nobody, which has no shim");
  });
});
