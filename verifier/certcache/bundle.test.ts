import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { toHex } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Bundle, encodeBundle, exportBundle, importBundle, parseBundle, readBundleDirectory } from "./bundle.ts";
import { CertcacheError } from "./errors.ts";
import type { EndorsementStore } from "./store.ts";
import { readVcek } from "./store.ts";
import { NOW, TestAmd } from "./testdata/amd.ts";
import { TestNetwork } from "./testdata/network.ts";
import { Workplace } from "./testdata/workplace.ts";

const milan = new TestAmd("Milan");
const turin = new TestAmd("Turin");
const A = milan.chip(1);
const B = milan.chip(2);
const T = turin.chip(1);
const network = new TestNetwork(() => new Error("nobody is asked here"));
const TRUST = { roots: [milan.root, turin.root], clock: network.clock };
const DAY = 86_400_000;

const CRL = milan.crl(5n);
const FULL: Bundle = {
  authorities: [
    { kind: "vcek", product: "Turin", authorities: turin.vcek },
    { kind: "vlek", product: "Milan", authorities: milan.vlek },
    { kind: "vcek", product: "Milan", authorities: milan.vcek },
  ],
  crls: [{ kind: "vcek", product: "Milan", crl: CRL }],
  vceks: [T, B, A].map(({ vcek }) => readVcek(vcek.der)),
};
const TEXT = encodeBundle(FULL);

async function filesOf(store: EndorsementStore): Promise<readonly string[]> {
  return existsSync(store.directory)
    ? readdirSync(store.directory, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ name }) => name)
        .sort()
    : [];
}

function edited(edit: (document: Record<string, unknown>) => void): string {
  const document = JSON.parse(TEXT) as Record<string, unknown>;
  edit(document);
  return JSON.stringify(document);
}

