import fc from "fast-check";
import { concatBytes, encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { encodePaxRecord } from "../tar-pax.ts";
import { plain, rawHeader, rawMember, rawTar, tarOf } from "../testdata/archives.ts";
import type { TarItem } from "../tar-writer.ts";
import { DEFAULT_EROFS_LIMITS } from "./limits.ts";
import { buildFrom, readImage } from "./test-support.ts";
import type { Found } from "./test-support.ts";

const file = (path: string, text = path): TarItem => ({ ...plain, kind: "file", path, data: encodeUtf8(text) });
const directory = (path: string, mode = 0o750): TarItem => ({ ...plain, kind: "directory", path, mode });
const symlink = (path: string, target: string): TarItem => ({ ...plain, kind: "symlink", path, target });
const hardlink = (path: string, target: string): TarItem => ({ ...plain, kind: "hardlink", path, target });

async function treeOf(items: readonly TarItem[]): Promise<ReadonlyMap<string, Found>> {
  return readImage((await buildFrom(await tarOf(items))).image);
}

/** Paths with what is there in short: the tree without its attributes. */
async function outline(items: readonly TarItem[]): Promise<readonly string[]> {
  return [...(await treeOf(items))].map(([path, inode]) => outlineOf(path, inode)).sort();
}

function outlineOf(path: string, { kind, content, xattrs, links }: Found): string {
  if (kind === "directory") return `${path}/${xattrs["trusted.overlay.opaque"] === "y" ? " opaque" : ""}`;
  if (kind === "character" && content === "0:0") return `${path} whiteout`;
  return `${path} ${kind} ${content} x${links}`;
}

async function refused(items: readonly TarItem[], code: string): Promise<void> {
  await expect(treeOf(items)).rejects.toMatchObject({ code });
}

/** A member after a PAX header. */
function withPax(records: Readonly<Record<string, string>>, fields: Parameters<typeof rawHeader>[0] = {}): Uint8Array {
  return rawTar(
    rawMember({ type: "x" }, concatBytes(...Object.entries(records).map(([key, value]) => encodePaxRecord(key, encodeUtf8(value))))),
    rawMember(fields),
  );
}

describe("layer tree: what a layer becomes", () => {
  it("makes the parents that the archive leaves out", async () => {
    const tree = await treeOf([file("a/b/c")]);
    for (const path of ["", "a", "a/b"]) expect(tree.get(path)).toMatchObject({ kind: "directory", mode: 0o755, uid: 0, gid: 0, mtime: 0 });
  });

  it("takes the attributes of directories whenever they come, and the root's", async () => {
    const tree = await treeOf([file("a/b"), directory("a", 0o1777), directory("./", 0o555)]);
    expect(tree.get("a")).toMatchObject({ mode: 0o1777, mtime: plain.mtime });
    expect(tree.get("")?.mode).toBe(0o555);
    expect(tree.get("a/b")?.kind).toBe("file");
  });

  it("takes absolute and untidy paths as relative ones", async () => {
    expect(await outline([file("/etc//./x", "1"), file("./etc/y", "2")])).toEqual(["/", "etc/", "etc/x file 1 x1", "etc/y file 2 x1"]);
  });

  it("lets the last member of a name count, whatever came before", async () => {
    const items = [
      directory("a"),
      file("a/b/c"),
      file("a", "1"),
      file("f"),
      directory("f"),
      file("f/g", "2"),
      symlink("s", "x"),
      file("s", "3"),
      file("t"),
      symlink("t", "y"),
    ];
    expect(await outline(items)).toEqual(["/", "a file 1 x1", "f/", "f/g file 2 x1", "s file 3 x1", "t symlink y x1"]);
  });

  it("shares the inode of hard links, whatever becomes of the first name", async () => {
    const tree = await treeOf([
      file("a", "1"),
      hardlink("d/b", "./a"),
      hardlink("c", "d/b"),
      file("a", "2"),
      symlink("s", "x"),
      hardlink("s2", "s"),
      hardlink("c", "c"),
    ]);
    expect(tree.get("d/b")).toEqual(tree.get("c"));
    expect(tree.get("c")).toMatchObject({ links: 2, content: "1" });
    expect(tree.get("a")).toMatchObject({ links: 1, content: "2" });
    expect(tree.get("s2")).toMatchObject({ kind: "symlink", links: 2, content: "x" });
  });

  it("keeps set-id bits, gives links the mode that Linux shows, and counts devices as it does", async () => {
    const tree = await treeOf([
      { ...plain, kind: "file", path: "su", mode: 0o6755, data: new Uint8Array(0) },
      { ...symlink("s", "t"), mode: 0o600 },
      { ...plain, kind: "block", path: "disk", major: 4095, minor: 0xfffff },
      { ...plain, kind: "character", path: "tty", major: 4, minor: 256 },
    ]);
    expect([tree.get("su")?.mode, tree.get("s")?.mode, tree.get("disk")?.content, tree.get("tty")?.content]).toEqual([0o6755, 0o777, "4095:1048575", "4:256"]);
  });

  it("keeps times to the nanosecond, before 1970 as well", async () => {
    const at = async (mtime: string): Promise<readonly (number | undefined)[]> => {
      const found = readImage((await buildFrom(withPax({ mtime }, { name: "f" }))).image).get("f");
      return [found?.mtime, found?.nanoseconds];
    };
    expect(await at("1700000000.123456789")).toEqual([1_700_000_000, 123_456_789]);
    expect(await at("12.5")).toEqual([12, 500_000_000]);
    expect(await at("12.")).toEqual([12, 0]);
    expect(await at("-1.25")).toEqual([-2, 750_000_000]);
    expect(await at("-0")).toEqual([0, 0]);
    expect(await at("99999999999.9999999999")).toEqual([99_999_999_999, 999_999_999]);
  });

  it("keeps the attributes that containers have a use for, and none that steers overlayfs", async () => {
    const all = [
      "user.note",
      "security.capability",
      "system.posix_acl_access",
      "system.posix_acl_default",
      "trusted.overlay.redirect",
      "trusted.overlay.opaque",
      "com.apple.provenance",
    ];
    const tree = await treeOf([{ ...directory("d"), xattrs: new Map(all.map((name) => [name, encodeUtf8("y")])) }, file("d/.wh..wh..opq")]);
    expect(Object.keys(tree.get("d")?.xattrs ?? {})).toEqual([
      "user.note",
      "system.posix_acl_access",
      "system.posix_acl_default",
      "trusted.overlay.opaque",
      "security.capability",
    ]);
    const plainTree = await treeOf([{ ...directory("d"), xattrs: new Map(all.map((name) => [name, encodeUtf8("y")])) }]);
    expect(Object.keys(plainTree.get("d")?.xattrs ?? {})).toHaveLength(4);
  });

  it("keeps names that are not UTF-8", async () => {
    const tree = readImage((await buildFrom(rawTar(rawMember({ name: `${"\u00ff".repeat(60)}/caf\u00e9` }, "1")))).image);
    expect(tree.get(`${"\u00ff".repeat(60)}/caf\u00e9`)?.content).toBe("1");
  });
});

describe("layer tree: undeclared directories", () => {
  const undeclared = async (...items: readonly TarItem[]): Promise<unknown> => (await buildFrom(await tarOf(items))).info.undeclaredDirectories;

  it("are counted, and the topmost is named", async () => {
    expect(await undeclared(directory("a"), file("a/deep/down/x"), file("tmp/f"), file("tmp/g"))).toEqual({ count: 3, first: "tmp" });
    expect(await undeclared(directory("a"), file("a/b/c/x"))).toEqual({ count: 2, first: "a/b" });
    expect(await undeclared(file("tmp/.wh..wh..opq"))).toEqual({ count: 1, first: "tmp" });
  });

  it("are none where a member describes them, sooner or later, nor is the root", async () => {
    expect(await undeclared(file("a/f"), directory("a"), file("f"))).toEqual({ count: 0, first: undefined });
  });

  it("are none where nothing of a lower layer can show", async () => {
    expect(await undeclared(file(".wh.a"), file("a/b/f"), directory("d"), file("d/e/f"), file("d/.wh..wh..opq"))).toEqual({ count: 0, first: undefined });
  });

  it("are none that a later member replaced", async () => {
    expect(await undeclared(file("a/b/f"), file("a"))).toEqual({ count: 0, first: undefined });
  });
});

describe("layer tree: whiteouts", () => {
  it("are devices 0:0 without attributes", async () => {
    const tree = await treeOf([file("d/.wh.gone"), directory(".wh.too"), { ...plain, kind: "character", path: "raw", major: 0, minor: 0 }]);
    expect(tree.get("d/gone")).toMatchObject({ kind: "character", content: "0:0", mode: 0, uid: 0, mtime: 0 });
    expect(tree.get("too")).toMatchObject({ kind: "character", content: "0:0" });
    expect(tree.get("raw")).toMatchObject({ kind: "character", content: "0:0", mode: 0o644 });
  });

  it("give way to what comes later", async () => {
    expect(await outline([file(".wh.f"), file("f", "1"), file("d/.wh.x"), file("d/.wh.x")])).toEqual(["/", "d/", "d/x whiteout", "f file 1 x1"]);
  });

  // Overlayfs lists a directory that has nothing below it as it is, whiteouts and all.
  it("are left out where nothing of a lower layer can show, but not at the root", async () => {
    const items = [
      file("a/.wh.x"),
      file("a/b/.wh.y"),
      file("a/.wh..wh..opq"),
      file(".wh.n"),
      file("n/b/.wh.z"),
      file("n/c", "1"),
      file("m/.wh.k"),
      file(".wh..wh..opq"),
      file(".wh.g"),
    ];
    expect(await outline(items)).toEqual(["/ opaque", "a/ opaque", "a/b/", "g whiteout", "m/", "m/k whiteout", "n/ opaque", "n/b/", "n/c file 1 x1"]);
  });

  it("leave a mark on a directory that comes in their place: nothing of lower layers shows in it", async () => {
    expect(await outline([file(".wh.a"), directory("a"), file(".wh.b"), file("b/c", "1"), file(".wh.e"), file("e"), directory("e")])).toEqual([
      "/",
      "a/ opaque",
      "b/ opaque",
      "b/c file 1 x1",
      "e/ opaque",
    ]);
  });

  it("of a whole directory mark it opaque, before or after what it holds, declared or not", async () => {
    expect(
      await outline([file("a/.wh..wh..opq"), directory("a"), file("a/x", "1"), directory("b"), file("b/x", "1"), file("b/.wh..wh..opq"), file(".wh..wh..opq")]),
    ).toEqual(["/ opaque", "a/ opaque", "a/x file 1 x1", "b/ opaque", "b/x file 1 x1"]);
  });

  it("leave out what AUFS notes for itself", async () => {
    expect(await outline([directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), file("d/.wh..wh.aufs"), file("a", "1")])).toEqual(["/", "a file 1 x1"]);
  });
});

