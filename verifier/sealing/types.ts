/** The key at the root of everything sealed. It wraps keys and nothing else, so that it can live in a security module and be used seldom. */
export interface MasterKeyProvider {
  /** Names the key without telling it, e.g. `aes:3f9a…` (a hash of the key, wherever it was read from) or `rsa:77c0…` (a hash of the public key in the token): kept beside what it wrapped, so that a wrong key is named as such. */
  readonly id: string;
  /**
   * Wraps 32 bytes.
   * @param place what the key is for: it opens nowhere else
   * @throws {SealingError} ERR_SEALING_PKCS11
   */
  wrap(key: Uint8Array, place: string): Promise<Uint8Array>;
  /** @throws {SealingError} ERR_SEALING_MASTER_KEY if it does not open, ERR_SEALING_PKCS11 */
  unwrap(wrapped: Uint8Array, place: string): Promise<Uint8Array>;
}

/** A wrapping key of the ring, without its bytes. */
export interface WrappingKey {
  /** Positive integer; the first 4 bytes (big endian) behind the version byte of what it sealed. */
  readonly id: number;
  readonly state: "active" | "retired";
  /** Milliseconds since 1970. */
  readonly created: number;
  /** Id of the master key that wraps it. */
  readonly master: string;
}

/** Seals records with a wrapping key that can be replaced while the service runs; several processes share the ring through its table. */
export interface KeyRing {
  readonly keys: readonly WrappingKey[];
  /** Seals with the active wrapping key: `{1, id, nonce, ciphertext, tag}` of AES-256-GCM, bound to `place`. */
  seal(plaintext: Uint8Array, place: string): { readonly sealed: Uint8Array; readonly keyId: number };
  /**
   * Opens; a wrapping key that this process does not know yet is looked up in the table.
   * @throws {SealingError} ERR_SEALING_RECORD for another place, changed bytes or a key that is gone
   */
  open(sealed: Uint8Array, place: string): Promise<Uint8Array>;
  /** Makes a new active wrapping key; the old ones only open from now on. */
  rotate(): Promise<WrappingKey>;
  /** Reads the table again. */
  reload(): Promise<void>;
  /** Wraps every wrapping key with another master key, in one transaction, and uses it from then on. */
  changeMaster(next: MasterKeyProvider): Promise<void>;
  /** Forgets keys that were retired more than `age` milliseconds ago and that no record refers to (foreign keys keep the others); returns their ids. */
  removeUnused(age: number): Promise<readonly number[]>;
  /** For a backup: sealed with a fresh key that the master key itself wraps, so that it opens in another database with the same master key. */
  sealBackup(plaintext: Uint8Array, place: string): Promise<Uint8Array>;
  /** @throws {SealingError} ERR_SEALING_RECORD, ERR_SEALING_MASTER_KEY */
  openBackup(sealed: Uint8Array, place: string): Promise<Uint8Array>;
}
