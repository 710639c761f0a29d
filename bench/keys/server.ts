/**
 * The service that bench/keys.ts loads, in a process of its own: the key vaults as they are run, with TLS and an SQLite database on disk whose audit is durable before an answer
 * leaves. Only the network behind it is made up: the OpenID documents of the issuers. It talks to its parent over IPC: first where it listens and what to ask, then its CPU time
 * and the ceiling of its core when asked.
 */
import {
  constants,
  createCipheriv,
  createDecipheriv,
  createPublicKey,
  createSecretKey,
  generateKeyPairSync,
  hash,
  publicEncrypt,
  randomBytes,
  sign,
  verify,
  type KeyObject,
} from "node:crypto";
import { writeFileSync } from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { encodeUtf8, silentLogger, toBase64url, type Random } from "@sealpod/core";
import { basicConstraints, encodeCertificatesPem, issueCertificate, keyUsage, OID, subjectAltName } from "@sealpod/pki";
import { readSettings } from "@sealpod/service";
import { KEYVAULT_SETTINGS } from "../../verifier/keyvault/server-settings.ts";
import { startKeyvaultServer } from "../../verifier/keyvault/server.ts";
import { answerParent, tellParent } from "../load-server.ts";

/** The first message. */
export interface Started {
  readonly port: number;
  /** Name of the vault's host. */
  readonly host: string;
  readonly path: string;
  /** PEM of the certificate that signed the server's. */
  readonly ca: string;
  readonly authorization: string;
  /** Bodies of requests, each with an attestation token of its own. */
  readonly bodies: readonly string[];
}

const DOMAIN = "vault.bench";
const HOST = `demo.${DOMAIN}`;
const TENANT = "11111111-2222-4333-8444-555555555555";
const ISSUER = `https://login.bench/${TENANT}/v2.0`;
const MAA = "https://attest.bench";
const OBJECT = "99999999-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/** As many pods, each with a wrapping key and a token of its own. */
const TOKENS = 64;
const SVN = { bootloader: 3, tee: 0, snpfw: 8, microcode: 115 };

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };
const clock = { now: Date.now };
const directory = process.argv[2];
if (directory === undefined) throw new Error("the first argument is the directory for the database");

const pair = (): { readonly privateKey: KeyObject; readonly publicKey: KeyObject } => generateKeyPairSync("rsa", { modulusLength: 2048 });
const [login, authority, tls, root] = [pair(), pair(), pair(), pair()];
const ca = writeTls(directory);
const tokens = Array.from({ length: TOKENS }, attestationToken);
const settings = readSettings(KEYVAULT_SETTINGS, {
  text: JSON.stringify({
    domain: DOMAIN,
    listen: "127.0.0.1:0",
    tls: { cert: "tls.pem", key: "tls-key.pem" },
    vaults: [{ name: "demo", kind: "vault", administrators: [{ tenantId: TENANT, id: OBJECT }] }],
    issuers: [{ issuer: ISSUER, tenantId: TENANT, authorization: `https://login.bench/${TENANT}` }],
    database: join(directory, "keyvault.sqlite"),
    masterKey: { file: "master.key" },
    releases: { evidenceRoots: ["bench"] },
    limits: { ratePerSecond: 0 },
    operations: "off",
  }),
  name: "bench.json",
  directory,
  env: {},
  prefix: "SEALPOD_KEYVAULT_",
});
const server = await startKeyvaultServer(settings.value, {
  clock,
  random,
  logger: silentLogger,
  fetch: async (url) => Response.json(documentAt(url)),
  env: {},
  uid: process.getuid?.(),
  cwd: directory,
  ownsProcess: true,
});
const crypto = rawRelease();

answerParent(crypto, async () => server.stop());
await prepareKey(Number(new URL(server.url).port));
// The upkeep of the start is none of a release.
await wait(200);
tellParent({
  port: Number(new URL(server.url).port),
  host: HOST,
  path: "/keys/bench/release?api-version=7.4",
  ca,
  authorization: `Bearer ${accessToken()}`,
  bodies: tokens.map((target) => JSON.stringify({ target, enc: "RSA_AES_KEY_WRAP_256", nonce: "0123456789abcdef" })),
} satisfies Started);

