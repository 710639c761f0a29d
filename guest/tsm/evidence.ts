import { TsmError } from "./errors.ts";
import type { Wait } from "./fetch-report.ts";

/**
 * Where evidence was fetched, for logs and people: nothing here is proof. The shape is that of `EvidenceOrigin` of `@sealpod/snp`, of which these are the kinds that a machine has itself;
 * it is declared again because this package is part of the guest's trusted computing base and stays free of that dependency.
 */
export interface EvidenceOrigin {
  /** `emulator`: NO hardware protection. */
  readonly kind: "configfs-tsm" | "sev-guest" | "emulator";
  /** Directory and provider, or device. */
  readonly detail?: string;
}

/** A report as it was fetched; nothing about it is verified. */
export interface Evidence {
  /** Raw report, 1184 bytes. */
  readonly report: Uint8Array;
  /** The host's certificate table (specs/attestation.md section 1.8); empty if it gives none. */
  readonly certificates: Uint8Array;
  readonly origin: EvidenceOrigin;
}

/** Options of {@link EvidenceSource.fetch}. */
export interface FetchEvidenceOptions {
  /** Gives up when aborted. */
  readonly signal?: AbortSignal;
  /** Gives up after this many milliseconds; default 30 seconds. */
  readonly timeoutMs?: number;
  /** VMPL that the report states, 0 to 3; default: the lowest that the source may ask for. */
  readonly privlevel?: number;
  /** Waits between two attempts; default: a timer. */
  readonly wait?: Wait;
}

/** A place that gives reports about the machine that this runs on. */
export interface EvidenceSource {
  readonly origin: EvidenceOrigin;
  /**
   * Fetches a report over REPORT_DATA.
   * @param reportData 1 to 64 bytes; shorter ones are padded with zeros
   * @throws {TsmError} all codes
   */
  fetch(reportData: Uint8Array, options?: FetchEvidenceOptions): Promise<Evidence>;
}

const REPORT_SIZE = 1184;
const REPORT_DATA_OFFSET = 0x50;

/** REPORT_DATA in its full length, 64 bytes. */
export function paddedReportData(reportData: Uint8Array): Uint8Array {
  if (reportData.length < 1 || reportData.length > 64) {
    throw new TsmError("ERR_TSM_INPUT", `REPORT_DATA of ${reportData.length} bytes, expected 1 to 64`, { details: { found: reportData.length } });
  }
  const padded = new Uint8Array(64);
  padded.set(reportData);
  return padded;
}

/**
 * Refuses what is no report, or one over other data. Whoever verifies it later would find that too, and call it an attack.
 * @param reportData 64 bytes
 */
export function requireReportOver(report: Uint8Array, reportData: Uint8Array): void {
  if (report.length !== REPORT_SIZE) throw new TsmError("ERR_TSM_FORMAT", `the source gave ${report.length} bytes, expected a report of ${REPORT_SIZE}`);
  if (reportData.some((byte, index) => byte !== report[REPORT_DATA_OFFSET + index])) {
    throw new TsmError("ERR_TSM_FORMAT", "the source gave a report over other data than was asked for");
  }
}
