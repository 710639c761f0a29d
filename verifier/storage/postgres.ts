import { connect, type Socket } from "node:net";
import { messageOf, silentLogger, type Logger } from "@sealpod/core";
// oxlint-disable-next-line import/no-named-as-default -- the package has no other face
import postgres from "postgres";
import { StorageError } from "./errors.ts";
import { DEFAULT_STORAGE_LIMITS, WAITING, type StorageLimits, type WaitingPorts } from "./limits.ts";
import { applicationId, checkVersion, migrationText } from "./migrations.ts";
import { endsSession, postgresError } from "./postgres-errors.ts";
import type { PostgresAddress } from "./postgres-url.ts";
import { parseStatement, shortened, StatementCache, type Statement } from "./statement.ts";
import type { Database, Migration, Queries, Row, SqlValue } from "./types.ts";
import { checkParameters } from "./values.ts";

/** Seconds to wait for a connection. */
const CONNECT_TIME = 5;
/** Milliseconds of silence on a connection after which the peer is asked for a sign of life. */
const KEEP_ALIVE = 10_000;
/** Milliseconds to wait for another replica that brings the schema up to date. */
const MIGRATION_LOCK_TIME = 120_000;
/** First pause in milliseconds after a conflict; it doubles. */
const FIRST_PAUSE = 2;
const LONGEST_PAUSE = 100;
/** The schema's version where there is no name for it. */
const DEFAULT_APPLICATION = "sealpod";

/** Options of {@link openPostgres}. */
export interface PostgresOptions {
  readonly address: PostgresAddress;
  readonly application?: string | undefined;
  readonly migrations: readonly Migration[];
  readonly limits?: StorageLimits;
  readonly logger?: Logger;
}

/** What comes back from one statement. */
interface Answer {
  readonly rows: readonly Row[];
  readonly command: string;
  readonly count: number;
}

/** How columns of PostgreSQL become values, and values parameters. What is not here is text. */
const TYPES = {
  // int8 and numeric (the sum of int8): a bigint stands for what no number can say, and is refused where rows are read.
  integer: { to: 20, from: [20, 1700], serialize: String, parse: (text: string) => exactNumber(text) },
  // As SQLite has them.
  boolean: { to: 16, from: [16], serialize: (value: SqlValue) => (value === 0 || value === "0" ? "f" : "t"), parse: (text: string) => (text === "t" ? 1 : 0) },
  bytes: { to: 17, from: [17], serialize: (value: SqlValue) => `\\x${Buffer.from(value as Uint8Array).toString("hex")}`, parse: bytesOf },
  // json, jsonb, date, timestamp, timestamptz: as their text.
  text: { to: 114, from: [114, 3802, 1082, 1114, 1184], serialize: String, parse: (text: string) => text },
};

function exactNumber(text: string): number | bigint {
  const value = Number(text);
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? BigInt(text.replace(/\..*/, "")) : value;
}

function bytesOf(text: string): Uint8Array {
  // `\x` and two digits for each byte. Memory of its own, not a part of the buffers that are shared.
  const bytes = new Uint8Array((text.length - 2) / 2);
  Buffer.from(bytes.buffer).write(text.slice(2), "hex");
  return bytes;
}

/** One connection. When it is lost it stays lost: a statement of a transaction must not run in another session. */
class Session {
  lost = false;
  /** It has answered before. */
  used = false;
  readonly #name: string;
  readonly #client: postgres.Sql;
  readonly #limits: StorageLimits;
  readonly #sockets: Socket[] = [];

