import {
  create,
  eventsTtrpcApi,
  runtimeOptionsApi,
  StatsContainerResponseSchema,
  taskApi,
  cgroupsV1Api,
  cgroupsV2Api,
  encodeMessage,
  parseMessage,
} from "@sealpod/proto";
import { SandboxError } from "@sealpod/sandbox";
import { STATUS, TtrpcError } from "@sealpod/ttrpc";
import { describe, expect, it } from "vitest";
import { ShimError } from "./errors.ts";
import type { HostUsage } from "./metrics.ts";
import { FakeStreams, World, closed, failure, settle } from "./testdata/task-world.ts";

const { method } = taskApi.Task;
const denied = (request: string): SandboxError =>
  new SandboxError("ERR_SANDBOX_DENIED", `${request} is blocked by policy: line 1\nline 2`, { hint: "Look at the policy." });
const json = (text: string): { readonly typeUrl: string; readonly value: Uint8Array } => ({
  typeUrl: "types.containerd.io/x",
  value: new TextEncoder().encode(text),
});

/** A promise of which one can ask whether it is settled. */
function watched<T>(promise: Promise<T>): { readonly done: () => boolean; readonly promise: Promise<T> } {
  let settled = false;
  const end = (): void => {
    settled = true;
  };
  promise.then(end, end);
  return { done: () => settled, promise };
}

describe("the life of a task", () => {
  it("is told in order, from create to delete", async () => {
    const world = new World();
    expect(await world.create("c1", { stdout: "/out", stderr: "/err", rootfs: [{ type: "overlay", source: "overlay", options: ["lowerdir=/a"] }] })).toBe(4242);
    expect(await world.status("c1")).toBe("CREATED");
    expect(await world.start("c1")).toBe(4242);
    expect(await world.status("c1")).toBe("RUNNING");
    const waits = [world.wait("c1"), world.wait("c1"), world.wait("c1")];
    world.process("c1").exit(3);
    expect(await Promise.all(waits)).toEqual([3, 3, 3]);
    expect(await world.wait("c1")).toBe(3);
    const state = await world.state("c1");
    expect(state).toMatchObject({
      id: "c1",
      bundle: "/bundles/c1",
      pid: 4242,
      status: taskApi.Status.STOPPED,
      stdout: "/out",
      stderr: "/err",
      exitStatus: 3,
      execId: "",
    });
    expect(state.exitedAt).toMatchObject({ seconds: 1_700_000_000n, nanos: 0 });
    expect(await world.delete("c1")).toMatchObject({ pid: 4242, exitStatus: 3, exitedAt: { seconds: 1_700_000_000n } });
    expect(world.story).toEqual(["create c1", "start c1", "exit c1 3", "delete c1 3"]);
    expect(world.events[0]?.fields).toMatchObject({
      bundle: "/bundles/c1",
      pid: 4242,
      io: { stdin: "", stdout: "/out", stderr: "/err", terminal: false },
      rootfs: [{ type: "overlay", source: "overlay", options: ["lowerdir=/a"] }],
    });
    expect(world.streams.get("c1")?.closed).toBe(1);
    expect((await failure(world.state("c1"))).code).toBe(STATUS.notFound);
  });

  it("answers under the name of version 3 as well", async () => {
    const world = new World();
    await world.create("c1");
    const v3 = world.service.services.find((service) => service.name === "containerd.task.v3.Task");
    const context = { service: "", method: "State", metadata: new Map(), signal: new AbortController().signal };
    const answer = await v3?.invoke("State", encodeMessage(taskApi.StateRequestSchema, { id: "c1" }), context);
    expect(parseMessage(taskApi.StateResponseSchema, answer ?? new Uint8Array()).pid).toBe(4242);
    expect(v3?.invoke("Nothing", new Uint8Array(), context)).toBeUndefined();
    expect(world.service.services.map(({ name }) => name)).toEqual(["containerd.task.v2.Task", "containerd.task.v3.Task"]);
  });

  it("says of a running process that it never exited, as Go writes it", async () => {
    const world = new World();
    await world.run("c1");
    expect(await world.state("c1")).toMatchObject({ exitStatus: 0, exitedAt: { seconds: -62135596800n, nanos: 0 } });
  });

  it("answers those who wait before the start, and releases those who have gone", async () => {
    const world = new World();
    await world.create("c1");
    const early = world.wait("c1");
    const gone = world.connect();
    const lost = gone.unary(method.wait, { id: "c1" }).catch(() => undefined);
    await settle();
    gone.close();
    await lost;
    await settle();
    expect(world.logs.filter((line) => line.includes("request failed"))).toEqual([]);
    await world.start("c1");
    world.process("c1").exit(0);
    expect(await early).toBe(0);
  });

  it("reports a start before an exit that came with it", async () => {
    const world = new World();
    await world.create("c1");
    world.pod.instant = 1;
    await world.start("c1");
    await settle();
    expect(world.story).toEqual(["create c1", "start c1", "exit c1 1"]);
  });

  it("is refused twice, without an id, and with a bundle that is nowhere", async () => {
    const world = new World();
    await world.create("c1");
    expect(await failure(world.create("c1"))).toMatchObject({ code: STATUS.alreadyExists });
    expect((await failure(world.create(""))).code).toBe(STATUS.invalidArgument);
    expect((await failure(world.create("c2", { bundle: "here" }))).code).toBe(STATUS.invalidArgument);
    expect((await failure(world.create("c2", { checkpoint: "/x" }))).code).toBe(STATUS.unimplemented);
    await world.start("c1");
    expect(await failure(world.start("c1"))).toEqual({
      code: STATUS.failedPrecondition,
      message: "task c1 cannot be started: it is running, expected created",
    });
    expect(await failure(world.start("c2"))).toEqual({ code: STATUS.notFound, message: "there is no task c2" });
  });

  it.each([
    [-1, 255],
    [256, 255],
    [1.5, 255],
    [255, 255],
    [0, 0],
  ])("turns the guest's exit status %d into %d", async (given, seen) => {
    const world = new World();
    await world.run("c1");
    world.process("c1").exit(given);
    expect(await world.wait("c1")).toBe(seen);
  });

  it("stays running while the policy hides its end, and ends with SIGKILL", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    world.process("c1").lose("ERR_SANDBOX_DENIED");
    await settle();
    expect(await world.status("c1")).toBe("RUNNING");
    await world.kill("c1", 15);
    expect(await world.status("c1")).toBe("RUNNING");
    await world.kill("c1", 9);
    expect(await world.wait("c1")).toBe(137);
    // The other way round: killed, and then nothing is heard.
    await world.run("c2");
    const process = world.process("c2");
    process.exit = () => undefined;
    await world.kill("c2", 9);
    expect(await world.status("c2")).toBe("RUNNING");
    process.lose("ERR_SANDBOX_DENIED");
    expect(await world.wait("c2")).toBe(137);
  });

  it("has an unknown status when the guest has lost it", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    world.process("c1").lose("ERR_SANDBOX_AGENT");
    expect(await world.wait("c1")).toBe(255);
    await world.exec("root", "x");
    await world.start("root", "x");
    world.process("x").lose("ERR_SANDBOX_DENIED");
    expect(await world.wait("root", "x")).toBe(255);
  });
});

