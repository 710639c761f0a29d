import { DatabaseSync, type SQLOutputValue } from "node:sqlite";
import { asArray, asObject, encodeUtf8, parseJson, sha256, toHex, type Clock, type Random } from "@sealpod/core";
import { MasterKey, type SealedDatabase } from "@sealpod/sealing";
import { KeyvaultError } from "./errors.ts";
import type { KeyType } from "./key-material.ts";
import type { ClaimFinding } from "./release-policy.ts";

const SEALED_DATABASE: SealedDatabase = {
  name: "the key database",
  argumentError: (message) => new KeyvaultError("ERR_KEYVAULT_ARGUMENT", message),
  storeError: (message, options) => new KeyvaultError("ERR_KEYVAULT_STORE", message, options),
};

const SCHEMA_VERSION = 1;

const SCHEMA = `
  CREATE TABLE grants (
    vault TEXT NOT NULL, tenant_id TEXT NOT NULL, principal TEXT NOT NULL, permissions TEXT NOT NULL,
    PRIMARY KEY (vault, tenant_id, principal)
  ) STRICT;
  CREATE TABLE keys (
    vault TEXT NOT NULL, name TEXT NOT NULL COLLATE NOCASE, deleted INTEGER, purge INTEGER,
    PRIMARY KEY (vault, name)
  ) STRICT;
  CREATE TABLE key_versions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    vault TEXT NOT NULL, name TEXT NOT NULL COLLATE NOCASE, version TEXT NOT NULL,
    type TEXT NOT NULL, hsm INTEGER NOT NULL, key_ops TEXT NOT NULL, public_members TEXT NOT NULL, sealed BLOB NOT NULL,
    enabled INTEGER NOT NULL, not_before INTEGER, expires INTEGER, exportable INTEGER NOT NULL,
    created INTEGER NOT NULL, updated INTEGER NOT NULL, tags TEXT NOT NULL,
    policy TEXT, policy_content_type TEXT NOT NULL, policy_immutable INTEGER NOT NULL,
    UNIQUE (vault, name, version),
    FOREIGN KEY (vault, name) REFERENCES keys (vault, name) ON DELETE CASCADE
  ) STRICT;
  CREATE TABLE releases (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL,
    vault TEXT NOT NULL, name TEXT NOT NULL COLLATE NOCASE, version TEXT NOT NULL,
    tenant_id TEXT NOT NULL, appid TEXT NOT NULL, oid TEXT NOT NULL,
    outcome TEXT NOT NULL, failed TEXT NOT NULL, reason TEXT NOT NULL, authority TEXT NOT NULL, findings TEXT NOT NULL
  ) STRICT;
  CREATE TRIGGER releases_no_update BEFORE UPDATE ON releases BEGIN SELECT RAISE(ABORT, 'the release audit is append-only'); END;
  CREATE TRIGGER releases_no_delete BEFORE DELETE ON releases BEGIN SELECT RAISE(ABORT, 'the release audit is append-only'); END;
`;

/** Key permissions of an access policy that this service looks at. */
export type KeyPermission = "get" | "list" | "create" | "import" | "update" | "delete" | "recover" | "purge" | "release";

/** Every {@link KeyPermission}. */
export const KEY_PERMISSIONS: readonly KeyPermission[] = ["get", "list", "create", "import", "update", "delete", "recover", "purge", "release"];

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

/** A deleted key that can still be recovered: its latest version and the dates, in seconds since 1970. */
export interface DeletedKey {
  readonly key: KeyRecord;
  readonly deleted: number;
  readonly purge: number;
}

/** The step of a release that refused it; `issuer` and `service`: there is no verdict, because its keys could not be fetched or this service failed. */
export type ReleaseCheck = "access" | "key" | "token" | "authority" | "evidence-root" | "wrapping-key" | "policy" | "issuer" | "service";

