import { constants, createDecipheriv, createPrivateKey, createPublicKey, privateDecrypt, randomBytes, verify, X509Certificate } from "node:crypto";
import type { KeyReleasePolicy, KeyVaultKey } from "@azure/keyvault-keys";
import { errorOf, idOf, versionOf, type Scenario } from "./keyvault-clients.ts";
import type { ReleaseRun } from "./keyvault-run.ts";

/** Release of keys to the guest of an attestation token, and every refusal of it. */
export const release: Scenario = async (clients) => {
  const { run } = clients;
  const { token } = run.release;
  const keys = clients.hsmKeys();
  const secret = randomBytes(32);
  const releasable = { hardwareProtected: true, exportable: true, releasePolicy: policyOf(run.release) };
  const imported = await keys.importKey("released", { kty: "oct-HSM", k: secret }, releasable);
  const found: Record<string, unknown> = {};
  for (const algorithm of ["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"] as const) {
    const { value } = await keys.releaseKey("released", token, { algorithm, nonce: `nonce of ${algorithm}` });
    found[algorithm] = { ...open(run.release, run.hsm, value, secret), isOfKey: kidOf(run.release, run.hsm, value) === idOf(imported) };
  }
  // The pod's own way in: the workload identity, one version, and not a word about the algorithm; as an older client asks.
  const pod = clients.hsmKeys(clients.pod, { serviceVersion: "7.4" });
  const ofPod = await pod.releaseKey("released", token, { version: versionOf(imported) });

  const rsa = await keys.createRsaKey("released-rsa", { keySize: 2048, hsm: true, exportable: true, releasePolicy: policyOf(run.release) });
  const ec = await keys.createEcKey("released-ec", { curve: "P-256", hsm: true, exportable: true, releasePolicy: policyOf(run.release) });
  const pairs = await Promise.all([rsa, ec].map(async (key) => isPairOf(key, unwrap(run.release, (await keys.releaseKey(key.name, token)).value))));

  // In a vault keys are released as well, in a form of its own.
  const inVault = await clients.keys().importKey("released-vault", { kty: "oct-HSM", k: secret }, releasable);
  const ofVault = await clients.keys().releaseKey("released-vault", token, { nonce: "n" });

  await keys.importKey("withheld", { kty: "oct-HSM", k: secret }, { ...releasable, releasePolicy: policyOf({ ...run.release, hostData: "0".repeat(64) }) });
  await keys.importKey(
    "elsewhere",
    { kty: "oct-HSM", k: secret },
    { ...releasable, releasePolicy: policyOf({ ...run.release, authority: "https://attest.example.com" }) },
  );
  await keys.createOctKey("kept", { keySize: 256, hsm: true });
  const refused = {
    withheld: await errorOf(keys.releaseKey("withheld", token)),
    elsewhere: await errorOf(keys.releaseKey("elsewhere", token)),
    spoilt: await errorOf(keys.releaseKey("released", `${token.slice(0, -6)}AAAAAA`)),
    noToken: await errorOf(keys.releaseKey("released", "x")),
    ownToken: await errorOf(keys.releaseKey("released", (await clients.owner.getToken(`${run.resource}/.default`)).token)),
    kept: await errorOf(keys.releaseKey("kept", token)),
    missing: await errorOf(keys.releaseKey("not-there", token)),
    algorithm: await errorOf(keys.releaseKey("released", token, { algorithm: "none" })),
    // The pod may release one key of the HSM, and do nothing else.
    podOther: await errorOf(pod.releaseKey("released-rsa", token)),
    podRead: await errorOf(pod.getKey("released")),
    podCreate: await errorOf(pod.createKey("mine", "RSA-HSM")),
    podVault: await errorOf(clients.keys(clients.pod).releaseKey("released-vault", token)),
    user: await errorOf(clients.hsmKeys(clients.user).releaseKey("released", token)),
    noPolicy: await errorOf(keys.createKey("no-policy", "RSA-HSM", { exportable: true })),
    notExportable: await errorOf(keys.createKey("not-exportable", "RSA-HSM", { releasePolicy: policyOf(run.release) })),
    badPolicy: await errorOf(keys.createKey("bad-policy", "RSA-HSM", { exportable: true, releasePolicy: { encodedPolicy: Buffer.from("{}") } })),
  };

  // A policy changes for the whole key, and once it is immutable, no more.
  const changed = await keys.updateKeyProperties("withheld", { releasePolicy: { ...policyOf(run.release), immutable: true } });
  const now = await keys.releaseKey("withheld", token);
  const frozen = await errorOf(keys.updateKeyProperties("withheld", { releasePolicy: policyOf({ ...run.release, hostData: "0".repeat(64) }) }));
  await keys.updateKeyProperties("released", { enabled: false });
  const disabled = await errorOf(keys.releaseKey("released", token));
  const stored = await keys.getKey("released");
  return {
    found,
    pod: open(run.release, run.hsm, ofPod.value, secret),
    pairs,
    vault: { ...open(run.release, run.vault, ofVault.value, secret), isOfKey: kidOf(run.release, run.vault, ofVault.value) === idOf(inVault) },
    refused,
    changed: { immutable: changed.properties.releasePolicy?.immutable, isReleased: unwrap(run.release, now.value).equals(secret), frozen },
    disabled,
    stored: {
      exportable: stored.properties.exportable,
      type: stored.keyType,
      contentType: stored.properties.releasePolicy?.contentType,
      policy: JSON.parse(Buffer.from(stored.properties.releasePolicy?.encodedPolicy ?? new Uint8Array()).toString()) as unknown,
    },
  };
};

