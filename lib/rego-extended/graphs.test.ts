import { describe, expect, it } from "vitest";
import { answers, failures, table } from "./testdata/tables.ts";
import { graphBuiltins } from "./graphs.ts";

const answer = answers(graphBuiltins);

table("graph.reachable_paths", answer, [
  ['graph.reachable_paths({"a": ["b"], "b": []}, ["a"])', [["a", "b"]]],
  ['graph.reachable_paths({"a": ["a"]}, ["a"])', [["a", "a"]]],
  ['graph.reachable_paths({"a": []}, {"a"})', [["a"]]],
  ['graph.reachable_paths({"a": []}, {"b"})', []],
  ['graph.reachable_paths({"a": ["x"]}, {"a"})', [["a"]]],
  [
    'graph.reachable_paths({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, ["a"])',
    [
      ["a", "b", "d"],
      ["a", "c", "d"],
    ],
  ],
  ['graph.reachable_paths({1: [[2]], [2]: [{"x": 3}], {"x": 3}: []}, [1])', [[1, [2], { x: 3 }]]],
  ['graph.reachable_paths({"__proto__": ["constructor"], "constructor": []}, ["__proto__"])', [["__proto__", "constructor"]]],
  ['graph.reachable_paths({"a": ["constructor"]}, ["a"])', [["a"]]],
]);

failures("operands", answer, [
  ['graph.reachable_paths([], ["a"])', "operand 1 must be object but got array"],
  ['graph.reachable_paths({}, "a")', "operand 2 must be one of {array, set} but got string"],
]);

describe("hostile graphs", () => {
  it("a path of 20 000 nodes needs no stack", () => {
    const input = Object.fromEntries(Array.from({ length: 20_000 }, (_, at) => [`n${at}`, at === 19_999 ? [] : [`n${at + 1}`]]));
    expect(answer('count([n | some path in graph.reachable_paths(input, ["n0"]); some n in path])', { input })).toBe(20_000);
  });

  it("a complete graph gives no more paths than a power of its size, and the limit ends what is larger", () => {
    const complete = (size: number): Record<string, string[]> => {
      const names = Array.from({ length: size }, (_, at) => `n${at}`);
      return Object.fromEntries(names.map((name) => [name, names]));
    };
    // All simple paths of 32 nodes would be more than 10^32.
    const count = (size: number): number => answer('count(graph.reachable_paths(input, ["n0"]))', { input: complete(size) }) as number;
    expect(Math.log2(count(32) / count(16))).toBeLessThan(3);
    expect(answer('count(graph.reachable_paths(input, ["n0"]))', { input: complete(400) })).toMatch(/^ERR_REGO_LIMIT_/);
  });
});
