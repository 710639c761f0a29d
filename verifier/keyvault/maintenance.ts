import { access } from "node:fs/promises";
import { equalBytes, messageOf, silentLogger, type LogFields, type Logger } from "@sealpod/core";
import { openKeyRing, SealingError, type KeyRing, type MasterKeyProvider } from "@sealpod/sealing";
import { backupDatabase, openDatabase, type Database, type Queries } from "@sealpod/storage";
import { KeyvaultError } from "./errors.ts";
import { openDatabaseAddress, openMasterKey, type ConfiguredStorePorts } from "./server-database.ts";
import type { KeyvaultSettings } from "./server-settings.ts";
import { appendAudit, readAudit } from "./store/audit.ts";
import { ownLine, type StoreContext } from "./store/change.ts";
import { KEYS } from "./store/keys.ts";
import { integer } from "./store/row.ts";
import { MIGRATIONS } from "./store/schema.ts";
import { SECRETS } from "./store/secrets.ts";
import { Shelf } from "./store/shelf.ts";
import type { AuditFilter, StoredAuditLine } from "./store/types.ts";
import { rotateWrappingKey } from "./store/upkeep.ts";

/** Milliseconds for which another process may hold a SQLite file: the running service does for each of its batches. */
const BUSY_TIME = 60_000;
/** AES-256. */
const PROBE_LENGTH = 32;
const PROBE_PLACE = "proof of a new master key";

/** The part of a configuration that says where the database is and what opens it. */
export type MaintenanceSettings = Pick<KeyvaultSettings, "database" | "masterKey">;

/** What is in a database; of keys and secrets the deleted ones too, which can be recovered. */
export interface VaultCounts {
  readonly keys: number;
  readonly keyVersions: number;
  readonly secrets: number;
  readonly secretVersions: number;
  /** Names among them that are deleted and not purged. */
  readonly deleted: number;
  readonly accessPolicies: number;
  readonly roleAssignments: number;
  readonly auditLines: number;
}

/** A record that does not open. */
export interface UnreadableRecord {
  readonly collection: string;
  readonly vault: string;
  readonly name: string;
  readonly version: string;
}

/** What {@link checkVaultDatabase} finds. */
export interface VaultCheck {
  /** File, or host and database. */
  readonly database: string;
  readonly masterKey: string;
  readonly wrappingKeys: readonly { readonly id: number; readonly state: string; readonly created: number; readonly records: number }[];
  readonly counts: VaultCounts;
  readonly unreadable: readonly UnreadableRecord[];
  /** What the database itself says about its files; empty if they are whole, and for PostgreSQL, which watches over itself. */
  readonly damage: readonly string[];
}

/** What {@link rotateVaultWrappingKey} did. */
export interface VaultRotation {
  readonly database: string;
  readonly wrappingKey: number;
  readonly records: number;
}

/**
 * Looks at everything that the database of a configuration holds, while the service may be running: that the master key is the right one, that each record opens under it.
 * Nothing is written but what a first start would make.
 * @throws {StorageError} {@link SealingError} {@link KeyvaultError} ERR_KEYVAULT_STORE for a database that is not there
 */
export async function checkVaultDatabase(settings: MaintenanceSettings, ports: ConfiguredStorePorts): Promise<VaultCheck> {
  await using opened = await openVault(settings, ports);
  const { database, context, master } = opened;
  const unreadable: UnreadableRecord[] = [];
  // What a rotation would open, and nothing of what it would write.
  const dry: StoreContext = {
    ...context,
    database: withTransactions(database, async () => 0),
    logger: {
      log: (_level, _message, fields) => {
        const found = unreadableOf(fields);
        if (found !== undefined) unreadable.push(found);
      },
    },
  };
  for (const shelf of [new Shelf(dry, KEYS), new Shelf(dry, SECRETS)]) for (const { id } of context.ring.keys) await shelf.reseal(id);
  const wrappingKeys = [];
  for (const { id, state, created } of context.ring.keys) wrappingKeys.push({ id, state, created, records: await recordsUnder(database, id) });
  return { database: database.name, masterKey: master.id, wrappingKeys, counts: await countAll(database), unreadable, damage: await damageOf(database) };
}

