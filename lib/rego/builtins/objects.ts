import type { PatchStep, RegoArray, Value } from "../values/index.ts";
import { applyPatch, equalValues, isArray, lookup, parsePointer, PatchError, RegoObject, RegoSet, typeName } from "../values/index.ts";
import type { Builtin, BuiltinContext } from "./builtin.ts";
import { array, BuiltinError, builtinError, define, object, operandError } from "./builtin.ts";

/** Keys named by an operand: items of an array or set, keys of an object. */
function keySet(args: RegoArray, at: number): RegoSet {
  const value = args[at]!;
  if (value instanceof RegoSet) return value;
  if (isArray(value)) return RegoSet.of(value);
  if (value instanceof RegoObject) return RegoSet.of(value.keys());
  throw operandError(at + 1, "one of {object, set, array}", value);
}

/** Deep union: the second object wins, and objects on both sides merge. */
function mergeObjects(a: RegoObject, b: RegoObject, context: BuiltinContext): RegoObject {
  context.work(a.size + b.size);
  context.allocate((a.size + b.size) * 32);
  const merged = a.copy();
  for (const [key, value] of b.entries()) {
    const earlier = merged.get(key);
    merged.put(key, earlier instanceof RegoObject && value instanceof RegoObject ? mergeObjects(earlier, value, context) : value);
  }
  return merged;
}

/** Paths of `json.filter` and `json.remove`: strings with slashes, or arrays of steps. */
function paths(args: RegoArray): readonly (readonly Value[])[] {
  const value = args[1]!;
  if (!isArray(value) && !(value instanceof RegoSet)) throw operandError(2, "one of {set, array}", value);
  return (isArray(value) ? value : value.items()).map((path) => {
    if (typeof path === "string") return pathSteps(path);
    if (isArray(path)) return path;
    throw new BuiltinError("operand", `operand 2 must be one of {set, array} containing string paths or array of path segments but got ${typeName(path)}`);
  });
}

/** Steps of a path in text: all slashes in front are dropped, and `/` alone names the empty key. */
function pathSteps(path: string): readonly string[] {
  let start = 0;
  while (path[start] === "/") start++;
  return start > 0 && start === path.length ? [""] : parsePointer(path.slice(start), true);
}

/** A tree of steps, as objects in an object; null takes the whole value. A path without steps adds nothing. */
function stepTree(list: readonly (readonly Value[])[], context: BuiltinContext): RegoObject {
  const root = new RegoObject();
  for (const path of list) {
    context.work(path.length);
    let node: Value = root;
    path.forEach((step, at) => {
      if (!(node instanceof RegoObject)) return;
      const known: Value | undefined = node.get(step);
      const child: Value = at === path.length - 1 ? null : known === undefined ? new RegoObject() : known;
      node.put(step, child);
      node = child;
    });
  }
  return root;
}

/** Takes out of a value what the steps name. Indexes of arrays are text; keys and items of sets are themselves. */
function keep(value: Value, steps: Value, context: BuiltinContext): Value {
  if (!(steps instanceof RegoObject)) return value;
  context.work(1 + sizeOf(value));
  if (value instanceof RegoObject) {
    const kept = new RegoObject();
    for (const [key, item] of value.entries()) {
      const below = steps.get(key);
      if (below !== undefined) kept.put(key, keep(item, below, context));
    }
    return kept;
  }
  if (isArray(value)) {
    return value.flatMap((item, at) => {
      const below = steps.get(String(at));
      return below === undefined ? [] : [keep(item, below, context)];
    });
  }
  if (value instanceof RegoSet) {
    const kept = new RegoSet();
    for (const item of value.items()) {
      const below = steps.get(item);
      if (below !== undefined) kept.add(keep(item, below, context));
    }
    return kept;
  }
  return value;
}

/** Leaves out of a value what the steps name; undefined if that is all of it. */
function drop(value: Value, steps: Value | undefined, context: BuiltinContext): Value | undefined {
  if (steps === null) return undefined;
  if (!(steps instanceof RegoObject)) return value;
  context.work(1 + sizeOf(value));
  if (value instanceof RegoObject) {
    const left = new RegoObject();
    for (const [key, item] of value.entries()) {
      const inner = drop(item, steps.get(key), context);
      if (inner !== undefined) left.put(key, inner);
    }
    return left;
  }
  if (isArray(value)) {
    return value.flatMap((item, at) => {
      const inner = drop(item, steps.get(String(at)), context);
      return inner === undefined ? [] : [inner];
    });
  }
  if (value instanceof RegoSet) {
    const left = new RegoSet();
    for (const item of value.items()) {
      const inner = drop(item, steps.get(item), context);
      if (inner !== undefined) left.add(inner);
    }
    return left;
  }
  return value;
}

function sizeOf(value: Value): number {
  if (isArray(value)) return value.length;
  return value instanceof RegoObject || value instanceof RegoSet ? value.size : 0;
}

const OPERATIONS: readonly string[] = ["add", "remove", "replace", "move", "copy", "test"];

