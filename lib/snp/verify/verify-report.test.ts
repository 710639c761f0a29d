import { generateKeyPairSync, sign } from "node:crypto";
import { concatBytes, fromHex } from "@sealpod/core";
import { encodeCertificatesPem, encodeIa5String, encodePem } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { NOW, testProcessor, testTcb } from "../testdata/emulated.ts";
import {
  AMD_OID,
  AMD_ROOTS,
  CERTIFICATE_GUIDS,
  encodeCertificateTable,
  encodeReport,
  encodeVcekExtensions,
  parseCertificateChainPem,
  parseCertificateChainTable,
  parseReport,
  type ReportEvidence,
  selectCertificateChain,
  SIGNATURE_OFFSET,
  SnpError,
  verifyReport,
} from "../index.ts";

const milan = testProcessor("Milan");
const genoa = testProcessor("Genoa");
const turin = testProcessor("Turin");

function code(evidence: ReportEvidence): string {
  try {
    verifyReport(evidence);
  } catch (error) {
    if (error instanceof SnpError) return error.code;
    throw error;
  }
  return "verified";
}

describe("a good report", () => {
  it.each([
    [milan, 2],
    [milan, 3],
    [milan, 4],
    [genoa, 3],
    [genoa, 2],
    [turin, 5],
    [turin, 2],
  ] as const)("verifies", (processor, version) => {
    const verified = verifyReport(
      processor.evidence(version === 2 ? { processor: undefined, launchMitigations: 0n, currentMitigations: 0n, version } : { version }, version),
    );
    expect(verified.kind).toBe("verified-report");
    expect(verified.product).toBe(processor.product);
    expect(verified.root).toEqual(processor.root);
    expect(verified.root.name).toBe("emulator");
    expect(verified.tcb.reported.microcode).toBe(219);
    expect(verified.report.reportData).toEqual(new Uint8Array(64).fill(3));
  });

  it("says which of several roots it rests on", () => {
    expect(verifyReport({ ...milan.evidence(), roots: [...AMD_ROOTS, genoa.root, milan.root] }).root).toBe(milan.root);
  });

  it("may have a masked chip id, and a VLEK instead of a VCEK", () => {
    expect(code(milan.evidence({ chipId: new Uint8Array(64) }))).toBe("verified");
    const extensions = encodeVcekExtensions({ productName: "Milan", product: "Milan", tcb: testTcb("Milan"), hwId: milan.chipId });
    const vlek = milan.withVcek([
      ...extensions.filter(({ oid }) => oid !== AMD_OID.hwId),
      { oid: AMD_OID.cspId, critical: false, value: encodeIa5String("CN=cc-test") },
    ]);
    const keyInfo = { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "vlek" } as const;
    expect(code({ ...milan.evidence({ keyInfo }), certificates: vlek })).toBe("verified");
    expect(code({ ...milan.evidence(), certificates: vlek })).toBe("ERR_SNP_SIGNING_KEY");
    expect(code(milan.evidence({ keyInfo }))).toBe("ERR_SNP_SIGNING_KEY");
  });
});

describe("the emulator's root", () => {
  it("is refused by everyone who does not name it", () => {
    expect(code({ ...milan.evidence(), roots: AMD_ROOTS })).toBe("ERR_SNP_ROOT");
    expect(code({ ...milan.evidence(), roots: [] })).toBe("ERR_SNP_ROOT");
  });

  it("is no AMD root", () => {
    expect(AMD_ROOTS.every(({ name }) => name === "amd")).toBe(true);
    expect(AMD_ROOTS.map(({ product }) => product)).toEqual(["Milan", "Genoa", "Turin"]);
  });
});

