import { createPublicKey, type KeyObject, verify, X509Certificate } from "node:crypto";
import {
  asArray,
  asObject,
  type Clock,
  decodeUtf8,
  encodeJson,
  encodeUtf8,
  equalBytes,
  fromBase64,
  fromBase64url,
  isSealpodError,
  type JsonObject,
  type JsonValue,
  messageOf,
  parseJson,
} from "@sealpod/core";
import { MAX_ATTESTATION_TOKEN, MAX_CLAIMS_DEPTH } from "./claims.ts";
import { AttestationError } from "./errors.ts";

/** A key that may have signed tokens: RSA, 2048 to 8192 bits. */
export interface TokenKey {
  readonly kid: string;
  readonly publicKey: KeyObject;
  readonly bits: number;
  /** DER of `x5c`, the first one with {@link publicKey}; empty if the key set gives the bare key. Nothing about these certificates is verified. */
  readonly certificates: readonly Uint8Array[];
}

/** The keys of an issuer, by `kid`. The caller knows whose they are: nothing in a key set proves it. */
export interface TokenKeys {
  readonly usable: ReadonlyMap<string, TokenKey>;
  /** Why the other keys of the set cannot sign tokens, for messages. */
  readonly unusable: ReadonlyMap<string, string>;
}

/** The checks of {@link verifyAttestationToken} in the order in which they run. */
export type TokenCheckName = "form" | "algorithm" | "key" | "signature" | "claims" | "issuer" | "time";

/** All of {@link TokenCheckName}, in order. */
export const TOKEN_CHECKS: readonly TokenCheckName[] = ["form", "algorithm", "key", "signature", "claims", "issuer", "time"];

/** A check that passed, and what it found, in words. */
export interface TokenCheck {
  readonly name: TokenCheckName;
  readonly found: string;
}

/** Options of {@link verifyAttestationToken}. */
export interface VerifyTokenOptions {
  readonly keys: TokenKeys;
  /** The issuer that the token must name, with or without trailing slash; undefined takes any: then only the keys say who it is. */
  readonly issuer?: string;
  readonly clock: Clock;
  /** Called for each check that passed. The one that fails is in `details.check` of the error. */
  readonly observe?: (check: TokenCheck) => void;
}

/** A token that one of the given keys signed, of the given issuer, in its time. What its claims are worth depends on the issuer. */
export interface VerifiedAttestationToken {
  readonly kind: "verified-attestation-token";
  /** `iss` as the token has it. */
  readonly issuer: string;
  readonly key: TokenKey;
  readonly claims: JsonObject;
  /** Seconds since 1970. */
  readonly notBefore: number | undefined;
  /** Seconds since 1970. */
  readonly expires: number;
}

/** A token about which nothing is known: fit to be shown, for nothing else. */
export interface UnverifiedAttestationToken {
  readonly kind: "unverified-attestation-token";
  readonly header: JsonObject;
  readonly claims: JsonObject;
}

/** A genuine key set has ten keys with their chains, some 60 KiB. */
const MAX_JWKS = 1024 * 1024;
const MAX_KEYS = 100;
const MAX_X5C = 10;
/** Genuine headers have 200 bytes; one with a chain of certificates in it has 10 KiB. */
const MAX_HEADER = 32 * 1024;
/** A key set nests four levels deep. */
const MAX_JWKS_DEPTH = 16;
const MAX_KID = 256;
/** RFC 7518 section 3.3. */
const MIN_RSA_BITS = 2048;
/** Verifying takes four times as long with each doubling. */
const MAX_RSA_BITS = 8192;
/** Clocks of issuer and reader may differ by this much, in seconds. */
const CLOCK_SKEW = 60;

/**
 * Reads a JSON Web Key Set (RFC 7517 section 5). Keys that cannot sign tokens are put aside, with the reason: they do not spoil the others.
 * @param text at most 1 MiB, 100 keys
 * @throws {AttestationError} ERR_ATTESTATION_JWKS
 */
