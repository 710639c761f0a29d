import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link SandboxError}. */
export type SandboxErrorCode =
  | "ERR_SANDBOX_AGENT"
  | "ERR_SANDBOX_CLOSED"
  | "ERR_SANDBOX_DENIED"
  | "ERR_SANDBOX_FILES"
  | "ERR_SANDBOX_LAYER"
  | "ERR_SANDBOX_POLICY"
  | "ERR_SANDBOX_SPEC"
  | "ERR_SANDBOX_TIMEOUT";

/** Rows of `host/sandbox`. */
export const SANDBOX_ERRORS: ErrorTable<SandboxErrorCode> = {
  ERR_SANDBOX_AGENT: { action: "caller", exit: 1, http: 502, summary: "The guest's agent could not carry out a request." },
  ERR_SANDBOX_CLOSED: { action: "transient", exit: 1, http: 503, summary: "The connection to the guest's agent has ended." },
  ERR_SANDBOX_DENIED: { action: "refused", exit: 3, http: 403, summary: "The guest's agent refused a request because the pod's policy does not allow it." },
  ERR_SANDBOX_FILES: { action: "caller", exit: 1, http: 400, summary: "A file of the host cannot be copied into the guest." },
  ERR_SANDBOX_LAYER: { action: "caller", exit: 1, http: 500, summary: "An image layer cannot be prepared for attaching." },
  ERR_SANDBOX_POLICY: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "The guest's agent refused the policy itself: it is not the one of the launch, or no policy.",
  },
  ERR_SANDBOX_SPEC: { action: "caller", exit: 2, http: 400, summary: "The OCI specification of a container is not one that can be sent to the guest." },
  ERR_SANDBOX_TIMEOUT: { action: "transient", exit: 1, http: 504, summary: "The guest's agent did not answer in time." },
};

/** Errors of `host/sandbox`. */
export class SandboxError extends SealpodError<SandboxErrorCode> {
  constructor(code: SandboxErrorCode, message: string, options?: SealpodErrorOptions) {
    super(SANDBOX_ERRORS, code, message, options);
  }
}
