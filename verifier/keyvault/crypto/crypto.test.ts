import {
  constants,
  createECDH,
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  privateDecrypt,
  privateEncrypt,
  publicEncrypt,
  sign,
  verify,
  webcrypto,
  type KeyObject,
} from "node:crypto";
import { describe, expect, it } from "vitest";
import fc from "fast-check";
import { fromHex, toHex, type Random } from "@sealpod/core";
import { KEYS, random } from "../testdata/world.ts";
import { decryptCbc, decryptGcm, encryptCbc, encryptGcm, unwrapAes, wrapAes } from "./aes.ts";
import {
  ALGORITHMS,
  decryptWith,
  encryptWith,
  findAlgorithm,
  keyTypeOf,
  needsSecret,
  signWith,
  usesOf,
  verifyWith,
  type Algorithm,
  type OperationKey,
} from "./index.ts";
import { verifyPss } from "./rsa.ts";

const hex = (text: string): Uint8Array => fromHex(text.replaceAll(" ", "").toLowerCase());
const refusal = (message: RegExp): object =>
  expect.objectContaining({ code: "ERR_KEYVAULT_BAD_PARAMETER", message: expect.stringMatching(message) as string }) as object;

function operationKey(type: "RSA" | "EC", key: KeyObject, crv?: string): OperationKey {
  const { n, e, x, y } = createPublicKey(key).export({ format: "jwk" });
  return {
    type,
    publicMembers: type === "RSA" ? { n: n ?? "", e: e ?? "" } : { crv: crv ?? "", x: x ?? "", y: y ?? "" },
    secret: new Uint8Array(key.export({ type: "pkcs8", format: "der" })),
  };
}
const octKey = (secret: Uint8Array): OperationKey => ({ type: "oct", publicMembers: {}, secret });
const algorithm = (name: string): Algorithm => ALGORITHMS.get(name) ?? expect.fail(`no ${name}`);

const RSA = operationKey("RSA", KEYS.tee.privateKey);
const OTHER_RSA = operationKey("RSA", KEYS.attacker.privateKey);
const CURVES: Readonly<Record<string, readonly [curve: string, algorithm: string, hash: string]>> = {
  "P-256": ["prime256v1", "ES256", "sha256"],
  "P-256K": ["secp256k1", "ES256K", "sha256"],
  "P-384": ["secp384r1", "ES384", "sha384"],
  "P-521": ["secp521r1", "ES512", "sha512"],
};
const EC = Object.fromEntries(Object.entries(CURVES).map(([crv, [namedCurve]]) => [crv, generateKeyPairSync("ec", { namedCurve }).privateKey]));
const ecKey = (crv: string): KeyObject => EC[crv] ?? expect.fail(crv);

