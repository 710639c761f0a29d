import { asArray, encodeJson, isSealpodError, type Clock, type JsonObject } from "@sealpod/core";
import { KeyvaultError } from "./errors.ts";
import { trimSlash, type IssuerKeys } from "./issuer-keys.ts";
import { parseToken, verifyToken } from "./token.ts";

/** A tenant whose access tokens the vaults accept. */
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
  /** Application id: `appid`, or `azp` of v2 tokens; "" if the token has neither. */
  readonly appid: string;
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

/**
 * Verifies the bearer token of a request (specs/attestation.md 7.2).
 * @param authorization the Authorization header
 * @throws {KeyvaultError} ERR_KEYVAULT_UNAUTHORIZED, ERR_KEYVAULT_ISSUER
 */
export async function verifyBearer(context: BearerContext, authorization: string | undefined): Promise<Caller> {
  const token = /^Bearer +([A-Za-z0-9._~+/=-]+)$/i.exec(authorization ?? "")?.[1];
  if (token === undefined) throw new KeyvaultError("ERR_KEYVAULT_UNAUTHORIZED", "AKV10000: Request is missing a Bearer or PoP token.");
  try {
    const unverified = parseToken(token);
    const { iss } = unverified.claims;
    const issuer = context.issuers.find((candidate) => typeof iss === "string" && trimSlash(candidate.issuer) === trimSlash(iss));
    if (issuer === undefined) {
      const expected = context.issuers.map((candidate) => candidate.issuer).join(", ");
      throw new KeyvaultError(
        "ERR_KEYVAULT_UNAUTHORIZED",
        `AKV10032: Invalid issuer. Expected one of ${expected}, found ${encodeJson(iss ?? null).slice(0, 300)}.`,
      );
    }
    const { claims } = await verifyToken(unverified, issuer.issuer, context.keys, context.clock);
    checkAudience(claims, context.audiences);
    return callerOf(claims, issuer);
  } catch (cause) {
    if (!isSealpodError(cause) || cause.code !== "ERR_KEYVAULT_TOKEN") throw cause;
    throw new KeyvaultError("ERR_KEYVAULT_UNAUTHORIZED", `Invalid bearer token: ${cause.message}.`, { cause });
  }
}

function checkAudience(claims: JsonObject, audiences: readonly string[]): void {
  const { aud } = claims;
  const found = typeof aud === "string" ? [aud] : (asArray(aud) ?? []);
  if (!found.some((value) => typeof value === "string" && audiences.includes(trimSlash(value)))) {
    throw new KeyvaultError(
      "ERR_KEYVAULT_UNAUTHORIZED",
      `AKV10022: Invalid audience. Expected ${audiences.join(", ")}, found: ${found
        .map((value) => (typeof value === "string" ? value : encodeJson(value)))
        .join(", ")
        .slice(0, 300)}.`,
    );
  }
}

function callerOf(claims: JsonObject, issuer: TokenIssuer): Caller {
  const { tid, oid } = claims;
  // An issuer speaks for its own tenant only: otherwise one tenant could name the principals of another.
  if (typeof tid !== "string" || tid.toLowerCase() !== issuer.tenantId.toLowerCase()) {
    throw new KeyvaultError(
      "ERR_KEYVAULT_UNAUTHORIZED",
      `Invalid bearer token: its tid is ${encodeJson(tid ?? null).slice(0, 100)}, expected ${issuer.tenantId}.`,
    );
  }
  const appid = claims["appid"] ?? claims["azp"];
  const caller = { tenantId: issuer.tenantId, appid: typeof appid === "string" ? appid : "", oid: typeof oid === "string" ? oid : "", issuer: issuer.issuer };
  if (caller.appid === "" && caller.oid === "") {
    throw new KeyvaultError("ERR_KEYVAULT_UNAUTHORIZED", "Invalid bearer token: it names neither an application (appid) nor an object (oid).");
  }
  return caller;
}

/** The `WWW-Authenticate` header; no spaces in values and ", " between pairs, because the genuine clients split it there. */
export function challenge(issuer: TokenIssuer, resource: string, refused: boolean): string {
  return `Bearer authorization="${issuer.authorization}", resource="${resource}"${refused ? ', error="invalid_token"' : ""}`;
}
