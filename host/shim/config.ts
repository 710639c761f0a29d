import type { SizingConfig } from "@sealpod/sandbox";
import type { SnpLaunch } from "@sealpod/vmm";

export { LAUNCHER_NAME, type LauncherPlaces, launcherText } from "./launcher.ts";
export { type PodRecord, readRecord, shimRuns } from "./record.ts";
export { type ConfigPlaces, DEFAULT_CONFIG_PATH, DEFAULT_PREFIX, defaultConfig, defaultConfigText, loadConfig, parseConfig, parseToml } from "./config-file.ts";

/** The shim's configuration (`/etc/sealpod/shim.toml`); each key is documented with its default in the file that `sealpod host install` writes. */
export interface ShimConfig {
  /** What separates a pod from its node. `auto`: a virtual machine with SEV-SNP where the node has it, else one without; `process` only if it is named. */
  readonly isolation: "auto" | "snp" | "vm" | "process";
  /** Directory of the utility VM's image (`sealpod uvm build`). */
  readonly uvm: string;
  /** Firmware of the AmdSev kind, for a start with SEV-SNP. */
  readonly firmware: string | undefined;
  /** How a start with SEV-SNP is made. */
  readonly snp: Omit<SnpLaunch, "memoryMiB" | "hostData">;
  /** For `process`: the agent's bundle. */
  readonly agent: string | undefined;
  readonly sizing: SizingConfig;
  /** Names, without `io.katacontainers.config.hypervisor.`, of the annotations by which a pod may change its machine. */
  readonly enableAnnotations: readonly string[];
  /** `auto`: CPU limits of containers are left out where the processor is emulated, since a part of such a one starts nothing. */
  readonly containerCpuLimits: "auto" | "always" | "never";
  /** Socket of the emulated security processor, for nodes without SEV-SNP. */
  readonly processorSocket: string;
  /** Directory of the pods' sockets and records; short, since sockets are in it. */
  readonly runDirectory: string;
  /** Cache of layer files. */
  readonly layerDirectory: string;
  /** `tcfilter` joins the pod's interfaces to the machine's; `none` leaves the pod without a network. */
  readonly network: "tcfilter" | "none";
  /** Whether connections to the pod's loopback address (`kubectl port-forward`) reach the guest. */
  readonly portForward: boolean;
  /** `memory`, or a disk of the host encrypted in the guest with a key that never leaves it. */
  readonly emptyDir: "memory" | "encrypted";
  /** Whether the shim and its machine are in the pod's cgroup, whose limits then hold for the whole machine. */
  readonly sandboxCgroupOnly: boolean;
  /** Milliseconds for CreateContainer in the guest. */
  readonly createContainerTimeoutMs: number;
  readonly logLevel: "debug" | "info" | "warn" | "error";
}
