import type { RegoArray, Value } from "../values/index.ts";
import { compareValues, isArray, isPrimitive, RegoObject, RegoSet } from "../values/index.ts";
import type { Builtin, BuiltinContext } from "./builtin.ts";
import { array, BuiltinError, collection, define, integer, operandError, set, weigh } from "./builtin.ts";

function union(sets: readonly RegoSet[]): RegoSet {
  const result = new RegoSet();
  for (const one of sets) for (const item of one.items()) result.add(item);
  return result;
}

function intersection(sets: readonly RegoSet[]): RegoSet {
  const [first, ...rest] = sets;
  if (first === undefined) return RegoSet.empty;
  return RegoSet.of(first.items().filter((item) => rest.every((other) => other.has(item))));
}

function setsOf(value: RegoSet): readonly RegoSet[] {
  return value.items().map((item) => {
    if (!(item instanceof RegoSet)) throw new BuiltinError("operand", "operand 1 must be set of sets but got set containing other values");
    return item;
  });
}

/** The item that stands before all others in an order; undefined if there is none. */
function extreme(args: RegoArray, context: BuiltinContext, isBetter: (order: number) => boolean): Value | undefined {
  const items = collection(args, 0);
  if (items.some((item) => !isPrimitive(item))) weigh(args[0]!, context);
  let best: Value | undefined;
  for (const item of items) if (best === undefined || isBetter(compareValues(item, best))) best = item;
  return best;
}

/** Arrays, sets and functions on both. */
export const collectionBuiltins: readonly Builtin[] = [
  define("count", 1, ([value]) => {
    if (typeof value === "string") return codePointCount(value);
    if (isArray(value)) return value.length;
    if (value instanceof RegoSet || value instanceof RegoObject) return value.size;
    throw operandError(1, "one of {array, object, set, string}", value!);
  }),
  define("and", 2, (args) => intersection([set(args, 0), set(args, 1)])),
  define("or", 2, (args, context) => {
    const both = [set(args, 0), set(args, 1)];
    context.work((both[0]!.size + both[1]!.size) >> 2);
    return union(both);
  }),
  define("union", 1, (args) => union(setsOf(set(args, 0)))),
  define("intersection", 1, (args) => intersection(setsOf(set(args, 0)))),
  define(
    "set_diff",
    2,
    (args) => {
      const [from, removed] = [set(args, 0), set(args, 1)];
      return RegoSet.of(from.items().filter((item) => !removed.has(item)));
    },
    { deprecated: true },
  ),
  define("max", 1, (args, context) => extreme(args, context, (order) => order > 0)),
  define("min", 1, (args, context) => extreme(args, context, (order) => order < 0)),
  define("sort", 1, (args, context) => {
    const items = collection(args, 0);
    context.work(items.length);
    context.allocate(items.length * 8);
    if (items.some((item) => !isPrimitive(item))) weigh(args[0]!, context);
    return items.toSorted(compareValues);
  }),
  define("all", 1, (args) => collection(args, 0).every((item) => item === true), { deprecated: true }),
  define("any", 1, (args) => collection(args, 0).includes(true), { deprecated: true }),
  define("array.concat", 2, (args, context) => {
    const [first, second] = [array(args, 0), array(args, 1)];
    context.allocate((first.length + second.length) * 8);
    return [...first, ...second];
  }),
  define("array.slice", 3, (args) => {
    const items = array(args, 0);
    const from = Math.min(Math.max(Number(integer(args, 1)), 0), items.length);
    const to = Math.min(Math.max(Number(integer(args, 2)), 0), items.length);
    return from < to ? items.slice(from, to) : [];
  }),
  define("array.reverse", 1, (args) => array(args, 0).toReversed()),
  define("array.flatten", 1, (args, context) => {
    const flat: Value[] = [];
    for (const item of array(args, 0)) {
      const items = isArray(item) ? item : [item];
      context.allocate(items.length * 8);
      flat.push(...items);
    }
    return flat;
  }),
];

/** Code points of a text, each as a string. */
export function codePoints(text: string): string[] {
  return Array.from(text);
}

/** Number of code points. */
export function codePointCount(text: string): number {
  let count = text.length;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit >= 0xdc00 && unit <= 0xdfff) count--;
  }
  return count;
}
