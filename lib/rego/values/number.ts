import { RegoError } from "../errors.ts";

/** A Rego number: a safe integer or a fraction as `number`, any other integer as `bigint`. */
export type Numeric = number | bigint;

/** A decimal number `digits * 10^exponent`: what a text or a binary64 says, without rounding. */
export interface Decimal {
  readonly digits: bigint;
  readonly exponent: number;
}

/** Largest power of ten that is written out: beyond it a binary64 is infinite or zero. */
const MAX_EXPONENT = 400;

/** Bits of an integer. OCI needs 64, RSA moduli 4096; more only serves to make arithmetic slow. */
export const MAX_INTEGER_BITS = 4096;

/** Longest text of a number: an integer of {@link MAX_INTEGER_BITS} bits has 1234 digits. */
export const MAX_NUMBER_LENGTH = 1230;

/** The one representation of an integer: `number` while it is safe. */
export function normalizeInteger(value: bigint): Numeric {
  if (value >= -9007199254740991n && value <= 9007199254740991n) return Number(value);
  if (bitLength(value) > MAX_INTEGER_BITS) {
    throw new RegoError("ERR_REGO_LIMIT_NUMBER", `a number has ${bitLength(value)} bits, more than the limit of ${MAX_INTEGER_BITS}`, {
      details: { limit: MAX_INTEGER_BITS },
    });
  }
  return value;
}

/** Bits of the magnitude of an integer. */
export function bitLength(value: bigint): number {
  const text = (value < 0n ? -value : value).toString(16);
  return text.length * 4 - (4 - (32 - Math.clz32(Number.parseInt(text[0]!, 16))));
}

/** The one representation of a finite binary64: integers beyond 2^53 become the bigint of their shortest decimal text. */
export function normalizeNumber(value: number): Numeric {
  if (value === 0) return 0;
  if (!Number.isInteger(value) || Number.isSafeInteger(value)) return value;
  return fromDecimal(toDecimal(value)) ?? value;
}

/**
 * Reads a number as Go's `strconv` and JSON agree on it: optional sign, digits, fraction, exponent. `lenient` also takes a
 * leading `+`, leading zeros and a missing integer part, as OPA's `to_number` does.
 * @returns undefined if the text is no such number or is out of the range of a binary64
 * @throws {RegoError} ERR_REGO_LIMIT_NUMBER for a text that is too long
 */
export function parseNumber(text: string, lenient = false): Numeric | undefined {
  if (text.length > MAX_NUMBER_LENGTH) {
    throw new RegoError("ERR_REGO_LIMIT_NUMBER", `a number has ${text.length} characters, more than the limit of ${MAX_NUMBER_LENGTH}`, {
      details: { limit: MAX_NUMBER_LENGTH },
    });
  }
  let at = 0;
  let negative = false;
  const sign = text.charCodeAt(0);
  if (sign === 0x2d || (lenient && sign === 0x2b)) {
    negative = sign === 0x2d;
    at++;
  }
  const integerStart = at;
  at = skipDigits(text, at);
  const integer = text.slice(integerStart, at);
  if (!lenient && (integer.length === 0 || (integer.length > 1 && integer.startsWith("0")))) return undefined;
  let fraction = "";
  if (text.charCodeAt(at) === 0x2e) {
    const start = at + 1;
    at = skipDigits(text, start);
    fraction = text.slice(start, at);
    if (fraction.length === 0 && !lenient) return undefined;
  }
  if (integer.length + fraction.length === 0) return undefined;
  let exponent = 0;
  const mark = text.charCodeAt(at);
  if (mark === 0x65 || mark === 0x45) {
    at++;
    const exponentSign = text.charCodeAt(at);
    if (exponentSign === 0x2b || exponentSign === 0x2d) at++;
    const start = at;
    at = skipDigits(text, start);
    if (at === start) return undefined;
    exponent = Math.min(Number(text.slice(start, at)), 1_000_000) * (exponentSign === 0x2d ? -1 : 1);
  }
  if (at !== text.length) return undefined;
  const digits = BigInt(integer + fraction);
  return fromDecimal({ digits: negative ? -digits : digits, exponent: exponent - fraction.length });
}

function skipDigits(text: string, from: number): number {
  let at = from;
  while (at < text.length) {
    const unit = text.charCodeAt(at);
    if (unit < 0x30 || unit > 0x39) break;
    at++;
  }
  return at;
}