export function parseJwks(text: string, what = "JWKS"): TokenKeys {
  let list: readonly JsonValue[] | undefined;
  try {
    list = asArray(asObject(parseJson(text, what, { maxLength: MAX_JWKS, maxDepth: MAX_JWKS_DEPTH }))?.["keys"]);
  } catch (cause) {
    throw new AttestationError("ERR_ATTESTATION_JWKS", messageOf(cause), { cause });
  }
  if (list === undefined) throw new AttestationError("ERR_ATTESTATION_JWKS", `${what}: expected an object with a list "keys"`);
  if (list.length > MAX_KEYS) throw new AttestationError("ERR_ATTESTATION_JWKS", `${what}: ${list.length} keys, more than the limit of ${MAX_KEYS}`);
  const usable = new Map<string, TokenKey>();
  const unusable = new Map<string, string>();
  for (const [index, item] of list.entries()) {
    const jwk = asObject(item);
    const kid = jwk?.["kid"];
    if (jwk === undefined || typeof kid !== "string" || kid === "" || kid.length > MAX_KID) {
      // A token names its key: one without a name is none that could be meant.
      unusable.set(`keys[${index}]`, "it has no kid");
      continue;
    }
    if (usable.has(kid) || unusable.has(kid)) throw new AttestationError("ERR_ATTESTATION_JWKS", `${what}: two keys with kid ${quote(kid)}`);
    const key = parseKey(kid, jwk);
    if (typeof key === "string") unusable.set(kid, key);
    else usable.set(kid, key);
  }
  return { usable, unusable };
}

/** The key, or why it is none for tokens. */
function parseKey(kid: string, jwk: JsonObject): TokenKey | string {
  if (jwk["kty"] !== "RSA") return `its type is ${quote(jwk["kty"])}, expected "RSA"`;
  if (jwk["use"] !== undefined && jwk["use"] !== "sig") return `its use is ${quote(jwk["use"])}, expected "sig"`;
  if (jwk["alg"] !== undefined && jwk["alg"] !== "RS256") return `its algorithm is ${quote(jwk["alg"])}, expected "RS256"`;
  try {
    const { n, e, x5c } = jwk;
    const bare = n === undefined && e === undefined ? undefined : parseBareKey(n, e);
    const certificates = x5c === undefined ? [] : parseX5c(x5c);
    const [leaf] = certificates;
    const certified = leaf === undefined ? undefined : new X509Certificate(leaf).publicKey;
    // Two readers of one set, one of n and e, the other of x5c, must not verify with two keys.
    if (bare !== undefined && certified !== undefined && !bare.equals(certified)) return "its n and e are not the key of its first certificate";
    const publicKey = bare ?? certified;
    if (publicKey === undefined) return "it has neither n and e nor x5c";
    const bits = publicKey.asymmetricKeyDetails?.modulusLength ?? 0;
    if (publicKey.asymmetricKeyType !== "rsa") return `its certificate has a key of type ${publicKey.asymmetricKeyType}, expected rsa`;
    if (bits < MIN_RSA_BITS || bits > MAX_RSA_BITS) return `it has ${bits} bits, expected ${MIN_RSA_BITS} to ${MAX_RSA_BITS}`;
    // Under the exponent 1 anything is signed; a long one costs as much time as a private key.
    const exponent = publicKey.asymmetricKeyDetails?.publicExponent ?? 0n;
    if (exponent < 3n || exponent % 2n === 0n || exponent >= 1n << 64n) return "its exponent is not an odd number from 3 to 2^64";
    return { kid, publicKey, bits, certificates };
  } catch (error) {
    return `it cannot be read: ${messageOf(error)}`;
  }
}

function parseBareKey(n: JsonValue | undefined, e: JsonValue | undefined): KeyObject {
  if (typeof n !== "string" || typeof e !== "string") throw new TypeError("n and e are not both strings");
  fromBase64url(n, "n");
  fromBase64url(e, "e");
  return createPublicKey({ key: { kty: "RSA", n, e }, format: "jwk" });
}

