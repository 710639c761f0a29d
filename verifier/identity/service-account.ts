import { asArray, asObject, newUuid, type Clock, type JsonObject, type JsonValue, type Random } from "@sealpod/core";
import { TOKEN_EXCHANGE_AUDIENCE } from "./credential.ts";
import { IdentityError } from "./errors.ts";
import { parseUnverified, signToken, verifySignature } from "./jwt.ts";
import { DEFAULT_SCOPE } from "./signing-keys.ts";
import type { IdentityStore } from "./store.ts";

/** The token issuer of a cluster, as kube-apiserver is one. */
export interface ClusterIssuer {
  /** The `iss` claim: an https URL, compared exactly by everyone, a trailing slash included. */
  readonly issuer: string;
  /** Names its signing keys in the store, whatever the issuer is called. Default `default`. */
  readonly name?: string;
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
  readonly node?: { readonly name: string; readonly uid?: string };
  /** {@link TOKEN_EXCHANGE_AUDIENCE} when absent; 1 to 16. */
  readonly audiences?: readonly string[];
  /** 600 to 86400 seconds; 3600 when absent. The webhook of azure-workload-identity asks for 3600 or more. */
  readonly expirationSeconds?: number;
  /** Seconds after which kube-apiserver warns about the token's use (`warnafter`); less than the lifetime. */
  readonly warnAfterSeconds?: number;
}

/** A token and when it ends. */
export interface ServiceAccountToken {
  readonly token: string;
  /** Seconds since 1970. */
  readonly expires: number;
}

/** Who a verified service-account token is for, as a TokenReview names it. */
export interface ReviewedToken {
  /** `system:serviceaccount:{namespace}:{name}`. */
  readonly username: string;
  /** Of the service account. */
  readonly uid: string;
  readonly groups: readonly string[];
  /** Pod, node and the token's id, under Kubernetes' names. */
  readonly extra: Readonly<Record<string, readonly string[]>>;
  /** Those asked for that the token has. */
  readonly audiences: readonly string[];
}

/** The bounds that kube-apiserver puts on `expirationSeconds` (10 minutes to a day). */
const MIN_LIFETIME = 600;
const MAX_LIFETIME = 86_400;
const DEFAULT_LIFETIME = 3600;
const MAX_AUDIENCES = 16;
/** Longest name of a Kubernetes object, and longest audience. */
const MAX_NAME = 253;
const MAX_AUDIENCE = 600;

/**
 * Issues a projected service-account token (specs/attestation.md 8.2).
 * @throws {IdentityError} ERR_IDENTITY_ARGUMENT for a name or audience that is none, or a lifetime out of bounds
 */
