import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { toHex, type Random } from "@sealpod/core";
import { openDatabase, type Database, type Migration } from "@sealpod/storage";
import { KEY_RING_MIGRATION, masterKeyOfBytes, openKeyRing, type KeyRing, type MasterKeyProvider } from "./index.ts";

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };
const DAY = 24 * 60 * 60 * 1000;
const PLAIN = Uint8Array.from({ length: 40 }, (_, at) => at);
const RECORDS: Migration = {
  sql: "CREATE TABLE records (name TEXT PRIMARY KEY, sealed {blob} NOT NULL, key {int} NOT NULL REFERENCES wrapping_keys (id)) {strict};",
};

let directory: string;
let database: Database;
let now: number;
const clock = { now: () => now };
const master = masterKeyOfBytes(new Uint8Array(32).fill(7), random);
const openFile = async (): Promise<Database> => openDatabase({ url: join(directory, "a.sqlite"), migrations: [KEY_RING_MIGRATION, RECORDS] });
const open = async (provider: MasterKeyProvider = master, of: Database = database): Promise<KeyRing> =>
  openKeyRing({ database: of, master: provider, random, clock });
beforeEach(async () => {
  now = 1_700_000_000_123.5;
  directory = mkdtempSync(join(tmpdir(), "sealpod-ring-"));
  database = await openFile();
});
afterEach(async () => {
  await database.close();
  rmSync(directory, { recursive: true });
});

/** Counts, and can be told to wait or to fail. */
class SlowMaster implements MasterKeyProvider {
  readonly id: string;
  unwraps = 0;
  wraps = 0;
  failure: Error | undefined;
  /** What happens while a key is wrapped. */
  meanwhile: (() => Promise<void>) | undefined;
  readonly #inner: MasterKeyProvider;

  constructor(inner: MasterKeyProvider) {
    this.#inner = inner;
    this.id = inner.id;
  }

  async wrap(key: Uint8Array, place: string): Promise<Uint8Array> {
    this.wraps++;
    const { meanwhile } = this;
    this.meanwhile = undefined;
    await meanwhile?.();
    return this.#inner.wrap(key, place);
  }

  async unwrap(wrapped: Uint8Array, place: string): Promise<Uint8Array> {
    this.unwraps++;
    if (this.failure !== undefined) throw this.failure;
    return this.#inner.unwrap(wrapped, place);
  }
}

describe("masterKeyOfBytes", () => {
  it("wraps for one place, and opens there alone", async () => {
    const wrapped = await master.wrap(PLAIN.subarray(0, 32), "a");
    expect(wrapped).toHaveLength(1 + 12 + 32 + 16);
    expect(await master.unwrap(wrapped, "a")).toEqual(PLAIN.subarray(0, 32));
    await expect(master.unwrap(wrapped, "b")).rejects.toMatchObject({
      code: "ERR_SEALING_MASTER_KEY",
      message: `the b does not open with the master key ${master.id}`,
    });
    const other = masterKeyOfBytes(new Uint8Array(32).fill(8), random);
    await expect(other.unwrap(wrapped, "a")).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    for (let bit = 0; bit < wrapped.length * 8; bit++) {
      const changed = Uint8Array.from(wrapped);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      await expect(master.unwrap(changed, "a"), `bit ${bit}`).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    }
    for (let length = 0; length < wrapped.length; length++)
      await expect(master.unwrap(wrapped.subarray(0, length), "a")).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
  });

  it("is named by a hash that is the same everywhere, and keeps a key of its own", async () => {
    const bytes = new Uint8Array(32).fill(7);
    const same = masterKeyOfBytes(bytes, random);
    expect(same.id).toBe(master.id);
    expect(master.id).toMatch(/^aes:[0-9a-f]{16}$/);
    expect(masterKeyOfBytes(new Uint8Array(32).fill(8), random).id).not.toBe(master.id);
    const wrapped = await same.wrap(PLAIN.subarray(0, 32), "a");
    bytes.fill(0);
    expect(await same.unwrap(wrapped, "a")).toEqual(PLAIN.subarray(0, 32));
  });

  it.each([0, 16, 31, 33])("refuses %i bytes", (length) => {
    expect(() => masterKeyOfBytes(new Uint8Array(length), random)).toThrow(expect.objectContaining({ code: "ERR_SEALING_MASTER_KEY" }));
  });
});

