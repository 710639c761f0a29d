import { existsSync, readFileSync } from "node:fs";
import { asArray, asObject, type JsonObject, type JsonValue, parseJson, sha256, toHex } from "@sealpod/core";
import { type Certificate, parseCertificate, parseCertificatesPem } from "@sealpod/pki";
import { describe, expect, it } from "vitest";
import { AMD_ROOTS, encodeReport, parseThimBase64, type ReportEvidence, selectCertificateChain, SIGNATURE_OFFSET, SnpError, verifyReport } from "./index.ts";

const VECTORS = "../shared/vectors/attestation";
const present = existsSync(`${VECTORS}/manifest.json`);

/** All certificates of the vectors are valid at this time. */
const clock = { now: (): number => Date.UTC(2026, 10, 22) };

function text(value: JsonValue | undefined): string {
  if (typeof value !== "string") throw new Error("the manifest of the vectors is malformed");
  return value;
}

function load(vector: JsonObject): ReportEvidence {
  const raw = readFileSync(`${VECTORS}/${text(vector["report"])}`);
  const encoding = vector["encoding"];
  const report = encoding === "raw" ? new Uint8Array(raw) : new Uint8Array(Buffer.from(raw.toString("latin1").trim(), encoding as "hex" | "base64"));
  const certificates = (asArray(vector["certs"]) ?? []).flatMap((file): readonly Certificate[] => {
    const bytes = new Uint8Array(readFileSync(`${VECTORS}/${text(file)}`));
    return bytes[0] === 0x30 ? [parseCertificate(bytes)] : parseCertificatesPem(Buffer.from(bytes).toString("latin1"));
  });
  return { report, certificates: selectCertificateChain(certificates), roots: AMD_ROOTS, clock };
}

const manifest = present ? asObject(parseJson(readFileSync(`${VECTORS}/manifest.json`, "utf8"))) : undefined;
const vectors = (asArray(manifest?.["reports"]) ?? []).map((item): readonly [string, JsonObject] => {
  const vector = asObject(item) ?? {};
  return [text(vector["name"]), vector];
});

describe.skipIf(!present)("genuine reports (skipped without ../shared/vectors/attestation)", () => {
  it("are there", () => {
    expect(vectors.length).toBeGreaterThan(10);
  });

  it.each(vectors)("%s verifies under AMD's roots", (_name, vector) => {
    const evidence = load(vector);
    const expected = asObject(vector["expect"]) ?? {};
    const { report, product, root } = verifyReport(evidence);
    expect(root.name).toBe("amd");
    expect(encodeReport(report)).toEqual(evidence.report);
    expect({
      version: report.version,
      product,
      vmpl: report.vmpl,
      policy: `0x${report.policy.toString(16)}`,
      platform_info: `0x${report.platformInfo.toString(16)}`,
      reported_tcb: toHex(report.reportedTcb),
      current_tcb: toHex(report.currentTcb),
      measurement: toHex(report.measurement),
      host_data: toHex(report.hostData),
      report_data: toHex(report.reportData),
      chip_id: toHex(report.chipId),
    }).toEqual({
      version: expected["version"],
      product: expected["product"],
      vmpl: expected["vmpl"],
      policy: expected["policy"],
      platform_info: expected["platform_info"],
      reported_tcb: expected["reported_tcb"],
      current_tcb: expected["current_tcb"],
      measurement: expected["measurement"],
      host_data: expected["host_data"],
      report_data: expected["report_data"],
      chip_id: expected["chip_id"],
    });
  });

  it.each(vectors)("%s does not verify with any byte of the signed part changed", (_name, vector) => {
    const evidence = load(vector);
    const report = Uint8Array.from(evidence.report);
    // Every 7th byte for each report: all residues are met, and the emulated report has every byte changed.
    for (let at = 0; at < SIGNATURE_OFFSET; at += 7) {
      report[at] = (report[at] ?? 0) ^ 0x10;
      expect(() => verifyReport({ ...evidence, report }), `byte ${at}`).toThrow(SnpError);
      report[at] = (report[at] ?? 0) ^ 0x10;
    }
  });

  it("of one chip do not verify with another chip's certificates", () => {
    const [first, second] = [vectors.find(([name]) => name === "tav-milan-v3"), vectors.find(([name]) => name === "virtee-milan-v2")];
    if (first === undefined || second === undefined) throw new Error("vectors are missing");
    expect(() => verifyReport({ ...load(first[1]), certificates: load(second[1]).certificates })).toThrow(expect.objectContaining({ code: "ERR_SNP_TCB" }));
  });

  it("the pinned keys are those of AMD's root certificates", () => {
    const roots = ["milan", "genoa", "turin"].map((name) => parseCertificatesPem(readFileSync(`${VECTORS}/tav/${name}_ark.pem`, "latin1"))[0]);
    expect(roots.map((root) => toHex(sha256(root?.publicKey.der ?? new Uint8Array())))).toEqual(AMD_ROOTS.map(({ keySha256 }) => toHex(keySha256)));
  });

  it("a certificate that AMD issued at another time for the same chip and TCB serves as well", () => {
    const vector = vectors.find(([name]) => name === "tav-milan-v3")?.[1] ?? {};
    const evidence = load(vector);
    const [older] = parseCertificatesPem(readFileSync(`${VECTORS}/tav/alt/milan_vcek_2025-12.pem`, "latin1"));
    if (older === undefined) throw new Error("vector is missing");
    expect(older.der).not.toEqual(evidence.certificates.endorsementKey.der);
    expect(verifyReport({ ...evidence, certificates: { ...evidence.certificates, endorsementKey: older } }).root.name).toBe("amd");
  });

  it("the THIM document of a security context reads", () => {
    const thim = parseThimBase64(readFileSync(`${VECTORS}/sidecar/security-context/host-amd-cert-base64`, "latin1"));
    const chain = selectCertificateChain(parseCertificatesPem(thim.vcekCert + thim.certificateChain));
    expect(thim.tcbm).toMatch(/^[0-9A-F]+$/);
    expect(chain.root.subject.der).toEqual(chain.root.issuer.der);
  });
});
