import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeUtf8 } from "@sealpod/core";
import { type Certificate, encodePem } from "@sealpod/pki";
import { CERTIFICATE_GUIDS, encodeCertificateTable, encodeThim } from "@sealpod/snp";
import type { CertificateCache } from "./arguments.ts";
import { collectEvidence, reportDataOf, type Evidence, type EvidencePorts } from "./evidence.ts";
import type { HttpResponse } from "./http-client.ts";
import { parseSecurityContext, type SecurityContext } from "./security-context.ts";
import { amdChain, issue, json, pem, report, REPORTED_TCB, table, TCB, World, type Chain } from "./testdata/world.ts";

/** A TCB after an update, as bytes and as the number that THIM writes. */
const UPDATED = Uint8Array.of(4, 0, 0, 0, 0, 0, 0x18, 0xdc);
const UPDATED_TCB = "DC18000000000004";

const CHIP = "ab".repeat(64);

describe("certificates of a report", () => {
  let made: World;
  let other: Chain;
  let world: World;
  beforeAll(async () => {
    made = await World.make();
    other = await amdChain();
  });
  beforeEach(() => {
    world = new World(made.chain, made.root, made.store);
  });

  const thim = (chain: Chain, tcbm: string): string =>
    encodeThim({
      vcekCert: encodePem("CERTIFICATE", chain.vcek.der),
      tcbm,
      certificateChain: pem(chain).slice(encodePem("CERTIFICATE", chain.vcek.der).length),
      cacheControl: "86400",
    });
  const host = (chain: Chain, tcbm: string): SecurityContext =>
    parseSecurityContext({ hostAmdCert: `${Buffer.from(thim(chain, tcbm)).toString("base64")}\n`, referenceInfo: undefined });
  const collect = async (cache?: CertificateCache, securityContext?: SecurityContext): Promise<Evidence> =>
    collectEvidence(world.ports({ certificateCache: cache, ...(securityContext === undefined ? {} : { securityContext }) }), reportDataOf(encodeUtf8("data")));
  const THIM: CertificateCache = { kind: "LocalTHIM", endpoint: "169.254.169.254/metadata/THIM/amd/certification" };

  it("are the host's if they are for the reported TCB", async () => {
    const evidence = await collect(undefined, host(other, TCB));
    expect(evidence).toMatchObject({ certificates: pem(other), tcb: "db18000000000004" });
    expect(world.requests).toEqual([]);
  });

  it.each(["0000000000000001", "1"])("are the table's if the host's are for TCB %s", async (tcbm) => {
    expect((await collect(undefined, host(other, tcbm))).certificates).toBe(pem(world.chain));
    expect(world.log.join("")).toContain("another TCB");
  });

  it("compares TCBs as numbers: leading zeros do not count", async () => {
    world.makeReport = (data) => report(data, { reportedTcb: Uint8Array.of(4, 0, 0, 0, 0, 0, 0x18, 0) });
    const evidence = await collect(undefined, host(other, "0018000000000004"));
    expect(evidence).toMatchObject({ certificates: pem(other), tcb: "0018000000000004" });
  });

  it("are the cache's if there is no table", async () => {
    world.auxblob = new Uint8Array();
    world.scripted.push(answer(thim(other, TCB)));
    expect((await collect(THIM)).certificates).toBe(pem(other));
    expect(world.requests).toMatchObject([{ method: "GET", url: `http://${THIM.endpoint}`, headers: { metadata: "true" } }]);
  });

  it("are the cache's if the table is for another TCB", async () => {
    world.auxblob = table(await amdChain(UPDATED));
    world.scripted.push(answer(thim(other, TCB)));
    expect((await collect(THIM)).certificates).toBe(pem(other));
    expect(world.log.join("")).toContain("certificate table is for another TCB");
  });

  it.each<[string, () => Uint8Array]>([
    ["broken", () => new Uint8Array(40).fill(1)],
    ["zero", () => new Uint8Array(4096)],
    ["short of certificates", () => new Uint8Array(24)],
  ])("are the cache's if the table is %s", async (_what, auxblob) => {
    world.auxblob = auxblob();
    world.scripted.push(answer(thim(other, TCB)));
    expect((await collect(THIM)).certificates).toBe(pem(other));
  });

  it.each(["vcek", "vlek"] as const)("are chosen by the key that signed where VCEK and VLEK come together: %s", async (signingKey) => {
    world.makeReport = (data) => report(data, { keyInfo: { authorKeyEnabled: false, chipKeyMasked: false, signingKey } });
    const { vcek, ask, ark } = other;
    const root = await issue({ name: "ARK of the provider", ca: true });
    const asvk = await issue({ name: "ASVK", ca: true, issuer: root });
    const vlek = (await issue({ name: "VLEK", issuer: asvk, amd: "vlek" })).certificate;
    const encode = (...certificates: readonly Certificate[]): string => certificates.map(({ der }) => encodePem("CERTIFICATE", der)).join("");
    const rest = [asvk.certificate, root.certificate, vcek, ask, ark];
    const together = encode(vlek, ...rest);
    const expected = signingKey === "vlek" ? encode(vlek, asvk.certificate, root.certificate) : pem(other);
    const chosen = async (cache?: CertificateCache, securityContext?: SecurityContext): Promise<string> => (await collect(cache, securityContext)).certificates;
    world.auxblob = encodeCertificateTable([{ guid: CERTIFICATE_GUIDS.vcek, data: encodeUtf8(together) }]);
    expect(await chosen()).toBe(expected);
    const document = encodeThim({ vcekCert: encode(vlek), tcbm: TCB, certificateChain: encode(...rest), cacheControl: "86400" });
    const hostAmdCert = `${Buffer.from(document).toString("base64")}\n`;
    // Nothing to fall back to.
    world.auxblob = new Uint8Array();
    expect(await chosen(undefined, parseSecurityContext({ hostAmdCert, referenceInfo: undefined }))).toBe(expected);
    // No public service has a VLEK's certificate, so none is asked.
    if (signingKey === "vlek") await expect(chosen(THIM)).rejects.toMatchObject({ code: "ERR_SKR_CERTIFICATES", hint: expect.stringContaining("VLEK") });
    expect(world.requests).toEqual([]);
  });

  it("come from Azure's cache", async () => {
    world.auxblob = new Uint8Array();
    world.scripted.push(answer(pem(other)));
    const cache = { kind: "AzCache", endpoint: "cache.test", teeType: "SevSnpVM", apiVersion: "api-version=2020-10-15-preview", clientId: "" } as const;
    expect((await collect(cache)).certificates).toBe(pem(other));
    world.scripted.push(answer(pem(other)), answer(pem(other)));
    await collect({ ...cache, clientId: "clientId=me" });
    await collect({ ...cache, clientId: "me" });
    const url = `https://cache.test/SevSnpVM/certificates/${CHIP}/db18000000000004?api-version=2020-10-15-preview`;
    expect(world.requests.map((request) => request.url)).toEqual([`${url}&clientId=sealpod`, `${url}&clientId=me`, `${url}&clientId=me`]);
  });

  it("come from AMD", async () => {
    world.auxblob = new Uint8Array();
    const authorities = pem(other).slice(encodePem("CERTIFICATE", other.vcek.der).length);
    world.scripted.push({ status: 200, body: other.vcek.der }, answer(authorities));
    expect((await collect({ kind: "AMD", endpoint: "kdsintf.amd.com" })).certificates).toBe(pem(other));
    expect(world.requests.map((request) => request.url)).toEqual([
      `https://kdsintf.amd.com/vcek/v1/Milan/${CHIP}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219`,
      "https://kdsintf.amd.com/vcek/v1/Milan/cert_chain",
    ]);
  });

  it("come from AMD for a report that does not name its product: Milan is tried, then Genoa", async () => {
    world.auxblob = new Uint8Array();
    world.makeReport = (data) => report(data, { version: 2, processor: undefined, launchMitigations: 0n, currentMitigations: 0n });
    const genoa = await amdChain(REPORTED_TCB, "Genoa");
    const authorities = pem(genoa).slice(encodePem("CERTIFICATE", genoa.vcek.der).length);
    world.scripted.push({ status: 404, body: new Uint8Array() }, { status: 200, body: genoa.vcek.der }, answer(authorities));
    expect((await collect({ kind: "AMD", endpoint: "kdsintf.amd.com" })).certificates).toBe(pem(genoa));
    expect(world.requests.map(({ url }) => new URL(url).pathname)).toEqual([`/vcek/v1/Milan/${CHIP}`, `/vcek/v1/Genoa/${CHIP}`, "/vcek/v1/Genoa/cert_chain"]);
  });

  it("are asked for again while the service is busy, as long as it says", async () => {
    world.auxblob = new Uint8Array();
    world.scripted.push(json(429, {}, { retryAfter: "7" }), new Error("ECONNRESET"), answer(thim(other, TCB)));
    expect((await collect(THIM)).certificates).toBe(pem(other));
    expect(world.waits[0]).toBe(7000);
    expect(world.waits).toHaveLength(2);
    world.scripted.push(new Error("a"), new Error("b"), new Error("ECONNREFUSED"));
    await expect(collect(THIM)).rejects.toMatchObject({ code: "ERR_SKR_NETWORK", message: expect.stringContaining("ECONNREFUSED") });
  });

  it("are not waited for any longer than the caller waits", async () => {
    world.auxblob = new Uint8Array();
    const over = new AbortController();
    const http = async (): Promise<HttpResponse> => {
      over.abort(new DOMException("time", "TimeoutError"));
      return new Promise(() => undefined);
    };
    const ports = world.ports({ certificateCache: THIM, http });
    await expect(collectEvidence({ ...ports, signal: over.signal }, reportDataOf(encodeUtf8("data")))).rejects.toMatchObject({
      code: "ERR_SKR_TIMEOUT",
      message: expect.stringContaining("169.254.169.254"),
    });
  });

  it("cannot come from AMD for a processor that nobody knows", async () => {
    world.auxblob = new Uint8Array();
    world.makeReport = (data) => report(data, { processor: { family: 0x17, model: 1, stepping: 1 } });
    await expect(collect({ kind: "AMD", endpoint: "kdsintf.amd.com" })).rejects.toMatchObject({ code: "ERR_SKR_CERTIFICATES" });
  });

  it("may be newer than the report: one more report settles it", async () => {
    world.auxblob = new Uint8Array();
    let reports = 0;
    world.makeReport = (data) => report(data, reports++ === 0 ? {} : { reportedTcb: UPDATED, currentTcb: UPDATED, committedTcb: UPDATED, launchTcb: UPDATED });
    const newer = await amdChain(UPDATED);
    world.scripted.push(answer(thim(newer, UPDATED_TCB)), answer(thim(newer, UPDATED_TCB)));
    expect(await collect(THIM)).toMatchObject({ tcb: "dc18000000000004", certificates: pem(newer) });
    expect(reports).toBe(2);
    expect(world.log.join("")).toContain("the reported TCB has changed");
  });

  it("are refused if they stay for another TCB, unless a test says otherwise", async () => {
    world.auxblob = new Uint8Array();
    let reports = 0;
    world.makeReport = (data) => {
      reports++;
      return report(data);
    };
    const newer = await amdChain(UPDATED);
    world.scripted.push(answer(thim(newer, UPDATED_TCB)));
    await expect(collect(THIM)).rejects.toMatchObject({
      code: "ERR_SKR_CERTIFICATES",
      message: expect.stringMatching(/asked for chip abababababababab… at .*microcode 219.* got a certificate for .*microcode 220/),
    });
    expect(reports).toBe(2);
    const allowed = async (changes: Partial<EvidencePorts>): Promise<Evidence> =>
      collectEvidence(world.ports({ allowMismatchedTcb: true, ...changes }), reportDataOf(encodeUtf8("data")));
    world.scripted.push(answer(thim(newer, UPDATED_TCB)), answer(thim(newer, UPDATED_TCB)));
    expect(await allowed({ certificateCache: THIM })).toMatchObject({ tcb: "db18000000000004", certificates: pem(newer) });
    expect(await allowed({ securityContext: host(newer, UPDATED_TCB) })).toMatchObject({ certificates: pem(newer) });
    expect(world.log.join("")).toContain("ANOTHER TCB");
    await expect(allowed({})).rejects.toMatchObject({ code: "ERR_SKR_CERTIFICATES" });
  });

  it("are missed aloud when no cache is configured", async () => {
    world.auxblob = new Uint8Array();
    await expect(collect()).rejects.toMatchObject({ code: "ERR_SKR_CERTIFICATES", hint: expect.stringContaining("certcache") });
  });

  it.each<[string, HttpResponse]>([
    ["404", { status: 404, body: new Uint8Array() }],
    ["no JSON", answer("<html>")],
    ["no certificate", json(200, { vcekCert: "x", tcbm: TCB, certificateChain: "y", cacheControl: "1" })],
    ["a TCB that is no number", json(200, { vcekCert: "x", tcbm: "0xDB", certificateChain: "y", cacheControl: "1" })],
    ["no UTF-8", { status: 200, body: Uint8Array.of(0xff) }],
  ])("are refused when the cache answers with %s", async (_what, response) => {
    world.auxblob = new Uint8Array();
    world.scripted.push(response);
    await expect(collect(THIM)).rejects.toMatchObject({ code: "ERR_SKR_CERTIFICATES" });
  });
});

describe("the security context", () => {
  it("may be empty", () => {
    expect(parseSecurityContext({ referenceInfo: undefined, hostAmdCert: " \n" })).toEqual({ uvmEndorsement: undefined, hostCertificates: undefined });
  });

  it.each([
    { referenceInfo: "not base64!", hostAmdCert: undefined },
    { referenceInfo: undefined, hostAmdCert: "AAAA" },
    { referenceInfo: undefined, hostAmdCert: Buffer.from('{"vcekCert":"x","tcbm":"zz","certificateChain":"","cacheControl":""}').toString("base64") },
  ])("must be right where it is there: %j", (texts) => {
    expect(() => parseSecurityContext(texts)).toThrow(expect.objectContaining({ code: "ERR_SKR_CONFIGURATION" }));
  });
});

function answer(text: string): HttpResponse {
  return { status: 200, body: encodeUtf8(text) };
}
