import { describe, expect, it } from "vitest";
import { compile } from "../index.ts";
import type { RegoErrorCode } from "../index.ts";
import { codeOf, errorOf, valueOf } from "../test-support.ts";

const load = (rules: string): unknown => compile([{ name: "t.rego", text: `package t\n${rules}` }]);

describe("what is refused at load", () => {
  it.each<[string, RegoErrorCode, string]>([
    ["p if x == 1", "ERR_REGO_UNSAFE", "var x is unsafe"],
    ["p := x", "ERR_REGO_UNSAFE", "var x is unsafe"],
    ["p if not x == 1", "ERR_REGO_UNSAFE", "var x"],
    ["p if not input.a[_] == 1", "ERR_REGO_UNSAFE", "var _"],
    ["p contains x", "ERR_REGO_UNSAFE", "var x"],
    ["p[k] := 1", "ERR_REGO_UNSAFE", "var k"],
    ["f(x) := y", "ERR_REGO_UNSAFE", "var y"],
    ["p := [x | y := 1]", "ERR_REGO_UNSAFE", "var x"],
    ["p if every x in [1] { y > x }", "ERR_REGO_UNSAFE", "var y"],
    ["p if input.x == y with input.x as z", "ERR_REGO_UNSAFE", "var"],
    ["p if print(x)", "ERR_REGO_UNSAFE", "var x"],
    ["p if { x = y; y = x }", "ERR_REGO_UNSAFE", "var"],
    ["p if { y == 1; y := 1 }", "ERR_REGO_COMPILE", "referenced above"],
    ["p if { x := 1; x := 2 }", "ERR_REGO_COMPILE", "assigned above"],
    ["p if { some x; x := 2 }", "ERR_REGO_COMPILE", "declared above"],
    ["f(x) if { x := 2 }", "ERR_REGO_COMPILE", "parameter"],
    ["p if { some x; true }", "ERR_REGO_COMPILE", "unused"],
    ["p if every k, v in [1] { v > 0 }", "ERR_REGO_COMPILE", "unused"],
    ["p if { input := 1 }", "ERR_REGO_COMPILE", "shadow input"],
    ["p if { some data in [1] }", "ERR_REGO_COMPILE", "shadow data"],
    ["f(input) := 1", "ERR_REGO_COMPILE", "shadow input"],
    ["input := 1", "ERR_REGO_COMPILE", "shadow input"],
    ["p if { input.x := 1 }", "ERR_REGO_COMPILE", "cannot assign"],
    ["p if { not x := 1 }", "ERR_REGO_COMPILE", "cannot be assigned"],
    ["p if q\nq if p", "ERR_REGO_RECURSION", "recursive"],
    ["f(x) := f(x)", "ERR_REGO_RECURSION", "data.t.f -> data.t.f"],
    ["p := count(data)", "ERR_REGO_RECURSION", "recursive"],
    ["p := data.t", "ERR_REGO_RECURSION", "recursive"],
    ["p := data[x] if some x in input", "ERR_REGO_RECURSION", "recursive"],
    ["p := [x | x := p]", "ERR_REGO_RECURSION", "recursive"],
    ["p := [[x | x := p] | true]", "ERR_REGO_RECURSION", "recursive"],
    ["p if input with input as [x | x := p]", "ERR_REGO_RECURSION", "recursive"],
    ["p if print(p)", "ERR_REGO_RECURSION", "recursive"],
    ["p := nope(1)", "ERR_REGO_TYPE", "undefined function nope"],
    ["p := count(1, 2, 3)", "ERR_REGO_TYPE", "arity 1, got 3"],
    ["f(x) := x\np := f(1, 2)", "ERR_REGO_TYPE", "arity 1, got 2"],
    ["p := q(1)\nq := 1", "ERR_REGO_TYPE", "undefined function q"],
    ["p := any([true])", "ERR_REGO_TYPE", "deprecated"],
    ["p := [print(1)]", "ERR_REGO_TYPE", "print"],
    ["p := 1\np(x) := 2", "ERR_REGO_TYPE", "conflicting rules data.t.p"],
    ["f(x) := 1\nf(x, y) := 2", "ERR_REGO_TYPE", "number of parameters"],
    ["p contains 1\np := 2", "ERR_REGO_TYPE", "different kinds"],
    ["default p := 1\ndefault p := 2", "ERR_REGO_TYPE", "multiple default rules"],
    ["p := 1\np.a := 2", "ERR_REGO_TYPE", "conflicts"],
    ["p := 1\np[x] := 2 if some x in [1]", "ERR_REGO_TYPE", "conflicting"],
    ['p if regex.match("(", input.x)', "ERR_REGO_REGEX", "not RE2"],
    ['p if regex.match("a(?=b)", input.x)', "ERR_REGO_REGEX", "not RE2"],
    ["p if regex.match(`(a)\\1`, input.x)", "ERR_REGO_REGEX", "not RE2"],
    ['p := [x | x := regex.match("(", "a")]', "ERR_REGO_REGEX", "not RE2"],
    ['p := [[x | x := regex.match("(", "a")] | true]', "ERR_REGO_REGEX", "not RE2"],
    ['p if print([x | x := regex.match("(", "a")])', "ERR_REGO_REGEX", "not RE2"],
    ['p if { every x in input.y { not regex.match("[", x) } }', "ERR_REGO_REGEX", "not RE2"],
    ["p if true with nope as 1", "ERR_REGO_TYPE", "with"],
    ["p if count([]) == 1 with count as sprintf", "ERR_REGO_TYPE", "replacement"],
  ])("%s", (rules, code, message) => {
    const error = errorOf(() => load(rules));
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
  });

  it("a rule and a package of one name", () => {
    const modules = [
      { name: "a", text: "package t\nu := 1" },
      { name: "b", text: "package t.u\nx := 1" },
    ];
    expect(codeOf(() => compile(modules))).toBe("ERR_REGO_TYPE");
  });

  it("all at once, each with its place, source line and caret", () => {
    const error = errorOf(() => load("p if x == 1\nq := count(1, 2, 3)\nr if {\n  y > 2\n}"));
    expect(error.diagnostics.map(({ line, column }) => [line, column])).toEqual([[3, 6]]);
    const later = errorOf(() => load("p if x == 1\n\nr if {\n  y > 2\n}"));
    expect(later.diagnostics.map(({ line, column, code }) => [line, column, code])).toEqual([
      [2, 6, "ERR_REGO_UNSAFE"],
      [5, 3, "ERR_REGO_UNSAFE"],
    ]);
    expect(later.message).toContain("t.rego:5:3: var y is unsafe");
    expect(later.message).toContain("    y > 2\n    ^");
    expect(later.details).toMatchObject({ file: "t.rego", line: 2, column: 6 });
  });

  it("errors of several modules together", () => {
    const error = errorOf(() =>
      compile([
        { name: "a.rego", text: "package a\np := [" },
        { name: "b.rego", text: "package b\nq := @" },
      ]),
    );
    expect(error.diagnostics.map((item) => item.file)).toEqual(["a.rego", "b.rego"]);
  });
});

