import { describe, expect, it } from "vitest";
import { chooseAccelerator, probeRom, type AcceleratorFacts } from "./accelerator.ts";

const unused = (): Promise<undefined> => Promise.reject(new Error("nothing is to be booted"));
const CAPABLE: AcceleratorFacts = { cpuInfo: "processor\t: 0\nflags\t\t: fpu vmx sse\n", hasDevice: true, probe: () => Promise.resolve(undefined) };

describe("the choice of an accelerator", () => {
  const table: readonly (readonly [string, AcceleratorFacts, string, RegExp])[] = [
    ["virtualization that answers", CAPABLE, "kvm", /^the processor has vmx, and a machine with KVM answered$/],
    ["AMD's kind of it", { ...CAPABLE, cpuInfo: "flags : a svm b" }, "kvm", /has svm/],
    ["no flag, in spite of the device", { ...CAPABLE, cpuInfo: "flags\t\t: fpu svm_lock xvmx", probe: unused }, "tcg", /neither svm nor vmx/],
    ["a flag in the wrong line", { ...CAPABLE, cpuInfo: "bugs : svm\nflags : fpu", probe: unused }, "tcg", /neither/],
    ["no processor to be seen", { ...CAPABLE, cpuInfo: "", probe: unused }, "tcg", /neither/],
    ["no device", { ...CAPABLE, hasDevice: false, probe: unused }, "tcg", /\/dev\/kvm is not there/],
    ["a machine that hangs", { ...CAPABLE, probe: () => Promise.resolve("nothing after 5000 ms") }, "tcg", /did not answer: nothing after 5000 ms/],
  ];
  it.each(table)("for %s", async (_what, facts, kind, reason) => {
    const found = await chooseAccelerator(facts);
    expect(found.kind).toBe(kind);
    expect(found.reason).toMatch(reason);
  });
});

describe("the probe's firmware", () => {
  it("jumps from where processors start to its beginning", () => {
    const rom = probeRom();
    expect(rom.length).toBe(65536);
    expect(Buffer.from(rom.subarray(0, 5)).toString("hex")).toBe("b02ae6f4f4");
    const reset = 65536 - 16;
    expect(rom[reset]).toBe(0xe9);
    expect((reset + 3 + Buffer.from(rom).readInt16LE(reset + 1)) & 0xffff).toBe(0);
  });
});
