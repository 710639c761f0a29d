import { decodeUtf8, silentLogger, type Clock, type Logger, type Random } from "@sealpod/core";
import { masterKeyOfBytes, openKeyRing, type MasterKeyProvider } from "@sealpod/sealing";
import { openDatabase, type StorageLimits } from "@sealpod/storage";
import type { VaultKind } from "../key-request.ts";
import { accessOf, accessPolicies, addRoleAssignment, removeRoleAssignment, roleAssignments, setAccessPolicy } from "./access.ts";
import { appendAudit, readAudit } from "./audit.ts";
import type { StoreContext } from "./change.ts";
import { dueRotations, KEYS, rotationPolicy, rotationPolicyOf, scheduleRotation, setRotationPolicy } from "./keys.ts";
import { MIGRATIONS } from "./schema.ts";
import { carryOverSchema1, findSchema1 } from "./schema1.ts";
import { encodeSecretValue, requireContentType, SECRETS } from "./secrets.ts";
import { Shelf } from "./shelf.ts";
import type {
  AccessPolicy,
  AuditFilter,
  AuditLine,
  BackupOrigin,
  Deleted,
  KeyPermission,
  KeyRecord,
  KeyUpdate,
  NewKeyVersion,
  NewSecretVersion,
  Principal,
  RoleAssignment,
  SecretPermission,
  SecretRecord,
  SecretUpdate,
  StoredAuditLine,
  StoredRotationPolicy,
  VaultStore,
} from "./types.ts";
import { rotateWrappingKey, upkeep, wrappingKeyCreated } from "./upkeep.ts";

/** Options of {@link openVaultStore}. */
export interface VaultStoreOptions {
  /** Path of a SQLite database, `:memory:`, or a `postgres://` URL. */
  readonly url: string;
  /** The master key, or its 32 bytes. */
  readonly master: MasterKeyProvider | Uint8Array;
  /** Bytes of the master key that a database of schema 1 was made with; `master` if that is bytes. */
  readonly schema1Key?: Uint8Array;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger?: Logger;
  readonly limits?: Partial<StorageLimits>;
}

/**
 * Opens the database of keys, secrets, access and audit, makes or brings up its tables, and proves that the master key is the one it was made with.
 * @throws {StorageError} if it cannot be opened; {@link SealingError} ERR_SEALING_MASTER_KEY for another master key; {@link KeyvaultError} ERR_KEYVAULT_STORE for schema 1 without its key
 */
export async function openVaultStore(options: VaultStoreOptions): Promise<VaultStore> {
  const { url, master, clock, random, logger = silentLogger, limits } = options;
  const database = await openDatabase({ url, name: "keyvault", migrations: MIGRATIONS, logger, ...(limits === undefined ? {} : { limits }) });
  try {
    const schema1 = await findSchema1(database, options.schema1Key ?? (master instanceof Uint8Array ? master : undefined), random);
    const ring = await openKeyRing({ database, master: master instanceof Uint8Array ? masterKeyOfBytes(master, random) : master, random, clock });
    const context: StoreContext = { database, ring, clock, random, logger };
    const store = new SqlVaultStore(context);
    if (schema1 !== undefined) await carryOverSchema1(context, store.keys, schema1);
    return store;
  } catch (error) {
    await database.close();
    throw error;
  }
}

/** {@link VaultStore} over SQL. */
class SqlVaultStore implements VaultStore {
  readonly keys: Shelf<KeyRecord>;
  readonly #context: StoreContext;
  readonly #secrets: Shelf<SecretRecord>;
  /** The last rotation of the wrapping key that was asked for. */
  #rotation: Promise<void> = Promise.resolve();

  constructor(context: StoreContext) {
    this.#context = context;
    this.keys = new Shelf(context, KEYS);
    this.#secrets = new Shelf(context, SECRETS);
  }

  async addKey(key: NewKeyVersion, audit: AuditLine, check?: (latest: KeyRecord | undefined) => void): Promise<KeyRecord> {
    const { secret, ...fresh } = key;
    return this.keys.add(fresh, secret, audit, check);
  }

