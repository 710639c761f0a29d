import { SandboxError } from "./errors.ts";

/** How machines are sized; the names follow the shim's configuration keys. */
export interface SizingConfig {
  /** `default_memory`: MiB for the guest's own system. */
  readonly defaultMemoryMiB: number;
  /** `default_vcpus`: CPUs for the guest's own system; may be a fraction. */
  readonly defaultVcpus: number;
  /** `static_sandbox_resource_mgmt`: the machine has its final size from the start. Confidential machines cannot grow. */
  readonly staticSandbox: boolean;
  /** `static_sandbox_default_workload_mem`: MiB for a pod without a memory limit. */
  readonly defaultWorkloadMemoryMiB: number;
  /** `static_sandbox_default_workload_vcpus`: CPUs for a pod without a CPU limit; may be a fraction. */
  readonly defaultWorkloadVcpus: number;
}

/** What AKS documents for `kata-cc`: 2 GiB and one CPU for the system, plus the limits of the containers. */
export const AKS_SIZING: SizingConfig = {
  defaultMemoryMiB: 2048,
  defaultVcpus: 1,
  staticSandbox: true,
  defaultWorkloadMemoryMiB: 2048,
  defaultWorkloadVcpus: 0,
};

/** Limits of a pod. */
export interface WorkloadLimits {
  /** Microseconds of CPU in each period; 0 or less is no limit. */
  readonly cpuQuota: number;
  /** Microseconds. */
  readonly cpuPeriod: number;
  /** 0 or less is no limit. */
  readonly memoryBytes: number;
}

/** Size of a machine. */
export interface MachineSize {
  readonly memoryMiB: number;
  readonly vcpus: number;
}

/** What a host can give to one machine. */
export interface HostCapacity {
  /** MiB that no other machine and not the host itself needs. */
  readonly memoryMiB: number;
  /** Processors of the host. A machine with more of them would wait for itself. */
  readonly vcpus: number;
}

const MIB = 1024 * 1024;

/** Largest machine where the caller names no host: 64 TiB and 4096 CPUs, more than hosts and monitors have, and far from where numbers lose their last digits. */
const LARGEST: HostCapacity = { memoryMiB: 64 * 1024 * 1024, vcpus: 4096 };

/** From here on a limit of memory is the kernel's way to write none: it is 2^63 rounded down to a page, which JSON numbers round up again. */
const NO_MEMORY_LIMIT = 2 ** 62;

/** Annotations of a pod that replace base values, where the node's configuration allows them. */
const OVERRIDES = {
  default_memory: "defaultMemoryMiB",
  default_vcpus: "defaultVcpus",
} as const;

/**
 * Limits of a pod from the annotations that containerd puts on its sandbox. Requests are not among them: they do not count.
 * @throws {SandboxError} ERR_SANDBOX_SPEC if a value is not an integer
 */
export function workloadLimits(annotations: Readonly<Record<string, string>>): WorkloadLimits {
  const read = (name: string): number => {
    const text = Object.hasOwn(annotations, name) ? String(annotations[name]) : "0";
    const value = Number(text);
    if (!/^-?[0-9]{1,16}$/.test(text) || !Number.isSafeInteger(value)) {
      throw new SandboxError("ERR_SANDBOX_SPEC", `annotation ${name} is ${JSON.stringify(text.slice(0, 100))}, expected an integer`);
    }
    return value;
  };
  return {
    cpuQuota: read("io.kubernetes.cri.sandbox-cpu-quota"),
    cpuPeriod: read("io.kubernetes.cri.sandbox-cpu-period"),
    memoryBytes: read("io.kubernetes.cri.sandbox-memory"),
  };
}

/**
 * Limits of a container that is a sandbox of its own, from its OCI runtime specification (`linux.resources`).
 * @param spec parsed JSON
 * @throws {SandboxError} ERR_SANDBOX_SPEC if a value is not an integer
 */
export function specLimits(spec: unknown): WorkloadLimits {
  const resources = member(member(spec, "linux"), "resources");
  const read = (group: string, name: string): number => {
    const value = member(member(resources, group), name) ?? 0;
    if (typeof value === "number" && Math.abs(value) >= NO_MEMORY_LIMIT) return 0;
    if (typeof value === "number" && Number.isSafeInteger(value)) return value;
    throw new SandboxError("ERR_SANDBOX_SPEC", `linux.resources.${group}.${name} is ${JSON.stringify(value)?.slice(0, 100) ?? "nothing"}, expected an integer`);
  };
  return { cpuQuota: read("cpu", "quota"), cpuPeriod: read("cpu", "period"), memoryBytes: read("memory", "limit") };
}

/**
 * A node's sizing for one pod: annotations `io.katacontainers.config.hypervisor.default_memory` (MiB) and `….default_vcpus` replace the
 * base values, if the node's configuration enables them. A pod's author writes them: what is not enabled is refused, not passed over.
 * @param enabled names without their prefix
 * @throws {SandboxError} ERR_SANDBOX_SPEC
 */
