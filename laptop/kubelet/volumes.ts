import { encodeUtf8, type Clock } from "@sealpod/core";
import type { AdmittedPod } from "./admission.ts";
import type { HostFile, PodContext } from "./context.ts";
import { KubeletError } from "./errors.ts";
import type { KeyToPath, PodContainer, PodVolume } from "./pod.ts";
import type { RuntimeMount } from "./runtime-spec.ts";

/** A volume on the host. */
interface HostVolume {
  readonly source: string;
  /** True for volumes that kubelet mounts read-only whatever the manifest says. */
  readonly readOnly: boolean;
  readonly files: readonly HostFile[];
}

/**
 * Makes the host side of each volume of the pod, with the directory names that kubelet uses: the shim tells an emptyDir
 * from other binds by the component `kubernetes.io~empty-dir` of its source.
 * @throws {KubeletError} ERR_KUBELET_UNRESOLVED, ERR_KUBELET_UNSUPPORTED
 */
export function hostVolumes(pod: AdmittedPod, context: PodContext, podDirectory: string): ReadonlyMap<string, HostVolume> {
  const volumes = new Map<string, HostVolume>();
  const directory = (plugin: string, name: string): string => `${podDirectory}/volumes/kubernetes.io~${plugin}/${name}`;
  for (const volume of pod.template.spec.volumes ?? []) volumes.set(volume.name, hostVolume(volume, context, directory));
  for (const [name, entries] of pod.projected) {
    const source = directory("projected", name);
    volumes.set(name, { source, readOnly: true, files: atomicDirectory(source, entries, context.clock) });
  }
  return volumes;
}

/** The mounts of one container's volumes, in the order of its `volumeMounts`. */
export function volumeMounts(container: PodContainer, volumes: ReadonlyMap<string, HostVolume>): readonly RuntimeMount[] {
  return (container.volumeMounts ?? []).map((mount) => {
    const volume = volumes.get(mount.name);
    if (volume === undefined) {
      throw new KubeletError("ERR_KUBELET_UNRESOLVED", `container ${container.name} mounts volume ${mount.name}, which the pod does not have`);
    }
    return bind(mount.mountPath, volume.source, mount.readOnly === true || volume.readOnly);
  });
}

/** A bind mount with the options that containerd's CRI plugin writes. */
export function bind(destination: string, source: string, readOnly: boolean): RuntimeMount {
  return { destination, type: "bind", source, options: ["rbind", "rprivate", readOnly ? "ro" : "rw"] };
}

/**
 * A directory as kubelet's atomic writer leaves it: the files in a time-stamped directory, `..data` pointing there, and
 * each name pointing into `..data`, so that an update is one rename.
 */
export function atomicDirectory(directory: string, entries: ReadonlyMap<string, Uint8Array>, clock: Clock): readonly HostFile[] {
  const stamp = `..${new Date(clock.now()).toISOString().replace("Z", "000000").replaceAll(/[-:T]/g, "_")}`;
  const files: HostFile[] = [
    { kind: "directory", path: directory, mode: 0o755 },
    { kind: "directory", path: `${directory}/${stamp}`, mode: 0o755 },
  ];
  for (const [name, content] of entries) files.push({ kind: "file", path: `${directory}/${stamp}/${name}`, mode: 0o644, content });
  files.push({ kind: "symlink", path: `${directory}/..data`, target: stamp });
  for (const name of entries.keys()) files.push({ kind: "symlink", path: `${directory}/${name}`, target: `..data/${name}` });
  return files;
}

/** Text of /etc/hosts as kubelet writes it for a pod with its own network. */
export function hostsFile(hostname: string, context: PodContext, pod: AdmittedPod): Uint8Array {
  const lines = [
    "# Kubernetes-managed hosts file.",
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "fe00::0\tip6-mcastprefix",
    "fe00::1\tip6-allnodes",
    "fe00::2\tip6-allrouters",
    `${context.podIp}\t${hostname}`,
  ];
  const aliases = pod.template.spec.hostAliases ?? [];
  if (aliases.length > 0) lines.push("", "# Entries added by HostAliases.", ...aliases.map((alias) => `${alias.ip}\t${alias.hostnames.join("\t")}`));
  if (context.hosts.length > 0) lines.push("", "# Services on this laptop.", ...context.hosts.map((entry) => `${entry.ip}\t${entry.names.join("\t")}`));
  const text = `${lines.join("\n")}\n`;
  return encodeUtf8(text);
}

function hostVolume(volume: PodVolume, context: PodContext, directory: (plugin: string, name: string) => string): HostVolume {
  if (volume.emptyDir !== undefined) {
    const source = directory("empty-dir", volume.name);
    return { source, readOnly: false, files: [{ kind: "directory", path: source, mode: 0o777 }] };
  }
  if (volume.hostPath !== undefined) return { source: volume.hostPath.path, readOnly: false, files: [] };
  if (volume.configMap !== undefined) {
    const { name, items, optional } = volume.configMap;
    return objectVolume(directory("configmap", volume.name), "ConfigMap", name, context.configMaps?.get(name), items, optional, context.clock);
  }
  if (volume.secret !== undefined) {
    const { secretName, items, optional } = volume.secret;
    return objectVolume(directory("secret", volume.name), "Secret", secretName, context.secrets?.get(secretName), items, optional, context.clock);
  }
  throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `volume ${volume.name} is of a kind that is not supported`, {
    hint: "Supported: emptyDir, hostPath, configMap, secret.",
  });
}

function objectVolume(
  source: string,
  kind: string,
  name: string,
  object: ReadonlyMap<string, Uint8Array> | undefined,
  items: readonly KeyToPath[] | undefined,
  optional: boolean | undefined,
  clock: Clock,
): HostVolume {
  if (object === undefined && optional !== true)
    throw new KubeletError("ERR_KUBELET_UNRESOLVED", `${kind} ${name} does not exist`, { hint: "Add it to the manifest." });
  const entries = new Map<string, Uint8Array>();
  for (const { key, path } of items ?? [...(object ?? new Map<string, Uint8Array>()).keys()].map((key) => ({ key, path: key }))) {
    const value = object?.get(key);
    // A path with a "/" or ".." would leave the volume's directory on the host.
    if (!/^[-._a-zA-Z0-9]+$/.test(path) || path.startsWith("..")) {
      throw new KubeletError("ERR_KUBELET_UNSUPPORTED", `${kind} ${name}: ${JSON.stringify(path)} cannot name a file of a volume`);
    }
    if (value !== undefined) entries.set(path, value);
    else if (optional !== true) throw new KubeletError("ERR_KUBELET_UNRESOLVED", `${kind} ${name} has no key ${key}`);
  }
  return { source, readOnly: true, files: atomicDirectory(source, entries, clock) };
}
