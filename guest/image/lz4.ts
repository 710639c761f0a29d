import { ImageError } from "./errors.ts";

/** Begins a stream of LZ4's legacy frames, as `lz4 -l` writes for kernels. */
export const LZ4_LEGACY_MAGIC = 0x184c2102;

/** Each block of a legacy frame but the last unpacks to this many bytes (LZ4 frame format, "Legacy frame"). */
const BLOCK_SIZE = 8 * 1024 * 1024;

const MIN_MATCH = 4;
/** Value of a token's half that says that more bytes of the length follow. */
const LONG = 15;

/**
 * Unpacks a stream of LZ4 legacy frames to exactly `size` bytes. A kernel's build writes the unpacked size behind the stream as if it were a
 * block's length, so the end is where `size` bytes are there.
 * @throws {ImageError} ERR_IMAGE_KERNEL
 */
export function decodeLz4Legacy(bytes: Uint8Array, size: number): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const output = new Uint8Array(size);
  let at = 0;
  let written = 0;
  const u32 = (): number => {
    if (at + 4 > bytes.length) throw malformed("the stream ends inside a length", at);
    at += 4;
    return view.getUint32(at - 4, true);
  };
  if (u32() !== LZ4_LEGACY_MAGIC) throw malformed("no legacy frame begins here", 0);
  while (written < size) {
    const length = u32();
    // Frames may follow one another.
    if (length === LZ4_LEGACY_MAGIC) continue;
    if (length === 0 || at + length > bytes.length) throw malformed(`a block of ${length} bytes is not inside the stream`, at);
    written = decodeBlock(bytes.subarray(at, at + length), output, written, Math.min(size, written + BLOCK_SIZE));
    at += length;
  }
  return output;
}

/** Unpacks one block to `output` from `start`; returns where it ended. Matches reach back into this block only. */
function decodeBlock(block: Uint8Array, output: Uint8Array, start: number, limit: number): number {
  let at = 0;
  let to = start;
  const length = (half: number): number => {
    let value = half;
    if (half !== LONG) return value;
    for (;;) {
      const byte = block[at++];
      if (byte === undefined) throw malformed("a block ends inside a length", at);
      value += byte;
      if (byte !== 255) return value;
    }
  };
  while (at < block.length) {
    const token = block[at++] ?? 0;
    const literals = length(token >> 4);
    if (at + literals > block.length || to + literals > limit) throw malformed(`${literals} literal bytes do not fit`, at);
    output.set(block.subarray(at, at + literals), to);
    at += literals;
    to += literals;
    // The last sequence of a block has no match.
    if (at === block.length) return to;
    const distance = (block[at] ?? 0) | ((block[at + 1] ?? 0) << 8);
    at += 2;
    const match = length(token & LONG) + MIN_MATCH;
    if (at > block.length || distance === 0 || to - distance < start || to + match > limit)
      throw malformed(`a match of ${match} bytes at distance ${distance} does not fit`, at);
    if (distance >= match) output.copyWithin(to, to - distance, to - distance + match);
    // It overlaps what it writes: byte by byte, which repeats a pattern.
    else for (let i = 0; i < match; i++) output[to + i] = output[to + i - distance] ?? 0;
    to += match;
  }
  throw malformed("a block ends behind a match", at);
}

function malformed(problem: string, offset: number): ImageError {
  return new ImageError("ERR_IMAGE_KERNEL", `LZ4 stream at offset ${offset}: ${problem}`, { details: { offset } });
}
