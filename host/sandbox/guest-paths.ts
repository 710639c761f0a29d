// Paths in the guest. Policies name them, so they are not free to choose (specs/runtime.md 4.10, 4.11).

/** Roots of containers and copied files. */
export const SHARED_CONTAINERS = "/run/kata-containers/shared/containers";

/** Mount points of image layers. */
export const LAYER_DIRECTORY = "/run/kata-containers/sandbox/layers";

/** Shared memory of the pod. */
export const SANDBOX_SHM = "/run/kata-containers/sandbox/shm";

/** Volumes in memory. */
export const EPHEMERAL_DIRECTORY = "/run/kata-containers/sandbox/ephemeral";

/** Root directory of a container. */
export function containerRoot(containerId: string): string {
  return `${SHARED_CONTAINERS}/${containerId}`;
}

/**
 * Where a file is copied to for a mount.
 * @param unique 16 lower-case hex digits, so that two mounts with the same last component do not meet
 */
export function copiedPath(containerId: string, unique: string, destination: string): string {
  return `${SHARED_CONTAINERS}/${containerId}-${unique}-${lastComponent(destination)}`;
}

/** Directory of an emptyDir on the node's disk; in the guest it is in the first container's writable layer. */
export function localVolume(sandboxId: string, name: string): string {
  return `${SHARED_CONTAINERS}/${sandboxId}/local/${name}`;
}

/** The part after the last `/`; slashes at the end do not count. */
export function lastComponent(path: string): string {
  return path.replace(/\/+$/, "").split("/").at(-1) ?? "";
}
