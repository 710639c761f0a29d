import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link SkrError}. */
export type SkrErrorCode =
  | "ERR_SKR_CONFIGURATION"
  | "ERR_SKR_REQUEST"
  | "ERR_SKR_CALLER"
  | "ERR_SKR_NO_SUCH_PAGE"
  | "ERR_SKR_METHOD"
  | "ERR_SKR_TOO_LARGE"
  | "ERR_SKR_BUSY"
  | "ERR_SKR_REPORT"
  | "ERR_SKR_CERTIFICATES"
  | "ERR_SKR_NETWORK"
  | "ERR_SKR_TIMEOUT"
  | "ERR_SKR_CANCELLED"
  | "ERR_SKR_ATTESTATION"
  | "ERR_SKR_IDENTITY"
  | "ERR_SKR_RELEASE"
  | "ERR_SKR_RELEASE_SIGNATURE"
  | "ERR_SKR_RELEASED_KEY"
  | "ERR_SKR_KEY_PACKET"
  | "ERR_SKR_UNIMPLEMENTED";

/** Rows of `guest/skr`. The sidecar's API answers 403 to whatever stops a release (specs/attestation.md 5.2). */
export const SKR_ERRORS: ErrorTable<SkrErrorCode> = {
  ERR_SKR_CONFIGURATION: { action: "caller", exit: 2, http: 500, summary: "The sidecar's environment or its security context cannot be used." },
  ERR_SKR_REQUEST: { action: "caller", exit: 1, http: 400, summary: "A request to the sidecar is malformed." },
  ERR_SKR_CALLER: {
    action: "refused",
    exit: 1,
    http: 403,
    summary: "A request to the sidecar comes from a web page, or is for another host than this machine.",
  },
  ERR_SKR_NO_SUCH_PAGE: { action: "caller", exit: 1, http: 404, summary: "The sidecar has no such page." },
  ERR_SKR_METHOD: { action: "caller", exit: 1, http: 405, summary: "The sidecar's page takes another method." },
  ERR_SKR_TOO_LARGE: { action: "refused", exit: 1, http: 413, summary: "A request to the sidecar is larger than its limit." },
  ERR_SKR_BUSY: { action: "transient", exit: 1, http: 503, summary: "The sidecar already works on as many requests as it takes at once." },
  ERR_SKR_REPORT: { action: "transient", exit: 1, http: 403, summary: "The processor gave no attestation report." },
  ERR_SKR_CERTIFICATES: { action: "transient", exit: 1, http: 403, summary: "No certificates that belong to the attestation report were found." },
  ERR_SKR_NETWORK: { action: "transient", exit: 1, http: 403, summary: "A service that the sidecar needs did not answer." },
  ERR_SKR_TIMEOUT: { action: "transient", exit: 1, http: 403, summary: "The time that a request to the sidecar may take was over." },
  ERR_SKR_CANCELLED: { action: "caller", exit: 1, http: 503, summary: "The caller of the sidecar went away before its answer." },
  ERR_SKR_ATTESTATION: { action: "refused", exit: 3, http: 403, summary: "The attestation service refused the evidence." },
  ERR_SKR_IDENTITY: { action: "refused", exit: 3, http: 403, summary: "No access token for the key store could be had." },
  ERR_SKR_RELEASE: { action: "refused", exit: 3, http: 403, summary: "The key store refused to release the key." },
  ERR_SKR_RELEASE_SIGNATURE: { action: "refused", exit: 3, http: 403, summary: "The released key is not signed by the key store." },
  ERR_SKR_RELEASED_KEY: { action: "refused", exit: 3, http: 403, summary: "The released key cannot be unwrapped, or is not the key asked for." },
  ERR_SKR_KEY_PACKET: { action: "refused", exit: 3, http: 403, summary: "The wrapped key of an image cannot be opened, or a key cannot be wrapped for one." },
  ERR_SKR_UNIMPLEMENTED: { action: "caller", exit: 1, http: 404, summary: "The sidecar's gRPC server has no such method." },
};

/** Errors of `guest/skr`. */
export class SkrError extends SealpodError<SkrErrorCode> {
  constructor(code: SkrErrorCode, message: string, options?: SealpodErrorOptions) {
    super(SKR_ERRORS, code, message, options);
  }
}
