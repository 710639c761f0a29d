import { SealpodError, type ErrorTable, type SealpodErrorOptions } from "@sealpod/core";

/** Codes of {@link StorageError}. */
export type StorageErrorCode =
  | "ERR_STORAGE_ARGUMENT"
  | "ERR_STORAGE_FILE"
  | "ERR_STORAGE_SCHEMA"
  | "ERR_STORAGE_CONSTRAINT"
  | "ERR_STORAGE_CONFLICT"
  | "ERR_STORAGE_STATEMENT"
  | "ERR_STORAGE_VALUE"
  | "ERR_STORAGE_FULL"
  | "ERR_STORAGE_UNAVAILABLE";

/** Rows of `verifier/storage`. */
export const STORAGE_ERRORS: ErrorTable<StorageErrorCode> = {
  ERR_STORAGE_ARGUMENT: { action: "caller", exit: 2, http: 500, summary: "The address of a database, a limit, or a request for a backup makes no sense." },
  ERR_STORAGE_FILE: { action: "caller", exit: 1, http: 500, summary: "A file cannot be opened or written as a database, or is damaged." },
  ERR_STORAGE_SCHEMA: {
    action: "caller",
    exit: 1,
    http: 500,
    summary: "A database has a newer schema, belongs to something else, or could not be brought to today's schema.",
  },
  ERR_STORAGE_CONSTRAINT: { action: "caller", exit: 1, http: 500, summary: "A change violates a constraint of the database; nothing was changed." },
  ERR_STORAGE_CONFLICT: { action: "transient", exit: 1, http: 503, summary: "Others kept changing what a transaction read; nothing was changed." },
  ERR_STORAGE_STATEMENT: { action: "caller", exit: 1, http: 500, summary: "A statement is not understood by the database, or a transaction is used wrongly." },
  ERR_STORAGE_VALUE: { action: "caller", exit: 1, http: 500, summary: "A value cannot be kept in the database, or cannot be given back exactly." },
  ERR_STORAGE_FULL: { action: "transient", exit: 1, http: 503, summary: "There is no space left for the database; nothing was changed." },
  ERR_STORAGE_UNAVAILABLE: { action: "transient", exit: 1, http: 503, summary: "The database does not answer, is locked, or could not make a change durable." },
};

/** What kind of constraint was violated: `details.kind` of ERR_STORAGE_CONSTRAINT. `trigger` is a refusal that a trigger of the schema spoke. */
export type ConstraintKind = "unique" | "foreign-key" | "check" | "not-null" | "trigger";

/** Errors of `verifier/storage`; none of them contains a password, a parameter or a column's value. */
export class StorageError extends SealpodError<StorageErrorCode> {
  constructor(code: StorageErrorCode, message: string, options?: SealpodErrorOptions) {
    super(STORAGE_ERRORS, code, message, options);
  }
}

/**
 * The kind of constraint that an error tells of.
 * @returns undefined for every other error
 */
export function violatedConstraint(error: unknown): ConstraintKind | undefined {
  if (!(error instanceof Error) || (error as Partial<StorageError>).code !== "ERR_STORAGE_CONSTRAINT") return undefined;
  return (error as StorageError).details["kind"] as ConstraintKind | undefined;
}
