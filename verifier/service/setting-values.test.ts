import { describe, expect, it } from "vitest";
import type { JsonValue } from "@sealpod/core";
import { fields, isPlainUrl, textOf } from "./setting-values.ts";

describe("fields", () => {
  it("gives an object with what is required, and takes what is optional", () => {
    expect(fields({ a: 1 }, ["a"])).toEqual({ a: 1 });
    expect(fields({ a: null, b: 2 }, ["a"], ["b"])).toEqual({ a: null, b: 2 });
  });

  it.each<[JsonValue, string]>([
    ["text", "expected an object with a, b, c"],
    [[], "expected an object with a, b, c"],
    [{ b: 1, d: 1 }, "expected an object with a, b, c; a missing"],
    [{}, "expected an object with a, b, c; a, b missing"],
    [{ a: 1, b: 2, d: 1, e: 1 }, "expected an object with a, b, c; d, e unknown"],
  ])("refuses %j", (value, message) => {
    expect(() => fields(value, ["a", "b"], ["c"])).toThrow(new Error(message));
  });
});

it("textOf gives text, and refuses what is none", () => {
  expect(textOf({ name: "x" }, "name")).toBe("x");
  for (const object of [{}, { name: "" }, { name: 1 }, { name: null }]) expect(() => textOf(object, "name")).toThrow(new Error("expected text as name"));
});

it("isPlainUrl takes https without query, fragment and user, and other schemes where they are named", () => {
  expect(isPlainUrl("https://host/path")).toBe(true);
  expect(isPlainUrl("http://host", ["https:", "http:"])).toBe(true);
  for (const text of ["http://host", "host", "https://host?q", "https://host#f", "https://user@host", "https://:word@host"])
    expect(isPlainUrl(text), text).toBe(false);
});
