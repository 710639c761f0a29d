import { generateKeyPairSync, randomBytes } from "node:crypto";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeUtf8, isSealpodError, jsonLogger, toBase64, toBase64url, toHex, type JsonObject } from "@sealpod/core";
import type { CertificateCache } from "./arguments.ts";
import type { HttpRequest, HttpResponse } from "./http-client.ts";
import { azureBackend } from "./key-release.ts";
import { keyProviderMethods } from "./key-provider.ts";
import { encodeField } from "./grpc/wire.ts";
import { wrapKey } from "./key-packet.ts";
import { requestGate } from "./request-gate.ts";
import { generateWrappingKey } from "./wrapping-key.ts";
import { call, json, MAA, VAULT, World } from "./testdata/world.ts";

/** Marked: each can be found wherever it leaks, whole or in part. */
const mark = (name: string): string => `${name}-${randomBytes(12).toString("hex")}`;
const ACCESS = mark("access");
const CALLERS = mark("callers");
const ASSERTION = `${mark("assertion")}.${mark("claims")}.${mark("signature")}`;
const TOKEN = `${mark("attested")}.${mark("claims")}.${mark("signature")}`;
const KEY = randomBytes(32);
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const PKCS8 = new Uint8Array(privateKey.export({ format: "der", type: "pkcs8" }));
const JWK = privateKey.export({ format: "jwk" });
const IMAGE_KEY = mark("image");
const KEK = new Uint8Array(randomBytes(32));
const WRAPPING = await generateWrappingKey();
const WRAPPING_JWK = WRAPPING.privateKey.export({ format: "jwk" });

/** All that may never stand in a log or in an error, in the forms in which it could. */
const SECRETS: readonly string[] = [
  ACCESS,
  CALLERS,
  ...ASSERTION.split("."),
  ...TOKEN.split("."),
  toBase64url(KEY),
  toBase64(KEY),
  toHex(KEY),
  JWK.d ?? "d",
  JWK.p ?? "p",
  toBase64(PKCS8).slice(40, 80),
  toBase64url(KEK),
  toBase64(KEK),
  toHex(KEK),
  WRAPPING_JWK.d ?? "d",
  WRAPPING_JWK.q ?? "q",
  IMAGE_KEY,
  toBase64(encodeUtf8(IMAGE_KEY)),
  "PRIVATE KEY",
];

/** What may be in a message although it is long and random: nothing that was looked for here may be among it. */
function leaks(text: string): readonly string[] {
  const plain = text.replaceAll("\\", "");
  return SECRETS.filter((secret) => plain.includes(secret));
}

