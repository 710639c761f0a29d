import { verifyBlob } from "./blob.ts";
import { digestOf } from "./digest.ts";
import { parseConfig, parseIndex, parseManifest } from "./documents.ts";
import type { Descriptor } from "./documents.ts";
import { OciError } from "./errors.ts";
import { DEFAULT_PLATFORM } from "./image.ts";
import type { BlobOrigin, Image, ImageSource, Layer, Platform } from "./image.ts";
import { layerTarOf } from "./layer-tar.ts";
import { DEFAULT_OCI_LIMITS } from "./limits.ts";
import type { OciLimits } from "./limits.ts";
import { mediaKind, refuseSchema1 } from "./media-types.ts";
import { parseReference } from "./reference.ts";
import type { Reference } from "./reference.ts";

/** An index may point to one index per image; deeper nesting has no use and no end. */
const MAX_INDEX_DEPTH = 3;

/** The index or manifest that a reference names, whole: from a store that knows its size only when it has the bytes. */
export interface RootDocument {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

/** Digest and size of a blob. */
export type BlobAddress = Pick<Descriptor, "digest" | "size">;

/**
 * Blobs by digest, and names for some: what a layout, a registry and containerd have in common. A store says what it was
 * told; {@link imageSourceOf} and {@link layerTarOf} check it.
 */
export interface BlobStore {
  /**
   * The index or manifest that a reference names: its descriptor, or the document itself.
   * @param text the reference as it was asked for, for messages
   * @param signal ends it with its reason; so do those below. A store that never waits long need not look at it.
   */
  root(reference: Reference, text: string, signal?: AbortSignal): Promise<Descriptor | RootDocument>;
  /** Bytes of an index or manifest, unverified. */
  document(item: Descriptor, reference: Reference, signal?: AbortSignal): AsyncIterable<Uint8Array>;
  /**
   * Bytes of a configuration or layer, unverified.
   * @param reference an image with this blob: registries keep blobs by repository. Undefined for a layer that this source never resolved.
   */
  blob(item: BlobAddress, reference: Reference | undefined, signal?: AbortSignal): AsyncIterable<Uint8Array>;
  /** Told that the bytes it gave were wrong. A store that has them from one place only need not have it. */
  reject?(item: BlobAddress): BlobOrigin | undefined;
}

/** Options of all sources of images. */
export interface ImageSourceOptions {
  /** Default: linux/amd64. */
  readonly platform?: Platform;
  readonly limits?: Partial<OciLimits>;
}

/** The images of a store: index, manifest, configuration and layers, each checked against the digest that led to it. */
export function imageSourceOf(store: BlobStore, options: ImageSourceOptions = {}): ImageSource {
  const limits = { ...DEFAULT_OCI_LIMITS, ...options.limits };
  const resolver = new Resolver(store, options.platform ?? DEFAULT_PLATFORM, limits);
  const layerBlob = (layer: Layer, signal?: AbortSignal): AsyncIterable<Uint8Array> => store.blob(layer, resolver.origins.get(layer.digest), signal);
  return {
    resolve: (reference, signal) => resolver.resolve(reference, signal),
    layerBlob,
    rejectLayer: (layer) => store.reject?.(layer),
    layerTar: (layer) => layerTarOf(layer, layerBlob(layer), limits),
  };
}

class Resolver {
  /** For each layer, the image it was first seen in. */
  readonly origins = new Map<string, Reference>();
  readonly #store: BlobStore;
  readonly #platform: Platform;
  readonly #limits: OciLimits;

  constructor(store: BlobStore, platform: Platform, limits: OciLimits) {
    this.#store = store;
    this.#platform = platform;
    this.#limits = limits;
  }

