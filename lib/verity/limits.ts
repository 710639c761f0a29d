/** Limits on a layer's tar archive. Images are hostile input: everything that the archive can make us allocate has a bound. */
export interface TarLimits {
  /** Members of the archive, long-name and PAX records not counted. */
  readonly maxEntries: number;
  /** Bytes of one path or link target. */
  readonly maxPathLength: number;
  /** Bytes of one PAX or GNU long-name record. */
  readonly maxRecordSize: number;
  /** Bytes of the whole archive. */
  readonly maxTotalSize: number;
}

/**
 * Defaults: a million members (the largest public images have about 300,000 in a layer), PATH_MAX less its NUL,
 * 1 MiB for a PAX record (as Go's archive/tar), 64 GiB for the archive (no node pulls more).
 */
export const DEFAULT_TAR_LIMITS: TarLimits = {
  maxEntries: 1_000_000,
  maxPathLength: 4095,
  maxRecordSize: 1024 * 1024,
  maxTotalSize: 64 * 1024 ** 3,
};

/** Longest name of one file, in bytes: NAME_MAX of Linux. */
export const MAX_NAME_LENGTH = 255;

/**
 * Nodes of a tar index. Each component of a path can make one, so a member may cost far more than itself: the bound keeps
 * a million members with deep paths from filling the memory.
 */
export const MAX_INDEX_NODES = 2_000_000;
