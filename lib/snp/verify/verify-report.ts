import { verify } from "node:crypto";
import { type Clock, equalBytes, isZero, messageOf, toHex } from "@sealpod/core";
import { type Certificate, formatName, formatTime, keyAnchor } from "@sealpod/pki";
import type { EvidenceOrigin } from "../abi/origin.ts";
import { chipIdLength, productOfReport, type ProductName } from "../abi/product.ts";
import { parseReport, type Report, signedPart } from "../abi/report.ts";
import { firstTcbBelow, formatTcb, parseTcb, type TcbVersion } from "../abi/tcb.ts";
import { SnpError } from "../errors.ts";
import { type EndorsementKey, parseEndorsementKey } from "../kds/endorsement-key.ts";
import type { CertificateCache } from "./certificate-cache.ts";
import type { CertificateChain } from "./certificate-chain.ts";
import type { EvidenceCheck, EvidenceCheckName } from "./evidence-check.ts";
import { checkChainRevocation, type ReportRevocation } from "./revocation.ts";
import type { TrustRoot } from "./roots.ts";
import { verifySignedChain } from "./signed-chain.ts";

/** What {@link verifyReport} checks. */
export interface ReportEvidence {
  /** 1184 bytes. */
  readonly report: Uint8Array;
  readonly certificates: CertificateChain;
  /** Roots that the caller trusts. There is no default: emulated evidence is accepted only by who names the emulator's root. */
  readonly roots: readonly TrustRoot[];
  /** Decides whether the certificates, and revocation lists, are valid now. */
  readonly clock: Clock;
  /** Revocation lists to go by; left out, none is asked for. */
  readonly revocation?: ReportRevocation;
  /** Is called for each check that passed, in the order of `EVIDENCE_CHECKS`. The one that fails is the error: `evidenceCheckOf` names it. */
  readonly observe?: (check: EvidenceCheck) => void;
  /** Remembers the signatures of chains, which are most of the work. */
  readonly cache?: CertificateCache;
  /** Where the report was got from; it is handed through to the result. */
  readonly origin?: EvidenceOrigin;
}

/** A report that the named root's hardware signed, or for the root "emulator" an emulation of it. Whether it is the right report is for {@link validateReport}. */
export interface VerifiedReport {
  readonly kind: "verified-report";
  readonly report: Report;
  readonly product: ProductName;
  /** The root it rests on. */
  readonly root: TrustRoot;
  /** What AMD certified about the signing key. */
  readonly endorsementKey: EndorsementKey;
  readonly tcb: {
    /** What the signing key was derived for: the one to hold against a minimum. */
    readonly reported: TcbVersion;
    readonly current: TcbVersion;
    readonly committed: TcbVersion;
    readonly launch: TcbVersion;
  };
  /** As the caller gave it; it was not, and cannot be, checked. */
  readonly origin?: EvidenceOrigin;
}

/**
 * Verifies a report down to one of the roots (specs/attestation.md section 1.11, steps 1 to 5). The checks run in the order of `EVIDENCE_CHECKS`; the error's code names the first that failed.
 *
 * A signature (R, S) has a twin (R, n - S) that verifies as well: the hash of a whole report is no identity of it. REPORT_ID, or the part before the signature, is.
 * @throws {SnpError} ERR_SNP_LENGTH, ERR_SNP_VERSION, ERR_SNP_ALGORITHM, ERR_SNP_RESERVED, ERR_SNP_FIELD, ERR_SNP_CERTIFICATE, ERR_SNP_PRODUCT, ERR_SNP_ROOT, ERR_SNP_CHAIN,
 * ERR_SNP_VALIDITY, ERR_SNP_REVOKED, ERR_SNP_REVOCATION, ERR_SNP_SIGNING_KEY, ERR_SNP_TCB, ERR_SNP_CHIP_ID, ERR_SNP_TCB_ORDER, ERR_SNP_SIGNATURE
 */
