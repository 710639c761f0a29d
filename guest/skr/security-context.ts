import { fromBase64, messageOf } from "@sealpod/core";
import { parseThimBase64, type ThimCertificates } from "@sealpod/snp";
import { SkrError } from "./errors.ts";

/** What the guest image and the host say about themselves, in the files that the genuine utility VM has (specs/attestation.md 5.1). */
export interface SecurityContext {
  /** COSE_Sign1 endorsement of the guest image. */
  readonly uvmEndorsement: Uint8Array | undefined;
  /** The host's certificates. */
  readonly hostCertificates: ThimCertificates | undefined;
}

/** Texts of the files `reference-info-base64` and `host-amd-cert-base64`; undefined or blank means that there is no such file. */
export interface SecurityContextTexts {
  readonly referenceInfo: string | undefined;
  readonly hostAmdCert: string | undefined;
}

/**
 * Decodes the security context. What is there must be right: a half-read context would only show later, as a refusal.
 * @throws {SkrError} ERR_SKR_CONFIGURATION
 */
export function parseSecurityContext(texts: SecurityContextTexts): SecurityContext {
  const reference = texts.referenceInfo?.trim() ?? "";
  const host = texts.hostAmdCert?.trim() ?? "";
  try {
    return {
      uvmEndorsement: reference === "" ? undefined : fromBase64(reference, "reference-info-base64"),
      hostCertificates: host === "" ? undefined : parseThimBase64(host),
    };
  } catch (cause) {
    throw new SkrError("ERR_SKR_CONFIGURATION", `security context: ${messageOf(cause)}`, { cause });
  }
}
