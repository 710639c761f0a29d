import fc from "fast-check";
import { concatBytes, encodeUtf8, type ByteSource } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { SeededNumbers } from "../../../tools/testing/hostile.ts";
import { VerityError } from "../errors.ts";
import { levelSizes } from "../hash-tree.ts";
import { readTar, type TarEntry } from "../tar-reader.ts";
import type { TarItem } from "../tar-writer.ts";
import { collect, cutLayer, inPieces, memorySource, plain, tarOf } from "../testdata/archives.ts";
import { crc32c } from "./crc32c.ts";
import { openErofsLayer, readErofs } from "./reader.ts";
import { buildFrom } from "./test-support.ts";

/** What an unpacked tree has at a path; hard links of one file have the same `file`. */
interface Node {
  readonly kind: TarEntry["kind"];
  readonly mode: number;
  readonly owner: string;
  readonly mtime: number;
  readonly xattrs: Readonly<Record<string, string>>;
  readonly content: string;
  readonly file: string;
}

/** Unpacks entries into a map, as an extractor would into a directory; the names of hard links are told by the least of them. */
async function unpack(entries: AsyncIterable<TarEntry>): Promise<ReadonlyMap<string, Node>> {
  const found = new Map<string, Node>();
  for await (const entry of entries) {
    const path = entry.path.replace(/\/$/, "");
    const target = entry.kind === "hardlink" ? found.get(entry.target) : undefined;
    if (entry.kind === "hardlink") found.set(path, target ?? expect.fail(`${path} links to ${entry.target}, which did not come before it`));
    else {
      found.set(path, {
        kind: entry.kind,
        // What a whiteout or a link has for a mode, an owner and a time is nobody's business.
        mode: entry.kind === "symlink" || path.includes(".wh.") ? 0 : entry.mode,
        owner: path.includes(".wh.") ? "" : `${entry.uid}:${entry.gid}`,
        mtime: path.includes(".wh.") ? 0 : entry.mtime,
        xattrs: Object.fromEntries(
          [...entry.xattrs].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => [name, Buffer.from(value).toString("latin1")]),
        ),
        content:
          entry.kind === "file"
            ? Buffer.from(await collect(entry.data)).toString("latin1")
            : entry.kind === "symlink"
              ? entry.target
              : "major" in entry
                ? `${entry.major}:${entry.minor}`
                : "",
        file: path,
      });
    }
  }
  const least = new Map<string, string>();
  for (const path of [...found.keys()].sort().reverse()) least.set(found.get(path)?.file ?? "", path);
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([path, node]) => [path, { ...node, file: least.get(node.file) ?? "" }]));
}

const names = fc
  .oneof(
    { weight: 5, arbitrary: fc.stringMatching(/^[!-.0-~]{1,12}$/) },
    { weight: 2, arbitrary: fc.constantFrom("__proto__", "ünï", "日本", "a".repeat(250), "-", "...") },
  )
  .filter((name) => name !== "." && name !== ".." && !name.startsWith(".wh."));

interface Drawn {
  readonly kind: "file" | "symlink" | "fifo" | "character" | "block" | "directory" | "hardlink" | "whiteout" | "opaque";
  readonly name: string;
  /** Which of the directories, or of the files, that there are so far. */
  readonly pick: number;
  readonly mode: number;
  readonly owner: number;
  readonly mtime: number;
  readonly size: number;
  readonly target: string;
  readonly xattrs: Readonly<Record<string, string>>;
}

const drawn: fc.Arbitrary<Drawn> = fc.record({
  kind: fc.constantFrom("file", "file", "directory", "directory", "symlink", "fifo", "character", "block", "hardlink", "whiteout", "opaque"),
  name: names,
  pick: fc.nat(1000),
  mode: fc.nat(0o7777),
  owner: fc.nat(0xffff_ffff),
  mtime: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
  size: fc.oneof(fc.nat(9000), fc.constantFrom(0, 4096, 8192, 600_000)),
  target: fc.oneof(
    fc.stringMatching(/^[a-z/.]{1,40}$/),
    fc.integer({ min: 3900, max: 4095 }).map((length) => "t".repeat(length)),
  ),
  xattrs: fc.dictionary(
    fc.constantFrom("user.a", "security.capability", "system.posix_acl_access", "user.__proto__"),
    fc.oneof(fc.stringMatching(/^[a-z]{0,9}$/), fc.constant("v".repeat(5000))),
    { maxKeys: 3 },
  ),
});

