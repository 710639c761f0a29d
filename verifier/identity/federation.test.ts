import { generateKeyPairSync } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { FederatedIssuers } from "./index.ts";
import { parseKey } from "./federation.ts";
import { CLIENT, Issuer, Network, numberOf, START, SUBJECT, TENANT, World } from "./testdata/support.ts";

const ISSUER = "https://oidc.example/tenant/cluster/";
const rsa = new Issuer(ISSUER);
const other = new Issuer(ISSUER);
const HOUR = 3_600_000;

describe("keys of other issuers", () => {
  let network: Network;
  let time: number;
  let issuers: FederatedIssuers;
  beforeEach(() => {
    network = new Network();
    time = START;
    issuers = new FederatedIssuers({ fetch: network.fetch, clock: { now: () => time } });
    rsa.publish(network);
  });

  it("are fetched once by discovery, for all who ask at a time, and kept for an hour", async () => {
    const gate = Promise.withResolvers<void>();
    network.gate = gate.promise;
    const asking = Array.from({ length: 20 }, async () => issuers.key(ISSUER, rsa.kid));
    gate.resolve();
    for (const key of await Promise.all(asking)) expect(key).toMatchObject({ kid: rsa.kid, algorithm: "RS256" });
    expect(network.asked).toEqual(["https://oidc.example/tenant/cluster/.well-known/openid-configuration", "https://oidc.example/tenant/cluster/keys"]);
    time += HOUR - 1;
    await issuers.key(ISSUER, rsa.kid);
    expect(network.asked).toHaveLength(2);
    time += 1;
    await issuers.key(ISSUER, rsa.kid);
    expect(network.asked).toHaveLength(4);
  });

  it("are asked for again when a new name comes, though not for each of many", async () => {
    await issuers.key(ISSUER, rsa.kid);
    other.publish(network, [rsa.jwk, other.jwk]);
    expect(await issuers.key(ISSUER, other.kid)).toBeUndefined();
    expect(network.asked).toHaveLength(2);
    time += 30_000;
    expect(await issuers.key(ISSUER, other.kid)).toMatchObject({ kid: other.kid });
    for (let at = 0; at < 50; at++) expect(await issuers.key(ISSUER, `strange ${at}`)).toBeUndefined();
    expect(network.asked).toHaveLength(4);
  });

  it("are dropped when the issuer publishes them no more", async () => {
    await issuers.key(ISSUER, rsa.kid);
    other.publish(network);
    time += HOUR;
    expect(await issuers.key(ISSUER, rsa.kid)).toBeUndefined();
    expect(await issuers.key(ISSUER, other.kid)).toBeDefined();
  });

  it("are used for a day while their issuer does not answer, and not longer", async () => {
    await issuers.key(ISSUER, rsa.kid);
    network.pages.clear();
    time += 24 * HOUR - 1;
    expect(await issuers.key(ISSUER, rsa.kid)).toBeDefined();
    await expect(issuers.key(ISSUER, other.kid)).rejects.toMatchObject({ code: "ERR_IDENTITY_UNREACHABLE" });
    time += 30_001;
    await expect(issuers.key(ISSUER, rsa.kid)).rejects.toMatchObject({ code: "ERR_IDENTITY_UNREACHABLE" });
  });

  it("of an issuer that failed are not asked for again at once", async () => {
    network.pages.clear();
    for (let at = 0; at < 10; at++) await expect(issuers.key(ISSUER, rsa.kid)).rejects.toThrow(at === 0 ? /fetch failed$/ : /not asked again so soon/);
    expect(network.asked).toHaveLength(1);
    rsa.publish(network);
    time += 30_000;
    expect(await issuers.key(ISSUER, rsa.kid)).toBeDefined();
  });

  it("are not lost to a clock that is set back", async () => {
    network.pages.clear();
    await expect(issuers.key(ISSUER, rsa.kid)).rejects.toThrow();
    rsa.publish(network);
    time -= 365 * 24 * HOUR;
    expect(await issuers.key(ISSUER, rsa.kid)).toBeDefined();
  });

  const discovery = "https://oidc.example/tenant/cluster/.well-known/openid-configuration";
  const keys = "https://oidc.example/tenant/cluster/keys";
  const wrong: readonly (readonly [string, string, unknown, RegExp])[] = [
    [
      "discovery of the issuer without its slash",
      discovery,
      { issuer: ISSUER.slice(0, -1), jwks_uri: keys },
      /differ by the slash at the end, and the credential must have "https:\/\/oidc\.example\/tenant\/cluster"/,
    ],
    ["discovery of another issuer", discovery, { issuer: "https://evil.example/", jwks_uri: keys }, /of issuer "https:\/\/evil/],
    ["discovery without issuer", discovery, { jwks_uri: keys }, /issuer that is missing/],
    ["keys in the clear", discovery, { issuer: ISSUER, jwks_uri: "http://oidc.example/keys" }, /not an https URL/],
    ["keys of a file", discovery, { issuer: ISSUER, jwks_uri: "file:///etc/passwd" }, /not an https URL/],
    ["no keys", keys, {}, /no keys/],
    ["too many keys", keys, { keys: Array.from({ length: 101 }, () => rsa.jwk) }, /101 keys/],
    ["two keys of one name", keys, { keys: [rsa.jwk, rsa.jwk] }, /two keys named/],
    ["a list", keys, [], /not a JSON object/],
    ["a status", keys, () => new Response("no", { status: 404 }), /status 404/],
    ["no JSON", discovery, () => new Response("<html>"), /JSON|expected/],
    ["one name twice", discovery, () => new Response('{"issuer":"a","issuer":"b"}'), /duplicate name/],
    ["an endless answer", keys, () => new Response(" ".repeat(512 * 1024 + 1)), /more than 524288 bytes/],
  ];
  it.each(wrong)("are not taken from %s", async (_what, url, page, message) => {
    network.pages.set(url, page);
    await expect(issuers.key(ISSUER, rsa.kid)).rejects.toThrow(message);
    await expect(issuers.key(ISSUER, rsa.kid)).rejects.toMatchObject({ code: "ERR_IDENTITY_UNREACHABLE" });
  });

  const rsa1024 = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey.export({ format: "jwk" });
  const ed = generateKeyPairSync("ed25519").publicKey.export({ format: "jwk" });
  it.each<readonly [string, Record<string, unknown>]>([
    ["without name", { ...rsa.jwk, kid: undefined }],
    ["for encryption", { ...rsa.jwk, use: "enc" }],
    ["for another algorithm", { ...rsa.jwk, alg: "PS256" }],
    ["symmetric", { kty: "oct", k: "AAAA", kid: "x", alg: "HS256" }],
    ["of 1024 bits", { ...rsa1024, kid: "x" }],
    ["of Edwards' curve", { ...ed, kid: "x" }],
    ["of no curve", { kty: "EC", crv: "P-256", x: "AA", y: "AA", kid: "x" }],
    ["without numbers", { kty: "RSA", kid: "x" }],
  ])("are not keys %s", (_what, jwk) => {
    expect(parseKey(jwk as never)).toBeUndefined();
  });

  it("are read without their private parts", () => {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    expect(parseKey({ ...privateKey.export({ format: "jwk" }), kid: "x" } as never)?.publicKey.type).toBe("public");
  });
});

describe("assertions of other issuers", () => {
  let world: World;
  beforeAll(async () => {
    world = await World.open();
    await world.store.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT });
  });
  afterAll(async () => world.store.close());

  it.each(["RS256", "ES256", "ES384", "ES512"] as const)("signed with %s are exchanged", async (alg) => {
    const issuer = new Issuer(`https://${alg.toLowerCase()}.example`, alg);
    issuer.publish(world.network);
    await world.store.addFederatedCredential(CLIENT, { name: alg, issuer: issuer.issuer, subject: SUBJECT, audiences: ["api://AzureADTokenExchange"] });
    expect(numberOf(await world.exchange(issuer.token()))).toBe(0);
    // Each key is for one algorithm, whatever the token says.
    expect(numberOf(await world.exchange(issuer.token({}, { alg: alg === "ES256" ? "ES384" : "RS512" }).replace(/[^.]*$/, "AAAA")))).toBe(50013);
  });

  it("are refused with 90061 while the issuer cannot be reached, and with 50013 for a key that it does not publish", async () => {
    const issuer = new Issuer("https://gone.example");
    await world.store.addFederatedCredential(CLIENT, { name: "gone", issuer: issuer.issuer, subject: SUBJECT, audiences: ["api://AzureADTokenExchange"] });
    const answer = await world.exchange(issuer.token());
    expect(answer).toMatchObject({ status: 400, body: { error: "invalid_request", error_codes: [90061] } });
    expect(answer.body["error_description"]).toMatch(/^AADSTS90061: Request to External OIDC endpoint failed\. .*gone\.example/);
    world.time += 31_000;
    issuer.publish(world.network);
    expect(numberOf(await world.exchange(issuer.token()))).toBe(0);
    expect(numberOf(await world.exchange(issuer.token({}, { kid: "other" })))).toBe(50013);
    world.time = START;
  });

  it("never make the service ask an address that nobody registered", async () => {
    const asked = world.network.asked.length;
    expect(numberOf(await world.exchange(new Issuer("https://169.254.169.254").token()))).toBe(700211);
    expect(numberOf(await world.exchange(new Issuer("https://rs256.example/").token()))).toBe(700211);
    expect(world.network.asked).toHaveLength(asked);
  });

  it("of one application's issuer are nothing to another application", async () => {
    const issuer = new Issuer("https://third.example");
    issuer.publish(world.network);
    const { clientId } = await world.store.registerApplication({ tenantId: TENANT, name: "third" });
    await world.store.addFederatedCredential(clientId, { name: "third", issuer: issuer.issuer, subject: SUBJECT, audiences: ["api://AzureADTokenExchange"] });
    expect(numberOf(await world.exchange(issuer.token(), clientId))).toBe(0);
    expect(numberOf(await world.exchange(issuer.token()))).toBe(700211);
  });
});