describe("AES key wrap", () => {
  // RFC 3394 section 4.
  it.each([
    ["4.1", "000102030405060708090A0B0C0D0E0F", "00112233445566778899AABBCCDDEEFF", "1FA68B0A8112B447 AEF34BD8FB5A7B82 9D3E862371D2CFE5"],
    ["4.2", "000102030405060708090A0B0C0D0E0F1011121314151617", "00112233445566778899AABBCCDDEEFF", "96778B25AE6CA435 F92B5B97C050AED2 468AB8A17AD84E5D"],
    [
      "4.3",
      "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
      "00112233445566778899AABBCCDDEEFF",
      "64E8C3F9CE0F5BA2 63E9777905818A2A 93C8191E7D6E8AE7",
    ],
    [
      "4.6",
      "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
      "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
      "28C9F404C4B810F4 CBCCB35CFB87F826 3F5786E2D80ED326 CBC7F0E71A99F43B FB988B9B7A02DD21",
    ],
  ])("agrees with RFC 3394 section %s", (_section, kek, value, wrapped) => {
    expect(wrapAes(hex(kek), hex(value), false)).toEqual(hex(wrapped));
    expect(unwrapAes(hex(kek), hex(wrapped), false)).toEqual(hex(value));
  });

  // RFC 5649 section 6.
  it.each([
    ["20 octets", "c37b7e6492584340bed12207808941155068f738", "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"],
    ["7 octets", "466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"],
  ])("agrees with RFC 5649 for %s", (_what, value, wrapped) => {
    const kek = hex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8");
    expect(wrapAes(kek, hex(value), true)).toEqual(hex(wrapped));
    expect(unwrapAes(kek, hex(wrapped), true)).toEqual(hex(value));
  });

  it("says one and the same of whatever does not unwrap, and of lengths what is wrong", () => {
    const kek = new Uint8Array(32).fill(7);
    const wrapped = wrapAes(kek, new Uint8Array(24).fill(1), true);
    const messages = new Set<string>();
    for (let index = 0; index < wrapped.length; index++) {
      const changed = Uint8Array.from(wrapped);
      changed[index] = (changed[index] ?? 0) ^ 1;
      try {
        unwrapAes(kek, changed, true);
        expect.fail("unwrapped");
      } catch (error) {
        messages.add((error as Error).message);
      }
    }
    // A value that was wrapped in the other way fails alike.
    for (const padding of [true, false]) {
      try {
        unwrapAes(kek, wrapAes(kek, new Uint8Array(24).fill(1), !padding), padding);
        expect.fail("unwrapped");
      } catch (error) {
        messages.add((error as Error).message);
      }
    }
    expect([...messages]).toEqual(["The value cannot be decrypted with this key and algorithm."]);
    for (const [value, padding] of [
      [0, true],
      [8, false],
      [17, false],
    ] as const)
      expect(() => wrapAes(kek, new Uint8Array(value), padding)).toThrow(refusal(/to be wrapped so, found/));
    for (const [value, padding] of [
      [8, true],
      [16, false],
      [25, false],
    ] as const)
      expect(() => unwrapAes(kek, new Uint8Array(value), padding)).toThrow(refusal(/to be unwrapped so, found/));
  });
});

describe("AES-GCM", () => {
  // Test case 16 of the GCM specification (McGrew and Viega), as NIST SP 800-38D cites it.
  const key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
  const iv = hex("cafebabefacedbaddecaf888");
  const aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
  const plaintext = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
  const ciphertext = hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662");
  const tag = hex("76fc6ece0f4e1768cddf8853bb2d551b");
  const fixed: Random = { bytes: (length) => iv.slice(0, length) };

  it("agrees with test case 16", () => {
    expect(encryptGcm(key, { value: plaintext, aad }, fixed)).toEqual({ value: ciphertext, iv, aad, tag });
    expect(decryptGcm(key, { value: ciphertext, iv, aad, tag }).value).toEqual(plaintext);
  });

  it("agrees with WebCrypto for every key size", async () => {
    for (const size of [16, 24, 32]) {
      const secret = random.bytes(size);
      const sealed = encryptGcm(secret, { value: plaintext, aad }, random);
      // WebCrypto has no AES-192 in some implementations; node's has.
      const imported = await webcrypto.subtle.importKey("raw", Uint8Array.from(secret), "AES-GCM", false, ["decrypt"]);
      const joined = Uint8Array.from([...sealed.value, ...(sealed.tag ?? [])]);
      const opened = await webcrypto.subtle.decrypt(
        { name: "AES-GCM", iv: Uint8Array.from(sealed.iv ?? []), additionalData: Uint8Array.from(aad) },
        imported,
        joined,
      );
      expect(new Uint8Array(opened)).toEqual(plaintext);
    }
  });

  it("takes no nonce of the caller, and makes another each time", () => {
    expect(() => encryptGcm(key, { value: plaintext, iv }, random)).toThrow(refusal(/iv must not be given/));
    const nonces = Array.from({ length: 50 }, () => toHex(encryptGcm(key, { value: plaintext }, random).iv ?? new Uint8Array()));
    expect(new Set(nonces).size).toBe(50);
  });

  it("opens nothing that was changed, and no short tag", () => {
    const parts = { value: ciphertext, iv, aad, tag };
    for (const name of ["value", "iv", "aad", "tag"] as const) {
      const changed = Uint8Array.from(parts[name]);
      changed[3] = (changed[3] ?? 0) ^ 0x80;
      expect(() => decryptGcm(key, { ...parts, [name]: changed })).toThrow(refusal(/^The value cannot be decrypted/));
    }
    expect(() => decryptGcm(key, { ...parts, aad: undefined })).toThrow(refusal(/^The value cannot be decrypted/));
    for (const length of [0, 4, 12, 15, 17])
      expect(() => decryptGcm(key, { ...parts, tag: new Uint8Array(length) })).toThrow(refusal(/tag must have 16 bytes/));
    for (const length of [0, 8, 16]) expect(() => decryptGcm(key, { ...parts, iv: new Uint8Array(length) })).toThrow(refusal(/iv must have 12 bytes/));
    expect(() => decryptGcm(key, { ...parts, iv: undefined })).toThrow(refusal(/found none/));
    expect(() => decryptGcm(key, { ...parts, tag: undefined })).toThrow(refusal(/found none/));
  });
});

