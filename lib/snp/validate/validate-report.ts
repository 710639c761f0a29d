import { equalBytes, isZero, toHex } from "@sealpod/core";
import { type GuestPolicyBit, parseGuestPolicy } from "../abi/guest-policy.ts";
import { formatPlatformInfo, PLATFORM_BITS, type PlatformFeature } from "../abi/platform-info.ts";
import { HOST_VMPL, type Report } from "../abi/report.ts";
import { firstTcbBelow, formatTcb, type TcbVersion } from "../abi/tcb.ts";
import { SnpError } from "../errors.ts";
import type { VerifiedReport } from "../verify/verify-report.ts";
import {
  type AbiVersion,
  type MinimumTcbs,
  type PlatformBitName,
  REPORT_CHECKS,
  type ReportCheck,
  type ReportPolicy,
  type Requirement,
} from "./report-policy.ts";

/** The result of one check. */
export interface PolicyCheck {
  readonly check: ReportCheck;
  readonly outcome: "met" | "unmet" | "any";
  /** What the report has, in words. */
  readonly found: string;
  /** What the policy requires, in words; "any" if nothing. */
  readonly required: string;
}

/** A verified report that met a policy. */
export interface ValidatedReport extends Omit<VerifiedReport, "kind"> {
  readonly kind: "validated-report";
  readonly policy: ReportPolicy;
}

/**
 * Holds a verified report against a policy (specs/attestation.md section 1.11, step 6): all checks, in the order of the fields of {@link ReportPolicy}.
 * @throws {SnpError} ERR_SNP_POLICY_SYNTAX if a field of the policy is missing, or is none that there is
 */
export function checkReport(verified: VerifiedReport, policy: ReportPolicy): readonly PolicyCheck[] {
  checkComplete(policy);
  return REPORT_CHECKS.map((check) => run(check, verified, policy));
}

/**
 * Validates a verified report against a policy: as {@link checkReport}, but the first check that is not met is an error that names it.
 * @throws {SnpError} ERR_SNP_POLICY with the check in `details.check`, ERR_SNP_POLICY_SYNTAX
 */
export function validateReport(verified: VerifiedReport, policy: ReportPolicy): ValidatedReport {
  for (const { check, outcome, found, required } of checkReport(verified, policy)) {
    if (outcome !== "unmet") continue;
    throw new SnpError("ERR_SNP_POLICY", `report policy, ${check}: found ${found}, expected ${required}`, { details: { check, found, expected: required } });
  }
  return { ...verified, kind: "validated-report", policy };
}

/** One check: what a report has, what is required, both in words, and whether they meet. */
interface Rule<T> {
  found(verified: VerifiedReport): string;
  required(requirement: T, verified: VerifiedReport): string;
  met(requirement: T, verified: VerifiedReport): boolean;
}

