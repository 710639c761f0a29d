import { createHash } from "node:crypto";
import { concatBytes, encodeUtf8, toHex, type Random } from "@sealpod/core";
import { decrypt, encrypt, NONCE_LENGTH } from "./aead.ts";
import { doesNotOpen, SealingError } from "./errors.ts";
import { loadMasterKey, type MasterKeyPorts, type MasterKeySource } from "./load-master-key.ts";
import { pkcs11MasterKey, type Pkcs11Source } from "./pkcs11.ts";
import type { MasterKeyProvider } from "./types.ts";

/** Where a service's master key is: in a file, in an environment variable, or in a token; in one of the three. */
export interface MasterKeyProviderSource extends MasterKeySource {
  readonly pkcs11?: Pkcs11Source | undefined;
}

/** What {@link masterKeyProvider} needs of the process. */
export interface MasterKeyProviderPorts extends MasterKeyPorts {
  readonly random: Random;
}

/** First byte of what a key of bytes has wrapped. */
const WRAPPED_VERSION = 1;
/** Keeps the hash that names a key apart from every other use of it. */
const NAME_LABEL = "sealpod master key\0";
/** Characters of the hash. */
const NAME_LENGTH = 16;

/**
 * The master key of a service, from where its configuration says.
 * @throws {SealingError} ERR_SEALING_MASTER_KEY, ERR_SEALING_MASTER_KEY_ACCESS, ERR_SEALING_PKCS11
 */
export async function masterKeyProvider(source: MasterKeyProviderSource, ports: MasterKeyProviderPorts): Promise<MasterKeyProvider> {
  if (source.pkcs11 !== undefined) {
    if (source.file !== undefined || source.environment !== undefined) {
      throw new SealingError("ERR_SEALING_MASTER_KEY", "the master key is given twice, in a token and as a file or variable", {
        hint: "To change from one to the other, see changeMaster of the key ring.",
      });
    }
    return pkcs11MasterKey(source.pkcs11, ports);
  }
  return masterKeyOfBytes(await loadMasterKey(source, ports), ports.random);
}

/**
 * A master key that the process itself holds.
 * @param key 32 bytes
 * @throws {SealingError} ERR_SEALING_MASTER_KEY
 */
export function masterKeyOfBytes(key: Uint8Array, random: Random): MasterKeyProvider {
  // The bytes alone: a key of printable characters is refused in a file, where it can be a passphrase.
  if (key.length !== 32) throw new SealingError("ERR_SEALING_MASTER_KEY", `the master key has ${key.length} bytes, expected 32`);
  const own = Uint8Array.from(key);
  // 64 bits of a hash of 256 random ones: names it, and tells nothing that helps to find it.
  const id = `aes:${toHex(createHash("sha256").update(NAME_LABEL).update(own).digest()).slice(0, NAME_LENGTH)}`;
  const contextOf = (place: string): Uint8Array => concatBytes(Uint8Array.of(WRAPPED_VERSION), encodeUtf8(place));
  return {
    id,
    wrap: async (wanted, place) => concatBytes(Uint8Array.of(WRAPPED_VERSION), encrypt(own, random.bytes(NONCE_LENGTH), wanted, contextOf(place))),
    unwrap: async (wrapped, place) => {
      try {
        if (wrapped[0] !== WRAPPED_VERSION) throw new Error(`version ${wrapped[0] ?? "missing"}, expected ${WRAPPED_VERSION}`);
        return decrypt(own, wrapped.subarray(1), contextOf(place));
      } catch (cause) {
        throw doesNotOpen(place, id, cause);
      }
    },
  };
}
