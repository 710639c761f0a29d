import { CompactSign, compactVerify, errors } from "jose";
import { asObject, decodeUtf8, encodeJson, encodeUtf8, fromBase64url, parseJson, type JsonObject } from "@sealpod/core";
import { IdentityError } from "./errors.ts";
import type { SigningKey } from "./store.ts";

/** Signs a token with RS256; claims keep their order. */
export async function signToken(claims: JsonObject, key: SigningKey): Promise<string> {
  return new CompactSign(encodeUtf8(encodeJson(claims))).setProtectedHeader({ alg: "RS256", kid: key.kid, typ: "JWT" }).sign(key.privateKey);
}

/**
 * The claims of a token before anything about it is verified: fit to choose a key or to word a refusal, for nothing else.
 * @throws {IdentityError} ERR_IDENTITY_ASSERTION
 */
export function parseUnverifiedClaims(token: string): JsonObject {
  const parts = token.split(".");
  try {
    if (parts.length !== 3) throw new IdentityError("ERR_IDENTITY_ASSERTION", `found ${parts.length} parts separated by dots, expected 3`);
    const claims = asObject(parseJson(decodeUtf8(fromBase64url(parts[1] ?? "", "the token's payload"), "the token's payload"), "the token's payload"));
    if (claims === undefined) throw new IdentityError("ERR_IDENTITY_ASSERTION", "the token's payload is not a JSON object");
    return claims;
  } catch (cause) {
    throw new IdentityError("ERR_IDENTITY_ASSERTION", `the client assertion is not a JSON Web Token: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Verifies that one of `keys` signed the token, with RS256 alone: `none` and HMAC with a public key as the secret are
 * algorithms that an attacker names.
 * @throws {IdentityError} ERR_IDENTITY_ASSERTION
 */
export async function verifySignature(token: string, keys: readonly SigningKey[]): Promise<JsonObject> {
  try {
    const { payload } = await compactVerify(
      token,
      (header) => {
        const key = keys.find((candidate) => candidate.kid === header.kid);
        if (key === undefined) throw new errors.JWKSNoMatchingKey(`the issuer has no key with kid ${JSON.stringify(header.kid ?? null)}`);
        return key.publicKey;
      },
      { algorithms: ["RS256"] },
    );
    const claims = asObject(parseJson(decodeUtf8(payload, "the token's payload"), "the token's payload"));
    if (claims === undefined) throw new IdentityError("ERR_IDENTITY_ASSERTION", "the token's payload is not a JSON object");
    return claims;
  } catch (cause) {
    throw new IdentityError("ERR_IDENTITY_ASSERTION", `the client assertion is not signed by its issuer: ${(cause as Error).message}`, { cause });
  }
}
