import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@sealpod/core";
import { parseMessage, taskApi } from "@sealpod/proto";
import { startTimeOf } from "@sealpod/vmm";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { cleanUp, Deadline, deleteResponse, deleteShim, type Leftovers, sweepLeft } from "./delete.ts";
import { type PodRecord, readRecord, RECORD_NAME, writeRecord } from "./record.ts";

/** A process id that no kernel gives. */
const NOBODY = 2 ** 30;

describe("delete", () => {
  let root = "";
  let bundle = "";
  let directory = "";
  let calls: string[] = [];
  const leftovers: Leftovers = {
    machine: async (path) => void calls.push(`machine ${path.slice(root.length)}`),
    network: async (path) => void calls.push(`network ${path}`),
    launch: async (processor, launch) => void calls.push(`launch ${launch} of ${processor}`),
    cgroup: async (path) => void calls.push(`cgroup ${path}`),
  };
  const call = (id = "abc"): Promise<void> => deleteShim({ namespace: "ns", address: root, id, config: "/c", debug: false, bundle }, leftovers, silentLogger);
  const record = (more: Partial<PodRecord> = {}): void =>
    writeRecord(bundle, { version: 1, namespace: "ns", id: "abc", pid: NOBODY, startTime: "1", bundle, ...more });

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "delete-"));
    bundle = join(root, "bundle");
    directory = join(root, "pod");
    mkdirSync(bundle);
    mkdirSync(join(directory, "vm"), { recursive: true });
    calls = [];
  });
  afterEach(() => rmSync(root, { recursive: true }));

  it("cleans up what the record says", async () => {
    record({ directory, netns: "/run/netns/n", processor: "/run/psp.sock", launch: "ab", cgroup: "/sys/c" });
    await call();
    expect(calls).toEqual(["machine /pod/vm", "network /run/netns/n", "launch ab of /run/psp.sock", "cgroup /sys/c"]);
    expect(existsSync(directory)).toBe(false);
    expect(existsSync(join(bundle, RECORD_NAME))).toBe(false);
    await call();
    expect(calls).toHaveLength(4);
  });

  it("has nothing to clean up before there is a pod", async () => {
    record();
    await call();
    expect(calls).toEqual([]);
    expect(readRecord(bundle)).toBeUndefined();
  });

  it("leaves alone what is another's", async () => {
    record({ directory });
    await call("other");
    record({ directory, namespace: "another" });
    await call();
    expect(calls).toEqual([]);
    expect(existsSync(directory)).toBe(true);
  });

  it("does nothing without a record", async () => {
    await call();
    expect(calls).toEqual([]);
  });

  it("tries everything, says all that failed, and keeps the record for another attempt", async () => {
    record({ directory, netns: "/run/netns/n" });
    const failing: Leftovers = {
      machine: () => Promise.reject(new Error("process 5 is still there")),
      network: () => Promise.reject(new Error("no ip")),
      launch: () => Promise.reject(new Error("never asked")),
      cgroup: () => Promise.reject(new Error("never asked")),
    };
    const args = { namespace: "ns", address: root, id: "abc", config: "/c", debug: false, bundle };
    await expect(deleteShim(args, failing, silentLogger)).rejects.toThrow("process 5 is still there; no ip");
    expect(readRecord(bundle)).toMatchObject({ directory });
    expect(existsSync(directory)).toBe(true);
    await call();
    expect(existsSync(directory)).toBe(false);
  });

  it("has one deadline for all of it, and a machine that does not end holds up nothing else", async () => {
    const limits: number[] = [];
    let now = 0;
    const slow: Leftovers = {
      machine: (_, limitMs) => {
        limits.push(limitMs);
        now += limitMs;
        return Promise.reject(new Error("process 5 is still there"));
      },
      network: async (_, limitMs) => void limits.push(limitMs),
      launch: async (_, __, limitMs) => void limits.push(limitMs),
      cgroup: async (_, limitMs) => void limits.push(limitMs),
    };
    const all: PodRecord = {
      version: 1,
      namespace: "ns",
      id: "abc",
      pid: NOBODY,
      startTime: "1",
      bundle,
      directory,
      netns: "/n",
      processor: "/p",
      launch: "ab",
      cgroup: "/c",
    };
    await expect(cleanUp(all, slow, new Deadline(3900, () => now))).rejects.toThrow("process 5 is still there");
    const [machine = 0, ...others] = limits;
    expect(machine).toBeGreaterThan(2000);
    expect(others).toEqual([3900 - machine, 3900 - machine, 3900 - machine]);
    // What comes too late is tried all the same.
    limits.length = 0;
    await expect(cleanUp(all, slow, new Deadline(3900, () => 5000))).rejects.toThrow();
    expect(limits).toEqual([1, 1, 1, 1]);
  });

  it("does not wait for what does not keep to it", async () => {
    record({ directory, netns: "/run/netns/n" });
    const stuck: Leftovers = { ...leftovers, machine: () => new Promise(() => undefined) };
    const args = { namespace: "ns", address: root, id: "abc", config: "/c", debug: false, bundle };
    await expect(deleteShim(args, stuck, silentLogger, Deadline.in(1050))).rejects.toThrow(/the end of the machine takes longer than/);
    expect(calls).toEqual(["network /run/netns/n"]);
    expect(readRecord(bundle)).toMatchObject({ directory });
  });

  it("answers exit status 137 and the time", () => {
    const answer = parseMessage(taskApi.DeleteResponseSchema, deleteResponse({ now: () => 1_790_000_000_123 }));
    expect(answer).toMatchObject({ exitStatus: 137, exitedAt: { seconds: 1_790_000_000n, nanos: 123_000_000 } });
  });
});

