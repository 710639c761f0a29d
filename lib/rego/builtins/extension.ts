/**
 * What a package needs to add builtin functions of its own: the declaration, the operands, and the values. The core knows
 * nothing of such packages; a caller hands their functions to `compile`.
 */
export {
  array,
  boolean,
  BuiltinError,
  builtinError,
  collection,
  define,
  integer,
  number,
  object,
  operandError,
  set,
  smallInteger,
  string,
  weigh,
} from "./builtin.ts";
export { decodeBase64 } from "./text-encoding.ts";
export type { Builtin, BuiltinContext } from "./builtin.ts";
export {
  compareValues,
  equalValues,
  formatValue,
  fromJson,
  isArray,
  isInteger,
  JsonSyntaxError,
  keyText,
  marshal,
  normalizeInteger,
  normalizeNumber,
  parseJsonValue,
  parseNumber,
  RegoObject,
  RegoSet,
  toJson,
  typeName,
} from "../values/index.ts";
export type { Numeric, RegoArray, Value } from "../values/index.ts";