/** An archive in which every name comes once, below a directory that came before. */
function archiveOf(all: readonly Drawn[]): readonly TarItem[] {
  const items: TarItem[] = [{ ...plain, kind: "directory", path: ".", mode: 0o755 }];
  const [taken, directories, files, opaque] = [new Set<string>(), [""], [] as string[], new Set<string>()];
  for (const one of all) {
    const parent = directories[one.pick % directories.length] ?? "";
    const path = parent + one.name;
    const base = {
      path,
      mode: one.mode,
      uid: one.owner,
      gid: one.owner >>> 1,
      mtime: one.mtime,
      xattrs: new Map(Object.entries(one.xattrs).map(([k, v]) => [k, encodeUtf8(v)])),
    };
    // A directory that is opaque has no whiteouts below it, so those are left to the ones that are not.
    if (one.kind === "opaque" && parent !== "" && !opaque.has(parent) && ![...taken].some((name) => name.startsWith(parent) && name.includes("\0"))) {
      opaque.add(parent);
      items.push({ ...plain, kind: "file", path: `${parent}.wh..wh..opq`, data: new Uint8Array(0) });
    }
    if (one.kind === "opaque" || taken.has(path) || taken.has(`${path}\0`) || path.length > 3000) continue;
    if (one.kind === "whiteout") {
      if ([...opaque].some((directory) => parent.startsWith(directory))) continue;
      items.push({ ...plain, kind: "file", path: `${parent}.wh.${one.name}`, data: new Uint8Array(0) });
      taken.add(`${path}\0`);
      continue;
    }
    const target = files[one.pick % files.length];
    if (one.kind === "hardlink" && target === undefined) continue;
    taken.add(path);
    if (one.kind === "directory") directories.push(`${path}/`);
    else if (one.kind !== "hardlink") files.push(path);
    if (one.kind === "hardlink") items.push({ ...base, kind: "hardlink", target: target ?? "", xattrs: new Map() });
    else if (one.kind === "file") items.push({ ...base, kind: "file", data: Uint8Array.from({ length: one.size }, (_, i) => i * 31) });
    else if (one.kind === "symlink") items.push({ ...base, kind: "symlink", target: one.target });
    else if (one.kind === "character" || one.kind === "block") items.push({ ...base, kind: one.kind, major: 1 + (one.owner % 0xfff), minor: one.size });
    else items.push({ ...base, kind: one.kind });
  }
  return items;
}

