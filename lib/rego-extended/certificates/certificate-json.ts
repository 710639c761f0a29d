import type { JsonValue } from "@sealpod/core";
import { contextTag, DerReader, type Extension, KEY_USAGES, OID, parseBasicConstraints, parseExtendedKeyUsage, parseKeyUsage, TAG } from "@sealpod/pki";
import type { CertificateFields, RequestFields } from "./certificate-fields.ts";
import { publicKeyJson, signatureAlgorithmNumber } from "./certificate-keys.ts";
import { alternativeNamesJson, base64, listOrNull, nameJson, NO_SUBTREES, oidJson, readSubtrees, type Subtrees, uriNames } from "./certificate-names.ts";

/** The purpose that stands for all (RFC 5280 section 4.2.1.12). */
export const ANY_PURPOSE = "2.5.29.37.0";

/** Purposes of extendedKeyUsage under OPA's names; the index is Go's number (`x509.ExtKeyUsage`). */
export const KEY_PURPOSES: readonly { readonly name: string; readonly oid: string }[] = [
  { name: "KeyUsageAny", oid: ANY_PURPOSE },
  { name: "KeyUsageServerAuth", oid: OID.serverAuth },
  { name: "KeyUsageClientAuth", oid: OID.clientAuth },
  { name: "KeyUsageCodeSigning", oid: "1.3.6.1.5.5.7.3.3" },
  { name: "KeyUsageEmailProtection", oid: "1.3.6.1.5.5.7.3.4" },
  { name: "KeyUsageIPSECEndSystem", oid: "1.3.6.1.5.5.7.3.5" },
  { name: "KeyUsageIPSECTunnel", oid: "1.3.6.1.5.5.7.3.6" },
  { name: "KeyUsageIPSECUser", oid: "1.3.6.1.5.5.7.3.7" },
  { name: "KeyUsageTimeStamping", oid: "1.3.6.1.5.5.7.3.8" },
  { name: "KeyUsageOCSPSigning", oid: "1.3.6.1.5.5.7.3.9" },
  { name: "KeyUsageMicrosoftServerGatedCrypto", oid: "1.3.6.1.4.1.311.10.3.3" },
  { name: "KeyUsageNetscapeServerGatedCrypto", oid: "2.16.840.1.113730.4.1" },
  { name: "KeyUsageMicrosoftCommercialCodeSigning", oid: "1.3.6.1.4.1.311.2.1.22" },
  { name: "KeyUsageMicrosoftKernelCodeSigning", oid: "1.3.6.1.4.1.311.61.1.1" },
];

/** nameConstraints (RFC 5280 section 4.2.1.10). */
export const NAME_CONSTRAINTS = "2.5.29.30";

const POLICIES = "2.5.29.32";
const POLICY_MAPPINGS = "2.5.29.33";
const POLICY_CONSTRAINTS = "2.5.29.36";
const INHIBIT_ANY_POLICY = "2.5.29.54";
const DISTRIBUTION_POINTS = "2.5.29.31";
const AUTHORITY_INFORMATION = "1.3.6.1.5.5.7.1.1";
const OCSP = "1.3.6.1.5.5.7.48.1";
const CA_ISSUERS = "1.3.6.1.5.5.7.48.2";

/** Extensions that {@link certificateJson} shows decoded. */
const DECODED: readonly string[] = [
  OID.keyUsage,
  OID.basicConstraints,
  OID.subjectAltName,
  OID.extendedKeyUsage,
  OID.subjectKeyIdentifier,
  OID.authorityKeyIdentifier,
  NAME_CONSTRAINTS,
  POLICIES,
  POLICY_MAPPINGS,
  POLICY_CONSTRAINTS,
  INHIBIT_ANY_POLICY,
  DISTRIBUTION_POINTS,
  AUTHORITY_INFORMATION,
];

type Find = <T>(oid: string, read: (reader: DerReader, value: Uint8Array) => T) => T | undefined;

/**
 * A certificate in the shape of Go's `x509.Certificate` with OPA's `URIStrings`.
 * @throws {PkiError}
 */
