import { encodeUtf8, type JsonObject, type JsonValue } from "@sealpod/core";
import { badParameter } from "./errors.ts";
import { parseAttributes, parseTags, requiredText } from "./request-fields.ts";
import { MAX_SECRET_VALUE } from "./store/limits.ts";
import type { NewSecretVersion, SecretUpdate } from "./store/types.ts";

/** Limit of the genuine service. */
const MAX_CONTENT_TYPE = 255;

/**
 * Reads the body of PUT /secrets/{name}.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseSecret(vault: string, name: string, body: JsonObject): NewSecretVersion {
  const value = requiredText(body, "value");
  const length = value.isWellFormed() ? encodeUtf8(value).length : undefined;
  // What is stored must be what is given back: half a surrogate pair has no UTF-8.
  if (length === undefined) throw badParameter("Property value is not well-formed Unicode.");
  if (length > MAX_SECRET_VALUE) throw badParameter(`Property value has ${length} bytes, more than the limit of ${MAX_SECRET_VALUE}.`);
  const attributes = parseAttributes(body);
  return {
    vault,
    name,
    value,
    contentType: parseContentType(body["contentType"]),
    enabled: attributes.enabled ?? true,
    notBefore: attributes.notBefore,
    expires: attributes.expires,
    tags: parseTags(body["tags"]),
  };
}

/**
 * Reads the body of PATCH /secrets/{name}/{version}. The value of a version never changes.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function parseSecretUpdate(body: JsonObject): SecretUpdate {
  if (body["value"] !== undefined && body["value"] !== null) throw badParameter("Property value cannot be changed: set the secret to make a new version.");
  const attributes = parseAttributes(body);
  const change: { -readonly [Name in keyof SecretUpdate]: SecretUpdate[Name] } = {};
  if (attributes.enabled !== undefined) change.enabled = attributes.enabled;
  if (attributes.notBefore !== undefined) change.notBefore = attributes.notBefore;
  if (attributes.expires !== undefined) change.expires = attributes.expires;
  const contentType = parseContentType(body["contentType"]);
  if (contentType !== undefined) change.contentType = contentType;
  if (body["tags"] !== undefined && body["tags"] !== null) change.tags = parseTags(body["tags"]);
  return change;
}

function parseContentType(value: JsonValue | undefined): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string" || value.length > MAX_CONTENT_TYPE || /[^\x20-\x7e\u00a0-\ud7ff\ue000-\ufffd]/.test(value)) {
    throw badParameter(`Property contentType must be a string of at most ${MAX_CONTENT_TYPE} characters without control characters.`);
  }
  return value;
}
