import { concatBytes } from "@sealpod/core";
import { readTar, safePath } from "@sealpod/verity";
import { ImageError } from "./errors.ts";

/** A file or link of a package. Modes are reduced to what an image keeps: it can be run, or it cannot. */
export type PackageFile =
  | { readonly kind: "file"; readonly executable: boolean; readonly data: Uint8Array }
  | { readonly kind: "symlink"; readonly target: string };

/** What is kept of one package: the largest, a kernel's modules, has 110 MiB. */
const MAX_KEPT = 512 * 1024 * 1024;
/** What a package unpacks to, kept or not. */
const MAX_UNPACKED = 2 * 1024 * 1024 * 1024;
const MAX_FILES = 100_000;
/** Links on the way from a name to its file: more than a few are a loop. */
const MAX_LINKS = 16;

/** Directories that are links into `/usr` on the machine that the packages are installed on. */
const MERGED: readonly string[] = ["bin", "sbin", "lib", "lib64"];

/**
 * Files of packages by their path without a leading `/`, as if installed on a machine with merged `/usr`. Nothing is unpacked to disk: a
 * package's links and names can therefore lead nowhere but to other files of packages.
 */
export class PackageFiles {
  readonly #files = new Map<string, PackageFile>();

  /**
   * Takes in the tar of a package.
   * @param keep whether the file at a path is wanted; the rest is dropped as it goes by
   * @throws {ImageError} ERR_IMAGE_LIMIT, ERR_IMAGE_TREE
   * @throws {VerityError} for what is no tar
   */
  async add(tar: AsyncIterable<Uint8Array>, name: string, keep: (path: string) => boolean): Promise<void> {
    let kept = 0;
    for await (const entry of readTar(tar, { maxEntries: MAX_FILES, maxTotalSize: MAX_UNPACKED })) {
      const path = merged(safePath(entry.path));
      if (!keep(path)) continue;
      if (entry.kind === "symlink") this.#put(path, { kind: "symlink", target: entry.target }, name);
      else if (entry.kind === "hardlink") {
        const target = this.#files.get(merged(safePath(entry.target)));
        if (target === undefined) throw new ImageError("ERR_IMAGE_PACKAGE", `package ${name}: ${path} is a hard link to ${entry.target}, which is not there`);
        this.#put(path, target, name);
      } else if (entry.kind === "file") {
        kept += entry.size;
        if (kept > MAX_KEPT) throw new ImageError("ERR_IMAGE_LIMIT", `package ${name} has more than ${MAX_KEPT} bytes of files for an image`);
        const parts: Uint8Array[] = [];
        for await (const chunk of entry.data) parts.push(Uint8Array.from(chunk));
        this.#put(path, { kind: "file", executable: (entry.mode & 0o111) !== 0, data: concatBytes(...parts) }, name);
      }
    }
  }

  /** Paths, sorted by their UTF-16 units. */
  get paths(): readonly string[] {
    return [...this.#files.keys()].sort();
  }

  get(path: string): PackageFile | undefined {
    return this.#files.get(path);
  }

  /**
   * Follows a path to a file; returns the links on the way, and the file last.
   * @throws {ImageError} ERR_IMAGE_PACKAGE if it leads nowhere
   */
  follow(path: string): readonly (readonly [path: string, file: PackageFile])[] {
    const way: (readonly [string, PackageFile])[] = [];
    for (let current = path; way.length < MAX_LINKS;) {
      const file = this.#files.get(current);
      if (file === undefined) throw new ImageError("ERR_IMAGE_PACKAGE", `no package has ${current}${current === path ? "" : `, to which ${path} leads`}`);
      way.push([current, file]);
      if (file.kind === "file") return way;
      current = merged(resolveLink(current, file.target));
    }
    throw new ImageError("ERR_IMAGE_PACKAGE", `${path} leads over more than ${MAX_LINKS} links`);
  }

  #put(path: string, file: PackageFile, name: string): void {
    const old = this.#files.get(path);
    // Which of two packages wins must not depend on their order.
    if (old !== undefined && !same(old, file))
      throw new ImageError("ERR_IMAGE_TREE", `package ${name} has ${path}, which another package has with other content`);
    this.#files.set(path, file);
  }
}

function same(a: PackageFile, b: PackageFile): boolean {
  if (a.kind === "symlink" || b.kind === "symlink") return a.kind === "symlink" && b.kind === "symlink" && a.target === b.target;
  return a.executable === b.executable && Buffer.compare(a.data, b.data) === 0;
}

function merged(path: string): string {
  return MERGED.some((top) => path === top || path.startsWith(`${top}/`)) ? `usr/${path}` : path;
}

/** The path that a link names, from the root; one that climbs above it stays there, as for a process whose root it is. */
function resolveLink(path: string, target: string): string {
  const parts = target.startsWith("/") ? [] : path.split("/").slice(0, -1);
  for (const part of target.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return parts.join("/");
}