/** One line of the audit: who asked for which key, what came of it and why. */
export interface ReleaseRecord {
  /** `x-ms-request-id` of the answer. */
  readonly requestId: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly vault: string;
  readonly name: string;
  /** "" if no version was found. */
  readonly version: string;
  readonly tenantId: string;
  readonly appid: string;
  readonly oid: string;
  readonly outcome: "released" | "refused";
  /** Undefined when released. */
  readonly failed: ReleaseCheck | undefined;
  readonly reason: string;
  /** The issuer of the attestation token, as the token claims it. */
  readonly authority: string;
  readonly findings: readonly ClaimFinding[];
}

/** Options of {@link openKeyStore}. */
export interface KeyStoreOptions {
  /** Path of the SQLite database, or `:memory:`. */
  readonly file: string;
  /** 32 bytes; seals every key. */
  readonly masterKey: Uint8Array;
  readonly clock: Clock;
  readonly random: Random;
}

/** Days for which a deleted key can be recovered; the figure that every answer carries. */
export const RECOVERABLE_DAYS = 90;

const CHECK_PLACE = "check value";

type Row = Record<string, SQLOutputValue>;

/** Keys, access policies and the release audit, in one SQLite database. */
export class KeyStore {
  readonly #database: DatabaseSync;
  readonly #masterKey: MasterKey;
  readonly #clock: Clock;
  readonly #random: Random;

  /** Use {@link openKeyStore}. */
  constructor(database: DatabaseSync, masterKey: MasterKey, options: KeyStoreOptions) {
    this.#database = database;
    this.#masterKey = masterKey;
    this.#clock = options.clock;
    this.#random = options.random;
  }

  /**
   * Sets the key permissions of a principal in a vault, in place of those it had; an empty list takes all away.
   * @param principal `appid` or `oid` of the caller's access tokens
   */
  grant(vault: string, principal: { readonly tenantId: string; readonly id: string }, permissions: readonly KeyPermission[]): void {
    const unknown = permissions.find((permission) => !KEY_PERMISSIONS.includes(permission));
    if (unknown !== undefined || principal.id === "" || principal.tenantId === "") {
      throw new KeyvaultError(
        "ERR_KEYVAULT_ARGUMENT",
        `a grant needs a tenant, a principal and permissions out of ${KEY_PERMISSIONS.join(", ")}, found ${unknown ?? "an empty id"}`,
      );
    }
    this.#database
      .prepare("INSERT OR REPLACE INTO grants (vault, tenant_id, principal, permissions) VALUES (?, ?, ?, ?)")
      .run(vault, principal.tenantId.toLowerCase(), principal.id.toLowerCase(), JSON.stringify([...new Set(permissions)]));
  }

  /** The permissions of a caller: those of its application and those of its object id together. Nothing granted, nothing allowed. */
  permissions(vault: string, caller: { readonly tenantId: string; readonly appid: string; readonly oid: string }): ReadonlySet<KeyPermission> {
    const rows = this.#database
      .prepare("SELECT permissions FROM grants WHERE vault = ? AND tenant_id = ? AND principal IN (?, ?)")
      .all(vault, caller.tenantId.toLowerCase(), caller.appid.toLowerCase(), caller.oid.toLowerCase());
    return new Set(rows.flatMap((row) => asArray(parseJson(row["permissions"] as string)) as readonly KeyPermission[]));
  }

