import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { Socket } from "node:net";
import { messageOf, type ByteSink } from "@sealpod/core";
import { systemTimer } from "@sealpod/ttrpc";
import { ShimError } from "./errors.ts";
import { unusable } from "./streams-names.ts";
import { endsWithin } from "./time-limit.ts";

/** Times of streams, in milliseconds. */
export interface StreamTimes {
  /** For a reader to take what is being written when the stream is closed. All that was written before its process ended has had its time already. */
  readonly closeGrace: number;
  /** For a reader to come after the stream was closed: a containerd that restarts is back by then. */
  readonly lateReader: number;
  /** For a logger to say that it is ready, and again to end once it has been asked to. */
  readonly logger: number;
}

/** What the shim uses. */
export const STREAM_TIMES: StreamTimes = { closeGrace: 500, lateReader: 10_000, logger: 5000 };

/** Milliseconds before the second look whether a reader has come; those before the following ones double. */
const FIRST_PAUSE = 100;

/**
 * Pauses before each look but the first whether a reader has come, `limit` milliseconds in all. The kernel tells nobody: Node's file watcher has no event for
 * it, and an open that waits would take a thread of Node's few. A reader has what was written at once; what may come late is its end of file.
 */
export function lookPauses(limit: number): readonly number[] {
  const pauses: number[] = [];
  for (let [left, next] = [limit, FIRST_PAUSE]; left > 0; [left, next] = [left - next, 2 * next]) pauses.push(Math.min(left, next));
  return pauses;
}

/** Bytes of one read: a pipe's length. */
const READ_LENGTH = 65_536;

/** Something that takes a stream of output. */
export interface OutputTarget extends ByteSink {
  /** What has been taken is there for whoever reads it; what is being written has {@link StreamTimes.closeGrace}. Never rejects. */
  close(): Promise<void>;
}

/** Writes to a socket, pipe or FIFO that must have an `error` listener; resolves when the kernel has taken all bytes. */
export function writeTo(socket: Socket, stream: string, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.write(bytes, (error) => {
      if (error) reject(new ShimError("ERR_SHIM_STREAM", `${stream}: the reader is gone or takes nothing: ${messageOf(error)}`, { cause: error }));
      else resolve();
    });
  });
}

/**
 * A FIFO that output goes to. It is open for reading and writing, so that it opens without a reader and a reader may go and another come: output waits in the
 * pipe (64 KiB) for the next one, and the process of the guest waits once that is full.
 */
export class FifoSink implements OutputTarget {
  readonly #stream: string;
  readonly #fd: number;
  readonly #socket: Socket;
  readonly #times: StreamTimes;
  #last: Promise<void> = Promise.resolve();
  #used = false;
  #closed: Promise<void> | undefined;

  private constructor(stream: string, fd: number, times: StreamTimes) {
    this.#stream = stream;
    this.#fd = fd;
    this.#times = times;
    // Never read from: a read would take the bytes that are for others.
    this.#socket = new Socket({ fd, readable: false, writable: true });
    // The write that fails says so itself.
    this.#socket.on("error", () => undefined);
  }

