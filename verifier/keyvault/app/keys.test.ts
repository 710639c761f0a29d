import { generateKeyPairSync, type JsonWebKey } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BACKUPS, RSA_GENERATION } from "../fair-queue.ts";
import { requireSuccession } from "../key-request.ts";
import {
  ALL,
  APPID,
  auditLine,
  auditOf,
  call,
  grant,
  HSM,
  importBody,
  KEYS,
  MAA,
  maaToken,
  NOW,
  openRelease,
  openWorld,
  POLICY,
  RBAC,
  segment,
  TENANT,
  VAULT,
  type Answer,
  type Json,
  type World,
} from "../testdata/world.ts";

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

describe("import", () => {
  it("keeps an oct key and gives back nothing secret", async () => {
    const { status, body } = await put("app", importBody(POLICY, { tags: { a: "b" } }));
    expect(status).toBe(200);
    const version = /[0-9a-f]{32}$/.exec((body as { key: { kid: string } }).key.kid)?.[0] ?? "";
    expect(body).toEqual({
      key: { kid: `${VAULT}/keys/app/${version}`, kty: "oct-HSM", key_ops: ["encrypt", "decrypt", "wrapKey", "unwrapKey"] },
      attributes: { enabled: true, created: NOW, updated: NOW, recoveryLevel: "Recoverable+Purgeable", recoverableDays: 90, exportable: true },
      tags: { a: "b" },
      release_policy: { contentType: "application/json; charset=utf-8", data: segment(POLICY), immutable: false },
    });
    for (const path of [`/keys/app`, `/keys/app/${version}`]) expect((await call(world, "GET", `${VAULT}${path}?${V}`)).body).toEqual(body);
  });

  it("keeps RSA and EC keys, with padded members and leading zeros, under Hsm or hsm", async () => {
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const jwk = rsa.privateKey.export({ format: "jwk" }) as Record<string, string>;
    const padded = {
      ...jwk,
      kty: "RSA",
      n: Buffer.concat([Buffer.alloc(1), Buffer.from(jwk["n"] ?? "", "base64url")]).toString("base64"),
      key_ops: ["decrypt"],
    };
    const first = await put("rsa", { key: padded, Hsm: true });
    expect(first.body).toMatchObject({ key: { kty: "RSA-HSM", n: jwk["n"], e: "AQAB", key_ops: ["decrypt"] }, attributes: { exportable: false } });
    expect(JSON.stringify(first.body)).not.toContain(jwk["d"]);
    for (const crv of ["P-256", "P-384", "P-521", "P-256K"]) {
      const ec = generateKeyPairSync("ec", { namedCurve: crv === "P-256K" ? "secp256k1" : crv }).privateKey.export({ format: "jwk" });
      const { body } = await put(`ec-${crv}`, { key: { ...ec, crv }, hsm: false });
      expect(body).toMatchObject({ key: { kty: "EC", crv, x: ec.x, y: ec.y, key_ops: ["sign", "verify"] } });
    }
  });

  const rsaJwk = KEYS.tee.privateKey.export({ format: "jwk" }) as Record<string, string>;
  const otherRsa = KEYS.attacker.privateKey.export({ format: "jwk" }) as Record<string, string>;
  const base64url = (number: bigint): string => Buffer.from(number.toString(16).padStart(20, "0"), "hex").toString("base64url");
  /** Whose private key is the public one. */
  const rsaOfOne = { ...rsaJwk, e: "AQ", d: "AQ", dp: "AQ", dq: "AQ" };
  const rsaOf = (publicExponent: number): JsonWebKey =>
    generateKeyPairSync("rsa", { modulusLength: 2048, publicExponent }).privateKey.export({ format: "jwk" });
  const oct = { kty: "oct-HSM", k: "AAAA" };
  const released = { contentType: "application/json", data: segment(POLICY) };
  const refusals: readonly (readonly [string, Json, RegExp, string?])[] = [
    ["no key", {}, /key is missing/],
    ["an unknown kty", { key: { kty: "OKP" } }, /kty "OKP"/],
    ["a kty beyond 2^53", { key: { kty: 1 } }, /kty 1/],
    ["an oct key without k", { key: { kty: "oct-HSM" } }, /property k is missing/],
    ["an empty oct key", { key: { ...oct, k: "" } }, /is empty/],
    ["an oct key of 65 bytes", { key: { ...oct, k: Buffer.alloc(65).toString("base64url") } }, /maximum size is 64/],
    ["an oct key that is no base64", { key: { ...oct, k: "a*" } }, /not base64url/],
    ["an oct key of another size", { key: { ...oct, key_size: 256 } }, /key_size is 256, but k has 24 bits/],
    ["a software oct key", { key: { kty: "oct", k: "AAAA" } }, /HSM/],
    ["an RSA public key", { key: { kty: "RSA", n: rsaJwk["n"], e: "AQAB" } }, /property d is missing/],
    ["an RSA key with the modulus of another", { key: { ...rsaJwk, n: otherRsa["n"] } }, /not a consistent RSA key/],
    ["an RSA key with public exponent 1", { key: rsaOfOne }, /public exponent e is 1, expected an odd number/],
    ["an RSA key with public exponent 3", { key: rsaOf(3) }, /public exponent e is 3, expected an odd number/],
    ["an RSA key with an even public exponent", { key: { ...rsaJwk, e: "AQAC" } }, /public exponent e is 65538/],
    ["an RSA key with a public exponent of 65 bits", { key: { ...rsaJwk, e: base64url(2n ** 64n + 13n) } }, /public exponent e is 1844/],
    ["an expiry after the year 9999", importBody(POLICY, { attributes: { exportable: true, exp: 253_402_300_800 } }), /attributes.exp is 253402300800/],
    ["a beginning that no date can say", importBody(POLICY, { attributes: { exportable: true, nbf: 8_640_000_000_001 } }), /attributes.nbf/],
    ["an RSA key with one prime twice", { key: { ...rsaJwk, p: rsaJwk["q"] } }, /not a consistent RSA key/],
    ["an RSA key with its primes the wrong way round", { key: { ...rsaJwk, p: rsaJwk["q"], q: rsaJwk["p"] } }, /not a consistent RSA key/],
    ["an RSA key whose primes are 1 and n", { key: { ...rsaJwk, p: "AQ", q: rsaJwk["n"] } }, /not a consistent RSA key/],
    ...["d", "dp", "dq", "qi"].map((name): readonly [string, Json, RegExp] => [
      `an RSA key with the ${name} of another`,
      { key: { ...rsaJwk, [name]: otherRsa[name] } },
      /not a consistent RSA key/,
    ]),
    ["an unknown curve", { key: { kty: "EC", crv: "P-224", x: "AA", y: "AA", d: "AA" } }, /curve "P-224"/],
    ["a point off its curve", { key: { kty: "EC", crv: "P-256", x: "AA", y: "AA", d: "AA" } }, /not a consistent EC key/],
    ["hsm and Hsm that differ", { key: oct, hsm: true, Hsm: false }, /contradict/],
    ["hsm as text", { key: oct, hsm: "true" }, /hsm must be true or false/],
    ["key_ops of another kind", { key: { ...oct, key_ops: ["import"] } }, /key_ops/],
    ["key_ops that are no list", { key: { ...oct, key_ops: "sign" } }, /key_ops/],
    ["a fractional nbf", { key: oct, attributes: { nbf: 1.5 } }, /nbf/],
    ["tags that are no text", { key: oct, tags: { a: 1 } }, /tags/],
    ["exportable without policy", { key: oct, attributes: { exportable: true } }, /must have release policy/, "AKV.SKR.1004"],
    ["a policy without exportable", { key: oct, release_policy: released }, /must not have release policy/, "AKV.SKR.1005"],
    ["an exportable software key", { key: rsaJwk, attributes: { exportable: true }, release_policy: released }, /must be HSM keys/, "AKV.SKR.1006"],
    [
      "a policy that is no policy",
      { key: oct, attributes: { exportable: true }, release_policy: { data: segment({ version: "1.0.0" }) } },
      /not valid at/,
      "AKV.SKR.PolicyFormat",
    ],
    [
      "a policy of another version",
      { key: oct, attributes: { exportable: true }, release_policy: { data: segment({ version: "9", anyOf: [] }) } },
      /expected one of 1\.0\.0, 1\.0, 0\.2\.$/,
      "AKV.SKR.PolicyFormat",
    ],
    ["a policy that is no base64", { key: oct, attributes: { exportable: true }, release_policy: { data: "{}" } }, /not base64url/, "AKV.SKR.PolicyFormat"],
    [
      "a policy of another type",
      { key: oct, attributes: { exportable: true }, release_policy: { ...released, contentType: "text/rego" } },
      /contentType/,
      "AKV.SKR.PolicyFormat",
    ],
  ];
  it.each(refusals.map(([what, request, message, inner]) => ({ what, request, message, inner })))("refuses $what", async ({ request, message, inner }) => {
    const { status, body } = await put("app", request);
    expect(status).toBe(400);
    expect(body.error?.code).toBe("BadParameter");
    expect(body.error?.message).toMatch(message);
    expect(body.error?.message).toMatch(/[^.]\.$/);
    expect(body.error?.innererror?.code).toBe(inner);
    expect((await call(world, "GET", `${VAULT}/keys/app?${V}`)).status).toBe(404);
  });

  it("takes other public exponents that are large enough", async () => {
    expect((await put("rsa", { key: rsaOf(65_539) })).body).toMatchObject({ key: { e: "AQAD" } });
  });

  it.each(["a b", "a_b", "a".repeat(128), "ä"])("refuses the name %j", async (name) => {
    expect((await put(encodeURIComponent(name))).status).toBe(400);
  });

  it("makes every key of a managed HSM an HSM key", async () => {
    const { body } = await put("rsa", { key: rsaJwk }, HSM);
    expect(body).toMatchObject({ key: { kty: "RSA-HSM" } });
  });
});

