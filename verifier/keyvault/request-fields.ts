import { asObject, fromAnyBase64, type JsonObject, type JsonValue } from "@sealpod/core";
import { badParameter } from "./errors.ts";

/** Limits of the genuine service. */
const MAX_TAGS = 15;
const MAX_TAG_LENGTH = 256;
/** The end of the year 9999, in seconds since 1970: the last that the dates of the genuine service can say, and far from what dates here cannot. */
const MAX_TIME = 253_402_300_799;

/** Attributes of a key or secret in a request. */
export interface Attributes {
  readonly enabled: boolean | undefined;
  /** Of keys alone. */
  readonly exportable: boolean | undefined;
  /** Seconds since 1970. */
  readonly notBefore: number | undefined;
  readonly expires: number | undefined;
}

/**
 * `attributes` of a body. What the service itself sets (created, updated, recoveryLevel) may be there and is not looked at: clients send back what they were given.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseAttributes(body: JsonObject): Attributes {
  const value = body["attributes"];
  const attributes = value === undefined || value === null ? {} : asObject(value);
  if (attributes === undefined) throw badParameter("Property attributes must be an object.");
  return {
    enabled: optionalBoolean(attributes, "enabled"),
    exportable: optionalBoolean(attributes, "exportable"),
    notBefore: optionalTime(attributes, "nbf"),
    expires: optionalTime(attributes, "exp"),
  };
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function parseTags(value: JsonValue | undefined): Readonly<Record<string, string>> {
  if (value === undefined || value === null) return {};
  const entries = Object.entries(asObject(value) ?? { "": null });
  const isTag = ([name, text]: readonly [string, JsonValue]): boolean =>
    typeof text === "string" && name !== "" && name.length <= MAX_TAG_LENGTH && text.length <= MAX_TAG_LENGTH;
  if (entries.length > MAX_TAGS || !entries.every(isTag)) {
    throw badParameter(`Property tags must be an object of at most ${MAX_TAGS} strings of at most ${MAX_TAG_LENGTH} characters.`);
  }
  return Object.fromEntries(entries) as Record<string, string>;
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function optionalBoolean(object: JsonObject, name: string): boolean | undefined {
  const value = object[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "boolean") throw badParameter(`Property ${name} must be true or false.`);
  return value;
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function optionalInteger(object: JsonObject, name: string): number | undefined {
  const value = object[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) throw badParameter(`Property ${name} must be a non-negative integer.`);
  return value;
}

function optionalTime(attributes: JsonObject, name: string): number | undefined {
  const value = optionalInteger(attributes, name);
  if (value !== undefined && value > MAX_TIME)
    throw badParameter(`Property attributes.${name} is ${value}, expected seconds since 1970 until the end of the year 9999.`);
  return value;
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function requiredText(object: JsonObject, name: string): string {
  const value = object[name];
  if (typeof value !== "string") throw badParameter(`Property ${name} is missing or no string.`);
  return value;
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function optionalBytes(object: JsonObject, name: string): Uint8Array | undefined {
  const value = object[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string") throw badParameter(`Property ${name} must be a base64url string.`);
  try {
    return fromAnyBase64(value, name);
  } catch (cause) {
    throw badParameter(`Property ${name} is not base64url.`, undefined, cause);
  }
}

/** @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER */
export function requiredBytes(object: JsonObject, name: string): Uint8Array {
  const value = optionalBytes(object, name);
  if (value === undefined) throw badParameter(`Property ${name} is missing.`);
  return value;
}
