import { HANDLERS } from "./containerd-config.ts";

/** MiB that the scheduler counts for a machine beside the limits of its containers, as AKS does (specs/runtime.md 6.4). */
const OVERHEAD_MIB = 600;

/** What a pod takes of its node, and what the scheduler knows of it. */
export function memoryNote(sizing: { readonly defaultMemoryMiB: number; readonly staticSandbox: boolean; readonly defaultWorkloadMemoryMiB: number }): string {
  const { defaultMemoryMiB: own, defaultWorkloadMemoryMiB: workload, staticSandbox } = sizing;
  const machine = staticSandbox
    ? `A pod's machine takes ${own} MiB of the node beside its memory limits, and ${own + workload} MiB if it has none.`
    : `A pod's machine takes ${own} MiB of the node.`;
  return `${machine} The scheduler counts ${OVERHEAD_MIB} MiB beside the requests (RuntimeClass): docs/host.md, "Memory"`;
}

/** Name of the unit of the emulated security processor. */
export const PROCESSOR_UNIT = "sealpod-processor.service";

/** Manifest of the RuntimeClasses. */
export function runtimeClassText(): string {
  const item = (name: string): string =>
    [
      "apiVersion: node.k8s.io/v1",
      "kind: RuntimeClass",
      "metadata:",
      `  name: ${name}`,
      `handler: ${name}`,
      "overhead:",
      "  podFixed:",
      `    memory: ${OVERHEAD_MIB}Mi`,
      "# With nodes of several kinds: label those that have sealpod, and name the label here.",
      "# scheduling:",
      "#   nodeSelector:",
      '#     sealpod.example/node: "true"',
      "",
    ].join("\n");
  return `# Written by sealpod host install. Once for the whole cluster: kubectl apply -f THIS-FILE\n${HANDLERS.map(item).join("---\n")}`;
}

/** Unit of the emulated security processor. Paths are absolute. */
export function processorUnitText(places: {
  readonly node: string;
  readonly processor: string;
  readonly socket: string;
  readonly state: string;
  readonly guests: string;
}): string {
  const word = (path: string): string => `"${path.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("%", "%%").replaceAll("$", "$$$$")}"`;
  const command = [places.node, "--no-warnings", places.processor, "--socket", places.socket, "--keys", places.state, "--guests", places.guests]
    .map(word)
    .join(" ");
  return `# Written by sealpod host install.
[Unit]
Description=Sealpod's EMULATED security processor: NO HARDWARE PROTECTION
Before=containerd.service

[Service]
ExecStart=${command}
UnsetEnvironment=NODE_OPTIONS NODE_EXTRA_CA_CERTS
UMask=0077
Restart=on-failure

[Install]
WantedBy=multi-user.target
`;
}
