import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { OomScore, oomScoreOf } from "./pod-cgroup-score.ts";

describe("how readily the kernel ends a pod when memory is short", () => {
  let proc = "";
  let lines: string[] = [];
  const score = (): OomScore => new OomScore({ log: (level) => void lines.push(level) }, proc);
  const set = async (pid: string, value: string, children = ""): Promise<void> => {
    await mkdir(join(proc, pid, "task", pid), { recursive: true });
    await writeFile(join(proc, pid, "oom_score_adj"), value);
    await writeFile(join(proc, pid, "task", pid, "children"), children);
  };
  const get = (pid: string): Promise<number> => readFile(join(proc, pid, "oom_score_adj"), "utf8").then(Number);

  beforeEach(async () => {
    proc = await mkdtemp(join(tmpdir(), "proc-"));
    lines = [];
    await set("self", "-999\n");
    await set("7", "-999\n", "8 9 ");
    await set("8", "-999\n");
    await set("9", "-999\n", "10 11 ");
    await set("10", "-999\n");
    await set("11", "500\n");
  });
  afterEach(() => rm(proc, { recursive: true }));

  it("is what the first container says, and in the middle if it says nothing, but never less than the shim's", async () => {
    await score().begin(-998);
    expect(await get("self")).toBe(-998);
    await score().begin();
    expect(await get("self")).toBe(0);
    await score().begin(-500);
    expect(await get("self")).toBe(0);
  });

  it("is the least of the containers', for the shim, the machine and what is below it", async () => {
    const of = score();
    await of.begin(-998);
    await of.add(undefined, 7);
    expect(await get("7")).toBe(-999);
    await of.add(999, 7);
    expect(await Promise.all(["self", "7", "8", "9", "10"].map(get))).toEqual([999, 999, 999, 999, 999]);
    // A container's.
    expect(await get("11")).toBe(500);
    await of.add(1000, 7);
    expect(await get("7")).toBe(999);
    await of.add(2, 7);
    expect(await Promise.all(["self", "7", "8", "9"].map(get))).toEqual([2, 2, 2, 2]);
    await of.add(-1000, 7);
    expect(await get("self")).toBe(-999);
    expect(lines).toEqual([]);
  });

  it("stays where it may not be set", async () => {
    const of = score();
    await of.begin(-998);
    await of.add(5, 4711);
    expect([await get("self"), lines]).toEqual([5, ["debug"]]);
  });

  it.each([
    [{ process: { oomScoreAdj: -998 } }, -998],
    [{ process: { oomScoreAdj: 0 } }, 0],
    [{ process: {} }, undefined],
    [{}, undefined],
    [{ process: { oomScoreAdj: "5" } }, undefined],
    [{ process: { oomScoreAdj: 1001 } }, undefined],
    [{ process: { oomScoreAdj: 0.5 } }, undefined],
  ])("is in a specification: %j", (spec, expected) => expect(oomScoreOf(spec)).toBe(expected));
});
