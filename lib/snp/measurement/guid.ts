import { fromHex, toHex } from "@sealpod/core";

/**
 * Bytes of a GUID as UEFI stores it: the first three groups little endian, the other two in the order of the text.
 * @param guid lower-case text with dashes
 */
export function guidBytes(guid: string): Uint8Array {
  const bytes = fromHex(guid.replaceAll("-", ""), "GUID");
  return Uint8Array.from(SWAPPED, (at) => bytes[at] ?? 0);
}

/** Text of 16 bytes as UEFI stores a GUID. */
export function formatUefiGuid(bytes: Uint8Array): string {
  const hex = toHex(Uint8Array.from(SWAPPED, (at) => bytes[at] ?? 0));
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Its own inverse. */
const SWAPPED = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
