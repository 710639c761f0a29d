import fc from "fast-check";
import { encodeUtf8, toHex } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { verityRoot } from "../hash-tree.ts";
import { discard } from "../layer.ts";
import { inPieces, memorySource, plain, rawHeader, rawMember, rawTar, tarOf } from "../testdata/archives.ts";
import { encodeTar } from "../tar-writer.ts";
import type { TarItem } from "../tar-writer.ts";
import { buildErofsLayer } from "./build.ts";
import { buildFrom, patchableSink, readImage, superblockOf } from "./test-support.ts";
import type { Found } from "./test-support.ts";

const SALT = new Uint8Array(32);

async function sample(): Promise<Uint8Array> {
  return tarOf([
    { ...plain, kind: "directory", path: "bin", mode: 0o755 },
    {
      ...plain,
      kind: "file",
      path: "bin/app",
      data: new Uint8Array(700_000).fill(7),
      mode: 0o4755,
      xattrs: new Map([["security.capability", encodeUtf8("cap")]]),
    },
    { ...plain, kind: "symlink", path: "bin/alias", target: "app" },
    { ...plain, kind: "hardlink", path: "bin/same", target: "bin/app" },
    { ...plain, kind: "file", path: "etc/motd", data: encodeUtf8("hello\n") },
    { ...plain, kind: "file", path: "etc/.wh.issue", data: new Uint8Array(0) },
    { ...plain, kind: "file", path: "var/.wh..wh..opq", data: new Uint8Array(0) },
    { ...plain, kind: "character", path: "null", major: 1, minor: 3 },
  ]);
}

