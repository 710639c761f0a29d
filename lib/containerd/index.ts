/** containerd through its socket: CRI pulls images, its own services give their bytes, and tell of containers, snapshots and events. */
export { Containerd, ContainerdNamespace } from "./client.ts";
export type { ContainerdEvent, ContainerdPlugin, ContainerdVersion, ContainerRecord } from "./client.ts";
export { connectContainerd, openContainerd } from "./containerd.ts";
export type { ContainerdClientOptions, ContainerdOptions, ContainerdPorts } from "./containerd.ts";
export type { ContentInfo, ImageTarget, NamedImage } from "./content-store.ts";
export type { RegistryCredentials } from "./cri.ts";
export { CONTAINERD_ERRORS, ContainerdError } from "./errors.ts";
export type { ContainerdErrorCode, ContainerdErrorOptions } from "./errors.ts";
export { DEFAULT_TIMEOUTS } from "./limits.ts";
export type { ContainerdTimeouts } from "./limits.ts";
