import { mkdtempSync, realpathSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readTar } from "@sealpod/verity";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { upstreamVersion } from "./debian.ts";
import { Rootfs } from "./rootfs.ts";

let directory: string;
beforeEach(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "sealpod-rootfs-")));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

async function list(rootfs: Rootfs): Promise<readonly string[]> {
  const lines: string[] = [];
  for await (const entry of readTar(rootfs.tar())) {
    expect([entry.uid, entry.gid, entry.mtime]).toEqual([0, 0, 0]);
    lines.push(`${entry.kind} ${entry.path} ${entry.mode.toString(8)}${"target" in entry ? ` ${entry.target}` : ""}`);
  }
  return lines;
}

describe("Rootfs", () => {
  it("makes parents and sorts, whatever the order of the calls", async () => {
    const one = new Rootfs().addFile("b/c/file", 0o644, "x").addSymlink("a", "b").addDirectory("tmp", 0o1777);
    const two = new Rootfs().addDirectory("tmp", 0o1777).addSymlink("a", "b").addFile("b/c/file", 0o644, "x");
    expect(await list(one)).toEqual(["symlink a 777 b", "directory b/ 755", "directory b/c/ 755", "file b/c/file 644", "directory tmp/ 1777"]);
    expect(await list(two)).toEqual(await list(one));
    expect(await two.inputsDigest()).toBe(await one.inputsDigest());
  });

  it("follows links of this machine and normalises modes", async () => {
    writeFileSync(join(directory, "lib.so.1.2"), "lib", { mode: 0o4710 });
    symlinkSync("lib.so.1.2", join(directory, "lib.so.1"));
    symlinkSync(join(directory, "lib.so.1"), join(directory, "lib.so"));
    const rootfs = new Rootfs();
    expect(await rootfs.addHostFile(join(directory, "lib.so"))).toBe(join(directory, "lib.so.1.2"));
    expect((await list(rootfs)).slice(-3)).toEqual([
      `symlink ${directory.slice(1)}/lib.so 777 ${directory}/lib.so.1`,
      `symlink ${directory.slice(1)}/lib.so.1 777 lib.so.1.2`,
      `file ${directory.slice(1)}/lib.so.1.2 755`,
    ]);
    symlinkSync("loop", join(directory, "loop"));
    await expect(rootfs.addHostFile(join(directory, "loop"))).rejects.toMatchObject({ code: "ERR_IMAGES_PACKAGE" });
    await expect(rootfs.addHostFile(join(directory, "none/x"))).rejects.toMatchObject({ code: "ERR_IMAGES_PACKAGE" });
  });

  it("has a digest of contents, not of times", async () => {
    const file = join(directory, "f");
    writeFileSync(file, "one");
    const digest = async (): Promise<string> => (await new Rootfs().addHostFileAs("f", file)).inputsDigest();
    const before = await digest();
    utimesSync(file, 1, 1);
    expect(await digest()).toBe(before);
    writeFileSync(file, "two");
    expect(await digest()).not.toBe(before);
  });

  it("refuses paths that are none, and two things at one path", () => {
    for (const path of ["", "/a", "a//b", "../a", "a/.", "a/"])
      expect(() => new Rootfs().addDirectory(path), path).toThrow(expect.objectContaining({ code: "ERR_IMAGES_ROOTFS" }) as Error);
    const rootfs = new Rootfs().addFile("a", 0o644, "x").addFile("a", 0o644, "x");
    expect(() => rootfs.addFile("a", 0o644, "y")).toThrow(expect.objectContaining({ code: "ERR_IMAGES_ROOTFS" }) as Error);
    expect(() => rootfs.addFile("a/b", 0o644, "y")).toThrow(expect.objectContaining({ code: "ERR_IMAGES_ROOTFS" }) as Error);
    expect(() => new Rootfs().addSymlink("l", "d").addDirectory("l/x")).toThrow(expect.objectContaining({ code: "ERR_IMAGES_ROOTFS" }) as Error);
  });
});

describe("upstreamVersion", () => {
  it.each([
    ["1.22.1-9+deb12u11", "1.22.1"],
    ["1:1.35.0-4+deb12u1+b1", "1.35.0"],
    ["2.36", "2.36"],
    ["1:2-3-4", "2-3"],
  ])("of %s is %s", (version, upstream) => {
    expect(upstreamVersion(version)).toBe(upstream);
  });
});
