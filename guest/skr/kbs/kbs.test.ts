import { createCipheriv, createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomBytes, type KeyObject } from "node:crypto";
import { CompactSign, decodeJwt, FlattenedEncrypt } from "jose";
import { beforeAll, beforeEach, afterEach, describe, expect, it } from "vitest";
import { canonicalJson, encodeUtf8, toBase64url, type JsonObject, type JsonValue } from "@sealpod/core";
import { parseReport } from "@sealpod/snp";
import { releaseBy, type ReleaseRequest } from "../backend.ts";
import type { RequestGate } from "../request-gate.ts";
import {
  attestToKbs,
  encodeSnpEvidence,
  formatResource,
  guestApi,
  kbsBackend,
  openResource,
  parseKbsSettings,
  parseResource,
  resourceToJwk,
  secretUnsealer,
  unsealSecret,
  type GuestApi,
} from "./index.ts";
import { KBS, makeProcessor, World, type Processor } from "./testdata/world.ts";

let milan: Processor;
let world: World;

beforeAll(() => {
  milan = makeProcessor("Milan", 3);
});

beforeEach(async () => {
  world = await World.make(milan);
});

afterEach(async () => {
  await world[Symbol.asyncDispose]();
});

const BASE = `https://${KBS}`;

function request(kid: string, storeEndpoint = `kbs+https://${KBS}`): ReleaseRequest {
  return { attestationEndpoint: undefined, storeEndpoint, kid, accessToken: undefined };
}

const release = async (kid: string, storeEndpoint?: string): Promise<JsonObject> => releaseBy([kbsBackend()], world.ports, request(kid, storeEndpoint));

