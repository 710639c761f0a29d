import { backupOperation, type BackupOptions } from "../key/backup.ts";
import { vaultVerb, type VaultOperation } from "../key/open-vault.ts";
import type { Verb } from "../program.ts";

/** `sealpod key secret backup` with its vault. */
export const operation: VaultOperation<BackupOptions> = backupOperation("secrets");

/** `sealpod key secret backup`. */
export const run: Verb<BackupOptions> = vaultVerb(operation, "keyvault");
