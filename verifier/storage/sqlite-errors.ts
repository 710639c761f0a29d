import { messageOf } from "@sealpod/core";
import { StorageError, type ConstraintKind } from "./errors.ts";

/** Primary result codes of SQLite. */
const BUSY = 5;
const READONLY = 8;
const CORRUPT = 11;
const FULL = 13;
const CONSTRAINT = 19;
const TOO_BIG = 18;
const MISMATCH = 20;
const NOT_A_DATABASE = 26;
/** Those that say something about the file, the disk or the memory, and nothing about the statement. */
const TROUBLES: Readonly<Record<number, string>> = {
  3: "access is denied",
  4: "a callback gave up",
  6: "a table is locked",
  7: "there is no memory left",
  9: "it was interrupted",
  10: "the disk fails to read or write",
  14: "the file cannot be opened",
  15: "the locking protocol fails",
};

/** Extended result codes of constraints. */
const KINDS: Readonly<Record<number, ConstraintKind>> = {
  275: "check",
  787: "foreign-key",
  1299: "not-null",
  1555: "unique",
  1811: "trigger",
  2067: "unique",
  2579: "unique",
};
/** A value of another type than a STRICT column. */
const CONSTRAINT_DATATYPE = 3091;

/** The extended result code; undefined for what SQLite did not say. */
function resultCode(error: unknown): number | undefined {
  const code = error instanceof Error ? (error as { errcode?: unknown }).errcode : undefined;
  return typeof code === "number" ? code : undefined;
}

function isPrimary(error: unknown, primary: number): boolean {
  const code = resultCode(error);
  return code !== undefined && (code & 0xff) === primary;
}

/** Another connection holds a lock: the same call can succeed later. */
export function isBusy(error: unknown): boolean {
  return isPrimary(error, BUSY);
}

/** A statement that writes was given to a connection that only reads. */
export function isReadOnly(error: unknown): boolean {
  return isPrimary(error, READONLY);
}

/** What SQLite, or node:sqlite, threw, in the words of this package. */
export function sqliteError(error: unknown, database: string, statement?: string): StorageError {
  if (error instanceof StorageError) return error;
  const code = resultCode(error);
  const message = messageOf(error);
  const where = statement === undefined ? "" : `: ${statement}`;
  if (code === undefined) {
    // What node:sqlite itself refuses: an integer of a column that no number can say, a value of a type that it does not know.
    const isRange = error instanceof Error && (error as { code?: unknown }).code === "ERR_OUT_OF_RANGE";
    if (isRange) return new StorageError("ERR_STORAGE_VALUE", `${database}: a column has an integer beyond 2^53${where}`);
    return new StorageError("ERR_STORAGE_STATEMENT", `${database}: ${message}${where}`, { cause: error });
  }
  const details = { sqlite: code };
  const primary = code & 0xff;
  if (primary === CONSTRAINT && code !== CONSTRAINT_DATATYPE) {
    const kind = KINDS[code] ?? "check";
    // SQLite names columns or the constraint, never values.
    return new StorageError("ERR_STORAGE_CONSTRAINT", `${database}: ${message}${where}`, { cause: error, details: { ...details, kind } });
  }
  if (primary === BUSY) {
    return new StorageError("ERR_STORAGE_UNAVAILABLE", `${database} is locked by another process`, {
      cause: error,
      details,
      hint: "Find the process that holds it: a backup tool or a shell of sqlite3 with an open transaction.",
    });
  }
  if (primary === FULL)
    return new StorageError("ERR_STORAGE_FULL", `${database}: there is no space left`, {
      cause: error,
      details,
      hint: "Make space; nothing has to be restarted.",
    });
  if (primary === CORRUPT || primary === NOT_A_DATABASE) {
    const what = primary === CORRUPT ? "is damaged" : "is no SQLite database";
    return new StorageError("ERR_STORAGE_FILE", `${database} ${what}`, {
      cause: error,
      details,
      hint: primary === CORRUPT ? "Put back a backup." : "Name the file of this service's database, or one that may be made.",
    });
  }
  if (primary === READONLY) {
    return new StorageError("ERR_STORAGE_FILE", `${database} cannot be written`, {
      cause: error,
      details,
      hint: "The service needs to write the file and its directory.",
    });
  }
  const trouble = TROUBLES[primary];
  if (trouble !== undefined) return new StorageError("ERR_STORAGE_UNAVAILABLE", `${database}: ${trouble}`, { cause: error, details });
  const isValue = primary === MISMATCH || primary === TOO_BIG || code === CONSTRAINT_DATATYPE;
  return new StorageError(isValue ? "ERR_STORAGE_VALUE" : "ERR_STORAGE_STATEMENT", `${database}: ${message}${where}`, { cause: error, details });
}
