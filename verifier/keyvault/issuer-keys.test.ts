import { generateKeyPairSync, X509Certificate, type KeyObject } from "node:crypto";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { IssuerKeys, type IssuerRole } from "./issuer-keys.ts";
import { Documents, jwk, KEYS, MAA, vaultSigner, type Json } from "./testdata/release-world.ts";

const CONFIGURATION = `${MAA}/.well-known/openid-configuration`;
const CERTS = `${MAA}/certs`;
const SECOND = 1000;
const HOUR = 3600 * SECOND;

let time: number;
let documents: Documents;
let keys: IssuerKeys;
beforeEach(() => {
  time = 0;
  documents = new Documents();
  keys = new IssuerKeys(documents.fetch, { now: () => time });
});

const find = (kid = "maa-1", issuer = MAA, role: IssuerRole = "authority", vault = "demo"): Promise<KeyObject | undefined> =>
  keys.find(issuer, kid, { role, vault });
const publish = (...list: Json[]): unknown => documents.byUrl.set(CERTS, { keys: list });
const isFound = async (kid = "maa-1"): Promise<boolean> => (await find(kid))?.equals(KEYS.maa.publicKey) === true;
/** Publishes nothing until `open` is called. */
function gate(url: string): { readonly open: () => void } {
  const document = documents.byUrl.get(url);
  const opened = Promise.withResolvers<Response>();
  documents.byUrl.set(url, () => opened.promise.then((response) => response.clone()));
  return { open: () => (documents.byUrl.set(url, document), opened.resolve(Response.json(document))) };
}

