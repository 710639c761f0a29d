import type { BuiltinContext, Numeric, RegoObject, Value } from "@sealpod/rego";
import { builtinError, compareValues, isArray, normalizeNumber } from "@sealpod/rego";
import { parseVerificationKeys, secretKey, type TokenKey } from "./token-keys.ts";

/** What `io.jwt.decode_verify` demands of a token. */
export interface TokenConstraints {
  /** Keys of `cert`, or the one of `secret`. */
  readonly keys: readonly TokenKey[];
  readonly alg: string | undefined;
  readonly iss: string | undefined;
  readonly aud: string | undefined;
  /** Seconds since 1970. */
  readonly time: Numeric;
}

const NAMES: readonly Value[] = ["cert", "secret", "alg", "iss", "aud", "time"];

/**
 * Reads the constraints: `cert` or `secret`, and optionally `alg`, `iss`, `aud`, `time` (nanoseconds since 1970; else the query's clock).
 * An unknown name is refused: a constraint with a typo would be none.
 * @throws {BuiltinError}
 */
export function parseConstraints(object: RegoObject, context: BuiltinContext): TokenConstraints {
  for (const name of object.keys()) {
    if (!NAMES.includes(name)) throw builtinError(`unknown token validation constraint: ${typeof name === "string" ? name : "a name that is no string"}`);
  }
  const cert = text(object, "cert");
  const secret = text(object, "secret");
  if (cert !== undefined && secret !== undefined) throw builtinError("duplicate key constraints");
  if (cert === undefined && secret === undefined) throw builtinError("no key constraint");
  const [alg, iss, aud] = [text(object, "alg"), text(object, "iss"), text(object, "aud")];
  const time = seconds(object.get("time"), context);
  return { keys: cert === undefined ? [secretKey(secret!)] : parseVerificationKeys(cert, context), alg, iss, aud, time };
}

/**
 * True if the claims of a token meet the constraints (RFC 7519 section 4.1). A token with an audience is only for those who name it.
 * @throws {BuiltinError} for times that are not numbers
 */
export function meetsConstraints(claims: RegoObject, { iss, aud, time }: TokenConstraints): boolean {
  if (iss !== undefined && claims.get("iss") !== iss) return false;
  const audience = claims.get("aud");
  if (audience === undefined ? aud !== undefined : !hasAudience(audience, aud)) return false;
  const exp = timeClaim(claims, "exp");
  const nbf = timeClaim(claims, "nbf");
  return (exp === undefined || compareValues(time, exp) < 0) && (nbf === undefined || compareValues(time, nbf) >= 0);
}

function hasAudience(audience: Value, wanted: string | undefined): boolean {
  if (wanted === undefined) return false;
  return isArray(audience) ? audience.includes(wanted) : audience === wanted;
}

function timeClaim(claims: RegoObject, name: string): Numeric | undefined {
  const value = claims.get(name);
  if (value !== undefined && typeof value !== "number" && typeof value !== "bigint") throw builtinError(`${name} value must be a number`);
  return value;
}

function seconds(value: Value | undefined, context: BuiltinContext): Numeric {
  if (value === undefined) {
    const now = context.now();
    if (now === undefined) throw builtinError("no time constraint, and the query has no clock");
    return normalizeNumber(now / 1000);
  }
  if (typeof value !== "number" && typeof value !== "bigint") throw builtinError("token time constraint: must be a number");
  if (value < 0) throw builtinError("token time constraint: must not be negative");
  const nanoseconds = Number(value);
  if (!Number.isFinite(nanoseconds)) throw builtinError("token time constraint: out of range");
  return normalizeNumber(nanoseconds / 1e9);
}

function text(object: RegoObject, name: string): string | undefined {
  const value = object.get(name);
  if (value !== undefined && typeof value !== "string") throw builtinError(`${name} constraint: must be a string`);
  return value;
}
