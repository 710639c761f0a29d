import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { lstat, readlink, realpath, stat } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { encodeJson, encodeUtf8, messageOf, sha256, toHex } from "@sealpod/core";
import { encodeTar } from "@sealpod/verity";
import type { TarItem } from "@sealpod/verity";
import { ImagesError } from "./errors.ts";

/** A thing at a path of a layer. Owners are root and times 1970 throughout. */
type Node =
  | { readonly kind: "directory"; readonly mode: number }
  | { readonly kind: "symlink"; readonly target: string }
  | { readonly kind: "file"; readonly mode: number; readonly data: Uint8Array }
  | { readonly kind: "host-file"; readonly mode: number; readonly from: string; readonly size: number };

const FIXED = { uid: 0, gid: 0, mtime: 0 } as const;

/** Links on the way from a soname to its file: more than a few are a loop. */
const MAX_LINKS = 16;

/**
 * The files of one layer, by path without a leading `/`. Directories on the way are made as they are needed; the tar is in the
 * order of the paths' bytes, so the order of the calls does not matter.
 */
export class Rootfs {
  readonly #nodes = new Map<string, Node>();

  /** Paths that are in the layer. */
  get paths(): readonly string[] {
    return [...this.#nodes.keys()].sort();
  }

  has(path: string): boolean {
    return this.#nodes.has(path);
  }

  addDirectory(path: string, mode = 0o755): this {
    return this.#put(path, { kind: "directory", mode });
  }

  addSymlink(path: string, target: string): this {
    return this.#put(path, { kind: "symlink", target });
  }

  addFile(path: string, mode: number, content: Uint8Array | string): this {
    return this.#put(path, { kind: "file", mode, data: typeof content === "string" ? encodeUtf8(content) : content });
  }

  /** A file of this machine at a path of the caller's choice. */
  async addHostFileAs(path: string, from: string): Promise<this> {
    try {
      const status = await stat(from);
      if (!status.isFile()) throw new Error("not a regular file");
      // The machine's umask and setuid bits are none of the image's business: a file can be run or it cannot.
      return this.#put(path, { kind: "host-file", mode: (status.mode & 0o111) === 0 ? 0o644 : 0o755, from, size: status.size });
    } catch (cause) {
      if (cause instanceof ImagesError) throw cause;
      throw new ImagesError("ERR_IMAGES_PACKAGE", `cannot take ${from} into the image: ${messageOf(cause)}`, { cause });
    }
  }

  /**
   * A file of this machine at its own path. Links on the way to its directory are followed (Debian has /lib -> usr/lib);
   * a link at the end stays a link, and what it leads to comes along.
   * @returns the file at the end of the links
   */
  async addHostFile(path: string): Promise<string> {
    let current = path;
    for (let links = 0; links < MAX_LINKS; links++) {
      const directory = await this.#real(dirname(current));
      const full = resolve(directory, basename(current));
      const status = await lstat(full);
      if (!status.isSymbolicLink()) {
        await this.addHostFileAs(full.slice(1), full);
        return full;
      }
      const target = await readlink(full);
      this.addSymlink(full.slice(1), target);
      current = resolve(directory, target);
    }
    throw new ImagesError("ERR_IMAGES_PACKAGE", `${path} leads over more than ${MAX_LINKS} links`);
  }

  /** The layer as a tar. */
  tar(): AsyncIterable<Uint8Array> {
    return encodeTar(this.#items());
  }

  /** Digest of everything that the tar depends on. Computed from contents, so a touched but unchanged file changes nothing. */
  async inputsDigest(): Promise<string> {
    const lines: string[] = [];
    for (const [path, node] of this.#sorted()) {
      const content =
        node.kind === "host-file" ? await hashFile(node.from) : node.kind === "file" ? toHex(sha256(node.data)) : node.kind === "symlink" ? node.target : "";
      lines.push(encodeJson([path, node.kind === "host-file" ? "file" : node.kind, node.kind === "symlink" ? 0 : node.mode, content]));
    }
    return toHex(sha256(encodeUtf8(lines.join("\n"))));
  }

  *#items(): Generator<TarItem> {
    for (const [path, node] of this.#sorted()) {
      switch (node.kind) {
        case "directory":
          yield { ...FIXED, kind: "directory", path, mode: node.mode };
          break;
        case "symlink":
          yield { ...FIXED, kind: "symlink", path, mode: 0o777, target: node.target };
          break;
        case "file":
          yield { ...FIXED, kind: "file", path, mode: node.mode, data: node.data };
          break;
        case "host-file":
          yield { ...FIXED, kind: "file", path, mode: node.mode, size: node.size, data: createReadStream(node.from, { highWaterMark: 1024 * 1024 }) };
          break;
      }
    }
  }

  #sorted(): readonly (readonly [string, Node])[] {
    // A directory's path is a prefix of what is in it, so it comes first.
    return [...this.#nodes].sort(([a], [b]) => Buffer.compare(encodeUtf8(a), encodeUtf8(b)));
  }

  #put(path: string, node: Node): this {
    if (path === "" || path.startsWith("/") || path.split("/").some((part) => part === "" || part === "." || part === "..")) {
      throw new ImagesError("ERR_IMAGES_ROOTFS", `${JSON.stringify(path)} is not a path of an image`);
    }
    const parent = path.includes("/") ? dirname(path) : undefined;
    if (parent !== undefined) {
      const found = this.#nodes.get(parent);
      if (found === undefined) this.addDirectory(parent);
      else if (found.kind !== "directory") throw new ImagesError("ERR_IMAGES_ROOTFS", `${path} stands under ${parent}, which is a ${found.kind}`);
    }
    const old = this.#nodes.get(path);
    if (old !== undefined && !sameNode(old, node)) throw new ImagesError("ERR_IMAGES_ROOTFS", `${path} is put into the image twice, as different things`);
    this.#nodes.set(path, node);
    return this;
  }

  async #real(directory: string): Promise<string> {
    try {
      return await realpath(directory);
    } catch (cause) {
      throw new ImagesError("ERR_IMAGES_PACKAGE", `cannot take files from ${directory}: ${messageOf(cause)}`, { cause });
    }
  }
}

function sameNode(a: Node, b: Node): boolean {
  if (a.kind === "symlink" && b.kind === "symlink") return a.target === b.target;
  if (a.kind === "directory" && b.kind === "directory") return a.mode === b.mode;
  if (a.kind === "host-file" && b.kind === "host-file") return a.from === b.from;
  return a.kind === "file" && b.kind === "file" && a.mode === b.mode && Buffer.compare(a.data, b.data) === 0;
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}
