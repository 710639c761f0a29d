import { encodeUtf8, type ByteSink, type Logger } from "@sealpod/core";
import { AgentService } from "@sealpod/proto";
import { implement, memoryStreams, serveTtrpc, type Timer } from "@sealpod/ttrpc";
import { describe, expect, it } from "vitest";
import { AgentClient } from "./agent-client.ts";
import { GuestProcess } from "./guest-process.ts";

const logger: Logger = { log: () => undefined };

/** Lets everything run that can without time passing. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 12; turn++) await new Promise<void>((resolve) => setImmediate(resolve));
}

/** Time passes when the test says. */
class ManualTimer implements Timer {
  #now = 0;
  readonly #due = new Map<symbol, { readonly at: number; readonly call: () => void }>();

  get pending(): number {
    return this.#due.size;
  }

  after(milliseconds: number, callback: () => void): () => void {
    const key = Symbol("timer");
    this.#due.set(key, { at: this.#now + milliseconds, call: callback });
    return () => void this.#due.delete(key);
  }

  async pass(milliseconds: number): Promise<void> {
    await settle();
    this.#now += milliseconds;
    for (const [key, { at, call }] of this.#due) {
      if (at > this.#now) continue;
      this.#due.delete(key);
      call();
    }
    await settle();
  }
}

/** A sink that takes something when the test says. */
class SlowSink implements ByteSink {
  text = "";
  open = false;
  #taking: PromiseWithResolvers<void> = Promise.withResolvers();

  async write(bytes: Uint8Array): Promise<void> {
    if (!this.open) await this.#taking.promise;
    this.text += Buffer.from(bytes).toString("utf8");
  }

  /** Takes what is being written, and all that follows if `open`. */
  take(open: boolean): void {
    this.open = open;
    this.#taking.resolve();
    this.#taking = Promise.withResolvers();
  }
}

/** A process of a guest that writes what the test says, and ends when it says. */
class World {
  readonly timer: ManualTimer = new ManualTimer();
  readonly sink: SlowSink = new SlowSink();
  readonly process: GuestProcess;
  /** Standard output that the guest has; the empty text is its end. */
  readonly output: string[];
  waits = 0;
  status: number | undefined;
  readonly #end: PromiseWithResolvers<number> = Promise.withResolvers();
  readonly #far: { close(): void };
  #wake: () => void = () => undefined;

  constructor(...output: readonly string[]) {
    this.output = [...output];
    const [near, far] = memoryStreams();
    this.#far = far;
    void serveTtrpc(far, [
      implement(AgentService, {
        readStdout: async () => {
          while (this.output.length === 0) await new Promise<void>((resolve) => (this.#wake = resolve));
          return { data: encodeUtf8(this.output.shift() ?? "") };
        },
        readStderr: () => ({ data: new Uint8Array() }),
        waitProcess: async () => {
          this.waits++;
          return { status: await this.#end.promise };
        },
      }),
    ]);
    this.process = new GuestProcess(new AgentClient(near), { containerId: "c", execId: "c", terminal: false }, { stdout: this.sink }, logger, this.timer);
    this.process.exited.then(
      (status) => (this.status = status),
      () => undefined,
    );
  }

  say(...output: readonly string[]): void {
    this.output.push(...output);
    this.#wake();
  }

  end(status: number): void {
    this.#end.resolve(status);
  }

  die(): void {
    this.#far.close();
  }
}

describe("a process whose output nobody takes", () => {
  it("is heard of when it ends by itself, and its output is there for a reader that comes later", async () => {
    const world = new World("one ", "two ", "three", "");
    world.end(5);
    await world.timer.pass(9999);
    expect([world.waits, world.status]).toEqual([0, undefined]);
    await world.timer.pass(1);
    expect([world.waits, world.status]).toEqual([1, 5]);
    let copied = false;
    void world.process.copied.then(() => (copied = true));
    await settle();
    expect([copied, world.output.length]).toEqual([false, 3]);
    world.sink.take(true);
    await world.process.copied;
    expect(world.sink.text).toBe("one two three");
    expect(world.timer.pending).toBe(0);
  });

  it("is heard of soon when it was killed", async () => {
    const world = new World("one ", "two ", "");
    await world.timer.pass(5000);
    world.process.killed();
    world.process.killed();
    world.end(137);
    await world.timer.pass(1999);
    expect(world.waits).toBe(0);
    await world.timer.pass(1);
    expect([world.waits, world.status]).toEqual([1, 137]);
    world.sink.take(true);
    await world.process.copied;
    expect(world.sink.text).toBe("one two ");
    expect(world.timer.pending).toBe(0);
  });

  it("is heard of soon also by a reader that takes a little now and then", async () => {
    const world = new World(..."abcdefgh", "");
    world.process.killed();
    world.end(137);
    for (let second = 0; second < 2; second++) {
      expect(world.status).toBe(undefined);
      await world.timer.pass(1000);
      world.sink.take(false);
    }
    await settle();
    expect([world.waits, world.status]).toEqual([1, 137]);
  });

  it("gives all output before its end again once it is read", async () => {
    const world = new World("one ");
    await world.timer.pass(10_000);
    expect(world.waits).toBe(1);
    world.sink.take(true);
    await settle();
    // It ends while its reader keeps up: what it wrote last comes first.
    world.end(3);
    await world.timer.pass(60_000);
    expect(world.status).toBe(undefined);
    world.say("two", "");
    await settle();
    expect([world.sink.text, world.status, world.waits]).toEqual(["one two", 3, 1]);
    expect(world.timer.pending).toBe(0);
  });

  it("is lost with its machine", async () => {
    const world = new World("one ");
    await world.timer.pass(10_000);
    world.die();
    await expect(world.process.exited).rejects.toMatchObject({ code: "ERR_SANDBOX_CLOSED" });
    world.sink.take(true);
    await world.process.copied;
    expect(world.timer.pending).toBe(0);
  });
});

it("a process that is killed and read ends without a wait", async () => {
  const world = new World("all", "");
  world.sink.take(true);
  world.process.killed();
  world.end(137);
  expect(await world.process.exited).toBe(137);
  expect([world.sink.text, world.timer.pending]).toEqual(["all", 0]);
});
