import { X509Certificate } from "node:crypto";
import type { Context, Hono } from "hono";
import {
  asArray,
  asObject,
  decodeUtf8,
  fromAnyBase64,
  isSealpodError,
  messageOf,
  newUuid,
  parseJson,
  toBase64,
  type JsonObject,
  type JsonValue,
} from "@sealpod/core";
import { requestBody, requestContext } from "@sealpod/service";
import { MAX_AUDIT_PAGE } from "./audit.ts";
import { TOKEN_EXCHANGE_AUDIENCE, type FederatedCredential } from "./credential.ts";
import { IdentityError } from "./errors.ts";
import type { IdentityAppOptions } from "./app.ts";
import type { KeyPurpose, PublishedKey } from "./signing-keys.ts";
import type { Application, ClientCertificate, ClientSecret, IdentityStore } from "./store.ts";

/** What became of a bearer token. */
export type ManagementVerdict =
  | {
      readonly kind: "allowed";
      /** In the audit. */
      readonly subject: string;
      /** The one tenant that may be managed; all of them if undefined. */
      readonly tenantId?: string;
    }
  | { readonly kind: "forbidden"; readonly subject: string; readonly problem: string }
  | { readonly kind: "refused"; readonly problem: string };

/** Who may manage applications, their credentials and the keys. */
export interface ManagementOptions {
  /** Where clients get tokens, for the challenge. */
  readonly authority: string;
  /** What the tokens are for, for the challenge. */
  readonly resource?: string;
  authenticate(token: string): Promise<ManagementVerdict>;
}

/** A request has one credential, or one certificate. */
const MAX_BODY: number = 64 * 1024;
const IDENTITY_TYPE = "Microsoft.ManagedIdentity/userAssignedIdentities";
const CREDENTIAL_TYPE = `${IDENTITY_TYPE}/federatedIdentityCredentials`;
const REGION = "local";

/** One request of somebody who may. */
interface Managed {
  readonly c: Context;
  readonly store: IdentityStore;
  readonly actor: string;
  readonly tenantId: string;
  /** All tenants of the service. */
  readonly tenants: readonly string[];
  /** Operators of the whole service; others see one tenant. */
  readonly isOperator: boolean;
  readonly method: string;
  readonly body: () => Promise<JsonObject>;
}

/**
 * The management of the service: managed identities with the paths and JSON of Azure Resource Manager (`Microsoft.ManagedIdentity`), applications with those of Microsoft
 * Graph (`/v1.0/applications`), keys and audit under `/sealpod`. All with a bearer token.
 */
export function addManagement(app: Hono, options: IdentityAppOptions, management: ManagementOptions): void {
  const { store } = options;
  const route = (path: string, handle: (managed: Managed, segments: readonly string[]) => Promise<Response>): void => {
    app.all(path, async (c) => {
      try {
        const managed = await admit(c);
        return managed instanceof Response ? managed : await handle(managed, segmentsOf(c));
      } catch (error) {
        return failure(c, options, error);
      }
    });
  };
  route("/subscriptions/*", manageIdentities);
  route("/v1.0/*", manageApplications);
  route("/sealpod/*", manageService);

  async function admit(c: Context): Promise<Managed | Response> {
    const { tenants } = options;
    const [, token] = /^bearer +([\w.~+/=-]+)$/i.exec(c.req.header("authorization") ?? "") ?? [];
    if (token === undefined) return challenge(c, management, "the request has no bearer token");
    const verdict = await management.authenticate(token);
    if (verdict.kind === "refused") return challenge(c, management, verdict.problem);
    requestContext(c).note({ subject: verdict.subject });
    if (verdict.kind === "forbidden") return problem(c, 403, "Forbidden", `${verdict.subject}: ${verdict.problem}`);
    const asked = c.req.query("tenant")?.toLowerCase();
    const tenantId = verdict.tenantId ?? asked ?? tenants[0] ?? "";
    if (!tenants.includes(tenantId)) return problem(c, 404, "TenantNotFound", `there is no tenant ${tenantId.slice(0, 100)}`);
    if (asked !== undefined && asked !== tenantId) return problem(c, 403, "Forbidden", `${verdict.subject} manages tenant ${tenantId} alone`);
    const body = async (): Promise<JsonObject> => parseBody(await requestBody(c, MAX_BODY));
    return { c, store, actor: verdict.subject, tenantId, tenants, isOperator: verdict.tenantId === undefined, method: c.req.method, body };
  }
}

/**
 * `/subscriptions/{s}[/resourceGroups/{g}]/providers/Microsoft.ManagedIdentity/userAssignedIdentities[/{name}[/federatedIdentityCredentials[/{name}]]]`: resource ids are
 * compared without letter case, as ARM does it.
 */
