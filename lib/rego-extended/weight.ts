import type { BuiltinContext, Value } from "@sealpod/rego";
import { isArray, RegoSet } from "@sealpod/rego";

/**
 * Counts the work of reading a value as a whole before something does that. Values may share parts: thirty lines of a policy
 * make one of a thousand million nodes, which costs nothing until it is written out.
 * @throws {RegoError} ERR_REGO_LIMIT_*
 */
export function weigh(value: Value, context: BuiltinContext): void {
  context.work(typeof value === "string" ? 1 + (value.length >> 6) : 1);
  if (typeof value !== "object" || value === null) return;
  if (isArray(value) || value instanceof RegoSet) {
    for (const item of isArray(value) ? value : value.items()) weigh(item, context);
    return;
  }
  for (const [key, item] of value.entries()) {
    weigh(key, context);
    weigh(item, context);
  }
}
