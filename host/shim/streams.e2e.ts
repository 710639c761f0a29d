import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { setImmediate } from "node:timers/promises";
import { concatBytes, decodeUtf8, encodeUtf8, type ByteSink, type LogFields, type Logger } from "@sealpod/core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { StreamNames, TaskStreams } from "./pod.ts";
import { openStreams, type StreamOptions } from "./streams.ts";
import type { StreamTimes } from "./streams-fifo.ts";

const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;

/** Bytes of a pipe on Linux with pages of 4 KiB. */
const PIPE = 65_536;

/** Short where a test has to wait for all of it. */
const SHORT: StreamTimes = { closeGrace: 100, lateReader: 200, logger: 300 };

const OWNER = { id: "c1", namespace: "k8s.io" };

let base: string;
let directory: string;
let count = 0;
let children: ChildProcess[] = [];
let descriptors: number[] = [];
let opened: TaskStreams[] = [];

beforeAll(() => {
  base = mkdtempSync(`${tmpdir()}/sealpod-streams-`);
});

beforeEach(() => {
  directory = `${base}/${++count}`;
  mkdirSync(directory);
});

afterEach(async () => {
  for (const child of children) child.kill("SIGKILL");
  for (const fd of descriptors) closeSync(fd);
  await Promise.all(opened.map((streams) => streams.close()));
  [children, descriptors, opened] = [[], [], []];
});

afterAll(() => rmSync(base, { recursive: true }));

function fifo(name: string): string {
  execFileSync("mkfifo", [`${directory}/${name}`]);
  return `${directory}/${name}`;
}

async function streamsOf(names: Partial<StreamNames>, options: StreamOptions = {}): Promise<TaskStreams> {
  const streams = await openStreams({ stdin: "", stdout: "", stderr: "", terminal: false, ...names }, OWNER, options);
  opened.push(streams);
  return streams;
}

function sinkOf(sink: ByteSink | undefined): ByteSink {
  if (sink === undefined) throw new Error("no sink");
  return sink;
}

/** Opens one end for a test, which closes it by `release` or at its end. */
function hold(path: string, flags: number): number {
  const fd = openSync(path, flags | O_NONBLOCK);
  descriptors.push(fd);
  return fd;
}

function release(fd: number): void {
  descriptors = descriptors.filter((other) => other !== fd);
  closeSync(fd);
}

/** What can be read now, at most `limit` bytes. */
function take(fd: number, limit = Infinity): Uint8Array {
  const parts: Uint8Array[] = [];
  let length = 0;
  while (length < limit) {
    const buffer = new Uint8Array(Math.min(PIPE, limit - length));
    let read: number;
    try {
      read = readSync(fd, buffer);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") break;
      throw error;
    }
    if (read === 0) break;
    length += read;
    parts.push(buffer.subarray(0, read));
  }
  return concatBytes(...parts);
}

/** Reads a FIFO by itself to the end of the file. */
function reader(path: string): Promise<Uint8Array> {
  const socket = new Socket({ fd: openSync(path, O_RDONLY | O_NONBLOCK), readable: true, writable: false });
  const parts: Uint8Array[] = [];
  socket.on("data", (part) => parts.push(part));
  return new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.on("close", () => resolve(concatBytes(...parts)));
  });
}

/** A real program with a redirection; resolves with what it printed. */
function shell(script: string): Promise<string> {
  const child = spawn("/bin/sh", ["-c", script], { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  let text = "";
  child.stdout.on("data", (part: Buffer) => (text += part.toString()));
  return new Promise((resolve) => child.on("close", () => resolve(text)));
}

/** Bytes none of which is where it would be after a loss, a repetition or a swap. */
function pattern(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const words = new Uint32Array(bytes.buffer, 0, length >> 2);
  for (let index = 0; index < words.length; index++) words[index] = Math.imul(index + 1, 0x9e3779b1);
  return bytes;
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

async function writeAll(sink: ByteSink, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; at += PIPE) await sink.write(bytes.subarray(at, at + PIPE));
}

async function collect(input: AsyncIterable<Uint8Array> | undefined): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of input ?? []) parts.push(part);
  return concatBytes(...parts);
}