describe("create", () => {
  it("opens one pod for all containers, with the path of the first one's options", async () => {
    const world = new World();
    const options = { typeUrl: "runtimeoptions.v1.Options", value: encodeMessage(runtimeOptionsApi.OptionsSchema, { configPath: "/etc/x.toml" }) };
    await Promise.all([world.create("root", { options }), world.create("c1"), world.create("c2")]);
    expect(world.pods.length).toBe(1);
    expect(world.configPaths).toEqual(["/etc/x.toml"]);
    expect(world.pod.requests.map(({ id }) => id).toSorted()).toEqual(["c1", "c2", "root"]);
  });

  it.each([
    ["runc's options", { typeUrl: "containerd.runc.v1.Options", value: Uint8Array.of(255) }, undefined],
    ["options without a path", { typeUrl: "runtimeoptions.v1.Options", value: new Uint8Array() }, undefined],
    [
      "options with a prefix",
      { typeUrl: "types.googleapis.com/runtimeoptions.v1.Options", value: encodeMessage(runtimeOptionsApi.OptionsSchema, { configPath: "/p" }) },
      "/p",
    ],
  ])("takes %s", async (_name, options, path) => {
    const world = new World();
    await world.create("c1", { options });
    expect(world.configPaths).toEqual([path]);
  });

  it("refuses options that are none, and closes the streams when it fails", async () => {
    const world = new World();
    expect((await failure(world.create("c1", { options: { typeUrl: "runtimeoptions.v1.Options", value: Uint8Array.of(255) } }))).code).toBe(
      STATUS.invalidArgument,
    );
    world.opening = () => new ShimError("ERR_SHIM_POD", "no memory", { hint: "Ask for less." });
    expect(await failure(world.create("c1", { stdout: "/out" }))).toEqual({ code: STATUS.failedPrecondition, message: "no memory (Ask for less.)" });
    expect(world.streams.get("c1")?.closed).toBe(1);
    expect(world.events).toEqual([]);
    expect(world.service.idle).toBe(true);
    // Nothing was made, so that another attempt may succeed.
    world.opening = () => undefined;
    await world.run("c1");
    expect(world.story).toEqual(["create c1", "start c1"]);
  });

  it("ends the pod when its first container cannot be made, and only then", async () => {
    const world = new World();
    await world.create("root");
    const first = world.pod;
    first.answers.set("create", () => denied("CreateContainerRequest"));
    const answer = await failure(world.create("c1"));
    expect(answer).toEqual({ code: STATUS.permissionDenied, message: "CreateContainerRequest is blocked by policy: line 1 line 2 (Look at the policy.)" });
    expect((await failure(world.delete("c1"))).code).toBe(STATUS.notFound);
    expect(first.dead).toBe(false);

    const other = new World();
    other.opening = () => other.pod.answers.set("create", () => denied("CreateContainerRequest"));
    expect((await failure(other.create("root"))).code).toBe(STATUS.permissionDenied);
    await settle();
    expect(other.pod.dead).toBe(true);
    expect(other.events).toEqual([]);
    await other.shutdown();
    expect(other.ended).toBe(true);
  });

  it("fails on streams before it makes a pod", async () => {
    const world = new World();
    world.openStreams = async () => {
      throw new ShimError("ERR_SHIM_STREAM", "/x is no pipe");
    };
    expect(await failure(world.create("c1"))).toEqual({ code: STATUS.invalidArgument, message: "/x is no pipe" });
    expect(world.pods).toEqual([]);
  });

  it("is given up by a delete that comes before it is done; what was made is removed", async () => {
    const world = new World();
    await world.create("root");
    const made = Promise.withResolvers<void>();
    world.pod.answers.set("create", () => made.promise);
    const creating = failure(world.create("c1"));
    await settle();
    expect((await failure(world.state("c1"))).code).toBe(STATUS.notFound);
    expect((await failure(world.kill("c1", 9))).code).toBe(STATUS.notFound);
    expect((await failure(world.create("c1"))).code).toBe(STATUS.alreadyExists);
    expect((await failure(world.delete("c1"))).code).toBe(STATUS.notFound);
    made.resolve();
    expect((await creating).code).toBe(STATUS.aborted);
    await settle();
    expect(world.pod.calls).toContain("remove c1");
    expect(world.story).toEqual(["create root"]);
    expect(world.pod.dead).toBe(false);
  });

  it("is given up with the machine that was still starting, and shutdown waits for both", async () => {
    const world = new World();
    const open = Promise.withResolvers<void>();
    world.opening = () => open.promise;
    const creating = failure(world.create("root"));
    await settle();
    await world.shutdown();
    expect(world.ended).toBe(false);
    expect((await failure(world.delete("root"))).code).toBe(STATUS.notFound);
    const shutdown = watched(world.shutdown());
    await settle();
    expect(shutdown.done()).toBe(false);
    open.resolve();
    await shutdown.promise;
    expect((await creating).code).toBe(STATUS.failedPrecondition);
    // The guest was not asked for anything any more.
    expect(world.pod.requests).toEqual([]);
    expect(world.pod.dead).toBe(true);
    expect(world.ended).toBe(true);
    expect((await failure(world.create("c2"))).code).toBe(STATUS.failedPrecondition);
  });

  it("says that containerd has used the shim", async () => {
    const world = new World();
    const used = watched(world.service.used);
    await settle();
    expect(used.done()).toBe(false);
    world.opening = () => new Error("no");
    await failure(world.create("c1"));
    await settle();
    expect(used.done()).toBe(true);
  });
});

