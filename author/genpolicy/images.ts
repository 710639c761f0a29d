import { isSealpodError, messageOf, type SealpodError, unlessAborted } from "@sealpod/core";
import { formatPosition, type Position } from "@sealpod/kube";
import { chainIds, type ImageConfig, type ImageSource, type Layer, layerId } from "@sealpod/oci";
import { GenpolicyError } from "./errors.ts";
import type { LayerCache } from "./layer-cache.ts";
import {
  errorOf,
  failureOf,
  Lanes,
  type LayerFacts,
  type LayerFormat,
  type LayerProgress,
  type LayerReader,
  type LayerWish,
  mergeFacts,
  missing,
  NO_FACTS,
  silentProgress,
  stackUserFile,
  type UserRules,
} from "./layers/index.ts";

export type { LayerFormat, UserRules } from "./layers/index.ts";

/** What a policy says about an image. */
export interface MeasuredImage {
  readonly reference: string;
  /** `sha256:…` */
  readonly manifestDigest: string;
  readonly config: ImageConfig;
  /** Top layer first, as the overlay stacks them; [] if the format is `none`. */
  readonly layers: readonly MeasuredLayer[];
  /** Text of `/etc/passwd` and `/etc/group` over all layers; "" if there is none or it was not asked for. */
  readonly passwd: string;
  readonly group: string;
  /** Which of the two are links, which are not followed: their text is "" here and something else in the container. Rules `exact` only. */
  readonly linkedUserFiles: readonly ("passwd" | "group")[];
}

/** A layer: the name of its mount in the guest and its dm-verity root hash, both 64 lower-case hex digits. */
export interface MeasuredLayer {
  readonly id: string;
  readonly rootHash: string;
}

/** Options of {@link ImageMeasurer}. */
export interface ImageMeasurerOptions {
  readonly source: ImageSource;
  /** What it knows is not read. */
  readonly cache: LayerCache;
  readonly reader: LayerReader;
  readonly format: LayerFormat;
  readonly users: UserRules;
  readonly progress?: LayerProgress;
  /** Ends everything that is under way, with its reason. */
  readonly signal?: AbortSignal;
  /** A signal of how long other images are still looked for after the first failure, made at that moment. Default: 5 seconds. */
  readonly grace?: () => AbortSignal;
}

/**
 * Milliseconds: most of what else is wrong is known by then, and is told together with the first failure. A registry that
 * does not answer must not keep that back for minutes.
 */
const GRACE = 5000;

/** The name of an image that nobody wrote into the manifest is not what its author would look at. */
const PAUSE_HINT = "This is the image of the pause container, which the settings name: name the one that your nodes run with --pause-image.";

/** Images resolved at a time: registries answer to more with 429. */
const RESOLVING = 8;

/**
 * Resolves images and measures their layers, many at a time and each once, whatever images share it.
 */
export class ImageMeasurer {
  readonly #source: ImageSource;
  readonly #cache: LayerCache;
  readonly #reader: LayerReader;
  readonly #wish: LayerWish;
  readonly #progress: LayerProgress;
  readonly #resolving = new Lanes(RESOLVING);
  readonly #images = new Map<string, Promise<MeasuredImage>>();
  readonly #layers = new Map<string, Promise<LayerFacts>>();
  readonly #grace: () => AbortSignal;
  readonly #signal: AbortSignal;
  readonly #stop = new AbortController();
  readonly #stopResolving = new AbortController();
  /** End the reading of layers, and the resolving of images. */
  readonly #reading: AbortSignal;
  readonly #looking: AbortSignal;
  #failure: unknown;

  constructor(options: ImageMeasurerOptions) {
    this.#source = options.source;
    this.#cache = options.cache;
    this.#reader = options.reader;
    this.#wish = { format: options.format, users: options.users };
    this.#progress = options.progress ?? silentProgress;
    this.#grace = options.grace ?? (() => AbortSignal.timeout(GRACE));
    this.#signal = options.signal ?? new AbortController().signal;
    this.#reading = AbortSignal.any([this.#signal, this.#stop.signal]);
    this.#looking = AbortSignal.any([this.#signal, this.#stopResolving.signal]);
  }

