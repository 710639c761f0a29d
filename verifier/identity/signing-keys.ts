import { createPrivateKey, createPublicKey, generateKeyPair, type KeyObject } from "node:crypto";
import { promisify } from "node:util";
import { decodeUtf8, encodeUtf8, messageOf, sha256, toBase64url, type Clock } from "@sealpod/core";
import type { KeyRing, MasterKey } from "@sealpod/sealing";
import type { Database, Queries, Row } from "@sealpod/storage";
import { writeAudit } from "./audit.ts";
import { IdentityError } from "./errors.ts";
import type { PrivateSigningKey, VerificationKey } from "./jwt.ts";

/** Who signs with the key: a cluster signs service-account tokens, the tenants sign access tokens. */
export type KeyPurpose = "cluster" | "tenant";

/** A key that is published. */
export interface PublishedKey extends VerificationKey {
  readonly algorithm: "RS256";
  readonly purpose: KeyPurpose;
  /** Name of the cluster; {@link DEFAULT_SCOPE} for tenants, who have one set of keys. */
  readonly scope: string;
  /** `next` signs nothing yet, `retired` signs nothing any more: its tokens still verify. */
  readonly state: "active" | "next" | "retired";
  /** Milliseconds since 1970. */
  readonly created: number;
  /** Milliseconds since 1970; it signs from then until the next one does. */
  readonly signsFrom: number;
}

/** The key that signs tokens with RS256 now; its `kid` is the base64url SHA-256 of the DER SubjectPublicKeyInfo, as kube-apiserver names its keys. */
export interface SigningKey extends PublishedKey, PrivateSigningKey {}

/** When keys change; milliseconds. */
export interface KeySchedule {
  /** For how long a key signs. */
  readonly every: number;
  /** For how long a key is published before it signs: longer than anybody keeps a key set. */
  readonly overlap: number;
}

/** A step of {@link SigningKeys.rotate}. */
export type KeyStep = "publish-key" | "erase-key" | "remove-key";

/** The one scope of tenants, and the cluster of who names none. */
export const DEFAULT_SCOPE = "default";
/** 90 days, published a day ahead. */
export const DEFAULT_SCHEDULE: KeySchedule = { every: 90 * 86_400_000, overlap: 86_400_000 };
/** Milliseconds for which others may keep a key set: what a `cache-control` of the key sets says, and the least time that a key is published before it signs. */
export const KEYS_CACHE_TIME: number = 10 * 60 * 1000;
/** Milliseconds. The longest token of a cluster lives a day; clocks differ. */
const RETAIN: number = 25 * 60 * 60 * 1000;
/** Milliseconds for which a retired key could still sign: clocks of replicas differ. */
const REPLICA_SKEW: number = 5 * 60 * 1000;
/** Milliseconds between two looks at the table that a strange `kid` can cause. */
const LOOK_AGAIN = 5000;

const generateRsa = promisify(generateKeyPair);

/** The keys of one purpose and scope. */
interface KeySet {
  readonly purpose: KeyPurpose;
  readonly scope: string;
}

interface KeyEntry {
  readonly kid: string;
  readonly purpose: KeyPurpose;
  readonly scope: string;
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject | undefined;
  readonly created: number;
  readonly signsFrom: number;
}

/**
 * The signing keys, in memory as the database had them at the last look. Which one signs is a matter of the time alone, so that all replicas change at once without a word
 * between them; a new one stands in the table for long before it signs.
 */
export class SigningKeys {
  readonly #database: Database;
  readonly #ring: KeyRing;
  readonly #clock: Clock;
  readonly #schedule: KeySchedule;
  readonly #sets: readonly KeySet[];
  #entries: readonly KeyEntry[] = [];
  #looked = Number.NEGATIVE_INFINITY;

  constructor(database: Database, ring: KeyRing, clock: Clock, schedule: KeySchedule, clusters: readonly string[]) {
    this.#database = database;
    this.#ring = ring;
    this.#clock = clock;
    this.#schedule = schedule;
    this.#sets = [{ purpose: "tenant", scope: DEFAULT_SCOPE }, ...clusters.map((scope) => ({ purpose: "cluster", scope }) as const)];
  }

