export type { PolicyTree, PolicyVersion, SectionKind } from "./ast.ts";
export { claimsOfToken, isReservedClaim, issuedClaims, type PolicyClaim, type PolicyClaimIssuer, type PolicyValue, type PolicyValueType } from "./claims.ts";
export { evaluatePolicy, type PolicyVerdict, type RuleTrace, type UnmetCondition } from "./evaluate.ts";
export { conditionText, explainVerdict, policyDenied } from "./explain.ts";
export { DEFAULT_POLICY_LIMITS, MAX_POLICY_TEXT, type PolicyLimits } from "./limits.ts";
export { DEFAULT_POLICY_TEXT, parsePolicy, policyHash, policyProblems, type AttestationPolicy } from "./policy.ts";
export { printPolicy } from "./printer.ts";
export { problemText, type PolicyPosition, type PolicyProblem } from "./source.ts";
