import { equalBytes } from "@sealpod/core";
import { contextTag, DerReader, TAG } from "./der-reader.ts";
import { PkiError } from "./errors.ts";
import { type Extension, readExtensions } from "./extension.ts";
import { type Name, readName } from "./name.ts";
import { OID } from "./oid.ts";
import { serialKey } from "./revocation.ts";
import { readSignatureAlgorithm, type SignatureAlgorithm } from "./signature.ts";

/** Largest CRL, in bytes: {@link MAX_CRL_ENTRIES} with 20-byte serials, a reason and an invalidity date each. AMD's have below 2 KiB. */
export const MAX_CRL_BYTES: number = 9 * 1024 * 1024;

/** Most entries of a CRL: the largest of public CAs before they split them. An entry costs some 300 bytes of memory. */
export const MAX_CRL_ENTRIES = 100_000;

/** Why a certificate was revoked (RFC 5280 section 5.3.1), in the order of the codes; code 7 is not used. */
export type RevocationReason =
  | "unspecified"
  | "keyCompromise"
  | "cACompromise"
  | "affiliationChanged"
  | "superseded"
  | "cessationOfOperation"
  | "certificateHold"
  | "removeFromCRL"
  | "privilegeWithdrawn"
  | "aACompromise";

/** All reasons; the one with code i is at index i. */
export const REVOCATION_REASONS: readonly (RevocationReason | undefined)[] = [
  "unspecified",
  "keyCompromise",
  "cACompromise",
  "affiliationChanged",
  "superseded",
  "cessationOfOperation",
  "certificateHold",
  undefined,
  "removeFromCRL",
  "privilegeWithdrawn",
  "aACompromise",
];

/** One revoked certificate. */
export interface RevokedCertificate {
  readonly serial: bigint;
  /** Milliseconds since 1970. */
  readonly revokedAt: number;
  readonly reason: RevocationReason | undefined;
  /** Milliseconds since 1970 when the key is known or suspected to have been lost. For people: a certificate on the list is revoked from the start. */
  readonly invalidFrom: number | undefined;
}

/** A certificate revocation list of version 2 that was read strictly. Nothing about it was verified. */
export interface Crl {
  readonly kind: "crl";
  readonly der: Uint8Array;
  /** The signed part, as it stands in {@link der}. */
  readonly tbs: Uint8Array;
  readonly signatureAlgorithm: SignatureAlgorithm;
  readonly signature: Uint8Array;
  readonly issuer: Name;
  /** Milliseconds since 1970. */
  readonly thisUpdate: number;
  /** Milliseconds since 1970, inclusive. */
  readonly nextUpdate: number;
  /** RFC 5280 section 5.2.3; undefined if the issuer does not count. */
  readonly number: bigint | undefined;
  /** All extensions by dotted type. */
  readonly extensions: ReadonlyMap<string, Extension>;
  /** The revoked certificates by {@link serialKey}. */
  readonly revoked: ReadonlyMap<string, RevokedCertificate>;
}

/**
 * Reads one CRL in DER (RFC 5280 section 5.1): version 2, complete and direct, with a nextUpdate; no trailing bytes.
 * Delta CRLs and those with an issuing distribution point speak of a part of the issuer's certificates only: taken for the whole, what they leave out
 * would pass as good, so they are refused, and so is every critical extension.
 * @param what name of the list, for messages
 * @throws {PkiError} ERR_PKI_DER, ERR_PKI_LIMIT, ERR_PKI_CRL, ERR_PKI_ALGORITHM
 */
export function parseCrl(input: Uint8Array, what = "CRL"): Crl {
  if (input.length > MAX_CRL_BYTES) {
    throw new PkiError("ERR_PKI_LIMIT", `${what}: ${input.length} bytes, more than the limit of ${MAX_CRL_BYTES}`, {
      details: { limit: MAX_CRL_BYTES, found: input.length },
    });
  }
  // A copy: the caller may change its buffer between our check and our use.
  const der = Uint8Array.from(input);
  const outer = new DerReader(der, what);
  const list = outer.enter(TAG.sequence);
  outer.end();
  const { element: tbs, inner: body } = list.enterElement(TAG.sequence);
  const outerAlgorithm = readSignatureAlgorithm(list, what);
  const signature = list.bitString();
  list.end();
  if (signature.unused !== 0) throw new PkiError("ERR_PKI_CRL", `${what}: the signature is not whole bytes`);

  // Version 1 leaves the field out, and has no extensions to say what the list covers.
  const version = body.peek() === TAG.integer ? body.smallInteger(255) : 0;
  if (version !== 1) throw new PkiError("ERR_PKI_CRL", `${what}: CRL version ${version + 1}, expected 2`);
  const innerAlgorithm = readSignatureAlgorithm(body, what);
  // The outer identifier is not signed; it must repeat the inner one (RFC 5280 section 5.1.1.2).
  if (!equalBytes(outerAlgorithm.encoded, innerAlgorithm.encoded)) {
    throw new PkiError("ERR_PKI_CRL", `${what}: the signature algorithm inside and outside the signed part differ`);
  }
  const issuer = readName(body, what);
  if (issuer.attributes.length === 0) throw new PkiError("ERR_PKI_CRL", `${what}: the issuer's name is empty`);
  const thisUpdate = body.time();
  // RFC 5280 section 5.1.2.5 demands it although X.509 does not: without it an old list could be shown for ever.
  const next = body.peek();
  if (next !== TAG.utcTime && next !== TAG.generalizedTime) throw new PkiError("ERR_PKI_CRL", `${what}: no nextUpdate`);
  const nextUpdate = body.time();
  if (nextUpdate < thisUpdate) throw new PkiError("ERR_PKI_CRL", `${what}: nextUpdate is before thisUpdate`);
  const revoked = readRevoked(body.enterOptional(TAG.sequence), what);
  const explicit = body.enterOptional(contextTag(0, true));
  const extensions = explicit === undefined ? new Map<string, Extension>() : readExtensions(explicit, what, "ERR_PKI_CRL");
  explicit?.end();
  body.end();
  return {
    kind: "crl",
    der,
    tbs: tbs.encoded,
    signatureAlgorithm: innerAlgorithm.algorithm,
    signature: signature.bytes,
    issuer,
    thisUpdate,
    nextUpdate,
    number: readCrlExtensions(extensions, what),
    extensions,
    revoked,
  };
}

