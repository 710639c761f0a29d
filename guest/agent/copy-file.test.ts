import { execFileSync } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { encodeUtf8 } from "@sealpod/core";
import { CopyFileRequestSchema, create, type CopyFileRequest } from "@sealpod/proto";
import { describe, expect, it } from "vitest";
import { copyFile } from "./copy-file.ts";
import { errorOf, inTemporaryDirectory } from "./test-support.ts";

const uid = process.getuid?.() ?? 0;
const gid = process.getgid?.() ?? 0;

function request(path: string, data: string, fields: { mode?: number; size?: number; offset?: number; dirMode?: number } = {}): CopyFileRequest {
  const bytes = encodeUtf8(data);
  return create(CopyFileRequestSchema, {
    path,
    data: bytes,
    fileSize: BigInt(fields.size ?? bytes.length),
    offset: BigInt(fields.offset ?? 0),
    fileMode: fields.mode ?? 0o100644,
    dirMode: fields.dirMode ?? 0o750,
    uid,
    gid,
  });
}

/** Runs a test with a share root, and a directory and file outside that nothing may touch. */
async function withShare(use: (share: string, outside: string) => void | Promise<void>): Promise<void> {
  await inTemporaryDirectory(async (path) => {
    const share = `${path}/share`;
    const outside = `${path}/outside`;
    for (const directory of [share, outside]) mkdirSync(directory);
    writeFileSync(`${outside}/secret`, "untouched");
    await use(share, outside);
    expect(readdirSync(outside)).toEqual(["secret"]);
    expect(readFileSync(`${outside}/secret`, "utf8")).toBe("untouched");
  });
}

describe("CopyFile: files", () => {
  it("makes missing parents with dir_mode, and the file with its mode, set-id bits dropped", () =>
    withShare((share) => {
      copyFile(share, request(`${share}/a/b/file`, "text", { mode: 0o106755 }));
      expect(readFileSync(`${share}/a/b/file`, "utf8")).toBe("text");
      expect(statSync(`${share}/a/b/file`).mode).toBe(0o100755);
      expect(statSync(`${share}/a`).mode & 0o7777).toBe(0o750);
    }));

  it("shows a file only when its last piece has come, and leaves nothing beside it", () =>
    withShare((share) => {
      writeFileSync(`${share}/file`, "old");
      copyFile(share, request(`${share}/file`, "first ", { size: 12 }));
      expect(readFileSync(`${share}/file`, "utf8")).toBe("old");
      copyFile(share, request(`${share}/file`, "second", { size: 12, offset: 6 }));
      expect(readFileSync(`${share}/file`, "utf8")).toBe("first second");
      expect(readdirSync(share)).toEqual(["file"]);
    }));

  it("begins again at offset 0", () =>
    withShare((share) => {
      copyFile(share, request(`${share}/file`, "half", { size: 8 }));
      copyFile(share, request(`${share}/file`, "new", {}));
      expect(readFileSync(`${share}/file`, "utf8")).toBe("new");
    }));

  it("takes an empty file in one piece", () =>
    withShare((share) => {
      copyFile(share, request(`${share}/file`, ""));
      expect(statSync(`${share}/file`).size).toBe(0);
    }));

  it("keeps a name of 255 bytes", () =>
    withShare((share) => {
      const name = "é".repeat(127);
      copyFile(share, request(`${share}/${name}`, "x"));
      expect(readdirSync(share)).toEqual([name]);
    }));

  it.each([
    ["a gap", { size: 9, offset: 5 }],
    ["an overlap", { size: 9, offset: 3 }],
    ["bytes after the end", { size: 6, offset: 4 }],
    ["a negative size", { size: -1 }],
    ["a negative offset", { offset: -1 }],
  ])("refuses %s", (_what, fields) =>
    withShare(async (share) => {
      copyFile(share, request(`${share}/file`, "half", { size: 9 }));
      expect((await errorOf(() => copyFile(share, request(`${share}/file`, "more", fields)))).code).toBe("ERR_AGENT_REQUEST");
      expect(existsSync(`${share}/file`)).toBe(false);
    }),
  );

  it("refuses to put a file in the place of a directory", () =>
    withShare(async (share) => {
      mkdirSync(`${share}/name`);
      expect((await errorOf(() => copyFile(share, request(`${share}/name`, "x")))).code).toBe("ERR_AGENT_REQUEST");
      expect(readdirSync(share)).toEqual(["name"]);
    }));

  it.each([
    ["a socket", 0o140644],
    ["a device", 0o060644],
    ["a pipe", 0o010644],
    ["no type", 0o644],
  ])("refuses %s", (_what, mode) =>
    withShare(async (share) => {
      expect((await errorOf(() => copyFile(share, request(`${share}/x`, "", { mode })))).code).toBe("ERR_AGENT_REQUEST");
      expect(readdirSync(share)).toEqual([]);
    }),
  );
});

