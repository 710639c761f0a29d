import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportJWK, SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger, toHex } from "@sealpod/core";
import { basicConstraints, encodePem, generateKey, issueCertificate, issueCrl, keyUsage, OID, type Certificate, type Crl } from "@sealpod/pki";
import { readSettings } from "@sealpod/service";
import type { ManagementVerdict } from "./management.ts";
import { openManagement } from "./server-management.ts";
import { openRevocation } from "./server-revocation.ts";
import { ATTESTATION_SETTINGS, type AttestationSettings } from "./server-settings.ts";
import { ATTESTATION_PREFIX, startAttestationServer } from "./server.ts";

const NOW = Date.UTC(2026, 10, 22);
const DAY = 24 * 60 * 60 * 1000;
const clock = { now: (): number => NOW };
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };

let directory: string;
let ark: Certificate;
let crl: Crl;
const file = (name: string): string => join(directory, name);
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-server-"));
  const key = await generateKey("p256");
  const name = [{ type: OID.commonName, value: "ARK-Test" }];
  ark = issueCertificate({
    subject: name,
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "ecdsa-sha256",
    serial: 1n,
    notBefore: NOW - DAY,
    notAfter: NOW + DAY,
    extensions: [basicConstraints({ ca: true }), keyUsage("keyCertSign", "cRLSign")],
  });
  crl = issueCrl({
    issuer: { name: ark.subject, key },
    signatureAlgorithm: "ecdsa-sha256",
    number: 1n,
    thisUpdate: NOW - DAY,
    nextUpdate: NOW + DAY,
    revoked: [],
  });
  writeFileSync(file("ark.pem"), encodePem("CERTIFICATE", ark.der));
  writeFileSync(file("crl.der"), crl.der);
  writeFileSync(file("crl.pem"), encodePem("X509 CRL", crl.der));
  writeFileSync(file("junk"), "junk");
  writeFileSync(file("master.key"), toHex(random.bytes(32)), { mode: 0o600 });
  writeFileSync(file("other.key"), toHex(random.bytes(32)), { mode: 0o600 });
  writeFileSync(file("open.key"), toHex(random.bytes(32)), { mode: 0o644 });
  writeFileSync(file("token"), "t".repeat(40), { mode: 0o600 });
  writeFileSync(file("short"), "t".repeat(31), { mode: 0o600 });
  writeFileSync(file("open"), "t".repeat(40), { mode: 0o644 });
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function settings(change: Readonly<Record<string, unknown>> = {}): AttestationSettings {
  const text = JSON.stringify({ issuer: "https://attest.example", listen: "127.0.0.1:0", database: "a.sqlite", masterKey: { file: "master.key" }, ...change });
  return readSettings(ATTESTATION_SETTINGS, { text, name: "c.json", directory, env: {}, prefix: ATTESTATION_PREFIX }).value;
}

async function refusal(change: Readonly<Record<string, unknown>>): Promise<unknown> {
  try {
    const ports = {
      clock,
      random,
      logger: silentLogger,
      fetch: async () => Promise.reject(new Error("no network")),
      env: {},
      uid: process.getuid?.(),
      ownsProcess: false,
    };
    await startAttestationServer(settings(change), ports);
    return undefined;
  } catch (error) {
    return error;
  }
}

