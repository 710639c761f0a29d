import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openLog } from "./log.ts";

describe("the log", () => {
  let directory = "";
  let path = "";
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "log-"));
    path = join(directory, "log");
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  it("gets lines behind those that are there", () => {
    writeFileSync(path, "before\n");
    const log = openLog(path);
    log.write("one\n");
    log.write("two\n");
    log.close();
    log.write("late\n");
    expect(readFileSync(path, "utf8")).toBe("before\none\ntwo\n");
  });

  it("cuts a line that the kernel would not write in one piece, and ends it", () => {
    writeFileSync(path, "");
    const log = openLog(path);
    log.write(`${"x".repeat(5000)}\n`);
    log.write("next\n");
    log.close();
    expect(readFileSync(path, "utf8")).toBe(`${"x".repeat(4095)}\nnext\n`);
  });

  it("is not made where there is none", () => {
    const log = openLog(path);
    log.write("lost\n");
    log.close();
    expect(() => readFileSync(path)).toThrow("ENOENT");
  });
});
