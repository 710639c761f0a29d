import { rm } from "node:fs/promises";
import { join } from "node:path";
import { asObject, type JsonValue, type Logger, messageOf, type Random } from "@sealpod/core";
import type { StatsContainerResponse } from "@sealpod/proto";
import {
  type Container,
  type ContainerLayer,
  createSandbox,
  type GuestNetwork,
  type GuestProcess,
  type HostCapacity,
  type HostVolumes,
  type LayerFormat,
  type ProcessOutput,
  type Sandbox,
  SandboxError,
} from "@sealpod/sandbox";
import type { MachineExit, NetworkConfig } from "@sealpod/vmm";
import { type Bundle, readBundle, readDns } from "./bundle.ts";
import type { ShimConfig } from "./config.ts";
import { MACHINE_DIRECTORY } from "./delete.ts";
import { makeEmptyDirDisk, removeEmptyDirDisk } from "./empty-dir-disk.ts";
import { ShimError } from "./errors.ts";
import { guestSpec, policyBundle, withoutCpuQuota } from "./guest-spec.ts";
import { writeInitdataImage } from "./initdata.ts";
import { hostCapacity, type PodMachine } from "./machine.ts";
import type { ContainerRequest, Pod, PodContainer, PodOpener } from "./pod.ts";
import { oomScoreOf } from "./pod-cgroup-score.ts";
import { podConfig, type PodConfig } from "./pod-config.ts";

/** Where the layers of containers come from. */
export interface PodImages {
  /** Layers of a container's image as files, bottom first. */
  layersOf(containerId: string, annotations: Readonly<Record<string, string>>, format: LayerFormat): Promise<readonly ContainerLayer[]>;
}

/** The network of a pod, joined to its machine. */
export interface PodNetwork {
  /** What the machine is given. */
  readonly network: NetworkConfig;
  /** What the guest is told of it; undefined if it finds it as it is. */
  readonly guest?: GuestNetwork;
  /** Undoes it; after the machine has ended. */
  remove(): Promise<void>;
}

/** Which network a pod has. */
export interface PodNetworkRequest {
  /** Path of the pod's network namespace. */
  readonly namespace: string;
  readonly portForward: boolean;
}

/** What a pod's processes count as on its node. */
export interface PodAccount {
  /** A container is about to be made: how readily the kernel is to end it when memory is short, if its specification says. */
  addContainer(score: number | undefined, machine: number): Promise<void>;
  /** The shim counts as itself again; when the machine has ended. */
  leave(): Promise<void>;
}

/** What pods are made with. */
export interface PodOpenerOptions {
  /** The node's configuration; `path` is that of containerd's runtime options. */
  readonly config: (path: string | undefined) => Promise<ShimConfig>;
  readonly images: (config: ShimConfig) => PodImages | Promise<PodImages>;
  readonly network: (request: PodNetworkRequest) => Promise<PodNetwork>;
  readonly machine: (config: ShimConfig) => Promise<PodMachine>;
  /** Makes the pod's directory, empty, after writing down what may come into being: the machine's directory in it, and devices in the network namespace. */
  readonly prepare: (request: { readonly runDirectory: string; readonly namespace: string | undefined }) => Promise<string>;
  /** Called before the machine starts, after {@link prepare}. Default: nothing is done. */
  readonly account?: (bundle: Bundle, config: ShimConfig) => Promise<PodAccount>;
  /** Default: what /proc says. */
  readonly capacity?: () => Promise<HostCapacity>;
  /** What the files of volumes do not show; default: nothing. */
  readonly volumes?: HostVolumes;
  readonly random: Random;
  readonly logger: Logger;
}

const INITDATA_FILE = "initdata.img";

/** There is nothing to undo. */
const nothing = (): Promise<void> => Promise.resolve();

const NO_NETWORK: PodNetwork = { network: { kind: "none" }, remove: nothing };

/** Makes pods of bundles of containerd: a machine of the right size under the pod's policy, and the sandbox in it. */
export function createPodOpener(options: PodOpenerOptions): PodOpener {
  return { open: (request, configPath) => openPod(options, request, configPath) };
}

