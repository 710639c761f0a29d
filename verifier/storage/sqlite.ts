import { closeSync, openSync } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { AsyncLocalStorage } from "node:async_hooks";
import { messageOf, silentLogger, type Logger } from "@sealpod/core";
import { StorageError } from "./errors.ts";
import { DEFAULT_STORAGE_LIMITS, WAITING, type StorageLimits, type WaitingPorts } from "./limits.ts";
import { applicationId, checkVersion, migrationText } from "./migrations.ts";
import { isBusy, isReadOnly, sqliteError } from "./sqlite-errors.ts";
import { parseStatement, shortened, StatementCache, type Statement } from "./statement.ts";
import type { Database, Migration, Queries, Row, SqlValue } from "./types.ts";
import { checkParameters } from "./values.ts";

/** Bytes to which the log is cut when it was emptied: a large migration or a long backup makes it grow, and its disk space is not needed afterwards. */
const LOG_SIZE = 64 * 1024 * 1024;

/** The longest pause in milliseconds between two tries of a locked file. */
const LONGEST_PAUSE = 20;

/** The log (`-wal`) of a database, opened for what SQLite does not do by itself. */
export interface LogFile {
  /** Resolves when what was written is on disk. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** The world of {@link openSqlite}; tests have their own. */
export interface SqlitePorts extends WaitingPorts {
  /** Opens the log of a database file. */
  openLog(file: string): Promise<LogFile>;
}

/** The platform. */
export const SQLITE_PORTS: SqlitePorts = {
  ...WAITING,
  async openLog(file) {
    const handle: FileHandle = await open(file, "r+");
    return { sync: async () => handle.datasync(), close: async () => handle.close() };
  },
};

/** Options of {@link openSqlite}. */
export interface SqliteOptions {
  /** Path, or `:memory:`. */
  readonly file: string;
  /** What the database is for: kept in the file, so that no service opens another's. */
  readonly application?: string | undefined;
  readonly migrations: readonly Migration[];
  readonly limits?: StorageLimits;
  readonly logger?: Logger;
}

/** One connection, and its prepared statements. */
class Connection {
  readonly database: DatabaseSync;
  readonly #name: string;
  readonly #prepared: StatementCache<{ readonly statement: Statement; readonly prepared: StatementSync }>;

  constructor(path: string, name: string, statements: number) {
    // No busy timeout: SQLite's own sleeps, and the event loop with it.
    this.database = new DatabaseSync(path, { timeout: 0, enableForeignKeyConstraints: true, enableDoubleQuotedStringLiterals: false });
    this.#name = name;
    this.#prepared = new StatementCache(statements, (sql) => {
      const statement = parseStatement(sql);
      return { statement, prepared: this.database.prepare(sql) };
    });
  }

  exec(sql: string): void {
    this.database.exec(sql);
  }

  value(sql: string): unknown {
    const row = this.database.prepare(sql).get();
    return row === undefined ? undefined : Object.values(row)[0];
  }

  /** @throws {StorageError} */
  query(sql: string, parameters: readonly SqlValue[]): { readonly rows: readonly Row[]; readonly statement: Statement } {
    return this.#use(sql, parameters, (prepared, values, statement) => ({ rows: prepared.all(...values) as readonly Row[], statement }));
  }

  /** @throws {StorageError} */
  run(sql: string, parameters: readonly SqlValue[]): { readonly changes: number; readonly statement: Statement } {
    return this.#use(sql, parameters, (prepared, values, statement) => {
      const { changes } = prepared.run(...values);
      // SQLite tells of the last change there was if this statement makes none of its own.
      const isChange =
        statement.verb === "insert" || statement.verb === "update" || statement.verb === "delete" || statement.verb === "replace" || statement.verb === "with";
      return { changes: isChange ? Number(changes) : 0, statement };
    });
  }

  /** See {@link Statement.whole}. @throws {StorageError} */
  isWhole(sql: string): boolean {
    try {
      return this.#prepared.get(sql).statement.whole;
    } catch (error) {
      throw sqliteError(error, this.#name, shortened(sql));
    }
  }

  close(): void {
    if (this.database.isOpen) this.database.close();
  }

  #use<T>(
    sql: string,
    parameters: readonly SqlValue[],
    action: (prepared: StatementSync, values: (string | number | bigint | Uint8Array | null)[], statement: Statement) => T,
  ): T {
    try {
      const { statement, prepared } = this.#prepared.get(sql);
      checkParameters(statement, parameters);
      // node:sqlite binds every number as a floating-point one, which divides and turns into text as such.
      return action(
        prepared,
        parameters.map((value) => (typeof value === "number" && Number.isInteger(value) ? BigInt(value) : value)),
        statement,
      );
    } catch (error) {
      throw sqliteError(error, this.#name, shortened(sql));
    }
  }
}

