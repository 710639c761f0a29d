import { writeSync } from "node:fs";

/** Bytes that are held back at most. */
const MAX_HELD = 64 * 1024;
/** Milliseconds for which a reader that does not read stops the process, before lines are dropped and counted. */
const FULL_PIPE_WAIT = 100;

/**
 * Writes log lines to a file descriptor: those of one turn of the event loop with one system call. `flush` before the process ends.
 */
export class LogWriter {
  readonly #descriptor: number;
  readonly #write: (descriptor: number, bytes: Uint8Array) => number;
  #held = "";
  #isScheduled = false;
  #dropped = 0;

  /** @param write for tests; `fs.writeSync` otherwise */
  constructor(descriptor: number, write: (descriptor: number, bytes: Uint8Array) => number = (to, bytes) => writeSync(to, bytes)) {
    this.#descriptor = descriptor;
    this.#write = write;
  }

  /** Lines that could not be written because nobody read. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Takes a line with its newline. */
  readonly line = (text: string): void => {
    this.#held += text;
    if (this.#held.length >= MAX_HELD) this.flush();
    else if (!this.#isScheduled) {
      this.#isScheduled = true;
      setImmediate(this.#onTurn);
    }
  };

  /** Writes what is held. A full pipe is waited for shortly; a closed one takes nothing any more, and a log that fails must not end the service. */
  flush(): void {
    if (this.#held === "") return;
    const text = this.#held;
    this.#held = "";
    const bytes = Buffer.from(text);
    const end = performance.now() + FULL_PIPE_WAIT;
    for (let at = 0; at < bytes.length;) {
      try {
        at += this.#write(this.#descriptor, bytes.subarray(at));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "EAGAIN" && performance.now() < end) {
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
          continue;
        }
        this.#dropped += bytes.subarray(at).toString("latin1").split("\n").length - 1;
        return;
      }
    }
  }

  readonly #onTurn = (): void => {
    this.#isScheduled = false;
    this.flush();
  };
}