describe("layer tree: what is refused", () => {
  it.each([
    ["a file", [file("d/a"), file("d/.wh.a")]],
    ["a symbolic link", [symlink("d/a", "x"), file("d/.wh.a")]],
    ["a directory", [directory("d/a"), file("d/.wh.a")]],
    ["an undeclared directory", [file("d/a/f"), file("d/.wh.a")]],
    ["a file that came after another whiteout", [file("d/.wh.a"), file("d/a"), file("d/.wh.a")]],
  ])("a whiteout of %s of the same layer: runtimes disagree", (_, items) => refused(items, "ERR_VERITY_TAR"));

  it.each(["../x", "a/../../x", "/../x", "a/..", ".."])("the path %j", (path) => refused([directory("a"), file(path)], "ERR_VERITY_TAR_PATH"));

  it.each([
    ["a symbolic link", symlink("link", "/etc")],
    ["a symbolic link up", symlink("link", "..")],
    ["a file", file("link")],
    ["a device", { ...plain, kind: "block", path: "link", major: 8, minor: 0 } as TarItem],
  ])("%s on the way", async (_, item) => {
    for (const below of [file("link/x"), directory("link/x"), file("link/.wh.x"), file("link/.wh..wh..opq"), file("link/a/b"), hardlink("link/h", "link")]) {
      await refused([item, below], "ERR_VERITY_TAR_PATH");
    }
  });

  it.each([".wh.", ".wh..", ".wh...", "d/.wh..", ".wh.x/y"])("a whiteout of no name: %j", (path) => refused([file(path)], "ERR_VERITY_TAR_PATH"));

  it.each([
    ["nothing", "missing", "ERR_VERITY_TAR"],
    ["a directory", "d", "ERR_VERITY_TAR"],
    ["the root", "./", "ERR_VERITY_TAR"],
    ["a whiteout", "gone", "ERR_VERITY_TAR"],
    ["the whiteout's file", ".wh.gone", "ERR_VERITY_TAR"],
    ["something through a link", "s/x", "ERR_VERITY_TAR"],
    ["something outside", "../d/x", "ERR_VERITY_TAR_PATH"],
    ["itself", "h", "ERR_VERITY_TAR"],
    ["what comes later", "later", "ERR_VERITY_TAR"],
  ])("a hard link to %s", (_, target, code) =>
    refused([directory("d"), file("d/x"), symlink("s", "d"), file(".wh.gone"), hardlink("h", target), file("later")], code),
  );

  it("a root that is no directory", () => refused([file(".")], "ERR_VERITY_TAR_PATH"));

  it("a name that no file system holds", () => refused([file(`d/${"n".repeat(256)}`)], "ERR_VERITY_TAR_PATH"));

  it.each([
    [4096, 0],
    [0, 0x10_0000],
  ])("the device %i:%i", (major, minor) => refused([{ ...plain, kind: "block", path: "d", major, minor }], "ERR_VERITY_TAR"));

  it("attributes that the format cannot hold", async () => {
    const big = new Uint8Array(65535);
    await refused([{ ...file("f"), xattrs: new Map([["user.a", new Uint8Array(65536)]]) }], "ERR_VERITY_LIMIT");
    await refused([{ ...file("f"), xattrs: new Map(["a", "b", "c", "d"].map((name) => [`user.${name}`, big])) }], "ERR_VERITY_LIMIT");
    await refused([{ ...file("f"), xattrs: new Map([["user.", big]]) }], "ERR_VERITY_TAR_UNSUPPORTED");
  });

  it("owners that are no 32-bit numbers", async () => {
    await expect(buildFrom(withPax({ uid: "4294967296" }))).rejects.toMatchObject({ code: "ERR_VERITY_TAR" });
    await expect(buildFrom(withPax({ gid: "-1" }))).rejects.toMatchObject({ code: "ERR_VERITY_TAR" });
  });

  it("sparse files, which are refused before they come here", async () => {
    await expect(buildFrom(withPax({ "GNU.sparse.major": "1" }))).rejects.toMatchObject({ code: "ERR_VERITY_TAR_UNSUPPORTED" });
  });

  it("more names of attributes than Linux lists", async () => {
    // With its prefix and a NUL each has 16 bytes, 4096 of them 65,536.
    const named = (count: number): TarItem => ({
      ...file("f"),
      xattrs: new Map(Array.from({ length: count }, (_, i) => [`user.${i}`.padEnd(15, "x"), new Uint8Array(0)])),
    });
    expect(Object.keys((await treeOf([named(4096)])).get("f")?.xattrs ?? {})).toHaveLength(4096);
    await refused([named(4097)], "ERR_VERITY_LIMIT");
  });

  it("a symbolic link that no Linux follows, even where the archive's own limit is higher", async () => {
    const tar = await tarOf([symlink("s", "t".repeat(4096))]);
    await expect(buildFrom(tar, 65536, { maxPathLength: 10_000 })).rejects.toMatchObject({ code: "ERR_VERITY_LIMIT" });
  });
});

