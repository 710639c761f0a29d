import { backupOperation, type BackupOptions } from "../key/backup.ts";
import { vaultVerb, type VaultOperation } from "../key/open-vault.ts";
import type { Verb } from "../program.ts";

/** `sealpod key backup` with its vault. */
export const operation: VaultOperation<BackupOptions> = backupOperation("keys");

/** `sealpod key backup`. */
export const run: Verb<BackupOptions> = vaultVerb(operation);
