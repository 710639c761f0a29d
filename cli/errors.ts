import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link CliError}. */
export type CliErrorCode = "ERR_CLI_USAGE" | "ERR_CLI_FILE" | "ERR_CLI_NOT_UP" | "ERR_CLI_POD_ENDED" | "ERR_CLI_PLATFORM";

/** Rows of the CLI. */
export const CLI_ERRORS: ErrorTable<CliErrorCode> = {
  ERR_CLI_USAGE: { action: "caller", exit: 2, http: 400, summary: "The command line is not understood." },
  ERR_CLI_FILE: { action: "caller", exit: 1, http: 400, summary: "A file named on the command line cannot be read or written." },
  ERR_CLI_NOT_UP: { action: "caller", exit: 1, http: 503, summary: "The laptop services are not running; start them with `sealpod up`." },
  ERR_CLI_POD_ENDED: { action: "transient", exit: 1, http: 503, summary: "The pod's sandbox ended before the command was done." },
  ERR_CLI_PLATFORM: { action: "caller", exit: 1, http: 501, summary: "This machine cannot do what the command needs." },
};

/** Errors of the command line itself. */
export class CliError extends SealpodError<CliErrorCode> {
  constructor(code: CliErrorCode, message: string, options?: SealpodErrorOptions) {
    super(CLI_ERRORS, code, message, options);
  }
}
