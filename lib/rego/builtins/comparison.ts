import { compareValues, equalValues, isArray, isPrimitive, RegoObject, RegoSet } from "../values/index.ts";
import type { Meter, Value } from "../values/index.ts";
import type { Builtin, BuiltinContext } from "./builtin.ts";
import { define, weigh, weighKey } from "./builtin.ts";

/** The order of two values. Composite ones are weighed first: equality knows limits, sorting does not. */
function order(a: Value, b: Value, meter: Meter): number {
  if (!isPrimitive(a) && !isPrimitive(b)) weigh(a, meter);
  return compareValues(a, b);
}

/** The comparisons by the names of their operators: for the evaluator, which calls them directly, and for policies. */
export const COMPARISONS: ReadonlyMap<string, (a: Value, b: Value, meter: Meter) => boolean> = new Map<string, (a: Value, b: Value, meter: Meter) => boolean>([
  ["equal", equalValues],
  ["neq", (a, b, meter) => !equalValues(a, b, meter)],
  ["lt", (a, b, meter) => order(a, b, meter) < 0],
  ["lte", (a, b, meter) => order(a, b, meter) <= 0],
  ["gt", (a, b, meter) => order(a, b, meter) > 0],
  ["gte", (a, b, meter) => order(a, b, meter) >= 0],
]);

/** Comparison and membership: total functions on all values. */
export const comparisonBuiltins: readonly Builtin[] = [
  ...[...COMPARISONS].map(([name, compare]) => define(name, 2, ([a, b], context) => compare(a!, b!, context))),
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
    weighKey(item, context);
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
