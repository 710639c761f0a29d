import { randomBytes } from "node:crypto";
import { chmodSync, rmdirSync } from "node:fs";
import { encodeUtf8 } from "@sealpod/core";
import type { Disk } from "./block-devices.ts";
import { ConfinedDirectory } from "./confined-directory.ts";
import type { DeviceMapper } from "./device-mapper.ts";
import { AgentError } from "./errors.ts";

/** AES-256 in XTS mode has two keys. */
const KEY_DIGITS = 2 * 2 * 32;
const CIPHER = "aes-xts-plain64";
/** Bytes that are encrypted as one, and of the file system's blocks: a change of one byte shows no finer than this. */
const SECTOR = 4096;
/** What device mapper counts in. */
const UNIT = 512;
/** Smallest disk that ext4 is made on: below 2 MiB there is no room for files. */
const MIN_SIZE = 2 * 1024 * 1024;

/** Mode of an empty volume, as the kubelet makes it. */
const VOLUME_MODE = 0o777;

/**
 * Makes a disk of the host into scratch space that only this guest can read: dm-crypt with a random key, and a new ext4 on it.
 *
 * Plain dm-crypt, not LUKS: there is nothing to find again after the guest is gone, and a header would lie on the host's disk, where the host
 * could put another cipher into it between the moment it is written and the moment it is read. Without a header all that the guest takes from the disk
 * is sectors. It does not authenticate them: whoever changes one makes 16 bytes and more of noise of it, or can bring an old one back. Tags beside the
 * sectors (dm-integrity) would tell noise but not the old sector, have a header of their own on the disk, and need every sector written before use.
 *
 * The key goes to the kernel through a pipe to dmsetup(8) and is nowhere else; it is not kept, so the data end with the device.
 * @param undo gets what removes the device
 * @returns path of the device with the file system
 * @throws {AgentError} ERR_AGENT_COMMAND, ERR_AGENT_STORAGE
 */
export async function makeScratch(disk: Disk, name: string, mapper: DeviceMapper, undo: AsyncDisposableStack): Promise<string> {
  if (disk.size < MIN_SIZE) throw new AgentError("ERR_AGENT_STORAGE", `a disk of ${disk.size} bytes is too small for a volume, expected ${MIN_SIZE} or more`);
  await mapper.loadScratchModules();
  const table = scratchTable(disk);
  let path: string;
  try {
    path = await mapper.create(name, table, "read-write");
  } finally {
    table.fill(0);
  }
  undo.defer(() => mapper.remove(name));
  await mapper.format(path);
  return path;
}

/** Makes the root of a new file system what an empty volume is. */
export function emptyVolume(mountPoint: string): void {
  using root = ConfinedDirectory.open(mountPoint);
  // Made by mkfs; programs that want an empty directory (initdb) do not start with it.
  if (root.stat("lost+found")?.isDirectory() === true) rmdirSync(root.entry("lost+found"));
  chmodSync(root.self(), VOLUME_MODE);
}

/** The table with a new key, as bytes: a text would stay in memory for as long as the collector likes. */
function scratchTable({ path, size }: Disk): Uint8Array {
  const sectors = (Math.floor(size / SECTOR) * SECTOR) / UNIT;
  const key = randomBytes(KEY_DIGITS);
  // Half of each random byte makes one digit.
  for (const [index, byte] of key.entries()) key[index] = (byte & 15) < 10 ? 0x30 + (byte & 15) : 0x57 + (byte & 15);
  const [before, after] = [encodeUtf8(`0 ${sectors} crypt ${CIPHER} `), encodeUtf8(` 0 ${path} 0 1 sector_size:${SECTOR}\n`)];
  const table = new Uint8Array(before.length + key.length + after.length);
  table.set(before);
  table.set(key, before.length);
  table.set(after, before.length + key.length);
  key.fill(0);
  return table;
}
