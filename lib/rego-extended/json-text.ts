import { CoreError, parseJson } from "@sealpod/core";
import type { BuiltinContext, Value } from "@sealpod/rego";
import { builtinError, fromJson, JsonSyntaxError, marshal, parseJsonValue, RegoError, RegoObject, weigh } from "@sealpod/rego";

/** Longest number, in characters: an integer of the 4096 bits that a number may have has 1234 digits. `fromJson` weighs those that are read. */
const MAX_NUMBER_LENGTH = 1234;

/**
 * JSON text as Go's `encoding/json` writes it: compact, names sorted, HTML characters escaped; sets become arrays.
 * @throws {RegoError} ERR_REGO_LIMIT_*
 */
export function encodeGoJson(value: Value, context: BuiltinContext): string {
  weigh(value, context);
  const text = marshal(value);
  context.allocate(text.length);
  return text;
}

/**
 * The value of a JSON text without loss in numbers. Of two members with one name `last` keeps the last, as Go does; `refuse` throws:
 * in signed text a name that stands twice is how two readers are made to see different claims (RFC 7515 section 4, RFC 7519 section 4).
 * @param what name of the text, for messages
 * @throws {BuiltinError} for text that is no JSON; {RegoError} for its nesting and numbers
 */
export function parseJsonText(text: string, what: string, duplicates: "refuse" | "last", context: BuiltinContext): Value {
  context.work(text.length >> 4);
  context.allocate(text.length * 2);
  try {
    if (duplicates === "last") return parseJsonValue(text, context.maxNesting);
    return fromJson(parseJson(text, what, { maxLength: Infinity, maxDepth: context.maxNesting, maxNumberLength: MAX_NUMBER_LENGTH }), context.maxNesting);
  } catch (error) {
    if (error instanceof JsonSyntaxError) throw builtinError(`${what}: ${error.message}`);
    if (!(error instanceof CoreError)) throw error;
    if (error.code === "ERR_CORE_LIMIT") {
      // Of the limits given only that of numbers has a place in the text.
      const code = error.details["offset"] === undefined ? "ERR_REGO_LIMIT_NESTING" : "ERR_REGO_LIMIT_NUMBER";
      throw new RegoError(code, error.message, { cause: error });
    }
    throw builtinError(error.message);
  }
}

/** {@link parseJsonText} for a text that must be an object. @throws {BuiltinError} {RegoError} */
export function parseJsonObject(text: string, what: string, duplicates: "refuse" | "last", context: BuiltinContext): RegoObject {
  const value = parseJsonText(text, what, duplicates, context);
  if (!(value instanceof RegoObject)) throw builtinError(`${what}: decoded JSON type was not an Object`);
  return value;
}