async function manageIdentities(managed: Managed, segments: readonly string[]): Promise<Response> {
  const { c, store, tenantId, actor, method } = managed;
  const at = segments.findIndex((segment) => segment.toLowerCase() === "providers");
  const [provider = "", kind = "", name, credentials, credential, ...rest] = segments.slice(at + 1);
  const prefix = `/${segments.slice(0, at).join("/")}`;
  const isGroup = at === 4 && segments[2]?.toLowerCase() === "resourcegroups";
  const isKnown = provider.toLowerCase() === "microsoft.managedidentity" && kind.toLowerCase() === "userassignedidentities";
  if (!isKnown || (at !== 2 && !isGroup) || rest.length > 0) return problem(c, 404, "ResourceNotFound", `no such resource: ${c.req.path.slice(0, 300)}`);
  if (name === undefined) {
    if (method !== "GET") return notAllowed(managed);
    const below = `${prefix}/`.toLowerCase();
    const all = await store.applications(tenantId, "managedIdentity");
    return c.json({ value: all.filter(({ resourceId = "" }) => resourceId.toLowerCase().startsWith(below)).map(identityJson) });
  }
  const resourceId = `${prefix}/providers/${IDENTITY_TYPE}/${name}`;
  if (credentials === undefined) {
    const present = await store.managedIdentity(resourceId);
    const own = present?.tenantId === tenantId ? present : undefined;
    if (method === "PUT") {
      // Many give a tenant's only subscription the tenant's own id: that one is nobody else's, used or not.
      const subscription = segments[1]?.toLowerCase() ?? "";
      if (subscription !== tenantId && managed.tenants.includes(subscription))
        return problem(c, 403, "Forbidden", `subscription ${subscription} belongs to another tenant`);
      const made = await store.registerApplication({ tenantId, name, resourceId }, actor);
      return c.json(identityJson(made), own === undefined ? 201 : 200);
    }
    if (method === "DELETE") return c.body(null, own !== undefined && (await store.deleteApplication(own.clientId, actor)) ? 200 : 204);
    if (method !== "GET") return notAllowed(managed);
    return own === undefined ? noResource(c, resourceId) : c.json(identityJson(own));
  }
  if (credentials.toLowerCase() !== "federatedidentitycredentials") return problem(c, 404, "ResourceNotFound", `no such resource: ${c.req.path.slice(0, 300)}`);
  const identity = await store.managedIdentity(resourceId);
  if (identity?.tenantId !== tenantId) return noResource(c, resourceId);
  const present = await store.federatedCredentials(identity.clientId);
  if (credential === undefined) return method === "GET" ? c.json({ value: present.map((item) => armCredential(identity, item)) }) : notAllowed(managed);
  const found = present.find((item) => item.name === credential);
  if (method === "PUT") {
    const properties = asObject((await managed.body())["properties"]);
    const wanted = parseCredential({ ...properties, name: credential });
    await store.addFederatedCredential(identity.clientId, wanted, actor, true);
    return c.json(armCredential(identity, wanted), found === undefined ? 201 : 200);
  }
  if (method === "DELETE") return c.body(null, (await store.removeFederatedCredential(identity.clientId, credential, actor)) ? 200 : 204);
  if (method !== "GET") return notAllowed(managed);
  return found === undefined ? noResource(c, `${resourceId}/federatedIdentityCredentials/${credential}`) : c.json(armCredential(identity, found));
}

/** `/v1.0/applications`, `/v1.0/applications/{objectId}` or `/v1.0/applications(appId='…')`, and what is below. */
async function manageApplications(managed: Managed, segments: readonly string[]): Promise<Response> {
  const { c, store, tenantId, actor, method } = managed;
  const [, first = "", ...others] = segments;
  const byClient = /^applications\(appid='([^']{1,64})'\)$/i.exec(first)?.[1];
  const isCollection = first.toLowerCase() === "applications";
  if (byClient === undefined && !isCollection) return problem(c, 404, "Request_ResourceNotFound", `no such resource: ${c.req.path.slice(0, 300)}`);
  if (isCollection && others.length === 0) {
    if (method === "GET") return c.json({ value: (await filtered(managed)).map(applicationJson) });
    if (method !== "POST") return notAllowed(managed);
    const body = await managed.body();
    const clientId = optionalText(body, "appId");
    const present = clientId === undefined ? undefined : await store.application(clientId);
    const request = { tenantId, name: requireText(body, "displayName"), ...(clientId === undefined ? {} : { clientId }) };
    return c.json(applicationJson(await store.registerApplication(request, actor)), present === undefined ? 201 : 200);
  }
  const [action, item, ...rest] = byClient === undefined ? others.slice(1) : others;
  const application =
    byClient === undefined ? await store.applicationOfObject(others[0]?.toLowerCase() ?? "") : await store.application(byClient.toLowerCase());
  if (application?.tenantId !== tenantId || rest.length > 0)
    return problem(c, 404, "Request_ResourceNotFound", `no such resource: ${c.req.path.slice(0, 300)}`);
  const { clientId } = application;
  if (action === undefined) {
    if (method === "GET") return c.json(await fullApplication(store, application));
    if (method !== "DELETE") return notAllowed(managed);
    await store.deleteApplication(clientId, actor);
    return c.body(null, 204);
  }
  return action === "federatedIdentityCredentials"
    ? manageCredentials(managed, application, item)
    : act(managed, application, item === undefined ? action : "");
}

