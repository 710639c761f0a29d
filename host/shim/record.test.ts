import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startTimeOf } from "@sealpod/vmm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type PodRecord, readRecord, RECORD_NAME, removeRecord, shimRuns, writeRecord, writeWhole } from "./record.ts";

const RECORD: PodRecord = {
  version: 1,
  namespace: "k8s.io",
  id: "abc",
  pid: 4242,
  startTime: "12",
  bundle: "/b",
  directory: "/run/d",
  netns: "/run/netns/n",
  cgroup: "/c",
};

describe("the record of a shim", () => {
  let directory = "";
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "record-"));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it("is read as it was written, and is for root alone", () => {
    writeRecord(directory, RECORD);
    expect(readRecord(directory)).toEqual(RECORD);
    expect(statSync(join(directory, RECORD_NAME)).mode & 0o777).toBe(0o600);
    const { directory: _, netns: __, ...first } = RECORD;
    writeRecord(directory, first);
    expect(readRecord(directory)).toEqual(first);
  });

  it("says where it cannot be written, and leaves no half of it", () => {
    // What can be written to, but not take the name: a directory is there.
    mkdirSync(join(directory, "address", "full"), { recursive: true });
    expect(() => writeWhole(directory, "address", "unix:///a")).toThrow(`cannot write ${directory}/address: E`);
    expect(readdirSync(directory)).toEqual(["address"]);
    expect(() => writeRecord(join(directory, "gone"), RECORD)).toThrow(/cannot write .*gone\/shim\.json: ENOENT/);
  });

  it("leaves nothing but itself, and nothing when it is removed", () => {
    writeRecord(directory, RECORD);
    writeWhole(directory, "address", "unix:///a");
    writeWhole(directory, "shim.pid", "1");
    expect(readdirSync(directory).sort()).toEqual(["address", RECORD_NAME, "shim.pid"]);
    expect(readFileSync(join(directory, "address"), "utf8")).toBe("unix:///a");
    removeRecord(directory);
    removeRecord(directory);
    expect(readdirSync(directory)).toEqual([]);
  });

  it.each([
    ["", "nothing"],
    ["{", "half of one"],
    ["null", "no object"],
    [JSON.stringify({ ...RECORD, version: 2 }), "another version"],
    [JSON.stringify({ ...RECORD, pid: "4242" }), "a process id that is a text"],
    [JSON.stringify({ ...RECORD, pid: 1 }), "the first process"],
    [JSON.stringify({ ...RECORD, pid: -4242 }), "a process group"],
    [JSON.stringify({ ...RECORD, pid: 42.5 }), "half a process"],
    [JSON.stringify({ ...RECORD, startTime: undefined }), "no time"],
    [JSON.stringify({ ...RECORD, directory: "d" }), "a relative directory"],
    [JSON.stringify({ ...RECORD, netns: 5 }), "a namespace that is no path"],
    [JSON.stringify({ ...RECORD, cgroup: "c" }), "a cgroup that is no path"],
    [JSON.stringify({ ...RECORD, directory: `/${"x".repeat(70_000)}` }), "a path longer than any"],
  ])("is none if the file is %j", (text) => {
    writeFileSync(join(directory, RECORD_NAME), text);
    expect(readRecord(directory)).toBeUndefined();
  });

  it("is none without a file", () => expect(readRecord(directory)).toBeUndefined());
});

describe("a process", () => {
  it("is known by the time of its start", () => {
    const startTime = startTimeOf(process.pid);
    expect(startTime).toMatch(/^[0-9]+$/);
    expect(startTimeOf("self")).toBe(startTime);
    expect(shimRuns({ ...RECORD, pid: process.pid, startTime: startTime ?? "" })).toBe(true);
    // One that got its id later.
    expect(shimRuns({ ...RECORD, pid: process.pid, startTime: "1" })).toBe(false);
  });

  it("that is not there has none", () => {
    expect(startTimeOf(2 ** 30)).toBeUndefined();
    expect(shimRuns({ ...RECORD, pid: 2 ** 30 })).toBe(false);
  });
});
