import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { toHex } from "@sealpod/core";
import {
  backupVaultDatabase,
  changeVaultMasterKey,
  checkVaultDatabase,
  openVaultStore,
  readVaultAudit,
  rotateVaultWrappingKey,
  type MaintenanceSettings,
  type VaultStore,
} from "./index.ts";
import { line, newKey, newSecret, random, START, VAULT } from "./store/testdata/store-world.ts";

const KEYS = 120;
const SECRETS = 30;
const MASTER = random.bytes(32);
const OTHER = random.bytes(32);

let directory: string;
let settings: MaintenanceSettings;
const ports = { clock: { now: () => START }, random, env: {}, uid: process.getuid?.(), cwd: "/" };
const file = (name: string): string => join(directory, name);
const keyIn = (name: string): MaintenanceSettings["masterKey"] => ({ file: file(name), environment: undefined, allowGroup: false, pkcs11: undefined });
const open = async (master = MASTER, database = settings.database): Promise<VaultStore> =>
  openVaultStore({ url: database, master, clock: ports.clock, random });

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-vault-maintenance-"));
  for (const [name, key] of [
    ["master.key", MASTER],
    ["other.key", OTHER],
  ] as const) {
    writeFileSync(file(name), toHex(key), { mode: 0o600 });
  }
  settings = { database: file("v.sqlite"), masterKey: keyIn("master.key") };
  await using store = await open();
  for (let at = 0; at < KEYS; at++) await store.addKey(newKey(`key-${at}`), line("keys/create", `key-${at}`));
  await store.addKey(newKey("key-1"), line("keys/create", "key-1"));
  for (let at = 0; at < SECRETS; at++) await store.setSecret(newSecret(`secret-${at}`, `value ${at}`), line("secrets/set", `secret-${at}`));
  await store.deleteKey(VAULT, "key-0", line("keys/delete", "key-0"));
  await store.deleteSecret(VAULT, "secret-0", line("secrets/delete", "secret-0"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** Changes the database behind the back of its store. */
function tamper(sql: string): void {
  const database = new DatabaseSync(settings.database);
  database.exec(sql);
  database.close();
}

describe("looking after a database of vaults", () => {
  it("checks that everything opens, the deleted too, and counts it", async () => {
    const check = await checkVaultDatabase(settings, ports);
    expect(check).toMatchObject({
      database: settings.database,
      masterKey: expect.stringMatching(/^aes:[0-9a-f]{16}$/),
      wrappingKeys: [{ id: 1, state: "active", created: START, records: KEYS + 1 + SECRETS }],
      counts: { keys: KEYS, keyVersions: KEYS + 1, secrets: SECRETS, secretVersions: SECRETS, deleted: 2, auditLines: KEYS + 1 + SECRETS + 2 },
      unreadable: [],
      damage: [],
    });
    // It was a look: the same things are sealed in the same way.
    expect(await checkVaultDatabase(settings, ports)).toEqual(check);
  });

  it.each([
    ["a policy that was loosened", "UPDATE vault_key_versions SET policy = '{}' WHERE sequence = 77", { collection: "keys", name: "key-76" }],
    [
      "bytes of a deleted key",
      "UPDATE vault_key_versions SET sealed = zeroblob(80) WHERE object = (SELECT id FROM vault_keys WHERE name = 'key-0')",
      { collection: "keys", name: "key-0" },
    ],
    ["a secret of another name", "UPDATE vault_secrets SET name = 'x', name_key = 'x' WHERE name = 'secret-9'", { collection: "secrets", name: "x" }],
  ])("finds %s, and nothing else", async (_what, sql, found) => {
    tamper(sql);
    const { unreadable, counts } = await checkVaultDatabase(settings, ports);
    expect(unreadable).toEqual([{ vault: VAULT, version: expect.stringMatching(/^[0-9a-f]{32}$/), ...found }]);
    expect(counts.keyVersions).toBe(KEYS + 1);
  });

  it("finds rows that refer to nothing", async () => {
    tamper("PRAGMA foreign_keys = OFF; DELETE FROM vault_secrets WHERE name = 'secret-3'");
    expect((await checkVaultDatabase(settings, ports)).damage).toEqual([expect.stringContaining("vault_secret_versions")]);
  });

  it("rotates the wrapping key while a store is open, and tells how far it is", async () => {
    await using store = await open();
    const progress: (readonly [number, number])[] = [];
    const rotation = await rotateVaultWrappingKey(settings, ports, (done, all) => void progress.push([done, all]));
    const all = KEYS + 1 + SECRETS;
    expect(rotation).toEqual({ database: settings.database, wrappingKey: 2, records: all });
    expect(progress.length).toBeGreaterThan(2);
    expect(progress.at(-1)).toEqual([all, all]);
    expect(progress.every(([done], at) => done > (progress[at - 1]?.[0] ?? 0))).toBe(true);
    // The store that knows nothing of it reads and writes.
    const key = await store.key(VAULT, "key-5");
    expect(key && (await store.openKey(key))).toHaveLength(32);
    await store.setSecret(newSecret("later", "v"), line("secrets/set", "later"));
    const { wrappingKeys, unreadable } = await checkVaultDatabase(settings, ports);
    expect(wrappingKeys.map(({ id, state, records }) => [id, state, records])).toEqual([
      [1, "retired", 0],
      [2, "active", all + 1],
    ]);
    expect(unreadable).toEqual([]);
    expect(await readVaultAudit(settings, { operation: "wrapping-keys/rotate" }, ports)).toHaveLength(1);
  });

  it("changes the master key: the new one opens everything, the old one nothing, and a running store goes on", async () => {
    await using running = await open();
    const before = await checkVaultDatabase(settings, ports);
    const changed = await changeVaultMasterKey(settings, keyIn("other.key"), ports);
    expect(changed).toEqual({ database: settings.database, from: before.masterKey, to: expect.stringMatching(/^aes:/), wrappingKeys: 1 });
    expect(changed.to).not.toBe(changed.from);
    await expect(checkVaultDatabase(settings, ports)).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY", message: expect.stringContaining(changed.to) });
    const after = await checkVaultDatabase({ ...settings, masterKey: keyIn("other.key") }, ports);
    expect(after).toMatchObject({ masterKey: changed.to, unreadable: [], counts: { keyVersions: KEYS + 1 } });
    const key = await running.key(VAULT, "key-7");
    expect(key && (await running.openKey(key))).toHaveLength(32);
    await running.setSecret(newSecret("later", "v"), line("secrets/set", "later"));
    await using fresh = await open(OTHER);
    const secret = await fresh.secret(VAULT, "later");
    expect(secret && (await fresh.openSecret(secret))).toBe("v");
    const lines = await readVaultAudit(settings, { operation: "master-key/change" }, ports);
    expect(lines.map(({ reason }) => reason)).toEqual([
      expect.stringContaining(`wrapped by ${changed.to}`),
      expect.stringContaining(`instead of ${changed.from}`),
    ]);
  });

  it("does not change the master key to itself, or with a wrong old one", async () => {
    await expect(changeVaultMasterKey(settings, keyIn("master.key"), ports)).rejects.toMatchObject({ message: expect.stringContaining("has already") });
    await expect(changeVaultMasterKey({ ...settings, masterKey: keyIn("other.key") }, keyIn("master.key"), ports)).rejects.toMatchObject({
      code: "ERR_SEALING_MASTER_KEY",
    });
    await expect(changeVaultMasterKey(settings, keyIn("none.key"), ports)).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    expect(await readVaultAudit(settings, { operation: "master-key/change" }, ports)).toEqual([]);
    expect((await checkVaultDatabase(settings, ports)).unreadable).toEqual([]);
  });

  it("copies the database while it is written to, and the copy opens", async () => {
    await using store = await open();
    const over = new AbortController();
    const writer = (async () => {
      let count = 0;
      while (!over.signal.aborted) await store.setSecret(newSecret(`w-${count++}`, "v"), line("secrets/set", "w"));
      return count;
    })();
    const { counts } = await backupVaultDatabase({ database: settings.database }, file("copy.sqlite"), ports);
    over.abort();
    await writer;
    expect(counts.keys).toBe(KEYS);
    expect(statSync(file("copy.sqlite")).mode & 0o777).toBe(0o600);
    const check = await checkVaultDatabase({ ...settings, database: file("copy.sqlite") }, ports);
    expect(check).toMatchObject({ unreadable: [], damage: [], counts: { keyVersions: KEYS + 1 } });
    // A secret's value is not in the clear in it.
    expect(readFileSync(file("copy.sqlite")).includes("value 7")).toBe(false);
  });

  it("makes no database where there is none", async () => {
    const gone = { ...settings, database: file("none.sqlite") };
    for (const attempt of [
      async () => checkVaultDatabase(gone, ports),
      async () => rotateVaultWrappingKey(gone, ports),
      async () => changeVaultMasterKey(gone, keyIn("other.key"), ports),
      async () => backupVaultDatabase(gone, file("copy"), ports),
      async () => readVaultAudit(gone, {}, ports),
    ]) {
      await expect(attempt()).rejects.toMatchObject({ code: "ERR_KEYVAULT_STORE", message: expect.stringContaining("none.sqlite") });
    }
    expect(() => statSync(gone.database)).toThrow("ENOENT");
    expect(() => statSync(file("copy"))).toThrow("ENOENT");
  });
});
