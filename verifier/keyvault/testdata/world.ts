import {
  createHmac,
  createPrivateKey,
  generateKeyPairSync,
  privateDecrypt,
  constants,
  createDecipheriv,
  randomBytes,
  randomUUID,
  sign,
  X509Certificate,
  type KeyObject,
} from "node:crypto";
import { readFileSync } from "node:fs";
import type { Hono } from "hono";
import { compactVerify } from "jose";
import { silentLogger, type Clock, type LogFields, type Logger, type Random } from "@sealpod/core";
import {
  findRole,
  KEY_PERMISSIONS,
  keyvaultApp,
  openVaultStore,
  SECRET_PERMISSIONS,
  type AuditLine,
  type KeyPermission,
  type KeyvaultAppOptions,
  type Principal,
  type SecretPermission,
  type StoredAuditLine,
  type VaultStore,
} from "../index.ts";

export const VAULT = "https://demo.vault.test:8443";
export const HSM = "https://hsm.vault.test:8443";
/** A vault that decides by roles. */
export const RBAC = "https://rbac.vault.test:8443";
export const MAA = "https://maa.test";
export const TENANT = "11111111-2222-4333-8444-555555555555";
export const LOGIN: string = `https://login.test/${TENANT}/v2.0`;
export const APPID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
export const OID = "99999999-bbbb-4ccc-8ddd-eeeeeeeeeeee";
export const START: number = Date.UTC(2026, 0, 15, 12);
export const HOSTDATA: string = "ab".repeat(32);
/** Every permission of keys. */
export const ALL: readonly KeyPermission[] = KEY_PERMISSIONS;
export const STRANGER_ID = "cccccccc-bbbb-4ccc-8ddd-eeeeeeeeeeee";
export const STRANGER_OID = "dddddddd-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/** Who manages the vaults; has no permission on keys. */
export const ADMIN_OID = "88888888-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/** Roles of the caller in the managed HSM. */
export const HSM_ROLES: readonly string[] = ["Managed HSM Crypto User", "Managed HSM Crypto Officer", "Managed HSM Crypto Service Release User"];

/** The clock's seconds at the start. */
export const NOW: number = START / 1000;

const pair = (): { privateKey: KeyObject; publicKey: KeyObject } => generateKeyPairSync("rsa", { modulusLength: 2048 });

/** Made once: keys are slow to make and no test changes them. */
export const KEYS: {
  readonly login: ReturnType<typeof pair>;
  readonly maa: ReturnType<typeof pair>;
  readonly attacker: ReturnType<typeof pair>;
  readonly tee: ReturnType<typeof pair>;
} = {
  login: pair(),
  maa: pair(),
  attacker: pair(),
  tee: pair(),
};

export const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };

export type Json = Record<string, unknown>;

export function pem(name: string): string {
  return readFileSync(new URL(name, import.meta.url), "utf8");
}

export function segment(value: unknown): string {
  return Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
}

/** A token made by hand, so that each part of it can be wrong. A string is taken as the claims' exact text. */
export function token(header: object, claims: object | string, key: KeyObject | Buffer | undefined): string {
  const input = `${segment(header)}.${segment(claims)}`;
  if (key === undefined) return `${input}.`;
  const signature = Buffer.isBuffer(key) ? createHmac("sha256", key).update(input).digest() : sign("sha256", Buffer.from(input), key);
  return `${input}.${signature.toString("base64url")}`;
}

export function bearer(claims: Json = {}): string {
  const all = { aud: "https://vault.test", iss: LOGIN, appid: APPID, oid: OID, tid: TENANT, nbf: NOW, exp: NOW + 3600, ...claims };
  return token({ alg: "RS256", kid: "login-1", typ: "JWT" }, all, KEYS.login.privateKey);
}

/** The Authorization header of an administrator. */
export function adminHeaders(): Record<string, string> {
  return { authorization: `Bearer ${bearer({ appid: undefined, oid: ADMIN_OID })}` };
}

/** The Authorization header of somebody to whom nobody gave anything. */
export function strangerHeaders(): Record<string, string> {
  return { authorization: `Bearer ${bearer({ appid: STRANGER_ID, oid: STRANGER_OID })}` };
}

/** Runtime data with the TEE's wrapping key. */
export function runtime(): Json {
  return { keys: [{ ...KEYS.tee.publicKey.export({ format: "jwk" }), kid: "tee-key", key_ops: ["encrypt"] }] };
}

