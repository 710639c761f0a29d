export { attestationApp, type AttestationAppOptions } from "./app.ts";
export { parseAttestRequest, type AttestRequest, type BoundData } from "./attest-request.ts";
export { Attester, type Attestation, type AttestationService, type RevocationOptions } from "./attest.ts";
export { ATTESTATION_TYPES, parseAttestationType, type AttestationType } from "./attestation-type.ts";
export { DEFAULT_POLICY_HASH, MAX_ATTESTATION_TOKEN, MAX_CLAIMS_DEPTH, reportClaims, TOKEN_LIFETIME } from "./claims.ts";
export { EndorsementVerifier, type EndorsementOutcome } from "./endorsements.ts";
export { ATTESTATION_ERRORS, AttestationError, type AttestationErrorCode } from "./errors.ts";
export { parseRequestToken, type RequestToken } from "./jws.ts";
export { type ManagementAccess, type ManagementMode, type ManagementVerdict } from "./management.ts";
export { PolicyBook, type ActivePolicy } from "./policy-book.ts";
export { ROTATION_INTERVAL, startKeyRotation, type KeyRotation, type KeyRotationOptions, type RotationTimer } from "./rotation.ts";
export {
  DEFAULT_ROTATION,
  KEYS_CACHE_TIME,
  openAttestationStore,
  type AttestationStore,
  type AttestationStoreOptions,
  type AuditEntry,
  type AuditOperation,
  type Change,
  type PolicyCertificate,
  type PublishedKey,
  type RotationSchedule,
  type SigningKey,
  type StoredPolicy,
} from "./store.ts";
export {
  claimsOfToken,
  conditionText,
  DEFAULT_POLICY_LIMITS,
  DEFAULT_POLICY_TEXT,
  evaluatePolicy,
  explainVerdict,
  issuedClaims,
  MAX_POLICY_TEXT,
  parsePolicy,
  policyDenied,
  policyHash,
  policyProblems,
  printPolicy,
  problemText,
  type AttestationPolicy,
  type PolicyClaim,
  type PolicyLimits,
  type PolicyPosition,
  type PolicyProblem,
  type PolicyVerdict,
  type RuleTrace,
} from "./policy/index.ts";
export { type TokenIssuer } from "./token.ts";
export {
  decodeAttestationToken,
  parseJwks,
  TOKEN_CHECKS,
  verifyAttestationToken,
  type TokenCheck,
  type TokenCheckName,
  type TokenKey,
  type TokenKeys,
  type UnverifiedAttestationToken,
  type VerifiedAttestationToken,
  type VerifyTokenOptions,
} from "./verify-token.ts";
export { ATTESTATION_PREFIX, attestationProgram, startAttestationServer, type AttestationServerPorts, type RunningAttestation } from "./server.ts";
export { ATTESTATION_SETTINGS, type AttestationSettings, type CrlsSetting, type ManagementIssuer } from "./server-settings.ts";
export { openRoots, rootSetting, type RootSetting } from "./server-roots.ts";
