import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { backupDatabase, openDatabase, type Database, type Migration } from "./index.ts";

let directory: string;
let file: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-storage-"));
  file = join(directory, "a.sqlite");
});
afterEach(() => rmSync(directory, { recursive: true }));

const MIGRATIONS: readonly Migration[] = [{ sql: "CREATE TABLE t (a {int} PRIMARY KEY, b {blob}) {strict};" }];
const open = async (url = file): Promise<Database> => openDatabase({ url, migrations: MIGRATIONS });

describe("openDatabase", () => {
  it("makes files for their owner alone, and leaves the mode of one that is there", async () => {
    let database = await open();
    await database.run("INSERT INTO t (a) VALUES (1)");
    for (const name of readdirSync(directory)) expect([name, statSync(join(directory, name)).mode & 0o777]).toEqual([name, 0o600]);
    await database.close();
    expect(readdirSync(directory)).toEqual(["a.sqlite"]);
    chmodSync(file, 0o640);
    database = await open();
    await database.run("INSERT INTO t (a) VALUES (2)");
    expect(statSync(`${file}-wal`).mode & 0o777).toBe(0o640);
    await database.close();
  });

  it("takes paths and file: addresses", async () => {
    for (const url of [file, relative(process.cwd(), file), `file:${file}`, pathToFileURL(file).href]) {
      await using database = await open(url);
      expect(database).toMatchObject({ name: file, dialect: "sqlite" });
      await database.check();
    }
  });

  it.each<[string, string]>([
    ["nothing", ""],
    ["another engine", "mysql://root:secret@host/db"],
    ["a file with parameters", "file:a.sqlite?mode=ro"],
    ["a file of another machine", "file://host/a.sqlite"],
  ])("refuses %s", async (_what, url) => {
    await expect(open(url)).rejects.toMatchObject({ code: "ERR_STORAGE_ARGUMENT", message: expect.not.stringContaining("secret") });
  });

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])("refuses a limit of %d", async (waiting) => {
    await expect(openDatabase({ url: file, migrations: MIGRATIONS, limits: { waiting } })).rejects.toMatchObject({ code: "ERR_STORAGE_ARGUMENT" });
  });

  it("says that a file is no database, and leaves it as it is", async () => {
    writeFileSync(file, "This is a letter to somebody, and no database at all. ".repeat(100));
    const before = readFileSync(file);
    await expect(open()).rejects.toMatchObject({ code: "ERR_STORAGE_FILE", message: `${file} is no SQLite database` });
    expect(readFileSync(file)).toEqual(before);
  });

  it("says that a directory is none, or that there is none", async () => {
    mkdirSync(file);
    await expect(open()).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE", message: expect.stringContaining(file) });
    await expect(open(join(directory, "none", "a.sqlite"))).rejects.toMatchObject({ code: "ERR_STORAGE_FILE", message: expect.stringContaining("ENOENT") });
  });

  it("says that a database is damaged", async () => {
    let database = await open();
    for (let a = 0; a < 50; a++) await database.run("INSERT INTO t (a, b) VALUES (?, ?)", [a, new Uint8Array(1000)]);
    await database.close();
    const bytes = readFileSync(file);
    bytes.fill(0xff, 2 * 4096);
    writeFileSync(file, bytes);
    database = await open();
    await expect(database.query("SELECT sum(length(b)) AS n FROM t")).rejects.toMatchObject({ code: "ERR_STORAGE_FILE", message: `${file} is damaged` });
    await database.close();
  });

  it("does not open the database of something else", async () => {
    await (await openDatabase({ url: file, name: "vault", migrations: MIGRATIONS })).close();
    await expect(openDatabase({ url: file, name: "identity", migrations: MIGRATIONS })).rejects.toMatchObject({
      code: "ERR_STORAGE_SCHEMA",
      message: expect.stringContaining("identity"),
    });
    await (await openDatabase({ url: file, name: "vault", migrations: MIGRATIONS })).close();
    await (await open()).close();
  });

  it("takes over a database without a name", async () => {
    await (await open()).close();
    await (await openDatabase({ url: file, name: "vault", migrations: MIGRATIONS })).close();
    await expect(openDatabase({ url: file, name: "identity", migrations: MIGRATIONS })).rejects.toMatchObject({ code: "ERR_STORAGE_SCHEMA" });
  });

  it("lets a migration make a table anew that others refer to, and none that leaves orphans", async () => {
    const first: Migration = {
      sql: "CREATE TABLE p (id {int} PRIMARY KEY); CREATE TABLE c (p {int} NOT NULL REFERENCES p (id)); INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1);",
    };
    const anew: Migration = {
      sql: "CREATE TABLE p2 (id {int} PRIMARY KEY, more TEXT); INSERT INTO p2 (id) SELECT id FROM p; DROP TABLE p; ALTER TABLE p2 RENAME TO p;",
    };
    await (await openDatabase({ url: file, migrations: [first] })).close();
    await expect(openDatabase({ url: file, migrations: [first, { sql: "DELETE FROM p;" }] })).rejects.toMatchObject({
      code: "ERR_STORAGE_SCHEMA",
      message: expect.stringContaining("table c"),
    });
    await using database = await openDatabase({ url: file, migrations: [first, anew] });
    expect(await database.query("SELECT id, more FROM p ORDER BY id")).toEqual([
      { id: 1, more: null },
      { id: 2, more: null },
    ]);
    await expect(database.run("INSERT INTO c VALUES (9)")).rejects.toMatchObject({ details: { kind: "foreign-key" } });
  });

  it("keeps one process's lock when another handle of the same file is closed", async () => {
    await using database = await open();
    await database.transaction(async (queries) => {
      await queries.run("INSERT INTO t (a) VALUES (1)");
      await (await open()).close();
      // Another process would say the same: the lock is still held.
      const other = new DatabaseSync(file, { timeout: 0 });
      expect(() => other.exec("BEGIN IMMEDIATE")).toThrow("locked");
      other.close();
    });
    expect(await database.query("SELECT a FROM t")).toEqual([{ a: 1 }]);
  });
});

