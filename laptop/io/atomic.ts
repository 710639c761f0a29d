import { open, rename, rm } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { basename, dirname, join } from "node:path";
import { messageOf } from "@sealpod/core";
import type { ByteSink } from "@sealpod/core";
import { IoError, systemCode } from "./errors.ts";

/** A file that appears under its name only when it is whole and on the disk. */
export interface AtomicFile extends ByteSink, AsyncDisposable {
  /**
   * Puts the file in place, at `path` if given (on the same file system), else at the path it was made for. Replaces a file there.
   * @throws {IoError} ERR_IO_WRITE
   */
  commit(path?: string): Promise<void>;
  /** Drops what was written. Does nothing after `commit`. */
  abort(): Promise<void>;
}

/**
 * Begins a file that is written beside `path` and renamed to it by `commit`. Leaving an `await using` block without `commit` drops it.
 * @param mode permission bits, not changed by the umask
 * @throws {IoError} ERR_IO_WRITE
 */
export async function writeStreamAtomic(path: string, mode: number): Promise<AtomicFile> {
  // In the same directory, so that the rename cannot cross file systems; the name cannot be foreseen.
  const beside = join(dirname(path), `.${basename(path)}.${randomBytes(8).toString("hex")}.tmp`);
  const handle = await orFail(path, () => open(beside, "wx", mode));
  let state: "open" | "committed" | "aborted" = "open";
  const abort = async (): Promise<void> => {
    if (state !== "open") return;
    state = "aborted";
    await handle.close();
    await rm(beside, { force: true });
  };
  return {
    async write(bytes) {
      await orFail(path, async () => {
        for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at)).bytesWritten;
      });
    },
    async commit(target = path) {
      if (state !== "open") throw new IoError("ERR_IO_WRITE", `${target}: commit after the file was ${state}`);
      try {
        await orFail(target, async () => {
          await handle.chmod(mode);
          await handle.sync();
          await rename(beside, target);
        });
      } catch (error) {
        await abort();
        throw error;
      }
      state = "committed";
      await handle.close();
      await syncDirectory(dirname(target));
    },
    abort,
    [Symbol.asyncDispose]: abort,
  };
}

/**
 * Writes a whole file at once: readers see the old file or the new one, never a part.
 * @param mode permission bits, e.g. 0o600 for secrets
 * @throws {IoError} ERR_IO_WRITE
 */
export async function writeFileAtomic(path: string, bytes: Uint8Array, mode: number): Promise<void> {
  await using file = await writeStreamAtomic(path, mode);
  await file.write(bytes);
  await file.commit();
}

/** Makes a rename durable: the directory holds the name. */
async function syncDirectory(path: string): Promise<void> {
  await using handle = await orFail(path, () => open(path, "r"));
  await orFail(path, () => handle.sync());
}

async function orFail<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    const problem = systemCode(cause) === "EISDIR" ? "it is a directory" : messageOf(cause);
    throw new IoError("ERR_IO_WRITE", `cannot write ${path}: ${problem}`, { cause });
  }
}
