import type { Context } from "hono";
import { messageOf, type Logger } from "@sealpod/core";
import { challenge, type TokenIssuer } from "../bearer.ts";
import { KeyvaultError, type KeyvaultErrorCode } from "../errors.ts";
import type { KeyvaultEnv } from "./exchange.ts";

/** `error.code` of the answers. */
const WIRE_CODES: Readonly<Record<KeyvaultErrorCode, string>> = {
  ERR_KEYVAULT_ACCESS: "Forbidden",
  ERR_KEYVAULT_ARGUMENT: "InternalServerError",
  ERR_KEYVAULT_BAD_PARAMETER: "BadParameter",
  ERR_KEYVAULT_CONFLICT: "Conflict",
  ERR_KEYVAULT_ISSUER: "ServiceUnavailable",
  ERR_KEYVAULT_KEY_OPERATION: "Forbidden",
  ERR_KEYVAULT_LIMIT: "BadParameter",
  ERR_KEYVAULT_MEDIA_TYPE: "UnsupportedMediaType",
  ERR_KEYVAULT_METHOD: "MethodNotAllowed",
  ERR_KEYVAULT_NOT_FOUND: "NotFound",
  ERR_KEYVAULT_RELEASE: "Forbidden",
  ERR_KEYVAULT_STORE: "InternalServerError",
  ERR_KEYVAULT_THROTTLED: "Throttled",
  ERR_KEYVAULT_TOKEN: "Forbidden",
  ERR_KEYVAULT_TOO_LARGE: "RequestEntityTooLarge",
  ERR_KEYVAULT_UNAUTHORIZED: "Unauthorized",
  ERR_KEYVAULT_UNSUPPORTED: "NotImplemented",
};

/**
 * The answer to an error, with the body of the genuine service. What is not the caller's fault says no more than the id of the request.
 * @param challenged whose token the client should bring, for 401
 */
export function answerError(
  logger: Logger,
  error: Error,
  c: Context<KeyvaultEnv>,
  challenged: () => { readonly issuer: TokenIssuer; readonly resource: string },
): Response {
  const requestId = c.get("requestId");
  if (!(error instanceof KeyvaultError) || error.row.http === 500) {
    logger.log("error", "request failed", { request: requestId, problem: messageOf(error) });
    return c.json({ error: { code: "InternalServerError", message: `The service failed. Request id: ${requestId}` } }, 500);
  }
  logger.log("warn", "request refused", { request: requestId, code: error.code, problem: error.message });
  if (error.code === "ERR_KEYVAULT_ISSUER") {
    // The addresses in it, and why they do not answer, are for those who run the service.
    c.header("retry-after", "10");
    return c.json({ error: { code: "ServiceUnavailable", message: `The keys of a token issuer cannot be fetched. Request id: ${requestId}` } }, 503);
  }
  const { inner, retryAfter } = error.details;
  if (typeof retryAfter === "number") c.header("retry-after", `${retryAfter}`);
  // The inner code of "not found" is the code itself: KeyNotFound.
  const code = error.code === "ERR_KEYVAULT_NOT_FOUND" && typeof inner === "string" ? inner : WIRE_CODES[error.code];
  const body = { code, message: error.message, ...(typeof inner === "string" && inner !== code ? { innererror: { code: inner } } : {}) };
  if (error.code === "ERR_KEYVAULT_UNAUTHORIZED") {
    const { issuer, resource } = challenged();
    c.header("www-authenticate", challenge(issuer, resource, c.req.header("authorization") !== undefined));
  }
  return c.json({ error: body }, error.row.http);
}
