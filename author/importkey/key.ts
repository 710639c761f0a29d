import { createPrivateKey, type KeyObject } from "node:crypto";
import { fromHex, toBase64url } from "@sealpod/core";
import { ImportKeyError } from "./errors.ts";

/** A key to import: its private JWK, and what may be shown of it. */
export interface ImportedKey {
  /** Members of the JWK without `key_ops`. */
  readonly jwk: Readonly<Record<string, string | number>>;
  /** Bytes of a symmetric key; undefined for RSA. */
  readonly bytes?: Uint8Array;
  /** One line about an RSA key. */
  readonly summary: string;
}

/** Key Vault takes symmetric keys of up to 64 bytes; under 16 there is no cipher to use them with. */
const MIN_KEY = 16;
const MAX_KEY = 64;

/** Smallest RSA key that HSMs take. */
const MIN_RSA_BITS = 2048;

/**
 * A symmetric key of 16 to 64 bytes.
 * @throws {ImportKeyError} ERR_IMPORTKEY_KEY
 */
export function symmetricKey(bytes: Uint8Array): ImportedKey {
  if (bytes.length < MIN_KEY || bytes.length > MAX_KEY) {
    throw new ImportKeyError("ERR_IMPORTKEY_KEY", `the key has ${bytes.length} bytes, expected ${MIN_KEY} to ${MAX_KEY}`, {
      hint: "`openssl rand -out encryptionKey 32` makes a key. A file is taken as raw bytes: check that it does not hold hex or a line break.",
    });
  }
  return { jwk: { kty: "oct-HSM", k: toBase64url(bytes), key_size: bytes.length * 8 }, bytes, summary: `oct ${bytes.length * 8} bits` };
}

/**
 * A symmetric key of hex digits; the message never shows them.
 * @throws {ImportKeyError} ERR_IMPORTKEY_KEY
 */
export function symmetricKeyOfHex(text: string): ImportedKey {
  let bytes: Uint8Array;
  try {
    bytes = fromHex(text.trim(), "the key");
  } catch {
    throw new ImportKeyError("ERR_IMPORTKEY_KEY", `-kh names no file, and its ${text.trim().length} characters are not hex digits`, {
      hint: "Pass a file of raw bytes, or an even number of hex digits.",
    });
  }
  return symmetricKey(bytes);
}

/**
 * An RSA private key of PEM text.
 * @throws {ImportKeyError} ERR_IMPORTKEY_KEY
 */
export function rsaKeyOfPem(pem: string, file: string): ImportedKey {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    // OpenSSL's message says nothing a person could use, and its cause might quote the input.
    throw new ImportKeyError("ERR_IMPORTKEY_KEY", `${file} is not a private key in PEM without a password`, {
      hint: "`openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out key.pem` makes one.",
    });
  }
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  if (key.asymmetricKeyType !== "rsa" || bits < MIN_RSA_BITS) {
    const found = key.asymmetricKeyType === "rsa" ? `RSA with ${bits} bits` : String(key.asymmetricKeyType);
    throw new ImportKeyError("ERR_IMPORTKEY_KEY", `${file} is ${found}, expected RSA with at least ${MIN_RSA_BITS} bits`);
  }
  const { n = "", e = "", d = "", p = "", q = "", dp = "", dq = "", qi = "" } = key.export({ format: "jwk" });
  return { jwk: { kty: "RSA-HSM", n, e, d, dp, dq, p, q, qi }, summary: `RSA ${bits} bits` };
}
