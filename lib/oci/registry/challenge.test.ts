import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseChallenges } from "./challenge.ts";

function plain(header: string): unknown {
  return parseChallenges(header)?.map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);
}

describe("parseChallenges", () => {
  it.each<readonly [string, unknown]>([
    ["", []],
    [" , ,", []],
    ["Basic", [["basic", {}]]],
    ['Basic realm="x"', [["basic", { realm: "x" }]]],
    [
      'Bearer realm="https://a.example/token",service="a.example",scope="repository:a/b:pull,push"',
      [["bearer", { realm: "https://a.example/token", service: "a.example", scope: "repository:a/b:pull,push" }]],
    ],
    ['bearer  REALM = abc ,\tService="d"', [["bearer", { realm: "abc", service: "d" }]]],
    ['Bearer realm="a\\"b\\\\c"', [["bearer", { realm: 'a"b\\c' }]]],
    [
      'Basic realm="a", Bearer realm="b", scope=c',
      [
        ["basic", { realm: "a" }],
        ["bearer", { realm: "b", scope: "c" }],
      ],
    ],
    [
      "Negotiate, Basic realm=x",
      [
        ["negotiate", {}],
        ["basic", { realm: "x" }],
      ],
    ],
    [
      "Negotiate YWJj==, Basic realm=x",
      [
        ["negotiate", {}],
        ["basic", { realm: "x" }],
      ],
    ],
    ['Bearer realm="x",,service="y",', [["bearer", { realm: "x", service: "y" }]]],
    // One bare token by the grammar, not a parameter.
    ["Bearer realm=", [["bearer", {}]]],
    ['Bearer realm=""', [["bearer", { realm: "" }]]],
    // Names that objects inherit are names like any other.
    [
      'Bearer __proto__="x", constructor=y',
      [
        [
          "bearer",
          Object.fromEntries([
            ["__proto__", "x"],
            ["constructor", "y"],
          ]),
        ],
      ],
    ],
  ])("reads %j", (header, expected) => {
    expect(plain(header)).toEqual(expected);
  });

  it.each([
    'Bearer realm="x',
    'Bearer realm="x\\',
    'Bearer realm="x"y',
    'Bearer realm="x" service="y"',
    'Bearer realm="x",realm="y"',
    'Bearer realm="x",REALM="y"',
    "Bearer realm=,service=x",
    'Bearer ="x"',
    "Bearer(realm=x)",
    'Bearer realm="a\nb"',
    'Bearer realm="a\u0000b"',
    'Bearer realm="ä"',
    '"Bearer" realm=x',
    "@",
    `Bearer realm="${"x".repeat(8192)}"`,
    `Bearer ${Array.from({ length: 17 }, (_, i) => `p${i}=1`).join(",")}`,
    Array.from({ length: 9 }, () => "Basic").join(","),
  ])("refuses %j", (header) => {
    expect(parseChallenges(header)).toBeUndefined();
  });

  it("ends for any text, and gives printable values only", () => {
    const pieces = fc.constantFrom("Bearer", "realm", "=", '"', "\\", ",", " ", "x", "\t", "é", "\r\n", "a=b", "==");
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 30 }), (parts) => {
        for (const challenge of parseChallenges(parts.join("")) ?? []) {
          for (const value of challenge.parameters.values()) expect(value).toMatch(/^[\x20-\x7e]*$/);
        }
      }),
      { seed: 11, numRuns: 2000 },
    );
  });

  it("reads back what it can write", () => {
    const value = fc.stringMatching(/^[\x20-\x7e]{0,20}$/);
    fc.assert(
      fc.property(value, value, (realm, scope) => {
        const quote = (text: string): string => `"${text.replaceAll(/["\\]/g, (char) => `\\${char}`)}"`;
        expect(plain(`Bearer realm=${quote(realm)}, scope=${quote(scope)}, Basic realm=${quote(scope)}`)).toEqual([
          ["bearer", { realm, scope }],
          ["basic", { realm: scope }],
        ]);
      }),
      { seed: 12 },
    );
  });
});
