import { AsyncLocalStorage } from "node:async_hooks";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { storageLimits, type StorageLimits } from "./limits.ts";
import { openSqlite, SQLITE_PORTS, type SqliteDatabase, type SqlitePorts } from "./sqlite.ts";

let directory: string;
let file: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-storage-"));
  file = join(directory, "a.sqlite");
});
afterEach(() => rmSync(directory, { recursive: true }));

/** A disk whose syncs the test lets through, or fails. */
class Disk {
  syncs = 0;
  held = false;
  failure: Error | undefined;
  #release: (() => void) | undefined;
  #arrived: (() => void) | undefined;

  readonly ports: SqlitePorts = {
    ...SQLITE_PORTS,
    openLog: async (path) => {
      const log = await SQLITE_PORTS.openLog(path);
      return {
        close: async () => log.close(),
        sync: async () => {
          this.syncs++;
          if (this.held) {
            this.#arrived?.();
            await new Promise<void>((resolve) => {
              this.#release = resolve;
            });
          }
          if (this.failure !== undefined) throw this.failure;
          return log.sync();
        },
      };
    },
  };

  /** Resolves when a sync has begun. */
  async arrival(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#arrived = resolve;
    });
  }

  release(): void {
    this.held = false;
    this.#release?.();
  }
}

async function open(ports: SqlitePorts, limits: Partial<StorageLimits> = {}): Promise<SqliteDatabase> {
  const migrations = [{ sql: "CREATE TABLE t (a {int} PRIMARY KEY, b TEXT) {strict};" }];
  return openSqlite({ file, migrations, limits: storageLimits(limits) }, ports);
}

/** Everything that needs no I/O, and a turn of the event loop with some. */
const settled = async (): Promise<void> => {
  for (let turn = 0; turn < 5; turn++) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
};