describe("secrets", () => {
  let made: World;
  let world: World;
  beforeAll(async () => {
    made = await World.make();
  });
  beforeEach(() => {
    world = new World(made.chain, made.root, made.store);
  });

  const THIM: CertificateCache = { kind: "LocalTHIM", endpoint: "169.254.169.254/metadata/THIM/amd/certification" };

  /** Runs a release over HTTP and an unwrapping over gRPC, with a network that answers as told; everything that came out. */
  const everything = async (
    http: (request: HttpRequest, good: () => Promise<HttpResponse>) => Promise<HttpResponse>,
    few = false,
  ): Promise<{ text: string; outcomes: string[] }> => {
    const lines: string[] = [];
    const outcomes: string[] = [];
    const inner = world.ports();
    const ports = {
      ...inner,
      certificateCache: THIM,
      generateKey: async () => Promise.resolve(WRAPPING),
      logger: jsonLogger(inner.clock, (line) => lines.push(line), "debug"),
      readText: async () => Promise.resolve(ASSERTION),
      http: async (request: HttpRequest) => http(request, async () => good(inner.http, request)),
    };
    for (const body of [
      { maa_endpoint: MAA, akv_endpoint: VAULT, kid: "k" },
      { maa_endpoint: MAA, akv_endpoint: VAULT, kid: "k", access_token: CALLERS },
      { maa_endpoint: MAA, akv_endpoint: VAULT, kid: "k", access_token: `${CALLERS} ` },
    ]) {
      const answer = await call(world.skr(ports), "/key/release", body);
      outcomes.push(String(answer.status));
      lines.push(answer.status === 200 ? "released" : JSON.stringify(answer.body));
    }
    const methods = keyProviderMethods({ backends: [azureBackend(ports)], gate: requestGate(ports), readText: ports.readText });
    const method = methods.get("/key_provider.KeyProviderService/UnWrapKey");
    const signal = new AbortController().signal;
    for (const input of few ? [] : [packet(), packet({ wrapped_data: toBase64(new Uint8Array(256)) }), `${packet()}x`]) {
      try {
        const output = await method?.answer(encodeField(1, encodeUtf8(input)), signal);
        outcomes.push(output === undefined ? "none" : "unwrapped");
      } catch (error) {
        outcomes.push(isSealpodError(error) ? error.code : "unknown");
        for (let at: unknown = error; at instanceof Error; at = at.cause) lines.push(`${at.message} ${JSON.stringify(at, Object.getOwnPropertyNames(at))}`);
      }
    }
    return { text: lines.join("\n"), outcomes };
  };
  const good = async (
    http: World["ports"] extends () => { http: infer H } ? H : (request: HttpRequest) => Promise<HttpResponse>,
    request: HttpRequest,
  ): Promise<HttpResponse> => {
    const { host, pathname } = new URL(request.url);
    if (host === MAA) {
      await http(request);
      return json(200, { token: TOKEN });
    }
    if (pathname.endsWith("/token")) return json(200, { access_token: ACCESS, expires_in: 3600 });
    return http(request);
  };

  it("do not leave when all goes well", async () => {
    world.release = { kek: KEK, plaintext: KEY };
    const { text, outcomes } = await everything(async (_request, answer) => answer());
    expect(outcomes.slice(0, 2)).toEqual(["200", "200"]);
    expect(text).toContain("key released");
    expect(leaks(text)).toEqual([]);
    world.release = { kek: KEK, kty: "RSA-HSM", plaintext: PKCS8, publicMembers: { n: JWK.n ?? "", e: JWK.e ?? "" } as JsonObject };
    const rsa = await everything(async (_request, answer) => answer());
    expect(rsa.outcomes).toEqual(["200", "200", "400", "unwrapped", "ERR_SKR_KEY_PACKET", "ERR_SKR_REQUEST"]);
    expect(leaks(rsa.text)).toEqual([]);
  });

  const parrot = (request: HttpRequest): string => `${JSON.stringify(request.headers)} ${request.body ?? ""} ${request.url}`;

  it.each<[string, (request: HttpRequest) => HttpResponse | Error]>([
    [
      "refuse and repeat what they were sent",
      (request) =>
        json(403, {
          error: { code: "Forbidden", message: parrot(request), innererror: { code: request.headers["authorization"]?.slice("Bearer ".length) ?? "None" } },
        }),
    ],
    ["refuse as OAuth does", (request) => json(400, { error: "invalid_client", error_description: parrot(request) })],
    ["refuse without JSON", (request) => ({ status: 400, body: encodeUtf8(parrot(request)) })],
    ["answer without what was asked for", (request) => json(200, { message: parrot(request) })],
    ["answer with broken JSON", (request) => ({ status: 200, body: encodeUtf8(`{"${request.headers["authorization"] ?? request.body ?? ""}`) })],
    ["break the connection with words", (request) => new Error(`invalid header ${parrot(request)}`)],
    ["have trouble", (request) => json(503, { error: { message: parrot(request) } })],
  ])("do not leave when services %s", async (_what, misbehave) => {
    for (const victim of [MAA, "login.test", VAULT]) {
      let asked = 0;
      const { text, outcomes } = await everything(async (request, answer) => {
        if (new URL(request.url).host !== victim) return answer();
        asked++;
        const misbehaved = misbehave(request);
        return misbehaved instanceof Error ? Promise.reject(misbehaved) : Promise.resolve(misbehaved);
      }, victim !== VAULT);
      expect(asked, victim).toBeGreaterThan(0);
      expect(outcomes).toContain("403");
      expect(leaks(text), victim).toEqual([]);
    }
  });

  it.each<[string, World["release"]]>([
    ["wrapped for another", { kek: KEK, plaintext: KEY, wrappedFor: "other" }],
    ["of an unknown wrapping", { kek: KEK, plaintext: KEY, enc: "X" }],
    ["no PKCS #8", { kek: KEK, plaintext: KEY, kty: "RSA-HSM" }],
    ["of another type than told", { kek: KEK, plaintext: PKCS8, kty: "EC-HSM" }],
    ["not the published one", { kek: KEK, plaintext: PKCS8, kty: "RSA-HSM", publicMembers: { n: "AQAB" } }],
    ["for another name", { kek: KEK, plaintext: KEY, kid: `https://${VAULT}/keys/other/1` }],
  ])("do not leave when the released key is %s", async (_what, release) => {
    world.release = release;
    const { text, outcomes } = await everything(async (_request, answer) => answer());
    expect(outcomes.slice(0, 2)).toEqual(["403", "403"]);
    expect(leaks(text)).toEqual([]);
  });

  it("would be found", () => {
    expect(leaks(`x ${TOKEN} y`)).toHaveLength(3);
    expect(leaks(JSON.stringify({ a: toBase64(KEY) }))).toContain(toBase64(KEY));
  });

  function packet(changes: JsonObject = {}): string {
    const publicKey = generatePublic();
    const info = { publicKeyPath: "/k.pem", kmsEndpoint: VAULT, attesterEndpoint: MAA };
    const annotation = JSON.parse(Buffer.from(wrapKey(encodeUtf8(IMAGE_KEY), "k", info, publicKey), "base64").toString()) as JsonObject;
    return JSON.stringify({ op: "keyunwrap", keyunwrapparams: { annotation: toBase64(encodeUtf8(JSON.stringify({ ...annotation, ...changes }))) } });
  }
});

function generatePublic(): string {
  return privateKey.export({ format: "pem", type: "pkcs8" }).toString();
}
