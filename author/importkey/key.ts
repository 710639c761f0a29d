import { createPrivateKey, generateKeyPairSync, hkdfSync, type KeyObject } from "node:crypto";
import { encodeUtf8, fromBase64url, fromHex, toBase64url } from "@sealpod/core";
import { ImportKeyError } from "./errors.ts";

/** Kinds of keys that can be released from an HSM. */
export type ImportedKeyType = "oct-HSM" | "RSA-HSM" | "EC-HSM";

/** A key to import: its private JWK, and what may be shown of it. */
export interface ImportedKey {
  readonly type: ImportedKeyType;
  /** Members of the JWK without `key_ops`. Secret. */
  readonly jwk: Readonly<Record<string, string | number>>;
  /** Bytes of a symmetric key; undefined for the others. Secret. */
  readonly bytes?: Uint8Array;
  /** PKCS#8 PEM of a key that was made here. Secret. */
  readonly pem?: string;
  /** One line without secrets: `oct 256 bits`, `RSA 3072 bits`, `EC P-256`. */
  readonly summary: string;
}

/** How a disk key is made of an RSA key, as the encrypted filesystem of the pod makes it (specs/attestation.md 5.7). */
export interface KeyDerivation {
  /** Empty for none. */
  readonly salt: Uint8Array;
  readonly label: string;
}

/** What the pod's side takes where nothing is said. */
export const DEFAULT_DERIVATION_LABEL = "Symmetric Encryption Key";

/** Key Vault takes symmetric keys of up to 64 bytes; under 16 there is no cipher to use them with. */
const MIN_KEY = 16;
const MAX_KEY = 64;

/** Smallest RSA key that HSMs take. */
const MIN_RSA_BITS = 2048;
/** What the known tool makes. */
const NEW_RSA_BITS = 2048;
const DERIVED_LENGTH = 32;

/** Curves of Key Vault by their names in OpenSSL. */
const CURVES: Readonly<Record<string, string>> = { prime256v1: "P-256", secp384r1: "P-384", secp521r1: "P-521", secp256k1: "P-256K" };

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
  return { type: "oct-HSM", jwk: { kty: "oct-HSM", k: toBase64url(bytes), key_size: bytes.length * 8 }, bytes, summary: `oct ${bytes.length * 8} bits` };
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
 * An RSA or elliptic private key of PEM text.
 * @throws {ImportKeyError} ERR_IMPORTKEY_KEY
 */
export function privateKeyOfPem(pem: string, file: string): ImportedKey {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    // OpenSSL's message says nothing a person could use, and its cause might quote the input.
    throw new ImportKeyError("ERR_IMPORTKEY_KEY", `${file} is not a private key in PEM without a password`, {
      hint: "`openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out key.pem` makes one.",
    });
  }
  const details = key.asymmetricKeyDetails;
  if (key.asymmetricKeyType === "rsa" && (details?.modulusLength ?? 0) >= MIN_RSA_BITS) return rsaKey(key);
  const curve = key.asymmetricKeyType === "ec" ? CURVES[details?.namedCurve ?? ""] : undefined;
  if (curve !== undefined) return ecKey(key, curve);
  const found =
    key.asymmetricKeyType === "rsa"
      ? `RSA with ${details?.modulusLength ?? 0} bits`
      : key.asymmetricKeyType === "ec"
        ? `EC on ${details?.namedCurve ?? "an unnamed curve"}`
        : String(key.asymmetricKeyType);
  throw new ImportKeyError(
    "ERR_IMPORTKEY_KEY",
    `${file} is ${found}, expected RSA with at least ${MIN_RSA_BITS} bits, or EC on ${Object.values(CURVES).join(", ")}`,
  );
}

/** A new RSA key, as the known tool makes one when it is given none. Its randomness is the platform's: no other source makes RSA keys. */
export function newRsaKey(): ImportedKey {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: NEW_RSA_BITS });
  return { ...rsaKey(privateKey), pem: privateKey.export({ type: "pkcs8", format: "pem" }).toString() };
}

function rsaKey(key: KeyObject): ImportedKey {
  const { n = "", e = "", d = "", p = "", q = "", dp = "", dq = "", qi = "" } = key.export({ format: "jwk" });
  return { type: "RSA-HSM", jwk: { kty: "RSA-HSM", n, e, d, dp, dq, p, q, qi }, summary: `RSA ${key.asymmetricKeyDetails?.modulusLength ?? 0} bits` };
}

function ecKey(key: KeyObject, crv: string): ImportedKey {
  const { x = "", y = "", d = "" } = key.export({ format: "jwk" });
  return { type: "EC-HSM", jwk: { kty: "EC-HSM", crv, x, y, d }, summary: `EC ${crv}` };
}

/**
 * The 32 bytes that a pod's encrypted filesystem makes of a released RSA key: HKDF-SHA256 over the bytes of the private exponent.
 * @throws {ImportKeyError} ERR_IMPORTKEY_OPTION for a key of another kind
 */
export function deriveKey(key: ImportedKey, { salt, label }: KeyDerivation): Uint8Array {
  const { d } = key.jwk;
  if (key.type !== "RSA-HSM" || typeof d !== "string") {
    throw new ImportKeyError("ERR_IMPORTKEY_OPTION", `-out does not go with ${key.summary}: only an RSA key has a symmetric key derived from it`, {
      hint: "Leave -out out.",
    });
  }
  // The exponent as a number: without the zeros that a JWK fills it up with.
  const exponent = fromBase64url(d, "d");
  const first = exponent.findIndex((byte) => byte !== 0);
  return new Uint8Array(hkdfSync("sha256", exponent.subarray(Math.max(first, 0)), salt, encodeUtf8(label), DERIVED_LENGTH));
}