describe("create, list, update, delete", () => {
  it("creates RSA, EC and oct keys", async () => {
    const create = (name: string, body: unknown): Promise<Answer> => call(world, "POST", `${VAULT}/keys/${name}/create?${V}`, body);
    expect((await create("rsa", { kty: "RSA", key_size: 2048 })).body).toMatchObject({ key: { kty: "RSA", e: "AQAB" } });
    expect((await create("ec", { kty: "EC-HSM", crv: "P-384", attributes: { enabled: false, nbf: 5, exp: 6 } })).body).toMatchObject({
      key: { kty: "EC-HSM", crv: "P-384" },
      attributes: { enabled: false, nbf: 5, exp: 6 },
    });
    expect((await create("oct", { kty: "oct-HSM", key_size: 128, attributes: { exportable: true }, release_policy: { data: segment(POLICY) } })).status).toBe(
      200,
    );
    const { plaintext } = await openRelease((await release("oct", maaToken())).body.value);
    expect(plaintext).toHaveLength(16);
    for (const body of [
      { kty: "RSA", key_size: 1024 },
      { kty: "oct-HSM", key_size: 64 },
      { kty: "EC", crv: "x" },
      { kty: "RSA", public_exponent: 3 },
      { kty: "RSA", key_size: "2048" },
    ]) {
      expect((await create("bad", body)).status).toBe(400);
    }
  });

  it("takes dates until the end of the year 9999", async () => {
    await put("app", importBody(POLICY, { attributes: { exportable: true, exp: 253_402_300_799 } }));
    expect((await call(world, "GET", `${VAULT}/keys/app?${V}`)).body).toMatchObject({ attributes: { exp: 253_402_300_799 } });
    expect((await call(world, "PATCH", `${VAULT}/keys/app?${V}`, { attributes: { exp: 253_402_300_800 } })).status).toBe(400);
    expect((await call(world, "PUT", `${VAULT}/secrets/app?${V}`, { value: "v", attributes: { nbf: 253_402_300_800 } })).status).toBe(400);
  });

  it("makes RSA keys one after the other, refuses those of a vault that are too many, and lets other vaults and other keys pass", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const running = RSA_GENERATION.run("another", () => promise);
    const create = (name: string, kty: string, base = VAULT): Promise<Answer> => call(world, "POST", `${base}/keys/${name}/create?${V}`, { kty });
    const waiting = Array.from({ length: 8 }, (_, at) => create(`rsa-${at}`, "RSA"));
    while (RSA_GENERATION.waiting < 8) await setImmediate();
    const refused = await create("rsa", "RSA");
    expect([refused.status, refused.body.error?.code, refused.headers.get("retry-after")]).toEqual([429, "Throttled", "10"]);
    expect(refused.body.error?.message).toMatch(/^Too many RSA keys are made at once: /);
    expect([(await create("ec", "EC")).status, (await create("oct", "oct-HSM")).status, (await put("app")).status]).toEqual([200, 200, 200]);
    expect((await release("app", maaToken())).status).toBe(200);
    const other = create("rsa", "RSA-HSM", HSM);
    while (RSA_GENERATION.waiting < 9) await setImmediate();
    resolve();
    await running;
    expect((await Promise.all([...waiting, other])).map(({ status }) => status)).toEqual(Array(9).fill(200));
    expect((await auditOf(world, { operation: "keys/create", name: "rsa" })).map(({ outcome }) => outcome).toSorted()).toEqual(["allowed", "refused"]);
  });

  it("finds out that there is no room, or that the key is deleted, before it makes a costly key", async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const running = RSA_GENERATION.run("another", () => promise);
    const create = (name: string, kty: string): Promise<Answer> => call(world, "POST", `${VAULT}/keys/${name}/create?${V}`, { kty });
    await put("gone");
    await call(world, "DELETE", `${VAULT}/keys/gone?${V}`);
    const latest = (await put("full")).status === 200 ? ((await world.store.key("demo", "full")) ?? expect.fail()) : expect.fail();
    for (let count = 1; count < 500; count++) await world.store.addKey({ ...latest, secret: new Uint8Array(1) }, auditLine());
    // None of them waits for its turn, which does not come.
    expect((await create("gone", "RSA")).status).toBe(409);
    for (const answer of [await create("full", "RSA"), await call(world, "POST", `${VAULT}/keys/full/rotate?${V}`)]) {
      expect([answer.status, answer.body.error?.message]).toEqual([400, "Key full has 500 versions; there is no room for more."]);
    }
    resolve();
    await running;
  });

  it("does not let a slow create pass over a policy that became immutable meanwhile", async () => {
    const url = `${VAULT}/keys/race/create?${V}`;
    const request = (policy: unknown, immutable: boolean): Json => ({
      kty: "RSA-HSM",
      attributes: { exportable: true },
      release_policy: { data: segment(policy), immutable },
    });
    const other = { version: "1.0.0", anyOf: [{ authority: MAA, allOf: [{ claim: "a", equals: "b" }] }] };
    const answers = await Promise.all([call(world, "POST", url, request(POLICY, true)), call(world, "POST", url, request(other, true))]);
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200, 400]));
  });

  it("holds a new version to what the one before it has, also if that came while it was made", async () => {
    await put("app", importBody(POLICY, { release_policy: { data: segment(POLICY), immutable: true } }));
    const latest = await world.store.key("demo", "app");
    const { releasePolicy } = latest ?? expect.fail();
    const policy = releasePolicy ?? expect.fail();
    const check = (next: Parameters<typeof requireSuccession>[1]) => (): void => requireSuccession(latest, next);
    expect(check({ exportable: true, releasePolicy: policy })).not.toThrow();
    for (const changed of [undefined, { ...policy, immutable: false }, { ...policy, text: "{}" }]) {
      expect(check({ exportable: true, releasePolicy: changed })).toThrow(/Immutable/);
    }
    expect(check({ exportable: false, releasePolicy: policy })).toThrow(/exportable/);
    expect(() => requireSuccession(undefined, { exportable: false, releasePolicy: undefined })).not.toThrow();
  });

  it("pages keys by absolute links until there are no more", async () => {
    for (const name of ["c", "a", "E", "b", "d"]) await put(name, { key: { kty: "oct-HSM", k: "AAAA" } });
    const seen: string[] = [];
    let next: string | null = `${VAULT}/keys?api%2Dversion=7.4&maxresults=2`;
    let pages = 0;
    while (next !== null) {
      const { body } = await call(world, "GET", next);
      const page = body as unknown as { value: { kid: string; attributes: object }[]; nextLink: string | null };
      seen.push(...page.value.map(({ kid }) => kid));
      next = page.nextLink;
      if (next !== null) expect(next).toMatch(/^https:\/\/demo\.vault\.test:8443\/keys\?api-version=7\.4&\$skiptoken=/);
      pages++;
    }
    expect(seen).toEqual(["a", "b", "c", "d", "E"].map((name) => `${VAULT}/keys/${name}`));
    expect(pages).toBe(3);
  });

  it("lists the versions of a key, whatever the letter case of its name", async () => {
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) ids.push(((await put("App", { key: { kty: "oct-HSM", k: "AAAA" } })).body as unknown as { key: { kid: string } }).key.kid);
    const first = (await call(world, "GET", `${VAULT}/keys/app/versions?${V}&maxresults=2`)).body as unknown as { value: { kid: string }[]; nextLink: string };
    const second = (await call(world, "GET", first.nextLink)).body as unknown as { value: { kid: string }[]; nextLink: null };
    expect([...first.value, ...second.value].map(({ kid }) => kid).sort()).toEqual(ids.toSorted());
    expect(second.nextLink).toBeNull();
    expect((await call(world, "GET", `${VAULT}/keys/APP?${V}`)).body).toMatchObject({ key: { kid: ids[2] } });
  });

  it.each(["maxresults=0", "maxresults=26", "maxresults=x", "$skiptoken=*", `$skiptoken=${segment("a b")}`])("refuses %s", async (query) => {
    expect((await call(world, "GET", `${VAULT}/keys?${V}&${query}`)).status).toBe(400);
  });

  it("updates what may change", async () => {
    await put("app");
    world.time += 5000;
    const policy = { version: "1.0.0", anyOf: [{ authority: MAA, allOf: [{ claim: "a", equals: "b" }] }] };
    const body = { key_ops: ["encrypt"], attributes: { enabled: false, exp: 9 }, tags: { x: "y" }, release_policy: { data: segment(policy), immutable: true } };
    const patched = await call(world, "PATCH", `${VAULT}/keys/app?${V}`, body);
    expect(patched.body).toMatchObject({
      key: { key_ops: ["encrypt"] },
      attributes: { enabled: false, exp: 9, created: NOW, updated: NOW + 5 },
      tags: { x: "y" },
      release_policy: { data: segment(policy), immutable: true },
    });
    expect((await call(world, "GET", `${VAULT}/keys/app?${V}`)).body).toEqual(patched.body);
  });

  it("does not change what may not", async () => {
    const { body } = await put("app", importBody(POLICY, { release_policy: { data: segment(POLICY), immutable: true } }));
    const { kid } = (body as unknown as { key: { kid: string } }).key;
    const other = { data: segment({ version: "1.0.0", anyOf: [{ authority: "https://evil.test", allOf: [{ claim: "a", equals: "b" }] }] }) };
    const inner = async (answer: Promise<Answer>): Promise<string | undefined> => (await answer).body.error?.innererror?.code;
    expect(await inner(call(world, "PATCH", `${VAULT}/keys/app?${V}`, { release_policy: other }))).toBe("AKV.SKR.1020");
    expect(await inner(call(world, "PATCH", `${kid}?${V}`, { release_policy: other }))).toBe("AKV.SKR.1016");
    expect(await inner(call(world, "PATCH", `${VAULT}/keys/app?${V}`, { attributes: { exportable: false } }))).toBe("AKV.SKR.1003");
    expect(await inner(put("app", importBody(POLICY, { release_policy: other })))).toBe("AKV.SKR.1020");
    expect(await inner(put("app", { key: { kty: "oct-HSM", k: "AAAA" } }))).toBe("AKV.SKR.1003");
    await put("plain", { key: { kty: "oct-HSM", k: "AAAA" } });
    expect(await inner(call(world, "PATCH", `${VAULT}/keys/plain?${V}`, { release_policy: other }))).toBe("AKV.SKR.1005");
    expect((await call(world, "GET", `${VAULT}/keys/app?${V}`)).body).toEqual(body);
    // A new version under the same policy is fine, and stays immutable although it does not say so.
    expect((await put("app")).body).toMatchObject({ release_policy: { immutable: true } });
  });

  it("deletes softly, recovers, and purges", async () => {
    const { body } = await put("app");
    world.time += 1000;
    const deleted = await call(world, "DELETE", `${VAULT}/keys/app?${V}`);
    expect(deleted.body).toEqual({ ...body, recoveryId: `${VAULT}/deletedkeys/app`, deletedDate: NOW + 1, scheduledPurgeDate: NOW + 1 + 90 * 86_400 });
    expect((await call(world, "GET", `${VAULT}/deletedkeys/app?${V}`)).body).toEqual(deleted.body);
    expect((await call(world, "GET", `${VAULT}/deletedkeys?${V}`)).body).toMatchObject({
      value: [{ kid: `${VAULT}/keys/app`, recoveryId: `${VAULT}/deletedkeys/app` }],
      nextLink: null,
    });
    for (const gone of [call(world, "GET", `${VAULT}/keys/app?${V}`), call(world, "DELETE", `${VAULT}/keys/app?${V}`), release("app", maaToken())])
      expect((await gone).status).toBe(404);
    expect((await call(world, "GET", `${VAULT}/keys?${V}`)).body).toMatchObject({ value: [] });
    expect(await put("app")).toMatchObject({ status: 409, body: { error: { code: "Conflict", innererror: { code: "ObjectIsDeletedButRecoverable" } } } });

    expect((await call(world, "POST", `${VAULT}/deletedkeys/app/recover?${V}`)).body).toEqual(body);
    expect((await release("app", maaToken())).status).toBe(200);
    await call(world, "DELETE", `${VAULT}/keys/app?${V}`);
    expect((await call(world, "DELETE", `${VAULT}/deletedkeys/app?${V}`)).status).toBe(204);
    expect((await call(world, "GET", `${VAULT}/deletedkeys/app?${V}`)).status).toBe(404);
    expect((await put("app")).status).toBe(200);
  });
});

