import { encodeUtf8, messageOf, sha256, silentLogger, toHex, type Logger, type Random } from "@sealpod/core";
import { AgentService, Health, HealthCheckResponse_ServingStatus, type StatsContainerResponse } from "@sealpod/proto";
import { MachineConsole, type Machine, type MachineConfig, type MachineExit, type VmmDriver } from "@sealpod/vmm";
import { AgentClient } from "./agent-client.ts";
import { SandboxError } from "./errors.ts";
import { GuestProcess, type ProcessOutput } from "./guest-process.ts";
import { AKS_LAYOUT, type GuestLayout } from "./guest-paths.ts";
import { type HostVolumes, LOCAL_VOLUMES, type MountPlan, planMounts } from "./mounts.ts";
import { configureNetwork, driverNetwork, type GuestNetwork } from "./network.ts";
import { type ConstrainedSpec, constrainSpec, execProcess, updatedResources } from "./spec.ts";
import { rootStorages, shmStorage, type AttachedLayer, type ContainerLayer } from "./storages.ts";
import { copyVolume, type VolumeCopy, type VolumeWatch, watchVolume } from "./volume-watch.ts";

/** Milliseconds for the first answer of an agent that listens already (specs/runtime.md 4.1). */
const HEALTH_LIMIT = 30_000;

/** Milliseconds for CreateContainer where the caller names none, ten minutes: an agent without device mapper reads and checks every byte of the image's layers in it. */
const CREATE_CONTAINER_LIMIT = 600_000;

/** Milliseconds for DestroySandbox; after it the machine is ended anyhow. */
const DESTROY_LIMIT = 10_000;

/** Exec id by which SignalProcess means all of a container's processes, if the signal is SIGKILL (specs/runtime.md 2.6). */
const ALL_PROCESSES = "";

/** What the caller says of the machine; the rest follows from the sandbox. */
export type SandboxMachine = Omit<MachineConfig, "id" | "hostData" | "initdata">;

/** The document by which a pod of the second generation brings its policy. */
export interface SandboxInitdata {
  /** The disk: a file on the host (specs/runtime.md 3.6). */
  readonly path: string;
  /** Digest of the document, cut or filled with zeros to 32 bytes. */
  readonly hostData: Uint8Array;
}

