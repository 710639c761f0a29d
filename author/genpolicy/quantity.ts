/** A Kubernetes quantity as a fraction of whole numbers. */
export interface Quantity {
  readonly numerator: bigint;
  readonly denominator: bigint;
}

/** Digits of a quantity: enough for an exabyte with a fraction, few enough to keep the arithmetic small. */
const MAX_DIGITS = 24;

const FORM = /^\+?([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,2})|([KMGTPE]i|[numkMGTPE]))?$/;
/** Powers of ten and of two of the suffixes. */
const TENS: ReadonlyMap<string, number> = new Map([
  ["n", -9],
  ["u", -6],
  ["m", -3],
  ["k", 3],
  ["M", 6],
  ["G", 9],
  ["T", 12],
  ["P", 15],
  ["E", 18],
]);
const TWOS: ReadonlyMap<string, bigint> = new Map([
  ["Ki", 10n],
  ["Mi", 20n],
  ["Gi", 30n],
  ["Ti", 40n],
  ["Pi", 50n],
  ["Ei", 60n],
]);

/** Reads `500m`, `1.5Gi`, `2e3` (apimachinery, resource.Quantity); undefined if the text is none, or negative. */
export function parseQuantity(text: string): Quantity | undefined {
  const match = FORM.exec(text);
  const whole = match?.[1] ?? "";
  const fraction = match?.[2] ?? "";
  const digits = whole + fraction;
  if (match === null || digits === "" || digits.length > MAX_DIGITS) return undefined;
  const suffix = match[4] ?? "";
  const exponent = Number(match[3] ?? TENS.get(suffix) ?? 0) - fraction.length;
  const numerator = BigInt(digits) << (TWOS.get(suffix) ?? 0n);
  return exponent >= 0 ? { numerator: numerator * 10n ** BigInt(exponent), denominator: 1n } : { numerator, denominator: 10n ** BigInt(-exponent) };
}

/** Whole number of times that one quantity holds another, rounded up; undefined if the other is 0. */
export function divideUp(quantity: Quantity, by: Quantity): bigint | undefined {
  const divisor = quantity.denominator * by.numerator;
  return divisor === 0n ? undefined : (quantity.numerator * by.denominator + divisor - 1n) / divisor;
}