describe("kill", () => {
  it("sends what it is told; SIGKILL to all", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    await world.kill("c1", 15);
    await world.kill("c1", 10, "", true);
    await world.exec("c1", "x");
    await world.start("c1", "x");
    await world.kill("c1", 2, "x");
    await world.kill("c1", 9);
    expect(world.pod.calls.filter((call) => call.startsWith("signal"))).toEqual(["signal c1 15", "signal c1 10 all", "signal x 2", "signal c1 9 all"]);
    expect(await world.wait("c1")).toBe(137);
    expect((await failure(world.kill("c1", 9))).code).toBe(STATUS.notFound);
    expect((await failure(world.kill("c1", 15))).code).toBe(STATUS.notFound);
    expect((await failure(world.kill("root", 65))).code).toBe(STATUS.invalidArgument);
    expect((await failure(world.kill("root", 9, "nobody"))).code).toBe(STATUS.notFound);
  });

  it("ends a task that was never started", async () => {
    const world = new World();
    await world.create("root");
    await world.create("c1");
    const waiting = world.wait("c1");
    expect((await failure(world.kill("c1", 10))).code).toBe(STATUS.failedPrecondition);
    await world.kill("c1", 9);
    expect(await waiting).toBe(137);
    expect((await failure(world.start("c1"))).code).toBe(STATUS.failedPrecondition);
    await world.delete("c1");
    expect(world.story).toEqual(["create root", "create c1", "exit c1 137", "delete c1 137"]);
    expect(world.pod.calls).not.toContain("signal c1 9 all");
  });

  it("waits for a start that is under way", async () => {
    const world = new World();
    await world.create("c1");
    const started = Promise.withResolvers<void>();
    world.pod.answers.set("start", () => started.promise);
    const start = world.start("c1");
    await settle();
    const kill = watched(world.kill("c1", 9));
    await settle();
    expect(kill.done()).toBe(false);
    started.resolve();
    await Promise.all([start, kill.promise]);
    expect(await world.wait("c1")).toBe(137);
    expect(world.story.slice(0, 3)).toEqual(["create c1", "start c1", "exit c1 137"]);
  });

  it("answers NOT_FOUND when the guest knows of the end first", async () => {
    const world = new World();
    await world.run("c1");
    world.pod.answers.set("signal", () => new SandboxError("ERR_SANDBOX_AGENT", "SignalProcessRequest: NOT_FOUND: gone", { details: { status: "NOT_FOUND" } }));
    expect((await failure(world.kill("c1", 9))).code).toBe(STATUS.notFound);
    expect(world.pod.dead).toBe(false);
  });

  it("shows a policy's refusal, but ends the sandbox whatever the policy says", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    world.pod.answers.set("signal", () => denied("SignalProcessRequest"));
    expect((await failure(world.kill("c1", 9))).code).toBe(STATUS.permissionDenied);
    expect((await failure(world.kill("root", 15))).code).toBe(STATUS.permissionDenied);
    expect(world.pod.dead).toBe(false);
    await world.kill("root", 9);
    expect(await Promise.all([world.wait("root"), world.wait("c1")])).toEqual([137, 137]);
    expect(world.pod.dead).toBe(true);
  });

  it("ends the machine of a guest that does not hear SIGKILL", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    world.pod.answers.set("signal", () => new Promise(() => undefined));
    const term = failure(world.kill("c1", 15));
    const kill = world.kill("c1", 9);
    await world.timer.pass(30_000);
    expect((await term).code).toBe(STATUS.deadlineExceeded);
    await kill;
    expect(await world.wait("c1")).toBe(137);
    expect(world.pod.dead).toBe(true);
    expect(world.logs).toContain("warn: the guest does not end a container: the whole pod is ended");
  });

  it("with SIGKILL of a container reaches its other processes, too", async () => {
    const world = new World();
    await world.run("root");
    await world.exec("root", "x");
    await world.start("root", "x");
    await world.exec("root", "waits");
    await world.kill("root", 15);
    expect(world.process("x").kills).toBe(0);
    await world.kill("root", 9);
    expect([world.process("root").kills, world.process("x").kills]).toEqual([1, 1]);
  });

  it("ends the machine of a guest that lets its sandbox run on after SIGKILL", async () => {
    const world = new World();
    await world.run("root");
    const process = world.process("root");
    process.exit = () => undefined;
    await world.kill("root", 9);
    await world.timer.pass(29_000);
    expect(world.pod.dead).toBe(false);
    await world.timer.pass(1000);
    expect(await world.wait("root")).toBe(137);
  });
});

