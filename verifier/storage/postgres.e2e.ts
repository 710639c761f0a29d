import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { backupDatabase, openDatabase, type Migration } from "./index.ts";
import { databaseCases } from "./testdata/database-cases.ts";
import { findPostgres, startPostgres, type TestPostgres } from "./testing.ts";

const MIGRATIONS: readonly Migration[] = [{ sql: "CREATE TABLE t (a {int} PRIMARY KEY) {strict};" }];

describe.skipIf(findPostgres() === undefined)("PostgreSQL (skipped without its server programs)", () => {
  let server: TestPostgres;
  beforeAll(async () => {
    server = await startPostgres();
  });
  afterAll(async () => server.stop());
  /** SQL by another client. */
  const psql = (url: string, sql: string): string =>
    execFileSync(join(findPostgres() ?? "", "psql"), ["-X", "-q", "-A", "-t", url, "-c", sql], { encoding: "utf8" }).trim();

  databaseCases("a PostgreSQL database", { fresh: async () => server.createDatabase(), isPersistent: true });

  it("is named without user and password", async () => {
    const url = (await server.createDatabase()).replace("sealpod@", "sealpod:secret@");
    await using database = await openDatabase({ url, migrations: [] });
    expect(database.dialect).toBe("postgres");
    expect(database.name).toMatch(/^postgres \/.*\/test_\d+$/);
  });

  it("lets two services share a database, each with its own schema", async () => {
    const url = await server.createDatabase();
    await using one = await openDatabase({ url, name: "one", migrations: MIGRATIONS });
    await using two = await openDatabase({ url, name: "two", migrations: [{ sql: "CREATE TABLE u (a {int} PRIMARY KEY) {strict};" }] });
    expect(await one.run("INSERT INTO t (a) VALUES (1)")).toBe(1);
    expect(await two.run("INSERT INTO u (a) VALUES (1)")).toBe(1);
    expect(psql(url, "SELECT name, version FROM sealpod_schema ORDER BY name")).toBe("one|1\ntwo|1");
    await expect(openDatabase({ url, name: "three", migrations: MIGRATIONS })).rejects.toMatchObject({
      code: "ERR_STORAGE_SCHEMA",
      message: expect.stringContaining("already exists"),
    });
  });

  it("says that there is no such database, user or server", async () => {
    await expect(openDatabase({ url: server.url.replace("/postgres?", "/none?"), migrations: [] })).rejects.toMatchObject({
      code: "ERR_STORAGE_UNAVAILABLE",
      message: expect.stringContaining('"none" does not exist'),
    });
    await expect(openDatabase({ url: server.url.replace("sealpod@", "nobody:secret@"), migrations: [] })).rejects.toMatchObject({
      code: "ERR_STORAGE_UNAVAILABLE",
      message: expect.not.stringContaining("secret"),
    });
    await expect(openDatabase({ url: "postgres:///x?host=/nonexistent", migrations: [] })).rejects.toMatchObject({
      code: "ERR_STORAGE_UNAVAILABLE",
      message: expect.stringContaining("ENOENT"),
    });
  });

  it("goes on by itself when its connections were cut, and loses no transaction half", async () => {
    const url = await server.createDatabase();
    await using database = await openDatabase({ url, migrations: MIGRATIONS, limits: { connections: 2 } });
    const cut = (): string => psql(server.url, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'sealpod'");
    await database.run("INSERT INTO t (a) VALUES (0)");
    for (let round = 1; round <= 5; round++) {
      await expect(
        database.transaction(async (queries) => {
          await queries.run("INSERT INTO t (a) VALUES (?)", [round]);
          const pid = (await queries.query("SELECT pg_backend_pid() AS pid"))[0]?.["pid"] as number;
          expect(Number(cut())).toBeGreaterThan(0);
          // In some rounds the next statement is on its way before the end of the connection is known, in others it comes after.
          if (round % 2 === 0) while ((await database.query("SELECT pid FROM pg_stat_activity WHERE pid = ?", [pid])).length > 0);
          // In another session this would be made, and stay.
          await queries.run("INSERT INTO t (a) VALUES (?)", [100 + round]);
        }),
      ).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE" });
      expect(await database.query("SELECT a FROM t")).toEqual([{ a: 0 }]);
      // The session idles, and is cut.
      cut();
      expect(await database.transaction(async (queries) => queries.run("UPDATE t SET a = 0"))).toBe(1);
      cut();
      await database.check();
    }
    expect(await database.query("SELECT a FROM t")).toEqual([{ a: 0 }]);
  });

  it("does not wait for a server that is silent, and goes on when it speaks again", async () => {
    const url = await server.createDatabase();
    await using database = await openDatabase({ url, migrations: MIGRATIONS, limits: { answerTime: 1500, connections: 1 } });
    const pid = Number((await database.query("SELECT pg_backend_pid() AS pid"))[0]?.["pid"]);
    const sockets = (): number => process.getActiveResourcesInfo().filter((resource) => resource === "PipeWrap").length;
    const before = sockets();
    process.kill(pid, "SIGSTOP");
    try {
      await expect(database.run("INSERT INTO t (a) VALUES (1)")).rejects.toMatchObject({
        code: "ERR_STORAGE_UNAVAILABLE",
        message: expect.stringContaining("1500 ms"),
      });
      // With another connection, in the place of the first.
      await database.check();
      await expect.poll(sockets).toBe(before);
    } finally {
      process.kill(pid, "SIGCONT");
    }
    expect(await database.run("INSERT INTO t (a) VALUES (2)")).toBe(1);
  });

  it("says that a COMMIT whose answer is lost may have been made", async () => {
    const url = await server.createDatabase();
    await using database = await openDatabase({ url, migrations: MIGRATIONS, limits: { answerTime: 1500, connections: 1 } });
    let pid = 0;
    try {
      await expect(
        database.transaction(async (queries) => {
          pid = Number((await queries.query("SELECT pg_backend_pid() AS pid"))[0]?.["pid"]);
          await queries.run("INSERT INTO t (a) VALUES (1)");
          process.kill(pid, "SIGSTOP");
        }),
      ).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE", details: { outcome: "unknown" } });
    } finally {
      process.kill(pid, "SIGCONT");
    }
  });

  it("gives up after so many conflicts", async () => {
    const url = await server.createDatabase();
    await using database = await openDatabase({ url, migrations: MIGRATIONS, limits: { attempts: 4 } });
    await database.run("INSERT INTO t (a) VALUES (0)");
    let runs = 0;
    await expect(
      database.transaction(async (queries) => {
        runs++;
        const [row] = await queries.query("SELECT a FROM t");
        psql(url, `UPDATE t SET a = ${runs}`);
        await queries.run("UPDATE t SET a = ?", [(row?.["a"] as number) + 1]);
      }),
    ).rejects.toMatchObject({ code: "ERR_STORAGE_CONFLICT", row: { http: 503 } });
    expect(runs).toBe(4);
    // The work may say what it likes of it: it is done again.
    runs = 0;
    await database.transaction(async (queries) => {
      runs++;
      await queries.query("SELECT a FROM t");
      if (runs < 3) psql(url, `UPDATE t SET a = ${10 + runs}`);
      await queries.run("UPDATE t SET a = 100").catch(() => {
        throw new Error("something else");
      });
    });
    expect(runs).toBe(3);
    expect(await database.query("SELECT a FROM t")).toEqual([{ a: 100 }]);
  });

  it("takes prepared statements as new when another replica has changed the schema", async () => {
    const url = await server.createDatabase();
    await using database = await openDatabase({ url, migrations: MIGRATIONS, limits: { connections: 1 } });
    await database.run("INSERT INTO t (a) VALUES (1)");
    const read = async (): Promise<unknown> => database.transaction(async (queries) => queries.query("SELECT * FROM t WHERE a = ?", [1]));
    expect(await read()).toEqual([{ a: 1 }]);
    psql(url, "ALTER TABLE t ADD COLUMN b TEXT");
    expect(await read()).toEqual([{ a: 1, b: null }]);
  });

  it("does not acknowledge what the server has not on disk", async () => {
    const url = await server.createDatabase();
    psql(url, `ALTER DATABASE ${psql(url, "SELECT current_database()")} SET synchronous_commit = off`);
    await expect(openDatabase({ url, migrations: MIGRATIONS })).rejects.toMatchObject({
      code: "ERR_STORAGE_ARGUMENT",
      message: expect.stringContaining("synchronous_commit"),
    });
  });

  it("has backups of its own", async () => {
    await using database = await openDatabase({ url: await server.createDatabase(), migrations: MIGRATIONS });
    await expect(backupDatabase(database, join(tmpdir(), "never"))).rejects.toMatchObject({
      code: "ERR_STORAGE_ARGUMENT",
      hint: expect.stringContaining("pg_dump"),
    });
  });
});

const hasOpenssl = spawnSync("openssl", ["version"]).status === 0;

describe.skipIf(findPostgres() === undefined || !hasOpenssl)("PostgreSQL with TLS (skipped without its server programs and openssl)", () => {
  let directory: string;
  let certificate: string;
  const port = 10_000 + (process.pid % 20_000);
  let server: TestPostgres;
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-postgres-tls-"));
    certificate = join(directory, "server.crt");
    chmodSync(directory, 0o755);
    const key = join(directory, "server.key");
    const names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    execFileSync(
      "openssl",
      ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=db", "-addext", names, "-days", "2"],
      { stdio: "ignore" },
    );
    // The key belongs to whom the server runs as, and to nobody else.
    const owner =
      process.getuid?.() === 0
        ? readFileSync("/etc/passwd", "utf8")
            .split("\n")
            .map((line) => line.split(":"))
            .find(([name]) => name === "postgres")
        : undefined;
    if (owner !== undefined) chownSync(key, Number(owner[2]), Number(owner[3]));
    chmodSync(key, 0o600);
    expect(statSync(key).mode & 0o077).toBe(0);
    server = await startPostgres({ listen_addresses: "127.0.0.1", port: String(port), ssl: "on", ssl_cert_file: certificate, ssl_key_file: key });
  });
  afterAll(async () => {
    await server.stop();
    rmSync(directory, { recursive: true });
  });
  const isEncrypted = async (query: string, host = "127.0.0.1"): Promise<unknown> => {
    await using database = await openDatabase({ url: `postgres://sealpod:secret@${host}:${port}/postgres?${query}`, migrations: [] });
    return (await database.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))[0]?.["ssl"];
  };

  it("encrypts as it is asked to", async () => {
    expect(await isEncrypted("sslmode=disable")).toBe(0);
    expect(await isEncrypted("sslmode=prefer")).toBe(1);
    expect(await isEncrypted("sslmode=require")).toBe(1);
    expect(await isEncrypted(`sslmode=verify-full&sslrootcert=${certificate}`)).toBe(1);
    expect(await isEncrypted(`sslmode=verify-full&sslrootcert=${certificate}`, "localhost")).toBe(1);
    expect(await isEncrypted(`sslmode=verify-ca&sslrootcert=${certificate}`)).toBe(1);
  });

  it("does not talk to a server that it cannot verify", async () => {
    for (const query of ["sslmode=verify-full", "sslmode=verify-ca", "sslmode=require&sslrootcert=package.json"]) {
      await expect(isEncrypted(query)).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE", message: expect.not.stringContaining("secret") });
    }
    // The certificate is good, and another host's.
    await expect(isEncrypted(`sslmode=verify-full&sslrootcert=${certificate}`, "127.0.0.2")).rejects.toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE" });
  });

  it("does not talk in the clear to a server without TLS", async () => {
    const seen: string[] = [];
    const plain: Server = createServer((socket) => {
      socket.on("data", (data) => {
        seen.push(data.toString("latin1"));
        // No TLS here, says the first answer; the second is that of a server that does not understand.
        if (seen.length === 1) socket.write("N");
        else socket.destroy();
      });
      socket.on("error", () => undefined);
    });
    const plainPort = await new Promise<number>((resolve) => {
      plain.listen(0, "127.0.0.1", () => resolve((plain.address() as { port: number }).port));
    });
    await expect(openDatabase({ url: `postgres://sealpod:secret@127.0.0.1:${plainPort}/postgres?sslmode=require`, migrations: [] })).rejects.toMatchObject({
      code: "ERR_STORAGE_UNAVAILABLE",
    });
    expect(seen.join("")).not.toContain("sealpod");
    await new Promise((resolve) => {
      plain.close(resolve);
    });
  });
});
