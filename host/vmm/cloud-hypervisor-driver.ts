import { constants } from "node:fs";
import { access, rm, stat } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { isAbsolute, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf, silentLogger, type Logger } from "@sealpod/core";
import { byteStream, type ByteStream } from "@sealpod/ttrpc";
import { Child } from "./child.ts";
import { CloudHypervisorApi } from "./cloud-hypervisor-api.ts";
import { DISKS_PER_SEGMENT, PCI_SEGMENTS, diskConfig, diskSource, planMachine, type MachinePlan } from "./cloud-hypervisor-config.ts";
import { MachineConsole, printable } from "./console.ts";
import {
  validateMachineConfig,
  type DiskOptions,
  type GuestInterface,
  type Launch,
  type Machine,
  type MachineConfig,
  type MachineExit,
  type VmmDriver,
} from "./driver.ts";
import { VmmError } from "./errors.ts";
import { PROGRAM_DIRECTORIES, findExecutables } from "./executables.ts";
import { AGENT_VSOCK_PORT, dialHybridVsock } from "./hybrid-vsock.ts";
import { recordProcess } from "./machine-record.ts";
import { createRunDirectory } from "./run-directory.ts";

/** Programs that start the monitor, with the Debian packages that have them. */
const PROGRAMS = { setpriv: "util-linux", nsenter: "util-linux" } as const;

/** Port of the host that a guest without a security processor of its own asks for reports; 1025 and 1026 have other uses (specs/runtime.md 4.3). */
export const PROCESSOR_VSOCK_PORT = 1027;

/** Connections of one guest to the emulated security processor at once. */
const MAX_PROCESSOR_CONNECTIONS = 16;

/** What can run guests here. */
const HYPERVISOR_DEVICES: readonly string[] = ["/dev/kvm", "/dev/mshv"];

/** What can run confidential guests here. */
const CONFIDENTIAL_DEVICES: readonly string[] = ["/dev/sev", "/dev/mshv"];

/** Milliseconds between two looks for the monitor's socket. */
const PAUSE = 20;

/** Milliseconds from a broken connection to the news that the process behind it has ended. */
const GRACE = 500;

/** Characters of the guest's console in the message of a start that failed. */
const LAST_WORDS = 1000;

/** Limits of one machine, all in milliseconds (specs/runtime.md 4.6). */
export interface CloudHypervisorLimits {
  /** From the start of the process until its socket answers. */
  readonly startMs: number;
  /** One call that changes little. */
  readonly callMs: number;
  /** A disk that is attached. */
  readonly hotPlugMs: number;
  /** vm.create and vm.boot, each. */
  readonly bootMs: number;
  /** From the boot until the agent listens. */
  readonly agentMs: number;
  /** A connection to an agent that listens already. */
  readonly connectMs: number;
  /** From the request to end until force. */
  readonly stopMs: number;
}

const LIMITS: CloudHypervisorLimits = {
  startMs: 10_000,
  callMs: 1000,
  hotPlugMs: 5000,
  bootMs: 100_000,
  agentMs: 90_000,
  connectMs: 10_000,
  stopMs: 3000,
};

/** The security processor measures every page at the start, and takes them back at the end. */
const CONFIDENTIAL_LIMITS: CloudHypervisorLimits = { ...LIMITS, bootMs: 300_000, stopMs: 10_000 };

/** Options of {@link CloudHypervisorDriver}. */
export interface CloudHypervisorDriverOptions {
  readonly logger?: Logger;
  /** Absolute path of the monitor. Default: `cloud-hypervisor` in the program directories. */
  readonly program?: string;
  /** Starts machines with SEV-SNP from an IGVM file. Default false: then the host sees all of the guest's memory. */
  readonly confidential?: boolean;
  /** Where programs are searched. Default {@link PROGRAM_DIRECTORIES}. */
  readonly programDirectories?: readonly string[];
  /** Devices of which one must be there. */
  readonly devices?: readonly string[];
  readonly limits?: Partial<CloudHypervisorLimits>;
}

/** Runs machines with Cloud Hypervisor, over its HTTP interface. The agent is reached through the unix socket of its vsock device. */
export class CloudHypervisorDriver implements VmmDriver {
  readonly name = "cloud-hypervisor";
  readonly isolation: "vm" | "confidential";
  readonly #options: CloudHypervisorDriverOptions;
  readonly #limits: CloudHypervisorLimits;

  constructor(options: CloudHypervisorDriverOptions = {}) {
    this.#options = options;
    this.isolation = options.confidential === true ? "confidential" : "vm";
    this.#limits = { ...(options.confidential === true ? CONFIDENTIAL_LIMITS : LIMITS), ...options.limits };
  }

