import type { Builtin, BuiltinContext, Value } from "@sealpod/rego";
import { BuiltinError, builtinError, define, isArray, keyText, RegoError, RegoObject, RegoSet } from "@sealpod/rego";
import { parseJsonText } from "../json-text.ts";
import { JsonSchema, SchemaError } from "./json-schema.ts";

/** A value as JSON has it: sets become sorted arrays, keys become strings. Counts as it goes, since values may share parts. */
function plain(value: Value, room: number, context: BuiltinContext): Value {
  context.work(2);
  context.allocate(8);
  if (typeof value !== "object" || value === null) return value;
  if (room === 0)
    throw new RegoError("ERR_REGO_LIMIT_NESTING", `a value is nested deeper than ${context.maxNesting}`, { details: { limit: context.maxNesting } });
  if (isArray(value) || value instanceof RegoSet) return (isArray(value) ? value : value.items()).map((item) => plain(item, room - 1, context));
  const object = new RegoObject();
  for (const [key, item] of value.entries()) object.put(keyText(key), plain(item, room - 1, context));
  return object;
}

/** A document or schema: an object, or the JSON text of any value. */
function loaded(value: Value, context: BuiltinContext): Value {
  if (value instanceof RegoObject) return plain(value, context.maxNesting, context);
  if (typeof value !== "string") throw builtinError("wrong type, expected string or object");
  return parseJsonText(value, "the text", "last", context);
}

/** JSON Schema. */
export const schemaBuiltins: readonly Builtin[] = [
  define("json.match_schema", 2, ([document, schema], context): Value => {
    try {
      const compiled = new JsonSchema(loaded(schema!, context), context);
      const errors = compiled.errorsOf(loaded(document!, context));
      return [errors.length === 0, errors.map((error) => RegoObject.of(Object.entries(error)))];
    } catch (error) {
      if (error instanceof SchemaError) throw builtinError(error.message);
      throw error;
    }
  }),
  define("json.verify_schema", 1, ([schema], context): Value => {
    try {
      JsonSchema.check(loaded(schema!, context), context);
      return [true, null];
    } catch (error) {
      if (error instanceof SchemaError || error instanceof BuiltinError) return [false, `jsonschema: ${error.message}`];
      throw error;
    }
  }),
];
