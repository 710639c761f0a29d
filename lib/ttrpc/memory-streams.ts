import type { ByteStream } from "./byte-stream.ts";
import { TtrpcError } from "./errors.ts";

/** Bytes that one direction holds before a writer has to wait: a socket's buffer is about as large. */
const HIGH_WATER_MARK = 256 * 1024;

/** Two ends of one connection in memory, for tests and for parts that run in one process. Closing one end ends the other's reading. */
export function memoryStreams(): readonly [ByteStream, ByteStream] {
  const forth = new Channel();
  const back = new Channel();
  return [endpoint(back, forth), endpoint(forth, back)];
}

function endpoint(incoming: Channel, outgoing: Channel): ByteStream {
  return {
    readable: incoming,
    write: (bytes) => outgoing.write(bytes),
    close() {
      outgoing.end();
      incoming.drop();
    },
  };
}

/** One direction. */
class Channel implements AsyncIterable<Uint8Array> {
  readonly #chunks: Uint8Array[] = [];
  readonly #writers: (() => void)[] = [];
  #held = 0;
  #ended = false;
  #wakeReader: (() => void) | undefined;

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#ended) throw new TtrpcError("ERR_TTRPC_CLOSED", "cannot write to the connection: it is closed");
    // A copy: the writer may use its buffer again.
    this.#chunks.push(bytes.slice());
    this.#held += bytes.length;
    this.#wake();
    while (this.#held > HIGH_WATER_MARK && !this.#ended) await new Promise<void>((resolve) => this.#writers.push(resolve));
  }

  /** No more bytes; those that are there can still be read. */
  end(): void {
    this.#ended = true;
    this.#wake();
    this.#releaseWriters();
  }

  /** No more bytes, and no more reading of those that are there. */
  drop(): void {
    this.#chunks.length = 0;
    this.#held = 0;
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#held -= chunk.length;
        if (this.#held <= HIGH_WATER_MARK) this.#releaseWriters();
        yield chunk;
      } else if (this.#ended) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wakeReader = resolve;
        });
      }
    }
  }

  #wake(): void {
    const wake = this.#wakeReader;
    this.#wakeReader = undefined;
    wake?.();
  }

  #releaseWriters(): void {
    for (const release of this.#writers.splice(0)) release();
  }
}
