import { createHmac, createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { equalBytes, type Random } from "@sealpod/core";
import { badParameter } from "../errors.ts";
import { joseCurve, type KeyType } from "../key-material.ts";
import { decryptCbc, decryptGcm, encryptCbc, encryptGcm, unwrapAes, wrapAes, type SymmetricText } from "./aes.ts";
import { ALGORITHMS, keyTypeOf, usesOf, type Algorithm, type KeyUse } from "./algorithms.ts";
import { signEcdsa, verifyEcdsa } from "./ecdsa.ts";
import { decryptRsa, DIGEST_LENGTH, encryptRsa, signPkcs1, signPss, verifyPkcs1, verifyPss } from "./rsa.ts";

/** The key of an operation. */
export interface OperationKey {
  readonly type: KeyType;
  readonly publicMembers: Readonly<Record<string, string>>;
  /** PKCS#8 DER or raw bytes; empty for an operation with the public half. */
  readonly secret: Uint8Array;
}

/**
 * The algorithm of this name, if it is for this use and a key of this kind.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function findAlgorithm(name: string, use: KeyUse, key: Pick<OperationKey, "type" | "publicMembers">): Algorithm {
  const algorithm = ALGORITHMS.get(name);
  if (algorithm === undefined || !usesOf(algorithm).includes(use)) {
    const known = [...ALGORITHMS].filter(([, candidate]) => keyTypeOf(candidate) === key.type && usesOf(candidate).includes(use)).map(([text]) => text);
    throw badParameter(
      `The algorithm ${JSON.stringify(name.slice(0, 40))} is not supported for ${use}, expected ${known.join(", ") || "another key: this one cannot do it"}.`,
    );
  }
  const type = keyTypeOf(algorithm);
  if (type !== key.type) {
    throw badParameter(
      `Key and algorithm are incompatible: the key is of type '${key.type}', and algorithm '${name}' can only be used with a key of type '${type}' or '${type}-HSM'.`,
    );
  }
  if (algorithm.kind === "ecdsa" && algorithm.curve !== key.publicMembers["crv"]) {
    throw badParameter(
      `Key and algorithm are incompatible: the key is on curve '${key.publicMembers["crv"] ?? ""}', and algorithm '${name}' can only be used with '${algorithm.curve}'.`,
    );
  }
  return algorithm;
}

/**
 * Encrypts or wraps.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function encryptWith(algorithm: Algorithm, key: OperationKey, text: SymmetricText, random: Random): SymmetricText {
  switch (algorithm.kind) {
    case "rsa":
      return { value: encryptRsa(publicKeyOf(key), algorithm.padding, plain(text)) };
    case "gcm":
      return encryptGcm(aesKey(key, algorithm.size), text, random);
    case "cbc":
    case "cbcpad":
      return encryptCbc(aesKey(key, algorithm.size), text, algorithm.kind === "cbcpad", random);
    case "kw":
    case "kwp":
      return { value: wrapAes(aesKey(key, algorithm.size), plain(text), algorithm.kind === "kwp") };
    default:
      throw new RangeError(`${algorithm.kind} does not encrypt`);
  }
}

/**
 * Decrypts or unwraps; all failures of the ciphertext are one error.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function decryptWith(algorithm: Algorithm, key: OperationKey, text: SymmetricText): Uint8Array {
  switch (algorithm.kind) {
    case "rsa":
      return decryptRsa(privateKeyOf(key), algorithm.padding, plain(text));
    case "gcm":
      return decryptGcm(aesKey(key, algorithm.size), text).value;
    case "cbc":
    case "cbcpad":
      return decryptCbc(aesKey(key, algorithm.size), text, algorithm.kind === "cbcpad").value;
    case "kw":
    case "kwp":
      return unwrapAes(aesKey(key, algorithm.size), plain(text), algorithm.kind === "kwp");
    default:
      throw new RangeError(`${algorithm.kind} does not decrypt`);
  }
}

/**
 * Signs a digest; with HMAC, the octets that are to be authenticated.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER for a digest of another length
 */
export function signWith(algorithm: Algorithm, key: OperationKey, digest: Uint8Array, random: Random): Uint8Array {
  switch (algorithm.kind) {
    case "hmac":
      return hmac(algorithm.hash, key, digest);
    case "pkcs1":
      return signPkcs1(privateKeyOf(key), algorithm.hash, requireDigest(algorithm.hash, digest));
    case "pss":
      return signPss(privateKeyOf(key), algorithm.hash, requireDigest(algorithm.hash, digest), random);
    case "ecdsa":
      return signEcdsa(algorithm.curve, privateKeyOf(key), requireDigest(algorithm.hash, digest), random);
    default:
      throw new RangeError(`${algorithm.kind} does not sign`);
  }
}

/**
 * Whether a signature is of this digest.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER for a digest of another length
 */
export function verifyWith(algorithm: Algorithm, key: OperationKey, digest: Uint8Array, signature: Uint8Array): boolean {
  switch (algorithm.kind) {
    case "hmac":
      return equalBytes(hmac(algorithm.hash, key, digest), signature);
    case "pkcs1":
      return verifyPkcs1(publicKeyOf(key), algorithm.hash, requireDigest(algorithm.hash, digest), signature);
    case "pss":
      return verifyPss(publicKeyOf(key), algorithm.hash, requireDigest(algorithm.hash, digest), signature);
    case "ecdsa":
      return verifyEcdsa(algorithm.curve, publicKeyOf(key), requireDigest(algorithm.hash, digest), signature);
    default:
      throw new RangeError(`${algorithm.kind} does not verify`);
  }
}

function hmac(hash: string, key: OperationKey, message: Uint8Array): Uint8Array {
  return new Uint8Array(createHmac(hash, key.secret).update(message).digest());
}

function requireDigest(hash: keyof typeof DIGEST_LENGTH, digest: Uint8Array): Uint8Array {
  const expected = DIGEST_LENGTH[hash];
  if (digest.length === expected) return digest;
  throw badParameter(`The digest must have the ${expected} bytes of ${hash.replace("sha", "SHA-")}, found ${digest.length}.`);
}

/** Modes without parameters refuse them: whoever sends them relies on something that would not happen. */
function plain({ value, iv, aad, tag }: SymmetricText): Uint8Array {
  if (iv !== undefined || aad !== undefined || tag !== undefined) throw badParameter("Properties iv, aad and tag must not be given for this algorithm.");
  return value;
}

function aesKey({ secret }: OperationKey, size: number | undefined): Uint8Array {
  const bits = secret.length * 8;
  if (size === undefined ? bits === 128 || bits === 192 || bits === 256 : bits === size) return secret;
  throw badParameter(`Key and algorithm are incompatible: the key has ${bits} bits, and the algorithm needs ${size ?? "128, 192 or 256"}.`);
}

function publicKeyOf({ type, publicMembers }: OperationKey): KeyObject {
  const { crv } = publicMembers;
  return createPublicKey({ key: { kty: type, ...publicMembers, ...(crv === undefined ? {} : { crv: joseCurve(crv) }) }, format: "jwk" });
}

function privateKeyOf({ secret }: OperationKey): KeyObject {
  // A Buffer over the same bytes: the caller overwrites them.
  return createPrivateKey({ key: Buffer.from(secret.buffer, secret.byteOffset, secret.byteLength), format: "der", type: "pkcs8" });
}
