import { Hono, type Context } from "hono";
import { decodeUtf8, isSealpodError, messageOf, newUuid, type JsonObject, type Logger } from "@sealpod/core";
import { requestBody, requestContext } from "@sealpod/service";
import { AADSTS, type AadstsNumber } from "./aadsts.ts";
import { IdentityError } from "./errors.ts";
import { addManagement, type ManagementOptions } from "./management.ts";
import { KEYS_CACHE_TIME, type PublishedKey } from "./signing-keys.ts";
import { exchangeToken, tokenResponse, type EndpointVersion } from "./token-request.ts";
import { aadsts, firstIssuer, tenantIssuer, type TokenService } from "./token-service.ts";

/** A token request holds one assertion, a few KiB; this is what Entra ID's clients never come near. */
const MAX_BODY: number = 64 * 1024;
/** Path of a cluster's issuer: no character that a route gives a meaning to. */
const ISSUER_PATH = /^\/[A-Za-z0-9._~/-]*$/;

/** Options of {@link identityApp}. */
export interface IdentityAppOptions extends TokenService {
  /** Who may manage applications, and how; nobody over HTTP when absent. */
  readonly management?: ManagementOptions;
  readonly logger: Logger;
}

/**
 * The identity service as an HTTP application: the OIDC issuers of its clusters (discovery and keys under the path of each issuer), for each tenant the token endpoints,
 * discovery and keys of Entra ID, instance discovery, and the management of applications if that is allowed.
 * @throws {IdentityError} ERR_IDENTITY_ARGUMENT if `authority` or a cluster's issuer is not a plain https URL
 */
export function identityApp(options: IdentityAppOptions): Hono {
  const authority = requirePlainUrl("authority", options.authority);
  if (authority.pathname !== "/" || options.authority.endsWith("/")) {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", `authority is ${options.authority}, expected scheme, host and port alone`);
  }
  const app = new Hono();
  addClusters(app, options);
  addDiscovery(app, options, authority.host);
  for (const [path, endpoint] of [
    ["/:tenant/oauth2/v2.0/token", "v2"],
    ["/:tenant/oauth2/token", "v1"],
  ] as const) {
    app.post(path, async (c) => answerToken(options, endpoint, c.req.param("tenant"), c));
    app.all(path, async (c) => Promise.reject(aadsts(900561, `The endpoint only accepts POST requests. Received a ${c.req.method} request.`)));
  }
  if (options.management !== undefined) addManagement(app, options, options.management);
  app.notFound((c) => c.json({ error: "not_found", error_description: `no such page: ${c.req.method} ${c.req.path.slice(0, 200)}` }, 404));
  app.onError((error, c) => errorResponse(options, error, c));
  return app;
}

/** Discovery and keys of each cluster, under the path of its issuer; the host is not looked at: proxies change it. */
function addClusters(app: Hono, { clusters, store }: IdentityAppOptions): void {
  const paths = new Set<string>();
  for (const { name, issuer } of clusters) {
    const { pathname } = requirePlainUrl(`the issuer of cluster ${name}`, issuer);
    const path = pathname.replace(/\/$/, "");
    if (!ISSUER_PATH.test(pathname) || paths.has(path)) {
      throw new IdentityError(
        "ERR_IDENTITY_ARGUMENT",
        `the issuer of cluster ${name} is ${issuer}, expected a path of its own of letters, digits, '.', '_', '~', '-' and '/'`,
      );
    }
    paths.add(path);
    const base = issuer.replace(/\/$/, "");
    app.get(`${path}/.well-known/openid-configuration`, (c) =>
      document(c, {
        issuer,
        jwks_uri: `${base}/openid/v1/jwks`,
        response_types_supported: ["id_token"],
        subject_types_supported: ["public"],
        id_token_signing_alg_values_supported: ["RS256"],
      }),
    );
    app.get(`${path}/openid/v1/jwks`, (c) => document(c, { keys: store.signingKeys("cluster", name).map(publicJwk) }));
  }
}

function addDiscovery(app: Hono, options: IdentityAppOptions, host: string): void {
  const { authority } = options;
  const configuration = (tenant: string, endpoint: EndpointVersion): JsonObject => {
    const path = endpoint === "v2" ? "oauth2/v2.0" : "oauth2";
    return {
      issuer: endpoint === "v2" ? tenantIssuer(authority, tenant) : firstIssuer(options, tenant),
      token_endpoint: `${authority}/${tenant}/${path}/token`,
      authorization_endpoint: `${authority}/${tenant}/${path}/authorize`,
      end_session_endpoint: `${authority}/${tenant}/${path}/logout`,
      jwks_uri: `${authority}/${tenant}/discovery/${endpoint === "v2" ? "v2.0/" : ""}keys`,
      token_endpoint_auth_methods_supported: ["client_secret_post", "private_key_jwt", "client_secret_basic"],
      response_types_supported: ["token"],
      subject_types_supported: ["pairwise"],
      id_token_signing_alg_values_supported: ["RS256"],
    };
  };
  app.get("/:tenant/v2.0/.well-known/openid-configuration", (c) => document(c, configuration(knownTenant(options, c.req.param("tenant")), "v2")));
  app.get("/:tenant/.well-known/openid-configuration", (c) => document(c, configuration(knownTenant(options, c.req.param("tenant")), "v1")));
  for (const path of ["/:tenant/discovery/v2.0/keys", "/:tenant/discovery/keys"] as const) {
    app.get(path, (c) => {
      knownTenant(options, c.req.param("tenant"));
      return document(c, { keys: options.store.signingKeys("tenant").map(publicJwk) });
    });
  }
  // MSAL asks its own cloud whether it knows an authority; who has that request sent here finds the service vouching for itself.
  app.get("/common/discovery/instance", (c) => {
    const asked = c.req.query("authorization_endpoint") ?? "";
    const url = URL.canParse(asked) ? new URL(asked) : undefined;
    const tenant = url?.pathname.split("/")[1] ?? "";
    if (url?.host !== host)
      return c.json({ error: "invalid_instance", error_description: "AADSTS50049: Unknown or invalid instance.", error_codes: [50049] }, 400);
    return document(c, {
      tenant_discovery_endpoint: `${authority}/${knownTenant(options, tenant)}/v2.0/.well-known/openid-configuration`,
      "api-version": "1.1",
      metadata: [{ preferred_network: host, preferred_cache: host, aliases: [host] }],
    });
  });
}

