import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { type Logger, messageOf } from "@sealpod/core";
import type { CreateContainerRequest, CreateSandboxRequest, ExecProcessRequest } from "@sealpod/proto";
import { ConfinedDirectory, shown } from "./confined-directory.ts";
import { AgentError } from "./errors.ts";
import type { GuestSystem } from "./guest-system.ts";
import type { GuestPaths } from "./paths.ts";
import { ContainerProcess } from "./process.ts";
import type { ProcessLimits } from "./process-limits.ts";
import { runtimeProcess, runtimeSpec } from "./runtime-spec.ts";
import type { Runtime, RuntimeContainer } from "./runtime.ts";
import { Storages } from "./storages.ts";

/** Ended and waited-for processes of a container whose output was not read yet: room for probes that overlap, bounded for those nobody reads. */
const MAX_UNREAD_PROCESSES = 16;

/** Names of hosts: RFC 1123, and Linux takes 64 bytes. */
const HOSTNAME = /^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$/;

/** What a sandbox works with. */
export interface SandboxPorts {
  readonly paths: GuestPaths;
  readonly devices: string;
  readonly guestInfo: string;
  readonly system: GuestSystem;
  readonly runtime: Runtime;
  readonly limits: ProcessLimits;
  /** False where there is no cgroup hierarchy of the agent's own. */
  readonly cgroups: boolean;
  readonly logger: Logger;
}

interface Container {
  readonly id: string;
  readonly directory: string;
  /** Mount points of its storages, in the order in which it got them. */
  readonly held: Set<string>;
  readonly runtime: RuntimeContainer;
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
  readonly #held = new Set<string>();
  /** Container whose pid namespace the others share, if they ask for that: the first one. */
  #first: Container | undefined;

  constructor(ports: SandboxPorts) {
    this.#ports = ports;
    this.#storages = new Storages(ports);
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

  startContainer(id: string): void {
    this.#container(id).runtime.start();
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
    const { id, directory, processes, starting } = this.#container(containerId);
    if (execId === "" || process === undefined) throw refused("ExecProcess needs exec_id and process");
    if (starting.has(execId) || processes.get(execId)?.waited === false) throw new AgentError("ERR_AGENT_EXISTS", `process ${execId} exists`);
    const specification = runtimeProcess(process, this.#ports.limits, this.#ports.logger);
    starting.add(execId);
    try {
      const started = new ContainerProcess(await this.#ports.runtime.exec(id, directory, execId, specification));
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
    const status = await this.process(containerId, execId).wait();
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

  /** What the processes of a container use. */
  usage(id: string): ReturnType<RuntimeContainer["usage"]> {
    return this.#container(id).runtime.usage();
  }

  async #make(request: CreateSandboxRequest): Promise<void> {
    const { paths, system, logger, cgroups } = this.#ports;
    mkdirSync(paths.root, { recursive: true });
    await system.mount({ type: "tmpfs", source: "sealpod", target: paths.root, options: ["nosuid", "nodev", "mode=0755"] });
    try {
      for (const path of [paths.layers, paths.shared, paths.runtimeState]) mkdirSync(path, { recursive: true, mode: 0o755 });
      await system.makeWhiteout(paths.whiteout);
      writeFileSync(paths.resolvConf, request.dns.map((line) => `${line}\n`).join(""), { mode: 0o644 });
      if (request.hostname !== "") system.setHostname(request.hostname);
      await this.#acquire(request.storages, paths.root, this.#held);
      if (!cgroups) logger.log("warn", "no cgroups here: resource limits of containers are not enforced", { sandbox: request.sandboxId });
    } catch (error) {
      await this.#unmake();
      throw error;
    }
  }

  async #unmake(): Promise<void> {
    await this.#release(this.#held);
    await this.#ignoring("the sandbox", this.#ports.system.unmount(this.#ports.paths.root));
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
    if (request.devices.length > 0 || request.sharedMounts.length > 0) throw refused("devices and shared mounts are not supported");
    if (request.stdinPort !== 0 || request.stdoutPort !== 0 || request.stderrPort !== 0) throw refused("streams over ports of their own are not supported");
    const shared = request.sandboxPidns ? this.#first?.runtime.pidNamespace : undefined;
    // All that can be refused is refused before anything is made.
    const config = runtimeSpec(spec, { ...this.#ports, pidNamespace: shared });

    const directory = paths.container(id);
    const held = new Set<string>();
    {
      using root = ConfinedDirectory.open(paths.root);
      if (!root.makeChild(id, 0o700)) throw refused(`directory of container ${id} is taken`);
    }
    try {
      await this.#acquire(request.storages, directory, held);
      // So nothing that was not verified, or made empty here, becomes the root of a container.
      if (!held.has(spec.Root?.Path ?? "")) throw refused(`OCI.Root.Path ${shown(spec.Root?.Path ?? "")} is no storage of the container`);
      const made = await runtime.create(id, directory, config);
      return { id, directory, held, runtime: made, processes: new Map([[id, new ContainerProcess(made.init)]]), starting: new Set() };
    } catch (error) {
      await this.#release(held);
      rmSync(directory, { recursive: true, force: true });
      throw error;
    }
  }

  async #unmakeContainer(container: Container): Promise<void> {
    if (this.#first === container) this.#first = undefined;
    await this.#ignoring(`container ${container.id}`, container.runtime.remove());
    for (const process of container.processes.values()) process.close();
    await this.#release(container.held);
    rmSync(container.directory, { recursive: true, force: true });
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

function refused(problem: string): AgentError {
  return new AgentError("ERR_AGENT_REQUEST", problem);
}

function noProcess(containerId: string, execId: string): AgentError {
  return new AgentError("ERR_AGENT_NO_PROCESS", `container ${containerId} has no process ${shown(execId)}`);
}
