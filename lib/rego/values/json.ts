import type { JsonObject, JsonValue } from "@sealpod/core";
import { RegoError } from "../errors.ts";
import { compareStrings } from "./compare.ts";
import { normalizeInteger, normalizeNumber, parseNumber } from "./number.ts";
import type { Value } from "./value.ts";
import { isArray, RegoObject, RegoSet } from "./value.ts";

/**
 * The Rego value of a JSON value.
 * @throws {RegoError} ERR_REGO_LIMIT_NESTING, ERR_REGO_LIMIT_NUMBER; ERR_REGO_DATA for what is not JSON
 */
export function fromJson(json: JsonValue, maxNesting: number): Value {
  return convert(json, maxNesting, maxNesting);
}

function convert(json: JsonValue, room: number, maxNesting: number): Value {
  switch (typeof json) {
    case "string":
      return json.isWellFormed() ? json : json.toWellFormed();
    case "boolean":
      return json;
    case "number":
      if (!Number.isFinite(json)) throw new RegoError("ERR_REGO_DATA", `${json} is not a JSON number`);
      return normalizeNumber(json);
    case "bigint":
      return normalizeInteger(json);
    case "object":
      break;
    default:
      throw new RegoError("ERR_REGO_DATA", `a value of type ${typeof json} is not JSON`);
  }
  if (json === null) return null;
  if (room === 0) throw nestingError(maxNesting);
  if (Array.isArray(json)) {
    const array: Value[] = [];
    for (const item of json as readonly JsonValue[]) array.push(convert(item, room - 1, maxNesting));
    return array;
  }
  const object = new RegoObject();
  for (const [name, item] of Object.entries(json as JsonObject)) {
    if (item === undefined) continue;
    object.put(name.isWellFormed() ? name : name.toWellFormed(), convert(item, room - 1, maxNesting));
  }
  return object;
}

function nestingError(maxNesting: number): RegoError {
  return new RegoError("ERR_REGO_LIMIT_NESTING", `a value is nested deeper than ${maxNesting}`, { details: { limit: maxNesting } });
}

/** The JSON value of a Rego value: sets become sorted arrays, keys that are no strings become their JSON text. */
export function toJson(value: Value): JsonValue {
  if (typeof value !== "object" || value === null) return value;
  if (isArray(value)) return value.map(toJson);
  if (value instanceof RegoSet) return value.items().map(toJson);
  const object = Object.create(null) as Record<string, JsonValue>;
  for (const [key, item] of value.entries()) object[keyText(key)] = toJson(item);
  return object;
}

/** The name under which a key stands in JSON. */
export function keyText(key: Value): string {
  return typeof key === "string" ? key : marshal(key);
}

/** Compact JSON text as Go's encoder writes it: keys sorted by their text. HTML characters stay as they are. */
export function marshal(value: Value): string {
  if (typeof value === "string") return quoteJson(value);
  if (typeof value !== "object" || value === null) return String(value);
  if (isArray(value)) return `[${value.map(marshal).join(",")}]`;
  if (value instanceof RegoSet) return `[${value.items().map(marshal).join(",")}]`;
  return `{${sortedMembers(value)
    .map(([name, item]) => `${quoteJson(name)}:${marshal(item)}`)
    .join(",")}}`;
}

/** Members of an object under their JSON names, sorted by name. */
export function sortedMembers(value: RegoObject): (readonly [string, Value])[] {
  const members: (readonly [string, Value])[] = [];
  for (const [key, item] of value.entries()) members.push([keyText(key), item]);
  return members.sort((a, b) => compareStrings(a[0], b[0]));
}

/** A JSON string literal with Go's escapes: HTML characters and U+2028/2029 are escaped, as `encoding/json` does. */
export function quoteJson(text: string): string {
  return JSON.stringify(text)
    .replaceAll("\u2028", "\\u2028")
    .replaceAll("\u2029", "\\u2029")
    .replaceAll("<", "\\u003c")
    .replaceAll(">", "\\u003e")
    .replaceAll("&", "\\u0026");
}

/** Why a text is not JSON. */
export class JsonSyntaxError extends Error {}

/**
 * Parses JSON for `json.unmarshal`: no loss in numbers; of two members with one name the last stays, as in Go.
 * @throws {JsonSyntaxError} for malformed text; {RegoError} ERR_REGO_LIMIT_NESTING
 */
