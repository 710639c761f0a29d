/** An image for one platform. */
export interface Image {
  /** The reference as it was asked for. */
  readonly reference: string;
  readonly manifestDigest: string;
  readonly configDigest: string;
  readonly config: ImageConfig;
  /** Bottom first; as many as `config.diffIds`. */
  readonly layers: readonly Layer[];
}

/** A layer blob and the digest of the tar in it. */
export interface Layer {
  /** Digest and size of the blob as stored. */
  readonly digest: string;
  readonly size: number;
  readonly mediaType: string;
  /** Digest of the tar. */
  readonly diffId: string;
}

/** The part of an image configuration that runs (OCI image-spec, "Image Configuration"); absent lists are empty. */
export interface ImageConfig {
  /** `user`, `uid`, `user:group`, `uid:gid` or "". */
  readonly user: string;
  /** `NAME=value`, in order. */
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** "" if the image sets none. */
  readonly workingDir: string;
  readonly tty: boolean;
  /** Paths, sorted. */
  readonly volumes: readonly string[];
  readonly diffIds: readonly string[];
  readonly architecture: string;
  readonly os: string;
}

/** Where images come from: a layout, an archive, a registry, containerd. */
export interface ImageSource {
  /**
   * The image for the source's platform.
   * @throws {OciError} ERR_OCI_REFERENCE, ERR_OCI_NOT_FOUND, ERR_OCI_PLATFORM, ERR_OCI_DOCUMENT, ERR_OCI_MISMATCH and others
   * @param signal ends it with its reason; sources that are on this machine may not look at it
   */
  resolve(reference: string, signal?: AbortSignal): Promise<Image>;
  /**
   * The layer's bytes as stored, compressed or not. Unverified: pass them through `layerTarOf`.
   * @param signal as for `resolve`
   */
  layerBlob(layer: Layer, signal?: AbortSignal): AsyncIterable<Uint8Array>;
  /** Tells the source that the bytes it gave for a layer were wrong. Undefined if it knows no more of them than its caller. */
  rejectLayer?(layer: Layer): BlobOrigin | undefined;
  /**
   * The layer's tar, decompressed: `layerTarOf(layer, layerBlob(layer))`. The iterator ends only after size, digest and diff id were found right; until then its
   * bytes are unverified and must not take effect.
   * @throws {OciError} ERR_OCI_MISMATCH, ERR_OCI_COMPRESSION, ERR_OCI_LIMIT, ERR_OCI_NOT_FOUND
   */
  layerTar(layer: Layer): AsyncIterable<Uint8Array>;
}

/** Where the bytes of a blob came from. */
export interface BlobOrigin {
  /** As messages name it, e.g. `mirror one.example`. */
  readonly name: string;
  /** True if the blob comes from elsewhere when it is asked for again. */
  readonly hasOther: boolean;
}

/** A platform of an image index. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
}

/** What AKS nodes run. */
export const DEFAULT_PLATFORM: Platform = { os: "linux", architecture: "amd64" };
