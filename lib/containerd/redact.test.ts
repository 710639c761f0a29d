import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { redact } from "./redact.ts";

/** Ways to write a text, each with what it is of. */
const SPELLINGS: ReadonlyMap<string, (text: string) => string> = new Map([
  ["as it is", (text) => text],
  ["JavaScript's URL", (text) => encodeURIComponent(text)],
  ["Go's url.QueryEscape", (text) => percent(text, /[A-Za-z0-9_.~-]/).replaceAll("%20", "+")],
  ["Go's url.UserPassword", (text) => percent(text, /[A-Za-z0-9_.~$&+,;=-]/)],
  ["lower-case URL", (text) => percent(text, /[A-Za-z0-9_.~-]/).replaceAll(/%../g, (escape) => escape.toLowerCase())],
  ["JSON", (text) => JSON.stringify(text).slice(1, -1)],
  [
    "Go's JSON",
    (text) =>
      JSON.stringify(text)
        .slice(1, -1)
        .replaceAll(/[<>&]/g, (char) => `\\u00${char.charCodeAt(0).toString(16)}`),
  ],
  [
    "Go's strconv.QuoteToASCII",
    (text) =>
      JSON.stringify(text)
        .slice(1, -1)
        .replaceAll(/[^ -~]/gu, (char) => `\\U${(char.codePointAt(0) ?? 0).toString(16).padStart(8, "0")}`),
  ],
]);

/** Percent-encodes all bytes but those of the characters that match. */
function percent(text: string, kept: RegExp): string {
  return Buffer.from(text)
    .toString("latin1")
    .replaceAll(/[^]/g, (char) => (kept.test(char) ? char : `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`));
}

describe("redact", () => {
  it.each([
    ['Get "https://r/token?password=p%40ss%21w%28rd%29": 401', "p@ss!w(rd)", 'Get "https://r/token?password=***": 401'],
    ["Get https://u:p%2540ss%2521word@r/", "p@ss!word", "Get https://u:***@r/"],
    ["a+b: pass+word.", "pass word", "a+b: ***."],
    ["h\\u003cx and h%5Cu003cx", "h<x", "*** and ***"],
    ["of one: abcabc, of two: abcab", "abc", "of one: ******, of two: ***ab"],
    ["über: 100%25 and 100%", "100%", "über: *** and ***"],
    ["nothing of it, 100%25 of them, \\u0041", "secret", "nothing of it, 100%25 of them, \\u0041"],
    ["%41bc", "bc", "%41***"],
    ["%41bc", "41bc", "%***"],
    ["%zz \\uzzzz \\Uffffffff %", "x", "%zz \\uzzzz \\Uffffffff %"],
  ])("makes of %j without %j %j", (text, secret, expected) => {
    expect(redact(text, [secret, ""])).toBe(expected);
  });

  it("hides all of a secret that another is part of", () => {
    expect(redact("token-long, token", ["token", "token-long"])).toBe("***, ***");
  });

  it.each([...SPELLINGS.keys()])("finds a secret in any two spellings, the last of them %s", (outer) => {
    const spell = SPELLINGS.get(outer) ?? String;
    fc.assert(
      fc.property(
        fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }).filter((text) => text.isWellFormed() && !"***".includes(text)),
        fc.constantFrom(...SPELLINGS.values()),
        (secret, inner) => {
          expect(redact(`«${spell(inner(secret))}»`, [secret])).toBe("«***»");
        },
      ),
      { numRuns: 300 },
    );
  });

  it("takes its time in proportion: escapes of escapes come to an end", () => {
    const text = `%${"25".repeat(30_000)}41`;
    expect(redact(text, ["secret"])).toBe(text);
  });
});
