import { encodeJson } from "@sealpod/core";
import type { BuiltinContext, Numeric, RegoArray, Value } from "@sealpod/rego";
import { BuiltinError, compareValues, equalValues, isArray, isInteger, RegoError, RegoObject, toJson, weigh } from "@sealpod/rego";
import { matchesFormat } from "./json-schema-formats.ts";

/**
 * JSON Schema of drafts 4, 6 and 7, as OPA has it: patterns are RE2, references stay within the schema, and errors have the
 * types and texts of OPA's. It is our own because a schema may come from the input: each step is counted, no pattern runs
 * in JavaScript's engine, integers beyond 2^53 are exact, and references that double with each level meet a limit.
 */

/** One reason why a document does not match; all members are texts for people but `type`. */
export interface SchemaMismatch {
  readonly error: string;
  readonly type: string;
  /** Path of the part, steps joined by dots; `(root)` for the document itself. */
  readonly field: string;
  readonly desc: string;
}

/** Why a value is no schema. */
export class SchemaError extends Error {}

/** Schemas within schemas, references included: a schema that refers to itself without end stops here. */
const MAX_DEPTH = 512;

/** Only there so that relative identifiers can be resolved; nothing is fetched. */
const BASE = "https://schema.invalid/";

const TYPES: readonly string[] = ["array", "boolean", "integer", "number", "null", "object", "string"];

/** Keywords of later drafts. OPA ignores them, and a constraint that is ignored lets pass what it should stop. */
const LATER_KEYWORDS: readonly string[] = [
  "$dynamicRef",
  "$recursiveRef",
  "dependentRequired",
  "dependentSchemas",
  "maxContains",
  "minContains",
  "prefixItems",
  "unevaluatedItems",
  "unevaluatedProperties",
];

type Check = (schema: JsonSchema, value: Value, keyword: string) => void;

function expect(holds: boolean, keyword: string, what: string): void {
  if (!holds) throw new SchemaError(`${keyword} must be ${what}`);
}

function isNumber(value: Value | undefined): value is Numeric {
  return typeof value === "number" || typeof value === "bigint";
}

function isStrings(value: Value): value is readonly string[] {
  return isArray(value) && value.every((item) => typeof item === "string");
}

const checkNumber: Check = (_schema, value, keyword) => expect(isNumber(value), keyword, "a number");
const checkBound: Check = (_schema, value, keyword) => expect(isNumber(value) || typeof value === "boolean", keyword, "a number or a boolean");
const checkCount: Check = (_schema, value, keyword) => expect(isNumber(value) && isInteger(value) && value >= 0, keyword, "an integer of at least 0");
const checkString: Check = (_schema, value, keyword) => expect(typeof value === "string", keyword, "a string");
const checkBoolean: Check = (_schema, value, keyword) => expect(typeof value === "boolean", keyword, "a boolean");
const checkSchema: Check = (schema, value) => schema.check(value);
const checkPattern: Check = (schema, value, keyword) => {
  checkString(schema, value, keyword);
  schema.pattern(value as string);
};
const checkList: Check = (schema, value, keyword) => {
  if (!isArray(value) || value.length === 0) throw new SchemaError(`${keyword} must be an array of schemas, and not empty`);
  for (const item of value) schema.check(item);
};
const checkMap: Check = (schema, value, keyword) => {
  if (!(value instanceof RegoObject)) throw new SchemaError(`${keyword} must be an object of schemas`);
  for (const [, item] of value.entries()) schema.check(item);
};