describe("buildErofsLayer: the file", () => {
  it("is image, tree and trailer, with the root hash of the image", async () => {
    const { info, file, image } = await buildFrom(await sample());
    expect(info).toEqual({
      rootHash: await verityRoot(memorySource(image), SALT),
      imageSize: info.dataBlocks * 4096,
      dataBlocks: info.dataBlocks,
      size: file.length,
      undeclaredDirectories: { count: 2, first: "etc" },
    });
    const trailer = Buffer.from(file.subarray(-4096));
    expect([trailer.readUInt32LE(3584), trailer.readUInt32LE(3588), trailer.readBigUInt64LE(3592)]).toEqual([4096, 4096, BigInt(info.dataBlocks)]);
    expect(trailer.filter((byte) => byte !== 0)).toHaveLength(3);
  });

  // Levels of one, two and three; the first hash block of each is the one that block 0 is put into last.
  it.each([1, 126, 127, 128, 300, 128 * 128 + 5])("has the right tree over %i blocks of data, kept or not", async (blocks) => {
    const tar = await tarOf([{ ...plain, kind: "file", path: "f", data: new Uint8Array(blocks * 4096).fill(blocks) }]);
    const { info, file, image } = await buildFrom(tar, 1 << 20);
    expect(toHex(info.rootHash)).toBe(toHex(await verityRoot(memorySource(image), SALT)));
    expect(await buildErofsLayer(inPieces(tar, 1 << 20), discard)).toEqual(info);
    // The top of the tree, which is first in the file, hashes to the root.
    const top = Buffer.concat([SALT, file.subarray(info.imageSize, info.imageSize + 4096)]);
    expect(toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", top)))).toBe(toHex(info.rootHash));
  });

  it("is the same however the tar is cut", async () => {
    const tar = await sample();
    const whole = await buildFrom(tar, tar.length);
    for (const size of [1, 511, 4096, 4097, 100_000]) {
      const { info, file } = await buildFrom(tar, size);
      expect(Buffer.compare(file, whole.file), `chunks of ${size}`).toBe(0);
      expect(info).toEqual(whole.info);
    }
  });

  it("is no EROFS image until block 0 is put in place, the last thing that happens", async () => {
    const sink = patchableSink();
    const steps: string[] = [];
    const { imageSize } = await buildErofsLayer(inPieces(await sample(), 4096), {
      write: (bytes) => {
        steps.push("write");
        return sink.write(bytes);
      },
      writeAt: (offset, bytes) => {
        steps.push(`writeAt ${offset} ${bytes.length}`);
        expect(sink.bytes().subarray(0, 4096)).toEqual(new Uint8Array(4096));
        return sink.writeAt(offset, bytes);
      },
    });
    expect(steps.filter((step) => step !== "write")).toEqual(["writeAt 0 4096"]);
    expect(steps.at(-1)).toBe("writeAt 0 4096");
    expect(readImage(sink.bytes().subarray(0, imageSize)).size).toBe(10);
  });

  it("passes on what the sink and the tar say", async () => {
    const failing = { write: () => Promise.reject(new Error("disk full")), writeAt: () => Promise.resolve() };
    await expect(buildErofsLayer(inPieces(await sample(), 100), failing)).rejects.toThrow("disk full");
    await expect(buildFrom(rawMember({}, "x").subarray(0, 600))).rejects.toMatchObject({ code: "ERR_VERITY_TAR_TRUNCATED" });
    await expect(buildFrom(rawTar(rawHeader({ type: "S", magic: "ustar  \0" })))).rejects.toMatchObject({ code: "ERR_VERITY_TAR_UNSUPPORTED" });
  });

  // A change here changes every policy that was ever made: it needs a new name for the format.
  it.each([
    ["no members", [], "2deecc35d8d0f918c8dcb13e4078b18b346b4385ef6e4e8ae40978acb6e2b3fb"],
    [
      "one file",
      [{ ...plain, kind: "file", path: "etc/motd", data: encodeUtf8("hello\n") }],
      "a459c504240262901a60ff14660bc28bb639d3b1c524567ab2c87f6428a14bc2",
    ],
  ] as readonly (readonly [string, readonly TarItem[], string])[])("has its golden root hash: %s", async (_, items, rootHash) => {
    expect(toHex((await buildFrom(await tarOf(items))).info.rootHash)).toBe(rootHash);
  });

  it("has its golden root hash: a bit of all", async () => {
    expect(toHex((await buildFrom(await sample())).info.rootHash)).toBe("a2f58a0454bfa4aa8ac309bfc6b37136a2afc0df2111457cc205614670cc1514");
  });

  it("names the file system after its contents", async () => {
    const uuid = async (text: string): Promise<string> =>
      superblockOf((await buildFrom(await tarOf([{ ...plain, kind: "file", path: "f", data: encodeUtf8(text) }]))).image).uuid;
    expect(await uuid("a")).toBe(await uuid("a"));
    expect(await uuid("a")).not.toBe(await uuid("b"));
    expect(await uuid("a")).toMatch(/^[0-9a-f]{12}8[0-9a-f]{3}[89ab][0-9a-f]{15}$/);
  });
});

/** A tree as the property makes it: unique names, each with what the image must show. */
type Tree = { readonly [name: string]: Leaf | { readonly children: Tree; readonly mode: number } };
interface Leaf {
  readonly kind: "file" | "symlink" | "fifo" | "character" | "block";
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: number;
  readonly text: string;
  readonly size: number;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: Readonly<Record<string, string>>;
}

const names = fc
  .oneof(
    { weight: 5, arbitrary: fc.stringMatching(/^[!-.0-~]{1,12}$/) },
    { weight: 2, arbitrary: fc.constantFrom("__proto__", "constructor", "ünï", "日本", "a".repeat(255), "-", "...", "~") },
  )
  .filter((name) => name !== "." && name !== ".." && !name.startsWith(".wh."));

const leaf: fc.Arbitrary<Leaf> = fc.record({
  kind: fc.constantFrom("file", "file", "symlink", "fifo", "character", "block"),
  mode: fc.nat(0o7777),
  uid: fc.nat(0xffff_ffff),
  gid: fc.nat(0xffff_ffff),
  mtime: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
  text: fc.oneof(
    fc.stringMatching(/^[a-z/.]{1,40}$/),
    fc.integer({ min: 3900, max: 4095 }).map((length) => "t".repeat(length)),
  ),
  size: fc.oneof(fc.nat(9000), fc.constantFrom(0, 4096, 8192)),
  major: fc.nat(0xfff),
  minor: fc.nat(0xf_ffff),
  xattrs: fc.dictionary(
    fc.constantFrom("user.a", "user.b", "security.capability", "system.posix_acl_access", "user.__proto__"),
    fc.oneof(fc.stringMatching(/^[a-z]{0,9}$/), fc.constant("v".repeat(5000))),
    { maxKeys: 3 },
  ),
});

const { tree } = fc.letrec<{ tree: Tree; node: Tree[string] }>((tie) => ({
  node: fc.oneof({ depthSize: "small" }, leaf, fc.record({ children: tie("tree"), mode: fc.nat(0o7777) })),
  tree: fc.dictionary(names, tie("node"), { maxKeys: 5 }),
}));

function flatten(tree: Tree, at: string, items: TarItem[], expected: Map<string, Omit<Found, "nid">>): void {
  for (const [name, node] of Object.entries(tree)) {
    const path = `${at}${name}`;
    const shown = Buffer.from(path).toString("latin1");
    if ("children" in node) {
      const below = Object.values(node.children).filter((child) => "children" in child).length;
      items.push({ kind: "directory", path, mode: node.mode, uid: 1, gid: 2, mtime: 3 });
      expected.set(shown, { kind: "directory", mode: node.mode, uid: 1, gid: 2, mtime: 3, nanoseconds: 0, links: 2 + below, xattrs: {}, content: "" });
      flatten(node.children, `${path}/`, items, expected);
      continue;
    }
    const { kind, mode, uid, gid, mtime } = node;
    const xattrs = new Map(Object.entries(node.xattrs).map(([key, value]) => [key, encodeUtf8(value)]));
    const base = { path, mode, uid, gid, mtime, xattrs };
    const found = { kind, mode, uid, gid, mtime, nanoseconds: 0, links: 1, xattrs: { ...node.xattrs } };
    switch (kind) {
      case "file":
        items.push({ ...base, kind, data: new Uint8Array(node.size).fill(0x61) });
        expected.set(shown, { ...found, content: "a".repeat(node.size) });
        break;
      case "symlink":
        items.push({ ...base, kind, target: node.text });
        expected.set(shown, { ...found, mode: 0o777, content: node.text });
        break;
      case "fifo":
        items.push({ ...base, kind });
        expected.set(shown, { ...found, content: "" });
        break;
      default:
        items.push({ ...base, kind, major: node.major, minor: node.minor });
        expected.set(shown, { ...found, content: `${node.major}:${node.minor}` });
    }
  }
}

function withoutNid(found: Found): Omit<Found, "nid"> {
  return { ...found, nid: undefined } as Omit<Found, "nid">;
}

describe("buildErofsLayer: the tree", () => {
  it("is what the archive holds", async () => {
    await fc.assert(
      fc.asyncProperty(tree, fc.integer({ min: 1, max: 20_000 }), async (made, chunk) => {
        const items: TarItem[] = [];
        const expected = new Map<string, Omit<Found, "nid">>();
        flatten(made, "", items, expected);
        const { image, info } = await buildFrom(await tarOf(items), chunk);
        const found = readImage(image);
        expect(withoutNid(found.get("") ?? expect.fail("no root"))).toMatchObject({ kind: "directory", mode: 0o755, uid: 0, gid: 0, mtime: 0 });
        expect(new Map([...found].filter(([path]) => path !== "").map(([path, inode]) => [path, withoutNid(inode)]))).toEqual(expected);
        expect(toHex(info.rootHash)).toBe(toHex(await verityRoot(memorySource(image), SALT)));
      }),
      { numRuns: 150 },
    );
  });

  it("has the same metadata whatever the order of the archive", async () => {
    const files = ["b/x", "a", "b/y", "c/d/e"].map((path): TarItem => ({ ...plain, kind: "fifo", path }));
    const one = await buildFrom(await tarOf(files));
    const other = await buildFrom(await tarOf([...files].reverse()));
    expect(toHex(one.info.rootHash)).toBe(toHex(other.info.rootHash));
  });

  it("holds a directory of many blocks, sorted in each and over all", async () => {
    const items = Array.from({ length: 3000 }, (_, i): TarItem => ({ ...plain, kind: "fifo", path: `d/${"n".repeat(i % 250)}${(i * 7919) % 3000}` }));
    const found = readImage((await buildFrom(await tarOf(items))).image);
    expect(found.size).toBe(3002);
    expect(found.get("d")?.links).toBe(2);
  });

  // The root is the first inode: with more than 3968 bytes it does not fit into the first block any more and begins the second, with more than 4032
  // it has blocks of its own.
  it.each([0, 25, 26, 27, 60, 89, 90, 91, 300])("holds a root directory of 3942 + %i bytes", async (more) => {
    const names = [...Array.from({ length: 15 }, (_, i) => `${i}`.padStart(249, "x")), ...(more < 13 ? [] : ["y".repeat(Math.min(more - 12, 255))])];
    const isMoved = more > 26 && more <= 90;
    const found = readImage((await buildFrom(await tarOf(names.map((path): TarItem => ({ ...plain, kind: "fifo", path }))))).image);
    expect([...found.keys()].sort()).toEqual(["", ...names].sort());
    expect(found.get("")?.nid).toBe(isMoved ? 128 : 2);
  });

  // The last is what makes a body stand behind its inode or not: 4096 - 64 bytes do, one more does not.
  it.each([1, 4031, 4032, 4033, 4095])("holds a symbolic link with a target of %i bytes", async (length) => {
    const target = "t".repeat(length);
    expect(readImage((await buildFrom(await tarOf([{ ...plain, kind: "symlink", path: "s", target }]))).image).get("s")?.content).toBe(target);
  });

  it("holds attributes up to the largest, over several blocks", async () => {
    const xattrs = new Map(["a", "b", "c"].map((name, i) => [`user.${name}`, new Uint8Array(65535).fill(0x61 + i)]));
    const found = readImage(
      (
        await buildFrom(
          await tarOf([
            { ...plain, kind: "directory", path: "d", xattrs },
            { ...plain, kind: "symlink", path: "d/s", target: "t", xattrs },
          ]),
        )
      ).image,
    );
    for (const path of ["d", "d/s"])
      expect(found.get(path)?.xattrs).toEqual({ "user.a": "a".repeat(65535), "user.b": "b".repeat(65535), "user.c": "c".repeat(65535) });
  });

  it("shows the archive as it goes by", async () => {
    const seen: string[] = [];
    const tar = await tarOf([
      { ...plain, kind: "directory", path: "d" },
      { ...plain, kind: "file", path: "d/f", data: new Uint8Array(3) },
    ]);
    await buildErofsLayer(inPieces(tar, 1000), discard, {}, (event) => seen.push(event.kind === "member" ? event.member.path : `${event.bytes.length} bytes`));
    expect(seen).toEqual(["d/", "d/f", "3 bytes"]);
  });

  it("streams: what the sink has grows with the tar", async () => {
    const size = 8 * 1024 * 1024;
    let written = 0;
    let behind = 0;
    async function* data(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < size; at += 65536) {
        behind = Math.max(behind, at - written);
        yield new Uint8Array(65536);
      }
    }
    await buildErofsLayer(encodeTar([{ ...plain, kind: "file", path: "f", size, data: data() }]), {
      write: (bytes) => {
        written += bytes.length;
        return Promise.resolve();
      },
      writeAt: () => Promise.resolve(),
    });
    expect(behind).toBeLessThan(1024 * 1024);
  });
});
