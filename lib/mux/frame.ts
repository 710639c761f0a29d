import { decodeUtf8, encodeUtf8 } from "@sealpod/core";
import { MuxError, protocolError } from "./errors.ts";

/** Bytes before the data of a frame. */
export const HEADER_LENGTH = 8;

/** Bytes after the data of a frame: the session's tag. */
export const TRAILER_LENGTH = 4;

/** Largest data of one frame, 32 KiB: what another stream waits for at most, and still so much that headers cost nothing. */
export const MAX_FRAME_DATA: number = 32 * 1024;

/** Longest reason in a goodbye: a line of a log. */
export const MAX_REASON_LENGTH = 200;

/** Types of frames. Others end the session: both ends come from one build, and a type that is not known is no frame at all. */
export const FRAME = { open: 1, accept: 2, refuse: 3, data: 4, credit: 5, close: 6, goodbye: 7 } as const;

/** Name of a frame's type. */
export type FrameName = keyof typeof FRAME;

/** First byte of a greeting, and of the zeros before it: what stands in place of a frame when the peer has begun another session. */
const OTHER_SESSION: readonly number[] = [0x53, 0x00];

/** A frame as it was received. */
export interface MuxFrame {
  readonly type: FrameName;
  /** 0 for a goodbye alone. */
  readonly streamId: number;
  /** May share memory with the chunk that it came in. */
  readonly data: Uint8Array;
}

/** Lengths that the data of a frame may have. */
const DATA_LENGTHS: Readonly<Record<FrameName, readonly [least: number, most: number]>> = {
  open: [1, 64],
  accept: [0, 0],
  refuse: [0, 0],
  data: [1, MAX_FRAME_DATA],
  credit: [4, 4],
  close: [0, 0],
  goodbye: [0, MAX_REASON_LENGTH],
};

const NAMES: ReadonlyMap<number, FrameName> = new Map(Object.entries(FRAME).map(([name, number]) => [number, name as FrameName]));

/** Bytes of a frame with `length` bytes of data. */
export function frameLength(length: number): number {
  return HEADER_LENGTH + length + TRAILER_LENGTH;
}

/** Writes the bytes around a frame's data, which itself goes to `at` + {@link HEADER_LENGTH}; gives the offset of what comes after the frame. */
export function writeFrameAround(target: DataView, at: number, type: FrameName, streamId: number, length: number, tag: number): number {
  target.setUint8(at, FRAME[type]);
  target.setUint8(at + 1, 0);
  target.setUint16(at + 2, length);
  target.setUint32(at + 4, streamId);
  target.setUint32(at + HEADER_LENGTH + length, tag);
  return at + frameLength(length);
}

/** Bytes of one frame. */
export function encodeMuxFrame(type: FrameName, streamId: number, tag: number, data: Uint8Array = new Uint8Array()): Uint8Array {
  const bytes = new Uint8Array(frameLength(data.length));
  writeFrameAround(new DataView(bytes.buffer), 0, type, streamId, data.length, tag);
  bytes.set(data, HEADER_LENGTH);
  return bytes;
}

/** Data of a goodbye: the reason, cut to its limit. */
export function encodeReason(reason: string): Uint8Array {
  return encodeUtf8(printable(reason).slice(0, MAX_REASON_LENGTH));
}

/** Reason of a goodbye, safe to print whoever wrote it. */
export function parseReason(data: Uint8Array): string {
  try {
    return printable(decodeUtf8(data));
  } catch {
    return "?";
  }
}

function otherSession(): MuxError {
  return new MuxError("ERR_MUX_PROTOCOL", "the peer has begun another session");
}

function printable(text: string): string {
  return text.replaceAll(/[^ -~]/g, "?");
}

/**
 * Cuts a session's bytes into frames. Chunks may be cut anywhere: a frame that lies in one chunk shares its memory, another is copied once.
 * Holds one frame at most.
 */
export class MuxFrameParser {
  readonly #tag: number;
  readonly #header = new Uint8Array(HEADER_LENGTH);
  #headerHeld = 0;
  /** Of the frame whose header has been read. */
  #type: FrameName | undefined;
  #streamId = 0;
  /** Bytes of data and trailer that the header announced. */
  #wanted = 0;
  #body: Uint8Array | undefined;
  #bodyHeld = 0;

  /** @param tag the session's */
  constructor(tag: number) {
    this.#tag = tag;
  }

  /** True between two frames. */
  get atBoundary(): boolean {
    return this.#type === undefined && this.#headerHeld === 0;
  }

  /**
   * The frames that end in this chunk.
   * @throws {MuxError} ERR_MUX_PROTOCOL, and then for good
   */
  *push(chunk: Uint8Array): Generator<MuxFrame, void, undefined> {
    let at = 0;
    for (;;) {
      if (this.#type === undefined) {
        const taken = chunk.subarray(at, at + HEADER_LENGTH - this.#headerHeld);
        this.#header.set(taken, this.#headerHeld);
        this.#headerHeld += taken.length;
        at += taken.length;
        // The first byte alone tells what is no frame: no waiting for the others.
        if (this.#headerHeld > 0) this.#type = this.#readHeader();
        if (this.#type === undefined) return;
      }
      const body = this.#takeBody(chunk.subarray(at, at + this.#wanted - this.#bodyHeld));
      if (body === undefined) return;
      at += this.#wanted - this.#bodyHeld;
      yield this.#complete(this.#type, body);
    }
  }

  #readHeader(): FrameName | undefined {
    const view = new DataView(this.#header.buffer);
    const type = NAMES.get(view.getUint8(0));
    if (OTHER_SESSION.includes(view.getUint8(0))) throw otherSession();
    if (type === undefined) throw protocolError("type of a frame", view.getUint8(0), `1 to ${NAMES.size}`);
    if (this.#headerHeld < HEADER_LENGTH) return undefined;
    if (view.getUint8(1) !== 0) throw protocolError("second byte of a frame", view.getUint8(1), "0");
    const length = view.getUint16(2);
    const [least, most] = DATA_LENGTHS[type];
    if (length < least || length > most) throw protocolError(`length of a frame of type ${type}`, length, `${least} to ${most}`);
    this.#streamId = view.getUint32(4);
    if ((this.#streamId === 0) !== (type === "goodbye")) throw protocolError(`stream of a frame of type ${type}`, this.#streamId, "0 for a goodbye alone");
    this.#wanted = length + TRAILER_LENGTH;
    return type;
  }

  /** Data and trailer, once their last byte is there. `bytes` are the next of them. */
  #takeBody(bytes: Uint8Array): Uint8Array | undefined {
    if (bytes.length === this.#wanted) return bytes;
    if (bytes.length === 0) return undefined;
    this.#body ??= new Uint8Array(this.#wanted);
    this.#body.set(bytes, this.#bodyHeld);
    if (this.#bodyHeld + bytes.length === this.#wanted) return this.#body;
    this.#bodyHeld += bytes.length;
    return undefined;
  }

  #complete(type: FrameName, body: Uint8Array): MuxFrame {
    const length = this.#wanted - TRAILER_LENGTH;
    this.#type = undefined;
    this.#headerHeld = 0;
    this.#body = undefined;
    this.#bodyHeld = 0;
    const tag = new DataView(body.buffer, body.byteOffset + length, TRAILER_LENGTH).getUint32(0);
    if (tag === 0) throw otherSession();
    if (tag !== this.#tag) throw protocolError(`end of a frame of type ${type}`, tag, "the tag of this session");
    return { type, streamId: this.#streamId, data: body.subarray(0, length) };
  }
}
