import type { ClaimFinding } from "@sealpod/release-policy";
import type { KeyType } from "../key-material.ts";
import type { VaultKind } from "../key-request.ts";

/** Permissions for keys, in the words of access policies (compared without regard to letter case). */
export type KeyPermission =
  | "get"
  | "list"
  | "create"
  | "import"
  | "update"
  | "delete"
  | "recover"
  | "purge"
  | "backup"
  | "restore"
  | "encrypt"
  | "decrypt"
  | "wrapKey"
  | "unwrapKey"
  | "sign"
  | "verify"
  | "release"
  | "rotate"
  | "getrotationpolicy"
  | "setrotationpolicy";

/** Permissions for secrets. */
export type SecretPermission = "get" | "list" | "set" | "delete" | "recover" | "purge" | "backup" | "restore";

/** A principal: application or object of a tenant. */
export interface Principal {
  readonly tenantId: string;
  /** `appid` or `oid` of its access tokens. */
  readonly id: string;
}

/** An access policy: what a principal may do in a vault. */
export interface AccessPolicy extends Principal {
  readonly keys: readonly KeyPermission[];
  readonly secrets: readonly SecretPermission[];
}

/** A role given to a principal, in a scope: `/`, `/keys`, `/keys/<name>`, `/secrets`, `/secrets/<name>`. */
export interface RoleAssignment extends Principal {
  /** UUID; the name of the assignment. */
  readonly name: string;
  /** UUID of the role. */
  readonly role: string;
  readonly scope: string;
}

/** One version of a key, without its secret. */
export interface KeyRecord {
  readonly vault: string;
  readonly name: string;
  /** 32 lower-case hex digits. */
  readonly version: string;
  readonly type: KeyType;
  readonly hsm: boolean;
  readonly keyOps: readonly string[];
  readonly publicMembers: Readonly<Record<string, string>>;
  readonly enabled: boolean;
  /** Seconds since 1970. */
  readonly notBefore: number | undefined;
  readonly expires: number | undefined;
  readonly exportable: boolean;
  readonly created: number;
  readonly updated: number;
  readonly tags: Readonly<Record<string, string>>;
  readonly releasePolicy: StoredReleasePolicy | undefined;
}

/** The release policy of a key version. */
export interface StoredReleasePolicy {
  readonly contentType: string;
  /** Canonical JSON text. */
  readonly text: string;
  readonly immutable: boolean;
}

/** What a new version is made of. */
export type NewKeyVersion = Omit<KeyRecord, "version" | "created" | "updated"> & { readonly secret: Uint8Array };

/** What a PATCH can change. */
export type KeyUpdate = Partial<Pick<KeyRecord, "keyOps" | "enabled" | "notBefore" | "expires" | "tags" | "releasePolicy">>;

/** One version of a secret, without its value. */
export interface SecretRecord {
  readonly vault: string;
  readonly name: string;
  readonly version: string;
  readonly contentType: string | undefined;
  readonly enabled: boolean;
  readonly notBefore: number | undefined;
  readonly expires: number | undefined;
  readonly created: number;
  readonly updated: number;
  readonly tags: Readonly<Record<string, string>>;
}

/** What a new version of a secret is made of. */
export type NewSecretVersion = Omit<SecretRecord, "version" | "created" | "updated"> & { readonly value: string };

/** What a PATCH can change; `null` takes an optional field away. */
export type SecretUpdate = Partial<Pick<SecretRecord, "contentType" | "enabled" | "notBefore" | "expires" | "tags">>;

/** Something deleted that can still be recovered, and the dates in seconds since 1970. */
export interface Deleted<T> {
  /** Its latest version. */
  readonly item: T;
  readonly deleted: number;
  readonly purge: number;
}

/** The rotation policy of a key: JSON text as the service gives it back, and when the automatic rotation is due (seconds since 1970). */
export interface StoredRotationPolicy {
  readonly text: string;
  readonly created: number;
  readonly updated: number;
  /** Next automatic rotation; undefined for none. */
  readonly due: number | undefined;
}

/** Where a backup was made. It is sealed into it: who restores decides by it. */
export interface BackupOrigin {
  readonly vault: string;
  readonly kind: VaultKind;
}

/** The step that refused; `issuer` and `service`: there is no verdict, because keys could not be fetched or this service failed. */
export type AuditCheck = "access" | "key" | "token" | "authority" | "evidence-root" | "wrapping-key" | "policy" | "issuer" | "service" | "request";

/** One line of the audit: who asked for what, what came of it and why. */
export interface AuditLine {
  /** `x-ms-request-id` of the answer, or `schedule …` of this service itself. */
  readonly requestId: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly vault: string;
  /** E.g. `keys/release`, `keys/get`, `secrets/set`, `access/set-policy`. */
  readonly operation: string;
  /** Name of key, secret, or principal; "" for a list. */
  readonly name: string;
  /** "" if there is none, or none was found. */
  readonly version: string;
  readonly tenantId: string;
  readonly appid: string;
  readonly oid: string;
  readonly outcome: "allowed" | "refused";
  /** Undefined when allowed. */
  readonly failed: AuditCheck | undefined;
  readonly reason: string;
  /** Issuer of the attestation token of a release, as the token claims it; "" otherwise. */
  readonly authority: string;
  /** Conditions of the release policy that were looked at. */
  readonly findings: readonly ClaimFinding[];
}

