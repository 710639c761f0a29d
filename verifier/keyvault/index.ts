export { keyvaultApp, type KeyvaultAppOptions, type KeyvaultEnv, type Vault } from "./app.ts";
export type { Caller, TokenIssuer } from "./bearer.ts";
export { KEYVAULT_ERRORS, KeyvaultError, type KeyvaultErrorCode } from "./errors.ts";
export type { Fetch } from "./issuer-keys.ts";
export type { KeyType } from "./key-material.ts";
export type { VaultKind } from "./key-request.ts";
export {
  KEY_PERMISSIONS,
  openKeyStore,
  type DeletedKey,
  type KeyPermission,
  type KeyRecord,
  type KeyStore,
  type KeyStoreOptions,
  type KeyUpdate,
  type NewKeyVersion,
  type ReleaseCheck,
  type ReleaseRecord,
  type StoredReleasePolicy,
} from "./key-store.ts";
export { findWrappingKey, parseWrapAlgorithm, wrapKey, type WrapAlgorithm, type WrappingKey } from "./key-wrap.ts";
export { EVIDENCE_ROOT_CLAIM, explainRelease, type ReleaseExplanation, type ReleaseSigner } from "./release.ts";
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
} from "./release-policy.ts";
