import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";
import { STATUS, type TtrpcStatus } from "./status.ts";

/** Codes of {@link TtrpcError}. */
export type TtrpcErrorCode = "ERR_TTRPC_CANCELLED" | "ERR_TTRPC_CLOSED" | "ERR_TTRPC_LIMIT" | "ERR_TTRPC_MALFORMED" | "ERR_TTRPC_STATUS" | "ERR_TTRPC_TIMEOUT";

/** Rows of `lib/ttrpc`. */
export const TTRPC_ERRORS: ErrorTable<TtrpcErrorCode> = {
  ERR_TTRPC_CANCELLED: { action: "caller", exit: 1, http: 503, summary: "The caller gave up a ttRPC call before it was answered." },
  ERR_TTRPC_CLOSED: { action: "transient", exit: 1, http: 503, summary: "The ttRPC connection is closed." },
  ERR_TTRPC_LIMIT: { action: "caller", exit: 1, http: 413, summary: "A ttRPC message is larger than a frame may be." },
  ERR_TTRPC_MALFORMED: { action: "refused", exit: 1, http: 502, summary: "The peer sent bytes that are not ttRPC." },
  ERR_TTRPC_STATUS: { action: "refused", exit: 1, http: 502, summary: "The server answered a ttRPC call with an error status." },
  ERR_TTRPC_TIMEOUT: { action: "transient", exit: 1, http: 504, summary: "A ttRPC call was not answered in time." },
};

/** Options of {@link TtrpcError}. */
export interface TtrpcErrorOptions extends SealpodErrorOptions {
  /** The gRPC status; INTERNAL with the error's message if not given. */
  readonly status?: TtrpcStatus;
}

/** Errors of `lib/ttrpc`: what handlers throw and what calls reject with. */
export class TtrpcError extends SealpodError<TtrpcErrorCode> {
  /** The status that was received, or that a server answers with when a handler throws this. */
  readonly status: TtrpcStatus;

  constructor(code: TtrpcErrorCode, message: string, options: TtrpcErrorOptions = {}) {
    super(TTRPC_ERRORS, code, message, options);
    this.status = options.status ?? { code: STATUS.internal, message };
  }
}

/** The error that a handler throws to answer with a status. */
export function statusError(code: number, message: string, options: SealpodErrorOptions = {}): TtrpcError {
  return new TtrpcError("ERR_TTRPC_STATUS", message, { ...options, status: { code, message } });
}
