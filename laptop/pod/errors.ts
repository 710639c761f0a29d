import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link PodError}. */
export type PodErrorCode =
  | "ERR_POD_MANIFEST"
  | "ERR_POD_POLICY"
  | "ERR_POD_IMAGE"
  | "ERR_POD_PUBLISH"
  | "ERR_POD_START"
  | "ERR_POD_NOT_FOUND"
  | "ERR_POD_CONTAINER"
  | "ERR_POD_CONTROL"
  | "ERR_POD_REFUSED";

/** Rows of `laptop/pod`. */
export const POD_ERRORS: ErrorTable<PodErrorCode> = {
  ERR_POD_MANIFEST: { action: "caller", exit: 1, http: 400, summary: "The YAML does not have exactly one pod that can be run." },
  ERR_POD_POLICY: { action: "caller", exit: 1, http: 400, summary: "The pod has no policy annotation, or one that is not base64 of text." },
  ERR_POD_IMAGE: { action: "caller", exit: 1, http: 400, summary: "An image of the pod has a user file that cannot be read." },
  ERR_POD_PUBLISH: { action: "caller", exit: 2, http: 400, summary: "A port to publish is not HOST:CONTAINER." },
  ERR_POD_START: { action: "caller", exit: 1, http: 500, summary: "A container of the pod ended before the pod was up." },
  ERR_POD_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "No running pod of this state directory has that name or id." },
  ERR_POD_CONTAINER: { action: "caller", exit: 1, http: 404, summary: "The pod has no container of that name." },
  ERR_POD_CONTROL: { action: "transient", exit: 1, http: 502, summary: "The process that runs the pod did not answer." },
  ERR_POD_REFUSED: { action: "refused", exit: 3, http: 403, summary: "The pod's agent refused the request because the policy does not allow it." },
};

/** Errors of `laptop/pod`. */
export class PodError extends SealpodError<PodErrorCode> {
  constructor(code: PodErrorCode, message: string, options?: SealpodErrorOptions) {
    super(POD_ERRORS, code, message, options);
  }
}