  constructor(address: PostgresAddress, limits: StorageLimits) {
    const { host, port, database, user, password, tls, applicationName } = address;
    this.#name = address.name;
    this.#limits = limits;
    const options = {
      host,
      port,
      database,
      ...(user === undefined ? {} : { user }),
      ...(password === undefined ? {} : { password }),
      ssl: tls,
      max: 1,
      idle_timeout: undefined,
      max_lifetime: null,
      connect_timeout: CONNECT_TIME,
      fetch_types: false,
      prepare: true,
      target_session_attrs: undefined,
      types: TYPES,
      connection: {
        application_name: applicationName,
        default_transaction_isolation: "serializable",
        // Should the service be gone without a word, its locks go as well.
        statement_timeout: limits.answerTime,
        idle_in_transaction_session_timeout: limits.workTime + limits.answerTime,
        bytea_output: "hex",
      },
      // It would write them to the console.
      onnotice: () => undefined,
      onclose: () => this.end(),
      // A socket that this class can destroy: the client waits for a server that does not answer.
      socket: () => {
        const socket = host.startsWith("/")
          ? connect(`${host}/.s.PGSQL.${port}`)
          : connect({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE });
        this.#sockets.push(socket);
        return socket;
      },
    };
    this.#client = postgres(options as unknown as postgres.Options<Record<string, never>>);
  }