describe("backup and restore", () => {
  const backup = async (name: string, base = VAULT): Promise<string> =>
    String(((await call(world, "POST", `${base}/keys/${name}/backup?${V}`)).body as Json)["value"]);
  const restore = (value: unknown, base = VAULT): Promise<Answer> => call(world, "POST", `${base}/keys/restore?${V}`, { value });

  it("give back a key with all its versions, policy and attributes", async () => {
    await put("App", importBody(POLICY, { key: { kty: "oct-HSM", k: Buffer.from("old").toString("base64url") } }));
    const { body } = await put("app", importBody(POLICY, { tags: { a: "b" } }));
    const value = await backup("app");
    expect(Buffer.from(value, "base64url").includes(Buffer.alloc(32, 5))).toBe(false);
    expect((await restore(value)).body.error?.code).toBe("Conflict");
    await call(world, "DELETE", `${VAULT}/keys/app?${V}`);
    expect((await restore(value)).body.error).toMatchObject({ code: "Conflict", innererror: { code: "ObjectIsDeletedButRecoverable" } });
    await call(world, "DELETE", `${VAULT}/deletedkeys/app?${V}`);
    const restored = await restore(value);
    expect([restored.status, restored.body]).toEqual([200, body]);
    expect((await openRelease((await release("app", maaToken())).body.value)).plaintext).toEqual(Buffer.alloc(32, 5));
    expect(((await call(world, "GET", `${VAULT}/keys/app/versions?${V}`)).body as unknown as { value: unknown[] }).value).toHaveLength(2);
    expect((await auditOf(world, { operation: "keys/restore" })).map(({ outcome, name }) => `${outcome} ${name}`)).toEqual([
      "allowed App",
      "refused ",
      "refused ",
    ]);
  });

  it("put no software key into a managed HSM", async () => {
    await put("soft", { key: KEYS.tee.privateKey.export({ format: "jwk" }) });
    await put("app");
    const [soft, hard] = [await backup("soft"), await backup("app")];
    expect((await restore(soft, HSM)).body.error).toMatchObject({ code: "BadParameter", message: expect.stringMatching(/software key/) as string });
    expect((await restore(hard, HSM)).body.error).toMatchObject({
      code: "BadParameter",
      message: expect.stringMatching(/of a vault, and this is a managed HSM/) as string,
    });
    expect((await call(world, "GET", `${HSM}/keys?${V}`)).body).toMatchObject({ value: [] });
  });

  const elsewhere = "https://other.vault.test:8443";
  const vaults = [
    { name: "demo", kind: "vault" },
    { name: "other", kind: "vault" },
    { name: "hsm", kind: "managedhsm" },
  ] as const;
  const openTwo = async (options: Parameters<typeof openWorld>[0] = {}): Promise<void> => {
    await world.store.close();
    world = await openWorld({ vaults, ...options });
    await grant(world.store, "other", { tenantId: TENANT, id: APPID }, ALL, ["set", "backup", "restore"]);
  };

  it("do not take a key out of a managed HSM, where others decide about its policy", async () => {
    for (const restoreInto of [undefined, "any-vault-of-kind"] as const) {
      await openTwo(restoreInto === undefined ? {} : { restoreInto });
      await put("app", importBody(), HSM);
      const refused = await restore(await backup("app", HSM));
      expect([refused.status, refused.body.error?.message]).toEqual([400, expect.stringMatching(/of a managed HSM, and this is a vault/)]);
      expect((await call(world, "GET", `${VAULT}/keys?${V}`)).body).toMatchObject({ value: [] });
    }
  });

  it("stay in their vault, unless the service is set up to let them into others of the kind", async () => {
    await openTwo();
    const refused = async (collection: string): Promise<unknown> => {
      const { value } = (await call(world, "POST", `${VAULT}/${collection}/app/backup?${V}`)).body;
      return (await call(world, "POST", `${elsewhere}/${collection}/restore?${V}`, { value })).body.error?.message;
    };
    const key = (await put("app", importBody(POLICY, { release_policy: { data: segment(POLICY), immutable: true } }))).body;
    await call(world, "PUT", `${VAULT}/secrets/app?${V}`, { value: "v" });
    expect([await refused("keys"), await refused("secrets")]).toEqual([
      expect.stringMatching(/^The backup is of another vault, demo/),
      expect.stringMatching(/^The backup is of another vault, demo/),
    ]);
    const value = await backup("app");
    // After a disaster: another database, the same name and master key.
    await openTwo();
    expect((await restore(value)).body).toEqual(key);
    await openTwo({ restoreInto: "any-vault-of-kind" });
    expect((await restore(value, elsewhere)).status).toBe(200);
    // What was immutable stays so wherever it goes.
    const loosened = await call(world, "PATCH", `${elsewhere}/keys/app?${V}`, { release_policy: { data: segment({ ...POLICY, anyOf: [] }) } });
    expect(loosened.body.error).toMatchObject({ innererror: { code: "AKV.SKR.1020" } });
  });

  it("wait for one another, and are refused beyond a number of them", async () => {
    await put("app");
    const { promise, resolve } = Promise.withResolvers<void>();
    const running = BACKUPS.run("another", () => promise);
    const waiting = Array.from({ length: 8 }, () => call(world, "POST", `${VAULT}/keys/app/backup?${V}`));
    while (BACKUPS.waiting < 8) await setImmediate();
    const refused = await call(world, "POST", `${VAULT}/keys/app/backup?${V}`);
    expect([refused.status, refused.body.error?.code, refused.headers.get("retry-after")]).toEqual([429, "Throttled", "10"]);
    resolve();
    await running;
    expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual(Array(8).fill(200));
  });

  it("refuse what is no backup, and keys that are not there", async () => {
    await put("app");
    const value = await backup("app");
    await call(world, "DELETE", `${VAULT}/keys/app?${V}`);
    await call(world, "DELETE", `${VAULT}/deletedkeys/app?${V}`);
    for (const wrong of [undefined, 1, "", "*", "AAAA", value.slice(0, -4), value.replace(/^./, value.startsWith("A") ? "B" : "A")]) {
      expect([wrong, (await restore(wrong)).status]).toEqual([wrong, 400]);
    }
    expect((await call(world, "POST", `${VAULT}/keys/none/backup?${V}`)).body.error?.code).toBe("KeyNotFound");
  });
});

