import { asArray, asObject, encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import type { GlobalOptions } from "../program.ts";
import { printable, writeJson } from "../rego/output.ts";

/** Writes a document as JSON, or the text that stands for it. */
export function writeResult(context: CliContext, options: GlobalOptions, document: JsonObject | readonly JsonValue[], text: () => string): void {
  if (options.json === true) writeJson(context.stdout, document);
  else context.stdout.write(printable(text()));
}

/** `name  value` lines, names padded to one width; what is undefined or empty is left out. */
export function fieldsText(fields: Readonly<Record<string, JsonValue | undefined>>): string {
  const shown = Object.entries(fields).filter(([, value]) => value !== undefined && value !== "");
  const width = Math.max(...shown.map(([name]) => name.length), 0) + 2;
  return shown.map(([name, value]) => `${name.padEnd(width)}${valueText(value)}\n`).join("");
}

/** Rows with columns of one width each; the first row is the heading. */
export function tableText(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_cell, column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  return rows.map((row) => `${row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))).join("  ")}\n`).join("");
}

/** What a federated credential lets in. */
export function credentialText(credential: JsonObject): string {
  const audiences = (asArray(credential["audiences"]) ?? []).map(valueText).join(", ");
  return `${valueText(credential["issuer"])}  ${valueText(credential["subject"])}  ${audiences}`;
}

/** The items of a list that a service gave. */
export function itemsOf(document: JsonObject): readonly JsonObject[] {
  return (asArray(document["value"]) ?? []).map((item) => asObject(item) ?? {});
}

/** A value for a line. */
export function valueText(value: JsonValue | undefined): string {
  return typeof value === "string" ? value : value === undefined ? "" : encodeJson(value);
}
