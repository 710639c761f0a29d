import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compileInit, INIT_SOURCE } from "./index.ts";
import { debianPackage, present, run } from "./test-support.ts";

const tcc = debianPackage("tcc");
const PEER = join(import.meta.dirname, "testdata", "peer.c");

describe("the first process's source", () => {
  let directory: string;

  beforeAll(() => (directory = mkdtempSync(join(tmpdir(), "sealpod-compile-"))));
  afterAll(() => rmSync(directory, { recursive: true }));

  it.skipIf(tcc === undefined)("gives the same bytes each time, wherever it and the compiler are (skipped without Debian's tcc)", async () => {
    const first = await compileInit({ tcc: tcc ?? "", output: join(directory, "first"), run });
    const elsewhere = join(directory, "another place");
    mkdirSync(elsewhere);
    symlinkSync(tcc ?? "", join(elsewhere, "compiler"));
    copyFileSync(INIT_SOURCE, join(elsewhere, "copy.c"));
    const second = await compileInit({ tcc: join(elsewhere, "compiler"), output: join(elsewhere, "second"), run, source: join(elsewhere, "copy.c") });
    expect(Buffer.from(second).equals(first)).toBe(true);
    // No library crept in: a C library alone is ten times this.
    expect(first.length).toBeLessThan(64 * 1024);
    expect(spawnSync(join(directory, "first"), { encoding: "utf8" }).stderr).toContain("usage: helper");
  });

  it.skipIf(tcc === undefined)("is refused with the compiler's words when it does not compile (skipped without Debian's tcc)", async () => {
    const source = join(directory, "broken.c");
    writeFileSync(source, "int start(void) { return nothing; }\n");
    const failing = compileInit({ tcc: tcc ?? "", output: join(directory, "broken"), run, source });
    await expect(failing).rejects.toMatchObject({ code: "ERR_INIT_COMPILE", message: expect.stringContaining("nothing") as string });
  });

  it.skipIf(!present("gcc")).each([
    { file: INIT_SOURCE, title: "init.c" },
    { file: PEER, title: "testdata/peer.c" },
  ])("$title has no warning from gcc (skipped without gcc)", ({ file }) => {
    const unused = file === PEER ? ["-Wno-unused-function"] : [];
    const flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", ...unused, "-ffreestanding", "-nostdlib", "-static"];
    const { status, stderr } = spawnSync("gcc", [...flags, "-o", join(directory, "gcc"), file], { encoding: "utf8" });
    expect(stderr).toBe("");
    expect(status).toBe(0);
  });

  it.skipIf(!present("gcc"))("reads tables within its buffers by gcc's checks (skipped without gcc)", () => {
    const output = join(directory, "checked");
    const checks = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error", "-O1", "-fno-builtin"];
    execFileSync("gcc", ["-std=c11", ...checks, "-ffreestanding", "-nostdlib", "-static", "-o", output, PEER]);
    for (const text of ["", '"', `dm-mod.create="`, `dm-mod.create="${"x".repeat(9000)}"`, `dm-mod.create="sealpod-root,,,ro,0 ${"9".repeat(5000)}`]) {
      const { status, signal } = spawnSync(output, ["table", text]);
      expect({ text, status, signal }).toEqual({ text, status: 1, signal: null });
    }
  });
});
