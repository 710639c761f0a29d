import type { ByteSink } from "@sealpod/core";
import type { HashTreeBuilder } from "../hash-tree.ts";
import { BLOCK } from "./format.ts";

/** Bytes that go to the sink at a time: layers are full of small files, and a write per file would cost more than the hashing. */
const BUFFER = 256 * 1024;

/** Pieces of this size or more are handed on as they come: to copy them would cost more than a write. */
const LARGE = 32 * 1024;

/** Writes an image in order and hashes it on the way. */
export class ImageWriter {
  readonly #sink: ByteSink;
  readonly #tree: HashTreeBuilder;
  #buffer: Uint8Array = new Uint8Array(BUFFER);
  #filled = 0;
  #handed = 0;

  constructor(sink: ByteSink, tree: HashTreeBuilder) {
    this.#sink = sink;
    this.#tree = tree;
  }

  /** Bytes so far. */
  get size(): number {
    return this.#handed + this.#filled;
  }

  /** Takes the next bytes. */
  async write(bytes: Uint8Array): Promise<void> {
    if (bytes.length >= LARGE) {
      await this.flush();
      await this.#hand(bytes);
      return;
    }
    for (let at = 0; at < bytes.length;) {
      const piece = bytes.subarray(at, at + BUFFER - this.#filled);
      this.#buffer.set(piece, this.#filled);
      this.#filled += piece.length;
      at += piece.length;
      if (this.#filled === BUFFER) await this.flush();
    }
  }

  /** Adds zeros up to the next block, and returns its number. */
  async align(): Promise<number> {
    const over = this.size % BLOCK;
    if (over > 0) await this.write(new Uint8Array(BLOCK - over));
    return this.size / BLOCK;
  }

  /** Hands on what is in the buffer. A sink may keep what it gets, so the next bytes have a buffer of their own. */
  async flush(): Promise<void> {
    if (this.#filled === 0) return;
    const full = this.#buffer.subarray(0, this.#filled);
    this.#buffer = new Uint8Array(BUFFER);
    this.#filled = 0;
    await this.#hand(full);
  }

  async #hand(bytes: Uint8Array): Promise<void> {
    this.#handed += bytes.length;
    this.#tree.update(bytes);
    await this.#sink.write(bytes);
  }
}