/** Directories of the root by another name. */
async function* rootless(entries: AsyncIterable<TarEntry>): AsyncIterable<TarEntry> {
  for await (const entry of entries) yield { ...entry, path: entry.path.replace(/^\.\//, "").replace(/^\.$/, "") };
}

async function sample(): Promise<Awaited<ReturnType<typeof buildFrom>>> {
  return buildFrom(
    await tarOf([
      { ...plain, kind: "directory", path: "bin", mode: 0o755, xattrs: new Map([["user.a", encodeUtf8("1")]]) },
      { ...plain, kind: "file", path: "bin/app", data: new Uint8Array(700_000).fill(7), mode: 0o4755 },
      { ...plain, kind: "hardlink", path: "bin/same", target: "bin/app" },
      { ...plain, kind: "hardlink", path: "bin/third", target: "bin/app" },
      { ...plain, kind: "directory", path: "bin/outer", mode: 0o755 },
      { ...plain, kind: "directory", path: "bin/outer/inner", mode: 0o755 },
      { ...plain, kind: "symlink", path: "bin/long", target: "t".repeat(4090) },
      { ...plain, kind: "file", path: "etc/motd", data: encodeUtf8("hello\n") },
      { ...plain, kind: "file", path: "etc/.wh.issue", data: new Uint8Array(0) },
      { ...plain, kind: "file", path: "var/.wh..wh..opq", data: new Uint8Array(0) },
      { ...plain, kind: "character", path: "null", major: 1, minor: 3 },
      ...Array.from({ length: 300 }, (_, i): TarItem => ({ ...plain, kind: "fifo", path: `many/${"n".repeat(20)}${i}` })),
    ]),
  );
}

async function drain(entries: AsyncIterable<TarEntry>): Promise<number> {
  let bytes = 0;
  for await (const entry of entries) for await (const chunk of entry.data) bytes += chunk.length;
  return bytes;
}

/** With the checksum of its superblock as it should be. */
function resealed(image: Uint8Array): Uint8Array {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  view.setUint32(1028, 0, true);
  view.setUint32(1028, crc32c(0xffff_ffff, image.subarray(1024, 4096)), true);
  return image;
}

async function codeOf(read: Promise<unknown>): Promise<string> {
  try {
    await read;
    return "accepted";
  } catch (error) {
    if (error instanceof VerityError) return error.code;
    throw error;
  }
}

describe("readErofs", () => {
  it("gives back what the archive holds", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(drawn, { maxLength: 40 }), async (all) => {
        const tar = await tarOf(archiveOf(all));
        const { image } = await buildFrom(tar);
        expect(await unpack(readErofs(memorySource(image)))).toEqual(await unpack(rootless(readTar(inPieces(tar, 65536)))));
      }),
      { numRuns: 100 },
    );
  });

  it("tells a directory before what is in it, and that a device 0:0 is a whiteout whatever else it is", async () => {
    const { image } = await buildFrom(
      await tarOf([
        { ...plain, kind: "character", path: "b/gone", major: 0, minor: 0, mode: 0o666 },
        { ...plain, kind: "hardlink", path: "a/also", target: "b/gone" },
      ]),
    );
    const seen: string[] = [];
    for await (const { kind, path } of readErofs(memorySource(image))) seen.push(`${kind} ${path}`);
    expect(seen).toEqual(["directory ", "directory a", "directory b", "file a/.wh.also", "file b/.wh.gone"]);
  });

  it("takes data that nobody reads for read", async () => {
    const { image } = await sample();
    const source = memorySource(image);
    let count = 0;
    for await (const _ of readErofs(source)) count++;
    expect(count).toBe(7 + 8 + 300);
    expect(source.reads.bytes).toBeLessThan(400_000);
  });

  it("refuses names that are no text, and layers above its limits", async () => {
    const { image } = await sample();
    for (const limits of [{ maxNodes: 300 }, { maxMetadata: 5000 }, { maxPathLength: 20 }]) {
      expect(await codeOf(drain(readErofs(memorySource(image), limits)))).toBe("ERR_VERITY_LIMIT");
    }
    image[Buffer.from(image).indexOf("motd")] = 0xc3;
    expect(await codeOf(drain(readErofs(memorySource(image))))).toBe("ERR_VERITY_TAR_UNSUPPORTED");
  });

  it("reads an amount that grows with the image: files, directories, links, names", async () => {
    const shapes: readonly ((i: number) => TarItem)[] = [
      (i) => ({ ...plain, kind: "file", path: `d${i % 7}/f${i}`, data: new Uint8Array(100) }),
      (i) => ({ ...plain, kind: "directory", path: `d${i % 50}/e${i}` }),
      (i) => (i === 0 ? { ...plain, kind: "fifo", path: "first" } : { ...plain, kind: "hardlink", path: `l${i}`, target: "first" }),
      (i) => ({ ...plain, kind: "directory", path: "n/".repeat(1 + (i % 400)) + i }),
    ];
    for (const shape of shapes) {
      const reads: number[] = [];
      for (const size of [500, 1000, 2000]) {
        const { image } = await buildFrom(await tarOf(Array.from({ length: size }, (_, i) => shape(i))));
        const source = memorySource(image);
        await drain(readErofs(source));
        reads.push(source.reads.bytes / image.length);
      }
      // Bytes read for each byte of the image: the metadata of a file, and its data, are read once or a few times.
      expect(Math.max(...reads), reads.join(" ")).toBeLessThan(4);
    }
  });
});

