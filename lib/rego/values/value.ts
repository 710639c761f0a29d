import { RegoError } from "../errors.ts";
import { compareValues } from "./compare.ts";

/**
 * A Rego value. Integers are `number` while they are safe integers and `bigint` beyond; a `number` that is no integer is
 * a binary64. Strings are well-formed UTF-16. Values never change once they are built.
 */
export type Value = Primitive | RegoArray | RegoObject | RegoSet;

/** Values that a JavaScript Map can hold as keys by value. */
export type Primitive = null | boolean | number | bigint | string;

/** An array of values. */
export type RegoArray = readonly Value[];

/** Name of a value's type as `type_name` gives it. */
export type TypeName = "null" | "boolean" | "number" | "string" | "array" | "object" | "set";

/** The type of a value. */
export function typeName(value: Value): TypeName {
  switch (typeof value) {
    case "string":
      return "string";
    case "number":
    case "bigint":
      return "number";
    case "boolean":
      return "boolean";
    default:
      if (value === null) return "null";
      if (value instanceof RegoObject) return "object";
      return value instanceof RegoSet ? "set" : "array";
  }
}

/** True for arrays. `Array.isArray` does not narrow a readonly array away from the other types. */
export function isArray(value: Value | undefined): value is RegoArray {
  return Array.isArray(value);
}

/** True for values that are not composed of others. */
export function isPrimitive(value: Value): value is Primitive {
  return typeof value !== "object" || value === null;
}

/**
 * An object: any value may be a key. Lookup is by value and never through a prototype; iteration is in key order.
 * Build with {@link put}, then hand it on and leave it alone.
 */
export class RegoObject {
  readonly #primitive = new Map<Primitive, Value>();
  #composite: Map<string, readonly [Value, Value]> | undefined;
  #sorted: readonly Value[] | undefined;
  #identity: string | undefined;

  static readonly empty: RegoObject = new RegoObject();

  /** Builds an object; of two values for a key the last one stays. */
  static of(entries: Iterable<readonly [Value, Value]>): RegoObject {
    const object = new RegoObject();
    for (const [key, value] of entries) object.put(key, value);
    return object;
  }

  get size(): number {
    return this.#primitive.size + (this.#composite === undefined ? 0 : this.#composite.size);
  }

  /** The value of a key, or undefined. */
  get(key: Value): Value | undefined {
    if (typeof key === "string" || isPrimitive(key)) return this.#primitive.get(key);
    return this.#composite?.get(identity(key))?.[1];
  }

  has(key: Value): boolean {
    return this.get(key) !== undefined;
  }

  /** Sets a key while the object is being built. */
  put(key: Value, value: Value): void {
    this.#sorted = undefined;
    this.#identity = undefined;
    if (isPrimitive(key)) {
      this.#primitive.set(key, value);
      return;
    }
    this.#composite ??= new Map();
    this.#composite.set(identity(key), [key, value]);
  }

  /** Keys in Rego's order. */
  keys(): readonly Value[] {
    if (this.#sorted === undefined) {
      const keys: Value[] = [...this.#primitive.keys()];
      if (this.#composite !== undefined) for (const [key] of this.#composite.values()) keys.push(key);
      this.#sorted = keys.sort(compareValues);
    }
    return this.#sorted;
  }

  /** Keys and values in the order of the keys. */
  *entries(): IterableIterator<readonly [Value, Value]> {
    for (const key of this.keys()) yield [key, this.get(key)!];
  }

  /** A copy that may be built on. */
  copy(): RegoObject {
    const copy = new RegoObject();
    for (const [key, value] of this.#primitive) copy.put(key, value);
    if (this.#composite !== undefined) for (const [key, value] of this.#composite.values()) copy.put(key, value);
    return copy;
  }

  /** Removes a key while the object is being built. */
  remove(key: Value): void {
    this.#sorted = undefined;
    this.#identity = undefined;
    if (isPrimitive(key)) this.#primitive.delete(key);
    else this.#composite?.delete(identity(key));
  }

  /** Text that is the same for equal objects only. */
  identity(): string {
    this.#identity ??= joined("{", this.keys(), (key) => `${identity(key)}:${identity(this.get(key)!)}`, "}");
    return this.#identity;
  }
}

/** A set. Iteration is in Rego's order. Build with {@link add}, then hand it on and leave it alone. */
export class RegoSet {
  readonly #primitive = new Set<Primitive>();
  #composite: Map<string, Value> | undefined;
  #sorted: readonly Value[] | undefined;
  #identity: string | undefined;

  static readonly empty: RegoSet = new RegoSet();

  static of(items: Iterable<Value>): RegoSet {
    const set = new RegoSet();
    for (const item of items) set.add(item);
    return set;
  }

  get size(): number {
    return this.#primitive.size + (this.#composite === undefined ? 0 : this.#composite.size);
  }

  has(item: Value): boolean {
    if (isPrimitive(item)) return this.#primitive.has(item);
    return this.#composite !== undefined && this.#composite.has(identity(item));
  }

  /** Adds an item while the set is being built. */
  add(item: Value): void {
    this.#sorted = undefined;
    this.#identity = undefined;
    if (isPrimitive(item)) {
      this.#primitive.add(item);
      return;
    }
    this.#composite ??= new Map();
    this.#composite.set(identity(item), item);
  }

  /** Items in Rego's order. */
  items(): readonly Value[] {
    if (this.#sorted === undefined) {
      const items: Value[] = [...this.#primitive];
      if (this.#composite !== undefined) items.push(...this.#composite.values());
      this.#sorted = items.sort(compareValues);
    }
    return this.#sorted;
  }

  /** Text that is the same for equal sets only. */
  identity(): string {
    this.#identity ??= joined("<", this.items(), identity, ">");
    return this.#identity;
  }
}

/**
 * Longest identity of a value. Values may share parts, so that few of them stand for very many: a limit must end what would
 * write them all out.
 */
const MAX_IDENTITY = 8 * 1024 * 1024;

/**
 * Text that is the same for equal values only: the key under which composite values are found in Maps.
 * @throws {RegoError} ERR_REGO_LIMIT_MEMORY for a value too large to be an item of a set or the key of an object
 */
export function identity(value: Value): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value);
    case "number":
    case "bigint":
    case "boolean":
      return String(value);
    default:
      if (value === null) return "null";
      return isArray(value) ? joined("[", value, identity, "]") : value.identity();
  }
}

function joined(open: string, items: readonly Value[], text: (item: Value) => string, close: string): string {
  let all = open;
  for (const item of items) {
    all += `${text(item)},`;
    if (all.length > MAX_IDENTITY) {
      throw new RegoError("ERR_REGO_LIMIT_MEMORY", `a value of more than ${MAX_IDENTITY} characters cannot be an item of a set or the key of an object`, {
        details: { limit: MAX_IDENTITY },
      });
    }
  }
  return all + close;
}

/** `value[key]`: undefined if there is none. */
export function lookup(value: Value, key: Value): Value | undefined {
  if (value instanceof RegoObject) return value.get(key);
  if (isArray(value)) return typeof key === "number" && Number.isInteger(key) && key >= 0 ? value[key] : undefined;
  if (value instanceof RegoSet) return value.has(key) ? key : undefined;
  return undefined;
}
