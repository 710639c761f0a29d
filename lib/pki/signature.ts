import { createPublicKey, constants, type KeyObject, sign, verify } from "node:crypto";
import { equalBytes } from "@sealpod/core";
import { DerReader, TAG } from "./der-reader.ts";
import { contextTag } from "./der-reader.ts";
import { encodeExplicit, encodeInteger, encodeNull, encodeOid, encodeSequence } from "./der-writer.ts";
import { PkiError } from "./errors.ts";
import { OID } from "./oid.ts";

/** Signature algorithms of certificates that this package verifies and writes. */
export type SignatureAlgorithm =
  | "rsa-pss-sha256"
  | "rsa-pss-sha384"
  | "rsa-pss-sha512"
  | "rsa-sha256"
  | "rsa-sha384"
  | "rsa-sha512"
  | "ecdsa-sha256"
  | "ecdsa-sha384"
  | "ecdsa-sha512";

/** Key types of certificates: an RSA key, or an EC key on a named curve. */
export type KeyKind = "rsa" | "p256" | "p384" | "p521";

/** A SubjectPublicKeyInfo that was read strictly. */
export interface PublicKeyInfo {
  /** The whole structure; pins are taken over these bytes. */
  readonly der: Uint8Array;
  readonly kind: KeyKind;
  readonly key: KeyObject;
}

/** Smallest RSA modulus in bits: 112-bit security, the least that NIST SP 800-57 allows today. */
export const MIN_RSA_BITS = 2048;
/** Largest RSA modulus in bits: a bigger one only makes verification slow. */
export const MAX_RSA_BITS = 8192;

/** Largest RSA exponent: 65537 is what the field has; OpenSSL would let a 3072-bit one cost as much as a private key operation. */
const MAX_RSA_EXPONENT: bigint = (1n << 32n) - 1n;

/** First byte of an EC point that has both coordinates (SEC 1 section 2.3.3). */
const UNCOMPRESSED = 4;

type Scheme = "pss" | "pkcs1" | "ecdsa";

interface Row {
  readonly scheme: Scheme;
  readonly hash: "sha256" | "sha384" | "sha512";
  readonly hashOid: string;
  readonly hashLength: number;
  /** Identifier of the algorithm; all PSS rows share one and differ in the parameters. */
  readonly oid: string;
}

const SHA256 = { hash: "sha256", hashOid: OID.sha256, hashLength: 32 } as const;
const SHA384 = { hash: "sha384", hashOid: OID.sha384, hashLength: 48 } as const;
const SHA512 = { hash: "sha512", hashOid: OID.sha512, hashLength: 64 } as const;

const ALGORITHMS: Readonly<Record<SignatureAlgorithm, Row>> = {
  "rsa-pss-sha256": { scheme: "pss", oid: OID.rsassaPss, ...SHA256 },
  "rsa-pss-sha384": { scheme: "pss", oid: OID.rsassaPss, ...SHA384 },
  "rsa-pss-sha512": { scheme: "pss", oid: OID.rsassaPss, ...SHA512 },
  "rsa-sha256": { scheme: "pkcs1", oid: OID.sha256WithRsa, ...SHA256 },
  "rsa-sha384": { scheme: "pkcs1", oid: OID.sha384WithRsa, ...SHA384 },
  "rsa-sha512": { scheme: "pkcs1", oid: OID.sha512WithRsa, ...SHA512 },
  "ecdsa-sha256": { scheme: "ecdsa", oid: OID.ecdsaWithSha256, ...SHA256 },
  "ecdsa-sha384": { scheme: "ecdsa", oid: OID.ecdsaWithSha384, ...SHA384 },
  "ecdsa-sha512": { scheme: "ecdsa", oid: OID.ecdsaWithSha512, ...SHA512 },
};

const CURVES: Readonly<Record<string, KeyKind>> = { [OID.p256]: "p256", [OID.p384]: "p384", [OID.p521]: "p521" };

/** Reads an AlgorithmIdentifier of a signature. */
export function readSignatureAlgorithm(reader: DerReader, what: string): { readonly algorithm: SignatureAlgorithm; readonly encoded: Uint8Array } {
  const { element, inner } = reader.enterElement(TAG.sequence);
  const oid = inner.oid();
  const algorithm = oid === OID.rsassaPss ? readPssParameters(inner, what) : findAlgorithm(oid, what);
  if (ALGORITHMS[algorithm].scheme === "pkcs1") inner.null();
  inner.end();
  return { algorithm, encoded: element.encoded };
}

