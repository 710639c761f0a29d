import { constants, statSync, type Stats } from "node:fs";
import { mkdir, open, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { messageOf, silentLogger, type Logger } from "@sealpod/core";
import { systemTimer } from "@sealpod/ttrpc";
import { ShimError } from "./errors.ts";
import type { StreamNames, TaskStreams } from "./pod.ts";
import { FifoSink, FifoSource, type OutputTarget, STREAM_TIMES, type StreamTimes } from "./streams-fifo.ts";
import { LoggerProgram, type StreamOwner } from "./streams-logger.ts";
import { parseStreamName, unusable } from "./streams-names.ts";
import { endsWithin } from "./time-limit.ts";

/** Options of {@link openStreams}. */
export interface StreamOptions {
  readonly logger?: Logger;
  readonly times?: StreamTimes;
}

/** Mode of a log file and of the directories on the way to it, as other shims make them. */
const FILE_MODE = 0o644;
const DIRECTORY_MODE = 0o755;

/** Device number of /dev/null: major 1, minor 3. */
const NULL_DEVICE = 0x103;

/**
 * Opens the streams that containerd named for a process (specs/runtime.md 5.6). Names that are equal are one target; a terminal has no standard error.
 * A reader that takes nothing holds up the writes of its own stream and nothing else; nothing is kept in memory but what is being written.
 * @param owner what a `binary://` logger is told
 * @throws {ShimError} ERR_SHIM_STREAM; nothing is left open then
 */
export async function openStreams(names: StreamNames, owner: StreamOwner, options: StreamOptions = {}): Promise<TaskStreams> {
  const { logger = silentLogger, times = STREAM_TIMES } = options;
  const targets = new Map<string, Target>();
  const closeAll = async (): Promise<void> => void (await Promise.all([stdin?.close(), ...[...targets.values()].map((target) => target.close())]));
  const output = async (stream: "stdout" | "stderr"): Promise<OutputTarget | undefined> => {
    const name = names[stream];
    const target = targets.get(name) ?? (await openTarget(stream, name, owner, { logger, times }));
    if (target === undefined) return undefined;
    targets.set(name, target);
    return target instanceof LoggerProgram ? target.stream(stream) : target;
  };
  let stdin: FifoSource | undefined;
  try {
    stdin = openInput(names.stdin);
    const stdout = await output("stdout");
    const stderr = names.terminal ? undefined : await output("stderr");
    const input = stdin;
    return { stdout, stderr, stdin: input, closeStdin: () => input?.finish(), close: closeAll };
  } catch (error) {
    await closeAll();
    throw error;
  }
}

type Target = OutputTarget | LoggerProgram;

function openInput(name: string): FifoSource | undefined {
  const target = parseStreamName("stdin", name);
  if (target === undefined) return undefined;
  if (target.kind !== "path") throw unusable("stdin", name, `is a ${target.kind}:// URI, which is for output`);
  const file = status("stdin", name, target.path);
  if (file === undefined) throw unusable("stdin", name, "does not exist");
  if (!file.isFIFO()) throw unusable("stdin", name, "is no FIFO");
  return FifoSource.open("stdin", target.path);
}

async function openTarget(
  stream: "stdout" | "stderr",
  name: string,
  owner: StreamOwner,
  options: { readonly logger: Logger; readonly times: StreamTimes },
): Promise<Target | undefined> {
  const target = parseStreamName(stream, name);
  if (target === undefined) return undefined;
  if (target.kind === "binary") return LoggerProgram.start(target, owner, options);
  // What it is says how it is opened, not the URI. Looked at first: to open a device can do something.
  const file = status(stream, name, target.path);
  if (file?.isFIFO()) return FifoSink.open(stream, target.path, options.times);
  if (file?.isCharacterDevice() && file.rdev === NULL_DEVICE) return undefined;
  if (file === undefined && target.kind === "path") throw unusable(stream, name, "does not exist");
  if (file !== undefined && !file.isFile()) throw unusable(stream, name, "is neither a FIFO nor a file");
  return FileSink.open(stream, target.path, options.times);
}

function status(stream: string, name: string, path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (cause) {
    throw unusable(stream, name, `cannot be opened: ${messageOf(cause)}`, cause);
  }
}

/** A file that output is added to. */
class FileSink implements OutputTarget {
  readonly #stream: string;
  readonly #file: FileHandle;
  readonly #times: StreamTimes;
  #last: Promise<void> = Promise.resolve();
  #closed: Promise<void> | undefined;

  constructor(stream: string, file: FileHandle, times: StreamTimes) {
    this.#stream = stream;
    this.#file = file;
    this.#times = times;
  }

  static async open(stream: string, path: string, times: StreamTimes): Promise<FileSink> {
    try {
      await mkdir(dirname(path), { recursive: true, mode: DIRECTORY_MODE });
      const { O_WRONLY, O_CREAT, O_APPEND, O_NOCTTY, O_NONBLOCK } = constants;
      const file = await open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY | O_NONBLOCK, FILE_MODE);
      if ((await file.stat()).isFile()) return new FileSink(stream, file, times);
      await file.close();
    } catch (cause) {
      throw unusable(stream, path, `cannot be opened: ${messageOf(cause)}`, cause);
    }
    throw unusable(stream, path, "is neither a FIFO nor a file");
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#closed !== undefined) return Promise.reject(new ShimError("ERR_SHIM_STREAM", `${this.#stream} is closed`));
    // One after the other: both streams of a process may end here.
    this.#last = this.#last.catch(() => undefined).then(() => this.#append(bytes));
    return this.#last;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await endsWithin(systemTimer, this.#times.closeGrace, this.#last);
    await endsWithin(systemTimer, this.#times.closeGrace, this.#file.close());
  }

  async #append(bytes: Uint8Array): Promise<void> {
    try {
      await this.#file.appendFile(bytes);
    } catch (cause) {
      throw new ShimError("ERR_SHIM_STREAM", `${this.#stream}: cannot write to its file: ${messageOf(cause)}`, { cause });
    }
  }
}
