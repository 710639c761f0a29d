import { isArray, parseNumber, RegoObject, RegoSet, typeName } from "../values/index.ts";
import type { TypeName, Value } from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { BuiltinError, builtinError, define, operandError } from "./builtin.ts";

function isType(type: TypeName): (args: readonly Value[]) => boolean {
  return ([value]) => typeName(value!) === type;
}

/** Words that Go reads as numbers that JSON does not have. */
function isSpecial(text: string): boolean {
  const word = text.toLowerCase();
  return ["nan", "inf", "infinity"].includes(word.startsWith("-") || word.startsWith("+") ? word.slice(1) : word);
}

function cast(type: TypeName): (args: readonly Value[]) => Value {
  return ([value]) => {
    if (typeName(value!) !== type) throw operandError(1, type, value!);
    return value!;
  };
}

/** Types and conversions. */
export const typeBuiltins: readonly Builtin[] = [
  define("is_number", 1, isType("number")),
  define("is_string", 1, isType("string")),
  define("is_boolean", 1, isType("boolean")),
  define("is_array", 1, isType("array")),
  define("is_set", 1, isType("set")),
  define("is_object", 1, isType("object")),
  define("is_null", 1, isType("null")),
  define("type_name", 1, ([value]) => typeName(value!)),
  define("to_number", 1, ([value]) => {
    switch (typeof value) {
      case "number":
      case "bigint":
        return value;
      case "boolean":
        return value ? 1 : 0;
      case "string": {
        const number = parseNumber(value, true);
        if (number === undefined && isSpecial(value))
          throw new BuiltinError("operand", `operand 1 must be valid number string but got ${JSON.stringify(value)}`);
        if (number === undefined) throw builtinError(`strconv.ParseFloat: parsing ${JSON.stringify(value)}: invalid syntax`);
        return number;
      }
      default:
        if (value === null) return 0;
        throw operandError(1, "one of {null, boolean, number, string}", value!);
    }
  }),
  define(
    "cast_array",
    1,
    ([value]) => {
      if (isArray(value)) return value;
      if (value instanceof RegoSet) return value.items();
      throw operandError(1, "one of {array, set}", value!);
    },
    { deprecated: true },
  ),
  define(
    "cast_set",
    1,
    ([value]) => {
      if (value instanceof RegoSet) return value;
      if (isArray(value)) return RegoSet.of(value);
      throw operandError(1, "one of {array, set}", value!);
    },
    { deprecated: true },
  ),
  define("cast_string", 1, cast("string"), { deprecated: true }),
  define("cast_boolean", 1, cast("boolean"), { deprecated: true }),
  define("cast_null", 1, cast("null"), { deprecated: true }),
  define(
    "cast_object",
    1,
    ([value]) => {
      if (value instanceof RegoObject) return value;
      throw operandError(1, "object", value!);
    },
    { deprecated: true },
  ),
];