describe("full circle: sidecar, emulated processor, key broker", () => {
  it.each([
    ["Milan", 2],
    ["Milan", 3],
    ["Genoa", 4],
    ["Turin", 5],
  ] as const)("a guest on %s with reports of version %i gets a key", async (product, version) => {
    await using other = await World.make(makeProcessor(product, version));
    await other.put("default/key/disk", Uint8Array.of(1, 2, 250));
    expect(await releaseBy([kbsBackend()], other.ports, request("disk"))).toEqual({ kty: "oct", k: "AQL6" });
  });

  it.each(["disk", "default/key/disk", "kbs:///default/key/disk", "kbs://other.host:8080/default/key/disk"])("%s names it", async (kid) => {
    await world.put("default/key/disk", "0123456789abcdef0123456789abcdef");
    expect(await release(kid)).toEqual({ kty: "oct", k: toBase64url(encodeUtf8("0123456789abcdef0123456789abcdef")) });
  });

  it("gives a JWK as it was put there", async () => {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const jwk = privateKey.export({ format: "jwk" }) as JsonObject;
    await world.put("default/key/sign", JSON.stringify(jwk));
    expect({ ...(await release("sign")) }).toEqual({ ...jwk });
  });

  it("asks in the words of CoCo's clients: auth, attest, resource, with the session's cookie", async () => {
    await world.put("a/b/c", "x");
    await release("a/b/c");
    expect(world.requests.map(({ method, url }) => `${method} ${url}`)).toEqual([
      `POST ${BASE}/kbs/v0/auth`,
      `POST ${BASE}/kbs/v0/attest`,
      `GET ${BASE}/kbs/v0/resource/a/b/c`,
    ]);
    const [auth, attest, resource] = world.requests;
    expect(auth?.body).toBe('{"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512"]}}');
    const body = JSON.parse(attest?.body ?? "") as Record<string, Record<string, Record<string, unknown>>>;
    expect(Object.keys(body)).toEqual(["init-data", "runtime-data", "tee-evidence"]);
    expect(Object.keys(body["runtime-data"] ?? {})).toEqual(["nonce", "tee-pubkey"]);
    expect(Object.keys(body["runtime-data"]?.["tee-pubkey"] ?? {})).toEqual(["kty", "crv", "alg", "x", "y"]);
    expect(attest?.headers["cookie"]).toMatch(/^kbs-session-id=[\w.-]+$/);
    expect(resource?.headers["cookie"]).not.toBe(attest?.headers["cookie"]);
    expect(resource?.headers["authorization"]).toMatch(/^Bearer ey/);
    expect(resource?.secrets).toContain(resource?.headers["authorization"]);
  });

  it("sends its init data where it has them, and policies can look into them", async () => {
    const initData = 'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"note" = "from the owner"\n';
    const hostData = new Uint8Array(createHash("sha256").update(initData).digest());
    await using other = await World.make(makeProcessor("Milan", 3, hostData), {
      defaults: {
        resourcePolicy: `package policy
import rego.v1
allow if input.submods.cpu0["ear.veraison.annotated-evidence"].init_data_claims.note == "from the owner"`,
      },
    });
    await other.put("default/key/disk", "x");
    expect(await releaseBy([kbsBackend({ initData })], other.ports, request("disk"))).toEqual({ kty: "oct", k: "eA" });
    await expect(releaseBy([kbsBackend()], other.ports, request("disk"))).rejects.toThrow(/PolicyDeny/);
    await expect(releaseBy([kbsBackend({ initData: `${initData}\n` })], other.ports, request("disk"))).rejects.toThrow(/HOST_DATA/);
  });

  it("makes a key of its own for each session", async () => {
    const keyOf = (token: string): unknown =>
      (decodeJwt(token) as unknown as { submods: { cpu0: Record<string, { runtime_data_claims: { "tee-pubkey": unknown } }> } }).submods.cpu0[
        "ear.veraison.annotated-evidence"
      ]?.runtime_data_claims["tee-pubkey"];
    const [a, b] = [await attestToKbs(world.ports, BASE), await attestToKbs(world.ports, BASE)];
    const { x, y } = createPublicKey(a.privateKey).export({ format: "jwk" });
    expect(keyOf(a.token)).toEqual({ kty: "EC", crv: "P-256", alg: "ECDH-ES+A256KW", x, y });
    expect(keyOf(a.token)).not.toEqual(keyOf(b.token));
  });

  it("tells why the broker refused, and what to look at", async () => {
    await expect(release("nothing")).rejects.toMatchObject({
      code: "ERR_SKR_RELEASE",
      message: expect.stringContaining("PluginInternalError: there is no resource default/key/nothing") as string,
      hint: expect.stringContaining("resource policy") as string,
    });
    await using strict = await World.make(milan, { defaults: {} });
    await strict.put("default/key/disk", "x");
    await expect(releaseBy([kbsBackend()], strict.ports, request("disk"))).rejects.toMatchObject({
      code: "ERR_SKR_RELEASE",
      message: expect.stringContaining("PolicyDeny") as string,
    });
    await using distrustful = await World.make(milan, { roots: [makeProcessor("Milan", 3).root] });
    await expect(releaseBy([kbsBackend()], distrustful.ports, request("disk"))).rejects.toMatchObject({
      code: "ERR_SKR_ATTESTATION",
      message: expect.stringContaining("is no trusted root") as string,
    });
  });

  it("goes without certificates where there are none, and the broker says so if it has none either", async () => {
    world.auxblob = new Uint8Array();
    await expect(release("disk")).rejects.toMatchObject({
      code: "ERR_SKR_ATTESTATION",
      message: expect.stringContaining("no certificate service is configured") as string,
    });
    expect(world.requests[1]?.body).toContain('"cert_chain":null');
  });

  it("tries again when the broker is busy, with the same session", async () => {
    await world.put("default/key/disk", "x");
    const busy = { status: 503, body: encodeUtf8("{}") };
    world.scripted.push(busy, undefined, new Error("ECONNRESET"), undefined, busy);
    expect(await release("disk")).toEqual({ kty: "oct", k: "eA" });
    expect(world.requests.map(({ url }) => url.split("/").at(5))).toEqual(["auth", "auth", "attest", "attest", "resource", "resource"]);
    expect(world.waits).toHaveLength(3);
  });

  it.each<readonly [string, JsonValue, readonly string[] | undefined, RegExp]>([
    ["no nonce", {}, ["kbs-session-id=a"], /gave no nonce/],
    ["a nonce that is no text", { nonce: 1 }, ["kbs-session-id=a"], /gave no nonce/],
    ["a nonce without end", { nonce: "A".repeat(2000) }, ["kbs-session-id=a"], /gave no nonce/],
    ["no cookie", { nonce: "AAAA" }, undefined, /no cookie/],
    ["another cookie", { nonce: "AAAA" }, ["session=a"], /no cookie/],
    ["a cookie that would break the header", { nonce: "AAAA" }, ["kbs-session-id=a\r\nx: y"], /no cookie/],
  ])("a broker that gives %s is not attested to", async (_name, body, cookies, problem) => {
    world.scripted.push({ status: 200, body: encodeUtf8(JSON.stringify(body)), ...(cookies === undefined ? {} : { cookies }) });
    await expect(release("disk")).rejects.toThrow(problem);
    expect(world.requests).toHaveLength(1);
  });

  it("writes neither key nor token into the log or an error", async () => {
    await world.put("default/key/disk", "the-secret-key");
    const session = await attestToKbs(world.ports, BASE);
    world.scripted.push({ status: 401, body: encodeUtf8(JSON.stringify({ type: "x/Y", detail: `refused ${session.token}` })) });
    const refused = await session.fetchResource(parseResource("disk")).catch((error: unknown) => String(error));
    expect(String(refused)).not.toContain(session.token);
    await release("disk");
    expect(world.log.join("\n")).not.toMatch(/the-secret-key|eyJ|kbs-session-id=/);
  });
});

