import { spawnSync } from "node:child_process";
import { chmodSync, linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8, toHex } from "@sealpod/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { collect, inPieces, plain, tarOf } from "./testdata/archives.ts";
import { readTar } from "./tar-reader.ts";

/** GNU tar is the judge of both directions. */
const TAR = { encoding: "buffer", maxBuffer: 1 << 28, env: { LC_ALL: "C.UTF-8", TZ: "UTC", PATH: "/usr/bin:/bin" } } as const;

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-tar-"));
  mkdirSync(join(directory, "in", "deep".repeat(30), "er".repeat(40)), { recursive: true });
  const file = join(directory, "in", "deep".repeat(30), "er".repeat(40), "file");
  writeFileSync(file, "x".repeat(12_345));
  chmodSync(file, 0o4751);
  linkSync(file, join(directory, "in/hard"));
  symlinkSync("t".repeat(130), join(directory, "in/sym"));
  writeFileSync(join(directory, "in/ünïcode"), "");
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

describe("readTar against GNU tar", () => {
  it.each(["gnu", "pax"])("reads format %s", async (format) => {
    const { stdout, status } = spawnSync(
      "tar",
      [`--format=${format}`, "--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-C", join(directory, "in"), "-c", "."],
      TAR,
    );
    expect(status).toBe(0);
    const found = new Map<string, unknown>();
    for await (const entry of readTar(inPieces(stdout, 777))) {
      found.set(entry.path, [entry.kind, entry.mode, "target" in entry ? entry.target : (await collect(entry.data)).length]);
    }
    const deep = `./${"deep".repeat(30)}/${"er".repeat(40)}/file`;
    expect([...found.keys()]).toEqual(["./", `./${"deep".repeat(30)}/`, `./${"deep".repeat(30)}/${"er".repeat(40)}/`, deep, "./hard", "./sym", "./ünïcode"]);
    expect(found.get(deep)).toEqual(["file", 0o4751, 12_345]);
    expect(found.get("./hard")).toEqual(["hardlink", 0o4751, deep]);
    expect(found.get("./sym")).toEqual(["symlink", 0o777, "t".repeat(130)]);
  });

  it("reads extended attributes", async () => {
    const { stdout, status } = spawnSync(
      "tar",
      ["--format=pax", "--pax-option=SCHILY.xattr.user.note:=blue", "-C", join(directory, "in"), "-c", "ünïcode"],
      TAR,
    );
    expect(status).toBe(0);
    for await (const entry of readTar(inPieces(stdout, 100)))
      expect([...entry.xattrs].map(([name, value]) => [name, toHex(value)])).toEqual([["user.note", toHex(encodeUtf8("blue"))]]);
  });
});

describe("TarWriter against GNU tar", () => {
  it("writes what tar lists and unpacks", async () => {
    const long = `${"long/".repeat(50)}name`;
    const archive = await tarOf([
      { ...plain, kind: "directory", path: "d", mode: 0o1777, mtime: 0 },
      { ...plain, kind: "file", path: long, data: encodeUtf8("content"), uid: 3_000_000, mtime: 10_000_000_000 },
      { ...plain, kind: "file", path: `${"p".repeat(99)}/${"q".repeat(99)}`, data: encodeUtf8("prefix") },
      { ...plain, kind: "symlink", path: "grüße", target: "z".repeat(120) },
      { ...plain, kind: "hardlink", path: "hard", target: long },
      { ...plain, kind: "character", path: "null", major: 1, minor: 3 },
    ]);
    const listing = spawnSync("tar", ["--numeric-owner", "-tv"], { ...TAR, input: archive });
    expect(listing.stderr.toString()).toBe("");
    expect(
      listing.stdout
        .toString()
        .split("\n")
        .map((line) => line.replace(/ +/g, " ")),
    ).toEqual([
      "drwxrwxrwt 0/0 0 1970-01-01 00:00 d/",
      `-rw-r--r-- 3000000/0 7 2286-11-20 17:46 ${long}`,
      `-rw-r--r-- 0/0 6 2023-11-14 22:13 ${"p".repeat(99)}/${"q".repeat(99)}`,
      `lrw-r--r-- 0/0 0 2023-11-14 22:13 grüße -> ${"z".repeat(120)}`,
      `hrw-r--r-- 0/0 0 2023-11-14 22:13 hard link to ${long}`,
      "crw-r--r-- 0/0 1,3 2023-11-14 22:13 null",
      "",
    ]);
    expect(spawnSync("tar", ["-xO", long], { ...TAR, input: archive }).stdout.toString()).toBe("content");
  });
});
