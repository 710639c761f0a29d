import { createPublicKey, generateKeyPairSync, X509Certificate, type KeyObject } from "node:crypto";
import { compactVerify, decodeProtectedHeader } from "jose";
import { describe, expect, it } from "vitest";
import { issueCertificate, OID } from "@sealpod/pki";
import { ReplaceableSigner, requireSigner, signRelease, type ReleaseSigner } from "./release-signature.ts";
import { KEYS, vaultSigner } from "./testdata/release-world.ts";

const signer = vaultSigner();

function selfSigned(privateKey: KeyObject): ReleaseSigner {
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: "*.vault.test" }],
    subjectKey: createPublicKey(privateKey),
    issuer: { key: privateKey },
    signatureAlgorithm: "rsa-sha256",
    serial: 1n,
    notBefore: 0,
    notAfter: Date.UTC(2030, 0),
    extensions: [],
  });
  return { privateKey, chain: [certificate.der] };
}

async function verified(jws: string): Promise<string> {
  const leaf = new X509Certificate(Buffer.from(decodeProtectedHeader(jws).x5c?.[0] ?? "", "base64"));
  return Buffer.from((await compactVerify(jws, leaf.publicKey, { algorithms: ["RS256"] })).payload).toString();
}

describe("requireSigner", () => {
  it("takes the vault's certificate", () => {
    expect(() => requireSigner(signer)).not.toThrow();
    expect(() => requireSigner(selfSigned(KEYS.attacker.privateKey))).not.toThrow();
  });

  const ec = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
  it.each<readonly [string, ReleaseSigner, RegExp]>([
    ["an EC key, which TLS would take", { privateKey: ec, chain: signer.chain }, /RS256 alone, and the key is ec \(prime256v1\), expected rsa/],
    ["an Ed25519 key", { privateKey: generateKeyPairSync("ed25519").privateKey, chain: signer.chain }, /the key is ed25519, expected rsa/],
    [
      "a key for PSS alone",
      { privateKey: generateKeyPairSync("rsa-pss", { modulusLength: 2048 }).privateKey, chain: signer.chain },
      /the key is rsa-pss, expected rsa/,
    ],
    ["a small key", { privateKey: generateKeyPairSync("rsa", { modulusLength: 1024 }).privateKey, chain: signer.chain }, /has 1024 bits, expected 2048/],
    ["a public key", { privateKey: createPublicKey(signer.privateKey), chain: signer.chain }, /expected a private key, found a public one/],
    ["no certificate", { privateKey: signer.privateKey, chain: [] }, /chain is empty/],
    ["what is no certificate", { privateKey: signer.privateKey, chain: [...signer.chain, new Uint8Array(9)] }, /is none/],
    ["the certificate of another key", { privateKey: KEYS.attacker.privateKey, chain: signer.chain }, /first certificate is not for its key/],
    ["the chain upside down", { privateKey: signer.privateKey, chain: signer.chain.toReversed() }, /not for its key: the chain starts with the leaf/],
    [
      "a chain with a stranger in it",
      { privateKey: signer.privateKey, chain: [signer.chain[0] ?? new Uint8Array(), ...selfSigned(KEYS.attacker.privateKey).chain] },
      /certificate 2 of the chain did not issue certificate 1/,
    ],
  ])("refuses %s, and says what to do", (_what, subject, message) => {
    expect(() => requireSigner(subject)).toThrow(message);
    expect(() => requireSigner(subject)).toThrow(
      expect.objectContaining({ code: "ERR_KEYVAULT_ARGUMENT", hint: expect.stringContaining("RSA certificate") as string }),
    );
  });
});

describe("ReplaceableSigner", () => {
  it("signs with what it was given last, header and key of one moment", async () => {
    const other = selfSigned(KEYS.attacker.privateKey);
    const replaceable = new ReplaceableSigner(signer);
    const before = signRelease(replaceable, "vault", "before");
    replaceable.replace(other);
    const after = signRelease(replaceable, "managedhsm", "after");
    expect(await verified(await before)).toBe("before");
    expect(await verified(await after)).toBe("after");
    const x5c = async (jws: Promise<string>): Promise<string | undefined> => decodeProtectedHeader(await jws).x5c?.[0];
    expect(await x5c(before)).toBe(Buffer.from(signer.chain[0] ?? []).toString("base64"));
    expect(await x5c(after)).toBe(Buffer.from(other.chain[0] ?? []).toString("base64"));
    // The same bytes as without the class, which keeps the header ready.
    expect(await signRelease(other, "managedhsm", "after")).toBe(await after);
    expect(await signRelease(other, "vault", "after")).toBe(await signRelease(replaceable, "vault", "after"));
  });

  it("signs with larger keys too, which another thread does", async () => {
    const large = selfSigned(generateKeyPairSync("rsa", { modulusLength: 3072 }).privateKey);
    const jws = await signRelease(large, "vault", "large");
    expect(await verified(jws)).toBe("large");
    expect(Buffer.from(jws.split(".")[2] ?? "", "base64url")).toHaveLength(384);
  });

  it("stays as it was when the next is no use", async () => {
    const replaceable = new ReplaceableSigner(signer);
    expect(() => replaceable.replace({ privateKey: KEYS.attacker.privateKey, chain: signer.chain })).toThrow(/not for its key/);
    expect(await verified(await signRelease(replaceable, "vault", "x"))).toBe("x");
    expect(replaceable.privateKey).toBe(signer.privateKey);
    expect(() => new ReplaceableSigner({ privateKey: signer.privateKey, chain: [] })).toThrow(/empty/);
  });
});