describe("the backend", () => {
  it("serves endpoints with its scheme alone", () => {
    const serves = (endpoint: string): boolean => kbsBackend().serves(endpoint);
    expect(["kbs+https://h", "KBS+HTTPS://h"].map(serves)).toEqual([true, true]);
    expect(["h", "https://h", "kbs+http://h", "demo.vault.azure.net"].map(serves)).toEqual([false, false, false, false]);
  });

  it.each([
    ["kbs+https://h/path", "disk"],
    ["kbs+https://user@h", "disk"],
    ["kbs+https://h?x", "disk"],
    ["kbs+https://h:123456", "disk"],
    ["kbs+https://", "disk"],
    ["kbs+https://h", ""],
    ["kbs+https://h", "a/b"],
    ["kbs+https://h", "a/b/c/d"],
    ["kbs+https://h", "../../x"],
    ["kbs+https://h", "kbs+pkcs11:///a/b/c"],
    ["kbs+https://h", "kbs:///"],
    ["kbs+https://h", "a b"],
  ])("refuses %s with key %s before anything is sent", (endpoint, kid) => {
    expect(() => kbsBackend().check(request(kid, endpoint))).toThrow(expect.objectContaining({ code: "ERR_SKR_REQUEST" }) as Error);
  });

  it("names resources as CoCo does", () => {
    expect(formatResource(parseResource("kbs:///my-repo/t_1/v1.0"))).toBe("my-repo/t_1/v1.0");
    expect(formatResource(parseResource("disk"))).toBe("default/key/disk");
  });
});

describe("a resource", () => {
  const encrypt = async (key: KeyObject, header: Record<string, string>): Promise<JsonObject> =>
    ({ ...(await new FlattenedEncrypt(encodeUtf8("x")).setProtectedHeader(header as never).encrypt(createPublicKey(key))) }) as unknown as JsonObject;

  it("is opened with the algorithms of the protocol alone", async () => {
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const right = await encrypt(privateKey, { alg: "ECDH-ES+A256KW", enc: "A256GCM" });
    expect([...(await openResource(right, privateKey))]).toEqual([0x78]);
    for (const header of [
      { alg: "ECDH-ES+A128KW", enc: "A256GCM" },
      { alg: "ECDH-ES+A256KW", enc: "A128CBC-HS256" },
      { alg: "ECDH-ES+A256KW", enc: "A128GCM" },
    ]) {
      await expect(openResource(await encrypt(privateKey, header), privateKey)).rejects.toMatchObject({ code: "ERR_SKR_RELEASED_KEY" });
    }
    for (const name of ["protected", "encrypted_key", "iv", "ciphertext", "tag"]) {
      const text = right[name] as string;
      for (const value of [undefined, 1, "", (text.startsWith("A") ? "B" : "A") + text.slice(1)]) {
        await expect(openResource({ ...right, [name]: value as JsonValue }, privateKey)).rejects.toMatchObject({ code: "ERR_SKR_RELEASED_KEY" });
      }
    }
    await expect(openResource(right, generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey)).rejects.toMatchObject({ code: "ERR_SKR_RELEASED_KEY" });
  });

  it("is a JWK if it is one, and bytes otherwise", () => {
    expect({ ...resourceToJwk(encodeUtf8('{"kty":"oct","k":"AA"}')) }).toEqual({ kty: "oct", k: "AA" });
    expect(resourceToJwk(encodeUtf8('{"a":1}'))).toEqual({ kty: "oct", k: toBase64url(encodeUtf8('{"a":1}')) });
    expect(resourceToJwk(Uint8Array.of(0x7b, 0xff))).toEqual({ kty: "oct", k: "e_8" });
    expect(() => resourceToJwk(new Uint8Array())).toThrow(/empty/);
  });
});

