import { hkdfSync } from "node:crypto";
import { fromAnyBase64, type JsonObject } from "@sealpod/core";
import type { KeyDerivation } from "./arguments.ts";
import { EncfsError } from "./errors.ts";

const LENGTH = 32;

/**
 * What opens the volume: the bytes of a symmetric key, or 32 bytes derived from the private exponent of an RSA key with HKDF-SHA256 (specs/attestation.md 5.7).
 * @param jwk the released key
 * @returns the caller overwrites it after use
 * @throws {EncfsError} ERR_ENCFS_KEY
 */
export function volumePassphrase(jwk: JsonObject, { salt, label }: KeyDerivation): Uint8Array {
  const { kty } = jwk;
  const member = kty === "oct" ? "k" : kty === "RSA" ? "d" : undefined;
  const text = member === undefined ? undefined : jwk[member];
  if (typeof text !== "string") {
    throw new EncfsError("ERR_ENCFS_KEY", `the released key is of type ${JSON.stringify(kty ?? null)}, expected oct or RSA with its private part`);
  }
  let bytes: Uint8Array;
  try {
    bytes = fromAnyBase64(text, "the released key");
  } catch {
    throw new EncfsError("ERR_ENCFS_KEY", "the released key is not base64url");
  }
  if (kty === "oct") {
    if (bytes.length < 16) throw new EncfsError("ERR_ENCFS_KEY", `the released key has ${bytes.length} bytes, expected 32`);
    return bytes;
  }
  const derived = new Uint8Array(hkdfSync("sha256", bytes, salt, label, LENGTH));
  bytes.fill(0);
  return derived;
}
