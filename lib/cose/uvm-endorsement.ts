import { createHash, type KeyObject } from "node:crypto";
import { asObject, decodeUtf8, encodeUtf8, equalBytes, fromHex, isSealpodError, type JsonObject, messageOf, parseJson, toHex } from "@sealpod/core";
import { type Certificate, parseCertificate } from "@sealpod/pki";
import { asList, asMap, type CborKey, type CborMap, CborTag, type CborValue } from "./cbor.ts";
import { parseDidX509, verifyDidX509 } from "./did-x509.ts";
import { CoseError } from "./errors.ts";
import { type CoseAlgorithm, encodeSign1, HEADER, parseSign1, type Sign1, verifySign1 } from "./sign1.ts";

/** An issuer whose word about a utility VM the caller takes. */
export interface UvmTrust {
  /** The did:x509 of the signer, as text. */
  readonly issuer: string;
  /** The product line that it may sign for, such as "ConfAKS-AMD-UVM". */
  readonly feed: string;
  /** Oldest version to accept. */
  readonly minimumSvn: number;
  /** What the relying party says about such a VM: the value of `x-ms-compliance-status`. */
  readonly claim: string;
}

/** An endorsement that a trusted issuer signed. It says something about a report only if {@link launchMeasurement} is the report's. */
export interface VerifiedUvmEndorsement {
  readonly kind: "verified-uvm-endorsement";
  readonly issuer: string;
  readonly feed: string;
  readonly svn: number;
  /** 48 bytes. */
  readonly launchMeasurement: Uint8Array;
  /** {@link UvmTrust.claim} of the issuer. */
  readonly claim: string;
  /** Milliseconds since 1970 when the signer says it signed; undefined if it does not say. */
  readonly signingTime: number | undefined;
}

/** Largest version number: it is a u32 of the ID block. */
const MAX_SVN = 0xffff_ffff;

const MAX_X5CHAIN = 6;
const CWT = { issuer: 1, subject: 2, issuedAt: 6, svn: "svn" } as const;
const SHA384_HASH_ID = -43;
const EPOCH_TAG = 1;

/** Labels that are evaluated here, so `crit` may name them. */
const UNDERSTOOD: readonly CborKey[] = [
  HEADER.contentType,
  HEADER.cwtClaims,
  HEADER.x5chain,
  HEADER.x5t,
  HEADER.payloadHashAlgorithm,
  HEADER.preimageContentType,
  "iss",
  "feed",
  "signingtime",
];

/** Hash algorithms of x5t (RFC 9054 section 2). */
const THUMBPRINT_HASHES: ReadonlyMap<CborValue | undefined, string> = new Map([
  [-16, "sha256"],
  [-43, "sha384"],
  [-44, "sha512"],
]);

/** Latest time that a statement may bear, in seconds: 9999-12-31T23:59:59Z, the last one that a certificate can hold and a date be written of. */
const MAX_TIME = 253_402_300_799;

/**
 * Verifies a signed statement about a utility VM (specs/attestation.md section 4.6): COSE_Sign1 whose x5chain leads to a trusted did:x509, and whose feed and version the caller accepts.
 * Two forms exist: JSON payload with `iss` and `feed` headers, and a hash envelope with CWT claims whose payload is the measurement itself.
 * @param trust issuers; the first with the statement's issuer and feed decides
 * @throws {CoseError} all codes
 */
export function verifyUvmEndorsement(bytes: Uint8Array, trust: readonly UvmTrust[]): VerifiedUvmEndorsement {
  const message = parseSign1(bytes);
  const statement = readStatement(message);
  const trusted = trust.find(({ issuer, feed }) => issuer === statement.issuer && feed === statement.feed);
  if (trusted === undefined) {
    throw new CoseError(
      "ERR_COSE_ISSUER",
      `endorsement: issuer ${JSON.stringify(statement.issuer.slice(0, 200))} is not trusted for feed ${JSON.stringify(statement.feed.slice(0, 100))}`,
    );
  }
  const chain = readChain(message.protectedHeader);
  const { leaf } = verifyDidX509(parseDidX509(trusted.issuer), chain);
  checkLeaf(message.protectedHeader, leaf);
  const { payload } = verifySign1(message, leaf.publicKey, UNDERSTOOD);
  if (statement.form === "hash-envelope") checkIssuedAt(statement.signingTime, chain);
  const { svn, launchMeasurement } = statement.form === "json" ? readJsonPayload(payload) : { svn: statement.svn, launchMeasurement: readMeasurement(payload) };
  if (svn < trusted.minimumSvn) {
    throw new CoseError("ERR_COSE_SVN", `endorsement: version ${svn} of feed ${trusted.feed}, expected at least ${trusted.minimumSvn}`, {
      details: { found: svn, expected: trusted.minimumSvn },
    });
  }
  return {
    kind: "verified-uvm-endorsement",
    issuer: trusted.issuer,
    feed: trusted.feed,
    svn,
    launchMeasurement,
    claim: trusted.claim,
    signingTime: statement.signingTime,
  };
}