describe("a change to a SQLite file", () => {
  it("is acknowledged when its log is synced, and nobody is told of it before", async () => {
    const disk = new Disk();
    await using database = await open(disk.ports);
    const done: string[] = [];
    disk.held = true;
    const arrival = disk.arrival();
    const write = database.run("INSERT INTO t (a) VALUES (1)").then(() => done.push("write"));
    // Of the same commit: it tells that the row is there.
    const told = database.run("INSERT INTO t (a) VALUES (1)").catch(() => done.push("told"));
    await arrival;
    const read = database.query("SELECT count(*) AS n FROM t").then(([row]) => done.push(`read ${String(row?.["n"])}`));
    const conflict = database.run("INSERT INTO t (a) VALUES (1)").catch(() => done.push("conflict"));
    await settled();
    expect(done).toEqual([]);
    // It is committed, though: others can see it, and the lock is free.
    const other = new DatabaseSync(file);
    expect(other.prepare("SELECT count(*) AS n FROM t").get()).toEqual({ n: 1 });
    other.exec("INSERT INTO t (a) VALUES (2)");
    other.close();
    disk.release();
    await Promise.all([write, told, read, conflict]);
    expect(new Set(done)).toEqual(new Set(["write", "told", "read 1", "conflict"]));
  });

  it("shares its commit with those that wait, up to the limits", async () => {
    for (const [limits, syncs] of [
      [{}, 1],
      [{ batchTransactions: 10 }, 5],
      // Over as soon as it has begun.
      [{ batchTime: Number.MIN_VALUE }, 50],
    ] as const) {
      const disk = new Disk();
      await using database = await open(disk.ports, limits);
      await database.run("DELETE FROM t");
      const before = disk.syncs;
      await Promise.all(Array.from({ length: 50 }, async (_, at) => database.run("INSERT INTO t (a) VALUES (?)", [at])));
      expect(disk.syncs - before).toBe(syncs);
      expect(await database.query("SELECT count(*) AS n FROM t")).toEqual([{ n: 50 }]);
    }
  });

  it("costs no sync if there is none", async () => {
    const disk = new Disk();
    await using database = await open(disk.ports);
    const before = disk.syncs;
    await database.transaction(async (queries) => queries.query("SELECT * FROM t"));
    await database.query("SELECT * FROM t");
    await expect(
      database.transaction(async (queries) => {
        await queries.run("INSERT INTO t (a) VALUES (1)");
        throw new Error("no");
      }),
    ).rejects.toThrow("no");
    expect(disk.syncs).toBe(before);
    await database.query("INSERT INTO t (a) VALUES (1) RETURNING a");
    expect(disk.syncs).toBe(before + 1);
  });

  it("is refused if the sync fails, and so is everything from then on", async () => {
    const disk = new Disk();
    const database = await open(disk.ports);
    disk.failure = Object.assign(new Error("EIO: i/o error, fdatasync"), { code: "EIO" });
    const results = await Promise.allSettled([database.run("INSERT INTO t (a) VALUES (1)"), database.run("INSERT INTO t (a) VALUES (2)")]);
    for (const result of results) {
      expect(result).toMatchObject({
        status: "rejected",
        reason: { code: "ERR_STORAGE_UNAVAILABLE", message: expect.stringContaining("EIO"), details: { outcome: "unknown" } },
      });
    }
    // The next sync would say that all is well, and be wrong.
    disk.failure = undefined;
    for (const call of [
      async () => database.run("INSERT INTO t (a) VALUES (3)"),
      async () => database.query("SELECT * FROM t"),
      async () => database.transaction(async () => 1),
      async () => database.check(),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE", hint: expect.stringContaining("restart") });
    }
    await database.close();
  });

  it("refuses those that waited behind a sync that failed, and readers who saw what it was for", async () => {
    const disk = new Disk();
    const database = await open(disk.ports);
    disk.held = true;
    const arrival = disk.arrival();
    const first = database.run("INSERT INTO t (a) VALUES (1)");
    await arrival;
    const others = [database.run("INSERT INTO t (a) VALUES (2)"), database.query("SELECT * FROM t"), first];
    disk.failure = new Error("EIO");
    disk.release();
    for (const result of await Promise.allSettled(others)) expect(result).toMatchObject({ status: "rejected", reason: { code: "ERR_STORAGE_UNAVAILABLE" } });
    await database.close();
  });

  it("that finds no space is taken back, alone, and the next one is made when there is some", async () => {
    await using database = await open(SQLITE_PORTS);
    await database.run("INSERT INTO t (a, b) VALUES (0, 'kept')");
    await database.run("PRAGMA max_page_count = 20");
    const insert = async (a: number, length: number): Promise<number> => database.run("INSERT INTO t (a, b) VALUES (?, ?)", [a, "x".repeat(length)]);
    const results = await Promise.allSettled([insert(1, 10), insert(2, 200_000), insert(3, 10)]);
    expect(results[1]).toMatchObject({ status: "rejected", reason: { code: "ERR_STORAGE_FULL", row: { http: 503 } } });
    // Those beside it are either made or refused, as they were told.
    const kept = results.flatMap(({ status }, at) => (status === "fulfilled" ? [at + 1] : []));
    expect((await database.query("SELECT a FROM t ORDER BY a")).map((row) => row["a"])).toEqual([0, ...kept]);
    await database.run("PRAGMA max_page_count = 2000");
    await insert(4, 200_000);
    expect(await database.query("SELECT length(b) AS n FROM t WHERE a = 4")).toEqual([{ n: 200_000 }]);
  });

  it("keeps the context of its caller", async () => {
    await using database = await open(SQLITE_PORTS);
    const request = new AsyncLocalStorage<number>();
    const seen = await Promise.all([1, 2, 3].map(async (id) => request.run(id, async () => database.transaction(async () => request.getStore()))));
    expect(seen).toEqual([1, 2, 3]);
  });
});

describe("a SQLite file that another process has locked", () => {
  it("is tried again with pauses that grow, and differ, without blocking anybody", async () => {
    const pauses: number[] = [];
    const other = new DatabaseSync(file);
    const ports: SqlitePorts = {
      ...SQLITE_PORTS,
      chance: () => 0.5,
      pause: async (milliseconds) => {
        pauses.push(milliseconds);
        if (pauses.length === 8) other.exec("COMMIT");
      },
    };
    await using database = await open(ports);
    other.exec("BEGIN IMMEDIATE; INSERT INTO t (a) VALUES (1)");
    const write = database.run("INSERT INTO t (a) VALUES (2)");
    expect(await write).toBe(1);
    expect(pauses).toEqual([1.5, 2, 3, 5, 9, 11, 11, 11]);
    expect(await database.query("SELECT a FROM t ORDER BY a")).toEqual([{ a: 1 }, { a: 2 }]);
    other.close();
  });

  it("is given up after a time, and readable all the while", async () => {
    const other = new DatabaseSync(file);
    let paused = 0;
    const ports: SqlitePorts = { ...SQLITE_PORTS, chance: () => 0.5, pause: async (milliseconds) => void (paused += milliseconds) };
    await using database = await open(ports, { busyTime: 100 });
    other.exec("BEGIN IMMEDIATE");
    const results = await Promise.allSettled([database.run("INSERT INTO t (a) VALUES (1)"), database.run("INSERT INTO t (a) VALUES (2)")]);
    for (const result of results)
      expect(result).toMatchObject({ status: "rejected", reason: { code: "ERR_STORAGE_UNAVAILABLE", message: expect.stringContaining("locked") } });
    expect(paused).toBeGreaterThanOrEqual(100);
    expect(paused).toBeLessThan(125);
    expect(await database.query("SELECT * FROM t")).toEqual([]);
    other.exec("ROLLBACK");
    other.close();
    expect(await database.run("INSERT INTO t (a) VALUES (3)")).toBe(1);
  });

  it("is opened when it is free", async () => {
    await (await open(SQLITE_PORTS)).close();
    const other = new DatabaseSync(file);
    other.exec("PRAGMA user_version = 0; DROP TABLE t; BEGIN IMMEDIATE");
    let pauses = 0;
    const ports: SqlitePorts = {
      ...SQLITE_PORTS,
      pause: async () => {
        if (++pauses === 3) other.exec("COMMIT");
      },
    };
    await using database = await open(ports);
    expect(pauses).toBe(3);
    expect(await database.query("SELECT * FROM t")).toEqual([]);
    other.close();
  });
});

describe("a transaction of a SQLite file", () => {
  /** Lets SQLite fail at statements of a text until it is restored. */
  const failAt = (text: string): (() => void) => {
    // oxlint-disable-next-line typescript/unbound-method -- it is called with its object below
    const { exec } = DatabaseSync.prototype;
    const spy = vi.spyOn(DatabaseSync.prototype, "exec").mockImplementation(function (this: DatabaseSync, sql: string) {
      if (sql.startsWith(text)) throw Object.assign(new Error("disk I/O error"), { code: "ERR_SQLITE_ERROR", errcode: 10 });
      exec.call(this, sql);
    });
    return () => spy.mockRestore();
  };
  const refused = async (): Promise<never> => {
    throw new Error("refused");
  };

  it("that cannot be taken back is answered, takes those of its commit with it, and is the last of its connection", async () => {
    const database = await open(SQLITE_PORTS);
    const restore = failAt("ROLLBACK TO");
    let answers: readonly PromiseSettledResult<unknown>[];
    try {
      answers = await Promise.allSettled([
        database.run("INSERT INTO t VALUES (1, 'before')"),
        database.transaction(async (queries) => {
          await queries.run("INSERT INTO t VALUES (2, 'refused')");
          return refused();
        }),
        database.run("INSERT INTO t VALUES (3, 'after')"),
      ]);
    } finally {
      restore();
    }
    const failure = expect.objectContaining({
      code: "ERR_STORAGE_UNAVAILABLE",
      message: expect.stringContaining("a change could not be taken back: disk I/O error") as string,
    });
    expect(answers).toEqual([1, 2, 3].map(() => ({ status: "rejected", reason: failure })));
    await expect(database.query("SELECT * FROM t")).rejects.toThrow(failure);
    await database.close();
    await using again = await open(SQLITE_PORTS);
    expect(await again.query("SELECT * FROM t")).toEqual([]);
  });

  it("that cannot begin is answered, and does no harm to others", async () => {
    await using database = await open(SQLITE_PORTS);
    const restore = failAt("SAVEPOINT");
    try {
      await expect(database.transaction(async (queries) => queries.run("INSERT INTO t VALUES (1, 'x')"))).rejects.toThrow(
        expect.objectContaining({ code: "ERR_STORAGE_UNAVAILABLE", message: expect.stringContaining("the disk fails") as string }),
      );
    } finally {
      restore();
    }
    expect(await database.run("INSERT INTO t VALUES (2, 'y')")).toBe(1);
    expect(await database.query("SELECT a FROM t")).toEqual([{ a: 2 }]);
  });
});