const CHECKS: ReadonlyMap<string, Check> = new Map<string, Check>([
  ["$ref", checkString],
  ["$id", checkString],
  ["id", checkString],
  ["type", (_schema, value): void => checkType(value)],
  ["enum", (_schema, value): void => expect(isArray(value) && value.length > 0, "enum", "an array that is not empty")],
  ["multipleOf", (_schema, value): void => expect(isNumber(value) && value > 0, "multipleOf", "a number greater than 0")],
  ["maximum", checkNumber],
  ["minimum", checkNumber],
  ["exclusiveMaximum", checkBound],
  ["exclusiveMinimum", checkBound],
  ["maxLength", checkCount],
  ["minLength", checkCount],
  ["maxItems", checkCount],
  ["minItems", checkCount],
  ["maxProperties", checkCount],
  ["minProperties", checkCount],
  ["pattern", checkPattern],
  ["format", checkString],
  ["uniqueItems", checkBoolean],
  ["required", (_schema, value): void => expect(isStrings(value), "required", "an array of strings")],
  ["items", (schema, value, keyword): void => (isArray(value) ? value.forEach((item) => schema.check(item)) : checkSchema(schema, value, keyword))],
  ["additionalItems", checkSchema],
  ["contains", checkSchema],
  ["additionalProperties", checkSchema],
  ["propertyNames", checkSchema],
  ["not", checkSchema],
  ["if", checkSchema],
  ["then", checkSchema],
  ["else", checkSchema],
  ["allOf", checkList],
  ["anyOf", checkList],
  ["oneOf", checkList],
  ["properties", checkMap],
  ["definitions", checkMap],
  ["$defs", checkMap],
  [
    "patternProperties",
    (schema, value, keyword): void => {
      checkMap(schema, value, keyword);
      for (const [pattern] of (value as RegoObject).entries()) schema.pattern(pattern as string);
    },
  ],
  [
    "dependencies",
    (schema, value): void => {
      if (!(value instanceof RegoObject)) throw new SchemaError("dependencies must be an object");
      for (const [, item] of value.entries()) if (!isStrings(item)) schema.check(item);
    },
  ],
]);

function checkType(value: Value): void {
  const names = isArray(value) ? value : [value];
  for (const name of names) {
    if (typeof name !== "string") throw new SchemaError("type must be a string or an array of strings");
    if (!TYPES.includes(name))
      throw new SchemaError(`has a primitive type that is NOT VALID -- given: /${name}/ Expected valid values are:[${TYPES.join(" ")}]`);
  }
}

/** A schema that has been checked. */
export class JsonSchema {
  readonly #context: BuiltinContext;
  readonly #root: Value;
  /** Schemas by identifier, anchors included. */
  readonly #identified = new Map<string, Value>();
  /** The identifier that references of a schema are relative to. */
  readonly #bases = new Map<Value, string>();
  /** References, to be resolved when all identifiers are known. */
  readonly #references: RegoObject[] = [];
  readonly #targets = new Map<RegoObject, Value>();
  #base = BASE;
  #depth = 0;

  /** @throws {SchemaError}; {RegoError} ERR_REGO_LIMIT_* */
  constructor(root: Value, context: BuiltinContext) {
    this.#context = context;
    this.#root = root;
    if (!(root instanceof RegoObject) && typeof root !== "boolean") throw new SchemaError("a schema must be an object or a boolean");
    this.#identified.set(BASE, root);
    this.check(root);
    // Grows while it is walked: what a reference leads to may hold others.
    for (const schema of this.#references) this.#targets.set(schema, this.#resolve(schema));
  }

  /** Checks a schema that is not used. @throws {SchemaError}; {RegoError} ERR_REGO_LIMIT_* */
  static check(root: Value, context: BuiltinContext): void {
    void new JsonSchema(root, context);
  }

  /** Reasons why a document does not match; none if it does. */
  errorsOf(document: Value): readonly SchemaMismatch[] {
    return this.#validate(this.#root, document, []);
  }

  /** Checks the keywords of a schema and of those in it. For the table of keywords only. */
  check(schema: Value): void {
    this.#context.work(1);
    if (typeof schema === "boolean") return;
    if (!(schema instanceof RegoObject)) throw new SchemaError("a schema must be an object or a boolean");
    if (this.#bases.has(schema)) return;
    this.#nest(() => {
      const outer = this.#base;
      this.#context.allocate(64);
      this.#identify(schema);
      this.#bases.set(schema, this.#base);
      for (const keyword of LATER_KEYWORDS)
        if (schema.has(keyword)) throw new SchemaError(`the keyword ${keyword} belongs to a later draft than 7, which this engine does not evaluate`);
      for (const [keyword, value] of schema.entries()) CHECKS.get(keyword as string)?.(this, value, keyword as string);
      if (schema.has("$ref")) this.#references.push(schema);
      this.#base = outer;
    });
  }

