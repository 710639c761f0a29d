import type { RegoArray } from "../values/index.ts";
import { isArray } from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { BuiltinError, builtinError, define, operandError, string } from "./builtin.ts";
import { codePoints } from "./collections.ts";

/** Characters that stand for something in RE2 outside classes. */
const META = "\\.+*?()|[]{}^$";

function literal(char: string): string {
  return META.includes(char) ? `\\${char}` : char;
}

function inClass(char: string): string {
  return "\\]^-[".includes(char) ? `\\${char}` : char;
}

/**
 * A glob as an anchored RE2 pattern. `*` and `?` stop at delimiters, `**` does not; `[a-z]`, `[!a-z]`, `{a,b}`, `\` as escape.
 * @throws {BuiltinError} for brackets and braces that do not end
 */
function toRegex(glob: string, delimiters: readonly string[]): string {
  const chars = codePoints(glob);
  const notDelimiter = delimiters.length === 0 ? "." : `[^${delimiters.map(inClass).join("")}]`;
  let pattern = "";
  let braces = 0;
  for (let at = 0; at < chars.length; at++) {
    const char = chars[at]!;
    switch (char) {
      case "*":
        if (chars[at + 1] === "*") {
          at++;
          pattern += ".*";
        } else {
          pattern += `${notDelimiter}*`;
        }
        break;
      case "?":
        pattern += notDelimiter;
        break;
      case "\\":
        at++;
        pattern += literal(chars[at] ?? "\\");
        break;
      case "[": {
        const close = chars.indexOf("]", at + 2);
        if (close === -1) throw builtinError("unexpected end of input in a glob: a class does not end");
        pattern += classPattern(chars.slice(at + 1, close));
        at = close;
        break;
      }
      case "{":
        braces++;
        pattern += "(?:";
        break;
      case "}":
        if (braces === 0) pattern += "\\}";
        else {
          braces--;
          pattern += ")";
        }
        break;
      case ",":
        pattern += braces > 0 ? "|" : ",";
        break;
      default:
        pattern += literal(char);
    }
  }
  if (braces > 0) throw builtinError("unexpected end of input in a glob: a brace does not end");
  return `(?s)^(?:${pattern})$`;
}

function classPattern(chars: readonly string[]): string {
  const negated = chars[0] === "!";
  const members = negated ? chars.slice(1) : chars;
  if (members.length === 3 && members[1] === "-") return `[${negated ? "^" : ""}${inClass(members[0]!)}-${inClass(members[2]!)}]`;
  return `[${negated ? "^" : ""}${members.map(inClass).join("")}]`;
}

function delimitersOf(args: RegoArray): readonly string[] {
  const value = args[1]!;
  if (value === null) return [];
  if (!isArray(value)) throw operandError(2, "one of {array, null}", value);
  const delimiters = value.map((item) => {
    if (typeof item !== "string" || codePoints(item).length !== 1) throw new BuiltinError("operand", "operand 2 must be array of single characters");
    return item;
  });
  return delimiters.length === 0 ? ["."] : delimiters;
}

/** Globs, matched by RE2. */
export const globBuiltins: readonly Builtin[] = [
  define("glob.match", 3, (args, context) => {
    const pattern = toRegex(string(args, 0), delimitersOf(args));
    const text = string(args, 2);
    const compiled = context.regex(pattern);
    context.work(1 + Math.floor((text.length * compiled.programSize()) / 128));
    return compiled.test(text);
  }),
  define("glob.quote_meta", 1, (args) =>
    codePoints(string(args, 0))
      .map((char) => ("*?\\[]{}".includes(char) ? `\\${char}` : char))
      .join(""),
  ),
];
