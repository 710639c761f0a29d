import { statfs } from "node:fs/promises";
import { type Evidence, type EvidenceOrigin, type EvidenceSource, paddedReportData, requireReportOver } from "./evidence.ts";
import { fetchReport, makeEntry, printable, readProvider, removeEntry, requireProvider } from "./fetch-report.ts";

/** `f_type` of configfs (Linux include/uapi/linux/magic.h, CONFIGFS_MAGIC). */
const CONFIGFS_MAGIC = 0x6265_6570;

/** Options of {@link openTsmSource}. */
export interface TsmSourceOptions {
  /** The provider that must answer; default "sev_guest". */
  readonly provider?: string;
}

/**
 * Opens configfs-tsm, or a directory that behaves like it. Only the kernel has a file system of the kind configfs, so that, and not a name that anyone can choose, tells it from the emulator.
 * Makes an entry and removes it again: the directory is there without a provider too.
 * @param directory the `report` directory
 * @throws {TsmError} ERR_TSM_UNAVAILABLE, ERR_TSM_PROVIDER
 */
export async function openTsmSource(directory: string, options: TsmSourceOptions = {}): Promise<EvidenceSource> {
  const entry = await makeEntry(directory);
  let provider: string;
  try {
    provider = await readProvider(entry);
  } finally {
    await removeEntry(entry);
  }
  const kernel = (await statfs(directory)).type === CONFIGFS_MAGIC;
  // The emulator answers a moment later than the kernel; then its name is looked at when it answers.
  if (kernel || provider !== "") requireProvider(provider, options.provider);
  const origin: EvidenceOrigin = kernel ? { kind: "configfs-tsm", detail: `${directory} (${printable(provider)})` } : { kind: "emulator", detail: directory };
  return {
    origin,
    async fetch(reportData, fetchOptions = {}): Promise<Evidence> {
      const data = paddedReportData(reportData);
      const { report, auxblob } = await fetchReport(directory, data, { ...fetchOptions, ...options });
      requireReportOver(report, data);
      return { report, certificates: auxblob, origin };
    },
  };
}
