import type { DatabaseSync } from "node:sqlite";
import { AttestationError } from "./errors.ts";

/**
 * The steps from an empty database to today's schema; step `n` leads to schema `n + 1`. A step that has been released is never changed: databases of the field
 * have gone through it. `:now` stands for the time of the migration in milliseconds since 1970.
 */
const MIGRATIONS: readonly string[] = [
  "CREATE TABLE signing_keys (kid TEXT PRIMARY KEY, certificate BLOB NOT NULL, sealed BLOB NOT NULL) STRICT;",
  `
  ALTER TABLE signing_keys RENAME TO signing_keys_1;
  -- 'next' is published and does not sign yet, 'active' signs, 'retired' verifies what it once signed and has no private half any more.
  CREATE TABLE signing_keys (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    kid TEXT NOT NULL UNIQUE, certificate BLOB NOT NULL, sealed BLOB,
    state TEXT NOT NULL CHECK (state IN ('next', 'active', 'retired')),
    published INTEGER NOT NULL, activates INTEGER NOT NULL, retired INTEGER,
    CHECK ((state = 'retired') = (sealed IS NULL)),
    CHECK ((state = 'retired') = (retired IS NOT NULL))
  ) STRICT;
  CREATE UNIQUE INDEX one_next_key ON signing_keys (state) WHERE state = 'next';
  CREATE UNIQUE INDEX one_active_key ON signing_keys (state) WHERE state = 'active';
  INSERT INTO signing_keys (kid, certificate, sealed, state, published, activates, retired)
    SELECT kid, certificate, CASE WHEN newest THEN sealed END, CASE WHEN newest THEN 'active' ELSE 'retired' END, :now, :now, CASE WHEN newest THEN NULL ELSE :now END
    FROM (SELECT *, rowid = (SELECT max(rowid) FROM signing_keys_1) AS newest, rowid AS age FROM signing_keys_1) ORDER BY age;
  DROP TABLE signing_keys_1;

  CREATE TABLE policies (type TEXT PRIMARY KEY, token TEXT NOT NULL, text TEXT NOT NULL, signer BLOB, changed INTEGER NOT NULL, subject TEXT NOT NULL) STRICT;
  CREATE TABLE policy_certificates (thumbprint TEXT PRIMARY KEY, certificate BLOB NOT NULL, added INTEGER NOT NULL, subject TEXT NOT NULL) STRICT;

  CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, subject TEXT NOT NULL,
    operation TEXT NOT NULL, target TEXT NOT NULL, hash TEXT NOT NULL, content TEXT NOT NULL
  ) STRICT;
  CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
  CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
  `,
];

/** Schema that this program writes. */
export const SCHEMA_VERSION: number = MIGRATIONS.length;

/**
 * Brings the database to today's schema, in one transaction: a process that dies on the way leaves it as it was.
 * @param file its name, for messages
 * @param now milliseconds since 1970
 * @throws {AttestationError} ERR_ATTESTATION_STORE for a newer schema
 */
export function migrate(database: DatabaseSync, file: string, now: number): void {
  database.exec("BEGIN IMMEDIATE");
  try {
    const version = Number(database.prepare("PRAGMA user_version").get()?.["user_version"] ?? 0);
    if (version > SCHEMA_VERSION) {
      throw new AttestationError("ERR_ATTESTATION_STORE", `${file} has schema ${version}, this program knows ${SCHEMA_VERSION}`, {
        details: { found: version, expected: SCHEMA_VERSION },
        hint: "A newer Sealpod made it: use that version, or put back the copy from before its upgrade.",
      });
    }
    for (const step of MIGRATIONS.slice(version)) database.exec(step.replaceAll(":now", String(Math.trunc(now))));
    database.exec(`PRAGMA user_version = ${SCHEMA_VERSION}; COMMIT`);
  } catch (error) {
    database.exec("ROLLBACK");
    throw error;
  }
}
