import { createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { ByteReader, ByteWriter, equalBytes, isZero, sha384, toBase64url, toHex } from "@sealpod/core";
import { SnpError } from "../errors.ts";
import { MEASUREMENT_SIZE } from "./report.ts";

/** Size of an ID block in bytes (AMD 56860, table ID_BLOCK). */
export const ID_BLOCK_SIZE = 96;

/** Size of an ID auth structure in bytes (AMD 56860, table ID_AUTH). */
export const ID_AUTH_SIZE = 4096;

/** Size of a public key structure in bytes (AMD 56860, ECDSA P-384 public key). */
export const ID_KEY_SIZE = 0x404;

/** Size of FAMILY_ID and IMAGE_ID in bytes. */
export const GUEST_ID_SIZE = 16;

/** The signed identity of a guest, which the host gives at the end of a launch: firmware refuses the launch if its digest or policy is another. */
export interface IdBlock {
  /** The launch measurement that the guest must have, 48 bytes. */
  readonly measurement: Uint8Array;
  /** 16 bytes that firmware passes on. */
  readonly familyId: Uint8Array;
  /** 16 bytes that firmware passes on. */
  readonly imageId: Uint8Array;
  /** u32. */
  readonly guestSvn: number;
  /** Raw POLICY that the guest must be launched with; bit 17 set, bits above 25 clear. */
  readonly policy: bigint;
}

/** An ECDSA signature: R and S as numbers, below 2^576. */
export interface IdSignature {
  readonly r: bigint;
  readonly s: bigint;
}

/** A key with what it signed. */
export interface IdSignatory {
  /** Public key structure, 1028 bytes; its SHA-384 is the key's digest in a report. */
  readonly publicKey: Uint8Array;
  readonly signature: IdSignature;
}

/** Signatures about an ID block. */
export interface IdAuth {
  /** Signs the ID block. */
  readonly idKey: IdSignatory;
  /** Signs the public key structure of the ID key; undefined if there is no author key. */
  readonly authorKey: IdSignatory | undefined;
}

/** An ID block whose signatures verify. */
export interface VerifiedIdBlock {
  readonly block: IdBlock;
  /** SHA-384 of the ID key: ID_KEY_DIGEST of the guest's reports, 48 bytes. */
  readonly idKeyDigest: Uint8Array;
  /** AUTHOR_KEY_DIGEST of the guest's reports, 48 bytes; undefined without author key, where reports have zeros. */
  readonly authorKeyDigest: Uint8Array | undefined;
}

/** Digests that a caller requires, 48 bytes each. */
export interface ExpectedIdentity {
  readonly idKeyDigest?: Uint8Array | undefined;
  readonly authorKeyDigest?: Uint8Array | undefined;
  readonly measurement?: Uint8Array | undefined;
}

const VERSION = 1;
/** ECDSA P-384 with SHA-384, the only algorithm that is defined. */
const ALGORITHM = 1;
/** P-384, the only curve that is defined. */
const CURVE = 2;
/** Bytes of a number in signatures and keys, of which P-384 uses 48. */
const NUMBER_SIZE = 72;
const COORDINATE_SIZE = 48;
const SIGNATURE_RESERVED = 512 - 2 * NUMBER_SIZE;
const KEY_RESERVED: number = ID_KEY_SIZE - 4 - 2 * NUMBER_SIZE;
const POLICY_DEFINED = (1n << 26n) - 1n;
const POLICY_MUST_BE_ONE = 1n << 17n;

/**
 * Reads an ID block.
 * @param bytes 96 bytes
 * @throws {SnpError} ERR_SNP_ID_BLOCK
 */
export function parseIdBlock(bytes: Uint8Array): IdBlock {
  const reader = readerOf(bytes, ID_BLOCK_SIZE, "ID block");
  const measurement = reader.bytes(MEASUREMENT_SIZE);
  const familyId = reader.bytes(GUEST_ID_SIZE);
  const imageId = reader.bytes(GUEST_ID_SIZE);
  const version = reader.u32le();
  if (version !== VERSION) fail(`ID block: version ${version} at offset 0x50, expected ${VERSION}`, 0x50);
  const guestSvn = reader.u32le();
  const policy = reader.u64le();
  checkPolicy(policy);
  return { measurement, familyId, imageId, guestSvn, policy };
}

/**
 * The 96 bytes of an ID block.
 * @throws {SnpError} ERR_SNP_ID_BLOCK
 */
export function encodeIdBlock(block: IdBlock): Uint8Array {
  const sized = (field: string, bytes: Uint8Array, size: number): Uint8Array => {
    if (bytes.length !== size) fail(`ID block: ${field} of ${bytes.length} bytes, expected ${size}`);
    return bytes;
  };
  if (!Number.isInteger(block.guestSvn) || block.guestSvn < 0 || block.guestSvn > 0xffff_ffff)
    fail(`ID block: guest SVN ${block.guestSvn}, expected 0 to 2^32 - 1`);
  checkPolicy(block.policy);
  return new ByteWriter()
    .bytes(sized("measurement", block.measurement, MEASUREMENT_SIZE))
    .bytes(sized("family id", block.familyId, GUEST_ID_SIZE))
    .bytes(sized("image id", block.imageId, GUEST_ID_SIZE))
    .u32le(VERSION)
    .u32le(block.guestSvn)
    .u64le(block.policy)
    .toBytes();
}

/**
 * Reads an ID auth structure: known algorithms and curves, every reserved byte zero, keys that are points of P-384.
 * @param bytes 4096 bytes
 * @throws {SnpError} ERR_SNP_ID_BLOCK
 */
export function parseIdAuth(bytes: Uint8Array): IdAuth {
  const reader = readerOf(bytes, ID_AUTH_SIZE, "ID auth");
  const idAlgorithm = reader.u32le();
  const authorAlgorithm = reader.u32le();
  if (idAlgorithm !== ALGORITHM) fail(`ID auth: ID_KEY_ALGO ${idAlgorithm} at offset 0, expected 1 (ECDSA P-384 with SHA-384)`, 0);
  if (authorAlgorithm !== ALGORITHM && authorAlgorithm !== 0)
    fail(`ID auth: AUTH_KEY_ALGO ${authorAlgorithm} at offset 4, expected 1, or 0 without author key`, 4);
  reserved(reader, 0x40 - reader.offset);
  const signature = readSignature(reader);
  const publicKey = readKey(reader);
  reserved(reader, 0x680 - reader.offset);
  let authorKey: IdSignatory | undefined;
  if (authorAlgorithm === 0) reserved(reader, 512 + ID_KEY_SIZE);
  else {
    const authorSignature = readSignature(reader);
    authorKey = { publicKey: readKey(reader), signature: authorSignature };
  }
  reserved(reader, reader.remaining);
  return { idKey: { publicKey, signature }, authorKey };
}

/**
 * The 4096 bytes of an ID auth structure.
 * @throws {SnpError} ERR_SNP_ID_BLOCK
 */
export function encodeIdAuth(auth: IdAuth): Uint8Array {
  const writer = new ByteWriter().u32le(ALGORITHM).u32le(auth.authorKey === undefined ? 0 : ALGORITHM);
  const signatory = ({ publicKey, signature }: IdSignatory): void => {
    parseIdKey(publicKey);
    for (const number of [signature.r, signature.s]) writer.bytes(encodeNumber(number));
    writer.zeros(SIGNATURE_RESERVED).bytes(publicKey);
  };
  writer.zeros(0x40 - writer.length);
  signatory(auth.idKey);
  writer.zeros(0x680 - writer.length);
  if (auth.authorKey !== undefined) signatory(auth.authorKey);
  return writer.zeros(ID_AUTH_SIZE - writer.length).toBytes();
}

/**
 * The public key structure of a P-384 key, private or public: u32le curve, X and Y little endian in 72 bytes each, zeros; 1028 bytes.
 * @throws {SnpError} ERR_SNP_ID_BLOCK for another kind of key
 */
export function encodeIdKey(key: KeyObject): Uint8Array {
  const isP384 = key.type !== "secret" && key.asymmetricKeyType === "ec" && key.asymmetricKeyDetails?.namedCurve === "secp384r1";
  if (!isP384) {
    fail(
      `ID key: found ${key.asymmetricKeyType ?? "a secret"} ${key.asymmetricKeyDetails?.namedCurve ?? ""} key, expected EC P-384`.replace("  ", " "),
      undefined,
      "Make one: openssl ecparam -name secp384r1 -genkey -noout -out id-key.pem",
    );
  }
  const { x = "", y = "" } = (key.type === "private" ? createPublicKey(key) : key).export({ format: "jwk" });
  const writer = new ByteWriter().u32le(CURVE);
  for (const coordinate of [x, y]) writer.bytes(Uint8Array.from(Buffer.from(coordinate, "base64url")).reverse()).zeros(NUMBER_SIZE - COORDINATE_SIZE);
  return writer.zeros(KEY_RESERVED).toBytes();
}

/**
 * The key of a public key structure.
 * @param bytes 1028 bytes
 * @throws {SnpError} ERR_SNP_ID_BLOCK if reserved bytes are not zero or the point is none of P-384
 */
export function parseIdKey(bytes: Uint8Array): KeyObject {
  const reader = readerOf(bytes, ID_KEY_SIZE, "ID key");
  const curve = reader.u32le();
  if (curve !== CURVE) fail(`ID key: curve ${curve}, expected ${CURVE} (P-384)`, 0);
  const coordinate = (): string => {
    const number = Uint8Array.from(reader.bytes(COORDINATE_SIZE)).reverse();
    reserved(reader, NUMBER_SIZE - COORDINATE_SIZE);
    return toBase64url(number);
  };
  const [x, y] = [coordinate(), coordinate()];
  reserved(reader, KEY_RESERVED);
  try {
    return createPublicKey({ key: { kty: "EC", crv: "P-384", x, y }, format: "jwk" });
  } catch (cause) {
    throw new SnpError("ERR_SNP_ID_BLOCK", "ID key: X and Y are no point of P-384", { cause });
  }
}

/**
 * The digest of a key as reports have it: SHA-384 of its public key structure, 48 bytes.
 * @param key P-384 key, private or public, or the structure of 1028 bytes
 * @throws {SnpError} ERR_SNP_ID_BLOCK
 */
export function idKeyDigest(key: KeyObject | Uint8Array): Uint8Array {
  if (!(key instanceof Uint8Array)) return sha384(encodeIdKey(key));
  parseIdKey(key);
  return sha384(key);
}

/**
 * Signs an ID block with the ID key and, if there is one, the ID key with the author key.
 * @param idKey private P-384 key
 * @param authorKey private P-384 key
 * @throws {SnpError} ERR_SNP_ID_BLOCK
 */
export function createIdAuth(block: IdBlock, idKey: KeyObject, authorKey?: KeyObject): IdAuth {
  const publicKey = encodeIdKey(idKey);
  return {
    idKey: { publicKey, signature: signWith(idKey, encodeIdBlock(block)) },
    authorKey: authorKey === undefined ? undefined : { publicKey: encodeIdKey(authorKey), signature: signWith(authorKey, publicKey) },
  };
}

/**
 * Verifies the signatures of an ID auth structure about an ID block, as firmware does at the end of a launch, and compares what the caller expects.
 * @throws {SnpError} ERR_SNP_ID_AUTH if a signature does not verify, or a digest is not the expected one; ERR_SNP_ID_BLOCK if a structure is malformed
 */
export function verifyIdAuth(block: IdBlock, auth: IdAuth, expected: ExpectedIdentity = {}): VerifiedIdBlock {
  verifySignature(auth.idKey, encodeIdBlock(block), "the ID key's signature of the ID block");
  if (auth.authorKey !== undefined) verifySignature(auth.authorKey, auth.idKey.publicKey, "the author key's signature of the ID key");
  const found = {
    idKeyDigest: sha384(auth.idKey.publicKey),
    authorKeyDigest: auth.authorKey === undefined ? undefined : sha384(auth.authorKey.publicKey),
  };
  expect("digest of the ID key", found.idKeyDigest, expected.idKeyDigest);
  expect("digest of the author key", found.authorKeyDigest, expected.authorKeyDigest);
  expect("measurement of the ID block", block.measurement, expected.measurement);
  return { block, ...found };
}

function expect(what: string, found: Uint8Array | undefined, expected: Uint8Array | undefined): void {
  if (expected === undefined || (found !== undefined && equalBytes(found, expected))) return;
  throw new SnpError("ERR_SNP_ID_AUTH", `ID auth: ${what} is ${found === undefined ? "absent" : toHex(found)}, expected ${toHex(expected)}`);
}

function signWith(key: KeyObject, bytes: Uint8Array): IdSignature {
  if (key.type !== "private") fail("ID key: a public key cannot sign, expected a private one");
  const signature = sign("sha384", bytes, { key, dsaEncoding: "ieee-p1363" });
  const number = (from: number): bigint => BigInt(`0x${signature.subarray(from, from + COORDINATE_SIZE).toString("hex")}`);
  return { r: number(0), s: number(COORDINATE_SIZE) };
}

function verifySignature({ publicKey, signature }: IdSignatory, bytes: Uint8Array, what: string): void {
  const key = parseIdKey(publicKey);
  const numbers = [signature.r, signature.s].map((number) => number.toString(16).padStart(2 * COORDINATE_SIZE, "0"));
  // A number above 2^384 is no number of P-384; cut off, it could become one.
  const fits = numbers.every((digits) => digits.length === 2 * COORDINATE_SIZE);
  if (fits && verify("sha384", bytes, { key, dsaEncoding: "ieee-p1363" }, Buffer.from(numbers.join(""), "hex"))) return;
  throw new SnpError("ERR_SNP_ID_AUTH", `ID auth: ${what} does not verify`, {
    hint: "Block and signatures must be made together: sealpod attest id-block create.",
  });
}

function checkPolicy(policy: bigint): void {
  if ((policy & ~POLICY_DEFINED) !== 0n || (policy & POLICY_MUST_BE_ONE) === 0n) {
    fail(`ID block: POLICY 0x${policy.toString(16)} has bit 17 clear or a bit above 25 set`, 0x58, "0x30000 is the least: SMT allowed, bit 17.");
  }
}

function readerOf(bytes: Uint8Array, size: number, what: string): ByteReader {
  if (bytes.length !== size) fail(`${what}: found ${bytes.length} bytes, expected ${size}`);
  // A copy: the caller may change its buffer between our check and our use.
  return new ByteReader(Uint8Array.from(bytes), what);
}

function readSignature(reader: ByteReader): IdSignature {
  const [r, s] = [readNumber(reader), readNumber(reader)];
  reserved(reader, SIGNATURE_RESERVED);
  return { r, s };
}

function readKey(reader: ByteReader): Uint8Array {
  const bytes = reader.bytes(ID_KEY_SIZE);
  parseIdKey(bytes);
  return bytes;
}

function readNumber(reader: ByteReader): bigint {
  return BigInt(`0x${toHex(Uint8Array.from(reader.bytes(NUMBER_SIZE)).reverse())}`);
}

function encodeNumber(value: bigint): Uint8Array {
  if (value < 0n || value >= 1n << BigInt(NUMBER_SIZE * 8)) fail(`ID auth: a signature number does not fit ${NUMBER_SIZE} bytes`);
  return Uint8Array.from(Buffer.from(value.toString(16).padStart(NUMBER_SIZE * 2, "0"), "hex")).reverse();
}

function reserved(reader: ByteReader, length: number): void {
  const { offset } = reader;
  if (!isZero(reader.bytes(length)))
    fail(`ID structure: the reserved bytes 0x${offset.toString(16)} to 0x${(offset + length - 1).toString(16)} are not zero`, offset);
}

function fail(problem: string, offset?: number, hint?: string): never {
  throw new SnpError("ERR_SNP_ID_BLOCK", problem, { details: { offset }, ...(hint === undefined ? {} : { hint }) });
}
