import { verify, type KeyObject } from "node:crypto";
import { asArray, asObject, decodeUtf8, encodeJson, fromBase64url, messageOf, parseJson, type Clock, type JsonObject } from "@sealpod/core";
import { trimSlash } from "@sealpod/release-policy";
import { KeyvaultError } from "./errors.ts";
import type { IssuerKeys, IssuerUse } from "./issuer-keys.ts";

/** Attestation tokens carry runtime data of the guest: a few KiB by custom. */
const MAX_TOKEN = 256 * 1024;
/** Claims of the field nest four levels; runtime data is the guest's own. */
const MAX_DEPTH = 32;
/** Clocks of issuer and vault may differ by this much, in seconds. */
const CLOCK_SKEW = 60;
/** Of a claim or header parameter in an error. */
const MAX_SHOWN = 100;

/** A token whose signature, issuer and times have been verified. */
export interface VerifiedToken {
  /** The issuer as the verifier names it, not as the token does. */
  readonly issuer: string;
  readonly claims: JsonObject;
  /** What signed it. */
  readonly key: KeyObject;
}

/** A token about which nothing is known: fit to choose an issuer, for nothing else. */
export interface UnverifiedToken {
  /** "" in a {@link TokenMemory}. */
  readonly token: string;
  readonly header: JsonObject;
  readonly claims: JsonObject;
}

/** What a token is held against. */
export interface TokenExpectation extends IssuerUse {
  /** Who must have signed it. */
  readonly issuer: string;
  readonly keys: IssuerKeys;
  readonly clock: Clock;
  /** A key that the signature is known to be of, see {@link TokenMemory}. It is verified again if the issuer's key is another by now. */
  readonly verifiedWith?: KeyObject | undefined;
}

/** Told of each check of a token: what must be, and what is instead; undefined if it is as it must be. */
export type TokenNote = (what: string, problem: string | undefined) => void;

/**
 * Parses a JWS in compact form with JSON claims, strictly: duplicate names would let two readers see two tokens. At most 256 KiB.
 * @throws {KeyvaultError} ERR_KEYVAULT_TOKEN
 */
export function parseToken(token: string): UnverifiedToken {
  if (token.length > MAX_TOKEN) throw tokenError(`it has ${token.length} characters, more than the limit of ${MAX_TOKEN}`);
  const parts = token.split(".", 4);
  if (parts.length !== 3) throw tokenError(`it has ${parts.length === 4 ? "more than 3" : parts.length} parts separated by dots, expected 3`);
  return { token, header: parsePart(parts[0] ?? "", "header"), claims: parsePart(parts[1] ?? "", "payload") };
}

function parsePart(part: string, what: string): JsonObject {
  try {
    const object = asObject(parseJson(decodeUtf8(fromBase64url(part, what), what), what, { maxLength: MAX_TOKEN, maxDepth: MAX_DEPTH }));
    if (object !== undefined) return object;
  } catch (cause) {
    throw tokenError(messageOf(cause), cause);
  }
  throw tokenError(`its ${what} is not a JSON object`);
}

/**
 * Verifies that `issuer` signed the token with RS256, that the token says so itself, and that it is in its time.
 * @throws {KeyvaultError} ERR_KEYVAULT_TOKEN, ERR_KEYVAULT_ISSUER
 */
export async function verifyToken(unverified: UnverifiedToken, expectation: TokenExpectation): Promise<VerifiedToken> {
  const key = await checkToken(unverified, expectation, (_what, problem) => {
    if (problem !== undefined) throw tokenError(problem);
  });
  // For the type alone: without a key a note has thrown.
  if (key === undefined) throw tokenError("it was not verified");
  return { issuer: expectation.issuer, claims: unverified.claims, key };
}