describe("openKeyRing", () => {
  it("makes the first key, and finds it again", async () => {
    const ring = await open();
    expect(ring.keys).toEqual([{ id: 1, state: "active", created: 1_700_000_000_123, master: master.id }]);
    const { sealed, keyId } = ring.seal(PLAIN, "a");
    expect(keyId).toBe(1);
    expect(toHex(sealed.subarray(0, 5))).toBe("0100000001");
    expect(sealed).toHaveLength(5 + 12 + 40 + 16);
    expect(await (await open()).open(sealed, "a")).toEqual(PLAIN);
  });

  it("makes one first key when several open a new database", async () => {
    const rings = await Promise.all(Array.from({ length: 4 }, async () => open()));
    const [{ sealed } = { sealed: new Uint8Array() }] = rings.map((ring) => ring.seal(PLAIN, "a"));
    for (const ring of rings) expect(await ring.open(sealed, "a")).toEqual(PLAIN);
    expect(await database.query("SELECT count(*) AS n FROM wrapping_keys")).toEqual([{ n: 1 }]);
  });

  it("says that the master key is another one, and which", async () => {
    await open();
    const other = masterKeyOfBytes(new Uint8Array(32).fill(8), random);
    await expect(open(other)).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY", details: { found: other.id, expected: master.id } });
  });

  it("does not take a wrapped key from another row", async () => {
    const ring = await open();
    await ring.rotate();
    await database.run("UPDATE wrapping_keys SET wrapped = (SELECT wrapped FROM wrapping_keys WHERE id = 1) WHERE id = 2");
    await expect(open()).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
  });

  it("says that no key is active", async () => {
    await open();
    await database.run("UPDATE wrapping_keys SET state = 'retired', retired = 1");
    await expect(open()).rejects.toMatchObject({ code: "ERR_SEALING_RING" });
  });
});

