import type { RegoArray, Value } from "../values/index.ts";
import { formatValue, quoteGo, quoteRune } from "../values/index.ts";
import type { BuiltinContext } from "./builtin.ts";
import { weigh } from "./builtin.ts";
import { codePoints } from "./collections.ts";

/** Widest field that an operand (`*`) may ask for: Go's own limit. */
const MAX_WIDTH = 1_000_000;

/** An operand as Go's `fmt` gets it from OPA: integers, floats, strings; everything else as Rego text. */
type Operand =
  | { readonly kind: "int64" | "*big.Int"; readonly value: bigint }
  | { readonly kind: "float64"; readonly value: number }
  | { readonly kind: "string"; readonly value: string };

interface Flags {
  plus: boolean;
  minus: boolean;
  sharp: boolean;
  space: boolean;
  zero: boolean;
  width: number | undefined;
  precision: number | undefined;
}

function operandOf(value: Value, context: BuiltinContext): Operand {
  if (typeof value === "string") return { kind: "string", value };
  if (typeof value === "bigint") return { kind: value >= -(2n ** 63n) && value < 2n ** 63n ? "int64" : "*big.Int", value };
  if (typeof value === "number") return Number.isInteger(value) ? { kind: "int64", value: BigInt(value) } : { kind: "float64", value };
  weigh(value, context);
  return { kind: "string", value: formatValue(value) };
}

/** Go's `fmt.Sprintf` for the operands that OPA passes to it. Errors are part of the text, as in Go. */
export function sprintf(format: string, args: RegoArray, context: BuiltinContext): string {
  let text = "";
  let next = 0;
  let reordered = false;
  let at = 0;
  while (at < format.length) {
    const percent = format.indexOf("%", at);
    if (percent === -1) {
      text += format.slice(at);
      break;
    }
    text += format.slice(at, percent);
    at = percent + 1;
    const flags: Flags = { plus: false, minus: false, sharp: false, space: false, zero: false, width: undefined, precision: undefined };
    for (; ; at++) {
      const flag = format[at];
      if (flag === "+") flags.plus = true;
      else if (flag === "-") flags.minus = true;
      else if (flag === "#") flags.sharp = true;
      else if (flag === " ") flags.space = true;
      else if (flag === "0") flags.zero = true;
      else break;
    }
    let badIndex = false;
    const argumentIndex = (): void => {
      if (format[at] !== "[") return;
      const close = format.indexOf("]", at);
      const index = close === -1 ? Number.NaN : digits(format.slice(at + 1, close));
      reordered = true;
      at = close === -1 ? at + 1 : close + 1;
      if (index >= 1 && index <= args.length) next = index - 1;
      else badIndex = true;
    };
    const size = (): number | undefined => {
      if (format[at] === "*") {
        at++;
        const value = args[next++];
        if (typeof value !== "number" || !Number.isInteger(value) || Math.abs(value) > MAX_WIDTH) return Number.NaN;
        return value;
      }
      const start = at;
      while (at < format.length && format[at]! >= "0" && format[at]! <= "9") at++;
      if (at === start) return undefined;
      const value = Number(format.slice(start, at));
      // Aborts the query before the padding is built.
      context.allocate(value);
      return value;
    };
    argumentIndex();
    flags.width = size();
    if (Number.isNaN(flags.width)) {
      text += "%!(BADWIDTH)";
      flags.width = undefined;
    }
    if (flags.width !== undefined && flags.width < 0) {
      flags.minus = true;
      flags.width = -flags.width;
    }
    if (format[at] === ".") {
      at++;
      argumentIndex();
      flags.precision = size() ?? 0;
      if (Number.isNaN(flags.precision) || flags.precision < 0) {
        if (Number.isNaN(flags.precision)) text += "%!(BADPREC)";
        flags.precision = undefined;
      }
    }
    argumentIndex();
    context.allocate((flags.width ?? 0) + (flags.precision ?? 0));
    if (at >= format.length) {
      text += "%!(NOVERB)";
      break;
    }
    const verb = String.fromCodePoint(format.codePointAt(at)!);
    at += verb.length;
    if (verb === "%") {
      text += "%";
      continue;
    }
    if (badIndex) {
      text += `%!${verb}(BADINDEX)`;
      continue;
    }
    const value = args[next];
    if (value === undefined) {
      text += `%!${verb}(MISSING)`;
      continue;
    }
    next++;
    text += formatOperand(verb, operandOf(value, context), flags);
  }
  if (!reordered && next < args.length) {
    const extra = args.slice(next).map((value) => {
      const operand = operandOf(value, context);
      return `${operand.kind}=${plain(operand)}`;
    });
    text += `%!(EXTRA ${extra.join(", ")})`;
  }
  return text;
}