describe("what is not refused", () => {
  it.each<[string, unknown]>([
    ["bad := 1 / 0\np := 1", 1],
    ["bad := 1\nbad := 2\np := 1", 1],
    ["p := x if { x := y; some y in [1] }", undefined],
    ["p if { x := 1 }", true],
    ["p := f(f(1))\nf(x) := x", 1],
    ['p := data[x].q if x := "u"', undefined],
  ])("%s", (rules, expected) => {
    if (expected === undefined && rules.includes("some y in")) expect(codeOf(() => load(rules))).toBe("ERR_REGO_COMPILE");
    else expect(valueOf(rules)).toEqual(expected);
  });

  it("recursive functions, if the caller says so: their depth is limited", () => {
    const rules = "f(x) := 0 if x == 0\nf(x) := y if { x > 0; y := f(x - 1) + 1 }\np := f(input.n)";
    const options = { allowRecursiveFunctions: true };
    expect(valueOf(rules, { input: { n: 20 } }, options)).toBe(20);
    expect(codeOf(() => valueOf(rules, { input: { n: 1000 } }, options))).toBe("ERR_REGO_LIMIT_CALLS");
    expect(codeOf(() => valueOf("p if q\nq if p", {}, options))).toBe("ERR_REGO_RECURSION");
  });

  it("ten thousand rules that read one another in a row compile without a deep stack", () => {
    const rules = Array.from({ length: 10_000 }, (_, at) => `r${at} := r${at + 1}`).join("\n");
    expect(codeOf(() => load(`${rules}\nr10000 := 1`))).toBeUndefined();
  });
});

describe("ordering", () => {
  it("takes statements in source order as far as it can", () => {
    expect(valueOf("p := [a, b, c] if { c = b + 1; b = a + 1; a = 1 }")).toEqual([1, 2, 3]);
  });

  it("of a body that is written backwards is bounded", () => {
    const count = 3000;
    const items = Array.from({ length: count }, (_, at) => `v${at}`);
    const values = items.map((_, at) => (at === count - 1 ? "1" : `v${at + 1} + 1`));
    expect(codeOf(() => load(`p if [${items.join(", ")}] = [${values.join(", ")}]`))).toBe("ERR_REGO_LIMIT_SOURCE");
  });
});
