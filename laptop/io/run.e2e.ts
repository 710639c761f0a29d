import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeUtf8 } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { directoryTree } from "./directory-tree.ts";
import { lockFile } from "./lock.ts";
import { run } from "./run.ts";

describe("run", () => {
  it("gives output, input, environment and directory", async () => {
    const { stdout, stderr, code } = await run("/bin/sh", ["-c", 'cat; echo "$A $(pwd)" >&2; exit 3'], {
      input: encodeUtf8("in"),
      env: { A: "b" },
      cwd: "/",
      okCodes: [3],
    });
    expect([new TextDecoder().decode(stdout), stderr, code]).toEqual(["in", "b /\n", 3]);
  });

  it("fails readably", async () => {
    await expect(run("/bin/sh", ["-c", "echo broken >&2; exit 4"])).rejects.toMatchObject({
      code: "ERR_IO_COMMAND",
      message: expect.stringMatching(/exit code 4: broken$/) as string,
    });
    await expect(run("/no/such/command", [])).rejects.toMatchObject({ code: "ERR_IO_COMMAND", message: expect.stringContaining("not found") as string });
    await expect(run("/bin/sh", ["-c", "kill -TERM $$"])).rejects.toMatchObject({ message: expect.stringContaining("killed by SIGTERM") as string });
  });

  it("bounds output and time, and stops when told", async () => {
    await expect(run("/bin/sh", ["-c", "exec cat /dev/zero"], { maxOutput: 100_000 })).rejects.toMatchObject({ code: "ERR_IO_LIMIT" });
    await expect(run("/bin/sh", ["-c", "exec sleep 1000"], { timeoutMs: 50 })).rejects.toMatchObject({
      message: expect.stringContaining("did not end within 50 ms") as string,
    });
    await expect(run("/bin/sh", ["-c", "exec sleep 1000"], { signal: AbortSignal.abort() })).rejects.toMatchObject({
      message: expect.stringContaining("stopped") as string,
    });
  });

  it("does not mind a command that ignores its input", async () => {
    expect((await run("/bin/true", [], { input: new Uint8Array(10_000_000) })).code).toBe(0);
  });
});

describe("with other processes", () => {
  it("a lock is held while its process lives", async () => {
    const directory = mkdtempSync(join(tmpdir(), "sealpod-io-"));
    const holder = spawn(process.execPath, [
      "--input-type=module-typescript",
      "-e",
      `import { lockFile } from ${JSON.stringify(join(import.meta.dirname, "lock.ts"))}; await lockFile(${JSON.stringify(join(directory, "lock"))}); console.log("held"); process.stdin.resume();`,
    ]);
    try {
      await once(holder.stdout, "data");
      await expect(lockFile(join(directory, "lock"))).rejects.toMatchObject({ code: "ERR_IO_LOCKED", details: { pid: String(holder.pid) } });
      const exited = once(holder, "exit");
      holder.kill("SIGKILL");
      await exited;
      await using lock = await lockFile(join(directory, "lock"));
      expect(lock).toBeDefined();
    } finally {
      holder.kill("SIGKILL");
      rmSync(directory, { recursive: true });
    }
  });

  it("a FIFO in a tree does not block the reader", async () => {
    const directory = mkdtempSync(join(tmpdir(), "sealpod-io-"));
    try {
      expect(spawnSync("mkfifo", [join(directory, "pipe")]).status).toBe(0);
      writeFileSync(join(directory, "file"), "x");
      await expect(directoryTree(directory).read("pipe", 10)).rejects.toMatchObject({ code: "ERR_IO_READ" });
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
