import { decodeUtf8, encodeUtf8, isSealpodError, messageOf } from "@sealpod/core";
import {
  type CacheRows,
  encodeCacheRows,
  FOREIGN_ROWS,
  type LayerFacts,
  MAX_CACHE_SIZE,
  mergeFacts,
  NO_FACTS,
  NO_ROWS,
  parseCacheRows,
} from "./layers/index.ts";

/** What is known of layers that were read before, by diff id (`sha256:…`). */
export interface LayerCache {
  get(diffId: string): LayerFacts | undefined;
  /** Adds to what is known of a layer. */
  put(diffId: string, facts: LayerFacts): void;
}

/** A cache in memory. */
export class MemoryLayerCache implements LayerCache {
  readonly #facts: Map<string, LayerFacts>;

  constructor(facts: Iterable<readonly [string, LayerFacts]> = []) {
    this.#facts = new Map(facts);
  }

  get(diffId: string): LayerFacts | undefined {
    return this.#facts.get(diffId);
  }

  put(diffId: string, facts: LayerFacts): void {
    this.#facts.set(diffId, mergeFacts(this.#facts.get(diffId) ?? NO_FACTS, facts));
  }
}

/** The file of a {@link LayerCacheFile}; `fileCacheStore` makes one of a path. */
export interface CacheStore {
  /** The whole file, or undefined if there is none; rejects if it has more than `limit` bytes. */
  read(limit: number): Promise<Uint8Array | undefined>;
  /**
   * Replaces the file at once by what `change` makes of it, while no other process can do so; undefined leaves it as it is.
   * `change` gets undefined if there is no file. Rejects if there is one that cannot be read.
   */
  update(limit: number, change: (bytes: Uint8Array | undefined) => Uint8Array | undefined): Promise<void>;
}

/**
 * A cache that is kept in a file. Several processes may use one file at once: what is saved is merged into what is there by
 * then. Damaged rows are made anew. A file that is no layer cache at all, or cannot be read, is somebody's mistake in naming it:
 * it is left as it is.
 */
export class LayerCacheFile implements LayerCache {
  readonly #store: CacheStore;
  readonly #known: MemoryLayerCache;
  readonly #new = new Map<string, LayerFacts>();
  readonly #state: "sound" | "damaged" | "foreign";

  private constructor(store: CacheStore, { facts, problems, isForeign }: CacheRows) {
    this.#store = store;
    this.#known = new MemoryLayerCache(facts);
    this.#state = isForeign ? "foreign" : problems.length > 0 ? "damaged" : "sound";
  }

  /**
   * Reads the file. A file that is absent is an empty cache; whatever is wrong with one that is there goes to `warn`, and nothing is an error.
   * @param warn takes a sentence without the file's name
   */
  static async open(store: CacheStore, warn: (problem: string) => void): Promise<LayerCacheFile> {
    const rows = await store.read(MAX_CACHE_SIZE).then(parseBytes, (error: unknown) => ({
      ...FOREIGN_ROWS,
      problems: [`cannot be read: ${messageOf(error)}; it is left as it is, and nothing is kept`],
    }));
    for (const problem of rows.problems) warn(problem);
    return new LayerCacheFile(store, rows);
  }

  get(diffId: string): LayerFacts | undefined {
    return this.#known.get(diffId);
  }

  put(diffId: string, facts: LayerFacts): void {
    this.#known.put(diffId, facts);
    this.#new.set(diffId, mergeFacts(this.#new.get(diffId) ?? NO_FACTS, facts));
  }

  /** Writes what is new into the file; does nothing if there is nothing, or the file is no layer cache. Rejects if the file cannot be written. */
  async save(): Promise<void> {
    if (this.#state === "foreign" || (this.#new.size === 0 && this.#state === "sound")) return;
    await this.#store.update(MAX_CACHE_SIZE, (bytes) => {
      const rows = parseBytes(bytes);
      if (rows.isForeign) return undefined;
      const facts = new Map(rows.facts);
      for (const [diffId, more] of this.#new) {
        const merged = mergeFacts(facts.get(diffId) ?? NO_FACTS, more);
        // Behind the others: the newest stay longest.
        facts.delete(diffId);
        facts.set(diffId, merged);
      }
      return encodeUtf8(encodeCacheRows(facts));
    });
    this.#new.clear();
  }
}

function parseBytes(bytes: Uint8Array | undefined): CacheRows {
  if (bytes === undefined) return NO_ROWS;
  try {
    return parseCacheRows(decodeUtf8(bytes, "layer cache"));
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return FOREIGN_ROWS;
  }
}