  /**
   * An image with its layers. Ask for all images at once. An image that is not there fails by itself, so that all that are
   * missing are known; but no layer is read after a failure, and a little later no image is looked for: an image that waits
   * then rejects with that failure, whose `details.image` says which image it was.
   * @param position where the manifest names the image; undefined for the pause image, which the settings name
   * @throws {GenpolicyError} ERR_GENPOLICY_IMAGE; the reason of the measurer's signal
   */
  async measure(reference: string, position: Position | undefined): Promise<MeasuredImage> {
    let measured = this.#images.get(reference);
    if (measured === undefined) {
      measured = this.#measure(reference).catch((error: unknown) => {
        throw this.#fail(reference, position, error);
      });
      this.#images.set(reference, measured);
    }
    return measured;
  }

  async #measure(reference: string): Promise<MeasuredImage> {
    const signal = this.#looking;
    const image = await this.#resolving.run(async () => {
      signal.throwIfAborted();
      return unlessAborted(this.#source.resolve(reference, signal), signal);
    });
    const facts = await Promise.all(image.layers.map(async (layer) => this.#layer(layer))).catch((error: unknown) => {
      throw this.#failure ?? error;
    });
    const { format, users } = this.#wish;
    const ids = chainIds(image.layers.map((layer) => layer.diffId)).map((chainId) => layerId(chainId));
    const layers = format === "none" ? [] : ids.map((id, index): MeasuredLayer => ({ id, rootHash: facts[index]?.roots[format] ?? "" })).reverse();
    const [passwd, group] = (["passwd", "group"] as const).map((name) =>
      stackUserFile(facts.map((layer) => (users === "none" ? undefined : layer.users[users]?.[name]) ?? { kind: "absent" })),
    );
    return {
      reference,
      manifestDigest: image.manifestDigest,
      config: image.config,
      layers,
      passwd: passwd?.text ?? "",
      group: group?.text ?? "",
      linkedUserFiles: [...(passwd?.isLink === true ? (["passwd"] as const) : []), ...(group?.isLink === true ? (["group"] as const) : [])],
    };
  }

  /** The facts of a layer: of the cache, of the same layer of another image, or of its bytes. */
  async #layer(layer: Layer): Promise<LayerFacts> {
    let facts = this.#layers.get(layer.diffId);
    if (facts === undefined) {
      facts = this.#read(layer);
      this.#layers.set(layer.diffId, facts);
    }
    return facts;
  }

  async #read(layer: Layer): Promise<LayerFacts> {
    const known = this.#cache.get(layer.diffId) ?? NO_FACTS;
    const wish = missing(known, this.#wish);
    if (wish.format === "none" && wish.users === "none") {
      this.#progress.cached(layer.diffId);
      return known;
    }
    this.#progress.queued(layer.diffId);
    const found = await this.#readStored(layer, wish);
    this.#progress.done(layer.diffId);
    this.#cache.put(layer.diffId, found);
    return mergeFacts(known, found);
  }

  /** Reads a layer's bytes; those of the next place if the first gave wrong ones. */
  async #readStored(layer: Layer, wish: LayerWish): Promise<LayerFacts> {
    for (;;) {
      try {
        return await this.#reader.read(layer, (signal) => this.#counted(layer, signal), wish, this.#reading);
      } catch (error) {
        if (this.#reading.aborted || !isDamage(error)) throw error;
        const origin = this.#source.rejectLayer?.(layer);
        if (origin?.hasOther === true) continue;
        throw errorOf({ ...failureOf(error), message: `layer ${layer.digest}${origin === undefined ? "" : ` from ${origin.name}`}: ${error.message}` });
      }
    }
  }

  async *#counted(layer: Layer, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    this.#progress.start(layer.diffId, layer.size);
    let bytes = 0;
    for await (const chunk of this.#source.layerBlob(layer, signal)) {
      bytes += chunk.length;
      this.#progress.advance(layer.diffId, bytes);
      yield chunk;
    }
  }

  /** A failure with its place; the first one ends the reading of layers. */
  #fail(reference: string, position: Position | undefined, error: unknown): unknown {
    if (this.#signal.aborted) return this.#signal.reason;
    if (error === this.#failure) return error;
    let failure = error;
    if (isSealpodError(error) && error.code !== "ERR_GENPOLICY_UNSUPPORTED") {
      const hints = [error.hint, position === undefined ? PAUSE_HINT : undefined].filter((hint) => hint !== undefined);
      const where = position === undefined ? "cluster_config.pause_container_image" : formatPosition(position);
      failure = new GenpolicyError("ERR_GENPOLICY_IMAGE", `${where}: image ${JSON.stringify(reference)}: ${messageOf(error)}`, {
        cause: error,
        details: { image: reference },
        ...(hints.length === 0 ? {} : { hint: hints.join(" ") }),
      });
    }
    if (this.#failure === undefined) {
      this.#failure = failure;
      this.#stop.abort(failure);
      const grace = this.#grace();
      grace.addEventListener("abort", () => this.#stopResolving.abort(failure), { once: true });
    }
    return failure;
  }
}

/** True for what wrong bytes make of a layer: also a tar that makes no sense, which is seen before the end, where its digest is. */
function isDamage(error: unknown): error is SealpodError {
  return isSealpodError(error) && (error.code === "ERR_OCI_MISMATCH" || error.code === "ERR_OCI_COMPRESSION" || error.code.startsWith("ERR_VERITY_"));
}