describe("sealed secrets", () => {
  const signer = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const KID = "kbs:///default/signing/public";
  const resources = new Map<string, Uint8Array>();
  const fetchResource = async (resource: ReturnType<typeof parseResource>): Promise<Uint8Array> => {
    const bytes = resources.get(formatResource(resource));
    return bytes === undefined ? Promise.reject(new Error(`no ${formatResource(resource)}`)) : Promise.resolve(Uint8Array.from(bytes));
  };
  const seal = async (payload: unknown, header: Record<string, string> = { alg: "ES256", kid: KID }, key = signer.privateKey): Promise<string> =>
    `sealed.${await new CompactSign(encodeUtf8(JSON.stringify(payload))).setProtectedHeader(header as never).sign(key)}`;
  const vault = { version: "0.1.0", type: "vault", provider: "kbs", name: "kbs:///default/secret/db", provider_settings: {}, annotations: {} };
  const gcm = (key: Uint8Array, iv: Uint8Array, data: Uint8Array): string => {
    const cipher = createCipheriv("aes-256-gcm", key, iv);
    return Buffer.concat([cipher.update(data), cipher.final(), cipher.getAuthTag()]).toString("base64");
  };
  const [kek, dek, iv] = [randomBytes(32), randomBytes(32), randomBytes(12)];
  const envelope = {
    version: "0.1.0",
    type: "envelope",
    provider: "kbs",
    key_id: "kbs:///default/key/kek",
    encrypted_key: gcm(kek, iv, dek),
    encrypted_data: gcm(dek, iv, encodeUtf8("in the envelope")),
    wrap_type: "A256GCM",
    iv: iv.toString("base64"),
    provider_settings: {},
    annotations: {},
  };

  beforeAll(() => {
    resources.set("default/signing/public", encodeUtf8(JSON.stringify(signer.publicKey.export({ format: "jwk" }))));
    resources.set("default/secret/db", encodeUtf8("password"));
    resources.set("default/key/kek", kek);
  });

  it("of both kinds are unsealed", async () => {
    expect(Buffer.from(await unsealSecret(await seal(vault), fetchResource)).toString()).toBe("password");
    expect(Buffer.from(await unsealSecret(await seal(envelope), fetchResource)).toString()).toBe("in the envelope");
  });

  it("are unsealed by resources of a key broker, in one session", async () => {
    for (const [path, bytes] of resources) await world.put(path, bytes);
    const gate: RequestGate = async (_caller, work) => work(world.ports);
    const unseal = secretUnsealer(gate, BASE);
    expect(Buffer.from(await unseal(await seal(envelope))).toString()).toBe("in the envelope");
    expect(world.requests.map(({ url }) => url.slice(`${BASE}/kbs/v0/`.length))).toEqual([
      "auth",
      "attest",
      "resource/default/signing/public",
      "resource/default/key/kek",
    ]);
    await expect(unseal("hunter2")).rejects.toMatchObject({ code: "ERR_SKR_REQUEST" });
    expect(world.requests).toHaveLength(4);
  });

  it.each<readonly [string, () => Promise<string>, RegExp]>([
    ["no prefix", async () => (await seal(vault)).slice("sealed.".length), /begin with/],
    ["no JWS", async () => Promise.resolve("sealed.a.b"), /2 parts/],
    ["another signer", async () => seal(vault, undefined, generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey), /not signed by/],
    [
      "another payload under the signature",
      async () =>
        (await seal(vault)).replace(
          /\.([^.]+)\.([^.]+)$/,
          (_all, payload: string, signature: string) =>
            `.${Buffer.from(Buffer.from(payload, "base64url").toString().replace("/db", "/xx")).toString("base64url")}.${signature}`,
        ),
      /not signed by/,
    ],
    ["no kid", async () => seal(vault, { alg: "ES256" }), /kid/],
    ["a signer that is no resource", async () => seal(vault, { alg: "ES256", kid: "https://x" }), /kbs:\/\/\/ URI/],
    ["a signer that is no key", async () => seal(vault, { alg: "ES256", kid: "kbs:///default/secret/db" }), /not signed by/],
    ["another version", async () => seal({ ...vault, version: "0.2.0" }), /version/],
    ["another provider", async () => seal({ ...vault, provider: "aliyun" }), /provider/],
    ["another type", async () => seal({ ...vault, type: "box" }), /type/],
    ["another plugin", async () => seal({ ...vault, name: "kbs+pkcs11:///a/b/c" }), /plugin/],
    ["no name", async () => seal({ ...vault, name: 1 }), /no name/],
    ["another wrapping", async () => seal({ ...envelope, wrap_type: "A256KW" }), /wrap_type/],
    ["another key", async () => seal({ ...envelope, key_id: vault.name }), /expected a key of 32/],
    ["another iv", async () => seal({ ...envelope, iv: Buffer.alloc(12).toString("base64") }), /does not open/],
    ["a short iv", async () => seal({ ...envelope, iv: "AAAA" }), /expected 12/],
    ["data without a tag", async () => seal({ ...envelope, encrypted_data: "AAAA" }), /shorter than its tag/],
    [
      "data that were changed",
      async () => seal({ ...envelope, encrypted_data: gcm(dek, iv, encodeUtf8("x")).replace(/^./, (digit) => (digit === "A" ? "B" : "A")) }),
      /does not open/,
    ],
    ["a data key of another length", async () => seal({ ...envelope, encrypted_key: gcm(kek, iv, dek.subarray(1)) }), /data key has 31/],
  ])("with %s are refused", async (_name, make, problem) => {
    const error: unknown = await unsealSecret(await make(), fetchResource).catch((caught: unknown) => caught);
    expect(String(error)).toMatch(problem);
    expect((error as { code: string }).code).toMatch(/^ERR_SKR_(REQUEST|RELEASED_KEY)$/);
  });
});

