import { chmodSync, chownSync, closeSync, constants, fstatSync, lchownSync, openSync, readdirSync } from "node:fs";
import { type FSGroup, FSGroupChangePolicy } from "@sealpod/proto";
import { ConfinedDirectory } from "./confined-directory.ts";

/** What a group gets on files and, besides, on directories (specs/runtime.md 2.10): what is made in them belongs to it too. */
const FILE_BITS = 0o660;
const DIRECTORY_BITS = 0o2110;

/** Linux's O_PATH, which node:fs has no name for: a handle on the entry itself, be it a link, a pipe or a device, which is not opened. */
const O_PATH = 0o10000000;

/**
 * Gives a volume, and all that is in it, to a group. No symbolic link is followed: what one leads to need not be in the volume.
 * @throws {AgentError} ERR_AGENT_PATH if a directory is swapped for something else meanwhile
 */
export function giveToFsGroup(root: ConfinedDirectory, { groupId, groupChangePolicy }: FSGroup): void {
  if (groupChangePolicy === FSGroupChangePolicy.OnRootMismatch && isRight(root, groupId)) return;
  // By paths from the root on, so that no more than two directories are open at a time however deep the volume is.
  const pending: (readonly string[])[] = [[]];
  for (let path = pending.pop(); path !== undefined; path = pending.pop()) {
    using directory = root.descend(path);
    for (const name of readdirSync(directory.self())) {
      const kind = give(directory.entry(name), groupId);
      if (kind === "directory") pending.push([...path, name]);
    }
  }
  // The root last: it says that all of it is done.
  give(root.self(), groupId);
}

function isRight(root: ConfinedDirectory, group: number): boolean {
  const fd = openSync(root.self(), O_PATH | constants.O_DIRECTORY);
  try {
    const { gid, mode } = fstatSync(fd);
    return gid === group && (mode & (FILE_BITS | DIRECTORY_BITS)) === (FILE_BITS | DIRECTORY_BITS);
  } finally {
    closeSync(fd);
  }
}

/** Gives one entry to a group, and tells what it is. */
function give(path: string, group: number): "directory" | "other" {
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW);
  try {
    const stat = fstatSync(fd);
    if (stat.isSymbolicLink()) {
      lchownSync(path, stat.uid, group);
      return "other";
    }
    const self = `/proc/self/fd/${fd}`;
    chownSync(self, stat.uid, group);
    // After the change of owner, which takes set-id bits away.
    chmodSync(self, (stat.mode & 0o7777) | FILE_BITS | (stat.isDirectory() ? DIRECTORY_BITS : 0));
    return stat.isDirectory() ? "directory" : "other";
  } finally {
    closeSync(fd);
  }
}