/** The exact decimal that the shortest text of a number stands for. */
export function toDecimal(value: Numeric): Decimal {
  if (typeof value === "bigint") return { digits: value, exponent: 0 };
  if (Number.isSafeInteger(value)) return { digits: BigInt(value), exponent: 0 };
  const text = String(value);
  const mark = text.indexOf("e");
  const mantissa = mark === -1 ? text : text.slice(0, mark);
  const exponent = mark === -1 ? 0 : Number(text.slice(mark + 1));
  const point = mantissa.indexOf(".");
  if (point === -1) return { digits: BigInt(mantissa), exponent };
  const fraction = mantissa.length - point - 1;
  return { digits: BigInt(mantissa.slice(0, point) + mantissa.slice(point + 1)), exponent: exponent - fraction };
}

/** The number nearest to a decimal, exact if it is an integer; undefined if it is out of range. */
export function fromDecimal(decimal: Decimal): Numeric | undefined {
  let { digits, exponent } = decimal;
  if (digits === 0n) return 0;
  if (exponent > MAX_EXPONENT) return undefined;
  if (exponent >= 0) {
    const integer = digits * 10n ** BigInt(exponent);
    if (exponent > 0 && !Number.isFinite(Number(integer))) return undefined;
    return normalizeInteger(integer);
  }
  while (exponent < 0 && digits % 10n === 0n) {
    digits /= 10n;
    exponent++;
  }
  if (exponent === 0) return normalizeInteger(digits);
  const value = Number(`${digits}e${exponent}`);
  return Number.isFinite(value) ? normalizeNumber(value) : undefined;
}

function aligned(a: Numeric, b: Numeric): [bigint, bigint, number] {
  const left = toDecimal(a);
  const right = toDecimal(b);
  const exponent = Math.min(left.exponent, right.exponent);
  return [left.digits * 10n ** BigInt(left.exponent - exponent), right.digits * 10n ** BigInt(right.exponent - exponent), exponent];
}

function finite(value: Numeric | undefined): Numeric {
  if (value === undefined) throw new RegoError("ERR_REGO_LIMIT_NUMBER", "the result of an arithmetic operation is out of range");
  return value;
}

/** Sum. Fractions are added as decimals, so 0.1 + 0.2 is 0.3 as it is in OPA. */
export function add(a: Numeric, b: Numeric): Numeric {
  if (typeof a === "number" && typeof b === "number") {
    const sum = a + b;
    if (Number.isSafeInteger(sum) && Number.isSafeInteger(a) && Number.isSafeInteger(b)) return sum;
  }
  const [left, right, exponent] = aligned(a, b);
  return finite(fromDecimal({ digits: left + right, exponent }));
}

/** Difference; see {@link add}. */
export function subtract(a: Numeric, b: Numeric): Numeric {
  return add(a, negate(b));
}

/** The number with the other sign. */
export function negate(a: Numeric): Numeric {
  return typeof a === "bigint" ? normalizeInteger(-a) : a === 0 ? 0 : -a;
}

/** Product; see {@link add}. */
export function multiply(a: Numeric, b: Numeric): Numeric {
  if (typeof a === "number" && typeof b === "number" && Number.isSafeInteger(a) && Number.isSafeInteger(b)) {
    const product = a * b;
    if (Number.isSafeInteger(product)) return product === 0 ? 0 : product;
  }
  const left = toDecimal(a);
  const right = toDecimal(b);
  return finite(fromDecimal({ digits: left.digits * right.digits, exponent: left.exponent + right.exponent }));
}

/** Quotient, or undefined for a divisor of zero. Exact if the result is an integer, else to 30 digits before rounding. */
export function divide(a: Numeric, b: Numeric): Numeric | undefined {
  if (b === 0) return undefined;
  const [left, right] = aligned(a, b);
  if (left % right === 0n) return normalizeInteger(left / right);
  const shift = 30 + Math.max(0, right.toString().length - left.toString().length);
  return finite(fromDecimal({ digits: (left * 10n ** BigInt(shift)) / right, exponent: -shift }));
}

/** True for numbers without a fraction. */
export function isInteger(value: Numeric): boolean {
  return typeof value === "bigint" || Number.isInteger(value);
}

/** Text of a number as JSON has it: integers in full, fractions in their shortest form. */
export function formatNumber(value: Numeric): string {
  return String(value);
}
