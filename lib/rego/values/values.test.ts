import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Value } from "./index.ts";
import {
  add,
  compareValues,
  divide,
  equalValues,
  formatValue,
  fromJson,
  identity,
  marshal,
  multiply,
  parseJsonValue,
  parseNumber,
  RegoObject,
  RegoSet,
  subtract,
} from "./index.ts";

const value: fc.Arbitrary<Value> = fc.letrec<{ readonly value: Value }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.constantFrom<Value>(null, true, false),
    fc.integer(),
    fc.bigInt({ min: 2n ** 60n, max: 2n ** 80n }),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((double) => parseNumber(String(double)) ?? 0),
    fc.string({ unit: "binary" }).map((text) => text.toWellFormed()),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.array(tie("value"), { maxLength: 4 }).map((items) => RegoSet.of(items)),
    fc.array(fc.tuple(tie("value"), tie("value")), { maxLength: 4 }).map((entries) => RegoObject.of(entries)),
  ),
})).value;

describe("order and equality", () => {
  it("form a total order that agrees with equality and identity", () => {
    fc.assert(
      fc.property(value, value, value, (a, b, c) => {
        expect(Math.sign(compareValues(a, b))).toBe(-Math.sign(compareValues(b, a)) || 0);
        expect(equalValues(a, b)).toBe(compareValues(a, b) === 0);
        expect(equalValues(a, b)).toBe(identity(a) === identity(b));
        if (compareValues(a, b) <= 0 && compareValues(b, c) <= 0) expect(compareValues(a, c)).toBeLessThanOrEqual(0);
      }),
    );
  });

  it("find every member of objects and sets again", () => {
    fc.assert(
      fc.property(fc.array(value, { maxLength: 8 }), (items) => {
        const set = RegoSet.of(items);
        const object = RegoObject.of(items.map((item) => [item, item]));
        for (const item of items) {
          expect(set.has(item)).toBe(true);
          expect(equalValues(object.get(item)!, item)).toBe(true);
        }
        expect(set.size).toBe(object.size);
      }),
    );
  });

  it("go by code point", () => {
    expect(compareValues("\uffff", "\u{1f600}")).toBeLessThan(0);
    expect(compareValues("\u{1f600}", "\u{1f601}")).toBeLessThan(0);
    expect(compareValues("a", "ab")).toBeLessThan(0);
  });
});

describe("numbers", () => {
  it("are exact on integers", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 100n), max: 2n ** 100n }), fc.bigInt({ min: -(2n ** 100n), max: 2n ** 100n }), (a, b) => {
        const left = parseNumber(a.toString())!;
        const right = parseNumber(b.toString())!;
        expect(BigInt(add(left, right))).toBe(a + b);
        expect(BigInt(subtract(left, right))).toBe(a - b);
        expect(BigInt(multiply(left, right))).toBe(a * b);
        if (b !== 0n && a % b === 0n) expect(BigInt(divide(left, right)!)).toBe(a / b);
      }),
    );
  });

  it("have one representation: safe integers are numbers, others bigints, no negative zero", () => {
    expect([parseNumber("1e3"), parseNumber("1.0"), parseNumber("1e21"), parseNumber("-0")]).toEqual([1000, 1, 10n ** 21n, 0]);
    expect(parseNumber("9007199254740991")).toBe(9007199254740991);
    expect(parseNumber("9007199254740992")).toBe(9007199254740992n);
    expect(multiply(-1, 0)).toBe(0);
    expect(fromJson(1e300, 10)).toBe(parseNumber("1e300"));
  });
});

describe("JSON", () => {
  it("comes back as it went", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (json) => {
        const original = fromJson(json as never, 128);
        expect(equalValues(parseJsonValue(marshal(original), 128), original)).toBe(true);
      }),
    );
  });

  it("ends every malformed text in an error of its own kind", () => {
    const text = '{"a": [1, -2.5e3, "\\u00e9\\n", null, true], "b": {}}';
    for (let end = 0; end < text.length; end++) expect(() => parseJsonValue(text.slice(0, end), 128)).toThrow();
  });
});

describe("formatting", () => {
  it("stops early when told to", () => {
    const long = Array.from({ length: 100_000 }, (_, at) => at);
    expect(formatValue(long, 50).length).toBeLessThan(80);
    expect(formatValue([[1, "a"], RegoSet.empty])).toBe('[[1, "a"], set()]');
  });
});
