import { StorageError } from "./errors.ts";
import { shortened, type Statement } from "./statement.ts";
import type { SqlValue } from "./types.ts";

/**
 * Checks that a statement gets what it takes, and that both engines would keep each value exactly.
 * @throws {StorageError} ERR_STORAGE_STATEMENT for another number of parameters; ERR_STORAGE_VALUE, without the value
 */
export function checkParameters(statement: Statement, parameters: readonly SqlValue[]): void {
  if (parameters.length !== statement.parameters) {
    throw new StorageError(
      "ERR_STORAGE_STATEMENT",
      `a statement takes ${statement.parameters} parameters, found ${parameters.length}: ${shortened(statement.sql)}`,
    );
  }
  for (let at = 0; at < parameters.length; at++) {
    const problem = problemOf(parameters[at]);
    if (problem !== undefined) throw new StorageError("ERR_STORAGE_VALUE", `parameter ${at + 1} is ${problem}: ${shortened(statement.sql)}`);
  }
}

function problemOf(value: unknown): string | undefined {
  if (typeof value === "string") {
    // PostgreSQL keeps no U+0000; UTF-8 has no lone surrogates, and both engines would keep another character.
    if (value.includes("\0")) return "text with U+0000, which PostgreSQL cannot keep";
    return value.isWellFormed() ? undefined : "text with half of a surrogate pair";
  }
  if (typeof value === "number") {
    if (!Number.isFinite(value)) return `${value}, expected a finite number`;
    return Number.isInteger(value) && !Number.isSafeInteger(value) ? "an integer beyond 2^53" : undefined;
  }
  if (value === null || value instanceof Uint8Array) return undefined;
  return `of type ${typeof value}, expected text, a number, bytes or null`;
}
