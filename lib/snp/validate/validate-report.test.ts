import { describe, expect, it } from "vitest";
import { testProcessor, testTcb } from "../testdata/emulated.ts";
import { type Report, type ReportPolicy, validateReport, type VerifiedReport, verifyReport } from "../index.ts";

const milan = testProcessor("Milan");
const turin = testProcessor("Turin");

const ANY: ReportPolicy = {
  roots: "any",
  reportData: "any",
  hostData: "any",
  measurements: "any",
  vmpls: "any",
  debug: "any",
  migrationAgent: "any",
  smt: "any",
  minimumTcb: "any",
  minimumFirmware: "any",
  provisionalFirmware: "any",
  minimumGuestSvn: "any",
  familyId: "any",
  imageId: "any",
  idKeyDigests: "any",
  authorKeyDigests: "any",
  mitigations: "any",
};

const filled = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

/** Every field says what the test report has. */
const EXACT: ReportPolicy = {
  roots: ["emulator"],
  reportData: filled(64, 3),
  hostData: filled(32, 5),
  measurements: [filled(48, 9), filled(48, 4)],
  vmpls: [0, 1],
  debug: "forbidden",
  migrationAgent: "forbidden",
  smt: "any",
  minimumTcb: { Milan: { bootloader: 4, tee: 0, snp: 24, microcode: 219 } },
  minimumFirmware: { major: 1, minor: 55 },
  provisionalFirmware: "forbidden",
  minimumGuestSvn: 7,
  familyId: filled(16, 1),
  imageId: filled(16, 2),
  idKeyDigests: [filled(48, 6)],
  authorKeyDigests: [filled(48, 7)],
  mitigations: "any",
};

function verified(changes: Partial<Report> = {}, processor = milan): VerifiedReport {
  return verifyReport(processor.evidence(changes));
}

describe("validateReport", () => {
  it("gives back the report with the policy that it met", () => {
    const validated = validateReport(verified(), EXACT);
    expect(validated.kind).toBe("validated-report");
    expect(validated.policy).toBe(EXACT);
    expect(validated.root.name).toBe("emulator");
  });

  it("checks nothing where the policy says any", () => {
    const worst = { policy: 0xf001fn, vmpl: 0xffff_ffff, committedTcb: testTcb("Milan", { snp: 1 }) };
    expect(validateReport(verified(worst), ANY).kind).toBe("validated-report");
  });

  const cases: readonly (readonly [keyof ReportPolicy, Partial<ReportPolicy>, Partial<Report>])[] = [
    ["roots", { roots: ["amd"] }, {}],
    ["roots", { roots: [] }, {}],
    ["reportData", { reportData: filled(64, 4) }, {}],
    ["reportData", { reportData: filled(32, 3) }, {}],
    ["hostData", { hostData: filled(32, 6) }, {}],
    ["measurements", { measurements: [filled(48, 5)] }, {}],
    ["measurements", { measurements: [] }, {}],
    ["vmpls", { vmpls: [0] }, {}],
    ["vmpls", { vmpls: [] }, {}],
    ["debug", {}, { policy: 0xb001fn }],
    ["migrationAgent", {}, { policy: 0x7001fn }],
    ["smt", { smt: "forbidden" }, {}],
    ["minimumTcb", { minimumTcb: { Milan: { bootloader: 5 } } }, {}],
    ["minimumTcb", { minimumTcb: { Milan: { tee: 1 } } }, {}],
    ["minimumTcb", { minimumTcb: { Milan: { snp: 25 } } }, {}],
    ["minimumTcb", { minimumTcb: { Milan: { microcode: 220 } } }, {}],
    ["minimumTcb", { minimumTcb: { Genoa: {} } }, {}],
    ["minimumFirmware", { minimumFirmware: { major: 1, minor: 56 } }, {}],
    ["minimumFirmware", { minimumFirmware: { major: 2, minor: 0 } }, {}],
    ["provisionalFirmware", {}, { committedTcb: testTcb("Milan", { snp: 23 }) }],
    ["provisionalFirmware", {}, { committedFirmware: { major: 1, minor: 54, build: 29 } }],
    ["provisionalFirmware", {}, { committedFirmware: { major: 1, minor: 55, build: 28 } }],
    ["minimumGuestSvn", { minimumGuestSvn: 8 }, {}],
    ["familyId", { familyId: filled(16, 0) }, {}],
    ["imageId", { imageId: filled(16, 0) }, {}],
    ["idKeyDigests", { idKeyDigests: [filled(48, 0)] }, {}],
    ["authorKeyDigests", { authorKeyDigests: [] }, {}],
    ["mitigations", { mitigations: 1n }, {}],
  ];
  it.each(cases)("names %s when it fails", (check, policy, changes) => {
    const report = verified(changes);
    expect(() => validateReport(report, { ...EXACT, ...policy })).toThrow(
      expect.objectContaining({ code: "ERR_SNP_POLICY", details: expect.objectContaining({ check }) as object }),
    );
    // And by nothing else: the same report passes without that check.
    expect(validateReport(report, { ...EXACT, ...policy, [check]: "any" }).kind).toBe("validated-report");
  });

  it("covers every check by a case", () => {
    expect(new Set(cases.map(([check]) => check))).toEqual(new Set(Object.keys(ANY)));
  });

  it("wants mitigation bits in both vectors", () => {
    // The test report has launch 0x3f and current 0x7f.
    expect(validateReport(verified({}, turin), { ...ANY, mitigations: 0x3fn }).kind).toBe("validated-report");
    expect(() => validateReport(verified({}, turin), { ...ANY, mitigations: 0x40n })).toThrow(/0x40/);
    expect(validateReport(verified({}, turin), { ...ANY, minimumTcb: { Turin: { fmc: 1 } } }).kind).toBe("validated-report");
    expect(() => validateReport(verified({}, turin), { ...ANY, minimumTcb: { Turin: { fmc: 2 } } })).toThrow(/fmc of at least 2/);
  });

  it("accepts newer firmware of a higher major version with a lower minor one", () => {
    expect(validateReport(verified(), { ...ANY, minimumFirmware: { major: 0, minor: 99 } }).kind).toBe("validated-report");
  });
});
