import { describe, expect, it } from "vitest";
import { CPU_TYPES, cpuSignature, cpuSignatureOf, vmsaPage, type VcpuState } from "../index.ts";

const STATE: VcpuState = { vmm: "qemu", instructionPointer: 0xffff_fff0, boot: true, cpuSignature: 0xa00f11, guestFeatures: 1n };

/** What is not zero in a page, as offset and value of 8 bytes. */
function words(page: Uint8Array): Record<string, string> {
  const view = new DataView(page.buffer, page.byteOffset, page.length);
  const found: Record<string, string> = {};
  for (let at = 0; at < page.length; at += 8) {
    const value = view.getBigUint64(at, true);
    if (value !== 0n) found[at.toString(16)] = value.toString(16);
  }
  return found;
}

/** The state of x86 at reset, as QEMU has it. */
const RESET = {
  "0": "ffff00930000",
  "10": "ffff009bf000",
  "18": "ffff0000",
  "20": "ffff00930000",
  "30": "ffff00930000",
  "40": "ffff00930000",
  "50": "ffff00930000",
  "60": "ffff00000000",
  "70": "ffff00820000",
  "80": "ffff00000000",
  "90": "ffff008b0000",
  d0: "1000",
  "148": "40",
  "158": "10",
  "160": "400",
  "168": "ffff0ff0",
  "170": "2",
  "178": "fff0",
  "268": "7040600070406",
  "310": "a00f11",
  "3b0": "1",
  "3e8": "1",
  "408": "1f80",
  "410": "37f",
};

function without(record: Record<string, string>, ...names: readonly string[]): Record<string, string> {
  return Object.fromEntries(Object.entries(record).filter(([name]) => !names.includes(name)));
}

describe("VMSA (AMD64 APM volume 2, table B-4)", () => {
  it("of QEMU is x86 at reset", () => {
    expect(vmsaPage(STATE)).toHaveLength(4096);
    expect(words(vmsaPage(STATE))).toEqual(RESET);
  });

  it("of another vCPU starts where the reset block says", () => {
    expect(words(vmsaPage({ ...STATE, boot: false, instructionPointer: 0x80_b004, guestFeatures: 0x21n }))).toEqual({
      ...RESET,
      "18": "800000",
      "178": "b004",
      "3b0": "21",
    });
  });

  it("of EC2 differs for the first vCPU", () => {
    const ec2 = { ...without(RESET, "408", "410"), "20": "ffff00920000", "90": "ffff00830000", "310": "600" };
    expect(words(vmsaPage({ ...STATE, vmm: "ec2" }))).toEqual({ ...ec2, "10": "ffff009af000" });
    expect(words(vmsaPage({ ...STATE, vmm: "ec2", boot: false }))).toEqual(ec2);
  });

  it("of GCE has a PAT of its own", () => {
    expect(words(vmsaPage({ ...STATE, vmm: "gce" }))).toEqual({ ...without(RESET, "408", "410"), "268": "70106", "310": "600" });
  });

  it.each<[string, Partial<VcpuState>]>([
    ["an instruction pointer above 2^32", { instructionPointer: 2 ** 32 }],
    ["half an instruction", { instructionPointer: 0.5 }],
    ["a negative signature", { cpuSignature: -1 }],
    ["features without SNP", { guestFeatures: 0x20n }],
    ["features above 2^64", { guestFeatures: (1n << 64n) + 1n }],
    ["negative features", { guestFeatures: -1n }],
  ])("is refused with %s", (_name, changes) => {
    expect(() => vmsaPage({ ...STATE, ...changes })).toThrow(expect.objectContaining({ code: "ERR_SNP_LAUNCH" }));
  });
});

describe("CPUID signature", () => {
  it.each([
    ["EPYC", 0x800f12],
    ["EPYC-v4", 0x800f12],
    ["EPYC-IBPB", 0x800f12],
    ["EPYC-Rome", 0x830f10],
    ["epyc-milan", 0xa00f11],
    ["EPYC-Milan-v2", 0xa00f11],
    ["EPYC-Genoa", 0xa10f10],
    ["EPYC-Turin", 0xb00f00],
  ])("of %s is %i", (type, signature) => {
    expect(cpuSignatureOf(type)).toBe(signature);
  });

  it("is known for every name that is listed", () => {
    expect(CPU_TYPES.every((type) => cpuSignatureOf(type) > 0x800f00)).toBe(true);
  });

  it("of a family up to 15 has no extended family", () => {
    expect(cpuSignature(6, 0x8f, 8)).toBe(0x806f8);
  });

  it("of an unknown name is refused with the known ones", () => {
    expect(() => cpuSignatureOf("EPYC-Naples")).toThrow(
      expect.objectContaining({
        code: "ERR_SNP_LAUNCH",
        hint: expect.stringContaining("EPYC-Milan, ") as unknown,
        message: expect.stringContaining("EPYC-Naples") as unknown,
      }),
    );
  });

  it.each([
    [271, 0, 0],
    [25, 256, 0],
    [25, 0, 16],
    [-1, 0, 0],
    [25, 1.5, 0],
  ])("of family %d, model %d, stepping %d cannot be stated", (family, model, stepping) => {
    expect(() => cpuSignature(family, model, stepping)).toThrow(expect.objectContaining({ code: "ERR_SNP_LAUNCH" }));
  });
});
