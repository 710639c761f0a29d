import { createPrivateKey, createPublicKey, createSecretKey, type JsonWebKey, type KeyObject } from "node:crypto";
import { asArray, asObject, CoreError, equalBytes, type JsonObject, type JsonValue, parseJson } from "@sealpod/core";
import { encodePublicKeyInfo, parsePublicKeyInfo, PkiError } from "@sealpod/pki";
import { type BuiltinContext, BuiltinError, builtinError } from "@sealpod/rego";
import { certificatePublicKey } from "../certificates/certificate-fields.ts";
import { decodeBase64url, decodePem } from "../encodings.ts";
import type { KeyFamily } from "./token-algorithms.ts";

/** A key that may check or make signatures. */
export interface TokenKey {
  readonly family: KeyFamily;
  readonly key: KeyObject;
  /** The only algorithm that the JWK allows; undefined if it names none. */
  readonly algorithm: string | undefined;
  readonly id: string | undefined;
}

/** Longest text of keys. Public key sets of large issuers have 20 KiB. */
export const MAX_KEY_TEXT: number = 256 * 1024;

/** Importing a key takes about 0.1 ms. */
const IMPORT_WORK = 500;

/** Members of an RSA private key in a JWK (RFC 7518 section 6.3.2). */
const RSA_PRIVATE = ["d", "p", "q", "dp", "dq", "qi"] as const;

const CURVES: ReadonlyMap<string, { readonly family: KeyFamily; readonly kty: "EC" | "OKP"; readonly length: number }> = new Map([
  ["P-256", { family: "p256", kty: "EC", length: 32 }],
  ["P-384", { family: "p384", kty: "EC", length: 48 }],
  ["P-521", { family: "p521", kty: "EC", length: 66 }],
  ["Ed25519", { family: "ed25519", kty: "OKP", length: 32 }],
]);

/**
 * Keys that signatures are checked with: a PEM certificate, a PEM public key, a JWK or a JWK set, as OPA takes them. Nothing about a
 * certificate is verified; it only carries the key.
 * @throws {BuiltinError}
 */
export function parseVerificationKeys(text: string, context: BuiltinContext): readonly TokenKey[] {
  checkLength(text);
  context.work(IMPORT_WORK + (text.length >> 4));
  const block = decodePem(text);
  if (block === undefined) {
    return jwks(text, (jwk, _index, isMember) => {
      // RFC 7517 section 5: an issuer that adds a key of a new kind to its set must not take its other keys away from us.
      if (isMember && !isSupported(jwk)) return undefined;
      context.work(IMPORT_WORK);
      if (jwk["kty"] !== "oct" && jwk["d"] !== undefined) throw builtinError("a private key is not for checking signatures");
      return importJwk(jwk, "public");
    });
  }
  if (block.rest !== "") throw builtinError("extra data after a PEM certificate block");
  switch (block.label) {
    case "CERTIFICATE":
      return [described("failed to parse a PEM certificate", () => pemKey(certificatePublicKey(block.der)))];
    case "PUBLIC KEY":
      return [described("failed to parse a PEM public key", () => pemKey(block.der))];
    case "RSA PUBLIC KEY":
      return [described("failed to parse a PEM public key", () => pemKey(pkcs1Info(block.der)))];
    default:
      throw builtinError("failed to extract a Key from the PEM certificate");
  }
}

/**
 * The key of a JWK, or the first of a set, that signatures are made with.
 * @throws {BuiltinError}
 */
export function parseSigningKey(text: string, context: BuiltinContext): TokenKey {
  checkLength(text);
  context.work(2 * IMPORT_WORK + (text.length >> 4));
  const [key] = jwks(text, (jwk, index) => (index === 0 ? importJwk(jwk, "private") : undefined));
  if (key === undefined) throw builtinError("failed to parse a JWK key (set): no key");
  return key;
}

/**
 * The key of an HMAC secret that is given as text.
 * @throws {BuiltinError} for an empty secret, and for PEM: whoever knows the public key could sign with it
 */
export function secretKey(text: string): TokenKey {
  if (text === "") throw builtinError("the secret is empty");
  if (text.includes("-----BEGIN ")) throw builtinError("a PEM text is not an HMAC secret");
  return { family: "secret", key: createSecretKey(Buffer.from(text, "utf8")), algorithm: undefined, id: undefined };
}

function checkLength(text: string): void {
  if (text.length > MAX_KEY_TEXT) throw builtinError(`keys of ${text.length} characters, more than the limit of ${MAX_KEY_TEXT}`);
}

function described<T>(what: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof BuiltinError || error instanceof PkiError || error instanceof CoreError) throw builtinError(`${what}: ${error.message}`);
    throw error;
  }
}

