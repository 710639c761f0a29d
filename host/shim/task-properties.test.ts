import { SandboxError } from "@sealpod/sandbox";
import { taskApi } from "@sealpod/proto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { World, closed, settle, type SeenEvent } from "./testdata/task-world.ts";

const { method } = taskApi.Task;
const CONTAINERS = ["root", "a", "b"] as const;
const EXECS = ["x", "y"] as const;
const GUEST_CALLS = ["create", "start", "exec", "signal", "remove", "pause", "resume", "closeStdin", "resize", "stop", "stats", "update"] as const;
const CALLS = ["create", "start", "exec", "startExec", "kill", "killExec", "term", "delete", "deleteExec", "wait", "waitExec", "state"] as const;
const MORE_CALLS = ["pause", "resume", "closeIO", "resize", "stats", "update", "pids", "connect", "shutdown"] as const;

/** What happens next. Nothing waits for the one before, except for `settle`. */
type Step =
  | { readonly kind: "call"; readonly call: (typeof CALLS)[number] | (typeof MORE_CALLS)[number]; readonly id: string; readonly execId: string }
  | { readonly kind: "settle" }
  | { readonly kind: "pass"; readonly milliseconds: number }
  | { readonly kind: "exit"; readonly name: string; readonly lost: boolean }
  | { readonly kind: "guest"; readonly call: string; readonly how: "hang" | "deny" | "obey" }
  | { readonly kind: "die" };

