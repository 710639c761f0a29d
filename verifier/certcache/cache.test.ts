import { existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { toHex } from "@sealpod/core";
import { AMD_ROOTS, azureCacheSource, endorsementRequestOf, kdsSource, parseReport, thimSource, verifyReport } from "@sealpod/snp";
import { describe, expect, it } from "vitest";
import type { EndorsementCache } from "./cache.ts";
import { spacedFetch } from "./spacing.ts";
import { NOW, TestAmd } from "./testdata/amd.ts";
import { TestNetwork, upstreamOf } from "./testdata/network.ts";
import { Workplace } from "./testdata/workplace.ts";

const milan = new TestAmd("Milan");
const genoa = new TestAmd("Genoa");
const A = milan.chip(1);
const B = milan.chip(2);
const CHIPS = [A, B, milan.chip(3)];
const ROOTS = [milan.root, genoa.root];
const HOUR = 3_600_000;
const DAY = 86_400_000;

function upstream(): TestNetwork {
  return new TestNetwork(upstreamOf(milan, CHIPS));
}

describe("the cache", () => {
  it("asks once for each thing, and afterwards nobody", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, ROOTS);
    const first = await cache.endorsement(A.request);
    expect(first).toMatchObject({ product: "Milan", origin: "upstream" });
    expect(network.paths.map((path) => path.split("/").length)).toEqual([5, 5]);
    expect((await cache.endorsement(A.request)).origin).toBe("store");
    await cache.endorsement(B.request);
    expect(network.paths).toHaveLength(3);
    expect(network.paths.filter((path) => path.endsWith("cert_chain"))).toHaveLength(1);
    // Another process, with the network gone.
    network.answer = () => new Error("no network");
    const again = await (await place.cache(network, ROOTS)).endorsement(A.request);
    expect(again.chain.endorsementKey.der).toEqual(A.vcek.der);
    expect(again.chain.root.der).toEqual(milan.vcek.root.der);
    expect(network.paths).toHaveLength(3);
    expect(place.events).toEqual(["miss", "fetched", "fetched", "hit", "miss", "fetched", "hit"]);
  });

  it.each(["azcache", "thim"] as const)("takes what %s sends with a certificate, and asks for nothing else", async (kind) => {
    using place = new Workplace();
    const network = upstream();
    const source = kind === "thim" ? thimSource(network) : azureCacheSource({ ...network.ports, endpoint: "cache.test" });
    const cache = await place.cache(network, ROOTS, { upstreams: [source] });
    expect((await cache.endorsement(A.request)).chain.intermediate.der).toEqual(milan.vcek.intermediate.der);
    expect((await cache.authorities("vcek", "Milan")).root.der).toEqual(milan.vcek.root.der);
    expect(network.paths).toHaveLength(1);
    await expect(cache.crl("vcek", "Milan")).rejects.toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
    await expect(cache.authorities("vlek", "Milan")).rejects.toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
  });

  it("says what to do for each kind of thing that it has not", async () => {
    using place = new Workplace();
    const cache = await place.cache(upstream(), ROOTS, { upstreams: [] });
    const hint = (pattern: RegExp): object => ({ code: "ERR_SNP_KDS_NOT_FOUND", hint: expect.stringMatching(pattern) as string });
    await expect(cache.endorsement(A.request)).rejects.toMatchObject(hint(/REPORTED_TCB/));
    await expect(cache.authorities("vlek", "Genoa")).rejects.toMatchObject(hint(/^(?!.*REPORTED_TCB|.*nextUpdate).*fetch --product Genoa/));
    await expect(cache.crl("vcek", "Milan")).rejects.toMatchObject(hint(/^(?!.*REPORTED_TCB).*fetch --product Milan.*nextUpdate/));
  });

  it("asks once for what a hundred want at the same time", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, ROOTS);
    const all = await Promise.all(Array.from({ length: 100 }, async () => cache.endorsement(A.request)));
    expect(new Set(all.map(({ chain }) => toHex(chain.endorsementKey.der))).size).toBe(1);
    expect(network.paths.filter((path) => path.includes("SPL"))).toHaveLength(1);
    expect(network.paths).toHaveLength(2);
  });

  it("does not ask for what landed between a look at the store and the flight", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, ROOTS);
    const { store } = cache;
    const read = store.readEndorsement.bind(store);
    const hold = Promise.withResolvers<void>();
    let looks = 0;
    // The first look finds nothing, and is slow to say so.
    store.readEndorsement = async (request) => {
      const isFirst = looks++ === 0;
      const found = await read(request);
      if (isFirst) await hold.promise;
      return found;
    };
    const slow = cache.endorsement(A.request);
    expect((await cache.endorsement(A.request)).origin).toBe("upstream");
    hold.resolve();
    expect((await slow).origin).toBe("store");
    expect(network.paths).toHaveLength(2);
  });

  it("gives a hundred the same failure, asks once for it, and asks again next time", async () => {
    using place = new Workplace();
    const network = new TestNetwork(() => new Response(null, { status: 500 }));
    const cache = await place.cache(network, ROOTS);
    const all = await Promise.allSettled(Array.from({ length: 100 }, async () => cache.endorsement(A.request)));
    expect(all.every((result) => result.status === "rejected" && (result.reason as { code: string }).code === "ERR_SNP_KDS_UNAVAILABLE")).toBe(true);
    expect(network.paths).toHaveLength(1);
    network.answer = upstreamOf(milan, CHIPS);
    expect((await cache.endorsement(A.request)).origin).toBe("upstream");
  });

  it("has only so much under way", async () => {
    using place = new Workplace();
    const network = upstream();
    const open = Promise.withResolvers<void>();
    const answer = network.answer;
    network.answer = async (path) => {
      await open.promise;
      return answer(path);
    };
    const cache = await place.cache(network, ROOTS, { limits: { fetches: 2 } });
    const all = Promise.allSettled(CHIPS.map(async ({ request }) => cache.endorsement(request)));
    while (network.paths.length < 2) await new Promise((done) => setImmediate(done));
    open.resolve();
    const results = await all;
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(2);
    expect(results.find((result) => result.status === "rejected")).toMatchObject({ reason: { code: "ERR_SNP_KDS_THROTTLED", details: { retryAfter: 1 } } });
  });

  it("remembers that there is none for a while, and only so many of them", async () => {
    using place = new Workplace();
    const network = new TestNetwork(upstreamOf(milan, []));
    const cache = await place.cache(network, ROOTS, { limits: { notFoundMs: 1000, notFoundEntries: 2 } });
    const ask = async (number: number): Promise<number> => {
      await expect(cache.endorsement(milan.chip(number).request)).rejects.toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
      return network.paths.length;
    };
    expect([await ask(1), await ask(1), await ask(2), await ask(1)]).toEqual([1, 1, 2, 2]);
    // The third drops the first.
    expect([await ask(3), await ask(3), await ask(2), await ask(1)]).toEqual([3, 3, 3, 4]);
    network.now += 1000;
    network.answer = upstreamOf(milan, CHIPS);
    expect((await cache.endorsement(A.request)).origin).toBe("upstream");
  });

  it("finds what was imported meanwhile, whatever it remembers", async () => {
    using place = new Workplace();
    const network = new TestNetwork(upstreamOf(milan, []));
    const cache = await place.cache(network, ROOTS);
    await expect(cache.endorsement(A.request)).rejects.toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
    const other = await place.store(network);
    await other.writeAuthorities("vcek", "Milan", [milan.vcek]);
    await other.writeEndorsement(A.vcek);
    expect((await cache.endorsement(A.request)).origin).toBe("store");
  });

  it("does not remember a failure that may be over", async () => {
    using place = new Workplace();
    const network = new TestNetwork(() => new Response(null, { status: 429, headers: { "retry-after": "77" } }));
    const cache = await place.cache(network, ROOTS);
    for (const count of [1, 2]) {
      await expect(cache.endorsement(A.request)).rejects.toMatchObject({ code: "ERR_SNP_KDS_THROTTLED", details: { retryAfter: 77 } });
      expect(network.paths).toHaveLength(count);
    }
  });

  it("offline says that there is no upstream", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, ROOTS, { upstreams: [] });
    await expect(cache.endorsement(A.request)).rejects.toMatchObject({
      code: "ERR_SNP_KDS_NOT_FOUND",
      message: expect.stringContaining("no upstream") as string,
    });
    // A certificate without its authorities is of no use.
    await cache.store.writeEndorsement(A.vcek);
    await expect(cache.endorsement(A.request)).rejects.toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
    await cache.store.writeAuthorities("vcek", "Milan", [milan.vcek]);
    expect((await cache.endorsement(A.request)).origin).toBe("store");
  });

  it("knows one chip under one product", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, ROOTS);
    await cache.endorsement({ ...A.request, products: ["Milan", "Genoa"] });
    expect((await cache.endorsement({ ...A.request, products: ["Genoa", "Milan"] })).product).toBe("Milan");
    await expect(cache.endorsement({ ...A.request, products: ["Genoa"] })).rejects.toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
    expect(network.paths).toHaveLength(2);
  });

  it("hands out and does not keep what is beyond its limit", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, ROOTS, { maxEntries: 1 });
    await cache.endorsement(A.request);
    expect((await cache.endorsement(B.request)).chain.endorsementKey.der).toEqual(milan.chip(2).vcek.der.length > 0 ? CHIPS[1]?.vcek.der : undefined);
    expect(cache.store.count).toBe(1);
    expect(place.events).toContain("full");
    expect((await cache.endorsement(A.request)).origin).toBe("store");
  });
});

