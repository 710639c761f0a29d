import { CoreError } from "./errors.ts";

/**
 * A JSON value without loss: integers beyond 2^53 are `bigint`, objects have no prototype (a name such as `__proto__` is
 * a name like any other).
 */
export type JsonValue = null | boolean | number | bigint | string | readonly JsonValue[] | JsonObject;

/** A JSON object; its prototype is null. Names keep the order of the text, except integer-like names, which JavaScript puts first. */
export interface JsonObject {
  readonly [name: string]: JsonValue;
}

/** Limits of {@link parseJson}. */
export interface JsonLimits {
  /** Largest text, in UTF-16 units. */
  readonly maxLength: number;
  /** Deepest nesting of arrays and objects: keeps the recursive parser off the end of the stack. */
  readonly maxDepth: number;
  /** Longest number, in characters of its text with sign, point and exponent; {@link MAX_NUMBER_LENGTH} when absent. */
  readonly maxNumberLength?: number;
}

/**
 * Longest number where a caller names no other limit: a double is written with at most 25 characters, an integer of 256 bits with 78. To make an integer of its digits,
 * and digits of the integer, takes time that grows faster than their count: a document of nothing but one number would block for seconds.
 */
export const MAX_NUMBER_LENGTH = 128;

/** 16 MiB of text and 128 levels: more than any document of this project, small enough to refuse an attack at once. */
export const DEFAULT_JSON_LIMITS: JsonLimits = { maxLength: 16 * 1024 * 1024, maxDepth: 128, maxNumberLength: MAX_NUMBER_LENGTH };

/**
 * Parses strict JSON (RFC 8259): no duplicate names, no trailing text, numbers without loss.
 * @throws {CoreError} ERR_CORE_JSON with line and column, ERR_CORE_LIMIT for text, nesting or a number beyond the limits
 */
export function parseJson(text: string, what = "JSON", limits: JsonLimits = DEFAULT_JSON_LIMITS): JsonValue {
  if (text.length > limits.maxLength) {
    throw new CoreError("ERR_CORE_LIMIT", `${what} has ${text.length} characters, more than the limit of ${limits.maxLength}`, {
      details: { limit: limits.maxLength },
    });
  }
  return new JsonParser(text, what, limits).document();
}

/** The value as an object, or undefined. */
export function asObject(value: JsonValue | undefined): JsonObject | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : undefined;
}

/** The value as an array, or undefined. */
export function asArray(value: JsonValue | undefined): readonly JsonValue[] | undefined {
  return Array.isArray(value) ? (value as readonly JsonValue[]) : undefined;
}

