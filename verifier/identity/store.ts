import { createPrivateKey, createPublicKey, generateKeyPair, scrypt, timingSafeEqual, type KeyObject } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { promisify } from "node:util";
import { decodeUtf8, encodeUtf8, newUuid, parseJson, asArray, sha256, toBase64url, type Clock, type Random } from "@sealpod/core";
import { MasterKey, type SealedDatabase } from "@sealpod/sealing";
import { IdentityError } from "./errors.ts";

const SEALED_DATABASE: SealedDatabase = {
  name: "the identity database",
  argumentError: (message) => new IdentityError("ERR_IDENTITY_ARGUMENT", message),
  storeError: (message, options) => new IdentityError("ERR_IDENTITY_STORE", message, options),
};

const SCHEMA_VERSION = 1;

const SCHEMA = `
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
  ) STRICT;
`;

/** Who signs with the key: the cluster signs service-account tokens, the tenants sign access tokens. */
export type KeyPurpose = "cluster" | "tenant";

/** A key that signs tokens with RS256. */
export interface SigningKey {
  /** Base64url SHA-256 of the DER SubjectPublicKeyInfo, as kube-apiserver names its keys. */
  readonly kid: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

/** An application (service principal) of a tenant. */
export interface Application {
  /** UUID; `client_id` of token requests, `appid` of access tokens. */
  readonly clientId: string;
  readonly tenantId: string;
  /** UUID; `oid` and `sub` of access tokens. */
  readonly objectId: string;
  readonly name: string;
}

/** The assertions that may stand for an application; all three parts are compared exactly, letter case included. */
export interface FederatedCredential {
  readonly name: string;
  /** The `iss` claim, a trailing slash included. */
  readonly issuer: string;
  /** The `sub` claim, e.g. `system:serviceaccount:default:web`. */
  readonly subject: string;
  /** One of these must be in the `aud` claim; `api://AzureADTokenExchange` by custom. */
  readonly audiences: readonly string[];
  readonly description?: string;
}

/** Options of {@link openIdentityStore}. */
export interface IdentityStoreOptions {
  /** Path of the SQLite database, or `:memory:`. */
  readonly file: string;
  /** 32 bytes; seals the signing keys. */
  readonly masterKey: Uint8Array;
  readonly clock: Clock;
  readonly random: Random;
}

/** The limit of Entra ID for one application. */
const MAX_CREDENTIALS = 20;
/** 256 bits: a secret that no password list holds. */
const SECRET_LENGTH = 32;
/** RFC 7914 parameters: 16 MiB and some 50 ms per guess. */
const SCRYPT = { N: 16_384, r: 8, p: 1 };
const SCRYPT_LENGTH = 32;

const generateRsa = promisify(generateKeyPair);
const CREDENTIAL_NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{0,119}$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Applications, their credentials and the signing keys, in one SQLite database. */
export class IdentityStore {
  readonly #database: DatabaseSync;
  readonly #masterKey: MasterKey;
  readonly #clock: Clock;
  readonly #random: Random;
  /** Opened keys by `kid`; a kid names one key for ever, so nothing here goes stale. */
  readonly #opened = new Map<string, SigningKey>();

  /** Use {@link openIdentityStore}. */
  constructor(database: DatabaseSync, masterKey: MasterKey, options: IdentityStoreOptions) {
    this.#database = database;
    this.#masterKey = masterKey;
    this.#clock = options.clock;
    this.#random = options.random;
  }