describe("what the faces have in common, and what not", () => {
  it("is that paths are found in any letter case, with slashes that are too many", async () => {
    const { body } = await put("App");
    for (const path of ["/Keys/App", "/KEYS/App/", "//keys//App//", "/keys/APP"]) expect((await call(world, "GET", `${VAULT}${path}?${V}`)).body).toEqual(body);
    expect((await call(world, "POST", `${VAULT}/keys/Other/CREATE?${V}`, { kty: "EC" })).body).toMatchObject({
      key: { kid: expect.stringContaining("/keys/Other/") as string },
    });
    const { kid } = (body as unknown as { key: { kid: string } }).key;
    expect((await call(world, "GET", `${kid.slice(0, -32)}${kid.slice(-32).toUpperCase()}?${V}`)).status).toBe(200);
  });

  it("is that other methods are 405 with those that are there, and only for who is known", async () => {
    for (const [method, path, allow] of [
      ["DELETE", "/keys", "GET"],
      ["POST", "/keys/app", "DELETE, GET, PATCH, PUT"],
      ["GET", "/keys/app/create", undefined],
      ["PUT", "/keys/restore/x/y", undefined],
      ["PUT", "/deletedkeys/app/recover", "POST"],
      ["PATCH", "/keys/app/rotationpolicy", undefined],
      ["GET", "/keys/app/abc/sign", "POST"],
    ] as const) {
      const answer = await call(world, method, `${VAULT}${path}?${V}`);
      if (allow === undefined) expect([400, 404]).toContain(answer.status);
      else expect([answer.status, answer.body.error?.code, answer.headers.get("allow")]).toEqual([405, "MethodNotAllowed", allow]);
      expect((await world.app.request(`${VAULT}${path}?${V}`, { method })).status).toBe(401);
    }
  });

  it("is not the resource of the challenge, where it is set per vault", async () => {
    await world.store.close();
    world = await openWorld({
      vaults: [
        { name: "demo", kind: "vault" },
        { name: "hsm", kind: "managedhsm", domain: "managedhsm.test", resource: "https://managedhsm.test" },
      ],
    });
    const challenge = async (url: string): Promise<string> => (await world.app.request(url)).headers.get("www-authenticate") ?? "";
    expect(await challenge(`${VAULT}/keys`)).toContain('resource="https://vault.test"');
    expect(await challenge("https://hsm.managedhsm.test/keys")).toContain('resource="https://managedhsm.test"');
    // A token for one is no token for the other.
    expect((await call(world, "GET", `https://hsm.managedhsm.test/keys?${V}`)).status).toBe(401);
    expect((await call(world, "GET", `${HSM}/keys?${V}`)).body.error?.code).toBe("VaultNotFound");
    await expect(openWorld({ vaults: [{ name: "hsm", kind: "managedhsm", access: "policies" }] })).rejects.toThrow(/managed HSM with access policies/);
  });

  it("is that one vault does not see the keys of another", async () => {
    await put("app");
    for (const base of [HSM]) expect((await call(world, "GET", `${base}/keys/app?${V}`)).status).toBe(404);
    expect((await call(world, "GET", `${RBAC}/keys/app?${V}`)).status).toBe(403);
  });
});
