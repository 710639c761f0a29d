import { equalBytes } from "@sealpod/core";
import { type DerReader, TAG } from "./der-reader.ts";
import { encodeOid, encodePrintableString, encodeSequence, encodeSetOf, encodeUtf8String } from "./der-writer.ts";
import { PkiError } from "./errors.ts";
import { OID } from "./oid.ts";

/** One attribute of a distinguished name: dotted type and text. */
export interface NameAttribute {
  readonly type: string;
  readonly value: string;
}

/** A distinguished name (RFC 5280 section 4.1.2.4). */
export interface Name {
  /** The encoding. Names are equal if these bytes are. */
  readonly der: Uint8Array;
  /** The attributes in order, multi-valued RDNs flattened. */
  readonly attributes: readonly NameAttribute[];
}

/** Most attributes of a name: real ones have at most ten. */
const MAX_ATTRIBUTES = 32;

/** Reads a Name at the reader's place. */
export function readName(reader: DerReader, what: string): Name {
  const attributes: NameAttribute[] = [];
  const { element, inner } = reader.enterElement(TAG.sequence);
  while (!inner.done) {
    const set = inner.enter(TAG.set);
    do {
      if (attributes.length === MAX_ATTRIBUTES) throw new PkiError("ERR_PKI_LIMIT", `${what}: a name with more than ${MAX_ATTRIBUTES} attributes`);
      const pair = set.enter(TAG.sequence);
      attributes.push({ type: pair.oid(), value: pair.string() });
      pair.end();
    } while (!set.done);
  }
  return { der: element.encoded, attributes };
}

/**
 * A name of attributes in this order, one RDN each: UTF8String, but PrintableString for the country as RFC 5280 demands.
 * @throws {PkiError} ERR_PKI_TEMPLATE
 */
export function encodeName(attributes: readonly NameAttribute[]): Name {
  const items = attributes.map(({ type, value }) =>
    encodeSetOf(encodeSequence(encodeOid(type), type === OID.country ? encodePrintableString(value) : encodeUtf8String(value))),
  );
  return { der: encodeSequence(...items), attributes };
}

/** The only attribute of this type, or undefined if there is none. Two of them are refused: a reader would have to choose. */
export function nameAttribute(name: Name, type: string): string | undefined {
  const found = name.attributes.filter((attribute) => attribute.type === type);
  if (found.length > 1) throw new PkiError("ERR_PKI_CERTIFICATE", `a name has ${found.length} attributes of type ${type}`);
  return found[0]?.value;
}

/** True if both encodings are the same bytes. RFC 5280 would also fold case and string types; every chain of this project is issued byte for byte. */
export function equalNames(a: Name, b: Name): boolean {
  return equalBytes(a.der, b.der);
}

/** What a terminal acts on, or reorders text by: JSON leaves these as they are. */
// eslint-disable-next-line no-control-regex -- they are looked for in order to be escaped
const UNPRINTABLE = /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Text for messages, `CN=…, OU=…`: control characters, and commas inside a value, are escaped, so that a value cannot pass for two or move the cursor. */
export function formatName(name: Name): string {
  const labels: Readonly<Record<string, string>> = {
    [OID.commonName]: "CN",
    [OID.country]: "C",
    [OID.locality]: "L",
    [OID.stateOrProvince]: "ST",
    [OID.organization]: "O",
    [OID.organizationalUnit]: "OU",
  };
  const text = name.attributes.map(({ type, value }) => `${labels[type] ?? type}=${escapeValue(value)}`).join(", ");
  return text === "" ? "(empty name)" : text.slice(0, 200).toWellFormed();
}

function escapeValue(value: string): string {
  return JSON.stringify(value.slice(0, 200))
    .slice(1, -1)
    .replaceAll(",", "\\,")
    .replaceAll(UNPRINTABLE, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
