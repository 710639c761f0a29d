export * from "./access-token.ts";
export * from "./allowed-stores.ts";
export * from "./app.ts";
export * from "./arguments.ts";
export * from "./authorities.ts";
export * from "./backend.ts";
export * from "./caller.ts";
export * from "./errors.ts";
export * from "./evidence.ts";
export * from "./flags.ts";
export * from "./http-client.ts";
export * from "./https-client.ts";
export { azureBackend, type AzureOptions, type ReleasePorts } from "./key-release.ts";
export { wrapForKeyPath } from "./key-provider.ts";
export * from "./listener.ts";
export * from "./reasons.ts";
export * from "./request-gate.ts";
export * from "./security-context.ts";
export {
  openSidecarLog,
  openSidecarPorts,
  readAuthorities,
  readBounded,
  readKbsOptions,
  readText,
  sidecarBackends,
  type SidecarProcess,
} from "./sidecar-process.ts";
export * from "./workload-identity.ts";
