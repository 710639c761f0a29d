import { closeSync, constants, openSync, read } from "node:fs";
import { promisify } from "node:util";
import type { ByteSource } from "@sealpod/core";
import type { Disk } from "./block-devices.ts";
import { hasCode } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";

const readAt = promisify(read);

/** An open disk. */
export interface DiskSource extends ByteSource, Disposable {}

/**
 * Opens a disk for reading. Its size is what it is now; one that shrinks makes reads fail.
 * @throws {AgentError} ERR_AGENT_STORAGE, also from reads
 */
export function openDisk({ path, size }: Disk): DiskSource {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return {
    size,
    async read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > size)
        throw new AgentError("ERR_AGENT_STORAGE", `bytes ${offset} to ${offset + length} are not inside ${path}`);
      const bytes = new Uint8Array(length);
      for (let filled = 0; filled < length;) {
        const bytesRead = await readPiece(path, fd, bytes, filled, offset);
        if (bytesRead === 0) throw new AgentError("ERR_AGENT_STORAGE", `${path} ends at ${offset + filled}, expected ${size} bytes`);
        filled += bytesRead;
      }
      return bytes;
    },
    [Symbol.dispose]: () => closeSync(fd),
  };
}

async function readPiece(path: string, fd: number, bytes: Uint8Array, filled: number, offset: number): Promise<number> {
  try {
    return (await readAt(fd, bytes, filled, bytes.length - filled, offset + filled)).bytesRead;
  } catch (cause) {
    if (!hasCode(cause, "EIO")) throw cause;
    throw new AgentError("ERR_AGENT_STORAGE", `${path} cannot be read at ${offset + filled}`, {
      cause,
      hint: "A block does not match the root hash, or the host's disk failed.",
    });
  }
}
