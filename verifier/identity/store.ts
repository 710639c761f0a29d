import { createHash, scrypt, timingSafeEqual, X509Certificate } from "node:crypto";
import {
  asArray,
  encodeUtf8,
  messageOf,
  newUuid,
  parseJson,
  silentLogger,
  toBase64url,
  type Clock,
  type JsonObject,
  type Logger,
  type Random,
} from "@sealpod/core";
import { MasterKey, masterKeyOfBytes, openKeyRing, type KeyRing, type MasterKeyProvider, type SealedDatabase } from "@sealpod/sealing";
import { openDatabase, type Database, type Queries, type Row } from "@sealpod/storage";
import { auditLine, MAX_AUDIT_PAGE, writeAudit, type AuditLine } from "./audit.ts";
import { checkCredential, checkName, checkResourceId, checkUuid, MAX_CREDENTIALS, type FederatedCredential } from "./credential.ts";
import { IdentityError } from "./errors.ts";
import { IDENTITY_MIGRATIONS } from "./schema.ts";
import {
  bytesOf,
  DEFAULT_SCHEDULE,
  DEFAULT_SCOPE,
  numberOf,
  SigningKeys,
  storeError,
  textOf,
  type KeyPurpose,
  type KeySchedule,
  type KeyStep,
  type PublishedKey,
  type SigningKey,
} from "./signing-keys.ts";

/** What an application is: one that somebody registered, or a user-assigned managed identity. Both take federated credentials. */
export type ApplicationKind = "application" | "managedIdentity";

/** An application (service principal) of a tenant. */
export interface Application {
  /** UUID; `client_id` of token requests, `appid` of access tokens. */
  readonly clientId: string;
  readonly tenantId: string;
  /** UUID; `oid` and `sub` of access tokens. */
  readonly objectId: string;
  readonly name: string;
  readonly kind: ApplicationKind;
  /** ARM's id of a managed identity, `xms_mirid` of its access tokens. */
  readonly resourceId: string | undefined;
  /** Milliseconds since 1970; 0 for those of schema 1. */
  readonly created: number;
}

/** What {@link IdentityStore.registerApplication} is given. */
export interface ApplicationRequest {
  readonly tenantId: string;
  /** 1 to 120 characters. */
  readonly name: string;
  /** Lower-case UUID; made when absent. */
  readonly clientId?: string;
  /** Makes it a managed identity: `/subscriptions/{UUID}/resourceGroups/{name}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}`. */
  readonly resourceId?: string;
}

/** A client secret, without its value. */
export interface ClientSecret {
  readonly keyId: string;
  readonly name: string;
  /** First three characters, to tell one from another; empty for those of schema 1. */
  readonly hint: string;
  /** Milliseconds since 1970. */
  readonly created: number;
  /** Milliseconds since 1970; 0 for never. */
  readonly expires: number;
}

/** A certificate whose holder may sign assertions for an application (RFC 7523). */
export interface ClientCertificate {
  readonly keyId: string;
  readonly name: string;
  readonly der: Uint8Array;
  readonly created: number;
}

/** What a question to the audit is narrowed to. */
export interface AuditQuery {
  /** Lines with a smaller id; for the next page. */
  readonly before?: number;
  /** At most {@link MAX_AUDIT_PAGE}. */
  readonly limit?: number;
  readonly tenant?: string;
}

/** Options of {@link openIdentityStore}. */
export interface IdentityStoreOptions {
  /** Path of a SQLite database, `:memory:`, or `postgres://…`. */
  readonly url: string;
  /** 32 bytes: wraps the keys that seal the signing keys, and opens databases of schema 1. Needed unless `master` is given. */
  readonly masterKey?: Uint8Array;
  /** The master key where its bytes are nobody's. */
  readonly master?: MasterKeyProvider;
  /** Names of the clusters that have signing keys here. Default one, `default`. */
  readonly clusters?: readonly string[];
  readonly rotation?: KeySchedule;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger?: Logger;
}

const SEALED_DATABASE: SealedDatabase = {
  name: "the identity database",
  argumentError: (message) => new IdentityError("ERR_IDENTITY_ARGUMENT", message),
  storeError: (message, options) => new IdentityError("ERR_IDENTITY_STORE", message, options),
};

