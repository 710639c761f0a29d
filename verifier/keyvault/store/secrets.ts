import { encodeUtf8 } from "@sealpod/core";
import { badParameter } from "../errors.ts";
import { MAX_SECRET_VALUE } from "./limits.ts";
import { optionalText } from "./row.ts";
import type { ShelfKind } from "./shelf.ts";
import type { SecretRecord } from "./types.ts";

/** How versions of secrets are kept. */
export const SECRETS: ShelfKind<SecretRecord> = {
  noun: "Secret",
  collection: "secrets",
  names: "vault_secrets",
  versions: "vault_secret_versions",
  nameColumns: [],
  columns: ["content_type"],
  largeColumns: [],
  toColumns: (secret) => [secret.contentType ?? null],
  fromRow: (common, row) => ({ ...common, contentType: optionalText(row, "content_type") }),
  bound: (secret) => [secret.contentType ?? null],
};

/**
 * The bytes of a value.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER beyond {@link MAX_SECRET_VALUE}, and for text that UTF-8 cannot say
 */
export function encodeSecretValue(value: string): Uint8Array {
  // The length first: to encode what is far too large is work for nothing.
  const bytes = value.length > MAX_SECRET_VALUE ? undefined : encodeUtf8(value);
  if (bytes === undefined || bytes.length > MAX_SECRET_VALUE) {
    throw badParameter(`The value of the secret has more than ${MAX_SECRET_VALUE} bytes of UTF-8, the maximum size of a secret.`);
  }
  if (!value.isWellFormed()) throw badParameter("The value of the secret has half a surrogate pair, which is no text.");
  return bytes;
}

/**
 * The content type, which databases take as text.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function requireContentType(contentType: string | undefined): void {
  if (contentType !== undefined && (contentType.includes("\0") || !contentType.isWellFormed())) {
    throw badParameter("The contentType of the secret has characters that are no text.");
  }
}
