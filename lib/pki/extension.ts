import { createHash } from "node:crypto";
import { encodeUtf8, toHex } from "@sealpod/core";
import { contextTag, DerReader, TAG } from "./der-reader.ts";
import { encodeBitString, encodeBoolean, encodeDer, encodeInteger, encodeOctetString, encodeOid, encodeSequence } from "./der-writer.ts";
import { PkiError } from "./errors.ts";
import { OID } from "./oid.ts";

/** One extension, undecoded. */
export interface Extension {
  /** Dotted type. */
  readonly oid: string;
  readonly critical: boolean;
  /** Content of the OCTET STRING. It should be DER, but AMD puts raw bytes into one. */
  readonly value: Uint8Array;
}

/** RFC 5280 section 4.2.1.9. */
export interface BasicConstraints {
  readonly ca: boolean;
  /** Most CA certificates that may stand below this one, the leaf not counted; undefined for no limit. */
  readonly pathLength: number | undefined;
}

/** RFC 5280 section 4.2.1.3, in the order of the bits. */
export type KeyUsage =
  | "digitalSignature"
  | "contentCommitment"
  | "keyEncipherment"
  | "dataEncipherment"
  | "keyAgreement"
  | "keyCertSign"
  | "cRLSign"
  | "encipherOnly"
  | "decipherOnly";

/** All usages; bit i of the extension (RFC 5280 section 4.2.1.3) is the one with the index i. */
export const KEY_USAGES: readonly KeyUsage[] = [
  "digitalSignature",
  "contentCommitment",
  "keyEncipherment",
  "dataEncipherment",
  "keyAgreement",
  "keyCertSign",
  "cRLSign",
  "encipherOnly",
  "decipherOnly",
];

/** A subject alternative name (RFC 5280 section 4.2.1.6). Forms that nothing here uses are `other`. */
export type AlternativeName =
  | { readonly kind: "dns"; readonly value: string }
  | { readonly kind: "email"; readonly value: string }
  | { readonly kind: "uri"; readonly value: string }
  | { readonly kind: "ip"; readonly bytes: Uint8Array }
  | { readonly kind: "other"; readonly encoded: Uint8Array };

/** GeneralName (RFC 5280 section 4.2.1.6): otherName, x400Address, directoryName, ediPartyName, registeredID. */
const OTHER_NAME_TAGS: ReadonlySet<number> = new Set([0, 3, 4, 5].map((number) => contextTag(number, true)).concat(contextTag(8, false)));

/** Most extensions of one certificate or CRL: AMD's certificates have eleven. */
export const MAX_EXTENSIONS = 64;

/** Most entries of a list inside an extension (names, purposes): a large server certificate has a hundred. */
const MAX_ENTRIES = 256;

/**
 * Reads an Extensions list (RFC 5280 section 4.1): at least one, none twice.
 * @param code of the error if one stands there twice
 * @throws {PkiError} ERR_PKI_DER, ERR_PKI_LIMIT and `code`
 */
export function readExtensions(
  reader: DerReader,
  what: string,
  code: "ERR_PKI_CERTIFICATE" | "ERR_PKI_CRL" = "ERR_PKI_CERTIFICATE",
): ReadonlyMap<string, Extension> {
  const extensions = new Map<string, Extension>();
  const list = reader.enter(TAG.sequence);
  do {
    if (extensions.size === MAX_EXTENSIONS) throw new PkiError("ERR_PKI_LIMIT", `${what}: more than ${MAX_EXTENSIONS} extensions`);
    const item = list.enter(TAG.sequence);
    const oid = item.oid();
    // DER leaves FALSE out because it is the default, but many certificates of the field write it.
    const critical = item.peek() === TAG.boolean && item.boolean();
    const value = item.octetString();
    item.end();
    if (extensions.has(oid)) throw new PkiError(code, `${what}: extension ${oid} twice`, { details: { oid } });
    extensions.set(oid, { oid, critical, value });
  } while (!list.done);
  return extensions;
}

/** DER of an extension. */
export function encodeExtension({ oid, critical, value }: Extension): Uint8Array {
  return encodeSequence(encodeOid(oid), ...(critical ? [encodeBoolean(true)] : []), encodeOctetString(value));
}

/** Value of basicConstraints. */
export function parseBasicConstraints(value: Uint8Array, what: string): BasicConstraints {
  const outer = new DerReader(value, `${what}: basicConstraints`);
  const sequence = outer.enter(TAG.sequence);
  outer.end();
  // DER leaves FALSE out because it is the default, but many certificates of the field write it.
  const ca = sequence.peek() === TAG.boolean && sequence.boolean();
  const pathLength = sequence.peek() === TAG.integer ? sequence.smallInteger(255) : undefined;
  sequence.end();
  if (!ca && pathLength !== undefined) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: a path length on a certificate that is not a CA`);
  return { ca, pathLength };
}

/** Value of keyUsage: the names of the bits that are set. */
export function parseKeyUsage(value: Uint8Array, what: string): ReadonlySet<KeyUsage> {
  const reader = new DerReader(value, `${what}: keyUsage`);
  const { bytes } = reader.bitString();
  reader.end();
  const usages = new Set<KeyUsage>();
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    if (((bytes[bit >> 3] ?? 0) & (0x80 >> (bit & 7))) === 0) continue;
    const usage = KEY_USAGES[bit];
    if (usage === undefined) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: keyUsage bit ${bit} does not exist`);
    usages.add(usage);
  }
  return usages;
}

