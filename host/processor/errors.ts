import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ProcessorError}. */
export type ProcessorErrorCode = "ERR_PROCESSOR_UNAVAILABLE" | "ERR_PROCESSOR_RESPONSE";

/** Rows of `host/processor`. */
export const PROCESSOR_ERRORS: ErrorTable<ProcessorErrorCode> = {
  ERR_PROCESSOR_UNAVAILABLE: { action: "transient", exit: 1, http: 503, summary: "The emulated security processor does not answer." },
  ERR_PROCESSOR_RESPONSE: { action: "caller", exit: 1, http: 502, summary: "The emulated security processor refused a request, or its answer is malformed." },
};

/** Errors of `host/processor`. */
export class ProcessorError extends SealpodError<ProcessorErrorCode> {
  constructor(code: ProcessorErrorCode, message: string, options?: SealpodErrorOptions) {
    super(PROCESSOR_ERRORS, code, message, options);
  }
}