  async probe(): Promise<void> {
    await this.#programs();
    const devices = this.#options.devices ?? (this.#confidential ? CONFIDENTIAL_DEVICES : HYPERVISOR_DEVICES);
    const usable = await Promise.all(devices.map((path) => isAccessible(path, constants.R_OK | constants.W_OK)));
    if (usable.includes(true)) return;
    throw new VmmError("ERR_VMM_UNAVAILABLE", `none of ${devices.join(", ")} can be opened`, {
      details: { devices },
      hint: this.#confidential
        ? "Confidential machines need a host with SEV-SNP."
        : "Cloud Hypervisor needs a processor with virtualization; use qemu without it.",
    });
  }

  async start(config: MachineConfig): Promise<Machine> {
    validateMachineConfig(config);
    const paths = socketPaths(config.runDirectory);
    const plan = planMachine(config, paths.vsock, this.#confidential);
    const programs = await this.#programs();
    // What is put on the stack is taken back in reverse order, now if the start fails, else when the machine has ended.
    await using stack = new AsyncDisposableStack();
    await createRunDirectory(config.runDirectory);
    stack.defer(() => rm(config.runDirectory, { recursive: true, force: true }));

    const launch = await config.launch.launch({ ...plan.measured, hostData: config.hostData });
    stack.defer(() => launch.close());
    if (launch.serve !== undefined) stack.use(await serveProcessor(`${paths.vsock}_${PROCESSOR_VSOCK_PORT}`, launch.serve));

    const console = new MachineConsole(config.onEvent);
    const child = new Child({
      program: programs.setpriv,
      // The kernel ends the monitor with this process: a machine never outlives its driver.
      args: ["--pdeathsig", "KILL", ...monitorCommand(programs, plan, paths.api)],
      directories: this.#options.programDirectories ?? PROGRAM_DIRECTORIES,
      // The guest's serial line; what the monitor says itself goes to its errors.
      standardOutput: (bytes) => {
        console.push(bytes);
        config.console?.(bytes);
      },
    });
    const gone = new AbortController();
    void child.exited.then(() => gone.abort());
    stack.defer(async () => void (await child.end(() => child.process.kill("SIGKILL"), this.#limits.stopMs)));
    recordProcess(config.runDirectory, child.pid);

    const api = new CloudHypervisorApi(paths.api);
    const lastWords = (): string => [printable(child.tail), console.tail.slice(-LAST_WORDS)].filter((text) => text !== "").join(" | ");
    await this.#boot(child, api, plan, { socket: paths.vsock, signal: gone.signal }, lastWords);
    return new CloudHypervisorMachine({
      config,
      child,
      console,
      api,
      vsock: paths.vsock,
      limits: this.#limits,
      logger: this.#options.logger ?? silentLogger,
      gone: gone.signal,
      stack: stack.move(),
    });
  }

  get #confidential(): boolean {
    return this.isolation === "confidential";
  }

  async #programs(): Promise<MonitorPrograms> {
    const directories = this.#options.programDirectories ?? PROGRAM_DIRECTORIES;
    const programs = await findExecutables(PROGRAMS, directories);
    const { program } = this.#options;
    if (program !== undefined && !isAbsolute(program)) {
      throw new VmmError("ERR_VMM_CONFIG", `the path of cloud-hypervisor is ${JSON.stringify(program)}, expected an absolute path`);
    }
    for (const path of program === undefined ? directories.map((directory) => join(directory, "cloud-hypervisor")) : [program]) {
      if (await isAccessible(path, constants.X_OK)) return { ...programs, monitor: path };
    }
    throw new VmmError("ERR_VMM_UNAVAILABLE", `not installed: cloud-hypervisor (searched ${program ?? directories.join(", ")})`, {
      details: { missing: ["cloud-hypervisor"] },
      hint: "Debian has no package of it: install its static binary as /usr/local/bin/cloud-hypervisor.",
    });
  }

  /** From the start of the process until the agent listens, or the error that says how far it came. */
  async #boot(
    child: Child,
    api: CloudHypervisorApi,
    plan: MachinePlan,
    guest: { readonly socket: string; readonly signal: AbortSignal },
    lastWords: () => string,
  ): Promise<void> {
    const closed = new Promise<void>((done) => void child.process.once("close", () => done()));
    const ended = child.exited.then(async ({ exitCode, signal }) => {
      // What it printed last may come after the news of its end.
      await Promise.race([closed, sleep(GRACE)]);
      throw new VmmError("ERR_VMM_BOOT", `cloud-hypervisor ended before the agent listened (${signal ?? `exit code ${exitCode ?? "none"}`}): ${lastWords()}`, {
        details: { exitCode: exitCode ?? undefined, signal: signal ?? undefined },
      });
    });
    ended.catch(() => undefined);
    const { startMs, callMs, bootMs, agentMs } = this.#limits;
    const steps = async (): Promise<void> => {
      await untilAnswers(api, startMs, callMs, guest.signal);
      await api.create(plan.machine, bootMs);
      await api.expectState("Created", callMs);
      for (const card of plan.cards) await api.addNet(card, callMs);
      await api.boot(bootMs);
      await api.expectState("Running", callMs);
      // The first connection that the agent takes shows that it listens; those that follow are the callers'.
      const stream = await dialHybridVsock({ ...guest, port: AGENT_VSOCK_PORT, limitMs: agentMs }).catch((cause: unknown) => {
        throw new VmmError("ERR_VMM_BOOT", `the agent does not listen: ${messageOf(cause)}: ${lastWords()}`, { cause });
      });
      stream.close();
    };
    const done = steps().catch(async (error: unknown) => {
      // A call that broke because the process ended says less than how it ended, which is known a moment later.
      const answered = error instanceof VmmError && error.details["status"] !== undefined;
      if (!answered) await Promise.race([ended, sleep(GRACE)]);
      throw error;
    });
    done.catch(() => undefined);
    await Promise.race([done, ended]);
  }
}

interface MachineParts {
  readonly config: MachineConfig;
  readonly child: Child;
  readonly console: MachineConsole;
  readonly api: CloudHypervisorApi;
  readonly vsock: string;
  readonly limits: CloudHypervisorLimits;
  readonly logger: Logger;
  /** Aborted when the process has ended. */
  readonly gone: AbortSignal;
  readonly stack: AsyncDisposableStack;
}

class CloudHypervisorMachine implements Machine {
  readonly id: string;
  readonly pid: number;
  readonly exited: Promise<MachineExit>;
  /** Whoever made the taps knows what stands behind them. */
  readonly guestNetwork: readonly GuestInterface[] = [];
  readonly #parts: MachineParts;
  /** Disks of each segment; segment 0 is for what was there at the boot. */
  readonly #segments: number[] = Array.from({ length: PCI_SEGMENTS - 1 }, () => 0);
  #end: MachineExit["kind"] = "exited";

