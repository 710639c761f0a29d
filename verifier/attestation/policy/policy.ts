import { encodeUtf8, sha256, toBase64url } from "@sealpod/core";
import type { Condition, Expression, PolicyTree, Rule } from "./ast.ts";
import { checkTree } from "./check.ts";
import { literalType, takenOneByOne } from "./functions.ts";
import { parseJmesPath, type JmesPath } from "./jmespath.ts";
import { parseTree } from "./parser.ts";
import { PolicyProblems, type PolicyProblem } from "./source.ts";

/** Permits all evidence that verifies, and issues nothing of its own. The text of the genuine default policy for SEV-SNP is not published; this does the same. */
export const DEFAULT_POLICY_TEXT = "version= 1.0;\nauthorizationrules\n{\n    => permit();\n};\nissuancerules{};\n";

/** What the evaluator knows of a condition beforehand. */
export interface ConditionPlan {
  /** Claims of this type alone can meet the condition; undefined if any may. */
  readonly type: string | undefined;
  /** True if the rule goes on once for each claim that meets the condition. */
  readonly oneByOne: boolean;
}

/** A policy that reads well and makes sense. Only {@link parsePolicy} makes one. */
export interface AttestationPolicy {
  readonly text: string;
  readonly tree: PolicyTree;
  /** False if no rule has a condition: then its verdict is the same whatever the claims are. */
  readonly readsClaims: boolean;
  readonly plans: ReadonlyMap<Condition, ConditionPlan>;
  /** The JMESPath expressions that stand in the text. */
  readonly paths: ReadonlyMap<string, JmesPath>;
}

/**
 * Parses and checks an attestation policy (specs/attestation.md 4.5).
 * @throws {AttestationError} ERR_ATTESTATION_POLICY_SYNTAX with every problem in the message, each with its line, a caret and what was expected, and with
 * `details.line`, `details.column` (of the first) and `details.problems`; ERR_ATTESTATION_POLICY_LIMIT
 */
export function parsePolicy(text: string): AttestationPolicy {
  const { tree, problems } = readTree(text);
  problems.throwIfAny();
  const plan = planOf(tree);
  return { text, tree, readsClaims: plan.plans.size > 0, ...plan };
}

/**
 * All that is wrong with a policy, in the order of the text, at most 50 problems; empty if {@link parsePolicy} takes it.
 * @throws {AttestationError} ERR_ATTESTATION_POLICY_LIMIT
 */
export function policyProblems(text: string): readonly PolicyProblem[] {
  return readTree(text).problems.list();
}

/** `x-ms-policy-hash` of a policy: base64url of the SHA-256 of the base64url of its text (specs/attestation.md 4.4). */
export function policyHash(text: string): string {
  return toBase64url(sha256(encodeUtf8(toBase64url(encodeUtf8(text)))));
}

function readTree(text: string): { readonly tree: PolicyTree; readonly problems: PolicyProblems } {
  const problems = new PolicyProblems(text);
  const { tree, end } = parseTree(text, problems);
  checkTree(tree, end, problems);
  return { tree, problems };
}

function planOf({ sections }: PolicyTree): Pick<AttestationPolicy, "plans" | "paths"> {
  const plans = new Map<Condition, ConditionPlan>();
  const paths = new Map<string, JmesPath>();
  for (const rule of sections.flatMap(({ rules }) => rules)) {
    const taken = takenOneByOne(rule);
    for (const condition of rule.conditions) {
      const { identifier } = condition;
      plans.set(condition, { type: literalType(condition), oneByOne: identifier !== undefined && taken.has(identifier.name) });
    }
    for (const expression of expressionsOf(rule)) collectPaths(expression, paths);
  }
  return { plans, paths };
}

function expressionsOf({ conditions, action }: Rule): readonly (Expression | undefined)[] {
  const operands = conditions.flatMap(({ tests }) => tests.map(({ operand }) => operand));
  return action.kind === "make" ? [...operands, action.type, action.value, action.issuer, action.valueType] : operands;
}

function collectPaths(expression: Expression | undefined, paths: Map<string, JmesPath>): void {
  if (expression?.kind !== "call") return;
  const path = expression.arguments[1];
  if (expression.name === "JmesPath" && path?.kind === "string" && !paths.has(path.value)) paths.set(path.value, parseJmesPath(path.value));
  for (const argument of expression.arguments) collectPaths(argument, paths);
}
