export { RELEASE_POLICY_ERRORS, ReleasePolicyError, type ReleasePolicyErrorCode } from "./errors.ts";
export { authoritiesFor, evaluateReleasePolicy, trimSlash, type ClaimFinding, type PolicyEvaluation } from "./evaluate.ts";
export { meaningOf, type Binding, type ClaimMeaning } from "./meaning.ts";
export {
  encodeReleasePolicy,
  parseReleasePolicy,
  type AuthorityPolicy,
  type ClaimCondition,
  type Combination,
  type Condition,
  type PolicyScalar,
  type ReleasePolicy,
} from "./policy.ts";
export { applyClaimEdits, describeEdit, smallestChange, type ClaimEdit, type PolicyEdit, type SmallestChange } from "./smallest-change.ts";
export { findTrailingCommas, withoutTrailingCommas, type TrailingComma } from "./trailing-comma.ts";
export { anyoneCanSatisfy, openToDebugging, type Weakness } from "./weakness.ts";
