import fc from "fast-check";
import { RE2JS, RE2JSException } from "re2js";
import { describe, expect, it } from "vitest";
import { Matcher } from "./matcher.ts";

const meter = { work: (): void => undefined };

/** All matches as re2js gives them. */
function referenceAll(pattern: string, text: string, count: number): readonly (readonly number[])[] {
  return (RE2JS.compile(pattern).re2().findAllSubmatchIndex(text, count) as readonly (readonly number[])[] | null) ?? [];
}

/** What re2js says: undefined if the pattern is not RE2 syntax. */
function reference(pattern: string, text: string): boolean | undefined {
  try {
    return RE2JS.compile(pattern).test(text);
  } catch (error) {
    if (error instanceof RE2JSException) return undefined;
    throw error;
  }
}

describe("matcher", () => {
  it.each<[string, readonly string[]]>([
    ["^abc$", ["abc", "abcd", "xabc", "", "abc\n"]],
    ["abc", ["abc", "xabcx", "ab", "ababc"]],
    ["^$", ["", "a", "\n"]],
    ["", ["", "a"]],
    [
      "^/run/kata-containers/shared/[a-z0-9]{16}-resolv.conf$",
      ["/run/kata-containers/shared/0123456789abcdef-resolv.conf", "/run/kata-containers/shared/0123-resolv.conf"],
    ],
    ["^[A-Z0-9_\\.\\-]+_PORT_[0-9]{1,5}_(TCP|UDP)=.*$", ["A_PORT_80_TCP=1", "A_PORT__PORT_80_UDP=", "A_PORT_123456_TCP=1", "_PORT_1_TCP="]],
    ["^([a-z]+)+$", ["abc", "a1", `${"a".repeat(40)}!`]],
    ["(a*)*b", ["aaab", "aaa", "b"]],
    ["(a|ab)(c|bcd)(d*)$", ["abcd", "abcdd", "acd", "ab"]],
    [".", ["", "\n", "é", "😀", "a"]],
    ["^.$", ["😀", "ab", "é"]],
    ["^.{2}$", ["😀", "😀😀", "ab"]],
    ["[^a]", ["a", "b", "\n", "é", "😀"]],
    ["^[^a]{2}$", ["😀😀", "😀", "éa", "éé"]],
    ["\\d\\w\\s", ["1a ", "٣a ", "1é ", "1_\t", "1_\v"]],
    ["^\\D\\W\\S$", ["é-x", "1-x", "a_x", "a- ", "😀😀😀"]],
    ["a|b|", ["", "c"]],
    ["^(?:(?:25[0-5]|1[0-9]{2}|[1-9]?[0-9])\\.){3}$", ["10.1.255.", "10.256.1.", "1.2.", "199.0.0."]],
    ["^((a{2}){2}b){1,2}$", ["aaaab", "aaaabaaaab", "aab", "aaaabaaaabaaaab"]],
    ["^(?:a|b)?c{0,2}$", ["", "a", "bcc", "abc", "accc"]],
    ["x{0}y", ["y", "xy", "x"]],
    ["^a{3,}$", ["aa", "aaa", "aaaaaa"]],
    ["^(^a)", ["a", "ba"]],
    ["a$b", ["ab", "a"]],
    ["[-a]b[c-]", ["-bc", "ab-", "bbc"]],
    ["😀+", ["😀😀", "\u{1f601}", "a"]],
  ])("%s answers as RE2 does", (pattern, texts) => {
    const matcher = Matcher.compile(pattern);
    expect(matcher).toBeDefined();
    for (const text of texts) expect([text, matcher?.test(text)]).toEqual([text, reference(pattern, text)]);
  });

  it.each<[string, string]>([
    ["a", "banana"],
    ["", "ab😀"],
    ["a*", "baac"],
    ["(a)|(b)", "ab"],
    ["(a+)(b+)?", "aabab"],
    ["(a+?)(a*)", "aaa"],
    ["(a|ab)(c|bcd)(d*)", "abcd abcdd"],
    ["^a", "aaa"],
    ["a$", "aaa"],
    ["(^|,)([a-z]+)", "x,yy,zzz"],
    ["[0-9]{2}", "12345"],
    ["([a-z0-9]+)-([0-9]{1,3}?)", "app-1234 x-9"],
  ])("%s finds in %j what RE2 finds", (pattern, text) => {
    for (const count of [-1, 0, 1, 2]) expect(Matcher.compile(pattern)?.findAll(text, count, meter)).toEqual(referenceAll(pattern, text, count));
  });

  it.each([
    "[a-z]+x",
    "[a-z]*[0-9]",
    "(?:[a-z]+-?)+x",
    "^(?:(?:a|b)*?[a-c]+)+x",
    "[a-z]{1,20}x",
    "([a-z]+)+[0-9]",
    "[a-z]+[b-z]+x",
    ".*.*x",
    "[a-z]+(?:b|c)+x",
  ])("%s takes time in proportion to the text", (pattern) => {
    const work = (length: number): number => {
      let total = 0;
      expect(Matcher.compile(pattern)?.findAll("a".repeat(length), -1, { work: (units) => (total += units) })).toEqual([]);
      return total;
    };
    const [short, long] = [work(2000), work(8000)];
    expect(short).toBeGreaterThan(10);
    expect(long / short).toBeLessThan(4.5);
  });

  it.each([
    "a**",
    "a{2}{3}",
    "(?i)a",
    "(?P<n>a)",
    "\\pL",
    "[[:alpha:]]",
    "\\Qa\\E",
    "\\bfoo",
    "[a-\\d]",
    "[]a]",
    "a{1001}",
    "((a{11}){10}){10}",
    "((a{11}){0}){100}",
    "(a{5}|b{501}){2}",
    "(",
    ")",
    "a{,2}",
    "{",
    "^*",
    "[é]",
    "\\x41",
    "\\1",
    "(?=a)",
  ])("%s is left to the other engine", (pattern) => {
    expect(Matcher.compile(pattern)).toBeUndefined();
  });

  it("leaves a text to the other engine that is too long for its memory", () => {
    expect(Matcher.compile("^(a|b)*$")?.test("ab".repeat(1000))).toBe(true);
    expect(Matcher.compile("^(a|b)*$")?.test("ab".repeat(1_000_000))).toBeUndefined();
  });

  it("leaves programs to the other engine that are too long", () => {
    expect(Matcher.compile("a{1000}")).toBeDefined();
    expect(Matcher.compile("a{1000}b{1000}")).toBeUndefined();
    expect(Matcher.compile("(".repeat(100) + ")".repeat(100))).toBeUndefined();
    expect(Matcher.compile("a".repeat(5000))).toBeUndefined();
  });

  // Patterns that are mostly in the subset, and texts that come near to matching them.
  const piece: fc.Arbitrary<string> = fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom("a", "b", "-", "ab", "é", "😀", "=", "\n", " ", "_", "0") },
    {
      weight: 4,
      arbitrary: fc.constantFrom(
        ".",
        "[a-c]",
        "[^a]",
        "[^-_]",
        "[0-9a-f]",
        "[a_-]",
        "[\\d.]",
        "[\\w-]",
        "[^\\s]",
        "[--a]",
        "[a-c-e]",
        "[^^]",
        "[+*?.]",
        "[a\\]b]",
        "[^\\D]",
      ),
    },
    { weight: 2, arbitrary: fc.constantFrom("\\.", "\\d", "\\w", "\\s", "\\D", "\\W", "\\S", "\\-", "\\$", "\\/", "\\n", "\\t", "\\_", "\\é") },
    { weight: 1, arbitrary: fc.constantFrom("^", "$", "", "]", "}", "{", "{a}", "{,2}", "(?i)", "\\b", "[", "(", "|", "(?:)", "()", "\\") },
  );
  const quantifier = fc.constantFrom(
    "",
    "",
    "",
    "",
    "*",
    "+",
    "?",
    "*?",
    "+?",
    "??",
    "{2}",
    "{0,2}",
    "{1,}",
    "{0}",
    "{2,1}",
    "**",
    "{2}{2}",
    "{02}",
    "{1,3}?",
    "{3}",
    "{0,3}",
    "{20}",
    "{51}",
    "{100}",
  );
  const pattern = fc.letrec<{ pattern: string; item: string }>((tie) => ({
    item: fc.oneof(
      { depthSize: "small", withCrossShrink: true },
      fc.tuple(piece, quantifier).map((parts) => parts.join("")),
      fc.tuple(fc.constantFrom("(", "(?:"), tie("pattern"), fc.constant(")"), quantifier).map((parts) => parts.join("")),
    ),
    pattern: fc.oneof(
      { weight: 4, arbitrary: fc.array(tie("item"), { minLength: 0, maxLength: 4 }).map((parts) => parts.join("")) },
      { weight: 1, arbitrary: fc.tuple(tie("pattern"), tie("pattern")).map((parts) => parts.join("|")) },
    ),
  })).pattern;
  const anchored = fc.tuple(fc.constantFrom("", "^"), pattern, fc.constantFrom("", "$")).map((parts) => parts.join(""));
  const text = fc
    .array(fc.constantFrom("a", "b", "c", "-", "é", "😀", "=", "\n", " ", "_", "0", "7", "x", "]", "."), { maxLength: 8 })
    .map((parts) => parts.join(""));

  it("gives the answer of re2js on generated patterns and texts, and takes nothing that re2js refuses", () => {
    const counts = { taken: 0, matched: 0, found: 0 };
    fc.assert(
      fc.property(anchored, fc.array(text, { minLength: 1, maxLength: 6 }), (source, texts) => {
        const matcher = Matcher.compile(source);
        if (matcher === undefined) return;
        counts.taken++;
        for (const sample of texts) {
          const expected = reference(source, sample);
          if (expected === true) counts.matched++;
          expect([source, sample, matcher.test(sample)]).toEqual([source, sample, expected]);
          for (const count of [-1, 0, 2]) {
            const found = matcher.findAll(sample, count, meter);
            if (found === undefined) continue;
            counts.found += found.length;
            expect([source, sample, count, found]).toEqual([source, sample, count, referenceAll(source, sample, count)]);
          }
        }
      }),
      { numRuns: 5000 },
    );
    expect(counts.taken).toBeGreaterThan(1500);
    expect(counts.matched).toBeGreaterThan(1000);
    expect(counts.found).toBeGreaterThan(1000);
  });
});
