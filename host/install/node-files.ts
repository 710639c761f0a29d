import { createHash, randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, glob, lstat, mkdir, open, readdir, readlink, rename, rm, rmdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { decodeUtf8, messageOf } from "@sealpod/core";
import { InstallError } from "./errors.ts";

/** Links that are followed on one way, as many as Linux follows. */
const MAX_LINKS = 40;

/**
 * The files of a node, below a directory that stands for its root. Paths are the node's own: absolute. So are the links in them: none leads out of
 * that directory. What is written is there in full or not at all. All methods throw {@link InstallError} ERR_INSTALL_IO.
 */
export class NodeFiles {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  /** Where a path of the node is for this process. Links are followed as the node would follow them. */
  async place(path: string): Promise<string> {
    return this.#resolve(path, true);
  }

  /** Where a name of the node is for this process, be it one of a link or not. */
  async #name(path: string): Promise<string> {
    return this.#resolve(path, false);
  }

  async #resolve(path: string, last: boolean): Promise<string> {
    const todo = path.split("/").toReversed();
    let at = "/";
    for (let links = 0; ;) {
      const part = todo.pop();
      if (part === undefined) return join(this.#root, at);
      if (part === "" || part === ".") continue;
      if (part === "..") {
        at = dirname(at);
        continue;
      }
      const next = join(at, part);
      const target = last || todo.some((item) => item !== "") ? await readlink(join(this.#root, next)).catch(() => undefined) : undefined;
      if (target === undefined) {
        at = next;
        continue;
      }
      if (++links > MAX_LINKS) throw failure("find", path, new Error(`it has more than ${MAX_LINKS} links in it`));
      if (target.startsWith("/")) at = "/";
      todo.push(...target.split("/").toReversed());
    }
  }

  /** Paths of the files that a pattern matches (`*`, `?`, `[…]`). */
  async glob(pattern: string): Promise<readonly string[]> {
    let found = ["/"];
    for (const part of pattern.split("/").filter((item) => item !== "")) {
      const next: string[] = [];
      for (const directory of found) {
        if (!/[*?[]/.test(part)) next.push(join(directory, part));
        else for await (const name of glob(part, { cwd: await this.place(directory) })) next.push(join(directory, name));
      }
      found = next;
    }
    return found.toSorted();
  }

  /** Names in a directory; none if it is not there. */
  async list(path: string): Promise<readonly string[]> {
    return readdir(await this.place(path)).catch((cause: unknown) => {
      if (isAbsent(cause)) return [];
      throw failure("read", path, cause);
    });
  }

  /** The text of a file; undefined if there is none. */
  async read(path: string, limit: number): Promise<string | undefined> {
    try {
      await using file = await open(await this.place(path), READ);
      const status = await file.stat();
      if (!status.isFile() || status.size > limit) throw new Error(`it is not a file of at most ${limit} bytes`);
      return decodeUtf8(await file.readFile(), path);
    } catch (cause) {
      if (isAbsent(cause)) return undefined;
      throw failure("read", path, cause);
    }
  }

  /** SHA-256 of a file in hex; undefined if there is none. */
  async hash(path: string): Promise<string | undefined> {
    try {
      return await hashFile(await this.place(path));
    } catch (cause) {
      if (isAbsent(cause)) return undefined;
      throw failure("read", path, cause);
    }
  }

  /** True if something has that name. */
  async exists(path: string): Promise<boolean> {
    return lstat(await this.#name(path)).then(
      () => true,
      (cause: unknown) => {
        if (isAbsent(cause)) return false;
        throw failure("read", path, cause);
      },
    );
  }

  /** The directories that are missing, down to each of `paths`, in the order in which they can be made. */
  async missingDirectories(paths: readonly string[]): Promise<readonly string[]> {
    const missing = new Set<string>();
    for (const path of paths) {
      const chain: string[] = [];
      for (let at = path; at !== "/" && !(await this.exists(at)); at = dirname(at)) chain.unshift(at);
      for (const directory of chain) missing.add(directory);
    }
    return [...missing];
  }

  async makeDirectory(path: string): Promise<void> {
    await mkdir(await this.place(path), { recursive: true, mode: 0o755 }).catch((cause: unknown) => {
      throw failure("make", path, cause);
    });
  }

  /** Writes a file beside its place and renames it. An existing file keeps its owner; a link stays one. */
  async write(path: string, mode: number, content: FileContent): Promise<void> {
    await (await this.stage(path, mode, content)).commit();
  }

  /** A file that is written beside its place, and gets there by `commit`. */
  async stage(path: string, mode: number, content: FileContent): Promise<StagedFile> {
    const target = await this.place(path);
    const beside = join(dirname(target), `.${basename(target)}.${randomBytes(8).toString("hex")}.tmp`);
    const abort = async (): Promise<void> => rm(beside, { force: true });
    try {
      if (content.kind === "copy") await copyFile(content.from, beside);
      await using file = await open(beside, content.kind === "copy" ? "r+" : "wx", mode);
      if (content.kind === "text") await file.writeFile(content.text);
      const old = await lstat(target).catch(() => undefined);
      if (old !== undefined) await file.chown(old.uid, old.gid);
      await file.chmod(mode);
      await file.sync();
    } catch (cause) {
      await abort();
      throw failure("write", path, cause);
    }
    const commit = async (): Promise<void> => {
      await rename(beside, target).catch(async (cause: unknown) => {
        await abort();
        throw failure("write", path, cause);
      });
    };
    return { place: beside, commit, abort };
  }

  /** Permission bits of a file; undefined if there is none. */
  async mode(path: string): Promise<number | undefined> {
    return lstat(await this.place(path)).then(
      (status) => status.mode & 0o7777,
      () => undefined,
    );
  }

  /** Removes a file, or a directory with all that is in it. */
  async remove(path: string): Promise<void> {
    await rm(await this.#name(path), { recursive: true, force: true }).catch((cause: unknown) => {
      throw failure("remove", path, cause);
    });
  }

  /** Removes a directory if it is empty. */
  async removeIfEmpty(path: string): Promise<boolean> {
    return rmdir(await this.#name(path)).then(
      () => true,
      (cause: unknown) => {
        if (isAbsent(cause) || ["ENOTEMPTY", "EEXIST", "EBUSY"].includes((cause as NodeJS.ErrnoException).code ?? "")) return false;
        throw failure("remove", path, cause);
      },
    );
  }
}

/** What a file is to have in it. */
export type FileContent = { readonly kind: "text"; readonly text: string } | { readonly kind: "copy"; readonly from: string };

/** A file that is not in its place yet. */
export interface StagedFile {
  /** Where it is for this process. */
  readonly place: string;
  commit(): Promise<void>;
  abort(): Promise<void>;
}

/** SHA-256 of what a file is to have in it, in hex. */
export async function hashContent(content: FileContent): Promise<string> {
  if (content.kind === "text") return createHash("sha256").update(content.text).digest("hex");
  try {
    return await hashFile(content.from);
  } catch (cause) {
    throw new InstallError("ERR_INSTALL_SOURCE", `${content.from} cannot be read: ${messageOf(cause)}`, {
      cause,
      hint: "Make what is to be installed: npm run bundle, sealpod uvm build.",
    });
  }
}

/** A pipe without a writer does not hold up whoever looks what it is. */
const READ = constants.O_RDONLY | constants.O_NONBLOCK;

async function hashFile(path: string): Promise<string> {
  await using file = await open(path, READ);
  if (!(await file.stat()).isFile()) throw new Error("it is not a file");
  const digest = createHash("sha256");
  for await (const chunk of file.createReadStream({ autoClose: false })) digest.update(chunk as Uint8Array);
  return digest.digest("hex");
}

function isAbsent(cause: unknown): boolean {
  return ["ENOENT", "ENOTDIR"].includes((cause as NodeJS.ErrnoException).code ?? "");
}

function failure(verb: string, path: string, cause: unknown): InstallError {
  const isDenied = ["EACCES", "EPERM"].includes((cause as NodeJS.ErrnoException).code ?? "");
  const hint = isDenied ? { hint: "Run it as root." } : {};
  return new InstallError("ERR_INSTALL_IO", `cannot ${verb} ${path}: ${messageOf(cause)}`, { cause, details: { file: path }, ...hint });
}
