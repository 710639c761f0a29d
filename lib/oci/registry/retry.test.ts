import { describe, expect, it } from "vitest";
import { parseRetryAfter, retryDelay } from "./retry.ts";

const fixed = (high: number, low: number): { bytes(length: number): Uint8Array } => ({ bytes: () => Uint8Array.of(high, low) });

describe("retryDelay", () => {
  it("doubles from half a second to half a minute, its upper half at random", () => {
    const lowest = [0, 1, 2, 3, 4, 5, 6, 7, 1000].map((attempt) => retryDelay(attempt, fixed(0, 0)));
    const highest = [0, 1, 2, 3, 4, 5, 6, 7, 1000].map((attempt) => retryDelay(attempt, fixed(255, 255)));
    expect(lowest).toEqual([250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
    expect(highest).toEqual([500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  });

  it("waits as long as the server asks, up to a minute", () => {
    expect(retryDelay(0, fixed(0, 0), 7000)).toBe(7000);
    expect(retryDelay(6, fixed(0, 0), 7000)).toBe(15_000);
    expect(retryDelay(0, fixed(0, 0), 10 ** 13)).toBe(60_000);
  });
});

describe("parseRetryAfter", () => {
  const now = Date.parse("2026-03-01T12:00:00Z");
  it.each<readonly [string | null, number | undefined]>([
    [null, undefined],
    ["0", 0],
    ["120", 120_000],
    ["Sun, 01 Mar 2026 12:00:30 GMT", 30_000],
    ["Sun, 01 Mar 2026 11:00:30 GMT", 0],
    ["", undefined],
    ["-1", undefined],
    ["1.5", undefined],
    ["1e9", undefined],
    ["99999999999", undefined],
    ["Sun, 41 Mar 2026 12:00:30 GMT", undefined],
    ["2026-03-01T12:00:30Z", undefined],
    ["Sunday, 01-Mar-26 12:00:30 GMT", undefined],
    ["9".repeat(1000), undefined],
  ])("reads %j", (header, expected) => {
    expect(parseRetryAfter(header, now)).toBe(expected);
  });
});
