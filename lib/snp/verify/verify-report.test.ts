import { generateKeyPairSync, sign } from "node:crypto";
import { concatBytes, fromHex } from "@sealpod/core";
import { basicConstraints, encodeCertificatesPem, encodePem, issueCrl, keyUsage } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { NOW, TEST_CSP_ID, type TestChain, testProcessor, testTcb, VLEK_KEY_INFO } from "../testdata/emulated.ts";
import {
  AMD_ROOTS,
  CERTIFICATE_GUIDS,
  CertificateCache,
  type CertificateChain,
  encodeCertificateTable,
  encodeReport,
  encodeVcekExtensions,
  EVIDENCE_CHECKS,
  type EvidenceCheck,
  type EvidenceCheckName,
  evidenceCheckOf,
  parseCertificateChainPem,
  parseCertificateChainTable,
  parseReport,
  type ReportEvidence,
  selectCertificateChain,
  SIGNATURE_OFFSET,
  signingKeyOf,
  signReport,
  SnpError,
  verifyReport,
} from "../index.ts";

const milan = testProcessor("Milan");
const genoa = testProcessor("Genoa");
const turin = testProcessor("Turin");

const ORDER = 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n;

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

  it("may have a masked chip id, and says so", () => {
    const seen: EvidenceCheck[] = [];
    verifyReport({ ...milan.evidence({ chipId: new Uint8Array(64) }), observe: (check) => seen.push(check) });
    expect(seen.find(({ name }) => name === "chip-id")?.found).toMatch(/^masked in the report/);
  });

  it.each([
    [milan, 3],
    [milan, 2],
    [genoa, 3],
    [turin, 5],
  ] as const)("may be signed by a VLEK, which has no chip", (processor, version) => {
    const vlek = processor.chainOf({ kind: "vlek" });
    const changes = { keyInfo: VLEK_KEY_INFO, version, ...(version === 2 && { processor: undefined }) };
    const verified = verifyReport({ ...processor.evidence(changes, version), certificates: vlek });
    expect(verified.endorsementKey).toMatchObject({ kind: "vlek", cspId: TEST_CSP_ID, hwId: undefined, product: processor.product });
    // The report's chip id is then the word of firmware alone, and any goes.
    expect(code({ ...processor.evidence({ ...changes, chipId: new Uint8Array(64).fill(9, 0, 8) }, version), certificates: vlek })).toBe(
      version === 2 ? "ERR_SNP_PRODUCT" : "verified",
    );
  });

  it("rests on the root of its product where one key is trusted for several", () => {
    const others = [
      { ...milan.root, product: "Turin" },
      { ...milan.root, product: "Genoa" },
    ] as const;
    expect(verifyReport({ ...milan.evidence(), roots: [...others, milan.root] }).root).toBe(milan.root);
    expect(code({ ...milan.evidence(), roots: others })).toBe("ERR_SNP_PRODUCT");
  });

  it("carries where it came from", () => {
    expect(verifyReport({ ...milan.evidence(), origin: { kind: "emulator" } }).origin).toEqual({ kind: "emulator" });
    expect("origin" in verifyReport(milan.evidence())).toBe(false);
  });

  it("verifies with the twin of its signature as well, so its hash is no identity of it", () => {
    const evidence = milan.evidence();
    const { signature, ...report } = parseReport(evidence.report);
    expect(code({ ...evidence, report: encodeReport({ ...report, signature: { r: signature.r, s: ORDER - signature.s } }) })).toBe("verified");
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
    ["another product's chain", "ERR_SNP_PRODUCT", () => ({ ...milan.evidence(), certificates: genoa.chain })],
    ["another processor's chain", "ERR_SNP_ROOT", () => ({ ...milan.evidence(), certificates: testProcessor("Milan").chain })],
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
    ["a chip id that only begins as if it were masked", "ERR_SNP_CHIP_ID", () => milan.evidence({ chipId: new Uint8Array(64).fill(9, 8) })],
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
    ...(["r", "s"] as const).flatMap((half) =>
      [0n, ORDER, ORDER + 1n, (1n << 384n) - 1n, 1n << 384n].map((value): [string, string, () => ReportEvidence] => [
        `${half.toUpperCase()} of 0x${value.toString(16).slice(0, 8)}… in the signature`,
        "ERR_SNP_SIGNATURE",
        () => {
          const report = parseReport(milan.evidence().report);
          return { ...milan.evidence(), report: encodeReport({ ...report, signature: { ...report.signature, [half]: value } }) };
        },
      ]),
    ),
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
    expect(() => verifyReport({ ...milan.evidence(), report })).toThrow(/not below the order of the curve/);
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

  it.each<[string, string, TestChain, (typeof VLEK_KEY_INFO)["signingKey"]]>([
    ["a VLEK under the chips' authority", "ERR_SNP_CHAIN", { kind: "vlek", intermediateName: "SEV-Milan" }, "vlek"],
    ["a VCEK under the providers' authority", "ERR_SNP_CHAIN", { intermediateName: "SEV-VLEK-Milan" }, "vcek"],
    ["a VLEK that is called a VCEK", "ERR_SNP_CHAIN", { kind: "vlek", leafName: "SEV-VCEK" }, "vlek"],
    ["a VCEK that is called a VLEK", "ERR_SNP_CHAIN", { leafName: "SEV-VLEK" }, "vcek"],
    ["an authority of another product", "ERR_SNP_CHAIN", { intermediateName: "SEV-Genoa" }, "vcek"],
    ["an authority whose name only ends alike", "ERR_SNP_CHAIN", { intermediateName: "NOT-SEV-Milan" }, "vcek"],
    ["a VLEK for a report that a VCEK signed", "ERR_SNP_SIGNING_KEY", { kind: "vlek" }, "vcek"],
    ["a VCEK for a report that a VLEK signed", "ERR_SNP_SIGNING_KEY", {}, "vlek"],
    ["signatures of PKCS #1", "ERR_SNP_CHAIN", { algorithm: "rsa-sha384" }, "vcek"],
    ["a leaf signed with PKCS #1", "ERR_SNP_CHAIN", { leafAlgorithm: "rsa-sha384" }, "vcek"],
    ["signatures with SHA-256", "ERR_SNP_CHAIN", { algorithm: "rsa-pss-sha256" }, "vcek"],
    ["an authority that is no CA", "ERR_SNP_CHAIN", { intermediateExtensions: [basicConstraints({ ca: false })] }, "vcek"],
    ["an authority that may not sign certificates", "ERR_SNP_CHAIN", { intermediateExtensions: [basicConstraints({ ca: true }), keyUsage("cRLSign")] }, "vcek"],
    ["a provider's key that has expired", "ERR_SNP_VALIDITY", { kind: "vlek", notAfter: NOW - 1000 }, "vlek"],
  ])("%s: %s", (_name, expected, chain, signingKey) => {
    expect(code({ ...milan.evidence({ keyInfo: { ...VLEK_KEY_INFO, signingKey } }), certificates: milan.chainOf(chain) })).toBe(expected);
  });

  it("an authority with a weaker key than its root: ERR_SNP_CHAIN", () => {
    const strong = testProcessor("Milan", { arkBits: 3072 });
    expect(code(strong.evidence())).toBe("ERR_SNP_CHAIN");
    expect(() => verifyReport(strong.evidence())).toThrow(/2048 bits, expected at least the root's 3072/);
  });

  it("a root with another product's name: ERR_SNP_CHAIN", () => {
    const misnamed = testProcessor("Milan", { arkName: "ARK-Genoa" });
    expect(code(misnamed.evidence())).toBe("ERR_SNP_CHAIN");
  });

  it("a key that is masked and that signed: ERR_SNP_SIGNING_KEY; a masked chip key beside a VLEK is as it should be", () => {
    expect(code(milan.evidence({ keyInfo: { authorKeyEnabled: false, chipKeyMasked: true, signingKey: "vcek" } }))).toBe("ERR_SNP_SIGNING_KEY");
    const masked = milan.evidence({ keyInfo: { ...VLEK_KEY_INFO, chipKeyMasked: true } });
    expect(code({ ...masked, certificates: milan.chainOf({ kind: "vlek" }) })).toBe("verified");
  });

  it("certificates at a time that is none: ERR_SNP_VALIDITY", () => {
    for (const now of [Number.NaN, Infinity, -Infinity]) expect(code({ ...milan.evidence(), clock: { now: () => now } })).toBe("ERR_SNP_VALIDITY");
  });

  it("the last second of a certificate is valid, the next is not", () => {
    const { notAfter, notBefore } = milan.chain.endorsementKey;
    const at = (now: number): string => code({ ...milan.evidence(), clock: { now: () => now } });
    expect([notBefore - 1, notBefore, notAfter + 999, notAfter + 1000].map(at)).toEqual(["ERR_SNP_VALIDITY", "verified", "verified", "ERR_SNP_VALIDITY"]);
  });

  it("says what to do about a certificate for another TCB", () => {
    expect(() => verifyReport(milan.evidence({ reportedTcb: outdated }))).toThrow(
      expect.objectContaining({ hint: expect.stringContaining("REPORTED_TCB") as string }),
    );
  });
});

describe("the checks, one by one", () => {
  const NAMES = EVIDENCE_CHECKS.map(({ name }) => name);
  const none = { crls: [], missing: "refuse" } as const;
  const list = issueCrl({
    issuer: { name: milan.chain.root.subject, key: milan.arkKey },
    signatureAlgorithm: "rsa-pss-sha384",
    thisUpdate: NOW - 1000,
    nextUpdate: NOW + 1000,
    revoked: [],
  });
  const good: ReportEvidence = { ...milan.evidence(), revocation: { crls: [list], missing: "refuse" } };
  const observed = (evidence: ReportEvidence): { readonly passed: readonly EvidenceCheck[]; readonly failed: string } => {
    const passed: EvidenceCheck[] = [];
    return { failed: code({ ...evidence, observe: (check) => passed.push(check) }), passed };
  };

  it("are told in order, each with what was found", () => {
    const { passed, failed } = observed(good);
    expect(failed).toBe("verified");
    expect(passed.map(({ name }) => name)).toEqual(NAMES);
    const found = Object.fromEntries(passed.map(({ name, found }) => [name, found]));
    expect(found["tcb"]).toBe("bootloader 4, tee 0, snp 24, microcode 219 in report and certificate");
    expect(found["chain"]).toBe("EMULATED ARK-Milan signs EMULATED SEV-Milan signs EMULATED SEV-VCEK");
    expect(found["product"]).toBe("Milan by processor family 0x19 model 0x1 stepping 1; certificate for Milan-B0");
    expect(found["root"]).toMatch(/^emulator, key with SHA-256 [0-9a-f]{64}$/);
    expect(found["key-kind"]).toBe("VCEK in report and certificate");
    expect(found["validity"]).toContain("2026-11-23T00:00:00.000Z");
    expect(found["signature"]).toContain("672 bytes");
  });

  it("leave out revocation where nobody asks for it", () => {
    expect(observed(milan.evidence()).passed.map(({ name }) => name)).toEqual(NAMES.filter((name) => name !== "revocation"));
  });

  // Each with everything wrong that comes after it as well: the first is the one that is named.
  const unsigned = encodeReport({ ...parseReport(good.report), signature: { r: 1n, s: 1n } });
  const late = { now: () => NOW + 10 * 86_400_000 };
  const wrong: Readonly<Record<EvidenceCheckName, ReportEvidence>> = {
    structure: { ...good, report: good.report.subarray(1), certificates: genoa.chain, roots: [], clock: late },
    product: { ...good, certificates: genoa.chain, roots: [], clock: late, report: unsigned },
    root: { ...good, certificates: { ...milan.chain, intermediate: milan.chain.root }, roots: [], clock: late, report: unsigned },
    chain: { ...good, certificates: { ...milan.chain, intermediate: milan.chain.root }, clock: late, report: unsigned },
    validity: { ...good, clock: late, revocation: none, report: unsigned },
    revocation: { ...good, revocation: none, report: unsigned, certificates: milan.chainOf({ kind: "vlek" }) },
    "key-kind": { ...good, certificates: milan.chainOf({ kind: "vlek" }), report: milan.evidence({ reportedTcb: testTcb("Milan", { snp: 25 }) }).report },
    tcb: { ...good, report: milan.evidence({ reportedTcb: testTcb("Milan", { snp: 25 }), chipId: new Uint8Array(64).fill(1) }).report },
    "chip-id": { ...good, report: milan.evidence({ chipId: new Uint8Array(64).fill(1), committedTcb: testTcb("Milan", { snp: 25 }) }).report },
    "tcb-order": { ...good, report: encodeReport({ ...parseReport(unsigned), committedTcb: testTcb("Milan", { snp: 25 }) }) },
    signature: { ...good, report: unsigned },
  };
  it.each(NAMES)("%s fails alone and stops the others", (name) => {
    const { passed, failed } = observed(wrong[name]);
    expect(evidenceCheckOf(failed)).toBe(name);
    expect(passed.map((check) => check.name)).toEqual(NAMES.slice(0, NAMES.indexOf(name)));
  });

  it("say that a certificate for a product that there is not is well-formed", () => {
    const extensions = encodeVcekExtensions({ productName: "Rome-B0", product: "Milan", tcb: testTcb("Milan"), hwId: milan.chipId });
    const { passed, failed } = observed({ ...good, certificates: milan.withVcek(extensions) });
    expect(failed).toBe("ERR_SNP_PRODUCT");
    expect(passed.map((check) => check.name)).toEqual(["structure"]);
  });

  it("have each code once", () => {
    const codes = EVIDENCE_CHECKS.flatMap((check) => check.codes);
    expect(new Set(codes).size).toBe(codes.length);
    expect(evidenceCheckOf("ERR_SNP_PAGE")).toBeUndefined();
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

describe("signing a report", () => {
  it("takes a private key on P-384, and no other", () => {
    const { signature: _, ...report } = parseReport(milan.evidence().report);
    const keys = [
      generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey,
      generateKeyPairSync("ec", { namedCurve: "secp521r1" }).privateKey,
      generateKeyPairSync("ec", { namedCurve: "secp384r1" }).publicKey,
      generateKeyPairSync("ed25519").privateKey,
    ];
    for (const key of keys) expect(() => signReport(report, key)).toThrow(expect.objectContaining({ code: "ERR_SNP_FIELD" }));
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

  it("are read from a table whose entries end with padding", () => {
    const padded = (data: Uint8Array): Uint8Array => concatBytes(data, new Uint8Array(7));
    for (const encode of [(der: Uint8Array) => der, (der: Uint8Array) => new TextEncoder().encode(encodePem("CERTIFICATE", der))]) {
      const read = parseCertificateChainTable(
        encodeCertificateTable([
          { guid: CERTIFICATE_GUIDS.vcek, data: padded(encode(endorsementKey.der)) },
          { guid: CERTIFICATE_GUIDS.ask, data: padded(encode(intermediate.der)) },
          { guid: CERTIFICATE_GUIDS.ark, data: padded(encode(root.der)) },
        ]),
      );
      expect([read.endorsementKey.der, read.intermediate.der, read.root.der]).toEqual([endorsementKey.der, intermediate.der, root.der]);
    }
  });

  it("are chosen by the report's SIGNING_KEY where a host sends VCEK and VLEK together", () => {
    const vlek = milan.chainOf({ kind: "vlek" });
    const both = [endorsementKey, vlek.endorsementKey, vlek.intermediate, intermediate, root];
    const pem = encodeCertificatesPem(both);
    const table = encodeCertificateTable([
      { guid: CERTIFICATE_GUIDS.vlek, data: vlek.endorsementKey.der },
      { guid: CERTIFICATE_GUIDS.vcek, data: endorsementKey.der },
      { guid: CERTIFICATE_GUIDS.ask, data: new TextEncoder().encode(encodeCertificatesPem([intermediate, vlek.intermediate])) },
      { guid: CERTIFICATE_GUIDS.ark, data: root.der },
    ]);
    const cache = new CertificateCache({ capacity: 8 });
    const readers: readonly ((kind?: "vcek" | "vlek") => CertificateChain)[] = [
      (kind) => selectCertificateChain(both, kind),
      (kind) => parseCertificateChainPem(pem, kind),
      (kind) => parseCertificateChainTable(table, kind),
      (kind) => cache.parsePem(pem, kind),
    ];
    for (const read of readers) {
      for (const keyInfo of [VLEK_KEY_INFO, { ...VLEK_KEY_INFO, signingKey: "vcek" } as const]) {
        const evidence = milan.evidence({ keyInfo });
        const certificates = read(signingKeyOf(evidence.report));
        expect(verifyReport({ ...evidence, certificates }).endorsementKey.kind).toBe(keyInfo.signingKey);
      }
      expect(() => read()).toThrow(expect.objectContaining({ code: "ERR_SNP_CERTIFICATE" }));
    }
    // Two of the wanted kind are still one too many; one of the other kind alone is for the check of the report.
    const second = milan.chainOf({}).endorsementKey;
    expect(() => selectCertificateChain([...both, second], "vcek")).toThrow(expect.objectContaining({ code: "ERR_SNP_CERTIFICATE" }));
    expect(selectCertificateChain([...both, second], "vlek").endorsementKey.der).toEqual(vlek.endorsementKey.der);
    expect(selectCertificateChain([endorsementKey, intermediate, root], "vlek").endorsementKey.der).toEqual(endorsementKey.der);
  });

  it("have a kind that the report names before it is read", () => {
    expect(signingKeyOf(milan.evidence().report)).toBe("vcek");
    expect(signingKeyOf(milan.evidence({ keyInfo: VLEK_KEY_INFO }).report)).toBe("vlek");
    expect(signingKeyOf(milan.evidence({ keyInfo: { ...VLEK_KEY_INFO, signingKey: "none" } }).report)).toBeUndefined();
    const report = Uint8Array.from(milan.evidence().report);
    report[0x48] = 2 << 2;
    expect(signingKeyOf(report)).toBeUndefined();
    expect(signingKeyOf(report.subarray(1))).toBeUndefined();
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
