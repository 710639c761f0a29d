import { describe, expect, it } from "vitest";
import { spacedFetch } from "./spacing.ts";

interface Sleeper {
  readonly at: number;
  readonly end: () => void;
}

/** A service, and a time that passes only when the test lets it. */
class Upstream {
  now = 0;
  /** When each request came. */
  readonly times: number[] = [];
  answer: () => Response = () => new Response("ok");
  readonly #sleepers = new Set<Sleeper>();

  readonly fetch = async (): Promise<Response> => {
    this.times.push(this.now);
    return this.answer();
  };

  readonly sleep = async (ms: number, signal: AbortSignal): Promise<void> =>
    new Promise((done) => {
      const sleeper = { at: this.now + ms, end: done };
      this.#sleepers.add(sleeper);
      signal.addEventListener("abort", () => {
        this.#sleepers.delete(sleeper);
        done();
      });
    });

  spaced(spacingMs: number, maxQueueMs: number): (signal?: AbortSignal) => Promise<string> {
    const fetch = spacedFetch({ fetch: this.fetch, clock: { now: () => this.now }, sleep: this.sleep, spacingMs, maxQueueMs });
    // "200", or "429 after SECONDS", and when.
    return async (signal) => {
      const { status, headers } = await fetch("http://x/", signal === undefined ? {} : { signal });
      const after = headers.get("retry-after");
      return `${status}${after === null ? "" : ` after ${after}`} at ${this.now / 1000}`;
    };
  }

  /** Lets everything run that does not wait for time. */
  async settle(): Promise<void> {
    await new Promise((done) => setImmediate(done));
  }

  /** Lets time pass, from one sleeper to the next. */
  async pass(ms: number): Promise<void> {
    const end = this.now + ms;
    await this.settle();
    for (;;) {
      const next = [...this.#sleepers].sort((a, b) => a.at - b.at).find(({ at }) => at <= end);
      if (next === undefined) break;
      this.now = Math.max(this.now, next.at);
      this.#sleepers.delete(next);
      next.end();
      await this.settle();
    }
    this.now = end;
  }

  get sleeping(): number {
    return this.#sleepers.size;
  }
}

const asking = (seconds: number): Response => new Response(null, { status: 429, headers: { "retry-after": String(seconds) } });

describe("distance from an upstream", () => {
  it("is kept between all requests, and who would wait too long is told when to come back", async () => {
    const upstream = new Upstream();
    const ask = upstream.spaced(10_000, 25_000);
    const all = Promise.all(Array.from({ length: 5 }, async () => ask()));
    await upstream.pass(60_000);
    expect(await all).toEqual(["200 at 0", "200 at 10", "200 at 20", "429 after 30 at 0", "429 after 30 at 0"]);
    expect(upstream.times).toEqual([0, 10_000, 20_000]);
    expect(await ask()).toBe("200 at 60");
  });

  it("grows when the upstream asks to be left alone", async () => {
    const upstream = new Upstream();
    const ask = upstream.spaced(0, 1000);
    upstream.answer = () => asking(120);
    expect(await ask()).toBe("429 after 120 at 0");
    await upstream.pass(20_000);
    expect([await ask(), upstream.times.length]).toEqual(["429 after 100 at 20", 1]);
    await upstream.pass(100_000);
    upstream.answer = () => new Response("ok");
    expect(await ask()).toBe("200 at 120");
  });

  it("is kept by those that wait already: they go later", async () => {
    const upstream = new Upstream();
    const ask = upstream.spaced(5000, 60_000);
    upstream.answer = () => (upstream.times.length === 1 ? asking(30) : new Response("ok"));
    const all = Promise.all([ask(), ask(), ask()]);
    await upstream.pass(60_000);
    expect(await all).toEqual(["429 after 30 at 0", "200 at 30", "200 at 35"]);
  });

  it("is kept by those that wait already: they are answered here if that is too long, at once", async () => {
    const upstream = new Upstream();
    const ask = upstream.spaced(5000, 15_000);
    upstream.answer = () => asking(30);
    const all = Promise.all([ask(), ask(), ask()]);
    await upstream.pass(5000);
    expect(await all).toEqual(["429 after 30 at 0", "429 after 30 at 0", "429 after 30 at 0"]);
    expect([upstream.times, upstream.sleeping]).toEqual([[0], 0]);
  });

  it("is not kept for a caller that has gone: its turn is the next one's", async () => {
    const upstream = new Upstream();
    const ask = upstream.spaced(10_000, 25_000);
    const caller = new AbortController();
    await ask();
    const gone = ask(caller.signal);
    const waits = ask();
    const refused = await ask();
    expect(refused).toBe("429 after 30 at 0");
    await upstream.pass(2000);
    caller.abort(new Error("gone"));
    await expect(gone).rejects.toThrow("gone");
    const after = ask();
    await upstream.pass(60_000);
    expect(await Promise.all([waits, after])).toEqual(["200 at 10", "200 at 20"]);
    expect(upstream.times).toEqual([0, 10_000, 20_000]);
    await expect(ask(AbortSignal.abort(new Error("never there")))).rejects.toThrow("never there");
    expect(await ask()).toBe("200 at 62");
  });

  it("is not kept from a request whose host has no address: it came to nobody", async () => {
    const upstream = new Upstream();
    const ask = upstream.spaced(10_000, 25_000);
    const failure = (code: string): Error => new TypeError("fetch failed", { cause: Object.assign(new Error(code), { code }) });
    upstream.answer = () => {
      if (upstream.times.length < 3) throw failure(upstream.times.length === 1 ? "ENOTFOUND" : "ECONNRESET");
      return new Response("ok");
    };
    const all = Promise.allSettled([ask(), ask(), ask()]);
    await upstream.pass(60_000);
    expect((await all).map(({ status }) => status)).toEqual(["rejected", "rejected", "fulfilled"]);
    expect(upstream.times).toEqual([0, 0, 10_000]);
  });

  it("lets a caller go whose sleep does not end", async () => {
    const upstream = new Upstream();
    const fetch = spacedFetch({
      fetch: upstream.fetch,
      clock: { now: () => 0 },
      sleep: async () => new Promise(() => undefined),
      spacingMs: 1000,
      maxQueueMs: 5000,
    });
    await fetch("http://x/", {});
    const caller = new AbortController();
    const second = fetch("http://x/", { signal: caller.signal });
    caller.abort(new Error("gone"));
    await expect(second).rejects.toThrow("gone");
    expect(upstream.times).toHaveLength(1);
  });
});
