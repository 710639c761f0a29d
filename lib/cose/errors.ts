import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link CoseError}. */
export type CoseErrorCode =
  | "ERR_COSE_CBOR"
  | "ERR_COSE_LIMIT"
  | "ERR_COSE_STRUCTURE"
  | "ERR_COSE_ALGORITHM"
  | "ERR_COSE_KEY"
  | "ERR_COSE_SIGNATURE"
  | "ERR_COSE_CERTIFICATE"
  | "ERR_COSE_DID"
  | "ERR_COSE_ISSUER"
  | "ERR_COSE_SVN"
  | "ERR_COSE_PAYLOAD";

/** Rows of `lib/cose`. */
export const COSE_ERRORS: ErrorTable<CoseErrorCode> = {
  ERR_COSE_CBOR: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "Bytes are not CBOR in its shortest form (RFC 8949 section 4.1) with each key once, or hold a value that has no place in COSE.",
  },
  ERR_COSE_LIMIT: { action: "refused", exit: 1, http: 413, summary: "A CBOR item is larger or deeper than a named limit." },
  ERR_COSE_STRUCTURE: { action: "caller", exit: 1, http: 400, summary: "A message is not a COSE_Sign1 with the headers that it needs (RFC 9052)." },
  ERR_COSE_ALGORITHM: { action: "refused", exit: 1, http: 400, summary: "The signature algorithm is not ES256, ES384, ES512 or PS384." },
  ERR_COSE_KEY: { action: "refused", exit: 1, http: 400, summary: "The key does not fit the signature algorithm." },
  ERR_COSE_SIGNATURE: { action: "refused", exit: 3, http: 403, summary: "The signature does not verify under the key." },
  ERR_COSE_CERTIFICATE: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "The certificates in x5chain are malformed, or do not verify up to the one that the did:x509 names.",
  },
  ERR_COSE_DID: { action: "refused", exit: 3, http: 403, summary: "A did:x509 identifier is malformed, or does not describe the certificates." },
  ERR_COSE_ISSUER: { action: "refused", exit: 3, http: 403, summary: "No trusted issuer has signed for this feed." },
  ERR_COSE_SVN: { action: "refused", exit: 3, http: 403, summary: "The endorsed version is older than the caller accepts." },
  ERR_COSE_PAYLOAD: { action: "caller", exit: 1, http: 400, summary: "The payload of an endorsement does not have the expected fields." },
};

/** Errors of `lib/cose`. */
export class CoseError extends SealpodError<CoseErrorCode> {
  constructor(code: CoseErrorCode, message: string, options?: SealpodErrorOptions) {
    super(COSE_ERRORS, code, message, options);
  }
}