  constructor(parts: MachineParts) {
    this.id = parts.config.id;
    this.pid = parts.child.pid;
    this.#parts = parts;
    this.exited = this.#cleanUp();
  }

  async connectAgent(): Promise<ByteStream> {
    this.#assertRunning();
    const { vsock, limits, gone } = this.#parts;
    try {
      return await dialHybridVsock({ socket: vsock, port: AGENT_VSOCK_PORT, limitMs: limits.connectMs, signal: gone });
    } catch (cause) {
      this.#assertRunning();
      throw new VmmError("ERR_VMM_AGENT", `machine ${this.id}: the agent takes no connection: ${messageOf(cause)}`, { cause });
    }
  }

  async attachDisk(path: string, { readonly = true }: DiskOptions = {}): Promise<{ readonly source: string }> {
    this.#assertRunning();
    const absolute = resolve(path);
    const file = await stat(absolute).catch((cause: unknown) => {
      throw this.#diskError(absolute, messageOf(cause), cause);
    });
    if (!file.isFile()) throw this.#diskError(absolute, "it is not a regular file");
    this.#assertRunning();
    const segment = this.#takePlace(absolute);
    const { api, config, limits } = this.#parts;
    try {
      const device = await api.addDisk(diskConfig({ path: absolute, vcpus: config.vcpus, segment, readonly }), limits.hotPlugMs);
      return { source: await this.#sourceOf(device, segment) };
    } catch (cause) {
      // Without an answer the disk may be there all the same, so its place stays taken.
      if (cause instanceof VmmError && typeof cause.details["status"] === "number" && cause.details["status"] !== 200) this.#freePlace(segment);
      this.#assertRunning();
      throw this.#diskError(absolute, messageOf(cause), cause);
    }
  }

  async forwardPort(hostPort: number, guestPort: number): Promise<number> {
    this.#assertRunning();
    throw new VmmError("ERR_VMM_FORWARD", `machine ${this.id}: cloud-hypervisor forwards no ports`, {
      details: { hostPort, guestPort },
      hint: "The guest has addresses of its own: connect to them.",
    });
  }

  async stop(): Promise<void> {
    const { child, limits } = this.#parts;
    if (this.#end === "exited" && child.running) {
      this.#end = "stopped";
      await child.end(
        () => void this.#shutDown(),
        limits.stopMs,
        () => {
          this.#end = "killed";
          child.process.kill("SIGKILL");
        },
      );
    }
    await this.exited;
  }

  /** First the machine, so that its disks are closed in order, then the monitor. What fails here ends by force a moment later. */
  async #shutDown(): Promise<void> {
    const { api, limits, logger } = this.#parts;
    for (const step of [() => api.shutdownMachine(limits.stopMs), () => api.shutdownMonitor(limits.stopMs)]) {
      try {
        await step();
      } catch (error) {
        logger.log("debug", "the monitor did not do what it was asked at the end", { machine: this.id, error: messageOf(error) });
      }
    }
  }

