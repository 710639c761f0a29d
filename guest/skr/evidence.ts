import { concatBytes, equalBytes, isZero, messageOf, sha256, type Logger } from "@sealpod/core";
import { formatTcbNumber, parseCertificateChainTable, parseEndorsementKey, parseReport, signingKeyOf, type CertificateChain, type Report } from "@sealpod/snp";
import type { CertificateCache } from "./arguments.ts";
import { encodeChain, fetchAnyThimCertificates, fetchCachedCertificates, parseThimCertificates, type ReportCertificates } from "./certificate-cache.ts";
import { SkrError } from "./errors.ts";
import { requireTime, type CallPorts } from "./http-client.ts";
import type { SecurityContext } from "./security-context.ts";

/** Where reports come from. */
export interface ReportSource {
  /** `emulator`: NO hardware protection. */
  readonly kind: "kernel" | "emulator";
  /** The processor's report over `reportData` (64 bytes), and the certificate table that the host attached to it. */
  fetchReport(reportData: Uint8Array, signal?: AbortSignal): Promise<{ readonly report: Uint8Array; readonly auxblob: Uint8Array }>;
}

/** Proof of what this guest is, bound to some data. */
export interface Evidence {
  /** 1184 bytes. */
  readonly report: Uint8Array;
  /** VCEK (or VLEK), its issuer, and the root. */
  readonly chain: CertificateChain;
  /** PEM of {@link chain}, in that order. */
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
  /** Takes certificates for another TCB than the report's where there are no others. For tests: verifiers refuse such evidence. */
  readonly allowMismatchedTcb?: boolean;
  readonly logger: Logger;
}

/** A report over the data that were asked for; nothing else about it is verified. */
export interface BoundReport {
  /** 1184 bytes. */
  readonly bytes: Uint8Array;
  readonly report: Report;
  /** The host's certificate table; empty if it gives none. */
  readonly auxblob: Uint8Array;
}

/** REPORT_DATA that binds runtime data as the Azure services want it: SHA-256, then 32 zero bytes (specs/attestation.md 4.2). */
export function reportDataOf(runtimeData: Uint8Array): Uint8Array {
  return concatBytes(sha256(runtimeData), new Uint8Array(32));
}

/**
 * Asks the processor for a report.
 * @param reportData 64 bytes
 * @throws {SkrError} ERR_SKR_REPORT, ERR_SKR_TIMEOUT
 */