async function openPod(options: PodOpenerOptions, request: ContainerRequest, configPath: string | undefined): Promise<Pod> {
  const { random, logger } = options;
  const bundle = await readBundle(request.id, request.bundle);
  const config = await options.config(configPath);
  const machine = await options.machine(config);
  // Processes have no size, so there is nothing that may not fit.
  const capacity = machine.isolation === "process" ? undefined : await (options.capacity ?? hostCapacity)();
  const pod = podConfig(bundle, config, capacity, logger);
  if (pod.policy.kind === "initdata" && machine.isolation === "process") {
    throw new ShimError("ERR_SHIM_POD", "the pod brings initdata, which is a disk, and pods of this node are processes without disks", {
      hint: 'Set isolation to "auto" or "vm" in the node\'s configuration, or generate the policy with --profile aks.',
    });
  }
  const dns = await readDns(bundle);
  const images = await options.images(config);
  const layersOf = (of: Bundle): Promise<readonly ContainerLayer[]> => images.layersOf(of.id, Object.fromEntries(of.annotations), pod.hints.layerFormat);
  // The image is prepared while the machine boots.
  const firstLayers = layersOf(bundle);
  firstLayers.catch(() => undefined);

  // What is put on the stack is taken back in reverse order, now if the start fails, else when the machine has ended.
  await using stack = new AsyncDisposableStack();
  const namespace = bundle.network.kind === "path" ? bundle.network.path : undefined;
  const directory = await options.prepare({ runDirectory: config.runDirectory, namespace });
  const account = await options.account?.(bundle, config);
  stack.defer(async () => account?.leave());
  const network = await joinNetwork(bundle, config, machine, options);
  stack.defer(() => network.remove());
  const disks = new Set<string>();
  stack.defer(async () => void (await Promise.all([...disks].map((path) => removeEmptyDirDisk(path)))));
  const makeDisk = async (emptyDir: string): Promise<string> => {
    const path = await makeEmptyDirDisk(emptyDir);
    disks.add(path);
    return path;
  };
  const initdataPath = join(directory, INITDATA_FILE);
  if (pod.policy.kind === "initdata") {
    stack.defer(() => rm(initdataPath, { force: true }));
    await writeInitdataImage(initdataPath, pod.policy.initdata);
  }
  const hostname = bundle.spec["hostname"];
  const sandbox = await explainingNoPolicy(pod, () =>
    createSandbox({
      id: bundle.id,
      driver: machine.driver,
      machine: {
        runDirectory: join(directory, MACHINE_DIRECTORY),
        guest: machine.guest,
        launch: machine.launch,
        network: network.network,
        memoryMiB: pod.size.memoryMiB,
        vcpus: pod.size.vcpus,
        onEvent: (event) => logger.log("error", "the machine says", { kind: event.kind, text: event.text }),
      },
      ...(pod.policy.kind === "policy" ? { policy: pod.policy.text } : {}),
      ...(pod.policy.kind === "initdata" ? { initdata: { path: initdataPath, hostData: pod.policy.initdata.hostData } } : {}),
      layout: pod.layout,
      ...(network.guest === undefined ? {} : { network: network.guest }),
      hostname: typeof hostname === "string" ? hostname : "",
      dns,
      ...(pod.encryptedEmptyDir ? { makeDisk } : {}),
      createContainerLimitMs: config.createContainerTimeoutMs,
      random,
      logger,
    }),
  );
  const withoutCpuLimit = config.containerCpuLimits === "never" || (config.containerCpuLimits === "auto" && machine.emulated);
  const first = { request, bundle, layers: firstLayers };
  return new MachinePod({ sandbox, pod, first, layersOf, withoutCpuLimit, account, volumes: options.volumes, logger }, stack.move());
}

async function joinNetwork(bundle: Bundle, config: ShimConfig, machine: PodMachine, options: PodOpenerOptions): Promise<PodNetwork> {
  if (machine.isolation === "process") return processNetwork(bundle, config);
  if (config.network === "none" || bundle.network.kind !== "path") return NO_NETWORK;
  const namespace = bundle.network.path;
  return options.network({ namespace, portForward: config.portForward });
}

/** A process is simply in the pod's network, as its containers would be without this shim. Its driver has no way to give it none. */
function processNetwork({ network }: Bundle, config: ShimConfig): PodNetwork {
  if (config.network === "none") {
    throw new ShimError("ERR_SHIM_CONFIG", 'network is "none", and pods of this node are processes, which always have one', {
      hint: 'Set network to "tcfilter", or isolation to "vm".',
    });
  }
  return { network: network.kind === "path" ? { kind: "namespace", namespace: network.path } : { kind: "user" }, remove: nothing };
}

/** A guest without a policy of its own denies everything, which says little to whoever forgot the annotation, or did not let it through. */
async function explainingNoPolicy(pod: PodConfig, act: () => Promise<Sandbox>): Promise<Sandbox> {
  try {
    return await act();
  } catch (cause) {
    if (pod.policy.kind !== "none" || !(cause instanceof SandboxError) || cause.code !== "ERR_SANDBOX_DENIED") throw cause;
    throw new ShimError("ERR_SHIM_POD", `the pod has no policy, and the guest's own one allows nothing: ${cause.message}`, {
      cause,
      hint: 'Generate one (sealpod genpolicy), and let containerd pass it on: pod_annotations = ["io.katacontainers.*"] of this runtime in its configuration.',
    });
  }
}

