import { asArray, asObject, decodeUtf8, encodeJson, fromAnyBase64, isSealpodError, type JsonObject, type JsonValue, type Random } from "@sealpod/core";
import { badParameter, KeyvaultError } from "./errors.ts";
import { generateKeyMaterial, parseKeyMaterial, type GenerationTurn, type KeyMaterial, type KeyType } from "./key-material.ts";
import { optionalBoolean, optionalInteger, parseAttributes, parseTags } from "./request-fields.ts";
import type { KeyRecord, KeyUpdate, NewKeyVersion, StoredReleasePolicy } from "./store/types.ts";
import { encodeReleasePolicy, parseReleasePolicy } from "@sealpod/release-policy";

/** A `vault` has software and HSM keys; in a `managedhsm` every key is an HSM key. They also differ in the form of a release. */
export type VaultKind = "vault" | "managedhsm";

/** Where a new key goes. */
export interface KeyPlace {
  readonly vault: string;
  readonly kind: VaultKind;
  readonly name: string;
  /** The version that is the latest now. */
  readonly latest: KeyRecord | undefined;
}

const NAME = /^[0-9A-Za-z-]{1,127}$/;
/** What a key is for unless somebody says so. */
const DEFAULT_OPS: Readonly<Record<KeyType, readonly string[]>> = {
  RSA: ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
  EC: ["sign", "verify"],
  oct: ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
};
/** What may be said. `import` (a key to import others with) and `export` (one to be released) are of the genuine service, and allow nothing here. */
const KEY_OPS: Readonly<Record<KeyType, readonly string[]>> = {
  RSA: [...DEFAULT_OPS.RSA, "import", "export"],
  EC: [...DEFAULT_OPS.EC, "export"],
  oct: [...DEFAULT_OPS.oct, "sign", "verify", "export"],
};
const DEFAULT_CONTENT_TYPE = "application/json; charset=utf-8";

/**
 * The name of a key in a path.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseKeyName(name: string): string {
  if (!NAME.test(name)) throw badParameter(`The key name ${JSON.stringify(name.slice(0, 130))} is not valid, expected 1 to 127 letters, digits and '-'.`);
  return name;
}

/**
 * The name of a secret in a path.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseSecretName(name: string): string {
  if (!NAME.test(name)) throw badParameter(`The secret name ${JSON.stringify(name.slice(0, 130))} is not valid, expected 1 to 127 letters, digits and '-'.`);
  return name;
}

/**
 * Reads the body of PUT /keys/{name}.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER; ERR_KEYVAULT_UNSUPPORTED for a key that is wrapped for an HSM (`key_hsm`)
 */
export function parseImport(place: KeyPlace, body: JsonObject): NewKeyVersion {
  const jwk = asObject(body["key"]);
  if (jwk === undefined) throw badParameter("Property key is missing or no object.");
  // The JavaScript client writes Hsm, everyone else hsm.
  const flags = [optionalBoolean(body, "hsm"), optionalBoolean(body, "Hsm")].filter((flag) => flag !== undefined);
  if (flags.includes(true) && flags.includes(false)) throw badParameter("Properties hsm and Hsm contradict each other.");
  if (jwk["key_hsm"] !== undefined || jwk["t"] !== undefined) {
    throw new KeyvaultError(
      "ERR_KEYVAULT_UNSUPPORTED",
      "Import of a key that was wrapped for an HSM (key_hsm) is not implemented: there is no HSM vendor's key exchange key here. Import the key as a JSON Web Key.",
    );
  }
  const { type, hsm } = parseKeyType(place, jwk["kty"], flags.includes(true));
  const material = parseKeyMaterial(type, jwk);
  const size = jwk["key_size"];
  if (type === "oct" && size !== undefined && size !== null && size !== material.secret.length * 8) {
    throw badParameter(`key_size is ${encodeJson(size).slice(0, 40)}, but k has ${material.secret.length * 8} bits.`);
  }
  return newVersion(place, body, material, hsm, jwk["key_ops"]);
}

