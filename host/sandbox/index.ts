/** A pod's sandbox as the host sees it. */
export { COPY_CHUNK } from "./copy-files.ts";
export * from "./errors.ts";
export { GuestProcess, type ProcessOutput } from "./guest-process.ts";
export * from "./guest-paths.ts";
export * from "./layer-store.ts";
export type { FileOwner } from "./copy-files.ts";
export { type HostVolumes, LOCAL_VOLUMES } from "./mounts.ts";
export type { GuestAddress, GuestNetwork } from "./network.ts";
export { Container, Sandbox, createSandbox, policyHostData } from "./sandbox.ts";
export type { ContainerOptions, ExecOptions, SandboxInitdata, SandboxMachine, SandboxOptions } from "./sandbox.ts";
export * from "./sizing.ts";
export type { AttachedLayer, ContainerLayer, LayerFormat } from "./storages.ts";
