export { backupDatabase } from "./backup.ts";
export { STORAGE_ERRORS, StorageError, violatedConstraint, type ConstraintKind, type StorageErrorCode } from "./errors.ts";
export { DEFAULT_STORAGE_LIMITS, type StorageLimits } from "./limits.ts";
export { openDatabase, type DatabaseOptions } from "./open.ts";
export type { Database, Migration, Queries, Row, SqlValue } from "./types.ts";