export function certificateJson(certificate: CertificateFields): JsonValue {
  const { extensions } = certificate;
  const values = new Map(extensions.map(({ oid, value }) => [oid, value]));
  const find: Find = (oid, read) => {
    const value = values.get(oid);
    return value === undefined ? undefined : read(new DerReader(value, `extension ${oid}`), value);
  };
  return {
    Raw: base64(certificate.der),
    RawTBSCertificate: base64(certificate.tbs),
    RawSubjectPublicKeyInfo: base64(certificate.publicKeyInfo),
    RawSubject: base64(certificate.subject.der),
    RawIssuer: base64(certificate.issuer.der),
    Signature: base64(certificate.signature),
    SignatureAlgorithm: signatureAlgorithmNumber(certificate.algorithm),
    ...publicKeyJson(certificate.publicKeyInfo),
    Version: certificate.version,
    SerialNumber: certificate.serial,
    Issuer: nameJson(certificate.issuer),
    Subject: nameJson(certificate.subject),
    NotBefore: timeText(certificate.notBefore),
    NotAfter: timeText(certificate.notAfter),
    Extensions: extensionsJson(extensions),
    ExtraExtensions: null,
    UnhandledCriticalExtensions: listOrNull(extensions.filter(({ oid, critical }) => critical && !DECODED.includes(oid)).map(({ oid }) => oidJson(oid))),
    ...alternativeNamesJson(values.get(OID.subjectAltName)),
    ...usageJson(find),
    ...basicConstraintsJson(find),
    ...identifiersJson(find),
    ...authorityInformationJson(find),
    ...nameConstraintsJson(find, extensions),
    ...policiesJson(find),
  };
}

/**
 * A certification request in the shape of Go's `x509.CertificateRequest`. The deprecated `Attributes` are null: what they hold is in `Extensions`.
 * @throws {PkiError}
 */
export function requestJson(request: RequestFields): JsonValue {
  const { URIStrings: _, ...names } = alternativeNamesJson(request.extensions.find(({ oid }) => oid === OID.subjectAltName)?.value);
  return {
    Raw: base64(request.der),
    RawTBSCertificateRequest: base64(request.info),
    RawSubjectPublicKeyInfo: base64(request.publicKeyInfo),
    RawSubject: base64(request.subject.der),
    Version: request.version,
    Signature: base64(request.signature),
    SignatureAlgorithm: signatureAlgorithmNumber(request.algorithm),
    ...publicKeyJson(request.publicKeyInfo),
    Subject: nameJson(request.subject),
    Attributes: null,
    Extensions: extensionsJson(request.extensions),
    ExtraExtensions: null,
    ...names,
  };
}

function timeText(time: number): string {
  return new Date(time).toISOString().replace(".000Z", "Z");
}

function extensionsJson(extensions: readonly Extension[]): JsonValue {
  return listOrNull(extensions.map(({ oid, critical, value }) => ({ Id: oidJson(oid), Critical: critical, Value: base64(value) })));
}

function usageJson(find: Find): Readonly<Record<string, JsonValue>> {
  const usages = find(OID.keyUsage, (_, value) => parseKeyUsage(value, "certificate"));
  const purposes = find(OID.extendedKeyUsage, (_, value) => parseExtendedKeyUsage(value, "certificate")) ?? [];
  const numbers = purposes.map((oid) => KEY_PURPOSES.findIndex((purpose) => purpose.oid === oid));
  return {
    KeyUsage: KEY_USAGES.reduce((sum, usage, bit) => sum + (usages?.has(usage) === true ? 2 ** bit : 0), 0),
    ExtKeyUsage: listOrNull(numbers.filter((number) => number !== -1)),
    UnknownExtKeyUsage: listOrNull(purposes.filter((_, index) => numbers[index] === -1).map(oidJson)),
  };
}

function basicConstraintsJson(find: Find): Readonly<Record<string, JsonValue>> {
  const constraints = find(OID.basicConstraints, (_, value) => parseBasicConstraints(value, "certificate"));
  return {
    BasicConstraintsValid: constraints !== undefined,
    IsCA: constraints?.ca ?? false,
    MaxPathLen: constraints === undefined ? 0 : (constraints.pathLength ?? -1),
    MaxPathLenZero: constraints?.pathLength === 0,
  };
}

function identifiersJson(find: Find): Readonly<Record<string, JsonValue>> {
  const subject = find(OID.subjectKeyIdentifier, (reader) => {
    const identifier = reader.octetString();
    reader.end();
    return base64(identifier);
  });
  const authority = find(OID.authorityKeyIdentifier, (reader) => {
    const sequence = reader.enter(TAG.sequence);
    reader.end();
    return sequence.peek() === contextTag(0, false) ? base64(sequence.any().content) : null;
  });
  return { SubjectKeyId: subject ?? null, AuthorityKeyId: authority ?? null };
}

