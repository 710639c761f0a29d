import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportJWK, SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger, toHex } from "@sealpod/core";
import { encodePem } from "@sealpod/pki";
import { readSettings } from "@sealpod/service";
import type { ManagementAccess } from "./management.ts";
import { openManagement } from "./server-management.ts";
import { ATTESTATION_SETTINGS, type AttestationSettings } from "./server-settings.ts";
import { ATTESTATION_PREFIX, startAttestationServer } from "./server.ts";
import { KEYS_CACHE_TIME, openAttestationStore, type StoredPolicy } from "./store.ts";
import { makePolicySigner, type PolicySigner } from "./testdata/policy-signer.ts";

const NOW = Date.UTC(2026, 10, 22);
const MINUTE = 60_000;
const ISSUER = "https://login.example/tenant";
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };
const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });

let directory: string;
const masterKey = random.bytes(32);
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-management-"));
  writeFileSync(join(directory, "master.key"), toHex(masterKey), { mode: 0o600 });
  writeFileSync(join(directory, "token"), "t".repeat(40), { mode: 0o600 });
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function settings(change: Readonly<Record<string, unknown>> = {}): AttestationSettings {
  const text = JSON.stringify({ issuer: "https://attest.example", listen: "127.0.0.1:0", database: "a.sqlite", masterKey: { file: "master.key" }, ...change });
  return readSettings(ATTESTATION_SETTINGS, { text, name: "c.json", directory, env: {}, prefix: ATTESTATION_PREFIX }).value;
}

async function token(claims: Readonly<Record<string, unknown>> = {}, kid = "k"): Promise<string> {
  return new SignJWT({ iss: ISSUER, aud: "https://attest.azure.net", exp: NOW / 1000 + 3600, ...claims })
    .setProtectedHeader({ alg: "RS256", kid })
    .sign(privateKey);
}

async function keys(): Promise<string> {
  return JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: "k", alg: "RS256" }] });
}

async function access(fetch: (url: string, init: RequestInit) => Promise<Response>, now: () => number = () => NOW): Promise<ManagementAccess> {
  const issuer = { issuer: ISSUER, audience: "https://attest.azure.net", keys: "https://login.example/keys", subjects: ["object-1", "app-1"] };
  const opened = await openManagement(settings({ management: { issuers: [issuer] } }).management, { clock: { now }, fetch });
  if (opened === undefined) throw new Error("nobody manages");
  return opened;
}

describe("a listed client id", () => {
  it.each<[string, Readonly<Record<string, unknown>>, "allowed" | "forbidden", string]>([
    ["lets the app in that says it acts for itself", { idtyp: "app", oid: "object-9", sub: "object-9", appid: "app-1" }, "allowed", "app-1"],
    ["also by the name of version 2.0", { idtyp: "app", oid: "object-9", sub: "object-9", azp: "app-1" }, "allowed", "app-1"],
    ["lets the app in whose token has nobody else as subject", { oid: "object-9", sub: "object-9", appid: "app-1" }, "allowed", "app-1"],
    ["also of an issuer without object ids", { sub: "app-1", azp: "app-1" }, "allowed", "app-1"],
    ["also without a subject", { appid: "app-1" }, "allowed", "app-1"],
    ["keeps the app out that acts for a user", { oid: "object-9", sub: "pairwise", scp: "manage", appid: "app-1" }, "forbidden", "object-9"],
    ["also by the name of version 2.0", { oid: "object-9", sub: "pairwise", scp: "manage", azp: "app-1" }, "forbidden", "object-9"],
    ["also if the token says that it is a user's", { idtyp: "user", oid: "object-9", sub: "object-9", appid: "app-1" }, "forbidden", "object-9"],
    [
      "also if it says app and has what a user delegated",
      { idtyp: "app", scp: "manage", oid: "object-9", sub: "object-9", appid: "app-1" },
      "forbidden",
      "object-9",
    ],
    ["also if it says something else", { idtyp: "device", oid: "object-9", sub: "object-9", appid: "app-1" }, "forbidden", "object-9"],
    ["also if it says nothing and its subject is another", { oid: "object-9", sub: "pairwise", appid: "app-1" }, "forbidden", "object-9"],
    ["also if it says nothing of its subject", { oid: "object-9", appid: "app-1" }, "forbidden", "object-9"],
    ["also of an issuer without object ids", { sub: "user-9", azp: "app-1" }, "forbidden", "user-9"],
    ["is no user's subject", { oid: "object-9", sub: "app-1", scp: "manage" }, "forbidden", "object-9"],
  ])("%s: %j", async (_what, claims, kind, subject) => {
    const manager = await access(async () => new Response(await keys()));
    expect(await manager.authenticate(await token(claims))).toMatchObject({ kind, subject });
  });

  it.each<[string, Readonly<Record<string, unknown>>, "allowed" | "forbidden"]>([
    ["of a user", { oid: "object-1", sub: "pairwise", scp: "manage", appid: "app-9" }, "allowed"],
    ["of an app", { oid: "object-1", sub: "object-1", idtyp: "app", appid: "app-9" }, "allowed"],
    ["that is the subject, where there is no other", { sub: "object-1", scp: "manage" }, "allowed"],
    ["that is the subject beside another", { oid: "object-9", sub: "object-1" }, "forbidden"],
  ])("is none; an object id %s counts", async (_what, claims, kind) => {
    const manager = await access(async () => new Response(await keys()));
    expect(await manager.authenticate(await token(claims))).toMatchObject({ kind });
  });
});

