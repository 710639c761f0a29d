import type { Primitive, Value } from "../values/index.ts";
import { formatValue, isArray, isPrimitive, RegoSet } from "../values/index.ts";

/**
 * Static types: what is known of a value before it is there. A type stands for at least the values that the expression
 * can have, so whatever is left out of it (by the limits below) makes the checker accept more, never less.
 */
export type Type = AnyType | ScalarType | ArrayType | ObjectType | SetType | UnionType;

/** Every value. */
export interface AnyType {
  readonly kind: "any";
}

export interface ScalarType {
  readonly kind: "null" | "boolean" | "number" | "string";
}

/** The first items have types of their own; those after them, if there may be any, have the type `rest`. */
export interface ArrayType {
  readonly kind: "array";
  readonly items: readonly Type[];
  readonly rest: Type | undefined;
  readonly size: number;
}

/** Members with known keys, and what may stand under other keys. */
export interface ObjectType {
  readonly kind: "object";
  readonly members: ReadonlyMap<Primitive, Type>;
  readonly rest: { readonly key: Type; readonly value: Type } | undefined;
  readonly size: number;
}

export interface SetType {
  readonly kind: "set";
  readonly item: Type;
  readonly size: number;
}

/** One of at least two types, none of them `any` or a union. */
export interface UnionType {
  readonly kind: "union";
  readonly types: readonly Type[];
  readonly size: number;
}

/** Nodes of one type. Types are built from types, so without a bound `x1 := [x0, x0]; x2 := [x1, x1]; ...` doubles each time. */
const MAX_TYPE_SIZE = 256;
/** Items of an array whose types are told apart. A longer one is data, and its items are alike. */
const MAX_ITEMS = 32;
/** Members of an object whose types are told apart; Kata's widest object has 20. */
const MAX_MEMBERS = 64;
/** Alternatives of a union; one more makes it `any`. Seven kinds, and some shapes of arrays and objects. */
const MAX_ALTERNATIVES = 16;
/** Length of a type in a message. */
const MAX_TEXT = 160;

export const ANY: AnyType = { kind: "any" };
export const NULL: ScalarType = { kind: "null" };
export const BOOLEAN: ScalarType = { kind: "boolean" };
export const NUMBER: ScalarType = { kind: "number" };
export const STRING: ScalarType = { kind: "string" };

const NO_MEMBERS: ReadonlyMap<Primitive, Type> = new Map();

/** An array of any length. */
export function arrayOf(item: Type): ArrayType {
  return { kind: "array", items: [], rest: bounded(item), size: 1 + sizeOf(bounded(item)) };
}

/** Arrays, objects and sets of anything. */
export const ARRAY: ArrayType = arrayOf(ANY);
export const OBJECT: ObjectType = objectOf(ANY, ANY);
export const SET: SetType = setOf(ANY);

/** An array of known length; an empty one is an array of anything, as in OPA. */
export function tupleOf(items: readonly Type[]): ArrayType {
  if (items.length === 0 || items.length > MAX_ITEMS) return ARRAY;
  const size = totalSize(items);
  return size > MAX_TYPE_SIZE ? ARRAY : { kind: "array", items, rest: undefined, size };
}

/** An object whose keys are not known. */
export function objectOf(key: Type, value: Type): ObjectType {
  const rest = { key: bounded(key), value: bounded(value) };
  return { kind: "object", members: NO_MEMBERS, rest, size: 1 + sizeOf(rest.key) + sizeOf(rest.value) };
}

/** An object with known keys; one without any is an object of anything, as in OPA. What is too large loses the types of its members, then their keys. */
export function recordOf(members: ReadonlyMap<Primitive, Type>, rest?: { readonly key: Type; readonly value: Type }): ObjectType {
  if (members.size === 0) return rest === undefined ? OBJECT : objectOf(rest.key, rest.value);
  if (members.size > MAX_MEMBERS) return OBJECT;
  const size = totalSize(members.values()) + (rest === undefined ? 0 : sizeOf(rest.key) + sizeOf(rest.value));
  if (size <= MAX_TYPE_SIZE) return { kind: "object", members, rest, size };
  const plain = new Map<Primitive, Type>();
  for (const key of members.keys()) plain.set(key, ANY);
  return { kind: "object", members: plain, rest: rest === undefined ? undefined : { key: ANY, value: ANY }, size: plain.size + 3 };
}

export function setOf(item: Type): SetType {
  return { kind: "set", item: bounded(item), size: 1 + sizeOf(bounded(item)) };
}

/** The type of a value that has one of two types; undefined stands for no value. */
export function either(left: Type | undefined, right: Type): Type {
  if (left === undefined || left === right) return right;
  if (left.kind === "any" || right.kind === "any") return ANY;
  const types = [...alternativesOf(left)];
  for (const type of alternativesOf(right)) if (!types.some((known) => sameType(known, type))) types.push(type);
  if (types.length === 1) return types[0]!;
  const size = totalSize(types);
  return types.length > MAX_ALTERNATIVES || size > MAX_TYPE_SIZE ? ANY : { kind: "union", types, size };
}