  /**
   * Adds a version to a key, which it makes if need be.
   * @throws {KeyvaultError} ERR_KEYVAULT_CONFLICT if a deleted key has the name
   */
  add(key: NewKeyVersion): KeyRecord {
    return this.#transaction(() => {
      const present = this.#database.prepare("SELECT name, deleted FROM keys WHERE vault = ? AND name = ?").get(key.vault, key.name);
      if (present !== undefined && present["deleted"] !== null) throw deletedConflict(key.name);
      if (present === undefined) this.#database.prepare("INSERT INTO keys (vault, name) VALUES (?, ?)").run(key.vault, key.name);
      const name = (present?.["name"] as string | undefined) ?? key.name;
      const version = toHex(this.#random.bytes(16));
      const now = this.#seconds();
      this.#database
        .prepare(
          `INSERT INTO key_versions (vault, name, version, type, hsm, key_ops, public_members, sealed, enabled, not_before, expires, exportable,
             created, updated, tags, policy, policy_content_type, policy_immutable)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
        )
        .run(
          key.vault,
          name,
          version,
          key.type,
          Number(key.hsm),
          JSON.stringify(key.keyOps),
          JSON.stringify(key.publicMembers),
          this.#masterKey.seal(key.secret, keyPlace({ ...key, name, version })),
          Number(key.enabled),
          key.notBefore ?? null,
          key.expires ?? null,
          Number(key.exportable),
          now,
          now,
          JSON.stringify(key.tags),
          key.releasePolicy?.text ?? null,
          key.releasePolicy?.contentType ?? "",
          Number(key.releasePolicy?.immutable ?? false),
        );
      return this.get(key.vault, name, version) as KeyRecord;
    });
  }

  /** A version of a key that is not deleted; the latest when `version` is absent. */
  get(vault: string, name: string, version?: string): KeyRecord | undefined {
    const row = this.#database
      .prepare(
        `SELECT v.* FROM key_versions v JOIN keys k USING (vault, name)
         WHERE v.vault = ? AND v.name = ? AND k.deleted IS NULL AND (? IS NULL OR v.version = ?) ORDER BY sequence DESC LIMIT 1`,
      )
      .get(vault, name, version ?? null, version ?? null);
    return row === undefined ? undefined : keyRecord(row);
  }

  /** The latest versions of up to `limit` keys whose names come after `after`, by name. */
  list(vault: string, after: string, limit: number): readonly KeyRecord[] {
    return this.#database
      .prepare(
        `SELECT v.* FROM keys k JOIN key_versions v USING (vault, name)
         WHERE k.vault = ? AND k.deleted IS NULL AND k.name > ?
           AND v.sequence = (SELECT max(sequence) FROM key_versions WHERE vault = k.vault AND name = k.name)
         ORDER BY k.name LIMIT ?`,
      )
      .all(vault, after, limit)
      .map(keyRecord);
  }

  /** Up to `limit` versions of a key that come after the version `after` in the order of their names. */
  listVersions(vault: string, name: string, after: string, limit: number): readonly KeyRecord[] {
    return this.#database
      .prepare(
        `SELECT v.* FROM key_versions v JOIN keys k USING (vault, name)
         WHERE v.vault = ? AND v.name = ? AND k.deleted IS NULL AND v.version > ? ORDER BY v.version LIMIT ?`,
      )
      .all(vault, name, after, limit)
      .map(keyRecord);
  }

  /** Changes a version and gives it back. */
  update(key: KeyRecord, change: KeyUpdate): KeyRecord {
    const next = { ...key, ...change };
    const sealed = this.#masterKey.seal(this.openSecret(key), keyPlace(next));
    this.#database
      .prepare(
        `UPDATE key_versions SET key_ops = ?, enabled = ?, not_before = ?, expires = ?, tags = ?, policy = ?, policy_content_type = ?, policy_immutable = ?,
           updated = ?, sealed = ? WHERE vault = ? AND name = ? AND version = ?`,
      )
      .run(
        JSON.stringify(next.keyOps),
        Number(next.enabled),
        next.notBefore ?? null,
        next.expires ?? null,
        JSON.stringify(next.tags),
        next.releasePolicy?.text ?? null,
        next.releasePolicy?.contentType ?? "",
        Number(next.releasePolicy?.immutable ?? false),
        this.#seconds(),
        sealed,
        key.vault,
        key.name,
        key.version,
      );
    return this.get(key.vault, key.name, key.version) as KeyRecord;
  }

  /**
   * The secret of a version: PKCS#8 DER, or raw bytes of an oct key.
   * @throws {KeyvaultError} ERR_KEYVAULT_STORE if the row was changed behind our back
   */
  openSecret(key: KeyRecord): Uint8Array {
    const row = this.#database.prepare("SELECT sealed FROM key_versions WHERE vault = ? AND name = ? AND version = ?").get(key.vault, key.name, key.version);
    return this.#masterKey.open(row?.["sealed"] as Uint8Array, keyPlace(key));
  }

  /** Deletes a key; it can be recovered until it is purged. Undefined if there is none. */
  delete(vault: string, name: string): DeletedKey | undefined {
    const now = this.#seconds();
    const changes = this.#database
      .prepare("UPDATE keys SET deleted = ?, purge = ? WHERE vault = ? AND name = ? AND deleted IS NULL")
      .run(now, now + RECOVERABLE_DAYS * 86_400, vault, name).changes;
    return changes === 0 ? undefined : this.getDeleted(vault, name);
  }

  /** A deleted key. */
  getDeleted(vault: string, name: string): DeletedKey | undefined {
    const row = this.#database
      .prepare(
        `SELECT v.*, k.deleted, k.purge FROM key_versions v JOIN keys k USING (vault, name)
         WHERE v.vault = ? AND v.name = ? AND k.deleted IS NOT NULL ORDER BY sequence DESC LIMIT 1`,
      )
      .get(vault, name);
    return row === undefined ? undefined : { key: keyRecord(row), deleted: row["deleted"] as number, purge: row["purge"] as number };
  }

  /** Up to `limit` deleted keys whose names come after `after`, by name. */
  listDeleted(vault: string, after: string, limit: number): readonly DeletedKey[] {
    return this.#database
      .prepare("SELECT name FROM keys WHERE vault = ? AND deleted IS NOT NULL AND name > ? ORDER BY name LIMIT ?")
      .all(vault, after, limit)
      .map((row) => this.getDeleted(vault, row["name"] as string))
      .filter((key) => key !== undefined);
  }

  /** Gives a deleted key back; false if there is none. */
  recover(vault: string, name: string): boolean {
    return (
      this.#database.prepare("UPDATE keys SET deleted = NULL, purge = NULL WHERE vault = ? AND name = ? AND deleted IS NOT NULL").run(vault, name).changes === 1
    );
  }

  /** Destroys a deleted key and all its versions; false if there is none. */
  purge(vault: string, name: string): boolean {
    return this.#database.prepare("DELETE FROM keys WHERE vault = ? AND name = ? AND deleted IS NOT NULL").run(vault, name).changes === 1;
  }

  /** Appends a line to the release audit; the database refuses to change or remove one. */
  appendRelease(record: ReleaseRecord): void {
    this.#database
      .prepare(
        `INSERT INTO releases (request_id, at, vault, name, version, tenant_id, appid, oid, outcome, failed, reason, authority, findings)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      )
      .run(
        record.requestId,
        record.at,
        record.vault,
        record.name,
        record.version,
        record.tenantId,
        record.appid,
        record.oid,
        record.outcome,
        record.failed ?? "",
        record.reason,
        record.authority,
        JSON.stringify(record.findings),
      );
  }

  /** Lines of the release audit, the latest first. */
  releases(filter: { readonly requestId?: string; readonly vault?: string; readonly name?: string; readonly limit?: number } = {}): readonly ReleaseRecord[] {
    return this.#database
      .prepare(
        `SELECT * FROM releases WHERE (:id IS NULL OR request_id = :id) AND (:vault IS NULL OR vault = :vault) AND (:name IS NULL OR name = :name)
         ORDER BY id DESC LIMIT :limit`,
      )
      .all({ id: filter.requestId ?? null, vault: filter.vault ?? null, name: filter.name ?? null, limit: filter.limit ?? 100 })
      .map(releaseRecord);
  }

  /** Closes the database. */
  close(): void {
    this.#database.close();
  }

  #seconds(): number {
    return Math.floor(this.#clock.now() / 1000);
  }

  #transaction<T>(work: () => T): T {
    this.#database.exec("BEGIN IMMEDIATE");
    try {
      const result = work();
      this.#database.exec("COMMIT");
      return result;
    } catch (error) {
      this.#database.exec("ROLLBACK");
      throw error;
    }
  }
}

