import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link DemoError}. */
export type DemoErrorCode = "ERR_DEMO_STEP" | "ERR_DEMO_SERVICE" | "ERR_DEMO_ATTACK" | "ERR_DEMO_FILES";

/** Rows of `laptop/demo`. */
export const DEMO_ERRORS: ErrorTable<DemoErrorCode> = {
  ERR_DEMO_STEP: { action: "caller", exit: 1, http: 500, summary: "A step of the demo did not come out as it must." },
  ERR_DEMO_SERVICE: { action: "caller", exit: 1, http: 502, summary: "One of the laptop's services gave an answer that the demo did not expect." },
  ERR_DEMO_ATTACK: { action: "caller", exit: 2, http: 404, summary: "There is no attack of that name." },
  ERR_DEMO_FILES: { action: "caller", exit: 1, http: 400, summary: "A file that the demo needs is missing, or one that it would write exists." },
};

/** Errors of `laptop/demo`. */
export class DemoError extends SealpodError<DemoErrorCode> {
  constructor(code: DemoErrorCode, message: string, options?: SealpodErrorOptions) {
    super(DEMO_ERRORS, code, message, options);
  }
}
