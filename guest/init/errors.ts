import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link InitError}. */
export type InitErrorCode = "ERR_INIT_COMPILE" | "ERR_INIT_PROGRAM";

/** Rows of `guest/init`. */
export const INIT_ERRORS: ErrorTable<InitErrorCode> = {
  ERR_INIT_COMPILE: { action: "caller", exit: 1, http: 500, summary: "The C compiler did not make the guest's first process." },
  ERR_INIT_PROGRAM: { action: "refused", exit: 1, http: 500, summary: "What the C compiler made is not a static program for the guest." },
};

/** An error of `@sealpod/init`. */
export class InitError extends SealpodError<InitErrorCode> {
  constructor(code: InitErrorCode, message: string, options: SealpodErrorOptions = {}) {
    super(INIT_ERRORS, code, message, options);
  }
}