const call = fc.record({
  kind: fc.constant("call" as const),
  call: fc.oneof({ arbitrary: fc.constantFrom(...CALLS), weight: 3 }, { arbitrary: fc.constantFrom(...MORE_CALLS), weight: 1 }),
  id: fc.constantFrom(...CONTAINERS),
  execId: fc.constantFrom(...EXECS),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  { arbitrary: call, weight: 12 },
  { arbitrary: fc.record({ kind: fc.constant("settle" as const) }), weight: 4 },
  { arbitrary: fc.record({ kind: fc.constant("pass" as const), milliseconds: fc.constantFrom(100, 5000, 40_000) }), weight: 1 },
  { arbitrary: fc.record({ kind: fc.constant("exit" as const), name: fc.constantFrom(...CONTAINERS, ...EXECS), lost: fc.boolean() }), weight: 2 },
  {
    arbitrary: fc.record({
      kind: fc.constant("guest" as const),
      call: fc.constantFrom(...GUEST_CALLS),
      how: fc.constantFrom("hang" as const, "deny" as const, "obey" as const),
    }),
    weight: 2,
  },
  { arbitrary: fc.record({ kind: fc.constant("die" as const) }), weight: 1 },
);

function send(world: World, { call, id, execId }: Extract<Step, { readonly kind: "call" }>): Promise<unknown> {
  const { client } = world;
  switch (call) {
    case "create":
      return world.create(id, { stdin: "/in", stdout: "/out", terminal: id === "b" });
    case "start":
      return world.start(id);
    case "exec":
      return world.exec(id, execId);
    case "startExec":
      return world.start(id, execId);
    case "kill":
      return world.kill(id, 9);
    case "killExec":
      return world.kill(id, 9, execId);
    case "term":
      return world.kill(id, 15);
    case "delete":
      return world.delete(id);
    case "deleteExec":
      return world.delete(id, execId);
    case "wait":
      return world.wait(id);
    case "waitExec":
      return world.wait(id, execId);
    case "state":
      return world.state(id);
    case "pause":
      return client.unary(method.pause, { id });
    case "resume":
      return client.unary(method.resume, { id });
    case "closeIO":
      return client.unary(method.closeIO, { id, stdin: true });
    case "resize":
      return client.unary(method.resizePty, { id, width: 80, height: 24 });
    case "stats":
      return client.unary(method.stats, { id });
    case "update":
      return client.unary(method.update, { id, resources: { typeUrl: "", value: new TextEncoder().encode("{}") } });
    case "pids":
      return client.unary(method.pids, { id });
    case "connect":
      return client.unary(method.connect, { id });
    case "shutdown":
      return world.shutdown();
  }
}

/** What of the events is out of order, if anything: each process is created, started, ended and deleted once, and in that order. */
function disorder(events: readonly SeenEvent[]): string | undefined {
  const states = new Map<string, "created" | "started" | "exited">();
  for (const { topic, fields } of events) {
    const { containerId, execId, id } = fields as Readonly<Record<string, string>>;
    const exec = execId ?? (topic === "/tasks/exit" && id !== containerId ? id : undefined);
    const name = exec === undefined ? `${containerId}` : `${containerId}/${exec}`;
    const state = states.get(name);
    const wrong = `${topic} of ${name}, which is ${state ?? "not there"}`;
    switch (topic) {
      case "/tasks/create":
        if (state !== undefined) return wrong;
        states.set(name, "created");
        break;
      case "/tasks/exec-added":
        // A deleted process has no event, so that its name may come again.
        if (state === "started" || !states.has(`${containerId}`)) return wrong;
        states.set(name, "created");
        break;
      case "/tasks/start":
      case "/tasks/exec-started":
        if (state !== "created") return wrong;
        states.set(name, "started");
        break;
      case "/tasks/exit":
        if (exec === undefined ? state !== "created" && state !== "started" : state !== "started") return wrong;
        states.set(name, "exited");
        break;
      case "/tasks/delete":
        if (state !== "exited") return wrong;
        for (const other of states.keys()) {
          if (other !== name && !other.startsWith(`${name}/`)) continue;
          if (states.get(other) === "started") return `${wrong}, while ${other} runs`;
          states.delete(other);
        }
        break;
      case "/tasks/paused":
      case "/tasks/resumed":
      case "/tasks/oom":
        if (state !== "started") return wrong;
        break;
    }
  }
  return undefined;
}

async function play(steps: readonly Step[]): Promise<void> {
  const world = new World();
  const hanging = Promise.withResolvers<void>();
  const calls: { readonly step: Step; done: boolean }[] = [];
  const guests = new Map<string, () => unknown>();
  for (const next of steps) {
    switch (next.kind) {
      case "call": {
        const entry = { step: next, done: false };
        calls.push(entry);
        const done = (): void => {
          entry.done = true;
        };
        send(world, next).then(done, done);
        break;
      }
      case "settle":
        await settle();
        break;
      case "pass":
        await world.timer.pass(next.milliseconds);
        break;
      case "exit":
        for (const pod of world.pods) {
          if (next.lost) pod.processes.get(next.name)?.lose("ERR_SANDBOX_DENIED");
          else pod.processes.get(next.name)?.exit(7);
        }
        break;
      case "guest":
        if (next.how === "obey") guests.delete(next.call);
        else {
          guests.set(next.call, async () => {
            if (next.how === "deny") return new SandboxError("ERR_SANDBOX_DENIED", "no");
            await hanging.promise;
            return closed(next.call);
          });
        }
        break;
      case "die":
        world.pods.at(-1)?.die();
        break;
    }
    for (const pod of world.pods) {
      pod.answers.clear();
      for (const [name, answer] of guests) pod.answers.set(name, answer);
    }
  }
  // The node wants its resources back: whatever the guest does, it gets them.
  const stopped = world.service.stop();
  await world.timer.pass(60_000);
  await stopped;
  expect(world.ended).toBe(true);
  // Calls that hang in the guest end with the connection to it.
  hanging.resolve();
  await world.timer.pass(60_000);
  expect(calls.filter(({ done }) => !done).map((entry) => entry.step)).toEqual([]);
  expect(disorder(world.events)).toBeUndefined();
  for (const id of CONTAINERS) {
    const task = await world.status(id).catch(() => "none");
    expect(["STOPPED", "none"]).toContain(task);
  }
  const open = world.allStreams.filter((streams) => streams.closed !== 1);
  expect(open).toEqual([]);
  expect(world.timer.pending).toBe(0);
}

describe("the task service", () => {
  it("answers every call, leaves nothing open and tells all in order, whatever containerd and the guest do", async () => {
    await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), play), { numRuns: 250 });
  });

  it("does so for long and busy lives of one task", async () => {
    const busy = fc
      .array(step, { minLength: 1, maxLength: 30 })
      .map((steps): readonly Step[] => [
        { kind: "call", call: "create", id: "root", execId: "x" },
        { kind: "call", call: "create", id: "a", execId: "x" },
        { kind: "settle" },
        { kind: "call", call: "start", id: "root", execId: "x" },
        { kind: "call", call: "start", id: "a", execId: "x" },
        { kind: "settle" },
        { kind: "call", call: "exec", id: "a", execId: "x" },
        { kind: "call", call: "startExec", id: "a", execId: "x" },
        ...steps,
      ]);
    await fc.assert(fc.asyncProperty(busy, play), { numRuns: 250 });
  });

  it("is judged by a check that sees disorder", () => {
    const event = (topic: SeenEvent["topic"], fields: Record<string, unknown>): SeenEvent => ({ topic, fields });
    const created = event("/tasks/create", { containerId: "a" });
    const started = event("/tasks/start", { containerId: "a" });
    const exited = event("/tasks/exit", { containerId: "a", id: "a" });
    const deleted = event("/tasks/delete", { containerId: "a", id: "a" });
    expect(disorder([created, started, exited, deleted, created])).toBeUndefined();
    for (const wrong of [[started], [created, created], [created, exited, started], [created, deleted], [created, started, exited, exited]]) {
      expect(disorder(wrong)).toBeDefined();
    }
  });
});
