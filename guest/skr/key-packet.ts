import { constants, createPrivateKey, createPublicKey, privateDecrypt, publicEncrypt, type KeyObject } from "node:crypto";
import { asObject, decodeUtf8, encodeUtf8, fromBase64, messageOf, parseJson, toBase64, type JsonObject } from "@sealpod/core";
import { SkrError } from "./errors.ts";

/** The wrapped key of an encrypted image layer, as the annotation of the layer has it (specs/attestation.md 5.6). */
export interface KeyPacket {
  /** Name of the RSA key that it is wrapped to. */
  readonly kid: string;
  readonly wrappedData: Uint8Array;
  /** Who keeps the key. */
  readonly kmsEndpoint: string;
  /** Who attests. */
  readonly attesterEndpoint: string;
}

/** What `{keypath}-info.json` says of a public key. */
export interface KeyInfo {
  readonly publicKeyPath: string;
  readonly kmsEndpoint: string;
  readonly attesterEndpoint: string;
}

/** Largest annotation, in characters: with a key of 16384 bits it has 4000. */
const MAX_ANNOTATION = 16 * 1024;
/** Largest file about a key. */
const MAX_INFO = 64 * 1024;
/** Bits of an RSA key: below is not safe, above nobody makes. */
const MIN_BITS = 2048;
const MAX_BITS = 16_384;

const OAEP = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" } as const;

/**
 * Reads an annotation: base64 of the packet's JSON. Unknown members are ignored.
 * @throws {SkrError} ERR_SKR_REQUEST
 */
export function parseKeyPacket(annotation: string): KeyPacket {
  if (annotation.length > MAX_ANNOTATION) throw invalid(`the annotation has ${annotation.length} characters, more than ${MAX_ANNOTATION}`);
  try {
    const packet = asObject(
      parseJson(decodeUtf8(fromBase64(annotation, "annotation"), "annotation"), "annotation", { maxLength: MAX_ANNOTATION, maxDepth: 4 }),
    );
    if (packet === undefined) throw new Error("it is not a JSON object");
    const wrapType = packet["wrap_type"];
    if (wrapType !== undefined && (typeof wrapType !== "string" || !/^rsa_\d{4,5}$/.test(wrapType)))
      throw new Error("wrap_type is not rsa_2048, rsa_3072 or the like");
    return {
      kid: text(packet, "kid"),
      wrappedData: fromBase64(text(packet, "wrapped_data"), "wrapped_data"),
      kmsEndpoint: text(packet, "kms_endpoint"),
      attesterEndpoint: text(packet, "attester_endpoint"),
    };
  } catch (cause) {
    throw invalid(`the annotation is not a wrapped key: ${messageOf(cause)}`, cause);
  }
}

/**
 * Reads `{keypath}-info.json`.
 * @param what its path, for messages
 * @throws {SkrError} ERR_SKR_KEY_PACKET
 */
export function parseKeyInfo(json: string, what: string): KeyInfo {
  try {
    const info = asObject(parseJson(json, "it", { maxLength: MAX_INFO, maxDepth: 4 }));
    if (info === undefined) throw new Error("it is not a JSON object");
    return { publicKeyPath: text(info, "public_key_path"), kmsEndpoint: text(info, "kms_endpoint"), attesterEndpoint: text(info, "attester_endpoint") };
  } catch (cause) {
    throw new SkrError("ERR_SKR_KEY_PACKET", `${what}: ${messageOf(cause)}`, {
      cause,
      hint: 'It is {"public_key_path":"…","kms_endpoint":"NAME.vault.azure.net","attester_endpoint":"NAME.attest.azure.net"}.',
    });
  }
}

/**
 * Wraps a key for the owner of an RSA key (RSA-OAEP with SHA-256) and says in the packet where to have it unwrapped.
 * @param publicKey PEM
 * @returns the annotation
 * @throws {SkrError} ERR_SKR_KEY_PACKET
 */
export function wrapKey(plaintext: Uint8Array, kid: string, info: KeyInfo, publicKey: string): string {
  let key: KeyObject;
  try {
    key = createPublicKey(publicKey);
  } catch (cause) {
    throw refused(`${info.publicKeyPath} is not a public key in PEM`, cause);
  }
  const bits = requireRsa(key, info.publicKeyPath);
  let wrapped: Uint8Array;
  try {
    wrapped = publicEncrypt({ key, ...OAEP }, plaintext);
  } catch (cause) {
    throw refused(`${plaintext.length} bytes cannot be wrapped with a key of ${bits} bits: at most ${bits / 8 - 66}`, cause);
  }
  const packet = {
    kid,
    wrapped_data: toBase64(wrapped),
    iv: "",
    wrap_type: `rsa_${bits}`,
    kms_endpoint: info.kmsEndpoint,
    attester_endpoint: info.attesterEndpoint,
  };
  return toBase64(encodeUtf8(JSON.stringify(packet)));
}

/**
 * Unwraps the key of a packet.
 * @param jwk the released private key
 * @throws {SkrError} ERR_SKR_KEY_PACKET
 */
export function unwrapKeyPacket(jwk: JsonObject, packet: KeyPacket): Uint8Array {
  const name = `key ${packet.kid} of ${packet.kmsEndpoint}`;
  let key: KeyObject;
  try {
    if (jwk["kty"] !== "RSA") throw new Error("its type is not RSA");
    key = createPrivateKey({ key: { ...jwk }, format: "jwk" });
  } catch (cause) {
    // No words of OpenSSL about a private key.
    throw refused(`${name} is not a private RSA key`, jwk["kty"] === "RSA" ? undefined : cause);
  }
  requireRsa(key, name);
  try {
    return privateDecrypt({ key, ...OAEP }, packet.wrappedData);
  } catch {
    throw refused(`the image's key is not wrapped to ${name} with RSA-OAEP and SHA-256`);
  }
}

function requireRsa(key: KeyObject, what: string): number {
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  if (key.asymmetricKeyType !== "rsa" || bits < MIN_BITS || bits > MAX_BITS) throw refused(`${what} is not an RSA key of ${MIN_BITS} to ${MAX_BITS} bits`);
  return bits;
}

function text(object: JsonObject, name: string): string {
  const value = object[name];
  if (typeof value !== "string" || value === "") throw new Error(`${name} is missing`);
  return value;
}

function invalid(problem: string, cause?: unknown): SkrError {
  return new SkrError("ERR_SKR_REQUEST", `invalid request format: ${problem}`, { cause });
}

function refused(problem: string, cause?: unknown): SkrError {
  return new SkrError("ERR_SKR_KEY_PACKET", problem, { cause });
}
