import { fromHex, toHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  DerReader,
  encodeDer,
  encodeEnumerated,
  encodeGeneralizedTime,
  encodeInteger,
  encodeOid,
  encodeSequence,
  encodeSetOf,
  encodeTime,
  encodeUtf8String,
  MAX_DER_DEPTH,
  PkiError,
  TAG,
} from "./index.ts";

function readWhole<T>(hex: string, read: (reader: DerReader) => T): T {
  const reader = new DerReader(fromHex(hex), "test");
  const value = read(reader);
  reader.end();
  return value;
}

describe("X.690 section 10: one encoding per value", () => {
  it.each<[string, string, (reader: DerReader) => unknown]>([
    ["nothing at all", "", (reader) => reader.any()],
    ["an identifier without length", "02", (reader) => reader.any()],
    ["a length that ends early", "0282", (reader) => reader.any()],
    ["content that ends early", "020501", (reader) => reader.any()],
    ["an indefinite length", "30800000", (reader) => reader.any()],
    ["a long length where a short one does", `02810101`, (reader) => reader.any()],
    ["a length with a leading zero", `04820080${"00".repeat(128)}`, (reader) => reader.any()],
    ["a length of five octets", "04850000000001aa", (reader) => reader.any()],
    ["a high tag number", "1f8101", (reader) => reader.any()],
    ["trailing bytes", "02010100", (reader) => reader.integer()],
    ["another tag", "040101", (reader) => reader.integer()],
    ["an empty INTEGER", "0200", (reader) => reader.integer()],
    ["an INTEGER with a leading zero", "02020001", (reader) => reader.integer()],
    ["a negative INTEGER with a leading FF", "0202ff80", (reader) => reader.integer()],
    ["a BOOLEAN of 01", "010101", (reader) => reader.boolean()],
    ["a BOOLEAN of two bytes", "0102ffff", (reader) => reader.boolean()],
    ["a NULL with content", "050100", (reader) => reader.null()],
    ["an empty OID", "0600", (reader) => reader.oid()],
    ["an OID with a padded arc", "06032a8001", (reader) => reader.oid()],
    ["an OID that ends inside an arc", "06022a81", (reader) => reader.oid()],
    ["an OID of 65 bytes", `0641${"2a".repeat(65)}`, (reader) => reader.oid()],
    ["an empty BIT STRING", "0300", (reader) => reader.bitString()],
    ["a BIT STRING with 8 unused bits", "03020800", (reader) => reader.bitString()],
    ["a BIT STRING without bytes but unused bits", "030101", (reader) => reader.bitString()],
    ["a BIT STRING whose unused bits are set", "03020101", (reader) => reader.bitString()],
    ["a UTF8String that is not UTF-8", "0c02c328", (reader) => reader.string()],
    ["a PrintableString with @", "130140", (reader) => reader.string()],
    ["an IA5String above ASCII", "160180", (reader) => reader.string()],
    ["a BMPString of odd length", "1e0100", (reader) => reader.string()],
    ["a BMPString with half a surrogate pair", "1e02d800", (reader) => reader.string()],
    ["an INTEGER where a string belongs", "020101", (reader) => reader.string()],
    ["a time without Z", `170c${Buffer.from("260101000000").toString("hex")}`, (reader) => reader.time()],
    ["a time with an offset", `1711${Buffer.from("260101000000+0100").toString("hex")}`, (reader) => reader.time()],
    ["31 February", `170d${Buffer.from("260231000000Z").toString("hex")}`, (reader) => reader.time()],
    ["hour 24", `170d${Buffer.from("260101240000Z").toString("hex")}`, (reader) => reader.time()],
    ["second 60", `170d${Buffer.from("260101000060Z").toString("hex")}`, (reader) => reader.time()],
    ["a GeneralizedTime before 2050", `180f${Buffer.from("20260101000000Z").toString("hex")}`, (reader) => reader.time()],
    ["a GeneralizedTime with fractions", `1811${Buffer.from("20600101000000.5Z").toString("hex")}`, (reader) => reader.time()],
    ["a UTCTime where only GeneralizedTime belongs", `170d${Buffer.from("260101000000Z").toString("hex")}`, (reader) => reader.generalizedTime()],
    ["a GeneralizedTime without seconds", `180d${Buffer.from("202601010000Z").toString("hex")}`, (reader) => reader.generalizedTime()],
    ["a GeneralizedTime with month 13", `180f${Buffer.from("20261301000000Z").toString("hex")}`, (reader) => reader.generalizedTime()],
    ["an ENUMERATED with a leading zero", "0a020001", (reader) => reader.enumerated(5)],
    ["an ENUMERATED above the last value", "0a0106", (reader) => reader.enumerated(5)],
    ["a negative ENUMERATED", "0a01ff", (reader) => reader.enumerated(5)],
    ["an INTEGER where an ENUMERATED belongs", "020101", (reader) => reader.enumerated(5)],
  ])("refuses %s", (_name, hex, read) => {
    expect(() => readWhole(hex, read)).toThrow(expect.objectContaining({ code: "ERR_PKI_DER" }));
  });

  it("refuses nesting beyond the limit, at the limit's cost", () => {
    let bytes: Uint8Array = new Uint8Array();
    for (let i = 0; i < MAX_DER_DEPTH + 1; i++) bytes = encodeSequence(bytes);
    const descend = (): void => {
      for (let reader = new DerReader(bytes, "test"); ;) reader = reader.enter(TAG.sequence);
    };
    expect(descend).toThrow(expect.objectContaining({ code: "ERR_PKI_LIMIT" }));
  });

  it("does not write a number of two thousand digits into a message", () => {
    for (const first of ["01", "81"]) {
      const read = (): unknown => readWhole(`02820400${first}${"00".repeat(1023)}`, (reader) => reader.smallInteger(255));
      expect(read).toThrow(expect.objectContaining({ code: "ERR_PKI_DER", message: expect.stringMatching(/^.{1,120}$/) as string }));
    }
  });

  it("reads GeneralizedTime of any year where the field has nothing else", () => {
    const read = (text: string): number => readWhole(`180f${Buffer.from(text).toString("hex")}`, (reader) => reader.generalizedTime());
    expect(read("19991231235959Z")).toBe(Date.UTC(1999, 11, 31, 23, 59, 59));
    expect(read("20240229000000Z")).toBe(Date.UTC(2024, 1, 29));
    expect(new Date(read("00500101000000Z")).toISOString()).toBe("0050-01-01T00:00:00.000Z");
    expect(toHex(encodeGeneralizedTime(Date.UTC(1999, 11, 31, 23, 59, 59)))).toBe(`180f${Buffer.from("19991231235959Z").toString("hex")}`);
    expect(readWhole(toHex(encodeEnumerated(5)), (reader) => reader.enumerated(5))).toBe(5);
    for (const value of [-1, 128, 1.5]) expect(() => encodeEnumerated(value)).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
  });

  it("states the offset in the whole input, not in the part", () => {
    const bytes = encodeSequence(encodeInteger(1), encodeSequence(encodeInteger(2), fromHex("02020001")));
    const read = (): void => {
      const outer = new DerReader(bytes, "test").enter(TAG.sequence);
      outer.integer();
      const inner = outer.enter(TAG.sequence);
      inner.integer();
      inner.integer();
    };
    expect(read).toThrow(/at offset 14$/);
  });
});