  /**
   * Makes what is missing, and reads all. @param legacy opens keys of schema 1
   * @throws {IdentityError} ERR_IDENTITY_STORE
   */
  async open(legacy: MasterKey | undefined): Promise<void> {
    await this.#carryOver(legacy);
    for (const set of this.#sets) {
      const [present] = await this.#database.query("SELECT kid FROM token_keys WHERE purpose = ? AND scope = ? LIMIT 1", [set.purpose, set.scope]);
      if (present !== undefined) continue;
      const made = await this.#make(set);
      const now = this.#clock.now();
      await this.#database.transaction(async (queries) => {
        const [other] = await queries.query("SELECT kid FROM token_keys WHERE purpose = ? AND scope = ? LIMIT 1", [set.purpose, set.scope]);
        if (other !== undefined) return;
        await insertKey(queries, set, made, now, now);
        await writeAudit(queries, { time: now, actor: "service", action: "key.create", tenant: "", target: keyName(set, made.kid), detail: {} });
      });
    }
    await this.refresh();
    for (const set of this.#sets) this.current(set.purpose, set.scope);
  }

  /** Reads the table again, and opens what is new in it. */
  async refresh(): Promise<void> {
    this.#looked = this.#clock.now();
    const rows = await this.#database.query(
      "SELECT kid, purpose, scope, public_key, sealed, created, signs_from FROM token_keys ORDER BY signs_from DESC, id DESC",
    );
    const known = new Map(this.#entries.map((entry) => [entry.kid, entry]));
    const entries: KeyEntry[] = [];
    for (const row of rows) entries.push(await this.#entry(row, known.get(textOf(row, "kid"))));
    this.#entries = entries;
  }

  /** All published keys of a purpose and scope, the one that signs now first. @throws {IdentityError} ERR_IDENTITY_STORE if none can sign */
  current(purpose: KeyPurpose, scope: string): readonly [SigningKey, ...PublishedKey[]] {
    const now = this.#clock.now();
    const entries = this.#entries.filter((entry) => entry.purpose === purpose && entry.scope === scope);
    // Newest first. A clock that was set back behind all of them must not leave a service without key.
    const started = entries.findIndex((entry) => entry.signsFrom <= now && entry.privateKey !== undefined);
    const at = started === -1 ? entries.findLastIndex((entry) => entry.privateKey !== undefined) : started;
    const signer = entries[at];
    const privateKey = signer?.privateKey;
    if (signer === undefined || privateKey === undefined) {
      throw new IdentityError("ERR_IDENTITY_STORE", `the identity database has no ${purpose} signing key for ${JSON.stringify(scope)} that can sign`, {
        hint: "Start with the clusters that the service is configured for: their keys are made then.",
      });
    }
    const others = entries.filter((entry) => entry !== signer).map((entry) => published(entry, entries.indexOf(entry) < at ? "next" : "retired"));
    return [{ ...published(signer, "active"), privateKey }, ...others];
  }

  /** All published keys. */
  all(): readonly PublishedKey[] {
    return this.#sets.flatMap(({ purpose, scope }) =>
      [...this.current(purpose, scope)].map(({ kid, publicKey, algorithm, state, created, signsFrom }) => ({
        kid,
        publicKey,
        algorithm,
        purpose,
        scope,
        state,
        created,
        signsFrom,
      })),
    );
  }

  /** The published key with a name; another replica's new key is looked up in the table, now and then. */
  async find(purpose: KeyPurpose, scope: string, kid: string): Promise<PublishedKey | undefined> {
    const found = this.current(purpose, scope).find((key) => key.kid === kid);
    // Anybody can send strange names: the table is asked every few seconds at most.
    if (found !== undefined || Math.abs(this.#clock.now() - this.#looked) < LOOK_AGAIN) return found;
    await this.refresh();
    return this.current(purpose, scope).find((key) => key.kid === kid);
  }

  /**
   * Does what the schedule says is due: publishes the next key of each set, erases private halves that sign no more, removes keys whose tokens have all ended.
   * @returns what was done
   */
  async rotate(): Promise<readonly KeyStep[]> {
    const { every, overlap } = this.#schedule;
    const steps: KeyStep[] = [];
    for (const set of this.#sets) {
      const isDue = (newest: number): boolean => newest + every - overlap <= this.#clock.now();
      if (!isDue(await newestOf(this.#database, set))) continue;
      // Making a key takes a tenth of a second, too long inside of a transaction.
      const made = await this.#make(set);
      const isPublished = await this.#database.transaction(async (queries) => {
        const newest = await newestOf(queries, set);
        if (!isDue(newest)) return false;
        const now = this.#clock.now();
        const signsFrom = Math.max(newest + every, now + overlap);
        await insertKey(queries, set, made, now, signsFrom);
        await writeAudit(queries, { time: now, actor: "schedule", action: "key.publish", tenant: "", target: keyName(set, made.kid), detail: { signsFrom } });
        return true;
      });
      if (isPublished) steps.push("publish-key");
    }
    steps.push(...(await this.#retire()));
    if (steps.length > 0 || Math.abs(this.#clock.now() - this.#looked) >= KEYS_CACHE_TIME / 10) await this.refresh();
    return steps;
  }

  /**
   * Makes a new key on request.
   * @param when `overlap` publishes it now, and it signs after the overlap; `now` has it sign at once, when who has fetched the keys before does not know it yet
   * @param revoke removes all others of the set: after a theft. Their tokens verify no more
   * @throws {IdentityError} ERR_IDENTITY_NOT_FOUND, ERR_IDENTITY_CONFLICT if a next one is published already
   */
  async replace(purpose: KeyPurpose, scope: string, when: "now" | "overlap", revoke: boolean, actor: string): Promise<PublishedKey> {
    const set = this.#sets.find((item) => item.purpose === purpose && item.scope === scope);
    if (set === undefined) throw new IdentityError("ERR_IDENTITY_NOT_FOUND", `there are no ${purpose} keys named ${JSON.stringify(scope.slice(0, 100))}`);
    const made = await this.#make(set);
    await this.#database.transaction(async (queries) => {
      const now = this.#clock.now();
      const newest = await newestOf(queries, set);
      if (when === "overlap" && !revoke && newest > now) {
        throw new IdentityError("ERR_IDENTITY_CONFLICT", `the next ${purpose} key is published already, and signs from ${new Date(newest).toISOString()}`, {
          hint: "Wait for it, or have a new one sign at once (--now).",
        });
      }
      if (revoke) await queries.run("DELETE FROM token_keys WHERE purpose = ? AND scope = ?", [purpose, scope]);
      const signsFrom = when === "now" || revoke ? now : now + this.#schedule.overlap;
      await insertKey(queries, set, made, now, signsFrom);
      await writeAudit(queries, {
        time: now,
        actor,
        action: revoke ? "key.revoke-others" : "key.rotate",
        tenant: "",
        target: keyName(set, made.kid),
        detail: { signsFrom },
      });
    });
    await this.refresh();
    const found = this.current(purpose, scope).find(({ kid }) => kid === made.kid);
    if (found === undefined) throw new IdentityError("ERR_IDENTITY_STORE", `the new ${purpose} key is gone from the database`);
    return found;
  }

  /** Throws if a key signs for longer than the schedule allows, and none is on its way: for readiness. */
  check(): void {
    const late = this.#sets.find(({ purpose, scope }) => {
      const [signer, ...others] = this.current(purpose, scope);
      return signer.signsFrom + this.#schedule.every < this.#clock.now() && !others.some(({ state }) => state === "next");
    });
    if (late !== undefined) throw new IdentityError("ERR_IDENTITY_STORE", `the ${late.purpose} key of ${late.scope} should have been replaced by now`);
  }

  async #retire(): Promise<readonly KeyStep[]> {
    return this.#database.transaction(async (queries) => {
      const now = this.#clock.now();
      const steps: KeyStep[] = [];
      for (const set of this.#sets) {
        const rows = await queries.query(
          "SELECT kid, signs_from, wrapping_key FROM token_keys WHERE purpose = ? AND scope = ? ORDER BY signs_from DESC, id DESC",
          [set.purpose, set.scope],
        );
        for (const [at, row] of rows.entries()) {
          const successor = rows[at - 1];
          const since = successor === undefined ? Number.POSITIVE_INFINITY : numberOf(successor, "signs_from");
          const kid = textOf(row, "kid");
          if (since + RETAIN <= now) {
            await queries.run("DELETE FROM token_keys WHERE kid = ?", [kid]);
            steps.push("remove-key");
          } else if (since + REPLICA_SKEW <= now && row["wrapping_key"] !== null) {
            await queries.run("UPDATE token_keys SET sealed = NULL, wrapping_key = NULL WHERE kid = ?", [kid]);
            steps.push("erase-key");
          } else continue;
          await writeAudit(queries, {
            time: now,
            actor: "schedule",
            action: steps.at(-1) === "remove-key" ? "key.remove" : "key.erase",
            tenant: "",
            target: keyName(set, kid),
            detail: {},
          });
        }
      }
      return steps;
    });
  }

  async #entry(row: Row, known: KeyEntry | undefined): Promise<KeyEntry> {
    const kid = textOf(row, "kid");
    const purpose = textOf(row, "purpose") === "cluster" ? "cluster" : "tenant";
    const scope = textOf(row, "scope");
    const sealed = row["sealed"];
    if (known !== undefined && (known.privateKey !== undefined) === (sealed !== null)) return known;
    const publicKey = createPublicKey({ key: Buffer.from(bytesOf(row, "public_key")), format: "der", type: "spki" });
    const entry = { kid, purpose, scope, publicKey, created: numberOf(row, "created"), signsFrom: numberOf(row, "signs_from") } as const;
    if (!(sealed instanceof Uint8Array)) return { ...entry, privateKey: undefined };
    const pem = await this.#ring.open(sealed, keyPlace(entry, kid));
    const privateKey = createPrivateKey(decodeUtf8(pem));
    pem.fill(0);
    // Whoever can write to the database could otherwise publish a key of his own beside a genuine private half.
    if (!createPublicKey(privateKey).equals(publicKey))
      throw new IdentityError("ERR_IDENTITY_STORE", `the public and the private half of key ${kid} do not belong together`);
    return { ...entry, privateKey };
  }

  async #make(set: KeySet): Promise<MadeKey> {
    const { privateKey, publicKey } = await generateRsa("rsa", { modulusLength: 2048 });
    return this.#sealKey(set, privateKey, publicKey);
  }

  #sealKey(set: KeySet, privateKey: KeyObject, publicKey: KeyObject): MadeKey {
    const spki = publicKey.export({ type: "spki", format: "der" });
    const kid = toBase64url(sha256(spki));
    const { sealed, keyId } = this.#ring.seal(encodeUtf8(privateKey.export({ type: "pkcs8", format: "pem" }) as string), keyPlace(set, kid));
    return { kid, spki: new Uint8Array(spki), sealed, wrappingKey: keyId };
  }

  /** Seals the keys of schema 1 again, under the ring. In one transaction: whoever is killed on the way finds them as they were. */
  async #carryOver(legacy: MasterKey | undefined): Promise<void> {
    // Only SQLite had that schema; there the order of insertion is told by the row's number.
    const order = this.#database.dialect === "sqlite" ? "rowid" : "created";
    const rows = await this.#database.query(`SELECT purpose, kid, sealed, created FROM signing_keys ORDER BY ${order}`);
    if (rows.length === 0) return;
    if (legacy === undefined) {
      throw new IdentityError(
        "ERR_IDENTITY_STORE",
        "the identity database is of an older version, and its signing keys open with the bytes of its master key alone",
        {
          hint: "Start once with that master key from a file or a variable.",
        },
      );
    }
    const now = this.#clock.now();
    const carried = rows.map((row) => {
      const kid = textOf(row, "kid");
      const set: KeySet = { purpose: textOf(row, "purpose") === "cluster" ? "cluster" : "tenant", scope: DEFAULT_SCOPE };
      const privateKey = createPrivateKey(decodeUtf8(legacy.open(bytesOf(row, "sealed"), `signing key ${set.purpose} ${kid}`)));
      const made = this.#sealKey(set, privateKey, createPublicKey(privateKey));
      if (made.kid !== kid) throw new IdentityError("ERR_IDENTITY_STORE", `key ${kid} of the older database has another name than its bytes`);
      // Seconds then, milliseconds now. Of two keys of one second the later one signed, then as now.
      return { set, made, created: numberOf(row, "created") * 1000 };
    });
    await this.#database.transaction(async (queries) => {
      for (const { set, made, created } of carried) {
        const [present] = await queries.query("SELECT kid FROM token_keys WHERE kid = ?", [made.kid]);
        if (present === undefined) await insertKey(queries, set, made, created, created);
      }
      await queries.run("DELETE FROM signing_keys");
      await writeAudit(queries, { time: now, actor: "service", action: "store.migrate", tenant: "", target: "", detail: { keys: carried.length } });
    });
  }
}

