import { constants, createHmac, type KeyObject, sign, verify } from "node:crypto";
import { equalBytes } from "@sealpod/core";
import type { BuiltinContext } from "@sealpod/rego";
import { builtinError } from "@sealpod/rego";

/** What a key can be used for. A key has one family, an algorithm wants one: that is what keeps a public key from serving as an HMAC secret. */
export type KeyFamily = "secret" | "rsa" | "p256" | "p384" | "p521" | "ed25519";

/** A row of RFC 7518 section 3.1, or EdDSA of RFC 8037. */
export interface TokenAlgorithm {
  readonly name: string;
  readonly family: KeyFamily;
  readonly scheme: "hmac" | "pkcs1" | "pss" | "ecdsa" | "eddsa";
  readonly hash: "sha256" | "sha384" | "sha512";
  /** Bytes of the hash: the salt of PSS (RFC 7518 section 3.5). */
  readonly hashLength: number;
  /** Bytes of a signature, where the algorithm fixes them. */
  readonly signatureLength: number | undefined;
}

const SHA256 = { hash: "sha256", hashLength: 32 } as const;
const SHA384 = { hash: "sha384", hashLength: 48 } as const;
const SHA512 = { hash: "sha512", hashLength: 64 } as const;

/** All algorithms. `none` is not one of them. */
export const TOKEN_ALGORITHMS: readonly TokenAlgorithm[] = [
  { name: "HS256", family: "secret", scheme: "hmac", signatureLength: 32, ...SHA256 },
  { name: "HS384", family: "secret", scheme: "hmac", signatureLength: 48, ...SHA384 },
  { name: "HS512", family: "secret", scheme: "hmac", signatureLength: 64, ...SHA512 },
  { name: "RS256", family: "rsa", scheme: "pkcs1", signatureLength: undefined, ...SHA256 },
  { name: "RS384", family: "rsa", scheme: "pkcs1", signatureLength: undefined, ...SHA384 },
  { name: "RS512", family: "rsa", scheme: "pkcs1", signatureLength: undefined, ...SHA512 },
  { name: "PS256", family: "rsa", scheme: "pss", signatureLength: undefined, ...SHA256 },
  { name: "PS384", family: "rsa", scheme: "pss", signatureLength: undefined, ...SHA384 },
  { name: "PS512", family: "rsa", scheme: "pss", signatureLength: undefined, ...SHA512 },
  { name: "ES256", family: "p256", scheme: "ecdsa", signatureLength: 64, ...SHA256 },
  { name: "ES384", family: "p384", scheme: "ecdsa", signatureLength: 96, ...SHA384 },
  { name: "ES512", family: "p521", scheme: "ecdsa", signatureLength: 132, ...SHA512 },
  { name: "EdDSA", family: "ed25519", scheme: "eddsa", signatureLength: 64, ...SHA512 },
];

/**
 * The algorithm of a header's `alg`.
 * @throws {BuiltinError} also for `none`
 */
export function tokenAlgorithm(name: string): TokenAlgorithm {
  const algorithm = TOKEN_ALGORITHMS.find((row) => row.name === name);
  if (algorithm === undefined) throw builtinError(`unknown JWS algorithm: ${name}`);
  return algorithm;
}

/** True if the signature is one of the key over the data. The key must be of the algorithm's family. */
export function isSignature(algorithm: TokenAlgorithm, key: KeyObject, data: Uint8Array, signature: Uint8Array, context: BuiltinContext): boolean {
  const { scheme, hash, signatureLength } = algorithm;
  if (signatureLength !== undefined && signature.length !== signatureLength) return false;
  context.work(verifyWork(algorithm, data));
  if (scheme === "hmac") return equalBytes(createHmac(hash, key).update(data).digest(), signature);
  try {
    return verify(scheme === "eddsa" ? null : hash, data, keyInput(algorithm, key), signature);
  } catch {
    return false;
  }
}

/**
 * A signature over the data. The key must be of the algorithm's family.
 * @throws {BuiltinError} for a key that cannot sign
 */
export function createSignature(algorithm: TokenAlgorithm, key: KeyObject, data: Uint8Array, context: BuiltinContext): Uint8Array {
  const { scheme, hash } = algorithm;
  context.work(signWork(algorithm, key, data));
  if (scheme === "hmac") return createHmac(hash, key).update(data).digest();
  try {
    return sign(scheme === "eddsa" ? null : hash, data, keyInput(algorithm, key));
  } catch {
    throw builtinError(`the key cannot sign with ${algorithm.name}`);
  }
}

function keyInput({ scheme, hashLength }: TokenAlgorithm, key: KeyObject): Parameters<typeof verify>[2] & Parameters<typeof sign>[2] {
  switch (scheme) {
    case "pss":
      return { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: hashLength };
    case "pkcs1":
      return { key, padding: constants.RSA_PKCS1_PADDING };
    case "ecdsa":
      return { key, dsaEncoding: "ieee-p1363" };
    default:
      return { key };
  }
}

/** About a quarter of a microsecond each: an RSA-8192 verification takes 0.5 ms, one on P-521 2.5 ms. */
function verifyWork({ scheme }: TokenAlgorithm, data: Uint8Array): number {
  return (data.length >> 6) + (scheme === "hmac" ? 50 : scheme === "ecdsa" ? 10_000 : 2000);
}

/** RSA signing takes time with the cube of the modulus: 0.5 ms for 2048 bits, 32 ms for 8192. */
function signWork({ scheme }: TokenAlgorithm, key: KeyObject, data: Uint8Array): number {
  const bits = key.asymmetricKeyDetails?.modulusLength;
  return (data.length >> 6) + (scheme === "hmac" ? 50 : bits === undefined ? 13_000 : Math.ceil((bits / 1024) ** 3 * 300));
}
