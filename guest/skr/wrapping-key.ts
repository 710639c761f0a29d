import { constants, createDecipheriv, createPrivateKey, generateKeyPair, privateDecrypt, type KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { concatBytes, encodeUtf8, fromHex, sha256, toBase64url } from "@sealpod/core";
import { SkrError } from "./errors.ts";

/** The alternative initial value of RFC 5649 section 3. */
const AIV = fromHex("A65959A6");

/** Hash of the OAEP step of each wrapping algorithm. Its AES step is always AES-256 key wrap with padding (RFC 5649). */
const WRAPPINGS: ReadonlyMap<string, "sha1" | "sha256" | "sha384"> = new Map([
  ["CKM_RSA_AES_KEY_WRAP", "sha1"],
  ["RSA_AES_KEY_WRAP_256", "sha256"],
  ["RSA_AES_KEY_WRAP_384", "sha384"],
]);

/** A key pair of this one release. The private half never leaves memory. */
export interface WrappingKey {
  /** RFC 7638 thumbprint of the public half. */
  readonly kid: string;
  /** The JWK set that goes to the attestation service as runtime data, and so into the report. */
  readonly jwks: string;
  readonly privateKey: KeyObject;
}

const generateRsa = promisify(generateKeyPair);

/** A new RSA-2048 key pair. */
export async function generateWrappingKey(): Promise<WrappingKey> {
  const { publicKey, privateKey } = await generateRsa("rsa", { modulusLength: 2048, publicExponent: 65537 });
  const { e, n } = publicKey.export({ format: "jwk" });
  // RFC 7638 section 3.3: the required members, in this order.
  const kid = toBase64url(sha256(encodeUtf8(JSON.stringify({ e, kty: "RSA", n }))));
  return { kid, jwks: JSON.stringify({ keys: [{ e, key_ops: ["encrypt"], kid, kty: "RSA", n }] }), privateKey };
}

/**
 * Unwraps a key: RSA-OAEP gives an AES-256 key, which unwraps the rest (PKCS #11 CKM_RSA_AES_KEY_WRAP).
 * @param algorithm `CKM_RSA_AES_KEY_WRAP`, `RSA_AES_KEY_WRAP_256` or `RSA_AES_KEY_WRAP_384`
 * @param ciphertext as many bytes as the modulus has, then the wrapped key
 * @throws {SkrError} ERR_SKR_RELEASED_KEY
 */
export function unwrapKey(privateKey: KeyObject, algorithm: string, ciphertext: Uint8Array): Uint8Array {
  const oaepHash = WRAPPINGS.get(algorithm);
  if (oaepHash === undefined) {
    throw new SkrError(
      "ERR_SKR_RELEASED_KEY",
      `the key is wrapped with ${JSON.stringify(algorithm.slice(0, 60))}; expected one of ${[...WRAPPINGS.keys()].join(", ")}`,
    );
  }
  const modulus = (privateKey.asymmetricKeyDetails?.modulusLength ?? 0) / 8;
  if (ciphertext.length <= modulus) throw new SkrError("ERR_SKR_RELEASED_KEY", `the wrapped key has ${ciphertext.length} bytes, expected more than ${modulus}`);
  let kek: Buffer | undefined;
  try {
    kek = privateDecrypt({ key: privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, ciphertext.subarray(0, modulus));
    const decipher = createDecipheriv("id-aes256-wrap-pad", kek, AIV);
    const first = decipher.update(ciphertext.subarray(modulus));
    const last = decipher.final();
    const plaintext = concatBytes(first, last);
    first.fill(0);
    last.fill(0);
    return plaintext;
  } catch (cause) {
    throw new SkrError("ERR_SKR_RELEASED_KEY", "the key is not wrapped to the key of this request", { cause });
  } finally {
    kek?.fill(0);
  }
}

/**
 * The JWK of an unwrapped key: raw bytes for `oct`, PKCS #8 for RSA and EC keys.
 * @param kty as the key store names it, `-HSM` or not
 * @throws {SkrError} ERR_SKR_RELEASED_KEY
 */
export function keyToJwk(kty: string, plaintext: Uint8Array): Readonly<Record<string, unknown>> {
  const bare = kty.replace(/-HSM$/, "");
  if (bare === "oct") return { kty: "oct", k: toBase64url(plaintext) };
  if (bare !== "RSA" && bare !== "EC")
    throw new SkrError("ERR_SKR_RELEASED_KEY", `the key has type ${JSON.stringify(kty.slice(0, 40))}; expected oct, RSA or EC`);
  try {
    const jwk = createPrivateKey({ key: Buffer.from(plaintext), format: "der", type: "pkcs8" }).export({ format: "jwk" });
    if (jwk.kty !== bare) throw new Error(`its bytes are a key of type ${String(jwk.kty)}`);
    return { ...jwk };
  } catch (cause) {
    throw new SkrError("ERR_SKR_RELEASED_KEY", `the unwrapped bytes are not an ${bare} key in PKCS #8`, { cause });
  }
}
