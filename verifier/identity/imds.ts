import { Hono, type Context } from "hono";
import { isSealpodError, messageOf, newUuid, type Logger } from "@sealpod/core";
import { requestContext } from "@sealpod/service";
import { issueAccessToken, resourceOf } from "./access-token.ts";
import { AADSTS, type AadstsNumber } from "./aadsts.ts";
import type { Application } from "./store.ts";
import type { TokenService } from "./token-service.ts";

/** Seconds: managed identities' tokens live for a day. */
const LIFETIME = 86_400;
/** Dates from which the token endpoint is as it is; clients send one of them. */
const API_VERSIONS: ReadonlySet<string> = new Set(["2018-02-01", "2019-08-01", "2019-11-01", "2020-06-01", "2021-02-01"]);

/** Options of {@link imdsApp}. */
export interface ImdsOptions {
  readonly service: TokenService;
  /** Client ids of the identities that this host has been given; who asks without naming one gets the only one. */
  readonly identities: readonly string[];
  readonly logger: Logger;
}

/**
 * The token endpoint of Azure's instance metadata service, for the pods of one host: `GET /metadata/identity/oauth2/token`. Whoever reaches it gets the tokens of the host's
 * identities, so it belongs on an address that the host's pods alone reach.
 */
export function imdsApp(options: ImdsOptions): Hono {
  const app = new Hono();
  app.get("/metadata/identity/oauth2/token", async (c) => answer(options, c));
  app.notFound((c) => c.json({ error: "not_found", error_description: `no such page: ${c.req.path.slice(0, 200)}` }, 404));
  app.onError((error, c) => {
    const trace = newUuid(options.service.random);
    requestContext(c, options.logger).logger.log("error", "metadata request failed", { trace, problem: messageOf(error) });
    return c.json({ error: "unknown", error_description: `Failed to retrieve token from the Active directory. Trace ID: ${trace}` }, 500);
  });
  return app;
}

async function answer({ service, identities, logger }: ImdsOptions, c: Context): Promise<Response> {
  const refuse = (error: string, description: string): Response => c.json({ error, error_description: description }, 400);
  // A page in a browser, or a proxy that is made to ask, cannot set the one and would set the other.
  if (c.req.header("metadata")?.toLowerCase() !== "true") return refuse("invalid_request", "Required metadata header not specified");
  if (c.req.header("x-forwarded-for") !== undefined) return refuse("invalid_request", "The request came through a proxy (X-Forwarded-For)");
  const query = c.req.queries();
  if (Object.values(query).some((values) => values.length > 1)) return refuse("invalid_request", "A query variable is given twice");
  const one = (name: string): string | undefined => query[name]?.[0];
  const version = one("api-version");
  if (version === undefined) return refuse("invalid_request", "Required query variable 'api-version' is missing");
  if (!API_VERSIONS.has(version)) return refuse("invalid_request", `Query variable 'api-version' is not one of ${[...API_VERSIONS].join(", ")}`);
  const name = one("resource");
  if (name === undefined || name === "") return refuse("invalid_request", "Required query variable 'resource' is missing");
  const selectors = [["client_id"], ["object_id", "principal_id"], ["mi_res_id", "msi_res_id"]].flatMap((aliases) => {
    const value = aliases.map(one).find((item) => item !== undefined);
    return value === undefined ? [] : [{ kind: aliases[0] ?? "", value }];
  });
  if (selectors.length > 1) return refuse("invalid_request", "Only one of client_id, object_id and mi_res_id may be given");
  const assigned = await assignedTo(service, identities);
  const [selector] = selectors;
  const matching = selector === undefined ? assigned : assigned.filter((item) => matches(item, selector));
  const [application, ...more] = matching;
  if (application === undefined) return refuse("invalid_request", "Identity not found");
  if (more.length > 0) {
    return refuse("invalid_request", "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request");
  }
  try {
    const resource = resourceOf(service, name.replace(/\/\.default$/, ""));
    const { token, issued, expires, uti } = await issueAccessToken(service, application, resource, "assertion", LIFETIME);
    logger.log("info", "access token issued", { application: application.clientId, resource: resource.resource, proof: "host", uti });
    const left = String(expires - issued - 1);
    return c.json(
      {
        access_token: token,
        client_id: application.clientId,
        expires_in: left,
        expires_on: String(expires),
        ext_expires_in: left,
        not_before: String(issued),
        resource: name,
        token_type: "Bearer",
      },
      200,
      { "cache-control": "no-store, no-cache" },
    );
  } catch (error) {
    const number = isSealpodError(error) ? error.details["aadsts"] : undefined;
    if (typeof number !== "number" || !(number in AADSTS)) throw error;
    return refuse(AADSTS[number as AadstsNumber].error, `AADSTS${number}: ${messageOf(error)}`);
  }
}

async function assignedTo(service: TokenService, identities: readonly string[]): Promise<readonly Application[]> {
  const found = await Promise.all(identities.map(async (clientId) => service.store.application(clientId)));
  return found.filter((item) => item !== undefined);
}

function matches({ clientId, objectId, resourceId }: Application, { kind, value }: { readonly kind: string; readonly value: string }): boolean {
  const wanted = value.toLowerCase();
  return kind === "client_id" ? clientId === wanted : kind === "object_id" ? objectId === wanted : resourceId?.toLowerCase() === wanted;
}
