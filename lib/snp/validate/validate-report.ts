import { equalBytes, toHex } from "@sealpod/core";
import { parseGuestPolicy } from "../abi/guest-policy.ts";
import type { ProductName } from "../abi/product.ts";
import { firstTcbBelow, formatTcb, type TcbVersion } from "../abi/tcb.ts";
import { SnpError } from "../errors.ts";
import type { VerifiedReport } from "../verify/verify-report.ts";

/** Least levels of a TCB; a component that is left out is not compared. */
export type MinimumTcb = Partial<Pick<TcbVersion, "fmc" | "bootloader" | "tee" | "snp" | "microcode">>;

/**
 * What a relying party asks of a genuine report. Every field must be given, as a requirement or as the word "any": a check that can be forgotten will be.
 */
export interface ReportPolicy {
  /** Names of roots that may vouch. */
  readonly roots: readonly string[] | "any";
  /** REPORT_DATA, 64 bytes. */
  readonly reportData: Uint8Array | "any";
  /** HOST_DATA, 32 bytes. */
  readonly hostData: Uint8Array | "any";
  /** Launch measurements, 48 bytes each, one of which must be the report's. */
  readonly measurements: readonly Uint8Array[] | "any";
  /** VMPLs from which a report may be asked. */
  readonly vmpls: readonly number[] | "any";
  /** Whether the host may debug the guest, which reads all its memory. */
  readonly debug: "forbidden" | "any";
  /** Whether a migration agent may be attached. */
  readonly migrationAgent: "forbidden" | "any";
  /** Whether sibling threads may share a core with the guest. */
  readonly smt: "forbidden" | "any";
  /** Least REPORTED_TCB for each product; a product that is not listed is refused. */
  readonly minimumTcb: Partial<Readonly<Record<ProductName, MinimumTcb>>> | "any";
  /** Least version of the firmware that is running. */
  readonly minimumFirmware: { readonly major: number; readonly minor: number } | "any";
  /** Whether firmware that the host can still roll back (CURRENT above COMMITTED) may run. Common on genuine hosts. */
  readonly provisionalFirmware: "forbidden" | "any";
  readonly minimumGuestSvn: number | "any";
  /** 16 bytes. */
  readonly familyId: Uint8Array | "any";
  /** 16 bytes. */
  readonly imageId: Uint8Array | "any";
  /** ID key digests, 48 bytes each. */
  readonly idKeyDigests: readonly Uint8Array[] | "any";
  /** Author key digests, 48 bytes each. */
  readonly authorKeyDigests: readonly Uint8Array[] | "any";
  /** Bits of both mitigation vectors that must be set; only version 5 reports have them. */
  readonly mitigations: bigint | "any";
}

/** A name of a check of {@link ReportPolicy}, found in the `check` detail of ERR_SNP_POLICY. */
export type ReportCheck = keyof ReportPolicy;

/** A verified report that met a policy. */
export interface ValidatedReport extends Omit<VerifiedReport, "kind"> {
  readonly kind: "validated-report";
  readonly policy: ReportPolicy;
}

/**
 * Validates a verified report against a policy (specs/attestation.md section 1.11, step 6). All checks run in the order of the fields of {@link ReportPolicy}; the first that fails is named.
 * @throws {SnpError} ERR_SNP_POLICY with the check in `details.check`
 */
export function validateReport(verified: VerifiedReport, policy: ReportPolicy): ValidatedReport {
  const { report, product, tcb } = verified;
  const guest = parseGuestPolicy(report.policy);
  const firmware = report.currentFirmware;

  if (policy.roots !== "any" && !policy.roots.includes(verified.root.name)) {
    refuse("roots", `the report rests on root "${verified.root.name}"`, policy.roots.map((name) => `"${name}"`).join(" or ") || "no root at all");
  }
  checkBytes("reportData", report.reportData, policy.reportData);
  checkBytes("hostData", report.hostData, policy.hostData);
  checkOneOf("measurements", report.measurement, policy.measurements);
  if (policy.vmpls !== "any" && !policy.vmpls.includes(report.vmpl)) refuse("vmpls", `VMPL ${report.vmpl}`, policy.vmpls.join(", ") || "none");
  if (policy.debug !== "any" && guest.debugAllowed) refuse("debug", "the guest's policy allows debugging", "it forbidden");
  if (policy.migrationAgent !== "any" && guest.migrationAgentAllowed) refuse("migrationAgent", "the guest's policy allows a migration agent", "it forbidden");
  if (policy.smt !== "any" && guest.smtAllowed) refuse("smt", "the guest's policy allows SMT", "it forbidden");
  if (policy.minimumTcb !== "any") {
    const minimum = policy.minimumTcb[product];
    if (minimum === undefined) refuse("minimumTcb", `a report from ${product}`, Object.keys(policy.minimumTcb).join(" or ") || "no product");
    else {
      const component = firstTcbBelow(tcb.reported, minimum);
      if (component !== undefined)
        refuse("minimumTcb", `REPORTED_TCB ${formatTcb(tcb.reported)}`, `${component} of at least ${minimum[component as keyof MinimumTcb]}`);
    }
  }
  if (policy.minimumFirmware !== "any") {
    const { major, minor } = policy.minimumFirmware;
    if (firmware.major < major || (firmware.major === major && firmware.minor < minor)) {
      refuse("minimumFirmware", `firmware ${firmware.major}.${firmware.minor}`, `at least ${major}.${minor}`);
    }
  }
  if (policy.provisionalFirmware !== "any" && (!equalBytes(report.currentTcb, report.committedTcb) || !sameFirmware(firmware, report.committedFirmware))) {
    refuse("provisionalFirmware", "the running firmware is not committed, so the host can roll it back", "committed firmware");
  }
  if (policy.minimumGuestSvn !== "any" && report.guestSvn < policy.minimumGuestSvn)
    refuse("minimumGuestSvn", `guest SVN ${report.guestSvn}`, `at least ${policy.minimumGuestSvn}`);
  checkBytes("familyId", report.familyId, policy.familyId);
  checkBytes("imageId", report.imageId, policy.imageId);
  checkOneOf("idKeyDigests", report.idKeyDigest, policy.idKeyDigests);
  checkOneOf("authorKeyDigests", report.authorKeyDigest, policy.authorKeyDigests);
  if (policy.mitigations !== "any") {
    const missing = policy.mitigations & ~(report.launchMitigations & report.currentMitigations);
    if (missing !== 0n) refuse("mitigations", `the mitigation bits 0x${missing.toString(16)} are not set`, `0x${policy.mitigations.toString(16)}`);
  }
  return { ...verified, kind: "validated-report", policy };
}

function checkBytes(check: ReportCheck, found: Uint8Array, expected: Uint8Array | "any"): void {
  if (expected !== "any" && !equalBytes(found, expected)) refuse(check, toHex(found), toHex(expected));
}

function checkOneOf(check: ReportCheck, found: Uint8Array, expected: readonly Uint8Array[] | "any"): void {
  if (expected !== "any" && !expected.some((one) => equalBytes(found, one))) refuse(check, toHex(found), expected.map(toHex).join(" or ") || "nothing at all");
}

function sameFirmware(a: { readonly major: number; readonly minor: number; readonly build: number }, b: typeof a): boolean {
  return a.major === b.major && a.minor === b.minor && a.build === b.build;
}

function refuse(check: ReportCheck, found: string, expected: string): never {
  throw new SnpError("ERR_SNP_POLICY", `report policy, ${check}: found ${found}, expected ${expected}`, { details: { check, found, expected } });
}
