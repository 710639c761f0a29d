import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { EndorsementStore } from "./store.ts";
import { NOW, TestAmd } from "./testdata/amd.ts";
import { TestNetwork } from "./testdata/network.ts";
import { Workplace } from "./testdata/workplace.ts";

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

  it("keeps authorities and lists apart by kind and product", async () => {
    using place = new Workplace();
    const store = await place.store(network);
    await store.writeAuthorities("vcek", "Milan", milan.vcek);
    await store.writeAuthorities("vlek", "Milan", milan.vlek);
    await store.writeCrl("vcek", "Milan", milan.crl(3n));
    expect((await store.readAuthorities("vcek", "Milan"))?.intermediate.der).toEqual(milan.vcek.intermediate.der);
    expect((await store.readAuthorities("vlek", "Milan"))?.intermediate.der).toEqual(milan.vlek.intermediate.der);
    expect(await store.readAuthorities("vcek", "Turin")).toBeUndefined();
    expect((await store.readCrl("vcek", "Milan"))?.number).toBe(3n);
    expect(await store.readCrl("vlek", "Milan")).toBeUndefined();
    renameSync(join(store.directory, "chain", "vlek_Milan.pem"), join(store.directory, "chain", "vcek_Milan.pem"));
    expect(await store.readAuthorities("vcek", "Milan")).toBeUndefined();
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
    const authorities = [{ kind: "vcek", product: "Milan", authorities: milan.vcek }] as const;
    const all = { authorities, crls: [], certificates: [renewed.vcek, B.vcek, milan.chip(3).vcek, milan.chip(4).vcek] };
    await expect(store.writeAll(all)).rejects.toMatchObject({ code: "ERR_CERTCACHE_STORE" });
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(A.vcek.der);
    expect(await store.readEndorsement(B.request)).toBeUndefined();
    expect(await store.readAuthorities("vcek", "Milan")).toBeUndefined();
    expect(store.count).toBe(1);
    rmSync(fileOf(place, milan.chip(3)), { recursive: true });
    await store.writeAll(all);
    expect((await store.readEndorsement(A.request))?.certificate.der).toEqual(renewed.vcek.der);
    expect(store.count).toBe(4);
  });
});
