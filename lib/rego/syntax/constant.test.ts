import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DEFAULT_REGO_LIMITS } from "../limits.ts";
import { formatValue } from "../values/index.ts";
import type { Value } from "../values/index.ts";
import type { Module } from "./ast.ts";
import { ConstantReader } from "./constant.ts";
import { constantOf, isDiagnostics, parseModule } from "./parser.ts";
import { Source } from "./source.ts";
import { TokenLog } from "./token-log.ts";

const read = (text: string, room = 64): Value | undefined => {
  const constant = new ConstantReader(text).read(0, room);
  return constant === undefined || constant.end !== text.length ? undefined : constant.value;
};

/** The value of `p := <text>`: by tokens and terms if there is a log, by this reader first if there is none. */
function parsed(text: string, log?: TokenLog): Value | undefined {
  const result = parseModule(new Source("t.rego", `package t\np := ${text}\n`), "v1", DEFAULT_REGO_LIMITS, log);
  if (isDiagnostics(result)) return undefined;
  const { value } = (result as Module).rules[0]!.clauses[0]!;
  return value === undefined ? undefined : constantOf(value);
}

describe("plain data", () => {
  it.each([
    "[]",
    "{}",
    "[1, 2,]",
    '{"a": 1,}',
    '{"a": [null, true, false, -1.5e3, "x"], "b": {"c": []}}',
    '["\\u00e9\\n\\"", "é😀"]',
    "[\n\t1\r\n,2 ]",
    '{"a": 1, "a": 2}',
  ])("%j is read as the parser reads it", (text) => {
    expect(read(text)).toBeDefined();
    expect(parsed(text)).toEqual(parsed(text, new TokenLog()));
    expect(read(text)).toEqual(parsed(text, new TokenLog()));
  });

  it.each([
    "[1",
    "[1 2]",
    "[,]",
    "[x]",
    "{1}",
    '{"a"}',
    "{1: 2}",
    '{"a": 1 | true}',
    "[1 | true]",
    "[1 + 1]",
    "[# comment\n1]",
    '["a" "b"]',
    '["\\x"]',
    '["a\nb"]',
    "[01]",
    "[1e]",
    "[1.]",
    "[--1]",
    "[1a]",
    "[nullable]",
    "[true.x]",
    "[`raw`]",
    "[set()]",
    "[1][0]",
    '{"a": 1}.a',
    `[${"9".repeat(2000)}]`,
    `[1e999]`,
  ])("%s is left to the parser", (text) => {
    expect(read(text)).toBeUndefined();
  });

  it("does not open more brackets than it may", () => {
    expect(read("[[[]]]", 3)).toBeDefined();
    expect(read("[[[]]]", 2)).toBeUndefined();
    expect(read("[[], [], [[]]]", 3)).toBeDefined();
  });

  it("tries no literal again that encloses what it could not read, and those behind it", () => {
    const text = `${'{"a": [1, '.repeat(20)}x${"]}".repeat(20)} [1]`;
    const reader = new ConstantReader(text);
    expect(reader.read(0, 64)).toBeUndefined();
    for (let at = 1; at < text.indexOf("x"); at++) if ("[{".includes(text[at]!)) expect(reader.read(at, 64)).toBeUndefined();
    expect(reader.read(text.lastIndexOf("["), 64)?.value).toEqual([1]);
  });

  it("gives the parser's value for generated literals, whole or broken", () => {
    const piece = fc.constantFrom(
      "[",
      "]",
      "{",
      "}",
      ",",
      ":",
      " ",
      "\n",
      '"a"',
      '"b": ',
      "1",
      "-2",
      "0.5",
      "1e3",
      "null",
      "true",
      "x",
      "|",
      "#",
      "[1]",
      '{"a": 1}',
      ".",
      "(",
    );
    let equal = 0;
    const check = (text: string): void => {
      const value = parsed(text);
      const expected = parsed(text, new TokenLog());
      expect(value === undefined ? undefined : formatValue(value)).toBe(expected === undefined ? undefined : formatValue(expected));
      if (expected !== undefined) equal++;
    };
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => check(pieces.join(""))),
      { numRuns: 3000 },
    );
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), (json) => check(JSON.stringify(json))),
      { numRuns: 1000 },
    );
    expect(equal).toBeGreaterThan(1000);
  });
});
