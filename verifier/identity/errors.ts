import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link IdentityError}. */
export type IdentityErrorCode =
  | "ERR_IDENTITY_ARGUMENT"
  | "ERR_IDENTITY_ASSERTION"
  | "ERR_IDENTITY_CLIENT"
  | "ERR_IDENTITY_CONFLICT"
  | "ERR_IDENTITY_EXPIRED"
  | "ERR_IDENTITY_FEDERATION"
  | "ERR_IDENTITY_NOT_FOUND"
  | "ERR_IDENTITY_REQUEST"
  | "ERR_IDENTITY_SECRET"
  | "ERR_IDENTITY_SERVICE"
  | "ERR_IDENTITY_STORE"
  | "ERR_IDENTITY_TOO_LARGE"
  | "ERR_IDENTITY_UNREACHABLE";

/** Rows of `verifier/identity`. */
export const IDENTITY_ERRORS: ErrorTable<IdentityErrorCode> = {
  ERR_IDENTITY_ARGUMENT: {
    action: "caller",
    exit: 2,
    http: 400,
    summary: "A value given to the identity service (issuer, subject, lifetime, name) is not usable.",
  },
  ERR_IDENTITY_ASSERTION: { action: "refused", exit: 1, http: 401, summary: "The client assertion is not a token that its issuer signed." },
  ERR_IDENTITY_CLIENT: { action: "caller", exit: 1, http: 400, summary: "No application with this client id is registered in the tenant." },
  ERR_IDENTITY_CONFLICT: {
    action: "caller",
    exit: 1,
    http: 409,
    summary: "The application already has a credential with this name, or with this issuer and subject, or as many as it may have.",
  },
  ERR_IDENTITY_EXPIRED: { action: "transient", exit: 1, http: 401, summary: "The client assertion is expired or not yet valid." },
  ERR_IDENTITY_FEDERATION: { action: "refused", exit: 1, http: 401, summary: "No federated identity credential of the application matches the assertion." },
  ERR_IDENTITY_NOT_FOUND: {
    action: "caller",
    exit: 1,
    http: 404,
    summary: "There is no application, managed identity, credential or key with the name that was given.",
  },
  ERR_IDENTITY_REQUEST: { action: "caller", exit: 1, http: 400, summary: "The token request is malformed, or names an unknown tenant, grant or resource." },
  ERR_IDENTITY_SECRET: { action: "refused", exit: 1, http: 401, summary: "The client secret is wrong or expired, or the application has none." },
  ERR_IDENTITY_SERVICE: {
    action: "caller",
    exit: 1,
    http: 502,
    summary: "An identity service refused a request, cannot be reached, or gives an answer that is none.",
  },
  ERR_IDENTITY_STORE: { action: "caller", exit: 1, http: 500, summary: "The identity database cannot be opened or read with this master key." },
  ERR_IDENTITY_TOO_LARGE: { action: "refused", exit: 1, http: 413, summary: "A request has a larger body than any client sends." },
  ERR_IDENTITY_UNREACHABLE: {
    action: "transient",
    exit: 1,
    http: 400,
    summary: "The issuer of a federated token cannot be asked for its keys, or its discovery document is not its own.",
  },
};

/** Errors of the identity service. */
export class IdentityError extends SealpodError<IdentityErrorCode> {
  constructor(code: IdentityErrorCode, message: string, options?: SealpodErrorOptions) {
    super(IDENTITY_ERRORS, code, message, options);
  }
}
