import { randomBytes } from "node:crypto";
import { gzipSync } from "node:zlib";
import { MEDIA_TYPES } from "@sealpod/oci";
import { buildErofsLayer, buildLayer, discard } from "@sealpod/verity";
import { toHex } from "@sealpod/core";
import { afterAll, describe, expect, it } from "vitest";
import type { LayerWish } from "./facts.ts";
import { LayerPool } from "./pool.ts";
import { file, pieces, PLAIN, sha256, stored, type StoredLayer, tarOf } from "./test-support.ts";

const SIGNAL = new AbortController().signal;
const TARFS: LayerWish = { format: "tarfs", users: "none" };
const ALL: LayerWish = { format: "tarfs", users: "exact" };
const PASSWD = "root:x:0:0:root:/root:/bin/sh\n";
const TAR = await tarOf({ ...PLAIN, kind: "directory", path: "etc" }, file("etc/passwd", PASSWD), file("app", randomBytes(3_000_000)));
const ROOT = toHex((await buildLayer(pieces(TAR), discard)).rootHash);
const ESCAPING_NAME = await tarOf(file("a/../../etc/passwd"));
const ESCAPING_LINK = await tarOf({ ...PLAIN, kind: "hardlink", path: "a", target: "../../etc/shadow" });
const MANY_USERS = await tarOf(file("etc/passwd", new Uint8Array(1024 * 1024 + 1)));

/** Everything on one thread, and on two threads however small the layer is. */
const MODES = { "this thread": { threads: 1 }, "worker threads": { threads: 2, smallLayer: 0 } } as const;

