import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link PkiError}. */
export type PkiErrorCode =
  | "ERR_PKI_DER"
  | "ERR_PKI_PEM"
  | "ERR_PKI_LIMIT"
  | "ERR_PKI_CERTIFICATE"
  | "ERR_PKI_ALGORITHM"
  | "ERR_PKI_KEY"
  | "ERR_PKI_SIGNATURE"
  | "ERR_PKI_ISSUER"
  | "ERR_PKI_VALIDITY"
  | "ERR_PKI_CONSTRAINT"
  | "ERR_PKI_ANCHOR"
  | "ERR_PKI_CRL"
  | "ERR_PKI_REVOKED"
  | "ERR_PKI_TEMPLATE";

/** Rows of `lib/pki`. */
export const PKI_ERRORS: ErrorTable<PkiErrorCode> = {
  ERR_PKI_DER: { action: "caller", exit: 1, http: 400, summary: "Bytes are not DER (X.690): one value has one encoding, and nothing follows it." },
  ERR_PKI_PEM: { action: "caller", exit: 1, http: 400, summary: "Text is not PEM (RFC 7468) with the expected label." },
  ERR_PKI_LIMIT: { action: "refused", exit: 1, http: 413, summary: "A certificate, CRL, chain or DER value is larger, longer or deeper than a named limit." },
  ERR_PKI_CERTIFICATE: { action: "caller", exit: 1, http: 400, summary: "A certificate does not have the structure of RFC 5280, version 3." },
  ERR_PKI_ALGORITHM: { action: "refused", exit: 1, http: 400, summary: "A signature algorithm, or its parameters, is not one of those supported." },
  ERR_PKI_KEY: { action: "refused", exit: 1, http: 400, summary: "A public key is malformed, too small, or does not fit the signature algorithm." },
  ERR_PKI_SIGNATURE: { action: "refused", exit: 3, http: 403, summary: "A signature does not verify under the issuer's key." },
  ERR_PKI_ISSUER: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "A certificate's issuer is not the subject of the next certificate, or no issuer was found.",
  },
  ERR_PKI_VALIDITY: { action: "refused", exit: 3, http: 403, summary: "A certificate is not yet, or no longer, valid." },
  ERR_PKI_CONSTRAINT: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "A certificate may not do what it is used for: CA flag, path length, key usage, or an unknown critical extension.",
  },
  ERR_PKI_ANCHOR: { action: "refused", exit: 3, http: 403, summary: "A chain ends in a certificate that is not one of the trust anchors." },
  ERR_PKI_CRL: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "A certificate revocation list is missing, malformed, out of date, or not signed by the issuer that it names.",
  },
  ERR_PKI_REVOKED: { action: "refused", exit: 3, http: 403, summary: "A certificate was revoked by its issuer." },
  ERR_PKI_TEMPLATE: {
    action: "caller",
    exit: 1,
    http: 500,
    summary: "A certificate or CRL that is to be issued was described with values that cannot be encoded.",
  },
};

/** Errors of `lib/pki`. */
export class PkiError extends SealpodError<PkiErrorCode> {
  constructor(code: PkiErrorCode, message: string, options?: SealpodErrorOptions) {
    super(PKI_ERRORS, code, message, options);
  }
}
