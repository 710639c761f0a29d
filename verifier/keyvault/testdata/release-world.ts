import { createHmac, createPrivateKey, generateKeyPairSync, randomBytes, sign, X509Certificate, type KeyObject } from "node:crypto";
import { readFileSync } from "node:fs";
import type { Clock, Random } from "@sealpod/core";
import type { Caller } from "../bearer.ts";
import { IssuerKeys } from "../issuer-keys.ts";
import { PolicyMemory } from "../policy-memory.ts";
import type { ReleaseContext, ReleaseRequest } from "../release.ts";
import type { AuditLine, KeyRecord, StoredAuditLine, VaultStore } from "../store/types.ts";

// The release path alone, over a store of one key in memory: what is tested is which check refuses, and that each of them does.

export const BASE = "https://demo.vault.test";
export const MAA = "https://maa.test";
export const LOGIN = "https://login.test/11111111-2222-4333-8444-555555555555/v2.0";
export const TENANT = "11111111-2222-4333-8444-555555555555";
export const CALLER: Caller = { tenantId: TENANT, appid: "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", isApp: true, oid: "99999999-bbbb-4ccc-8ddd-eeeeeeeeeeee", issuer: LOGIN };
/** Seconds of the clock at the start. */
export const NOW: number = Date.UTC(2026, 0, 15, 12) / 1000;
export const HOSTDATA: string = "ab".repeat(32);
export const SECRET: Uint8Array = new Uint8Array(32).fill(5);

export type Json = Record<string, unknown>;

/** Made once: keys are slow to make, and no test changes them. */
export const KEYS: Readonly<Record<"login" | "maa" | "attacker" | "tee", { readonly privateKey: KeyObject; readonly publicKey: KeyObject }>> = {
  login: generateKeyPairSync("rsa", { modulusLength: 2048 }),
  maa: generateKeyPairSync("rsa", { modulusLength: 2048 }),
  attacker: generateKeyPairSync("rsa", { modulusLength: 2048 }),
  tee: generateKeyPairSync("rsa", { modulusLength: 2048 }),
};

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };

export function segment(value: unknown): string {
  return Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
}

/** A token made by hand, so that each part of it can be wrong. A string is taken as the claims' exact text. */
export function signToken(header: object, claims: object | string, key: KeyObject | Buffer | undefined): string {
  const input = `${segment(header)}.${segment(claims)}`;
  if (key === undefined) return `${input}.`;
  const signature = Buffer.isBuffer(key) ? createHmac("sha256", key).update(input).digest() : sign("sha256", Buffer.from(input), key);
  return `${input}.${signature.toString("base64url")}`;
}

export function jwk(key: KeyObject, members: Json = {}): Json {
  return { ...key.export({ format: "jwk" }), ...members };
}

/** Claims of every kind that a policy can name, as the attestation service writes them (specs/attestation.md 4.3). */
export function attestationClaims(change: Json = {}): Json {
  return {
    exp: NOW + 28_800,
    iat: NOW,
    iss: MAA,
    nbf: NOW,
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-compliance-status": "azure-signed-katacc-uvm",
    "x-ms-runtime": { keys: [jwk(KEYS.tee.publicKey, { kid: "tee-key", key_ops: ["encrypt"] })], user: { name: "pod" } },
    "x-ms-sevsnpvm-hostdata": HOSTDATA,
    "x-ms-sevsnpvm-is-debuggable": false,
    "x-ms-sevsnpvm-launchmeasurement": "cd".repeat(48),
    "x-ms-sevsnpvm-microcode-svn": 115,
    "x-ms-sevsnpvm-vmpl": 0,
    "x-sealpod-root": "emulator",
    ...change,
  };
}

