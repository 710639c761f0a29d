import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link SnpError}: each check of a report has its own. */
export type SnpErrorCode =
  | "ERR_SNP_LENGTH"
  | "ERR_SNP_VERSION"
  | "ERR_SNP_ALGORITHM"
  | "ERR_SNP_RESERVED"
  | "ERR_SNP_FIELD"
  | "ERR_SNP_SIGNING_KEY"
  | "ERR_SNP_PRODUCT"
  | "ERR_SNP_TCB_ORDER"
  | "ERR_SNP_CERTIFICATE"
  | "ERR_SNP_ROOT"
  | "ERR_SNP_CHAIN"
  | "ERR_SNP_VALIDITY"
  | "ERR_SNP_TCB"
  | "ERR_SNP_CHIP_ID"
  | "ERR_SNP_SIGNATURE"
  | "ERR_SNP_POLICY"
  | "ERR_SNP_CERTIFICATE_TABLE"
  | "ERR_SNP_CACHE"
  | "ERR_SNP_PAGE";

/** Rows of `lib/snp`. */
export const SNP_ERRORS: ErrorTable<SnpErrorCode> = {
  ERR_SNP_LENGTH: { action: "caller", exit: 1, http: 400, summary: "An attestation report is not exactly 1184 bytes." },
  ERR_SNP_VERSION: { action: "refused", exit: 1, http: 400, summary: "The report's version is not 2, 3, 4 or 5." },
  ERR_SNP_ALGORITHM: { action: "refused", exit: 1, http: 400, summary: "The report is not signed with ECDSA P-384 and SHA-384." },
  ERR_SNP_RESERVED: { action: "refused", exit: 1, http: 400, summary: "Reserved bits of the report are not what the specification fixes them to." },
  ERR_SNP_FIELD: { action: "caller", exit: 1, http: 400, summary: "A field of the report, or of a report to encode, is out of range." },
  ERR_SNP_SIGNING_KEY: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "The report is not signed, or the certificate is not of the kind (VCEK, VLEK) that the report names.",
  },
  ERR_SNP_PRODUCT: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "The processor is unknown, or report, certificate and root do not name the same product.",
  },
  ERR_SNP_TCB_ORDER: { action: "refused", exit: 3, http: 403, summary: "A TCB version of the report is above the current one, which firmware never does." },
  ERR_SNP_CERTIFICATE: { action: "refused", exit: 1, http: 400, summary: "A certificate of the chain is malformed, or lacks AMD's extensions." },
  ERR_SNP_ROOT: { action: "refused", exit: 3, http: 403, summary: "The chain does not end in one of the roots that the caller trusts." },
  ERR_SNP_CHAIN: { action: "refused", exit: 3, http: 403, summary: "A link of the chain root, intermediate, VCEK or VLEK does not verify." },
  ERR_SNP_VALIDITY: { action: "refused", exit: 3, http: 403, summary: "A certificate of the chain is not yet, or no longer, valid." },
  ERR_SNP_TCB: { action: "refused", exit: 3, http: 403, summary: "The certificate was made for another TCB version than the report's REPORTED_TCB." },
  ERR_SNP_CHIP_ID: { action: "refused", exit: 3, http: 403, summary: "The certificate was made for another chip than the report's CHIP_ID." },
  ERR_SNP_SIGNATURE: { action: "refused", exit: 3, http: 403, summary: "The report's signature does not verify under the VCEK or VLEK." },
  ERR_SNP_POLICY: { action: "refused", exit: 3, http: 403, summary: "A genuine report does not meet the relying party's policy; the error names the check." },
  ERR_SNP_CERTIFICATE_TABLE: { action: "caller", exit: 1, http: 400, summary: "The certificate table of an extended report is malformed." },
  ERR_SNP_CACHE: { action: "caller", exit: 1, http: 400, summary: "The document of a certificate cache (THIM) is malformed." },
  ERR_SNP_PAGE: { action: "caller", exit: 1, http: 400, summary: "A page of a launch measurement is not a whole, aligned page, or there are too many files." },
};

/** Errors of `lib/snp`. */
export class SnpError extends SealpodError<SnpErrorCode> {
  constructor(code: SnpErrorCode, message: string, options?: SealpodErrorOptions) {
    super(SNP_ERRORS, code, message, options);
  }
}
