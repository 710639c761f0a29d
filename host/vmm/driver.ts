import type { ByteStream } from "@sealpod/ttrpc";
import { VmmError } from "./errors.ts";

/** Starts machines of one kind. */
export interface VmmDriver {
  /** Name for configuration and messages, e.g. `process`. */
  readonly name: string;
  /** What separates the guest from the host, and the guest's memory from the host. */
  readonly isolation: "none" | "vm" | "confidential";
  /**
   * Checks that this host has what the driver needs.
   * @throws {VmmError} ERR_VMM_UNAVAILABLE
   */
  probe(): Promise<void>;
  /**
   * Starts a machine; resolves when its agent listens.
   * @throws {VmmError} ERR_VMM_CONFIG, ERR_VMM_UNAVAILABLE, ERR_VMM_BOOT
   */
  start(config: MachineConfig): Promise<Machine>;
}

/** What a machine is made of. */
export interface MachineConfig {
  /** Letters, digits, `_`, `.` and `-`; a sandbox id. */
  readonly id: string;
  /** Directory for sockets and links. The driver makes it and removes it: it must not exist. Sockets bound its length to 90 bytes. */
  readonly runDirectory: string;
  readonly guest: GuestSource;
  /** 32 bytes that the guest's attestation reports carry. */
  readonly hostData: Uint8Array;
  readonly launch: LaunchPort;
  /** How the guest reaches other machines. A driver refuses what it does not have; absent: the driver's own choice for a laptop. */
  readonly network?: NetworkConfig;
  /** A file that is a disk from the start, read-only: the initdata of a pod (specs/runtime.md 3.6). */
  readonly initdata?: string;
  /** Mebibytes. A driver without a virtual machine has no use for it. */
  readonly memoryMiB: number;
  /** A driver without a virtual machine has no use for it. */
  readonly vcpus: number;
  /** Gets what the guest prints, as it comes. It is the guest's word, not the host's. */
  readonly console?: (bytes: Uint8Array) => void;
  /** Told of what happens to the machine while it runs. */
  readonly onEvent?: (event: MachineEvent) => void;
}

/** Something that happened to a machine. */
export type MachineEvent =
  /** The guest's kernel says that a block of a disk is not what its root hash says. `text` is its line, of at most 400 characters. */
  | { readonly kind: "corrupt-disk"; readonly text: string }
  /** The guest's kernel stopped. */
  | { readonly kind: "panic"; readonly text: string };

/** How a guest reaches other machines. */
export type NetworkConfig =
  /** Not at all. */
  | { readonly kind: "none" }
  /** Through a process of the host that opens connections on the guest's behalf; nothing of the host's network is touched. */
  | { readonly kind: "user" }
  /**
   * Taps that exist already in the network namespace `namespace` (a path), in which the machine's process is then started; without one, in
   * the driver's own.
   */
  | { readonly kind: "tap"; readonly namespace?: string; readonly interfaces: readonly TapInterface[] }
  /** The guest is in the network namespace `namespace` (a path) itself, as it is: for drivers whose guests share the host's kernel. */
  | { readonly kind: "namespace"; readonly namespace: string };

/** One network card of a guest. */
export interface TapInterface {
  /** Name of the tap. */
  readonly tap: string;
  /** Six pairs of hex digits joined by colons: that of the interface whose place the card takes. */
  readonly mac: string;
}

/** Where the guest's code comes from. Each driver takes one kind. */
export type GuestSource = ProcessGuest | UvmGuest;

/** A utility VM's image (`sealpod uvm build`). Paths are absolute. */
export interface UvmGuest {
  readonly kind: "uvm";
  /** `vmlinux` with a PVH note, or a bzImage. */
  readonly kernel: string;
  readonly initrd: string;
  /** Disk with the root file system and its dm-verity tree: the guest's first disk, read-only. */
  readonly root: string;
  /** The kernel's command line, which names the root hash. Measured, and never changed by a driver. */
  readonly commandLine: string;
  /** Firmware for a start with SEV-SNP (an OVMF of the AmdSev kind). */
  readonly firmware?: string;
  /** IGVM file, for drivers that start from one. */
  readonly igvm?: string;
}

/** The agent as a process of the host. */
export interface ProcessGuest {
  readonly kind: "process";
  /** Program and arguments; the driver adds the agent's own. The program is an absolute path. */
  readonly command: readonly string[];
  /** Absolute paths of the files whose bytes stand for the guest's initial memory, in this order. */
  readonly measuredFiles: readonly string[];
  /** Text that is measured as a kernel's command line would be. It is no part of the command: that names paths of one host. */
  readonly commandLine: string;
}

/** The security processor, real or emulated, as a driver without hardware of its own needs it. */
export interface LaunchPort {
  /** Measures a guest before it runs. */
  launch(request: LaunchRequest): Promise<Launch>;
}

