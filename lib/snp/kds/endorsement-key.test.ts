import { fromHex, toHex } from "@sealpod/core";
import { encodeIa5String, encodeInteger, encodeOctetString, type Extension, OID } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { testProcessor, testTcb } from "../testdata/emulated.ts";
import {
  AMD_OID,
  azureCachePath,
  chainUrl,
  encodeThim,
  encodeVcekExtensions,
  type EndorsementKey,
  parseEndorsementKey,
  parseThim,
  parseThimBase64,
  vcekUrl,
} from "../index.ts";

const milan = testProcessor("Milan");
const turin = testProcessor("Turin");
const hwId = milan.chipId;
const MILAN = encodeVcekExtensions({ productName: "Milan-B0", product: "Milan", tcb: testTcb("Milan"), hwId });
const TURIN = encodeVcekExtensions({ productName: "Turin", product: "Turin", tcb: testTcb("Turin"), hwId: hwId.subarray(0, 8) });

function parse(extensions: readonly Extension[], processor = milan): EndorsementKey {
  return parseEndorsementKey(processor.withVcek(extensions).endorsementKey);
}

function replaced(extensions: readonly Extension[], oid: string, value?: Uint8Array): readonly Extension[] {
  return extensions.flatMap((extension) => (extension.oid !== oid ? [extension] : value === undefined ? [] : [{ ...extension, value }]));
}

function named(extensions: readonly Extension[], productName: string): readonly Extension[] {
  return replaced(extensions, AMD_OID.productName, encodeIa5String(productName));
}

function added(extensions: readonly Extension[], oid: string, value: Uint8Array): readonly Extension[] {
  return [...extensions, { oid, critical: false, value }];
}

const VLEK = added(named(replaced(MILAN, AMD_OID.hwId), "Milan"), AMD_OID.cspId, encodeIa5String("CN=cc-us-east-2.amazonaws.com"));

describe("AMD certificate extensions (AMD 57230)", () => {
  it("reads a VCEK of Milan", () => {
    expect(parse(MILAN)).toMatchObject({ kind: "vcek", product: "Milan", productName: "Milan-B0", hwId, cspId: undefined });
    expect(toHex(parse(MILAN).tcbBytes)).toBe("04000000000018db");
  });

  it("reads a VCEK of Turin, with FMC and 8 bytes of id", () => {
    const key = parse(TURIN, turin);
    expect(key.hwId).toHaveLength(8);
    expect(key.tcb.fmc).toBe(1);
    expect(TURIN.map(({ oid }) => oid)).not.toContain(AMD_OID.spl4);
  });

  it("reads levels above 127 as the INTEGERs that they are", () => {
    expect(toHex(MILAN.find(({ oid }) => oid === AMD_OID.ucodeSpl)?.value ?? new Uint8Array())).toBe("020200db");
    expect(parse(MILAN).tcb.microcode).toBe(0xdb);
  });

  it("reads a VLEK", () => {
    expect(parse(VLEK)).toMatchObject({ kind: "vlek", productName: "Milan", hwId: undefined, cspId: "CN=cc-us-east-2.amazonaws.com" });
  });

  it.each(["02", "04", "0440", "30"])("decides by length whether the id is wrapped, not by its first bytes %s", (head) => {
    const id = fromHex(head.padEnd(128, "7"));
    expect(parse(replaced(MILAN, AMD_OID.hwId, id)).hwId).toEqual(id);
    expect(parse(replaced(MILAN, AMD_OID.hwId, encodeOctetString(id))).hwId).toEqual(id);
  });

  it.each(["Milan", "Milan-B0", "Milan-B1", "Milan-A10"])("reads the product name %s", (productName) => {
    expect(parse(named(MILAN, productName))).toMatchObject({ product: "Milan", productName });
  });

  it.each([
    "",
    "-B0",
    "Milano",
    "milan",
    "MilanB0",
    "Milan-",
    "Milan-B",
    "Milan-0",
    "Milan-b0",
    "Milan-B0-B0",
    "Milan-B0 ",
    "Milan-B100",
    "Milan-anything",
    "Milan-B0\n",
  ])("refuses the product name %j", (productName) => {
    expect(() => parse(named(MILAN, productName))).toThrow(expect.objectContaining({ code: "ERR_SNP_PRODUCT" }));
  });

  it.each<[string, string, readonly Extension[]]>([
    ["no product name", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.productName)],
    ["an unknown product", "ERR_SNP_PRODUCT", named(MILAN, "Rome-B0")],
    ["a VLEK with a stepping", "ERR_SNP_PRODUCT", named(VLEK, "Milan-B0")],
    ["another structure version", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.structVersion, encodeInteger(1))],
    ["no microcode level", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.ucodeSpl)],
    ["a level of 256", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.ucodeSpl, encodeInteger(256))],
    ["a level that is not minimal", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.ucodeSpl, fromHex("02020001"))],
    ["a negative level", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.ucodeSpl, fromHex("0201db"))],
    ["bytes after a level", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.ucodeSpl, fromHex("020101ff"))],
    ["an FMC level on Milan", "ERR_SNP_CERTIFICATE", added(MILAN, AMD_OID.fmcSpl, encodeInteger(1))],
    ["spl4 on Turin", "ERR_SNP_CERTIFICATE", added(TURIN, AMD_OID.spl4, encodeInteger(0))],
    ["an id of 63 bytes", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.hwId, hwId.subarray(1))],
    ["an id of 8 bytes on Milan", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.hwId, hwId.subarray(0, 8))],
    ["an id of 64 bytes on Turin", "ERR_SNP_CERTIFICATE", replaced(TURIN, AMD_OID.hwId, hwId)],
    ["neither chip nor provider", "ERR_SNP_CERTIFICATE", replaced(MILAN, AMD_OID.hwId)],
    ["both chip and provider", "ERR_SNP_CERTIFICATE", added(MILAN, AMD_OID.cspId, encodeIa5String("CN=x"))],
    ["nothing of AMD's", "ERR_SNP_CERTIFICATE", [{ oid: OID.subjectKeyIdentifier, critical: false, value: fromHex("0400") }]],
  ])("refuses %s", (_name, code, extensions) => {
    expect(() => parse(extensions)).toThrow(expect.objectContaining({ code }));
  });
});

