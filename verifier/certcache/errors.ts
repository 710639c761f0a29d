import { type ErrorTable, SealpodError, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link CertcacheError}; what an upstream does wrong has the codes ERR_SNP_KDS_* of `@sealpod/snp`. */
export type CertcacheErrorCode = "ERR_CERTCACHE_STORE" | "ERR_CERTCACHE_FULL" | "ERR_CERTCACHE_UNTRUSTED" | "ERR_CERTCACHE_BUNDLE" | "ERR_CERTCACHE_ARGUMENT";

/** Rows of `verifier/certcache`. */
export const CERTCACHE_ERRORS: ErrorTable<CertcacheErrorCode> = {
  ERR_CERTCACHE_STORE: { action: "caller", exit: 1, http: 500, summary: "The directory of the certificate cache cannot be read or written." },
  ERR_CERTCACHE_FULL: {
    action: "caller",
    exit: 1,
    http: 503,
    summary: "An import would take the certificate cache over its limit of entries; nothing was imported.",
  },
  ERR_CERTCACHE_UNTRUSTED: {
    action: "refused",
    exit: 3,
    http: 502,
    summary: "A certificate or revocation list does not verify down to one of the roots that the cache trusts; it was not stored.",
  },
  ERR_CERTCACHE_BUNDLE: { action: "caller", exit: 1, http: 400, summary: "A bundle of certificates, or a directory to import, is malformed." },
  ERR_CERTCACHE_ARGUMENT: { action: "caller", exit: 2, http: 400, summary: "The certificate cache was set up with values that do not make sense." },
};

/** Errors of `verifier/certcache`. */
export class CertcacheError extends SealpodError<CertcacheErrorCode> {
  constructor(code: CertcacheErrorCode, message: string, options?: SealpodErrorOptions) {
    super(CERTCACHE_ERRORS, code, message, options);
  }
}
