import { encodeUtf8, newUuid } from "@sealpod/core";
import { admit, type AdmittedPod } from "./admission.ts";
import type { HostFile, ImageSettings, PlannedContainer, PodContext, PodImage, PodPlan } from "./context.ts";
import { processText } from "./environment.ts";
import { KubeletError } from "./errors.ts";
import { newContainerId } from "./names.ts";
import type { PodContainer, PodTemplate } from "./pod.ts";
import { containerResources, oomScore, qosClass, sandboxResources, type QosClass } from "./resources.ts";
import type { RuntimeCapabilities, RuntimeMount, RuntimeNamespace, RuntimeSpec, RuntimeUser } from "./runtime-spec.ts";
import { bind, hostsFile, hostVolumes, volumeMounts } from "./volumes.ts";

/** What containerd 1.7 writes; the `aks` policy compares it exactly. */
const OCI_VERSION = "1.1.0-rc.1";

/** Where containerd's shim v2 tasks of the CRI plugin have their bundles; the `aks` policy cuts this prefix off. */
const BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/** Annotations that reach the OCI spec: AKS' containerd has `pod_annotations = ["io.katacontainers.*"]`. */
const PASSED_ANNOTATIONS = "io.katacontainers.";

const DEFAULT_CAPABILITIES: readonly string[] = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FSETID",
  "CAP_FOWNER",
  "CAP_MKNOD",
  "CAP_NET_RAW",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETFCAP",
  "CAP_SETPCAP",
  "CAP_NET_BIND_SERVICE",
  "CAP_SYS_CHROOT",
  "CAP_KILL",
  "CAP_AUDIT_WRITE",
];

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

