import { describe, expect, it } from "vitest";
import fc from "fast-check";
import {
  concatBytes,
  decodeUtf8,
  encodeUtf8,
  equalBytes,
  fromAnyBase64,
  fromBase64,
  fromBase64url,
  fromHex,
  isZero,
  sha256,
  sha384,
  toBase64,
  toBase64url,
  toHex,
} from "./index.ts";

const bytes = fc.uint8Array({ maxLength: 80 });

describe("text encodings", () => {
  it("come back as they went in", () => {
    fc.assert(
      fc.property(bytes, (value) => {
        expect(fromHex(toHex(value))).toEqual(value);
        expect(fromBase64(toBase64(value))).toEqual(value);
        expect(fromBase64url(toBase64url(value))).toEqual(value);
        for (const text of [toBase64(value), toBase64url(value), toBase64(value).replaceAll("=", "")]) expect(fromAnyBase64(text)).toEqual(value);
      }),
    );
  });

  it.each(["0", "0g", "0x00", " 00", "00\n"])("hex refuses %j", (text) => {
    expect(() => fromHex(text)).toThrow(expect.objectContaining({ code: "ERR_CORE_ENCODING" }));
  });

  it.each(["AA", "AA=", "AAA", "AB==", "A A=", "AA==\n", "AA-=", "===="])("base64 refuses %j", (text) => {
    expect(() => fromBase64(text)).toThrow(expect.objectContaining({ code: "ERR_CORE_ENCODING" }));
  });

  it.each(["AA==", "AB", "A", "A+AA", "AA\n"])("base64url refuses %j", (text) => {
    expect(() => fromBase64url(text)).toThrow(expect.objectContaining({ code: "ERR_CORE_ENCODING" }));
  });

  it.each(["A", "AB", "AAA==", "AA=", "=AAA", "A=AA", "AA ==", "AA==="])("the tolerant reader still refuses %j", (text) => {
    expect(() => fromAnyBase64(text)).toThrow(expect.objectContaining({ code: "ERR_CORE_ENCODING" }));
  });

  /** What {@link fromAnyBase64} is to do, by the letter: one character after the other, into one string of bits. */
  function straightforward(text: string, what: string): Uint8Array | string {
    const padding = text.length % 4 === 0 ? (/={1,2}$/.exec(text)?.[0].length ?? 0) : 0;
    const digits = Array.from(text.slice(0, text.length - padding), (digit) => {
      const at = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".indexOf(digit.replace("-", "+").replace("_", "/"));
      return at < 0 ? undefined : at.toString(2).padStart(6, "0");
    });
    if (digits.includes(undefined)) return `${what} is neither base64 nor base64url`;
    const bits = digits.join("");
    const left = bits.length % 8;
    if (left === 6 || bits.slice(bits.length - left).includes("1")) return `${what} is not canonical base64url (RFC 4648 section 5, unpadded)`;
    return Uint8Array.from({ length: (bits.length - left) / 8 }, (_, index) => Number.parseInt(bits.slice(index * 8, index * 8 + 8), 2));
  }

  it("base64 of either alphabet is read as the definition says, or refused in its words", () => {
    // Mostly digits: of texts of any characters hardly one would be read. The others are those that decoders skip, end at, or take for something else.
    const digit = fc.constantFrom(...Array.from("AABCQgwxz0189+/-_"));
    const other = fc.constantFrom("=", "==", " ", "\n", "\0", "é", "Ā", "ā", "\u{1f600}", "\ud800", "\u0141", ".", "%3D");
    const text = fc
      .array(fc.oneof({ weight: 24, arbitrary: digit }, { weight: 1, arbitrary: other }), { maxLength: 40 })
      .chain((parts) => fc.constantFrom("", "", "=", "==", "===").map((end) => parts.join("") + end));
    let read = 0;
    fc.assert(
      fc.property(fc.oneof(text, fc.base64String({ maxLength: 60 }), fc.string({ maxLength: 12 })), (input) => {
        const expected = straightforward(input, "it");
        if (typeof expected === "string") {
          expect(() => fromAnyBase64(input, "it")).toThrow(expect.objectContaining({ code: "ERR_CORE_ENCODING", message: expected }));
        } else {
          read++;
          expect(fromAnyBase64(input, "it")).toEqual(expected);
        }
      }),
      { numRuns: 6000 },
    );
    expect(read).toBeGreaterThan(1000);
  });

  it("base64 of either alphabet has one text for each end, of all there are", () => {
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=";
    for (const first of alphabet) {
      for (const last of alphabet) {
        for (const input of [`${first}${last}`, `AB${first}${last}`, `A${first}${last}`, `${first}${last}==`, `A${first}${last}=`]) {
          const expected = straightforward(input, "it");
          let found: Uint8Array | string;
          try {
            found = fromAnyBase64(input, "it");
          } catch (error) {
            found = error instanceof Error ? error.message : "";
          }
          if (toKey(found) !== toKey(expected)) expect(found, input).toEqual(expected);
        }
      }
    }
  });

  it("UTF-8 is strict and keeps a byte order mark", () => {
    expect(decodeUtf8(encodeUtf8("\ufeffé😀"))).toBe("\ufeffé😀");
    for (const bad of ["c0af", "ff", "eda080", "f4908080"])
      expect(() => decodeUtf8(fromHex(bad))).toThrow(expect.objectContaining({ code: "ERR_CORE_ENCODING" }));
  });
});

function toKey(value: Uint8Array | string): string {
  return typeof value === "string" ? value : toHex(value);
}

describe("bytes", () => {
  it("are joined, compared and tested for zero", () => {
    expect(concatBytes(Uint8Array.of(1), new Uint8Array(0), Uint8Array.of(2, 3))).toEqual(Uint8Array.of(1, 2, 3));
    expect(equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 2))).toBe(true);
    expect(equalBytes(Uint8Array.of(1, 2), Uint8Array.of(1, 3))).toBe(false);
    expect(equalBytes(Uint8Array.of(1), Uint8Array.of(1, 0))).toBe(false);
    expect(isZero(new Uint8Array(3))).toBe(true);
    expect(isZero(Uint8Array.of(0, 0, 1))).toBe(false);
  });

  // FIPS 180-2 appendix B: the message "abc".
  it("are hashed as FIPS 180 says, in parts as in one", () => {
    expect(toHex(sha256(encodeUtf8("abc")))).toBe("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    expect(toHex(sha384(encodeUtf8("a"), encodeUtf8("bc")))).toBe(
      "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
    );
  });
});
