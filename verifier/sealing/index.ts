export { SEALING_ERRORS, SealingError, type SealingErrorCode } from "./errors.ts";
export { KEY_RING_MIGRATION, openKeyRing, type KeyRingOptions } from "./key-ring.ts";
export { loadMasterKey, readMasterKey, type MasterKeyPorts, type MasterKeySource } from "./load-master-key.ts";
export { masterKeyOfBytes, masterKeyProvider, type MasterKeyProviderPorts, type MasterKeyProviderSource } from "./master-key-provider.ts";
export { MasterKey, type SealedDatabase } from "./master-key.ts";
export type { OaepHash, Pkcs11Source } from "./pkcs11.ts";
export type { KeyRing, MasterKeyProvider, WrappingKey } from "./types.ts";
