import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { identityApp, issueServiceAccountToken, reviewServiceAccountToken, type ServiceAccountTokenRequest } from "./index.ts";
import { AUTHORITY, claimsOf, CLIENT, CLUSTER, forge, numberOf, random, START, SUBJECT, TENANT, World } from "./testdata/support.ts";

let world: World;
let secret: string;
beforeAll(async () => {
  world = await World.open();
  await world.store.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT });
  ({ secret } = await world.store.createClientSecret(CLIENT));
});
afterAll(async () => world.store.close());

const basic = (id: string, password: string): Record<string, string> => ({
  authorization: `Basic ${Buffer.from(`${encodeURIComponent(id)}:${encodeURIComponent(password)}`).toString("base64")}`,
});

describe("client secrets", () => {
  it("are taken in the body and in the header", async () => {
    expect(numberOf(await world.token({ client_id: CLIENT, client_secret: secret }))).toBe(0);
    expect(numberOf(await world.token({ client_id: CLIENT.toUpperCase(), client_secret: secret }))).toBe(0);
    expect(numberOf(await world.token({}, basic(CLIENT, secret)))).toBe(0);
    expect(numberOf(await world.token({ client_id: CLIENT }, basic(CLIENT, secret)))).toBe(0);
  });

  it.each<readonly [string, number, Record<string, string>, Record<string, string>]>([
    ["another secret in the header", 7000215, {}, basic(CLIENT, "x")],
    ["the header of another client", 9000411, { client_id: TENANT }, basic(CLIENT, "x")],
    ["a secret in both", 9000411, { client_secret: "x" }, basic(CLIENT, "x")],
    ["a secret in the header and an assertion", 9000411, { client_assertion: "x" }, basic(CLIENT, "x")],
    ["a header that is no base64", 50027, {}, { authorization: "Basic ***" }],
    ["a header without colon", 50027, {}, { authorization: "Basic YWJj" }],
    ["a header with broken encoding", 50027, {}, { authorization: `Basic ${Buffer.from("a:%zz").toString("base64")}` }],
    ["another scheme", 50027, {}, { authorization: "Bearer abc" }],
    ["a secret that is endless", 7000215, { client_id: CLIENT, client_secret: "x".repeat(2000) }, {}],
    ["an empty secret", 7000215, { client_id: CLIENT, client_secret: "" }, {}],
  ])("are refused with %s: %d", async (_what, number, fields, headers) => {
    expect(numberOf(await world.token(fields, headers))).toBe(number);
  });

  it("that have ended say so", async () => {
    const short = await world.store.createClientSecret(CLIENT, { expires: START + 60_000 });
    world.time += 60_000;
    expect(numberOf(await world.token({ client_id: CLIENT, client_secret: short.secret }))).toBe(7000222);
    world.time = START;
  });
});