describe("what is trusted", () => {
  it("is what a named root signed, and nothing else is stored or handed out", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, AMD_ROOTS);
    await expect(cache.endorsement(A.request)).rejects.toMatchObject({ code: "ERR_CERTCACHE_UNTRUSTED", hint: expect.stringContaining("--trust") as string });
    await expect(cache.authorities("vcek", "Milan")).rejects.toMatchObject({ code: "ERR_CERTCACHE_UNTRUSTED" });
    expect(existsSync(join(place.directory, "cache"))).toBe(false);
  });

  it("is not a certificate that another authority signed under the same name", async () => {
    using place = new Workplace();
    const impostor = new TestAmd("Milan");
    const genuine = upstreamOf(milan, CHIPS);
    const forged = upstreamOf(impostor, [impostor.chip(1)]);
    const network = new TestNetwork((path) => (path.includes("SPL") ? forged(path) : genuine(path)));
    const cache = await place.cache(network, ROOTS);
    await expect(cache.endorsement(A.request)).rejects.toMatchObject({ code: "ERR_CERTCACHE_UNTRUSTED" });
    expect(cache.store.count).toBe(0);
    // Nor the whole chain of the other.
    network.answer = forged;
    await expect(
      (await place.cache(network, ROOTS, { upstreams: [azureCacheSource({ ...network.ports, endpoint: "x" })] })).endorsement(A.request),
    ).rejects.toMatchObject({
      code: "ERR_CERTCACHE_UNTRUSTED",
    });
  });

  it("is not a root for another product", async () => {
    using place = new Workplace();
    const cache = await place.cache(upstream(), [{ ...milan.root, product: "Genoa" }]);
    await expect(cache.endorsement(A.request)).rejects.toMatchObject({
      code: "ERR_CERTCACHE_UNTRUSTED",
      message: expect.stringContaining("trusted for Genoa") as string,
    });
  });

  it("is verified each time it is read: what was put on the disk by others is fetched again", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, ROOTS);
    await cache.endorsement(A.request);
    const impostor = new TestAmd("Milan");
    const file = join(place.directory, "cache", "vcek", toHex(A.request.chipId), "bl04_tee00_snp24_ucode219_vcek.der");
    for (const bytes of [impostor.chip(1).vcek.der, A.vcek.der.subarray(0, 500)]) {
      writeFileSync(file, bytes);
      expect((await cache.endorsement(A.request)).chain.endorsementKey.der).toEqual(A.vcek.der);
      expect(new Uint8Array(readFileSync(file))).toEqual(A.vcek.der);
    }
    const chain = join(place.directory, "cache", "chain", "vcek_Milan.pem");
    for (const damage of [() => writeFileSync(chain, impostor.chainPem("vcek")), () => truncateSync(chain, 100), () => rmSync(chain)]) {
      damage();
      const fresh = await place.cache(network, ROOTS);
      expect((await fresh.endorsement(A.request)).chain.root.der).toEqual(milan.vcek.root.der);
      expect(readFileSync(chain, "utf8")).toBe(milan.chainPem("vcek"));
    }
  });

  it("ends with the certificate's time", async () => {
    using place = new Workplace();
    const network = upstream();
    const cache = await place.cache(network, ROOTS, { upstreams: [] });
    await cache.store.writeAuthorities("vcek", "Milan", [milan.vcek]);
    await cache.store.writeEndorsement(A.vcek);
    expect((await cache.endorsement(A.request)).origin).toBe("store");
    network.now += 101 * DAY;
    await expect(cache.endorsement(A.request)).rejects.toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });
  });
});

