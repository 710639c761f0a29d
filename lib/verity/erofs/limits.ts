import { DEFAULT_TAR_LIMITS, MAX_INDEX_NODES } from "../limits.ts";
import type { TarLimits } from "../limits.ts";

/** Limits on what a layer's tar can make the image writer keep in memory. */
export interface ErofsLimits extends TarLimits {
  /** Names that the archive makes, parents that it does not declare included, also those that a later entry replaces. */
  readonly maxNodes: number;
  /** Bytes of names, symlink targets and extended attributes together, as memory holds them: all that is kept of a member and has no fixed size. */
  readonly maxMetadata: number;
}

/**
 * Defaults: those of the tar, the nodes of the tar index, and 128 MiB of metadata (the largest public images have about
 * 300,000 entries in a layer, with 20 MB of names and targets).
 */
export const DEFAULT_EROFS_LIMITS: ErofsLimits = { ...DEFAULT_TAR_LIMITS, maxNodes: MAX_INDEX_NODES, maxMetadata: 128 * 1024 * 1024 };

/** Longest symlink target in bytes: PATH_MAX of Linux less its NUL. The tar's own limit may be set higher; this one may not. */
export const MAX_SYMLINK_TARGET = 4095;

/** Largest value of an extended attribute here: the field has 16 bits, so one byte less than Linux's XATTR_SIZE_MAX. */
export const MAX_XATTR_VALUE = 0xffff;

/** Names of one member's extended attributes, each with its prefix and a NUL: Linux's XATTR_LIST_MAX, so no tool could have read more from a file. */
export const MAX_XATTR_NAMES = 65536;

/** Bytes that an array costs besides what it holds, as measured (Node 24). */
export const ARRAY_COST = 200;

/** Bytes of one inode's extended attributes: what the 16-bit `i_xattr_icount` can say (12 bytes of header, then words of 4). */
export const MAX_XATTR_AREA: number = 12 + 4 * (0xffff - 1);

/** Block addresses have 32 bits, and all ones means none. */
export const MAX_IMAGE_BLOCKS = 0xffff_ffff;

/** Linux's dev_t as EROFS keeps it: 12 bits of major, 20 of minor number. */
export const MAX_MAJOR = 0xfff;
export const MAX_MINOR = 0xf_ffff;
