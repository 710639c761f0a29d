import { SandboxError, type SandboxErrorCode } from "@sealpod/sandbox";
import { STATUS, TtrpcError } from "@sealpod/ttrpc";
import { VmmError } from "@sealpod/vmm";
import { describe, expect, it } from "vitest";
import { ShimError, SHIM_ERRORS, type ShimErrorCode } from "./errors.ts";
import { oneLine, taskError } from "./status.ts";

describe("what containerd is told of an error", () => {
  const shim: Readonly<Record<ShimErrorCode, number>> = {
    ERR_SHIM_USAGE: STATUS.invalidArgument,
    ERR_SHIM_CONFIG: STATUS.failedPrecondition,
    ERR_SHIM_BUNDLE: STATUS.invalidArgument,
    ERR_SHIM_IMAGE: STATUS.failedPrecondition,
    ERR_SHIM_NOT_FOUND: STATUS.notFound,
    ERR_SHIM_EXISTS: STATUS.alreadyExists,
    ERR_SHIM_STATE: STATUS.failedPrecondition,
    ERR_SHIM_STREAM: STATUS.invalidArgument,
    ERR_SHIM_POD: STATUS.failedPrecondition,
  };
  it.each(Object.keys(SHIM_ERRORS) as ShimErrorCode[])("%s", (code) => {
    expect(taskError(new ShimError(code, "text", { hint: "Hint." })).status).toEqual({ code: shim[code], message: "text (Hint.)" });
  });

  const sandbox: Readonly<Record<SandboxErrorCode, number>> = {
    ERR_SANDBOX_AGENT: STATUS.internal,
    ERR_SANDBOX_CLOSED: STATUS.unavailable,
    ERR_SANDBOX_DENIED: STATUS.permissionDenied,
    ERR_SANDBOX_FILES: STATUS.invalidArgument,
    ERR_SANDBOX_LAYER: STATUS.internal,
    ERR_SANDBOX_POLICY: STATUS.permissionDenied,
    ERR_SANDBOX_SPEC: STATUS.invalidArgument,
    ERR_SANDBOX_TIMEOUT: STATUS.deadlineExceeded,
  };
  it.each(Object.keys(sandbox) as SandboxErrorCode[])("%s", (code) => {
    expect(taskError(new SandboxError(code, "text")).status.code).toBe(sandbox[code]);
  });

  it("takes the guest's word for processes that are not there", () => {
    const agent = (status: string): number => taskError(new SandboxError("ERR_SANDBOX_AGENT", "x", { details: { status } })).status.code;
    expect([agent("NOT_FOUND"), agent("UNIMPLEMENTED"), agent("INTERNAL")]).toEqual([STATUS.notFound, STATUS.unimplemented, STATUS.internal]);
    // Only the guest's: nothing else that is missing may pass for a missing task.
    expect(taskError(new VmmError("ERR_VMM_DISK", "x", { details: { status: "NOT_FOUND" } })).status.code).toBe(STATUS.invalidArgument);
  });

  it("keeps a status, and has one for what is none of ours", () => {
    expect(taskError(new TtrpcError("ERR_TTRPC_STATUS", "x", { status: { code: 10, message: "a\nb" } })).status).toEqual({ code: 10, message: "a b" });
    expect(taskError("text").status).toEqual({ code: STATUS.unknown, message: "text" });
  });
});

describe("one line", () => {
  it("has no line breaks, no control characters, and an end", () => {
    expect(oneLine("a\r\nb\u2028c\u0000\u001b[31m  d \n")).toBe("a b c [31m d");
    expect(oneLine("x".repeat(2000))).toBe("x".repeat(2000));
    expect(oneLine("x".repeat(2001)).length).toBe(2000);
    expect(oneLine(" ".repeat(10_000_000)).length).toBeLessThan(10);
  });

  it.each([2001, 8001, 10_000_000])("of %d characters keeps the beginning and the end", (length) => {
    const line = oneLine(`what failed ${"x".repeat(length)} and why`);
    expect(line).toMatch(/^what failed x+ … x+ and why$/);
    expect(line.length).toBe(2000);
  });

  it.each([0, 1])("has no half of a character (%d)", (shift) => {
    for (const count of [1000, 1500, 5000]) {
      const line = oneLine(`${"x".repeat(shift)}${"\u{1f600}".repeat(count)}`);
      expect([line.isWellFormed(), line.length <= 2000]).toEqual([true, true]);
    }
  });
});