function jwks<T>(text: string, read: (jwk: JsonObject, index: number, isMember: boolean) => T | undefined): readonly T[] {
  return described("failed to parse a JWK key (set)", () => {
    const json = asObject(parseJson(text, "JWK"));
    if (json === undefined) throw builtinError("not a JSON object");
    const list = json["keys"] === undefined ? [json] : asArray(json["keys"]);
    if (list === undefined) throw builtinError('"keys" is not an array');
    return list.flatMap((item, index) => {
      const jwk = asObject(item);
      if (jwk === undefined) throw builtinError(`key ${index} is not a JSON object`);
      return read(jwk, index, list[0] !== json) ?? [];
    });
  });
}

/** A public key from its SubjectPublicKeyInfo: RSA of 2048 to 8192 bits, a named NIST curve, or Ed25519. */
function pemKey(der: Uint8Array): TokenKey {
  const { family, key } = publicKey(der);
  return { family, key, algorithm: undefined, id: undefined };
}

function publicKey(der: Uint8Array): { readonly family: KeyFamily; readonly key: KeyObject } {
  const ed25519 = ed25519Key(der);
  if (ed25519 !== undefined) return { family: "ed25519", key: ed25519 };
  const { kind, key } = parsePublicKeyInfo(der, "public key");
  // With exponent 1 a signature is its own padding, so anyone can write one.
  const exponent = key.asymmetricKeyDetails?.publicExponent;
  if (exponent !== undefined && exponent < 3n) throw builtinError(`RSA exponent ${exponent}`);
  return { family: kind, key };
}

/** Everything of an Ed25519 SubjectPublicKeyInfo (RFC 8410 section 4) before the key. */
const ED25519_PREFIX = Uint8Array.of(0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00);

function ed25519Key(der: Uint8Array): KeyObject | undefined {
  if (der.length !== ED25519_PREFIX.length + 32 || !equalBytes(der.subarray(0, ED25519_PREFIX.length), ED25519_PREFIX)) return undefined;
  return imported(() => createPublicKey({ key: Buffer.from(der), format: "der", type: "spki" }));
}

function pkcs1Info(der: Uint8Array): Uint8Array {
  return encodePublicKeyInfo(imported(() => createPublicKey({ key: Buffer.from(der), format: "der", type: "pkcs1" })));
}

/** OpenSSL's words for a malformed key differ between its versions, and not every one of its errors has a code. */
function imported(create: () => KeyObject): KeyObject {
  try {
    return create();
  } catch {
    throw builtinError("malformed key");
  }
}

function isSupported({ kty, crv }: JsonObject): boolean {
  return kty === "oct" || kty === "RSA" || (typeof crv === "string" && CURVES.get(crv)?.kty === kty);
}

function importJwk(jwk: JsonObject, type: "public" | "private"): TokenKey {
  const common = { algorithm: text(jwk, "alg"), id: text(jwk, "kid") };
  const kty = jwk["kty"];
  if (kty === "oct") {
    const secret = bytes(jwk, "k");
    if (secret.length === 0) throw builtinError("the secret is empty");
    return { family: "secret", key: createSecretKey(secret), ...common };
  }
  let members: readonly string[];
  if (kty === "RSA") {
    if (jwk["oth"] !== undefined) throw builtinError("an RSA key with more than two primes");
    members = type === "public" ? ["n", "e"] : ["n", "e", ...RSA_PRIVATE];
    for (const name of members) bytes(jwk, name);
  } else {
    const curve = CURVES.get(text(jwk, "crv") ?? "");
    if (curve === undefined || curve.kty !== kty) throw builtinError(`invalid key type or curve: kty ${shown(kty)}, crv ${shown(jwk["crv"])}`);
    members = [...(kty === "EC" ? ["crv", "x", "y"] : ["crv", "x"]), ...(type === "public" ? [] : ["d"])];
    // RFC 7518 section 6.2.1.2: always the full length.
    for (const name of members) if (name !== "crv") bytes(jwk, name, curve.length);
  }
  const picked = { kty, ...Object.fromEntries(members.map((name) => [name, jwk[name]])) } as JsonWebKey;
  const given = imported(() => (type === "public" ? createPublicKey({ key: picked, format: "jwk" }) : createPrivateKey({ key: picked, format: "jwk" })));
  const { family, key } = publicKey(encodePublicKeyInfo(given));
  return { family, key: type === "public" ? key : given, ...common };
}

function text(jwk: JsonObject, name: string): string | undefined {
  const value = jwk[name];
  if (value !== undefined && typeof value !== "string") throw builtinError(`"${name}" is not a string`);
  return value;
}

function bytes(jwk: JsonObject, name: string, length?: number): Uint8Array {
  const value = text(jwk, name);
  if (value === undefined) throw builtinError(`"${name}" is missing`);
  const decoded = decodeBase64url(value, `"${name}"`, true);
  if (length !== undefined && decoded.length !== length) throw builtinError(`"${name}" has ${decoded.length} bytes, expected ${length}`);
  return decoded;
}

function shown(value: JsonValue | undefined): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : typeof value;
}
