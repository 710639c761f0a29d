import { existsSync } from "node:fs";
import { unlessAborted } from "@sealpod/core";
import type { Layer } from "@sealpod/oci";
import { GenpolicyError } from "../errors.ts";
import type { LayerFacts, LayerReader, LayerWish } from "./facts.ts";
import { Lanes } from "./lanes.ts";
import { measureLayer } from "./measure-layer.ts";
import { LayerThread } from "./thread.ts";

/** Layers below this size as stored are read in the thread of the caller: starting another would take longer. */
const SMALL_LAYER = 2 * 1024 * 1024;

/** Threads at most, however many cores there are: each takes some 40 MiB, and more layers at a time than this no registry serves faster. */
const MAX_THREADS = 4;

/** Options of {@link LayerPool}. */
export interface LayerPoolOptions {
  /** Threads at most: the number of cores; more than 4 count as 4. 0 and 1 read everything in the thread of the caller. */
  readonly threads: number;
  /** Entry of the threads, for tests. Where there is no such file (in a bundle), everything is read in the thread of the caller. */
  readonly entry?: URL;
  /** Bytes; for tests. */
  readonly smallLayer?: number;
}

const ENTRY = new URL("worker.ts", import.meta.url);

/**
 * Reads layers on worker threads, as many at a time as there are threads, in the order of the calls. Threads start when there is
 * work for them and stay for the next layer; they keep no process alive that has nothing else to do.
 */
export class LayerPool implements LayerReader, AsyncDisposable {
  readonly #entry: URL;
  readonly #threads: number;
  readonly #smallLayer: number;
  readonly #idle: LayerThread[] = [];
  readonly #all = new Set<LayerThread>();
  readonly #lanes: Lanes;
  readonly #closing = new AbortController();

  constructor({ threads, entry = ENTRY, smallLayer = SMALL_LAYER }: LayerPoolOptions) {
    this.#entry = entry;
    this.#threads = threads > 1 && existsSync(entry) ? Math.min(threads, MAX_THREADS) : 0;
    this.#smallLayer = smallLayer;
    this.#lanes = new Lanes(Math.max(1, this.#threads));
  }

  /** Threads that run now. */
  get threads(): number {
    return this.#all.size;
  }

  async read(layer: Layer, blob: (signal: AbortSignal) => AsyncIterable<Uint8Array>, wish: LayerWish, signal: AbortSignal): Promise<LayerFacts> {
    const stop = AbortSignal.any([signal, this.#closing.signal]);
    return this.#lanes.run(async () => {
      stop.throwIfAborted();
      // A few stored bytes may unpack to any size; it takes longer here, no more.
      if (this.#threads === 0 || layer.size < this.#smallLayer) return unlessAborted(measureLayer(layer, stoppable(blob(stop), stop), wish), stop);
      return (this.#idle.pop() ?? this.#start()).read(layer, blob(stop), wish, stop);
    });
  }

  /** Ends the threads and resolves when they are gone. What is being read or waits is refused, and so is what comes later. */
  async close(): Promise<void> {
    this.#closing.abort(new GenpolicyError("ERR_GENPOLICY_IMAGE", "the layer was not read: reading was stopped"));
    await Promise.all([...this.#all].map(async (thread) => thread.end()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #start(): LayerThread {
    const thread: LayerThread = new LayerThread(this.#entry, {
      idle: () => void this.#idle.push(thread),
      gone: () => {
        this.#all.delete(thread);
        const at = this.#idle.indexOf(thread);
        if (at !== -1) this.#idle.splice(at, 1);
      },
    });
    this.#all.add(thread);
    return thread;
  }
}

async function* stoppable(blob: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  for await (const chunk of blob) {
    signal.throwIfAborted();
    yield chunk;
  }
}
