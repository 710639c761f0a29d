import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link KubeletError}. */
export type KubeletErrorCode = "ERR_KUBELET_INVALID_POD" | "ERR_KUBELET_UNSUPPORTED" | "ERR_KUBELET_UNRESOLVED" | "ERR_KUBELET_QUANTITY" | "ERR_KUBELET_FILES";

/** Rows of `laptop/kubelet`. */
export const KUBELET_ERRORS: ErrorTable<KubeletErrorCode> = {
  ERR_KUBELET_INVALID_POD: { action: "caller", exit: 1, http: 400, summary: "A pod is not one that the API server would accept." },
  ERR_KUBELET_UNSUPPORTED: { action: "caller", exit: 1, http: 501, summary: "A pod asks for something that the laptop's kubelet does not do." },
  ERR_KUBELET_UNRESOLVED: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "A pod refers to an image, a user, a ConfigMap, a Secret or a volume that was not given.",
  },
  ERR_KUBELET_QUANTITY: { action: "caller", exit: 1, http: 400, summary: "Text is not a Kubernetes resource quantity." },
  ERR_KUBELET_FILES: { action: "caller", exit: 1, http: 500, summary: "The files of a pod could not be written under the run directory." },
};

/** Errors of `laptop/kubelet`. */
export class KubeletError extends SealpodError<KubeletErrorCode> {
  constructor(code: KubeletErrorCode, message: string, options?: SealpodErrorOptions) {
    super(KUBELET_ERRORS, code, message, options);
  }
}
