import type { ByteStream } from "@sealpod/ttrpc";
import { MuxError, protocolError } from "./errors.ts";

/**
 * Data below this part of the memory that it lies in is copied: a view would keep all of that memory for as long as a slow reader leaves it,
 * many times what the window allows.
 */
const LEAST_SHARE = 1 / 4;

/** Size of the pieces in which small data are collected, 16 KiB: a million chunks of one byte must not be a million objects. */
const COLLECTED_LENGTH: number = 16 * 1024;

/** What a stream asks of the session that it belongs to. */
export interface StreamOwner {
  /** Data may be sent now, or more than before. */
  ready(stream: MuxStream): void;
  /** The reader has taken bytes, for which the peer may send others. */
  credit(stream: MuxStream, length: number): void;
  /** Nothing more is sent or wanted here. */
  finish(stream: MuxStream): void;
}

/** Bytes that wait to be sent. */
interface PendingWrite {
  readonly bytes: Uint8Array;
  taken: number;
  readonly settle: (error?: MuxError) => void;
}

/** One stream: a buffer of received bytes, and writes that wait for credit. */
export class MuxStream implements ByteStream {
  readonly id: number;
  readonly service: string;
  readonly readable: AsyncIterable<Uint8Array>;
  /** True while the session has it in its round. */
  inRound = false;
  readonly #owner: StreamOwner;
  /** Bytes that one end may have sent and the other not yet read. */
  readonly #receiveWindow: number;
  readonly #sendWindow: number;
  #sendCredit: number;
  readonly #writes: PendingWrite[] = [];
  readonly #received: Uint8Array[] = [];
  /** Bytes in use of the last piece of {@link #received}, if that one is for collecting. */
  #collected: number | undefined;
  #unread = 0;
  /** Bytes read that the peer has not been told of. */
  #owed = 0;
  #closedHere = false;
  #closedThere = false;
  #broken: MuxError | undefined;
  #wakeReader: (() => void) | undefined;

