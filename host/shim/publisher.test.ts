import { eventsTtrpcApi, parseMessage, taskEventsApi } from "@sealpod/proto";
import { STATUS, implement, memoryStreams, serveTtrpc, statusError, type ByteStream } from "@sealpod/ttrpc";
import { describe, expect, it } from "vitest";
import { TtrpcPublisher, noPublisher } from "./publisher.ts";
import { ManualTimer, settle } from "./testdata/task-world.ts";

/** A containerd that takes events as the test says. */
class Containerd {
  readonly timer = new ManualTimer();
  readonly taken: string[] = [];
  readonly metadata: unknown[] = [];
  readonly connections: ByteStream[] = [];
  readonly logs: string[] = [];
  attempts = 0;
  /** What an event is answered with: an error is thrown, a promise awaited. */
  answer: (attempt: number) => unknown = () => undefined;
  /** What a connection is answered with. */
  connecting: () => unknown = () => undefined;
  readonly publisher: TtrpcPublisher;

  constructor(maxQueue?: number) {
    const service = implement(eventsTtrpcApi.Events, {
      forward: async ({ envelope }, { metadata }) => {
        this.metadata.push(metadata.get("containerd-namespace-ttrpc"));
        const answer = await this.answer(++this.attempts);
        if (answer instanceof Error) throw answer;
        const exit = parseMessage(taskEventsApi.TaskExitSchema, envelope?.event?.value ?? new Uint8Array());
        this.taken.push(`${envelope?.namespace} ${envelope?.topic} ${envelope?.event?.typeUrl} ${envelope?.timestamp?.seconds} ${exit.containerId}`);
        return {};
      },
    });
    this.publisher = new TtrpcPublisher({
      namespace: "k8s.io",
      connect: async () => {
        const answer = await this.connecting();
        if (answer instanceof Error) throw answer;
        const [near, far] = memoryStreams();
        this.connections.push(far);
        // With a timer of its own: what waits there is no concern of the publisher.
        void serveTtrpc(far, [service], { timer: new ManualTimer() });
        return near;
      },
      clock: { now: () => this.timer.now },
      timer: this.timer,
      logger: { log: (level, message, fields) => void this.logs.push(`${level}: ${message} ${fields?.["reason"] ?? ""}`) },
      ...(maxQueue === undefined ? {} : { maxQueue }),
    });
  }

  exit(containerId: string): void {
    this.publisher.publish("/tasks/exit", taskEventsApi.TaskExitSchema, { containerId });
  }

  get ids(): string {
    return this.taken.map((line) => line.split(" ").at(-1)).join(" ");
  }
}

describe("the publisher", () => {
  it("sends events as containerd expects them, over one connection", async () => {
    const containerd = new Containerd();
    containerd.exit("a");
    await containerd.timer.pass(2000);
    containerd.exit("b");
    await containerd.publisher.flushed();
    expect(containerd.taken).toEqual([
      "k8s.io /tasks/exit containerd.events.TaskExit 1700000000 a",
      "k8s.io /tasks/exit containerd.events.TaskExit 1700000002 b",
    ]);
    expect(containerd.metadata).toEqual([["k8s.io"], ["k8s.io"]]);
    expect(containerd.connections.length).toBe(1);
    expect(containerd.timer.pending).toBe(0);
  });

  it("keeps the order through failures, lost connections and late answers", async () => {
    const containerd = new Containerd();
    containerd.answer = (attempt) => {
      if (attempt === 1) return statusError(STATUS.unavailable, "not now");
      if (attempt === 2) containerd.connections.at(-1)?.close();
      return attempt === 3 ? new Promise(() => undefined) : undefined;
    };
    for (const id of ["a", "b", "c"]) containerd.exit(id);
    await containerd.timer.pass(60_000);
    await containerd.publisher.flushed();
    // The second attempt was taken, but its answer was lost: twice is better than never.
    expect(containerd.ids).toBe("a a b c");
    expect(containerd.connections.length).toBe(4);
  });

  it("finds out at once that a connection was closed while it idled", async () => {
    const containerd = new Containerd();
    containerd.exit("a");
    await containerd.publisher.flushed();
    containerd.connections[0]?.close();
    await settle();
    containerd.exit("b");
    await settle();
    expect(containerd.ids).toBe("a b");
  });

  it("gives an event up after five attempts, and one that is refused for good at once", async () => {
    const containerd = new Containerd();
    let tries = 0;
    containerd.connecting = () => new Error(`no such file (${++tries})`);
    containerd.exit("a");
    await containerd.timer.pass(60_000);
    await containerd.publisher.flushed();
    expect(tries).toBe(5);
    expect(containerd.logs.at(-1)).toBe("warn: an event does not reach containerd no such file (5)");
    containerd.connecting = () => undefined;
    containerd.answer = (attempt) => (attempt === 1 ? statusError(STATUS.invalidArgument, "what?") : undefined);
    containerd.exit("b");
    containerd.exit("c");
    await containerd.publisher.flushed();
    expect(containerd.ids).toBe("c");
  });

  it("waits longer from attempt to attempt", async () => {
    const containerd = new Containerd();
    const at: number[] = [];
    containerd.connecting = () => {
      at.push(containerd.timer.now - 1_700_000_000_000);
      return new Error("no");
    };
    containerd.exit("a");
    await containerd.timer.pass(60_000);
    expect(at).toEqual([0, 0, 1000, 3000, 6000]);
  });

  it("does not wait for a connection that never comes, and closes one that comes too late", async () => {
    const containerd = new Containerd();
    const late = Promise.withResolvers<void>();
    let tries = 0;
    containerd.connecting = () => (++tries === 1 ? late.promise : undefined);
    containerd.exit("a");
    await containerd.timer.pass(5000);
    await containerd.publisher.flushed();
    expect(containerd.ids).toBe("a");
    late.resolve();
    await settle();
    const chunks: Uint8Array[] = [];
    for await (const chunk of containerd.connections[1]?.readable ?? []) chunks.push(chunk);
    expect(chunks).toEqual([]);
  });

  it("holds a bounded number of events, the newest", async () => {
    const containerd = new Containerd(3);
    const open = Promise.withResolvers<void>();
    containerd.connecting = () => open.promise;
    for (const id of ["a", "b", "c", "d", "e", "f"]) containerd.exit(id);
    open.resolve();
    await containerd.publisher.flushed();
    // The first was on its way already.
    expect(containerd.ids).toBe("a d e f");
    expect(containerd.logs.filter((line) => line.includes("too many wait")).length).toBe(2);
  });

  it("stops when it is closed, whatever it waits for", async () => {
    for (const wait of ["connection", "answer", "pause"] as const) {
      const containerd = new Containerd();
      if (wait === "connection") containerd.connecting = () => new Promise(() => undefined);
      if (wait === "answer") containerd.answer = () => new Promise(() => undefined);
      if (wait === "pause") containerd.connecting = () => new Error("no");
      containerd.exit("a");
      containerd.exit("b");
      await settle();
      containerd.publisher.close();
      containerd.exit("c");
      if (wait === "connection") await containerd.timer.pass(5000);
      await containerd.publisher.flushed();
      expect(containerd.taken).toEqual([]);
      expect(containerd.timer.pending).toBe(0);
    }
  });

  it("does nothing without an address", async () => {
    noPublisher.publish("/tasks/oom", taskEventsApi.TaskOOMSchema, { containerId: "a" });
    await noPublisher.flushed();
  });
});
