import { access, rm, stat } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf, silentLogger, type Logger } from "@sealpod/core";
import type { ByteStream } from "@sealpod/ttrpc";
import { Child, type ChildExit } from "./child.ts";
import { MachineConsole } from "./console.ts";
import {
  validateMachineConfig,
  type DiskOptions,
  type GuestInterface,
  type Launch,
  type Machine,
  type MachineConfig,
  type MachineExit,
  type NetworkConfig,
  type UvmGuest,
  type VmmDriver,
} from "./driver.ts";
import { VmmError } from "./errors.ts";
import { PROGRAM_DIRECTORIES, findExecutables } from "./executables.ts";
import { acceleratorFacts, chooseAccelerator, type Accelerator } from "./qemu/accelerator.ts";
import { AgentChannel, QemuSocket } from "./qemu/channel.ts";
import { MAX_HOT_DISKS, MAX_INTERFACES, USER_MAC, deviceAccess, hotDisk, qemuArguments, type CardNetwork, type QemuPlan } from "./qemu/command.ts";
import { forwardTcp } from "./qemu/host-forward.ts";
import { QmpClient } from "./qemu/qmp.ts";
import { SNP_QEMU_VERSION, type SnpLaunch } from "./qemu/snp.ts";
import { MigrationWatch, checkTemplate, createDirectory, restoreTemplate, saveTemplate, templateMemory, templateShape } from "./qemu/template.ts";
import { isAtLeast, qemuVersion, type QemuVersion } from "./qemu/version.ts";
import { recordProcess } from "./machine-record.ts";
import { createRunDirectory } from "./run-directory.ts";
import { GUEST_ADDRESS } from "./user-network.ts";

/** Programs that the driver starts, with the Debian packages that have them. */
const PROGRAMS = { "qemu-system-x86_64": "qemu-system-x86", setpriv: "util-linux", nsenter: "util-linux" } as const;

/** Milliseconds from the start of QEMU until the agent answers: 4 s when its instructions are translated, several times that on a busy host. */
const START_LIMIT = 180_000;

/** Milliseconds that QEMU gets to end when it is asked to. */
const STOP_LIMIT = 5000;

/** Milliseconds between attempts to reach an agent that does not listen yet. */
const RETRY_INTERVAL = 20;

/** Options of {@link QemuDriver}. */
export interface QemuDriverOptions {
  readonly logger?: Logger;
  /** Where programs are searched. Default {@link PROGRAM_DIRECTORIES}. */
  readonly programDirectories?: readonly string[];
  /** Milliseconds until a machine that does not come up is given up. Default 180 s. */
  readonly startLimitMs?: number;
  /** Milliseconds until a machine that does not stop is ended by force. Default 5 s. */
  readonly stopLimitMs?: number;
  /** Starts with SEV-SNP; `probe` refuses hosts that cannot. The guest needs `firmware` and, as kernel, a bzImage. */
  readonly snp?: Omit<SnpLaunch, "memoryMiB" | "hostData">;
  /**
   * Directory of a template (see {@link QemuDriver.createTemplate}) whose state machines start from instead of booting. After the start the
   * caller must have the agent reseed its randomness and set its clock (ReseedRandomDev, SetGuestDateTime): all machines begin with the same.
   * The guest's memory comes from a file of the host: what measures such a start says nothing about it.
   */
  readonly template?: string;
  /** Leaves machines running when the driver's process ends without stopping them. */
  readonly detached?: boolean;
}

/** A machine without identity, to be saved. */
export type TemplateConfig = Omit<MachineConfig, "id" | "hostData" | "launch" | "initdata">;

interface Host {
  readonly programs: Readonly<Record<keyof typeof PROGRAMS, string>>;
  readonly version: QemuVersion;
  readonly accelerator: Accelerator;
}

/** What a machine that has come up is made of. */
interface Running {
  readonly child: Child;
  readonly monitor: QmpClient;
  readonly channel: AgentChannel;
  readonly console: MachineConsole;
  readonly watch: MigrationWatch;
  readonly confidential: boolean;
}

/** Runs guests in QEMU: kernel and initrd started directly, disks by virtio, the agent behind one virtio serial port. */
export class QemuDriver implements VmmDriver {
  readonly name = "qemu";
  readonly isolation: "vm" | "confidential";
  readonly #options: QemuDriverOptions;
  #host: Promise<Host> | undefined;

