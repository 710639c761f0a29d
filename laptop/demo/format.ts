import type { DemoResult, RefusalResult, StepResult } from "./result.ts";

/** Widest line of the table: reasons are cut there, `--json` has them whole. */
const MAX_REASON = 96;

/** Text of one finished step or refusal, ending in a newline. */
export function formatResult(result: StepResult | RefusalResult): string {
  const mark = result.ok ? "ok  " : "FAIL";
  const lines = [`${mark} ${result.title}  (${formatTime(result.milliseconds)})`, `     $ ${result.command}`];
  if (result.kind === "refusal") lines.push(`     refused by the ${result.refuser}: ${oneLine(result.reason, 400)}`);
  for (const [name, value] of Object.entries(result.facts)) lines.push(...`${name}: ${value}`.split("\n").map((line) => `     ${line}`));
  if (result.kind === "step" && result.problem !== undefined) lines.push(...result.problem.split("\n").map((line) => `     ${line}`));
  return `${lines.join("\n")}\n`;
}

/** The summary table and the verdict, ending in a newline. */
export function formatSummary(result: DemoResult): string {
  const rows: (readonly [string, string, string, string])[] = [["", "step", "time", "outcome"]];
  for (const step of result.steps)
    rows.push([step.ok ? "ok" : "FAIL", step.name, formatTime(step.milliseconds), step.ok ? "done" : oneLine(step.problem ?? "failed", MAX_REASON)]);
  for (const item of result.refusals)
    rows.push([
      item.ok ? "ok" : "FAIL",
      item.name,
      formatTime(item.milliseconds),
      `${item.ok ? `refused by the ${item.refuser}` : "NOT REFUSED AS SAID"}: ${oneLine(item.reason, MAX_REASON)}`,
    ]);
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  const done = result.steps.filter((step) => step.ok).length;
  const refused = result.refusals.filter((item) => item.ok).length;
  lines.push("", `${done} of ${result.steps.length} steps done, ${refused} of ${result.refusals.length} attacks refused, ${formatTime(result.milliseconds)}.`);
  lines.push(result.ok ? "Everything came out as said." : "NOT everything came out as said: see FAIL above.");
  for (const line of result.emulated) lines.push(`EMULATED: ${line}`);
  if (result.kept !== undefined) lines.push(`Artefacts: ${result.kept}`);
  return `${lines.join("\n")}\n`;
}

/** Milliseconds as people read them. */
export function formatTime(milliseconds: number): string {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

function oneLine(text: string, limit: number): string {
  const line = text.replaceAll(/\s+/g, " ").trim();
  return line.length <= limit ? line : `${line.slice(0, limit - 1)}…`;
}
