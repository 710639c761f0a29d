import { existsSync, linkSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { encodeUtf8, silentLogger } from "@sealpod/core";
import { readTar, TarWriter, type TarItem } from "@sealpod/verity";
import { describe, expect, it } from "vitest";
import { ConfinedDirectory } from "./confined-directory.ts";
import { extractLayer } from "./layer.ts";
import { errorOf, FakeSystem, inTemporaryDirectory } from "./test-support.ts";

const uid = process.getuid?.() ?? 0;
const gid = process.getgid?.() ?? 0;
const base = { uid, gid, mtime: 1_700_000_000, mode: 0o644 };

const file = (path: string, text = path, fields: { mode?: number; xattrs?: ReadonlyMap<string, Uint8Array> } = {}): TarItem => ({
  ...base,
  ...fields,
  kind: "file",
  path,
  data: encodeUtf8(text),
});
const directory = (path: string, mode = 0o755): TarItem => ({ ...base, kind: "directory", path, mode });
const symlink = (path: string, target: string): TarItem => ({ ...base, kind: "symlink", path, target });
const hardlink = (path: string, target: string): TarItem => ({ ...base, kind: "hardlink", path, target });

interface Unpacked {
  readonly root: string;
  readonly outside: string;
  readonly system: FakeSystem;
}

/** Unpacks items into a directory beside which there is one that nothing may touch. The whiteout is a plain file here: devices need root. */
async function unpacking(items: readonly TarItem[], check: (unpacked: Unpacked, error: { code: string; message: string } | undefined) => void): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const [root, outside, whiteout] = [`${path}/root`, `${path}/outside`, `${path}/whiteout`];
    for (const directory of [root, outside]) mkdirSync(directory);
    writeFileSync(`${outside}/secret`, "untouched", { mode: 0o600 });
    writeFileSync(whiteout, "");
    const chunks: Uint8Array[] = [];
    const writer = new TarWriter({ write: (bytes) => Promise.resolve(void chunks.push(bytes)) });
    for (const item of items)
      await writer.add({
        ...item,
        path: item.path.replace("OUTSIDE", outside),
        ...("target" in item ? { target: item.target.replace("OUTSIDE", outside) } : {}),
      } as TarItem);
    await writer.finish();
    const system = new FakeSystem();
    using confined = ConfinedDirectory.open(root);
    let failure: { code: string; message: string } | undefined;
    try {
      await extractLayer(readTar(stream(chunks)), confined, { ...fakeNodes(system), whiteout }, silentLogger);
    } catch (error) {
      failure = error as typeof failure;
    }
    check({ root, outside, system }, failure);
    expect(readdirSync(outside)).toEqual(["secret"]);
    expect(readFileSync(`${outside}/secret`, "utf8")).toBe("untouched");
    expect(statSync(`${outside}/secret`).mode & 0o7777).toBe(0o600);
  });
}

function fakeNodes(system: FakeSystem): Pick<FakeSystem, "makePipe" | "setXattr"> {
  return { makePipe: () => system.makePipe(), setXattr: (path, name, value) => system.setXattr(path, name, value) };
}

async function* stream(chunks: readonly Uint8Array[]): AsyncIterable<Uint8Array> {
  for (const chunk of chunks) yield await Promise.resolve(chunk);
}

async function unpacked(items: readonly TarItem[], check: (unpacked: Unpacked) => void): Promise<void> {
  await unpacking(items, (result, error) => {
    expect(error).toBeUndefined();
    check(result);
  });
}

async function refused(items: readonly TarItem[], code: string): Promise<void> {
  await unpacking(items, (_result, error) => expect(error?.code).toBe(code));
}

