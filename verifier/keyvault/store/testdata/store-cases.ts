import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { toHex } from "@sealpod/core";
import { openDatabase, type Database, type SqlValue } from "@sealpod/storage";
import { MAX_BACKUP, MAX_SECRET_VALUE, MAX_VERSIONS, openVaultStore, RECOVERABLE_DAYS, type AuditLine, type KeyRecord, type VaultStore, type VaultStoreOptions } from "../index.ts";
import { MAX_ACCESS_POLICIES, MAX_AUDIT_FINDINGS, MAX_AUDIT_REASON, MAX_NAMES, MAX_ROLE_ASSIGNMENTS, RESEAL_BATCH, RETIRED_KEY_AGE } from "../limits.ts";
import { MIGRATIONS } from "../schema.ts";
import { DAY, found, line, MASTER, names, newKey, newSecret, NOW, POLICY, random, START, TENANT, VAULT } from "./store-world.ts";

/** An empty database for one test. */
export interface Place {
  readonly url: string;
  remove(): Promise<void>;
}

/** What kind of databases a table of tests runs on. */
export interface Engine {
  /** An empty one. */
  place(): Promise<Place>;
  /** False for `:memory:`: what one store has written, no other can see. */
  readonly shared: boolean;
}

/** The tests of {@link VaultStore}, for every engine the same. */
export function storeCases(title: string, engine: Engine): void {
  describe(`the vault store on ${title}`, () => {
    let time: number;
    let place: Place;
    let store: VaultStore;
    const others: { close(): Promise<void> }[] = [];
    const places: Place[] = [];
    const clock = { now: () => time };
    const open = async (change: Partial<VaultStoreOptions> = {}): Promise<VaultStore> => {
      const opened = await openVaultStore({ url: place.url, master: MASTER, clock, random, ...change });
      others.push(opened);
      return opened;
    };
    const openElsewhere = async (change: Partial<VaultStoreOptions> = {}): Promise<VaultStore> => {
      const elsewhere = await engine.place();
      places.push(elsewhere);
      return open({ url: elsewhere.url, ...change });
    };
    /** The database as somebody sees it who has no master key. */
    const raw = async (): Promise<Database> => {
      const database = await openDatabase({ url: place.url, name: "keyvault", migrations: MIGRATIONS });
      others.push(database);
      return database;
    };
    const lines = async (): Promise<readonly string[]> => (await store.audit({ limit: 1000 })).map(({ operation, name }) => `${operation} ${name}`).toReversed();

    beforeEach(async () => {
      time = START;
      place = await engine.place();
      places.push(place);
      store = await open();
    });
    afterEach(async () => {
      for (const one of others.splice(0)) await one.close();
      for (const one of places.splice(0)) await one.remove();
    });

    describe("keys", () => {
      it("keep everything that they are made of", async () => {
        const key = newKey("Disk-Key", { notBefore: NOW - 5, expires: NOW + 5, enabled: false, tags: { team: "a", __proto__x: "\u0000 é" } });
        const added = await store.addKey(key, line("keys/import", "Disk-Key"));
        const { secret, ...rest } = key;
        expect(added).toEqual({ ...rest, version: added.version, created: NOW, updated: NOW });
        expect(added.version).toMatch(/^[0-9a-f]{32}$/);
        expect(await store.key(VAULT, "Disk-Key")).toEqual(added);
        expect(toHex(await store.openKey(added))).toBe(toHex(secret));
      });

      it("keep public members, and a key without a policy", async () => {
        const key = newKey("sign", { type: "EC", hsm: false, publicMembers: { crv: "P-256", x: "eA", y: "eQ" }, exportable: false, releasePolicy: undefined });
        await store.addKey(key, line("keys/create", "sign"));
        const stored = found(await store.key(VAULT, "sign"));
        expect(stored).toMatchObject({ type: "EC", hsm: false, publicMembers: { crv: "P-256", x: "eA", y: "eQ" }, exportable: false });
        expect(stored.releasePolicy).toBeUndefined();
      });

      it("have versions, of which the last is the latest", async () => {
        const first = await store.addKey(newKey("k"), line("keys/create", "k"));
        time += 1000;
        const second = await store.addKey(newKey("k", { tags: { n: "2" } }), line("keys/create", "k"));
        expect(await store.key(VAULT, "k")).toEqual(second);
        expect(await store.key(VAULT, "k", first.version)).toEqual(first);
        expect(await store.key(VAULT, "k", "0".repeat(32))).toBeUndefined();
        expect(await store.key(VAULT, "k", "no\0version")).toBeUndefined();
        expect(await store.key("other", "k")).toBeUndefined();
        expect(second.created).toBe(NOW + 1);
        expect(await store.listKeys(VAULT, "", 10)).toEqual([second]);
        const versions = [first, second].toSorted((a, b) => (a.version < b.version ? -1 : 1));
        expect(await store.listKeyVersions(VAULT, "k", "", 10)).toEqual(versions);
        expect(await store.listKeyVersions(VAULT, "k", versions[0]?.version ?? "", 10)).toEqual(versions.slice(1));
        expect(await store.listKeyVersions(VAULT, "k", "", 1)).toEqual(versions.slice(0, 1));
      });

      it("are found without regard to letter case, and keep the case of the first", async () => {
        const first = await store.addKey(newKey("MyKey"), line("keys/create", "MyKey"));
        const second = await store.addKey(newKey("mykey"), line("keys/create", "mykey"));
        expect(second.name).toBe("MyKey");
        expect(toHex(await store.openKey(found(await store.key(VAULT, "MYKEY", first.version.toUpperCase()))))).toBe(toHex(await store.openKey(first)));
        expect((await store.audit({ name: "MYKEY" })).map(({ name, version }) => [name, version])).toEqual([
          ["MyKey", second.version],
          ["MyKey", first.version],
        ]);
      });

      it("are listed by name, in pages, by the bytes of the name in lower case", async () => {
        for (const name of ["b", "A-1", "a0", "C", "a-2", "a"]) await store.addKey(newKey(name), line("keys/create", name));
        await store.addKey(newKey("z", { vault: "other" }), line("keys/create", "z"));
        expect(names(await store.listKeys(VAULT, "", 100))).toEqual(["a", "A-1", "a-2", "a0", "b", "C"]);
        expect(names(await store.listKeys(VAULT, "A-1", 2))).toEqual(["a-2", "a0"]);
        expect(names(await store.listKeys(VAULT, "B", 100))).toEqual(["C"]);
      });

      it("are not added when the check refuses, and leave no line", async () => {
        const latest: (string | undefined)[] = [];
        const first = await store.addKey(newKey("k"), line("keys/create", "k"), (key) => void latest.push(key?.version));
        const refuse = (key: KeyRecord | undefined): void => {
          latest.push(key?.version);
          throw new TypeError("not this one");
        };
        await expect(store.addKey(newKey("k"), line("keys/create", "k"), refuse)).rejects.toThrow("not this one");
        await expect(store.addKey(newKey("new"), line("keys/create", "new"), refuse)).rejects.toThrow("not this one");
        expect(latest).toEqual([undefined, first.version, undefined]);
        expect(await store.listKeyVersions(VAULT, "k", "", 10)).toEqual([first]);
        expect(await store.key(VAULT, "new")).toBeUndefined();
        expect(await lines()).toEqual(["keys/create k"]);
      });

      it("are succeeded by what is made of the latest version, or not at all", async () => {
        const first = await store.addKey(newKey("K", { tags: { n: "1" } }), line("keys/create", "K"));
        await store.setRotationPolicy(VAULT, "k", { text: '{"p":1}', due: undefined }, line("keys/setrotationpolicy", "k"));
        const secret = random.bytes(32);
        const succeed = async (make: Parameters<VaultStore["succeedKey"]>[3], name = "k"): Promise<KeyRecord | undefined> => store.succeedKey(VAULT, name, line("keys/rotate", name), make);
        const second = await succeed((latest, rotation) => {
          expect([latest, rotation?.text]).toEqual([first, '{"p":1}']);
          return { ...newKey("ignored", { tags: { n: "2" } }), secret };
        });
        expect(second).toMatchObject({ name: "K", tags: { n: "2" } });
        expect(toHex(await store.openKey(found(await store.key(VAULT, "k"))))).toBe(toHex(secret));
        const before = await lines();
        expect(before.at(-1)).toBe("keys/rotate K");
        expect(await succeed(() => undefined)).toBeUndefined();
        const refuse = (): never => {
          throw new TypeError("not this one");
        };
        await expect(succeed(refuse)).rejects.toThrow("not this one");
        await expect(succeed(refuse, "none")).rejects.toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_NOT_FOUND" }));
        await expect(store.requireKeyRoom(VAULT, "none")).resolves.toBeUndefined();
        await expect(store.requireKeyRoom(VAULT, "k")).resolves.toBeUndefined();
        await store.deleteKey(VAULT, "k", line("keys/delete", "k"));
        const conflict = expect.objectContaining({ code: "ERR_KEYVAULT_CONFLICT" });
        await expect(succeed(refuse)).rejects.toThrow(conflict);
        await expect(store.requireKeyRoom(VAULT, "k")).rejects.toThrow(conflict);
        expect(await lines()).toEqual([...before, "keys/delete k"]);
      });

      it("change, and open as before", async () => {
        const key = newKey("k", { expires: NOW + 10 });
        const first = await store.addKey(key, line("keys/create", "k"));
        const other = await store.addKey(newKey("k"), line("keys/create", "k"));
        time += 2000;
        const policy = { contentType: "application/json", text: '{"other":1}', immutable: true };
        const seen: KeyRecord[] = [];
        const changed = found(
          await store.updateKey(
            VAULT,
            "K",
            first.version,
            (now) => {
              seen.push(now);
              return { enabled: false, expires: undefined, notBefore: 3, keyOps: ["encrypt"], tags: { a: "b" }, releasePolicy: policy };
            },
            line("keys/update", "k"),
          ),
        );
        expect(seen).toEqual([first]);
        expect(changed).toEqual({
          ...first,
          enabled: false,
          expires: undefined,
          notBefore: 3,
          keyOps: ["encrypt"],
          tags: { a: "b" },
          releasePolicy: policy,
          updated: NOW + 2,
        });
        expect(await store.key(VAULT, "k", first.version)).toEqual(changed);
        expect(await store.key(VAULT, "k")).toEqual(other);
        for (const record of [changed, found(await store.key(VAULT, "k", first.version)), { ...changed }]) {
          expect(toHex(await store.openKey(record))).toBe(toHex(key.secret));
        }
        expect(await store.updateKey(VAULT, "none", undefined, () => ({}), line("keys/update", "none"))).toBeUndefined();
        expect(await store.updateKey(VAULT, "k", "0".repeat(32), () => ({}), line("keys/update", "k"))).toBeUndefined();
        expect((await store.updateKey(VAULT, "k", undefined, () => ({ tags: { x: "y" } }), line("keys/update", "k")))?.version).toBe(other.version);
        expect(await lines()).toEqual(["keys/create k", "keys/create k", "keys/update k", "keys/update k"]);
      });

      it("do not change when the change is refused", async () => {
        const first = await store.addKey(newKey("k"), line("keys/create", "k"));
        const refuse = (): never => {
          throw new TypeError("immutable");
        };
        await expect(store.updateKey(VAULT, "k", undefined, refuse, line("keys/update", "k"))).rejects.toThrow("immutable");
        expect(await store.key(VAULT, "k")).toEqual(first);
        expect(await lines()).toEqual(["keys/create k"]);
      });

      it("open as they were when they were read, and only so", async () => {
        const key = newKey("k");
        const before = await store.addKey(key, line("keys/create", "k"));
        const copy = { ...before };
        expect(toHex(await store.openKey(copy))).toBe(toHex(key.secret));
        // A record that somebody made looser than it is opens nothing.
        await expect(store.openKey({ ...before, releasePolicy: undefined })).rejects.toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_CONFLICT" }));
        await store.updateKey(VAULT, "k", undefined, () => ({ enabled: false }), line("keys/update", "k"));
        expect(toHex(await store.openKey(before))).toBe(toHex(key.secret));
        await expect(store.openKey(copy)).rejects.toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_CONFLICT" }));
        await store.deleteKey(VAULT, "k", line("keys/delete", "k"));
        await expect(store.openKey(copy)).rejects.toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_NOT_FOUND" }));
      });

      it("have no more versions than the limit", async () => {
        for (let i = 0; i < MAX_VERSIONS; i++) await store.addKey(newKey("k"), line("keys/rotate", "k"));
        await expect(store.addKey(newKey("k"), line("keys/rotate", "k"))).rejects.toThrow(
          expect.objectContaining({ code: "ERR_KEYVAULT_LIMIT", message: expect.stringContaining("500 versions") as string }),
        );
        expect(await store.listKeyVersions(VAULT, "k", "", 1000)).toHaveLength(MAX_VERSIONS);
      });
    });

    describe("soft delete", () => {
      it("hides, blocks the name, gives back, and destroys", async () => {
        const first = await store.addKey(newKey("Key"), line("keys/create", "Key"));
        const second = await store.addKey(newKey("Key"), line("keys/create", "Key"));
        expect(await store.deletedKey(VAULT, "key")).toBeUndefined();
        expect(await store.purgeKey(VAULT, "key", line("keys/purge", "key"))).toBe(false);
        expect(await store.recoverKey(VAULT, "key", line("keys/recover", "key"))).toBeUndefined();
        time += 5000;
        const deleted = { item: second, deleted: NOW + 5, purge: NOW + 5 + RECOVERABLE_DAYS * DAY };
        expect(await store.deleteKey(VAULT, "KEY", line("keys/delete", "Key"))).toEqual(deleted);
        expect(await store.deleteKey(VAULT, "key", line("keys/delete", "key"))).toBeUndefined();
        expect(await store.deletedKey(VAULT, "key")).toEqual(deleted);
        expect(await store.key(VAULT, "key")).toBeUndefined();
        expect(await store.key(VAULT, "key", first.version)).toBeUndefined();
        expect(await store.listKeys(VAULT, "", 10)).toEqual([]);
        expect(await store.listKeyVersions(VAULT, "key", "", 10)).toEqual([]);
        expect(await store.updateKey(VAULT, "key", undefined, () => ({}), line("keys/update", "key"))).toBeUndefined();
        expect(await store.backupKey(VAULT, "key", line("keys/backup", "key"), "vault")).toBeUndefined();
        const conflict = expect.objectContaining({ code: "ERR_KEYVAULT_CONFLICT", message: expect.stringContaining("Key Key is currently in a deleted but recoverable state") as string });
        await expect(store.addKey(newKey("kEy"), line("keys/create", "kEy"))).rejects.toThrow(conflict);

        expect(await store.recoverKey(VAULT, "key", line("keys/recover", "Key"))).toEqual(second);
        expect(await store.key(VAULT, "key", first.version)).toEqual(first);
        expect(await store.deletedKey(VAULT, "key")).toBeUndefined();
        await store.deleteKey(VAULT, "key", line("keys/delete", "Key"));
        expect(await store.purgeKey(VAULT, "key", line("keys/purge", "Key"))).toBe(true);
        expect(await store.deletedKey(VAULT, "key")).toBeUndefined();
        expect(await store.addKey(newKey("key"), line("keys/create", "key"))).toMatchObject({ name: "key" });
        expect(await store.listKeyVersions(VAULT, "key", "", 10)).toHaveLength(1);
        expect(await lines()).toEqual([
          "keys/create Key",
          "keys/create Key",
          "keys/delete Key",
          "keys/recover Key",
          "keys/delete Key",
          "keys/purge Key",
          "keys/create key",
        ]);
      });

      it("lists what is deleted, in pages", async () => {
        for (const name of ["c", "A", "b", "d"]) {
          await store.setSecret(newSecret(name, name), line("secrets/set", name));
          await store.setSecret(newSecret(name, `${name} 2`), line("secrets/set", name));
        }
        for (const name of ["c", "a", "b"]) await store.deleteSecret(VAULT, name, line("secrets/delete", name));
        const deleted = await store.listDeletedSecrets(VAULT, "", 10);
        expect(deleted.map(({ item }) => item.name)).toEqual(["A", "b", "c"]);
        expect(deleted[0]).toEqual(await store.deletedSecret(VAULT, "A"));
        expect((await store.listDeletedSecrets(VAULT, "A", 1)).map(({ item }) => item.name)).toEqual(["b"]);
        expect(names(await store.listSecrets(VAULT, "", 10))).toEqual(["d"]);
        expect(await store.listDeletedKeys(VAULT, "", 10)).toEqual([]);
      });

      it("purges by date, with a line for each", async () => {
        for (let i = 0; i < 25; i++) await store.setSecret(newSecret(`s${i}`, "x"), line("secrets/set", `s${i}`));
        await store.addKey(newKey("k"), line("keys/create", "k"));
        await store.addKey(newKey("later"), line("keys/create", "later"));
        for (let i = 0; i < 25; i++) await store.deleteSecret(VAULT, `s${i}`, line("secrets/delete", `s${i}`));
        await store.deleteKey(VAULT, "k", line("keys/delete", "k"));
        time += 1000;
        await store.deleteKey(VAULT, "later", line("keys/delete", "later"));
        time = START + RECOVERABLE_DAYS * DAY * 1000 - 1;
        expect(await store.purgeExpired()).toBe(0);
        time += 1;
        expect(await store.purgeExpired()).toBe(26);
        expect(await store.purgeExpired()).toBe(0);
        expect(await store.deletedKey(VAULT, "k")).toBeUndefined();
        expect(await store.deletedKey(VAULT, "later")).toBeDefined();
        expect(await store.listDeletedSecrets(VAULT, "", 100)).toEqual([]);
        const purges = [...(await store.audit({ vault: VAULT, operation: "secrets/purge" })), ...(await store.audit({ vault: VAULT, operation: "keys/purge" }))];
        expect(new Set(purges.map(({ name }) => name)).size).toBe(26);
        for (const purge of purges) expect(purge).toMatchObject({ outcome: "allowed", requestId: expect.stringMatching(/^schedule [0-9a-f-]{36}$/) as string, at: time });
      });
    });

    describe("secrets", () => {
      it("keep value, attributes and versions", async () => {
        const first = await store.setSecret(newSecret("Password", "p\u0000 ä 🔑", { contentType: "text/plain", tags: { a: "b" }, expires: NOW + 9 }), line("secrets/set", "Password"));
        const second = await store.setSecret(newSecret("password", ""), line("secrets/set", "password"));
        expect(first).toEqual({
          vault: VAULT,
          name: "Password",
          version: first.version,
          contentType: "text/plain",
          enabled: true,
          notBefore: undefined,
          expires: NOW + 9,
          created: NOW,
          updated: NOW,
          tags: { a: "b" },
        });
        expect(second.name).toBe("Password");
        expect(await store.secret(VAULT, "password", first.version)).toEqual(first);
        expect(await store.secret(VAULT, "password")).toEqual(second);
        expect(await store.openSecret(first)).toBe("p\u0000 ä 🔑");
        expect(await store.openSecret({ ...first })).toBe("p\u0000 ä 🔑");
        expect(await store.openSecret(second)).toBe("");
        expect(await store.listSecretVersions(VAULT, "PASSWORD", "", 10)).toHaveLength(2);
        const update = { contentType: undefined, enabled: false, expires: undefined, notBefore: 1, tags: {} };
        const changed = found(await store.updateSecret(VAULT, "password", first.version, update, line("secrets/update", "password")));
        expect(changed).toEqual({ ...first, ...update });
        expect(await store.secret(VAULT, "password", first.version)).toEqual(changed);
        expect(await store.openSecret(changed)).toBe("p\u0000 ä 🔑");
        expect(await store.updateSecret(VAULT, "none", undefined, {}, line("secrets/update", "none"))).toBeUndefined();
        expect(await lines()).toEqual(["secrets/set Password", "secrets/set Password", "secrets/update Password"]);
      });

      it("are others than the keys of the same name", async () => {
        await store.addKey(newKey("x"), line("keys/create", "x"));
        expect(await store.secret(VAULT, "x")).toBeUndefined();
        await store.setSecret(newSecret("x", "value"), line("secrets/set", "x"));
        await store.deleteKey(VAULT, "x", line("keys/delete", "x"));
        expect(await store.openSecret(found(await store.secret(VAULT, "x")))).toBe("value");
        expect(await store.recoverSecret(VAULT, "x", line("secrets/recover", "x"))).toBeUndefined();
        expect(await store.purgeSecret(VAULT, "x", line("secrets/purge", "x"))).toBe(false);
      });

      it("are as large as the service allows, counted in UTF-8", async () => {
        const largest = "é".repeat(MAX_SECRET_VALUE / 2);
        expect(await store.openSecret(await store.setSecret(newSecret("s", largest), line("secrets/set", "s")))).toBe(largest);
        const refused = expect.objectContaining({ code: "ERR_KEYVAULT_BAD_PARAMETER" });
        await expect(store.setSecret(newSecret("s", `${largest}a`), line("secrets/set", "s"))).rejects.toThrow(refused);
        await expect(store.setSecret(newSecret("s", "\ud800"), line("secrets/set", "s"))).rejects.toThrow(refused);
        await expect(store.setSecret(newSecret("s", "a", { contentType: "a\0" }), line("secrets/set", "s"))).rejects.toThrow(refused);
        expect(await store.listSecretVersions(VAULT, "s", "", 10)).toHaveLength(1);
      });
    });

    describe("rotation policies", () => {
      it("belong to the key, and say when it is due", async () => {
        for (const name of ["a", "b", "c"]) await store.addKey(newKey(name), line("keys/create", name));
        expect(await store.rotationPolicy(VAULT, "a")).toBeUndefined();
        const set = (name: string, due: number | undefined, text = "{}"): Promise<unknown> =>
          store.setRotationPolicy(VAULT, name, { text, due }, line("keys/setrotationpolicy", name));
        expect(await set("A", NOW + 10, '{"x":1}')).toEqual({ text: '{"x":1}', created: NOW, updated: NOW, due: NOW + 10 });
        time += 1000;
        await set("b", NOW + 5);
        await set("c", undefined);
        expect(await store.dueRotations(NOW + 4, 10)).toEqual([]);
        expect(await store.dueRotations(NOW + 10, 10)).toEqual([
          { vault: VAULT, name: "b" },
          { vault: VAULT, name: "a" },
        ]);
        expect(await store.dueRotations(NOW + 10, 1)).toEqual([{ vault: VAULT, name: "b" }]);
        await set("a", NOW + 20);
        expect(await store.rotationPolicy(VAULT, "a")).toEqual({ text: "{}", created: NOW, updated: NOW + 1, due: NOW + 20 });
        await store.deleteKey(VAULT, "b", line("keys/delete", "b"));
        expect(await store.dueRotations(NOW + 30, 10)).toEqual([{ vault: VAULT, name: "a" }]);
        expect(await store.rotationPolicy(VAULT, "b")).toBeUndefined();
        await expect(set("b", 1)).rejects.toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_NOT_FOUND" }));
        await expect(set("none", 1)).rejects.toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_NOT_FOUND" }));
        expect(await store.audit({ vault: VAULT, operation: "keys/setrotationpolicy" })).toHaveLength(4);
      });

      it("are scheduled by what is there then, and keep all else", async () => {
        const key = await store.addKey(newKey("k"), line("keys/create", "k"));
        const schedule = async (due: number | undefined, name = "K"): Promise<boolean> =>
          store.scheduleRotation(
            VAULT,
            name,
            (policy, latest) => (expect([policy.text, latest]).toEqual(['{"a":1}', key]), due),
            (decided) => line("keys/schedule-rotation", name, { reason: String(decided) }),
          );
        expect(await schedule(1)).toBe(false);
        await store.setRotationPolicy(VAULT, "k", { text: '{"a":1}', due: NOW + 10 }, line("keys/setrotationpolicy", "k"));
        time += 5000;
        expect([await schedule(NOW + 10), await schedule(NOW + 3), await schedule(undefined), await schedule(NOW + 4)]).toEqual([false, true, true, true]);
        expect(await store.rotationPolicy(VAULT, "k")).toEqual({ text: '{"a":1}', created: NOW, updated: NOW, due: NOW + 4 });
        expect((await store.audit({ operation: "keys/schedule-rotation" })).map(({ reason }) => reason)).toEqual([NOW + 4, undefined, NOW + 3].map(String));
        expect(await schedule(1, "none")).toBe(false);
        await store.deleteKey(VAULT, "k", line("keys/delete", "k"));
        expect(await schedule(1)).toBe(false);
      });
    });

    describe("backups", () => {
      it("bring all versions of a key into another database and another vault", async () => {
        const secrets = [newKey("Key", { tags: { n: "1" } }), newKey("Key", { expires: NOW + 7 }), newKey("Key", { enabled: false })];
        const versions: KeyRecord[] = [];
        for (const key of secrets) versions.push(await store.addKey(key, line("keys/create", "Key")));
        await store.setRotationPolicy(VAULT, "key", { text: '{"p":1}', due: NOW + 3 }, line("keys/setrotationpolicy", "key"));
        const backup = found(await store.backupKey(VAULT, "key", line("keys/backup", "key"), "vault"));
        expect(await store.backupKey(VAULT, "none", line("keys/backup", "none"), "vault")).toBeUndefined();
        expect((await store.audit({ limit: 1 }))[0]).toMatchObject({ operation: "keys/backup", name: "Key" });
        for (const { secret } of secrets) expect(Buffer.from(backup).includes(Buffer.from(secret))).toBe(false);

        time += 60_000;
        for (const [target, vault] of [
          [store, "second"],
          [await openElsewhere(), VAULT],
        ] as const) {
          const restored = await target.restoreKey(vault, backup, line("keys/restore", "", { vault }));
          expect(restored).toEqual({ ...versions[2], vault });
          for (const [i, version] of versions.entries()) {
            const record = found(await target.key(vault, "key", version.version));
            expect(record).toEqual({ ...version, vault });
            expect(toHex(await target.openKey(record))).toBe(toHex(secrets[i]?.secret ?? new Uint8Array()));
          }
          expect(await target.rotationPolicy(vault, "key")).toEqual({ text: '{"p":1}', created: NOW, updated: NOW, due: NOW + 3 });
          expect((await target.audit({ limit: 1 }))[0]).toMatchObject({ operation: "keys/restore", name: "Key", version: versions[2]?.version });
        }
      });

      it("bring all versions of a secret back", async () => {
        for (const value of ["one", "two"]) await store.setSecret(newSecret("S", value, { contentType: value }), line("secrets/set", "S"));
        const backup = found(await store.backupSecret(VAULT, "s", line("secrets/backup", "s")));
        await store.deleteSecret(VAULT, "s", line("secrets/delete", "s"));
        await store.purgeSecret(VAULT, "s", line("secrets/purge", "s"));
        const latest = await store.restoreSecret(VAULT, backup, line("secrets/restore"));
        expect(latest).toMatchObject({ name: "S", contentType: "two" });
        expect(await store.openSecret(latest)).toBe("two");
        const versions = await store.listSecretVersions(VAULT, "s", "", 10);
        expect(new Set(await Promise.all(versions.map((one) => store.openSecret(one))))).toEqual(new Set(["one", "two"]));
      });

      it("do not replace what is there, deleted or not", async () => {
        await store.addKey(newKey("k"), line("keys/create", "k"));
        const backup = found(await store.backupKey(VAULT, "k", line("keys/backup", "k"), "vault"));
        const before = await lines();
        const conflict = expect.objectContaining({ code: "ERR_KEYVAULT_CONFLICT" });
        await expect(store.restoreKey(VAULT, backup, line("keys/restore"))).rejects.toThrow(conflict);
        await store.deleteKey(VAULT, "k", line("keys/delete", "k"));
        await expect(store.restoreKey(VAULT, backup, line("keys/restore"))).rejects.toThrow(conflict);
        expect(await lines()).toEqual([...before, "keys/delete k"]);
      });

      it("are refused with any byte changed, cut, of the other kind, too large, or under another master key", async () => {
        await store.addKey(newKey("k"), line("keys/create", "k"));
        await store.setSecret(newSecret("s", "v"), line("secrets/set", "s"));
        const backup = found(await store.backupKey(VAULT, "k", line("keys/backup", "k"), "vault"));
        const secret = found(await store.backupSecret(VAULT, "s", line("secrets/backup", "s")));
        const refused = expect.objectContaining({ code: "ERR_KEYVAULT_BAD_PARAMETER" });
        for (let at = 0; at < backup.length; at += at < 80 ? 1 : 37) {
          const changed = Uint8Array.from(backup);
          changed[at] = (changed[at] ?? 0) ^ 1;
          await expect(store.restoreKey("second", changed, line("keys/restore")), `byte ${at}`).rejects.toThrow(refused);
        }
        for (const length of [0, 3, 5, 6, 7, 40, backup.length - 1]) {
          await expect(store.restoreKey("second", backup.subarray(0, length), line("keys/restore"))).rejects.toThrow(refused);
        }
        await expect(store.restoreKey("second", Uint8Array.from([...backup, 0]), line("keys/restore"))).rejects.toThrow(refused);
        await expect(store.restoreKey("second", secret, line("keys/restore"))).rejects.toThrow(refused);
        await expect(store.restoreSecret("second", backup, line("secrets/restore"))).rejects.toThrow(refused);
        const disguised = Uint8Array.from(secret);
        disguised[5] = 1;
        await expect(store.restoreKey("second", disguised, line("keys/restore"))).rejects.toThrow(refused);
        await expect(store.restoreKey("second", new Uint8Array(MAX_BACKUP + 1), line("keys/restore"))).rejects.toThrow(refused);
        const other = await openElsewhere({ master: new Uint8Array(32).fill(8) });
        await expect(other.restoreKey(VAULT, backup, line("keys/restore"))).rejects.toThrow(refused);
        expect(await store.listKeys("second", "", 10)).toEqual([]);
        expect(await store.restoreKey("second", backup, line("keys/restore"))).toMatchObject({ name: "k" });
      });

      it("say which vault they are from, and of what kind, to who decides", async () => {
        await store.addKey(newKey("k"), line("keys/create", "k"));
        await store.setSecret(newSecret("s", "v"), line("secrets/set", "s"));
        const origins: unknown[] = [];
        for (const kind of ["vault", "managedhsm"] as const) {
          const backup = found(await store.backupKey(VAULT, "k", line("keys/backup", "k"), kind));
          const refuse = (key: KeyRecord, origin: unknown): void => {
            origins.push([key.type, origin]);
            throw new TypeError("not from there");
          };
          await expect(store.restoreKey("second", backup, line("keys/restore"), refuse)).rejects.toThrow("not from there");
        }
        const secret = found(await store.backupSecret(VAULT, "s", line("secrets/backup", "s")));
        await store.restoreSecret("second", secret, line("secrets/restore"), (_secret, origin) => void origins.push(origin));
        expect(origins).toEqual([["oct", { vault: VAULT, kind: "vault" }], ["oct", { vault: VAULT, kind: "managedhsm" }], { vault: VAULT, kind: "vault" }]);
        expect(await store.listKeys("second", "", 10)).toEqual([]);
      });

      it("that could not be restored are not made, and all others can be", async () => {
        // What fits by its sealed parts alone does not fit in base64url; a little less does.
        const value = "\u0001".repeat(MAX_SECRET_VALUE);
        const versions = Math.floor(((MAX_BACKUP / 4) * 3) / MAX_SECRET_VALUE);
        const add = async (): Promise<unknown> => store.setSecret(newSecret("s", value), line("secrets/set", "s"));
        for (let count = 1; count < versions; count++) await add();
        const backup = found(await store.backupSecret(VAULT, "s", line("secrets/backup", "s")));
        expect(backup.length).toBeLessThan(MAX_BACKUP);
        // The service takes 2 MiB as a body by default.
        expect(Math.ceil(MAX_BACKUP / 3) * 4 + 2048).toBeLessThan(2 * 1024 * 1024);
        await store.restoreSecret("second", backup, line("secrets/restore", "s"));
        await Promise.all([add(), add(), add()]);
        const before = await lines();
        const tooLarge = expect.objectContaining({ code: "ERR_KEYVAULT_LIMIT", message: expect.stringMatching(/could not be restored/) as string });
        await expect(store.backupSecret(VAULT, "s", line("secrets/backup", "s"))).rejects.toThrow(tooLarge);
        // Policies count as well, before they are read.
        const releasePolicy = { contentType: "application/json", text: JSON.stringify("p".repeat(60_000)), immutable: false };
        for (let count = 0; count < 28; count++) await store.addKey(newKey("k", { releasePolicy }), line("keys/create", "k"));
        await expect(store.backupKey(VAULT, "k", line("keys/backup", "k"), "vault")).rejects.toThrow(tooLarge);
        expect((await lines()).filter((one) => one.includes("backup"))).toEqual(before.filter((one) => one.includes("backup")));
      });
    });

    describe("access policies", () => {
      const principal = { tenantId: TENANT, id: "AAAA" };
      const caller = { tenantId: TENANT, appid: "aaaa", oid: "oooo" };

      it("replace the categories that are given", async () => {
        const set = (permissions: Parameters<VaultStore["setAccessPolicy"]>[2]): Promise<unknown> =>
          store.setAccessPolicy(VAULT, principal, permissions, line("access/set-policy", "AAAA"));
        expect(await set({ keys: ["WRAPKEY" as "wrapKey", "get", "get"], secrets: ["get"] })).toEqual({ tenantId: TENANT, id: "aaaa", keys: ["get", "wrapKey"], secrets: ["get"] });
        expect(await set({ keys: ["list"] })).toMatchObject({ keys: ["list"], secrets: ["get"] });
        expect(await set({ secrets: [] })).toMatchObject({ keys: ["list"], secrets: [] });
        expect(await set({})).toMatchObject({ keys: ["list"], secrets: [] });
        expect(await store.accessPolicies(VAULT)).toEqual([{ tenantId: TENANT, id: "aaaa", keys: ["list"], secrets: [] }]);
        expect(await store.accessPolicies("other")).toEqual([]);
        expect(await set({ keys: [] })).toMatchObject({ keys: [], secrets: [] });
        expect(await store.accessPolicies(VAULT)).toEqual([]);
        expect(await lines()).toHaveLength(5);
        await expect(set({ keys: ["everything" as "get"] })).rejects.toThrow(/everything/);
        await expect(set({ secrets: ["release" as "get"] })).rejects.toThrow(/release/);
        await expect(store.setAccessPolicy(VAULT, { tenantId: TENANT, id: "" }, { keys: ["get"] }, line("access/set-policy"))).rejects.toThrow(/principal/i);
        expect(await lines()).toHaveLength(5);
      });

      it("are found by application and by object, in their tenant and vault", async () => {
        await store.setAccessPolicy(VAULT, { tenantId: TENANT, id: "aaaa" }, { keys: ["get"] }, line("access/set-policy"));
        await store.setAccessPolicy(VAULT, { tenantId: TENANT, id: "OOOO" }, { secrets: ["list"] }, line("access/set-policy"));
        await store.setAccessPolicy(VAULT, { tenantId: "other", id: "aaaa" }, { keys: ["purge"] }, line("access/set-policy"));
        await store.setAccessPolicy("other", { tenantId: TENANT, id: "aaaa" }, { keys: ["purge"] }, line("access/set-policy"));
        const role = { name: "R1", tenantId: TENANT, id: "oooo", role: "READER", scope: "/keys" };
        await store.addRoleAssignment(VAULT, role, line("access/add-role"));
        expect(await store.accessOf(VAULT, caller)).toEqual({
          policies: [
            { tenantId: TENANT, id: "aaaa", keys: ["get"], secrets: [] },
            { tenantId: TENANT, id: "oooo", keys: [], secrets: ["list"] },
          ],
          roles: [{ name: "r1", tenantId: TENANT, id: "oooo", role: "reader", scope: "/keys" }],
        });
        expect((await store.accessOf(VAULT, { tenantId: TENANT.toUpperCase(), appid: "AAAA", oid: "" })).policies).toHaveLength(1);
        expect(await store.accessOf(VAULT, { tenantId: TENANT, appid: "", oid: "" })).toEqual({ policies: [], roles: [] });
        expect((await store.accessOf(VAULT, { ...caller, tenantId: "third" })).policies).toEqual([]);
        await store.setAccessPolicy(VAULT, { tenantId: TENANT, id: "AAAA" }, { keys: [] }, line("access/set-policy"));
        expect((await store.accessOf(VAULT, caller)).policies).toHaveLength(1);
      });
    });

    describe("role assignments", () => {
      const assignment = { name: "0A", tenantId: TENANT, id: "Who", role: "R", scope: "/keys/Disk" };

      it("are added once, listed, and taken away", async () => {
        const add = (change: Partial<typeof assignment>): Promise<unknown> => store.addRoleAssignment(VAULT, { ...assignment, ...change }, line("access/add-role", change.name ?? "0A"));
        const stored = { name: "0a", tenantId: TENANT, id: "who", role: "r", scope: "/keys/Disk" };
        expect(await add({})).toEqual(stored);
        const conflict = expect.objectContaining({ code: "ERR_KEYVAULT_CONFLICT" });
        await expect(add({ role: "other" })).rejects.toThrow(conflict);
        await expect(add({ name: "0b", scope: "/KEYS/disk", id: "WHO", role: "r" })).rejects.toThrow(conflict);
        await add({ name: "0b", scope: "/" });
        await store.addRoleAssignment("other", assignment, line("access/add-role"));
        expect(await store.roleAssignments(VAULT)).toEqual([stored, { ...stored, name: "0b", scope: "/" }]);
        expect(await store.removeRoleAssignment(VAULT, "0A", line("access/remove-role", "0A"))).toEqual(stored);
        expect(await store.removeRoleAssignment(VAULT, "0a", line("access/remove-role", "0a"))).toBeUndefined();
        expect(await store.roleAssignments(VAULT)).toHaveLength(1);
        expect(await store.roleAssignments("other")).toHaveLength(1);
        expect(await lines()).toEqual(["access/add-role 0A", "access/add-role 0b", "access/add-role ", "access/remove-role 0A"]);
        await expect(add({ name: "0c", id: "" })).rejects.toThrow(/principal/i);
      });
    });

    describe("the audit", () => {
      it("keeps every field, gives the latest first, and is filtered and paged", async () => {
        const findings = [
          { authority: "https://maa.test", claim: "c", expected: '"a"', found: undefined, matched: false },
          { authority: "https://maa.test", claim: "d", expected: '"b"', found: '"b"', matched: true },
        ];
        const full = line("keys/release", "K1", { version: "v", outcome: "refused", failed: "policy", reason: "no", authority: "https://maa.test", findings, at: START + 3 });
        await store.appendAudit(line("keys/get", "k1"));
        await store.appendAudit(full);
        await store.appendAudit(line("keys/get", "k2", { vault: "other" }));
        const all = await store.audit();
        expect(all.map(({ operation, name }) => `${operation} ${name}`)).toEqual(["keys/get k2", "keys/release K1", "keys/get k1"]);
        expect(all[1]).toEqual({ ...full, id: all[1]?.id });
        const find = async (filter: Parameters<VaultStore["audit"]>[0]): Promise<readonly string[]> => (await store.audit(filter)).map(({ operation, name }) => `${operation} ${name}`);
        expect(await find({ name: "k1" })).toEqual(["keys/release K1", "keys/get k1"]);
        expect(await find({ vault: "other" })).toEqual(["keys/get k2"]);
        expect(await find({ operation: "keys/get", vault: VAULT })).toEqual(["keys/get k1"]);
        expect(await find({ requestId: full.requestId })).toEqual(["keys/release K1"]);
        expect(await find({ requestId: "none" })).toEqual([]);
        expect(await find({ limit: 1 })).toEqual(["keys/get k2"]);
        expect(await find({ limit: 1, before: found(all[0]).id })).toEqual(["keys/release K1"]);
        expect(await find({ before: found(all[2]).id })).toEqual([]);
        for (const limit of [0, -1, 1001, 1.5]) await expect(store.audit({ limit })).rejects.toThrow(expect.objectContaining({ code: "ERR_KEYVAULT_BAD_PARAMETER" }));
      });

      it("takes whatever a caller sends, cut to its limits", async () => {
        const name = `${"\0".repeat(5)}\ud800${"n".repeat(10_000)}`;
        await store.appendAudit(
          line("keys/get", name, {
            reason: "r".repeat(100_000),
            authority: "\ud83d\ude00".repeat(10_000),
            appid: "a\0",
            requestId: "\udfff",
            outcome: "refused",
            failed: "key",
            findings: Array.from({ length: 2000 }, () => ({ authority: "\0", claim: "c".repeat(5000), expected: "e".repeat(5000), found: "f".repeat(5000), matched: false })),
          }),
        );
        const [stored] = await store.audit({ name });
        expect(stored?.reason).toMatch(/^r{900,}… \(\d{4} of 2000 conditions are not shown\)$/);
        expect(stored?.reason).toHaveLength(MAX_AUDIT_REASON);
        expect(stored?.name.slice(0, 7)).toBe("\ufffd".repeat(6) + "n");
        expect(stored?.appid).toBe("a\ufffd");
        expect(stored?.findings.length).toBeGreaterThan(5);
        expect(Buffer.byteLength(JSON.stringify(stored?.findings))).toBeLessThanOrEqual(MAX_AUDIT_FINDINGS);
        expect(await store.audit({ requestId: "\udfff" })).toHaveLength(1);
      });

      it("leaves out conditions that matched before those that failed, keeps one whatever is in it, and says how many are missing", async () => {
        const finding = (claim: string, matched: boolean, text = "x".repeat(200)): AuditLine["findings"][number] => ({ authority: "https://maa.test", claim, expected: text, found: text, matched });
        const findings = Array.from({ length: 100 }, (_, i) => finding(`c${i}`, i % 10 !== 9));
        await store.appendAudit(line("keys/release", "k", { reason: "why", outcome: "refused", findings }));
        const [stored] = await store.audit();
        const kept = stored?.findings.map(({ claim }) => Number(claim.slice(1))) ?? [];
        expect(kept.filter((i) => i % 10 === 9)).toEqual([9, 19, 29, 39, 49, 59, 69, 79, 89, 99]);
        expect(kept).toEqual(kept.toSorted((a, b) => a - b));
        expect(kept.length).toBeGreaterThan(10);
        expect(stored?.reason).toBe(`why (${100 - kept.length} of 100 conditions are not shown)`);
        await store.appendAudit(line("keys/release", "k", { findings: Array.from({ length: 3 }, () => finding("\u0001".repeat(500), false, "\u0001".repeat(5000))) }));
        expect((await store.audit({ limit: 1 }))[0]).toMatchObject({ findings: [{ matched: false }], reason: " (2 of 3 conditions are not shown)" });
      });

      it("says of a refusal without a check that the request was refused", async () => {
        await store.appendAudit(line("keys/get", "k", { outcome: "refused" }));
        expect(await store.audit()).toMatchObject([{ outcome: "refused", failed: "request" }]);
      });
    });

    describe("wrapping keys", () => {
      const fill = async (count: number): Promise<void> => {
        for (let i = 0; i < count; i++) await store.addKey(newKey(`k${i % 7}`, { secret: Uint8Array.of(i) }), line("keys/create", `k${i % 7}`));
        for (let i = 0; i < 5; i++) await store.setSecret(newSecret(`s${i}`, `value ${i}`), line("secrets/set", `s${i}`));
      };
      const content = async (): Promise<readonly string[]> => {
        const all: string[] = [];
        for (let i = 0; i < 7; i++) {
          for (const version of await store.listKeyVersions(VAULT, `k${i}`, "", 100)) all.push(`${version.version} ${toHex(await store.openKey(version))}`);
        }
        for (const secret of await store.listSecrets(VAULT, "", 100)) all.push(`${secret.version} ${await store.openSecret(secret)}`);
        return all;
      };

      it("rotate: everything is sealed again, and opens", async () => {
        const count = RESEAL_BATCH * 2 + 3;
        await fill(count);
        await store.deleteKey(VAULT, "k3", line("keys/delete", "k3"));
        const before = await content();
        const held = found(await store.key(VAULT, "k0"));
        expect(await store.rotateWrappingKey()).toBe(count + 5);
        expect(await content()).toEqual(before);
        expect(toHex(await store.openKey(held))).toHaveLength(2);
        expect(await store.recoverKey(VAULT, "k3", line("keys/recover", "k3"))).toBeDefined();
        expect(toHex(await store.openKey(found(await store.key(VAULT, "k3"))))).toHaveLength(2);
        await store.upkeep();
        expect((await store.audit({ operation: "wrapping-keys/rotate" })).map(({ reason }) => reason)).toEqual([`wrapping key 2 is active, ${count + 5} records sealed again`]);
        expect(await store.audit({ operation: "wrapping-keys/remove" })).toEqual([]);
        time += RETIRED_KEY_AGE + 1;
        await store.upkeep();
        expect((await store.audit({ operation: "wrapping-keys/remove" })).map(({ reason }) => reason)).toEqual(["wrapping key 1 removed, nothing needs them"]);
        expect((await content()).length).toBe(before.length + (await store.listKeyVersions(VAULT, "k3", "", 100)).length);
        await store.upkeep();
        expect(await store.audit({ operation: "wrapping-keys/remove" })).toHaveLength(1);
      });

      it("rotate while others write, and lose nothing", async () => {
        await fill(20);
        const writes = Promise.all(
          Array.from({ length: 40 }, async (_, i) => {
            if (i % 3 === 0) return store.updateKey(VAULT, `k${i % 7}`, undefined, () => ({ expires: NOW + i }), line("keys/update", `k${i % 7}`));
            if (i % 3 === 1) return store.setSecret(newSecret(`s${i % 5}`, `new ${i}`), line("secrets/set", `s${i % 5}`));
            return store.addKey(newKey(`k${i % 7}`), line("keys/create", `k${i % 7}`));
          }),
        );
        await Promise.all([writes, store.rotateWrappingKey(), store.rotateWrappingKey()]);
        await store.upkeep();
        time += RETIRED_KEY_AGE + 1;
        await store.upkeep();
        expect(await content()).toHaveLength(20 + 13 + 5);
        expect((await store.audit({ operation: "wrapping-keys/remove" }))[0]?.reason).toMatch(/^wrapping keys 1, 2 removed/);
      });
    });

    it("answers whether the database does", async () => {
      await store.check();
      await store.close();
      await expect(store.check()).rejects.toThrow();
    });

    if (engine.shared) sharedCases({ raw, open, store: () => store, advance: (milliseconds) => (time += milliseconds) });
  });
}

