import { createHash, createPublicKey, generateKeyPairSync, verify, type JsonWebKey } from "node:crypto";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { ALGORITHMS, keyTypeOf, usesOf } from "../crypto/index.ts";
import { auditOf, call, HSM, importBody, KEYS, NOW, openWorld, random, VAULT, type Answer, type Json, type World } from "../testdata/world.ts";

const V = "api-version=7.4";
const RSA = KEYS.tee.privateKey.export({ format: "jwk" });
const b64 = (bytes: Uint8Array | string): string => Buffer.from(bytes).toString("base64url");
const bytes = (value: unknown): Uint8Array => new Uint8Array(Buffer.from(String(value), "base64url"));

let world: World;
beforeEach(async () => {
  world = await openWorld();
});
afterEach(async () => {
  await world.store.close();
});

const put = (name: string, body: Json, base = VAULT): Promise<Answer> => call(world, "PUT", `${base}/keys/${name}?${V}`, body);
const use = (name: string, operation: string, body: unknown, base = VAULT): Promise<Answer> =>
  call(world, "POST", `${base}/keys/${name}/${operation}?${V}`, body);
const oct = (length: number, extra: Json = {}): Json => ({ key: { kty: "oct-HSM", k: b64(new Uint8Array(length).fill(9)), ...extra } });

describe("every algorithm over HTTP", () => {
  const curves = { "P-256": "P-256", "P-256K": "secp256k1", "P-384": "P-384", "P-521": "P-521" };
  const keyFor = (name: string): Json => {
    const algorithm = ALGORITHMS.get(name) ?? expect.fail(name);
    if (keyTypeOf(algorithm) === "RSA") return { key: { ...RSA, kty: "RSA" } };
    if (algorithm.kind === "ecdsa") {
      const namedCurve = curves[algorithm.curve as keyof typeof curves];
      return { key: { ...generateKeyPairSync("ec", { namedCurve }).privateKey.export({ format: "jwk" }), crv: algorithm.curve } };
    }
    const size = "size" in algorithm ? (algorithm.size ?? 256) : 256;
    return oct(size / 8, { key_ops: ["encrypt", "decrypt", "wrapKey", "unwrapKey", "sign", "verify"] });
  };

  it.each([...ALGORITHMS.keys()])("%s does and undoes", async (alg) => {
    const { body } = await put("app", keyFor(alg), HSM);
    const { kid } = (body as unknown as { key: { kid: string } }).key;
    const algorithm = ALGORITHMS.get(alg) ?? expect.fail(alg);
    const uses = usesOf(algorithm);
    const value = b64(new Uint8Array("hash" in algorithm ? Number(algorithm.hash.slice(3)) / 8 : 32).fill(4));
    const extra =
      algorithm.kind === "cbc" || algorithm.kind === "cbcpad" ? { iv: b64(random.bytes(16)) } : algorithm.kind === "gcm" ? { aad: b64("for app") } : {};
    for (const [there, back] of [
      ["encrypt", "decrypt"],
      ["wrapKey", "unwrapKey"],
    ] as const) {
      if (!uses.includes(there)) continue;
      const done = await use("app", there.toLowerCase(), { alg, value, ...extra }, HSM);
      expect([done.status, (done.body as Json)["kid"]]).toEqual([200, kid]);
      const { kid: _kid, ...rest } = done.body as Json;
      expect(Object.keys(rest).sort()).toEqual(algorithm.kind === "gcm" ? ["aad", "iv", "tag", "value"] : "iv" in extra ? ["iv", "value"] : ["value"]);
      const undone = await use("app", back.toLowerCase(), { alg, ...rest }, HSM);
      expect(undone.body).toEqual({ kid, value });
      expect((await auditOf(world, { operation: `keys/${back.toLowerCase()}` }))[0]).toMatchObject({
        name: "app",
        version: kid.slice(-32),
        reason: alg,
        outcome: "allowed",
      });
    }
    if (!uses.includes("sign")) return;
    const signed = await use("app", "sign", { alg, value }, HSM);
    expect(signed.body).toMatchObject({ kid });
    const signature = (signed.body as Json)["value"];
    expect((await use("app", "verify", { alg, digest: value, value: signature }, HSM)).body).toEqual({ value: true });
    expect((await use("app", "verify", { alg, digest: b64(bytes(value).fill(5)), value: signature }, HSM)).body).toEqual({ value: false });
  });

  it("signs so that the public key of the bundle verifies it, by version and by latest", async () => {
    const { body } = await call(world, "POST", `${VAULT}/keys/app/create?${V}`, { kty: "EC", crv: "P-256" });
    const { key } = body as unknown as { key: JsonWebKey & { kid: string } };
    const digest = b64(createHash("sha256").update("message").digest());
    const publicKey = createPublicKey({ key: { kty: "EC", crv: "P-256", x: key.x ?? "", y: key.y ?? "" }, format: "jwk" });
    for (const url of [`${key.kid}/sign`, `${VAULT}/keys/app/sign`, `${VAULT}/keys/app//sign`, `${VAULT}/keys/app/Sign/`]) {
      const answer = await call(world, "POST", `${url}?${V}`, { alg: "ES256", value: digest });
      expect([url, answer.status]).toEqual([url, 200]);
      expect(verify("sha256", Buffer.from("message"), { key: publicKey, dsaEncoding: "ieee-p1363" }, bytes((answer.body as Json)["value"]))).toBe(true);
    }
  });

  it("uses the version that is asked for", async () => {
    const first = ((await put("app", oct(32))).body as unknown as { key: { kid: string } }).key.kid;
    const sealed = (await call(world, "POST", `${first}/encrypt?${V}`, { alg: "A256GCM", value: b64("old") })).body as Json;
    await put("app", { key: { kty: "oct-HSM", k: b64(new Uint8Array(32).fill(1)) } });
    const { kid: _kid, ...text } = sealed;
    expect((await use("app", "decrypt", { alg: "A256GCM", ...text })).status).toBe(400);
    expect((await call(world, "POST", `${first}/decrypt?${V}`, { alg: "A256GCM", ...text })).body).toEqual({ kid: first, value: b64("old") });
  });
});

