import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeUtf8, encodeJson, encodeUtf8, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import {
  anyoneCanSatisfy,
  applyClaimEdits,
  authoritiesFor,
  encodeReleasePolicy,
  evaluateReleasePolicy,
  meaningOf,
  openToDebugging,
  parseReleasePolicy,
  smallestChange,
  type AuthorityPolicy,
  type Binding,
  type ClaimCondition,
  type Condition,
  type PolicyEdit,
  type PolicyScalar,
  type ReleasePolicy,
} from "./index.ts";

const AUTHORITIES = ["https://a.test", "https://b.test/", "https://a.test/"] as const;
const ISSUERS = ["https://a.test", "https://b.test", "https://c.test"] as const;
const RUNS = 2000;

const scalar: fc.Arbitrary<PolicyScalar> = fc.constantFrom<PolicyScalar>("1", "true", "x", true, false, 1, 2, 13202930541250959283n, "13202930541250959283");
const names = fc.constantFrom("a", "b", "c", "c.d", "c.e", "f.g.h");

function condition(claim: fc.Arbitrary<ClaimCondition>, depth: number): fc.Arbitrary<Condition> {
  if (depth === 0) return claim;
  return fc.oneof({ weight: 3, arbitrary: claim }, { weight: 2, arbitrary: combination(claim, depth) });
}
function combination(claim: fc.Arbitrary<ClaimCondition>, depth: number): fc.Arbitrary<AuthorityPolicy["condition"]> {
  return fc.record({
    kind: fc.constantFrom("allOf" as const, "anyOf" as const),
    conditions: fc.array(condition(claim, depth - 1), { minLength: 1, maxLength: 3 }),
  });
}
function policyOf(claim: fc.Arbitrary<ClaimCondition>, depth = 2): fc.Arbitrary<ReleasePolicy> {
  const authority = fc.record({ authority: fc.constantFrom(...AUTHORITIES), condition: combination(claim, depth) });
  return fc.record({ anyOf: fc.array(authority, { minLength: 1, maxLength: 2 }) });
}

const claimCondition: fc.Arbitrary<ClaimCondition> = fc.record({ kind: fc.constant("claim" as const), claim: names, equals: scalar });
const anyPolicy = policyOf(claimCondition);
const jsonScalar = fc.constantFrom<JsonValue>("1", "true", "x", true, false, 1, 2, 1.5, null, 13202930541250959283n, [], ["x"]);
const anyClaims: fc.Arbitrary<JsonObject> = fc
  .record(
    {
      a: jsonScalar,
      b: jsonScalar,
      c: fc.oneof(jsonScalar, fc.record({ d: jsonScalar, e: jsonScalar }, { requiredKeys: [] })),
      f: fc.oneof(jsonScalar, fc.record({ g: fc.record({ h: jsonScalar }, { requiredKeys: [] }) })),
    },
    { requiredKeys: [] },
  )
  // As the parser makes them.
  .map((claims) => parseJson(encodeJson(claims as JsonObject)) as JsonObject);

const holds = (policy: ReleasePolicy, claims: JsonObject, issuer: string): boolean => evaluateReleasePolicy(authoritiesFor(policy, issuer), claims).satisfied;

/** The leaves of a policy with their paths. */
function leaves(policy: ReleasePolicy): { path: string; condition: ClaimCondition; authority: number }[] {
  const walk = (item: Condition, path: string, authority: number): { path: string; condition: ClaimCondition; authority: number }[] =>
    item.kind === "claim"
      ? [{ path, condition: item, authority }]
      : item.conditions.flatMap((inner, index) => walk(inner, `${path}.${item.kind}[${index}]`, authority));
  return policy.anyOf.flatMap((item, index) => walk(item.condition, `$.anyOf[${index}]`, index));
}

/** Makes edits; written apart from the code under test. Undefined if nothing is left of an authority. */
function edited(policy: ReleasePolicy, edits: readonly PolicyEdit[]): ReleasePolicy | undefined {
  const byPath = new Map(edits.map((edit) => [edit.path, edit]));
  const walk = (item: Condition, path: string): Condition | undefined => {
    if (item.kind === "claim") {
      const edit = byPath.get(path);
      if (edit?.kind === "remove") return undefined;
      return edit?.kind === "equals" ? { ...item, equals: edit.to } : item;
    }
    const conditions = item.conditions.map((inner, index) => walk(inner, `${path}.${item.kind}[${index}]`)).filter((inner) => inner !== undefined);
    return conditions.length === 0 ? undefined : { ...item, conditions };
  };
  const anyOf: AuthorityPolicy[] = [];
  for (const [index, item] of policy.anyOf.entries()) {
    const path = `$.anyOf[${index}]`;
    const inner = walk(item.condition, path);
    if (inner === undefined || inner.kind === "claim") return undefined;
    const edit = byPath.get(path);
    anyOf.push({ authority: edit?.kind === "authority" ? edit.to : item.authority, condition: inner });
  }
  return { anyOf };
}

function subsets<T>(items: readonly T[]): T[][] {
  return items.reduce<T[][]>((all, item) => [...all, ...all.map((some) => [...some, item])], [[]]);
}

