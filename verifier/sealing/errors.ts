import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link SealingError}. */
export type SealingErrorCode = "ERR_SEALING_MASTER_KEY" | "ERR_SEALING_MASTER_KEY_ACCESS" | "ERR_SEALING_PKCS11" | "ERR_SEALING_RECORD" | "ERR_SEALING_RING";

/** Rows of `verifier/sealing`. */
export const SEALING_ERRORS: ErrorTable<SealingErrorCode> = {
  ERR_SEALING_MASTER_KEY: {
    action: "caller",
    exit: 2,
    http: 500,
    summary: "A master key is missing, cannot be read, is not 32 bytes of randomness, or does not open what it should.",
  },
  ERR_SEALING_MASTER_KEY_ACCESS: { action: "refused", exit: 2, http: 500, summary: "The file of a master key can be read by others than the service." },
  ERR_SEALING_PKCS11: {
    action: "transient",
    exit: 1,
    http: 503,
    summary: "The token that holds the master key cannot be used: module, token, PIN, key or tool.",
  },
  ERR_SEALING_RECORD: {
    action: "caller",
    exit: 1,
    http: 500,
    summary: "A sealed record does not open: other bytes, another place, or a wrapping key that is gone.",
  },
  ERR_SEALING_RING: {
    action: "caller",
    exit: 1,
    http: 500,
    summary: "The table of wrapping keys makes no sense, or kept changing while it was to be changed.",
  },
};

/** Errors of `verifier/sealing`; none of them contains a byte of the key. */
export class SealingError extends SealpodError<SealingErrorCode> {
  constructor(code: SealingErrorCode, message: string, options?: SealpodErrorOptions) {
    super(SEALING_ERRORS, code, message, options);
  }
}

/** The error for a wrapped key that is another key's, or another place's. */
export function doesNotOpen(place: string, id: string, cause: unknown): SealingError {
  return new SealingError("ERR_SEALING_MASTER_KEY", `the ${place} does not open with the master key ${id}`, {
    cause,
    details: { master: id },
    hint: "Use the master key that the database was made with, or the one it was changed to last.",
  });
}
