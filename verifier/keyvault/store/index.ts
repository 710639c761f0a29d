export { KEY_PERMISSIONS, SECRET_PERMISSIONS } from "./access.ts";
export { MAX_AUDIT_LINES, MAX_BACKUP, MAX_LIST, MAX_SECRET_VALUE, MAX_VERSIONS, RECOVERABLE_DAYS } from "./limits.ts";
export { deletedConflict } from "./names.ts";
export { openVaultStore, type VaultStoreOptions } from "./open-store.ts";
export type * from "./types.ts";
