import { describe, expect, it } from "vitest";
import { RegexCache, RegexSyntaxError } from "./regex/cache.ts";
import { compile, DEFAULT_REGO_LIMITS } from "./index.ts";
import type { RegoErrorCode, RegoLimits } from "./index.ts";
import { codeOf, evaluate, valueOf } from "./test-support.ts";

/** Steps that an evaluation takes. */
function steps(rules: string, input: Parameters<typeof valueOf>[1]): number {
  return evaluate(rules, "data.t.p", input).cost.steps;
}

describe("limits", () => {
  it.each<[RegoErrorCode, string, Partial<RegoLimits>]>([
    ["ERR_REGO_LIMIT_STEPS", "q if { some x in numbers.range(1, 1000); x > 5000 }", { maxSteps: 500 }],
    ["ERR_REGO_LIMIT_STEPS", "q := [1 | input.a[_]; input.a[_]; input.a[_]]", { maxSteps: 10_000 }],
    ["ERR_REGO_LIMIT_MEMORY", 'q := concat("", [input.s, input.s])', { maxMemory: 1000 }],
    ["ERR_REGO_LIMIT_MEMORY", 'q := replace(input.s, "a", input.s)', { maxMemory: 10_000 }],
    ["ERR_REGO_LIMIT_MEMORY", 'q := sprintf("%999999999d", [1])', {}],
    ["ERR_REGO_LIMIT_MEMORY", "q := numbers.range(1, 1000000000000)", { maxMemory: 100_000 }],
    ["ERR_REGO_LIMIT_NUMBER", "q := to_number(input.digits)", {}],
    ["ERR_REGO_LIMIT_MEMORY", "q contains [x, y] if { some x in input.a; some y in input.a }", { maxMemory: 10_000 }],
    ["ERR_REGO_LIMIT_CALLS", "f(x) := g(x)\ng(x) := h(x)\nh(x) := x\nq := f(1)", { maxCallDepth: 3 }],
    ["ERR_REGO_LIMIT_REGEX", "q := regex.match(input.s, input.s)", { maxRegexLength: 10 }],
    ["ERR_REGO_LIMIT_REGEX", 'q := regex.match(concat("", ["(x{50}){15}"]), input.s)', { maxRegexProgram: 100 }],
    ["ERR_REGO_LIMIT_NUMBER", "q := bits.lsh(1, 100000000)", {}],
    ["ERR_REGO_LIMIT_NUMBER", `q := ${"99999999999999999999 * ".repeat(80)}2`, {}],
    ["ERR_REGO_LIMIT_NESTING", "q := json.unmarshal(input.deep)", {}],
  ])("%s aborts the query, also under not: %s", (code, rules, limits) => {
    const input = { a: Array.from({ length: 100 }, (_, at) => at), s: "a".repeat(900), deep: "[".repeat(10_000), digits: "9".repeat(5000) };
    expect(codeOf(() => valueOf(`${rules}\np := q`, { input, limits }))).toBe(code);
    // A limit that made the call undefined would make this true.
    expect(codeOf(() => valueOf(`${rules}\np if not q`, { input, limits }))).toBe(code);
    expect(codeOf(() => valueOf(`${rules}\ndefault p := true\np := q`, { input, limits }))).toBe(code);
    expect(codeOf(() => valueOf(`${rules}\np := [1 | q]`, { input, limits }))).toBe(code);
  });

  it("time is measured by the caller's clock", () => {
    let now = 0;
    const clock = { now: () => (now += 10) };
    const rules = "p if { some x in numbers.range(1, 100000); x < 0 }";
    expect(codeOf(() => valueOf(rules, { clock, limits: { maxMilliseconds: 50 } }))).toBe("ERR_REGO_LIMIT_TIME");
    expect(codeOf(() => valueOf(rules, { limits: { maxMilliseconds: 50 } }))).toBeUndefined();
  });

  it("results, input and data have limits", () => {
    const policy = compile([]);
    expect(codeOf(() => policy.evaluate("x = numbers.range(1, 100)[_]", { limits: { maxResults: 10 } }))).toBe("ERR_REGO_LIMIT_RESULTS");
    const deep = JSON.parse(`${"[".repeat(5000)}${"]".repeat(5000)}`) as never;
    expect(codeOf(() => policy.evaluate("input", { input: deep }))).toBe("ERR_REGO_LIMIT_NESTING");
    expect(codeOf(() => policy.setData({ deep }))).toBe("ERR_REGO_LIMIT_NESTING");
  });

  it("a policy is usable after a query was aborted", () => {
    const policy = compile([
      {
        name: "t",
        text: "package t\np := [x | some x in input; q with input as x]\nq if { some y in numbers.range(1, input); y < 0; print(y, [z | some z in [y]]) }\nr := 1",
      },
    ]);
    expect(codeOf(() => policy.evaluate("data.t.p", { input: [1, 100_000], limits: { maxSteps: 1000 } }))).toBe("ERR_REGO_LIMIT_STEPS");
    expect(policy.evaluate("data.t.p", { input: [1] }).results[0]?.expressions).toEqual([[]]);
    expect(policy.evaluate("data.t.r").results[0]?.expressions).toEqual([1]);
  });

  it("values nested by the policy itself end in a limit, not in a crash", () => {
    const rules = Array.from({ length: 150 }, (_, at) => `r${at} := [[[[[[[[[[[[[[[[[[[[r${at + 1}]]]]]]]]]]]]]]]]]]]]`).join("\n");
    expect([undefined, "ERR_REGO_LIMIT_CALLS"]).toContain(codeOf(() => valueOf(`${rules}\nr150 := input\np if r0 == r0`, { input: 1 })));
  });
});