describe("an ASK that AMD has issued again under its name", () => {
  const again = milan.reissued();
  const C = again.chip(3);
  const RENEWED = again.chip(1);

  /** A cache that was filled before, and an upstream of today. */
  async function filled(
    place: Workplace,
    answer: TestNetwork["answer"],
    kind: "kds" | "azcache" = "kds",
  ): Promise<{ cache: EndorsementCache; network: TestNetwork }> {
    const network = upstream();
    await (await place.cache(network, ROOTS)).endorsement(A.request);
    network.now += HOUR;
    network.answer = answer;
    network.paths.length = 0;
    const source = kind === "kds" ? kdsSource({ ...network.ports, retries: 0 }) : azureCacheSource({ ...network.ports, retries: 0, endpoint: "cache.test" });
    return { cache: await place.cache(network, ROOTS, { upstreams: [source] }), network };
  }

  const intermediateOf = async (cache: EndorsementCache, { request }: typeof A): Promise<Uint8Array> =>
    (await cache.endorsement(request)).chain.intermediate.der;

  it.each(["kds", "azcache"] as const)("is learnt from %s, and what the old one signed is still handed out", async (kind) => {
    using place = new Workplace();
    const { cache, network } = await filled(place, upstreamOf(again, [C]), kind);
    expect(await intermediateOf(cache, C)).toEqual(again.vcek.intermediate.der);
    expect(network.paths).toHaveLength(kind === "kds" ? 2 : 1);
    expect(await intermediateOf(cache, C)).toEqual(again.vcek.intermediate.der);
    expect(network.paths).toHaveLength(kind === "kds" ? 2 : 1);
    expect((await cache.authorities("vcek", "Milan")).intermediate.der).toEqual(again.vcek.intermediate.der);
    const old = await cache.endorsement(A.request);
    expect([old.origin, old.isFormer, old.chain.intermediate.der]).toEqual(["store", true, milan.vcek.intermediate.der]);
    // Another process, without an upstream.
    const offline = await place.cache(network, ROOTS, { upstreams: [] });
    expect(await intermediateOf(offline, A)).toEqual(milan.vcek.intermediate.der);
    expect(await intermediateOf(offline, C)).toEqual(again.vcek.intermediate.der);
    expect((await offline.endorsement(C.request)).isFormer).toBe(false);
  });

  it("replaces the stored certificates under the old one as they are asked for", async () => {
    using place = new Workplace();
    const { cache, network } = await filled(place, upstreamOf(again, [C, RENEWED]));
    await cache.endorsement(C.request);
    expect((await cache.endorsement(A.request)).chain.endorsementKey.der).toEqual(RENEWED.vcek.der);
    const { origin, isFormer, chain } = await cache.endorsement(A.request);
    expect([origin, isFormer, chain.intermediate.der]).toEqual(["store", false, again.vcek.intermediate.der]);
    expect([network.paths.length, cache.store.count]).toEqual([3, 2]);
  });

  it.each<[string, (path: string) => Response]>([
    ["has none", upstreamOf(again, [C])],
    ["has the old one itself", (path) => (path.includes("SPL") ? upstreamOf(milan, [A])(path) : upstreamOf(again, [])(path))],
    ["fails", (path) => (path.includes("SPL") ? new Response(null, { status: 500 }) : upstreamOf(again, [])(path))],
  ])("is not asked about again and again if the upstream %s", async (_name, answer) => {
    using place = new Workplace();
    const { cache, network } = await filled(place, answer);
    await cache.store.writeAuthorities("vcek", "Milan", [again.vcek, milan.vcek]);
    for (let count = 0; count < 3; count++) expect(await intermediateOf(cache, A)).toEqual(milan.vcek.intermediate.der);
    expect(network.paths).toHaveLength(1);
    network.now += 600_000;
    expect(await intermediateOf(cache, A)).toEqual(milan.vcek.intermediate.der);
    expect(network.paths).toHaveLength(2);
  });

  it("costs nobody the old certificate when too much is under way", async () => {
    using place = new Workplace();
    const { cache, network } = await filled(place, upstreamOf(again, [C]));
    await cache.store.writeAuthorities("vcek", "Milan", [again.vcek, milan.vcek]);
    const busy = await place.cache(network, ROOTS, { limits: { fetches: 0 } });
    expect(await intermediateOf(busy, A)).toEqual(milan.vcek.intermediate.der);
    expect(network.paths).toEqual([]);
  });

  it.each(["kds", "azcache"] as const)("is no way in for another signer: %s", async (kind) => {
    using place = new Workplace();
    const impostor = new TestAmd("Milan");
    const { cache } = await filled(place, upstreamOf(impostor, [impostor.chip(3)]), kind);
    await expect(cache.endorsement(C.request)).rejects.toMatchObject({ code: "ERR_CERTCACHE_UNTRUSTED" });
    expect(readFileSync(join(place.directory, "cache", "chain", "vcek_Milan.pem"), "utf8")).toBe(milan.chainPem("vcek"));
    expect(cache.store.count).toBe(1);
  });

  it.each([
    [429, "ERR_SNP_KDS_THROTTLED"],
    [503, "ERR_SNP_KDS_UNAVAILABLE"],
    [404, "ERR_CERTCACHE_UNTRUSTED"],
  ])("cannot be had now (%i): the answer says whether to come back, and nothing is remembered", async (code, expected) => {
    using place = new Workplace();
    const { cache, network } = await filled(place, (path) => (path.includes("SPL") ? upstreamOf(again, [C])(path) : new Response(null, { status: code })));
    await expect(cache.endorsement(C.request)).rejects.toMatchObject({ code: expected });
    expect(cache.store.count).toBe(1);
    network.answer = upstreamOf(again, [C]);
    expect(await intermediateOf(cache, C)).toEqual(again.vcek.intermediate.der);
  });
});