/** Compact JSON text of a value; bigints are written as numbers. */
export function encodeJson(value: JsonValue): string {
  if (typeof value === "bigint") return value.toString();
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${(value as readonly JsonValue[]).map((item) => encodeJson(item)).join(",")}]`;
  return `{${Object.entries(value as JsonObject)
    .map(([name, item]) => `${JSON.stringify(name)}:${encodeJson(item)}`)
    .join(",")}}`;
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
// eslint-disable-next-line no-control-regex -- RFC 8259 section 7: control characters must be escaped
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const SPACE = /[ \t\n\r]*/y;

class JsonParser {
  readonly #text: string;
  readonly #what: string;
  readonly #maxDepth: number;
  readonly #maxNumberLength: number;
  #at = 0;

  constructor(text: string, what: string, limits: JsonLimits) {
    this.#text = text;
    this.#what = what;
    this.#maxDepth = limits.maxDepth;
    this.#maxNumberLength = limits.maxNumberLength ?? MAX_NUMBER_LENGTH;
  }

  document(): JsonValue {
    const value = this.#value(0);
    this.#space();
    if (this.#at !== this.#text.length) this.#fail("text after the value");
    return value;
  }

  #value(depth: number): JsonValue {
    if (depth > this.#maxDepth)
      throw new CoreError("ERR_CORE_LIMIT", `${this.#what}: nested deeper than ${this.#maxDepth}`, { details: { limit: this.#maxDepth } });
    this.#space();
    const char = this.#text[this.#at];
    switch (char) {
      case "{":
        return this.#object(depth);
      case "[":
        return this.#array(depth);
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

  #object(depth: number): JsonObject {
    const object = Object.create(null) as Record<string, JsonValue>;
    this.#at++;
    this.#space();
    if (this.#skip("}")) return object;
    for (;;) {
      this.#space();
      if (this.#text[this.#at] !== '"') this.#fail("a name in double quotes expected");
      const name = this.#string();
      // A second value for a name is how two readers of one document are made to disagree.
      if (Object.hasOwn(object, name)) this.#fail(`duplicate name ${JSON.stringify(name)}`);
      this.#space();
      if (!this.#skip(":")) this.#fail("':' expected");
      object[name] = this.#value(depth + 1);
      this.#space();
      if (this.#skip("}")) return object;
      if (!this.#skip(",")) this.#fail("',' or '}' expected");
    }
  }

  #array(depth: number): JsonValue[] {
    const array: JsonValue[] = [];
    this.#at++;
    this.#space();
    if (this.#skip("]")) return array;
    for (;;) {
      array.push(this.#value(depth + 1));
      this.#space();
      if (this.#skip("]")) return array;
      if (!this.#skip(",")) this.#fail("',' or ']' expected");
    }
  }

  #string(): string {
    const start = this.#at;
    this.#at++;
    for (;;) {
      PLAIN.lastIndex = this.#at;
      PLAIN.test(this.#text);
      this.#at = PLAIN.lastIndex;
      const char = this.#text[this.#at];
      if (char === '"') break;
      if (char !== "\\") this.#fail(char === undefined ? "string does not end" : "control character in a string");
      this.#at += 2;
    }
    this.#at++;
    const literal = this.#text.slice(start, this.#at);
    if (!literal.includes("\\")) return literal.slice(1, -1);
    try {
      return JSON.parse(literal) as string;
    } catch {
      this.#at = start;
      return this.#fail("invalid escape in a string");
    }
  }

  #number(): number | bigint {
    NUMBER.lastIndex = this.#at;
    const match = NUMBER.exec(this.#text);
    if (match === null) return this.#fail(this.#at >= this.#text.length ? "unexpected end" : "value expected");
    const { length } = match[0];
    // Before anything is made of the digits.
    if (length > this.#maxNumberLength) {
      const { line, column } = this.#place();
      throw new CoreError(
        "ERR_CORE_LIMIT",
        `${this.#what}:${line}:${column}: a number of ${length} characters, more than the limit of ${this.#maxNumberLength}`,
        {
          details: { line, column, offset: this.#at, limit: this.#maxNumberLength },
        },
      );
    }
    this.#at = NUMBER.lastIndex;
    const value = Number(match[0]);
    if (match[1] === undefined && match[2] === undefined && !Number.isSafeInteger(value)) return BigInt(match[0]);
    if (!Number.isFinite(value)) return this.#fail("number is too large");
    return value;
  }

  #word<T extends JsonValue>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) this.#fail("value expected");
    this.#at += word.length;
    return value;
  }

  #space(): void {
    SPACE.lastIndex = this.#at;
    SPACE.test(this.#text);
    this.#at = SPACE.lastIndex;
  }

  #skip(char: string): boolean {
    if (this.#text[this.#at] !== char) return false;
    this.#at++;
    return true;
  }

  #place(): { readonly line: number; readonly column: number } {
    const before = this.#text.slice(0, this.#at);
    return { line: before.split("\n").length, column: this.#at - before.lastIndexOf("\n") };
  }

  #fail(problem: string): never {
    const { line, column } = this.#place();
    throw new CoreError("ERR_CORE_JSON", `${this.#what}:${line}:${column}: ${problem}`, { details: { line, column, offset: this.#at } });
  }
}
