import { equalBytes } from "@sealpod/core";
import { contextTag, type DerElement, DerReader, type Extension, MAX_EXTENSIONS, type Name, PkiError, readName, TAG } from "@sealpod/pki";

/**
 * A certificate as it stands (RFC 5280 section 4.1), of any version and with any algorithm. `lib/pki` reads what it can verify and refuses
 * the rest; this reads what a policy may want to look at. Nothing about it was verified.
 */
export interface CertificateFields {
  readonly der: Uint8Array;
  readonly tbs: Uint8Array;
  /** 1 to 3. */
  readonly version: number;
  readonly serial: bigint;
  /** AlgorithmIdentifier of the signature. */
  readonly algorithm: Uint8Array;
  readonly signature: Uint8Array;
  readonly issuer: Name;
  readonly subject: Name;
  /** Milliseconds since 1970, inclusive. */
  readonly notBefore: number;
  /** Milliseconds since 1970, inclusive. */
  readonly notAfter: number;
  /** SubjectPublicKeyInfo. */
  readonly publicKeyInfo: Uint8Array;
  /** In order; none twice. */
  readonly extensions: readonly Extension[];
}

/** A certification request as it stands (RFC 2986 section 4). Its signature was not verified. */
export interface RequestFields {
  readonly der: Uint8Array;
  readonly info: Uint8Array;
  readonly version: number;
  readonly algorithm: Uint8Array;
  readonly signature: Uint8Array;
  readonly subject: Name;
  readonly publicKeyInfo: Uint8Array;
  /** Of the attribute extensionRequest. */
  readonly extensions: readonly Extension[];
}

/** Largest certificate or request: as in `lib/pki`, with room for lists of alternative names. */
const MAX_BYTES: number = 64 * 1024;

/** Attribute extensionRequest (RFC 2985 section 5.4.2). */
const EXTENSION_REQUEST = "1.2.840.113549.1.9.14";

/**
 * Reads one certificate in DER.
 * @throws {PkiError}
 */
export function readCertificate(der: Uint8Array): CertificateFields {
  const { body, outer, algorithm, element } = open(der, "certificate");
  const version = body.enterOptional(contextTag(0, true));
  const versionNumber = (version?.smallInteger(2) ?? 0) + 1;
  version?.end();
  const serial = body.integer();
  // The outer identifier is not signed; it must repeat the inner one (RFC 5280 section 4.1.1.2).
  if (!equalBytes(body.read(TAG.sequence).encoded, algorithm)) {
    throw new PkiError("ERR_PKI_CERTIFICATE", "inner and outer signature algorithm identifiers don't match");
  }
  const issuer = readName(body, "certificate");
  const validity = body.enter(TAG.sequence);
  const notBefore = validity.time();
  const notAfter = validity.time();
  validity.end();
  const subject = readName(body, "certificate");
  const publicKeyInfo = body.read(TAG.sequence).encoded;
  // issuerUniqueID and subjectUniqueID: obsolete, and no policy has a use for them.
  for (const tag of [contextTag(1, false), contextTag(2, false)]) if (body.peek() === tag) body.any();
  const explicit = body.enterOptional(contextTag(3, true));
  const extensions = explicit === undefined ? [] : readExtensions(explicit);
  explicit?.end();
  body.end();
  return {
    der,
    tbs: element.encoded,
    version: versionNumber,
    serial,
    algorithm,
    signature: outer,
    issuer,
    subject,
    notBefore,
    notAfter,
    publicKeyInfo,
    extensions,
  };
}

/**
 * Reads certificates in DER, one after the other.
 * @throws {PkiError}
 */
export function splitCertificates(der: Uint8Array): readonly Uint8Array[] {
  const reader = new DerReader(der, "certificates");
  const list: Uint8Array[] = [];
  while (!reader.done) list.push(reader.read(TAG.sequence).encoded);
  return list;
}

/**
 * Reads a certification request in DER.
 * @throws {PkiError}
 */
export function readRequest(der: Uint8Array): RequestFields {
  const { body, outer, algorithm, element } = open(der, "certificate request");
  const version = body.smallInteger(2);
  const subject = readName(body, "certificate request");
  const publicKeyInfo = body.read(TAG.sequence).encoded;
  const attributes = body.enterOptional(contextTag(0, true));
  body.end();
  const extensions = attributes === undefined ? [] : readRequestedExtensions(attributes);
  return { der, info: element.encoded, version, algorithm, signature: outer, subject, publicKeyInfo, extensions };
}

/**
 * The SubjectPublicKeyInfo of a certificate.
 * @throws {PkiError}
 */
export function certificatePublicKey(der: Uint8Array): Uint8Array {
  return readCertificate(der).publicKeyInfo;
}

/** The frame that certificates and requests share: what is signed, how, and the signature. */
function open(
  der: Uint8Array,
  what: string,
): { readonly element: DerElement; readonly body: DerReader; readonly algorithm: Uint8Array; readonly outer: Uint8Array } {
  if (der.length > MAX_BYTES) throw new PkiError("ERR_PKI_LIMIT", `${what}: ${der.length} bytes, more than the limit of ${MAX_BYTES}`);
  const reader = new DerReader(der, what);
  const frame = reader.enter(TAG.sequence);
  reader.end();
  const { element, inner } = frame.enterElement(TAG.sequence);
  const algorithm = frame.read(TAG.sequence).encoded;
  const signature = frame.bitString();
  frame.end();
  if (signature.unused !== 0) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: the signature is not whole bytes`);
  return { element, body: inner, algorithm, outer: signature.bytes };
}

function readRequestedExtensions(attributes: DerReader): readonly Extension[] {
  let extensions: readonly Extension[] | undefined;
  while (!attributes.done) {
    const attribute = attributes.enter(TAG.sequence);
    const type = attribute.oid();
    const values = attribute.enter(TAG.set);
    attribute.end();
    if (type !== EXTENSION_REQUEST) continue;
    if (extensions !== undefined) throw new PkiError("ERR_PKI_CERTIFICATE", "certificate request: two requests for extensions");
    extensions = readExtensions(values);
    values.end();
  }
  return extensions ?? [];
}

function readExtensions(reader: DerReader): readonly Extension[] {
  const list = reader.enter(TAG.sequence);
  const extensions: Extension[] = [];
  while (!list.done) {
    if (extensions.length === MAX_EXTENSIONS) throw new PkiError("ERR_PKI_LIMIT", `more than ${MAX_EXTENSIONS} extensions`);
    const item = list.enter(TAG.sequence);
    const oid = item.oid();
    const critical = item.peek() === TAG.boolean && item.boolean();
    const value = item.octetString();
    item.end();
    if (extensions.some((other) => other.oid === oid)) throw new PkiError("ERR_PKI_CERTIFICATE", `extension ${oid} twice`);
    extensions.push({ oid, critical, value });
  }
  return extensions;
}
