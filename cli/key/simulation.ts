import type { JsonObject, JsonValue } from "@sealpod/core";
import {
  anyoneCanSatisfy,
  authoritiesFor,
  describeEdit,
  evaluateReleasePolicy,
  smallestChange,
  trimSlash,
  type AuthorityPolicy,
  type ClaimFinding,
  type Condition,
  type PolicyEdit,
  type ReleasePolicy,
  type SmallestChange,
} from "@sealpod/release-policy";
import { releasePolicyText } from "@sealpod/importkey";
import type { ClaimSource, Evidence } from "./claims-input.ts";
import { shown } from "./output.ts";

/** A policy and where it is from. */
export interface SimulatedPolicy {
  /** What it is, in words. */
  readonly form: string;
  readonly policy: ReleasePolicy;
  /** The key, if it is one of a vault: name or URL as the command line has it. */
  readonly key: string | undefined;
  /** What stands in the way of a release of the key, whatever the evidence. */
  readonly problems: readonly string[];
  /** The file that `importkey` would be given. */
  readonly config: string | undefined;
}

/** One branch of the policy. */
export interface SimulatedBranch {
  /** JSON path. */
  readonly path: string;
  readonly authority: string;
  /** Whether the token is of this authority; other branches are looked at for the reader alone. */
  readonly applies: boolean;
  readonly holds: boolean;
  readonly condition: Condition;
  readonly findings: readonly ClaimFinding[];
}

/** The outcome of {@link simulate}. */
export interface Simulation {
  readonly released: boolean;
  readonly branches: readonly SimulatedBranch[];
  /** Undefined if the policy holds. */
  readonly change: SmallestChange | undefined;
}

/** Whether a vault would release a key under this policy to this evidence. */
export function simulate({ policy, problems }: SimulatedPolicy, { claims, issuer }: Evidence): Simulation {
  const branches = policy.anyOf.map((item: AuthorityPolicy, index): SimulatedBranch => {
    const { satisfied, findings } = evaluateReleasePolicy([item], claims);
    const applies = trimSlash(item.authority) === trimSlash(issuer);
    return { path: `$.anyOf[${index}]`, authority: item.authority, applies, holds: satisfied, condition: item.condition, findings };
  });
  // The verdict is the vault's own way to it.
  const { satisfied } = evaluateReleasePolicy(authoritiesFor(policy, issuer), claims);
  return { released: satisfied && problems.length === 0, branches, change: satisfied ? undefined : smallestChange(policy, claims, issuer) };
}

/** All of a simulation for a person. */
export function simulationText(policy: SimulatedPolicy, evidence: Evidence, { released, branches, change }: Simulation): string {
  const lines = [
    `policy:  ${policy.form}`,
    `pod:     ${evidence.form}`,
    ...evidence.assumed.map((line, index) => `${index === 0 ? "assumed: " : "         "}${line}`),
    ...evidence.notes.map((line) => `note:    ${line}`),
    "",
    ...branches.flatMap((branch) => branchLines(branch, evidence)),
    "",
    released
      ? (evidence.stray ?? []).length > 0
        ? "the key would be RELEASED to a pod with the annotation's policy, which is not that of the YAML: see the note"
        : "the key would be RELEASED"
      : `the key would be REFUSED: ${policy.problems.length > 0 ? policy.problems.join("; ") : "no branch of the release policy holds"}`,
    ...(change === undefined ? [] : changeLines(change, policy, evidence)),
  ];
  return lines.map((line) => `${line}\n`).join("");
}

/** All of a simulation for a program. */
export function simulationJson(policy: SimulatedPolicy, evidence: Evidence, { released, branches, change }: Simulation): JsonObject {
  return {
    released,
    policy: policy.form,
    pod: evidence.form,
    authority: evidence.issuer,
    claims: evidence.claims,
    assumed: evidence.assumed,
    notes: evidence.notes,
    // Whether the policy was made again of the YAML: never.
    ...(evidence.stray === undefined ? {} : { annotation: { regenerated: false, notInPolicy: evidence.stray } }),
    problems: policy.problems,
    branches: branches.map(({ path, authority, applies, holds, findings }) => ({
      path,
      authority,
      applies,
      holds,
      findings: findings.map(({ claim, expected, found, matched }) => ({
        claim,
        expected,
        found: found ?? null,
        matched,
        source: sourceOf(claim, evidence) ?? null,
      })),
    })),
    change: change === undefined ? null : changeJson(change, policy, evidence),
  };
}

function branchLines({ path, authority, applies, holds, condition, findings }: SimulatedBranch, evidence: Evidence): readonly string[] {
  if (!applies) return [`${path}: tokens of ${authority}: does not apply, the token is of ${shown(evidence.issuer)}`];
  const rest = [...findings];
  return [`${path}: tokens of ${authority}: ${holds ? "holds" : "does NOT hold"}`, ...conditionLines(condition, "  ", rest, evidence)];
}