  async resolve(text: string, signal: AbortSignal | undefined): Promise<Image> {
    const platform = this.#platform;
    const reference = parseReference(text);
    const { digest: manifestDigest, mediaType, bytes } = await this.#manifest(reference, text, signal);
    const manifest = parseManifest(bytes, `manifest ${manifestDigest}`, this.#limits, mediaType);
    const configName = `config ${manifest.config.digest}`;
    const configBytes = await this.#collect(manifest.config, configName, (item) => this.#store.blob(item, reference, signal));
    const config = parseConfig(configBytes, configName, this.#limits);
    if (config.os !== platform.os || config.architecture !== platform.architecture) {
      throw new OciError("ERR_OCI_PLATFORM", `image ${text} is for ${config.os}/${config.architecture}, wanted ${platform.os}/${platform.architecture}`);
    }
    // Pairing layers and diff ids by position is sound only if there are as many of both (specs/genpolicy.md 5.3).
    if (config.diffIds.length !== manifest.layers.length) {
      throw new OciError("ERR_OCI_DOCUMENT", `image ${text} has ${manifest.layers.length} layers and ${config.diffIds.length} diff ids`);
    }
    const layers = manifest.layers.map(({ digest, size, mediaType: type }, i): Layer => {
      if (size > this.#limits.maxBlobSize) {
        throw new OciError("ERR_OCI_LIMIT", `layer ${digest} has ${size} bytes, more than the limit of ${this.#limits.maxBlobSize}`);
      }
      return { digest, size, mediaType: type, diffId: config.diffIds[i] ?? "" };
    });
    for (const { digest } of layers) if (!this.origins.has(digest)) this.origins.set(digest, reference);
    return { reference: text, manifestDigest, configDigest: manifest.config.digest, config, layers };
  }

  /** The platform's manifest: indexes are followed to the first entry that fits (specs/genpolicy.md 5.1). */
  async #manifest(reference: Reference, text: string, signal: AbortSignal | undefined): Promise<VerifiedDocument> {
    let document = await this.#root(reference, text, signal);
    for (let depth = 0; ; depth++) {
      const kind = mediaKind(document.mediaType)?.kind;
      if (kind === "manifest") return document;
      if (kind !== "index") {
        throw new OciError(
          "ERR_OCI_UNSUPPORTED",
          `${document.digest} has media type ${JSON.stringify(document.mediaType.slice(0, 200))}, expected that of an image index or manifest`,
        );
      }
      if (depth === MAX_INDEX_DEPTH) throw new OciError("ERR_OCI_LIMIT", `image indexes are nested deeper than ${MAX_INDEX_DEPTH}`);
      document = await this.#fetch(this.#choose(document), reference, signal);
    }
  }

  async #root(reference: Reference, text: string, signal: AbortSignal | undefined): Promise<VerifiedDocument> {
    const root = await this.#store.root(reference, text, signal);
    refuseSchema1(root.mediaType, undefined, `image ${text}`);
    const digest = "bytes" in root ? digestOf(root.bytes) : root.digest;
    // Whatever a store answers: the digest that was asked for wins.
    if (reference.digest !== undefined && digest !== reference.digest) {
      throw new OciError("ERR_OCI_MISMATCH", `image ${text}: the document found has digest ${digest}`, {
        hint: "The store that keeps the image answered with another one. Do not use it; ask whoever runs it.",
      });
    }
    return "bytes" in root ? { digest, mediaType: root.mediaType, bytes: root.bytes } : this.#fetch(root, reference, signal);
  }

  #choose(document: VerifiedDocument): Descriptor {
    const name = `index ${document.digest}`;
    const { os, architecture } = this.#platform;
    const index = parseIndex(document.bytes, name, this.#limits, document.mediaType);
    const chosen = index.manifests.find((entry) => entry.platform?.os === os && entry.platform.architecture === architecture);
    if (chosen !== undefined) return chosen;
    const offered = index.manifests.map((entry) => (entry.platform === undefined ? "none stated" : `${entry.platform.os}/${entry.platform.architecture}`));
    throw new OciError("ERR_OCI_PLATFORM", `${name} has no entry for ${os}/${architecture}`, { details: { offered: offered.slice(0, 20) } });
  }

  async #fetch(item: Descriptor, reference: Reference, signal: AbortSignal | undefined): Promise<VerifiedDocument> {
    const kind = mediaKind(item.mediaType)?.kind;
    // Nothing is read for what will be refused; the caller says why.
    if (kind !== "index" && kind !== "manifest") return { digest: item.digest, mediaType: item.mediaType, bytes: new Uint8Array() };
    const bytes = await this.#collect(item, `${kind} ${item.digest}`, (wanted) => this.#store.document(wanted, reference, signal));
    return { digest: item.digest, mediaType: item.mediaType, bytes };
  }

  /** A document, whole, checked against its descriptor. */
  async #collect(item: Descriptor, what: string, open: (item: Descriptor) => AsyncIterable<Uint8Array>): Promise<Uint8Array> {
    const { maxDocumentSize } = this.#limits;
    if (item.size > maxDocumentSize) throw new OciError("ERR_OCI_LIMIT", `${what} has ${item.size} bytes, more than the limit of ${maxDocumentSize}`);
    // Each place that gave something else is asked once.
    for (;;) {
      try {
        const parts: Uint8Array[] = [];
        for await (const part of verifyBlob(open(item), item)) parts.push(part);
        return Buffer.concat(parts);
      } catch (error) {
        const origin = error instanceof OciError && error.code === "ERR_OCI_MISMATCH" ? this.#store.reject?.(item) : undefined;
        if (origin?.hasOther !== true) throw error;
      }
    }
  }
}

/** An index or manifest that has the digest it was asked for by. */
interface VerifiedDocument {
  readonly digest: string;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}
