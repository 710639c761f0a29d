import type { KeyObject } from "node:crypto";
import { CompactSign, compactVerify } from "jose";
import { asObject, decodeUtf8, encodeJson, encodeUtf8, fromBase64url, messageOf, parseJson, type JsonObject } from "@sealpod/core";
import { IdentityError } from "./errors.ts";

/** Characters of a token: those of clusters have below 2 KiB, those of people with many groups some 10. */
const MAX_TOKEN: number = 32 * 1024;
/** Nested values in a token: `kubernetes.io` has three. */
const MAX_DEPTH = 16;

/** Signature algorithms of RFC 7518 section 3.1 that a token may have; which one is a matter of the key, never of the token. */
export type SignatureAlgorithm = "RS256" | "PS256" | "ES256" | "ES384" | "ES512";

/** A public key under its name. */
export interface VerificationKey {
  readonly kid: string;
  readonly publicKey: KeyObject;
  readonly algorithm: SignatureAlgorithm;
}

/** A key that may sign. */
export interface PrivateSigningKey {
  readonly kid: string;
  readonly privateKey: KeyObject;
}

/** A token before anything about it is verified: fit to choose a key or to word a refusal, for nothing else. */
export interface UnverifiedToken {
  readonly header: JsonObject;
  readonly claims: JsonObject;
}

/** Signs a token with RS256; claims keep their order. */
export async function signToken(claims: JsonObject, key: PrivateSigningKey): Promise<string> {
  return new CompactSign(encodeUtf8(encodeJson(claims))).setProtectedHeader({ alg: "RS256", kid: key.kid, typ: "JWT" }).sign(key.privateKey);
}

/**
 * Header and claims of a token that nobody has verified. Encodings are strict: one token has one text.
 * @throws {IdentityError} ERR_IDENTITY_ASSERTION
 */
export function parseUnverified(token: string): UnverifiedToken {
  try {
    if (token.length > MAX_TOKEN) throw new IdentityError("ERR_IDENTITY_ASSERTION", `it has ${token.length} characters, more than ${MAX_TOKEN}`);
    const parts = token.split(".", 6);
    if (parts.length !== 3) throw new IdentityError("ERR_IDENTITY_ASSERTION", `found ${parts.length} parts separated by dots, expected 3`);
    const [header = "", claims = "", signature = ""] = parts;
    const parsed = { header: parsePart(header, "the token's header"), claims: parsePart(claims, "the token's payload") };
    fromBase64url(signature, "the token's signature");
    return parsed;
  } catch (cause) {
    throw new IdentityError("ERR_IDENTITY_ASSERTION", `it is not a JSON Web Token: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Verifies that `key` signed the token, with the one algorithm that the key is for: `none`, and HMAC with a public key as the secret, are algorithms that an attacker names.
 * @throws {IdentityError} ERR_IDENTITY_ASSERTION
 */
export async function verifySignature(token: string, key: VerificationKey): Promise<JsonObject> {
  const { header, claims } = parseUnverified(token);
  if (header["alg"] !== key.algorithm) {
    throw refusal(`the token's algorithm is ${shown(header["alg"])}, and the key ${shown(key.kid)} is for ${key.algorithm} alone`);
  }
  // RFC 7515 section 4.1.11: who does not know an extension must refuse. This service knows none; with `b64` (RFC 7797) the payload would be another text than the one that was read.
  if ("crit" in header || "b64" in header) throw refusal("the token asks for an extension (crit, b64)");
  try {
    await compactVerify(token, key.publicKey, { algorithms: [key.algorithm] });
  } catch (cause) {
    throw refusal(`the signature does not verify with the key ${shown(key.kid)}`, cause);
  }
  return claims;
}

/** The algorithm that a public key is for; undefined if tokens cannot be signed with it here. RSA below 2048 bits is broken in reach of a state. */
export function algorithmOf(key: KeyObject): Exclude<SignatureAlgorithm, "PS256"> | undefined {
  const { modulusLength = 0, namedCurve = "" } = key.asymmetricKeyDetails ?? {};
  if (key.asymmetricKeyType === "rsa") return modulusLength >= 2048 && modulusLength <= 8192 ? "RS256" : undefined;
  return key.asymmetricKeyType === "ec" ? CURVES.get(namedCurve) : undefined;
}

const CURVES: ReadonlyMap<string, "ES256" | "ES384" | "ES512"> = new Map([
  ["prime256v1", "ES256"],
  ["secp384r1", "ES384"],
  ["secp521r1", "ES512"],
]);

function parsePart(text: string, what: string): JsonObject {
  const value = asObject(parseJson(decodeUtf8(fromBase64url(text, what), what), what, { maxLength: MAX_TOKEN, maxDepth: MAX_DEPTH }));
  if (value === undefined) throw new IdentityError("ERR_IDENTITY_ASSERTION", `${what} is not a JSON object`);
  return value;
}

function refusal(problem: string, cause?: unknown): IdentityError {
  return new IdentityError("ERR_IDENTITY_ASSERTION", problem, { cause });
}

function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, 100)) : typeof value;
}
