import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { asObject, encodeUtf8, parseJson } from "@sealpod/core";
import { writeFileAtomic } from "@sealpod/io";
import { blobPath } from "@sealpod/oci";
import type { Layer } from "@sealpod/oci";

/** Beside the layout's own files, which other tools ignore. */
const CACHE_FILE = "build-cache.json";

/** Layers that were built into a layout before, by the digest of their inputs. */
export class LayerCache {
  readonly #directory: string;
  readonly #layers: Map<string, Layer>;

  private constructor(directory: string, layers: Map<string, Layer>) {
    this.#directory = directory;
    this.#layers = layers;
  }

  /** A cache that is missing or damaged is an empty one: it can only cost time. */
  static async open(directory: string): Promise<LayerCache> {
    const layers = new Map<string, Layer>();
    try {
      const document = asObject(parseJson(await readFile(join(directory, CACHE_FILE), "utf8"))) ?? {};
      for (const [key, value] of Object.entries(document)) {
        const { digest, size, mediaType, diffId } = asObject(value) ?? {};
        if (typeof digest === "string" && typeof size === "number" && typeof mediaType === "string" && typeof diffId === "string") {
          layers.set(key, { digest, size, mediaType, diffId });
        }
      }
    } catch {
      layers.clear();
    }
    return new LayerCache(directory, layers);
  }

  /** The layer of these inputs, if its blob is still there and whole. */
  async get(key: string): Promise<Layer | undefined> {
    const layer = this.#layers.get(key);
    if (layer === undefined) return undefined;
    try {
      const hash = createHash("sha256");
      for await (const chunk of createReadStream(join(this.#directory, blobPath(layer.digest)), { highWaterMark: 1024 * 1024 }))
        hash.update(chunk as Uint8Array);
      return `sha256:${hash.digest("hex")}` === layer.digest ? layer : undefined;
    } catch {
      return undefined;
    }
  }

  set(key: string, layer: Layer): void {
    this.#layers.set(key, layer);
  }

  async save(): Promise<void> {
    const sorted = [...this.#layers].sort(([a], [b]) => (a < b ? -1 : 1));
    await writeFileAtomic(join(this.#directory, CACHE_FILE), encodeUtf8(JSON.stringify(Object.fromEntries(sorted), undefined, 1)), 0o644);
  }
}
