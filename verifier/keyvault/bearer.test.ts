import { beforeEach, describe, expect, it } from "vitest";
import { SealpodError } from "@sealpod/core";
import { challenge, verifyBearer, type BearerContext, type Caller } from "./bearer.ts";
import { IssuerKeys } from "./issuer-keys.ts";
import { accessToken, attestationToken, CALLER, Documents, jwk, KEYS, LOGIN, NOW, signToken, TENANT, type Json } from "./testdata/release-world.ts";

const V1 = `https://sts.test/${TENANT}/`;
const issuer = { issuer: LOGIN, tenantId: TENANT, authorization: `https://login.test/${TENANT}` };

let time: number;
let documents: Documents;
let context: BearerContext;
beforeEach(() => {
  time = NOW * 1000;
  documents = new Documents();
  const clock = { now: () => time };
  context = { issuers: [issuer], audiences: ["https://vault.test", "https://vault.azure.net"], keys: new IssuerKeys(documents.fetch, clock), clock };
});

const verify = (token: string, scheme = "Bearer"): Promise<Caller> => verifyBearer(context, `${scheme} ${token}`);
const problem = async (token: string): Promise<string> => {
  const error: unknown = await verify(token).catch((reason: unknown) => reason);
  if (!(error instanceof SealpodError)) throw new Error(`not refused: ${String(error)}`);
  expect(error).toMatchObject({ code: "ERR_KEYVAULT_UNAUTHORIZED", row: { http: 401 } });
  return error.message;
};

