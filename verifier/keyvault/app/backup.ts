import { toBase64url, type JsonObject } from "@sealpod/core";
import { KeyvaultError } from "../errors.ts";
import { BACKUPS } from "../fair-queue.ts";
import type { JsonBody } from "../key-bundle.ts";
import { requiredBytes } from "../request-fields.ts";
import type { VaultKind } from "../key-request.ts";
import { MAX_BACKUP } from "../store/limits.ts";
import type { BackupOrigin } from "../store/types.ts";
import type { Exchange } from "./exchange.ts";
import type { Operation } from "./operation.ts";

const KIND_NAMES: Readonly<Record<VaultKind, string>> = { vault: "a vault", managedhsm: "a managed HSM" };

/** A backup in base64url, and the JSON around it. */
export const MAX_BACKUP_BODY: number = Math.ceil(MAX_BACKUP / 3) * 4 + 1024;

/** The answer to a backup. */
export function backupJson(backup: Uint8Array): JsonBody {
  return { value: toBase64url(backup) };
}

/**
 * The backup in the body of a restore.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function backupOf(body: JsonObject): Uint8Array {
  return requiredBytes(body, "value");
}

/**
 * A backup, or a restore, when its turn has come.
 * @throws {KeyvaultError} ERR_KEYVAULT_THROTTLED
 */
export function inTurn(run: Operation["run"]): Operation["run"] {
  return async (exchange) => BACKUPS.run(exchange.vault.name, async () => run(exchange), { signal: exchange.signal });
}

/**
 * Refuses backups of other vaults. A managed HSM and a vault never take each other's: what protects a key in the one, its roles and its policy, is not what protects it in the other.
 * @throws {KeyvaultError} ERR_KEYVAULT_BAD_PARAMETER
 */
export function requireOrigin({ vault, services }: Exchange, origin: BackupOrigin): void {
  if (origin.kind !== vault.kind) {
    throw badOrigin(`The backup is of ${KIND_NAMES[origin.kind]}, and this is ${KIND_NAMES[vault.kind]}: it can be restored into the same kind alone.`);
  }
  if (origin.vault === vault.name || services.restoreInto === "any-vault-of-kind") return;
  throw badOrigin(`The backup is of another vault, ${origin.vault}: it can be restored into that one alone.`);
}

function badOrigin(message: string): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_BAD_PARAMETER", message, {
    hint: "A vault of the same name in another database with the same master key takes it; vaults of other names only where the operator of the service allows it (restoreInto).",
  });
}
