import { encodeUtf8, newUuid } from "@sealpod/core";
import { admit } from "./admission.ts";
import { containerCapabilities, defaultCapabilities } from "./capabilities.ts";
import type { HostFile, PlannedContainer, PodContext, PodImage, PodPlan } from "./context.ts";
import { kubeletVariables, processText } from "./environment.ts";
import { KubeletError } from "./errors.ts";
import { hostsFile, podHost, type PodHost } from "./hostname.ts";
import { besideMounts, CGROUP_MOUNT, cleanPath, DEFAULT_MOUNTS, mergeMounts } from "./mounts.ts";
import { newContainerId } from "./names.ts";
import type { PodContainer, PodTemplate } from "./pod.ts";
import { containerResources, oomScore, qosClass, sandboxResources, type QosClass } from "./resources.ts";
import type { RuntimeMount, RuntimeNamespace, RuntimeSpec } from "./runtime-spec.ts";
import { sysctlName } from "./support.ts";
import { containerUser, sandboxUser } from "./users.ts";
import { bind, hostVolumes, volumeMounts } from "./volumes.ts";

/** What containerd 1.7 writes; the `aks` policy compares it exactly. */
const OCI_VERSION = "1.1.0-rc.1";

/** Where containerd's shim v2 tasks of the CRI plugin have their bundles; the `aks` policy cuts this prefix off. */
const BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/** Annotations that reach the OCI spec: AKS' containerd has `pod_annotations = ["io.katacontainers.*"]`. */
const PASSED_ANNOTATIONS = "io.katacontainers.";

/** containerd's own lists, which stand for the sandbox. */
const SANDBOX_MASKED: readonly string[] = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
  "/sys/firmware",
  "/proc/scsi",
];
const SANDBOX_READONLY: readonly string[] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** kubelet's lists (procMount: Default), which it sends for each container. */
const CONTAINER_MASKED: readonly string[] = [
  "/proc/acpi",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/sys/firmware",
];
const CONTAINER_READONLY: readonly string[] = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/** kubelet's OOM score for the sandbox: only the node's own daemons die later. */
const SANDBOX_OOM_SCORE = -998;

/** Paths and ids that all containers of one pod share. */
interface PodPlace {
  readonly template: PodTemplate;
  readonly context: PodContext;
  readonly sandboxId: string;
  readonly host: PodHost;
  readonly networkNamespace: string;
  readonly podDirectory: string;
  readonly sandboxDirectory: string;
  readonly qos: QosClass;
}

/**
 * Plans a pod: the OCI spec of the sandbox and of each container as containerd 1.7 hands them to the shim, and the host
 * files that their bind mounts name. Nothing is written; see `writeHostFiles`.
 * @throws {KubeletError} every code but ERR_KUBELET_FILES, and what `requestToken` throws
 */
export async function planPod(manifest: PodTemplate, context: PodContext): Promise<PodPlan> {
  const template = admit(manifest, context);
  const { spec } = template;
  const sandboxId = newContainerId(context.random);
  const place: PodPlace = {
    template,
    context,
    sandboxId,
    host: podHost(spec, context),
    networkNamespace: `/var/run/netns/cni-${newUuid(context.random)}`,
    podDirectory: `${context.runDirectory}/pods/${context.uid}`,
    sandboxDirectory: `${context.runDirectory}/sandboxes/${sandboxId}`,
    qos: qosClass(template),
  };
  const volumes = await hostVolumes(template, context, place.podDirectory);
  const files = new FileList([...sharedFiles(place), ...[...volumes.values()].flatMap((volume) => volume.files)]);
  const notes = new Set(
    (spec.ephemeralContainers ?? []).map(({ name }) => `ephemeral container ${name} is not started: a running pod gets it by kubectl debug`),
  );
  const plan = (container: PodContainer): PlannedContainer => {
    const log = `${place.podDirectory}/containers/${container.name}/${newContainerId(context.random).slice(0, 8)}`;
    const variables = kubeletVariables(container, template, context);
    const own = volumeMounts(container, volumes, place.podDirectory, (name) => variables.get(name));
    files.add({ kind: "file", path: log, mode: 0o666, content: new Uint8Array() }, ...own.files);
    for (const name of own.parts)
      notes.add(`volume ${name}: a part of it is mounted: each container gets a copy of its own, as with other confidential runtimes`);
    const hosts = own.mounts.some((mount) => mount.destination === "/etc/hosts") ? [] : [bind("/etc/hosts", `${place.podDirectory}/etc-hosts`, false)];
    const termination = bind(container.terminationMessagePath ?? "/dev/termination-log", log, false);
    const kubeletMounts = [...own.mounts, ...hosts, termination];
    const image = context.images.get(container.image);
    if (image === undefined)
      throw new KubeletError("ERR_KUBELET_UNRESOLVED", `container ${container.name}: image ${container.image} is not in the image store`);
    const ofImage = imageVolumes(image.config.volumes ?? [], kubeletMounts, context);
    files.add(...ofImage.map(({ source }): HostFile => ({ kind: "directory", path: source, mode: 0o755 })));
    for (const { destination } of ofImage) {
      notes.add(`image ${container.image}: its volume ${destination} begins empty here; containerd would copy what the image has there`);
    }
    return planContainer(container, place, image, variables, kubeletMounts, ofImage);
  };
  const sandbox = planSandbox(place);
  const initContainers = (spec.initContainers ?? []).map((container) => ({ ...plan(container), sidecar: container.restartPolicy === "Always" }));
  const containers = spec.containers.map(plan);
  return {
    name: context.name,
    namespace: context.namespace,
    uid: context.uid,
    hostname: place.host.hostname,
    annotations: template.metadata?.annotations ?? {},
    sandbox,
    initContainers,
    containers,
    files: files.all,
    memoryDirectories: new Set([...volumes.values()].filter((volume) => volume.memory).map((volume) => volume.source)),
    notes: [...notes],
  };
}

