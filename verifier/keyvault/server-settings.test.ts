import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger, toHex } from "@sealpod/core";
import { describeSettings, printSettings, readSettings } from "@sealpod/service";
import { openDatabaseAddress } from "./server-database.ts";
import { KEYVAULT_SETTINGS, type KeyvaultSettings } from "./server-settings.ts";
import { KEYVAULT_PREFIX, startKeyvaultServer } from "./server.ts";
import { pem } from "./testdata/world.ts";

const TENANT = "11111111-2222-4333-8444-555555555555";
const ADMIN = { tenantId: TENANT, id: "88888888-bbbb-4ccc-8ddd-eeeeeeeeeeee" };
const ISSUER = { issuer: "https://login.test/x/v2.0", tenantId: TENANT, authorization: "https://login.test/x" };
const VAULT = { name: "demo", kind: "vault", administrators: [ADMIN] };
const TOKEN = { module: "hsm.so", token: "t", label: "k", pinFile: "pin" };
const HOUR = 3_600_000;
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };

let directory: string;
const file = (name: string): string => join(directory, name);
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-vault-settings-"));
  writeFileSync(file("tls.crt"), pem("vault.pem"));
  writeFileSync(file("tls.key"), pem("vault-key.pem"));
  writeFileSync(file("ec.key"), generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ type: "pkcs8", format: "pem" }));
  writeFileSync(file("junk"), "junk");
  writeFileSync(file("master.key"), toHex(random.bytes(32)), { mode: 0o600 });
  writeFileSync(file("open.key"), toHex(random.bytes(32)), { mode: 0o644 });
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

type Json = Readonly<Record<string, unknown>>;

function settings(change: Json = {}, env: Readonly<Record<string, string>> = {}): KeyvaultSettings {
  const all = {
    domain: "vault.test",
    listen: "127.0.0.1:0",
    tls: { cert: "tls.crt", key: "tls.key" },
    vaults: [VAULT],
    issuers: [ISSUER],
    masterKey: { file: "master.key" },
    ...change,
  };
  return readSettings(KEYVAULT_SETTINGS, { text: JSON.stringify(all), name: "c.json", directory, env, prefix: KEYVAULT_PREFIX }).value;
}

async function refusal(change: Json, env: Readonly<Record<string, string>> = {}): Promise<unknown> {
  try {
    const server = await startKeyvaultServer(settings(change), {
      clock: { now: () => Date.UTC(2026, 10, 22) },
      random,
      logger: silentLogger,
      fetch: async () => Promise.reject(new Error("no network")),
      env,
      uid: process.getuid?.(),
      cwd: directory,
      ownsProcess: false,
    });
    await server.stop();
    return undefined;
  } catch (error) {
    return error;
  }
}

