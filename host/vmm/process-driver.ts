import { readFileSync } from "node:fs";
import { mkdir, rm, stat, symlink } from "node:fs/promises";
import { connect } from "node:net";
import { isAbsolute, join, resolve } from "node:path";
import { messageOf, silentLogger, type Logger } from "@sealpod/core";
import { byteStream, type ByteStream } from "@sealpod/ttrpc";
import { Child, ReadyPipe, type ChildExit } from "./child.ts";
import {
  validateMachineConfig,
  type DiskOptions,
  type GuestInterface,
  type Launch,
  type Machine,
  type MachineConfig,
  type MachineExit,
  type NetworkConfig,
  type ProcessGuest,
  type VmmDriver,
} from "./driver.ts";
import { VmmError } from "./errors.ts";
import { PROGRAM_DIRECTORIES, findExecutables } from "./executables.ts";
import { recordProcess } from "./machine-record.ts";
import { createRunDirectory } from "./run-directory.ts";
import { UserNetwork } from "./user-network.ts";

/** Programs that the driver starts, and crun, which the agent starts; with the Debian packages that have them. */
const PROGRAMS = {
  sh: "dash",
  mount: "mount",
  umount: "mount",
  mountpoint: "util-linux",
  setpriv: "util-linux",
  nsenter: "util-linux",
  unshare: "util-linux",
  chroot: "coreutils",
  slirp4netns: "slirp4netns",
  crun: "crun",
} as const;

/** Where the root is mounted again if it is no mount; in the private mount namespace alone. */
const OWN_ROOT = "/run/sealpod-root";

/**
 * Sees to it that the root is a mount: crun changes its propagation and pivots from it. In a chroot it may be a mere directory; then it is
 * bound to a place of its own and entered there. Runs the rest of its parameters.
 */
const ROOT_SCRIPT = `set -eu
if mount --make-rprivate / 2>/dev/null; then exec "$@"; fi
mkdir -p ${OWN_ROOT}
mount --rbind / ${OWN_ROOT}
exec chroot ${OWN_ROOT} "$@"`;

/** Options of unshare(1) for a mount namespace that {@link onOwnRoot} then makes private: unshare itself can only do that to a root that is a mount. */
export const MOUNT_NAMESPACE: readonly string[] = ["--mount", "--propagation", "unchanged"];

/** A command that first sees to it that its root is a mount, and private; it must run in a mount namespace of its own. */
export function onOwnRoot(command: readonly string[], shell = "/bin/sh"): readonly string[] {
  return [shell, "-c", ROOT_SCRIPT, "sealpod-root", ...command];
}

/**
 * Prepares the private mount namespace, then starts the agent and stays as the first process of the PID namespace: it adopts and reaps the
 * orphans of containers, which Node could not. crun wants one cgroup hierarchy, so the second one of a hybrid host is hidden; the agent's
 * directory is in memory, as it is in a virtual machine. Arguments arrive as parameters: nothing is pasted into the text.
 */
const SETUP = `set -eu
mount --make-rprivate /
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
mkdir -p /run/kata-containers
mount -t tmpfs -o mode=0755,nosuid,nodev sealpod /run/kata-containers
echo setup >&3
trap 'kill -TERM "$agent"' TERM
"$@" & agent=$!
exec 3>&-
status=0
while kill -0 "$agent" 2>/dev/null; do status=0; wait "$agent" || status=$?; done
exit "$status"`;

/** What the guest has of its own. Cgroups and users are the host's; its network is its own, or that of the pod. */
const NAMESPACES: readonly string[] = [...MOUNT_NAMESPACE, "--uts", "--ipc", "--pid", "--fork"];

/** Milliseconds from the start of the process until the agent listens: Node starts in a tenth of a second, a busy host takes longer. */
const START_LIMIT = 30_000;

/** Milliseconds that the agent gets to end its containers. */
const STOP_LIMIT = 5000;

/** Slots 02 to ff: slots 00 and 01 are the bridge and the root disk in a machine with PCI. */
const FIRST_SLOT = 2;
const LAST_SLOT = 0xff;

