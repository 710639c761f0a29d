import type { Clock, Logger, Random } from "@sealpod/core";
import { AADSTS, type AadstsNumber } from "./aadsts.ts";
import { IdentityError } from "./errors.ts";
import type { FederatedIssuers } from "./federation.ts";
import type { IdentityStore } from "./store.ts";

/** A resource that access tokens are given for. */
export interface TokenResource {
  /** E.g. `https://vault.azure.net`; no trailing slash. What scopes and `resource` parameters name. */
  readonly resource: string;
  /** Form of the access tokens, as the resource's registration has it at Entra ID. Default 1.0. */
  readonly version?: "1.0" | "2.0";
  /** `aud` of the tokens; the resource if nothing is said. At Entra ID, tokens of version 2.0 have the resource's client id there. */
  readonly audience?: string;
}

/** A cluster whose tokens this service makes. */
export interface Cluster {
  /** Names its keys in the store. */
  readonly name: string;
  /** The `iss` of its tokens, https; a slash at the end belongs to it. */
  readonly issuer: string;
}

/** `iss` of access tokens of version 1.0: this service's own (that of version 2.0), or Entra ID's form `https://sts.windows.net/{tenant}/`, for relying parties that know no other. */
export type IssuerForm = "authority" | "sts";

/** What answers token requests. */
export interface TokenService {
  /** E.g. `https://login.sealpod.internal:8443`, without trailing slash. */
  readonly authority: string;
  /** Tenant ids: lower-case UUIDs. */
  readonly tenants: readonly string[];
  readonly resources: readonly (string | TokenResource)[];
  /** Clusters of this service: tokens of theirs may be exchanged. */
  readonly clusters: readonly Cluster[];
  /** Asks other issuers for their keys; without it tokens of this service's own clusters are exchanged alone. */
  readonly federation?: FederatedIssuers;
  /** Default `authority`. */
  readonly issuerForm?: IssuerForm;
  /** Seconds that an access token lives: 600 to 86400, default 3600. */
  readonly accessTokenLifetime?: number;
  /** Whether each token issued is a line of the audit. Default no: the log has them. */
  readonly auditTokens?: boolean;
  readonly store: IdentityStore;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger?: Logger;
}

/** Clocks of issuers and of this service may differ by this much, in seconds; Entra ID allows five minutes. */
export const CLOCK_SKEW = 300;

/** An error of the table in `aadsts.ts`. */
export function aadsts(number: AadstsNumber, message: string, cause?: unknown): IdentityError {
  return new IdentityError(AADSTS[number].code, message, { details: { aadsts: number }, cause });
}

/** The `iss` of access tokens of version 2.0, and the base of the tenant's OpenID configuration. */
export function tenantIssuer(authority: string, tenantId: string): string {
  return `${authority}/${tenantId}/v2.0`;
}

/** The `iss` of access tokens of version 1.0. */
export function firstIssuer(service: Pick<TokenService, "authority" | "issuerForm">, tenantId: string): string {
  return service.issuerForm === "sts" ? `https://sts.windows.net/${tenantId}/` : tenantIssuer(service.authority, tenantId);
}
