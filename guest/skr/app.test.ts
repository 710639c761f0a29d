import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { fromHex, sha256, toBase64, toHex, encodeUtf8, decodeUtf8, concatBytes, asObject, fromAnyBase64, parseJson } from "@sealpod/core";
import { createSkr } from "./app.ts";
import type { ReleaseBackend } from "./backend.ts";
import { SkrError } from "./errors.ts";
import type { HttpRequest, HttpResponse } from "./http-client.ts";
import { azureBackend } from "./key-release.ts";
import { ACCESS_TOKEN, attestation, ATTESTATION_TOKEN, AUTHORITY, call, json, MAA, pem, report, SECRET, VAULT, World } from "./testdata/world.ts";

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
    const { generateKey: _one, ...ports } = world.ports();
    const skr = createSkr(ports);
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

  /** The error of a release that is refused after answers; the caller brings its own access token. */
  const refusal = async (...answers: readonly HttpResponse[]): Promise<string> => {
    world.scripted.push(...answers);
    const answer = await call(world.skr(), "/key/release", { ...RELEASE, access_token: "mine" });
    expect(answer.status).toBe(403);
    expect(Object.keys(answer.body)).toEqual(["error"]);
    return answer.body["error"] as string;
  };
  const TOKEN = json(200, { token: ATTESTATION_TOKEN });

  it("passes on the service's own reason for a refusal, its request id, and what to check", async () => {
    expect(await refusal(json(400, { error: { code: "InvalidParameter", message: "the evidence does not verify" } }))).toMatch(
      new RegExp(
        `^attestation service ${MAA} answered 400: InvalidParameter: the evidence does not verify\\. The provider could not verify the evidence: .*certcache`,
      ),
    );
    expect(await refusal(TOKEN, json(403, { error: { message: "policy\u001b[2J says no\n" } }, { requestId: "id-1" }))).toMatch(
      /^key store demo\.vault\.test answered 403: policy \[2J says no \(request id-1\)\. Either the pod's identity .*its host data change/,
    );
    world.scripted.push(TOKEN, json(401, { error: "invalid_client", error_description: "AADSTS70021: No matching federated identity" }));
    const answer = await call(world.skr(), "/key/release", RELEASE);
    expect(answer.status).toBe(403);
    expect(answer.body["error"]).toMatch(
      /^identity service login\.test answered 401: invalid_client: AADSTS70021: No matching federated identity\. The federated credential must/,
    );
  });

  it.each<[string, number, unknown, RegExp]>([
    [
      "a changed policy",
      403,
      { code: "Forbidden", message: "no", innererror: { code: "ForbiddenByReleasePolicy" } },
      /hash of the pod's policy changes.*https:\/\/attest\.test/,
    ],
    [
      "a changed policy in Azure's words",
      403,
      { code: "Forbidden", message: "Target environment attestation does not meet key release policy requirements." },
      /genpolicy/,
    ],
    [
      "a missing permission",
      403,
      { code: "Forbidden", message: "The user does not have keys release permission", innererror: { code: "AccessDenied" } },
      /key permission release/,
    ],
    ["a missing role", 403, { code: "Forbidden", message: "Caller is not authorized", innererror: { code: "ForbiddenByRbac" } }, /Crypto Service Release User/],
    ["a firewall", 403, { code: "Forbidden", message: "Client address is not authorized", innererror: { code: "ForbiddenByFirewall" } }, /network rules/],
    ["a stale token", 401, { code: "Unauthorized", message: "AKV10022: Invalid audience" }, /stale access_token/],
    [
      "an unknown key",
      404,
      { code: "KeyNotFound", message: "A key with (name/id) k was not found" },
      /name and the version of key "doc-sample-key-release".*demo\.vault\.test/,
    ],
    ["a key that cannot go", 400, { code: "BadParameter", message: "Key is not exportable" }, /exportable and has a release policy/],
    ["a busy store", 429, { code: "Throttled", message: "slow down" }, /throttles its callers; try again later/],
  ])("explains a refusal for %s", async (_what, status, error, hint) => {
    const answers = Array.from({ length: status === 429 ? 3 : 1 }, () => json(status, { error }));
    expect(await refusal(TOKEN, ...answers)).toMatch(hint);
  });

  it.each<[number, RegExp]>([
    [401, /bearer token/],
    [403, /provider's own policy/],
    [404, /maa_endpoint/],
  ])("explains an attestation service that answers %i", async (status, hint) => {
    expect(await refusal(json(status, {}))).toMatch(hint);
  });

  it("says that there is no such host", async () => {
    const http = async (): Promise<HttpResponse> => Promise.reject(new Error("getaddrinfo ENOTFOUND attest.test"));
    expect(await call(world.skr({ http }), "/key/release", RELEASE)).toMatchObject({
      status: 403,
      body: { error: expect.stringMatching(/ENOTFOUND.*spelling/) },
    });
  });

  it("keeps the access token, and gets a new one when the store refuses the kept one", async () => {
    const skr = world.skr();
    expect(await call(skr, "/key/release", RELEASE)).toMatchObject({ status: 200 });
    expect(await call(skr, "/key/release", RELEASE)).toMatchObject({ status: 200 });
    expect(world.sent(AUTHORITY)).toHaveLength(1);
    world.scripted.push(TOKEN, json(401, { error: { code: "Unauthorized", message: "expired" } }));
    expect(await call(skr, "/key/release", RELEASE)).toMatchObject({ status: 200 });
    expect(world.sent(AUTHORITY)).toHaveLength(2);
    // A token that is refused while it is new is not asked for again.
    const fresh = world.skr();
    world.scripted.push(TOKEN, json(200, { access_token: "t", expires_in: 3600 }), json(401, { error: { code: "Unauthorized", message: "no" } }));
    expect(await call(fresh, "/key/release", RELEASE)).toMatchObject({ status: 403, body: { error: expect.stringContaining("Unauthorized: no") } });
  });

  it("gets a token for the resource that the store's challenge names, if the store is in its domain", async () => {
    const challenged = (resource: string): HttpResponse =>
      json(401, { error: { code: "Unauthorized", message: "no" } }, { challenge: `Bearer authorization="https://login.evil.test/t", resource="${resource}"` });
    const first = json(200, { access_token: "first", expires_in: 3600 });
    world.scripted.push(TOKEN, first, challenged("https://vault.test"));
    expect(await call(world.skr(), "/key/release", RELEASE)).toMatchObject({ status: 200 });
    expect(world.sent(AUTHORITY).map(({ body }) => new URLSearchParams(body).get("scope"))).toEqual([
      "https://vault.azure.net/.default",
      "https://vault.test/.default",
    ]);
    expect(world.sent(`https://${VAULT}/`).map(({ headers }) => headers["authorization"])).toEqual(["Bearer first", `Bearer ${ACCESS_TOKEN}`]);
    expect(world.sent("https://login.evil.test/")).toEqual([]);
    world.scripted.push(TOKEN, first, challenged("https://management.azure.com"));
    expect(await call(world.skr(), "/key/release", RELEASE)).toMatchObject({ status: 403 });
    expect(world.sent(AUTHORITY)).toHaveLength(3);
    // The caller's own token is the caller's own affair.
    world.scripted.push(TOKEN, challenged("https://vault.test"));
    expect(await call(world.skr(), "/key/release", { ...RELEASE, access_token: "mine" })).toMatchObject({ status: 403 });
    expect(world.sent(AUTHORITY)).toHaveLength(3);
  });

  it("stops when its caller goes away, and asks no service any more", async () => {
    const gone = new AbortController();
    let sent = 0;
    const http = async (request: HttpRequest): Promise<HttpResponse> => {
      sent++;
      gone.abort(new Error("socket hang up"));
      expect(request.signal?.aborted).toBe(true);
      return Promise.reject(new Error("aborted"));
    };
    await call(world.skr({ http }), "/key/release", RELEASE, "POST", gone.signal);
    expect(sent).toBe(1);
    expect(world.log.join("")).toContain("ERR_SKR_CANCELLED");
  });

  it("gives a request two minutes in all", async () => {
    const http = async (): Promise<HttpResponse> => {
      world.deadlines[0]?.over.abort(new DOMException("time", "TimeoutError"));
      return Promise.reject(new Error("aborted"));
    };
    expect(await call(world.skr({ http }), "/key/release", RELEASE)).toMatchObject({
      status: 403,
      body: { error: expect.stringMatching(/^the time for the whole request was over before attestation service attest\.test had answered/) },
    });
    expect(world.deadlines.map(({ milliseconds }) => milliseconds)).toEqual([120_000]);
  });

  it("releases by the backend that the store's endpoint names", async () => {
    const asked: unknown[] = [];
    const other: ReleaseBackend = {
      name: "other",
      serves: (endpoint) => endpoint.startsWith("other+https://"),
      check: (request) => {
        asked.push(request);
        if (request.kid === "bad") throw new SkrError("ERR_SKR_REQUEST", "invalid request format: kid");
      },
      attest: async () => Promise.resolve({ token: "t", release: async () => Promise.resolve({ kty: "oct", k: "AA" }) }),
    };
    const skr = createSkr(world.ports(), [other, azureBackend(world.ports())]);
    const request = { akv_endpoint: "other+https://keys.test", kid: "repo/type/tag" };
    expect(await call(skr, "/key/release", request)).toEqual({ status: 200, body: { key: '{"kty":"oct","k":"AA"}' } });
    expect(asked).toEqual([{ attestationEndpoint: undefined, storeEndpoint: "other+https://keys.test", kid: "repo/type/tag", accessToken: undefined }]);
    expect(await call(skr, "/key/release", { ...request, kid: "bad" })).toMatchObject({ status: 400 });
    expect(await call(skr, "/key/release", { ...request, akv_endpoint: "kbs+ftp://x" })).toMatchObject({
      status: 400,
      body: { error: expect.stringMatching(/^invalid request format: akv_endpoint with kbs\+ftp:\/\/ is none that this sidecar knows/) },
    });
    expect(await call(skr, "/key/release", { ...RELEASE, akv_endpoint: `https://${VAULT}` })).toMatchObject({
      status: 400,
      body: { error: expect.stringContaining("Leave the scheme out") },
    });
    expect(world.requests).toEqual([]);
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
    // Or a probe would take the pod for dead.
    expect(await call(skr, "/status", "", "GET")).toMatchObject({ status: 200 });
    gate.resolve();
    expect((await Promise.all(waiting)).map((answer) => answer.status)).toEqual(Array.from({ length: 16 }, () => 200));
    expect(await call(skr, "/attest/raw", { runtime_data: "e30=" })).toMatchObject({ status: 200 });
  });
});