describe("openErofsLayer", () => {
  it("gives what the image has, and finds every bit that is another", async () => {
    const { info, file, image } = await sample();
    const layer = await openErofsLayer(memorySource(file), info.rootHash);
    expect(layer.imageSize).toBe(info.imageSize);
    expect(await unpack(layer.entries())).toEqual(await unpack(readErofs(memorySource(image))));
    for (let at = 0; at < file.length; at += 4096) {
      const bad = file.slice();
      const place = at + ((at / 4096) % 4096);
      bad[place] = (bad[place] ?? 0) ^ 4;
      const code = await codeOf(openErofsLayer(memorySource(bad), info.rootHash).then((other) => drain(other.entries())));
      expect(code, `byte ${place}`).toBe(at === file.length - 4096 ? "ERR_VERITY_LAYOUT" : "ERR_VERITY_CORRUPT");
    }
  });

  it("refuses another root hash, a shorter one and a file cut off", async () => {
    const { info, file } = await sample();
    const other = info.rootHash.slice();
    other[31] = (other[31] ?? 0) ^ 1;
    expect(await codeOf(openErofsLayer(memorySource(file), other).then((layer) => drain(layer.entries())))).toBe("ERR_VERITY_CORRUPT");
    expect(await codeOf(openErofsLayer(memorySource(file), other.subarray(1)))).toBe("ERR_VERITY_ARGUMENT");
    expect(await codeOf(openErofsLayer(memorySource(file.subarray(0, -4096)), info.rootHash))).toBe("ERR_VERITY_LAYOUT");
  });

  it("refuses a layer that the host has cut, under the same root hash", async () => {
    const { info, file } = await sample();
    let tried = 0;
    for (let left = 2; left < info.dataBlocks; left++) {
      if (levelSizes(left).length !== levelSizes(info.dataBlocks).length) continue;
      const cut = memorySource(cutLayer(file, info.dataBlocks, left));
      expect(await codeOf(openErofsLayer(cut, info.rootHash)), `${left} blocks`).toBe("ERR_VERITY_LAYOUT");
      tried++;
    }
    expect(tried).toBeGreaterThan(0);
  });

  it("uses the bytes that it checked, also if the host changes them meanwhile", async () => {
    const { info, file } = await sample();
    const good = await unpack((await openErofsLayer(memorySource(file), info.rootHash)).entries());
    let reads = 0;
    const fickle: ByteSource = {
      size: file.length,
      read(offset, length) {
        const bytes = file.slice(offset, offset + length);
        if (++reads % 3 === 0) queueMicrotask(() => bytes.fill(0));
        return Promise.resolve(bytes);
      },
    };
    // Either the same tree or an error of verification, never another tree.
    const result = await openErofsLayer(fickle, info.rootHash)
      .then((layer) => unpack(layer.entries()))
      .catch((error: unknown) => (error instanceof VerityError ? error.code : Promise.reject(error as Error)));
    if (typeof result === "string") expect(result).toMatch(/^ERR_VERITY_(CORRUPT|LAYOUT)$/);
    else expect(result).toEqual(good);
  });
});

