import { createHash, createPrivateKey, type KeyObject } from "node:crypto";
import { DatabaseSync, type SQLOutputValue, type StatementSync } from "node:sqlite";
import { setTimeout as delay } from "node:timers/promises";
import { decodeUtf8, encodeUtf8, equalBytes, type Clock, type Random } from "@sealpod/core";
import { generateKey, issueCertificate, keyUsage, OID } from "@sealpod/pki";
import { MasterKey, type SealedDatabase } from "@sealpod/sealing";
import type { AttestationType } from "./attestation-type.ts";
import { TOKEN_LIFETIME } from "./claims.ts";
import { AttestationError } from "./errors.ts";
import { migrate } from "./schema.ts";

const SEALED_DATABASE: SealedDatabase = {
  name: "the attestation database",
  argumentError: (message) => new AttestationError("ERR_ATTESTATION_ARGUMENT", message),
  storeError: (message, options) => new AttestationError("ERR_ATTESTATION_STORE", message, options),
};

const HOUR = 60 * 60 * 1000;
const DAY = 24 * HOUR;

/** Relying parties pin nothing but the issuer's TLS name, so the certificate only carries the key; ten years outlast any installation. */
const CERTIFICATE_LIFETIME = 3650 * DAY;

/** Clients keep the published keys for up to this long: `max-age` of /certs. A key must be published for longer before it signs. */
export const KEYS_CACHE_TIME: number = HOUR;

/** Clocks of this service's processes and of its clients differ by less than this, so a retired key stays published longer by it. */
const CLOCK_MARGIN = 10 * 60 * 1000;

/** Milliseconds that a change waits for that of another process. Each takes a few. */
const BUSY_TIME = 5000;
/** Milliseconds between two tries where SQLite itself does not wait. */
const BUSY_PAUSE = 20;
/** Result code of SQLite: another connection has the lock. */
const SQLITE_BUSY = 5;

/** Milliseconds by which a step of the rotation may be late: it is tried every minute. */
const ROTATION_DELAY = 15 * 60 * 1000;

/** The life of a signing key. */
export interface RotationSchedule {
  /** Milliseconds from one key's first signature to the next one's. */
  readonly period: number;
  /** Milliseconds for which a key is published before it signs; more than {@link KEYS_CACHE_TIME}. */
  readonly overlap: number;
}

/** A key signs for 90 days; its successor is published a day before. */
export const DEFAULT_ROTATION: RotationSchedule = { period: 90 * DAY, overlap: DAY };

/** A key whose certificate is published. */
export interface PublishedKey {
  /** Base64 SHA-256 of the certificate: the service's own form, with `/`, `+` and `=`. */
  readonly kid: string;
  /** DER of the self-signed certificate. */
  readonly certificate: Uint8Array;
  /** `next` does not sign yet, `retired` does not sign any more. */
  readonly state: "next" | "active" | "retired";
  /** Milliseconds since 1970 when it became, or becomes, the one that signs. */
  readonly activates: number;
  /** Milliseconds since 1970 when it ceased to sign. */
  readonly retired: number | undefined;
}

/** The key that signs tokens, with RS256. */
export interface SigningKey extends PublishedKey {
  readonly privateKey: KeyObject;
}

/** A policy that somebody set. */
export interface StoredPolicy {
  readonly type: AttestationType;
  /** The JWS as it came. */
  readonly token: string;
  /** The policy in it. */
  readonly text: string;
  /** DER of the certificate whose key signed it; undefined for an unsigned one. */
  readonly signer: Uint8Array | undefined;
}

/** A certificate whose key may sign policies. */
export interface PolicyCertificate {
  /** SHA-256 of the DER, lower-case hex. */
  readonly thumbprint: string;
  readonly certificate: Uint8Array;
}

/** What is written into the audit. */
export type AuditOperation =
  | "set-policy"
  | "reset-policy"
  | "add-certificate"
  | "remove-certificate"
  | "publish-key"
  | "activate-key"
  | "retire-key"
  | "remove-key"
  /** A published successor whose private half does not open, taken back. */
  | "drop-key";

