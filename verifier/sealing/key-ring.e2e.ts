import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Random } from "@sealpod/core";
import { openDatabase, type Migration } from "@sealpod/storage";
import { findPostgres, startPostgres, type TestPostgres } from "@sealpod/storage/testing";
import { KEY_RING_MIGRATION, masterKeyOfBytes, openKeyRing, type KeyRing } from "./index.ts";

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };
const PLAIN = Uint8Array.of(1, 2, 3);
const RECORDS: Migration = { sql: "CREATE TABLE records (name TEXT PRIMARY KEY, sealed {blob} NOT NULL, key {int} NOT NULL REFERENCES wrapping_keys (id));" };

describe.skipIf(findPostgres() === undefined)("a ring in PostgreSQL (skipped without its server programs)", () => {
  let server: TestPostgres;
  beforeAll(async () => {
    server = await startPostgres();
  });
  afterAll(async () => server.stop());

  it("is rotated, re-wrapped and tidied while other processes seal", async () => {
    const url = await server.createDatabase();
    const master = masterKeyOfBytes(random.bytes(32), random);
    const next = masterKeyOfBytes(random.bytes(32), random);
    let now = 1_700_000_000_000;
    const databases = await Promise.all(Array.from({ length: 3 }, async () => openDatabase({ url, migrations: [KEY_RING_MIGRATION, RECORDS] })));
    const rings: KeyRing[] = await Promise.all(databases.map(async (database) => openKeyRing({ database, master, random, clock: { now: () => now } })));
    let records = 0;
    const keep = async (at: number): Promise<void> => {
      const database = databases[at];
      const ring = rings[at];
      if (database === undefined || ring === undefined) return;
      const name = `record ${records++}`;
      const { sealed, keyId } = ring.seal(PLAIN, name);
      await database.run("INSERT INTO records (name, sealed, key) VALUES (?, ?, ?)", [name, sealed, keyId]);
    };
    const [first, second, third] = rings;
    for (let round = 0; round < 5; round++) {
      await Promise.all([keep(0), keep(1), keep(2), first?.rotate(), second?.rotate(), keep(0), keep(1), keep(2)]);
      now++;
    }
    for (const ring of rings) await ring.reload();
    expect(first?.keys.length).toBe(11);
    await Promise.all([first?.changeMaster(next), keep(1), keep(2), keep(2)]);
    for (const ring of rings) await ring.reload();
    const removed = (await first?.removeUnused(0)) ?? [];
    const used = new Set((await databases[0]?.query("SELECT DISTINCT key FROM records"))?.map((row) => row["key"]));
    for (const id of removed) expect(used.has(id)).toBe(false);
    for (const id of used) expect(first?.keys.some((key) => key.id === id)).toBe(true);
    for (const row of (await databases[2]?.query("SELECT name, sealed FROM records")) ?? []) {
      for (const ring of [first, third]) expect(await ring?.open(row["sealed"] as Uint8Array, row["name"] as string)).toEqual(PLAIN);
    }
    await Promise.all(databases.map(async (database) => database.close()));
  });
});
