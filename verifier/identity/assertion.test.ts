import { execFileSync } from "node:child_process";
import { createHash, createPrivateKey, X509Certificate, type KeyObject } from "node:crypto";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { issueServiceAccountToken } from "./index.ts";
import { AUTHORITY, CLIENT, CLUSTER, forge, Issuer, numberOf, random, START, SUBJECT, TENANT, World } from "./testdata/support.ts";

const EXTERNAL = "https://oidc.example/tenant/";
const NOW = START / 1000;
const AUDIENCE = "api://AzureADTokenExchange";

let world: World;
const external = new Issuer(EXTERNAL);
const stranger = new Issuer(EXTERNAL);
beforeAll(async () => {
  world = await World.open();
  external.publish(world.network);
  await world.store.registerApplication({ tenantId: TENANT, name: "web", clientId: CLIENT });
  await world.store.addFederatedCredential(CLIENT, { name: "cluster", issuer: CLUSTER, subject: SUBJECT, audiences: [AUDIENCE] });
  await world.store.addFederatedCredential(CLIENT, { name: "external", issuer: EXTERNAL, subject: SUBJECT, audiences: [AUDIENCE] });
});
afterAll(async () => world.store.close());

interface Parts {
  header: { alg: string } & Record<string, unknown>;
  claims: Record<string, unknown>;
  key: KeyObject | Buffer | undefined;
}

/** Tokens of the service's own cluster, and of an issuer elsewhere: the same must hold for both. */
const sources: readonly (readonly [string, () => Parts])[] = [
  [
    "of the service's cluster",
    () => {
      const [key] = world.store.signingKeys("cluster");
      return { header: { alg: "RS256", kid: key.kid }, claims: { ...external.claims(), iss: CLUSTER }, key: key.privateKey };
    },
  ],
  ["of another issuer", () => ({ header: { alg: "RS256", kid: external.kid }, claims: external.claims(), key: external.privateKey })],
];

const oneWrong: readonly (readonly [string, number, (parts: Parts) => void])[] = [
  ["no issuer", 700211, ({ claims }) => delete claims["iss"]],
  ["an issuer that is no text", 700211, ({ claims }) => (claims["iss"] = [claims["iss"]])],
  ["an issuer without its slash", 700211, ({ claims }) => (claims["iss"] = String(claims["iss"]).slice(0, -1))],
  ["an issuer with two slashes", 700211, ({ claims }) => (claims["iss"] = `${String(claims["iss"])}/`)],
  ["an issuer in capitals", 700211, ({ claims }) => (claims["iss"] = String(claims["iss"]).replace("https", "HTTPS"))],
  ["no subject", 700213, ({ claims }) => delete claims["sub"]],
  ["another subject", 700213, ({ claims }) => (claims["sub"] = `${SUBJECT}x`)],
  ["a subject in capitals", 700213, ({ claims }) => (claims["sub"] = SUBJECT.toUpperCase())],
  ["a subject that is a list", 700213, ({ claims }) => (claims["sub"] = [SUBJECT])],
  ["a subject with a wildcard", 700213, ({ claims }) => (claims["sub"] = "system:serviceaccount:default:*")],
  ["no audience", 700212, ({ claims }) => delete claims["aud"]],
  ["another audience", 700212, ({ claims }) => (claims["aud"] = [`${AUDIENCE}/`])],
  ["an audience in capitals", 700212, ({ claims }) => (claims["aud"] = AUDIENCE.toLowerCase())],
  ["an audience that is an object", 700212, ({ claims }) => (claims["aud"] = { 0: AUDIENCE })],
  ["no end", 50027, ({ claims }) => delete claims["exp"]],
  ["an end that is text", 50027, ({ claims }) => (claims["exp"] = String(NOW + 600))],
  ["an end that is over", 700024, ({ claims }) => (claims["exp"] = NOW - 301)],
  ["a beginning that is text", 50027, ({ claims }) => (claims["nbf"] = "0")],
  ["a beginning that is to come", 700024, ({ claims }) => (claims["nbf"] = NOW + 301)],
  ["an issue that is to come", 700024, ({ claims }) => (claims["iat"] = NOW + 301)],
  ["an issue that is no number", 50027, ({ claims }) => (claims["iat"] = true)],
  ["no kid", 50013, ({ header }) => delete header["kid"]],
  ["a kid that nobody has", 50013, ({ header }) => (header["kid"] = "other")],
  ["a kid that is a number", 50013, ({ header }) => (header["kid"] = 7)],
  ["the kid of another kind of key", 50013, ({ header }) => (header["kid"] = world.store.signingKeys("tenant")[0].kid)],
  ["the kid of another cluster", 50013, ({ header }) => (header["kid"] = world.store.signingKeys("cluster", "second")[0].kid)],
  ["an extension that must be understood", 50013, ({ header }) => (header["crit"] = ["exp"])],
  ["an unencoded payload", 50013, ({ header }) => Object.assign(header, { b64: false, crit: ["b64"] })],
  ["no algorithm", 50013, ({ header }) => Reflect.deleteProperty(header, "alg") && (header.alg = undefined as unknown as string)],
  [
    "the algorithm none",
    50013,
    (parts) => {
      parts.header.alg = "none";
      parts.key = undefined;
    },
  ],
  [
    "the algorithm None, and a signature",
    50013,
    (parts) => {
      parts.header.alg = "nOnE";
      parts.key = Buffer.from("x");
    },
  ],
  [
    "an HMAC under the public key",
    50013,
    (parts) => {
      const { publicKey } = world.store.signingKeys("cluster")[0];
      parts.header.alg = "HS256";
      parts.key = Buffer.from(publicKey.export({ type: "spki", format: "pem" }) as string);
    },
  ],
  ["an algorithm that the key is not for", 50013, ({ header }) => (header.alg = "RS384")],
  ["another padding", 50013, ({ header }) => (header.alg = "PS256")],
  [
    "a stranger's signature",
    50013,
    (parts) => {
      parts.key = stranger.privateKey;
    },
  ],
  [
    "a key that came with the token",
    50013,
    (parts) => {
      parts.header["jwk"] = stranger.jwk;
      parts.key = stranger.privateKey;
    },
  ],
];

