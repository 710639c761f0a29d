import { existsSync, readFileSync } from "node:fs";
import { encodeCertificatesPem, encodeIa5String, encodePem, issueCrl, parseCertificatesPem } from "@sealpod/pki";
import { generateKeyPairSync } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  AMD_OID,
  AMD_ROOTS,
  azureCacheSource,
  type CertificateChain,
  encodeThim,
  encodeVcekExtensions,
  type EndorsementRequest,
  endorsementRequestOf,
  type EndorsementSource,
  fallbackSource,
  formatTcbNumber,
  kdsSource,
  MAX_CERTIFICATES_BYTES,
  MAX_KDS_CRL_BYTES,
  parseReport,
  parseRetryAfter,
  parseThim,
  productsOfChip,
  SnpError,
  thimSource,
  THIM_URL,
  verifyReport,
} from "../index.ts";
import { NOW, testProcessor, testReport, testTcb } from "../testdata/emulated.ts";
import { ok, ScriptedNetwork, status } from "./test-support.ts";

const milan = testProcessor("Milan");
const turin = testProcessor("Turin");
const REQUEST: EndorsementRequest = { products: ["Milan"], chipId: milan.chipId, reportedTcb: testTcb("Milan") };
const VCEK = milan.chain.endorsementKey.der;
const CHAIN = encodeCertificatesPem([milan.chain.intermediate, milan.chain.root]);
const ALL = encodeCertificatesPem([milan.chain.endorsementKey, milan.chain.intermediate, milan.chain.root]);

/** Certificates of Milan for another chip, TCB or kind. */
function vcek(changes: { readonly hwId?: Uint8Array; readonly tcb?: Uint8Array } = {}): Uint8Array {
  const extensions = encodeVcekExtensions({ productName: "Milan-B0", product: "Milan", tcb: testTcb("Milan"), hwId: milan.chipId, ...changes });
  return milan.withVcek(extensions).endorsementKey.der;
}

const OTHER_CHIP = vcek({ hwId: Uint8Array.from(milan.chipId, (byte, index) => (index === 63 ? byte ^ 1 : byte)) });
const OTHER_TCB = vcek({ tcb: testTcb("Milan", { microcode: 220 }) });
const VLEK = milan.withVcek([
  ...encodeVcekExtensions({ productName: "Milan", product: "Milan", tcb: testTcb("Milan"), hwId: milan.chipId }).filter(({ oid }) => oid !== AMD_OID.hwId),
  { oid: AMD_OID.cspId, critical: false, value: encodeIa5String("CN=x") },
]).endorsementKey.der;

/** AMD's service, for one chip. */
function kds(url: string): Response {
  if (url.endsWith("/vcek/v1/Milan/cert_chain")) return ok(CHAIN);
  return url.includes("/vcek/v1/Milan/") ? ok(VCEK) : status(404);
}

async function failure(work: Promise<unknown>): Promise<SnpError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof SnpError)) throw new Error(`expected an SnpError, found ${String(error)}`);
  return error;
}

function ders(chain: CertificateChain): readonly Uint8Array[] {
  return [chain.endorsementKey.der, chain.intermediate.der, chain.root.der];
}