describe("CopyFile: directories and links", () => {
  it("keeps an existing directory and gives it the mode", () =>
    withShare((share) => {
      mkdirSync(`${share}/d`);
      writeFileSync(`${share}/d/inside`, "");
      copyFile(share, request(`${share}/d`, "", { mode: 0o042770 }));
      expect(readdirSync(`${share}/d`)).toEqual(["inside"]);
      expect(statSync(`${share}/d`).mode).toBe(0o042770);
    }));

  it("puts a directory in the place of a file or a link, without following the link", () =>
    withShare((share, outside) => {
      writeFileSync(`${share}/file`, "");
      symlinkSync(outside, `${share}/link`);
      for (const name of ["file", "link"]) {
        copyFile(share, request(`${share}/${name}`, "", { mode: 0o040777 }));
        expect(lstatSync(`${share}/${name}`).isDirectory()).toBe(true);
      }
      expect(statSync(outside).mode & 0o7777).not.toBe(0o777);
    }));

  it("switches ..data as Kubernetes does", () =>
    withShare((share) => {
      for (const version of ["..2026_1", "..2026_2"]) {
        copyFile(share, request(`${share}/volume/${version}/key`, version));
        copyFile(share, request(`${share}/volume/..data`, version, { mode: 0o120777 }));
        expect(readFileSync(`${share}/volume/..data/key`, "utf8")).toBe(version);
      }
      expect(readlinkSync(`${share}/volume/..data`)).toBe("..2026_2");
      expect(readdirSync(`${share}/volume`).sort()).toEqual(["..2026_1", "..2026_2", "..data"]);
    }));

  it("puts no link directly into the share root, where bind mounts begin", () =>
    withShare(async (share) => {
      writeFileSync(`${share}/c1-hosts`, "");
      for (const name of ["link", "c1-hosts"]) {
        expect((await errorOf(() => copyFile(share, request(`${share}/${name}`, "/run", { mode: 0o120777 })))).code).toBe("ERR_AGENT_REQUEST");
      }
      expect(readdirSync(share)).toEqual(["c1-hosts"]);
      expect(lstatSync(`${share}/c1-hosts`).isFile()).toBe(true);
    }));

  it.each(["", "a\0b"])("refuses the link target %j", (target) =>
    withShare(async (share) => {
      expect((await errorOf(() => copyFile(share, request(`${share}/l`, target, { mode: 0o120777 })))).code).toBe("ERR_AGENT_REQUEST");
    }),
  );

  it("refuses a link target that is not UTF-8", () =>
    withShare(async (share) => {
      const link = { ...request(`${share}/l`, "x", { mode: 0o120777 }), data: Uint8Array.of(0xff) };
      expect((await errorOf(() => copyFile(share, link))).code).toBe("ERR_AGENT_REQUEST");
    }));
});

describe("CopyFile: confinement", () => {
  it.each([
    "/etc/passwd",
    "SHARE",
    "SHARE/",
    "SHARE/../outside/x",
    "SHARE/a/../../outside/x",
    "SHARE/a//x",
    "SHARE/./x",
    "SHARE/x/",
    "SHAREd/x",
    `SHARE/${"n".repeat(256)}`,
    "SHARE/a\0b",
    `SHARE/${"a/".repeat(1024)}x`,
  ])("refuses the path %j", (path) =>
    withShare(async (share) => {
      expect((await errorOf(() => copyFile(share, request(path.replace("SHARE", share), "x")))).code).toBe("ERR_AGENT_PATH");
      expect(readdirSync(share)).toEqual([]);
    }),
  );

  it.each([
    ["a file", {}],
    ["a new directory", { mode: 0o040755 }],
    ["a link", { mode: 0o120777 }],
  ])("does not go through a link to bring %s", (_what, fields) =>
    withShare(async (share, outside) => {
      symlinkSync(outside, `${share}/link`);
      symlinkSync("..", `${share}/up`);
      mkdirSync(`${share}/real`);
      symlinkSync("../link", `${share}/real/chain`);
      for (const path of ["link/x", "up/outside/x", "real/chain/x", "link/deep/x"]) {
        expect((await errorOf(() => copyFile(share, request(`${share}/${path}`, "x", fields)))).code).toBe("ERR_AGENT_PATH");
      }
    }),
  );

  it("replaces a link in the last place instead of writing through it", () =>
    withShare((share, outside) => {
      symlinkSync(`${outside}/secret`, `${share}/file`);
      copyFile(share, request(`${share}/file`, "mine"));
      expect(lstatSync(`${share}/file`).isFile()).toBe(true);
    }));

  it("does not follow a link, and does not wait on a pipe, put in the place of the unfinished file", () =>
    withShare(async (share, outside) => {
      // As long as the file outside, which a link followed would then fit.
      copyFile(share, request(`${share}/file`, "123456789", { size: 13 }));
      const beside = `${share}/${readdirSync(share)[0]}`;
      for (const plant of [() => symlinkSync(`${outside}/secret`, beside), () => execFileSync("mkfifo", [beside])]) {
        execFileSync("rm", [beside]);
        plant();
        expect((await errorOf(() => copyFile(share, request(`${share}/file`, "more", { size: 13, offset: 9 })))).code).toBe("ERR_AGENT_REQUEST");
      }
      copyFile(share, request(`${share}/file`, "whole"));
      expect(readFileSync(`${share}/file`, "utf8")).toBe("whole");
    }));
});
