import { describe, expect, it, vi } from "vitest";
import fc from "fast-check";
import { asArray, asObject, DEFAULT_JSON_LIMITS, encodeJson, isSealpodError, MAX_NUMBER_LENGTH, parseJson, type JsonValue } from "./index.ts";

describe("parseJson", () => {
  it("agrees with JSON.parse on what JSON.stringify writes", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), (value) => {
        const text = JSON.stringify(value);
        expect(JSON.parse(encodeJson(parseJson(text)))).toEqual(JSON.parse(text));
      }),
    );
  });

  it("keeps integers beyond 2^53 exact", () => {
    const value = asObject(parseJson('{"nonce":13202930541250959283,"max":18446744073709551615,"neg":-9007199254740993,"small":9007199254740991}'));
    expect(value).toMatchObject({ nonce: 13202930541250959283n, max: 18446744073709551615n, neg: -9007199254740993n, small: 9007199254740991 });
    expect(encodeJson(value ?? null)).toContain("13202930541250959283");
  });

  it("treats __proto__ as a name like any other", () => {
    const value = asObject(parseJson('{"__proto__":{"admin":true}}'));
    expect((value as unknown as { admin?: boolean }).admin).toBeUndefined();
    expect(Object.keys(value ?? {})).toEqual(["__proto__"]);
  });

  it.each<[string, string]>([
    ['{"a":1,"a":2}', 'duplicate name "a"'],
    ['{"a":1,"\\u0061":2}', 'duplicate name "a"'],
    ["[1,]", "value expected"],
    ["[1 2]", "',' or ']' expected"],
    ['{"a" 1}', "':' expected"],
    ["{a:1}", "a name in double quotes expected"],
    ['{"a":1,}', "a name in double quotes expected"],
    ["01", "text after the value"],
    ["1.", "text after the value"],
    [".5", "value expected"],
    ["+1", "value expected"],
    ["NaN", "value expected"],
    ["1e999", "number is too large"],
    ["tru", "value expected"],
    ["", "unexpected end"],
    ["[", "unexpected end"],
    ['"a', "string does not end"],
    ['"a\n"', "control character in a string"],
    ['"\\x41"', "invalid escape in a string"],
    ['"\\u12"', "invalid escape in a string"],
    ["1 /* */", "text after the value"],
    ["\ufeff1", "value expected"],
  ])("refuses %j", (text, problem) => {
    expect(() => parseJson(text)).toThrow(problem);
  });

  it("says line and column", () => {
    expect(() => parseJson('{\n  "a": 1,\n  "a": 2\n}', "release policy")).toThrow(/^release policy:3:6: duplicate/);
  });

  it("refuses what is deeper or longer than its limits, without exhausting the stack", () => {
    expect(() => parseJson("[".repeat(1_000_000))).toThrow(expect.objectContaining({ code: "ERR_CORE_LIMIT" }));
    expect(() => parseJson("[1,2,3]", "x", { maxLength: 6, maxDepth: 3 })).toThrow(expect.objectContaining({ code: "ERR_CORE_LIMIT" }));
  });

  it.each<[string, (length: number) => string]>([
    ["an integer", (length) => "9".repeat(length)],
    ["a negative integer", (length) => `-${"9".repeat(length - 1)}`],
    ["a fraction", (length) => `0.${"9".repeat(length - 2)}`],
    ["an exponent", (length) => `1e-${"0".repeat(length - 3)}`],
  ])("refuses %s longer than the limit, by default and by the caller's, and takes one as long", (_what, textOf) => {
    for (const maxNumberLength of [undefined, 40, 128, 4096]) {
      const limits = { maxLength: 10_000, maxDepth: 8, ...(maxNumberLength === undefined ? {} : { maxNumberLength }) };
      const limit = maxNumberLength ?? MAX_NUMBER_LENGTH;
      expect(Number(parseJson(textOf(limit), "x", limits))).toBe(Number(textOf(limit)));
      expect(() => parseJson(`{"a": [\n${textOf(limit + 1)}]}`, "x", limits)).toThrow(
        expect.objectContaining({
          code: "ERR_CORE_LIMIT",
          message: `x:2:1: a number of ${limit + 1} characters, more than the limit of ${limit}`,
          details: { line: 2, column: 1, offset: 8, limit },
        }),
      );
    }
    expect(DEFAULT_JSON_LIMITS.maxNumberLength).toBe(MAX_NUMBER_LENGTH);
  });

  it("makes no integer of digits beyond the limit before it refuses them", () => {
    const made = vi.spyOn(globalThis, "BigInt");
    try {
      expect(() => parseJson(`[${"9".repeat(MAX_NUMBER_LENGTH)},${"9".repeat(1_000_000)}]`)).toThrow(expect.objectContaining({ code: "ERR_CORE_LIMIT" }));
      expect(made.mock.calls.map(([text]) => String(text).length)).toEqual([MAX_NUMBER_LENGTH]);
    } finally {
      made.mockRestore();
    }
  });

  it("lets no error but its own escape from any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...Array.from('{}[]",:\\u0 1e-.tfn')) }), (text) => {
        let value: JsonValue | undefined;
        try {
          value = parseJson(text);
        } catch (error) {
          expect(isSealpodError(error)).toBe(true);
          return;
        }
        // As text: of -0 JSON has nothing but the number.
        expect(JSON.stringify(JSON.parse(text))).toEqual(JSON.stringify(JSON.parse(encodeJson(value))));
      }),
    );
  });
});

describe("asObject and asArray", () => {
  it("tell one from the other", () => {
    expect(asObject(parseJson("[]"))).toBeUndefined();
    expect(asObject(null)).toBeUndefined();
    expect(asArray(parseJson("{}"))).toBeUndefined();
    expect(asArray(parseJson("[1]"))).toEqual([1]);
  });
});
