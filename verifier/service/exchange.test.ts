import { describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { Exchange, RequestIds } from "./exchange.ts";

describe("the signal of a request", () => {
  const make = (): Exchange => new Exchange("id", "client", undefined, "GET", silentLogger);

  it("is aborted, once, with the first reason, whether it was asked for before or after", () => {
    const before = make();
    const { signal } = before;
    expect(signal.aborted).toBe(false);
    const after = make();
    for (const exchange of [before, after]) {
      exchange.abort("first");
      exchange.abort("second");
      expect(exchange.signal.aborted).toBe(true);
      expect(exchange.signal.reason).toMatchObject({ message: "first" });
    }
    expect(before.signal).toBe(signal);
  });
});

describe("request ids", () => {
  it("are UUIDs of version 4 of all the randomness, none of it twice", () => {
    let calls = 0;
    const ids = new RequestIds({
      bytes: (length) => {
        calls++;
        // Each group of 16 bytes is its own number, within a call and from call to call.
        return Uint8Array.from({ length }, (_, at) => (at % 16 === 0 ? calls : at % 16 === 1 ? (at >> 4) & 0xff : 0xff));
      },
    });
    const seen = Array.from({ length: 600 }, () => ids.next());
    expect(new Set(seen).size).toBe(600);
    expect(calls).toBe(3);
    expect(seen[0]).toBe("0100ffff-ffff-4fff-bfff-ffffffffffff");
    expect(seen[257]).toBe("0201ffff-ffff-4fff-bfff-ffffffffffff");
  });
});
