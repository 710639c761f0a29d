import { execFileSync, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, watch, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

/** `sealpod encfs` as a process, judged by cryptsetup and debugfs. */
// As users start it: the bundle where it is fresh, and the compile cache.
const MAIN = join(import.meta.dirname, "..", "bin", "sealpod.cjs");
const directory = mkdtempSync(join(tmpdir(), "sealpod-encfs-"));
const file = (name: string): string => join(directory, name);
const env = { ...process.env, PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` };
const has = (command: string): boolean => ["/usr/sbin", "/sbin", "/usr/bin"].some((place) => existsSync(join(place, command)));

function sealpod(...args: readonly string[]): { readonly code: number; readonly out: string; readonly err: string } {
  try {
    return {
      code: 0,
      out: execFileSync(process.execPath, [MAIN, "encfs", ...args], { cwd: directory, env, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }),
      err: "",
    };
  } catch (error) {
    const { status, stdout, stderr } = error as { readonly status: number; readonly stdout: string; readonly stderr: string };
    return { code: status, out: stdout, err: stderr };
  }
}

/** The path of a file in the directory, once there is one of this name. */
async function appears(name: RegExp): Promise<string> {
  const found = (): string | undefined => readdirSync(directory).find((entry) => name.test(entry));
  const watcher = watch(directory);
  try {
    for (let entry = found(); ; entry = found()) {
      if (entry !== undefined) return file(entry);
      await once(watcher, "change");
    }
  } finally {
    watcher.close();
  }
}

const nextTurn = async (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

describe.skipIf(!has("mkfs.ext4"))("sealpod encfs (skipped without mkfs.ext4)", () => {
  const content = randomBytes(200_000);
  beforeAll(() => {
    writeFileSync(file("key"), randomBytes(32));
    writeFileSync(file("other"), randomBytes(32));
    mkdirSync(file("data/deeper"), { recursive: true });
    writeFileSync(file("data/hello.txt"), "hello\n");
    writeFileSync(file("data/deeper/bytes"), content);
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  it("makes an image that opens with the key, shows it, and gives the files back", () => {
    expect(sealpod("create", "--key", "key", "--from", "data", "-o", "data.img").out).toMatch(/^data\.img: LUKS2 volume [0-9a-f-]{36}, filesystem of 64 MiB\n/);
    expect(statSync(file("data.img")).mode & 0o777).toBe(0o600);
    if (has("cryptsetup")) execFileSync("cryptsetup", ["open", "--test-passphrase", "--key-file", file("key"), file("data.img")], { env });
    expect(JSON.parse(sealpod("show", "data.img", "--key", "key", "--json").out)).toMatchObject({ opens: true, dataLength: 67_108_864, copies: "both" });
    expect(sealpod("show", "data.img", "--key", "other")).toMatchObject({ code: 3, out: expect.stringContaining("does NOT open it") });
    sealpod("decrypt", "data.img", "--key", "key", "-o", "plain");
    execFileSync("debugfs", ["-R", `dump /deeper/bytes ${file("bytes")}`, file("plain")], { env, stdio: "ignore" });
    expect(readFileSync(file("bytes")).equals(content)).toBe(true);
    // What is in the image is nowhere to be read in it.
    expect(readFileSync(file("data.img")).includes("hello\n")).toBe(false);
  });

  it("overwrites nothing, and leaves nothing behind when it fails", () => {
    writeFileSync(file("precious"), "mine");
    const before = readdirSync(directory).toSorted();
    expect(sealpod("create", "--key", "key", "-o", "precious")).toMatchObject({ code: 1, err: expect.stringContaining("is there already") });
    expect(sealpod("decrypt", "data.img", "--key", "other", "-o", "nothing")).toMatchObject({ code: 3, err: expect.stringContaining("ERR_LUKS2_KEY") });
    expect(sealpod("create", "--key", "data/hello.txt", "-o", "weak.img")).toMatchObject({ code: 2, err: expect.stringContaining("openssl rand") });
    expect(sealpod("create", "--key", "key", "--from", "missing", "-o", "none.img")).toMatchObject({ code: 1, err: expect.stringContaining("--from missing") });
    expect(sealpod("create", "--key", "key", "--size", "lots", "-o", "none.img")).toMatchObject({ code: 2, err: expect.stringContaining("64MiB") });
    expect(sealpod("create", "--key", "key", "-o", "not/there.img")).toMatchObject({ code: 1, err: expect.stringContaining("cannot be written") });
    expect(sealpod("show", "key")).toMatchObject({ code: 1, err: expect.stringContaining("ERR_LUKS2_HEADER") });
    expect(readFileSync(file("precious"), "utf8")).toBe("mine");
    expect(readdirSync(directory).toSorted()).toEqual(before);
  });

  it("leaves nothing in the clear when it is ended, however it is", async () => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
      const before = readdirSync(directory).toSorted();
      const child = spawn(process.execPath, [MAIN, "encfs", "create", "--key", "key", "--from", "data", "--size", "600MiB", "-o", "ended.img"], {
        cwd: directory,
        env,
        stdio: "ignore",
      });
      const closed = once(child, "close");
      // The image grows in a directory of its own; the filesystem is whole by then.
      const scratch = await appears(/^\.sealpod-encfs-/);
      while (!existsSync(join(scratch, "image"))) await nextTurn();
      child.kill(signal);
      const [code] = (await closed) as [number | null];
      expect(code).toBe({ SIGINT: 130, SIGTERM: 143, SIGKILL: null }[signal]);
      if (signal === "SIGKILL") {
        expect(readdirSync(scratch)).toEqual(["image"]);
        expect(readFileSync(join(scratch, "image")).includes("hello\n")).toBe(false);
        rmSync(scratch, { recursive: true });
      }
      expect(readdirSync(directory).toSorted()).toEqual(before);
    }
  });

  it("says so when the disk is full, and names no file that is not whole", () => {
    const before = readdirSync(directory).toSorted();
    const limited = spawnSync(
      "sh",
      ["-c", 'ulimit -f 40000 && exec "$@"', "sh", process.execPath, MAIN, "encfs", "create", "--key", "key", "--image", "data.img", "-o", "full.img"],
      {
        cwd: directory,
        env,
        encoding: "utf8",
      },
    );
    expect(limited.status).not.toBe(0);
    expect(
      readdirSync(directory)
        .filter((name) => !name.startsWith(".sealpod-encfs-"))
        .toSorted(),
    ).toEqual(before);
    for (const left of readdirSync(directory).filter((name) => name.startsWith(".sealpod-encfs-"))) rmSync(file(left), { recursive: true });
  });

  it("does not take the place of a link that leads nowhere", () => {
    symlinkSync("nowhere", file("link.img"));
    expect(sealpod("create", "--key", "key", "--size", "1MiB", "-o", "link.img")).toMatchObject({ code: 1, err: expect.stringContaining("is there already") });
    rmSync(file("link.img"));
  });

  it("says so when the files do not fit", () => {
    writeFileSync(file("data/large"), randomBytes(3_000_000));
    expect(sealpod("create", "--key", "key", "--from", "data", "--size", "2MiB", "-o", "small.img")).toMatchObject({
      code: 1,
      err: expect.stringContaining("--size"),
    });
  });
});