/** The type has a rule for each field: a field without one does not compile. */
const RULES: { readonly [K in ReportCheck]: Rule<Requirement<K>> } = {
  roots: {
    found: ({ root }) => `root "${root.name}"`,
    required: (names) => either(names.map((name) => `"${name}"`)),
    met: (names, { root }) => names.includes(root.name),
  },
  products: oneOf(({ product }) => product),
  reportVersions: oneOf(({ report }) => report.version),
  signingKeys: oneOf(({ endorsementKey }) => endorsementKey.kind),
  chipIds: {
    found: (verified) => (isZero(chipId(verified)) ? "a masked chip id" : toHex(chipId(verified))),
    required: (ids) => either(ids.map(toHex)),
    // A masked id is no chip's, whatever the list says.
    met: (ids, verified) => !isZero(chipId(verified)) && ids.some((id) => equalBytes(padded(id), chipId(verified))),
  },
  cspIds: {
    found: ({ endorsementKey }) => (endorsementKey.cspId === undefined ? "no provider (VCEK)" : JSON.stringify(endorsementKey.cspId)),
    required: (ids) => either(ids.map((id) => JSON.stringify(id))),
    met: (ids, { endorsementKey }) => endorsementKey.cspId !== undefined && ids.includes(endorsementKey.cspId),
  },
  reportData: bytes(({ reportData }) => reportData),
  hostData: bytes(({ hostData }) => hostData),
  measurements: anyBytes(({ measurement }) => measurement),
  vmpls: {
    found: ({ report }) => formatVmpl(report.vmpl),
    required: (vmpls) => either(vmpls.map(formatVmpl)),
    met: (vmpls, { report }) => vmpls.includes(report.vmpl),
  },
  debug: guestBit("debugAllowed", false, "debugging"),
  migrationAgent: guestBit("migrationAgentAllowed", false, "a migration agent"),
  smt: guestBit("smtAllowed", false, "SMT"),
  singleSocket: guestBit("singleSocketRequired", true, "more than one socket"),
  cxl: guestBit("cxlAllowed", false, "CXL"),
  aes256Xts: guestBit("aes256XtsRequired", true, "memory without AES-256-XTS"),
  rapl: guestBit("raplDisabled", true, "RAPL"),
  ciphertextHiding: guestBit("ciphertextHidingRequired", true, "memory without ciphertext hiding"),
  pageSwap: guestBit("pageSwapDisabled", true, "page swapping"),
  minimumGuestAbi: minimumVersion("a guest policy for ABI", guestAbi),
  guestAbiMet: {
    found: ({ report }) => `firmware ${report.currentFirmware.major}.${report.currentFirmware.minor}`,
    required: (_, { report }) => `at least ABI ${guestAbi(report).major}.${guestAbi(report).minor} of the guest's policy`,
    met: (_, { report }) => !isBelow(report.currentFirmware, guestAbi(report)),
  },
  minimumFirmware: minimumVersion("firmware", ({ currentFirmware }) => currentFirmware),
  provisionalFirmware: {
    found: ({ report }) => (isCommitted(report) ? "committed firmware" : "running firmware that is not committed, so that the host can roll it back"),
    required: () => "committed firmware",
    met: (_, { report }) => isCommitted(report),
  },
  minimumTcb: minimumTcb("REPORTED_TCB", ({ reported }) => reported),
  minimumCommittedTcb: minimumTcb("COMMITTED_TCB", ({ committed }) => committed),
  minimumCurrentTcb: minimumTcb("CURRENT_TCB", ({ current }) => current),
  minimumLaunchTcb: minimumTcb("LAUNCH_TCB", ({ launch }) => launch),
  minimumGuestSvn: {
    found: ({ report }) => `guest SVN ${report.guestSvn}`,
    required: (least) => `at least ${least}`,
    met: (least, { report }) => report.guestSvn >= least,
  },
  familyId: bytes(({ familyId }) => familyId),
  imageId: bytes(({ imageId }) => imageId),
  idKeyDigests: anyBytes(({ idKeyDigest }) => idKeyDigest),
  authorKey: {
    found: ({ report }) => (report.keyInfo.authorKeyEnabled ? "an author key" : "no author key"),
    required: () => "an author key",
    met: (_, { report }) => report.keyInfo.authorKeyEnabled,
  },
  authorKeyDigests: {
    found: ({ report }) => (report.keyInfo.authorKeyEnabled ? toHex(report.authorKeyDigest) : "no author key"),
    required: (digests) => either(digests.map(toHex)),
    met: (digests, { report }) => report.keyInfo.authorKeyEnabled && digests.some((digest) => equalBytes(digest, report.authorKeyDigest)),
  },
  platformSet: {
    found: ({ report }) => formatPlatformInfo(report.platformInfo),
    required: (names) => `${names.join(", ") || "nothing"} set`,
    met: (names, { report }) => (platformMask(names) & ~report.platformInfo) === 0n,
  },
  platformClear: {
    found: ({ report }) => formatPlatformInfo(report.platformInfo),
    required: (names) => `${names.join(", ") || "nothing"} clear`,
    met: (names, { report }) => (platformMask(names) & report.platformInfo) === 0n,
  },
  launchMitigations: mitigations(({ launchMitigations }) => launchMitigations),
  currentMitigations: mitigations(({ currentMitigations }) => currentMitigations),
};

// eslint-disable-next-line typescript/no-unnecessary-type-parameters -- it ties the value of a check to what is done with it
function run<K extends ReportCheck>(check: K, verified: VerifiedReport, policy: ReportPolicy): PolicyCheck {
  const rule: Rule<Requirement<K>> = RULES[check];
  const value = policy[check];
  const found = rule.found(verified);
  if (value === "any") return { check, outcome: "any", found, required: "any" };
  const requirement = value as Requirement<K>;
  return { check, outcome: rule.met(requirement, verified) ? "met" : "unmet", found, required: rule.required(requirement, verified) };
}

/** A caller without types may leave a field out, or misspell it: both would be a check that nobody makes. */
function checkComplete(policy: ReportPolicy): void {
  const given = new Map<string, unknown>(Object.entries(policy));
  const missing = REPORT_CHECKS.filter((check) => given.get(check) === undefined);
  const unknown = [...given.keys()].filter((name) => !(REPORT_CHECKS as readonly string[]).includes(name));
  if (missing.length === 0 && unknown.length === 0) return;
  const problems = [...missing.map((name) => `${name} is missing`), ...unknown.map((name) => `${name.slice(0, 40)} is no check`)];
  throw new SnpError("ERR_SNP_POLICY_SYNTAX", `report policy: ${problems.join(", ")}`, {
    details: { missing, unknown },
    hint: 'Give each check a requirement or the word "any"; anyReportPolicy() has them all.',
  });
}

function oneOf<T extends string | number>(pick: (verified: VerifiedReport) => T): Rule<readonly T[]> {
  return {
    found: (verified) => String(pick(verified)),
    required: (values) => either(values.map(String)),
    met: (values, verified) => values.includes(pick(verified)),
  };
}

