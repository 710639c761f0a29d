import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, lstatSync, utimesSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type CacheStore, LayerCacheFile, MemoryLayerCache } from "./layer-cache.ts";
import { MAX_CACHE_ROWS, MAX_CACHE_SIZE, parseCacheRows } from "./layers/cache-rows.ts";
import type { LayerFacts } from "./layers/facts.ts";
import { fileCacheStore } from "./layers/file-cache-store.ts";

const id = (name: string | number): string => `sha256:${createHash("sha256").update(String(name)).digest("hex")}`;
const HASH = "ab".repeat(32);
const TARFS: LayerFacts = { roots: { tarfs: HASH }, users: {} };
const FULL: LayerFacts = {
  roots: { tarfs: HASH, erofs: "cd".repeat(32) },
  users: {
    known: { passwd: { kind: "text", text: "root:x:0:0:é:/:\n" }, group: { kind: "removed" } },
    exact: { passwd: { kind: "text", text: "WHITEOUT" }, group: { kind: "link" } },
  },
};

/** A store in memory. */
function memoryStore(text?: string): CacheStore & { bytes: Uint8Array | undefined; text: string; writes: number } {
  return {
    bytes: text === undefined ? undefined : Buffer.from(text),
    writes: 0,
    get text() {
      return Buffer.from(this.bytes ?? []).toString();
    },
    set text(value) {
      this.bytes = Buffer.from(value);
    },
    async read() {
      return Promise.resolve(this.bytes);
    },
    async update(_, change) {
      const after = change(this.bytes);
      if (after === undefined) return Promise.resolve();
      this.bytes = after;
      this.writes++;
      return Promise.resolve();
    },
  };
}

async function open(store: CacheStore): Promise<{ cache: LayerCacheFile; problems: string[] }> {
  const problems: string[] = [];
  return { cache: await LayerCacheFile.open(store, (problem) => problems.push(problem)), problems };
}

