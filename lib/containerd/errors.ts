import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ContainerdError}. */
export type ContainerdErrorCode =
  | "ERR_CONTAINERD_SOCKET"
  | "ERR_CONTAINERD_CLOSED"
  | "ERR_CONTAINERD_TIMEOUT"
  | "ERR_CONTAINERD_PROTOCOL"
  | "ERR_CONTAINERD_LIMIT"
  | "ERR_CONTAINERD_STATUS"
  | "ERR_CONTAINERD_SERVICE"
  | "ERR_CONTAINERD_AUTH"
  | "ERR_CONTAINERD_NOT_FOUND"
  | "ERR_CONTAINERD_PULL"
  | "ERR_CONTAINERD_CONTENT"
  | "ERR_CONTAINERD_MISMATCH";

/** Rows of `lib/containerd`. */
export const CONTAINERD_ERRORS: ErrorTable<ContainerdErrorCode> = {
  ERR_CONTAINERD_SOCKET: { action: "caller", exit: 1, http: 503, summary: "containerd's socket is missing, not open to this user, or nobody listens on it." },
  ERR_CONTAINERD_CLOSED: { action: "transient", exit: 1, http: 503, summary: "The connection to containerd broke before the answer was complete." },
  ERR_CONTAINERD_TIMEOUT: { action: "transient", exit: 1, http: 504, summary: "containerd did not answer in time." },
  ERR_CONTAINERD_PROTOCOL: {
    action: "caller",
    exit: 1,
    http: 502,
    summary: "What listens on the socket does not speak containerd's gRPC, or breaks its rules.",
  },
  ERR_CONTAINERD_LIMIT: { action: "refused", exit: 1, http: 502, summary: "An answer of containerd is larger than a named limit." },
  ERR_CONTAINERD_STATUS: { action: "refused", exit: 1, http: 502, summary: "containerd answered a call with an error." },
  ERR_CONTAINERD_SERVICE: { action: "caller", exit: 1, http: 501, summary: "The socket does not offer a service that is needed: CRI, content or images." },
  ERR_CONTAINERD_AUTH: {
    action: "caller",
    exit: 1,
    http: 401,
    summary: "The registry refused the pull that containerd tried: credentials are missing, wrong or not enough.",
  },
  ERR_CONTAINERD_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "Neither the registry nor containerd has the image." },
  ERR_CONTAINERD_PULL: { action: "transient", exit: 1, http: 502, summary: "containerd could not pull the image." },
  ERR_CONTAINERD_CONTENT: { action: "caller", exit: 1, http: 404, summary: "containerd knows the image but no longer has a blob of it." },
  ERR_CONTAINERD_MISMATCH: {
    action: "refused",
    exit: 1,
    http: 409,
    summary: "containerd runs another variant of the image than the one its index gives for the platform.",
  },
};

/** Options of {@link ContainerdError}. */
export interface ContainerdErrorOptions extends SealpodErrorOptions {
  /** The gRPC status, if containerd answered with one. */
  readonly status?: number;
}

/** Errors of `lib/containerd`. Their text never holds credentials. */
export class ContainerdError extends SealpodError<ContainerdErrorCode> {
  /** The gRPC status that containerd answered with. */
  readonly status: number | undefined;

  constructor(code: ContainerdErrorCode, message: string, options: ContainerdErrorOptions = {}) {
    super(CONTAINERD_ERRORS, code, message, options);
    this.status = options.status;
  }
}