function bytes(pick: (report: Report) => Uint8Array): Rule<Uint8Array> {
  return { found: ({ report }) => toHex(pick(report)), required: toHex, met: (expected, { report }) => equalBytes(expected, pick(report)) };
}

function anyBytes(pick: (report: Report) => Uint8Array): Rule<readonly Uint8Array[]> {
  return {
    found: ({ report }) => toHex(pick(report)),
    required: (expected) => either(expected.map(toHex)),
    met: (expected, { report }) => expected.some((one) => equalBytes(one, pick(report))),
  };
}

/** The bit of the guest's policy must have this value; `what` is what the guest allows when it does not. */
function guestBit(bit: GuestPolicyBit, wanted: boolean, what: string): Rule<"forbidden" | "required"> {
  const holds = ({ report }: VerifiedReport): boolean => parseGuestPolicy(report.policy)[bit] === wanted;
  const text = (good: boolean): string => `a guest policy that ${good ? "forbids" : "allows"} ${what}`;
  return { found: (verified) => text(holds(verified)), required: () => text(true), met: (_, verified) => holds(verified) };
}

function minimumVersion(what: string, pick: (report: Report) => AbiVersion): Rule<AbiVersion> {
  return {
    found: ({ report }) => `${what} ${pick(report).major}.${pick(report).minor}`,
    required: ({ major, minor }) => `at least ${major}.${minor}`,
    met: (least, { report }) => !isBelow(pick(report), least),
  };
}

function minimumTcb(name: string, pick: (tcb: VerifiedReport["tcb"]) => TcbVersion): Rule<MinimumTcbs> {
  return {
    found: ({ product, tcb }) => `${name} ${formatTcb(pick(tcb))} of ${product}`,
    required: (minimums, { product }) => {
      const minimum = minimums[product];
      if (minimum === undefined) return either(Object.keys(minimums));
      const levels = Object.entries(minimum).map(([component, level]) => `${component} of at least ${level}`);
      return levels.join(", ") || `any level of ${product}`;
    },
    met: (minimums, { product, tcb }) => {
      const minimum = minimums[product];
      return minimum !== undefined && firstTcbBelow(pick(tcb), minimum) === undefined;
    },
  };
}

function mitigations(pick: (report: Report) => bigint): Rule<bigint> {
  return {
    found: ({ report }) =>
      report.version === 5 ? `mitigation bits 0x${pick(report).toString(16)}` : `a report of version ${report.version}, which has no mitigation vectors`,
    required: (mask) => `all bits of 0x${mask.toString(16)}`,
    // An older report has zeros where the vectors would be. It meets no requirement, not even an empty one.
    met: (mask, { report }) => report.version === 5 && (mask & ~pick(report)) === 0n,
  };
}

/** The chip as AMD certified it, or of a VLEK report as firmware wrote it; 64 bytes, of zeros if masked. */
function chipId({ report, endorsementKey }: VerifiedReport): Uint8Array {
  return endorsementKey.hwId === undefined ? report.chipId : padded(endorsementKey.hwId);
}

function padded(id: Uint8Array): Uint8Array {
  if (id.length !== 8) return id;
  const whole = new Uint8Array(64);
  whole.set(id);
  return whole;
}

function guestAbi(report: Report): AbiVersion {
  const { abiMajor, abiMinor } = parseGuestPolicy(report.policy);
  return { major: abiMajor, minor: abiMinor };
}

function isBelow(version: AbiVersion, least: AbiVersion): boolean {
  return version.major < least.major || (version.major === least.major && version.minor < least.minor);
}

function isCommitted({ currentTcb, committedTcb, currentFirmware: current, committedFirmware: committed }: Report): boolean {
  return equalBytes(currentTcb, committedTcb) && current.major === committed.major && current.minor === committed.minor && current.build === committed.build;
}

function platformMask(names: readonly PlatformBitName[]): bigint {
  return names.reduce((mask, name) => mask | (1n << BigInt(platformBitNumber(name))), 0n);
}

/** @throws {SnpError} ERR_SNP_POLICY_SYNTAX */
function platformBitNumber(name: PlatformBitName): number {
  const number = /^bit([0-9]|[1-5][0-9]|6[0-3])$/.exec(name)?.[1];
  if (number !== undefined) return Number(number);
  if (Object.hasOwn(PLATFORM_BITS, name)) return PLATFORM_BITS[name as PlatformFeature];
  throw new SnpError("ERR_SNP_POLICY_SYNTAX", `report policy: ${JSON.stringify(name)} is no bit of PLATFORM_INFO`);
}

function formatVmpl(vmpl: number): string {
  return vmpl === HOST_VMPL ? "the host (VMPL 0xffffffff)" : `VMPL ${vmpl}`;
}

function either(values: readonly string[]): string {
  return values.join(" or ") || "nothing at all";
}
