import { concatBytes, equalBytes } from "@sealpod/core";
import { frameLength, MAX_FRAME_DATA } from "./frame.ts";

/** What both ends say before the first frame. */
export interface Greeting {
  readonly kind: GreetingKind;
  /** Streams that the receiver may have open; 0 in a confirmation. */
  readonly maxStreams: number;
  /** Bytes of one stream that may be sent before the first credit; 0 in a confirmation. */
  readonly streamWindow: number;
  /** 16 random bytes of the host, who begins. */
  readonly hostNonce: Uint8Array;
  /** 16 random bytes of the guest; zeros in a hello. */
  readonly guestNonce: Uint8Array;
}

/** The host's hello, the guest's answer, the host's confirmation. */
export type GreetingKind = "hello" | "answer" | "confirm";

/** Bytes of each nonce. */
export const NONCE_LENGTH = 16;

/** Bytes of a greeting. */
export const GREETING_LENGTH = 52;

/** "SEALMUX" and the version. A peer of another version is never met. Its first byte is no frame's type. */
const MAGIC: Uint8Array = Uint8Array.of(0x53, 0x45, 0x41, 0x4c, 0x4d, 0x55, 0x58, 0x01);

const KINDS: readonly GreetingKind[] = ["hello", "answer", "confirm"];

/** Largest window that a peer may state, 1 GiB: sums with it stay exact, and a larger one is a mistake. */
const MAX_WINDOW: number = 2 ** 30;

/**
 * Zeros that the host sends before its first hello. A guest that has not noticed that its old host is gone may be inside one of its frames; these
 * fill the frame, whose end then is not the session's tag, so that the guest knows.
 */
export const FLUSH_LENGTH: number = frameLength(MAX_FRAME_DATA);

/** Bytes of a greeting. */
export function encodeGreeting(greeting: Greeting): Uint8Array {
  const bytes = new Uint8Array(GREETING_LENGTH);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(8, KINDS.indexOf(greeting.kind) + 1);
  view.setUint32(12, greeting.maxStreams);
  view.setUint32(16, greeting.streamWindow);
  bytes.set(greeting.hostNonce, 20);
  bytes.set(greeting.guestNonce, 36);
  return bytes;
}

/** The number that ends each frame of a session. Never 0, so that zeros are no frame's end. */
export function sessionTag(guestNonce: Uint8Array): number {
  return (new DataView(guestNonce.buffer, guestNonce.byteOffset, 4).getUint32(0) | 1) >>> 0;
}

/** True if both are of one session. */
export function sameSession(a: Greeting, b: Greeting): boolean {
  return equalBytes(a.hostNonce, b.hostNonce) && equalBytes(a.guestNonce, b.guestNonce);
}

/** A greeting, and the bytes of the chunk that came after it. */
export interface FoundGreeting {
  readonly greeting: Greeting;
  readonly rest: Uint8Array;
}

/** Finds greetings among bytes of any kind: remains of an earlier session. Chunks may be cut anywhere. Holds less than one greeting. */
export class GreetingFinder {
  #held: Uint8Array = new Uint8Array();

  /** The greetings that end in this chunk. Who is content with one takes its rest and asks for no more. */
  *push(chunk: Uint8Array): Generator<FoundGreeting, void, undefined> {
    const bytes = this.#held.length === 0 ? chunk : concatBytes(this.#held, chunk);
    const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    let from = 0;
    for (;;) {
      const at = view.indexOf(MAGIC, from);
      if (at === -1 || at + GREETING_LENGTH > bytes.length) {
        // A greeting that has begun, or the last bytes, which may be the beginning of its magic.
        this.#held = bytes.slice(at === -1 ? Math.max(from, bytes.length - MAGIC.length + 1) : at);
        return;
      }
      // One that was cut short may be followed by a whole one, so the search goes on inside of what looks like a greeting.
      from = at + MAGIC.length;
      const greeting = parseGreeting(bytes.subarray(at, at + GREETING_LENGTH));
      if (greeting !== undefined) yield { greeting, rest: bytes.subarray(at + GREETING_LENGTH) };
    }
  }
}

/** The greeting in bytes that begin with the magic, or undefined if a field has a value that no greeting has. */
function parseGreeting(bytes: Uint8Array): Greeting | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, GREETING_LENGTH);
  const kind = KINDS[view.getUint32(8) - 1];
  const maxStreams = view.getUint32(12);
  const streamWindow = view.getUint32(16);
  if (kind === undefined || streamWindow > MAX_WINDOW || (kind !== "confirm" && streamWindow === 0)) return undefined;
  return { kind, maxStreams, streamWindow, hostNonce: bytes.slice(20, 36), guestNonce: bytes.slice(36, 52) };
}
