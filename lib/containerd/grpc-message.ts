import { ContainerdError } from "./errors.ts";

/** Flag and length before each message (gRPC over HTTP/2, "Length-Prefixed-Message"). */
const PREFIX = 5;

/** A message as it goes out: not compressed. */
export function encodeFrame(message: Uint8Array): Uint8Array {
  const frame = new Uint8Array(PREFIX + message.length);
  new DataView(frame.buffer).setUint32(1, message.length);
  frame.set(message, PREFIX);
  return frame;
}

/** Cuts a body into messages. Takes chunks of any size; copies each byte at most once; holds one message at a time. */
export class MessageSplitter {
  readonly #limit: number;
  readonly #prefix = new Uint8Array(PREFIX);
  #prefixLength = 0;
  /** The message that is being filled; undefined while its prefix is read. */
  #message: Uint8Array | undefined;
  #filled = 0;

  /** @param limit bytes that one message may have */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * The messages that a chunk completes. They do not share memory with it or with one another.
   * @throws {ContainerdError} ERR_CONTAINERD_LIMIT before a byte of the message is held, ERR_CONTAINERD_PROTOCOL
   */
  *push(chunk: Uint8Array): Generator<Uint8Array> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#message === undefined) {
        const part = chunk.subarray(at, at + PREFIX - this.#prefixLength);
        this.#prefix.set(part, this.#prefixLength);
        this.#prefixLength += part.length;
        at += part.length;
        if (this.#prefixLength < PREFIX) return;
        this.#message = this.#allocate();
        this.#filled = 0;
      } else {
        const part = chunk.subarray(at, at + this.#message.length - this.#filled);
        this.#message.set(part, this.#filled);
        this.#filled += part.length;
        at += part.length;
      }
      if (this.#filled < this.#message.length) continue;
      const message = this.#message;
      this.#message = undefined;
      this.#prefixLength = 0;
      yield message;
    }
  }

  /** True if the body may end here. */
  get isBetweenMessages(): boolean {
    return this.#message === undefined && this.#prefixLength === 0;
  }

  #allocate(): Uint8Array {
    // No compression was offered, so none may be used.
    if (this.#prefix[0] !== 0) throw new ContainerdError("ERR_CONTAINERD_PROTOCOL", `the answer has a message with flag ${this.#prefix[0]}, expected 0`);
    const length = new DataView(this.#prefix.buffer).getUint32(1);
    if (length > this.#limit) {
      throw new ContainerdError("ERR_CONTAINERD_LIMIT", `the answer has a message of ${length} bytes, more than the limit of ${this.#limit}`, {
        details: { limit: this.#limit },
      });
    }
    return new Uint8Array(length);
  }
}