export async function issueServiceAccountToken(cluster: ClusterIssuer, request: ServiceAccountTokenRequest): Promise<ServiceAccountToken> {
  const lifetime = request.expirationSeconds ?? DEFAULT_LIFETIME;
  if (!Number.isInteger(lifetime) || lifetime < MIN_LIFETIME || lifetime > MAX_LIFETIME) {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", `expirationSeconds is ${lifetime}, expected ${MIN_LIFETIME} to ${MAX_LIFETIME}`);
  }
  const { warnAfterSeconds } = request;
  if (warnAfterSeconds !== undefined && (!Number.isInteger(warnAfterSeconds) || warnAfterSeconds < 1 || warnAfterSeconds >= lifetime)) {
    throw new IdentityError(
      "ERR_IDENTITY_ARGUMENT",
      `warnAfterSeconds is ${warnAfterSeconds}, expected 1 to less than the ${lifetime} seconds that the token lives`,
    );
  }
  const audiences = request.audiences ?? [TOKEN_EXCHANGE_AUDIENCE];
  if (audiences.length === 0 || audiences.length > MAX_AUDIENCES || audiences.some((audience) => audience === "" || audience.length > MAX_AUDIENCE)) {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", `a service-account token needs 1 to ${MAX_AUDIENCES} audiences of ${MAX_AUDIENCE} characters or fewer`);
  }
  for (const [what, name] of [
    ["namespace", request.namespace],
    ["service account", request.serviceAccount.name],
    ["pod", request.pod?.name ?? "pod"],
    ["node", request.node?.name ?? "node"],
  ] as const) {
    // A colon would make the subject of one service account that of another in another namespace.
    if (!/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(name) || name.length > MAX_NAME) {
      throw new IdentityError(
        "ERR_IDENTITY_ARGUMENT",
        `the ${what} ${JSON.stringify(name.slice(0, 100))} has no name of Kubernetes: lower-case letters, digits, '-' and '.'`,
      );
    }
  }
  const now = Math.floor(cluster.clock.now() / 1000);
  const expires = now + lifetime;
  const kubernetes: JsonObject = {
    namespace: request.namespace,
    ...(request.node === undefined ? {} : { node: { name: request.node.name, ...(request.node.uid === undefined ? {} : { uid: request.node.uid }) } }),
    ...(request.pod === undefined ? {} : { pod: { name: request.pod.name, uid: request.pod.uid } }),
    serviceaccount: { name: request.serviceAccount.name, uid: request.serviceAccount.uid },
    ...(warnAfterSeconds === undefined ? {} : { warnafter: now + warnAfterSeconds }),
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
  return { token: await signToken(claims, cluster.store.signingKeys("cluster", cluster.name ?? DEFAULT_SCOPE)[0]), expires };
}

/**
 * Verifies a service-account token of this cluster, as a TokenReview does: signature, issuer, time, and at least one of the audiences.
 * @param audiences any of them; the issuer itself when empty, as kube-apiserver has it
 * @throws {IdentityError} ERR_IDENTITY_ASSERTION, ERR_IDENTITY_EXPIRED
 */
export async function reviewServiceAccountToken(cluster: ClusterIssuer, token: string, audiences: readonly string[]): Promise<ReviewedToken> {
  const { header } = parseUnverified(token);
  const { kid } = header;
  const key = typeof kid === "string" ? await cluster.store.findKey("cluster", cluster.name ?? DEFAULT_SCOPE, kid) : undefined;
  if (key === undefined) throw refused("its key is none of the cluster's");
  const claims = await verifySignature(token, key);
  const { iss, sub, exp, nbf, jti } = claims;
  if (iss !== cluster.issuer) throw refused(`its issuer is not ${cluster.issuer}`);
  const now = Math.floor(cluster.clock.now() / 1000);
  if (typeof exp !== "number" || typeof nbf !== "number") throw refused("exp or nbf is not a number");
  if (exp <= now || nbf > now) throw new IdentityError("ERR_IDENTITY_EXPIRED", "the token is not, or no longer, in its time");
  const wanted = audiences.length === 0 ? [cluster.issuer] : audiences;
  const own = strings(claims["aud"]);
  const found = wanted.filter((audience) => own.includes(audience));
  if (found.length === 0) throw refused("it is for none of the audiences that were asked for");
  const kubernetes = asObject(claims["kubernetes.io"]);
  const account = asObject(kubernetes?.["serviceaccount"]);
  const namespace = kubernetes?.["namespace"];
  if (typeof sub !== "string" || typeof namespace !== "string" || sub !== `system:serviceaccount:${namespace}:${textOf(account, "name")}`) {
    throw refused("its subject is not that of its service account");
  }
  const extra: Record<string, readonly string[]> = {};
  for (const [name, object] of [
    ["pod", asObject(kubernetes?.["pod"])],
    ["node", asObject(kubernetes?.["node"])],
  ] as const) {
    if (object?.["name"] !== undefined) extra[`authentication.kubernetes.io/${name}-name`] = [textOf(object, "name")];
    if (object?.["uid"] !== undefined) extra[`authentication.kubernetes.io/${name}-uid`] = [textOf(object, "uid")];
  }
  if (typeof jti === "string") extra["authentication.kubernetes.io/credential-id"] = [`JTI=${jti}`];
  return {
    username: sub,
    uid: textOf(account, "uid"),
    groups: ["system:serviceaccounts", `system:serviceaccounts:${namespace}`, "system:authenticated"],
    extra,
    audiences: found,
  };
}

function refused(problem: string): IdentityError {
  return new IdentityError("ERR_IDENTITY_ASSERTION", `the service-account token is refused: ${problem}`);
}

function strings(value: JsonValue | undefined): readonly string[] {
  return (asArray(value) ?? [value]).filter((item) => typeof item === "string");
}

function textOf(object: JsonObject | undefined, name: string): string {
  const value = object?.[name];
  return typeof value === "string" ? value : "";
}