  async succeedKey(
    vault: string,
    name: string,
    audit: AuditLine,
    make: (latest: KeyRecord, rotation: StoredRotationPolicy | undefined) => NewKeyVersion | undefined,
  ): Promise<KeyRecord | undefined> {
    return this.keys.succeed(vault, name, audit, (latest, row) => {
      const made = make(latest, rotationPolicyOf(row));
      if (made === undefined) return undefined;
      const { secret, ...fresh } = made;
      return { fresh, secret };
    });
  }

  async requireKeyRoom(vault: string, name: string): Promise<void> {
    await this.keys.requireRoom(vault, name);
  }

  async key(vault: string, name: string, version?: string): Promise<KeyRecord | undefined> {
    return this.keys.get(vault, name, version);
  }

  async openKey(key: KeyRecord): Promise<Uint8Array> {
    return this.keys.open(key);
  }

  async listKeys(vault: string, after: string, limit: number): Promise<readonly KeyRecord[]> {
    return this.keys.list(vault, after, limit);
  }

  async listKeyVersions(vault: string, name: string, after: string, limit: number): Promise<readonly KeyRecord[]> {
    return this.keys.listVersions(vault, name, after, limit);
  }

  async updateKey(
    vault: string,
    name: string,
    version: string | undefined,
    change: (key: KeyRecord) => KeyUpdate,
    audit: AuditLine,
  ): Promise<KeyRecord | undefined> {
    return this.keys.update(vault, name, version, change, audit);
  }

  async deleteKey(vault: string, name: string, audit: AuditLine): Promise<Deleted<KeyRecord> | undefined> {
    return this.keys.delete(vault, name, audit);
  }

  async deletedKey(vault: string, name: string): Promise<Deleted<KeyRecord> | undefined> {
    return this.keys.deleted(vault, name);
  }

  async listDeletedKeys(vault: string, after: string, limit: number): Promise<readonly Deleted<KeyRecord>[]> {
    return this.keys.listDeleted(vault, after, limit);
  }

  async recoverKey(vault: string, name: string, audit: AuditLine): Promise<KeyRecord | undefined> {
    return this.keys.recover(vault, name, audit);
  }

  async purgeKey(vault: string, name: string, audit: AuditLine): Promise<boolean> {
    return this.keys.purge(vault, name, audit);
  }

