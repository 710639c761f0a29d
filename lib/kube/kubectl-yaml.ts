/**
 * Where kubectl reads another manifest than this package does. It reads YAML 1.1 by Go's library (sigs.k8s.io/yaml), and what
 * it sends to the API server must be what the policy was made for: such text is refused or warned about. Every rule here was
 * compared with kubectl 1.32.
 */
import type { YamlScalar } from "./yaml-node.ts";

/** Something wrong at an offset of the text. */
export interface Finding {
  readonly offset: number;
  readonly message: string;
}

/** What ends a line for kubectl (YAML 1.1 section 4.2) and not for YAML 1.2: a comment could hide the lines after it. */
const HIDDEN_LINE_BREAK = /[\u0085\u2028\u2029]|\r(?!\n)/g;

/** Line breaks of YAML 1.1 alone; at most `limit` of them. */
export function findHiddenLineBreaks(text: string, limit: number): readonly Finding[] {
  const found: Finding[] = [];
  for (const { 0: char, index } of text.matchAll(HIDDEN_LINE_BREAK)) {
    if (found.length >= limit) break;
    const code = char.charCodeAt(0).toString(16).padStart(4, "0");
    const message =
      char === "\r"
        ? "a carriage return without a line feed ends a line for kubectl: end lines with \\n or \\r\\n, or write it as \\r in double quotes"
        : `the character U+${code.toUpperCase()} ends a line for kubectl: write it as \\u${code} in double quotes`;
    found.push({ offset: index, message });
  }
  return found;
}

/**
 * Offset in the source of a double-quoted scalar of an escaped line break that a blank line follows. The blank line is a line
 * break of the text (YAML 1.2.2 section 7.3.1), but version 2.9.1 of the yaml package drops it.
 */
export function findEscapedBreakBeforeBlank(source: string): number | undefined {
  for (let at = source.indexOf("\\"); at !== -1; at = source.indexOf("\\", at + 2)) {
    const next = lineBreakEnd(source, at + 1);
    if (next === undefined) continue;
    let end = next;
    while (source[end] === " " || source[end] === "\t") end++;
    if (lineBreakEnd(source, end) !== undefined) return at;
  }
  return undefined;
}

/** Offset after the line break at `at`, if there is one. */
function lineBreakEnd(source: string, at: number): number | undefined {
  if (source[at] === "\n") return at + 1;
  return source[at] === "\r" && source[at + 1] === "\n" ? at + 2 : undefined;
}

/** What kubectl takes an unquoted scalar for where it does not take it for text. */
export interface KubectlReading {
  readonly type: "null" | "boolean" | "number";
  /** The value in JSON. Empty for numbers that JSON has not, which kubectl refuses. */
  readonly json: string;
}

const NULL = /^(?:|~|null|Null|NULL)$/;
const TRUE = /^(?:y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON)$/;
const FALSE = /^(?:n|N|no|No|NO|false|False|FALSE|off|Off|OFF)$/;
const NOT_FINITE = /^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$/;
const OCTAL = /^0[oO]?[0-7]+$/;
const WHOLE = /^(?:0|[1-9][0-9]*|0[xX][0-9a-fA-F]+|0[bB][01]+)$/;
const DECIMAL = /^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$/;

/** Longest text that kubectl could take for a number and a person could mean as one. */
const MAX_NUMBER = 400;

/** What kubectl takes the scalar for; undefined if it is text to kubectl too. */
export function kubectlReading({ style, taggedText, text }: YamlScalar): KubectlReading | undefined {
  if (style !== "plain" || taggedText) return undefined;
  if (NULL.test(text)) return { type: "null", json: "null" };
  if (TRUE.test(text)) return { type: "boolean", json: "true" };
  if (FALSE.test(text)) return { type: "boolean", json: "false" };
  if (NOT_FINITE.test(text)) return { type: "number", json: "" };
  if (!/^[-+.0-9]/.test(text) || text.length > MAX_NUMBER) return undefined;
  // Underscores may stand between digits, but for numbers that start with a dot.
  const digits = text.startsWith(".") ? text : text.replaceAll("_", "");
  const json = wholeNumber(digits) ?? (DECIMAL.test(digits) ? decimal(digits) : undefined);
  return json === undefined ? undefined : { type: "number", json };
}

function wholeNumber(text: string): string | undefined {
  // Go's library has a sign after the 0b as well.
  const [, sign = "", magnitude = ""] = /^([-+]?)(.*)$/s.exec(text.replace(/^0b([-+])/, "$10b")) ?? [];
  const octal = magnitude !== "0" && OCTAL.test(magnitude);
  if (!octal && !WHOLE.test(magnitude)) return undefined;
  const value = BigInt(octal ? `0o${magnitude.replace(/^0[oO]?/, "")}` : magnitude.toLowerCase());
  const signed = sign === "-" ? -value : value;
  return signed >= -(2n ** 63n) && signed < 2n ** 64n ? String(signed) : undefined;
}

function decimal(text: string): string | undefined {
  const value = Number(text);
  // Out of range it stays text.
  return Number.isFinite(value) ? String(value) : undefined;
}

/** Floating-point numbers as keys are rounded to 32 bits and may get an exponent: with so few digits neither happens. */
const SHORT_DECIMAL = /^-?(?=[0-9.]{3,6}$)(?:0|[1-9][0-9]*)\.[0-9]*[1-9]$/;

/** What kubectl takes an unquoted key for, if the key becomes other text by that. */
export function kubectlKey(key: YamlScalar): KubectlReading["type"] | undefined {
  const reading = kubectlReading(key);
  if (reading === undefined) return undefined;
  const whole = reading.type === "number" && wholeNumber(reading.json) === reading.json;
  const same = reading.type !== "null" && reading.json === key.text && (reading.type === "boolean" || whole || SHORT_DECIMAL.test(key.text));
  // Beyond 63 bits kubectl has no keys.
  return same && !(whole && BigInt(reading.json) >= 2n ** 63n) ? undefined : reading.type;
}
