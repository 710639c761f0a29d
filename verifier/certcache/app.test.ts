import { readdirSync } from "node:fs";
import { join } from "node:path";
import { toHex } from "@sealpod/core";
import { parseCertificatesPem, parseCrl } from "@sealpod/pki";
import { azureCachePath, kdsSource, parseThim, type EndorsementRequest, vcekUrl } from "@sealpod/snp";
import type { Hono } from "hono";
import { describe, expect, it } from "vitest";
import { certcacheApp } from "./app.ts";
import type { EndorsementCache } from "./cache.ts";
import { TestAmd } from "./testdata/amd.ts";
import { TestNetwork, upstreamOf } from "./testdata/network.ts";
import { Workplace } from "./testdata/workplace.ts";

const milan = new TestAmd("Milan");
const turin = new TestAmd("Turin");
const A = milan.chip(1);
const T = turin.chip(1);
const THIM = "/metadata/THIM/amd/certification";

interface Face {
  readonly app: Hono;
  readonly cache: EndorsementCache;
  readonly network: TestNetwork;
}

async function face(place: Workplace, options: { readonly thim?: EndorsementRequest; readonly upstreams?: "none" } = {}): Promise<Face> {
  const [first, second] = [upstreamOf(milan, [A, milan.chip(2)]), upstreamOf(turin, [T])];
  const network = new TestNetwork((path) => (path.includes("/Turin/") || path.includes(toHex(T.request.chipId)) ? second(path) : first(path)));
  const upstreams = options.upstreams === "none" ? [] : [kdsSource({ ...network.ports, maxWaitMs: 0 })];
  const cache = await place.cache(network, [milan.root, turin.root], { upstreams });
  return { app: certcacheApp({ cache, logger: place.logger, ...(options.thim !== undefined && { thim: options.thim }) }), cache, network };
}

const pathOf = ({ request: { products, chipId, reportedTcb } }: typeof A): string => vcekUrl(products[0] ?? "Milan", chipId, reportedTcb, "");

