import { randomBytes } from "node:crypto";
import { concatBytes, equalBytes, messageOf, type Random } from "@sealpod/core";
import { systemTimer, type ByteStream, type Timer } from "@sealpod/ttrpc";
import { MuxError, protocolError } from "./errors.ts";
import {
  encodeMuxFrame,
  encodeReason,
  frameLength,
  HEADER_LENGTH,
  MAX_FRAME_DATA,
  MuxFrameParser,
  parseReason,
  writeFrameAround,
  type FrameName,
  type MuxFrame,
} from "./frame.ts";
import { encodeGreeting, FLUSH_LENGTH, GreetingFinder, NONCE_LENGTH, sameSession, sessionTag, type Greeting } from "./greeting.ts";
import { MuxStream, type StreamOwner } from "./stream.ts";
import type { Mux, MuxLimits, MuxOptions, MuxSide } from "./types.ts";

/** Streams of the peer that may be open at once. A sandbox has a handful; the rest is room for looking at a running agent. */
export const DEFAULT_MAX_STREAMS = 16;

/**
 * Bytes of one stream that wait for a slow reader, 4 MiB: a virtio-serial port carries 76 MB/s, and a busy host or an emulated guest answers
 * after tens of milliseconds, during which nothing must stop. 16 streams of it are 64 MiB.
 */
export const DEFAULT_STREAM_WINDOW: number = 4 * 1024 * 1024;

/** Milliseconds between the host's hellos until the guest answers: a guest takes seconds to boot, and loses what comes while it opens its port. */
export const HELLO_INTERVAL = 200;

/** Milliseconds that an end waits for the carrier to take what it was given, so that the peer hears why: a carrier that is read takes far less. */
const GOODBYE_LIMIT = 1000;

/**
 * Bytes given to the carrier at once: eight full frames, and what small ones come before them. Each write costs a guest the same however long it
 * is, under emulation half a millisecond; a stream that begins to send waits for one at most.
 */
const BATCH_LENGTH: number = 8 * frameLength(MAX_FRAME_DATA) + 4096;

/** Data frames below this length are not begun at the end of a batch when there is more to send. */
const LEAST_DATA = 1024;

/**
 * Control frames that may wait, for each stream that can be open: an answer to its opening, four credits, a close, and as much again. A peer that
 * reads what it is sent never causes so many.
 */
const CONTROL_PER_STREAM = 12;

/** Streams opened here at once, whatever the peer allows: the bound on what waits to be sent must not be the peer's to choose. */
const MOST_STREAMS = 1024;

/** Largest stream number. */
const MAX_STREAM_ID: number = 2 ** 32 - 1;

const SERVICE = /^[A-Za-z0-9.-]{1,64}$/;

/** Many byte streams over one carrier, for one session: when it has ended, a new carrier needs a new one. */
export function createMux(carrier: ByteStream, options: MuxOptions): Mux {
  return new Session(carrier, options);
}

/** What is known once both ends have met. */
interface Meeting {
  /** Bounds that the peer keeps. */
  readonly peer: MuxLimits;
  readonly tag: number;
  readonly parser: MuxFrameParser;
}

/** A stream that the peer has not yet answered. */
interface Opening {
  readonly stream: MuxStream;
  readonly settle: (error?: MuxError) => void;
}

class Session implements Mux {
  readonly ready: Promise<void>;
  readonly closed: Promise<{ readonly reason: string }>;
  readonly #carrier: ByteStream;
  readonly #side: MuxSide;
  readonly #accept: MuxOptions["accept"];
  readonly #limits: MuxLimits;
  readonly #random: Random;
  readonly #timer: Timer;
  readonly #ready = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<{ readonly reason: string }>();
  readonly #finder = new GreetingFinder();
  /** The host's hello, or the guest's last answer. */
  #greeting: Greeting | undefined;
  /** The host's bounds, of the hello that the guest answered last. */
  #helloLimits: MuxLimits | undefined;
  #meeting: Meeting | undefined;
  #stopTimer: (() => void) | undefined;
  /** Why the session has ended. */
  #end: MuxError | undefined;

