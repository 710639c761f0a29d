/** Limits on images. */
export interface OciLimits {
  /** Bytes of one index, manifest or configuration. */
  readonly maxDocumentSize: number;
  /** Entries of one index. */
  readonly maxManifests: number;
  /** Layers of one image. */
  readonly maxLayers: number;
  /** Bytes of one layer as stored. */
  readonly maxBlobSize: number;
  /** Bytes of one layer's tar: what stops a small blob that unpacks to petabytes. */
  readonly maxTarSize: number;
}

/**
 * Defaults: 4 MiB of JSON (what containerd and registries take), 1024 entries, 500 layers (the overlay filesystem's own
 * limit of lower directories), 64 GiB for a layer either way.
 */
export const DEFAULT_OCI_LIMITS: OciLimits = {
  maxDocumentSize: 4 * 1024 * 1024,
  maxManifests: 1024,
  maxLayers: 500,
  maxBlobSize: 64 * 1024 ** 3,
  maxTarSize: 64 * 1024 ** 3,
};

/** Strings in one list of a configuration (environment, arguments, volumes): execve(2) takes no more than this in bytes. */
export const MAX_CONFIG_STRINGS = 4096;