/**
 * Opens the database, makes its tables on first use, and proves that the master key is the one it was made with.
 * @throws {KeyvaultError} ERR_KEYVAULT_STORE, ERR_KEYVAULT_ARGUMENT
 */
export function openKeyStore(options: KeyStoreOptions): KeyStore {
  const masterKey = new MasterKey(options.masterKey, options.random, SEALED_DATABASE);
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(options.file);
    database.exec("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000; PRAGMA secure_delete = ON; BEGIN IMMEDIATE");
    const version = Number(database.prepare("PRAGMA user_version").get()?.["user_version"] ?? 0);
    if (version === 0) {
      database.exec(`${SCHEMA} CREATE TABLE master_key_check (sealed BLOB NOT NULL) STRICT; PRAGMA user_version = ${SCHEMA_VERSION}`);
      database.prepare("INSERT INTO master_key_check (sealed) VALUES (?)").run(masterKey.seal(new Uint8Array(16), CHECK_PLACE));
    } else if (version !== SCHEMA_VERSION) {
      throw new KeyvaultError("ERR_KEYVAULT_STORE", `${options.file} has schema ${version}, this program knows ${SCHEMA_VERSION}`, {
        hint: "Use the version of Sealpod that made it, or start with an empty state directory.",
      });
    }
    database.exec("COMMIT");
    masterKey.open(database.prepare("SELECT sealed FROM master_key_check").get()?.["sealed"] as Uint8Array, CHECK_PLACE);
    return new KeyStore(database, masterKey, options);
  } catch (error) {
    database?.close();
    if (error instanceof KeyvaultError) throw error;
    throw new KeyvaultError("ERR_KEYVAULT_STORE", `${options.file} cannot be opened as a key database`, { cause: error });
  }
}

