import { asArray, asObject, encodeJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { JmesPathFault, type Comparator, type JmesPath, type JmesPathArgument, type JmesPathFunction } from "./jmespath.ts";

/** Takes the cost of a piece of work, in steps, and throws when the budget is spent. */
export type Charge = (steps: number) => void;

/** Characters of text that cost one step to copy or compare. */
const CHARACTERS_PER_STEP = 16;
/** Characters of text that cost one step to write as JSON: each may become six, `\u0001`. */
const ENCODED_PER_STEP = 4;
/** Hexadecimal digits of an integer beyond 2^53 that cost one step. */
const DIGITS_PER_STEP = 4;
/** Steps of a call, beside those of its arguments: lists are made of them. */
const CALL = 3;
/** Steps for the name of each member of an object, whose members stand in a hash table; the value costs as much again. */
const MEMBER = 3;
/** Comparisons of characters that cost one step. */
const COMPARISONS_PER_STEP = 256;

/**
 * What a JMESPath expression finds in a document (jmespath.org, "Specification"); null if nothing. Integers are exact, also beyond 2^53.
 * @param charge is told of every node visited or made, so that work and memory are bounded by its budget
 * @throws {JmesPathFault} if a function gets what it does not take
 */
export function searchJmesPath(expression: JmesPath, document: JsonValue, charge: Charge): JsonValue {
  return new Search(charge).visit(expression, document);
}

type JmesNumber = number | bigint;

class Search {
  readonly #charge: Charge;

  constructor(charge: Charge) {
    this.#charge = charge;
  }

  visit(node: JmesPath, value: JsonValue): JsonValue {
    this.#charge(1);
    switch (node.kind) {
      case "current":
        return value;
      case "literal":
        return node.value;
      case "field": {
        const object = asObject(value);
        return object !== undefined && Object.hasOwn(object, node.name) ? (object[node.name] ?? null) : null;
      }
      case "index": {
        const array = asArray(value);
        return array?.[node.index < 0 ? array.length + node.index : node.index] ?? null;
      }
      case "slice":
        return this.#slice(value, node.start, node.stop, node.step);
      case "then":
        return this.visit(node.right, this.visit(node.left, value));
      case "flatten":
        return this.#flatten(this.visit(node.of, value));
      case "project":
        return this.#project(node, this.visit(node.left, value));
      case "compare":
        return this.#compare(node.comparator, this.visit(node.left, value), this.visit(node.right, value));
      case "or": {
        const left = this.visit(node.left, value);
        return isTrue(left) ? left : this.visit(node.right, value);
      }
      case "and": {
        const left = this.visit(node.left, value);
        return isTrue(left) ? this.visit(node.right, value) : left;
      }
      case "not":
        return !isTrue(this.visit(node.of, value));
      case "list":
        return value === null ? null : node.items.map((item) => this.visit(item, value));
      case "hash": {
        if (value === null) return null;
        const object = Object.create(null) as Record<string, JsonValue>;
        for (const { name, value: inner } of node.members) object[name] = this.visit(inner, value);
        return object;
      }
      case "function":
        return this.#call(node.name, node.arguments, value);
    }
  }

  #slice(value: JsonValue, start: number | undefined, stop: number | undefined, step: number): JsonValue {
    const array = asArray(value);
    if (array === undefined) return null;
    const cap = (at: number): number => {
      const index = at < 0 ? at + array.length : at;
      return step > 0 ? Math.min(Math.max(index, 0), array.length) : Math.min(Math.max(index, -1), array.length - 1);
    };
    const from = start === undefined ? (step > 0 ? 0 : array.length - 1) : cap(start);
    const to = stop === undefined ? (step > 0 ? array.length : -1) : cap(stop);
    const out: JsonValue[] = [];
    for (let at = from; step > 0 ? at < to : at > to; at += step) this.#push(out, array[at] ?? null);
    return out;
  }

  #flatten(value: JsonValue): JsonValue {
    const array = asArray(value);
    if (array === undefined) return null;
    const out: JsonValue[] = [];
    for (const item of array) {
      const inner = asArray(item);
      if (inner === undefined) this.#push(out, item);
      else for (const part of inner) this.#push(out, part);
    }
    return out;
  }

  #project({ over, filter, right }: JmesPath & { readonly kind: "project" }, left: JsonValue): JsonValue {
    const object = over === "values" ? asObject(left) : undefined;
    const items = over === "values" ? object && this.#values(object) : asArray(left);
    if (items === undefined) return null;
    const out: JsonValue[] = [];
    for (const item of items) {
      this.#charge(1);
      if (filter !== undefined && !isTrue(this.visit(filter, item))) continue;
      const found = this.visit(right, item);
      if (found !== null) this.#push(out, found);
    }
    return out;
  }

  /** Order is of numbers only; of anything else the standard makes null. */
  #compare(comparator: Comparator, left: JsonValue, right: JsonValue): JsonValue {
    if (comparator === "EQ") return this.#equal(left, right);
    if (comparator === "NE") return !this.#equal(left, right);
    if (!isNumber(left) || !isNumber(right)) return null;
    this.#digits(left, right);
    switch (comparator) {
      case "LT":
        return left < right;
      case "LTE":
        return left <= right;
      case "GT":
        return left > right;
      case "GTE":
        return left >= right;
    }
  }

  #equal(a: JsonValue, b: JsonValue): boolean {
    this.#charge(1);
    if (isNumber(a) && isNumber(b)) {
      this.#digits(a, b);
      return !(a < b) && !(a > b);
    }
    if (typeof a === "string" && typeof b === "string") this.#text(Math.min(a.length, b.length));
    if (a === b) return true;
    const [left, right] = [asArray(a), asArray(b)];
    if (left !== undefined && right !== undefined) return left.length === right.length && left.every((item, index) => this.#equal(item, right[index] ?? null));
    const [first, second] = [asObject(a), asObject(b)];
    if (first === undefined || second === undefined) return false;
    const names = this.#keys(first);
    return (
      names.length === this.#keys(second).length && names.every((name) => Object.hasOwn(second, name) && this.#equal(first[name] ?? null, second[name] ?? null))
    );
  }

  #call(name: JmesPathFunction, nodes: readonly JmesPathArgument[], current: JsonValue): JsonValue {
    this.#charge(CALL);
    const references = nodes.flatMap(({ kind, expression }) => (kind === "reference" ? [expression] : []));
    const apply = (item: JsonValue): JsonValue => (references[0] === undefined ? null : this.visit(references[0], item));
    const values = nodes.flatMap(({ kind, expression }) => (kind === "value" ? [this.visit(expression, current)] : []));
    const [first = null, second = null] = values;
    switch (name) {
      case "abs": {
        const number = numberOf(name, first);
        return number < 0 ? exact(-number) : number;
      }
      case "ceil":
      case "floor": {
        const number = numberOf(name, first);
        return typeof number === "bigint" ? number : Math[name](number);
      }
      case "avg": {
        const list = this.#list(name, first, isNumber, "numbers");
        return list.length === 0 ? null : finite(name, Number(this.#sum(list)) / list.length);
      }
      case "sum":
        return finite(name, this.#sum(this.#list(name, first, isNumber, "numbers")));
      case "contains":
        if (typeof first === "string") {
          if (typeof second !== "string") return false;
          // The worst case of a search within a text is the product of the lengths.
          this.#charge(Math.ceil((first.length * second.length) / COMPARISONS_PER_STEP));
          this.#text(first.length);
          return first.includes(second);
        }
        return this.#array(name, first).some((item) => this.#equal(item, second));
      case "starts_with":
      case "ends_with": {
        const [text, part] = [stringOf(name, first), stringOf(name, second)];
        this.#text(part.length);
        return name === "starts_with" ? text.startsWith(part) : text.endsWith(part);
      }
      case "join": {
        const glue = stringOf(name, first);
        const list = this.#list(name, second, isString, "strings");
        for (const item of list) this.#text(item.length + glue.length);
        return list.join(glue);
      }
      case "keys":
        return [...this.#keys(objectOf(name, first))];
      case "values":
        return [...this.#values(objectOf(name, first))];
      case "length": {
        if (typeof first === "string") return this.#codePoints(first).length;
        const object = asObject(first);
        return object === undefined ? this.#array(name, first).length : this.#keys(object).length;
      }
      case "map":
        return this.#array(name, first).map(apply);
      case "merge": {
        const merged = Object.create(null) as Record<string, JsonValue>;
        for (const item of values) {
          const object = objectOf(name, item);
          for (const key of this.#keys(object)) merged[key] = object[key] ?? null;
        }
        return merged;
      }
      case "not_null":
        return values.find((item) => item !== null) ?? null;
      case "reverse":
        return typeof first === "string" ? this.#codePoints(first).reverse().join("") : this.#copy(this.#array(name, first)).reverse();
      case "max":
      case "min":
        return this.#extreme(
          this.#ordered(name, this.#copy(this.#array(name, first)), (item) => item),
          name === "max",
        );
      case "max_by":
      case "min_by":
        return this.#extreme(this.#ordered(name, this.#copy(this.#array(name, first)), apply), name === "max_by");
      case "sort":
        return this.#sorted(this.#ordered(name, this.#copy(this.#array(name, first)), (item) => item));
      case "sort_by":
        return this.#sorted(this.#ordered(name, this.#copy(this.#array(name, first)), apply));
      case "to_array":
        return Array.isArray(first) ? first : [first];
      case "to_number":
        return isNumber(first) ? first : typeof first === "string" ? this.#parseNumber(first) : null;
      case "to_string":
        return typeof first === "string" ? first : this.encode(first);
      case "type":
        return typeName(first);
    }
  }

  /** JSON text of a value. One value may stand in a result many times over, so its size is charged before the text is made. */
  encode(value: JsonValue): string {
    this.#measure(value);
    return encodeJson(value);
  }

  #measure(value: JsonValue): void {
    this.#charge(2);
    if (typeof value === "string") this.#encoded(value.length);
    else if (typeof value === "bigint") this.#digits(value, 0);
    else if (typeof value === "object" && value !== null) {
      const object = asObject(value);
      for (const item of asArray(value) ?? []) this.#measure(item);
      if (object !== undefined) {
        for (const name of this.#keys(object)) {
          this.#encoded(name.length);
          this.#measure(object[name] ?? null);
        }
      }
    }
  }

  /** Items with the keys that order them: all numbers, or all strings. */
  #ordered(name: string, items: readonly JsonValue[], keyOf: (item: JsonValue) => JsonValue): readonly Keyed[] {
    const keyed = items.map((item) => ({ item, key: keyOf(item) }));
    const kind = typeName(keyed[0]?.key ?? 0);
    const list = keyed.flatMap(({ item, key }) => (isNumber(key) || isString(key) ? [{ item, key }] : []));
    if (list.length !== keyed.length || list.some(({ key }) => typeName(key) !== kind))
      throw new JmesPathFault(`${name}() orders numbers or strings, found other values or both`);
    return list;
  }

  #sorted(list: readonly Keyed[]): JsonValue {
    return list.toSorted((a, b) => this.#order(a, b)).map(({ item }) => item);
  }

  #extreme(list: readonly Keyed[], greatest: boolean): JsonValue {
    let best: Keyed | undefined;
    for (const item of list) if (best === undefined || (greatest ? this.#order(item, best) > 0 : this.#order(item, best) < 0)) best = item;
    return best === undefined ? null : best.item;
  }

  #order({ key: a }: Keyed, { key: b }: Keyed): number {
    this.#charge(1);
    if (typeof a === "string" && typeof b === "string") this.#text(Math.min(a.length, b.length));
    else if (isNumber(a) && isNumber(b)) this.#digits(a, b);
    return a < b ? -1 : a > b ? 1 : 0;
  }

  #parseNumber(text: string): JsonValue {
    // Its length is bounded.
    this.#charge(4);
    if (text.length > 64 || !/^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/.test(text)) return null;
    if (/^-?[0-9]+$/.test(text)) return exact(BigInt(text));
    const number = Number(text);
    return Number.isFinite(number) ? number : null;
  }

  #array(name: string, value: JsonValue): readonly JsonValue[] {
    return asArray(value) ?? mismatch(name, value);
  }

  #list<T extends JsonValue>(name: string, value: JsonValue, isOne: (item: JsonValue) => item is T, what: string): readonly T[] {
    const array = this.#array(name, value);
    this.#charge(array.length);
    if (!array.every(isOne)) throw new JmesPathFault(`${name}() takes a list of ${what}, found other values in it`);
    return array;
  }

  #copy(array: readonly JsonValue[]): JsonValue[] {
    this.#charge(array.length);
    return [...array];
  }

  #codePoints(text: string): string[] {
    this.#charge(text.length);
    return Array.from(text);
  }

  #keys(object: JsonObject): readonly string[] {
    const names = Object.keys(object);
    this.#charge(MEMBER * names.length);
    return names;
  }

  #values(object: JsonObject): readonly JsonValue[] {
    const values = Object.values(object);
    this.#charge(2 * MEMBER * values.length);
    return values;
  }

  #push(out: JsonValue[], value: JsonValue): void {
    this.#charge(1);
    out.push(value);
  }

  #text(length: number): void {
    this.#charge(Math.ceil(length / CHARACTERS_PER_STEP));
  }

  #encoded(length: number): void {
    this.#charge(Math.ceil(length / ENCODED_PER_STEP));
  }

  /** Work on integers is work on their digits; hexadecimal ones are counted in linear time, which decimal ones are not. */
  #digits(a: JmesNumber, b: JmesNumber): void {
    for (const value of [a, b]) if (typeof value === "bigint") this.#charge(Math.ceil(value.toString(16).length / DIGITS_PER_STEP));
  }

  /** Whole numbers are added exactly. */
  #sum(list: readonly JmesNumber[]): JmesNumber {
    if (!list.every((item) => typeof item === "bigint" || Number.isInteger(item))) return list.reduce<number>((total, item) => total + Number(item), 0);
    let total = 0n;
    for (const item of list) {
      // The total may be longer than the item.
      this.#digits(item, total);
      total += BigInt(item);
    }
    return exact(total);
  }
}

