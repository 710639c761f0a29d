import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { asObject, DEFAULT_JSON_LIMITS, type JsonValue, messageOf, parseJson } from "@sealpod/core";
import { startTimeOf } from "@sealpod/vmm";
import { ShimError } from "./errors.ts";

/** Name of the record in a bundle, and in a pod's directory. */
export const RECORD_NAME = "shim.json";

/** Paths and names, of which the longest path has 4096 bytes. */
const RECORD_LIMITS = { ...DEFAULT_JSON_LIMITS, maxLength: 64 * 1024, maxDepth: 2 };

/**
 * What `delete` needs to know of a shim that no longer answers: written before anything is made that would outlive it. One is in the bundle, where
 * containerd's call finds it whatever configuration the pod had; a copy is in the pod's directory, for people and for bundles that are gone.
 */
export interface PodRecord {
  readonly version: 1;
  readonly namespace: string;
  readonly id: string;
  /** Process id of the shim. */
  readonly pid: number;
  /** When the kernel started that process, in its own ticks since it was booted: two processes of one id differ in it. */
  readonly startTime: string;
  /** Absolute path. */
  readonly bundle: string;
  /** Absolute path of the directory of the pod's machine and files, from the moment in which it may exist. */
  readonly directory?: string;
  /** Path of the pod's network namespace, if taps may be in it. */
  readonly netns?: string;
  /** Path of the cgroup that the shim made for itself, from the moment in which it may exist. */
  readonly cgroup?: string;
  /** Socket of the emulated security processor, and its name of the pod's launch, from the moment in which it has one. */
  readonly processor?: string;
  readonly launch?: string;
}

/** Writes a record into a directory, whole or not at all. */
export function writeRecord(directory: string, record: PodRecord): void {
  writeWhole(directory, RECORD_NAME, `${JSON.stringify(record)}\n`);
}

/**
 * Writes a file such that a reader sees all of the old one or all of the new one.
 * @throws {ShimError} ERR_SHIM_POD if it cannot be written, e.g. to a full disk
 */
export function writeWhole(directory: string, name: string, text: string): void {
  const temporary = join(directory, `.${name}`);
  const path = join(directory, name);
  try {
    writeFileSync(temporary, text, { mode: 0o600 });
    renameSync(temporary, path);
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw new ShimError("ERR_SHIM_POD", `cannot write ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** The record in a directory; undefined without one, or if it is not one that this version of the shim writes. */
export function readRecord(directory: string): PodRecord | undefined {
  try {
    const value = parseJson(readFileSync(join(directory, RECORD_NAME), "utf8"), RECORD_NAME, RECORD_LIMITS);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Removes what a shim puts into a bundle. */
export function removeRecord(directory: string): void {
  for (const name of [RECORD_NAME, "address", "shim.pid"]) rmSync(join(directory, name), { force: true });
}

/** Whether the shim of a record still runs. */
export function shimRuns(record: PodRecord): boolean {
  return startTimeOf(record.pid) === record.startTime;
}

function isRecord(value: JsonValue): value is JsonValue & PodRecord {
  const record = asObject(value);
  if (record === undefined) return false;
  const { version, pid, directory, netns, cgroup, processor, launch } = record;
  const texts = [record["namespace"], record["id"], record["startTime"], launch ?? ""];
  const paths = [record["bundle"], directory ?? "/", netns ?? "/", cgroup ?? "/", processor ?? "/"];
  return (
    version === 1 &&
    typeof pid === "number" &&
    Number.isSafeInteger(pid) &&
    pid > 1 &&
    texts.every((text) => typeof text === "string") &&
    paths.every((path) => typeof path === "string" && path.startsWith("/"))
  );
}
