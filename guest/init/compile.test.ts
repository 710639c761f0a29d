import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { compileInit, INIT_SOURCE } from "./index.ts";

/** Most lines of C in the guest that the project allows itself (docs/rfc/0001-native-helper.md). */
const MAX_LINES = 300;
/** Longest line: the count must not be bought with width. */
const MAX_WIDTH = 180;

/** An ELF file with the given program headers: type and flags. */
function elf(segments: readonly (readonly [type: number, flags: number])[]): Uint8Array {
  const bytes = new Uint8Array(64 + 56 * segments.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, segments.length, true);
  segments.forEach(([type, flags], index) => {
    view.setUint32(64 + 56 * index, type, true);
    view.setUint32(68 + 56 * index, flags, true);
  });
  return bytes;
}

/** `bytes` with one byte changed. */
function changed(bytes: Uint8Array, at: number, value: number): Uint8Array {
  const copy = bytes.slice();
  copy[at] = value;
  return copy;
}

/** Text and data, as tcc makes them. */
const GOOD = elf([
  [1, 5],
  [1, 6],
]);

async function compile(made: Uint8Array): Promise<{ readonly result: Uint8Array; readonly commands: readonly (readonly string[])[] }> {
  const directory = mkdtempSync(join(tmpdir(), "sealpod-init-"));
  try {
    const commands: (readonly string[])[] = [];
    const result = await compileInit({
      tcc: "/compiler",
      output: join(directory, "program"),
      run(program, args) {
        commands.push([program, ...args.map((arg) => arg.replace(directory, "DIR"))]);
        writeFileSync(join(directory, "program"), made);
        return Promise.resolve();
      },
    });
    return { result, commands };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

describe("compileInit", () => {
  it("uses the compiler of the given package, and neither headers nor libraries of the machine", async () => {
    const { result, commands } = await compile(GOOD);
    expect(result).toEqual(GOOD);
    expect(commands).toEqual([["/compiler/usr/bin/tcc", "-Wall", "-Werror", "-nostdinc", "-nostdlib", "-static", "-o", "DIR/program", INIT_SOURCE]]);
  });

  it.each([
    { title: "nothing", made: new Uint8Array() },
    { title: "a script", made: new TextEncoder().encode(`#!/bin/sh\n${"#".repeat(100)}`) },
    { title: "a program of 32 bits", made: changed(GOOD, 4, 1) },
    { title: "an object file", made: changed(GOOD, 16, 1) },
    { title: "a program that may lie anywhere, as one with libraries may", made: changed(GOOD, 16, 3) },
    { title: "a program of another machine", made: changed(GOOD, 18, 183) },
    { title: "a program without segments", made: elf([]) },
    { title: "a program whose headers lie outside", made: changed(GOOD, 33, 1) },
    { title: "a program whose headers lie far outside", made: changed(GOOD, 39, 0xff) },
    {
      title: "a program with a loader",
      made: elf([
        [3, 4],
        [1, 5],
      ]),
    },
    {
      title: "a program with libraries",
      made: elf([
        [1, 5],
        [2, 6],
      ]),
    },
    { title: "a program that may write its code", made: elf([[1, 7]]) },
  ])("refuses $title", async ({ made }) => {
    await expect(compile(made)).rejects.toMatchObject({ code: "ERR_INIT_PROGRAM" });
  });
});

describe("init.c", () => {
  const source = readFileSync(INIT_SOURCE, "utf8");
  const lines = source
    .replaceAll(/\/\*[\s\S]*?\*\//g, "")
    .split("\n")
    .filter((line) => line.trim() !== "");

  it(`has at most ${MAX_LINES} lines of code`, () => {
    expect(source).not.toContain("//");
    expect(lines.length).toBeGreaterThan(100);
    expect(lines.length).toBeLessThanOrEqual(MAX_LINES);
    for (const line of lines) expect(line.length, line).toBeLessThanOrEqual(MAX_WIDTH);
  });

  it("is one file without headers", () => {
    expect(source).not.toMatch(/#\s*(?:include|embed|pragma)/);
  });

  it("looks at the result of every system call but those that cannot fail or whose failure nothing could follow", () => {
    const unlooked = lines.filter((line) => /^(?:for \(;;\) )?CALL\(/.test(line.trim())).map((line) => /CALL\((\w+)/.exec(line)?.[1]);
    // say, finish (5), mount's directory, process 1's and the socket's umask, vsock's descriptor 3, power-off.
    expect(unlooked).toEqual(["WRITE", "KILL", "IOCTL", "SYNC", "REBOOT", "EXIT_GROUP", "MKDIR", "UMASK", "UMASK", "CLOSE", "SYNC"]);
  });
});
