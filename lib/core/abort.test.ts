import { describe, expect, it } from "vitest";
import { unlessAborted } from "./abort.ts";

describe("unlessAborted", () => {
  it("gives what the work gives, or fails as it fails", async () => {
    const { signal } = new AbortController();
    expect(await unlessAborted(Promise.resolve(1), signal)).toBe(1);
    await expect(unlessAborted(Promise.reject(new Error("work")), signal)).rejects.toThrow("work");
  });

  it("fails with the signal's reason at once, also when the work fails later", async () => {
    const stop = new AbortController();
    const work = Promise.withResolvers<never>();
    const waiting = unlessAborted(work.promise, stop.signal);
    stop.abort(new Error("enough"));
    await expect(waiting).rejects.toThrow("enough");
    work.reject(new Error("too late to matter"));
    await expect(unlessAborted(Promise.resolve(1), stop.signal)).rejects.toThrow("enough");
  });
});
