import { equalBytes, fromAnyBase64, isSealpodError, isZero, messageOf, sha256, toHex, type SealpodError } from "@sealpod/core";
import { MICROSOFT_UVM_TRUST, verifyUvmEndorsement } from "@sealpod/cose";
import { nameAttribute, OID, type Certificate } from "@sealpod/pki";
import {
  AMD_OID,
  checkReport,
  EVIDENCE_CHECKS,
  evidenceCheckOf,
  formatPlatformInfo,
  formatTcb,
  HOST_VMPL,
  parseEndorsementKey,
  parseGuestPolicy,
  parseReport,
  parseTcb,
  productOfReport,
  selectCertificateChain,
  signingKeyOf,
  verifyReport,
  type GuestPolicy,
  type ProductName,
  type Report,
  type VerifiedReport,
} from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import { readBytes } from "../workspace.ts";
import { type CachedCertificates, readCertcache } from "./verify-certcache.ts";
import { recogniseCertificates, type ReportInput } from "./verify-input.ts";
import type { CheckGroup, CheckLine, VerifyFlags, VerifyOutcome } from "./verify-options.ts";
import { guestSentences } from "./verify-output.ts";
import { readRequirements, reportDataOver, type Requirements } from "./verify-requirements.ts";
import { readTrust, type Trust } from "./verify-trust.ts";

const CERTIFICATE_HINT =
  "Give the chip's certificates with --certs FILE. `sealpod certcache fetch REPORT` gets them from AMD, and `sealpod certcache export -o bundle.json` writes a file for --certs.";

/**
 * Verifies a report with what came with it and what the command line adds.
 * @throws {CliError} and the errors of files on the command line; what is the matter with the evidence itself is the outcome
 */
export async function verifyEvidence(input: ReportInput, flags: VerifyFlags, context: CliContext): Promise<VerifyOutcome> {
  const trust = await readTrust(flags, context);
  const requirements = await readRequirements(flags, context);
  const given = (await Promise.all((flags.certs ?? []).map(async (file) => recogniseCertificates(await readBytes(file, context), file)))).flat();
  const endorsements = await readEndorsements(input, flags, context);

  const cached = [...given, ...input.certificates].some(isEndorsementKey) ? undefined : await readCertcache(input.report, flags, trust, context);
  const genuine = verifyGenuine(input, given, cached, trust);
  const groups: CheckGroup[] = [{ title: "evidence", checks: genuine.checks }];
  if (cached !== undefined && cached.certificates.length > 0)
    groups.unshift({ title: "certificates", checks: [{ name: "certcache", outcome: "passed", found: cached.found }] });
  const { report, verified } = genuine;
  const fields = report === undefined ? undefined : reportFields(report, verified?.product);
  if (verified === undefined) {
    const { error } = genuine;
    const malformed = error !== undefined && error.row.exit === 1;
    return {
      form: input.form,
      verdict: malformed ? "malformed" : "refused",
      groups,
      fields,
      fieldsVerified: false,
      meaning: genuine.problem,
      root: undefined,
      emulated: false,
      hint: genuine.hint,
      code: error?.code,
    };
  }
  const bound = checkBoundData(input, requirements, verified);
  if (bound.length > 0) groups.push({ title: "data that the report binds", checks: bound });
  const endorsed = endorsements.map((item) => checkEndorsement(item, verified));
  if (endorsed.length > 0) groups.push({ title: "endorsement of the utility VM", checks: endorsed });
  const policy = checkReport(verified, requirements.policy);
  const stated = policy.flatMap(({ check, outcome, found, required }): readonly CheckLine[] => {
    if (outcome === "any") return [];
    return [{ name: check, outcome: outcome === "met" ? "passed" : "failed", found: outcome === "met" ? found : `found ${found}, expected ${required}` }];
  });
  groups.push({ title: "requirements", checks: [...stated, ...hostCheck(verified, requirements)] });

  const failed = groups.flatMap(({ checks }) => checks).filter(({ outcome }) => outcome === "failed");
  const common = {
    form: input.form,
    groups,
    fields,
    fieldsVerified: true,
    root: verified.root.name,
    emulated: verified.root.name === "emulator",
    code: undefined,
  };
  const [first] = failed;
  if (first !== undefined) {
    const others = failed.length === 1 ? "" : ` (and ${failed.length - 1} more)`;
    return {
      ...common,
      verdict: "refused",
      meaning: `${first.name}: ${first.found}${others}`,
      hint: "The report is genuine, but it is not what was asked for.",
    };
  }
  return { ...common, verdict: "verified", meaning: meaningOf(verified, requirements, flags, bound, endorsed), hint: undefined };
}