/** The AlgorithmIdentifier of a signature. For PSS the trailer field is left out: it is the default, and DER leaves defaults out. */
export function encodeSignatureAlgorithm(algorithm: SignatureAlgorithm): Uint8Array {
  const { scheme, oid, hashOid, hashLength } = ALGORITHMS[algorithm];
  if (scheme === "ecdsa") return encodeSequence(encodeOid(oid));
  if (scheme === "pkcs1") return encodeSequence(encodeOid(oid), encodeNull());
  const hash = encodeSequence(encodeOid(hashOid), encodeNull());
  const parameters = encodeSequence(
    encodeExplicit(0, hash),
    encodeExplicit(1, encodeSequence(encodeOid(OID.mgf1), hash)),
    encodeExplicit(2, encodeInteger(hashLength)),
  );
  return encodeSequence(encodeOid(oid), parameters);
}

/** Reads a SubjectPublicKeyInfo: rsaEncryption, or an EC key on a named curve. Explicit curve parameters are how a forged generator gets in. */
export function readPublicKeyInfo(reader: DerReader, what: string): PublicKeyInfo {
  const { element, inner } = reader.enterElement(TAG.sequence);
  const identifier = inner.enter(TAG.sequence);
  const oid = identifier.oid();
  let kind: KeyKind | undefined;
  if (oid === OID.rsaEncryption) {
    identifier.null();
    kind = "rsa";
  } else if (oid === OID.ecPublicKey && identifier.peek() === TAG.oid) kind = CURVES[identifier.oid()];
  if (kind === undefined) throw new PkiError("ERR_PKI_KEY", `${what}: the public key (${oid}) is neither RSA nor EC on P-256, P-384 or P-521`);
  identifier.end();
  const { bytes, unused } = inner.bitString();
  if (unused !== 0) throw new PkiError("ERR_PKI_KEY", `${what}: the public key is not whole bytes`);
  // OpenSSL also reads compressed and hybrid points (SEC 1 section 2.3.3), and writes them back as such: one key would have four fingerprints.
  if (kind !== "rsa" && bytes[0] !== UNCOMPRESSED) throw new PkiError("ERR_PKI_KEY", `${what}: the EC point is not in the uncompressed form`);
  inner.end();
  return { der: element.encoded, kind, key: importKey(element.encoded, kind, what) };
}

/**
 * A public key from its SubjectPublicKeyInfo.
 * @throws {PkiError} ERR_PKI_DER, ERR_PKI_KEY
 */
export function parsePublicKeyInfo(der: Uint8Array, what: string): PublicKeyInfo {
  const reader = new DerReader(der, what);
  const info = readPublicKeyInfo(reader, what);
  reader.end();
  return info;
}

/** The SubjectPublicKeyInfo of a public key, or of the public half of a private key. */
export function encodePublicKeyInfo(key: KeyObject): Uint8Array {
  const publicKey = key.type === "private" ? createPublicKey(key) : key;
  return new Uint8Array(publicKey.export({ type: "spki", format: "der" }));
}

/**
 * Checks a signature.
 * @throws {PkiError} ERR_PKI_KEY if the key does not fit the algorithm, ERR_PKI_SIGNATURE
 */
export function verifySignature(algorithm: SignatureAlgorithm, publicKey: PublicKeyInfo, data: Uint8Array, signature: Uint8Array, what: string): void {
  const { scheme, hash, hashLength } = ALGORITHMS[algorithm];
  if ((scheme === "ecdsa") === (publicKey.kind === "rsa")) throw new PkiError("ERR_PKI_KEY", `${what}: ${algorithm} with a key of type ${publicKey.kind}`);
  let valid: boolean;
  try {
    valid = verify(hash, data, keyInput(scheme, publicKey.key, hashLength), signature);
  } catch (cause) {
    throw new PkiError("ERR_PKI_SIGNATURE", `${what}: the signature cannot be checked`, { cause });
  }
  if (!valid) throw new PkiError("ERR_PKI_SIGNATURE", `${what}: the ${algorithm} signature does not verify`);
}

/** Signs with a private key; the signature has the form that certificates hold. */
export function signData(algorithm: SignatureAlgorithm, privateKey: KeyObject, data: Uint8Array): Uint8Array {
  const { scheme, hash, hashLength } = ALGORITHMS[algorithm];
  if (privateKey.asymmetricKeyType !== (scheme === "ecdsa" ? "ec" : "rsa")) {
    throw new PkiError("ERR_PKI_KEY", `${algorithm} cannot sign with a key of type ${privateKey.asymmetricKeyType}`);
  }
  return new Uint8Array(sign(hash, data, keyInput(scheme, privateKey, hashLength)));
}