describe("the configuration of the attestation service", () => {
  it("has a default for all that needs none", () => {
    expect(settings()).toMatchObject({
      roots: ["amd"],
      revocation: { crls: { kind: "off" }, missing: "accept", refresh: 6 * 60 * 60 * 1000 },
      uvmTrust: { microsoft: true, extra: [] },
      management: { mode: "aad", issuers: [], certificates: [] },
      keyRotation: { every: 90 * DAY, overlap: DAY },
      masterKey: { file: file("master.key"), allowGroup: false },
      database: file("a.sqlite"),
    });
  });

  it("takes roots, lists, endorsers and issuers", () => {
    const issuer = { issuer: "https://login.example", audience: "a", keys: "https://login.example/keys", subjects: ["me"] };
    const trust = { issuer: "did:x509:0:sha256:abc::eku:1.2.3", feed: "F", minimumSvn: 3, claim: "c" };
    expect(
      settings({
        roots: ["amd", { name: "emulator", product: "Milan", certificate: "ark.pem" }],
        revocation: { crls: "https://cache.example/", missing: "refuse" },
        uvmTrust: { microsoft: false, extra: [trust] },
        management: { issuers: [issuer] },
      }),
    ).toMatchObject({
      roots: ["amd", { name: "emulator", product: "Milan", certificate: file("ark.pem") }],
      revocation: { crls: { kind: "service", url: "https://cache.example" }, missing: "refuse" },
      uvmTrust: { microsoft: false, extra: [trust] },
      management: { issuers: [issuer] },
    });
    expect(settings({ revocation: { crls: ["crl.der"] } }).revocation.crls).toEqual({ kind: "files", files: [file("crl.der")] });
  });

  it.each<[string, Readonly<Record<string, unknown>>, RegExp]>([
    ["an issuer over http", { issuer: "http://attest.example" }, /issuer.*https/],
    ["an issuer with a slash", { issuer: "https://attest.example/" }, /issuer.*slash/],
    ["a root that calls itself amd", { roots: [{ name: "amd", product: "Milan", certificate: "x" }] }, /roots.*item 0.*not amd/],
    ["a root of an unknown product", { roots: [{ name: "e", product: "Rome", certificate: "x" }] }, /Milan, Genoa, Turin/],
    ["a root without certificate", { roots: [{ name: "e", product: "Milan" }] }, /certificate missing/],
    ["a root with more than that", { roots: [{ name: "e", product: "Milan", certificate: "x", key: "y" }] }, /key unknown/],
    ["the word for another root", { roots: ["intel"] }, /roots/],
    ["lists from a file URL", { revocation: { crls: "file:///etc" } }, /http or https URL/],
    ["an endorser that is no did", { uvmTrust: { extra: [{ issuer: "me", feed: "f", minimumSvn: 1, claim: "c" }] } }, /did:x509/],
    ["an endorser with a negative version", { uvmTrust: { extra: [{ issuer: "did:x509:0", feed: "f", minimumSvn: -1, claim: "c" }] } }, /minimumSvn/],
    ["keys over http", { management: { issuers: [{ issuer: "i", audience: "a", keys: "http://k", subjects: ["s"] }] } }, /https URL as keys/],
    ["an issuer of whom anybody may manage", { management: { issuers: [{ issuer: "i", audience: "a", keys: "https://k", subjects: [] }] } }, /subjects/],
    ["keys that sign for minutes", { keyRotation: { every: "5m" } }, /keyRotation\.every/],
  ])("refuses %s", (_what, change, message) => {
    expect(() => settings(change)).toThrow(expect.objectContaining({ code: "ERR_SERVICE_CONFIG", message: expect.stringMatching(message) }));
  });

  it.each<[string, Readonly<Record<string, unknown>>, string, RegExp]>([
    ["a certificate without key", { tls: { cert: "ark.pem" } }, "ERR_SERVICE_CONFIG", /tls\.key is missing/],
    ["no roots", { roots: [] }, "ERR_SERVICE_CONFIG", /roots is empty/],
    ["no files of lists", { revocation: { crls: [] } }, "ERR_SERVICE_CONFIG", /revocation\.crls/],
    ["an isolated instance that nobody manages", { management: { mode: "isolated" } }, "ERR_SERVICE_CONFIG", /isolated/],
    ["a root that is no certificate", { roots: [{ name: "e", product: "Milan", certificate: "junk" }] }, "ERR_SERVICE_CONFIG", /junk/],
    ["a list that is none", { revocation: { crls: ["junk"] } }, "ERR_SERVICE_CONFIG", /junk/],
    ["a report policy that is none", { reportPolicy: "junk" }, "ERR_SERVICE_CONFIG", /junk/],
    ["a policy certificate that is none", { management: { certificates: ["junk"] } }, "ERR_SERVICE_CONFIG", /junk/],
    ["a token that is too short", { management: { tokenFile: "short" } }, "ERR_SERVICE_CONFIG", /32 or more/],
    ["a token that others can read", { management: { tokenFile: "open" } }, "ERR_SERVICE_CONFIG", /0644/],
    ["no master key", { masterKey: {} }, "ERR_SEALING_MASTER_KEY", /no master key/],
    ["two master keys", { masterKey: { file: "master.key", environment: "X" } }, "ERR_SEALING_MASTER_KEY", /twice/],
    ["a master key that others can read", { masterKey: { file: "open.key" } }, "ERR_SEALING_MASTER_KEY_ACCESS", /0644/],
    ["a database that is none", { database: "junk" }, "ERR_ATTESTATION_STORE", /junk/],
    ["TLS files that are none", { tls: { cert: "junk", key: "junk" } }, "ERR_SERVICE_TLS", /junk/],
  ])("does not start with %s", async (_what, change, code, message) => {
    expect(await refusal(change)).toMatchObject({ code, message: expect.stringMatching(message) });
  });
});

