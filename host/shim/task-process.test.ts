import { silentLogger } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { TaskProcess, type ProcessExit } from "./task-process.ts";
import { FakeStreams, ManualTimer, settle } from "./testdata/task-world.ts";

function idle(): { readonly process: TaskProcess; readonly streams: FakeStreams; readonly exits: ProcessExit[] } {
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
  return { process, streams, exits };
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

  it("is discarded without a word", async () => {
    const { process, streams, exits } = idle();
    await process.open();
    await process.discard();
    await settle();
    expect(streams.closed).toBe(1);
    expect(exits).toEqual([]);
  });
});