describe("the face of AMD's service", () => {
  it("gives certificates, chains and lists as AMD does", async () => {
    using place = new Workplace();
    const { app } = await face(place);
    const vcek = await app.request(pathOf(A));
    expect([vcek.status, vcek.headers.get("content-type"), vcek.headers.get("cache-control")]).toEqual([200, "application/pkix-cert", "public, max-age=86400"]);
    expect(new Uint8Array(await vcek.arrayBuffer())).toEqual(A.vcek.der);
    expect(new Uint8Array(await (await app.request(pathOf(T))).arrayBuffer())).toEqual(T.vcek.der);
    expect(new Uint8Array(await (await app.request(pathOf(A).replace("blSPL=4&teeSPL=0", "blSPL=04&teeSPL=00"))).arrayBuffer())).toEqual(A.vcek.der);
    for (const kind of ["vcek", "vlek"] as const) {
      const chain = await app.request(`/${kind}/v1/Milan/cert_chain`);
      expect([chain.status, chain.headers.get("content-type")]).toEqual([200, "application/x-pem-file"]);
      expect(await chain.text()).toBe(milan.chainPem(kind));
    }
    const crl = await app.request("/vcek/v1/Milan/crl");
    expect([crl.status, crl.headers.get("content-type"), crl.headers.get("cache-control")]).toEqual([200, "application/pkix-crl", "no-cache"]);
    expect(parseCrl(new Uint8Array(await crl.arrayBuffer())).number).toBe(1n);
  });

  it.each<[string, number, string]>([
    ["/vcek/v1/Genoa/cert_chain", 404, ""],
    ["/vcek/v1/Rome/cert_chain", 404, "Rome"],
    [pathOf(A).replace("ucodeSPL=219", "ucodeSPL=218"), 404, "REPORTED_TCB"],
    [pathOf(A).replace("0000000241", "0000000941"), 404, "no certificate"],
    [pathOf(A).replace("&ucodeSPL=219", ""), 400, "ucodeSPL is missing"],
    [pathOf(A).replace("219", "300"), 400, "0 to 255"],
    [pathOf(T).replace("?", `${"00".repeat(56)}?`), 404, "16"],
    [`/vcek/v1/Milan/${"00".repeat(64)}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219`, 400, "MASK_CHIP_ID"],
    ["/vcek/v1/Milan", 400, ""],
    ["/vlek/v1/Milan/1234", 400, "cloud providers"],
    ["/", 404, "No such page"],
    ["/metrics", 404, "No such page"],
  ])("%s is %i", async (path, expected, text) => {
    using place = new Workplace();
    const { app } = await face(place);
    const response = await app.request(path);
    expect(response.status).toBe(expected);
    expect(await response.text()).toContain(text);
  });

  it.each(["POST", "PUT", "DELETE", "PATCH"])("does not answer %s", async (method) => {
    using place = new Workplace();
    const { app, network } = await face(place);
    const response = await app.request(pathOf(A), { method });
    expect([response.status, response.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
    expect(network.paths).toEqual([]);
  });

  it("answers HEAD without a body", async () => {
    using place = new Workplace();
    const response = await (await face(place)).app.request(pathOf(A), { method: "HEAD" });
    expect([response.status, await response.text()]).toEqual([200, ""]);
  });

  it.each([
    "/vcek/v1/Milan/../../../../etc/passwd",
    "/vcek/v1/Milan/..%2f..%2f..%2fetc%2fpasswd",
    "/vcek/v1/Milan/%2e%2e/%2e%2e/chain/vcek_Milan.pem",
    "/vcek/v1/Milan/..\\..\\chain",
    "/vcek/v1/../../chain/vcek_Milan.pem",
    "/SevSnpVM/certificates/../../chain/1?api-version=2020-10-15-preview",
    "/SevSnpVM/certificates/..%2f..%2fchain/1?api-version=2020-10-15-preview",
    `/SevSnpVM/certificates/${"41".repeat(62)}%2e%2e/1?api-version=2020-10-15-preview`,
    `/vcek/v1/Milan/${"a".repeat(5000)}`,
    `/vcek/v1/Milan/${"41".repeat(63)}%00?blSPL=1`,
  ])("reaches no other file with %.60s", async (path) => {
    using place = new Workplace();
    const { app, cache, network } = await face(place);
    await cache.store.writeAuthorities("vcek", "Milan", [milan.vcek]);
    const response = await app.request(path);
    expect([400, 404]).toContain(response.status);
    expect(await response.text()).not.toContain("BEGIN CERTIFICATE");
    expect(network.paths).toEqual([]);
    expect(readdirSync(join(place.directory, "cache"))).toEqual(["chain"]);
  });
});

describe("an upstream in trouble", () => {
  it.each<[string, () => Response | Error, number, string | null]>([
    ["busy, with seconds", () => new Response(null, { status: 429, headers: { "retry-after": "42" } }), 429, "42"],
    ["busy, with a date", () => new Response(null, { status: 429, headers: { "retry-after": "Sun, 22 Nov 2026 00:00:30 GMT" } }), 429, "30"],
    ["busy", () => new Response(null, { status: 429 }), 429, "10"],
    ["broken", () => new Response(null, { status: 503 }), 503, "10"],
    ["gone", () => new Error("connect ECONNREFUSED"), 503, "10"],
    ["without the certificate", () => new Response(null, { status: 404 }), 404, null],
    ["redirecting", () => new Response(null, { status: 302, headers: { location: "http://169.254.169.254/" } }), 502, null],
    ["talking nonsense", () => new Response("<html>"), 502, null],
    ["with another chip's certificate", () => new Response(new Uint8Array(milan.chip(7).vcek.der)), 502, null],
    ["with somebody else's certificate", () => new Response(new Uint8Array(new TestAmd("Milan").chip(1).vcek.der)), 502, null],
  ])("%s gives its status on a miss, and nothing on a hit", async (_name, answer, expected, retryAfter) => {
    using place = new Workplace();
    const { app, cache, network } = await face(place);
    await cache.store.writeAuthorities("vcek", "Milan", [milan.vcek]);
    network.answer = answer;
    for (const path of [pathOf(A), azureCachePath(A.request.chipId, A.request.reportedTcb, "x")]) {
      const response = await app.request(path);
      expect([response.status, response.headers.get("retry-after")]).toEqual([expected, retryAfter]);
    }
    await cache.store.writeEndorsement(A.vcek);
    expect((await app.request(pathOf(A))).status).toBe(200);
  });
});

describe("the face of Azure's cache", () => {
  it("gives certificate, intermediate and root as PEM, for every product", async () => {
    using place = new Workplace();
    const { app } = await face(place);
    for (const chip of [A, T]) {
      const response = await app.request(azureCachePath(chip.request.chipId, chip.request.reportedTcb, "me"));
      expect(response.status).toBe(200);
      expect(await response.text()).toBe(chip.pem);
    }
  });

  it("says nothing with a 404, and something with a 400", async () => {
    using place = new Workplace();
    const { app } = await face(place);
    const missing = await app.request(azureCachePath(milan.chip(9).request.chipId, A.request.reportedTcb, "me"));
    expect([missing.status, await missing.text()]).toEqual([404, ""]);
    const wrong = await app.request(`/SevSnpVM/certificates/${toHex(A.request.chipId)}/db18000000000004`);
    expect([wrong.status, await wrong.text()]).toEqual([400, "Azure cache path: parameter api-version is missing\n"]);
    const levels = await app.request(azureCachePath(A.request.chipId, Uint8Array.of(4, 0, 1, 0, 0, 0, 24, 219), "me"));
    expect(levels.status).toBe(400);
  });
});

describe("the face of THIM", () => {
  const headers = { metadata: "true" };

  it("wants its header, and no proxy", async () => {
    using place = new Workplace();
    const { app } = await face(place, { thim: A.request });
    for (const given of [{}, { metadata: "false" }, { ...headers, "x-forwarded-for": "10.0.0.1" }] as const) {
      const response = await app.request(THIM, { headers: given });
      expect(response.status).toBe(400);
      expect(await response.json()).toEqual({ error: expect.stringContaining("Bad request") as string });
    }
    expect((await app.request(THIM, { headers: { Metadata: "True" } })).status).toBe(200);
  });

  it("answers for the chip that it was told", async () => {
    using place = new Workplace();
    const { app, cache } = await face(place, { thim: T.request });
    await cache.endorsement(A.request);
    const response = await app.request(THIM, { headers });
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "application/json; charset=utf-8"]);
    expect(await response.text()).toBe(T.thim);
  });

  it("answers for the only chip that it knows, and for none if there are several", async () => {
    using place = new Workplace();
    const { app, cache } = await face(place);
    const none = await app.request(THIM, { headers });
    expect([none.status, await none.json()]).toEqual([404, { error: "The cache knows no chip yet." }]);
    await cache.endorsement(A.request);
    const one = parseThim(await (await app.request(THIM, { headers })).text());
    expect(one.tcbm).toBe("DB18000000000004");
    expect(parseCertificatesPem(one.vcekCert)[0]?.der).toEqual(A.vcek.der);
    await cache.endorsement(milan.chip(2).request);
    const several = await app.request(THIM, { headers });
    expect(several.status).toBe(404);
    expect(await several.text()).toContain("--thim-chip-id");
  });
});
