import type { HostFile, PodContext } from "./context.ts";
import { expand } from "./expand.ts";
import { KubeletError } from "./errors.ts";
import { atomicDirectory, downwardPayload, keyedPayload, parentsOf, projectedPayload, type Payload, type PayloadContext } from "./payload.ts";
import type { PodContainer, PodTemplate, PodVolume, VolumeMount } from "./pod.ts";
import type { RuntimeMount } from "./runtime-spec.ts";

/** A volume on the host. */
export interface HostVolume {
  readonly source: string;
  /** True for volumes that kubelet mounts read-only whatever the manifest says. */
  readonly readOnly: boolean;
  readonly files: readonly HostFile[];
  /** True if kubelet mounts a tmpfs at the source. */
  readonly memory: boolean;
  /** True if a file is at this path of the volume already; kubelet makes a directory where there is none. */
  readonly has: (path: string) => boolean;
}

/** Permissions that kubelet adds for the fsGroup. */
const GROUP_WRITES = 0o660;
const GROUP_READS = 0o440;
const GROUP_ENTERS = 0o2110;

/** Sources of volumes that need storage, which a laptop has none of. */
const STORAGE_SOURCES: ReadonlySet<string> = new Set(["persistentVolumeClaim", "csi", "ephemeral", "azureFile", "azureDisk"]);

const SUPPORTED = "emptyDir, hostPath, configMap, secret, downwardAPI and projected volumes are supported.";

/**
 * Makes the host side of each volume that a container mounts, with the directory names that kubelet uses: the shim tells an emptyDir
 * from other binds by the component `kubernetes.io~empty-dir` of its source.
 * @throws {KubeletError} ERR_KUBELET_UNRESOLVED, ERR_KUBELET_UNSUPPORTED, ERR_KUBELET_INVALID_POD, ERR_KUBELET_QUANTITY
 */
export async function hostVolumes(template: PodTemplate, context: PodContext, podDirectory: string): Promise<ReadonlyMap<string, HostVolume>> {
  const { spec } = template;
  const mounted = new Set(
    [...(spec.initContainers ?? []), ...spec.containers].flatMap((container) => (container.volumeMounts ?? []).map((mount) => mount.name)),
  );
  const volumes = new Map<string, HostVolume>();
  for (const volume of spec.volumes ?? []) {
    if (!mounted.has(volume.name)) continue;
    const made = await hostVolume(volume, { volume: volume.name, template, pod: context }, podDirectory);
    volumes.set(volume.name, { ...made, files: ownedFiles(made, spec.securityContext?.fsGroup) });
  }
  return volumes;
}

async function hostVolume(volume: PodVolume, context: PayloadContext, podDirectory: string): Promise<HostVolume> {
  const directory = (plugin: string): string => `${podDirectory}/volumes/kubernetes.io~${plugin}/${volume.name}`;
  const { emptyDir, hostPath, configMap, secret, downwardAPI, projected } = volume;
  if (emptyDir !== undefined) {
    const { medium = "" } = emptyDir;
    if (medium !== "" && medium !== "Memory")
      throw unsupported(`volume ${volume.name}: emptyDir with medium ${medium}`, "Leave the medium out, or use Memory.");
    const source = directory("empty-dir");
    return { source, readOnly: false, files: [{ kind: "directory", path: source, mode: 0o777 }], memory: medium === "Memory", has: () => false };
  }
  // What is at a path of the node is not known here: the shim says so if there is nothing.
  if (hostPath !== undefined) return { source: hostPath.path, readOnly: false, files: [], memory: false, has: () => true };
  const written = (plugin: string, payload: Payload): HostVolume => {
    const paths = new Set([...payload.keys(), ...parentsOf(payload)]);
    const source = directory(plugin);
    return { source, readOnly: true, files: atomicDirectory(source, payload, context.pod.clock.now()), memory: false, has: (path) => paths.has(path) };
  };
  if (configMap !== undefined) return written("configmap", keyedPayload("ConfigMap", configMap, configMap.defaultMode, context));
  if (secret !== undefined) return written("secret", keyedPayload("Secret", { ...secret, name: secret.secretName }, secret.defaultMode, context));
  if (downwardAPI !== undefined) return written("downward-api", downwardPayload(downwardAPI, downwardAPI.defaultMode, context));
  if (projected !== undefined) return written("projected", await projectedPayload(projected.sources ?? [], projected.defaultMode, context));
  const kind = Object.keys(volume).find((key) => key !== "name") ?? "no source";
  throw STORAGE_SOURCES.has(kind)
    ? unsupported(`volume ${volume.name}: ${kind}: there is no storage on the laptop`, "Use an emptyDir on the laptop, and the volume in the cluster.")
    : unsupported(`volume ${volume.name}: ${kind}`, SUPPORTED);
}

