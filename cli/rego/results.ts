import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { compile, RegoError, type RegoModule, type RegoResult } from "@sealpod/rego";
import { EXTENDED_BUILTINS } from "@sealpod/rego-extended";
import { prettyJson } from "./json-text.ts";
import { table } from "./table.ts";

/** A statement of a query as its author wrote it. */
export interface QueryStatement {
  readonly text: string;
  readonly row: number;
  readonly column: number;
}

/** Name of a rule that no query has a variable of. */
const RULE = "sealpod_query_statements__";

/** Lines that stand before the query in the module that is made of it. */
const LINES_BEFORE = 2;

/**
 * The statements of a query that has been evaluated, one for each of its expressions. The engine finds them: the query is made the
 * body of a rule, and its places are read.
 */
export function queryStatements(
  query: string,
  count: number,
  modules: readonly RegoModule[],
  versions: { readonly version: "v0" | "v1" },
): readonly QueryStatement[] {
  const whole = { text: query.trim(), row: 1, column: query.length - query.trimStart().length + 1 };
  if (count === 1) return [whole];
  const name = "query";
  const own: RegoModule = { name, text: `package ${RULE}\n${RULE} if {\n${query}\n}\n`, version: "v1" };
  let places;
  try {
    places = compile([...modules, own], { ...versions, builtins: EXTENDED_BUILTINS }).places();
  } catch (error) {
    // What a query may do and a rule may not, e.g. ask for all of `data`, which would make the rule depend on itself.
    if (error instanceof RegoError) return Array.from({ length: count }, () => whole);
    throw error;
  }
  const found: QueryStatement[] = [];
  let end = { line: 0, column: 0 };
  const before = (a: { line: number; column: number }, b: { line: number; column: number }): boolean =>
    a.line < b.line || (a.line === b.line && a.column < b.column);
  const statements = places.filter(({ kind, rule }) => kind === "statement" && rule === `data.${RULE}.${RULE}`);
  for (const place of statements.toSorted((a, b) => (before(a.position, b.position) ? -1 : 1))) {
    // A statement inside another one belongs to a comprehension or an `every`.
    if (before(place.position, end)) continue;
    ({ end } = place);
    found.push({ text: place.text, row: place.position.line - LINES_BEFORE, column: place.position.column });
  }
  return found.length === count ? found : Array.from({ length: count }, () => whole);
}

/** Solutions in the shape of OPA's JSON; undefined if there is none. */
export function resultJson(results: readonly RegoResult[], statements: readonly QueryStatement[]): JsonValue | undefined {
  if (results.length === 0) return undefined;
  return results.map(({ expressions, bindings }) => ({
    expressions: expressions.map((value, at) => {
      const { text, row, column } = statements[at]!;
      return { value, text, location: { row, col: column } };
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
