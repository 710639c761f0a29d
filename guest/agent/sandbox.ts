import { closeSync, constants, fstatSync, mkdirSync, openSync, readdirSync, readSync, rmSync, writeFileSync } from "node:fs";
import { type Logger, messageOf } from "@sealpod/core";
import type {
  CreateContainerRequest,
  CreateSandboxRequest,
  ExecProcessRequest,
  LinuxResources,
  MessageInitShape,
  Spec,
  StatsContainerResponseSchema,
  Storage,
} from "@sealpod/proto";
import { requirePlainSources } from "./bind-sources.ts";
import type { BlockDevices } from "./block-devices.ts";
import { CgroupTree, type Cgroups, type ContainerCgroup } from "./cgroups.ts";
import { componentsBelow, ConfinedDirectory, hasCode, shown } from "./confined-directory.ts";
import { grantedDevices } from "./devices.ts";
import { AgentError } from "./errors.ts";
import type { GuestSystem } from "./guest-system.ts";
import type { GuestPaths } from "./paths.ts";
import { ContainerProcess } from "./process.ts";
import type { ProcessLimits } from "./process-limits.ts";
import { REPORTS, runtimeProcess, runtimeSpec } from "./runtime-spec.ts";
import type { Runtime, RuntimeContainer } from "./runtime.ts";
import { Storages } from "./storages.ts";

/** Ended and waited-for processes of a container whose output was not read yet: room for probes that overlap, bounded for those nobody reads. */
const MAX_UNREAD_PROCESSES = 16;

/** Containers at once, and processes of one container that are started or not waited for: far more than a pod has; each costs memory and descriptors. */
const MAX_CONTAINERS = 4096;
const MAX_PROCESSES = 1024;

/** Events that nobody has asked for yet: one per container that a pod could have, and room for those that die again and again. The first ones go. */
const MAX_EVENTS = 256;
/** Calls that wait for an event. A shim has one, and may have left some behind when it was started again. */
const MAX_EVENT_WAITERS = 16;

/** Most of a termination message: what Kubernetes keeps of it (specs/runtime.md 2.1). */
const MAX_TERMINATION_MESSAGE = 4096;
const TERMINATION_MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath";

/** How a request says that it makes the pod's own container: containerd's way, and that of shims (specs/genpolicy.md). */
const SANDBOX_ANNOTATIONS: readonly (readonly [name: string, value: string])[] = [
  ["io.kubernetes.cri.container-type", "sandbox"],
  ["io.katacontainers.pkg.oci.container_type", "pod_sandbox"],
];

/** How an exit by signal is told: 128+n, or as the number alone, which the older agent did (specs/runtime.md 2.6). */
export type ExitStatusForm = "shell" | "signal";

/** Names of hosts: RFC 1123, and Linux takes 64 bytes. */
const HOSTNAME = /^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$/;

/** What a sandbox works with. */
export interface SandboxPorts {
  readonly paths: GuestPaths;
  readonly guestInfo: string;
  /** Makes {@link guestInfo} ready, before anything else is made. */
  readonly prepare?: () => Promise<void>;
  readonly system: GuestSystem;
  readonly runtime: Runtime;
  readonly limits: ProcessLimits;
  /** False where there is no cgroup hierarchy of the agent's own; true for that of the guest. */
  readonly cgroups: boolean | Cgroups;
  /** Disks that the host attached: for storages, and for containers as device nodes. */
  readonly disks: BlockDevices;
  readonly exitStatus?: ExitStatusForm;
  readonly logger: Logger;
}

interface Container {
  readonly id: string;
  readonly directory: string;
  /** Mount points of its storages, in the order in which it got them. */
  readonly held: Set<string>;
  readonly runtime: RuntimeContainer;
  readonly group: ContainerCgroup | undefined;
  /** Gives back the disks that it has as device nodes. */
  readonly returnDisks: () => void;
  /** File of the guest that the container writes its last words into. */
  readonly terminationMessage: string | undefined;
  started: boolean;
  /** By exec id; the first process is under the container's own. */
  readonly processes: Map<string, ContainerProcess>;
  /** Exec ids of processes that are being started. */
  readonly starting: Set<string>;
}

