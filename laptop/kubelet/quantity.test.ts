import { describe, expect, it } from "vitest";
import { parseBytes, parseMilliCpu } from "./quantity.ts";

describe("Kubernetes quantities", () => {
  it.each([
    ["60m", 60],
    ["2", 2000],
    [0.5, 500],
    ["1.0001", 1001], // the API rounds up
    ["100u", 1],
    ["1e1", 10_000],
    [".5", 500],
  ])("reads %j CPUs", (text, milli) => {
    expect(parseMilliCpu(text)).toBe(milli);
  });

  it.each([
    ["512Mi", 536_870_912],
    ["1.5Gi", 1_610_612_736],
    ["1k", 1000],
    ["1M", 1_000_000],
    ["123", 123],
    ["1e3", 1000],
    ["500m", 1],
  ])("reads %j bytes", (text, bytes) => {
    expect(parseBytes(text)).toBe(bytes);
  });

  it.each(["", ".", "m", "1 Gi", "-1", "0x10", "1Zi", "1e100", "9".repeat(30), "9000E", "1,5", "NaN", "1GiB"])("refuses %j", (text) => {
    expect(() => parseBytes(text)).toThrow(expect.objectContaining({ code: "ERR_KUBELET_QUANTITY" }));
  });
});
