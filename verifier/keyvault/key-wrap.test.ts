import {
  constants,
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  privateDecrypt,
  randomBytes,
  type KeyObject,
} from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { JsonObject } from "@sealpod/core";
import { findWrappingKey, parseWrapAlgorithm, wrapKey, type WrapAlgorithm } from "./key-wrap.ts";
import { KEYS } from "./testdata/release-world.ts";

const VECTORS = new URL("../../../shared/vectors/attestation/sidecar/keywrap/", import.meta.url);
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };
const KWP_IV = Buffer.from("A65959A6", "hex");

/** The client's half of the wrapping, written from specs/attestation.md 5.5.6. */
function unwrap(enc: string, teeKey: KeyObject, ciphertext: Uint8Array): Buffer {
  const oaepHash = { CKM_RSA_AES_KEY_WRAP: "sha1", RSA_AES_KEY_WRAP_256: "sha256", RSA_AES_KEY_WRAP_384: "sha384" }[enc];
  if (oaepHash === undefined) throw new Error(`unknown ${enc}`);
  const modulus = (teeKey.asymmetricKeyDetails?.modulusLength ?? 0) / 8;
  const kek = privateDecrypt({ key: teeKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, ciphertext.subarray(0, modulus));
  const decipher = createDecipheriv("id-aes256-wrap-pad", kek, KWP_IV);
  return Buffer.concat([decipher.update(ciphertext.subarray(modulus)), decipher.final()]);
}

const present = existsSync(VECTORS);

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
  it.skipIf(!present)("is the inverse of what opens the recorded key (skipped without ../shared/vectors/attestation)", () => {
    const vectors = JSON.parse(readFileSync(new URL("ckm-rsa-aes-key-wrap.json", VECTORS), "utf8")) as {
      private_key_pem: string;
      cases: { name: string; enc: string; ciphertext_b64url: string; plaintext_hex?: string }[];
    };
    const key = createPrivateKey({ key: Buffer.from(vectors.private_key_pem, "base64"), format: "der", type: "pkcs1" });
    const recorded = vectors.cases.find(({ name }) => name === "success");
    expect(unwrap("CKM_RSA_AES_KEY_WRAP", key, Buffer.from(recorded?.ciphertext_b64url ?? "", "base64url")).toString("hex")).toBe(recorded?.plaintext_hex);
    for (const other of vectors.cases.filter(({ plaintext_hex: plaintext }) => plaintext === undefined))
      expect(() => unwrap(other.enc, key, Buffer.from(other.ciphertext_b64url, "base64url"))).toThrow();
    const plaintext = Buffer.from(recorded?.plaintext_hex ?? "", "hex");
    expect(unwrap("CKM_RSA_AES_KEY_WRAP", key, wrapKey("CKM_RSA_AES_KEY_WRAP", createPublicKey(key), plaintext, random))).toEqual(plaintext);
  });
});

describe.skipIf(!present)("RFC 5649 (skipped without ../shared/vectors/attestation)", () => {
  // The cipher that wraps, against the published examples, which are for keys of 192 bits.
  it("is what the cipher id-aes*-wrap-pad does", () => {
    const vectors = JSON.parse(readFileSync(new URL("rfc5649.json", VECTORS), "utf8")) as {
      kek: string;
      cases: { kek?: string; wrapped: string; key?: string }[];
    };
    const done = { opened: 0, refused: 0 };
    for (const { kek = vectors.kek, wrapped, key } of vectors.cases) {
      const open = (): string => {
        const decipher = createDecipheriv("id-aes192-wrap-pad", Buffer.from(kek, "hex"), KWP_IV);
        return Buffer.concat([decipher.update(wrapped, "hex"), decipher.final()]).toString("hex");
      };
      if (key === undefined) {
        expect(open).toThrow();
        done.refused++;
      } else {
        const cipher = createCipheriv("id-aes192-wrap-pad", Buffer.from(kek, "hex"), KWP_IV);
        expect(Buffer.concat([cipher.update(key, "hex"), cipher.final()]).toString("hex")).toBe(wrapped);
        expect(open()).toBe(key);
        done.opened++;
      }
    }
    expect(done).toEqual({ opened: 2, refused: 1 });
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

  it("takes numbers with zeros in front, and an exponent of any length", () => {
    const n = Buffer.concat([Buffer.alloc(3), Buffer.from(jwk["n"] as string, "base64url")]).toString("base64url");
    expect(findWrappingKey(claims({ ...jwk, n, e: "AAABAAE", use: "enc" })).publicKey.equals(KEYS.tee.publicKey)).toBe(true);
    const { publicKey } = findWrappingKey(claims({ ...jwk, e: "_wAAAAAAAAAB", use: "enc" }));
    expect(publicKey.asymmetricKeyDetails).toEqual({ modulusLength: 2048, publicExponent: 0xff00_0000_0000_0000_01n });
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
    [
      "a small key with zeros in front",
      claims({ ...small, n: Buffer.concat([Buffer.alloc(128), Buffer.from(small["n"] as string, "base64url")]).toString("base64url"), use: "enc" }),
      /1024 bits/,
    ],
    ["an empty modulus", claims({ ...jwk, n: "", use: "enc" }), /0 bits/],
    ["a modulus of nothing but zeros", claims({ ...jwk, n: "AAAA", use: "enc" }), /0 bits/],
    [
      "an even modulus",
      claims({ ...jwk, n: Buffer.concat([Buffer.from(jwk["n"] as string, "base64url").subarray(0, 255), Buffer.of(2)]).toString("base64url"), use: "enc" }),
      /even number/,
    ],
    ["the exponent 3", claims({ ...jwk, e: "Aw", use: "enc" }), /exponent is 3,/],
    ["an even exponent", claims({ ...jwk, e: "AQAC", use: "enc" }), /exponent is 65538/],
    ["no exponent to speak of", claims({ ...jwk, e: "", use: "enc" }), /exponent is 0/],
    ["a modulus that is no base64", claims({ ...jwk, n: "*", use: "enc" }), /not usable/],
    ["no modulus", claims({ kty: "RSA", e: "AQAB", use: "enc" }), /not usable/],
  ])("refuses %s", (_what, token, message) => {
    expect(() => findWrappingKey(token)).toThrow(message);
    expect(() => findWrappingKey(token)).toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_TOKEN" }));
  });
});
