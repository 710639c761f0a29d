import { createSecretKey, type KeyObject } from "node:crypto";
import { concatBytes, encodeUtf8, equalBytes, type Clock, type Random } from "@sealpod/core";
import { violatedConstraint, type Database, type Migration, type Queries, type Row } from "@sealpod/storage";
import { decrypt, encrypt, NONCE_LENGTH, OVERHEAD } from "./aead.ts";
import { SealingError } from "./errors.ts";
import type { KeyRing, MasterKeyProvider, WrappingKey } from "./types.ts";

/** AES-256. */
const KEY_LENGTH = 32;
/** First byte of a record. */
const RECORD_VERSION = 1;
/** First byte of a backup. */
const BACKUP_VERSION = 2;
/** Version and id of the wrapping key. */
const RECORD_HEADER = 5;
/** Version and length of the wrapped key. */
const BACKUP_HEADER = 3;
/** What the id has room for. */
const MAX_ID = 0xffff_ffff;
/** Times that a change of all keys starts over because others changed them meanwhile: rotations come in days. */
const ATTEMPTS = 5;

/** Table of the ring. Records that are sealed name their key: `… NOT NULL REFERENCES wrapping_keys (id)`. */
export const KEY_RING_MIGRATION: Migration = {
  sql: `
  CREATE TABLE wrapping_keys (
    id {int} PRIMARY KEY CHECK (id BETWEEN 1 AND ${MAX_ID}),
    state TEXT NOT NULL CHECK (state IN ('active', 'retired')),
    created {int} NOT NULL, retired {int},
    master TEXT NOT NULL, wrapped {blob} NOT NULL,
    CHECK ((state = 'retired') = (retired IS NOT NULL))
  ) {strict};
  CREATE UNIQUE INDEX one_active_wrapping_key ON wrapping_keys (state) WHERE state = 'active';
  `,
};

/** Options of {@link openKeyRing}. */
export interface KeyRingOptions {
  /** With the table of {@link KEY_RING_MIGRATION}. */
  readonly database: Database;
  readonly master: MasterKeyProvider;
  readonly random: Random;
  readonly clock: Clock;
}

interface Entry extends WrappingKey {
  readonly wrapped: Uint8Array;
}

/** The key of an entry as this process can open it. */
interface Wrapped {
  readonly master: string;
  readonly wrapped: Uint8Array;
}

/** The active key, opened. */
interface Active {
  readonly id: number;
  readonly key: KeyObject;
  readonly header: Uint8Array;
}

/**
 * Opens the ring of a database, makes its first wrapping key if there is none, and proves that the master key opens the active one.
 * @throws {SealingError} ERR_SEALING_MASTER_KEY, ERR_SEALING_PKCS11, ERR_SEALING_RING
 * @throws {StorageError}
 */
export async function openKeyRing(options: KeyRingOptions): Promise<KeyRing> {
  const { database, master, random, clock } = options;
  let entries = await readEntries(database);
  if (entries.length === 0) {
    // Made outside of the transaction: the master key may be slow. Another replica may be quicker, and then this one goes unused.
    const key = random.bytes(KEY_LENGTH);
    const wrapped = await master.wrap(key, placeOf(1));
    await database.transaction(async (queries) => {
      if ((await readEntries(queries)).length === 0) await insertActive(queries, { id: 1, wrapped, master: master.id, created: now(clock) });
    });
    entries = await readEntries(database);
  }
  const ring = new StoredKeyRing(options, entries);
  await ring.adopt();
  return ring;
}

class StoredKeyRing implements KeyRing {
  readonly #database: Database;
  readonly #random: Random;
  readonly #clock: Clock;
  #master: MasterKeyProvider;
  #entries: readonly Entry[];
  /** As they were before others changed the master key: this process goes on with its own until it is restarted. */
  readonly #earlier = new Map<number, Wrapped>();
  /** Keys by id, opened or about to be. An id names one key for ever. */
  readonly #opened = new Map<number, Promise<KeyObject>>();
  #active: Active | undefined;

  constructor({ database, master, random, clock }: KeyRingOptions, entries: readonly Entry[]) {
    this.#database = database;
    this.#master = master;
    this.#random = random;
    this.#clock = clock;
    this.#entries = entries;
  }

  get keys(): readonly WrappingKey[] {
    return this.#entries.map(({ id, state, created, master }) => ({ id, state, created, master }));
  }

