import { asObject, encodeUtf8, parseJson, sha256, toHex, type JsonValue } from "@sealpod/core";
import { StorageError, type Queries, type Row, type SqlValue } from "@sealpod/storage";
import { SealingError } from "@sealpod/sealing";
import { KeyvaultError } from "../errors.ts";
import type { VaultKind } from "../key-request.ts";
import { decodeBackup, encodeBackup, requireBackupRoom } from "./backup.ts";
import { makeChange, ownLine, seconds, type Change, type StoreContext } from "./change.ts";
import { MAX_LIST, MAX_NAMES, MAX_VERSIONS, PURGE_BATCH, RECOVERABLE_DAYS, RESEAL_BATCH } from "./limits.ts";
import { deletedConflict, nameKey, type Noun } from "./names.ts";
import { bytes, integer, optionalInteger, text } from "./row.ts";
import type { AuditLine, BackupOrigin, Deleted } from "./types.ts";

/** What versions of keys and of secrets have in common. */
export interface Item {
  readonly vault: string;
  readonly name: string;
  readonly version: string;
  readonly enabled: boolean;
  readonly notBefore: number | undefined;
  readonly expires: number | undefined;
  readonly created: number;
  readonly updated: number;
  readonly tags: Readonly<Record<string, string>>;
}

/** What an item is made of. */
export type Fresh<T extends Item> = Omit<T, "version" | "created" | "updated">;

/** How the versions of one kind are kept. */
export interface ShelfKind<T extends Item> {
  readonly noun: Noun;
  /** In operations of the audit, e.g. `keys`. */
  readonly collection: string;
  /** Table of the names. */
  readonly names: string;
  /** Table of the versions. */
  readonly versions: string;
  /** Columns of the names that go along in a backup. */
  readonly nameColumns: readonly string[];
  /** Columns of the versions that only this kind has. */
  readonly columns: readonly string[];
  /** Those of {@link ShelfKind.columns} whose texts may be large. */
  readonly largeColumns: readonly string[];
  /** Values of {@link ShelfKind.columns}. */
  toColumns(item: T): readonly SqlValue[];
  fromRow(common: Item, row: Row): T;
  /** What of an item is bound to its sealed part, beside name, version and the attributes that close it. */
  bound(item: T): readonly JsonValue[];
}

const VERSION = /^[0-9a-f]{32}$/i;
const COMMON_COLUMNS = ["version", "enabled", "not_before", "expires", "created", "updated", "tags"];

/** Columns of a name as they go along in a backup: not every engine takes the integers of the other for booleans, but there are none. */
export type NameColumns = Readonly<Record<string, string | number | null>>;

/** A record that is to be sealed again. */
interface Opened<T> {
  readonly item: T;
  readonly sequence: number;
  /** As it was read. */
  readonly sealed: Uint8Array;
  readonly secret: Uint8Array;
}

/**
 * Things with names, versions, a sealed part and soft delete: the keys, or the secrets, of all vaults.
 *
 * No item leaves before its sealed part has opened, which proves that what the row says of it is what this service wrote: also where nobody wants the secret, because a public key
 * that somebody has exchanged gives away what is encrypted to it. It takes some 20 microseconds an item, half a millisecond for a page of a list.
 */
export class Shelf<T extends Item> {
  readonly #context: StoreContext;
  readonly #kind: ShelfKind<T>;
  readonly #sql: ReturnType<typeof statements>;
  /** The sealed part that was read with an item: to open it takes no second look, and what a caller has decided on is what opens. */
  readonly #sealed = new WeakMap<T, Uint8Array>();

  constructor(context: StoreContext, kind: ShelfKind<T>) {
    this.#context = context;
    this.#kind = kind;
    this.#sql = statements(kind);
  }

