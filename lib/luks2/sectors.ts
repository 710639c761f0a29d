import { createCipheriv, createDecipheriv } from "node:crypto";
import { Luks2Error } from "./errors.ts";

/** What dm-crypt counts initialisation vectors in, whatever the size of the sectors it encrypts. */
const IV_UNIT = 512;

/** Bytes of an AES-256-XTS key: two AES-256 keys. */
export const XTS_KEY_LENGTH = 64;

/**
 * Encrypts or decrypts whole sectors with AES-256-XTS, as dm-crypt does with `aes-xts-plain64`: the tweak is the number of the sector in units of 512 bytes,
 * little-endian (without `iv_large_sectors`, which LUKS2 does not set).
 * @param key 64 bytes
 * @param first number of the first sector, in units of 512 bytes from the start of the segment
 * @param data a multiple of `sectorSize` bytes
 * @param sectorSize 512, 1024, 2048 or 4096
 * @throws {Luks2Error} ERR_LUKS2_ARGUMENT
 */
export function cryptSectors(direction: "encrypt" | "decrypt", key: Uint8Array, first: number, data: Uint8Array, sectorSize: number): Uint8Array {
  if (key.length !== XTS_KEY_LENGTH) throw new Luks2Error("ERR_LUKS2_ARGUMENT", `the volume key has ${key.length} bytes, expected ${XTS_KEY_LENGTH}`);
  if (![512, 1024, 2048, 4096].includes(sectorSize) || data.length % sectorSize !== 0) {
    throw new Luks2Error("ERR_LUKS2_ARGUMENT", `${data.length} bytes are no whole sectors of ${sectorSize}`);
  }
  if (!Number.isSafeInteger(first) || first < 0 || (first * IV_UNIT) % sectorSize !== 0) {
    throw new Luks2Error("ERR_LUKS2_ARGUMENT", `sector ${first} is not the start of a sector of ${sectorSize} bytes`);
  }
  const output = new Uint8Array(data.length);
  const tweak = Buffer.alloc(16);
  for (let at = 0; at < data.length; at += sectorSize) {
    tweak.writeBigUInt64LE(BigInt(first + at / IV_UNIT));
    const cipher = direction === "encrypt" ? createCipheriv("aes-256-xts", key, tweak) : createDecipheriv("aes-256-xts", key, tweak);
    // XTS gives out as much as it takes in, at once.
    output.set(cipher.update(data.subarray(at, at + sectorSize)), at);
    cipher.final();
  }
  return output;
}
