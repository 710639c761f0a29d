import { encodeUtf8 } from "@sealpod/core";
import type { BuiltinContext, RegoObject, Value } from "@sealpod/rego";
import { builtinError, isArray } from "@sealpod/rego";
import { decodeBase64url, isCanonical, textOf } from "../encodings.ts";
import { parseJsonObject } from "../json-text.ts";
import { isSignature, tokenAlgorithm } from "./token-algorithms.ts";
import type { TokenKey } from "./token-keys.ts";

/** Longest token: header fields of web servers end at 8 to 64 KiB, attestation tokens have 10 KiB. */
export const MAX_TOKEN_LENGTH: number = 256 * 1024;

/** The parts of a compact JWS (RFC 7515 section 7.1), still encoded. */
export interface TokenParts {
  readonly header: string;
  readonly payload: string;
  readonly signature: string;
}

/** A token's header, whose types were checked. */
export interface TokenHeader {
  readonly fields: RegoObject;
  readonly alg: string | undefined;
  readonly kid: string | undefined;
  /** True if the payload is another token (RFC 7519 section 5.2). */
  readonly nested: boolean;
  /** True if it names extensions that must be understood (RFC 7515 section 4.1.11). None is understood here. */
  readonly critical: boolean;
}

/**
 * Splits a compact JWS.
 * @throws {BuiltinError}
 */
export function splitToken(text: string, context: BuiltinContext): TokenParts {
  if (text.length > MAX_TOKEN_LENGTH) throw builtinError(`encoded JWT has ${text.length} characters, more than the limit of ${MAX_TOKEN_LENGTH}`);
  context.work(text.length >> 3);
  context.allocate(text.length);
  const [header = "", payload, signature, ...more] = text.split(".");
  if (payload === undefined) throw builtinError("encoded JWT had no period separators");
  if (signature === undefined || more.length > 0) {
    throw builtinError(`encoded JWT must have 3 sections, found ${signature === undefined ? 2 : 3 + more.length}`);
  }
  return { header, payload, signature };
}

/**
 * Reads a token's header.
 * @param duplicates what to do with a name that stands twice: `refuse` where the token is to be trusted
 * @throws {BuiltinError} also for an encrypted token (RFC 7516 section 9)
 */
export function readHeader({ header }: TokenParts, duplicates: "refuse" | "last", context: BuiltinContext): TokenHeader {
  const fields = parseJsonObject(textOf(decodeBase64url(header, "JWT header", true), "JWT header"), "JWT header", duplicates, context);
  if (fields.has("enc")) throw builtinError("JWT is a JWE object, which is not supported");
  return {
    fields,
    alg: stringField(fields, "alg"),
    kid: stringField(fields, "kid"),
    nested: stringField(fields, "cty")?.toUpperCase() === "JWT",
    critical: isCritical(fields.get("crit")),
  };
}

/**
 * Text of a token's payload.
 * @throws {BuiltinError}
 */
export function payloadText({ payload }: TokenParts): string {
  return textOf(decodeBase64url(payload, "JWT payload", true), "JWT payload");
}

/**
 * True if one of the keys made the token's signature with the header's algorithm. A key is only tried for its own family and,
 * if it names an algorithm, only for that one; keys with the token's `kid` are tried alone. `use` is not looked at, as in OPA.
 * @throws {BuiltinError} for an algorithm that does not exist, such as `none`
 */
export function isSignedBy(parts: TokenParts, header: TokenHeader, keys: readonly TokenKey[], context: BuiltinContext): boolean {
  const signature = decodeBase64url(parts.signature, "JWT signature", false);
  // RFC 7515 section 4.1.1 and 4.1.11.
  if (header.alg === undefined || header.critical) return false;
  const algorithm = tokenAlgorithm(header.alg);
  // One signature, one text: else a token can be changed without being invalid.
  if (!isCanonical(parts.signature, signature)) return false;
  const named = header.kid === undefined ? [] : keys.filter(({ id }) => id === header.kid);
  const data = encodeUtf8(`${parts.header}.${parts.payload}`);
  return (named.length > 0 ? named : keys).some(
    (key) =>
      key.family === algorithm.family &&
      (key.algorithm === undefined || key.algorithm === algorithm.name) &&
      isSignature(algorithm, key.key, data, signature, context),
  );
}

function stringField(fields: RegoObject, name: string): string | undefined {
  const value = fields.get(name);
  if (value !== undefined && typeof value !== "string") throw builtinError(`JWT header: ${name}: must be a string`);
  return value;
}

function isCritical(value: Value | undefined): boolean {
  if (value === undefined) return false;
  if (!isArray(value) || value.length === 0 || value.some((name) => typeof name !== "string")) {
    throw builtinError("JWT header: crit: must be a nonempty list of strings");
  }
  return true;
}