async function manageCredentials({ c, store, actor, method, body }: Managed, application: Application, name: string | undefined): Promise<Response> {
  const { clientId } = application;
  const present = await store.federatedCredentials(clientId);
  if (name === undefined) {
    if (method === "GET") return c.json({ value: present.map((item) => graphCredential(application, item)) });
    if (method !== "POST") return problem(c, 405, "MethodNotAllowed", `${method} is not possible here`);
    const wanted = parseCredential(await body());
    await store.addFederatedCredential(clientId, wanted, actor);
    return c.json(graphCredential(application, wanted), 201);
  }
  const found = present.find((item) => item.name === name);
  if (found === undefined) return problem(c, 404, "Request_ResourceNotFound", `application ${clientId} has no federated credential ${name.slice(0, 120)}`);
  if (method === "GET") return c.json(graphCredential(application, found));
  if (method !== "DELETE") return problem(c, 405, "MethodNotAllowed", `${method} is not possible here`);
  await store.removeFederatedCredential(clientId, name, actor);
  return c.body(null, 204);
}

/** The actions of Graph on passwords; for certificates, where Graph wants a proof in a format of its own, `sealpod.addCertificate`. */
async function act({ c, store, actor, method, body }: Managed, { clientId }: Application, action: string): Promise<Response> {
  if (method !== "POST") return problem(c, 405, "MethodNotAllowed", `${method} is not possible here`);
  const request = await body();
  switch (action) {
    case "addPassword": {
      const wanted = asObject(request["passwordCredential"]) ?? {};
      const end = optionalText(wanted, "endDateTime");
      const expires = end === undefined ? undefined : Date.parse(end);
      if (expires !== undefined && Number.isNaN(expires))
        throw argument(`endDateTime ${JSON.stringify(end?.slice(0, 100))} is not a time such as 2027-01-31T00:00:00Z`);
      const name = optionalText(wanted, "displayName");
      const made = await store.createClientSecret(clientId, { ...(name === undefined ? {} : { name }), ...(expires === undefined ? {} : { expires }) }, actor);
      return c.json({ ...passwordJson(made), secretText: made.secret }, 200, { "cache-control": "no-store" });
    }
    case "removePassword": {
      const keyId = requireText(request, "keyId");
      if (await store.removeClientSecret(clientId, keyId, actor)) return c.body(null, 204);
      return problem(c, 404, "Request_ResourceNotFound", `application ${clientId} has no secret ${keyId.slice(0, 64)}`);
    }
    case "sealpod.addCertificate": {
      const der = fromAnyBase64(requireText(request, "key"), "key");
      return c.json(certificateJson(await store.addClientCertificate(clientId, der, optionalText(request, "displayName"), actor)), 201);
    }
    case "sealpod.removeCertificate": {
      const keyId = requireText(request, "keyId");
      if (await store.removeClientCertificate(clientId, keyId, actor)) return c.body(null, 204);
      return problem(c, 404, "Request_ResourceNotFound", `application ${clientId} has no certificate ${keyId.slice(0, 64)}`);
    }
    default:
      return problem(c, 404, "Request_ResourceNotFound", `no such action: ${action.slice(0, 100)}`);
  }
}

/**
 * `GET /sealpod/audit`, `GET /sealpod/keys`; for operators alone, because these are the whole service's: `POST /sealpod/keys/{purpose}/{scope}/rotate`, the keys of clusters, and
 * `PUT /sealpod/subscriptions/{id}`.
 */