  async #sourceOf(device: { readonly id: string; readonly bdf: string }, segment: number): Promise<string> {
    try {
      return diskSource(device.bdf, segment);
    } catch (error) {
      // A disk that nobody can name must not stay.
      await this.#parts.api.removeDevice(device.id, this.#parts.limits.hotPlugMs).catch(() => undefined);
      throw error;
    }
  }

  /** Taken before the first await that follows: two disks attached at the same time get two places. */
  #takePlace(path: string): number {
    const index = this.#segments.findIndex((count) => count < DISKS_PER_SEGMENT);
    if (index === -1) {
      throw new VmmError(
        "ERR_VMM_DISK",
        `machine ${this.id}: cannot attach ${path}: all ${(PCI_SEGMENTS - 1) * DISKS_PER_SEGMENT} places for disks are taken`,
        {
          hint: "Use images with fewer layers.",
        },
      );
    }
    this.#segments[index] = (this.#segments[index] ?? 0) + 1;
    return index + 1;
  }

  #freePlace(segment: number): void {
    this.#segments[segment - 1] = (this.#segments[segment - 1] ?? 1) - 1;
  }

  #diskError(path: string, reason: string, cause?: unknown): VmmError {
    return new VmmError("ERR_VMM_DISK", `machine ${this.id}: cannot attach ${path}: ${reason}`, { cause });
  }

  async #cleanUp(): Promise<MachineExit> {
    const { child, console, stack, logger } = this.#parts;
    const exit = await child.exited;
    try {
      await stack.disposeAsync();
    } catch (error) {
      logger.log("error", "a machine ended but not all of it could be cleaned up", { machine: this.id, error: messageOf(error) });
    }
    // The monitor's own code says nothing of a guest that has powered off; the guest's console may.
    const exitCode = this.#end === "exited" && exit.exitCode === 0 ? (console.agentExitCode ?? 0) : exit.exitCode;
    return { kind: this.#end, exitCode, signal: exit.signal };
  }

  #assertRunning(): void {
    if (this.#end === "exited" && this.#parts.child.running) return;
    throw new VmmError("ERR_VMM_STOPPED", `machine ${this.id} no longer runs`, { details: { machine: this.id } });
  }
}

interface MonitorPrograms {
  readonly setpriv: string;
  readonly nsenter: string;
  readonly monitor: string;
}

function monitorCommand(programs: MonitorPrograms, plan: MachinePlan, api: string): readonly string[] {
  const enter = plan.namespace === undefined ? [] : [programs.nsenter, `--net=${plan.namespace}`, "--"];
  return [...enter, programs.monitor, "--api-socket", api];
}

function socketPaths(runDirectory: string): { readonly api: string; readonly vsock: string } {
  return { api: join(runDirectory, "clh-api.sock"), vsock: join(runDirectory, "clh.sock") };
}

async function untilAnswers(api: CloudHypervisorApi, startMs: number, callMs: number, signal: AbortSignal): Promise<void> {
  const end = AbortSignal.any([signal, AbortSignal.timeout(startMs)]);
  for (;;) {
    try {
      return await api.ping(callMs);
    } catch (cause) {
      if (end.aborted) throw new VmmError("ERR_VMM_BOOT", `cloud-hypervisor does not answer after ${startMs} ms: ${messageOf(cause)}`, { cause });
    }
    await sleep(PAUSE, undefined, { signal: end }).catch(() => undefined);
  }
}

/** Takes the guest's own connections: the monitor makes those to port N of the host into ones to the socket with `_N` after its name. */
async function serveProcessor(path: string, serve: NonNullable<Launch["serve"]>): Promise<AsyncDisposable> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    serve(byteStream(socket));
  });
  server.maxConnections = MAX_PROCESSOR_CONNECTIONS;
  const { promise, resolve: listening, reject } = Promise.withResolvers<void>();
  server.once("error", reject);
  server.listen(path, listening);
  await promise;
  return {
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((done) => server.close(() => done()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function isAccessible(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  );
}