/**
 * Signs an endorsement in the JSON form, which every verifier of the field reads.
 * @throws {CoseError} ERR_COSE_KEY, ERR_COSE_PAYLOAD
 */
export function encodeUvmEndorsement(input: {
  /** did:x509 that fits {@link chain}. */
  readonly issuer: string;
  readonly feed: string;
  readonly svn: number;
  /** 48 bytes. */
  readonly launchMeasurement: Uint8Array;
  /** Milliseconds since 1970. */
  readonly signingTime: number;
  /** Leaf first. */
  readonly chain: readonly Certificate[];
  /** Private key of the leaf. */
  readonly key: KeyObject;
  readonly algorithm: CoseAlgorithm;
}): Uint8Array {
  if (input.launchMeasurement.length !== 48)
    throw new CoseError("ERR_COSE_PAYLOAD", `endorsement: a measurement of ${input.launchMeasurement.length} bytes, expected 48`);
  if (!Number.isInteger(input.svn) || input.svn < 0 || input.svn > MAX_SVN)
    throw new CoseError("ERR_COSE_PAYLOAD", `endorsement: version ${input.svn} is not a u32`);
  const payload = { "x-ms-sevsnpvm-guestsvn": String(input.svn), "x-ms-sevsnpvm-launchmeasurement": toHex(input.launchMeasurement) };
  return encodeSign1({
    algorithm: input.algorithm,
    key: input.key,
    protectedHeader: new Map<CborKey, CborValue>([
      [HEADER.contentType, "application/json"],
      [HEADER.x5chain, input.chain.map(({ der }) => der)],
      ["iss", input.issuer],
      ["feed", input.feed],
      ["signingtime", new CborTag(EPOCH_TAG, Math.floor(input.signingTime / 1000))],
    ]),
    payload: encodeUtf8(JSON.stringify(payload)),
  });
}

type Statement =
  | { readonly form: "json"; readonly issuer: string; readonly feed: string; readonly signingTime: number | undefined }
  | { readonly form: "hash-envelope"; readonly issuer: string; readonly feed: string; readonly signingTime: number; readonly svn: number };

function readStatement({ protectedHeader: header }: Sign1): Statement {
  const claims = header.get(HEADER.cwtClaims);
  if (claims === undefined) {
    if (header.get(HEADER.contentType) !== "application/json")
      throw new CoseError("ERR_COSE_STRUCTURE", "endorsement: the content type is not application/json");
    return {
      form: "json",
      issuer: text(header.get("iss"), "iss"),
      feed: text(header.get("feed"), "feed"),
      signingTime: readSigningTime(header.get("signingtime")),
    };
  }
  // One form at a time: a statement with two issuers means one of them to us, and the other to somebody else.
  if (header.has("iss") || header.has("feed")) throw new CoseError("ERR_COSE_STRUCTURE", "endorsement: both CWT claims and the older iss or feed headers");
  const map = asMap(claims);
  if (map === undefined) throw new CoseError("ERR_COSE_STRUCTURE", "endorsement: the CWT claims are not a map");
  if (header.get(HEADER.payloadHashAlgorithm) !== SHA384_HASH_ID)
    throw new CoseError("ERR_COSE_STRUCTURE", "endorsement: the payload hash algorithm is not SHA-384 (-43)");
  if (header.get(HEADER.preimageContentType) !== "application/octet-stream") {
    throw new CoseError("ERR_COSE_STRUCTURE", "endorsement: the preimage content type is not application/octet-stream");
  }
  const issuedAt = map.get(CWT.issuedAt);
  if (!isTime(issuedAt)) throw new CoseError("ERR_COSE_STRUCTURE", "endorsement: iat is not a time in seconds since 1970");
  return {
    form: "hash-envelope",
    issuer: text(map.get(CWT.issuer), "iss"),
    feed: text(map.get(CWT.subject), "sub"),
    svn: parseSvn(map.get(CWT.svn)),
    signingTime: issuedAt * 1000,
  };
}

