import { asArray, asObject, decodeUtf8, encodeJson, encodeUtf8, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { badParameter } from "./errors.ts";
import { trimSlash } from "./issuer-keys.ts";

/** What a condition can compare a claim with. */
export type PolicyScalar = string | boolean | number | bigint;

/** A condition on one claim. */
export interface ClaimCondition {
  readonly kind: "claim";
  /** Name, or names joined by dots that lead through objects. */
  readonly claim: string;
  readonly equals: PolicyScalar;
}

/** All, or at least one, of some conditions; never empty, because an empty `allOf` would be true of every token. */
export interface Combination {
  readonly kind: "allOf" | "anyOf";
  readonly conditions: readonly Condition[];
}

/** A condition of a release policy. */
export type Condition = ClaimCondition | Combination;

/** The conditions on tokens of one authority. */
export interface AuthorityPolicy {
  /** https URL as the policy has it; equals the `iss` of its tokens but for one trailing slash. */
  readonly authority: string;
  readonly condition: Combination;
}

/** A release policy (specs/attestation.md 6.2): the key goes to a token that satisfies one of these. */
export interface ReleasePolicy {
  readonly anyOf: readonly AuthorityPolicy[];
}

/** What the evaluation found about one condition. */
export interface ClaimFinding {
  readonly authority: string;
  readonly claim: string;
  readonly expected: string;
  /** JSON text of the claim, cut to a line; undefined if the token has none. */
  readonly found: string | undefined;
  readonly matched: boolean;
}

/** The outcome of {@link evaluateReleasePolicy}. */
export interface PolicyEvaluation {
  readonly satisfied: boolean;
  /** Every claim condition of the authorities that fit, in the order of the policy: no short cuts, so that the owner sees all that failed. */
  readonly findings: readonly ClaimFinding[];
}

/** Policies of the field are below 2 KiB. */
const MAX_POLICY = 64 * 1024;
/** The published grammar nests combinations without saying how deep. */
const MAX_DEPTH = 8;
const MAX_CONDITIONS = 256;
const MAX_CLAIM_NAME = 512;
/** The claim value that goes into the audit. */
const MAX_FOUND = 200;
const VERSIONS: readonly string[] = ["1.0.0", "1.0", "0.2"];

/**
 * Parses the JSON text of a release policy. Members that the grammar does not know are refused: the author may have meant them to restrict.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseReleasePolicy(bytes: Uint8Array): ReleasePolicy {
  if (bytes.length > MAX_POLICY) throw policyError("$", `${bytes.length} bytes, more than the limit of ${MAX_POLICY}`);
  let value: JsonValue;
  try {
    value = parseJson(decodeUtf8(bytes, "release_policy"), "release_policy");
  } catch (cause) {
    throw badParameter(`The release policy is not strict JSON: ${messageOf(cause)}`, "AKV.SKR.PolicyFormat", cause);
  }
  const policy = requireObject(value, "$", ["version", "anyOf"]);
  if (typeof policy["version"] !== "string" || !VERSIONS.includes(policy["version"])) throw policyError("$.version", `expected one of ${VERSIONS.join(", ")}`);
  const budget = { conditions: 0 };
  return { anyOf: requireList(policy["anyOf"], "$.anyOf").map((item, index) => parseAuthority(item, `$.anyOf[${index}]`, budget)) };
}

function parseAuthority(value: JsonValue, path: string, budget: { conditions: number }): AuthorityPolicy {
  const object = requireObject(value, path, ["authority", "allOf", "anyOf"]);
  const { authority } = object;
  if (typeof authority !== "string" || !isAuthority(authority)) {
    throw policyError(`${path}.authority`, `expected an https URL without query, fragment or user, found ${encodeJson(authority ?? null).slice(0, MAX_FOUND)}`);
  }
  return { authority, condition: parseCombination(object, path, 1, budget) };
}

function isAuthority(text: string): boolean {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  return url?.protocol === "https:" && url.search === "" && url.hash === "" && url.username === "" && url.password === "" && !/[?#]/.test(text);
}

function parseCombination(object: JsonObject, path: string, depth: number, budget: { conditions: number }): Combination {
  if (depth > MAX_DEPTH) throw policyError(path, `nested deeper than ${MAX_DEPTH}`);
  const kind = "allOf" in object ? "allOf" : "anyOf";
  if ("allOf" in object && "anyOf" in object) throw policyError(path, "both allOf and anyOf, expected one of them");
  const conditions = requireList(object[kind], `${path}.${kind}`).map((item, index) => parseCondition(item, `${path}.${kind}[${index}]`, depth + 1, budget));
  return { kind, conditions };
}

function parseCondition(value: JsonValue, path: string, depth: number, budget: { conditions: number }): Condition {
  budget.conditions++;
  if (budget.conditions > MAX_CONDITIONS) throw policyError(path, `more than ${MAX_CONDITIONS} conditions`);
  const object = requireObject(value, path, ["claim", "equals", "condition", "value", "allOf", "anyOf"]);
  const isClaim = "claim" in object;
  const allowed = isClaim ? ["claim", "equals", "condition", "value"] : ["allOf", "anyOf"];
  requireObject(object, path, allowed);
  if (!isClaim) return parseCombination(object, path, depth, budget);
  const { claim } = object;
  if (typeof claim !== "string" || claim.length > MAX_CLAIM_NAME || claim.split(".").includes("")) {
    throw policyError(`${path}.claim`, "expected names joined by dots");
  }
  // The older form is {"claim", "condition": "equals", "value"}.
  const isOld = "condition" in object || "value" in object;
  if (isOld && ("equals" in object || object["condition"] !== "equals")) throw policyError(path, 'expected "equals", or "condition": "equals" with "value"');
  const equals = isOld ? object["value"] : object["equals"];
  if (equals === undefined || equals === null || typeof equals === "object" || (typeof equals === "number" && !Number.isSafeInteger(equals))) {
    throw policyError(`${path}.${isOld ? "value" : "equals"}`, "expected a string, a boolean or an integer");
  }
  return { kind: "claim", claim, equals };
}

/** The canonical text that is stored and given back: version 1.0.0, no white space, members in the order of the grammar. */
export function encodeReleasePolicy(policy: ReleasePolicy): Uint8Array {
  const anyOf = policy.anyOf.map((item): JsonObject => ({ authority: item.authority, ...conditionJson(item.condition) }));
  return encodeUtf8(encodeJson({ version: "1.0.0", anyOf }));
}

function conditionJson(condition: Condition): JsonObject {
  if (condition.kind === "claim") return { claim: condition.claim, equals: condition.equals };
  return { [condition.kind]: condition.conditions.map(conditionJson) };
}

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
  const found = value === undefined ? undefined : encodeJson(value).slice(0, MAX_FOUND);
  findings.push({ authority, claim: condition.claim, expected: encodeJson(condition.equals), found, matched });
  return matched;
}

function findClaim(claims: JsonObject, path: string): JsonValue | undefined {
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
function equalsClaim(expected: PolicyScalar, claim: JsonValue): boolean {
  if (typeof expected !== "string") return claim === expected;
  if (typeof claim === "string") return claim === expected;
  if (typeof claim === "boolean" || typeof claim === "bigint") return String(claim) === expected;
  return typeof claim === "number" && Number.isSafeInteger(claim) && String(claim) === expected;
}

function requireObject(value: JsonValue, path: string, allowed: readonly string[]): JsonObject {
  const object = asObject(value);
  if (object === undefined) throw policyError(path, "expected an object");
  for (const name of Object.keys(object)) if (!allowed.includes(name)) throw policyError(path, `unexpected member ${JSON.stringify(name.slice(0, 100))}`);
  return object;
}

function requireList(value: JsonValue | undefined, path: string): readonly JsonValue[] {
  const list = asArray(value);
  if (list === undefined || list.length === 0) throw policyError(path, "expected a list of at least one");
  return list;
}

function policyError(path: string, problem: string): Error {
  return badParameter(`The release policy is not valid at ${path}: ${problem}.`, "AKV.SKR.PolicyFormat");
}
