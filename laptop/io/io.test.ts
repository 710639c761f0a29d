import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8 } from "@sealpod/core";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { writeFileAtomic, writeStreamAtomic } from "./atomic.ts";
import { directoryTree } from "./directory-tree.ts";
import { fileSource } from "./file-source.ts";
import { lockFile } from "./lock.ts";
import { makeDirectory } from "./make-directory.ts";
import { isAlive } from "./process.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-io-"));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

describe("directoryTree", () => {
  it("reads, streams and measures files inside", async () => {
    mkdirSync(join(directory, "tree/a"), { recursive: true });
    const content = new Uint8Array(600_000).map((_, i) => i);
    writeFileSync(join(directory, "tree/a/file"), content);
    symlinkSync("a/file", join(directory, "tree/link"));
    const tree = directoryTree(join(directory, "tree"));
    expect(await tree.size("a/file")).toBe(600_000);
    expect(Buffer.compare(await tree.read("link", 600_000), content)).toBe(0);
    const parts: Uint8Array[] = [];
    for await (const part of tree.stream("a/file")) parts.push(part);
    expect(Buffer.compare(Buffer.concat(parts), content)).toBe(0);
    expect(await tree.size("a/none")).toBeUndefined();
    expect(await tree.size("a/file/x")).toBeUndefined();
    await expect(tree.read("a/file", 599_999)).rejects.toMatchObject({ code: "ERR_IO_LIMIT" });
    await expect(tree.read("a", 10)).rejects.toMatchObject({ code: "ERR_IO_READ" });
  });

  it("refuses paths and links that lead out", async () => {
    mkdirSync(join(directory, "tree"));
    mkdirSync(join(directory, "tree-secret"));
    writeFileSync(join(directory, "tree-secret/key"), "secret");
    symlinkSync("../tree-secret/key", join(directory, "tree/file-link"));
    symlinkSync("../tree-secret", join(directory, "tree/directory-link"));
    symlinkSync(join(directory, "tree-secret"), join(directory, "tree/absolute-link"));
    const tree = directoryTree(join(directory, "tree"));
    for (const path of [
      "../tree-secret/key",
      "/etc/passwd",
      "",
      ".",
      "..",
      "a//b",
      "a/",
      "./a",
      "a/../../tree-secret/key",
      "a\0",
      "file-link",
      "directory-link/key",
      "absolute-link/key",
    ]) {
      await expect(tree.read(path, 100), path).rejects.toMatchObject({ code: "ERR_IO_ESCAPE" });
      await expect(tree.size(path), path).rejects.toMatchObject({ code: "ERR_IO_ESCAPE" });
    }
  });
});

describe("fileSource", () => {
  it("reads ranges exactly and refuses others", async () => {
    const path = join(directory, "file");
    writeFileSync(path, "0123456789");
    await using source = await fileSource(path);
    expect(source.size).toBe(10);
    expect(new TextDecoder().decode(await source.read(3, 4))).toBe("3456");
    expect((await source.read(10, 0)).length).toBe(0);
    for (const [offset, length] of [
      [7, 4],
      [-1, 2],
      [0.5, 1],
      [0, -1],
      [2 ** 53, 1],
    ] as const) {
      await expect(source.read(offset, length)).rejects.toMatchObject({ code: "ERR_IO_RANGE" });
    }
    writeFileSync(path, "012");
    await expect(source.read(2, 5)).rejects.toMatchObject({ code: "ERR_IO_READ" });
  });

  it("refuses what is no file", async () => {
    await expect(fileSource(join(directory, "none"))).rejects.toMatchObject({ code: "ERR_IO_READ" });
    await expect(fileSource(directory)).rejects.toMatchObject({ code: "ERR_IO_READ" });
    await expect(fileSource("/dev/zero")).rejects.toMatchObject({ code: "ERR_IO_READ" });
  });
});

describe("writeStreamAtomic", () => {
  it("shows the file only after commit, with the mode, and leaves nothing beside it", async () => {
    const path = join(directory, "file");
    const file = await writeStreamAtomic(path, 0o640);
    await file.write(encodeUtf8("one "));
    await file.write(encodeUtf8("two"));
    expect(existsSync(path)).toBe(false);
    await file.commit();
    expect(readFileSync(path, "utf8")).toBe("one two");
    expect(statSync(path).mode & 0o7777).toBe(0o640);
    await file.abort();
    expect(readdirSync(directory)).toEqual(["file"]);
    await expect(file.commit()).rejects.toMatchObject({ code: "ERR_IO_WRITE" });
  });

  it("keeps the old file when writing fails or is dropped", async () => {
    const path = join(directory, "file");
    await writeFileAtomic(path, encodeUtf8("old"), 0o600);
    {
      await using file = await writeStreamAtomic(path, 0o600);
      await file.write(encodeUtf8("half"));
    }
    expect(readFileSync(path, "utf8")).toBe("old");
    expect(readdirSync(directory)).toEqual(["file"]);
    await writeFileAtomic(path, encodeUtf8("new"), 0o600);
    expect(readFileSync(path, "utf8")).toBe("new");
  });

  it("commits under another name, and cleans up when it cannot", async () => {
    const file = await writeStreamAtomic(join(directory, "a"), 0o600);
    await file.commit(join(directory, "b"));
    expect(readdirSync(directory)).toEqual(["b"]);
    mkdirSync(join(directory, "sub"));
    await expect(writeFileAtomic(join(directory, "sub"), encodeUtf8("x"), 0o600)).rejects.toMatchObject({
      code: "ERR_IO_WRITE",
      message: `cannot write ${join(directory, "sub")}: it is a directory`,
    });
    expect(readdirSync(directory)).toEqual(["b", "sub"]);
    rmSync(join(directory, "sub"), { recursive: true });
    const other = await writeStreamAtomic(join(directory, "c"), 0o600);
    await expect(other.commit(join(directory, "none/d"))).rejects.toMatchObject({ code: "ERR_IO_WRITE" });
    expect(readdirSync(directory)).toEqual(["b"]);
    await expect(writeStreamAtomic(join(directory, "none/d"), 0o600)).rejects.toMatchObject({ code: "ERR_IO_WRITE" });
  });
});

