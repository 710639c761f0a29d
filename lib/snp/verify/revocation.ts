import { type Clock, equalBytes } from "@sealpod/core";
import {
  type Certificate,
  checkRevocation,
  type Crl,
  equalNames,
  formatName,
  isSignedBy,
  PkiError,
  type RevocationCheck,
  serialKey,
  type VerifiedCrl,
} from "@sealpod/pki";
import { SnpError } from "../errors.ts";
import type { EndorsementKind } from "../kds/url.ts";
import type { CertificateChain } from "./certificate-chain.ts";

/** A revocation list of which it is known for which hierarchy it was made. */
export interface TaggedCrl {
  readonly kind: "tagged-crl";
  /** By where it was fetched from: the list itself does not say, and the ARK signs both. */
  readonly endorsement: EndorsementKind;
  readonly crl: Crl | VerifiedCrl;
}

/**
 * Which revocation lists to go by; the clock is that of the evidence. A `VerifiedCrl` spares verifying its signature for each report.
 *
 * AMD's ARK signs one list for the VCEKs' authority and another for the VLEKs', under the same name. A list of the report's own hierarchy that is there must be in date,
 * the newest of several, and under `missing: "refuse"` there must be one. Lists of the other hierarchy stand in for none: they can only revoke.
 * An untagged list counts for either hierarchy, unless there is a tagged one of the report's own. So of untagged lists a fresh one hides that another is out of date.
 * An entry in any list that the issuer signed revokes, whatever its age and hierarchy.
 *
 * Endorsement keys have no list at AMD: a chip's key is replaced by raising its TCB. So `missing` is about the intermediate alone.
 */
export interface ReportRevocation extends Pick<RevocationCheck, "missing"> {
  /** In any order; those of other issuers are skipped. */
  readonly crls: readonly (Crl | VerifiedCrl | TaggedCrl)[];
}

/**
 * Looks both certificates below the root up in their issuers' lists.
 * @param kind hierarchy of the endorsement key
 * @returns what was found, in words
 * @throws {SnpError} ERR_SNP_REVOKED, ERR_SNP_REVOCATION
 */
export function checkChainRevocation(
  { endorsementKey, intermediate, root }: CertificateChain,
  kind: EndorsementKind,
  revocation: ReportRevocation,
  clock: Clock,
): string {
  const found: string[] = [];
  for (const [depth, certificate, issuer] of [
    [1, intermediate, root],
    [0, endorsementKey, intermediate],
  ] as const) {
    const name = `certificate ${formatName(certificate.subject)}`;
    const issued = revocation.crls.filter((item) => equalNames(crlOf(item).issuer, issuer.subject));
    for (const item of issued) checkEntry(item, certificate, issuer, name);
    const deciding = decidingLists(issued, kind, issuer);
    const { missing } = revocation;
    if (deciding.length > 0) {
      translate(() => checkRevocation(certificate, issuer, depth, { crls: deciding, missing, clock }, name));
      found.push(`serial ${certificate.serial} is not on the list of ${formatName(issuer.subject)}`);
    } else if (depth === 1) {
      const what = `list of ${formatName(issuer.subject)} for ${kind.toUpperCase()}s was given`;
      if (missing === "refuse") {
        throw new SnpError("ERR_SNP_REVOCATION", `${name}: no revocation ${what}`, {
          details: { kind },
          hint: "Fetch the issuer's current list for this kind of key, or accept certificates without one explicitly.",
        });
      }
      found.push(`no ${what}, which the caller accepts`);
    }
  }
  return found.join("; ");
}

/** The lists whose newest must be in date: the authentic ones of the hierarchy, or where there is none, what may be of it. */
function decidingLists(issued: ReportRevocation["crls"], kind: EndorsementKind, issuer: Certificate): readonly (Crl | VerifiedCrl)[] {
  const own = issued.flatMap((item) => (item.kind === "tagged-crl" && item.endorsement === kind ? [item.crl] : []));
  // As verified ones, so that signatures are verified once.
  const authentic = own.filter((item) => isAuthentic(item, issuer)).map((item): VerifiedCrl => ({ kind: "verified-crl", crl: crlOf(item), issuer }));
  if (authentic.length > 0) return authentic;
  return [...own, ...issued.filter((item) => item.kind !== "tagged-crl")];
}

/**
 * An entry in any list that the issuer signed counts: the newer of the two hierarchies' lists need not repeat the other's entries, and what was revoked once does not
 * become good with age.
 */
function checkEntry(item: ReportRevocation["crls"][number], certificate: Certificate, issuer: Certificate, name: string): void {
  const entry = crlOf(item).revoked.get(serialKey(certificate.serial));
  // Not the issuer's word: whether such a list among the others matters is for the check of them all.
  if (entry === undefined || !isAuthentic(item, issuer)) return;
  throw new SnpError("ERR_SNP_REVOKED", `${name} was revoked by ${formatName(issuer.subject)}`, {
    details: { serial: serialKey(certificate.serial), revokedAt: entry.revokedAt, reason: entry.reason },
    hint: "Nothing that this certificate signs can be trusted; ask for one that replaces it.",
  });
}

/** A list that was verified before may have been for another key of the same name. */
function isAuthentic(item: ReportRevocation["crls"][number], issuer: Certificate): boolean {
  const inner = item.kind === "tagged-crl" ? item.crl : item;
  return (inner.kind === "verified-crl" && equalBytes(inner.issuer.der, issuer.der)) || isSignedBy(crlOf(inner), issuer);
}

function crlOf(item: ReportRevocation["crls"][number]): Crl {
  if (item.kind === "crl") return item;
  return item.kind === "verified-crl" ? item.crl : crlOf(item.crl);
}

function translate(check: () => void): void {
  try {
    check();
  } catch (cause) {
    if (!(cause instanceof PkiError)) throw cause;
    throw new SnpError(cause.code === "ERR_PKI_REVOKED" ? "ERR_SNP_REVOKED" : "ERR_SNP_REVOCATION", cause.message, {
      cause,
      details: cause.details,
      ...(cause.hint !== undefined && { hint: cause.hint }),
    });
  }
}