  /** @param check is given the latest version inside of the transaction, and throws to refuse */
  async add(fresh: Fresh<T>, secret: Uint8Array, audit: AuditLine, check?: (latest: T | undefined) => void): Promise<T> {
    const { vault, name } = fresh;
    await this.#requireNameRoom(vault, name);
    return makeChange(this.#context, async (change) => {
      const present = await this.#undeletedRow(change, vault, name);
      check?.(present === undefined ? undefined : await this.latestIn(change, vault, name));
      if (present !== undefined) return this.#addVersion(change, present, fresh, secret, audit);
      const id = await this.#insertName(change, vault, name, []);
      return this.#addVersion(change, { id, name }, fresh, secret, audit);
    });
  }

  /**
   * Adds a version that is made of what is there.
   * @param make is given the latest version and the row of the name inside of the transaction; throws to refuse, gives undefined to leave it at that
   */
  async succeed(
    vault: string,
    name: string,
    audit: AuditLine,
    make: (latest: T, row: Row) => { readonly fresh: Fresh<T>; readonly secret: Uint8Array } | undefined,
  ): Promise<T | undefined> {
    return makeChange(this.#context, async (change) => {
      const present = await this.#undeletedRow(change, vault, name);
      const row = await change.first(this.#sql.latest, [vault, nameKey(name)]);
      if (present === undefined || row === undefined) {
        throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", `${this.#kind.noun} ${name} was deleted while the request was answered.`, {
          details: { inner: `${this.#kind.noun}NotFound` },
        });
      }
      // A policy that somebody has loosened in the database must not be sealed into a version of its own.
      const latest = await this.#verifiedIn(change, row);
      const made = make(latest, present);
      return made === undefined ? undefined : this.#addVersion(change, present, made.fresh, made.secret, audit);
    });
  }

  /**
   * Whether a version could be added now.
   * @throws {KeyvaultError} ERR_KEYVAULT_CONFLICT, ERR_KEYVAULT_LIMIT
   */
  async requireRoom(vault: string, name: string): Promise<void> {
    const present = await this.#requireNameRoom(vault, name);
    if (present === undefined) return;
    if (present["deleted"] !== null) throw deletedConflict(this.#kind.noun, text(present, "name"));
    await this.#requireVersionRoom(this.#context.database, integer(present, "id"), name);
  }

  /** The latest version as a transaction sees it. @throws {KeyvaultError} ERR_KEYVAULT_STORE if its row was changed behind our back */
  async latestIn(change: Change, vault: string, name: string): Promise<T | undefined> {
    const row = await change.first(this.#sql.latest, [vault, nameKey(name)]);
    return row === undefined ? undefined : this.#verifiedIn(change, row);
  }

  async #addVersion(change: Change, named: Row, fresh: Fresh<T>, secret: Uint8Array, audit: AuditLine): Promise<T> {
    const [id, name] = [integer(named, "id"), text(named, "name")];
    await this.#requireVersionRoom(change.queries, id, name);
    const now = seconds(this.#context);
    // Two assertions because TypeScript does not see that what was omitted is put back.
    const item = { ...fresh, name, version: toHex(this.#context.random.bytes(16)), created: now, updated: now } as unknown as T;
    const added = await this.#insertVersion(change, id, item, secret);
    await change.audit({ ...audit, name, version: item.version });
    return added;
  }

  /**
   * A version of what is not deleted; the latest when `version` is absent.
   * @throws {KeyvaultError} as {@link open}
   */
  async get(vault: string, name: string, version?: string): Promise<T | undefined> {
    const row = await this.#row(this.#context.database, vault, name, version);
    return row === undefined ? undefined : this.#verified(row);
  }

  /**
   * The sealed part of an item.
   * @throws {KeyvaultError} ERR_KEYVAULT_STORE if the row was changed behind our back, ERR_KEYVAULT_CONFLICT or ERR_KEYVAULT_NOT_FOUND if it was changed, or is gone, since the item was read
   */
  async open(item: T): Promise<Uint8Array> {
    const held = this.#sealed.get(item);
    const opened = held === undefined ? undefined : await this.#tryOpen(held, item);
    if (opened !== undefined) return opened;
    // The item is a copy, or its wrapping key has been replaced and forgotten since it was read.
    const where = `${this.#kind.noun} ${item.name}/${item.version}`;
    const [row] = await this.#context.database.query(this.#sql.byVersion, [item.vault, nameKey(item.name), item.version]);
    if (row === undefined) throw new KeyvaultError("ERR_KEYVAULT_NOT_FOUND", `${where} was deleted while the request was answered.`);
    if (this.#place(this.#item(row)) !== this.#place(item)) {
      throw new KeyvaultError("ERR_KEYVAULT_CONFLICT", `${where} was changed while the request was answered.`, { hint: "Repeat the request." });
    }
    const again = await this.#tryOpen(bytes(row, "sealed"), item);
    if (again === undefined) throw this.#unreadable(item);
    return again;
  }

  /** The latest versions of up to `limit` names after `after`, by name. */
  async list(vault: string, after: string, limit: number): Promise<readonly T[]> {
    return this.#verifiedAll(await this.#context.database.query(this.#sql.list, [vault, nameKey(after), listLimit(limit)]));
  }

  /** Up to `limit` versions after the version `after`, by version. */
  async listVersions(vault: string, name: string, after: string, limit: number): Promise<readonly T[]> {
    return this.#verifiedAll(await this.#context.database.query(this.#sql.listVersions, [vault, nameKey(name), after, listLimit(limit)]));
  }

  /** Changes a version. The sealed part is sealed again, because it is bound to what may change. Undefined if there is none. */
  async update(vault: string, name: string, version: string | undefined, edit: (item: T) => Partial<T>, audit: AuditLine): Promise<T | undefined> {
    return makeChange(this.#context, async (change) => {
      const row = await this.#row(change.queries, vault, name, version);
      if (row === undefined) return undefined;
      const item = this.#item(row);
      const next: T = { ...item, ...edit(item), updated: seconds(this.#context) };
      const secret = await this.#openIn(change, row, item);
      const { sealed, keyId } = await change.seal(secret, this.#place(next));
      secret.fill(0);
      await change.queries.run(this.#sql.update, [...this.#values(next), sealed, keyId, integer(row, "sequence")]);
      await change.audit({ ...audit, name: next.name, version: next.version });
      this.#sealed.set(next, sealed);
      return next;
    });
  }

  /**
   * Deletes a name with all its versions; it can be recovered until it is purged. Undefined if there is none.
   * @throws {KeyvaultError} ERR_KEYVAULT_STORE for a row that was changed behind our back; it is deleted all the same: that is how to be rid of it
   */
  async delete(vault: string, name: string, audit: AuditLine): Promise<Deleted<T> | undefined> {
    const row = await makeChange(this.#context, async (change) => {
      const now = seconds(this.#context);
      const changed = await change.queries.run(this.#sql.delete, [now, now + RECOVERABLE_DAYS * 86_400, vault, nameKey(name)]);
      if (changed === 0) return undefined;
      await change.audit(audit);
      return change.first(this.#sql.deleted, [vault, nameKey(name)]);
    });
    return row === undefined ? undefined : this.#deleted(row);
  }

  /** What is deleted under a name. */
  async deleted(vault: string, name: string): Promise<Deleted<T> | undefined> {
    const [row] = await this.#context.database.query(this.#sql.deleted, [vault, nameKey(name)]);
    return row === undefined ? undefined : this.#deleted(row);
  }

  /** Up to `limit` deleted names after `after`, by name. */
  async listDeleted(vault: string, after: string, limit: number): Promise<readonly Deleted<T>[]> {
    const rows = await this.#context.database.query(this.#sql.listDeleted, [vault, nameKey(after), listLimit(limit)]);
    const deleted: Deleted<T>[] = [];
    for (const row of rows) deleted.push(await this.#deleted(row));
    return deleted;
  }

  /** Gives back what was deleted; undefined if there is nothing. */
  async recover(vault: string, name: string, audit: AuditLine): Promise<T | undefined> {
    return makeChange(this.#context, async (change) => {
      if ((await change.queries.run(this.#sql.recover, [vault, nameKey(name)])) === 0) return undefined;
      await change.audit(audit);
      const row = await change.first(this.#sql.latest, [vault, nameKey(name)]);
      return row === undefined ? undefined : this.#verifiedIn(change, row);
    });
  }

  /** Destroys what was deleted, with all versions; false if there is nothing. */
  async purge(vault: string, name: string, audit: AuditLine): Promise<boolean> {
    return makeChange(this.#context, async (change) => {
      if ((await change.queries.run(this.#sql.purge, [vault, nameKey(name)])) === 0) return false;
      await change.audit(audit);
      return true;
    });
  }

  /** Destroys what could be recovered until now. @returns how many */
  async purgeExpired(): Promise<number> {
    for (let purged = 0; ;) {
      const now = seconds(this.#context);
      const batch = await makeChange(this.#context, async (change) => {
        const rows = await change.queries.query(this.#sql.expired, [now, PURGE_BATCH]);
        for (const row of rows) {
          await change.queries.run(this.#sql.purgeById, [integer(row, "id")]);
          await change.audit(
            ownLine(this.#context, {
              operation: `${this.#kind.collection}/purge`,
              vault: text(row, "vault"),
              name: text(row, "name"),
              reason: `deleted more than ${RECOVERABLE_DAYS} days ago`,
            }),
          );
        }
        return rows.length;
      });
      purged += batch;
      if (batch < PURGE_BATCH) return purged;
    }
  }

  /**
   * All versions with what is sealed in them, sealed for any database with the same master key. Undefined if there is no such name.
   * @throws {KeyvaultError} ERR_KEYVAULT_LIMIT for more than a backup can hold
   */
  async backup(vault: string, name: string, audit: AuditLine, kind: VaultKind): Promise<Uint8Array | undefined> {
    const content = await makeChange(this.#context, async (change) => {
      const named = await this.#nameRow(change, vault, name);
      if (named === undefined || named["deleted"] !== null) return undefined;
      const versions: { item: T; secret: Uint8Array }[] = [];
      const size = await change.first(this.#sql.sizeOfVersions, [integer(named, "id")]);
      // Before all of it is read and opened; what is not counted here is found out when it is written.
      requireBackupRoom(text(named, "name"), size === undefined ? 0 : integer(size, "size"));
      for (const row of await change.queries.query(this.#sql.allVersions, [integer(named, "id")])) {
        const item = this.#item(row);
        versions.push({ item, secret: await this.#openIn(change, row, item) });
      }
      const columns = Object.fromEntries(this.#kind.nameColumns.map((column) => [column, named[column] ?? null])) as NameColumns;
      return { origin: { vault, kind }, name: text(named, "name"), columns, versions };
    });
    if (content === undefined) return undefined;
    const backup = await encodeBackup(this.#context.ring, this.#kind.noun, content);
    for (const { secret } of content.versions) secret.fill(0);
    // The line before the answer: nothing leaves that the audit does not know of.
    await makeChange(this.#context, (change) => change.audit({ ...audit, name: content.name }));
    return backup;
  }

  /** Puts the name of a backup with all its versions into a vault. @param check throws for a version, or the vault that it is from, that cannot be there */
  async restore(vault: string, backup: Uint8Array, audit: AuditLine, check?: (item: T, origin: BackupOrigin) => void): Promise<T> {
    const content = await decodeBackup<T>(this.#context.ring, this.#kind.noun, backup);
    try {
      for (const { item } of content.versions) check?.(item, content.origin);
      await this.#requireNameRoom(vault, content.name);
      return await makeChange(this.#context, async (change) => {
        const present = await this.#nameRow(change, vault, content.name);
        if (present !== undefined && present["deleted"] !== null) throw deletedConflict(this.#kind.noun, text(present, "name"));
        if (present !== undefined) {
          const message = `${this.#kind.noun} ${text(present, "name")} exists in this vault; a backup does not replace it.`;
          throw new KeyvaultError("ERR_KEYVAULT_CONFLICT", message, { hint: "Restore into another vault, or delete and purge what is there." });
        }
        const values = this.#kind.nameColumns.map((column) => content.columns[column] ?? null);
        const id = await this.#insertName(change, vault, content.name, values);
        let latest: T | undefined;
        for (const { item, secret } of content.versions) latest = await this.#insertVersion(change, id, { ...item, vault, name: content.name }, secret);
        if (latest === undefined) throw new KeyvaultError("ERR_KEYVAULT_BAD_PARAMETER", "The backup has no versions.");
        await change.audit({ ...audit, name: content.name, version: latest.version });
        return latest;
      });
    } finally {
      for (const { secret } of content.versions) secret.fill(0);
    }
  }

  /** Puts a version from elsewhere into the transaction of a migration, with the dates and the version that it has. */
  async carryOver(change: Change, item: T, secret: Uint8Array, deleted: { readonly deleted: number; readonly purge: number } | undefined): Promise<void> {
    const present = await this.#nameRow(change, item.vault, item.name);
    const id = present === undefined ? await this.#insertName(change, item.vault, item.name, []) : integer(present, "id");
    await this.#insertVersion(change, id, item, secret);
    if (present === undefined && deleted !== undefined) {
      await change.queries.run(this.#sql.delete, [deleted.deleted, deleted.purge, item.vault, nameKey(item.name)]);
    }
  }

  /**
   * Seals again what `keyId` seals, in transactions of a few records.
   * @returns how many; what does not open is left as it is, and said in the log
   */
  async reseal(keyId: number): Promise<number> {
    let count = 0;
    for (let after = 0, size = RESEAL_BATCH; ;) {
      const rows = await this.#context.database.query(this.#sql.underKey, [keyId, after, size]);
      const last = rows.at(-1);
      if (last === undefined) return count;
      const opened = await this.#openBatch(rows);
      try {
        count += await this.#resealBatch(opened);
      } catch (error) {
        // Others write what this reads, on a server with replicas. The fewer records, the sooner it gets through between them.
        if (!(error instanceof StorageError) || error.code !== "ERR_STORAGE_CONFLICT" || size === 1) throw error;
        size = Math.ceil(size / 4);
        continue;
      } finally {
        for (const { secret } of opened) secret.fill(0);
      }
      after = integer(last, "sequence");
    }
  }

  /** Outside of a transaction, which would have to wait for all that others do meanwhile. */
  async #openBatch(rows: readonly Row[]): Promise<readonly Opened<T>[]> {
    const opened: Opened<T>[] = [];
    for (const row of rows) {
      const item = this.#item(row);
      const sealed = bytes(row, "sealed");
      const secret = await this.#tryOpen(sealed, item);
      if (secret !== undefined) opened.push({ item, sealed, sequence: integer(row, "sequence"), secret });
      else {
        const { vault, name, version } = item;
        this.#context.logger.log("error", "a record does not open and keeps its wrapping key", { collection: this.#kind.collection, vault, name, version });
      }
    }
    return opened;
  }

  async #resealBatch(opened: readonly Opened<T>[]): Promise<number> {
    return makeChange(this.#context, async (change) => {
      let count = 0;
      for (const { item, sealed, sequence, secret } of opened) {
        const again = await change.seal(secret, this.#place(item));
        // Only what is as it was read: who has changed it meanwhile has sealed it again.
        count += await change.queries.run(this.#sql.reseal, [again.sealed, again.keyId, sequence, sealed]);
      }
      return count;
    });
  }

  async #row(queries: Queries, vault: string, name: string, version: string | undefined): Promise<Row | undefined> {
    const parameters = [vault, nameKey(name)];
    if (version === undefined) return (await queries.query(this.#sql.latest, parameters))[0];
    // Anything may stand in a path; what is no version has no row, and is no text that every engine takes.
    if (!VERSION.test(version)) return undefined;
    return (await queries.query(this.#sql.byVersion, [...parameters, version.toLowerCase()]))[0];
  }

  async #insertName(change: Change, vault: string, name: string, values: readonly SqlValue[]): Promise<number> {
    const row = await change.first(values.length === 0 ? this.#sql.insertName : this.#sql.restoreName, [vault, nameKey(name), name, ...values]);
    if (row === undefined) throw new KeyvaultError("ERR_KEYVAULT_STORE", `${this.#context.database.name}: the database gave no id for ${name}`);
    return integer(row, "id");
  }

  async #insertVersion(change: Change, name: number, item: T, secret: Uint8Array): Promise<T> {
    const { sealed, keyId } = await change.seal(secret, this.#place(item));
    await change.queries.run(this.#sql.insertVersion, [...this.#values(item), sealed, keyId, name]);
    this.#sealed.set(item, sealed);
    return item;
  }

  /** @throws {KeyvaultError} ERR_KEYVAULT_CONFLICT if what has the name is deleted */
  async #undeletedRow(change: Change, vault: string, name: string): Promise<Row | undefined> {
    const row = await this.#nameRow(change, vault, name);
    if (row !== undefined && row["deleted"] !== null) throw deletedConflict(this.#kind.noun, text(row, "name"));
    return row;
  }

  async #nameRow(change: Change, vault: string, name: string): Promise<Row | undefined> {
    return change.first(this.#sql.name, [vault, nameKey(name)]);
  }

  /** Outside of the transaction: replicas that race for the last place may take one each, and do not have to wait for one another at every new name. */
  async #requireNameRoom(vault: string, name: string): Promise<Row | undefined> {
    const { database } = this.#context;
    const [present] = await database.query(this.#sql.name, [vault, nameKey(name)]);
    if (present !== undefined) return present;
    const [row] = await database.query(this.#sql.countNames, [vault]);
    if (row !== undefined && integer(row, "count") >= MAX_NAMES)
      throw limitReached(`The vault has ${MAX_NAMES} ${this.#kind.collection}, deleted ones included`);
    return undefined;
  }

  async #requireVersionRoom(queries: Queries, id: number, name: string): Promise<void> {
    const [row] = await queries.query(this.#sql.countVersions, [id]);
    if (row !== undefined && integer(row, "count") >= MAX_VERSIONS) throw limitReached(`${this.#kind.noun} ${name} has ${MAX_VERSIONS} versions`);
  }

  async #openIn(change: Change, row: Row, item: T): Promise<Uint8Array> {
    try {
      return await change.open(bytes(row, "sealed"), integer(row, "wrapping_key"), this.#place(item));
    } catch (error) {
      throw isUnreadable(error) ? this.#unreadable(item, error) : error;
    }
  }

  /** Undefined if the bytes do not open as this item. */
  async #tryOpen(sealed: Uint8Array, item: T): Promise<Uint8Array | undefined> {
    try {
      return await this.#context.ring.open(sealed, this.#place(item));
    } catch (error) {
      if (isUnreadable(error)) return undefined;
      throw error;
    }
  }

  #unreadable(item: T, cause?: unknown): KeyvaultError {
    const what = `${this.#kind.noun.toLowerCase()} ${item.vault}/${item.name}/${item.version}`;
    return new KeyvaultError("ERR_KEYVAULT_STORE", `${this.#context.database.name}: ${what} does not open: its row is not as this service wrote it`, {
      cause,
      hint: "Somebody has changed the database. Delete and purge the key or secret, and restore it from a backup.",
    });
  }

  /**
   * The name that binds a sealed part to its version and to everything that decides about its use. Who can write the database but has no master key can neither copy
   * a secret to another name nor loosen the policy it is released under, nor enable what was disabled.
   */
  #place(item: T): string {
    const { noun } = this.#kind;
    const bound = [noun, item.vault, item.name, item.version, item.enabled, item.notBefore ?? null, item.expires ?? null, ...this.#kind.bound(item)];
    return `${noun.toLowerCase()} ${item.vault}/${item.name}/${item.version}, attributes sha256:${toHex(sha256(encodeUtf8(JSON.stringify(bound))))}`;
  }

  /** In the order of {@link COMMON_COLUMNS} and the kind's own. */
  #values(item: T): readonly SqlValue[] {
    const { version, enabled, notBefore, expires, created, updated, tags } = item;
    return [version, Number(enabled), notBefore ?? null, expires ?? null, created, updated, JSON.stringify(tags), ...this.#kind.toColumns(item)];
  }

  #item(row: Row): T {
    return this.#kind.fromRow(commonOf(row), row);
  }

  /** The item of a row that is as this service wrote it. @throws {KeyvaultError} as {@link open} */
  async #verified(row: Row): Promise<T> {
    const item = this.#item(row);
    this.#sealed.set(item, bytes(row, "sealed"));
    (await this.open(item)).fill(0);
    return item;
  }

  async #verifiedAll(rows: readonly Row[]): Promise<readonly T[]> {
    const items: T[] = [];
    for (const row of rows) items.push(await this.#verified(row));
    return items;
  }

  /** As {@link #verified}, inside of a transaction. */
  async #verifiedIn(change: Change, row: Row): Promise<T> {
    const item = this.#item(row);
    (await this.#openIn(change, row, item)).fill(0);
    return item;
  }

  async #deleted(row: Row): Promise<Deleted<T>> {
    const item = this.#item(row);
    const secret = await this.#tryOpen(bytes(row, "sealed"), item);
    if (secret === undefined) throw this.#unreadable(item);
    secret.fill(0);
    return { item, deleted: integer(row, "deleted"), purge: integer(row, "purge") };
  }
}

/** What a row says of every item. */
export function commonOf(row: Row): Item {
  return {
    vault: text(row, "vault"),
    name: text(row, "name"),
    version: text(row, "version"),
    enabled: integer(row, "enabled") === 1,
    notBefore: optionalInteger(row, "not_before"),
    expires: optionalInteger(row, "expires"),
    created: integer(row, "created"),
    updated: integer(row, "updated"),
    tags: (asObject(parseJson(text(row, "tags"))) ?? {}) as Readonly<Record<string, string>>,
  };
}

function isUnreadable(error: unknown): boolean {
  return error instanceof SealingError && error.code === "ERR_SEALING_RECORD";
}

function limitReached(message: string): KeyvaultError {
  return new KeyvaultError("ERR_KEYVAULT_LIMIT", `${message}; there is no room for more.`, { hint: "Purge what is not needed, or use another name or vault." });
}

function listLimit(limit: number): number {
  return Math.max(0, Math.min(limit, MAX_LIST));
}

/** The statements of a kind: made once, so that the engine prepares each once. Only names of tables and columns of this program go into their text. */
function statements<T extends Item>({ names, versions, columns, nameColumns, largeColumns }: ShelfKind<T>) {
  const own = [...COMMON_COLUMNS, ...columns];
  const shown = own.map((column) => `v.${column}`).join(", ");
  const select = `SELECT n.vault, n.name, v.sequence, v.sealed, v.wrapping_key, ${shown}`;
  const joined = `FROM ${names} n JOIN ${versions} v ON v.object = n.id`;
  const isLatest = `v.sequence = (SELECT max(sequence) FROM ${versions} WHERE object = n.id)`;
  const marks = (count: number): string => Array(count).fill("?").join(", ");
  return {
    latest: `${select} ${joined} WHERE n.vault = ? AND n.name_key = ? AND n.deleted IS NULL ORDER BY v.sequence DESC LIMIT 1`,
    byVersion: `${select} ${joined} WHERE n.vault = ? AND n.name_key = ? AND n.deleted IS NULL AND v.version = ?`,
    list: `${select} ${joined} WHERE n.vault = ? AND n.deleted IS NULL AND n.name_key > ? AND ${isLatest} ORDER BY n.name_key LIMIT ?`,
    listVersions: `${select} ${joined} WHERE n.vault = ? AND n.name_key = ? AND n.deleted IS NULL AND v.version > ? ORDER BY v.version LIMIT ?`,
    deleted: `${select}, n.deleted, n.purge ${joined} WHERE n.vault = ? AND n.name_key = ? AND n.deleted IS NOT NULL ORDER BY v.sequence DESC LIMIT 1`,
    listDeleted: `${select}, n.deleted, n.purge ${joined} WHERE n.vault = ? AND n.deleted IS NOT NULL AND n.name_key > ? AND ${isLatest} ORDER BY n.name_key LIMIT ?`,
    allVersions: `${select} ${joined} WHERE n.id = ? ORDER BY v.sequence`,
    sizeOfVersions: `SELECT sum(${["sealed", ...largeColumns].map((column) => `coalesce(length(${column}), 0)`).join(" + ")}) AS size FROM ${versions} WHERE object = ?`,
    underKey: `${select} ${joined} WHERE v.wrapping_key = ? AND v.sequence > ? ORDER BY v.sequence LIMIT ?`,
    name: `SELECT ${["id", "name", "deleted", ...nameColumns].join(", ")} FROM ${names} WHERE vault = ? AND name_key = ?`,
    countNames: `SELECT count(*) AS count FROM ${names} WHERE vault = ?`,
    countVersions: `SELECT count(*) AS count FROM ${versions} WHERE object = ?`,
    insertName: `INSERT INTO ${names} (vault, name_key, name) VALUES (?, ?, ?) RETURNING id`,
    restoreName: `INSERT INTO ${names} (${["vault", "name_key", "name", ...nameColumns].join(", ")}) VALUES (${marks(3 + nameColumns.length)}) RETURNING id`,
    insertVersion: `INSERT INTO ${versions} (${[...own, "sealed", "wrapping_key", "object"].join(", ")}) VALUES (${marks(own.length + 3)})`,
    update: `UPDATE ${versions} SET ${[...own, "sealed", "wrapping_key"].map((column) => `${column} = ?`).join(", ")} WHERE sequence = ?`,
    reseal: `UPDATE ${versions} SET sealed = ?, wrapping_key = ? WHERE sequence = ? AND sealed = ?`,
    delete: `UPDATE ${names} SET deleted = ?, purge = ? WHERE vault = ? AND name_key = ? AND deleted IS NULL`,
    recover: `UPDATE ${names} SET deleted = NULL, purge = NULL WHERE vault = ? AND name_key = ? AND deleted IS NOT NULL`,
    purge: `DELETE FROM ${names} WHERE vault = ? AND name_key = ? AND deleted IS NOT NULL`,
    expired: `SELECT id, vault, name FROM ${names} WHERE purge <= ? ORDER BY purge LIMIT ?`,
    purgeById: `DELETE FROM ${names} WHERE id = ?`,
  } as const;
}
