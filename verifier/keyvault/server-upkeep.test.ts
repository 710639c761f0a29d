import { describe, expect, it } from "vitest";
import type { Logger } from "@sealpod/core";
import { startUpkeep, UPKEEP_INTERVAL, type Upkeep } from "./server-upkeep.ts";

const EVERY = 1000;

interface World {
  time: number;
  created: number;
  /** What was done, in order. */
  readonly done: string[];
  readonly lines: string[];
  /** Steps that fail. */
  readonly failing: Set<string>;
  /** A step that waits, until it is let go. */
  held: PromiseWithResolvers<void> | undefined;
  tick: () => void;
  timers: number;
  readonly upkeep: Upkeep;
  /** Until what is under way is over. */
  readonly settled: () => Promise<void>;
}

function start(change: { readonly created?: number; readonly failing?: readonly string[]; readonly hold?: boolean } = {}): World {
  const done: string[] = [];
  const lines: string[] = [];
  const logger: Logger = { log: (level, message, fields) => void lines.push(`${level} ${message} ${JSON.stringify(fields)}`) };
  const step = async (name: string, count = 0): Promise<number> => {
    done.push(name);
    if (name === "rotate keys") await world.held?.promise;
    if (world.failing.has(name)) throw new Error(`${name} failed`);
    return count;
  };
  const world: Omit<World, "upkeep"> = {
    time: 10_000,
    created: change.created ?? 10_000,
    done,
    lines,
    failing: new Set(change.failing),
    held: change.hold === true ? Promise.withResolvers<void>() : undefined,
    tick: () => undefined,
    timers: 0,
    settled: async () => {
      // The steps wait for nothing but one another: a turn of the event loop comes after all of them.
      await new Promise((resolve) => void setImmediate(resolve));
    },
  };
  const upkeep = startUpkeep({
    store: {
      purgeExpired: async () => step("purge", 2),
      wrappingKeyCreated: async () => world.created,
      rotateWrappingKey: async () => {
        world.created = world.time;
        return step("rotate wrapping key", 3);
      },
      upkeep: async () => void (await step("upkeep")),
    },
    rotateKeys: async () => step("rotate keys", 1),
    every: EVERY,
    clock: { now: () => world.time },
    logger,
    timer: {
      every(milliseconds, action) {
        expect(milliseconds).toBe(UPKEEP_INTERVAL);
        world.tick = action;
        world.timers++;
        return () => void world.timers--;
      },
    },
  });
  return Object.assign(world, { upkeep });
}

describe("the upkeep of the vaults", () => {
  it("does everything at once, and again with each tick", async () => {
    const world = start();
    await world.settled();
    expect(world.done).toEqual(["rotate keys", "purge", "upkeep"]);
    expect(world.lines).toEqual(['info keys rotated {"count":1}', 'info deleted keys and secrets purged {"count":2}']);
    world.tick();
    await world.settled();
    expect(world.done).toHaveLength(6);
    await world.upkeep.stop();
    expect(world.timers).toBe(0);
  });

  it("replaces the wrapping key when it is old enough, and not before", async () => {
    const world = start({ created: 10_000 - EVERY + 1 });
    await world.settled();
    expect(world.done).not.toContain("rotate wrapping key");
    world.time += 1;
    world.tick();
    await world.settled();
    expect(world.done.filter((name) => name === "rotate wrapping key")).toHaveLength(1);
    expect(world.lines).toContain('info records sealed with a new wrapping key {"count":3}');
    world.tick();
    await world.settled();
    expect(world.done.filter((name) => name === "rotate wrapping key")).toHaveLength(1);
    await world.upkeep.stop();
  });

  it.each(["rotate keys", "purge", "rotate wrapping key", "upkeep"])("goes on when the step %s fails, says so, and tries again", async (failing) => {
    const world = start({ created: 0, failing: [failing] });
    await world.settled();
    expect(world.done).toEqual(["rotate keys", "purge", "rotate wrapping key", "upkeep"]);
    expect(world.lines.filter((line) => line.startsWith("error"))).toEqual([expect.stringContaining(`${failing} failed`)]);
    world.created = 0;
    world.failing.clear();
    world.tick();
    await world.settled();
    expect(world.done.filter((name) => name === failing)).toHaveLength(2);
    expect(world.lines.filter((line) => line.startsWith("error"))).toHaveLength(1);
    await world.upkeep.stop();
  });

  it("does not begin again while it is at work, and stops after the step that it is at", async () => {
    const world = start({ hold: true });
    world.tick();
    world.tick();
    await world.settled();
    expect(world.done).toEqual(["rotate keys"]);
    let stopped = false;
    const stopping = world.upkeep.stop().then(() => (stopped = true));
    await world.settled();
    expect(stopped).toBe(false);
    world.held?.resolve();
    await stopping;
    expect(world.done).toEqual(["rotate keys"]);
    expect(world.timers).toBe(0);
  });
});
