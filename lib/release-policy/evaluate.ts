import { asObject, encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import type { AuthorityPolicy, Condition, PolicyScalar, ReleasePolicy } from "./policy.ts";

/** What the evaluation found about one condition. */
export interface ClaimFinding {
  readonly authority: string;
  readonly claim: string;
  readonly expected: string;
  /** JSON text of the claim, at most 200 characters, of an object or list its brackets; undefined if the token has none. */
  readonly found: string | undefined;
  readonly matched: boolean;
}

/** The outcome of {@link evaluateReleasePolicy}. */
export interface PolicyEvaluation {
  readonly satisfied: boolean;
  /** Every claim condition of the authorities that fit, in the order of the policy: no short cuts, so that the owner sees all that failed. */
  readonly findings: readonly ClaimFinding[];
}

/** Characters of a claim that go into the audit. */
const MAX_FOUND = 200;

/** The authorities of a policy that a token with this `iss` may satisfy. */
export function authoritiesFor(policy: ReleasePolicy, issuer: string): readonly AuthorityPolicy[] {
  return policy.anyOf.filter((item) => trimSlash(item.authority) === trimSlash(issuer));
}

/**
 * Evaluates the conditions of some authorities over the claims of a token that one of them issued.
 * @param claims verified claims
 */
export function evaluateReleasePolicy(authorities: readonly AuthorityPolicy[], claims: JsonObject): PolicyEvaluation {
  const findings: ClaimFinding[] = [];
  // No `some`: every condition is looked at, see PolicyEvaluation.
  const outcomes = authorities.map((item) => evaluate(item.condition, item.authority, claims, findings));
  return { satisfied: outcomes.includes(true), findings };
}

function evaluate(condition: Condition, authority: string, claims: JsonObject, findings: ClaimFinding[]): boolean {
  if (condition.kind !== "claim") {
    const outcomes = condition.conditions.map((item) => evaluate(item, authority, claims, findings));
    return condition.kind === "allOf" ? !outcomes.includes(false) : outcomes.includes(true);
  }
  const value = findClaim(claims, condition.claim);
  const matched = value !== undefined && equalsClaim(condition.equals, value);
  const found = value === undefined ? undefined : showClaim(value);
  findings.push({ authority, claim: condition.claim, expected: encodeJson(condition.equals), found, matched });
  return matched;
}

/** Text of a claim for the owner. Objects are not written out: they can be as large as the token, for each of the conditions. */
function showClaim(value: JsonValue): string {
  if (typeof value === "string") return encodeJson(value.slice(0, MAX_FOUND)).slice(0, MAX_FOUND);
  if (value !== null && typeof value === "object") return Array.isArray(value) ? "[…]" : "{…}";
  return encodeJson(value).slice(0, MAX_FOUND);
}

/** The claim at a dotted path through objects, or undefined. */
export function findClaim(claims: JsonObject, path: string): JsonValue | undefined {
  let value: JsonValue | undefined = claims;
  for (const name of path.split(".")) {
    const object = asObject(value);
    value = object !== undefined && Object.hasOwn(object, name) ? object[name] : undefined;
  }
  return value;
}

/**
 * A string in the policy equals the text of a boolean or integer claim too: the genuine service takes `"true"` for `true`, and
 * every policy of the field is written so. A boolean or number in the policy equals that type alone.
 */
export function equalsClaim(expected: PolicyScalar, claim: JsonValue): boolean {
  if (typeof expected !== "string") return claim === expected;
  if (typeof claim === "string") return claim === expected;
  if (typeof claim === "boolean" || typeof claim === "bigint") return String(claim) === expected;
  return typeof claim === "number" && Number.isSafeInteger(claim) && String(claim) === expected;
}

/** The URL without one trailing slash: the one difference that issuers are allowed. */
export function trimSlash(url: string): string {
  return url.endsWith("/") ? url.slice(0, -1) : url;
}
