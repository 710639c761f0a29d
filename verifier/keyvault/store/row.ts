import { KeyvaultError } from "../errors.ts";
import type { Row } from "@sealpod/storage";

/** The text of a column. @throws {KeyvaultError} ERR_KEYVAULT_STORE if it has another type */
export function text(row: Row, column: string): string {
  const value = row[column];
  if (typeof value !== "string") throw wrongType(column, "text", value);
  return value;
}

/** As {@link text}; undefined for NULL. */
export function optionalText(row: Row, column: string): string | undefined {
  return row[column] === null ? undefined : text(row, column);
}

/** The integer of a column. @throws {KeyvaultError} ERR_KEYVAULT_STORE if it has another type */
export function integer(row: Row, column: string): number {
  const value = row[column];
  if (typeof value !== "number") throw wrongType(column, "an integer", value);
  return value;
}

/** As {@link integer}; undefined for NULL. */
export function optionalInteger(row: Row, column: string): number | undefined {
  return row[column] === null ? undefined : integer(row, column);
}

/** The bytes of a column. @throws {KeyvaultError} ERR_KEYVAULT_STORE if it has another type */
export function bytes(row: Row, column: string): Uint8Array {
  const value = row[column];
  if (!(value instanceof Uint8Array)) throw wrongType(column, "bytes", value);
  return value;
}

function wrongType(column: string, expected: string, found: unknown): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_STORE", `the key database has ${found === null ? "NULL" : typeof found} in column ${column}, expected ${expected}`, {
    hint: "The database was changed by another program: restore it from a backup.",
  });
}
