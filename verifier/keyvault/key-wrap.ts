import { constants, createCipheriv, createPublicKey, publicEncrypt, type KeyObject } from "node:crypto";
import { asArray, asObject, concatBytes, fromAnyBase64, fromHex, toBase64url, type JsonObject, type Random } from "@sealpod/core";
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
const MIN_RSA_BITS = 2048;
const MAX_RSA_BITS = 8192;

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
 * The wrapping key of an attestation token: the first RSA key of `x-ms-runtime.keys` that is there to encrypt with. The report's
 * REPORT_DATA covers the runtime data, so only the TEE has the private half.
 * @throws {KeyvaultError} ERR_KEYVAULT_TOKEN
 */
export function findWrappingKey(claims: JsonObject): WrappingKey {
  const keys = asArray(asObject(claims["x-ms-runtime"])?.["keys"]);
  const jwk = keys?.map((key) => asObject(key)).find((key) => key?.["kty"] === "RSA" && isForEncryption(key));
  if (jwk === undefined) {
    throw new KeyvaultError("ERR_KEYVAULT_TOKEN", 'the token has no wrapping key: x-ms-runtime.keys holds no RSA key with use "enc" or key_ops "encrypt"');
  }
  const { n, e, kid } = jwk;
  try {
    if (typeof n !== "string" || typeof e !== "string") throw new TypeError("n and e must be strings");
    const publicKey = createPublicKey({ key: { kty: "RSA", n: bare(n), e: bare(e) }, format: "jwk" });
    const bits = publicKey.asymmetricKeyDetails?.modulusLength ?? 0;
    if (bits < MIN_RSA_BITS || bits > MAX_RSA_BITS) throw new RangeError(`it has ${bits} bits, expected ${MIN_RSA_BITS} to ${MAX_RSA_BITS}`);
    return { kid: typeof kid === "string" ? kid : "", publicKey };
  } catch (cause) {
    throw new KeyvaultError("ERR_KEYVAULT_TOKEN", `the wrapping key in x-ms-runtime.keys is not usable: ${(cause as Error).message}`, { cause });
  }
}

function isForEncryption(jwk: JsonObject): boolean {
  return jwk["use"] === "enc" || (asArray(jwk["key_ops"])?.includes("encrypt") ?? false);
}

/** Sidecars pad their base64url. */
function bare(text: string): string {
  return toBase64url(fromAnyBase64(text, "JWK member"));
}

/**
 * Wraps a key: RSA-OAEP(KEK) followed by AES-KWP(KEK, plaintext) (specs/attestation.md 5.5.6, RFC 5649).
 * @param plaintext raw bytes of an `oct` key, PKCS#8 DER of an RSA or EC key
 */
export function wrapKey(algorithm: WrapAlgorithm, publicKey: KeyObject, plaintext: Uint8Array, random: Random): Uint8Array {
  const kek = Uint8Array.from(random.bytes(32));
  const encryptedKek = publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: OAEP_HASH[algorithm] }, kek);
  const cipher = createCipheriv("id-aes256-wrap-pad", kek, KWP_IV);
  const wrapped = concatBytes(encryptedKek, cipher.update(plaintext), cipher.final());
  kek.fill(0);
  return wrapped;
}
