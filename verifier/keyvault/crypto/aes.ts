import { createCipheriv, createDecipheriv, type CipherGCMTypes } from "node:crypto";
import { concatBytes, fromHex, type Random } from "@sealpod/core";
import { badParameter } from "../errors.ts";
import { undecipherable } from "./undecipherable.ts";

/** What an operation with an AES key takes and gives. */
export interface SymmetricText {
  readonly value: Uint8Array;
  readonly iv?: Uint8Array | undefined;
  readonly aad?: Uint8Array | undefined;
  readonly tag?: Uint8Array | undefined;
}

const GCM_IV = 12;
const GCM_TAG = 16;
const BLOCK = 16;
/** RFC 3394 section 2.2.3.1 and RFC 5649 section 3. */
const KW_IV = fromHex("A6A6A6A6A6A6A6A6");
const KWP_IV = fromHex("A65959A6");

/**
 * AES-GCM (NIST SP 800-38D). The nonce is always ours: a caller who chose it twice would give away the authentication key.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function encryptGcm(key: Uint8Array, { value, iv, aad }: SymmetricText, random: Random): SymmetricText {
  if (iv !== undefined) throw badParameter("Property iv must not be given for encryption with AES-GCM: the service makes it.");
  const nonce = random.bytes(GCM_IV);
  const cipher = createCipheriv(gcmName(key), key, nonce, { authTagLength: GCM_TAG });
  if (aad !== undefined) cipher.setAAD(aad);
  const sealed = concatBytes(cipher.update(value), cipher.final());
  return { value: sealed, iv: nonce, aad, tag: new Uint8Array(cipher.getAuthTag()) };
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function decryptGcm(key: Uint8Array, { value, iv, aad, tag }: SymmetricText): SymmetricText {
  if (iv?.length !== GCM_IV) throw badParameter(`Property iv must have ${GCM_IV} bytes for AES-GCM, found ${iv?.length ?? "none"}.`);
  // Shorter tags are easier to guess.
  if (tag?.length !== GCM_TAG) throw badParameter(`Property tag must have ${GCM_TAG} bytes for AES-GCM, found ${tag?.length ?? "none"}.`);
  return undecipherable(() => {
    const decipher = createDecipheriv(gcmName(key), key, iv, { authTagLength: GCM_TAG });
    decipher.setAuthTag(tag);
    if (aad !== undefined) decipher.setAAD(aad);
    return { value: concatBytes(decipher.update(value), decipher.final()) };
  });
}

function gcmName(key: Uint8Array): CipherGCMTypes {
  return `aes-${key.length * 8}-gcm` as CipherGCMTypes;
}

/**
 * AES-CBC (NIST SP 800-38A), with the padding of PKCS#7 or without. A vector that the caller does not give is made, and given back: the genuine JavaScript client
 * means to make one and does not.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function encryptCbc(key: Uint8Array, { value, iv, aad }: SymmetricText, padding: boolean, random: Random): SymmetricText {
  const vector = iv ?? random.bytes(BLOCK);
  requireCbc(vector, aad);
  if (!padding) requireBlocks(value);
  const cipher = createCipheriv(`aes-${key.length * 8}-cbc`, key, vector).setAutoPadding(padding);
  return { value: concatBytes(cipher.update(value), cipher.final()), iv: vector };
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function decryptCbc(key: Uint8Array, { value, iv, aad }: SymmetricText, padding: boolean): SymmetricText {
  requireCbc(iv, aad);
  if (!padding || value.length === 0) requireBlocks(value);
  return undecipherable(() => {
    const decipher = createDecipheriv(`aes-${key.length * 8}-cbc`, key, iv).setAutoPadding(padding);
    return { value: concatBytes(decipher.update(value), decipher.final()) };
  });
}

function requireCbc(iv: Uint8Array | undefined, aad: Uint8Array | undefined): asserts iv is Uint8Array {
  if (iv?.length !== BLOCK) throw badParameter(`Property iv must have ${BLOCK} bytes for AES-CBC, found ${iv?.length ?? "none"}.`);
  if (aad !== undefined) throw badParameter("Property aad must not be given for AES-CBC: nothing would authenticate it.");
}

function requireBlocks(value: Uint8Array): void {
  if (value.length === 0 || value.length % BLOCK !== 0) {
    throw badParameter(`Property value must have a positive multiple of ${BLOCK} bytes for AES-CBC without padding, found ${value.length}.`);
  }
}

/**
 * AES key wrap: RFC 3394, or RFC 5649 with `padding`.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function wrapAes(key: Uint8Array, value: Uint8Array, padding: boolean): Uint8Array {
  if (padding ? value.length === 0 : value.length < 16 || value.length % 8 !== 0) {
    throw badParameter(
      `Property value must have ${padding ? "at least 1 byte" : "a multiple of 8 bytes, at least 16,"} to be wrapped so, found ${value.length}.`,
    );
  }
  const cipher = createCipheriv(wrapName(key, padding), key, padding ? KWP_IV : KW_IV);
  return concatBytes(cipher.update(value), cipher.final());
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function unwrapAes(key: Uint8Array, value: Uint8Array, padding: boolean): Uint8Array {
  const least = padding ? 16 : 24;
  if (value.length < least || value.length % 8 !== 0) {
    throw badParameter(`Property value must have a multiple of 8 bytes, at least ${least}, to be unwrapped so, found ${value.length}.`);
  }
  return undecipherable(() => {
    const decipher = createDecipheriv(wrapName(key, padding), key, padding ? KWP_IV : KW_IV);
    return concatBytes(decipher.update(value), decipher.final());
  });
}

function wrapName(key: Uint8Array, padding: boolean): string {
  return `id-aes${key.length * 8}-wrap${padding ? "-pad" : ""}`;
}
