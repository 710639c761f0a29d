import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { asObject, type JsonObject, type Logger, messageOf, parseJson } from "@sealpod/core";
import type { HostCapacity } from "@sealpod/sandbox";
import { type GuestSource, type LaunchPort, ProcessDriver, processGuest, QemuDriver, type UvmGuest, type VmmDriver } from "@sealpod/vmm";
import type { ShimConfig } from "./config.ts";
import { ShimError } from "./errors.ts";

/** What a node's pods run in. */
export interface PodMachine {
  readonly isolation: "snp" | "vm" | "process";
  readonly driver: VmmDriver;
  readonly guest: GuestSource;
  readonly launch: LaunchPort;
  /** True if the processor is emulated: everything takes tens of times longer, and a part of such a processor starts nothing. */
  readonly emulated: boolean;
}

/** What {@link chooseMachine} needs. */
export interface MachinePorts {
  /** Client of the emulated security processor on a socket. */
  readonly processor: (socket: string) => LaunchPort;
  /** Program that runs the agent's bundle where pods are processes: Node 24. */
  readonly node: string;
  readonly logger: Logger;
  /** Whether this host starts guests with SEV-SNP; default: looks. */
  readonly hasSnp?: () => Promise<boolean>;
}

/** Largest manifest of an image of the utility VM; real ones have 10 KiB. */
const MAX_MANIFEST = 1024 * 1024;

/** Only the real processor measures what starts with SEV-SNP, and guests ask it themselves. */
const HARDWARE: LaunchPort = {
  launch: () => Promise.resolve({ guestInfoDirectory: "/sys/kernel/config", close: () => Promise.resolve() }),
};

/**
 * What pods of this node run in, by its configuration: `auto` is SEV-SNP where the node has it, else a virtual machine with an emulated security
 * processor. It never becomes less than a virtual machine without being told so.
 * @throws {ShimError} ERR_SHIM_CONFIG
 * @throws {VmmError} ERR_VMM_UNAVAILABLE
 */
export async function chooseMachine(config: ShimConfig, ports: MachinePorts): Promise<PodMachine> {
  if (config.isolation === "process") return processMachine(config, ports);
  const snp = config.isolation === "snp" || (config.isolation === "auto" && (await (ports.hasSnp ?? hasSnp)()));
  const guest = await readUvmGuest(config.uvm);
  if (snp) {
    const { firmware } = config;
    if (firmware === undefined) {
      throw new ShimError("ERR_SHIM_CONFIG", "SEV-SNP needs firmware, and the configuration names none", {
        hint: 'Set firmware to an OVMF of the AmdSev kind, or isolation = "vm" for machines without protection from this node.',
      });
    }
    const driver = new QemuDriver({ logger: ports.logger, snp: config.snp });
    return { isolation: "snp", driver, guest: { ...guest, firmware }, launch: HARDWARE, emulated: false };
  }
  const driver = new QemuDriver({ logger: ports.logger });
  const accelerator = await driver.accelerator();
  ports.logger.log("warn", "the security processor of this node is EMULATED: no protection from whoever controls the node", {
    processor: accelerator.kind,
    reason: accelerator.reason,
  });
  return { isolation: "vm", driver, guest, launch: ports.processor(config.processorSocket), emulated: accelerator.kind === "tcg" };
}

/** What this host can give to one more machine; memory that the kernel would take back from its caches counts. */
export async function hostCapacity(): Promise<HostCapacity> {
  const kib = /^MemAvailable:\s+([0-9]{1,15}) kB$/m.exec(await readFile("/proc/meminfo", "latin1"))?.[1];
  if (kib === undefined) throw new ShimError("ERR_SHIM_POD", "/proc/meminfo does not say how much memory is available");
  return { memoryMiB: Math.floor(Number(kib) / 1024), vcpus: availableParallelism() };
}

/**
 * The guest that an image of the utility VM is (`uvm.json`).
 * @throws {ShimError} ERR_SHIM_CONFIG
 */
export async function readUvmGuest(directory: string): Promise<UvmGuest> {
  const path = join(directory, "uvm.json");
  let manifest: JsonObject;
  try {
    const text = await readFile(path, "utf8");
    manifest = asObject(parseJson(text, "uvm.json", { maxLength: MAX_MANIFEST, maxDepth: 16 })) ?? {};
  } catch (cause) {
    throw new ShimError("ERR_SHIM_CONFIG", `no image of the utility VM: ${path}: ${messageOf(cause)}`, {
      cause,
      hint: "Install one (sealpod host install), or set uvm to the directory that sealpod uvm build made.",
    });
  }
  const malformed = (what: string): ShimError => new ShimError("ERR_SHIM_CONFIG", `${path}: ${what}`, { hint: "Build the image again: sealpod uvm build." });
  if (manifest["version"] !== 1) throw malformed("it is of another version, expected 1");
  const file = (name: string): string => {
    const found = asObject(manifest[name])?.["file"];
    if (typeof found !== "string" || !/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(found)) throw malformed(`${name}.file is no name of a file`);
    return join(directory, found);
  };
  const { commandLine } = { commandLine: undefined, ...manifest };
  if (typeof commandLine !== "string") throw malformed("commandLine is missing");
  return { kind: "uvm", kernel: file("kernel"), initrd: file("initrd"), root: file("root"), commandLine };
}

function processMachine(config: ShimConfig, { node, processor, logger }: MachinePorts): PodMachine {
  const { agent } = config;
  if (agent === undefined) {
    throw new ShimError("ERR_SHIM_CONFIG", 'isolation is "process", and the configuration names no agent', { hint: "Set agent to the path of agent.mjs." });
  }
  logger.log("warn", "pods are PROCESSES of this node: no isolation from its root, and none of its limits", {});
  return {
    isolation: "process",
    driver: new ProcessDriver({ logger }),
    guest: processGuest(node, agent),
    launch: processor(config.processorSocket),
    emulated: false,
  };
}

/** The kernel's module says that it starts such guests, and the processor's own device is there. */
async function hasSnp(): Promise<boolean> {
  const parameter = await readFile("/sys/module/kvm_amd/parameters/sev_snp", "latin1").catch(() => "");
  if (!/^[Y1]/.test(parameter)) return false;
  return access("/dev/sev", constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
}