describe("makeDirectory", () => {
  const problem = async (path: string): Promise<unknown> =>
    makeDirectory(path, 0o700).then(
      () => "made",
      (error: unknown) => error,
    );

  it("makes what is missing, with the mode, and leaves what is there", async () => {
    mkdirSync(join(directory, "a"), { mode: 0o755 });
    await makeDirectory(join(directory, "a/b/c"), 0o700);
    expect(["a", "a/b", "a/b/c"].map((name) => statSync(join(directory, name)).mode & 0o777)).toEqual([0o755, 0o700, 0o700]);
    await makeDirectory(join(directory, "a"), 0o700);
    expect(statSync(join(directory, "a")).mode & 0o777).toBe(0o755);
    symlinkSync("a", join(directory, "link"));
    await makeDirectory(join(directory, "link/d"), 0o700);
    expect(existsSync(join(directory, "a/d"))).toBe(true);
    await makeDirectory("/", 0o700);
  });

  it("is done once by many at a time", async () => {
    await Promise.all(Array.from({ length: 20 }, async () => makeDirectory(join(directory, "x/y/z"), 0o700)));
    expect(statSync(join(directory, "x/y/z")).isDirectory()).toBe(true);
  });

  it("names what is in the way, and makes nothing", async () => {
    writeFileSync(join(directory, "file"), "");
    symlinkSync("nowhere", join(directory, "dangling"));
    for (const path of ["file", "file/x", "file/x/y"]) {
      expect(await problem(join(directory, path))).toMatchObject({
        code: "ERR_IO_WRITE",
        message: expect.stringContaining(`${join(directory, "file")} is there and is no directory`) as string,
        hint: expect.any(String) as string,
      });
    }
    expect(await problem(join(directory, "dangling/x"))).toMatchObject({ code: "ERR_IO_WRITE" });
    expect(readdirSync(directory).toSorted()).toEqual(["dangling", "file"]);
    expect(await problem("/dev/null/x")).toMatchObject({ code: "ERR_IO_WRITE" });
    expect(await problem(join(directory, "n".repeat(300)))).toMatchObject({ code: "ERR_IO_WRITE" });
  });

  it.skipIf(!existsSync("/proc/self"))("ends where a file system takes no directories and says ENOENT", async () => {
    for (const path of ["/proc/x", "/proc/x/y/z"])
      expect(await problem(path)).toMatchObject({ code: "ERR_IO_WRITE", message: `cannot make the directory ${path}: /proc takes no new directories` });
  });
});

describe("lockFile", () => {
  it("is held once, within one process too, until it is released", async () => {
    const path = join(directory, "lock");
    const lock = await lockFile(path);
    await expect(lockFile(path)).rejects.toMatchObject({ code: "ERR_IO_LOCKED", message: expect.stringContaining(`process ${process.pid}`) as string });
    await lock.release();
    await lock.release();
    await using again = await lockFile(path);
    expect(again).toBeDefined();
  });

  it("takes over the lock of a dead process, and of one whose id was given anew", async () => {
    const path = join(directory, "lock");
    // Larger than any pid_max; and this process's id with another start time.
    for (const text of ["4194305 12345\n", `${process.pid} 1\n`]) {
      writeFileSync(path, text);
      const lock = await lockFile(path);
      expect(readFileSync(path, "utf8")).toMatch(new RegExp(`^${process.pid} (?!1\n)`));
      await lock.release();
    }
    expect(readdirSync(directory)).toEqual([]);
  });

  it("gives a dead process's lock to one of many", async () => {
    const path = join(directory, "lock");
    writeFileSync(path, "4194305 12345\n");
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => lockFile(path)));
    expect(results.filter((result) => result.status === "fulfilled")).toHaveLength(1);
  });

  it("leaves a file alone that is no lock", async () => {
    const path = join(directory, "lock");
    writeFileSync(path, "precious");
    await expect(lockFile(path)).rejects.toMatchObject({ code: "ERR_IO_LOCKED" });
    expect(readFileSync(path, "utf8")).toBe("precious");
    chmodSync(path, 0o600);
  });
});

describe("isAlive", () => {
  it.each([
    ["this process", process.pid, true],
    ["the first process, whoever owns it", 1, true],
    // Larger than any pid_max.
    ["an id that no process has", 4_194_305, false],
    ["0, which is no process", 0, false],
  ])("knows %s", (_what, pid, alive) => {
    expect(isAlive(pid)).toBe(alive);
  });

  it.skipIf(!existsSync("/proc/self/stat"))("does not take a process that ended and was not reaped for one that runs", async () => {
    // The shell's child ends at once; the shell has become `sleep` by then and never reaps it.
    const shell = spawn("/bin/sh", ["-c", "true & echo $!; exec sleep 60"], { stdio: ["ignore", "pipe", "ignore"] });
    try {
      const [line] = (await once(shell.stdout, "data")) as [Buffer];
      await vi.waitFor(() => expect(isAlive(Number(line.toString()))).toBe(false), 5000);
      expect(isAlive(shell.pid ?? 0)).toBe(true);
    } finally {
      shell.kill("SIGKILL");
    }
  });
});