async function manageService(managed: Managed, segments: readonly string[]): Promise<Response> {
  const { c, store, tenantId, isOperator, actor, method } = managed;
  const [, collection, purpose = "", scope = "", verb, ...rest] = segments;
  if (collection === "audit" && segments.length === 2) {
    if (method !== "GET") return notAllowed(managed);
    const limit = numberQuery(c, "limit", 100, MAX_AUDIT_PAGE);
    const before = numberQuery(c, "before", Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
    const value = await store.audit({ before, limit, ...(isOperator && c.req.query("tenant") === undefined ? {} : { tenant: tenantId }) });
    const last = value.at(-1);
    return c.json({
      value: value.map(({ time, ...line }) => ({ ...line, time: new Date(time).toISOString() })),
      ...(value.length < limit || last === undefined ? {} : { nextBefore: last.id }),
    });
  }
  if (collection === "keys" && segments.length === 2) {
    if (method !== "GET") return notAllowed(managed);
    // A cluster belongs to no tenant; the keys of tenants are all tenants'.
    return c.json({
      value: store
        .publishedKeys()
        .filter(({ purpose: of }) => isOperator || of === "tenant")
        .map(keyJson),
    });
  }
  if (collection === "keys" && verb === "rotate" && rest.length === 0 && (purpose === "cluster" || purpose === "tenant")) {
    if (method !== "POST") return notAllowed(managed);
    if (!isOperator) return operatorsOnly(managed, "the signing keys are the whole service's");
    const { when = "overlap", revoke = false } = await managed.body();
    if (when !== "now" && when !== "overlap") throw argument('when is neither "now" nor "overlap"');
    if (typeof revoke !== "boolean") throw argument("revoke is not true or false");
    return c.json(keyJson(await store.rotateSigningKey(purpose satisfies KeyPurpose, { scope, when, revoke }, actor)));
  }
  if (collection === "subscriptions" && segments.length === 3) {
    if (method !== "PUT") return notAllowed(managed);
    if (!isOperator) return operatorsOnly(managed, "which tenant a subscription is of concerns all tenants");
    const id = purpose.toLowerCase();
    await store.assignSubscription(id, tenantId, actor);
    return c.json({ subscriptionId: id, tenantId });
  }
  return problem(c, 404, "NotFound", `no such resource: ${c.req.path.slice(0, 300)}`);
}

async function filtered({ c, store, tenantId }: Managed): Promise<readonly Application[]> {
  const all = await store.applications(tenantId);
  const filter = c.req.query("$filter");
  if (filter === undefined) return all;
  const [, field, value = ""] = /^(appId|displayName) eq '((?:[^']|'')*)'$/.exec(filter) ?? [];
  if (field === undefined) throw argument("$filter is neither appId eq '…' nor displayName eq '…'");
  const wanted = value.replaceAll("''", "'");
  return all.filter(({ clientId, name }) => (field === "appId" ? clientId === wanted.toLowerCase() : name === wanted));
}

function identityJson({ resourceId = "", name, tenantId, objectId, clientId }: Application): JsonObject {
  return { id: resourceId, name, type: IDENTITY_TYPE, location: REGION, tags: {}, properties: { tenantId, principalId: objectId, clientId } };
}

function armCredential({ resourceId = "" }: Application, { name, issuer, subject, audiences }: FederatedCredential): JsonObject {
  return { id: `${resourceId}/federatedIdentityCredentials/${name}`, name, type: CREDENTIAL_TYPE, properties: { issuer, subject, audiences } };
}

function graphCredential({ clientId }: Application, { name, issuer, subject, audiences, description = "" }: FederatedCredential): JsonObject {
  return { id: `${clientId}/${name}`, name, issuer, subject, audiences, description };
}

function applicationJson({ clientId, objectId, name, tenantId, kind, resourceId, created }: Application): JsonObject {
  return {
    id: objectId,
    appId: clientId,
    displayName: name,
    ...(created === 0 ? {} : { createdDateTime: new Date(created).toISOString() }),
    tenantId,
    kind,
    ...(resourceId === undefined ? {} : { resourceId }),
  };
}

async function fullApplication(store: IdentityStore, application: Application): Promise<JsonObject> {
  const { clientId } = application;
  return {
    ...applicationJson(application),
    passwordCredentials: (await store.clientSecrets(clientId)).map(passwordJson),
    keyCredentials: (await store.clientCertificates(clientId)).map(certificateJson),
    federatedIdentityCredentials: (await store.federatedCredentials(clientId)).map((item) => graphCredential(application, item)),
  };
}

function passwordJson({ keyId, name, hint, created, expires }: ClientSecret): JsonObject {
  return {
    keyId,
    displayName: name,
    hint,
    ...(created === 0 ? {} : { startDateTime: new Date(created).toISOString() }),
    ...(expires === 0 ? {} : { endDateTime: new Date(expires).toISOString() }),
  };
}

