import { join } from "node:path";
import { mkdir, rm } from "node:fs/promises";
import { availableParallelism, totalmem } from "node:os";
import { newUuid, silentLogger, type ByteSink, type Clock, type Logger, type Random } from "@sealpod/core";
import { firstPod, planPod, writeHostFiles, type PlannedContainer, type PodImage, type PodPlan, type WebhookVersion } from "@sealpod/kubelet";
import type { ImageSource } from "@sealpod/oci";
import { PspClient } from "@sealpod/psp";
import {
  AKS_SIZING,
  createSandbox,
  machineSize,
  prepareImage,
  workloadLimits,
  type Container,
  type ContainerLayer,
  type GuestProcess,
  type HostVolumes,
  type Sandbox,
} from "@sealpod/sandbox";
import { requestServiceAccountToken, type Up } from "@sealpod/services";
import { GUEST_ADDRESS, type GuestSource, type MachineEvent, type MachineExit, type VmmDriver } from "@sealpod/vmm";
import { PodError } from "./errors.ts";
import { imageUsers } from "./image-users.ts";
import type { PodManifest } from "./manifest.ts";

/** The host's loopback address as the guest sees it through slirp. */
const HOST_FROM_GUEST = "10.0.2.2";

/** Audience of a token that names none: the API server's own. */
const API_AUDIENCE = "https://kubernetes.default.svc";

/** Bytes of the disk that pods may be told of: there is no quota. */
const EPHEMERAL_STORAGE = "10Gi";

/** Image of the sandbox container; genpolicy's settings name the same. */
export const PAUSE_IMAGE = "sealpod.internal/pause:1";

/** Options of {@link startPod}. */
export interface PodOptions {
  readonly manifest: PodManifest;
  readonly images: ImageSource;
  readonly up: Up;
  readonly driver: VmmDriver;
  readonly guest: GuestSource;
  /** False leaves the containers' CPU limits out: for an emulated processor, of which 60m are not enough to start a program in a minute. */
  readonly cpuLimits?: boolean;
  /** Told of what happens to the machine while it runs. */
  readonly onEvent?: (event: MachineEvent) => void;
  /** Pod's own directory; it must not exist. Sockets bound its length to 80 bytes. */
  readonly directory: string;
  /** Cache of layer files. */
  readonly layerDirectory: string;
  /** Version of the workload-identity webhook of the cluster; that of kubelet's preset when absent. */
  readonly webhook?: WebhookVersion;
  /** Gets what containers write. */
  readonly output?: (container: string, stream: "stdout" | "stderr", bytes: Uint8Array) => void;
  /** Told about each step, for progress. */
  readonly progress?: (message: string) => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger?: Logger;
}

/** A container that was created. */
export interface PodContainerHandle {
  readonly name: string;
  readonly plan: PlannedContainer;
  readonly container: Container;
  readonly process: GuestProcess;
}

/** A pod planned and its sandbox started; no container has been created. */
export interface PreparedPod {
  readonly manifest: PodManifest;
  readonly plan: PodPlan;
  readonly sandbox: Sandbox;
  /** Layers of each image, bottom first. */
  readonly layers: ReadonlyMap<string, readonly ContainerLayer[]>;
  /** Creates and starts one container of the plan. */
  start(container: PlannedContainer): Promise<PodContainerHandle>;
  /** Ends the sandbox and removes the pod's directory. */
  stop(): Promise<void>;
}

/** A running pod. */
export interface RunningPod {
  readonly plan: PodPlan;
  readonly manifest: PodManifest;
  readonly sandbox: Sandbox;
  /** In the order of the manifest, init containers left out. */
  readonly containers: readonly PodContainerHandle[];
  /** Resolves when the sandbox is gone. */
  readonly exited: Promise<MachineExit>;
  stop(): Promise<void>;
}

/**
 * Plans a pod and starts its sandbox: images, layers, host files, machine, SetPolicy, CreateSandbox.
 * @throws {PodError}, and the errors of kubelet, sandbox, vmm, oci and services
 */
export async function preparePod(options: PodOptions): Promise<PreparedPod> {
  const { manifest, driver, up, random, progress = () => undefined, logger = silentLogger } = options;
  await driver.probe();
  const references = new Set([
    PAUSE_IMAGE,
    ...manifest.workload.template.spec.initContainers.map((item) => item.image),
    ...manifest.workload.template.spec.containers.map((item) => item.image),
  ]);
  const images = new Map<string, PodImage>();
  const layers = new Map<string, readonly ContainerLayer[]>();
  for (const reference of references) {
    progress(`layers of ${reference}`);
    const image = await options.images.resolve(reference);
    images.set(reference, { config: image.config, ...(await imageUsers(options.layerDirectory, options.images, image)) });
    layers.set(reference, await prepareImage(options.layerDirectory, options.images, image, manifest.layerFormat));
  }
  const plan = await planOf(options, images);
  for (const note of plan.notes) progress(note);
  await mkdir(options.directory, { recursive: true, mode: 0o700 });
  try {
    progress("host files");
    await writeHostFiles(plan.files, join(options.directory, "host"));
    progress("sandbox");
    const size = machineSize(workloadLimits(plan.sandbox.spec.annotations), AKS_SIZING);
    const sandbox = await createSandbox({
      id: plan.sandbox.id,
      driver,
      machine: {
        runDirectory: join(options.directory, "vm"),
        guest: options.guest,
        launch: new PspClient(up.sockets.psp),
        memoryMiB: size.memoryMiB,
        vcpus: size.vcpus,
        ...(options.onEvent === undefined ? {} : { onEvent: options.onEvent }),
      },
      policy: manifest.policy,
      hostname: plan.hostname,
      random,
      logger,
    });
    const volumes = hostVolumesOf(plan);
    const stop = async (): Promise<void> => {
      await sandbox.destroy();
      await rm(options.directory, { recursive: true, force: true });
    };
    const start = async (planned: PlannedContainer): Promise<PodContainerHandle> => {
      progress(`container ${planned.name}`);
      const { id, bundle } = planned;
      const spec = options.cpuLimits === false ? withoutCpuLimits(planned.spec) : planned.spec;
      const container = await sandbox.createContainer({ id, spec, bundle, layers: layers.get(planned.image) ?? [], volumes });
      const sink = (stream: "stdout" | "stderr"): ByteSink => ({ write: async (bytes) => options.output?.(planned.name, stream, bytes) });
      const process = await container.start({ stdout: sink("stdout"), stderr: sink("stderr") });
      return { name: planned.name, plan: planned, container, process };
    };
    return { manifest, plan, sandbox, layers, start, stop };
  } catch (error) {
    await rm(options.directory, { recursive: true, force: true });
    throw error;
  }
}

