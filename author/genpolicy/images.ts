import { isSealpodError, messageOf, toHex } from "@sealpod/core";
import { formatPosition, type Position } from "@sealpod/kube";
import { chainIds, type Image, type ImageConfig, type ImageSource, layerId } from "@sealpod/oci";
import { buildLayer, discard } from "@sealpod/verity";
import { GenpolicyError } from "./errors.ts";
import type { LayerCache } from "./layer-cache.ts";

/** What a policy says about an image. */
export interface MeasuredImage {
  readonly reference: string;
  readonly config: ImageConfig;
  /** Top layer first, as the overlay stacks them. */
  readonly layers: readonly MeasuredLayer[];
}

/** A layer: the name of its mount in the guest and its dm-verity root hash, both 64 lower-case hex digits. */
export interface MeasuredLayer {
  readonly id: string;
  readonly rootHash: string;
}

/** Resolves images and measures their layers, each layer once. */
export class ImageMeasurer {
  readonly #source: ImageSource;
  readonly #cache: LayerCache;
  readonly #images = new Map<string, Promise<MeasuredImage>>();
  readonly #progress: (message: string) => void;

  /** @param progress takes one line per layer that is read */
  constructor(source: ImageSource, cache: LayerCache, progress: (message: string) => void = () => undefined) {
    this.#source = source;
    this.#cache = cache;
    this.#progress = progress;
  }

  /**
   * @param position where the manifest names the image; undefined for the pause image, which the settings name
   * @throws {GenpolicyError} ERR_GENPOLICY_IMAGE
   */
  async measure(reference: string, position: Position | undefined): Promise<MeasuredImage> {
    const known = this.#images.get(reference);
    const measured = known ?? this.#measure(reference);
    this.#images.set(reference, measured);
    try {
      return await measured;
    } catch (error) {
      if (!isSealpodError(error) || error.code === "ERR_GENPOLICY_UNSUPPORTED") throw error;
      const where = position === undefined ? "cluster_config.pause_container_image" : formatPosition(position);
      throw new GenpolicyError("ERR_GENPOLICY_IMAGE", `${where}: image ${JSON.stringify(reference)}: ${messageOf(error)}`, {
        cause: error,
        details: { image: reference },
        ...(error.hint === undefined ? {} : { hint: error.hint }),
      });
    }
  }

  async #measure(reference: string): Promise<MeasuredImage> {
    const image = await this.#source.resolve(reference);
    const ids = chainIds(image.layers.map((layer) => layer.diffId)).map((chainId) => layerId(chainId));
    const layers: MeasuredLayer[] = [];
    for (const [index, id] of ids.entries()) layers.unshift({ id, rootHash: await this.#rootHash(image, index) });
    return { reference, config: image.config, layers };
  }

  async #rootHash(image: Image, index: number): Promise<string> {
    const layer = image.layers[index];
    if (layer === undefined) throw new RangeError(`no layer ${index}`);
    const cached = this.#cache.get(layer.diffId);
    if (cached !== undefined) return cached;
    this.#progress(`${image.reference}: layer ${index + 1} of ${image.layers.length}, ${layer.diffId}`);
    // The source checks the diff id before the tar ends, so a hash that comes out belongs to that diff id.
    const { rootHash } = await buildLayer(this.#source.layerTar(layer), discard);
    const hex = toHex(rootHash);
    this.#cache.put(layer.diffId, hex);
    return hex;
  }
}
