import { toBase64url, type JsonObject } from "@sealpod/core";
import { quote } from "./hints.ts";
import { signToken } from "./jwt.ts";
import type { Application } from "./store.ts";
import { aadsts, firstIssuer, tenantIssuer, type TokenResource, type TokenService } from "./token-service.ts";

/** Seconds. Entra ID gives 60 to 90 minutes. */
const LIFETIME = 3600;
/** Bytes of `uti`, which names a token in the logs of both ends. */
const UTI_LENGTH = 16;

/** An access token that was issued. */
export interface AccessToken {
  readonly token: string;
  /** Seconds since 1970. */
  readonly issued: number;
  readonly expires: number;
  /** Names the token in logs; it opens nothing. */
  readonly uti: string;
}

/** How the client proved who it is: `appidacr` and `azpacr` of its tokens. */
export type ClientProof = "secret" | "assertion";

/**
 * The configured resource of a name.
 * @throws {IdentityError} AADSTS500011
 */
export function resourceOf(service: TokenService, name: string): TokenResource {
  // A resource whose own name ends with a slash is asked for with it: scopes come as `https://vault.azure.net//.default`.
  const bare = name.replace(/\/$/, "");
  const found = service.resources.map((item) => (typeof item === "string" ? { resource: item } : item)).find(({ resource }) => resource === bare);
  if (found !== undefined) return found;
  const known = service.resources.map((item) => (typeof item === "string" ? item : item.resource));
  throw aadsts(500011, `The resource principal named ${quote(name)} was not found in the tenant. This service knows ${known.join(", ")}.`);
}

/** Issues an access token to an application (specs/attestation.md 8.4). @param lifetime seconds */
export async function issueAccessToken(
  service: TokenService,
  application: Application,
  resource: TokenResource,
  proof: ClientProof,
  lifetime: number = service.accessTokenLifetime ?? LIFETIME,
): Promise<AccessToken> {
  const issued = Math.floor(service.clock.now() / 1000);
  const uti = toBase64url(service.random.bytes(UTI_LENGTH));
  const times = { iat: issued, nbf: issued, exp: issued + lifetime };
  const claims =
    resource.version === "2.0" ? second(service, application, resource, proof, times, uti) : first(service, application, resource, proof, times, uti);
  const token = await signToken(claims, service.store.signingKeys("tenant")[0]);
  if (service.auditTokens === true) await service.store.recordToken(application, { uti, resource: resource.resource, proof, expires: times.exp });
  return { token, issued, expires: times.exp, uti };
}

type Times = Readonly<Record<"iat" | "nbf" | "exp", number>>;

function first(service: TokenService, application: Application, resource: TokenResource, proof: ClientProof, times: Times, uti: string): JsonObject {
  const { clientId, objectId, tenantId } = application;
  const issuer = firstIssuer(service, tenantId);
  return {
    aud: resource.audience ?? resource.resource,
    iss: issuer,
    ...times,
    appid: clientId,
    appidacr: proof === "secret" ? "1" : "2",
    idp: issuer,
    oid: objectId,
    sub: objectId,
    tid: tenantId,
    uti,
    ver: "1.0",
    ...identityClaims(application),
  };
}

function second(service: TokenService, application: Application, resource: TokenResource, proof: ClientProof, times: Times, uti: string): JsonObject {
  const { clientId, objectId, tenantId } = application;
  return {
    aud: resource.audience ?? resource.resource,
    iss: tenantIssuer(service.authority, tenantId),
    ...times,
    azp: clientId,
    azpacr: proof === "secret" ? "1" : "2",
    oid: objectId,
    sub: objectId,
    tid: tenantId,
    uti,
    ver: "2.0",
    ...identityClaims(application),
  };
}

function identityClaims({ resourceId }: Application): JsonObject {
  return resourceId === undefined ? {} : { xms_mirid: resourceId };
}
