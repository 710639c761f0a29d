import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link ShimError}. */
export type ShimErrorCode =
  | "ERR_SHIM_USAGE"
  | "ERR_SHIM_CONFIG"
  | "ERR_SHIM_BUNDLE"
  | "ERR_SHIM_IMAGE"
  | "ERR_SHIM_NOT_FOUND"
  | "ERR_SHIM_EXISTS"
  | "ERR_SHIM_STATE"
  | "ERR_SHIM_STREAM"
  | "ERR_SHIM_POD";

/** Rows of `host/shim`. */
export const SHIM_ERRORS: ErrorTable<ShimErrorCode> = {
  ERR_SHIM_USAGE: { action: "caller", exit: 2, http: 400, summary: "The shim was called with arguments that containerd does not use." },
  ERR_SHIM_CONFIG: { action: "caller", exit: 1, http: 400, summary: "The shim's configuration file is missing, malformed, or names what is not there." },
  ERR_SHIM_BUNDLE: { action: "caller", exit: 1, http: 400, summary: "A bundle of containerd lacks what the shim needs of it, or it is malformed." },
  ERR_SHIM_IMAGE: { action: "caller", exit: 1, http: 404, summary: "The image of a container, or a layer of it, is not in containerd's store." },
  ERR_SHIM_NOT_FOUND: { action: "caller", exit: 1, http: 404, summary: "There is no such task or process, or it has ended." },
  ERR_SHIM_EXISTS: { action: "caller", exit: 1, http: 409, summary: "A task or process of that name is there already." },
  ERR_SHIM_STATE: { action: "caller", exit: 1, http: 409, summary: "The task is not in the state that the request needs." },
  ERR_SHIM_STREAM: { action: "caller", exit: 1, http: 400, summary: "A stream that containerd named cannot be opened." },
  ERR_SHIM_POD: { action: "refused", exit: 1, http: 409, summary: "The pod cannot be run on this node as it is." },
};

/** Errors of the shim. */
export class ShimError extends SealpodError<ShimErrorCode> {
  constructor(code: ShimErrorCode, message: string, options: SealpodErrorOptions = {}) {
    super(SHIM_ERRORS, code, message, options);
  }
}