describe("each check has its code", () => {
  const outdated = testTcb("Milan", { bootloader: 3 });

  it.each<[string, string, () => ReportEvidence]>([
    ["a report that is cut", "ERR_SNP_LENGTH", () => ({ ...milan.evidence(), report: milan.evidence().report.subarray(1) })],
    [
      "a report that is not signed",
      "ERR_SNP_SIGNING_KEY",
      () => milan.evidence({ keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey: "none" } }),
    ],
    ["an unknown processor", "ERR_SNP_PRODUCT", () => milan.evidence({ processor: { family: 0x17, model: 0x31, stepping: 0 } })],
    ["a processor of another product", "ERR_SNP_PRODUCT", () => milan.evidence({ processor: { family: 0x19, model: 0x11, stepping: 0 } })],
    [
      "a version 2 report with Turin's chip id and Milan's certificate",
      "ERR_SNP_PRODUCT",
      () => milan.evidence({ version: 2, processor: undefined, chipId: turin.chipId }),
    ],
    ["a root pinned for another product", "ERR_SNP_PRODUCT", () => ({ ...milan.evidence(), roots: [{ ...milan.root, product: "Genoa" }] })],
    ["another processor's chain", "ERR_SNP_ROOT", () => ({ ...milan.evidence(), certificates: genoa.chain })],
    ["a chain without its intermediate", "ERR_SNP_CHAIN", () => ({ ...milan.evidence(), certificates: { ...milan.chain, intermediate: milan.chain.root } })],
    [
      "an intermediate of the same name and another key",
      "ERR_SNP_CHAIN",
      () => ({ ...milan.evidence(), certificates: { ...milan.chain, intermediate: testProcessor("Milan").chain.intermediate } }),
    ],
    ["certificates before their time", "ERR_SNP_VALIDITY", () => ({ ...milan.evidence(), clock: { now: () => NOW - 2 * 86_400_000 } })],
    ["certificates after their time", "ERR_SNP_VALIDITY", () => ({ ...milan.evidence(), clock: { now: () => NOW + 2 * 86_400_000 } })],
    ["a certificate without AMD's extensions", "ERR_SNP_CERTIFICATE", () => ({ ...milan.evidence(), certificates: milan.withVcek([]) })],
    ["a REPORTED_TCB that the certificate is not for", "ERR_SNP_TCB", () => milan.evidence({ reportedTcb: outdated })],
    [
      "a reserved level that the certificate is not for",
      "ERR_SNP_TCB",
      () => milan.evidence({ reportedTcb: fromHex("04000100000018db"), currentTcb: fromHex("04000100000018db") }),
    ],
    ["another chip", "ERR_SNP_CHIP_ID", () => milan.evidence({ chipId: new Uint8Array(64).fill(9) })],
    [
      "a chip id of Turin with bytes behind it",
      "ERR_SNP_CHIP_ID",
      () => turin.evidence({ chipId: concatBytes(turin.chipId.subarray(0, 8), new Uint8Array(56).fill(1)) }),
    ],
    ["a REPORTED_TCB above the current", "ERR_SNP_TCB_ORDER", () => milan.evidence({ currentTcb: outdated })],
    ["a COMMITTED_TCB above the current", "ERR_SNP_TCB_ORDER", () => milan.evidence({ committedTcb: testTcb("Milan", { microcode: 220 }) })],
    ["a LAUNCH_TCB above the current", "ERR_SNP_TCB_ORDER", () => milan.evidence({ launchTcb: testTcb("Milan", { snp: 25 }) })],
    [
      "another key's signature",
      "ERR_SNP_SIGNATURE",
      () => ({
        ...milan.evidence(),
        report: encodeReport({ ...parseReport(milan.evidence().report), signature: parseReport(genoa.evidence().report).signature }),
      }),
    ],
    [
      "a signature of zeros",
      "ERR_SNP_SIGNATURE",
      () => ({ ...milan.evidence(), report: encodeReport({ ...parseReport(milan.evidence().report), signature: { r: 0n, s: 0n } }) }),
    ],
    [
      "a signature longer than the curve",
      "ERR_SNP_SIGNATURE",
      () => ({ ...milan.evidence(), report: encodeReport({ ...parseReport(milan.evidence().report), signature: { r: 1n << 384n, s: 1n } }) }),
    ],
  ])("%s: %s", (_name, expected, evidence) => {
    expect(code(evidence())).toBe(expected);
  });

  it("a P-256 key that AMD would never certify: ERR_SNP_SIGNATURE", () => {
    const key = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
    const extensions = encodeVcekExtensions({ productName: "Milan-B0", product: "Milan", tcb: testTcb("Milan"), hwId: milan.chipId });
    expect(code({ ...milan.evidence(), certificates: milan.withVcek(extensions, { key }) })).toBe("ERR_SNP_SIGNATURE");
  });

  it("a signature number that the curve cannot have, by name", () => {
    const report = encodeReport({ ...parseReport(milan.evidence().report), signature: { r: 1n, s: 1n << 384n } });
    expect(() => verifyReport({ ...milan.evidence(), report })).toThrow(/longer than 48 bytes/);
  });

  it("does not take a signature in big endian", () => {
    const { report } = milan.evidence();
    const signature = sign("sha384", report.subarray(0, SIGNATURE_OFFSET), { key: milan.vcekKey, dsaEncoding: "ieee-p1363" });
    const forged = Uint8Array.from(report);
    forged.fill(0, SIGNATURE_OFFSET);
    forged.set(signature.subarray(0, 48), SIGNATURE_OFFSET);
    forged.set(signature.subarray(48), SIGNATURE_OFFSET + 72);
    expect(code({ ...milan.evidence(), report: forged })).toBe("ERR_SNP_SIGNATURE");
  });

  it("says what to do about a certificate for another TCB", () => {
    expect(() => verifyReport(milan.evidence({ reportedTcb: outdated }))).toThrow(
      expect.objectContaining({ hint: expect.stringContaining("REPORTED_TCB") as string }),
    );
  });
});

