import { createPrivateKey, generateKeyPairSync } from "node:crypto";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeUtf8, toBase64, toBase64url } from "@sealpod/core";
import { OID } from "@sealpod/pki";
import { CompactSign } from "jose";
import type { SkrHandler } from "./index.ts";
import { verifyRelease } from "./release-signature.ts";
import { call, issue, json, MAA, NOW, VAULT, World, type Issued, type Release } from "./testdata/world.ts";

const RELEASE = { maa_endpoint: MAA, akv_endpoint: VAULT, kid: "k" };

describe("the access token of a store that asks for another resource", () => {
  const CHALLENGE = { challenge: 'Bearer authorization="https://login.test/t", resource="https://vault.test"' };
  let world: World;
  let issued = 0;
  /** The token that the stores take; the identity service knows of it when it issues the next. */
  let valid = "";
  beforeAll(async () => {
    world = await World.make();
  });
  beforeEach(() => {
    world.requests.length = 0;
    issued = 0;
  });

  const sidecar = (): SkrHandler => {
    const inner = world.ports().http;
    return world.skr({
      http: async (request) => {
        const { hostname } = new URL(request.url);
        if (hostname === "login.test") {
          world.requests.push(request);
          const token = `t${++issued}`;
          if (request.body?.includes(encodeURIComponent("https://vault.test/.default")) === true) valid = token;
          return json(200, { access_token: token, expires_in: 86_399 });
        }
        if (hostname.endsWith("vault.test")) {
          world.requests.push(request);
          if (request.headers["authorization"] !== `Bearer ${valid}`) return json(401, { error: { code: "Unauthorized" } }, CHALLENGE);
          return json(200, { value: await world.signedRelease(request.url) });
        }
        return inner(request);
      },
    });
  };
  /** Status, requests to the identity service, requests to the store. */
  const release = async (skr: SkrHandler, store = VAULT): Promise<readonly number[]> => {
    world.requests.length = 0;
    const { status } = await call(skr, "/key/release", { ...RELEASE, akv_endpoint: store });
    return [status, world.sent("https://login.test/").length, world.sent(`https://${store}/`).length];
  };

  it("is fetched once, and kept: nobody is asked for the default resource's any more", async () => {
    const skr = sidecar();
    expect(await release(skr)).toEqual([200, 2, 2]);
    expect(await release(skr)).toEqual([200, 0, 1]);
  });

  it("is fetched anew when the store refuses the kept one", async () => {
    const skr = sidecar();
    await release(skr);
    valid = "what nobody has";
    expect(await release(skr)).toEqual([200, 1, 2]);
    expect(await release(skr)).toEqual([200, 0, 1]);
  });

  it("is fetched anew also if another store's refusal is the first to show that the kept one is stale", async () => {
    const skr = sidecar();
    await release(skr);
    valid = "what nobody has";
    // The kept token is that of the resource which this store will ask for, and it is stale.
    expect(await release(skr, "other.vault.test")).toEqual([200, 1, 2]);
  });

  it("is asked for twice at most", async () => {
    const skr = sidecar();
    await release(skr);
    const { http } = world.ports();
    const never = world.skr({
      http: async (request) => (request.url.includes(VAULT) ? (world.requests.push(request), json(401, {}, CHALLENGE)) : http(request)),
    });
    expect((await release(never))[0]).toBe(403);
    expect(world.sent(`https://${VAULT}/`)).toHaveLength(2);
  });
});