/** 256 bits: a secret that no list holds and nobody guesses, so its hash need not be slow. */
const SECRET_LENGTH = 32;
const SALT_LENGTH = 16;
const HINT_LENGTH = 3;
/** Secrets and certificates of one application: a rotation needs two. */
const MAX_SECRETS = 20;
/** Milliseconds; Entra ID's limit. */
const MAX_SECRET_LIFETIME: number = 24 * 31 * 86_400_000;
/** Hashes of schema 1 (RFC 7914): 16 MiB and some 50 ms per guess. */
const SCRYPT = { N: 16_384, r: 8, p: 1 };
const SCRYPT_LENGTH = 32;
/** Bytes of a certificate: one with a chain of extensions has some 4 KiB. */
const MAX_CERTIFICATE = 16 * 1024;
const CLUSTER_NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const APPLICATION = "client_id, tenant_id, object_id, name, kind, resource_id, created";

/** Applications, their credentials and the signing keys, in a database that several processes may share. */
export class IdentityStore implements AsyncDisposable {
  readonly #database: Database;
  readonly #ring: KeyRing;
  readonly #keys: SigningKeys;
  readonly #clock: Clock;
  readonly #random: Random;

  /** Use {@link openIdentityStore}. */
  constructor(database: Database, ring: KeyRing, keys: SigningKeys, { clock, random }: IdentityStoreOptions) {
    this.#database = database;
    this.#ring = ring;
    this.#keys = keys;
    this.#clock = clock;
    this.#random = random;
  }

  /** Host and database, or the file: for messages. */
  get name(): string {
    return this.#database.name;
  }

