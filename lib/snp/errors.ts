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
  | "ERR_SNP_REVOKED"
  | "ERR_SNP_REVOCATION"
  | "ERR_SNP_TCB"
  | "ERR_SNP_CHIP_ID"
  | "ERR_SNP_SIGNATURE"
  | "ERR_SNP_POLICY"
  | "ERR_SNP_POLICY_SYNTAX"
  | "ERR_SNP_CERTIFICATE_TABLE"
  | "ERR_SNP_CACHE"
  | "ERR_SNP_KDS_PATH"
  | "ERR_SNP_KDS_REQUEST"
  | "ERR_SNP_KDS_NOT_FOUND"
  | "ERR_SNP_KDS_THROTTLED"
  | "ERR_SNP_KDS_UNAVAILABLE"
  | "ERR_SNP_KDS_RESPONSE"
  | "ERR_SNP_PAGE"
  | "ERR_SNP_OVMF"
  | "ERR_SNP_IGVM"
  | "ERR_SNP_LAUNCH"
  | "ERR_SNP_ID_BLOCK"
  | "ERR_SNP_ID_AUTH";

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
    summary: "The report is not signed, or report and certificate do not name the same kind of key (VCEK, VLEK).",
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
  ERR_SNP_REVOKED: { action: "refused", exit: 3, http: 403, summary: "A certificate of the chain is on its issuer's revocation list." },
  ERR_SNP_REVOCATION: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "Whether a certificate of the chain is revoked cannot be told: its issuer's list is missing, out of date, or not signed by the issuer.",
  },
  ERR_SNP_TCB: { action: "refused", exit: 3, http: 403, summary: "The certificate was made for another TCB version than the report's REPORTED_TCB." },
  ERR_SNP_CHIP_ID: { action: "refused", exit: 3, http: 403, summary: "The certificate was made for another chip than the report's CHIP_ID." },
  ERR_SNP_SIGNATURE: { action: "refused", exit: 3, http: 403, summary: "The report's signature does not verify under the VCEK or VLEK." },
  ERR_SNP_POLICY: { action: "refused", exit: 3, http: 403, summary: "A genuine report does not meet the relying party's policy; the error names the check." },
  ERR_SNP_POLICY_SYNTAX: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: 'A policy over reports is malformed, or leaves a check out: each must be given, as a requirement or as "any".',
  },
  ERR_SNP_CERTIFICATE_TABLE: { action: "caller", exit: 1, http: 400, summary: "The certificate table of an extended report is malformed." },
  ERR_SNP_CACHE: { action: "caller", exit: 1, http: 400, summary: "The document of a certificate cache (THIM) is malformed." },
  ERR_SNP_KDS_PATH: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "A path is none that the certificate service (AMD KDS, Azure cache) has, or a value in it is malformed.",
  },
  ERR_SNP_KDS_REQUEST: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "No certificate service can be asked for this report: masked chip id, unknown product, a key that is no VCEK; or the service's URL is none.",
  },
  ERR_SNP_KDS_NOT_FOUND: {
    action: "caller",
    exit: 1,
    http: 404,
    summary: "The certificate service has no certificate for this chip and TCB: ask for REPORTED_TCB; a Turin chip id has 8 bytes.",
  },
  ERR_SNP_KDS_THROTTLED: {
    action: "transient",
    exit: 1,
    http: 429,
    summary: "The certificate service answers less often than it was asked (429); wait, and keep what it gave.",
  },
  ERR_SNP_KDS_UNAVAILABLE: { action: "transient", exit: 1, http: 503, summary: "The certificate service cannot be reached, fails, or takes too long." },
  ERR_SNP_KDS_RESPONSE: {
    action: "refused",
    exit: 1,
    http: 502,
    summary: "The certificate service gave something else than what it was asked for: another chip or TCB, no certificate, a redirect, too many bytes.",
  },
  ERR_SNP_PAGE: { action: "caller", exit: 1, http: 400, summary: "A page of a launch measurement is not a whole, aligned page, or there are too many files." },
  ERR_SNP_OVMF: { action: "caller", exit: 1, http: 400, summary: "A firmware image (OVMF) is malformed, or its tables lack what the launch needs." },
  ERR_SNP_IGVM: { action: "caller", exit: 1, http: 400, summary: "An IGVM file is malformed, or is not for SEV-SNP." },
  ERR_SNP_LAUNCH: { action: "caller", exit: 1, http: 400, summary: "The parameters of a launch (vCPUs, guest features, kernel, firmware) do not go together." },
  ERR_SNP_ID_BLOCK: { action: "caller", exit: 1, http: 400, summary: "An ID block, an ID auth structure or a key for them is malformed." },
  ERR_SNP_ID_AUTH: {
    action: "refused",
    exit: 3,
    http: 403,
    summary: "A signature of an ID auth structure does not verify, or its key or block is not the expected one.",
  },
};

/** Errors of `lib/snp`. */
export class SnpError extends SealpodError<SnpErrorCode> {
  constructor(code: SnpErrorCode, message: string, options?: SealpodErrorOptions) {
    super(SNP_ERRORS, code, message, options);
  }
}
