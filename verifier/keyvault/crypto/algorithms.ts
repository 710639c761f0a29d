import type { KeyType } from "../key-material.ts";
import type { RsaPadding, SignatureHash } from "./rsa.ts";

/** What an algorithm is made of. */
export type Algorithm =
  | { readonly kind: "rsa"; readonly padding: RsaPadding }
  | { readonly kind: "pkcs1" | "pss"; readonly hash: SignatureHash }
  | { readonly kind: "ecdsa"; readonly hash: SignatureHash; readonly curve: string }
  | { readonly kind: "hmac"; readonly hash: SignatureHash }
  /** `size`: bits of the key; undefined for any AES key. */
  | { readonly kind: "gcm" | "cbc" | "cbcpad" | "kw" | "kwp"; readonly size: number | undefined };

/** What can be done with a key, in the words of `key_ops`. */
export type KeyUse = "encrypt" | "decrypt" | "wrapKey" | "unwrapKey" | "sign" | "verify";

const aes = (kind: "gcm" | "cbc" | "cbcpad" | "kw", suffix: string): readonly (readonly [string, Algorithm])[] =>
  [128, 192, 256].map((size) => [`A${size}${suffix}`, { kind, size }]);

/** `alg` of the requests, as the 7.x API versions list them (JsonWebKeyEncryptionAlgorithm, JsonWebKeySignatureAlgorithm); RSNULL is reserved there, and none here. */
export const ALGORITHMS: ReadonlyMap<string, Algorithm> = new Map<string, Algorithm>([
  ["RSA1_5", { kind: "rsa", padding: "pkcs1" }],
  ["RSA-OAEP", { kind: "rsa", padding: "sha1" }],
  ["RSA-OAEP-256", { kind: "rsa", padding: "sha256" }],
  ...aes("gcm", "GCM"),
  ...aes("cbc", "CBC"),
  ...aes("cbcpad", "CBCPAD"),
  ...aes("kw", "KW"),
  ["CKM_AES_KEY_WRAP", { kind: "kw", size: undefined }],
  ["CKM_AES_KEY_WRAP_PAD", { kind: "kwp", size: undefined }],
  ["RS256", { kind: "pkcs1", hash: "sha256" }],
  ["RS384", { kind: "pkcs1", hash: "sha384" }],
  ["RS512", { kind: "pkcs1", hash: "sha512" }],
  ["PS256", { kind: "pss", hash: "sha256" }],
  ["PS384", { kind: "pss", hash: "sha384" }],
  ["PS512", { kind: "pss", hash: "sha512" }],
  ["ES256", { kind: "ecdsa", hash: "sha256", curve: "P-256" }],
  ["ES256K", { kind: "ecdsa", hash: "sha256", curve: "P-256K" }],
  ["ES384", { kind: "ecdsa", hash: "sha384", curve: "P-384" }],
  ["ES512", { kind: "ecdsa", hash: "sha512", curve: "P-521" }],
  ["HS256", { kind: "hmac", hash: "sha256" }],
  ["HS384", { kind: "hmac", hash: "sha384" }],
  ["HS512", { kind: "hmac", hash: "sha512" }],
]);

/** Family of the keys that an algorithm is for. */
export function keyTypeOf(algorithm: Algorithm): KeyType {
  switch (algorithm.kind) {
    case "rsa":
    case "pkcs1":
    case "pss":
      return "RSA";
    case "ecdsa":
      return "EC";
    default:
      return "oct";
  }
}

/** What an algorithm is for: RSA encryption wraps keys as well, modes of AES do one thing. */
export function usesOf(algorithm: Algorithm): readonly KeyUse[] {
  switch (algorithm.kind) {
    case "rsa":
      return ["encrypt", "decrypt", "wrapKey", "unwrapKey"];
    case "gcm":
    case "cbc":
    case "cbcpad":
      return ["encrypt", "decrypt"];
    case "kw":
    case "kwp":
      return ["wrapKey", "unwrapKey"];
    default:
      return ["sign", "verify"];
  }
}

/** Whether the public half of an asymmetric key is enough: then the secret is not opened at all. */
export function needsSecret(algorithm: Algorithm, use: KeyUse): boolean {
  return keyTypeOf(algorithm) === "oct" || use === "decrypt" || use === "unwrapKey" || use === "sign";
}
