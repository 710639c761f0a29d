/** What a node can do, and what is installed on it. */
export { addRuntimes, HANDLERS, removeRuntimes, RUNTIME_TYPE } from "./containerd-config.ts";
export * from "./errors.ts";
export { CONTAINERD_CONFIG, planInstall, planUninstall } from "./install.ts";
export type { InstallChange, InstallPlan, InstallPorts, InstallSources, InstallTarget } from "./install.ts";
export { PROCESSOR_UNIT, runtimeClassText } from "./texts.ts";
export { checkNode } from "./check.ts";
export type { Finding, FindingState, NodePorts, NodeReport, Packages } from "./check.ts";
