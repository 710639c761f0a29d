import type { RE2JS } from "re2js";
import type { Numeric, RegoArray, TypeName, Value } from "../values/index.ts";
import { isArray, isInteger, isPrimitive, RegoObject, RegoSet, typeName } from "../values/index.ts";

/** What a builtin may use of the evaluation it runs in. */
export interface BuiltinContext {
  readonly maxNesting: number;
  /** The compiled pattern from the bounded cache. Whoever matches with it counts the work. @throws {BuiltinError} if it is not RE2 syntax */
  regex(pattern: string): RE2JS;
  /** True if a text holds a match of a pattern: what `regex.match` says. Counts its work. @throws {BuiltinError} */
  matches(pattern: string, text: string): boolean;
  /** Start and end of each match and of its groups (-1 for none), as Go's `FindAllStringSubmatchIndex`. Counts its work. @throws {BuiltinError} */
  findAll(pattern: string, text: string, count: number): readonly (readonly number[])[];
  /** Counts units of work, so that time limits hold inside builtins. @throws {RegoError} */
  work(units: number): void;
  /** Counts memory of a value before it is built. @throws {RegoError} */
  allocate(units: number): void;
  /** Milliseconds since the epoch, the same for the whole query; undefined if the caller gave no clock. */
  now(): number | undefined;
  /** Random bytes from the caller's source; undefined if it gave none. */
  random(length: number): Uint8Array | undefined;
  /** The value made for a key earlier in this query, or a new one: what is random or read from outside must not change within a query. */
  once<T>(key: string, make: () => T): T;
}

/** A builtin function. Undefined means that the call has no value. */
export interface Builtin {
  readonly name: string;
  readonly arity: number;
  readonly deprecated?: boolean;
  /** True for relations: the result is an array of all solutions. */
  readonly relation?: boolean;
  /** Index of the operand that is a regular expression: literals there are checked when a policy is loaded. */
  readonly patternOperand?: number;
  /** @throws {BuiltinError} for operands that it cannot take */
  call(args: RegoArray, context: BuiltinContext): Value | undefined;
}

/** The failure of a builtin: it makes the call undefined, or with strict errors aborts the query. */
export class BuiltinError extends Error {
  readonly kind: "builtin" | "operand";

  constructor(kind: "builtin" | "operand", message: string) {
    super(message);
    this.kind = kind;
  }
}

/** Failure of a builtin for its own reasons. */
export function builtinError(message: string): BuiltinError {
  return new BuiltinError("builtin", message);
}

/** Declares a builtin. */
export function define(
  name: string,
  arity: number,
  call: (args: RegoArray, context: BuiltinContext) => Value | undefined,
  options: Pick<Builtin, "deprecated" | "relation" | "patternOperand"> = {},
): Builtin {
  return { name, arity, call, ...options };
}

/** Failure of an operand's type; positions count from 1. */
export function operandError(position: number, expected: string, found: Value | string): BuiltinError {
  return new BuiltinError(
    "operand",
    `operand ${position} must be ${expected} but got ${typeof found === "string" && found.startsWith("!") ? found.slice(1) : typeName(found)}`,
  );
}

/** The operand at an index as a string. */
export function string(args: RegoArray, at: number): string {
  const value = args[at]!;
  if (typeof value !== "string") throw operandError(at + 1, "string", value);
  return value;
}

export function number(args: RegoArray, at: number): Numeric {
  const value = args[at]!;
  if (typeof value !== "number" && typeof value !== "bigint") throw operandError(at + 1, "number", value);
  return value;
}

export function integer(args: RegoArray, at: number): Numeric {
  const value = number(args, at);
  if (!isInteger(value)) throw operandError(at + 1, "integer number", "!floating-point number");
  return value;
}

/** An integer that is small enough to count with. */
export function smallInteger(args: RegoArray, at: number): number {
  const value = integer(args, at);
  if (typeof value === "bigint") throw builtinError(`operand ${at + 1} is out of range`);
  return value;
}

export function array(args: RegoArray, at: number): RegoArray {
  const value = args[at];
  if (!isArray(value)) throw operandError(at + 1, "array", value!);
  return value;
}

export function set(args: RegoArray, at: number): RegoSet {
  const value = args[at]!;
  if (!(value instanceof RegoSet)) throw operandError(at + 1, "set", value);
  return value;
}

export function object(args: RegoArray, at: number): RegoObject {
  const value = args[at]!;
  if (!(value instanceof RegoObject)) throw operandError(at + 1, "object", value);
  return value;
}

export function boolean(args: RegoArray, at: number): boolean {
  const value = args[at]!;
  if (typeof value !== "boolean") throw operandError(at + 1, "boolean", value);
  return value;
}

/** Items of an array or a set, in order. */
export function collection(args: RegoArray, at: number, expected = "one of {array, set}"): readonly Value[] {
  const value = args[at]!;
  if (isArray(value)) return value;
  if (value instanceof RegoSet) return value.items();
  throw operandError(at + 1, expected, value);
}

/** Items of an array or a set, all of one type. */
export function collectionOf(args: RegoArray, at: number, type: TypeName): readonly Value[] {
  const items = collection(args, at);
  for (const item of items) {
    if (typeName(item) !== type) {
      const outer = isArray(args[at]) ? "array" : "set";
      throw new BuiltinError("operand", `operand ${at + 1} must be ${outer} of ${type}s but got ${outer} containing ${typeName(item)}`);
    }
  }
  return items;
}

/**
 * Counts the work of reading a value as a whole before something does that. Values may share parts: thirty lines of a policy
 * make one of a thousand million nodes, which costs nothing until it is written out.
 * @throws {RegoError} ERR_REGO_LIMIT_*
 */
export function weigh(value: Value, context: Pick<BuiltinContext, "work">): void {
  context.work(typeof value === "string" ? 1 + (value.length >> 6) : 1);
  if (typeof value !== "object" || value === null) return;
  if (isArray(value) || value instanceof RegoSet) {
    for (const item of isArray(value) ? value : value.items()) weigh(item, context);
    return;
  }
  for (const key of value.keys()) {
    weigh(key, context);
    weigh(value.get(key)!, context);
  }
}

/** Counts the work of finding a value in a set or as a key: composite ones are written out for that. @throws {RegoError} ERR_REGO_LIMIT_* */
export function weighKey(value: Value, context: Pick<BuiltinContext, "work">): void {
  if (!isPrimitive(value)) weigh(value, context);
}
