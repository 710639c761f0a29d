import { describe, expect, it } from "vitest";
import { openDatabase } from "./index.ts";
import { postgresError } from "./postgres-errors.ts";
import { isPostgresUrl, readPostgresUrl } from "./postgres-url.ts";

describe("readPostgresUrl", () => {
  it("reads everything", async () => {
    expect(await readPostgresUrl("postgres://us%40er:p%3Aw%2F%23@db.example:6000/va%20ult?sslmode=disable&application_name=x")).toEqual({
      host: "db.example",
      port: 6000,
      database: "va ult",
      user: "us@er",
      password: "p:w/#",
      tls: false,
      applicationName: "x",
      name: "postgres://db.example:6000/va ult",
    });
  });

  it.each<[string, Record<string, unknown>]>([
    ["postgresql://db.example/vault?sslmode=disable", { host: "db.example", port: 5432, database: "vault", user: undefined, password: undefined }],
    ["postgres:///vault?host=/run/postgresql", { host: "/run/postgresql", tls: false, name: "postgres /run/postgresql:5432/vault" }],
    ["postgres://me@/vault?host=%2Frun%2Fpostgresql&port=7000", { host: "/run/postgresql", port: 7000, user: "me" }],
    ["postgres://me:secret@%2Frun%2Fpostgresql/vault", { host: "/run/postgresql", user: "me", password: "secret" }],
    ["postgres://[::1]:6000/vault", { host: "::1", tls: false, name: "postgres://[::1]:6000/vault" }],
    ["postgres://host/vault?user=a&password=b&sslmode=prefer", { user: "a", password: "b", tls: "prefer" }],
  ])("reads %s", async (url, expected) => {
    expect(await readPostgresUrl(url)).toMatchObject(expected);
  });

  it.each<[string, unknown]>([
    ["postgres://localhost/v", false],
    ["postgres://127.0.0.1/v", false],
    ["postgres://db.example/v", { servername: "db.example", host: "db.example", rejectUnauthorized: true }],
    ["postgres://10.0.0.7/v", { host: "10.0.0.7", rejectUnauthorized: true }],
    ["postgres://localhost/v?sslmode=verify-full", { servername: "localhost", host: "localhost", rejectUnauthorized: true }],
    ["postgres://db.example/v?sslmode=verify-ca", { servername: "db.example", rejectUnauthorized: true, checkServerIdentity: expect.any(Function) }],
    ["postgres://db.example/v?sslmode=require", { servername: "db.example", rejectUnauthorized: false }],
    ["postgres://db.example/v?sslmode=require&sslrootcert=package.json", { rejectUnauthorized: true, ca: expect.stringContaining("sealpod") }],
    ["postgres://db.example/v?sslrootcert=system", { rejectUnauthorized: true }],
  ])("protects %s", async (url, tls) => {
    const address = await readPostgresUrl(url);
    if (tls === false) expect(address.tls).toBe(false);
    else expect(address.tls).toMatchObject(tls as object);
    // The name in the certificate is looked at unless somebody asked for less.
    if (tls !== false && !/verify-ca|require/.test(url)) expect(address.tls).not.toHaveProperty("checkServerIdentity");
  });

  it.each([
    "postgres://",
    "postgres://u:secret@host:port/v",
    "postgres://u:secret@host",
    "postgres://u:secret@host/",
    "postgres://u:secret@host/a/b",
    "postgres://u:se#cret@host/v",
    "postgres://u:secret%zz@host/v",
    "postgres://u:secret@a,b/v",
    "postgres://u:secret@host/v?sslmode=maybe",
    "postgres://u:secret@host/v?unknown=secret",
    "postgres://u:secret@host/v?secret=1",
    "postgres://u:secret@host/v?host=a&host=b",
    "postgres://u:secret@host/v?sslrootcert=/nonexistent",
    "postgres://u:secret@host/v?port=0",
    "postgres://u:secret@host/v?port=99999",
  ])("refuses %s, and does not repeat it", async (url) => {
    const error = await openDatabase({ url, migrations: [] }).then(
      () => expect.fail("it was taken"),
      (reason: unknown) => reason as Error,
    );
    expect(error).toMatchObject({ code: "ERR_STORAGE_ARGUMENT" });
    const isName = url.includes("?secret=");
    if (!isName)
      expect(`${error.message} ${error.stack ?? ""} ${JSON.stringify(error)} ${String(error.cause)} ${JSON.stringify(error.cause ?? "")}`).not.toMatch(
        /secret|se#cret/,
      );
  });

  it("knows PostgreSQL by its scheme", () => {
    expect(["postgres://a/b", "postgresql://a/b", "POSTGRES://a/b", "postgres.sqlite", "/postgres://a", "file:postgres://"].map(isPostgresUrl)).toEqual([
      true,
      true,
      true,
      false,
      false,
      false,
    ]);
  });
});

describe("postgresError", () => {
  const server = (code: string, more: Record<string, unknown> = {}): Error =>
    Object.assign(new Error("it says something"), { severity: "ERROR", code, ...more });

  it.each<[string, string, Record<string, unknown>]>([
    ["23505", "ERR_STORAGE_CONSTRAINT", { kind: "unique" }],
    ["23503", "ERR_STORAGE_CONSTRAINT", { kind: "foreign-key" }],
    ["23001", "ERR_STORAGE_CONSTRAINT", { kind: "foreign-key" }],
    ["23514", "ERR_STORAGE_CONSTRAINT", { kind: "check" }],
    ["23502", "ERR_STORAGE_CONSTRAINT", { kind: "not-null" }],
    ["P0001", "ERR_STORAGE_CONSTRAINT", { kind: "trigger" }],
    ["40001", "ERR_STORAGE_CONFLICT", {}],
    ["40P01", "ERR_STORAGE_CONFLICT", {}],
    ["53100", "ERR_STORAGE_FULL", {}],
    ["53300", "ERR_STORAGE_UNAVAILABLE", {}],
    ["57014", "ERR_STORAGE_UNAVAILABLE", {}],
    ["57P01", "ERR_STORAGE_UNAVAILABLE", {}],
    ["25006", "ERR_STORAGE_UNAVAILABLE", {}],
    ["28P01", "ERR_STORAGE_UNAVAILABLE", {}],
    ["3D000", "ERR_STORAGE_UNAVAILABLE", {}],
    ["42P01", "ERR_STORAGE_STATEMENT", {}],
    ["0A000", "ERR_STORAGE_STATEMENT", {}],
  ])("is for SQLSTATE %s %s", (sqlstate, code, details) => {
    expect(postgresError(server(sqlstate), "db", "SELECT 1")).toMatchObject({ code, details: { sqlstate, ...details } });
  });

  it("repeats no message that quotes values, and has no cause", () => {
    const error = postgresError(server("22P02", { message: 'invalid input: "secret"', detail: "secret", parameters: ["secret"] }), "db", "SELECT 1");
    expect(error).toMatchObject({ code: "ERR_STORAGE_VALUE", message: "db: a value does not fit (SQLSTATE 22P02): SELECT 1" });
    expect(error.cause).toBeUndefined();
  });

  it("takes what the client says for a lost connection", () => {
    expect(postgresError(Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" }), "db")).toMatchObject({ code: "ERR_STORAGE_UNAVAILABLE" });
    const both = new AggregateError([new Error("connect ECONNREFUSED ::1:5432"), new Error("connect ECONNREFUSED 127.0.0.1:5432")], "");
    expect(postgresError(both, "db").message).toBe("db cannot be reached: connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127.0.0.1:5432");
  });
});
