import { encodeUtf8, toHex } from "@sealpod/core";
import { LAYER_SALT_LENGTH, VERITY_BLOCK, verifiedDataBlocks } from "@sealpod/verity";
import type { Disk } from "./block-devices.ts";
import type { DeviceMapper } from "./device-mapper.ts";
import { openDisk } from "./disk-source.ts";

const SECTOR = 512;

/**
 * Opens the image of a layer file through dm-verity, read-only: the kernel checks each block against the root hash when it is read, and answers EIO if it
 * is another (specs/runtime.md 4.10 A). Where the data ends is checked here, for the kernel takes the number that it is told.
 * @param undo gets what removes the device
 * @throws {VerityError} ERR_VERITY_LAYOUT if the disk has not the shape that its trailer states, ERR_VERITY_CORRUPT if its tree is none of the root hash
 * @throws {AgentError} ERR_AGENT_COMMAND, ERR_AGENT_STORAGE
 */
export async function openVerityDevice(disk: Disk, rootHash: Uint8Array, name: string, mapper: DeviceMapper, undo: AsyncDisposableStack): Promise<Disk> {
  using source = openDisk(disk);
  const dataBlocks = await verifiedDataBlocks(source, rootHash);
  const size = dataBlocks * VERITY_BLOCK;
  const path = await mapper.create(name, encodeUtf8(verityTable(disk.path, dataBlocks, rootHash)), "read-only");
  undo.defer(() => mapper.remove(name));
  return { path, size };
}

/**
 * The table of a layer: the tree begins behind the data, the salt is zeros. There is no option for errors, so that they are EIO for who reads the block:
 * the pod goes on, and with it the report of what happened; other options would ignore errors or let the host end the guest.
 */
export function verityTable(path: string, dataBlocks: number, rootHash: Uint8Array): string {
  const sectors = (dataBlocks * VERITY_BLOCK) / SECTOR;
  const salt = "00".repeat(LAYER_SALT_LENGTH);
  return `0 ${sectors} verity 1 ${path} ${path} ${VERITY_BLOCK} ${VERITY_BLOCK} ${dataBlocks} ${dataBlocks} sha256 ${toHex(rootHash)} ${salt}\n`;
}
