import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { link, open, readFile, realpath, rename, rm, stat } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "@sealpod/core";
import { GenpolicyError } from "../errors.ts";
import type { CacheStore } from "../layer-cache.ts";

/** Milliseconds between two looks at a lock that another process holds, and until we give up: an update takes some 10. */
const RETRY = 20;
const GIVE_UP = 10_000;

/** Milliseconds after which a lock is left over, whoever made it: the machine went down, or its process id has a new owner. */
const STALE = 60_000;

/** Options of {@link fileCacheStore}; for tests. */
export interface FileCacheStoreOptions {
  /** Milliseconds that another process's lock is waited for. */
  readonly giveUp?: number;
}

/** A cache store in a file of this machine. Its lock stands beside it: `NAME.lock` with the owner's process id. */
export function fileCacheStore(path: string, { giveUp = GIVE_UP }: FileCacheStoreOptions = {}): CacheStore {
  return {
    read: async (limit) => readWithin(path, limit),
    async update(limit, change) {
      // Behind a symbolic link: the file, not the link, is replaced.
      const file = await realpath(path).catch(() => path);
      const lock = await acquire(`${file}.lock`, giveUp);
      try {
        const after = change(await readWithin(file, limit));
        if (after !== undefined) await replace(file, after);
      } finally {
        await lock.release();
      }
    },
  };
}

async function readWithin(path: string, limit: number): Promise<Uint8Array | undefined> {
  try {
    // Without waiting: the path of a pipe or a terminal would keep us until somebody writes there.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    const info = await file.stat();
    if (!info.isFile()) throw new GenpolicyError("ERR_GENPOLICY_FILE", `${path} is no file`, { details: { path } });
    if (info.size > limit)
      throw new GenpolicyError("ERR_GENPOLICY_FILE", `${path} has ${info.size} bytes, more than the limit of ${limit}`, { details: { path } });
    return new Uint8Array(await file.readFile());
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Written beside and renamed: readers see the old file or the new one. */
async function replace(path: string, bytes: Uint8Array): Promise<void> {
  const beside = besideOf(path);
  try {
    await using file = await open(beside, "wx", 0o644);
    await file.writeFile(bytes);
    await file.sync();
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
  try {
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
}

/** A name in the same directory that nobody can foresee. */
function besideOf(path: string): string {
  return join(dirname(path), `.${basename(path)}.${randomBytes(8).toString("hex")}.tmp`);
}

/** Takes the lock file; waits for another process that holds it, and takes it away from one that is gone. */
async function acquire(path: string, giveUp: number): Promise<{ release(): Promise<void> }> {
  const own = `${process.pid} ${randomBytes(8).toString("hex")} ${hostname()}\n`;
  const end = Date.now() + giveUp;
  while (!(await createWhole(path, own))) {
    await removeIfStale(path, own);
    if (Date.now() > end) {
      throw new GenpolicyError("ERR_GENPOLICY_FILE", `${path} is held by another process`, {
        details: { path },
        hint: `Wait for that process to end; if none runs, remove ${path}.`,
      });
    }
    await sleep(RETRY);
  }
  return {
    async release() {
      if ((await readOwner(path)) === own) await rm(path, { force: true });
    },
  };
}

/** Creates a file with its content at once, so that nobody sees it empty. @returns false if there is one */
async function createWhole(path: string, text: string): Promise<boolean> {
  const beside = besideOf(path);
  try {
    {
      await using file = await open(beside, "wx", 0o644);
      await file.writeFile(text);
    }
    await link(beside, path);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw new GenpolicyError("ERR_GENPOLICY_FILE", `cannot create the lock ${path}: ${messageOf(error)}`, { cause: error, details: { path } });
  } finally {
    await rm(beside, { force: true });
  }
}

/**
 * Removes a lock whose owner is gone. Another lock guards this: two processes that both saw the dead one could else remove
 * the living one that came after it.
 */
async function removeIfStale(path: string, own: string): Promise<void> {
  if (!(await isStale(path))) return;
  const guard = `${path}.takeover`;
  if (!(await createWhole(guard, own))) {
    // Its owner died within these few lines. That is rare enough to go by age alone.
    if (await isOld(guard)) await rm(guard, { force: true });
    return;
  }
  try {
    if (await isStale(path)) await rm(path, { force: true });
  } finally {
    await rm(guard, { force: true });
  }
}

async function isStale(path: string): Promise<boolean> {
  const owner = await readOwner(path);
  if (owner === undefined) return false;
  const match = /^([1-9][0-9]{0,9}) [0-9a-f]+ (.*)\n$/.exec(owner);
  // Process ids of other machines (on a shared file system) mean nothing here.
  if (match !== null && match[2] === hostname() && !isAlive(Number(match[1]))) return true;
  return isOld(path);
}

async function readOwner(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return undefined;
  }
}

async function isOld(path: string): Promise<boolean> {
  try {
    return Date.now() - (await stat(path)).mtimeMs > STALE;
  } catch {
    return false;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === "EPERM";
  }
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}
