import { createHash, createPublicKey, randomBytes, verify } from "node:crypto";
import type { KeyVaultKey, SignatureAlgorithm } from "@azure/keyvault-keys";
import { errorOf, idOf, sameBytes, type Clients, type Credential, type Scenario } from "./keyvault-clients.ts";

const HASHES: Readonly<Record<string, string>> = { "256": "sha256", "384": "sha384", "512": "sha512" };

function hashOf(algorithm: string): string {
  return HASHES[/\d{3}/.exec(algorithm)?.[0] ?? ""] ?? "";
}

interface Signed {
  /** The vault, the client and node say of the signature that it is one. */
  readonly vault: boolean;
  readonly data: boolean;
  readonly node: boolean | undefined;
  readonly signData: boolean;
  /** What they say when a bit of it is turned. */
  readonly spoilt: boolean;
}

async function signedWith(clients: Clients, key: KeyVaultKey, algorithm: SignatureAlgorithm, credential: Credential): Promise<Signed> {
  const client = clients.cryptography(idOf(key), credential);
  const data = Buffer.from(`signed with ${algorithm}`);
  const digest = createHash(hashOf(algorithm)).update(data).digest();
  const { result } = await client.sign(algorithm, digest);
  const ofData = await client.signData(algorithm, data);
  const spoilt = Buffer.from(result);
  spoilt[10] = (spoilt[10] ?? 0) ^ 1;
  return {
    vault: (await client.verify(algorithm, digest, result)).result,
    data: (await client.verifyData(algorithm, data, ofData.result)).result,
    node: verifiedHere(key, algorithm, data, result),
    signData: (await client.verify(algorithm, digest, ofData.result)).result,
    spoilt: (await client.verify(algorithm, digest, spoilt)).result,
  };
}

/** What node says of a signature; undefined where it has no word for the key. */
function verifiedHere({ key }: KeyVaultKey, algorithm: string, data: Uint8Array, signature: Uint8Array): boolean | undefined {
  const encode = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? new Uint8Array()).toString("base64url");
  if (key?.n !== undefined) {
    const publicKey = createPublicKey({ key: { kty: "RSA", n: encode(key.n), e: encode(key.e) }, format: "jwk" });
    const pss = algorithm.startsWith("PS") ? { padding: 6, saltLength: Number(algorithm.slice(2)) / 8 } : {};
    return verify(hashOf(algorithm), data, { key: publicKey, ...pss }, signature);
  }
  if (key?.crv === undefined) return undefined;
  const crv = key.crv === "P-256K" ? "secp256k1" : key.crv;
  const publicKey = createPublicKey({ key: { kty: "EC", crv, x: encode(key.x), y: encode(key.y) }, format: "jwk" });
  return verify(hashOf(algorithm), data, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature);
}

/** Every signature algorithm, of somebody who may use keys and not read them: nothing is done by the client itself. */
export const signatures: Scenario = async (clients) => {
  const keys = clients.keys();
  const found: Record<string, Signed> = {};
  const rsa = await keys.createRsaKey("signer-rsa", { keySize: 2048, publicExponent: 65_537 });
  for (const algorithm of ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]) found[algorithm] = await signedWith(clients, rsa, algorithm, clients.user);
  for (const [curve, algorithm] of [
    ["P-256", "ES256"],
    ["P-384", "ES384"],
    ["P-521", "ES512"],
    ["P-256K", "ES256K"],
  ] as const) {
    found[algorithm] = await signedWith(clients, await keys.createEcKey(`signer-${curve}`, { curve }), algorithm, clients.user);
  }
  // With the key at hand the client verifies signatures of data itself; for PSS it has the wrong padding in mind (its own fault), so that PKCS #1 alone says something.
  const local = clients.cryptography(rsa);
  const data = Buffer.from("verified by the client");
  const { result } = await local.signData("RS256", data);
  const hsm = await clients.hsmKeys().createEcKey("signer-hsm", { curve: "P-256", hsm: true });
  return {
    found,
    local: [(await local.verifyData("RS256", data, result)).result, (await local.verifyData("RS256", Buffer.from("other"), result)).result],
    hsm: [hsm.keyType, await signedWith(clients, hsm, "ES256", clients.owner)],
  };
};

