import { asArray, asObject, decodeUtf8, encodeJson, fromAnyBase64, type JsonObject, type JsonValue, type Random } from "@sealpod/core";
import { badParameter } from "./errors.ts";
import { generateKeyMaterial, parseKeyMaterial, type KeyMaterial, type KeyType } from "./key-material.ts";
import type { KeyRecord, KeyUpdate, NewKeyVersion, StoredReleasePolicy } from "./key-store.ts";
import { encodeReleasePolicy, parseReleasePolicy } from "./release-policy.ts";

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
const KEY_OPS: Readonly<Record<KeyType, readonly string[]>> = {
  RSA: ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
  EC: ["sign", "verify"],
  oct: ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
};
/** Limits of the genuine service. */
const MAX_TAGS = 15;
const MAX_TAG_LENGTH = 256;
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
 * Reads the body of PUT /keys/{name}.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseImport(place: KeyPlace, body: JsonObject): NewKeyVersion {
  const jwk = asObject(body["key"]);
  if (jwk === undefined) throw badParameter("Property key is missing or no object.");
  // The JavaScript client writes Hsm, everyone else hsm.
  const flags = [optionalBoolean(body, "hsm"), optionalBoolean(body, "Hsm")].filter((flag) => flag !== undefined);
  if (flags.includes(true) && flags.includes(false)) throw badParameter("Properties hsm and Hsm contradict each other.");
  const { type, hsm } = parseKeyType(place, jwk["kty"], flags.includes(true));
  const material = parseKeyMaterial(type, jwk);
  const size = jwk["key_size"];
  if (type === "oct" && size !== undefined && size !== material.secret.length * 8) {
    throw badParameter(`key_size is ${encodeJson(size)}, but k has ${material.secret.length * 8} bits.`);
  }
  return newVersion(place, body, material, hsm, jwk["key_ops"]);
}

/**
 * Reads the body of POST /keys/{name}/create and makes the key.
 * @param placeNow where the key goes; asked again after the key is made, because others may write under the name meanwhile
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export async function generateFromRequest(placeNow: () => KeyPlace, body: JsonObject, random: Random): Promise<NewKeyVersion> {
  const place = placeNow();
  const { type, hsm } = parseKeyType(place, body["kty"], false);
  const curve = body["crv"];
  if (curve !== undefined && typeof curve !== "string") throw badParameter("Property crv must be a string.");
  const request = { type, size: optionalInteger(body, "key_size"), curve, publicExponent: optionalInteger(body, "public_exponent") };
  // The cheap refusals come before the costly key: 4096 bits take seconds.
  readCommon(place, body, type, hsm, body["key_ops"]);
  const material = await generateKeyMaterial(request, random);
  return newVersion(placeNow(), body, material, hsm, body["key_ops"]);
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
  if (body["tags"] !== undefined) change.tags = parseTags(body["tags"]);
  if (body["key_ops"] !== undefined) change.keyOps = parseKeyOps(key.type, body["key_ops"]);
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
  const { latest } = place;
  if (latest !== undefined && latest.exportable !== exportable)
    throw badParameter("The exportable attribute of an existing key cannot be changed.", "AKV.SKR.1003");
  if (latest?.releasePolicy?.immutable === true && latest.releasePolicy.text !== releasePolicy?.text) {
    throw badParameter("Immutable Key Release Policy cannot be modified.", "AKV.SKR.1020");
  }
  return {
    keyOps: keyOps === undefined || keyOps === null ? KEY_OPS[type] : parseKeyOps(type, keyOps),
    enabled: attributes.enabled ?? true,
    notBefore: attributes.notBefore,
    expires: attributes.expires,
    exportable,
    tags: parseTags(body["tags"]),
    // Immutability, once given, stays with the versions that follow.
    releasePolicy: releasePolicy !== undefined && latest?.releasePolicy?.immutable === true ? { ...releasePolicy, immutable: true } : releasePolicy,
  };
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
  const text = decodeUtf8(encodeReleasePolicy(parseReleasePolicy(bytes)));
  return { contentType, text, immutable: optionalBoolean(object, "immutable") ?? false };
}

interface Attributes {
  readonly enabled: boolean | undefined;
  readonly exportable: boolean | undefined;
  readonly notBefore: number | undefined;
  readonly expires: number | undefined;
}

function parseAttributes(body: JsonObject): Attributes {
  const value = body["attributes"];
  const attributes = value === undefined || value === null ? {} : asObject(value);
  if (attributes === undefined) throw badParameter("Property attributes must be an object.");
  return {
    enabled: optionalBoolean(attributes, "enabled"),
    exportable: optionalBoolean(attributes, "exportable"),
    notBefore: optionalInteger(attributes, "nbf"),
    expires: optionalInteger(attributes, "exp"),
  };
}

function parseTags(value: JsonValue | undefined): Readonly<Record<string, string>> {
  if (value === undefined || value === null) return {};
  const entries = Object.entries(asObject(value) ?? { "": null });
  const isTag = ([name, text]: readonly [string, JsonValue]): boolean =>
    typeof text === "string" && name !== "" && name.length <= MAX_TAG_LENGTH && text.length <= MAX_TAG_LENGTH;
  if (entries.length > MAX_TAGS || !entries.every(isTag)) {
    throw badParameter(`Property tags must be an object of at most ${MAX_TAGS} strings of at most ${MAX_TAG_LENGTH} characters.`);
  }
  return Object.fromEntries(entries) as Record<string, string>;
}

function parseKeyOps(type: KeyType, value: JsonValue): readonly string[] {
  const list = asArray(value);
  if (list === undefined || !list.every((item) => typeof item === "string" && KEY_OPS[type].includes(item))) {
    throw badParameter(`Property key_ops must be a list out of ${KEY_OPS[type].join(", ")} for ${type} keys.`);
  }
  return [...new Set(list as readonly string[])];
}

function optionalBoolean(object: JsonObject, name: string): boolean | undefined {
  const value = object[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "boolean") throw badParameter(`Property ${name} must be true or false.`);
  return value;
}

function optionalInteger(object: JsonObject, name: string): number | undefined {
  const value = object[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw badParameter(`Property ${name} must be a non-negative integer.`);
  return value;
}