  /**
   * Registers an application; with the same `clientId` again it gives back the one that is there.
   * @param clientId lower-case UUID; made when absent
   * @throws {IdentityError} ERR_IDENTITY_ARGUMENT
   */
  registerApplication(request: { readonly tenantId: string; readonly name: string; readonly clientId?: string }): Application {
    const clientId = request.clientId ?? newUuid(this.#random);
    for (const [what, value] of [
      ["client id", clientId],
      ["tenant id", request.tenantId],
    ] as const) {
      if (!UUID.test(value)) throw new IdentityError("ERR_IDENTITY_ARGUMENT", `the ${what} ${JSON.stringify(value)} is not a lower-case UUID`);
    }
    const present = this.application(clientId);
    if (present !== undefined) {
      if (present.tenantId === request.tenantId) return present;
      throw new IdentityError("ERR_IDENTITY_ARGUMENT", `application ${clientId} belongs to tenant ${present.tenantId}, not to ${request.tenantId}`);
    }
    const application: Application = { clientId, tenantId: request.tenantId, objectId: newUuid(this.#random), name: request.name };
    this.#database
      .prepare("INSERT INTO applications (client_id, tenant_id, object_id, name) VALUES (?, ?, ?, ?)")
      .run(application.clientId, application.tenantId, application.objectId, application.name);
    return application;
  }

  /** The application with this client id. */
  application(clientId: string): Application | undefined {
    const row = this.#database.prepare("SELECT client_id, tenant_id, object_id, name FROM applications WHERE client_id = ?").get(clientId);
    if (row === undefined) return undefined;
    return { clientId: row["client_id"] as string, tenantId: row["tenant_id"] as string, objectId: row["object_id"] as string, name: row["name"] as string };
  }

  /**
   * Makes a new client secret in place of the old one. Only its scrypt hash is stored, so this is the one time it is seen.
   * @throws {IdentityError} ERR_IDENTITY_CLIENT
   */
  async createClientSecret(clientId: string): Promise<string> {
    this.#require(clientId);
    const secret = toBase64url(this.#random.bytes(SECRET_LENGTH));
    const salt = this.#random.bytes(16);
    const hash = await hashSecret(secret, salt);
    this.#database.prepare("UPDATE applications SET secret_salt = ?, secret_hash = ? WHERE client_id = ?").run(salt, hash, clientId);
    return secret;
  }

  /**
   * Verifies a client secret.
   * @throws {IdentityError} ERR_IDENTITY_SECRET
   */
  async verifyClientSecret(clientId: string, secret: string): Promise<void> {
    const row = this.#database.prepare("SELECT secret_salt, secret_hash FROM applications WHERE client_id = ?").get(clientId);
    const salt = row?.["secret_salt"];
    const hash = row?.["secret_hash"];
    if (!(salt instanceof Uint8Array) || !(hash instanceof Uint8Array)) {
      throw new IdentityError("ERR_IDENTITY_SECRET", `application ${clientId} has no client secret`, { hint: "Make one with createClientSecret." });
    }
    if (!timingSafeEqual(await hashSecret(secret, salt), hash)) {
      throw new IdentityError("ERR_IDENTITY_SECRET", `the client secret given is not the one of application ${clientId}`);
    }
  }

  /**
   * Adds a federated identity credential.
   * @throws {IdentityError} ERR_IDENTITY_CLIENT, ERR_IDENTITY_ARGUMENT, ERR_IDENTITY_CONFLICT
   */
  addFederatedCredential(clientId: string, credential: FederatedCredential): void {
    this.#require(clientId);
    if (!CREDENTIAL_NAME.test(credential.name)) {
      throw new IdentityError("ERR_IDENTITY_ARGUMENT", `credential name ${JSON.stringify(credential.name)}: expected up to 120 letters, digits, '-' and '_'`);
    }
    if (!URL.canParse(credential.issuer) || new URL(credential.issuer).protocol !== "https:") {
      throw new IdentityError(
        "ERR_IDENTITY_ARGUMENT",
        `credential ${credential.name}: the issuer must be an https URL, found ${JSON.stringify(credential.issuer)}`,
      );
    }
    if (credential.subject === "" || credential.audiences.length === 0) {
      throw new IdentityError("ERR_IDENTITY_ARGUMENT", `credential ${credential.name}: subject and audiences must not be empty`);
    }
    const present = this.federatedCredentials(clientId);
    if (present.some((other) => other.name === credential.name || (other.issuer === credential.issuer && other.subject === credential.subject))) {
      throw new IdentityError("ERR_IDENTITY_CONFLICT", `application ${clientId} already has credential ${credential.name}, or one with its issuer and subject`);
    }
    if (present.length >= MAX_CREDENTIALS) {
      throw new IdentityError("ERR_IDENTITY_CONFLICT", `application ${clientId} has ${present.length} federated credentials, the most that Entra ID allows`);
    }
    this.#database
      .prepare("INSERT INTO federated_credentials (client_id, name, issuer, subject, audiences, description) VALUES (?, ?, ?, ?, ?, ?)")
      .run(clientId, credential.name, credential.issuer, credential.subject, JSON.stringify(credential.audiences), credential.description ?? "");
  }

  /** Removes a federated identity credential; true if there was one. */
  removeFederatedCredential(clientId: string, name: string): boolean {
    return this.#database.prepare("DELETE FROM federated_credentials WHERE client_id = ? AND name = ?").run(clientId, name).changes === 1;
  }

  /** The federated identity credentials of an application, by name. */
  federatedCredentials(clientId: string): readonly FederatedCredential[] {
    return this.#database
      .prepare("SELECT name, issuer, subject, audiences, description FROM federated_credentials WHERE client_id = ? ORDER BY name")
      .all(clientId)
      .map((row) => ({
        name: row["name"] as string,
        issuer: row["issuer"] as string,
        subject: row["subject"] as string,
        audiences: asArray(parseJson(row["audiences"] as string)) as readonly string[],
        description: row["description"] as string,
      }));
  }

  /** Keys for a purpose, the one that signs now first; the others verify tokens that are still about. */
  signingKeys(purpose: KeyPurpose): readonly [SigningKey, ...SigningKey[]] {
    const keys = this.#database
      .prepare("SELECT kid, sealed FROM signing_keys WHERE purpose = ? ORDER BY rowid DESC")
      .all(purpose)
      .map((row): SigningKey => {
        const kid = row["kid"] as string;
        const opened = this.#opened.get(kid);
        if (opened !== undefined) return opened;
        const pem = this.#masterKey.open(row["sealed"] as Uint8Array, keyPlace(purpose, kid));
        const privateKey = createPrivateKey(decodeUtf8(pem));
        const key: SigningKey = { kid, privateKey, publicKey: createPublicKey(privateKey) };
        this.#opened.set(kid, key);
        return key;
      });
    const [first, ...others] = keys;
    if (first === undefined) throw new IdentityError("ERR_IDENTITY_STORE", `the identity database has no ${purpose} signing key`);
    return [first, ...others];
  }

  /** Makes a new signing key for a purpose; the older ones stay published so that their tokens still verify. */
  async rotateSigningKey(purpose: KeyPurpose): Promise<void> {
    const { privateKey, publicKey } = await generateRsa("rsa", { modulusLength: 2048 });
    const kid = toBase64url(sha256(publicKey.export({ type: "spki", format: "der" })));
    const sealed = this.#masterKey.seal(encodeUtf8(privateKey.export({ type: "pkcs8", format: "pem" }) as string), keyPlace(purpose, kid));
    this.#database
      .prepare("INSERT INTO signing_keys (purpose, kid, sealed, created) VALUES (?, ?, ?, ?)")
      .run(purpose, kid, sealed, Math.floor(this.#clock.now() / 1000));
  }

  /** Closes the database. */
  close(): void {
    this.#database.close();
  }

  #require(clientId: string): void {
    if (this.application(clientId) === undefined) {
      throw new IdentityError("ERR_IDENTITY_CLIENT", `no application with client id ${JSON.stringify(clientId)}`, {
        hint: "Register it first with registerApplication.",
      });
    }
  }
}

/**
 * Opens the database, makes its tables and the two signing keys (RSA 2048) on first use, and proves that the master key opens them.
 * @throws {IdentityError} ERR_IDENTITY_STORE, ERR_IDENTITY_ARGUMENT
 */
export async function openIdentityStore(options: IdentityStoreOptions): Promise<IdentityStore> {
  const masterKey = new MasterKey(options.masterKey, options.random, SEALED_DATABASE);
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(options.file);
    database.exec("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE");
    const version = Number(database.prepare("PRAGMA user_version").get()?.["user_version"] ?? 0);
    if (version === 0) database.exec(`${SCHEMA} PRAGMA user_version = ${SCHEMA_VERSION}`);
    else if (version !== SCHEMA_VERSION) {
      throw new IdentityError("ERR_IDENTITY_STORE", `${options.file} has schema ${version}, this program knows ${SCHEMA_VERSION}`, {
        hint: "Use the version of Sealpod that made it, or start with an empty state directory.",
      });
    }
    database.exec("COMMIT");
    const store = new IdentityStore(database, masterKey, options);
    for (const purpose of ["cluster", "tenant"] as const) {
      const count = database.prepare("SELECT count(*) AS count FROM signing_keys WHERE purpose = ?").get(purpose)?.["count"];
      if (count === 0) await store.rotateSigningKey(purpose);
      store.signingKeys(purpose);
    }
    return store;
  } catch (error) {
    database?.close();
    if (error instanceof IdentityError) throw error;
    throw new IdentityError("ERR_IDENTITY_STORE", `${options.file} cannot be opened as an identity database`, { cause: error });
  }
}

function keyPlace(purpose: KeyPurpose, kid: string): string {
  return `signing key ${purpose} ${kid}`;
}

async function hashSecret(secret: string, salt: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    scrypt(secret, salt, SCRYPT_LENGTH, SCRYPT, (error, hash) => (error === null ? resolve(hash) : reject(error)));
  });
}
