import { isSealpodError, messageOf } from "@sealpod/core";
import { processGuest, ProcessDriver, QemuDriver, type GuestSource, type VmmDriver } from "@sealpod/vmm";
import { MachineError } from "./errors.ts";
import { openUvm } from "./uvm.ts";

/** What separates a pod from this laptop: a virtual machine, or namespaces alone. */
export type Isolation = "vm" | "process";

/** What a user may ask for: `auto` is a virtual machine wherever one can be made. */
export type IsolationChoice = Isolation | "auto";

/** The choices, for a command line. */
export const ISOLATIONS: readonly IsolationChoice[] = ["auto", "vm", "process"];

/** What pods run in. */
export interface PodMachine {
  readonly isolation: Isolation;
  readonly driver: VmmDriver;
  readonly guest: GuestSource;
  /** What the security processor measures before the guest runs. */
  readonly measured: {
    /** Absolute paths, in this order. */
    readonly files: readonly string[];
    readonly commandLine: string;
  };
  /** True if the processor is emulated as well: everything takes tens of times longer, and a container's share of such a processor is none to live on. */
  readonly slow: boolean;
  /** In words, for whoever runs the pod: what isolates it, and what does not. */
  readonly description: string;
}

/** Options of {@link openPodMachine}. */
export interface PodMachineOptions {
  readonly isolation: IsolationChoice;
  /** Program that runs the agent's bundle: Node 24. */
  readonly node: string;
  /** The agent's bundle. */
  readonly agentBundle: string;
  /** Directory of the utility VM's image; it is built there if it is missing or of another agent. */
  readonly uvmDirectory: string;
  /** Told what takes long. */
  readonly progress?: (message: string) => void;
}

/** The machine without a virtual machine. */
export function processMachine(node: string, agentBundle: string): PodMachine {
  const guest = processGuest(node, agentBundle);
  return {
    isolation: "process",
    driver: new ProcessDriver(),
    guest,
    measured: { files: guest.measuredFiles, commandLine: guest.commandLine },
    slow: false,
    description: "process: namespaces of this machine, NO isolation from root",
  };
}

/**
 * What pods run in on this laptop. With `auto`, what a virtual machine lacks is told as progress and pods run as processes.
 * @throws {MachineError} ERR_MACHINE_ISOLATION if a virtual machine was asked for and there cannot be one
 */
export async function openPodMachine(options: PodMachineOptions): Promise<PodMachine> {
  if (options.isolation === "process") return processMachine(options.node, options.agentBundle);
  try {
    return await virtualMachine(options);
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    if (options.isolation === "vm") {
      throw new MachineError("ERR_MACHINE_ISOLATION", `no virtual machine can be run here: ${messageOf(cause)}`, {
        cause,
        hint: `${cause.hint === undefined ? "" : `${cause.hint} `}Or run the pod as processes, without isolation: --isolation process`,
      });
    }
    options.progress?.(`no virtual machine here (${messageOf(cause)}): the pod runs as processes, without isolation`);
    return processMachine(options.node, options.agentBundle);
  }
}

async function virtualMachine({ node, agentBundle, uvmDirectory, progress = () => undefined }: PodMachineOptions): Promise<PodMachine> {
  const driver = new QemuDriver();
  await driver.probe();
  const guest = await openUvm({ directory: uvmDirectory, node, agentBundle, progress });
  const slow = (await driver.accelerator()).kind === "tcg";
  return {
    isolation: "vm",
    driver,
    guest,
    measured: { files: [guest.kernel, guest.initrd], commandLine: guest.commandLine },
    slow,
    description: `vm: QEMU (${slow ? "TCG, emulated processor" : "KVM"}), its memory readable by this machine's root`,
  };
}
