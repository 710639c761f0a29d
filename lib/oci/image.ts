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

/** Where images come from: a layout, a registry. */
export interface ImageSource {
  /**
   * The image for the source's platform.
   * @throws {OciError} ERR_OCI_REFERENCE, ERR_OCI_NOT_FOUND, ERR_OCI_PLATFORM, ERR_OCI_DOCUMENT, ERR_OCI_MISMATCH and others
   */
  resolve(reference: string): Promise<Image>;
  /**
   * The layer's tar, decompressed. The iterator ends only after size, digest and diff id were found right; until then its
   * bytes are unverified and must not take effect.
   * @throws {OciError} ERR_OCI_MISMATCH, ERR_OCI_COMPRESSION, ERR_OCI_LIMIT, ERR_OCI_NOT_FOUND
   */
  layerTar(layer: Layer): AsyncIterable<Uint8Array>;
}

/** A platform of an image index. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
}

/** What AKS nodes run. */
export const DEFAULT_PLATFORM: Platform = { os: "linux", architecture: "amd64" };