interface Genuine {
  readonly checks: readonly CheckLine[];
  readonly report: Report | undefined;
  readonly verified: VerifiedReport | undefined;
  readonly error: SealpodError | undefined;
  readonly problem: string;
  readonly hint: string | undefined;
}

/** All checks of the evidence itself, in their order: those that passed, the one that did not, and those that were not reached. */
function verifyGenuine(input: ReportInput, given: readonly Certificate[], cached: CachedCertificates | undefined, trust: Trust): Genuine {
  const passed = new Map<string, string>();
  let report: Report | undefined;
  let pool: readonly Certificate[] = [];
  try {
    report = parseReport(input.report);
    pool = certificatePool(given, [...input.certificates, ...(cached?.certificates ?? [])], report);
    if (!pool.some(isEndorsementKey)) {
      const problem = `no certificate of the chip (VCEK or VLEK) came with the report${pool.length === 0 ? "" : ` among the ${pool.length} that did`}: nothing vouches for it${cached === undefined ? "" : `; ${cached.found}`}`;
      passed.set("structure", `report of version ${report.version}, ${input.report.length} bytes`);
      return { checks: genuineChecks(passed, "chain", problem, trust), report, verified: undefined, error: undefined, problem, hint: CERTIFICATE_HINT };
    }
    const verified = verifyReport({
      report: input.report,
      certificates: selectCertificateChain(pool, signingKeyOf(input.report)),
      roots: trust.roots,
      clock: trust.clock,
      ...(trust.revocation !== undefined && { revocation: trust.revocation }),
      observe: ({ name, found }) => passed.set(name, found),
      origin: { kind: "file" },
    });
    return { checks: genuineChecks(passed, undefined, "", trust), report, verified, error: undefined, problem: "", hint: undefined };
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    const failed = evidenceCheckOf(error.code) ?? "structure";
    return {
      checks: genuineChecks(passed, failed, error.message, trust),
      report,
      verified: undefined,
      error,
      problem: error.message,
      hint: hintOf(error, pool, trust),
    };
  }
}

function genuineChecks(passed: ReadonlyMap<string, string>, failed: string | undefined, problem: string, trust: Trust): readonly CheckLine[] {
  return EVIDENCE_CHECKS.map(({ name }): CheckLine => {
    const found = passed.get(name);
    if (found !== undefined) return { name, outcome: "passed", found };
    if (name === failed) return { name, outcome: "failed", found: problem };
    if (name === "revocation" && trust.revocation === undefined)
      return { name, outcome: "skipped", found: "not checked: no revocation list was given (--crl)" };
    return { name, outcome: "skipped", found: "not reached" };
  });
}

function hintOf(error: SealpodError, pool: readonly Certificate[], { revocation }: Trust): string | undefined {
  // Without a list of the issuer that is all that there is to do; one that is out of date has a hint of its own.
  if (error.code === "ERR_SNP_REVOCATION" && revocation?.missing === "refuse" && /: no (revocation list|CRL) of /.test(error.message))
    return "Leave out --require-crl, or give the revocation list with --crl FILE. `sealpod certcache fetch --product NAME` gets it from AMD.";
  if (error.code === "ERR_SNP_ROOT" && pool.some((certificate) => /emulat/i.test(nameAttribute(certificate.subject, OID.commonName) ?? ""))) {
    return "This is evidence of the EMULATED security processor, which protects nothing. To try it all the same, name its root: --trust emulator=ark.pem";
  }
  if (error.code === "ERR_SNP_CHAIN" && error.message.includes("missing")) return CERTIFICATE_HINT;
  return error.hint;
}

/**
 * The certificates to choose the chain from, those of the command line first. Of several, the one of the kind of key that signed the report, and among those the one for its chip and TCB,
 * stays: a choice, no check.
 * If none is, those of the command line count, so that what is wrong with the one that was named is what is said.
 */
function certificatePool(given: readonly Certificate[], embedded: readonly Certificate[], report: Report): readonly Certificate[] {
  const pool = new Map([...embedded, ...given].map((certificate) => [toHex(sha256(certificate.der)), certificate]));
  const authorities = [...pool.values()].filter((certificate) => !isEndorsementKey(certificate));
  const keys = [...given.filter(isEndorsementKey), ...embedded.filter(isEndorsementKey)];
  const wanted = keys.filter(({ extensions }) => (extensions.has(AMD_OID.cspId) ? "vlek" : "vcek") === report.keyInfo.signingKey);
  const candidates = wanted.length > 0 ? wanted : keys;
  const own = candidates.find((certificate) => isFor(certificate, report)) ?? candidates[0];
  return own === undefined ? authorities : [own, ...authorities];
}