interface MadeKey {
  readonly kid: string;
  readonly spki: Uint8Array;
  readonly sealed: Uint8Array;
  readonly wrappingKey: number;
}

async function insertKey(queries: Queries, set: KeySet, { kid, spki, sealed, wrappingKey }: MadeKey, created: number, signsFrom: number): Promise<void> {
  await queries.run("INSERT INTO token_keys (kid, purpose, scope, public_key, sealed, wrapping_key, created, signs_from) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [
    kid,
    set.purpose,
    set.scope,
    spki,
    sealed,
    wrappingKey,
    created,
    signsFrom,
  ]);
}

async function newestOf(queries: Queries, { purpose, scope }: KeySet): Promise<number> {
  const [row] = await queries.query("SELECT max(signs_from) AS newest FROM token_keys WHERE purpose = ? AND scope = ?", [purpose, scope]);
  const newest = row?.["newest"];
  return typeof newest === "number" ? newest : Number.NEGATIVE_INFINITY;
}

function published({ kid, publicKey, purpose, scope, created, signsFrom }: KeyEntry, state: PublishedKey["state"]): PublishedKey {
  return { kid, publicKey, algorithm: "RS256", purpose, scope, state, created, signsFrom };
}

/** A sealed key that is copied to another purpose or cluster does not open there. */
function keyPlace({ purpose, scope }: KeySet, kid: string): string {
  return `token key ${purpose} ${scope} ${kid}`;
}