interface Keyed {
  readonly item: JsonValue;
  readonly key: string | JmesNumber;
}

/** JSON text of what a search has found, charged by its size. */
export function encodeFound(value: JsonValue, charge: Charge): string {
  return new Search(charge).encode(value);
}

function isNumber(value: JsonValue): value is JmesNumber {
  return typeof value === "number" || typeof value === "bigint";
}

function isString(value: JsonValue): value is string {
  return typeof value === "string";
}

/** False are null, false, and what is empty. */
function isTrue(value: JsonValue): boolean {
  if (value === null || value === false || value === "") return false;
  if (typeof value !== "object") return true;
  const object = asObject(value);
  if (object === undefined) return asArray(value)?.length !== 0;
  // Not Object.keys: the question must not cost more for a larger object, which has no prototype whose members could be met here.
  for (const _ in object) return true;
  return false;
}

function typeName(value: JsonValue): string {
  if (value === null) return "null";
  if (isNumber(value)) return "number";
  return Array.isArray(value) ? "array" : typeof value;
}

function numberOf(name: string, value: JsonValue): JmesNumber {
  return isNumber(value) ? value : mismatch(name, value);
}

function stringOf(name: string, value: JsonValue): string {
  return typeof value === "string" ? value : mismatch(name, value);
}

function objectOf(name: string, value: JsonValue): JsonObject {
  return asObject(value) ?? mismatch(name, value);
}

function mismatch(name: string, value: JsonValue): never {
  throw new JmesPathFault(`${name}() does not take what it was given: found ${typeName(value)}`);
}

function exact(value: JmesNumber): JmesNumber {
  return typeof value === "bigint" && Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

function finite(name: string, value: JmesNumber): JmesNumber {
  if (typeof value === "number" && !Number.isFinite(value)) throw new JmesPathFault(`${name}() is too large`);
  return value;
}