describe("layer tree: limits", () => {
  it("counts the parents that a path makes", async () => {
    const deep = Array.from({ length: 50 }, (_, i) => file(`${"d/".repeat(500)}${i}`));
    await expect(buildFrom(await tarOf(deep), 65536, { maxNodes: 500 })).rejects.toMatchObject({ code: "ERR_VERITY_LIMIT", details: { limit: 500 } });
    expect(readImage((await buildFrom(await tarOf(deep), 65536, { maxNodes: 551 })).image).size).toBe(551);
  });

  it("holds the deepest path", async () => {
    const path = "d/".repeat(2047) + "f";
    expect(readImage((await buildFrom(await tarOf([file(path)]))).image).size).toBe(2049);
  });

  it("counts the bytes of names, targets and attributes, replaced ones too", async () => {
    const limits = { maxMetadata: 10_000 };
    const value = new Uint8Array(10);
    for (const item of [
      (i: number) => file(`${i}`.padStart(200, "n")),
      (i: number) => symlink(`${i}`, "t".repeat(200)),
      () => symlink("same", "t".repeat(200)),
      () => ({ ...directory("same"), xattrs: new Map([["user.a", value]]) }),
    ]) {
      const items = Array.from({ length: 60 }, (_, i) => item(i));
      await expect(buildFrom(await tarOf(items), 65536, limits)).rejects.toMatchObject({ code: "ERR_VERITY_LIMIT" });
      await buildFrom(await tarOf(items.slice(0, 40)), 65536, limits);
    }
  });

  it("counts what attributes cost, not their bytes alone", async () => {
    const many = new Map(Array.from({ length: 100 }, (_, i) => [`user.${i}`, new Uint8Array(0)]));
    // An entry of 100 has 4 bytes and its name, 8 in all: 790 bytes of names in 200 members are 160,000 and what the arrays cost.
    const items = Array.from({ length: 200 }, (_, i) => ({ ...file(`${i}`), xattrs: many }));
    await expect(buildFrom(await tarOf(items), 65536, { maxMetadata: 199_000 })).rejects.toMatchObject({ code: "ERR_VERITY_LIMIT" });
    await buildFrom(await tarOf(items), 65536, { maxMetadata: 202_000 });
  });

  it("has the tar's own limits", async () => {
    const tar = await tarOf([file("a"), file("b")]);
    await expect(buildFrom(tar, 65536, { maxEntries: 1 })).rejects.toMatchObject({ code: "ERR_VERITY_LIMIT" });
    await expect(buildFrom(tar, 65536, { maxTotalSize: 1000 })).rejects.toMatchObject({ code: "ERR_VERITY_LIMIT" });
    expect(DEFAULT_EROFS_LIMITS).toMatchObject({ maxNodes: 2_000_000, maxMetadata: 2 ** 27, maxEntries: 1_000_000 });
  });
});