describe("access tokens", () => {
  it("of version 2.0 have the newer claims", async () => {
    const answer = await world.token({ client_id: CLIENT, client_secret: secret, scope: "api://second/.default" });
    const claims = claimsOf(answer.body["access_token"]);
    expect(claims).toMatchObject({ aud: "the-second", iss: `${AUTHORITY}/${TENANT}/v2.0`, azp: CLIENT, azpacr: "1", tid: TENANT, ver: "2.0" });
    for (const name of ["appid", "appidacr", "idp"]) expect(claims[name]).toBeUndefined();
  });

  it("come from the older endpoint by resource, and from the newer one by scope", async () => {
    const old = { client_id: CLIENT, client_secret: secret, resource: "https://vault.azure.net/" };
    const answer = await world.ask("POST", `/${TENANT}/oauth2/token`, {
      headers: { "content-type": "application/x-www-form-urlencoded; charset=utf-8" },
      body: new URLSearchParams({ ...old, grant_type: "client_credentials" }).toString(),
    });
    expect(claimsOf(answer.body["access_token"])).toMatchObject({ aud: "https://vault.azure.net" });
    const { scope: _scope, ...fields } = { scope: "", ...old };
    expect(numberOf(await world.token({ ...fields, scope: "https://vault.azure.net//.default" }))).toBe(0);
  });

  it("say sts.windows.net where that is configured, and live as long as configured", async () => {
    const app = identityApp({ ...world.service, issuerForm: "sts", accessTokenLifetime: 600, auditTokens: true, logger: silentLogger });
    const body = new URLSearchParams({ client_id: CLIENT, client_secret: secret, grant_type: "client_credentials", scope: "https://vault.azure.net/.default" });
    const response = await app.request(`/${TENANT}/oauth2/v2.0/token`, {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: body.toString(),
    });
    const answer = (await response.json()) as Record<string, unknown>;
    const claims = claimsOf(answer["access_token"]);
    expect(answer["expires_in"]).toBe(599);
    expect(claims).toMatchObject({ iss: `https://sts.windows.net/${TENANT}/`, idp: `https://sts.windows.net/${TENANT}/`, exp: START / 1000 + 600 });
    expect(await world.store.audit({ limit: 1 })).toMatchObject([
      { actor: CLIENT, action: "token.issue", detail: { uti: claims["uti"], resource: "https://vault.azure.net" } },
    ]);
    const discovery = (await (await app.request(`/${TENANT}/.well-known/openid-configuration`)).json()) as Record<string, unknown>;
    expect(discovery).toMatchObject({ issuer: `https://sts.windows.net/${TENANT}/`, jwks_uri: `${AUTHORITY}/${TENANT}/discovery/keys` });
  });

  it("do not depend on what MSAL adds", async () => {
    const extra = {
      claims: '{"access_token":{"xms_cc":{"values":["cp1"]}}}',
      client_info: "1",
      "x-client-SKU": "msal.js.node",
      "x-client-VER": "3.8.4",
      "client-request-id": "x",
    };
    expect(numberOf(await world.token({ client_id: CLIENT, client_secret: secret, ...extra }))).toBe(0);
    expect(numberOf(await world.token({ client_id: CLIENT, client_secret: secret, claims: "{" }))).toBe(0);
    const id = "0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f";
    const answer = await world.token({ client_id: CLIENT, client_secret: "x" }, { "client-request-id": id, "return-client-request-id": "true" });
    expect(answer.body["correlation_id"]).toBe(id);
    expect(answer.headers.get("client-request-id")).toBe(id);
  });
});

describe("hostile forms", () => {
  it("are refused, whatever they are", async () => {
    const names = ["client_id", "client_secret", "grant_type", "scope", "client_assertion", "client_assertion_type", "resource", "x"];
    const value = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.constantFrom(CLIENT, "client_credentials", "https://vault.azure.net/.default", "a.b.c", "..", "e30.e30."),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(fc.constantFrom(...names), value), { maxLength: 8 }), async (fields) => {
        const body = new URLSearchParams(fields.map(([name, text]): [string, string] => [name, text])).toString();
        const answer = await world.ask("POST", `/${TENANT}/oauth2/v2.0/token`, { headers: { "content-type": "application/x-www-form-urlencoded" }, body });
        expect([400, 401]).toContain(answer.status);
        expect(numberOf(answer)).toBeGreaterThan(0);
      }),
      { numRuns: 40 },
    );
  });

  it("of many parameters cost no more than of few", async () => {
    const many = Array.from({ length: 12_000 }, (_, at) => `a${at}=`)
      .join("&")
      .slice(0, 64 * 1024);
    const answer = await world.ask("POST", `/${TENANT}/oauth2/v2.0/token`, { headers: { "content-type": "application/x-www-form-urlencoded" }, body: many });
    expect(answer.body["error_description"]).toMatch(/more than 64 parameters/);
  });

  it("are refused for what a service cannot read as UTF-8", async () => {
    const response = await world.app.request(`/${TENANT}/oauth2/v2.0/token`, {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: new Uint8Array([0xff, 0xfe, 0x3d]),
    });
    expect(response.status).toBe(400);
  });
});

describe("instance discovery", () => {
  it("vouches for this authority alone", async () => {
    const ask = async (endpoint: string): Promise<{ status: number; body: Record<string, unknown> }> =>
      world.ask("GET", `/common/discovery/instance?api-version=1.1&authorization_endpoint=${encodeURIComponent(endpoint)}`);
    expect(await ask(`${AUTHORITY}/${TENANT}/oauth2/v2.0/authorize`)).toMatchObject({
      status: 200,
      body: {
        tenant_discovery_endpoint: `${AUTHORITY}/${TENANT}/v2.0/.well-known/openid-configuration`,
        metadata: [{ preferred_network: "login.test:8443", aliases: ["login.test:8443"] }],
      },
    });
    expect((await ask(`https://evil.example/${TENANT}/oauth2/v2.0/authorize`)).status).toBe(400);
    expect((await ask("x")).status).toBe(400);
  });
});