/** A line of the audit, which only grows. */
export interface AuditEntry {
  readonly id: number;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Who: the subject of the bearer token, or `schedule` and `configuration` for this service itself. */
  readonly subject: string;
  readonly operation: AuditOperation;
  /** Attestation type, thumbprint of a certificate, or `kid` of a key. */
  readonly target: string;
  /** Base64url SHA-256 of {@link content}; "" for keys. */
  readonly hash: string;
  /** The JWS of a policy as it came, or the certificate in base64; "" for keys. */
  readonly content: string;
}

/** Who changes something, and on whose signature. */
export interface Change {
  readonly subject: string;
  /**
   * DER of a certificate that must be one of the policy certificates at the moment of the change; `"any"` where no signature is asked for. It is looked up in the
   * change's own transaction, so that a certificate that another process removes meanwhile changes nothing.
   */
  readonly authority: Uint8Array | "any";
}

/** Options of {@link openAttestationStore}. */
export interface AttestationStoreOptions {
  /** Path of the SQLite database, or `:memory:`. */
  readonly file: string;
  /** 32 bytes; seals the signing keys. */
  readonly masterKey: Uint8Array;
  readonly clock: Clock;
  readonly random: Random;
  /** {@link DEFAULT_ROTATION} when absent. */
  readonly rotation?: RotationSchedule;
}

/** Most policy certificates: each is in every answer of GET /certificates. */
const MAX_POLICY_CERTIFICATES = 64;

type Row = Record<string, SQLOutputValue>;

interface State {
  readonly version: unknown;
  readonly signer: SigningKey;
  readonly keys: readonly PublishedKey[];
  readonly policies: ReadonlyMap<string, StoredPolicy>;
  readonly certificates: readonly PolicyCertificate[];
}

interface NewKey {
  readonly kid: string;
  readonly certificate: Uint8Array;
  readonly sealed: Uint8Array;
}

/**
 * Signing keys, policies with their history, and policy certificates, in one SQLite database. A change is on disk (WAL, synchronous FULL) when its method returns.
 * Several processes may have the file open: what one changes, the others see at their next call.
 */
export class AttestationStore {
  readonly #database: DatabaseSync;
  readonly #masterKey: MasterKey;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #rotation: RotationSchedule;
  readonly #dataVersion: StatementSync;
  /** Opened private keys by `kid`; a kid names one key for ever, so nothing here goes stale. */
  readonly #opened = new Map<string, KeyObject>();
  #state: State | undefined;
  /** The log may hold the private half of a retired key. True at first: the process before this one may have died in between, or been kept from it. */
  #erasureOwed = true;

  /** Use {@link openAttestationStore}. */
  constructor(database: DatabaseSync, masterKey: MasterKey, options: AttestationStoreOptions) {
    this.#database = database;
    this.#masterKey = masterKey;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#rotation = options.rotation ?? DEFAULT_ROTATION;
    this.#dataVersion = database.prepare("PRAGMA data_version");
  }

  /** The key that signs now. */
  signer(): SigningKey {
    return this.#current().signer;
  }

  /** All keys that relying parties need: the one that signs first, then its successor if there is one, then those whose tokens may still be about. The same array until something changes. */
  publishedKeys(): readonly PublishedKey[] {
    return this.#current().keys;
  }

  /** The policy that was set for a type; undefined while the default one holds. The same object until it changes. */
  policy(type: AttestationType): StoredPolicy | undefined {
    return this.#current().policies.get(type);
  }

  /** Certificates whose keys may sign policies, in the order in which they came. */
  policyCertificates(): readonly PolicyCertificate[] {
    return this.#current().certificates;
  }

