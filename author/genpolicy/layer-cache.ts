import { asArray, asObject, CoreError, type JsonValue, parseJson } from "@sealpod/core";

/** dm-verity root hashes of layers that were read before, by diff id (`sha256:…`). */
export interface LayerCache {
  get(diffId: string): string | undefined;
  put(diffId: string, rootHash: string): void;
}

/** 64 hex digits per layer and some 100,000 layers: far more than one author builds. */
const MAX_CACHE_LENGTH = 16 * 1024 * 1024;

/** A cache in memory, which can be read from and written to the file format of the AKS tool: `[{diff_id, verity_hash}]`. */
export class MemoryLayerCache implements LayerCache {
  readonly #hashes = new Map<string, string>();
  #changed = false;

  /** True if something was put in since it was made or parsed. */
  get changed(): boolean {
    return this.#changed;
  }

  get(diffId: string): string | undefined {
    return this.#hashes.get(diffId);
  }

  put(diffId: string, rootHash: string): void {
    this.#hashes.set(diffId, rootHash);
    this.#changed = true;
  }

  /** Text of the cache file. */
  encode(): string {
    const rows = [...this.#hashes].map(([diff_id, verity_hash]) => ({ diff_id, verity_hash }));
    return `${JSON.stringify(rows, null, 2)}\n`;
  }

  /** The cache of a file, or undefined if the text is not such a file. A damaged cache is no harm: layers are read again. */
  static parse(text: string): MemoryLayerCache | undefined {
    let rows: readonly JsonValue[] | undefined;
    try {
      rows = asArray(parseJson(text, "layer cache", { maxLength: MAX_CACHE_LENGTH, maxDepth: 4 }));
    } catch (error) {
      if (error instanceof CoreError) return undefined;
      throw error;
    }
    if (rows === undefined) return undefined;
    const cache = new MemoryLayerCache();
    for (const row of rows) {
      const diffId = asObject(row)?.["diff_id"];
      const hash = asObject(row)?.["verity_hash"];
      if (typeof diffId !== "string" || typeof hash !== "string") return undefined;
      // The AKS tool stores an empty hash where reading a layer failed: not a fact worth keeping.
      if (/^sha256:[0-9a-f]{64}$/.test(diffId) && /^[0-9a-f]{64}$/.test(hash)) cache.#hashes.set(diffId, hash);
    }
    return cache;
  }
}
