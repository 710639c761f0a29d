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

  it("UTF-8 is strict and keeps a byte order mark", () => {
    expect(decodeUtf8(encodeUtf8("\ufeffé😀"))).toBe("\ufeffé😀");
    for (const bad of ["c0af", "ff", "eda080", "f4908080"])
      expect(() => decodeUtf8(fromHex(bad))).toThrow(expect.objectContaining({ code: "ERR_CORE_ENCODING" }));
  });
});

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
