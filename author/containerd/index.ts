/** Container images through containerd's socket: CRI pulls them, the content store gives the bytes. */
export { openContainerd } from "./containerd.ts";
export type { ContainerdOptions, ContainerdPorts } from "./containerd.ts";
export type { RegistryCredentials } from "./cri.ts";
export { CONTAINERD_ERRORS, ContainerdError } from "./errors.ts";
export type { ContainerdErrorCode, ContainerdErrorOptions } from "./errors.ts";
export { DEFAULT_TIMEOUTS } from "./limits.ts";
export type { ContainerdTimeouts } from "./limits.ts";