/** Which lines of the audit. */
export interface AuditFilter {
  readonly requestId?: string;
  readonly vault?: string;
  readonly operation?: string;
  readonly name?: string;
  /** Lines with ids below this: for the next page. */
  readonly before?: number;
  /** At most 1000; 100 when absent. */
  readonly limit?: number;
}

/** A stored line. */
export type StoredAuditLine = AuditLine & { readonly id: number };

/**
 * Keys, secrets, access and audit of the vaults. Every change takes its audit line with it: both are on disk when the method resolves, or neither.
 * A version that is absent means the latest. Names are compared without regard to letter case and given back as first written.
 *
 * Keys and secrets are given back only if their row is as this service wrote it, see `bound` of the shelves; ERR_KEYVAULT_STORE else, also of a list that one of them is in. Not
 * covered: tags, dates of creation and change, deletion, rotation policies, which version is the latest, access, and an older state of a row with the seal it then had.
 */
export interface VaultStore extends AsyncDisposable {
  // keys
  /**
   * Adds a version, and the key if need be. `check` runs inside the transaction with the latest version, and throws to refuse: what is decided on is what is there.
   * @throws {KeyvaultError} ERR_KEYVAULT_CONFLICT if a deleted key has the name, ERR_KEYVAULT_LIMIT beyond the number of versions
   */
  addKey(key: NewKeyVersion, audit: AuditLine, check?: (latest: KeyRecord | undefined) => void): Promise<KeyRecord>;
  /**
   * Adds a version that is made of the latest one, and of the rotation policy of the key: `make` is asked inside the transaction, perhaps more than once, with what is there then.
   * @param make gives undefined to leave it at that, and throws to refuse
   * @returns undefined if `make` gave that
   * @throws {KeyvaultError} ERR_KEYVAULT_CONFLICT if the key is deleted, ERR_KEYVAULT_NOT_FOUND if it is gone, ERR_KEYVAULT_LIMIT beyond the number of versions
   */
  succeedKey(
    vault: string,
    name: string,
    audit: AuditLine,
    make: (latest: KeyRecord, rotation: StoredRotationPolicy | undefined) => NewKeyVersion | undefined,
  ): Promise<KeyRecord | undefined>;
  /**
   * Whether a version could be added now: for those whose version is costly to make.
   * @throws {KeyvaultError} as {@link VaultStore.addKey} does
   */
  requireKeyRoom(vault: string, name: string): Promise<void>;
  key(vault: string, name: string, version?: string): Promise<KeyRecord | undefined>;
  /** Secret of a version: PKCS#8 DER, or raw bytes of an oct key. The caller overwrites it after use. */
  openKey(key: KeyRecord): Promise<Uint8Array>;
  /** The latest versions of up to `limit` keys whose names come after `after`, by name. */
  listKeys(vault: string, after: string, limit: number): Promise<readonly KeyRecord[]>;
  listKeyVersions(vault: string, name: string, after: string, limit: number): Promise<readonly KeyRecord[]>;
  /** Changes a version: `change` is asked inside the transaction, with the version as it is. Undefined if there is none. */
  updateKey(vault: string, name: string, version: string | undefined, change: (key: KeyRecord) => KeyUpdate, audit: AuditLine): Promise<KeyRecord | undefined>;
  /** @throws {KeyvaultError} ERR_KEYVAULT_STORE for a row that was changed behind our back; it is deleted all the same, so that it can be purged */
  deleteKey(vault: string, name: string, audit: AuditLine): Promise<Deleted<KeyRecord> | undefined>;
  deletedKey(vault: string, name: string): Promise<Deleted<KeyRecord> | undefined>;
  listDeletedKeys(vault: string, after: string, limit: number): Promise<readonly Deleted<KeyRecord>[]>;
  recoverKey(vault: string, name: string, audit: AuditLine): Promise<KeyRecord | undefined>;
  purgeKey(vault: string, name: string, audit: AuditLine): Promise<boolean>;
  rotationPolicy(vault: string, name: string): Promise<StoredRotationPolicy | undefined>;
  setRotationPolicy(
    vault: string,
    name: string,
    policy: { readonly text: string; readonly due: number | undefined },
    audit: AuditLine,
  ): Promise<StoredRotationPolicy>;
  /**
   * Sets when the automatic rotation of a key is due, and nothing else of its policy. `decide` is asked inside the transaction with the policy and the latest version as they are
   * then: neither a policy nor a version that comes at the same time is lost. If it gives what is there, there is no change and no line.
   * @param audit makes the line
   * @returns true if it was changed; false also if the key has no rotation policy
   */
  scheduleRotation(
    vault: string,
    name: string,
    decide: (policy: StoredRotationPolicy, latest: KeyRecord) => number | undefined,
    audit: (due: number | undefined) => AuditLine,
  ): Promise<boolean>;
  /** Keys whose automatic rotation is due at `now` (seconds), at most `limit`. */
  dueRotations(now: number, limit: number): Promise<readonly { readonly vault: string; readonly name: string }[]>;
  /**
   * All versions with their secrets, sealed for any database with the same master key. Undefined if there is no such key.
   * @param kind of the vault
   * @throws {KeyvaultError} ERR_KEYVAULT_LIMIT for more than a backup can hold
   */
  backupKey(vault: string, name: string, audit: AuditLine, kind: VaultKind): Promise<Uint8Array | undefined>;
  /**
   * Puts a backup into a vault, which may be another: `check` says which.
   * @param check is told of each version, without its vault and name, and of where the backup is from; throws to refuse
   * @throws {KeyvaultError} ERR_KEYVAULT_CONFLICT if the name is taken, ERR_KEYVAULT_BAD_PARAMETER for what is no backup
   */
  restoreKey(vault: string, backup: Uint8Array, audit: AuditLine, check?: (key: KeyRecord, origin: BackupOrigin) => void): Promise<KeyRecord>;