describe("bundles", () => {
  it("are the same bytes whatever the order, and are read as they are written", async () => {
    const other = { authorities: FULL.authorities.toReversed(), crls: FULL.crls, vceks: FULL.vceks.toReversed() };
    expect(encodeBundle(other)).toBe(TEXT);
    expect(encodeBundle(parseBundle(TEXT))).toBe(TEXT);
    expect(TEXT.split("\n").filter((line) => line.startsWith("{")).length).toBe(1 + 3 + 1 + 3);
    expect(TEXT.endsWith("]}\n")).toBe(true);
  });

  it("carry a cache from one place to another, and give the same bundle there", async () => {
    using here = new Workplace();
    using there = new Workplace();
    const first = await here.store(network);
    expect(await importBundle(first, parseBundle(TEXT), TRUST)).toEqual({ vceks: 3, known: 0, authorities: 3, crls: 1, oldCrls: 0 });
    const carried = encodeBundle(await exportBundle(first, TRUST));
    expect(carried).toBe(TEXT);
    const second = await there.store(network);
    await importBundle(second, parseBundle(carried), TRUST);
    expect((await second.readEndorsement(T.request))?.certificate.der).toEqual(T.vcek.der);
    expect(encodeBundle(await exportBundle(second, TRUST))).toBe(TEXT);
    expect(await importBundle(second, parseBundle(carried), TRUST)).toEqual({ vceks: 0, known: 3, authorities: 3, crls: 0, oldCrls: 1 });
    expect(second.count).toBe(3);
  });

  it("do not carry what is damaged, untrusted or over", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    await importBundle(store, FULL, TRUST);
    const file = join(store.directory, "vcek", toHex(A.request.chipId), "bl04_tee00_snp24_ucode219_vcek.der");
    writeFileSync(file, new TestAmd("Milan").chip(1).vcek.der);
    const bundle = await exportBundle(store, { roots: [milan.root], clock: { now: () => NOW + 2 * DAY } });
    expect(bundle.authorities.map(({ kind, product }) => `${kind} ${product}`)).toEqual(["vcek Milan", "vlek Milan"]);
    expect(bundle.crls).toEqual([]);
    expect(bundle.vceks.map(({ certificate }) => certificate.der)).toEqual([B.vcek.der]);
  });

  it.each<[string, Bundle, string]>([
    ["a certificate of an impostor", { ...FULL, vceks: [...FULL.vceks, readVcek(new TestAmd("Milan").chip(3).vcek.der)] }, "ERR_CERTCACHE_UNTRUSTED"],
    [
      "authorities of an impostor",
      { ...FULL, authorities: [{ kind: "vcek", product: "Milan", authorities: new TestAmd("Milan").vcek }] },
      "ERR_CERTCACHE_UNTRUSTED",
    ],
    ["a list of an impostor", { ...FULL, crls: [{ kind: "vcek", product: "Milan", crl: new TestAmd("Milan").crl(1n) }] }, "ERR_CERTCACHE_UNTRUSTED"],
    ["no authorities", { ...FULL, authorities: [] }, "ERR_CERTCACHE_UNTRUSTED"],
    [
      "a certificate whose time is over",
      { ...FULL, vceks: [...FULL.vceks, readVcek(milan.chip(3, { notBefore: NOW + DAY }).vcek.der)] },
      "ERR_CERTCACHE_UNTRUSTED",
    ],
    ["too many", { ...FULL, vceks: Array.from({ length: 5 }, (_, index) => readVcek(milan.chip(index).vcek.der)) }, "ERR_CERTCACHE_FULL"],
  ])("with %s are refused whole: nothing is written", async (_name, bundle, code) => {
    using place = new Workplace();
    const store = await place.store(network, 4);
    await expect(importBundle(store, bundle, TRUST)).rejects.toMatchObject({ code });
    expect(await filesOf(store)).toEqual([]);
    expect(store.count).toBe(0);
  });

  it("renew what a full store has, and count nothing twice", async () => {
    using place = new Workplace();
    const store = await place.store(network, 3);
    await importBundle(store, FULL, TRUST);
    const renewed = [milan.chip(1, { notBefore: NOW - 1000 }), milan.chip(2, { notBefore: NOW - 1000 })];
    expect(await importBundle(store, { ...FULL, vceks: renewed.map(({ vcek }) => readVcek(vcek.der)) }, TRUST)).toMatchObject({ vceks: 2 });
    // Nor does a damaged file keep its replacement out.
    writeFileSync(join(store.directory, "vcek", toHex(A.request.chipId), "bl04_tee00_snp24_ucode219_vcek.der"), "x");
    expect(await importBundle(store, { ...FULL, vceks: [readVcek(A.vcek.der)] }, TRUST)).toMatchObject({ vceks: 1 });
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(A.vcek.der);
    expect(store.count).toBe(3);
    const both = [milan.chip(1, { notBefore: NOW - 500 }), milan.chip(3)].map(({ vcek }) => readVcek(vcek.der));
    await expect(importBundle(store, { ...FULL, vceks: both }, TRUST)).rejects.toMatchObject({
      code: "ERR_CERTCACHE_FULL",
      message: expect.stringContaining("1 new certificates beside 3") as string,
    });
  });

  it("carry both pairs of an ASK that was issued again, and what is under either", async () => {
    using here = new Workplace();
    using there = new Workplace();
    const again = milan.reissued();
    const C = again.chip(3);
    const first = await here.store(network);
    const later = { roots: TRUST.roots, clock: { now: () => NOW + 3_600_000 } };
    await importBundle(first, FULL, later);
    await importBundle(first, { authorities: [{ kind: "vcek", product: "Milan", authorities: again.vcek }], crls: [], vceks: [readVcek(C.vcek.der)] }, later);
    expect((await first.readAuthorities("vcek", "Milan")).map(({ intermediate }) => intermediate.der)).toEqual(
      [again, milan].map(({ vcek }) => vcek.intermediate.der),
    );
    const carried = encodeBundle(await exportBundle(first, later));
    const second = await there.store(network);
    expect(await importBundle(second, parseBundle(carried), later)).toEqual({ vceks: 4, known: 0, authorities: 4, crls: 1, oldCrls: 0 });
    expect(encodeBundle(await exportBundle(second, later))).toBe(carried);
    // As a directory, and without the newer pair, what is under it is refused.
    expect((await readBundleDirectory(first.directory)).authorities).toHaveLength(4);
    using nowhere = new Workplace();
    await expect(importBundle(await nowhere.store(network), { ...parseBundle(carried), authorities: FULL.authorities }, later)).rejects.toMatchObject({
      code: "ERR_CERTCACHE_UNTRUSTED",
    });
  });

  it("bring newer lists and certificates, and never older ones", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    await importBundle(store, FULL, TRUST);
    const withCrl = (crl: typeof CRL): Bundle => ({ ...FULL, crls: [{ kind: "vcek", product: "Milan", crl }] });
    expect((await importBundle(store, withCrl(milan.crl(4n)), TRUST)).oldCrls).toBe(1);
    expect((await importBundle(store, withCrl(milan.crl(9n, { thisUpdate: NOW - 2 * DAY, nextUpdate: NOW - DAY })), TRUST)).oldCrls).toBe(1);
    expect((await store.readCrl("vcek", "Milan"))?.number).toBe(5n);
    expect((await importBundle(store, withCrl(milan.crl(6n)), TRUST)).crls).toBe(1);
    expect((await store.readCrl("vcek", "Milan"))?.number).toBe(6n);
    const newer = milan.chip(1, { notBefore: NOW - 1000 });
    const older = milan.chip(1, { notBefore: NOW - 3 * DAY });
    expect(await importBundle(store, { ...FULL, vceks: [readVcek(newer.vcek.der)] }, TRUST)).toMatchObject({ vceks: 1, known: 0 });
    expect(await importBundle(store, { ...FULL, vceks: [readVcek(older.vcek.der)] }, TRUST)).toMatchObject({ vceks: 0, known: 1 });
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(newer.vcek.der);
  });
});