/** The findings of an evaluation stand in the order of the policy: the walk takes them one by one. */
function conditionLines(condition: Condition, indent: string, findings: ClaimFinding[], evidence: Evidence): readonly string[] {
  if (condition.kind === "claim") {
    const finding = findings.shift();
    if (finding === undefined) return [];
    const { claim, expected, found, matched } = finding;
    const source = sourceOf(claim, evidence);
    return [
      `${indent}${matched ? "ok    " : "FAILED"} ${claim}: expected ${expected}, found ${found === undefined ? "nothing" : shown(found)}${source === undefined || found === undefined ? "" : ` (${source})`}`,
    ];
  }
  const isTop = indent === "  ";
  const inner = condition.conditions.flatMap((item) => conditionLines(item, isTop && condition.kind === "allOf" ? indent : `${indent}  `, findings, evidence));
  return isTop && condition.kind === "allOf" ? inner : [`${indent}${condition.kind === "allOf" ? "all of:" : "any of:"}`, ...inner];
}

function sourceOf(claim: string, { sources }: Evidence): ClaimSource | undefined {
  return sources.get(claim.split(".")[0] ?? "");
}

function changeLines(change: SmallestChange, policy: SimulatedPolicy, evidence: Evidence): readonly string[] {
  const { toPolicy, toClaims } = change;
  return [
    "",
    "the smallest change to the release policy:",
    ...(toPolicy === undefined ? ["  none: the evidence lacks what the policy could ask for"] : toPolicy.edits.map((edit) => `  ${shown(describeEdit(edit))}`)),
    ...(toPolicy === undefined ? [] : weakLines(toPolicy.policy)),
    ...(toPolicy === undefined ? [] : adviceOf(toPolicy.edits, policy, evidence).map((line) => `  to do: ${line}`)),
    "the smallest change to the pod or its platform:",
    ...(toClaims === undefined ? ["  none: the policy contradicts itself"] : toClaims.edits.map((edit) => `  ${shown(describeEdit(edit))}`)),
    ...(toClaims === undefined || toClaims.exact ? [] : ["  (there may be a smaller one: the policy combines too many alternatives to look at all)"]),
  ];
}

function changeJson({ toPolicy, toClaims }: SmallestChange, policy: SimulatedPolicy, evidence: Evidence): JsonObject {
  return {
    toPolicy:
      toPolicy === undefined
        ? null
        : {
            edits: toPolicy.edits.map((edit) => ({ ...editJson(edit), text: describeEdit(edit) })),
            policy: releasePolicyText(toPolicy.policy),
            weaknesses: anyoneCanSatisfy(toPolicy.policy).map(({ reason }) => reason),
            advice: adviceOf(toPolicy.edits, policy, evidence),
          },
    toClaims: toClaims === undefined ? null : { edits: toClaims.edits.map((edit) => ({ ...editJson(edit), text: describeEdit(edit) })), exact: toClaims.exact },
  };
}

function editJson(edit: object): Readonly<Record<string, JsonValue>> {
  return Object.fromEntries(Object.entries(edit).map(([name, value]) => [name, (value ?? null) as JsonValue]));
}

function weakLines(policy: ReleasePolicy): readonly string[] {
  return anyoneCanSatisfy(policy).map(({ reason }) => `  beware: with that others than your pods get the key. ${reason}`);
}

/** What to type. A policy that another YAML was meant for is made again of the YAML; anything else is a line of JSON to edit. */
function adviceOf(edits: readonly PolicyEdit[], { key, config }: SimulatedPolicy, { yamlFile, claims }: Evidence): readonly string[] {
  const hostData = claims["x-ms-sevsnpvm-hostdata"];
  const isHostData = edits.length > 0 && edits.every((edit) => edit.kind === "equals" && edit.claim === "x-ms-sevsnpvm-hostdata");
  if (!isHostData || typeof hostData !== "string") {
    return key === undefined ? [] : [`change the policy so, then: sealpod key set-attributes ${word(key)} --policy policy.json`];
  }
  const why = `regenerate the release policy with hostdata ${shown(hostData)}: the policy of the pod is not the one that the key was bound to`;
  if (config !== undefined || yamlFile === undefined) return [why, `sealpod importkey -c ${word(yamlFile ?? config ?? "app.yaml")} -kh KEY`];
  const made = `sealpod importkey -c ${word(yamlFile)} -kh KEY          # a new version of the key`;
  return key === undefined
    ? [why, made]
    : [
        why,
        made,
        `sealpod key policy from-pod ${word(yamlFile)} > policy.json && sealpod key set-attributes ${word(key)} --policy policy.json          # the same key`,
      ];
}

/** A word of a command line, for a shell to read. */
function word(text: string): string {
  return /^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
