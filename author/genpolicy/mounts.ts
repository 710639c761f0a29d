import type { Container, PodSpec, Volume, VolumeMount } from "@sealpod/kube";
import type { Report } from "./environment.ts";
import type { MeasuredImage } from "./images.ts";
import type { PolicyMount, PolicyStorage } from "./policy-data.ts";
import type { ContainerSettings, Settings, StorageSettings } from "./settings.ts";

/** Where the guest keeps what was copied in for a StatefulSet's claims; the AKS tool has it built in. */
const CLAIM_SOURCE = "^/run/kata-containers/shared/containers/$(bundle-id)-[a-z0-9]{16}-";

/** Where the container's root file system is mounted in the guest. */
const ROOT_MOUNT_POINT = "$(cpath)/$(bundle-id)";

/** What mounts and storages depend on. */
export interface MountInput {
  /** Undefined for the pause container. */
  readonly container: Container | undefined;
  readonly pod: PodSpec;
  readonly volumeClaims: readonly string[];
  readonly image: MeasuredImage;
  readonly settings: Settings;
  readonly containerSettings: ContainerSettings;
  readonly report: Report;
}

/** Mounts and storages of a container, in the order of the AKS tool. */
export function mountsAndStoragesOf(input: MountInput): { mounts: readonly PolicyMount[]; storages: readonly PolicyStorage[] } {
  const mounts = baseMounts(input);
  const storages = layerStorages(input.image);
  addSettingsMounts(mounts, input);
  const { container, pod } = input;
  if (container === undefined) return { mounts, storages };
  for (const volume of pod.volumes) {
    for (const mount of container.volumeMounts) if (mount.name === volume.name) addVolume(mounts, storages, volume, mount, input);
  }
  const declared = new Set(pod.volumes.map(({ name }) => name));
  for (const claim of input.volumeClaims) {
    for (const mount of container.volumeMounts) {
      if (mount.name === claim && !declared.has(claim)) {
        mounts.push({
          destination: mount.mountPath,
          source: `${CLAIM_SOURCE}${baseName(mount, input.report)}$`,
          type_: "bind",
          options: ["rbind", "rprivate", "rw"],
        });
      }
    }
  }
  const known = new Set([...declared, ...input.volumeClaims]);
  for (const mount of container.volumeMounts) {
    if (!known.has(mount.name)) input.report(mount.at, `volumeMounts: the pod has no volume named ${JSON.stringify(mount.name)}`);
  }
  return { mounts, storages };
}

/** One storage per layer, top first, and the overlay of them (specs/genpolicy.md 5.7). */
function layerStorages(image: MeasuredImage): PolicyStorage[] {
  const storages: PolicyStorage[] = image.layers.map((_, index) => ({
    driver: "blk",
    driver_options: [],
    source: "",
    fstype: "tar",
    options: [`$(hash${index})`],
    mount_point: `$(layer${index})`,
    fs_group: null,
  }));
  storages.push({
    driver: "overlayfs",
    driver_options: [],
    source: "",
    fstype: "fuse3.kata-overlay",
    options: [image.layers.map(({ id }) => id).join(":"), image.layers.map(({ rootHash }) => rootHash).join(":")],
    mount_point: ROOT_MOUNT_POINT,
    fs_group: null,
  });
  return storages;
}

function baseMounts({ container }: MountInput): PolicyMount[] {
  const access = container?.securityContext.privileged === true ? "rw" : "ro";
  const mount = (destination: string, type_: string, source: string, ...options: readonly string[]): PolicyMount => ({ destination, source, type_, options });
  const mounts = [
    mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
    mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
    mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access),
  ];
  if (container !== undefined) mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", access));
  return mounts;
}

function addSettingsMounts(mounts: PolicyMount[], { container, settings, containerSettings }: MountInput): void {
  const wanted = new Set([...settings.mountDestinations, ...(container?.volumeMounts.map(({ mountPath }) => mountPath) ?? [])]);
  for (const template of containerSettings.mounts) {
    if (!wanted.has(template.destination)) continue;
    const moved = template.destination === "/dev/termination-log" ? container?.terminationMessagePath : undefined;
    const destination = moved ?? template.destination;
    const source = template.source === "" && template.type_ === "bind" ? `$(sfprefix)${lastComponent(destination)}$` : template.source;
    const options = [...template.options];
    if (container !== undefined && (template.destination === "/etc/hostname" || template.destination === "/etc/resolv.conf")) {
      options.push(container.securityContext.readOnlyRootFilesystem === true ? "ro" : "rw");
    }
    const at = mounts.findIndex((mount) => mount.destination === template.destination);
    const existing = mounts[at];
    if (existing === undefined) mounts.push({ destination, source, type_: template.type_, options });
    else mounts[at] = { ...existing, source, type_: template.type_, options };
  }
}

