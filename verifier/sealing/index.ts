export { SEALING_ERRORS, SealingError, type SealingErrorCode } from "./errors.ts";
export { loadMasterKey, readMasterKey, type MasterKeyPorts, type MasterKeySource } from "./load-master-key.ts";
export { MasterKey, type SealedDatabase } from "./master-key.ts";