/** Where to ask about a certificate: OCSP servers, the issuer's certificate, lists of the revoked (RFC 5280 sections 4.2.2.1 and 4.2.1.13). */
function authorityInformationJson(find: Find): Readonly<Record<string, JsonValue>> {
  const locations = find(AUTHORITY_INFORMATION, (reader) => {
    const list = reader.enter(TAG.sequence);
    reader.end();
    const found: { readonly method: string; readonly uris: readonly string[] }[] = [];
    while (!list.done) {
      const item = list.enter(TAG.sequence);
      found.push({ method: item.oid(), uris: uriNames(item) });
    }
    return found;
  });
  const of = (method: string): JsonValue => listOrNull((locations ?? []).filter((location) => location.method === method).flatMap(({ uris }) => uris));
  const points = find(DISTRIBUTION_POINTS, (reader) => {
    const list = reader.enter(TAG.sequence);
    reader.end();
    const uris: string[] = [];
    while (!list.done) {
      const fullName = list.enter(TAG.sequence).enterOptional(contextTag(0, true))?.enterOptional(contextTag(0, true));
      if (fullName !== undefined) uris.push(...uriNames(fullName));
    }
    return uris;
  });
  return { OCSPServer: of(OCSP), IssuingCertificateURL: of(CA_ISSUERS), CRLDistributionPoints: listOrNull(points ?? []) };
}

function nameConstraintsJson(find: Find, extensions: readonly Extension[]): Readonly<Record<string, JsonValue>> {
  const lists = find(NAME_CONSTRAINTS, (reader) => {
    const sequence = reader.enter(TAG.sequence);
    reader.end();
    const read = (tag: number): Subtrees => {
      const list = sequence.enterOptional(contextTag(tag, true));
      return list === undefined ? NO_SUBTREES : readSubtrees(list);
    };
    const found = [read(0), read(1)] as const;
    sequence.end();
    return found;
  });
  const [permitted, excluded] = lists ?? [NO_SUBTREES, NO_SUBTREES];
  return {
    PermittedDNSDomainsCritical: extensions.some(({ oid, critical }) => critical && oid === NAME_CONSTRAINTS),
    PermittedDNSDomains: listOrNull(permitted.dns),
    ExcludedDNSDomains: listOrNull(excluded.dns),
    PermittedIPRanges: listOrNull(permitted.ip),
    ExcludedIPRanges: listOrNull(excluded.ip),
    PermittedEmailAddresses: listOrNull(permitted.email),
    ExcludedEmailAddresses: listOrNull(excluded.email),
    PermittedURIDomains: listOrNull(permitted.uri),
    ExcludedURIDomains: listOrNull(excluded.uri),
  };
}

function policiesJson(find: Find): Readonly<Record<string, JsonValue>> {
  const policies =
    find(POLICIES, (reader) => {
      const list = reader.enter(TAG.sequence);
      reader.end();
      const oids: string[] = [];
      while (!list.done) oids.push(list.enter(TAG.sequence).oid());
      return oids;
    }) ?? [];
  const mappings = find(POLICY_MAPPINGS, (reader) => {
    const list = reader.enter(TAG.sequence);
    reader.end();
    const pairs: JsonValue[] = [];
    while (!list.done) {
      const pair = list.enter(TAG.sequence);
      pairs.push({ IssuerDomainPolicy: pair.oid(), SubjectDomainPolicy: pair.oid() });
      pair.end();
    }
    return pairs;
  });
  const constraints = find(POLICY_CONSTRAINTS, (reader) => {
    const sequence = reader.enter(TAG.sequence);
    reader.end();
    const number = (tag: number): number | undefined => (sequence.peek() === contextTag(tag, false) ? smallNumber(sequence.any().content) : undefined);
    return { require: number(0), inhibit: number(1) };
  });
  const inhibitAny = find(INHIBIT_ANY_POLICY, (reader) => reader.smallInteger(255));
  return {
    PolicyIdentifiers: listOrNull(policies.map(oidJson)),
    Policies: listOrNull(policies),
    PolicyMappings: listOrNull(mappings ?? []),
    InhibitAnyPolicy: inhibitAny ?? 0,
    InhibitAnyPolicyZero: inhibitAny === 0,
    InhibitPolicyMapping: constraints?.inhibit ?? 0,
    InhibitPolicyMappingZero: constraints?.inhibit === 0,
    RequireExplicitPolicy: constraints?.require ?? 0,
    RequireExplicitPolicyZero: constraints?.require === 0,
  };
}

/** An INTEGER of one byte under an implicit tag: numbers of certificates in a chain. */
function smallNumber(content: Uint8Array): number {
  return content.length === 1 && content[0]! < 128 ? content[0]! : 127;
}
