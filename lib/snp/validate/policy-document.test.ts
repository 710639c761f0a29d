import { type JsonValue, parseJson } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import {
  anyReportPolicy,
  encodeReportPolicy,
  HOST_VMPL,
  MAX_REPORT_POLICY_LENGTH,
  parseReportPolicy,
  REPORT_CHECKS,
  type ReportPolicy,
  SnpError,
} from "../index.ts";
import { nearestName } from "./nearest-name.ts";

const hex = (length: number, digit: string): string => digit.repeat(length * 2);
const bytes = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

/** A policy in which each check asks for something. */
const POLICY: ReportPolicy = {
  roots: ["amd", "emulator"],
  products: ["Milan", "Genoa", "Turin"],
  reportVersions: [2, 3, 4, 5],
  signingKeys: ["vcek", "vlek"],
  chipIds: [bytes(64, 0x11), bytes(8, 0x22)],
  cspIds: ["CN=cc-us-east-2.amazonaws.com"],
  reportData: bytes(64, 0x33),
  hostData: bytes(32, 0x44),
  measurements: [bytes(48, 0x55), bytes(48, 0x66)],
  vmpls: [0, 3, HOST_VMPL],
  debug: "forbidden",
  migrationAgent: "forbidden",
  smt: "forbidden",
  singleSocket: "required",
  cxl: "forbidden",
  aes256Xts: "required",
  rapl: "forbidden",
  ciphertextHiding: "required",
  pageSwap: "forbidden",
  minimumGuestAbi: { major: 0, minor: 31 },
  guestAbiMet: "required",
  minimumFirmware: { major: 1, minor: 55 },
  provisionalFirmware: "forbidden",
  minimumTcb: { Milan: { bootloader: 4, tee: 0, snp: 24, microcode: 219 }, Turin: { fmc: 1 }, Genoa: {} },
  minimumCommittedTcb: { Milan: { snp: 24 } },
  minimumCurrentTcb: {},
  minimumLaunchTcb: { Turin: { microcode: 255 } },
  minimumGuestSvn: 0xffff_ffff,
  familyId: bytes(16, 0x77),
  imageId: bytes(16, 0x88),
  idKeyDigests: [bytes(48, 0x99)],
  authorKey: "required",
  authorKeyDigests: [bytes(48, 0xaa)],
  platformSet: ["eccEnabled", "bit6"],
  platformClear: ["tsmeEnabled", "bit63"],
  launchMitigations: (1n << 64n) - 1n,
  currentMitigations: 0n,
};

/** The document of a policy with one check written otherwise; `undefined` leaves it out. */
function document(check: string, value: JsonValue | undefined): string {
  const whole = parseJson(encodeReportPolicy(anyReportPolicy())) as Readonly<Record<string, JsonValue>>;
  return JSON.stringify({ ...whole, [check]: value });
}

function problem(text: string): { readonly code: string; readonly path: unknown; readonly message: string; readonly hint: string | undefined } {
  try {
    parseReportPolicy(text);
  } catch (error) {
    if (error instanceof SnpError) return { code: error.code, path: error.details["path"], message: error.message, hint: error.hint };
    throw error;
  }
  throw new Error("it was read");
}