  seal(plaintext: Uint8Array, place: string): { readonly sealed: Uint8Array; readonly keyId: number } {
    const active = this.#active;
    if (active === undefined) throw new SealingError("ERR_SEALING_RING", "there is no active wrapping key");
    const { id, key, header } = active;
    const sealed = encrypt(key, this.#random.bytes(NONCE_LENGTH), plaintext, contextOf(header, place));
    return { sealed: concatBytes(header, sealed), keyId: id };
  }

  async open(sealed: Uint8Array, place: string): Promise<Uint8Array> {
    if (sealed.length < RECORD_HEADER + OVERHEAD || sealed[0] !== RECORD_VERSION) {
      throw noRecord(place, `it has ${sealed.length} bytes and version ${sealed[0] ?? "missing"}, expected version ${RECORD_VERSION}`);
    }
    const header = sealed.subarray(0, RECORD_HEADER);
    const id = new DataView(header.buffer, header.byteOffset).getUint32(1);
    // Another process may have made it.
    if (!this.#entries.some((entry) => entry.id === id)) await this.reload();
    const entry = this.#entries.find((one) => one.id === id);
    if (entry === undefined) throw noRecord(place, `its wrapping key ${id} is gone`);
    const key = await this.#open(entry);
    try {
      return decrypt(key, sealed.subarray(RECORD_HEADER), contextOf(header, place));
    } catch (cause) {
      throw noRecord(place, "its bytes were changed, or belong to another place", cause);
    }
  }

  async rotate(): Promise<WrappingKey> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      await this.reload();
      const master = this.#master;
      const id = Math.max(...this.#entries.map((entry) => entry.id)) + 1;
      if (id > MAX_ID) throw new SealingError("ERR_SEALING_RING", "there are no more ids for wrapping keys");
      const key = this.#random.bytes(KEY_LENGTH);
      const created = now(this.#clock);
      const wrapped = await master.wrap(key, placeOf(id));
      const done = await this.#database.transaction(async (queries) => {
        const entries = await readEntries(queries);
        // Another process may have made a key of that id, and the master key may have been changed: what is wrapped here would be lost to all others.
        if (entries.some((entry) => entry.id >= id)) return false;
        for (const entry of entries) if (entry.state === "active") this.#checkMaster(entry);
        await queries.run("UPDATE wrapping_keys SET state = 'retired', retired = ? WHERE state = 'active'", [created]);
        await insertActive(queries, { id, wrapped, master: master.id, created });
        return true;
      });
      if (!done) continue;
      await this.reload();
      return { id, state: "active", created, master: master.id };
    }
    throw keptChanging();
  }

