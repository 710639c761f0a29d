import { equalBytes } from "@sealpod/core";
import { contextTag, DerReader, TAG } from "./der-reader.ts";
import { PkiError } from "./errors.ts";
import {
  type AlternativeName,
  type BasicConstraints,
  type Extension,
  type KeyUsage,
  parseBasicConstraints,
  parseExtendedKeyUsage,
  parseKeyUsage,
  parseSubjectAltName,
  readExtensions,
} from "./extension.ts";
import { type Name, readName } from "./name.ts";
import { OID } from "./oid.ts";
import { encodePem, parsePem } from "./pem.ts";
import { type PublicKeyInfo, readPublicKeyInfo, readSignatureAlgorithm, type SignatureAlgorithm } from "./signature.ts";

/** Largest certificate: the biggest of the field (Microsoft's leaves with many policies) are below 4 KiB. */
export const MAX_CERTIFICATE_BYTES: number = 32 * 1024;

/** An X.509 version 3 certificate that was read strictly. Nothing about it was verified. */
export interface Certificate {
  readonly der: Uint8Array;
  /** The signed part, as it stands in {@link der}. */
  readonly tbs: Uint8Array;
  readonly serial: bigint;
  readonly signatureAlgorithm: SignatureAlgorithm;
  readonly signature: Uint8Array;
  readonly issuer: Name;
  readonly subject: Name;
  /** Milliseconds since 1970, inclusive. */
  readonly notBefore: number;
  /** Milliseconds since 1970, inclusive. */
  readonly notAfter: number;
  readonly publicKey: PublicKeyInfo;
  /** All extensions by dotted type. */
  readonly extensions: ReadonlyMap<string, Extension>;
  readonly basicConstraints: BasicConstraints | undefined;
  readonly keyUsage: ReadonlySet<KeyUsage> | undefined;
  readonly extendedKeyUsage: readonly string[] | undefined;
  readonly subjectAltName: readonly AlternativeName[] | undefined;
}

/**
 * Reads one certificate (RFC 5280 section 4.1): version 3, strict DER, no extension twice, no trailing bytes.
 * @param what name of the certificate, for messages
 * @throws {PkiError} ERR_PKI_DER, ERR_PKI_LIMIT, ERR_PKI_CERTIFICATE, ERR_PKI_ALGORITHM, ERR_PKI_KEY
 */
export function parseCertificate(input: Uint8Array, what = "certificate"): Certificate {
  if (input.length > MAX_CERTIFICATE_BYTES) {
    throw new PkiError("ERR_PKI_LIMIT", `${what}: ${input.length} bytes, more than the limit of ${MAX_CERTIFICATE_BYTES}`, {
      details: { limit: MAX_CERTIFICATE_BYTES, found: input.length },
    });
  }
  // A copy: the caller may change its buffer between our check and our use.
  const der = Uint8Array.from(input);
  const outer = new DerReader(der, what);
  const certificate = outer.enter(TAG.sequence);
  outer.end();
  const { element: tbs, inner: body } = certificate.enterElement(TAG.sequence);
  const outerAlgorithm = readSignatureAlgorithm(certificate, what);
  const signature = certificate.bitString();
  certificate.end();
  if (signature.unused !== 0) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: the signature is not whole bytes`);

  const version = body.enterOptional(contextTag(0, true));
  const versionNumber = version?.smallInteger(255);
  version?.end();
  if (versionNumber !== 2) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: certificate version ${(versionNumber ?? 0) + 1}, expected 3`);
  const serial = body.integer();
  // RFC 5280 section 4.1.2.2 wants a positive serial of at most 20 bytes; AMD's VCEKs have serial 0.
  if (serial < 0n || serial >= 1n << 160n) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: the serial number is negative or longer than 20 bytes`);
  const innerAlgorithm = readSignatureAlgorithm(body, what);
  // The outer identifier is not signed; it must repeat the inner one (RFC 5280 section 4.1.1.2).
  if (!equalBytes(outerAlgorithm.encoded, innerAlgorithm.encoded)) {
    throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: the signature algorithm inside and outside the signed part differ`);
  }
  const issuer = readName(body, what);
  const validity = body.enter(TAG.sequence);
  const notBefore = validity.time();
  const notAfter = validity.time();
  validity.end();
  const subject = readName(body, what);
  const publicKey = readPublicKeyInfo(body, what);
  // issuerUniqueID and subjectUniqueID ([1] and [2]) are obsolete, and read as trailing data.
  const explicit = body.enterOptional(contextTag(3, true));
  const extensions = explicit === undefined ? new Map<string, Extension>() : readExtensions(explicit, what);
  explicit?.end();
  body.end();

  const view = <T>(oid: string, parse: (value: Uint8Array, what: string) => T): T | undefined => {
    const extension = extensions.get(oid);
    return extension === undefined ? undefined : parse(extension.value, what);
  };
  return {
    der,
    tbs: tbs.encoded,
    serial,
    signatureAlgorithm: innerAlgorithm.algorithm,
    signature: signature.bytes,
    issuer,
    subject,
    notBefore,
    notAfter,
    publicKey,
    extensions,
    basicConstraints: view(OID.basicConstraints, parseBasicConstraints),
    keyUsage: view(OID.keyUsage, parseKeyUsage),
    extendedKeyUsage: view(OID.extendedKeyUsage, parseExtendedKeyUsage),
    subjectAltName: view(OID.subjectAltName, parseSubjectAltName),
  };
}

/**
 * Reads the certificates of a PEM text, in order.
 * @throws {PkiError} ERR_PKI_PEM and the codes of {@link parseCertificate}
 */
export function parseCertificatesPem(text: string, what = "certificates"): readonly Certificate[] {
  return parsePem(text, "CERTIFICATE", what).map((der, index) => parseCertificate(der, `${what}[${index}]`));
}

/** PEM text of certificates, in order. */
export function encodeCertificatesPem(certificates: readonly { readonly der: Uint8Array }[]): string {
  return certificates.map(({ der }) => encodePem("CERTIFICATE", der)).join("");
}