function parseX5c(value: JsonValue): readonly Uint8Array[] {
  const list = asArray(value);
  if (list === undefined || list.length === 0 || list.length > MAX_X5C) throw new TypeError(`x5c is no list of 1 to ${MAX_X5C} certificates`);
  return list.map((item, index) => {
    if (typeof item !== "string") throw new TypeError(`x5c[${index}] is not a string`);
    const der = fromBase64(item, `x5c[${index}]`);
    // OpenSSL reads the first certificate and leaves the rest alone: bytes behind it would be nobody's.
    if (!equalBytes(new Uint8Array(new X509Certificate(der).raw), der)) throw new TypeError(`x5c[${index}] goes on after the certificate`);
    return der;
  });
}

/**
 * Verifies an attestation token: a strict compact JWS with RS256, signed by the key of the set that its `kid` names. The caller chooses keys and algorithm, not the token: `jku`, `jwk` and
 * `x5c` of the header are not looked at. The payload is read only after the signature was verified.
 * @param token at most 256 KiB; no white space around it
 * @throws {AttestationError} ERR_ATTESTATION_TOKEN if it is malformed, ERR_ATTESTATION_TOKEN_REFUSED if it does not verify; `details.check` names the {@link TokenCheckName}
 */
export function verifyAttestationToken(token: string, options: VerifyTokenOptions): VerifiedAttestationToken {
  const observe = options.observe ?? ((): void => undefined);
  const { header, input, payload, signature } = splitToken(token);
  // An extension that changes how the rest is read (RFC 7515 section 4.1.11, RFC 7797) has no place in these tokens.
  for (const name of ["crit", "b64"]) if (Object.hasOwn(header, name)) throw malformed("form", `its header asks for the extension ${quote(name)}`);
  const { alg, kid, typ } = header;
  if (typ !== undefined && typ !== "JWT") throw refused("form", `its type is ${quote(typ)}, expected "JWT"`);
  observe({ name: "form", found: `compact JWS of ${token.length} characters` });
  // `none`, and HMAC with the public key as secret, are what forgers name.
  if (alg !== "RS256") throw refused("algorithm", `its algorithm is ${quote(alg)}, expected "RS256"`);
  observe({ name: "algorithm", found: "RS256" });
  const key = findKey(options.keys, kid);
  observe({ name: "key", found: `kid ${quote(key.kid)}, RSA ${key.bits}` });
  if (!verify("sha256", encodeUtf8(input), key.publicKey, signature)) throw refused("signature", `the key with kid ${quote(key.kid)} did not sign it`);
  observe({ name: "signature", found: "RSASSA-PKCS1-v1_5 with SHA-256 over header and payload" });

  const claims = parsePart(payload, "payload", MAX_ATTESTATION_TOKEN);
  const { iss, exp, nbf, iat } = claims;
  if (typeof iss !== "string") throw malformed("claims", "it has no iss");
  const expires = seconds(exp, "exp");
  if (expires === undefined) throw malformed("claims", "it has no exp");
  const notBefore = seconds(nbf, "nbf");
  seconds(iat, "iat");
  observe({ name: "claims", found: `${Object.keys(claims).length} claims, strict JSON` });
  if (options.issuer !== undefined && trimSlash(iss) !== trimSlash(options.issuer)) {
    throw refused("issuer", `its issuer is ${quote(iss)}, expected ${quote(options.issuer)}`);
  }
  observe({ name: "issuer", found: options.issuer === undefined ? `${printableStart(iss)} (any was accepted)` : printableStart(iss) });
  const now = Math.floor(options.clock.now() / 1000);
  if (expires + CLOCK_SKEW <= now) throw refused("time", `it expired at ${date(expires)}, ${now - expires} seconds ago`);
  if (notBefore !== undefined && notBefore - CLOCK_SKEW > now) throw refused("time", `it is valid only from ${date(notBefore)}, in ${notBefore - now} seconds`);
  observe({ name: "time", found: `${notBefore === undefined ? "" : `from ${date(notBefore)} `}until ${date(expires)}` });
  return { kind: "verified-attestation-token", issuer: iss, key, claims, notBefore, expires };
}

