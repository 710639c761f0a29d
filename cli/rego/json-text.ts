import { encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";

/** JSON of a value with two spaces of indentation; integers beyond 2^53 stay exact. */
export function prettyJson(value: JsonValue, indent = ""): string {
  if (typeof value !== "object" || value === null) return encodeJson(value);
  const inner = `${indent}  `;
  const list = Array.isArray(value);
  const members = list
    ? (value as readonly JsonValue[]).map((item) => prettyJson(item, inner))
    : Object.entries(value as JsonObject).map(([name, item]) => `${JSON.stringify(name)}: ${prettyJson(item, inner)}`);
  const [open, close] = list ? ["[", "]"] : ["{", "}"];
  return members.length === 0 ? `${open}${close}` : `${open}\n${inner}${members.join(`,\n${inner}`)}\n${indent}${close}`;
}
