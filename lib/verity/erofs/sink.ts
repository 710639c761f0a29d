import type { ByteSink } from "@sealpod/core";

/** Takes bytes in order, and lets some of them be written again: a file. */
export interface PatchableSink extends ByteSink {
  /** Overwrites bytes that {@link ByteSink.write} has taken; the position for the next `write` stays at the end. */
  writeAt(offset: number, bytes: Uint8Array): Promise<void>;
}