async function answerToken(options: IdentityAppOptions, endpoint: EndpointVersion, tenant: string, c: Context): Promise<Response> {
  const type = (c.req.header("content-type") ?? "").split(";")[0]?.trim().toLowerCase();
  const body = await requestBody(c, MAX_BODY);
  if (type !== "application/x-www-form-urlencoded") {
    // What Entra ID says: it looks for the parameters in a form and finds none.
    throw aadsts(
      900144,
      `The request body must contain the following parameter: 'grant_type'. Expected application/x-www-form-urlencoded, found '${(type ?? "").slice(0, 100)}'.`,
    );
  }
  const parameters = new URLSearchParams(decodeForm(body));
  const { application, resource, proof, access } = await exchangeToken(options, { tenant, endpoint, parameters, authorization: c.req.header("authorization") });
  const fields = { tenant: application.tenantId, application: application.clientId, resource: resource.resource, proof, uti: access.uti };
  requestContext(c).note(fields);
  options.logger.log("info", "access token issued", fields);
  return c.json(tokenResponse(access), 200, { "cache-control": "no-store, no-cache", pragma: "no-cache", ...correlation(c) });
}

function decodeForm(body: Uint8Array): string {
  try {
    return decodeUtf8(body, "the request body");
  } catch (cause) {
    throw aadsts(9000411, `The request is not properly formatted: ${messageOf(cause)}.`, cause);
  }
}

function errorResponse(options: IdentityAppOptions, error: Error, c: Context): Response {
  const number = isSealpodError(error) ? error.details["aadsts"] : undefined;
  const traceId = newUuid(options.random);
  if (isSealpodError(error) && (error.code === "ERR_IDENTITY_TOO_LARGE" || error.code === "ERR_SERVICE_BODY")) {
    return c.json({ error: "invalid_request", error_description: error.message, trace_id: traceId }, 413);
  }
  const { logger } = requestContext(c, options.logger);
  if (typeof number !== "number" || !(number in AADSTS)) {
    // What went wrong inside is for the log; the caller gets the id that finds it there.
    logger.log("error", "token request failed", { trace: traceId, problem: messageOf(error) });
    return c.json({ error: "server_error", error_description: `The service failed. Trace ID: ${traceId}`, trace_id: traceId }, 500);
  }
  const row = AADSTS[number as AadstsNumber];
  const given = c.req.header("client-request-id") ?? c.req.query("client-request-id") ?? "";
  const correlationId = /^[0-9a-fA-F-]{36}$/.test(given) ? given : newUuid(options.random);
  const timestamp = new Date(options.clock.now())
    .toISOString()
    .replace("T", " ")
    .replace(/\.\d+Z$/, "Z");
  requestContext(c).note({ aadsts: number });
  logger.log("warn", "token request refused", { trace: traceId, aadsts: number, problem: error.message });
  return c.json(
    {
      error: row.error,
      error_description: `AADSTS${number}: ${error.message}\r\nTrace ID: ${traceId}\r\nCorrelation ID: ${correlationId}\r\nTimestamp: ${timestamp}`,
      error_codes: [number],
      timestamp,
      trace_id: traceId,
      correlation_id: correlationId,
      error_uri: `${options.authority}/error?code=${number}`,
    },
    row.status,
    { "cache-control": "no-store, no-cache", ...correlation(c) },
  );
}

/** The id that a client gave its request, if it wants it back. */
function correlation(c: Context): Record<string, string> {
  const wanted = c.req.header("return-client-request-id") === "true";
  const given = c.req.header("client-request-id") ?? "";
  return wanted && /^[0-9a-fA-F-]{36}$/.test(given) ? { "client-request-id": given } : {};
}

function document(c: Context, body: JsonObject): Response {
  return c.json(body, 200, { "cache-control": `max-age=${KEYS_CACHE_TIME / 1000}` });
}

function knownTenant(options: IdentityAppOptions, tenant: string): string {
  const id = tenant.toLowerCase();
  if (!options.tenants.includes(id)) throw aadsts(90002, `Tenant '${tenant.slice(0, 100)}' not found.`);
  return id;
}

function publicJwk(key: PublishedKey): JsonObject {
  const { n = "", e = "" } = key.publicKey.export({ format: "jwk" });
  return { use: "sig", kty: "RSA", kid: key.kid, alg: "RS256", n, e };
}

function requirePlainUrl(what: string, value: string): URL {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  if (url?.protocol !== "https:" || url.search !== "" || url.hash !== "" || url.username !== "" || url.password !== "") {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", `${what} is ${JSON.stringify(value)}, expected an https URL without query, fragment or user`);
  }
  return url;
}
