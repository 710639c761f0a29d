import { problemText, type PolicyProblem } from "@sealpod/attestation";
import type { JsonObject } from "@sealpod/core";
import { printable } from "../rego/output.ts";

/** Problems for people: place, line and caret, and what to do. Ends in a newline. */
export function problemsText(file: string, problems: readonly PolicyProblem[]): string {
  const blocks = problems.map((item) => {
    const { line, column, found, problem, excerpt, caret, hint } = item;
    const lines = [`${file}:${line}:${column}: ${problem}, found ${found}`, `  ${excerpt}`, `  ${caret}`];
    if (hint !== undefined) lines.push(`  to do: ${hint}`);
    return lines.join("\n");
  });
  return printable(`${blocks.join("\n")}\n${problems.length} problem${problems.length === 1 ? "" : "s"} in ${file}\n`);
}

/** Problems as data; `message` is in the shape of the genuine service. */
export function problemsJson(file: string, problems: readonly PolicyProblem[]): readonly JsonObject[] {
  return problems.map((item) => {
    const { line, column, found, problem, hint } = item;
    return { file, line, column, found, problem, ...(hint === undefined ? {} : { hint }), message: problemText(item) };
  });
}