/** The answer to anything that would make a key under the name of a deleted one. */
export function deletedConflict(name: string): KeyvaultError {
  return new KeyvaultError(
    "ERR_KEYVAULT_CONFLICT",
    `Key ${name} is currently in a deleted but recoverable state, and its name cannot be reused; it can only be recovered or purged.`,
    {
      details: { inner: "ObjectIsDeletedButRecoverable" },
    },
  );
}

/**
 * The name that binds a sealed secret to its version and to the conditions of its release. Who can write the database file but has
 * no master key can neither copy a secret to another key nor loosen the policy it is released under.
 */
function keyPlace(key: Pick<KeyRecord, "vault" | "name" | "version" | "exportable" | "releasePolicy">): string {
  const conditions = key.exportable && key.releasePolicy !== undefined ? `under policy sha256:${toHex(sha256(encodeUtf8(key.releasePolicy.text)))}` : "never";
  return `key ${key.vault}/${key.name}/${key.version}, released ${conditions}`;
}

function keyRecord(row: Row): KeyRecord {
  const policy = row["policy"];
  return {
    vault: row["vault"] as string,
    name: row["name"] as string,
    version: row["version"] as string,
    type: row["type"] as KeyType,
    hsm: row["hsm"] === 1,
    keyOps: asArray(parseJson(row["key_ops"] as string)) as readonly string[],
    publicMembers: asObject(parseJson(row["public_members"] as string)) as Readonly<Record<string, string>>,
    enabled: row["enabled"] === 1,
    notBefore: (row["not_before"] as number | null) ?? undefined,
    expires: (row["expires"] as number | null) ?? undefined,
    exportable: row["exportable"] === 1,
    created: row["created"] as number,
    updated: row["updated"] as number,
    tags: asObject(parseJson(row["tags"] as string)) as Readonly<Record<string, string>>,
    releasePolicy:
      typeof policy === "string" ? { contentType: row["policy_content_type"] as string, text: policy, immutable: row["policy_immutable"] === 1 } : undefined,
  };
}

function releaseRecord(row: Row): ReleaseRecord {
  const findings = asArray(parseJson(row["findings"] as string)) ?? [];
  return {
    requestId: row["request_id"] as string,
    at: row["at"] as number,
    vault: row["vault"] as string,
    name: row["name"] as string,
    version: row["version"] as string,
    tenantId: row["tenant_id"] as string,
    appid: row["appid"] as string,
    oid: row["oid"] as string,
    outcome: row["outcome"] as "released" | "refused",
    failed: row["failed"] === "" ? undefined : (row["failed"] as ReleaseCheck),
    reason: row["reason"] as string,
    authority: row["authority"] as string,
    findings: findings as unknown as readonly ClaimFinding[],
  };
}
