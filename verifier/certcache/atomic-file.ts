import { constants, type Dirent } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { messageOf, type Random, toHex } from "@sealpod/core";
import { CertcacheError } from "./errors.ts";

/** What a file that is being written is called: nobody takes it for a certificate. */
const TEMPORARY = /^\..*\.[0-9a-f]{16}\.tmp$/;

/** True for the name of a file that is being written, or whose writer was killed. */
export function isTemporary(name: string): boolean {
  return TEMPORARY.test(name);
}

/** Age in milliseconds from which a temporary file belongs to nobody: writing one takes milliseconds, and a command may import while the server starts. */
const ABANDONED = 3_600_000;

const DIRECTORY_HINT = "Name the directory of a certificate cache, or one that may be made and written to.";

/**
 * Makes a directory, and those above it that are missing, durably; one that is there stays as it is.
 *
 * Node's `mkdir` with `recursive` tries for ever where a file system says ENOENT although the directory above is there, as /proc does: here each that is missing is tried once.
 * @throws {CertcacheError} ERR_CERTCACHE_STORE
 */
export async function makeDirectory(path: string): Promise<void> {
  const missing: string[] = [];
  // Ends at the root at the latest: that is there.
  for (let at = resolve(path); !(await isDirectory(at)); at = dirname(at)) missing.unshift(at);
  for (const directory of missing) {
    try {
      await mkdir(directory, { mode: 0o755 });
      await syncDirectory(dirname(directory));
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      // A command may import while the server starts: whoever comes second finds it made.
      if (code === "EEXIST" && (await isDirectory(directory))) continue;
      const problem = code === "ENOENT" ? `${dirname(directory)} takes no new directories` : messageOf(cause);
      throw new CertcacheError("ERR_CERTCACHE_STORE", `cannot make the directory ${path}: ${problem}`, { cause, hint: DIRECTORY_HINT });
    }
  }
}

/**
 * False if nothing is there.
 * @throws {CertcacheError} ERR_CERTCACHE_STORE if it is something else, or cannot be looked at
 */
export async function isDirectory(path: string): Promise<boolean> {
  let found: boolean;
  try {
    found = (await stat(path)).isDirectory();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    // ENOTDIR: one above it is no directory.
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw new CertcacheError("ERR_CERTCACHE_STORE", `cannot look at ${path}: ${messageOf(cause)}`, { cause, hint: DIRECTORY_HINT });
  }
  if (!found) throw new CertcacheError("ERR_CERTCACHE_STORE", `${path} is there and is no directory`, { hint: DIRECTORY_HINT });
  return true;
}

/**
 * Writes a whole file: readers see the old one or the new one, never a part, and after a crash of the machine too. Its directory is made if need be.
 * @throws {CertcacheError} ERR_CERTCACHE_STORE
 */
export async function writeFileAtomic(path: string, bytes: Uint8Array, random: Random): Promise<void> {
  const directory = dirname(path);
  const beside = join(directory, `.${basename(path)}.${toHex(random.bytes(8))}.tmp`);
  try {
    await makeDirectory(directory);
    const handle = await open(beside, "wx", 0o644);
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(beside, path);
    await syncDirectory(directory);
  } catch (cause) {
    await rm(beside, { force: true }).catch(() => undefined);
    if (cause instanceof CertcacheError) throw cause;
    throw new CertcacheError("ERR_CERTCACHE_STORE", `cannot write ${path}: ${messageOf(cause)}`, {
      cause,
      hint: "Check that the cache's directory may be written to, and that the disk has room.",
    });
  }
}

/**
 * The whole file, or undefined if there is none. Links, pipes and devices are no files of ours.
 * @returns "unusable" for what is no file, or has more than `limit` bytes
 * @throws {CertcacheError} ERR_CERTCACHE_STORE
 */
export async function readSmallFile(path: string, limit: number): Promise<Uint8Array | "unusable" | undefined> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const status = await handle.stat();
      if (!status.isFile() || status.size > limit) return "unusable";
      return new Uint8Array(await handle.readFile());
    } finally {
      await handle.close();
    }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    if (code === "ELOOP" || code === "EISDIR" || code === "ENXIO") return "unusable";
    throw new CertcacheError("ERR_CERTCACHE_STORE", `cannot read ${path}: ${messageOf(cause)}`, { cause, hint: "Check that the cache's files may be read." });
  }
}

/**
 * The entries of a directory in the order of their names; none if there is no directory.
 * @throws {CertcacheError} ERR_CERTCACHE_STORE
 */
export async function listDirectory(path: string): Promise<readonly Dirent[]> {
  try {
    const entries = await readdir(path, { withFileTypes: true });
    return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw new CertcacheError("ERR_CERTCACHE_STORE", `cannot list ${path}: ${messageOf(cause)}`, {
      cause,
      hint: "Check that the cache's directory may be read.",
    });
  }
}

/**
 * Removes a file; does nothing if there is none.
 * @throws {CertcacheError} ERR_CERTCACHE_STORE
 */
export async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
    await syncDirectory(dirname(path));
  } catch (cause) {
    throw new CertcacheError("ERR_CERTCACHE_STORE", `cannot remove ${path}: ${messageOf(cause)}`, {
      cause,
      hint: "Check that the cache's directory may be written to.",
    });
  }
}

/** Removes what a writer that was killed left in a directory. */
export async function removeAbandoned(directory: string, entries: readonly Dirent[], now: number): Promise<void> {
  for (const { name } of entries.filter((entry) => isTemporary(entry.name))) {
    const path = join(directory, name);
    try {
      const { mtimeMs } = await stat(path);
      if (now - mtimeMs > ABANDONED) await rm(path, { force: true });
    } catch {
      // Gone already, or not ours to remove: it does no harm where it lies.
    }
  }
}

/** Makes a name durable: the directory holds it. */
async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
