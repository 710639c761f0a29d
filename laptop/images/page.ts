import { createCipheriv } from "node:crypto";
import { concatBytes, encodeUtf8, type Random } from "@sealpod/core";
import { ImagesError } from "./errors.ts";

/** AES-256 key. */
const KEY_LENGTH = 32;
const NONCE_LENGTH = 12;

/** Bound to the ciphertext, so that another file under the same key does not pass for the page. The example's program knows the same. */
const ADDITIONAL_DATA = "sealpod example page v1";

/**
 * Encrypts the example's page: 12-byte nonce, AES-256-GCM ciphertext, 16-byte tag.
 * @param key 32 bytes
 * @throws {ImagesError} ERR_IMAGES_INPUT
 */
export function encryptPage(key: Uint8Array, page: Uint8Array, random: Random): Uint8Array {
  if (key.length !== KEY_LENGTH) {
    throw new ImagesError("ERR_IMAGES_INPUT", `the page's key has ${key.length} bytes, expected ${KEY_LENGTH}`, {
      hint: "Make one: openssl rand -out encryptionKey 32",
    });
  }
  const nonce = random.bytes(NONCE_LENGTH);
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  cipher.setAAD(encodeUtf8(ADDITIONAL_DATA));
  return concatBytes(nonce, cipher.update(page), cipher.final(), cipher.getAuthTag());
}
