import { createCipheriv, createDecipheriv } from "node:crypto";
import { concatBytes, encodeUtf8, type Random, type SealpodErrorOptions } from "@sealpod/core";

/** AES-256 key of the operator; everything private in the database is sealed with it. */
const MASTER_KEY_LENGTH = 32;
/** 96-bit random nonce: fewer than 2^32 records are ever sealed with one key (NIST SP 800-38D section 8.3). */
const NONCE_LENGTH = 12;
const TAG_LENGTH = 16;

/** The database that a service keeps sealed values in, and its errors: each service answers with codes of its own. */
export interface SealedDatabase {
  /** In messages, e.g. `the key database`. */
  readonly name: string;
  /** The error for a master key that is none. */
  readonly argumentError: (message: string) => Error;
  /** The error for a sealed value that does not open. */
  readonly storeError: (message: string, options: SealpodErrorOptions) => Error;
}

/** Seals small secrets for storage: nonce, ciphertext and tag of AES-256-GCM, bound to the place they belong to. */
export class MasterKey {
  readonly #key: Uint8Array;
  readonly #random: Random;
  readonly #database: SealedDatabase;

  /**
   * @param key 32 bytes
   * @throws {Error} `database.argumentError`
   */
  constructor(key: Uint8Array, random: Random, database: SealedDatabase) {
    if (key.length !== MASTER_KEY_LENGTH) throw database.argumentError(`the master key has ${key.length} bytes, expected ${MASTER_KEY_LENGTH}`);
    this.#key = Uint8Array.from(key);
    this.#random = random;
    this.#database = database;
  }

  /** @param place name of the record: a sealed value copied to another record does not open there */
  seal(plaintext: Uint8Array, place: string): Uint8Array {
    const nonce = this.#random.bytes(NONCE_LENGTH);
    const cipher = createCipheriv("aes-256-gcm", this.#key, nonce).setAAD(encodeUtf8(place));
    return concatBytes(nonce, cipher.update(plaintext), cipher.final(), cipher.getAuthTag());
  }

  /** @throws {Error} `storeError` of the database for another key, another place or changed bytes */
  open(sealed: Uint8Array, place: string): Uint8Array {
    try {
      const tag = sealed.subarray(sealed.length - TAG_LENGTH);
      const decipher = createDecipheriv("aes-256-gcm", this.#key, sealed.subarray(0, NONCE_LENGTH), { authTagLength: TAG_LENGTH });
      decipher.setAAD(encodeUtf8(place)).setAuthTag(tag);
      return concatBytes(decipher.update(sealed.subarray(NONCE_LENGTH, sealed.length - TAG_LENGTH)), decipher.final());
    } catch (cause) {
      throw this.#database.storeError(`${this.#database.name}: ${place} does not open with this master key`, {
        cause,
        hint: "Use the master key that the database was made with, or start with an empty state directory.",
      });
    }
  }
}