export function maaClaims(claims: Json = {}): Json {
  return {
    exp: NOW + 28_800,
    iat: NOW,
    iss: MAA,
    nbf: NOW,
    "x-ms-compliance-status": "sealpod-compliant-uvm",
    "x-ms-runtime": runtime(),
    "x-ms-sevsnpvm-hostdata": HOSTDATA,
    "x-ms-sevsnpvm-is-debuggable": false,
    "x-ms-sevsnpvm-vmpl": 0,
    "x-sealpod-root": "emulator",
    ...claims,
  };
}

export function maaToken(claims: Json = {}, key: KeyObject = KEYS.maa.privateKey, kid = "maa-1"): string {
  return token({ alg: "RS256", jku: `${MAA}/certs`, kid, typ: "JWT" }, maaClaims(claims), key);
}

export const POLICY: Json = {
  version: "1.0.0",
  anyOf: [
    {
      authority: MAA,
      allOf: [
        { claim: "x-ms-sevsnpvm-hostdata", equals: HOSTDATA },
        { claim: "x-ms-compliance-status", equals: "sealpod-compliant-uvm" },
        { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
      ],
    },
  ],
};

export function importBody(policy: unknown = POLICY, change: Json = {}): Json {
  return {
    key: { kty: "oct-HSM", k: Buffer.alloc(32, 5).toString("base64url"), key_size: 256 },
    hsm: true,
    attributes: { exportable: true },
    release_policy: { contentType: "application/json; charset=utf-8", data: segment(policy) },
    ...change,
  };
}

export interface World {
  time: number;
  readonly store: VaultStore;
  readonly app: Hono;
  /** Documents by URL; a test may change them, and put an Error or a function that makes a Response in their place. */
  readonly documents: Map<string, unknown>;
  /** URLs fetched. */
  readonly fetched: string[];
  readonly logs: { message: string; fields: LogFields }[];
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Json & { error?: { code: string; message: string; innererror?: { code: string } }; value?: never };
}

export function publicJwk(key: KeyObject, kid: string): Json {
  return { ...key.export({ format: "jwk" }), kid, use: "sig", alg: "RS256" };
}

/** A line as the vault's own configuration would leave it: for what tests do to the store behind the service. */
export function auditLine(change: Partial<AuditLine> = {}): AuditLine {
  return {
    requestId: "test",
    at: START,
    vault: "demo",
    operation: "test",
    name: "",
    version: "",
    tenantId: TENANT,
    appid: "",
    oid: "",
    outcome: "allowed",
    failed: undefined,
    reason: "",
    authority: "",
    findings: [],
    ...change,
  };
}

/** Gives key and secret permissions in a vault with access policies; replaces what the principal had. */
export async function grant(
  store: VaultStore,
  vault: string,
  principal: Principal,
  keys: readonly KeyPermission[],
  secrets: readonly SecretPermission[] = [],
): Promise<void> {
  await store.setAccessPolicy(vault, principal, { keys, secrets }, auditLine({ vault }));
}

/** Gives a role in a vault with roles. */
export async function assignRole(store: VaultStore, vault: string, principal: Principal, role: string, scope = "/"): Promise<void> {
  const id = (findRole("managedhsm", role) ?? findRole("vault", role))?.id ?? role;
  await store.addRoleAssignment(vault, { ...principal, name: randomUUID(), role: id, scope }, auditLine({ vault }));
}

/** Lines of the audit that requests left, the latest first. */
export async function auditOf(world: World, filter: Parameters<VaultStore["audit"]>[0] = {}): Promise<readonly StoredAuditLine[]> {
  return (await world.store.audit({ limit: 1000, ...filter })).filter(({ requestId }) => requestId !== "test");
}

/** The application over a store of its own; the caller of {@link bearer} may do everything with keys and secrets in `demo`, and with keys in `hsm`. */
export async function openWorld(options: Partial<KeyvaultAppOptions> & { readonly file?: string; readonly masterKey?: Uint8Array } = {}): Promise<World> {
  let world: World | undefined = undefined;
  const clock: Clock = { now: () => world?.time ?? START };
  const documents = new Map<string, unknown>([
    [`${LOGIN}/.well-known/openid-configuration`, { issuer: LOGIN, jwks_uri: "https://login.test/keys" }],
    ["https://login.test/keys", { keys: [publicJwk(KEYS.login.publicKey, "login-1")] }],
    [`${MAA}/.well-known/openid-configuration`, { issuer: MAA, jwks_uri: `${MAA}/certs` }],
    [`${MAA}/certs`, { keys: [publicJwk(KEYS.maa.publicKey, "maa-1")] }],
  ]);
  const fetched: string[] = [];
  const logs: World["logs"] = [];
  const logger: Logger = { log: (level, message, fields = {}) => (silentLogger.log(level, message), void logs.push({ message, fields })) };
  const store = await openVaultStore({ url: options.file ?? ":memory:", master: options.masterKey ?? new Uint8Array(32).fill(1), clock, random });
  const administrators = [{ tenantId: TENANT, id: ADMIN_OID }];
  const app = keyvaultApp({
    store,
    domain: "vault.test",
    vaults: [
      { name: "demo", kind: "vault", administrators },
      { name: "hsm", kind: "managedhsm", administrators },
      // Nobody has a role in it yet.
      { name: "rbac", kind: "vault", access: "roles", administrators },
    ],
    issuers: [{ issuer: LOGIN, tenantId: TENANT, authorization: `https://login.test/${TENANT}` }],
    resource: "https://vault.test",
    signer: {
      privateKey: createPrivateKey(pem("vault-key.pem")),
      chain: ["vault.pem", "ca.pem"].map((name) => new Uint8Array(new X509Certificate(pem(name)).raw)),
    },
    evidenceRoots: ["emulator"],
    fetch: (url) => {
      fetched.push(url);
      const document = documents.get(url);
      if (document instanceof Error) return Promise.reject(document);
      if (typeof document === "function") return Promise.resolve((document as () => Response)());
      return Promise.resolve(document === undefined ? new Response("not here", { status: 404 }) : Response.json(document));
    },
    clock,
    random,
    logger,
    ...options,
  });
  const opened: World = { time: START, store, app, documents, fetched, logs };
  world = opened;
  const caller = { tenantId: TENANT, id: APPID };
  await grant(store, "demo", caller, ALL, SECRET_PERMISSIONS);
  if ((await store.roleAssignments("hsm")).length === 0) for (const role of HSM_ROLES) await assignRole(store, "hsm", caller, role);
  return opened;
}

export async function call(world: World, method: string, url: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
  const init: RequestInit = {
    method,
    headers: { authorization: `Bearer ${bearer()}`, ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
  };
  if (body !== undefined) init.body = typeof body === "string" ? body : JSON.stringify(body);
  const response = await world.app.request(url, init);
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: (text === "" ? {} : JSON.parse(text)) as Answer["body"] };
}

/** What a client does with a release: verifies it with the leaf of its x5c and unwraps the key. */
export async function openRelease(
  value: unknown,
  teeKey: KeyObject = KEYS.tee.privateKey,
): Promise<{ header: Json; payload: Json; jwk: Json; keyHsm: Json; plaintext: Buffer }> {
  const header = JSON.parse(Buffer.from(String(value).split(".")[0] ?? "", "base64url").toString()) as Json;
  const leaf = new X509Certificate(Buffer.from((header["x5c"] as string[])[0] ?? "", "base64"));
  const { payload } = await compactVerify(String(value), leaf.publicKey, { algorithms: ["RS256"] });
  const parsed = JSON.parse(Buffer.from(payload).toString()) as { response: { key: { key: Json } } };
  const jwk = parsed.response.key.key;
  const keyHsm = JSON.parse(Buffer.from(String(jwk["key_hsm"]), "base64url").toString()) as { header: { enc: string }; ciphertext: string };
  return { header, payload: parsed, jwk, keyHsm, plaintext: unwrap(keyHsm.header.enc, teeKey, Buffer.from(keyHsm.ciphertext, "base64url")) };
}

/** The client's half of the wrapping, written from specs/attestation.md 5.5.6. */
export function unwrap(enc: string, teeKey: KeyObject, ciphertext: Uint8Array): Buffer {
  const oaepHash = { CKM_RSA_AES_KEY_WRAP: "sha1", RSA_AES_KEY_WRAP_256: "sha256", RSA_AES_KEY_WRAP_384: "sha384" }[enc] ?? "";
  const modulus = (teeKey.asymmetricKeyDetails?.modulusLength ?? 0) / 8;
  const kek = privateDecrypt({ key: teeKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, ciphertext.subarray(0, modulus));
  const decipher = createDecipheriv("id-aes256-wrap-pad", kek, Buffer.from("A65959A6", "hex"));
  return Buffer.concat([decipher.update(ciphertext.subarray(modulus)), decipher.final()]);
}
