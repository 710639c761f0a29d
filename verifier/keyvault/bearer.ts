import { encodeJson, isSealpodError, type Clock, type JsonObject } from "@sealpod/core";
import { trimSlash } from "@sealpod/release-policy";
import { KeyvaultError } from "./errors.ts";
import type { IssuerKeys } from "./issuer-keys.ts";
import { audiencesOf, parseToken, tokenError, verifyToken } from "./token.ts";

/**
 * A tenant whose access tokens the vaults accept. Entra signs v1 tokens as `https://sts.windows.net/<tenant>/` and v2 tokens as `https://login.microsoftonline.com/<tenant>/v2.0`,
 * each with an OpenID configuration of its own: who takes both names two issuers of one tenant.
 */
export interface TokenIssuer {
  /** The `iss` of its tokens, e.g. `https://login.sealpod.internal:8443/<tenant>/v2.0`; its OpenID configuration is below. */
  readonly issuer: string;
  /** UUID; the `tid` of its tokens must be this one. */
  readonly tenantId: string;
  /** Where a client gets a token: the `authorization` of the challenge, authority and tenant. */
  readonly authorization: string;
}

/** Who makes a request, after verification. */
export interface Caller {
  readonly tenantId: string;
  /** Application id: `appid`, or `azp` of v2 tokens; "" if the token has neither. In a user's token it names the application by which the user came: see {@link Caller.isApp}. */
  readonly appid: string;
  /** True if the application acts for itself. Otherwise what was given to the application is not the caller's: any user of it would have it. */
  readonly isApp: boolean;
  /** Object id; "" if the token has none. */
  readonly oid: string;
  readonly issuer: string;
}

/** What {@link verifyBearer} needs. */
export interface BearerContext {
  readonly issuers: readonly TokenIssuer[];
  /** Accepted `aud` values, without trailing slash. */
  readonly audiences: readonly string[];
  readonly keys: IssuerKeys;
  readonly clock: Clock;
}

/** Types of access tokens: RFC 9068 section 2.1, and what issuers wrote before it. Tokens for other uses have others (`logout+jwt`, `dpop+jwt`). */
const ACCESS_TOKEN_TYPES: readonly string[] = ["jwt", "at+jwt", "application/at+jwt"];
/** Claims of id tokens alone (OpenID Connect Core sections 2 and 3.3.2.11): who gets one to show that somebody has signed in must not call in their name with it. */
const ID_TOKEN_CLAIMS: readonly string[] = ["nonce", "at_hash", "c_hash"];

/**
 * Verifies the bearer token of a request (specs/attestation.md 7.2).
 * @param authorization the Authorization header
 * @throws {KeyvaultError} ERR_KEYVAULT_UNAUTHORIZED, ERR_KEYVAULT_ISSUER
 */
export async function verifyBearer(context: BearerContext, authorization: string | undefined): Promise<Caller> {
  const text = /^Bearer +([A-Za-z0-9._~+/=-]+)$/i.exec(authorization ?? "")?.[1];
  if (text === undefined) throw new KeyvaultError("ERR_KEYVAULT_UNAUTHORIZED", "AKV10000: Request is missing a Bearer or PoP token.");
  const { issuers, audiences, keys, clock } = context;
  try {
    const known = keys.memory.get(text);
    const unverified = known?.token ?? parseToken(text);
    const { iss } = unverified.claims;
    const issuer = issuers.find((candidate) => typeof iss === "string" && trimSlash(candidate.issuer) === trimSlash(iss));
    if (issuer === undefined) {
      const expected = issuers.map((candidate) => candidate.issuer).join(", ");
      throw unauthorized(`AKV10032: Invalid issuer. Expected one of ${expected}, found ${encodeJson(iss ?? null).slice(0, 300)}.`);
    }
    checkUse(unverified.header, unverified.claims);
    const token = known === undefined ? unverified : { ...unverified, token: text };
    const { claims, key } = await verifyToken(token, { issuer: issuer.issuer, role: "caller", keys, clock, verifiedWith: known?.key });
    if (key !== known?.key) keys.memory.add(token, key);
    checkAudience(claims, audiences);
    return callerOf(claims, issuer);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_KEYVAULT_TOKEN") throw cause;
    throw unauthorized(`Invalid bearer token: ${cause.message}.`, cause);
  }
}

