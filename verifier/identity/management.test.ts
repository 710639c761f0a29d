import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { identityApp, ownTokenAccess } from "./index.ts";
import { CLIENT, CLUSTER, forge, numberOf, START, SUBJECT, TENANT, World, type Answer } from "./testdata/support.ts";

const OPERATOR = "operator-token-of-32-characters-or-more";
const ADMIN = "cccccccc-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const OTHER_TENANT = "22222222-2222-4333-8444-555555555555";
const GROUP = `/subscriptions/${TENANT}/resourceGroups/demo`;
const IDENTITIES = `${GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities`;
const RESOURCE = "https://management.azure.com";

let world: World;
beforeAll(async () => {
  world = await World.open({ tenants: [TENANT, OTHER_TENANT], resources: ["https://vault.azure.net", RESOURCE, "https://graph.microsoft.com"] }, (service) => {
    const own = ownTokenAccess(service, [ADMIN]);
    return { ...own, authenticate: async (token) => (token === OPERATOR ? { kind: "allowed", subject: "operator" } : own.authenticate(token)) };
  });
});
afterAll(async () => world.store.close());
beforeEach(async () => {
  for (const tenant of [TENANT, OTHER_TENANT]) for (const { clientId } of await world.store.applications(tenant)) await world.store.deleteApplication(clientId);
});