describe("delete", () => {
  it("refuses what runs, and what is not there", async () => {
    const world = new World();
    await world.run("c1");
    await world.exec("c1", "x");
    await world.start("c1", "x");
    expect(await failure(world.delete("c1"))).toEqual({
      code: STATUS.failedPrecondition,
      message: "task c1 cannot be deleted: it is running, expected created or stopped",
    });
    expect((await failure(world.delete("c1", "x"))).code).toBe(STATUS.failedPrecondition);
    expect((await failure(world.delete("c1", "y"))).code).toBe(STATUS.notFound);
    expect((await failure(world.delete("c9"))).code).toBe(STATUS.notFound);
  });

  it("waits for a start that is under way, and refuses what runs then", async () => {
    const world = new World();
    await world.run("root");
    await world.create("c1");
    const started = Promise.withResolvers<void>();
    world.pod.answers.set("start", () => started.promise);
    const start = world.start("c1");
    await settle();
    const deleted = failure(world.delete("c1"));
    await settle();
    started.resolve();
    await start;
    expect((await deleted).code).toBe(STATUS.failedPrecondition);
    expect(await world.status("c1")).toBe("RUNNING");
  });

  it("is not held up by the end of the machine", async () => {
    const world = new World();
    await world.run("root");
    const { pod } = world;
    const stopped = Promise.withResolvers<void>();
    pod.answers.set("stop", () => stopped.promise);
    world.process("root").exit(0);
    expect(await world.wait("root")).toBe(0);
    // The machine is on its way out, and the exit is known already.
    expect(pod.calls).toContain("stop");
    expect(world.story).toEqual(["create root", "start root", "exit root 0"]);
    expect((await world.delete("root")).exitStatus).toBe(0);
    expect(pod.calls).not.toContain("remove root");
    const shutdown = watched(world.shutdown());
    await settle();
    expect(shutdown.done()).toBe(false);
    expect(world.ended).toBe(false);
    stopped.resolve();
    await shutdown.promise;
    expect(world.ended).toBe(true);
  });

  it("is held up only so long by a guest that does not remove, and by streams that do not close", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1", { stdout: "/out" });
    world.pod.answers.set("remove", () => new Promise(() => undefined));
    const streams = world.streams.get("c1");
    if (streams !== undefined) streams.closing = new Promise(() => undefined);
    world.process("c1").exit(0);
    const deleted = watched(world.delete("c1"));
    await world.timer.pass(3900);
    expect(deleted.done()).toBe(false);
    await world.timer.pass(100);
    await deleted.promise;
    expect(world.story.at(-1)).toBe("delete c1 0");
    expect(world.logs).toContain("warn: task c1: not all is gone yet");
  });

  it("takes four seconds at most in all, though output is not read, streams do not close, and the guest does not remove", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1", { stdout: "/out" });
    await world.exec("c1", "x", { stdout: "/out-x" });
    await world.start("c1", "x");
    world.pod.answers.set("remove", () => new Promise(() => undefined));
    for (const name of ["c1", "x"]) {
      const streams = world.streams.get(name);
      if (streams !== undefined) streams.closing = new Promise(() => undefined);
      world.process(name).readers = false;
      world.process(name).exit(0);
    }
    await world.wait("c1");
    const exec = watched(world.delete("c1", "x"));
    await world.timer.pass(4000);
    expect(exec.done()).toBe(true);
    const deleted = watched(world.delete("c1"));
    // First the output: it goes with the container.
    await world.timer.pass(1900);
    expect(world.pod.calls).not.toContain("remove c1");
    await world.timer.pass(100);
    expect(world.pod.calls).toContain("remove c1");
    expect(deleted.done()).toBe(false);
    await world.timer.pass(2000);
    expect(deleted.done()).toBe(true);
  });

  it("succeeds whatever the guest says, once", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    world.pod.answers.set("remove", () => denied("RemoveContainerRequest"));
    world.process("c1").exit(4);
    await world.wait("c1");
    const both = await Promise.allSettled([world.delete("c1"), world.delete("c1")]);
    expect(both.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    expect(world.story.filter((line) => line.startsWith("delete"))).toEqual(["delete c1 4"]);
  });

  it("ends the other processes of a task, after their events", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    await world.exec("c1", "x");
    await world.exec("c1", "never");
    await world.start("c1", "x");
    const waits = [world.wait("c1", "x"), world.wait("c1", "never")];
    await settle();
    world.process("c1").exit(0);
    await world.wait("c1");
    await world.delete("c1");
    expect(await Promise.all(waits)).toEqual([137, 137]);
    expect(world.story.slice(4)).toEqual(["exec-added c1 x", "exec-added c1 never", "exec-started c1 x", "exit c1 0", "exit c1 x 137", "delete c1 0"]);
    expect(world.streams.get("x")?.closed).toBe(1);
  });

  it("ends a task that was never started, and the pod with the first of them", async () => {
    const world = new World();
    await world.create("root");
    const waiting = world.wait("root");
    await settle();
    expect((await world.delete("root")).exitStatus).toBe(137);
    expect(await waiting).toBe(137);
    expect(world.story).toEqual(["create root", "exit root 137", "delete root 137"]);
    await settle();
    expect(world.pod.dead).toBe(true);
  });
});

describe("shutdown", () => {
  it("does nothing while tasks are left", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    world.process("c1").exit(0);
    await world.wait("c1");
    await world.delete("c1");
    await world.shutdown();
    expect(world.ended).toBe(false);
    expect(world.pod.dead).toBe(false);
    expect(await world.status("root")).toBe("RUNNING");
  });

  it("ends a shim that was never used", async () => {
    const world = new World();
    await world.shutdown();
    expect(world.ended).toBe(true);
  });

  it("waits for events, for a pod that ends, and for neither of them forever", async () => {
    const world = new World();
    await world.run("root");
    world.pod.answers.set("stop", () => new Promise(() => undefined));
    world.flushing = new Promise(() => undefined);
    world.process("root").exit(0);
    await world.wait("root");
    await world.delete("root");
    const shutdown = watched(world.shutdown());
    await world.timer.pass(34_000);
    expect(shutdown.done()).toBe(false);
    await world.timer.pass(1000);
    await shutdown.promise;
    expect(world.ended).toBe(true);
    expect(world.logs).toContain("error: the pod does not end");
  });

  it("ends in order when the pod cannot be ended in order", async () => {
    const world = new World();
    await world.run("root");
    world.pod.stop = async () => {
      throw new Error("stuck");
    };
    world.process("root").exit(0);
    await world.wait("root");
    await world.delete("root");
    await world.shutdown();
    expect(world.ended).toBe(true);
  });

  it("comes from within as well, and ends what runs", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    const waiting = world.wait("c1");
    await settle();
    await world.service.stop();
    expect(await waiting).toBe(137);
    expect(world.ended).toBe(true);
    expect((await failure(world.create("c2"))).message).toBe("the shim is about to end");
  });
});

