import { isSealpodError, messageOf } from "@sealpod/core";
import { MAX_HEADERS_LENGTH, parseHeader } from "@sealpod/luks2";
import type { Device } from "./block-cache.ts";
import { EncfsError } from "./errors.ts";

/** Bytes before the data of a volume; cryptsetup leaves 16 MiB. */
const MAX_HEADER = 64 * 1024 * 1024;

/**
 * Reads the header of an image, with its keyslots, once, and checks that it says what an encrypted filesystem is: AES-XTS over all of it. The host serves the image, and a
 * header is not authenticated: one that names a null cipher opens with the right key, and has files of the host's choice mounted and ours written in the clear.
 * @returns the bytes before the data, for `cryptsetup --header`
 * @throws {EncfsError} ERR_ENCFS_MOUNT, ERR_ENCFS_BLOB
 */
export async function readHeader(device: Device): Promise<Uint8Array> {
  const start = await device.read(0, Math.min(device.length, MAX_HEADERS_LENGTH));
  let offset: number;
  try {
    offset = parseHeader(start).segment.offset;
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw refused(messageOf(cause), cause);
  }
  if (offset > MAX_HEADER || offset > device.length) throw refused(`its data start at ${offset}, and the image has ${device.length} bytes`);
  const header = await device.read(0, offset);
  // The host may have given something else this time: what was checked has to be what is used.
  header.set(start.subarray(0, Math.min(start.length, offset)));
  return header;
}

function refused(problem: string, cause?: unknown): EncfsError {
  return new EncfsError("ERR_ENCFS_MOUNT", `the image is not opened: ${problem}`, { cause, hint: "Make images with: sealpod encfs create" });
}
