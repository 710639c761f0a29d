import { describe, expect, it } from "vitest";
import { openDatabase, type Database, type DatabaseOptions, type Migration, type Queries, type SqlValue } from "../index.ts";

/** What {@link databaseCases} needs of an engine. */
export interface Engine {
  /** The address of a new, empty database. */
  fresh(): Promise<string>;
  /** A database in memory is gone when it is closed, and cannot be opened twice. */
  readonly isPersistent: boolean;
}

const MIGRATION: Migration = {
  sql: `
  CREATE TABLE owners (name TEXT PRIMARY KEY, age {int} CHECK (age >= 0)) {strict};
  CREATE TABLE things (
    id {id}, owner TEXT NOT NULL REFERENCES owners (name), label TEXT UNIQUE, size {int} NOT NULL DEFAULT 0, bytes {blob}
  ) {strict};
  `,
};

/** The table of cases that every engine of a {@link Database} passes. */
export function databaseCases(title: string, engine: Engine): void {
  describe(title, () => {
    const using = async (work: (database: Database) => Promise<void>, options: Partial<DatabaseOptions> = {}): Promise<void> => {
      await using database = await openDatabase({ url: await engine.fresh(), migrations: [MIGRATION], ...options });
      await work(database);
    };
    /** Makes two owners. */
    const filled = async (work: (database: Database) => Promise<void>, options: Partial<DatabaseOptions> = {}): Promise<void> =>
      using(async (database) => {
        await database.run("INSERT INTO owners (name, age) VALUES (?, ?), (?, ?)", ["ann", 1, "bob", 2]);
        await work(database);
      }, options);
    const count = async (queries: Queries, table: "owners" | "things"): Promise<SqlValue | undefined> => (await queries.query(`SELECT count(*) AS n FROM ${table}`))[0]?.["n"];

    describe("values", () => {
      it("come back as they were kept", async () =>
        filled(async (database) => {
          const bytes = Uint8Array.from({ length: 256 }, (_, at) => at);
          const rows: readonly (readonly [string | null, number, Uint8Array | null])[] = [
            ["", 0, new Uint8Array()],
            ["'; DROP TABLE owners; -- ? $1 \\ \u{1f980} é\r\n\t\u{7f}", Number.MAX_SAFE_INTEGER, bytes],
            [null, Number.MIN_SAFE_INTEGER, null],
            ["0", -1, bytes.subarray(7, 9)],
            ["\\x00", 2 ** 31, Uint8Array.of(0)],
          ];
          for (const row of rows) await database.run("INSERT INTO things (owner, label, size, bytes) VALUES ('ann', ?, ?, ?)", row);
          const found = await database.query("SELECT label, size, bytes FROM things ORDER BY id");
          expect(found.map((row) => [row["label"], row["size"], row["bytes"]])).toEqual(rows);
          // Not a Buffer: its methods differ.
          expect(Object.getPrototypeOf(found[1]?.["bytes"])).toBe(Uint8Array.prototype);
        }));

      it("are bytes of their own", async () =>
        filled(async (database) => {
          await database.run("INSERT INTO things (owner, bytes) VALUES ('ann', ?)", [Uint8Array.of(1, 2, 3)]);
          const [row] = await database.query("SELECT bytes FROM things");
          expect(row?.["bytes"]).toHaveProperty("buffer.byteLength", 3);
        }));

      it("do not include what one of the engines would change", async () =>
        filled(async (database) => {
          const cases: readonly (readonly [string, unknown])[] = [
        ["NaN", Number.NaN],
        ["infinity", Number.POSITIVE_INFINITY],
        ["2^53", 2 ** 53],
        ["-2^53", -(2 ** 53)],
        ["a bigint", 1n],
        ["a boolean", true],
        ["undefined", undefined],
        ["an object", { a: 1 }],
        ["text with U+0000", "a\0b"],
        ["half of a surrogate pair", "a\ud800"],
          ];
          for (const [what, value] of cases) {
            await expect(database.query("SELECT name FROM owners WHERE name = ?", [value as SqlValue]), what).rejects.toMatchObject({ code: "ERR_STORAGE_VALUE" });
            await expect(database.run("UPDATE owners SET age = ? WHERE name = 'ann'", [value as SqlValue]), what).rejects.toMatchObject({ code: "ERR_STORAGE_VALUE" });
          }
        }));

      it("never come back as another number", async () =>
        filled(async (database) => {
          await database.run("UPDATE owners SET age = 9007199254740993 WHERE name = 'ann'");
          await expect(database.query("SELECT age FROM owners WHERE name = 'ann'")).rejects.toMatchObject({ code: "ERR_STORAGE_VALUE" });
          await expect(database.transaction(async (queries) => queries.query("SELECT age FROM owners"))).rejects.toMatchObject({ code: "ERR_STORAGE_VALUE" });
          expect(await database.query("SELECT age FROM owners WHERE name = 'bob'")).toEqual([{ age: 2 }]);
        }));

      it("are 0 and 1 for truths, and numbers for counts and sums", async () =>
        filled(async (database) => {
          const sql = "SELECT age = 1 AS yes, age = 2 AS no, (SELECT count(*) FROM owners) AS n, (SELECT sum(age) FROM owners) AS sum FROM owners WHERE name = 'ann'";
          expect(await database.query(sql)).toEqual([{ yes: 1, no: 0, n: 2, sum: 3 }]);
        }));

      it("are integers in arithmetic if they are integers", async () =>
        filled(async (database) => {
          expect(await database.query("SELECT name FROM owners WHERE age / ? = 0", [2])).toEqual([{ name: "ann" }]);
        }));

      it("do not appear in errors", async () =>
        filled(async (database) => {
          const wrong = async (sql: string, parameters: readonly SqlValue[]): Promise<string> => {
            const error = await database.run(sql, parameters).then(
              () => expect.fail("it was taken"),
              (reason: unknown) => reason as Error,
            );
            return `${error.message} ${JSON.stringify(error)} ${JSON.stringify(error.cause ?? null)} ${String(error.cause)} ${Object.values(error.cause ?? {}).join(" ")}`;
          };
          for (const [sql, parameters] of [
            ["INSERT INTO owners (name) VALUES (?)", ["ann"]],
            ["INSERT INTO things (owner) VALUES (?)", ["secret-owner"]],
            ["INSERT INTO owners (name, age) VALUES (?, ?)", ["secret-owner", -77_345]],
            ["UPDATE owners SET age = ? WHERE name = 'ann'", ["secret-owner"]],
            ["UPDATE owners SET agee = ? WHERE name = 'ann'", ["secret-owner"]],
          ] as const) {
            const text = await wrong(sql, parameters);
            expect(text).not.toContain("secret-owner");
            expect(text).not.toContain("77345");
          }
        }));
    });

    describe("statements", () => {
      it("tell how many rows they changed", async () =>
        filled(async (database) => {
          expect(await database.run("UPDATE owners SET age = 5 WHERE name = 'carl'")).toBe(0);
          expect(await database.run("UPDATE owners SET age = age + 1")).toBe(2);
          expect(await database.run("CREATE TABLE other (a BIGINT)")).toBe(0);
          expect(await database.run("INSERT INTO owners (name) VALUES ('ann') ON CONFLICT DO NOTHING")).toBe(0);
          expect(await database.run("SELECT * FROM owners")).toBe(0);
          expect(await database.run("DELETE FROM owners")).toBe(2);
        }));

      it("give their rows, or none", async () =>
        filled(async (database) => {
          expect(await database.query("SELECT name FROM owners ORDER BY name LIMIT ?", [1])).toEqual([{ name: "ann" }]);
          expect(await database.query("SELECT name FROM owners WHERE name = ?", ["carl"])).toEqual([]);
          expect(await database.query("UPDATE owners SET age = 7 WHERE name = 'ann'")).toEqual([]);
          expect(await database.query("SELECT age FROM owners WHERE name = 'ann'")).toEqual([{ age: 7 }]);
        }));

      it("may return rows of what they change, outside of a transaction too", async () =>
        filled(async (database) => {
          const insert = "INSERT INTO things (owner, label) VALUES (?, ?) RETURNING id, label";
          const ids = [
            ...(await database.query(insert, ["ann", "a"])),
            ...(await database.query(insert, ["ann", "b"])),
            ...(await database.transaction(async (queries) => queries.query(insert, ["bob", "c"]))),
          ].map((row) => row["id"] as number);
          expect(ids.toSorted((a, b) => a - b)).toEqual(ids);
          expect(new Set(ids).size).toBe(3);
          expect(await count(database, "things")).toBe(3);
        }));

      it("have ? in texts, names and comments that is no parameter", async () =>
        filled(async (database) => {
          const sql = `SELECT '?''?' AS "a?", name /* ? ' */ FROM owners -- ? "
            WHERE name = ?;`;
          expect(await database.query(sql, ["bob"])).toEqual([{ "a?": "?'?", name: "bob" }]);
        }));

      it("are refused if they are not one, or are none, or end the transaction", async () =>
        filled(async (database) => {
          const cases: readonly (readonly [string, readonly SqlValue[]])[] = [
        ["SELECT name FROM owners WHERE name = ?", []],
        ["SELECT name FROM owners WHERE name = ?", ["a", "b"]],
        ["SELECT name FROM owners", [1]],
        ["SELECT name FROM owners; DELETE FROM owners", []],
        ["BEGIN", []],
        ["/* x */ commit", []],
        ["-- x\n ROLLBACK", []],
        ["SAVEPOINT a", []],
        ["SELEC 1", []],
        ["SELECT name FROM nowhere", []],
        ["SELECT 'open", []],
        [`SELECT ${" ".repeat(70_000)} 1`, []],
          ];
          for (const [sql, parameters] of cases) {
            const refusal = { code: "ERR_STORAGE_STATEMENT" };
            await expect(database.query(sql, parameters), sql).rejects.toMatchObject(refusal);
            await expect(database.run(sql, parameters), sql).rejects.toMatchObject(refusal);
            await expect(database.transaction(async (queries) => queries.run(sql, parameters)), sql).rejects.toMatchObject(refusal);
          }
          expect(await count(database, "owners")).toBe(2);
        }));

      it("may be more than those that are kept prepared", async () =>
        filled(
          async (database) => {
            for (const round of [1, 2, 3]) {
              for (let at = 0; at < 9; at++) {
                expect(await database.query(`SELECT name, ${at} AS at FROM owners WHERE age = ?`, [1])).toEqual([{ name: "ann", at }]);
                expect(await database.run(`UPDATE owners SET age = ${at * round + 2} WHERE name = ?`, ["bob"])).toBe(1);
              }
            }
          },
          { limits: { statements: 3 } },
        ));
    });

    describe("constraints", () => {
      it.each<[string, string, readonly SqlValue[]]>([
        ["unique", "INSERT INTO owners (name) VALUES (?)", ["ann"]],
        ["unique", "INSERT INTO things (owner, label) VALUES ('ann', ?), ('bob', ?)", ["x", "x"]],
        ["foreign-key", "INSERT INTO things (owner) VALUES (?)", ["carl"]],
        ["check", "UPDATE owners SET age = ?", [-1]],
        ["not-null", "INSERT INTO things (owner) VALUES (?)", [null]],
      ])("%s is named as such, and nothing is changed", async (kind, sql, parameters) =>
        filled(async (database) => {
          await expect(database.run(sql, parameters)).rejects.toMatchObject({ code: "ERR_STORAGE_CONSTRAINT", details: { kind } });
          await expect(
            database.transaction(async (queries) => {
              await queries.run("INSERT INTO owners (name) VALUES ('dora')");
              await queries.run(sql, parameters);
            }),
          ).rejects.toMatchObject({ code: "ERR_STORAGE_CONSTRAINT", details: { kind } });
          expect(await count(database, "owners")).toBe(2);
          expect(await count(database, "things")).toBe(0);
        }));

      it("foreign keys keep rows that others refer to", async () =>
        filled(async (database) => {
          await database.run("INSERT INTO things (owner) VALUES ('ann')");
          await expect(database.run("DELETE FROM owners WHERE name = 'ann'")).rejects.toMatchObject({ details: { kind: "foreign-key" } });
          expect(await database.run("DELETE FROM owners WHERE name = 'bob'")).toBe(1);
        }));

      it("that are looked at when a transaction ends fail that transaction alone", async () =>
        using(
          async (database) => {
            const insert = async (parent: number): Promise<unknown> =>
              database.transaction(async (queries) => {
                await queries.run("INSERT INTO child (parent) VALUES (?)", [parent]);
                if (parent > 0) await queries.run("INSERT INTO parent (id) VALUES (?)", [parent]);
              });
            const results = await Promise.allSettled([insert(1), insert(0), insert(2), insert(3)]);
            expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled", "fulfilled"]);
            expect(results[1]).toMatchObject({ reason: { code: "ERR_STORAGE_CONSTRAINT", details: { kind: "foreign-key" } } });
            expect(await database.query("SELECT parent FROM child ORDER BY parent")).toEqual([{ parent: 1 }, { parent: 2 }, { parent: 3 }]);
          },
          {
            migrations: [
              {
                sql: "CREATE TABLE parent (id {int} PRIMARY KEY) {strict}; CREATE TABLE child (parent {int} REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED) {strict};",
              },
            ],
          },
        ));
    });

    describe("transactions", () => {
      it("do all or nothing, and throw what their work throws", async () =>
        filled(async (database) => {
          const problem = new Error("no");
          await expect(
            database.transaction(async (queries) => {
              await queries.run("INSERT INTO owners (name) VALUES ('carl')");
              await queries.run("DELETE FROM owners WHERE name = 'ann'");
              throw problem;
            }),
          ).rejects.toBe(problem);
          expect(await database.query("SELECT name FROM owners ORDER BY name")).toEqual([{ name: "ann" }, { name: "bob" }]);
          const value = await database.transaction(async (queries) => {
            await queries.run("INSERT INTO owners (name) VALUES ('carl')");
            return count(queries, "owners");
          });
          expect(value).toBe(3);
          expect(await count(database, "owners")).toBe(3);
        }));

      it("each stand alone when many run at once", async () =>
        filled(async (database) => {
          const add = async (name: string, fails: boolean): Promise<void> =>
            database.transaction(async (queries) => {
              await queries.run("INSERT INTO owners (name) VALUES (?)", [name]);
              if (fails) throw new Error(`no ${name}`);
              await queries.run("INSERT INTO things (owner) VALUES (?)", [name]);
            });
          const results = await Promise.allSettled(Array.from({ length: 40 }, async (_, at) => add(`n${at}`, at % 3 === 0)));
          for (const [at, result] of results.entries()) {
            expect(result).toMatchObject(at % 3 === 0 ? { status: "rejected", reason: { message: `no n${at}` } } : { status: "fulfilled" });
          }
          expect(await count(database, "owners")).toBe(2 + 26);
          expect(await count(database, "things")).toBe(26);
        }));

      it("end with the first statement that fails, even if the work catches its error", async () =>
        filled(async (database) => {
          let second: unknown;
          await expect(
            database.transaction(async (queries) => {
              await queries.run("INSERT INTO owners (name) VALUES ('carl')");
              await queries.run("INSERT INTO owners (name) VALUES ('ann')").catch(() => undefined);
              second = await queries.query("SELECT 1 AS one").catch((error: unknown) => error);
            }),
          ).rejects.toMatchObject({ code: "ERR_STORAGE_CONSTRAINT", details: { kind: "unique" } });
          expect(second).toMatchObject({ code: "ERR_STORAGE_CONSTRAINT" });
          expect(await count(database, "owners")).toBe(2);
        }));

      it("throw what their work makes of a failed statement", async () =>
        filled(async (database) => {
          const work = async (queries: Queries): Promise<void> => {
            try {
              await queries.run("INSERT INTO owners (name) VALUES ('ann')");
            } catch (cause) {
              throw new Error("that name is taken", { cause });
            }
          };
          await expect(database.transaction(work)).rejects.toThrow("that name is taken");
          expect(await count(database, "owners")).toBe(2);
        }));

      it("take no statement after their end", async () =>
        filled(async (database) => {
          let late: Queries | undefined;
          await database.transaction(async (queries) => {
            late = queries;
          });
          await expect(late?.run("DELETE FROM owners")).rejects.toMatchObject({ code: "ERR_STORAGE_STATEMENT" });
          const problem = new Error("no");
          await expect(
            database.transaction(async (queries) => {
              late = queries;
              throw problem;
            }),
          ).rejects.toBe(problem);
          await expect(late?.query("SELECT 1 AS one")).rejects.toMatchObject({ code: "ERR_STORAGE_STATEMENT" });
          expect(await count(database, "owners")).toBe(2);
        }));

      it("lose no update to one another", async () =>
        filled(async (database) => {
          const increment = async (): Promise<void> =>
            database.transaction(async (queries) => {
              const [row] = await queries.query("SELECT age FROM owners WHERE name = 'ann'");
              await queries.run("UPDATE owners SET age = ? WHERE name = 'ann'", [(row?.["age"] as number) + 1]);
            });
          await Promise.all(Array.from({ length: 24 }, increment));
          expect(await database.query("SELECT age FROM owners WHERE name = 'ann'")).toEqual([{ age: 25 }]);
        }, PATIENT));

      it("are serializable: two that each look for what the other writes do not both write", async () =>
        filled(async (database) => {
          const claim = async (label: string): Promise<boolean> =>
            database.transaction(async (queries) => {
              if ((await count(queries, "things")) !== 0) return false;
              await queries.run("INSERT INTO things (owner, label) VALUES ('ann', ?)", [label]);
              return true;
            });
          const claims = await Promise.all(Array.from({ length: 8 }, async (_, at) => claim(`c${at}`)));
          expect(claims.filter(Boolean)).toHaveLength(1);
          expect(await count(database, "things")).toBe(1);
        }, PATIENT));

      it("show nobody a half of themselves", async () =>
        filled(async (database) => {
          const seen = new Set<SqlValue | undefined>();
          const reads: Promise<void>[] = [];
          const look = (): void => {
            reads.push(database.query("SELECT sum(age) AS sum FROM owners").then(([row]) => void seen.add(row?.["sum"])));
          };
          for (let round = 0; round < 5; round++) {
            await database.transaction(async (queries) => {
              await queries.run("UPDATE owners SET age = age + 1 WHERE name = 'ann'");
              look();
              await queries.run("UPDATE owners SET age = age - 1 WHERE name = 'bob' AND age > 0");
              await queries.run("UPDATE owners SET age = 3 - (SELECT age FROM owners WHERE name = 'bob') WHERE name = 'ann'");
            });
            look();
          }
          await Promise.all(reads);
          expect([...seen]).toEqual([3]);
        }));

      it("that wait for themselves are taken back, and the next one runs", async () =>
        filled(
          async (database) => {
            await expect(
              database.transaction(async (queries) => {
                await queries.run("DELETE FROM owners");
                // Its own turn comes when this one is over.
                await new Promise(() => undefined);
              }),
            ).rejects.toMatchObject({ code: "ERR_STORAGE_STATEMENT", message: expect.stringContaining("50 ms") });
            expect(await count(database, "owners")).toBe(2);
            expect(await database.run("DELETE FROM owners")).toBe(2);
          },
          { limits: { workTime: 50 } },
        ));

      it("are refused when too many wait", async () =>
        filled(
          async (database) => {
            const results = await Promise.allSettled(Array.from({ length: 12 }, async (_, at) => database.run("INSERT INTO owners (name) VALUES (?)", [`n${at}`])));
            const refused = results.filter(({ status }) => status === "rejected");
            expect(refused.length).toBeGreaterThan(0);
            for (const result of refused) expect(result).toMatchObject({ reason: { code: "ERR_STORAGE_UNAVAILABLE", message: expect.stringContaining("wait") } });
            expect(await count(database, "owners")).toBe(2 + results.length - refused.length);
          },
          { limits: { waiting: 3, connections: 1 } },
        ));
    });

    describe("the end", () => {
      it("comes when what is under way is done", async () => {
        const database = await openDatabase({ url: await engine.fresh(), migrations: [MIGRATION] });
        const writes = Array.from({ length: 10 }, async (_, at) => database.run("INSERT INTO owners (name) VALUES (?)", [`n${at}`]));
        const closed = database.close();
        await expect(database.run("DELETE FROM owners")).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE", message: expect.stringContaining("closed") });
        expect(await Promise.all(writes)).toEqual(Array.from({ length: 10 }, () => 1));
        await closed;
        await database.close();
        await expect(database.query("SELECT 1 AS one")).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE" });
        await expect(database.check()).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE" });
        await expect(database.transaction(async () => 1)).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE" });
      });
    });

    if (!engine.isPersistent) return;

    describe("migrations", () => {
      const second: Migration = {
        sql: {
          sqlite: "ALTER TABLE owners ADD COLUMN town TEXT; CREATE TRIGGER no_delete BEFORE DELETE ON owners BEGIN SELECT RAISE(ABORT, 'owners stay'); END;",
          postgres: `ALTER TABLE owners ADD COLUMN town TEXT;
            CREATE FUNCTION no_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'owners stay'; END $$;
            CREATE TRIGGER no_delete BEFORE DELETE ON owners EXECUTE FUNCTION no_delete();`,
        },
        work: async (queries) => {
          const rows = await queries.query("SELECT name FROM owners");
          for (const row of rows) await queries.run("UPDATE owners SET town = ? WHERE name = ?", [`town of ${row["name"] as string}`, row["name"] ?? null]);
        },
      };

      it("carry a database over, once", async () => {
        const url = await engine.fresh();
        let database = await openDatabase({ url, name: "probe", migrations: [MIGRATION] });
        await database.run("INSERT INTO owners (name) VALUES ('ann')");
        await database.close();
        for (let round = 0; round < 2; round++) {
          database = await openDatabase({ url, name: "probe", migrations: [MIGRATION, second] });
          expect(await database.query("SELECT name, town FROM owners")).toEqual([{ name: "ann", town: "town of ann" }]);
          await expect(database.run("DELETE FROM owners")).rejects.toMatchObject({
            code: "ERR_STORAGE_CONSTRAINT",
            message: expect.stringContaining("owners stay"),
            details: { kind: "trigger" },
          });
          await database.close();
        }
      });

      it("stop at a newer schema", async () => {
        const url = await engine.fresh();
        await (await openDatabase({ url, name: "probe", migrations: [MIGRATION, second] })).close();
        await expect(openDatabase({ url, name: "probe", migrations: [MIGRATION] })).rejects.toMatchObject({
          code: "ERR_STORAGE_SCHEMA",
          details: { found: 2, expected: 1 },
          hint: expect.stringContaining("newer"),
        });
      });

      it.each<[string, Migration]>([
        ["text", { sql: "ALTER TABLE owners ADD COLUMN town TEXT; ALTER TABLE nowhere ADD COLUMN a TEXT;" }],
        [
          "work",
          {
            sql: "ALTER TABLE owners ADD COLUMN town TEXT;",
            work: async () => {
              throw new Error("cannot carry over");
            },
          },
        ],
        [
          "a statement of the work, caught",
          { sql: "ALTER TABLE owners ADD COLUMN town TEXT;", work: async (queries) => void (await queries.run("INSERT INTO nowhere VALUES (1)").catch(() => 0)) },
        ],
      ])("leave everything as it was when %s fails", async (_what, broken) => {
        const url = await engine.fresh();
        await (await openDatabase({ url, migrations: [MIGRATION] })).close();
        await expect(openDatabase({ url, migrations: [MIGRATION, second, broken] })).rejects.toMatchObject({
          code: "ERR_STORAGE_SCHEMA",
          message: expect.stringContaining("from schema 2 to 3"),
        });
        const database = await openDatabase({ url, migrations: [MIGRATION] });
        await expect(database.query("SELECT town FROM owners")).rejects.toMatchObject({ code: "ERR_STORAGE_STATEMENT" });
        await database.close();
      });

      it("run once when several open a new database at the same time", async () => {
        const url = await engine.fresh();
        let runs = 0;
        const counted: Migration = { ...MIGRATION, work: async () => void runs++ };
        const databases = await Promise.all(Array.from({ length: 5 }, async () => openDatabase({ url, migrations: [counted, second] })));
        expect(runs).toBe(1);
        await Promise.all(databases.map(async (database, at) => database.run("INSERT INTO owners (name) VALUES (?)", [`n${at}`])));
        for (const database of databases) {
          expect(await count(database, "owners")).toBe(5);
          await database.close();
        }
      });
    });

    describe("several replicas", () => {
      it("see each other's changes, and lose none", async () => {
        const url = await engine.fresh();
        const replicas = await Promise.all(Array.from({ length: 3 }, async () => openDatabase({ url, migrations: [MIGRATION], ...PATIENT })));
        await replicas[0]?.run("INSERT INTO owners (name, age) VALUES ('ann', 0)");
        for (const replica of replicas) expect(await count(replica, "owners")).toBe(1);
        const increment = async (replica: Database): Promise<void> =>
          replica.transaction(async (queries) => {
            const [row] = await queries.query("SELECT age FROM owners");
            await queries.run("UPDATE owners SET age = ?", [(row?.["age"] as number) + 1]);
          });
        await Promise.all(replicas.flatMap((replica) => Array.from({ length: 8 }, async () => increment(replica))));
        for (const replica of replicas) {
          expect(await replica.query("SELECT age FROM owners")).toEqual([{ age: 24 }]);
          await replica.close();
        }
      });
    });
  });
}

/** Many that change one row meet often. */
const PATIENT = { limits: { attempts: 200 } };
