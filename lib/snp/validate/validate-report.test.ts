import { describe, expect, it } from "vitest";
import { TEST_CSP_ID, testProcessor, testTcb, VLEK_KEY_INFO } from "../testdata/emulated.ts";
import {
  anyReportPolicy,
  checkReport,
  HOST_VMPL,
  type Report,
  REPORT_CHECKS,
  type ReportPolicy,
  type TcbVersion,
  validateReport,
  type VerifiedReport,
  verifyReport,
} from "../index.ts";

const milan = testProcessor("Milan");
const turin = testProcessor("Turin");
const ANY = anyReportPolicy();

const filled = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

/** Bits 16 to 25 of POLICY as strict as they go: SMT, migration, debug and CXL off, the others on; ABI 1.31. */
const STRICT = 0x3d2_011fn;

/** Every field says what a strict Turin report has. */
const EXACT: ReportPolicy = {
  roots: ["emulator"],
  products: ["Milan", "Turin"],
  reportVersions: [4, 5],
  signingKeys: ["vcek"],
  chipIds: [filled(64, 1), turin.chipId],
  cspIds: "any",
  reportData: filled(64, 3),
  hostData: filled(32, 5),
  measurements: [filled(48, 9), filled(48, 4)],
  vmpls: [0, 1],
  debug: "forbidden",
  migrationAgent: "forbidden",
  smt: "forbidden",
  singleSocket: "required",
  cxl: "forbidden",
  aes256Xts: "required",
  rapl: "forbidden",
  ciphertextHiding: "required",
  pageSwap: "forbidden",
  minimumGuestAbi: { major: 1, minor: 31 },
  guestAbiMet: "required",
  minimumFirmware: { major: 1, minor: 55 },
  provisionalFirmware: "forbidden",
  minimumTcb: { Turin: { fmc: 1, bootloader: 4, tee: 0, snp: 24, microcode: 219 } },
  minimumCommittedTcb: { Turin: { snp: 24 } },
  minimumCurrentTcb: { Turin: { snp: 24 } },
  minimumLaunchTcb: { Turin: { snp: 24 } },
  minimumGuestSvn: 7,
  familyId: filled(16, 1),
  imageId: filled(16, 2),
  idKeyDigests: [filled(48, 6)],
  authorKey: "required",
  authorKeyDigests: [filled(48, 7)],
  platformSet: ["smtEnabled", "bit6"],
  platformClear: ["tsmeEnabled", "tioEnabled", "bit63"],
  launchMitigations: 0x3fn,
  currentMitigations: 0x7fn,
};

function verified(changes: Partial<Report> = {}): VerifiedReport {
  return verifyReport(turin.evidence({ policy: STRICT, ...changes }));
}

/** The strict policy with one bit turned. */
function turned(bit: number): Partial<Report> {
  return { policy: STRICT ^ (1n << BigInt(bit)) };
}

function outcomes(report: VerifiedReport, policy: ReportPolicy): Readonly<Record<string, string>> {
  return Object.fromEntries(checkReport(report, policy).map(({ check, outcome }) => [check, outcome]));
}

