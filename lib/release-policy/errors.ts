import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ReleasePolicyError}. */
export type ReleasePolicyErrorCode = "ERR_RELEASE_POLICY";

/** Rows of `lib/release-policy`. */
export const RELEASE_POLICY_ERRORS: ErrorTable<ReleasePolicyErrorCode> = {
  ERR_RELEASE_POLICY: { action: "caller", exit: 1, http: 400, summary: "A release policy is no strict JSON, or not in the grammar of Key Vault." },
};

/** Errors of `lib/release-policy`; `details.path` says where. */
export class ReleasePolicyError extends SealpodError<ReleasePolicyErrorCode> {
  constructor(code: ReleasePolicyErrorCode, message: string, options?: SealpodErrorOptions) {
    super(RELEASE_POLICY_ERRORS, code, message, options);
  }
}