  async reload(): Promise<void> {
    const entries = await readEntries(this.#database);
    for (const entry of this.#entries) if (entry.master === this.#master.id) this.#earlier.set(entry.id, entry);
    this.#entries = entries;
    await this.adopt();
  }

  /** Takes the active key of the entries as the one that seals, and forgets those that are gone. */
  async adopt(): Promise<void> {
    const entry = this.#entries.find(({ state }) => state === "active");
    if (entry === undefined) throw new SealingError("ERR_SEALING_RING", `none of the ${this.#entries.length} wrapping keys is active`);
    for (const map of [this.#opened, this.#earlier]) for (const id of map.keys()) if (!this.#entries.some((one) => one.id === id)) map.delete(id);
    const key = await this.#open(entry);
    // What was slower must not undo what came later.
    if (this.#active !== undefined && this.#active.id >= entry.id) return;
    const header = new Uint8Array(RECORD_HEADER);
    header[0] = RECORD_VERSION;
    new DataView(header.buffer).setUint32(1, entry.id);
    this.#active = { id: entry.id, key, header };
  }

  async changeMaster(next: MasterKeyProvider): Promise<void> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      await this.reload();
      const before = this.#entries;
      const rewrapped: { readonly id: number; readonly wrapped: Uint8Array }[] = [];
      for (const entry of before) {
        const wrapped = await next.wrap((await this.#open(entry)).export(), placeOf(entry.id));
        rewrapped.push({ id: entry.id, wrapped });
      }
      const done = await this.#database.transaction(async (queries) => {
        if (!sameEntries(await readEntries(queries), before)) return false;
        for (const { id, wrapped } of rewrapped) await queries.run("UPDATE wrapping_keys SET wrapped = ?, master = ? WHERE id = ?", [wrapped, next.id, id]);
        return true;
      });
      if (!done) continue;
      this.#master = next;
      await this.reload();
      return;
    }
    throw keptChanging();
  }

  async removeUnused(age: number): Promise<readonly number[]> {
    const latest = now(this.#clock) - age;
    const removed: number[] = [];
    for (const row of await this.#database.query("SELECT id FROM wrapping_keys WHERE state = 'retired' AND retired <= ? ORDER BY id", [latest])) {
      const id = row["id"] as number;
      try {
        if ((await this.#database.run("DELETE FROM wrapping_keys WHERE id = ? AND state = 'retired' AND retired <= ?", [id, latest])) > 0) removed.push(id);
      } catch (error) {
        // Records are sealed with it.
        if (violatedConstraint(error) !== "foreign-key") throw error;
      }
    }
    await this.reload();
    return removed;
  }

  async sealBackup(plaintext: Uint8Array, place: string): Promise<Uint8Array> {
    const key = this.#random.bytes(KEY_LENGTH);
    const wrapped = await this.#master.wrap(key, BACKUP_PLACE);
    const start = new Uint8Array(BACKUP_HEADER);
    start[0] = BACKUP_VERSION;
    new DataView(start.buffer).setUint16(1, wrapped.length);
    const header = concatBytes(start, wrapped);
    return concatBytes(header, encrypt(key, this.#random.bytes(NONCE_LENGTH), plaintext, contextOf(header, place)));
  }

  async openBackup(sealed: Uint8Array, place: string): Promise<Uint8Array> {
    const length = sealed.length < BACKUP_HEADER ? 0 : new DataView(sealed.buffer, sealed.byteOffset).getUint16(1);
    if (sealed[0] !== BACKUP_VERSION || sealed.length < BACKUP_HEADER + length + OVERHEAD) {
      throw noRecord(place, `it has ${sealed.length} bytes and version ${sealed[0] ?? "missing"}, expected a backup of version ${BACKUP_VERSION}`);
    }
    const header = sealed.subarray(0, BACKUP_HEADER + length);
    const key = await this.#master.unwrap(header.subarray(BACKUP_HEADER), BACKUP_PLACE);
    try {
      return decrypt(key, sealed.subarray(header.length), contextOf(header, place));
    } catch (cause) {
      throw noRecord(place, "its bytes were changed, or belong to another place", cause);
    }
  }

  async #open(entry: Entry): Promise<KeyObject> {
    const found = this.#opened.get(entry.id);
    if (found !== undefined) return found;
    const opening = this.#unwrap(entry);
    this.#opened.set(entry.id, opening);
    // A token that is away for a moment is asked again.
    opening.catch(() => this.#opened.delete(entry.id));
    return opening;
  }

  async #unwrap(entry: Entry): Promise<KeyObject> {
    const earlier = this.#earlier.get(entry.id);
    const { wrapped } = entry.master !== this.#master.id && earlier?.master === this.#master.id ? earlier : this.#checkMaster(entry);
    const key = await this.#master.unwrap(wrapped, placeOf(entry.id));
    if (key.length !== KEY_LENGTH) throw new SealingError("ERR_SEALING_RING", `the wrapping key ${entry.id} has ${key.length} bytes, expected ${KEY_LENGTH}`);
    return createSecretKey(key);
  }

  #checkMaster(entry: Entry): Entry {
    if (entry.master === this.#master.id) return entry;
    throw new SealingError(
      "ERR_SEALING_MASTER_KEY",
      `the wrapping key ${entry.id} is wrapped by the master key ${entry.master}, this service has ${this.#master.id}`,
      {
        details: { found: this.#master.id, expected: entry.master },
        hint: "Start the service with the master key that the database was changed to.",
      },
    );
  }
}

/** Binds every backup key; what a backup is of is bound by the key itself. */
const BACKUP_PLACE = "backup key";

/** Binds a wrapped key to its row. */
function placeOf(id: number): string {
  return `wrapping key ${id}`;
}

function contextOf(header: Uint8Array, place: string): Uint8Array {
  return concatBytes(header, encodeUtf8(place));
}

function now(clock: Clock): number {
  return Math.trunc(clock.now());
}

async function readEntries(queries: Queries): Promise<readonly Entry[]> {
  const rows = await queries.query("SELECT id, state, created, master, wrapped FROM wrapping_keys ORDER BY id");
  return rows.map((row: Row) => ({
    id: row["id"] as number,
    state: row["state"] as Entry["state"],
    created: row["created"] as number,
    master: row["master"] as string,
    wrapped: row["wrapped"] as Uint8Array,
  }));
}

async function insertActive(queries: Queries, { id, created, master, wrapped }: Omit<Entry, "state">): Promise<void> {
  await queries.run("INSERT INTO wrapping_keys (id, state, created, master, wrapped) VALUES (?, 'active', ?, ?, ?)", [id, created, master, wrapped]);
}

function sameEntries(left: readonly Entry[], right: readonly Entry[]): boolean {
  return (
    left.length === right.length &&
    left.every((entry, at) => {
      const other = right[at];
      return other !== undefined && entry.id === other.id && entry.master === other.master && equalBytes(entry.wrapped, other.wrapped);
    })
  );
}

function noRecord(place: string, why: string, cause?: unknown): SealingError {
  return new SealingError("ERR_SEALING_RECORD", `the sealed record ${place} does not open: ${why}`, cause === undefined ? {} : { cause });
}

function keptChanging(): SealingError {
  return new SealingError("ERR_SEALING_RING", `the wrapping keys were changed by others ${ATTEMPTS} times in a row`, { hint: "Try again." });
}
