import { access } from "node:fs/promises";
import { join } from "node:path";
import { fileSource, run } from "@sealpod/io";
import { parseElf } from "./elf.ts";
import { ImagesError } from "./errors.ts";
import type { Rootfs } from "./rootfs.ts";

/** What a package installs that does not run: left out of images. */
const NOT_IN_IMAGES = /^\/usr\/share\/(?:doc|man|info|lintian|locale|bug)(?:\/|$)/;

/** Where the loader looks on Debian amd64 when no cache and no path is given (ld.so(8)). */
const LIBRARY_DIRECTORIES = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"] as const;

/**
 * Version of an installed package, e.g. `1.22.1-9+deb12u11`.
 * @throws {ImagesError} ERR_IMAGES_PACKAGE
 */
export async function packageVersion(name: string): Promise<string> {
  const [status, version] = (await dpkgQuery(["-W", "-f=${db:Status-Status} ${Version}", "--", name], name)).split(" ");
  if (status !== "installed" || version === undefined) throw notInstalled(name);
  return version;
}

/** Upstream part of a Debian version: without epoch and revision (deb-version(7)). */
export function upstreamVersion(version: string): string {
  const colon = version.indexOf(":");
  const dash = version.lastIndexOf("-");
  return version.slice(colon + 1, dash === -1 ? undefined : dash);
}

/**
 * Paths that a package installs, sorted, documentation left out.
 * @throws {ImagesError} ERR_IMAGES_PACKAGE
 */
export async function packageFiles(name: string): Promise<readonly string[]> {
  const lines = (await dpkgQuery(["-L", "--", name], name)).split("\n");
  return lines.filter((line) => line.startsWith("/") && line !== "/." && !NOT_IN_IMAGES.test(line)).sort();
}

/**
 * Adds those files of a package that `choose` picks; each pattern must pick at least one, so that a package that moved a
 * file is noticed here and not in a container that does not start.
 * @throws {ImagesError} ERR_IMAGES_PACKAGE
 */
export async function addPackageFiles(rootfs: Rootfs, name: string, choose: readonly RegExp[]): Promise<readonly string[]> {
  const files = await packageFiles(name);
  const added: string[] = [];
  for (const pattern of choose) {
    const chosen = files.filter((file) => pattern.test(file));
    if (chosen.length === 0) throw new ImagesError("ERR_IMAGES_PACKAGE", `Debian package ${name} has no file that matches ${pattern.source}`);
    for (const file of chosen) added.push(await rootfs.addHostFile(file));
  }
  return added;
}

/**
 * Adds the loader and all shared libraries that programs need, directly or not. What `below` has is left out.
 * @param programs paths on this machine
 * @throws {ImagesError} ERR_IMAGES_LIBRARY, ERR_IMAGES_ELF, ERR_IMAGES_PACKAGE
 */
export async function addLibraries(rootfs: Rootfs, programs: readonly string[], below?: Rootfs): Promise<void> {
  const queue = [...programs];
  const seen = new Set<string>();
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    const needs = await readNeeds(file);
    if (needs === undefined) continue;
    const wanted = await Promise.all(needs.libraries.map((library) => findLibrary(library, file)));
    if (needs.interpreter !== undefined) wanted.push(needs.interpreter);
    for (const path of wanted) {
      const full = await hostFileUnless(rootfs, path, below);
      if (full !== undefined) queue.push(full);
    }
  }
}

/** Adds a host file unless the layer below has it; then what it needs is there too. */
async function hostFileUnless(rootfs: Rootfs, path: string, below: Rootfs | undefined): Promise<string | undefined> {
  if (below?.has(path.slice(1)) === true || below?.has(path.replace(/^\/(?=lib)/, "usr/")) === true) return undefined;
  return rootfs.addHostFile(path);
}

async function readNeeds(path: string): ReturnType<typeof parseElf> {
  await using source = await fileSource(path);
  return await parseElf(source, path);
}

async function findLibrary(name: string, neededBy: string): Promise<string> {
  for (const directory of name.includes("/") ? [] : LIBRARY_DIRECTORIES) {
    const path = join(directory, name);
    try {
      await access(path);
      return path;
    } catch {
      // Not in this directory.
    }
  }
  throw new ImagesError("ERR_IMAGES_LIBRARY", `${neededBy} needs ${name}, which is in none of ${LIBRARY_DIRECTORIES.join(", ")}`);
}

async function dpkgQuery(args: readonly string[], name: string): Promise<string> {
  try {
    return new TextDecoder().decode((await run("dpkg-query", args, { env: { LC_ALL: "C", PATH: "/usr/bin:/bin" } })).stdout);
  } catch (cause) {
    throw notInstalled(name, cause);
  }
}

function notInstalled(name: string, cause?: unknown): ImagesError {
  return new ImagesError("ERR_IMAGES_PACKAGE", `Debian package ${name} is not installed`, { cause, hint: `apt-get install ${name}` });
}