export function verifyReport(evidence: ReportEvidence): VerifiedReport {
  const { roots, clock, revocation, cache, origin } = evidence;
  const passed = (name: EvidenceCheckName, found: () => string): void => evidence.observe?.({ name, found: found() });

  // From here on only the copy is used, so that nobody can swap the bytes after the check.
  const raw = Uint8Array.from(evidence.report);
  const report = parseReport(raw);
  const known = cache?.find(evidence.certificates);
  // What was verified before are the cache's own certificates, not those of the caller that have the same bytes.
  const certificates = known?.certificates ?? evidence.certificates;
  const wellFormed = (): void => passed("structure", () => `report of version ${report.version}, ${raw.length} bytes, and certificates are well-formed`);
  const endorsementKey = known?.endorsementKey ?? readEndorsementKey(certificates.endorsementKey, wellFormed);
  const kind = endorsementKey.kind.toUpperCase();
  wellFormed();

  // The supplied root certificate counts for nothing but the hash of its key: that names a root of the caller, or none.
  const rootKeySha256 = known?.rootKeySha256 ?? keyAnchor(certificates.root).sha256;
  const named = roots.filter(({ keySha256 }) => equalBytes(keySha256, rootKeySha256));
  const product = checkProduct(report, endorsementKey, named);
  passed(
    "product",
    () =>
      `${product} by ${report.processor === undefined ? "certificate" : describeProcessor(report.processor)}; certificate for ${endorsementKey.productName}`,
  );
  const root = named.find((candidate) => candidate.product === product);
  if (root === undefined) {
    throw new SnpError("ERR_SNP_ROOT", `${formatName(certificates.root.subject)} is no trusted root: its public key has SHA-256 ${toHex(rootKeySha256)}`, {
      details: { keySha256: toHex(rootKeySha256) },
      hint: `Trusted here: ${roots.map((one) => `${one.name} ${one.product}`).join(", ") || "nothing"}.`,
    });
  }
  passed("root", () => `${root.name}, key with SHA-256 ${toHex(rootKeySha256)}`);

  // Only now the work of verifying signatures: a chain under an attacker's root has cost nothing, and is not remembered.
  if (known === undefined) {
    const signed = verifySignedChain(certificates, endorsementKey);
    cache?.add(signed);
  }
  const chain = [certificates.root, certificates.intermediate, certificates.endorsementKey];
  passed("chain", () => chain.map(({ subject }) => shortName(subject)).join(" signs "));
  checkValidity(chain, clock.now());
  passed("validity", () => `all certificates are valid, the first of them until ${new Date(Math.min(...chain.map(({ notAfter }) => notAfter))).toISOString()}`);
  if (revocation !== undefined) {
    const found = checkChainRevocation(certificates, endorsementKey.kind, revocation, clock);
    passed("revocation", () => found);
  }

  // The certificate is for this kind of key, this TCB and this chip.
  checkKeyKind(report, endorsementKey);
  passed("key-kind", () => `${kind} in report and certificate${endorsementKey.cspId === undefined ? "" : `, of ${JSON.stringify(endorsementKey.cspId)}`}`);
  const tcb = {
    reported: parseTcb(report.reportedTcb, product),
    current: parseTcb(report.currentTcb, product),
    committed: parseTcb(report.committedTcb, product),
    launch: parseTcb(report.launchTcb, product),
  };
  if (!equalBytes(endorsementKey.tcbBytes, report.reportedTcb)) {
    throw new SnpError("ERR_SNP_TCB", `the certificate is for ${formatTcb(endorsementKey.tcb)}; the report's REPORTED_TCB is ${formatTcb(tcb.reported)}`, {
      details: { certificate: toHex(endorsementKey.tcbBytes), report: toHex(report.reportedTcb) },
      hint: "Fetch the certificate for the report's REPORTED_TCB, not for CURRENT_TCB.",
    });
  }
  passed("tcb", () => `${formatTcb(tcb.reported)} in report and certificate`);
  const chip = checkChipId(report, endorsementKey);
  passed("chip-id", () => chip);
  for (const name of ["reported", "committed", "launch"] as const) {
    const component = firstTcbBelow(tcb.current, tcb[name]);
    if (component !== undefined) {
      throw new SnpError(
        "ERR_SNP_TCB_ORDER",
        `report: the ${name} TCB (${formatTcb(tcb[name])}) is above the current one (${formatTcb(tcb.current)}) in ${component}`,
      );
    }
  }
  passed("tcb-order", () => `reported, committed and launch TCB are not above the current ${formatTcb(tcb.current)}`);

  // The signature over the bytes themselves.
  verifyReportSignature(raw, report, certificates);
  passed("signature", () => `ECDSA P-384 with SHA-384 over the first ${signedPart(raw).length} bytes, by the ${kind}`);
  return { kind: "verified-report", report, product, root, endorsementKey, tcb, ...(origin !== undefined && { origin }) };
}

/** A certificate for a product that there is not is well-formed; that is the next check's failure. */
function readEndorsementKey(certificate: Certificate, wellFormed: () => void): EndorsementKey {
  try {
    return parseEndorsementKey(certificate);
  } catch (error) {
    if (error instanceof SnpError && error.code === "ERR_SNP_PRODUCT") wellFormed();
    throw error;
  }
}

/** The product that report, endorsement key and root agree on. A root that nobody named is a matter of the next check. */
function checkProduct(report: Report, endorsementKey: EndorsementKey, named: readonly TrustRoot[]): ProductName {
  const claimed = productOfReport(report);
  if (claimed.kind === "unknown") throw new SnpError("ERR_SNP_PRODUCT", `report: ${describeProcessor(claimed.processor)} is not a known product`);
  const expected = claimed.kind === "known" ? [claimed.product] : claimed.candidates;
  const { product } = endorsementKey;
  if (expected.includes(product) && (named.length === 0 || named.some((root) => root.product === product))) return product;
  const rootProducts = named.map((root) => root.product);
  throw new SnpError(
    "ERR_SNP_PRODUCT",
    `the report is from ${expected.join(" or ")}, the endorsement key is for ${product}, the root is ${rootProducts.length === 0 ? "unknown" : `for ${rootProducts.join(" or ")}`}`,
    { details: { report: expected, endorsementKey: product, root: rootProducts } },
  );
}

