import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link SealingError}. */
export type SealingErrorCode = "ERR_SEALING_MASTER_KEY" | "ERR_SEALING_MASTER_KEY_ACCESS";

/** Rows of `verifier/sealing`. */
export const SEALING_ERRORS: ErrorTable<SealingErrorCode> = {
  ERR_SEALING_MASTER_KEY: { action: "caller", exit: 2, http: 500, summary: "A master key is missing, cannot be read, or is not 32 bytes of randomness." },
  ERR_SEALING_MASTER_KEY_ACCESS: { action: "refused", exit: 2, http: 500, summary: "The file of a master key can be read by others than the service." },
};

/** Errors of `verifier/sealing`; none of them contains a byte of the key. */
export class SealingError extends SealpodError<SealingErrorCode> {
  constructor(code: SealingErrorCode, message: string, options?: SealpodErrorOptions) {
    super(SEALING_ERRORS, code, message, options);
  }
}