  constructor(id: number, service: string, owner: StreamOwner, windows: { readonly receive: number; readonly send: number }) {
    this.id = id;
    this.service = service;
    this.readable = { [Symbol.asyncIterator]: () => this.#read() };
    this.#owner = owner;
    this.#receiveWindow = windows.receive;
    this.#sendWindow = windows.send;
    this.#sendCredit = windows.send;
  }

  write(bytes: Uint8Array): Promise<void> {
    const error = this.#writeError();
    if (error !== undefined) return Promise.reject(error);
    if (bytes.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#writes.push({ bytes, taken: 0, settle: (cause) => (cause === undefined ? resolve() : reject(cause)) });
      if (this.#sendCredit > 0) this.#owner.ready(this);
    });
  }

  close(): void {
    if (this.#closedHere || this.#broken !== undefined) return;
    // What is not read any more still counts against the window.
    this.#received.length = 0;
    this.#collected = undefined;
    this.#owed += this.#unread;
    this.#unread = 0;
    this.#finish();
  }

  /** Bytes that can be sent now. */
  get sendable(): number {
    const [first] = this.#writes;
    return first === undefined ? 0 : Math.min(this.#sendCredit, this.#writes.length === 1 ? first.bytes.length - first.taken : Infinity);
  }

  /** Moves pending bytes to `target`; gives how many. */
  take(target: Uint8Array): number {
    const most = Math.min(target.length, this.#sendCredit);
    let at = 0;
    for (let [write] = this.#writes; write !== undefined && at < most; [write] = this.#writes) {
      const part = write.bytes.subarray(write.taken, write.taken + most - at);
      target.set(part, at);
      at += part.length;
      write.taken += part.length;
      if (write.taken < write.bytes.length) break;
      this.#writes.shift();
      write.settle();
    }
    this.#sendCredit -= at;
    return at;
  }

  /**
   * The peer may be sent more.
   * @throws {MuxError} ERR_MUX_PROTOCOL if that is more than it has taken
   */
  receiveCredit(length: number): void {
    if (this.#closedThere) throw protocolError(`stream ${this.id}`, "a credit", "nothing after its close");
    if (length === 0 || length > this.#sendWindow - this.#sendCredit)
      throw protocolError(`credit of stream ${this.id}`, length, `1 to ${this.#sendWindow - this.#sendCredit}`);
    this.#sendCredit += length;
    if (this.#writes.length > 0) this.#owner.ready(this);
  }

  /**
   * Bytes of the peer.
   * @throws {MuxError} ERR_MUX_PROTOCOL if they are more than its window allows
   */
  receive(data: Uint8Array): void {
    if (this.#closedThere) throw protocolError(`stream ${this.id}`, "data", "nothing after its close");
    const room = this.#receiveWindow - this.#unread - this.#owed;
    if (data.length > room) throw protocolError(`data of stream ${this.id}`, `${data.length} bytes`, `at most ${room}`);
    // What comes after closing here is thrown away; no credit is given for it, so it ends by itself.
    if (this.#closedHere) {
      this.#owed += data.length;
      return;
    }
    this.#unread += data.length;
    this.#keep(data);
    this.#wake();
  }

  /**
   * The peer sends no more and wants no more.
   * @throws {MuxError} ERR_MUX_PROTOCOL
   */
  receiveClose(): void {
    if (this.#closedThere) throw protocolError(`stream ${this.id}`, "a second close", "one");
    this.#closedThere = true;
    this.#rejectWrites();
    // Until all is read the stream counts as open: else a peer could fill the memory with streams that it opens, fills and closes.
    if (this.#unread === 0) this.#finish();
    this.#wake();
  }

  /** The session has ended before the stream. What was received can still be read. */
  breakOff(error: MuxError): void {
    this.#broken ??= error;
    this.#rejectWrites();
    this.#wake();
  }

  get closedHere(): boolean {
    return this.#closedHere;
  }

  get closedThere(): boolean {
    return this.#closedThere;
  }

  #finish(): void {
    if (this.#closedHere || this.#broken !== undefined) return;
    this.#closedHere = true;
    this.#rejectWrites();
    this.#owner.finish(this);
    this.#wake();
  }

  #writeError(): MuxError | undefined {
    if (this.#broken !== undefined) return this.#broken;
    if (!this.#closedHere && !this.#closedThere) return undefined;
    return new MuxError("ERR_MUX_CLOSED", `cannot write to stream ${this.id} (${this.service}): it was closed ${this.#closedThere ? "by the peer" : "here"}`);
  }

  #rejectWrites(): void {
    for (const write of this.#writes.splice(0)) write.settle(this.#writeError());
  }

  #keep(data: Uint8Array): void {
    if (data.length >= data.buffer.byteLength * LEAST_SHARE) {
      this.#endPiece();
      this.#received.push(data);
      return;
    }
    for (let at = 0; at < data.length;) {
      let piece = this.#received.at(-1);
      if (piece === undefined || this.#collected === undefined || this.#collected === piece.length) {
        piece = new Uint8Array(Math.max(COLLECTED_LENGTH, data.length - at));
        this.#received.push(piece);
        this.#collected = 0;
      }
      const part = data.subarray(at, at + piece.length - this.#collected);
      piece.set(part, this.#collected);
      this.#collected += part.length;
      at += part.length;
    }
  }

  /** The next bytes for the reader. */
  #next(): Uint8Array | undefined {
    if (this.#received.length === 1) this.#endPiece();
    return this.#received.shift();
  }

  /** No more is collected in the last piece: it is as long as what is in it. */
  #endPiece(): void {
    const piece = this.#received.at(-1);
    if (piece !== undefined && this.#collected !== undefined) this.#received[this.#received.length - 1] = piece.subarray(0, this.#collected);
    this.#collected = undefined;
  }

  async *#read(): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const piece = this.#next();
      if (piece !== undefined) {
        this.#account(piece.length);
        yield piece;
      } else if (this.#closedHere || this.#closedThere) {
        return;
      } else if (this.#broken !== undefined) {
        throw this.#broken;
      } else {
        await new Promise<void>((resolve) => {
          this.#wakeReader = resolve;
        });
      }
    }
  }

  /** Counts bytes as read; the peer is told when it is worth a frame. */
  #account(length: number): void {
    this.#unread -= length;
    if (this.#broken !== undefined) return;
    if (this.#closedThere) {
      if (this.#unread === 0) this.#finish();
      return;
    }
    this.#owed += length;
    if (this.#owed * 4 < this.#receiveWindow) return;
    const owed = this.#owed;
    this.#owed = 0;
    this.#owner.credit(this, owed);
  }

  #wake(): void {
    const wake = this.#wakeReader;
    this.#wakeReader = undefined;
    wake?.();
  }
}
