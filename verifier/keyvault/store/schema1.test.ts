import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { toHex } from "@sealpod/core";
import { masterKeyOfBytes } from "@sealpod/sealing";
import { openVaultStore, type VaultStore, type VaultStoreOptions } from "./index.ts";
import { Schema1Writer } from "./testdata/schema1.ts";
import { DAY, found, line, MASTER, newKey, NOW, random, START, VAULT } from "./testdata/store-world.ts";

let directory: string;
const opened: VaultStore[] = [];
const file = (): string => join(directory, "keyvault.sqlite");
const open = async (change: Partial<VaultStoreOptions> = {}): Promise<VaultStore> => {
  const store = await openVaultStore({ url: file(), master: MASTER, clock: { now: () => START }, random, ...change });
  opened.push(store);
  return store;
};
const write = (fill: (writer: Schema1Writer) => void): void => {
  const writer = new Schema1Writer(file(), MASTER);
  fill(writer);
  writer.close();
};
const tables = (): readonly string[] => {
  const database = new DatabaseSync(file());
  const rows = database.prepare("SELECT name FROM sqlite_master WHERE type IN ('table', 'trigger')").all();
  database.close();
  return rows.map((row) => String(row["name"]));
};
const version = (digit: string): string => digit.repeat(32);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-vault-"));
});
afterEach(async () => {
  for (const store of opened.splice(0)) await store.close();
  rmSync(directory, { recursive: true });
});

describe("a database of schema 1", () => {
  const first = newKey("Disk", { tags: { a: "b" }, notBefore: 5, expires: NOW + 50 });
  const second = newKey("Disk", { releasePolicy: { contentType: "application/json", text: '{"v":2}', immutable: true } });
  const third = newKey("sign", {
    type: "RSA",
    hsm: false,
    exportable: false,
    releasePolicy: undefined,
    enabled: false,
    publicMembers: { n: "bg", e: "AQAB" },
    secret: random.bytes(1217),
  });
  const gone = newKey("gone", { vault: "other" });
  const fill = (writer: Schema1Writer): void => {
    // The latest is the one that was written last, whatever its version.
    writer.add(first, version("f"), NOW - 10, NOW - 5);
    writer.add(third, version("1"), NOW - 9, NOW - 9);
    writer.add(second, version("a"), NOW - 8, NOW - 7);
    writer.add(gone, version("3"), NOW - 6, NOW - 6);
    writer.add(gone, version("4"), NOW - 5, NOW - 5);
    writer.delete("other", "gone", NOW - 3, NOW - 3 + 90 * DAY);
    writer.grant(VAULT, "tenant", "app", ["get", "release"]);
    writer.grant(VAULT, "tenant", "nobody", []);
    writer.release("request 1", START - 2, "Disk", "");
    writer.release("request 2", START - 1, "Disk", "policy");
  };

  it("is carried over: keys, versions, dates, what is deleted, access, and the audit", async () => {
    write(fill);
    const store = await open();
    const { secret: _, ...firstRecord } = first;
    const { secret: __, ...secondRecord } = second;
    expect(await store.key(VAULT, "disk", version("f"))).toEqual({ ...firstRecord, version: version("f"), created: NOW - 10, updated: NOW - 5 });
    expect(await store.key(VAULT, "disk")).toEqual({ ...secondRecord, version: version("a"), created: NOW - 8, updated: NOW - 7 });
    for (const [key, digit] of [
      [first, "f"],
      [second, "a"],
      [third, "1"],
    ] as const) {
      expect(toHex(await store.openKey(found(await store.key(VAULT, key.name, version(digit)))))).toBe(toHex(key.secret));
    }
    expect(await store.deletedKey("other", "gone")).toMatchObject({ item: { version: version("4") }, deleted: NOW - 3, purge: NOW - 3 + 90 * DAY });
    await store.recoverKey("other", "gone", line("keys/recover", "gone"));
    expect(await store.listKeyVersions("other", "gone", "", 10)).toHaveLength(2);
    expect(toHex(await store.openKey(found(await store.key("other", "gone"))))).toBe(toHex(gone.secret));

    expect(await store.accessPolicies(VAULT)).toEqual([{ tenantId: "tenant", id: "app", keys: ["get", "release"], secrets: [] }]);
    const audit = await store.audit({ operation: "keys/release" });
    const shared = {
      vault: VAULT,
      operation: "keys/release",
      name: "Disk",
      version: "v",
      tenantId: "tenant",
      appid: "app",
      oid: "object",
      reason: "reason",
      authority: "https://maa.test",
      findings: [{ authority: "a", claim: "c", expected: "1", found: "2", matched: false }],
    };
    expect(audit).toEqual([
      { ...shared, id: 2, requestId: "request 2", at: START - 1, outcome: "refused", failed: "policy" },
      { ...shared, id: 1, requestId: "request 1", at: START - 2, outcome: "allowed", failed: undefined },
    ]);
    expect(await store.audit({ name: "DISK" })).toHaveLength(2);
    const left = tables();
    for (const name of ["keys", "key_versions", "grants", "releases", "master_key_check", "releases_no_update"]) expect(left).not.toContain(name);
    // Everything is under the ring: it is sealed again with the rest.
    expect(await store.rotateWrappingKey()).toBe(5);
  });

  it("opens again afterwards, and is not carried over twice", async () => {
    write(fill);
    const before = await open();
    await before.close();
    const store = await open({ master: masterKeyOfBytes(MASTER, random) });
    expect(await store.audit()).toHaveLength(2);
    expect(await store.listKeyVersions(VAULT, "disk", "", 10)).toHaveLength(2);
  });

  it("is left as it was for another master key, or none; the right one opens it still", async () => {
    write(fill);
    for (const change of [{ master: new Uint8Array(32).fill(1) }, { master: masterKeyOfBytes(MASTER, random) }, { schema1Key: new Uint8Array(32) }]) {
      await expect(open(change)).rejects.toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_STORE" }));
      expect(tables()).toContain("key_versions");
    }
    const store = await open({ master: masterKeyOfBytes(new Uint8Array(32).fill(5), random), schema1Key: MASTER });
    expect(toHex(await store.openKey(found(await store.key(VAULT, "disk"))))).toBe(toHex(second.secret));
  });

  it("is left as it was if one key does not open", async () => {
    write(fill);
    const database = new DatabaseSync(file());
    database.exec("UPDATE key_versions SET policy = '{}' WHERE policy IS NOT NULL AND name = 'gone'");
    database.close();
    await expect(open()).rejects.toThrow(/other\/gone/);
    expect(tables()).toContain("key_versions");
    const again = new DatabaseSync(file());
    expect(again.prepare("SELECT count(*) AS n FROM vault_keys").get()).toEqual({ n: 0 });
    expect(again.prepare("SELECT count(*) AS n FROM key_versions").get()).toEqual({ n: 5 });
    again.close();
  });

  it("is carried over once by two that open it", async () => {
    write(fill);
    const stores = await Promise.all([open(), open()]);
    for (const store of stores) expect(await store.listKeyVersions(VAULT, "disk", "", 10)).toHaveLength(2);
  });

  it("may be empty", async () => {
    write(() => undefined);
    const store = await open();
    expect(await store.listKeys(VAULT, "", 10)).toEqual([]);
    expect(tables()).not.toContain("keys");
  });
});
