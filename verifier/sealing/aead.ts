import { createCipheriv, createDecipheriv, type KeyObject } from "node:crypto";
import { concatBytes } from "@sealpod/core";

/** 96-bit random nonce: fewer than 2^32 records are ever sealed with one key (NIST SP 800-38D section 8.3). */
export const NONCE_LENGTH = 12;
const TAG_LENGTH = 16;
/** Bytes by which a sealed value is longer than what is in it. */
export const OVERHEAD: number = NONCE_LENGTH + TAG_LENGTH;

/** A key that is used more than once is best a key object: to tell bytes from one takes node longer than to encrypt a record. */
export type AeadKey = KeyObject | Uint8Array;

/** `{nonce, ciphertext, tag}` of AES-256-GCM. */
export function encrypt(key: AeadKey, nonce: Uint8Array, plaintext: Uint8Array, context: Uint8Array): Uint8Array {
  const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(context);
  return concatBytes(nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag());
}

/** @throws {Error} for other bytes, another key or another context */
export function decrypt(key: AeadKey, sealed: Uint8Array, context: Uint8Array): Uint8Array {
  if (sealed.length < OVERHEAD) throw new Error(`${sealed.length} bytes, expected at least ${OVERHEAD}`);
  const tag = sealed.subarray(sealed.length - TAG_LENGTH);
  const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, NONCE_LENGTH), { authTagLength: TAG_LENGTH }).setAAD(context).setAuthTag(tag);
  return concatBytes(decipher.update(sealed.subarray(NONCE_LENGTH, sealed.length - TAG_LENGTH)), decipher.final());
}