  /**
   * Registers an application or managed identity; with the same `clientId` or `resourceId` again it gives back the one that is there.
   * @param actor in the audit
   * A subscription is bound to the tenant that first has an identity in it: `xms_mirid` of one tenant's tokens never names what is another's.
   * @throws {IdentityError} ERR_IDENTITY_ARGUMENT, ERR_IDENTITY_CONFLICT if the client id belongs to another tenant or kind, or the subscription to another tenant
   */
  async registerApplication(request: ApplicationRequest, actor: string = "service"): Promise<Application> {
    const { tenantId, name, resourceId } = request;
    if (request.clientId !== undefined) checkUuid("client id", request.clientId);
    checkUuid("tenant id", tenantId);
    checkName("application's name", name);
    if (resourceId !== undefined) checkResourceId(resourceId);
    const kind: ApplicationKind = resourceId === undefined ? "application" : "managedIdentity";
    const made: Application = {
      clientId: request.clientId ?? newUuid(this.#random),
      tenantId,
      objectId: newUuid(this.#random),
      name,
      kind,
      resourceId,
      created: this.#clock.now(),
    };
    return this.#database.transaction(async (queries) => {
      const present =
        (await readApplication(queries, "client_id", made.clientId)) ??
        (resourceId === undefined ? undefined : await readApplication(queries, "resource_key", resourceId.toLowerCase()));
      if (present !== undefined) {
        const isSame = present.tenantId === tenantId && present.kind === kind && (request.clientId ?? present.clientId) === present.clientId;
        if (isSame && present.resourceId?.toLowerCase() === resourceId?.toLowerCase()) return present;
        // Whose it is, and what, is not for those of another tenant.
        const what = present.tenantId === tenantId ? `there is an application ${present.clientId} (${present.kind}) already` : "it belongs to another tenant";
        const wanted = resourceId === undefined || present.clientId === request.clientId ? `client id ${made.clientId}` : `resource id ${resourceId}`;
        throw new IdentityError("ERR_IDENTITY_CONFLICT", `${wanted} is taken: ${what}`);
      }
      if (resourceId !== undefined) await bindSubscription(queries, subscriptionOf(resourceId), tenantId);
      await queries.run(`INSERT INTO applications (${APPLICATION}, resource_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, [
        made.clientId,
        tenantId,
        made.objectId,
        name,
        kind,
        resourceId ?? null,
        made.created,
        resourceId?.toLowerCase() ?? null,
      ]);
      await this.#audit(queries, actor, "application.create", made, made.clientId, { name, kind, ...(resourceId === undefined ? {} : { resourceId }) });
      return made;
    });
  }

  /**
   * Gives a subscription to a tenant, also one that another tenant has used: for operators, where a tenant took what is another's.
   * @param id lower-case UUID
   * @throws {IdentityError} ERR_IDENTITY_ARGUMENT, ERR_IDENTITY_CONFLICT as long as another tenant has identities in it
   */
  async assignSubscription(id: string, tenantId: string, actor: string = "service"): Promise<void> {
    checkUuid("subscription", id);
    checkUuid("tenant id", tenantId);
    await this.#database.transaction(async (queries) => {
      const [row] = await queries.query("SELECT count(*) AS found FROM applications WHERE tenant_id <> ? AND resource_key LIKE ?", [
        tenantId,
        `/subscriptions/${id}/%`,
      ]);
      const others = row === undefined ? 0 : numberOf(row, "found");
      if (others > 0) {
        throw new IdentityError("ERR_IDENTITY_CONFLICT", `other tenants have ${others} managed identities in subscription ${id}`, {
          hint: "Delete them first.",
        });
      }
      await queries.run("DELETE FROM subscriptions WHERE id = ?", [id]);
      await queries.run("INSERT INTO subscriptions (id, tenant_id) VALUES (?, ?)", [id, tenantId]);
      await writeAudit(queries, { time: this.#clock.now(), actor, action: "subscription.assign", tenant: tenantId, target: id, detail: {} });
    });
  }

  /** The application with this client id. */
  async application(clientId: string): Promise<Application | undefined> {
    return readApplication(this.#database, "client_id", clientId);
  }

  /** The application with this object id. */
  async applicationOfObject(objectId: string): Promise<Application | undefined> {
    return readApplication(this.#database, "object_id", objectId);
  }

  /** The managed identity with this resource id; letter case does not matter in those. */
  async managedIdentity(resourceId: string): Promise<Application | undefined> {
    return readApplication(this.#database, "resource_key", resourceId.toLowerCase());
  }

  /** Applications of a tenant by name. @param kind all when absent */
  async applications(tenantId: string, kind?: ApplicationKind): Promise<readonly Application[]> {
    const rows = await this.#database.query(
      `SELECT ${APPLICATION} FROM applications WHERE tenant_id = ? ${kind === undefined ? "" : "AND kind = ? "}ORDER BY name, client_id`,
      kind === undefined ? [tenantId] : [tenantId, kind],
    );
    return rows.map(applicationOf);
  }

  /** Removes an application with all its credentials; true if there was one. */
  async deleteApplication(clientId: string, actor: string = "service"): Promise<boolean> {
    return this.#database.transaction(async (queries) => {
      const present = await readApplication(queries, "client_id", clientId);
      if (present === undefined) return false;
      await queries.run("DELETE FROM applications WHERE client_id = ?", [clientId]);
      await this.#audit(queries, actor, "application.delete", present, clientId, { name: present.name });
      return true;
    });
  }

  /**
   * Makes a new client secret of 256 bits. Only its hash is stored, so this is the one time it is seen.
   * @param options.expires milliseconds since 1970, two years ahead at most; never when absent
   * @param options.replace takes all others back
   * @throws {IdentityError} ERR_IDENTITY_CLIENT, ERR_IDENTITY_ARGUMENT, ERR_IDENTITY_CONFLICT
   */
  async createClientSecret(
    clientId: string,
    options: { readonly name?: string; readonly expires?: number; readonly replace?: boolean } = {},
    actor: string = "service",
  ): Promise<ClientSecret & { readonly secret: string }> {
    const { name = "", expires = 0, replace = false } = options;
    const now = this.#clock.now();
    if (name !== "") checkName("secret's name", name);
    if (expires !== 0 && (!Number.isSafeInteger(expires) || expires <= now || expires > now + MAX_SECRET_LIFETIME)) {
      throw new IdentityError("ERR_IDENTITY_ARGUMENT", `the secret's end ${isoTime(expires)} is not within the next two years`);
    }
    const secret = toBase64url(this.#random.bytes(SECRET_LENGTH));
    const salt = this.#random.bytes(SALT_LENGTH);
    const made: ClientSecret = { keyId: newUuid(this.#random), name, hint: secret.slice(0, HINT_LENGTH), created: now, expires };
    await this.#database.transaction(async (queries) => {
      const application = await requireApplication(queries, clientId);
      if (replace) await queries.run("DELETE FROM client_secrets WHERE client_id = ?", [clientId]);
      if ((await count(queries, "client_secrets", clientId)) >= MAX_SECRETS) throw full(clientId, MAX_SECRETS, "client secrets");
      await queries.run("INSERT INTO client_secrets (key_id, client_id, name, hint, scheme, salt, hash, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [
        made.keyId,
        clientId,
        name,
        made.hint,
        "sha256",
        salt,
        fastHash(secret, salt),
        now,
        expires,
      ]);
      await this.#audit(queries, actor, "secret.create", application, `${clientId}/${made.keyId}`, { expires, replace });
    });
    return { ...made, secret };
  }

  /** The client secrets of an application, newest first. */
  async clientSecrets(clientId: string): Promise<readonly ClientSecret[]> {
    const rows = await this.#database.query(
      "SELECT key_id, name, hint, created, expires FROM client_secrets WHERE client_id = ? ORDER BY created DESC, key_id",
      [clientId],
    );
    return rows.map((row) => ({
      keyId: textOf(row, "key_id"),
      name: textOf(row, "name"),
      hint: textOf(row, "hint"),
      created: numberOf(row, "created"),
      expires: numberOf(row, "expires"),
    }));
  }

  /** Takes a client secret back; true if there was one. */
  async removeClientSecret(clientId: string, keyId: string, actor: string = "service"): Promise<boolean> {
    return this.#removeCredential("client_secrets", "key_id", clientId, keyId, "secret.delete", actor);
  }

  /**
   * Verifies a client secret.
   * @throws {IdentityError} ERR_IDENTITY_SECRET; with `details.expired` if it is the right one, and its time is over
   */
  async verifyClientSecret(clientId: string, secret: string): Promise<void> {
    const rows = await this.#database.query("SELECT scheme, salt, hash, expires FROM client_secrets WHERE client_id = ?", [clientId]);
    if (rows.length === 0) {
      throw new IdentityError("ERR_IDENTITY_SECRET", `application ${clientId} has no client secret`, { hint: "Make one: sealpod identity secret create." });
    }
    for (const row of rows) {
      const salt = bytesOf(row, "salt");
      const hash = textOf(row, "scheme") === "scrypt" ? await slowHash(secret, salt) : fastHash(secret, salt);
      const expected = bytesOf(row, "hash");
      if (hash.length !== expected.length || !timingSafeEqual(hash, expected)) continue;
      const expires = numberOf(row, "expires");
      if (expires === 0 || expires > this.#clock.now()) return;
      throw new IdentityError("ERR_IDENTITY_SECRET", `the client secret of application ${clientId} ended at ${isoTime(expires)}`, {
        details: { expired: true },
      });
    }
    throw new IdentityError("ERR_IDENTITY_SECRET", `the client secret given is not one of application ${clientId}`);
  }

  /**
   * Adds a certificate whose holder may sign assertions for the application.
   * @param der X.509, RSA of 2048 bits or more
   * @throws {IdentityError} ERR_IDENTITY_CLIENT, ERR_IDENTITY_ARGUMENT, ERR_IDENTITY_CONFLICT
   */
  async addClientCertificate(clientId: string, der: Uint8Array, name: string = "", actor: string = "service"): Promise<ClientCertificate> {
    const thumbprint = checkCertificate(der);
    const made: ClientCertificate = { keyId: newUuid(this.#random), name, der, created: this.#clock.now() };
    await this.#database.transaction(async (queries) => {
      const application = await requireApplication(queries, clientId);
      if ((await count(queries, "client_certificates", clientId)) >= MAX_SECRETS) throw full(clientId, MAX_SECRETS, "certificates");
      await queries.run("INSERT INTO client_certificates (key_id, client_id, name, der, created) VALUES (?, ?, ?, ?, ?)", [
        made.keyId,
        clientId,
        name,
        der,
        made.created,
      ]);
      await this.#audit(queries, actor, "certificate.create", application, `${clientId}/${made.keyId}`, { thumbprint });
    });
    return made;
  }

  /** The certificates of an application. */
  async clientCertificates(clientId: string): Promise<readonly ClientCertificate[]> {
    const rows = await this.#database.query("SELECT key_id, name, der, created FROM client_certificates WHERE client_id = ? ORDER BY created, key_id", [
      clientId,
    ]);
    return rows.map((row) => ({ keyId: textOf(row, "key_id"), name: textOf(row, "name"), der: bytesOf(row, "der"), created: numberOf(row, "created") }));
  }

