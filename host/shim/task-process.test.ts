import { silentLogger } from "@sealpod/core";
import type { GuestProcess } from "@sealpod/sandbox";
import { describe, expect, it } from "vitest";
import { TaskProcess, type ProcessExit } from "./task-process.ts";
import { FakePod, FakeProcess, FakeStreams, ManualTimer, settle } from "./testdata/task-world.ts";

function idle(): { readonly process: TaskProcess; readonly streams: FakeStreams; readonly exits: ProcessExit[]; readonly timer: ManualTimer } {
  const timer = new ManualTimer();
  const exits: ProcessExit[] = [];
  const names = { stdin: "", stdout: "/out", stderr: "", terminal: false };
  const streams = new FakeStreams(names);
  const process = new TaskProcess({
    label: "task a",
    init: true,
    names,
    openStreams: async () => streams,
    listener: { started: () => undefined, exited: (exit) => void exits.push(exit) },
    clock: { now: () => timer.now },
    timer,
    logger: silentLogger,
  });
  return { process, streams, exits, timer };
}

describe("a process", () => {
  it("keeps nobody who has gone", async () => {
    const { process } = idle();
    const gone = new AbortController();
    const stays = new AbortController();
    const lost = process.wait(gone.signal).catch((error: unknown) => error);
    const waiting = process.wait(stays.signal);
    expect(process.waiting).toBe(2);
    gone.abort();
    expect(await lost).toBeInstanceOf(Error);
    expect(process.waiting).toBe(1);
    await expect(process.wait(gone.signal)).rejects.toBeDefined();
    expect(process.waiting).toBe(1);
    process.finish(3);
    expect((await waiting).status).toBe(3);
    expect(process.waiting).toBe(0);
    // Also for those who have gone there is an answer once it has ended.
    expect((await process.wait(gone.signal)).status).toBe(3);
  });

  it("ends once", async () => {
    const { process, streams, exits } = idle();
    await process.open();
    await process.open();
    process.finish(1);
    process.finish(2);
    await process.dispose();
    expect(exits.map(({ status }) => status)).toEqual([1]);
    expect(process.exit?.status).toBe(1);
    expect((await process.over).status).toBe(1);
    expect(streams.closed).toBe(1);
  });

  it("has ended though its output is still read, and its streams are there until it is", async () => {
    const { process, streams, exits, timer } = idle();
    const guest = new FakeProcess(new FakePod(), "c1", {});
    guest.readers = false;
    await process.start(async () => guest as unknown as GuestProcess);
    process.killed();
    expect(guest.kills).toBe(1);
    guest.exit(137);
    await timer.pass(3_600_000);
    expect(exits.map(({ status }) => status)).toEqual([137]);
    expect(streams.closed).toBe(0);
    guest.copying.resolve();
    await settle();
    expect(streams.closed).toBe(1);
    expect(timer.pending).toBe(0);
  });

  it("drops what nobody reads when it is deleted", async () => {
    const { process, streams, timer } = idle();
    const guest = new FakeProcess(new FakePod(), "c1", {});
    guest.readers = false;
    await process.start(async () => guest as unknown as GuestProcess);
    guest.exit(0);
    await settle();
    const disposed = process.dispose();
    await timer.pass(1999);
    expect(streams.closed).toBe(0);
    await timer.pass(1);
    await disposed;
    expect(streams.closed).toBe(1);
    // Of one that runs nothing more is waited for.
    const other = idle();
    await other.process.start(async () => new FakeProcess(new FakePod(), "c1", {}) as unknown as GuestProcess);
    await other.process.dispose();
    expect(other.streams.closed).toBe(1);
  });

  it("is discarded without a word", async () => {
    const { process, streams, exits } = idle();
    await process.open();
    await process.discard();
    await settle();
    expect(streams.closed).toBe(1);
    expect(exits).toEqual([]);
  });
});
