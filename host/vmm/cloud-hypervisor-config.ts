import { isAbsolute } from "node:path";
import { toHex, type JsonObject } from "@sealpod/core";
import type { MachineConfig, TapInterface, UvmGuest } from "./driver.ts";
import { VmmError } from "./errors.ts";

/** PCI segments of a machine: one with what is there at the boot, nine with 31 disks each (specs/runtime.md 4.6). */
export const PCI_SEGMENTS = 10;

/** Disks of one segment. */
export const DISKS_PER_SEGMENT = 31;

/** The guest's own number in its vsock network; each machine has a network of its own, so all may have the same. */
const GUEST_CID = 3;

/** The monitor counts CPUs in eight bits. */
const MAX_VCPUS = 255;

/** Cards share segment 0 with root disk, initdata, vsock and randomness. */
const MAX_CARDS = 16;

/** A machine as Cloud Hypervisor is told of it. */
export interface MachinePlan {
  /** Body of vm.create. */
  readonly machine: JsonObject;
  /** Bodies of vm.add-net, in order. */
  readonly cards: readonly JsonObject[];
  /** Path of the network namespace that the monitor is started in. */
  readonly namespace: string | undefined;
  /** What is measured: files in this order, and the command line beside them. */
  readonly measured: { readonly files: readonly string[]; readonly commandLine: string };
}

/**
 * What Cloud Hypervisor is told (specs/runtime.md 4.6).
 * @param vsock path of the unix socket that stands for the guest's vsock device
 * @throws {VmmError} ERR_VMM_CONFIG
 */
export function planMachine(config: MachineConfig, vsock: string, confidential: boolean): MachinePlan {
  const guest = uvmGuest(config);
  const { vcpus, memoryMiB, initdata } = config;
  if (vcpus > MAX_VCPUS) throw configError("vcpus", vcpus, `at most ${MAX_VCPUS}`);
  if (!Number.isSafeInteger(memoryMiB * 1024 * 1024)) throw configError("memoryMiB", memoryMiB, "a number of bytes below 2^53");
  const { payload, measured } = confidential ? confidentialPayload(guest, config.hostData) : plainPayload(guest);
  const disks = [absolute("root", guest.root), ...(initdata === undefined ? [] : [absolute("initdata", initdata)])];
  return {
    machine: {
      payload,
      platform: { num_pci_segments: PCI_SEGMENTS, ...(confidential ? { sev_snp: true } : {}) },
      cpus: {
        boot_vcpus: vcpus,
        max_vcpus: vcpus,
        topology: { threads_per_core: 1, cores_per_die: vcpus, dies_per_package: 1, packages: 1 },
      },
      memory: { size: memoryMiB * 1024 * 1024, shared: false, hugepages: false },
      disks: disks.map((path) => ({ path, readonly: true })),
      rng: { src: "/dev/urandom" },
      console: { mode: "Off" },
      // A confidential guest has no console: whatever it prints would leave it.
      serial: { mode: confidential ? "Off" : "Tty" },
      vsock: { cid: GUEST_CID, socket: vsock },
    },
    ...planNetwork(config),
    measured,
  };
}

/** A disk to be added. */
export interface AddedDisk {
  readonly path: string;
  readonly vcpus: number;
  readonly segment: number;
  readonly readonly: boolean;
}

/** Body of vm.add-disk. */
export function diskConfig({ path, vcpus, segment, readonly }: AddedDisk): JsonObject {
  return { path, readonly, direct: false, vhost_user: false, num_queues: vcpus, queue_size: 1024, pci_segment: segment };
}

/**
 * Checks the address that a disk was given: it becomes text in a request to the agent, and the policy knows one form.
 * @throws {VmmError} ERR_VMM_DISK
 */
export function diskSource(bdf: string, segment: number): string {
  const match = /^([0-9a-f]{4}):00:[01][0-9a-f]\.0$/.exec(bdf);
  if (match !== null && Number.parseInt(match[1] ?? "", 16) === segment) return bdf;
  throw new VmmError("ERR_VMM_DISK", `cloud-hypervisor put a disk at ${JSON.stringify(bdf.slice(0, 40))}, expected segment ${segment}, bus 00`, {
    details: { bdf: bdf.slice(0, 40), segment },
  });
}

function uvmGuest({ guest }: MachineConfig): UvmGuest {
  if (guest.kind === "uvm") return guest;
  throw configError("guest", JSON.stringify(guest.kind), '"uvm"');
}

interface Payload {
  readonly payload: JsonObject;
  readonly measured: MachinePlan["measured"];
}

function plainPayload(guest: UvmGuest): Payload {
  const kernel = absolute("kernel", guest.kernel);
  const initramfs = absolute("initrd", guest.initrd);
  return { payload: { kernel, initramfs, cmdline: guest.commandLine }, measured: { files: [kernel, initramfs], commandLine: guest.commandLine } };
}

/** The command line is in the IGVM file, and measured there. */
function confidentialPayload(guest: UvmGuest, hostData: Uint8Array): Payload {
  if (guest.igvm === undefined) {
    throw new VmmError("ERR_VMM_CONFIG", "machine: a confidential start needs an IGVM file, and the guest's image has none", {
      hint: "Build the image with --target snp.",
    });
  }
  // Zero would let any policy in: the agent of a confidential guest compares what it is given with the launch.
  if (hostData.every((byte) => byte === 0)) {
    throw new VmmError("ERR_VMM_CONFIG", "machine: a confidential start needs host data, and all 32 bytes are zero", {
      hint: "Give the pod a policy: its SHA-256 is the host data.",
    });
  }
  const igvm = absolute("igvm", guest.igvm);
  return { payload: { igvm, host_data: toHex(hostData) }, measured: { files: [igvm], commandLine: "" } };
}

function planNetwork({ network }: MachineConfig): Pick<MachinePlan, "cards" | "namespace"> {
  if (network === undefined || network.kind === "none") return { cards: [], namespace: undefined };
  if (network.kind === "user") {
    throw new VmmError("ERR_VMM_CONFIG", "machine: cloud-hypervisor has no user network", { hint: "Use taps, or no network." });
  }
  if (network.kind === "namespace") throw configError("network", "of kind namespace", "one of kind tap or none");
  const { interfaces, namespace } = network;
  if (interfaces.length > MAX_CARDS) throw configError("number of network cards", interfaces.length, `at most ${MAX_CARDS}`);
  if (new Set(interfaces.map((item) => item.tap)).size !== interfaces.length) throw configError("taps", "one name twice", "each name once");
  return { cards: interfaces.map(card), namespace: namespace === undefined ? undefined : absolute("network namespace", namespace) };
}

/** The monitor opens the tap by its name: Node cannot pass it a descriptor. Two queues are one pair, which is what the tap has. */
function card({ tap, mac }: TapInterface): JsonObject {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/.test(tap)) throw configError("tap", JSON.stringify(tap.slice(0, 40)), "1 to 15 letters, digits, '_', '.' or '-'");
  if (!/^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/.test(mac)) throw configError("mac", JSON.stringify(mac.slice(0, 40)), "six pairs of hex digits joined by colons");
  return { tap, mac, num_queues: 2, queue_size: 256 };
}

function absolute(what: string, path: string): string {
  if (isAbsolute(path) && !path.includes("\0")) return path;
  throw configError(what, JSON.stringify(path.slice(0, 200)), "an absolute path");
}

function configError(what: string, found: string | number, expected: string): VmmError {
  return new VmmError("ERR_VMM_CONFIG", `machine: ${what} is ${found}, expected ${expected}`, { details: { field: what, found, expected } });
}