function digits(text: string): number {
  for (const char of text) if (char < "0" || char > "9") return Number.NaN;
  return text === "" ? Number.NaN : Number(text);
}

/** An operand as `%v` prints it without flags. */
function plain(operand: Operand): string {
  return operand.kind === "float64" ? formatG(operand.value, undefined) : String(operand.value);
}

function formatOperand(verb: string, operand: Operand, flags: Flags): string {
  if (verb === "T") return pad(operand.kind, { ...flags, zero: false });
  const text =
    operand.kind === "string"
      ? formatString(verb, operand.value, flags)
      : operand.kind === "float64"
        ? formatFloat(verb, operand.value, flags)
        : formatInteger(verb, operand.value, flags, operand.kind === "*big.Int");
  return text ?? `%!${verb}(${operand.kind}=${plain(operand)})`;
}

function pad(text: string, flags: Flags): string {
  const missing = (flags.width ?? 0) - codePoints(text).length;
  if (missing <= 0) return text;
  if (flags.minus) return text + " ".repeat(missing);
  if (flags.zero) {
    const signed = text.startsWith("-") || text.startsWith("+") || text.startsWith(" ");
    return signed ? text[0]! + "0".repeat(missing) + text.slice(1) : "0".repeat(missing) + text;
  }
  return " ".repeat(missing) + text;
}

function formatString(verb: string, value: string, flags: Flags): string | undefined {
  const cut = flags.precision === undefined ? value : codePoints(value).slice(0, flags.precision).join("");
  switch (verb) {
    case "v":
      return pad(flags.sharp ? quoteGo(value) : cut, flags);
    case "s":
      return pad(cut, flags);
    case "q":
      return pad(flags.sharp && !cut.includes("`") ? `\`${cut}\`` : quoteGo(cut), flags);
    case "x":
    case "X": {
      const bytes = Buffer.from(value, "utf8").subarray(0, flags.precision);
      const pairs = [...bytes].map((byte) => byte.toString(16).padStart(2, "0"));
      const prefix = flags.sharp ? "0x" : "";
      const hex = flags.space ? pairs.map((pair) => prefix + pair).join(" ") : pairs.length === 0 ? "" : prefix + pairs.join("");
      return pad(verb === "X" ? hex.toUpperCase() : hex, flags);
    }
    default:
      return undefined;
  }
}

function formatInteger(verb: string, value: bigint, flags: Flags, isBig: boolean): string | undefined {
  // big.Int formats itself: %s works, the character verbs do not.
  if (isBig ? "cqU".includes(verb) : verb === "s") return undefined;
  const negative = value < 0n;
  const magnitude = negative ? -value : value;
  let body: string;
  let prefix = "";
  switch (verb) {
    case "d":
    case "s":
    case "v":
      body = magnitude.toString();
      break;
    case "b":
      body = magnitude.toString(2);
      if (flags.sharp) prefix = "0b";
      break;
    case "o":
      body = magnitude.toString(8);
      if (flags.sharp) prefix = "0";
      break;
    case "O":
      body = magnitude.toString(8);
      prefix = "0o";
      break;
    case "x":
      body = magnitude.toString(16);
      if (flags.sharp) prefix = "0x";
      break;
    case "X":
      body = magnitude.toString(16).toUpperCase();
      if (flags.sharp) prefix = "0X";
      break;
    case "c":
      return pad(runeText(value), { ...flags, zero: false });
    case "q":
      return pad(quoteRune(validRune(value)), { ...flags, zero: false });
    case "U":
      return pad(`U+${magnitude.toString(16).toUpperCase().padStart(4, "0")}`, { ...flags, zero: false });
    default:
      return undefined;
  }
  const sign = negative ? "-" : flags.plus ? "+" : flags.space ? " " : "";
  if (flags.precision !== undefined) {
    body = flags.precision === 0 && magnitude === 0n ? "" : body.padStart(flags.precision, "0");
    return pad(sign + prefix + body, { ...flags, zero: false });
  }
  if (flags.zero && !flags.minus && flags.width !== undefined) body = body.padStart(flags.width - sign.length, "0");
  return pad(sign + prefix + body, { ...flags, zero: false });
}

