import type { Logger } from "@sealpod/core";
import type { POSIXRlimit } from "@sealpod/proto";
import { AgentError } from "./errors.ts";
import { shown } from "./confined-directory.ts";

/** What the agent may give to a process: all of it with CAP_SYS_RESOURCE, else no more than it has itself. */
export interface ProcessLimits {
  /** True with CAP_SYS_RESOURCE. */
  readonly unlimited: boolean;
  /** The agent's own score adjustment: without the capability none below it can be set. */
  readonly oomScoreAdj: bigint;
  /** The agent's own hard limits, by the name of the OCI specification. */
  readonly hard: ReadonlyMap<string, bigint>;
}

/** RLIM_INFINITY. */
const INFINITY = 2n ** 64n - 1n;
/** Bit of CAP_SYS_RESOURCE in the masks of /proc/PID/status. */
const CAP_SYS_RESOURCE = 24n;

/** Names in /proc/PID/limits of the resources of the OCI specification (setrlimit(2)). */
const NAMES: ReadonlyMap<string, string> = new Map([
  ["RLIMIT_CPU", "Max cpu time"],
  ["RLIMIT_FSIZE", "Max file size"],
  ["RLIMIT_DATA", "Max data size"],
  ["RLIMIT_STACK", "Max stack size"],
  ["RLIMIT_CORE", "Max core file size"],
  ["RLIMIT_RSS", "Max resident set"],
  ["RLIMIT_NPROC", "Max processes"],
  ["RLIMIT_NOFILE", "Max open files"],
  ["RLIMIT_MEMLOCK", "Max locked memory"],
  ["RLIMIT_AS", "Max address space"],
  ["RLIMIT_LOCKS", "Max file locks"],
  ["RLIMIT_SIGPENDING", "Max pending signals"],
  ["RLIMIT_MSGQUEUE", "Max msgqueue size"],
  ["RLIMIT_NICE", "Max nice priority"],
  ["RLIMIT_RTPRIO", "Max realtime priority"],
  ["RLIMIT_RTTIME", "Max realtime timeout"],
]);

/** Limits of a process, from the texts of its /proc/PID/status, /proc/PID/limits and /proc/PID/oom_score_adj. */
export function parseProcessLimits(status: string, limits: string, oomScoreAdj: string): ProcessLimits {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? "0"}`);
  const hard = new Map<string, bigint>();
  for (const [name, title] of NAMES) {
    const value = new RegExp(`^${title} +\\S+ +(unlimited|[0-9]+)`, "m").exec(limits)?.[1];
    if (value !== undefined) hard.set(name, value === "unlimited" ? INFINITY : BigInt(value));
  }
  return { unlimited: ((effective >> CAP_SYS_RESOURCE) & 1n) === 1n, oomScoreAdj: BigInt(oomScoreAdj.trim()), hard };
}

/**
 * Resource limits for a process, lowered to what the agent can give: a container must not fail for that (it would on every laptop), but
 * the log says so.
 * @throws {AgentError} ERR_AGENT_REQUEST for an unknown or repeated resource
 */
export function grantedRlimits(wanted: readonly POSIXRlimit[], limits: ProcessLimits, logger: Logger): readonly { type: string; hard: bigint; soft: bigint }[] {
  const seen = new Set<string>();
  return wanted.map(({ Type: type, Hard, Soft }) => {
    if (!NAMES.has(type) || seen.has(type)) throw new AgentError("ERR_AGENT_REQUEST", `resource limit ${shown(type)} is unknown or given twice`);
    seen.add(type);
    const most = limits.unlimited ? INFINITY : (limits.hard.get(type) ?? INFINITY);
    const hard = Hard < most ? Hard : most;
    if (hard !== Hard) logger.log("warn", "resource limit lowered: no CAP_SYS_RESOURCE", { type, wanted: Hard, granted: hard });
    return { type, hard, soft: Soft < hard ? Soft : hard };
  });
}

/** Score adjustment for a process, raised to what the agent can give. */
export function grantedOomScoreAdj(wanted: bigint, limits: ProcessLimits, logger: Logger): bigint {
  if (limits.unlimited || wanted >= limits.oomScoreAdj) return wanted;
  logger.log("warn", "oom_score_adj raised: no CAP_SYS_RESOURCE", { wanted, granted: limits.oomScoreAdj });
  return limits.oomScoreAdj;
}
