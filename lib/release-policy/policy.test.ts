import { describe, expect, it } from "vitest";
import { decodeUtf8, encodeJson, encodeUtf8, parseJson, type JsonObject } from "@sealpod/core";
import { encodeReleasePolicy, evaluateReleasePolicy, findTrailingCommas, parseReleasePolicy } from "./index.ts";

const authority = "https://maa.test";
const parse = (policy: unknown): ReturnType<typeof parseReleasePolicy> =>
  parseReleasePolicy(encodeUtf8(typeof policy === "string" ? policy : encodeJson(policy as JsonObject)));
const withConditions = (...allOf: unknown[]): unknown => ({ version: "1.0.0", anyOf: [{ authority, allOf }] });

function satisfied(policy: unknown, claims: string): boolean {
  return evaluateReleasePolicy(parse(policy).anyOf, parseJson(claims) as JsonObject).satisfied;
}

describe("release policy", () => {
  describe("parseReleasePolicy", () => {
    it.each([
      ["the version", { anyOf: [{ authority: "https://maa.test/", allOf: [{ equals: "b", claim: "a" }] }], version: "1.0" }],
      ["an old version", { version: "0.2", anyOf: [{ allOf: [{ claim: "a", equals: "b" }], authority: "https://maa.test/" }] }],
      ["an old condition", { version: "1.0.0", anyOf: [{ authority: "https://maa.test/", allOf: [{ claim: "a", condition: "equals", value: "b" }] }] }],
    ])("makes %s and the order of members canonical", (_what, policy) => {
      const text = decodeUtf8(encodeReleasePolicy(parse(policy)));
      expect(text).toBe('{"version":"1.0.0","anyOf":[{"authority":"https://maa.test/","allOf":[{"claim":"a","equals":"b"}]}]}');
      expect(decodeUtf8(encodeReleasePolicy(parse(text)))).toBe(text);
    });

    it("allows a comma before a closing bracket, as published policies have it", () => {
      const text = `{\n "version": "1.0.0",\n "anyOf": [ {\n  "authority": "${authority}",\n  "allOf": [\n   {"claim": "a,]", "equals": "},"},\n  ],\n } ],\n}`;
      expect(decodeUtf8(encodeReleasePolicy(parse(text)))).toBe(
        `{"version":"1.0.0","anyOf":[{"authority":"${authority}","allOf":[{"claim":"a,]","equals":"},"}]}]}`,
      );
      expect(findTrailingCommas(text)).toEqual([
        { line: 6, column: 36 },
        { line: 7, column: 4 },
        { line: 8, column: 5 },
      ]);
      expect(findTrailingCommas(JSON.stringify(withConditions({ claim: ",]", equals: "\\" })))).toEqual([]);
      // What is wrong elsewhere keeps its place.
      expect(() => parse(`{"version":"1.0.0","anyOf":[1,],\n*}`)).toThrow(/release_policy:2:1/);
    });

    it("refuses a policy that could not be read again in its canonical form", () => {
      const build = (version: string, length: number): string =>
        JSON.stringify({ version, anyOf: [{ authority, allOf: [{ claim: "a", equals: "b".repeat(length) }] }] });
      const room = 65_536 - build("1.0", 0).length;
      expect(() => parse(build("1.0", room))).toThrow(/65538 bytes in canonical form/);
      expect(parse(decodeUtf8(encodeReleasePolicy(parse(build("1.0", room - 2)))))).toEqual(parse(build("1.0", room - 2)));
    });

    it("keeps nested combinations and the types of values", () => {
      const text = `{"version":"1.0.0","anyOf":[{"authority":"${authority}","anyOf":[{"allOf":[{"claim":"a","equals":true},{"claim":"b","equals":7}]},{"claim":"c.d","equals":"x"}]}]}`;
      expect(decodeUtf8(encodeReleasePolicy(parse(text)))).toBe(text);
    });

    const claim = { claim: "a", equals: "b" };
    let deep: unknown = claim;
    for (let i = 0; i < 9; i++) deep = { allOf: [deep] };
    it.each<readonly [string, unknown, RegExp]>([
      ["text that is no JSON", "{", /strict JSON/],
      ["two trailing commas", `{"version":"1.0.0","anyOf":[],,}`, /strict JSON/],
      ["a comma and nothing else", `{"version":"1.0.0","anyOf":[,]}`, /release_policy:1:29: value expected/],
      ["a comment", `{"version":"1.0.0","anyOf":[] /* */}`, /release_policy:1:31/],
      ["a duplicate name", `{"version":"1.0.0","version":"1.0.0","anyOf":[]}`, /duplicate name/],
      ["a value that is no object", [], /at \$: expected an object/],
      ["another version", { version: "2.0", anyOf: [{ authority, allOf: [claim] }] }, /\$\.version/],
      ["no version", { anyOf: [{ authority, allOf: [claim] }] }, /\$\.version/],
      ["an empty anyOf", { version: "1.0.0", anyOf: [] }, /\$\.anyOf: expected a list of at least one/],
      ["an empty allOf, which every token would satisfy", withConditions(), /allOf: expected a list of at least one/],
      ["a top-level allOf", { version: "1.0.0", allOf: [claim] }, /unexpected member "allOf"/],
      ["an unknown member", { version: "1.0.0", anyOf: [{ authority, allOf: [claim], noneOf: [] }] }, /unexpected member "noneOf"/],
      ["both combinations", { version: "1.0.0", anyOf: [{ authority, allOf: [claim], anyOf: [claim] }] }, /both allOf and anyOf/],
      ["no authority", { version: "1.0.0", anyOf: [{ allOf: [claim] }] }, /authority: expected an https URL/],
      ["an authority over http", { version: "1.0.0", anyOf: [{ authority: "http://maa.test", allOf: [claim] }] }, /https URL/],
      ["an authority with a query", { version: "1.0.0", anyOf: [{ authority: "https://maa.test?", allOf: [claim] }] }, /https URL/],
      ["an authority with a fragment", { version: "1.0.0", anyOf: [{ authority: "https://maa.test#", allOf: [claim] }] }, /https URL/],
      ["an authority that is read as another", { version: "1.0.0", anyOf: [{ authority: "https://maa\\.test", allOf: [claim] }] }, /https URL/],
      ["an authority with a line break", { version: "1.0.0", anyOf: [{ authority: "https://maa.\ntest", allOf: [claim] }] }, /https URL/],
      ["an authority with half a scheme", { version: "1.0.0", anyOf: [{ authority: "https:maa.test", allOf: [claim] }] }, /https URL/],
      ["an authority with a user", { version: "1.0.0", anyOf: [{ authority: "https://a@maa.test", allOf: [claim] }] }, /https URL/],
      ["another operator", withConditions({ claim: "a", condition: "notEquals", value: "b" }), /expected "equals"/],
      ["two values", withConditions({ claim: "a", equals: "b", value: "c" }), /expected "equals"/],
      ["a claim and a combination", withConditions({ claim: "a", equals: "b", allOf: [claim] }), /unexpected member "allOf"/],
      ["a claim without value", withConditions({ claim: "a" }), /expected a string, a boolean or an integer/],
      ["a null value", withConditions({ claim: "a", equals: null }), /expected a string, a boolean or an integer/],
      ["a list value", withConditions({ claim: "a", equals: ["b"] }), /expected a string, a boolean or an integer/],
      ["a fraction", withConditions({ claim: "a", equals: 1.5 }), /expected a string, a boolean or an integer/],
      ["an empty part of a path", withConditions({ claim: "a..b", equals: "c" }), /names joined by dots/],
      ["nesting that is too deep", withConditions(deep), /nested deeper than 8/],
      ["too many conditions", withConditions(...Array.from({ length: 257 }, () => claim)), /more than 256 conditions/],
      ["too many bytes", withConditions({ claim: "a", equals: "b".repeat(70_000) }), /more than the limit/],
    ])("refuses %s", (_what, policy, message) => {
      expect(() => parse(policy)).toThrow(message);
      expect(() => parse(policy)).toThrow(expect.objectContaining({ code: "ERR_RELEASE_POLICY" }));
    });
  });

  describe("evaluateReleasePolicy", () => {
    it.each<readonly [string, unknown, string, boolean]>([
      ["a string and the same string", "x", '{"a":"x"}', true],
      ["a string and another string", "x", '{"a":"X"}', false],
      ['"true" and true', "true", '{"a":true}', true],
      ['"true" and false', "true", '{"a":false}', false],
      ['"false" and true', "false", '{"a":true}', false],
      ["true and true", true, '{"a":true}', true],
      ['true and "true"', true, '{"a":"true"}', false],
      ['"0" and 0', "0", '{"a":0}', true],
      ['"0" and 00 as a string', "0", '{"a":"00"}', false],
      ['"0" and false', "0", '{"a":false}', false],
      ['0 and "0"', 0, '{"a":"0"}', false],
      ["0 and false", 0, '{"a":false}', false],
      ["115 and 115", 115, '{"a":115}', true],
      ["an integer beyond 2^53 and its text", "13202930541250959283", '{"a":13202930541250959283}', true],
      ["an integer beyond 2^53 and its neighbour", "13202930541250959283", '{"a":13202930541250959284}', false],
      ['"1.5" and 1.5', "1.5", '{"a":1.5}', false],
      ['"null" and null', "null", '{"a":null}', false],
      ["a string and a list that holds it", "x", '{"a":["x"]}', false],
      ["a bigint and the same bigint", 13202930541250959283n, '{"a":13202930541250959283}', true],
      ["a bigint and its text", 13202930541250959283n, '{"a":"13202930541250959283"}', false],
      ["zero and minus zero", "0", '{"a":-0}', true],
      ["a string and an object", "[object Object]", '{"a":{}}', false],
      ["a missing claim", "x", "{}", false],
      ['"undefined" and a missing claim', "undefined", "{}", false],
    ])("compares %s", (_what, equals, claims, expected) => {
      expect(satisfied(withConditions({ claim: "a", equals }), claims)).toBe(expected);
    });

    it("walks objects along a dotted path, and nothing else", () => {
      const policy = withConditions({ claim: "a.b", equals: "x" });
      expect(satisfied(policy, '{"a":{"b":"x"}}')).toBe(true);
      expect(satisfied(policy, '{"a.b":"x"}')).toBe(false);
      expect(satisfied(policy, '{"a":[{"b":"x"}]}')).toBe(false);
      expect(satisfied(withConditions({ claim: "a.0", equals: "x" }), '{"a":["x"]}')).toBe(false);
      expect(satisfied(withConditions({ claim: "a.length", equals: "1" }), '{"a":"x"}')).toBe(false);
      expect(satisfied(withConditions({ claim: "constructor.name", equals: "Object" }), "{}")).toBe(false);
    });

    it("combines allOf and anyOf", () => {
      const policy = {
        version: "1.0.0",
        anyOf: [
          {
            authority,
            anyOf: [
              {
                allOf: [
                  { claim: "a", equals: "1" },
                  { claim: "b", equals: "2" },
                ],
              },
              { claim: "c", equals: "3" },
            ],
          },
        ],
      };
      expect(satisfied(policy, '{"a":1,"b":2}')).toBe(true);
      expect(satisfied(policy, '{"a":1}')).toBe(false);
      expect(satisfied(policy, '{"c":3}')).toBe(true);
    });

    it("looks at every condition, so that the owner sees all that failed", () => {
      const policy = parse(withConditions({ claim: "a", equals: "1" }, { claim: "b", equals: "2" }, { claim: "c", equals: "3" }));
      const evaluation = evaluateReleasePolicy(policy.anyOf, parseJson('{"b":2,"c":"x"}') as JsonObject);
      expect(evaluation).toEqual({
        satisfied: false,
        findings: [
          { authority, claim: "a", expected: '"1"', found: undefined, matched: false },
          { authority, claim: "b", expected: '"2"', found: "2", matched: true },
          { authority, claim: "c", expected: '"3"', found: '"x"', matched: false },
        ],
      });
    });

    it("does not write out what could be as long as the token", () => {
      const policy = parse(withConditions({ claim: "a", equals: "1" }, { claim: "b", equals: "2" }, { claim: "c", equals: "3" }));
      const claims = { a: "x".repeat(100_000), b: { c: "d" }, c: ["e"] };
      const found = evaluateReleasePolicy(policy.anyOf, claims).findings.map((finding) => finding.found);
      expect(found).toEqual([`"${"x".repeat(199)}`, "{…}", "[…]"]);
    });

    it("is satisfied by no authority at all never", () => {
      expect(evaluateReleasePolicy([], {}).satisfied).toBe(false);
    });
  });
});