/** A member of the model below. */
interface Step {
  readonly kind: "file" | "directory" | "symlink" | "hardlink" | "whiteout" | "opaque";
  readonly path: readonly string[];
  readonly target: readonly string[];
}

/** The same rules, said of a flat list of paths. It returns undefined where the archive must be refused. */
function model(steps: readonly Step[]): { readonly outline: readonly string[]; readonly undeclared: readonly string[] } | undefined {
  type Entry =
    | { readonly kind: "file" | "symlink"; readonly id: number }
    | { readonly kind: "directory"; opaque: boolean; declared: boolean }
    | { readonly kind: "whiteout" };
  const entries = new Map<string, Entry>([["", { kind: "directory", opaque: false, declared: true }]]);
  const hidden = new Set<string>();
  const remove = (path: string): void => {
    for (const key of entries.keys()) if (key === path || key.startsWith(`${path}/`)) entries.delete(key);
    for (const key of hidden) if (key.startsWith(`${path}/`)) hidden.delete(key);
  };
  const makeDirectory = (path: string): void => {
    if (entries.get(path)?.kind === "directory") return;
    remove(path);
    entries.set(path, { kind: "directory", opaque: hidden.has(path), declared: false });
  };
  for (const [id, { kind, path: parts, target }] of steps.entries()) {
    const parents = kind === "opaque" ? parts : parts.slice(0, -1);
    for (let depth = 1; depth <= parents.length; depth++) {
      const path = parents.slice(0, depth).join("/");
      const found = entries.get(path)?.kind ?? "whiteout";
      if (found === "file" || found === "symlink") return undefined;
      makeDirectory(path);
    }
    const path = parts.join("/");
    if (kind === "directory") {
      makeDirectory(path);
      Object.assign(entries.get(path) ?? {}, { declared: true });
    } else if (kind === "opaque") Object.assign(entries.get(path) ?? {}, { opaque: true });
    else if (kind === "whiteout") {
      if ((entries.get(path)?.kind ?? kind) !== kind) return undefined;
      entries.set(path, { kind });
      hidden.add(path);
    } else if (kind === "hardlink") {
      const found = entries.get(target.join("/"));
      if (found?.kind !== "file" && found?.kind !== "symlink") return undefined;
      remove(path);
      entries.set(path, found);
    } else {
      remove(path);
      entries.set(path, { kind, id });
    }
  }
  const all = [...entries.values()];
  const opaque = [...entries].filter(([path, entry]) => path !== "" && entry.kind === "directory" && entry.opaque).map(([path]) => path);
  const isAlone = (path: string): boolean => opaque.some((above) => path.startsWith(`${above}/`));
  const undeclared = [...entries]
    .filter(([path, entry]) => entry.kind === "directory" && !entry.declared && !hidden.has(path) && !isAlone(path))
    .map(([path]) => path);
  const outline = [...entries]
    .filter(([path, { kind }]) => kind !== "whiteout" || !isAlone(path))
    .map(([path, entry]) => {
      if (entry.kind === "directory") return `${path}/${entry.opaque ? " opaque" : ""}`;
      if (entry.kind === "whiteout") return `${path} whiteout`;
      return `${path} ${entry.kind} ${entry.id} x${all.filter((other) => "id" in other && other.id === entry.id).length}`;
    })
    .sort();
  return { outline, undeclared };
}

