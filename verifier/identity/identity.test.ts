import { createHmac, generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLocalJWKSet, jwtVerify } from "jose";
import type { Hono } from "hono";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { silentLogger, type Random } from "@sealpod/core";
import { identityApp, issueServiceAccountToken, openIdentityStore, TOKEN_EXCHANGE_AUDIENCE, type ClusterIssuer, type IdentityStore } from "./index.ts";

const AUTHORITY = "https://login.test:8443";
const CLUSTER = "https://login.test:8443/cluster/";
const TENANT = "11111111-2222-4333-8444-555555555555";
const OTHER_TENANT = "22222222-2222-4333-8444-555555555555";
const CLIENT = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const SUBJECT = "system:serviceaccount:default:web";
const START = Date.UTC(2026, 0, 15, 12);

const random: Random = { bytes: (length) => new Uint8Array(randomBytes(length)) };

interface World {
  time: number;
  store: IdentityStore;
  app: Hono;
  cluster: ClusterIssuer;
}

async function openWorld(file = ":memory:", masterKey = new Uint8Array(32).fill(7)): Promise<World> {
  const world = { time: START } as World;
  const clock = { now: () => world.time };
  world.store = await openIdentityStore({ url: file, masterKey, clock, random });
  world.cluster = { issuer: CLUSTER, store: world.store, clock, random };
  world.app = identityApp({
    authority: AUTHORITY,
    tenants: [TENANT, OTHER_TENANT],
    resources: ["https://vault.azure.net"],
    clusters: [{ name: "default", issuer: CLUSTER }],
    store: world.store,
    clock,
    random,
    logger: silentLogger,
  });
  return world;
}

function form(fields: Record<string, string>): RequestInit {
  return { method: "POST", headers: { "content-type": "application/x-www-form-urlencoded" }, body: new URLSearchParams(fields).toString() };
}

function assertionForm(assertion: string, overrides: Record<string, string> = {}): RequestInit {
  return form({
    client_id: CLIENT,
    scope: "https://vault.azure.net/.default",
    grant_type: "client_credentials",
    client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    client_assertion: assertion,
    ...overrides,
  });
}

const segment = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token made by hand, so that each field can be wrong. */
function forge(header: object, claims: object, key: KeyObject | Buffer | undefined): string {
  const input = `${segment(header)}.${segment(claims)}`;
  if (key === undefined) return `${input}.`;
  const signature = Buffer.isBuffer(key) ? createHmac("sha256", key).update(input).digest() : sign("sha256", Buffer.from(input), key);
  return `${input}.${signature.toString("base64url")}`;
}