  /** Takes a certificate back; true if there was one. */
  async removeClientCertificate(clientId: string, keyId: string, actor: string = "service"): Promise<boolean> {
    return this.#removeCredential("client_certificates", "key_id", clientId, keyId, "certificate.delete", actor);
  }

  /**
   * Adds a federated identity credential, or with `replace` puts it in the place of the one with its name.
   * @throws {IdentityError} ERR_IDENTITY_CLIENT, ERR_IDENTITY_ARGUMENT, ERR_IDENTITY_CONFLICT
   */
  async addFederatedCredential(clientId: string, credential: FederatedCredential, actor: string = "service", replace: boolean = false): Promise<void> {
    checkCredential(credential);
    const { name, issuer, subject, audiences, description = "" } = credential;
    await this.#database.transaction(async (queries) => {
      const application = await requireApplication(queries, clientId);
      const present = await readCredentials(queries, clientId);
      const isReplaced = replace && present.some((other) => other.name === name);
      const others = isReplaced ? present.filter((other) => other.name !== name) : present;
      const same = others.find((other) => other.name === name || (other.issuer === issuer && other.subject === subject));
      if (same !== undefined) {
        throw new IdentityError(
          "ERR_IDENTITY_CONFLICT",
          `application ${clientId} already has credential ${name}, or one with its issuer and subject (${same.name})`,
        );
      }
      if (others.length >= MAX_CREDENTIALS) {
        throw new IdentityError("ERR_IDENTITY_CONFLICT", `application ${clientId} has ${others.length} federated credentials, the most that Entra ID allows`);
      }
      if (isReplaced) await queries.run("DELETE FROM federated_credentials WHERE client_id = ? AND name = ?", [clientId, name]);
      await queries.run("INSERT INTO federated_credentials (client_id, name, issuer, subject, audiences, description, created) VALUES (?, ?, ?, ?, ?, ?, ?)", [
        clientId,
        name,
        issuer,
        subject,
        JSON.stringify(audiences),
        description,
        this.#clock.now(),
      ]);
      await this.#audit(queries, actor, isReplaced ? "credential.update" : "credential.create", application, `${clientId}/${name}`, {
        issuer,
        subject,
        audiences,
      });
    });
  }

  /** Removes a federated identity credential; true if there was one. */
  async removeFederatedCredential(clientId: string, name: string, actor: string = "service"): Promise<boolean> {
    return this.#removeCredential("federated_credentials", "name", clientId, name, "credential.delete", actor);
  }

  /** The federated identity credentials of an application, by name. */
  async federatedCredentials(clientId: string): Promise<readonly FederatedCredential[]> {
    return readCredentials(this.#database, clientId);
  }

  /**
   * Published keys for a purpose, the one that signs now first; the others verify tokens that are still about, or sign later. As of the last look at the database: see
   * {@link rotate} and {@link findKey}.
   * @param scope name of the cluster
   * @throws {IdentityError} ERR_IDENTITY_STORE
   */
  signingKeys(purpose: KeyPurpose, scope: string = DEFAULT_SCOPE): readonly [SigningKey, ...PublishedKey[]] {
    return this.#keys.current(purpose, scope);
  }

  /** All published keys. */
  publishedKeys(): readonly PublishedKey[] {
    return this.#keys.all();
  }

  /** The published key with a name; one that another process has made is found too. */
  async findKey(purpose: KeyPurpose, scope: string, kid: string): Promise<PublishedKey | undefined> {
    return this.#keys.find(purpose, scope, kid);
  }

  /**
   * Makes a new signing key.
   * @param options.when `now` (the default): it signs at once; `overlap`: it is published now and signs after the overlap
   * @param options.revoke removes the others of its set at once: tokens that they signed verify no more
   * @throws {IdentityError} ERR_IDENTITY_NOT_FOUND, ERR_IDENTITY_CONFLICT
   */
  async rotateSigningKey(
    purpose: KeyPurpose,
    options: { readonly scope?: string; readonly when?: "now" | "overlap"; readonly revoke?: boolean } = {},
    actor: string = "service",
  ): Promise<PublishedKey> {
    const { scope = DEFAULT_SCOPE, when = "now", revoke = false } = options;
    return this.#keys.replace(purpose, scope, when, revoke, actor);
  }

  /** Does what the schedule of the keys says is due, and looks what other processes have done. */
  async rotate(): Promise<readonly KeyStep[]> {
    return this.#keys.rotate();
  }

  /** Throws if the database does not answer: for readiness. */
  async check(): Promise<void> {
    await this.#database.check();
  }

  /** Throws if the rotation of the keys is late: for readiness. */
  checkRotation(): void {
    this.#keys.check();
  }

  /** Writes down that an access token was issued. */
  async recordToken(application: Application, detail: JsonObject): Promise<void> {
    await this.#audit(this.#database, application.clientId, "token.issue", application, application.clientId, detail);
  }

  /** Lines of the audit, newest first. Those of one tenant are no others': who rotates the keys of all is nobody's in a tenant. */
  async audit({ before = Number.MAX_SAFE_INTEGER, limit = 100, tenant }: AuditQuery = {}): Promise<readonly AuditLine[]> {
    const rows = await this.#database.query(
      `SELECT id, time, actor, action, tenant, target, detail FROM audit WHERE id < ? ${tenant === undefined ? "" : "AND tenant = ? "}ORDER BY id DESC LIMIT ?`,
      [before, ...(tenant === undefined ? [] : [tenant]), Math.min(limit, MAX_AUDIT_PAGE)],
    );
    return rows.map(auditLine);
  }

  /** The wrapping keys that seal the signing keys. */
  get ring(): KeyRing {
    return this.#ring;
  }

  /** Waits for what is under way, and closes the database. */
  async close(): Promise<void> {
    await this.#database.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #removeCredential(
    table: "client_secrets" | "client_certificates" | "federated_credentials",
    column: "key_id" | "name",
    clientId: string,
    key: string,
    action: string,
    actor: string,
  ): Promise<boolean> {
    return this.#database.transaction(async (queries) => {
      const removed = await queries.run(`DELETE FROM ${table} WHERE client_id = ? AND ${column} = ?`, [clientId, key]);
      if (removed === 0) return false;
      await this.#audit(queries, actor, action, await requireApplication(queries, clientId), `${clientId}/${key}`, {});
      return true;
    });
  }

  async #audit(queries: Queries, actor: string, action: string, { tenantId }: Application, target: string, detail: JsonObject): Promise<void> {
    await writeAudit(queries, { time: this.#clock.now(), actor, action, tenant: tenantId, target, detail });
  }
}

