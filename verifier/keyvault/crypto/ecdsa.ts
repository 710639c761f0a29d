import { createECDH, createHash, createPublicKey, verify, type KeyObject } from "node:crypto";
import { concatBytes, fromBase64url, fromHex, toBase64url, toHex, type Random } from "@sealpod/core";
import type { SignatureHash } from "./rsa.ts";

/**
 * ECDSA over digests. node:crypto takes messages alone and hashes them itself, so what it does not offer is put together here from what it does: all
 * multiplications of points, and the verification, are OpenSSL's.
 */

/** A curve: y² = x³ + ax + b over the field of `p`, its base point of order `n` (FIPS 186-4 D.1.2, SEC 2 section 2.4.1). */
interface Curve {
  readonly name: string;
  /** Name in a JWK. */
  readonly crv: string;
  readonly p: bigint;
  readonly n: bigint;
  /** Bytes of a coordinate, and of each half of a signature. */
  readonly size: number;
}

const hex = (text: string): bigint => BigInt(`0x${text.replaceAll(" ", "")}`);

const CURVES: Readonly<Record<string, Curve>> = {
  "P-256": {
    name: "prime256v1",
    crv: "P-256",
    p: 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n,
    n: hex("ffffffff00000000 ffffffffffffffff bce6faada7179e84 f3b9cac2fc632551"),
    size: 32,
  },
  "P-256K": {
    name: "secp256k1",
    crv: "secp256k1",
    p: 2n ** 256n - 2n ** 32n - 977n,
    n: hex("ffffffffffffffff fffffffffffffffe baaedce6af48a03b bfd25e8cd0364141"),
    size: 32,
  },
  "P-384": {
    name: "secp384r1",
    crv: "P-384",
    p: 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n,
    n: hex("ffffffffffffffff ffffffffffffffff ffffffffffffffff c7634d81f4372ddf 581a0db248b0a77a ecec196accc52973"),
    size: 48,
  },
  "P-521": {
    name: "secp521r1",
    crv: "P-521",
    p: 2n ** 521n - 1n,
    n: hex("01ff ffffffffffffffff ffffffffffffffff ffffffffffffffff fffffffffffffffa 51868783bf2f966b 7fcc0148f709a5d0 3bb5c9b8899c47ae bb6fb71e91386409"),
    size: 66,
  },
};

/**
 * Signs a digest that is not longer than the order of the curve.
 * @param privateKey of the curve that `crv` names, in the words of Key Vault
 * @returns r ‖ s (IEEE P1363)
 */
export function signEcdsa(crv: string, privateKey: KeyObject, digest: Uint8Array, random: Random): Uint8Array {
  const curve = curveOf(crv);
  const { n } = curve;
  const d = toNumber(fromBase64url(privateKey.export({ format: "jwk" }).d ?? ""));
  for (;;) {
    // The nonce and its point come from OpenSSL, in constant time.
    const nonce = createECDH(curve.name);
    const [x] = coordinates(nonce.generateKeys());
    const r = x % n;
    const k = toNumber(nonce.getPrivateKey());
    // bigint does not compute in constant time: what it sees of nonce and key is multiplied by a number that nobody knows.
    const blind = 1n + (toNumber(random.bytes(curve.size + 8)) % (n - 1n));
    const s = (inverse((k * blind) % n, n) * (((blind * d) % n) * r + blind * toNumber(digest))) % n;
    if (r !== 0n && s !== 0n) return concatBytes(toBytes(r, curve.size), toBytes(s, curve.size));
  }
}

/**
 * Whether r ‖ s is a signature of this digest. The signature (r, s) of digest z under the point Q is one of digest z' under Q + ((z - z') / r) G: so OpenSSL
 * verifies it for a message of ours with digest z'.
 */
export function verifyEcdsa(crv: string, publicKey: KeyObject, digest: Uint8Array, signature: Uint8Array): boolean {
  const curve = curveOf(crv);
  const { n, size } = curve;
  if (signature.length !== 2 * size) return false;
  const r = toNumber(signature.subarray(0, size));
  const s = toNumber(signature.subarray(size));
  if (r === 0n || r >= n || s === 0n || s >= n) return false;
  const jwk = publicKey.export({ format: "jwk" });
  const q: Point = [toNumber(fromBase64url(jwk.x ?? "")), toNumber(fromBase64url(jwk.y ?? ""))];
  const hash = HASHES[size] ?? "sha256";
  // Of two messages one at least leads to a sum of two different points: the rare other one is skipped.
  for (let counter = 0; ; counter++) {
    const message = Uint8Array.of(counter);
    const own = toNumber(createHash(hash).update(message).digest());
    const t = mod((toNumber(digest) - own) * inverse(r, n), n);
    const moved = t === 0n ? q : add(q, multiplyBase(curve, t), curve.p);
    if (moved === undefined) continue;
    const key = createPublicKey({ key: { kty: "EC", crv: curve.crv, x: encode(moved[0], size), y: encode(moved[1], size) }, format: "jwk" });
    return verify(hash, message, { key, dsaEncoding: "ieee-p1363" }, signature);
  }
}

/** Hashes that are not longer than the order of the curve with coordinates of so many bytes. */
const HASHES: Readonly<Record<number, SignatureHash>> = { 32: "sha256", 48: "sha384", 66: "sha512" };

type Point = readonly [x: bigint, y: bigint];

/** The sum of two points; undefined if they have one x. */
function add([x1, y1]: Point, [x2, y2]: Point, p: bigint): Point | undefined {
  if (x1 === x2) return undefined;
  const slope = mod((y2 - y1) * inverse(mod(x2 - x1, p), p), p);
  const x = mod(slope * slope - x1 - x2, p);
  return [x, mod(slope * (x1 - x) - y1, p)];
}

function multiplyBase(curve: Curve, factor: bigint): Point {
  const ecdh = createECDH(curve.name);
  ecdh.setPrivateKey(toBytes(factor, curve.size));
  return coordinates(ecdh.getPublicKey());
}

/** Of an uncompressed point (SEC 1 section 2.3.3). */
function coordinates(point: Uint8Array): Point {
  const half = (point.length - 1) / 2;
  return [toNumber(point.subarray(1, 1 + half)), toNumber(point.subarray(1 + half))];
}

/** The inverse modulo a prime, by the extended algorithm of Euclid. */
function inverse(value: bigint, modulus: bigint): bigint {
  let [a, b] = [value, modulus];
  let [x, y] = [1n, 0n];
  while (b !== 0n) {
    const quotient = a / b;
    [a, b] = [b, a - quotient * b];
    [x, y] = [y, x - quotient * y];
  }
  return mod(x, modulus);
}

function mod(value: bigint, modulus: bigint): bigint {
  const rest = value % modulus;
  return rest < 0n ? rest + modulus : rest;
}

function curveOf(crv: string): Curve {
  const curve = Object.hasOwn(CURVES, crv) ? CURVES[crv] : undefined;
  if (curve === undefined) throw new RangeError(`no curve ${crv}`);
  return curve;
}

function toNumber(bytes: Uint8Array): bigint {
  return BigInt(`0x0${toHex(bytes)}`);
}

function toBytes(value: bigint, size: number): Uint8Array {
  return fromHex(value.toString(16).padStart(2 * size, "0"));
}

function encode(value: bigint, size: number): string {
  return toBase64url(toBytes(value, size));
}
