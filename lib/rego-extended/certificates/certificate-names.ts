import { contextTag, DerReader, type Name, parseSubjectAltName, TAG } from "@sealpod/pki";
import type { JsonValue } from "@sealpod/core";
import { addressOf, formatAddress } from "../net/ip-address.ts";

/** Attributes of Go's `pkix.Name` that hold a list, by type. */
const LISTS: readonly (readonly [string, string])[] = [
  ["Country", "2.5.4.6"],
  ["Organization", "2.5.4.10"],
  ["OrganizationalUnit", "2.5.4.11"],
  ["Locality", "2.5.4.7"],
  ["Province", "2.5.4.8"],
  ["StreetAddress", "2.5.4.9"],
  ["PostalCode", "2.5.4.17"],
];

/** A distinguished name in the shape of Go's `pkix.Name`. */
export function nameJson(name: Name): JsonValue {
  const values = (type: string): readonly string[] => name.attributes.filter((attribute) => attribute.type === type).map(({ value }) => value);
  return {
    ...Object.fromEntries(LISTS.map(([field, type]) => [field, listOrNull(values(type))])),
    // Of several, Go takes the last.
    CommonName: values("2.5.4.3").at(-1) ?? "",
    SerialNumber: values("2.5.4.5").at(-1) ?? "",
    Names: listOrNull(name.attributes.map(({ type, value }) => ({ Type: oidJson(type), Value: value }))),
    ExtraNames: null,
  };
}

/** Alternative names under the names that Go's structures have for them. */
export function alternativeNamesJson(value: Uint8Array | undefined): Readonly<Record<string, JsonValue>> {
  const names = value === undefined ? [] : parseSubjectAltName(value, "certificate");
  const texts = (kind: "dns" | "email" | "uri"): readonly string[] => names.flatMap((name) => (name.kind === kind ? [name.value] : []));
  return {
    DNSNames: listOrNull(texts("dns")),
    EmailAddresses: listOrNull(texts("email")),
    IPAddresses: listOrNull(names.flatMap((name) => (name.kind === "ip" ? [formatAddress(addressOf(name.bytes))] : []))),
    URIs: listOrNull(texts("uri").map(uriJson)),
    URIStrings: listOrNull(texts("uri")),
  };
}

/** The URIs among GeneralNames: of distribution points and of authority information. */
export function uriNames(names: DerReader): readonly string[] {
  const uris: string[] = [];
  while (!names.done) {
    const { tag, content } = names.any();
    if (tag === contextTag(6, false)) uris.push(Buffer.from(content).toString("latin1"));
  }
  return uris;
}

/** What a list of name constraints permits or excludes (RFC 5280 section 4.2.1.10). */
export interface Subtrees {
  readonly dns: readonly string[];
  readonly email: readonly string[];
  readonly uri: readonly string[];
  readonly ip: readonly JsonValue[];
}

/** No constraints. */
export const NO_SUBTREES: Subtrees = { dns: [], email: [], uri: [], ip: [] };

/** Reads GeneralSubtrees at the reader's place. */
export function readSubtrees(reader: DerReader): Subtrees {
  const lists = { dns: [] as string[], email: [] as string[], uri: [] as string[], ip: [] as JsonValue[] };
  while (!reader.done) {
    const subtree = reader.enter(TAG.sequence);
    const { tag, content } = subtree.any();
    subtree.end();
    const text = Buffer.from(content).toString("latin1");
    if (tag === contextTag(1, false)) lists.email.push(text);
    else if (tag === contextTag(2, false)) lists.dns.push(text);
    else if (tag === contextTag(6, false)) lists.uri.push(text);
    else if (tag === contextTag(7, false) && (content.length === 8 || content.length === 32)) {
      const half = content.length / 2;
      lists.ip.push({ IP: formatAddress(addressOf(content.subarray(0, half))), Mask: base64(content.subarray(half)) });
    }
  }
  return lists;
}

/** Numbers of a dotted object identifier, as Go's `asn1.ObjectIdentifier` has them. */
export function oidJson(dotted: string): JsonValue {
  return dotted.split(".").map((arc) => {
    const number = BigInt(arc);
    return number <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(number) : number;
  });
}

/** The list, or null for an empty one: Go's nil slice. */
export function listOrNull(list: readonly JsonValue[]): JsonValue {
  return list.length === 0 ? null : list;
}

/** Bytes as Go's JSON has them. */
export function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64");
}

/** A URI in the shape of Go's `url.URL`. */
function uriJson(text: string): JsonValue {
  const [beforeFragment, fragment = ""] = cut(text, "#");
  const [beforeQuery, query] = cut(beforeFragment, "?");
  const scheme = /^[A-Za-z][A-Za-z0-9+.-]*(?=:)/.exec(beforeQuery)?.[0] ?? "";
  const rest = scheme === "" ? beforeQuery : beforeQuery.slice(scheme.length + 1);
  const opaque = scheme !== "" && !rest.startsWith("/");
  const [authority, path] = rest.startsWith("//") ? splitAt(rest.slice(2), "/") : ["", opaque ? "" : rest];
  const user = authority.lastIndexOf("@");
  const decoded = decodePath(path);
  return {
    Scheme: scheme.toLowerCase(),
    Opaque: opaque ? rest : "",
    // The members of Go's Userinfo are not exported.
    User: user === -1 ? null : {},
    Host: authority.slice(user + 1),
    Path: decoded,
    RawPath: encodeURI(decoded) === path ? "" : path,
    OmitHost: false,
    ForceQuery: query === "",
    RawQuery: query ?? "",
    Fragment: decodePath(fragment),
    RawFragment: "",
  };
}

function cut(text: string, mark: string): readonly [string, string?] {
  const at = text.indexOf(mark);
  return at === -1 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function splitAt(text: string, mark: string): readonly [string, string] {
  const at = text.indexOf(mark);
  return at === -1 ? [text, ""] : [text.slice(0, at), text.slice(at)];
}

function decodePath(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}