/** Files as kubelet leaves them to the pod's fsGroup. The node's own files (hostPath) stay as they are. */
function ownedFiles({ files, readOnly }: HostVolume, gid: number | undefined): readonly HostFile[] {
  if (gid === undefined) return files;
  const added = readOnly ? GROUP_READS : GROUP_WRITES;
  return files.map((file) => (file.kind === "symlink" ? file : { ...file, gid, mode: file.mode | added | (file.kind === "directory" ? GROUP_ENTERS : 0) }));
}

/** The mounts of one container's volumes, and the files that they need besides those of the volumes. */
export interface VolumeMounts {
  readonly mounts: readonly RuntimeMount[];
  readonly files: readonly HostFile[];
  /** Names of emptyDir volumes of which a part is mounted. */
  readonly parts: readonly string[];
}

/**
 * The mounts of one container's volumes, in the order of its `volumeMounts`.
 * @param environment the container's variables, for `subPathExpr`
 * @throws {KubeletError} ERR_KUBELET_UNRESOLVED, ERR_KUBELET_UNSUPPORTED, ERR_KUBELET_INVALID_POD
 */
export function volumeMounts(
  container: PodContainer,
  volumes: ReadonlyMap<string, HostVolume>,
  podDirectory: string,
  environment: (name: string) => string | undefined,
): VolumeMounts {
  const mounts: RuntimeMount[] = [];
  const files: HostFile[] = [];
  const parts: string[] = [];
  for (const [index, mount] of (container.volumeMounts ?? []).entries()) {
    const where = `container ${container.name}: volume ${mount.name} at ${mount.mountPath}`;
    const volume = volumes.get(mount.name);
    if (volume === undefined) {
      throw new KubeletError("ERR_KUBELET_UNRESOLVED", `container ${container.name} mounts volume ${mount.name}, which the pod does not have`);
    }
    if (mount.recursiveReadOnly === "Enabled") throw unsupported(`${where}: recursiveReadOnly Enabled`, "Use IfPossible: containerd 1.7 does not know it.");
    const readOnly = mount.readOnly === true || volume.readOnly;
    const part = partOf(mount, where, environment);
    let { source } = volume;
    if (part !== "") {
      const target = `${source}/${part}`;
      if (!volume.has(part)) files.push({ kind: "directory", path: target, mode: volume.readOnly ? 0o755 : 0o777 });
      // kubelet binds the part to this place. Nobody but the shim looks there, and it follows a link as it would a bind mount.
      source = `${podDirectory}/volume-subpaths/${mount.name}/${container.name}/${index}`;
      files.push({ kind: "symlink", path: source, target });
      if (!volume.readOnly) parts.push(mount.name);
    }
    mounts.push(bind(mount.mountPath, source, readOnly, propagation(mount, where)));
  }
  return { mounts, files, parts };
}

/** Path in the volume that is mounted, empty for all of it. */
function partOf({ subPath = "", subPathExpr = "" }: VolumeMount, where: string, environment: (name: string) => string | undefined): string {
  const text =
    subPathExpr === ""
      ? subPath
      : expand(subPathExpr, (name) => {
          const value = environment(name);
          if (value === undefined) throw new KubeletError("ERR_KUBELET_UNRESOLVED", `${where}: subPathExpr ${subPathExpr}: there is no variable ${name}`);
          return value;
        });
  const components = text.split("/").filter((component) => component !== "" && component !== ".");
  if (text.startsWith("/") || text.includes("\0") || components.includes("..")) {
    throw new KubeletError("ERR_KUBELET_INVALID_POD", `${where}: subPath ${JSON.stringify(text)} must be relative, without '..'`);
  }
  return components.join("/");
}

function propagation({ mountPropagation = "None" }: VolumeMount, where: string): "rprivate" | "rslave" {
  if (mountPropagation === "None") return "rprivate";
  if (mountPropagation === "HostToContainer") return "rslave";
  throw unsupported(
    `${where}: mountPropagation ${mountPropagation}`,
    "It needs a privileged container, and a guest shares no mounts with its host. Remove it.",
  );
}

/** A bind mount with the options that containerd's CRI plugin writes. */
export function bind(destination: string, source: string, readOnly: boolean, propagation: "rprivate" | "rslave" = "rprivate"): RuntimeMount {
  return { destination, type: "bind", source, options: ["rbind", propagation, readOnly ? "ro" : "rw"] };
}

function unsupported(what: string, hint: string): KubeletError {
  return new KubeletError("ERR_KUBELET_UNSUPPORTED", `${what}: not supported`, { hint });
}
