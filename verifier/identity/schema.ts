import { KEY_RING_MIGRATION } from "@sealpod/sealing";
import type { Migration } from "@sealpod/storage";

/** Schema 1: what the laptop's services wrote before the service had replicas, here for databases that are still of it. */
const FIRST = {
  sqlite: `
    CREATE TABLE signing_keys (
      purpose TEXT NOT NULL, kid TEXT NOT NULL, sealed BLOB NOT NULL, created INTEGER NOT NULL,
      PRIMARY KEY (purpose, kid)
    ) STRICT;
    CREATE TABLE applications (
      client_id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, object_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
      secret_salt BLOB, secret_hash BLOB
    ) STRICT;
    CREATE TABLE federated_credentials (
      client_id TEXT NOT NULL REFERENCES applications (client_id) ON DELETE CASCADE,
      name TEXT NOT NULL, issuer TEXT NOT NULL, subject TEXT NOT NULL, audiences TEXT NOT NULL, description TEXT NOT NULL,
      PRIMARY KEY (client_id, name), UNIQUE (client_id, issuer, subject)
    ) STRICT;`,
  postgres: `
    CREATE TABLE signing_keys (purpose TEXT NOT NULL, kid TEXT NOT NULL, sealed {blob} NOT NULL, created {int} NOT NULL, PRIMARY KEY (purpose, kid));
    CREATE TABLE applications (
      client_id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, object_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
      secret_salt {blob}, secret_hash {blob}
    );
    CREATE TABLE federated_credentials (
      client_id TEXT NOT NULL REFERENCES applications (client_id) ON DELETE CASCADE,
      name TEXT NOT NULL, issuer TEXT NOT NULL, subject TEXT NOT NULL, audiences TEXT NOT NULL, description TEXT NOT NULL,
      PRIMARY KEY (client_id, name), UNIQUE (client_id, issuer, subject)
    );`,
};

/**
 * Schemas 3 and 4 are of today. Keys of schema 1 stay in `signing_keys` until the program has sealed them again, which SQL cannot (see `openIdentityStore`). The one secret of an application
 * becomes the first of several, named by the client id: a UUID that there is.
 */
const SECOND = `
    CREATE TABLE token_keys (
      id {id}, kid TEXT NOT NULL UNIQUE, purpose TEXT NOT NULL, scope TEXT NOT NULL, public_key {blob} NOT NULL,
      sealed {blob}, wrapping_key {int} REFERENCES wrapping_keys (id), created {int} NOT NULL, signs_from {int} NOT NULL
    );
    CREATE INDEX token_keys_by_scope ON token_keys (purpose, scope, signs_from);
    ALTER TABLE applications ADD COLUMN kind TEXT NOT NULL DEFAULT 'application';
    ALTER TABLE applications ADD COLUMN resource_id TEXT;
    ALTER TABLE applications ADD COLUMN resource_key TEXT;
    ALTER TABLE applications ADD COLUMN created {int} NOT NULL DEFAULT 0;
    CREATE UNIQUE INDEX applications_by_resource ON applications (resource_key);
    CREATE INDEX applications_by_tenant ON applications (tenant_id, name);
    ALTER TABLE federated_credentials ADD COLUMN created {int} NOT NULL DEFAULT 0;
    CREATE TABLE client_secrets (
      key_id TEXT PRIMARY KEY, client_id TEXT NOT NULL REFERENCES applications (client_id) ON DELETE CASCADE, name TEXT NOT NULL, hint TEXT NOT NULL,
      scheme TEXT NOT NULL, salt {blob} NOT NULL, hash {blob} NOT NULL, created {int} NOT NULL, expires {int} NOT NULL
    );
    CREATE INDEX client_secrets_by_client ON client_secrets (client_id);
    INSERT INTO client_secrets (key_id, client_id, name, hint, scheme, salt, hash, created, expires)
      SELECT client_id, client_id, '', '', 'scrypt', secret_salt, secret_hash, 0, 0 FROM applications WHERE secret_hash IS NOT NULL;
    ALTER TABLE applications DROP COLUMN secret_salt;
    ALTER TABLE applications DROP COLUMN secret_hash;
    CREATE TABLE client_certificates (
      key_id TEXT PRIMARY KEY, client_id TEXT NOT NULL REFERENCES applications (client_id) ON DELETE CASCADE, name TEXT NOT NULL,
      der {blob} NOT NULL, created {int} NOT NULL
    );
    CREATE INDEX client_certificates_by_client ON client_certificates (client_id);
    CREATE TABLE audit (
      id {id}, time {int} NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, tenant TEXT NOT NULL, target TEXT NOT NULL, detail TEXT NOT NULL
    );`;

/** What is in the audit stays as it is, also if a fault of this program's would have it otherwise. */
const APPEND_ONLY = {
  sqlite: `
    CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
    CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;`,
  postgres: `
    CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$;
    CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();`,
};

/**
 * A subscription is of one tenant, as at Azure: the first that has an identity in it. Resource ids are all lower case in `resource_key`, and a subscription's name begins behind `/subscriptions/`.
 */
const SUBSCRIPTIONS = `
    CREATE TABLE subscriptions (id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL);
    INSERT INTO subscriptions (id, tenant_id)
      SELECT substr(resource_key, 16, 36), tenant_id FROM applications WHERE resource_key IS NOT NULL ORDER BY created, client_id
      ON CONFLICT (id) DO NOTHING;`;

/** The steps of the identity database's schema; released ones never change. */
export const IDENTITY_MIGRATIONS: readonly Migration[] = [{ sql: FIRST }, KEY_RING_MIGRATION, { sql: SECOND }, { sql: APPEND_ONLY }, { sql: SUBSCRIPTIONS }];
