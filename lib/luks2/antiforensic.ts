import { createHash } from "node:crypto";
import type { Random } from "@sealpod/core";

/** LUKS1's splitter with 4000 stripes: the number that cryptsetup always takes. */
export const STRIPES = 4000;

/** SHA-256. */
const BLOCK = 32;

/** Spreads a key over {@link STRIPES} times its length, so that losing any part of it loses the key (LUKS2 on-disk format, section 3.2.2). */
export function split(key: Uint8Array, random: Random): Uint8Array {
  const { length } = key;
  const output = new Uint8Array(length * STRIPES);
  output.set(random.bytes(length * (STRIPES - 1)));
  const sum = fold(output, length);
  output.set(
    key.map((byte, at) => byte ^ (sum[at] ?? 0)),
    length * (STRIPES - 1),
  );
  sum.fill(0);
  return output;
}

/** The key that {@link split} spread. @param length of the key, in bytes */
export function merge(spread: Uint8Array, length: number): Uint8Array {
  const sum = fold(spread, length);
  const last = spread.subarray(length * (STRIPES - 1), length * STRIPES);
  for (let at = 0; at < length; at++) sum[at] = (sum[at] ?? 0) ^ (last[at] ?? 0);
  return sum;
}

/** All stripes but the last, diffused into each other. */
function fold(stripes: Uint8Array, length: number): Uint8Array {
  let sum: Uint8Array = new Uint8Array(length);
  for (let stripe = 0; stripe < STRIPES - 1; stripe++) {
    const offset = stripe * length;
    for (let at = 0; at < length; at++) sum[at] = (sum[at] ?? 0) ^ (stripes[offset + at] ?? 0);
    sum = diffuse(sum);
  }
  return sum;
}

/** Each block becomes the hash of its number and itself; the last one is cut to what is left. */
function diffuse(bytes: Uint8Array): Uint8Array {
  const output = new Uint8Array(bytes.length);
  const number = Buffer.alloc(4);
  for (let at = 0, block = 0; at < bytes.length; at += BLOCK, block++) {
    number.writeUInt32BE(block);
    const digest = createHash("sha256")
      .update(number)
      .update(bytes.subarray(at, at + BLOCK))
      .digest();
    output.set(digest.subarray(0, Math.min(BLOCK, bytes.length - at)), at);
  }
  return output;
}
