import { constants, createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import type { PublicKeyInfo } from "@sealpod/pki";
import { asList, asMap, type CborKey, type CborMap, CborTag, type CborValue, encodeCbor, parseCbor } from "./cbor.ts";
import { CoseError } from "./errors.ts";

/** Labels of header parameters (RFC 9052 section 3.1, RFC 9360, RFC 9597, COSE Hash Envelope). */
export const HEADER = {
  algorithm: 1,
  critical: 2,
  contentType: 3,
  cwtClaims: 15,
  x5chain: 33,
  x5t: 34,
  payloadHashAlgorithm: 258,
  preimageContentType: 259,
} as const;

/** Signature algorithms, each tied to one key type: an algorithm that fits several curves lets an attacker choose the weaker. */
export type CoseAlgorithm = "ES256" | "ES384" | "ES512" | "PS384";

interface Row {
  /** IANA COSE algorithm number. */
  readonly id: number;
  readonly hash: "sha256" | "sha384" | "sha512";
  readonly key: PublicKeyInfo["kind"];
}

const ALGORITHMS: Readonly<Record<CoseAlgorithm, Row>> = {
  ES256: { id: -7, hash: "sha256", key: "p256" },
  ES384: { id: -35, hash: "sha384", key: "p384" },
  ES512: { id: -36, hash: "sha512", key: "p521" },
  PS384: { id: -38, hash: "sha384", key: "rsa" },
};

const SIGN1_TAG = 18;

/** A COSE_Sign1 message that was read; nothing about it was verified. */
export interface Sign1 {
  /** The protected header as signed. */
  readonly protectedBytes: Uint8Array;
  readonly protectedHeader: CborMap;
  /** Not signed: nothing in it may decide anything. */
  readonly unprotectedHeader: CborMap;
  readonly payload: Uint8Array;
  readonly signature: Uint8Array;
}

/** A COSE_Sign1 message whose signature verified under the caller's key. */
export interface VerifiedSign1 {
  readonly kind: "verified-sign1";
  readonly algorithm: CoseAlgorithm;
  readonly protectedHeader: CborMap;
  readonly payload: Uint8Array;
}

/**
 * Reads a tagged COSE_Sign1 with the payload inside (RFC 9052 section 4.2).
 * @throws {CoseError} ERR_COSE_CBOR, ERR_COSE_LIMIT, ERR_COSE_STRUCTURE
 */
export function parseSign1(bytes: Uint8Array): Sign1 {
  const item = parseCbor(bytes, "COSE_Sign1");
  const list = item instanceof CborTag && item.tag === SIGN1_TAG ? asList(item.value) : undefined;
  if (list?.length !== 4) throw new CoseError("ERR_COSE_STRUCTURE", "COSE_Sign1: expected tag 18 around an array of 4");
  const [protectedBytes, unprotected, payload, signature] = list;
  if (!(protectedBytes instanceof Uint8Array)) throw new CoseError("ERR_COSE_STRUCTURE", "COSE_Sign1: the protected header is not a byte string");
  if (!(payload instanceof Uint8Array)) throw new CoseError("ERR_COSE_STRUCTURE", "COSE_Sign1: the payload is detached or not a byte string");
  if (!(signature instanceof Uint8Array)) throw new CoseError("ERR_COSE_STRUCTURE", "COSE_Sign1: the signature is not a byte string");
  const protectedHeader = asMap(parseCbor(protectedBytes, "protected header"));
  const unprotectedHeader = asMap(unprotected);
  if (protectedHeader === undefined || unprotectedHeader === undefined) throw new CoseError("ERR_COSE_STRUCTURE", "COSE_Sign1: a header is not a map");
  for (const label of unprotectedHeader.keys()) {
    if (protectedHeader.has(label)) throw new CoseError("ERR_COSE_STRUCTURE", `COSE_Sign1: label ${label} in both headers`);
  }
  // RFC 9052 section 3.1: whoever may change what must be understood may also take it away.
  if (unprotectedHeader.has(HEADER.critical)) throw new CoseError("ERR_COSE_STRUCTURE", "COSE_Sign1: crit stands in the unprotected header");
  return { protectedBytes, protectedHeader, unprotectedHeader, payload, signature };
}

/**
 * Verifies the signature of a message.
 * @param understood labels that the caller evaluates, beside the algorithm: what `crit` may name
 * @throws {CoseError} ERR_COSE_ALGORITHM, ERR_COSE_STRUCTURE, ERR_COSE_KEY, ERR_COSE_SIGNATURE
 */
export function verifySign1(message: Sign1, publicKey: PublicKeyInfo, understood: readonly CborKey[] = []): VerifiedSign1 {
  const algorithm = algorithmOf(message.protectedHeader);
  checkCritical(message.protectedHeader, understood);
  const row = ALGORITHMS[algorithm];
  if (row.key !== publicKey.kind) throw new CoseError("ERR_COSE_KEY", `COSE_Sign1: ${algorithm} needs a key of type ${row.key}, found ${publicKey.kind}`);
  let valid: boolean;
  try {
    valid = verify(row.hash, signedStructure(message.protectedBytes, message.payload), keyInput(row, publicKey.key), message.signature);
  } catch (cause) {
    throw new CoseError("ERR_COSE_SIGNATURE", "COSE_Sign1: the signature cannot be checked", { cause });
  }
  if (!valid) throw new CoseError("ERR_COSE_SIGNATURE", `COSE_Sign1: the ${algorithm} signature does not verify`);
  return { kind: "verified-sign1", algorithm, protectedHeader: message.protectedHeader, payload: message.payload };
}

/**
 * Signs and encodes a tagged COSE_Sign1. The algorithm label is added to the protected header.
 * @param key a private key of the type that the algorithm needs
 * @throws {CoseError} ERR_COSE_KEY
 */
export function encodeSign1(input: {
  readonly algorithm: CoseAlgorithm;
  readonly key: KeyObject;
  readonly protectedHeader: CborMap;
  readonly unprotectedHeader?: CborMap;
  readonly payload: Uint8Array;
}): Uint8Array {
  const row = ALGORITHMS[input.algorithm];
  const kind = keyKind(input.key);
  if (kind !== row.key) throw new CoseError("ERR_COSE_KEY", `COSE_Sign1: ${input.algorithm} needs a key of type ${row.key}, found ${kind}`);
  const protectedBytes = encodeCbor(new Map<CborKey, CborValue>([...input.protectedHeader, [HEADER.algorithm, row.id]]));
  const signature = new Uint8Array(sign(row.hash, signedStructure(protectedBytes, input.payload), keyInput(row, input.key)));
  return encodeCbor(new CborTag(SIGN1_TAG, [protectedBytes, input.unprotectedHeader ?? new Map(), input.payload, signature]));
}

/** Sig_structure of RFC 9052 section 4.4, without external data. */
function signedStructure(protectedBytes: Uint8Array, payload: Uint8Array): Uint8Array {
  return encodeCbor(["Signature1", protectedBytes, new Uint8Array(), payload]);
}

function algorithmOf(header: CborMap): CoseAlgorithm {
  const id = header.get(HEADER.algorithm);
  for (const [algorithm, row] of Object.entries(ALGORITHMS)) if (row.id === id) return algorithm as CoseAlgorithm;
  throw new CoseError("ERR_COSE_ALGORITHM", `COSE_Sign1: algorithm ${typeof id === "number" ? id : "(none)"} is not ES256, ES384, ES512 or PS384`);
}

function checkCritical(header: CborMap, understood: readonly CborKey[]): void {
  const critical = header.get(HEADER.critical);
  if (critical === undefined) return;
  const labels = asList(critical);
  if (labels === undefined || labels.length === 0) throw new CoseError("ERR_COSE_STRUCTURE", "COSE_Sign1: crit is not a list of labels");
  for (const label of labels) {
    const known = typeof label === "number" || typeof label === "string" ? label === HEADER.algorithm || understood.includes(label) : false;
    if (!known || !header.has(label as CborKey))
      throw new CoseError("ERR_COSE_STRUCTURE", "COSE_Sign1: crit names a label that is absent or not understood here");
  }
}

function keyInput(row: Row, key: KeyObject): Parameters<typeof verify>[2] & Parameters<typeof sign>[2] {
  return row.key === "rsa" ? { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 48 } : { key, dsaEncoding: "ieee-p1363" };
}

function keyKind(key: KeyObject): string {
  const { asymmetricKeyType, asymmetricKeyDetails } = key.type === "private" ? createPublicKey(key) : key;
  if (asymmetricKeyType === "rsa") return "rsa";
  const curves: Readonly<Record<string, string>> = { prime256v1: "p256", secp384r1: "p384", secp521r1: "p521" };
  return curves[asymmetricKeyDetails?.namedCurve ?? ""] ?? String(asymmetricKeyType);
}
