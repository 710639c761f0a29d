import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link TsmError}. */
export type TsmErrorCode =
  | "ERR_TSM_INPUT"
  | "ERR_TSM_UNAVAILABLE"
  | "ERR_TSM_PROVIDER"
  | "ERR_TSM_REFUSED"
  | "ERR_TSM_SERVE"
  | "ERR_TSM_CONFLICT"
  | "ERR_TSM_TIMEOUT"
  | "ERR_TSM_FORMAT";

/** Rows of `guest/tsm`. */
export const TSM_ERRORS: ErrorTable<TsmErrorCode> = {
  ERR_TSM_INPUT: { action: "caller", exit: 1, http: 400, summary: "REPORT_DATA is not 1 to 64 bytes, or the VMPL is none that may be asked for." },
  ERR_TSM_UNAVAILABLE: {
    action: "caller",
    exit: 1,
    http: 503,
    summary: "No source of reports is there, or it cannot be used; the message names each that was looked for.",
  },
  ERR_TSM_PROVIDER: { action: "refused", exit: 1, http: 502, summary: "The report interface is served by another provider than SEV-SNP's." },
  ERR_TSM_REFUSED: { action: "refused", exit: 1, http: 502, summary: "The report interface refused the request or gave no report." },
  ERR_TSM_SERVE: { action: "caller", exit: 1, http: 500, summary: "The directory that stands in for configfs-tsm cannot be served." },
  ERR_TSM_CONFLICT: {
    action: "transient",
    exit: 1,
    http: 503,
    summary: "The report entry was busy, or someone else changed it, each time that a report was asked for.",
  },
  ERR_TSM_TIMEOUT: { action: "transient", exit: 1, http: 504, summary: "The report interface did not answer in time, or the caller gave up." },
  ERR_TSM_FORMAT: { action: "refused", exit: 1, http: 502, summary: "An attribute of the report interface is malformed or too large." },
};

/** Errors of `guest/tsm`. */
export class TsmError extends SealpodError<TsmErrorCode> {
  constructor(code: TsmErrorCode, message: string, options?: SealpodErrorOptions) {
    super(TSM_ERRORS, code, message, options);
  }
}