describe("an issuer's keys", () => {
  it.each<[string, () => Promise<Response>, RegExp]>([
    ["that are unreachable", async () => Promise.reject(new TypeError("fetch failed")), /login\.example cannot be fetched: fetch failed/],
    ["that are an error page", async () => Promise.resolve(new Response("no", { status: 500 })), /status 500/],
    ["that are no JSON", async () => Promise.resolve(new Response("<html>")), /value expected/],
    ["that are no key set", async () => Promise.resolve(Response.json({ keys: [1] })), /not a key set/],
    ["without end", async () => Promise.resolve(new Response(" ".repeat(1024 * 1024 + 1))), /more than 1048576 bytes/],
  ])("%s are asked for once in half a minute, however many tokens come, and are no fault of these", async (_what, answer, problem) => {
    let asked = 0;
    let time = NOW;
    let isUp = false;
    const manager = await access(
      async () => {
        asked++;
        return isUp ? new Response(await keys()) : answer();
      },
      () => time,
    );
    for (let forged = 0; forged < 20; forged++)
      await expect(manager.authenticate(await token({ oid: "object-1" }, `forged-${forged}`))).rejects.toThrow(problem);
    expect(asked).toBe(1);
    time += 29_999;
    await expect(manager.authenticate(await token({ oid: "object-1" }))).rejects.toThrow(/not asked again so soon/);
    expect(asked).toBe(1);
    time += 1;
    await expect(manager.authenticate(await token({ oid: "object-1" }))).rejects.toThrow(problem);
    expect(asked).toBe(2);
    isUp = true;
    time += 30_000;
    expect(await manager.authenticate(await token({ oid: "object-1" }))).toEqual({ kind: "allowed", subject: "object-1" });
    expect(asked).toBe(3);
  });

  it("that came are not asked for again for each key that they do not have", async () => {
    let asked = 0;
    const manager = await access(async () => {
      asked++;
      return new Response(await keys());
    });
    for (let forged = 0; forged < 20; forged++)
      expect(await manager.authenticate(await token({ oid: "object-1" }, `forged-${forged}`))).toMatchObject({ kind: "refused" });
    expect(asked).toBe(1);
  });
});

describe("times of the configuration", () => {
  it("are such that a timer can wait for them", () => {
    expect(settings({ revocation: { refresh: "24d" } }).revocation.refresh).toBeLessThan(2 ** 31);
    for (const refresh of ["25d", "30d"]) expect(() => settings({ revocation: { refresh } })).toThrow(/revocation\.refresh/);
  });

  it("are such that the store takes them: a key is published for more than the hour for which clients keep keys", async () => {
    expect(() => settings({ keyRotation: { overlap: "60m" } })).toThrow(/keyRotation\.overlap/);
    const { every, overlap } = settings({ keyRotation: { overlap: "61m" } }).keyRotation;
    expect(overlap).toBe(KEYS_CACHE_TIME + MINUTE);
    const store = await openAttestationStore({ file: ":memory:", masterKey, clock: { now: () => NOW }, random, rotation: { period: every, overlap } });
    store.close();
  });

  it("agree with one another", async () => {
    expect(await refusal({ keyRotation: { every: "2d", overlap: "2d" } })).toMatchObject({
      code: "ERR_SERVICE_CONFIG",
      message: expect.stringContaining("keyRotation.overlap") as string,
    });
  });
});

async function refusal(change: Readonly<Record<string, unknown>>): Promise<unknown> {
  const ports = { clock: { now: () => NOW }, random, logger: silentLogger, env: {}, uid: process.getuid?.(), ownsProcess: false };
  try {
    const server = await startAttestationServer(settings(change), { ...ports, fetch: async () => Promise.reject(new Error("no network")) });
    await server.stop();
    return undefined;
  } catch (error) {
    return error;
  }
}

describe("an instance whose mode becomes isolated", () => {
  // The TLS files are no good: a start that gets as far as them has been let through, and binds no port.
  const isolated = { management: { mode: "isolated", tokenFile: "token", certificates: ["alice.pem"] }, tls: { cert: "token", key: "token" } };
  let alice: PolicySigner;
  let mallory: PolicySigner;
  let number = 0;
  beforeAll(() => {
    alice = makePolicySigner();
    mallory = makePolicySigner();
    writeFileSync(join(directory, "alice.pem"), encodePem("CERTIFICATE", alice.certificate.der));
  });

  async function startAfter(...policies: readonly Pick<StoredPolicy, "type" | "signer">[]): Promise<unknown> {
    const database = `isolated-${number++}.sqlite`;
    const store = await openAttestationStore({ file: join(directory, database), masterKey, clock: { now: () => NOW }, random });
    for (const { type, signer } of policies)
      store.setPolicy({ type, token: "t", text: "version=1.0;authorizationrules{=>permit();};", signer }, { subject: "test", authority: "any" });
    store.close();
    return refusal({ database, ...isolated });
  }

  it("does not start while a policy is in force that no policy certificate signed", async () => {
    expect(
      await startAfter(
        { type: "SevSnpVm", signer: undefined },
        { type: "Tpm", signer: mallory.certificate.der },
        { type: "TdxVm", signer: alice.certificate.der },
      ),
    ).toMatchObject({
      code: "ERR_SERVICE_CONFIG",
      message: expect.stringMatching(/in force for (SevSnpVm, Tpm|Tpm, SevSnpVm) is not signed with a policy certificate/) as string,
      hint: expect.stringContaining("mode aad") as string,
    });
  });

  it("starts when each is signed, or there is none", async () => {
    expect(await startAfter({ type: "SevSnpVm", signer: alice.certificate.der })).toMatchObject({ code: "ERR_SERVICE_TLS" });
    expect(await startAfter()).toMatchObject({ code: "ERR_SERVICE_TLS" });
  });
});
