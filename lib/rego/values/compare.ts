import type { Value } from "./value.ts";
import { isArray, RegoObject, RegoSet } from "./value.ts";

/** Rank of a type in Rego's total order: null < boolean < number < string < array < object < set (OPA's order). */
function rank(value: Value): number {
  switch (typeof value) {
    case "string":
      return 3;
    case "number":
    case "bigint":
      return 2;
    case "boolean":
      return 1;
    default:
      if (value === null) return 0;
      if (value instanceof RegoObject) return 5;
      return value instanceof RegoSet ? 6 : 4;
  }
}

/** Orders two strings by code point; JavaScript's `<` goes by UTF-16 unit and differs above U+FFFF. */
export function compareStrings(a: string, b: string): number {
  if (a === b) return 0;
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at++) {
    let left = a.charCodeAt(at);
    let right = b.charCodeAt(at);
    if (left === right) continue;
    // Surrogates stand for code points above all other units: move them behind U+E000..U+FFFF.
    if (left >= 0xd800 && right >= 0xd800) {
      left = left >= 0xe000 ? left - 0x800 : left + 0x2000;
      right = right >= 0xe000 ? right - 0x800 : right + 0x2000;
    }
    return left - right;
  }
  return a.length - b.length;
}

/** Counts the work of comparing large values, so that limits hold inside a comparison. */
export interface Meter {
  work(units: number): void;
}

/** Rego's total order over all values: negative, zero or positive. */
export function compareValues(a: Value, b: Value): number {
  if (a === b) return 0;
  if (typeof a === "string" && typeof b === "string") return compareStrings(a, b);
  if ((typeof a === "number" || typeof a === "bigint") && (typeof b === "number" || typeof b === "bigint")) {
    // JavaScript compares number and bigint exactly.
    return a < b ? -1 : a > b ? 1 : 0;
  }
  const order = rank(a) - rank(b);
  if (order !== 0) return order;
  if (typeof a === "boolean") return a ? 1 : -1;
  if (isArray(a) && isArray(b)) return compareLists(a, b);
  if (a instanceof RegoSet && b instanceof RegoSet) return compareLists(a.items(), b.items());
  if (a instanceof RegoObject && b instanceof RegoObject) return compareObjects(a, b);
  return 0;
}

function compareLists(a: readonly Value[], b: readonly Value[]): number {
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at++) {
    const order = compareValues(a[at]!, b[at]!);
    if (order !== 0) return order;
  }
  return a.length - b.length;
}

function compareObjects(a: RegoObject, b: RegoObject): number {
  const left = a.keys();
  const right = b.keys();
  const length = Math.min(left.length, right.length);
  for (let at = 0; at < length; at++) {
    const key = left[at]!;
    const order = compareValues(key, right[at]!);
    if (order !== 0) return order;
    const inner = compareValues(a.get(key)!, b.get(key)!);
    if (inner !== 0) return inner;
  }
  return left.length - right.length;
}

/** Equality of values; the same as an order of zero, but without sorting. */
export function equalValues(a: Value, b: Value, meter?: Meter): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (isArray(a)) {
    if (!isArray(b) || a.length !== b.length) return false;
    meter?.work(1 + (a.length >> 2));
    for (let at = 0; at < a.length; at++) if (!equalValues(a[at]!, b[at]!, meter)) return false;
    return true;
  }
  if (a instanceof RegoObject) {
    if (!(b instanceof RegoObject) || a.size !== b.size) return false;
    meter?.work(1 + (a.size >> 2));
    for (const key of a.keys()) {
      const other = b.get(key);
      if (other === undefined || !equalValues(a.get(key)!, other, meter)) return false;
    }
    return true;
  }
  if (!(b instanceof RegoSet) || a.size !== b.size) return false;
  meter?.work(1 + (a.size >> 2));
  for (const item of a.items()) if (!b.has(item)) return false;
  return true;
}