describe("policy documents", () => {
  it("read as they were written, asking for all and for nothing", () => {
    expect(parseReportPolicy(encodeReportPolicy(POLICY))).toEqual(POLICY);
    expect(parseReportPolicy(encodeReportPolicy(anyReportPolicy()))).toEqual(anyReportPolicy());
    expect(encodeReportPolicy(parseReportPolicy(encodeReportPolicy(POLICY)))).toBe(encodeReportPolicy(POLICY));
  });

  it("ask for something in every check of this test, and write it as people do", () => {
    expect(Object.values(POLICY)).not.toContain("any");
    const written = parseJson(encodeReportPolicy(POLICY)) as Readonly<Record<string, unknown>>;
    expect(Object.keys(written)).toEqual(REPORT_CHECKS);
    expect(written["debug"]).toEqual({ required: "forbidden" });
    expect(written["hostData"]).toEqual({ required: hex(32, "4") });
    expect(written["vmpls"]).toEqual({ required: [0, 3, 4294967295] });
    expect(written["launchMitigations"]).toEqual({ required: "0xffffffffffffffff" });
    expect(written["minimumTcb"]).toEqual({ required: { Milan: { bootloader: 4, tee: 0, snp: 24, microcode: 219 }, Genoa: {}, Turin: { fmc: 1 } } });
    expect(written["platformSet"]).toEqual({ required: ["eccEnabled", "bit6"] });
  });

  it.each(REPORT_CHECKS)("need %s, as a requirement or as any", (check) => {
    expect(problem(document(check, undefined))).toMatchObject({ code: "ERR_SNP_POLICY_SYNTAX", path: "$", message: `report policy, $: ${check} is missing` });
    for (const value of [
      "all",
      null,
      true,
      0,
      [],
      {},
      "ANY",
      { require: "x" },
      { required: null },
      { required: "any" },
      { required: true },
      { required: 1.5 },
    ]) {
      const { code, path } = problem(document(check, value));
      expect(code).toBe("ERR_SNP_POLICY_SYNTAX");
      expect(path).toMatch(new RegExp(`^\\$\\.${check}(\\.required)?$`));
    }
  });

  it("name all that is missing at once, and what to write", () => {
    const { message, hint } = problem("{}");
    for (const check of REPORT_CHECKS) expect(message).toContain(check);
    expect(hint).toContain('"any"');
  });

  it.each<[string, string, JsonValue]>([
    ["$.reportData.required", "reportData", hex(63, "3")],
    ["$.reportData.required", "reportData", `0x${hex(63, "3")}`],
    ["$.hostData.required", "hostData", hex(32, "A")],
    ["$.hostData.required", "hostData", ""],
    ["$.measurements.required", "measurements", hex(48, "5")],
    ["$.measurements.required[1]", "measurements", [hex(48, "5"), hex(47, "5")]],
    ["$.measurements.required", "measurements", Array.from({ length: 1025 }, () => "")],
    ["$.chipIds.required[0]", "chipIds", [hex(9, "1")]],
    ["$.vmpls.required[0]", "vmpls", [4]],
    ["$.vmpls.required[0]", "vmpls", ["0"]],
    ["$.reportVersions.required[0]", "reportVersions", [1]],
    ["$.products.required[0]", "products", ["milan"]],
    ["$.roots.required[0]", "roots", [""]],
    ["$.roots.required[0]", "roots", ["a".repeat(257)]],
    ["$.debug.required", "debug", "required"],
    ["$.singleSocket.required", "singleSocket", "forbidden"],
    ["$.minimumGuestSvn.required", "minimumGuestSvn", 2 ** 32],
    ["$.minimumGuestSvn.required", "minimumGuestSvn", -1],
    ["$.minimumFirmware.required", "minimumFirmware", { major: 1 }],
    ["$.minimumFirmware.required", "minimumFirmware", "1.55"],
    ["$.minimumFirmware.required.minor", "minimumFirmware", { major: 1, minor: 256 }],
    ["$.minimumFirmware.required", "minimumFirmware", { major: 1, minor: 55, build: 1 }],
    ["$.minimumTcb.required", "minimumTcb", { snp: 24 }],
    ["$.minimumTcb.required.Milan", "minimumTcb", { Milan: { fmc: 1 } }],
    ["$.minimumTcb.required.Milan", "minimumTcb", { Milan: { reserved: 1 } }],
    ["$.minimumTcb.required.Milan.snp", "minimumTcb", { Milan: { snp: 256 } }],
    ["$.minimumTcb.required.Turin.fmc", "minimumTcb", { Turin: { fmc: "1" } }],
    ["$.platformSet.required[0]", "platformSet", ["bit64"]],
    ["$.platformSet.required[0]", "platformSet", ["bit07"]],
    ["$.launchMitigations.required", "launchMitigations", "3f"],
    ["$.launchMitigations.required", "launchMitigations", 63],
    ["$.launchMitigations.required", "launchMitigations", `0x1${hex(8, "0")}`],
  ])("refuse at %s: %s of %j", (path, check, required) => {
    expect(problem(document(check, { required }))).toMatchObject({ code: "ERR_SNP_POLICY_SYNTAX", path });
  });

  it.each([
    ["vmpl", "vmpls"],
    ["hostdata", "hostData"],
    ["measurement", "measurements"],
    ["minimumTBC", "minimumTcb"],
    ["migrationAgents", "migrationAgent"],
  ])("refuse the name %s and point to %s", (name, meant) => {
    const { path, hint, message } = problem(document(name, "any"));
    expect(path).toBe("$");
    expect(message).toContain(`"${name}"`);
    expect(hint).toBe(`Did you mean "${meant}"?`);
  });

  it("point to the nearest name inside a requirement too", () => {
    expect(problem(document("products", { required: ["milan"] })).hint).toBe('Did you mean "Milan"?');
    expect(problem(document("minimumTcb", { required: { Milan: { microcde: 1 } } })).hint).toBe('Did you mean "microcode"?');
    expect(problem(document("platformSet", { required: ["eccEnable"] })).hint).toBe('Did you mean "eccEnabled"?');
    expect(problem(document("zebra", "any")).hint).toMatch(/^The names are roots, /);
  });

  it.each([
    ["", "ERR_SNP_POLICY_SYNTAX"],
    ["[]", "ERR_SNP_POLICY_SYNTAX"],
    ["null", "ERR_SNP_POLICY_SYNTAX"],
    ['{"roots":"any","roots":"any"}', "ERR_SNP_POLICY_SYNTAX"],
    ['{"__proto__":"any"}', "ERR_SNP_POLICY_SYNTAX"],
    ["[".repeat(100), "ERR_SNP_POLICY_SYNTAX"],
    [" ".repeat(MAX_REPORT_POLICY_LENGTH + 1), "ERR_SNP_POLICY_SYNTAX"],
  ])("refuse %.40j", (text, code) => {
    expect(problem(text).code).toBe(code);
  });

  it("say line and column where the text is no JSON", () => {
    expect(() => parseReportPolicy('{\n  "roots" "any"\n}', "p.json")).toThrow(/^p\.json:2:11: /);
  });

  it("keep long values out of messages", () => {
    expect(problem(document("hostData", { required: "x".repeat(100_000) })).message.length).toBeLessThan(200);
    expect(problem(document("x".repeat(100_000), "any")).message.length).toBeLessThan(200);
  });

  it.each<[string, Partial<ReportPolicy>]>([
    ["a measurement of another length", { measurements: [bytes(47, 1)] }],
    ["a mask of more than 64 bits", { launchMitigations: 1n << 64n }],
    ["a negative mask", { currentMitigations: -1n }],
    ["a level that is no byte", { minimumTcb: { Milan: { snp: 256 } } }],
    ["an FMC of Milan", { minimumTcb: { Milan: { fmc: 1 } } }],
    ["a bit that is none", { platformClear: ["bit64"] }],
  ])("are not written with %s", (_name, change) => {
    expect(() => encodeReportPolicy({ ...POLICY, ...change })).toThrow(expect.objectContaining({ code: "ERR_SNP_POLICY_SYNTAX" }));
  });
});

describe("the nearest name", () => {
  it("is the one with the fewest changes, if they are few", () => {
    const names = ["debug", "roots", "hostData"];
    expect(nearestName("debgu", names)).toBeUndefined();
    expect(nearestName("debig", names)).toBe("debug");
    expect(nearestName("HOSTDATA", names)).toBe("hostData");
    expect(nearestName("hstDta", names)).toBe("hostData");
    expect(nearestName("x".repeat(65), ["x".repeat(65)])).toBeUndefined();
    expect(nearestName("", names)).toBeUndefined();
  });
});