/**
 * Opens the database, brings its schema up to date, makes the signing keys (RSA 2048) that are missing, and proves that the master key opens them.
 * @throws {IdentityError} ERR_IDENTITY_STORE, ERR_IDENTITY_ARGUMENT
 * @throws {StorageError} for a database that cannot be opened
 */
export async function openIdentityStore(options: IdentityStoreOptions): Promise<IdentityStore> {
  const { url, masterKey, clock, random, logger = silentLogger, clusters = [DEFAULT_SCOPE], rotation = DEFAULT_SCHEDULE } = options;
  const raw = masterKey === undefined ? undefined : new MasterKey(masterKey, random, SEALED_DATABASE);
  const master = options.master ?? (masterKey === undefined ? undefined : masterKeyOfBytes(masterKey, random));
  if (master === undefined) throw new IdentityError("ERR_IDENTITY_ARGUMENT", "neither masterKey nor master is given");
  const wrong = clusters.find((name, at) => !CLUSTER_NAME.test(name) || clusters.indexOf(name) !== at);
  if (wrong !== undefined) {
    throw new IdentityError(
      "ERR_IDENTITY_ARGUMENT",
      `the cluster's name ${JSON.stringify(wrong.slice(0, 100))} is not usable, or given twice: expected up to 63 of a-z, 0-9 and -`,
    );
  }
  const database = await openDatabase({ url, name: "identity", migrations: IDENTITY_MIGRATIONS, logger });
  try {
    const ring = await openKeyRing({ database, master, random, clock });
    const keys = new SigningKeys(database, ring, clock, rotation, clusters);
    await keys.open(raw);
    return new IdentityStore(database, ring, keys, options);
  } catch (error) {
    await database.close();
    if (error instanceof IdentityError) throw error;
    throw storeError(`${database.name} cannot be opened as an identity database with this master key`, error);
  }
}

