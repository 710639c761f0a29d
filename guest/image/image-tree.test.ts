import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { encodeCpio } from "./cpio.ts";
import { ImageTree } from "./image-tree.ts";

/** Reads an archive by the text of its format, for these tests. */
function readCpio(bytes: Uint8Array): readonly { readonly name: string; readonly fields: readonly number[]; readonly data: string }[] {
  const found: { readonly name: string; readonly fields: readonly number[]; readonly data: string }[] = [];
  const latin1 = Buffer.from(bytes).toString("latin1");
  for (let at = 0; ;) {
    expect(latin1.slice(at, at + 6)).toBe("070701");
    const fields = Array.from({ length: 13 }, (_, index) => Number.parseInt(latin1.slice(at + 6 + 8 * index, at + 14 + 8 * index), 16));
    const [size = 0, nameSize = 0] = [fields[6], fields[11]];
    expect(latin1[at + 110 + nameSize - 1]).toBe("\0");
    const name = latin1.slice(at + 110, at + 110 + nameSize - 1);
    const dataAt = Math.ceil((at + 110 + nameSize) / 4) * 4;
    found.push({ name, fields, data: latin1.slice(dataAt, dataAt + size) });
    at = Math.ceil((dataAt + size) / 4) * 4;
    if (name !== "TRAILER!!!") continue;
    expect(bytes.length % 512).toBe(0);
    expect(bytes.length - at).toBeLessThan(512);
    expect(latin1.slice(at)).toMatch(/^\0*$/);
    return found;
  }
}

describe("ImageTree", () => {
  it("gives the same in whatever order it was filled, directories first", () => {
    const fill: readonly ((tree: ImageTree) => void)[] = [
      (tree) => tree.addFile("b/file", 0o644, "text"),
      (tree) => tree.addDirectory("b"),
      (tree) => tree.addSymlink("a", "b"),
      (tree) => tree.addFile("b-c", 0o755, "x"),
      (tree) => tree.addFile("b/ä", 0o644, "x"),
      (tree) => tree.addFile("b/z", 0o644, "x"),
    ];
    const [one, other] = [new ImageTree(), new ImageTree()];
    for (const step of fill) step(one);
    for (const step of fill.toReversed()) step(other);
    expect(one.entries()).toEqual(other.entries());
    // The order of bytes, in which - comes before /, and no locale's.
    expect(one.entries().map(([path]) => path)).toEqual(["a", "b", "b-c", "b/file", "b/z", "b/ä"]);
    expect([...one.tarItems()].every(({ uid, gid, mtime }) => uid === 0 && gid === 0 && mtime === 0)).toBe(true);
  });

  it.each(["", "/a", "a//b", "a/", ".", "a/../b", "a\0b"])("refuses the path %j", (path) => {
    expect(() => new ImageTree().addFile(path, 0o644, "")).toThrow(expect.objectContaining({ code: "ERR_IMAGE_TREE" }));
  });

  it("takes the same thing twice, and two things at one path never", () => {
    const tree = new ImageTree().addFile("a", 0o644, "x").addFile("a", 0o644, "x").addSymlink("l", "a").addCharacterDevice("c", 0o600, 5, 1);
    for (const put of [
      () => tree.addFile("a", 0o755, "x"),
      () => tree.addFile("a", 0o644, "y"),
      () => tree.addSymlink("l", "b"),
      () => tree.addDirectory("a"),
      () => tree.addFile("a/b", 0o644, ""),
      () => tree.addFile("l/b", 0o644, ""),
      () => tree.addCharacterDevice("c", 0o600, 5, 2),
    ])
      expect(put).toThrow(expect.objectContaining({ code: "ERR_IMAGE_TREE" }));
  });
});

describe("encodeCpio (newc)", () => {
  it("writes files, links, directories and devices of root, at the beginning of time", () => {
    const tree = new ImageTree()
      .addFile("init", 0o755, "program")
      .addDirectory("tmp", 0o1777)
      .addSymlink("bin/sh", "../init")
      .addCharacterDevice("dev/console", 0o600, 5, 1)
      .addFile("é", 0o644, "");
    const entries = readCpio(encodeCpio(tree));
    expect(entries.map(({ name, fields, data }) => [name, (fields[1] ?? 0).toString(8), data])).toEqual([
      ["bin", "40755", ""],
      ["bin/sh", "120777", "../init"],
      ["dev", "40755", ""],
      ["dev/console", "20600", ""],
      ["init", "100755", "program"],
      ["tmp", "41777", ""],
      [Buffer.from("é").toString("latin1"), "100644", ""],
      ["TRAILER!!!", "0", ""],
    ]);
    for (const { fields } of entries) expect([fields[2], fields[3], fields[5], fields[12]]).toEqual([0, 0, 0, 0]);
    expect(entries.map(({ fields }) => fields[0])).toEqual([1, 2, 3, 4, 5, 6, 7, 0]);
    expect(entries[3]?.fields.slice(9, 11)).toEqual([5, 1]);
  });

  it("is as long as its content needs", () => {
    const bytes = encodeCpio(new ImageTree().addFile("f", 0o644, encodeUtf8("x".repeat(1000))));
    expect(readCpio(bytes)[0]?.data).toBe("x".repeat(1000));
    expect(bytes.length).toBe(1536);
  });
});
