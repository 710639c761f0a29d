import { concatBytes, toHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { testReport } from "../testdata/emulated.ts";
import {
  encodeGuestPolicy,
  encodeReport,
  parseGuestPolicy,
  parseReport,
  type Report,
  REPORT_SIZE,
  type ReportVersion,
  SNP_ERRORS,
  SnpError,
} from "../index.ts";

const SIGNATURE = { r: 0x1234n, s: (1n << 384n) - 1n };
const CHIP_ID = new Uint8Array(64).fill(0xc1);

function report(version: ReportVersion): Report {
  return { ...testReport(version === 5 ? "Turin" : "Milan", version, CHIP_ID), signature: SIGNATURE };
}

function changed(bytes: Uint8Array, offset: number, ...values: readonly number[]): Uint8Array {
  const copy = Uint8Array.from(bytes);
  copy.set(values, offset);
  return copy;
}

describe("report layout (AMD 56860, ATTESTATION_REPORT)", () => {
  it.each([2, 3, 4, 5] as const)("reads version %i as it was written", (version) => {
    const bytes = encodeReport(report(version));
    expect(bytes).toHaveLength(REPORT_SIZE);
    expect(parseReport(bytes)).toEqual(report(version));
    expect(encodeReport(parseReport(bytes))).toEqual(bytes);
  });

  it("puts each field at its offset", () => {
    const bytes = encodeReport(report(5));
    const at = (offset: number, length: number): string => toHex(bytes.subarray(offset, offset + length));
    expect(at(0x000, 8)).toBe("0500000007000000");
    expect(at(0x008, 8)).toBe("1f00030000000000");
    expect(at(0x010, 32)).toBe("01".repeat(16) + "02".repeat(16));
    expect(at(0x030, 8)).toBe("0100000001000000");
    expect(at(0x038, 8)).toBe("01040018000000db");
    expect(at(0x040, 16)).toBe("65000000000000000100000000000000");
    expect(at(0x050, 64)).toBe("03".repeat(64));
    expect(at(0x090, 48)).toBe("04".repeat(48));
    expect(at(0x0c0, 32)).toBe("05".repeat(32));
    expect(at(0x0e0, 96)).toBe("06".repeat(48) + "07".repeat(48));
    expect(at(0x140, 64)).toBe("08".repeat(32) + "ff".repeat(32));
    expect(at(0x180, 12)).toBe("01040018000000db1a020100");
    expect(at(0x1a0, 64)).toBe("c1".repeat(64));
    expect(at(0x1e0, 24)).toBe("01040018000000db1d3701001d37010001040018000000db");
    expect(at(0x1f8, 16)).toBe("3f000000000000007f00000000000000");
    expect(at(0x2a0, 4)).toBe("34120000");
    expect(at(0x2e8, 72)).toBe("ff".repeat(48) + "00".repeat(24));
  });

  it("keeps a copy, so that the caller's buffer can change", () => {
    const bytes = encodeReport(report(3));
    const parsed = parseReport(bytes);
    bytes.fill(0xee);
    expect(parsed).toEqual(report(3));
  });

  const reserved: readonly (readonly [ReportVersion, number, number])[] = [
    [3, 0x04c, 0x050],
    [2, 0x188, 0x1a0],
    [3, 0x18b, 0x1a0],
    [5, 0x18b, 0x1a0],
    [3, 0x1eb, 0x1ec],
    [3, 0x1ef, 0x1f0],
    [2, 0x1f8, 0x2a0],
    [3, 0x1f8, 0x2a0],
    [4, 0x1f8, 0x2a0],
    [5, 0x208, 0x2a0],
    [3, 0x330, 0x4a0],
  ];
  it.each(reserved)("accounts for every reserved byte: version %i, %i to %i", (version, from, to) => {
    const bytes = encodeReport(report(version));
    for (let offset = from; offset < to; offset++) {
      expect(() => parseReport(changed(bytes, offset, 0x80))).toThrow(expect.objectContaining({ code: "ERR_SNP_RESERVED" }));
    }
  });

  it("has no byte that parses and is lost", () => {
    const bytes = encodeReport(report(5));
    for (let offset = 0; offset < REPORT_SIZE; offset++) {
      const input = changed(bytes, offset, (bytes[offset] ?? 0) ^ 0x04);
      let output: Uint8Array;
      try {
        output = encodeReport(parseReport(input));
      } catch (error) {
        expect(error).toBeInstanceOf(SnpError);
        continue;
      }
      expect(output).toEqual(input);
    }
  });
});

describe("malformed reports", () => {
  const good = encodeReport(report(3));

  it.each<[string, string, Uint8Array]>([
    ["nothing", "ERR_SNP_LENGTH", new Uint8Array()],
    ["one byte less", "ERR_SNP_LENGTH", good.subarray(1)],
    ["one byte more", "ERR_SNP_LENGTH", concatBytes(good, Uint8Array.of(0))],
    ["version 0", "ERR_SNP_VERSION", changed(good, 0, 0)],
    ["version 1", "ERR_SNP_VERSION", changed(good, 0, 1)],
    ["version 6", "ERR_SNP_VERSION", changed(good, 0, 6)],
    ["version 3 + 2^24", "ERR_SNP_VERSION", changed(good, 3, 1)],
    ["policy bit 17 clear", "ERR_SNP_RESERVED", changed(good, 0x0a, 0x01)],
    ["policy bit 26", "ERR_SNP_RESERVED", changed(good, 0x0b, 0x04)],
    ["policy bit 63", "ERR_SNP_RESERVED", changed(good, 0x0f, 0x80)],
    ["VMPL 4", "ERR_SNP_FIELD", changed(good, 0x30, 4)],
    ["signature algorithm 0", "ERR_SNP_ALGORITHM", changed(good, 0x34, 0)],
    ["signature algorithm 2", "ERR_SNP_ALGORITHM", changed(good, 0x34, 2)],
    ["key info bit 5", "ERR_SNP_RESERVED", changed(good, 0x48, 0x20)],
    ["key info bit 31", "ERR_SNP_RESERVED", changed(good, 0x4b, 0x80)],
    ["signing key 2", "ERR_SNP_FIELD", changed(good, 0x48, 0x08)],
  ])("refuses %s", (_name, code, bytes) => {
    expect(() => parseReport(bytes)).toThrow(expect.objectContaining({ code }));
  });

  it("reads unknown platform bits: firmware adds them", () => {
    expect(parseReport(changed(good, 0x47, 0x80)).platformInfo).toBe(0x8000000000000065n);
  });

  it("reads a report that the host asked for", () => {
    expect(parseReport(changed(good, 0x30, 0xff, 0xff, 0xff, 0xff)).vmpl).toBe(0xffff_ffff);
  });

  it("lets only its own errors out, whatever the bytes", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(REPORT_SIZE - 1), fc.nat(255)), { maxLength: 8 }), fc.constantFrom(2, 3, 4, 5), (changes, version) => {
        const bytes = changed(good, 0, version);
        for (const [offset, value] of changes) bytes[offset] = value;
        try {
          expect(encodeReport(parseReport(bytes))).toEqual(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(SnpError);
        }
      }),
      { numRuns: 1000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ minLength: REPORT_SIZE, maxLength: REPORT_SIZE }), (bytes) => {
        expect(() => parseReport(bytes)).toThrow(SnpError);
      }),
    );
  });

  it.each<[string, Partial<Report>]>([
    ["a field of another length", { reportData: new Uint8Array(63) }],
    ["a number that does not fit", { guestSvn: 2 ** 32 + 4, vmpl: 4 }],
    ["a processor id in version 2", { version: 2 }],
    ["no processor id in version 3", { processor: undefined }],
    ["mitigations in version 3", { currentMitigations: 1n }],
    ["a signature above 2^576", { signature: { r: 1n << 576n, s: 0n } }],
    ["a negative signature", { signature: { r: -1n, s: 0n } }],
  ])("does not write %s", (_name, changes) => {
    expect(() => encodeReport({ ...report(3), ...changes })).toThrow(expect.objectContaining({ code: "ERR_SNP_FIELD" }));
  });

  it("has one row for every code", () => {
    for (const row of Object.values(SNP_ERRORS)) expect(row.summary).toMatch(/\.$/);
  });
});

describe("guest policy", () => {
  it("names the bits of 0x3001f", () => {
    expect(parseGuestPolicy(0x3001fn)).toEqual({
      abiMajor: 0,
      abiMinor: 31,
      smtAllowed: true,
      migrationAgentAllowed: false,
      debugAllowed: false,
      singleSocketRequired: false,
      cxlAllowed: false,
      aes256XtsRequired: false,
      raplDisabled: false,
      ciphertextHidingRequired: false,
      pageSwapDisabled: false,
    });
  });

  it("gives each defined bit a name of its own", () => {
    for (let bit = 0n; bit < 26n; bit++) expect(encodeGuestPolicy(parseGuestPolicy(1n << bit))).toBe((1n << bit) | (1n << 17n));
  });
});
