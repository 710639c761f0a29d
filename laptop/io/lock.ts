import { open, readFile, rm } from "node:fs/promises";
import { messageOf } from "@sealpod/core";
import { IoError, systemCode } from "./errors.ts";

/** A lock that this process holds. */
export interface Lock extends AsyncDisposable {
  release(): Promise<void>;
}

/**
 * Takes a lock file: it is created exclusively and holds this process's id and start time. A file whose process is gone (also
 * when another process has its id now) is taken over. Locks hold between processes and within one; they do not wait.
 * @throws {IoError} ERR_IO_LOCKED with the holder's process id, ERR_IO_WRITE
 */
export async function lockFile(path: string): Promise<Lock> {
  const own = `${process.pid} ${await startTime(process.pid)}\n`;
  if (!(await createExclusive(path, own))) await takeOver(path, own);
  let held = true;
  const release = async (): Promise<void> => {
    if (!held) return;
    held = false;
    await rm(path, { force: true });
  };
  return { release, [Symbol.asyncDispose]: release };
}

/** Replaces the file of a dead process. A second lock guards this: without it, two could replace each other's new file. */
async function takeOver(path: string, own: string): Promise<void> {
  await refuseIfAlive(path);
  const guard = `${path}.takeover`;
  if (!(await createExclusive(guard, own))) {
    throw new IoError("ERR_IO_LOCKED", `${path} is being taken over by another process`, {
      hint: `Try again. If this stays, a process died just then: remove ${guard}.`,
    });
  }
  try {
    await refuseIfAlive(path);
    await rm(path, { force: true });
    if (!(await createExclusive(path, own))) throw new IoError("ERR_IO_LOCKED", `${path} was taken by another process`, { hint: "Try again." });
  } finally {
    await rm(guard, { force: true });
  }
}

async function refuseIfAlive(path: string): Promise<void> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    if (systemCode(cause) === "ENOENT") return;
    throw new IoError("ERR_IO_WRITE", `cannot read lock ${path}: ${messageOf(cause)}`, { cause });
  }
  const match = /^([1-9][0-9]{0,9}) ([0-9]+)\n$/.exec(text);
  // An empty file is one that its maker has not filled yet; what is in a strange file is not ours to remove.
  const isDead = match !== null && (await startTime(Number(match[1]))) !== match[2];
  if (isDead) return;
  throw new IoError("ERR_IO_LOCKED", match === null ? `${path} is not a lock of this program, or is being made` : `${path} is held by process ${match[1]}`, {
    details: { path, pid: match?.[1] },
    hint: match === null ? `If no sealpod process runs, remove ${path}.` : "Wait for that process to end, or stop it.",
  });
}

async function createExclusive(path: string, text: string): Promise<boolean> {
  try {
    await using file = await open(path, "wx", 0o600);
    await file.writeFile(text);
    return true;
  } catch (cause) {
    if (systemCode(cause) === "EEXIST") return false;
    throw new IoError("ERR_IO_WRITE", `cannot create lock ${path}: ${messageOf(cause)}`, { cause });
  }
}

/** Start time of a process in clock ticks since boot (proc(5), stat field 22), or undefined if there is none. */
async function startTime(pid: number): Promise<string | undefined> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  // The second field is the name in parentheses and may hold spaces and parentheses itself.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" ? undefined : fields[19];
}
