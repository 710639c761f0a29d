import { describe, expect, it } from "vitest";
import { answers, failures, table } from "./testdata/tables.ts";
import { patternBuiltins } from "./patterns.ts";

const answer = answers(patternBuiltins);

table("regex.globs_match", answer, [
  ['regex.globs_match("abc", "abc")', true],
  ['regex.globs_match("abc", "abd")', false],
  ['regex.globs_match("a.c", "abc")', true],
  ['regex.globs_match("a.*c", "abbbc")', true],
  ['regex.globs_match("a.*c", ".*b.*")', true],
  ['regex.globs_match("a+", "aaaa")', true],
  ['regex.globs_match("a+b", "ab+")', true],
  ['regex.globs_match("[a-f]+", "[e-z]+")', true],
  ['regex.globs_match("[a-d]+", "[e-z]+")', false],
  ['regex.globs_match("[abc]x", "[cde]x")', true],
  ['regex.globs_match("a[bc]", "a-c")', false],
  // Only the empty text matches both: that does not count.
  ['regex.globs_match("a*", "b*")', false],
  ['regex.globs_match("", "")', false],
  ['regex.globs_match("a*b*", "b*")', true],
  ['regex.globs_match("a*", "")', false],
  ['regex.globs_match("a\\\\.b", "a.b")', true],
  ['regex.globs_match("a\\\\.b", "axb")', false],
  ['regex.globs_match("\\\\*", "x")', false],
  ['regex.globs_match("[a\\\\-z]", "m")', false],
  ['regex.globs_match("[a-]", "\\\\-")', true],
  ['regex.globs_match(".", "\u{1f600}")', true],
  ['regex.globs_match("..", "\u{1f600}")', false],
]);

failures("what is no glob", answer, [
  ['regex.globs_match("a]", "a")', "input:a], pos:2, set-close ']' with no preceding '[': the input provided is invalid"],
  ['regex.globs_match("a", "[a")', "'[' without matching ']'"],
  ['regex.globs_match("[]", "a")', "empty set"],
  ['regex.globs_match("[z-a]", "a")', "range out of order"],
  ['regex.globs_match("*a", "a")', "flag '*' must be preceded by a non-flag"],
  ['regex.globs_match("a+*", "a")', "flag '*' must be preceded by a non-flag"],
  ['regex.globs_match("a\\\\", "a")', "escape"],
  ['regex.globs_match("[a-\\\\", "a")', "escape"],
  ["regex.globs_match(1, 2)", "operand 1 must be string but got number"],
]);

table("regex.template_match", answer, [
  ['regex.template_match("a{[0-9]+}b", "a42b", "{", "}")', true],
  ['regex.template_match("a{[0-9]+}b", "a42bc", "{", "}")', false],
  ['regex.template_match("a.{.}", "axy", "{", "}")', false],
  ['regex.template_match("a{x{2}}", "axx", "{", "}")', true],
  ['regex.template_match("a|b", "b", "{", "}")', false],
  ['regex.template_match("a/[b|c]|d", "a/[b|c]|d", "{", "}")', true],
  ['regex.template_match("a\\n", "a", "{", "}")', false],
]);

failures("templates that do not work", answer, [
  ['regex.template_match("a{b", "ab", "{", "}")', "unbalanced delimiters"],
  ['regex.template_match("a}b", "ab", "{", "}")', "unbalanced delimiters"],
  ['regex.template_match("|[0-9]+|", "7", "|", "|")', "unbalanced delimiters"],
  ['regex.template_match("a", "a", "{{", "}")', "operand 3: a delimiter must be one ASCII character"],
  ['regex.template_match("a", "a", "{", "")', "operand 4: a delimiter must be one ASCII character"],
  ['regex.template_match("a", "a", "«", "»")', "operand 3: a delimiter must be one ASCII character"],
  // Closing the group from within must not loosen the pattern around it.
  ['regex.template_match("a{x)|(.*}b", "anything", "{", "}")', "unexpected )"],
  ['regex.template_match("{(a+)+\\\\1}", "aa", "{", "}")', "invalid escape"],
]);

describe("hostile patterns", () => {
  it("globs full of stars cost length times length", () => {
    const glob = "a*".repeat(1000);
    expect(answer("regex.globs_match(input.a, input.b)", { input: { a: `${glob}b`, b: `${glob}c` } })).toBe(false);
    const long = ".*".repeat(40_000);
    expect(answer("regex.globs_match(input, input)", { input: long })).toMatch(/^ERR_REGO_LIMIT_/);
  });

  it("templates match in linear time", () => {
    expect(answer('regex.template_match("{(a|a)*}b", input, "{", "}")', { input: "a".repeat(5000) })).toBe(false);
  });
});
