import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import type { QueryStatement, RegoResult } from "@sealpod/rego";
import { prettyJson } from "./json-text.ts";
import { table } from "./table.ts";

/** Solutions in the shape of OPA's JSON; undefined if there is none. */
export function resultJson(results: readonly RegoResult[], statements: readonly QueryStatement[]): JsonValue | undefined {
  if (results.length === 0) return undefined;
  return results.map(({ expressions, bindings }) => ({
    expressions: expressions.map((value, at) => {
      const { text, position } = statements[at]!;
      return { value, text, location: { row: position.line, col: position.column } };
    }),
    ...(Object.keys(bindings).length === 0 ? {} : { bindings }),
  }));
}

/** Longest cell of a table. */
const MAX_CELL = 80;

/** Solutions for people: one value as JSON, several or bindings as a table. */
export function resultText(results: readonly RegoResult[], statements: readonly QueryStatement[]): string {
  const [first] = results;
  if (first === undefined) return "undefined\n";
  const names = Object.keys(first.bindings).toSorted();
  // What is true in every solution tells nothing.
  const shown = statements.map((_, at) => at).filter((at) => results.some(({ expressions }) => typeof expressions[at] !== "boolean"));
  if ((results.length === 1 && names.length === 0 && (first.expressions.length === 1 || shown.length === 0)) || names.length + shown.length === 0) {
    return `${prettyJson(first.expressions[0]!)}\n`;
  }
  const columns = [...names, ...shown.map((at) => cut(statements[at]!.text.replaceAll(/\s+/g, " ")))].map((name) => ({ name }));
  const cell = (value: JsonValue | undefined): string => cut(value === undefined ? "" : encodeJson(value));
  return table(
    columns,
    results.map(({ expressions, bindings }) => [...names.map((name) => cell(bindings[name])), ...shown.map((at) => cell(expressions[at]))]),
  );
}

function cut(text: string): string {
  return text.length > MAX_CELL ? `${text.slice(0, MAX_CELL)}...` : text;
}

/** Solutions for scripts: a line each, values with a space between them, strings without quotes. */
export function resultRaw(results: readonly RegoResult[]): string {
  return results.map(({ expressions }) => `${expressions.map((value) => (typeof value === "string" ? value : encodeJson(value))).join(" ")}\n`).join("");
}

/** The bindings of each solution, a JSON document each. */
export function bindingsText(results: readonly RegoResult[]): string {
  return results.map(({ bindings }) => `${prettyJson(bindings)}\n`).join("");
}

/** The values of each solution, a JSON array each. */
export function valuesText(results: readonly RegoResult[]): string {
  return results.map(({ expressions }) => `${prettyJson(expressions)}\n`).join("");
}

/** Names and numbers as a table. */
export function metricsText(metrics: JsonObject): string {
  return table(
    [{ name: "METRIC" }, { name: "VALUE", align: "right" }],
    Object.entries(metrics).map(([name, value]) => [name, encodeJson(value)]),
  );
}