describe("the environment", () => {
  it("names a key broker as CoCo's agent is told it", () => {
    expect(parseKbsSettings({})).toEqual({ api: undefined, initDataFile: undefined });
    expect(parseKbsSettings({ AA_KBC_PARAMS: "", API_SERVER_REST_PORT: "", AA_INITDATA_TOML: "" })).toEqual({ api: undefined, initDataFile: undefined });
    expect(parseKbsSettings({ AA_KBC_PARAMS: "cc_kbc::https://kbs.test:8080/" }).api).toEqual({ base: "https://kbs.test:8080", port: 8006 });
    expect(parseKbsSettings({ AA_KBC_PARAMS: "cc_kbc::https://kbs.test", API_SERVER_REST_PORT: "9", AA_INITDATA_TOML: "/i" })).toEqual({
      api: { base: "https://kbs.test", port: 9 },
      initDataFile: "/i",
    });
  });

  it.each([
    ["AA_KBC_PARAMS", "cc_kbc::http://kbs.test:8080"],
    ["AA_KBC_PARAMS", "https://kbs.test"],
    ["AA_KBC_PARAMS", "offline_fs_kbc::null"],
    ["AA_KBC_PARAMS", "cc_kbc::https://kbs.test/path"],
    ["AA_KBC_PARAMS", "cc_kbc::https://a@kbs.test"],
    ["AA_KBC_PARAMS", "cc_kbc::https://kbs.test:99999"],
    ["API_SERVER_REST_PORT", "0"],
    ["API_SERVER_REST_PORT", "65536"],
    ["API_SERVER_REST_PORT", "8006x"],
  ])("with %s=%s is refused", (name, value) => {
    expect(() => parseKbsSettings({ [name]: value })).toThrow(
      expect.objectContaining({ code: "ERR_SKR_CONFIGURATION", message: expect.stringContaining(name) as string }) as Error,
    );
  });
});

