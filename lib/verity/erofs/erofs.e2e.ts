import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8, toHex } from "@sealpod/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { plain, tarOf } from "../testdata/archives.ts";
import type { TarItem } from "../tar-writer.ts";
import { buildFrom, readImage } from "./test-support.ts";
import type { Found } from "./test-support.ts";

/** Output of a program in the test's directory; a status other than 0 fails the test. */
function run(command: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: directory,
    encoding: "latin1",
    maxBuffer: 1 << 28,
    env: { LC_ALL: "C", PATH: process.env["PATH"] },
  });
  expect(status, `${command} ${args.join(" ")}\n${stdout}${stderr}`).toBe(0);
  return stdout;
}

function have(command: string, ...args: readonly string[]): boolean {
  return spawnSync(command, args).error === undefined;
}

const haveFsck = have("fsck.erofs", "-V");
const haveVeritysetup = have("veritysetup", "--version");
/** Loop devices and EROFS in this machine's own kernel, in a mount namespace of our own. */
const canMount =
  existsSync("/proc/filesystems") &&
  /^\terofs$/m.test(readFileSync("/proc/filesystems", "utf8")) &&
  existsSync("/dev/loop-control") &&
  process.getuid?.() === 0 &&
  spawnSync("unshare", ["--mount", "true"]).status === 0;
const canOverlay = canMount && /\toverlay$/m.test(readFileSync("/proc/filesystems", "utf8"));

/** What layers have that a writer could get wrong: sizes on both sides of a block, bodies that fit behind their inode and that do not. */
function hardCases(): readonly TarItem[] {
  const big = new Uint8Array(20_000).map((_, i) => i * 7);
  const sizes = [0, 1, 4095, 4096, 4097, 20_000];
  const lengths = [1, 59, 60, 4031, 4032, 4033, 4095];
  return [
    { ...plain, kind: "directory", path: "./", mode: 0o755 },
    ...sizes.map((size): TarItem => ({ ...plain, kind: "file", path: `files/${size}`, data: big.subarray(0, size), mode: 0o640, uid: 70_000, gid: 80_000 })),
    ...lengths.map((length): TarItem => ({ ...plain, kind: "symlink", path: `links/${length}`, target: "t".repeat(length) })),
    ...Array.from({ length: 700 }, (_, i): TarItem => ({ ...plain, kind: "file", path: `many/${"n".repeat(i % 200)}${i}`, data: encodeUtf8(`${i}`) })),
    // Entries of 12 bytes and a name: ".", "..", fifteen of 249 and one of 78 are the 4032 bytes that fit behind an inode.
    ...[77, 78, 79].flatMap((last) =>
      [...Array.from({ length: 15 }, (_, i) => `${i}`.padStart(249, "x")), "y".repeat(last)].map((name): TarItem => ({
        ...plain,
        kind: "fifo",
        path: `edge${last}/${name}`,
      })),
    ),
    { ...plain, kind: "file", path: "su", mode: 0o6755, data: big.subarray(0, 10), mtime: -5, xattrs: new Map([["user.note", encodeUtf8("blue")]]) },
    { ...plain, kind: "hardlink", path: "files/su", target: "su" },
    {
      ...plain,
      kind: "file",
      path: "ping",
      data: big.subarray(0, 10),
      // vfs_cap_data, revision 2: cap_net_raw, effective and permitted.
      xattrs: new Map([["security.capability", Uint8Array.of(1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)]]),
    },
    {
      ...plain,
      kind: "directory",
      path: "attributed",
      mode: 0o1777,
      mtime: 10_000_000_000,
      xattrs: new Map(["a", "b"].map((n) => [`user.${n}`, new Uint8Array(5000).fill(0x61)])),
    },
    { ...plain, kind: "symlink", path: "attributed/link", target: "t".repeat(100), xattrs: new Map([["security.x", new Uint8Array(3990).fill(0x62)]]) },
    { ...plain, kind: "character", path: "null", major: 1, minor: 3 },
    { ...plain, kind: "block", path: "disk", major: 259, minor: 70_000 },
    { ...plain, kind: "fifo", path: "pipe" },
    ...["!", "+", "-", "--", ".a", "0", "__proto__", "ünï", "日本", "~"].map((name): TarItem => ({
      ...plain,
      kind: "directory",
      path: `order/${name}`,
      mode: 0o700,
    })),
    { ...plain, kind: "directory", path: "empty", mode: 0 },
    { ...plain, kind: "file", path: "opaque/.wh..wh..opq", data: new Uint8Array(0) },
    { ...plain, kind: "file", path: "opaque/kept", data: encodeUtf8("upper") },
    { ...plain, kind: "file", path: "opaque/.wh.ghost", data: new Uint8Array(0) },
    { ...plain, kind: "file", path: "opaque/below/.wh.ghost", data: new Uint8Array(0) },
    { ...plain, kind: "file", path: "merged/.wh.gone", data: new Uint8Array(0) },
    { ...plain, kind: "file", path: "merged/new", data: encodeUtf8("upper") },
  ];
}

