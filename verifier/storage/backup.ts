import { randomBytes } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { backup } from "node:sqlite";
import { messageOf } from "@sealpod/core";
import { StorageError } from "./errors.ts";
import { sqliteError } from "./sqlite-errors.ts";
import { SqliteDatabase } from "./sqlite.ts";
import type { Database } from "./types.ts";

/** All pages in one step, on a thread of the pool: a copy in several steps begins anew whenever somebody writes in between. */
const ALL_PAGES = 0x7fff_ffff;

/**
 * Copies a SQLite database while it is in use, as it is at one moment, into a file (mode 0600) that is complete when it has its name; an older one is replaced.
 * @throws {StorageError} ERR_STORAGE_ARGUMENT for a PostgreSQL database and for the database's own file; ERR_STORAGE_FILE, ERR_STORAGE_FULL, ERR_STORAGE_UNAVAILABLE
 */
export async function backupDatabase(database: Database, file: string): Promise<void> {
  if (!(database instanceof SqliteDatabase)) {
    throw new StorageError("ERR_STORAGE_ARGUMENT", `${database.name} is no SQLite database, its backups are its server's`, {
      hint: "pg_dump --format=custom --file=vault.dump DATABASE, or the server's continuous archiving.",
    });
  }
  const target = resolve(file);
  await checkTarget(database, target);
  const temporary = join(dirname(target), `.${basename(target)}.${randomBytes(8).toString("hex")}.tmp`);
  try {
    closeSync(openSync(temporary, "wx", 0o600));
  } catch (cause) {
    throw new StorageError("ERR_STORAGE_FILE", `the backup ${target} cannot be made: ${messageOf(cause)}`, {
      cause,
      hint: "Name a file in a directory that is there.",
    });
  }
  try {
    const source = database.connectionForBackup();
    try {
      await backup(source.database, temporary, { rate: ALL_PAGES });
    } finally {
      source.close();
    }
    await sync(temporary);
    await rename(temporary, target);
    await sync(dirname(target));
  } catch (error) {
    await Promise.all(["", "-journal", "-wal", "-shm"].map(async (suffix) => rm(`${temporary}${suffix}`, { force: true })));
    if (error instanceof Error && "errcode" in error) throw sqliteError(error, `the backup ${target}`);
    throw error instanceof StorageError
      ? error
      : new StorageError("ERR_STORAGE_FILE", `the backup ${target} cannot be made: ${messageOf(error)}`, { cause: error });
  }
}

/** A copy that took the place of the database itself, or of its log, would be the end of both. */
async function checkTarget(database: SqliteDatabase, target: string): Promise<void> {
  if (database.file === ":memory:") return;
  const found = await stat(target).catch(() => undefined);
  if (found === undefined) return;
  for (const suffix of ["", "-wal", "-shm"]) {
    const own = await stat(`${database.file}${suffix}`).catch(() => undefined);
    if (own !== undefined && own.dev === found.dev && own.ino === found.ino) {
      throw new StorageError("ERR_STORAGE_ARGUMENT", `${target} is the database itself, expected another file for its backup`);
    }
  }
  if (!found.isFile()) throw new StorageError("ERR_STORAGE_ARGUMENT", `${target} is there and is no file`);
}

async function sync(path: string): Promise<void> {
  await using handle = await open(path, "r");
  await handle.sync();
}
