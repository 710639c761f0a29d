/** A claim that the attestation token must have, and its value as text (specs/attestation.md 6.2). */
export interface Claim {
  readonly claim: string;
  readonly equals: string;
}

/** Who may vouch, and all the claims that must hold then. */
export interface Alternative {
  /** URL of the attestation service, with `https://`. */
  readonly authority: string;
  readonly allOf: readonly Claim[];
}

/** What an HSM asks for before it releases a key. */
export interface ReleasePolicy {
  readonly version: "1.0.0";
  readonly anyOf: readonly Alternative[];
}

/** JSON text of a release policy on one line, members in the order of the AKS document. */
export function encodeReleasePolicy(policy: ReleasePolicy): string {
  return JSON.stringify({
    version: policy.version,
    anyOf: policy.anyOf.map(({ authority, allOf }) => ({ authority, allOf: allOf.map(({ claim, equals }) => ({ claim, equals })) })),
  });
}

/**
 * The claims of a pod: measured policy, a guest that its vendor endorses, and no debugging.
 * @param hostData SHA-256 of the policy, 64 hex digits
 */
export function podClaims(hostData: string, complianceStatus: string): readonly Claim[] {
  return [
    { claim: "x-ms-sevsnpvm-hostdata", equals: hostData },
    { claim: "x-ms-compliance-status", equals: complianceStatus },
    { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
  ];
}
