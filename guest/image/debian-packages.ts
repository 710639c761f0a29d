import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { decodeUtf8, messageOf } from "@sealpod/core";
import { outputOf } from "./command.ts";
import type { StartCommand } from "./command.ts";
import { KERNEL_PACKAGE } from "./contents.ts";
import { ImageError } from "./errors.ts";
import { makeDirectory } from "./make-directory.ts";

/** A package as an index or a lock names it: the hash makes it one file of the world. */
export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  readonly architecture: string;
  /** Of the .deb file; 64 hex digits. */
  readonly sha256: string;
}

/** deb-control(5): what package names and versions may be; they become arguments of apt, so nothing else passes. */
export const PACKAGE_NAME: RegExp = /^[a-z0-9][a-z0-9+.-]{1,127}$/;
export const PACKAGE_VERSION: RegExp = /^[0-9][A-Za-z0-9.+~:-]{0,127}$/;
export const SHA256: RegExp = /^[0-9a-f]{64}$/;

/** The one architecture that images are made for. */
export const ARCHITECTURE = "amd64";

/** Largest output of apt-cache: a record has a few KiB, and descriptions in some languages may come with it. */
const MAX_RECORDS = 16 * 1024 * 1024;

/** What the package functions need. */
export interface PackageTools {
  readonly start: StartCommand;
  /** Directory that keeps .deb files between builds. Nothing in it is believed: each file's hash is checked each time. */
  readonly directory: string;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The candidates of the machine's apt for the given names, sorted by name; a kernel's meta package becomes the package that it depends on.
 * The hashes are those of the index, whose signature apt has verified.
 * @throws {ImageError} ERR_IMAGE_PACKAGE, ERR_IMAGE_PLATFORM, ERR_IMAGE_COMMAND, ERR_IMAGE_LIMIT
 */
export async function resolvePackages(names: readonly string[], tools: PackageTools): Promise<readonly DebianPackage[]> {
  const records = await candidates(names, tools);
  const kernels = records.flatMap(({ name, depends }) => (name.startsWith("linux-image-") && !KERNEL_PACKAGE.test(name) ? [{ name, depends }] : []));
  const found = records.filter(({ name }) => !kernels.some((kernel) => kernel.name === name));
  for (const { name, depends } of kernels) {
    const target = depends
      .split(/[,|]/)
      .map((item) => item.trim().split(/[ (]/)[0] ?? "")
      .find((item) => KERNEL_PACKAGE.test(item));
    if (target === undefined) throw new ImageError("ERR_IMAGE_PACKAGE", `package ${name} depends on no kernel: ${depends.slice(0, 200)}`);
    found.push(...(await candidates([target], tools)));
  }
  return found.map(({ name, version, architecture, sha256 }) => ({ name, version, architecture, sha256 })).sort((a, b) => (a.name < b.name ? -1 : 1));
}

interface Candidate extends DebianPackage {
  readonly depends: string;
}

async function candidates(names: readonly string[], { start, signal }: PackageTools): Promise<readonly Candidate[]> {
  const wrong = names.find((name) => !PACKAGE_NAME.test(name));
  if (wrong !== undefined) throw new ImageError("ERR_IMAGE_PACKAGE", `${JSON.stringify(wrong.slice(0, 100))} is no name of a package`);
  let text: string;
  try {
    text = decodeUtf8(
      await outputOf(start("apt-cache", ["show", "--no-all-versions", "--", ...names], { cwd: "/", signal }), "apt-cache", MAX_RECORDS),
      "apt-cache",
    );
  } catch (cause) {
    // It ends with an error only if it knows none of them.
    if (cause instanceof ImageError && cause.code === "ERR_IMAGE_COMMAND") throw unknownPackages(names, cause);
    throw cause;
  }
  const found = parseRecords(text);
  const missing = names.filter((name) => !found.has(name));
  if (missing.length > 0) throw unknownPackages(missing);
  return names.map((name) => found.get(name) as Candidate);
}

function unknownPackages(names: readonly string[], cause?: unknown): ImageError {
  return new ImageError("ERR_IMAGE_PACKAGE", `apt knows no package ${names.slice(0, 8).join(", ")}${names.length > 8 ? ` and ${names.length - 8} more` : ""}`, {
    cause,
    details: { packages: names.slice(0, 64) },
    hint: "Images are made of Debian 12 (amd64). Run apt-get update if its lists were never fetched; a kernel of backports needs its line in the sources.",
  });
}

/** Stanzas of `Field: value` lines (deb822(5)); the first of a name counts, which is the candidate. */
function parseRecords(text: string): ReadonlyMap<string, Candidate> {
  const found = new Map<string, Candidate>();
  for (const stanza of text.split(/\n{2,}/)) {
    const fields = new Map<string, string>();
    for (const line of stanza.split("\n")) {
      const colon = line.indexOf(":");
      if (colon > 0 && !/^\s/.test(line)) fields.set(line.slice(0, colon), line.slice(colon + 1).trim());
    }
    const [name = "", version = "", architecture = "", sha256 = ""] = ["Package", "Version", "Architecture", "SHA256"].map((field) => fields.get(field));
    if (!PACKAGE_NAME.test(name) || !PACKAGE_VERSION.test(version) || !SHA256.test(sha256) || found.has(name)) continue;
    if (architecture !== ARCHITECTURE && architecture !== "all") continue;
    found.set(name, { name, version, architecture, sha256, depends: fields.get("Depends") ?? "" });
  }
  return found;
}

/**
 * Fetches packages, those that the directory has already left out; returns the file of each.
 * @throws {ImageError} ERR_IMAGE_FETCH, ERR_IMAGE_HASH, ERR_IMAGE_WRITE, ERR_IMAGE_PLATFORM, ERR_IMAGE_ABORTED
 */
export async function fetchPackages(packages: readonly DebianPackage[], tools: PackageTools): Promise<ReadonlyMap<string, string>> {
  const { directory, start, signal } = tools;
  const files = new Map<string, string>();
  const missing: DebianPackage[] = [];
  for (const item of packages) {
    const path = join(directory, fileName(item));
    if ((await hashOf(path)) === item.sha256) files.set(item.name, path);
    else missing.push(item);
  }
  if (missing.length === 0) return files;
  const fetching = await orUnwritable(directory, async () => {
    await makeDirectory(directory);
    return mkdtemp(join(directory, ".fetch-"));
  });
  try {
    const wanted = missing.map(({ name, version }) => `${name}=${version}`);
    try {
      await outputOf(start("apt-get", ["download", "-qq", "--", ...wanted], { cwd: fetching, signal }), "apt-get", MAX_RECORDS);
    } catch (cause) {
      if (!(cause instanceof ImageError) || cause.code !== "ERR_IMAGE_COMMAND") throw cause;
      throw new ImageError("ERR_IMAGE_FETCH", `${wanted.length} packages cannot be fetched: ${cause.message}`, {
        cause,
        hint: `Is there a network, and room in ${directory}? Versions that the archive no longer has come from a snapshot of it, or from a copy of the .deb files put there.`,
      });
    }
    for (const item of missing) {
      const fetched = join(fetching, fileName(item));
      const found = await hashOf(fetched);
      if (found === undefined) throw new ImageError("ERR_IMAGE_FETCH", `apt-get fetched no ${fileName(item)}`);
      if (found !== item.sha256) {
        throw new ImageError("ERR_IMAGE_HASH", `${fileName(item)} has SHA-256 ${found}, expected ${item.sha256}`, {
          details: { found, expected: item.sha256 },
        });
      }
      const path = join(directory, fileName(item));
      await orUnwritable(path, () => rename(fetched, path));
      files.set(item.name, path);
    }
  } finally {
    await rm(fetching, { recursive: true, force: true });
  }
  return files;
}

/** The name that apt gives to the file: an epoch's colon is escaped. */
function fileName({ name, version, architecture }: DebianPackage): string {
  return `${name}_${version.replaceAll(":", "%3a")}_${architecture}.deb`;
}

/** SHA-256 of a file in hex, or undefined if there is none that can be read. */
async function hashOf(path: string): Promise<string | undefined> {
  const hash = createHash("sha256");
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(chunk as Uint8Array);
  } catch {
    return undefined;
  }
  return hash.digest("hex");
}

async function orUnwritable<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw new ImageError("ERR_IMAGE_WRITE", `cannot write ${path}: ${messageOf(cause)}`, { cause });
  }
}
