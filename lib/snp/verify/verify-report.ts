import { verify } from "node:crypto";
import { type Clock, equalBytes, isZero, messageOf, toHex } from "@sealpod/core";
import { PkiError, type PkiErrorCode, verifyChain } from "@sealpod/pki";
import { chipIdLength, productOfReport, type ProductName } from "../abi/product.ts";
import { parseReport, type Report, signedPart } from "../abi/report.ts";
import { firstTcbBelow, formatTcb, parseTcb, type TcbVersion } from "../abi/tcb.ts";
import { SnpError, type SnpErrorCode } from "../errors.ts";
import { type EndorsementKey, parseEndorsementKey } from "../kds/endorsement-key.ts";
import type { CertificateChain } from "./certificate-chain.ts";
import type { TrustRoot } from "./roots.ts";

/** What {@link verifyReport} checks. */
export interface ReportEvidence {
  /** 1184 bytes. */
  readonly report: Uint8Array;
  readonly certificates: CertificateChain;
  /** Roots that the caller trusts. There is no default: emulated evidence is accepted only by who names the emulator's root. */
  readonly roots: readonly TrustRoot[];
  /** Decides whether the certificates are valid now. */
  readonly clock: Clock;
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
}

/**
 * Verifies a report down to one of the roots (specs/attestation.md section 1.11, steps 1 to 5, in that order). The error's code names the first check that failed.
 * @throws {SnpError} ERR_SNP_LENGTH, ERR_SNP_VERSION, ERR_SNP_ALGORITHM, ERR_SNP_RESERVED, ERR_SNP_FIELD, ERR_SNP_SIGNING_KEY, ERR_SNP_PRODUCT, ERR_SNP_TCB_ORDER, ERR_SNP_CERTIFICATE,
 * ERR_SNP_ROOT, ERR_SNP_CHAIN, ERR_SNP_VALIDITY, ERR_SNP_TCB, ERR_SNP_CHIP_ID, ERR_SNP_SIGNATURE
 */
export function verifyReport({ report: bytes, certificates, roots, clock }: ReportEvidence): VerifiedReport {
  // Step 1: the report's own shape. From here on only the copy is used, so that nobody can swap the bytes after the check.
  const raw = Uint8Array.from(bytes);
  const report = parseReport(raw);
  if (report.keyInfo.signingKey === "none") throw new SnpError("ERR_SNP_SIGNING_KEY", "report: KEY_INFO says that the report is not signed (SIGNING_KEY 7)");

  // Step 2: the product, from the report if it says so.
  const claimed = productOfReport(report);
  if (claimed.kind === "unknown") {
    const { family, model } = claimed.processor;
    throw new SnpError("ERR_SNP_PRODUCT", `report: processor family 0x${family.toString(16)} model 0x${model.toString(16)} is not a known product`);
  }

  // Step 3: the chain, down to a pinned key; the supplied root certificate counts for nothing but its self-signature under that key.
  const root = verifyCertificates(certificates, roots, clock);
  const endorsementKey = parseEndorsementKey(certificates.endorsementKey);
  const product = endorsementKey.product;
  const expected = claimed.kind === "known" ? [claimed.product] : claimed.candidates;
  if (!expected.includes(product) || root.product !== product) {
    throw new SnpError(
      "ERR_SNP_PRODUCT",
      `the report is from ${expected.join(" or ")}, the endorsement key is for ${product}, the root is for ${root.product}`,
      {
        details: { report: expected, endorsementKey: product, root: root.product },
      },
    );
  }
  const tcb = {
    reported: parseTcb(report.reportedTcb, product),
    current: parseTcb(report.currentTcb, product),
    committed: parseTcb(report.committedTcb, product),
    launch: parseTcb(report.launchTcb, product),
  };

  // Step 4: the certificate is for this kind of key, this TCB and this chip.
  if (endorsementKey.kind !== report.keyInfo.signingKey) {
    throw new SnpError("ERR_SNP_SIGNING_KEY", `the report names a ${report.keyInfo.signingKey}, the certificate is for a ${endorsementKey.kind}`);
  }
  if (!equalBytes(endorsementKey.tcbBytes, report.reportedTcb)) {
    throw new SnpError("ERR_SNP_TCB", `the certificate is for ${formatTcb(endorsementKey.tcb)}; the report's REPORTED_TCB is ${formatTcb(tcb.reported)}`, {
      details: { certificate: toHex(endorsementKey.tcbBytes), report: toHex(report.reportedTcb) },
      hint: "Fetch the certificate for the report's REPORTED_TCB, not for CURRENT_TCB.",
    });
  }
  checkChipId(report, endorsementKey);
  for (const name of ["reported", "committed", "launch"] as const) {
    const component = firstTcbBelow(tcb.current, tcb[name]);
    if (component !== undefined) {
      throw new SnpError(
        "ERR_SNP_TCB_ORDER",
        `report: the ${name} TCB (${formatTcb(tcb[name])}) is above the current one (${formatTcb(tcb.current)}) in ${component}`,
      );
    }
  }

  // Step 5: the signature over the bytes themselves.
  verifyReportSignature(raw, report, certificates);
  return { kind: "verified-report", report, product, root, endorsementKey, tcb };
}

