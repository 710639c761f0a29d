import type { RegoArray } from "../values/index.ts";
import type { Builtin, BuiltinContext } from "./builtin.ts";
import { BuiltinError, define, integer, string } from "./builtin.ts";

function limitOf(args: RegoArray, at: number): number {
  const value = Number(integer(args, at));
  return Math.max(-1, Math.min(value, 2 ** 31));
}

function isMatch(args: RegoArray, context: BuiltinContext): boolean {
  return context.matches(string(args, 0), string(args, 1));
}

/** Regular expressions: RE2 syntax and semantics, never those of JavaScript. */
export const regexBuiltins: readonly Builtin[] = [
  define("regex.match", 2, isMatch, { patternOperand: 0 }),
  define("re_match", 2, isMatch, { deprecated: true, patternOperand: 0 }),
  define("regex.is_valid", 1, ([text], context) => {
    if (typeof text !== "string") return false;
    try {
      context.regex(text);
      return true;
    } catch (error) {
      if (error instanceof BuiltinError) return false;
      throw error;
    }
  }),
  define(
    "regex.find_n",
    3,
    (args, context) => {
      const text = string(args, 1);
      const found = context.findAll(string(args, 0), text, limitOf(args, 2));
      context.allocate(found.length * 32 + text.length);
      return found.map(([start, end]) => text.slice(start, end));
    },
    { patternOperand: 0 },
  ),
  define(
    "regex.find_all_string_submatch_n",
    3,
    (args, context) => {
      const text = string(args, 1);
      const found = context.findAll(string(args, 0), text, limitOf(args, 2));
      return found.map((indexes) => {
        context.allocate(indexes.length * 16);
        const groups: string[] = [];
        for (let at = 0; at < indexes.length; at += 2) groups.push(indexes[at]! < 0 ? "" : text.slice(indexes[at], indexes[at + 1]));
        return groups;
      });
    },
    { patternOperand: 0 },
  ),
  define(
    "regex.split",
    2,
    (args, context) => {
      const text = string(args, 1);
      const pattern = string(args, 0);
      const found = context.findAll(pattern, text, -1);
      if (pattern !== "" && text === "") return [""];
      const parts: string[] = [];
      let begin = 0;
      let end = 0;
      for (const [start, stop] of found) {
        end = start!;
        if (stop !== 0) parts.push(text.slice(begin, end));
        begin = stop!;
      }
      if (end !== text.length) parts.push(text.slice(begin));
      context.allocate(parts.length * 16 + text.length);
      return parts;
    },
    { patternOperand: 0 },
  ),
  define(
    "regex.replace",
    3,
    (args, context) => {
      const text = string(args, 0);
      const pattern = string(args, 1);
      const found = context.findAll(pattern, text, -1);
      const template = string(args, 2);
      const names = template.includes("$") ? (): Readonly<Record<string, number>> => context.regex(pattern).namedGroups() : undefined;
      let result = "";
      let at = 0;
      for (const indexes of found) {
        result += text.slice(at, indexes[0]);
        const piece = names === undefined ? template : expand(template, text, indexes, names);
        context.allocate(piece.length);
        result += piece;
        at = indexes[1]!;
      }
      return result + text.slice(at);
    },
    { patternOperand: 1 },
  ),
];

function isNameUnit(unit: number): boolean {
  return (unit >= 0x30 && unit <= 0x39) || (unit >= 0x41 && unit <= 0x5a) || (unit >= 0x61 && unit <= 0x7a) || unit === 0x5f;
}

/** Go's `Expand`: `$1`, `$name`, `${name}`, `$$`; a name is as long as it can be, an unknown one stands for nothing. */
function expand(template: string, text: string, indexes: readonly number[], names: () => Readonly<Record<string, number>>): string {
  let result = "";
  let at = 0;
  for (;;) {
    const dollar = template.indexOf("$", at);
    if (dollar === -1) return result + template.slice(at);
    result += template.slice(at, dollar);
    if (template[dollar + 1] === "$") {
      result += "$";
      at = dollar + 2;
      continue;
    }
    const braced = template[dollar + 1] === "{";
    const start = dollar + (braced ? 2 : 1);
    let end = start;
    while (end < template.length && isNameUnit(template.charCodeAt(end))) end++;
    if (end === start || (braced && template[end] !== "}")) {
      result += "$";
      at = dollar + 1;
      continue;
    }
    result += group(template.slice(start, end), text, indexes, names);
    at = braced ? end + 1 : end;
  }
}

function group(name: string, text: string, indexes: readonly number[], names: () => Readonly<Record<string, number>>): string {
  let number = -1;
  if (isDigits(name)) number = Number(name);
  else if (Object.hasOwn(names(), name)) number = names()[name]!;
  const start = indexes[2 * number];
  return number < 0 || start === undefined || start < 0 ? "" : text.slice(start, indexes[2 * number + 1]);
}

function isDigits(text: string): boolean {
  for (const char of text) if (char < "0" || char > "9") return false;
  return text.length < 10;
}
