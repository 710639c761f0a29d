import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { explainRelease, keyvaultApp, type KeyvaultAppOptions } from "./index.ts";
import {
  ALL,
  APPID,
  auditOf,
  bearer,
  call,
  grant,
  HOSTDATA,
  HSM,
  importBody,
  KEYS,
  LOGIN,
  MAA,
  maaClaims,
  maaToken,
  NOW,
  OID,
  openRelease,
  openWorld,
  pem,
  POLICY,
  publicJwk,
  random,
  runtime,
  segment,
  START,
  TENANT,
  token,
  VAULT,
  type Answer,
  type Json,
  type World,
} from "./testdata/world.ts";

const V = "api-version=7.4";

let world: World;
beforeEach(async () => {
  world = await openWorld();
});
afterEach(async () => {
  await world.store.close();
});

const put = (name: string, body: unknown = importBody(), base = VAULT): Promise<Answer> => call(world, "PUT", `${base}/keys/${name}?${V}`, body);
const release = (name: string, target: unknown, extra: Json = {}, base = VAULT): Promise<Answer> =>
  call(world, "POST", `${base}/keys/${name}/release?${V}`, { target, ...extra });

describe("access", () => {
  it("challenges a request without a token before it looks at anything else", async () => {
    for (const [method, path] of [
      ["PUT", "/keys/a?api-version=7.4"],
      ["POST", "/keys/a/release"],
      ["GET", "/secrets/a"],
      ["PUT", "/keys/not%20a%20name"],
    ] as const) {
      const response = await world.app.request(`${VAULT}${path}`, { method });
      expect(response.status).toBe(401);
      expect(response.headers.get("www-authenticate")).toBe(`Bearer authorization="https://login.test/${TENANT}", resource="https://vault.test"`);
      expect(await response.json()).toEqual({ error: { code: "Unauthorized", message: "AKV10000: Request is missing a Bearer or PoP token." } });
    }
    expect(world.fetched).toEqual([]);
  });

  it("answers with the headers of the service", async () => {
    const { headers } = await call(world, "GET", `${VAULT}/keys?${V}`, undefined, { "x-ms-client-request-id": "abc-1" });
    expect(headers.get("x-ms-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect(headers.get("x-ms-client-request-id")).toBe("abc-1");
    expect(headers.get("cache-control")).toBe("no-cache");
    const refused = await world.app.request(`${VAULT}/keys?${V}`, { headers: { "x-ms-client-request-id": "abc-2" } });
    expect(refused.headers.get("x-ms-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    expect(refused.headers.get("x-ms-client-request-id")).toBe("abc-2");
  });

  const genuine = { aud: "https://vault.test", iss: LOGIN, appid: APPID, oid: OID, tid: TENANT, exp: NOW + 3600 };
  it.each<readonly [string, () => string, RegExp]>([
    ["that is no token", () => "abc", /1 parts/],
    ["signed by another key under the genuine kid", () => token({ alg: "RS256", kid: "login-1" }, genuine, KEYS.attacker.privateKey), /did not sign it/],
    ["with alg none", () => token({ alg: "none", kid: "login-1" }, genuine, undefined), /algorithm is "none"/],
    [
      "with HS256 and the public key as the secret",
      () => token({ alg: "HS256", kid: "login-1" }, genuine, Buffer.from(KEYS.login.publicKey.export({ type: "spki", format: "pem" }) as string)),
      /algorithm is "HS256"/,
    ],
    ["with an unknown kid", () => token({ alg: "RS256", kid: "login-2" }, genuine, KEYS.login.privateKey), /no RSA signing key with kid/],
    ["without kid", () => token({ alg: "RS256" }, genuine, KEYS.login.privateKey), /no kid/],
    ["that has expired", () => bearer({ exp: NOW - 61 }), /expired 61 seconds ago/],
    ["without exp", () => bearer({ exp: undefined }), /no exp/],
    ["whose exp is a string", () => bearer({ exp: String(NOW + 60) }), /no exp/],
    ["that is not yet valid", () => bearer({ nbf: NOW + 61 }), /valid only in 61/],
    ["of another issuer", () => bearer({ iss: "https://login.test/other/v2.0" }), /AKV10032/],
    ["whose issuer is a number beyond 2^53", () => token({ alg: "RS256", kid: "login-1" }, '{"iss":13202930541250959283}', KEYS.login.privateKey), /AKV10032/],
    ["for another audience", () => bearer({ aud: "https://graph.microsoft.com" }), /AKV10022/],
    ["without audience", () => bearer({ aud: undefined }), /AKV10022/],
    ["of another tenant", () => bearer({ tid: "22222222-2222-4333-8444-555555555555" }), /tid/],
    ["that names nobody", () => bearer({ appid: undefined, oid: undefined }), /neither/],
    ["with duplicate names", () => token({ alg: "RS256", kid: "login-1" }, `{"iss":"${LOGIN}","iss":"${LOGIN}"}`, KEYS.login.privateKey), /duplicate name/],
  ])("refuses a token %s", async (_what, make, message) => {
    const { status, body, headers } = await call(world, "GET", `${VAULT}/keys?${V}`, undefined, { authorization: `Bearer ${make()}` });
    expect(status).toBe(401);
    expect(body.error?.code).toBe("Unauthorized");
    expect(body.error?.message).toMatch(message);
    expect(headers.get("www-authenticate")).toMatch(/, error="invalid_token"$/);
  });

  it("takes an audience in a list, with a trailing slash, and the azp of a v2 token", async () => {
    const authorization = `Bearer ${bearer({ aud: ["x", "https://vault.test/"], appid: undefined, azp: APPID, oid: undefined })}`;
    expect((await call(world, "GET", `${VAULT}/keys?${V}`, undefined, { authorization })).status).toBe(200);
  });

  it("denies by default, and takes away what a new grant does not list", async () => {
    const stranger = { authorization: `Bearer ${bearer({ appid: "cccccccc-bbbb-4ccc-8ddd-eeeeeeeeeeee", oid: "dddddddd-bbbb-4ccc-8ddd-eeeeeeeeeeee" })}` };
    await put("app");
    for (const [method, path, body] of [
      ["GET", "/keys", undefined],
      ["GET", "/keys/app", undefined],
      ["GET", "/keys/app/versions", undefined],
      ["PUT", "/keys/app", importBody()],
      ["POST", "/keys/app/create", { kty: "RSA" }],
      ["PATCH", "/keys/app", {}],
      ["DELETE", "/keys/app", undefined],
      ["GET", "/deletedkeys", undefined],
      ["GET", "/deletedkeys/app", undefined],
      ["DELETE", "/deletedkeys/app", undefined],
      ["POST", "/deletedkeys/app/recover", undefined],
      ["POST", "/keys/app/release", { target: maaToken() }],
    ] as const) {
      const { status, body: answer } = await call(world, method, `${VAULT}${path}?${V}`, body, stranger);
      expect([method, path, status]).toEqual([method, path, 403]);
      expect(answer.error).toMatchObject({ code: "Forbidden", innererror: { code: "AccessDenied" } });
    }
    expect((await explainRelease(world.store, {}))?.record).toMatchObject({ outcome: "refused", failed: "access", name: "app" });

    await grant(world.store, "demo", { tenantId: TENANT, id: APPID }, ["list"]);
    expect((await call(world, "GET", `${VAULT}/keys?${V}`)).status).toBe(200);
    const refused = await call(world, "GET", `${VAULT}/keys/app?${V}`);
    expect(refused.body.error?.message).toContain(`appid=${APPID};oid=${OID};iss=${LOGIN}' does not have keys get permission on key vault 'demo`);
    await grant(world.store, "demo", { tenantId: TENANT, id: OID.toUpperCase() }, ["get"]);
    expect((await call(world, "GET", `${VAULT}/keys/app?${V}`)).status).toBe(200);
    await expect(grant(world.store, "demo", { tenantId: TENANT, id: APPID }, ["everything" as never])).rejects.toThrow(/everything/);
  });

  it("holds a grant to its tenant and its vault", async () => {
    await grant(world.store, "demo", { tenantId: TENANT, id: APPID }, []);
    await grant(world.store, "demo", { tenantId: "22222222-2222-4333-8444-555555555555", id: APPID }, ALL);
    expect((await call(world, "GET", `${VAULT}/keys?${V}`)).status).toBe(403);
    expect((await call(world, "GET", `${HSM}/keys?${V}`)).status).toBe(200);
  });

  it("fetches an issuer's keys once, again for an unknown kid, and not again at once", async () => {
    const list = (kid: string): Promise<Answer> =>
      call(world, "GET", `${VAULT}/keys?${V}`, undefined, { authorization: `Bearer ${token({ alg: "RS256", kid }, genuine, KEYS.login.privateKey)}` });
    await Promise.all([list("login-1"), list("login-1")]);
    expect(world.fetched).toEqual([`${LOGIN}/.well-known/openid-configuration`, "https://login.test/keys"]);

    world.documents.set("https://login.test/keys", { keys: [publicJwk(KEYS.login.publicKey, "login-2")] });
    expect((await list("login-2")).status).toBe(401);
    expect(world.fetched).toHaveLength(2);
    world.time += 10_001;
    expect((await list("login-2")).status).toBe(200);
    expect(world.fetched).toHaveLength(4);
    expect((await list("login-3")).status).toBe(401);
    expect(world.fetched).toHaveLength(4);
    expect((await list("login-1")).status).toBe(401);
  });

  it("forgets keys that their issuer has withdrawn after an hour", async () => {
    expect((await call(world, "GET", `${VAULT}/keys?${V}`)).status).toBe(200);
    world.documents.set("https://login.test/keys", { keys: [] });
    expect((await call(world, "GET", `${VAULT}/keys?${V}`)).status).toBe(200);
    world.time += 60 * 60 * 1000 + 1;
    expect((await call(world, "GET", `${VAULT}/keys?${V}`, undefined, { authorization: `Bearer ${bearer({ exp: NOW + 7200 })}` })).status).toBe(401);
  });

  const configuration = `${LOGIN}/.well-known/openid-configuration`;
  it.each<readonly [string, string, unknown]>([
    ["does not answer", configuration, new TypeError("fetch failed")],
    ["answers 404", configuration, undefined],
    ["answers text that is no JSON", configuration, () => new Response("<html>")],
    ["answers too much", configuration, () => new Response("x".repeat(1024 * 1024 + 1))],
    ["names another issuer", configuration, { issuer: "https://other.test", jwks_uri: "https://login.test/keys" }],
    ["names keys over http", configuration, { issuer: LOGIN, jwks_uri: "http://login.test/keys" }],
    ["names no keys", configuration, { issuer: LOGIN }],
    ["has no list of keys", "https://login.test/keys", { keys: {} }],
    [
      "has two keys of one kid",
      "https://login.test/keys",
      { keys: [publicJwk(KEYS.login.publicKey, "login-1"), publicJwk(KEYS.attacker.publicKey, "login-1")] },
    ],
  ])("answers 503 when an issuer %s", async (_what, url, document) => {
    world.documents.set(url, document);
    const { status, body, headers } = await call(world, "GET", `${VAULT}/keys?${V}`);
    expect(status).toBe(503);
    expect(body.error?.code).toBe("ServiceUnavailable");
    // Which address does not answer, and how, is for the log.
    expect(body.error?.message).toMatch(/^The keys of a token issuer cannot be fetched\. Request id: [0-9a-f-]{36}$/);
    expect(headers.get("retry-after")).toBe("10");
  });

  it("uses no key of a JWKS that is small, for encryption, or contradicts its certificate", async () => {
    const x5c = [new X509Certificate(pem("vault.pem")).raw.toString("base64")];
    const small = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey;
    for (const jwk of [
      publicJwk(small, "login-1"),
      { ...publicJwk(KEYS.login.publicKey, "login-1"), use: "enc" },
      { ...publicJwk(KEYS.login.publicKey, "login-1"), x5c },
    ]) {
      world.documents.set("https://login.test/keys", { keys: [jwk] });
      world.time += 20_000;
      expect((await call(world, "GET", `${VAULT}/keys?${V}`)).status).toBe(401);
    }
  });

  it("takes keys that are given as certificates alone, as the genuine attestation service gives them", async () => {
    const leaf = new X509Certificate(pem("vault.pem"));
    world.documents.set("https://login.test/keys", { keys: [{ kid: "cert", kty: "RSA", x5c: [leaf.raw.toString("base64")] }] });
    const signed = token({ alg: "RS256", kid: "cert" }, genuine, createPrivateKey(pem("vault-key.pem")));
    expect((await call(world, "GET", `${VAULT}/keys?${V}`, undefined, { authorization: `Bearer ${signed}` })).status).toBe(200);
  });
});

describe("requests", () => {
  it.each([
    ["a percent-encoded parameter name", "/keys/app?api%2Dversion=2025-07-01"],
    ["a trailing slash", "/keys/app/?api-version=7.4"],
    ["doubled slashes", "//keys//app?api-version=7.3-preview"],
  ])("tolerates %s", async (_what, path) => {
    await put("app");
    expect((await call(world, "GET", `${VAULT}${path}`)).status).toBe(200);
  });

  it("tolerates the empty version of older clients, and the default port", async () => {
    await put("app");
    const { status } = await call(world, "POST", `${VAULT}/keys/app//release?${V}`, { target: maaToken() });
    expect(status).toBe(200);
    const { body } = await call(world, "GET", `https://demo.vault.test:443/keys/app?${V}`);
    expect((body as Json)["key"]).toMatchObject({ kid: expect.stringMatching(/^https:\/\/demo\.vault\.test\/keys\/app\/[0-9a-f]{32}$/) as string });
  });

  it.each(["", "?api-version=", "?api-version=6.0", "?api-version=7.4&api-version=7.5", "?api-version=7.4;x"])(
    "refuses the api-version of %j",
    async (query) => {
      const { status, body } = await call(world, "GET", `${VAULT}/keys${query}`);
      expect(status).toBe(400);
      expect(body.error?.code).toBe("BadParameter");
    },
  );

  it.each<readonly [string, unknown, Record<string, string>, number, RegExp]>([
    ["no body", undefined, {}, 400, /strict JSON/],
    ["text that is no JSON", "{", {}, 400, /strict JSON/],
    ["duplicate names", '{"key":{},"key":{}}', {}, 400, /duplicate name "key"/],
    ["a list", "[]", {}, 400, /no(t a)? JSON object/],
    ["bytes that are no UTF-8", new Uint8Array([0x22, 0xff, 0x22]), {}, 400, /UTF-8/],
    ["nesting that is too deep", "[".repeat(200), {}, 400, /nested deeper/],
    ["more than a mebibyte", " ".repeat(1024 * 1024 + 1), {}, 413, /larger than/],
    ["a declared length above the limit", "{}", { "content-length": "99999999" }, 413, /larger than/],
    ["another content type", "{}", { "content-type": "text/plain" }, 415, /application\/json/],
  ])("refuses %s", async (_what, body, headers, expected, message) => {
    const init: RequestInit = {
      method: "PUT",
      headers: { authorization: `Bearer ${bearer()}`, "content-type": "application/json; charset=utf-8", ...headers },
    };
    if (body !== undefined) init.body = body as string | Uint8Array<ArrayBuffer>;
    const response = await world.app.request(`${VAULT}/keys/app?${V}`, init);
    expect(response.status).toBe(expected);
    expect(((await response.json()) as Answer["body"]).error?.message).toMatch(message);
  });

  it("answers 404 for other vaults, keys, versions and pages, and 501 for what it does not do", async () => {
    await put("app");
    for (const url of [
      "https://other.vault.test/keys",
      "https://vault.test/keys",
      "https://demo.vault.test.evil.test/keys",
      `${VAULT}/keys/none`,
      `${VAULT}/keys/app/${"0".repeat(32)}`,
      `${VAULT}/deletedkeys/app`,
      `${VAULT}/nothing`,
    ]) {
      expect([url, (await call(world, "GET", `${url}?${V}`)).status]).toEqual([url, 404]);
    }
    expect((await call(world, "GET", `${VAULT}/keys/none?${V}`)).body.error).toMatchObject({
      code: "KeyNotFound",
      message: expect.stringContaining("none was not found in this key vault") as string,
    });
    for (const [method, path] of [
      ["GET", "/certificates/a"],
      ["GET", "/deletedcertificates"],
      ["GET", "/storage"],
      ["GET", "/keys/app/abc/attestation"],
      ["GET", "/keys/app/attestation"],
      ["GET", "/keys/app//attestation"],
    ] as const) {
      expect((await call(world, method, `${VAULT}${path}?${V}`)).body.error?.code).toBe("NotImplemented");
    }
  });
});

describe("release", () => {
  it("gives the key to the TEE of a token that satisfies the policy", async () => {
    const { body: bundle } = await put("app");
    const { kid } = (bundle as unknown as { key: { kid: string } }).key;
    const { status, body } = await release("app", maaToken());
    expect(status).toBe(200);
    const { header, payload, keyHsm, plaintext } = await openRelease(body.value);
    expect(plaintext).toEqual(Buffer.alloc(32, 5));
    const leaf = new X509Certificate(pem("vault.pem"));
    expect(header).toMatchObject({
      alg: "RS256",
      typ: "JWT",
      kid: leaf.fingerprint.replaceAll(":", ""),
      "x5t#S256": Buffer.from(leaf.fingerprint256.replaceAll(":", ""), "hex").toString("base64url"),
    });
    expect(header["x5c"]).toEqual(["vault.pem", "ca.pem"].map((name) => new X509Certificate(pem(name)).raw.toString("base64")));
    expect(keyHsm).toMatchObject({ schema_version: "1.0", header: { kid: "tee-key", alg: "dir", enc: "CKM_RSA_AES_KEY_WRAP" } });
    expect(Object.keys(payload)).toEqual(["request", "response"]);
    expect(payload).toMatchObject({
      request: { "api-version": "7.4", enc: "CKM_RSA_AES_KEY_WRAP", kid: `${VAULT}/keys/app` },
      response: {
        key: {
          key: { kid, kty: "oct-HSM", key_ops: ["encrypt", "decrypt", "wrapKey", "unwrapKey"] },
          attributes: { exportable: true, enabled: true },
          release_policy: { data: segment(POLICY) },
        },
      },
    });
    expect(JSON.stringify(payload)).not.toContain(Buffer.alloc(32, 5).toString("base64url"));

    const releases = await auditOf(world, { operation: "keys/release" });
    expect(releases).toMatchObject([
      { vault: "demo", name: "app", appid: APPID, oid: OID, tenantId: TENANT, outcome: "allowed", failed: undefined, authority: MAA, at: START },
    ]);
    expect(releases[0]?.findings.every(({ matched }) => matched)).toBe(true);
  });

  it("gives old versions by their id, and the latest without one", async () => {
    const first = (
      (await put("app", importBody(POLICY, { key: { kty: "oct-HSM", k: Buffer.from("old").toString("base64url") } }))).body as unknown as {
        key: { kid: string };
      }
    ).key.kid;
    await put("app", importBody(POLICY, { key: { kty: "oct-HSM", k: Buffer.from("new").toString("base64url") } }));
    const old = await call(world, "POST", `${first}/release?${V}`, { target: maaToken(), nonce: "n-1", enc: "RSA_AES_KEY_WRAP_256" });
    const opened = await openRelease(old.body.value);
    expect(opened.plaintext.toString()).toBe("old");
    expect(opened.payload).toMatchObject({ request: { kid: first, nonce: "n-1", enc: "RSA_AES_KEY_WRAP_256" } });
    const latest = await release("app", maaToken(), { enc: "RSA_AES_KEY_WRAP_384" });
    expect((await openRelease(latest.body.value)).plaintext.toString()).toBe("new");
  });

  it("gives RSA and EC keys as PKCS#8", async () => {
    for (const [name, key] of [
      ["rsa", KEYS.attacker.privateKey],
      ["ec", generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey],
    ] as const) {
      await put(name, importBody(POLICY, { key: key.export({ format: "jwk" }) }));
      const { plaintext, jwk } = await openRelease((await release(name, maaToken())).body.value);
      expect(createPublicKey(createPrivateKey({ key: plaintext, format: "der", type: "pkcs8" })).equals(createPublicKey(key))).toBe(true);
      expect(jwk).not.toHaveProperty("d");
    }
  });

  it("speaks as a managed HSM under the name of one", async () => {
    await put("app", importBody(), HSM);
    const { header, payload } = await openRelease((await release("app", maaToken(), {}, HSM)).body.value);
    expect(header["kid"]).toBe(header["x5t#S256"]);
    expect(header).not.toHaveProperty("typ");
    const { key } = (payload as unknown as { response: { key: { key: Json; release_policy: Json } } }).response;
    expect(key.key["kty"]).toBe("oct");
    expect(key.release_policy["contentType"]).toBe("application/json; charset=utf-8");
    for (const object of [payload, key, key.key]) expect(Object.keys(object)).toEqual(Object.keys(object).sort());
  });

  it("takes an authority and an issuer that differ by a slash", async () => {
    const policy = { version: "1.0.0", anyOf: [{ authority: `${MAA}/`, allOf: [{ claim: "x-ms-sevsnpvm-vmpl", equals: "0" }] }] };
    await put("app", importBody(policy));
    expect((await release("app", maaToken())).status).toBe(200);
    expect((await release("app", maaToken({ iss: `${MAA}/` }))).status).toBe(200);
    expect((await release("app", maaToken({ iss: `${MAA}//` }))).status).toBe(403);
  });

  it("takes a token without a root claim, as the genuine service makes it", async () => {
    await put("app");
    expect((await release("app", maaToken({ "x-sealpod-root": undefined }))).status).toBe(200);
  });

  it("follows an authority that rolls its keys over", async () => {
    await put("app");
    expect((await release("app", maaToken())).status).toBe(200);
    world.documents.set(`${MAA}/certs`, { keys: [publicJwk(KEYS.attacker.publicKey, "maa-2")] });
    world.time += 11_000;
    expect((await release("app", maaToken({}, KEYS.attacker.privateKey, "maa-2"))).status).toBe(200);
    expect((await release("app", maaToken())).status).toBe(403);
  });

  const hmac = (): string =>
    token({ alg: "HS256", kid: "maa-1" }, maaClaims(), Buffer.from(KEYS.maa.publicKey.export({ type: "spki", format: "pem" }) as string));
  const flip = (text: string, at: number): string => text.slice(0, at) + (text[at] === "A" ? "B" : "A") + text.slice(at + 1);
  const without = (claim: string): string => maaToken({ [claim]: undefined });
  it.each<readonly [string, () => string, string, RegExp]>([
    ["another HOST_DATA", () => maaToken({ "x-ms-sevsnpvm-hostdata": "cd".repeat(32) }), "policy", /claim x-ms-sevsnpvm-hostdata is "cdcd.*expects "abab/],
    ["HOST_DATA in upper case", () => maaToken({ "x-ms-sevsnpvm-hostdata": HOSTDATA.toUpperCase() }), "policy", /hostdata/],
    ["a missing claim", () => without("x-ms-compliance-status"), "policy", /claim x-ms-compliance-status is missing/],
    ["a debuggable guest", () => maaToken({ "x-ms-sevsnpvm-is-debuggable": true }), "policy", /is-debuggable is true, the policy expects "false"/],
    ["a number where the policy says false", () => maaToken({ "x-ms-sevsnpvm-is-debuggable": 0 }), "policy", /is-debuggable is 0/],
    ["the signature of another key under the genuine kid", () => maaToken({}, KEYS.attacker.privateKey), "token", /did not sign it/],
    ["an unknown kid", () => maaToken({}, KEYS.maa.privateKey, "maa-9"), "token", /no RSA signing key with kid "maa-9"/],
    ["alg none", () => token({ alg: "none", kid: "maa-1" }, maaClaims(), undefined), "token", /algorithm is "none"/],
    ["HS256 with the public key as the secret", hmac, "token", /algorithm is "HS256"/],
    ["an extension in its header", () => token({ alg: "RS256", kid: "maa-1", crit: ["exp"], exp: 1 }, maaClaims(), KEYS.maa.privateKey), "token", /extension/],
    ["PS256", () => token({ alg: "PS256", kid: "maa-1" }, maaClaims(), KEYS.maa.privateKey), "token", /algorithm is "PS256"/],
    ["a changed payload", () => flip(maaToken(), 200), "token", /refused/],
    ["an expired token", () => maaToken({ exp: NOW - 61 }), "token", /expired/],
    ["a token of the future", () => maaToken({ nbf: NOW + 61 }), "token", /valid only in/],
    ["a token without exp", () => without("exp"), "token", /no exp/],
    [
      "another authority",
      () => maaToken({ iss: "https://evil.test" }),
      "authority",
      /token is of "https:\/\/evil.test", the policy expects https:\/\/maa.test/,
    ],
    ["no issuer", () => without("iss"), "authority", /no iss/],
    ["the vault's own login service as authority", () => bearer(), "authority", /login.test/],
    [
      "evidence of a root that this vault does not take",
      () => maaToken({ "x-sealpod-root": "amd" }),
      "evidence-root",
      /rests on root "amd", this vault takes emulator/,
    ],
    ["a root that is no text", () => maaToken({ "x-sealpod-root": ["emulator"] }), "evidence-root", /rests on root/],
    [
      "no encryption key in x-ms-runtime",
      () => maaToken({ "x-ms-runtime": { keys: [{ ...runtime(), kty: "RSA", use: "sig" }] } }),
      "wrapping-key",
      /no wrapping key/,
    ],
    ["no x-ms-runtime", () => without("x-ms-runtime"), "wrapping-key", /no wrapping key/],
    ["duplicate claims", () => token({ alg: "RS256", kid: "maa-1" }, `{"iss":"${MAA}","iss":"${MAA}"}`, KEYS.maa.privateKey), "token", /duplicate name/],
    ["text that is no token", () => "a.b", "token", /2 parts/],
    ["a token that is too long", () => "a".repeat(300_000), "token", /more than the limit/],
  ])("refuses %s, tells the caller nothing, and tells the owner why", async (_what, make, check, reason) => {
    await put("app");
    const { status, body, headers } = await release("app", make());
    expect(status).toBe(403);
    expect(body).toEqual({
      error: {
        code: "Forbidden",
        message: "The key was not released: the attestation token does not satisfy the release policy of the key.",
        innererror: { code: "ForbiddenByReleasePolicy" },
      },
    });
    const explanation = await explainRelease(world.store, { requestId: headers.get("x-ms-request-id") ?? "" });
    expect(explanation?.record).toMatchObject({ outcome: "refused", failed: check, vault: "demo", name: "app", appid: APPID, oid: OID });
    expect(explanation?.record.reason).toMatch(reason);
    expect(explanation?.text).toContain(`failed check: ${check}`);
  });

  it("never asks the issuer that a token names, only the one that the policy names", async () => {
    await put("app");
    await release("app", maaToken({ iss: "https://evil.test" }));
    expect(world.fetched.filter((url) => url.includes("evil"))).toEqual([]);
  });

  it("does not mix the conditions of two authorities", async () => {
    const other = "https://maa2.test";
    world.documents.set(`${other}/.well-known/openid-configuration`, { jwks_uri: `${other}/certs` });
    world.documents.set(`${other}/certs`, { keys: [publicJwk(KEYS.attacker.publicKey, "maa-1")] });
    const condition = (equals: string): Json[] => [{ claim: "x-ms-sevsnpvm-hostdata", equals }];
    await put(
      "app",
      importBody({
        version: "1.0.0",
        anyOf: [
          { authority: MAA, allOf: condition(HOSTDATA) },
          { authority: other, allOf: condition("ef") },
        ],
      }),
    );
    expect((await release("app", maaToken({ iss: other }, KEYS.attacker.privateKey))).status).toBe(403);
    expect((await release("app", maaToken({ iss: other, "x-ms-sevsnpvm-hostdata": "ef" }, KEYS.attacker.privateKey))).status).toBe(200);
    expect((await release("app", maaToken({ iss: MAA }, KEYS.attacker.privateKey))).status).toBe(403);
  });

  it("refuses keys that are not exportable or disabled, and says so", async () => {
    await put("plain", { key: { kty: "oct-HSM", k: "AAAA" } });
    await put("app", importBody(POLICY, { attributes: { exportable: true, enabled: false } }));
    for (const [name, message] of [
      ["plain", "not exportable"],
      ["app", "disabled"],
    ] as const) {
      const { status, body } = await release(name, maaToken());
      expect(status).toBe(403);
      expect(body.error).toMatchObject({
        code: "Forbidden",
        innererror: { code: "KeyOperationForbidden" },
        message: expect.stringContaining(message) as string,
      });
      expect((await explainRelease(world.store, { name }))?.record.failed).toBe("key");
    }
  });

  it("answers 503 when the authority cannot be asked, and notes it", async () => {
    await put("app");
    world.documents.set(`${MAA}/certs`, new TypeError("connect ECONNREFUSED"));
    expect((await release("app", maaToken())).status).toBe(503);
    expect((await explainRelease(world.store, { name: "app" }))?.record).toMatchObject({
      failed: "issuer",
      reason: expect.stringContaining("ECONNREFUSED") as string,
    });
  });

  it.each<readonly [string, Json]>([
    ["no target", { target: undefined }],
    ["an empty target", { target: "" }],
    ["a target that is no text", { target: {} }],
    ["an unknown algorithm", { target: "x", enc: "MY_OWN_WRAP" }],
    ["an algorithm that is no text", { target: "x", enc: 1 }],
    ["a nonce that is no text", { target: "x", nonce: 1 }],
  ])("answers 400 to %s", async (_what, body) => {
    await put("app");
    expect((await call(world, "POST", `${VAULT}/keys/app/release?${V}`, body)).status).toBe(400);
  });

  it("answers 404 for an unknown key", async () => {
    expect(await release("none", maaToken())).toMatchObject({ status: 404, body: { error: { code: "KeyNotFound" } } });
  });

  it("shows the owner every condition", async () => {
    await put("app");
    await release("app", maaToken({ "x-ms-sevsnpvm-hostdata": "cd", "x-ms-compliance-status": undefined }));
    const { text } = (await explainRelease(world.store, { vault: "demo", name: "APP" })) ?? { text: "" };
    expect(text).toContain(`FAILED x-ms-sevsnpvm-hostdata: expected "${HOSTDATA}", found "cd"`);
    expect(text).toContain(`FAILED x-ms-compliance-status: expected "sealpod-compliant-uvm", found nothing`);
    expect(text).toContain(`ok     x-ms-sevsnpvm-is-debuggable: expected "false", found false`);
    expect(await explainRelease(world.store, { name: "none" })).toBeUndefined();
  });

  it("puts neither keys nor tokens into the log or the audit", async () => {
    await put("app");
    const target = maaToken();
    await release("app", target);
    await release("app", maaToken({ "x-ms-sevsnpvm-hostdata": "cd" }));
    const text = JSON.stringify([world.logs, await auditOf(world)], (_key, value: unknown) => (typeof value === "bigint" ? value.toString() : value));
    for (const secret of [target, target.split(".")[2] ?? "", bearer(), Buffer.alloc(32, 5).toString("base64url"), Buffer.alloc(32, 5).toString("base64")])
      expect(text).not.toContain(secret);
  });
});

describe("storage", () => {
  let directory: string;
  let file: string;
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-keyvault-"));
    file = join(directory, "keyvault.sqlite");
    await world.store.close();
    world = await openWorld({ file });
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  const tamper = (sql: string): void => {
    const database = new DatabaseSync(file);
    database.exec(sql);
    database.close();
  };

  it("survives a restart, and holds no key in the clear", async () => {
    await put("app");
    await world.store.close();
    for (const name of readdirSync(directory)) expect(readFileSync(join(directory, name)).includes(Buffer.alloc(32, 5))).toBe(false);
    world = await openWorld({ file });
    expect((await openRelease((await release("app", maaToken())).body.value)).plaintext).toEqual(Buffer.alloc(32, 5));
  });

  const other = (column: string): string => `(SELECT ${column} FROM vault_key_versions WHERE object = (SELECT id FROM vault_keys WHERE name = 'other'))`;
  const app = "WHERE object = (SELECT id FROM vault_keys WHERE name = 'app')";
  it.each([
    ["a secret copied from another key", `UPDATE vault_key_versions SET sealed = ${other("sealed")} ${app}`],
    ["another release policy", `UPDATE vault_key_versions SET policy = ${other("policy")} ${app}`],
    ["another name", "DELETE FROM vault_keys WHERE name = 'other'; UPDATE vault_keys SET name = 'other', name_key = 'other' WHERE name = 'app'"],
  ])("does not release a key whose row was given %s", async (_what, sql) => {
    await put("app");
    await put("other", importBody({ version: "1.0.0", anyOf: [{ authority: MAA, allOf: [{ claim: "iss", equals: MAA }] }] }));
    tamper(`PRAGMA foreign_keys = ON; ${sql}`);
    const name = sql.includes("SET name") ? "other" : "app";
    const { status, body } = await release(name, maaToken());
    expect(status).toBe(500);
    expect(body.error?.code).toBe("InternalServerError");
    expect(body.value).toBeUndefined();
    expect((await explainRelease(world.store, { name }))?.record).toMatchObject({ outcome: "refused", failed: "service" });
  });
});

describe("a key whose row was changed behind the service's back", () => {
  let directory: string;
  let file: string;
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-keyvault-"));
    file = join(directory, "keyvault.sqlite");
    await world.store.close();
    world = await openWorld({ file });
  });
  afterEach(() => rmSync(directory, { recursive: true }));
  const tamper = (sql: string, ...values: string[]): void => {
    const database = new DatabaseSync(file);
    database.prepare(sql).run(...values);
    database.close();
  };
  const digest = Buffer.alloc(32, 1).toString("base64url");

  it("shows nobody another public key, encrypts to none, and takes no signature of it", async () => {
    expect((await call(world, "POST", `${VAULT}/keys/app/create?api-version=7.4`, { kty: "RSA", key_size: 2048 })).status).toBe(200);
    const { n, e } = KEYS.attacker.publicKey.export({ format: "jwk" }) as { n: string; e: string };
    tamper("UPDATE vault_key_versions SET public_members = ?", JSON.stringify({ n, e }));
    const value = sign("sha256", Buffer.from("message"), KEYS.attacker.privateKey).toString("base64url");
    for (const [method, path, body] of [
      ["GET", "keys/app", undefined],
      ["GET", "keys", undefined],
      ["GET", "keys/app/versions", undefined],
      ["POST", "keys/app/encrypt", { alg: "RSA-OAEP-256", value: "AAAA" }],
      ["POST", "keys/app/wrapkey", { alg: "RSA-OAEP-256", value: "AAAA" }],
      ["POST", "keys/app/verify", { alg: "RS256", digest, value }],
      ["POST", "keys/app/create", { kty: "RSA", key_size: 2048 }],
      ["DELETE", "keys/app", undefined],
      ["GET", "deletedkeys/app", undefined],
      ["GET", "deletedkeys", undefined],
      ["POST", "deletedkeys/app/recover", undefined],
    ] as const) {
      const answer = await call(world, method, `${VAULT}/${path}?api-version=7.4`, body);
      expect([method, path, answer.status]).toEqual([method, path, 500]);
      expect(JSON.stringify(answer.body)).not.toContain(n);
    }
    // Whoever looks after the vault gets rid of it.
    expect((await call(world, "DELETE", `${VAULT}/deletedkeys/app?api-version=7.4`)).status).toBe(204);
    expect((await call(world, "GET", `${VAULT}/keys?api-version=7.4`)).status).toBe(200);
  });

  it.each(["enabled = 1", 'key_ops = \'["encrypt","decrypt"]\', enabled = 1', "expires = NULL, enabled = 1"])(
    "does nothing that it was not made for: %s",
    async (change) => {
      await call(world, "POST", `${VAULT}/keys/app/create?api-version=7.4`, { kty: "RSA", key_ops: ["sign"], attributes: { enabled: false, exp: 1 } });
      tamper(`UPDATE vault_key_versions SET ${change}`);
      expect((await call(world, "POST", `${VAULT}/keys/app/encrypt?api-version=7.4`, { alg: "RSA-OAEP", value: "AAAA" })).status).toBe(500);
    },
  );
});

describe("keyvaultApp", () => {
  it("refuses a signer that could not sign", () => {
    const chain = [new Uint8Array(new X509Certificate(pem("vault.pem")).raw)];
    const key = createPrivateKey(pem("vault-key.pem"));
    const open = (options: Partial<KeyvaultAppOptions>) => (): unknown =>
      keyvaultApp({
        store: world.store,
        domain: "d",
        vaults: [],
        issuers: [{ issuer: "i", tenantId: "t", authorization: "a" }],
        resource: "r",
        signer: { privateKey: key, chain },
        evidenceRoots: [],
        fetch: () => Promise.reject(new Error("none")),
        clock: { now: () => 0 },
        random,
        logger: { log: () => undefined },
        ...options,
      });
    expect(open({})).not.toThrow();
    expect(open({ signer: { privateKey: key, chain: [] } })).toThrow(/certificate chain/);
    expect(open({ signer: { privateKey: KEYS.attacker.privateKey, chain } })).toThrow(/not for its key/);
    expect(open({ signer: { privateKey: generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey, chain } })).toThrow(/RS256/);
    expect(open({ issuers: [] })).toThrow(/issuer/);
  });
});