/** Codes of the chain that mean something of their own to the reader of the error; the others are a chain that does not verify. */
const CHAIN_CODES: Partial<Readonly<Record<PkiErrorCode, SnpErrorCode>>> = {
  ERR_PKI_ANCHOR: "ERR_SNP_ROOT",
  ERR_PKI_VALIDITY: "ERR_SNP_VALIDITY",
};

function verifyCertificates({ endorsementKey, intermediate, root }: CertificateChain, roots: readonly TrustRoot[], clock: Clock): TrustRoot {
  try {
    const { anchor } = verifyChain([endorsementKey, intermediate, root], {
      anchors: roots.map(({ keySha256 }) => ({ kind: "key", sha256: keySha256 })),
      validity: { kind: "now", clock },
      what: "SNP certificates",
    });
    const found = roots.find(({ keySha256 }) => equalBytes(keySha256, anchor.sha256));
    if (found !== undefined) return found;
  } catch (cause) {
    if (!(cause instanceof PkiError)) throw cause;
    throw new SnpError(CHAIN_CODES[cause.code] ?? "ERR_SNP_CHAIN", cause.message, {
      cause,
      details: cause.details,
      ...(cause.code === "ERR_PKI_ANCHOR" && { hint: `Trusted here: ${roots.map(({ name, product }) => `${name} ${product}`).join(", ") || "nothing"}.` }),
    });
  }
  throw new SnpError("ERR_SNP_ROOT", "the chain rests on no trusted root");
}

function checkChipId(report: Report, { hwId, product }: EndorsementKey): void {
  // A VLEK belongs to no chip, and a host may mask the chip id (MASK_CHIP_ID): then there is nothing to compare.
  if (hwId === undefined || isZero(report.chipId)) return;
  const length = chipIdLength(product);
  if (equalBytes(hwId, report.chipId.subarray(0, length)) && isZero(report.chipId.subarray(length))) return;
  throw new SnpError(
    "ERR_SNP_CHIP_ID",
    `the certificate is for chip ${toHex(hwId).slice(0, 16)}…, the report is from chip ${toHex(report.chipId).slice(0, 16)}…`,
    {
      details: { certificate: toHex(hwId), report: toHex(report.chipId) },
    },
  );
}

function verifyReportSignature(raw: Uint8Array, report: Report, { endorsementKey }: CertificateChain): void {
  const { publicKey } = endorsementKey;
  if (publicKey.kind !== "p384") throw new SnpError("ERR_SNP_SIGNATURE", `the endorsement key is of type ${publicKey.kind}, expected p384`);
  const { r, s } = report.signature;
  const limit = 1n << 384n;
  if (r >= limit || s >= limit) throw new SnpError("ERR_SNP_SIGNATURE", "report: R or S of the signature is longer than 48 bytes");
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
