import { type Clock, equalBytes } from "@sealpod/core";
import type { Certificate } from "./certificate.ts";
// Types and nothing else: what verifies chains without CRLs does not carry the code that reads them.
import type { Crl } from "./crl.ts";
import { PkiError } from "./errors.ts";
import { equalNames, formatName } from "./name.ts";
import { verifySignature } from "./signature.ts";
import { formatTime } from "./time.ts";

/** A CRL that its issuer signed, and that was in date when it was verified. */
export interface VerifiedCrl {
  readonly kind: "verified-crl";
  readonly crl: Crl;
  /** Whose certificates it speaks of. */
  readonly issuer: Certificate;
}

/**
 * Key of a serial number in `Crl.revoked`: `0x` and hex digits.
 * Not the bigint itself, whose hash in V8 is its low 64 bits, nor decimal digits, whose hash is their value: a list of serials chosen to collide
 * would make the map quadratic before any signature was looked at. Other text is hashed with a secret of the process.
 */
export function serialKey(serial: bigint): string {
  return `0x${serial.toString(16)}`;
}

/** How `verifyChain` looks for revoked certificates. */
export interface RevocationCheck {
  /**
   * In any order; those of other issuers are skipped. Of a {@link VerifiedCrl} the signature is not verified again, the dates are.
   * Of several lists of one issuer the newest decides.
   */
  readonly crls: readonly (Crl | VerifiedCrl)[];
  /**
   * What to do about an intermediate CA certificate whose issuer has no list among {@link crls}. Whoever can keep the list from the caller has it
   * accepted under `accept`. Neither value concerns leaves without a list (AMD publishes none for them), and neither helps a list that is there but
   * out of date or badly signed: that is refused.
   */
  readonly missing: "accept" | "refuse";
  readonly clock: Clock;
}

/**
 * Verifies a CRL against the certificate of its issuer: the name, that the issuer may sign lists (CA, and cRLSign if it has a key usage), the signature,
 * and thisUpdate <= now <= nextUpdate. The issuer's own certificate is taken as verified.
 * @throws {PkiError} ERR_PKI_CRL
 */
export function verifyCrl(crl: Crl, issuer: Certificate, options: { readonly clock: Clock }): VerifiedCrl {
  if (!equalNames(crl.issuer, issuer.subject)) {
    throw new PkiError("ERR_PKI_CRL", `CRL of ${formatName(crl.issuer)}: the certificate given for its issuer is ${formatName(issuer.subject)}`);
  }
  checkSignature(crl, issuer);
  checkDates(crl, options.clock.now());
  return { kind: "verified-crl", crl, issuer };
}

/**
 * True if the list names the certificate.
 * @throws {PkiError} ERR_PKI_CRL if the list is another issuer's: it says nothing about the certificate
 */
export function isRevoked({ crl, issuer }: VerifiedCrl, certificate: Certificate): boolean {
  if (!equalNames(issuer.subject, certificate.issuer)) {
    throw new PkiError("ERR_PKI_CRL", `CRL of ${formatName(crl.issuer)}: it says nothing about certificates of ${formatName(certificate.issuer)}`);
  }
  return crl.revoked.has(serialKey(certificate.serial));
}

/**
 * Refuses a certificate that its issuer revoked, or of which it cannot be told.
 * @param issuer the next certificate of the chain; the link was verified
 * @param depth 0 for the leaf
 * @throws {PkiError} ERR_PKI_REVOKED, ERR_PKI_CRL
 */