/** Options of {@link createSandbox}. */
export interface SandboxOptions {
  /** 64 lower-case hex digits in practice; also the machine's id, and that of the pod's first container. */
  readonly id: string;
  readonly driver: VmmDriver;
  readonly machine: SandboxMachine;
  /** Text of the policy. Its SHA-256 becomes HOST_DATA. Without one, and without initdata, HOST_DATA is zero and the agent keeps the policy of its image. */
  readonly policy?: string;
  /** Instead of a policy. */
  readonly initdata?: SandboxInitdata;
  /** Default {@link AKS_LAYOUT}. */
  readonly layout?: GuestLayout;
  /** What the guest's interfaces are given; else what the driver of the machine says. */
  readonly network?: GuestNetwork;
  readonly hostname: string;
  /** Lines of resolv.conf. */
  readonly dns?: readonly string[];
  /** Makes a file for the disk of the emptyDir at a path of the host, and gives its path. Without it emptyDirs are memory of the guest. */
  readonly makeDisk?: (emptyDir: string) => Promise<string>;
  /** Milliseconds for CreateContainer; default ten minutes. */
  readonly createContainerLimitMs?: number;
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
 * @throws {SandboxError} ERR_SANDBOX_POLICY if the agent does not take the policy, ERR_SANDBOX_SPEC, ERR_SANDBOX_DENIED and others
 */
export async function createSandbox(options: SandboxOptions): Promise<Sandbox> {
  const { id, driver, policy, initdata } = options;
  if (policy !== undefined && initdata !== undefined) {
    throw new SandboxError("ERR_SANDBOX_SPEC", "the sandbox has a policy and initdata: HOST_DATA can name one of them");
  }
  const words = new MachineConsole();
  const { console } = options.machine;
  const machine = await driver.start({
    ...options.machine,
    console(bytes) {
      words.push(bytes);
      console?.(bytes);
    },
    id,
    ...(initdata === undefined ? {} : { initdata: initdata.path }),
    hostData: initdata?.hostData ?? policyHostData(policy),
  });
  try {
    const client = new AgentClient(await machine.connectAgent());
    const { status } = await client.call(Health.method.check, {}, HEALTH_LIMIT);
    if (status !== HealthCheckResponse_ServingStatus.SERVING)
      throw new SandboxError("ERR_SANDBOX_AGENT", `the agent's health is ${status}, expected 1 (SERVING)`);
    if (policy !== undefined) await setPolicy(client, policy);
    await configureNetwork(client, options.network ?? driverNetwork(machine.guestNetwork));
    await client.call(AgentService.method.createSandbox, {
      sandboxId: id,
      hostname: options.hostname,
      dns: [...(options.dns ?? [])],
      storages: [shmStorage()],
    });
    return new Sandbox(machine, client, options);
  } catch (error) {
    await machine.stop();
    throw withLastWords(error, words.tail);
  }
}

/** An agent that refuses to begin (its initdata are not those of the launch, for example) ends, and all that the host sees of it is its last line. */
function withLastWords(error: unknown, printed: string): unknown {
  if (!(error instanceof SandboxError) || error.code !== "ERR_SANDBOX_CLOSED") return error;
  const last = [...printed.matchAll(/sealpod-agent: (.{1,1000})$/gm)].at(-1)?.[1];
  if (last === undefined) return error;
  return new SandboxError("ERR_SANDBOX_CLOSED", `${error.message}; the guest's last words: ${last}`, { cause: error, details: error.details });
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
  readonly #options: SandboxOptions;
  readonly #logger: Logger;
  /** Disks by layer file or emptyDir: containers that share one share its disk. */
  readonly #disks = new Map<string, Promise<{ readonly source: string }>>();
  readonly #watches = new Set<VolumeWatch>();

  constructor(machine: Machine, client: AgentClient, options: SandboxOptions) {
    this.machine = machine;
    this.exited = machine.exited;
    this.#client = client;
    this.#options = options;
    this.#logger = options.logger ?? silentLogger;
  }

  get id(): string {
    return this.machine.id;
  }

  /**
   * Makes a container; its process waits for {@link Container.start}. Volumes that the kubelet changes are followed until it is removed.
   * @throws {SandboxError} ERR_SANDBOX_SPEC, ERR_SANDBOX_FILES before the agent is asked; ERR_SANDBOX_DENIED and others
   * @throws {VmmError} ERR_VMM_DISK
   */
  async createContainer(options: ContainerOptions): Promise<Container> {
    const { id } = options;
    if (!/^[A-Za-z0-9][A-Za-z0-9_.-]{1,127}$/.test(id)) {
      throw new SandboxError("ERR_SANDBOX_SPEC", `container id ${JSON.stringify(id.slice(0, 200))} is not 2 to 128 letters, digits, '_', '.' or '-'`);
    }
    if (options.layers.length === 0) throw new SandboxError("ERR_SANDBOX_SPEC", `container ${id} has no layers`);
    const { layout = AKS_LAYOUT, makeDisk, random } = this.#options;
    const rootPath = layout.root(id);
    const { spec, mounts, sandboxPidns } = constrainSpec(options.spec, { bundle: options.bundle, rootPath });
    const { volumes = LOCAL_VOLUMES } = options;
    const plan = await planMounts(mounts, {
      sandboxId: this.id,
      containerId: id,
      unique: () => toHex(random.bytes(8)),
      volumes,
      layout,
      ...(makeDisk === undefined ? {} : { attachDisk: async (emptyDir) => (await this.#attachScratch(emptyDir, makeDisk)).source }),
    });
    if (plan.dropped.length > 0) {
      this.#logger.log("warn", "mounts of sockets, pipes and devices do not reach the guest", { container: id, destinations: plan.dropped.join(" ") });
    }
    const copy: VolumeCopy = {
      send: async (request) => void (await this.#client.call(AgentService.method.copyFile, request)),
      ownerOf: (path) => volumes.owner(path),
      logger: this.#logger,
    };
    // Disks appear in the guest and files are written there at the same time: neither needs the other.
    const [layers, copied] = await Promise.all([
      this.#attachLayers(options.layers),
      Promise.all(plan.copies.map(async ({ source, target }) => ({ source, target, volume: await copyVolume(source, target, copy) }))),
    ]);
    await this.#request(id, spec, { layers, rootPath, plan, sandboxPidns });
    const watches = copied.map(({ source, target, volume }) => watchVolume(source, target, copy, volume));
    for (const watch of watches) this.#watches.add(watch);
    return new Container(this.#client, { id, terminal: spec.Process?.Terminal ?? false, logger: this.#logger, removed: () => this.#close(watches) });
  }

  async #request(
    id: string,
    spec: ConstrainedSpec["spec"],
    { layers, rootPath, plan, sandboxPidns }: { layers: readonly AttachedLayer[]; rootPath: string; plan: MountPlan; sandboxPidns: boolean },
  ): Promise<void> {
    try {
      await this.#client.call(
        AgentService.method.createContainer,
        {
          containerId: id,
          execId: id,
          storages: [...rootStorages(layers, rootPath), ...plan.storages],
          OCI: { ...spec, Mounts: plan.mounts.map((mount) => ({ ...mount, options: [...mount.options] })) },
          sandboxPidns,
        },
        this.#options.createContainerLimitMs ?? CREATE_CONTAINER_LIMIT,
      );
    } catch (error) {
      // The policy has allowed it, and takes the container for one that is there: the next try would be refused as a second one of its name.
      if (error instanceof SandboxError && error.code === "ERR_SANDBOX_AGENT" && error.details["status"] !== "ALREADY_EXISTS")
        await this.#client.call(AgentService.method.removeContainer, { containerId: id }).catch(() => undefined);
      throw error;
    }
  }

  /**
   * The id of the next container one of whose processes the guest's kernel ended for want of memory. There is no limit but the end of the guest.
   * @throws {SandboxError} ERR_SANDBOX_CLOSED, ERR_SANDBOX_DENIED, and ERR_SANDBOX_AGENT once the sandbox has ended
   */
  async nextOutOfMemory(): Promise<string> {
    return (await this.#client.poll(AgentService.method.getOOMEvent, {})).containerId;
  }

  /** Ends everything in the guest and the machine; resolves when nothing is left, whatever the agent says. */
  async destroy(): Promise<void> {
    await this.#close([...this.#watches]);
    try {
      await this.#client.call(AgentService.method.destroySandbox, {}, DESTROY_LIMIT);
    } catch (error) {
      this.#logger.log("warn", "the agent did not end the sandbox; the machine is stopped", { sandbox: this.id, error: messageOf(error) });
    }
    await this.machine.stop();
    this.#client.close();
  }

  async #close(watches: readonly VolumeWatch[]): Promise<void> {
    for (const watch of watches) this.#watches.delete(watch);
    await Promise.all(watches.map((watch) => watch.close()));
  }

  async #attachLayers(layers: readonly ContainerLayer[]): Promise<readonly AttachedLayer[]> {
    const attached: AttachedLayer[] = [];
    // In the order of the storages, so that the slots ascend with them.
    for (const layer of layers.toReversed()) {
      const { path } = layer;
      attached.unshift({ ...layer, ...(await this.#attached(path, () => this.machine.attachDisk(path))) });
    }
    return attached;
  }

  async #attachScratch(emptyDir: string, makeDisk: (emptyDir: string) => Promise<string>): Promise<{ readonly source: string }> {
    return this.#attached(emptyDir, async () => this.machine.attachDisk(await makeDisk(emptyDir), { readonly: false }));
  }

  async #attached(path: string, attach: () => Promise<{ readonly source: string }>): Promise<{ readonly source: string }> {
    const disk = this.#disks.get(path) ?? attach();
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
  readonly #removed: () => Promise<void>;

  constructor(client: AgentClient, { id, terminal, logger, removed }: { id: string; terminal: boolean; logger: Logger; removed: () => Promise<void> }) {
    this.id = id;
    this.#client = client;
    this.#terminal = terminal;
    this.#logger = logger;
    this.#removed = removed;
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

  /**
   * Sends a signal to the container.
   * @param all to all of its processes, which the guest does for SIGKILL (9) only; else to its first one
   */
  async signal(signal: number, all = true): Promise<void> {
    await this.#client.call(AgentService.method.signalProcess, { containerId: this.id, execId: all ? ALL_PROCESSES : this.id, signal });
  }

  /** Halts all processes. Generated policies do not allow it. */
  async pause(): Promise<void> {
    await this.#client.call(AgentService.method.pauseContainer, { containerId: this.id });
  }

  /** Lets halted processes go on. Generated policies do not allow it. */
  async resume(): Promise<void> {
    await this.#client.call(AgentService.method.resumeContainer, { containerId: this.id });
  }

  /**
   * Sets other limits; the machine itself does not grow. Generated policies do not allow it.
   * @param resources the `linux.resources` of an OCI runtime specification, as parsed JSON
   * @throws {SandboxError} ERR_SANDBOX_SPEC, ERR_SANDBOX_DENIED and others
   */
  async update(resources: unknown): Promise<void> {
    await this.#client.call(AgentService.method.updateContainer, { containerId: this.id, resources: updatedResources(resources) });
  }

  /** What the container uses. The network is the pod's and not in it. */
  async stats(): Promise<StatsContainerResponse> {
    return this.#client.call(AgentService.method.statsContainer, { containerId: this.id });
  }

  /** Ends what still runs in the container and removes it from the guest. */
  async remove(): Promise<void> {
    await this.#removed();
    await this.#client.call(AgentService.method.removeContainer, { containerId: this.id });
  }
}
