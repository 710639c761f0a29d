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
  /** Mebibytes. A driver without a virtual machine has no use for it. */
  readonly memoryMiB: number;
  /** A driver without a virtual machine has no use for it. */
  readonly vcpus: number;
  /** Gets what the guest prints, as it comes. It is the guest's word, not the host's. */
  readonly console?: (bytes: Uint8Array) => void;
}

/** Where the guest's code comes from. Each driver takes one kind. */
export type GuestSource = ProcessGuest;

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
  /** Absolute path of the directory in which the guest finds its report interface and endorsements. */
  readonly guestInfoDirectory: string;
  /** Ends the guest's identity: no reports from here on. */
  close(): Promise<void>;
}

/** A machine that runs. */
export interface Machine {
  readonly id: string;
  /**
   * A new connection to the agent.
   * @throws {VmmError} ERR_VMM_STOPPED, ERR_VMM_AGENT
   */
  connectAgent(): Promise<ByteStream>;
  /**
   * Attaches a file as a read-only disk; `source` is the name that the agent finds it by.
   * @throws {VmmError} ERR_VMM_STOPPED, ERR_VMM_DISK
   */
  attachDisk(path: string): Promise<{ readonly source: string }>;
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
