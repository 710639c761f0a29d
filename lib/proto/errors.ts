import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ProtoError}. */
export type ProtoErrorCode = "ERR_PROTO_DECODE" | "ERR_PROTO_ENCODE" | "ERR_PROTO_TYPE";

/** Rows of `lib/proto`. */
export const PROTO_ERRORS: ErrorTable<ProtoErrorCode> = {
  ERR_PROTO_DECODE: { action: "caller", exit: 1, http: 400, summary: "Bytes are not the protocol buffer message that they should be." },
  ERR_PROTO_ENCODE: { action: "caller", exit: 1, http: 500, summary: "A value does not fit its protocol buffer field." },
  ERR_PROTO_TYPE: { action: "caller", exit: 1, http: 500, summary: "A message of one type was given with the description of another." },
};

/** Errors of `lib/proto`. */
export class ProtoError extends SealpodError<ProtoErrorCode> {
  constructor(code: ProtoErrorCode, message: string, options?: SealpodErrorOptions) {
    super(PROTO_ERRORS, code, message, options);
  }
}