describe("LayerCacheFile", () => {
  it("keeps all facts over a file", async () => {
    const store = memoryStore();
    const { cache } = await open(store);
    cache.put(id(1), TARFS);
    cache.put(id(2), FULL);
    cache.put(id(3), { roots: {}, users: {} });
    await cache.save();
    const again = await open(store);
    expect([again.cache.get(id(1)), again.cache.get(id(2)), again.cache.get(id(4)), again.problems]).toEqual([TARFS, FULL, undefined, []]);
    await again.cache.save();
    expect(store.writes, "nothing new, nothing written").toBe(1);
  });

  it("adds to what is known of a layer", async () => {
    const store = memoryStore(JSON.stringify([{ diff_id: id(1), verity_hash: HASH }]));
    const { cache } = await open(store);
    cache.put(id(1), { roots: { erofs: "cd".repeat(32) }, users: {} });
    expect(cache.get(id(1))?.roots).toEqual({ tarfs: HASH, erofs: "cd".repeat(32) });
    await cache.save();
    expect((await open(store)).cache.get(id(1))?.roots).toEqual({ tarfs: HASH, erofs: "cd".repeat(32) });
  });

  it("reads the files of both known tools, and writes rows that the AKS tool reads", async () => {
    const aks = await open(memoryStore(JSON.stringify([{ diff_id: id(1), verity_hash: HASH }], null, 2)));
    expect([aks.cache.get(id(1)), aks.problems]).toEqual([TARFS, []]);
    const upstream = await open(memoryStore(JSON.stringify([{ diff_id: id(1), passwd: "root:x:0:0:::\n", group: "WHITEOUT" }])));
    expect(upstream.cache.get(id(1))).toEqual({
      roots: {},
      users: { known: { passwd: { kind: "text", text: "root:x:0:0:::\n" }, group: { kind: "removed" } } },
    });
    const store = memoryStore();
    const { cache } = await open(store);
    cache.put(id(1), FULL);
    await cache.save();
    expect(JSON.parse(store.text)).toMatchObject([{ diff_id: id(1), verity_hash: HASH, passwd: "root:x:0:0:é:/:\n", group: "WHITEOUT" }]);
  });

  it("does not take an empty hash for a fact", async () => {
    const { cache, problems } = await open(memoryStore(JSON.stringify([{ diff_id: id(1), verity_hash: "" }])));
    expect([cache.get(id(1))?.roots, problems]).toEqual([{}, []]);
  });

  it.each([
    ["no JSON", Buffer.from("[{")],
    ["no array", Buffer.from('{ "settings": 1 }')],
    ["a list of something else", Buffer.from('[1, "x", { "verity_hash": "" }]')],
    ["no UTF-8", Buffer.from([0x5b, 0x22, 0xff, 0x22, 0x5d])],
    ["nested without end", Buffer.from("[".repeat(100_000))],
  ])("leaves a file alone that is %s", async (_, bytes) => {
    const store = memoryStore();
    store.bytes = bytes;
    const { cache, problems } = await open(store);
    expect(problems).toEqual(["not a layer cache: it is left as it is, and nothing is kept"]);
    cache.put(id(1), TARFS);
    expect(cache.get(id(1)), "in this run").toEqual(TARFS);
    await cache.save();
    expect([store.bytes, store.writes]).toEqual([bytes, 0]);
    // Also where it has come since the cache was opened.
    const late = memoryStore();
    const opened = await open(late);
    opened.cache.put(id(1), TARFS);
    late.bytes = bytes;
    await opened.cache.save();
    expect([late.bytes, late.writes]).toEqual([bytes, 0]);
  });

  it.each(["", " \n", "[]"])("takes %j for a cache with nothing in it", async (text) => {
    const store = memoryStore(text);
    const { cache, problems } = await open(store);
    cache.put(id(1), TARFS);
    await cache.save();
    expect([problems, (await open(store)).cache.get(id(1))]).toEqual([[], TARFS]);
  });

  it("notices a damaged entry, keeps the others, and mends the file", async () => {
    const store = memoryStore();
    const { cache } = await open(store);
    cache.put(id(1), TARFS);
    cache.put(id(2), FULL);
    await cache.save();
    const good = store.text;
    // Each digit of the hash, each letter of the text.
    for (const [from, to] of [
      [`"verity_hash":"${HASH}","erofs`, `"verity_hash":"${HASH.replace("a", "b")}","erofs`],
      ["root:x:0:0", "root:x:0:1"],
      [`"link"`, `"absent"`],
      [id(2), id(9)],
    ] as const) {
      expect(good).toContain(from);
      store.text = good.replace(from, to);
      const damaged = await open(store);
      expect(damaged.problems).toEqual(["1 of 2 entries are damaged; their layers are read again"]);
      expect([damaged.cache.get(id(1)), damaged.cache.get(id(2)), damaged.cache.get(id(9))]).toEqual([TARFS, undefined, undefined]);
      damaged.cache.put(id(2), FULL);
      await damaged.cache.save();
      expect(store.text).toBe(good);
    }
  });

  it.each([
    ["null", null],
    ["text", "x"],
    ["no diff id", { verity_hash: HASH }],
    ["a wrong diff id", { diff_id: "sha256:x", verity_hash: HASH }],
    ["a wrong hash", { diff_id: id(1), verity_hash: "x" }],
    ["a hash that is no text", { diff_id: id(1), verity_hash: 1 }],
    ["one user file", { diff_id: id(1), passwd: "" }],
    ["user files that are no text", { diff_id: id(1), passwd: 1, group: [] }],
    ["an unknown field", { diff_id: id(1), verity_hash: HASH, other: 1 }],
    ["a name of the prototype", JSON.parse(`{"diff_id":"${id(1)}","verity_hash":"${HASH}","__proto__":{"check":1}}`) as object],
    ["fields that only we write, without a checksum", { diff_id: id(1), erofs_hash: HASH }],
    ["a wrong checksum", { diff_id: id(1), verity_hash: HASH, check: "0".repeat(64) }],
    ["numbers, and a checksum", { diff_id: id(1), verity_hash: 12345678901234567890n.toString(), passwd: 1, group: 1, check: "0".repeat(64) }],
    ["an exact part that is no object", { diff_id: id(1), verity_hash: HASH, exact: 1 }],
    ["a checksum that is no text", { diff_id: id(1), verity_hash: HASH, check: null }],
  ])("takes a row with %s for damaged", (_, row) => {
    const { facts, problems } = parseCacheRows(JSON.stringify([row, { diff_id: id(2), verity_hash: HASH }]));
    expect([[...facts.keys()], problems]).toEqual([[id(2)], ["1 of 2 entries are damaged; their layers are read again"]]);
  });

  it("is bounded in rows, and drops the oldest", async () => {
    const store = memoryStore();
    const { cache } = await open(store);
    for (let i = 0; i < MAX_CACHE_ROWS; i++) cache.put(id(i), TARFS);
    await cache.save();
    const next = await open(store);
    expect(next.cache.get(id(0))).toEqual(TARFS);
    next.cache.put(id("new"), TARFS);
    // What is put in again is new again.
    next.cache.put(id(1), TARFS);
    await next.cache.save();
    const { cache: last, problems } = await open(store);
    expect([last.get(id(0)), last.get(id(1)), last.get(id("new")), problems]).toEqual([undefined, TARFS, TARFS, []]);
  });

  it("is bounded in bytes, and leaves out a row that would drive out others", async () => {
    const store = memoryStore();
    const { cache } = await open(store);
    const users = (length: number): LayerFacts => ({
      roots: {},
      users: { exact: { passwd: { kind: "text", text: "x".repeat(length) }, group: { kind: "absent" } } },
    });
    for (let i = 0; i < 80; i++) cache.put(id(i), users(250_000));
    cache.put(id("huge"), users(300_000));
    await cache.save();
    expect(store.text.length).toBeLessThanOrEqual(MAX_CACHE_SIZE);
    const again = await open(store);
    expect([again.problems, again.cache.get(id("huge")), again.cache.get(id(0))]).toEqual([[], undefined, undefined]);
    expect(again.cache.get(id(79))).toEqual(users(250_000));
  });
});

