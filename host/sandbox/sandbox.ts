import { encodeUtf8, messageOf, sha256, silentLogger, toHex, type Logger, type Random } from "@sealpod/core";
import { AgentService, Health, HealthCheckResponse_ServingStatus } from "@sealpod/proto";
import type { Machine, MachineConfig, MachineExit, VmmDriver } from "@sealpod/vmm";
import { AgentClient } from "./agent-client.ts";
import { type CopyFileInit, copyFiles } from "./copy-files.ts";
import { SandboxError } from "./errors.ts";
import { GuestProcess, type ProcessOutput } from "./guest-process.ts";
import { containerRoot } from "./guest-paths.ts";
import { type HostVolumes, LOCAL_VOLUMES, planMounts } from "./mounts.ts";
import { configureNetwork, driverNetwork } from "./network.ts";
import { constrainSpec, execProcess } from "./spec.ts";
import { rootStorages, shmStorage, type AttachedLayer, type ContainerLayer } from "./storages.ts";

/** Milliseconds for the first answer of an agent that listens already (specs/runtime.md 4.1). */
const HEALTH_LIMIT = 30_000;

/** Milliseconds for CreateContainer, ten minutes: the agent reads and checks every byte of the image's layers in it. */
const CREATE_CONTAINER_LIMIT = 600_000;

/** Milliseconds for DestroySandbox; after it the machine is ended anyhow. */
const DESTROY_LIMIT = 10_000;

/** What the caller says of the machine; the rest follows from the sandbox. */
export type SandboxMachine = Omit<MachineConfig, "id" | "hostData">;

/** Options of {@link createSandbox}. */
export interface SandboxOptions {
  /** 64 lower-case hex digits in practice; also the machine's id, and that of the pod's first container. */
  readonly id: string;
  readonly driver: VmmDriver;
  readonly machine: SandboxMachine;
  /** Text of the policy. Its SHA-256 becomes HOST_DATA. Without one HOST_DATA is zero and the agent keeps the policy of its image. */
  readonly policy?: string;
  readonly hostname: string;
  /** Lines of resolv.conf. */
  readonly dns?: readonly string[];
  readonly random: Random;
  readonly logger?: Logger;
}

/** Options of {@link Sandbox.createContainer}. */
export interface ContainerOptions {
  readonly id: string;
  /** OCI runtime specification as containerd writes it in `config.json`, as parsed JSON. */
  readonly spec: unknown;
  /** Directory of the bundle on the host; policies take the container's id from its last component. */
  readonly bundle: string;
  /** Bottom first. */
  readonly layers: readonly ContainerLayer[];
  /** What the files of its mounts do not show. */
  readonly volumes?: HostVolumes;
}

/** Options of {@link Container.exec}. */
export interface ExecOptions extends ProcessOutput {
  readonly execId: string;
  /** The `process` of an OCI runtime specification, as parsed JSON. */
  readonly process: unknown;
}

/** HOST_DATA of a machine that is to run under a policy: its SHA-256, or 32 zero bytes (specs/runtime.md 3.4). */
export function policyHostData(policy: string | undefined): Uint8Array {
  return policy === undefined ? new Uint8Array(32) : sha256(encodeUtf8(policy));
}

/**
 * Starts a machine and makes the sandbox of a pod in it: agent answers, policy set, network given, sandbox made (specs/runtime.md 4.1).
 * If a step fails the machine is stopped.
 * @throws {VmmError} from the driver
 * @throws {SandboxError} ERR_SANDBOX_POLICY if the agent does not take the policy, ERR_SANDBOX_DENIED and others
 */
export async function createSandbox(options: SandboxOptions): Promise<Sandbox> {
  const { id, driver, policy, logger = silentLogger } = options;
  const machine = await driver.start({ ...options.machine, id, hostData: policyHostData(policy) });
  try {
    const client = new AgentClient(await machine.connectAgent());
    const { status } = await client.call(Health.method.check, {}, HEALTH_LIMIT);
    if (status !== HealthCheckResponse_ServingStatus.SERVING)
      throw new SandboxError("ERR_SANDBOX_AGENT", `the agent's health is ${status}, expected 1 (SERVING)`);
    if (policy !== undefined) await setPolicy(client, policy);
    await configureNetwork(client, driverNetwork(machine.guestNetwork));
    await client.call(AgentService.method.createSandbox, {
      sandboxId: id,
      hostname: options.hostname,
      dns: [...(options.dns ?? [])],
      storages: [shmStorage()],
    });
    return new Sandbox(machine, client, options.random, logger);
  } catch (error) {
    await machine.stop();
    throw error;
  }
}

async function setPolicy(client: AgentClient, policy: string): Promise<void> {
  try {
    await client.call(AgentService.method.setPolicy, { policy });
  } catch (error) {
    // The agent says INVALID_ARGUMENT both to text that is no policy and to a policy that is not that of the launch.
    if (!(error instanceof SandboxError) || error.details["status"] !== "INVALID_ARGUMENT") throw error;
    throw new SandboxError("ERR_SANDBOX_POLICY", error.message, { cause: error, details: error.details });
  }
}