  /** @throws {unknown} what the client throws; afterwards the session may be lost */
  async send(text: string, parameters: readonly SqlValue[] = [], prepare = false, answerTime: number = this.#limits.answerTime): Promise<Answer> {
    if (this.lost) throw new StorageError("ERR_STORAGE_UNAVAILABLE", `${this.#name}: the connection was lost`);
    let timer: NodeJS.Timeout | undefined;
    try {
      const options = { prepare, simple: parameters.length === 0 && !prepare };
      const silence = new Promise<never>((_resolve, reject) => {
        if (answerTime === Infinity) return;
        timer = setTimeout(() => reject(new Error(`no answer within ${answerTime} ms`)), answerTime);
      });
      const result = await Promise.race([this.#client.unsafe(text, [...parameters] as never[], options), silence]);
      this.used = true;
      return { rows: result as unknown as readonly Row[], command: result.command, count: result.count };
    } catch (error) {
      if (endsSession(error)) this.end();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Says goodbye. */
  async close(): Promise<void> {
    if (this.lost) return;
    this.lost = true;
    await this.#client.end({ timeout: 1 });
  }

  /** Never to be used again; what waits for an answer gets an error. */
  end(): void {
    if (this.lost) return;
    this.lost = true;
    const destroy = (): void => {
      for (const socket of this.#sockets) {
        // The client takes its listeners away, and an error may be on its way.
        socket.on("error", () => undefined);
        socket.destroy();
      }
    };
    // The client first: it would connect again where a socket closes under it, and its goodbye would go to a socket that is none.
    this.#client.end({ timeout: 0 }).then(destroy, destroy);
  }
}

/** Statements of one transaction; useless when it is over. */
class PostgresTransaction implements Queries {
  readonly #database: Statements;
  readonly #session: Session;
  readonly #answerTime: number | undefined;
  #over = false;
  /** Why nothing more can be done here. */
  failure: StorageError | undefined;

  constructor(database: Statements, session: Session, answerTime?: number) {
    this.#database = database;
    this.#session = session;
    this.#answerTime = answerTime;
  }

  end(): void {
    this.#over = true;
  }

  async query(sql: string, parameters: readonly SqlValue[] = []): Promise<readonly Row[]> {
    return (await this.#do(sql, parameters)).rows;
  }

  async run(sql: string, parameters: readonly SqlValue[] = []): Promise<number> {
    return changesOf(await this.#do(sql, parameters));
  }

  async #do(sql: string, parameters: readonly SqlValue[]): Promise<Answer> {
    if (this.#over)
      throw new StorageError("ERR_STORAGE_STATEMENT", `${this.#database.name}: a statement came after the end of its transaction`, {
        hint: "Await every statement.",
      });
    if (this.failure !== undefined) throw this.failure;
    try {
      return await this.#database.send(this.#session, sql, parameters, this.#answerTime);
    } catch (error) {
      this.failure ??= postgresError(error, this.#database.name);
      throw this.failure;
    }
  }
}

/** How statements are sent: read once, prepared as long as there are not too many of them. */
class Statements {
  readonly name: string;
  readonly #statements: StatementCache<Statement>;
  /** Those that are prepared: the client keeps them for as long as the connection, so there is an end to their number. */
  readonly #prepared = new Set<string>();
  readonly #limit: number;

  constructor(name: string, limit: number) {
    this.name = name;
    this.#limit = limit;
    this.#statements = new StatementCache(limit, parseStatement);
  }

  isRead(sql: string): boolean {
    return !this.#statements.get(sql).writes;
  }

  /** @throws {StorageError} */
  async send(session: Session, sql: string, parameters: readonly SqlValue[], answerTime?: number): Promise<Answer> {
    try {
      const statement = this.#statements.get(sql);
      checkParameters(statement, parameters);
      if (this.#prepared.size < this.#limit) this.#prepared.add(sql);
      const answer = await session.send(statement.numbered, parameters, this.#prepared.has(sql), answerTime);
      return { ...answer, rows: answer.rows.map((row) => this.#exact(row, sql)) };
    } catch (error) {
      throw postgresError(error, this.name, shortened(sql));
    }
  }

  #exact(row: Row, sql: string): Row {
    for (const [column, value] of Object.entries(row) as readonly [string, SqlValue | bigint][]) {
      const problem =
        typeof value === "bigint" ? "an integer beyond 2^53" : typeof value === "number" && !Number.isFinite(value) ? "no finite number" : undefined;
      if (problem !== undefined) throw new StorageError("ERR_STORAGE_VALUE", `${this.name}: the column ${column} has ${problem}: ${shortened(sql)}`);
    }
    return row;
  }
}

/**
 * A PostgreSQL database. Transactions are serializable and are tried again when they meet others; each has a connection of its own meanwhile. A connection that is lost is given
 * up with its session, and the next statement makes another.
 */
export class PostgresDatabase implements Database {
  readonly dialect = "postgres";
  readonly name: string;
  readonly #address: PostgresAddress;
  readonly #limits: StorageLimits;
  readonly #ports: WaitingPorts;
  readonly #statements: Statements;
  readonly #idle: Session[] = [];
  readonly #waiting: (() => void)[] = [];
  /** Sessions that are in use, or about to be. */
  #busy = 0;
  #closed: Promise<void> | undefined;
  #quiet: (() => void) | undefined;

  /** Use {@link openPostgres}. */
  constructor(address: PostgresAddress, limits: StorageLimits, ports: WaitingPorts) {
    this.#address = address;
    this.name = address.name;
    this.#limits = limits;
    this.#ports = ports;
    this.#statements = new Statements(address.name, limits.statements);
  }

  async query(sql: string, parameters: readonly SqlValue[] = []): Promise<readonly Row[]> {
    return (await this.#single(sql, parameters)).rows;
  }

  async run(sql: string, parameters: readonly SqlValue[] = []): Promise<number> {
    return changesOf(await this.#single(sql, parameters));
  }

  async transaction<T>(work: (queries: Queries) => Promise<T>): Promise<T> {
    return this.#repeated(async (session) => {
      await session.send("BEGIN").catch((error: unknown) => {
        throw new NotBegun(error);
      });
      return this.#inTransaction(session, work);
    });
  }

  async check(): Promise<void> {
    await this.query("SELECT 1");
  }

  async close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Brings the schema up to date.
   * @returns how many steps it took
   * @throws {StorageError} ERR_STORAGE_SCHEMA
   */
  async migrate(migrations: readonly Migration[], application: string = DEFAULT_APPLICATION): Promise<number> {
    const versionOf = async (session: Session): Promise<number> => {
      const answer = await session.send("SELECT version FROM sealpod_schema WHERE name = $1", [application], true, Infinity);
      const version = (answer.rows[0]?.["version"] as number | undefined) ?? 0;
      checkVersion(this.name, version, migrations.length);
      return version;
    };
    const hasTable = async (session: Session): Promise<boolean> =>
      (await session.send("SELECT to_regclass('sealpod_schema')::text AS found")).rows[0]?.["found"] !== null;
    return this.#repeated(async (session) => {
      try {
        if ((await hasTable(session)) && (await versionOf(session)) === migrations.length) return 0;
        // A large table takes its time; the lock is the session's, so that the transaction begins, and looks, after those that had it before.
        await session.send("SET statement_timeout = 0");
        await session.send(`SET lock_timeout = ${MIGRATION_LOCK_TIME}`);
        await session.send("SELECT pg_advisory_lock($1)", [applicationId(`schema ${application}`)], true, Infinity);
        await session.send("CREATE TABLE IF NOT EXISTS sealpod_schema (name TEXT PRIMARY KEY, version BIGINT NOT NULL)");
        await session.send("BEGIN");
        const version = await versionOf(session);
        await this.#steps(session, migrations, version);
        await session.send(
          "INSERT INTO sealpod_schema (name, version) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET version = excluded.version",
          [application, migrations.length],
          true,
        );
        await session.send("COMMIT", [], false, Infinity);
        return migrations.length - version;
      } catch (error) {
        throw postgresError(error, this.name);
      } finally {
        // With it go its settings, its lock, and its transaction if it is still there.
        session.end();
      }
    });
  }

  async #steps(session: Session, migrations: readonly Migration[], version: number): Promise<void> {
    for (const [index, migration] of migrations.entries()) {
      if (index < version) continue;
      const queries = new PostgresTransaction(this.#statements, session, Infinity);
      try {
        const text = migrationText(migration, "postgres");
        if (text.trim() !== "") await this.#sendText(session, text);
        await migration.work?.(queries);
        if (queries.failure !== undefined) throw queries.failure;
      } catch (error) {
        if (queries.failure?.code === "ERR_STORAGE_CONFLICT") throw queries.failure;
        if (isTransient(error)) throw error;
        throw new StorageError(
          "ERR_STORAGE_SCHEMA",
          `${this.name} cannot be brought from schema ${index} to ${index + 1}, nothing was changed: ${messageOf(error)}`,
          { cause: error },
        );
      } finally {
        queries.end();
      }
    }
  }

  async #sendText(session: Session, text: string): Promise<void> {
    try {
      await session.send(text, [], false, Infinity);
    } catch (error) {
      throw postgresError(error, this.name);
    }
  }

  async #single(sql: string, parameters: readonly SqlValue[]): Promise<Answer> {
    return this.#repeated(async (session) => {
      try {
        return await this.#statements.send(session, sql, parameters);
      } catch (error) {
        // A read that found its connection gone is as if it had not begun.
        throw session.lost && this.#statements.isRead(sql) ? new NotBegun(error) : error;
      }
    });
  }

  async #inTransaction<T>(session: Session, work: (queries: Queries) => Promise<T>): Promise<T> {
    const queries = new PostgresTransaction(this.#statements, session);
    let timer: NodeJS.Timeout | undefined;
    let value: T;
    try {
      const late = new Promise<never>((_resolve, reject) => {
        timer = setTimeout(() => {
          reject(
            new StorageError(
              "ERR_STORAGE_STATEMENT",
              `${this.name}: the work of a transaction took more than ${this.#limits.workTime} ms, and was taken back`,
              {
                hint: "A transaction awaits nothing but its own statements.",
              },
            ),
          );
        }, this.#limits.workTime);
      });
      value = await Promise.race([work(queries), late]);
      if (queries.failure !== undefined) throw queries.failure;
    } catch (error) {
      queries.end();
      if (!session.lost) await session.send("ROLLBACK").catch(() => session.end());
      // Whatever the work made of it.
      if (queries.failure?.code === "ERR_STORAGE_CONFLICT") throw queries.failure;
      throw error;
    } finally {
      clearTimeout(timer);
    }
    queries.end();
    let command: string;
    try {
      ({ command } = await session.send("COMMIT"));
    } catch (error) {
      const failure = postgresError(error, this.name);
      if (failure.code !== "ERR_STORAGE_UNAVAILABLE") throw failure;
      throw new StorageError("ERR_STORAGE_UNAVAILABLE", `${failure.message}; the change may or may not have been made`, {
        details: { ...failure.details, outcome: "unknown" },
      });
    }
    // The server answers so to the COMMIT of a transaction in which a statement has failed that nobody awaited.
    if (command !== "COMMIT")
      throw queries.failure ?? new StorageError("ERR_STORAGE_STATEMENT", `${this.name}: the transaction was taken back`, { hint: "Await every statement." });
    return value;
  }

  /** Gives work a session, and does it again after a conflict, or if the connection turns out to be gone before anything was done. */
  async #repeated<T>(work: (session: Session) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const session = await this.#acquire();
      const wasUsed = session.used;
      try {
        return await work(session);
      } catch (error) {
        if (error instanceof NotBegun) {
          if (wasUsed && session.lost && attempt < this.#limits.attempts) continue;
          throw postgresError(error.cause, this.name);
        }
        if (!(error instanceof StorageError && error.code === "ERR_STORAGE_CONFLICT")) throw error;
        if (attempt >= this.#limits.attempts) {
          throw new StorageError("ERR_STORAGE_CONFLICT", `${this.name}: others changed what the transaction read, ${attempt} times in a row`, {
            hint: "Try again.",
          });
        }
      } finally {
        this.#release(session);
      }
      await this.#ports.pause(this.#ports.chance() * Math.min(FIRST_PAUSE * 2 ** attempt, LONGEST_PAUSE));
    }
  }

  async #acquire(): Promise<Session> {
    if (this.#closed !== undefined) throw new StorageError("ERR_STORAGE_UNAVAILABLE", `${this.name} is closed`);
    if (this.#busy >= this.#limits.connections) {
      if (this.#waiting.length >= this.#limits.waiting) {
        throw new StorageError("ERR_STORAGE_UNAVAILABLE", `${this.name}: ${this.#waiting.length} transactions wait, no more are taken`);
      }
      // The one that releases hands its place over.
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    } else this.#busy++;
    for (let session = this.#idle.pop(); session !== undefined; session = this.#idle.pop()) if (!session.lost) return session;
    return new Session(this.#address, this.#limits);
  }

  #release(session: Session): void {
    if (!session.lost) this.#idle.push(session);
    const next = this.#waiting.shift();
    if (next !== undefined) next();
    else {
      this.#busy--;
      if (this.#busy === 0) this.#quiet?.();
    }
  }

  async #close(): Promise<void> {
    if (this.#busy > 0) {
      await new Promise<void>((resolve) => {
        this.#quiet = resolve;
      });
    }
    await Promise.all(this.#idle.map(async (session) => session.close()));
  }
}

/** Nothing can have been changed: the transaction did not begin, or a statement only reads. */
class NotBegun extends Error {
  constructor(cause: unknown) {
    super("the transaction did not begin", { cause });
  }
}

/** Says nothing about the schema. */
function isTransient(error: unknown): boolean {
  return error instanceof StorageError && error.row.action === "transient";
}

/** Rows that were changed; a SELECT counts what it found. */
function changesOf({ command, count }: Answer): number {
  return /^(?:INSERT|UPDATE|DELETE|MERGE)/.test(command) ? count : 0;
}

/**
 * Opens a PostgreSQL database, and brings it to the schema of the migrations.
 * @throws {StorageError} ERR_STORAGE_ARGUMENT, ERR_STORAGE_SCHEMA, ERR_STORAGE_UNAVAILABLE
 */
export async function openPostgres(options: PostgresOptions, ports: WaitingPorts = WAITING): Promise<PostgresDatabase> {
  const { address, application, migrations, limits = DEFAULT_STORAGE_LIMITS, logger = silentLogger } = options;
  const database = new PostgresDatabase(address, limits, ports);
  try {
    const [settings] = await database.query("SELECT current_setting('synchronous_commit') AS commit, current_setting('fsync') AS fsync");
    if (settings?.["commit"] === "off") {
      throw new StorageError("ERR_STORAGE_ARGUMENT", `${address.name} says that changes are made before they are on disk (synchronous_commit = off)`, {
        hint: `ALTER DATABASE ${address.database} SET synchronous_commit = on`,
      });
    }
    if (settings?.["fsync"] === "off") logger.log("warn", "the database server does not write durably: fsync = off", { database: address.name });
    const steps = await database.migrate(migrations, application);
    if (steps > 0) logger.log("info", "database schema", { database: address.name, schema: migrations.length, steps });
    return database;
  } catch (error) {
    await database.close();
    throw error;
  }
}