describe.each(Object.entries(MODES))("LayerPool on %s", (name, options) => {
  const pool = new LayerPool(options);
  afterAll(async () => pool.close());

  it.each(["none", "gzip", "zstd"] as const)("measures a layer packed with %s", async (packing) => {
    const { layer, bytes } = stored(TAR, packing);
    const facts = await pool.read(layer, () => pieces(bytes), ALL, SIGNAL);
    expect(facts).toEqual({ roots: { tarfs: ROOT }, users: { exact: { passwd: { kind: "text", text: PASSWD }, group: { kind: "absent" } } } });
    // One piece that is larger than a message, and crumbs.
    expect(await pool.read(layer, () => pieces(bytes, bytes.length), TARFS, SIGNAL)).toEqual({ roots: { tarfs: ROOT }, users: {} });
    expect(await pool.read(layer, () => pieces(bytes, 777), TARFS, SIGNAL)).toEqual({ roots: { tarfs: ROOT }, users: {} });
    // The source's own memory is still the source's.
    expect(sha256(bytes)).toBe(layer.digest);
    expect(pool.threads).toBe(name === "this thread" ? 0 : 1);
  });

  it("measures EROFS, or the user files alone", async () => {
    const { layer, bytes } = stored(TAR);
    const { roots } = await pool.read(layer, () => pieces(bytes), { format: "erofs", users: "none" }, SIGNAL);
    expect(roots).toEqual({ erofs: toHex((await buildErofsLayer(pieces(TAR), discard)).rootHash) });
    const { users } = await pool.read(layer, () => pieces(bytes), { format: "none", users: "known" }, SIGNAL);
    expect(users).toEqual({ known: { passwd: { kind: "text", text: PASSWD }, group: { kind: "absent" } } });
  });

  const good = stored(TAR);
  const cases: readonly [string, StoredLayer, string, RegExp][] = [
    ["bytes that are not those of the digest", { ...good, bytes: stored(TAR, "zstd").bytes }, "ERR_OCI_", /./],
    ["a stored size that is too small", { ...good, layer: { ...good.layer, size: good.layer.size - 1 } }, "ERR_OCI_MISMATCH", /more than the/],
    ["a cut layer", { ...good, bytes: good.bytes.subarray(0, -9) }, "ERR_OCI_", /bytes, its descriptor states|damaged/],
    ["another diff id", { ...good, layer: { ...good.layer, diffId: sha256(Buffer.from("x")) } }, "ERR_OCI_MISMATCH", /the image configuration states/],
    [
      "bytes behind a gzip stream",
      rawLayer(Buffer.concat([gzipSync(TAR), Buffer.from("more")]), MEDIA_TYPES.layerGzip),
      "ERR_OCI_COMPRESSION",
      /goes on after its end/,
    ],
    ["no tar", stored(Buffer.from("x".repeat(2000))), "ERR_VERITY_TAR", /header/],
    ["a name that leaves the root", stored(ESCAPING_NAME), "ERR_VERITY_TAR_PATH", /'\.\.' component/],
    ["a hard link that leaves the root", stored(ESCAPING_LINK), "ERR_VERITY_TAR_PATH", /'\.\.' component/],
    ["a user file over its limit", stored(MANY_USERS), "ERR_VERITY_LIMIT", /\/etc\/passwd has 1048577 bytes/],
  ];
  it.each(cases)("refuses %s", async (_, { layer, bytes }, code, message) => {
    const failure = await pool.read(layer, () => pieces(bytes), ALL, SIGNAL).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: expect.stringContaining(code) as string, message: expect.stringMatching(message) as string, row: { exit: 1 } });
    // It is as good as before.
    expect((await pool.read(good.layer, () => pieces(good.bytes), TARFS, SIGNAL)).roots).toEqual({ tarfs: ROOT });
    expect(pool.threads).toBeLessThanOrEqual(1);
  });

  it("takes symbolic links that point anywhere, and names with two dots in them", async () => {
    const { layer, bytes } = stored(await tarOf({ ...PLAIN, kind: "symlink", path: "a", target: "../../../etc/passwd" }, file("b..c"), file("..d")));
    await expect(pool.read(layer, () => pieces(bytes), TARFS, SIGNAL)).resolves.toBeDefined();
  });

  it("says what the source said when it failed, and closes it", async () => {
    let closed = false;
    const failing = async function* (): AsyncGenerator<Uint8Array> {
      try {
        yield good.bytes.subarray(0, 100_000);
        throw new Error("connection reset");
      } finally {
        closed = true;
      }
    };
    await expect(pool.read(good.layer, failing, TARFS, SIGNAL)).rejects.toThrow("connection reset");
    expect(closed).toBe(true);
    expect((await pool.read(good.layer, () => pieces(good.bytes), TARFS, SIGNAL)).roots).toEqual({ tarfs: ROOT });
  });

  it("stops what is under way, and never begins what waits, when the signal comes", async () => {
    const stop = new AbortController();
    const opened: string[] = [];
    const endless = (id: string) =>
      async function* (): AsyncGenerator<Uint8Array> {
        opened.push(id);
        if (opened.length === Math.max(1, options.threads)) stop.abort(new Error("enough"));
        for (;;) {
          await new Promise(setImmediate);
          yield new Uint8Array(1000);
        }
      };
    const huge = { ...good.layer, size: 2 ** 40, mediaType: MEDIA_TYPES.layer };
    const results = await Promise.allSettled(["a", "b", "c", "d"].map(async (id) => pool.read(huge, endless(id), TARFS, stop.signal)));
    expect(results.map((result) => result.status === "rejected" && (result.reason as Error).message)).toEqual(["enough", "enough", "enough", "enough"]);
    expect(opened).toEqual(["a", "b"].slice(0, options.threads));
  });

  it("ends at once with the signal, or when it is closed, while a source waits for bytes; the source is told", async () => {
    const pool = new LayerPool(options);
    const stop = new AbortController();
    const signals: AbortSignal[] = [];
    const isOpen = Array.from({ length: 2 }, () => Promise.withResolvers<void>());
    const stalled = async function* (signal: AbortSignal): AsyncGenerator<Uint8Array> {
      isOpen[signals.push(signal) - 1]?.resolve();
      await new Promise(() => undefined);
      yield new Uint8Array();
    };
    const reading = expect(pool.read(good.layer, stalled, TARFS, stop.signal)).rejects.toThrow("enough");
    await isOpen[0]?.promise;
    stop.abort(new Error("enough"));
    await reading;
    const other = expect(pool.read(good.layer, stalled, TARFS, SIGNAL)).rejects.toMatchObject({ code: "ERR_GENPOLICY_IMAGE" });
    await isOpen[1]?.promise;
    await pool.close();
    await other;
    expect(signals.map((signal) => signal.aborted)).toEqual([true, true]);
  });

  it("refuses everything once it is closed", async () => {
    const pool = new LayerPool(options);
    await pool.read(good.layer, () => pieces(good.bytes), TARFS, SIGNAL);
    await pool.close();
    expect(pool.threads).toBe(0);
    await expect(pool.read(good.layer, () => pieces(good.bytes), TARFS, SIGNAL)).rejects.toMatchObject({ code: "ERR_GENPOLICY_IMAGE" });
    await pool.close();
  });
});

