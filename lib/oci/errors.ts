import { SealpodError } from "@sealpod/core";
import type { ErrorTable, SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link OciError}. */
export type OciErrorCode =
  | "ERR_OCI_REFERENCE"
  | "ERR_OCI_DIGEST"
  | "ERR_OCI_DOCUMENT"
  | "ERR_OCI_SCHEMA1"
  | "ERR_OCI_UNSUPPORTED"
  | "ERR_OCI_NOT_FOUND"
  | "ERR_OCI_PLATFORM"
  | "ERR_OCI_MISMATCH"
  | "ERR_OCI_LIMIT"
  | "ERR_OCI_COMPRESSION"
  | "ERR_OCI_ARGUMENT"
  | "ERR_OCI_CREDENTIALS"
  | "ERR_OCI_AUTH"
  | "ERR_OCI_REGISTRY"
  | "ERR_OCI_UNREACHABLE";

/** Rows of `lib/oci`. */
export const OCI_ERRORS: ErrorTable<OciErrorCode> = {
  ERR_OCI_REFERENCE: { action: "caller", exit: 2, http: 400, summary: "An image reference does not follow the grammar." },
  ERR_OCI_DIGEST: { action: "refused", exit: 1, http: 400, summary: "A digest is not sha256 with 64 lower-case hex digits." },
  ERR_OCI_DOCUMENT: { action: "refused", exit: 1, http: 400, summary: "An image index, manifest or configuration is malformed." },
  ERR_OCI_SCHEMA1: { action: "caller", exit: 1, http: 415, summary: "The image uses Docker's manifest schema 1, which names no layer content." },
  ERR_OCI_UNSUPPORTED: { action: "caller", exit: 1, http: 415, summary: "The image uses a media type that is not supported." },
  ERR_OCI_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "An image or a blob is not in the layout, archive or registry." },
  ERR_OCI_PLATFORM: { action: "caller", exit: 1, http: 404, summary: "The image has no variant for the wanted platform." },
  ERR_OCI_MISMATCH: {
    action: "refused",
    exit: 1,
    http: 400,
    summary: "A blob does not have the size or digest that its descriptor or the configuration states.",
  },
  ERR_OCI_LIMIT: { action: "refused", exit: 1, http: 413, summary: "An image document or layer is larger than a named limit." },
  ERR_OCI_COMPRESSION: { action: "refused", exit: 1, http: 400, summary: "A layer's compressed bytes are damaged, cut off, or go on after their end." },
  ERR_OCI_ARGUMENT: { action: "caller", exit: 2, http: 400, summary: "A mirror or an insecure registry is not a host name with optional port." },
  ERR_OCI_CREDENTIALS: { action: "caller", exit: 1, http: 400, summary: "Docker's configuration file cannot be read or is malformed." },
  ERR_OCI_AUTH: { action: "caller", exit: 1, http: 401, summary: "The registry wants a login, or refused the one it was given." },
  ERR_OCI_REGISTRY: { action: "refused", exit: 1, http: 502, summary: "A registry answered with something that the protocol does not allow." },
  ERR_OCI_UNREACHABLE: {
    action: "transient",
    exit: 1,
    http: 503,
    summary: "A registry cannot be reached, is overloaded, or stopped in the middle of a download, after all attempts.",
  },
};

/** Errors of `lib/oci`. */
export class OciError extends SealpodError<OciErrorCode> {
  constructor(code: OciErrorCode, message: string, options?: SealpodErrorOptions) {
    super(OCI_ERRORS, code, message, options);
  }
}
