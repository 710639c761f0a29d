import { SealpodError } from "@sealpod/core";
import type { ErrorTable, SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link VerityError}. */
export type VerityErrorCode =
  | "ERR_VERITY_TAR"
  | "ERR_VERITY_TAR_TRUNCATED"
  | "ERR_VERITY_TAR_UNSUPPORTED"
  | "ERR_VERITY_TAR_PATH"
  | "ERR_VERITY_LIMIT"
  | "ERR_VERITY_LAYOUT"
  | "ERR_VERITY_CORRUPT"
  | "ERR_VERITY_ARGUMENT";

/** Rows of `lib/verity`. */
export const VERITY_ERRORS: ErrorTable<VerityErrorCode> = {
  ERR_VERITY_TAR: { action: "refused", exit: 1, http: 400, summary: "A tar archive is malformed, or two common tar readers would read it differently." },
  ERR_VERITY_TAR_TRUNCATED: { action: "refused", exit: 1, http: 400, summary: "A tar archive ends inside a member." },
  ERR_VERITY_TAR_UNSUPPORTED: { action: "refused", exit: 1, http: 400, summary: "A tar archive has a member of a kind that image layers may not have." },
  ERR_VERITY_TAR_PATH: {
    action: "refused",
    exit: 1,
    http: 400,
    summary: "The path of a tar member leaves the directory it is unpacked to, or no file system can hold it.",
  },
  ERR_VERITY_LIMIT: { action: "refused", exit: 1, http: 413, summary: "A layer is larger than a named limit." },
  ERR_VERITY_LAYOUT: { action: "refused", exit: 1, http: 400, summary: "A layer file does not have the shape that its trailer states." },
  ERR_VERITY_CORRUPT: { action: "refused", exit: 1, http: 400, summary: "A block of a layer file does not match the dm-verity root hash." },
  ERR_VERITY_ARGUMENT: { action: "caller", exit: 1, http: 500, summary: "A value given to the verity or tar writer cannot be represented." },
};

/** Errors of `lib/verity`. */
export class VerityError extends SealpodError<VerityErrorCode> {
  constructor(code: VerityErrorCode, message: string, options?: SealpodErrorOptions) {
    super(VERITY_ERRORS, code, message, options);
  }
}