describe("LayerPool's threads", () => {
  const { layer, bytes } = stored(TAR);

  it("are at most as many as it was told, and each takes the next layer", async () => {
    await using pool = new LayerPool({ threads: 2, smallLayer: 0 });
    let open = 0;
    let most = 0;
    const counted = async function* (): AsyncGenerator<Uint8Array> {
      most = Math.max(most, ++open);
      yield* pieces(bytes);
      open--;
    };
    await Promise.all(Array.from({ length: 6 }, async () => pool.read(layer, counted, TARFS, SIGNAL)));
    expect([most, pool.threads]).toEqual([2, 2]);
  });

  it("are not asked where a layer is small, there is one core, or the entry is not there", async () => {
    for (const options of [{ threads: 8 }, { threads: 1, smallLayer: 0 }, { threads: 8, smallLayer: 0, entry: new URL("nowhere.ts", import.meta.url) }]) {
      await using pool = new LayerPool(options);
      const small = stored(await tarOf(file("a")));
      await pool.read(small.layer, () => pieces(small.bytes), TARFS, SIGNAL);
      expect(pool.threads).toBe(0);
    }
  });

  it("never have more on their way than the bound, however slow they are", async () => {
    await using pool = new LayerPool({ threads: 2, smallLayer: 0 });
    const big = stored(await tarOf(file("zeros", new Uint8Array(24 * 1024 * 1024))), "none");
    let handed = 0;
    let atAsk = 0;
    // All of it is handed over before the thread has started: what is taken at once is what is in flight.
    const eager = async function* (): AsyncGenerator<Uint8Array> {
      for await (const piece of pieces(big.bytes, 256 * 1024)) {
        handed += piece.length;
        yield piece;
        if (pool.threads === 1 && atAsk === 0) setImmediate(() => (atAsk = handed));
      }
    };
    await pool.read(big.layer, eager, TARFS, SIGNAL);
    expect(handed).toBe(big.bytes.length);
    expect(atAsk).toBeLessThanOrEqual(9 * 256 * 1024);
  });

  it.each([
    ["throw", "dying-worker.ts", /the thread that read layer sha256:[0-9a-f]{64} failed: out of luck/],
    ["exit", "dying-worker.ts", /failed: it ended with exit code 7/],
    ["start", "broken-worker.ts", /failed: no such luck/],
  ])("give a clear error when they die (%s)", async (mediaType, entry, message) => {
    await using pool = new LayerPool({ threads: 2, smallLayer: 0, entry: new URL(`testdata/${entry}`, import.meta.url) });
    for (let i = 0; i < 3; i++) {
      await expect(pool.read({ ...layer, mediaType }, () => pieces(bytes), TARFS, SIGNAL)).rejects.toMatchObject({
        code: "ERR_GENPOLICY_IMAGE",
        message: expect.stringMatching(message) as string,
      });
    }
  });

  it("end with the pool, whatever they are doing", async () => {
    const pool = new LayerPool({ threads: 2, smallLayer: 0, entry: new URL("testdata/dying-worker.ts", import.meta.url) });
    // This worker never answers.
    const reading = pool.read({ ...layer, mediaType: "hang" }, () => pieces(bytes), TARFS, SIGNAL);
    const refused = expect(reading).rejects.toMatchObject({ code: "ERR_GENPOLICY_IMAGE" });
    await new Promise(setImmediate);
    expect(pool.threads).toBe(1);
    await pool.close();
    await refused;
    expect(pool.threads).toBe(0);
  });
});

function rawLayer(bytes: Uint8Array, mediaType: string): StoredLayer {
  return { layer: { digest: sha256(bytes), size: bytes.length, mediaType, diffId: sha256(TAR) }, bytes };
}
