import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link AgentError}. */
export type AgentErrorCode =
  | "ERR_AGENT_CGROUP"
  | "ERR_AGENT_COMMAND"
  | "ERR_AGENT_CONFIG"
  | "ERR_AGENT_DENIED"
  | "ERR_AGENT_ENDED"
  | "ERR_AGENT_EXISTS"
  | "ERR_AGENT_HOST_DATA"
  | "ERR_AGENT_ID"
  | "ERR_AGENT_INITDATA"
  | "ERR_AGENT_LAYER"
  | "ERR_AGENT_NO_CONTAINER"
  | "ERR_AGENT_NO_PROCESS"
  | "ERR_AGENT_NO_TTY"
  | "ERR_AGENT_PATH"
  | "ERR_AGENT_POLICY"
  | "ERR_AGENT_POLICY_ENGINE"
  | "ERR_AGENT_REQUEST"
  | "ERR_AGENT_STATE"
  | "ERR_AGENT_STORAGE"
  | "ERR_AGENT_UNIMPLEMENTED";

/** Rows of `guest/agent`. */
export const AGENT_ERRORS: ErrorTable<AgentErrorCode> = {
  ERR_AGENT_CGROUP: {
    action: "caller",
    exit: 1,
    http: 500,
    summary: "The control group of a container could not be read or changed, or is in the wrong state for it.",
  },
  ERR_AGENT_COMMAND: { action: "caller", exit: 1, http: 500, summary: "A program that the guest agent runs (crun, mount) failed." },
  ERR_AGENT_CONFIG: { action: "caller", exit: 2, http: 500, summary: "The guest agent was started with arguments or a default policy that it cannot use." },
  ERR_AGENT_DENIED: { action: "refused", exit: 3, http: 403, summary: "The policy of the pod does not allow the request." },
  ERR_AGENT_ENDED: { action: "caller", exit: 1, http: 503, summary: "The sandbox was destroyed while the request waited." },
  ERR_AGENT_EXISTS: { action: "caller", exit: 1, http: 409, summary: "A container or process with this id exists already." },
  ERR_AGENT_HOST_DATA: { action: "refused", exit: 3, http: 403, summary: "The policy is not the one whose digest was fixed at launch (HOST_DATA)." },
  ERR_AGENT_ID: { action: "caller", exit: 1, http: 400, summary: "The id of a container, process or sandbox has a form that is not allowed." },
  ERR_AGENT_INITDATA: { action: "refused", exit: 3, http: 400, summary: "The initdata of the pod is malformed, or there is more than one." },
  ERR_AGENT_LAYER: { action: "refused", exit: 1, http: 400, summary: "The tar of an image layer asks for something that the guest agent does not do." },
  ERR_AGENT_NO_CONTAINER: { action: "caller", exit: 1, http: 404, summary: "The sandbox has no container with this id." },
  ERR_AGENT_NO_PROCESS: { action: "caller", exit: 1, http: 404, summary: "The container has no process with this id, or it was waited for already." },
  ERR_AGENT_NO_TTY: { action: "caller", exit: 1, http: 409, summary: "The process has no terminal whose size could be set." },
  ERR_AGENT_PATH: { action: "refused", exit: 1, http: 400, summary: "A path leaves the directory that it is confined to, or passes through a symbolic link." },
  ERR_AGENT_POLICY: { action: "caller", exit: 1, http: 400, summary: "The text given as policy does not compile." },
  ERR_AGENT_POLICY_ENGINE: {
    action: "refused",
    exit: 3,
    http: 500,
    summary: "The policy gave no answer: its rule is undefined, failed, or has a value of the wrong type.",
  },
  ERR_AGENT_REQUEST: {
    action: "caller",
    exit: 1,
    http: 400,
    summary: "A request to the guest agent is malformed, or asks for something that it refuses whatever the policy says.",
  },
  ERR_AGENT_STATE: { action: "caller", exit: 1, http: 409, summary: "The request does not fit the state of the sandbox or container." },
  ERR_AGENT_STORAGE: { action: "caller", exit: 1, http: 500, summary: "A storage of a container could not be made ready." },
  ERR_AGENT_UNIMPLEMENTED: { action: "caller", exit: 1, http: 501, summary: "The guest agent does not have this function." },
};

/** Errors of `guest/agent`. */
export class AgentError extends SealpodError<AgentErrorCode> {
  constructor(code: AgentErrorCode, message: string, options?: SealpodErrorOptions) {
    super(AGENT_ERRORS, code, message, options);
  }
}