/**
 * Reads the body of POST /keys/{name}/create and makes the key.
 * @param signal of the request: it does not wait any longer than its client
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER, ERR_KEYVAULT_THROTTLED
 */
export async function generateFromRequest(place: KeyPlace, body: JsonObject, random: Random, signal: GenerationTurn["signal"]): Promise<NewKeyVersion> {
  const { type, hsm } = parseKeyType(place, body["kty"], false);
  const curve = body["crv"];
  if (curve !== undefined && curve !== null && typeof curve !== "string") throw badParameter("Property crv must be a string.");
  const request = { type, size: optionalInteger(body, "key_size"), curve: curve ?? undefined, publicExponent: optionalInteger(body, "public_exponent") };
  // The cheap refusals come before the costly key: 4096 bits take seconds.
  readCommon(place, body, type, hsm, body["key_ops"]);
  const material = await generateKeyMaterial(request, random, { vault: place.vault, ...(signal === undefined ? {} : { signal }) });
  return newVersion(place, body, material, hsm, body["key_ops"]);
}

/**
 * Checks what a new version must have in common with the one before it. For the check inside of the store's transaction: between the request and it, others write.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function requireSuccession(latest: KeyRecord | undefined, next: Pick<NewKeyVersion, "exportable" | "releasePolicy">): void {
  if (latest === undefined) return;
  if (latest.exportable !== next.exportable) throw badParameter("The exportable attribute of an existing key cannot be changed.", "AKV.SKR.1003");
  // Immutability, once given, stays with the versions that follow.
  if (latest.releasePolicy?.immutable === true && (latest.releasePolicy.text !== next.releasePolicy?.text || !next.releasePolicy.immutable)) {
    throw badParameter("Immutable Key Release Policy cannot be modified.", "AKV.SKR.1020");
  }
}

/**
 * Reads the body of PATCH.
 * @param versioned the path names a version
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseUpdate(key: KeyRecord, body: JsonObject, versioned: boolean): KeyUpdate {
  const attributes = parseAttributes(body);
  if (attributes.exportable !== undefined && attributes.exportable !== key.exportable) {
    throw badParameter("The exportable attribute of an existing key cannot be changed.", "AKV.SKR.1003");
  }
  const change: { -readonly [Name in keyof KeyUpdate]: KeyUpdate[Name] } = {};
  if (attributes.enabled !== undefined) change.enabled = attributes.enabled;
  if (attributes.notBefore !== undefined) change.notBefore = attributes.notBefore;
  if (attributes.expires !== undefined) change.expires = attributes.expires;
  if (body["tags"] !== undefined && body["tags"] !== null) change.tags = parseTags(body["tags"]);
  if (body["key_ops"] !== undefined && body["key_ops"] !== null) change.keyOps = parseKeyOps(key.type, body["key_ops"]);
  if (body["release_policy"] !== undefined && body["release_policy"] !== null) {
    if (versioned) throw badParameter("Key Release Policy can only be set on versionless key.", "AKV.SKR.1016");
    if (!key.exportable) throw badParameter("Non-exportable keys must not have release policy.", "AKV.SKR.1005");
    if (key.releasePolicy?.immutable === true) throw badParameter("Immutable Key Release Policy cannot be modified.", "AKV.SKR.1020");
    const policy = parsePolicy(body["release_policy"]);
    if (policy !== undefined) change.releasePolicy = policy;
  }
  return change;
}

function newVersion(place: KeyPlace, body: JsonObject, material: KeyMaterial, hsm: boolean, keyOps: JsonValue | undefined): NewKeyVersion {
  const common = readCommon(place, body, material.type, hsm, keyOps);
  return { vault: place.vault, name: place.name, type: material.type, hsm, publicMembers: material.publicMembers, secret: material.secret, ...common };
}

type Common = Pick<NewKeyVersion, "keyOps" | "enabled" | "notBefore" | "expires" | "exportable" | "tags" | "releasePolicy">;

function readCommon(place: KeyPlace, body: JsonObject, type: KeyType, hsm: boolean, keyOps: JsonValue | undefined): Common {
  const attributes = parseAttributes(body);
  const exportable = attributes.exportable ?? false;
  const releasePolicy = parsePolicy(body["release_policy"]);
  if (exportable && releasePolicy === undefined) throw badParameter("Exportable keys must have release policy.", "AKV.SKR.1004");
  if (!exportable && releasePolicy !== undefined) throw badParameter("Non-exportable keys must not have release policy.", "AKV.SKR.1005");
  if (exportable && !hsm) throw badParameter("Exportable keys must be HSM keys: use a kty that ends with -HSM, or hsm: true.", "AKV.SKR.1006");
  const next = { exportable, releasePolicy: inheritImmutable(place.latest, releasePolicy) };
  requireSuccession(place.latest, next);
  return {
    keyOps: keyOps === undefined || keyOps === null ? DEFAULT_OPS[type] : parseKeyOps(type, keyOps),
    enabled: attributes.enabled ?? true,
    notBefore: attributes.notBefore,
    expires: attributes.expires,
    tags: parseTags(body["tags"]),
    ...next,
  };
}

function inheritImmutable(latest: KeyRecord | undefined, policy: StoredReleasePolicy | undefined): StoredReleasePolicy | undefined {
  return policy !== undefined && latest?.releasePolicy?.immutable === true ? { ...policy, immutable: true } : policy;
}

function parseKeyType(place: KeyPlace, kty: JsonValue | undefined, hsmFlag: boolean): { readonly type: KeyType; readonly hsm: boolean } {
  const match = typeof kty === "string" ? /^(RSA|EC|oct)(-HSM)?$/.exec(kty) : null;
  if (match === null) throw badParameter(`The kty ${encodeJson(kty ?? null).slice(0, 60)} is not supported, expected RSA, EC or oct, with -HSM or without.`);
  const type = match[1] as KeyType;
  const hsm = hsmFlag || match[2] !== undefined || place.kind === "managedhsm";
  if (type === "oct" && !hsm) throw badParameter("Symmetric keys are HSM keys: use kty oct-HSM, or hsm: true.");
  return { type, hsm };
}

function parsePolicy(value: JsonValue | undefined): StoredReleasePolicy | undefined {
  if (value === undefined || value === null) return undefined;
  const object = asObject(value);
  const data = object?.["data"];
  if (object === undefined || typeof data !== "string") throw badParameter("Property release_policy.data is missing or no string.", "AKV.SKR.PolicyFormat");
  const contentType = object["contentType"] ?? DEFAULT_CONTENT_TYPE;
  if (typeof contentType !== "string" || !/^application\/json(; ?charset=utf-8)?$/i.test(contentType)) {
    throw badParameter(`The contentType of the release policy is not supported, expected "${DEFAULT_CONTENT_TYPE}".`, "AKV.SKR.PolicyFormat");
  }
  let bytes: Uint8Array;
  try {
    bytes = fromAnyBase64(data, "release_policy.data");
  } catch (cause) {
    throw badParameter("Property release_policy.data is not base64url.", "AKV.SKR.PolicyFormat", cause);
  }
  return { contentType, text: canonicalPolicy(bytes), immutable: optionalBoolean(object, "immutable") ?? false };
}

/** The policy as the genuine service gives it back. */
function canonicalPolicy(bytes: Uint8Array): string {
  try {
    return decodeUtf8(encodeReleasePolicy(parseReleasePolicy(bytes)));
  } catch (cause) {
    if (!isSealpodError(cause)) throw cause;
    throw badParameter(cause.message.replace(/\.*$/, "."), "AKV.SKR.PolicyFormat", cause);
  }
}

function parseKeyOps(type: KeyType, value: JsonValue): readonly string[] {
  const list = asArray(value);
  if (list === undefined || !list.every((item) => typeof item === "string" && KEY_OPS[type].includes(item))) {
    throw badParameter(`Property key_ops must be a list out of ${KEY_OPS[type].join(", ")} for ${type} keys.`);
  }
  return [...new Set(list as readonly string[])];
}
