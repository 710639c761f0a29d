import type { KeyObject } from "node:crypto";
import { type Certificate, parseCertificate } from "./certificate.ts";
import { encodeBitString, encodeExplicit, encodeInteger, encodeSequence, encodeTime } from "./der-writer.ts";
import { PkiError } from "./errors.ts";
import { encodeExtension, type Extension } from "./extension.ts";
import { encodeName, type NameAttribute } from "./name.ts";
import { encodePublicKeyInfo, encodeSignatureAlgorithm, signData, type SignatureAlgorithm } from "./signature.ts";

/** What {@link issueCertificate} puts into a certificate. */
export interface CertificateTemplate {
  readonly subject: readonly NameAttribute[];
  /** Public key of the subject; of a private key, its public half. */
  readonly subjectKey: KeyObject;
  /** Who signs. `name` is the issuer's subject as it stands in its certificate; left out, the certificate is self-signed with `key`. */
  readonly issuer: { readonly name?: { readonly der: Uint8Array }; readonly key: KeyObject };
  readonly signatureAlgorithm: SignatureAlgorithm;
  /** 0 to 2^159 - 1. */
  readonly serial: bigint;
  /** Milliseconds since 1970. */
  readonly notBefore: number;
  /** Milliseconds since 1970. */
  readonly notAfter: number;
  /** In this order. */
  readonly extensions: readonly Extension[];
}

/**
 * Writes and signs an X.509 version 3 certificate. The result has gone through {@link parseCertificate}, so nothing is issued that would be refused here.
 * @throws {PkiError} ERR_PKI_TEMPLATE, ERR_PKI_KEY and the codes of {@link parseCertificate}
 */
export function issueCertificate(template: CertificateTemplate): Certificate {
  if (template.serial < 0n || template.serial >= 1n << 159n) throw new PkiError("ERR_PKI_TEMPLATE", "a serial number is 0 to 2^159 - 1");
  if (template.notAfter <= template.notBefore) throw new PkiError("ERR_PKI_TEMPLATE", "notAfter is not after notBefore");
  const algorithm = encodeSignatureAlgorithm(template.signatureAlgorithm);
  const subject = encodeName(template.subject);
  const extensions = template.extensions.map(encodeExtension);
  const tbs = encodeSequence(
    encodeExplicit(0, encodeInteger(2)),
    encodeInteger(template.serial),
    algorithm,
    (template.issuer.name ?? subject).der,
    encodeSequence(encodeTime(template.notBefore), encodeTime(template.notAfter)),
    subject.der,
    encodePublicKeyInfo(template.subjectKey),
    ...(extensions.length === 0 ? [] : [encodeExplicit(3, encodeSequence(...extensions))]),
  );
  const signature = signData(template.signatureAlgorithm, template.issuer.key, tbs);
  return parseCertificate(encodeSequence(tbs, algorithm, encodeBitString(signature)), "issued certificate");
}
