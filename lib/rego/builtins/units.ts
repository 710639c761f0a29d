import type { Numeric, Value } from "../values/index.ts";
import { isInteger, multiply, parseNumber } from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { builtinError, define, string } from "./builtin.ts";

/** Suffixes of `units.parse`; `m` is milli, so case matters for it alone. */
const UNITS: ReadonlyMap<string, Numeric> = new Map<string, Numeric>([
  ["", 1],
  ["m", 0.001],
  ["k", 1e3],
  ["g", 1e9],
  ["t", 1e12],
  ["p", 1e15],
  ["e", 1e18],
  ["ki", 2 ** 10],
  ["mi", 2 ** 20],
  ["gi", 2 ** 30],
  ["ti", 2 ** 40],
  ["pi", 2 ** 50],
  ["ei", 2n ** 60n],
]);

/** Splits a text into its leading number and the rest. */
function split(text: string): readonly [string, string] {
  let at = text.startsWith("-") || text.startsWith("+") ? 1 : 0;
  while (at < text.length && "0123456789.".includes(text[at]!)) at++;
  // An exponent, if digits follow; else `e` is a unit.
  if (at < text.length && "eE".includes(text[at]!)) {
    const sign = "+-".includes(text[at + 1] ?? " ") ? 1 : 0;
    let end = at + 1 + sign;
    while (end < text.length && "0123456789".includes(text[end]!)) end++;
    if (end > at + 1 + sign) at = end;
  }
  return [text.slice(0, at), text.slice(at)];
}

function clean(text: string): string {
  return text.replaceAll('"', "");
}

function amount(text: string, what: string): Numeric {
  if (text === "" || text === "-" || text === "+") throw builtinError(`no ${what} provided`);
  const value = parseNumber(text, true);
  if (value === undefined) throw builtinError(`could not parse ${what} to a number`);
  return value;
}

function parseUnits(text: string): Value {
  if (text.includes(" ")) throw builtinError("spaces not allowed in resource strings");
  const [number, unit] = split(text);
  const value = amount(number, "amount");
  const factor = unit === "M" ? 1e6 : unit === "m" ? 0.001 : UNITS.get(unit.toLowerCase());
  if (factor === undefined) throw builtinError(`unit ${unit} not recognized`);
  return multiply(value, factor);
}

function parseBytes(text: string): Value {
  if (text.includes(" ")) throw builtinError("spaces not allowed in resource strings");
  const [number, suffix] = split(text);
  const value = amount(number, "byte amount");
  let unit = suffix.toLowerCase();
  if (unit.endsWith("b")) unit = unit.slice(0, -1);
  const factor = unit === "m" ? 1e6 : UNITS.get(unit);
  if (factor === undefined) throw builtinError(`byte unit ${suffix} not recognized`);
  const bytes = multiply(value, factor);
  return isInteger(bytes) ? bytes : Math.trunc(Number(bytes));
}

/** Quantities with units, as in Kubernetes resources. */
export const unitBuiltins: readonly Builtin[] = [
  define("units.parse", 1, (args) => parseUnits(clean(string(args, 0)))),
  define("units.parse_bytes", 1, (args) => parseBytes(clean(string(args, 0)))),
];
