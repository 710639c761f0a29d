import { asArray, asObject, decodeUtf8, encodeJson, fromAnyBase64, isSealpodError, type JsonObject, type JsonValue } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import { writeJson } from "../rego/output.ts";
import type { GlobalOptions } from "../program.ts";

/** Writes what a vault gave: its JSON as it is, or lines for a person. */
export function writeResult(options: GlobalOptions, context: CliContext, json: JsonValue, text: string): void {
  if (options.json === true) writeJson(context.stdout, json);
  else context.stdout.write(text);
}

/** A key bundle, or a deleted one, in lines; ends in a newline. Nothing in it is secret. */
export function keyText(bundle: JsonObject): string {
  const key = asObject(bundle["key"]) ?? {};
  const ops = (asArray(key["key_ops"]) ?? []).map(shown).join(", ");
  const policy = policyTextOf(bundle);
  const immutable = asObject(bundle["release_policy"])?.["immutable"] === true ? " (immutable)" : "";
  return lines([
    shown(key["kid"]),
    `  type:           ${kindText(key)}${ops === "" ? "" : `; ${ops}`}`,
    ...attributeLines(bundle),
    ...(policy === undefined ? [] : [`  release policy${immutable}: ${oneLine(policy)}`]),
  ]);
}

/** A secret's properties in lines; its value is not among them. */
export function secretText(bundle: JsonObject): string {
  const contentType = bundle["contentType"];
  return lines([shown(bundle["id"]), ...(typeof contentType === "string" ? [`  content type:   ${shown(contentType)}`] : []), ...attributeLines(bundle)]);
}

/** One line for an item of a list of keys or secrets, live or deleted. */
export function itemText(item: JsonObject): string {
  const { enabled, exportable, exp } = asObject(item["attributes"]) ?? {};
  const notes = [
    enabled === false ? "disabled" : "",
    exportable === true ? "exportable" : "",
    typeof exp === "number" ? `expires ${timeText(exp)}` : "",
    typeof item["scheduledPurgeDate"] === "number" ? `purged ${timeText(item["scheduledPurgeDate"])}` : "",
  ].filter((note) => note !== "");
  return `${shown(item["kid"] ?? item["id"])}${notes.length === 0 ? "" : `  (${notes.join(", ")})`}\n`;
}

/** Text of the release policy within a bundle, undefined if it has none that can be read. */
export function policyTextOf(bundle: JsonObject): string | undefined {
  const data = asObject(bundle["release_policy"])?.["data"];
  if (typeof data !== "string") return undefined;
  try {
    return decodeUtf8(fromAnyBase64(data, "release_policy.data"), "release_policy.data");
  } catch (error) {
    if (isSealpodError(error)) return undefined;
    throw error;
  }
}

/** Seconds since 1970 as `2026-01-02T03:04:05Z`. */
export function timeText(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? String(seconds) : date.toISOString().replace(".000Z", "Z");
}

/** Characters of a text of others that are shown: a kid has some 120, a sentence of a vault some hundred. */
const MAX_SHOWN = 500;

/** Text of another for the terminal: one line, no control characters, not long. */
export function printable(text: string): string {
  return text.replaceAll(/\p{C}+/gu, " ").slice(0, MAX_SHOWN);
}

/** A value of another for the terminal: one line without control characters. */
export function shown(value: JsonValue | undefined): string {
  return printable(value === undefined ? "" : typeof value === "string" ? value : encodeJson(value));
}

function oneLine(text: string): string {
  return text.replaceAll(/\p{C}+/gu, " ");
}

function attributeLines(bundle: JsonObject): readonly string[] {
  const { enabled, exportable, created, updated, nbf, exp } = asObject(bundle["attributes"]) ?? {};
  const times = [
    ["created", created],
    ["updated", updated],
    ["not before", nbf],
    ["expires", exp],
  ] as const;
  const state = [enabled === false ? "disabled" : "enabled", ...(exportable === true ? ["exportable"] : [])];
  const tags = Object.entries(asObject(bundle["tags"]) ?? {}).map(([name, value]) => `${shown(name)}=${shown(value)}`);
  const { deletedDate, scheduledPurgeDate } = bundle;
  return [
    `  state:          ${[...state, ...times.flatMap(([name, at]) => (typeof at === "number" ? [`${name} ${timeText(at)}`] : []))].join(", ")}`,
    ...(typeof deletedDate === "number"
      ? [`  deleted:        ${timeText(deletedDate)}${typeof scheduledPurgeDate === "number" ? `, purged ${timeText(scheduledPurgeDate)}` : ""}`]
      : []),
    ...(tags.length === 0 ? [] : [`  tags:           ${tags.join(", ")}`]),
  ];
}

function kindText(key: JsonObject): string {
  const { kty, crv, n } = key;
  const bits = typeof n === "string" ? ` ${modulusBits(n)}` : "";
  return `${shown(kty)}${typeof crv === "string" ? ` ${shown(crv)}` : bits}`;
}

function modulusBits(n: string): number {
  try {
    const bytes = fromAnyBase64(n, "n");
    const first = bytes.findIndex((byte) => byte !== 0);
    return first === -1 ? 0 : (bytes.length - first - 1) * 8 + (32 - Math.clz32(bytes[first] ?? 0));
  } catch (error) {
    if (isSealpodError(error)) return 0;
    throw error;
  }
}

function lines(items: readonly string[]): string {
  return items.map((item) => `${item}\n`).join("");
}

/**
 * Writes a list of keys or secrets: one JSON list, or one line for each as it comes.
 * @param none what stderr says of an empty list, so that stdout stays what programs read
 */
export async function writeList(options: GlobalOptions, context: CliContext, items: AsyncIterable<JsonObject>, none: string): Promise<void> {
  let count = 0;
  const all: JsonObject[] = [];
  for await (const item of items) {
    count++;
    if (options.json === true) all.push(item);
    else context.stdout.write(itemText(item));
  }
  if (options.json === true) writeJson(context.stdout, all);
  else if (count === 0) context.stderr.write(`${none}\n`);
}
