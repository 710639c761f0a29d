import { createDecipheriv } from "node:crypto";
import { compactVerify, importJWK } from "jose";
import { asObject, decodeUtf8, fromAnyBase64, fromBase64url, messageOf, parseJson, type JsonObject, type JsonValue } from "@sealpod/core";
import { SkrError } from "../errors.ts";
import { parseResource, type KbsResource } from "./resource-uri.ts";

/** What marks a sealed secret. */
const PREFIX = "sealed.";
/** A sealed secret is the value of a Kubernetes secret, which has at most 1 MiB. */
const MAX_SEALED = 1024 * 1024;
const TAG_LENGTH = 16;
const IV_LENGTH = 12;
const KEY_LENGTH = 32;

/**
 * Unseals a secret of CoCo (specs/attestation.md 9.5): `sealed.` and a JWS (ES256) over a payload that names a resource (`vault`), or carries a ciphertext whose key is
 * one (`envelope`). The signer is named by the secret itself, as a resource: that the secret is whole the broker vouches for, because it gives its resources to this guest alone.
 * @param fetchResource fetches a resource of the key broker
 * @throws {SkrError} ERR_SKR_REQUEST for what is no sealed secret, ERR_SKR_RELEASED_KEY if it does not verify or open; what `fetchResource` throws
 */
export async function unsealSecret(sealed: string, fetchResource: (resource: KbsResource) => Promise<Uint8Array>): Promise<Uint8Array> {
  if (!sealed.startsWith(PREFIX) || sealed.length > MAX_SEALED)
    throw malformed(`it does not begin with ${JSON.stringify(PREFIX)}, or is longer than ${MAX_SEALED} characters`);
  const jws = sealed.slice(PREFIX.length);
  const parts = jws.split(".");
  if (parts.length !== 3) throw malformed(`it has ${parts.length} parts after the prefix, expected the 3 of a JWS`);
  const header = part(parts[0] ?? "", "header");
  const { alg, kid } = header;
  if (alg !== "ES256" || typeof kid !== "string") throw malformed("its header has not alg ES256 and a kid");
  if (!kid.startsWith("kbs:///")) throw malformed(`its kid is ${JSON.stringify(kid.slice(0, 100))}, expected the kbs:/// URI of the signer's public key`);
  const payload = await verifiedPayload(jws, await fetchResource(parseResource(kid)), kid);
  const { version, type } = payload;
  if (version !== "0.1.0") throw malformed(`its version is ${show(version)}, expected "0.1.0"`);
  if (payload["provider"] !== "kbs") throw malformed(`its provider is ${show(payload["provider"])}, expected "kbs"`);
  switch (type) {
    case "vault":
      return fetchResource(parseResource(text(payload, "name")));
    case "envelope":
      return openEnvelope(payload, await fetchResource(parseResource(text(payload, "key_id"))));
    default:
      throw malformed(`its type is ${show(type)}, expected "vault" or "envelope"`);
  }
}

async function verifiedPayload(jws: string, jwkBytes: Uint8Array, kid: string): Promise<JsonObject> {
  try {
    const jwk = asObject(parseJson(decodeUtf8(jwkBytes), kid));
    if (jwk?.["kty"] !== "EC" || jwk["crv"] !== "P-256") throw new Error("it is no public JWK on P-256");
    const { x, y } = jwk;
    if (typeof x !== "string" || typeof y !== "string") throw new Error("it has no x and y");
    const { payload } = await compactVerify(jws, await importJWK({ kty: "EC", crv: "P-256", x, y }, "ES256"), { algorithms: ["ES256"] });
    const object = asObject(parseJson(decodeUtf8(payload), "payload"));
    if (object === undefined) throw new Error("its payload is no JSON object");
    return object;
  } catch (cause) {
    throw new SkrError("ERR_SKR_RELEASED_KEY", `the sealed secret is not signed by ${kid.slice(0, 200)}: ${messageOf(cause)}`, { cause });
  }
}

/** Two layers of A256GCM, tag at the end of each ciphertext: the broker's key wraps a key, which encrypts the data. */
function openEnvelope(payload: JsonObject, wrappingKey: Uint8Array): Uint8Array {
  const wrapType = payload["wrap_type"];
  if (wrapType !== "A256GCM") throw malformed(`its wrap_type is ${show(wrapType)}, expected "A256GCM"`);
  const iv = bytes(payload, "iv");
  if (iv.length !== IV_LENGTH) throw malformed(`its iv has ${iv.length} bytes, expected ${IV_LENGTH}`);
  let dataKey: Uint8Array | undefined;
  try {
    if (wrappingKey.length !== KEY_LENGTH)
      throw new Error(`the resource ${text(payload, "key_id")} has ${wrappingKey.length} bytes, expected a key of ${KEY_LENGTH}`);
    dataKey = decrypt(wrappingKey, iv, bytes(payload, "encrypted_key"));
    if (dataKey.length !== KEY_LENGTH) throw new Error(`its data key has ${dataKey.length} bytes, expected ${KEY_LENGTH}`);
    return decrypt(dataKey, iv, bytes(payload, "encrypted_data"));
  } catch (cause) {
    if (cause instanceof SkrError) throw cause;
    throw new SkrError("ERR_SKR_RELEASED_KEY", `the sealed secret does not open: ${messageOf(cause)}`, { cause });
  } finally {
    dataKey?.fill(0);
    wrappingKey.fill(0);
  }
}

function decrypt(key: Uint8Array, iv: Uint8Array, ciphertext: Uint8Array): Uint8Array {
  if (ciphertext.length < TAG_LENGTH) throw new Error("a ciphertext is shorter than its tag");
  const decipher = createDecipheriv("aes-256-gcm", key, iv, { authTagLength: TAG_LENGTH });
  decipher.setAuthTag(ciphertext.subarray(-TAG_LENGTH));
  const head = decipher.update(ciphertext.subarray(0, -TAG_LENGTH));
  return new Uint8Array(Buffer.concat([head, decipher.final()]));
}

function part(encoded: string, what: string): JsonObject {
  try {
    const object = asObject(parseJson(decodeUtf8(fromBase64url(encoded, what)), what));
    if (object !== undefined) return object;
  } catch (cause) {
    throw malformed(messageOf(cause), cause);
  }
  throw malformed(`its ${what} is no JSON object`);
}

function text(payload: JsonObject, name: string): string {
  const value = payload[name];
  if (typeof value !== "string") throw malformed(`it has no ${name}`);
  return value;
}

function bytes(payload: JsonObject, name: string): Uint8Array {
  try {
    return fromAnyBase64(text(payload, name), name);
  } catch (cause) {
    throw cause instanceof SkrError ? cause : malformed(messageOf(cause), cause);
  }
}

function show(value: JsonValue | undefined): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, 60)) : value === undefined ? "missing" : "no string";
}

function malformed(problem: string, cause?: unknown): SkrError {
  return new SkrError("ERR_SKR_REQUEST", `the text is no sealed secret: ${problem}`, { cause });
}
