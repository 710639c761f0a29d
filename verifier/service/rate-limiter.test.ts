import { describe, expect, it } from "vitest";
import { RateLimiter } from "./rate-limiter.ts";

function limiter(perSecond: number, burst: number, maxClients = 100): { readonly limit: RateLimiter; readonly pass: (milliseconds: number) => void } {
  let now = 1000;
  return {
    limit: new RateLimiter({ perSecond, burst, maxClients }, () => now),
    pass: (milliseconds) => {
      now += milliseconds;
    },
  };
}

describe("the rate limit", () => {
  it("lets a burst through, then one per interval, and says how long to wait", () => {
    const { limit, pass } = limiter(10, 3);
    expect([1, 2, 3, 4].map(() => limit.take("a"))).toEqual([0, 0, 0, 100]);
    pass(60);
    expect(limit.take("a")).toBe(40);
    pass(40);
    expect(limit.take("a")).toBe(0);
    expect(limit.take("a")).toBe(100);
  });

  it("fills a bucket to its burst and no further", () => {
    const { limit, pass } = limiter(10, 3);
    limit.take("a");
    pass(1_000_000);
    expect([1, 2, 3, 4].map(() => limit.take("a"))).toEqual([0, 0, 0, 100]);
  });

  it("does not punish for asking while refused", () => {
    const { limit, pass } = limiter(10, 1);
    limit.take("a");
    for (let at = 0; at < 50; at++) expect(limit.take("a")).toBe(100);
    pass(100);
    expect(limit.take("a")).toBe(0);
  });

  it("counts each client for itself", () => {
    const { limit } = limiter(1, 1);
    limit.take("a");
    expect(limit.take("a")).toBeGreaterThan(0);
    expect(limit.take("b")).toBe(0);
  });

  it("stands a clock that goes back", () => {
    const { limit, pass } = limiter(10, 2);
    limit.take("a");
    pass(-500);
    expect(limit.take("a")).toBe(0);
    expect(limit.take("a")).toBe(100);
  });

  it("remembers a bounded number of clients", () => {
    const { limit } = limiter(1, 1, 50);
    for (let at = 0; at < 10_000; at++) limit.take(`client ${at}`);
    expect(limit.size).toBe(50);
  });

  it("does not forget clients that keep asking, however many others come by", () => {
    const { limit, pass } = limiter(1, 2, 50);
    // More of them than are compared when one must be forgotten.
    const abusers = Array.from({ length: 20 }, (_, at) => `abuser ${at}`);
    for (const abuser of abusers) for (let at = 0; at < 2; at++) limit.take(abuser);
    let passed = 0;
    for (let at = 0; at < 5000; at++) {
      limit.take(`client ${at}`);
      if (at % 10 === 0) for (const abuser of abusers) passed += limit.take(abuser) === 0 ? 1 : 0;
      if (at % 500 === 499) pass(1000);
    }
    // Ten seconds, one request in each.
    expect(passed).toBeLessThanOrEqual(10 * abusers.length);
  });

  it("forgets those first who lose nothing by it", () => {
    const { limit, pass } = limiter(1, 10, 3);
    for (let at = 0; at < 10; at++) limit.take("spent");
    pass(100);
    limit.take("once");
    limit.take("last");
    // One of the three must go: "once" has nearly all of its tokens, "spent" has none and asked for longest ago.
    limit.take("new");
    expect(limit.take("spent")).toBeGreaterThan(0);
  });
});
