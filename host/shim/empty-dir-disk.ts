import { open, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "@sealpod/core";
import { ShimError } from "./errors.ts";

/** Name of the file in the emptyDir: there the kubelet counts what it takes of the node's disk, and removes it with the pod. */
const DISK_NAME = ".sealpod-disk";

/** 16 GiB: the guest's kernel writes a 64th of a disk's size to prepare its file system, whether or not anything else is ever written. */
const MAX_DISK: number = 16 * 1024 * 1024 * 1024;

/** A file system of less has no room for files. */
const MIN_DISK: number = 16 * 1024 * 1024;

const MIB = 1024 * 1024;

/**
 * Makes an empty file for the disk of an emptyDir. It takes no room until the guest writes, and what the guest writes is encrypted. The file of an
 * earlier machine of the same pod is removed: its key went with that machine.
 * @returns its path
 * @throws {ShimError} ERR_SHIM_POD
 */
export async function makeEmptyDirDisk(emptyDir: string): Promise<string> {
  const path = join(emptyDir, DISK_NAME);
  try {
    const { bavail, bsize } = await statfs(emptyDir);
    const size = Math.floor(Math.min(MAX_DISK, bavail * bsize) / MIB) * MIB;
    if (size < MIN_DISK) throw new Error(`its file system has ${bavail * bsize} bytes left, expected ${MIN_DISK}`);
    await rm(path, { force: true });
    await using file = await open(path, "wx", 0o600);
    await file.truncate(size);
    return path;
  } catch (cause) {
    throw new ShimError("ERR_SHIM_POD", `emptyDir ${emptyDir}: no disk can be made for it: ${messageOf(cause)}`, { cause });
  }
}

/** Removes the file, if it is there. */
export async function removeEmptyDirDisk(path: string): Promise<void> {
  await rm(path, { force: true });
}
