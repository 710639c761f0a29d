import { KubeletError } from "./errors.ts";

/** Decimal digits in a quantity: enough for an exabyte with a fraction, few enough to keep the arithmetic small. */
const MAX_DIGITS = 24;

const QUANTITY = /^([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,2})|([KMGTPE]i|[numkMGTPE]))?$/;

const SUFFIXES: ReadonlyMap<string, { readonly ten: number; readonly factor: bigint }> = new Map([
  ["n", { ten: -9, factor: 1n }],
  ["u", { ten: -6, factor: 1n }],
  ["m", { ten: -3, factor: 1n }],
  ["k", { ten: 3, factor: 1n }],
  ["M", { ten: 6, factor: 1n }],
  ["G", { ten: 9, factor: 1n }],
  ["T", { ten: 12, factor: 1n }],
  ["P", { ten: 15, factor: 1n }],
  ["E", { ten: 18, factor: 1n }],
  ["Ki", { ten: 0, factor: 1n << 10n }],
  ["Mi", { ten: 0, factor: 1n << 20n }],
  ["Gi", { ten: 0, factor: 1n << 30n }],
  ["Ti", { ten: 0, factor: 1n << 40n }],
  ["Pi", { ten: 0, factor: 1n << 50n }],
  ["Ei", { ten: 0, factor: 1n << 60n }],
]);

/**
 * CPUs of a Kubernetes quantity in thousandths, rounded up as the API does (`"60m"` → 60, `0.5` → 500).
 * @throws {KubeletError} ERR_KUBELET_QUANTITY
 */
export function parseMilliCpu(quantity: string | number): number {
  return scaled(quantity, 3);
}

/**
 * Bytes of a Kubernetes quantity, rounded up (`"512Mi"` → 536870912).
 * @throws {KubeletError} ERR_KUBELET_QUANTITY
 */
export function parseBytes(quantity: string | number): number {
  return scaled(quantity, 0);
}

/**
 * How often one quantity holds another, rounded up (`"1500m"` by 1 → 2, `"1Gi"` by `"1Mi"` → 1024).
 * @throws {KubeletError} ERR_KUBELET_QUANTITY
 */
export function divideQuantity(quantity: string | number, divisor: string | number): number {
  // Kubernetes' finest unit is the nano, so both are whole numbers of it.
  const by = units(divisor, 9);
  if (by === 0n) throw invalid(String(divisor), "it divides nothing");
  return toNumber(divideUp(units(quantity, 9), by), String(quantity));
}

function scaled(quantity: string | number, scale: number): number {
  return toNumber(units(quantity, scale), String(quantity));
}

function toNumber(value: bigint, text: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid(text, "it is larger than any machine");
  return Number(value);
}

/** The quantity times 10 to the `scale`, rounded up. */
function units(quantity: string | number, scale: number): bigint {
  const text = String(quantity);
  const match = QUANTITY.exec(text);
  const whole = match?.[2] ?? "";
  const fraction = match?.[3] ?? "";
  const suffix = match?.[5] === undefined ? { ten: Number(match?.[4] ?? "0"), factor: 1n } : SUFFIXES.get(match[5]);
  if (match === null || suffix === undefined || whole.length + fraction.length === 0 || whole.length + fraction.length > MAX_DIGITS) {
    throw invalid(text, "expected a number with an optional suffix such as m, k, Ki, Mi, Gi");
  }
  if (match[1] === "-") throw invalid(text, "a limit or request cannot be negative");
  const exponent = suffix.ten - fraction.length + scale;
  const product = BigInt(whole + fraction) * suffix.factor;
  return exponent >= 0 ? product * 10n ** BigInt(exponent) : divideUp(product, 10n ** BigInt(-exponent));
}

function divideUp(a: bigint, b: bigint): bigint {
  return (a + b - 1n) / b;
}

function invalid(text: string, problem: string): KubeletError {
  return new KubeletError("ERR_KUBELET_QUANTITY", `resource quantity ${JSON.stringify(text.slice(0, 40))}: ${problem}`);
}