describe("a sealed record", () => {
  it("opens at its place alone, and with all of its bytes", async () => {
    const ring = await open();
    const { sealed } = ring.seal(PLAIN, "key a");
    await expect(ring.open(sealed, "key b")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD", message: expect.stringContaining("key b") });
    for (let bit = 0; bit < sealed.length * 8; bit++) {
      const changed = Uint8Array.from(sealed);
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      await expect(ring.open(changed, "key a"), `bit ${bit}`).rejects.toMatchObject({ code: "ERR_SEALING_RECORD" });
    }
    for (let length = 0; length < sealed.length; length++)
      await expect(ring.open(sealed.subarray(0, length), "key a")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD" });
    await expect(ring.open(Uint8Array.of(...sealed, 0), "key a")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD" });
    // In the middle of other bytes as well.
    expect(await ring.open(Uint8Array.of(9, ...sealed).subarray(1), "key a")).toEqual(PLAIN);
  });

  it("is bound to its wrapping key, and cannot be an empty one", async () => {
    const ring = await open();
    const { sealed } = ring.seal(new Uint8Array(), "a");
    expect(await ring.open(sealed, "a")).toEqual(new Uint8Array());
    await ring.rotate();
    const changed = Uint8Array.from(sealed);
    changed[4] = 2;
    await expect(ring.open(changed, "a")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD" });
  });

  it("has a nonce of its own", async () => {
    const ring = await open();
    const nonces = Array.from({ length: 20 }, () => toHex(ring.seal(PLAIN, "a").sealed.subarray(5, 17)));
    expect(new Set(nonces).size).toBe(20);
  });
});

describe("rotate", () => {
  it("seals with the new key, and opens with the old ones", async () => {
    const ring = await open();
    const first = ring.seal(PLAIN, "a");
    now += DAY;
    expect(await ring.rotate()).toEqual({ id: 2, state: "active", created: 1_700_086_400_123, master: master.id });
    const second = ring.seal(PLAIN, "b");
    expect(second.keyId).toBe(2);
    expect(ring.keys.map(({ id, state }) => [id, state])).toEqual([
      [1, "retired"],
      [2, "active"],
    ]);
    for (const one of [ring, await open()]) expect(await Promise.all([one.open(first.sealed, "a"), one.open(second.sealed, "b")])).toEqual([PLAIN, PLAIN]);
  });

  it("is seen by other processes while they seal and open", async () => {
    const other = await openFile();
    const [a, b] = [await open(), await open(master, other)];
    const { sealed: old } = b.seal(PLAIN, "old");
    await a.rotate();
    // It does not know yet, and goes on.
    const late = b.seal(PLAIN, "late");
    expect(late.keyId).toBe(1);
    expect(await a.open(late.sealed, "late")).toEqual(PLAIN);
    // What it cannot open makes it look.
    expect(await b.open(a.seal(PLAIN, "new").sealed, "new")).toEqual(PLAIN);
    expect(b.seal(PLAIN, "x").keyId).toBe(2);
    await a.rotate();
    await b.reload();
    expect(b.seal(PLAIN, "x").keyId).toBe(3);
    expect(await b.open(old, "old")).toEqual(PLAIN);
    await other.close();
  });

  it("of several processes at once makes a key for each, one of them active", async () => {
    const others = await Promise.all([openFile(), openFile()]);
    const rings = await Promise.all([open(), ...others.map(async (other) => open(master, other))]);
    const made = await Promise.all(rings.map(async (ring) => ring.rotate()));
    expect(new Set(made.map(({ id }) => id))).toEqual(new Set([2, 3, 4]));
    for (const ring of rings) {
      await ring.reload();
      expect(ring.seal(PLAIN, "a").keyId).toBe(4);
      expect(ring.keys.filter(({ state }) => state === "active")).toHaveLength(1);
    }
    await Promise.all(others.map(async (other) => other.close()));
  });

  it("does not wrap with a master key that was replaced meanwhile", async () => {
    const slow = new SlowMaster(master);
    const next = masterKeyOfBytes(new Uint8Array(32).fill(9), random);
    const [a, b] = [await open(), await open(slow)];
    slow.meanwhile = async () => a.changeMaster(next);
    await expect(b.rotate()).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY", message: expect.stringContaining(next.id) });
    await a.rotate();
    expect((await open(next)).keys.map((key) => key.master)).toEqual([next.id, next.id]);
  });

  it("gives up when others never stop", async () => {
    const slow = new SlowMaster(master);
    const [a, b] = [await open(), await open(slow)];
    const again = async (): Promise<void> => {
      slow.meanwhile = again;
      await a.rotate();
    };
    slow.meanwhile = again;
    await expect(b.rotate()).rejects.toMatchObject({ code: "ERR_SEALING_RING" });
    expect(slow.wraps).toBe(5);
  });
});

describe("changeMaster", () => {
  const next = masterKeyOfBytes(new Uint8Array(32).fill(9), random);

  it("wraps every key anew, and opens everything as before", async () => {
    const ring = await open();
    const first = ring.seal(PLAIN, "a");
    await ring.rotate();
    const second = ring.seal(PLAIN, "b");
    const before = await database.query("SELECT wrapped FROM wrapping_keys");
    await ring.changeMaster(next);
    expect(await database.query("SELECT wrapped FROM wrapping_keys")).not.toEqual(before);
    for (const one of [ring, await open(next)]) {
      expect(await Promise.all([one.open(first.sealed, "a"), one.open(second.sealed, "b")])).toEqual([PLAIN, PLAIN]);
      expect(one.keys.map((key) => key.master)).toEqual([next.id, next.id]);
    }
    await expect(open()).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    await ring.rotate();
    expect((await open(next)).seal(PLAIN, "c").keyId).toBe(3);
  });

  it("takes in a key that was made meanwhile", async () => {
    const slow = new SlowMaster(next);
    const [a, b] = [await open(), await open()];
    slow.meanwhile = async () => void (await b.rotate());
    await a.changeMaster(slow);
    expect(await database.query("SELECT id, master FROM wrapping_keys ORDER BY id")).toEqual([
      { id: 1, master: next.id },
      { id: 2, master: next.id },
    ]);
  });

  it("changes nothing when the new one fails", async () => {
    const ring = await open();
    await ring.rotate();
    const broken: MasterKeyProvider = {
      ...next,
      wrap: async (key, place) => {
        if (place.endsWith("2")) throw new Error("the token was taken out");
        return next.wrap(key, place);
      },
    };
    await expect(ring.changeMaster(broken)).rejects.toThrow("taken out");
    expect((await open()).keys.map((key) => key.master)).toEqual([master.id, master.id]);
    await ring.rotate();
  });

  it("leaves processes with the old one at work, until they need a new key", async () => {
    const other = await openFile();
    const a = await open();
    const old = a.seal(PLAIN, "old");
    await a.rotate();
    const b = await open(master, other);
    await a.changeMaster(next);
    await b.reload();
    await b.reload();
    expect(b.keys.map((key) => key.master)).toEqual([next.id, next.id]);
    expect(await a.open(b.seal(PLAIN, "a").sealed, "a")).toEqual(PLAIN);
    // One that it has never opened.
    expect(await b.open(old.sealed, "old")).toEqual(PLAIN);
    await a.rotate();
    await expect(b.open(a.seal(PLAIN, "b").sealed, "b")).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
    expect(b.seal(PLAIN, "a").keyId).toBe(2);
    await other.close();
  });
});

describe("removeUnused", () => {
  it("forgets keys that were retired long enough ago and that no record refers to", async () => {
    const ring = await open();
    const used = ring.seal(PLAIN, "used");
    await database.run("INSERT INTO records (name, sealed, key) VALUES ('used', ?, ?)", [used.sealed, used.keyId]);
    await ring.rotate();
    const unused = ring.seal(PLAIN, "unused");
    now += DAY;
    await ring.rotate();
    now += DAY;
    await ring.rotate();
    // Key 1 is used, 2 was retired a day ago, 3 just now, and 4 is active.
    expect(await ring.removeUnused(DAY)).toEqual([2]);
    expect(ring.keys.map(({ id }) => id)).toEqual([1, 3, 4]);
    expect(await ring.open(used.sealed, "used")).toEqual(PLAIN);
    await expect(ring.open(unused.sealed, "unused")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD", message: expect.stringContaining("2 is gone") });
    await database.run("DELETE FROM records");
    expect(await ring.removeUnused(0)).toEqual([1, 3]);
    expect(await ring.removeUnused(-DAY)).toEqual([]);
    // Its id is not given again.
    expect((await ring.rotate()).id).toBe(5);
  });

  it("cannot take a key from under a record that another process is about to keep", async () => {
    const other = await openFile();
    const [a, b] = [await open(), await open(master, other)];
    await a.rotate();
    const late = b.seal(PLAIN, "late");
    expect(await a.removeUnused(0)).toEqual([1]);
    await expect(other.run("INSERT INTO records (name, sealed, key) VALUES ('late', ?, ?)", [late.sealed, late.keyId])).rejects.toMatchObject({
      details: { kind: "foreign-key" },
    });
    await b.reload();
    expect(b.seal(PLAIN, "late").keyId).toBe(2);
    await other.close();
  });
});

describe("a ring with a slow master key", () => {
  it("asks it for the active key at once, for others when they are needed, and once for each", async () => {
    const first = await open();
    const old = first.seal(PLAIN, "old");
    await first.rotate();
    const slow = new SlowMaster(master);
    const ring = await open(slow);
    expect(slow.unwraps).toBe(1);
    ring.seal(PLAIN, "a");
    await Promise.all(Array.from({ length: 10 }, async () => ring.open(old.sealed, "old")));
    await ring.reload();
    expect(slow.unwraps).toBe(2);
  });

  it("asks again after it has failed", async () => {
    const first = await open();
    const old = first.seal(PLAIN, "old");
    await first.rotate();
    const slow = new SlowMaster(master);
    const ring = await open(slow);
    slow.failure = new Error("the token is away");
    await expect(ring.open(old.sealed, "old")).rejects.toThrow("the token is away");
    slow.failure = undefined;
    expect(await ring.open(old.sealed, "old")).toEqual(PLAIN);
  });
});

describe("a backup", () => {
  it("opens in another database with the same master key, at its place", async () => {
    const ring = await open();
    const backup = await ring.sealBackup(PLAIN, "key a");
    await using empty = await openDatabase({ url: ":memory:", migrations: [KEY_RING_MIGRATION] });
    const elsewhere = await open(master, empty);
    expect(await elsewhere.openBackup(backup, "key a")).toEqual(PLAIN);
    await expect(elsewhere.openBackup(backup, "key b")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD" });
    await using third = await openDatabase({ url: ":memory:", migrations: [KEY_RING_MIGRATION] });
    const stranger = await open(masterKeyOfBytes(new Uint8Array(32).fill(8), random), third);
    await expect(stranger.openBackup(backup, "key a")).rejects.toMatchObject({ code: "ERR_SEALING_MASTER_KEY" });
  });

  it("does not open when anything is changed, missing or left over, and is no record", async () => {
    const ring = await open();
    const backup = await ring.sealBackup(PLAIN, "a");
    const code = expect.stringMatching(/^ERR_SEALING_(RECORD|MASTER_KEY)$/);
    for (let at = 0; at < backup.length; at++) {
      const changed = Uint8Array.from(backup);
      changed[at] = (changed[at] ?? 0) ^ 0x10;
      await expect(ring.openBackup(changed, "a"), `byte ${at}`).rejects.toMatchObject({ code });
      await expect(ring.openBackup(backup.subarray(0, at), "a"), `${at} bytes`).rejects.toMatchObject({ code });
    }
    await expect(ring.openBackup(Uint8Array.of(...backup, 0), "a")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD" });
    await expect(ring.open(backup, "a")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD" });
    await expect(ring.openBackup(ring.seal(PLAIN, "a").sealed, "a")).rejects.toMatchObject({ code: "ERR_SEALING_RECORD" });
  });
});
