export { findRole, ROLES, type Role } from "./access-roles.ts";
export { ACTIONS, type AccessModel, type Action, type ActionName } from "./access.ts";
export { keyvaultApp, OPERATIONS, type KeyvaultAppOptions, type Vault } from "./app.ts";
export type { RestoreScope } from "./app/exchange.ts";
export type { Operation } from "./app/operation.ts";
export { rotateDue, type RotationContext } from "./app/rotation-schedule.ts";
export type { Caller, TokenIssuer } from "./bearer.ts";
export { KEYVAULT_ERRORS, KeyvaultError, type KeyvaultErrorCode } from "./errors.ts";
export type { Fetch } from "./issuer-keys.ts";
export type { KeyType } from "./key-material.ts";
export type { VaultKind } from "./key-request.ts";
export { findWrappingKey, parseWrapAlgorithm, wrapKey, type WrapAlgorithm, type WrappingKey } from "./key-wrap.ts";
export { explainRelease, formatAuditLine, type ReleaseExplanation } from "./explain-release.ts";
export { explainToken, type ExplainedCheck, type TokenExplanation } from "./explain-token.ts";
export { EVIDENCE_ROOT_CLAIM, type ExaminationContext } from "./release-examination.ts";
export { ReplaceableSigner, requireSigner, type ReleaseSigner } from "./release-signature.ts";
export {
  encodeReleasePolicy,
  evaluateReleasePolicy,
  parseReleasePolicy,
  type AuthorityPolicy,
  type ClaimCondition,
  type ClaimFinding,
  type Combination,
  type Condition,
  type PolicyEvaluation,
  type PolicyScalar,
  type ReleasePolicy,
} from "@sealpod/release-policy";
export {
  KEY_PERMISSIONS,
  MAX_BACKUP,
  MAX_SECRET_VALUE,
  openVaultStore,
  SECRET_PERMISSIONS,
  type AccessPolicy,
  type AuditCheck,
  type AuditFilter,
  type AuditLine,
  type BackupOrigin,
  type Deleted,
  type KeyPermission,
  type KeyRecord,
  type KeyUpdate,
  type NewKeyVersion,
  type NewSecretVersion,
  type Principal,
  type RoleAssignment,
  type SecretPermission,
  type SecretRecord,
  type SecretUpdate,
  type StoredAuditLine,
  type StoredReleasePolicy,
  type StoredRotationPolicy,
  type VaultStore,
  type VaultStoreOptions,
} from "./store/index.ts";
export {
  backupVaultDatabase,
  changeVaultMasterKey,
  checkVaultDatabase,
  readVaultAudit,
  rotateVaultWrappingKey,
  type MaintenanceSettings,
  type UnreadableRecord,
  type VaultCheck,
  type VaultCounts,
  type VaultRotation,
} from "./maintenance.ts";
export { openDatabaseAddress as openVaultDatabaseAddress, openMasterKey as openVaultMasterKey, type ConfiguredStorePorts } from "./server-database.ts";
export { startUpkeep, UPKEEP_INTERVAL, type Upkeep, type UpkeepOptions } from "./server-upkeep.ts";
export { KEYVAULT_PREFIX, startKeyvaultServer, type KeyvaultServerPorts, type RunningKeyvault } from "./server.ts";
export { KEYVAULT_SETTINGS, type KeyvaultSettings, type VaultSetting } from "./server-settings.ts";
