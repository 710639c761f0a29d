import { AttestationError } from "../errors.ts";
import type { PolicyVerdict, RuleTrace, UnmetCondition } from "./evaluate.ts";

/** Rules that the message of a denial names; the rest is counted. */
const MAX_NAMED = 10;

/** Why a policy permitted or not, in lines for its owner; the first line says the whole. */
export function explainVerdict({ permitted, decidedBy, trace }: PolicyVerdict): readonly string[] {
  if (decidedBy !== undefined) return [`${permitted ? "permitted" : "denied"} by ${decidedBy.action}() in line ${decidedBy.line}, column ${decidedBy.column}`];
  const rules = trace.filter(({ section, action }) => section === "authorizationrules" && action === "permit()");
  if (rules.length === 0) return ["not permitted: the policy has no rule with permit()"];
  const lines = rules.slice(0, MAX_NAMED).map((rule) => `the rule in line ${rule.line}, column ${rule.column} did not permit: ${unmetText(rule)}`);
  const rest = rules.length > MAX_NAMED ? [`${rules.length - MAX_NAMED} more rules did not permit`] : [];
  return ["not permitted: no rule with permit() has its conditions met", ...lines, ...rest];
}

/** Why a rule did not act. */
function unmetText({ unmet }: RuleTrace): string {
  return unmet === undefined ? "its conditions do not hold together" : conditionText(unmet);
}

/** Why a condition does not hold. */
export function conditionText({ line, column, condition, found }: UnmetCondition): string {
  const place = `${condition} (line ${line}, column ${column})`;
  if (condition.startsWith("!")) return `${place} is broken by ${found.join(", ")}`;
  return `no claim meets ${place}${found.length === 0 ? "" : `; found ${found.join(", ")}`}`;
}

/**
 * The error for a verdict that does not permit.
 * @returns ERR_ATTESTATION_POLICY_DENIED, with `details.line` and `details.column` of a rule that denied
 */
export function policyDenied(verdict: PolicyVerdict): AttestationError {
  const { decidedBy } = verdict;
  return new AttestationError("ERR_ATTESTATION_POLICY_DENIED", `the attestation policy does not permit this evidence: ${explainVerdict(verdict).join("; ")}`, {
    ...(decidedBy === undefined ? {} : { details: { line: decidedBy.line, column: decidedBy.column } }),
    hint: "Try the policy on the request that was refused: sealpod attest policy eval POLICY --claims REQUEST, the JSON body of POST /attest/SevSnpVm in a file.",
  });
}