type Entry = Record<string, string>;
const first = (document: Record<string, unknown>, list = "vceks"): Entry => (document[list] as Entry[])[0] ?? {};

describe("malformed bundles", () => {
  const vceks = (document: Record<string, unknown>): Entry[] => document["vceks"] as Entry[];

  it.each<[string, string]>([
    ["nothing", ""],
    ["no JSON", "certificates"],
    ["a list", "[]"],
    ["text after the end", `${TEXT}x`],
    ["a name twice", TEXT.replace('"version":1', '"version":1,"version":1')],
    ["another kind", edited((document) => (document["kind"] = "backup"))],
    ["another version", edited((document) => (document["version"] = 2))],
    ["an unknown name", edited((document) => (document["note"] = ""))],
    ["no certificates", edited((document) => delete document["vceks"])],
    ["certificates that are no list", edited((document) => (document["vceks"] = {}))],
    ["an entry that is none", edited((document) => (document["vceks"] = ["x"]))],
    ["an entry with more in it", edited((document) => (first(document)["path"] = "../../etc/passwd"))],
    ["an entry with less in it", edited((document) => delete first(document)["tcb"])],
    ["a certificate twice", edited((document) => vceks(document).push({ ...first(document) }))],
    ["authorities twice", edited((document) => (document["authorities"] as Entry[]).push({ ...first(document, "authorities") }))],
    ["a list twice", edited((document) => (document["crls"] as Entry[]).push({ ...first(document, "crls") }))],
    ["an unknown product", edited((document) => (first(document, "authorities")["product"] = "Rome"))],
    ["an unknown hierarchy", edited((document) => (first(document, "crls")["kind"] = "asvk"))],
    ["the authorities of another product", edited((document) => (first(document, "authorities")["product"] = "Genoa"))],
    ["another chip than is said", edited((document) => (first(document)["hwId"] = "00".repeat(64)))],
    ["a path for a chip", edited((document) => (first(document)["hwId"] = "../../etc"))],
    ["another TCB than is said", edited((document) => (first(document)["tcb"] = "00".repeat(8)))],
    ["a certificate that is no text", edited((document) => ((first(document) as Record<string, unknown>)["der"] = 1))],
    ["base64 that is none", edited((document) => (first(document)["der"] = "*"))],
    ["a certificate that is none", edited((document) => (first(document)["der"] = "AAAA"))],
    ["an authority for a chip", edited((document) => (first(document)["der"] = first(document, "authorities")["root"] ?? ""))],
  ])("with %s are refused", (_name, text) => {
    expect(() => parseBundle(text)).toThrow(expect.objectContaining({ code: "ERR_CERTCACHE_BUNDLE" }));
  });

  it("with more than the limit are refused", () => {
    expect(() => parseBundle(TEXT, 2)).toThrow(expect.objectContaining({ message: expect.stringContaining("limit of 2") as string }));
    expect(parseBundle(TEXT, 3).vceks).toHaveLength(3);
  });

  it("give ERR_CERTCACHE_BUNDLE and no other error, over ten thousand mutations", () => {
    // One small entry: what is read up to the mutation is read ten thousand times.
    const seed = encodeBundle({ authorities: [], crls: FULL.crls, vceks: FULL.vceks.slice(0, 1) });
    const insert = fc.constantFrom("", "\0", '"', "{", "}", "[", "]", ",", ":", "\\", "A", "/", "=", "1e999", "null", "-1", "\u{d800}", '"der":"",');
    let refused = 0;
    fc.assert(
      fc.property(fc.nat(seed.length), fc.nat(3), insert, (at, remove, text) => {
        const mutated = seed.slice(0, at) + text + seed.slice(at + remove);
        try {
          // What still reads is the same bundle, or one whose certificates are not verified yet: it can be written.
          encodeBundle(parseBundle(mutated));
        } catch (error) {
          if (!(error instanceof CertcacheError) || error.code !== "ERR_CERTCACHE_BUNDLE") throw error;
          refused++;
        }
      }),
      { numRuns: 10_000 },
    );
    expect(refused).toBeGreaterThan(5000);
  });

  it("do not read as something else with any byte of a certificate changed, or do not verify", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    const bundle = parseBundle(TEXT);
    const der = A.vcek.der;
    for (let at = 0; at < der.length; at += 5) {
      const changed = Uint8Array.from(der);
      changed[at] = (changed[at] ?? 0) ^ 0x04;
      const attempt = async (): Promise<unknown> => importBundle(store, { ...bundle, vceks: [readVcek(changed)] }, TRUST);
      await expect(attempt(), `byte ${at}`).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_(CERTCACHE|SNP|PKI)_/) as string });
    }
    expect(await filesOf(store)).toEqual([]);
  });
});

