import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link MuxError}. */
export type MuxErrorCode = "ERR_MUX_CLOSED" | "ERR_MUX_LIMIT" | "ERR_MUX_PROTOCOL" | "ERR_MUX_REFUSED" | "ERR_MUX_SERVICE";

/** Rows of `lib/mux`. */
export const MUX_ERRORS: ErrorTable<MuxErrorCode> = {
  ERR_MUX_CLOSED: { action: "transient", exit: 1, http: 503, summary: "The channel between host and guest, or one stream of it, is closed." },
  ERR_MUX_LIMIT: { action: "caller", exit: 1, http: 429, summary: "The channel has as many open streams as the other end allows." },
  ERR_MUX_PROTOCOL: { action: "refused", exit: 1, http: 502, summary: "The other end of the channel broke its protocol; the session was ended." },
  ERR_MUX_REFUSED: { action: "refused", exit: 1, http: 502, summary: "The other end of the channel does not serve what a stream was opened for." },
  ERR_MUX_SERVICE: { action: "caller", exit: 1, http: 400, summary: "The name of a service of the channel has a form that is not allowed." },
};

/** Errors of `lib/mux`. */
export class MuxError extends SealpodError<MuxErrorCode> {
  constructor(code: MuxErrorCode, message: string, options?: SealpodErrorOptions) {
    super(MUX_ERRORS, code, message, options);
  }
}

/** The error for bytes that a peer which keeps to the protocol does not send. */
export function protocolError(what: string, found: string | number, expected: string): MuxError {
  return new MuxError("ERR_MUX_PROTOCOL", `${what}: found ${found}, expected ${expected}`, { details: { found, expected } });
}