  /**
   * Sets the policy of a type.
   * @throws {AttestationError} ERR_ATTESTATION_SIGNER
   */
  setPolicy(policy: StoredPolicy, change: Change): void {
    this.#change(() => {
      this.#authorise(change);
      this.#database
        .prepare(
          "INSERT INTO policies (type, token, text, signer, changed, subject) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (type) DO UPDATE SET token = excluded.token, text = excluded.text, signer = excluded.signer, changed = excluded.changed, subject = excluded.subject",
        )
        .run(policy.type, policy.token, policy.text, policy.signer ?? null, this.#now(), change.subject);
      this.#audit(change.subject, "set-policy", policy.type, policy.token);
    });
  }

  /**
   * Goes back to the default policy of a type.
   * @param token the JWS that asked for it, for the audit
   * @throws {AttestationError} ERR_ATTESTATION_SIGNER
   */
  resetPolicy(type: AttestationType, token: string, change: Change): void {
    this.#change(() => {
      this.#authorise(change);
      this.#database.prepare("DELETE FROM policies WHERE type = ?").run(type);
      this.#audit(change.subject, "reset-policy", type, token);
    });
  }

  /**
   * Adds a policy certificate; one that is there already stays.
   * @returns whether it is new
   * @throws {AttestationError} ERR_ATTESTATION_SIGNER, ERR_ATTESTATION_OPERATION
   */
  addPolicyCertificate(certificate: Uint8Array, change: Change): boolean {
    return this.#change(() => {
      this.#authorise(change);
      const thumbprint = thumbprintOf(certificate);
      const rows = this.#database.prepare("SELECT thumbprint FROM policy_certificates").all();
      if (rows.some((row) => row["thumbprint"] === thumbprint)) return false;
      if (rows.length >= MAX_POLICY_CERTIFICATES)
        throw new AttestationError("ERR_ATTESTATION_OPERATION", `there are ${rows.length} policy certificates, the most that are kept`, {
          hint: "Remove one that is no longer in use.",
        });
      this.#database
        .prepare("INSERT INTO policy_certificates (thumbprint, certificate, added, subject) VALUES (?, ?, ?, ?)")
        .run(thumbprint, certificate, this.#now(), change.subject);
      this.#audit(change.subject, "add-certificate", thumbprint, base64(certificate));
      return true;
    });
  }

  /**
   * Removes a policy certificate. The last one stays: nobody could ever change a policy again.
   * @returns whether it was there
   * @throws {AttestationError} ERR_ATTESTATION_SIGNER, ERR_ATTESTATION_OPERATION
   */
  removePolicyCertificate(certificate: Uint8Array, change: Change): boolean {
    return this.#change(() => {
      this.#authorise(change);
      const thumbprint = thumbprintOf(certificate);
      const rows = this.#database.prepare("SELECT thumbprint FROM policy_certificates").all();
      if (!rows.some((row) => row["thumbprint"] === thumbprint)) return false;
      if (rows.length === 1)
        throw new AttestationError("ERR_ATTESTATION_OPERATION", "the last policy certificate cannot be removed: no policy could be changed any more", {
          hint: "Add its successor first.",
        });
      this.#database.prepare("DELETE FROM policy_certificates WHERE thumbprint = ?").run(thumbprint);
      this.#audit(change.subject, "remove-certificate", thumbprint, base64(certificate));
      return true;
    });
  }

  /**
   * Puts in the first policy certificates of an isolated instance. Does nothing to a database that ever had one: what was removed later does not come back with a restart.
   * @returns whether they were put in
   */
  seedPolicyCertificates(certificates: readonly Uint8Array[]): boolean {
    return this.#change(() => {
      if (this.#database.prepare("SELECT 1 FROM audit WHERE operation = 'add-certificate' LIMIT 1").get() !== undefined) return false;
      for (const certificate of certificates) {
        const thumbprint = thumbprintOf(certificate);
        const { changes } = this.#database
          .prepare("INSERT INTO policy_certificates (thumbprint, certificate, added, subject) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")
          .run(thumbprint, certificate, this.#now(), "configuration");
        if (changes > 0) this.#audit("configuration", "add-certificate", thumbprint, base64(certificate));
      }
      return certificates.length > 0;
    });
  }

  /** The newest lines of the audit, newest first. */
  history(limit = 100): readonly AuditEntry[] {
    return this.#database
      .prepare("SELECT id, at, subject, operation, target, hash, content FROM audit ORDER BY id DESC LIMIT ?")
      .all(limit)
      .map((row) => ({
        id: row["id"] as number,
        at: row["at"] as number,
        subject: row["subject"] as string,
        operation: row["operation"] as AuditOperation,
        target: row["target"] as string,
        hash: row["hash"] as string,
        content: row["content"] as string,
      }));
  }

  /**
   * Does what the schedule and the clock ask for: publishes a successor, lets it sign after its overlap, drops retired keys whose last token has expired, and replaces a
   * successor whose private half does not open. To be called now and then; a late call delays a step and breaks nothing.
   *
   * The private half of a key is erased in the step that retires it: from its row at once, and from the files of the database as soon as no other connection reads them; until
   * then {@link erasureOwed} is true, and each call tries again, without waiting.
   * @returns what was done, e.g. for the log
   */
  async rotate(): Promise<readonly AuditOperation[]> {
    const { period, overlap } = this.#rotation;
    // Making a key takes a tenth of a second, too long inside a transaction.
    const { signer, keys } = this.#current();
    const due = (active: PublishedKey): boolean => active.activates + period - overlap <= this.#now();
    const next = keys.find(({ state }) => state === "next");
    const broken = next === undefined || this.#opens(next.kid) ? undefined : next.kid;
    const spare = broken !== undefined || (due(signer) && next === undefined) ? await this.#makeKey() : undefined;
    const done = this.#changeKeys((steps) => {
      if (broken !== undefined) this.#drop(broken, "schedule", steps);
      this.#advance("schedule", steps);
      const [active] = this.#readKeys();
      // What is dropped is replaced, also if it was published by call and not by the schedule.
      if (spare !== undefined && active !== undefined && (due(active) || steps.includes("drop-key")))
        this.#publish(spare, Math.max(this.#now() + overlap, Math.min(active.activates + period, next?.activates ?? Infinity)), "schedule", steps);
    });
    if (done.includes("retire-key")) this.#erasureOwed = true;
    if (this.#erasureOwed) this.#erasureOwed = !this.#emptyLog();
    return done;
  }

  /** True while the private half of a retired key may still be in the files of the database, because another connection reads them. {@link rotate} tries to change that. */
  get erasureOwed(): boolean {
    return this.#erasureOwed;
  }

  /**
   * Whether keys follow their schedule.
   * @throws {AttestationError} ERR_ATTESTATION_STORE if a step is late by more than a quarter of an hour, which {@link rotate} would have mended: it is not called, or fails
   */
  checkRotation(): void {
    const { signer, keys } = this.#current();
    const next = keys.find(({ state }) => state === "next");
    const [step, at] =
      next === undefined
        ? ["publish a successor", signer.activates + this.#rotation.period - this.#rotation.overlap]
        : ["change to its successor", next.activates];
    const late = this.#now() - at;
    if (late <= ROTATION_DELAY) return;
    throw new AttestationError(
      "ERR_ATTESTATION_STORE",
      `the rotation of the signing keys is overdue: it should have gone on to ${step} ${Math.floor(late / 60_000)} minutes ago`,
      { hint: "The log says why each try fails." },
    );
  }

  /**
   * Publishes a successor of the signing key now, whatever the schedule says; {@link rotate} lets it sign when the overlap has passed. If one is published already, that one stays.
   * @param subject who asks, for the audit
   * @returns the key that will sign next
   */
  async publishNextKey(subject: string): Promise<PublishedKey> {
    const spare = await this.#makeKey();
    this.#changeKeys((done) => this.#publish(spare, this.#now() + this.#rotation.overlap, subject, done));
    const next = this.publishedKeys().find(({ state }) => state === "next");
    if (next === undefined) throw new AttestationError("ERR_ATTESTATION_STORE", "the attestation database has lost the key that was just published");
    return next;
  }

  /**
   * Types whose policy nobody vouches for in isolated mode: it was set without a signature, or signed with a certificate that never was a policy certificate. A certificate that was
   * removed later has vouched.
   */
  unvouchedPolicies(): readonly AttestationType[] {
    const vouched = new Set(
      this.#database
        .prepare("SELECT target FROM audit WHERE operation = 'add-certificate' UNION SELECT thumbprint FROM policy_certificates")
        .all()
        .map((row) => row["target"]),
    );
    const { policies } = this.#current();
    return [...policies.values()].filter(({ signer }) => signer === undefined || !vouched.has(thumbprintOf(signer))).map(({ type }) => type);
  }

  /** Closes the database. */
  close(): void {
    this.#database.close();
  }

  /** Makes the first key of an empty database. */
  async ensureKey(): Promise<void> {
    if (this.#readKeys().length > 0) return;
    const key = await this.#makeKey();
    this.#changeKeys((done) => {
      // Another process may have been quicker.
      if (this.#readKeys().length > 0) return;
      this.#insert(key, "active", this.#now());
      this.#auditKey("schedule", "publish-key", key.kid, done);
      this.#auditKey("schedule", "activate-key", key.kid, done);
    });
  }

  #current(): State {
    // Changes when another connection has committed; our own changes drop the state themselves.
    const version = this.#dataVersion.get()?.["data_version"];
    if (this.#state === undefined || this.#state.version !== version) this.#state = this.#load(version);
    return this.#state;
  }

  #load(version: unknown): State {
    this.#database.exec("BEGIN");
    try {
      const keys = this.#readKeys();
      const [active] = keys;
      if (active?.state !== "active") throw new AttestationError("ERR_ATTESTATION_STORE", "the attestation database has no signing key");
      const policies = new Map<string, StoredPolicy>();
      for (const row of this.#database.prepare("SELECT type, token, text, signer FROM policies").all()) {
        const type = row["type"] as AttestationType;
        const token = row["token"] as string;
        const before = this.#state?.policies.get(type);
        const signer = row["signer"] instanceof Uint8Array ? row["signer"] : undefined;
        policies.set(type, before?.token === token ? before : { type, token, text: row["text"] as string, signer });
      }
      const certificates = this.#database
        .prepare("SELECT thumbprint, certificate FROM policy_certificates ORDER BY rowid")
        .all()
        .map((row) => ({ thumbprint: row["thumbprint"] as string, certificate: row["certificate"] as Uint8Array }));
      for (const kid of this.#opened.keys()) if (!keys.some((key) => key.kid === kid && key.state !== "retired")) this.#opened.delete(kid);
      return { version, signer: { ...active, privateKey: this.#open(active.kid) }, keys, policies, certificates };
    } finally {
      this.#database.exec("COMMIT");
    }
  }

  /** Active first, then next, then retired, the newest of these first. */
  #readKeys(): readonly PublishedKey[] {
    return this.#database
      .prepare(
        "SELECT kid, certificate, state, activates, retired FROM signing_keys ORDER BY CASE state WHEN 'active' THEN 0 WHEN 'next' THEN 1 ELSE 2 END, sequence DESC",
      )
      .all()
      .map((row: Row) => ({
        kid: row["kid"] as string,
        certificate: row["certificate"] as Uint8Array,
        state: row["state"] as PublishedKey["state"],
        activates: row["activates"] as number,
        retired: (row["retired"] as number | null) ?? undefined,
      }));
  }

  #open(kid: string): KeyObject {
    const opened = this.#opened.get(kid) ?? this.#unseal(kid);
    this.#opened.set(kid, opened);
    return opened;
  }

  /** From the database, whatever is remembered: the key must open after a restart as well. */
  #unseal(kid: string): KeyObject {
    const sealed = this.#database.prepare("SELECT sealed FROM signing_keys WHERE kid = ?").get(kid)?.["sealed"];
    if (!(sealed instanceof Uint8Array))
      throw new AttestationError("ERR_ATTESTATION_STORE", `the attestation database has no private half of signing key ${kid}`);
    const pem = decodeUtf8(this.#masterKey.open(sealed, keyPlace(kid)));
    try {
      return createPrivateKey(pem);
    } catch (cause) {
      throw new AttestationError("ERR_ATTESTATION_STORE", `the private half of signing key ${kid} is no private key`, { cause });
    }
  }

  #advance(subject: string, done: AuditOperation[]): void {
    const now = this.#now();
    const keys = this.#readKeys();
    const next = keys.find(({ state }) => state === "next");
    const active = keys.find(({ state }) => state === "active");
    if (next !== undefined && active !== undefined && next.activates <= now) {
      // The successor must open before its predecessor is erased: after this line there is no way back.
      this.#unseal(next.kid);
      this.#database.prepare("UPDATE signing_keys SET state = 'retired', retired = ?, sealed = NULL WHERE kid = ?").run(now, active.kid);
      this.#database.prepare("UPDATE signing_keys SET state = 'active', activates = ? WHERE kid = ?").run(now, next.kid);
      this.#auditKey(subject, "retire-key", active.kid, done);
      this.#auditKey(subject, "activate-key", next.kid, done);
    }
    for (const { kid, retired } of keys) {
      if (retired === undefined || retired + TOKEN_LIFETIME * 1000 + CLOCK_MARGIN > now) continue;
      this.#database.prepare("DELETE FROM signing_keys WHERE kid = ?").run(kid);
      this.#auditKey(subject, "remove-key", kid, done);
    }
  }

  /** Whether the private half of a key opens with the master key. What the database itself fails with is no answer to that. */
  #opens(kid: string): boolean {
    try {
      this.#unseal(kid);
      return true;
    } catch (error) {
      if (error instanceof AttestationError) return false;
      throw error;
    }
  }

  #drop(kid: string, subject: string, done: AuditOperation[]): void {
    // Another process may have been quicker.
    const { changes } = this.#database.prepare("DELETE FROM signing_keys WHERE kid = ? AND state = 'next'").run(kid);
    if (changes > 0) this.#auditKey(subject, "drop-key", kid, done);
  }

  #publish(key: NewKey, activates: number, subject: string, done: AuditOperation[]): void {
    if (this.#readKeys().some(({ state }) => state === "next")) return;
    this.#insert(key, "next", activates);
    this.#auditKey(subject, "publish-key", key.kid, done);
  }

  #insert({ kid, certificate, sealed }: NewKey, state: "next" | "active", activates: number): void {
    this.#database
      .prepare("INSERT INTO signing_keys (kid, certificate, sealed, state, published, activates) VALUES (?, ?, ?, ?, ?, ?)")
      .run(kid, certificate, sealed, state, this.#now(), Math.trunc(activates));
  }

  async #makeKey(): Promise<NewKey> {
    const key = await generateKey("rsa-2048");
    const now = this.#clock.now();
    const { der } = issueCertificate({
      subject: [{ type: OID.commonName, value: "Sealpod attestation token signing" }],
      subjectKey: key,
      issuer: { key },
      signatureAlgorithm: "rsa-sha256",
      // The first bit stays clear: a serial number is positive (RFC 5280 section 4.1.2.2).
      serial: this.#random.bytes(15).reduce((serial, byte) => (serial << 8n) | BigInt(byte), 1n),
      notBefore: now,
      notAfter: now + CERTIFICATE_LIFETIME,
      extensions: [keyUsage("digitalSignature")],
    });
    const kid = createHash("sha256").update(der).digest("base64");
    return { kid, certificate: der, sealed: this.#masterKey.seal(encodeUtf8(key.export({ type: "pkcs8", format: "pem" }) as string), keyPlace(kid)) };
  }

  #changeKeys(action: (done: AuditOperation[]) => void): readonly AuditOperation[] {
    const done: AuditOperation[] = [];
    this.#change(() => action(done));
    return done;
  }

  /**
   * Writes the log into the database and empties it: an erased private half lives on in both until then. Who reads at the same time keeps the log in use, and this thread does
   * not wait for them: it answers requests.
   * @returns whether it is empty
   */
  #emptyLog(): boolean {
    this.#database.exec("PRAGMA busy_timeout = 0");
    try {
      return this.#database.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get()?.["busy"] === 0;
    } finally {
      this.#database.exec(`PRAGMA busy_timeout = ${BUSY_TIME}`);
    }
  }

  #change<T>(action: () => T): T {
    this.#database.exec("BEGIN IMMEDIATE");
    let result: T;
    try {
      result = action();
      this.#database.exec("COMMIT");
    } catch (error) {
      if (this.#database.isTransaction) this.#database.exec("ROLLBACK");
      throw error;
    } finally {
      // #load takes policies that did not change from here, so it is only marked as outdated.
      if (this.#state !== undefined) this.#state = { ...this.#state, version: undefined };
    }
    return result;
  }

  #authorise({ authority }: Change): void {
    if (authority === "any") return;
    const rows = this.#database.prepare("SELECT certificate FROM policy_certificates").all();
    if (rows.some((row) => equalBytes(row["certificate"] as Uint8Array, authority))) return;
    throw new AttestationError(
      "ERR_ATTESTATION_SIGNER",
      `the token is signed with certificate ${thumbprintOf(authority)}, which is none of the ${rows.length} policy certificates of this instance`,
      { hint: "GET /certificates lists them; a new one is added with the signature of one of these." },
    );
  }

  #audit(subject: string, operation: AuditOperation, target: string, content: string): void {
    const hash = content === "" ? "" : createHash("sha256").update(content).digest("base64url");
    this.#database
      .prepare("INSERT INTO audit (at, subject, operation, target, hash, content) VALUES (?, ?, ?, ?, ?, ?)")
      .run(this.#now(), subject, operation, target, hash, content);
  }

  #auditKey(subject: string, operation: AuditOperation, kid: string, done: AuditOperation[]): void {
    this.#audit(subject, operation, kid, "");
    done.push(operation);
  }

  #now(): number {
    return Math.trunc(this.#clock.now());
  }
}

