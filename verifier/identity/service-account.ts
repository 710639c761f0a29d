import { newUuid, type Clock, type JsonObject, type Random } from "@sealpod/core";
import { IdentityError } from "./errors.ts";
import { signToken } from "./jwt.ts";
import type { IdentityStore } from "./store.ts";

/** The audience that Entra ID expects of a federated token. */
export const TOKEN_EXCHANGE_AUDIENCE = "api://AzureADTokenExchange";

/** The token issuer of a cluster, as kube-apiserver is one. */
export interface ClusterIssuer {
  /** The `iss` claim: an https URL, compared exactly by everyone, a trailing slash included. */
  readonly issuer: string;
  readonly store: IdentityStore;
  readonly clock: Clock;
  readonly random: Random;
}

/** What a projected service-account token is asked for. */
export interface ServiceAccountTokenRequest {
  readonly namespace: string;
  readonly serviceAccount: { readonly name: string; readonly uid: string };
  /** The pod that the token is bound to. */
  readonly pod?: { readonly name: string; readonly uid: string };
  readonly node?: { readonly name: string; readonly uid: string };
  /** {@link TOKEN_EXCHANGE_AUDIENCE} when absent. */
  readonly audiences?: readonly string[];
  /** 600 to 86400 seconds; 3600 when absent. */
  readonly expirationSeconds?: number;
}

/** A token and when it ends. */
export interface ServiceAccountToken {
  readonly token: string;
  /** Seconds since 1970. */
  readonly expires: number;
}

/** The bounds that kube-apiserver puts on `expirationSeconds` (10 minutes to a day). */
const MIN_LIFETIME = 600;
const MAX_LIFETIME = 86_400;
const DEFAULT_LIFETIME = 3600;

/**
 * Issues a projected service-account token (specs/attestation.md 8.2).
 * @throws {IdentityError} ERR_IDENTITY_ARGUMENT for an empty name or audience, or a lifetime out of bounds
 */
export async function issueServiceAccountToken(cluster: ClusterIssuer, request: ServiceAccountTokenRequest): Promise<ServiceAccountToken> {
  const lifetime = request.expirationSeconds ?? DEFAULT_LIFETIME;
  if (!Number.isInteger(lifetime) || lifetime < MIN_LIFETIME || lifetime > MAX_LIFETIME) {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", `expirationSeconds is ${lifetime}, expected ${MIN_LIFETIME} to ${MAX_LIFETIME}`);
  }
  const audiences = request.audiences ?? [TOKEN_EXCHANGE_AUDIENCE];
  if (audiences.length === 0 || request.namespace === "" || request.serviceAccount.name === "") {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", "a service-account token needs a namespace, a service account and an audience");
  }
  const now = Math.floor(cluster.clock.now() / 1000);
  const expires = now + lifetime;
  const kubernetes: JsonObject = {
    namespace: request.namespace,
    ...(request.node === undefined ? {} : { node: { ...request.node } }),
    ...(request.pod === undefined ? {} : { pod: { ...request.pod } }),
    serviceaccount: { ...request.serviceAccount },
  };
  const claims: JsonObject = {
    aud: audiences,
    exp: expires,
    iat: now,
    iss: cluster.issuer,
    jti: newUuid(cluster.random),
    "kubernetes.io": kubernetes,
    nbf: now,
    sub: `system:serviceaccount:${request.namespace}:${request.serviceAccount.name}`,
  };
  return { token: await signToken(claims, cluster.store.signingKeys("cluster")[0]), expires };
}
