import { CoreError, encodeJson, parseJson } from "@sealpod/core";
import type { JsonValue } from "@sealpod/core";
import type { BuiltinContext, Value } from "@sealpod/rego";
import { builtinError, compareValues, fromJson, isArray, keyText, parseNumber, RegoObject, RegoSet } from "@sealpod/rego";

/** JSON text as Go's `encoding/json` writes it: compact, names sorted by code point, HTML characters escaped; sets become arrays. */
export function encodeGoJson(value: Value): string {
  if (typeof value === "string") return quote(value);
  if (typeof value !== "object" || value === null) return encodeJson(value);
  if (isArray(value)) return `[${value.map(encodeGoJson).join(",")}]`;
  if (value instanceof RegoSet) return `[${value.items().map(encodeGoJson).join(",")}]`;
  const members = [...value.entries()].map(([key, item]) => [keyText(key), item] as const).toSorted((a, b) => compareValues(a[0], b[0]));
  return `{${members.map(([name, item]) => `${quote(name)}:${encodeGoJson(item)}`).join(",")}}`;
}

function quote(text: string): string {
  return JSON.stringify(text).replaceAll(/[<>&\u2028\u2029]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/**
 * A JSON object without loss in numbers. Of two members with one name `last` keeps the last, as Go does; `refuse` throws: in signed
 * text a name that stands twice is how two readers are made to see different claims (RFC 7515 section 4, RFC 7519 section 4).
 * @param what name of the text, for messages
 * @throws {BuiltinError} for text that is no JSON object; {RegoError} for its nesting and numbers
 */
export function parseJsonObject(text: string, what: string, duplicates: "refuse" | "last", context: BuiltinContext): RegoObject {
  context.work(text.length >> 4);
  context.allocate(text.length * 2);
  const json = duplicates === "refuse" ? parseStrict(text, what) : parseLast(text, what, context.maxNesting);
  const value = fromJson(json, context.maxNesting);
  if (!(value instanceof RegoObject)) throw builtinError(`${what}: decoded JSON type was not an Object`);
  return value;
}

function parseStrict(text: string, what: string): JsonValue {
  try {
    return parseJson(text, what);
  } catch (error) {
    if (error instanceof CoreError) throw builtinError(error.message);
    throw error;
  }
}

function parseLast(text: string, what: string, maxNesting: number): JsonValue {
  // The reviver below is called recursively by the engine, so the depth is bounded before.
  if (nesting(text) > maxNesting) throw builtinError(`${what}: nested deeper than ${maxNesting}`);
  try {
    return JSON.parse(text, (_name: string, value: JsonValue, literal?: { readonly source?: string }) =>
      typeof value === "number" ? exactNumber(literal?.source ?? String(value)) : value,
    ) as JsonValue;
  } catch (error) {
    if (error instanceof SyntaxError) throw builtinError(`${what}: invalid JSON: ${error.message}`);
    throw error;
  }
}

function exactNumber(source: string): number | bigint {
  const number = parseNumber(source);
  if (number === undefined) throw builtinError(`number ${source.slice(0, 40)} is out of range`);
  return number;
}

function nesting(text: string): number {
  let deepest = 0;
  let depth = 0;
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (quoted) {
      if (char === "\\") at++;
      else if (char === '"') quoted = false;
    } else if (char === '"') quoted = true;
    else if (char === "{" || char === "[") deepest = Math.max(deepest, ++depth);
    else if (char === "}" || char === "]") depth--;
  }
  return deepest;
}