describe("a changed report", () => {
  it("is refused for a change of any bit before the signature, and of any signature bit", () => {
    const evidence = turin.evidence();
    const report = Uint8Array.from(evidence.report);
    for (let at = 0; at < report.length; at++) {
      const bit = 1 << (at % 8);
      report[at] = (report[at] ?? 0) ^ bit;
      expect(code({ ...evidence, report }), `byte ${at}`).not.toBe("verified");
      report[at] = (report[at] ?? 0) ^ bit;
    }
    expect(code({ ...evidence, report })).toBe("verified");
  });
});

describe("choosing the chain", () => {
  const { endorsementKey, intermediate, root } = milan.chain;

  it("finds it in PEM of any order, and leaves strangers out", () => {
    const text = encodeCertificatesPem([genoa.chain.root, root, intermediate, endorsementKey]);
    expect(parseCertificateChainPem(text).root.der).toEqual(root.der);
  });

  it("finds it in a certificate table, also where a host put PEM", () => {
    const der = encodeCertificateTable([
      { guid: CERTIFICATE_GUIDS.ark, data: root.der },
      { guid: CERTIFICATE_GUIDS.vcek, data: endorsementKey.der },
      { guid: CERTIFICATE_GUIDS.ask, data: intermediate.der },
      { guid: CERTIFICATE_GUIDS.crl, data: Uint8Array.of(1) },
    ]);
    expect(parseCertificateChainTable(der).endorsementKey.der).toEqual(endorsementKey.der);
    const pem = encodeCertificateTable([
      { guid: CERTIFICATE_GUIDS.vcek, data: new TextEncoder().encode(encodePem("CERTIFICATE", endorsementKey.der)) },
      { guid: CERTIFICATE_GUIDS.ask, data: new TextEncoder().encode(encodeCertificatesPem([intermediate, root])) },
    ]);
    expect(parseCertificateChainTable(pem).root.der).toEqual(root.der);
  });

  it.each<[string, string, () => unknown]>([
    ["no endorsement key", "ERR_SNP_CERTIFICATE", () => selectCertificateChain([intermediate, root])],
    ["two endorsement keys", "ERR_SNP_CERTIFICATE", () => selectCertificateChain([endorsementKey, genoa.chain.endorsementKey, intermediate, root])],
    ["no intermediate", "ERR_SNP_CHAIN", () => selectCertificateChain([endorsementKey, root])],
    ["no root", "ERR_SNP_CHAIN", () => selectCertificateChain([endorsementKey, intermediate])],
    ["text that is not PEM", "ERR_SNP_CERTIFICATE", () => parseCertificateChainPem("hello")],
    ["an empty table", "ERR_SNP_CERTIFICATE", () => parseCertificateChainTable(new Uint8Array())],
    [
      "a table of garbage",
      "ERR_SNP_CERTIFICATE",
      () => parseCertificateChainTable(encodeCertificateTable([{ guid: CERTIFICATE_GUIDS.vcek, data: Uint8Array.of(0xff) }])),
    ],
  ])("refuses %s", (_name, expected, read) => {
    expect(read).toThrow(expect.objectContaining({ code: expected }));
  });
});