/** A container, or the work that makes or removes it: the host decides when calls come, so each is answered in every state. */
type Entry = { readonly kind: "live"; readonly container: Container } | { readonly kind: "busy"; readonly work: Promise<unknown> };

/**
 * The pod: its containers and storages. Every method here has passed the policy; what it refuses, it refuses whatever the policy says.
 */
export class Sandbox {
  /** Resolves when the sandbox was destroyed. */
  readonly ended: Promise<void>;
  readonly #ports: SandboxPorts;
  readonly #storages: Storages;
  readonly #containers = new Map<string, Entry>();
  readonly #end = Promise.withResolvers<void>();
  #phase: "none" | "making" | "ready" | "destroyed" = "none";
  #making: Promise<void> | undefined;
  readonly #cgroups: Cgroups | undefined;
  readonly #held = new Set<string>();
  /** Containers that ran out of memory, in order, and calls that wait for one. Never both. */
  readonly #events: string[] = [];
  readonly #eventWaiters: PromiseWithResolvers<string>[] = [];
  /** Container whose pid namespace the others share, if they ask for that: the first one. */
  #first: Container | undefined;

  constructor(ports: SandboxPorts) {
    this.#ports = ports;
    this.#storages = new Storages(ports);
    this.#cgroups = ports.cgroups === true ? new CgroupTree() : ports.cgroups || undefined;
    this.ended = this.#end.promise;
  }