  /** Compiles a pattern. For the table of keywords only. */
  pattern(pattern: string): void {
    try {
      this.#context.regex(pattern);
    } catch (error) {
      if (error instanceof BuiltinError) throw new SchemaError(`the pattern ${JSON.stringify(pattern.slice(0, 64))} is not RE2 syntax: ${error.message}`);
      throw error;
    }
  }

  #nest<T>(run: () => T): T {
    if (++this.#depth > MAX_DEPTH) {
      throw new RegoError("ERR_REGO_LIMIT_CALLS", `schemas refer to one another more than ${MAX_DEPTH} deep`, { details: { limit: MAX_DEPTH } });
    }
    const result = run();
    this.#depth--;
    return result;
  }

  #identify(schema: RegoObject): void {
    const id = schema.get("$id") ?? schema.get("id");
    if (typeof id !== "string" || id === "" || schema.has("$ref")) return;
    const absolute = URL.parse(id, this.#base);
    if (absolute === null) throw new SchemaError(`the identifier ${JSON.stringify(id.slice(0, 128))} is not a URI reference`);
    this.#context.work(id.length);
    this.#identified.set(trimHash(absolute.href), schema);
    if (absolute.hash.length > 1) return;
    this.#base = trimHash(absolute.href);
  }

  #resolve(schema: RegoObject): Value {
    const ref = schema.get("$ref") as string;
    this.#context.work(ref.length);
    const absolute = URL.parse(ref, this.#bases.get(schema));
    const unresolved = new SchemaError(`the reference ${JSON.stringify(ref.slice(0, 128))} leads nowhere in the schema; schemas elsewhere are not fetched`);
    if (absolute === null) throw unresolved;
    let target = this.#identified.get(trimHash(absolute.href));
    if (target === undefined) {
      const fragment = absolute.hash.slice(1);
      absolute.hash = "";
      target = this.#identified.get(trimHash(absolute.href));
      if (target === undefined || (fragment !== "" && !fragment.startsWith("/"))) throw unresolved;
      const base = this.#bases.get(target) ?? BASE;
      for (const step of fragment === "" ? [] : fragment.slice(1).split("/")) {
        const name = decodePointer(step);
        target = name === undefined ? undefined : target instanceof RegoObject ? target.get(name) : isArray(target) ? elementOf(target, name) : undefined;
        if (target === undefined) throw unresolved;
      }
      this.#base = base;
    }
    this.check(target);
    this.#base = BASE;
    return target;
  }

  #validate(schema: Value, value: Value, path: readonly (string | number)[]): SchemaMismatch[] {
    return this.#nest(() => {
      this.#context.work(2);
      const found = new Mismatches(path, this.#context);
      if (schema === false) found.add("false", "False always fails validation");
      if (!(schema instanceof RegoObject)) return found.list;
      // Beside a reference nothing counts (draft 7, section 8.3).
      if (schema.has("$ref")) return this.#validate(this.#targets.get(schema)!, value, path);
      this.#context.work(schema.size);
      if (this.#typed(schema, value, found)) {
        this.#combined(schema, value, found, path);
        this.#common(schema, value, found);
        if (isArray(value)) this.#array(schema, value, found, path);
        else if (value instanceof RegoObject) this.#object(schema, value, found, path);
        else if (typeof value === "string") this.#string(schema, value, found);
        else if (isNumber(value)) numeric(schema, value, found);
      }
      return found.list;
    });
  }

  #matches(schema: Value, value: Value, path: readonly (string | number)[]): boolean {
    return this.#validate(schema, value, path).length === 0;
  }

  #typed(schema: RegoObject, value: Value, found: Mismatches): boolean {
    const type = schema.get("type");
    if (type === undefined) return true;
    const names = isArray(type) ? (type as readonly string[]) : [type as string];
    const given = typeOf(value);
    if (names.length === 0 || names.includes(given) || (given === "integer" && names.includes("number"))) return true;
    found.add("invalid_type", `Invalid type. Expected: ${names.length === 1 ? names[0] : `[${names.join(",")}]`}, given: ${given}`);
    return false;
  }

  #combined(schema: RegoObject, value: Value, found: Mismatches, path: readonly (string | number)[]): void {
    const results = (keyword: string): readonly SchemaMismatch[][] | undefined =>
      (schema.get(keyword) as RegoArray | undefined)?.map((item) => this.#validate(item, value, path));
    const anyOf = results("anyOf");
    if (anyOf !== undefined && !anyOf.some((errors) => errors.length === 0)) {
      found.add("number_any_of", "Must validate at least one schema (anyOf)");
      found.addAll(nearest(anyOf));
    }
    const oneOf = results("oneOf");
    if (oneOf !== undefined) {
      const matching = oneOf.filter((errors) => errors.length === 0).length;
      if (matching !== 1) found.add("number_one_of", "Must validate one and only one schema (oneOf)");
      if (matching === 0) found.addAll(nearest(oneOf));
    }
    if (results("allOf")?.some((errors) => errors.length > 0) === true) found.add("number_all_of", "Must validate all the schemas (allOf)");
    const not = schema.get("not");
    if (not !== undefined && this.#matches(not, value, path)) found.add("number_not", "Must not validate the schema (not)");
    const condition = schema.get("if");
    if (condition === undefined) return;
    const holds = this.#matches(condition, value, path);
    const consequence = schema.get(holds ? "then" : "else");
    const errors = consequence === undefined ? [] : this.#validate(consequence, value, path);
    if (errors.length === 0) return;
    if (holds) found.add("condition_then", 'Must validate "then" as "if" was valid');
    else found.add("condition_else", 'Must validate "else" as "if" was not valid');
    found.addAll(errors);
  }

  #common(schema: RegoObject, value: Value, found: Mismatches): void {
    const constant = schema.get("const");
    if (constant !== undefined && !equalValues(constant, value, this.#context)) found.add("const", `${found.field} does not match: ${this.#json(constant)}`);
    const allowed = schema.get("enum") as RegoArray | undefined;
    if (allowed === undefined) return;
    this.#context.work(allowed.length);
    if (allowed.some((item) => equalValues(item, value, this.#context))) return;
    found.add("enum", `${found.field} must be one of the following: ${allowed.map((item) => this.#json(item)).join(", ")}`);
  }

  #json(value: Value): string {
    weigh(value, this.#context);
    const text = encodeJson(toJson(value));
    this.#context.allocate(text.length);
    return text;
  }

  #array(schema: RegoObject, value: RegoArray, found: Mismatches, path: readonly (string | number)[]): void {
    this.#context.work(value.length);
    const items = schema.get("items");
    const rest = isArray(items) ? schema.get("additionalItems") : items;
    const positional = isArray(items) ? items : [];
    for (const [at, item] of value.entries()) {
      const inner = positional[at] ?? rest;
      if (inner === undefined) continue;
      if (inner === false && isArray(items)) {
        found.add("array_no_additional_items", "No additional items allowed on array");
        break;
      }
      found.addAll(this.#validate(inner, item, [...path, at]));
    }
    atLeast(schema, "minItems", value.length, (min) => found.add("array_min_items", `Array must have at least ${min} items`));
    atMost(schema, "maxItems", value.length, (max) => found.add("array_max_items", `Array must have at most ${max} items`));
    if (schema.get("uniqueItems") === true) this.#unique(value, found);
    const contained = schema.get("contains");
    if (contained !== undefined && !value.some((item, at) => this.#matches(contained, item, [...path, at])))
      found.add("contains", "At least one of the items must match");
  }

  #unique(value: RegoArray, found: Mismatches): void {
    const seen = new RegoObject();
    this.#context.allocate(value.length * 16);
    for (const [at, item] of value.entries()) {
      // A composed item is found by its text.
      weigh(item, this.#context);
      const earlier = seen.get(item);
      if (earlier !== undefined) {
        found.add("unique", `array items[${earlier as number},${at}] must be unique`);
        return;
      }
      seen.put(item, at);
    }
  }

  #object(schema: RegoObject, value: RegoObject, found: Mismatches, path: readonly (string | number)[]): void {
    const required = (schema.get("required") ?? []) as readonly string[];
    this.#context.work(required.length + value.size);
    for (const name of required) if (!value.has(name)) found.add("required", `${name} is required`);
    atLeast(schema, "minProperties", value.size, (min) => found.add("array_min_properties", `Must have at least ${min} properties`));
    atMost(schema, "maxProperties", value.size, (max) => found.add("array_max_properties", `Must have at most ${max} properties`));
    const properties = schema.get("properties") as RegoObject | undefined;
    const patterns = [...((schema.get("patternProperties") as RegoObject | undefined)?.entries() ?? [])];
    const additional = schema.get("additionalProperties");
    const names = schema.get("propertyNames");
    for (const [key, item] of value.entries()) {
      const name = key as string;
      const inner = [...path, name];
      const own = properties?.get(name);
      if (own !== undefined) found.addAll(this.#validate(own, item, inner));
      const fitting = patterns.filter(([pattern]) => this.#test(pattern as string, name));
      for (const [, patterned] of fitting) found.addAll(this.#validate(patterned, item, inner));
      if (own === undefined && fitting.length === 0 && additional !== undefined) {
        if (additional === false) found.add("additional_property_not_allowed", `Additional property ${name} is not allowed`);
        else found.addAll(this.#validate(additional, item, inner));
      }
      if (names !== undefined && !this.#matches(names, name, inner)) found.add("invalid_property_name", `Property name of "${name}" does not match`);
    }
    this.#dependencies(schema, value, found, path);
  }

  #dependencies(schema: RegoObject, value: RegoObject, found: Mismatches, path: readonly (string | number)[]): void {
    for (const [name, needed] of (schema.get("dependencies") as RegoObject | undefined)?.entries() ?? []) {
      this.#context.work(1);
      if (!value.has(name)) continue;
      if (isStrings(needed)) {
        this.#context.work(needed.length);
        for (const other of needed) if (!value.has(other)) found.add("missing_dependency", `Has a dependency on ${other}`);
      } else found.addAll(this.#validate(needed, value, path));
    }
  }

  #string(schema: RegoObject, value: string, found: Mismatches): void {
    this.#context.work(value.length >> 4);
    if (schema.has("minLength") || schema.has("maxLength")) {
      const length = Array.from(value).length;
      atLeast(schema, "minLength", length, (min) => found.add("string_gte", `String length must be greater than or equal to ${min}`));
      atMost(schema, "maxLength", length, (max) => found.add("string_lte", `String length must be less than or equal to ${max}`));
    }
    const pattern = schema.get("pattern") as string | undefined;
    if (pattern !== undefined && !this.#test(pattern, value)) found.add("pattern", `Does not match pattern '${pattern}'`);
    const format = schema.get("format") as string | undefined;
    if (format !== undefined && !matchesFormat(format, value, this.#context)) found.add("format", `Does not match format '${format}'`);
  }

  #test(pattern: string, text: string): boolean {
    return this.#context.matches(pattern, text);
  }
}

/** The mismatches of one schema with one part of the document. */
class Mismatches {
  readonly list: SchemaMismatch[] = [];
  readonly field: string;
  readonly #context: BuiltinContext;

  constructor(path: readonly (string | number)[], context: BuiltinContext) {
    context.work(path.length);
    this.field = path.length === 0 ? "(root)" : path.join(".");
    this.#context = context;
  }

  add(type: string, desc: string): void {
    const error = `${this.field}: ${desc}`;
    this.#context.allocate(128 + error.length);
    this.list.push({ error, type, field: this.field, desc });
  }

  addAll(errors: readonly SchemaMismatch[]): void {
    this.#context.work(errors.length);
    for (const error of errors) this.list.push(error);
  }
}

/** Errors of the alternative that is nearest to matching. */
function nearest(alternatives: readonly (readonly SchemaMismatch[])[]): readonly SchemaMismatch[] {
  return alternatives.reduce((best, errors) => (errors.length < best.length ? errors : best));
}

function typeOf(value: Value): string {
  if (value === null) return "null";
  if (isNumber(value)) return isInteger(value) ? "integer" : "number";
  if (isArray(value)) return "array";
  return typeof value === "string" || typeof value === "boolean" ? typeof value : "object";
}

function atLeast(schema: RegoObject, keyword: string, count: number, fail: (limit: Numeric) => void): void {
  const limit = schema.get(keyword);
  if (isNumber(limit) && count < limit) fail(limit);
}

function atMost(schema: RegoObject, keyword: string, count: number, fail: (limit: Numeric) => void): void {
  const limit = schema.get(keyword);
  if (isNumber(limit) && count > limit) fail(limit);
}

function numeric(schema: RegoObject, value: Numeric, found: Mismatches): void {
  const multiple = schema.get("multipleOf");
  if (isNumber(multiple) && !isMultiple(value, multiple)) found.add("multiple_of", `Must be a multiple of ${multiple}`);
  const order = (limit: Value): number => compareValues(value, limit);
  const [minimum, maximum] = [schema.get("minimum"), schema.get("maximum")];
  const [above, below] = [schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")];
  // Booleans are draft 4: they make the other keyword exclusive.
  if (minimum !== undefined && above !== true && order(minimum) < 0) found.add("number_gte", `Must be greater than or equal to ${minimum as Numeric}`);
  const low = above === true ? minimum : above;
  if (isNumber(low) && order(low) <= 0) found.add("number_gt", `Must be greater than ${low}`);
  if (maximum !== undefined && below !== true && order(maximum) > 0) found.add("number_lte", `Must be less than or equal to ${maximum as Numeric}`);
  const high = below === true ? maximum : below;
  if (isNumber(high) && order(high) >= 0) found.add("number_lt", `Must be less than ${high}`);
}

/** Exact, by decimals: 0.3 is a multiple of 0.1. */
function isMultiple(value: Numeric, divisor: Numeric): boolean {
  const [a, b] = [decimal(value), decimal(divisor)];
  const exponent = Math.min(a.exponent, b.exponent);
  return (a.digits * 10n ** BigInt(a.exponent - exponent)) % (b.digits * 10n ** BigInt(b.exponent - exponent)) === 0n;
}

function decimal(value: Numeric): { readonly digits: bigint; readonly exponent: number } {
  const [mantissa = "", exponent = "0"] = String(value).split("e");
  const [whole = "", fraction = ""] = mantissa.split(".");
  return { digits: BigInt(whole + fraction), exponent: Number(exponent) - fraction.length };
}

function trimHash(href: string): string {
  return href.endsWith("#") ? href.slice(0, -1) : href;
}

/** A step of a JSON pointer in a URI fragment. */
function decodePointer(step: string): string | undefined {
  try {
    return decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~");
  } catch (error) {
    if (error instanceof URIError) return undefined;
    throw error;
  }
}

function elementOf(array: RegoArray, name: string): Value | undefined {
  return String(Number(name)) === name ? array[Number(name)] : undefined;
}
