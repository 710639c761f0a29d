import type { Clock } from "@sealpod/core";
import {
  type Certificate,
  checkRevocation,
  type Crl,
  equalNames,
  formatName,
  PkiError,
  type RevocationCheck,
  serialKey,
  type VerifiedCrl,
  verifyCrl,
} from "@sealpod/pki";
import { SnpError } from "../errors.ts";
import type { CertificateChain } from "./certificate-chain.ts";

/**
 * Which revocation lists to go by, as for `verifyChain` of `@sealpod/pki`; the clock is that of the evidence. A `VerifiedCrl` spares verifying its signature for each report.
 * Endorsement keys have no list at AMD: a chip's key is replaced by raising its TCB. So `missing` is about the intermediate alone.
 */
export type ReportRevocation = Omit<RevocationCheck, "clock">;

/**
 * Looks both certificates below the root up in their issuers' lists.
 * @returns what was found, in words
 * @throws {SnpError} ERR_SNP_REVOKED, ERR_SNP_REVOCATION
 */
export function checkChainRevocation({ endorsementKey, intermediate, root }: CertificateChain, revocation: ReportRevocation, clock: Clock): string {
  const found: string[] = [];
  for (const [depth, certificate, issuer] of [
    [1, intermediate, root],
    [0, endorsementKey, intermediate],
  ] as const) {
    const name = `certificate ${formatName(certificate.subject)}`;
    const own = revocation.crls.filter((item) => equalNames(crlOf(item).issuer, issuer.subject));
    for (const item of own) checkEntry(crlOf(item), certificate, issuer, name);
    try {
      checkRevocation(certificate, issuer, depth, { ...revocation, clock }, name);
    } catch (cause) {
      if (!(cause instanceof PkiError)) throw cause;
      throw new SnpError(cause.code === "ERR_PKI_REVOKED" ? "ERR_SNP_REVOKED" : "ERR_SNP_REVOCATION", cause.message, {
        cause,
        details: cause.details,
        ...(cause.hint !== undefined && { hint: cause.hint }),
      });
    }
    if (own.length > 0) found.push(`serial ${certificate.serial} is not on the list of ${formatName(issuer.subject)}`);
    else if (depth === 1) found.push(`no list of ${formatName(issuer.subject)} was given, which the caller accepts`);
  }
  return found.join("; ");
}

/**
 * An entry in any list that the issuer signed counts, of whatever age: AMD's ARK signs a list for the VCEKs' authority and one for the VLEKs', and the newer of them
 * need not repeat the other's entries.
 */
function checkEntry(crl: Crl, certificate: Certificate, issuer: Certificate, name: string): void {
  if (!crl.revoked.has(serialKey(certificate.serial))) return;
  try {
    verifyCrl(crl, issuer, { clock: { now: () => crl.thisUpdate } });
  } catch (error) {
    // Not the issuer's word. Whether such a list among the others matters is for the check of them all.
    if (error instanceof PkiError) return;
    throw error;
  }
  throw new SnpError("ERR_SNP_REVOKED", `${name} was revoked by ${formatName(issuer.subject)}`, {
    details: { serial: serialKey(certificate.serial) },
    hint: "Nothing that this certificate signs can be trusted; ask for one that replaces it.",
  });
}

function crlOf(item: Crl | VerifiedCrl): Crl {
  return item.kind === "crl" ? item : item.crl;
}
