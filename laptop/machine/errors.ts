import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link MachineError}. */
export type MachineErrorCode = "ERR_MACHINE_ISOLATION";

/** Rows of `laptop/machine`. */
export const MACHINE_ERRORS: ErrorTable<MachineErrorCode> = {
  ERR_MACHINE_ISOLATION: { action: "caller", exit: 1, http: 500, summary: "This machine cannot run pods with the isolation that was asked for." },
};

/** Errors of `laptop/machine`. */
export class MachineError extends SealpodError<MachineErrorCode> {
  constructor(code: MachineErrorCode, message: string, options?: SealpodErrorOptions) {
    super(MACHINE_ERRORS, code, message, options);
  }
}