describe("the end of the machine", () => {
  it("ends every task, in whatever state it is, once", async () => {
    const world = new World();
    await world.run("root");
    await world.create("created");
    await world.run("running");
    await world.run("paused");
    await world.client.unary(method.pause, { id: "paused" });
    await world.run("stopped");
    world.process("stopped").exit(1);
    await world.exec("running", "x");
    await world.start("running", "x");
    await world.exec("running", "added");
    await world.create("starting");
    world.pod.answers.set("start", () => new Promise(() => undefined));
    const starting = failure(world.start("starting"));
    await settle();
    const before = world.story.length;
    world.pod.die();
    expect((await starting).code).toBe(STATUS.failedPrecondition);
    for (const id of ["root", "created", "running", "paused", "starting"]) {
      expect(await world.wait(id), id).toBe(137);
      expect(await world.status(id), id).toBe("STOPPED");
      expect((await failure(world.kill(id, 9))).code, id).toBe(STATUS.notFound);
    }
    expect(await world.wait("stopped")).toBe(1);
    expect(await world.wait("running", "x")).toBe(137);
    expect(await world.wait("running", "added")).toBe(137);
    expect(world.story.slice(before).toSorted()).toEqual(
      ["exit created 137", "exit paused 137", "exit root 137", "exit running 137", "exit running x 137", "exit starting 137"].toSorted(),
    );
    expect(world.logs).toContain("error: the pod's machine has ended (killed by SIGKILL)");
    for (const id of ["created", "running", "paused", "stopped", "starting", "root"]) await world.delete(id);
    await world.shutdown();
    expect(world.ended).toBe(true);
    expect(world.pod.calls.filter((call) => call.startsWith("remove"))).toEqual([]);
  });

  it("fails a creation that is under way with the reason", async () => {
    const world = new World();
    await world.run("root");
    world.pod.answers.set("create", () => new Promise(() => undefined));
    const creating = failure(world.create("c1"));
    await settle();
    world.pod.die({ kind: "exited", exitCode: 1, signal: null });
    expect(await creating).toEqual({ code: STATUS.failedPrecondition, message: "the pod's machine has ended (exited with exit code 1)" });
    expect((await failure(world.create("c2"))).code).toBe(STATUS.failedPrecondition);
    expect(world.story.filter((line) => line.includes("c1"))).toEqual([]);
  });

  it("ends a task that is made in the same moment", async () => {
    // The answer of the guest and the end of the machine meet in every order of their promises.
    for (let turns = 0; turns < 12; turns++) {
      const world = new World();
      await world.run("root");
      const made = Promise.withResolvers<void>();
      world.pod.answers.set("create", () => made.promise);
      const creating = world.create("c1").catch(() => 0);
      await settle();
      made.resolve();
      for (let turn = 0; turn < turns; turn++) await Promise.resolve();
      world.pod.die();
      const created = await creating;
      if (created !== 0) expect(await world.wait("c1")).toBe(137);
      expect(world.story.filter((line) => line.includes("c1"))).toEqual(created === 0 ? [] : ["create c1", "exit c1 137"]);
    }
  });

  it("is reported for a lost connection, too, which for the sandbox ends the pod", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    world.process("root").lose("ERR_SANDBOX_CLOSED");
    expect(await world.wait("root")).toBe(137);
    expect(await world.wait("c1")).toBe(137);
    expect(world.pod.dead).toBe(true);
  });
});

describe("exec", () => {
  it("runs another process, and forgets it", async () => {
    const world = new World();
    await world.run("c1");
    await world.exec("c1", "x", { terminal: true, stdin: "/in", stdout: "/out", stderr: "/err" });
    expect(await world.status("c1", "x")).toBe("CREATED");
    expect(world.streams.has("x")).toBe(false);
    expect(await world.start("c1", "x")).toBe(4242);
    expect(world.streams.get("x")?.names).toEqual({ stdin: "/in", stdout: "/out", stderr: "", terminal: true });
    expect(world.pod.calls.at(-1)).toBe('exec c1 x {"args":["true"],"terminal":true}');
    expect(await world.state("c1", "x")).toMatchObject({ id: "c1", execId: "x", terminal: true, status: taskApi.Status.RUNNING });
    world.process("x").exit(5);
    expect(await world.wait("c1", "x")).toBe(5);
    expect(await world.delete("c1", "x")).toMatchObject({ exitStatus: 5, pid: 4242 });
    expect((await failure(world.wait("c1", "x"))).code).toBe(STATUS.notFound);
    expect(world.story.slice(2)).toEqual(["exec-added c1 x", "exec-started c1 x", "exit c1 x 5"]);
    // The name is free again.
    await world.exec("c1", "x");
  });

  it("refuses names that are taken, and specifications that are none", async () => {
    const world = new World();
    await world.run("c1");
    await world.exec("c1", "x");
    for (const name of ["x", "c1"]) expect((await failure(world.exec("c1", name))).code, name).toBe(STATUS.alreadyExists);
    expect((await failure(world.exec("c1", ""))).code).toBe(STATUS.invalidArgument);
    expect((await failure(world.exec("c2", "y"))).code).toBe(STATUS.notFound);
    for (const spec of [json("{"), json("[]"), json("null"), { typeUrl: "", value: Uint8Array.of(0xff) }, undefined]) {
      expect((await failure(world.client.unary(method.exec, { id: "c1", execId: "y", ...(spec && { spec }) }))).code).toBe(STATUS.invalidArgument);
    }
    expect(world.story.slice(2)).toEqual(["exec-added c1 x"]);
  });

  it("needs a task that runs", async () => {
    const world = new World();
    await world.create("root");
    await world.exec("root", "x");
    expect((await failure(world.start("root", "x"))).code).toBe(STATUS.failedPrecondition);
    await world.start("root");
    await world.client.unary(method.pause, { id: "root" });
    expect(await failure(world.start("root", "x"))).toEqual({
      code: STATUS.failedPrecondition,
      message: "task root cannot run another process: it is paused, expected running",
    });
    await world.client.unary(method.resume, { id: "root" });
    await world.start("root", "x");
    await world.kill("root", 9);
    await world.wait("root");
    expect((await failure(world.exec("root", "y"))).code).toBe(STATUS.failedPrecondition);
  });

  it("releases those who wait when it cannot start, without an event", async () => {
    const world = new World();
    await world.run("c1");
    await world.exec("c1", "x", { stdout: "/out" });
    const waiting = world.wait("c1", "x");
    world.pod.answers.set("exec", () => denied("ExecProcessRequest"));
    const { code, message } = await failure(world.start("c1", "x"));
    expect(code).toBe(STATUS.permissionDenied);
    expect(message).toContain("ExecProcessRequest is blocked by policy");
    expect(await waiting).toBe(255);
    expect((await failure(world.kill("c1", 9, "x"))).code).toBe(STATUS.notFound);
    await world.delete("c1", "x");
    expect(world.streams.get("x")?.closed).toBe(1);
    expect(world.story.slice(2)).toEqual(["exec-added c1 x"]);
  });

  it("closes streams that were opened for a process which was killed meanwhile", async () => {
    const world = new World();
    await world.run("c1");
    await world.exec("c1", "x", { stdout: "/out" });
    const opened = Promise.withResolvers<void>();
    world.openStreams = async (names) => {
      await opened.promise;
      return new FakeStreams(names);
    };
    const starting = failure(world.start("c1", "x"));
    await settle();
    world.pod.die();
    expect((await starting).code).toBe(STATUS.failedPrecondition);
    opened.resolve();
    await settle();
    expect(world.streams.get("x")?.closed).toBe(1);
  });

  it("that was never started is killed and deleted without an event", async () => {
    const world = new World();
    await world.run("c1");
    await world.exec("c1", "x");
    const waiting = world.wait("c1", "x");
    await settle();
    await world.kill("c1", 15, "x");
    expect(await waiting).toBe(143);
    await world.exec("c1", "y");
    expect((await world.delete("c1", "y")).exitStatus).toBe(137);
    await world.delete("c1", "x");
    expect(world.story.slice(2)).toEqual(["exec-added c1 x", "exec-added c1 y"]);
  });
});

