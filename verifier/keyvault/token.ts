import { compactVerify } from "jose";
import { asObject, decodeUtf8, encodeJson, fromBase64url, messageOf, parseJson, type Clock, type JsonObject } from "@sealpod/core";
import { KeyvaultError } from "./errors.ts";
import { trimSlash, type IssuerKeys } from "./issuer-keys.ts";

/** Attestation tokens carry runtime data of the guest: a few KiB by custom. */
const MAX_TOKEN = 256 * 1024;
/** Clocks of issuer and vault may differ by this much, in seconds. */
const CLOCK_SKEW = 60;

/** A token whose signature, issuer and times have been verified. */
export interface VerifiedToken {
  /** The issuer as the verifier names it, not as the token does. */
  readonly issuer: string;
  readonly claims: JsonObject;
}

/** A token about which nothing is known: fit to choose an issuer, for nothing else. */
export interface UnverifiedToken {
  readonly token: string;
  readonly header: JsonObject;
  readonly claims: JsonObject;
}

/**
 * Parses a JWS in compact form with JSON claims, strictly: duplicate names would let two readers see two tokens.
 * @throws {KeyvaultError} ERR_KEYVAULT_TOKEN
 */
export function parseToken(token: string): UnverifiedToken {
  if (token.length > MAX_TOKEN) throw tokenError(`it has ${token.length} characters, more than the limit of ${MAX_TOKEN}`);
  const parts = token.split(".");
  if (parts.length !== 3) throw tokenError(`it has ${parts.length} parts separated by dots, expected 3`);
  return { token, header: parsePart(parts[0] ?? "", "header"), claims: parsePart(parts[1] ?? "", "payload") };
}

function parsePart(part: string, what: string): JsonObject {
  try {
    const object = asObject(parseJson(decodeUtf8(fromBase64url(part, what), what), what));
    if (object !== undefined) return object;
  } catch (cause) {
    throw tokenError(messageOf(cause), cause);
  }
  throw tokenError(`its ${what} is not a JSON object`);
}

/**
 * Verifies that `issuer` signed the token with RS256, that the token says so itself, and that it is in its time.
 * The algorithm is ours to choose, not the token's: `none`, and HMAC keyed with a public key, are what forgers name.
 * @throws {KeyvaultError} ERR_KEYVAULT_TOKEN, ERR_KEYVAULT_ISSUER
 */
export async function verifyToken(unverified: UnverifiedToken, issuer: string, keys: IssuerKeys, clock: Clock): Promise<VerifiedToken> {
  const { token, header, claims } = unverified;
  const { alg, kid } = header;
  if (alg !== "RS256") throw tokenError(`its algorithm is ${encodeJson(alg ?? null)}, expected "RS256"`);
  // An extension that changes how the rest is read (RFC 7515 section 4.1.11, RFC 7797) has no place in these tokens.
  if ("crit" in header || "b64" in header) throw tokenError("its header asks for an extension (crit or b64)");
  if (typeof kid !== "string") throw tokenError("its header has no kid");
  if (typeof claims["iss"] !== "string" || trimSlash(claims["iss"]) !== trimSlash(issuer)) {
    throw tokenError(`its issuer is ${encodeJson(claims["iss"] ?? null)}, expected ${JSON.stringify(issuer)}`);
  }
  const key = await keys.find(issuer, kid);
  if (key === undefined) throw tokenError(`${issuer} has no RSA signing key with kid ${JSON.stringify(kid.slice(0, 100))}`);
  try {
    await compactVerify(token, key, { algorithms: ["RS256"] });
  } catch (cause) {
    throw tokenError(`key ${JSON.stringify(kid.slice(0, 100))} of ${issuer} did not sign it: ${messageOf(cause)}`, cause);
  }
  checkTimes(claims, Math.floor(clock.now() / 1000));
  return { issuer, claims };
}

function checkTimes(claims: JsonObject, now: number): void {
  const { exp, nbf } = claims;
  if (typeof exp !== "number") throw tokenError("it has no exp claim in seconds");
  if (exp + CLOCK_SKEW <= now) throw tokenError(`it expired ${now - exp} seconds ago`);
  if (nbf === undefined) return;
  if (typeof nbf !== "number") throw tokenError("its nbf claim is not in seconds");
  if (nbf - CLOCK_SKEW > now) throw tokenError(`it is valid only in ${nbf - now} seconds`);
}

function tokenError(problem: string, cause?: unknown): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_TOKEN", `the token is refused: ${problem}`, { cause });
}
