import { createPrivateKey } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { calculateJwkThumbprint } from "jose";
import { describe, expect, it } from "vitest";
import { asObject, fromBase64url, parseJson, toHex } from "@sealpod/core";
import { generateWrappingKey, keyToJwk, unwrapKey } from "./wrapping-key.ts";

const VECTORS = "../shared/vectors/attestation/sidecar/keywrap/ckm-rsa-aes-key-wrap.json";

interface Vectors {
  readonly private_key_pem: string;
  readonly cases: readonly { readonly name: string; readonly enc: string; readonly ciphertext_b64url: string; readonly plaintext_hex?: string }[];
}

describe("wrapping keys", () => {
  it("are RSA-2048 and name themselves by their thumbprint (RFC 7638)", async () => {
    const { kid, jwks, privateKey } = await generateWrappingKey();
    const { keys } = JSON.parse(jwks) as { keys: Record<string, unknown>[] };
    expect(keys).toEqual([{ e: "AQAB", key_ops: ["encrypt"], kid, kty: "RSA", n: expect.any(String) }]);
    expect(kid).toBe(await calculateJwkThumbprint({ kty: "RSA", e: "AQAB", n: keys[0]?.["n"] as string }));
    expect(privateKey.asymmetricKeyDetails).toMatchObject({ modulusLength: 2048, publicExponent: 65537n });
    // The private half is no member of what leaves the sidecar.
    expect(Object.keys(asObject(parseJson(jwks)) ?? {})).toEqual(["keys"]);
    expect(jwks).not.toContain('"d"');
  });

  it.skipIf(!existsSync(VECTORS))("open what a genuine managed HSM wrapped (vectors: ../shared/vectors)", () => {
    const vectors = JSON.parse(readFileSync(VECTORS, "utf8")) as Vectors;
    const key = createPrivateKey({ key: Buffer.from(vectors.private_key_pem, "base64"), format: "der", type: "pkcs1" });
    expect(vectors.cases.map((row) => row.name)).toEqual(["success", "different_enc", "invalid_enc"]);
    for (const row of vectors.cases) {
      const open = (): string => toHex(unwrapKey(key, row.enc, fromBase64url(row.ciphertext_b64url)));
      if (row.plaintext_hex === undefined) expect(open).toThrow(expect.objectContaining({ code: "ERR_SKR_RELEASED_KEY" }));
      else expect(open()).toBe(row.plaintext_hex);
    }
  });
});

describe("keyToJwk", () => {
  it.each(["oct", "oct-HSM"])("takes %s as raw bytes", (kty) => {
    expect(keyToJwk(kty, Uint8Array.of(0xfb, 0xff))).toEqual({ kty: "oct", k: "-_8" });
  });

  it.each(["", "OCT", "RSA-HSM-HSM", "okp"])("refuses type %j", (kty) => {
    expect(() => keyToJwk(kty, new Uint8Array(32))).toThrow(expect.objectContaining({ code: "ERR_SKR_RELEASED_KEY" }));
  });
});
