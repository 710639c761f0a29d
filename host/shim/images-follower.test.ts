import { describe, expect, it } from "vitest";
import { Follower } from "./images-follower.ts";

/** A follower whose time the test lets pass. */
class Scene {
  readonly asked: number[] = [];
  readonly controller = new AbortController();
  looks = 0;
  now = 0;
  readonly since: number[] = [];
  /** What the next looks wait for. */
  hold: Promise<void> = Promise.resolve();
  readonly follower: Follower;
  #waiting: (() => void)[] = [];

  constructor() {
    const delay = (milliseconds: number, signal?: AbortSignal): Promise<void> =>
      new Promise((resolve, reject) => {
        this.asked.push(milliseconds);
        this.#waiting.push(resolve);
        if (signal?.aborted === true) reject(signal.reason as Error);
        signal?.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      });
    const look = async (since: number): Promise<void> => {
      this.since.push(since);
      this.looks++;
      await this.hold;
    };
    this.follower = new Follower([1, 2, 3], delay, look, this.controller.signal, { now: () => this.now });
  }

  /** Ends all delays that are under way. */
  end(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Ends all delays that are under way, and lets what follows happen. */
  async pass(): Promise<void> {
    this.end();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe("looks that follow", () => {
  it("come one after the other, and end", async () => {
    const scene = new Scene();
    await scene.follower.ended;
    scene.follower.trigger();
    expect(scene.looks).toBe(0);
    for (let look = 1; look <= 3; look++) {
      scene.now += 10;
      await scene.pass();
      expect(scene.looks).toBe(look);
    }
    await scene.follower.ended;
    expect(scene.asked).toEqual([1, 2, 3]);
    // Half of the pause before each.
    expect(scene.since).toEqual([0.5, 11, 21.5]);
  });

  it("are the same for all that happens before the first: it is not put off", async () => {
    const scene = new Scene();
    for (let i = 0; i < 5; i++) scene.follower.trigger();
    await scene.pass();
    expect(scene.looks).toBe(1);
    expect(scene.asked).toEqual([1, 2]);
  });

  it("begin again for what happens after the first, also while it lasts, or after the last", async () => {
    const scene = new Scene();
    const { promise, resolve } = Promise.withResolvers<void>();
    scene.hold = promise;
    scene.follower.trigger();
    await scene.pass();
    scene.follower.trigger();
    expect(scene.asked).toEqual([1, 1]);
    resolve();
    // The first look ends; its round does not go on.
    for (let look = 2; look <= 4; look++) {
      await scene.pass();
      expect(scene.looks).toBe(look);
    }
    await scene.follower.ended;
    scene.follower.trigger();
    await scene.pass();
    expect(scene.looks).toBe(5);
  });

  it("do not begin after the signal, and a look that has begun is waited for", async () => {
    const scene = new Scene();
    const { promise, resolve } = Promise.withResolvers<void>();
    scene.hold = promise;
    scene.follower.trigger();
    await scene.pass();
    let hasEnded = false;
    const ended = scene.follower.ended.then(() => (hasEnded = true));
    scene.controller.abort();
    scene.follower.trigger();
    await scene.pass();
    expect(hasEnded).toBe(false);
    resolve();
    await ended;
    expect(scene.looks).toBe(1);
  });

  it("do not begin if the signal comes in the moment in which a delay ends", async () => {
    const scene = new Scene();
    scene.follower.trigger();
    scene.end();
    scene.controller.abort();
    await scene.follower.ended;
    expect(scene.looks).toBe(0);
  });
});
