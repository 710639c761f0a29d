import { join } from "node:path";
import { checkNode, type InstallPlan, type InstallTarget, planInstall, planUninstall, PROCESSOR_UNIT } from "@sealpod/install";
import { launcherText } from "@sealpod/shim";
import { EXIT, type CliContext } from "../context.ts";
import { containerdPorts, nodePorts } from "../host/node-ports.ts";
import type { GlobalOptions, Verb } from "../program.ts";
import { guestNode, pathOf, ROOT } from "../workspace.ts";

interface Options {
  readonly prefix?: string;
  readonly root: string;
  readonly containerdConfig?: string;
  readonly uvm?: string;
  readonly bundles?: string;
  readonly node?: string;
  readonly emulated?: boolean;
  readonly hardware?: boolean;
  readonly dryRun?: boolean;
  readonly uninstall?: boolean;
}

/** `sealpod host install`. */
export const run: Verb<Options> = async (options, _operands, context) => {
  const target: InstallTarget = {
    root: pathOf(options.root, context),
    ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
    ...(options.containerdConfig === undefined ? {} : { containerdConfig: options.containerdConfig }),
  };
  if (options.uninstall === true) {
    const plan = await planUninstall(target);
    const next =
      plan.changes.length === 0
        ? []
        : ["systemctl daemon-reload", "systemctl restart containerd", "kubectl delete runtimeclass kata-cc kata-cc-isolation   # with the last node"];
    return carryOut(plan, next, options, context);
  }
  const emulated = options.emulated === true || (options.hardware !== true && !(await hasSnp()));
  const bundles = options.bundles === undefined ? join(ROOT, "build") : pathOf(options.bundles, context);
  const bundle = (name: string): string => join(bundles, `${name}.mjs`);
  const sources = {
    node: options.node === undefined ? guestNode() : pathOf(options.node, context),
    shim: bundle("shim"),
    agent: bundle("agent"),
    processor: bundle("processor"),
    uvm: options.uvm === undefined ? join(ROOT, "build", "uvm") : pathOf(options.uvm, context),
    launcher: launcherText,
  };
  const plan = await planInstall(target, sources, emulated, containerdPorts());
  const next = [
    ...(emulated ? ["systemctl daemon-reload", `systemctl enable --now ${PROCESSOR_UNIT}`] : []),
    "systemctl restart containerd",
    `kubectl apply -f ${options.prefix ?? "/opt/sealpod"}/runtimeclass.yaml   # once for the cluster`,
  ];
  return carryOut(plan, next, options, context);
};

/** Whether this machine has SEV-SNP, whatever else it lacks. */
async function hasSnp(): Promise<boolean> {
  const { findings } = await checkNode(nodePorts());
  return findings.some(({ id, state }) => id === "sev-snp" && state === "ok");
}

async function carryOut(plan: InstallPlan, next: readonly string[], options: Options & GlobalOptions, context: CliContext): Promise<number> {
  if (options.dryRun !== true) await plan.apply();
  if (options.json === true) {
    const result = { applied: options.dryRun !== true, changes: plan.changes, warnings: plan.warnings, notes: plan.notes, next };
    context.stdout.write(`${JSON.stringify(result, undefined, 2)}\n`);
    return EXIT.ok;
  }
  const lines = plan.changes.map(({ kind, path, note }) => `${kind.padEnd(8)} ${path}${note === undefined ? "" : ` (${note})`}`);
  if (lines.length === 0) lines.push("nothing of sealpod is installed here");
  if (plan.warnings.length > 0) lines.push("", ...plan.warnings.map((text) => `warning: ${text}`));
  if (plan.notes.length > 0) lines.push("", ...plan.notes.map((text) => `note: ${text}`));
  if (options.dryRun === true) lines.push("", "Nothing was changed (--dry-run).");
  else if (next.length > 0) lines.push("", "Now:", ...next.map((command) => `  ${command}`));
  context.stdout.write(`${lines.join("\n")}\n`);
  return EXIT.ok;
}
