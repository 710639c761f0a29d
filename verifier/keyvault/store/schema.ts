import { KEY_RING_MIGRATION } from "@sealpod/sealing";
import type { Migration } from "@sealpod/storage";

/** Columns that versions of keys and of secrets have in common. */
const VERSION_COLUMNS = `
    sequence {id},
    version {text} NOT NULL,
    enabled {int} NOT NULL CHECK (enabled IN (0, 1)),
    not_before {int} CHECK (not_before >= 0),
    expires {int} CHECK (expires >= 0),
    created {int} NOT NULL,
    updated {int} NOT NULL,
    tags TEXT NOT NULL,
    sealed {blob} NOT NULL,
    wrapping_key {int} NOT NULL REFERENCES wrapping_keys (id)`;

/** A name that something can be deleted and recovered under. `name_key` is the name in lower case: names differ by more than letter case. */
const NAME_COLUMNS = `
    id {id},
    vault {text} NOT NULL,
    name_key {text} NOT NULL,
    name {text} NOT NULL,
    deleted {int},
    purge {int}`;
const NAME_CONSTRAINTS = `
    UNIQUE (vault, name_key),
    CHECK ((deleted IS NULL) = (purge IS NULL))`;

const TABLES = `
  CREATE TABLE vault_keys (${NAME_COLUMNS},
    rotation_policy TEXT,
    rotation_created {int},
    rotation_updated {int},
    rotation_due {int},${NAME_CONSTRAINTS},
    CHECK ((rotation_policy IS NULL) = (rotation_created IS NULL) AND (rotation_policy IS NULL) = (rotation_updated IS NULL)),
    CHECK (rotation_policy IS NOT NULL OR rotation_due IS NULL)
  ) {strict};
  CREATE TABLE vault_key_versions (${VERSION_COLUMNS},
    object {int} NOT NULL REFERENCES vault_keys (id) ON DELETE CASCADE,
    type {text} NOT NULL CHECK (type IN ('RSA', 'EC', 'oct')),
    hsm {int} NOT NULL CHECK (hsm IN (0, 1)),
    key_ops TEXT NOT NULL,
    public_members TEXT NOT NULL,
    exportable {int} NOT NULL CHECK (exportable IN (0, 1)),
    policy TEXT,
    policy_content_type TEXT,
    policy_immutable {int} NOT NULL CHECK (policy_immutable IN (0, 1)),
    UNIQUE (object, version),
    CHECK ((policy IS NULL) = (policy_content_type IS NULL)),
    CHECK (policy IS NOT NULL OR policy_immutable = 0)
  ) {strict};
  CREATE TABLE vault_secrets (${NAME_COLUMNS},${NAME_CONSTRAINTS}
  ) {strict};
  CREATE TABLE vault_secret_versions (${VERSION_COLUMNS},
    object {int} NOT NULL REFERENCES vault_secrets (id) ON DELETE CASCADE,
    content_type TEXT,
    UNIQUE (object, version)
  ) {strict};
  CREATE INDEX vault_keys_purge ON vault_keys (purge);
  CREATE INDEX vault_keys_rotation ON vault_keys (rotation_due);
  CREATE INDEX vault_key_versions_latest ON vault_key_versions (object, sequence);
  CREATE INDEX vault_key_versions_wrapping_key ON vault_key_versions (wrapping_key, sequence);
  CREATE INDEX vault_secrets_purge ON vault_secrets (purge);
  CREATE INDEX vault_secret_versions_latest ON vault_secret_versions (object, sequence);
  CREATE INDEX vault_secret_versions_wrapping_key ON vault_secret_versions (wrapping_key, sequence);

  CREATE TABLE vault_access_policies (
    vault {text} NOT NULL,
    tenant_id {text} NOT NULL,
    principal {text} NOT NULL,
    keys TEXT NOT NULL,
    secrets TEXT NOT NULL,
    PRIMARY KEY (vault, tenant_id, principal)
  ) {strict};
  CREATE TABLE vault_role_assignments (
    vault {text} NOT NULL,
    name {text} NOT NULL,
    tenant_id {text} NOT NULL,
    principal {text} NOT NULL,
    role {text} NOT NULL,
    scope {text} NOT NULL,
    scope_key {text} NOT NULL,
    PRIMARY KEY (vault, name),
    UNIQUE (vault, tenant_id, principal, role, scope_key)
  ) {strict};

  CREATE TABLE vault_audit (
    id {id},
    request_id {text} NOT NULL,
    at {int} NOT NULL,
    vault {text} NOT NULL,
    operation {text} NOT NULL,
    name {text} NOT NULL,
    name_key {text} NOT NULL,
    version {text} NOT NULL,
    tenant_id TEXT NOT NULL,
    appid TEXT NOT NULL,
    oid TEXT NOT NULL,
    outcome {text} NOT NULL CHECK (outcome IN ('allowed', 'refused')),
    failed {text},
    reason TEXT NOT NULL,
    authority TEXT NOT NULL,
    findings TEXT NOT NULL,
    CHECK ((failed IS NULL) = (outcome = 'allowed'))
  ) {strict};
  CREATE INDEX vault_audit_request ON vault_audit (request_id);
  CREATE INDEX vault_audit_vault ON vault_audit (vault, id);
  CREATE INDEX vault_audit_operation ON vault_audit (vault, operation, id);
  CREATE INDEX vault_audit_name ON vault_audit (vault, name_key, id);
`;

// REPLACE deletes a line in SQLite without the trigger for DELETE: an id that is there is refused before.
const APPEND_ONLY_SQLITE = `
  CREATE TRIGGER vault_audit_no_update BEFORE UPDATE ON vault_audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
  CREATE TRIGGER vault_audit_no_delete BEFORE DELETE ON vault_audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
  CREATE TRIGGER vault_audit_no_replace BEFORE INSERT ON vault_audit WHEN EXISTS (SELECT 1 FROM vault_audit WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
`;

const APPEND_ONLY_POSTGRES = `
  CREATE FUNCTION vault_audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$;
  CREATE TRIGGER vault_audit_no_update BEFORE UPDATE OR DELETE ON vault_audit FOR EACH ROW EXECUTE FUNCTION vault_audit_append_only();
  CREATE TRIGGER vault_audit_no_truncate BEFORE TRUNCATE ON vault_audit FOR EACH STATEMENT EXECUTE FUNCTION vault_audit_append_only();
`;

/** Text that is compared and sorted goes by its bytes on both engines; PostgreSQL would otherwise take the collation of the database, which ignores hyphens. */
function forDialect(sql: string, dialect: "sqlite" | "postgres"): string {
  return sql.replaceAll("{text}", dialect === "sqlite" ? "TEXT" : 'TEXT COLLATE "C"');
}

/**
 * The steps of the schema. Step 1 was a store of its own on SQLite, with other tables (schema1.ts carries them over, because that takes keys); new databases do not
 * have them any more.
 */
export const MIGRATIONS: readonly Migration[] = [
  {},
  KEY_RING_MIGRATION,
  {
    sql: {
      sqlite: forDialect(TABLES, "sqlite") + APPEND_ONLY_SQLITE,
      postgres: forDialect(TABLES, "postgres") + APPEND_ONLY_POSTGRES,
    },
  },
];