describe("revocation lists", () => {
  const setup = async (
    place: Workplace,
  ): Promise<{ network: TestNetwork; crl: (der: Uint8Array | number) => void; ask: () => Promise<bigint | undefined>; asked: () => number }> => {
    const network = upstream();
    const cache = await place.cache(network, ROOTS);
    return {
      network,
      crl: (der) => {
        network.answer = upstreamOf(milan, CHIPS, () => (typeof der === "number" ? new Uint8Array() : der));
        if (typeof der === "number") network.answer = (path) => (path.endsWith("/crl") ? new Response(null, { status: der }) : upstreamOf(milan, CHIPS)(path));
      },
      ask: async () => (await cache.crl("vcek", "Milan")).number,
      asked: () => network.paths.filter((path) => path.endsWith("/crl")).length,
    };
  };

  it("are fetched again after an hour, and not before", async () => {
    using place = new Workplace();
    const { network, crl, ask, asked } = await setup(place);
    expect([await ask(), asked()]).toEqual([1n, 1]);
    crl(milan.crl(2n, { thisUpdate: NOW + 1000 }).der);
    network.now += HOUR - 1;
    expect([await ask(), asked()]).toEqual([1n, 1]);
    network.now += 1;
    expect([await ask(), asked()]).toEqual([2n, 2]);
    expect([await ask(), asked()]).toEqual([2n, 2]);
  });

  it("are fetched once for a hundred, and again by a new process", async () => {
    using place = new Workplace();
    const { network, asked } = await setup(place);
    const cache = await place.cache(network, ROOTS);
    await Promise.all(Array.from({ length: 100 }, async () => cache.crl("vcek", "Milan")));
    expect(asked()).toBe(1);
    await (await place.cache(network, ROOTS)).crl("vcek", "Milan");
    expect(asked()).toBe(2);
  });

  it.each([500, 429, 404])("that cannot be refreshed (%i) are handed out until nextUpdate and not a moment longer", async (code) => {
    using place = new Workplace();
    const { network, crl, ask, asked } = await setup(place);
    await ask();
    crl(code);
    network.now += HOUR;
    expect([await ask(), asked()]).toEqual([1n, 2]);
    // Nor is the upstream asked by every client.
    expect([await ask(), asked()]).toEqual([1n, 2]);
    network.now += 60_000;
    expect([await ask(), asked()]).toEqual([1n, 3]);
    network.now = NOW + DAY;
    expect(await ask()).toBe(1n);
    network.now = NOW + DAY + 1000;
    await expect(ask()).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_SNP_KDS_/) as string });
  });

  it("are refreshed at nextUpdate, however short it is", async () => {
    using place = new Workplace();
    const { network, crl, ask } = await setup(place);
    crl(milan.crl(1n, { nextUpdate: NOW + 60_000 }).der);
    expect(await ask()).toBe(1n);
    crl(milan.crl(2n, { thisUpdate: NOW + 60_000 }).der);
    network.now += 61_000;
    expect(await ask()).toBe(2n);
  });

  it("that are older than the stored one do not replace it", async () => {
    using place = new Workplace();
    const { network, crl, ask } = await setup(place);
    crl(milan.crl(7n).der);
    expect(await ask()).toBe(7n);
    for (const old of [milan.crl(6n), milan.crl(9n, { thisUpdate: NOW - 1000 })]) {
      crl(old.der);
      network.now += HOUR;
      expect(await ask()).toBe(7n);
    }
  });

  it.each<[string, () => Uint8Array]>([
    ["another root", () => new TestAmd("Milan").crl(1n).der],
    ["another product", () => genoa.crl(1n).der],
    ["yesterday", () => milan.crl(1n, { thisUpdate: NOW - 2 * DAY, nextUpdate: NOW - DAY }).der],
    ["tomorrow", () => milan.crl(1n, { thisUpdate: NOW + DAY, nextUpdate: NOW + 2 * DAY }).der],
  ])("of %s are refused", async (_name, der) => {
    using place = new Workplace();
    const { crl, ask } = await setup(place);
    crl(der());
    await expect(ask()).rejects.toMatchObject({ code: "ERR_CERTCACHE_UNTRUSTED" });
    expect(existsSync(join(place.directory, "cache", "crl"))).toBe(false);
  });

  it("that were damaged on the disk are fetched again", async () => {
    using place = new Workplace();
    const { ask, asked } = await setup(place);
    await ask();
    for (const bytes of [new TestAmd("Milan").crl(1n).der, Uint8Array.of(0x30)]) {
      writeFileSync(join(place.directory, "cache", "crl", "vcek_Milan.der"), bytes);
      expect(await ask()).toBe(1n);
    }
    expect(asked()).toBe(3);
  });
});

