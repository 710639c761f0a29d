import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "@sealpod/core";
import { parseMessage, taskApi } from "@sealpod/proto";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { deleteResponse, deleteShim, type Leftovers } from "./delete.ts";
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
    record({ directory, netns: "/run/netns/n", processor: "/run/psp.sock", launch: "ab" });
    await call();
    expect(calls).toEqual(["machine /pod/vm", "network /run/netns/n", "launch ab of /run/psp.sock"]);
    expect(existsSync(directory)).toBe(false);
    expect(existsSync(join(bundle, RECORD_NAME))).toBe(false);
    await call();
    expect(calls).toHaveLength(3);
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
    };
    const args = { namespace: "ns", address: root, id: "abc", config: "/c", debug: false, bundle };
    await expect(deleteShim(args, failing, silentLogger)).rejects.toThrow("process 5 is still there; no ip");
    expect(readRecord(bundle)).toMatchObject({ directory });
    expect(existsSync(directory)).toBe(true);
    await call();
    expect(existsSync(directory)).toBe(false);
  });

  it("answers exit status 137 and the time", () => {
    const answer = parseMessage(taskApi.DeleteResponseSchema, deleteResponse({ now: () => 1_790_000_000_123 }));
    expect(answer).toMatchObject({ exitStatus: 137, exitedAt: { seconds: 1_790_000_000n, nanos: 123_000_000 } });
  });
});