interface PodParts {
  readonly sandbox: Sandbox;
  readonly pod: PodConfig;
  /** The container that the pod was made for. */
  readonly first: { readonly request: ContainerRequest; readonly bundle: Bundle; readonly layers: Promise<readonly ContainerLayer[]> };
  readonly layersOf: (bundle: Bundle) => Promise<readonly ContainerLayer[]>;
  readonly withoutCpuLimit: boolean;
  readonly account: PodAccount | undefined;
  readonly volumes: HostVolumes | undefined;
  readonly logger: Logger;
}

class MachinePod implements Pod {
  readonly pid: number;
  readonly exited: Promise<MachineExit>;
  readonly #parts: PodParts;
  /** Layers of the first container, until somebody has taken them. */
  #firstLayers: Promise<readonly ContainerLayer[]> | undefined;
  #stopping: Promise<void> | undefined;

  constructor(parts: PodParts, left: AsyncDisposableStack) {
    this.#parts = parts;
    this.#firstLayers = parts.first.layers;
    this.pid = parts.sandbox.machine.pid;
    this.exited = this.#cleanUp(left);
  }

  async createContainer(request: ContainerRequest): Promise<PodContainer> {
    const { sandbox, first, pod, layersOf, withoutCpuLimit, account, volumes } = this.#parts;
    const isFirst = request.id === first.request.id;
    const bundle = isFirst ? first.bundle : await readBundle(request.id, request.bundle);
    if (!isFirst) this.#checkMember(bundle);
    const prepared = isFirst ? this.#firstLayers : undefined;
    if (isFirst) this.#firstLayers = undefined;
    const layers = await (prepared ?? layersOf(bundle));
    // That of a sandbox says nothing: its process only sleeps.
    if (bundle.role.kind !== "sandbox") await account?.addContainer(oomScoreOf(bundle.spec), this.pid);
    const container = await sandbox.createContainer({
      id: bundle.id,
      spec: guestSpec(bundle, { ociVersion: pod.hints.ociVersion, withoutCpuLimit }),
      bundle: policyBundle(bundle),
      layers,
      ...(volumes === undefined ? {} : { volumes }),
    });
    return new GuestContainer(container, withoutCpuLimit);
  }

  nextOutOfMemory(): Promise<string> {
    return this.#parts.sandbox.nextOutOfMemory();
  }

  async stop(): Promise<void> {
    this.#stopping ??= this.#parts.sandbox.destroy();
    await this.#stopping;
    await this.exited;
  }

  async #cleanUp(left: AsyncDisposableStack): Promise<MachineExit> {
    const exit = await this.#parts.sandbox.exited;
    try {
      await left.disposeAsync();
    } catch (error) {
      this.#parts.logger.log("error", "a pod has ended but not all of it could be cleaned up", { pod: this.#parts.sandbox.id, error: messageOf(error) });
    }
    return exit;
  }

  /** containerd groups containers by what is in their annotations, and whoever may write those must not get into another's machine by mistake. */
  #checkMember({ id, role }: Bundle): void {
    const own = this.#parts.sandbox.id;
    if (role.kind === "container" && role.sandboxId === own && this.#parts.first.bundle.role.kind === "sandbox") return;
    throw new ShimError("ERR_SHIM_POD", `container ${id} is not one of pod ${own}`);
  }
}

class GuestContainer implements PodContainer {
  readonly id: string;
  readonly #container: Container;
  readonly #withoutCpuLimit: boolean;

  constructor(container: Container, withoutCpuLimit: boolean) {
    this.id = container.id;
    this.#container = container;
    this.#withoutCpuLimit = withoutCpuLimit;
  }

  start(output: ProcessOutput): Promise<GuestProcess> {
    return this.#container.start(output);
  }

  exec(execId: string, process: unknown, output: ProcessOutput): Promise<GuestProcess> {
    return this.#container.exec({ ...output, execId, process });
  }

  signal(signal: number, all: boolean): Promise<void> {
    return this.#container.signal(signal, all);
  }

  pause(): Promise<void> {
    return this.#container.pause();
  }

  resume(): Promise<void> {
    return this.#container.resume();
  }

  update(resources: unknown): Promise<void> {
    // What is left out at the start does not come back with another change: kubelet sends all limits each time.
    const object = this.#withoutCpuLimit ? asObject(resources as JsonValue) : undefined;
    return this.#container.update(object === undefined ? resources : withoutCpuQuota(object));
  }

  stats(): Promise<StatsContainerResponse> {
    return this.#container.stats();
  }

  remove(): Promise<void> {
    return this.#container.remove();
  }
}
