import type { Readable } from "node:stream";

/** How long a read waits after the process has gone, if another process still holds its pipe open (specs/runtime.md 2.7). */
const GRACE_MS = 500;
/** Most bytes of one answer: one pipe's worth, far below the 4 MiB of a ttRPC message. */
const MAX_READ_BYTES = 64 * 1024;

const NOTHING = new Uint8Array(0);

/**
 * One output stream of a process. It holds no more than the stream's own buffer; when that is full, the pipe fills up and the process waits.
 */
export class Output {
  readonly #stream: Readable;
  #discarding = false;
  /** True when the process has been gone for {@link GRACE_MS}. */
  #abandoned = false;
  #grace: NodeJS.Timeout | undefined;
  #change = Promise.withResolvers<void>();

  /** @param exited settles when the process is gone */
  constructor(stream: Readable, exited: Promise<unknown>) {
    this.#stream = stream;
    for (const event of ["readable", "end", "close", "error"]) stream.on(event, () => this.#changed());
    const abandon = (): void => {
      if (this.ended) return;
      // Once more what is there is read, if the agent itself was held up all the while: timers come before input.
      const end = (): void => {
        this.#abandoned = true;
        this.#changed();
      };
      this.#grace = setTimeout(() => setImmediate(end), GRACE_MS).unref();
    };
    exited.then(abandon, abandon);
  }

  /** True when no byte is left to read. */
  get ended(): boolean {
    return this.#stream.readableEnded || this.#stream.destroyed;
  }

  /** Waits for at least one byte and gives at most `length`; nothing at the end of the output. */
  async read(length: number): Promise<Uint8Array> {
    for (;;) {
      const buffered = this.#discarding ? 0 : this.#stream.readableLength;
      if (buffered > 0) {
        const chunk: unknown = this.#stream.read(Math.min(length, buffered, MAX_READ_BYTES));
        if (chunk instanceof Uint8Array) return chunk;
      }
      if (this.ended || this.#abandoned) return NOTHING;
      // Fills an empty buffer, and lets an exhausted stream come to its end, which it does when it is read only.
      this.#stream.read(0);
      await this.#change.promise;
    }
  }

  /** Reads and forgets everything from now on: a process whose output nobody may see must not block on a full pipe. */
  discard(): void {
    this.#discarding = true;
    this.#changed();
  }

  /** Forgets what was not read. */
  close(): void {
    clearTimeout(this.#grace);
    this.#stream.destroy();
  }

  #changed(): void {
    if (this.#discarding) while (this.#stream.read() !== null);
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }
}