  async rotationPolicy(vault: string, name: string): Promise<StoredRotationPolicy | undefined> {
    return rotationPolicy(this.#context.database, vault, name);
  }

  async setRotationPolicy(
    vault: string,
    name: string,
    policy: { readonly text: string; readonly due: number | undefined },
    audit: AuditLine,
  ): Promise<StoredRotationPolicy> {
    return setRotationPolicy(this.#context, vault, name, policy, audit);
  }

  async scheduleRotation(
    vault: string,
    name: string,
    decide: (policy: StoredRotationPolicy, latest: KeyRecord) => number | undefined,
    audit: (due: number | undefined) => AuditLine,
  ): Promise<boolean> {
    return scheduleRotation(this.#context, this.keys, { vault, name }, decide, audit);
  }

  async dueRotations(now: number, limit: number): Promise<readonly { readonly vault: string; readonly name: string }[]> {
    return dueRotations(this.#context.database, now, limit);
  }

  async backupKey(vault: string, name: string, audit: AuditLine, kind: VaultKind): Promise<Uint8Array | undefined> {
    return this.keys.backup(vault, name, audit, kind);
  }

  async restoreKey(vault: string, backup: Uint8Array, audit: AuditLine, check?: (key: KeyRecord, origin: BackupOrigin) => void): Promise<KeyRecord> {
    return this.keys.restore(vault, backup, audit, check);
  }

  async setSecret(secret: NewSecretVersion, audit: AuditLine): Promise<SecretRecord> {
    const { value, ...fresh } = secret;
    requireContentType(fresh.contentType);
    return this.#secrets.add(fresh, encodeSecretValue(value), audit);
  }

  async secret(vault: string, name: string, version?: string): Promise<SecretRecord | undefined> {
    return this.#secrets.get(vault, name, version);
  }

  async openSecret(secret: SecretRecord): Promise<string> {
    const value = await this.#secrets.open(secret);
    try {
      return decodeUtf8(value, "the value of a secret");
    } finally {
      value.fill(0);
    }
  }

  async listSecrets(vault: string, after: string, limit: number): Promise<readonly SecretRecord[]> {
    return this.#secrets.list(vault, after, limit);
  }

  async listSecretVersions(vault: string, name: string, after: string, limit: number): Promise<readonly SecretRecord[]> {
    return this.#secrets.listVersions(vault, name, after, limit);
  }

  async updateSecret(vault: string, name: string, version: string | undefined, change: SecretUpdate, audit: AuditLine): Promise<SecretRecord | undefined> {
    requireContentType(change.contentType);
    return this.#secrets.update(vault, name, version, () => change, audit);
  }

  async deleteSecret(vault: string, name: string, audit: AuditLine): Promise<Deleted<SecretRecord> | undefined> {
    return this.#secrets.delete(vault, name, audit);
  }

  async deletedSecret(vault: string, name: string): Promise<Deleted<SecretRecord> | undefined> {
    return this.#secrets.deleted(vault, name);
  }

  async listDeletedSecrets(vault: string, after: string, limit: number): Promise<readonly Deleted<SecretRecord>[]> {
    return this.#secrets.listDeleted(vault, after, limit);
  }

  async recoverSecret(vault: string, name: string, audit: AuditLine): Promise<SecretRecord | undefined> {
    return this.#secrets.recover(vault, name, audit);
  }

  async purgeSecret(vault: string, name: string, audit: AuditLine): Promise<boolean> {
    return this.#secrets.purge(vault, name, audit);
  }

  async backupSecret(vault: string, name: string, audit: AuditLine): Promise<Uint8Array | undefined> {
    // Managed HSMs have no secrets.
    return this.#secrets.backup(vault, name, audit, "vault");
  }

  async restoreSecret(
    vault: string,
    backup: Uint8Array,
    audit: AuditLine,
    check?: (secret: SecretRecord, origin: BackupOrigin) => void,
  ): Promise<SecretRecord> {
    return this.#secrets.restore(vault, backup, audit, check);
  }

  async setAccessPolicy(
    vault: string,
    principal: Principal,
    permissions: { readonly keys?: readonly KeyPermission[]; readonly secrets?: readonly SecretPermission[] },
    audit: AuditLine,
  ): Promise<AccessPolicy> {
    return setAccessPolicy(this.#context, vault, principal, permissions, audit);
  }

  async accessPolicies(vault: string): Promise<readonly AccessPolicy[]> {
    return accessPolicies(this.#context.database, vault);
  }

  async accessOf(
    vault: string,
    caller: { readonly tenantId: string; readonly appid: string; readonly oid: string },
  ): Promise<{ readonly policies: readonly AccessPolicy[]; readonly roles: readonly RoleAssignment[] }> {
    return accessOf(this.#context.database, vault, caller);
  }

  async addRoleAssignment(vault: string, assignment: RoleAssignment, audit: AuditLine): Promise<RoleAssignment> {
    return addRoleAssignment(this.#context, vault, assignment, audit);
  }

  async removeRoleAssignment(vault: string, name: string, audit: AuditLine): Promise<RoleAssignment | undefined> {
    return removeRoleAssignment(this.#context, vault, name, audit);
  }

  async roleAssignments(vault: string): Promise<readonly RoleAssignment[]> {
    return roleAssignments(this.#context.database, vault);
  }

  async appendAudit(line: AuditLine): Promise<void> {
    await appendAudit(this.#context.database, line);
  }

  async audit(filter: AuditFilter = {}): Promise<readonly StoredAuditLine[]> {
    return readAudit(this.#context.database, filter);
  }

  async purgeExpired(): Promise<number> {
    return (await this.keys.purgeExpired()) + (await this.#secrets.purgeExpired());
  }

  async rotateWrappingKey(): Promise<number> {
    // One after the other: each would wait for records that the others hold.
    const rotation = this.#rotation.then(async () => rotateWrappingKey(this.#context, [this.keys, this.#secrets]));
    this.#rotation = rotation.then(
      () => undefined,
      () => undefined,
    );
    return rotation;
  }

  async wrappingKeyCreated(): Promise<number> {
    return wrappingKeyCreated(this.#context);
  }

  async upkeep(): Promise<void> {
    await upkeep(this.#context, [this.keys, this.#secrets]);
  }

  async check(): Promise<void> {
    await this.#context.database.check();
  }

  async close(): Promise<void> {
    await this.#context.database.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
