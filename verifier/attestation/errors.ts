import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link AttestationError}. */
export type AttestationErrorCode =
  | "ERR_ATTESTATION_ARGUMENT"
  | "ERR_ATTESTATION_EVIDENCE"
  | "ERR_ATTESTATION_INIT_TIME_DATA"
  | "ERR_ATTESTATION_MEDIA_TYPE"
  | "ERR_ATTESTATION_NOT_FOUND"
  | "ERR_ATTESTATION_REQUEST"
  | "ERR_ATTESTATION_RUNTIME_DATA"
  | "ERR_ATTESTATION_STORE"
  | "ERR_ATTESTATION_TOO_LARGE"
  | "ERR_ATTESTATION_UNSUPPORTED";

/** Rows of `verifier/attestation`. */
export const ATTESTATION_ERRORS: ErrorTable<AttestationErrorCode> = {
  ERR_ATTESTATION_ARGUMENT: { action: "caller", exit: 2, http: 500, summary: "The attestation service was set up with a value that is not usable." },
  ERR_ATTESTATION_EVIDENCE: { action: "refused", exit: 1, http: 400, summary: "The report does not verify; the inner code names the check." },
  ERR_ATTESTATION_INIT_TIME_DATA: { action: "refused", exit: 1, http: 400, summary: "The init-time data is not what the report's HOST_DATA is the hash of." },
  ERR_ATTESTATION_MEDIA_TYPE: { action: "caller", exit: 1, http: 415, summary: "The request body is not application/json." },
  ERR_ATTESTATION_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "The attestation service has no such page." },
  ERR_ATTESTATION_REQUEST: { action: "caller", exit: 1, http: 400, summary: "The attestation request is malformed; the message names the member." },
  ERR_ATTESTATION_RUNTIME_DATA: { action: "refused", exit: 1, http: 400, summary: "The runtime data is not what the report's REPORT_DATA is the hash of." },
  ERR_ATTESTATION_STORE: { action: "caller", exit: 1, http: 500, summary: "The attestation database cannot be opened or read with this master key." },
  ERR_ATTESTATION_TOO_LARGE: { action: "refused", exit: 1, http: 413, summary: "The request body is larger than any evidence." },
  ERR_ATTESTATION_UNSUPPORTED: { action: "caller", exit: 1, http: 501, summary: "This operation of the attestation service is not implemented here." },
};

/** Errors of the attestation service. */
export class AttestationError extends SealpodError<AttestationErrorCode> {
  constructor(code: AttestationErrorCode, message: string, options?: SealpodErrorOptions) {
    super(ATTESTATION_ERRORS, code, message, options);
  }
}