function isFor(certificate: Certificate, { reportedTcb, chipId }: Report): boolean {
  try {
    const { tcbBytes, hwId } = parseEndorsementKey(certificate);
    return equalBytes(tcbBytes, reportedTcb) && (hwId === undefined || isZero(chipId) || equalBytes(hwId, chipId.subarray(0, hwId.length)));
  } catch (error) {
    if (isSealpodError(error)) return false;
    throw error;
  }
}

function isEndorsementKey({ extensions }: Certificate): boolean {
  return extensions.has(AMD_OID.productName);
}

interface NamedEndorsement {
  readonly name: string;
  /** Asked for by the command line, so it must hold. */
  readonly required: boolean;
  readonly bytes: Uint8Array;
}

async function readEndorsements(input: ReportInput, flags: VerifyFlags, context: CliContext): Promise<readonly NamedEndorsement[]> {
  const given = await Promise.all(
    (flags.endorsement ?? []).map(async (file) => {
      const bytes = await readBytes(file, context);
      // COSE_Sign1 begins with tag 18 (0xd2); the files of a security context are base64.
      const text = bytes[0] === 0xd2 ? undefined : Buffer.from(bytes).toString("latin1").replaceAll(/\s+/g, "");
      return { name: file, required: true, bytes: text === undefined ? bytes : fromAnyBase64(text, file) };
    }),
  );
  return [...input.endorsements.map((bytes, index) => ({ name: `enclosed ${index + 1}`, required: false, bytes })), ...given];
}

/** An enclosed endorsement that does not hold costs what it would have given; one that was asked for must hold. */
function checkEndorsement({ name, required, bytes }: NamedEndorsement, { report }: VerifiedReport): CheckLine {
  const without = (problem: string): CheckLine => ({
    name,
    outcome: required ? "failed" : "skipped",
    found: required ? problem : `does not count: ${problem}`,
  });
  try {
    const { feed, svn, claim, launchMeasurement } = verifyUvmEndorsement(bytes, MICROSOFT_UVM_TRUST);
    if (!equalBytes(launchMeasurement, report.measurement))
      return without(`it endorses the measurement ${toHex(launchMeasurement)}, the report has ${toHex(report.measurement)}`);
    return { name, outcome: "passed", found: `${feed} version ${svn} for the report's measurement: ${claim}` };
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return without(messageOf(error));
  }
}

function checkBoundData(input: ReportInput, requirements: Requirements, { report }: VerifiedReport): readonly CheckLine[] {
  const lines: CheckLine[] = [];
  const compare = (name: string, field: string, found: Uint8Array, expected: Uint8Array, data: Uint8Array): void => {
    const met = equalBytes(found, expected);
    const what = `SHA-256 of its ${data.length} bytes`;
    lines.push({
      name,
      outcome: met ? "passed" : "failed",
      found: met ? `${field} is ${what}` : `${field} is ${toHex(found)}, but ${what} gives ${toHex(expected)}`,
    });
  };
  if (input.runtimeData !== undefined) compare("runtime data", "REPORT_DATA", report.reportData, reportDataOver(input.runtimeData), input.runtimeData);
  if (requirements.runtimeData !== undefined)
    compare("--runtime-data", "REPORT_DATA", report.reportData, reportDataOver(requirements.runtimeData), requirements.runtimeData);
  if (input.initTimeData !== undefined) compare("init-time data", "HOST_DATA", report.hostData, sha256(input.initTimeData), input.initTimeData);
  return lines;
}

/** Who asks for "any" VMPL means the guest's: a report that the host asked for must be named. */
function hostCheck({ report }: VerifiedReport, { policy }: Requirements): readonly CheckLine[] {
  if (policy.vmpls !== "any" || report.vmpl !== HOST_VMPL) return [];
  const found = `found the host (VMPL 0xffffffff), which "any" does not name; expected a VMPL of the guest, or ${HOST_VMPL} among the policy's vmpls (--vmpl host)`;
  return [{ name: "vmpls", outcome: "failed", found }];
}

