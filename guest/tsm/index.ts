export * from "./errors.ts";
export { type Evidence, type EvidenceOrigin, type EvidenceSource, type FetchEvidenceOptions } from "./evidence.ts";
export { fetchReport, type FetchReportOptions, TSM_REPORT_DIRECTORY, type TsmReport, type Wait } from "./fetch-report.ts";
export { EMULATED_REPORT_DIRECTORY, openEvidenceSource, type OpenEvidenceSourceOptions } from "./open-evidence-source.ts";
export { MAX_TSM_ENTRIES, type ReportProvider, serveTsm, type TsmBlobs, type TsmServer } from "./serve-directory.ts";
export { openSevGuestSource, PERL, SEV_GUEST_DEVICE, type SevGuestOptions } from "./sev-guest.ts";
export { openTsmSource, type TsmSourceOptions } from "./tsm-source.ts";
