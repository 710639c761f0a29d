import { parseGuestPolicy, type VerifiedReport } from "@sealpod/snp";
import { toHex, type JsonObject, type JsonValue } from "@sealpod/core";

/** Seconds that a token lives: what the genuine service gives. */
export const TOKEN_LIFETIME = 28_800;

/** Longest token that is issued, and that `verifyAttestationToken` takes, in characters: tokens carry the guest's runtime data, a few KiB by custom. */
export const MAX_ATTESTATION_TOKEN: number = 256 * 1024;

/** Deepest nesting of a token's claims, whose object itself counts as 0: a guest chooses that of its runtime data. */
export const MAX_CLAIMS_DEPTH = 64;

/** Hash of the default policy for SEV-SNP as the genuine service states it; the text of that policy is not published. */
export const DEFAULT_POLICY_HASH = "9NY0VnTQ-IiBriBplVUpFbczcDaEBUwsiFYAzHu_gco";

/** The claims that a report makes (specs/attestation.md 4.3). Security versions are those of REPORTED_TCB, the ones its key vouches for. */
export function reportClaims({ report, tcb }: VerifiedReport): JsonObject {
  const policy = parseGuestPolicy(report.policy);
  return {
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-sevsnpvm-authorkeydigest": toHex(report.authorKeyDigest),
    "x-ms-sevsnpvm-bootloader-svn": tcb.reported.bootloader,
    "x-ms-sevsnpvm-familyId": toHex(report.familyId),
    "x-ms-sevsnpvm-guestsvn": report.guestSvn,
    "x-ms-sevsnpvm-hostdata": toHex(report.hostData),
    "x-ms-sevsnpvm-idkeydigest": toHex(report.idKeyDigest),
    "x-ms-sevsnpvm-imageId": toHex(report.imageId),
    "x-ms-sevsnpvm-is-debuggable": policy.debugAllowed,
    "x-ms-sevsnpvm-launchmeasurement": toHex(report.measurement),
    "x-ms-sevsnpvm-microcode-svn": tcb.reported.microcode,
    "x-ms-sevsnpvm-migration-allowed": policy.migrationAgentAllowed,
    "x-ms-sevsnpvm-reportdata": toHex(report.reportData),
    "x-ms-sevsnpvm-reportid": toHex(report.reportId),
    "x-ms-sevsnpvm-smt-allowed": policy.smtAllowed,
    "x-ms-sevsnpvm-snpfw-svn": tcb.reported.snp,
    "x-ms-sevsnpvm-tee-svn": tcb.reported.tee,
    "x-ms-sevsnpvm-vmpl": report.vmpl,
  };
}

/** Claims in the order of their names, as the genuine service writes them; those that are undefined are left out. */
export function sortClaims(claims: Readonly<Record<string, JsonValue | undefined>>): JsonObject {
  const entries = Object.entries(claims).filter((entry): entry is [string, JsonValue] => entry[1] !== undefined);
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}