describe("identity service", () => {
  let world: World;
  let directory: string;
  // Making keys is the slow part: one database is made once and each test gets a copy.
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-identity-"));
    await (await openWorld(join(directory, "template.sqlite"))).store.close();
  });
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });
  beforeEach(async () => {
    rmSync(join(directory, "test.sqlite"), { force: true });
    copyFileSync(join(directory, "template.sqlite"), join(directory, "test.sqlite"));
    world = await openWorld(join(directory, "test.sqlite"));
    await world.store.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT });
    await world.store.addFederatedCredential(CLIENT, { name: "web", issuer: CLUSTER, subject: SUBJECT, audiences: [TOKEN_EXCHANGE_AUDIENCE] });
  });
  afterEach(async () => world.store.close());

  const token = async (overrides: Partial<Parameters<typeof issueServiceAccountToken>[1]> = {}, cluster = world.cluster): Promise<string> =>
    (await issueServiceAccountToken(cluster, { namespace: "default", serviceAccount: { name: "web", uid: "uid-1" }, ...overrides })).token;

  /** A token of the cluster's genuine key with claims that Kubernetes would not give. */
  const signed = async (claims: object): Promise<string> => {
    const genuine = JSON.parse(Buffer.from((await token()).split(".")[1] ?? "", "base64url").toString()) as object;
    const [key] = world.store.signingKeys("cluster");
    return forge({ alg: "RS256", kid: key.kid }, { ...genuine, ...claims }, key.privateKey);
  };

  const post = async (init: RequestInit, tenant = TENANT): Promise<{ status: number; body: Record<string, unknown> }> => {
    const response = await world.app.request(`${AUTHORITY}/${tenant}/oauth2/v2.0/token`, init);
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  };

  const get = async (path: string): Promise<Record<string, unknown>> => {
    const response = await world.app.request(path);
    expect(response.status).toBe(200);
    return (await response.json()) as Record<string, unknown>;
  };

  describe("cluster issuer", () => {
    it("publishes discovery and keys that verify its service-account tokens", async () => {
      const discovery = await get(`${CLUSTER}.well-known/openid-configuration`);
      expect(discovery).toMatchObject({ issuer: CLUSTER, jwks_uri: "https://login.test:8443/cluster/openid/v1/jwks" });
      const jwks = await get(String(discovery["jwks_uri"]));
      const { payload, protectedHeader } = await jwtVerify(
        await token({ pod: { name: "web-1", uid: "uid-2" }, node: { name: "laptop", uid: "uid-3" } }),
        createLocalJWKSet(jwks as never),
        { currentDate: new Date(START), issuer: CLUSTER, audience: TOKEN_EXCHANGE_AUDIENCE },
      );
      expect(protectedHeader.alg).toBe("RS256");
      expect(payload).toMatchObject({
        aud: [TOKEN_EXCHANGE_AUDIENCE],
        sub: SUBJECT,
        iat: START / 1000,
        nbf: START / 1000,
        exp: START / 1000 + 3600,
        "kubernetes.io": {
          namespace: "default",
          node: { name: "laptop", uid: "uid-3" },
          pod: { name: "web-1", uid: "uid-2" },
          serviceaccount: { name: "web", uid: "uid-1" },
        },
      });
      expect(JSON.stringify(jwks)).not.toMatch(/"(d|p|q)":/);
    });

    it.each([599, 86_401, 1.5, Number.NaN])("refuses a lifetime of %d seconds", async (expirationSeconds) => {
      await expect(token({ expirationSeconds })).rejects.toMatchObject({ code: "ERR_IDENTITY_ARGUMENT" });
    });
  });

  describe("token endpoint", () => {
    it("exchanges a service-account token for an access token that the tenant's keys verify", async () => {
      const { status, body } = await post(assertionForm(await token()));
      expect(status).toBe(200);
      expect(body).toMatchObject({ token_type: "Bearer", expires_in: 3599, ext_expires_in: 3599 });
      const discovery = await get(`/${TENANT}/v2.0/.well-known/openid-configuration`);
      for (const name of ["issuer", "token_endpoint", "authorization_endpoint", "jwks_uri", "end_session_endpoint"])
        expect(discovery[name]).toMatch(/^https:\/\/login\.test:8443\//);
      const jwks = await get(String(discovery["jwks_uri"]));
      const { payload } = await jwtVerify(String(body["access_token"]), createLocalJWKSet(jwks as never), {
        currentDate: new Date(START),
        issuer: String(discovery["issuer"]),
        audience: "https://vault.azure.net",
      });
      const objectId = (await world.store.application(CLIENT))?.objectId;
      expect(payload).toMatchObject({ appid: CLIENT, appidacr: "2", oid: objectId, sub: objectId, tid: TENANT, ver: "1.0", exp: START / 1000 + 3600 });
    });

    it("takes a client secret once it is made, and only that one", async () => {
      const fields = { client_id: CLIENT, scope: "https://vault.azure.net/.default", grant_type: "client_credentials" };
      expect((await post(form({ ...fields, client_secret: "guess" }))).body["error_codes"]).toEqual([7000215]);
      const { secret: first } = await world.store.createClientSecret(CLIENT);
      expect((await post(form({ ...fields, client_secret: first }))).status).toBe(200);
      const { secret: second } = await world.store.createClientSecret(CLIENT, { replace: true });
      const refused = await post(form({ ...fields, client_secret: first }));
      expect(refused).toMatchObject({ status: 401, body: { error: "invalid_client", error_codes: [7000215] } });
      expect(JSON.stringify(refused.body)).not.toContain(first);
      expect((await post(form({ ...fields, client_secret: second }))).status).toBe(200);
    });

    it("keeps accepting tokens of the key before a rotation", async () => {
      const old = await token();
      await world.store.rotateSigningKey("cluster");
      const fresh = await token();
      expect(Buffer.from(old.split(".")[0] ?? "", "base64url").toString()).not.toBe(Buffer.from(fresh.split(".")[0] ?? "", "base64url").toString());
      expect((await post(assertionForm(old))).status).toBe(200);
      expect((await post(assertionForm(fresh))).status).toBe(200);
    });

    interface Refusal {
      readonly name: string;
      readonly number: number;
      readonly says: string;
      readonly init: () => Promise<RequestInit>;
      readonly tenant?: string;
    }
    const refusals: readonly Refusal[] = [
      {
        name: "an unknown tenant",
        number: 90002,
        says: "not found",
        tenant: "99999999-2222-4333-8444-555555555555",
        init: async () => assertionForm(await token()),
      },
      { name: "an unknown client", number: 700016, says: "was not found", init: async () => assertionForm(await token(), { client_id: TENANT }) },
      { name: "another grant", number: 70003, says: "password", init: async () => assertionForm(await token(), { grant_type: "password" }) },
      { name: "a scope that is not .default", number: 70011, says: "user.read", init: async () => assertionForm(await token(), { scope: "user.read" }) },
      {
        name: "an unknown resource",
        number: 500011,
        says: "https://other.test",
        init: async () => assertionForm(await token(), { scope: "https://other.test/.default" }),
      },
      {
        name: "no credential at all",
        number: 7000218,
        says: "client_assertion",
        init: async () => form({ client_id: CLIENT, scope: "https://vault.azure.net/.default", grant_type: "client_credentials" }),
      },
      { name: "a missing parameter", number: 900144, says: "'scope'", init: async () => form({ client_id: CLIENT, grant_type: "client_credentials" }) },
      {
        name: "a parameter given twice",
        number: 9000411,
        says: "'client_id'",
        init: async () => ({ ...form({}), body: `client_id=${CLIENT}&client_id=${TENANT}&grant_type=client_credentials` }),
      },
      {
        name: "another content type",
        number: 900144,
        says: "application/json",
        init: async () => ({ method: "POST", headers: { "content-type": "application/json" }, body: "{}" }),
      },
      { name: "both kinds of credential", number: 9000411, says: "both", init: async () => assertionForm(await token(), { client_secret: "x" }) },
      { name: "text that is no token", number: 50027, says: "malformed", init: async () => assertionForm("not-a-token") },
      {
        name: "duplicate claim names",
        number: 50027,
        says: "duplicate name",
        init: async () => assertionForm(`${segment({ alg: "RS256" })}.${Buffer.from('{"iss":"a","iss":"b"}').toString("base64url")}.AA`),
      },
      {
        name: "an issuer without its trailing slash",
        number: 700211,
        says: "trailing slash is missing",
        init: async () => assertionForm(await token({}, { ...world.cluster, issuer: CLUSTER.slice(0, -1) })),
      },
      {
        name: "a subject in other letter case",
        number: 700213,
        says: "letter case differs",
        init: async () => assertionForm(await signed({ sub: SUBJECT.replace("web", "Web") })),
      },
      {
        name: "another subject",
        number: 700213,
        says: "They differ from character 31 on",
        init: async () => assertionForm(await token({ serviceAccount: { name: "api", uid: "uid-1" } })),
      },
      {
        name: "another audience",
        number: 700212,
        says: "api://AzureADTokenExchange",
        init: async () => assertionForm(await token({ audiences: ["api://other"] })),
      },
      {
        name: "another subject and audience",
        number: 70021,
        says: "Assertion Audience: 'api://other'",
        init: async () => assertionForm(await token({ audiences: ["api://other"], serviceAccount: { name: "api", uid: "uid-1" } })),
      },
      {
        name: "an expired assertion",
        number: 700024,
        says: "expiry time of assertion 2026-01-15T13:00:00.000Z",
        init: async () => {
          const assertion = await token();
          world.time += (3600 + 301) * 1000;
          return assertionForm(assertion);
        },
      },
      {
        name: "an assertion that is not yet valid",
        number: 700024,
        says: "valid from",
        init: async () => {
          const assertion = await token();
          world.time -= 301 * 1000;
          return assertionForm(assertion);
        },
      },
    ];
    it.each(refusals)("refuses $name with AADSTS$number", async ({ number, says, init, tenant }) => {
      const { status, body } = await post(await init(), tenant);
      expect([400, 401]).toContain(status);
      expect(body["error_codes"]).toEqual([number]);
      expect(body["error_description"]).toMatch(new RegExp(`^AADSTS${number}: `));
      expect(body["error_description"]).toContain(says);
      expect(body["error_description"]).toMatch(/\r\nTrace ID: [0-9a-f-]{36}\r\nCorrelation ID: [0-9a-f-]{36}\r\nTimestamp: 2026-01-15 \d\d:\d\d:\d\dZ$/);
      expect(body["access_token"]).toBeUndefined();
    });

    it("refuses an application without federated credentials with AADSTS70021", async () => {
      await world.store.removeFederatedCredential(CLIENT, "web");
      const { body } = await post(assertionForm(await token()));
      expect(body["error_codes"]).toEqual([70021]);
      expect(body["error_description"]).toContain(`Assertion Issuer: '${CLUSTER}'. Assertion Subject: '${SUBJECT}'.`);
    });

    it("does not find an application in another tenant", async () => {
      const { body } = await post(assertionForm(await token()), OTHER_TENANT);
      expect(body["error_codes"]).toEqual([700016]);
    });

    it("refuses a body that is too large before reading it as a form", async () => {
      const response = await world.app.request(`/${TENANT}/oauth2/v2.0/token`, form({ client_assertion: "x".repeat(70_000) }));
      expect(response.status).toBe(413);
    });

    it("answers GET on the token endpoint as Entra ID does", async () => {
      const response = await world.app.request(`/${TENANT}/oauth2/v2.0/token`);
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ error_codes: [900561] });
    });

    describe("forged assertions", () => {
      const claims = (): Record<string, unknown> => ({ iss: CLUSTER, sub: SUBJECT, aud: [TOKEN_EXCHANGE_AUDIENCE], exp: START / 1000 + 600 });
      const attacker = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;

      const forgeries: readonly (readonly [string, () => string])[] = [
        ["signed by another key under the genuine kid", () => forge({ alg: "RS256", kid: world.store.signingKeys("cluster")[0].kid }, claims(), attacker)],
        ["with an unknown kid", () => forge({ alg: "RS256", kid: "other" }, claims(), attacker)],
        ["without a kid", () => forge({ alg: "RS256" }, claims(), attacker)],
        ["with alg none", () => forge({ alg: "none", kid: world.store.signingKeys("cluster")[0].kid }, claims(), undefined)],
        [
          "with HS256 and the public key as the secret",
          () => {
            const key = world.store.signingKeys("cluster")[0];
            return forge({ alg: "HS256", kid: key.kid }, claims(), Buffer.from(key.publicKey.export({ type: "spki", format: "pem" }) as string));
          },
        ],
        [
          "signed by the tenant's key instead of the cluster's",
          () => forge({ alg: "RS256", kid: world.store.signingKeys("tenant")[0].kid }, claims(), world.store.signingKeys("tenant")[0].privateKey),
        ],
      ];
      it.each(forgeries)("are refused %s", async (_name, make) => {
        const { status, body } = await post(assertionForm(make()));
        expect(status).toBe(401);
        expect(body["error_codes"]).toEqual([50013]);
      });

      it("are refused with an algorithm that nobody chose, even from the genuine key", async () => {
        const key = world.store.signingKeys("cluster")[0];
        const input = `${segment({ alg: "RS512", kid: key.kid })}.${segment(claims())}`;
        const assertion = `${input}.${sign("sha512", Buffer.from(input), key.privateKey).toString("base64url")}`;
        expect((await post(assertionForm(assertion))).body["error_codes"]).toEqual([50013]);
      });

      it("learn nothing about the subjects that the application expects", async () => {
        const { body } = await post(assertionForm(forge({ alg: "RS256", kid: "other" }, { ...claims(), sub: "system:serviceaccount:x:y" }, attacker)));
        expect(body["error_description"]).not.toContain(SUBJECT);
      });

      it.each([undefined, "1768480000", null])("are refused when the genuine key signed exp %s", async (exp) => {
        const key = world.store.signingKeys("cluster")[0];
        const { body } = await post(assertionForm(forge({ alg: "RS256", kid: key.kid }, { ...claims(), exp }, key.privateKey)));
        expect(body["error_codes"]).toEqual([50027]);
      });

      it("are refused when one character of the signature changes", async () => {
        const genuine = await token();
        const at = genuine.length - 40;
        const changed = genuine.slice(0, at) + (genuine[at] === "A" ? "B" : "A") + genuine.slice(at + 1);
        expect((await post(assertionForm(changed))).body["error_codes"]).toEqual([50013]);
      });
    });
  });

  it("is not made with an authority or issuer that is not a plain https URL", () => {
    const options = {
      authority: AUTHORITY,
      clusters: [{ name: "default", issuer: CLUSTER }],
      tenants: [TENANT],
      resources: [],
      store: world.store,
      clock: world.cluster.clock,
      random,
      logger: silentLogger,
    };
    for (const change of [
      { authority: `${AUTHORITY}/` },
      { authority: "http://login.test" },
      { clusters: [{ name: "default", issuer: "https://login.test/?x=1" }] },
      { clusters: [{ name: "default", issuer: "cluster" }] },
      { clusters: [{ name: "default", issuer: "https://login.test/:tenant" }] },
      { clusters: ["a", "b"].map((name) => ({ name, issuer: `https://login.test/c${name === "a" ? "" : "/"}` })) },
    ]) {
      expect(() => identityApp({ ...options, ...change })).toThrow(/ERR|expected/);
    }
  });
});