describe("input and terminals", () => {
  const text = (world: World, name: string): string =>
    world
      .process(name)
      .input.map((bytes) => new TextDecoder().decode(bytes))
      .join("");
  const closeIO = (world: World, execId = ""): Promise<unknown> => world.client.unary(method.closeIO, { id: "c1", execId, stdin: true });

  it("copies input until its writer has gone", async () => {
    const world = new World();
    await world.run("c1", { stdin: "/in" });
    const streams = world.streams.get("c1");
    streams?.type("one ");
    streams?.type("two");
    await settle();
    expect(text(world, "c1")).toBe("one two");
    expect(world.process("c1").stdinClosed).toBe(0);
    streams?.closeStdin();
    await settle();
    expect(world.process("c1").stdinClosed).toBe(1);
  });

  it("answers CloseIO when the guest has what was written before, or the process has ended", async () => {
    const world = new World();
    await world.run("c1", { stdin: "/in" });
    const reads = Promise.withResolvers<void>();
    world.pod.answers.set("writeStdin", () => reads.promise);
    world.streams.get("c1")?.type("last words");
    const close = watched(closeIO(world));
    await settle();
    expect(close.done()).toBe(false);
    reads.resolve();
    await close.promise;
    expect(text(world, "c1")).toBe("last words");
    expect(world.process("c1").stdinClosed).toBe(1);

    const other = new World();
    await other.run("c1", { stdin: "/in" });
    other.pod.answers.set("writeStdin", () => new Promise(() => undefined));
    other.streams.get("c1")?.type("nobody reads this");
    const hanging = closeIO(other);
    await settle();
    other.process("c1").exit(0);
    await hanging;
    await closeIO(other);
  });

  it("remembers a CloseIO and a size that come before the start", async () => {
    const world = new World();
    await world.create("c1", { stdin: "/in", terminal: true });
    world.streams.get("c1")?.type("early");
    await closeIO(world);
    await world.client.unary(method.resizePty, { id: "c1", width: 80, height: 24 });
    await world.client.unary(method.resizePty, { id: "c1", width: 132, height: 43 });
    await world.start("c1");
    await settle();
    expect(text(world, "c1")).toBe("early");
    expect(world.process("c1").stdinClosed).toBe(1);
    expect(world.process("c1").sizes).toEqual(["43x132"]);
    await world.exec("c1", "x", { stdin: "/in", terminal: true });
    await closeIO(world, "x");
    await world.client.unary(method.resizePty, { id: "c1", execId: "x", width: 1, height: 2 });
    await world.start("c1", "x");
    await settle();
    expect(world.process("x").sizes).toEqual(["2x1"]);
    expect(world.process("x").stdinClosed).toBe(1);
    await world.client.unary(method.resizePty, { id: "c1", width: 9, height: 8 });
    expect(world.process("c1").sizes).toEqual(["43x132", "8x9"]);
  });

  it("resizes nothing that has no terminal, no size, or has ended; shows refusals", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1", { terminal: true });
    await world.client.unary(method.resizePty, { id: "root", width: 80, height: 24 });
    await world.client.unary(method.resizePty, { id: "c1" });
    expect(world.pod.calls.filter((call) => call.startsWith("resize"))).toEqual([]);
    world.pod.answers.set("resize", () => denied("TtyWinResizeRequest"));
    expect((await failure(world.client.unary(method.resizePty, { id: "c1", width: 80, height: 24 }))).code).toBe(STATUS.permissionDenied);
    world.process("c1").exit(0);
    await world.wait("c1");
    await world.client.unary(method.resizePty, { id: "c1", width: 80, height: 24 });
    expect((await failure(world.client.unary(method.resizePty, { id: "c9", width: 1, height: 1 }))).code).toBe(STATUS.notFound);
  });

  it("starts though the remembered size is refused", async () => {
    const world = new World();
    await world.create("c1", { terminal: true });
    world.pod.answers.set("resize", () => denied("TtyWinResizeRequest"));
    await world.client.unary(method.resizePty, { id: "c1", width: 80, height: 24 });
    await world.start("c1");
    expect(await world.status("c1")).toBe("RUNNING");
  });

  it("gives a process without a writer an end of input, as a null device would, but no terminal", async () => {
    const world = new World();
    await world.run("c1");
    await world.run("c2", { terminal: true });
    world.pod.answers.set("closeStdin", () => denied("CloseStdinRequest"));
    await world.run("c3");
    await settle();
    expect(world.process("c1").stdinClosed).toBe(1);
    expect(world.process("c2").stdinClosed).toBe(0);
    expect(await world.status("c3")).toBe("RUNNING");
    expect(world.logs.filter((line) => line.startsWith("warn"))).toEqual([]);
  });

  it("reads no more once the guest takes no more", async () => {
    const world = new World();
    await world.run("c1", { stdin: "/in" });
    world.pod.answers.set("writeStdin", () => denied("WriteStreamRequest"));
    world.streams.get("c1")?.type("secret");
    await settle();
    expect(world.logs).toContain("warn: task c1: its input ends here");
    expect(world.process("c1").stdinClosed).toBe(0);
    await closeIO(world);
    expect(await world.status("c1")).toBe("RUNNING");
  });

  it("hands the sinks to the guest", async () => {
    const world = new World();
    await world.run("c1", { stdout: "/out", stderr: "/err" });
    const { output } = world.process("c1");
    await output.stdout?.write(new TextEncoder().encode("a"));
    await output.stderr?.write(new TextEncoder().encode("b"));
    expect(world.streams.get("c1")?.written).toEqual(["out: a", "err: b"]);
    await world.run("c2");
    expect(world.process("c2").output).toEqual({});
  });
});