/** Statements of one transaction; useless when it is over. */
class SqliteTransaction implements Queries {
  readonly #connection: Connection;
  readonly #name: string;
  #over = false;
  /** Why nothing more can be done here. */
  failure: StorageError | undefined;
  writes = false;

  constructor(connection: Connection, name: string) {
    this.#connection = connection;
    this.#name = name;
  }

  end(): void {
    this.#over = true;
  }

  // Promises, though SQLite answers at once: PostgreSQL does not.
  async query(sql: string, parameters: readonly SqlValue[] = []): Promise<readonly Row[]> {
    return this.#do(() => {
      const { rows, statement } = this.#connection.query(sql, parameters);
      this.writes ||= statement.writes;
      return rows;
    });
  }

  async run(sql: string, parameters: readonly SqlValue[] = []): Promise<number> {
    return this.#do(() => {
      const { changes, statement } = this.#connection.run(sql, parameters);
      this.writes ||= statement.writes;
      return changes;
    });
  }

  #do<T>(action: () => T): T {
    if (this.#over)
      throw new StorageError("ERR_STORAGE_STATEMENT", `${this.#name}: a statement came after the end of its transaction`, { hint: "Await every statement." });
    if (this.failure !== undefined) throw this.failure;
    try {
      return action();
    } catch (error) {
      this.failure = sqliteError(error, this.#name);
      throw this.failure;
    }
  }
}

/** A transaction that waits for its turn. */
interface Waiting {
  readonly work: (queries: Queries) => Promise<unknown>;
  /** The work, if it is no more than this. */
  readonly statement: { readonly sql: string; readonly parameters: readonly SqlValue[] } | undefined;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
  /** It shares its commit with nobody: a commit that it was part of failed on a constraint. */
  alone: boolean;
}

/** A transaction that has run. */
type Outcome = { readonly waiting: Waiting } & ({ readonly value: unknown } | { readonly error: unknown });

/**
 * A SQLite file. Transactions run one after the other on one connection; those that wait share a commit, each behind a savepoint of its own, and all of them wait for one
 * `fdatasync` of the log, which a thread of the pool does (synchronous=FULL would block the event loop for every commit). Statements outside of transactions read with a
 * second connection, which sees what is committed.
 *
 * Why that is safe: in WAL mode with synchronous=NORMAL a commit only appends frames to the log, each with a checksum over all before it, so that after a power cut a
 * prefix of the commits is there; the `fdatasync` that a commit waits for makes that prefix contain it. A checkpoint syncs the log before it copies, and the file before the
 * log is begun anew, whichever process does it. SQLite holds a shared lock for as long as a connection is open, so that nobody can take the log away: it stays the file that
 * was opened here. The log has no locks on it that closing another handle could drop (those are on the database and on `-shm`, which nothing here opens).
 */