async function readApplication(queries: Queries, column: "client_id" | "object_id" | "resource_key", value: string): Promise<Application | undefined> {
  const [row] = await queries.query(`SELECT ${APPLICATION} FROM applications WHERE ${column} = ?`, [value]);
  return row === undefined ? undefined : applicationOf(row);
}

/** @throws {IdentityError} ERR_IDENTITY_CONFLICT if the subscription is another tenant's */
async function bindSubscription(queries: Queries, id: string, tenantId: string): Promise<void> {
  await queries.run("INSERT INTO subscriptions (id, tenant_id) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", [id, tenantId]);
  const [row] = await queries.query("SELECT tenant_id FROM subscriptions WHERE id = ?", [id]);
  if (row === undefined || textOf(row, "tenant_id") !== tenantId) {
    throw new IdentityError("ERR_IDENTITY_CONFLICT", `subscription ${id} belongs to another tenant`, {
      hint: "Name one of your own (--subscription): it is of the tenant that first has an identity in it. An operator can give it to another: PUT /sealpod/subscriptions/{id}?tenant={tenant}.",
    });
  }
}

/** The subscription of a resource id that was checked. */
function subscriptionOf(resourceId: string): string {
  return resourceId.toLowerCase().split("/")[2] ?? "";
}

async function requireApplication(queries: Queries, clientId: string): Promise<Application> {
  const found = await readApplication(queries, "client_id", clientId);
  if (found !== undefined) return found;
  throw new IdentityError("ERR_IDENTITY_CLIENT", `no application with client id ${JSON.stringify(clientId.slice(0, 100))}`, {
    hint: "Register it first: sealpod identity app create.",
  });
}

