import type { Volume, VolumeMount } from "@sealpod/kube";
import type { ContainerContext } from "./context.ts";
import { MountList } from "./mount-list.ts";
import { lastComponent } from "./paths.ts";
import type { PolicyMount, PolicyStorage } from "./policy-data.ts";

/** What differs between the generations, and between the known tools and Kubernetes, in the mounts of a container. */
export interface MountRules {
  /** Storages have a field `shared`. */
  readonly sharedField: boolean;
  /** Where the overlay of the image's layers is mounted. */
  rootMountPoint(context: ContainerContext): string;
  /** The pause container may write to /sys if a container of the pod is privileged. */
  readonly privilegedPause: boolean;
  /** A base name in the pattern of a settings mount's source. */
  escapeBase(base: string): string;
  /** False leaves a mount of the settings out. */
  wantsSettingsMount(destination: string, context: ContainerContext): boolean;
  /** Mounts of the container's volumes, and of those of its image. */
  addVolumes(list: MountList, context: ContainerContext): void;
}

/** Mounts and storages of a container, in the order of the known tools (specs/genpolicy.md 3.4). */
export function mountsAndStoragesOf(
  context: ContainerContext,
  rules: MountRules,
): { readonly mounts: readonly PolicyMount[]; readonly storages: readonly PolicyStorage[] } {
  const list = new MountList(rules.sharedField);
  addLayers(list, context, rules);
  addBaseMounts(list, context, rules);
  addSettingsMounts(list, context, rules);
  if (context.container !== undefined) rules.addVolumes(list, context);
  return list;
}

/** Each volume with each of its mounts, in the order of the volumes. */
export function* mountedVolumes({ workload, container }: ContainerContext): Generator<readonly [Volume, VolumeMount]> {
  for (const volume of workload.template.spec.volumes) {
    for (const mount of container?.volumeMounts ?? []) if (mount.name === volume.name) yield [volume, mount];
  }
}

/** Each claim template with each of its mounts. */
export function* mountedClaims({ workload, container }: ContainerContext): Generator<VolumeMount> {
  for (const claim of workload.volumeClaims) {
    for (const mount of container?.volumeMounts ?? []) if (mount.name === claim) yield mount;
  }
}

/** Last component of a mount's path; a path without one cannot be described. */
export function baseName(mount: VolumeMount, { report }: ContainerContext): string {
  const base = lastComponent(mount.mountPath);
  if (base === "") report(mount.at, `mountPath ${JSON.stringify(mount.mountPath)} has no last component`);
  return base;
}

/** One storage per layer, top first, and the overlay of them (specs/genpolicy.md 5.7). */
function addLayers(list: MountList, context: ContainerContext, rules: MountRules): void {
  const { image, settings } = context;
  if (settings.layerFormat === "none") return;
  const fstype = settings.layerFormat === "tarfs" ? "tar" : "erofs";
  const common = { driver_options: [], source: "", fs_group: null };
  for (const index of image.layers.keys()) {
    list.addStorage({ driver: "blk", ...common, fstype, options: [`$(hash${index})`], mount_point: `$(layer${index})` });
  }
  const options = [image.layers.map(({ id }) => id).join(":"), image.layers.map(({ rootHash }) => rootHash).join(":")];
  list.addStorage({ driver: "overlayfs", ...common, fstype: "fuse3.kata-overlay", options, mount_point: rules.rootMountPoint(context) });
}

function addBaseMounts(list: MountList, { workload, container }: ContainerContext, rules: MountRules): void {
  const { containers, initContainers } = workload.template.spec;
  const looked = container !== undefined ? [container] : rules.privilegedPause ? [...containers, ...initContainers] : [];
  const access = looked.some(({ securityContext }) => securityContext.privileged === true) ? "rw" : "ro";
  const add = (destination: string, type_: string, source: string, ...options: readonly string[]): void => list.append({ destination, source, type_, options });
  add("/proc", "proc", "proc", "nosuid", "noexec", "nodev");
  add("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k");
  add("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5");
  add("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k");
  add("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev");
  add("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", access);
  if (container !== undefined) add("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", access);
}

function addSettingsMounts(list: MountList, context: ContainerContext, rules: MountRules): void {
  const { container, settings, containerSettings } = context;
  const mounted = new Set(container?.volumeMounts.map(({ mountPath }) => mountPath));
  for (const { destination: place, type_, source: given, options: fixed } of containerSettings.mounts) {
    if (!mounted.has(place) && !(settings.mountDestinations.includes(place) && rules.wantsSettingsMount(place, context))) continue;
    const destination = (place === "/dev/termination-log" ? container?.terminationMessagePath : undefined) ?? place;
    const source = given === "" && type_ === "bind" ? `$(sfprefix)${rules.escapeBase(lastComponent(destination))}$` : given;
    const options = [...fixed];
    if (container !== undefined && (place === "/etc/hostname" || place === "/etc/resolv.conf")) {
      options.push(container.securityContext.readOnlyRootFilesystem === true ? "ro" : "rw");
    }
    if (list.has(place)) list.put({ destination, source, type_, options }, place);
    else list.append({ destination, source, type_, options });
  }
}
