import { TtrpcError } from "./errors.ts";
import { STATUS } from "./status.ts";

/** Bytes of a frame's header. */
export const HEADER_LENGTH = 10;

/** Largest data of one frame, 4 MiB: the protocol's own limit, so a longer frame is always an error of the peer. */
export const MAX_DATA_LENGTH: number = 4 * 1024 * 1024;

/** Types of frames. Receivers ignore others. */
export const FRAME_TYPE = { request: 1, response: 2, data: 3 } as const;

/** Flags of frames. Unary calls use none. */
export const FRAME_FLAG = { remoteClosed: 1, remoteOpen: 2, noData: 4 } as const;

/** What stands before the data of a frame. */
export interface FrameHeader {
  /** 32 bits, unsigned. */
  readonly streamId: number;
  /** 8 bits, one of {@link FRAME_TYPE} or not. */
  readonly type: number;
  /** 8 bits, of {@link FRAME_FLAG}. */
  readonly flags: number;
}

/** A frame as it was received. */
export interface Frame extends FrameHeader {
  readonly kind: "frame";
  readonly data: Uint8Array;
}

/** A frame with more data than is allowed. Its data was skipped, so the stream is still in step. */
export interface OversizedFrame extends FrameHeader {
  readonly kind: "oversized";
  /** The length that the header announced. */
  readonly length: number;
}

/**
 * Bytes of one frame.
 * @throws {TtrpcError} ERR_TTRPC_LIMIT if `data` has more than {@link MAX_DATA_LENGTH} bytes
 */
export function encodeFrame(header: FrameHeader, data: Uint8Array): Uint8Array {
  if (data.length > MAX_DATA_LENGTH) throw oversizedError(data.length);
  const bytes = new Uint8Array(HEADER_LENGTH + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  view.setUint32(4, header.streamId);
  view.setUint8(8, header.type);
  view.setUint8(9, header.flags);
  bytes.set(data, HEADER_LENGTH);
  return bytes;
}

/** The error for data that does not fit a frame; its status is what the Go implementation answers. */
export function oversizedError(length: number): TtrpcError {
  const message = `message length ${length} exceed maximum message size of ${MAX_DATA_LENGTH}`;
  return new TtrpcError("ERR_TTRPC_LIMIT", message, {
    status: { code: STATUS.resourceExhausted, message },
    details: { length, limit: MAX_DATA_LENGTH },
    hint: "Send large content in pieces.",
  });
}

/** First size of the buffer for data that arrives in more than one chunk; it doubles as bytes arrive. */
const FIRST_BUFFER_LENGTH = 16 * 1024;

/**
 * Cuts a byte stream into frames. Chunks may be cut anywhere. Memory follows the bytes that have arrived: neither a header that announces
 * much nor data that comes byte by byte makes it grow beyond twice that.
 */
export class FrameParser {
  #header: FrameHeader | undefined;
  /** Bytes of the part that is being read: a header, or the data that the last header announced. */
  #wanted = HEADER_LENGTH;
  #collected = 0;
  #buffer = new Uint8Array(HEADER_LENGTH);

  /** The frames that end in this chunk. */
  *push(chunk: Uint8Array): Generator<Frame | OversizedFrame, void, undefined> {
    let at = 0;
    for (;;) {
      const taken = chunk.subarray(at, at + this.#wanted - this.#collected);
      at += taken.length;
      const part = this.#take(taken);
      if (part === undefined) return;
      const frame = this.#complete(part);
      if (frame !== undefined) yield frame;
    }
  }

  /**
   * Asserts that the stream ended between two frames.
   * @throws {TtrpcError} ERR_TTRPC_MALFORMED
   */
  end(): void {
    if (this.#header === undefined && this.#collected === 0) return;
    const what = this.#header === undefined ? "header" : "data";
    throw new TtrpcError("ERR_TTRPC_MALFORMED", `stream ends inside the ${what} of a frame: found ${this.#collected} bytes of ${this.#wanted}`, {
      details: { found: this.#collected, expected: this.#wanted },
    });
  }

  /** The whole part once its last byte is there; nothing of data that is too long. */
  #take(bytes: Uint8Array): Uint8Array | undefined {
    const before = this.#collected;
    this.#collected += bytes.length;
    const complete = this.#collected === this.#wanted;
    if (this.#wanted > MAX_DATA_LENGTH) return complete ? new Uint8Array() : undefined;
    if (complete && before === 0) return bytes;
    this.#reserve(this.#collected);
    this.#buffer.set(bytes, before);
    return complete ? this.#buffer.slice(0, this.#collected) : undefined;
  }

  #reserve(length: number): void {
    if (length <= this.#buffer.length) return;
    const grown = new Uint8Array(Math.min(this.#wanted, Math.max(length, 2 * this.#buffer.length, FIRST_BUFFER_LENGTH)));
    grown.set(this.#buffer);
    this.#buffer = grown;
  }

  #complete(part: Uint8Array): Frame | OversizedFrame | undefined {
    const header = this.#header;
    const length = this.#wanted;
    this.#collected = 0;
    if (header === undefined) {
      const view = new DataView(part.buffer, part.byteOffset, HEADER_LENGTH);
      this.#header = { streamId: view.getUint32(4), type: view.getUint8(8), flags: view.getUint8(9) };
      this.#wanted = view.getUint32(0);
      return undefined;
    }
    this.#header = undefined;
    this.#wanted = HEADER_LENGTH;
    if (this.#buffer.length > FIRST_BUFFER_LENGTH) this.#buffer = new Uint8Array(HEADER_LENGTH);
    return length > MAX_DATA_LENGTH ? { kind: "oversized", ...header, length } : { kind: "frame", ...header, data: part };
  }
}

/**
 * The frames of a byte stream.
 * @throws {TtrpcError} ERR_TTRPC_MALFORMED if the stream ends inside a frame
 */
export async function* readFrames(readable: AsyncIterable<Uint8Array>): AsyncGenerator<Frame | OversizedFrame, void, undefined> {
  const parser = new FrameParser();
  for await (const chunk of readable) yield* parser.push(chunk);
  parser.end();
}
