import { createPublicKey } from "node:crypto";
import type { JsonValue } from "@sealpod/core";
import { DerReader, OID, PkiError, readSignatureAlgorithm, TAG } from "@sealpod/pki";
import { base64 } from "./certificate-names.ts";

/** A public key under the names that Go's structures have for it. */
export interface PublicKeyJson {
  /** RSA 1, DSA 2, ECDSA 3, Ed25519 4, anything else 0. */
  readonly PublicKeyAlgorithm: number;
  /** Null for the last and for DSA. */
  readonly PublicKey: JsonValue;
}

const DSA = "1.2.840.10040.4.1";
const ED25519 = "1.3.101.112";

/** Bytes of a coordinate by curve. */
const CURVES: ReadonlyMap<string, number> = new Map([
  ["1.3.132.0.33", 28],
  [OID.p256, 32],
  [OID.p384, 48],
  [OID.p521, 66],
]);

/** Go's numbers of signature algorithms (`x509.SignatureAlgorithm`). */
const SIGNATURE_ALGORITHMS: ReadonlyMap<string, number> = new Map([
  ["1.2.840.113549.1.1.4", 2],
  ["1.2.840.113549.1.1.5", 3],
  ["1.3.14.3.2.29", 3],
  [OID.sha256WithRsa, 4],
  [OID.sha384WithRsa, 5],
  [OID.sha512WithRsa, 6],
  ["1.2.840.10040.4.3", 7],
  ["2.16.840.1.101.3.4.3.2", 8],
  ["1.2.840.10045.4.1", 9],
  [OID.ecdsaWithSha256, 10],
  [OID.ecdsaWithSha384, 11],
  [OID.ecdsaWithSha512, 12],
  [ED25519, 16],
]);

const PSS_ALGORITHMS: ReadonlyMap<string, number> = new Map([
  ["rsa-pss-sha256", 13],
  ["rsa-pss-sha384", 14],
  ["rsa-pss-sha512", 15],
]);

/** Go's number of an AlgorithmIdentifier; 0 for one that it does not know. */
export function signatureAlgorithmNumber(identifier: Uint8Array): number {
  const oid = new DerReader(identifier, "signature algorithm").enter(TAG.sequence).oid();
  if (oid !== OID.rsassaPss) return SIGNATURE_ALGORITHMS.get(oid) ?? 0;
  try {
    return PSS_ALGORITHMS.get(readSignatureAlgorithm(new DerReader(identifier, "signature algorithm"), "certificate").algorithm) ?? 0;
  } catch (error) {
    // Parameters that nobody uses are no reason to hide a certificate: nothing is verified with them.
    if (error instanceof PkiError && error.code === "ERR_PKI_ALGORITHM") return 0;
    throw error;
  }
}

/**
 * A SubjectPublicKeyInfo in the shapes of Go's `rsa.PublicKey`, `ecdsa.PublicKey` and `ed25519.PublicKey`.
 * @throws {PkiError}
 */
export function publicKeyJson(info: Uint8Array): PublicKeyJson {
  const reader = new DerReader(info, "public key");
  const outer = reader.enter(TAG.sequence);
  reader.end();
  const identifier = outer.enter(TAG.sequence);
  const oid = identifier.oid();
  const { bytes, unused } = outer.bitString();
  outer.end();
  if (unused !== 0) throw new PkiError("ERR_PKI_KEY", "the public key is not whole bytes");
  switch (oid) {
    case OID.rsaEncryption: {
      identifier.null();
      identifier.end();
      return { PublicKeyAlgorithm: 1, PublicKey: rsaKeyJson(bytes) };
    }
    case OID.ecPublicKey: {
      const curve = identifier.oid();
      identifier.end();
      return { PublicKeyAlgorithm: 3, PublicKey: ecKeyJson(curve, bytes, info) };
    }
    case ED25519:
      if (!identifier.done || bytes.length !== 32) throw new PkiError("ERR_PKI_KEY", "a malformed Ed25519 public key");
      return { PublicKeyAlgorithm: 4, PublicKey: base64(bytes) };
    default:
      return { PublicKeyAlgorithm: oid === DSA ? 2 : 0, PublicKey: null };
  }
}

/** Big-endian bytes as a number. */
export function bytesToNumber(bytes: Uint8Array): number | bigint {
  const value = bytes.length === 0 ? 0n : BigInt(`0x${Buffer.from(bytes).toString("hex")}`);
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}

function rsaKeyJson(bytes: Uint8Array): JsonValue {
  const reader = new DerReader(bytes, "RSA public key");
  const sequence = reader.enter(TAG.sequence);
  reader.end();
  const modulus = sequence.integer();
  const exponent = sequence.smallInteger(2 ** 31 - 1);
  sequence.end();
  if (modulus <= 0n || exponent === 0) throw new PkiError("ERR_PKI_KEY", "an RSA public key that is not positive");
  return { N: modulus, E: exponent };
}

function ecKeyJson(curve: string, point: Uint8Array, info: Uint8Array): JsonValue {
  const length = CURVES.get(curve);
  if (length === undefined) throw new PkiError("ERR_PKI_KEY", `unsupported elliptic curve ${curve}`);
  if (point[0] !== 4 || point.length !== 1 + 2 * length) throw new PkiError("ERR_PKI_KEY", "failed to unmarshal elliptic curve point");
  try {
    createPublicKey({ key: Buffer.from(info), format: "der", type: "spki" });
  } catch (cause) {
    throw new PkiError("ERR_PKI_KEY", "failed to unmarshal elliptic curve point", { cause });
  }
  // The parameters of a curve are not exported in Go.
  return { Curve: {}, X: bytesToNumber(point.subarray(1, 1 + length)), Y: bytesToNumber(point.subarray(1 + length)) };
}