describe("the configuration of the key vaults", () => {
  it("has a default for all that needs none", () => {
    expect(settings()).toMatchObject({
      domain: "vault.test",
      vaults: [{ ...VAULT, access: "policies" }],
      issuers: [ISSUER],
      audiences: ["https://vault.azure.net", "https://managedhsm.azure.net"],
      database: file("keyvault.sqlite"),
      masterKey: { file: file("master.key"), allowGroup: false },
      releases: { evidenceRoots: ["amd"], authorities: [], audiences: [] },
      trustedCertificates: [],
      wrappingKeys: { every: 90 * 24 * HOUR },
    });
  });

  it("takes every key, with paths from its own directory", () => {
    const hsm = { name: "hsm", kind: "managedhsm", access: "roles", administrators: [ADMIN], domain: "managedhsm.test", resource: "https://managedhsm.test" };
    const read = settings({
      resource: "https://vault.azure.net",
      audiences: ["a"],
      vaults: [{ ...VAULT, access: "roles" }, hsm],
      database: "sub/v.sqlite",
      masterKey: {
        environment: "KEY",
        allowGroup: true,
        pkcs11: { ...TOKEN, publicKeyFile: "k.pem", hash: "sha256", tool: "./tool", variables: ["YUBIHSM_PKCS11_CONF"] },
      },
      releases: { cert: "r.crt", key: "r.key", evidenceRoots: ["amd", "emulator"], authorities: ["https://attest.test"], audiences: ["me"] },
      trustedCertificates: ["ca.pem"],
      wrappingKeys: { every: "1h" },
    });
    expect(read).toMatchObject({
      resource: "https://vault.azure.net",
      audiences: ["a"],
      vaults: [{ access: "roles" }, hsm],
      database: file("sub/v.sqlite"),
      releases: { cert: file("r.crt"), key: file("r.key"), evidenceRoots: ["amd", "emulator"], authorities: ["https://attest.test"], audiences: ["me"] },
      trustedCertificates: [file("ca.pem")],
      wrappingKeys: { every: HOUR },
    });
    expect(read.masterKey).toEqual({
      file: undefined,
      environment: "KEY",
      allowGroup: true,
      pkcs11: {
        module: file("hsm.so"),
        token: "t",
        label: "k",
        id: undefined,
        pinFile: file("pin"),
        pinEnvironment: undefined,
        publicKeyFile: file("k.pem"),
        hash: "sha256",
        tool: file("tool"),
        variables: ["YUBIHSM_PKCS11_CONF"],
      },
    });
    const byId = settings({ masterKey: { pkcs11: { module: "/m.so", token: "t", id: "a1B2", pinEnvironment: "PIN", tool: "pkcs11-tool" } } });
    expect(byId.masterKey.pkcs11).toMatchObject({ module: "/m.so", id: "a1B2", pinEnvironment: "PIN", tool: "pkcs11-tool" });
  });

  it.each<[string, Json, RegExp]>([
    ["a domain in capitals", { domain: "Vault.test" }, /domain is "Vault.test": .*lower-case/],
    ["no domain", { domain: null }, /domain is missing/],
    ["a vault with a dot in its name", { vaults: [{ ...VAULT, name: "a.b" }] }, /item 0.*DNS label/],
    ["a vault of another kind", { vaults: [{ ...VAULT, kind: "hsm" }] }, /kind: expected "vault" or "managedhsm"/],
    ["an HSM with access policies", { vaults: [{ ...VAULT, kind: "managedhsm", access: "policies" }] }, /roles alone/],
    ["an unknown member of a vault", { vaults: [{ ...VAULT, sku: "premium" }] }, /sku unknown/],
    ["an administrator without tenant", { vaults: [{ ...VAULT, administrators: [{ id: ADMIN.id }] }] }, /tenantId missing/],
    ["an administrator who is no UUID", { vaults: [{ ...VAULT, administrators: [{ ...ADMIN, id: "me" }] }] }, /UUID as id/],
    ["a vault's domain in capitals", { vaults: [{ ...VAULT, domain: "X" }] }, /DNS name as domain/],
    ["a vault's resource over http", { vaults: [{ ...VAULT, resource: "http://x" }] }, /https URL.*as resource/],
    ["an issuer over http", { issuers: [{ ...ISSUER, issuer: "http://login.test" }] }, /https URL.*as issuer/],
    ["an authorization with a query", { issuers: [{ ...ISSUER, authorization: "https://login.test/?a" }] }, /as authorization/],
    ["a resource with a query", { resource: "https://vault.test/?a" }, /resource is/],
    ["an empty audience", { audiences: [""] }, /audiences/],
    ["a database of another kind", { database: "mysql://host/x" }, /expected a path or a postgres/],
    ["a database that is a number", { database: 5 }, /expected a path or a postgres/],
    ["an authority over http", { releases: { authorities: ["http://a"] } }, /authorities.*https URL/],
    ["a wrapping key for minutes", { wrappingKeys: { every: "59m" } }, /wrappingKeys.every/],
    ["a token's key without a name", { masterKey: { pkcs11: { ...TOKEN, label: undefined } } }, /either label or id/],
    ["a token's key with two names", { masterKey: { pkcs11: { ...TOKEN, id: "01" } } }, /either label or id/],
    ["a token without PIN", { masterKey: { pkcs11: { ...TOKEN, pinFile: undefined } } }, /either pinFile or pinEnvironment/],
    ["a PIN in the configuration", { masterKey: { pkcs11: { ...TOKEN, pin: "1234" } } }, /pin unknown/],
    ["an id that is no hexadecimal", { masterKey: { pkcs11: { ...TOKEN, label: undefined, id: "xyz" } } }, /hexadecimal as id/],
    ["another hash", { masterKey: { pkcs11: { ...TOKEN, hash: "md5" } } }, /hash: expected "sha1"/],
    ["a key that is not there", { masterkey: {} }, /did you mean masterKey\?/],
  ])("refuses %s", (_what, change, message) => {
    expect(() => settings(change)).toThrow(message);
  });

  it.each<[string, Json, RegExp]>([
    ["a certificate without its key", { tls: { cert: "tls.crt" } }, /tls.key is missing/],
    ["a key without its certificate", { tls: { key: "tls.key" } }, /tls.cert is missing/],
    ["a signer's certificate without key", { releases: { cert: "tls.crt" } }, /releases.key is missing/],
    ["plain HTTP without a signer", { tls: {} }, /releases.cert is missing/],
    ["no vaults", { vaults: [] }, /vaults is empty/],
    ["no issuers", { issuers: [] }, /issuers is empty/],
    ["two vaults of a name", { vaults: [VAULT, { ...VAULT, domain: "other.test" }] }, /two of the name demo/],
    ["a vault that nobody administers", { vaults: [{ ...VAULT, administrators: [] }] }, /demo has no administrators/],
    ["no master key", { masterKey: {} }, /one of file, environment and pkcs11, found 0/],
    ["two master keys", { masterKey: { file: "master.key", pkcs11: TOKEN } }, /found 2/],
    ["a password in the database's address", { database: "postgres://me:hush-hush@host/x" }, /database has a password/],
    ["one as a parameter", { database: "postgres://host/x?password=hush-hush" }, /database has a password/],
    ["one before a socket", { database: "postgres://me:hush-hush@/x?host=/run" }, /database has a password/],
    ["files for releases that are none", { releases: { cert: "junk", key: "tls.key" } }, /junk and .*tls.key: /],
    ["a missing certificate", { releases: { cert: "none.crt", key: "tls.key" } }, /none.crt cannot be read/],
    ["a key for releases that is not RSA", { releases: { cert: "tls.crt", key: "ec.key" } }, /ec.key: .*RS256 alone/],
    ["trusted certificates that are none", { trustedCertificates: ["junk"] }, /trustedCertificates: .*junk/],
    ["a master key that others can read", { masterKey: { file: "open.key" } }, /open.key has mode 0644/],
    ["a master key that is not there", { masterKey: { environment: "NOWHERE" } }, /variable NOWHERE has no master key/],
    ["a token without its PIN", { masterKey: { pkcs11: { ...TOKEN, pinFile: undefined, pinEnvironment: "NOWHERE" } } }, /NOWHERE has no PIN/],
  ])("does not start with %s", async (_what, change, message) => {
    const error = await refusal(change);
    expect(error).toMatchObject({ message: expect.stringMatching(message), code: expect.stringMatching(/^ERR_/) });
    expect(`${String(error)}${JSON.stringify(error)}`).not.toContain("hush-hush");
  });

  it("lets DATABASE_URL stand above the database, and hides it", async () => {
    const database = file("v.sqlite");
    const at = (env: Readonly<Record<string, string>>): string => openDatabaseAddress({ database }, { env, cwd: "/srv" });
    expect(at({})).toBe(database);
    expect(at({ DATABASE_URL: "" })).toBe(database);
    expect(at({ DATABASE_URL: "x.sqlite" })).toBe("/srv/x.sqlite");
    expect(at({ DATABASE_URL: "file:x.sqlite" })).toBe("/srv/x.sqlite");
    expect(at({ DATABASE_URL: "postgres://me:hush-hush@host/x" })).toBe("postgres://me:hush-hush@host/x");
    const error = await refusal({}, { DATABASE_URL: "mysql://me:hush-hush@host/x" });
    expect(error).toMatchObject({ code: "ERR_SERVICE_CONFIG", message: expect.stringContaining("DATABASE_URL is neither") });
    expect(String(error)).not.toContain("hush-hush");
    // Even one that is no use is not told to anybody.
    const unusable = await refusal({}, { DATABASE_URL: "postgres://me:hush-hush@host:99999/x" });
    expect(unusable).toMatchObject({ code: expect.stringMatching(/^ERR_STORAGE_/) });
    expect(String(unusable)).not.toContain("hush-hush");
  });

  it("reads variables, prints what reads back, and describes every key", () => {
    const env = {
      SEALPOD_KEYVAULT_VAULTS: JSON.stringify([VAULT]),
      SEALPOD_KEYVAULT_ISSUERS: JSON.stringify([ISSUER]),
      SEALPOD_KEYVAULT_DOMAIN: "vault.test",
      SEALPOD_KEYVAULT_RELEASES_EVIDENCE_ROOTS: "amd,emulator",
      SEALPOD_KEYVAULT_MASTER_KEY_PKCS11: JSON.stringify(TOKEN),
      SEALPOD_KEYVAULT_WRAPPING_KEYS_EVERY: "30d",
    };
    const first = readSettings(KEYVAULT_SETTINGS, { name: "none", directory, env, prefix: KEYVAULT_PREFIX });
    expect(first.value.releases.evidenceRoots).toEqual(["amd", "emulator"]);
    expect(first.value.masterKey.pkcs11?.label).toBe("k");
    const text = printSettings(first.effective);
    const again = readSettings(KEYVAULT_SETTINGS, { text, name: "printed", directory, env: {}, prefix: KEYVAULT_PREFIX });
    expect(again.value).toEqual(first.value);
    expect(printSettings(again.effective)).toBe(text);
    const described = describeSettings(KEYVAULT_SETTINGS, KEYVAULT_PREFIX);
    for (const key of ["domain", "vaults", "issuers", "resource", "audiences", "database", "masterKey.pkcs11", "releases.authorities", "releases.audiences"])
      expect(described).toContain(`| \`${key}\` |`);
  });
});