/** The sandbox of a pod, from the host. */
export class Sandbox {
  readonly machine: Machine;
  /** Resolves when the machine has ended, for whatever reason. */
  readonly exited: Promise<MachineExit>;
  readonly #client: AgentClient;
  readonly #random: Random;
  readonly #logger: Logger;
  /** Disks by layer file: containers that share a layer share its disk. */
  readonly #disks = new Map<string, Promise<{ readonly source: string }>>();

  constructor(machine: Machine, client: AgentClient, random: Random, logger: Logger) {
    this.machine = machine;
    this.exited = machine.exited;
    this.#client = client;
    this.#random = random;
    this.#logger = logger;
  }

  get id(): string {
    return this.machine.id;
  }

  /**
   * Makes a container; its process waits for {@link Container.start}.
   * @throws {SandboxError} ERR_SANDBOX_SPEC, ERR_SANDBOX_FILES before the agent is asked; ERR_SANDBOX_DENIED and others
   * @throws {VmmError} ERR_VMM_DISK
   */
  async createContainer(options: ContainerOptions): Promise<Container> {
    const { id } = options;
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{1,127}$/.test(id)) {
      throw new SandboxError("ERR_SANDBOX_SPEC", `container id ${JSON.stringify(id.slice(0, 200))} is not 2 to 128 letters, digits, '_', '.' or '-'`);
    }
    if (options.layers.length === 0) throw new SandboxError("ERR_SANDBOX_SPEC", `container ${id} has no layers`);
    const rootPath = containerRoot(id);
    const { spec, mounts, sandboxPidns } = constrainSpec(options.spec, { bundle: options.bundle, rootPath });
    const { volumes = LOCAL_VOLUMES } = options;
    const plan = await planMounts(mounts, { sandboxId: this.id, containerId: id, unique: () => toHex(this.#random.bytes(8)), volumes });
    if (plan.dropped.length > 0) {
      this.#logger.log("warn", "mounts of sockets, pipes and devices do not reach the guest", { container: id, destinations: plan.dropped.join(" ") });
    }
    // In the order of the storages, so that the slots ascend with them.
    const layers: AttachedLayer[] = [];
    for (const layer of options.layers.toReversed()) layers.unshift({ ...layer, ...(await this.#attach(layer.path)) });
    for (const { source, target } of plan.copies) {
      const send = async (request: CopyFileInit): Promise<void> => void (await this.#client.call(AgentService.method.copyFile, request));
      await copyFiles(source, target, send, (path) => volumes.owner(path));
    }
    await this.#client.call(
      AgentService.method.createContainer,
      {
        containerId: id,
        execId: id,
        storages: [...rootStorages(layers, rootPath), ...plan.storages],
        OCI: { ...spec, Mounts: plan.mounts.map((mount) => ({ ...mount, options: [...mount.options] })) },
        sandboxPidns,
      },
      CREATE_CONTAINER_LIMIT,
    );
    return new Container(this.#client, id, spec.Process?.Terminal ?? false, this.#logger);
  }

  /** Ends everything in the guest and the machine; resolves when nothing is left, whatever the agent says. */
  async destroy(): Promise<void> {
    try {
      await this.#client.call(AgentService.method.destroySandbox, {}, DESTROY_LIMIT);
    } catch (error) {
      this.#logger.log("warn", "the agent did not end the sandbox; the machine is stopped", { sandbox: this.id, error: messageOf(error) });
    }
    await this.machine.stop();
    this.#client.close();
  }

  async #attach(path: string): Promise<{ readonly source: string }> {
    const disk = this.#disks.get(path) ?? this.machine.attachDisk(path);
    this.#disks.set(path, disk);
    try {
      return await disk;
    } catch (error) {
      this.#disks.delete(path);
      throw error;
    }
  }
}

/** A container in the guest. */
export class Container {
  readonly id: string;
  readonly #client: AgentClient;
  readonly #terminal: boolean;
  readonly #logger: Logger;

  constructor(client: AgentClient, id: string, terminal: boolean, logger: Logger) {
    this.id = id;
    this.#client = client;
    this.#terminal = terminal;
    this.#logger = logger;
  }

  /** Lets the container's process run. */
  async start(output: ProcessOutput = {}): Promise<GuestProcess> {
    await this.#client.call(AgentService.method.startContainer, { containerId: this.id });
    return new GuestProcess(this.#client, { containerId: this.id, execId: this.id, terminal: this.#terminal }, output, this.#logger);
  }

  /** Starts another process in the container. */
  async exec(options: ExecOptions): Promise<GuestProcess> {
    const { execId } = options;
    const process = execProcess(options.process);
    await this.#client.call(AgentService.method.execProcess, { containerId: this.id, execId, process });
    return new GuestProcess(this.#client, { containerId: this.id, execId, terminal: process.Terminal ?? false }, options, this.#logger);
  }

  /** Sends a signal to the container; with SIGKILL (9) all of its processes get it. */
  async signal(signal: number): Promise<void> {
    await this.#client.call(AgentService.method.signalProcess, { containerId: this.id, execId: "", signal });
  }

  /** Ends what still runs in the container and removes it from the guest. */
  async remove(): Promise<void> {
    await this.#client.call(AgentService.method.removeContainer, { containerId: this.id });
  }
}
