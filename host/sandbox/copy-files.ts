import { constants, type Stats } from "node:fs";
import { lstat, open, readdir, readlink, realpath, type FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { encodeUtf8, messageOf } from "@sealpod/core";
import type { CopyFileRequestSchema, MessageInitShape } from "@sealpod/proto";
import { SandboxError } from "./errors.ts";

/** What is copied, and how. */
export interface CopySource {
  /** Path on the host. A link there is followed, as a bind mount would. */
  readonly source: string;
  /** Path in the guest. */
  readonly target: string;
  /** Who owns the file at a path, if not who the file system says. */
  readonly ownerOf?: (path: string) => FileOwner | undefined;
}

/** One request of a copy. */
export type CopyFileInit = MessageInitShape<typeof CopyFileRequestSchema>;

/** Who owns a file. */
export interface FileOwner {
  readonly uid: number;
  readonly gid: number;
}

/** Bytes of a file in one request: what other shims send, a quarter of the largest ttRPC message. */
export const COPY_CHUNK: number = 1024 * 1024;

/** Files of one mount. Each is a request that a policy decides on; a volume with more is not one to be copied. */
const MAX_COPY_ENTRIES = 16_384;

/** Bytes of one mount, 512 MiB: they fill the guest's memory. */
const MAX_COPY_BYTES: number = 512 * 1024 * 1024;

/** Mode of directories that the agent has to make on the way. */
const PARENT_MODE = 0o755;

/**
 * Copies a file or a directory with all that is in it (specs/runtime.md 2.8, 4.11). Links are copied as links. Sockets, pipes and devices are
 * left out.
 * @param send takes one request, in order
 * @throws {SandboxError} ERR_SANDBOX_FILES
 */
export async function copyFiles({ source, target, ownerOf = () => undefined }: CopySource, send: (request: CopyFileInit) => Promise<void>): Promise<void> {
  const top = await reading(source, realpath(source));
  const copy = new Copy(source, send, ownerOf);
  await copy.entry(top, target, await reading(source, lstat(top)));
}

class Copy {
  readonly #root: string;
  readonly #send: (request: CopyFileInit) => Promise<void>;
  readonly #ownerOf: (path: string) => FileOwner | undefined;
  #entries = 0;
  #bytes = 0;

  constructor(root: string, send: (request: CopyFileInit) => Promise<void>, ownerOf: (path: string) => FileOwner | undefined) {
    this.#root = root;
    this.#send = send;
    this.#ownerOf = ownerOf;
  }

  async entry(source: string, target: string, file: Stats): Promise<void> {
    if (++this.#entries > MAX_COPY_ENTRIES) throw this.#tooMuch(`more than ${MAX_COPY_ENTRIES} files`);
    if (file.isDirectory()) await this.#directory(source, target, file);
    else if (file.isFile()) await this.#file(source, target);
    else if (file.isSymbolicLink()) await this.#send({ ...this.#header(source, target, file), data: encodeUtf8(await reading(source, readlink(source))) });
  }

  async #directory(source: string, target: string, file: Stats): Promise<void> {
    await this.#send(this.#header(source, target, file));
    const names = (await reading(source, readdir(source))).sort();
    for (const name of names) {
      const path = join(source, name);
      await this.entry(path, `${target}/${name}`, await reading(path, lstat(path)));
    }
  }

  async #file(source: string, target: string): Promise<void> {
    // Opened once: what is measured is what is sent, also if the name points elsewhere in the meantime.
    await using handle = await reading(source, open(source, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW));
    const file = await handle.stat();
    if (!file.isFile()) throw new SandboxError("ERR_SANDBOX_FILES", `${source} is no longer a regular file`);
    this.#bytes += file.size;
    if (this.#bytes > MAX_COPY_BYTES) throw this.#tooMuch(`more than ${MAX_COPY_BYTES} bytes`);
    const request = { ...this.#header(source, target, file), fileSize: BigInt(file.size) };
    if (file.size === 0) await this.#send(request);
    for (let offset = 0; offset < file.size; offset += COPY_CHUNK) {
      await this.#send({ ...request, offset: BigInt(offset), data: await readExactly(source, handle, offset, Math.min(COPY_CHUNK, file.size - offset)) });
    }
  }

  #header(source: string, path: string, file: Stats): CopyFileInit {
    const { uid, gid } = this.#ownerOf(source) ?? file;
    return { path, fileMode: file.mode, dirMode: PARENT_MODE, uid, gid };
  }

  #tooMuch(what: string): SandboxError {
    return new SandboxError("ERR_SANDBOX_FILES", `${this.#root} has ${what}: it cannot be copied into the guest`, {
      hint: "Volumes are copied into the guest's memory. Put large data into the image.",
    });
  }
}

async function readExactly(path: string, handle: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let filled = 0; filled < length;) {
    const { bytesRead } = await reading(path, handle.read(bytes, filled, length - filled, offset + filled));
    if (bytesRead === 0) throw new SandboxError("ERR_SANDBOX_FILES", `${path} became shorter while it was copied`);
    filled += bytesRead;
  }
  return bytes;
}

async function reading<T>(path: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (cause) {
    throw new SandboxError("ERR_SANDBOX_FILES", `cannot read ${path}: ${messageOf(cause)}`, { cause });
  }
}
