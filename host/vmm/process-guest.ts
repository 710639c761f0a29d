import type { ProcessGuest } from "./driver.ts";

/** How the guest is started without a virtual machine: Node with the agent's bundle. */
export function processGuest(node: string, agentBundle: string): ProcessGuest {
  return {
    kind: "process",
    command: [node, "--disallow-code-generation-from-strings", agentBundle],
    measuredFiles: [agentBundle],
    commandLine: "agent --profile aks",
  };
}
