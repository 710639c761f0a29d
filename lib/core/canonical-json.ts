import type { JsonValue } from "./json.ts";

/**
 * Canonical JSON (RFC 8785, JCS): members sorted by UTF-16 units, no spaces, strings and numbers as ECMAScript writes them.
 * @throws {RangeError} for an integer beyond 2^53 and a string with half of a surrogate pair, which have no canonical form (RFC 8785 section 3.2.2)
 */
export function canonicalJson(value: JsonValue): string {
  if (typeof value === "bigint") throw new RangeError(`the integer ${value} has no canonical form`);
  if (typeof value === "string") return canonicalString(value);
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${(value as readonly JsonValue[]).map(canonicalJson).join(",")}]`;
  const members = Object.entries(value as Readonly<Record<string, JsonValue>>).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([name, item]) => `${canonicalString(name)}:${canonicalJson(item)}`).join(",")}}`;
}

function canonicalString(text: string): string {
  if (!text.isWellFormed()) throw new RangeError("a string with half of a surrogate pair has no canonical form");
  return JSON.stringify(text);
}
