import { asArray, asObject, decodeUtf8, encodeJson, encodeUtf8, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { ReleasePolicyError } from "./errors.ts";
import { withoutTrailingCommas } from "./trailing-comma.ts";

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

/** Policies of the field are below 2 KiB. Holds for the text and for its canonical form, which can be longer, and has to be readable again when the key is released. */
const MAX_POLICY = 64 * 1024;
/** More than a policy can gain in canonical form: two bytes of the version, and of each condition a number such as `1e15` that is written out. */
const MAX_GROWTH = 8 * 1024;
/** The published grammar nests combinations without saying how deep. */
const MAX_DEPTH = 8;
const MAX_CONDITIONS = 256;
const MAX_CLAIM_NAME = 512;
/** Of what an error shows of the text. */
const MAX_SHOWN = 200;
const VERSIONS: readonly string[] = ["1.0.0", "1.0", "0.2"];

/**
 * Parses the JSON text of a release policy (specs/attestation.md 6.2): at most 64 KiB, 256 conditions, 8 levels. Members that the grammar does not know are refused: the author may
 * have meant them to restrict. A comma before a closing bracket is allowed, as the genuine service allows it: policies of published demos have one. Nothing else departs from strict JSON.
 * @throws {ReleasePolicyError} ERR_RELEASE_POLICY with the JSON path, or line and column, of what is wrong
 */
export function parseReleasePolicy(bytes: Uint8Array): ReleasePolicy {
  if (bytes.length > MAX_POLICY) throw policyError("$", `${bytes.length} bytes, more than the limit of ${MAX_POLICY}`);
  const value = parseText(bytes);
  const object = requireObject(value, "$", ["version", "anyOf"]);
  if (typeof object["version"] !== "string" || !VERSIONS.includes(object["version"])) throw policyError("$.version", `expected one of ${VERSIONS.join(", ")}`);
  const budget = { conditions: 0 };
  const policy = { anyOf: requireList(object["anyOf"], "$.anyOf").map((item, index) => parseAuthority(item, `$.anyOf[${index}]`, budget)) };
  if (bytes.length > MAX_POLICY - MAX_GROWTH) {
    const { length } = encodeReleasePolicy(policy);
    if (length > MAX_POLICY) throw policyError("$", `${length} bytes in canonical form, more than the limit of ${MAX_POLICY}`);
  }
  return policy;
}

function parseText(bytes: Uint8Array): JsonValue {
  try {
    const text = decodeUtf8(bytes, "release_policy");
    try {
      return parseJson(text, "release_policy");
    } catch (cause) {
      // Stored policies are canonical: only those that come in are looked through for commas.
      const strict = withoutTrailingCommas(text);
      if (strict === text) throw cause;
      return parseJson(strict, "release_policy");
    }
  } catch (cause) {
    throw new ReleasePolicyError("ERR_RELEASE_POLICY", `The release policy is not strict JSON: ${messageOf(cause)}`, { cause, details: { path: "$" } });
  }
}

function parseAuthority(value: JsonValue, path: string, budget: { conditions: number }): AuthorityPolicy {
  const object = requireObject(value, path, ["authority", "allOf", "anyOf"]);
  const { authority } = object;
  if (typeof authority !== "string" || !isAuthority(authority)) {
    throw policyError(`${path}.authority`, `expected an https URL without query, fragment or user, found ${encodeJson(authority ?? null).slice(0, MAX_SHOWN)}`);
  }
  return { authority, condition: parseCombination(object, path, 1, budget) };
}

/** An https URL that is written the way it is read: the parser of URLs drops white space and line breaks, and takes `\` for `/`. */
export function isAuthority(text: string): boolean {
  return /^https:\/\/[^\s\\?#@]+$/.test(text) && URL.canParse(text);
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
  return new ReleasePolicyError("ERR_RELEASE_POLICY", `The release policy is not valid at ${path}: ${problem}.`, { details: { path } });
}
