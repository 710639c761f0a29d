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

const MIB = 1024 * 1024;

/**
 * Limits of a pod from the annotations that containerd puts on its sandbox. Requests are not among them: they do not count.
 * @throws {SandboxError} ERR_SANDBOX_SPEC if a value is not an integer
 */
export function workloadLimits(annotations: Readonly<Record<string, string>>): WorkloadLimits {
  const read = (name: string): number => {
    const text = annotations[name] ?? "0";
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

/** Size of the machine for a pod (specs/runtime.md 6.2). */
export function machineSize(limits: WorkloadLimits, config: SizingConfig = AKS_SIZING): MachineSize {
  const base = { memoryMiB: config.defaultMemoryMiB, vcpus: Math.ceil(config.defaultVcpus) };
  if (!config.staticSandbox) return base;
  const memory = Math.floor(Math.max(0, limits.memoryBytes) / MIB);
  const cpus = limits.cpuQuota > 0 && limits.cpuPeriod > 0 ? limits.cpuQuota / limits.cpuPeriod : 0;
  return {
    memoryMiB: config.defaultMemoryMiB + (memory === 0 ? config.defaultWorkloadMemoryMiB : memory),
    vcpus: Math.ceil(config.defaultVcpus + (cpus === 0 ? config.defaultWorkloadVcpus : cpus)),
  };
}
