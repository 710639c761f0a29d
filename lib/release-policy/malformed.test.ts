import { describe, expect, it } from "vitest";
import { decodeUtf8, encodeUtf8 } from "@sealpod/core";
import { measureGrowth } from "../../tools/testing/growth.ts";
import { storm, type Seed } from "../../tools/testing/hostile.ts";
import { anyoneCanSatisfy, encodeReleasePolicy, findTrailingCommas, parseReleasePolicy, ReleasePolicyError, smallestChange } from "./index.ts";

const authority = "https://maa.test";
const claim = (equals: unknown): object => ({ claim: "x-ms-sevsnpvm-hostdata", equals });
const TEXTS: readonly string[] = [
  JSON.stringify({ version: "1.0.0", anyOf: [{ authority, allOf: [claim("ab"), claim(true), claim(7)] }] }),
  JSON.stringify({ version: "0.2", anyOf: [{ authority, anyOf: [{ allOf: [claim("a"), { anyOf: [claim("b")] }] }] }] }, undefined, 2),
  JSON.stringify({ version: "1.0", anyOf: [{ authority, allOf: [{ claim: "a.b", condition: "equals", value: '\u00e9\\"' }] }] }),
  `{"version":"1.0.0","anyOf":[{"authority":"${authority}","allOf":[{"claim":"a","equals":13202930541250959283,},],},],}`,
];
// Heads are brackets, commas, colons and quotes: there the structure is.
const SEEDS: readonly Seed[] = TEXTS.map((text, index) => {
  const bytes = encodeUtf8(text);
  return { name: `policy ${index}`, bytes, marks: [...bytes.entries()].filter(([, byte]) => '[]{},:"'.includes(String.fromCharCode(byte))).map(([at]) => at) };
});

describe("release policies that are spoiled", () => {
  it.each(["[", '{"allOf":[', ","])("make the parser's own error and no other, nested by %s", (level) => {
    const { accepted, refused } = storm({
      seeds: SEEDS,
      rounds: 4000,
      numbersFrom: level.length,
      nest: (inner, levels) => encodeUtf8(level.repeat(levels) + Buffer.from(inner).toString("latin1")),
      parse: parseReleasePolicy,
      own: ReleasePolicyError,
      check: (policy) => {
        const canonical = encodeReleasePolicy(policy);
        expect(decodeUtf8(encodeReleasePolicy(parseReleasePolicy(canonical)))).toBe(decodeUtf8(canonical));
        anyoneCanSatisfy(policy);
        smallestChange(policy, { a: "1" }, authority);
      },
    });
    expect(accepted).toBeGreaterThan(50);
    expect(refused).toBeGreaterThan(1000);
  });
});

describe("time", () => {
  const sizes = [60, 120, 240] as const;
  it("of the parser grows with the policy, not with its square", () => {
    const growth = measureGrowth(
      sizes,
      1.5,
      (size) => {
        const text = encodeUtf8(
          JSON.stringify({ version: "1.0.0", anyOf: [{ authority, allOf: Array.from({ length: size }, () => claim("ab".repeat(32))) }] }),
        );
        return () => void parseReleasePolicy(text);
      },
      { repeats: 8 },
    );
    expect(growth).toBeLessThan(1.5);
  });

  it.each([
    ["commas and white space", (size: number) => `${", ".repeat(size)}${" ".repeat(size)}`],
    ["commas and brackets", (size: number) => "1,]\n".repeat(size)],
    ["quotes", (size: number) => '"\\'.repeat(size)],
  ])("of the search for trailing commas grows with the text: %s", (_what, build) => {
    const growth = measureGrowth([2000, 4000, 8000], 1.5, (size) => {
      const text = build(size);
      return () => void findTrailingCommas(text);
    });
    expect(growth).toBeLessThan(1.5);
  });

  it("of the smallest change grows with what many alternatives can be, and no faster", () => {
    const growth = measureGrowth([21, 42, 84], 2.6, (size) => {
      const anyOf = (index: number): object => ({ anyOf: [0, 1, 2].map((each) => ({ claim: `c${(index * (3 + 4 * each) + each) % size}`, equals: "1" })) });
      const policy = parseReleasePolicy(
        encodeUtf8(
          JSON.stringify({ version: "1.0.0", anyOf: [{ authority, allOf: Array.from({ length: Math.floor(size / 2) }, (_, index) => anyOf(index)) }] }),
        ),
      );
      return () => void smallestChange(policy, {}, authority);
    });
    expect(growth).toBeLessThan(2.6);
  });
});
