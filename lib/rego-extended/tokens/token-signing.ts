import { encodeUtf8, sha256, toBase64url, toHex } from "@sealpod/core";
import type { BuiltinContext, RegoObject } from "@sealpod/rego";
import { BuiltinError, builtinError } from "@sealpod/rego";
import { parseJsonObject } from "../json-text.ts";
import { createSignature, tokenAlgorithm } from "./token-algorithms.ts";
import { parseSigningKey } from "./token-keys.ts";

/**
 * The compact JWS of a header and a payload, both as they stand in their texts, signed with a JWK.
 * @throws {BuiltinError}
 */
export function signToken(header: string, payload: string, jwk: string, context: BuiltinContext): string {
  const fields = readFields(header, context);
  const alg = fields?.get("alg");
  if (alg === undefined) throw builtinError(`missing or invalid 'alg' header: jwsbb: header "alg" not found`);
  if (typeof alg !== "string") throw builtinError("missing or invalid 'alg' header: not a string");
  const algorithm = tokenAlgorithm(alg);
  const type = fields?.get("typ") ?? "";
  if (typeof type === "string" && (type === "" || type.toUpperCase() === "JWT") && !isJson(payload, context)) {
    throw builtinError("type is JWT but payload is not JSON");
  }
  const key = parseSigningKey(jwk, context);
  if (key.family !== algorithm.family || (key.algorithm ?? alg) !== alg) throw builtinError(`the key is not one for ${alg}`);
  context.allocate(2 * (header.length + payload.length));
  const input = `${toBase64url(encodeUtf8(header))}.${toBase64url(encodeUtf8(payload))}`;
  const sign = (): string => `${input}.${toBase64url(createSignature(algorithm, key.key, encodeUtf8(input), context))}`;
  // ECDSA and PSS signatures are random, and a call has one value within a query.
  return context.once(`io.jwt.sign ${toHex(sha256(encodeUtf8(input), Uint8Array.of(0), encodeUtf8(jwk)))}`, sign);
}

function readFields(header: string, context: BuiltinContext): RegoObject | undefined {
  if (header === "") throw builtinError("missing or invalid 'alg' header: cannot parse JSON: cannot parse empty string");
  // What is no object has no "alg"; OPA says no more about it.
  if (!header.trimStart().startsWith("{")) return undefined;
  try {
    return parseJsonObject(header, "header", "refuse", context);
  } catch (error) {
    if (error instanceof BuiltinError) throw builtinError(`missing or invalid 'alg' header: cannot parse JSON: ${error.message}`);
    throw error;
  }
}

function isJson(text: string, context: BuiltinContext): boolean {
  context.work(text.length >> 4);
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
