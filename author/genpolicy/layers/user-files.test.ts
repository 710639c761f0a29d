import { DEFAULT_TAR_LIMITS, type TarItem, TarScanner } from "@sealpod/verity";
import { describe, expect, it } from "vitest";
import type { LayerUsers } from "./facts.ts";
import { file, PLAIN, tarOf } from "./test-support.ts";
import { knownText, knownUserFile, MAX_USER_FILE, stackUserFile, userFileFinder } from "./user-files.ts";

async function find(rules: "known" | "exact", items: readonly TarItem[], chunk = 4096): Promise<LayerUsers> {
  const scanner = new TarScanner(DEFAULT_TAR_LIMITS);
  const finder = userFileFinder(rules);
  const tar = await tarOf(...items);
  for (let at = 0; at < tar.length; at += chunk) for (const event of scanner.push(tar.subarray(at, at + chunk))) finder.take(event);
  scanner.end();
  return finder.finish();
}

const text = (value: string): { kind: "text"; text: string } => ({ kind: "text", text: value });
const ABSENT = { kind: "absent" };
const REMOVED = { kind: "removed" };
const LINK = { kind: "link" };
const link = (path: string, kind: "symlink" | "hardlink" = "symlink"): TarItem => ({ ...PLAIN, kind, path, target: "x" });
const directory = (path: string): TarItem => ({ ...PLAIN, kind: "directory", path });

describe.each(["known", "exact"] as const)("user files by the rules %s", (rules) => {
  it.each<[string, readonly TarItem[], LayerUsers["passwd"] | object, object]>([
    ["nothing", [file("bin/sh", "x"), file("etc/passwd-", "x"), file("usr/etc/passwd", "x"), file("etc/passwd/x", "x"), file("netc/passwd")], ABSENT, ABSENT],
    ["both", [directory("etc"), file("etc/passwd", "a:\n"), file("etc/group", "b:\n")], text("a:\n"), text("b:\n")],
    ["names with . and double slashes", [file("./etc/passwd", "a"), file("etc/.//group", "b")], text("a"), text("b")],
    ["removed files", [file("etc/.wh.passwd"), file("./etc/.wh.group")], REMOVED, REMOVED],
    ["one of each", [file("etc/.wh.passwd"), file("etc/group", "g")], REMOVED, text("g")],
    ["whiteouts elsewhere", [file("usr/etc/.wh.passwd"), file(".wh.passwd"), file("etc/x/.wh..wh..opq"), file("etc/.wh.shadow")], ABSENT, ABSENT],
    ["names of the prototype", [file("etc/constructor", "x"), file("etc/.wh.__proto__")], ABSENT, ABSENT],
  ])("finds %s", async (_, items, passwd, group) => {
    expect(await find(rules, items)).toEqual({ passwd, group });
    expect(await find(rules, items, 1)).toEqual({ passwd, group });
  });

  it("holds its limit", async () => {
    const most = "a".repeat(MAX_USER_FILE);
    expect((await find(rules, [file("etc/passwd", most)], 65536)).passwd).toEqual(text(most));
    await expect(find(rules, [file("etc/group", `${most}a`)], 65536)).rejects.toMatchObject({
      code: "ERR_VERITY_LIMIT",
      message: `layer: /etc/group has ${MAX_USER_FILE + 1} bytes, more than the limit of ${MAX_USER_FILE}`,
    });
  });

  it("takes text that is not UTF-8, for names and ids are ASCII", async () => {
    const { passwd } = await find(rules, [file("etc/passwd", Uint8Array.of(0xef, 0xbb, 0xbf, 0x61, 0xe9, 0x0a))]);
    expect(passwd).toEqual(text("\uFEFFa\uFFFD\n"));
  });
});

// specs/genpolicy.md 5.5
describe("the rules of the known tool", () => {
  it.each<[string, readonly TarItem[], object, object]>([
    ["appends a second file", [file("etc/passwd", "a\n"), file("etc/passwd", "b\n")], text("a\nb\n"), ABSENT],
    ["stops when it has both", [file("etc/passwd", "a"), file("etc/group", "b"), file("etc/passwd", "c"), file("etc/.wh.group")], text("a"), text("b")],
    ["lets a whiteout replace and text follow it", [file("etc/passwd", "a"), file("etc/.wh.passwd"), file("etc/passwd", "b")], text("WHITEOUTb"), ABSENT],
    ["does not know opaque directories", [file("etc/.wh..wh..opq"), file(".wh.etc"), file(".wh..wh..opq")], ABSENT, ABSENT],
    ["takes links for empty files", [link("etc/passwd"), link("etc/group", "hardlink")], ABSENT, ABSENT],
    ["does not follow ..", [file("x/../etc/passwd", "a")], ABSENT, ABSENT],
  ])("%s", async (_, items, passwd, group) => {
    expect(await find("known", items)).toEqual({ passwd, group });
  });

  it("holds its limit over all that it appends", async () => {
    const half = "a".repeat(MAX_USER_FILE / 2 + 1);
    await expect(find("known", [file("etc/passwd", half), file("etc/passwd", half)])).rejects.toMatchObject({ code: "ERR_VERITY_LIMIT" });
  });

  it("keeps the texts of its cache", () => {
    for (const kept of ["", "WHITEOUT", "root:x:0:0\n"]) expect(knownText(knownUserFile(kept))).toBe(kept);
  });
});

describe("the exact rules", () => {
  it.each<[string, readonly TarItem[], object, object]>([
    ["the last of two files counts", [file("etc/passwd", "a\n"), file("etc/passwd", "b\n")], text("b\n"), ABSENT],
    ["an opaque /etc hides what is below and not what is beside it", [file("etc/passwd", "a"), file("etc/.wh..wh..opq")], text("a"), REMOVED],
    ["an opaque root does too", [file(".wh..wh..opq"), file("etc/group", "b")], REMOVED, text("b")],
    ["a removed /etc does too", [file(".wh.etc"), file("etc/group", "b")], REMOVED, text("b")],
    ["a whiteout does not hide the file of its own layer", [file("etc/passwd", "a"), file("etc/.wh.passwd")], text("a"), ABSENT],
    ["an empty file is a file", [file("etc/passwd")], text(""), ABSENT],
    ["links are told apart", [link("etc/passwd"), link("etc/group", "hardlink")], LINK, LINK],
    ["other kinds are no files", [directory("etc/passwd"), { ...PLAIN, kind: "fifo", path: "etc/group" }], REMOVED, REMOVED],
    ["a link in place of /etc hides all", [file("etc/passwd", "a"), link("etc")], REMOVED, REMOVED],
    ["an absolute name is relative to the root", [file("/etc/passwd", "a")], text("a"), ABSENT],
  ])("%s", async (_, items, passwd, group) => {
    expect(await find("exact", items)).toEqual({ passwd, group });
  });
});

describe("stackUserFile", () => {
  it.each([
    ["none", [], "", false],
    ["the topmost text", [text("a"), text("b"), { kind: "absent" }], "b", false],
    ["nothing above a whiteout", [text("a"), { kind: "removed" }], "", false],
    ["what was made anew", [text("a"), { kind: "removed" }, text("b")], "b", false],
    ["a link", [text("a"), { kind: "link" }], "", true],
    ["text over a link", [{ kind: "link" }, text("a")], "a", false],
  ] as const)("gives %s", (_, layers, expected, isLink) => {
    expect(stackUserFile(layers)).toEqual({ text: expected, isLink });
  });
});
