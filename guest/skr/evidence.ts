import { concatBytes, equalBytes, isZero, messageOf, sha256, type Logger } from "@sealpod/core";
import { formatTcbNumber, parseCertificateChainTable, parseReport, signingKeyOf, type CertificateChain, type Report } from "@sealpod/snp";
import type { CertificateCache } from "./arguments.ts";
import { encodeChain, fetchCachedCertificates, parseThimCertificates } from "./certificate-cache.ts";
import { SkrError } from "./errors.ts";
import type { CallPorts } from "./http-client.ts";
import type { SecurityContext } from "./security-context.ts";

/** Where reports come from. */
export interface ReportSource {
  /** `emulator`: NO hardware protection. */
  readonly kind: "kernel" | "emulator";
  /** The processor's report over `reportData` (64 bytes), and the certificate table that the host attached to it. */
  fetchReport(reportData: Uint8Array): Promise<{ readonly report: Uint8Array; readonly auxblob: Uint8Array }>;
}

/** Proof of what this guest is, bound to some data. */
export interface Evidence {
  /** 1184 bytes. */
  readonly report: Uint8Array;
  /** PEM: VCEK, ASK, ARK. */
  readonly certificates: string;
  /** REPORTED_TCB, to which the VCEK belongs: 16 hex digits. */
  readonly tcb: string;
  readonly uvmEndorsement: Uint8Array | undefined;
}

/** What collecting evidence needs. */
export interface EvidencePorts extends CallPorts {
  readonly reports: ReportSource;
  readonly securityContext: SecurityContext;
  readonly certificateCache: CertificateCache | undefined;
  readonly logger: Logger;
}

interface BoundReport {
  readonly bytes: Uint8Array;
  readonly report: Report;
  readonly auxblob: Uint8Array;
}

/**
 * Asks the processor for a report over `runtimeData` (REPORT_DATA = SHA-256 ‖ 32 zero bytes).
 * @throws {SkrError} ERR_SKR_REPORT
 */
export async function fetchBoundReport(reports: ReportSource, runtimeData: Uint8Array): Promise<BoundReport> {
  const reportData = concatBytes(sha256(runtimeData), new Uint8Array(32));
  try {
    const { report: bytes, auxblob } = await reports.fetchReport(reportData);
    const report = parseReport(bytes);
    // A stale report is a mistake below us; the verifier would find it later and call it an attack.
    if (!equalBytes(report.reportData, reportData)) throw new Error("it is not over the data that was asked for");
    return { bytes, report, auxblob };
  } catch (cause) {
    throw new SkrError("ERR_SKR_REPORT", `no attestation report: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Collects a report over `runtimeData` and the certificates that belong to it: the host's if they are for the reported
 * TCB, else those of the report's certificate table, else those of the configured cache.
 * @throws {SkrError} ERR_SKR_REPORT, ERR_SKR_CERTIFICATES, ERR_SKR_NETWORK
 */
export async function collectEvidence(ports: EvidencePorts, runtimeData: Uint8Array): Promise<Evidence> {
  const first = await fetchBoundReport(ports.reports, runtimeData);
  const local = localCertificates(ports, first);
  if (local !== undefined) return evidence(ports, first, local);
  const tcb = formatTcbNumber(first.report.reportedTcb);
  if (ports.certificateCache === undefined) {
    throw new SkrError("ERR_SKR_CERTIFICATES", `neither the host nor the report has certificates for the reported TCB ${tcb}`, {
      hint: "Set certcache in SkrSideCarArgs.",
    });
  }
  const cached = await fetchCachedCertificates(ports, ports.certificateCache, first.report, signingKeyOf(first.bytes));
  if (cached.tcb === tcb) return evidence(ports, first, cached.chain);
  // The platform may have been updated between the two answers: one more report settles it.
  const second = await fetchBoundReport(ports.reports, runtimeData);
  const now = formatTcbNumber(second.report.reportedTcb);
  if (cached.tcb !== now) throw new SkrError("ERR_SKR_CERTIFICATES", `SNP reported TCB value: ${now} doesn't match certificate TCB value: ${cached.tcb}`);
  return evidence(ports, second, cached.chain);
}

function evidence(ports: EvidencePorts, { bytes, report }: BoundReport, chain: CertificateChain): Evidence {
  return {
    report: bytes,
    certificates: encodeChain(chain),
    tcb: formatTcbNumber(report.reportedTcb).toLowerCase().padStart(16, "0"),
    uvmEndorsement: ports.securityContext.uvmEndorsement,
  };
}

function localCertificates(ports: EvidencePorts, { bytes, report, auxblob }: BoundReport): CertificateChain | undefined {
  const tcb = formatTcbNumber(report.reportedTcb);
  const signedBy = signingKeyOf(bytes);
  const host = ports.securityContext.hostCertificates;
  // Both sources are the host's: what is broken in them costs us those certificates, nothing else.
  try {
    const certificates = host === undefined ? undefined : parseThimCertificates(host, signedBy);
    if (certificates?.tcb === tcb) return certificates.chain;
    if (certificates !== undefined) ports.logger.log("info", "the host's certificates are for another TCB", { certificates: certificates.tcb, report: tcb });
  } catch (error) {
    ports.logger.log("warn", "the host's certificates are unusable", { problem: messageOf(error) });
  }
  try {
    return isZero(auxblob) ? undefined : parseCertificateChainTable(auxblob, signedBy);
  } catch (error) {
    ports.logger.log("warn", "the report's certificate table is unusable", { problem: messageOf(error) });
    return undefined;
  }
}