  // secrets: the same verbs
  setSecret(secret: NewSecretVersion, audit: AuditLine): Promise<SecretRecord>;
  secret(vault: string, name: string, version?: string): Promise<SecretRecord | undefined>;
  openSecret(secret: SecretRecord): Promise<string>;
  listSecrets(vault: string, after: string, limit: number): Promise<readonly SecretRecord[]>;
  listSecretVersions(vault: string, name: string, after: string, limit: number): Promise<readonly SecretRecord[]>;
  updateSecret(vault: string, name: string, version: string | undefined, change: SecretUpdate, audit: AuditLine): Promise<SecretRecord | undefined>;
  deleteSecret(vault: string, name: string, audit: AuditLine): Promise<Deleted<SecretRecord> | undefined>;
  deletedSecret(vault: string, name: string): Promise<Deleted<SecretRecord> | undefined>;
  listDeletedSecrets(vault: string, after: string, limit: number): Promise<readonly Deleted<SecretRecord>[]>;
  recoverSecret(vault: string, name: string, audit: AuditLine): Promise<SecretRecord | undefined>;
  purgeSecret(vault: string, name: string, audit: AuditLine): Promise<boolean>;
  backupSecret(vault: string, name: string, audit: AuditLine): Promise<Uint8Array | undefined>;
  restoreSecret(vault: string, backup: Uint8Array, audit: AuditLine, check?: (secret: SecretRecord, origin: BackupOrigin) => void): Promise<SecretRecord>;

  // access
  /** Replaces the categories that are given, as `az keyvault set-policy` does; all empty takes the policy away. */
  setAccessPolicy(
    vault: string,
    principal: Principal,
    permissions: { readonly keys?: readonly KeyPermission[]; readonly secrets?: readonly SecretPermission[] },
    audit: AuditLine,
  ): Promise<AccessPolicy>;
  accessPolicies(vault: string): Promise<readonly AccessPolicy[]>;
  /** The policies and role assignments of a caller: those of its application and those of its object id. Read at each request: what is taken away is gone at once. */
  accessOf(
    vault: string,
    caller: { readonly tenantId: string; readonly appid: string; readonly oid: string },
  ): Promise<{ readonly policies: readonly AccessPolicy[]; readonly roles: readonly RoleAssignment[] }>;
  /** @throws {KeyvaultError} ERR_KEYVAULT_CONFLICT if the name, or the same role for the same principal and scope, is there */
  addRoleAssignment(vault: string, assignment: RoleAssignment, audit: AuditLine): Promise<RoleAssignment>;
  removeRoleAssignment(vault: string, name: string, audit: AuditLine): Promise<RoleAssignment | undefined>;
  roleAssignments(vault: string): Promise<readonly RoleAssignment[]>;

  // audit and upkeep
  /** Appends a line that belongs to no change: reads, refusals, releases. */
  appendAudit(line: AuditLine): Promise<void>;
  /** The latest first. */
  audit(filter?: AuditFilter): Promise<readonly StoredAuditLine[]>;
  /** Purges what has been deleted for longer than it can be recovered. @returns how many */
  purgeExpired(): Promise<number>;
  /** Makes a new wrapping key and seals everything again under it, in batches, while others read and write; takes up what an earlier call left. @returns records sealed again */
  rotateWrappingKey(): Promise<number>;
  /** Milliseconds since 1970 when the wrapping key was made that seals now. */
  wrappingKeyCreated(): Promise<number>;
  /** Seals what older wrapping keys still seal, and forgets wrapping keys that nothing needs. */
  upkeep(): Promise<void>;
  /** Throws if the database does not answer. */
  check(): Promise<void>;
  close(): Promise<void>;
}
