import { constants } from "node:fs";
import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import type { ByteSource } from "@sealpod/core";
import { messageOf } from "@sealpod/core";
import { IoError } from "./errors.ts";

/** A file open for random access. */
export interface FileSource extends ByteSource, AsyncDisposable {
  close(): Promise<void>;
}

/**
 * Opens a regular file for random access; its size is the one at this moment.
 * @throws {IoError} ERR_IO_READ
 */
export async function fileSource(path: string): Promise<FileSource> {
  const { handle, size } = await openRegular(path);
  const close = async (): Promise<void> => {
    await handle.close();
  };
  return {
    size,
    close,
    [Symbol.asyncDispose]: close,
    async read(offset, length) {
      if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0 || offset + length > size) {
        throw new IoError("ERR_IO_RANGE", `${path}: bytes ${offset} to ${offset + length} are not inside its ${size} bytes`, {
          details: { offset, length, size },
        });
      }
      return readFully(handle, path, offset, length);
    },
  };
}

/** Opens a path that must be a regular file; a FIFO or device there does not block or take effect. */
export async function openRegular(path: string): Promise<{ readonly handle: FileHandle; readonly size: number }> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    const status = await handle.stat();
    if (!status.isFile()) throw new IoError("ERR_IO_READ", `${path} is not a regular file`);
    return { handle, size: status.size };
  } catch (cause) {
    await handle?.close();
    throw cause instanceof IoError ? cause : new IoError("ERR_IO_READ", `cannot read ${path}: ${messageOf(cause)}`, { cause });
  }
}

async function readFully(handle: FileHandle, path: string, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const { bytesRead } = await handle.read(bytes, at, length - at, offset + at);
    if (bytesRead === 0) throw new IoError("ERR_IO_READ", `${path} became shorter while it was read: it ends before byte ${offset + length}`);
    at += bytesRead;
  }
  return bytes;
}
