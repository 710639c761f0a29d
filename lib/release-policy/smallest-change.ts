import { asObject, encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { equalsClaim, findClaim, trimSlash } from "./evaluate.ts";
import { isAuthority, type AuthorityPolicy, type ClaimCondition, type Combination, type Condition, type PolicyScalar, type ReleasePolicy } from "./policy.ts";

/** One change to a policy; `path` is the JSON path of what changes. */
export type PolicyEdit =
  | { readonly kind: "authority"; readonly path: string; readonly from: string; readonly to: string }
  | { readonly kind: "equals"; readonly path: string; readonly claim: string; readonly from: PolicyScalar; readonly to: PolicyScalar }
  /** The token has no value that a condition could name. A combination that is left empty goes with its last condition. */
  | { readonly kind: "remove"; readonly path: string; readonly claim: string; readonly from: PolicyScalar };

/** One change to a token, which is to say, to the pod that it speaks of. */
export type ClaimEdit =
  | { readonly kind: "authority"; readonly from: string; readonly to: string }
  /** `from` is undefined if the token has no such claim. */
  | { readonly kind: "claim"; readonly claim: string; readonly from: JsonValue | undefined; readonly to: PolicyScalar };

/** What {@link smallestChange} finds. */
export interface SmallestChange {
  /** The fewest changes to the policy, and the policy with them; undefined if no change to single conditions is enough. */
  readonly toPolicy: { readonly edits: readonly PolicyEdit[]; readonly policy: ReleasePolicy } | undefined;
  /** The fewest changes to the token; undefined if the policy contradicts itself. */
  readonly toClaims:
    | {
        readonly edits: readonly ClaimEdit[];
        /** Whether fewer cannot be enough; false only when a policy combines so many alternatives that not all were looked at. */
        readonly exact: boolean;
      }
    | undefined;
}

/**
 * Alternatives of one combination that are kept. Only claims that a policy names more than once make for more than one; to be exact beyond it would be to solve a problem (hitting set)
 * whose time grows exponentially.
 */
const MAX_ALTERNATIVES = 64;

/**
 * The fewest changes with which a token satisfies a policy: of the policy's conditions for a given token, and of the token's claims for a given policy. Both are empty if it does already.
 * Of equally small changes the first in the order of the policy is given, and one that keeps the authority before one that does not.
 * Whether a changed policy is still worth having is not for this function to say: see `anyoneCanSatisfy`.
 * @param claims need not be verified
 * @param issuer the `iss` of the token
 */
export function smallestChange(policy: ReleasePolicy, claims: JsonObject, issuer: string): SmallestChange {
  return { toPolicy: changePolicy(policy, claims, issuer), toClaims: changeClaims(policy, claims, issuer) };
}

/** The claims with the changes made; changes of authority change nothing in them. */
export function applyClaimEdits(claims: JsonObject, edits: readonly ClaimEdit[]): JsonObject {
  let result = claims;
  for (const edit of edits) if (edit.kind === "claim") result = withClaim(result, edit.claim.split("."), edit.to);
  return result;
}

/** A line about a change, for people. */
export function describeEdit(edit: PolicyEdit | ClaimEdit): string {
  switch (edit.kind) {
    case "authority":
      return "path" in edit ? `${edit.path}.authority: ${edit.to} instead of ${edit.from}` : `a token of ${edit.to} instead of ${edit.from}`;
    case "equals":
      return `${edit.path}: ${edit.claim} = ${encodeJson(edit.to)} instead of ${encodeJson(edit.from)}`;
    case "remove":
      return `${edit.path}: no condition on ${edit.claim}, which the token does not have as a text, boolean or integer`;
    case "claim":
      return `${edit.claim}: ${encodeJson(edit.to)} instead of ${edit.from === undefined ? "nothing" : encodeJson(edit.from).slice(0, 200)}`;
  }
}

// --- changes to the policy ---

/** A way to change a condition: how many edits, which, and what is left of it. */
interface Change<T> {
  readonly edits: readonly PolicyEdit[];
  readonly result: T;
}

function changePolicy(policy: ReleasePolicy, claims: JsonObject, issuer: string): SmallestChange["toPolicy"] {
  let best: { readonly change: Change<AuthorityPolicy>; readonly index: number } | undefined;
  // Those of the token's own authority first: of equals the first is taken.
  for (const own of [true, false]) {
    for (const [index, item] of policy.anyOf.entries()) {
      if ((trimSlash(item.authority) === trimSlash(issuer)) !== own || (!own && !isAuthority(issuer))) continue;
      const path = `$.anyOf[${index}]`;
      const change = changeCombination(item.condition, path, claims);
      if (change === undefined) continue;
      const edits: readonly PolicyEdit[] = own ? change.edits : [{ kind: "authority", path, from: item.authority, to: issuer }, ...change.edits];
      const authority = own ? item.authority : issuer;
      if (best === undefined || edits.length < best.change.edits.length) best = { change: { edits, result: { authority, condition: change.result } }, index };
    }
  }
  if (best === undefined) return undefined;
  const { change, index } = best;
  return { edits: change.edits, policy: { anyOf: policy.anyOf.with(index, change.result) } };
}

function changeCondition(condition: Condition, path: string, claims: JsonObject): Change<Condition> | undefined {
  return condition.kind === "claim" ? changeClaim(condition, path, claims) : changeCombination(condition, path, claims);
}

function changeClaim(condition: ClaimCondition, path: string, claims: JsonObject): Change<ClaimCondition> | undefined {
  const { claim, equals: from } = condition;
  const value = findClaim(claims, claim);
  if (value === undefined) return undefined;
  if (equalsClaim(from, value)) return { edits: [], result: condition };
  const to = scalarOf(value, from);
  return to === undefined ? undefined : { edits: [{ kind: "equals", path, claim, from, to }], result: { ...condition, equals: to } };
}

/** The fewest edits after which a combination is true, by the fewest of its parts. */
function changeCombination(condition: Combination, path: string, claims: JsonObject): Change<Combination> | undefined {
  const parts = condition.conditions.map((item, index) => {
    const place = `${path}.${condition.kind}[${index}]`;
    return { item, place, change: changeCondition(item, place, claims) };
  });
  if (condition.kind === "anyOf") {
    let best: { readonly change: Change<Condition>; readonly index: number } | undefined;
    for (const [index, { change }] of parts.entries()) {
      if (change !== undefined && (best === undefined || change.edits.length < best.change.edits.length)) best = { change, index };
    }
    return best === undefined
      ? undefined
      : { edits: best.change.edits, result: { ...condition, conditions: condition.conditions.with(best.index, best.change.result) } };
  }
  // A part is made true, or taken away if that is less. One at least has to stay: an empty allOf is true of every token, and no policy.
  const isGone = parts.map(({ item, change }) => change === undefined || change.edits.length > sizeOf(item));
  if (!isGone.includes(false)) {
    let kept: { readonly index: number; readonly cost: number } | undefined;
    for (const [index, { item, change }] of parts.entries()) {
      const cost = change === undefined ? Infinity : change.edits.length - sizeOf(item);
      if (cost < (kept?.cost ?? Infinity)) kept = { index, cost };
    }
    if (kept === undefined) return undefined;
    isGone[kept.index] = false;
  }
  const edits = parts.flatMap(({ item, place, change }, index) => (isGone[index] === true || change === undefined ? removals(item, place) : change.edits));
  const conditions = parts.flatMap(({ change }, index) => (isGone[index] === true || change === undefined ? [] : [change.result]));
  return { edits, result: { ...condition, conditions } };
}

/** Claim conditions in a condition: the edits that it takes to be rid of it. */
function sizeOf(condition: Condition): number {
  return condition.kind === "claim" ? 1 : condition.conditions.reduce((sum, item) => sum + sizeOf(item), 0);
}

function removals(condition: Condition, path: string): readonly PolicyEdit[] {
  if (condition.kind === "claim") return [{ kind: "remove", path, claim: condition.claim, from: condition.equals }];
  return condition.conditions.flatMap((item, index) => removals(item, `${path}.${condition.kind}[${index}]`));
}

/** What a condition can say to be true of this claim; the text of booleans and integers where the condition has a text, as policies are written. */
function scalarOf(value: JsonValue, from: PolicyScalar): PolicyScalar | undefined {
  if (typeof value === "string") return value;
  if (typeof value === "boolean" || typeof value === "bigint" || (typeof value === "number" && Number.isSafeInteger(value)))
    return typeof from === "string" ? String(value) : value;
  return undefined;
}

// --- changes to the claims ---

/** Claims that make a condition true, by path; to be set or to be left as they are. */
interface Alternative {
  readonly needs: ReadonlyMap<string, PolicyScalar>;
  /** How many of them the token does not have. */
  readonly cost: number;
}

interface Alternatives {
  /** The cheapest first, and of equals in the order of the policy. */
  readonly items: readonly Alternative[];
  readonly exact: boolean;
}

function changeClaims(policy: ReleasePolicy, claims: JsonObject, issuer: string): SmallestChange["toClaims"] {
  let best: { readonly alternative: Alternative; readonly total: number; readonly authority: string | undefined } | undefined;
  let exact = true;
  for (const own of [true, false]) {
    for (const { authority, condition } of policy.anyOf) {
      if ((trimSlash(authority) === trimSlash(issuer)) !== own) continue;
      const alternatives = alternativesOf(condition, claims, namedTwice(condition));
      exact &&= alternatives.exact;
      const [alternative] = alternatives.items;
      if (alternative === undefined) continue;
      const total = alternative.cost + (own ? 0 : 1);
      if (best === undefined || total < best.total) best = { alternative, total, authority: own ? undefined : authority };
    }
  }
  if (best === undefined) return undefined;
  const edits: ClaimEdit[] = best.authority === undefined ? [] : [{ kind: "authority", from: issuer, to: best.authority }];
  for (const [claim, to] of best.alternative.needs) {
    const from = findClaim(claims, claim);
    if (from === undefined || !equalsClaim(to, from)) edits.push({ kind: "claim", claim, from, to });
  }
  // Where there is nothing to change there is nothing smaller.
  return { edits, exact: exact || edits.length <= 1 };
}

/** @param shared claims that other parts of the policy name too */
function alternativesOf(condition: Condition, claims: JsonObject, shared: ReadonlySet<string>): Alternatives {
  if (condition.kind === "claim") return { items: [alternative(new Map([[condition.claim, condition.equals]]), claims)], exact: true };
  const parts = condition.conditions.map((item) => alternativesOf(item, claims, shared));
  let exact = parts.every((part) => part.exact);
  if (condition.kind === "anyOf") {
    const all = cheapest(
      parts.flatMap(({ items }) => items),
      shared,
    );
    return { items: all.items, exact: all.exact && exact };
  }
  let items: readonly Alternative[] = [{ needs: new Map(), cost: 0 }];
  for (const part of parts) {
    const merged = items.flatMap((left) =>
      part.items.flatMap((right) => {
        const needs = union(left.needs, right.needs);
        return needs === undefined ? [] : [alternative(needs, claims)];
      }),
    );
    const all = cheapest(merged, shared);
    items = all.items;
    exact &&= all.exact;
  }
  return { items, exact };
}

/** The claims that a condition names more than once, or together with claims below or above them. */
function namedTwice(condition: Condition): ReadonlySet<string> {
  const times = new Map<string, number>();
  const count = (item: Condition): void => {
    if (item.kind === "claim") times.set(item.claim, (times.get(item.claim) ?? 0) + 1);
    else item.conditions.forEach(count);
  };
  count(condition);
  const names = [...times.keys()];
  const isAbove = (name: string, other: string): boolean => other.startsWith(`${name}.`);
  return new Set(names.filter((name) => (times.get(name) ?? 0) > 1 || names.some((other) => isAbove(name, other) || isAbove(other, name))));
}

function alternative(needs: ReadonlyMap<string, PolicyScalar>, claims: JsonObject): Alternative {
  let cost = 0;
  for (const [claim, equals] of needs) {
    const value = findClaim(claims, claim);
    if (value === undefined || !equalsClaim(equals, value)) cost++;
  }
  return { needs, cost };
}

/** The cheapest alternatives; of those that need the same of the shared claims one, because to the rest of the policy they are the same. */
function cheapest(items: readonly Alternative[], shared: ReadonlySet<string>): Alternatives {
  const seen = new Set<string>();
  const kept: Alternative[] = [];
  for (const item of items.toSorted((a, b) => a.cost - b.cost)) {
    const key = [...item.needs]
      .filter(([claim]) => shared.has(claim))
      .map(([claim, value]) => encodeJson([claim, value]))
      .toSorted()
      .join();
    if (!seen.has(key)) kept.push(item);
    seen.add(key);
  }
  return { items: kept.slice(0, MAX_ALTERNATIVES), exact: kept.length <= MAX_ALTERNATIVES };
}

/** What is needed for both, or undefined if no claims have it all: one claim with two values, or with a value and with claims below it. */
function union(left: ReadonlyMap<string, PolicyScalar>, right: ReadonlyMap<string, PolicyScalar>): ReadonlyMap<string, PolicyScalar> | undefined {
  const needs = new Map(left);
  for (const [claim, equals] of right) {
    const other = needs.get(claim);
    const both = other === undefined ? equals : common(other, equals);
    if (both === undefined) return undefined;
    if (other === undefined && [...left.keys()].some((name) => name.startsWith(`${claim}.`) || claim.startsWith(`${name}.`))) return undefined;
    needs.set(claim, both);
  }
  return needs;
}

/** The value that two conditions on one claim take: `"true"` and `true` are both true of `true`. */
function common(a: PolicyScalar, b: PolicyScalar): PolicyScalar | undefined {
  if (a === b) return a;
  if (typeof a === "string" && typeof b !== "string" && equalsClaim(a, b)) return b;
  return typeof b === "string" && typeof a !== "string" && equalsClaim(b, a) ? a : undefined;
}

function withClaim(claims: JsonObject, [name = "", ...rest]: readonly string[], value: PolicyScalar): JsonObject {
  const inner = rest.length === 0 ? value : withClaim(asObject(Object.hasOwn(claims, name) ? claims[name] : undefined) ?? emptyObject(), rest, value);
  return Object.assign(emptyObject(), claims, Object.fromEntries([[name, inner]]));
}

/** Without prototype, as the parser of JSON makes them: `__proto__` is a name like any other. */
function emptyObject(): JsonObject {
  return Object.create(null) as JsonObject;
}