describe("a sweep over the pods of a node", () => {
  let root = "";
  let calls: string[] = [];
  const leftovers: Leftovers = {
    machine: async (path) => void calls.push(`machine ${path.slice(root.length)}`),
    network: async (path) => void calls.push(`network ${path}`),
    launch: async (processor, launch) => void calls.push(`launch ${launch} of ${processor}`),
    cgroup: async (path) => void calls.push(`cgroup ${path}`),
  };
  const sweep = (over: Partial<Leftovers> = {}): Promise<readonly string[]> => sweepLeft(root, { ...leftovers, ...over }, silentLogger);
  const key = (digit: string): string => digit.repeat(32);
  const pod = (name: string, more: Partial<PodRecord> = {}): void => {
    mkdirSync(join(root, name, "vm"), { recursive: true });
    const directory = join(root, name);
    writeRecord(directory, { version: 1, namespace: "ns", id: name, pid: NOBODY, startTime: "1", bundle: "/nowhere", directory, netns: "/n", ...more });
  };

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "sweep-"));
    calls = [];
  });
  afterEach(() => rmSync(root, { recursive: true }));

  it("cleans up after those whose shim is dead and whose bundle is gone", async () => {
    pod(key("a"));
    expect(await sweep()).toEqual([key("a")]);
    expect(calls).toEqual([`machine /${key("a")}.left/vm`, "network /n"]);
    expect(readdirSync(root)).toEqual([]);
    expect(await sweep()).toEqual([]);
  });

  it("leaves alone what lives, what containerd will ask about, and what is no pod", async () => {
    pod(key("a"), { pid: process.pid, startTime: startTimeOf(process.pid) ?? "" });
    pod(key("b"), { bundle: root });
    pod("other");
    mkdirSync(join(root, key("c")));
    expect(await sweep()).toEqual([]);
    expect(calls).toEqual([]);
    expect(readdirSync(root)).toHaveLength(4);
    expect(await sweepLeft(join(root, "absent"), leftovers, silentLogger)).toEqual([]);
  });

  it("comes back to what could not be cleaned up, and goes on with the others", async () => {
    pod(key("a"));
    pod(key("b"));
    const failing = (path: string): Promise<void> => (path.includes(key("a")) ? Promise.reject(new Error("still there")) : Promise.resolve());
    expect(await sweep({ machine: failing })).toEqual([key("a"), key("b")]);
    expect(readdirSync(root)).toEqual([`${key("a")}.left`]);
    // A new shim of the same id has its directory, and neither is in the other's way.
    pod(key("a"), { pid: process.pid, startTime: startTimeOf(process.pid) ?? "" });
    expect(await sweep()).toEqual([key("a")]);
    expect(readdirSync(root)).toEqual([key("a")]);
  });

  it("is bounded", async () => {
    for (let i = 0; i < 20; i++) pod(i.toString(16).padStart(32, "0"));
    expect(await sweep()).toHaveLength(16);
    expect(await sweep()).toHaveLength(4);
  });
});
