import { constants, createCipheriv, createPublicKey, createSecretKey, publicEncrypt, type KeyObject } from "node:crypto";
import {
  asArray,
  asObject,
  concatBytes,
  decodeUtf8,
  fromAnyBase64,
  fromHex,
  messageOf,
  parseJson,
  toBase64,
  toHex,
  type JsonObject,
  type JsonValue,
  type Random,
} from "@sealpod/core";
import { encodeDer, encodeSequence, TAG } from "@sealpod/pki";
import { KeyvaultError } from "./errors.ts";

/** How a released key is wrapped: RSA-OAEP of an AES-256 key, and the key under it with AES-KWP (PKCS#11 CKM_RSA_AES_KEY_WRAP). */
export type WrapAlgorithm = "CKM_RSA_AES_KEY_WRAP" | "RSA_AES_KEY_WRAP_256" | "RSA_AES_KEY_WRAP_384";

/** The hash of OAEP and of its MGF1, for each algorithm. */
const OAEP_HASH: Readonly<Record<WrapAlgorithm, string>> = {
  CKM_RSA_AES_KEY_WRAP: "sha1",
  RSA_AES_KEY_WRAP_256: "sha256",
  RSA_AES_KEY_WRAP_384: "sha384",
};

/** The initial value of RFC 5649 section 3. */
const KWP_IV = fromHex("A65959A6");
/** Below this the wrapping key is breakable, above it the encryption is a way to burn our time. */
const RSA_BITS = { least: 2048, most: 8192 };
/** Characters of a modulus: 8192 bits are 1366, and some have a zero in front. */
const MAX_NUMBER = 2048;
/** FIPS 186-5 section A.1.1. With the exponent 1 RSA encrypts nothing at all, and with 3 the padding is all that is between the key and who listens. */
const LEAST_EXPONENT = 65_537n;
/** Keys in a JWKS that are looked at. */
const MAX_KEYS = 100;
/** Claims that the attestation service has from its earlier days: the runtime data once more, base64url of the JWKS (recorded sessions, specs/attestation.md 7.5). */
const LEGACY_CLAIMS: readonly string[] = ["maa-ehd", "aas-ehd"];

/** The key of the TEE that a release is wrapped to. */
export interface WrappingKey {
  /** As the JWK has it, "" if it has none. */
  readonly kid: string;
  readonly publicKey: KeyObject;
}

/** The algorithm of this name. */
export function parseWrapAlgorithm(name: string): WrapAlgorithm | undefined {
  return Object.hasOwn(OAEP_HASH, name) ? (name as WrapAlgorithm) : undefined;
}

/**
 * The wrapping key of an attestation token: the first RSA key of `x-ms-runtime.keys` with `use` "enc" or `key_ops` "encrypt"; one is enough, for genuine sidecars send `use` "sig"
 * and `alg` "RS256" with the latter. The report's REPORT_DATA covers the runtime data, so only the TEE has the private half. Of a token without `x-ms-runtime` the keys of its
 * older claims `maa-ehd` and `aas-ehd` are taken.
 * @throws {KeyvaultError} ERR_KEYVAULT_TOKEN
 */
export function findWrappingKey(claims: JsonObject): WrappingKey {
  const { place, keys } = keysOf(claims);
  const jwk = keys
    .slice(0, MAX_KEYS)
    .map((key) => asObject(key))
    .find((key) => key?.["kty"] === "RSA" && isForEncryption(key));
  if (jwk === undefined) {
    throw new KeyvaultError("ERR_KEYVAULT_TOKEN", `the token has no wrapping key: ${place} holds no RSA key with use "enc" or key_ops "encrypt"`);
  }
  const { n, e, kid } = jwk;
  try {
    if (typeof n !== "string" || typeof e !== "string") throw new TypeError("n and e must be texts");
    const publicKey = rsaPublicKey(numberOf(n), numberOf(e));
    return { kid: typeof kid === "string" ? kid : "", publicKey };
  } catch (cause) {
    throw new KeyvaultError("ERR_KEYVAULT_TOKEN", `the wrapping key in ${place} is not usable: ${messageOf(cause)}`, { cause });
  }
}

