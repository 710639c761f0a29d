import { createPrivateKey, type JsonWebKey, type KeyObject } from "node:crypto";
import { fromBase64url, type JsonValue } from "@sealpod/core";
import { MAX_RSA_BITS } from "@sealpod/pki";
import { type BuiltinContext, builtinError } from "@sealpod/rego";
import { bytesToNumber } from "./certificate-keys.ts";
import type { PemBlock } from "../encodings.ts";

/** Encodings of private keys by PEM label. */
const TYPES: ReadonlyMap<string, "pkcs1" | "pkcs8" | "sec1"> = new Map([
  ["RSA PRIVATE KEY", "pkcs1"],
  ["PRIVATE KEY", "pkcs8"],
  ["EC PRIVATE KEY", "sec1"],
]);

const CURVES: readonly string[] = ["prime256v1", "secp384r1", "secp521r1"];

/** Importing a private key takes about 0.2 ms, with a check of its parts. */
const IMPORT_WORK = 1000;

/** True if the block's label is one of a private key that is not encrypted. */
export function isPrivateKey({ label }: PemBlock): boolean {
  return TYPES.has(label);
}

/**
 * The private key of a PEM block: RSA up to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519.
 * @throws {BuiltinError}
 */
export function readPrivateKey(block: PemBlock, context: BuiltinContext): KeyObject {
  const type = TYPES.get(block.label);
  if (type === undefined) throw builtinError(`PEM block type is ${JSON.stringify(block.label)}, expected a private key`);
  context.work(IMPORT_WORK);
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: Buffer.from(block.der), format: "der", type });
  } catch {
    throw builtinError("failed to parse the private key");
  }
  const { modulusLength, namedCurve } = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case "rsa":
      if ((modulusLength ?? 0) > MAX_RSA_BITS) throw builtinError(`an RSA key of ${modulusLength} bits, more than the limit of ${MAX_RSA_BITS}`);
      return key;
    case "ec":
      if (!CURVES.includes(namedCurve ?? "")) throw builtinError("a private key on a curve that is not supported");
      return key;
    case "ed25519":
      return key;
    default:
      throw builtinError(`a private key of type ${key.asymmetricKeyType}, expected RSA, ECDSA or Ed25519`);
  }
}

/** A private key in the shapes of Go's `rsa.PrivateKey`, `ecdsa.PrivateKey` and `ed25519.PrivateKey`. */
export function privateKeyJson(key: KeyObject): JsonValue {
  const jwk = key.export({ format: "jwk" });
  const number = (name: keyof JsonWebKey): JsonValue => bytesToNumber(member(jwk, name));
  switch (key.asymmetricKeyType) {
    case "rsa":
      return {
        N: number("n"),
        E: number("e"),
        D: number("d"),
        Primes: [number("p"), number("q")],
        Precomputed: { Dp: number("dp"), Dq: number("dq"), Qinv: number("qi"), CRTValues: [] },
      };
    case "ec":
      return { Curve: {}, X: number("x"), Y: number("y"), D: number("d") };
    default:
      return Buffer.concat([member(jwk, "d"), member(jwk, "x")]).toString("base64");
  }
}

/**
 * An RSA private key as a JWK.
 * @throws {BuiltinError} for another key
 */
export function rsaJwk(key: KeyObject): JsonValue {
  if (key.asymmetricKeyType !== "rsa") throw builtinError("failed to parse RSA private key");
  const jwk = key.export({ format: "jwk" });
  const names = ["n", "e", "d", "p", "q", "dp", "dq", "qi"] as const;
  return { kty: "RSA", ...Object.fromEntries(names.map((name) => [name, jwk[name] as string])) };
}

function member(jwk: JsonWebKey, name: keyof JsonWebKey): Uint8Array {
  return fromBase64url(jwk[name] as string);
}