describe("AES-CBC", () => {
  // NIST SP 800-38A sections F.2.1, F.2.3 and F.2.5, first two blocks.
  const iv = hex("000102030405060708090a0b0c0d0e0f");
  const plaintext = hex("6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51");
  it.each([
    [128, "2b7e151628aed2a6abf7158809cf4f3c", "7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2"],
    [192, "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b", "4f021db243bc633d7178183a9fa071e8 b4d9ada9ad7dedf4e5e738763f69145a"],
    [256, "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", "f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d"],
  ])("agrees with SP 800-38A for %i bits", (_bits, key, ciphertext) => {
    expect(encryptCbc(hex(key), { value: plaintext, iv }, false, random).value).toEqual(hex(ciphertext));
    expect(decryptCbc(hex(key), { value: hex(ciphertext), iv }, false).value).toEqual(plaintext);
    // With padding there is one block more, and the first ones are the same.
    const padded = encryptCbc(hex(key), { value: plaintext, iv }, true, random);
    expect(padded.value.subarray(0, 32)).toEqual(hex(ciphertext));
    expect(padded.value).toHaveLength(48);
    expect(decryptCbc(hex(key), { value: padded.value, iv }, true).value).toEqual(plaintext);
  });

  it("refuses lengths that are none, additional data, and paddings with one text", () => {
    const key = new Uint8Array(16);
    for (const length of [0, 1, 15, 17]) {
      expect(() => encryptCbc(key, { value: new Uint8Array(length), iv }, false, random)).toThrow(refusal(/multiple of 16/));
      expect(() => decryptCbc(key, { value: new Uint8Array(length), iv }, false)).toThrow(refusal(/multiple of 16/));
    }
    expect(() => decryptCbc(key, { value: new Uint8Array(0), iv }, true)).toThrow(refusal(/multiple of 16/));
    // Who gives no vector gets a new one each time: clients that mean to make one themselves forget it.
    const made = [1, 2].map(() => encryptCbc(key, { value: plaintext }, true, random));
    expect(made[0]?.iv).not.toEqual(made[1]?.iv);
    for (const sealed of made) expect(decryptCbc(key, sealed, true).value).toEqual(plaintext);
    expect(() => decryptCbc(key, { value: plaintext }, true)).toThrow(refusal(/iv must have 16 bytes.*found none/));
    expect(() => encryptCbc(key, { value: plaintext, iv: iv.subarray(1) }, true, random)).toThrow(refusal(/found 15/));
    expect(() => encryptCbc(key, { value: plaintext, iv, aad: iv }, true, random)).toThrow(refusal(/aad/));
    const sealed = encryptCbc(key, { value: new Uint8Array(20), iv }, true, random).value;
    for (const value of [sealed.subarray(0, 16), sealed.subarray(0, 20)])
      expect(() => decryptCbc(key, { value, iv }, true)).toThrow(refusal(/^The value cannot be decrypted/));
  });
});