describe("growth", () => {
  // Work is counted, so it can be compared without a clock: twice the text may cost about twice the work.
  it("of a regular expression that kills backtracking engines is linear", () => {
    const rules = 'p if regex.match("^([a-z]+)+$", input)';
    const short = steps(rules, { input: `${"a".repeat(20_000)}!` });
    const long = steps(rules, { input: `${"a".repeat(40_000)}!` });
    expect(long / short).toBeLessThan(2.2);
    expect(valueOf(rules, { input: `${"a".repeat(100_000)}!` })).toBeUndefined();
    expect(valueOf(rules, { input: "a".repeat(100_000) })).toBe(true);
  });

  it("nested quantifiers, alternations and captures come back", () => {
    for (const pattern of ["(a*)*b", "(a|a)*b", "(a|aa)+$b", "(.*)(.*)(.*)(.*)(.*)x", "(((a?){30})a{30})b"]) {
      expect(valueOf("p := regex.match(input.p, input.t)", { input: { p: pattern, t: "a".repeat(3000) } })).toBe(false);
    }
  });

  it("counted repeats that multiply are refused by size", () => {
    expect(valueOf("p := regex.is_valid(input)", { input: "((a{100}){100}){100}" })).toBe(false);
    expect(valueOf("p := regex.is_valid(input)", { input: "a{1001}" })).toBe(false);
    expect(valueOf("p := regex.is_valid(input)", { input: "(".repeat(5000) })).toBe(false);
  });

  it("of membership tests, replacement and counting in strings is linear", () => {
    for (const rules of ['p := count(split(input, "a"))', 'p := replace(input, "a", "bb")', 'p := count(indexof_n(input, "a"))', "p := count(input)"]) {
      const short = steps(rules, { input: "a".repeat(10_000) });
      const long = steps(rules, { input: "a".repeat(40_000) });
      expect(long / short).toBeLessThan(4.5);
    }
  });

  it("the cache of compiled patterns is bounded", () => {
    const input = Array.from({ length: 100 }, (_, at) => `^a{${at}}$`);
    const rules = 'p := count([x | some x in input; regex.match(x, "aaa")])';
    expect(valueOf(rules, { input }, { limits: { maxRegexCache: 3 } })).toBe(1);
    const cache = new RegexCache(4);
    const kept = cache.get("a", DEFAULT_REGO_LIMITS);
    for (const pattern of ["b", "c", "a", "d", "a", "(", "e", "a", "f", "g"]) {
      try {
        cache.get(pattern, DEFAULT_REGO_LIMITS);
      } catch (error) {
        expect(error).toBeInstanceOf(RegexSyntaxError);
      }
    }
    expect(cache.size).toBeLessThanOrEqual(4);
    // What is used again and again is still the same object.
    expect(cache.get("a", DEFAULT_REGO_LIMITS)).toBe(kept);
  });
});
