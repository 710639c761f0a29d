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
 * Size of the sandbox: what app containers and sidecars take together, or an init container with the sidecars that run before it, if that is
 * more; limits of the pod as a whole stand over both. A container without a limit adds nothing, so the VM is sized by what is declared
 * (specs/runtime.md 6.2).
 */
export function sandboxResources(template: PodTemplate): SandboxResources {
  const { spec } = template;
  let sidecars = NOTHING;
  let largest = NOTHING;
  for (const container of spec.initContainers ?? []) {
    const amounts = amountsOf(container.resources);
    largest = combine(largest, combine(sidecars, amounts, add), Math.max);
    if (container.restartPolicy === "Always") sidecars = combine(sidecars, amounts, add);
  }
  const running = spec.containers.map((container) => amountsOf(container.resources)).reduce((sum, amounts) => combine(sum, amounts, add), sidecars);
  const { cpuLimit, cpuRequest, memoryLimit } = combine(combine(running, largest, Math.max), amountsOf(spec.resources), (sum, own) => own || sum);
  return {
    cpuPeriod: CPU_PERIOD,
    cpuQuota: cpuLimit === 0 ? 0 : quota(cpuLimit),
    cpuShares: shares(cpuRequest),
    memory: memoryLimit,
  };
}

const NOTHING: Amounts = { cpuLimit: 0, cpuRequest: 0, memoryLimit: 0, memoryRequest: 0 };

function add(a: number, b: number): number {
  return a + b;
}

function combine(a: Amounts, b: Amounts, by: (a: number, b: number) => number): Amounts {
  return {
    cpuLimit: by(a.cpuLimit, b.cpuLimit),
    cpuRequest: by(a.cpuRequest, b.cpuRequest),
    memoryLimit: by(a.memoryLimit, b.memoryLimit),
    memoryRequest: by(a.memoryRequest, b.memoryRequest),
  };
}

/** Class of the pod: Guaranteed if every container limits CPU and memory and asks for exactly its limits. */
export function qosClass({ spec }: PodTemplate): QosClass {
  const declared = spec.resources === undefined ? [...(spec.initContainers ?? []), ...spec.containers] : [spec];
  const all = declared.map(({ resources }) => amountsOf(resources));
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