  /** @throws {ShimError} ERR_SHIM_STREAM */
  static open(stream: string, path: string, times: StreamTimes): FifoSink {
    return new FifoSink(stream, openFifo(stream, path, constants.O_RDWR), times);
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#closed !== undefined) return Promise.reject(new ShimError("ERR_SHIM_STREAM", `${this.#stream} is closed`));
    this.#used ||= bytes.length > 0;
    this.#last = writeTo(this.#socket, this.#stream, bytes);
    return this.#last;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await endsWithin(systemTimer, this.#times.closeGrace, this.#last);
    if (this.#used) this.#keepForReader();
    await destroyed(this.#socket);
  }

  /**
   * Holds the FIFO until a reader has it open: the kernel throws away what is in a pipe when the last who has it open closes it. Held is a writing end alone,
   * since that one can tell whether there is a reader; a reader gets its end of file when it is let go.
   */
  #keepForReader(): void {
    const end = openAgain(this.#fd);
    if (end === undefined) return;
    const pauses = [...lookPauses(this.#times.lateReader)];
    const look = (): void => {
      // Without a name nobody will come; and all of it ends with the shim.
      const pause = fstatSync(end).nlink > 0 && !hasReader(end) ? pauses.shift() : undefined;
      if (pause === undefined) closeSync(end);
      else setTimeout(look, pause).unref();
    };
    this.#socket.once("close", look);
  }
}

/**
 * A FIFO that input comes from. A writer may come late; when the last has gone, the input has ended. Read is one pipe's length ahead of the consumer at most.
 */
export class FifoSource implements AsyncIterable<Uint8Array> {
  readonly #fd: number;
  readonly #socket: Socket;
  #chunk: Uint8Array | undefined;
  #ended = false;
  #finishing = false;
  #change: PromiseWithResolvers<void> = Promise.withResolvers();
  readonly #iterator: AsyncIterator<Uint8Array, undefined> = {
    next: () => this.#next(),
    return: async () => {
      await this.close();
      return { done: true, value: undefined };
    },
  };

  private constructor(fd: number) {
    this.#fd = fd;
    const take = (length: number, buffer: Uint8Array): boolean => {
      this.#chunk = buffer.slice(0, length);
      this.#wake();
      // Pauses: the rest stays in the pipe, and holds up its writer, until this has been consumed.
      return false;
    };
    this.#socket = new Socket({ fd, readable: true, writable: false, onread: { buffer: new Uint8Array(READ_LENGTH), callback: take } });
    const end = (): void => {
      this.#ended = true;
      this.#wake();
    };
    for (const event of ["error", "end", "close"]) this.#socket.on(event, end);
  }

  /** @throws {ShimError} ERR_SHIM_STREAM */
  static open(stream: string, path: string): FifoSource {
    // Not for writing too: the end of the input would never come.
    return new FifoSource(openFifo(stream, path, constants.O_RDONLY));
  }

  /** There is one input: all iterators are the same. */
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array, undefined> {
    return this.#iterator;
  }

  /** Ends the input once what is in the pipe has been read, also if its writer stays. */
  finish(): void {
    this.#finishing = true;
    this.#wake();
  }

  /** Ends the input at once. */
  async close(): Promise<void> {
    this.#ended = true;
    this.#chunk = undefined;
    this.#wake();
    await destroyed(this.#socket);
  }

  async #next(): Promise<IteratorResult<Uint8Array, undefined>> {
    for (;;) {
      let value = this.#chunk;
      this.#chunk = undefined;
      if (value === undefined && !this.#ended && this.#finishing) {
        value = this.#inPipe();
        if (value === undefined) await this.close();
      }
      if (value !== undefined) return { done: false, value };
      if (this.#ended) return { done: true, value: undefined };
      const change = this.#change.promise;
      this.#socket.resume();
      await change;
    }
  }

  /** What can be read now. The socket may read too, but only between two calls of this, so that the order stays. */
  #inPipe(): Uint8Array | undefined {
    // Once destroyed, the number may be that of another file.
    if (this.#socket.destroyed) return undefined;
    const buffer = new Uint8Array(READ_LENGTH);
    try {
      // Never blocks: the pipe is O_NONBLOCK.
      const length = readSync(this.#fd, buffer);
      return length === 0 ? undefined : buffer.subarray(0, length);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      return undefined;
    }
  }

  #wake(): void {
    const change = this.#change;
    this.#change = Promise.withResolvers();
    change.resolve();
  }
}

function openFifo(stream: string, path: string, access: number): number {
  let fd: number;
  try {
    fd = openSync(path, access | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch (cause) {
    throw unusable(stream, path, `cannot be opened: ${messageOf(cause)}`, cause);
  }
  if (fstatSync(fd).isFIFO()) return fd;
  closeSync(fd);
  throw unusable(stream, path, "is no FIFO");
}

/** The same FIFO, whatever its path means by now, for writing alone. Undefined if there are no more descriptors. */
function openAgain(fd: number): number | undefined {
  try {
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
}

/** True if someone has the FIFO open for reading: without one it cannot be opened for writing alone (fifo(7)). */
function hasReader(fd: number): boolean {
  const again = openAgain(fd);
  if (again !== undefined) closeSync(again);
  return again !== undefined;
}

/** Resolves when the descriptor is closed. */
export async function destroyed(socket: Socket): Promise<void> {
  if (socket.closed) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.once("close", resolve);
  socket.destroy();
  await promise;
}