/** The CRL number, after everything that would change what the list means was refused. */
function readCrlExtensions(extensions: ReadonlyMap<string, Extension>, what: string): bigint | undefined {
  const refused: Readonly<Record<string, string>> = {
    [OID.deltaCrlIndicator]: "a delta CRL, which lists changes only",
    [OID.issuingDistributionPoint]: "a CRL for one distribution point, which may leave certificates out",
  };
  for (const { oid, critical } of extensions.values()) {
    const problem = refused[oid] ?? (critical && oid !== OID.crlNumber ? `a CRL with the critical extension ${oid}, which is not understood here` : undefined);
    if (problem !== undefined) throw new PkiError("ERR_PKI_CRL", `${what}: ${problem}`, { details: { oid }, hint: "Ask the issuer for its complete CRL." });
  }
  const extension = extensions.get(OID.crlNumber);
  if (extension === undefined) return undefined;
  const reader = new DerReader(extension.value, `${what}: cRLNumber`);
  const number = reader.integer();
  reader.end();
  if (number < 0n || number >= 1n << 160n) throw new PkiError("ERR_PKI_CRL", `${what}: the CRL number is negative or longer than 20 bytes`);
  return number;
}

function readRevoked(list: DerReader | undefined, what: string): ReadonlyMap<string, RevokedCertificate> {
  const revoked = new Map<string, RevokedCertificate>();
  if (list === undefined) return revoked;
  // RFC 5280 section 5.1.2.6 wants the list left out if it is empty. An empty one says the same.
  while (!list.done) {
    if (revoked.size === MAX_CRL_ENTRIES) {
      throw new PkiError("ERR_PKI_LIMIT", `${what}: more than ${MAX_CRL_ENTRIES} entries`, { details: { limit: MAX_CRL_ENTRIES } });
    }
    const entry = list.enter(TAG.sequence);
    const serial = entry.integer();
    if (serial < 0n || serial >= 1n << 160n) throw new PkiError("ERR_PKI_CRL", `${what}: a serial number that is negative or longer than 20 bytes`);
    const revokedAt = entry.time();
    const { reason, invalidFrom } = entry.done ? NO_DETAILS : readEntryExtensions(entry, what);
    entry.end();
    const key = serialKey(serial);
    if (revoked.has(key)) throw new PkiError("ERR_PKI_CRL", `${what}: serial number ${key} twice`);
    revoked.set(key, { serial, revokedAt, reason, invalidFrom });
  }
  return revoked;
}

type EntryDetails = Pick<RevokedCertificate, "reason" | "invalidFrom">;

const NO_DETAILS: EntryDetails = { reason: undefined, invalidFrom: undefined };

/** RFC 5280 section 5.3. An entry that says more than is understood here cannot be told from one that speaks of another issuer's certificate. */
function readEntryExtensions(entry: DerReader, what: string): EntryDetails {
  const extensions = readExtensions(entry, `${what}: an entry`, "ERR_PKI_CRL");
  for (const { oid, critical } of extensions.values()) {
    if (oid === OID.certificateIssuer) throw new PkiError("ERR_PKI_CRL", `${what}: an entry of another issuer (an indirect CRL)`, { details: { oid } });
    if (critical && oid !== OID.reasonCode && oid !== OID.invalidityDate) {
      throw new PkiError("ERR_PKI_CRL", `${what}: an entry has the critical extension ${oid}, which is not understood here`, { details: { oid } });
    }
  }
  return {
    reason: readValue(extensions.get(OID.reasonCode), `${what}: reasonCode`, (reader) => readReason(reader, what)),
    invalidFrom: readValue(extensions.get(OID.invalidityDate), `${what}: invalidityDate`, (reader) => reader.generalizedTime()),
  };
}

function readReason(reader: DerReader, what: string): RevocationReason {
  const code = reader.enumerated(REVOCATION_REASONS.length - 1);
  const reason = REVOCATION_REASONS[code];
  // removeFromCRL takes a certificate off the list; outside a delta CRL that is a contradiction (RFC 5280 section 5.3.1).
  if (reason === undefined || reason === "removeFromCRL") throw new PkiError("ERR_PKI_CRL", `${what}: reason code ${code} does not exist in a complete CRL`);
  return reason;
}

function readValue<T>(extension: Extension | undefined, what: string, read: (reader: DerReader) => T): T | undefined {
  if (extension === undefined) return undefined;
  const reader = new DerReader(extension.value, what);
  const value = read(reader);
  reader.end();
  return value;
}