/** {@link either} of several types. */
export function unionOf(...types: readonly Type[]): Type {
  let union: Type | undefined;
  for (const type of types) union = either(union, type);
  return union ?? ANY;
}

/** The type of a constant. Of a large one only the outline is looked at: {@link MAX_TYPE_SIZE} values, whatever its size. */
export function typeOfConstant(value: Value): Type {
  return isPrimitive(value) ? typeOfPrimitive(value) : outline(value, { left: MAX_TYPE_SIZE });
}

/** The type of a value that is not composed of others. */
export function typeOfPrimitive(value: Primitive): ScalarType {
  switch (typeof value) {
    case "string":
      return STRING;
    case "boolean":
      return BOOLEAN;
    case "object":
      return NULL;
    default:
      return NUMBER;
  }
}

function outline(value: Value, budget: { left: number }): Type {
  if (isPrimitive(value)) return typeOfPrimitive(value);
  const length = isArray(value) ? value.length : value.size;
  budget.left -= length;
  const whole = budget.left >= 0;
  if (isArray(value)) return whole && length <= MAX_ITEMS ? tupleOf(value.map((item) => outline(item, budget))) : ARRAY;
  if (value instanceof RegoSet) {
    if (!whole || length === 0) return SET;
    let item: Type | undefined;
    for (const one of value.items()) item = either(item, outline(one, budget));
    return setOf(item!);
  }
  if (!whole || length > MAX_MEMBERS) return OBJECT;
  const members = new Map<Primitive, Type>();
  let rest: { readonly key: Type; readonly value: Type } | undefined;
  for (const [key, member] of value.entries()) {
    const type = outline(member, budget);
    if (isPrimitive(key)) members.set(key, type);
    else rest = { key: either(rest?.key, outline(key, budget)), value: either(rest?.value, type) };
  }
  return recordOf(members, rest);
}

/** What may stand in brackets after a value of the type; undefined if nothing may. */
export function keysOf(type: Type): Type | undefined {
  switch (type.kind) {
    case "any":
      return ANY;
    case "array":
      return NUMBER;
    case "set":
      return type.item;
    case "object": {
      let keys = type.rest?.key;
      for (const key of type.members.keys()) keys = either(keys, typeOfPrimitive(key));
      return keys;
    }
    case "union":
      return eitherOfAll(type.types, keysOf);
    default:
      return undefined;
  }
}

/** The type of what a variable in brackets finds; undefined if the value has nothing inside. */
export function valuesOf(type: Type): Type | undefined {
  switch (type.kind) {
    case "any":
      return ANY;
    case "array":
      return eitherOfAll(type.items, (item) => item, type.rest);
    case "set":
      return type.item;
    case "object":
      return eitherOfAll(type.members.values(), (member) => member, type.rest?.value);
    case "union":
      return eitherOfAll(type.types, valuesOf);
    default:
      return undefined;
  }
}

/** The type of `value[key]`; undefined if there can be no such member. */
export function select(type: Type, key: Primitive): Type | undefined {
  switch (type.kind) {
    case "any":
      return ANY;
    case "array":
      return typeof key === "number" && Number.isInteger(key) && key >= 0 ? (type.items[key] ?? type.rest) : undefined;
    case "set":
      return mayHold(type.item, key) ? typeOfPrimitive(key) : undefined;
    case "object":
      return type.members.get(key) ?? (type.rest !== undefined && mayHold(type.rest.key, key) ? type.rest.value : undefined);
    case "union":
      return eitherOfAll(type.types, (alternative) => select(alternative, key));
    default:
      return undefined;
  }
}

function mayHold(type: Type, value: Primitive): boolean {
  const { kind } = typeOfPrimitive(value);
  return alternativesOf(type).some((alternative) => alternative.kind === "any" || alternative.kind === kind);
}

/** Counts down while types are compared; at zero everything is taken to be equal. */
export interface TypeBudget {
  left: number;
}

/** False if no value of one type equals a value of the other. */
export function mayEqual(left: Type, right: Type, budget: TypeBudget): boolean {
  if (left === right || left.kind === "any" || right.kind === "any" || --budget.left < 0) return true;
  if (left.kind === "union") return left.types.some((type) => mayEqual(type, right, budget));
  if (right.kind === "union") return right.types.some((type) => mayEqual(left, type, budget));
  if (left.kind === "array") return right.kind === "array" && arraysMayEqual(left, right, budget);
  if (left.kind === "object") return right.kind === "object" && objectsMayEqual(left, right, budget);
  if (left.kind === "set") return right.kind === "set" && mayEqual(left.item, right.item, budget);
  return left.kind === right.kind;
}

