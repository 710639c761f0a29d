import { createPrivateKey, createPublicKey, generateKeyPair, sign, verify, type JsonWebKey, type KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { fromAnyBase64, messageOf, toBase64url, toHex, type JsonObject, type Random } from "@sealpod/core";
import { badParameter } from "./errors.ts";
import { RSA_GENERATION, type FairQueueOptions } from "./fair-queue.ts";

/** Family of a key; `-HSM` is said apart. */
export type KeyType = "RSA" | "EC" | "oct";

/** A private or symmetric key and what the world may see of it. */
export interface KeyMaterial {
  readonly type: KeyType;
  /** RSA: `n`, `e`; EC: `crv`, `x`, `y`; oct: nothing. */
  readonly publicMembers: Readonly<Record<string, string>>;
  /** PKCS#8 DER of an RSA or EC key, raw bytes of an oct key: what a release wraps. */
  readonly secret: Uint8Array;
}

/** What to make. */
export interface GenerateKeyRequest {
  readonly type: KeyType;
  /** Bits, for RSA and oct. */
  readonly size: number | undefined;
  readonly curve: string | undefined;
  readonly publicExponent: number | undefined;
}

/** Who waits for a key that is costly to make. */
export interface GenerationTurn extends FairQueueOptions {
  /** Vaults take turns. */
  readonly vault: string;
}

/** The largest oct key of the genuine service, in bytes. */
const MAX_OCT = 64;
const RSA_SIZES: readonly (number | undefined)[] = [2048, 3072, 4096];
const OCT_SIZES: readonly (number | undefined)[] = [128, 192, 256];
/** Longest member of a JWK: the modulus of RSA 4096, with a leading zero and in any padding. */
const MAX_MEMBER = 1024;
/**
 * Public exponents of RSA keys that are imported. Small ones have a history: 1 encrypts nothing, and with 3 any weakness of a padding shows (FIPS 186-5 section 5.1 wants more than
 * 2^16 as well). Beyond 64 bits OpenSSL does not work with large moduli.
 */
const MIN_EXPONENT = 65_537n;
const MAX_EXPONENT: bigint = 2n ** 64n;

/** Names of Key Vault to names of JOSE (RFC 7518 section 6.2.1.1, RFC 8812 section 3.1). */
const CURVES: Readonly<Record<string, string>> = { "P-256": "P-256", "P-256K": "secp256k1", "P-384": "P-384", "P-521": "P-521" };

const generatePair = promisify(generateKeyPair);

/**
 * Parses the private JWK of an import. Numbers may be padded base64url and may have leading zeros.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER if a member is missing, or the private and public halves do not belong together
 */
export function parseKeyMaterial(type: KeyType, jwk: JsonObject): KeyMaterial {
  switch (type) {
    case "oct":
      return parseOct(jwk);
    case "RSA":
      return parseRsa(jwk);
    case "EC":
      return parseEc(jwk);
  }
}

/**
 * Makes a key; an RSA key when its turn has come.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER for a size or curve that Key Vault does not know; ERR_KEYVAULT_THROTTLED if too many wait for RSA keys
 */
export async function generateKeyMaterial(request: GenerateKeyRequest, random: Random, turn: GenerationTurn): Promise<KeyMaterial> {
  switch (request.type) {
    case "oct": {
      const size = request.size ?? 256;
      if (!OCT_SIZES.includes(size)) throw badParameter(`key_size ${size} is not supported for oct keys, expected ${OCT_SIZES.join(", ")}.`);
      return { type: "oct", publicMembers: {}, secret: random.bytes(size / 8) };
    }
    case "RSA": {
      const size = request.size ?? 2048;
      if (!RSA_SIZES.includes(size)) throw badParameter(`key_size ${size} is not supported for RSA keys, expected ${RSA_SIZES.join(", ")}.`);
      const publicExponent = request.publicExponent ?? 65_537;
      if (publicExponent !== 65_537) throw badParameter(`public_exponent ${publicExponent} is not supported, expected 65537.`);
      const { privateKey } = await RSA_GENERATION.run(turn.vault, async () => generatePair("rsa", { modulusLength: size, publicExponent }), turn);
      return describe("RSA", privateKey);
    }
    case "EC": {
      const namedCurve = joseCurve(request.curve ?? "P-256");
      return describe("EC", (await generatePair("ec", { namedCurve })).privateKey);
    }
  }
}

function parseOct(jwk: JsonObject): KeyMaterial {
  const secret = member(jwk, "k");
  if (secret.length === 0) throw badParameter("JSON Web Key: k property of oct key is empty.");
  if (secret.length > MAX_OCT) throw badParameter(`JSON Web Key: k property of oct key is too large, maximum size is ${MAX_OCT}.`);
  return { type: "oct", publicMembers: {}, secret };
}

function parseRsa(jwk: JsonObject): KeyMaterial {
  const members = Object.fromEntries(["n", "e", "d", "p", "q", "dp", "dq", "qi"].map((name) => [name, toBase64url(withoutLeadingZeros(member(jwk, name)))]));
  requireBelonging(members);
  const key = importPrivate({ kty: "RSA", ...members });
  const size = key.asymmetricKeyDetails?.modulusLength;
  if (!RSA_SIZES.includes(size)) throw badParameter(`JSON Web Key: the RSA modulus has ${size} bits, expected ${RSA_SIZES.join(", ")}.`);
  return describe("RSA", key);
}

/**
 * RFC 8017 section 3.2. OpenSSL does not mind wrong primes: it finds that its shortcut over them went wrong, and goes the long way. Whoever gets the key released may mind.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
function requireBelonging(members: Readonly<Record<string, string>>): void {
  const number = (name: string): bigint => BigInt(`0x0${toHex(fromAnyBase64(members[name] ?? "", `property ${name}`))}`);
  const [n, e, d, p, q, dp, dq, qi] = [number("n"), number("e"), number("d"), number("p"), number("q"), number("dp"), number("dq"), number("qi")];
  if (e < MIN_EXPONENT || e >= MAX_EXPONENT || e % 2n === 0n) {
    throw badParameter(
      `JSON Web Key: the public exponent e is ${e.toString().slice(0, 40)}, expected an odd number of at least ${MIN_EXPONENT} and at most 64 bits.`,
    );
  }
  const isOf = (prime: bigint, exponent: bigint): boolean => d % (prime - 1n) === exponent && (e * d) % (prime - 1n) === 1n;
  if (p > 2n && q > 2n && p * q === n && isOf(p, dp) && isOf(q, dq) && (qi * q) % p === 1n) return;
  throw badParameter("JSON Web Key: not a consistent RSA key: n is not the product of p and q, or d, dp, dq or qi do not belong to them.");
}

function parseEc(jwk: JsonObject): KeyMaterial {
  const { crv } = jwk;
  if (typeof crv !== "string") throw badParameter("JSON Web Key: property crv is missing.");
  const members = Object.fromEntries(["x", "y", "d"].map((name) => [name, toBase64url(member(jwk, name))]));
  return describe("EC", importPrivate({ kty: "EC", crv: joseCurve(crv), ...members }));
}

function importPrivate(jwk: JsonWebKey): KeyObject {
  try {
    const key = createPrivateKey({ key: jwk, format: "jwk" });
    // OpenSSL takes the members as they are. A key that does not verify what it signs would be found out when it is needed.
    const probe = new Uint8Array(32);
    const publicKey = createPublicKey(key);
    if (!verify("sha256", probe, publicKey, sign("sha256", probe, key))) throw new TypeError("the private and public members do not belong together");
    return key;
  } catch (cause) {
    throw badParameter(`JSON Web Key: not a consistent ${jwk.kty ?? ""} key: ${messageOf(cause)}.`, undefined, cause);
  }
}

function describe(type: "RSA" | "EC", privateKey: KeyObject): KeyMaterial {
  const { n, e, crv, x, y } = createPublicKey(privateKey).export({ format: "jwk" });
  const secret = new Uint8Array(privateKey.export({ type: "pkcs8", format: "der" }));
  const vaultCurve = Object.entries(CURVES).find(([, name]) => name === crv)?.[0];
  const publicMembers = type === "RSA" ? { n: n ?? "", e: e ?? "" } : { crv: vaultCurve ?? "", x: x ?? "", y: y ?? "" };
  return { type, publicMembers, secret };
}

/**
 * The name in a JWK of a curve that Key Vault knows.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function joseCurve(name: string): string {
  const curve = Object.hasOwn(CURVES, name) ? CURVES[name] : undefined;
  if (curve === undefined) throw badParameter(`The curve ${JSON.stringify(name.slice(0, 40))} is not supported, expected ${Object.keys(CURVES).join(", ")}.`);
  return curve;
}

function member(jwk: JsonObject, name: string): Uint8Array {
  const value = jwk[name];
  if (typeof value !== "string") throw badParameter(`JSON Web Key: property ${name} is missing.`);
  if (value.length > MAX_MEMBER) throw badParameter(`JSON Web Key: ${name} property is too large.`);
  try {
    return fromAnyBase64(value, `property ${name}`);
  } catch (cause) {
    throw badParameter(`JSON Web Key: property ${name} is not base64url.`, undefined, cause);
  }
}

function withoutLeadingZeros(bytes: Uint8Array): Uint8Array {
  const first = bytes.findIndex((byte) => byte !== 0);
  return first === -1 ? bytes : bytes.subarray(first);
}