/** What is measured. */
export interface LaunchRequest {
  /** Absolute paths, in this order. */
  readonly files: readonly string[];
  readonly commandLine: string;
  /** 32 bytes. */
  readonly hostData: Uint8Array;
}

/** A measured guest. */
export interface Launch {
  /** Absolute path of the directory in which a guest that shares the host's files finds its report interface and endorsements. */
  readonly guestInfoDirectory: string;
  /**
   * Serves a connection of a guest that shares nothing with the host: the stream "processor" of its channel, on which it speaks ttRPC
   * (`sealpod.v1.SecurityProcessor`). Absent for a security processor that is real: the guest then asks that.
   */
  readonly serve?: (stream: ByteStream) => void;
  /** Ends the guest's identity: no reports from here on. */
  close(): Promise<void>;
}

/** A machine that runs. */
export interface Machine {
  readonly id: string;
  /** Process of this host that is the machine: it ends with it, and ending it by force ends the machine. */
  readonly pid: number;
  /** What the guest's interfaces must be given (by UpdateInterface, UpdateRoutes); empty where the driver or somebody else has done it. */
  readonly guestNetwork: readonly GuestInterface[];
  /**
   * A new connection to the agent.
   * @throws {VmmError} ERR_VMM_STOPPED, ERR_VMM_AGENT
   */
  connectAgent(): Promise<ByteStream>;
  /**
   * Attaches a file as a disk; `source` is the name that the agent finds it by. A driver without disks of its own refuses one that is to be written.
   * @throws {VmmError} ERR_VMM_STOPPED, ERR_VMM_DISK
   */
  attachDisk(path: string, options?: DiskOptions): Promise<{ readonly source: string }>;
  /**
   * Forwards a TCP port of the host's loopback address to one of the guest. Host port 0 picks a free one. Returns the host's port.
   * @throws {VmmError} ERR_VMM_STOPPED, ERR_VMM_FORWARD
   */
  forwardPort(hostPort: number, guestPort: number): Promise<number>;
  /** Ends the machine, by force if need be; resolves when nothing of it is left. Calls after the first wait for the same end. */
  stop(): Promise<void>;
  /** Resolves when the machine has ended, for whatever reason, and nothing of it is left. */
  readonly exited: Promise<MachineExit>;
}

/** Options of {@link Machine.attachDisk}. */
export interface DiskOptions {
  /** Default true. What a guest writes to a disk, the host reads, and may change: a guest encrypts what it keeps there. */
  readonly readonly?: boolean;
}

/** An interface of the guest, to be configured by the agent. */
export interface GuestInterface {
  readonly name: string;
  readonly mac: string;
  /** Address and prefix length, for example `10.0.2.100/24`. */
  readonly addresses: readonly string[];
  readonly mtu: number;
  /** Address of the router of the default route. */
  readonly gateway?: string;
}

/** How a machine ended: by itself, because {@link Machine.stop} asked it to, or by force because it did not do so. */
export interface MachineExit {
  readonly kind: "exited" | "stopped" | "killed";
  /** Exit code of the guest's main process as far as the driver can tell, or null if a signal ended it. */
  readonly exitCode: number | null;
  /** For example `SIGKILL`. */
  readonly signal: string | null;
}

/** Longest path of a unix socket on Linux, without the zero byte. */
const MAX_SOCKET_PATH = 107;

/** Longest name that a driver puts in the run directory. */
const LONGEST_SOCKET_NAME = "/cloud-hypervisor";

/**
 * Checks what is the same for all drivers.
 * @throws {VmmError} ERR_VMM_CONFIG
 */
export function validateMachineConfig(config: MachineConfig): void {
  const fail = (what: string, found: string | number, expected: string): never => {
    throw new VmmError("ERR_VMM_CONFIG", `machine: ${what} is ${found}, expected ${expected}`, { details: { field: what, found, expected } });
  };
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(config.id)) fail("id", JSON.stringify(config.id), "1 to 128 letters, digits, '_', '.' or '-'");
  if (!config.runDirectory.startsWith("/")) fail("runDirectory", config.runDirectory, "an absolute path");
  const longest = MAX_SOCKET_PATH - LONGEST_SOCKET_NAME.length;
  const length = Buffer.byteLength(config.runDirectory);
  if (length > longest)
    fail("length of runDirectory", length, `at most ${longest} bytes, because unix sockets are in it; use a state directory with a shorter path`);
  if (config.hostData.length !== 32) fail("length of hostData", config.hostData.length, "32 bytes");
  if (!Number.isSafeInteger(config.memoryMiB) || config.memoryMiB < 1) fail("memoryMiB", config.memoryMiB, "a positive integer");
  if (!Number.isSafeInteger(config.vcpus) || config.vcpus < 1) fail("vcpus", config.vcpus, "a positive integer");
}
