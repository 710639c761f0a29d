import { quoteGo } from "./go-quote.ts";
import { formatNumber } from "./number.ts";
import type { Value } from "./value.ts";
import { isArray, RegoSet } from "./value.ts";

/**
 * A value in Rego syntax as OPA prints it: `{"a": [1, "x"]}`, sets as `{1, 2}`, the empty set as `set()`.
 * @param maxLength the text may end early once it is longer than this
 */
export function formatValue(value: Value, maxLength: number = Infinity): string {
  if (typeof value === "string") return quoteGo(value);
  if (typeof value === "number" || typeof value === "bigint") return formatNumber(value);
  if (typeof value === "boolean" || value === null) return String(value);
  if (isArray(value)) return `[${list(value, maxLength, (item, room) => formatValue(item, room))}]`;
  if (value instanceof RegoSet) return value.size === 0 ? "set()" : `{${list(value.items(), maxLength, (item, room) => formatValue(item, room))}}`;
  return `{${list(value.keys(), maxLength, (key, room) => `${formatValue(key, room)}: ${formatValue(value.get(key)!, room)}`)}}`;
}

function list(items: readonly Value[], maxLength: number, format: (item: Value, room: number) => string): string {
  let text = "";
  let first = true;
  for (const item of items) {
    if (text.length > maxLength) return `${text}, ...`;
    text += `${first ? "" : ", "}${format(item, maxLength - text.length)}`;
    first = false;
  }
  return text;
}
