export { DEFAULT_COMPLIANCE_STATUS } from "./config.ts";
export { IMPORTKEY_ERRORS, ImportKeyError } from "./errors.ts";
export type { ImportKeyErrorCode } from "./errors.ts";
export { importKey, prepareKey } from "./import-key.ts";
export type { ImportKeyInput, ImportKeyResult, KeySource, PreparedKey, VaultAnswer, VaultPorts, VaultRequest } from "./import-key.ts";
export { encodeReleasePolicy, podClaims } from "./release-policy.ts";
export type { Alternative, Claim, ReleasePolicy } from "./release-policy.ts";
export { runImportKey } from "./run.ts";
export type { ImportKeyOptions, ImportKeyPorts } from "./run.ts";