/** What the tests of one database for several have at hand. */
interface Shared {
  readonly raw: () => Promise<Database>;
  readonly open: (change?: Partial<VaultStoreOptions>) => Promise<VaultStore>;
  readonly store: () => VaultStore;
  readonly advance: (milliseconds: number) => void;
}

function sharedCases({ raw, open, store, advance }: Shared): void {
  describe("another store on the same database", () => {
    it("finds everything after a restart, and refuses another master key", async () => {
      const key = newKey("k");
      const added = await store().addKey(key, line("keys/create", "k"));
      await store().close();
      await expect(open({ master: new Uint8Array(32).fill(9) })).rejects.toThrow(expect.objectContaining({ code: "ERR_SEALING_MASTER_KEY" }));
      const again = await open();
      expect(await again.key(VAULT, "k")).toEqual(added);
      expect(toHex(await again.openKey(added))).toBe(toHex(key.secret));
      expect(await again.audit()).toHaveLength(1);
    });

    it("adds versions of the same key at the same time: each once, each with its line, the checks in one order", async () => {
      const stores = [store(), await open()];
      const seen: (string | undefined)[] = [];
      const added = await Promise.all(
        Array.from({ length: 24 }, async (_, i) => {
          let latest: string | undefined;
          const key = await found(stores[i % 2]).addKey(newKey("k"), line("keys/create", "k"), (record) => (latest = record?.version));
          seen.push(latest);
          return key.version;
        }),
      );
      expect(new Set(added).size).toBe(24);
      expect(await store().listKeyVersions(VAULT, "k", "", 100)).toHaveLength(24);
      expect(new Set((await store().audit({ name: "k" })).map(({ version }) => version))).toEqual(new Set(added));
      // Every version but the last was the latest of exactly one that followed, and one found none.
      expect(seen.filter((version) => version === undefined)).toHaveLength(1);
      expect(new Set(seen).size).toBe(24);
    });

    it("gives a name to one of two that want it", async () => {
      const other = await open();
      const backup = await (async () => {
        await store().setSecret(newSecret("s", "1", { vault: "source" }), line("secrets/set", "s"));
        return found(await store().backupSecret("source", "s", line("secrets/backup", "s")));
      })();
      const results = await Promise.allSettled([store(), other, store(), other].map((one) => one.restoreSecret(VAULT, backup, line("secrets/restore"))));
      expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
      for (const result of results) if (result.status === "rejected") expect(result.reason).toMatchObject({ code: "ERR_KEYVAULT_CONFLICT" });
      expect(await store().audit({ operation: "secrets/restore" })).toHaveLength(1);
    });

    it("reads and writes under wrapping keys that it has not made", async () => {
      const other = await open();
      const key = newKey("k");
      const before = await other.addKey(key, line("keys/create", "k"));
      await store().rotateWrappingKey();
      expect(toHex(await other.openKey(before))).toBe(toHex(key.secret));
      expect(toHex(await other.openKey(found(await other.key(VAULT, "k"))))).toBe(toHex(key.secret));
      expect(await other.updateKey(VAULT, "k", undefined, () => ({ enabled: false }), line("keys/update", "k"))).toMatchObject({ enabled: false });
      // It had not heard of the new key, and wrote nothing under the old one.
      expect(await (await raw()).query("SELECT DISTINCT wrapping_key FROM vault_key_versions")).toEqual([{ wrapping_key: 2 }]);
      advance(RETIRED_KEY_AGE + 1);
      await store().upkeep();
      expect(toHex(await other.openKey(found(await other.key(VAULT, "k"))))).toBe(toHex(key.secret));
      await other.addKey(newKey("k"), line("keys/create", "k"));
    });

    it("writes nothing under an old wrapping key, though it has not heard of the new one", async () => {
      const other = await open();
      await store().rotateWrappingKey();
      await other.setSecret(newSecret("s", "1"), line("secrets/set", "s"));
      expect(await (await raw()).query("SELECT DISTINCT wrapping_key FROM vault_secret_versions")).toEqual([{ wrapping_key: 2 }]);
      advance(1000);
      await store().rotateWrappingKey();
      expect(await other.wrappingKeyCreated()).toBe(START + 1000);
      await other.updateSecret(VAULT, "s", undefined, { enabled: false }, line("secrets/update", "s"));
      expect(await (await raw()).query("SELECT DISTINCT wrapping_key FROM vault_secret_versions")).toEqual([{ wrapping_key: 3 }]);
      expect(await other.audit({ vault: VAULT })).toHaveLength(2);
    });

    it("takes up a rotation that was interrupted", async () => {
      for (let i = 0; i < 5; i++) await store().setSecret(newSecret(`s${i}`, `v${i}`), line("secrets/set", `s${i}`));
      const database = await raw();
      const other = await open();
      const old = await database.query("SELECT sequence, sealed, wrapping_key FROM vault_secret_versions ORDER BY sequence");
      await store().rotateWrappingKey();
      // As if only two had been done.
      for (const row of old.slice(2)) {
        await database.run("UPDATE vault_secret_versions SET sealed = ?, wrapping_key = ? WHERE sequence = ?", [row["sealed"] ?? null, row["wrapping_key"] ?? null, row["sequence"] ?? null]);
      }
      // It was open before, and knows the old key alone.
      await other.upkeep();
      for (const secret of await other.listSecrets(VAULT, "", 10)) expect(await other.openSecret(secret)).toBe(secret.name.replace("s", "v"));
      expect(await database.query("SELECT DISTINCT wrapping_key FROM vault_secret_versions")).toEqual([{ wrapping_key: 2 }]);
      expect((await other.audit({ limit: 1 }))[0]?.reason).toBe("an earlier rotation is finished, 3 records sealed again");
    });

    it("rotates at the same time, while both write", async () => {
      const stores = [store(), await open()];
      for (let i = 0; i < 30; i++) await store().setSecret(newSecret(`s${i}`, `v${i}`), line("secrets/set", `s${i}`));
      await Promise.all([
        ...stores.map((one) => one.rotateWrappingKey()),
        ...Array.from({ length: 30 }, async (_, i) => found(stores[i % 2]).setSecret(newSecret(`s${i}`, `w${i}`), line("secrets/set", `s${i}`))),
      ]);
      for (const one of stores) await one.upkeep();
      for (const one of stores) {
        for (const secret of await one.listSecrets(VAULT, "", 100)) expect(await one.openSecret(secret)).toBe(secret.name.replace("s", "w"));
      }
      expect(await (await raw()).query("SELECT DISTINCT wrapping_key FROM vault_secret_versions")).toHaveLength(1);
      expect(await store().audit({ operation: "secrets/set", vault: VAULT, limit: 1000 })).toHaveLength(60);
    });
  });

  describe("who can write the database but has no master key", () => {
    const unreadable = expect.objectContaining({ code: "ERR_KEYVAULT_STORE", message: expect.stringContaining("does not open") as string });
    const changed = expect.objectContaining({ code: "ERR_KEYVAULT_CONFLICT" });
    const gone = expect.objectContaining({ code: "ERR_KEYVAULT_NOT_FOUND" });
    const CHANGES: readonly (readonly [string, SqlValue])[] = [
      ["type", "RSA"],
      ["hsm", 0],
      ["key_ops", '["sign"]'],
      ["public_members", '{"n":"evil"}'],
      ["exportable", 1],
      ["policy", '{"anyOf":[]}'],
      ["policy_content_type", "text/plain"],
      ["policy_immutable", 0],
      ["enabled", 1],
      ["not_before", 1],
      ["expires", NOW + 100 * DAY],
      ["version", "f".repeat(32)],
    ];

    it("cannot change what decides about the use of a key", async () => {
      const key = newKey("k", {
        enabled: false,
        notBefore: NOW + 5,
        expires: NOW + 10,
        releasePolicy: { contentType: "application/json; charset=utf-8", text: POLICY, immutable: true },
        exportable: false,
      });
      const database = await raw();
      const good = await store().addKey(key, line("keys/create", "k"));
      for (const [column, value] of CHANGES) {
        const [before] = await database.query(`SELECT ${column} AS value FROM vault_key_versions`);
        expect(before?.["value"], column).not.toEqual(value);
        await database.run(`UPDATE vault_key_versions SET ${column} = ?`, [value]);
        // Nor is any of it given out: whoever encrypts to a public key, or looks whether a key is enabled, never sees the secret.
        for (const read of [async () => store().key(VAULT, "k"), async () => store().listKeys(VAULT, "", 10), async () => store().listKeyVersions(VAULT, "k", "", 10)]) {
          await expect(read(), column).rejects.toThrow(unreadable);
        }
        await expect(store().openKey(good), column).resolves.toHaveLength(32);
        await expect(store().openKey({ ...good }), column).rejects.toThrow(column === "version" ? gone : changed);
        await expect(store().addKey(newKey("k"), line("keys/create", "k"), () => undefined), column).rejects.toThrow(unreadable);
        await expect(store().updateKey(VAULT, "k", undefined, () => ({}), line("keys/update", "k")), column).rejects.toThrow(unreadable);
        await expect(store().backupKey(VAULT, "k", line("keys/backup", "k"), "vault"), column).rejects.toThrow(unreadable);
        await expect(store().succeedKey(VAULT, "k", line("keys/rotate", "k"), () => newKey("k")), column).rejects.toThrow(unreadable);
        await database.run(`UPDATE vault_key_versions SET ${column} = ?`, [before?.["value"] ?? null]);
      }
      expect(toHex(await store().openKey(found(await store().key(VAULT, "k", good.version))))).toBe(toHex(key.secret));
    });

    it("has nothing of what was spoilt given out when it is deleted, and cannot keep it from being purged", async () => {
      const database = await raw();
      const spoilt = { publicMembers: { n: "good" } };
      await store().addKey(newKey("k", spoilt), line("keys/create", "k"));
      await store().setSecret(newSecret("s", "x"), line("secrets/set", "s"));
      await database.run("UPDATE vault_key_versions SET public_members = '{\"n\":\"evil\"}'");
      await database.run("UPDATE vault_secret_versions SET content_type = 'evil'");
      await expect(store().deleteKey(VAULT, "k", line("keys/delete", "k"))).rejects.toThrow(unreadable);
      await expect(store().deleteSecret(VAULT, "s", line("secrets/delete", "s"))).rejects.toThrow(unreadable);
      for (const read of [
        async () => store().deletedKey(VAULT, "k"),
        async () => store().listDeletedKeys(VAULT, "", 10),
        async () => store().recoverKey(VAULT, "k", line("keys/recover", "k")),
        async () => store().deletedSecret(VAULT, "s"),
        async () => store().listDeletedSecrets(VAULT, "", 10),
        async () => store().recoverSecret(VAULT, "s", line("secrets/recover", "s")),
      ]) {
        await expect(read()).rejects.toThrow(unreadable);
      }
      // What was refused was not done.
      expect(await store().key(VAULT, "k")).toBeUndefined();
      expect(await store().purgeKey(VAULT, "k", line("keys/purge", "k"))).toBe(true);
      expect(await store().purgeSecret(VAULT, "s", line("secrets/purge", "s"))).toBe(true);
      expect(await store().addKey(newKey("k", spoilt), line("keys/create", "k"))).toMatchObject(spoilt);
    });

    it("cannot do so by a rotation of the wrapping key either", async () => {
      const logs: string[] = [];
      const other = await open({ logger: { log: (level, message, fields) => void logs.push(`${level} ${message} ${String(fields?.["name"])}`) } });
      await other.addKey(newKey("k", { enabled: false }), line("keys/create", "k"));
      await other.addKey(newKey("good"), line("keys/create", "good"));
      await (await raw()).run("UPDATE vault_key_versions SET enabled = 1");
      expect(await other.rotateWrappingKey()).toBe(1);
      await expect(other.key(VAULT, "k")).rejects.toThrow(unreadable);
      expect(logs).toContain("error a record does not open and keeps its wrapping key k");
      advance(RETIRED_KEY_AGE + 1);
      await other.upkeep();
      await (await raw()).run("UPDATE vault_key_versions SET enabled = 0 WHERE object = (SELECT id FROM vault_keys WHERE name = 'k')");
      expect((await other.openKey(found(await other.key(VAULT, "k")))).length).toBe(32);
    });

    it("cannot keep a rotation from what comes after the records that it has spoilt", async () => {
      for (let i = 0; i <= RESEAL_BATCH; i++) await store().setSecret(newSecret("spoilt", "x"), line("secrets/set", "spoilt"));
      await store().setSecret(newSecret("good", "y"), line("secrets/set", "good"));
      await (await raw()).run("UPDATE vault_secret_versions SET not_before = 1 WHERE object = (SELECT id FROM vault_secrets WHERE name = 'spoilt')");
      expect(await store().rotateWrappingKey()).toBe(1);
      expect(await store().openSecret(found(await store().secret(VAULT, "good")))).toBe("y");
    });

    it("does not make a rotation put back what others change meanwhile", async () => {
      const changes: Promise<unknown>[] = [];
      const other = await open({
        // Said of the spoilt record after all are read, and before they are sealed again.
        logger: { log: (level) => level === "error" && changes.push(other.updateKey(VAULT, "good", undefined, () => ({ expires: NOW }), line("keys/update", "good"))) },
      });
      await other.addKey(newKey("spoilt"), line("keys/create", "spoilt"));
      const key = newKey("good");
      await other.addKey(key, line("keys/create", "good"));
      await (await raw()).run("UPDATE vault_key_versions SET enabled = 0 WHERE object = (SELECT id FROM vault_keys WHERE name = 'spoilt')");
      await other.rotateWrappingKey();
      expect(changes.length).toBeGreaterThan(0);
      await Promise.all(changes);
      expect(toHex(await other.openKey(found(await other.key(VAULT, "good"))))).toBe(toHex(key.secret));
    });

    it("cannot copy what is sealed to another version, name, vault, or kind", async () => {
      const database = await raw();
      const key = await store().addKey(newKey("victim"), line("keys/create", "victim"));
      const own = await store().addKey(newKey("own"), line("keys/create", "own"));
      await store().addKey(newKey("victim", { vault: "other" }), line("keys/create", "victim"));
      await store().setSecret(newSecret("s", "x"), line("secrets/set", "s"));
      const [{ sealed } = {}] = await database.query("SELECT sealed FROM vault_key_versions WHERE version = ?", [key.version]);
      for (const [sql, read] of [
        ["UPDATE vault_key_versions SET sealed = ? WHERE object = (SELECT id FROM vault_keys WHERE name = 'own')", async () => store().key(VAULT, "own")],
        ["UPDATE vault_key_versions SET sealed = ? WHERE object = (SELECT id FROM vault_keys WHERE vault = 'other')", async () => store().key("other", "victim")],
        ["UPDATE vault_secret_versions SET sealed = ?", async () => store().secret(VAULT, "s")],
      ] as const) {
        expect(await database.run(sql, [sealed ?? null])).toBe(1);
        await expect(read()).rejects.toThrow(unreadable);
      }
      await database.run("UPDATE vault_keys SET name = 'gone', name_key = 'gone' WHERE id = (SELECT object FROM vault_key_versions WHERE version = ?)", [own.version]);
      await expect(store().key(VAULT, "gone")).rejects.toThrow(unreadable);
    });

    it("cannot enable a secret, or lead the service to another wrapping key", async () => {
      const database = await raw();
      await store().setSecret(newSecret("s", "x", { enabled: false, expires: NOW }), line("secrets/set", "s"));
      for (const change of ["enabled = 1", "enabled = 0, expires = NULL", `expires = ${NOW}, not_before = 1`, "not_before = NULL, content_type = 'a'"]) {
        await database.run(`UPDATE vault_secret_versions SET ${change}`);
        for (const read of [async () => store().secret(VAULT, "s"), async () => store().listSecrets(VAULT, "", 10), async () => store().listSecretVersions(VAULT, "s", "", 10)]) {
          await expect(read(), change).rejects.toThrow(unreadable);
        }
      }
      await database.run("UPDATE vault_secret_versions SET content_type = NULL");
      expect(await store().openSecret(found(await store().secret(VAULT, "s")))).toBe("x");
      await expect(database.run("UPDATE vault_secret_versions SET wrapping_key = 99")).rejects.toThrow(expect.objectContaining({ code: "ERR_STORAGE_CONSTRAINT" }));
      await store().rotateWrappingKey();
      await database.run("UPDATE vault_secret_versions SET wrapping_key = 1");
      await expect(store().updateSecret(VAULT, "s", undefined, {}, line("secrets/update", "s"))).rejects.toThrow(unreadable);
      await store().upkeep();
      expect(await store().updateSecret(VAULT, "s", undefined, { enabled: true }, line("secrets/update", "s"))).toMatchObject({ enabled: true });
      await database.run("UPDATE vault_secret_versions SET sealed = ?", [new Uint8Array()]);
      await expect(store().secret(VAULT, "s")).rejects.toThrow(unreadable);
    });

    it("is refused by the triggers when it changes the audit, and by the constraints when it writes what cannot be", async () => {
      const database = await raw();
      await store().appendAudit(line("keys/get", "k"));
      const statements = [
        "UPDATE vault_audit SET reason = 'x'",
        "DELETE FROM vault_audit",
        "DELETE FROM vault_audit WHERE id > 0",
        ...(database.dialect === "postgres" ? ["TRUNCATE vault_audit"] : ["REPLACE INTO vault_audit SELECT * FROM vault_audit", "UPDATE OR REPLACE vault_audit SET id = 1"]),
      ];
      for (const sql of statements) await expect(database.run(sql), sql).rejects.toThrow(expect.objectContaining({ code: "ERR_STORAGE_CONSTRAINT" }));
      expect(await store().audit()).toHaveLength(1);
      await store().addKey(newKey("k"), line("keys/create", "k"));
      for (const sql of [
        "UPDATE vault_key_versions SET enabled = 2",
        "UPDATE vault_key_versions SET hsm = -1",
        "UPDATE vault_key_versions SET type = 'DSA'",
        "UPDATE vault_key_versions SET policy = NULL",
        "UPDATE vault_key_versions SET not_before = -1",
        "UPDATE vault_key_versions SET object = 999",
        "UPDATE vault_keys SET deleted = 1",
        "UPDATE vault_keys SET rotation_due = 1",
        "DELETE FROM wrapping_keys",
      ]) {
        await expect(database.run(sql), sql).rejects.toThrow(expect.objectContaining({ code: "ERR_STORAGE_CONSTRAINT" }));
      }
    });
  });

  describe("limits", () => {
    const NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)";

    it("holds for names, access policies and role assignments", async () => {
      const database = await raw();
      const limit = expect.objectContaining({ code: "ERR_KEYVAULT_LIMIT" });
      await database.run(`INSERT INTO vault_keys (vault, name_key, name) ${NUMBERS} SELECT 'demo', 'k' || i, 'k' || i FROM n`, [MAX_NAMES - 1]);
      await store().addKey(newKey("last"), line("keys/create", "last"));
      await expect(store().addKey(newKey("more"), line("keys/create", "more"))).rejects.toThrow(limit);
      await store().addKey(newKey("last"), line("keys/create", "last"));
      await store().addKey(newKey("more", { vault: "other" }), line("keys/create", "more"));
      const policies = "INSERT INTO vault_access_policies (vault, tenant_id, principal, keys, secrets)";
      await database.run(`${policies} ${NUMBERS} SELECT 'demo', 't', 'p' || i, '["get"]', '[]' FROM n`, [MAX_ACCESS_POLICIES]);
      await expect(store().setAccessPolicy(VAULT, { tenantId: "t", id: "x" }, { keys: ["get"] }, line("access/set-policy"))).rejects.toThrow(limit);
      expect(await store().setAccessPolicy(VAULT, { tenantId: "t", id: "p5" }, { keys: ["list"] }, line("access/set-policy"))).toMatchObject({ keys: ["list"] });
      const roles = "INSERT INTO vault_role_assignments (vault, name, tenant_id, principal, role, scope, scope_key)";
      await database.run(`${roles} ${NUMBERS} SELECT 'demo', 'r' || i, 't', 'p' || i, 'r', '/', '/' FROM n`, [MAX_ROLE_ASSIGNMENTS]);
      await expect(store().addRoleAssignment(VAULT, { name: "x", tenantId: "t", id: "x", role: "r", scope: "/" }, line("access/add-role"))).rejects.toThrow(limit);
    });
  });
}
