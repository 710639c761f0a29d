import { unlessAborted } from "@sealpod/core";

/** Work that several wait for. It begins with the first of them, and is stopped when the last has given it up. */
export class SharedWork<T> {
  readonly #begin: (signal: AbortSignal) => Promise<T>;
  readonly #stop = new AbortController();
  #result: Promise<T> | undefined;
  #waiting = 0;

  /** @param begin must end soon after its signal is aborted */
  constructor(begin: (signal: AbortSignal) => Promise<T>) {
    this.#begin = begin;
  }

  /** True if all have given up: nothing will come of it. */
  get isStopped(): boolean {
    return this.#stop.signal.aborted;
  }

  /** The result. Rejects with the reason of the signal of whoever waits: others go on waiting. */
  async wait(signal: AbortSignal): Promise<T> {
    signal.throwIfAborted();
    this.#waiting++;
    try {
      return await unlessAborted((this.#result ??= this.#begin(this.#stop.signal)), signal);
    } finally {
      if (--this.#waiting === 0) this.#stop.abort(signal.reason);
    }
  }
}
