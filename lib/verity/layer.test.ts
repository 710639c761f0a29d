import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { encodeUtf8, isSealpodError, toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { collect, cutLayer, inPieces, memorySink, memorySource, plain, rawHeader, rawMember, rawTar, tarOf } from "./testdata/archives.ts";
import { HashTreeBuilder, levelSizes, VERITY_BLOCK, verityRoot } from "./hash-tree.ts";
import { buildLayer, discard, openLayer, readTarImage, verifiedDataBlocks } from "./layer.ts";
import type { LayerInfo } from "./layer.ts";
import { TarIndex } from "./tar-index.ts";
import { TarScanner } from "./tar-scanner.ts";
import type { TarMember } from "./tar-scanner.ts";
import { DEFAULT_TAR_LIMITS } from "./limits.ts";

const VECTORS = new URL("../../../shared/vectors/tarfs/", import.meta.url);

async function build(tar: Uint8Array, chunk = 65536): Promise<{ readonly info: LayerInfo; readonly file: Uint8Array }> {
  const sink = memorySink();
  const info = await buildLayer(inPieces(tar, chunk), sink);
  return { info, file: sink.bytes() };
}

async function sample(): Promise<Uint8Array> {
  return tarOf([
    { ...plain, kind: "directory", path: "bin", mode: 0o755 },
    { ...plain, kind: "file", path: "bin/app", data: new Uint8Array(700_000).fill(7), mode: 0o755 },
    { ...plain, kind: "symlink", path: "bin/alias", target: "app" },
    { ...plain, kind: "file", path: "etc/motd", data: encodeUtf8("hello\n") },
  ]);
}

describe("buildLayer", () => {
  // Both hashes stand in policies that Microsoft published (specs/genpolicy.md 5.7).
  it.each([
    ["an empty GNU tar", 10240, "8568c70c0ccfe0051092e818da769111a59882cd19dd799d3bca5ffa82791080"],
    ["Docker's empty layer", 1024, "67450082ab56da1aecc5eae2f18d980cd9e7306e79334a1a826a91cfd90114a8"],
  ])("gives the published root hash of %s", async (_, size, rootHash) => {
    expect(toHex((await build(new Uint8Array(size))).info.rootHash)).toBe(rootHash);
  });

  const vectorFile = new URL("vectors.json", VECTORS);
  const haveVectors = existsSync(vectorFile);
  it.skipIf(!haveVectors)(`gives the root hashes of tar-rs${haveVectors ? "" : " (skipped: ../shared/vectors/tarfs is absent)"}`, async () => {
    const vectors = JSON.parse(readFileSync(vectorFile, "utf8")) as readonly {
      readonly file: string | null;
      readonly indexedSize: number;
      readonly dmVerityRootHash: string;
    }[];
    let checked = 0;
    for (const vector of vectors) {
      // v5.tar is listed but not shipped.
      if (vector.file === null || !existsSync(new URL(vector.file, VECTORS))) continue;
      const { info } = await build(readFileSync(new URL(vector.file, VECTORS)), 1000);
      expect([toHex(info.rootHash), info.dataBlocks * VERITY_BLOCK], vector.file).toEqual([vector.dmVerityRootHash, vector.indexedSize]);
      checked++;
    }
    expect(checked).toBeGreaterThanOrEqual(3);
  });

  it("gives the same file however the tar is cut", async () => {
    const tar = await sample();
    const whole = await build(tar, tar.length);
    for (const size of [1, 511, 4096, 4097, 100_000]) {
      const { info, file } = await build(tar, size);
      expect(Buffer.compare(file, whole.file), `chunks of ${size}`).toBe(0);
      expect(info).toEqual(whole.info);
    }
    expect(whole.info).toMatchObject({ tarSize: tar.length, size: whole.file.length });
  });

  it("needs no sink for the root alone", async () => {
    const tar = await sample();
    expect(await buildLayer(inPieces(tar, 5000), discard)).toEqual((await build(tar)).info);
  });

  it("refuses a tar that the extractor refuses", async () => {
    await expect(build(rawTar(rawHeader({ type: "S", magic: "ustar  \0" })))).rejects.toMatchObject({ code: "ERR_VERITY_TAR_UNSUPPORTED" });
    await expect(build(rawMember({}, "x").subarray(0, 600))).rejects.toMatchObject({ code: "ERR_VERITY_TAR_TRUNCATED" });
  });
});

describe("TarIndex", () => {
  function indexOf(tar: Uint8Array): {
    readonly inodes: readonly { readonly mode: number; readonly flags: number; readonly size: number; readonly offset: number }[];
    readonly nodes: number;
  } {
    const scanner = new TarScanner(DEFAULT_TAR_LIMITS);
    const index = new TarIndex();
    for (const event of scanner.push(tar)) if (event.kind === "member") index.add(event.member);
    scanner.end();
    const bytes = Buffer.concat([...index.encode(tar.length)]);
    const count = Number(bytes.readBigUInt64LE(bytes.length - 512 + 8));
    const inodes = Array.from({ length: count }, (_, i) => ({
      mode: bytes.readUInt16LE(i * 32),
      flags: bytes.readUInt8(i * 32 + 2),
      size: Number(bytes.readBigUInt64LE(i * 32 + 16)),
      offset: Number(bytes.readBigUInt64LE(i * 32 + 24)),
    }));
    return { inodes, nodes: index.nodes };
  }

  it("keeps the quirks of the original", () => {
    const { inodes } = indexOf(
      rawTar(
        rawMember({ name: "p/q/file", mode: "0004755\0" }, "abc"),
        rawHeader({ name: "link", type: "1", linkName: "./p/q/file" }),
        rawHeader({ name: "none", type: "1", linkName: "no/such" }),
        rawHeader({ name: "p/.wh.gone" }),
        rawHeader({ name: "p/.wh..wh..opq" }),
        rawHeader({ name: "../out" }),
        rawHeader({ name: "null", type: "3", major: "0000001\0" }),
      ),
    );
    // Breadth first, names in byte order: root, link, no, null, p, such, gone, q (its file is the link's inode).
    expect(inodes.map((inode) => inode.mode.toString(8))).toEqual(["40555", "100755", "0", "20644", "0", "0", "20000", "0"]);
    expect(inodes[1]).toMatchObject({ size: 3, offset: 512 });
    expect(inodes[3]?.offset).toBe(2 ** 32);
    expect(inodes[4]?.flags).toBe(1);
  });

  it("leaves out a symlink whose target does not stand in its header", () => {
    const target = "t".repeat(120);
    const { inodes } = indexOf(
      rawTar(
        rawMember({ type: "K" }, `${target}\0`),
        rawHeader({ name: "far", type: "2", linkName: target.slice(0, 100) }),
        rawHeader({ name: "near", type: "2", linkName: "here" }),
      ),
    );
    expect(inodes).toHaveLength(2);
    expect(inodes[1]).toMatchObject({ mode: 0o120644, size: 4, offset: 3 * 512 + 157 });
  });

  it("writes times before 1970 and far from now, sizes and devices as 64-bit numbers", () => {
    const member = (fields: Partial<TarMember>): TarMember => {
      const none = { kind: "file" as const, target: "", headerTarget: "", mode: 0o644, uid: 0, gid: 0, mtime: 0, major: 0, minor: 0, size: 0 };
      return { ...none, path: "x", headerOffset: 0, dataOffset: 512, pax: new Map(), ...fields };
    };
    const index = new TarIndex();
    index.add(member({ path: "a", mtime: -1, size: 2 ** 40 + 7, dataOffset: 2 ** 41 + 512 }));
    index.add(member({ path: "b", mtime: 2 ** 33 + 5, uid: 2 ** 32 - 1 }));
    index.add(member({ path: "c", kind: "block", mtime: -(2 ** 32) - 1, major: 8, minor: 3 }));
    const bytes = Buffer.concat([...index.encode(0)]);
    const inode = (number: number): (number | bigint)[] => {
      const at = (number - 1) * 32;
      return [bytes.readUInt8(at + 3), bytes.readUInt32LE(at + 12), bytes.readUInt32LE(at + 4), bytes.readBigUInt64LE(at + 16), bytes.readBigUInt64LE(at + 24)];
    };
    expect([2, 3, 4].map((number) => inode(number))).toEqual([
      [0xf, 0xffff_ffff, 0, 2n ** 40n + 7n, 2n ** 41n + 512n],
      [2, 5, 0xffff_ffff, 0n, 512n],
      [0xe, 0xffff_ffff, 0, 0n, (8n << 32n) | 3n],
    ]);
  });

  it("keeps names, not the paths that they were part of", () => {
    const script = fileURLToPath(new URL("testdata/long-paths.ts", import.meta.url));
    const { status, stdout } = spawnSync(process.execPath, ["--max-old-space-size=96", script], { encoding: "utf8" });
    expect([status, stdout]).toEqual([0, String(1 + 140 + 100_000)]);
  });

  it("costs memory in proportion to the archive: repeated members make no new nodes", () => {
    const once = indexOf(rawTar(rawHeader({ name: "a/b/c" })));
    const often = indexOf(rawTar(...Array.from({ length: 200 }, () => rawHeader({ name: "a/b/c" }))));
    expect(often.nodes).toBe(once.nodes);
  });
});

describe("openLayer", () => {
  it("gives the tar back, also twice and cut short", async () => {
    const tar = await sample();
    const { info, file } = await build(tar);
    const layer = await openLayer(memorySource(file), info.rootHash);
    expect(layer.tarSize).toBe(tar.length);
    for (let i = 0; i < 2; i++) expect(Buffer.compare(await collect(layer.tar()), tar)).toBe(0);
    for await (const _ of layer.tar()) break;
  });

  it("reads and hashes in proportion to the size", async () => {
    const cost = async (bytes: number): Promise<number> => {
      const { info, file } = await build(await tarOf([{ ...plain, kind: "file", path: "f", data: new Uint8Array(bytes) }]));
      const source = memorySource(file);
      await collect((await openLayer(source, info.rootHash)).tar());
      return source.reads.bytes / file.length;
    };
    // Each block is read once, but for the last group and the trailer, which opening reads as well.
    expect(await cost(2_000_000)).toBeLessThan(1.35);
    expect(await cost(8_000_000)).toBeLessThan(1.1);
    expect(await cost(32_000_000)).toBeLessThan(1.03);
  });

  it("detects any flipped byte: tar, index, superblock, tree, trailer", async () => {
    const { info, file } = await build(await sample());
    const verdict = async (bytes: Uint8Array): Promise<string> => {
      try {
        await collect((await openLayer(memorySource(bytes), info.rootHash)).tar());
        return "accepted";
      } catch (error) {
        if (isSealpodError(error)) return error.code;
        throw error;
      }
    };
    expect(await verdict(file)).toBe("accepted");
    const flipped = async (at: number, bit: number): Promise<string> => {
      const bytes = file.slice();
      bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
      return verdict(bytes);
    };
    const data = info.dataBlocks * VERITY_BLOCK;
    for (const at of [0, info.tarSize, data - 512, data - 1]) expect(await flipped(at, 0)).toBe("ERR_VERITY_CORRUPT");
    for (const at of [data, data + 100, file.length - VERITY_BLOCK - 1]) expect(await flipped(at, 3)).toBe("ERR_VERITY_CORRUPT");
    for (const at of [file.length - VERITY_BLOCK, file.length - 512, file.length - 508, file.length - 504, file.length - 1]) {
      expect(await flipped(at, 1)).toBe("ERR_VERITY_LAYOUT");
    }
    await fc.assert(
      fc.asyncProperty(fc.nat(file.length - 1), fc.nat(7), async (at, bit) => {
        expect(await flipped(at, bit)).toMatch(/^ERR_VERITY_(CORRUPT|LAYOUT)$/);
      }),
      { numRuns: 150, seed: 3 },
    );
  });

  it("yields no byte of a corrupt group", async () => {
    const { info, file } = await build(await tarOf([{ ...plain, kind: "file", path: "f", data: new Uint8Array(2_000_000) }]));
    const at = 600_000;
    file[at] = (file[at] ?? 0) ^ 1;
    const seen: number[] = [];
    await expect(
      (async () => {
        for await (const chunk of (await openLayer(memorySource(file), info.rootHash)).tar()) seen.push(chunk.length);
      })(),
    ).rejects.toMatchObject({ code: "ERR_VERITY_CORRUPT" });
    expect(seen).toEqual([128 * VERITY_BLOCK]);
  });

  it("uses the bytes it checked, though the source changes between reads", async () => {
    const { info, file } = await build(await sample());
    const good = memorySource(file);
    let reads = 0;
    const tar = await collect(
      (
        await openLayer(
          {
            size: file.length,
            async read(offset, length) {
              const bytes = await good.read(offset, length);
              // The host gives each range once and garbage ever after.
              if (offset < 128 * VERITY_BLOCK && ++reads > 1) bytes.fill(0xee);
              return bytes;
            },
          },
          info.rootHash,
        )
      ).tar(),
    );
    expect(Buffer.compare(tar, await sample())).toBe(0);
  });

  it("refuses the wrong root, and files that are cut, longer, or none", async () => {
    const { info, file } = await build(await sample());
    const open = async (bytes: Uint8Array, root = info.rootHash): Promise<unknown> => openLayer(memorySource(bytes), root);
    await expect(open(file, new Uint8Array(32))).rejects.toMatchObject({ code: "ERR_VERITY_CORRUPT" });
    await expect(open(file, new Uint8Array(31))).rejects.toMatchObject({ code: "ERR_VERITY_ARGUMENT" });
    for (const bytes of [
      new Uint8Array(),
      new Uint8Array(5 * VERITY_BLOCK),
      file.subarray(0, -1),
      file.subarray(VERITY_BLOCK),
      file.subarray(0, -VERITY_BLOCK),
      Buffer.concat([file, new Uint8Array(VERITY_BLOCK)]),
      Buffer.concat([file.subarray(0, -VERITY_BLOCK), new Uint8Array(VERITY_BLOCK), file.subarray(-VERITY_BLOCK)]),
    ]) {
      await expect(open(bytes), `${bytes.length} bytes`).rejects.toMatchObject({ code: "ERR_VERITY_LAYOUT" });
    }
  });

  it("refuses a trailer with a huge count, and a source that returns too little", async () => {
    const { info, file } = await build(await sample());
    const forged = file.slice();
    new DataView(forged.buffer).setBigUint64(forged.length - 504, 2n ** 63n, true);
    await expect(openLayer(memorySource(forged), info.rootHash)).rejects.toMatchObject({ code: "ERR_VERITY_LAYOUT" });
    const short = { size: file.length, read: (offset: number, length: number) => Promise.resolve(file.slice(offset, offset + length - 1)) };
    await expect(openLayer(short, info.rootHash)).rejects.toMatchObject({ code: "ERR_VERITY_LAYOUT" });
  });

  it("checks the bounds of a superblock that is under a valid tree", async () => {
    const data = new Uint8Array(2 * VERITY_BLOCK);
    new DataView(data.buffer).setBigUint64(2 * VERITY_BLOCK - 512, 2n ** 40n, true);
    const tree = new HashTreeBuilder(new Uint8Array(32), { keep: true });
    tree.update(data);
    const { rootHash, blocks } = tree.finish();
    const { file } = await build(new Uint8Array());
    const forged = Buffer.concat([data, ...blocks, file.subarray(-VERITY_BLOCK)]);
    await expect(openLayer(memorySource(forged), rootHash)).rejects.toMatchObject({ code: "ERR_VERITY_LAYOUT" });
  });
});

describe("a layer that the host has cut", () => {
  /** A file whose every block ends like the superblock of a layer with a shorter tar. */
  const withSuperblocks = async (blocks: number, tarSize: number): Promise<Uint8Array> => {
    const data = new Uint8Array(blocks * VERITY_BLOCK);
    const view = new DataView(data.buffer);
    // Behind two headers and the first file, the data begins at 1536 of the archive.
    for (let at = VERITY_BLOCK - 512 - 1536 + VERITY_BLOCK; at + 16 < data.length; at += VERITY_BLOCK) {
      view.setBigUint64(at, BigInt(tarSize), true);
      view.setBigUint64(at + 8, 1n, true);
    }
    return tarOf([
      { ...plain, kind: "file", path: "etc/config", data: encodeUtf8("mode=permissive\n") },
      { ...plain, kind: "file", path: "lib/data", data },
      { ...plain, kind: "file", path: "etc/config", data: encodeUtf8("mode=strict\n") },
    ]);
  };

  it.each([
    ["to its first member", 20, 1024],
    ["to nothing", 20, 0],
    ["to its first member, with two levels of the tree", 300, 1024],
  ])("%s is refused before a byte of it is used", async (_what, blocks, tarSize) => {
    const { info, file } = await build(await withSuperblocks(blocks, tarSize));
    await collect((await openLayer(memorySource(file), info.rootHash)).tar());
    expect(await verifiedDataBlocks(memorySource(file), info.rootHash)).toBe(info.dataBlocks);
    let tried = 0;
    for (let left = 2; left < info.dataBlocks; left++) {
      if (levelSizes(left).length !== levelSizes(info.dataBlocks).length) continue;
      const cut = cutLayer(file, info.dataBlocks, left);
      await expect(openLayer(memorySource(cut), info.rootHash), `${left} blocks`).rejects.toMatchObject({ code: "ERR_VERITY_LAYOUT" });
      await expect(verifiedDataBlocks(memorySource(cut), info.rootHash)).rejects.toMatchObject({ code: "ERR_VERITY_LAYOUT" });
      tried++;
    }
    expect(tried).toBeGreaterThan(15);
  });

  // Whoever verifies the blocks of such an image has not been told how many there are.
  it.each([
    ["its first member", 1024],
    ["nothing", 0],
  ])("is no image of %s: its index is not there", async (_what, tarSize) => {
    const { info, file } = await build(await withSuperblocks(200, tarSize));
    const image = file.subarray(0, info.dataBlocks * VERITY_BLOCK);
    await collect((await readTarImage(memorySource(image))).tar());
    let tried = 0;
    for (let left = 3; left < 200; left++) {
      const cut = await readTarImage(memorySource(image.subarray(0, left * VERITY_BLOCK)));
      expect(cut.tarSize).toBe(tarSize);
      await expect(collect(cut.tar()), `${left} blocks`).rejects.toMatchObject({ code: "ERR_VERITY_LAYOUT" });
      tried++;
    }
    expect(tried).toBe(197);
  });

  it("has all of its index, and nothing in it or behind it that is another's", async () => {
    const { info, file } = await build(await sample());
    const image = file.slice(0, info.dataBlocks * VERITY_BLOCK);
    const verdict = async (bytes: Uint8Array): Promise<string> => {
      try {
        await collect((await readTarImage(memorySource(bytes))).tar());
        return "accepted";
      } catch (error) {
        return isSealpodError(error) ? error.code : Promise.reject(error as Error);
      }
    };
    expect(await verdict(image)).toBe("accepted");
    for (const at of [info.tarSize, info.tarSize + 1, info.tarSize + 40, image.length - 513, image.length - 504, image.length - 1]) {
      const other = image.slice();
      other[at] = (other[at] ?? 0) ^ 1;
      expect(await verdict(other), `byte ${at}`).toBe("ERR_VERITY_LAYOUT");
    }
    const [most, last] = [image.subarray(0, -VERITY_BLOCK), image.subarray(-VERITY_BLOCK)];
    expect(await verdict(new Uint8Array(Buffer.concat([most, new Uint8Array(VERITY_BLOCK), last])))).toBe("ERR_VERITY_LAYOUT");
    expect(await verdict(new Uint8Array(Buffer.concat([image, last])))).toBe("ERR_VERITY_LAYOUT");
  });
});

describe("HashTreeBuilder", () => {
  it("has the levels that the kernel expects", () => {
    expect(levelSizes(1)).toEqual([]);
    expect(levelSizes(128)).toEqual([1]);
    expect(levelSizes(129)).toEqual([2, 1]);
    expect(levelSizes(128 * 128)).toEqual([128, 1]);
    expect(levelSizes(128 * 128 + 1)).toEqual([129, 2, 1]);
  });

  it("makes as many blocks as the levels say, and the same root without keeping them", async () => {
    for (const dataBlocks of [1, 2, 127, 128, 129, 255, 257, 128 * 128, 128 * 128 + 1]) {
      const block = new Uint8Array(VERITY_BLOCK);
      const kept = new HashTreeBuilder(new Uint8Array(32), { keep: true });
      const dropped = new HashTreeBuilder(new Uint8Array(32), { keep: false });
      for (let i = 0; i < dataBlocks; i++) {
        block[0] = i;
        block[1] = i >> 8;
        kept.update(block);
        dropped.update(block);
      }
      const tree = kept.finish();
      expect(tree.blocks.length).toBe(levelSizes(dataBlocks).reduce((sum, size) => sum + size, 0));
      expect(toHex(dropped.finish().rootHash)).toBe(toHex(tree.rootHash));
    }
  });

  it("refuses data that is no whole number of blocks", async () => {
    await expect(verityRoot(memorySource(new Uint8Array(100)), new Uint8Array(32))).rejects.toMatchObject({ code: "ERR_VERITY_ARGUMENT" });
    await expect(verityRoot(memorySource(new Uint8Array()), new Uint8Array(32))).rejects.toMatchObject({ code: "ERR_VERITY_ARGUMENT" });
    await expect(verityRoot(memorySource(new Uint8Array(4096)), new Uint8Array(257))).rejects.toMatchObject({ code: "ERR_VERITY_ARGUMENT" });
  });
});
