import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { EndorsementStore } from "./store.ts";
import { NOW, TestAmd } from "./testdata/amd.ts";
import { TestNetwork } from "./testdata/network.ts";
import { Workplace } from "./testdata/workplace.ts";
import { MAX_PAIRS } from "./trust.ts";

const milan = new TestAmd("Milan");
const turin = new TestAmd("Turin");
const A = milan.chip(1);
const B = milan.chip(2);
const T = turin.chip(1);
const network = new TestNetwork(() => new Error("nobody is asked here"));

const FILE = "bl04_tee00_snp24_ucode219_vcek.der";

function fileOf(place: Workplace, chip: { readonly request: { readonly chipId: Uint8Array } }, name: string = FILE): string {
  return join(place.directory, "cache", "vcek", toHex(chip.request.chipId), name);
}

describe("the store", () => {
  it("keeps certificates in the layout of Trustee's offline store", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    expect(await store.readEndorsement(A.request)).toBeUndefined();
    expect(await store.writeEndorsement(A.vcek)).toBe("stored");
    expect(await store.writeEndorsement(T.vcek)).toBe("stored");
    expect(new Uint8Array(readFileSync(fileOf(place, A)))).toEqual(A.vcek.der);
    const turinFile = join(place.directory, "cache", "vcek", toHex(T.request.chipId.subarray(0, 8)), "bl04_tee00_snp24_ucode219_fmc01_vcek.der");
    expect(new Uint8Array(readFileSync(turinFile))).toEqual(T.vcek.der);
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(A.vcek.der);
    expect((await store.readEndorsement(T.request))?.key.product).toBe("Turin");
    expect(await store.readEndorsement(milan.chip(1, { microcode: 220 }).request)).toBeUndefined();
    expect(store.count).toBe(2);
    const names: string[] = [];
    for await (const entry of store.entries()) names.push(`${entry.hwId}/${entry.file}`);
    expect(names).toEqual([`${toHex(T.request.chipId.subarray(0, 8))}/bl04_tee00_snp24_ucode219_fmc01_vcek.der`, `${toHex(A.request.chipId)}/${FILE}`]);
    expect((await place.store(network)).count).toBe(2);
    expect(readdirSync(dirname(fileOf(place, A)))).toEqual([FILE]);
  });

  it("reads the file for any TCB that Trustee's users put there, if it is the right one", async () => {
    using place = new Workplace();
    mkdirSync(dirname(fileOf(place, A)), { recursive: true });
    writeFileSync(fileOf(place, A, "vcek.der"), A.vcek.der);
    const store = await place.store(network);
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(A.vcek.der);
    expect(await store.readEndorsement(milan.chip(1, { microcode: 220 }).request)).toBeUndefined();
    expect(place.log).toEqual([]);
  });

  it.each<[string, (path: string) => void]>([
    ["truncated", (path) => truncateSync(path, 700)],
    ["emptied", (path) => truncateSync(path, 0)],
    ["overwritten", (path) => writeFileSync(path, "<html>")],
    ["grown without end", (path) => truncateSync(path, 1 << 30)],
    [
      "replaced by a directory",
      (path) => {
        rmSync(path);
        mkdirSync(path);
      },
    ],
    [
      "replaced by a link",
      (path) => {
        renameSync(path, `${path}.real`);
        symlinkSync(`${path}.real`, path);
      },
    ],
    ["replaced by that of another chip", (path) => writeFileSync(path, B.vcek.der)],
    ["replaced by that of another TCB", (path) => writeFileSync(path, milan.chip(1, { microcode: 218 }).vcek.der)],
    ["replaced by an authority's", (path) => writeFileSync(path, milan.vcek.root.der)],
  ])("does not believe a file that was %s, says so, and replaces it", async (_name, damage) => {
    using place = new Workplace();
    const store = await place.store(network);
    await store.writeEndorsement(A.vcek);
    damage(fileOf(place, A));
    expect(await store.readEndorsement(A.request)).toBeUndefined();
    expect(place.log).toMatchObject([{ message: expect.stringContaining("damaged file") as string, fields: { path: fileOf(place, A) } }]);
    if (_name.includes("directory")) return;
    await store.writeEndorsement(A.vcek);
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(A.vcek.der);
    expect(store.count).toBe(1);
  });

  it("removes what a killed writer left, and not what one is writing", async () => {
    using place = new Workplace();
    await (await place.store(network)).writeEndorsement(A.vcek);
    const old = join(dirname(fileOf(place, A)), `.${FILE}.00112233445566ff.tmp`);
    const fresh = join(dirname(fileOf(place, A)), `.${FILE}.ff112233445566ff.tmp`);
    const other = join(dirname(fileOf(place, A)), "notes.tmp");
    for (const path of [old, fresh, other]) writeFileSync(path, A.vcek.der.subarray(0, 100));
    utimesSync(old, NOW / 1000 - 7200, NOW / 1000 - 7200);
    utimesSync(other, NOW / 1000 - 7200, NOW / 1000 - 7200);
    utimesSync(fresh, NOW / 1000 - 60, NOW / 1000 - 60);
    const store = await place.store(network);
    expect(new Set(readdirSync(dirname(old)))).toEqual(new Set([fresh, FILE, other].map((path) => path.split("/").at(-1))));
    expect(store.count).toBe(1);
    expect(await store.readEndorsement(A.request)).toBeDefined();
  });

  it("keeps no more than its limit, and replaces within it", async () => {
    using place = new Workplace();
    const store = await place.store(network, 2);
    const chips = [A, B, milan.chip(3), milan.chip(4)];
    const results = await Promise.all(chips.map(async ({ vcek }) => store.writeEndorsement(vcek)));
    expect(results.filter((result) => result === "stored")).toHaveLength(2);
    expect(results.filter((result) => result === "full")).toHaveLength(2);
    const kept = chips.find((_chip, index) => results[index] === "stored") ?? A;
    expect(await store.writeEndorsement(kept.vcek)).toBe("stored");
    expect(store.count).toBe(2);
    await expect(
      EndorsementStore.open({ directory: place.directory, maxEntries: 0, clock: network.clock, random: network.random, logger: place.logger }),
    ).rejects.toMatchObject({ code: "ERR_CERTCACHE_ARGUMENT" });
  });

  it("counts a certificate once that many write at the same time, and a failed writer lets the next one try", async () => {
    using place = new Workplace();
    const store = await place.store(network, 2);
    const writes = await Promise.all([A, A, B, A, B, A].map(async ({ vcek }) => store.writeEndorsement(vcek)));
    expect(writes).toEqual(Array.from({ length: 6 }, () => "stored"));
    expect(store.count).toBe(2);
    expect(await store.writeEndorsement(milan.chip(3).vcek)).toBe("full");
    using other = new Workplace();
    const blocked = await other.store(network, 2);
    mkdirSync(fileOf(other, A), { recursive: true });
    const results = await Promise.allSettled([A, A].map(async ({ vcek }) => blocked.writeEndorsement(vcek)));
    expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    rmSync(fileOf(other, A), { recursive: true });
    expect([await blocked.writeEndorsement(A.vcek), blocked.count]).toEqual(["stored", 1]);
  });

  it("knows what would be one more file", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    await store.writeEndorsement(A.vcek);
    truncateSync(fileOf(place, A), 3);
    expect([await store.isNew(A.vcek), await store.isNew(milan.chip(1, { notBefore: NOW }).vcek), await store.isNew(B.vcek)]).toEqual([false, false, true]);
  });

  it("keeps the pairs of an ASK that was issued again, the last in front, each once and only so many", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    const [second, third] = [milan.reissued(), milan.reissued().reissued()];
    await store.writeAuthorities("vcek", "Milan", [milan.vcek, third.vcek, milan.vcek, second.vcek]);
    const pairs = await store.readAuthorities("vcek", "Milan");
    expect(pairs.map(({ intermediate }) => intermediate.der)).toEqual([third, second, milan].map(({ vcek }) => vcek.intermediate.der));
    expect(pairs.every(({ root }) => Buffer.from(root.der).equals(milan.vcek.root.der))).toBe(true);
    const many = Array.from({ length: MAX_PAIRS + 2 }, () => milan.reissued().vcek);
    await store.writeAuthorities("vcek", "Milan", [milan.vcek, ...many]);
    expect((await store.readAuthorities("vcek", "Milan")).map(({ intermediate }) => intermediate.der)).toEqual(
      many.slice(0, MAX_PAIRS).map(({ intermediate }) => intermediate.der),
    );
    writeFileSync(join(store.directory, "chain", "vcek_Milan.pem"), `${milan.chainPem("vcek")}${milan.arkPem}`);
    expect(await store.readAuthorities("vcek", "Milan")).toEqual([]);
  });

  it("keeps authorities and lists apart by kind and product", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    await store.writeAuthorities("vcek", "Milan", [milan.vcek]);
    await store.writeAuthorities("vlek", "Milan", [milan.vlek]);
    await store.writeCrl("vcek", "Milan", milan.crl(3n));
    expect((await store.readAuthorities("vcek", "Milan")).map(({ intermediate }) => intermediate.der)).toEqual([milan.vcek.intermediate.der]);
    expect((await store.readAuthorities("vlek", "Milan")).map(({ intermediate }) => intermediate.der)).toEqual([milan.vlek.intermediate.der]);
    expect(await store.readAuthorities("vcek", "Turin")).toEqual([]);
    expect((await store.readCrl("vcek", "Milan"))?.number).toBe(3n);
    expect(await store.readCrl("vlek", "Milan")).toBeUndefined();
    renameSync(join(store.directory, "chain", "vlek_Milan.pem"), join(store.directory, "chain", "vcek_Milan.pem"));
    expect(await store.readAuthorities("vcek", "Milan")).toEqual([]);
  });

  it("says when the disk fails, and leaves nothing behind", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    writeFileSync(join(place.directory, "cache-is-a-file"), "");
    const broken = await EndorsementStore.open({
      directory: join(place.directory, "other"),
      clock: network.clock,
      random: network.random,
      logger: place.logger,
    });
    writeFileSync(join(place.directory, "other"), "a file where the directory should be");
    await expect(broken.writeEndorsement(A.vcek)).rejects.toMatchObject({ code: "ERR_CERTCACHE_STORE", hint: expect.stringContaining("written to") as string });
    expect(broken.count).toBe(0);
    mkdirSync(fileOf(place, A), { recursive: true });
    await expect(store.writeEndorsement(A.vcek)).rejects.toMatchObject({ code: "ERR_CERTCACHE_STORE" });
    expect(readdirSync(dirname(fileOf(place, A)))).toEqual([FILE]);
  });

  it("writes all or nothing", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    await store.writeEndorsement(A.vcek);
    const renewed = milan.chip(1, { notBefore: NOW - 1000 });
    mkdirSync(join(fileOf(place, milan.chip(3)), "in the way"), { recursive: true });
    const authorities = [{ kind: "vcek", product: "Milan", pairs: [milan.vcek] }] as const;
    const all = { authorities, crls: [], certificates: [renewed.vcek, B.vcek, milan.chip(3).vcek, milan.chip(4).vcek] };
    await expect(store.writeAll(all)).rejects.toMatchObject({ code: "ERR_CERTCACHE_STORE" });
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(A.vcek.der);
    expect(await store.readEndorsement(B.request)).toBeUndefined();
    expect(await store.readAuthorities("vcek", "Milan")).toEqual([]);
    expect(store.count).toBe(1);
    rmSync(fileOf(place, milan.chip(3)), { recursive: true });
    await store.writeAll(all);
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(renewed.vcek.der);
    expect(store.count).toBe(4);
  });
});