describe("layer: what is unpacked", () => {
  it("keeps content, modes with set-id bits, links and times, those of directories too", () =>
    unpacked(
      [
        directory("./", 0o711),
        directory("d", 0o1777),
        file("d/tool", "content", { mode: 0o4755 }),
        symlink("d/link", "/absolute/target"),
        hardlink("copy", "d/tool"),
        file("implicit/parents/file"),
      ],
      ({ root }) => {
        expect(readFileSync(`${root}/copy`, "utf8")).toBe("content");
        expect(statSync(`${root}/copy`).ino).toBe(statSync(`${root}/d/tool`).ino);
        expect(readlinkSync(`${root}/d/link`)).toBe("/absolute/target");
        expect(statSync(`${root}/d/tool`).mode).toBe(0o104755);
        expect(statSync(`${root}/d`).mode).toBe(0o041777);
        expect(statSync(root).mode).toBe(0o040711);
        expect(statSync(`${root}/implicit`).mode).toBe(0o040755);
        for (const path of ["", "/d", "/d/tool", "/d/link"]) expect(lstatSync(root + path).mtimeMs, path).toBe(base.mtime * 1000);
      },
    ));

  it("lets the last entry of a name count, whatever came before", () =>
    unpacked(
      [
        directory("a"),
        file("a/b/c"),
        file("a", "now a file"),
        file("f"),
        directory("f"),
        file("f/g"),
        symlink("s", "OUTSIDE/secret"),
        file("s", "not through the link"),
        directory("gone"),
        symlink("gone", "OUTSIDE"),
      ],
      ({ root }) => {
        expect(readFileSync(`${root}/a`, "utf8")).toBe("now a file");
        expect(readFileSync(`${root}/f/g`, "utf8")).toBe("f/g");
        expect(lstatSync(`${root}/s`).isFile()).toBe(true);
        expect(lstatSync(`${root}/gone`).isSymbolicLink()).toBe(true);
      },
    ));

  it("makes whiteouts links to the one device, and takes what they hide away", () =>
    unpacked([directory("d"), file("d/hidden/x"), file("d/.wh.hidden"), file(".wh.other"), file(".wh..wh.plnk")], ({ root }) => {
      expect(readdirSync(root).sort()).toEqual(["d", "other"]);
      expect(statSync(`${root}/d/hidden`).ino).toBe(statSync(`${root}/other`).ino);
      expect(statSync(`${root}/other`).nlink).toBe(3);
    }));

  it("marks opaque directories for overlayfs", () =>
    unpacked([directory("d"), file("d/.wh..wh..opq")], ({ root, system }) => {
      expect(readdirSync(`${root}/d`)).toEqual([]);
      expect(system.xattrs).toEqual([
        { path: expect.stringMatching(/^\/proc\/[0-9]+\/fd\/[0-9]+\/\.$/) as string, name: "trusted.overlay.opaque", value: "y" },
      ]);
    }));

  it("sets file capabilities, and no attribute that steers overlayfs or a security module", () => {
    const xattrs = new Map(
      ["security.capability", "user.note", "trusted.overlay.redirect", "trusted.overlay.opaque", "security.selinux", "system.posix_acl_access"].map((name) => [
        name,
        encodeUtf8(name),
      ]),
    );
    return unpacked([file("f", "", { xattrs })], ({ system }) => {
      expect(system.xattrs.map(({ name }) => name).sort()).toEqual(["security.capability", "user.note"]);
    });
  });

  it("leaves device nodes out", () =>
    unpacked(
      [{ ...base, kind: "block", path: "disk", major: 254, minor: 0 }, { ...base, kind: "character", path: "mem", major: 1, minor: 1 }, file("f")],
      ({ root }) => {
        expect(readdirSync(root)).toEqual(["f"]);
      },
    ));
});

describe("layer: what is refused", () => {
  it.each([
    ["a file", file("link/x")],
    ["a directory", directory("link/x")],
    ["a link", symlink("link/x", "y")],
    ["a whiteout", file("link/.wh.secret")],
    ["an opaque mark", file("link/.wh..wh..opq")],
    ["something deeper", file("link/a/b/c")],
    ["a hard link's target", hardlink("x", "link/secret")],
    ["a whiteout of a parent", file("link/x/.wh.y")],
  ])("a symbolic link on the way to %s", (_what, item) => refused([symlink("link", "OUTSIDE"), item], "ERR_AGENT_PATH"));

  it("a chain of relative links out of the layer", () =>
    refused([directory("d"), symlink("d/up", ".."), symlink("d/out", "up/../outside"), file("d/out/x")], "ERR_AGENT_PATH"));

  it.each(["../x", "a/../../x", "/../x", "a/.."])("the path %j", (path) => refused([directory("a"), file(path)], "ERR_VERITY_TAR_PATH"));

  it.each([".wh..", ".wh...", ".wh."])("a whiteout of %j", (name) => refused([directory("d"), file(`d/${name}`)], "ERR_AGENT_PATH"));

  it.each([
    ["nothing", "missing", "ERR_AGENT_LAYER"],
    ["a directory", "d", "ERR_AGENT_LAYER"],
    ["a file outside", "../outside/secret", "ERR_VERITY_TAR_PATH"],
    ["the root", "./", "ERR_AGENT_PATH"],
  ])("a hard link to %s", (_what, target, code) => refused([directory("d"), symlink("s", "OUTSIDE/secret"), hardlink("h", target)], code));

  it("not a hard link to a symbolic link, which is that link again", () =>
    unpacked([symlink("s", "OUTSIDE/secret"), hardlink("h", "s")], ({ root, outside }) => {
      expect(readlinkSync(`${root}/h`)).toBe(readlinkSync(`${root}/s`));
      expect(lstatSync(`${root}/h`).ino).toBe(lstatSync(`${root}/s`).ino);
      expect(statSync(`${outside}/secret`).nlink).toBe(1);
    }));

  it("a root that is no directory", () => refused([file(".")], "ERR_AGENT_LAYER"));

  it("an absolute path is one below the layer", () => unpacked([file("/etc/x")], ({ root }) => expect(existsSync(`${root}/etc/x`)).toBe(true)));
});

describe("ConfinedDirectory", () => {
  it("stays in the directory it opened, whatever its path means later", () =>
    inTemporaryDirectory(async (path) => {
      mkdirSync(`${path}/a`);
      writeFileSync(`${path}/a/mine`, "");
      using directory = ConfinedDirectory.open(`${path}/a`);
      const { renameSync, symlinkSync } = await import("node:fs");
      renameSync(`${path}/a`, `${path}/b`);
      symlinkSync("/", `${path}/a`);
      expect(directory.stat("mine")?.isFile()).toBe(true);
      linkSync(directory.entry("mine"), directory.entry("again"));
      expect(existsSync(`${path}/b/again`)).toBe(true);
    }));

  it.each(["", ".", "..", "a/b", "a\0", "n".repeat(256)])("has no entry %j", (name) =>
    inTemporaryDirectory(async (path) => {
      using directory = ConfinedDirectory.open(path);
      expect((await errorOf(() => directory.entry(name))).code).toBe("ERR_AGENT_PATH");
    }),
  );
});