  readonly #owner: StreamOwner;
  readonly #streams = new Map<number, MuxStream>();
  readonly #openings = new Map<number, Opening>();
  #lastId: number;
  #lastPeerId = 0;
  #openHere = 0;
  #openThere = 0;
  /** The stream of which this end does not know yet whether it takes it. */
  #deciding: MuxStream | undefined;

  /** Sent before all else. Of several greetings the last alone counts. */
  #greetingBytes: Uint8Array | undefined;
  /** Frames without data, in order. */
  readonly #control: Uint8Array[] = [];
  /** Streams that have something to send and credit for it; each in turn sends one frame. */
  readonly #round: MuxStream[] = [];
  #batch: Uint8Array<ArrayBuffer> = new Uint8Array();
  /** There is something to send. */
  #sending = false;
  /** The carrier has not taken all of it. */
  #writing = false;
  /** The carrier takes no more. */
  #mute = false;
  /** What is done when the carrier has taken all, after the end. */
  #afterWrite: (() => void) | undefined;

  constructor(carrier: ByteStream, options: MuxOptions) {
    this.#carrier = carrier;
    this.#side = options.side;
    this.#accept = options.accept;
    this.#limits = { maxStreams: DEFAULT_MAX_STREAMS, streamWindow: DEFAULT_STREAM_WINDOW, ...options.limits };
    this.#random = options.random ?? { bytes: (length) => new Uint8Array(randomBytes(length)) };
    this.#timer = options.timer ?? systemTimer;
    this.#lastId = options.side === "host" ? -1 : 0;
    this.#owner = {
      ready: (stream) => this.#enterRound(stream),
      credit: (stream, length) => this.#send("credit", stream.id, Uint8Array.of(length >>> 24, length >>> 16, length >>> 8, length)),
      finish: (stream) => this.#finishStream(stream),
    };
    this.ready = this.#ready.promise;
    this.closed = this.#closed.promise;
    // Who does not wait for it need not handle it.
    this.ready.catch(() => undefined);
    if (this.#side === "host") this.#sayHello();
    void this.#receive();
  }