function keysOf(claims: JsonObject): { readonly place: string; readonly keys: readonly JsonValue[] } {
  const runtime = claims["x-ms-runtime"];
  const legacy = runtime === undefined ? LEGACY_CLAIMS.find((name) => name in claims) : undefined;
  if (legacy === undefined) return { place: "x-ms-runtime.keys", keys: asArray(asObject(runtime)?.["keys"]) ?? [] };
  try {
    const text = claims[legacy];
    const jwks = typeof text === "string" ? asObject(parseJson(decodeUtf8(fromAnyBase64(text, legacy), legacy), legacy)) : undefined;
    return { place: `${legacy}.keys`, keys: asArray(jwks?.["keys"]) ?? [] };
  } catch (cause) {
    throw new KeyvaultError("ERR_KEYVAULT_TOKEN", `the token has no wrapping key: ${messageOf(cause)}`, { cause });
  }
}

function isForEncryption(jwk: JsonObject): boolean {
  return jwk["use"] === "enc" || (asArray(jwk["key_ops"])?.includes("encrypt") ?? false);
}

/** Bytes of a number, without zeros in front. Sidecars pad their base64url. */
function numberOf(text: string): Uint8Array {
  if (text.length > MAX_NUMBER) throw new RangeError(`a number of ${text.length} characters, more than the limit of ${MAX_NUMBER}`);
  const bytes = fromAnyBase64(text, "JWK member");
  let start = 0;
  while (bytes[start] === 0) start++;
  return bytes.subarray(start);
}

/** By way of PEM, which node reads in half the time that it takes for a JWK: nearly every release has a key that was never seen before. */
function rsaPublicKey(modulus: Uint8Array, exponent: Uint8Array): KeyObject {
  const bits = modulus.length === 0 ? 0 : modulus.length * 8 - Math.clz32(modulus[0] ?? 0) + 24;
  if (bits < RSA_BITS.least || bits > RSA_BITS.most) throw new RangeError(`it has ${bits} bits, expected ${RSA_BITS.least} to ${RSA_BITS.most}`);
  const e = BigInt(`0x0${toHex(exponent)}`);
  if (e < LEAST_EXPONENT || e % 2n === 0n) throw new RangeError(`its exponent is ${e}, expected an odd number from ${LEAST_EXPONENT}`);
  if ((modulus.at(-1) ?? 0) % 2 === 0) throw new RangeError("its modulus is an even number");
  const text = toBase64(encodeSequence(integerOf(modulus), integerOf(exponent)));
  // RFC 7468 section 2: lines of 64 characters.
  let lines = "";
  for (let at = 0; at < text.length; at += 64) lines += `${text.slice(at, at + 64)}\n`;
  return createPublicKey(`-----BEGIN RSA PUBLIC KEY-----\n${lines}-----END RSA PUBLIC KEY-----\n`);
}

/** A zero in front keeps a high first bit from being a sign. */
function integerOf(magnitude: Uint8Array): Uint8Array {
  return encodeDer(TAG.integer, Uint8Array.from((magnitude[0] ?? 0) >= 0x80 ? [0] : []), magnitude);
}

/**
 * Wraps a key: RSA-OAEP(KEK) followed by AES-KWP(KEK, plaintext) (specs/attestation.md 5.5.6, RFC 5649).
 * @param plaintext raw bytes of an `oct` key, PKCS#8 DER of an RSA or EC key
 */
export function wrapKey(algorithm: WrapAlgorithm, publicKey: KeyObject, plaintext: Uint8Array, random: Random): Uint8Array {
  const kek = Uint8Array.from(random.bytes(32));
  const encryptedKek = publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: OAEP_HASH[algorithm] }, kek);
  // A key object, because to tell bytes from one takes node longer than to wrap.
  const cipher = createCipheriv("id-aes256-wrap-pad", createSecretKey(kek), KWP_IV);
  const wrapped = concatBytes(encryptedKek, cipher.update(plaintext), cipher.final());
  kek.fill(0);
  return wrapped;
}