function itemOf({ kind, path, target }: Step, id: number): TarItem {
  const text = path.join("/");
  switch (kind) {
    case "file":
      return file(text, `${id}`);
    case "symlink":
      return symlink(text, `${id}`);
    case "directory":
      return directory(text);
    case "hardlink":
      return hardlink(text, target.join("/"));
    case "whiteout":
      return file([...path.slice(0, -1), `.wh.${path.at(-1)}`].join("/"), "");
    case "opaque":
      return file([...path, ".wh..wh..opq"].join("/"), "");
  }
}

describe("layer tree: any order of members", () => {
  const path = fc.array(fc.constantFrom("a", "b", "c"), { minLength: 1, maxLength: 3 });
  const step: fc.Arbitrary<Step> = fc.record({
    kind: fc.constantFrom("file", "directory", "directory", "symlink", "hardlink", "whiteout", "opaque"),
    path,
    target: path,
  });

  it("makes the tree of the model, or refuses where it does", async () => {
    const seen = { made: 0, refused: 0 };
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 8 }), async (steps) => {
        const expected = model(steps);
        const items = steps.map(itemOf);
        if (expected === undefined) {
          seen.refused++;
          await expect(treeOf(items)).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_VERITY_TAR(_PATH)?$/) as string });
        } else {
          seen.made++;
          const { image, info } = await buildFrom(await tarOf(items));
          expect([...readImage(image)].map(([at, inode]) => outlineOf(at, inode)).sort()).toEqual(expected.outline);
          const { count, first } = info.undeclaredDirectories;
          expect(count).toBe(expected.undeclared.length);
          if (first === undefined) expect(count).toBe(0);
          else expect(expected.undeclared).toContain(first);
        }
      }),
      { numRuns: 1500 },
    );
    expect(Math.min(seen.made, seen.refused)).toBeGreaterThan(200);
  });
});
