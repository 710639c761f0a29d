import type { Logger } from "@sealpod/core";
import { AgentService, Health, HealthCheckResponse_ServingStatus, type DescMessage } from "@sealpod/proto";
import { implement, type TtrpcService } from "@sealpod/ttrpc";
import { Gate } from "./gate.ts";
import type { GuestSystem } from "./guest-system.ts";
import { AGENT_VERSION, agentMethods, type Method } from "./methods.ts";
import { guestPaths } from "./paths.ts";
import { POLICY_NAME, PolicyEngine } from "./policy.ts";
import type { Profile } from "./profile.ts";
import type { ProcessLimits } from "./process-limits.ts";
import type { Runtime } from "./runtime.ts";
import { Sandbox } from "./sandbox.ts";
import { verifyHostData } from "./set-policy.ts";

export { AGENT_ERRORS, AgentError } from "./errors.ts";
export type { AgentErrorCode } from "./errors.ts";
export { PROFILES } from "./profile.ts";
export type { Profile } from "./profile.ts";
export type { GuestSystem, MountRequest } from "./guest-system.ts";
export type { ProcessLimits } from "./process-limits.ts";
export type { Runtime, RuntimeContainer, RuntimeProcess } from "./runtime.ts";

/** Version of the API, as the known agent states it. */
const GRPC_VERSION = "0.0.1";

/** The policy of an agent that has none yet: all it can be asked is to take one. */
export const DEFAULT_POLICY = `package agent_policy

default SetPolicyRequest := true
`;

/** What an agent is made of. */
export interface AgentOptions {
  readonly profile: Profile;
  /** Policy until SetPolicy; `name` is what its print lines begin with. */
  readonly defaultPolicy: { readonly name: string; readonly text: string };
  /** Directory below which everything of the guest lies; `/run/kata-containers` but in tests. */
  readonly root: string;
  /** Directory with one entry per attached disk. */
  readonly devices: string;
  /** Directory with `tsm/report`; shown to every container at `/run/sealpod`. */
  readonly guestInfo: string;
  readonly system: GuestSystem;
  /** Makes the container runtime, given a directory for its notes. */
  readonly runtime: (state: string) => Runtime;
  readonly limits: ProcessLimits;
  readonly logger: Logger;
}

/** An agent, ready to be served. */
export interface Agent {
  /** `grpc.AgentService` and `grpc.Health`. */
  readonly services: readonly TtrpcService[];
  /** Resolves when the sandbox was destroyed. */
  readonly ended: Promise<void>;
  /** Destroys the sandbox without asking the policy: for the end of the process. */
  close(): Promise<void>;
}

/**
 * Makes a guest agent.
 * @throws {AgentError} ERR_AGENT_POLICY if the default policy does not compile: an agent without a policy must not run
 */
export function createAgent(options: AgentOptions): Agent {
  const { profile, logger } = options;
  const paths = guestPaths(options.root);
  const sandbox = new Sandbox({ ...options, paths, runtime: options.runtime(paths.runtimeState), cgroups: false });
  const gate = new Gate(profile, new PolicyEngine(options.defaultPolicy, profile.rego), logger);
  const setPolicy = async (text: string): Promise<void> => {
    const allowedBy = gate.engine;
    await verifyHostData(text, `${options.guestInfo}/tsm/report`);
    gate.replace(allowedBy, new PolicyEngine({ name: POLICY_NAME, text }, profile.rego));
    logger.log("info", "policy set");
  };
  const methods: Readonly<Record<string, Method<DescMessage, DescMessage>>> = agentMethods(sandbox, paths.shared, setPolicy);
  return {
    services: [
      implement(Health, {
        check: () => ({ status: HealthCheckResponse_ServingStatus.SERVING }),
        version: () => ({ grpcVersion: GRPC_VERSION, agentVersion: AGENT_VERSION }),
      }),
      // Every method goes through the one fallback, so none can be served past the gate.
      implement(AgentService, {}, (method, request) => gate.call(method, methods[method.localName] ?? {}, request)),
    ],
    ended: sandbox.ended,
    close: () => sandbox.destroy(),
  };
}
