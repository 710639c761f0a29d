import { encodeUtf8, equalBytes } from "@sealpod/core";
import type { TarItem } from "@sealpod/verity";
import { ImageError } from "./errors.ts";

/** What stands at a path of an image. Owners are root and times 1970 throughout. */
export type ImageNode =
  | { readonly kind: "directory"; readonly mode: number }
  | { readonly kind: "symlink"; readonly target: string }
  | { readonly kind: "file"; readonly mode: number; readonly data: Uint8Array }
  | { readonly kind: "character"; readonly mode: number; readonly major: number; readonly minor: number };

/**
 * The files of an image, by path without a leading `/`. Directories on the way are made as they are needed; readers get them in the order
 * of the paths' bytes, so neither the order of calls nor a locale matters.
 */
export class ImageTree {
  readonly #nodes = new Map<string, ImageNode>();

  get(path: string): ImageNode | undefined {
    return this.#nodes.get(path);
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

  addCharacterDevice(path: string, mode: number, major: number, minor: number): this {
    return this.#put(path, { kind: "character", mode, major, minor });
  }

  /** Everything, a directory before what is in it. */
  entries(): readonly (readonly [path: string, node: ImageNode])[] {
    return [...this.#nodes].sort(([a], [b]) => Buffer.compare(encodeUtf8(a), encodeUtf8(b)));
  }

  *tarItems(): Generator<TarItem> {
    for (const [path, node] of this.entries()) {
      const base = { path, mode: node.kind === "symlink" ? 0o777 : node.mode, uid: 0, gid: 0, mtime: 0 };
      yield { ...base, ...node } as TarItem;
    }
  }

  #put(path: string, node: ImageNode): this {
    // eslint-disable-next-line no-control-regex -- a NUL ends a name for one reader and not for another
    if (path === "" || /\u0000/.test(path) || path.split("/").some((part) => part === "" || part === "." || part === ".."))
      throw new ImageError("ERR_IMAGE_TREE", `${JSON.stringify(path)} is not a path of an image`);
    const slash = path.lastIndexOf("/");
    if (slash !== -1) {
      const parent = path.slice(0, slash);
      const found = this.#nodes.get(parent);
      if (found === undefined) this.addDirectory(parent);
      else if (found.kind !== "directory") throw new ImageError("ERR_IMAGE_TREE", `${path} stands under ${parent}, which is a ${found.kind}`);
    }
    const old = this.#nodes.get(path);
    if (old !== undefined && !sameNode(old, node)) throw new ImageError("ERR_IMAGE_TREE", `${path} is put into the image twice, as different things`);
    this.#nodes.set(path, node);
    return this;
  }
}

function sameNode(a: ImageNode, b: ImageNode): boolean {
  if (a.kind === "symlink" || b.kind === "symlink") return a.kind === "symlink" && b.kind === "symlink" && a.target === b.target;
  if (a.mode !== b.mode) return false;
  if (a.kind === "directory" || b.kind === "directory") return a.kind === b.kind;
  if (a.kind === "file" || b.kind === "file") return a.kind === "file" && b.kind === "file" && equalBytes(a.data, b.data);
  return a.major === b.major && a.minor === b.minor;
}
