import type { JsonObject, JsonValue } from "@sealpod/core";
import { parseReport, parseTcb, productOfReport, type CertificateChain, type FirmwareVersion, type ProductName, type Report } from "@sealpod/snp";

/**
 * Evidence as CoCo's SNP attester sends it: the report as the Rust crate `sev` renders it, bytes as lists of numbers, and the certificates (specs/attestation.md 9.1.4).
 * @param report raw, 1184 bytes
 * @param chain undefined if there is none: then the verifier has to find the certificates
 * @throws {SnpError} as `parseReport`
 */
export function encodeSnpEvidence(report: Uint8Array, chain: CertificateChain | undefined): JsonObject {
  return { attestation_report: renderReport(parseReport(report)), cert_chain: chain === undefined ? null : renderChain(chain) };
}

function renderReport(report: Report): JsonObject {
  const claimed = productOfReport(report);
  const product: ProductName = claimed.kind === "known" ? claimed.product : "Milan";
  const tcb = (bytes: Uint8Array): JsonObject => {
    const { fmc, bootloader, tee, snp, microcode } = parseTcb(bytes, product);
    return { fmc: fmc ?? null, bootloader, tee, snp, microcode };
  };
  const { processor } = report;
  return {
    version: report.version,
    guest_svn: report.guestSvn,
    policy: report.policy,
    family_id: numbers(report.familyId),
    image_id: numbers(report.imageId),
    vmpl: report.vmpl,
    sig_algo: 1,
    current_tcb: tcb(report.currentTcb),
    plat_info: report.platformInfo,
    key_info: keyInfo(report),
    report_data: numbers(report.reportData),
    measurement: numbers(report.measurement),
    host_data: numbers(report.hostData),
    id_key_digest: numbers(report.idKeyDigest),
    author_key_digest: numbers(report.authorKeyDigest),
    report_id: numbers(report.reportId),
    report_id_ma: numbers(report.reportIdMa),
    reported_tcb: tcb(report.reportedTcb),
    cpuid_fam_id: processor?.family ?? null,
    cpuid_mod_id: processor?.model ?? null,
    cpuid_step: processor?.stepping ?? null,
    chip_id: numbers(report.chipId),
    committed_tcb: tcb(report.committedTcb),
    current: firmware(report.currentFirmware),
    committed: firmware(report.committedFirmware),
    launch_tcb: tcb(report.launchTcb),
    launch_mit_vector: report.version === 5 ? report.launchMitigations : null,
    current_mit_vector: report.version === 5 ? report.currentMitigations : null,
    signature: { r: littleEndian(report.signature.r), s: littleEndian(report.signature.s) },
  };
}

function renderChain({ endorsementKey, intermediate, root }: CertificateChain): JsonValue {
  const kind = endorsementKey.extensions.has("1.3.6.1.4.1.3704.1.5") ? "VLEK" : "VCEK";
  return [
    { cert_type: kind, data: numbers(endorsementKey.der) },
    { cert_type: "ASK", data: numbers(intermediate.der) },
    { cert_type: "ARK", data: numbers(root.der) },
  ];
}

function keyInfo({ keyInfo: { authorKeyEnabled, chipKeyMasked, signingKey } }: Report): number {
  return (authorKeyEnabled ? 1 : 0) | (chipKeyMasked ? 2 : 0) | ({ vcek: 0, vlek: 1, none: 7 }[signingKey] << 2);
}

function firmware({ major, minor, build }: FirmwareVersion): JsonObject {
  return { major, minor, build };
}

function numbers(bytes: Uint8Array): readonly number[] {
  return [...bytes];
}

/** 72 bytes. */
function littleEndian(value: bigint): readonly number[] {
  return [...Buffer.from(value.toString(16).padStart(144, "0"), "hex").reverse()];
}