/** Options of {@link ProcessDriver}. */
export interface ProcessDriverOptions {
  readonly logger?: Logger;
  /** Where programs are searched. Default {@link PROGRAM_DIRECTORIES}. */
  readonly programDirectories?: readonly string[];
  /** Milliseconds until a machine that does not come up is given up. Default 30 s. */
  readonly startLimitMs?: number;
  /** Milliseconds until a machine that does not stop is ended by force. Default 5 s. */
  readonly stopLimitMs?: number;
}

/**
 * Runs the agent as a process in namespaces of its own. There is no virtual machine: the host sees all of the guest's memory, and memory and
 * CPU sizes are not enforced. For laptops without virtualization and for tests.
 */
export class ProcessDriver implements VmmDriver {
  readonly name = "process";
  readonly isolation = "none";
  readonly #options: ProcessDriverOptions;

  constructor(options: ProcessDriverOptions = {}) {
    this.#options = options;
  }

  async probe(): Promise<void> {
    const programs = await findExecutables(PROGRAMS, this.#directories);
    const child = new Child({
      program: programs.unshare,
      args: [...NAMESPACES, "--net", "true"],
      directories: this.#directories,
    });
    const exit = await child.exited;
    if (exit.exitCode !== 0) throw bootError("namespaces cannot be made", exit, child.tail);
  }

  async start(config: MachineConfig): Promise<Machine> {
    validateMachineConfig(config);
    const guest = processGuest(config);
    const { network = { kind: "user" } } = config;
    const programs = await findExecutables(PROGRAMS, this.#directories);
    // What is put on the stack is taken back in reverse order, now if the start fails, else when the machine has ended.
    await using stack = new AsyncDisposableStack();
    await createRunDirectory(config.runDirectory);
    stack.defer(() => rm(config.runDirectory, { recursive: true, force: true }));
    await mkdir(join(config.runDirectory, "devices"));

    const launch = await config.launch.launch({ files: guest.measuredFiles, commandLine: guest.commandLine, hostData: config.hostData });
    stack.defer(() => launch.close());

    const child = new Child({
      program: programs.setpriv,
      // The kernel ends unshare with this process, and unshare its child: an agent never outlives its driver.
      args: ["--pdeathsig", "KILL", ...unshareCommand(programs, network), "--kill-child", "--mount-proc"].concat(
        onOwnRoot([programs.sh, "-c", SETUP, "sealpod-setup", ...agentCommand(guest, config.runDirectory, launch)], programs.sh),
      ),
      directories: this.#directories,
      pipes: 1,
      output: config.console,
    });
    const stopLimit = this.#options.stopLimitMs ?? STOP_LIMIT;
    stack.defer(async () => void (await child.end(() => killGuest(child), stopLimit)));
    recordProcess(config.runDirectory, child.pid);

    const userNetwork = await bootWithin(this.#options.startLimitMs ?? START_LIMIT, child, async () => {
      const ready = new ReadyPipe(child.descriptor(3));
      await ready.expect("setup");
      const pid = innerPid(child);
      if (pid === undefined) throw new VmmError("ERR_VMM_BOOT", "the guest has no first process");
      if (network.kind === "namespace") {
        await ready.expect("ready");
        return undefined;
      }
      const connected = UserNetwork.start({
        program: programs.slirp4netns,
        pid,
        runDirectory: config.runDirectory,
        directories: this.#directories,
      });
      // Deferred before it is awaited, so that it is stopped also when the agent's part fails first.
      stack.defer(() =>
        connected.then(
          (running) => running.stop(),
          () => undefined,
        ),
      );
      const [running] = await Promise.all([connected, ready.expect("ready")]);
      return running;
    });
    return new ProcessMachine(config, child, userNetwork, stack.move(), this.#options.logger ?? silentLogger, stopLimit);
  }

  get #directories(): readonly string[] {
    return this.#options.programDirectories ?? PROGRAM_DIRECTORIES;
  }
}

class ProcessMachine implements Machine {
  readonly id: string;
  readonly pid: number;
  /** slirp4netns configures the interface from outside; a pod's network is there already. */
  readonly guestNetwork: readonly GuestInterface[] = [];
  readonly exited: Promise<MachineExit>;
  readonly #runDirectory: string;
  readonly #child: Child;
  readonly #network: UserNetwork | undefined;
  readonly #stopLimit: number;
  #nextSlot = FIRST_SLOT;
  #end: MachineExit["kind"] = "exited";