/**
 * Reads header and claims of a token without any check of who made it.
 * @throws {AttestationError} ERR_ATTESTATION_TOKEN
 */
export function decodeAttestationToken(token: string): UnverifiedAttestationToken {
  const { header, payload } = splitToken(token);
  return { kind: "unverified-attestation-token", header, claims: parsePart(payload, "payload", MAX_ATTESTATION_TOKEN) };
}

function findKey({ usable, unusable }: TokenKeys, kid: JsonValue | undefined): TokenKey {
  if (typeof kid !== "string") throw malformed("key", "its header has no kid");
  const key = usable.get(kid);
  if (key !== undefined) return key;
  const problem = unusable.get(kid);
  if (problem !== undefined) throw refused("key", `the key with kid ${quote(kid)} cannot be used: ${problem}`);
  throw new AttestationError(
    "ERR_ATTESTATION_TOKEN_REFUSED",
    `the token is refused: no key of the set has kid ${quote(kid)}; it has ${usable.size} usable keys`,
    {
      details: { check: "key" },
      hint: "Issuers roll their keys over: fetch the key set again, of the issuer that the token names.",
    },
  );
}

interface TokenParts {
  readonly header: JsonObject;
  /** What is signed. */
  readonly input: string;
  readonly payload: string;
  readonly signature: Uint8Array;
}

function splitToken(token: string): TokenParts {
  if (token.length > MAX_ATTESTATION_TOKEN) throw malformed("form", `it has ${token.length} characters, more than the limit of ${MAX_ATTESTATION_TOKEN}`);
  const parts = token.split(".", 4);
  const [header, payload, signature] = parts;
  if (parts.length !== 3 || header === undefined || payload === undefined || signature === undefined) {
    throw malformed("form", `it has ${parts.length === 4 ? "more than 3" : parts.length} parts separated by dots, expected 3`);
  }
  return {
    header: parsePart(header, "header", MAX_HEADER),
    input: `${header}.${payload}`,
    payload,
    signature: mend(() => fromBase64url(signature, "signature")),
  };
}

function parsePart(part: string, what: "header" | "payload", limit: number): JsonObject {
  if (part.length > limit) throw malformed("form", `its ${what} has ${part.length} characters, more than the limit of ${limit}`);
  const object = mend(() => asObject(parseJson(decodeUtf8(fromBase64url(part, what), what), what, { maxLength: limit, maxDepth: MAX_CLAIMS_DEPTH })));
  if (object === undefined) throw malformed("form", `its ${what} is not a JSON object`);
  return object;
}

/** A NumericDate (RFC 7519 section 2). */
function seconds(value: JsonValue | undefined, name: string): number | undefined {
  if (value === undefined) return undefined;
  // The largest time that a date has: later ones could not be shown.
  if (typeof value !== "number" || value < 0 || value > 8_640_000_000_000)
    throw malformed("claims", `its ${name} is ${quote(value)}, expected seconds since 1970`);
  return value;
}

function date(time: number): string {
  return new Date(time * 1000).toISOString();
}

function trimSlash(url: string): string {
  return url.endsWith("/") ? url.slice(0, -1) : url;
}

/** JSON text of a value of others, cut: fit for a message. */
function quote(value: JsonValue | undefined): string {
  return value === undefined ? "missing" : printableStart(encodeJson(value));
}

function printableStart(text: string): string {
  return (text.length > 200 ? `${text.slice(0, 200)}…` : text).replaceAll(/[\u007f-\u009f\u2028\u2029]/g, "\ufffd");
}

function mend<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw malformed("form", `its ${messageOf(cause)}`, cause);
  }
}

function malformed(check: TokenCheckName, problem: string, cause?: unknown): AttestationError {
  return new AttestationError("ERR_ATTESTATION_TOKEN", `the token is malformed: ${problem}`, { cause, details: { check } });
}

function refused(check: TokenCheckName, problem: string): AttestationError {
  return new AttestationError("ERR_ATTESTATION_TOKEN_REFUSED", `the token is refused: ${problem}`, { details: { check } });
}