/**
 * Opens the database, brings an older one to today's schema, makes a signing key (RSA 2048, self-signed certificate) on first use, and proves that the master key opens it.
 * @throws {AttestationError} ERR_ATTESTATION_STORE, ERR_ATTESTATION_ARGUMENT
 */
export async function openAttestationStore(options: AttestationStoreOptions): Promise<AttestationStore> {
  const { period, overlap } = options.rotation ?? DEFAULT_ROTATION;
  if (!(overlap > KEYS_CACHE_TIME && period > overlap && Number.isFinite(period))) {
    throw new AttestationError(
      "ERR_ATTESTATION_ARGUMENT",
      `the signing key rotates every ${period} ms with an overlap of ${overlap} ms, expected an overlap of more than ${KEYS_CACHE_TIME} ms, for which clients keep /certs, and a longer period`,
    );
  }
  const masterKey = new MasterKey(options.masterKey, options.random, SEALED_DATABASE);
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(options.file);
    // FULL: an acknowledged change outlives a power cut, not only the process. secure_delete: an erased key leaves no copy in free pages.
    database.exec(`PRAGMA busy_timeout = ${BUSY_TIME}`);
    await beginLog(database);
    database.exec("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON");
    migrate(database, options.file, options.clock.now());
    const store = new AttestationStore(database, masterKey, options);
    await store.ensureKey();
    store.signer();
    return store;
  } catch (error) {
    database?.close();
    if (error instanceof AttestationError) throw error;
    throw new AttestationError("ERR_ATTESTATION_STORE", `${options.file} cannot be opened as an attestation database`, { cause: error });
  }
}

/** Turns the write-ahead log on. SQLite does not wait by itself while another process does the same to a new file. */
async function beginLog(database: DatabaseSync): Promise<void> {
  for (let waited = 0; ; waited += BUSY_PAUSE) {
    try {
      database.exec("PRAGMA journal_mode = WAL");
      return;
    } catch (error) {
      if ((error as { errcode?: unknown }).errcode !== SQLITE_BUSY || waited >= BUSY_TIME) throw error;
    }
    await delay(BUSY_PAUSE);
  }
}

/** SHA-256 of a certificate, lower-case hex. */
function thumbprintOf(certificate: Uint8Array): string {
  return createHash("sha256").update(certificate).digest("hex");
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64");
}

/** Binds a sealed key to its certificate: the kid is its hash. */
function keyPlace(kid: string): string {
  return `signing key ${kid}`;
}