  constructor(config: MachineConfig, child: Child, network: UserNetwork | undefined, stack: AsyncDisposableStack, logger: Logger, stopLimit: number) {
    this.id = config.id;
    this.pid = child.pid;
    this.#runDirectory = config.runDirectory;
    this.#child = child;
    this.#network = network;
    this.#stopLimit = stopLimit;
    this.exited = this.#cleanUp(stack, logger);
  }

  async connectAgent(): Promise<ByteStream> {
    this.#assertRunning();
    const socket = connect(agentSocket(this.#runDirectory));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.once("connect", resolve);
    socket.once("error", reject);
    try {
      await promise;
    } catch (cause) {
      throw new VmmError("ERR_VMM_AGENT", `machine ${this.id}: the agent takes no connection: ${messageOf(cause)}`, { cause });
    }
    return byteStream(socket);
  }

  async attachDisk(path: string, { readonly = true }: DiskOptions = {}): Promise<{ readonly source: string }> {
    this.#assertRunning();
    const absolute = resolve(path);
    if (!readonly) {
      throw new VmmError("ERR_VMM_DISK", `machine ${this.id}: cannot attach ${absolute} to be written: a process of this host has no disks of its own`, {
        hint: "Storage that only the guest can read needs a virtual machine.",
      });
    }
    const file = await stat(absolute).catch((cause: unknown) => {
      throw new VmmError("ERR_VMM_DISK", `machine ${this.id}: cannot attach ${absolute}: ${messageOf(cause)}`, { cause });
    });
    if (!file.isFile()) throw new VmmError("ERR_VMM_DISK", `machine ${this.id}: cannot attach ${absolute}: it is not a regular file`);
    if (this.#nextSlot > LAST_SLOT) {
      throw new VmmError("ERR_VMM_DISK", `machine ${this.id}: all ${LAST_SLOT - FIRST_SLOT + 1} slots for disks are taken`, {
        hint: "Use images with fewer layers.",
      });
    }
    // Taken before the first await that follows: two disks attached at the same time get two slots.
    const source = (this.#nextSlot++).toString(16).padStart(2, "0");
    await symlink(absolute, join(this.#runDirectory, "devices", source));
    return { source };
  }

  async forwardPort(hostPort: number, guestPort: number): Promise<number> {
    this.#assertRunning();
    if (this.#network === undefined) {
      throw new VmmError("ERR_VMM_FORWARD", `machine ${this.id}: its network is that of a namespace, expected one of its own`, {
        hint: "A guest in a pod's network is reached at the pod's address.",
      });
    }
    return this.#network.forward(hostPort, guestPort);
  }

  async stop(): Promise<void> {
    if (this.#end === "exited" && this.#child.running) {
      this.#end = "stopped";
      // unshare itself ignores SIGTERM; its child is the agent.
      const ask = (): void => signal(innerPid(this.#child), "SIGTERM");
      await this.#child.end(ask, this.#stopLimit, () => {
        this.#end = "killed";
        killGuest(this.#child);
      });
    }
    await this.exited;
  }

  async #cleanUp(stack: AsyncDisposableStack, logger: Logger): Promise<MachineExit> {
    const exit = await this.#child.exited;
    try {
      await stack.disposeAsync();
    } catch (error) {
      logger.log("error", "a machine ended but not all of it could be cleaned up", { machine: this.id, error: messageOf(error) });
    }
    return { kind: this.#end, ...exit };
  }

  #assertRunning(): void {
    if (this.#end === "exited" && this.#child.running) return;
    throw new VmmError("ERR_VMM_STOPPED", `machine ${this.id} no longer runs`, { details: { machine: this.id } });
  }
}

function processGuest(config: MachineConfig): ProcessGuest {
  const refuse = (what: string, found: string, expected: string): never => {
    throw new VmmError("ERR_VMM_CONFIG", `machine: ${what} is ${found}, expected ${expected} by the process driver`, {
      details: { field: what, found, expected },
      hint: "The process driver starts no virtual machine; choose a driver that does.",
    });
  };
  if (config.guest.kind !== "process") return refuse("guest", `of kind ${config.guest.kind}`, "one of kind process");
  const { network } = config;
  if (network?.kind === "namespace" && (!isAbsolute(network.namespace) || network.namespace.includes("\0")))
    return refuse("network namespace", JSON.stringify(network.namespace.slice(0, 200)), "an absolute path");
  if (network !== undefined && network.kind !== "user" && network.kind !== "namespace")
    return refuse("network", `of kind ${network.kind}`, "one of kind user or namespace, or none named");
  if (config.initdata !== undefined) return refuse("initdata", "a disk", "none");
  const program = config.guest.command[0];
  if (program !== undefined && isAbsolute(program)) return config.guest;
  throw new VmmError("ERR_VMM_CONFIG", `machine: the guest's command starts with ${JSON.stringify(program ?? "nothing")}, expected an absolute path`);
}

/** unshare(1) with what the guest has of its own, in the namespace of its network if that is there already. */
function unshareCommand(programs: Readonly<Record<"nsenter" | "unshare", string>>, network: NetworkConfig): readonly string[] {
  if (network.kind !== "namespace") return [programs.unshare, ...NAMESPACES, "--net"];
  return [programs.nsenter, `--net=${network.namespace}`, "--", programs.unshare, ...NAMESPACES];
}

function agentSocket(runDirectory: string): string {
  return join(runDirectory, "agent.sock");
}

function agentCommand(guest: ProcessGuest, runDirectory: string, launch: Launch): readonly string[] {
  const listen = `unix:${agentSocket(runDirectory)}`;
  return [...guest.command, "--listen", listen, "--devices", join(runDirectory, "devices"), "--guest-info", launch.guestInfoDirectory, "--ready-fd", "3"];
}

async function bootWithin<T>(limitMs: number, child: Child, boot: () => Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new VmmError("ERR_VMM_BOOT", `the agent does not listen after ${limitMs} ms: ${child.tail}`)), limitMs);
  const ended = child.exited.then((exit) => {
    throw bootError("the agent ended before it listened", exit, child.tail);
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

function bootError(what: string, exit: ChildExit, tail: string): VmmError {
  const how = exit.signal === null ? `exit code ${exit.exitCode ?? "none"}` : exit.signal;
  const denied = /not permitted|permission denied/i.test(tail);
  return new VmmError(denied ? "ERR_VMM_UNAVAILABLE" : "ERR_VMM_BOOT", `${what} (${how}): ${tail}`, {
    details: { exitCode: exit.exitCode ?? undefined, signal: exit.signal ?? undefined },
    ...(denied ? { hint: "The process driver needs root and the right to make namespaces and mounts." } : {}),
  });
}

/** The one child of unshare: process 1 of the guest. Read anew each time, because a pid is only good while its parent holds it. */
function innerPid(child: Child): number | undefined {
  const outer = child.process.pid;
  if (outer === undefined || !child.running) return undefined;
  try {
    const pid = Number(readFileSync(`/proc/${outer}/task/${outer}/children`, "latin1").trim().split(" ")[0]);
    return pid > 1 ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** Ends the guest by force. With its process 1 the kernel ends all of the guest's processes, before unshare sees the end. */
function killGuest(child: Child): void {
  const pid = innerPid(child);
  if (pid === undefined) child.process.kill("SIGKILL");
  else signal(pid, "SIGKILL");
}

function signal(pid: number | undefined, name: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(pid, name);
  } catch {
    // It has ended in the meantime, which is what was asked for.
  }
}
