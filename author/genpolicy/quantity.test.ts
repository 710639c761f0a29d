import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { divideUp, parseQuantity } from "./quantity.ts";

const ONE = { numerator: 1n, denominator: 1n };
const whole = (text: string): bigint | undefined => {
  const quantity = parseQuantity(text);
  return quantity === undefined ? undefined : divideUp(quantity, ONE);
};

describe("parseQuantity", () => {
  it.each<readonly [text: string, value: bigint | undefined]>([
    ["0", 0n],
    ["1.5", 2n],
    [".5", 1n],
    ["5.", 5n],
    ["+3", 3n],
    ["1k", 1000n],
    ["1Ki", 1024n],
    ["1.5Gi", 1610612736n],
    ["100m", 1n],
    ["2000m", 2n],
    ["3000000n", 1n],
    ["2e3", 2000n],
    ["2E-1", 1n],
    ["1E", 10n ** 18n],
    ["1Ei", 1n << 60n],
    ["-1", undefined],
    ["", undefined],
    [".", undefined],
    ["1kB", undefined],
    ["1e", undefined],
    ["0x10", undefined],
    ["1".repeat(25), undefined],
  ])("%j", (text, value) => {
    expect(whole(text)).toBe(value);
  });

  it("has no number for a division by nothing", () => {
    expect(divideUp(ONE, { numerator: 0n, denominator: 1n })).toBeUndefined();
  });

  it("divides as fractions do, rounded up", () => {
    fc.assert(
      fc.property(fc.nat(), fc.integer({ min: 1, max: 2 ** 31 - 1 }), (a, b) => {
        const [milli, divisor] = [parseQuantity(`${a}m`), parseQuantity(`${b}m`)];
        expect(milli !== undefined && divisor !== undefined && divideUp(milli, divisor)).toBe(BigInt(Math.ceil(a / b)));
      }),
    );
  });
});
