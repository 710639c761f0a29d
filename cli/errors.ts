import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link CliError}. */
export type CliErrorCode =
  | "ERR_CLI_USAGE"
  | "ERR_CLI_FILE"
  | "ERR_CLI_KBS"
  | "ERR_CLI_KBS_REFUSED"
  | "ERR_CLI_NOT_UP"
  | "ERR_CLI_POD_ENDED"
  | "ERR_CLI_INTERRUPTED"
  | "ERR_CLI_PLATFORM"
  | "ERR_CLI_VAULT"
  | "ERR_CLI_VAULT_CONFLICT"
  | "ERR_CLI_VAULT_FORBIDDEN"
  | "ERR_CLI_VAULT_NOT_FOUND"
  | "ERR_CLI_VAULT_REFUSED"
  | "ERR_CLI_VAULT_UNAUTHORIZED";

/** Rows of the CLI. */
export const CLI_ERRORS: ErrorTable<CliErrorCode> = {
  ERR_CLI_USAGE: { action: "caller", exit: 2, http: 400, summary: "The command line is not understood." },
  ERR_CLI_FILE: { action: "caller", exit: 1, http: 400, summary: "A file named on the command line cannot be read or written." },
  ERR_CLI_KBS: { action: "transient", exit: 1, http: 502, summary: "The key broker cannot be reached, failed, or gave an answer that is none." },
  ERR_CLI_KBS_REFUSED: { action: "caller", exit: 1, http: 401, summary: "The key broker refused the request; the message has its reason." },
  ERR_CLI_NOT_UP: { action: "caller", exit: 1, http: 503, summary: "The laptop services are not running; start them with `sealpod up`." },
  ERR_CLI_POD_ENDED: { action: "transient", exit: 1, http: 503, summary: "The pod's sandbox ended before the command was done." },
  ERR_CLI_INTERRUPTED: { action: "caller", exit: 1, http: 503, summary: "The command was ended by a signal before it was done; nothing was left behind." },
  ERR_CLI_PLATFORM: { action: "caller", exit: 1, http: 501, summary: "This machine cannot do what the command needs." },
  ERR_CLI_VAULT: { action: "transient", exit: 1, http: 502, summary: "The vault cannot be reached, failed, or gave an answer that is none." },
  ERR_CLI_VAULT_CONFLICT: { action: "caller", exit: 1, http: 409, summary: "What is there already stands in the way, perhaps deleted and not yet purged." },
  ERR_CLI_VAULT_FORBIDDEN: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "The vault does not let this identity do that, or does not release the key to this evidence.",
  },
  ERR_CLI_VAULT_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "The vault has no such key, secret, version or operation." },
  ERR_CLI_VAULT_REFUSED: { action: "caller", exit: 1, http: 400, summary: "The vault refused the request; the message has its reason." },
  ERR_CLI_VAULT_UNAUTHORIZED: { action: "caller", exit: 1, http: 401, summary: "The vault did not accept the access token." },
};

/** Errors of the command line itself. */
export class CliError extends SealpodError<CliErrorCode> {
  constructor(code: CliErrorCode, message: string, options?: SealpodErrorOptions) {
    super(CLI_ERRORS, code, message, options);
  }
}
