import { mkdir, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { messageOf } from "@sealpod/core";
import { IoError, systemCode } from "./errors.ts";

/**
 * Makes a directory, and those above it that are missing; one that is there stays as it is.
 *
 * `mkdir` of Node with `recursive` takes ENOENT for "a directory above is missing" and begins again above, for ever where the directory above is there: /proc answers
 * so. This one looks for the first directory that is there on the way up, and makes each below it once on the way down.
 * @param mode permission bits of each directory that is made, less those of the umask
 * @throws {IoError} ERR_IO_WRITE
 */
export async function makeDirectory(path: string, mode: number): Promise<void> {
  const missing: string[] = [];
  let at = resolve(path);
  // Ends at the root at the latest: that is there, and is its own parent.
  while (!(await isDirectory(at, path)) && dirname(at) !== at) {
    missing.push(at);
    at = dirname(at);
  }
  for (const directory of missing.toReversed()) {
    try {
      await mkdir(directory, { mode });
    } catch (cause) {
      // Another process may have been faster. A link that leads nowhere is EEXIST too.
      if (systemCode(cause) === "EEXIST" && (await isDirectory(directory, path))) continue;
      const problem = systemCode(cause) === "ENOENT" ? `${dirname(directory)} takes no new directories` : messageOf(cause);
      throw failure(path, problem, cause);
    }
  }
}

/** Whether it is there. What is there and is no directory is in the way of all below. */
async function isDirectory(at: string, path: string): Promise<boolean> {
  let found: boolean;
  try {
    found = (await stat(at)).isDirectory();
  } catch (cause) {
    const code = systemCode(cause);
    // ENOTDIR is about something above, which is looked at next.
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw failure(path, messageOf(cause), cause);
  }
  if (!found) throw failure(path, `${at} is there and is no directory`);
  return true;
}

function failure(path: string, problem: string, cause?: unknown): IoError {
  return new IoError("ERR_IO_WRITE", `cannot make the directory ${path}: ${problem}`, { cause, hint: "Name a directory that you may write to." });
}