/**
 * Looks at all that makes a token count, and notes each. A note that throws ends it, so that nothing is asked of an issuer for a token that is refused already.
 * The algorithm is ours to choose, not the token's: `none`, and HMAC keyed with a public key, are what forgers name. `jku`, `jwk` and `x5c` of the header, which name keys of the
 * token's own choice, are not looked at.
 * @returns the key that signed the token; undefined if that was noted as a problem
 * @throws {KeyvaultError} ERR_KEYVAULT_ISSUER
 */
export async function checkToken(unverified: UnverifiedToken, expectation: TokenExpectation, note: TokenNote): Promise<KeyObject | undefined> {
  const { token, header, claims } = unverified;
  const { issuer, keys, clock, verifiedWith } = expectation;
  const { alg, kid } = header;
  note("its algorithm is RS256", alg === "RS256" ? undefined : `its algorithm is ${show(alg)}, expected "RS256"`);
  // An extension that changes how the rest is read (RFC 7515 section 4.1.11, RFC 7797) has no place in these tokens.
  note("its header asks for no extension", "crit" in header || "b64" in header ? "its header asks for an extension (crit or b64)" : undefined);
  const { iss } = claims;
  const isOfIssuer = typeof iss === "string" && trimSlash(iss) === trimSlash(issuer);
  note(`it is of ${issuer}`, isOfIssuer ? undefined : `its issuer is ${show(iss)}, expected ${JSON.stringify(issuer)}`);
  checkTimes(claims, Math.floor(clock.now() / 1000), note);
  if (typeof kid !== "string") {
    note("its header names a key", "its header has no kid");
    return undefined;
  }
  const key = await keys.find(issuer, kid, expectation);
  if (key === undefined) {
    note("its issuer has the key that it names", `${issuer} has no RSA signing key with kid ${JSON.stringify(kid.slice(0, MAX_SHOWN))}`);
    return undefined;
  }
  const isSigned = alg === "RS256" && (key === verifiedWith || isSignedBy(token, key));
  note(
    `key ${JSON.stringify(kid.slice(0, MAX_SHOWN))} signed it`,
    isSigned ? undefined : `key ${JSON.stringify(kid.slice(0, MAX_SHOWN))} of ${issuer} did not sign it`,
  );
  return isSigned ? key : undefined;
}

/** RFC 7515 section 5.2 for RS256. In this thread: it takes as long as to ask another one. */
function isSignedBy(token: string, key: KeyObject): boolean {
  const dot = token.lastIndexOf(".");
  try {
    return verify("sha256", Buffer.from(token.slice(0, dot), "latin1"), key, fromBase64url(token.slice(dot + 1), "signature"));
  } catch {
    return false;
  }
}

function checkTimes({ exp, nbf }: JsonObject, now: number, note: TokenNote): void {
  if (typeof exp !== "number") note("it has an end", "it has no exp claim in seconds");
  else note("it has not expired", exp + CLOCK_SKEW <= now ? `it expired ${now - exp} seconds ago` : undefined);
  if (nbf === undefined) return;
  if (typeof nbf !== "number") note("its beginning is a time", "its nbf claim is not in seconds");
  else note("it is valid already", nbf - CLOCK_SKEW > now ? `it is valid only in ${nbf - now} seconds` : undefined);
}

/** The texts in an `aud` claim, which is one or a list (RFC 7519 section 4.1.3); undefined for anything else. */
export function audiencesOf(aud: JsonObject[string] | undefined): readonly string[] | undefined {
  const list = typeof aud === "string" ? [aud] : asArray(aud);
  return list?.every((item) => typeof item === "string") === true ? (list as readonly string[]) : undefined;
}

function show(value: JsonObject[string] | undefined): string {
  return encodeJson(typeof value === "string" ? value.slice(0, MAX_SHOWN) : (value ?? null)).slice(0, MAX_SHOWN + 2);
}

/** What is wrong with a token. @param problem a clause about "it" */
export function tokenError(problem: string, cause?: unknown): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_TOKEN", `the token is refused: ${problem}`, { cause });
}