function readChain(header: CborMap): readonly Certificate[] {
  const value = header.get(HEADER.x5chain);
  // One certificate stands alone, several in a list (RFC 9360 section 2).
  const items = value instanceof Uint8Array ? [value] : asList(value);
  if (items === undefined || items.length === 0 || items.length > MAX_X5CHAIN) {
    throw new CoseError("ERR_COSE_STRUCTURE", `endorsement: x5chain in the protected header needs 1 to ${MAX_X5CHAIN} certificates`);
  }
  return items.map((item, index) => {
    if (!(item instanceof Uint8Array)) throw new CoseError("ERR_COSE_STRUCTURE", `endorsement: x5chain[${index}] is not a byte string`);
    try {
      return parseCertificate(item, `x5chain[${index}]`);
    } catch (cause) {
      if (!isSealpodError(cause)) throw cause;
      throw new CoseError("ERR_COSE_CERTIFICATE", cause.message, { cause });
    }
  });
}

/** The leaf must be one that signs, and the one that the header names by hash, if it does (RFC 9360 section 2). */
function checkLeaf(header: CborMap, leaf: Certificate): void {
  if (leaf.keyUsage?.has("digitalSignature") === false)
    throw new CoseError("ERR_COSE_CERTIFICATE", "endorsement: the key usage of the leaf of x5chain does not include digitalSignature");
  const thumbprint = header.get(HEADER.x5t);
  if (thumbprint === undefined) return;
  const list = asList(thumbprint);
  const hash = THUMBPRINT_HASHES.get(list?.[0]);
  const digest = list?.[1];
  if (list?.length !== 2 || hash === undefined || !(digest instanceof Uint8Array))
    throw new CoseError("ERR_COSE_STRUCTURE", "endorsement: x5t is not a SHA-256, SHA-384 or SHA-512 hash");
  if (!equalBytes(new Uint8Array(createHash(hash).update(leaf.der).digest()), digest))
    throw new CoseError("ERR_COSE_CERTIFICATE", "endorsement: x5t names another certificate than the leaf of x5chain");
}

/**
 * The signer's certificates had to be valid when it signed; the hash envelope form states that time under the signature.
 * @param certificates all of x5chain: also those above the did's CA, by which other verifiers may go
 */
function checkIssuedAt(time: number, certificates: readonly Certificate[]): void {
  for (const { notBefore, notAfter } of certificates) {
    if (time < notBefore || time > notAfter)
      throw new CoseError("ERR_COSE_CERTIFICATE", `endorsement: signed at ${time / 1000}, when a certificate of x5chain was not valid`);
  }
}

function readJsonPayload(payload: Uint8Array): { readonly svn: number; readonly launchMeasurement: Uint8Array } {
  let document: JsonObject | undefined;
  try {
    document = asObject(parseJson(decodeUtf8(payload, "payload"), "payload", { maxLength: 64 * 1024, maxDepth: 8 }));
  } catch (cause) {
    throw new CoseError("ERR_COSE_PAYLOAD", `endorsement: ${messageOf(cause)}`, { cause });
  }
  const measurement = document?.["x-ms-sevsnpvm-launchmeasurement"];
  if (typeof measurement !== "string" || !/^[0-9a-f]{96}$/i.test(measurement))
    throw new CoseError("ERR_COSE_PAYLOAD", "endorsement: x-ms-sevsnpvm-launchmeasurement is not 96 hex digits");
  const svn = parseSvn(document?.["x-ms-sevsnpvm-guestsvn"]);
  // From version 103 on the number stands there twice; two different ones would be two statements.
  const again = document?.["x-ms-sevsnpvm-guestsvn-int"];
  if (again !== undefined && again !== svn) throw new CoseError("ERR_COSE_PAYLOAD", "endorsement: x-ms-sevsnpvm-guestsvn and -int differ");
  return { svn, launchMeasurement: fromHex(measurement) };
}

function readMeasurement(payload: Uint8Array): Uint8Array {
  if (payload.length !== 48) throw new CoseError("ERR_COSE_PAYLOAD", `endorsement: a measurement of ${payload.length} bytes, expected 48`);
  return payload;
}

function parseSvn(value: unknown): number {
  const number = typeof value === "string" && /^(?:0|[1-9]\d{0,9})$/.test(value) ? Number(value) : value;
  if (typeof number !== "number" || !Number.isInteger(number) || number < 0 || number > MAX_SVN)
    throw new CoseError("ERR_COSE_PAYLOAD", "endorsement: the version is not a u32");
  return number;
}

function readSigningTime(value: CborValue | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (!(value instanceof CborTag) || value.tag !== EPOCH_TAG || !isTime(value.value))
    throw new CoseError("ERR_COSE_STRUCTURE", "endorsement: signingtime is not an epoch time (tag 1)");
  return value.value * 1000;
}

function text(value: CborValue | undefined, name: string): string {
  if (typeof value !== "string") throw new CoseError("ERR_COSE_STRUCTURE", `endorsement: ${name} is not text`);
  return value;
}

/** Seconds since 1970 that can be written as a date. */
function isTime(value: CborValue | undefined): value is number {
  return typeof value === "number" && value >= 0 && value <= MAX_TIME;
}