/** Descriptors of this process by what they are. */
function openFiles(): readonly string[] {
  return readdirSync("/proc/self/fd").filter((fd) => existsSync(`/proc/self/fdinfo/${fd}`));
}

/** How a promise stands after all that the event loop had to do has been done. */
async function standing(promise: Promise<unknown>): Promise<"pending" | "done" | "failed"> {
  let state: "pending" | "done" | "failed" = "pending";
  promise.then(
    () => (state = "done"),
    () => (state = "failed"),
  );
  for (let turn = 0; turn < 50; turn++) await setImmediate();
  return state;
}

/** Turns of the event loop until something is so. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await setImmediate();
}

const streamError = (text: string): unknown => expect.objectContaining({ code: "ERR_SHIM_STREAM", message: expect.stringContaining(text) as string });

describe("output to a FIFO", () => {
  it("brings 24 MiB to a real program whole and in order, each stream by itself", async () => {
    const [stdout, stderr] = [fifo("out"), fifo("err")];
    const bytes = pattern(24 << 20);
    const sums = Promise.all([shell(`sha256sum < ${stdout}`), shell(`sha256sum < ${stderr}`)]);
    const streams = await streamsOf({ stdout, stderr });
    await Promise.all([writeAll(sinkOf(streams.stdout), bytes), writeAll(sinkOf(streams.stderr), bytes.subarray(1))]);
    await streams.close();
    expect((await sums).map((line) => line.slice(0, 64))).toEqual([sha256(bytes), sha256(bytes.subarray(1))]);
  });

  it("opens without a reader, takes a pipe's length, and then waits without holding up another stream", async () => {
    const [stdout, stderr] = [fifo("out"), fifo("err")];
    const streams = await streamsOf({ stdout, stderr }, { times: SHORT });
    const stalled = sinkOf(streams.stdout);
    await stalled.write(new Uint8Array(PIPE));
    const waiting = stalled.write(new Uint8Array(1));
    expect(await standing(waiting)).toBe("pending");
    const read = reader(stderr);
    const bytes = pattern(4 << 20);
    await writeAll(sinkOf(streams.stderr), bytes);
    expect(await standing(waiting)).toBe("pending");
    const refused = expect(waiting).rejects.toEqual(streamError("takes nothing"));
    await streams.close();
    await refused;
    expect(sha256(await read)).toBe(sha256(bytes));
  });

  it("waits at close for a reader that takes its time, and fails no write that it takes", async () => {
    const stdout = fifo("out");
    const end = hold(stdout, O_RDONLY);
    const streams = await streamsOf({ stdout }, { times: { ...SHORT, closeGrace: 60_000 } });
    const bytes = pattern(PIPE + 40_000);
    const written = sinkOf(streams.stdout).write(bytes);
    const closed = streams.close();
    expect(await standing(closed)).toBe("pending");
    const first = take(end);
    await written;
    await closed;
    expect(sha256(concatBytes(first, take(end)))).toBe(sha256(bytes));
    expect(readSync(end, new Uint8Array(1))).toBe(0);
  });

  it("leaves what was written to a reader that has not read yet, and its end of file", async () => {
    const stdout = fifo("out");
    const end = hold(stdout, O_RDONLY);
    const streams = await streamsOf({ stdout });
    await sinkOf(streams.stdout).write(pattern(PIPE));
    await streams.close();
    unlinkSync(stdout);
    expect(sha256(take(end))).toBe(sha256(pattern(PIPE)));
    expect(readSync(end, new Uint8Array(1))).toBe(0);
  });

  it("keeps what was written for a reader that comes after the close", async () => {
    const stdout = fifo("out");
    const streams = await streamsOf({ stdout });
    await sinkOf(streams.stdout).write(encodeUtf8("last words"));
    await streams.close();
    expect(decodeUtf8(await reader(stdout), "output")).toBe("last words");
  });

  it("lets go of it when nobody comes in time, or the FIFO is removed", async () => {
    const before = openFiles().length;
    const [stdout, stderr] = [fifo("out"), fifo("err")];
    const long = await streamsOf({ stdout }, { times: { ...SHORT, lateReader: 1e9 } });
    const short = await streamsOf({ stdout: stderr }, { times: SHORT });
    for (const streams of [long, short]) await sinkOf(streams.stdout).write(encodeUtf8("x"));
    for (const streams of [long, short]) await streams.close();
    expect(openFiles().length).toBe(before + 2);
    unlinkSync(stdout);
    await until(() => openFiles().length === before);
  });

  it("goes on where it was with a reader that comes late, goes and comes back", async () => {
    const stdout = fifo("out");
    const streams = await streamsOf({ stdout });
    const bytes = pattern(1 << 20);
    const written = writeAll(sinkOf(streams.stdout), bytes);
    expect(await standing(written)).toBe("pending");
    const parts: Uint8Array[] = [];
    // A containerd that restarts again and again: each reads some and goes, with the pipe full again behind it.
    for (let length = 0; length < 400_000; length += 40_000) {
      const end = hold(stdout, O_RDONLY);
      parts.push(take(end, 40_000));
      release(end);
      expect(await standing(written)).toBe("pending");
    }
    const rest = reader(stdout);
    await written;
    await streams.close();
    expect(sha256(concatBytes(...parts, await rest))).toBe(sha256(bytes));
  });

  it("takes one FIFO for both streams, and none for what has no name or is a terminal's standard error", async () => {
    const stdout = fifo("out");
    const streams = await streamsOf({ stdout, stderr: stdout });
    const read = reader(stdout);
    await sinkOf(streams.stdout).write(encodeUtf8("a"));
    await sinkOf(streams.stderr).write(encodeUtf8("b"));
    await streams.close();
    expect(decodeUtf8(await read, "output")).toBe("ab");
    const none = await streamsOf({});
    expect([none.stdin, none.stdout, none.stderr]).toEqual([undefined, undefined, undefined]);
    none.closeStdin();
    const terminal = await streamsOf({ stdout, stderr: `${directory}/missing`, terminal: true });
    expect(terminal.stderr).toBeUndefined();
  });

  it("refuses to write after the close, and closes once", async () => {
    const stdout = fifo("out");
    const streams = await streamsOf({ stdout });
    await Promise.all([streams.close(), streams.close()]);
    await expect(sinkOf(streams.stdout).write(new Uint8Array(1))).rejects.toEqual(streamError("is closed"));
  });
});

describe("input from a FIFO", () => {
  it("brings 24 MiB of a real program whole and in order, and ends with it", async () => {
    const stdin = fifo("in");
    writeFileSync(`${directory}/bytes`, pattern(24 << 20));
    const streams = await streamsOf({ stdin });
    const done = shell(`cat ${directory}/bytes > ${stdin}`);
    expect(sha256(await collect(streams.stdin))).toBe(sha256(pattern(24 << 20)));
    await done;
  });

  it("waits for a writer that comes late, and for the last of several to go", async () => {
    const stdin = fifo("in");
    const streams = await streamsOf({ stdin });
    const input = collect(streams.stdin);
    expect(await standing(input)).toBe("pending");
    const first = hold(stdin, O_WRONLY);
    const second = hold(stdin, O_WRONLY);
    writeSync(first, "one ");
    release(first);
    expect(await standing(input)).toBe("pending");
    writeSync(second, "two");
    release(second);
    expect(decodeUtf8(await input, "input")).toBe("one two");
  });

  it("brings what a writer left that went before anything was read", async () => {
    const stdin = fifo("in");
    const streams = await streamsOf({ stdin });
    const writer = hold(stdin, O_WRONLY);
    writeSync(writer, pattern(PIPE));
    release(writer);
    expect(sha256(await collect(streams.stdin))).toBe(sha256(pattern(PIPE)));
  });

  it("reads no more than a pipe's length ahead of its consumer", async () => {
    const stdin = fifo("in");
    const streams = await streamsOf({ stdin });
    const writer = hold(stdin, O_WRONLY);
    let written = 0;
    for (let quiet = 0; quiet < 100; quiet++) {
      try {
        for (;;) {
          written += writeSync(writer, new Uint8Array(4096));
          quiet = 0;
        }
      } catch (error) {
        expect((error as NodeJS.ErrnoException).code).toBe("EAGAIN");
      }
      await setImmediate();
    }
    expect(written).toBeGreaterThanOrEqual(PIPE);
    expect(written).toBeLessThanOrEqual(2 * PIPE);
    release(writer);
    expect((await collect(streams.stdin)).length).toBe(written);
  });

  it.each(["before anything was read", "after something was read", "while the consumer waits", "twice"])(
    "ends by CloseIO with what is in the pipe, though the writer stays: %s",
    async (when) => {
      const stdin = fifo("in");
      const streams = await streamsOf({ stdin });
      const writer = hold(stdin, O_WRONLY);
      const iterator = streams.stdin?.[Symbol.asyncIterator]();
      const parts: Uint8Array[] = [];
      const bytes = pattern(3 * PIPE);
      const next = async (): Promise<boolean> => {
        const result = await iterator?.next();
        if (result?.done !== false) return false;
        parts.push(result.value);
        return true;
      };
      let at = writeSync(writer, bytes, 0, PIPE);
      if (when !== "before anything was read") expect(await next()).toBe(true);
      if (when === "while the consumer waits") {
        const waiting = next();
        expect(await standing(waiting)).toBe("pending");
        streams.closeStdin();
        expect(await waiting).toBe(false);
      } else {
        // Once in the socket's buffer and once in the pipe.
        for (let turn = 0; turn < 20; turn++) await setImmediate();
        at += writeSync(writer, bytes, at, PIPE);
        streams.closeStdin();
        if (when === "twice") streams.closeStdin();
        while (await next());
      }
      expect(sha256(concatBytes(...parts))).toBe(sha256(bytes.subarray(0, at)));
      // Nobody reads it any more, so its writer is told.
      expect(() => writeSync(writer, "more")).toThrow("EPIPE");
    },
  );

  it("ends by CloseIO without a writer, and by close whatever is in the pipe", async () => {
    const [one, other] = [fifo("one"), fifo("other")];
    const ended = await streamsOf({ stdin: one });
    const nothing = collect(ended.stdin);
    ended.closeStdin();
    expect((await nothing).length).toBe(0);
    const closed = await streamsOf({ stdin: other });
    const waiting = collect(closed.stdin);
    hold(other, O_WRONLY);
    expect(await standing(waiting)).toBe("pending");
    await closed.close();
    expect((await waiting).length).toBe(0);
    closed.closeStdin();
    expect((await collect(closed.stdin)).length).toBe(0);
  });

  it("is closed when its consumer stops", async () => {
    const before = openFiles().length;
    const stdin = fifo("in");
    const streams = await streamsOf({ stdin });
    const writer = hold(stdin, O_WRONLY);
    writeSync(writer, "x");
    for await (const part of streams.stdin ?? []) {
      expect(part.length).toBe(1);
      break;
    }
    release(writer);
    expect(openFiles().length).toBe(before);
  });
});

describe("descriptors", () => {
  it("are as many after 300 processes as before, also of those whose streams do not open", async () => {
    const [stdin, stdout, stderr] = [fifo("in"), fifo("out"), fifo("err")];
    const before = openFiles().length;
    for (let cycle = 0; cycle < 300; cycle++) {
      const streams = await openStreams({ stdin, stdout, stderr, terminal: false }, OWNER);
      const read = cycle % 3 === 0 ? reader(stdout) : undefined;
      if (read !== undefined) await sinkOf(streams.stdout).write(encodeUtf8("x"));
      if (cycle % 2 === 0) streams.closeStdin();
      await streams.close();
      await read;
      await expect(openStreams({ stdin, stdout, stderr: `${directory}/missing`, terminal: false }, OWNER)).rejects.toThrow("does not exist");
    }
    expect(openFiles().length).toBe(before);
  });

  it("are not there for programs that the shim starts", async () => {
    const [stdin, stdout] = [fifo("in"), fifo("out")];
    await streamsOf({ stdin, stdout });
    expect(await shell("readlink /proc/self/fd/*")).not.toContain(directory);
  });
});

describe("names that are no streams", () => {
  it("are refused, and nothing is opened, made or started", async () => {
    const stdout = fifo("out");
    writeFileSync(`${directory}/file`, "");
    mkdirSync(`${directory}/dir`);
    symlinkSync("loop", `${directory}/loop`);
    const before = openFiles().length;
    const entries = readdirSync(directory);
    const cases: readonly (readonly [Partial<StreamNames>, string])[] = [
      [{ stdin: `${directory}/missing` }, "does not exist"],
      [{ stdin: `${directory}/file` }, "is no FIFO"],
      [{ stdin: `${directory}/dir` }, "is no FIFO"],
      [{ stdin: "/dev/zero" }, "is no FIFO"],
      [{ stdin: `file://${directory}/file` }, "which is for output"],
      [{ stdin: "binary:///bin/cat" }, "which is for output"],
      [{ stdin: `${directory}/loop` }, "ELOOP"],
      [{ stdout: `${directory}/missing` }, "does not exist"],
      [{ stdout: `${directory}/dir` }, "is neither a FIFO nor a file"],
      [{ stdout: `file://${directory}/dir` }, "is neither a FIFO nor a file"],
      [{ stdout: `file://${directory}/file/x` }, "cannot be opened"],
      [{ stdout: "/dev/zero" }, "is neither a FIFO nor a file"],
      [{ stdout: `/${"x/".repeat(4000)}` }, "cannot be opened"],
      [{ stdout: "ttrpc+unix:///run/s?id=1" }, "is neither an absolute path nor"],
      [{ stdout, stderr: `binary://${directory}/missing` }, "ENOENT"],
      [{ stdout, stderr: `binary://${directory}/file` }, "EACCES"],
      [{ stdout, stderr: "relative" }, "is neither an absolute path nor"],
    ];
    for (const [names, problem] of cases) {
      await expect(openStreams({ stdin: "", stdout: "", stderr: "", terminal: false, ...names }, OWNER), JSON.stringify(names).slice(0, 200)).rejects.toEqual(
        streamError(problem),
      );
    }
    expect(openFiles().length).toBe(before);
    expect(readdirSync(directory)).toEqual(entries);
  });
});

describe("file://", () => {
  it("adds both streams to one file, made with its directories, in the order of the writes", async () => {
    const name = `file://${directory}/some%20logs/a/log`;
    const path = `${directory}/some logs/a/log`;
    for (const round of ["1", "2"]) {
      const streams = await streamsOf({ stdout: name, stderr: name });
      const writes: Promise<void>[] = [];
      for (let line = 0; line < 50; line++) writes.push(sinkOf(line % 2 === 0 ? streams.stdout : streams.stderr).write(encodeUtf8(`${round}.${line}\n`)));
      await streams.close();
      await Promise.all(writes);
      await expect(sinkOf(streams.stdout).write(encodeUtf8("late"))).rejects.toEqual(streamError("is closed"));
    }
    const lines = ["1", "2"].flatMap((round) => Array.from({ length: 50 }, (_, line) => `${round}.${line}\n`));
    expect(readFileSync(path, "utf8")).toBe(lines.join(""));
    expect(statSync(path).mode & 0o133).toBe(0);
  });

  it("adds to a file that is named by its path, takes a FIFO for what it is, and drops what is for /dev/null", async () => {
    writeFileSync(`${directory}/log`, "before ");
    const stderr = fifo("err");
    const read = reader(stderr);
    const streams = await streamsOf({ stdout: `${directory}/log`, stderr: `file://${stderr}` });
    await sinkOf(streams.stdout).write(encodeUtf8("after"));
    await sinkOf(streams.stderr).write(encodeUtf8("error"));
    await streams.close();
    expect(readFileSync(`${directory}/log`, "utf8")).toBe("before after");
    expect(decodeUtf8(await read, "output")).toBe("error");
    expect((await streamsOf({ stdout: "file:///dev/null" })).stdout).toBeUndefined();
  });
});

describe("binary://", () => {
  /** An executable /bin/sh script: a real program that speaks the protocol. */
  function program(name: string, ...lines: readonly string[]): string {
    writeFileSync(`${directory}/${name}`, ["#!/bin/sh", ...lines, ""].join("\n"));
    chmodSync(`${directory}/${name}`, 0o755);
    return `binary://${directory}/${name}`;
  }

  const both = 'exec 5>&-; cat <&3 > "$2.out" & cat <&4 > "$2.err" & exec 3<&- 4<&-; wait; echo ended >> "$2.end"';

  it("starts one program for both streams with its arguments and two variables, and ends with it", async () => {
    const name = `${program("log", 'printf "%s\\n" "$@" > "$2.args"', "tr '\\0' '\\n' < /proc/self/environ > \"$2.env\"", both)}?dir=${directory}/x&flag`;
    const before = openFiles().length;
    const streams = await streamsOf({ stdout: name, stderr: name });
    const bytes = pattern(6 << 20);
    await Promise.all([writeAll(sinkOf(streams.stdout), bytes), writeAll(sinkOf(streams.stderr), encodeUtf8("errors"))]);
    await streams.close();
    expect(sha256(readFileSync(`${directory}/x.out`))).toBe(sha256(bytes));
    expect(readFileSync(`${directory}/x.err`, "utf8")).toBe("errors");
    expect(readFileSync(`${directory}/x.args`, "utf8")).toBe(`dir\n${directory}/x\nflag\n\n`);
    const environment = readFileSync(`${directory}/x.env`, "utf8").split("\n");
    expect(environment).toEqual(expect.arrayContaining(["CONTAINER_ID=c1", "CONTAINER_NAMESPACE=k8s.io"]));
    // What the shell itself adds, and nothing of this process.
    expect(environment.filter((line) => !/^(CONTAINER_(ID|NAMESPACE)|PWD|OLDPWD|SHLVL|_)=|^$/.test(line))).toEqual([]);
    expect(readFileSync(`${directory}/x.end`, "utf8")).toBe("ended\n");
    await until(() => openFiles().length === before);
  });

  it("is ready by a byte too, and by nothing else", async () => {
    const ready = await streamsOf({ stdout: `${program("byte", "echo >&5", both)}?dir=${directory}/x` });
    await sinkOf(ready.stdout).write(encodeUtf8("text"));
    await ready.close();
    expect(readFileSync(`${directory}/x.out`, "utf8")).toBe("text");
    const before = openFiles().length;
    await expect(streamsOf({ stdout: program("silent", "exec sleep 600") }, { times: SHORT })).rejects.toEqual(streamError("was not ready after 300 ms"));
    expect(openFiles().length).toBe(before);
  });

  it("tells what ended a program, and refuses what is written to it from then on", async () => {
    const log: { readonly message: string; readonly fields: LogFields | undefined }[] = [];
    const logger: Logger = { log: (_level, message, fields) => void log.push({ message, fields }) };
    const streams = await streamsOf({ stdout: program("fails", "exec 5>&-", "head -c 1 <&3 > /dev/null", "exit 3") }, { logger });
    const written = writeAll(sinkOf(streams.stdout), new Uint8Array(16 << 20));
    await expect(written).rejects.toEqual(streamError("the reader is gone"));
    await until(() => log.length > 0);
    expect(log).toEqual([
      { message: "a logger ended before the output that it takes", fields: expect.objectContaining({ how: "it ended with status 3", id: "c1" }) as LogFields },
    ]);
    await streams.close();
  });

  it("asks a program that stays to end before it is made to", async () => {
    const flush = `trap 'kill $!; echo flushed > "$2"; exit' TERM`;
    const streams = await streamsOf({ stdout: `${program("stays", flush, "exec 5>&-", "sleep 600 & wait")}?file=${directory}/flushed` }, { times: SHORT });
    await streams.close();
    expect(readFileSync(`${directory}/flushed`, "utf8")).toBe("flushed\n");
  });

  it("gives a program that stalls time at the close, and then ends it", async () => {
    const streams = await streamsOf(
      { stdout: `${program("stalls", 'echo $$ > "$2"', "trap '' TERM", "exec 5>&-", "exec sleep 600")}?pid=${directory}/pid` },
      { times: SHORT },
    );
    const stalled = sinkOf(streams.stdout).write(new Uint8Array(8 << 20));
    expect(await standing(stalled)).toBe("pending");
    const refused = expect(stalled).rejects.toEqual(streamError("takes nothing"));
    await streams.close();
    await refused;
    expect(existsSync(`/proc/${readFileSync(`${directory}/pid`, "utf8").trim()}`)).toBe(false);
  });
});
