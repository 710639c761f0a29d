import type { JsonObject, JsonValue } from "@sealpod/core";
import type { Trace, TraceEntry, TraceFailure } from "@sealpod/rego";
import { at, location, printable } from "./output.ts";

/** Which rule bodies an explanation shows. */
export type Explanation = "full" | "fails";

/** The trace of an evaluation for people: each rule body that was tried, and the statement at which it stopped, with its values. */
export function explanationText(trace: Trace, which: Explanation): string {
  const lines: string[] = [];
  for (const entry of selected(trace, which)) {
    const indent = "| ".repeat(which === "full" ? entry.depth : 0);
    lines.push(`${indent}${entry.rule} (${at(entry.position)}) ${entry.held ? "holds" : "does not hold"}`);
    if (entry.failed !== undefined) lines.push(...failureLines(entry.failed).map((line) => `${indent}  ${line}`));
  }
  if (lines.length === 0) lines.push(which === "fails" ? "no rule body failed" : "no rule body was tried");
  if (trace.dropped > 0) lines.push(`${trace.dropped} more rule bodies were tried`);
  return `${lines.join("\n")}\n`;
}

/** The trace as data. */
export function explanationJson(trace: Trace, which: Explanation): JsonValue {
  return selected(trace, which).map((entry) => ({
    rule: entry.rule,
    location: location(entry.position),
    depth: entry.depth,
    held: entry.held,
    ...(entry.failed === undefined ? {} : { failed: failureJson(entry.failed) }),
  }));
}

/** A statement and the values it had as data. */
export function failureJson({ position, text, operands }: TraceFailure): JsonObject {
  const values = operands.map(({ text: operand, value }) => ({ text: operand, ...(value === undefined ? { undefined: true } : { value }) }));
  return { location: location(position), text, operands: values };
}

/** A statement and the values it had, a line each. */
export function failureLines({ position, text, operands }: TraceFailure): readonly string[] {
  const seen = operands.filter(({ text: operand, value }) => operand !== value);
  return [
    `${at(position)}: ${oneLine(text)}`,
    ...seen.map(({ text: operand, value }) => `  ${oneLine(operand)} is ${value === undefined ? "undefined" : oneLine(value)}`),
  ];
}

function selected(trace: Trace, which: Explanation): readonly TraceEntry[] {
  return which === "full" ? trace.entries : trace.entries.filter(({ held, failed }) => !held && failed !== undefined);
}

function oneLine(text: string): string {
  return printable(text.replaceAll(/\s*\n\s*/g, " "));
}
