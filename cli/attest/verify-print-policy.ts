import { isZero } from "@sealpod/core";
import {
  anyReportPolicy,
  encodeReportPolicy,
  HOST_VMPL,
  parseGuestPolicy,
  parseReport,
  parseTcb,
  productOfReport,
  type Report,
  type ReportPolicy,
} from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { CliError } from "../errors.ts";
import type { ReportInput } from "./verify-input.ts";
import type { VerifyFlags } from "./verify-options.ts";
import { readStated, reportDataOver } from "./verify-requirements.ts";
import { readBytes } from "../workspace.ts";

/** What hardly anybody wants otherwise: no debugging, and a report of the guest's most privileged level. */
const USUAL: Pick<ReportPolicy, "debug" | "vmpls"> = { debug: "forbidden", vmpls: [0] };

/** A policy document to begin with, and what to say about it. */
export interface PolicyTemplate {
  readonly document: string;
  readonly notes: readonly string[];
}

/**
 * A report policy with all its members: the usual requirements, then what a report says if there is one, then what the flags say.
 * @throws {CliError} ERR_CLI_USAGE, ERR_CLI_FILE
 * @throws {SnpError} ERR_SNP_REPORT and others for what is no report
 */
export async function policyTemplate(input: ReportInput | undefined, flags: VerifyFlags, context: CliContext): Promise<PolicyTemplate> {
  if (flags.policy !== undefined) throw new CliError("ERR_CLI_USAGE", "--print-policy and --policy exclude each other: the one writes what the other reads");
  if (flags.reportData !== undefined && flags.runtimeData !== undefined)
    throw new CliError("ERR_CLI_USAGE", "--report-data and --runtime-data both say what REPORT_DATA must be");
  const report = input === undefined ? undefined : parseReport(input.report);
  const policy: ReportPolicy = {
    ...anyReportPolicy(),
    ...USUAL,
    ...(report !== undefined && filled(report)),
    ...(flags.allowDebug === true && { debug: "any" }),
    ...(flags.runtimeData !== undefined && { reportData: reportDataOver(await readBytes(flags.runtimeData, context)) }),
    ...(await readStated(flags, context)),
  };
  return { document: encodeReportPolicy(policy), notes: report === undefined ? [] : notesOf(report, policy) };
}

/** What a report says of what runs in the guest and on what. What differs with each report (REPORT_DATA) or machine (the chip) stays open. */
function filled(report: Report): Partial<ReportPolicy> {
  const claimed = productOfReport(report);
  const { authorKeyEnabled, signingKey } = report.keyInfo;
  return {
    ...(claimed.kind === "known" && { products: [claimed.product], minimumTcb: { [claimed.product]: levels(report, claimed.product) } }),
    ...(signingKey !== "none" && { signingKeys: [signingKey] }),
    measurements: [report.measurement],
    hostData: report.hostData,
    ...(report.vmpl !== HOST_VMPL && { vmpls: [report.vmpl] }),
    minimumGuestSvn: report.guestSvn,
    familyId: report.familyId,
    imageId: report.imageId,
    ...(!isZero(report.idKeyDigest) && { idKeyDigests: [report.idKeyDigest] }),
    ...(authorKeyEnabled && { authorKey: "required", authorKeyDigests: [report.authorKeyDigest] }),
  };
}

function levels({ reportedTcb }: Report, product: Parameters<typeof parseTcb>[1]): NonNullable<Exclude<ReportPolicy["minimumTcb"], "any">["Milan"]> {
  const { fmc, bootloader, tee, snp, microcode } = parseTcb(reportedTcb, product);
  return { ...(fmc !== undefined && { fmc }), bootloader, tee, snp, microcode };
}

function notesOf(report: Report, { debug, vmpls }: ReportPolicy): readonly string[] {
  return [
    "the values are what the report says: nothing of it was verified, so look at each",
    ...(debug === "forbidden" && parseGuestPolicy(report.policy).debugAllowed ? ["this report does not meet the policy: its guest allows debugging"] : []),
    ...(vmpls !== "any" && !vmpls.includes(report.vmpl)
      ? ["this report does not meet the policy: the host asked for it, or another VMPL than the policy names"]
      : []),
  ];
}
