import { describe, expect, it } from "vitest";
import { LogWriter } from "./log-writer.ts";

function recorder(step = Number.POSITIVE_INFINITY): { readonly writes: string[]; readonly write: (to: number, bytes: Uint8Array) => number } {
  const writes: string[] = [];
  return {
    writes,
    write: (_to, bytes) => {
      const part = bytes.subarray(0, Math.min(step, bytes.length));
      writes.push(Buffer.from(part).toString());
      return part.length;
    },
  };
}

function failing(code: string): Error {
  return Object.assign(new Error(code), { code });
}

describe("LogWriter", () => {
  it("writes the lines of one turn at once, in order", async () => {
    const { writes, write } = recorder();
    const log = new LogWriter(1, write);
    log.line("one\n");
    log.line("two\n");
    expect(writes).toEqual([]);
    await new Promise((resolve) => void setImmediate(resolve));
    log.line("three\n");
    log.flush();
    expect(writes).toEqual(["one\ntwo\n", "three\n"]);
    await new Promise((resolve) => void setImmediate(resolve));
    expect(writes).toHaveLength(2);
  });

  it("does not hold back more than a bound within one turn", () => {
    const { writes, write } = recorder();
    const log = new LogWriter(1, write);
    for (let at = 0; at < 100; at++) log.line(`${"x".repeat(1999)}\n`);
    expect(writes.join("").length).toBeGreaterThan(100_000);
    log.flush();
    expect(writes.join("")).toHaveLength(200_000);
  });

  it("goes on where a short write ended, also within a character", () => {
    const { writes, write } = recorder(1);
    const log = new LogWriter(1, write);
    log.line("grün\n");
    log.flush();
    expect(writes).toHaveLength(6);
    expect(log.dropped).toBe(0);
  });

  it("waits for a full pipe, and drops and counts the lines that a closed one does not take", () => {
    const taken: string[] = [];
    let calls = 0;
    const log = new LogWriter(1, (_to, bytes) => {
      if (calls++ < 3) throw failing("EAGAIN");
      taken.push(Buffer.from(bytes).toString());
      return bytes.length;
    });
    log.line("late\n");
    log.flush();
    expect(taken).toEqual(["late\n"]);
    const closed = new LogWriter(1, () => {
      throw failing("EPIPE");
    });
    closed.line("a\nb\n");
    closed.flush();
    expect(closed.dropped).toBe(2);
  });
});
