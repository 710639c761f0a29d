import { encodeUtf8, sha256, toHex, type Random } from "@sealpod/core";
import { MasterKey } from "@sealpod/sealing";
import type { Database, Queries } from "@sealpod/storage";
import { KeyvaultError } from "../errors.ts";
import { makeChange, type StoreContext } from "./change.ts";
import { KEYS } from "./keys.ts";
import { bytes, integer, optionalInteger } from "./row.ts";
import { commonOf, type Shelf } from "./shelf.ts";
import type { KeyRecord } from "./types.ts";

/**
 * Schema 1: keys, grants and the release audit in one SQLite database, sealed by the master key itself. What it holds is carried over to the tables of today and sealed
 * under the ring; until then its tables are there, afterwards they are gone: all in one transaction.
 */
const TABLES = ["key_versions", "keys", "grants", "releases", "master_key_check"];

/** What {@link findSchema1} found: a database of schema 1, and the key that opens it. */
export interface Schema1 {
  readonly masterKey: MasterKey;
}

/**
 * Looks for the tables of schema 1 and proves that the key opens them, before anything is sealed that another key would have to open.
 * @returns undefined if there are none
 * @throws {KeyvaultError} ERR_KEYVAULT_STORE if the key is another one, or there is none
 */
export async function findSchema1(database: Database, key: Uint8Array | undefined, random: Random): Promise<Schema1 | undefined> {
  if (database.dialect !== "sqlite") return undefined;
  if (!(await hasSchema1(database))) return undefined;
  if (key === undefined) {
    throw new KeyvaultError(
      "ERR_KEYVAULT_STORE",
      `${database.name} has schema 1, whose keys are sealed by the bytes of a master key, and no such key was given`,
      {
        hint: "Open it once with the master key file that it was made with; it is brought to today's schema then.",
      },
    );
  }
  const masterKey = new MasterKey(key, random, {
    name: database.name,
    argumentError: (message) => new KeyvaultError("ERR_KEYVAULT_ARGUMENT", message),
    storeError: (message, options) => new KeyvaultError("ERR_KEYVAULT_STORE", message, options),
  });
  const [check] = await database.query("SELECT sealed FROM master_key_check");
  if (check !== undefined) masterKey.open(bytes(check, "sealed"), "check value");
  return { masterKey };
}

/** Carries everything over, and removes the tables of schema 1. */
export async function carryOverSchema1(context: StoreContext, keys: Shelf<KeyRecord>, { masterKey }: Schema1): Promise<void> {
  await makeChange(context, async (change) => {
    const { queries } = change;
    // Another process may have been quicker.
    if (!(await hasSchema1(queries))) return;
    const rows = await queries.query("SELECT v.*, k.deleted, k.purge FROM key_versions v JOIN keys k USING (vault, name) ORDER BY v.sequence");
    for (const row of rows) {
      const key = KEYS.fromRow(commonOf(row), row);
      const secret = masterKey.open(bytes(row, "sealed"), keyPlace(key));
      const deleted = optionalInteger(row, "deleted");
      await keys.carryOver(change, key, secret, deleted === undefined ? undefined : { deleted, purge: integer(row, "purge") });
      secret.fill(0);
    }
    await queries.run(
      "INSERT INTO vault_access_policies (vault, tenant_id, principal, keys, secrets) SELECT vault, tenant_id, principal, permissions, '[]' FROM grants WHERE permissions <> '[]'",
    );
    await queries.run(
      `INSERT INTO vault_audit (request_id, at, vault, operation, name, name_key, version, tenant_id, appid, oid, outcome, failed, reason, authority, findings)
       SELECT request_id, at, vault, 'keys/release', name, lower(name), version, tenant_id, appid, oid,
         CASE outcome WHEN 'released' THEN 'allowed' ELSE 'refused' END, CASE outcome WHEN 'released' THEN NULL ELSE failed END, reason, authority, findings
       FROM releases ORDER BY id`,
    );
    for (const table of TABLES) await queries.run(`DROP TABLE ${table}`);
  });
  context.logger.log("info", "the key database was brought from schema 1 to today's", { database: context.database.name });
}

async function hasSchema1(queries: Queries): Promise<boolean> {
  return (await queries.query("SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'master_key_check'")).length > 0;
}

/** What bound a sealed key in schema 1. */
function keyPlace(key: KeyRecord): string {
  const conditions = key.exportable && key.releasePolicy !== undefined ? `under policy sha256:${toHex(sha256(encodeUtf8(key.releasePolicy.text)))}` : "never";
  return `key ${key.vault}/${key.name}/${key.version}, released ${conditions}`;
}