let directory: string;
let found: ReadonlyMap<string, Found>;
let info: Awaited<ReturnType<typeof buildFrom>>["info"];
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-erofs-"));
  const built = await buildFrom(await tarOf(hardCases()));
  info = built.info;
  found = readImage(built.image);
  writeFileSync(join(directory, "layer"), built.file);
  writeFileSync(join(directory, "image"), built.image);
  // The names in its root are as many as make the root stand in the second block.
  const paths = [
    "opaque/hidden",
    "opaque/ghost",
    "opaque/below/ghost",
    "merged/gone",
    "merged/shown",
    ...Array.from({ length: 15 }, (_, i) => `${i}`.padStart(249, "x")),
  ];
  const lower = await buildFrom(await tarOf(paths.map((path): TarItem => ({ ...plain, kind: "file", path, data: encodeUtf8("lower") }))));
  writeFileSync(join(directory, "lower"), lower.file);
  for (const name of ["mnt", "mnt2", "both"]) mkdirSync(join(directory, name));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

describe.skipIf(!haveVeritysetup)(
  `against veritysetup verify${haveVeritysetup ? "" : " (skipped: veritysetup is not installed; Debian package cryptsetup-bin)"}`,
  () => {
    const verify = (root: string, file: string): number | null =>
      spawnSync(
        "veritysetup",
        [
          "verify",
          "--no-superblock",
          "--hash=sha256",
          "--data-block-size=4096",
          "--hash-block-size=4096",
          `--salt=${"0".repeat(64)}`,
          `--data-blocks=${info.dataBlocks}`,
          `--hash-offset=${info.imageSize}`,
          file,
          file,
          root,
        ],
        { cwd: directory },
      ).status;

    it("takes the layer file with its root hash, and with no other", () => {
      const root = toHex(info.rootHash);
      expect(verify(root, "layer")).toBe(0);
      expect(
        verify(
          root.replace(/^./, (digit) => (digit === "0" ? "1" : "0")),
          "layer",
        ),
      ).not.toBe(0);
      const changed = readFileSync(join(directory, "layer"));
      changed[1024 + 48] = (changed[1024 + 48] ?? 0) ^ 1;
      writeFileSync(join(directory, "changed"), changed);
      expect(verify(root, "changed")).not.toBe(0);
    });
  },
);

describe.skipIf(!haveFsck)(`against erofs-utils${haveFsck ? "" : " (skipped: fsck.erofs is not installed; Debian package erofs-utils)"}`, () => {
  it("fsck.erofs finds no error, and would have found a changed superblock", () => {
    // Version 1.5 leaves with status 0 when the checksum is wrong, so what it says counts as well. With --extract it reads all data.
    const fsck = (file: string): { readonly status: number | null; readonly errors: string } => {
      const { status, stderr } = spawnSync("fsck.erofs", ["--extract", file], { cwd: directory, encoding: "latin1" });
      return { status, errors: stderr.replaceAll(/<I>.*\n/g, "") };
    };
    expect(fsck("layer")).toEqual({ status: 0, errors: "" });
    const changed = readFileSync(join(directory, "image"));
    changed[1024 + 16] = (changed[1024 + 16] ?? 0) ^ 1;
    writeFileSync(join(directory, "changed"), changed);
    expect(fsck("changed").errors).toContain("checksum");
  });

  it("fsck.erofs unpacks the files, byte for byte", () => {
    run("fsck.erofs", ["--extract=unpacked", "--no-preserve", "layer"]);
    let checked = 0;
    for (const [path, inode] of found) {
      if (inode.kind !== "file") continue;
      expect(readFileSync(join(directory, "unpacked", Buffer.from(path, "latin1").toString()), "latin1"), path).toBe(inode.content);
      checked++;
    }
    expect(checked).toBeGreaterThan(700);
  });

  it("dump.erofs shows what the superblock says", () => {
    const text = run("dump.erofs", ["-s", "layer"]);
    expect(text).toMatch(/Filesystem features: *sb_csum mtime *$/m);
    expect(text).toMatch(new RegExp(`Filesystem inode count: *${new Set([...found.values()].map(({ nid }) => nid)).size}$`, "m"));
    expect(text).toMatch(/Filesystem created: *Thu Jan {2}1 00:00:00 1970/);
  });
});

