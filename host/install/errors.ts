import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link InstallError}. */
export type InstallErrorCode =
  | "ERR_INSTALL_SOURCE"
  | "ERR_INSTALL_FOREIGN"
  | "ERR_INSTALL_CONTAINERD"
  | "ERR_INSTALL_RECORD"
  | "ERR_INSTALL_BUSY"
  | "ERR_INSTALL_IO";

/** Rows of `host/install`. */
export const INSTALL_ERRORS: ErrorTable<InstallErrorCode> = {
  ERR_INSTALL_SOURCE: { action: "caller", exit: 1, http: 400, summary: "A file that is to be installed is missing, or is not what it should be." },
  ERR_INSTALL_FOREIGN: {
    action: "refused",
    exit: 1,
    http: 409,
    summary: "A file that is to be written is there already, and is not Sealpod's; nothing was changed.",
  },
  ERR_INSTALL_CONTAINERD: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "containerd's configuration cannot be read, cannot be changed without loss, or has a runtime of that name; it was left as it is.",
  },
  ERR_INSTALL_RECORD: { action: "caller", exit: 1, http: 400, summary: "The record of what is installed is malformed." },
  ERR_INSTALL_BUSY: {
    action: "refused",
    exit: 1,
    http: 409,
    summary: "What is to be removed is in use: pods, or the emulated security processor; nothing was changed.",
  },
  ERR_INSTALL_IO: { action: "caller", exit: 1, http: 500, summary: "A file of the node cannot be read, written or removed." },
};

/** Errors of `host/install`. */
export class InstallError extends SealpodError<InstallErrorCode> {
  constructor(code: InstallErrorCode, message: string, options?: SealpodErrorOptions) {
    super(INSTALL_ERRORS, code, message, options);
  }
}