/** RSA by the client and by the vault, AES by the HSM. */
export const encryption: Scenario = async (clients) => {
  const plaintext = Buffer.from("32 bytes that somebody encrypts.");
  const rsa = await clients.keys().createRsaKey("encrypter", { keySize: 2048 });
  const local = clients.cryptography(rsa);
  const remote = clients.cryptography(idOf(rsa), clients.user);
  const rsaFound: Record<string, readonly boolean[]> = {};
  for (const algorithm of ["RSA1_5", "RSA-OAEP", "RSA-OAEP-256"] as const) {
    const here = await local.encrypt({ algorithm, plaintext });
    const there = await remote.encrypt({ algorithm, plaintext });
    const wrappedHere = await local.wrapKey(algorithm, plaintext);
    const wrappedThere = await remote.wrapKey(algorithm, plaintext);
    rsaFound[algorithm] = [
      sameBytes((await remote.decrypt({ algorithm, ciphertext: here.result })).result, plaintext),
      sameBytes((await remote.decrypt({ algorithm, ciphertext: there.result })).result, plaintext),
      sameBytes((await remote.unwrapKey(algorithm, wrappedHere.result)).result, plaintext),
      sameBytes((await remote.unwrapKey(algorithm, wrappedThere.result)).result, plaintext),
      !sameBytes(here.result, Buffer.from(there.result)),
    ];
  }

  const hsm = clients.hsmKeys();
  const aesFound: Record<string, unknown> = {};
  for (const keySize of [128, 192, 256] as const) {
    const oct = await hsm.createOctKey(`aes-${keySize}`, { keySize, hsm: true });
    const aes = clients.cryptography(idOf(oct));
    const additionalAuthenticatedData = Buffer.from("bound");
    const gcm = await aes.encrypt({ algorithm: `A${keySize}GCM`, plaintext, additionalAuthenticatedData });
    const sealed = {
      algorithm: `A${keySize}GCM`,
      ciphertext: gcm.result,
      iv: gcm.iv ?? new Uint8Array(),
      authenticationTag: gcm.authenticationTag ?? new Uint8Array(),
    } as const;
    const iv = randomBytes(16);
    const padded = await aes.encrypt({ algorithm: `A${keySize}CBCPAD`, plaintext: Buffer.from("odd length"), iv });
    const whole = await aes.encrypt({ algorithm: `A${keySize}CBC`, plaintext, iv });
    const wrapped = await aes.wrapKey(`A${keySize}KW`, plaintext);
    aesFound[keySize] = {
      type: oct.keyType,
      sizes: [sealed.iv.length, sealed.authenticationTag.length, gcm.result.length, padded.result.length, whole.result.length, wrapped.result.length],
      gcm: sameBytes((await aes.decrypt({ ...sealed, additionalAuthenticatedData })).result, plaintext),
      otherAad: await errorOf(aes.decrypt({ ...sealed, additionalAuthenticatedData: Buffer.from("other") })),
      otherTag: await errorOf(aes.decrypt({ ...sealed, additionalAuthenticatedData, authenticationTag: Buffer.alloc(16) })),
      padded: Buffer.from((await aes.decrypt({ algorithm: `A${keySize}CBCPAD`, ciphertext: padded.result, iv })).result).toString(),
      whole: sameBytes((await aes.decrypt({ algorithm: `A${keySize}CBC`, ciphertext: whole.result, iv })).result, plaintext),
      wrapped: sameBytes((await aes.unwrapKey(`A${keySize}KW`, wrapped.result)).result, plaintext),
    };
  }
  const aes = clients.cryptography(idOf(await hsm.getKey("aes-256")));
  const kwp = await aes.wrapKey("CKM_AES_KEY_WRAP_PAD", Buffer.from("of any length"));
  const [one, other] = [await hsm.getRandomBytes(32), await hsm.getRandomBytes(32)];
  return {
    rsa: rsaFound,
    aes: aesFound,
    kwp: Buffer.from((await aes.unwrapKey("CKM_AES_KEY_WRAP_PAD", kwp.result)).result).toString(),
    random: [one.length, other.length, sameBytes(one, other)],
    tooMuch: await errorOf(hsm.getRandomBytes(129)),
    noRandom: await errorOf(clients.keys().getRandomBytes(32)),
  };
};