describe("distance from an upstream", () => {
  it("is kept by a cold cache: certificate, wait, chain", async () => {
    using place = new Workplace();
    const network = upstream();
    const source = kdsSource({ ...network.ports, fetch: spacedFetch({ ...network.ports, spacingMs: 10_000, maxQueueMs: 15_000 }), timeoutMs: 35_000 });
    await (await place.cache(network, ROOTS, { upstreams: [source] })).endorsement(A.request);
    expect(network.times).toEqual([NOW, NOW + 10_000]);
  });
});

const AZURE = "../shared/vectors/attestation/sidecar/azcache-milan-v3";

describe.skipIf(!existsSync(AZURE))("genuine certificates (skipped without ../shared/vectors/attestation)", () => {
  it("go through the cache, and verify a genuine report", async () => {
    using place = new Workplace();
    const pem = readFileSync(`${AZURE}/certchain.pem`, "utf8");
    const report = new Uint8Array(readFileSync(`${AZURE}/report.bin`));
    const network = new TestNetwork(() => new Response(pem));
    const cache = await place.cache(network, AMD_ROOTS, { upstreams: [azureCacheSource({ ...network.ports, endpoint: "americas.acccache.azure.net" })] });
    const request = endorsementRequestOf(parseReport(report));
    await cache.endorsement(request);
    const { chain, origin } = await cache.endorsement(request);
    expect(origin).toBe("store");
    expect(verifyReport({ report, certificates: chain, roots: AMD_ROOTS, clock: network.clock }).root.name).toBe("amd");
    const kept = join(place.directory, "cache", "vcek", toHex(request.chipId), "bl04_tee00_snp24_ucode219_vcek.der");
    expect(existsSync(kept)).toBe(true);
  });
});