function certificateJson({ keyId, name, der }: ClientCertificate): JsonObject {
  const { fingerprint, validFromDate, validToDate } = new X509Certificate(der);
  return {
    keyId,
    displayName: name,
    type: "AsymmetricX509Cert",
    usage: "Verify",
    customKeyIdentifier: fingerprint.replaceAll(":", ""),
    startDateTime: validFromDate.toISOString(),
    endDateTime: validToDate.toISOString(),
    key: toBase64(der),
  };
}

function keyJson({ purpose, scope, kid, state, created, signsFrom }: PublishedKey): JsonObject {
  return { purpose, scope, kid, state, created: new Date(created).toISOString(), signsFrom: new Date(signsFrom).toISOString() };
}

/** A credential in Graph's flat form. */
function parseCredential(body: JsonObject): FederatedCredential {
  const audiences = body["audiences"] === undefined ? [TOKEN_EXCHANGE_AUDIENCE] : asArray(body["audiences"]);
  if (audiences === undefined || !audiences.every((item) => typeof item === "string")) throw argument("audiences is not a list of strings");
  const description = optionalText(body, "description");
  return {
    name: requireText(body, "name"),
    issuer: requireText(body, "issuer"),
    subject: requireText(body, "subject"),
    audiences: audiences as readonly string[],
    ...(description === undefined ? {} : { description }),
  };
}

function parseBody(bytes: Uint8Array): JsonObject {
  if (bytes.length === 0) return {};
  let value: JsonValue;
  try {
    value = parseJson(decodeUtf8(bytes, "the body"), "the body", { maxLength: MAX_BODY, maxDepth: 16 });
  } catch (cause) {
    throw argument(messageOf(cause), cause);
  }
  const object = asObject(value);
  if (object === undefined) throw argument("the body is not a JSON object");
  return object;
}

function optionalText(body: JsonObject, name: string): string | undefined {
  const value = body[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string") throw argument(`${name} is not a string`);
  return value;
}

function requireText(body: JsonObject, name: string): string {
  const value = optionalText(body, name);
  if (value === undefined) throw argument(`${name} is missing`);
  return value;
}

function numberQuery(c: Context, name: string, preset: number, maximum: number): number {
  const text = c.req.query(name);
  if (text === undefined) return preset;
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= 1 && value <= maximum)) throw argument(`${name} is not a number from 1 to ${maximum}`);
  return value;
}

function segmentsOf(c: Context): readonly string[] {
  try {
    // Trailing slashes mean nothing; an encoded slash is part of a name, and no name of ours has one.
    return c.req.path.replace(/\/+$/, "").slice(1).split("/").map(decodeURIComponent);
  } catch (cause) {
    throw argument("the path is not properly encoded", cause);
  }
}

function argument(message: string, cause?: unknown): IdentityError {
  return new IdentityError("ERR_IDENTITY_ARGUMENT", message, { cause });
}

function notAllowed({ c, method }: Managed): Response {
  return problem(c, 405, "MethodNotAllowed", `${method} is not possible here`);
}

function operatorsOnly({ c, actor }: Managed, why: string): Response {
  return problem(c, 403, "Forbidden", `${actor} manages one tenant, and ${why}: this takes an operator's token`);
}

function noResource(c: Context, id: string): Response {
  return problem(c, 404, "ResourceNotFound", `The resource '${id.slice(0, 300)}' was not found.`);
}

function challenge(c: Context, { authority, resource }: ManagementOptions, text: string): Response {
  const parameters = [`authorization="${authority}"`, ...(resource === undefined ? [] : [`resource="${resource}"`])];
  c.header("www-authenticate", `Bearer ${parameters.join(", ")}`);
  return problem(c, 401, "Unauthorized", text);
}

function problem(c: Context, status: 400 | 401 | 403 | 404 | 405 | 409 | 413 | 500, code: string, message: string): Response {
  return c.json({ error: { code, message } }, status);
}

function failure(c: Context, options: IdentityAppOptions, error: unknown): Response {
  if (isSealpodError(error) && error.code !== "ERR_IDENTITY_STORE") {
    const status = error.code === "ERR_IDENTITY_CLIENT" ? 404 : error.row.http;
    if (status === 400 || status === 404 || status === 409 || status === 413) return problem(c, status, error.code, error.message);
  }
  const trace = newUuid(options.random);
  requestContext(c, options.logger).logger.log("error", "management request failed", { trace, problem: messageOf(error) });
  return problem(c, 500, "InternalServerError", `The service failed. Trace ID: ${trace}`);
}
