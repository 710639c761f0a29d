import { createHash, timingSafeEqual } from "node:crypto";
import { open } from "node:fs/promises";
import { createRemoteJWKSet, customFetch, decodeJwt, errors, jwtVerify, type JWTPayload } from "jose";
import { messageOf, type Clock } from "@sealpod/core";
import { ServiceError } from "@sealpod/service";
import type { ManagementAccess, ManagementVerdict } from "./management.ts";
import type { AttestationSettings, ManagementIssuer } from "./server-settings.ts";

/** Characters of a bearer token of an operator: 128 bits need 22 of base64. */
const MIN_TOKEN = 32;
const MAX_TOKEN_FILE = 4096;
/** Claims that name who a token is for, the surest first. */
const SUBJECT_CLAIMS = ["oid", "appid", "azp", "sub"] as const;
/** What tokens are for if only a token file is configured. */
const NO_AUTHORITY = "urn:sealpod:operator";
/** Milliseconds. A key set that does not come within it fails the request. */
const KEYS_TIME = 5000;

/**
 * Who may manage policies, as configured; undefined if nobody may.
 * @throws {ServiceError} ERR_SERVICE_CONFIG for a token file that is no use or that others can read
 */
export async function openManagement(
  management: AttestationSettings["management"],
  { clock, fetch }: { readonly clock: Clock; readonly fetch: (url: string, init: RequestInit) => Promise<Response> },
): Promise<ManagementAccess | undefined> {
  const { tokenFile, issuers } = management;
  if (tokenFile === undefined && issuers.length === 0) return undefined;
  const operator = tokenFile === undefined ? undefined : digest(await readToken(tokenFile));
  const known = new Map(
    issuers.map((entry) => [entry.issuer, { entry, keys: createRemoteJWKSet(new URL(entry.keys), { timeoutDuration: KEYS_TIME, [customFetch]: fetch }) }]),
  );
  return {
    authority: management.authority ?? issuers[0]?.issuer ?? NO_AUTHORITY,
    ...(issuers[0] === undefined ? {} : { resource: issuers[0].audience }),
    async authenticate(token) {
      // Compared by hash: neither length nor time tells how much of it was right.
      if (operator !== undefined && timingSafeEqual(digest(token), operator)) return { kind: "allowed", subject: "operator" };
      const issuer = issuerOf(token);
      const found = issuer === undefined ? undefined : known.get(issuer);
      if (found === undefined) return { kind: "refused", problem: "the token is of no issuer that this service accepts" };
      return verdict(token, found.entry, found.keys, clock);
    },
  };
}

async function verdict(token: string, entry: ManagementIssuer, keys: ReturnType<typeof createRemoteJWKSet>, clock: Clock): Promise<ManagementVerdict> {
  let payload: JWTPayload;
  try {
    ({ payload } = await jwtVerify(token, keys, {
      issuer: entry.issuer,
      audience: entry.audience,
      algorithms: ["RS256", "PS256", "ES256", "ES384"],
      requiredClaims: ["exp"],
      currentDate: new Date(clock.now()),
    }));
  } catch (error) {
    // A key set that does not come is the service's trouble, not the token's.
    if (!(error instanceof errors.JOSEError) || error instanceof errors.JWKSTimeout || error instanceof errors.JWKSInvalid) throw error;
    return { kind: "refused", problem: messageOf(error) };
  }
  const ids = SUBJECT_CLAIMS.map((claim) => payload[claim]).filter((id) => typeof id === "string");
  const subject = ids.find((id) => entry.subjects.includes(id));
  if (subject !== undefined) return { kind: "allowed", subject };
  return { kind: "forbidden", subject: ids[0] ?? "nobody", problem: "the token is accepted, and its holder is not among those who manage this service" };
}

function issuerOf(token: string): string | undefined {
  try {
    return decodeJwt(token).iss;
  } catch {
    return undefined;
  }
}

async function readToken(file: string): Promise<string> {
  try {
    await using handle = await open(file, "r");
    const { mode, size } = await handle.stat();
    if ((mode & 0o077) !== 0) {
      throw new ServiceError("ERR_SERVICE_CONFIG", `the bearer token ${file} has mode 0${(mode & 0o777).toString(8)}: others have access to it`, {
        hint: `chmod 600 ${file}; if others may have read it, make a new token.`,
      });
    }
    const token = size > MAX_TOKEN_FILE ? "" : (await handle.readFile("latin1")).trim();
    if (!/^[A-Za-z0-9._~+/=-]+$/.test(token) || token.length < MIN_TOKEN) {
      throw new ServiceError("ERR_SERVICE_CONFIG", `${file} holds no bearer token: expected ${MIN_TOKEN} or more letters, digits, or any of . _ ~ + / = -`, {
        hint: "Make one with: (umask 077; openssl rand -hex 32 > token)",
      });
    }
    return token;
  } catch (cause) {
    if (cause instanceof ServiceError) throw cause;
    throw new ServiceError("ERR_SERVICE_CONFIG", `the bearer token cannot be read: ${messageOf(cause)}`, { cause });
  }
}

function digest(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
