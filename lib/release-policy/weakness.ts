import { encodeJson } from "@sealpod/core";
import { meaningOf, type Binding } from "./meaning.ts";
import type { ClaimCondition, Condition, ReleasePolicy } from "./policy.ts";

/** A way to satisfy a release policy that its owner may not have meant. */
export interface Weakness {
  /**
   * Who has it: `any-pod`, every pod of whoever can start pods of this kind; `any-guest`, whoever runs a host and starts a VM of their own making on it with the digest of the owner's policy;
   * `debuggable`, the host of the owner's own pod.
   */
  readonly kind: "any-pod" | "any-guest" | "debuggable";
  /** JSON path of the branch, e.g. `$.anyOf[0].allOf`. */
  readonly path: string;
  readonly authority: string;
  /** Conditions that are enough for the branch, in the order of the policy. */
  readonly conditions: readonly ClaimCondition[];
  /** A sentence for the owner. */
  readonly reason: string;
}

/** What each kind of attacker cannot have in a token. */
const OUT_OF_REACH: Readonly<Record<Weakness["kind"], readonly Binding[]>> = {
  "any-pod": ["workload", "instance"],
  "any-guest": ["guest", "instance"],
  debuggable: ["debugging"],
};

const REASONS: Readonly<Record<Weakness["kind"], string>> = {
  "any-pod": "any pod can satisfy it, because no condition is on the pod itself",
  "any-guest": "a VM that enforces nothing can satisfy it, because no condition is on the VM and HOST_DATA is what its host says",
  debuggable: "a VM whose memory its host can read can satisfy it",
};

const HINTS: Readonly<Record<Weakness["kind"], string>> = {
  "any-pod": "Add a condition on x-ms-sevsnpvm-hostdata.",
  "any-guest": "Add a condition on x-ms-compliance-status or x-ms-sevsnpvm-launchmeasurement.",
  debuggable: 'Add the condition that x-ms-sevsnpvm-is-debuggable is "false".',
};

/**
 * The branches of a policy that a pod can satisfy which the owner did not choose: kinds `any-pod` and `any-guest`. No branch that can be satisfied so is left out. What conditions demand of
 * one another is not looked into: a branch that contradicts itself may be among them.
 */
export function anyoneCanSatisfy(policy: ReleasePolicy): readonly Weakness[] {
  return [...weaknesses(policy, "any-pod"), ...weaknesses(policy, "any-guest")];
}

/** The branches of a policy that leave the key to the owner's pod even in a VM whose memory the host can read. */
export function openToDebugging(policy: ReleasePolicy): readonly Weakness[] {
  return weaknesses(policy, "debuggable");
}

interface Branch {
  readonly path: string;
  readonly conditions: readonly ClaimCondition[];
}

function weaknesses(policy: ReleasePolicy, kind: Weakness["kind"]): readonly Weakness[] {
  return policy.anyOf.flatMap(({ authority, condition }, index) =>
    openBranches(condition, `$.anyOf[${index}]`, OUT_OF_REACH[kind]).map(({ path, conditions }) => ({
      kind,
      path,
      authority,
      conditions,
      reason: `At ${path} ${REASONS[kind]}: ${conditions.map(explain).join("; ")}. ${HINTS[kind]}`,
    })),
  );
}

/** The alternatives that hold without what is out of reach; of alternatives within an `allOf` the first stands for all, so that there are never more branches than conditions. */
function openBranches(condition: Condition, path: string, outOfReach: readonly Binding[]): readonly Branch[] {
  if (condition.kind === "claim") return outOfReach.includes(meaningOf(condition).binds) ? [] : [{ path, conditions: [condition] }];
  const parts = condition.conditions.map((item, index) => openBranches(item, `${path}.${condition.kind}[${index}]`, outOfReach));
  if (condition.kind === "anyOf") return parts.flat();
  const conditions: ClaimCondition[] = [];
  for (const [first] of parts) {
    if (first === undefined) return [];
    conditions.push(...first.conditions);
  }
  return [{ path: `${path}.allOf`, conditions }];
}

function explain(condition: ClaimCondition): string {
  return `${condition.claim} = ${encodeJson(condition.equals)} ${meaningOf(condition).says}`;
}
