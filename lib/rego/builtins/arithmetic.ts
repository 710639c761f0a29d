import type { Numeric, RegoArray, Value } from "../values/index.ts";
import {
  add,
  divide,
  isInteger,
  MAX_INTEGER_BITS,
  multiply,
  negate,
  normalizeInteger,
  normalizeNumber,
  RegoSet,
  subtract,
  toDecimal,
} from "../values/index.ts";
import type { Builtin } from "./builtin.ts";
import { BuiltinError, builtinError, collectionOf, define, integer, number, operandError, set, smallInteger } from "./builtin.ts";

function items(values: readonly Value[]): readonly Numeric[] {
  return values as readonly Numeric[];
}

/** `-` and the set operators look at their first operand to know which operation is meant. */
function bothSets(args: RegoArray): readonly [RegoSet, RegoSet] | undefined {
  const [a, b] = args;
  const first = a instanceof RegoSet;
  if (!first && !(b instanceof RegoSet)) return undefined;
  if (!first) throw operandError(2, "number", b!);
  return [a, set(args, 1)];
}

function round(value: Numeric): Numeric {
  if (typeof value === "bigint") return value;
  if (Number.isInteger(value)) return value;
  // Half away from zero, as Go rounds. Adding a half would round by itself near the edges.
  const size = Math.abs(value);
  const whole = Math.floor(size);
  return normalizeNumber(Math.sign(value) * (size - whole >= 0.5 ? whole + 1 : whole));
}

/** Numbers from a to b, both included, upwards or downwards. */
function range(from: Numeric, to: Numeric, step: Numeric, charge: (units: number) => void): Value[] {
  const numbers: Value[] = [];
  const up = from <= to;
  let current = from;
  while (up ? current <= to : current >= to) {
    charge(1);
    numbers.push(current);
    current = up ? add(current, step) : subtract(current, step);
  }
  return numbers;
}

/** Arithmetic, the set operators that share its symbols, and functions on numbers. */
export const arithmeticBuiltins: readonly Builtin[] = [
  define("plus", 2, (args) => add(number(args, 0), number(args, 1))),
  define("minus", 2, (args) => {
    const sets = bothSets(args);
    if (sets === undefined) {
      if (typeof args[0] !== "number" && typeof args[0] !== "bigint") throw operandError(1, "one of {number, set}", args[0]!);
      return subtract(number(args, 0), number(args, 1));
    }
    return RegoSet.of(sets[0].items().filter((item) => !sets[1].has(item)));
  }),
  define("mul", 2, (args) => multiply(number(args, 0), number(args, 1))),
  define("div", 2, (args) => {
    const quotient = divide(number(args, 0), number(args, 1));
    if (quotient === undefined) throw builtinError("divide by zero");
    return quotient;
  }),
  define("rem", 2, (args) => {
    const a = number(args, 0);
    const b = number(args, 1);
    if (!isInteger(a) || !isInteger(b)) throw builtinError("modulo on floating-point number");
    if (b === 0) throw builtinError("modulo by zero");
    return normalizeInteger(BigInt(a) % BigInt(b));
  }),
  define("abs", 1, (args) => {
    const value = number(args, 0);
    return value < 0 ? negate(value) : value;
  }),
  define("round", 1, (args) => round(number(args, 0))),
  define("ceil", 1, (args) => {
    const value = number(args, 0);
    return typeof value === "bigint" ? value : normalizeNumber(Math.ceil(value));
  }),
  define("floor", 1, (args) => {
    const value = number(args, 0);
    return typeof value === "bigint" ? value : normalizeNumber(Math.floor(value));
  }),
  define("sum", 1, (args) => items(collectionOf(args, 0, "number")).reduce<Numeric>((total, item) => add(total, item), 0)),
  define("product", 1, (args, context) => {
    let product: Numeric = 1;
    for (const item of items(collectionOf(args, 0, "number"))) {
      context.work(1 + toDecimal(product).digits.toString().length / 8);
      product = multiply(product, item);
    }
    return product;
  }),
  define("numbers.range", 2, (args, context) => {
    const charge = (units: number): void => {
      context.work(units);
      context.allocate(16);
    };
    return range(integer(args, 0), integer(args, 1), 1, charge);
  }),
  define("numbers.range_step", 3, (args, context) => {
    const step = integer(args, 2);
    if (step <= 0) throw builtinError("step must be a positive integer");
    const charge = (units: number): void => {
      context.work(units);
      context.allocate(16);
    };
    return range(integer(args, 0), integer(args, 1), step, charge);
  }),
  define("format_int", 2, (args) => {
    const value = number(args, 0);
    const base = smallInteger(args, 1);
    if (base !== 2 && base !== 8 && base !== 10 && base !== 16) throw new BuiltinError("operand", "operand 2 must be one of {2, 8, 10, 16}");
    const integerPart = typeof value === "bigint" ? value : BigInt(Math.trunc(value));
    return integerPart.toString(base);
  }),
  define("bits.or", 2, (args) => normalizeInteger(BigInt(integer(args, 0)) | BigInt(integer(args, 1)))),
  define("bits.and", 2, (args) => normalizeInteger(BigInt(integer(args, 0)) & BigInt(integer(args, 1)))),
  define("bits.xor", 2, (args) => normalizeInteger(BigInt(integer(args, 0)) ^ BigInt(integer(args, 1)))),
  define("bits.negate", 1, (args) => normalizeInteger(~BigInt(integer(args, 0)))),
  define("bits.lsh", 2, (args) => {
    const value = BigInt(integer(args, 0));
    const shift = unsigned(args, 1);
    if (value === 0n) return 0;
    // Shifting first and measuring after would build the number that the limit is there to prevent.
    if (shift > MAX_INTEGER_BITS) return normalizeInteger(1n << BigInt(MAX_INTEGER_BITS + 1));
    return normalizeInteger(value << BigInt(shift));
  }),
  define("bits.rsh", 2, (args) => {
    const value = BigInt(integer(args, 0));
    return normalizeInteger(value >> BigInt(Math.min(unsigned(args, 1), MAX_INTEGER_BITS + 1)));
  }),
];

function unsigned(args: RegoArray, at: number): number {
  const value = integer(args, at);
  if (value < 0) throw operandError(at + 1, "an unsigned integer number", "!a negative integer");
  return Number(value);
}
