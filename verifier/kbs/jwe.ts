import { constants, createCipheriv, diffieHellman, generateKeyPair, publicEncrypt, type KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { concatBytes, encodeUtf8, sha256, toBase64url, type Random } from "@sealpod/core";
import type { TeeKey } from "./tee-key.ts";

/** A JWE in flattened JSON (RFC 7516 section 7.2.2), members in the order of CoCo's key broker. */
export interface FlattenedJwe {
  readonly protected: string;
  readonly encrypted_key: string;
  readonly iv: string;
  readonly ciphertext: string;
  readonly tag: string;
}

/** RFC 3394 section 2.2.3.1. */
const KEY_WRAP_IV = new Uint8Array(8).fill(0xa6);
const CURVE_NAMES: Readonly<Record<string, string>> = { "P-256": "prime256v1", "P-384": "secp384r1", "P-521": "secp521r1" };

const generate = promisify(generateKeyPair);

/**
 * Encrypts a resource to a guest's key: A256GCM under a fresh key, which ECDH-ES+A256KW or RSA-OAEP-256 carries.
 *
 * The protected header is compact JSON with its members in one order: `alg`, `enc`, the others sorted. Clients parse it and authenticate their own rendering
 * of it, not our bytes (specs/attestation.md 9.1.5), so another order would be refused as a forgery.
 */
export async function encryptJwe(to: TeeKey, plaintext: Uint8Array, random: Random): Promise<FlattenedJwe> {
  const contentKey = random.bytes(32);
  try {
    const { encryptedKey, members } = to.algorithm === "RSA-OAEP-256" ? wrapRsa(to.key, contentKey) : await wrapEcdh(to.key, contentKey);
    const header = toBase64url(encodeUtf8(JSON.stringify({ alg: to.algorithm, enc: "A256GCM", ...members })));
    const iv = random.bytes(12);
    const cipher = createCipheriv("aes-256-gcm", contentKey, iv);
    cipher.setAAD(encodeUtf8(header));
    const ciphertext = concatBytes(cipher.update(plaintext), cipher.final());
    return {
      protected: header,
      encrypted_key: toBase64url(encryptedKey),
      iv: toBase64url(iv),
      ciphertext: toBase64url(ciphertext),
      tag: toBase64url(cipher.getAuthTag()),
    };
  } finally {
    contentKey.fill(0);
  }
}

interface WrappedKey {
  readonly encryptedKey: Uint8Array;
  /** Members of the header beside `alg` and `enc`, sorted. */
  readonly members: object;
}

function wrapRsa(key: KeyObject, contentKey: Uint8Array): WrappedKey {
  return { encryptedKey: publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" }, contentKey), members: {} };
}

/** RFC 7518 section 4.6 with key wrapping: an ephemeral key on the guest's curve. */
async function wrapEcdh(key: KeyObject, contentKey: Uint8Array): Promise<WrappedKey> {
  const { crv = "" } = key.export({ format: "jwk" });
  const ephemeral = await generate("ec", { namedCurve: CURVE_NAMES[crv] ?? crv });
  const { x, y } = ephemeral.publicKey.export({ format: "jwk" });
  const shared = diffieHellman({ privateKey: ephemeral.privateKey, publicKey: key });
  const wrappingKey = concatKdf(shared, "ECDH-ES+A256KW");
  try {
    const cipher = createCipheriv("id-aes256-wrap", wrappingKey, KEY_WRAP_IV);
    return { encryptedKey: concatBytes(cipher.update(contentKey), cipher.final()), members: { epk: { crv, kty: "EC", x, y } } };
  } finally {
    shared.fill(0);
    wrappingKey.fill(0);
  }
}

/** One round of the Concat KDF (NIST SP 800-56A section 5.8.1, RFC 7518 section 4.6.2): 256 bits, PartyUInfo and PartyVInfo empty. */
function concatKdf(shared: Uint8Array, algorithm: string): Uint8Array {
  const name = encodeUtf8(algorithm);
  return sha256(u32(1), shared, u32(name.length), name, u32(0), u32(0), u32(256));
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}
