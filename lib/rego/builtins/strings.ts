import type { BuiltinContext, Builtin } from "./builtin.ts";
import type { RegoArray, Value } from "../values/index.ts";
import { formatValue, isArray, RegoSet } from "../values/index.ts";
import { array, BuiltinError, builtinError, collection, define, integer, object, operandError, string, weigh } from "./builtin.ts";
import { codePointCount, codePoints } from "./collections.ts";
import { sprintf } from "./sprintf.ts";

/** White space as Go's `unicode.IsSpace` has it. */
function isSpace(char: string): boolean {
  const code = char.codePointAt(0)!;
  if (code >= 0x09 && code <= 0x0d) return true;
  if (code >= 0x2000 && code <= 0x200a) return true;
  return [0x20, 0x85, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000].includes(code);
}

function trimLeft(text: string, drop: (char: string) => boolean): string {
  let at = 0;
  for (const char of text) {
    if (!drop(char)) break;
    at += char.length;
  }
  return text.slice(at);
}

function trimRight(text: string, drop: (char: string) => boolean): string {
  let end = text.length;
  while (end > 0) {
    const low = text.charCodeAt(end - 1);
    const size = low >= 0xdc00 && low <= 0xdfff ? 2 : 1;
    if (!drop(text.slice(end - size, end))) break;
    end -= size;
  }
  return text.slice(0, end);
}

/** Go maps code point by code point: a letter whose case form is several letters stays as it is. */
function mapCase(text: string, mapped: string, map: (char: string) => string): string {
  if (mapped.length === text.length && codePointCount(mapped) === codePointCount(text) && !hasSpecialCase(text)) return mapped;
  let result = "";
  for (const char of text) {
    const one = map(char);
    result += codePointCount(one) === 1 ? one : (SIMPLE_CASE.get(char) ?? char);
  }
  return result;
}

/** Letters whose JavaScript case mapping depends on context or language rules that Go does not have. */
function hasSpecialCase(text: string): boolean {
  for (let at = 0; at < text.length; at++) if (text.charCodeAt(at) > 0x7f) return true;
  return false;
}

/** Simple mappings of the letters whose full mapping is longer: U+0130 to i. */
const SIMPLE_CASE: ReadonlyMap<string, string> = new Map([["\u0130", "i"]]);

/** Index in UTF-16 units of a code point's index; the length of the text if there is none. */
function unitIndex(text: string, codePoints: number): number {
  let at = 0;
  for (let count = 0; count < codePoints && at < text.length; count++) at += text.codePointAt(at)! > 0xffff ? 2 : 1;
  return at;
}

function strings(args: RegoArray, at: number, where: string): readonly string[] {
  const value = args[at]!;
  if (typeof value === "string") return [value];
  if (!isArray(value) && !(value instanceof RegoSet)) throw operandError(at + 1, "one of {string, set, array}", value);
  const items = isArray(value) ? value : value.items();
  for (const item of items)
    if (typeof item !== "string")
      throw new BuiltinError("operand", `operand ${at + 1} must be ${where} of strings but got ${where} containing ${item === null ? "null" : typeof item}`);
  return items as readonly string[];
}

/** Results below this length are built without counting first what they will need. */
const SHORT_RESULT = 64 * 1024;

function replaceAll(text: string, from: string, to: string, context: BuiltinContext): string {
  if (from === "") {
    const points = codePoints(text);
    charge(text.length + (points.length + 1) * to.length, context);
    return `${to}${points.map((part) => part + to).join("")}`;
  }
  if (!text.includes(from)) return text;
  if (text.length + Math.floor(text.length / from.length) * to.length > SHORT_RESULT) {
    // The result's length is known before it is built: replacement in a loop can double it each time.
    const parts = text.split(from);
    charge(text.length + (parts.length - 1) * (to.length - from.length), context);
    return parts.join(to);
  }
  // A dollar sign in the replacement of JavaScript's function has a meaning.
  const result = text.replaceAll(from, to.includes("$") ? to.replaceAll("$", "$$$$") : to);
  charge(result.length, context);
  return result;
}

/** Counts a text of some length before it is built. */
function charge(length: number, context: BuiltinContext): void {
  context.allocate(length);
  context.work(length >> 6);
}

