import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { backupDatabase, openDatabase } from "./index.ts";
import { checkRows, moment, Writer } from "./testdata/killed-writer.ts";
import { WRITER_MIGRATIONS } from "./testdata/row-writer.ts";
import { findPostgres, startPostgres, type TestPostgres } from "./testing.ts";

/** Kills under load, and kills while a database is made. */
const ROUNDS = 8;
const BIRTHS = 3;
/** Numbers of two writers are this far apart. */
const APART = 10_000_000;

/** Two processes write to one database and are killed, again and again. */
async function rounds(url: string, check: () => Promise<void>): Promise<ReadonlySet<number>> {
  const acknowledged = new Set<number>();
  const open = async (): Promise<Awaited<ReturnType<typeof openDatabase>>> => openDatabase({ url, name: "writer", migrations: WRITER_MIGRATIONS });
  for (let round = 0; round < BIRTHS + ROUNDS; round++) {
    const writers = [new Writer(url, round * 100_000, 8), new Writer(url, APART + round * 100_000, 1)];
    await Promise.all(
      writers.map(async (writer) => {
        await writer.opening();
        // At first while it opens, and makes, the database.
        if (round >= BIRTHS) await writer.until(moment());
        await writer.kill();
      }),
    );
    for (const writer of writers) for (const id of writer.acknowledged) acknowledged.add(id);
    await check();
    await using database = await open();
    await checkRows(database, acknowledged);
  }
  expect(acknowledged.size).toBeGreaterThan(ROUNDS);
  return acknowledged;
}

describe("a SQLite file whose writers are killed", () => {
  let directory: string;
  let file: string;
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-storage-kill-"));
    file = join(directory, "a.sqlite");
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  it(`has every acknowledged row after ${ROUNDS} kills of two processes`, async () => {
    await rounds(file, async () => {
      const database = new DatabaseSync(file);
      expect(database.prepare("PRAGMA integrity_check").all()).toEqual([{ integrity_check: "ok" }]);
      database.close();
    });
  });

  it("gives a backup while another process writes, whole", async () => {
    const writer = new Writer(file, 2 * APART, 8);
    await writer.opening();
    await writer.until(20);
    const before = new Set(writer.acknowledged);
    const copy = join(directory, "copy.sqlite");
    await using database = await openDatabase({ url: file, name: "writer", migrations: WRITER_MIGRATIONS });
    await backupDatabase(database, copy);
    await writer.until(1);
    await writer.kill();
    await using restored = await openDatabase({ url: copy, name: "writer", migrations: WRITER_MIGRATIONS });
    await checkRows(restored, before);
    expect(await restored.query("PRAGMA integrity_check")).toEqual([{ integrity_check: "ok" }]);
  });
});

describe.skipIf(findPostgres() === undefined)("a PostgreSQL database whose clients or server are killed (skipped without its server programs)", () => {
  let server: TestPostgres;
  beforeAll(async () => {
    server = await startPostgres();
  });
  afterAll(async () => server.stop());

  it(`has every acknowledged row after ${ROUNDS} kills of two processes`, async () => {
    await rounds(await server.createDatabase(), async () => undefined);
  });

  it("has every acknowledged row after a kill of the server, and its clients go on by themselves", async () => {
    const url = await server.createDatabase();
    const acknowledged = new Set<number>();
    const writer = new Writer(url, 0, 4);
    await writer.opening();
    for (let round = 0; round < 2; round++) {
      await writer.until(30 + moment());
      await server.kill();
      await server.start();
    }
    await writer.until(50);
    await writer.kill();
    for (const id of writer.acknowledged) acknowledged.add(id);
    await using database = await openDatabase({ url, name: "writer", migrations: WRITER_MIGRATIONS });
    await checkRows(database, acknowledged);
  });
});