export function checkRevocation(certificate: Certificate, issuer: Certificate, depth: number, check: RevocationCheck, name: string): void {
  const authentic: Crl[] = [];
  let failure: PkiError | undefined;
  for (const item of check.crls) {
    const crl = item.kind === "crl" ? item : item.crl;
    if (!equalNames(crl.issuer, issuer.subject)) continue;
    try {
      // Verified before, but perhaps for another key of the same name.
      if (item.kind === "crl" || !equalBytes(item.issuer.der, issuer.der)) checkSignature(crl, issuer);
      authentic.push(crl);
    } catch (error) {
      if (!(error instanceof PkiError)) throw error;
      failure = error;
    }
  }
  const [first] = authentic;
  if (first === undefined) {
    // A list in the issuer's name that it did not sign is more than a missing one: somebody put it there.
    if (failure !== undefined) throw failure;
    if (depth === 0 || check.missing === "accept") return;
    throw new PkiError("ERR_PKI_CRL", `${name}: no CRL of its issuer ${formatName(issuer.subject)} was given`, {
      hint: "Fetch the issuer's current CRL, or accept certificates without one explicitly.",
    });
  }
  // An old list beside a new one is somebody showing the past: only the newest is asked, and it must be in date itself.
  const newest = authentic.reduce((best, crl) => (compareCrlAge(crl, best) > 0 ? crl : best), first);
  checkDates(newest, check.clock.now());
  for (const crl of authentic) {
    const entry = compareCrlAge(crl, newest) === 0 ? crl.revoked.get(serialKey(certificate.serial)) : undefined;
    if (entry === undefined) continue;
    const at = formatTime(entry.revokedAt);
    throw new PkiError(
      "ERR_PKI_REVOKED",
      `${name} was revoked by ${formatName(issuer.subject)} at ${at}${entry.reason === undefined ? "" : ` (${entry.reason})`}`,
      {
        details: { serial: serialKey(certificate.serial), revokedAt: entry.revokedAt, reason: entry.reason },
        hint: "Nothing that this certificate signs can be trusted; ask for one that replaces it.",
      },
    );
  }
}

/** True if the certificate's key signed the list, and may: its own name and authority, no matter the dates. The certificate is taken as verified. */
export function isSignedBy(crl: Crl, issuer: Certificate): boolean {
  if (!equalNames(crl.issuer, issuer.subject)) return false;
  try {
    checkSignature(crl, issuer);
    return true;
  } catch (error) {
    if (error instanceof PkiError) return false;
    throw error;
  }
}

function checkSignature(crl: Crl, issuer: Certificate): void {
  const name = `CRL of ${formatName(crl.issuer)}`;
  const { basicConstraints, keyUsage } = issuer;
  // Without this a leaf could unrevoke what its issuer revoked, if it only had the issuer's name.
  if (basicConstraints?.ca !== true || keyUsage?.has("cRLSign") === false) {
    throw new PkiError("ERR_PKI_CRL", `${name}: the certificate of that name is not for signing CRLs (CA flag, key usage cRLSign)`);
  }
  try {
    verifySignature(crl.signatureAlgorithm, issuer.publicKey, crl.tbs, crl.signature, name);
  } catch (cause) {
    if (!(cause instanceof PkiError)) throw cause;
    throw new PkiError("ERR_PKI_CRL", `${cause.message}: it was changed, or another key of the same name signed it`, {
      cause,
      hint: "Take it out of the list, or fetch it again from the issuer.",
    });
  }
}

function checkDates(crl: Crl, now: number): void {
  if (now >= crl.thisUpdate && now < crl.nextUpdate + 1000) return;
  const [from, to, at] = [crl.thisUpdate, crl.nextUpdate, now].map(formatTime);
  throw new PkiError("ERR_PKI_CRL", `CRL of ${formatName(crl.issuer)} is of ${from}, its successor was due at ${to}, and it is ${at}`, {
    details: { thisUpdate: crl.thisUpdate, nextUpdate: crl.nextUpdate, now },
    hint: now >= crl.thisUpdate ? "Fetch the issuer's current CRL." : "Check the clock of this machine.",
  });
}

/** Positive if `a` is the newer one of two lists of one issuer: by date, then by number. */
export function compareCrlAge(a: Crl, b: Crl): number {
  if (a.thisUpdate !== b.thisUpdate) return a.thisUpdate - b.thisUpdate;
  const [first, second] = [a.number ?? -1n, b.number ?? -1n];
  return first === second ? 0 : first > second ? 1 : -1;
}
