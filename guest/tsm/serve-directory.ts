import { type BigIntStats, constants, type FSWatcher, watch } from "node:fs";
import { chmod, type FileHandle, lstat, mkdir, open, opendir, rename, rm } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { encodeUtf8, equalBytes, type Logger, messageOf } from "@sealpod/core";
import { TsmError } from "./errors.ts";

/** Most report entries that are served at a time. A guest needs one for some milliseconds. */
export const MAX_TSM_ENTRIES = 64;

/** Most names of the directory that one look reads: the guest makes them, and could make millions. */
const MAX_NAMES = 4096;

/** Most bytes of `inblob`: REPORT_DATA. */
const MAX_INBLOB = 64;

/** Who makes the reports behind a directory. */
export interface ReportProvider {
  /** A report over 64 bytes or fewer, and the host's certificate table. What it rejects with is logged, and its client waits in vain. */
  report(reportData: Uint8Array): TsmBlobs | Promise<TsmBlobs>;
}

/** What the interface gives out. */
export interface TsmBlobs {
  readonly report: Uint8Array;
  readonly auxblob: Uint8Array;
}

/** A directory that is being served as configfs-tsm. */
export interface TsmServer extends AsyncDisposable {
  /** Stops serving; the directory stays. */
  close(): Promise<void>;
}

/**
 * Serves a plain directory as the kernel's `tsm/report` directory (specs/attestation.md section 1.9): a guest makes an entry, writes `inblob`, and finds `outblob`, `auxblob` and
 * `provider`; `generation` is replaced last, so who sees it change sees all outputs. Differences to the kernel: the answer takes a moment, and a refused input shows as a file `error`.
 *
 * The guest writes into the directory and is not trusted. So the server holds each directory by a descriptor and reaches its files through it, follows no link, writes beside and renames.
 * @throws {TsmError} ERR_TSM_SERVE
 */
export async function serveTsm(provider: ReportProvider, directory: string, options: { readonly logger: Logger }): Promise<TsmServer> {
  try {
    await mkdir(directory, { recursive: true });
    await chmod(directory, 0o755);
    const handle = await openDirectory(directory);
    const server = new ReportDirectory(provider, handle, options.logger);
    await server.start();
    return server;
  } catch (cause) {
    throw new TsmError("ERR_TSM_SERVE", `cannot serve ${directory} as configfs-tsm: ${messageOf(cause)}`, { cause });
  }
}

/** Runs a task again and again while it is asked for, never twice at a time. */
class Repeater {
  readonly #task: () => Promise<void>;
  #asked = false;
  #running: Promise<void> | undefined;

  constructor(task: () => Promise<void>) {
    this.#task = task;
  }

  /** Asks for a run that begins after this call. */
  ask(): void {
    this.#asked = true;
    this.#running ??= this.#run();
  }

  /** Resolves when no run is going on. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    // Not at once, so that `#running` is set before a run ends.
    await Promise.resolve();
    while (this.#asked) {
      this.#asked = false;
      await this.#task();
    }
    this.#running = undefined;
  }
}

class ReportDirectory implements TsmServer {
  readonly #provider: ReportProvider;
  readonly #handle: FileHandle;
  readonly #path: string;
  readonly #logger: Logger;
  readonly #entries = new Map<string, ReportEntry>();
  readonly #scan = new Repeater(async () => this.#look());
  #watcher: FSWatcher | undefined;
  #closed = false;

  constructor(provider: ReportProvider, handle: FileHandle, logger: Logger) {
    this.#provider = provider;
    this.#handle = handle;
    this.#path = descriptorPath(handle);
    this.#logger = logger;
  }

  async start(): Promise<void> {
    this.#watcher = watch(this.#path, () => this.#scan.ask());
    this.#watcher.on("error", (error) =>
      this.#logger.log("warn", "EMULATED configfs-tsm: the report directory is no longer watched", { problem: messageOf(error) }),
    );
    // Entries that were made before the watch began.
    this.#scan.ask();
    await this.#scan.idle();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher?.close();
    await this.#scan.idle();
    await Promise.all([...this.#entries.values()].map(async (entry) => entry.close()));
    await this.#handle.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #look(): Promise<void> {
    if (this.#closed) return;
    try {
      const names = await this.#listDirectories();
      for (const [name, entry] of this.#entries) {
        if (names.has(name) && (await entry.isAt(`${this.#path}/${name}`))) continue;
        this.#entries.delete(name);
        await entry.close();
      }
      for (const name of names) if (!this.#entries.has(name)) await this.#add(name);
    } catch (error) {
      this.#logger.log("warn", "EMULATED configfs-tsm: the report directory cannot be read", { problem: messageOf(error) });
    }
  }

  async #listDirectories(): Promise<ReadonlySet<string>> {
    const names = new Set<string>();
    let seen = 0;
    for await (const item of await opendir(this.#path)) {
      if (++seen > MAX_NAMES) break;
      if (item.isDirectory()) names.add(item.name);
    }
    return names;
  }

  async #add(name: string): Promise<void> {
    if (this.#entries.size >= MAX_TSM_ENTRIES) {
      this.#logger.log("warn", "EMULATED configfs-tsm: too many report entries", { limit: MAX_TSM_ENTRIES });
      return;
    }
    let entry: ReportEntry | undefined;
    try {
      entry = new ReportEntry(this.#provider, await openDirectory(`${this.#path}/${name}`), this.#logger);
      await entry.start();
      this.#entries.set(name, entry);
    } catch (error) {
      // Gone again, not a directory after all, or with something of the guest's where our files belong.
      this.#logger.log("debug", "EMULATED configfs-tsm: an entry cannot be served", { problem: messageOf(error) });
      await entry?.close();
    }
  }
}

/** One entry: a directory with an `inblob` to come. */
class ReportEntry {
  readonly #provider: ReportProvider;
  readonly #handle: FileHandle;
  readonly #path: string;
  readonly #logger: Logger;
  readonly #answer = new Repeater(async () => this.#look());
  #watcher: FSWatcher | undefined;
  #closed = false;
  #generation = 0;
  #answered: { readonly status: BigIntStats; readonly bytes: Uint8Array } | undefined;