describe("release policies in general", () => {
  it("have one canonical form, which means the same", () => {
    let satisfied = 0;
    fc.assert(
      fc.property(anyPolicy, anyClaims, fc.constantFrom(...ISSUERS), (policy, claims, issuer) => {
        const canonical = encodeReleasePolicy(policy);
        const again = parseReleasePolicy(canonical);
        expect(decodeUtf8(encodeReleasePolicy(again))).toBe(decodeUtf8(canonical));
        const [one, other] = [policy, again].map((each) => evaluateReleasePolicy(authoritiesFor(each, issuer), claims));
        expect(other).toEqual(one);
        if (one?.satisfied === true) satisfied++;
      }),
      { numRuns: RUNS, seed: 6 },
    );
    expect(satisfied).toBeGreaterThan(RUNS / 50);
  });

  it("have the same canonical form however they are written", () => {
    const written = (item: Condition, old: boolean): JsonValue =>
      item.kind === "claim"
        ? old
          ? { value: item.equals, condition: "equals", claim: item.claim }
          : { equals: item.equals, claim: item.claim }
        : { [item.kind]: item.conditions.map((inner) => written(inner, old)) };
    fc.assert(
      fc.property(anyPolicy, fc.boolean(), fc.constantFrom("1.0.0", "1.0", "0.2"), (policy, old, version) => {
        const anyOf = policy.anyOf.map(({ authority, condition: item }) => ({ ...(written(item, old) as JsonObject), authority }));
        const text = encodeJson({ anyOf, version }).replaceAll("}", " ,\n}").replaceAll("]", ",]");
        expect(decodeUtf8(encodeReleasePolicy(parseReleasePolicy(encodeUtf8(text.replaceAll(/(?<=[[{]\s*),/g, "")))))).toBe(
          decodeUtf8(encodeReleasePolicy(policy)),
        );
      }),
      { numRuns: RUNS / 4, seed: 7 },
    );
  });
});

describe("smallestChange", () => {
  const reachable = { policy: 0, claims: 0, removed: 0 };

  it("of the policy makes it hold, and nothing smaller does", () => {
    // Few enough leaves to try every set of edits.
    const small = anyPolicy.filter((policy) => leaves(policy).length <= 5);
    fc.assert(
      fc.property(small, anyClaims, fc.constantFrom(...ISSUERS, "no URL"), (policy, claims, issuer) => {
        const found = smallestChange(policy, claims, issuer).toPolicy;
        if (found !== undefined) {
          reachable.policy++;
          if (found.edits.some(({ kind }) => kind === "remove")) reachable.removed++;
          expect(holds(found.policy, claims, issuer)).toBe(true);
          expect(parseReleasePolicy(encodeReleasePolicy(found.policy))).toEqual(found.policy);
          expect(edited(policy, found.edits)).toEqual(found.policy);
          for (const some of subsets(found.edits).filter(({ length }) => length < found.edits.length)) {
            const less = edited(policy, some);
            expect(less !== undefined && holds(less, claims, issuer)).toBe(false);
          }
        }
        // Brute force: each leaf may stay, go, or take the value that the token has; each authority may become the token's.
        const options: (PolicyEdit | undefined)[][] = [
          ...leaves(policy).map(({ path, condition: item }): (PolicyEdit | undefined)[] => {
            const value = item.claim.split(".").reduce<unknown>((object, name) => (object as Record<string, unknown> | undefined | null)?.[name], claims);
            const named = typeof value === "number" ? Number.isSafeInteger(value) : ["string", "boolean", "bigint"].includes(typeof value);
            const base = { path, claim: item.claim, from: item.equals };
            return [undefined, { kind: "remove", ...base }, ...(named ? [{ kind: "equals" as const, ...base, to: value as PolicyScalar }] : [])];
          }),
          ...(issuer === "no URL"
            ? []
            : policy.anyOf.map(({ authority }, index) => [undefined, { kind: "authority" as const, path: `$.anyOf[${index}]`, from: authority, to: issuer }])),
        ];
        let fewest = Infinity;
        const search = (at: number, chosen: PolicyEdit[]): void => {
          if (chosen.length >= fewest) return;
          const each = options[at];
          if (each === undefined) {
            const other = edited(policy, chosen);
            if (other !== undefined && holds(other, claims, issuer)) fewest = chosen.length;
            return;
          }
          for (const edit of each) search(at + 1, edit === undefined ? chosen : [...chosen, edit]);
        };
        search(0, []);
        expect(found?.edits.length ?? Infinity).toBe(fewest);
      }),
      { numRuns: RUNS, seed: 8 },
    );
    expect(reachable.policy).toBeGreaterThan(RUNS / 3);
    expect(reachable.removed).toBeGreaterThan(RUNS / 50);
  });

  it("of the claims makes the policy hold, and nothing smaller does", () => {
    const small = policyOf(claimCondition, 3).filter((policy) => leaves(policy).length <= 7);
    fc.assert(
      fc.property(small, anyClaims, fc.constantFrom(...ISSUERS), (policy, claims, issuer) => {
        const found = smallestChange(policy, claims, issuer).toClaims;
        const issuerAfter = found?.edits.find((edit) => edit.kind === "authority")?.to ?? issuer;
        if (found !== undefined) {
          reachable.claims++;
          expect(found.exact).toBe(true);
          expect(holds(policy, applyClaimEdits(claims, found.edits), issuerAfter)).toBe(true);
          for (const some of subsets(found.edits).filter(({ length }) => length < found.edits.length)) {
            const to = some.find((edit) => edit.kind === "authority")?.to ?? issuer;
            expect(holds(policy, applyClaimEdits(claims, some), to)).toBe(false);
          }
        }
        // Brute force: every claim of the policy may stay or take any value that the policy has for it; the token may be of any authority.
        const values = new Map<string, Set<PolicyScalar>>();
        for (const { condition: item } of leaves(policy)) values.set(item.claim, (values.get(item.claim) ?? new Set()).add(item.equals));
        const claimNames = [...values.keys()];
        let fewest = Infinity;
        const search = (at: number, current: JsonObject, count: number): void => {
          if (count >= fewest) return;
          const name = claimNames[at];
          if (name === undefined) {
            for (const to of [issuer, ...AUTHORITIES]) if (holds(policy, current, to)) fewest = Math.min(fewest, count + (to === issuer ? 0 : 1));
            return;
          }
          search(at + 1, current, count);
          for (const to of values.get(name) ?? []) search(at + 1, applyClaimEdits(current, [{ kind: "claim", claim: name, from: undefined, to }]), count + 1);
        };
        search(0, claims, 0);
        expect(found?.edits.length ?? Infinity).toBe(fewest);
      }),
      { numRuns: RUNS, seed: 9 },
    );
    expect(reachable.claims).toBeGreaterThan(RUNS / 2);
  });
});

describe("anyoneCanSatisfy", () => {
  const conditions: readonly ClaimCondition[] = (
    [
      ["x-ms-sevsnpvm-hostdata", "ab"],
      ["x-ms-sevsnpvm-hostdata", "00"],
      ["x-ms-sevsnpvm-launchmeasurement", "cd"],
      ["x-ms-compliance-status", "azure-compliant-uvm"],
      ["x-ms-compliance-status", "azure-compliant-cvm"],
      ["x-ms-sevsnpvm-is-debuggable", "false"],
      ["x-ms-sevsnpvm-is-debuggable", "true"],
      ["x-ms-sevsnpvm-reportid", "ef"],
      ["x-ms-attestation-type", "sevsnpvm"],
      ["x-ms-runtime.x", "y"],
      ["made-up", "z"],
    ] as const
  ).map(([claim, equals]) => ({ kind: "claim", claim, equals }));
  const OUT: Readonly<Record<string, readonly Binding[]>> = {
    "any-pod": ["workload", "instance"],
    "any-guest": ["guest", "instance"],
    debuggable: ["debugging"],
  };

  // What each of them can bring about: a token in which a claim within reach has any value that the policy names for it. One that contradicts itself is satisfied by nobody, and may be reported.
  it("reports every policy that a brute force search satisfies without the owner's pod, and no other that can be satisfied at all", () => {
    const reported = { weak: 0, strong: 0 };
    fc.assert(
      fc.property(
        policyOf(fc.constantFrom(...conditions), 3).filter((policy) => leaves(policy).length <= 8),
        (policy) => {
          const weaknesses = [...anyoneCanSatisfy(policy), ...openToDebugging(policy)];
          for (const [kind, out] of Object.entries(OUT)) {
            const found = weaknesses.some((weakness) => weakness.kind === kind);
            const within = new Map<string, Set<PolicyScalar>>();
            for (const { condition: item } of leaves(policy))
              if (!out.includes(meaningOf(item).binds)) within.set(item.claim, (within.get(item.claim) ?? new Set()).add(item.equals));
            const search = (at: number, claims: JsonObject): boolean => {
              const entry = [...within][at];
              if (entry === undefined) return evaluateReleasePolicy(policy.anyOf, claims).satisfied;
              return [...entry[1]].some((to) => search(at + 1, applyClaimEdits(claims, [{ kind: "claim", claim: entry[0], from: undefined, to }])));
            };
            const satisfied = search(0, {});
            if (satisfied) expect(found).toBe(true);
            const contradicts = [...within.values()].some(({ size }) => size > 1);
            if (!contradicts) expect(found).toBe(satisfied);
            if (found) reported.weak++;
            else reported.strong++;
          }
          // The conditions that a branch is said to need are enough for it, as far as they do not contradict each other.
          for (const { conditions: needed, authority } of weaknesses) {
            const claims = applyClaimEdits(
              {},
              needed.map(({ claim, equals: to }) => ({ kind: "claim", claim, from: undefined, to })),
            );
            if (new Set(needed.map(({ claim }) => claim)).size === needed.length) expect(holds(policy, claims, authority)).toBe(true);
          }
        },
      ),
      { numRuns: RUNS, seed: 10 },
    );
    expect(Math.min(reported.weak, reported.strong)).toBeGreaterThan(RUNS / 4);
  });
});