describe("errors of a bundle", () => {
  it.each<[string, string, RegExp]>([
    ["is empty", "", /^carried\.json:1:1: (?!.*bundle:)/],
    ["is of another kind", edited((document) => (document["kind"] = "backup")), /^carried\.json: kind is "backup"/],
    ["has a certificate that is none", edited((document) => (first(document)["der"] = "AAAA")), /^carried\.json: /],
  ])("name the file that %s, once", (_name, text, message) => {
    const refused = (): Bundle => parseBundle(text, undefined, "carried.json");
    expect(refused).toThrow(expect.objectContaining({ code: "ERR_CERTCACHE_BUNDLE", message: expect.stringMatching(message) as string }));
    expect(refused).toThrow(
      expect.objectContaining({ message: expect.not.stringMatching(/carried\.json.*carried\.json/s) as string, hint: expect.any(String) as string }),
    );
  });
});

describe("directories", () => {
  const FILE = "bl04_tee00_snp24_ucode219_vcek.der";

  function put(directory: string, path: string, bytes: Uint8Array | string): void {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), bytes);
  }

  it("of Trustee's offline store are imported with a chain from elsewhere", async () => {
    using place = new Workplace();
    const directory = join(place.directory, "trustee");
    put(directory, `vcek/${toHex(A.request.chipId)}/${FILE}`, A.vcek.der);
    put(directory, `vcek/${toHex(B.request.chipId)}/vcek.der`, B.vcek.der);
    // With and without the zeros of the report.
    put(directory, `vcek/${toHex(T.request.chipId)}/bl04_tee00_snp24_ucode219_fmc01_vcek.der`, T.vcek.der);
    put(directory, "vcek/README/notes.der", "not ours");
    put(directory, `vcek/${toHex(A.request.chipId)}/notes.txt`, "not ours");
    const store = await place.store(network);
    const bare = await readBundleDirectory(directory);
    expect(bare.ignored).toEqual({ count: 2, names: [`vcek/${toHex(A.request.chipId)}/notes.txt`, "vcek/README"].sort() });
    await expect(importBundle(store, bare, TRUST)).rejects.toMatchObject({
      code: "ERR_CERTCACHE_UNTRUSTED",
      hint: expect.stringMatching(/Trustee's offline store holds no ASK and ARK.*--chain.*\/vcek\/v1\/Turin\/cert_chain.*fetch --product Turin/) as string,
    });
    expect(await filesOf(store)).toEqual([]);
    const chains = [milan.chainPem("vcek"), turin.chainPem("vcek")];
    expect(await importBundle(store, await readBundleDirectory(join(directory, "vcek"), chains), TRUST)).toMatchObject({ vceks: 3, authorities: 2 });
    for (const chip of [A, B, T]) expect((await store.readEndorsement(chip.request))?.certificate.der).toEqual(chip.vcek.der);
    // Our own layout brings its chains along.
    using other = new Workplace();
    const copy = await other.store(network);
    expect(await importBundle(copy, await readBundleDirectory(store.directory), TRUST)).toMatchObject({ vceks: 3, authorities: 2 });
    expect(readFileSync(join(copy.directory, "chain", "vcek_Milan.pem"), "utf8")).toBe(milan.chainPem("vcek"));
  });

  it("say what in them is in no known layout, and are refused if nothing else is there, whatever chains are named", async () => {
    using place = new Workplace();
    const directory = join(place.directory, "flat");
    const chains = [milan.chainPem("vcek")];
    for (const name of ["a.der", "b.der", "chain/milan.pem", "crl/vcek_Milan.pem", "docs/x.der", "docs/y.der", "z"]) put(directory, name, A.vcek.der);
    await expect(readBundleDirectory(directory, chains)).rejects.toMatchObject({
      code: "ERR_CERTCACHE_BUNDLE",
      message: expect.stringMatching(
        /no certificates in a known layout; found a\.der, b\.der, chain\/milan\.pem, crl\/vcek_Milan\.pem, docs and 1 more$/,
      ) as string,
      hint: expect.stringContaining("vcek/HWID") as string,
    });
    put(directory, `vcek/${toHex(A.request.chipId)}/${FILE}`, A.vcek.der);
    put(directory, `vcek/${toHex(A.request.chipId)}/.${FILE}.0123456789abcdef.tmp`, "half");
    expect((await readBundleDirectory(directory, chains)).ignored).toEqual({
      count: 6,
      names: ["a.der", "b.der", "chain/milan.pem", "crl/vcek_Milan.pem", "docs"],
    });
    expect((await readBundleDirectory(join(directory, "vcek"), chains)).ignored).toEqual({ count: 0, names: [] });
  });

  it.each<[string, (directory: string) => void]>([
    ["nothing in them", (directory) => mkdirSync(directory)],
    ["another chip's certificate", (directory) => put(directory, `vcek/${toHex(A.request.chipId)}/${FILE}`, B.vcek.der)],
    ["another TCB's certificate", (directory) => put(directory, `vcek/${toHex(A.request.chipId)}/${FILE.replace("219", "218")}`, A.vcek.der)],
    ["another chip's only certificate", (directory) => put(directory, `vcek/${toHex(A.request.chipId)}/vcek.der`, B.vcek.der)],
    ["a damaged certificate", (directory) => put(directory, `vcek/${toHex(A.request.chipId)}/${FILE}`, A.vcek.der.subarray(1))],
    ["a damaged list", (directory) => put(directory, "crl/vcek_Milan.der", "x")],
    ["a damaged chain", (directory) => put(directory, "chain/vcek_Milan.pem", "x")],
  ])("with %s are refused", async (_name, make) => {
    using place = new Workplace();
    const directory = join(place.directory, "in");
    make(directory);
    await expect(readBundleDirectory(directory)).rejects.toMatchObject({ code: "ERR_CERTCACHE_BUNDLE" });
  });

  it("and chains that are none are refused", async () => {
    using place = new Workplace();
    for (const pem of ["x", milan.arkPem, A.pem])
      await expect(readBundleDirectory(place.directory, [pem])).rejects.toMatchObject({ code: "ERR_CERTCACHE_BUNDLE" });
  });
});
