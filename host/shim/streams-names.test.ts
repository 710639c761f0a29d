import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ShimError } from "./errors.ts";
import { parseStreamName } from "./streams-names.ts";

describe("names of streams", () => {
  it.each([
    ["", undefined],
    ["/run/containerd/fifo/1/a-stdout", { kind: "path", path: "/run/containerd/fifo/1/a-stdout" }],
    ["/a%20b?c#d", { kind: "path", path: "/a%20b?c#d" }],
    ["file:///var/log/a%20b.log", { kind: "file", path: "/var/log/a b.log" }],
    ["FILE:///a/../b", { kind: "file", path: "/a/../b" }],
    ["binary:///usr/bin/log", { kind: "binary", path: "/usr/bin/log", args: [] }],
    ["binary:///usr/bin/log?--id=1&-v&a+b=c%26d=e&&--id=2", { kind: "binary", path: "/usr/bin/log", args: ["--id", "1", "-v", "", "a b", "c&d=e"] }],
    ["binary:///a%2Fb?x=%C3%A9", { kind: "binary", path: "/a/b", args: ["x", "é"] }],
  ])("reads %j", (name, target) => {
    expect(parseStreamName("stdout", name)).toEqual(target);
  });

  it.each([
    ["relative/path", "is neither an absolute path nor"],
    ["./fifo", "is neither"],
    [" /run/fifo", "is neither"],
    ["http://host/x", "is neither"],
    ["npipe:////./pipe/x", "is neither"],
    ["ttrpc+unix:///run/x?streaming_id=1", "is neither"],
    ["file:/var/log/x", "is neither"],
    ["binary:x", "is neither"],
    ["://x", "is neither"],
    ["file://", "has no path"],
    ["binary://", "has no path"],
    ["binary://?a=b", "has no path"],
    ["binary://usr/bin/x", 'names the host "usr"'],
    ["file://localhost/x", 'names the host "localhost"'],
    ["file:///x#y", "has a fragment"],
    ["file:///x%", "has a % that is no byte of UTF-8"],
    ["file:///x%ff", "has a %"],
    ["binary:///x?a=%zz", "has a %"],
    ["binary:///x?a=%00", "has a NUL"],
    ["file:///x%00y", "has a NUL"],
    ["/run/x\0y", "has a NUL"],
    [`/${"x".repeat(20_000)}`, "is longer than 16384 bytes"],
  ])("refuses %j", (name, problem) => {
    expect(() => parseStreamName("stderr", name)).toThrow(
      expect.objectContaining({ code: "ERR_SHIM_STREAM", message: expect.stringContaining(problem) as string, details: { stream: "stderr" } }) as Error,
    );
  });

  it("says a long name short", () => {
    const message = (() => {
      try {
        parseStreamName("stdin", "x".repeat(16_000));
      } catch (error) {
        return String(error);
      }
      return "";
    })();
    expect(message).toContain("x…");
    expect(message.length).toBeLessThan(500);
  });

  it("gives a target with an absolute path without NUL, or a ShimError", () => {
    const part = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("binary://", "file://", "/", "?", "#", "%", "%00", "%2e", "&", "=", "..", "\0", "\n"));
    fc.assert(
      fc.property(fc.array(part, { maxLength: 8 }), (parts) => {
        try {
          const target = parseStreamName("stdout", parts.join(""));
          if (target === undefined) return parts.join("") === "";
          const texts = [target.path, ...(target.kind === "binary" ? target.args : [])];
          return target.path.startsWith("/") && texts.every((text) => !text.includes("\0"));
        } catch (error) {
          return error instanceof ShimError;
        }
      }),
      { numRuns: 2000 },
    );
  });
});