const DEFAULT_MOUNTS: readonly RuntimeMount[] = [
  { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
  { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
  { destination: "/dev/shm", type: "tmpfs", source: "shm", options: ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
  { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
];
const CGROUP_MOUNT: RuntimeMount = {
  destination: "/sys/fs/cgroup",
  type: "cgroup",
  source: "cgroup",
  options: ["nosuid", "noexec", "nodev", "relatime", "ro"],
};

/** kubelet's OOM score for the sandbox: only the node's own daemons die later. */
const SANDBOX_OOM_SCORE = -998;

/** Longest host name that Linux takes is 64; Kubernetes cuts at 63 so that it stays a DNS label. */
const MAX_HOSTNAME = 63;

/** Paths and ids that all containers of one pod share. */
interface PodPlace {
  readonly sandboxId: string;
  readonly hostname: string;
  readonly networkNamespace: string;
  readonly podDirectory: string;
  readonly sandboxDirectory: string;
  readonly qos: QosClass;
}

/**
 * Plans a pod: the OCI spec of the sandbox and of each container as containerd 1.7 hands them to the shim, and the host
 * files that their bind mounts name. Nothing is written; see `writeHostFiles`.
 * @throws {KubeletError} every code but ERR_KUBELET_FILES
 */
export function planPod(template: PodTemplate, context: PodContext): PodPlan {
  const pod = admit(template, context);
  const sandboxId = newContainerId(context.random);
  const place: PodPlace = {
    sandboxId,
    hostname: (pod.template.spec.hostname ?? context.name).slice(0, MAX_HOSTNAME).replace(/[-.]+$/, ""),
    networkNamespace: `/var/run/netns/cni-${newUuid(context.random)}`,
    podDirectory: `${context.runDirectory}/pods/${context.uid}`,
    sandboxDirectory: `${context.runDirectory}/sandboxes/${sandboxId}`,
    qos: qosClass(pod.template),
  };
  const volumes = hostVolumes(pod, context, place.podDirectory);
  const files: HostFile[] = [...sharedFiles(pod, context, place), ...[...volumes.values()].flatMap((volume) => volume.files)];
  const plan = (container: PodContainer): PlannedContainer => {
    const log = `${place.podDirectory}/containers/${container.name}/${newContainerId(context.random).slice(0, 8)}`;
    files.push({ kind: "file", path: log, mode: 0o666, content: new Uint8Array() });
    const path = container.terminationMessagePath ?? "/dev/termination-log";
    return planContainer(container, pod, context, place, [...volumeMounts(container, volumes), bind(path, log, false)]);
  };
  return {
    name: context.name,
    namespace: context.namespace,
    uid: context.uid,
    hostname: place.hostname,
    annotations: pod.template.metadata?.annotations ?? {},
    sandbox: planSandbox(pod, context, place),
    initContainers: (pod.template.spec.initContainers ?? []).map(plan),
    containers: pod.template.spec.containers.map(plan),
    files,
  };
}

function planSandbox(pod: AdmittedPod, context: PodContext, place: PodPlace): PlannedContainer {
  const { reference, config } = context.pauseImage;
  const resources = sandboxResources(pod.template);
  const args = [...config.entrypoint, ...config.cmd];
  if (args.length === 0) throw new KubeletError("ERR_KUBELET_INVALID_POD", `pause image ${reference} names no command`);
  const spec: RuntimeSpec = {
    ociVersion: OCI_VERSION,
    process: {
      user: imageUser("pause", { config }, undefined, undefined, []),
      args,
      env: config.env,
      cwd: config.workingDir || "/",
      capabilities: capabilities(DEFAULT_CAPABILITIES),
      noNewPrivileges: true,
      oomScoreAdj: SANDBOX_OOM_SCORE,
    },
    root: { path: "rootfs", readonly: true },
    hostname: place.hostname,
    mounts: mergeMounts(DEFAULT_MOUNTS, [
      { destination: "/dev/shm", type: "bind", source: `${place.sandboxDirectory}/shm`, options: ["rbind", "ro"] },
      { destination: "/etc/resolv.conf", type: "bind", source: `${place.sandboxDirectory}/resolv.conf`, options: ["rbind", "ro", "nosuid", "nodev", "noexec"] },
    ]),
    annotations: {
      ...passedAnnotations(pod),
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
      cgroupsPath: cgroupsPath(place.sandboxId, context, place),
      namespaces: [{ type: "pid" }, { type: "ipc" }, { type: "uts" }, { type: "mount" }, { type: "network", path: place.networkNamespace }],
      maskedPaths: SANDBOX_MASKED,
      readonlyPaths: SANDBOX_READONLY,
    },
  };
  return { id: place.sandboxId, name: "POD", image: reference, bundle: `${BUNDLES}/${place.sandboxId}`, spec };
}

function planContainer(
  container: PodContainer,
  pod: AdmittedPod,
  context: PodContext,
  place: PodPlace,
  kubeletMounts: readonly RuntimeMount[],
): PlannedContainer {
  const id = newContainerId(context.random);
  const security = container.securityContext;
  const podSecurity = pod.template.spec.securityContext;
  const image = context.images.get(container.image);
  if (image === undefined) throw new KubeletError("ERR_KUBELET_UNRESOLVED", `container ${container.name}: image ${container.image} is not in the image store`);
  const readOnlyRoot = security?.readOnlyRootFilesystem === true;
  const { args, env } = processText(container, image.config, pod.template, context, place.hostname);
  const groups = [...(podSecurity?.supplementalGroups ?? []), ...(podSecurity?.fsGroup === undefined ? [] : [podSecurity.fsGroup])];
  const criMounts = [
    bind("/etc/hostname", `${place.sandboxDirectory}/hostname`, readOnlyRoot),
    bind("/etc/resolv.conf", `${place.sandboxDirectory}/resolv.conf`, readOnlyRoot),
    bind("/dev/shm", `${place.sandboxDirectory}/shm`, false),
  ];
  const spec: RuntimeSpec = {
    ociVersion: OCI_VERSION,
    process: {
      ...(container.tty === true ? { terminal: true } : {}),
      user: imageUser(container.name, image, security?.runAsUser ?? podSecurity?.runAsUser, security?.runAsGroup ?? podSecurity?.runAsGroup, groups),
      args,
      env,
      cwd: (container.workingDir ?? image.config.workingDir) || "/",
      capabilities: containerCapabilities(container),
      noNewPrivileges: security?.allowPrivilegeEscalation === false,
      oomScoreAdj: oomScore(container, place.qos, context.nodeMemory),
    },
    root: { path: "rootfs", readonly: readOnlyRoot },
    mounts: mergeMounts([...DEFAULT_MOUNTS, CGROUP_MOUNT], [...criMounts, bind("/etc/hosts", `${place.podDirectory}/etc-hosts`, false), ...kubeletMounts]),
    annotations: {
      ...passedAnnotations(pod),
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
      cgroupsPath: cgroupsPath(id, context, place),
      namespaces: containerNamespaces(pod.template, context.sandboxPid),
      maskedPaths: CONTAINER_MASKED,
      readonlyPaths: CONTAINER_READONLY,
    },
  };
  return { id, name: container.name, image: container.image, bundle: `${BUNDLES}/${id}`, spec };
}

function sharedFiles(pod: AdmittedPod, context: PodContext, place: PodPlace): readonly HostFile[] {
  return [
    { kind: "directory", path: `${place.sandboxDirectory}/shm`, mode: 0o1777 },
    { kind: "file", path: `${place.sandboxDirectory}/hostname`, mode: 0o644, content: encodeUtf8(`${place.hostname}\n`) },
    { kind: "file", path: `${place.sandboxDirectory}/resolv.conf`, mode: 0o644, content: encodeUtf8(context.resolvConf) },
    { kind: "file", path: `${place.podDirectory}/etc-hosts`, mode: 0o644, content: hostsFile(place.hostname, context, pod) },
  ];
}

/** containerd sorts its own mounts by depth, so that no mount hides one below it, and lets them replace the defaults. */
function mergeMounts(defaults: readonly RuntimeMount[], mounts: readonly RuntimeMount[]): readonly RuntimeMount[] {
  const taken = new Set(mounts.map((mount) => mount.destination));
  const depth = (mount: RuntimeMount): number => mount.destination.split("/").filter((part) => part !== "").length;
  return [...defaults.filter((mount) => !taken.has(mount.destination)), ...mounts.toSorted((a, b) => depth(a) - depth(b))];
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

function passedAnnotations(pod: AdmittedPod): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(pod.template.metadata?.annotations ?? {}).filter(([name]) => name.startsWith(PASSED_ANNOTATIONS)));
}

/** The reference with its default tag; `name@digest` stays. */
function imageName(reference: string): string {
  const last = reference.slice(reference.lastIndexOf("/") + 1);
  return last.includes(":") || last.includes("@") ? reference : `${reference}:latest`;
}

function containerCapabilities(container: PodContainer): RuntimeCapabilities {
  const { add = [], drop = [] } = container.securityContext?.capabilities ?? {};
  if (add.some((name) => name.toUpperCase() === "ALL")) {
    throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `container ${container.name}: adding all capabilities is not supported`, {
      hint: "Name the capabilities.",
    });
  }
  const full = (name: string): string => `CAP_${name.toUpperCase().replace(/^CAP_/, "")}`;
  const dropped = new Set(drop.map(full));
  const kept = dropped.has("CAP_ALL") ? [] : DEFAULT_CAPABILITIES.filter((name) => !dropped.has(name));
  return capabilities([...new Set([...kept, ...add.map(full)])]);
}

function capabilities(list: readonly string[]): RuntimeCapabilities {
  return { bounding: list, effective: list, permitted: list };
}

function imageUser(
  name: string,
  image: { readonly config: ImageSettings } & Partial<PodImage>,
  runAsUser: number | undefined,
  runAsGroup: number | undefined,
  groups: readonly number[],
): RuntimeUser {
  const declared = /^(\d{1,10})(?::(\d{1,10}))?$/.exec(image.config.user);
  let user: { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[] };
  if (runAsUser !== undefined) user = { uid: runAsUser, gid: runAsGroup ?? 0, additionalGids: [] };
  else if (image.user !== undefined) user = image.user;
  else if (image.config.user === "") user = { uid: 0, gid: 0, additionalGids: [] };
  else if (declared !== null) {
    // containerd takes the group of a bare uid from the image's passwd file, and 0 if the user is not in it.
    const uid = Number(declared[1]);
    user = { uid, gid: declared[2] === undefined ? 0 : Number(declared[2]), additionalGids: [] };
  } else {
    throw new KubeletError("ERR_KUBELET_UNRESOLVED", `container ${name}: the image runs as ${JSON.stringify(image.config.user)}, whose uid was not looked up`, {
      hint: "Give PodImage.user, or a numeric USER in the image.",
    });
  }
  const gid = runAsGroup ?? user.gid;
  return { uid: user.uid, gid, additionalGids: [...new Set([gid, ...user.additionalGids, ...groups])] };
}

function cgroupsPath(id: string, context: PodContext, place: PodPlace): string {
  const parent = place.qos === "Guaranteed" ? "/kubepods" : `/kubepods/${place.qos.toLowerCase()}`;
  return `${parent}/pod${context.uid}/${id}`;
}
