import { createPublicKey, type KeyObject } from "node:crypto";
import { asObject, encodeJson, fromBase64url, messageOf, type JsonObject, type JsonValue } from "@sealpod/core";
import { KbsError } from "./errors.ts";

/** The public key of a guest, to which resources are encrypted. Whose it is, REPORT_DATA says. */
export interface TeeKey {
  readonly algorithm: "ECDH-ES+A256KW" | "RSA-OAEP-256";
  readonly key: KeyObject;
  /** As the guest sent it: the hash in the report is over these members. */
  readonly jwk: JsonObject;
}

const CURVES: Readonly<Record<string, number>> = { "P-256": 32, "P-384": 48, "P-521": 66 };
/** RFC 7518 section 4.3 asks for 2048 bits; more than 4096 serve nothing but to make the encryption dear. */
const RSA_BITS = { least: 2048, most: 4096 };
/** 65537 has 3 bytes. A long exponent makes each encryption as dear as a decryption. */
const MAX_EXPONENT_BYTES = 4;
const MEMBERS = { EC: ["kty", "crv", "alg", "x", "y"], RSA: ["kty", "alg", "n", "e"] } as const;

/**
 * Reads a guest's public JWK: EC with `ECDH-ES+A256KW`, or RSA with `RSA-OAEP-256` (specs/attestation.md 9.1.2). Other members are refused: what the hash covers and nobody
 * reads, two readers could take differently.
 * @throws {KbsError} ERR_KBS_TEE_KEY
 */
export function parseTeeKey(value: JsonValue | undefined): TeeKey {
  const jwk = asObject(value);
  if (jwk === undefined) throw wrong("it is no JSON object");
  const { kty, alg } = jwk;
  if (kty !== "EC" && kty !== "RSA") throw wrong(`kty is ${shown(kty)}, expected "EC" or "RSA"`);
  const names: readonly string[] = MEMBERS[kty];
  const unknown = Object.keys(jwk).find((name) => !names.includes(name));
  if (unknown !== undefined) throw wrong(`it has the member ${JSON.stringify(unknown.slice(0, 40))}, expected ${names.join(", ")}`);
  const algorithm = kty === "EC" ? "ECDH-ES+A256KW" : "RSA-OAEP-256";
  if (alg !== algorithm) {
    throw wrong(
      `alg is ${shown(alg)}, expected ${JSON.stringify(algorithm)} for ${kty}`,
      alg === "RSA1_5" ? "Clients from before 2024 use RSA1_5, whose padding can be attacked: use a newer client." : undefined,
    );
  }
  return { algorithm, key: kty === "EC" ? ecKey(jwk) : rsaKey(jwk), jwk };
}

function ecKey(jwk: JsonObject): KeyObject {
  const { crv } = jwk;
  const size = typeof crv === "string" ? CURVES[crv] : undefined;
  if (typeof crv !== "string" || size === undefined) throw wrong(`crv is ${shown(crv)}, expected one of ${Object.keys(CURVES).join(", ")}`);
  const [x, y] = [number(jwk, "x"), number(jwk, "y")];
  if (x.bytes.length !== size || y.bytes.length !== size) throw wrong(`x and y have ${x.bytes.length} and ${y.bytes.length} bytes, expected ${size} on ${crv}`);
  // The library refuses a point that is not on the curve: with one, the agreed secret would give away nothing of ours, but be no secret.
  return imported({ kty: "EC", crv, x: x.text, y: y.text });
}

function rsaKey(jwk: JsonObject): KeyObject {
  const [n, e] = [number(jwk, "n"), number(jwk, "e")];
  const bits = n.bytes.length * 8;
  if (bits < RSA_BITS.least || bits > RSA_BITS.most || (n.bytes[0] ?? 0) < 0x80)
    throw wrong(`its modulus has ${n.bytes.length} bytes, expected one of ${RSA_BITS.least} to ${RSA_BITS.most} bits without leading zeros`);
  const [last = 0] = e.bytes.subarray(-1);
  if (e.bytes.length > MAX_EXPONENT_BYTES || (last & 1) === 0 || (e.bytes.length === 1 && last === 1))
    throw wrong(`its exponent has ${e.bytes.length} bytes, expected an odd one from 3 on with at most ${MAX_EXPONENT_BYTES}`);
  return imported({ kty: "RSA", n: n.text, e: e.text });
}

function number(jwk: JsonObject, name: string): { readonly text: string; readonly bytes: Uint8Array } {
  const text = jwk[name];
  if (typeof text !== "string") throw wrong(`${name} is ${shown(text)}, expected a base64url string`);
  try {
    return { text, bytes: fromBase64url(text, name) };
  } catch (cause) {
    throw wrong(messageOf(cause), undefined, cause);
  }
}

function imported(jwk: { readonly kty: string; readonly [name: string]: string }): KeyObject {
  try {
    return createPublicKey({ key: jwk, format: "jwk" });
  } catch (cause) {
    throw wrong(messageOf(cause), undefined, cause);
  }
}

function shown(value: JsonValue | undefined): string {
  return value === undefined ? "missing" : encodeJson(value).slice(0, 60);
}

function wrong(problem: string, hint?: string, cause?: unknown): KbsError {
  return new KbsError("ERR_KBS_TEE_KEY", `tee-pubkey: ${problem}`, { cause, ...(hint === undefined ? {} : { hint }) });
}
