import { createHash, createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { decodeUtf8, encodeUtf8, type Clock, type Random } from "@sealpod/core";
import { generateKey, issueCertificate, keyUsage, OID } from "@sealpod/pki";
import { MasterKey, type SealedDatabase } from "@sealpod/sealing";
import { AttestationError } from "./errors.ts";

const SEALED_DATABASE: SealedDatabase = {
  name: "the attestation database",
  argumentError: (message) => new AttestationError("ERR_ATTESTATION_ARGUMENT", message),
  storeError: (message, options) => new AttestationError("ERR_ATTESTATION_STORE", message, options),
};

const SCHEMA_VERSION = 1;
const SCHEMA = "CREATE TABLE signing_keys (kid TEXT PRIMARY KEY, certificate BLOB NOT NULL, sealed BLOB NOT NULL) STRICT;";

/** Relying parties pin nothing but the issuer's TLS name, so the certificate only carries the key; ten years outlast any installation. */
const CERTIFICATE_LIFETIME = 10 * 365 * 24 * 60 * 60 * 1000;

/** A key that signs tokens with RS256. */
export interface SigningKey {
  /** Base64 SHA-256 of the certificate: the service's own form, with `/`, `+` and `=`. */
  readonly kid: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  /** DER of the self-signed certificate. */
  readonly certificate: Uint8Array;
}

/** Options of {@link openAttestationStore}. */
export interface AttestationStoreOptions {
  /** Path of the SQLite database, or `:memory:`. */
  readonly file: string;
  /** 32 bytes; seals the signing keys. */
  readonly masterKey: Uint8Array;
  readonly clock: Clock;
  readonly random: Random;
}

/** The signing keys, in one SQLite database. */
export class AttestationStore {
  readonly #database: DatabaseSync;
  readonly #masterKey: MasterKey;
  readonly #clock: Clock;
  readonly #random: Random;
  /** Opened keys by `kid`; a kid names one key for ever, so nothing here goes stale. */
  readonly #opened = new Map<string, SigningKey>();

  /** Use {@link openAttestationStore}. */
  constructor(database: DatabaseSync, masterKey: MasterKey, options: AttestationStoreOptions) {
    this.#database = database;
    this.#masterKey = masterKey;
    this.#clock = options.clock;
    this.#random = options.random;
  }

  /** The key that signs now, and after it those whose tokens may still be about. */
  signingKeys(): readonly [SigningKey, ...SigningKey[]] {
    const [first, ...others] = this.#database
      .prepare("SELECT kid, certificate, sealed FROM signing_keys ORDER BY rowid DESC")
      .all()
      .map((row) => this.#open(row["kid"] as string, row["certificate"] as Uint8Array, row["sealed"] as Uint8Array));
    if (first === undefined) throw new AttestationError("ERR_ATTESTATION_STORE", "the attestation database has no signing key");
    return [first, ...others];
  }

  /** Makes a new signing key; the older ones stay published so that their tokens still verify. */
  async rotateSigningKey(): Promise<void> {
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
    const sealed = this.#masterKey.seal(encodeUtf8(key.export({ type: "pkcs8", format: "pem" }) as string), keyPlace(kid));
    this.#database.prepare("INSERT INTO signing_keys (kid, certificate, sealed) VALUES (?, ?, ?)").run(kid, der, sealed);
  }

  /** Closes the database. */
  close(): void {
    this.#database.close();
  }

  #open(kid: string, certificate: Uint8Array, sealed: Uint8Array): SigningKey {
    const opened = this.#opened.get(kid);
    if (opened !== undefined) return opened;
    const privateKey = createPrivateKey(decodeUtf8(this.#masterKey.open(sealed, keyPlace(kid))));
    const key: SigningKey = { kid, privateKey, publicKey: createPublicKey(privateKey), certificate };
    this.#opened.set(kid, key);
    return key;
  }
}

/**
 * Opens the database, makes its table and a signing key (RSA 2048, self-signed certificate) on first use, and proves that the master key opens them.
 * @throws {AttestationError} ERR_ATTESTATION_STORE, ERR_ATTESTATION_ARGUMENT
 */
export async function openAttestationStore(options: AttestationStoreOptions): Promise<AttestationStore> {
  const masterKey = new MasterKey(options.masterKey, options.random, SEALED_DATABASE);
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(options.file);
    database.exec("PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE");
    const version = Number(database.prepare("PRAGMA user_version").get()?.["user_version"] ?? 0);
    if (version === 0) database.exec(`${SCHEMA} PRAGMA user_version = ${SCHEMA_VERSION}`);
    else if (version !== SCHEMA_VERSION) {
      throw new AttestationError("ERR_ATTESTATION_STORE", `${options.file} has schema ${version}, this program knows ${SCHEMA_VERSION}`, {
        hint: "Use the version of Sealpod that made it, or start with an empty state directory.",
      });
    }
    database.exec("COMMIT");
    const store = new AttestationStore(database, masterKey, options);
    if (database.prepare("SELECT count(*) AS count FROM signing_keys").get()?.["count"] === 0) await store.rotateSigningKey();
    store.signingKeys();
    return store;
  } catch (error) {
    database?.close();
    if (error instanceof AttestationError) throw error;
    throw new AttestationError("ERR_ATTESTATION_STORE", `${options.file} cannot be opened as an attestation database`, { cause: error });
  }
}

/** Binds a sealed key to its certificate: the kid is its hash. */
function keyPlace(kid: string): string {
  return `signing key ${kid}`;
}