  constructor(options: QemuDriverOptions = {}) {
    this.#options = options;
    this.isolation = options.snp === undefined ? "vm" : "confidential";
  }

  async probe(): Promise<void> {
    await this.#examineHost();
  }

  /**
   * What runs the guests' instructions here, and why.
   * @throws {VmmError} ERR_VMM_UNAVAILABLE
   */
  async accelerator(): Promise<Accelerator> {
    return (await this.#examineHost()).accelerator;
  }

  async start(config: MachineConfig): Promise<Machine> {
    validateMachineConfig(config);
    const guest = uvmGuest(config);
    const network = validateNetwork(config.network ?? { kind: "user" });
    const { template } = this.#options;
    if (template !== undefined && config.initdata !== undefined) {
      throw new VmmError("ERR_VMM_TEMPLATE", "machine: initdata is a disk, expected none: it is not part of a template");
    }
    const host = await this.#examineHost();
    // What is put on the stack is taken back in reverse order, now if the start fails, else when the machine has ended.
    await using stack = new AsyncDisposableStack();
    const plan = this.#plan(host, config, guest, network);
    if (template !== undefined) await checkTemplate(template, await templateShape(plan));
    await createRunDirectory(config.runDirectory);
    stack.defer(() => rm(config.runDirectory, { recursive: true, force: true }));
    const launch = await config.launch.launch({ files: [guest.kernel, guest.initrd], commandLine: guest.commandLine, hostData: config.hostData });
    stack.defer(() => launch.close());
    const running = await this.#run(host, plan, config, stack, launch);
    return new QemuMachine(config, network, running, stack.move(), this.#options.logger ?? silentLogger, this.#options.stopLimitMs ?? STOP_LIMIT);
  }

  /**
   * Boots a machine until its agent answers and saves its state in a directory that is not there yet. Nothing is launched, so that no secret
   * and no identity can get into it: the guest's streams to the security processor are refused.
   * @throws {VmmError} ERR_VMM_TEMPLATE, and those of {@link start}
   */
  async createTemplate(config: TemplateConfig, directory: string): Promise<void> {
    const full = { ...config, id: "template", hostData: new Uint8Array(32), launch: refusingLaunch };
    validateMachineConfig(full);
    const guest = uvmGuest(full);
    const network = validateNetwork(config.network ?? { kind: "user" });
    if (this.#options.snp !== undefined) throw new VmmError("ERR_VMM_TEMPLATE", "a confidential guest's memory cannot be saved");
    const host = await this.#examineHost();
    await createDirectory(directory, async (unfinished) => {
      await using stack = new AsyncDisposableStack();
      await createRunDirectory(config.runDirectory);
      stack.defer(() => rm(config.runDirectory, { recursive: true, force: true }));
      const plan = {
        ...this.#plan(host, full, guest, network),
        incoming: false,
        memoryFile: { path: templateMemory(unfinished), shared: true },
      };
      const { monitor, watch } = await this.#run(host, plan, full, stack);
      const shape = await templateShape(plan);
      await saveTemplate({
        monitor,
        watch,
        shape,
        directory: unfinished,
        socket: join(config.runDirectory, "state.sock"),
        listen: (path, take) => QemuSocket.listen(path, take),
      });
    });
  }

  get #directories(): readonly string[] {
    return this.#options.programDirectories ?? PROGRAM_DIRECTORIES;
  }

  /** Once per driver: a failure is looked for again the next time. */
  #examineHost(): Promise<Host> {
    const examine = async (): Promise<Host> => {
      const programs = await findExecutables(PROGRAMS, this.#directories);
      const qemu = programs["qemu-system-x86_64"];
      const version = await qemuVersion(qemu, this.#directories);
      const accelerator = await chooseAccelerator(await acceleratorFacts(qemu, this.#directories));
      this.#options.logger?.log("info", "QEMU was found", { version: version.text, accelerator: accelerator.kind, reason: accelerator.reason });
      if (this.#options.snp !== undefined) await requireSnp(version, accelerator);
      return { programs, version, accelerator };
    };
    this.#host ??= examine().catch((error: unknown) => {
      this.#host = undefined;
      throw error;
    });
    return this.#host;
  }

  #plan(host: Host, config: MachineConfig, guest: UvmGuest, network: CardNetwork): QemuPlan {
    const { snp, template } = this.#options;
    if (snp !== undefined && guest.firmware === undefined) {
      throw new VmmError("ERR_VMM_CONFIG", "machine: the guest has no firmware, expected one of the AmdSev kind for a start with SEV-SNP");
    }
    return {
      version: host.version,
      accelerator: host.accelerator.kind,
      name: config.id,
      guest,
      network,
      memoryMiB: config.memoryMiB,
      vcpus: config.vcpus,
      initdata: config.initdata,
      monitorSocket: join(config.runDirectory, "qmp.sock"),
      channelSocket: join(config.runDirectory, "agent.sock"),
      ...(template === undefined ? {} : { incoming: true, memoryFile: { path: templateMemory(template), shared: false } }),
      ...(snp === undefined ? {} : { snp: { ...snp, memoryMiB: config.memoryMiB, hostData: config.hostData } }),
    };
  }

  /** Starts QEMU; resolves when the guest's agent answers. */
  async #run(host: Host, plan: QemuPlan, config: MachineConfig, stack: AsyncDisposableStack, launch?: Launch): Promise<Running> {
    const channel = new AgentChannel(launch?.serve);
    stack.defer(() => channel.close());
    const monitorStream = Promise.withResolvers<ByteStream>();
    stack.use(await QemuSocket.listen(plan.channelSocket, (stream) => channel.attach(stream)));
    stack.use(await QemuSocket.listen(plan.monitorSocket, (stream) => monitorStream.resolve(stream)));
    const console = new MachineConsole(config.onEvent);
    const child = new Child({
      ...commandOf(host, plan, this.#options.detached === true),
      directories: this.#directories,
      standardOutput: (bytes) => {
        console.push(bytes);
        config.console?.(bytes);
      },
    });
    stack.defer(async () => {
      child.process.kill("SIGKILL");
      await child.exited;
    });
    recordProcess(config.runDirectory, child.pid);
    const watch = new MigrationWatch();
    const monitor = await bootWithin(this.#options.startLimitMs ?? START_LIMIT, child, console, async () => {
      const monitor = await QmpClient.open(await monitorStream.promise, { onEvent: (event) => watch.take(event) });
      stack.defer(() => monitor.close());
      const { template } = this.#options;
      if (plan.incoming === true && template !== undefined) {
        await restoreTemplate({ monitor, watch, directory: template, socket: join(config.runDirectory, "state.sock") });
      }
      (await firstAgentStream(channel, child)).close();
      return monitor;
    });
    return { child, monitor, channel, console, watch, confidential: plan.snp !== undefined };
  }
}

class QemuMachine implements Machine {
  readonly id: string;
  readonly pid: number;
  readonly guestNetwork: readonly GuestInterface[];
  readonly exited: Promise<MachineExit>;
  readonly #running: Running;
  readonly #network: NetworkConfig["kind"];
  readonly #confidential: boolean;
  readonly #stopLimit: number;
  /** Places without a disk, the next one last. */
  readonly #places: number[] = Array.from({ length: MAX_HOT_DISKS }, (_, index) => MAX_HOT_DISKS - 1 - index);
  #end: MachineExit["kind"] = "exited";

  constructor(config: MachineConfig, network: NetworkConfig, running: Running, stack: AsyncDisposableStack, logger: Logger, stopLimit: number) {
    this.id = config.id;
    this.pid = running.child.pid;
    this.guestNetwork = network.kind === "user" ? [USER_INTERFACE] : [];
    this.#network = network.kind;
    this.#confidential = running.confidential;
    this.#running = running;
    this.#stopLimit = stopLimit;
    this.exited = this.#cleanUp(stack, logger);
  }

  /** The end of what the guest printed, fit for a terminal: for the operator's diagnosis. */
  get consoleTail(): string {
    return this.#running.console.tail;
  }

  async connectAgent(): Promise<ByteStream> {
    this.#assertRunning();
    return this.#running.channel.open();
  }

  async attachDisk(path: string, { readonly = true }: DiskOptions = {}): Promise<{ readonly source: string }> {
    this.#assertRunning();
    const absolute = resolve(path);
    const fail = (reason: string, cause?: unknown): never => {
      throw new VmmError("ERR_VMM_DISK", `machine ${this.id}: cannot attach ${absolute}: ${reason}`, { cause });
    };
    const file = await stat(absolute).catch((cause: unknown) => fail(messageOf(cause), cause));
    if (!file.isFile()) return fail("it is not a regular file");
    // Taken before the first await that follows: two disks attached at the same time get two places.
    const place = this.#places.pop();
    if (place === undefined) {
      throw new VmmError("ERR_VMM_DISK", `machine ${this.id}: all ${MAX_HOT_DISKS} places for disks are taken`, { hint: "Use images with fewer layers." });
    }
    const { monitor } = this.#running;
    const { bus, address, path: source } = hotDisk(place);
    const node = `disk${place}`;
    const device = { driver: "virtio-blk-pci", id: `${node}-device`, drive: node, bus, addr: address, ...deviceAccess(this.#confidential) };
    try {
      await monitor.execute("blockdev-add", { driver: "raw", "node-name": node, "read-only": readonly, file: { driver: "file", filename: absolute } });
      try {
        await monitor.execute("device_add", device);
      } catch (error) {
        await monitor.execute("blockdev-del", { "node-name": node });
        throw error;
      }
    } catch (cause) {
      this.#places.push(place);
      this.#assertRunning();
      return fail(messageOf(cause), cause);
    }
    return { source };
  }

  async forwardPort(hostPort: number, guestPort: number): Promise<number> {
    this.#assertRunning();
    if (this.#network !== "user") {
      throw new VmmError("ERR_VMM_FORWARD", `machine ${this.id}: its network is of kind ${this.#network}, expected user`, {
        hint: "A guest with taps is reached at its own address.",
      });
    }
    return forwardTcp((line) => this.#running.monitor.humanMonitor(line), hostPort, guestPort);
  }

  async stop(): Promise<void> {
    const { child, monitor } = this.#running;
    if (this.#end === "exited" && child.running) {
      this.#end = "stopped";
      const ask = (): void => void monitor.execute("quit").catch(() => undefined);
      await child.end(ask, this.#stopLimit, () => {
        this.#end = "killed";
        child.process.kill("SIGKILL");
      });
    }
    await this.exited;
  }

  async #cleanUp(stack: AsyncDisposableStack, logger: Logger): Promise<MachineExit> {
    const exit = await this.#running.child.exited;
    try {
      await stack.disposeAsync();
    } catch (error) {
      logger.log("error", "a machine ended but not all of it could be cleaned up", { machine: this.id, error: messageOf(error) });
    }
    // QEMU's own code says nothing of a guest that has powered off.
    const exitCode = this.#end === "exited" && exit.exitCode === 0 ? (this.#running.console.agentExitCode ?? 0) : exit.exitCode;
    return { kind: this.#end, exitCode, signal: exit.signal };
  }

  #assertRunning(): void {
    if (this.#end === "exited" && this.#running.child.running) return;
    throw new VmmError("ERR_VMM_STOPPED", `machine ${this.id} no longer runs`, { details: { machine: this.id } });
  }
}

/** What QEMU's user network is made for: its router, and the host's loopback, is 10.0.2.2. */
const USER_INTERFACE: GuestInterface = { name: "eth0", mac: USER_MAC, addresses: [`${GUEST_ADDRESS}/24`], mtu: 1500, gateway: "10.0.2.2" };

const refusingLaunch = {
  launch: (): Promise<Launch> => Promise.reject(new VmmError("ERR_VMM_TEMPLATE", "a template has no identity")),
};

function uvmGuest({ guest, initdata }: MachineConfig): UvmGuest {
  const fail = (field: string, found: string, expected: string): never => {
    throw new VmmError("ERR_VMM_CONFIG", `machine: ${field} is ${found}, expected ${expected} by the QEMU driver`, { details: { field, found, expected } });
  };
  if (guest.kind !== "uvm") return fail("guest", `of kind ${guest.kind}`, "one of kind uvm");
  const { kernel, initrd, root, firmware } = guest;
  for (const [field, path] of Object.entries({ kernel, initrd, root, firmware, initdata })) {
    if (path !== undefined && !isAbsolute(path)) fail(field, JSON.stringify(path), "an absolute path");
  }
  return guest;
}

function validateNetwork(network: NetworkConfig): CardNetwork {
  const fail = (field: string, found: string | number, expected: string): never => {
    throw new VmmError("ERR_VMM_CONFIG", `machine: ${field} is ${found}, expected ${expected}`, { details: { field, found, expected } });
  };
  if (network.kind === "namespace") return fail("network", "of kind namespace", "one of kind none, user or tap by the QEMU driver");
  if (network.kind !== "tap") return network;
  const { interfaces, namespace } = network;
  if (interfaces.length > MAX_INTERFACES) fail("number of interfaces", interfaces.length, `at most ${MAX_INTERFACES}`);
  if (namespace !== undefined && !isAbsolute(namespace)) fail("network namespace", JSON.stringify(namespace), "an absolute path");
  for (const { tap, mac } of interfaces) {
    if (!/^[A-Za-z0-9_.-]{1,15}$/.test(tap)) fail("name of a tap", JSON.stringify(tap), "1 to 15 letters, digits, '_', '.' or '-'");
    if (!/^[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}$/.test(mac)) fail("MAC address of a tap", JSON.stringify(mac), "six pairs of hex digits");
  }
  return network;
}

async function requireSnp(version: QemuVersion, accelerator: Accelerator): Promise<void> {
  const fail = (what: string): never => {
    throw new VmmError("ERR_VMM_UNAVAILABLE", `SEV-SNP: ${what}`, {
      hint: "Choose the QEMU driver without SEV-SNP: its guests are isolated, but not from this host.",
    });
  };
  const { major, minor } = SNP_QEMU_VERSION;
  if (!isAtLeast(version, SNP_QEMU_VERSION)) fail(`QEMU is ${version.major}.${version.minor}, expected ${major}.${minor} or later`);
  if (accelerator.kind !== "kvm") fail(`KVM is needed, but ${accelerator.reason}`);
  await access("/dev/sev").catch(() => fail("/dev/sev is not there: the host's kernel does not offer it"));
}

/** Program and arguments: QEMU, started inside the network namespace of its taps, and ended by the kernel with this process. */
function commandOf({ programs }: Host, plan: QemuPlan, detached: boolean): { readonly program: string; readonly args: readonly string[] } {
  const command = [programs["qemu-system-x86_64"], ...qemuArguments(plan)];
  if (plan.network.kind === "tap" && plan.network.namespace !== undefined) command.unshift(programs.nsenter, `--net=${plan.network.namespace}`, "--");
  if (!detached) command.unshift(programs.setpriv, "--pdeathsig", "KILL", "--");
  const [program = "", ...args] = command;
  return { program, args };
}

/** The guest opens its port seconds after QEMU's start, and its agent may listen later still. */
async function firstAgentStream(channel: AgentChannel, child: Child): Promise<ByteStream> {
  for (;;) {
    try {
      return await channel.open();
    } catch (error) {
      if (!child.running) throw error;
      await sleep(RETRY_INTERVAL);
    }
  }
}

async function bootWithin<T>(limitMs: number, child: Child, console: MachineConsole, boot: () => Promise<T>): Promise<T> {
  const said = (): string => [child.tail, console.tail].filter((text) => text !== "").join("\n") || "it printed nothing";
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new VmmError("ERR_VMM_BOOT", `the agent does not answer after ${limitMs} ms: ${said()}`)), limitMs);
  const ended = child.exited.then((exit) => {
    throw new VmmError("ERR_VMM_BOOT", `the machine ended before its agent answered (${describeExit(exit)}): ${said()}`, {
      details: { exitCode: exit.exitCode ?? undefined, signal: exit.signal ?? undefined },
    });
  });
  ended.catch(() => undefined);
  const booted = boot();
  try {
    return await Promise.race([booted, ended, late.promise]);
  } finally {
    clearTimeout(timer);
    booted.catch(() => undefined);
  }
}

function describeExit(exit: ChildExit): string {
  return exit.signal === null ? `exit code ${exit.exitCode ?? "none"}` : exit.signal;
}