describe("issuer keys", () => {
  it("are fetched once, whoever asks meanwhile, with and without a slash", async () => {
    const { open } = gate(CONFIGURATION);
    const all = Promise.all([find(), find(), find("maa-1", `${MAA}/`), find("other")]);
    open();
    const [first, second, third, other] = await all;
    expect(first?.equals(KEYS.maa.publicKey)).toBe(true);
    expect([second, third]).toEqual([first, first]);
    expect(other).toBeUndefined();
    expect(await find()).toBe(first);
    expect(documents.fetched).toEqual([CONFIGURATION, CERTS]);
  });

  it("are fetched again for a kid that is not there, once in ten seconds", async () => {
    await find();
    publish(jwk(KEYS.maa.publicKey, { kid: "maa-2" }));
    expect(await find("maa-2")).toBeUndefined();
    time += 10 * SECOND;
    expect(await isFound("maa-2")).toBe(true);
    // What is no longer published is gone with it.
    expect(await find("maa-1")).toBeUndefined();
    for (let index = 0; index < 50; index++) await find(`invented-${index}`);
    expect(documents.fetched).toHaveLength(4);
  });

  it("are used for an hour, and looked after from half of it on without anybody waiting", async () => {
    await find();
    publish();
    time += HOUR / 2;
    expect(await isFound()).toBe(true);
    expect(documents.fetched).toHaveLength(2);
    time += 1;
    const { open } = gate(CERTS);
    // The answer comes from what is there.
    expect(await isFound()).toBe(true);
    open();
    await expect.poll(() => find()).toBeUndefined();
    expect(documents.fetched).toHaveLength(4);
  });

  it("that are an hour old are not used, whatever their issuer does", async () => {
    await find();
    documents.byUrl.set(CERTS, new TypeError("down"));
    time += HOUR;
    expect(await isFound()).toBe(true);
    time += 60 * SECOND;
    await expect(find()).rejects.toMatchObject({ code: "ERR_KEYVAULT_ISSUER" });
  });

  it("do not last longer because the clock was set back", async () => {
    time = 10 * HOUR;
    await find();
    publish();
    time = 0;
    expect(await find()).toBeUndefined();
  });

  it("of an issuer that is down are asked for less and less, and the answer is there at once", async () => {
    documents.byUrl.set(CONFIGURATION, new TypeError("fetch failed", { cause: new Error("connect ECONNREFUSED 10.0.0.7:443") }));
    const times: number[] = [];
    for (time = 0; time < 300 * SECOND; time += SECOND / 2) {
      const before = documents.fetched.length;
      await expect(find()).rejects.toThrow(
        "the keys of https://maa.test cannot be fetched: https://maa.test/.well-known/openid-configuration: fetch failed: connect ECONNREFUSED 10.0.0.7:443",
      );
      if (documents.fetched.length > before) times.push(time / SECOND);
    }
    expect(times).toEqual([0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
    documents.byUrl.set(CONFIGURATION, { jwks_uri: CERTS });
    time = 303 * SECOND;
    expect(await isFound()).toBe(true);
    // All is forgiven.
    documents.byUrl.set(CERTS, new TypeError("down"));
    time += 10 * SECOND;
    await expect(find("x")).rejects.toThrow(/down/);
    time += SECOND;
    await expect(find("x")).rejects.toThrow(/down/);
    // Keys that are there go on meanwhile.
    expect(await isFound()).toBe(true);
    expect(documents.fetched).toHaveLength(10 + 2 + 4);
  });

  it("of one issuer do not wait for another's", async () => {
    const { open } = gate(CONFIGURATION);
    const slow = find();
    documents.byUrl.set("https://b.test/.well-known/openid-configuration", { jwks_uri: "https://b.test/k" });
    documents.byUrl.set("https://b.test/k", { keys: [jwk(KEYS.maa.publicKey, { kid: "b" })] });
    expect((await find("b", "https://b.test"))?.equals(KEYS.maa.publicKey)).toBe(true);
    open();
    expect(await slow).toBeDefined();
  });

  /** Publishes the keys of an issuer of this address. */
  const settle = (issuer: string): void => {
    documents.byUrl.set(`${issuer}/.well-known/openid-configuration`, { jwks_uri: `${issuer}/k` });
    documents.byUrl.set(`${issuer}/k`, { keys: [jwk(KEYS.maa.publicKey, { kid: "k" })] });
  };
  /** An issuer of this address takes requests and never answers. */
  const tarpit = (issuer: string): unknown => documents.byUrl.set(`${issuer}/.well-known/openid-configuration`, () => new Promise<Response>(() => undefined));

  it("of authorities that never answer hold up 4 fetches of their vault and no more: none of another's, no caller's, and none of an authority that has answered", async () => {
    await find();
    for (let index = 0; index < 90; index++) tarpit(`https://slow.test/${index}`);
    documents.fetched.length = 0;
    const waiting = Array.from({ length: 90 }, (_, index) => find("x", `https://slow.test/${index}`).catch((error: unknown) => String(error)));
    const answers = await Promise.all(waiting.slice(4));
    expect(answers).toHaveLength(86);
    for (const answer of answers) expect(answer).toMatch(/4 other issuers are being asked already/);
    expect(documents.fetched).toHaveLength(4);
    // The one of this vault that has answered is there, and asked again when it is time.
    documents.fetched.length = 0;
    expect(await isFound()).toBe(true);
    expect(documents.fetched).toEqual([]);
    time += 10 * SECOND;
    expect(await find("new")).toBeUndefined();
    expect(documents.fetched).toEqual([CONFIGURATION, CERTS]);
    settle("https://other.test");
    expect(await find("k", "https://other.test", "authority", "another")).toBeDefined();
    documents.byUrl.set("https://login.test/.well-known/openid-configuration", { jwks_uri: "https://login.test/keys" });
    expect(await find("login-1", "https://login.test", "caller")).toBeDefined();
  });

  it("of an issuer that was not asked because others are being asked are asked for as soon as there is room", async () => {
    settle("https://honest.test");
    const gates = Array.from({ length: 4 }, (_, index) => {
      settle(`https://slow${index}.test`);
      return gate(`https://slow${index}.test/k`);
    });
    const slow = gates.map((_, index) => find("k", `https://slow${index}.test`));
    for (let attempt = 0; attempt < 20; attempt++) await expect(find("k", "https://honest.test")).rejects.toThrow(/other issuers are being asked/);
    for (const { open } of gates) open();
    await Promise.all(slow);
    // In the same moment: nothing was held against it.
    expect(await find("k", "https://honest.test")).toBeDefined();
  });

  describe("have a time to come in", () => {
    let times: number[];
    beforeEach(() => {
      times = [];
      vi.spyOn(AbortSignal, "timeout").mockImplementation((ms) => (times.push(ms), new AbortController().signal));
    });
    afterEach(() => void vi.restoreAllMocks());

    it("that is shorter for an authority that has never answered", async () => {
      documents.byUrl.set(CERTS, new TypeError("down"));
      await expect(find()).rejects.toThrow(/down/);
      publish(jwk(KEYS.maa.publicKey, { kid: "maa-1" }));
      time += SECOND;
      await find();
      time += 10 * SECOND;
      await find("new");
      expect(times).toEqual([5000, 5000, 10_000]);
      await find("login-1", "https://login.test", "caller").catch(() => undefined);
      expect(times).toEqual([5000, 5000, 10_000, 10_000]);
    });
  });

  it("of callers' issuers, and of authorities that have answered, are not pushed out by any number that do not", async () => {
    const login = "https://login.test/11111111-2222-4333-8444-555555555555/v2.0";
    await find("login-1", login, "caller");
    await find();
    for (let index = 0; index < 200; index++) await find("x", `https://made-up${index}.test`).catch(() => undefined);
    documents.fetched.length = 0;
    expect(await find("login-1", login, "caller")).toBeDefined();
    expect(await isFound()).toBe(true);
    // Of those that fail, as many are remembered as there is room for.
    await expect(find("x", "https://made-up184.test")).rejects.toThrow(/404/);
    expect(documents.fetched).toEqual([]);
    await expect(find("x", "https://made-up183.test")).rejects.toThrow(/404/);
    expect(documents.fetched).toHaveLength(1);
  });

  it("of authorities that have answered push out those of their own vault alone, the one that was not used for longest", async () => {
    await find("maa-1", MAA, "authority", "another");
    for (let index = 0; index < 32; index++) settle(`https://a${index}.test`);
    for (let index = 0; index < 32; index++) await find("k", `https://a${index}.test`);
    await find("k", "https://a0.test");
    await find();
    settle("https://b.test");
    await find("k", "https://b.test");
    documents.fetched.length = 0;
    // a1 made room for the first, a2 for the second.
    for (const kept of ["https://a0.test", "https://a3.test", "https://a31.test", "https://b.test"]) expect(await find("k", kept)).toBeDefined();
    expect(await isFound()).toBe(true);
    expect(await find("maa-1", MAA, "authority", "another")).toBeDefined();
    expect(documents.fetched).toEqual([]);
    expect(await find("k", "https://a1.test")).toBeDefined();
    expect(documents.fetched).toHaveLength(2);
  });

  it.each<readonly [string, string, unknown, RegExp]>([
    ["does not answer", CONFIGURATION, new TypeError("fetch failed"), /openid-configuration: fetch failed$/],
    ["answers 404", CONFIGURATION, undefined, /openid-configuration answered 404$/],
    ["answers 204", CERTS, () => new Response(null, { status: 204 }), /certs answered 204$/],
    ["answers text that is no JSON", CONFIGURATION, () => new Response("<html>"), /value expected/],
    ["answers bytes that are no text", CERTS, () => new Response(Uint8Array.of(0x22, 0xff, 0x22)), /UTF-8/],
    ["answers a list", CERTS, [], /is not a JSON object/],
    ["answers too much", CERTS, () => new Response("x".repeat(1024 * 1024 + 1)), /larger than 1048576 bytes/],
    ["answers without end", CERTS, () => new Response(endless()), /larger than 1048576 bytes/],
    ["names another issuer", CONFIGURATION, { issuer: "https://other.test", jwks_uri: CERTS }, /names the issuer "https:\/\/other.test"/],
    ["names an issuer that is no text", CONFIGURATION, { issuer: [MAA], jwks_uri: CERTS }, /names the issuer \["https/],
    ["names no keys", CONFIGURATION, { issuer: MAA }, /no jwks_uri/],
    [
      "names keys of another host",
      CONFIGURATION,
      { issuer: MAA, jwks_uri: "https://internal.test/admin/restart" },
      /jwks_uri "https:\/\/internal.test\/admin\/restart" is on another host/,
    ],
    ["names keys of another port", CONFIGURATION, { issuer: MAA, jwks_uri: "https://maa.test:8443/certs" }, /is on another host/],
    ["names keys over http", CONFIGURATION, { issuer: MAA, jwks_uri: "http://maa.test/certs" }, /is on another host/],
    ["names keys that are no URL", CONFIGURATION, { issuer: MAA, jwks_uri: "certs" }, /is on another host/],
    ["has no list of keys", CERTS, { keys: {} }, /no list of at most 100 keys/],
    ["has more keys than anybody", CERTS, { keys: Array.from({ length: 101 }, () => ({})) }, /no list of at most 100 keys/],
    [
      "has two keys of one kid",
      CERTS,
      { keys: [jwk(KEYS.maa.publicKey, { kid: "maa-1" }), jwk(KEYS.attacker.publicKey, { kid: "maa-1" })] },
      /two keys with kid "maa-1"/,
    ],
  ])("are not to be had of an issuer that %s", async (_what, url, document, message) => {
    documents.byUrl.set(url, document);
    await expect(find()).rejects.toThrow(message);
    await expect(find()).rejects.toMatchObject({ code: "ERR_KEYVAULT_ISSUER" });
    expect(documents.fetched.every((fetched) => fetched.startsWith(`${MAA}/`))).toBe(true);
  });

  it("of callers' issuers may be on another host, by https alone", async () => {
    documents.byUrl.set(CONFIGURATION, { issuer: MAA, jwks_uri: "https://keys.test/k" });
    documents.byUrl.set("https://keys.test/k", { keys: [jwk(KEYS.maa.publicKey, { kid: "k" })] });
    expect(await find("k", MAA, "caller")).toBeDefined();
    documents.byUrl.set(CONFIGURATION, { issuer: MAA, jwks_uri: "http://keys.test/k" });
    keys = new IssuerKeys(documents.fetch, { now: () => time });
    await expect(find("k", MAA, "caller")).rejects.toThrow(/http:\/\/keys.test\/k is not an https URL/);
    await expect(find("k", "http://maa.test", "caller")).rejects.toThrow(/is not an https URL/);
  });

  it("are asked for without following a redirect, within a time", async () => {
    let seen: RequestInit = {};
    documents.byUrl.set(CONFIGURATION, (init: RequestInit) => {
      seen = init;
      return Response.json({ jwks_uri: CERTS });
    });
    await find();
    expect(seen).toMatchObject({ redirect: "error", headers: { accept: "application/json" } });
    expect(seen.signal).toBeInstanceOf(AbortSignal);
    expect(seen).not.toHaveProperty("credentials");
  });

  const rsa = (modulusLength: number): KeyObject => generateKeyPairSync("rsa", { modulusLength }).publicKey;
  const x5c = vaultSigner().chain.map((der) => Buffer.from(der).toString("base64"));
  it.each<readonly [string, () => unknown]>([
    ["are small", () => jwk(rsa(1024), { kid: "k" })],
    ["are for encryption", () => jwk(KEYS.maa.publicKey, { kid: "k", use: "enc" })],
    ["are for another algorithm", () => jwk(KEYS.maa.publicKey, { kid: "k", alg: "PS256" })],
    ["are for other operations", () => jwk(KEYS.maa.publicKey, { kid: "k", key_ops: ["encrypt"] })],
    ["are of another kind", () => jwk(generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey, { kid: "k" })],
    ["contradict their certificate", () => jwk(KEYS.maa.publicKey, { kid: "k", x5c })],
    ["have a certificate that is none", () => ({ kty: "RSA", kid: "k", x5c: ["AAAA"] })],
    ["have no name", () => jwk(KEYS.maa.publicKey, { kid: undefined })],
    ["have neither numbers nor certificate", () => ({ kty: "RSA", kid: "k" })],
    ["are no object", () => "k"],
  ])("that %s are not used, and no reason not to use others", async (_what, make) => {
    documents.byUrl.set(CERTS, { keys: [make(), jwk(KEYS.maa.publicKey, { kid: "maa-1" })] });
    expect(await find("k")).toBeUndefined();
    expect(await isFound()).toBe(true);
  });

  it("may be listed twice, and given as certificates alone", async () => {
    publish(jwk(KEYS.maa.publicKey, { kid: "maa-1", issuer: "a" }), jwk(KEYS.maa.publicKey, { kid: "maa-1", issuer: "b", key_ops: ["verify"] }), {
      kid: "cert",
      kty: "RSA",
      x5c,
    });
    expect(await isFound()).toBe(true);
    expect((await find("cert"))?.equals(new X509Certificate(vaultSigner().chain[0] ?? "").publicKey)).toBe(true);
  });
});

function endless(): ReadableStream<Uint8Array> {
  return new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(65_536)) });
}