export function parseJsonValue(text: string, maxNesting: number): Value {
  return new JsonReader(text, maxNesting).document();
}

class JsonReader {
  readonly #text: string;
  readonly #maxNesting: number;
  #at = 0;

  constructor(text: string, maxNesting: number) {
    this.#text = text;
    this.#maxNesting = maxNesting;
  }

  document(): Value {
    const value = this.#value(this.#maxNesting);
    this.#space();
    if (this.#at !== this.#text.length) this.#fail();
    return value;
  }

  #value(room: number): Value {
    this.#space();
    switch (this.#text[this.#at]) {
      case "{":
        return this.#object(room);
      case "[":
        return this.#array(room);
      case '"':
        return this.#string();
      case "t":
        return this.#word("true", true);
      case "f":
        return this.#word("false", false);
      case "n":
        return this.#word("null", null);
      default:
        return this.#number();
    }
  }

  #object(room: number): Value {
    if (room === 0) throw nestingError(this.#maxNesting);
    this.#at++;
    const object = new RegoObject();
    this.#space();
    if (this.#skip("}")) return object;
    for (;;) {
      this.#space();
      if (this.#text[this.#at] !== '"') this.#fail();
      const name = this.#string();
      this.#space();
      if (!this.#skip(":")) this.#fail();
      object.put(name, this.#value(room - 1));
      this.#space();
      if (this.#skip("}")) return object;
      if (!this.#skip(",")) this.#fail();
    }
  }

  #array(room: number): Value {
    if (room === 0) throw nestingError(this.#maxNesting);
    this.#at++;
    const array: Value[] = [];
    this.#space();
    if (this.#skip("]")) return array;
    for (;;) {
      array.push(this.#value(room - 1));
      this.#space();
      if (this.#skip("]")) return array;
      if (!this.#skip(",")) this.#fail();
    }
  }

  #string(): string {
    const start = this.#at;
    this.#at++;
    let escaped = false;
    for (;;) {
      const unit = this.#text.charCodeAt(this.#at);
      if (Number.isNaN(unit) || unit < 0x20) this.#fail();
      this.#at++;
      if (unit === 0x22) break;
      if (unit === 0x5c) {
        escaped = true;
        this.#at++;
      }
    }
    const literal = this.#text.slice(start, this.#at);
    if (!escaped) return literal.slice(1, -1).toWellFormed();
    try {
      return (JSON.parse(literal) as string).toWellFormed();
    } catch {
      this.#at = start;
      return this.#fail();
    }
  }

  #number(): Value {
    const start = this.#at;
    while (this.#at < this.#text.length && isNumberUnit(this.#text.charCodeAt(this.#at))) this.#at++;
    const lexeme = this.#text.slice(start, this.#at);
    const value = parseNumber(lexeme);
    // A number that no double holds is JSON all the same: to call it malformed would let a negation hold.
    if (value === undefined && isJsonNumber(lexeme)) {
      throw new RegoError("ERR_REGO_LIMIT_NUMBER", `the number ${lexeme.slice(0, 40)} is out of range`);
    }
    if (value === undefined) {
      this.#at = start;
      this.#fail();
    }
    return value;
  }

  #word<T extends Value>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) this.#fail();
    this.#at += word.length;
    return value;
  }

  #space(): void {
    for (;;) {
      const unit = this.#text.charCodeAt(this.#at);
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) return;
      this.#at++;
    }
  }

  #skip(char: string): boolean {
    if (this.#text[this.#at] !== char) return false;
    this.#at++;
    return true;
  }

  #fail(): never {
    const found = this.#text.codePointAt(this.#at);
    throw new JsonSyntaxError(
      found === undefined ? "unexpected end of JSON input" : `invalid character '${String.fromCodePoint(found)}' at offset ${this.#at} of the JSON text`,
    );
  }
}

/** RFC 8259 section 6. */
function isJsonNumber(text: string): boolean {
  return /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$/.test(text);
}

function isNumberUnit(unit: number): boolean {
  return (unit >= 0x30 && unit <= 0x39) || unit === 0x2b || unit === 0x2d || unit === 0x2e || unit === 0x65 || unit === 0x45;
}
