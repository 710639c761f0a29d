import { HANDLERS } from "./containerd-config.ts";

/** Memory that the scheduler counts for a machine beside the limits of its containers, as AKS does (specs/runtime.md 6.4). */
const OVERHEAD = "600Mi";

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
      `    memory: ${OVERHEAD}`,
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