/**
 * Makes a new wrapping key and seals everything again under it, in small batches between what the service does.
 * @param onProgress records that are done, and all there were at the start
 * @throws {StorageError} {@link SealingError} {@link KeyvaultError}
 */
export async function rotateVaultWrappingKey(
  settings: MaintenanceSettings,
  ports: ConfiguredStorePorts & { readonly logger?: Logger },
  onProgress: (done: number, all: number) => void = () => undefined,
): Promise<VaultRotation> {
  await using opened = await openVault(settings, ports);
  const { database, context } = opened;
  const counts = await countAll(database);
  const all = counts.keyVersions + counts.secretVersions;
  let done = 0;
  const watched: StoreContext = {
    ...context,
    logger: ports.logger ?? silentLogger,
    database: withTransactions(database, async (work) => {
      const result = await database.transaction(work);
      // Those of records say how many they were.
      if (typeof result === "number") onProgress((done += result), all);
      return result;
    }),
  };
  const records = await rotateWrappingKey(watched, [new Shelf(watched, KEYS), new Shelf(watched, SECRETS)]);
  await context.ring.reload();
  return { database: database.name, wrappingKey: activeOf(context.ring), records };
}

/**
 * Wraps the wrapping keys with another master key, in one transaction: before it the old one opens the database, after it the new one does. A service that runs goes on with
 * what it has opened, and is restarted with the new one.
 * @throws {SealingError} ERR_SEALING_MASTER_KEY for a new key that does not open what it wraps, or is the old one
 * @throws {StorageError} {@link KeyvaultError}
 */
export async function changeVaultMasterKey(
  settings: MaintenanceSettings,
  next: KeyvaultSettings["masterKey"],
  ports: ConfiguredStorePorts,
): Promise<{ readonly database: string; readonly from: string; readonly to: string; readonly wrappingKeys: number }> {
  const master = await openMasterKey(next, ports);
  await requireOpens(master, ports.random.bytes(PROBE_LENGTH));
  await using opened = await openVault(settings, ports);
  const { database, context } = opened;
  const { ring } = context;
  const from = opened.master.id;
  if (from === master.id) throw new SealingError("ERR_SEALING_MASTER_KEY", `the new master key is the one that ${database.name} has already, ${from}`);
  const count = ring.keys.length;
  const say = async (reason: string): Promise<void> =>
    database.transaction((queries) => appendAudit(queries, ownLine(context, { operation: "master-key/change", vault: "", name: "", reason })));
  // Before, so that there is no change without a line.
  await say(`${count} wrapping keys are about to be wrapped by ${master.id} instead of ${from}`);
  await ring.changeMaster(master);
  await say(`the wrapping keys are wrapped by ${master.id}`);
  return { database: database.name, from, to: master.id, wrappingKeys: count };
}

/**
 * Copies the SQLite database of a configuration into a file while the service runs. It takes no master key, and the copy opens with nothing else.
 * @throws {StorageError} ERR_STORAGE_ARGUMENT for PostgreSQL, which has tools of its own; ERR_STORAGE_FILE, ERR_STORAGE_FULL
 * @throws {KeyvaultError} ERR_KEYVAULT_STORE for a database that is not there
 */
export async function backupVaultDatabase(
  settings: Pick<MaintenanceSettings, "database">,
  file: string,
  ports: ConfiguredStorePorts,
): Promise<{ readonly database: string; readonly counts: VaultCounts }> {
  await using database = await openPresent(settings, ports);
  await backupDatabase(database, file);
  return { database: database.name, counts: await countAll(database) };
}

/**
 * Lines of the audit of the database of a configuration, the latest first. It takes no master key.
 * @throws {StorageError} {@link KeyvaultError} ERR_KEYVAULT_STORE, ERR_KEYVAULT_BAD_PARAMETER
 */
export async function readVaultAudit(
  settings: Pick<MaintenanceSettings, "database">,
  filter: AuditFilter,
  ports: ConfiguredStorePorts,
): Promise<readonly StoredAuditLine[]> {
  await using database = await openPresent(settings, ports);
  return await readAudit(database, filter);
}

interface OpenedVault extends AsyncDisposable {
  readonly database: Database;
  readonly master: MasterKeyProvider;
  readonly context: StoreContext;
}