/** What must not succeed, and what it is refused with. The client refuses some of it itself for who may read the key; the vault refuses it for everyone. */
export const misuse: Scenario = async (clients) => {
  const keys = clients.keys();
  const digest = createHash("sha256").update("x").digest();
  const plaintext = Buffer.from("x");
  const disabled = await keys.createRsaKey("disabled", { keySize: 2048, enabled: false });
  const expired = await keys.createRsaKey("expired", { keySize: 2048 });
  const before = await clients.cryptography(expired).encrypt({ algorithm: "RSA-OAEP-256", plaintext });
  await keys.updateKeyProperties("expired", { expiresOn: new Date(Date.now() - 60_000) });
  const early = await keys.createRsaKey("early", { keySize: 2048, notBefore: new Date(Date.now() + 3_600_000) });
  const signer = await keys.createRsaKey("signs-only", { keySize: 2048, keyOps: ["sign"] });
  const curve = await keys.createEcKey("curve", { curve: "P-256" });
  const [ownersExpired, usersExpired] = [clients.owner, clients.user].map((credential) => clients.cryptography(idOf(expired), credential)) as [
    ReturnType<Clients["cryptography"]>,
    ReturnType<Clients["cryptography"]>,
  ];
  const usersSigner = clients.cryptography(idOf(signer), clients.user);
  const usersCurve = clients.cryptography(idOf(curve), clients.user);
  const stale = await usersExpired.decrypt({ algorithm: "RSA-OAEP-256", ciphertext: before.result });
  return {
    // The client itself does not mind: it knows the key, and the vault is not asked.
    disabledHere: await errorOf(clients.cryptography(disabled).encrypt({ algorithm: "RSA-OAEP", plaintext })),
    disabled: await errorOf(clients.cryptography(disabled).encrypt({ algorithm: "RSA-OAEP-256", plaintext })),
    disabledSign: await errorOf(clients.cryptography(idOf(disabled), clients.user).sign("RS256", digest)),
    disabledDecrypt: await errorOf(clients.cryptography(disabled).decrypt({ algorithm: "RSA-OAEP", ciphertext: Buffer.alloc(256, 1) })),
    disabledRotate: await errorOf(keys.rotateKey("disabled")),
    expiredHere: await errorOf(ownersExpired.encrypt({ algorithm: "RSA-OAEP-256", plaintext })),
    expired: await errorOf(usersExpired.encrypt({ algorithm: "RSA-OAEP-256", plaintext })),
    expiredSign: await errorOf(usersExpired.sign("RS256", digest)),
    expiredDecrypt: Buffer.from(stale.result).toString(),
    earlyHere: await errorOf(clients.cryptography(early).encrypt({ algorithm: "RSA-OAEP-256", plaintext })),
    early: await errorOf(clients.cryptography(idOf(early), clients.user).encrypt({ algorithm: "RSA-OAEP-256", plaintext })),
    otherOperationHere: await errorOf(clients.cryptography(signer).encrypt({ algorithm: "RSA-OAEP-256", plaintext })),
    otherOperation: await errorOf(usersSigner.encrypt({ algorithm: "RSA-OAEP-256", plaintext })),
    otherType: await errorOf(usersCurve.sign("RS256", digest)),
    otherCurve: await errorOf(usersCurve.sign("ES384", createHash("sha384").digest())),
    shortDigest: await errorOf(usersCurve.sign("ES256", digest.subarray(0, 31))),
    notAnAlgorithm: await errorOf(usersCurve.sign("RSNULL", digest)),
    ciphertext: await errorOf(
      clients.cryptography(idOf(await keys.createRsaKey("opener", { keySize: 2048 }))).decrypt({ algorithm: "RSA-OAEP-256", ciphertext: Buffer.alloc(256, 1) }),
    ),
    noRead: await errorOf(clients.keys(clients.user).getKey("curve")),
    noReadOfNothing: await errorOf(clients.keys(clients.user).getKey("not-there")),
    podUse: await errorOf(clients.cryptography(idOf(curve), clients.pod).sign("ES256", digest)),
    certifiedUse: await errorOf(clients.cryptography(idOf(curve), clients.certificateCredential()).sign("ES256", digest)),
    hsmUse: await errorOf(clients.hsmKeys(clients.user).createOctKey("not-mine", { keySize: 256, hsm: true })),
    missing: await errorOf(keys.getKey("not-there")),
    missingVersion: await errorOf(keys.getKey("curve", { version: "0".repeat(32) })),
    missingUse: await errorOf(clients.cryptography(`${clients.run.vault}/keys/not-there/${"0".repeat(32)}`, clients.user).sign("ES256", digest)),
    badName: await errorOf(keys.createKey("no_underscores", "EC")),
    badSize: await errorOf(keys.createRsaKey("small", { keySize: 1024 })),
    softOct: await errorOf(keys.createOctKey("soft", { keySize: 256 })),
    // What Managed HSM has and this service has not.
    attestation: await errorOf(clients.hsmKeys().getKeyAttestation("any")),
    attestationOfVersion: await errorOf(clients.hsmKeys().getKeyAttestation("any", { version: "0".repeat(32) })),
  };
};