function patchSteps(patches: RegoArray): readonly PatchStep[] {
  return patches.map((patch): PatchStep => {
    if (!(patch instanceof RegoObject)) throw new BuiltinError("operand", `operand 2 must be array of objects but got array containing ${typeName(patch)}`);
    const op = patch.get("op");
    if (typeof op !== "string" || !OPERATIONS.includes(op)) throw builtinError(`unrecognized op ${JSON.stringify(op === undefined ? "" : op)}`);
    const from = patch.get("from");
    const value = patch.get("value");
    return {
      op: op as PatchStep["op"],
      path: patchPath(patch.get("path"), "path"),
      ...(from === undefined ? {} : { from: patchPath(from, "from") }),
      ...(value === undefined ? {} : { value }),
    };
  });
}

function patchPath(path: Value | undefined, name: string): readonly Value[] {
  if (typeof path === "string") return parsePointer(path, true);
  if (isArray(path)) return path;
  throw builtinError(`a patch needs "${name}": a JSON pointer or an array of steps`);
}

/** Objects, JSON documents and `walk`. */
export const objectBuiltins: readonly Builtin[] = [
  define("object.get", 3, (args) => {
    const value = object(args, 0);
    const path = args[1]!;
    let found: Value | undefined = value;
    for (const step of isArray(path) ? path : [path]) {
      if (found === undefined) break;
      found = lookup(found, step);
    }
    return found === undefined ? args[2] : found;
  }),
  define("object.keys", 1, (args) => RegoSet.of(object(args, 0).keys())),
  define("object.union", 2, (args, context) => mergeObjects(object(args, 0), object(args, 1), context)),
  define("object.union_n", 1, (args, context) =>
    array(args, 0).reduce<RegoObject>((merged, item) => {
      if (!(item instanceof RegoObject)) throw new BuiltinError("operand", `operand 1 must be array of objects but got array containing ${typeName(item)}`);
      return mergeObjects(merged, item, context);
    }, RegoObject.empty),
  ),
  define("object.remove", 2, (args) => {
    const keys = keySetOf(args, 1);
    return RegoObject.of([...object(args, 0).entries()].filter(([key]) => !keys().has(key)));
  }),
  define("object.filter", 2, (args) => {
    const keys = keySetOf(args, 1);
    return RegoObject.of([...object(args, 0).entries()].filter(([key]) => keys().has(key)));
  }),
  define("object.subset", 2, ([a, b], context) => isSubset(a!, b!, context)),
  define("json.filter", 2, (args, context) => keep(object(args, 0), stepTree(paths(args), context), context)),
  define("json.remove", 2, (args, context) => drop(object(args, 0), stepTree(paths(args), context), context)),
  define("json.patch", 2, (args, context) => {
    const patches = array(args, 1);
    context.work(patches.length * (1 + (sizeOf(args[0]!) >> 2)));
    try {
      return applyPatch(args[0]!, patchSteps(patches), context);
    } catch (error) {
      if (error instanceof PatchError) throw builtinError(error.message);
      throw error;
    }
  }),
  define(
    "walk",
    1,
    ([value], context) => {
      const found: Value[] = [];
      walk(value!, [], found, context);
      return found;
    },
    { relation: true },
  ),
];

function keySetOf(args: RegoArray, at: number): () => RegoSet {
  object(args, 0);
  const keys = keySet(args, at);
  return () => keys;
}

function walk(value: Value, path: readonly Value[], found: Value[], context: BuiltinContext): void {
  context.work(1);
  context.allocate(32 + path.length * 8);
  found.push([path, value]);
  if (isArray(value)) value.forEach((item, at) => walk(item, [...path, at], found, context));
  else if (value instanceof RegoObject) for (const [key, item] of value.entries()) walk(item, [...path, key], found, context);
  else if (value instanceof RegoSet) for (const item of value.items()) walk(item, [...path, item], found, context);
}

/** True if every member of the second value is in the first: by key in objects, in order in arrays, by value in sets. */
function isSubset(superset: Value, subset: Value, context: BuiltinContext): boolean {
  context.work(1);
  if (superset instanceof RegoObject && subset instanceof RegoObject) {
    for (const [key, value] of subset.entries()) {
      const other = superset.get(key);
      if (other === undefined || !isSubsetOrEqual(other, value, context)) return false;
    }
    return true;
  }
  if (superset instanceof RegoSet && subset instanceof RegoSet) return subset.items().every((item) => superset.has(item));
  if (isArray(superset) && isArray(subset)) return isSublist(superset, subset, context);
  if (isArray(superset) && subset instanceof RegoSet) {
    const items = RegoSet.of(superset);
    return subset.items().every((item) => items.has(item));
  }
  throw new BuiltinError("operand", "both arguments object.subset must be of the same type or array and set");
}

function isSubsetOrEqual(superset: Value, subset: Value, context: BuiltinContext): boolean {
  const sameKind = typeName(superset) === typeName(subset);
  if (sameKind && (superset instanceof RegoObject || superset instanceof RegoSet || isArray(superset))) return isSubset(superset, subset, context);
  return equalValues(superset, subset, context);
}

function isSublist(list: RegoArray, part: RegoArray, context: BuiltinContext): boolean {
  for (let start = 0; start + part.length <= list.length; start++) {
    context.work(1 + (part.length >> 3));
    if (part.every((item, at) => equalValues(list[start + at]!, item, context))) return true;
  }
  return false;
}