describe.skipIf(!canMount)(`against the kernel${canMount ? "" : " (skipped: needs root, unshare, loop devices and erofs in /proc/filesystems)"}`, () => {
  const inNamespace = (script: string): string => run("unshare", ["--mount", "--propagation=private", "sh", "-euc", script]);

  it("mounts the layer file and shows every file as it was in the archive", () => {
    const listing = inNamespace(String.raw`mount -t erofs -o loop,ro layer mnt; cd mnt; find . -printf '%P\t%y\t%m\t%U\t%G\t%n\t%T@\t%l\t%i\n'`);
    const shown = listing.trimEnd().split("\n").sort();
    const types: Readonly<Record<Found["kind"], string>> = { file: "f", directory: "d", symlink: "l", character: "c", block: "b", fifo: "p" };
    const expected = [...found].map(([path, { kind, mode, uid, gid, links, mtime, content, nid }]) =>
      [path, types[kind], mode.toString(8), uid, gid, links, `${mtime}.0000000000`, kind === "symlink" ? content : "", nid].join("\t"),
    );
    expect(shown).toEqual(expected.sort());
  });

  it("reads every byte, finds every name, and knows every device and attribute", () => {
    const sums = inNamespace("mount -t erofs -o loop,ro layer mnt; cd mnt; find . -type f -print0 | sort -z | xargs -0 sha256sum -z | tr '\\0' '\\n'");
    const expected = run("sh", [
      "-euc",
      "rm -rf again; mkdir again; fsck.erofs --extract=again --no-preserve layer >&2; cd again; find . -type f -print0 | sort -z | xargs -0 sha256sum -z | tr '\\0' '\\n'",
    ]);
    expect(sums).toBe(expected);
    expect(inNamespace("mount -t erofs -o loop,ro layer mnt; stat -c '%t:%T' mnt/null mnt/disk mnt/merged/gone; cat mnt/many/nn2")).toBe(
      "1:3\n103:11170\n0:0\n2",
    );
    if (!have("getfattr", "--version")) return;
    const attributes = inNamespace(
      "mount -t erofs -o loop,ro layer mnt; getfattr -dhm - --absolute-names -e hex mnt/su mnt/ping mnt/opaque mnt/attributed/link",
    );
    expect(attributes).toContain("user.note=0x626c7565");
    expect(attributes).toContain("security.capability=0x0100000200200000000000000000000000000000");
    expect(attributes).toContain("trusted.overlay.opaque=0x79");
    expect(attributes).toContain(`security.x=0x${"62".repeat(3990)}`);
  });

  it.skipIf(!canOverlay)("is a layer to overlayfs, whiteouts and opaque directories included", () => {
    const text = inNamespace(
      "mount -t erofs -o loop,ro layer mnt; mount -t erofs -o loop,ro lower mnt2; mount -t overlay -o ro,lowerdir=mnt:mnt2 overlay both; stat -c %i mnt mnt2; cd both; find opaque merged | sort; cat merged/shown merged/new opaque/kept",
    );
    expect(text).toBe("2\n128\nmerged\nmerged/new\nmerged/shown\nopaque\nopaque/below\nopaque/kept\nlowerupperupper");
  });
});