async function openVault(settings: MaintenanceSettings, ports: ConfiguredStorePorts): Promise<OpenedVault> {
  const master = await openMasterKey(settings.masterKey, ports);
  const database = await openPresent(settings, ports);
  try {
    const { clock, random } = ports;
    const ring = await openKeyRing({ database, master, random, clock });
    return { database, master, context: { database, ring, clock, random, logger: silentLogger }, [Symbol.asyncDispose]: async () => database.close() };
  } catch (error) {
    await database.close();
    throw error;
  }
}

/** What a typing error in a path would make is an empty vault, which is whole in every way. */
async function openPresent(settings: Pick<MaintenanceSettings, "database">, ports: ConfiguredStorePorts): Promise<Database> {
  const url = openDatabaseAddress(settings, ports);
  if (!/^postgres(ql)?:/i.test(url)) {
    await access(url).catch((cause: unknown) => {
      throw new KeyvaultError("ERR_KEYVAULT_STORE", `there is no database at ${url}: ${messageOf(cause)}`, {
        cause,
        hint: "The service makes it at its first start. Use the service's configuration, and its DATABASE_URL if it has one.",
      });
    });
  }
  return openDatabase({ url, name: "keyvault", migrations: MIGRATIONS, limits: { busyTime: BUSY_TIME } });
}

/** A public key that is not that of the token's private key wraps, and nothing would ever open it again. */
async function requireOpens(master: MasterKeyProvider, probe: Uint8Array): Promise<void> {
  const opened = await master.unwrap(await master.wrap(probe, PROBE_PLACE), PROBE_PLACE);
  if (!equalBytes(opened, probe)) throw new SealingError("ERR_SEALING_MASTER_KEY", `the new master key ${master.id} does not give back what it has wrapped`);
}

/** The same database with something around its transactions. */
function withTransactions(database: Database, transaction: (work: (queries: Queries) => Promise<unknown>) => Promise<unknown>): Database {
  return {
    dialect: database.dialect,
    name: database.name,
    query: async (sql, parameters) => database.query(sql, parameters),
    run: async (sql, parameters) => database.run(sql, parameters),
    transaction: async <T>(work: (queries: Queries) => Promise<T>) => (await transaction(work)) as T,
    check: async () => database.check(),
    close: async () => database.close(),
    [Symbol.asyncDispose]: async () => database.close(),
  };
}

function activeOf(ring: KeyRing): number {
  return ring.keys.find(({ state }) => state === "active")?.id ?? 0;
}

async function recordsUnder(database: Database, id: number): Promise<number> {
  const sql = `SELECT (SELECT count(*) FROM ${KEYS.versions} WHERE wrapping_key = ?) + (SELECT count(*) FROM ${SECRETS.versions} WHERE wrapping_key = ?) AS records`;
  const [row] = await database.query(sql, [id, id]);
  return row === undefined ? 0 : integer(row, "records");
}

async function countAll(database: Database): Promise<VaultCounts> {
  const count = async (from: string): Promise<number> => {
    const [row] = await database.query(`SELECT count(*) AS count FROM ${from}`);
    return row === undefined ? 0 : integer(row, "count");
  };
  return {
    keys: await count(KEYS.names),
    keyVersions: await count(KEYS.versions),
    secrets: await count(SECRETS.names),
    secretVersions: await count(SECRETS.versions),
    deleted: (await count(`${KEYS.names} WHERE deleted IS NOT NULL`)) + (await count(`${SECRETS.names} WHERE deleted IS NOT NULL`)),
    accessPolicies: await count("vault_access_policies"),
    roleAssignments: await count("vault_role_assignments"),
    auditLines: await count("vault_audit"),
  };
}

async function damageOf(database: Database): Promise<readonly string[]> {
  if (database.dialect !== "sqlite") return [];
  const integrity = (await database.query("PRAGMA integrity_check")).map((row) => String(row["integrity_check"])).filter((text) => text !== "ok");
  const foreign = (await database.query("PRAGMA foreign_key_check")).map(
    (row) => `table ${String(row["table"])}: row ${String(row["rowid"])} refers to nothing`,
  );
  return [...integrity, ...foreign];
}

function unreadableOf(fields: LogFields | undefined): UnreadableRecord | undefined {
  const { collection, vault, name, version } = fields ?? {};
  if (typeof collection !== "string") return undefined;
  return { collection, vault: String(vault), name: String(name), version: String(version) };
}