describe("the guest's API", () => {
  const get = async (api: GuestApi, target: string): Promise<{ readonly status: number; readonly text: string; readonly json: Record<string, unknown> }> => {
    const [path = "", query = ""] = target.split("?");
    const { status, body, contentType } = await api({ method: "GET", path, query });
    const text = Buffer.from(body).toString();
    return { status, text, json: contentType === "application/json" ? (JSON.parse(text) as Record<string, unknown>) : {} };
  };
  const open: RequestGate = async (_caller, work) => work(world.ports);

  it("gives resources, tokens and evidence as CoCo's does", async () => {
    await world.put("default/key/disk", "from the broker");
    const api = guestApi(open, BASE, { logger: world.ports.logger });
    expect(await get(api, "/cdh/resource/default/key/disk")).toMatchObject({ status: 200, text: "from the broker" });
    const { json: token } = await get(api, "/aa/token?token_type=kbs");
    expect(Object.keys(token)).toEqual(["token", "tee_keypair"]);
    expect(createPrivateKey(String(token["tee_keypair"])).asymmetricKeyType).toBe("ec");
    const data = (json: Record<string, unknown>): number[] => (json["attestation_report"] as { report_data: number[] }).report_data;
    expect(data((await get(api, "/aa/evidence?runtime_data=abc")).json).slice(0, 5)).toEqual([0x61, 0x62, 0x63, 0, 0]);
    expect(data((await get(api, "/aa/evidence?runtime_data=+/8=&encoding=base64")).json).slice(0, 3)).toEqual([0xfb, 0xff, 0]);
  });

  it.each([
    ["/aa/token", 400],
    ["/aa/token?token_type=maa", 400],
    ["/aa/evidence", 400],
    [`/aa/evidence?runtime_data=${"a".repeat(65)}`, 400],
    ["/aa/evidence?runtime_data=a&encoding=hex", 400],
    ["/aa/evidence?runtime_data=a&encoding=base64", 400],
    ["/cdh/resource/default/key/a%2Fb", 400],
    ["/cdh/resource/default/key/absent", 500],
    ["/aa/aael", 404],
    ["/info", 404],
  ])("%s is %i", async (target, status) => {
    expect((await get(guestApi(open, BASE, { logger: world.ports.logger }), target)).status).toBe(status);
  });

  it("gives a sealed secret as it is kept, and says what the broker said", async () => {
    await world.put("default/secret/s", "sealed.a.b.c");
    const api = guestApi(open, BASE, { logger: world.ports.logger });
    expect(await get(api, "/cdh/resource/default/secret/s")).toMatchObject({ status: 200, text: "sealed.a.b.c" });
    const refused = await get(api, "/cdh/resource/default/key/absent");
    expect(refused.json["error"]).toMatch(/PluginInternalError: there is no resource default\/key\/absent\. The broker answers 401 to all refusals/);
    expect(world.log.at(-1)).toContain('"code":"ERR_SKR_RELEASE"');
  });

  it("takes GET alone, and never rejects", async () => {
    const api = guestApi(async () => Promise.reject(new Error("secret problem")), BASE, { logger: world.ports.logger });
    expect((await api({ method: "POST", path: "/aa/token", query: "" })).status).toBe(405);
    expect(await get(api, "/aa/token?token_type=kbs")).toMatchObject({ status: 500, text: '{"error":"the request failed"}' });
    expect(world.log.at(-1)).toContain('"problem":"secret problem"');
  });
});

it("evidence keeps what JSON numbers would lose", () => {
  const turin = makeProcessor("Turin", 5);
  const evidence = encodeSnpEvidence(turin.report(new Uint8Array(64)), undefined)["attestation_report"] as JsonObject;
  expect(evidence["launch_mit_vector"]).toBe(0x8000_0000_0000_0001n);
  expect(parseReport(turin.report(new Uint8Array(64))).processor?.family).toBe(0x1a);
});

it("canonical JSON gives the known digest (specs/attestation.md 9.1.3)", () => {
  const text = canonicalJson({ b: 1, a: "test", c: { d: "e" } });
  expect(createHash("sha384").update(text).digest("hex")).toBe(
    "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3",
  );
  expect(() => canonicalJson(1n)).toThrow(RangeError);
  expect(() => canonicalJson(["\udc00"])).toThrow(RangeError);
});