function keyInput(scheme: Scheme, key: KeyObject, saltLength: number): Parameters<typeof verify>[2] & Parameters<typeof sign>[2] {
  switch (scheme) {
    case "pss":
      return { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength };
    case "pkcs1":
      return { key, padding: constants.RSA_PKCS1_PADDING };
    case "ecdsa":
      return { key, dsaEncoding: "der" };
  }
}

function findAlgorithm(oid: string, what: string): SignatureAlgorithm {
  for (const [algorithm, row] of Object.entries(ALGORITHMS)) if (row.oid === oid) return algorithm as SignatureAlgorithm;
  throw new PkiError("ERR_PKI_ALGORITHM", `${what}: signature algorithm ${oid} is not supported`, { details: { found: oid } });
}

/**
 * RSASSA-PSS-params (RFC 8017 appendix A.2.3): hash, MGF1 with the same hash, salt as long as the hash. The trailer field may be
 * written out although it is the default: AMD's certificates before 2025 do so.
 */
function readPssParameters(reader: DerReader, what: string): SignatureAlgorithm {
  const parameters = reader.enter(TAG.sequence);
  const hash = parameters.enterOptional(contextTag(0, true));
  const mask = parameters.enterOptional(contextTag(1, true));
  const salt = parameters.enterOptional(contextTag(2, true));
  if (hash === undefined || mask === undefined || salt === undefined) {
    throw new PkiError("ERR_PKI_ALGORITHM", `${what}: RSASSA-PSS parameters without hash, mask and salt mean SHA-1, which is not supported`);
  }
  const hashOid = readHash(hash);
  hash.end();
  const generator = mask.enter(TAG.sequence);
  mask.end();
  const generatorOid = generator.oid();
  const maskHashOid = readHash(generator);
  generator.end();
  const saltLength = salt.smallInteger(1024);
  salt.end();
  const trailer = parameters.enterOptional(contextTag(3, true));
  if (trailer !== undefined) {
    const value = trailer.smallInteger(255);
    trailer.end();
    if (value !== 1) throw new PkiError("ERR_PKI_ALGORITHM", `${what}: RSASSA-PSS trailer field ${value}, expected 1`);
  }
  parameters.end();
  for (const [algorithm, row] of Object.entries(ALGORITHMS)) {
    if (row.scheme === "pss" && row.hashOid === hashOid && hashOid === maskHashOid && generatorOid === OID.mgf1 && row.hashLength === saltLength) {
      return algorithm as SignatureAlgorithm;
    }
  }
  throw new PkiError(
    "ERR_PKI_ALGORITHM",
    `${what}: RSASSA-PSS with hash ${hashOid}, mask ${generatorOid}/${maskHashOid} and salt ${saltLength} is not supported`,
  );
}

function readHash(reader: DerReader): string {
  const identifier = reader.enter(TAG.sequence);
  const oid = identifier.oid();
  // RFC 4055 section 2.1: both forms must be accepted, with NULL parameters and with none.
  if (!identifier.done) identifier.null();
  identifier.end();
  return oid;
}

function importKey(der: Uint8Array, kind: KeyKind, what: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: Buffer.from(der), format: "der", type: "spki" });
  } catch (cause) {
    throw new PkiError("ERR_PKI_KEY", `${what}: the public key is malformed`, { cause });
  }
  if (kind === "rsa") {
    const { modulusLength: bits = 0, publicExponent: exponent = 0n } = key.asymmetricKeyDetails ?? {};
    // With exponent 1 every signature is its own message; an even one is no RSA key.
    if (exponent < 3n || exponent > MAX_RSA_EXPONENT || exponent % 2n === 0n)
      throw new PkiError("ERR_PKI_KEY", `${what}: the RSA exponent is even, 1 or above 2^32`);
    if (bits < MIN_RSA_BITS || bits > MAX_RSA_BITS) {
      throw new PkiError("ERR_PKI_KEY", `${what}: an RSA key of ${bits} bits, expected ${MIN_RSA_BITS} to ${MAX_RSA_BITS}`, { details: { found: bits } });
    }
  }
  // OpenSSL's decoder is laxer than DER; a key that does not encode back to the same bytes has two fingerprints.
  if (!equalBytes(encodePublicKeyInfo(key), der)) throw new PkiError("ERR_PKI_KEY", `${what}: the public key is not encoded in DER`);
  return key;
}