export async function fetchBoundReport(ports: Pick<EvidencePorts, "reports" | "signal">, reportData: Uint8Array): Promise<BoundReport> {
  try {
    const { report: bytes, auxblob } = await ports.reports.fetchReport(reportData, ports.signal);
    const report = parseReport(bytes);
    // A stale report is a mistake below us; the verifier would find it later and call it an attack.
    if (!equalBytes(report.reportData, reportData)) throw new Error("it is not over the data that was asked for");
    return { bytes, report, auxblob };
  } catch (cause) {
    requireTime(ports.signal, "the processor");
    throw new SkrError("ERR_SKR_REPORT", `no attestation report: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Collects a report and the certificates that belong to it: the host's if they are for the reported TCB, else those of the
 * report's certificate table, else those of the configured cache. If that has none for this report, the platform may have
 * been updated meanwhile: one more report settles it (specs/attestation.md 5.1).
 * @param reportData 64 bytes: {@link reportDataOf}, or what another protocol binds
 * @throws {SkrError} ERR_SKR_REPORT, ERR_SKR_CERTIFICATES, ERR_SKR_NETWORK, ERR_SKR_TIMEOUT
 */
export async function collectEvidence(ports: EvidencePorts, reportData: Uint8Array): Promise<Evidence> {
  const first = await fetchBoundReport(ports, reportData);
  try {
    return evidence(ports, first, await certificatesFor(ports, first));
  } catch (error) {
    if (!(error instanceof SkrError) || error.code !== "ERR_SKR_CERTIFICATES") throw error;
    const second = await fetchBoundReport(ports, reportData);
    if (formatTcbNumber(second.report.reportedTcb) !== formatTcbNumber(first.report.reportedTcb)) {
      ports.logger.log("info", "the reported TCB has changed meanwhile", {
        before: formatTcbNumber(first.report.reportedTcb),
        now: formatTcbNumber(second.report.reportedTcb),
      });
      return evidence(ports, second, await certificatesFor(ports, second));
    }
    const mismatched = ports.allowMismatchedTcb === true ? await anyCertificates(ports, second) : undefined;
    if (mismatched === undefined) throw error;
    ports.logger.log("warn", "certificates for ANOTHER TCB than the report's are used, as -allowTestingMismatchedTCB says: verifiers will refuse them", {
      certificates: mismatched.tcb,
      report: formatTcbNumber(second.report.reportedTcb),
    });
    return evidence(ports, second, mismatched.chain);
  }
}

function evidence(ports: EvidencePorts, { bytes, report }: BoundReport, chain: CertificateChain): Evidence {
  return {
    report: bytes,
    chain,
    certificates: encodeChain(chain),
    tcb: formatTcbNumber(report.reportedTcb).toLowerCase().padStart(16, "0"),
    uvmEndorsement: ports.securityContext.uvmEndorsement,
  };
}

async function certificatesFor(ports: EvidencePorts, bound: BoundReport): Promise<CertificateChain> {
  const local = localCertificates(ports, bound);
  if (local !== undefined) return local;
  if (ports.certificateCache === undefined) {
    throw new SkrError(
      "ERR_SKR_CERTIFICATES",
      `neither the host nor the report has certificates for the reported TCB ${formatTcbNumber(bound.report.reportedTcb)}`,
      {
        hint: "Set certcache in SkrSideCarArgs.",
      },
    );
  }
  return (await fetchCachedCertificates(ports, ports.certificateCache, bound.report)).chain;
}

function localCertificates(ports: EvidencePorts, { bytes, report, auxblob }: BoundReport): CertificateChain | undefined {
  const tcb = formatTcbNumber(report.reportedTcb);
  const signedBy = signingKeyOf(bytes);
  const host = hostCertificates(ports, bytes);
  if (host?.tcb === tcb) return host.chain;
  if (host !== undefined) ports.logger.log("info", "the host's certificates are for another TCB", { certificates: host.tcb, report: tcb });
  try {
    if (isZero(auxblob)) return undefined;
    const chain = parseCertificateChainTable(auxblob, signedBy);
    const { tcbBytes } = parseEndorsementKey(chain.endorsementKey);
    if (equalBytes(tcbBytes, report.reportedTcb)) return chain;
    ports.logger.log("info", "the report's certificate table is for another TCB", { certificates: formatTcbNumber(tcbBytes), report: tcb });
    return undefined;
  } catch (error) {
    ports.logger.log("warn", "the report's certificate table is unusable", { problem: messageOf(error) });
    return undefined;
  }
}

/** Certificates of the security context. They are the host's: what is broken in them costs us those certificates, nothing else. */
function hostCertificates(ports: EvidencePorts, bytes: Uint8Array): ReportCertificates | undefined {
  const host = ports.securityContext.hostCertificates;
  if (host === undefined) return undefined;
  try {
    return parseThimCertificates(host, signingKeyOf(bytes));
  } catch (error) {
    ports.logger.log("warn", "the host's certificates are unusable", { problem: messageOf(error) });
    return undefined;
  }
}

async function anyCertificates(ports: EvidencePorts, { bytes }: BoundReport): Promise<ReportCertificates | undefined> {
  const cache = ports.certificateCache;
  const host = hostCertificates(ports, bytes);
  if (host !== undefined || cache?.kind !== "LocalTHIM") return host;
  return fetchAnyThimCertificates(ports, cache.endpoint, signingKeyOf(bytes));
}