describe("pause and resume", () => {
  it("change the state and are told", async () => {
    const world = new World();
    await world.run("c1");
    const frozen = Promise.withResolvers<void>();
    world.pod.answers.set("pause", () => frozen.promise);
    const pausing = world.client.unary(method.pause, { id: "c1" });
    await settle();
    expect(await world.status("c1")).toBe("PAUSING");
    expect((await failure(world.client.unary(method.pause, { id: "c1" }))).code).toBe(STATUS.failedPrecondition);
    expect((await failure(world.client.unary(method.resume, { id: "c1" }))).code).toBe(STATUS.failedPrecondition);
    frozen.resolve();
    await pausing;
    expect(await world.status("c1")).toBe("PAUSED");
    expect((await failure(world.delete("c1"))).message).toContain("it is paused");
    await world.client.unary(method.resume, { id: "c1" });
    expect(await world.status("c1")).toBe("RUNNING");
    expect(world.story.slice(2)).toEqual(["paused c1", "resumed c1"]);
    expect((await failure(world.client.unary(method.resume, { id: "c1" }))).code).toBe(STATUS.failedPrecondition);
  });

  it("leave the state when the guest refuses", async () => {
    const world = new World();
    await world.create("c1");
    expect((await failure(world.client.unary(method.pause, { id: "c1" }))).code).toBe(STATUS.failedPrecondition);
    await world.start("c1");
    world.pod.answers.set("pause", () => denied("PauseContainerRequest"));
    expect((await failure(world.client.unary(method.pause, { id: "c1" }))).code).toBe(STATUS.permissionDenied);
    expect(await world.status("c1")).toBe("RUNNING");
    world.pod.answers.clear();
    await world.client.unary(method.pause, { id: "c1" });
    world.pod.answers.set("resume", () => denied("ResumeContainerRequest"));
    expect((await failure(world.client.unary(method.resume, { id: "c1" }))).code).toBe(STATUS.permissionDenied);
    expect(await world.status("c1")).toBe("PAUSED");
    await world.kill("c1", 9);
    expect(await world.wait("c1")).toBe(137);
    expect(await world.status("c1")).toBe("STOPPED");
    expect(world.story.slice(2)).toEqual(["paused c1", "exit c1 137"]);
  });

  it("tell nothing of a task that ended meanwhile", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    const frozen = Promise.withResolvers<void>();
    world.pod.answers.set("pause", () => frozen.promise);
    const pausing = world.client.unary(method.pause, { id: "c1" });
    await settle();
    world.process("c1").exit(0);
    await world.wait("c1");
    frozen.resolve();
    await pausing;
    expect(world.story.at(-1)).toBe("exit c1 0");
  });
});

