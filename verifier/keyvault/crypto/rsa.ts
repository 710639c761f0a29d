import { constants, createHash, privateDecrypt, privateEncrypt, publicDecrypt, publicEncrypt, type KeyObject } from "node:crypto";
import { concatBytes, equalBytes, fromHex, type Random } from "@sealpod/core";
import { badParameter } from "../errors.ts";
import { undecipherable } from "./undecipherable.ts";

/** How RSA encrypts: with PKCS#1 v1.5, or OAEP with this hash for both the label and MGF1. */
export type RsaPadding = "pkcs1" | "sha1" | "sha256";

/** Hash of a signature. */
export type SignatureHash = "sha256" | "sha384" | "sha512";

/** Bytes of a digest. */
export const DIGEST_LENGTH: Readonly<Record<SignatureHash, number>> = { sha256: 32, sha384: 48, sha512: 64 };

/** What the padding takes at least: RFC 8017 sections 7.2.1 and 7.1.1. */
const OVERHEAD: Readonly<Record<RsaPadding, number>> = { pkcs1: 11, sha1: 42, sha256: 66 };

/** DER of DigestInfo up to the digest (RFC 8017 section 9.2 note 1). */
const DIGEST_INFO: Readonly<Record<SignatureHash, Uint8Array>> = {
  sha256: fromHex("3031300d060960864801650304020105000420"),
  sha384: fromHex("3041300d060960864801650304020205000430"),
  sha512: fromHex("3051300d060960864801650304020305000440"),
};

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER for a value that does not fit */
export function encryptRsa(key: KeyObject, padding: RsaPadding, value: Uint8Array): Uint8Array {
  const most = modulusLength(key) - OVERHEAD[padding];
  if (value.length > most) throw badParameter(`Property value has ${value.length} bytes, more than the ${most} that this key encrypts with this algorithm.`);
  return new Uint8Array(publicEncrypt({ key, ...paddingOf(padding) }, value));
}

/**
 * Decrypts. PKCS#1 v1.5 fails for no padding: OpenSSL from 3.2 on gives, for a wrong one, a text that is derived from key and ciphertext
 * (implicit rejection, draft-irtf-cfrg-rsa-guidance section 7.2), and node refuses the padding on an OpenSSL that does not. So a caller
 * learns of a wrong padding neither by status nor by time, and who sends an encrypted key to be unwrapped finds the wrong one in his hands.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function decryptRsa(key: KeyObject, padding: RsaPadding, value: Uint8Array): Uint8Array {
  const length = modulusLength(key);
  if (value.length !== length) throw badParameter(`Property value must have the ${length} bytes of this key's modulus, found ${value.length}.`);
  return undecipherable(() => new Uint8Array(privateDecrypt({ key, ...paddingOf(padding) }, value)));
}

function paddingOf(padding: RsaPadding): { readonly padding: number; readonly oaepHash?: string } {
  return padding === "pkcs1" ? { padding: constants.RSA_PKCS1_PADDING } : { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: padding };
}

/** Signs a digest with RSASSA-PKCS1-v1_5. node:crypto signs messages alone, so the DigestInfo is put around the digest here. */
export function signPkcs1(key: KeyObject, hash: SignatureHash, digest: Uint8Array): Uint8Array {
  return new Uint8Array(privateEncrypt({ key, padding: constants.RSA_PKCS1_PADDING }, concatBytes(DIGEST_INFO[hash], digest)));
}

/** Whether a signature of RSASSA-PKCS1-v1_5 is of this digest. The DigestInfo is compared, not parsed: parsers forgave forgeries (Bleichenbacher 2006). */
export function verifyPkcs1(key: KeyObject, hash: SignatureHash, digest: Uint8Array, signature: Uint8Array): boolean {
  if (signature.length !== modulusLength(key)) return false;
  let found: Uint8Array;
  try {
    found = publicDecrypt({ key, padding: constants.RSA_PKCS1_PADDING }, signature);
  } catch {
    return false;
  }
  return equalBytes(found, concatBytes(DIGEST_INFO[hash], digest));
}

/** Signs a digest with RSASSA-PSS; hash of MGF1 and length of the salt are those of the digest (RFC 7518 section 3.5). */
export function signPss(key: KeyObject, hash: SignatureHash, digest: Uint8Array, random: Random): Uint8Array {
  const length = modulusLength(key);
  const salt = random.bytes(digest.length);
  const h = pssHash(hash, digest, salt);
  // RFC 8017 section 9.1.1: PS, 0x01 and the salt under the mask; the modulus has a multiple of 8 bits, so exactly one bit is cleared.
  const block = concatBytes(new Uint8Array(length - salt.length - h.length - 2), Uint8Array.of(1), salt);
  const masked = xor(block, mgf1(hash, h, block.length));
  masked[0] = (masked[0] ?? 0) & 0x7f;
  const encoded = concatBytes(masked, h, Uint8Array.of(0xbc));
  return new Uint8Array(privateEncrypt({ key, padding: constants.RSA_NO_PADDING }, encoded));
}

/** Whether a signature of RSASSA-PSS is of this digest (RFC 8017 section 9.1.2). */
export function verifyPss(key: KeyObject, hash: SignatureHash, digest: Uint8Array, signature: Uint8Array): boolean {
  if (signature.length !== modulusLength(key)) return false;
  let encoded: Uint8Array;
  try {
    encoded = publicDecrypt({ key, padding: constants.RSA_NO_PADDING }, signature);
  } catch {
    return false;
  }
  const h = encoded.subarray(encoded.length - digest.length - 1, -1);
  const masked = encoded.subarray(0, encoded.length - digest.length - 1);
  if (encoded.at(-1) !== 0xbc || ((masked[0] ?? 0) & 0x80) !== 0) return false;
  const block = xor(masked, mgf1(hash, h, masked.length));
  block[0] = (block[0] ?? 0) & 0x7f;
  const zeros = block.length - digest.length - 1;
  if (block[zeros] !== 1 || block.subarray(0, zeros).some((byte) => byte !== 0)) return false;
  return equalBytes(h, pssHash(hash, digest, block.subarray(zeros + 1)));
}

function pssHash(hash: SignatureHash, digest: Uint8Array, salt: Uint8Array): Uint8Array {
  return createHash(hash).update(new Uint8Array(8)).update(digest).update(salt).digest();
}

/** RFC 8017 appendix B.2.1. */
function mgf1(hash: SignatureHash, seed: Uint8Array, length: number): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (let counter = 0; counter * DIGEST_LENGTH[hash] < length; counter++) {
    blocks.push(
      createHash(hash)
        .update(seed)
        .update(Uint8Array.of(0, 0, 0, counter))
        .digest(),
    );
  }
  return concatBytes(...blocks).subarray(0, length);
}

function xor(a: Uint8Array, b: Uint8Array): Uint8Array {
  return a.map((byte, index) => byte ^ (b[index] ?? 0));
}

function modulusLength(key: KeyObject): number {
  return (key.asymmetricKeyDetails?.modulusLength ?? 0) / 8;
}