  async open(service: string): Promise<ByteStream> {
    if (!SERVICE.test(service))
      throw new MuxError("ERR_MUX_SERVICE", `service ${JSON.stringify(service.slice(0, 64))}: expected 1 to 64 letters, digits, '.' and '-'`);
    await this.ready;
    if (this.#end !== undefined) throw this.#end;
    const limit = this.#met().peer.maxStreams;
    if (this.#openHere >= limit || this.#lastId > MAX_STREAM_ID - 2) {
      const message = this.#openHere >= limit ? `${this.#openHere} streams are open, the peer allows ${limit}` : "all stream numbers of the session are used";
      throw new MuxError("ERR_MUX_LIMIT", `cannot open a stream to ${service}: ${message}`, { details: { open: this.#openHere, limit } });
    }
    this.#lastId += 2;
    this.#openHere++;
    const stream = this.#newStream(this.#lastId, service);
    const answer = Promise.withResolvers<void>();
    this.#openings.set(stream.id, { stream, settle: (error) => (error === undefined ? answer.resolve() : answer.reject(error)) });
    this.#send("open", stream.id, Buffer.from(service, "latin1"));
    await answer.promise;
    return stream;
  }

  close(): void {
    for (const stream of this.#streams.values()) stream.close();
    this.#finish("it was closed here");
  }

  // Meeting.

  #met(): Meeting {
    if (this.#meeting === undefined) throw new MuxError("ERR_MUX_CLOSED", "both ends have not met");
    return this.#meeting;
  }

  #sayHello(): void {
    const hello: Greeting = { ...this.#own(), kind: "hello", hostNonce: this.#random.bytes(NONCE_LENGTH), guestNonce: new Uint8Array(NONCE_LENGTH) };
    const bytes = encodeGreeting(hello);
    const flush = new Uint8Array(FLUSH_LENGTH + bytes.length);
    flush.set(bytes, FLUSH_LENGTH);
    this.#greeting = hello;
    this.#greet(flush);
    const again = (): void => {
      // Not while the carrier has not taken the last one: hellos must not pile up before a guest that boots.
      if (!this.#writing) this.#greet(bytes);
      this.#stopTimer = this.#timer.after(HELLO_INTERVAL, again);
    };
    this.#stopTimer = this.#timer.after(HELLO_INTERVAL, again);
  }

  #own(): Pick<Greeting, "maxStreams" | "streamWindow"> {
    return { maxStreams: this.#limits.maxStreams, streamWindow: this.#limits.streamWindow };
  }

  #greet(bytes: Uint8Array): void {
    this.#greetingBytes = bytes;
    this.#wakeSender();
  }

  /** Takes a greeting; true if both ends have met with it. */
  #meet(found: Greeting): boolean {
    const mine = this.#greeting;
    if (this.#side === "host") {
      if (mine === undefined || found.kind !== "answer" || !equalBytes(found.hostNonce, mine.hostNonce)) return false;
      const confirm: Greeting = { ...found, kind: "confirm", maxStreams: 0, streamWindow: 0 };
      this.#begin(found, found.guestNonce);
      this.#greet(encodeGreeting(confirm));
      return true;
    }
    if (found.kind === "hello" && (mine === undefined || !equalBytes(found.hostNonce, mine.hostNonce))) {
      this.#helloLimits = found;
      this.#greeting = { ...this.#own(), kind: "answer", hostNonce: found.hostNonce, guestNonce: this.#random.bytes(NONCE_LENGTH) };
      this.#greet(encodeGreeting(this.#greeting));
      return false;
    }
    // The guest's own nonce in the confirmation: remains of an earlier session do not have it.
    if (found.kind !== "confirm" || mine === undefined || !sameSession(found, mine) || this.#helloLimits === undefined) return false;
    this.#begin(this.#helloLimits, mine.guestNonce);
    return true;
  }

  #begin(peer: MuxLimits, guestNonce: Uint8Array): void {
    this.#stopTimer?.();
    const tag = sessionTag(guestNonce);
    this.#meeting = { peer: { maxStreams: Math.min(peer.maxStreams, MOST_STREAMS), streamWindow: peer.streamWindow }, tag, parser: new MuxFrameParser(tag) };
    this.#ready.resolve();
  }

  // Receiving.

  async #receive(): Promise<void> {
    try {
      for await (const chunk of this.#carrier.readable) {
        try {
          this.#take(chunk);
        } catch (error) {
          this.#finish(messageOf(error), error);
        }
        // Leaving the loop closes the carrier, on which a last word may be under way.
        if (this.#end !== undefined) await this.closed;
        if (this.#end !== undefined) return;
      }
      this.#finish(this.#meeting?.parser.atBoundary === false ? "the carrier ended inside a frame" : "the carrier ended", undefined, true);
    } catch (error) {
      this.#finish(messageOf(error), error, true);
    }
  }

  #take(chunk: Uint8Array): void {
    let rest = chunk;
    if (this.#meeting === undefined) {
      let met = false;
      for (const found of this.#finder.push(chunk)) {
        met = this.#meet(found.greeting);
        rest = found.rest;
        if (met) break;
      }
      if (!met) return;
    }
    for (const frame of this.#met().parser.push(rest)) {
      this.#takeFrame(frame);
      if (this.#end !== undefined) return;
    }
  }

  #takeFrame({ type, streamId, data }: MuxFrame): void {
    switch (type) {
      case "open":
        return this.#takeOpen(streamId, Buffer.from(data.buffer, data.byteOffset, data.length).toString("latin1"));
      case "accept":
      case "refuse":
        return this.#takeAnswer(streamId, type);
      case "data":
        return this.#known(streamId, type).receive(data);
      case "credit":
        return this.#known(streamId, type).receiveCredit(new DataView(data.buffer, data.byteOffset, 4).getUint32(0));
      case "close": {
        const stream = this.#known(streamId, type);
        stream.receiveClose();
        if (stream.closedHere) this.#forget(stream);
        return undefined;
      }
      case "goodbye":
        return this.#finish(`the peer ended the session: ${parseReason(data)}`, undefined, true);
    }
  }

  #known(id: number, type: FrameName): MuxStream {
    const stream = this.#streams.get(id);
    if (stream === undefined) throw protocolError(`stream of a frame of type ${type}`, id, "one that is open");
    return stream;
  }

  #takeOpen(id: number, service: string): void {
    if (id % 2 !== (this.#side === "host" ? 0 : 1) || id <= this.#lastPeerId)
      throw protocolError("number of a stream that the peer opens", id, `${this.#side === "host" ? "even" : "odd"} and above ${this.#lastPeerId}`);
    if (!SERVICE.test(service)) throw protocolError("service", JSON.stringify(service), "letters, digits, '.' and '-'");
    if (this.#openThere >= this.#limits.maxStreams)
      throw protocolError("streams of the peer", this.#openThere + 1, `at most ${this.#limits.maxStreams} at once`);
    this.#lastPeerId = id;
    if (this.#accept === undefined) return this.#send("refuse", id);
    const stream = this.#newStream(id, service);
    this.#deciding = stream;
    try {
      this.#accept(service, stream);
    } catch {
      // The reason stays here: what the peer may know of this end is that it will not.
      stream.breakOff(new MuxError("ERR_MUX_CLOSED", `stream ${id} (${service}) was refused here`));
      return this.#send("refuse", id);
    } finally {
      this.#deciding = undefined;
    }
    if (this.#end !== undefined) return stream.breakOff(this.#end);
    this.#openThere++;
    this.#streams.set(id, stream);
    this.#send("accept", id);
    if (stream.closedHere) this.#finishStream(stream);
  }

  #takeAnswer(id: number, type: "accept" | "refuse"): void {
    const opening = this.#openings.get(id);
    if (opening === undefined) throw protocolError(`stream of a frame of type ${type}`, id, "one that waits for it");
    this.#openings.delete(id);
    const { stream, settle } = opening;
    if (type === "accept") {
      this.#streams.set(id, stream);
      settle();
    } else {
      this.#openHere--;
      settle(
        new MuxError("ERR_MUX_REFUSED", `the peer refuses a stream to ${stream.service}`, {
          details: { service: stream.service },
          hint: "The peer does not serve this, or not now.",
        }),
      );
    }
  }

  // Streams.

  #newStream(id: number, service: string): MuxStream {
    return new MuxStream(id, service, this.#owner, { receive: this.#limits.streamWindow, send: this.#met().peer.streamWindow });
  }

  #finishStream(stream: MuxStream): void {
    // Closed by the one who is asked whether to take it: the answer comes first.
    if (stream === this.#deciding) return;
    this.#send("close", stream.id);
    if (stream.closedThere) this.#forget(stream);
  }

  #forget(stream: MuxStream): void {
    if (!this.#streams.delete(stream.id)) return;
    if (stream.id % 2 === (this.#side === "host" ? 1 : 0)) this.#openHere--;
    else this.#openThere--;
  }

  #enterRound(stream: MuxStream): void {
    if (stream.inRound) return;
    stream.inRound = true;
    this.#round.push(stream);
    this.#wakeSender();
  }

  // Sending.

  #send(type: FrameName, id: number, data?: Uint8Array): void {
    if (this.#end !== undefined) return;
    const most = CONTROL_PER_STREAM * (this.#limits.maxStreams + this.#met().peer.maxStreams + 1);
    if (this.#control.length >= most) return this.#finish(`the peer does not read: ${most} answers wait for it`);
    this.#control.push(encodeMuxFrame(type, id, this.#met().tag, data));
    this.#wakeSender();
  }

  #wakeSender(): void {
    if (this.#sending || this.#mute || this.#end !== undefined) return;
    this.#sending = true;
    void this.#sendAll();
  }

  async #sendAll(): Promise<void> {
    try {
      // What is asked for in one turn goes out together.
      await Promise.resolve();
      while (this.#end === undefined) {
        const bytes = this.#nextBatch();
        if (bytes.length === 0) return;
        this.#writing = true;
        await this.#carrier.write(bytes);
        this.#writing = false;
      }
    } catch (error) {
      // The peer has hung up; what it said before that is still to be read, and tells why.
      this.#mute = true;
      this.#writing = false;
      this.#stopTimer?.();
      if (this.#end === undefined) this.#stopTimer = this.#timer.after(GOODBYE_LIMIT, () => this.#finish(messageOf(error), error, true));
    } finally {
      this.#sending = false;
      this.#afterWrite?.();
    }
  }

  /** The bytes to be sent next: a greeting, then control frames, then data of each stream in turn. */
  #nextBatch(): Uint8Array {
    const greeting = this.#greetingBytes;
    this.#greetingBytes = undefined;
    if (greeting !== undefined) return greeting;
    if (this.#meeting === undefined) return new Uint8Array();
    const { tag } = this.#meeting;
    if (this.#batch.length === 0) this.#batch = new Uint8Array(BATCH_LENGTH);
    const batch = this.#batch;
    const view = new DataView(batch.buffer);
    let at = 0;
    let taken = 0;
    for (const frame of this.#control) {
      if (at + frame.length > batch.length) break;
      batch.set(frame, at);
      at += frame.length;
      taken++;
    }
    this.#control.splice(0, taken);
    if (this.#control.length > 0) return batch.subarray(0, at);
    for (let [stream] = this.#round; stream !== undefined && batch.length - at >= frameLength(LEAST_DATA); [stream] = this.#round) {
      this.#round.shift();
      stream.inRound = false;
      const room = Math.min(MAX_FRAME_DATA, batch.length - at - frameLength(0));
      const length = stream.take(batch.subarray(at + HEADER_LENGTH, at + HEADER_LENGTH + room));
      if (length > 0) at = writeFrameAround(view, at, "data", stream.id, length, tag);
      if (stream.sendable > 0) this.#enterRound(stream);
    }
    return batch.subarray(0, at);
  }

  // The end.

  /** @param over true if the peer hears nothing any more */
  #finish(reason: string, cause?: unknown, over = false): void {
    if (this.#end !== undefined) return;
    this.#end = new MuxError("ERR_MUX_CLOSED", `the session has ended: ${reason}`, { cause });
    this.#stopTimer?.();
    for (const stream of this.#streams.values()) stream.breakOff(this.#end);
    for (const { stream, settle } of this.#openings.values()) {
      stream.breakOff(this.#end);
      settle(this.#end);
    }
    this.#ready.reject(this.#end);
    const hangUp = (): void => {
      this.#stopTimer?.();
      this.#carrier.close();
      this.#closed.resolve({ reason });
    };
    if (over || this.#mute || this.#meeting === undefined) return hangUp();
    const { tag } = this.#meeting;
    const sayGoodbye = (): void => {
      this.#carrier.write(concatBytes(...this.#control, encodeMuxFrame("goodbye", 0, tag, encodeReason(reason)))).catch(() => undefined);
      hangUp();
    };
    if (!this.#writing) return sayGoodbye();
    // What the carrier is taking comes first; a peer that does not read is not waited for.
    this.#afterWrite = sayGoodbye;
    this.#stopTimer = this.#timer.after(GOODBYE_LIMIT, hangUp);
  }
}
