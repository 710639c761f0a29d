import { isSealpodError, type JsonObject, type JsonValue } from "@sealpod/core";
import { RegoError, type Diagnostic, type Position } from "@sealpod/rego";
import type { CliContext, CliOutput } from "../context.ts";
import { formatError } from "../diagnostic.ts";
import type { GlobalOptions } from "../program.ts";
import { prettyJson } from "./json-text.ts";

/** A place as OPA's JSON has it. */
export function location({ file, line, column }: Position): JsonObject {
  return { file, row: line, col: column };
}

/** `file:line:column` of a place. */
export function at({ file, line, column }: Position): string {
  return `${file}:${line}:${column}`;
}

/** Text of a policy or its values for the terminal: one that was not written by its reader must not move the cursor or paint. */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- exactly these
  return text.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");
}

/** Writes a JSON document. */
export function writeJson(output: CliOutput, value: JsonValue): void {
  output.write(`${prettyJson(value)}\n`);
}

/**
 * Runs a verb whose errors are data if its results are: `{"errors": […]}` on stdout, as OPA has it, instead of text on stderr.
 * The exit code is that of the error either way.
 */
export async function withErrors(json: boolean, options: GlobalOptions, context: CliContext, run: () => Promise<number>): Promise<number> {
  try {
    return await run();
  } catch (error) {
    if (!json || !isSealpodError(error)) throw error;
    writeJson(context.stdout, { errors: errorList(error) });
    const { text, exit } = formatError(error, { json: false, debug: options.debug === true });
    if (options.debug === true) context.stderr.write(text);
    return exit;
  }
}

/** An error as OPA's JSON has it: one element per diagnostic. */
export function errorList(error: Error & { readonly code: string }): readonly JsonObject[] {
  if (error instanceof RegoError && error.diagnostics.length > 0) {
    return distinct(error.diagnostics).map((item) => ({ message: item.message, code: item.code, location: location(item) }));
  }
  const { file, line, column } = isSealpodError(error) ? error.details : {};
  const place = typeof file === "string" && typeof line === "number" && typeof column === "number" ? { location: { file, row: line, col: column } } : {};
  const hint = isSealpodError(error) && error.hint !== undefined ? { hint: error.hint } : {};
  return [{ message: error.message, code: error.code, ...place, ...hint }];
}

/** Diagnostics in the order of the sources, each once: one mistake can be found at several statements that hang on it. */
export function distinct(diagnostics: readonly Diagnostic[]): readonly Diagnostic[] {
  const found = new Map(diagnostics.map((item) => [`${at(item)}: ${item.message}`, item]));
  return [...found.values()].toSorted((a, b) => (a.file === b.file ? a.line - b.line || a.column - b.column : a.file < b.file ? -1 : 1));
}

/** Milliseconds as people read them: `1.2ms`, `830µs`, `2.5s`. */
export function duration(milliseconds: number): string {
  if (milliseconds >= 1000) return `${digits(milliseconds / 1000)}s`;
  if (milliseconds >= 1) return `${digits(milliseconds)}ms`;
  return `${digits(milliseconds * 1000)}µs`;
}

/** Milliseconds as whole nanoseconds, the unit of OPA's JSON. */
export function nanoseconds(milliseconds: number): number {
  return Math.round(milliseconds * 1e6);
}

function digits(value: number): string {
  return String(Number(value.toPrecision(3)));
}
