import { ByteWriter, concatBytes, encodeUtf8, fromHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CERTIFICATE_GUIDS, encodeCertificateTable, MAX_CERTIFICATE_ENTRIES, MAX_CERTIFICATE_TABLE, parseCertificateTable, SnpError } from "../index.ts";

const A = Uint8Array.of(1, 2, 3);
const B = Uint8Array.of(4, 5);
const TABLE = encodeCertificateTable([
  { guid: CERTIFICATE_GUIDS.vcek, data: A },
  { guid: CERTIFICATE_GUIDS.ask, data: B },
]);

function table(...entries: readonly (readonly [string, number, number])[]): Uint8Array {
  const writer = new ByteWriter();
  for (const [guid, offset, length] of entries)
    writer
      .bytes(fromHex(guid.replaceAll("-", "")))
      .u32le(offset)
      .u32le(length);
  return writer.toBytes();
}

const END = ["0".repeat(32), 0, 0] as const;
const { vcek, ask } = CERTIFICATE_GUIDS;

describe("certificate table (GHCB, MSG_REPORT)", () => {
  it("writes GUIDs in the order of their text, and offsets from the start", () => {
    expect(Buffer.from(TABLE.subarray(0, 24)).toString("hex")).toBe("63da758de6644564adc5f4b93be8accd4800000003000000");
    expect(TABLE).toHaveLength(3 * 24 + 5);
  });

  it("reads what it writes, with padding, and with data in another order", () => {
    const entries = [
      { guid: vcek, data: A },
      { guid: ask, data: B },
    ];
    expect(parseCertificateTable(TABLE)).toEqual(entries);
    expect(parseCertificateTable(concatBytes(TABLE, new Uint8Array(100)))).toEqual(entries);
    expect(parseCertificateTable(concatBytes(table([vcek, 74, 3], [ask, 72, 2], END), B, A))).toEqual(entries);
  });

  it("leaves out what a host counted into an entry's length: zeros after PEM or DER", () => {
    const padded = (data: Uint8Array, zeros = 3): Uint8Array => concatBytes(table([vcek, 48, data.length + zeros], END), data, new Uint8Array(zeros));
    const pem = encodeUtf8("-----BEGIN X-----\n");
    // The last zero is of the element, in each form of its length.
    const elements = [
      [0x30, 2, 1, 0],
      [0x30, 0x81, 2, 1, 0],
      [0x30, 0x82, 0, 2, 1, 0],
      [0x30, 0],
    ].map((bytes) => Uint8Array.from(bytes));
    for (const data of [pem, ...elements]) {
      for (const zeros of [0, 1, 4000]) expect(parseCertificateTable(padded(data, zeros))).toEqual([{ guid: vcek, data }]);
    }
    // Of what is neither, of an element that promises more, and of what is not zero, nothing is left out.
    for (const data of [Uint8Array.of(1, 0, 0), Uint8Array.of(0x30, 9, 1, 0), Uint8Array.of(0x30, 0x83, 0, 0, 1), Uint8Array.of(0x30, 1, 1, 2, 0)])
      expect(parseCertificateTable(padded(data, 1))).toEqual([{ guid: vcek, data: concatBytes(data, new Uint8Array(1)) }]);
  });

  it("reads an empty table, and one of zeros, as no certificates", () => {
    expect(parseCertificateTable(new Uint8Array())).toEqual([]);
    expect(parseCertificateTable(new Uint8Array(4096))).toEqual([]);
  });

  it.each<[string, Uint8Array]>([
    ["a part of an entry", TABLE.subarray(0, 20)],
    ["no zero entry", table([vcek, 24, 1])],
    ["a zero entry with an offset", table([END[0], 1, 0])],
    ["a GUID twice", concatBytes(table([vcek, 72, 1], [vcek, 73, 1], END), B)],
    ["an empty certificate", table([vcek, 48, 0], END)],
    ["an offset inside the header", concatBytes(table([vcek, 24, 3], END), A)],
    ["data that ends outside", concatBytes(table([vcek, 48, 4], END), A)],
    ["an offset near 2^32", table([vcek, 0xffff_ffff, 0xffff_ffff], END)],
    ["data that overlaps", concatBytes(table([vcek, 72, 3], [ask, 74, 1], END), A)],
    ["bytes between", concatBytes(table([vcek, 49, 2], END), A)],
    ["bytes after", concatBytes(TABLE, Uint8Array.of(0, 1))],
    ["more bytes than the limit", new Uint8Array(MAX_CERTIFICATE_TABLE + 1)],
    [
      "more entries than the limit",
      table(...Array.from({ length: MAX_CERTIFICATE_ENTRIES + 1 }, (_, index) => [(index + 1).toString(16).padStart(32, "0"), 1, 1] as const), END),
    ],
  ])("refuses %s", (_name, bytes) => {
    expect(() => parseCertificateTable(bytes)).toThrow(expect.objectContaining({ code: "ERR_SNP_CERTIFICATE_TABLE" }));
  });

  it("does not write what it does not read", () => {
    expect(() => encodeCertificateTable([{ guid: "VCEK", data: A }])).toThrow(expect.objectContaining({ code: "ERR_SNP_CERTIFICATE_TABLE" }));
    expect(() => encodeCertificateTable([{ guid: vcek, data: new Uint8Array() }])).toThrow(expect.objectContaining({ code: "ERR_SNP_CERTIFICATE_TABLE" }));
  });

  it("lets only its own errors out, whatever the bytes", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(TABLE.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }), fc.nat(TABLE.length), (changes, length) => {
        const bytes = Uint8Array.from(TABLE.subarray(0, length));
        for (const [offset, value] of changes) if (offset < length) bytes[offset] = value;
        try {
          parseCertificateTable(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(SnpError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
