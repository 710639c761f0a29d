import { Hono, type Context } from "hono";
import { bodyLimit } from "hono/body-limit";
import { isSealpodError, messageOf, newUuid, type Logger } from "@sealpod/core";
import { AADSTS, type AadstsNumber } from "./aadsts.ts";
import { IdentityError } from "./errors.ts";
import type { SigningKey } from "./store.ts";
import { aadsts, exchangeToken, tenantIssuer, type TokenService } from "./token-request.ts";

/** A token request holds one assertion, a few KiB; this is what Entra ID's clients never come near. */
const MAX_BODY = 64 * 1024;

/** Options of {@link identityApp}. */
export interface IdentityAppOptions extends TokenService {
  readonly logger: Logger;
}

/**
 * The identity service as an HTTP application: the cluster's OIDC issuer (discovery and keys under the path of `clusterIssuer`)
 * and, for each tenant, the token endpoint, discovery and keys of Entra ID.
 * @throws {IdentityError} ERR_IDENTITY_ARGUMENT if `authority` or `clusterIssuer` is not a plain https URL
 */
export function identityApp(options: IdentityAppOptions): Hono {
  const authority = requirePlainUrl("authority", options.authority);
  const cluster = requirePlainUrl("clusterIssuer", options.clusterIssuer);
  if (authority.pathname !== "/" || options.authority.endsWith("/")) {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", `authority is ${options.authority}, expected scheme, host and port alone`);
  }
  const clusterPath = cluster.pathname.replace(/\/$/, "");
  const clusterBase = options.clusterIssuer.replace(/\/$/, "");

  const app = new Hono();
  app.get(`${clusterPath}/.well-known/openid-configuration`, (c) =>
    c.json({
      issuer: options.clusterIssuer,
      jwks_uri: `${clusterBase}/openid/v1/jwks`,
      response_types_supported: ["id_token"],
      subject_types_supported: ["public"],
      id_token_signing_alg_values_supported: ["RS256"],
    }),
  );
  app.get(`${clusterPath}/openid/v1/jwks`, (c) => c.json({ keys: options.store.signingKeys("cluster").map(publicJwk) }));

  app.get("/:tenant/v2.0/.well-known/openid-configuration", (c) => {
    const tenant = knownTenant(options, c.req.param("tenant"));
    return c.json({
      issuer: tenantIssuer(options.authority, tenant),
      token_endpoint: `${options.authority}/${tenant}/oauth2/v2.0/token`,
      authorization_endpoint: `${options.authority}/${tenant}/oauth2/v2.0/authorize`,
      end_session_endpoint: `${options.authority}/${tenant}/oauth2/v2.0/logout`,
      jwks_uri: `${options.authority}/${tenant}/discovery/v2.0/keys`,
      token_endpoint_auth_methods_supported: ["client_secret_post", "private_key_jwt"],
      response_types_supported: ["token"],
      subject_types_supported: ["pairwise"],
      id_token_signing_alg_values_supported: ["RS256"],
    });
  });
  app.get("/:tenant/discovery/v2.0/keys", (c) => {
    knownTenant(options, c.req.param("tenant"));
    return c.json({ keys: options.store.signingKeys("tenant").map(publicJwk) });
  });

  const limit = bodyLimit({
    maxSize: MAX_BODY,
    onError: () => Promise.reject(new IdentityError("ERR_IDENTITY_TOO_LARGE", `the request body is larger than ${MAX_BODY} bytes`)),
  });
  app.post("/:tenant/oauth2/v2.0/token", limit, async (c) => {
    const type = (c.req.header("content-type") ?? "").split(";")[0]?.trim().toLowerCase();
    if (type !== "application/x-www-form-urlencoded") {
      // What Entra ID says: it looks for the parameters in a form and finds none.
      throw aadsts(
        900144,
        `The request body must contain the following parameter: 'grant_type'. Expected application/x-www-form-urlencoded, found '${type ?? ""}'.`,
      );
    }
    const response = await exchangeToken(options, c.req.param("tenant"), new URLSearchParams(await c.req.text()));
    options.logger.log("info", "access token issued", { tenant: c.req.param("tenant") });
    return c.json(response, 200, { "cache-control": "no-store, no-cache", pragma: "no-cache" });
  });

  app.all("/:tenant/oauth2/v2.0/token", (c) => Promise.reject(aadsts(900561, `The endpoint only accepts POST requests. Received a ${c.req.method} request.`)));

  app.notFound((c) => c.json({ error: "not_found", error_description: `no such page: ${c.req.method} ${c.req.path.slice(0, 200)}` }, 404));
  app.onError((error, c) => errorResponse(options, error, c));
  return app;
}

function errorResponse(options: IdentityAppOptions, error: Error, c: Context): Response {
  const number = isSealpodError(error) ? error.details["aadsts"] : undefined;
  const traceId = newUuid(options.random);
  if (isSealpodError(error) && error.code === "ERR_IDENTITY_TOO_LARGE") {
    return c.json({ error: "invalid_request", error_description: error.message, trace_id: traceId }, 413);
  }
  if (typeof number !== "number" || !(number in AADSTS)) {
    // What went wrong inside is for the log; the caller gets the id that finds it there.
    options.logger.log("error", "token request failed", { trace: traceId, problem: messageOf(error) });
    return c.json({ error: "server_error", error_description: `The service failed. Trace ID: ${traceId}`, trace_id: traceId }, 500);
  }
  const row = AADSTS[number as AadstsNumber];
  const given = c.req.header("client-request-id") ?? "";
  const correlationId = /^[0-9a-fA-F-]{36}$/.test(given) ? given : newUuid(options.random);
  const timestamp = new Date(options.clock.now())
    .toISOString()
    .replace("T", " ")
    .replace(/\.\d+Z$/, "Z");
  options.logger.log("warn", "token request refused", { trace: traceId, aadsts: number, problem: error.message });
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
    { "cache-control": "no-store, no-cache" },
  );
}

function knownTenant(options: IdentityAppOptions, tenant: string): string {
  const id = tenant.toLowerCase();
  if (!options.tenants.includes(id)) throw aadsts(90002, `Tenant '${tenant.slice(0, 100)}' not found.`);
  return id;
}

function publicJwk(key: SigningKey): Record<string, unknown> {
  const { n, e } = key.publicKey.export({ format: "jwk" });
  return { use: "sig", kty: "RSA", kid: key.kid, alg: "RS256", n, e };
}

function requirePlainUrl(what: string, value: string): URL {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  if (url?.protocol !== "https:" || url.search !== "" || url.hash !== "" || url.username !== "" || url.password !== "") {
    throw new IdentityError("ERR_IDENTITY_ARGUMENT", `${what} is ${JSON.stringify(value)}, expected an https URL without query, fragment or user`);
  }
  return url;
}
