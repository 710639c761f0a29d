import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link EncfsError}. */
export type EncfsErrorCode = "ERR_ENCFS_BLOB" | "ERR_ENCFS_CONFIGURATION" | "ERR_ENCFS_KEY" | "ERR_ENCFS_MOUNT" | "ERR_ENCFS_PROTOCOL";

/** Rows of `guest/encfs`. */
export const ENCFS_ERRORS: ErrorTable<EncfsErrorCode> = {
  ERR_ENCFS_BLOB: { action: "transient", exit: 1, http: 502, summary: "The blob with the encrypted filesystem cannot be read or written." },
  ERR_ENCFS_CONFIGURATION: { action: "caller", exit: 2, http: 500, summary: "EncfsSideCarArgs or another setting of the sidecar is not usable." },
  ERR_ENCFS_KEY: { action: "refused", exit: 3, http: 403, summary: "The released key is no key for an encrypted filesystem." },
  ERR_ENCFS_MOUNT: { action: "caller", exit: 1, http: 500, summary: "The filesystem cannot be attached, opened or mounted." },
  ERR_ENCFS_PROTOCOL: { action: "caller", exit: 1, http: 500, summary: "The client of the block device did not speak NBD." },
};

/** Errors of `guest/encfs`; none of them contains a byte of a key or the query of a URL. */
export class EncfsError extends SealpodError<EncfsErrorCode> {
  constructor(code: EncfsErrorCode, message: string, options?: SealpodErrorOptions) {
    super(ENCFS_ERRORS, code, message, options);
  }
}