describe("readErofs: images of nobody's making", () => {
  const at = (image: Uint8Array): { readonly view: DataView; readonly inode: (nid: number) => number } => {
    const view = new DataView(image.buffer, image.byteOffset, image.length);
    return { view, inode: (nid) => view.getUint32(1024 + 40, true) * 4096 + nid * 32 };
  };

  /** Where the entry of a name stands in an inline directory: its nid. */
  const entryOf = (image: Uint8Array, name: string): { readonly offset: number; readonly nid: number; readonly begin: number; readonly name: number } => {
    const view = new DataView(image.buffer, image.byteOffset, image.length);
    const buffer = Buffer.from(image.buffer, image.byteOffset, image.length);
    const nameAt = buffer.lastIndexOf(name);
    for (let offset = nameAt - 12; offset > nameAt - 4096; offset--) {
      const begin = nameAt - view.getUint16(offset + 8, true);
      const heads = begin < 0 ? 0 : view.getUint16(begin + 8, true);
      if (begin >= 0 && offset < begin + heads && heads % 12 === 0 && (offset - begin) % 12 === 0 && begin + heads <= nameAt) {
        return { offset, begin, name: nameAt, nid: Number(view.getBigUint64(offset, true)) };
      }
    }
    return expect.fail(`no entry of ${name}`);
  };

  const pokeFile = (image: Uint8Array, name: string, { block, size }: { readonly block: number; readonly size: number }): void => {
    const inode = at(image).inode(entryOf(image, name).nid);
    at(image).view.setBigUint64(inode + 8, BigInt(size), true);
    at(image).view.setUint32(inode + 16, block, true);
  };

  it.each<[string, RegExp, (image: Uint8Array) => void]>([
    [
      "a directory that holds its parent",
      /inode number/,
      (image) => at(image).view.setBigUint64(entryOf(image, "inner").offset, BigInt(entryOf(image, "outer").nid), true),
    ],
    [
      "a directory that holds itself",
      /./,
      (image) => at(image).view.setBigUint64(entryOf(image, "inner").offset, BigInt(entryOf(image, "outer").nid + 1), true),
    ],
    ["a node beyond the image", /not inside a block/, (image) => at(image).view.setBigUint64(entryOf(image, "inner").offset, 2n ** 63n, true)],
    ["a node across blocks", /not inside a block/, (image) => at(image).view.setBigUint64(entryOf(image, "inner").offset, 127n, true)],
    ["another kind than its directory says", /does not say/, (image) => at(image).view.setUint8(entryOf(image, "motd").offset + 10, 7)],
    ["a name with a slash", /has the name/, (image) => image.set(encodeUtf8("mo/d"), Buffer.from(image).lastIndexOf("motd"))],
    ["a name that is a whiteout's", /has the name/, (image) => image.set(encodeUtf8(".wh."), entryOf(image, "issue").name)],
    ["names out of order", /after/, (image) => image.set(encodeUtf8("aotd"), Buffer.from(image).lastIndexOf("motd"))],
    ["a file of 2^62 bytes", /is a file of/, (image) => at(image).view.setBigUint64(at(image).inode(entryOf(image, "motd").nid) + 8, 2n ** 62n, true)],
    [
      "a file with data in the metadata",
      /is a file of/,
      (image) => at(image).view.setUint32(at(image).inode(entryOf(image, "motd").nid) + 16, at(image).view.getUint32(1064, true), true),
    ],
    ["a file with the superblock for data", /is a file of/, (image) => at(image).view.setUint32(at(image).inode(entryOf(image, "motd").nid) + 16, 0, true)],
    ["more data than there is", /is a file of/, (image) => at(image).view.setBigUint64(at(image).inode(entryOf(image, "motd").nid) + 8, 600_000n, true)],
    ["a number of links that is not so", /links too few/, (image) => at(image).view.setUint32(at(image).inode(entryOf(image, "motd").nid) + 44, 2, true)],
    ["no links", /has no links/, (image) => at(image).view.setUint32(at(image).inode(entryOf(image, "motd").nid) + 44, 0, true)],
    ["an inode number twice", /inode number/, (image) => at(image).view.setUint32(at(image).inode(entryOf(image, "motd").nid) + 20, 1, true)],
    ["attributes beyond the image", /beyond the image/, (image) => at(image).view.setUint16(at(image).inode(entryOf(image, "motd").nid) + 2, 0xffff, true)],
    ["a compressed layout", /no inode of ours/, (image) => at(image).view.setUint16(at(image).inode(entryOf(image, "motd").nid), 3, true)],
    ["a socket", /no inode of ours/, (image) => at(image).view.setUint16(at(image).inode(entryOf(image, "motd").nid) + 4, 0o140644, true)],
    ["a root that is no directory", /root is no directory/, (image) => at(image).view.setUint16(1038, entryOf(image, "motd").nid, true)],
    ["one inode less than stated", /inodes found/, (image) => at(image).view.setBigUint64(1040, at(image).view.getBigUint64(1040, true) + 1n, true)],
    ["2^40 inodes", /states/, (image) => at(image).view.setBigUint64(1040, 2n ** 40n, true)],
    ["an incompatible feature", /none of ours/, (image) => at(image).view.setUint32(1024 + 80, 1, true)],
    ["metadata beyond the image", /states/, (image) => at(image).view.setUint32(1024 + 40, 0xffff_fff0, true)],
    ["data that files share, more than once over", /shares data/, (image) => pokeFile(image, "motd", { block: 1, size: 170 * 4096 })],
    ["a directory with more links", /directories and 3 links/, (image) => at(image).view.setUint32(entryOf(image, "motd").begin - 64 + 44, 3, true)],
    ["a name twice", /"null" after "null"/, (image) => image.set(encodeUtf8("null"), entryOf(image, "many").name)],
    ["another directory as .", /another directory as \./, (image) => at(image).view.setBigUint64(entryOf(image, "motd").begin, 2n, true)],
    ["a name more than links", /one link too many/, (image) => at(image).view.setUint32(at(image).inode(entryOf(image, "app").nid) + 44, 2, true)],
  ])("are refused: %s", async (_what, message, change) => {
    const { image } = await sample();
    const before = image.slice();
    change(image);
    expect(Buffer.compare(before, image), "nothing was changed").not.toBe(0);
    await expect(drain(readErofs(memorySource(resealed(image))))).rejects.toMatchObject({
      code: "ERR_VERITY_LAYOUT",
      message: expect.stringMatching(message) as string,
    });
  });

  it("are refused with a wrong checksum, another magic, no block or half a one", async () => {
    const { image } = await sample();
    const bad = image.slice();
    bad[1024 + 48] = (bad[1024 + 48] ?? 0) ^ 1;
    const other = image.slice();
    other[1024] = 0;
    for (const bytes of [bad, resealed(other), image.subarray(0, 4096), image.subarray(0, 5000), new Uint8Array(0)]) {
      expect(await codeOf(drain(readErofs(memorySource(bytes))))).toBe("ERR_VERITY_LAYOUT");
    }
  });

  it("cost no more than their size, whatever their bytes say, and fail with errors of this package alone", async () => {
    const { image } = await buildFrom(
      await tarOf([
        { ...plain, kind: "directory", path: "d", mode: 0o755, xattrs: new Map([["user.a", encodeUtf8("1")]]) },
        { ...plain, kind: "file", path: "d/f", data: new Uint8Array(9000) },
        { ...plain, kind: "hardlink", path: "d/g", target: "d/f" },
        { ...plain, kind: "symlink", path: "s", target: "d" },
        { ...plain, kind: "directory", path: "d/e", mode: 0o755 },
        ...Array.from({ length: 200 }, (_, i): TarItem => ({ ...plain, kind: "fifo", path: `m/${"n".repeat(20)}${i}` })),
      ]),
    );
    const numbers = new SeededNumbers(7);
    const metaAt = new DataView(image.buffer, image.byteOffset).getUint32(1064, true) * 4096;
    let accepted = 0;
    for (let round = 0; round < 1500; round++) {
      const bad = image.slice();
      for (let changes = 1 + numbers.below(3); changes > 0; changes--) {
        // In the superblock or the metadata: a field of up to eight bytes gets an edge, or another place's value.
        const place = numbers.below(8) === 0 ? 1024 + numbers.below(96) : metaAt + numbers.below(image.length - metaAt - 8);
        const from = metaAt + numbers.below(image.length - metaAt - 8);
        const aligned = numbers.below(2) === 0 ? place & ~3 : place;
        if (numbers.below(2) === 0) bad.set(image.subarray(from, from + 1 + numbers.below(64)).subarray(0, bad.length - aligned), aligned);
        else bad.fill(numbers.pick([0, 1, 2, 0x7f, 0x80, 0xff]), aligned, aligned + 1 + numbers.below(8));
      }
      const source = memorySource(resealed(bad));
      const code = await codeOf(drain(readErofs(source)));
      if (code === "accepted") accepted++;
      expect(source.reads.bytes, `round ${round}`).toBeLessThan(20 * image.length);
    }
    expect(accepted).toBeGreaterThan(20);
    expect(accepted).toBeLessThan(1450);
  });

  it("give nothing away of what lies before or behind them", async () => {
    const { image } = await sample();
    const source = memorySource(concatBytes(image, new Uint8Array(4096)));
    expect(await codeOf(drain(readErofs(source)))).toBe("ERR_VERITY_LAYOUT");
  });
});
