import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { spawn } from "node:child_process";
import { encodeUtf8 } from "@sealpod/core";
import { run } from "@sealpod/io";
import { readTar, safePath, type TarItem } from "@sealpod/verity";
import { directoryItem, fileItem, linkItem } from "../test-support.ts";

/** For tests that run images made of unmodified Debian packages. */

/** Packages stay here between runs, which then need no network. */
const CACHE = resolve(import.meta.dirname, "../../../build/tools/images");

/** Package files by the package's name. */
export type Packages = ReadonlyMap<string, string>;

/**
 * The files of packages of this machine's Debian; those that were never fetched are fetched.
 * @throws {IoError} if apt reaches no archive
 */
export async function fetchPackages(names: readonly string[]): Promise<Packages> {
  await mkdir(CACHE, { recursive: true });
  const missing = names.filter((name) => !cached.has(name));
  for (const file of await readdir(CACHE)) {
    const name = /^([a-z0-9][a-z0-9+.-]+)_[^_]+_(?:amd64|all)\.deb$/.exec(file)?.[1];
    if (name !== undefined) cached.set(name, join(CACHE, file));
  }
  const wanted = missing.filter((name) => !cached.has(name));
  if (wanted.length === 0) return cached;
  const fetching = await mkdtemp(join(CACHE, ".fetch-"));
  try {
    await run("apt-get", ["download", "-qq", "--", ...wanted], {
      cwd: fetching,
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
      timeoutMs: 120_000,
    });
    for (const file of await readdir(fetching)) await rename(join(fetching, file), join(CACHE, file));
  } finally {
    await rm(fetching, { recursive: true, force: true });
  }
  return fetchPackages(names);
}

const cached = new Map<string, string>();

/** What images leave out, as the `slim` ones of distributions do. */
const LEFT_OUT =
  /^usr\/(?:share\/(?:doc|man|info|lintian|locale|bug|postgresql\/[^/]+\/man|zoneinfo\/(?!UTC$|Europe\/Berlin$|Europe$))|lib\/postgresql\/[^/]+\/lib\/bitcode|lib\/x86_64-linux-gnu\/gconv)(?:\/|$)/;

/** What packages install, as it is in them: modes, owners and links. Directories of Debian that are links into /usr are taken as such. */
export async function* packageItems(packages: Packages, names: readonly string[], keep: (path: string) => boolean = () => true): AsyncGenerator<TarItem> {
  const directories = new Set<string>();
  for (const name of names) {
    const child = spawn("dpkg-deb", ["--fsys-tarfile", packages.get(name) ?? name], { stdio: ["ignore", "pipe", "inherit"] });
    for await (const entry of readTar(child.stdout as AsyncIterable<Uint8Array>)) {
      const path = merged(safePath(entry.path));
      if (path === "" || LEFT_OUT.test(path) || !keep(path)) continue;
      const base = { path, mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs: entry.xattrs };
      if (entry.kind === "file") yield { ...base, kind: "file", size: entry.size, data: entry.data };
      else if (entry.kind === "symlink") yield { ...base, kind: "symlink", target: entry.target };
      else if (entry.kind === "hardlink") yield { ...base, kind: "hardlink", target: merged(safePath(entry.target)) };
      else if (entry.kind === "directory" && !directories.has(path)) {
        directories.add(path);
        yield { ...base, kind: "directory" };
      }
    }
  }
}

const MERGED: readonly string[] = ["bin", "sbin", "lib", "lib64"];

function merged(path: string): string {
  return MERGED.some((top) => path === top || path.startsWith(`${top}/`)) ? `usr/${path}` : path;
}

/** Programs of BusyBox that the shell finds by their names. */
const APPLETS =
  "sh ash cat cp cut chmod chown date dd df dirname echo env expr false find grep head hostname httpd id kill ln ls mkdir mkfifo mktemp mount mv nc nslookup od ping ps pwd readlink rm sed seq sha256sum sleep sort stat stty sync tail tee test touch tr true tty umount uname vi wc wget which yes";

/** The bottom of every image: directories, users, a shell. */
export async function* baseItems(packages: Packages): AsyncGenerator<TarItem> {
  for (const name of [
    "dev",
    "etc",
    "home",
    "mnt",
    "proc",
    "run",
    "sys",
    "usr",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "var",
    "var/lib",
    "var/log",
    "var/cache",
  ])
    yield directoryItem(name);
  for (const name of MERGED) yield linkItem(name, `usr/${name}`);
  yield directoryItem("root", 0o700);
  for (const name of ["tmp", "var/tmp", "run/lock"]) yield directoryItem(name, 0o1777);
  yield fileItem(
    "etc/passwd",
    Object.entries(USERS)
      .map(([name, id]) => `${name}:x:${id}:${id}::/home/${name}:/bin/sh\n`)
      .join(""),
    0o644,
  );
  yield fileItem(
    "etc/group",
    `${Object.entries(USERS)
      .map(([name, id]) => `${name}:x:${id}:\n`)
      .join("")}tty:x:5:\naudio:x:29:redis\n`,
    0o644,
  );
  yield fileItem("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644);
  yield fileItem("etc/hosts", "127.0.0.1 localhost\n", 0o644);
  yield* packageItems(packages, ["busybox-static"], (path) => path === "usr/bin/busybox");
  for (const name of APPLETS.split(" ")) yield linkItem(`usr/bin/${name}`, "busybox");
}

/** Users of the images: those that the packages' scripts would make. */
export const USERS = { root: 0, "www-data": 33, postgres: 101, app: 1000, redis: 999, nobody: 65534 } as const;

/** A character device or the like cannot stand for a removed file in an archive: its name does (OCI image specification, "Whiteouts"). */
export function whiteoutItem(path: string): TarItem {
  const at = path.lastIndexOf("/") + 1;
  return fileItem(`${path.slice(0, at)}.wh.${path.slice(at)}`, new Uint8Array(0), 0o644);
}

/** What makes a directory of a layer hide all that is below it in lower layers. */
export function opaqueItem(path: string): TarItem {
  return fileItem(`${path}/.wh..wh..opq`, new Uint8Array(0), 0o644);
}

/** `security.capability` of a file: these capabilities (a mask of their numbers) are permitted and effective (capabilities(7), version 2). */
export function fileCapabilities(mask: number): ReadonlyMap<string, Uint8Array> {
  const value = Buffer.alloc(20);
  value.writeUInt32LE(0x02000001, 0);
  value.writeUInt32LE(mask, 4);
  return new Map([["security.capability", new Uint8Array(value)]]);
}

/** Text of a file. */
export function textItem(path: string, text: string, change: Partial<Pick<TarItem, "uid" | "gid" | "mode">> = {}): TarItem {
  return { kind: "file", path, mode: 0o644, uid: 0, gid: 0, mtime: 0, ...change, data: encodeUtf8(text) };
}
