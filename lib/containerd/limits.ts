/** How long containerd may take, in milliseconds. */
export interface ContainerdTimeouts {
  /** To show that it speaks HTTP/2. */
  readonly greeting: number;
  /** For a look-up, and for each next part of a blob: both come from its disk. */
  readonly answer: number;
  /** For a pull, which is silent until it is done. */
  readonly pull: number;
}

/** Defaults: ten seconds, a minute, and half an hour: what a 20 GB image takes at 100 Mbit/s. */
export const DEFAULT_TIMEOUTS: ContainerdTimeouts = { greeting: 10_000, answer: 60_000, pull: 30 * 60_000 };

/** Limits of the JSON that CRI tells about an image: a configuration, which may have 4 MiB and ten levels, and little more. */
export const INFO_LIMITS: { readonly maxLength: number; readonly maxDepth: number } = { maxLength: 4 * 1024 * 1024 + 65_536, maxDepth: 32 };
