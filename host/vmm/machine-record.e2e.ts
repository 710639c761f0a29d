import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cleanUpMachine } from "./index.ts";
import { recordProcess } from "./machine-record.ts";

let root = "";

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "sealpod-record-"));
});

afterAll(async () => {
  await rm(root, { recursive: true });
});

describe("what is left of a machine", () => {
  it("is ended and removed", async () => {
    const directory = join(root, "left");
    await mkdir(directory);
    const children = [1, 2].map(() => spawn("sleep", ["600"], { stdio: "ignore" }));
    for (const { pid = 0 } of children) recordProcess(directory, pid);
    const ended = children.map((child) => once(child, "exit"));
    await cleanUpMachine(directory);
    expect((await Promise.all(ended)).map(([, signal]) => signal as string)).toEqual(["SIGKILL", "SIGKILL"]);
    expect(existsSync(directory)).toBe(false);
    await cleanUpMachine(directory);
  });

  it("is not a process that has got the id of another since", async () => {
    const directory = join(root, "reused");
    await mkdir(directory);
    const child = spawn("sleep", ["600"], { stdio: "ignore" });
    try {
      recordProcess(directory, child.pid ?? 0);
      const record = join(directory, "processes", String(child.pid));
      await writeFile(record, `${Number(await readFile(record, "latin1")) - 1}`);
      await cleanUpMachine(directory);
      expect(existsSync(directory)).toBe(false);
      expect((await readFile(`/proc/${child.pid}/stat`, "latin1")).includes(" Z ")).toBe(false);
    } finally {
      child.kill("SIGKILL");
    }
  });

  it("is nobody where the records are anything else", async () => {
    const directory = join(root, "strange");
    const children = [1, 2, 3].map(() => spawn("sleep", ["600"], { stdio: "ignore" }));
    try {
      const [first, second, third] = children.map(({ pid }) => String(pid));
      await mkdir(join(directory, "processes", first ?? ""), { recursive: true });
      await writeFile(join(directory, "processes", second ?? ""), "");
      await writeFile(join(directory, "processes", `${third} `), "");
      await writeFile(join(directory, "processes", "self"), "");
      await cleanUpMachine(directory);
      expect(existsSync(directory)).toBe(false);
      for (const child of children) expect([child.exitCode, child.signalCode]).toEqual([null, null]);
      for (const { pid } of children) expect((await readFile(`/proc/${pid}/stat`, "latin1")).includes(" Z ")).toBe(false);
    } finally {
      for (const child of children) child.kill("SIGKILL");
    }
  });

  it("has no record of a program that could not be started", async () => {
    const directory = join(root, "none");
    await mkdir(directory);
    recordProcess(directory, 0);
    expect(await readdir(directory)).toEqual([]);
  });
});