/** A genuine report of somebody's guest is worth nothing yet: the sentence names what was not asked, and what must not be missed. */
function meaningOf(
  { root, product, report }: VerifiedReport,
  { policy }: Requirements,
  flags: VerifyFlags,
  bound: readonly CheckLine[],
  endorsed: readonly CheckLine[],
): string {
  const open: string[] = [];
  if (policy.measurements === "any" && policy.idKeyDigests === "any" && !endorsed.some(({ outcome }) => outcome === "passed"))
    open.push("which code was launched (--measurement, --endorsement)");
  if (policy.hostData === "any" && !bound.some(({ name }) => name === "init-time data")) open.push("under which policy (--host-data)");
  if (policy.reportData === "any" && !bound.some(({ name }) => name !== "init-time data")) open.push("for whom and when (--report-data, --runtime-data)");
  // --allow-debug is an answer, "any" in a policy may be a template's.
  if (policy.debug === "any" && flags.policy !== undefined) open.push('whether the host may debug the guest ("debug" of the policy)');
  if (policy.vmpls === "any") open.push('from which VMPL ("vmpls" of the policy)');
  const seen = guestSentences(policy.debug === "any" && parseGuestPolicy(report.policy).debugAllowed, report.vmpl === HOST_VMPL);
  const rest = [...seen, ...(open.length === 0 ? [] : [`Not asked: ${open.join("; ")}`])].map((sentence) => `. ${sentence}`).join("");
  if (root.name === "amd") return `under AMD's root: a genuine ${product} processor with SEV-SNP signed this report, and it meets the requirements${rest}`;
  return `under the EMULATOR's root: no hardware protection. The report meets the requirements${rest}`;
}

/** The fields by the names of AMD's specification, with what they mean. */
export function reportFields(report: Report, verifiedProduct: ProductName | undefined): readonly (readonly [string, string])[] {
  const claimed = productOfReport(report);
  const product = verifiedProduct ?? (claimed.kind === "known" ? claimed.product : undefined);
  const tcb = (bytes: Uint8Array): string => (product === undefined ? toHex(bytes) : formatTcb(parseTcb(bytes, product)));
  const digest = (bytes: Uint8Array): string => (isZero(bytes) ? "none" : toHex(bytes));
  const firmware = ({ major, minor, build }: Report["currentFirmware"]): string => `${major}.${minor} build ${build}`;
  const { authorKeyEnabled, chipKeyMasked, signingKey } = report.keyInfo;
  return [
    ["version", String(report.version)],
    ["product", product ?? (claimed.kind === "unknown" ? `unknown (family 0x${claimed.processor.family.toString(16)})` : "not stated")],
    ["vmpl", report.vmpl === HOST_VMPL ? "0xffffffff: asked for by the HOST" : String(report.vmpl)],
    ["measurement", toHex(report.measurement)],
    ["host data", toHex(report.hostData)],
    ["report data", toHex(report.reportData)],
    ["guest svn", String(report.guestSvn)],
    ["guest policy", `0x${report.policy.toString(16)}: ${describeGuestPolicy(parseGuestPolicy(report.policy))}`],
    ["platform", formatPlatformInfo(report.platformInfo)],
    ["signed by", `${signingKey.toUpperCase()}${chipKeyMasked ? ", chip key masked" : ""}${authorKeyEnabled ? ", author key" : ""}`],
    ["reported tcb", tcb(report.reportedTcb)],
    ["current tcb", tcb(report.currentTcb)],
    ["committed tcb", tcb(report.committedTcb)],
    ["launch tcb", tcb(report.launchTcb)],
    ["firmware", `${firmware(report.currentFirmware)}, committed ${firmware(report.committedFirmware)}`],
    ...(report.version === 5
      ? ([["mitigations", `launch 0x${report.launchMitigations.toString(16)}, current 0x${report.currentMitigations.toString(16)}`]] as const)
      : []),
    ["family id", toHex(report.familyId)],
    ["image id", toHex(report.imageId)],
    ["id key", digest(report.idKeyDigest)],
    ["author key", digest(report.authorKeyDigest)],
    ["report id", toHex(report.reportId)],
    ["chip id", isZero(report.chipId) ? "masked" : toHex(report.chipId)],
  ];
}

function describeGuestPolicy(policy: GuestPolicy): string {
  const words = [
    `ABI ${policy.abiMajor}.${policy.abiMinor}`,
    policy.debugAllowed ? "DEBUG ALLOWED" : "no debugging",
    policy.migrationAgentAllowed ? "MIGRATION AGENT ALLOWED" : "no migration agent",
    policy.smtAllowed ? "SMT allowed" : "no SMT",
  ];
  if (policy.singleSocketRequired) words.push("one socket");
  if (policy.cxlAllowed) words.push("CXL allowed");
  if (policy.aes256XtsRequired) words.push("AES-256-XTS");
  if (policy.raplDisabled) words.push("no RAPL");
  if (policy.ciphertextHidingRequired) words.push("ciphertext hidden");
  if (policy.pageSwapDisabled) words.push("no page swap");
  return words.join(", ");
}
