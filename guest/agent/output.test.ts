import { PassThrough, Readable } from "node:stream";
import { describe, expect, it, vi } from "vitest";
import { Output } from "./output.ts";

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");

function output(): { stream: PassThrough; output: Output; exit: () => void } {
  const stream = new PassThrough({ highWaterMark: 8 });
  const exit = Promise.withResolvers<void>();
  return { stream, output: new Output(stream, exit.promise), exit: exit.resolve };
}

describe("output of a process", () => {
  it("waits for the first byte and gives no more than asked for", async () => {
    const { stream, output: out } = output();
    const first = out.read(3);
    stream.write("abcde");
    expect(text(await first)).toBe("abc");
    expect(text(await out.read(100))).toBe("de");
  });

  it("ends with nothing, again and again", async () => {
    const { stream, output: out } = output();
    stream.end("x");
    expect(text(await out.read(10))).toBe("x");
    expect(await out.read(10)).toHaveLength(0);
    expect(await out.read(10)).toHaveLength(0);
    expect(out.ended).toBe(true);
  });

  it("ends for a process that says nothing", async () => {
    const { stream, output: out } = output();
    const reading = out.read(10);
    stream.end();
    expect(await reading).toHaveLength(0);
    expect(out.ended).toBe(true);
  });

  it("ends for a process that has ended before anyone asked", async () => {
    const stream = new Readable({ read: () => undefined });
    const out = new Output(stream, new Promise(() => undefined));
    await new Promise((resolve) => setImmediate(resolve));
    stream.push(null);
    await new Promise((resolve) => setImmediate(resolve));
    expect(await out.read(10)).toHaveLength(0);
  });

  it("gives each byte to one of several readers", async () => {
    const { stream, output: out } = output();
    const readers = [out.read(1), out.read(1), out.read(1)];
    stream.end("ab");
    expect((await Promise.all(readers)).map(text).sort()).toEqual(["", "a", "b"]);
  });

  it("holds no more than the stream's buffer: the writer has to wait", async () => {
    const { stream, output: out } = output();
    let written = 0;
    for (let i = 0; i < 100; i++) stream.write("12345678", () => written++);
    await new Promise((resolve) => setImmediate(resolve));
    expect(written).toBeLessThan(100);
    let total = 0;
    while (total < 800) total += (await out.read(64)).length;
    await new Promise((resolve) => setImmediate(resolve));
    expect(written).toBe(100);
  });

  it("discards what is there and what comes, so that the writer never waits", async () => {
    const { stream, output: out } = output();
    const pending = out.read(10);
    out.discard();
    let written = 0;
    for (let i = 0; i < 100; i++) stream.write("12345678", () => written++);
    stream.end();
    expect(await pending).toHaveLength(0);
    expect(written).toBe(100);
    expect(out.ended).toBe(true);
  });

  it("ends half a second after the process, if someone else keeps the pipe open", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      const { stream, output: out, exit } = output();
      stream.write("last words");
      exit();
      expect(text(await out.read(64))).toBe("last words");
      const waiting = out.read(64);
      await vi.advanceTimersByTimeAsync(499);
      stream.write("late");
      expect(text(await waiting)).toBe("late");
      const end = out.read(64);
      await vi.advanceTimersByTimeAsync(1);
      expect(await end).toHaveLength(0);
    } finally {
      vi.useRealTimers();
    }
  });
});
