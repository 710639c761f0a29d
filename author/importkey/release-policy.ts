import { decodeUtf8 } from "@sealpod/core";
import { type AuthorityPolicy, type Condition, encodeReleasePolicy, type ReleasePolicy, trimSlash } from "@sealpod/release-policy";

/** A claim that the attestation token must have, and its value as text (specs/attestation.md 6.2). */
export interface Claim {
  readonly claim: string;
  readonly equals: string;
}

/**
 * The claims of a pod: measured policy, a guest that its vendor endorses, and no debugging.
 * @param hostData HOST_DATA, 64 hex digits
 */
export function podClaims(hostData: string, complianceStatus: string): readonly Claim[] {
  return [
    { claim: "x-ms-sevsnpvm-hostdata", equals: hostData },
    { claim: "x-ms-compliance-status", equals: complianceStatus },
    { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
  ];
}

/** The policy that one authority vouches for: each list of claims is an alternative. */
export function releasePolicyOf(authority: string, alternatives: readonly (readonly Claim[])[]): ReleasePolicy {
  return {
    anyOf: alternatives.map((claims) => ({ authority, condition: { kind: "allOf", conditions: claims.map((claim) => ({ kind: "claim", ...claim })) } })),
  };
}

/** Canonical JSON text of a release policy: one line, version 1.0.0, members in the order of the AKS document. */
export function releasePolicyText(policy: ReleasePolicy): string {
  return decodeUtf8(encodeReleasePolicy(policy));
}

/** What a branch of a release policy lost (`-`) and got (`+`). */
export interface BranchChange {
  /** Number of the alternative in the new policy, or in the old one if it is gone; from 1. */
  readonly branch: number;
  /** `changed`: conditions differ; `added` and `removed`: the whole alternative. */
  readonly kind: "changed" | "added" | "removed";
  readonly removed: readonly string[];
  readonly added: readonly string[];
}

/**
 * What differs between two release policies, alternative by alternative. Order is no difference, neither of alternatives nor of conditions.
 * @returns empty if both ask for the same
 */
export function releasePolicyChanges(before: ReleasePolicy, after: ReleasePolicy): readonly BranchChange[] {
  const old = before.anyOf.map((item, index) => ({ branch: index + 1, lines: linesOf(item) }));
  const rest = after.anyOf
    .map((item, index) => ({ branch: index + 1, lines: linesOf(item) }))
    .filter(({ lines }) => {
      const same = old.findIndex((item) => item.lines.join("\n") === lines.join("\n"));
      if (same !== -1) old.splice(same, 1);
      return same === -1;
    });
  const changes = rest.map(({ branch, lines }): BranchChange => {
    const counterpart = old.shift();
    if (counterpart === undefined) return { branch, kind: "added", removed: [], added: lines };
    return {
      branch,
      kind: "changed",
      removed: counterpart.lines.filter((line) => !lines.includes(line)),
      added: lines.filter((line) => !counterpart.lines.includes(line)),
    };
  });
  return [...changes, ...old.map(({ branch, lines }): BranchChange => ({ branch, kind: "removed", removed: lines, added: [] }))];
}

/** The changes as lines for a person. */
export function changesText(changes: readonly BranchChange[]): string {
  return changes
    .flatMap(({ branch, kind, removed, added }) => [
      `  alternative ${branch}${kind === "changed" ? "" : ` (${kind})`}:`,
      ...removed.map((line) => `    - ${line}`),
      ...added.map((line) => `    + ${line}`),
    ])
    .join("\n");
}

/** An alternative as lines in an order of their own: the authority, then its conditions. */
function linesOf({ authority, condition }: AuthorityPolicy): readonly string[] {
  const conditions = condition.kind === "allOf" ? condition.conditions.map(conditionText) : [conditionText(condition)];
  return [`authority ${trimSlash(authority)}`, ...conditions.toSorted()];
}

/** A condition on one line: `x = "1"`, `any of (a = "1", all of (…))`. */
export function conditionText(condition: Condition): string {
  if (condition.kind === "claim") {
    const { claim, equals } = condition;
    return `${claim} = ${typeof equals === "bigint" ? equals.toString() : JSON.stringify(equals)}`;
  }
  return `${condition.kind === "allOf" ? "all of" : "any of"} (${condition.conditions.map(conditionText).join(", ")})`;
}
