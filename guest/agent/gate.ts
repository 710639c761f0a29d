import { isSealpodError, type Logger, messageOf } from "@sealpod/core";
import type { DescMessage, DescMethodUnary, Message } from "@sealpod/proto";
import { STATUS, statusError, TtrpcError } from "@sealpod/ttrpc";
import { AgentError, type AgentErrorCode } from "./errors.ts";
import { validateIds } from "./ids.ts";
import type { Method } from "./methods.ts";
import type { Decision, PolicyEngine } from "./policy.ts";
import type { Profile } from "./profile.ts";

/** Status of the answer for each error (specs/runtime.md 2.6, 3.3). Errors of other packages are INTERNAL. */
const STATUS_OF: Readonly<Record<AgentErrorCode, number>> = {
  ERR_AGENT_CGROUP: STATUS.internal,
  ERR_AGENT_COMMAND: STATUS.internal,
  ERR_AGENT_CONFIG: STATUS.internal,
  ERR_AGENT_DENIED: STATUS.permissionDenied,
  ERR_AGENT_ENDED: STATUS.internal,
  ERR_AGENT_EXISTS: STATUS.alreadyExists,
  ERR_AGENT_HOST_DATA: STATUS.invalidArgument,
  ERR_AGENT_ID: STATUS.invalidArgument,
  ERR_AGENT_INITDATA: STATUS.internal,
  ERR_AGENT_LAYER: STATUS.internal,
  ERR_AGENT_NO_CONTAINER: STATUS.invalidArgument,
  ERR_AGENT_NO_PROCESS: STATUS.notFound,
  ERR_AGENT_NO_TTY: STATUS.unavailable,
  ERR_AGENT_PATH: STATUS.invalidArgument,
  ERR_AGENT_POLICY: STATUS.invalidArgument,
  ERR_AGENT_POLICY_ENGINE: STATUS.internal,
  ERR_AGENT_REQUEST: STATUS.invalidArgument,
  ERR_AGENT_STATE: STATUS.failedPrecondition,
  ERR_AGENT_STORAGE: STATUS.internal,
  ERR_AGENT_UNIMPLEMENTED: STATUS.unimplemented,
};

/** The gate: no request reaches its handler but through the policy. */
export class Gate {
  readonly #profile: Profile;
  readonly #logger: Logger;
  #engine: PolicyEngine;

  /** @param engine the policy to begin with */
  constructor(profile: Profile, engine: PolicyEngine, logger: Logger) {
    this.#profile = profile;
    this.#engine = engine;
    this.#logger = logger;
  }

  /** The policy that decides now. */
  get engine(): PolicyEngine {
    return this.#engine;
  }

  /**
   * Puts another policy, with an empty state, in the place of `expected`.
   * @throws {AgentError} ERR_AGENT_STATE if the policy has changed meanwhile: the one that allowed this is no longer in force, and a second
   * SetPolicy held back until now could reset what the first one's state remembers
   */
  replace(expected: PolicyEngine, engine: PolicyEngine): void {
    if (this.#engine !== expected) throw new AgentError("ERR_AGENT_STATE", "another policy was set meanwhile");
    this.#engine = engine;
  }

  /** Answers a call: ids, policy, check, state, and only then the handler. */
  async call(method: DescMethodUnary, row: Method<DescMessage, DescMessage>, request: Message): Promise<Record<string, unknown>> {
    const rule = method.input.name;
    try {
      validateIds(method.input, request);
      const decision = this.#decide(method.input, rule, request, row.denied !== undefined);
      if (!decision.allowed) {
        if (row.denied !== undefined) return row.denied(request);
        throw new AgentError("ERR_AGENT_DENIED", `${rule} is blocked by policy: ${decision.prints()}`, { details: { rule } });
      }
      row.check?.(request);
      decision.commit();
      if (row.handle !== undefined) return await row.handle(request);
      if (row.run === undefined) throw new AgentError("ERR_AGENT_UNIMPLEMENTED", `${method.name} is not implemented`);
      await row.run(request);
      return {};
    } catch (error) {
      throw this.#answer(method.name, error);
    }
  }

  /** What the policy says. Where a denial is not an error, neither is a policy that has no answer: both mean no. */
  #decide(schema: DescMessage, rule: string, request: Message, denialIsAnswer: boolean): Decision {
    try {
      return this.#engine.decide(rule, this.#profile.input(schema, request));
    } catch (error) {
      if (!denialIsAnswer || !(error instanceof AgentError) || error.code !== "ERR_AGENT_POLICY_ENGINE") throw error;
      return { allowed: false, prints: () => "", commit: () => undefined };
    }
  }

  #answer(method: string, error: unknown): TtrpcError {
    const code = isSealpodError(error) ? error.code : "unexpected";
    // Without the message: it may quote what the policy printed of a request.
    this.#logger.log(error instanceof AgentError ? "info" : "warn", "request failed", { method, code });
    if (error instanceof TtrpcError) return error;
    return statusError(error instanceof AgentError ? STATUS_OF[error.code] : STATUS.internal, messageOf(error), { cause: error });
  }
}