describe("RSA encryption", () => {
  it.each([
    ["RSA1_5", { padding: constants.RSA_PKCS1_PADDING }, 245],
    ["RSA-OAEP", { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha1" }, 214],
    ["RSA-OAEP-256", { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" }, 190],
  ] as const)("%s is what node:crypto does with this padding, both ways, up to its length", (name, padding, most) => {
    for (const length of [0, 1, 32, most]) {
      const value = random.bytes(length);
      const encrypted = encryptWith(algorithm(name), RSA, { value }, random).value;
      expect(new Uint8Array(privateDecrypt({ key: KEYS.tee.privateKey, ...padding }, encrypted))).toEqual(value);
      const theirs = new Uint8Array(publicEncrypt({ key: KEYS.tee.publicKey, ...padding }, value));
      expect(decryptWith(algorithm(name), RSA, { value: theirs })).toEqual(value);
    }
    expect(() => encryptWith(algorithm(name), RSA, { value: new Uint8Array(most + 1) }, random)).toThrow(refusal(new RegExp(`more than the ${most}`)));
    for (const length of [0, 255, 257]) expect(() => decryptWith(algorithm(name), RSA, { value: new Uint8Array(length) })).toThrow(refusal(/256 bytes/));
  });

  it("says one and the same of every OAEP text that does not decrypt", () => {
    const value = encryptWith(algorithm("RSA-OAEP-256"), RSA, { value: new Uint8Array(9) }, random).value;
    const larger = new Uint8Array(256).fill(0xff);
    for (const [key, text, name] of [
      [OTHER_RSA, value, "RSA-OAEP-256"],
      [RSA, value, "RSA-OAEP"],
      [RSA, new Uint8Array(256).fill(1), "RSA-OAEP-256"],
      [RSA, larger, "RSA-OAEP-256"],
      [RSA, larger, "RSA1_5"],
    ] as const)
      expect(() => decryptWith(algorithm(name), key, { value: text })).toThrow(refusal(/^The value cannot be decrypted with this key and algorithm\.$/));
  });

  it("gives a text for every PKCS#1 v1.5 padding, so that nobody learns which were right (implicit rejection)", () => {
    const raw = (block: Uint8Array): Uint8Array => new Uint8Array(publicEncrypt({ key: KEYS.tee.publicKey, padding: constants.RSA_NO_PADDING }, block));
    const block = (start: readonly number[], end: readonly number[]): Uint8Array =>
      Uint8Array.from([...start, ...Array.from({ length: 256 - start.length - end.length }, () => 0xaa), ...end]);
    const right = decryptWith(algorithm("RSA1_5"), RSA, { value: raw(block([0, 2], [0, 1, 2, 3])) });
    expect(right).toEqual(Uint8Array.of(1, 2, 3));
    for (const wrong of [block([0, 1], [0, 1, 2, 3]), block([1, 2], [0, 1, 2, 3]), block([0, 2], [1, 2, 3]), block([0, 2, 1, 0], [0, 1, 2, 3])]) {
      const once = decryptWith(algorithm("RSA1_5"), RSA, { value: raw(wrong) });
      expect(once).not.toEqual(Uint8Array.of(1, 2, 3));
      // The same each time: what changed would show that it is made up.
      expect(decryptWith(algorithm("RSA1_5"), RSA, { value: raw(wrong) })).toEqual(once);
    }
  });
});

describe("signatures", () => {
  const message = new TextEncoder().encode("what is signed");
  const digestOf = (hash: string, text: Uint8Array = message): Uint8Array => new Uint8Array(createHash(hash).update(text).digest());
  const RSA_SIGNATURES = (["256", "384", "512"] as const).flatMap((bits) => [[`RS${bits}`, `sha${bits}`] as const, [`PS${bits}`, `sha${bits}`] as const]);
  const padding = (name: string): object =>
    name.startsWith("RS")
      ? { padding: constants.RSA_PKCS1_PADDING }
      : { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };

  it.each(RSA_SIGNATURES)("%s is what node:crypto makes and verifies over the message", (name, hash) => {
    const signature = signWith(algorithm(name), RSA, digestOf(hash), random);
    expect(verify(hash, message, { key: KEYS.tee.publicKey, ...padding(name) }, signature)).toBe(true);
    const theirs = new Uint8Array(sign(hash, message, { key: KEYS.tee.privateKey, ...padding(name) }));
    expect(verifyWith(algorithm(name), RSA, digestOf(hash), theirs)).toBe(true);
    if (name.startsWith("RS")) expect(signature).toEqual(theirs);
  });

  it.each(Object.entries(CURVES))("on %s agrees with node:crypto over the message", (crv, [, name, hash]) => {
    const key = operationKey("EC", ecKey(crv), crv);
    for (let round = 0; round < 8; round++) {
      const text = random.bytes(round * 7);
      const signature = signWith(algorithm(name), key, digestOf(hash, text), random);
      const publicKey = createPublicKey(ecKey(crv));
      expect(verify(hash, text, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature)).toBe(true);
      const theirs = new Uint8Array(sign(hash, text, { key: ecKey(crv), dsaEncoding: "ieee-p1363" }));
      expect(verifyWith(algorithm(name), key, digestOf(hash, text), theirs)).toBe(true);
      expect(signature).not.toEqual(theirs);
    }
  });

  // RFC 6979 appendices A.2.5 to A.2.7, message "sample".
  it.each([
    [
      "P-256",
      "60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6",
      "7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
      "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716 F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
    ],
    [
      "P-384",
      "EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A254515480BC13",
      "8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720",
      "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46 99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
    ],
  ])("verifies the signature of RFC 6979 on %s", (crv, x, y, signature) => {
    const [, name, hash] = CURVES[crv] ?? expect.fail(crv);
    const key: OperationKey = {
      type: "EC",
      publicMembers: { crv, x: Buffer.from(hex(x)).toString("base64url"), y: Buffer.from(hex(y)).toString("base64url") },
      secret: new Uint8Array(),
    };
    const digest = digestOf(hash, new TextEncoder().encode("sample"));
    expect(verifyWith(algorithm(name), key, digest, hex(signature))).toBe(true);
    expect(verifyWith(algorithm(name), key, digestOf(hash, new TextEncoder().encode("test")), hex(signature))).toBe(false);
  });

  it("agrees with RFC 4231 section 4.3 for HMAC", () => {
    const key = octKey(new TextEncoder().encode("Jefe"));
    const data = new TextEncoder().encode("what do ya want for nothing?");
    expect(toHex(signWith(algorithm("HS256"), key, data, random))).toBe("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    expect(toHex(signWith(algorithm("HS384"), key, data, random))).toBe(
      "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
    );
    expect(verifyWith(algorithm("HS512"), key, data, signWith(algorithm("HS512"), key, data, random))).toBe(true);
    expect(verifyWith(algorithm("HS512"), key, data, signWith(algorithm("HS256"), key, data, random))).toBe(false);
  });

  const keyOf = (of: Algorithm): OperationKey =>
    of.kind === "hmac" ? octKey(new Uint8Array(64).fill(3)) : of.kind === "ecdsa" ? operationKey("EC", ecKey(of.curve), of.curve) : RSA;
  const SIGNATURES = [...ALGORITHMS].filter(([, of]) => usesOf(of).includes("sign"));

  it.each(SIGNATURES)("%s verifies what it signs, and nothing that was changed", (_name, of) => {
    const key = keyOf(of);
    const hash = "hash" in of ? of.hash : expect.fail();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.nat(), fc.nat(), (text, at, bit) => {
        const digest = digestOf(hash, text);
        const signature = signWith(of, key, digest, random);
        expect(verifyWith(of, key, digest, signature)).toBe(true);
        const flip = (bytes: Uint8Array): Uint8Array => bytes.map((byte, index) => (index === at % bytes.length ? byte ^ (1 << (bit % 8)) : byte));
        expect(verifyWith(of, key, flip(digest), signature)).toBe(false);
        expect(verifyWith(of, key, digest, flip(signature))).toBe(false);
        expect(verifyWith(of, key, digest, signature.subarray(1))).toBe(false);
        expect(verifyWith(of, key, digest, Uint8Array.from([...signature, 0]))).toBe(false);
      }),
      { numRuns: 6 },
    );
    expect(verifyWith(of, key, digestOf(hash), new Uint8Array())).toBe(false);
  });

  it.each(SIGNATURES.filter(([, of]) => of.kind !== "hmac"))("%s takes digests of its own length alone", (_name, of) => {
    for (const length of [0, 20, 31, 33, 47, 49, 63, 65]) {
      expect(() => signWith(of, keyOf(of), new Uint8Array(length), random)).toThrow(refusal(/digest must have the/));
      expect(() => verifyWith(of, keyOf(of), new Uint8Array(length), new Uint8Array(64))).toThrow(refusal(/digest must have the/));
    }
  });

  it("refuses ECDSA signatures whose numbers are out of range", () => {
    const key = operationKey("EC", ecKey("P-256"), "P-256");
    const order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    const one = "1".padStart(64, "0");
    const zero = "0".repeat(64);
    for (const [r, s] of [
      [zero, one],
      [one, zero],
      [order, one],
      [one, order],
      [one, one],
      ["f".repeat(64), "f".repeat(64)],
    ] as const)
      expect(verifyWith(algorithm("ES256"), key, digestOf("sha256"), hex(r + s))).toBe(false);
  });

  it("verifies ECDSA also where the sum of the points is no point, or the same one twice", () => {
    // Who knows the private key can aim at the exceptions of the arithmetic: digests for which Q and the point that is added are one, or opposite.
    const n = BigInt("0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    const mod = (value: bigint): bigint => ((value % n) + n) % n;
    const number = (bytes: Uint8Array): bigint => BigInt(`0x${toHex(bytes)}`);
    const bytes = (value: bigint): Uint8Array => hex(value.toString(16).padStart(64, "0"));
    const power = (base: bigint, exponent: bigint): bigint => {
      let result = 1n;
      for (let b = mod(base), e = exponent; e > 0n; e >>= 1n, b = mod(b * b)) if ((e & 1n) === 1n) result = mod(result * b);
      return result;
    };
    const d = number(Buffer.from(ecKey("P-256").export({ format: "jwk" }).d ?? "", "base64url"));
    const own = number(digestOf("sha256", Uint8Array.of(0)));
    const nonce = createECDH("prime256v1");
    const r = mod(number(new Uint8Array(nonce.generateKeys().subarray(1, 33))));
    const k = number(new Uint8Array(nonce.getPrivateKey()));
    for (const t of [d, mod(-d), 0n]) {
      const z = mod(own + t * r);
      const s = mod(power(k, n - 2n) * (z + r * d));
      const signature = Uint8Array.from([...bytes(r), ...bytes(s)]);
      const key = operationKey("EC", ecKey("P-256"), "P-256");
      expect(verifyWith(algorithm("ES256"), key, bytes(z), signature)).toBe(true);
      expect(verifyWith(algorithm("ES256"), key, bytes(mod(z + 1n)), signature)).toBe(false);
    }
  });

  it("refuses RSA signatures with more in them than they need", () => {
    const digest = digestOf("sha256");
    const raw = (block: Uint8Array): Uint8Array => new Uint8Array(privateEncrypt({ key: KEYS.tee.privateKey, padding: constants.RSA_NO_PADDING }, block));
    const info = hex("3031300d060960864801650304020105000420");
    const noParameters = hex("302f300b0609608648016503040201 0420");
    const fill = (end: Uint8Array, trailing: number): Uint8Array =>
      Uint8Array.from([0, 1, ...Array.from({ length: 256 - 3 - end.length - 32 - trailing }, () => 0xff), 0, ...end, ...digest, ...new Uint8Array(trailing)]);
    expect(verifyWith(algorithm("RS256"), RSA, digest, raw(fill(info, 0)))).toBe(true);
    expect(verifyWith(algorithm("RS256"), RSA, digest, raw(fill(info, 100)))).toBe(false);
    expect(verifyWith(algorithm("RS256"), RSA, digest, raw(fill(noParameters, 0)))).toBe(false);
    expect(verifyWith(algorithm("RS384"), RSA, digestOf("sha384"), raw(fill(info, 0)))).toBe(false);
    // PSS with a salt of another length, which other verifiers take.
    for (const saltLength of [0, 20, 48]) {
      const signature = new Uint8Array(sign("sha256", message, { key: KEYS.tee.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength }));
      expect(verifyWith(algorithm("PS256"), RSA, digest, signature)).toBe(false);
    }
    // And PSS with the right hash, but other bytes where the zeros and the one belong (RFC 8017 section 9.1.2 step 10).
    const salt = new Uint8Array(32).fill(6);
    const h = createHash("sha256").update(new Uint8Array(8)).update(digest).update(salt).digest();
    const mask = Buffer.concat(
      [0, 1, 2, 3, 4, 5, 6].map((counter) =>
        createHash("sha256")
          .update(h)
          .update(Uint8Array.of(0, 0, 0, counter))
          .digest(),
      ),
    );
    const pssWith = (start: readonly number[], separator: number): Uint8Array => {
      const block = Uint8Array.from([...start, ...new Uint8Array(256 - 33 - 32 - start.length - 1), separator, ...salt]).map(
        (byte, at) => byte ^ (mask[at] ?? 0),
      );
      block[0] = (block[0] ?? 0) & 0x7f;
      return raw(Uint8Array.from([...block, ...h, 0xbc]));
    };
    expect(verifyWith(algorithm("PS256"), RSA, digest, pssWith([], 1))).toBe(true);
    for (const wrong of [pssWith([0, 1], 1), pssWith([0x40], 1), pssWith([], 0), pssWith([], 2)])
      expect(verifyWith(algorithm("PS256"), RSA, digest, wrong)).toBe(false);
    const pss = signWith(algorithm("PS256"), RSA, digest, random);
    expect(verifyPss(KEYS.tee.publicKey, "sha256", digest, pss)).toBe(true);
    expect(verifyPss(KEYS.tee.publicKey, "sha256", digest, new Uint8Array(256).fill(0xff))).toBe(false);
  });
});

describe("algorithms", () => {
  const ENCRYPTIONS = [...ALGORITHMS].filter(([, of]) => usesOf(of).includes("encrypt") || usesOf(of).includes("wrapKey"));
  const keysOf = (of: Algorithm): readonly OperationKey[] => {
    if (of.kind === "rsa") return [RSA];
    const sizes = "size" in of && of.size !== undefined ? [of.size] : [128, 192, 256];
    return sizes.map((size) => octKey(random.bytes(size / 8)));
  };

  it.each(ENCRYPTIONS)("%s gives back what it was given, and something else to other keys", (_name, of) => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 2, maxLength: 11 }), fc.uint8Array({ maxLength: 9 }), (part, aad) => {
        // A multiple of 16 fits every mode.
        const value = new Uint8Array(
          of.kind === "cbcpad" || of.kind === "gcm" || of.kind === "kwp" ? part : Array.from({ length: 8 }, () => [part[0] ?? 0, part[1] ?? 0]).flat(),
        );
        const iv = of.kind === "cbc" || of.kind === "cbcpad" ? random.bytes(16) : undefined;
        for (const key of keysOf(of)) {
          const sealed = encryptWith(of, key, { value, iv, aad: of.kind === "gcm" ? aad : undefined }, random);
          expect(sealed.value).not.toEqual(value);
          expect(decryptWith(of, key, { ...sealed, iv: sealed.iv ?? iv })).toEqual(value);
          const other = of.kind === "rsa" ? OTHER_RSA : octKey(key.secret.map((byte) => byte ^ 1));
          let opened: Uint8Array | undefined;
          try {
            opened = decryptWith(of, other, { ...sealed, iv: sealed.iv ?? iv });
          } catch (error) {
            expect(error).toEqual(refusal(/^The value cannot be decrypted with this key and algorithm\.$/));
          }
          expect(opened).not.toEqual(value);
        }
      }),
      { numRuns: 5 },
    );
  });

  it("needs a key of the right kind, curve and size", () => {
    expect(() => findAlgorithm("RS256", "sign", octKey(new Uint8Array(32)))).toThrow(
      refusal(/type 'oct', and algorithm 'RS256' can only be used with a key of type 'RSA' or 'RSA-HSM'/),
    );
    expect(() => findAlgorithm("ES384", "sign", operationKey("EC", ecKey("P-256"), "P-256"))).toThrow(refusal(/curve 'P-256'.*only be used with 'P-384'/));
    expect(() => findAlgorithm("ES256", "sign", operationKey("EC", ecKey("P-256K"), "P-256K"))).toThrow(refusal(/curve 'P-256K'/));
    expect(() => findAlgorithm("A256GCM", "wrapKey", octKey(new Uint8Array(32)))).toThrow(refusal(/not supported for wrapKey, expected A128KW/));
    expect(() => findAlgorithm("A256KW", "encrypt", octKey(new Uint8Array(32)))).toThrow(refusal(/not supported for encrypt/));
    expect(() => findAlgorithm("RSA-OAEP", "encrypt", operationKey("EC", ecKey("P-256"), "P-256"))).toThrow(refusal(/incompatible/));
    for (const name of ["RSNULL", "RSA-OAEP-512", "rs256", "__proto__", "constructor", "", "x".repeat(10_000)])
      expect(() => findAlgorithm(name, "sign", RSA)).toThrow(refusal(/not supported for sign, expected RS256/));
    for (const size of [0, 3, 16, 24, 33, 64])
      expect(() => encryptWith(algorithm("A256GCM"), octKey(new Uint8Array(size)), { value: new Uint8Array(16) }, random)).toThrow(refusal(/needs 256/));
    expect(() => encryptWith(algorithm("CKM_AES_KEY_WRAP"), octKey(new Uint8Array(64)), { value: new Uint8Array(16) }, random)).toThrow(
      refusal(/128, 192 or 256/),
    );
    for (const name of ["iv", "aad", "tag"])
      expect(() => encryptWith(algorithm("RSA-OAEP"), RSA, { value: new Uint8Array(16), [name]: new Uint8Array(12) }, random)).toThrow(
        refusal(/must not be given/),
      );
  });

  it("opens the secret of a key only where the public half does not do", () => {
    const uses = [...ALGORITHMS].flatMap(([name, of]) => usesOf(of).map((use) => ({ name, use, type: keyTypeOf(of), secret: needsSecret(of, use) })));
    for (const { type, use, secret } of uses) expect(secret).toBe(type === "oct" || ["decrypt", "unwrapKey", "sign"].includes(use));
  });

  it("works with keys from PKCS#8 that lie in the middle of a buffer", () => {
    const der = KEYS.tee.privateKey.export({ type: "pkcs8", format: "der" });
    const room = new Uint8Array(der.length + 20);
    room.set(der, 10);
    const digest = new Uint8Array(32).fill(1);
    const signature = signWith(algorithm("RS256"), { ...RSA, secret: room.subarray(10, 10 + der.length) }, digest, random);
    expect(verifyWith(algorithm("RS256"), RSA, digest, signature)).toBe(true);
    expect(createPrivateKey({ key: der, format: "der", type: "pkcs8" }).equals(KEYS.tee.privateKey)).toBe(true);
  });
});