describe("what containerd asks besides", () => {
  it("always gets a process id, and the shim's", async () => {
    const world = new World();
    await world.create("c1");
    const pids = (id: string): Promise<taskApi.PidsResponse> => world.client.unary(method.pids, { id });
    expect((await pids("c1")).processes.map(({ pid }) => pid)).toEqual([4242]);
    await world.start("c1");
    await world.kill("c1", 9);
    await world.wait("c1");
    expect((await pids("c1")).processes.map(({ pid }) => pid)).toEqual([4242]);
    expect((await failure(pids("c2"))).code).toBe(STATUS.notFound);
    expect(await world.client.unary(method.connect, { id: "c1" })).toMatchObject({ shimPid: 99, taskPid: 4242 });
    expect(await world.client.unary(method.connect, { id: "nobody" })).toMatchObject({ shimPid: 99, taskPid: 0 });
  });

  it.each([
    ["hides", () => denied("StatsContainerRequest")],
    ["redacts", () => create(StatsContainerResponseSchema)],
    ["loses", () => closed("stats")],
  ] as const)("gets the machine's statistics once if something %s those of its containers, and never none", async (_how, answer) => {
    for (const cgroupVersion of [1, 2] as const) {
      const usage = async (): Promise<HostUsage> => ({ userTime: 3_000_000n, systemTime: 1_000_000n, memory: 4096n, threads: 7n });
      const world = new World({ host: { cgroupVersion, usage } });
      await world.run("root");
      await world.run("c1");
      await world.run("c2");
      world.pod.answers.set("stats", answer);
      const stats = async (id: string): Promise<unknown> => {
        const value = (await world.client.unary(method.stats, { id })).stats?.value ?? new Uint8Array();
        if (cgroupVersion === 2) {
          const { cpu, memory } = parseMessage(cgroupsV2Api.MetricsSchema, value);
          return [cpu?.usageUsec, memory?.usage];
        }
        const { cpu, memory } = parseMessage(cgroupsV1Api.MetricsSchema, value);
        return [cpu?.usage?.total, memory?.usage?.usage];
      };
      expect(await stats("root")).toEqual([cgroupVersion === 2 ? 4000n : 4_000_000n, 4096n]);
      for (const id of ["c1", "c2"]) expect(await stats(id)).toEqual([0n, 0n]);
    }
  });

  it("gets the guest's statistics, or the last that it gave", async () => {
    const world = new World();
    await world.run("c1");
    const stats = async (): Promise<cgroupsV2Api.Metrics> => {
      const any = (await world.client.unary(method.stats, { id: "c1" })).stats;
      expect(any?.typeUrl).toBe("io.containerd.cgroups.v2.Metrics");
      return parseMessage(cgroupsV2Api.MetricsSchema, any?.value ?? new Uint8Array());
    };
    const guest = create(StatsContainerResponseSchema, {
      cgroupStats: { cpuStats: { cpuUsage: { totalUsage: 5_000_000n } }, memoryStats: { usage: { usage: 77n } } },
    });
    world.pod.answers.set("stats", () => guest);
    expect((await stats()).cpu?.usageUsec).toBe(5000n);
    // What a policy redacts is empty. Counters do not fall back.
    world.pod.answers.set("stats", () => create(StatsContainerResponseSchema));
    expect(await stats()).toMatchObject({ cpu: { usageUsec: 5000n }, memory: { usage: 77n } });
    world.pod.answers.set("stats", () => new Promise(() => undefined));
    const late = stats();
    await world.timer.pass(5000);
    expect((await late).memory?.usage).toBe(77n);
    world.pod.answers.set("stats", () => denied("StatsContainerRequest"));
    const asked = world.pod.calls.length;
    await stats();
    await stats();
    expect(world.pod.calls.length).toBe(asked + 1);
    world.process("c1").exit(0);
    await world.wait("c1");
    expect((await failure(stats())).code).toBe(STATUS.notFound);
  });

  it("changes limits if the policy lets it", async () => {
    const world = new World();
    await world.run("c1");
    const update = (resources: ReturnType<typeof json> | undefined): Promise<unknown> =>
      world.client.unary(method.update, { id: "c1", ...(resources && { resources }) });
    await update(json('{"memory":{"limit":1}}'));
    expect(world.pod.calls.at(-1)).toBe('update c1 {"memory":{"limit":1}}');
    for (const wrong of [json("1"), json(""), undefined]) expect((await failure(update(wrong))).code).toBe(STATUS.invalidArgument);
    world.pod.answers.set("update", () => denied("UpdateContainerRequest"));
    expect((await failure(update(json("{}")))).code).toBe(STATUS.permissionDenied);
    world.process("c1").exit(0);
    await world.wait("c1");
    expect((await failure(update(json("{}")))).code).toBe(STATUS.failedPrecondition);
  });

  it("cannot save a container", async () => {
    const world = new World();
    await world.run("c1");
    expect((await failure(world.client.unary(method.checkpoint, { id: "c1", path: "/x" }))).code).toBe(STATUS.unimplemented);
  });

  it("hears when memory ran out, as long as the guest tells, and not too often", async () => {
    const world = new World();
    await world.run("c1");
    world.pod.outOfMemory[0]?.resolve("c1");
    await settle();
    expect(world.story.at(-1)).toBe("oom c1");
    expect(world.pod.outOfMemory.length).toBe(1);
    await world.timer.pass(100);
    world.pod.outOfMemory[1]?.resolve("nobody");
    await world.timer.pass(100);
    expect(world.story.filter((line) => line.startsWith("oom"))).toEqual(["oom c1"]);
    world.pod.outOfMemory[2]?.reject(denied("GetOOMEventRequest"));
    await world.timer.pass(1000);
    expect(world.pod.outOfMemory.length).toBe(3);
    expect(world.logs).toContain("info: the guest does not tell when memory runs out");
  });
});

describe("a guest that runs out of memory", () => {
  it("is heard of each container seldom, and ever more seldom while it goes on", async () => {
    const world = new World();
    await world.run("root");
    await world.run("c1");
    const told = (): readonly string[] => world.story.filter((line) => line.startsWith("oom"));
    const report = async (id: string): Promise<void> => {
      world.pod.outOfMemory.at(-1)?.resolve(id);
      await world.timer.pass(100);
    };
    await report("root");
    for (let tenth = 0; tenth < 600; tenth++) await report("c1");
    // After 0, 1, 3, 7, 15 and 31 seconds.
    expect(told()).toEqual(["oom root", ...Array.from({ length: 6 }, () => "oom c1")]);
    await report("root");
    expect(told().slice(7)).toEqual(["oom root"]);
    // It was quiet for twice as long as it had to be: then it is as new.
    await world.timer.pass(64_000);
    for (let tenth = 0; tenth < 20; tenth++) await report("c1");
    expect(told().slice(8)).toEqual(["oom c1", "oom c1"]);
    // A clock that is set back silences nobody for long.
    world.timer.now -= 3_600_000;
    await report("c1");
    expect(told().slice(10)).toEqual(["oom c1"]);
  });
});

describe("errors", () => {
  it("of what nobody expected are UNKNOWN with their text, in one line and cut", async () => {
    const world = new World();
    world.opening = () => new TypeError(`a\n\tb ${"x".repeat(100_000)}`);
    const { code, message } = await failure(world.create("c1"));
    expect(code).toBe(STATUS.unknown);
    expect(message).toMatch(/^a b x+ … x+$/);
    expect(message.length).toBeLessThan(2001);
  });

  it("keep the status that a part of ours gave", async () => {
    const world = new World();
    world.opening = () => new TtrpcError("ERR_TTRPC_TIMEOUT", "late", { status: { code: STATUS.deadlineExceeded, message: "late" } });
    expect(await failure(world.create("c1"))).toEqual({ code: STATUS.deadlineExceeded, message: "late" });
    expect(eventsTtrpcApi.Events.typeName).toBe("containerd.services.events.ttrpc.v1.Events");
  });
});
