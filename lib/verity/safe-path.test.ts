import { describe, expect, it } from "vitest";
import { safePath } from "./safe-path.ts";

describe("safePath", () => {
  it.each([
    ["etc/passwd", "etc/passwd"],
    ["./etc//passwd/", "etc/passwd"],
    ["/etc/./passwd", "etc/passwd"],
    ["./", ""],
    ["/", ""],
    ["..a/b..", "..a/b.."],
  ])("cleans %s", (path, expected) => {
    expect(safePath(path)).toBe(expected);
  });

  it.each(["..", "../etc/passwd", "a/../../b", "a/..", "/..", "a\0b", "x".repeat(256), "é".repeat(128)])("refuses %j", (path) => {
    expect(() => safePath(path)).toThrow(expect.objectContaining({ code: "ERR_VERITY_TAR_PATH" }) as Error);
  });
});
