import type { SnpErrorCode } from "../errors.ts";

/**
 * The checks of `verifyReport`, by name.
 * - `structure`: report and certificates are well-formed, every reserved bit accounted for.
 * - `product`: report, certificate and root are of one product line.
 * - `root`: the chain rests on a root that the caller trusts.
 * - `chain`: root, intermediate and endorsement key sign one another, and may.
 * - `validity`: all certificates are valid now.
 * - `revocation`: no certificate was revoked; only checked if the caller asks.
 * - `key-kind`: report and certificate name the same kind of key, and it did sign.
 * - `tcb`: the certificate is for the report's REPORTED_TCB.
 * - `chip-id`: the certificate is for the report's chip.
 * - `tcb-order`: no TCB of the report is above the current one.
 * - `signature`: the endorsement key signed the report.
 */
export type EvidenceCheckName =
  | "structure"
  | "product"
  | "root"
  | "chain"
  | "validity"
  | "revocation"
  | "key-kind"
  | "tcb"
  | "chip-id"
  | "tcb-order"
  | "signature";

/** A check that passed, and what it found, in words. */
export interface EvidenceCheck {
  readonly name: EvidenceCheckName;
  readonly found: string;
}

/**
 * The checks in the order in which they run, each with the codes of the error when it is the one that fails. A code belongs to one check, so an error says how far
 * verification came: the checks before its own have passed, those after it were not reached.
 */
export const EVIDENCE_CHECKS: readonly { readonly name: EvidenceCheckName; readonly codes: readonly SnpErrorCode[] }[] = [
  {
    name: "structure",
    codes: ["ERR_SNP_LENGTH", "ERR_SNP_VERSION", "ERR_SNP_ALGORITHM", "ERR_SNP_RESERVED", "ERR_SNP_FIELD", "ERR_SNP_CERTIFICATE", "ERR_SNP_CERTIFICATE_TABLE"],
  },
  { name: "product", codes: ["ERR_SNP_PRODUCT"] },
  { name: "root", codes: ["ERR_SNP_ROOT"] },
  { name: "chain", codes: ["ERR_SNP_CHAIN"] },
  { name: "validity", codes: ["ERR_SNP_VALIDITY"] },
  { name: "revocation", codes: ["ERR_SNP_REVOKED", "ERR_SNP_REVOCATION"] },
  { name: "key-kind", codes: ["ERR_SNP_SIGNING_KEY"] },
  { name: "tcb", codes: ["ERR_SNP_TCB"] },
  { name: "chip-id", codes: ["ERR_SNP_CHIP_ID"] },
  { name: "tcb-order", codes: ["ERR_SNP_TCB_ORDER"] },
  { name: "signature", codes: ["ERR_SNP_SIGNATURE"] },
];

/** The check that fails with this code, or undefined for a code of another part of this package. */
export function evidenceCheckOf(code: string): EvidenceCheckName | undefined {
  return EVIDENCE_CHECKS.find(({ codes }) => (codes as readonly string[]).includes(code))?.name;
}
