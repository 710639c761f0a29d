import { readlink, realpath } from "node:fs/promises";
import { join, sep } from "node:path";
import type { FileHandle } from "node:fs/promises";
import type { FileTree } from "@sealpod/core";
import { IoError, systemCode } from "./errors.ts";
import { openRegular } from "./file-source.ts";

/** Bytes that `stream` reads at a time. */
const CHUNK = 256 * 1024;

/**
 * A directory as a {@link FileTree}. A path may not be absolute, have empty, `.` or `..` components or a NUL; symbolic links
 * may not lead out of the directory. That is checked on the open file, so a link put in place meanwhile does not help either.
 * All methods reject with {@link IoError}: ERR_IO_ESCAPE, ERR_IO_READ, ERR_IO_LIMIT.
 */
export function directoryTree(root: string): FileTree {
  return {
    async read(path, limit) {
      const { handle, size } = await openInside(root, path);
      try {
        if (size > limit)
          throw new IoError("ERR_IO_LIMIT", `${join(root, path)} has ${size} bytes, more than the limit of ${limit}`, { details: { size, limit } });
        const bytes = new Uint8Array(await handle.readFile());
        if (bytes.length > limit) throw new IoError("ERR_IO_LIMIT", `${join(root, path)} grew over the limit of ${limit} bytes`, { details: { limit } });
        return bytes;
      } finally {
        await handle.close();
      }
    },
    async *stream(path) {
      const { handle } = await openInside(root, path);
      try {
        for (;;) {
          // A buffer of its own for each chunk: the consumer may keep it.
          const { buffer, bytesRead } = await handle.read(new Uint8Array(CHUNK), 0, CHUNK, null);
          if (bytesRead === 0) return;
          yield buffer.subarray(0, bytesRead);
        }
      } finally {
        await handle.close();
      }
    },
    async size(path) {
      try {
        const { handle, size } = await openInside(root, path);
        await handle.close();
        return size;
      } catch (error) {
        if (error instanceof IoError && ["ENOENT", "ENOTDIR"].includes(systemCode(error.cause) ?? "")) return undefined;
        throw error;
      }
    },
  };
}

async function openInside(root: string, path: string): Promise<{ readonly handle: FileHandle; readonly size: number }> {
  if (path.includes("\0") || path.split("/").some((part) => part === "" || part === "." || part === "..")) {
    throw new IoError("ERR_IO_ESCAPE", `path ${JSON.stringify(path)} is not a plain relative path`);
  }
  const opened = await openRegular(join(root, path));
  try {
    // Linux names the file behind a descriptor; a check of the path before opening could be raced.
    const [actual, top] = await Promise.all([readlink(`/proc/self/fd/${opened.handle.fd}`), realpath(root)]);
    if (!actual.startsWith(top.endsWith(sep) ? top : top + sep)) {
      throw new IoError("ERR_IO_ESCAPE", `${join(root, path)} is a link that leads out of ${root}`);
    }
    return opened;
  } catch (error) {
    await opened.handle.close();
    throw error;
  }
}
