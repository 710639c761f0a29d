import { fromHex, toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { encodeTcb, firstTcbBelow, formatTcb, formatTcbNumber, parseTcb, productOfProcessor, productOfReport, type Report, type TcbVersion } from "../index.ts";
import { testReport } from "../testdata/emulated.ts";

describe("TCB_VERSION (AMD 57230)", () => {
  it("has the microcode last and SNP before it on Milan and Genoa", () => {
    expect(parseTcb(fromHex("04000000000018db"), "Milan")).toEqual({ fmc: undefined, bootloader: 4, tee: 0, snp: 24, microcode: 219, reserved: [0, 0, 0, 0] });
  });

  it("has the FMC first on Turin", () => {
    expect(parseTcb(fromHex("0101010400000051"), "Turin")).toEqual({ fmc: 1, bootloader: 1, tee: 1, snp: 4, microcode: 0x51, reserved: [0, 0, 0] });
  });

  it.each(["Milan", "Genoa", "Turin"] as const)("loses nothing on %s", (product) => {
    expect(toHex(encodeTcb(parseTcb(fromHex("0102030405060708"), product), product))).toBe("0102030405060708");
  });

  it("refuses another length, and components of another product", () => {
    expect(() => parseTcb(new Uint8Array(7), "Milan")).toThrow(expect.objectContaining({ code: "ERR_SNP_FIELD" }));
    const turin = parseTcb(new Uint8Array(8), "Turin");
    expect(() => encodeTcb(turin, "Milan")).toThrow(expect.objectContaining({ code: "ERR_SNP_FIELD" }));
    expect(() => encodeTcb({ ...turin, fmc: 256 }, "Turin")).toThrow(expect.objectContaining({ code: "ERR_SNP_FIELD" }));
  });

  it("is compared component by component", () => {
    const tcb = (levels: Partial<TcbVersion>): TcbVersion => ({ fmc: 1, bootloader: 1, tee: 1, snp: 1, microcode: 1, reserved: [1, 1, 1], ...levels });
    expect(firstTcbBelow(tcb({}), tcb({}))).toBeUndefined();
    for (const component of ["fmc", "bootloader", "tee", "snp", "microcode"] as const) {
      expect(firstTcbBelow(tcb({ microcode: 255, [component]: 0 }), tcb({}))).toBe(component);
    }
    expect(firstTcbBelow(tcb({ reserved: [1, 0, 1] }), tcb({}))).toBe("reserved");
    expect(firstTcbBelow(tcb({ snp: 0 }), { bootloader: 1 })).toBeUndefined();
    expect(firstTcbBelow(parseTcb(new Uint8Array(8), "Milan"), { fmc: 1 })).toBe("fmc");
  });

  it("is written as THIM's number", () => {
    expect(formatTcbNumber(fromHex("04000000000018db"))).toBe("DB18000000000004");
    expect(formatTcbNumber(fromHex("0400000000000800"))).toBe("8000000000004");
  });

  it("is written for people", () => {
    expect(formatTcb(parseTcb(fromHex("0101010400000051"), "Turin"))).toBe("fmc 1, bootloader 1, tee 1, snp 4, microcode 81");
    expect(formatTcb(parseTcb(fromHex("0100020000000009"), "Milan"))).toBe("bootloader 1, tee 0, snp 0, microcode 9, reserved 2 0 0 0");
  });
});

describe("products", () => {
  it.each([
    [0x19, 0x00, "Milan"],
    [0x19, 0x0f, "Milan"],
    [0x19, 0x10, "Genoa"],
    [0x19, 0x1f, "Genoa"],
    [0x19, 0xa0, "Genoa"],
    [0x19, 0xaf, "Genoa"],
    [0x1a, 0x00, "Turin"],
    [0x1a, 0x11, "Turin"],
    [0x19, 0x20, undefined],
    [0x19, 0x9f, undefined],
    [0x19, 0xb0, undefined],
    [0x1a, 0x12, undefined],
    [0x17, 0x31, undefined],
  ] as const)("family %i, model %i is %s", (family, model, product) => {
    expect(productOfProcessor({ family, model, stepping: 0 })).toBe(product);
  });

  it("follow from the chip id where version 2 says nothing else", () => {
    const report = (chipId: Uint8Array): Report => ({ ...testReport("Milan", 2, chipId), signature: { r: 0n, s: 0n } });
    const short = new Uint8Array(64);
    short[7] = 1;
    expect(productOfReport(report(short))).toEqual({ kind: "unstated", candidates: ["Turin"] });
    expect(productOfReport(report(new Uint8Array(64)))).toEqual({ kind: "unstated", candidates: ["Milan", "Genoa"] });
    expect(productOfReport(report(new Uint8Array(64).fill(1)))).toEqual({ kind: "unstated", candidates: ["Milan", "Genoa"] });
  });
});