function validRune(value: bigint): number {
  return value < 0n || value > 0x10ffffn || (value >= 0xd800n && value <= 0xdfffn) ? 0xfffd : Number(value);
}

function runeText(value: bigint): string {
  return String.fromCodePoint(validRune(value));
}

function formatFloat(verb: string, value: number, flags: Flags): string | undefined {
  const magnitude = Math.abs(value);
  let body: string;
  switch (verb) {
    case "e":
    case "E":
      body = exponential(magnitude, flags.precision ?? 6);
      break;
    case "f":
    case "F":
      body = fixed(magnitude, flags.precision ?? 6);
      break;
    case "g":
    case "G":
    case "v":
      body = formatG(magnitude, flags.precision);
      break;
    default:
      return undefined;
  }
  if (verb === "E" || verb === "G") body = body.toUpperCase();
  const sign = value < 0 ? "-" : flags.plus ? "+" : flags.space ? " " : "";
  return pad(sign + body, flags);
}

/** Go writes at least two digits of exponent. */
function exponential(value: number, precision: number | undefined): string {
  const text = precision === undefined ? value.toExponential() : value.toExponential(Math.min(precision, 100));
  const mark = text.indexOf("e");
  const sign = text[mark + 1]!;
  return `${text.slice(0, mark)}e${sign}${text.slice(mark + 2).padStart(2, "0")}`;
}

/** `%g`: exponents below -4 or from the precision on are written out, shortest digits count as six. */
function formatG(value: number, precision: number | undefined): string {
  const negative = value < 0;
  const magnitude = Math.abs(value);
  if (magnitude === 0) return "0";
  const significant = precision === undefined ? undefined : Math.max(precision, 1);
  const text = exponential(magnitude, significant === undefined ? undefined : significant - 1);
  const mark = text.indexOf("e");
  const exponent = Number(text.slice(mark + 1));
  let mantissa = text.slice(0, mark);
  if (mantissa.includes(".")) mantissa = dropZeros(mantissa);
  const shown = mantissa.replace(".", "").length;
  let threshold = significant ?? 6;
  if (significant === undefined) threshold = 21;
  else if (threshold > shown && shown >= exponent + 1) threshold = shown;
  let body: string;
  if (exponent < -4 || exponent >= threshold) body = `${mantissa}${text.slice(mark)}`;
  else if (significant === undefined) body = decimalText(magnitude);
  else body = dropZeros(fixed(magnitude, Math.max(significant - 1 - exponent, 0)));
  return negative ? `-${body}` : body;
}

function decimalText(value: number): string {
  const text = String(value);
  return text.includes("e") ? dropZeros(fixed(value, 20)) : text;
}

function dropZeros(text: string): string {
  if (!text.includes(".")) return text;
  let end = text.length;
  while (text[end - 1] === "0") end--;
  if (text[end - 1] === ".") end--;
  return text.slice(0, end);
}

/** `%f`: the exact binary value, rounded half to even. */
function fixed(value: number, precision: number): string {
  let mantissa = value;
  let shift = 0;
  while (!Number.isInteger(mantissa)) {
    mantissa *= 2;
    shift++;
  }
  const scaled = BigInt(mantissa) * 10n ** BigInt(precision);
  const divisor = 1n << BigInt(shift);
  let quotient = scaled / divisor;
  const twice = (scaled % divisor) * 2n;
  if (twice > divisor || (twice === divisor && quotient % 2n === 1n)) quotient++;
  const text = quotient.toString().padStart(precision + 1, "0");
  return precision === 0 ? text : `${text.slice(0, -precision)}.${text.slice(-precision)}`;
}