async function readCredentials(queries: Queries, clientId: string): Promise<readonly FederatedCredential[]> {
  const rows = await queries.query("SELECT name, issuer, subject, audiences, description FROM federated_credentials WHERE client_id = ? ORDER BY name", [
    clientId,
  ]);
  return rows.map((row) => ({
    name: textOf(row, "name"),
    issuer: textOf(row, "issuer"),
    subject: textOf(row, "subject"),
    audiences: asArray(parseJson(textOf(row, "audiences"))) as readonly string[],
    description: textOf(row, "description"),
  }));
}

async function count(queries: Queries, table: "client_secrets" | "client_certificates", clientId: string): Promise<number> {
  const [row] = await queries.query(`SELECT count(*) AS found FROM ${table} WHERE client_id = ?`, [clientId]);
  return row === undefined ? 0 : numberOf(row, "found");
}

function applicationOf(row: Row): Application {
  const resourceId = row["resource_id"];
  return {
    clientId: textOf(row, "client_id"),
    tenantId: textOf(row, "tenant_id"),
    objectId: textOf(row, "object_id"),
    name: textOf(row, "name"),
    kind: textOf(row, "kind") === "managedIdentity" ? "managedIdentity" : "application",
    resourceId: typeof resourceId === "string" ? resourceId : undefined,
    created: numberOf(row, "created"),
  };
}

/** @returns SHA-256 of the certificate, base64url */
function checkCertificate(der: Uint8Array): string {
  try {
    if (der.length > MAX_CERTIFICATE) throw new Error(`it has ${der.length} bytes, more than ${MAX_CERTIFICATE}`);
    const { publicKey, raw } = new X509Certificate(der);
    if (!raw.equals(der)) throw new Error("there are bytes behind it, or it is not DER");
    const bits = publicKey.asymmetricKeyDetails?.modulusLength ?? 0;
    if (publicKey.asymmetricKeyType !== "rsa" || bits < 2048) throw new Error("its key is not RSA of 2048 bits or more");
    return createHash("sha256").update(der).digest("base64url");
  } catch (cause) {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", `the certificate is not usable: ${messageOf(cause)}`, { cause });
  }
}

function full(clientId: string, limit: number, what: string): IdentityError {
  return new IdentityError("ERR_IDENTITY_CONFLICT", `application ${clientId} has ${limit} ${what}, and may have no more`, {
    hint: "Remove one that is not used.",
  });
}

function fastHash(secret: string, salt: Uint8Array): Uint8Array {
  return new Uint8Array(createHash("sha256").update(salt).update(encodeUtf8(secret)).digest());
}

async function slowHash(secret: string, salt: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    scrypt(secret, salt, SCRYPT_LENGTH, SCRYPT, (error, hash) => (error === null ? resolve(hash) : reject(error)));
  });
}

function isoTime(milliseconds: number): string {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? String(milliseconds) : date.toISOString();
}
