/** What a parameter or a column can be. Integers of the database come as numbers; those beyond 2^53 are refused. Booleans are 0 and 1 on both engines. */
export type SqlValue = string | number | Uint8Array | null;

/** One row, by column name. */
export type Row = Readonly<Record<string, SqlValue>>;

/** Statements inside of one transaction, or alone. */
export interface Queries {
  /**
   * Runs one statement with `?` for each parameter, in the common subset of SQLite and PostgreSQL. A statement that fails inside of a transaction ends it, as PostgreSQL has
   * it: whatever comes after fails too, and nothing is changed, even if `work` catches the error. Use `ON CONFLICT` where a conflict is expected.
   * @returns its rows; `[]` for a statement without
   * @throws {StorageError} ERR_STORAGE_CONSTRAINT for a violated constraint (its kind in `details.kind`), ERR_STORAGE_STATEMENT, ERR_STORAGE_VALUE, ERR_STORAGE_FULL,
   * ERR_STORAGE_CONFLICT, ERR_STORAGE_UNAVAILABLE
   */
  query(sql: string, parameters?: readonly SqlValue[]): Promise<readonly Row[]>;
  /** As {@link query}; returns the number of rows that were changed. */
  run(sql: string, parameters?: readonly SqlValue[]): Promise<number>;
}

/** A database with serializable transactions. What a method has resolved is on disk. */
export interface Database extends Queries, AsyncDisposable {
  readonly dialect: "sqlite" | "postgres";
  /** File or host and database, without a password: for messages. */
  readonly name: string;
  /**
   * Runs `work` in one serializable transaction and resolves when it is on disk. `work` may run several times (conflicts of replicas), so it has no effect but on the
   * database; it awaits nothing but `queries` (several transactions share one commit, and wait for the slowest).
   * @throws whatever `work` throws, after its changes are taken back; {@link StorageError}
   */
  transaction<T>(work: (queries: Queries) => Promise<T>): Promise<T>;
  /** Throws if the database does not answer: for readiness. */
  check(): Promise<void>;
  /** Waits for what is under way, and closes. */
  close(): Promise<void>;
}

/** One step of a schema; released steps never change. Text may differ by dialect. */
export interface Migration {
  /** Statements, separated by `;` at line ends. In the text `{blob}`, `{id}` (growing integer primary key) and `{int}` stand for the dialect's types, `{strict}` for SQLite's STRICT tables. */
  readonly sql?: string | { readonly sqlite: string; readonly postgres: string };
  /** Work in the same transaction, after the statements: data that SQL alone cannot carry over. */
  readonly work?: (queries: Queries) => Promise<void>;
}