describe.each(sources)("an assertion %s", (_source, make) => {
  const token = (change: (parts: Parts) => void = () => undefined): string => {
    const parts = make();
    change(parts);
    const { header, claims, key } = parts;
    return header.alg === undefined
      ? forge({ ...header, alg: "RS256" }, claims, key).replace(/^[^.]*/, Buffer.from(JSON.stringify({ kid: header["kid"] })).toString("base64url"))
      : forge(header, claims, key);
  };

  it("is exchanged, and again: it serves until it ends, as at Entra ID", async () => {
    for (let at = 0; at < 2; at++) expect(numberOf(await world.exchange(token()))).toBe(0);
  });

  it.each(oneWrong)("is refused with %s: %d", async (_what, number, change) => {
    const answer = await world.exchange(token(change));
    expect(numberOf(answer)).toBe(number);
    expect(answer.body["access_token"]).toBeUndefined();
  });

  it.each<readonly [string, (parts: Parts) => void]>([
    ["one audience as text", ({ claims }) => (claims["aud"] = AUDIENCE)],
    ["more audiences", ({ claims }) => (claims["aud"] = ["other", AUDIENCE])],
    ["neither beginning nor issue", ({ claims }) => ["nbf", "iat"].forEach((name) => delete claims[name])],
    ["clocks that differ by five minutes", ({ claims }) => (claims["exp"] = NOW - 300)],
    ["claims that nobody knows", ({ claims }) => Object.assign(claims, { groups: ["a"], nested: { a: [1] } })],
  ])("is exchanged with %s", async (_what, change) => {
    expect(numberOf(await world.exchange(token(change)))).toBe(0);
  });

  it("is refused whichever character of it changes", async () => {
    const genuine = token();
    await fc.assert(
      fc.asyncProperty(fc.nat(genuine.length - 1), fc.constantFrom("A", "B", "x", "0", "9", "-", "_", ".", "=", "+", "/", " "), async (at, character) => {
        fc.pre(genuine[at] !== character);
        expect(numberOf(await world.exchange(genuine.slice(0, at) + character + genuine.slice(at + 1)))).not.toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  it("is refused at whatever length it is cut", async () => {
    const genuine = token();
    for (let length = 0; length < genuine.length; length += 23) expect(numberOf(await world.exchange(genuine.slice(0, length)))).not.toBe(0);
  });

  it("tells a stranger nothing of the subjects that are expected", async () => {
    const answer = await world.exchange(
      token((parts) => {
        parts.claims["sub"] = "system:serviceaccount:x:y";
        parts.key = stranger.privateKey;
      }),
    );
    expect(answer.body["error_description"]).not.toContain(SUBJECT);
  });
});

describe("hints", () => {
  it.each([
    [CLUSTER.slice(0, -1), {}, "The trailing slash is missing."],
    [`${CLUSTER}/`, {}, "The trailing slash is too much."],
    [CLUSTER.replace("cluster", "Cluster"), {}, "The letter case differs."],
    [CLUSTER, { sub: SUBJECT.replace("web", "Web") }, "The letter case differs."],
    [CLUSTER, { sub: `${SUBJECT} ` }, "White space at an end differs."],
    [CLUSTER, { sub: "system:serviceaccount:default:api" }, "They differ from character 31 on."],
    [CLUSTER, { aud: "api://azureadtokenexchange" }, "The letter case differs."],
  ])("say of %s %j: %s", async (iss, change, says) => {
    const [key] = world.store.signingKeys("cluster");
    const answer = await world.exchange(forge({ alg: "RS256", kid: key.kid }, { ...external.claims(), iss, ...change }, key.privateKey));
    expect(answer.body["error_description"]).toContain(says);
  });

  it("quote what a stranger sent on one line, and not endlessly", async () => {
    const answer = await world.exchange(external.token({ iss: `x'\r\nTrace ID: forged\u2028${"y".repeat(5000)}` }));
    const description = String(answer.body["error_description"]);
    expect(description.split("\r\n")).toHaveLength(4);
    expect(description.length).toBeLessThan(2000);
  });
});

describe("an assertion of the application itself", () => {
  const client = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";
  const pem = execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=client", "-days", "3", "-keyout", "-", "-out", "-"], {
    stdio: ["ignore", "pipe", "ignore"],
  }).toString();
  const { raw } = new X509Certificate(pem);
  const sha256 = createHash("sha256").update(raw).digest("base64url");
  const sha1 = createHash("sha1").update(raw).digest("base64url");
  const endpoint = `${AUTHORITY}/${TENANT}/oauth2/v2.0/token`;
  const claims = { iss: client, sub: client, aud: endpoint, exp: 0, nbf: 0, jti: "x" };
  let own: World;
  beforeAll(async () => {
    own = await World.open();
    // The certificate is of today.
    own.time = Date.now();
    await own.store.registerApplication({ tenantId: TENANT, name: "own", clientId: client });
    await own.store.addClientCertificate(client, raw);
  });
  afterAll(async () => own.store.close());
  const token = (change: object = {}, header: object = {}): string => {
    const now = Math.floor(own.time / 1000);
    return forge({ alg: "PS256", "x5t#S256": sha256, ...header }, { ...claims, exp: now + 600, nbf: now, ...change }, createPrivateKey(pem));
  };

  it.each([
    ["PS256 and SHA-256", { alg: "PS256" }],
    ["RS256 and SHA-256", { alg: "RS256" }],
    ["RS256 and SHA-1", { alg: "RS256", "x5t#S256": undefined, x5t: sha1 }],
  ])("is accepted with %s", async (_what, header) => {
    expect(numberOf(await own.exchange(token({}, header), client))).toBe(0);
  });

  it.each<readonly [string, number, object, object]>([
    ["another audience", 700023, { aud: "https://login.microsoftonline.com/x" }, {}],
    ["another subject", 50027, { sub: CLIENT }, {}],
    ["an end that is over", 700024, { exp: 1 }, {}],
    ["another certificate", 700027, {}, { "x5t#S256": "AAAA" }],
    ["no certificate", 700027, {}, { "x5t#S256": undefined }],
    ["another algorithm", 700027, {}, { alg: "RS512" }],
  ])("is refused with %s: %d", async (_what, number, change, header) => {
    expect(numberOf(await own.exchange(token(change, header), client))).toBe(number);
  });

  it("is refused when the certificate has ended, or was taken back", async () => {
    own.time += 4 * 86_400_000;
    expect(numberOf(await own.exchange(token(), client))).toBe(700027);
    own.time = Date.now();
    const [certificate] = await own.store.clientCertificates(client);
    await own.store.removeClientCertificate(client, certificate?.keyId ?? "");
    expect(numberOf(await own.exchange(token(), client))).toBe(700027);
  });
});

describe("service-account tokens", () => {
  it("of one cluster are nothing to the other", async () => {
    const { store, clock } = world;
    const issued = await issueServiceAccountToken(
      { issuer: CLUSTER, name: "second", store, clock, random },
      { namespace: "default", serviceAccount: { name: "web", uid: "u" } },
    );
    expect(numberOf(await world.exchange(issued.token))).toBe(50013);
  });
});