describe("who may manage", () => {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const other = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
  const issuer = "https://login.example/tenant";
  const verdictOf = async (token: string, change: Readonly<Record<string, unknown>> = {}, network = true): Promise<ManagementVerdict | undefined> => {
    const { management } = settings({
      management: {
        tokenFile: "token",
        issuers: [{ issuer, audience: "https://attest.azure.net", keys: "https://login.example/keys", subjects: ["object-1", "app-1"] }],
        ...change,
      },
    });
    const keys = { keys: [{ ...(await exportJWK(publicKey)), kid: "k", alg: "RS256" }] };
    const access = await openManagement(management, {
      clock,
      fetch: async (url) => {
        expect(url).toBe("https://login.example/keys");
        if (!network) throw new TypeError("fetch failed");
        return Response.json(keys);
      },
    });
    return access?.authenticate(token);
  };
  const token = async (claims: Readonly<Record<string, unknown>> = {}, key = privateKey): Promise<string> =>
    new SignJWT({ iss: issuer, aud: "https://attest.azure.net", oid: "object-1", exp: NOW / 1000 + 60, nbf: NOW / 1000 - 60, ...claims })
      .setProtectedHeader({ alg: "RS256", kid: "k" })
      .sign(key);

  it("is nobody if nothing is said", async () => {
    expect(await openManagement(settings().management, { clock, fetch: async () => Promise.reject(new Error()) })).toBe(undefined);
  });

  it("is who has the operator's token, and nobody with one that is like it", async () => {
    expect(await verdictOf("t".repeat(40))).toEqual({ kind: "allowed", subject: "operator" });
    for (const wrong of ["t".repeat(39), "t".repeat(41), `${"t".repeat(39)}u`, ""]) expect(await verdictOf(wrong)).toMatchObject({ kind: "refused" });
  });

  it("is who has a token of the issuer and is named", async () => {
    expect(await verdictOf(await token())).toEqual({ kind: "allowed", subject: "object-1" });
    expect(await verdictOf(await token({ oid: undefined, appid: "app-1" }))).toEqual({ kind: "allowed", subject: "app-1" });
    expect(await verdictOf(await token({ oid: "object-2", sub: "someone" }))).toMatchObject({ kind: "forbidden", subject: "object-2" });
    expect(await verdictOf(await token({ oid: ["object-1"] }))).toMatchObject({ kind: "forbidden" });
  });

  it.each<[string, () => Promise<string>]>([
    ["another issuer", async () => token({ iss: "https://evil.example" })],
    ["another audience", async () => token({ aud: "https://vault.azure.net" })],
    ["another key", async () => token({}, other)],
    ["yesterday", async () => token({ exp: NOW / 1000 - 600 })],
    ["tomorrow", async () => token({ nbf: NOW / 1000 + 600 })],
    ["for ever", async () => token({ exp: undefined })],
    ["nobody's signature", async () => `${(await token()).split(".").slice(0, 2).join(".")}.`],
    ["alg none", async () => `${Buffer.from('{"alg":"none"}').toString("base64url")}.${(await token()).split(".")[1] ?? ""}.`],
    [
      "a key of its own choice",
      async () =>
        new SignJWT({ iss: issuer, aud: "https://attest.azure.net", oid: "object-1", exp: NOW / 1000 + 60 })
          .setProtectedHeader({ alg: "HS256", kid: "k" })
          .sign(Buffer.from("k".repeat(32))),
    ],
  ])("is not who has a token of %s", async (_what, make) => {
    expect(await verdictOf(await make())).toMatchObject({ kind: "refused" });
  });

  it("is not known while the issuer's keys cannot be fetched, which is no fault of the token", async () => {
    await expect(verdictOf(await token(), {}, false)).rejects.toThrow("fetch failed");
  });
});

describe("revocation lists", () => {
  const ports = { clock, random, logger: silentLogger };
  const noNetwork = async (): Promise<Response> => Promise.reject(new TypeError("fetch failed"));

  it("are read from files, DER or PEM, and again when asked", async () => {
    const { revocation } = settings({ revocation: { crls: ["crl.der", "crl.pem", "changing"], missing: "refuse" } });
    writeFileSync(file("changing"), crl.der);
    await using lists = await openRevocation(revocation, ["Milan"], { ...ports, fetch: noNetwork });
    expect(lists?.options.missing).toBe("refuse");
    expect(lists?.options.crls("Milan")).toEqual([crl, crl, crl]);
    writeFileSync(file("changing"), "junk");
    await lists?.refresh();
    expect(lists?.options.crls("Milan")).toHaveLength(3);
  });

  it("are fetched for the products of the roots, and what is missing is told if it is needed", async () => {
    const asked: string[] = [];
    let isUp = false;
    const fetch = async (url: string): Promise<Response> => {
      asked.push(url);
      return isUp ? new Response(crl.der as Uint8Array<ArrayBuffer>) : new Response("no", { status: 404 });
    };
    const { revocation } = settings({ revocation: { crls: "https://cache.example", missing: "refuse" } });
    await using lists = await openRevocation(revocation, ["Milan", "Genoa", "Milan"], { ...ports, fetch });
    expect(asked.toSorted((a, b) => a.localeCompare(b))).toEqual(
      ["vcek/v1/Genoa", "vcek/v1/Milan", "vlek/v1/Genoa", "vlek/v1/Milan"].map((path) => `https://cache.example/${path}/crl`),
    );
    expect(() => lists?.check()).toThrow(/Milan \(VCEK\), Milan \(VLEK\), Genoa \(VCEK\), Genoa \(VLEK\)/);
    isUp = true;
    await lists?.refresh();
    expect(() => lists?.check()).not.toThrow();
    expect(lists?.options.crls("Milan")).toHaveLength(2);
    expect(lists?.options.crls("Turin")).toHaveLength(0);
    // What cannot be fetched again stays.
    isUp = false;
    await lists?.refresh();
    expect(lists?.options.crls("Milan")).toHaveLength(2);
  });

  it("are none when they are off", async () => {
    expect(await openRevocation(settings().revocation, ["Milan"], { ...ports, fetch: noNetwork })).toBe(undefined);
  });
});