/** Gives the caller its permissions and imports the key, as an administrator does. */
async function prepareKey(port: number): Promise<void> {
  const policy = {
    version: "1.0.0",
    anyOf: [
      {
        authority: MAA,
        allOf: [
          { claim: "x-ms-attestation-type", equals: "sevsnpvm" },
          { claim: "x-ms-sevsnpvm-hostdata", equals: "ab".repeat(32) },
          { claim: "x-ms-compliance-status", equals: "azure-signed-katacc-uvm" },
          { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
        ],
      },
    ],
  };
  await put(port, "/sealpod/access-policies", { tenantId: TENANT, objectId: OBJECT, permissions: { keys: ["import", "release"], secrets: [] } });
  await put(port, "/keys/bench?api-version=7.4", {
    key: { kty: "oct-HSM", k: toBase64url(random.bytes(32)), key_size: 256 },
    hsm: true,
    attributes: { exportable: true },
    release_policy: { contentType: "application/json; charset=utf-8", data: toBase64url(encodeUtf8(JSON.stringify(policy))) },
  });
}

async function put(port: number, path: string, body: object): Promise<void> {
  const done = Promise.withResolvers<undefined>();
  const text = JSON.stringify(body);
  const headers = { host: `${HOST}:${port}`, authorization: `Bearer ${accessToken()}`, "content-type": "application/json", "content-length": text.length };
  const sent = request({ host: "127.0.0.1", port, path, method: "PUT", servername: HOST, ca, headers }, (response) => {
    const chunks: Buffer[] = [];
    response.on("data", (chunk: Buffer) => chunks.push(chunk));
    response.on("end", () =>
      response.statusCode === 200 ? done.resolve(undefined) : done.reject(new Error(`${path}: ${response.statusCode} ${Buffer.concat(chunks).toString()}`)),
    );
  });
  sent.on("error", done.reject);
  sent.end(text);
  await done.promise;
}

/**
 * What one release cannot do without, as the service does it and in the quickest way that node has: the signature of the attestation token is verified, the sealed key is opened, a key
 * encryption key is made and encrypted to a key that was not seen before, the key is wrapped with it, the release is signed. The signature of the access token is not among them, because the service
 * remembers it; what it does instead, a digest, is.
 */
function rawRelease(): () => void {
  const [token = ""] = tokens;
  const dot = token.lastIndexOf(".");
  const [signed, signature] = [Buffer.from(token.slice(0, dot)), Buffer.from(token.slice(dot + 1), "base64url")];
  const bearer = accessToken();
  const wrapping = pair().publicKey.export({ type: "pkcs1", format: "pem" });
  const [secret, sealing, nonce] = [random.bytes(32), createSecretKey(randomBytes(32)), random.bytes(12)];
  const seal = createCipheriv("aes-256-gcm", sealing, nonce);
  const sealed = Buffer.concat([seal.update(secret), seal.final()]);
  const tag = seal.getAuthTag();
  // As long as the part of a release that is signed.
  const release = random.bytes(7000);
  const iv = Buffer.from("A65959A6", "hex");
  return () => {
    hash("sha256", bearer, "base64");
    if (!verify("sha256", signed, authority.publicKey, signature)) throw new Error("the ceiling's signature does not verify");
    const opening = createDecipheriv("aes-256-gcm", sealing, nonce, { authTagLength: 16 }).setAuthTag(tag);
    const opened = opening.update(sealed);
    opening.final();
    const kek = randomBytes(32);
    publicEncrypt({ key: createPublicKey(wrapping), padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" }, kek);
    const cipher = createCipheriv("id-aes256-wrap-pad", createSecretKey(kek), iv);
    cipher.update(opened);
    cipher.final();
    sign("sha256", release, tls.privateKey);
  };
}

function documentAt(url: string): object {
  switch (url) {
    case `${ISSUER}/.well-known/openid-configuration`:
      return { issuer: ISSUER, jwks_uri: "https://login.bench/keys" };
    case "https://login.bench/keys":
      return jwks(login.publicKey);
    case `${MAA}/.well-known/openid-configuration`:
      return { issuer: MAA, jwks_uri: `${MAA}/certs` };
    case `${MAA}/certs`:
      return jwks(authority.publicKey);
    default:
      throw new Error(`nobody answers at ${url}`);
  }
}

function jwks(key: KeyObject): object {
  return { keys: [{ ...key.export({ format: "jwk" }), kid: "1", use: "sig", alg: "RS256" }] };
}

function signedToken(claims: object, key: KeyObject): string {
  const part = (value: object): string => toBase64url(encodeUtf8(JSON.stringify(value)));
  const input = `${part({ alg: "RS256", kid: "1", typ: "JWT" })}.${part(claims)}`;
  return `${input}.${sign("sha256", Buffer.from(input), key).toString("base64url")}`;
}

function accessToken(): string {
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    aud: "https://vault.azure.net",
    iss: ISSUER,
    iat: now,
    nbf: now,
    exp: now + 86_400,
    appid: OBJECT,
    oid: OBJECT,
    sub: OBJECT,
    tid: TENANT,
    ver: "1.0",
  };
  return signedToken(claims, login.privateKey);
}

/** With the claims of a genuine token (specs/attestation.md 4.3), and an ephemeral wrapping key. */
function attestationToken(): string {
  const now = Math.floor(Date.now() / 1000);
  const runtime = { keys: [{ ...pair().publicKey.export({ format: "jwk" }), key_ops: ["encrypt"], kid: "Nvhfuq2cCIOAB8XR4Xi9Pr0NP_9CeMzWQGtW_HALz_w" }] };
  const svns = Object.entries(SVN).map(([name, value]) => [`x-ms-sevsnpvm-${name}-svn`, value]);
  const claims = {
    exp: now + 28_800,
    iat: now,
    iss: MAA,
    jti: random.bytes(32).reduce((text, byte) => text + byte.toString(16).padStart(2, "0"), ""),
    nbf: now,
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-compliance-status": "azure-signed-katacc-uvm",
    "x-ms-policy-hash": "9NY0VnTQ-IiBriBplVUpFbczcDaEBUwsiFYAzHu_gco",
    "x-ms-runtime": runtime,
    "x-ms-sevsnpvm-authorkeydigest": "0".repeat(96),
    ...Object.fromEntries(svns),
    "x-ms-sevsnpvm-familyId": "01000000000000000000000000000000",
    "x-ms-sevsnpvm-guestsvn": 2,
    "x-ms-sevsnpvm-hostdata": "ab".repeat(32),
    "x-ms-sevsnpvm-idkeydigest": "57e2".repeat(24),
    "x-ms-sevsnpvm-imageId": "02000000000000000000000000000000",
    "x-ms-sevsnpvm-is-debuggable": false,
    "x-ms-sevsnpvm-launchmeasurement": "cd".repeat(48),
    "x-ms-sevsnpvm-migration-allowed": false,
    "x-ms-sevsnpvm-reportdata": `${"5a".repeat(32)}${"00".repeat(32)}`,
    "x-ms-sevsnpvm-reportid": "ef".repeat(32),
    "x-ms-sevsnpvm-smt-allowed": true,
    "x-ms-sevsnpvm-vmpl": 0,
    "x-ms-ver": "1.0",
    "x-sealpod-root": "bench",
  };
  return signedToken(claims, authority.privateKey);
}

/** Writes what the configuration names. @returns PEM of the root */
function writeTls(folder: string): string {
  const now = Date.now();
  const template = { notBefore: now - 86_400_000, notAfter: now + 86_400_000, signatureAlgorithm: "rsa-sha256" } as const;
  const rootCertificate = issueCertificate({
    ...template,
    serial: 1n,
    subject: [{ type: OID.commonName, value: "bench root" }],
    subjectKey: root.publicKey,
    issuer: { key: root.privateKey },
    extensions: [basicConstraints({ ca: true }), keyUsage("keyCertSign")],
  });
  const leaf = issueCertificate({
    ...template,
    serial: 2n,
    subject: [{ type: OID.commonName, value: `*.${DOMAIN}` }],
    subjectKey: createPublicKey(tls.privateKey),
    issuer: { name: rootCertificate.subject, key: root.privateKey },
    extensions: [subjectAltName({ kind: "dns", value: HOST })],
  });
  writeFileSync(join(folder, "tls.pem"), encodeCertificatesPem([leaf, rootCertificate]), { mode: 0o600 });
  writeFileSync(join(folder, "tls-key.pem"), tls.privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  writeFileSync(join(folder, "master.key"), random.bytes(32), { mode: 0o600 });
  return encodeCertificatesPem([rootCertificate]);
}
