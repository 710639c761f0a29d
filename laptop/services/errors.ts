import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ServicesError}. */
export type ServicesErrorCode =
  | "ERR_SERVICES_RUNNING"
  | "ERR_SERVICES_NOT_RUNNING"
  | "ERR_SERVICES_PORT"
  | "ERR_SERVICES_STATE"
  | "ERR_SERVICES_ARGUMENT"
  | "ERR_SERVICES_FETCH";

/** Rows of `laptop/services`. */
export const SERVICES_ERRORS: ErrorTable<ServicesErrorCode> = {
  ERR_SERVICES_RUNNING: { action: "caller", exit: 1, http: 409, summary: "The services already run on this state directory." },
  ERR_SERVICES_NOT_RUNNING: { action: "caller", exit: 1, http: 503, summary: "No services run on this state directory." },
  ERR_SERVICES_PORT: { action: "caller", exit: 1, http: 409, summary: "The port of the services cannot be listened on." },
  ERR_SERVICES_STATE: { action: "caller", exit: 1, http: 500, summary: "The state directory holds something that the services cannot use." },
  ERR_SERVICES_ARGUMENT: { action: "caller", exit: 2, http: 400, summary: "An option of the services is not usable." },
  ERR_SERVICES_FETCH: { action: "transient", exit: 1, http: 502, summary: "A request to one of the laptop's services failed before an answer came." },
};

/** Errors of `laptop/services`. */
export class ServicesError extends SealpodError<ServicesErrorCode> {
  constructor(code: ServicesErrorCode, message: string, options?: SealpodErrorOptions) {
    super(SERVICES_ERRORS, code, message, options);
  }
}