function checkUse({ typ }: JsonObject, claims: JsonObject): void {
  if (typ !== undefined && (typeof typ !== "string" || !ACCESS_TOKEN_TYPES.includes(typ.toLowerCase()))) {
    throw tokenError(`its type is ${encodeJson(typ).slice(0, 100)}, expected "JWT" or "at+jwt"`);
  }
  const claim = ID_TOKEN_CLAIMS.find((name) => name in claims);
  if (claim !== undefined) throw tokenError(`it has the claim ${claim} of an id token, expected an access token`);
}

function checkAudience({ aud }: JsonObject, audiences: readonly string[]): void {
  const found = audiencesOf(aud);
  if (found?.some((value) => audiences.includes(trimSlash(value))) === true) return;
  throw unauthorized(`AKV10022: Invalid audience. Expected ${audiences.join(", ")}, found: ${(found?.join(", ") ?? encodeJson(aud ?? null)).slice(0, 300)}.`);
}

function callerOf(claims: JsonObject, issuer: TokenIssuer): Caller {
  const { tid } = claims;
  // An issuer speaks for its own tenant only: otherwise one tenant could name the principals of another.
  if (typeof tid !== "string" || tid.toLowerCase() !== issuer.tenantId.toLowerCase()) {
    throw unauthorized(`Invalid bearer token: its tid is ${encodeJson(tid ?? null).slice(0, 100)}, expected ${issuer.tenantId}.`);
  }
  const [appid, azp, oid] = (["appid", "azp", "oid"] as const).map((name) => principalOf(claims, name));
  // v1 tokens have the one, v2 tokens the other. One that has both, and not the same, leaves open who calls.
  if (appid !== undefined && azp !== undefined && appid !== azp) throw unauthorized("Invalid bearer token: its appid and azp are not the same.");
  const caller = { tenantId: issuer.tenantId, appid: appid ?? azp ?? "", isApp: isAppToken(claims), oid: oid ?? "", issuer: issuer.issuer };
  if (caller.appid === "" && caller.oid === "") {
    throw unauthorized("Invalid bearer token: it names neither an application (appid) nor an object (oid).");
  }
  return caller;
}

/**
 * Whether a token is an application's own: it has no `scp` (what a user delegated), and says so (`idtyp` "app"), or says nothing and has nobody else as subject. In Entra's tokens for
 * applications `sub` is `oid`, in those for users the two differ; of other issuers `sub` is the application, or is not there.
 */
function isAppToken({ scp, idtyp, sub, oid, appid, azp }: JsonObject): boolean {
  if (scp !== undefined || (idtyp !== undefined && idtyp !== "app")) return false;
  return idtyp === "app" || sub === undefined || sub === (oid ?? appid ?? azp);
}

function principalOf(claims: JsonObject, name: "appid" | "azp" | "oid"): string | undefined {
  const value = claims[name];
  if (value !== undefined && typeof value !== "string")
    throw unauthorized(`Invalid bearer token: its ${name} is ${encodeJson(value).slice(0, 100)}, expected a text.`);
  return value;
}

function unauthorized(message: string, cause?: unknown): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_UNAUTHORIZED", message, { cause });
}

/** The `WWW-Authenticate` header; no spaces in values and ", " between pairs, because the genuine clients split it there. */
export function challenge(issuer: TokenIssuer, resource: string, refused: boolean): string {
  return `Bearer authorization="${issuer.authorization}", resource="${resource}"${refused ? ', error="invalid_token"' : ""}`;
}
