import { describe, expect, it } from "vitest";
import { encodeUtf8, parseJson, type JsonObject } from "@sealpod/core";
import { describeEdit, parseReleasePolicy, smallestChange, type ReleasePolicy } from "./index.ts";

const authority = "https://maa.test";
const policy = (...anyOf: object[]): ReleasePolicy =>
  parseReleasePolicy(encodeUtf8(JSON.stringify({ version: "1.0.0", anyOf: anyOf.map((item) => ({ authority, ...item })) })));
const claims = (text: string): JsonObject => parseJson(text) as JsonObject;
const words = (
  subject: ReleasePolicy,
  token: string,
  issuer = authority,
): readonly [policy: readonly string[] | undefined, claims: readonly string[] | undefined] => {
  const { toPolicy, toClaims } = smallestChange(subject, claims(token), issuer);
  return [toPolicy?.edits.map(describeEdit), toClaims?.edits.map(describeEdit)];
};

describe("smallestChange", () => {
  const pod = policy({
    allOf: [
      { claim: "x-ms-sevsnpvm-hostdata", equals: "ab" },
      { claim: "x-ms-sevsnpvm-is-debuggable", equals: "false" },
      { claim: "x-ms-sevsnpvm-vmpl", equals: 0 },
    ],
  });

  it("is nothing where nothing is wrong", () => {
    const { toPolicy, toClaims } = smallestChange(
      pod,
      claims('{"x-ms-sevsnpvm-hostdata":"ab","x-ms-sevsnpvm-is-debuggable":false,"x-ms-sevsnpvm-vmpl":0}'),
      `${authority}/`,
    );
    expect(toPolicy).toEqual({ edits: [], policy: pod });
    expect(toClaims).toEqual({ edits: [], exact: true });
  });

  it("says what the policy would have to be, and what the pod", () => {
    expect(words(pod, '{"x-ms-sevsnpvm-hostdata":"cd","x-ms-sevsnpvm-is-debuggable":true}')).toEqual([
      [
        '$.anyOf[0].allOf[0]: x-ms-sevsnpvm-hostdata = "cd" instead of "ab"',
        '$.anyOf[0].allOf[1]: x-ms-sevsnpvm-is-debuggable = "true" instead of "false"',
        "$.anyOf[0].allOf[2]: no condition on x-ms-sevsnpvm-vmpl, which the token does not have as a text, boolean or integer",
      ],
      ['x-ms-sevsnpvm-hostdata: "ab" instead of "cd"', 'x-ms-sevsnpvm-is-debuggable: "false" instead of true', "x-ms-sevsnpvm-vmpl: 0 instead of nothing"],
    ]);
  });

  it("takes the nearest branch, and another authority only where that is nearer", () => {
    const two = policy(
      {
        allOf: [
          { claim: "a", equals: "1" },
          { claim: "b", equals: "2" },
        ],
      },
      { authority: "https://other.test", allOf: [{ claim: "c", equals: "3" }] },
    );
    expect(words(two, '{"a":"1","b":"x","c":"3"}')).toEqual([['$.anyOf[0].allOf[1]: b = "x" instead of "2"'], ['b: "2" instead of "x"']]);
    expect(words(two, '{"a":"x","b":"x","c":"3"}')).toEqual([
      ["$.anyOf[1].authority: https://maa.test instead of https://other.test"],
      ["a token of https://other.test instead of https://maa.test"],
    ]);
    expect(words(two, '{"a":"1","b":"2"}', "not a URL")).toEqual([undefined, ["a token of https://maa.test instead of not a URL"]]);
  });

  it("sees that one claim can serve two conditions, and cannot have two values", () => {
    const shared = policy({
      allOf: [
        {
          anyOf: [
            { claim: "a", equals: "1" },
            { claim: "b", equals: "1" },
          ],
        },
        {
          anyOf: [
            { claim: "c", equals: "1" },
            { claim: "b", equals: "1" },
          ],
        },
      ],
    });
    expect(words(shared, "{}")).toEqual([undefined, ['b: "1" instead of nothing']]);
    const contradiction = policy({
      allOf: [
        { claim: "a", equals: "1" },
        { claim: "a", equals: "2" },
      ],
    });
    expect(words(contradiction, '{"a":"1"}')).toEqual([['$.anyOf[0].allOf[1]: a = "1" instead of "2"'], undefined]);
    expect(
      words(
        policy({
          allOf: [
            { claim: "a", equals: "true" },
            { claim: "a", equals: true },
          ],
        }),
        "{}",
      )[1],
    ).toEqual(["a: true instead of nothing"]);
    expect(
      words(
        policy({
          allOf: [
            { claim: "a", equals: "1" },
            { claim: "a.b", equals: "1" },
          ],
        }),
        "{}",
      )[1],
    ).toBeUndefined();
  });

  it("never leaves a policy without conditions", () => {
    expect(words(policy({ allOf: [{ claim: "a", equals: "1" }] }), "{}")[0]).toBeUndefined();
    expect(
      words(
        policy({
          allOf: [
            { claim: "a", equals: "1" },
            { claim: "b", equals: "1" },
          ],
        }),
        '{"b":"2"}',
      )[0],
    ).toHaveLength(2);
  });

  it("says so when it has not looked at everything, and ends soon all the same", () => {
    const claim = (index: number): object => ({ claim: `c${index % 80}`, equals: "1" });
    const hard = policy({ allOf: Array.from({ length: 60 }, (_, index) => ({ anyOf: [claim(index * 3), claim(index * 7 + 1), claim(index * 11 + 2)] })) });
    const { toClaims } = smallestChange(hard, {}, authority);
    expect(toClaims?.exact).toBe(false);
    expect(toClaims?.edits.length).toBeLessThanOrEqual(60);
    // Claims that differ take no search.
    const wide = policy({
      allOf: Array.from({ length: 60 }, (_, index) => ({ anyOf: [0, 1, 2].map((each) => ({ claim: `c${index}-${each}`, equals: "1" })) })),
    });
    expect(smallestChange(wide, {}, authority).toClaims).toMatchObject({ exact: true, edits: { length: 60 } });
  });
});
