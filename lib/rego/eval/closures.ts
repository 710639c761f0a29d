import type { RegoArray, Value } from "../values/index.ts";
import { isArray, RegoObject, RegoSet } from "../values/index.ts";
import type { Query } from "./query.ts";

/** The variables of one activation of a rule body. */
export type Slots = (Value | undefined)[];

/** Slots for an activation, all undefined. */
export function newSlots(size: number): Slots {
  // oxlint-disable-next-line unicorn/no-new-array -- runs for every call; the ways around it take several times as long
  return new Array<Value | undefined>(size);
}

/** Reads a value; undefined is Rego's undefined. */
export type Getter = (query: Query, slots: Slots) => Value | undefined;

/** A statement with at most one solution; it may bind slots. */
export type Test = (query: Query, slots: Slots) => boolean;

/** The rest of a body: runs for one solution of what stands before; true stops the search. */
export type Chain = (query: Query, slots: Slots) => boolean;

/** Goes on with a value. */
export type Continuation = (query: Query, slots: Slots, value: Value) => boolean;

/** Compares a value with a pattern and binds the pattern's variables. */
export type Match = Continuation;

/** Runs a continuation for each member of a value: key and value. Values without members have none. */
export function eachMember(query: Query, value: Value, visit: (key: Value, member: Value) => boolean): boolean {
  if (isArray(value)) {
    for (let at = 0; at < value.length; at++) {
      query.step();
      if (visit(at, value[at]!)) return true;
    }
    return false;
  }
  if (value instanceof RegoObject) {
    for (const key of value.keys()) {
      query.step();
      if (visit(key, value.get(key)!)) return true;
    }
    return false;
  }
  if (value instanceof RegoSet) {
    for (const item of value.items()) {
      query.step();
      if (visit(item, item)) return true;
    }
  }
  return false;
}

/** Evaluates operands into an array; undefined as soon as one of them is. */
export function collect(getters: readonly Getter[], query: Query, slots: Slots): RegoArray | undefined {
  const values: Value[] = [];
  for (const getter of getters) {
    const value = getter(query, slots);
    if (value === undefined) return undefined;
    values.push(value);
  }
  return values;
}

/** One test out of several, unrolled for the usual lengths. */
export function sequence(tests: readonly Test[], next: Chain): Chain {
  const [a, b, c] = tests;
  switch (tests.length) {
    case 0:
      return next;
    case 1:
      return (query, slots) => a!(query, slots) && next(query, slots);
    case 2:
      return (query, slots) => a!(query, slots) && b!(query, slots) && next(query, slots);
    case 3:
      return (query, slots) => a!(query, slots) && b!(query, slots) && c!(query, slots) && next(query, slots);
    default:
      return (query, slots) => {
        for (const test of tests) if (!test(query, slots)) return false;
        return next(query, slots);
      };
  }
}