export function sizingOf(config: SizingConfig, annotations: Readonly<Record<string, string>>, enabled: readonly string[] = []): SizingConfig {
  let sizing = config;
  for (const [name, key] of Object.entries(OVERRIDES)) {
    const annotation = `io.katacontainers.config.hypervisor.${name}`;
    if (!Object.hasOwn(annotations, annotation)) continue;
    const text = String(annotations[annotation]);
    const found = `annotation ${annotation} is ${JSON.stringify(text.slice(0, 100))}`;
    if (!enabled.includes(name)) {
      throw new SandboxError("ERR_SANDBOX_SPEC", `${found}, and this node does not take it`, {
        hint: `Add "${name}" to enable_annotations, or remove the annotation.`,
      });
    }
    if (!/^[1-9][0-9]{0,7}$/.test(text)) throw new SandboxError("ERR_SANDBOX_SPEC", `${found}, expected a positive integer of at most eight digits`);
    sizing = { ...sizing, [key]: Number(text) };
  }
  return sizing;
}

/**
 * Size of the machine for a pod (specs/runtime.md 6.2): base values, plus the limits of its containers or the defaults where there are
 * none; CPUs are rounded up, memory down to whole MiB.
 * @param capacity what the host can give; a pod that needs more is refused, never made smaller
 * @throws {SandboxError} ERR_SANDBOX_SPEC; with `details.reason` "capacity" if the pod does not fit the host
 */
export function machineSize(limits: WorkloadLimits, config: SizingConfig = AKS_SIZING, capacity: HostCapacity = LARGEST): MachineSize {
  const size = config.staticSandbox
    ? staticSize(limits, config)
    : { memoryMiB: whole("default_memory", config.defaultMemoryMiB), vcpus: Math.ceil(cpus("default_vcpus", config.defaultVcpus)) };
  if (size.memoryMiB < 1) throw new SandboxError("ERR_SANDBOX_SPEC", "the machine for this pod would have no memory", { details: { ...size } });
  if (size.vcpus < 1) throw new SandboxError("ERR_SANDBOX_SPEC", "the machine for this pod would have no CPU", { details: { ...size } });
  if (size.memoryMiB > capacity.memoryMiB) throw tooLarge(`${size.memoryMiB} MiB of memory`, `${capacity.memoryMiB} MiB`, size, capacity);
  if (size.vcpus > capacity.vcpus) throw tooLarge(`${size.vcpus} CPUs`, String(capacity.vcpus), size, capacity);
  return size;
}

function staticSize(limits: WorkloadLimits, config: SizingConfig): MachineSize {
  const memory = Math.floor(Math.max(0, integer("memory limit", limits.memoryBytes)) / MIB);
  return {
    memoryMiB:
      whole("default_memory", config.defaultMemoryMiB) +
      (memory === 0 ? whole("static_sandbox_default_workload_mem", config.defaultWorkloadMemoryMiB) : memory),
    vcpus: workloadVcpus(limits, config),
  };
}

/** The sum of two doubles is the one next to the true sum, so fractions that make a whole number give no CPU too many. */
function workloadVcpus(limits: WorkloadLimits, config: SizingConfig): number {
  const quota = integer("CPU quota", limits.cpuQuota);
  const period = integer("CPU period", limits.cpuPeriod);
  const limited = quota > 0 && period > 0;
  const base = cpus("default_vcpus", config.defaultVcpus);
  return Math.ceil(base + (limited ? quota / period : cpus("static_sandbox_default_workload_vcpus", config.defaultWorkloadVcpus)));
}

function tooLarge(needs: string, has: string, size: MachineSize, capacity: HostCapacity): SandboxError {
  return new SandboxError("ERR_SANDBOX_SPEC", `the pod does not fit this host: its machine needs ${needs}, and the host has ${has} to give`, {
    details: { reason: "capacity", ...size, hostMemoryMiB: capacity.memoryMiB, hostVcpus: capacity.vcpus },
    hint: "Lower the limits of the pod's containers, or run it on a larger host. A container without a limit counts for nothing, a pod without any gets the default.",
  });
}

function cpus(key: string, value: number): number {
  if (Number.isFinite(value) && value >= 0) return value;
  throw new SandboxError("ERR_SANDBOX_SPEC", `${key} is ${value}, expected a number of CPUs`);
}

function whole(key: string, value: number): number {
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new SandboxError("ERR_SANDBOX_SPEC", `${key} is ${value}, expected a whole number of MiB`);
}

function integer(what: string, value: number): number {
  if (Number.isSafeInteger(value)) return value;
  throw new SandboxError("ERR_SANDBOX_SPEC", `${what} is ${value}, expected an integer`);
}

function member(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) return undefined;
  return (value as Readonly<Record<string, unknown>>)[name] ?? undefined;
}