describe("MemoryLayerCache", () => {
  it("adds facts to facts", () => {
    const cache = new MemoryLayerCache();
    cache.put(id(1), TARFS);
    cache.put(id(1), { roots: { erofs: HASH }, users: {} });
    expect([cache.get(id(1)), cache.get("__proto__")]).toEqual([{ roots: { tarfs: HASH, erofs: HASH }, users: {} }, undefined]);
  });
});

describe("fileCacheStore", () => {
  let directory: string;
  let file: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-cache-"));
    file = join(directory, "layers-cache.json");
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  const saveOne = async (name: string, options = {}): Promise<void> => {
    const { cache } = await open(fileCacheStore(file, options));
    cache.put(id(name), TARFS);
    await cache.save();
  };
  const names = (): string[] => [...parseCacheRows(readFileSync(file, "utf8")).facts.keys()];

  it("makes the file, and leaves nothing beside it", async () => {
    await saveOne("a");
    await saveOne("b");
    expect(names()).toEqual([id("a"), id("b")]);
    expect(readdirSync(directory)).toEqual(["layers-cache.json"]);
    expect(statSync(file).mode & 0o777 & ~0o644).toBe(0);
  });

  it("merges what others have saved since it was read", async () => {
    const first = await open(fileCacheStore(file));
    await saveOne("b");
    first.cache.put(id("a"), TARFS);
    await first.cache.save();
    expect(names()).toEqual([id("b"), id("a")]);
  });

  it("loses nothing when several processes save at once", async () => {
    const script = fileURLToPath(new URL("layers/testdata/save-rows.ts", import.meta.url));
    const children = ["a", "b", "c", "d"].map((name) => spawn(process.execPath, [script, file, name, "12"], { stdio: ["pipe", "pipe", "pipe"] }));
    const errors: string[] = [];
    for (const child of children) child.stderr.on("data", (data: Buffer) => errors.push(data.toString()));
    await Promise.all(children.map(async (child) => once(child.stdout, "data")));
    const exits = children.map(async (child) => once(child, "exit"));
    for (const child of children) child.stdin.write("go\n");
    expect((await Promise.all(exits)).map(([code]) => code as unknown)).toEqual([0, 0, 0, 0]);
    expect(errors).toEqual([]);
    expect(new Set(names())).toEqual(new Set(["a", "b", "c", "d"].flatMap((name) => Array.from({ length: 12 }, (_, i) => id(`${name} ${i}`)))));
    expect(readdirSync(directory)).toEqual(["layers-cache.json"]);
  }, 60_000);

  it("takes over the lock of a process that is gone, also when several want it, and its guard", async () => {
    const dead = spawn(process.execPath, ["-e", ""]);
    await once(dead, "exit");
    writeFileSync(`${file}.lock`, `${dead.pid} 00ff ${hostname()}\n`);
    await Promise.all(["a", "b", "c"].map(async (name) => saveOne(name)));
    expect(new Set(names())).toEqual(new Set([id("a"), id("b"), id("c")]));
    writeFileSync(`${file}.lock`, `${dead.pid} 00ff ${hostname()}\n`);
    writeFileSync(`${file}.lock.takeover`, `${dead.pid} 00ff ${hostname()}\n`);
    utimesSync(`${file}.lock.takeover`, 1, 1);
    await saveOne("d");
    expect(readdirSync(directory)).toEqual(["layers-cache.json"]);
  });

  it("takes over any lock that is old, and waits for one that is not, but not for ever", async () => {
    for (const owner of [`${process.pid} 00ff ${hostname()}\n`, "1 00ff elsewhere\n", "what is this?"]) {
      writeFileSync(`${file}.lock`, owner);
      await expect(saveOne("a", { giveUp: 0 })).rejects.toMatchObject({ code: "ERR_GENPOLICY_FILE", hint: expect.stringContaining(".lock") as string });
      expect(existsSync(file), owner).toBe(false);
      utimesSync(`${file}.lock`, 1, 1);
      await saveOne("a");
      rmSync(file);
    }
  });

  it("leaves a file alone that is too large", async () => {
    writeFileSync(file, Buffer.alloc(MAX_CACHE_SIZE + 1, "["));
    await expect(fileCacheStore(file).read(MAX_CACHE_SIZE)).rejects.toMatchObject({ code: "ERR_GENPOLICY_FILE" });
    const { cache, problems } = await open(fileCacheStore(file));
    expect(problems).toEqual([expect.stringMatching(/^cannot be read: .* more than the limit of .*; it is left as it is/)]);
    cache.put(id(1), TARFS);
    await cache.save();
    expect([statSync(file).size, readdirSync(directory)]).toEqual([MAX_CACHE_SIZE + 1, ["layers-cache.json"]]);
    await expect(fileCacheStore(file).update(MAX_CACHE_SIZE, () => new Uint8Array())).rejects.toMatchObject({ code: "ERR_GENPOLICY_FILE" });
    expect([statSync(file).size, readdirSync(directory)]).toEqual([MAX_CACHE_SIZE + 1, ["layers-cache.json"]]);
  });

  it("does not wait for a pipe, and leaves it and other things that are no files as they are", async () => {
    spawnSync("mkfifo", [file]);
    for (const path of [file, "/dev/null", "/dev/zero", directory]) {
      const { cache, problems } = await open(fileCacheStore(path));
      expect(problems, path).toEqual([`cannot be read: ${path} is no file; it is left as it is, and nothing is kept`]);
      cache.put(id(1), TARFS);
      await cache.save();
    }
    expect(statSync(file).isFIFO()).toBe(true);
    expect(readdirSync(directory)).toEqual(["layers-cache.json"]);
  });

  it("writes through a link", async () => {
    writeFileSync(file, "[]\n");
    const link = join(directory, "link.json");
    symlinkSync("layers-cache.json", link);
    await fileCacheStore(link).update(MAX_CACHE_SIZE, (bytes) => {
      expect(Buffer.from(bytes ?? []).toString()).toBe("[]\n");
      return new TextEncoder().encode("[1]\n");
    });
    expect([readFileSync(file, "utf8"), lstatSync(link).isSymbolicLink()]).toEqual(["[1]\n", true]);
  });

  it("leaves the old file where the new one cannot be written", async () => {
    await saveOne("a");
    const before = readFileSync(file, "utf8");
    const thrown = fileCacheStore(file).update(MAX_CACHE_SIZE, () => {
      throw new Error("no");
    });
    await expect(thrown).rejects.toThrow("no");
    expect([readFileSync(file, "utf8"), readdirSync(directory)]).toEqual([before, ["layers-cache.json"]]);
    await expect(fileCacheStore(join(directory, "no", "such.json")).update(1, (bytes) => bytes)).rejects.toMatchObject({ code: "ERR_GENPOLICY_FILE" });
  });
});
