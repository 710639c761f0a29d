import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link Luks2Error}. */
export type Luks2ErrorCode = "ERR_LUKS2_ARGUMENT" | "ERR_LUKS2_HEADER" | "ERR_LUKS2_KEY" | "ERR_LUKS2_LIMIT" | "ERR_LUKS2_UNSUPPORTED";

/** Rows of `lib/luks2`. */
export const LUKS2_ERRORS: ErrorTable<Luks2ErrorCode> = {
  ERR_LUKS2_ARGUMENT: { action: "caller", exit: 2, http: 400, summary: "A size, an offset or a key for a LUKS2 volume is not usable." },
  ERR_LUKS2_HEADER: { action: "caller", exit: 1, http: 400, summary: "Bytes are not a LUKS2 header, or neither of its two copies is whole." },
  ERR_LUKS2_KEY: { action: "refused", exit: 3, http: 403, summary: "The key opens no keyslot of the LUKS2 volume." },
  ERR_LUKS2_LIMIT: { action: "refused", exit: 1, http: 413, summary: "A LUKS2 header asks for more work or memory than a named limit." },
  ERR_LUKS2_UNSUPPORTED: { action: "caller", exit: 1, http: 501, summary: "The LUKS2 volume uses a cipher, hash or keyslot that is not read here." },
};

/** Errors of `lib/luks2`; none of them contains a byte of a key. */
export class Luks2Error extends SealpodError<Luks2ErrorCode> {
  constructor(code: Luks2ErrorCode, message: string, options?: SealpodErrorOptions) {
    super(LUKS2_ERRORS, code, message, options);
  }
}