describe("verifyBearer", () => {
  it("says who calls", async () => {
    expect(await verify(accessToken())).toEqual(CALLER);
    expect(await verify(accessToken(), "bEARER ")).toEqual(CALLER);
  });

  it.each([undefined, "", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "Bearer ü", "PoP abc"])("asks for a token when the header is %j", async (header) => {
    await expect(verifyBearer(context, header)).rejects.toThrow("AKV10000: Request is missing a Bearer or PoP token.");
    expect(documents.fetched).toEqual([]);
  });

  it.each<readonly [string, Json, Json]>([
    ["the issuer with a slash", { iss: `${LOGIN}/` }, {}],
    ["the audience with a slash", { aud: "https://vault.test/" }, {}],
    ["the audience among others", { aud: ["https://graph.test", "https://vault.azure.net"] }, {}],
    ["the azp of v2", { appid: undefined, azp: CALLER.appid }, {}],
    ["appid and azp that are the same", { azp: CALLER.appid }, {}],
    ["a tenant in upper case", { tid: TENANT.toUpperCase() }, {}],
    ["an end within the skew", { exp: NOW - 59 }, {}],
    ["a beginning within the skew", { nbf: NOW + 60 }, {}],
    ["no beginning", { nbf: undefined }, {}],
    ["the type of RFC 9068", {}, { typ: "at+jwt" }],
    ["no type", {}, { typ: undefined }],
  ])("takes %s", async (_what, claims, header) => {
    expect(await verify(accessToken(claims, KEYS.login.privateKey, header))).toEqual(CALLER);
  });

  it.each<readonly [string, boolean, Json]>([
    ["v1 for an application", true, { sub: CALLER.oid, appidacr: "1", ver: "1.0" }],
    ["v2 for an application", true, { appid: undefined, azp: CALLER.appid, sub: CALLER.oid, azpacr: "2", idtyp: "app", ver: "2.0" }],
    ["one that says so, whatever its subject", true, { idtyp: "app", sub: "somebody" }],
    ["without an object, whose subject is the application", true, { oid: undefined, sub: CALLER.appid }],
    ["without a subject", true, { sub: undefined }],
    ["for a user, with what was delegated", false, { sub: CALLER.oid, scp: "user_impersonation" }],
    ["for a user, that says it is for an application", false, { sub: CALLER.oid, scp: "", idtyp: "app" }],
    ["for a user, by its type alone", false, { sub: CALLER.oid, idtyp: "user" }],
    ["for a device", false, { idtyp: "device" }],
    ["whose type is no text", false, { idtyp: ["app"] }],
    ["for a user, by its subject alone", false, { sub: "pairwise" }],
    ["for a user, whose subject is the application", false, { sub: CALLER.appid }],
    ["without an object, whose subject is another", false, { oid: undefined, sub: "somebody" }],
  ])("knows a token %s", async (_what, isApp, claims) => {
    expect(await verify(accessToken(claims))).toEqual({ ...CALLER, oid: "oid" in claims ? "" : CALLER.oid, isApp });
  });

  it("takes v1 and v2 tokens of one tenant, each by its own issuer's keys", async () => {
    documents.byUrl.set(`${V1}.well-known/openid-configuration`, { issuer: V1, jwks_uri: "https://login.other.test/common/keys" });
    documents.byUrl.set("https://login.other.test/common/keys", { keys: [jwk(KEYS.attacker.publicKey, { kid: "v1" })] });
    expect(await problem(accessToken({ iss: V1 }))).toMatch(/^AKV10032: Invalid issuer. Expected one of https:\/\/login.test/);
    context = { ...context, issuers: [issuer, { ...issuer, issuer: V1 }] };
    const v1 = { alg: "RS256", kid: "v1" };
    const claims = { aud: "https://vault.azure.net", iss: V1, appid: CALLER.appid, oid: CALLER.oid, tid: TENANT, exp: NOW + 60, ver: "1.0" };
    expect(await verify(signToken(v1, claims, KEYS.attacker.privateKey))).toEqual({ ...CALLER, issuer: V1 });
    expect(await verify(accessToken({ ver: "2.0" }))).toEqual(CALLER);
    // The key of one issuer is none of the other's.
    expect(await problem(signToken(v1, { ...claims, iss: LOGIN }, KEYS.attacker.privateKey))).toMatch(/no RSA signing key with kid "v1"/);
  });

  const other = "22222222-2222-4333-8444-555555555555";
  it.each<readonly [string, () => string, RegExp]>([
    ["another issuer", () => accessToken({ iss: "https://evil.test" }), /^AKV10032: .* found "https:\/\/evil.test"/],
    ["no issuer", () => accessToken({ iss: undefined }), /^AKV10032: .* found null/],
    ["the issuer of another tenant", () => accessToken({ iss: LOGIN.replace(TENANT, other) }), /^AKV10032/],
    ["another tenant", () => accessToken({ tid: other }), new RegExp(`its tid is "${other}", expected ${TENANT}`)],
    ["no tenant", () => accessToken({ tid: undefined }), /its tid is null/],
    [
      "another audience",
      () => accessToken({ aud: "https://graph.microsoft.com" }),
      /^AKV10022: Invalid audience. Expected https:\/\/vault.test, https:\/\/vault.azure.net, found: https:\/\/graph/,
    ],
    ["an audience that begins like it", () => accessToken({ aud: "https://vault.test.evil.test" }), /^AKV10022/],
    ["no audience", () => accessToken({ aud: undefined }), /^AKV10022: .* found: null/],
    ["an empty list of audiences", () => accessToken({ aud: [] }), /^AKV10022/],
    ["an audience that is no text", () => accessToken({ aud: [["https://vault.test"]] }), /^AKV10022/],
    ["the signature of another key", () => accessToken({}, KEYS.attacker.privateKey), /key "login-1" of https:\/\/login.test.* did not sign it/],
    ["an unknown key", () => accessToken({}, KEYS.login.privateKey, { kid: "x" }), /no RSA signing key with kid "x"/],
    ["an end in the past", () => accessToken({ exp: NOW - 60 }), /it expired 60 seconds ago/],
    ["no end", () => accessToken({ exp: undefined }), /no exp claim/],
    ["a beginning in the future", () => accessToken({ nbf: NOW + 61 }), /valid only in 61 seconds/],
    [
      "alg none",
      () => signToken({ alg: "none", kid: "login-1" }, {}, undefined).replace(/\.e30\./, `.${accessToken().split(".")[1] ?? ""}.`),
      /its algorithm is "none"/,
    ],
    ["an id token, by its nonce", () => accessToken({ nonce: "n" }), /it has the claim nonce of an id token/],
    ["an id token, by its hash", () => accessToken({ at_hash: "h" }), /it has the claim at_hash of an id token/],
    ["a token for logging out", () => accessToken({}, KEYS.login.privateKey, { typ: "logout+jwt" }), /its type is "logout\+jwt"/],
    ["a type that is no text", () => accessToken({}, KEYS.login.privateKey, { typ: ["JWT"] }), /its type is \["JWT"\]/],
    ["an attestation token", () => attestationToken(), /^AKV10032/],
    ["two names for the caller", () => accessToken({ azp: "other" }), /its appid and azp are not the same/],
    ["nobody", () => accessToken({ appid: undefined, oid: undefined }), /neither an application \(appid\) nor an object/],
    ["a name that is no text", () => accessToken({ oid: 7 }), /its oid is 7, expected a text/],
    ["an application that is no text", () => accessToken({ appid: [CALLER.appid] }), /its appid is \["/],
  ])("refuses %s", async (_what, make, message) => {
    expect(await problem(make())).toMatch(message);
    // Refused tokens are not remembered as good.
    expect(await problem(make())).toMatch(message);
  });

  it("remembers a signature, and nothing that can change", async () => {
    const token = accessToken();
    await verify(token);
    const known = context.keys.memory.get(token);
    expect(known?.token.token).toBe("");
    expect(JSON.stringify([known?.token])).not.toContain(token.split(".")[2] ?? "");
    expect(await verify(token)).toEqual(CALLER);
    // One character more, and it is another token.
    expect(await problem(`${token.slice(0, -2)}AA`)).toMatch(/did not sign it/);
    await expect(verifyBearer({ ...context, audiences: ["https://other.test"] }, `Bearer ${token}`)).rejects.toThrow(/AKV10022/);
    await expect(verifyBearer({ ...context, issuers: [{ ...issuer, tenantId: other }] }, `Bearer ${token}`)).rejects.toThrow(/its tid/);
    await expect(verifyBearer({ ...context, issuers: [{ ...issuer, issuer: "https://other.test" }] }, `Bearer ${token}`)).rejects.toThrow(/AKV10032/);
    time += 3661_000;
    expect(await problem(token)).toMatch(/expired 61 seconds ago/);
  });

  it("does not take a token that it remembers once its key is withdrawn, or is another under the same name", async () => {
    const token = accessToken({ exp: NOW + 86_400 });
    await verify(token);
    documents.byUrl.set("https://login.test/keys", { keys: [jwk(KEYS.attacker.publicKey, { kid: "login-1" })] });
    expect(await verify(token)).toEqual(CALLER);
    time += 3600_001;
    expect(await problem(token)).toMatch(/did not sign it/);
    documents.byUrl.set("https://login.test/keys", { keys: [] });
    time += 3600_001;
    expect(await problem(token)).toMatch(/no RSA signing key/);
    documents.byUrl.set("https://login.test/keys", { keys: [jwk(KEYS.login.publicKey, { kid: "login-1" })] });
    time += 11_000;
    expect(await verify(token)).toEqual(CALLER);
  });

  it("remembers a thousand tokens and no more, and no large ones", async () => {
    const first = accessToken();
    await verify(first);
    const { memory } = context.keys;
    const key = memory.get(first)?.key ?? KEYS.login.publicKey;
    const token = (text: string): Parameters<typeof memory.add>[0] => ({ token: text, header: {}, claims: {} });
    for (let index = 0; index < 1022; index++) memory.add(token(`${index}`), key);
    // Used again: the next to go is another.
    expect(memory.get(first)).toBeDefined();
    memory.add(token("a"), key);
    memory.add(token("b"), key);
    expect(memory.get(first)).toBeDefined();
    expect([memory.get("0"), memory.get("1021"), memory.get("b")].map((known) => known !== undefined)).toEqual([false, true, true]);
    memory.add(token("x".repeat(8193)), key);
    expect(memory.get("x".repeat(8193))).toBeUndefined();
  });

  it("passes on that the issuer cannot be asked", async () => {
    documents.byUrl.set("https://login.test/keys", new TypeError("fetch failed"));
    await expect(verify(accessToken())).rejects.toMatchObject({ code: "ERR_KEYVAULT_ISSUER", row: { http: 503 } });
  });
});

describe("challenge", () => {
  it("is what the genuine clients parse", () => {
    const text = `Bearer authorization="https://login.test/${TENANT}", resource="https://vault.test"`;
    expect(challenge(issuer, "https://vault.test", false)).toBe(text);
    expect(challenge(issuer, "https://vault.test", true)).toBe(`${text}, error="invalid_token"`);
  });
});
