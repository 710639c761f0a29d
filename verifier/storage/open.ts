import { fileURLToPath } from "node:url";
import type { Logger } from "@sealpod/core";
import { StorageError } from "./errors.ts";
import { storageLimits, type StorageLimits } from "./limits.ts";
import { openPostgres } from "./postgres.ts";
import { isPostgresUrl, readPostgresUrl } from "./postgres-url.ts";
import { openSqlite } from "./sqlite.ts";
import type { Database, Migration } from "./types.ts";

/** Options of {@link openDatabase}. */
export interface DatabaseOptions {
  /**
   * A path, `file:` and a path, or `:memory:` for SQLite; `postgres://user:password@host:port/database?sslmode=…` for PostgreSQL, or the same with `?host=/directory` for its
   * socket.
   */
  readonly url: string;
  /** What it is for, e.g. `vault`: kept in the database, so that no service opens another's. It never changes. */
  readonly name?: string;
  /** From an empty database to today's schema; step `n` leads to schema `n + 1`. */
  readonly migrations: readonly Migration[];
  readonly logger?: Logger;
  /** {@link DEFAULT_STORAGE_LIMITS} for what is absent. */
  readonly limits?: Partial<StorageLimits>;
}

/**
 * Opens a database and brings it to the schema of the migrations, in one transaction, whichever replica is first.
 * @throws {StorageError} ERR_STORAGE_ARGUMENT, ERR_STORAGE_FILE, ERR_STORAGE_SCHEMA, ERR_STORAGE_FULL, ERR_STORAGE_UNAVAILABLE
 */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const limits = storageLimits(options.limits);
  const { url, name, migrations, logger } = options;
  const rest = { application: name, migrations, limits, ...(logger === undefined ? {} : { logger }) };
  return isPostgresUrl(url) ? openPostgres({ address: await readPostgresUrl(url), ...rest }) : openSqlite({ file: sqliteFile(url), ...rest });
}

/** The path in an address of SQLite. */
function sqliteFile(url: string): string {
  if (url === "") throw new StorageError("ERR_STORAGE_ARGUMENT", "the address of the database is empty, expected a path, :memory: or postgres://…");
  if (!url.startsWith("file:")) {
    const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(url)?.[1];
    if (scheme !== undefined)
      throw new StorageError("ERR_STORAGE_ARGUMENT", `the address of the database begins with ${scheme}://, expected a path, file: or postgres://`);
    return url;
  }
  if (url.includes("?") || url.includes("#")) {
    throw new StorageError("ERR_STORAGE_ARGUMENT", "the address of the database has parameters behind its path, expected file: and a path");
  }
  if (!url.startsWith("file://")) return url.slice("file:".length);
  try {
    return fileURLToPath(url);
  } catch (cause) {
    throw new StorageError("ERR_STORAGE_ARGUMENT", `the address of the database is no file on this machine: ${url}`, { cause });
  }
}
