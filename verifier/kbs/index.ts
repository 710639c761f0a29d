export { ed25519Admins, type AdminAccess, type AdminVerdict } from "./admin.ts";
export { kbsApp, type KbsAppOptions } from "./app.ts";
export { KBS_ERRORS, KbsError, type KbsErrorCode } from "./errors.ts";
export { DEFAULT_ATTESTATION_POLICY, DEFAULT_RESOURCE_POLICY } from "./policy.ts";
export type { ReleasedKeys } from "./released-key.ts";
export { parseResourcePath, secretNameOf, type ResourcePath } from "./resource-path.ts";
export type { KbsStore } from "./state.ts";
export type { EvidenceRules } from "./verify-evidence.ts";
