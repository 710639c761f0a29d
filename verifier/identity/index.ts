export { AADSTS, type AadstsNumber, type AadstsRow } from "./aadsts.ts";
export { identityApp, type IdentityAppOptions } from "./app.ts";
export { IDENTITY_ERRORS, IdentityError, type IdentityErrorCode } from "./errors.ts";
export {
  issueServiceAccountToken,
  TOKEN_EXCHANGE_AUDIENCE,
  type ClusterIssuer,
  type ServiceAccountToken,
  type ServiceAccountTokenRequest,
} from "./service-account.ts";
export {
  openIdentityStore,
  type Application,
  type FederatedCredential,
  type IdentityStore,
  type IdentityStoreOptions,
  type KeyPurpose,
  type SigningKey,
} from "./store.ts";
export { tenantIssuer, type TokenResponse, type TokenService } from "./token-request.ts";