function withoutCpuLimits(spec: PlannedContainer["spec"]): PlannedContainer["spec"] {
  const { resources } = spec.linux;
  // Shares stay: they say how containers divide the processor, not how little of it they may use.
  return { ...spec, linux: { ...spec.linux, resources: { ...resources, cpu: { shares: resources.cpu.shares } } } };
}

/**
 * Starts all of a pod: the sandbox container, the init containers, each when the one before has ended (a sidecar: has started), then the
 * containers.
 * @throws {PodError} ERR_POD_START if an init container fails, and everything that {@link preparePod} throws
 */
export async function startPod(options: PodOptions): Promise<RunningPod> {
  const prepared = await preparePod(options);
  const { plan, sandbox, manifest } = prepared;
  const stop = async (): Promise<void> => prepared.stop();
  try {
    await prepared.start(plan.sandbox);
    for (const planned of plan.initContainers) {
      const { process, container } = await prepared.start(planned);
      if (planned.sidecar === true) continue;
      const status = await process.exited;
      await container.remove();
      if (status !== 0) throw new PodError("ERR_POD_START", `init container ${planned.name} ended with exit code ${status}`);
    }
    const containers: PodContainerHandle[] = [];
    for (const planned of plan.containers) containers.push(await prepared.start(planned));
    return { plan, manifest, sandbox, containers, exited: sandbox.exited, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function planOf(options: PodOptions, images: ReadonlyMap<string, PodImage>): Promise<PodPlan> {
  const { manifest, up, random, clock } = options;
  const { owner, namespace } = manifest;
  const uid = newUuid(random);
  const { name, template } = firstPod(owner, random);
  const serviceAccount = template.spec.serviceAccountName ?? "default";
  const pause = images.get(PAUSE_IMAGE);
  if (pause === undefined) throw new PodError("ERR_POD_START", `image ${PAUSE_IMAGE} was not resolved`);
  const serviceNames = [up.endpoints.attestation, up.endpoints.vault, up.endpoints.keyvault, up.endpoints.kbs, new URL(up.endpoints.authority).host].map(
    (host) => host.replace(/:\d+$/, ""),
  );
  return planPod(template, {
    name,
    namespace,
    uid,
    nodeName: "laptop",
    hostIps: [HOST_FROM_GUEST],
    podIps: [GUEST_ADDRESS],
    nodeMemory: totalmem(),
    allocatable: { cpu: availableParallelism(), memory: totalmem(), "ephemeral-storage": EPHEMERAL_STORAGE },
    clusterDomain: "cluster.local",
    caCertificate: up.caCertificate,
    requestToken: async ({ audience, expirationSeconds }) =>
      requestServiceAccountToken(up.sockets.kube, {
        namespace,
        serviceAccount,
        audiences: [audience === "" ? API_AUDIENCE : audience],
        pod: { name, uid },
        expirationSeconds,
      }),
    workloadIdentity: {
      clientId: up.workload.clientId,
      tenantId: up.tenantId,
      authorityHost: `${up.endpoints.authority}/`,
      ...(options.webhook === undefined ? {} : { webhook: options.webhook }),
    },
    hosts: [{ ip: HOST_FROM_GUEST, names: serviceNames }],
    resolvConf: "# No DNS in this sandbox: the laptop's services are in /etc/hosts.\n",
    runDirectory: join(options.directory, "host"),
    pauseImage: { reference: PAUSE_IMAGE, ...pause },
    images,
    configMaps: manifest.configMaps,
    secrets: manifest.secrets,
    sandboxPid: 1,
    clock,
    random,
  });
}

/**
 * What the shim would read off the node's files: their owners, and which directories are a tmpfs. Here they belong to whoever runs the
 * laptop, who may neither give files away nor mount.
 */
export function hostVolumesOf(plan: PodPlan): HostVolumes {
  const owners = new Map(plan.files.map((file) => [file.path, { uid: 0, gid: file.kind === "symlink" ? 0 : (file.gid ?? 0) }]));
  return { owner: (path) => owners.get(path), isTmpfs: async (path) => plan.memoryDirectories.has(path) };
}