describe("what a key does not allow", () => {
  const all: readonly (readonly [string, Json])[] = [
    ["encrypt", { alg: "RSA-OAEP", value: "AAAA" }],
    ["decrypt", { alg: "RSA-OAEP", value: "AAAA" }],
    ["wrapkey", { alg: "RSA-OAEP", value: "AAAA" }],
    ["unwrapkey", { alg: "RSA-OAEP", value: "AAAA" }],
    ["sign", { alg: "RS256", value: b64(new Uint8Array(32)) }],
    ["verify", { alg: "RS256", digest: b64(new Uint8Array(32)), value: "AAAA" }],
  ];
  const outcome = async (operation: string, body: Json): Promise<string> => {
    const answer = await use("app", operation, body);
    if (answer.status !== 403) return answer.body.error?.code ?? "done";
    const [line] = await auditOf(world, { operation: `keys/${operation}` });
    expect(line).toMatchObject({ failed: "key", outcome: "refused", reason: answer.body.error?.message });
    return answer.body.error?.innererror?.code ?? "?";
  };
  const outcomes = async (): Promise<Json> =>
    Object.fromEntries(await Promise.all(all.map(async ([operation, body]) => [operation, await outcome(operation, body)] as const)));
  const both = { decrypt: "BadParameter", unwrapkey: "BadParameter", verify: "done" };

  it.each<readonly [string, Json, Json]>([
    ["a disabled key does nothing", { enabled: false }, Object.fromEntries(all.map(([operation]) => [operation, "KeyDisabled"]))],
    ["an expired key only undoes", { exp: NOW }, { ...both, encrypt: "KeyExpired", wrapkey: "KeyExpired", sign: "KeyExpired" }],
    ["a key of the future only undoes", { nbf: NOW + 1 }, { ...both, encrypt: "KeyNotYetValid", wrapkey: "KeyNotYetValid", sign: "KeyNotYetValid" }],
    ["a key in its time does all", { nbf: NOW, exp: NOW + 1 }, { ...both, encrypt: "done", wrapkey: "done", sign: "done" }],
  ])("%s", async (_what, attributes, expected) => {
    await put("app", { key: { ...RSA, kty: "RSA" }, attributes });
    expect(await outcomes()).toEqual(expected);
  });

  it.each(["encrypt", "decrypt", "wrapKey", "unwrapKey", "sign", "verify"])("key_ops of %s alone let it do that alone", async (op) => {
    await put("app", { key: { ...RSA, kty: "RSA", key_ops: [op] } });
    const found = await outcomes();
    expect(found[op.toLowerCase()]).not.toBe("KeyOperationForbidden");
    expect(Object.values(found).filter((code) => code !== "KeyOperationForbidden")).toHaveLength(1);
  });

  it("key_ops that are for others allow nothing here", async () => {
    await put("app", { key: { ...RSA, kty: "RSA", key_ops: ["import", "export"] } });
    expect(new Set(Object.values(await outcomes()))).toEqual(new Set(["KeyOperationForbidden"]));
  });

  it("an HSM key gives no secret by any operation but release", async () => {
    const secret = new Uint8Array(32).fill(5);
    await put("app", importBody());
    const k = b64(secret);
    for (const answer of [
      await call(world, "GET", `${VAULT}/keys/app?${V}`),
      await call(world, "PATCH", `${VAULT}/keys/app?${V}`, {}),
      await call(world, "POST", `${VAULT}/keys/app/rotate?${V}`),
      await call(world, "POST", `${VAULT}/keys/app/backup?${V}`),
      await call(world, "DELETE", `${VAULT}/keys/app?${V}`),
      await call(world, "GET", `${VAULT}/deletedkeys/app?${V}`),
    ]) {
      expect(answer.status).toBe(200);
      const text = JSON.stringify(answer.body);
      expect(text).not.toContain(k);
      const { value = "" } = answer.body as { value?: string };
      expect(Buffer.from(value, "base64url").includes(Buffer.from(secret))).toBe(false);
    }
  });

  it("a key that was wrapped for an HSM is not imported", async () => {
    for (const member of ["key_hsm", "t"]) {
      const { status, body } = await put("app", { key: { kty: "RSA-HSM", [member]: "AAAA" } });
      expect([status, body.error?.code]).toEqual([501, "NotImplemented"]);
      expect(body.error?.message).toMatch(/key_hsm/);
    }
  });

  it("what the store cannot open is nobody's fault but ours, and no oracle", async () => {
    await put("app", oct(32));
    const broken = await openWorld({
      store: new Proxy(world.store, {
        get: (target, name) => {
          if (name === "openKey") return () => Promise.reject(new Error("sealed with another key"));
          const member: unknown = Reflect.get(target, name);
          return typeof member === "function" ? member.bind(target) : member;
        },
      }),
    });
    const answer = await call(broken, "POST", `${VAULT}/keys/app/encrypt?${V}`, { alg: "A256GCM", value: "AAAA" });
    expect([answer.status, JSON.stringify(answer.body).includes("another key")]).toEqual([500, false]);
    expect((await auditOf(world, { operation: "keys/encrypt" }))[0]).toMatchObject({ failed: "service", reason: "sealed with another key" });
    await broken.store.close();
  });

  it("secrets that were opened are overwritten, also when the work fails", async () => {
    await put("app", oct(32));
    const opened: Uint8Array[] = [];
    const watching = await openWorld({
      store: new Proxy(world.store, {
        get: (target, name) => {
          const member: unknown = Reflect.get(target, name);
          if (name === "openKey")
            return async (key: Parameters<World["store"]["openKey"]>[0]) => {
              const secret = await target.openKey(key);
              expect(secret.some((byte) => byte !== 0)).toBe(true);
              opened.push(secret);
              return secret;
            };
          return typeof member === "function" ? member.bind(target) : member;
        },
      }),
    });
    for (const body of [
      { alg: "A256GCM", value: "AAAA" },
      { alg: "A128GCM", value: "AAAA" },
    ])
      await call(watching, "POST", `${VAULT}/keys/app/encrypt?${V}`, body);
    await call(watching, "POST", `${VAULT}/keys/app/rotate?${V}`);
    expect(opened.map((secret) => secret.every((byte) => byte === 0))).toEqual([true, true, true]);
    await watching.store.close();
  });
});

describe("random bytes", () => {
  const rng = (body: unknown): Promise<Answer> => call(world, "POST", `${HSM}/rng?${V}`, body);

  it("come from a managed HSM, 1 to 128", async () => {
    for (const count of [1, 16, 128]) expect(bytes(((await rng({ count })).body as Json)["value"])).toHaveLength(count);
    expect(((await rng({ count: 32 })).body as Json)["value"]).not.toBe(((await rng({ count: 32 })).body as Json)["value"]);
    for (const count of [0, 129, -1, 1.5, "8", null, undefined, [8], 1e300]) expect([count, (await rng({ count })).status]).toEqual([count, 400]);
  });

  it("do not come from a vault", async () => {
    expect((await call(world, "POST", `${VAULT}/rng?${V}`, { count: 8 })).body.error?.code).toBe("NotFound");
  });
});
