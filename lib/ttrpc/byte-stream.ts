import { messageOf } from "@sealpod/core";
import { TtrpcError } from "./errors.ts";

/** A reliable connection: what ttRPC runs over. */
export interface ByteStream {
  /** Bytes from the peer, in chunks of any size; ends when the peer closes. Read by one reader. */
  readonly readable: AsyncIterable<Uint8Array>;
  /** Resolves when the stream has taken the bytes (back-pressure); rejects when it is closed. Calls do not overlap. */
  write(bytes: Uint8Array): Promise<void>;
  /** Closes both directions at once. Never throws; a second call does nothing. */
  close(): void;
}

/** The part of Node's `stream.Duplex` that {@link byteStream} needs; `net.Socket` has it. */
export interface DuplexLike extends AsyncIterable<Uint8Array> {
  write(bytes: Uint8Array, done: (error?: Error | null) => void): boolean;
  destroy(): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
}

/** A byte stream over a socket. */
export function byteStream(duplex: DuplexLike): ByteStream {
  // Without a listener an error event would end the process; readers and writers get the error as a rejection.
  duplex.on("error", () => undefined);
  return {
    readable: quietEnd(duplex),
    write: (bytes) =>
      new Promise((resolve, reject) => {
        duplex.write(bytes, (error) => {
          if (error === undefined || error === null) resolve();
          else reject(new TtrpcError("ERR_TTRPC_CLOSED", `cannot write to the connection: ${messageOf(error)}`, { cause: error }));
        });
      }),
    close: () => void duplex.destroy(),
  };
}

/** Node reports a stream that was destroyed on this side as an error of its readers; here it is an end like any other. */
async function* quietEnd(readable: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    yield* readable;
  } catch (error) {
    if ((error as { readonly code?: unknown }).code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
  }
}

/** Writes frames one after the other, whoever asks first. */
export class SerialWriter {
  readonly #stream: ByteStream;
  #last: Promise<void> = Promise.resolve();

  constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  /** Resolves when the stream has taken the bytes; rejects when it is closed. */
  write(bytes: Uint8Array): Promise<void> {
    const written = this.#last.then(() => this.#stream.write(bytes));
    this.#last = written.catch(() => undefined);
    return written;
  }
}
