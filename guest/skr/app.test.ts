import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { fromHex, sha256, toBase64, toHex, encodeUtf8, decodeUtf8, concatBytes, asObject, fromAnyBase64, parseJson } from "@sealpod/core";
import { ACCESS_TOKEN, ASSERTION, attestation, ATTESTATION_TOKEN, call, json, MAA, pem, report, SECRET, VAULT, World } from "./testdata/world.ts";

const RELEASE = { maa_endpoint: MAA, akv_endpoint: VAULT, kid: "doc-sample-key-release" };
const DATA = encodeUtf8('{"keys":[]}');

describe("the sidecar's API", () => {
  let made: World;
  let world: World;
  beforeAll(async () => {
    made = await World.make();
  });
  beforeEach(() => {
    world = new World(made.chain, made.root, made.store);
  });

  it("GET /status", async () => {
    expect(await world.skr()({ method: "GET", path: "/status", body: new Uint8Array() })).toEqual({ status: 200, body: { message: "Status OK" } });
  });

  it("POST /attest/raw: the report in hex, over SHA-256 of the data and 32 zero bytes", async () => {
    const answer = await call(world.skr(), "/attest/raw", { runtime_data: toBase64(DATA) });
    expect(answer.status).toBe(200);
    expect(Object.keys(answer.body)).toEqual(["report"]);
    const bytes = fromHex(answer.body["report"] as string);
    expect(bytes.subarray(0x50, 0x90)).toEqual(concatBytes(sha256(DATA), new Uint8Array(32)));
    expect(world.requests).toEqual([]);
  });

  it("POST /attest/combined: all evidence", async () => {
    const uvmEndorsement = Uint8Array.of(0xd2, 0x84);
    const answer = await call(world.skr({ securityContext: { uvmEndorsement, hostCertificates: undefined } }), "/attest/combined", {
      runtime_data: toBase64(DATA),
    });
    expect(answer).toEqual({
      status: 200,
      body: {
        evidence: toBase64(report(concatBytes(sha256(DATA), new Uint8Array(32)))),
        endorsements: toBase64(encodeUtf8(pem(world.chain))),
        uvm_endorsements: "0oQ=",
        endorsed_tcb: "db18000000000004",
      },
    });
  });

  it("POST /attest/maa: a token", async () => {
    const answer = await call(world.skr(), "/attest/maa", { maa_endpoint: MAA, runtime_data: toBase64(DATA) });
    expect(answer).toEqual({ status: 200, body: { token: ATTESTATION_TOKEN } });
    expect(world.requests.map((request) => request.url)).toEqual([`https://${MAA}/attest/SevSnpVM?api-version=2020-10-01`]);
  });

  it("sends attestation requests byte by byte as the genuine sidecar shapes them", async () => {
    const uvmEndorsement = Uint8Array.of(0xd2, 0x84, 1, 2);
    await call(world.skr({ securityContext: { uvmEndorsement, hostCertificates: undefined }, userAgent: "test/1" }), "/attest/maa", {
      maa_endpoint: MAA,
      runtime_data: toBase64(DATA),
    });
    const [request] = world.requests;
    expect(request?.headers).toEqual({ "content-type": "application/json", "user-agent": "ConfidentialSkrContainer test/1" });
    const { outer, inner, runtimeData } = attestation(request);
    expect(Object.keys(outer)).toEqual(["report", "runtimeData", "initTimeData", "nonce"]);
    expect(runtimeData).toBe(decodeUtf8(DATA));
    expect(asObject(outer["runtimeData"])).toEqual({ data: Buffer.from(DATA).toString("base64url").padEnd(16, "="), dataType: "JSON" });
    expect(asObject(outer["initTimeData"])).toEqual({ data: "", dataType: "" });
    // A JSON number beyond 2^53, as the genuine sidecar sends it.
    expect(request?.body).toMatch(/"nonce":18446744073709551615\}$/);
    for (const member of ["SnpReport", "VcekCertChain", "Endorsements"]) expect((inner[member] as string).length % 4).toBe(0);
    expect(decodeUtf8(fromAnyBase64(inner["VcekCertChain"] as string))).toBe(pem(world.chain));
    expect(parseJson(decodeUtf8(fromAnyBase64(inner["Endorsements"] as string)))).toEqual({ Uvm: ["0oQBAg=="] });
  });

  it("leaves endorsements out when there are none", async () => {
    await call(world.skr(), "/attest/maa", { maa_endpoint: MAA, runtime_data: toBase64(DATA) });
    expect(Object.keys(attestation(world.requests[0]).inner)).toEqual(["SnpReport", "VcekCertChain"]);
  });

  it("POST /key/release: the JWK as a JSON string", async () => {
    const answer = await call(world.skr(), "/key/release", RELEASE);
    expect(answer.status).toBe(200);
    expect(Object.keys(answer.body)).toEqual(["key"]);
    expect(JSON.parse(answer.body["key"] as string)).toEqual({ kty: "oct", k: Buffer.from(SECRET).toString("base64url"), key_ops: ["encrypt", "decrypt"] });
    expect(world.requests.map((request) => `${request.method} ${request.url}`)).toEqual([
      `POST https://${MAA}/attest/SevSnpVM?api-version=2020-10-01`,
      "POST https://login.test/tenant/oauth2/v2.0/token",
      `POST https://${VAULT}/keys/doc-sample-key-release/release?api-version=7.4`,
    ]);
    const [attested, , released] = world.requests;
    expect(released?.headers["authorization"]).toBe(`Bearer ${ACCESS_TOKEN}`);
    expect(JSON.parse(released?.body ?? "")).toEqual({ target: ATTESTATION_TOKEN });
    const { inner, runtimeData } = attestation(attested);
    expect(runtimeData).toMatch(/^\{"keys":\[\{"e":"AQAB","key_ops":\["encrypt"\],"kid":"[\w-]{43}","kty":"RSA","n":"[\w-]{342}"\}\]\}$/);
    expect(toHex(fromAnyBase64(inner["SnpReport"] as string).subarray(0x50, 0x70))).toBe(toHex(sha256(encodeUtf8(runtimeData))));
  });

  it("makes a new wrapping key for each release", async () => {
    const skr = world.skr();
    await call(skr, "/key/release", RELEASE);
    await call(skr, "/key/release", RELEASE);
    const [first, second] = world.sent(`https://${MAA}/`).map((request) => attestation(request).runtimeData);
    expect(first).not.toBe(second);
  });

  it("takes the caller's own access token", async () => {
    const answer = await call(world.skr(), "/key/release", { ...RELEASE, access_token: "mine" });
    expect(answer.status).toBe(200);
    expect(world.sent("https://login.test/")).toEqual([]);
    expect(world.sent(`https://${VAULT}/`)[0]?.headers["authorization"]).toBe("Bearer mine");
  });

  it("keeps key version and port", async () => {
    const kid = "k/0123456789abcdef0123456789abcdef";
    expect((await call(world.skr(), "/key/release", { ...RELEASE, akv_endpoint: `${VAULT}:8443`, kid })).status).toBe(200);
    expect(world.requests.at(-1)?.url).toBe(`https://${VAULT}:8443/keys/${kid}/release?api-version=7.4`);
  });

  it.each<[string, string, string, unknown, number]>([
    ["an unknown page", "POST", "/key", {}, 404],
    ["a page of another case", "GET", "/Status", {}, 404],
    ["another method", "GET", "/key/release", {}, 405],
    ["another method for the status", "POST", "/status", {}, 405],
    ["no JSON", "POST", "/attest/raw", "{", 400],
    ["no object", "POST", "/attest/raw", "[]", 400],
    ["a name twice", "POST", "/attest/raw", '{"runtime_data":"","runtime_data":"e30="}', 400],
    ["a missing member", "POST", "/attest/raw", {}, 400],
    ["an empty member", "POST", "/attest/raw", { runtime_data: "" }, 400],
    ["a number for a string", "POST", "/attest/raw", { runtime_data: 1 }, 400],
    ["base64url where base64 belongs", "POST", "/attest/raw", { runtime_data: "_-_-" }, 400],
    ["base64 without padding", "POST", "/attest/raw", { runtime_data: "e30" }, 400],
    ["no bytes of UTF-8", "POST", "/attest/raw", '{"runtime_data":"\u{d800}"}', 400],
    ["no attestation endpoint", "POST", "/attest/maa", { runtime_data: "e30=" }, 400],
    ["an endpoint with a scheme", "POST", "/key/release", { ...RELEASE, maa_endpoint: `https://${MAA}` }, 400],
    ["an endpoint with a path", "POST", "/key/release", { ...RELEASE, akv_endpoint: `${VAULT}/x` }, 400],
    ["an endpoint with a user", "POST", "/key/release", { ...RELEASE, akv_endpoint: `a@${VAULT}` }, 400],
    ["an endpoint with a line end", "POST", "/key/release", { ...RELEASE, akv_endpoint: `${VAULT}\n` }, 400],
    ["a key id that climbs", "POST", "/key/release", { ...RELEASE, kid: "../secrets/x" }, 400],
    ["a key id with a query", "POST", "/key/release", { ...RELEASE, kid: "k?x=1" }, 400],
    ["a key id of three parts", "POST", "/key/release", { ...RELEASE, kid: "a/b/c" }, 400],
    ["an access token with a line end", "POST", "/key/release", { ...RELEASE, access_token: "a\r\nx-evil: 1" }, 400],
    ["runtime data that are too large", "POST", "/attest/raw", { runtime_data: toBase64(new Uint8Array(64 * 1024 + 1)) }, 400],
    ["a body that is too large", "POST", "/attest/raw", " ".repeat(256 * 1024 + 1), 413],
  ])("refuses %s", async (_what, method, path, body, status) => {
    const answer = await call(world.skr(), path, body, method);
    expect(answer.status).toBe(status);
    expect(answer.body["error"]).toEqual(expect.any(String));
    if (status === 400) expect(answer.body["error"]).toMatch(/^invalid request format/);
    expect(world.requests).toEqual([]);
  });

  it.each<[string, unknown, number]>([
    ["/attest/raw", { runtime_data: "e30=" }, 403],
    ["/attest/combined", { runtime_data: "e30=" }, 500],
    ["/attest/maa", { maa_endpoint: MAA, runtime_data: "e30=" }, 403],
    ["/key/release", RELEASE, 403],
  ])("%s says why there is no report", async (path, body, status) => {
    const reports = { kind: "kernel", fetchReport: () => Promise.reject(new Error("ENXIO")) } as const;
    expect(await call(world.skr({ reports }), path, body)).toEqual({ status, body: { error: "no attestation report: ENXIO" } });
  });

  it("does not pass on a report over other data", async () => {
    world.makeReport = () => report(new Uint8Array(64));
    expect(await call(world.skr(), "/attest/raw", { runtime_data: "e30=" })).toMatchObject({ status: 403 });
  });

  it("passes on the service's own reason for a refusal, and its request id", async () => {
    world.scripted.push(json(400, { error: { code: "InvalidParameter", message: "the evidence does not verify" } }));
    expect(await call(world.skr(), "/key/release", RELEASE)).toEqual({
      status: 403,
      body: { error: `attestation service ${MAA} answered 400: the evidence does not verify` },
    });
    world.scripted.push(
      json(200, { token: ATTESTATION_TOKEN }),
      json(401, { error: "invalid_client", error_description: "AADSTS70021: No matching federated identity" }),
    );
    expect(await call(world.skr(), "/key/release", RELEASE)).toEqual({
      status: 403,
      body: { error: "identity service login.test answered 401: AADSTS70021: No matching federated identity" },
    });
    world.scripted.push(
      json(200, { token: ATTESTATION_TOKEN }),
      json(200, { access_token: ACCESS_TOKEN }),
      json(403, { error: { message: "policy\u001b[2J says no\n" } }, { requestId: "id-1" }),
    );
    expect(await call(world.skr(), "/key/release", RELEASE)).toEqual({
      status: 403,
      body: { error: `key store ${VAULT} answered 403: policy [2J says no (request id-1)` },
    });
  });

  it("does not tell a caller what went wrong inside", async () => {
    const answer = await call(
      world.skr({
        random: {
          bytes: () => {
            throw new RangeError("inner detail");
          },
        },
      }),
      "/attest/maa",
      { maa_endpoint: MAA, runtime_data: "e30=" },
    );
    expect(answer).toEqual({ status: 500, body: { error: "internal error" } });
    expect(world.log.join("")).toContain("inner detail");
  });

  it("takes sixteen requests at once, and no more", async () => {
    const gate = Promise.withResolvers<void>();
    const reports = {
      kind: "emulator",
      fetchReport: async (data: Uint8Array) => {
        await gate.promise;
        return { report: report(data), auxblob: new Uint8Array() };
      },
    } as const;
    const skr = world.skr({ reports });
    const waiting = Array.from({ length: 16 }, () => call(skr, "/attest/raw", { runtime_data: "e30=" }));
    expect(await call(skr, "/attest/raw", { runtime_data: "e30=" })).toMatchObject({ status: 503 });
    gate.resolve();
    expect((await Promise.all(waiting)).map((answer) => answer.status)).toEqual(Array.from({ length: 16 }, () => 200));
    expect(await call(skr, "/attest/raw", { runtime_data: "e30=" })).toMatchObject({ status: 200 });
  });

  it("logs what happened, and no secret", async () => {
    await call(world.skr(), "/key/release", RELEASE);
    world.scripted.push(json(500, { error: "x" }), json(500, {}), json(500, {}));
    await call(world.skr(), "/key/release", { ...RELEASE, access_token: "callers-secret" });
    world.release = { wrappedFor: "other" };
    await call(world.skr(), "/key/release", RELEASE);
    const text = world.log.join("");
    expect(text).toContain('"msg":"key released"');
    expect(text).toContain("request failed");
    const secrets = [
      ACCESS_TOKEN,
      ASSERTION,
      ATTESTATION_TOKEN,
      "callers-secret",
      Buffer.from(SECRET).toString("base64url"),
      toBase64(SECRET),
      toHex(SECRET),
      "PRIVATE KEY",
    ];
    for (const secret of secrets) expect(text).not.toContain(secret);
  });
});
