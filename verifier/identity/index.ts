export { AADSTS, type AadstsNumber, type AadstsRow } from "./aadsts.ts";
export { identityApp, type IdentityAppOptions } from "./app.ts";
export type { AuditLine } from "./audit.ts";
export { TOKEN_EXCHANGE_AUDIENCE, type FederatedCredential } from "./credential.ts";
export { IDENTITY_ERRORS, IdentityError, type IdentityErrorCode } from "./errors.ts";
export { FederatedIssuers, type FederationFetch, type FederationOptions } from "./federation.ts";
export { imdsApp, type ImdsOptions } from "./imds.ts";
export type { ManagementOptions, ManagementVerdict } from "./management.ts";
export { MANAGEMENT_RESOURCES, ownTokenAccess } from "./own-tokens.ts";
export { ROTATION_INTERVAL, startKeyRotation, type KeyRotation, type RotationTimer } from "./rotation.ts";
export { IDENTITY_PREFIX, startIdentityServer, type IdentityServerPorts, type RunningIdentity } from "./server.ts";
export { IDENTITY_SETTINGS, type IdentitySettings } from "./server-settings.ts";
export {
  issueServiceAccountToken,
  reviewServiceAccountToken,
  type ClusterIssuer,
  type ReviewedToken,
  type ServiceAccountToken,
  type ServiceAccountTokenRequest,
} from "./service-account.ts";
export type { KeyPurpose, KeySchedule, KeyStep, PublishedKey, SigningKey } from "./signing-keys.ts";
export {
  openIdentityStore,
  type Application,
  type ApplicationKind,
  type ApplicationRequest,
  type AuditQuery,
  type ClientCertificate,
  type ClientSecret,
  type IdentityStore,
  type IdentityStoreOptions,
} from "./store.ts";
export { type TokenResponse } from "./token-request.ts";
export { tenantIssuer, type Cluster, type IssuerForm, type TokenResource, type TokenService } from "./token-service.ts";
