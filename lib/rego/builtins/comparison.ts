import { compareValues, equalValues, isArray, isPrimitive, RegoObject, RegoSet } from "../values/index.ts";
import type { Value } from "../values/index.ts";
import type { Builtin, BuiltinContext } from "./builtin.ts";
import { define, weigh } from "./builtin.ts";

/** Comparison and membership: total functions on all values. */
export const comparisonBuiltins: readonly Builtin[] = [
  define("equal", 2, ([a, b], context) => equalValues(a!, b!, context)),
  define("neq", 2, ([a, b], context) => !equalValues(a!, b!, context)),
  define("lt", 2, ([a, b]) => compareValues(a!, b!) < 0),
  define("lte", 2, ([a, b]) => compareValues(a!, b!) <= 0),
  define("gt", 2, ([a, b]) => compareValues(a!, b!) > 0),
  define("gte", 2, ([a, b]) => compareValues(a!, b!) >= 0),
  define("internal.member_2", 2, ([item, domain], context) => isMember(item!, domain!, context)),
  define("internal.member_3", 3, ([key, item, domain], context) => {
    if (isArray(domain!)) return typeof key === "number" && domain[key] !== undefined && equalValues(domain[key], item!, context);
    if (domain instanceof RegoObject) {
      const found = domain.get(key!);
      return found !== undefined && equalValues(found, item!, context);
    }
    return domain instanceof RegoSet && equalValues(key!, item!, context) && domain.has(item!);
  }),
];

/** `x in y`: an item of an array or set, a value of an object; false for everything else. */
function isMember(item: Value, domain: Value, context: BuiltinContext): boolean {
  if (domain instanceof RegoSet) {
    if (!isPrimitive(item)) weigh(item, context);
    return domain.has(item);
  }
  if (isArray(domain)) {
    context.work(domain.length >> 3);
    return domain.some((member) => equalValues(member, item, context));
  }
  if (!(domain instanceof RegoObject)) return false;
  context.work(domain.size >> 3);
  return domain.keys().some((key) => equalValues(domain.get(key)!, item, context));
}