function policyOf({ authority, hostData }: ReleaseRun): KeyReleasePolicy {
  const allOf = [
    { claim: "x-ms-sevsnpvm-hostdata", equals: hostData },
    { claim: "x-ms-attestation-type", equals: "sevsnpvm" },
  ];
  return { encodedPolicy: Buffer.from(JSON.stringify({ version: "1.0.0", anyOf: [{ authority, allOf }] })) };
}

interface Payload {
  readonly request: { readonly "api-version": string; readonly enc: string; readonly kid: string; readonly nonce?: string };
  readonly response: { readonly key: { readonly key: { readonly kid: string; readonly kty: string; readonly key_hsm: string; readonly k?: string } } };
}

interface KeyHsm {
  readonly ciphertext: string;
  readonly schema_version: string;
  readonly header: { readonly kid: string; readonly alg: string; readonly enc: string };
}

function json(part: string | undefined): unknown {
  return JSON.parse(Buffer.from(part ?? "", "base64url").toString());
}

/**
 * The payload of a release, after the checks that a careful client makes: the signature is of the certificate in front, that one is for the host that was called, and the chain
 * ends at a root that the client trusts.
 * @throws {Error} if one of that is not so
 */
function verified({ ca }: ReleaseRun, vault: string, jws: string): Payload {
  const [header = "", payload = "", signature = "", ...rest] = jws.split(".");
  const { alg, x5c } = json(header) as { readonly alg: string; readonly x5c: readonly string[] };
  const [leaf, issuer] = x5c.map((der) => new X509Certificate(Buffer.from(der, "base64")));
  if (rest.length > 0 || alg !== "RS256" || leaf === undefined || issuer === undefined) throw new Error("a release is a JWS under RS256 with a chain");
  if (!verify("sha256", Buffer.from(`${header}.${payload}`), leaf.publicKey, Buffer.from(signature, "base64url")))
    throw new Error("the signature is not the leaf's");
  if (leaf.checkHost(new URL(vault).hostname) === undefined) throw new Error("the leaf is not for the vault");
  if (!leaf.verify(issuer.publicKey) || !issuer.raw.equals(new X509Certificate(ca).raw)) throw new Error("the chain does not end at the CA");
  return json(payload) as Payload;
}

/** What a release says, and whether it has the secret. */
function open(run: ReleaseRun, vault: string, jws: string, secret: Uint8Array): object {
  const { request, response } = verified(run, vault, jws);
  const keyHsm = json(response.key.key.key_hsm) as KeyHsm;
  return {
    version: request["api-version"],
    enc: [request.enc, keyHsm.header.enc],
    nonce: request.nonce,
    kty: response.key.key.kty,
    wrappingKey: keyHsm.header.kid,
    hasPlainKey: response.key.key.k !== undefined,
    isSecret: unwrap(run, jws).equals(secret),
  };
}

function kidOf(run: ReleaseRun, vault: string, jws: string): string {
  return verified(run, vault, jws).response.key.key.kid;
}

/** PKCS #11 CKM_RSA_AES_KEY_WRAP: an AES key under RSA-OAEP, then the key under AES-KWP (RFC 5649). */
function unwrap({ wrappingKey }: ReleaseRun, jws: string): Buffer {
  const { ciphertext: text, header } = json((json(jws.split(".")[1]) as Payload).response.key.key.key_hsm) as KeyHsm;
  const ciphertext = Buffer.from(text, "base64url");
  const oaepHash = { CKM_RSA_AES_KEY_WRAP: "sha1", RSA_AES_KEY_WRAP_256: "sha256", RSA_AES_KEY_WRAP_384: "sha384" }[header.enc] ?? "";
  const kek = privateDecrypt({ key: wrappingKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, ciphertext.subarray(0, 256));
  const decipher = createDecipheriv("id-aes256-wrap-pad", kek, Buffer.from("A65959A6", "hex"));
  return Buffer.concat([decipher.update(ciphertext.subarray(256)), decipher.final()]);
}

/** Whether the PKCS #8 that was released is the private half of a key of the vault. */
function isPairOf({ key }: KeyVaultKey, pkcs8: Buffer): boolean {
  const jwk = createPublicKey(createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" })).export({ format: "jwk" });
  const member = jwk.n === undefined ? (["x", "y"] as const) : (["n", "e"] as const);
  return member.every((name) => jwk[name] === Buffer.from(key?.[name] ?? new Uint8Array()).toString("base64url"));
}
