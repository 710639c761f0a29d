import { concatBytes, toHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { testReport } from "../testdata/emulated.ts";
import {
  encodeGuestPolicy,
  encodeReport,
  GUEST_POLICY_BITS,
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

  /**
   * What becomes of a report of this version in which one bit is changed, for every bit: rows of [first bit, expectation], each up to the next row. Bit n of a little-endian number at
   * offset o is bit 8 o + n here. "free" means that it is read, and written as it was.
   */
  const bits = (version: ReportVersion): readonly (readonly [number, string])[] => {
    const at = (offset: number, bit = 0): number => offset * 8 + bit;
    return [
      [at(0x000), "version"],
      [at(0x000, 3), "ERR_SNP_VERSION"],
      [at(0x004), "free"],
      [at(0x008, 17), "ERR_SNP_RESERVED"],
      [at(0x008, 18), "free"],
      [at(0x008, 26), "ERR_SNP_RESERVED"],
      [at(0x010), "free"],
      [at(0x030, 2), "ERR_SNP_FIELD"],
      [at(0x034), "ERR_SNP_ALGORITHM"],
      [at(0x038), "free"],
      [at(0x048, 3), "ERR_SNP_FIELD"],
      [at(0x048, 5), "ERR_SNP_RESERVED"],
      [at(0x050), "free"],
      [at(0x188), version === 2 ? "ERR_SNP_RESERVED" : "free"],
      [at(0x18b), "ERR_SNP_RESERVED"],
      [at(0x1a0), "free"],
      [at(0x1eb), "ERR_SNP_RESERVED"],
      [at(0x1ec), "free"],
      [at(0x1ef), "ERR_SNP_RESERVED"],
      [at(0x1f0), "free"],
      [at(0x1f8), version === 5 ? "free" : "ERR_SNP_RESERVED"],
      [at(0x208), "ERR_SNP_RESERVED"],
      [at(0x2a0), "free"],
      [at(0x330), "ERR_SNP_RESERVED"],
      [at(REPORT_SIZE), "end"],
    ];
  };
  it.each([2, 3, 4, 5] as const)("accounts for every single bit of version %i", (version) => {
    const bytes = encodeReport(report(version));
    const rows = bits(version);
    const wrong: string[] = [];
    const counts: Record<string, number> = {};
    for (const [index, [first, expected]] of rows.entries()) {
      for (let bit = first; bit < (rows[index + 1]?.[0] ?? first); bit++) {
        const input = changed(bytes, bit >> 3, (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7)));
        let outcome: string;
        try {
          outcome = toHex(encodeReport(parseReport(input))) === toHex(input) ? "free" : "lost";
        } catch (error) {
          outcome = error instanceof SnpError ? error.code : String(error);
        }
        counts[outcome] = (counts[outcome] ?? 0) + 1;
        // The lowest bits of VERSION lead to other versions, which read if all that they reserve is zero.
        if (outcome !== expected && (expected !== "version" || !["free", "ERR_SNP_VERSION", "ERR_SNP_RESERVED"].includes(outcome))) {
          wrong.push(`0x${(bit >> 3).toString(16)} bit ${bit & 7}: ${outcome}, expected ${expected}`);
        }
      }
    }
    expect(wrong).toEqual([]);
    expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBe(REPORT_SIZE * 8);
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
    ["a guest SVN of 33 bits", { guestSvn: 2 ** 32 + 7 }],
    ["a guest SVN below zero", { guestSvn: -1 }],
    ["a guest SVN that is no integer", { guestSvn: 7.5 }],
    ["a policy of 65 bits", { policy: (1n << 64n) | 0x3001fn }],
    ["a VMPL of 33 bits", { vmpl: 2 ** 32 }],
    ["VMPL 4", { vmpl: 4 }],
    ["platform bits beyond the 64th", { platformInfo: 1n << 64n }],
    ["platform bits below zero", { platformInfo: -1n }],
    ["mitigation bits beyond the 64th", { version: 5, launchMitigations: 1n << 64n }],
    ["a stepping of 9 bits", { processor: { family: 0x19, model: 1, stepping: 256 } }],
    ["a firmware version of 9 bits", { currentFirmware: { major: 257, minor: 55, build: 29 } }],
    ["a firmware build below zero", { committedFirmware: { major: 1, minor: 55, build: -1 } }],
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
    const names = Object.entries(GUEST_POLICY_BITS).map(([name, bit]) => [name, 2 ** bit] as const);
    expect(names.map(([name, raw]) => Object.entries(parseGuestPolicy(BigInt(raw))).find(([, value]) => value === true)?.[0] === name)).not.toContain(false);
    expect(names).toHaveLength(9);
  });

  it("does not cut an ABI number down to its byte", () => {
    const view = parseGuestPolicy(0x3001fn);
    for (const change of [{ abiMinor: 256 }, { abiMajor: 256 }, { abiMinor: -1 }, { abiMajor: 0.5 }]) {
      expect(() => encodeGuestPolicy({ ...view, ...change })).toThrow(expect.objectContaining({ code: "ERR_SNP_FIELD" }));
    }
  });
});
