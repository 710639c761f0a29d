import type { Blob } from "./blob.ts";

/** Bytes of a block, and blocks that are kept: those of the known sidecar (specs/attestation.md 5.7). */
export const BLOCK: number = 512 * 1024;
const KEPT = 32;

/** A device of bytes, for the NBD server. */
export interface Device {
  readonly length: number;
  read(offset: number, length: number): Promise<Uint8Array>;
  /** Resolves when the bytes are where they stay. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
}

/** Reads a blob by blocks and keeps the ones that were used last. Writes go through: what was acknowledged is in the blob. */
export class BlockCache implements Device {
  readonly #blob: Blob;
  readonly #capacity: number;
  /** In the order of their last use. */
  readonly #blocks = new Map<number, Uint8Array>();
  /** What is under way with a block; the next waits for it. A read that came before a write must not leave its old bytes behind it. */
  readonly #queues = new Map<number, Promise<unknown>>();

  constructor(blob: Blob, capacity: number = KEPT) {
    this.#blob = blob;
    this.#capacity = capacity;
  }

  get length(): number {
    return this.#blob.length;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const output = new Uint8Array(length);
    await this.#each(offset, length, async (block, from, to, at) => {
      const bytes = await this.#load(block);
      output.set(bytes.subarray(from, to), at);
    });
    return output;
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#each(offset, bytes.length, async (block, from, to, at) => {
      const part = bytes.subarray(at, at + to - from);
      // Whatever becomes of it, the kept block is not known to be right any more.
      const kept = this.#blocks.get(block);
      this.#blocks.delete(block);
      await this.#blob.write(block * BLOCK + from, part);
      if (kept === undefined) return;
      kept.set(part, from);
      this.#keep(block, kept);
    });
  }

  /** Splits a range by blocks; the parts run side by side, those of one block one after the other. */
  async #each(offset: number, length: number, work: (block: number, from: number, to: number, at: number) => Promise<void>): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let position = offset; position < offset + length;) {
      const block = Math.floor(position / BLOCK);
      const from = position - block * BLOCK;
      const to = Math.min(BLOCK, from + offset + length - position);
      const at = position - offset;
      parts.push(this.#queued(block, async () => work(block, from, to, at)));
      position += to - from;
    }
    // All of them are waited for: none goes on behind an error that has been told.
    const failed = (await Promise.allSettled(parts)).find((outcome) => outcome.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  async #queued<T>(block: number, work: () => Promise<T>): Promise<T> {
    const result = (this.#queues.get(block) ?? Promise.resolve()).then(work, work);
    const settled = result
      .catch(() => undefined)
      .finally(() => {
        if (this.#queues.get(block) === settled) this.#queues.delete(block);
      });
    this.#queues.set(block, settled);
    return result;
  }

  async #load(block: number): Promise<Uint8Array> {
    const kept = this.#blocks.get(block);
    const bytes = kept ?? (await this.#blob.read(block * BLOCK, Math.min(BLOCK, this.length - block * BLOCK)));
    this.#keep(block, bytes);
    return bytes;
  }

  #keep(block: number, bytes: Uint8Array): void {
    this.#blocks.delete(block);
    this.#blocks.set(block, bytes);
    for (const oldest of this.#blocks.keys()) {
      if (this.#blocks.size <= this.#capacity) break;
      this.#blocks.delete(oldest);
    }
  }
}