  constructor(provider: ReportProvider, handle: FileHandle, logger: Logger) {
    this.#provider = provider;
    this.#handle = handle;
    this.#path = descriptorPath(handle);
    this.#logger = logger;
  }

  async start(): Promise<void> {
    await this.#write("provider", encodeUtf8("sev_guest\n"));
    await this.#write("generation", encodeUtf8("0\n"));
    this.#watcher = watch(this.#path, (_event, name) => {
      // The server's own writes cause events too.
      if (name === null || name === "inblob") this.#answer.ask();
    });
    this.#watcher.on("error", (error) => this.#logger.log("debug", "EMULATED configfs-tsm: an entry is no longer watched", { problem: messageOf(error) }));
    // The input may have come before the watch began.
    this.#answer.ask();
  }

  /** True if the path still leads to this entry, not to a new one with the same name. */
  async isAt(path: string): Promise<boolean> {
    try {
      const [there, here] = [await lstat(path, { bigint: true }), await this.#handle.stat({ bigint: true })];
      return there.ino === here.ino && there.dev === here.dev;
    } catch {
      return false;
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher?.close();
    await this.#answer.idle();
    await this.#handle.close();
  }

  async #look(): Promise<void> {
    if (this.#closed) return;
    try {
      const input = await this.#readInput();
      if (input === undefined) return;
      this.#answered = input;
      if (input.bytes.length > MAX_INBLOB) await this.#refuse(`inblob has more than ${MAX_INBLOB} bytes`);
      else await this.#publish(input.bytes);
    } catch (error) {
      // The entry may be gone, or the guest put something in the way of our files. Either way only this entry suffers.
      this.#logger.log("debug", "EMULATED configfs-tsm: an entry cannot be answered", { problem: messageOf(error) });
    }
  }

  /** The input if it is new and whole. */
  async #readInput(): Promise<{ readonly status: BigIntStats; readonly bytes: Uint8Array } | undefined> {
    let file: FileHandle;
    try {
      // A FIFO would block without O_NONBLOCK; a link could lead anywhere.
      file = await open(`${this.#path}/inblob`, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
    try {
      const status = await file.stat({ bigint: true });
      // Empty: the writer has opened it and not yet written; there will be another event.
      if (!status.isFile() || status.size === 0n) return undefined;
      const buffer = new Uint8Array(MAX_INBLOB + 1);
      const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
      const bytes = buffer.slice(0, bytesRead);
      return this.#answered !== undefined && sameFile(this.#answered.status, status) && equalBytes(this.#answered.bytes, bytes) ? undefined : { status, bytes };
    } finally {
      await file.close();
    }
  }

  async #publish(reportData: Uint8Array): Promise<void> {
    const { report, auxblob } = await this.#provider.report(reportData);
    await rm(`${this.#path}/error`, { force: true });
    await this.#write("outblob", report);
    await this.#write("auxblob", auxblob);
    this.#generation++;
    await this.#write("generation", encodeUtf8(`${this.#generation}\n`));
  }

  async #refuse(problem: string): Promise<void> {
    await rm(`${this.#path}/outblob`, { force: true });
    await this.#write("error", encodeUtf8(`${problem}\n`));
  }

  /** Writes beside and renames. The new file's name cannot be foreseen, must not exist, and a rename replaces a link instead of following it. */
  async #write(name: string, bytes: Uint8Array): Promise<void> {
    const beside = `${this.#path}/.${name}.${randomBytes(8).toString("hex")}`;
    const file = await open(beside, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o644);
    try {
      try {
        await file.writeFile(bytes);
      } finally {
        await file.close();
      }
      await rename(beside, `${this.#path}/${name}`);
    } catch (error) {
      await rm(beside, { force: true });
      throw error;
    }
  }
}

/** Opens a directory, not a link to one. */
async function openDirectory(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
}

/** A path through the open descriptor: what is renamed or replaced by a link above it makes no difference (the effect of openat). */
function descriptorPath(handle: FileHandle): string {
  return `/proc/self/fd/${handle.fd}`;
}

/** Same file, not written in between. Two writes of the same bytes within the file system's time grain count as one. */
function sameFile(a: BigIntStats, b: BigIntStats): boolean {
  return a.dev === b.dev && a.ino === b.ino && a.size === b.size && a.mtimeNs === b.mtimeNs && a.ctimeNs === b.ctimeNs;
}
