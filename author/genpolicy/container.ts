import type { Container, PodTemplate, Position, Workload } from "@sealpod/kube";
import { type ConfigSources, environmentOf, type Report } from "./environment.ts";
import type { MeasuredImage } from "./images.ts";
import { mountsAndStoragesOf } from "./mounts.ts";
import { replaceVariables } from "./placeholders.ts";
import type { PolicyCapabilities, PolicyContainer, PolicyLinux } from "./policy-data.ts";
import type { Profile } from "./profile.ts";
import type { ContainerSettings, Settings } from "./settings.ts";

/** Paths that containerd hides or protects in every container without privileges. */
const MASKED_PATHS = [
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
const READONLY_PATHS = ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const UUID_PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/** What a policy container is made from. */
export interface ContainerInput {
  readonly workload: Workload;
  /** Undefined for the pause container. */
  readonly container: Container | undefined;
  readonly image: MeasuredImage;
  readonly settings: Settings;
  readonly profile: Profile;
  readonly sources: ConfigSources;
  readonly report: Report;
  readonly warn: Report;
}

/** The policy's description of one container (specs/genpolicy.md 3.4, F23). */
export function policyContainerOf(input: ContainerInput): PolicyContainer {
  const { workload, container, image, settings, profile } = input;
  const { template } = workload;
  const containerSettings = container === undefined ? settings.pauseContainer : settings.otherContainer;
  const privileged = container?.securityContext.privileged === true;
  const { mounts, storages } = mountsAndStoragesOf({
    container,
    pod: template.spec,
    volumeClaims: workload.volumeClaims,
    image,
    settings,
    containerSettings,
    report: input.report,
  });
  const { args, env } = commandLineOf(input, containerSettings);
  return {
    OCI: {
      Version: profile.ociVersion,
      Process: {
        Terminal: container?.tty ?? (container === undefined ? false : image.config.tty),
        User: userOf(input, containerSettings),
        ...(args.length === 0 ? {} : { Args: args }),
        ...(env.length === 0 ? {} : { Env: env }),
        Cwd: container?.workingDir ?? (image.config.workingDir === "" ? "/" : image.config.workingDir),
        Capabilities: capabilitiesOf(container, settings),
        NoNewPrivileges: container === undefined ? true : container.securityContext.allowPrivilegeEscalation === false,
      },
      Root: { Path: containerSettings.rootPath, Readonly: container === undefined || container.securityContext.readOnlyRootFilesystem === true },
      Mounts: mounts,
      Annotations: annotationsOf(input, containerSettings),
      Linux: linuxOf(template, container, containerSettings, privileged),
    },
    storages,
    sandbox_pidns: container !== undefined && template.spec.shareProcessNamespace,
    exec_commands: container?.execCommands.map((command) => command.join(" ")) ?? [],
  };
}

/** Namespace of a workload's pods. */
export function namespaceOf(workload: Workload, profile: Profile): string {
  return workload.metadata.namespace ?? profile.defaultNamespace;
}

function commandLineOf(input: ContainerInput, containerSettings: ContainerSettings): { args: readonly string[]; env: readonly string[] } {
  const { workload, container, image, settings } = input;
  const args = argsOf(container, image);
  for (const arg of containerSettings.args) if (!args.includes(arg)) args.push(arg);
  const env = environmentOf({
    container,
    image: image.config,
    settings,
    settingsEnv: containerSettings.env,
    template: workload.template.metadata,
    namespace: namespaceOf(workload, input.profile),
    serviceAccountName: workload.template.spec.serviceAccountName,
    sources: input.sources,
    report: input.report,
  });
  const replaced = replaceVariables(env, args);
  if ("env" in replaced) return replaced;
  input.report(placeOf(input), `${JSON.stringify(replaced.value)} ${replaced.message}`);
  return { args, env };
}

/** Kubernetes: `command` replaces the image's entrypoint and drops its cmd; `args` replace cmd. */
function argsOf(container: Container | undefined, image: MeasuredImage): string[] {
  const { command, args } = container ?? {};
  const head = command ?? image.config.entrypoint;
  const tail = args ?? (command === undefined ? image.config.cmd : []);
  return [...head, ...tail];
}

function userOf(
  input: ContainerInput,
  containerSettings: ContainerSettings,
): { UID: number; GID: number; AdditionalGids: readonly number[]; Username: string } {
  const { workload, container, image, settings } = input;
  const [user = "", group = ""] = image.config.user.split(":");
  let uid = 0;
  let gid = 0;
  if (isUnixId(user)) uid = Number(user);
  else if (user !== "")
    input.warn(
      placeOf(input),
      `image ${image.reference} runs as user ${JSON.stringify(user)}, a name: the policy takes it for 0, set securityContext.runAsUser`,
    );
  if (isUnixId(group)) gid = Number(group);
  if (uid === 0) uid = containerSettings.uid;
  if (gid === 0) gid = containerSettings.gid;
  const pod = workload.template.spec.securityContext;
  // The AKS tool looks at the pod's runAsUser for the kind Pod alone.
  if (pod.runAsUser !== undefined && (workload.workload === "Pod" || settings.followKubernetes)) uid = pod.runAsUser;
  if (container?.securityContext.runAsUser !== undefined) uid = container.securityContext.runAsUser;
  return { UID: uid, GID: gid, AdditionalGids: containerSettings.additionalGids, Username: "" };
}

function isUnixId(text: string): boolean {
  return /^(?:0|[1-9][0-9]{0,9})$/.test(text) && Number(text) <= 0xffff_ffff;
}

function capabilitiesOf(container: Container | undefined, settings: Settings): PolicyCapabilities {
  const { default_caps: defaults, privileged_caps: all } = settings.common;
  const { add, drop } = container?.securityContext.capabilities ?? { add: [], drop: [] };
  const initial = container?.securityContext.privileged === true ? all : defaults;
  const changed = settings.followKubernetes ? changeAsContainerd(initial, all, add, drop) : changeAsTool(initial, add, drop);
  const list = sameList(changed, defaults) ? ["$(default_caps)"] : sameList(changed, all) ? ["$(privileged_caps)"] : changed;
  return { Ambient: [], Bounding: list, Effective: list, Inheritable: [], Permitted: list };
}

/** The AKS tool: drop, then add; names taken as they are. */
function changeAsTool(initial: readonly string[], add: readonly string[], drop: readonly string[]): readonly string[] {
  let list = [...initial];
  for (const name of drop) list = name === "ALL" ? [] : list.filter((known) => known !== `CAP_${name}`);
  for (const name of add) if (!list.includes(`CAP_${name}`)) list.push(`CAP_${name}`);
  return list;
}

/** containerd's CRI: ALL first, then single names, added before dropped. */
function changeAsContainerd(initial: readonly string[], all: readonly string[], add: readonly string[], drop: readonly string[]): readonly string[] {
  const named = (names: readonly string[]): readonly string[] =>
    names
      .map((name) => name.toUpperCase())
      .filter((name) => name !== "ALL")
      .map((name) => (name.startsWith("CAP_") ? name : `CAP_${name}`));
  const isAll = (names: readonly string[]): boolean => names.some((name) => name.toUpperCase() === "ALL");
  let list = isAll(add) ? [...all] : [...initial];
  if (isAll(drop)) list = [];
  for (const name of named(add)) if (!list.includes(name)) list.push(name);
  const dropped = named(drop);
  return list.filter((name) => !dropped.includes(name));
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((value, index) => value === b[index]);
}

function annotationsOf(input: ContainerInput, containerSettings: ContainerSettings): ReadonlyMap<string, string> {
  const { workload, container, profile } = input;
  const annotations = new Map(workload.template.metadata.annotations);
  for (const key of profile.strippedAnnotations) annotations.delete(key);
  const orInsert = (key: string, value: string): void => {
    if (!annotations.has(key)) annotations.set(key, value);
  };
  for (const [key, value] of containerSettings.annotations) orInsert(key, value);
  if (workload.workload === "Pod") {
    const { name, generateName } = workload.metadata;
    orInsert("io.kubernetes.cri.sandbox-name", name ?? (generateName === undefined ? "" : "$(generated-name)"));
  }
  if (container !== undefined) orInsert("io.kubernetes.cri.image-name", container.image.includes(":") ? container.image : `${container.image}:latest`);
  annotations.set("io.kubernetes.cri.sandbox-namespace", namespaceOf(workload, profile));
  if (container === undefined) {
    const bridge = workload.template.spec.hostNetwork ? "cnitest" : "cni";
    orInsert("nerdctl/network-namespace", `^/var/run/netns/${bridge}-${UUID_PATTERN}$`);
  } else if (container.name !== "") orInsert("io.kubernetes.cri.container-name", container.name);
  return annotations;
}

function linuxOf(template: PodTemplate, container: Container | undefined, containerSettings: ContainerSettings, privileged: boolean): PolicyLinux {
  const namespaces = [{ Type: "ipc", Path: "" }];
  if (container !== undefined || !template.spec.hostNetwork) namespaces.push({ Type: "uts", Path: "" });
  namespaces.push({ Type: "mount", Path: "" });
  const masked = privileged ? [] : MASKED_PATHS;
  const readonly = privileged ? [] : READONLY_PATHS;
  return {
    Namespaces: namespaces,
    MaskedPaths: containerSettings.maskedPaths.length > 0 ? containerSettings.maskedPaths : masked,
    ReadonlyPaths: containerSettings.readonlyPaths.length > 0 ? containerSettings.readonlyPaths : readonly,
  };
}

function placeOf({ workload, container }: ContainerInput): Position {
  return container?.at ?? workload.template.spec.at;
}