  /**
   * Makes the sandbox: an empty file system in memory below the root, host name, storages.
   * @throws {AgentError}
   */
  async create(request: CreateSandboxRequest): Promise<void> {
    if (this.#phase !== "none") throw new AgentError("ERR_AGENT_STATE", "there is a sandbox already");
    if (request.kernelModules.length > 0 || request.guestHookPath !== "") throw refused("kernel modules and guest hooks are not taken from the host");
    if (request.hostname !== "" && !HOSTNAME.test(request.hostname)) throw refused(`hostname ${shown(request.hostname)} is not a name`);
    this.#phase = "making";
    this.#making = this.#make(request);
    let outcome: "none" | "ready" = "none";
    try {
      await this.#making;
      outcome = "ready";
    } finally {
      // Unless it was destroyed meanwhile.
      if (this.#phase === "making") this.#phase = outcome;
    }
  }

  /** Removes everything, and answers those who wait for events. The sandbox cannot be made again. */
  async destroy(): Promise<void> {
    if (this.#phase === "destroyed") return this.ended;
    this.#phase = "destroyed";
    const made = await this.#making?.then(
      () => true,
      () => false,
    );
    for (const entry of this.#containers.values()) if (entry.kind === "busy") await entry.work.catch(() => undefined);
    for (const [id, entry] of this.#containers) if (entry.kind === "live") await this.#ignoring(`container ${id}`, this.removeContainer(id));
    if (made === true) await this.#unmake();
    for (const waiter of this.#eventWaiters.splice(0)) waiter.reject(destroyed());
    this.#end.resolve();
  }

  /** @throws {AgentError} ERR_AGENT_STATE without a sandbox */
  requireReady(): void {
    if (this.#phase !== "ready") throw new AgentError("ERR_AGENT_STATE", this.#phase === "destroyed" ? "the sandbox was destroyed" : "there is no sandbox yet");
  }

  /** @throws {AgentError} ERR_AGENT_EXISTS */
  requireNew(id: string): void {
    if (this.#containers.has(id)) throw new AgentError("ERR_AGENT_EXISTS", `container ${id} exists`);
  }

  /** @throws {AgentError} ERR_AGENT_NO_CONTAINER, ERR_AGENT_STATE while it is made or removed */
  requireContainer(id: string): void {
    this.#container(id);
  }

  /** Makes a container whose first process waits for {@link startContainer}. */
  async createContainer(request: CreateContainerRequest): Promise<void> {
    this.requireReady();
    this.requireNew(request.containerId);
    if (this.#containers.size >= MAX_CONTAINERS) throw new AgentError("ERR_AGENT_STATE", `there are ${MAX_CONTAINERS} containers already`);
    const work = this.#makeContainer(request);
    this.#containers.set(request.containerId, { kind: "busy", work });
    try {
      const container = await work;
      this.#containers.set(container.id, { kind: "live", container });
      this.#first ??= container;
    } catch (error) {
      this.#containers.delete(request.containerId);
      throw error;
    }
  }

  async startContainer(id: string): Promise<void> {
    const container = this.#container(id);
    await container.runtime.start();
    container.started = true;
  }

  /** Kills what still runs in the container and removes what is left of it. */
  async removeContainer(id: string): Promise<void> {
    const container = this.#container(id);
    const work = this.#unmakeContainer(container);
    this.#containers.set(id, { kind: "busy", work });
    try {
      await work;
    } finally {
      this.#containers.delete(id);
    }
  }

  /** Starts another process in a container. */
  async exec(request: ExecProcessRequest): Promise<void> {
    const { containerId, execId, process } = request;
    const container = this.#container(containerId);
    const { id, directory, processes, starting, group } = container;
    if (execId === "" || process === undefined) throw refused("ExecProcess needs exec_id and process");
    if (execId === id || starting.has(execId) || processes.get(execId)?.waited === false) throw new AgentError("ERR_AGENT_EXISTS", `process ${execId} exists`);
    if (starting.size + processes.size >= MAX_PROCESSES) throw new AgentError("ERR_AGENT_STATE", `container ${id} has ${MAX_PROCESSES} processes already`);
    // It would begin only when the container goes on, and the call would hang until then.
    if (group?.frozen === true) throw new AgentError("ERR_AGENT_STATE", `container ${id} is paused`);
    const specification = runtimeProcess(process, this.#ports.limits, this.#ports.logger);
    starting.add(execId);
    try {
      const started = new ContainerProcess(await this.#ports.runtime.exec(id, directory, execId, specification, group));
      // The container may have been removed meanwhile; nobody would ever close its streams.
      const entry = this.#containers.get(id);
      if (entry?.kind !== "live" || entry.container !== container) started.close();
      processes.get(execId)?.close();
      // Last in the order of the map, which is the order of forgetting.
      processes.delete(execId);
      processes.set(execId, started);
    } finally {
      starting.delete(execId);
    }
  }

  /** Exit status of a process. Those that were waiting when it ended all get it; afterwards it is not found. */
  async wait(containerId: string, execId: string): Promise<number> {
    const { processes } = this.#container(containerId);
    const status = inForm(await this.process(containerId, execId).wait(), this.#ports.exitStatus);
    const unread = [...processes].filter(([key, process]) => key !== containerId && process.waited);
    for (const [index, [key, process]] of unread.entries()) {
      if (!process.spent && index >= unread.length - MAX_UNREAD_PROCESSES) continue;
      process.close();
      processes.delete(key);
    }
    return status;
  }

  /**
   * A process that was not waited for yet; "" is the container's first one.
   * @throws {AgentError} ERR_AGENT_NO_CONTAINER, ERR_AGENT_NO_PROCESS
   */
  process(containerId: string, execId: string): ContainerProcess {
    const process = this.readable(containerId, execId);
    if (process.waited) throw noProcess(containerId, execId);
    return process;
  }

  /** A process whose output can be read: also one that was waited for. */
  readable(containerId: string, execId: string): ContainerProcess {
    const process = this.#container(containerId).processes.get(execId === "" ? containerId : execId);
    if (process === undefined) throw noProcess(containerId, execId);
    return process;
  }

  /** Statistics of a container (specs/runtime.md 2.2): those of its control group, or sums over its processes where there is none. */
  stats(id: string): MessageInitShape<typeof StatsContainerResponseSchema> {
    const { group, runtime } = this.#container(id);
    if (group !== undefined) return { cgroupStats: group.stats() };
    const { user, kernel, memory, processes } = runtime.usage();
    return {
      cgroupStats: {
        cpuStats: { cpuUsage: { totalUsage: user + kernel, usageInUsermode: user, usageInKernelmode: kernel } },
        memoryStats: { usage: { usage: memory } },
        pidsStats: { current: BigInt(processes) },
      },
    };
  }

  /**
   * Changes the limits of a container; zero leaves one as it is.
   * @throws {AgentError} ERR_AGENT_REQUEST, ERR_AGENT_CGROUP; ERR_AGENT_UNIMPLEMENTED without cgroups
   */
  update(id: string, resources: LinuxResources | undefined): void {
    const group = this.#group(id);
    if (resources === undefined) throw refused("UpdateContainer needs resources");
    group.update(resources);
  }

  /**
   * Stops the processes of a container that runs.
   * @throws {AgentError} ERR_AGENT_CGROUP if it does not run or is paused, ERR_AGENT_UNIMPLEMENTED without cgroups
   */
  async pause(id: string): Promise<void> {
    const group = this.#group(id);
    const { started, processes } = this.#container(id);
    if (!started || processes.get(id)?.ended === true) throw new AgentError("ERR_AGENT_CGROUP", `container ${id} cannot be paused: it does not run`);
    if (group.frozen) throw new AgentError("ERR_AGENT_CGROUP", `container ${id} cannot be paused: it is`);
    await group.freeze();
  }

  /**
   * Lets the processes of a paused container go on.
   * @throws {AgentError} ERR_AGENT_CGROUP if it is not paused, ERR_AGENT_UNIMPLEMENTED without cgroups
   */
  async resume(id: string): Promise<void> {
    const group = this.#group(id);
    if (!group.frozen) throw new AgentError("ERR_AGENT_CGROUP", `container ${id} cannot be resumed: it is not paused`);
    await group.thaw();
  }

  /**
   * Sets the size of a process's terminal.
   * @throws {AgentError} ERR_AGENT_NO_TTY if it has none, ERR_AGENT_REQUEST for a size no terminal has
   */
  resize(containerId: string, execId: string, rows: number, columns: number): void {
    this.process(containerId, execId).resize(rows, columns);
  }

  /**
   * The next container that ran out of memory: its id. Waits for one. Each event goes to one call, to the latest of those that wait: the others
   * may be of a host that has hung up.
   *
   * @throws {AgentError} ERR_AGENT_ENDED when the sandbox is destroyed; ERR_AGENT_STATE if too many calls came after this one
   */
  async oomEvent(): Promise<string> {
    if (this.#phase === "destroyed") throw destroyed();
    const event = this.#events.shift();
    if (event !== undefined) return event;
    const waiter = Promise.withResolvers<string>();
    this.#eventWaiters.push(waiter);
    if (this.#eventWaiters.length > MAX_EVENT_WAITERS) {
      this.#eventWaiters.shift()?.reject(new AgentError("ERR_AGENT_STATE", `more than ${MAX_EVENT_WAITERS} calls wait for an event`));
    }
    return waiter.promise;
  }

  /** Mounts ephemeral storages of the sandbox again, with other options. */
  async updateEphemeral(storages: readonly Storage[]): Promise<void> {
    this.requireReady();
    await this.#storages.updateEphemeral(storages);
  }

  /**
   * The end of what a container wrote into its termination message file, at most 4096 bytes; nothing if it has no such file.
   * @throws {AgentError} ERR_AGENT_NO_CONTAINER, ERR_AGENT_STATE
   */
  terminationMessage(id: string): Uint8Array {
    const { terminationMessage: path } = this.#container(id);
    return path === undefined ? new Uint8Array(0) : endOf(this.#ports.paths.shared, path);
  }

  async #make(request: CreateSandboxRequest): Promise<void> {
    const { paths, system, logger, prepare } = this.#ports;
    await prepare?.();
    mkdirSync(paths.root, { recursive: true });
    await system.mount({ type: "tmpfs", source: "sealpod", target: paths.root, options: ["nosuid", "nodev", "mode=0755"] });
    try {
      mkdirSync(`${this.#ports.guestInfo}/${REPORTS}`, { recursive: true });
      for (const path of [paths.layers, paths.shared, paths.runtimeState]) mkdirSync(path, { recursive: true, mode: 0o755 });
      await system.makeWhiteout(paths.whiteout);
      writeFileSync(paths.resolvConf, request.dns.map((line) => `${line}\n`).join(""), { mode: 0o644 });
      if (request.hostname !== "") system.setHostname(request.hostname);
      await this.#acquire(request.storages, paths.root, this.#held);
      if (this.#cgroups === undefined) logger.log("warn", "no cgroups here: resource limits of containers are not enforced", { sandbox: request.sandboxId });
    } catch (error) {
      await this.#unmake();
      throw error;
    }
  }

  async #unmake(): Promise<void> {
    await this.#ignoring("volumes", this.#storages.close());
    await this.#release(this.#held);
    await this.#ignoring("the sandbox", this.#ports.system.unmount(this.#ports.paths.root));
  }

  #group(id: string): ContainerCgroup {
    const { group } = this.#container(id);
    if (group === undefined) throw new AgentError("ERR_AGENT_UNIMPLEMENTED", "there are no cgroups here");
    return group;
  }

  #outOfMemory(id: string): void {
    this.#ports.logger.log("warn", "out of memory", { container: id });
    const waiter = this.#eventWaiters.pop();
    if (waiter !== undefined) return waiter.resolve(id);
    if (this.#events.length >= MAX_EVENTS) this.#events.shift();
    this.#events.push(id);
  }

  #container(id: string): Container {
    const entry = this.#containers.get(id);
    if (entry === undefined) throw new AgentError("ERR_AGENT_NO_CONTAINER", `there is no container ${id}`);
    if (entry.kind === "busy") throw new AgentError("ERR_AGENT_STATE", `container ${id} is being made or removed`);
    return entry.container;
  }

  async #makeContainer(request: CreateContainerRequest): Promise<Container> {
    const { containerId: id, OCI: spec } = request;
    const { paths, runtime } = this.#ports;
    if (spec === undefined) throw refused("CreateContainer needs OCI");
    if (request.sharedMounts.length > 0) throw refused("shared mounts are not supported");
    if (request.stdinPort !== 0 || request.stdoutPort !== 0 || request.stderrPort !== 0) throw refused("streams over ports of their own are not supported");
    const shared = request.sandboxPidns ? this.#first?.runtime.pidNamespace : undefined;
    const devices = await grantedDevices(request.devices, this.#ports.disks);
    const context = { ...this.#ports, devices, pidNamespace: shared, agent: process.pid };
    // All that can be refused is refused before anything is made.
    runtimeSpec(spec, { ...context, cgroupsPath: undefined });

    const directory = paths.container(id);
    const held = new Set<string>();
    {
      using root = ConfinedDirectory.open(paths.root);
      if (!root.makeChild(id, 0o700)) throw refused(`directory of container ${id} is taken`);
    }
    let group: ContainerCgroup | undefined;
    let returnDisks = (): void => undefined;
    try {
      await this.#acquire(request.storages, directory, held);
      returnDisks = this.#storages.grant(devices.map(({ disk }) => disk));
      // So nothing that was not verified becomes the root of a container: that is layers, and nobody else's directory above them.
      const root = spec.Root?.Path ?? "";
      if (!request.storages.some(({ driver, mountPoint }) => driver === "overlayfs" && mountPoint === root))
        throw refused(`OCI.Root.Path ${shown(root)} is no root that was made for the container`);
      requirePlainSources(paths.root, spec.Mounts);
      group = this.#cgroups?.create(id);
      const made = await runtime.create(id, directory, runtimeSpec(spec, { ...context, cgroupsPath: group?.path }), group);
      if (!isSandboxContainer(spec)) group?.onOutOfMemory(() => this.#outOfMemory(id));
      // The host hears of the reason before it hears of the end.
      const init = new ContainerProcess(made.init, () => group?.checkOutOfMemory());
      const processes = new Map([[id, init]]);
      this.#storages.keepVolumes(held);
      return {
        id,
        directory,
        held,
        runtime: made,
        group,
        returnDisks,
        terminationMessage: terminationMessageOf(spec),
        started: false,
        processes,
        starting: new Set(),
      };
    } catch (error) {
      if (group !== undefined) await this.#ignoring(`group of container ${id}`, group.remove());
      returnDisks();
      await this.#release(held);
      this.#removeCopies(id);
      rmSync(directory, { recursive: true, force: true });
      throw error;
    }
  }

  async #unmakeContainer(container: Container): Promise<void> {
    if (this.#first === container) this.#first = undefined;
    await this.#ignoring(`container ${container.id}`, container.runtime.remove());
    if (container.group !== undefined) await this.#ignoring(`group of container ${container.id}`, container.group.remove());
    for (const process of container.processes.values()) process.close();
    container.returnDisks();
    await this.#release(container.held);
    this.#removeCopies(container.id);
    rmSync(container.directory, { recursive: true, force: true });
  }

  /**
   * Removes the files that the host copied for a container (specs/runtime.md 4.11): the next one brings its own, and a pod whose containers are started
   * again and again would fill its memory with them. CopyFile does not say whose they are: their names begin with the container's id.
   */
  #removeCopies(id: string): void {
    const { shared } = this.#ports.paths;
    // Ids are the host's choice: where one begins as another goes on, whose a file is cannot be told, and none is taken away under a container that runs.
    if ([...this.#containers.keys()].some((other) => other.startsWith(`${id}-`))) return;
    for (const name of readdirSync(shared)) {
      if (!name.startsWith(`${id}-`) || !/^[0-9a-z]{16}-/.test(name.slice(id.length + 1))) continue;
      try {
        using directory = ConfinedDirectory.open(shared);
        rmSync(directory.entry(name), { recursive: true });
      } catch (error) {
        this.#ports.logger.log("warn", "cannot remove a copied file", { container: id, name: shown(name), error: messageOf(error) });
      }
    }
  }

  async #acquire(storages: CreateContainerRequest["storages"], directory: string, held: Set<string>): Promise<void> {
    for (const storage of storages) {
      if (held.has(storage.mountPoint)) throw refused(`two storages are to be mounted at ${shown(storage.mountPoint)}`);
      await this.#storages.acquire(storage, { directory, held });
      held.add(storage.mountPoint);
    }
  }

  /** Returns all storages, the last one first. What cannot be undone is left behind and logged. */
  async #release(held: Set<string>): Promise<void> {
    for (const mountPoint of [...held].reverse()) {
      held.delete(mountPoint);
      await this.#ignoring(mountPoint, this.#storages.release(mountPoint));
    }
  }

  async #ignoring(what: string, work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      this.#ports.logger.log("error", "could not be removed", { what, error: messageOf(error) });
    }
  }
}

/** True for the container that only stands for the pod. */
function isSandboxContainer({ Annotations }: Spec): boolean {
  return SANDBOX_ANNOTATIONS.some(([name, value]) => Annotations[name] === value);
}

/**
 * File that is mounted where the container puts its last words. Only one that the container can write: the host chooses the annotation, and
 * must not be able to point it at a file of the pod's secrets.
 */
function terminationMessageOf({ Annotations, Mounts }: Spec): string | undefined {
  const destination = Annotations[TERMINATION_MESSAGE_PATH];
  const mount = Mounts.find(
    (candidate) => candidate.destination === destination && (candidate.type === "bind" || candidate.options.some((option) => /^r?bind$/.test(option))),
  );
  return mount === undefined || mount.options.includes("ro") ? undefined : mount.source;
}

/** The last bytes of a regular file below `root`, without following links. Nothing if there is no such file. */
function endOf(root: string, path: string): Uint8Array {
  try {
    const components = componentsBelow(root, path);
    using top = ConfinedDirectory.open(root);
    using directory = top.descend(components.slice(0, -1));
    const fd = openSync(directory.entry(components.at(-1) ?? ""), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const { size } = fstatSync(fd);
      if (!fstatSync(fd).isFile()) return new Uint8Array(0);
      const buffer = new Uint8Array(MAX_TERMINATION_MESSAGE);
      return buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, Math.max(0, size - buffer.length)));
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (error instanceof AgentError || hasCode(error, "ENOENT", "ELOOP", "ENXIO")) return new Uint8Array(0);
    throw error;
  }
}

/** A status in the form that the host expects. The runtime gives that of a shell. */
function inForm(status: number, form: ExitStatusForm | undefined): number {
  return form === "signal" && status > 128 && status <= 128 + 64 ? status - 128 : status;
}

function destroyed(): AgentError {
  return new AgentError("ERR_AGENT_ENDED", "the sandbox was destroyed");
}

function refused(problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", problem);
}

function noProcess(containerId: string, execId: string): AgentError {
  return new AgentError("ERR_AGENT_NO_PROCESS", `container ${containerId} has no process ${shown(execId)}`);
}