describe("values", () => {
  it("reads two's complement", () => {
    expect(
      ["02010 0", "02017f", "02020080", "0201ff", "020180", "02020100"].map((hex) => readWhole(hex.replace(" ", ""), (reader) => reader.integer())),
    ).toEqual([0n, 127n, 128n, -1n, -128n, 256n]);
  });

  it("keeps OID arcs beyond 2^53 exact", () => {
    const oid = "2.25.97552492151509741327169512377098502104.1.1";
    expect(readWhole(toHex(encodeOid(oid)), (reader) => reader.oid())).toBe(oid);
    expect(toHex(encodeOid("1.2.840.113549.1.1.10"))).toBe("06092a864886f70d01010a");
    expect(toHex(encodeOid("2.999"))).toBe("06028837");
  });

  it.each(["3.1", "1.40", "1", "1.02", "", "1..2", "a.b"])("does not write %j as an OID", (text) => {
    expect(() => encodeOid(text)).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
  });

  it("divides UTCTime and GeneralizedTime at 2050", () => {
    expect(toHex(encodeTime(Date.UTC(2049, 11, 31, 23, 59, 59)))).toBe(`170d${Buffer.from("491231235959Z").toString("hex")}`);
    expect(toHex(encodeTime(Date.UTC(2050, 0, 1)))).toBe(`180f${Buffer.from("20500101000000Z").toString("hex")}`);
    expect(() => encodeTime(Date.UTC(1949, 0, 1))).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
    expect(() => encodeTime(Number.NaN)).toThrow(expect.objectContaining({ code: "ERR_PKI_TEMPLATE" }));
  });

  it("writes a SET OF in order", () => {
    expect(toHex(encodeSetOf(encodeInteger(2), encodeInteger(1)))).toBe("3106020101020102");
  });

  it("reads what it writes", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 1n << 2048n }), (value) => {
        expect(readWhole(toHex(encodeInteger(value)), (reader) => reader.integer())).toBe(value);
      }),
    );
    fc.assert(
      fc.property(fc.array(fc.bigInt({ min: 0n, max: 1n << 64n }), { minLength: 1, maxLength: 5 }), (arcs) => {
        const oid = `2.${arcs.join(".")}`;
        expect(readWhole(toHex(encodeOid(oid)), (reader) => reader.oid())).toBe(oid);
      }),
    );
    fc.assert(
      fc.property(fc.integer({ min: Date.UTC(1950, 0, 1) / 1000, max: Date.UTC(9999, 11, 31) / 1000 }), (seconds) => {
        expect(readWhole(toHex(encodeTime(seconds * 1000)), (reader) => reader.time())).toBe(seconds * 1000);
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        expect(readWhole(toHex(encodeUtf8String(text)), (reader) => reader.string())).toBe(text);
      }),
    );
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 70_000 }), (length) => {
        expect(readWhole(toHex(encodeDer(TAG.octetString, new Uint8Array(length))), (reader) => reader.octetString().length)).toBe(length);
      }),
      { numRuns: 30 },
    );
  });

  it("lets only its own errors out, whatever the bytes", () => {
    const readers: readonly ((reader: DerReader) => unknown)[] = [
      (reader) => reader.any(),
      (reader) => reader.integer(),
      (reader) => reader.oid(),
      (reader) => reader.bitString(),
      (reader) => reader.string(),
      (reader) => reader.time(),
      (reader) => reader.enter(TAG.sequence).any(),
    ];
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.constantFrom(...readers), (bytes, read) => {
        try {
          read(new DerReader(bytes, "test"));
        } catch (error) {
          expect(error).toBeInstanceOf(PkiError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
