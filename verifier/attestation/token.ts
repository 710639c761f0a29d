import { sign } from "node:crypto";
import { encodeJson, encodeUtf8, toBase64url, toHex, type Clock, type JsonObject, type JsonValue, type Random } from "@sealpod/core";
import { sortClaims, TOKEN_LIFETIME } from "./claims.ts";
import type { AttestationStore, SigningKey } from "./store.ts";

/** Who issues tokens. */
export interface TokenIssuer {
  /** URL of this service and `iss` of its tokens, without trailing slash. */
  readonly issuer: string;
  readonly store: AttestationStore;
  readonly clock: Clock;
  readonly random: Random;
}

/** Claims beside those that every token has; undefined ones are left out. */
export type TokenClaims = Readonly<Record<string, JsonValue | undefined>>;

/**
 * The claims of a token in the order of their names: those given, and issuer, times and id, which nobody else can set.
 * @param lifetime seconds
 */
export function completeClaims(service: TokenIssuer, claims: TokenClaims, lifetime: number = TOKEN_LIFETIME): JsonObject {
  const now = Math.floor(service.clock.now() / 1000);
  return sortClaims({ ...claims, exp: now + lifetime, iat: now, iss: service.issuer, jti: toHex(service.random.bytes(32)), nbf: now });
}

/**
 * Signs a token with RS256, on this thread: the way to another one and back costs a tenth of what the signature does, and who wants more cores runs more processes on
 * the same database.
 */
export function signToken(service: TokenIssuer, claims: JsonObject): string {
  const key = service.store.signer();
  const input = `${headerOf(service, key)}.${toBase64url(encodeUtf8(encodeJson(claims)))}`;
  return `${input}.${toBase64url(sign("sha256", encodeUtf8(input), key.privateKey))}`;
}

/** A token that nobody signed. It says what a token would say and proves nothing. */
export function unsignedToken(claims: JsonObject): string {
  return `${toBase64url(encodeUtf8('{"alg":"none","typ":"JWT"}'))}.${toBase64url(encodeUtf8(encodeJson(claims)))}.`;
}

/** The header is the same for all tokens of a key. */
function headerOf({ issuer }: TokenIssuer, { kid }: SigningKey): string {
  return toBase64url(encodeUtf8(encodeJson({ alg: "RS256", jku: `${issuer}/certs`, kid, typ: "JWT" })));
}