describe("AMD's key distribution service", () => {
  it("gives the chain of a report", async () => {
    const network = new ScriptedNetwork(kds);
    const source = kdsSource(network);
    const evidence = milan.evidence();
    const request = endorsementRequestOf(parseReport(evidence.report));
    const chain = await source.fetchChain(request);
    expect(verifyReport({ ...evidence, certificates: chain }).root.name).toBe("emulator");
    const path = `/vcek/v1/Milan/${Buffer.from(milan.chipId).toString("hex")}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219`;
    expect(network.paths).toEqual([path, "/vcek/v1/Milan/cert_chain"]);
    expect(network.requests[0]?.url).toBe(`https://kdsintf.amd.com${path}`);
    expect(network.waits).toEqual([]);
  });

  it("is asked for Turin with its FMC and 8 bytes of id", async () => {
    const network = new ScriptedNetwork(() => ok(turin.chain.endorsementKey.der));
    const request = endorsementRequestOf(parseReport(turin.evidence().report));
    expect((await kdsSource({ ...network.ports, base: "http://cache.test/" }).fetchEndorsement(request)).product).toBe("Turin");
    expect(network.requests[0]?.url).toBe("http://cache.test/vcek/v1/Turin/0441424344454647?fmcSPL=1&blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219");
  });

  it("is asked for Milan, then for Genoa, if the report does not say", async () => {
    const genoa = testProcessor("Genoa");
    const network = new ScriptedNetwork((url) => (url.includes("/Genoa/") ? ok(genoa.chain.endorsementKey.der) : status(404)));
    const request = endorsementRequestOf(parseReport(genoa.evidence({}, 2).report));
    expect(request.products).toEqual(["Milan", "Genoa"]);
    expect((await kdsSource(network).fetchEndorsement(request)).product).toBe("Genoa");
    expect(network.paths.map((path) => path.split("/")[3])).toEqual(["Milan", "Genoa"]);
    const error = await failure(kdsSource(new ScriptedNetwork(() => status(404))).fetchEndorsement(request));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
    expect(error.message).toContain("Milan or Genoa");
  });

  it("says which chip and TCB it does not know, and what is often wrong", async () => {
    const network = new ScriptedNetwork(() => status(404));
    const error = await failure(kdsSource(network).fetchEndorsement(REQUEST));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND", row: { http: 404 } });
    expect(error.message).toBe("kds: there is no certificate of chip 0441424344454647… at bootloader 4, tee 0, snp 24, microcode 219 (Milan)");
    expect(error.hint).toMatch(/REPORTED_TCB.*Turin has 8 bytes \(16 hex digits\)/);
    expect(network.requests).toHaveLength(1);
  });

  it("gives a revocation list, and refuses what is none", async () => {
    const key = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey;
    const crl = issueCrl({
      issuer: { name: milan.chain.root.subject, key },
      signatureAlgorithm: "rsa-pss-sha384",
      thisUpdate: NOW,
      nextUpdate: NOW + 1000,
      revoked: [],
    });
    const network = new ScriptedNetwork((_url, nth) => [ok(crl.der), ok("<html>"), status(404)][nth] ?? status(500));
    const source = kdsSource(network).authorities;
    expect((await source.fetchCrl("vlek", "Milan")).nextUpdate).toBe(NOW + 1000);
    expect(network.paths).toEqual(["/vlek/v1/Milan/crl"]);
    expect(await failure(source.fetchCrl("vcek", "Milan"))).toMatchObject({ code: "ERR_SNP_KDS_RESPONSE" });
    expect(await failure(source.fetchCrl("vcek", "Milan"))).toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
  });

  it.each<[string, string]>([
    ["another product's chain", encodeCertificatesPem([turin.chain.intermediate, turin.chain.root])],
    ["the intermediate alone", encodeCertificatesPem([milan.chain.intermediate])],
    ["three certificates", ALL],
    ["a certificate too many", encodeCertificatesPem([milan.chain.intermediate, milan.chain.root, milan.chain.endorsementKey])],
    ["an intermediate of another root", encodeCertificatesPem([milan.chain.intermediate, turin.chain.root])],
    ["an error page", "<html>busy</html>"],
    ["nothing", ""],
  ])("refuses %s for the authorities, and keeps nothing of it", async (_name, body) => {
    const network = new ScriptedNetwork((_url, nth) => ok(nth === 0 ? body : CHAIN));
    const { authorities } = kdsSource(network);
    expect(await failure(authorities.fetchAuthorities("vcek", "Milan"))).toMatchObject({ code: "ERR_SNP_KDS_RESPONSE" });
    expect((await authorities.fetchAuthorities("vcek", "Milan")).root.der).toEqual(milan.chain.root.der);
  });

  it("keeps no authorities: those with the right names and the wrong keys are gone with the next answer", async () => {
    const impostor = testProcessor("Milan");
    const forged = encodeCertificatesPem([impostor.chain.intermediate, impostor.chain.root]);
    const network = new ScriptedNetwork((url, nth) => (nth === 1 ? ok(forged) : kds(url)));
    const source = kdsSource(network);
    expect(ders(await source.fetchChain(REQUEST)).at(-1)).toEqual(impostor.chain.root.der);
    expect(ders(await source.fetchChain(REQUEST))).toEqual(ders(milan.chain));
    expect(network.paths.filter((path) => path.endsWith("cert_chain"))).toHaveLength(2);
  });

  it("refuses the chain of VCEKs where that of VLEKs was asked", async () => {
    expect(await failure(kdsSource(new ScriptedNetwork(() => ok(CHAIN))).authorities.fetchAuthorities("vlek", "Milan"))).toMatchObject({
      code: "ERR_SNP_KDS_RESPONSE",
      message: expect.stringContaining("SEV-VLEK-Milan") as string,
    });
  });

  it.each(["ftp://x", "kdsintf.amd.com", "https://x?y", "https://u:p@x", "https://x#y", "https://x/y?", "https://x/y#", ""])(
    "refuses the address %j",
    (text) => {
      const { ports } = new ScriptedNetwork(kds);
      const refused = expect.objectContaining({ code: "ERR_SNP_KDS_REQUEST" }) as Error;
      expect(() => kdsSource({ ...ports, base: text })).toThrow(refused);
      expect(() => thimSource({ ...ports, url: text })).toThrow(refused);
      // Of Azure's cache a host may be named alone.
      if (/[@?#]/.test(text)) expect(() => azureCacheSource({ ...ports, endpoint: text })).toThrow(refused);
    },
  );
});

describe("answers that are none", () => {
  it.each<[string, Uint8Array | string, string]>([
    ["another chip", OTHER_CHIP, "got a certificate for chip 0441"],
    ["another TCB", OTHER_TCB, "got a certificate for bootloader 4, tee 0, snp 24, microcode 220"],
    ["another product", turin.chain.endorsementKey.der, "got a certificate for Turin"],
    ["a provider", VLEK, "got a VLEK certificate"],
    ["no chip at all", milan.chain.intermediate.der, "is no VCEK's"],
    ["PEM in place of DER", encodePem("CERTIFICATE", VCEK), "VCEK"],
    ["bytes after the certificate", Buffer.concat([VCEK, Uint8Array.of(0)]), "VCEK"],
    ["an error page", "<html>busy</html>", "VCEK"],
    ["nothing", "", "VCEK"],
  ])("the certificate of %s is refused", async (_name, body, message) => {
    const network = new ScriptedNetwork(() => ok(body));
    const error = await failure(kdsSource(network).fetchEndorsement(REQUEST));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_RESPONSE", row: { http: 502 } });
    expect(error.message).toContain(message);
    expect(network.requests).toHaveLength(1);
  });

  it.each([204, 206, 301, 302, 307, 308, 400, 401, 403, 410, 418])("status %i is refused at once, and redirects are not followed", async (code) => {
    const network = new ScriptedNetwork(() => status(code, { location: "https://kdsintf.amd.com/other" }));
    const error = await failure(kdsSource(network).fetchEndorsement(REQUEST));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_RESPONSE" });
    expect(error.message).toContain(String(code));
    expect(network.requests.map(({ init }) => init.redirect)).toEqual(["manual"]);
  });

  it.each<["certificates" | "lists", number]>([
    ["certificates", MAX_CERTIFICATES_BYTES],
    ["lists", MAX_KDS_CRL_BYTES],
  ])("a body without end is given up at the limit of %s", async (what, limit) => {
    let sent = 0;
    let cancelled = false;
    const network = new ScriptedNetwork(
      () =>
        new Response(
          new ReadableStream({
            pull: (controller) => {
              sent += 16_384;
              controller.enqueue(new Uint8Array(16_384));
            },
            cancel: () => void (cancelled = true),
          }),
        ),
    );
    const source = kdsSource(network);
    const error = await failure(what === "lists" ? source.authorities.fetchCrl("vcek", "Milan") : source.fetchEndorsement(REQUEST));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_RESPONSE", message: expect.stringContaining(`more than ${limit} bytes`) as string });
    expect(sent).toBeLessThan(limit + 4 * 16_384);
    expect(cancelled).toBe(true);
  });

  it("a body of the limit's size is read", async () => {
    const network = new ScriptedNetwork(() => ok(new Uint8Array(MAX_CERTIFICATES_BYTES)));
    expect((await failure(kdsSource(network).fetchEndorsement(REQUEST))).message).not.toContain("more than 65536 bytes");
  });
});

describe("a service that is busy", () => {
  const date = (ms: number): string => new Date(ms).toUTCString();

  it.each<[string, Record<string, string>, number]>([
    ["seconds", { "retry-after": "7" }, 7000],
    ["a date", { "retry-after": date(NOW + 25_000) }, 25_000],
    ["a date that is over", { "retry-after": date(NOW - 5000) }, 0],
    ["nothing", {}, 10_000],
    ["nonsense", { "retry-after": "soon" }, 10_000],
  ])("is asked again when it says so: with %s", async (_name, headers, wait) => {
    const network = new ScriptedNetwork((url, nth) => (nth === 0 ? status(429, headers) : kds(url)));
    expect((await kdsSource(network).fetchEndorsement(REQUEST)).endorsementKey.der).toEqual(VCEK);
    expect(network.waits).toEqual([wait]);
  });

  it.each<[string, Record<string, string>, number]>([
    ["seconds", { "retry-after": "61" }, 61],
    ["a date", { "retry-after": date(NOW + 3_600_000) }, 3600],
    ["more than a day", { "retry-after": "9999999999" }, 86_400],
  ])("is not waited for longer than the caller has: with %s", async (_name, headers, retryAfter) => {
    const network = new ScriptedNetwork(() => status(429, headers));
    const error = await failure(kdsSource(network).fetchEndorsement(REQUEST));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_THROTTLED", row: { action: "transient", http: 429 }, details: { retryAfter } });
    expect(network.waits).toEqual([]);
    expect(network.requests).toHaveLength(1);
  });

  it("is asked four times, and not at all again without patience", async () => {
    const network = new ScriptedNetwork(() => status(429, { "retry-after": "1" }));
    expect(await failure(kdsSource(network).fetchEndorsement(REQUEST))).toMatchObject({ code: "ERR_SNP_KDS_THROTTLED", details: { retryAfter: 1 } });
    expect(network.waits).toEqual([1000, 1000, 1000]);
    expect(network.requests).toHaveLength(4);
    const once = new ScriptedNetwork(() => status(429, { "retry-after": "1" }));
    await failure(kdsSource({ ...once.ports, maxWaitMs: 0 }).fetchEndorsement(REQUEST));
    expect(once.requests).toHaveLength(1);
  });

  it.each([408, 500, 502, 503, 504])("with status %i is asked again after a pause that grows and is partly random", async (code) => {
    for (const [randomByte, first] of [
      [0, 250],
      [255, 500],
    ] as const) {
      const network = new ScriptedNetwork(() => status(code));
      network.randomByte = randomByte;
      const error = await failure(kdsSource(network).fetchEndorsement(REQUEST));
      expect(error).toMatchObject({ code: "ERR_SNP_KDS_UNAVAILABLE", row: { action: "transient" } });
      expect(error.message).toContain(`status ${code} after 4 attempts`);
      expect(network.waits).toEqual([first, first * 2, first * 4]);
    }
    const network = new ScriptedNetwork((url, nth) => (nth < 3 ? status(code) : kds(url)));
    expect((await kdsSource(network).fetchEndorsement(REQUEST)).product).toBe("Milan");
  });

  it("that fails and says when to come back is believed", async () => {
    const network = new ScriptedNetwork((url, nth) => (nth === 0 ? status(503, { "retry-after": "30" }) : kds(url)));
    await kdsSource(network).fetchEndorsement(REQUEST);
    expect(network.waits).toEqual([30_000]);
    expect(await failure(kdsSource(new ScriptedNetwork(() => status(503, { "retry-after": "90" }))).fetchEndorsement(REQUEST))).toMatchObject({
      code: "ERR_SNP_KDS_UNAVAILABLE",
      details: { retryAfter: 90 },
    });
  });

  it("that cannot be reached is asked again, and the reason is told", async () => {
    const reason = new TypeError("fetch failed", { cause: new Error("connect ECONNREFUSED 127.0.0.1:1") });
    const network = new ScriptedNetwork(() => reason);
    const error = await failure(kdsSource(network).fetchEndorsement(REQUEST));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_UNAVAILABLE" });
    expect(error.message).toContain("connect ECONNREFUSED 127.0.0.1:1");
    expect(network.requests).toHaveLength(4);
  });

  it("that answers never is given up, and its request is ended", async () => {
    const network: ScriptedNetwork = new ScriptedNetwork(async () => network.never());
    const error = await failure(kdsSource({ ...network.ports, retries: 0 }).fetchEndorsement(REQUEST));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_UNAVAILABLE" });
    expect(error.message).toContain("no whole answer within 20 s");
    expect(network.requests[0]?.init.signal?.aborted).toBe(true);
  });

  it("that begins an answer and does not end it is given up", async () => {
    let cancelled = false;
    const network: ScriptedNetwork = new ScriptedNetwork(() => {
      const body = new ReadableStream({
        start: (controller) => controller.enqueue(VCEK.slice(0, 10)),
        pull: async () => network.never(),
        cancel: () => void (cancelled = true),
      });
      return new Response(body);
    });
    expect((await failure(kdsSource({ ...network.ports, retries: 0 }).fetchEndorsement(REQUEST))).message).toContain("no whole answer within 20 s");
    await Promise.resolve();
    expect(cancelled).toBe(true);
  });

  it("that breaks off in the middle is asked again", async () => {
    const broken = (): Response =>
      new Response(
        new ReadableStream({
          start: (controller) => {
            controller.enqueue(VCEK.slice(0, 10));
            controller.error(new Error("socket hang up"));
          },
        }),
      );
    const network = new ScriptedNetwork((url, nth) => (nth === 0 ? broken() : kds(url)));
    expect((await kdsSource(network).fetchEndorsement(REQUEST)).endorsementKey.der).toEqual(VCEK);
  });

  it("is left alone when the caller goes away: before, during and between", async () => {
    const gone = new Error("gone");
    const before = new ScriptedNetwork(kds);
    await expect(kdsSource(before).fetchEndorsement(REQUEST, AbortSignal.abort(gone))).rejects.toBe(gone);
    expect(before.requests).toEqual([]);

    for (const answer of [async (): Promise<Response> => new Promise(() => undefined), (): Response => status(503)]) {
      const caller = new AbortController();
      const network = new ScriptedNetwork(() => {
        queueMicrotask(() => caller.abort(gone));
        return answer();
      });
      await expect(kdsSource({ ...network.ports, sleep: async () => new Promise(() => undefined) }).fetchEndorsement(REQUEST, caller.signal)).rejects.toBe(
        gone,
      );
      expect(network.requests).toHaveLength(1);
    }
  });
});

describe("Retry-After (RFC 9110 section 10.2.3)", () => {
  it.each<[string | null, number | undefined]>([
    [null, undefined],
    ["0", 0],
    ["120", 120_000],
    ["Sun, 22 Nov 2026 00:00:30 GMT", 30_000],
    ["Sun, 22 Nov 2025 00:00:30 GMT", 0],
    ["Tue, 22 Nov 2050 00:00:30 GMT", 86_400_000],
    ["-1", undefined],
    ["1.5", undefined],
    ["", undefined],
    ["2026-11-22", undefined],
    ["Xxx, 99 Yyy 2026 99:99:99 GMT", undefined],
    ["1".repeat(100), undefined],
  ])("%j is %s ms", (header, expected) => {
    expect(parseRetryAfter(header, NOW)).toBe(expected);
  });
});

describe("Azure's certificate cache", () => {
  const endpoint = "americas.acccache.azure.net";
  const nowhere = { ...new ScriptedNetwork(() => status(404)).ports, endpoint };

  it("gives the chain, in any order, for an unpadded lower-case TCB", async () => {
    const network = new ScriptedNetwork(() => ok(encodeCertificatesPem([milan.chain.root, milan.chain.endorsementKey, milan.chain.intermediate])));
    const source = azureCacheSource({ ...network.ports, endpoint, clientId: "me" });
    expect(ders(await source.fetchChain(REQUEST))).toEqual(ders(milan.chain));
    expect(network.requests[0]?.url).toBe(
      `https://${endpoint}/SevSnpVM/certificates/${Buffer.from(milan.chipId).toString("hex")}/db18000000000004?api-version=2020-10-15-preview&clientId=me`,
    );
    expect(source.authorities).toBeUndefined();
  });

  it.each<[string, Parameters<typeof azureCacheSource>[0], string]>([
    ["another tee type", { ...nowhere, teeType: "SevSnpVm2" }, "/SevSnpVm2/certificates/CHIP/TCB?api-version=2020-10-15-preview&clientId=sealpod"],
    ["a bare version", { ...nowhere, apiVersion: "2024-01-01" }, "/SevSnpVM/certificates/CHIP/TCB?api-version=2024-01-01&clientId=sealpod"],
    [
      "a version with its name",
      { ...nowhere, apiVersion: "api-version=2024-01-01" },
      "/SevSnpVM/certificates/CHIP/TCB?api-version=2024-01-01&clientId=sealpod",
    ],
    ["a client id with its name", { ...nowhere, clientId: "clientId=a&b" }, "/SevSnpVM/certificates/CHIP/TCB?api-version=2020-10-15-preview&clientId=a%26b"],
    ["a path", { ...nowhere, endpoint: `${endpoint}/below` }, "/below/SevSnpVM/certificates/CHIP/TCB?api-version=2020-10-15-preview&clientId=sealpod"],
  ])("is asked with %s", async (_name, options, expected) => {
    const network = new ScriptedNetwork(() => ok(encodeCertificatesPem([milan.chain.root, milan.chain.endorsementKey, milan.chain.intermediate])));
    await azureCacheSource({ ...options, ...network.ports }).fetchChain(REQUEST);
    const path = expected.replace("CHIP", Buffer.from(milan.chipId).toString("hex")).replace("TCB", "db18000000000004");
    expect(network.requests.map(({ url }) => url)).toEqual([`https://${endpoint}${path}`]);
  });

  it.each([{ teeType: "a/b" }, { teeType: "" }, { apiVersion: "1&x=2" }, { apiVersion: "api-version=" }])("is not asked with %j", async (names) => {
    const network = new ScriptedNetwork(() => status(404));
    expect(await failure(azureCacheSource({ ...network.ports, endpoint, ...names }).fetchChain(REQUEST))).toMatchObject({ code: "ERR_SNP_KDS_PATH" });
    expect(network.requests).toEqual([]);
  });

  it.each<[string, Response, string]>([
    ["an unknown chip", status(404), "ERR_SNP_KDS_NOT_FOUND"],
    ["a throttle", status(429, { "retry-after": "100" }), "ERR_SNP_KDS_THROTTLED"],
    ["another chip", ok(encodePem("CERTIFICATE", OTHER_CHIP) + CHAIN), "ERR_SNP_KDS_RESPONSE"],
    ["another TCB", ok(encodePem("CERTIFICATE", OTHER_TCB) + CHAIN), "ERR_SNP_KDS_RESPONSE"],
    ["no intermediate", ok(encodeCertificatesPem([milan.chain.endorsementKey, milan.chain.root])), "ERR_SNP_KDS_RESPONSE"],
    ["the certificate alone", ok(encodePem("CERTIFICATE", VCEK)), "ERR_SNP_KDS_RESPONSE"],
    ["DER", ok(VCEK), "ERR_SNP_KDS_RESPONSE"],
    ["nothing", ok(""), "ERR_SNP_KDS_RESPONSE"],
  ])("fails with %s as it should", async (_name, answer, code) => {
    const source = azureCacheSource({ ...new ScriptedNetwork(() => answer).ports, endpoint });
    expect(await failure(source.fetchChain(REQUEST))).toMatchObject({ code });
  });
});

describe("THIM", () => {
  const document = { vcekCert: encodePem("CERTIFICATE", VCEK), tcbm: formatTcbNumber(REQUEST.reportedTcb), certificateChain: CHAIN, cacheControl: "86400" };

  it("is asked at its address, with its header", async () => {
    const network = new ScriptedNetwork(() => ok(encodeThim(document)));
    expect(ders(await thimSource(network).fetchChain(REQUEST))).toEqual(ders(milan.chain));
    expect(network.requests[0]).toMatchObject({ url: THIM_URL, init: { headers: { metadata: "true" } } });
  });

  it.each<[string, string]>([
    ["a tcbm that is not the certificate's", encodeThim({ ...document, tcbm: "DB18000000000005" })],
    ["another machine's certificate", encodeThim({ ...document, vcekCert: encodePem("CERTIFICATE", OTHER_CHIP) })],
    ["a chain without root", encodeThim({ ...document, certificateChain: encodeCertificatesPem([milan.chain.intermediate]) })],
    ["no document", "<html>"],
    ["no text", "\u{ffff}"],
  ])("refuses %s", async (_name, body) => {
    expect(await failure(thimSource(new ScriptedNetwork(() => ok(body))).fetchChain(REQUEST))).toMatchObject({ code: "ERR_SNP_KDS_RESPONSE" });
  });

  it("takes a tcbm with zeros in front", async () => {
    const request = { ...REQUEST, reportedTcb: testTcb("Milan", { microcode: 1 }) };
    const certificate = encodePem("CERTIFICATE", vcek({ tcb: request.reportedTcb }));
    const network = new ScriptedNetwork(() => ok(encodeThim({ ...document, vcekCert: certificate, tcbm: "0118000000000004" })));
    expect((await thimSource(network).fetchEndorsement(request)).product).toBe("Milan");
  });
});

describe("several sources", () => {
  const source = (answer: (url: string) => Response, name: string): EndorsementSource => kdsSource({ ...new ScriptedNetwork(answer).ports, retries: 0, name });

  it("are asked in turn until one answers", async () => {
    const asked: string[] = [];
    const recorded = (name: string, answer: (url: string) => Response): EndorsementSource =>
      source((url) => {
        asked.push(name);
        return answer(url);
      }, name);
    const all = fallbackSource([recorded("a", () => status(404)), recorded("b", () => status(503)), recorded("c", kds), recorded("d", kds)]);
    expect((await all.fetchEndorsement(REQUEST)).endorsementKey.der).toEqual(VCEK);
    expect((await all.authorities?.fetchAuthorities("vcek", "Milan"))?.root.der).toEqual(milan.chain.root.der);
    expect(asked).toEqual(["a", "b", "c", "a", "b", "c"]);
  });

  it("say why each of them failed, and whether to come back", async () => {
    const missing = source(() => status(404), "first");
    const broken = source(() => status(500), "second");
    const busy = source(() => status(429, { "retry-after": "5" }), "third");
    const wrong = source(() => ok(OTHER_CHIP), "fourth");
    const code = async (...sources: readonly EndorsementSource[]): Promise<string> => (await failure(fallbackSource(sources).fetchChain(REQUEST))).code;
    const error = await failure(fallbackSource([missing, broken, busy, wrong]).fetchChain(REQUEST));
    expect(error).toMatchObject({ code: "ERR_SNP_KDS_THROTTLED", details: { retryAfter: 5, sources: ["first", "second", "third", "fourth"] } });
    expect(error.message).toMatch(/first: there is no .*; second: .*status 500.*; third: .*throttled.*; fourth: .*for chip/);
    expect(await code(missing, missing)).toBe("ERR_SNP_KDS_NOT_FOUND");
    expect(await code(missing, broken)).toBe("ERR_SNP_KDS_UNAVAILABLE");
    expect(await code(missing, wrong)).toBe("ERR_SNP_KDS_RESPONSE");
    expect(await code()).toBe("ERR_SNP_KDS_UNAVAILABLE");
  });

  it("have authorities only if one of them has", () => {
    expect(fallbackSource([thimSource(new ScriptedNetwork(kds))]).authorities).toBeUndefined();
  });

  it("are not asked on when the caller goes away, or asked wrongly", async () => {
    const network = new ScriptedNetwork(kds);
    const gone = new Error("gone");
    const all = fallbackSource([kdsSource(network), kdsSource(network)]);
    await expect(all.fetchChain(REQUEST, AbortSignal.abort(gone))).rejects.toBe(gone);
    expect(await failure(all.fetchChain({ ...REQUEST, products: [] }))).toMatchObject({ code: "ERR_SNP_KDS_REQUEST" });
    expect(network.requests).toEqual([]);
  });
});

describe("requests", () => {
  const report = { ...testReport("Milan", 3, milan.chipId), signature: { r: 0n, s: 0n } };

  it("are made of a report's REPORTED_TCB, chip and product", () => {
    const reportedTcb = testTcb("Milan", { microcode: 115 });
    expect(endorsementRequestOf({ ...report, reportedTcb })).toEqual({ products: ["Milan"], chipId: milan.chipId, reportedTcb });
    expect(endorsementRequestOf({ ...testReport("Turin", 2, turin.chipId), signature: report.signature }).products).toEqual(["Turin"]);
    expect(productsOfChip(turin.chipId)).toEqual(["Turin"]);
    expect(productsOfChip(milan.chipId)).toEqual(["Milan", "Genoa"]);
  });

  it.each<[string, Partial<typeof report>]>([
    ["a masked chip", { chipId: new Uint8Array(64) }],
    ["a VLEK", { keyInfo: { ...report.keyInfo, signingKey: "vlek" } }],
    ["no signature", { keyInfo: { ...report.keyInfo, signingKey: "none" } }],
    ["an unknown processor", { processor: { family: 0x1b, model: 0, stepping: 0 } }],
    ["levels that have no name", { reportedTcb: Uint8Array.of(4, 0, 1, 0, 0, 0, 24, 219) }],
    ["a long chip id on Turin", { processor: { family: 0x1a, model: 2, stepping: 1 } }],
  ])("cannot be made of a report with %s", (_name, changes) => {
    expect(() => endorsementRequestOf({ ...report, ...changes })).toThrow(expect.objectContaining({ code: "ERR_SNP_KDS_REQUEST" }));
  });

  it.each<[string, Partial<EndorsementRequest>]>([
    ["no product", { products: [] }],
    ["Turin among others", { products: ["Milan", "Turin"] }],
    ["a short chip id", { chipId: new Uint8Array(8).fill(1) }],
    ["a short TCB", { reportedTcb: new Uint8Array(7) }],
  ])("with %s are refused before anybody is asked", async (_name, changes) => {
    const network = new ScriptedNetwork(kds);
    for (const source of [kdsSource(network), azureCacheSource({ ...network.ports, endpoint: "x" }), thimSource(network)])
      expect(await failure(source.fetchChain({ ...REQUEST, ...changes }))).toMatchObject({ code: "ERR_SNP_KDS_REQUEST" });
    expect(network.requests).toEqual([]);
  });
});

const VECTORS = "../shared/vectors/attestation";
const AZURE = `${VECTORS}/sidecar/azcache-milan-v3`;
const ACI = `${VECTORS}/sidecar/aci-2023-milan-v2`;

describe.skipIf(!existsSync(AZURE))("genuine answers (skipped without ../shared/vectors/attestation)", () => {
  const now = { clock: { now: () => NOW }, roots: AMD_ROOTS };

  it("of Azure's cache verify the report that they were fetched for", async () => {
    const report = new Uint8Array(readFileSync(`${AZURE}/report.bin`));
    const pem = readFileSync(`${AZURE}/certchain.pem`, "utf8");
    const source = azureCacheSource({ ...new ScriptedNetwork(() => ok(pem)).ports, endpoint: "americas.acccache.azure.net" });
    const certificates = await source.fetchChain(endorsementRequestOf(parseReport(report)));
    expect(verifyReport({ report, certificates, ...now }).root.name).toBe("amd");
    const other = azureCacheSource({ ...new ScriptedNetwork(() => ok(pem)).ports, endpoint: "x" });
    expect(await failure(other.fetchChain(REQUEST))).toMatchObject({ code: "ERR_SNP_KDS_RESPONSE" });
  });

  it("of THIM verify the report that they were fetched for", async () => {
    const report = new Uint8Array(readFileSync(`${ACI}/snp_report.bin`));
    const text = readFileSync(`${ACI}/uvm_host_amd_certificate.json`, "utf8");
    expect(parseThim(text).tcbm).toMatch(/^[0-9A-F]+$/);
    const certificates = await thimSource(new ScriptedNetwork(() => ok(text))).fetchChain(endorsementRequestOf(parseReport(report)));
    expect(verifyReport({ report, certificates, ...now }).root.name).toBe("amd");
  });

  it.each(["milan", "genoa", "turin"])("of AMD for %s verify the report", async (name) => {
    const report = new Uint8Array(readFileSync(`${VECTORS}/tav/${name}_attestation_report.bin`));
    const der = (part: string): Uint8Array => parseCertificatesPem(readFileSync(`${VECTORS}/tav/${name}_${part}.pem`, "utf8"))[0]?.der ?? new Uint8Array();
    const chain = `${encodePem("CERTIFICATE", der("ask"))}${encodePem("CERTIFICATE", der("ark"))}`;
    const network = new ScriptedNetwork((url) => ok(url.endsWith("cert_chain") ? chain : der("vcek")));
    const certificates = await kdsSource(network).fetchChain(endorsementRequestOf(parseReport(report)));
    expect(verifyReport({ report, certificates, ...now }).root.name).toBe("amd");
  });

  it.each(["milan", "genoa", "turin"])("of AMD for %s hold the authorities of VLEKs too", async (name) => {
    const pem = readFileSync(`${VECTORS}/go-sev-guest/roots/ask_ark_${name}_vlek.pem`, "utf8");
    const product = name === "milan" ? "Milan" : name === "genoa" ? "Genoa" : "Turin";
    const source = kdsSource(new ScriptedNetwork(() => ok(pem))).authorities;
    expect((await source.fetchAuthorities("vlek", product)).root.subject.attributes.at(-1)?.value).toBe(`ARK-${product}`);
    expect(await failure(source.fetchAuthorities("vcek", product))).toMatchObject({ code: "ERR_SNP_KDS_RESPONSE" });
  });
});