export const POLICY: Json = {
  version: "1.0.0",
  anyOf: [
    {
      authority: MAA,
      allOf: [
        { claim: "x-ms-attestation-type", equals: "sevsnpvm" },
        { claim: "x-ms-compliance-status", equals: "azure-signed-katacc-uvm" },
        { claim: "x-ms-runtime.user.name", equals: "pod" },
        { claim: "x-ms-sevsnpvm-hostdata", equals: HOSTDATA },
        { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
        { claim: "x-ms-sevsnpvm-launchmeasurement", equals: "cd".repeat(48) },
        { claim: "x-ms-sevsnpvm-microcode-svn", equals: 115 },
        { claim: "x-ms-sevsnpvm-vmpl", equals: "0" },
      ],
    },
  ],
};

export function attestationToken(change: Json = {}, key: KeyObject = KEYS.maa.privateKey, header: Json = {}): string {
  return signToken({ alg: "RS256", jku: `${MAA}/certs`, kid: "maa-1", typ: "JWT", ...header }, attestationClaims(change), key);
}

export function accessToken(change: Json = {}, key: KeyObject = KEYS.login.privateKey, header: Json = {}): string {
  const claims = { aud: "https://vault.test", iss: LOGIN, appid: CALLER.appid, oid: CALLER.oid, tid: TENANT, nbf: NOW, exp: NOW + 3600, ...change };
  return signToken({ alg: "RS256", kid: "login-1", typ: "JWT", ...header }, claims, key);
}

/** The vault's TLS certificate and its issuer. */
export function vaultSigner(): { readonly privateKey: KeyObject; readonly chain: readonly Uint8Array[] } {
  const pem = (name: string): string => readFileSync(new URL(name, import.meta.url), "utf8");
  return { privateKey: createPrivateKey(pem("vault-key.pem")), chain: ["vault.pem", "ca.pem"].map((name) => new Uint8Array(new X509Certificate(pem(name)).raw)) };
}

/** Documents by URL, in place of the network; what is put there may be an Error, or a function that makes the response. */
export class Documents {
  readonly byUrl: Map<string, unknown> = new Map<string, unknown>([
    [`${MAA}/.well-known/openid-configuration`, { issuer: MAA, jwks_uri: `${MAA}/certs` }],
    [`${MAA}/certs`, { keys: [jwk(KEYS.maa.publicKey, { kid: "maa-1", use: "sig", alg: "RS256" })] }],
    [`${LOGIN}/.well-known/openid-configuration`, { issuer: LOGIN, jwks_uri: "https://login.test/keys" }],
    ["https://login.test/keys", { keys: [jwk(KEYS.login.publicKey, { kid: "login-1", use: "sig", alg: "RS256" })] }],
  ]);
  /** URLs that were asked for. */
  readonly fetched: string[] = [];

  readonly fetch = async (url: string, init: RequestInit): Promise<Response> => {
    this.fetched.push(url);
    const document = this.byUrl.get(url);
    if (document instanceof Error) throw document;
    if (typeof document === "function") return (document as (init: RequestInit) => Response | Promise<Response>)(init);
    return document === undefined ? new Response("not here", { status: 404 }) : Response.json(document);
  };
}

export interface ReleaseWorld {
  /** Milliseconds; may be set. */
  time: number;
  /** May be replaced: the store gives what is here. */
  key: KeyRecord | undefined;
  readonly documents: Documents;
  readonly lines: StoredAuditLine[];
  readonly context: ReleaseContext;
  readonly request: (change?: Partial<ReleaseRequest>) => ReleaseRequest;
}

export function keyRecord(change: Partial<KeyRecord> = {}, policy: unknown = POLICY): KeyRecord {
  return {
    vault: "demo",
    name: "app",
    version: "0123456789abcdef0123456789abcdef",
    type: "oct",
    hsm: true,
    keyOps: ["encrypt", "decrypt"],
    publicMembers: {},
    enabled: true,
    notBefore: undefined,
    expires: undefined,
    exportable: true,
    created: NOW - 100,
    updated: NOW - 50,
    tags: {},
    releasePolicy: { contentType: "application/json; charset=utf-8", text: JSON.stringify(policy), immutable: false },
    ...change,
  };
}

export function releaseWorld(change: Partial<ReleaseContext> = {}): ReleaseWorld {
  const clock: Clock = { now: () => world.time };
  const documents = new Documents();
  const lines: StoredAuditLine[] = [];
  const store: Pick<VaultStore, "key" | "openKey" | "appendAudit" | "audit"> = {
    key: async (vault, name, version) => {
      const { key } = world;
      return key?.vault === vault && key.name === name && (version === undefined || key.version === version) ? key : undefined;
    },
    openKey: async () => Uint8Array.from(SECRET),
    appendAudit: async (line: AuditLine) => void lines.push({ ...line, id: lines.length + 1 }),
    audit: async ({ requestId, name, operation } = {}) =>
      lines
        .filter((line) => (requestId ?? line.requestId) === line.requestId && (name ?? line.name) === line.name && (operation ?? line.operation) === line.operation)
        .toReversed(),
  };
  const context: ReleaseContext = {
    store: store as VaultStore,
    keys: new IssuerKeys(documents.fetch, clock),
    policies: new PolicyMemory(),
    clock,
    random,
    signer: vaultSigner(),
    evidenceRoots: ["emulator"],
    ...change,
  };
  const world: ReleaseWorld = {
    time: NOW * 1000,
    key: keyRecord(),
    documents,
    lines,
    context,
    request: (members = {}) => ({
      requestId: "request-1",
      caller: CALLER,
      kind: "vault",
      base: BASE,
      requestedId: `${BASE}/keys/app`,
      apiVersion: "7.4",
      key: world.key ?? keyRecord(),
      target: attestationToken(),
      algorithm: "CKM_RSA_AES_KEY_WRAP",
      nonce: undefined,
      ...members,
    }),
  };
  return world;
}

