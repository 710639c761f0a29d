import type { PodContainer, PodTemplate, ResourceRequirements } from "./pod.ts";
import { parseBytes, parseMilliCpu } from "./quantity.ts";
import type { RuntimeResources } from "./runtime-spec.ts";

/** Kubernetes' quota period in microseconds. */
const CPU_PERIOD = 100_000;
/** The kernel refuses quotas below one millisecond. */
const MIN_QUOTA = 1000;
/** The kernel's smallest weight. */
const MIN_SHARES = 2;

const OOM_GUARANTEED = -997;
const OOM_BEST_EFFORT = 1000;

/** Quality of service of a pod. */
export type QosClass = "Guaranteed" | "Burstable" | "BestEffort";

/** Sums that the CRI sandbox annotations carry. Memory in bytes, 0 means no limit; CPU in the kernel's units. */
export interface SandboxResources {
  readonly cpuPeriod: number;
  readonly cpuQuota: number;
  readonly cpuShares: number;
  readonly memory: number;
}

interface Amounts {
  readonly cpuLimit: number;
  readonly cpuRequest: number;
  readonly memoryLimit: number;
  readonly memoryRequest: number;
}

/** Cgroup settings of one container; a limit without a request is its own request (API server defaulting). */
export function containerResources(container: PodContainer): RuntimeResources {
  const amounts = amountsOf(container.resources);
  return {
    devices: [{ allow: false, access: "rwm" }],
    ...(amounts.memoryLimit === 0 ? {} : { memory: { limit: amounts.memoryLimit } }),
    cpu: {
      shares: shares(amounts.cpuRequest),
      ...(amounts.cpuLimit === 0 ? {} : { quota: quota(amounts.cpuLimit), period: CPU_PERIOD }),
    },
  };
}

/**
 * Size of the sandbox: the sum over the app containers, or the largest init container if that is more. A container without
 * a limit adds nothing, so the VM is sized by what is declared (specs/runtime.md 6.2).
 */
export function sandboxResources(template: PodTemplate): SandboxResources {
  const total = { cpuLimit: 0, cpuRequest: 0, memoryLimit: 0 };
  for (const container of template.spec.containers) {
    const amounts = amountsOf(container.resources);
    total.cpuLimit += amounts.cpuLimit;
    total.cpuRequest += amounts.cpuRequest;
    total.memoryLimit += amounts.memoryLimit;
  }
  for (const container of template.spec.initContainers ?? []) {
    const amounts = amountsOf(container.resources);
    total.cpuLimit = Math.max(total.cpuLimit, amounts.cpuLimit);
    total.cpuRequest = Math.max(total.cpuRequest, amounts.cpuRequest);
    total.memoryLimit = Math.max(total.memoryLimit, amounts.memoryLimit);
  }
  return {
    cpuPeriod: CPU_PERIOD,
    cpuQuota: total.cpuLimit === 0 ? 0 : quota(total.cpuLimit),
    cpuShares: shares(total.cpuRequest),
    memory: total.memoryLimit,
  };
}

/** Class of the pod: Guaranteed if every container limits CPU and memory and asks for exactly its limits. */
export function qosClass(template: PodTemplate): QosClass {
  const all = [...(template.spec.initContainers ?? []), ...template.spec.containers].map((container) => amountsOf(container.resources));
  if (all.every((amounts) => amounts.cpuRequest === 0 && amounts.memoryRequest === 0)) return "BestEffort";
  const guaranteed = all.every(
    (amounts) => amounts.cpuLimit > 0 && amounts.memoryLimit > 0 && amounts.cpuRequest === amounts.cpuLimit && amounts.memoryRequest === amounts.memoryLimit,
  );
  return guaranteed ? "Guaranteed" : "Burstable";
}

/** Kubelet's OOM score of a container: the more of the node it asks for, the safer it is. */
export function oomScore(container: PodContainer, qos: QosClass, nodeMemory: number): number {
  if (qos === "Guaranteed") return OOM_GUARANTEED;
  if (qos === "BestEffort") return OOM_BEST_EFFORT;
  const score = 1000 - Math.floor((1000 * amountsOf(container.resources).memoryRequest) / nodeMemory);
  return Math.min(OOM_BEST_EFFORT - 1, Math.max(1000 + OOM_GUARANTEED, score));
}

function amountsOf(resources: ResourceRequirements | undefined): Amounts {
  const { limits, requests } = resources ?? {};
  const read = (quantity: string | number | undefined, parse: typeof parseBytes, otherwise: number): number =>
    quantity === undefined ? otherwise : parse(quantity);
  const cpuLimit = read(limits?.["cpu"], parseMilliCpu, 0);
  const memoryLimit = read(limits?.["memory"], parseBytes, 0);
  return {
    cpuLimit,
    memoryLimit,
    cpuRequest: read(requests?.["cpu"], parseMilliCpu, cpuLimit),
    memoryRequest: read(requests?.["memory"], parseBytes, memoryLimit),
  };
}

function quota(milliCpu: number): number {
  return Math.max(MIN_QUOTA, Math.floor((milliCpu * CPU_PERIOD) / 1000));
}

function shares(milliCpu: number): number {
  return Math.max(MIN_SHARES, Math.floor((milliCpu * 1024) / 1000));
}