describe("URLs of certificate sources", () => {
  it("asks AMD for the reported TCB", () => {
    expect(vcekUrl("Milan", new Uint8Array(64).fill(0xab), fromHex("04000000000018db"))).toBe(
      `https://kdsintf.amd.com/vcek/v1/Milan/${"ab".repeat(64)}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219`,
    );
    expect(vcekUrl("Turin", new Uint8Array(64).fill(0xab, 0, 8), fromHex("0101010400000051"), "http://x")).toBe(
      "http://x/vcek/v1/Turin/abababababababab?fmcSPL=1&blSPL=1&teeSPL=1&snpSPL=4&ucodeSPL=81",
    );
    expect(chainUrl("vlek", "Genoa")).toBe("https://kdsintf.amd.com/vlek/v1/Genoa/cert_chain");
  });

  it("asks Azure's cache with an unpadded lower-case TCB", () => {
    expect(azureCachePath(new Uint8Array(64).fill(0xab), fromHex("0400000000000801"), "a b")).toBe(
      `/SevSnpVM/certificates/${"ab".repeat(64)}/108000000000004?api-version=2020-10-15-preview&clientId=a%20b`,
    );
  });
});

describe("THIM documents", () => {
  const document = { vcekCert: "v", tcbm: "DB18000000000004", certificateChain: "c", cacheControl: "86400" };

  it("reads what it writes, whatever else is there", () => {
    expect(parseThim(encodeThim(document))).toEqual(document);
    expect(parseThim(JSON.stringify({ ...document, tcbm: "db18000000000004", more: 1 }))).toEqual(document);
    expect(parseThimBase64(`${Buffer.from(encodeThim(document)).toString("base64")}\n`)).toEqual(document);
  });

  it.each([
    "",
    "[]",
    "null",
    "{}",
    JSON.stringify({ ...document, tcbm: "0x1" }),
    JSON.stringify({ ...document, tcbm: "1".repeat(17) }),
    JSON.stringify({ ...document, vcekCert: 1 }),
    '{"vcekCert":"a","vcekCert":"b"}',
    `{"vcekCert":"${"a".repeat(70_000)}"}`,
  ])("refuses %.40s", (text) => {
    expect(() => parseThim(text)).toThrow(expect.objectContaining({ code: "ERR_SNP_CACHE" }));
    expect(() => parseThimBase64(Buffer.from(text).toString("base64"))).toThrow(expect.objectContaining({ code: "ERR_SNP_CACHE" }));
  });

  it.each(["*", "QQ", "/w=="])("refuses base64 %s", (text) => {
    expect(() => parseThimBase64(text)).toThrow(expect.objectContaining({ code: "ERR_SNP_CACHE" }));
  });
});
