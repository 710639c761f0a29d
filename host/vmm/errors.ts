import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link VmmError}. */
export type VmmErrorCode =
  | "ERR_VMM_AGENT"
  | "ERR_VMM_BOOT"
  | "ERR_VMM_CONFIG"
  | "ERR_VMM_DISK"
  | "ERR_VMM_FORWARD"
  | "ERR_VMM_MONITOR"
  | "ERR_VMM_STOPPED"
  | "ERR_VMM_TEMPLATE"
  | "ERR_VMM_UNAVAILABLE";

/** Rows of `host/vmm`. */
export const VMM_ERRORS: ErrorTable<VmmErrorCode> = {
  ERR_VMM_AGENT: { action: "transient", exit: 1, http: 503, summary: "The guest's agent does not take a connection." },
  ERR_VMM_BOOT: { action: "transient", exit: 1, http: 503, summary: "A machine did not come up." },
  ERR_VMM_CONFIG: { action: "caller", exit: 2, http: 400, summary: "A machine cannot be built as it is described." },
  ERR_VMM_DISK: { action: "caller", exit: 1, http: 400, summary: "A file cannot be attached to a machine as a disk." },
  ERR_VMM_FORWARD: { action: "caller", exit: 1, http: 409, summary: "A port of the host cannot be forwarded to a machine." },
  ERR_VMM_MONITOR: { action: "transient", exit: 1, http: 502, summary: "A virtual machine monitor refused a command, or gave an answer that cannot be used." },
  ERR_VMM_STOPPED: { action: "caller", exit: 1, http: 409, summary: "The machine no longer runs." },
  ERR_VMM_TEMPLATE: {
    action: "caller",
    exit: 1,
    http: 409,
    summary: "A machine cannot be started from the saved state of another, or its state cannot be saved.",
  },
  ERR_VMM_UNAVAILABLE: { action: "caller", exit: 1, http: 503, summary: "This host lacks a program or a permission that the driver needs." },
};

/** Errors of `host/vmm`. */
export class VmmError extends SealpodError<VmmErrorCode> {
  constructor(code: VmmErrorCode, message: string, options?: SealpodErrorOptions) {
    super(VMM_ERRORS, code, message, options);
  }
}
