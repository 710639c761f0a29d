import type { ByteSource, FileTree } from "@sealpod/core";
import { isSealpodError } from "@sealpod/core";
import { readTar, safePath } from "@sealpod/verity";
import { OciError } from "./errors.ts";

/** Unit of a tar archive. */
const BLOCK = 512;
/** Bytes that are read at a time. */
const CHUNK = 1024 * 1024;
/** An archive has a few members per layer. */
const MAX_MEMBERS = 20_000;
/** Links in a row: Linux follows as many. */
const MAX_LINKS = 40;

/** A member that is a file, by its place, or a link, by where it leads. */
type Member = { readonly kind: "file"; readonly offset: number; readonly size: number } | { readonly kind: "link"; readonly target: string | undefined };

/**
 * The files of a tar archive, read where they lie. Only headers are read here, however large the archive is; links inside
 * the archive are followed.
 * @throws {OciError} ERR_OCI_DOCUMENT if it is no tar archive, or a name stands for two files
 */
export async function openTarTree(source: ByteSource, what: string): Promise<FileTree> {
  const members = await readDirectory(source, what);
  const find = (path: string): { readonly offset: number; readonly size: number } | undefined => {
    let member = members.get(path);
    for (let links = 0; member?.kind === "link"; links++) {
      if (links === MAX_LINKS) throw new OciError("ERR_OCI_DOCUMENT", `${what}: ${JSON.stringify(path)} is a link to a link without end`);
      member = member.target === undefined ? undefined : members.get(member.target);
    }
    return member;
  };
  const open = (path: string): { readonly offset: number; readonly size: number } => {
    const found = find(path);
    if (found === undefined) throw new OciError("ERR_OCI_NOT_FOUND", `${what} has no file ${JSON.stringify(path.slice(0, 300))}`);
    return found;
  };
  return {
    async read(path, limit) {
      const { offset, size } = open(path);
      if (size > limit) throw new OciError("ERR_OCI_LIMIT", `${what}: ${path} has ${size} bytes, more than the limit of ${limit}`, { details: { limit } });
      return source.read(offset, size);
    },
    async *stream(path) {
      const { offset, size } = open(path);
      for (let at = 0; at < size; at += CHUNK) yield await source.read(offset + at, Math.min(CHUNK, size - at));
    },
    size: (path) => Promise.resolve(find(path)?.size),
  };
}

async function readDirectory(source: ByteSource, what: string): Promise<ReadonlyMap<string, Member>> {
  const members = new Map<string, Member>();
  const headers = new HeaderStream(source);
  try {
    for await (const entry of readTar(headers, { maxEntries: MAX_MEMBERS, maxTotalSize: Number.MAX_SAFE_INTEGER })) {
      if (entry.kind === "directory") continue;
      const path = safePath(entry.path);
      if (members.has(path)) throw new OciError("ERR_OCI_DOCUMENT", `${what} has two members ${JSON.stringify(path)}: readers disagree which one counts`);
      if (entry.kind === "file") members.set(path, { kind: "file", offset: headers.offset, size: entry.size });
      else if (entry.kind === "symlink") members.set(path, { kind: "link", target: linkTarget(path, entry.target) });
      else if (entry.kind === "hardlink") members.set(path, { kind: "link", target: safePath(entry.target) });
      headers.skip(entry.size);
    }
  } catch (cause) {
    if (cause instanceof OciError || !isSealpodError(cause)) throw cause;
    throw new OciError("ERR_OCI_DOCUMENT", `${what} is not a tar archive of images: ${cause.message}`, {
      cause,
      hint: "Write it with `docker save`, `podman save` or `skopeo copy … docker-archive:FILE`, and do not compress it.",
    });
  }
  return members;
}

/**
 * The archive with zeros in the place of its files' data: the reader of tars looks at headers alone, so nothing else has
 * to be read from a disk. The reader asks for the next block only when it needs it, so at each member `offset` is where its data begins.
 */
class HeaderStream implements AsyncIterable<Uint8Array> {
  /** Bytes given so far. */
  offset = 0;
  readonly #source: ByteSource;
  readonly #zeros = new Uint8Array(CHUNK);
  #skip = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /** Says that data of a member comes next. */
  skip(size: number): void {
    this.#skip = size;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    while (this.offset < this.#source.size) {
      const left = this.#source.size - this.offset;
      const isData = this.#skip > 0;
      const length = Math.min(left, isData ? Math.min(this.#skip, CHUNK) : BLOCK - (this.offset % BLOCK));
      const block = isData ? this.#zeros.subarray(0, length) : await this.#source.read(this.offset, length);
      this.offset += length;
      if (isData) this.#skip -= length;
      yield block;
    }
  }
}

/** Path that a symbolic link leads to; undefined if it leaves the archive. */
function linkTarget(path: string, target: string): string | undefined {
  if (target.startsWith("/")) return undefined;
  const parts = path.split("/").slice(0, -1);
  for (const part of target.split("/")) {
    if (part === "" || part === ".") continue;
    if (part !== "..") parts.push(part);
    else if (parts.pop() === undefined) return undefined;
  }
  return parts.join("/");
}
