import { asArray, encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";

/** Kinds of a claim's value. */
export const VALUE_TYPES = ["String", "Integer", "Boolean"] as const;

/** One of {@link VALUE_TYPES}. */
export type PolicyValueType = (typeof VALUE_TYPES)[number];

/** Who may have made a claim: the service from the evidence, the policy, or the caller. */
export const CLAIM_ISSUERS = ["AttestationService", "AttestationPolicy", "CustomClaim"] as const;

/** One of {@link CLAIM_ISSUERS}. */
export type PolicyClaimIssuer = (typeof CLAIM_ISSUERS)[number];

/** Value of a claim; an integer is a `bigint` exactly where a `number` would not be exact, so equal values are `===`. */
export type PolicyValue = string | number | bigint | boolean;

/** A claim that a policy reads or makes. */
export interface PolicyClaim {
  readonly type: string;
  readonly value: PolicyValue;
  readonly valueType: PolicyValueType;
  readonly issuer: PolicyClaimIssuer;
}

/** RFC 7519 section 4.1 and RFC 7800: what the service says about the token itself. A policy over the time of a request would judge the clock, not the evidence. */
const TOKEN_CLAIMS: ReadonlySet<string> = new Set(["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf"]);

/** What else is the service's to say. `nonce` is the caller's proof of freshness. */
const SERVICE_CLAIMS = /^(?:x-ms-|x-sealpod-|nonce$)/;

/**
 * True for a claim that no policy may issue in its own words: those of the token itself, and all names of the service (`x-ms-…`, `x-sealpod-…`, `nonce`), in any
 * letter case. Else a policy could write `x-ms-sevsnpvm-hostdata` into a token, and a key would be released to any pod.
 */
export function isReservedClaim(type: string): boolean {
  // Readers differ in what they take for the same name: letter case, white space, characters that compatibility forms fold.
  const name = type.normalize("NFKC").toLowerCase().trim();
  return TOKEN_CLAIMS.has(name) || SERVICE_CLAIMS.test(name) || name === "__proto__";
}

/** The kind of a value. */
export function valueTypeOf(value: PolicyValue): PolicyValueType {
  return typeof value === "string" ? "String" : typeof value === "boolean" ? "Boolean" : "Integer";
}

/** The value in the one form that it has: safe integers are numbers. */
export function normalValue(value: PolicyValue): PolicyValue {
  if (typeof value !== "bigint") return value;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/**
 * The claims of a token, or those that the service is about to write into one, as a policy sees them: issuer `AttestationService`.
 *
 * Strings, integers and booleans are themselves; a list of these is one claim for each; anything else (the object `x-ms-runtime`, a fraction, null) is its JSON
 * text, for `JmesPath`. Claims about the token itself (`iss`, `exp`, `nbf`, `iat`, `jti`, `sub`, `aud`, `cnf`) are left out.
 */
export function claimsOfToken(claims: JsonObject): readonly PolicyClaim[] {
  return Object.entries(claims).flatMap(([type, value]) => (TOKEN_CLAIMS.has(type) ? [] : claimValues(value).map((item) => serviceClaim(type, item))));
}

function claimValues(value: JsonValue): readonly PolicyValue[] {
  const list = asArray(value);
  if (list !== undefined && list.length > 0 && list.every(isPolicyValue)) return list;
  return [isPolicyValue(value) ? value : encodeJson(value)];
}

function isPolicyValue(value: JsonValue): value is PolicyValue {
  return typeof value === "string" || typeof value === "boolean" || typeof value === "bigint" || Number.isSafeInteger(value);
}

function serviceClaim(type: string, value: PolicyValue): PolicyClaim {
  return { type, value: normalValue(value), valueType: valueTypeOf(value), issuer: "AttestationService" };
}

/** Issued claims as members of a token: several of one type are a list, in the order in which they were issued. */
export function issuedClaims(claims: readonly PolicyClaim[]): JsonObject {
  const lists = new Map<string, PolicyValue[]>();
  for (const { type, value } of claims) {
    const list = lists.get(type);
    if (list === undefined) lists.set(type, [value]);
    else if (!list.includes(value)) list.push(value);
  }
  const object = Object.create(null) as Record<string, JsonValue>;
  for (const [type, list] of lists) object[type] = list.length === 1 ? (list[0] ?? null) : list;
  return object;
}
