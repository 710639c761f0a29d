import { checkNode, type FindingState } from "@sealpod/install";
import { EXIT } from "../context.ts";
import { nodePorts } from "../host/node-ports.ts";
import type { Verb } from "../program.ts";

const WORDS: Readonly<Record<FindingState, string>> = { ok: "ok", less: "LESS", emulated: "EMULATED", missing: "MISSING" };

/** `sealpod host check`. */
export const run: Verb<object> = async (options, _operands, context) => {
  const report = await checkNode(nodePorts());
  if (options.json === true) {
    context.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
    return report.usable ? EXIT.ok : EXIT.failed;
  }
  const lines: string[] = [];
  for (const { id, state, found, note } of report.findings) {
    lines.push(`${WORDS[state].padEnd(9)} ${id}: ${found}`);
    if (note !== undefined) lines.push(`          ${note}`);
  }
  const verdict = {
    snp: "Pods run in virtual machines whose memory this node cannot read (SEV-SNP).",
    vm: "Pods run in virtual machines; this node can read their memory. Evidence of such pods is EMULATED.",
    process: "Pods are PROCESSES of this node, for trying things out: no isolation from its root. Evidence of such pods is EMULATED.",
    none: "No pod can run on this node as it is.",
  }[report.isolation];
  lines.push("", verdict);
  if (report.install !== undefined) lines.push(`To install what is missing: ${report.install}`);
  context.stdout.write(`${lines.join("\n")}\n`);
  return report.usable ? EXIT.ok : EXIT.failed;
};
