import { DatabaseSync } from "node:sqlite";
import { encodeUtf8, sha256, toHex } from "@sealpod/core";
import { MasterKey } from "@sealpod/sealing";
import type { NewKeyVersion } from "../index.ts";
import { random } from "./store-world.ts";

/** The schema that databases of 2026 were made with, and how their rows were sealed: released, so it never changes. */
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
  CREATE TABLE master_key_check (sealed BLOB NOT NULL) STRICT;
  PRAGMA user_version = 1;
`;

/** Writes databases of schema 1. */
export class Schema1Writer {
  readonly #database: DatabaseSync;
  readonly #masterKey: MasterKey;

  constructor(file: string, masterKey: Uint8Array) {
    const fail = (message: string): Error => new Error(message);
    this.#masterKey = new MasterKey(masterKey, random, { name: "schema 1", argumentError: fail, storeError: fail });
    this.#database = new DatabaseSync(file);
    this.#database.exec(`PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON; ${SCHEMA}`);
    this.#database.prepare("INSERT INTO master_key_check (sealed) VALUES (?)").run(this.#masterKey.seal(new Uint8Array(16), "check value"));
  }

  grant(vault: string, tenantId: string, principal: string, permissions: readonly string[]): void {
    this.#database.prepare("INSERT INTO grants VALUES (?, ?, ?, ?)").run(vault, tenantId, principal, JSON.stringify(permissions));
  }

  add(key: NewKeyVersion, version: string, created: number, updated: number): void {
    this.#database.prepare("INSERT OR IGNORE INTO keys (vault, name) VALUES (?, ?)").run(key.vault, key.name);
    const policy = key.releasePolicy;
    const conditions = key.exportable && policy !== undefined ? `under policy sha256:${toHex(sha256(encodeUtf8(policy.text)))}` : "never";
    const sealed = this.#masterKey.seal(key.secret, `key ${key.vault}/${key.name}/${version}, released ${conditions}`);
    this.#database
      .prepare(
        `INSERT INTO key_versions (vault, name, version, type, hsm, key_ops, public_members, sealed, enabled, not_before, expires, exportable,
           created, updated, tags, policy, policy_content_type, policy_immutable)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      )
      .run(
        key.vault,
        key.name,
        version,
        key.type,
        Number(key.hsm),
        JSON.stringify(key.keyOps),
        JSON.stringify(key.publicMembers),
        sealed,
        Number(key.enabled),
        key.notBefore ?? null,
        key.expires ?? null,
        Number(key.exportable),
        created,
        updated,
        JSON.stringify(key.tags),
        policy?.text ?? null,
        policy?.contentType ?? "",
        Number(policy?.immutable ?? false),
      );
  }

  delete(vault: string, name: string, deleted: number, purge: number): void {
    this.#database.prepare("UPDATE keys SET deleted = ?, purge = ? WHERE vault = ? AND name = ?").run(deleted, purge, vault, name);
  }

  release(requestId: string, at: number, name: string, failed: string): void {
    this.#database
      .prepare(
        `INSERT INTO releases (request_id, at, vault, name, version, tenant_id, appid, oid, outcome, failed, reason, authority, findings)
         VALUES (?, ?, 'demo', ?, 'v', 'tenant', 'app', 'object', ?, ?, 'reason', 'https://maa.test', '[{"authority":"a","claim":"c","expected":"1","found":"2","matched":false}]')`,
      )
      .run(requestId, at, name, failed === "" ? "released" : "refused", failed);
  }

  close(): void {
    this.#database.close();
  }
}
