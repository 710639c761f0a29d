import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link AttestationError}. */
export type AttestationErrorCode =
  | "ERR_ATTESTATION_ARGUMENT"
  | "ERR_ATTESTATION_EVIDENCE"
  | "ERR_ATTESTATION_FORBIDDEN"
  | "ERR_ATTESTATION_INIT_TIME_DATA"
  | "ERR_ATTESTATION_JWKS"
  | "ERR_ATTESTATION_JWS"
  | "ERR_ATTESTATION_MEDIA_TYPE"
  | "ERR_ATTESTATION_METHOD"
  | "ERR_ATTESTATION_NOT_FOUND"
  | "ERR_ATTESTATION_OPERATION"
  | "ERR_ATTESTATION_POLICY_DENIED"
  | "ERR_ATTESTATION_POLICY_EVALUATION"
  | "ERR_ATTESTATION_POLICY_LIMIT"
  | "ERR_ATTESTATION_POLICY_SYNTAX"
  | "ERR_ATTESTATION_REPORT_POLICY"
  | "ERR_ATTESTATION_REQUEST"
  | "ERR_ATTESTATION_RUNTIME_DATA"
  | "ERR_ATTESTATION_SERVICE"
  | "ERR_ATTESTATION_SIGNER"
  | "ERR_ATTESTATION_STORE"
  | "ERR_ATTESTATION_TOKEN"
  | "ERR_ATTESTATION_TOKEN_REFUSED"
  | "ERR_ATTESTATION_TOO_LARGE"
  | "ERR_ATTESTATION_UNAUTHORIZED"
  | "ERR_ATTESTATION_UNSUPPORTED";

/** Rows of `verifier/attestation`. */
export const ATTESTATION_ERRORS: ErrorTable<AttestationErrorCode> = {
  ERR_ATTESTATION_ARGUMENT: { action: "caller", exit: 2, http: 500, summary: "The attestation service was set up with a value that is not usable." },
  ERR_ATTESTATION_EVIDENCE: { action: "refused", exit: 1, http: 400, summary: "The report does not verify; the inner code names the check." },
  ERR_ATTESTATION_FORBIDDEN: { action: "refused", exit: 3, http: 403, summary: "The caller of a management operation is known and may not do it." },
  ERR_ATTESTATION_INIT_TIME_DATA: { action: "refused", exit: 1, http: 400, summary: "The init-time data is not what the report's HOST_DATA is the hash of." },
  ERR_ATTESTATION_JWKS: { action: "caller", exit: 1, http: 400, summary: "A set of token-signing keys (JWKS) is malformed." },
  ERR_ATTESTATION_JWS: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "A policy or certificate token is not a strict compact JWS, or its signature does not verify.",
  },
  ERR_ATTESTATION_MEDIA_TYPE: { action: "caller", exit: 1, http: 415, summary: "The request body is not application/json." },
  ERR_ATTESTATION_METHOD: { action: "caller", exit: 1, http: 405, summary: "The page exists, but not for this method." },
  ERR_ATTESTATION_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "The attestation service has no such page." },
  ERR_ATTESTATION_OPERATION: {
    action: "refused",
    exit: 1,
    http: 400,
    summary: "A management operation that this instance does not allow in its mode or state.",
  },
  ERR_ATTESTATION_POLICY_DENIED: {
    action: "refused",
    exit: 3,
    http: 400,
    summary: "The attestation policy does not permit the evidence; the message names the rule.",
  },
  ERR_ATTESTATION_POLICY_EVALUATION: { action: "refused", exit: 1, http: 400, summary: "The attestation policy failed while it ran over the claims." },
  ERR_ATTESTATION_POLICY_LIMIT: { action: "refused", exit: 1, http: 400, summary: "An attestation policy, or its evaluation, is larger than a named limit." },
  ERR_ATTESTATION_POLICY_SYNTAX: { action: "caller", exit: 1, http: 400, summary: "The attestation policy does not parse; the message gives line and column." },
  ERR_ATTESTATION_REPORT_POLICY: {
    action: "refused",
    exit: 3,
    http: 400,
    summary: "A genuine report does not meet the operator's report policy; the inner code names the check.",
  },
  ERR_ATTESTATION_REQUEST: { action: "caller", exit: 1, http: 400, summary: "The attestation request is malformed; the message names the member." },
  ERR_ATTESTATION_RUNTIME_DATA: { action: "refused", exit: 1, http: 400, summary: "The runtime data is not what the report's REPORT_DATA is the hash of." },
  ERR_ATTESTATION_SERVICE: {
    action: "transient",
    exit: 1,
    http: 502,
    summary: "An attestation service cannot be reached, or refuses what a client asks of it.",
  },
  ERR_ATTESTATION_SIGNER: {
    action: "refused",
    exit: 3,
    http: 400,
    summary: "A policy change is not signed by one of the policy certificates of this isolated instance.",
  },
  ERR_ATTESTATION_STORE: { action: "caller", exit: 1, http: 500, summary: "The attestation database cannot be opened or read with this master key." },
  ERR_ATTESTATION_TOKEN: { action: "caller", exit: 1, http: 400, summary: "An attestation token is not a strict compact JWS with JSON claims." },
  ERR_ATTESTATION_TOKEN_REFUSED: {
    action: "refused",
    exit: 3,
    http: 401,
    summary: "An attestation token was not signed by the keys, issuer or at the time that its reader expects; the error names the check.",
  },
  ERR_ATTESTATION_TOO_LARGE: { action: "refused", exit: 1, http: 413, summary: "The request body is larger than any evidence." },
  ERR_ATTESTATION_UNAUTHORIZED: { action: "refused", exit: 3, http: 401, summary: "A management operation came without a bearer token that is accepted." },
  ERR_ATTESTATION_UNSUPPORTED: { action: "caller", exit: 1, http: 501, summary: "This operation of the attestation service is not implemented here." },
};

/** Errors of the attestation service. */
export class AttestationError extends SealpodError<AttestationErrorCode> {
  constructor(code: AttestationErrorCode, message: string, options?: SealpodErrorOptions) {
    super(ATTESTATION_ERRORS, code, message, options);
  }
}