function addVolume(mounts: PolicyMount[], storages: PolicyStorage[], volume: Volume, mount: VolumeMount, input: MountInput): void {
  const { settings, report } = input;
  const base = baseName(mount, report);
  const copied = `$(sfprefix)${base}$`;
  const access = mount.readOnly ? "ro" : "rw";
  const { source } = volume;
  switch (source.kind) {
    case "emptyDir": {
      if (mount.subPathExpr !== undefined) {
        mounts.push(bindMount(mount.mountPath, `${settings.volumes.configMap.mountSource}${base}$`, "rprivate", access));
        return;
      }
      const memory = source.medium === "Memory";
      if (source.medium !== "" && !memory) report(volume.at, `emptyDir medium ${JSON.stringify(source.medium)} is not supported`);
      const kind = memory ? settings.volumes.emptyDirMemory : settings.volumes.emptyDir;
      storages.push(volumeStorage(kind, kind.source, `${kind.mountPoint}${volume.name}$`));
      mounts.push({
        destination: mount.mountPath,
        source: `${kind.mountSource}${volume.name}$`,
        type_: kind.mountType,
        options: ["rbind", "rprivate", memory || settings.followKubernetes ? access : "rw"],
      });
      return;
    }
    case "hostPath": {
      const propagation = mount.mountPropagation === "Bidirectional" ? "rshared" : "rprivate";
      if (isBelow(source.path, "/dev") || isBelow(source.path, "/sys")) putMount(mounts, bindMount(mount.mountPath, source.path, propagation, access));
      else putMount(mounts, bindMount(mount.mountPath, copied, propagation, access));
      return;
    }
    case "persistentVolumeClaim":
    case "azureFile":
      putMount(mounts, bindMount(mount.mountPath, copied, "rprivate", settings.followKubernetes ? access : "rw"));
      return;
    case "configMap":
    case "secret": {
      const kind = settings.confidentialGuest ? settings.volumes.confidentialConfigMap : settings.volumes.configMap;
      if (!settings.confidentialGuest) storages.push(volumeStorage(kind, `${kind.mountSource}${base}$`, `${kind.mountPoint}${base}$`));
      mounts.push({ destination: mount.mountPath, source: `${kind.mountPoint}${base}$`, type_: kind.mountType, options: kind.options });
      return;
    }
    case "projected":
    case "downwardAPI":
      mounts.push(bindMount(mount.mountPath, copied, "rprivate", "ro"));
      return;
  }
}

function bindMount(destination: string, source: string, propagation: string, access: string): PolicyMount {
  return { destination, source, type_: "bind", options: ["rbind", propagation, access] };
}

function volumeStorage(kind: StorageSettings, source: string, mountPoint: string): PolicyStorage {
  return { driver: kind.driver, driver_options: [], source, fstype: kind.fstype, options: kind.options, mount_point: mountPoint, fs_group: null };
}

/** Replaces the mount of the same destination, or appends. */
function putMount(mounts: PolicyMount[], mount: PolicyMount): void {
  const at = mounts.findIndex(({ destination }) => destination === mount.destination);
  if (at === -1) mounts.push(mount);
  else mounts[at] = mount;
}

function baseName(mount: VolumeMount, report: Report): string {
  const base = lastComponent(mount.mountPath);
  if (base === "" || base === "..") report(mount.at, `mountPath ${JSON.stringify(mount.mountPath)} has no last component`);
  return base;
}

/** Last component of a path; trailing slashes and `.` do not count. */
function lastComponent(path: string): string {
  return path.split("/").findLast((part) => part !== "" && part !== ".") ?? "";
}

function isBelow(path: string, root: string): boolean {
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  return path.startsWith("/") && parts[0] === root.slice(1);
}
