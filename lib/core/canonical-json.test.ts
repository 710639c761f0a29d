import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalJson, parseJson, type JsonValue } from "./index.ts";

describe("canonicalJson", () => {
  it("sorts members by UTF-16 units and writes no spaces (RFC 8785 section 3.2.3)", () => {
    const text = '{"\\u20ac":1,"\\r":2,"\\ufb33":3,"1":4,"\\ud83d\\ude00":5,"\\u0080":6,"\\u00f6":7}';
    expect(canonicalJson(parseJson(text))).toBe('{"\\r":2,"1":4,"\u0080":6,"ö":7,"€":1,"😀":5,"\ufb33":3}');
  });

  it("has the hash that the key broker's documentation gives for a nested object", () => {
    const hash = createHash("sha384")
      .update(canonicalJson({ b: 1, a: "test", c: { d: "e" } }))
      .digest("hex");
    expect(hash).toBe("e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3");
  });

  it("means the same, and is the same for any order of members", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4, noUnicodeString: false }), (value) => {
        const json = JSON.parse(JSON.stringify(value)) as JsonValue;
        const text = canonicalJson(json);
        expect(JSON.parse(text)).toEqual(json);
        const reversed = JSON.parse(text, (_name, item: unknown) =>
          typeof item === "object" && item !== null && !Array.isArray(item) ? Object.fromEntries(Object.entries(item).toReversed()) : item,
        ) as JsonValue;
        expect(canonicalJson(reversed)).toBe(text);
      }),
    );
  });

  it("refuses what has no canonical form", () => {
    expect(() => canonicalJson({ a: 2n ** 60n })).toThrow(RangeError);
    expect(() => canonicalJson(["\ud800"])).toThrow(RangeError);
    expect(() => canonicalJson({ "\udc00": 1 })).toThrow(RangeError);
  });
});
