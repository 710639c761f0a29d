export { attestationApp, type AttestationAppOptions } from "./app.ts";
export { parseAttestRequest, type AttestRequest, type BoundData } from "./attest-request.ts";
export { attest, type Attestation, type AttestationService, type EndorsementOutcome } from "./attest.ts";
export { DEFAULT_POLICY_HASH, reportClaims, TOKEN_LIFETIME } from "./claims.ts";
export { ATTESTATION_ERRORS, AttestationError, type AttestationErrorCode } from "./errors.ts";
export { openAttestationStore, type AttestationStore, type AttestationStoreOptions, type SigningKey } from "./store.ts";