const manage = async (method: string, path: string, body?: unknown, bearer = OPERATOR): Promise<Answer> =>
  world.ask(method, path, {
    headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json" },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });

describe("managed identities, as Azure Resource Manager has them", () => {
  it("are put, got, listed and deleted", async () => {
    const put = await manage("PUT", `${IDENTITIES}/web-identity?api-version=2023-01-31`, { location: "westeurope" });
    expect(put.status).toBe(201);
    expect(put.body).toEqual({
      id: `${IDENTITIES}/web-identity`,
      name: "web-identity",
      type: "Microsoft.ManagedIdentity/userAssignedIdentities",
      location: "local",
      tags: {},
      properties: { tenantId: TENANT, principalId: expect.stringMatching(/^[0-9a-f-]{36}$/), clientId: expect.stringMatching(/^[0-9a-f-]{36}$/) },
    });
    expect(await manage("PUT", `${IDENTITIES}/web-identity`, {})).toMatchObject({ status: 200, body: put.body });
    expect((await manage("GET", `${IDENTITIES.toLowerCase()}/WEB-identity/`)).body).toEqual(put.body);
    await manage("PUT", `${IDENTITIES.replace("demo", "other")}/second-one`, {});
    expect((await manage("GET", IDENTITIES)).body).toEqual({ value: [put.body] });
    expect((await manage("GET", IDENTITIES.replace("/resourceGroups/demo", ""))).body["value"]).toHaveLength(2);
    expect((await manage("DELETE", `${IDENTITIES}/web-identity`)).status).toBe(200);
    expect((await manage("DELETE", `${IDENTITIES}/web-identity`)).status).toBe(204);
    expect(await manage("GET", `${IDENTITIES}/web-identity`)).toMatchObject({ status: 404, body: { error: { code: "ResourceNotFound" } } });
  });

  it("take federated credentials in the shape of az identity federated-credential, and replace them by name", async () => {
    await manage("PUT", `${IDENTITIES}/web-identity`, {});
    const path = `${IDENTITIES}/web-identity/federatedIdentityCredentials/kubernetes`;
    const properties = { issuer: CLUSTER, subject: SUBJECT, audiences: ["api://AzureADTokenExchange"] };
    const put = await manage("PUT", path, { properties });
    expect(put).toMatchObject({
      status: 201,
      body: { id: path, name: "kubernetes", type: "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials", properties },
    });
    expect(await manage("PUT", path, { properties: { ...properties, subject: "other" } })).toMatchObject({
      status: 200,
      body: { properties: { subject: "other" } },
    });
    expect((await manage("GET", `${IDENTITIES}/web-identity/federatedIdentityCredentials`)).body["value"]).toMatchObject([
      { properties: { subject: "other" } },
    ]);
    expect((await manage("GET", path)).status).toBe(200);
    expect((await manage("DELETE", path)).status).toBe(200);
    expect((await manage("DELETE", path)).status).toBe(204);
    expect((await manage("GET", path)).status).toBe(404);
    expect(await manage("PUT", path.replace("web-identity", "nobody"), { properties })).toMatchObject({ status: 404 });
  });

  it("have tokens that name them", async () => {
    const { body } = await manage("PUT", `${IDENTITIES}/web-identity`, {});
    const { clientId } = body["properties"] as { clientId: string };
    const secret = await manage("POST", `/v1.0/applications(appId='${clientId}')/addPassword`, {});
    const answer = await world.token({ client_id: clientId, client_secret: String(secret.body["secretText"]) });
    const claims = JSON.parse(Buffer.from(String(answer.body["access_token"]).split(".")[1] ?? "", "base64url").toString()) as object;
    expect(claims).toMatchObject({ appid: clientId, appidacr: "1", xms_mirid: `${IDENTITIES}/web-identity` });
  });

  it.each([
    ["PUT", `${IDENTITIES}/ab`, {}, 400],
    ["PUT", `${IDENTITIES}/web-identity/federatedIdentityCredentials/kubernetes`, { properties: { issuer: "http://x", subject: "s" } }, 404],
    ["PUT", `${IDENTITIES}/a%2fb`, {}, 400],
    ["PUT", `${IDENTITIES}/%ff`, {}, 400],
    ["POST", `${IDENTITIES}/web-identity`, {}, 405],
    ["PUT", IDENTITIES, {}, 405],
    ["GET", `${GROUP}/providers/Microsoft.Compute/virtualMachines`, undefined, 404],
    ["GET", `/subscriptions/${TENANT}/resourceGroups/demo/x/y/providers/Microsoft.ManagedIdentity/userAssignedIdentities`, undefined, 404],
    ["GET", "/subscriptions/", undefined, 404],
  ])("refuse %s %s", async (method, path, body, status) => {
    expect((await manage(method, path, body)).status).toBe(status);
  });
});

describe("applications, as Microsoft Graph has them", () => {
  it("are made, listed, shown and deleted, with their credentials", async () => {
    const made = await manage("POST", "/v1.0/applications", { displayName: "web", appId: CLIENT });
    expect(made).toMatchObject({ status: 201, body: { appId: CLIENT, displayName: "web", createdDateTime: "2026-01-15T12:00:00.000Z", kind: "application" } });
    expect((await manage("POST", "/v1.0/applications", { displayName: "web", appId: CLIENT })).status).toBe(200);
    await manage("POST", "/v1.0/applications", { displayName: "it's" });
    const byClient = `/v1.0/applications(appId='${CLIENT}')`;
    const credential = { name: "kubernetes", issuer: CLUSTER, subject: SUBJECT, description: "for the pod" };
    expect(await manage("POST", `${byClient}/federatedIdentityCredentials`, credential)).toMatchObject({
      status: 201,
      body: { ...credential, audiences: ["api://AzureADTokenExchange"], id: `${CLIENT}/kubernetes` },
    });
    expect(await manage("POST", `${byClient}/federatedIdentityCredentials`, credential)).toMatchObject({
      status: 409,
      body: { error: { code: "ERR_IDENTITY_CONFLICT" } },
    });
    expect((await manage("GET", `${byClient}/federatedIdentityCredentials`)).body["value"]).toHaveLength(1);
    expect((await manage("GET", `${byClient}/federatedIdentityCredentials/kubernetes`)).body).toMatchObject(credential);
    const password = await manage("POST", `${byClient}/addPassword`, { passwordCredential: { displayName: "ci", endDateTime: "2026-06-01T00:00:00Z" } });
    expect(password.body).toMatchObject({ displayName: "ci", endDateTime: "2026-06-01T00:00:00.000Z", hint: String(password.body["secretText"]).slice(0, 3) });
    expect(numberOf(await world.token({ client_id: CLIENT, client_secret: String(password.body["secretText"]) }))).toBe(0);
    const shown = await manage("GET", `/v1.0/applications/${String(made.body["id"])}`);
    expect(shown.body).toMatchObject({
      passwordCredentials: [{ keyId: password.body["keyId"] }],
      federatedIdentityCredentials: [{ name: "kubernetes" }],
      keyCredentials: [],
    });
    expect(JSON.stringify(shown.body)).not.toContain(password.body["secretText"]);
    expect((await manage("GET", `/v1.0/applications?$filter=${encodeURIComponent(`appId eq '${CLIENT}'`)}`)).body["value"]).toMatchObject([{ appId: CLIENT }]);
    expect((await manage("GET", `/v1.0/applications?$filter=${encodeURIComponent("displayName eq 'it''s'")}`)).body["value"]).toHaveLength(1);
    expect((await manage("POST", `${byClient}/removePassword`, { keyId: password.body["keyId"] })).status).toBe(204);
    expect((await manage("POST", `${byClient}/removePassword`, { keyId: password.body["keyId"] })).status).toBe(404);
    expect((await manage("DELETE", `${byClient}/federatedIdentityCredentials/kubernetes`)).status).toBe(204);
    expect((await manage("DELETE", byClient)).status).toBe(204);
    expect((await manage("GET", byClient)).status).toBe(404);
  });

  it.each<readonly [string, string, unknown, number]>([
    ["POST", "/v1.0/applications", {}, 400],
    ["POST", "/v1.0/applications", { displayName: 1 }, 400],
    ["POST", "/v1.0/applications", "[]", 400],
    ["POST", "/v1.0/applications", '{"displayName":"a","displayName":"b"}', 400],
    ["POST", "/v1.0/applications", "{", 400],
    ["POST", "/v1.0/applications", `{"displayName":"${"x".repeat(70_000)}"}`, 413],
    ["POST", "/v1.0/applications", { displayName: "x", appId: "not a uuid" }, 400],
    ["GET", "/v1.0/applications?$filter=displayName ne 'x'", undefined, 400],
    ["PATCH", "/v1.0/applications", {}, 405],
    ["GET", "/v1.0/users", undefined, 404],
    ["GET", "/v1.0/applications(appId='x' or 1 eq 1)", undefined, 404],
    ["GET", `/v1.0/applications(appId='${CLIENT}')`, undefined, 404],
    ["GET", "/v1.0/applications/none/owners", undefined, 404],
    ["GET", "/sealpod/other", undefined, 404],
    ["GET", "/sealpod/audit?limit=0", undefined, 400],
    ["GET", "/sealpod/audit?limit=100000", undefined, 400],
    ["POST", "/sealpod/keys/tenant/none/rotate", {}, 404],
    ["POST", "/sealpod/keys/tenant/default/rotate", { when: "never" }, 400],
    ["POST", "/sealpod/keys/tenant/default/rotate", { revoke: "yes" }, 400],
    ["GET", "/sealpod/keys/tenant/default/rotate", undefined, 405],
    ["GET", "/v1.0/applications?tenant=none", undefined, 404],
  ])("refuse %s %s %j", async (method, path, body, status) => {
    const answer = await manage(method, path, body);
    expect(answer).toMatchObject({ status, body: { error: { code: expect.any(String), message: expect.any(String) } } });
  });
});

describe("keys and audit", () => {
  it("are shown, and keys rotated", async () => {
    const before = await manage("GET", "/sealpod/keys");
    expect((before.body["value"] as { purpose: string; scope: string }[]).map(({ purpose, scope }) => `${purpose}/${scope}`)).toEqual([
      "tenant/default",
      "cluster/default",
      "cluster/second",
    ]);
    expect(JSON.stringify(before.body)).not.toMatch(/PRIVATE|"d"/);
    const made = await manage("POST", "/sealpod/keys/cluster/second/rotate", {});
    expect(made.body).toMatchObject({ state: "next", signsFrom: "2026-01-16T12:00:00.000Z" });
    expect((await manage("POST", "/sealpod/keys/cluster/second/rotate", {})).status).toBe(409);
    const jwks = await world.ask("GET", "/second/openid/v1/jwks");
    expect((jwks.body["keys"] as { kid: string }[]).map(({ kid }) => kid)).toContain(made.body["kid"]);
    const audit = await manage("GET", "/sealpod/audit?limit=1");
    expect(audit.body).toMatchObject({
      value: [{ actor: "operator", action: "key.rotate", time: "2026-01-15T12:00:00.000Z" }],
      nextBefore: expect.any(Number),
    });
  });
});

describe("who may manage", () => {
  const login = async (client: string, resource: string, tenant = TENANT): Promise<string> => {
    const { secret } = await world.store.createClientSecret(client);
    const answer = await world.token({ client_id: client, client_secret: secret, scope: `${resource}/.default` }, {}, `/${tenant}/oauth2/v2.0/token`);
    return String(answer.body["access_token"]);
  };

  it("is nobody without a token, and the answer says where tokens are", async () => {
    const answer = await world.ask("GET", "/v1.0/applications");
    expect(answer.status).toBe(401);
    expect(answer.headers.get("www-authenticate")).toBe(`Bearer authorization="https://login.test:8443/${TENANT}", resource="https://management.azure.com"`);
  });

  it("is an administrator with a token of this service, in that tenant alone", async () => {
    await world.store.registerApplication({ tenantId: TENANT, name: "admin", clientId: ADMIN });
    await world.store.registerApplication({ tenantId: OTHER_TENANT, name: "elsewhere", clientId: CLIENT });
    for (const resource of [RESOURCE, "https://graph.microsoft.com"]) {
      const token = await login(ADMIN, resource);
      expect((await manage("GET", "/v1.0/applications", undefined, token)).body["value"]).toHaveLength(1);
      expect((await manage("GET", `/v1.0/applications(appId='${CLIENT}')`, undefined, token)).status).toBe(404);
      expect((await manage("GET", `/v1.0/applications?tenant=${OTHER_TENANT}`, undefined, token)).status).toBe(403);
    }
    expect((await manage("GET", `/v1.0/applications?tenant=${OTHER_TENANT}`)).body["value"]).toHaveLength(1);
    const token = await login(ADMIN, RESOURCE);
    await world.store.deleteApplication(ADMIN);
    expect((await manage("GET", "/v1.0/applications", undefined, token)).status).toBe(403);
  });

  it("is an operator alone where it concerns all tenants: signing keys, the audit of the service, subscriptions", async () => {
    await world.store.registerApplication({ tenantId: OTHER_TENANT, name: "admin", clientId: ADMIN });
    await world.store.registerApplication({ tenantId: TENANT, name: "victim", clientId: CLIENT });
    const token = await login(ADMIN, RESOURCE, OTHER_TENANT);
    const kids = (): readonly string[] => world.store.publishedKeys().map(({ kid }) => kid);
    const before = kids();
    for (const path of ["tenant/default", "cluster/default", "cluster/second"]) {
      for (const body of [{}, { when: "now" }, { when: "now", revoke: true }]) {
        expect(await manage("POST", `/sealpod/keys/${path}/rotate`, body, token)).toMatchObject({ status: 403, body: { error: { code: "Forbidden" } } });
      }
    }
    expect((await manage("PUT", `/sealpod/subscriptions/${TENANT}?tenant=${OTHER_TENANT}`, {}, token)).status).toBe(403);
    expect(kids()).toEqual(before);
    const seen = (await manage("GET", "/sealpod/keys", undefined, token)).body["value"] as { purpose: string }[];
    expect(seen.map(({ purpose }) => purpose)).toEqual(["tenant"]);
    const rotated = await manage("POST", "/sealpod/keys/cluster/default/rotate", { when: "now" });
    expect(rotated.status).toBe(200);
    const audit = (await manage("GET", "/sealpod/audit?limit=1000", undefined, token)).body["value"] as { tenant: string; actor: string }[];
    expect(audit.length).toBeGreaterThan(0);
    expect(audit.every(({ tenant }) => tenant === OTHER_TENANT)).toBe(true);
    const all = (await manage("GET", "/sealpod/audit?limit=1000")).body["value"] as { tenant: string }[];
    expect(new Set(all.map(({ tenant }) => tenant))).toEqual(new Set(["", TENANT, OTHER_TENANT]));
  });

  it("of another tenant neither takes a place in a used subscription nor learns whose an application is", async () => {
    await world.store.registerApplication({ tenantId: OTHER_TENANT, name: "admin", clientId: ADMIN });
    await world.store.registerApplication({ tenantId: TENANT, name: "victim", clientId: CLIENT });
    const token = await login(ADMIN, RESOURCE, OTHER_TENANT);
    const subscription = "88888888-aaaa-4bbb-8ccc-dddddddddddd";
    const path = (name: string): string => `${IDENTITIES.replace(TENANT, subscription)}/${name}`;
    expect((await manage("PUT", path("web-identity"), {})).status).toBe(201);
    for (const [answer, text] of [
      [await manage("PUT", path("payments"), {}, token), subscription],
      [await manage("PUT", path("web-identity"), {}, token), path("web-identity")],
      [await manage("POST", "/v1.0/applications", { displayName: "x", appId: CLIENT }, token), CLIENT],
    ] as const) {
      expect(answer).toMatchObject({ status: 409, body: { error: { message: expect.stringContaining(text) } } });
      expect(JSON.stringify(answer.body)).not.toContain(TENANT);
    }
    // The tenant's own id, though it has nothing there.
    expect((await manage("PUT", `${IDENTITIES}/payments`, {}, token)).status).toBe(403);
    const assign = async (): Promise<number> => (await manage("PUT", `/sealpod/subscriptions/${subscription.toUpperCase()}?tenant=${OTHER_TENANT}`)).status;
    expect(await assign()).toBe(409);
    await manage("DELETE", path("web-identity"));
    expect(await assign()).toBe(200);
    expect((await manage("PUT", path("payments"), {}, token)).status).toBe(201);
    expect((await manage("PUT", "/sealpod/subscriptions/none")).status).toBe(400);
    expect((await manage("GET", `/sealpod/subscriptions/${subscription}`)).status).toBe(405);
  });

  it("is not another application, nor the administrator with a token for something else, or that has ended", async () => {
    await world.store.registerApplication({ tenantId: TENANT, name: "admin", clientId: ADMIN });
    await world.store.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT });
    expect((await manage("GET", "/v1.0/applications", undefined, await login(CLIENT, RESOURCE))).status).toBe(403);
    expect((await manage("GET", "/v1.0/applications", undefined, await login(ADMIN, "https://vault.azure.net"))).status).toBe(401);
    const token = await login(ADMIN, RESOURCE);
    world.time += 3600 * 1000;
    expect((await manage("GET", "/v1.0/applications", undefined, token)).status).toBe(401);
    world.time = START;
    expect((await manage("GET", "/v1.0/applications", undefined, `${token.slice(0, -8)}AAAAAAAA`)).status).toBe(401);
  });

  it("is not whoever a cluster's key names", async () => {
    await world.store.registerApplication({ tenantId: TENANT, name: "admin", clientId: ADMIN });
    const now = START / 1000;
    const claims = { iss: `https://login.test:8443/${TENANT}/v2.0`, aud: RESOURCE, tid: TENANT, appid: ADMIN, exp: now + 600, nbf: now };
    const [cluster] = world.store.signingKeys("cluster");
    const [tenant] = world.store.signingKeys("tenant");
    expect((await manage("GET", "/v1.0/applications", undefined, forge({ alg: "RS256", kid: tenant.kid }, claims, tenant.privateKey))).status).toBe(200);
    for (const [header, change, key] of [
      [{ kid: cluster.kid }, {}, cluster.privateKey],
      [{ kid: tenant.kid }, {}, cluster.privateKey],
      [{ kid: tenant.kid }, { iss: "https://evil" }, tenant.privateKey],
      [{ kid: tenant.kid }, { tid: "x" }, tenant.privateKey],
      [{ kid: tenant.kid }, { aud: [RESOURCE] }, tenant.privateKey],
      [{ kid: tenant.kid }, { exp: undefined }, tenant.privateKey],
      [{ kid: tenant.kid }, { nbf: now + 1 }, tenant.privateKey],
    ] as const) {
      expect((await manage("GET", "/v1.0/applications", undefined, forge({ alg: "RS256", ...header }, { ...claims, ...change }, key))).status).toBe(401);
    }
  });

  it("is nobody where it is not configured", async () => {
    const plain = identityApp({ ...world.service, logger: silentLogger });
    expect((await plain.request("/v1.0/applications", { headers: { authorization: `Bearer ${OPERATOR}` } })).status).toBe(404);
  });
});
