import { SealpodError } from "@sealpod/core";
import type { ErrorTable, SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link IoError}. */
export type IoErrorCode = "ERR_IO_ESCAPE" | "ERR_IO_READ" | "ERR_IO_WRITE" | "ERR_IO_RANGE" | "ERR_IO_LIMIT" | "ERR_IO_LOCKED" | "ERR_IO_COMMAND";

/** Rows of `laptop/io`. */
export const IO_ERRORS: ErrorTable<IoErrorCode> = {
  ERR_IO_ESCAPE: { action: "refused", exit: 1, http: 400, summary: "A path leads out of the directory it was looked up in." },
  ERR_IO_READ: { action: "caller", exit: 1, http: 500, summary: "A file cannot be read." },
  ERR_IO_WRITE: { action: "caller", exit: 1, http: 500, summary: "A file cannot be written." },
  ERR_IO_RANGE: { action: "caller", exit: 1, http: 500, summary: "A read is not inside its file." },
  ERR_IO_LIMIT: { action: "refused", exit: 1, http: 413, summary: "A file or a command's output is larger than a limit." },
  ERR_IO_LOCKED: { action: "transient", exit: 1, http: 409, summary: "Another process holds a lock." },
  ERR_IO_COMMAND: { action: "caller", exit: 1, http: 500, summary: "A command is missing, failed, or ran too long." },
};

/** Errors of `laptop/io`. */
export class IoError extends SealpodError<IoErrorCode> {
  constructor(code: IoErrorCode, message: string, options?: SealpodErrorOptions) {
    super(IO_ERRORS, code, message, options);
  }
}

/** The `code` of a system error, e.g. `ENOENT`. */
export function systemCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