function arraysMayEqual(left: ArrayType, right: ArrayType, budget: TypeBudget): boolean {
  for (let at = 0; at < Math.max(left.items.length, right.items.length); at++) {
    const a = left.items[at] ?? left.rest;
    const b = right.items[at] ?? right.rest;
    if (a === undefined || b === undefined || !mayEqual(a, b, budget)) return false;
  }
  return left.rest === undefined || right.rest === undefined || mayEqual(left.rest, right.rest, budget);
}

function objectsMayEqual(left: ObjectType, right: ObjectType, budget: TypeBudget): boolean {
  if (!membersMayEqual(left, right, budget) || !membersMayEqual(right, left, budget)) return false;
  return left.rest === undefined || right.rest === undefined || mayEqual(left.rest.value, right.rest.value, budget);
}

function membersMayEqual(left: ObjectType, right: ObjectType, budget: TypeBudget): boolean {
  for (const [key, member] of left.members) {
    const other = select(right, key);
    // A member of an object that has other members too need not be there.
    if (other === undefined ? left.rest === undefined : !mayEqual(member, other, budget)) return false;
  }
  return true;
}

function sameType(left: Type, right: Type): boolean {
  if (left === right) return true;
  if (left.kind !== right.kind || sizeOf(left) !== sizeOf(right)) return false;
  switch (left.kind) {
    case "array": {
      const other = right as ArrayType;
      return (
        left.items.length === other.items.length && sameOptional(left.rest, other.rest) && left.items.every((item, at) => sameType(item, other.items[at]!))
      );
    }
    case "object": {
      const other = right as ObjectType;
      if (left.members.size !== other.members.size) return false;
      if (!sameOptional(left.rest?.key, other.rest?.key) || !sameOptional(left.rest?.value, other.rest?.value)) return false;
      for (const [key, member] of left.members) if (!sameOptional(member, other.members.get(key))) return false;
      return true;
    }
    case "set":
      return sameType(left.item, (right as SetType).item);
    case "union": {
      const others = (right as UnionType).types;
      return left.types.length === others.length && left.types.every((type) => others.some((other) => sameType(type, other)));
    }
    default:
      return true;
  }
}

function sameOptional(left: Type | undefined, right: Type | undefined): boolean {
  return left === undefined || right === undefined ? left === right : sameType(left, right);
}

function alternativesOf(type: Type): readonly Type[] {
  return type.kind === "union" ? type.types : [type];
}

function eitherOfAll<T>(parts: Iterable<T>, typeOf: (part: T) => Type | undefined, start?: Type): Type | undefined {
  let all = start;
  for (const part of parts) {
    const type = typeOf(part);
    if (type !== undefined) all = either(all, type);
    if (all?.kind === "any") break;
  }
  return all;
}

/** Nodes of a type. */
export function sizeOf(type: Type): number {
  return "size" in type ? type.size : 1;
}

function totalSize(types: Iterable<Type>): number {
  let size = 1;
  for (const type of types) size += sizeOf(type);
  return size;
}

/** A part that leaves room for what it becomes a part of. */
function bounded(type: Type): Type {
  return sizeOf(type) >= MAX_TYPE_SIZE / 2 ? ANY : type;
}

/** The type as messages show it, e.g. `array<string>`, `[number, string]`, `{"a": number}`, `one of {array, set}`. */
export function formatType(type: Type): string {
  const text = textOf(type);
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}...` : text;
}

function textOf(type: Type): string {
  switch (type.kind) {
    case "array": {
      if (type.items.length === 0) return type.rest === undefined || type.rest.kind === "any" ? "array" : `array<${textOf(type.rest)}>`;
      const items = type.items.map(textOf);
      return `[${(type.rest === undefined ? items : [...items, `...${textOf(type.rest)}`]).join(", ")}]`;
    }
    case "object": {
      const { members, rest } = type;
      if (members.size === 0)
        return rest === undefined || (rest.key.kind === "any" && rest.value.kind === "any") ? "object" : `object<${textOf(rest.key)}, ${textOf(rest.value)}>`;
      const texts = [...members].map(([key, member]) => `${formatScalar(key)}: ${textOf(member)}`);
      return `{${(rest === undefined ? texts : [...texts, `${textOf(rest.key)}: ${textOf(rest.value)}`]).join(", ")}}`;
    }
    case "set":
      return type.item.kind === "any" ? "set" : `set<${textOf(type.item)}>`;
    case "union":
      return `one of {${type.types.map(textOf).toSorted().join(", ")}}`;
    default:
      return type.kind;
  }
}

/** A scalar in a message, as it is written. */
export function formatScalar(value: Primitive): string {
  const text = formatValue(value);
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}...` : text;
}