/** Host files, each path once: two containers may mount the same part of a volume. */
class FileList {
  readonly #files: HostFile[] = [];
  readonly #paths = new Set<string>();

  constructor(files: readonly HostFile[]) {
    this.add(...files);
  }

  get all(): readonly HostFile[] {
    return this.#files;
  }

  add(...files: readonly HostFile[]): void {
    for (const file of files) {
      if (this.#paths.has(file.path)) continue;
      this.#paths.add(file.path);
      this.#files.push(file);
    }
  }
}

function planSandbox(place: PodPlace): PlannedContainer {
  const { template, context } = place;
  const { reference, ...image } = context.pauseImage;
  const { config } = image;
  const resources = sandboxResources(template);
  const args = [...config.entrypoint, ...config.cmd];
  if (args.length === 0) throw new KubeletError("ERR_KUBELET_INVALID_POD", `pause image ${reference} names no command`);
  const sysctls = template.spec.securityContext?.sysctls ?? [];
  const spec: RuntimeSpec = {
    ociVersion: OCI_VERSION,
    process: {
      user: sandboxUser(image, template.spec.securityContext),
      args,
      env: config.env,
      cwd: config.workingDir || "/",
      capabilities: defaultCapabilities(),
      noNewPrivileges: true,
      oomScoreAdj: SANDBOX_OOM_SCORE,
    },
    root: { path: "rootfs", readonly: true },
    hostname: place.host.hostname,
    mounts: mergeMounts(DEFAULT_MOUNTS, [
      { destination: "/dev/shm", type: "bind", source: `${place.sandboxDirectory}/shm`, options: ["rbind", "ro"] },
      { destination: "/etc/resolv.conf", type: "bind", source: `${place.sandboxDirectory}/resolv.conf`, options: ["rbind", "ro", "nosuid", "nodev", "noexec"] },
    ]),
    annotations: {
      ...passedAnnotations(template),
      "io.kubernetes.cri.container-type": "sandbox",
      "io.kubernetes.cri.sandbox-cpu-period": String(resources.cpuPeriod),
      "io.kubernetes.cri.sandbox-cpu-quota": String(resources.cpuQuota),
      "io.kubernetes.cri.sandbox-cpu-shares": String(resources.cpuShares),
      "io.kubernetes.cri.sandbox-id": place.sandboxId,
      "io.kubernetes.cri.sandbox-log-directory": `/var/log/pods/${context.namespace}_${context.name}_${context.uid}`,
      "io.kubernetes.cri.sandbox-memory": String(resources.memory),
      "io.kubernetes.cri.sandbox-name": context.name,
      "io.kubernetes.cri.sandbox-namespace": context.namespace,
      "io.kubernetes.cri.sandbox-uid": context.uid,
    },
    linux: {
      resources: { devices: [{ allow: false, access: "rwm" }], cpu: { shares: 2 } },
      cgroupsPath: cgroupsPath(place.sandboxId, place),
      namespaces: [{ type: "pid" }, { type: "ipc" }, { type: "uts" }, { type: "mount" }, { type: "network", path: place.networkNamespace }],
      maskedPaths: SANDBOX_MASKED,
      readonlyPaths: SANDBOX_READONLY,
      ...(sysctls.length === 0 ? {} : { sysctl: Object.fromEntries(sysctls.map(({ name, value }) => [sysctlName(name), value])) }),
    },
  };
  return { id: place.sandboxId, name: "POD", image: reference, bundle: `${BUNDLES}/${place.sandboxId}`, spec };
}

function planContainer(
  container: PodContainer,
  place: PodPlace,
  image: PodImage,
  variables: ReadonlyMap<string, string>,
  kubeletMounts: readonly RuntimeMount[],
  imageMounts: readonly RuntimeMount[],
): PlannedContainer {
  const { template, context } = place;
  const id = newContainerId(context.random);
  const security = container.securityContext;
  const readOnlyRoot = security?.readOnlyRootFilesystem === true;
  const { args, env } = processText(container, image.config, variables, place.host.hostname);
  const criMounts = [
    bind("/etc/hostname", `${place.sandboxDirectory}/hostname`, readOnlyRoot),
    bind("/etc/resolv.conf", `${place.sandboxDirectory}/resolv.conf`, readOnlyRoot),
    bind("/dev/shm", `${place.sandboxDirectory}/shm`, false),
  ];
  const spec: RuntimeSpec = {
    ociVersion: OCI_VERSION,
    process: {
      ...(container.tty === true ? { terminal: true } : {}),
      user: containerUser(container, image, template.spec.securityContext),
      args,
      env,
      cwd: (container.workingDir ?? "") || image.config.workingDir || "/",
      capabilities: containerCapabilities(container),
      noNewPrivileges: security?.allowPrivilegeEscalation === false,
      oomScoreAdj: oomScore(container, place.qos, context.nodeMemory),
    },
    root: { path: "rootfs", readonly: readOnlyRoot },
    mounts: mergeMounts([...DEFAULT_MOUNTS, CGROUP_MOUNT], [...besideMounts(kubeletMounts, criMounts), ...imageMounts]),
    annotations: {
      ...passedAnnotations(template),
      "io.kubernetes.cri.container-name": container.name,
      "io.kubernetes.cri.container-type": "container",
      "io.kubernetes.cri.image-name": imageName(container.image),
      "io.kubernetes.cri.sandbox-id": place.sandboxId,
      "io.kubernetes.cri.sandbox-name": context.name,
      "io.kubernetes.cri.sandbox-namespace": context.namespace,
      "io.kubernetes.cri.sandbox-uid": context.uid,
    },
    linux: {
      resources: containerResources(container),
      cgroupsPath: cgroupsPath(id, place),
      namespaces: containerNamespaces(template, context.sandboxPid),
      ...(kubeletMounts.some((mount) => mount.options.includes("rslave")) ? { rootfsPropagation: "rslave" } : {}),
      maskedPaths: CONTAINER_MASKED,
      readonlyPaths: CONTAINER_READONLY,
    },
  };
  return { id, name: container.name, image: container.image, bundle: `${BUNDLES}/${id}`, spec };
}

/** Directories for the volumes that an image declares, where kubelet mounts nothing. */
function imageVolumes(paths: readonly string[], kubeletMounts: readonly RuntimeMount[], context: PodContext): readonly RuntimeMount[] {
  const mounts = paths.map((path) =>
    bind(path.startsWith("/") ? path : cleanPath(path), `${context.runDirectory}/image-volumes/${newContainerId(context.random)}`, false),
  );
  return besideMounts(kubeletMounts, mounts).slice(kubeletMounts.length);
}

function sharedFiles({ sandboxDirectory, podDirectory, host, template, context }: PodPlace): readonly HostFile[] {
  return [
    { kind: "directory", path: `${sandboxDirectory}/shm`, mode: 0o1777 },
    { kind: "file", path: `${sandboxDirectory}/hostname`, mode: 0o644, content: encodeUtf8(`${host.hostname}\n`) },
    { kind: "file", path: `${sandboxDirectory}/resolv.conf`, mode: 0o644, content: encodeUtf8(context.resolvConf) },
    { kind: "file", path: `${podDirectory}/etc-hosts`, mode: 0o644, content: hostsFile(host, template.spec, context) },
  ];
}

function containerNamespaces(template: PodTemplate, sandboxPid: number): readonly RuntimeNamespace[] {
  const join = (name: string): string => `/proc/${sandboxPid}/ns/${name}`;
  return [
    template.spec.shareProcessNamespace === true ? { type: "pid", path: join("pid") } : { type: "pid" },
    { type: "ipc", path: join("ipc") },
    { type: "uts", path: join("uts") },
    { type: "mount" },
    { type: "network", path: join("net") },
    { type: "cgroup" },
  ];
}

function passedAnnotations(template: PodTemplate): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(template.metadata?.annotations ?? {}).filter(([name]) => name.startsWith(PASSED_ANNOTATIONS)));
}

/** The reference with its default tag; `name@digest` stays. */
function imageName(reference: string): string {
  const last = reference.slice(reference.lastIndexOf("/") + 1);
  return last.includes(":") || last.includes("@") ? reference : `${reference}:latest`;
}

function cgroupsPath(id: string, { qos, context }: PodPlace): string {
  const parent = qos === "Guaranteed" ? "/kubepods" : `/kubepods/${qos.toLowerCase()}`;
  return `${parent}/pod${context.uid}/${id}`;
}
