import { once } from "node:events";
import { expect, it } from "vitest";
import { IMAGES, until } from "./test-support.ts";
import type { ContainerdWorld } from "./test-support.ts";

// What ctr(8) does with a container whatever runs it.

/** What differs between runtimes. */
export interface CtrRuntime {
  /** E.g. `io.containerd.runc.v2`. */
  readonly runtime: string;
  /** Arguments of each `ctr run`. */
  readonly more?: readonly string[];
  /** False where the host has no cgroup of a container, and so cannot pause it: pods that are processes. */
  readonly pauses: boolean;
}

/** Defines the cases for containers of one runtime. */
export function defineCtrCases(world: () => ContainerdWorld, { runtime, more = [], pauses }: CtrRuntime): void {
  const run = (id: string, ...command: readonly string[]): readonly string[] => ["run", "--rm", "--runtime", runtime, ...more, IMAGES.busybox, id, ...command];

  it("ctr runs a container to its end, and gives its output and status", async () => {
    const done = await world().ctr(...run("outcome", "sh", "-c", "echo out; echo err >&2; exit 6"));
    expect(done).toEqual({ status: 6, stdout: "out\n", stderr: expect.stringMatching(/^err$/m) as string });
    expect(await world().leaks()).toEqual([]);
  });

  it("ctr feeds a container and ends its input", async () => {
    const cat = world().startCtr(...run("cat", "cat"));
    cat.child.stdin?.write("through a pipe\n");
    // ctr forgets to hand on an end that comes before the task has started.
    await cat.wrote("through a pipe");
    cat.child.stdin?.end();
    expect(await cat.exited).toBe(0);
    expect(cat.stdout).toBe("through a pipe\n");
    expect(await world().leaks()).toEqual([]);
  });

  it(`ctr execs, ${pauses ? "pauses, " : ""}measures and kills`, async () => {
    const main = world().startCtr(...run("busy", "sh", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 1 & wait $!; done"));
    await main.wrote("up");
    const task = (...args: readonly string[]): ReturnType<ContainerdWorld["ctr"]> => world().ctr("tasks", ...args);
    expect(await task("exec", "--exec-id", "one", "busy", "sh", "-c", "echo inside; exit 3")).toMatchObject({ status: 3, stdout: "inside\n" });
    expect((await task("ls")).stdout).toMatch(/^busy\s+\d+\s+RUNNING$/m);
    expect((await task("ps", "busy")).stdout).toMatch(/^\d+/m);
    expect((await task("metrics", "busy")).stdout).toMatch(/memory\.usage/);
    if (pauses) {
      expect(await task("pause", "busy")).toMatchObject({ status: 0 });
      expect((await task("ls")).stdout).toMatch(/^busy\s+\d+\s+PAUSED$/m);
      expect(await task("resume", "busy")).toMatchObject({ status: 0 });
    }
    expect(await task("kill", "--signal", "SIGUSR1", "busy")).toMatchObject({ status: 0 });
    expect(await main.exited).toBe(9);
    expect(await world().leaks()).toEqual([]);
  });

  it("ctr refuses a second container of a name", async () => {
    const main = world().startCtr(...run("only", "sh", "-c", "echo up; exec sleep 1000"));
    await main.wrote("up");
    const second = await world().ctr(...run("only", "true"));
    expect(second.status).not.toBe(0);
    expect(second.stderr).toMatch(/already exists/);
    await world().ctr("tasks", "kill", "--signal", "SIGKILL", "only");
    expect(await main.exited).toBe(137);
    expect(await world().leaks()).toEqual([]);
  });

  it("ctr says why a program does not start, and leaves nothing", async () => {
    const done = await world().ctr(...run("missing", "/no/such/program"));
    expect(done.status).not.toBe(0);
    expect(done.stderr).toMatch(/no such file/i);
    await world().ctr("containers", "rm", "missing");
    expect(await world().leaks()).toEqual([]);
  });

  it("reports events in their order", async () => {
    const events = world().startCtr("events");
    // Its subscription is announced by nothing but the first event.
    const first = once(events.child.stdout ?? events.child, "data");
    for (let i = 0; events.stdout === ""; i++) {
      await world().ctr("namespaces", "create", `probe-${i}`);
      await Promise.race([first, world().ctr("version")]);
    }
    await world().ctr(...run("event", "true"));
    await events.wrote("/tasks/delete");
    const topics = [...events.stdout.matchAll(/\/tasks\/\S+/g)].map(([topic]) => topic);
    expect(topics).toEqual(["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    events.signal("SIGTERM");
    await events.exited;
    await until(async () => expect(await world().leaks(0)).toEqual([]));
  });
}