function describeProcessor({ family, model, stepping }: { readonly family: number; readonly model: number; readonly stepping: number }): string {
  return `processor family 0x${family.toString(16)} model 0x${model.toString(16)} stepping ${stepping}`;
}

/** The name without the parts that all certificates of AMD share. */
function shortName(name: Certificate["subject"]): string {
  return formatName({ ...name, attributes: name.attributes.slice(-1) }).replace(/^CN=/, "");
}

/** Dates are checked at each use, also of a chain whose signatures are remembered. Both ends are inclusive, to the second (RFC 5280 section 4.1.2.5). */
function checkValidity(chain: readonly Certificate[], now: number): void {
  for (const { subject, notBefore, notAfter } of chain) {
    if (now >= notBefore && now < notAfter + 1000) continue;
    const [from, to, at] = [notBefore, notAfter, now].map(formatTime);
    throw new SnpError("ERR_SNP_VALIDITY", `SNP certificates: certificate ${formatName(subject)} is valid from ${from} to ${to}, and it is ${at}`, {
      details: { notBefore, notAfter, now },
      hint: now < notBefore ? "Check the clock of this machine." : "Ask for a fresh certificate.",
    });
  }
}

function checkKeyKind({ keyInfo }: Report, { kind }: EndorsementKey): void {
  if (keyInfo.signingKey === "none") throw new SnpError("ERR_SNP_SIGNING_KEY", "report: KEY_INFO says that the report is not signed (SIGNING_KEY 7)");
  if (kind !== keyInfo.signingKey) throw new SnpError("ERR_SNP_SIGNING_KEY", `the report names a ${keyInfo.signingKey}, the certificate is for a ${kind}`);
  // With MASK_CHIP_KEY firmware does not sign with the chip's key; a VLEK is none of the chip.
  if (keyInfo.chipKeyMasked && kind === "vcek")
    throw new SnpError("ERR_SNP_SIGNING_KEY", "report: KEY_INFO says that the chip's key is masked (MASK_CHIP_KEY) and that it signed");
}

/** @returns what was found, in words */
function checkChipId(report: Report, { hwId, product }: EndorsementKey): string {
  // A VLEK belongs to no chip, and a host may mask the chip id (MASK_CHIP_ID): then there is nothing to compare, and the signature alone ties the report to the chip.
  if (hwId === undefined) return "a VLEK belongs to no chip";
  if (isZero(report.chipId)) return `masked in the report; the certificate is for chip ${toHex(hwId)}`;
  const length = chipIdLength(product);
  if (equalBytes(hwId, report.chipId.subarray(0, length)) && isZero(report.chipId.subarray(length))) return `${toHex(hwId)} in report and certificate`;
  throw new SnpError(
    "ERR_SNP_CHIP_ID",
    `the certificate is for chip ${toHex(hwId).slice(0, 16)}…, the report is from chip ${toHex(report.chipId).slice(0, 16)}…`,
    {
      details: { certificate: toHex(hwId), report: toHex(report.chipId) },
    },
  );
}

/** Order of the group of P-384 (SEC 2 section 2.5.1): R and S are 1 to one less. */
const P384_ORDER = 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n;

function verifyReportSignature(raw: Uint8Array, report: Report, { endorsementKey }: CertificateChain): void {
  const { publicKey } = endorsementKey;
  if (publicKey.kind !== "p384") throw new SnpError("ERR_SNP_SIGNATURE", `the endorsement key is of type ${publicKey.kind}, expected p384`);
  // The library refuses these too. Zeros are what a library once took for valid (CVE-2022-21449), and what a report without a signature has.
  const { r, s } = report.signature;
  if ([r, s].some((number) => number <= 0n || number >= P384_ORDER))
    throw new SnpError("ERR_SNP_SIGNATURE", "report: R or S of the signature is zero, or not below the order of the curve");
  const signature = Buffer.from(r.toString(16).padStart(96, "0") + s.toString(16).padStart(96, "0"), "hex");
  let valid: boolean;
  try {
    valid = verify("sha384", signedPart(raw), { key: publicKey.key, dsaEncoding: "ieee-p1363" }, signature);
  } catch (cause) {
    throw new SnpError("ERR_SNP_SIGNATURE", `report: the signature cannot be checked (${messageOf(cause)})`, { cause });
  }
  if (!valid)
    throw new SnpError(
      "ERR_SNP_SIGNATURE",
      "report: the signature does not verify under the endorsement key; the report was changed, or signed by another key",
    );
}