describe("backupDatabase", () => {
  const target = (): string => join(directory, "copy", "backup.sqlite");
  beforeEach(() => mkdirSync(join(directory, "copy")));

  it("copies what is committed, while others write, into a file of its owner alone", async () => {
    await using database = await open();
    for (let a = 0; a < 40; a++) await database.run("INSERT INTO t (a, b) VALUES (?, ?)", [a, new Uint8Array(3000).fill(a)]);
    const copy = backupDatabase(database, target());
    const writes = Array.from({ length: 40 }, async (_, at) => database.run("INSERT INTO t (a) VALUES (?)", [1000 + at]));
    await Promise.all([copy, ...writes]);
    expect(readdirSync(join(directory, "copy"))).toEqual(["backup.sqlite"]);
    expect(statSync(target()).mode & 0o777).toBe(0o600);
    await using restored = await open(target());
    expect(await restored.query("SELECT count(*) AS n, sum(length(b)) AS sum FROM t WHERE a < 1000")).toEqual([{ n: 40, sum: 120_000 }]);
    expect(await restored.query("PRAGMA integrity_check")).toEqual([{ integrity_check: "ok" }]);
  });

  it("takes the place of an older one, and only when it is complete", async () => {
    await using database = await open();
    await backupDatabase(database, target());
    const before = readFileSync(target());
    await database.run("INSERT INTO t (a) VALUES (1)");
    await backupDatabase(database, target());
    expect(readFileSync(target())).not.toEqual(before);
  });

  it("copies a database in memory", async () => {
    await using database = await openDatabase({ url: ":memory:", migrations: MIGRATIONS });
    await database.run("INSERT INTO t (a) VALUES (7)");
    await backupDatabase(database, target());
    await using restored = await open(target());
    expect(await restored.query("SELECT a FROM t")).toEqual([{ a: 7 }]);
  });

  it("never takes the place of the database itself", async () => {
    await using database = await open();
    await database.run("INSERT INTO t (a) VALUES (1)");
    symlinkSync(file, join(directory, "link"));
    for (const own of [file, `${file}-wal`, join(directory, "copy", "..", "a.sqlite"), join(directory, "link")]) {
      await expect(backupDatabase(database, own)).rejects.toMatchObject({ code: "ERR_STORAGE_ARGUMENT" });
    }
    expect(await database.query("SELECT a FROM t")).toEqual([{ a: 1 }]);
  });

  it("says that it cannot be written, and leaves nothing", async () => {
    await using database = await open();
    await expect(backupDatabase(database, join(directory, "none", "b"))).rejects.toMatchObject({ code: "ERR_STORAGE_FILE" });
    await expect(backupDatabase(database, join(directory, "copy"))).rejects.toMatchObject({ code: "ERR_STORAGE_ARGUMENT" });
    expect(readdirSync(join(directory, "copy"))).toEqual([]);
  });

  it("refuses a database that is closed", async () => {
    const database = await open();
    await database.close();
    await expect(backupDatabase(database, target())).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE" });
    expect(readdirSync(join(directory, "copy"))).toEqual([]);
  });
});

describe("a single statement", () => {
  // Some of the rows are there when the last one turns out to be a duplicate. FAIL would leave them, ROLLBACK would take what others of the same commit did.
  it.each(["INSERT", "INSERT OR FAIL", "INSERT OR ROLLBACK", "INSERT OR ABORT", "INSERT or  fail"])("that fails leaves nothing behind: %s", async (verb) => {
    await using database = await open();
    const outcomes = await Promise.allSettled([
      database.run("INSERT INTO t (a) VALUES (1)"),
      database.run(`${verb} INTO t (a) VALUES (2), (3), (1)`),
      database.run("INSERT INTO t (a) VALUES (4), (5)"),
      database.run("UPDATE t SET a = a + 10 WHERE a = ?", [4]),
    ]);
    const rows = (await database.query("SELECT a FROM t ORDER BY a")).map((row) => row["a"]);
    expect(outcomes[1]).toMatchObject({ status: "rejected", reason: { code: "ERR_STORAGE_CONSTRAINT" } });
    if (verb === "INSERT OR ROLLBACK") {
      // That is what it asks for: all of the commit, and everybody is told.
      expect(rows).not.toContain(2);
      return;
    }
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled", "fulfilled"]);
    expect(rows).toEqual([1, 5, 14]);
  });
});