describe("a released key", () => {
  let made: World;
  let world: World;
  beforeAll(async () => {
    made = await World.make();
  });
  beforeEach(() => {
    world = new World(made.chain, made.root, made.store);
  });

  const released = async (release: Release = {}): Promise<unknown> => {
    world.release = release;
    const answer = await call(world.skr(), "/key/release", RELEASE);
    return answer.status === 200 ? JSON.parse(answer.body["key"] as string) : `${answer.status} ${answer.body["error"] as string}`;
  };

  it.each([
    ["CKM_RSA_AES_KEY_WRAP", "sha1"],
    ["RSA_AES_KEY_WRAP_256", "sha256"],
    ["RSA_AES_KEY_WRAP_384", "sha384"],
  ])("is unwrapped with %s", async (enc, oaepHash) => {
    expect(await released({ enc, oaepHash })).toMatchObject({ kty: "oct" });
    const another = oaepHash === "sha1" ? "sha256" : "sha1";
    expect(await released({ enc, oaepHash: another })).toMatch(/^403 .*not wrapped to the key of this request/);
  });

  it.each([1, 7, 8, 9, 16, 31, 64])("may have %i bytes", async (length) => {
    const plaintext = new Uint8Array(length).fill(7);
    expect(await released({ plaintext })).toMatchObject({ k: toBase64url(plaintext) });
  });

  it("may be an RSA key, whose public half must be the published one", async () => {
    const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const jwk = privateKey.export({ format: "jwk" });
    const plaintext = new Uint8Array(privateKey.export({ format: "der", type: "pkcs8" }));
    const publicMembers = { n: jwk.n ?? "", e: "AAEAAQ" }; // some stores write the exponent with leading zeros
    expect(await released({ kty: "RSA-HSM", plaintext, publicMembers })).toEqual({ ...jwk, key_ops: ["encrypt", "decrypt"] });
    expect(await released({ kty: "RSA", plaintext, publicMembers: { ...publicMembers, n: toBase64url(new Uint8Array(256).fill(1)) } })).toMatch(/n differs/);
    expect(await released({ kty: "EC-HSM", plaintext })).toMatch(/not an EC key/);
  });

  it("may be an EC key", async () => {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const plaintext = new Uint8Array(privateKey.export({ format: "der", type: "pkcs8" }));
    const { x = "", y = "" } = privateKey.export({ format: "jwk" });
    const jwk = (await released({ kty: "EC-HSM", plaintext, publicMembers: { crv: "P-256", x, y } })) as Record<string, string>;
    expect(createPrivateKey({ key: jwk, format: "jwk" }).equals(privateKey)).toBe(true);
  });

  it.each<[string, Release, RegExp]>([
    ["of an unknown algorithm", { enc: "MY_OWN_WRAP" }, /MY_OWN_WRAP.*expected one of CKM_RSA_AES_KEY_WRAP/],
    ["for another wrapping key by name", { wrappedFor: "somebody" }, /another key than that of this request/],
    ["for another wrapping key in fact", { wrapTo: generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey }, /not wrapped to the key of this request/],
    ["without ciphertext", { ciphertext: new Uint8Array() }, /0 bytes, expected more than 256/],
    ["with a ciphertext as long as the modulus", { ciphertext: new Uint8Array(256) }, /256 bytes, expected more than 256/],
    ["of an unknown type", { kty: "okp" }, /expected oct, RSA or EC/],
    ["that is no PKCS #8", { kty: "RSA-HSM" }, /not an RSA key/],
    ["of another name", { kid: `https://${VAULT}/keys/other/00112233445566778899aabbccddeeff` }, /expected key k of/],
    ["of another store", { kid: "https://else.vault.test/keys/k/00112233445566778899aabbccddeeff" }, /expected key k of/],
    ["of a longer path", { kid: `https://${VAULT}/keys/k/v/x` }, /expected key k of/],
    ["whose id is no URL", { kid: "k" }, /expected key k of/],
  ])("is refused %s", async (_what, release, message) => {
    expect(await released(release)).toMatch(/^403 /);
    expect(await released(release)).toMatch(message);
  });

  it("is refused as another version than the one asked for", async () => {
    world.release = { kid: `https://${VAULT}/keys/k/bbbb` };
    expect(await call(world.skr(), "/key/release", { ...RELEASE, kid: "k/aaaa" })).toMatchObject({
      status: 403,
      body: { error: expect.stringContaining("expected aaaa") },
    });
    world.release = { kid: `https://${VAULT}/keys/K/aaaa` };
    expect(await call(world.skr(), "/key/release", { ...RELEASE, kid: "k/aaaa" })).toMatchObject({ status: 200 });
  });

  it.each<[string, unknown]>([
    ["no value", {}],
    ["a value that is no JWS", { value: "x" }],
    ["a value that is no string", { value: 1 }],
  ])("is refused with %s", async (_what, body) => {
    world.scripted.push(json(200, { token: "a.b.c" }), json(200, { access_token: "t" }), json(200, body));
    expect(await call(world.skr(), "/key/release", RELEASE)).toMatchObject({ status: 403 });
  });
});