/** Functions on strings. Offsets and lengths count code points. */
export const stringBuiltins: readonly Builtin[] = [
  define("concat", 2, (args, context) => {
    const delimiter = string(args, 0);
    const parts: string[] = [];
    let length = 0;
    for (const part of collection(args, 1)) {
      if (typeof part !== "string") throw new BuiltinError("operand", `operand 2 must be ${isArray(args[1]) ? "array" : "set"} of strings`);
      parts.push(part);
      length += part.length + delimiter.length;
    }
    context.allocate(length);
    context.work(length >> 6);
    return parts.join(delimiter);
  }),
  define("contains", 2, (args) => string(args, 0).includes(string(args, 1))),
  define("startswith", 2, (args) => string(args, 0).startsWith(string(args, 1))),
  define("endswith", 2, (args) => string(args, 0).endsWith(string(args, 1))),
  define("strings.any_prefix_match", 2, (args, context) => anyMatch(args, context, (text, prefix) => text.startsWith(prefix))),
  define("strings.any_suffix_match", 2, (args, context) => anyMatch(args, context, (text, suffix) => text.endsWith(suffix))),
  define("indexof", 2, (args) => {
    const text = string(args, 0);
    const part = string(args, 1);
    if (part === "") throw builtinError("empty search character");
    const at = text.indexOf(part);
    return at === -1 ? -1 : codePointCount(text.slice(0, at));
  }),
  define("indexof_n", 2, (args, context) => {
    const text = string(args, 0);
    const part = string(args, 1);
    if (part === "") throw builtinError("empty search character");
    const found: Value[] = [];
    let count = 0;
    let counted = 0;
    for (let at = text.indexOf(part); at !== -1; at = text.indexOf(part, at + 1)) {
      count += codePointCount(text.slice(counted, at));
      counted = at;
      context.work(1);
      found.push(count);
    }
    return found;
  }),
  define("lower", 1, (args) => {
    const text = string(args, 0);
    return mapCase(text, text.toLowerCase(), (char) => char.toLowerCase());
  }),
  define("upper", 1, (args) => {
    const text = string(args, 0);
    return mapCase(text, text.toUpperCase(), (char) => char.toUpperCase());
  }),
  define("replace", 3, (args, context) => replaceAll(string(args, 0), string(args, 1), string(args, 2), context)),
  define("strings.replace_n", 2, (args, context) => {
    const patterns = object(args, 0);
    const text = string(args, 1);
    const pairs: [string, string][] = [];
    for (const [from, to] of patterns.entries()) {
      if (typeof from !== "string") throw new BuiltinError("operand", "operand 1 non-string key found in pattern object");
      if (typeof to !== "string") throw new BuiltinError("operand", "operand 1 non-string value found in pattern object");
      pairs.push([from, to]);
    }
    return replaceMany(text, pairs, context);
  }),
  define("strings.reverse", 1, (args) => codePoints(string(args, 0)).reverse().join("")),
  define("strings.count", 2, (args) => {
    const text = string(args, 0);
    const part = string(args, 1);
    return part === "" ? codePointCount(text) + 1 : text.split(part).length - 1;
  }),
  define("split", 2, (args, context) => {
    const text = string(args, 0);
    const delimiter = string(args, 1);
    context.allocate(text.length * 2);
    const parts = delimiter === "" ? codePoints(text) : text.split(delimiter);
    context.allocate(parts.length * 16);
    context.work(parts.length >> 3);
    return parts;
  }),
  define("substring", 3, (args) => {
    const text = string(args, 0);
    const offset = Number(integer(args, 1));
    const length = Number(integer(args, 2));
    if (offset < 0) throw builtinError("negative offset");
    const from = unitIndex(text, offset);
    if (length < 0) return text.slice(from);
    return text.slice(from, from + unitIndex(text.slice(from), length));
  }),
  define("trim", 2, (args) => {
    const cutset = new Set(string(args, 1));
    return trimRight(
      trimLeft(string(args, 0), (char) => cutset.has(char)),
      (char) => cutset.has(char),
    );
  }),
  define("trim_left", 2, (args) => {
    const cutset = new Set(string(args, 1));
    return trimLeft(string(args, 0), (char) => cutset.has(char));
  }),
  define("trim_right", 2, (args) => {
    const cutset = new Set(string(args, 1));
    return trimRight(string(args, 0), (char) => cutset.has(char));
  }),
  define("trim_prefix", 2, (args) => {
    const text = string(args, 0);
    const prefix = string(args, 1);
    return text.startsWith(prefix) ? text.slice(prefix.length) : text;
  }),
  define("trim_suffix", 2, (args) => {
    const text = string(args, 0);
    const suffix = string(args, 1);
    return text.endsWith(suffix) ? text.slice(0, text.length - suffix.length) : text;
  }),
  define("trim_space", 1, (args) => trimRight(trimLeft(string(args, 0), isSpace), isSpace)),
  define("sprintf", 2, (args, context) => {
    const format = string(args, 0);
    const values = args[1];
    if (!isArray(values)) throw operandError(2, "array", values!);
    const text = sprintf(format, values, context);
    context.allocate(text.length);
    return text;
  }),
  define("internal.template_string", 1, (args, context) => {
    let text = "";
    for (const part of array(args, 0)) {
      if (typeof part === "string") {
        text += part;
        continue;
      }
      // A policy can call this too, with anything.
      if (!(part instanceof RegoSet)) throw operandError(1, "array of strings and sets", part);
      const [value, second] = part.items();
      if (second !== undefined) throw builtinError("an expression in a template string has more than one value");
      if (value !== undefined) weigh(value, context);
      text += value === undefined ? "<undefined>" : typeof value === "string" ? value : formatValue(value);
      context.allocate(text.length);
    }
    return text;
  }),
];

function anyMatch(args: RegoArray, context: BuiltinContext, test: (text: string, part: string) => boolean): boolean {
  const kind = (at: number): string => (isArray(args[at]) ? "array" : "set");
  const texts = strings(args, 0, kind(0));
  const parts = strings(args, 1, kind(1));
  context.work((texts.length * parts.length) >> 2);
  return texts.some((text) => parts.some((part) => test(text, part)));
}

/** Go's generic `strings.Replacer`: at each place the first pattern in order that fits, no replacement inside replacements. */
function replaceMany(text: string, pairs: readonly (readonly [string, string])[], context: BuiltinContext): string {
  let result = "";
  let at = 0;
  let afterMatch = false;
  while (at <= text.length) {
    context.work(1 + (pairs.length >> 3));
    const found = pairs.find(([from]) => (from === "" ? !afterMatch : text.startsWith(from, at)));
    if (found !== undefined) {
      result += found[1];
      context.allocate(found[1].length);
      at += found[0].length;
      afterMatch = true;
      if (found[0] !== "") continue;
    }
    if (at >= text.length) break;
    const size = text.codePointAt(at)! > 0xffff ? 2 : 1;
    result += text.slice(at, at + size);
    at += size;
    afterMatch = false;
  }
  return result;
}
