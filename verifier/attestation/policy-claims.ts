import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { MAX_ATTESTATION_TOKEN, TOKEN_LIFETIME } from "./claims.ts";
import { AttestationError } from "./errors.ts";
import { claimsOfToken, evaluatePolicy, issuedClaims, policyDenied, type AttestationPolicy, type PolicyClaim } from "./policy/index.ts";

/** What a policy made of a token. */
export interface PolicyOutcome {
  /** Claims that it issued, for the token. */
  readonly issued: JsonObject;
  /** Seconds that the token lives. */
  readonly lifetime: number;
}

/** Property by which a policy shortens the life of its tokens. */
const VALIDITY_PROPERTY = "report_validity_in_minutes";

/**
 * Evaluates a policy over the claims of the evidence.
 *
 * Of the properties that a policy can issue only `report_validity_in_minutes` means something for SEV-SNP. It can shorten a token's life and never prolong it: keys are
 * published for as long after their retirement as a token may live.
 * @throws {AttestationError} ERR_ATTESTATION_POLICY_DENIED with the rule, ERR_ATTESTATION_POLICY_EVALUATION, ERR_ATTESTATION_POLICY_LIMIT
 */
export function applyPolicy(policy: AttestationPolicy, evidence: JsonObject): PolicyOutcome {
  // The default policy, and many another, permits without a look: then nobody reads the claims, and they need not be laid out.
  const verdict = evaluatePolicy(policy, policy.readsClaims ? claimsOfToken(evidence) : []);
  if (!verdict.permitted) throw policyDenied(verdict);
  requireSize(verdict.claims);
  return { issued: issuedClaims(verdict.claims), lifetime: lifetimeOf(verdict.properties[VALIDITY_PROPERTY]) };
}

/** A policy of 40 KiB can issue as much as it may make characters, by doubling: nothing is written out of what no token can hold. */
function requireSize(claims: readonly PolicyClaim[]): void {
  const size = claims.reduce((sum, { type, value }) => sum + type.length + (typeof value === "string" ? value.length : 1), 0);
  if (size <= MAX_ATTESTATION_TOKEN) return;
  throw new AttestationError(
    "ERR_ATTESTATION_POLICY_LIMIT",
    `the attestation policy issues ${claims.length} claims of ${size} characters, more than the limit of ${MAX_ATTESTATION_TOKEN} for a token`,
    { details: { limit: MAX_ATTESTATION_TOKEN }, hint: "Issue what relying parties ask for, not whole documents." },
  );
}

function lifetimeOf(property: JsonValue | undefined): number {
  if (property === undefined) return TOKEN_LIFETIME;
  const minutes = typeof property === "bigint" ? Number(property) : property;
  if (typeof minutes !== "number" || !Number.isInteger(minutes) || minutes < 1)
    throw new AttestationError(
      "ERR_ATTESTATION_POLICY_EVALUATION",
      `the attestation policy issues ${VALIDITY_PROPERTY} ${encodeJson(property).slice(0, 60)}, expected whole minutes from 1`,
    );
  return Math.min(minutes * 60, TOKEN_LIFETIME);
}