/** Value of extendedKeyUsage: dotted purposes, at least one, none twice. */
export function parseExtendedKeyUsage(value: Uint8Array, what: string): readonly string[] {
  const outer = new DerReader(value, `${what}: extendedKeyUsage`);
  const sequence = outer.enter(TAG.sequence);
  outer.end();
  const purposes = new Set<string>();
  do {
    if (purposes.size === MAX_ENTRIES) throw new PkiError("ERR_PKI_LIMIT", `${what}: more than ${MAX_ENTRIES} extended key usages`);
    const purpose = sequence.oid();
    if (purposes.has(purpose)) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: extended key usage ${purpose} twice`);
    purposes.add(purpose);
  } while (!sequence.done);
  return [...purposes];
}

/** Value of subjectAltName, at least one name. */
export function parseSubjectAltName(value: Uint8Array, what: string): readonly AlternativeName[] {
  const outer = new DerReader(value, `${what}: subjectAltName`);
  const sequence = outer.enter(TAG.sequence);
  outer.end();
  const names: AlternativeName[] = [];
  do {
    if (names.length === MAX_ENTRIES) throw new PkiError("ERR_PKI_LIMIT", `${what}: more than ${MAX_ENTRIES} alternative names`);
    const { tag, content, encoded } = sequence.any();
    if (tag === contextTag(1, false)) names.push({ kind: "email", value: ia5(content, what) });
    else if (tag === contextTag(2, false)) names.push({ kind: "dns", value: ia5(content, what) });
    else if (tag === contextTag(6, false)) names.push({ kind: "uri", value: ia5(content, what) });
    else if (tag === contextTag(7, false)) {
      if (content.length !== 4 && content.length !== 16) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: an IP address of ${content.length} bytes`);
      names.push({ kind: "ip", bytes: content });
    } else if (OTHER_NAME_TAGS.has(tag)) names.push({ kind: "other", encoded });
    else throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: an alternative name with tag 0x${tag.toString(16).padStart(2, "0")}, which is not a GeneralName`);
  } while (!sequence.done);
  return names;
}

/** basicConstraints, critical. */
export function basicConstraints(value: { readonly ca: boolean; readonly pathLength?: number }): Extension {
  const parts = value.ca ? [encodeBoolean(true)] : [];
  if (value.pathLength !== undefined) parts.push(encodeInteger(value.pathLength));
  return { oid: OID.basicConstraints, critical: true, value: encodeSequence(...parts) };
}

/** keyUsage, critical. */
export function keyUsage(...usages: readonly KeyUsage[]): Extension {
  const bits = usages.map((usage) => KEY_USAGES.indexOf(usage));
  const highest = Math.max(...bits);
  const bytes = new Uint8Array((highest >> 3) + 1);
  for (const bit of bits) bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) | (0x80 >> (bit & 7));
  return { oid: OID.keyUsage, critical: true, value: encodeBitString(bytes, 7 - (highest & 7)) };
}

/** extendedKeyUsage with dotted purposes. */
export function extendedKeyUsage(...purposes: readonly string[]): Extension {
  return { oid: OID.extendedKeyUsage, critical: false, value: encodeSequence(...purposes.map(encodeOid)) };
}

/** subjectAltName; `ip` takes 4 or 16 bytes. */
export function subjectAltName(...names: readonly AlternativeName[]): Extension {
  const items = names.map((name) => {
    switch (name.kind) {
      case "email":
        return encodeDer(contextTag(1, false), ascii(name.value));
      case "dns":
        return encodeDer(contextTag(2, false), ascii(name.value));
      case "uri":
        return encodeDer(contextTag(6, false), ascii(name.value));
      case "ip":
        return encodeDer(contextTag(7, false), name.bytes);
      case "other":
        return name.encoded;
    }
  });
  return { oid: OID.subjectAltName, critical: false, value: encodeSequence(...items) };
}

/** subjectKeyIdentifier of a SubjectPublicKeyInfo: the first 20 bytes of its SHA-256 (RFC 7093 section 2, method 1 over the whole structure). */
export function subjectKeyIdentifier(publicKeyInfo: Uint8Array): Extension {
  return { oid: OID.subjectKeyIdentifier, critical: false, value: encodeOctetString(keyIdentifier(publicKeyInfo)) };
}

/** authorityKeyIdentifier that matches the issuer's {@link subjectKeyIdentifier}. */
export function authorityKeyIdentifier(issuerPublicKeyInfo: Uint8Array): Extension {
  return {
    oid: OID.authorityKeyIdentifier,
    critical: false,
    value: encodeSequence(encodeDer(contextTag(0, false), keyIdentifier(issuerPublicKeyInfo))),
  };
}

function keyIdentifier(publicKeyInfo: Uint8Array): Uint8Array {
  return new Uint8Array(createHash("sha256").update(publicKeyInfo).digest().subarray(0, 20));
}

function ascii(text: string): Uint8Array {
  // eslint-disable-next-line no-control-regex -- IA5String is ASCII; control characters have no place in a name
  if (!/^[\u0021-\u007e]+$/.test(text)) throw new PkiError("ERR_PKI_TEMPLATE", `${JSON.stringify(text)} is not printable ASCII`);
  return encodeUtf8(text);
}

function ia5(content: Uint8Array, what: string): string {
  const text = Buffer.from(content).toString("latin1");
  // A NUL inside a name made verifiers read two different names (CVE-2009-2408).
  if (!/^[\u0020-\u007e]*$/.test(text)) throw new PkiError("ERR_PKI_CERTIFICATE", `${what}: alternative name ${toHex(content).slice(0, 64)} is not ASCII text`);
  return text;
}
