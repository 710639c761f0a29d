// Paths in the guest. Policies name them, so they are not free to choose (specs/runtime.md 4.10, 4.11).

/** Roots of containers and copied files. */
export const SHARED_CONTAINERS = "/run/kata-containers/shared/containers";

/** Mount points of image layers. */
export const LAYER_DIRECTORY = "/run/kata-containers/sandbox/layers";

/** Shared memory of the pod. */
export const SANDBOX_SHM = "/run/kata-containers/sandbox/shm";

/** Volumes in memory. */
export const EPHEMERAL_DIRECTORY = "/run/kata-containers/sandbox/ephemeral";

/** Volumes on disks of their own. */
export const DISK_VOLUMES = "/run/kata-containers/sandbox/storage";

/** Where the two generations of policies want things that the guest makes (DESIGN section 3). */
export interface GuestLayout {
  /** Root directory of a container. */
  root(containerId: string): string;
  /** Directory of an emptyDir that is memory of the guest though it was a directory of the node. */
  localVolume(sandboxId: string, name: string): string;
}

/** AKS Confidential Containers (specs/runtime.md 4.10 A, 4.11). */
export const AKS_LAYOUT: GuestLayout = {
  root: (containerId) => `${SHARED_CONTAINERS}/${containerId}`,
  localVolume: (sandboxId, name) => `${SHARED_CONTAINERS}/${sandboxId}/local/${name}`,
};

/** Upstream Kata and CoCo (specs/runtime.md 3.8, 4.11). */
export const COCO_LAYOUT: GuestLayout = {
  root: (containerId) => `/run/kata-containers/${containerId}/rootfs`,
  localVolume: (sandboxId, name) => `${SHARED_CONTAINERS}/${sandboxId}/rootfs/local/${name}`,
};

/**
 * Where a file is copied to for a mount.
 * @param unique 16 lower-case hex digits, so that two mounts with the same last component do not meet
 */
export function copiedPath(containerId: string, unique: string, destination: string): string {
  return `${SHARED_CONTAINERS}/${containerId}-${unique}-${lastComponent(destination)}`;
}

/** The part after the last `/`; slashes at the end do not count. */
export function lastComponent(path: string): string {
  return path.replace(/\/+$/, "").split("/").at(-1) ?? "";
}
