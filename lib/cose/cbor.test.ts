import { fromHex, toHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type CborKey, CborTag, type CborValue, CoseError, encodeCbor, MAX_CBOR_BYTES, MAX_CBOR_DEPTH, parseCbor } from "./index.ts";

describe("CBOR as COSE has it (RFC 8949 section 4.1, RFC 9052 section 9)", () => {
  it.each<[string, string]>([
    ["nothing", ""],
    ["an item that is cut", "19ff"],
    ["a string that is cut", "62ff"],
    ["an array that is cut", "8201"],
    ["bytes after the item", "0101"],
    ["an integer longer than needed", "1801"],
    ["a length longer than needed", "580100"],
    ["an indefinite string", "5f4101ff"],
    ["an indefinite array", "9f01ff"],
    ["an indefinite map", "bfff"],
    ["a key twice", "a201010102"],
    ["a key twice with another between", "a3010102020103"],
    ["a key of text twice with others between", "a4616101000262620061616103"],
    ["a key twice in a map inside", "81a3200061780020f6"],
    ["text that is not UTF-8", "62c328"],
    ["a half float", "f93c00"],
    ["a double", "fb3ff199999999999a"],
    ["NaN", "f97e00"],
    ["a NaN with a payload", "fb7ff8000000000001"],
    ["negative zero", "f98000"],
    ["undefined", "f7"],
    ["a simple value", "f0"],
    ["a break on its own", "ff"],
    ["a reserved additional information", "1c"],
    ["a tag without content", "c1"],
    ["a map key that is a byte string", "a1410100"],
    ["a map key that is null", "a1f600"],
    ["a map key that is an array", "a1800 0".replace(" ", "")],
    ["a tag number above 2^53", "db002000000000000000"],
    ["an array of 2^32 items", "9b0000000100000000"],
    ["a text of 2^63 bytes", "7b7fffffffffffffff"],
  ])("refuses %s", (_name, hex) => {
    expect(() => parseCbor(fromHex(hex), "test")).toThrow(expect.objectContaining({ code: "ERR_COSE_CBOR" }));
  });

  it("refuses more bytes or depth than the limits", () => {
    expect(() => parseCbor(new Uint8Array(MAX_CBOR_BYTES + 1), "test")).toThrow(expect.objectContaining({ code: "ERR_COSE_LIMIT" }));
    for (const level of ["81", "a100", "c1"]) {
      expect(() => parseCbor(fromHex(`${level.repeat(MAX_CBOR_DEPTH)}00`), "test")).not.toThrow();
      expect(() => parseCbor(fromHex(`${level.repeat(MAX_CBOR_DEPTH + 1)}00`), "test")).toThrow(expect.objectContaining({ code: "ERR_COSE_LIMIT" }));
    }
    expect(() => parseCbor(fromHex(`${"c1".repeat(60_000)}00`), "test")).toThrow(expect.objectContaining({ code: "ERR_COSE_CBOR" }));
  });

  it("makes nothing but plain values of tags: no Date, no RegExp, no bignum", () => {
    expect(parseCbor(fromHex("c11a63e13a1f"), "test")).toEqual(new CborTag(1, 1675704863));
    expect(parseCbor(fromHex("d8236128"), "test")).toEqual(new CborTag(35, "("));
    expect(parseCbor(fromHex("c24101"), "test")).toEqual(new CborTag(2, Uint8Array.of(1)));
  });

  it("keeps integers of 64 bits exact", () => {
    expect(parseCbor(fromHex("1bffffffffffffffff"), "test")).toBe(18446744073709551615n);
    expect(parseCbor(fromHex("3bffffffffffffffff"), "test")).toBe(-18446744073709551616n);
    // -2^53 is the one integer that the library gives as a number which another integer rounds to.
    for (const [hex, value] of [
      ["3b001ffffffffffffe", -9007199254740991],
      ["3b001fffffffffffff", -9007199254740992n],
      ["3b0020000000000000", -9007199254740993n],
    ] as const) {
      expect(parseCbor(fromHex(hex), "test")).toBe(value);
      expect(toHex(encodeCbor(value))).toBe(hex);
      expect(parseCbor(fromHex(`a1${hex}00`), "test")).toEqual(new Map([[value, 0]]));
    }
  });

  it("takes keys in any order, and writes them sorted", () => {
    for (const [hex, sorted] of [
      ["a202010102", "a201020201"],
      // Claims as signers write them: the text between the numbers.
      ["a401636469640264666565646373766e18670618ff", "a401636469640264666565640618ff6373766e1867"],
      ["a26161012000", "a22000616101"],
    ] as const) {
      const value = parseCbor(fromHex(hex), "test");
      expect(toHex(encodeCbor(value))).toBe(sorted);
      expect(parseCbor(fromHex(sorted), "test")).toEqual(value);
    }
  });

  it("has names such as __proto__ like any other", () => {
    expect(parseCbor(fromHex("a1695f5f70726f746f5f5f01"), "test")).toEqual(new Map([["__proto__", 1]]));
  });

  it("sorts keys, and writes Buffers as byte strings", () => {
    const map = new Map<CborKey, CborValue>([
      ["aa", 1],
      ["b", Buffer.of(1, 2)],
      [-1, true],
      [33, null],
      [1, 0],
    ]);
    expect(toHex(encodeCbor(map))).toBe("a501001821f620f5616242010262616101");
  });

  it("does not write what is not exact", () => {
    for (const value of [1.5, 2 ** 53, Number.NaN]) expect(() => encodeCbor(value)).toThrow(expect.objectContaining({ code: "ERR_COSE_CBOR" }));
  });

  const value: fc.Arbitrary<CborValue> = fc.letrec<{ item: CborValue }>((tie) => ({
    item: fc.oneof(
      { maxDepth: 4 },
      fc.maxSafeInteger(),
      fc.bigInt({ min: 1n << 53n, max: (1n << 64n) - 1n }),
      fc.string({ unit: "grapheme" }),
      fc.boolean(),
      fc.constant(null),
      fc.uint8Array(),
      fc.array(tie("item"), { maxLength: 4 }),
      fc
        .uniqueArray(fc.tuple(fc.oneof(fc.integer(), fc.string()), tie("item")), { maxLength: 4, selector: ([key]) => `${typeof key}${key}` })
        .map((pairs) => new Map(pairs)),
      fc.tuple(fc.integer({ min: 6, max: 1000 }), tie("item")).map(([tag, item]) => new CborTag(tag, item)),
    ),
  })).item;

  it("reads what it writes, and writes it the same again", () => {
    fc.assert(
      fc.property(value, (input) => {
        const bytes = encodeCbor(input);
        expect(encodeCbor(parseCbor(bytes, "test"))).toEqual(bytes);
      }),
    );
  });

  it("lets only its own errors out, whatever the bytes, and writes back what it read, with sorted keys", () => {
    const check = (bytes: Uint8Array): void => {
      let read: CborValue;
      try {
        read = parseCbor(bytes, "test");
      } catch (error) {
        expect(error).toBeInstanceOf(CoseError);
        return;
      }
      // Nothing but the order of keys may change: not the length, and not the meaning.
      const written = encodeCbor(read);
      expect(written).toHaveLength(bytes.length);
      expect(parseCbor(written, "test")).toEqual(read);
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 24 }), check), { numRuns: 2500 });
    fc.assert(
      fc.property(value, fc.nat(), fc.nat(255), (input, place, byte) => {
        const bytes = encodeCbor(input);
        bytes[place % bytes.length] = byte;
        check(bytes);
      }),
      { numRuns: 1000 },
    );
  });
});
