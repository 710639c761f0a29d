import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { copyFile, lstat, mkdir, open, realpath, rename, rm, rmdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { decodeUtf8, messageOf } from "@sealpod/core";
import { InstallError } from "./errors.ts";

/**
 * The files of a node, below a directory that stands for its root. Paths are the node's own: absolute. What is written is there in full or not at all.
 * All methods throw {@link InstallError} ERR_INSTALL_IO.
 */
export class NodeFiles {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  /** Where a path of the node is for this process. */
  place(path: string): string {
    return join(this.#root, path);
  }

  /** The text of a file; undefined if there is none. */
  async read(path: string, limit: number): Promise<string | undefined> {
    try {
      await using file = await open(this.place(path));
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
      return await hashFile(this.place(path));
    } catch (cause) {
      if (isAbsent(cause)) return undefined;
      throw failure("read", path, cause);
    }
  }

  /** True if something has that name. */
  async exists(path: string): Promise<boolean> {
    return lstat(this.place(path)).then(
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
    await mkdir(this.place(path), { recursive: true, mode: 0o755 }).catch((cause: unknown) => {
      throw failure("make", path, cause);
    });
  }

  /** Writes a file beside its place and renames it. An existing file keeps its owner; a link stays one. */
  async write(path: string, mode: number, content: FileContent): Promise<void> {
    await (await this.stage(path, mode, content)).commit();
  }

  /** A file that is written beside its place, and gets there by `commit`. */
  async stage(path: string, mode: number, content: FileContent): Promise<StagedFile> {
    const target = await realpath(this.place(path)).catch(() => this.place(path));
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
    const place = await realpath(this.place(path)).catch(() => this.place(path));
    return lstat(place).then(
      (status) => status.mode & 0o7777,
      () => undefined,
    );
  }

  /** Removes a file, or a directory with all that is in it. */
  async remove(path: string): Promise<void> {
    await rm(this.place(path), { recursive: true, force: true }).catch((cause: unknown) => {
      throw failure("remove", path, cause);
    });
  }

  /** Removes a directory if it is empty. */
  async removeIfEmpty(path: string): Promise<boolean> {
    return rmdir(this.place(path)).then(
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

async function hashFile(path: string): Promise<string> {
  const digest = createHash("sha256");
  for await (const chunk of createReadStream(path)) digest.update(chunk as Uint8Array);
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
