import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link KeyvaultError}. */
export type KeyvaultErrorCode =
  | "ERR_KEYVAULT_ACCESS"
  | "ERR_KEYVAULT_ARGUMENT"
  | "ERR_KEYVAULT_BAD_PARAMETER"
  | "ERR_KEYVAULT_CONFLICT"
  | "ERR_KEYVAULT_ISSUER"
  | "ERR_KEYVAULT_KEY_OPERATION"
  | "ERR_KEYVAULT_LIMIT"
  | "ERR_KEYVAULT_MEDIA_TYPE"
  | "ERR_KEYVAULT_METHOD"
  | "ERR_KEYVAULT_NOT_FOUND"
  | "ERR_KEYVAULT_RELEASE"
  | "ERR_KEYVAULT_STORE"
  | "ERR_KEYVAULT_THROTTLED"
  | "ERR_KEYVAULT_TOKEN"
  | "ERR_KEYVAULT_TOO_LARGE"
  | "ERR_KEYVAULT_UNAUTHORIZED"
  | "ERR_KEYVAULT_UNSUPPORTED";

/** Rows of `verifier/keyvault`. */
export const KEYVAULT_ERRORS: ErrorTable<KeyvaultErrorCode> = {
  ERR_KEYVAULT_ACCESS: { action: "refused", exit: 3, http: 403, summary: "Neither access policy nor role gives the caller this permission." },
  ERR_KEYVAULT_ARGUMENT: { action: "caller", exit: 2, http: 500, summary: "The key vault was set up with a value that is not usable." },
  ERR_KEYVAULT_BAD_PARAMETER: { action: "caller", exit: 1, http: 400, summary: "The request, the key or the release policy in it is not well-formed." },
  ERR_KEYVAULT_CONFLICT: { action: "caller", exit: 1, http: 409, summary: "The name is taken, or a deleted but recoverable key or secret has it." },
  ERR_KEYVAULT_ISSUER: { action: "transient", exit: 1, http: 503, summary: "The keys of a token issuer cannot be fetched." },
  ERR_KEYVAULT_KEY_OPERATION: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "The key or secret does not allow this: it is disabled, expired, not exportable, or not for this operation.",
  },
  ERR_KEYVAULT_LIMIT: { action: "caller", exit: 1, http: 400, summary: "A vault, key or secret has as many parts as it can have." },
  ERR_KEYVAULT_MEDIA_TYPE: { action: "caller", exit: 1, http: 415, summary: "The request body is not application/json." },
  ERR_KEYVAULT_METHOD: { action: "caller", exit: 1, http: 405, summary: "The path is there, but not for this HTTP method." },
  ERR_KEYVAULT_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "There is no such vault, key, secret, version or page." },
  ERR_KEYVAULT_RELEASE: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "The attestation token does not satisfy the release policy; the vault's audit says which claim.",
  },
  ERR_KEYVAULT_STORE: { action: "caller", exit: 1, http: 500, summary: "The key database cannot be opened or read with this master key." },
  ERR_KEYVAULT_THROTTLED: {
    action: "transient",
    exit: 1,
    http: 429,
    summary: "Too many costly requests of this kind wait already; the answer says when to try again.",
  },
  ERR_KEYVAULT_TOKEN: { action: "refused", exit: 1, http: 403, summary: "A token is malformed, expired, of another issuer, or not signed by its issuer." },
  ERR_KEYVAULT_TOO_LARGE: { action: "refused", exit: 1, http: 413, summary: "The request body is larger than any request of the protocol." },
  ERR_KEYVAULT_UNAUTHORIZED: { action: "refused", exit: 1, http: 401, summary: "The request has no bearer token of a configured issuer for this vault." },
  ERR_KEYVAULT_UNSUPPORTED: { action: "caller", exit: 1, http: 501, summary: "This operation of Key Vault is not implemented here." },
};

/** Errors of the key vault. `details.inner` becomes `innererror.code` of the answer. */
export class KeyvaultError extends SealpodError<KeyvaultErrorCode> {
  constructor(code: KeyvaultErrorCode, message: string, options?: SealpodErrorOptions) {
    super(KEYVAULT_ERRORS, code, message, options);
  }
}

/** A `BadParameter` answer. @param inner e.g. `AKV.SKR.1004` */
export function badParameter(message: string, inner?: string, cause?: unknown): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_BAD_PARAMETER", message, { details: { inner }, cause });
}
