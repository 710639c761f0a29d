import { createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { JsonObject } from "@sealpod/core";
import { findWrappingKey, parseWrapAlgorithm, wrapKey, type WrapAlgorithm } from "./index.ts";
import { KEYS, random, unwrap } from "./testdata/world.ts";

const VECTORS = new URL("../../../shared/vectors/attestation/sidecar/keywrap/ckm-rsa-aes-key-wrap.json", import.meta.url);

describe("key wrapping", () => {
  const algorithms: readonly WrapAlgorithm[] = ["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"];
  it.each(algorithms)("%s gives back keys of any length", (algorithm) => {
    for (const length of [1, 8, 9, 16, 31, 32, 64, 1217]) {
      const plaintext = new Uint8Array(randomBytes(length));
      const wrapped = wrapKey(algorithm, KEYS.tee.publicKey, plaintext, random);
      expect(wrapped).toHaveLength(256 + 8 + Math.ceil(length / 8) * 8);
      expect(new Uint8Array(unwrap(algorithm, KEYS.tee.privateKey, wrapped))).toEqual(plaintext);
    }
  });

  it("does not open under another algorithm, another key, or with a changed bit", () => {
    const wrapped = wrapKey("RSA_AES_KEY_WRAP_256", KEYS.tee.publicKey, new Uint8Array(32), random);
    expect(() => unwrap("CKM_RSA_AES_KEY_WRAP", KEYS.tee.privateKey, wrapped)).toThrow();
    expect(() => unwrap("RSA_AES_KEY_WRAP_384", KEYS.tee.privateKey, wrapped)).toThrow();
    expect(() => unwrap("RSA_AES_KEY_WRAP_256", KEYS.attacker.privateKey, wrapped)).toThrow();
    wrapped[260] = (wrapped[260] ?? 0) ^ 1;
    expect(() => unwrap("RSA_AES_KEY_WRAP_256", KEYS.tee.privateKey, wrapped)).toThrow();
  });

  it("knows three algorithms by name", () => {
    for (const algorithm of algorithms) expect(parseWrapAlgorithm(algorithm)).toBe(algorithm);
    for (const name of ["", "RSA_AES_KEY_WRAP_512", "ckm_rsa_aes_key_wrap", "toString", "__proto__"]) expect(parseWrapAlgorithm(name)).toBeUndefined();
  });

  // A genuine wrapped key of a managed HSM: it shows that the tests' own unwrap, against which wrapKey is tested, is the field's.
  it.skipIf(!existsSync(VECTORS))("is the inverse of what opens the recorded key (skipped without ../shared/vectors/attestation)", () => {
    const vectors = JSON.parse(readFileSync(VECTORS, "utf8")) as {
      private_key_pem: string;
      cases: { name: string; enc: string; ciphertext_b64url: string; plaintext_hex: string }[];
    };
    const key = createPrivateKey({ key: Buffer.from(vectors.private_key_pem, "base64"), format: "der", type: "pkcs1" });
    const recorded = vectors.cases.find(({ name }) => name === "success");
    expect(unwrap("CKM_RSA_AES_KEY_WRAP", key, Buffer.from(recorded?.ciphertext_b64url ?? "", "base64url")).toString("hex")).toBe(recorded?.plaintext_hex);
    const plaintext = Buffer.from(recorded?.plaintext_hex ?? "", "hex");
    expect(unwrap("CKM_RSA_AES_KEY_WRAP", key, wrapKey("CKM_RSA_AES_KEY_WRAP", createPublicKey(key), plaintext, random))).toEqual(plaintext);
  });
});

describe("findWrappingKey", () => {
  const jwk = KEYS.tee.publicKey.export({ format: "jwk" }) as JsonObject;
  const claims = (...keys: JsonObject[]): JsonObject => ({ "x-ms-runtime": { keys } });

  it("takes the first RSA key that is there to encrypt with", () => {
    const other = { ...(KEYS.attacker.publicKey.export({ format: "jwk" }) as JsonObject), kid: "sig", use: "sig" };
    const ec = { ...(generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({ format: "jwk" }) as JsonObject), use: "enc" };
    for (const mark of [{ use: "enc" }, { key_ops: ["wrapKey", "encrypt"] }]) {
      const found = findWrappingKey(claims(other, ec, { ...jwk, kid: "tee", ...mark }, { ...other, use: "enc" }));
      expect(found.kid).toBe("tee");
      expect(found.publicKey.equals(KEYS.tee.publicKey)).toBe(true);
    }
  });

  it("takes padded base64url, as sidecars send it, and a key without kid", () => {
    const padded = { ...jwk, n: `${jwk["n"] as string}==`, use: "enc" };
    expect(findWrappingKey(claims(padded)).publicKey.equals(KEYS.tee.publicKey)).toBe(true);
    expect(findWrappingKey(claims(padded)).kid).toBe("");
  });

  const small = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey.export({ format: "jwk" }) as JsonObject;
  it.each<readonly [string, JsonObject, RegExp]>([
    ["no runtime data", {}, /no wrapping key/],
    ["runtime data that is no object", { "x-ms-runtime": "keys" }, /no wrapping key/],
    ["no keys", { "x-ms-runtime": {} }, /no wrapping key/],
    ["an empty list", claims(), /no wrapping key/],
    ["a key for signing", claims({ ...jwk, use: "sig" }), /no wrapping key/],
    ["a key with other operations", claims({ ...jwk, key_ops: ["verify"] }), /no wrapping key/],
    ["a key without a use", claims(jwk), /no wrapping key/],
    ["a symmetric key", claims({ kty: "oct", k: "AAAA", use: "enc" }), /no wrapping key/],
    ["a small key", claims({ ...small, use: "enc" }), /1024 bits/],
    ["a modulus that is no base64", claims({ ...jwk, n: "*", use: "enc" }), /not usable/],
    ["no modulus", claims({ kty: "RSA", e: "AQAB", use: "enc" }), /not usable/],
  ])("refuses %s", (_what, token, message) => {
    expect(() => findWrappingKey(token)).toThrow(message);
    expect(() => findWrappingKey(token)).toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_TOKEN" }));
  });
});