function keyName({ purpose, scope }: KeySet, kid: string): string {
  return `${purpose}/${scope}/${kid}`;
}

/** @throws {IdentityError} ERR_IDENTITY_STORE */
export function textOf(row: Row, name: string): string {
  const value = row[name];
  if (typeof value !== "string") throw new IdentityError("ERR_IDENTITY_STORE", `column ${name} holds ${typeof value}, expected text`);
  return value;
}

/** @throws {IdentityError} ERR_IDENTITY_STORE */
export function numberOf(row: Row, name: string): number {
  const value = row[name];
  if (typeof value !== "number") throw new IdentityError("ERR_IDENTITY_STORE", `column ${name} holds ${typeof value}, expected a number`);
  return value;
}

/** @throws {IdentityError} ERR_IDENTITY_STORE */
export function bytesOf(row: Row, name: string): Uint8Array {
  const value = row[name];
  if (!(value instanceof Uint8Array))
    throw new IdentityError("ERR_IDENTITY_STORE", `column ${name} holds ${value === null ? "nothing" : typeof value}, expected bytes`);
  return value;
}

/** What went wrong with a database, in this package's words. */
export function storeError(what: string, cause: unknown): IdentityError {
  return new IdentityError("ERR_IDENTITY_STORE", `${what}: ${messageOf(cause)}`, { cause });
}
