import type { Logger } from "@sealpod/core";
import type { TtrpcService } from "@sealpod/ttrpc";
import type { PolicyReplacement } from "./apply-initdata.ts";
import type { BlockDevices } from "./block-devices.ts";
import { Gate } from "./gate.ts";
import type { GuestSystem } from "./guest-system.ts";
import { linuxMachine } from "./machine.ts";
import { agentMethods } from "./methods.ts";
import { guestPaths } from "./paths.ts";
import { POLICY_NAME, PolicyEngine } from "./policy.ts";
import type { Profile } from "./profile.ts";
import type { ProcessLimits } from "./process-limits.ts";
import type { Runtime } from "./runtime.ts";
import { Sandbox } from "./sandbox.ts";
import { agentServices } from "./services.ts";
import { type HostData, verifyHostData } from "./set-policy.ts";

export { AGENT_ERRORS, AgentError } from "./errors.ts";
export type { AgentErrorCode } from "./errors.ts";
export { directoryDevices, machineDevices } from "./block-devices.ts";
export type { BlockDevices, Disk } from "./block-devices.ts";
export { PROFILES } from "./profile.ts";
export type { Profile } from "./profile.ts";
export type { HostData } from "./set-policy.ts";
export type { GuestSystem, MountRequest } from "./guest-system.ts";
export type { ProcessLimits } from "./process-limits.ts";
export type { Runtime, RuntimeContainer, RuntimeProcess } from "./runtime.ts";

/** The policy of an agent that has none yet: all it can be asked is to take one. */
export const DEFAULT_POLICY = `package agent_policy

default SetPolicyRequest := true
`;

/** Where an agent runs: as a process beside others, or in a machine whose kernel is there for it alone. */
export type AgentPlace = "process" | "vm";

/** What an agent is made of. */
export interface AgentOptions {
  readonly profile: Profile;
  readonly place: AgentPlace;
  /** Policy until SetPolicy; `name` is what its print lines begin with. */
  readonly defaultPolicy: { readonly name: string; readonly text: string };
  /** What a policy that comes by SetPolicy must be: that of HOST_DATA, which is the default, or whatever the policy in force allows. */
  readonly replacement?: PolicyReplacement;
  /** Directory below which everything of the guest lies; `/run/kata-containers` but in tests. */
  readonly root: string;
  /** Disks that the host attached. */
  readonly disks: BlockDevices;
  /** HOST_DATA of this machine, which decides what policy can be set. */
  readonly hostData: HostData;
  /** Directory with `tsm/report`; shown to every container at `/run/sealpod`, of which it can write `tsm/report` alone. */
  readonly guestInfo: string;
  /** Makes {@link guestInfo} ready, before a sandbox is made; without it, it is. */
  readonly prepare?: () => Promise<void>;
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
  const { profile, place, replacement = "host-data", logger } = options;
  const paths = guestPaths(options.root);
  const runtime = options.runtime(paths.runtimeState);
  const sandbox = new Sandbox({ ...options, paths, runtime, cgroups: place === "vm", exitStatus: profile.exitStatus });
  const gate = new Gate(profile, new PolicyEngine(options.defaultPolicy, profile.rego), logger);
  const setPolicy = async (text: string): Promise<void> => {
    const allowedBy = gate.engine;
    if (replacement === "host-data") await verifyHostData(text, options.hostData);
    gate.replace(allowedBy, new PolicyEngine({ name: POLICY_NAME, text }, profile.rego));
    logger.log("info", "policy set");
  };
  const methods = agentMethods(sandbox, paths.shared, setPolicy, linuxMachine(place, paths));
  return {
    services: agentServices(gate, methods),
    ended: sandbox.ended,
    close: () => sandbox.destroy(),
  };
}
