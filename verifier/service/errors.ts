import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ServiceError}. */
export type ServiceErrorCode = "ERR_SERVICE_ARGUMENT" | "ERR_SERVICE_BODY" | "ERR_SERVICE_CONFIG" | "ERR_SERVICE_LISTEN" | "ERR_SERVICE_TLS";

/** Rows of `verifier/service`. */
export const SERVICE_ERRORS: ErrorTable<ServiceErrorCode> = {
  ERR_SERVICE_ARGUMENT: { action: "caller", exit: 2, http: 500, summary: "A service is built with an argument that it cannot work with." },
  ERR_SERVICE_BODY: { action: "caller", exit: 1, http: 413, summary: "The body of a request is larger than the service takes." },
  ERR_SERVICE_CONFIG: { action: "caller", exit: 2, http: 500, summary: "The configuration of a service is not understood, or names a file that is no use." },
  ERR_SERVICE_LISTEN: { action: "caller", exit: 1, http: 500, summary: "A service cannot listen on the address that it was given." },
  ERR_SERVICE_TLS: { action: "caller", exit: 2, http: 500, summary: "The TLS certificate or key of a service cannot be used." },
};

/** Errors of `verifier/service`. */
export class ServiceError extends SealpodError<ServiceErrorCode> {
  constructor(code: ServiceErrorCode, message: string, options?: SealpodErrorOptions) {
    super(SERVICE_ERRORS, code, message, options);
  }
}
