import type { Builtin, BuiltinContext, BuiltinError, RegoArray, Value } from "@sealpod/rego";
import { builtinError, define, string } from "@sealpod/rego";

/** Characters that one place of a glob matches: any, or those of ranges of code points. */
type Chars = "any" | readonly (readonly [number, number])[];

/** A place of a glob: one character, or with `star` any number of them. `x+` is two places, `x` and `x*`. */
interface Token {
  readonly chars: Chars;
  readonly star: boolean;
}

function fail(glob: string, at: number, what: string): BuiltinError {
  return builtinError(`input:${glob}, pos:${at + 1}, ${what}: the input provided is invalid`);
}

/** Reads a glob of `regex.globs_match`: characters, `.`, sets such as `[a-z0-9]`, escapes with `\`, and `+` or `*` behind each. */
function parseGlob(glob: string): readonly Token[] {
  const chars = Array.from(glob);
  const tokens: Token[] = [];
  let at = 0;
  const next = (): { readonly code: number; readonly escaped: boolean } => {
    const escaped = chars[at] === "\\";
    if (escaped) at++;
    const char = chars[at];
    if (char === undefined) throw fail(glob, at - 1, "escape '\\' with no character behind it");
    at++;
    return { code: char.codePointAt(0)!, escaped };
  };
  while (at < chars.length) {
    const start = at;
    let matched: Chars;
    switch (chars[at]) {
      case "]":
        throw fail(glob, at, "set-close ']' with no preceding '['");
      case "+":
      case "*":
        throw fail(glob, at, `flag '${chars[at]}' must be preceded by a non-flag`);
      case ".":
        matched = "any";
        at++;
        break;
      case "[": {
        at++;
        const ranges: (readonly [number, number])[] = [];
        while (chars[at] !== "]") {
          if (at >= chars.length) throw fail(glob, start, "'[' without matching ']'");
          const low = next();
          let high = low;
          if (chars[at] === "-" && at + 1 < chars.length && chars[at + 1] !== "]") {
            at++;
            high = next();
          }
          if (high.code < low.code) throw fail(glob, at - 1, "range out of order in a set");
          ranges.push([low.code, high.code]);
        }
        at++;
        if (ranges.length === 0) throw fail(glob, start, "empty set");
        matched = ranges;
        break;
      }
      default: {
        const { code } = next();
        matched = [[code, code]];
      }
    }
    const flag = chars[at];
    if (flag === "+" || flag === "*") at++;
    if (flag !== "*") tokens.push({ chars: matched, star: false });
    if (flag === "+" || flag === "*") tokens.push({ chars: matched, star: true });
  }
  return tokens;
}

function meet(a: Chars, b: Chars): boolean {
  if (a === "any" || b === "any") return true;
  return a.some(([low, high]) => b.some(([from, to]) => low <= to && from <= high));
}

/**
 * True if some text that is not empty matches both globs. Walks the pairs of places that one text can reach together, of
 * which there are length times length.
 */
function globsMatch(args: RegoArray, context: BuiltinContext): Value {
  const [left, right] = [string(args, 0), string(args, 1)];
  context.work(left.length + right.length);
  const [a, b] = [parseGlob(left), parseGlob(right)];
  const width = b.length + 1;
  const cells = (a.length + 1) * width;
  // Comparing sets costs ranges times ranges, over all pairs no more than the lengths multiplied.
  // A mark for each state, and a number while it waits.
  context.allocate(2 * cells * 9);
  context.work((cells + left.length * right.length) >> 2);
  const seen = new Uint8Array(2 * cells);
  const waiting: number[] = [];
  /** A state: how many places of each glob are behind, and whether the text so far has characters. */
  const reach = (i: number, j: number, some: boolean): void => {
    const state = 2 * (i * width + j) + (some ? 1 : 0);
    if (seen[state] === 1) return;
    seen[state] = 1;
    waiting.push(state);
  };
  reach(0, 0, false);
  for (let state = waiting.pop(); state !== undefined; state = waiting.pop()) {
    const some = state % 2 === 1;
    const i = Math.floor(state / 2 / width);
    const j = (state >> 1) % width;
    const [one, other] = [a[i], b[j]];
    if (one === undefined && other === undefined && some) return true;
    if (one?.star === true) reach(i + 1, j, some);
    if (other?.star === true) reach(i, j + 1, some);
    if (one !== undefined && other !== undefined && meet(one.chars, other.chars)) reach(one.star ? i : i + 1, other.star ? j : j + 1, true);
  }
  return false;
}

function delimiter(args: RegoArray, at: number): string {
  const text = string(args, at);
  // OPA wants one byte.
  if (text.length !== 1 || text > "\u007f") throw builtinError(`operand ${at + 1}: a delimiter must be one ASCII character, found ${JSON.stringify(text)}`);
  return text;
}

function quoteMeta(text: string): string {
  let quoted = "";
  for (const char of text) quoted += "\\.+*?()|[]{}^$".includes(char) ? `\\${char}` : char;
  return quoted;
}

/**
 * The RE2 pattern of a template: text stands for itself, what is between delimiters is a pattern. Each inner pattern is
 * compiled alone first, so that none can close the group around it.
 */
function templatePattern(template: string, open: string, close: string, context: BuiltinContext): string {
  let pattern = "^";
  let depth = 0;
  let from = 0;
  for (let at = 0; at < template.length; at++) {
    if (template[at] === open) {
      if (++depth > 1) continue;
      pattern += quoteMeta(template.slice(from, at));
      from = at + 1;
    } else if (template[at] === close) {
      if (--depth > 0) continue;
      if (depth < 0) throw builtinError(`unbalanced delimiters in the template ${JSON.stringify(template)}`);
      const inner = template.slice(from, at);
      context.regex(`^${inner}$`);
      pattern += `(${inner})`;
      from = at + 1;
    }
  }
  if (depth !== 0) throw builtinError(`unbalanced delimiters in the template ${JSON.stringify(template)}`);
  return `${pattern}${quoteMeta(template.slice(from))}$`;
}

function templateMatch(args: RegoArray, context: BuiltinContext): Value {
  const [template, text] = [string(args, 0), string(args, 1)];
  context.work(template.length);
  return context.matches(templatePattern(template, delimiter(args, 2), delimiter(args, 3), context), text);
}

/** Patterns that stand for sets of names: resources and templates of resources. */
export const patternBuiltins: readonly Builtin[] = [define("regex.globs_match", 2, globsMatch), define("regex.template_match", 4, templateMatch)];