describe("service-account tokens", () => {
  const cluster = (): Parameters<typeof issueServiceAccountToken>[0] => ({ issuer: CLUSTER, store: world.store, clock: world.clock, random });
  const request: ServiceAccountTokenRequest = { namespace: "default", serviceAccount: { name: "web", uid: "uid-1" } };

  it("have the claims of kube-apiserver", async () => {
    const { token } = await issueServiceAccountToken(cluster(), {
      ...request,
      pod: { name: "web-1", uid: "uid-2" },
      node: { name: "node-1", uid: "uid-3" },
      expirationSeconds: 7200,
      warnAfterSeconds: 3607,
    });
    const now = START / 1000;
    expect(claimsOf(token)).toEqual({
      aud: ["api://AzureADTokenExchange"],
      exp: now + 7200,
      iat: now,
      iss: CLUSTER,
      jti: expect.stringMatching(/^[0-9a-f-]{36}$/),
      "kubernetes.io": {
        namespace: "default",
        node: { name: "node-1", uid: "uid-3" },
        pod: { name: "web-1", uid: "uid-2" },
        serviceaccount: { name: "web", uid: "uid-1" },
        warnafter: now + 3607,
      },
      nbf: now,
      sub: SUBJECT,
    });
  });

  it.each<readonly [string, Partial<ServiceAccountTokenRequest>]>([
    ["no audience", { audiences: [] }],
    ["an empty audience", { audiences: [""] }],
    ["17 audiences", { audiences: Array.from({ length: 17 }, (_, at) => `a${at}`) }],
    ["a namespace with a colon", { namespace: "a:b" }],
    ["no namespace", { namespace: "" }],
    ["a name in capitals", { serviceAccount: { name: "Web", uid: "u" } }],
    ["a pod's name that is none", { pod: { name: "a/b", uid: "u" } }],
    ["a warning after the end", { warnAfterSeconds: 3600 }],
    ["599 seconds", { expirationSeconds: 599 }],
    ["86401 seconds", { expirationSeconds: 86_401 }],
  ])("are not issued for %s", async (_what, change) => {
    await expect(issueServiceAccountToken(cluster(), { ...request, ...change })).rejects.toMatchObject({ code: "ERR_IDENTITY_ARGUMENT" });
  });

  it("are reviewed: whose they are, for which audiences", async () => {
    const { token } = await issueServiceAccountToken(cluster(), { ...request, audiences: ["a", "b"], pod: { name: "web-1", uid: "uid-2" } });
    const { jti } = claimsOf(token);
    expect(await reviewServiceAccountToken(cluster(), token, ["b", "c"])).toEqual({
      username: SUBJECT,
      uid: "uid-1",
      groups: ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
      extra: {
        "authentication.kubernetes.io/pod-name": ["web-1"],
        "authentication.kubernetes.io/pod-uid": ["uid-2"],
        "authentication.kubernetes.io/credential-id": [`JTI=${String(jti)}`],
      },
      audiences: ["b"],
    });
  });

  it("are refused in a review with another audience, issuer, key or time", async () => {
    const { token } = await issueServiceAccountToken(cluster(), request);
    await expect(reviewServiceAccountToken(cluster(), token, ["other"])).rejects.toMatchObject({ code: "ERR_IDENTITY_ASSERTION" });
    await expect(reviewServiceAccountToken(cluster(), token, [])).rejects.toMatchObject({ code: "ERR_IDENTITY_ASSERTION" });
    await expect(reviewServiceAccountToken({ ...cluster(), issuer: CLUSTER.slice(0, -1) }, token, ["api://AzureADTokenExchange"])).rejects.toThrow(/issuer/);
    await expect(reviewServiceAccountToken({ ...cluster(), name: "second" }, token, ["api://AzureADTokenExchange"])).rejects.toThrow(/key/);
    const [key] = world.store.signingKeys("cluster");
    const forged = forge({ alg: "RS256", kid: key.kid }, { ...claimsOf(token), sub: "system:serviceaccount:kube-system:admin" }, key.privateKey);
    await expect(reviewServiceAccountToken(cluster(), forged, ["api://AzureADTokenExchange"])).rejects.toThrow(/subject/);
    world.time += 3600 * 1000;
    await expect(reviewServiceAccountToken(cluster(), token, ["api://AzureADTokenExchange"])).rejects.toMatchObject({ code: "ERR_IDENTITY_EXPIRED" });
    world.time = START;
  });
});
