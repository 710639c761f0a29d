import type { ByteSink } from "@sealpod/core";

/** Takes bytes in order, and lets some of them be written again: a file. */
export interface PatchableSink extends ByteSink {
  /** Overwrites bytes that {@link ByteSink.write} has taken; the position for the next `write` stays at the end. */
  writeAt(offset: number, bytes: Uint8Array): Promise<void>;
}

/** A sink over something that is written at positions, such as a file: it keeps where the end is. */
export function patchableSink(writeAt: PatchableSink["writeAt"]): PatchableSink {
  let end = 0;
  return {
    writeAt,
    async write(bytes) {
      const offset = end;
      end += bytes.length;
      await writeAt(offset, bytes);
    },
  };
}