export class SqliteDatabase implements Database {
  readonly dialect = "sqlite";
  readonly name: string;
  /** Absolute path, or `:memory:`. */
  readonly file: string;
  readonly #writer: Connection;
  /** Undefined in memory: there, everything goes through the one connection. */
  readonly #reader: Connection | undefined;
  readonly #log: LogFile | undefined;
  readonly #limits: StorageLimits;
  readonly #ports: SqlitePorts;
  readonly #waiting: Waiting[] = [];
  #running: Promise<void> | undefined;
  /** Set while something is committed that is not known to be on disk. */
  #unsynced: Promise<void> | undefined;
  #failed: StorageError | undefined;
  #closed: Promise<void> | undefined;

  /** Use {@link openSqlite}. */
  constructor(parts: {
    readonly file: string;
    readonly writer: Connection;
    readonly reader: Connection | undefined;
    readonly log: LogFile | undefined;
    readonly limits: StorageLimits;
    readonly ports: SqlitePorts;
  }) {
    this.file = parts.file;
    this.name = parts.file;
    this.#writer = parts.writer;
    this.#reader = parts.reader;
    this.#log = parts.log;
    this.#limits = parts.limits;
    this.#ports = parts.ports;
  }

  async query(sql: string, parameters: readonly SqlValue[] = []): Promise<readonly Row[]> {
    const reader = this.#reader;
    this.#usable();
    if (reader === undefined) return this.transaction(async (queries) => queries.query(sql, parameters));
    let rows: readonly Row[];
    try {
      rows = await untilFree(this.#limits, this.#ports, () => reader.query(sql, parameters).rows);
    } catch (error) {
      // INSERT … RETURNING and its like.
      if (!(error instanceof StorageError && isReadOnly(error.cause))) throw sqliteError(error, this.name);
      return this.transaction(async (queries) => queries.query(sql, parameters));
    }
    // What was read may be lost with the power until then: nobody is told of it.
    await this.#unsynced;
    return rows;
  }

  async run(sql: string, parameters: readonly SqlValue[] = []): Promise<number> {
    this.#usable();
    return this.#queue<number>(async (queries) => queries.run(sql, parameters), { sql, parameters });
  }

  async transaction<T>(work: (queries: Queries) => Promise<T>): Promise<T> {
    this.#usable();
    // The work runs in the context of its caller, not of whoever woke the queue.
    const inContext = AsyncLocalStorage.snapshot();
    return this.#queue<T>(async (queries) => inContext(work, queries), undefined);
  }

  async #queue<T>(work: (queries: Queries) => Promise<T>, statement: Waiting["statement"]): Promise<T> {
    if (this.#waiting.length >= this.#limits.waiting) {
      throw new StorageError("ERR_STORAGE_UNAVAILABLE", `${this.name}: ${this.#waiting.length} transactions wait, no more are taken`);
    }
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({
        work,
        statement,
        resolve: resolve as (value: unknown) => void,
        reject,
        alone: false,
      });
      this.#wake();
    });
  }

  async check(): Promise<void> {
    await this.query("SELECT 1 FROM sqlite_schema LIMIT 1");
  }

  async close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** The connection for a backup: one of its own, which shares no lock with the others; in memory there is but one. */
  connectionForBackup(): { readonly database: DatabaseSync; close(): void } {
    this.#usable();
    if (this.#reader === undefined) return { database: this.#writer.database, close: () => undefined };
    return new Connection(this.file, this.name, 1);
  }

  async #close(): Promise<void> {
    await this.#running;
    this.#reader?.close();
    // The last connection of all processes copies the log into the file and removes it.
    this.#writer.close();
    await this.#log?.close();
  }

  #usable(): void {
    if (this.#closed !== undefined) throw new StorageError("ERR_STORAGE_UNAVAILABLE", `${this.name} is closed`);
    this.#requireSound();
  }

  #requireSound(): void {
    if (this.#failed !== undefined) throw this.#failed;
  }

  #wake(): void {
    this.#running ??= this.#work();
  }

  async #work(): Promise<void> {
    while (this.#waiting.length > 0) await this.#batch();
    // In the same breath as the look at the queue: whoever comes later wakes it again.
    this.#running = undefined;
  }

  /** Runs what waits, up to the limits, in one commit. Never throws. */
  async #batch(): Promise<void> {
    const outcomes: Outcome[] = [];
    let writes = false;
    try {
      this.#requireSound();
      await untilFree(this.#limits, this.#ports, () => this.#writer.exec("BEGIN IMMEDIATE"));
    } catch (error) {
      const failure = sqliteError(error, this.name);
      // Those behind them have waited as long for the same lock.
      for (const { reject } of this.#waiting.splice(0)) reject(failure);
      return;
    }
    try {
      const end = performance.now() + this.#limits.batchTime;
      do {
        const waiting = this.#waiting.shift();
        if (waiting === undefined) break;
        const { outcome, wrote } = this.#single(waiting) ?? (await this.#one(waiting));
        outcomes.push(outcome);
        writes ||= wrote;
        this.#requireSound();
        // A full disk or its like can end the transaction of all.
        if (!this.#writer.database.isTransaction) throw "error" in outcome ? outcome.error : new Error("the transaction ended by itself");
        if (waiting.alone || this.#waiting[0]?.alone === true) break;
      } while (outcomes.length < this.#limits.batchTransactions && performance.now() < end);
      this.#writer.exec("COMMIT");
    } catch (error) {
      this.#rollBack();
      const failure = sqliteError(error, this.name);
      const isConstraint = failure.code === "ERR_STORAGE_CONSTRAINT";
      if (isConstraint && outcomes.length > 1) {
        // A deferred constraint: one of them is to blame, which is found by trying each alone.
        this.#waiting.unshift(...outcomes.map(({ waiting }) => ({ ...waiting, alone: true })));
      } else for (const { waiting } of outcomes) waiting.reject(failure);
      return;
    }
    try {
      if (writes) await this.#sync();
    } catch (error) {
      for (const { waiting } of outcomes) waiting.reject(error);
      return;
    }
    // An error may tell of what another of the batch did, so it is told no earlier than that.
    for (const outcome of outcomes) {
      if ("error" in outcome) outcome.waiting.reject(outcome.error);
      else outcome.waiting.resolve(outcome.value);
    }
  }

  /** One statement, which needs neither a savepoint nor time. Undefined if there is more to it. */
  #single(waiting: Waiting): { readonly outcome: Outcome; readonly wrote: boolean } | undefined {
    const { statement } = waiting;
    if (statement === undefined) return undefined;
    try {
      if (!this.#writer.isWhole(statement.sql)) return undefined;
      return { outcome: { waiting, value: this.#writer.run(statement.sql, statement.parameters).changes }, wrote: true };
    } catch (error) {
      return { outcome: { waiting, error }, wrote: false };
    }
  }

  async #one(waiting: Waiting): Promise<{ readonly outcome: Outcome; readonly wrote: boolean }> {
    const queries = new SqliteTransaction(this.#writer, this.name);
    let timer: NodeJS.Timeout | undefined;
    let begun = false;
    try {
      this.#writer.exec("SAVEPOINT one");
      begun = true;
      const late = new Promise<never>((_resolve, reject) => {
        timer = setTimeout(() => {
          reject(
            new StorageError(
              "ERR_STORAGE_STATEMENT",
              `${this.name}: the work of a transaction took more than ${this.#limits.workTime} ms, and was taken back`,
              {
                hint: "A transaction awaits nothing but its own statements: no request, and no other transaction of the same database.",
              },
            ),
          );
        }, this.#limits.workTime);
      });
      const value = await Promise.race([waiting.work(queries), late]);
      if (queries.failure !== undefined) throw queries.failure;
      this.#writer.exec("RELEASE one");
      return { outcome: { waiting, value }, wrote: queries.writes };
    } catch (error) {
      try {
        // If SQLite has ended the whole transaction, there is no savepoint left.
        if (begun && this.#writer.database.isTransaction) this.#writer.exec("ROLLBACK TO one; RELEASE one");
      } catch (cause) {
        // What cannot be taken back must not be committed with what the others did, nor by anybody later.
        this.#fail(cause, "a change could not be taken back");
      }
      return { outcome: { waiting, error: begun ? error : sqliteError(error, this.name) }, wrote: false };
    } finally {
      clearTimeout(timer);
      queries.end();
    }
  }

  #rollBack(): void {
    try {
      if (this.#writer.database.isTransaction) this.#writer.exec("ROLLBACK");
    } catch (error) {
      this.#fail(error);
    }
  }

  async #sync(): Promise<void> {
    const log = this.#log;
    if (log === undefined) return;
    const synced = log.sync().catch((error: unknown) => {
      throw this.#fail(error);
    });
    this.#unsynced = synced;
    // Nobody may have read meanwhile.
    synced.catch(() => undefined);
    await synced;
    this.#unsynced = undefined;
  }

  /**
   * Nothing more is done with this file. After a failed sync Linux forgets what it could not write and reports the next one as done; only a new process, for which SQLite checks
   * the log from its beginning, can tell what is there.
   */
  #fail(error: unknown, what = "a change could not be made durable"): StorageError {
    this.#failed ??= new StorageError("ERR_STORAGE_UNAVAILABLE", `${this.name}: ${what}: ${messageOf(error)}`, {
      cause: error,
      details: { outcome: "unknown" },
      hint: "Look after the disk, then restart the service: the last changes may or may not be there.",
    });
    return this.#failed;
  }
}

/** Tries something until no other connection is in its way, without blocking the event loop. */
async function untilFree<T>(limits: Pick<StorageLimits, "busyTime">, ports: WaitingPorts, action: () => T): Promise<T> {
  let waited = 0;
  for (let attempt = 0; ; attempt++) {
    try {
      return action();
    } catch (error) {
      const cause = error instanceof StorageError ? error.cause : error;
      if (!isBusy(cause) || waited >= limits.busyTime) throw error;
    }
    const pause = 1 + ports.chance() * Math.min(2 ** attempt, LONGEST_PAUSE);
    await ports.pause(pause);
    waited += pause;
  }
}

/**
 * Opens a SQLite file, or makes one (mode 0600), and brings it to the schema of the migrations.
 * @throws {StorageError} ERR_STORAGE_FILE, ERR_STORAGE_SCHEMA, ERR_STORAGE_UNAVAILABLE, ERR_STORAGE_FULL
 */
export async function openSqlite(options: SqliteOptions, ports: SqlitePorts = SQLITE_PORTS): Promise<SqliteDatabase> {
  const limits = options.limits ?? DEFAULT_STORAGE_LIMITS;
  const inMemory = options.file === ":memory:";
  const file = inMemory ? options.file : resolve(options.file);
  const logger = options.logger ?? silentLogger;
  let writer: Connection | undefined;
  let reader: Connection | undefined;
  let log: LogFile | undefined;
  try {
    if (!inMemory) makeFile(file);
    const connection = new Connection(file, file, limits.statements);
    writer = connection;
    const mode = await untilFree(limits, ports, () => connection.value("PRAGMA journal_mode = WAL"));
    if (!inMemory && mode !== "wal") {
      throw new StorageError("ERR_STORAGE_FILE", `${file} cannot have a write-ahead log, its journal mode is ${String(mode)}`, {
        hint: "Network file systems cannot: put the file on a local disk, or use PostgreSQL for several replicas.",
      });
    }
    // secure_delete: what is erased leaves no copy in free pages. temp_store: nothing goes to temporary files.
    connection.exec(`PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = ${LOG_SIZE}`);
    const migrated = await migrate(connection, file, options, limits, ports);
    if (!inMemory) {
      // From the first read on SQLite has the log open, and it stays this file.
      connection.value("SELECT count(*) FROM sqlite_schema");
      log = await ports.openLog(`${file}-wal`);
      await log.sync();
      await syncDirectory(dirname(file));
      reader = new Connection(file, file, limits.statements);
      reader.exec("PRAGMA query_only = ON; PRAGMA temp_store = MEMORY");
    }
    if (migrated > 0) logger.log("info", "database schema", { database: file, schema: options.migrations.length, steps: migrated });
    return new SqliteDatabase({ file, writer, reader, log, limits, ports });
  } catch (error) {
    reader?.close();
    writer?.close();
    await log?.close();
    throw sqliteError(error, file);
  }
}

/** Makes the file for its owner alone; SQLite gives its log the same mode. One that is there keeps its mode. */
function makeFile(file: string): void {
  try {
    // Only if it is new: to close a handle of a file that another connection of this process has open would drop its locks.
    closeSync(openSync(file, "wx", 0o600));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return;
    throw new StorageError("ERR_STORAGE_FILE", `the database ${file} cannot be made: ${messageOf(cause)}`, {
      cause,
      hint: "Name a file in a directory that is there and that the service may write to.",
    });
  }
}

async function syncDirectory(directory: string): Promise<void> {
  await using handle = await open(directory, "r");
  await handle.sync();
}

/** @returns how many steps it took */
async function migrate(connection: Connection, file: string, options: SqliteOptions, limits: StorageLimits, ports: WaitingPorts): Promise<number> {
  const { migrations, application } = options;
  const id = application === undefined ? 0 : applicationId(application);
  const versionOf = (): number => {
    const found = connection.value("PRAGMA application_id");
    if (found !== 0 && id !== 0 && found !== id) {
      throw new StorageError("ERR_STORAGE_SCHEMA", `${file} is the database of something else than ${application ?? ""}`, {
        hint: "Each service has a file of its own.",
      });
    }
    const version = Number(connection.value("PRAGMA user_version"));
    checkVersion(file, version, migrations.length);
    return version;
  };
  const isCurrent = (): boolean => versionOf() === migrations.length && (id === 0 || connection.value("PRAGMA application_id") === id);
  if (await untilFree(limits, ports, isCurrent)) return 0;
  // A table that others refer to can only be made anew without them; what they refer to is checked before the commit.
  connection.exec("PRAGMA foreign_keys = OFF");
  await untilFree(limits, ports, () => connection.exec("BEGIN IMMEDIATE"));
  try {
    // Another process may have been quicker.
    const version = versionOf();
    for (const [index, migration] of migrations.entries()) {
      if (index < version) continue;
      const queries = new SqliteTransaction(connection, file);
      try {
        connection.exec(migrationText(migration, "sqlite"));
        await migration.work?.(queries);
        if (queries.failure !== undefined) throw queries.failure;
      } catch (cause) {
        throw new StorageError(
          "ERR_STORAGE_SCHEMA",
          `${file} cannot be brought from schema ${index} to ${index + 1}, nothing was changed: ${messageOf(cause)}`,
          { cause },
        );
      } finally {
        queries.end();
      }
    }
    const orphan = connection.database.prepare("PRAGMA foreign_key_check").get();
    if (orphan !== undefined) {
      throw new StorageError(
        "ERR_STORAGE_SCHEMA",
        `${file}: after its migration, rows of table ${String(orphan["table"])} refer to missing rows of ${String(orphan["parent"])}; nothing was changed`,
      );
    }
    connection.exec(`PRAGMA user_version = ${migrations.length}`);
    if (id !== 0) connection.exec(`PRAGMA application_id = ${id}`);
    connection.exec("COMMIT");
    return migrations.length - version;
  } catch (error) {
    if (connection.database.isTransaction) connection.exec("ROLLBACK");
    throw error;
  } finally {
    connection.exec("PRAGMA foreign_keys = ON");
  }
}