describe("validateReport", () => {
  it("gives back the report with the policy that it met", () => {
    const validated = validateReport(verified(), EXACT);
    expect(validated.kind).toBe("validated-report");
    expect(validated.policy).toBe(EXACT);
    expect(validated.root.name).toBe("emulator");
  });

  it("checks nothing where the policy says any", () => {
    const worst = verified({ policy: 0xf001fn, vmpl: HOST_VMPL, committedTcb: testTcb("Turin", { snp: 1 }), platformInfo: 0n, chipId: new Uint8Array(64) });
    expect(validateReport(worst, ANY).kind).toBe("validated-report");
    expect(new Set(Object.values(outcomes(worst, ANY)))).toEqual(new Set(["any"]));
  });

  const tcbs = ["minimumTcb", "minimumCommittedTcb", "minimumCurrentTcb", "minimumLaunchTcb"] as const;
  const components = ["fmc", "bootloader", "tee", "snp", "microcode"] as const;
  const levels: Readonly<Record<(typeof components)[number], number>> = { fmc: 1, bootloader: 4, tee: 0, snp: 24, microcode: 219 };
  const masked: Partial<Report> = { chipId: new Uint8Array(64) };
  const cases: readonly (readonly [keyof ReportPolicy, Partial<ReportPolicy>, Partial<Report>])[] = [
    ["roots", { roots: ["amd"] }, {}],
    ["roots", { roots: [] }, {}],
    ["products", { products: ["Milan", "Genoa"] }, {}],
    ["products", { products: [] }, {}],
    ["reportVersions", { reportVersions: [2, 3, 4] }, {}],
    ["signingKeys", { signingKeys: ["vlek"] }, {}],
    ["signingKeys", { signingKeys: [] }, {}],
    ["chipIds", { chipIds: [filled(64, 1)] }, {}],
    ["chipIds", { chipIds: [milan.chipId.subarray(0, 9)] }, {}],
    ["chipIds", { chipIds: [filled(64, 0), filled(8, 0)] }, masked],
    ["cspIds", { cspIds: [TEST_CSP_ID, ""] }, {}],
    ["reportData", { reportData: filled(64, 4) }, {}],
    ["reportData", { reportData: filled(32, 3) }, {}],
    ["hostData", { hostData: filled(32, 6) }, {}],
    ["measurements", { measurements: [filled(48, 5)] }, {}],
    ["measurements", { measurements: [] }, {}],
    ["vmpls", { vmpls: [0] }, {}],
    ["vmpls", { vmpls: [] }, {}],
    ["vmpls", {}, { vmpl: HOST_VMPL }],
    ["debug", {}, turned(19)],
    ["migrationAgent", {}, turned(18)],
    ["smt", {}, turned(16)],
    ["singleSocket", {}, turned(20)],
    ["cxl", {}, turned(21)],
    ["aes256Xts", {}, turned(22)],
    ["rapl", {}, turned(23)],
    ["ciphertextHiding", {}, turned(24)],
    ["pageSwap", {}, turned(25)],
    ["minimumGuestAbi", { minimumGuestAbi: { major: 1, minor: 32 } }, {}],
    ["minimumGuestAbi", { minimumGuestAbi: { major: 2, minor: 0 } }, {}],
    ["guestAbiMet", {}, { policy: STRICT | 0x20n | 0x1fn }],
    ["guestAbiMet", {}, { policy: (STRICT & ~0xffffn) | 0x200n }],
    ["minimumFirmware", { minimumFirmware: { major: 1, minor: 56 } }, {}],
    ["minimumFirmware", { minimumFirmware: { major: 2, minor: 0 } }, {}],
    ["provisionalFirmware", { minimumCommittedTcb: "any" }, { committedTcb: testTcb("Turin", { snp: 23 }) }],
    ["provisionalFirmware", {}, { committedFirmware: { major: 1, minor: 54, build: 29 } }],
    ["provisionalFirmware", {}, { committedFirmware: { major: 1, minor: 55, build: 28 } }],
    ["provisionalFirmware", {}, { committedFirmware: { major: 0, minor: 55, build: 29 } }],
    ...tcbs.flatMap((check) =>
      components.map((component): readonly [keyof ReportPolicy, Partial<ReportPolicy>, Partial<Report>] => [
        check,
        { [check]: { Turin: { [component]: levels[component] + 1 } } },
        {},
      ]),
    ),
    ...tcbs.map((check): readonly [keyof ReportPolicy, Partial<ReportPolicy>, Partial<Report>] => [check, { [check]: { Milan: {} } }, {}]),
    ["minimumCommittedTcb", { provisionalFirmware: "any" }, { committedTcb: testTcb("Turin", { snp: 23 }) }],
    ["minimumLaunchTcb", {}, { launchTcb: testTcb("Turin", { snp: 23 }) }],
    ["minimumGuestSvn", { minimumGuestSvn: 8 }, {}],
    ["familyId", { familyId: filled(16, 0) }, {}],
    ["imageId", { imageId: filled(16, 0) }, {}],
    ["idKeyDigests", { idKeyDigests: [filled(48, 0)] }, {}],
    ["authorKey", { authorKeyDigests: "any" }, { keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vcek" } }],
    ["authorKeyDigests", { authorKeyDigests: [] }, {}],
    ["authorKeyDigests", { authorKeyDigests: [filled(48, 6)] }, {}],
    // Without an author key the field is no digest, whatever stands in it.
    ["authorKeyDigests", { authorKey: "any" }, { keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vcek" } }],
    ["platformSet", { platformSet: ["smtEnabled", "tsmeEnabled"] }, {}],
    ["platformSet", { platformSet: ["bit63"] }, {}],
    ["platformClear", { platformClear: ["tsmeEnabled", "eccEnabled"] }, {}],
    ["platformClear", { platformClear: ["bit6"] }, {}],
    ["launchMitigations", { launchMitigations: 0x40n }, {}],
    ["currentMitigations", { currentMitigations: 0x80n }, {}],
    [
      "launchMitigations",
      { launchMitigations: 1n, reportVersions: "any", currentMitigations: "any" },
      { version: 4, launchMitigations: 0n, currentMitigations: 0n },
    ],
    // Version 4 has no vectors. Even nothing asked of them is not met: the policy thought that it asked.
    [
      "currentMitigations",
      { currentMitigations: 0n, reportVersions: "any", launchMitigations: "any" },
      { version: 4, launchMitigations: 0n, currentMitigations: 0n },
    ],
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
    expect(new Set(cases.map(([check]) => check))).toEqual(new Set(REPORT_CHECKS));
  });

  it("knows a masked chip by its VCEK, a VLEK's by the report, and a provider by its id", () => {
    const named: ReportPolicy = { ...ANY, chipIds: [turin.chipId.subarray(0, 8)] };
    expect(validateReport(verified(), named).kind).toBe("validated-report");
    expect(validateReport(verified({ chipId: new Uint8Array(64) }), named).kind).toBe("validated-report");
    const vlek = verifyReport({ ...turin.evidence({ keyInfo: VLEK_KEY_INFO }), certificates: turin.chainOf({ kind: "vlek" }) });
    expect(validateReport(vlek, { ...named, signingKeys: ["vlek"], cspIds: [TEST_CSP_ID] }).kind).toBe("validated-report");
    const masked = verifyReport({ ...turin.evidence({ keyInfo: VLEK_KEY_INFO, chipId: new Uint8Array(64) }), certificates: turin.chainOf({ kind: "vlek" }) });
    expect(() => validateReport(masked, { ...named, chipIds: [new Uint8Array(64)] })).toThrow(/found a masked chip id/);
    expect(() => validateReport(vlek, { ...ANY, cspIds: ["CN=other"] })).toThrow(/cspIds: found "CN=cc-test.example", expected "CN=other"/);
  });

  it("says which level was asked and found", () => {
    expect(() => validateReport(verified(), { ...ANY, minimumTcb: { Turin: { fmc: 2, snp: 1 } } })).toThrow(
      "report policy, minimumTcb: found REPORTED_TCB fmc 1, bootloader 4, tee 0, snp 24, microcode 219 of Turin, expected fmc of at least 2, snp of at least 1",
    );
    expect(() => validateReport(verified(), { ...ANY, minimumTcb: {} })).toThrow(/expected nothing at all/);
  });

  it("reads CURRENT, COMMITTED and LAUNCH from their own fields", () => {
    const low = (field: keyof Report): VerifiedReport => verified({ [field]: testTcb("Turin", { bootloader: 3 }) });
    const least: Pick<TcbVersion, "bootloader"> = { bootloader: 4 };
    const policy: ReportPolicy = {
      ...ANY,
      minimumTcb: { Turin: least },
      minimumCommittedTcb: { Turin: least },
      minimumCurrentTcb: { Turin: least },
      minimumLaunchTcb: { Turin: least },
    };
    const unmet = (report: VerifiedReport): readonly string[] =>
      checkReport(report, policy)
        .filter(({ outcome }) => outcome === "unmet")
        .map(({ check }) => check);
    expect(unmet(low("committedTcb"))).toEqual(["minimumCommittedTcb"]);
    expect(unmet(low("launchTcb"))).toEqual(["minimumLaunchTcb"]);
    const raised = verified({ currentTcb: testTcb("Turin", { bootloader: 5 }) });
    expect(unmet(raised)).toEqual([]);
    expect(checkReport(raised, { ...ANY, minimumCurrentTcb: { Turin: { bootloader: 5 } } }).some(({ outcome }) => outcome === "unmet")).toBe(false);
  });

  it("accepts newer firmware of a higher major version with a lower minor one", () => {
    expect(validateReport(verified(), { ...ANY, minimumFirmware: { major: 0, minor: 99 }, minimumGuestAbi: { major: 0, minor: 99 } }).kind).toBe(
      "validated-report",
    );
  });
});

describe("checkReport", () => {
  it("tells all checks in order, with what was found and required", () => {
    const results = checkReport(verified(), EXACT);
    expect(results.map(({ check }) => check)).toEqual(REPORT_CHECKS);
    expect(results.filter(({ outcome }) => outcome !== "met").map(({ check }) => check)).toEqual(["cspIds"]);
    const of = (check: string): unknown => results.find((result) => result.check === check);
    expect(of("cspIds")).toEqual({ check: "cspIds", outcome: "any", found: "no provider (VCEK)", required: "any" });
    expect(of("debug")).toEqual({
      check: "debug",
      outcome: "met",
      found: "a guest policy that forbids debugging",
      required: "a guest policy that forbids debugging",
    });
    expect(of("platformSet")).toMatchObject({ found: "0x65 (smtEnabled, eccEnabled, aliasCheckComplete, bit6)", required: "smtEnabled, bit6 set" });
    expect(of("vmpls")).toMatchObject({ found: "VMPL 1", required: "VMPL 0 or VMPL 1" });
    expect(of("guestAbiMet")).toMatchObject({ found: "firmware 1.55", required: "at least ABI 1.31 of the guest's policy" });
  });

  it("goes on after one that is not met", () => {
    const results = outcomes(verified({ vmpl: HOST_VMPL, ...turned(19) }), EXACT);
    expect(Object.entries(results).filter(([, outcome]) => outcome === "unmet")).toEqual([
      ["vmpls", "unmet"],
      ["debug", "unmet"],
    ]);
  });

  it("refuses a policy that leaves a check out, or has one that there is not", () => {
    for (const check of REPORT_CHECKS) {
      const { [check]: _, ...partial } = EXACT;
      // @ts-expect-error -- a field is missing: the types say so, and JavaScript callers are told
      const forgotten: ReportPolicy = partial;
      expect(() => checkReport(verified(), forgotten)).toThrow(
        expect.objectContaining({ code: "ERR_SNP_POLICY_SYNTAX", details: { missing: [check], unknown: [] } }),
      );
    }
    const misspelt = { ...EXACT, vmpl: [0] };
    expect(() => validateReport(verified(), misspelt)).toThrow(/vmpl is no check/);
    const badBit: ReportPolicy = { ...ANY, platformSet: ["bit64"] };
    expect(() => checkReport(verified(), badBit)).toThrow(expect.objectContaining({ code: "ERR_SNP_POLICY_SYNTAX" }));
  });
});
