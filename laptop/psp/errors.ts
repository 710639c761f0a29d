import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link PspError}. */
export type PspErrorCode = "ERR_PSP_STATE" | "ERR_PSP_INPUT" | "ERR_PSP_LIMIT" | "ERR_PSP_CLOSED" | "ERR_PSP_NOT_FOUND" | "ERR_PSP_METHOD" | "ERR_PSP_SOCKET";

/** Rows of `laptop/psp`. */
export const PSP_ERRORS: ErrorTable<PspErrorCode> = {
  ERR_PSP_STATE: {
    action: "caller",
    exit: 1,
    http: 500,
    summary: "The stored keys of the emulated security processor are malformed, do not fit together, or are readable by others.",
  },
  ERR_PSP_INPUT: { action: "caller", exit: 1, http: 400, summary: "A request to the emulated security processor is malformed." },
  ERR_PSP_LIMIT: {
    action: "refused",
    exit: 1,
    http: 413,
    summary: "A request to the emulated security processor is above a named limit, or it has too many guests.",
  },
  ERR_PSP_CLOSED: { action: "caller", exit: 1, http: 409, summary: "The guest was closed; it gives no more reports." },
  ERR_PSP_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "The emulated security processor has no such guest or resource." },
  ERR_PSP_METHOD: { action: "caller", exit: 1, http: 405, summary: "The resource of the emulated security processor does not take this method." },
  ERR_PSP_SOCKET: {
    action: "caller",
    exit: 1,
    http: 500,
    summary: "The socket of the emulated security processor cannot be made, or another process serves it.",
  },
};

/** Errors of `laptop/psp`. */
export class PspError extends SealpodError<PspErrorCode> {
  constructor(code: PspErrorCode, message: string, options?: SealpodErrorOptions) {
    super(PSP_ERRORS, code, message, options);
  }
}