describe("the signature of a release", () => {
  let made: World;
  let world: World;
  let intermediate: Issued;
  beforeAll(async () => {
    made = await World.make();
    intermediate = await issue({ name: "intermediate", ca: true, issuer: made.root });
  });
  beforeEach(() => {
    world = new World(made.chain, made.root, made.store);
  });

  const SERVER = { kind: "rsa-2048", dns: [VAULT], purposes: [OID.serverAuth] } as const;
  const chainOf = (...chain: readonly Issued[]): Readonly<Record<string, unknown>> => ({
    x5c: chain.map((entry) => toBase64(entry.certificate.der)),
    "x5t#S256": undefined,
  });
  const outcome = async (store: Issued, header: Readonly<Record<string, unknown>>): Promise<string> => {
    const other = new World(made.chain, made.root, store);
    other.release = { header };
    const answer = await call(other.skr(), "/key/release", RELEASE);
    return answer.status === 200 ? "released" : (answer.body["error"] as string);
  };

  it("rests on the store's certificate, with or without the root in the chain", async () => {
    expect(await outcome(made.store, chainOf(made.store))).toBe("released");
    expect(await outcome(made.store, chainOf(made.store, made.root))).toBe("released");
    const below = await issue({ ...SERVER, name: "below", issuer: intermediate });
    expect(await outcome(below, chainOf(below, intermediate))).toBe("released");
    expect(await outcome(below, chainOf(below, intermediate, made.root))).toBe("released");
    expect(await outcome(below, chainOf(below))).toMatch(/no trusted authority issued its certificate/);
  });

  it("is refused from a certificate of an authority that is not trusted", async () => {
    const stranger = await issue({ name: "root", ca: true }); // the same name as the trusted root
    const store = await issue({ ...SERVER, name: "vault", issuer: stranger });
    expect(await outcome(store, chainOf(store, stranger))).toMatch(/is not signed by demo\.vault\.test/);
    expect(await outcome(store, chainOf(store))).toMatch(/is not signed by demo\.vault\.test/);
  });

  it.each<[string, Parameters<typeof issue>[0], RegExp]>([
    ["for another host", { ...SERVER, name: "v", dns: ["other.vault.test"] }, /does not name demo\.vault\.test/],
    ["whose common name alone is the host", { kind: "rsa-2048", purposes: [OID.serverAuth], name: VAULT }, /does not name/],
    ["with a wildcard two labels deep", { ...SERVER, name: "v", dns: ["*.test"] }, /does not name/],
    ["that is not for servers", { ...SERVER, name: "v", purposes: [OID.clientAuth] }, /not for servers/],
    ["that has ended", { ...SERVER, name: "v", notAfter: NOW - 60_000 }, /valid from/],
  ])("is refused from a certificate %s", async (_what, request, message) => {
    const store = await issue({ ...request, issuer: made.root });
    expect(await outcome(store, chainOf(store, made.root))).toMatch(message);
  });

  it("of a store that is named by its address takes a certificate for that address, and none for a name that looks like it", async () => {
    const verify = async (store: Issued, host: string): Promise<string> => {
      const jws = await new CompactSign(encodeUtf8("{}")).setProtectedHeader({ alg: "RS256", ...chainOf(store) }).sign(store.key);
      return verifyRelease(jws, host, [made.root.certificate], { now: () => NOW }).then(
        () => "verified",
        (error: unknown) => (error as Error).message,
      );
    };
    const { dns: _none, ...server } = SERVER;
    const name = await issue({ ...server, name: "10.0.0.5", dns: ["10.0.0.5", "*.0.0.5", "10.5"], issuer: made.root });
    const address = await issue({ ...server, name: "10.0.0.5", addresses: [Uint8Array.of(10, 0, 0, 5)], issuer: made.root });
    for (const host of ["10.0.0.5", "10.5", "0xa000005"]) {
      expect(await verify(name, host), host).toMatch(/does not name/);
      expect(await verify(address, host), host).toBe("verified");
    }
    expect(await verify(address, "10.0.0.6")).toMatch(/does not name/);
  });

  it("is refused below a certificate that may not issue others", async () => {
    const notAuthority = await issue({ name: "leaf", issuer: made.root });
    const store = await issue({ ...SERVER, name: "vault", issuer: notAuthority });
    expect(await outcome(store, chainOf(store, notAuthority, made.root))).toMatch(/not a CA/);
  });

  it("is refused from another key than the certificate's", async () => {
    const other = await issue({ ...SERVER, name: "vault", issuer: made.root });
    expect(await outcome({ key: other.key, certificate: made.store.certificate }, chainOf(made.store, made.root))).toMatch(/signature verification failed/);
  });

  it.each<[string, Readonly<Record<string, unknown>>]>([
    ["no certificate", { x5c: undefined }],
    ["an empty chain", { x5c: [] }],
    ["certificates that are no strings", { x5c: [1] }],
    ["a certificate in base64url", { x5c: ["_-_-"] }],
    ["a certificate that is none", { x5c: ["AAAA"] }],
    ["the hash of another certificate", { "x5t#S256": toBase64url(new Uint8Array(32)) }],
  ])("is refused with %s", async (_what, header) => {
    world.release = { header };
    expect(await call(world.skr(), "/key/release", RELEASE)).toMatchObject({ status: 403, body: { error: expect.stringContaining("is not signed by") } });
  });

  it("is refused with another algorithm: the certificate's public key must not pass for a shared secret", async () => {
    const jws = await new CompactSign(encodeUtf8("{}"))
      .setProtectedHeader({ alg: "HS256", ...chainOf(made.store, made.root) })
      .sign(made.store.certificate.publicKey.der);
    world.scripted.push(json(200, { token: "a.b.c" }), json(200, { access_token: "t" }), json(200, { value: jws }));
    expect(await call(world.skr(), "/key/release", RELEASE)).toMatchObject({ status: 403, body: { error: expect.stringContaining("not signed by") } });
    const pss = await new CompactSign(encodeUtf8("{}")).setProtectedHeader({ alg: "PS256", ...chainOf(made.store, made.root) }).sign(made.store.key);
    world.scripted.push(json(200, { token: "a.b.c" }), json(200, { access_token: "t" }), json(200, { value: pss }));
    expect(await call(world.skr(), "/key/release", RELEASE)).toMatchObject({ status: 403, body: { error: expect.stringContaining("not signed by") } });
  });
});
