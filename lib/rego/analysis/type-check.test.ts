import { existsSync, readdirSync, readFileSync } from "node:fs";
import { parseJson } from "@sealpod/core";
import type { JsonValue } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import type { Builtin } from "../builtins/builtin.ts";
import { BUILTINS } from "../builtins/index.ts";
import { compile, RegoError, TYPE_CHECKER } from "../index.ts";
import type { CompileOptions } from "../index.ts";
import { errorOf } from "../test-support.ts";
import type { Value } from "../values/index.ts";
import { formatValue, RegoObject, RegoSet } from "../values/index.ts";
import { BUILTIN_TYPES } from "./builtin-types.ts";
import { ANY, arrayOf, either, formatType, mayEqual, NUMBER, sizeOf, STRING, tupleOf, typeOfConstant } from "./types.ts";
import type { Type } from "./types.ts";

const CHECKED: CompileOptions = { typeChecker: TYPE_CHECKER };

/** Compiles rules of package `t`; the text may go on with other packages after lines of dashes. */
function check(rules: string, options: CompileOptions = CHECKED): ReturnType<typeof compile> {
  const texts = `package t\n${rules}`.split("\n---\n");
  return compile(
    texts.map((text, at) => ({ name: `m${at}.rego`, text })),
    options,
  );
}

/** Messages of all type errors; empty if the rules are accepted. */
function typeErrors(rules: string): readonly string[] {
  try {
    check(rules);
    return [];
  } catch (error) {
    if (!(error instanceof RegoError)) throw error;
    return error.diagnostics.map(({ code, message }) => (code === "ERR_REGO_TYPE" ? message : `${code}: ${message}`));
  }
}

const REFUSED: readonly (readonly [rules: string, message: string])[] = [
  // Operands of builtins
  ["p := count(null)", "count: operand 1 is null, expected one of {array, object, set, string}"],
  ["p := count(7)", "count: operand 1 is number, expected one of {array, object, set, string}"],
  ['p := concat(",", 1)', "concat: operand 2 is number, expected one of {array<string>, set<string>}"],
  ['p := concat(",", [1])', "concat: operand 2 is [number], expected one of {array<string>, set<string>}"],
  ['p := concat(["a"], ",")', "the delimiter comes first"],
  ["p := upper(1)", "upper: operand 1 is number, expected string"],
  ['p := max("x")', "max: operand 1 is string, expected one of {array, set}"],
  ['p := sum(["a"])', "sum: operand 1 is [string], expected one of {array<number>, set<number>}"],
  ["p := to_number([1])", "to_number: operand 1 is [number], expected one of {boolean, null, number, string}"],
  ['p := sprintf("%s", "a")', "the values stand in an array"],
  ["p if startswith(1, input.x)", "startswith: operand 1 is number, expected string"],
  ["p if not startswith(input.x, 1)", "startswith: operand 2 is number, expected string"],
  ['p := object.get("a", "b", 1)', "object.get: operand 1 is string, expected object"],
  ['p := "a" + 1', "plus (+): operand 1 is string, expected number (strings are joined by concat or sprintf"],
  ["p := 1 | 0", "or (|): operand 1 is number, expected set"],
  ["p := {1} & [1]", "and (&): operand 2 is [number], expected set"],
  ['p := 2 - "1"', "minus (-): operand 2 is string, expected one of {number, set}"],
  ["p := [x | x := lower(1)]", "lower: operand 1 is number"],
  ["p := {x: y | some x in [1]; y := lower(x)}", "lower: operand 1 is number"],
  ["p if { x := [y | y := input.a + 1]; lower(x[0]) }", "lower: operand 1 is number"],
  ["p if { count(lower(input.x) == 1) }", "count: operand 1 is boolean"],
  ['p if { walk(input, [path, _]); path == "a" }', "match error"],
  ['p if { startswith("ab", "a", "b") }', "the result of startswith is boolean and can never be string"],
  ['p if { x := split(input.a, "/"); y := x[0] + 1 }', "plus (+): operand 1 is string"],
  // References
  ['p := x["b"] if x := {"a": 1}', 'undefined ref x.b: the object has no key "b", only "a"'],
  ['p := {"1": "a"}[1]', 'the object has no key 1, only "1"'],
  ['p := ["a", "b"]["1"]', 'the key "1" is no index; arrays are indexed by numbers from 0'],
  ['p := ["a", "b"][-1]', "the index -1 is negative"],
  ['p := ["a", "b"][2]', "the array has the indices 0 to 1"],
  ['p if { x := {"a": {"b": 1}}; x.a.c }', "undefined ref x.a.c"],
  ["p if { x := 1; x.a }", "undefined ref x.a: x is number, which has nothing inside"],
  ["p if { x := count(input); x[_] }", "x is number, which has nothing inside"],
  ["p if { some x in null; x }", "is null, which has nothing inside"],
  ['p if { some i; x := {"a": 1}; y := [1]; x[i] == y[i] }', "undefined ref y[i]: the key is string, expected number"],
  ["p if { x := {1, 2}; x[[1]] }", "the key is [number], expected number"],
  ['q contains 1\np if q["a"]', 'undefined ref data.t.q.a: set<number> has no key "a"'],
  ["q := 1\np := data.t.q.x", "undefined ref data.t.q.x: data.t.q is number, which has nothing inside"],
  ['q[x] := 1 if some x in ["a"]\np := q[1]', "object<string, number> has no key 1"],
  ['q.a := "x"\np := q.a + 1', "plus (+): operand 1 is string"],
  ["f(x) := x\np := f", "data.t.f is a function; it must be called"],
  ['q := {"a": 1}\np if every x in input.xs { q.b == x }', "undefined ref data.t.q.b"],
  ["p if every x in input.xs { count([y | y := x; lower(1)]) > 0 }", "lower: operand 1 is number"],
  ['f(x) := {"a": x}\np := f(1).b', 'the object has no key "b", only "a"'],
  ["p := data.u.q.x\n---\npackage u\nq := true", "undefined ref data.u.q.x: data.u.q is boolean"],
  // Equality
  ['p if 1 == "a"', "match error: the left side is number, the right side string"],
  ['p if { x := 1; x = "a" }', "match error"],
  ['p if { x := 1; not x == "a" }', "match error"],
  ["p if [1, 2] == [1]", "the left side is [number, number], the right side [number]"],
  ['p if { {1} == {"a"} }', "the left side is set<number>, the right side set<string>"],
  ['p if { {"a": 1} == {"b": 1} }', "match error"],
  ['p if { {"a": x} = {"a": 1, "b": 2}; x }', "another shape than"],
  ["p if { [x] = [1, 2]; x }", "match error"],
  ["p if { [x, y] := 1; x; y }", "match error"],
  ['default q := false\nq if input.x\np if q == "true"', "the left side is boolean, the right side string"],
  ['p if { x := input.n + 1; x == "2" }', "match error"],
  ["p if { input.x = y; lower(z) = 1; z = y }", "match error"],
  // Functions
  ["f(x) := upper(x)\np := f(1)", "data.t.f: operand 1 is number, expected string"],
  ['f("a") := 1\np := f(2)', "data.t.f: operand 1 is number, expected string"],
  ["f([x, y]) := x + y\np := f(1)", "data.t.f: operand 1 is number, expected [any, any]"],
  ["f(x) := g(x)\ng(x) := lower(x)\np := f([])", "data.t.f: operand 1 is array, expected string"],
  ["f(x) := 1 if x == 1\nf(x) := 2 if lower(x) == input.y\np := f(null)", "expected one of {number, string}"],
  ["f(x) := count(x)\np := lower(f(input))", "lower: operand 1 is number"],
  ["f(x) if upper(x) == x + 1", "plus (+): operand 1 is string"],
];

const ACCEPTED: readonly string[] = [
  // What is not known may be anything.
  "p := count(input.x) + input.y",
  "p := input.a.b[0].c[_]",
  "p if { x := input.a; x == 1; x == null; upper(x) }",
  'p := data.base.document["x"][1]',
  "p := data.t.missing\nq := 1",
  'p := data.u[x] if some x in ["q"]\n---\npackage u\nq := 1',
  "p := data[x].q if x := input.x",
  "p := count(data.u.q.x.y)\n---\npackage u\nr := 1",
  "p := json.unmarshal(input.x).a.b",
  'p := object.get({"a": 1}, "b", null).c',
  // Unions
  'q := 1 if input.a\nq := "x" if input.b\np if { q + 1 == 2; lower(q) == "x" }',
  'default q := "none"\nq := 1 if input.a\np := q + 1',
  'q := 1 if { input.a } else := "x"\np := lower(q)',
  'p if { x := [1, "a", null][_]; lower(x) == "a" }',
  'p if { x := {"a": 1, "b": "c"}[input.k]; lower(x) == x }',
  'p if { some x in [{"a": 1}, {"b": 2}]; x.b == 2 }',
  'p if { some x in [[1], {"b": 2}, "c", null]; x.b == 2 }',
  "p := 5 - {1}",
  "p if { x := {1, 2} - {2}; count(x) == 1 }",
  "p if { x := input.a - input.b; x + 1 == 2 }",
  'f("a") := 1\nf(2) := "b"\np := [f("a"), f(2)]',
  "f(x) if upper(x) == input.a\nf(x) if x > 1\np if f([])",
  'f(1) := "a"\nf(x) := null if x == "b"\np if f("b") == null',
  // Open and empty collections
  "p if { x := []; x[0] == 1; x[1].a }",
  "p if { x := {}; x.a == 1 }",
  'p if { x := set(); x["a"] }',
  "p if [] == [1]",
  'p if { {} == {"a": 1} }',
  'p if set() == {"a"}',
  'p := concat(",", [])',
  "p := sum(set())",
  'p := {input.k: 1, "a": 2}["b"]',
  'p := {k: v | some k, v in input}["a"].b',
  'p if data.u == {"b": 1}\n---\npackage u\nr := 1',
  // Comparison of unlike types has an order, and an answer.
  'p if 1 != "a"',
  'p if 1 < "a"',
  'p := 1 == "a"',
  'p := [1, "a"] == ["a", 1]',
  'p if 1 in ["a"]',
  'p if "a" in {"a": 1}',
  'p := [1 == "a", {} in "a"]',
  // A parameter has the type that the first statement about it gives it; else any.
  "f(x) := x\np := [f(1), f(null), f({})]",
  'f(x) if { is_string(x); upper(x) == "A" }\np if f(1)',
  "f(x) if { x.a == 1; count(x) > 0 }\np if f(1)",
  "f(x) if { some y in x; y == 1 }\np if f(1)",
  "f(x) if { every y in x { y == 1 }; count(x) > 0 }\np if f(1)",
  "f(x) if { x == input.a; upper(x) }\np if f(1)",
  "f(x) := [y | y := upper(x)]\np := f(1)",
  "f(_) := 1\np := [f(1), f([])]",
  "f(x, x) := x\np := f(1, 1)",
  'f({"a": x, "b": y}) := [x, y]\np := f({"a": 1, "b": null})',
  'f([x, "a", {"k": y}]) := x + y\np := f([1, "a", {"k": 2}])',
  "default f(_) := 0\nf(x) := upper(x)\np := f(1)",
  // What is not looked at
  "p if every x in [1] { count(x) == 0 }",
  "p if { print(count(input), lower(input.x)) }",
  "p if { x := 1; print(x.a) }",
  "p if { every x in input.xs { y := [1]; y.a == x } }",
  // What `with` replaces may be anything.
  'q := 1\np if { q == "a" with data.t.q as "a" }',
  'q := 1\nr := q\np if { lower(r) == "a" with data.t.q as "a" }',
  "p if { count(1) == 2 with count as 2 }",
  'f(x) := upper(x)\ng(x) := x\np if { f(1) == "a" with f as g }',
  'f(x) := 1\np if { lower(f(1)) == "a" with f as "a" }',
  'p if { x := [y | y := data.t.q; lower(y)] with data.t.q as "a"; x }\nq := 1',
  'p if { data.u.q == "a" with input as {} }\n---\npackage u\nq := input.x',
  // Keys
  'p := {1: "a"}[1]',
  "p := {null: 1, true: 2}[true]",
  "p := {[1, 2]: 3}[[1, 2]]",
  'p if { x := {"a", 1}; x[1]; x["a"] }',
  "p if { x := {[1]}; x[[1]] }",
  'q["a"] := 1\nq["b"] := "x"\np := lower(q.b)',
  'q[k].n := v if some k, v in {"a": 1}\np := q.a.n + 1',
  'q.a contains 1\nq.b contains "x"\np if q.b["x"]',
  "q contains x if some x in input\np if q.a",
  "f() := 1\np := f() + 1",
  'p if { [x, y] = input.a; x == 1; y == "a" }',
  'p if { {"a": [x, _]} = input.a; lower(x) }',
  'p if { x := 1; [x, y] = input.a; y; x == "a" }',
  "p if { [x, y] := [[1], {2}]; count(x) == count(y) }",
  'p if { [[a, b], c] = [[1, "x"], null]; a + 1 == 2; lower(b); c == null }',
  'p if { walk(input, [["a", x], v]); x == v }',
  'p if { startswith("ab", "a", x); x }',
  'p := $"{1 + 1} {input.x}"',
  'p := regex.match("a", input.a) == true',
];

describe("checkTypes", () => {
  it.each(REFUSED)("refuses %s", (rules, message) => {
    expect(check(rules, {})).toBeDefined();
    const errors = typeErrors(rules);
    expect(errors.length).toBeGreaterThan(0);
    expect(errors.some((error) => error.includes(message)) ? message : errors.join("\n")).toBe(message);
  });

  it.each(ACCEPTED)("accepts %s", (rules) => {
    expect(typeErrors(rules)).toEqual([]);
  });

  it("checks queries against the types of the rules", () => {
    const policy = check("q := 1\nf(x) := upper(x)\np := x if x := q + 1");
    const code = (query: string): string => {
      try {
        policy.evaluate(query);
        return "";
      } catch (error) {
        return error instanceof RegoError ? `${error.code} ${error.message.split("\n")[0]!}` : "?";
      }
    };
    expect(code("data.t.q = x")).toBe("");
    expect(code('data.t.q = "a"')).toContain("ERR_REGO_TYPE query:1:1: match error");
    expect(code("x := data.t.f(1)")).toContain("data.t.f: operand 1 is number, expected string");
    expect(code("x := [1]; x.a")).toContain("arrays are indexed by numbers");
    expect(code("data.t.p = x; lower(x) = y")).toContain("ERR_REGO_TYPE");
    expect(code("input.a = x; lower(x)")).toBe("");
  });

  it("is off unless asked for", () => {
    expect(check("p := count(null)", {}).evaluate("data.t.p").results).toEqual([]);
  });

  it("tells the place, and every error once", () => {
    const { code, diagnostics } = errorOf(() => check('p if {\n  input.a\n  x := {"a": 1}\n  y := [z | z := x.b]\n  lower(y[0])\n}\nq := p + count(1)'));
    expect(code).toBe("ERR_REGO_TYPE");
    expect(diagnostics.map(({ file, line, column, message }) => `${file}:${line}:${column} ${message}`)).toEqual([
      'm0.rego:5:18 undefined ref x.b: the object has no key "b", only "a"',
      "m0.rego:8:1 count: operand 1 is number, expected one of {array, object, set, string}",
    ]);
  });

  it("does not blame a rule for errors in those it reads", () => {
    expect(typeErrors("q := lower(1)\np := q.a + q\nr := [p, q].x")).toEqual([
      "lower: operand 1 is number, expected string",
      'undefined ref (...).x: the key "x" is no index; arrays are indexed by numbers from 0',
    ]);
  });

  it("lets functions that call themselves be anything", () => {
    const recursive = 'f(x) := f(x[0]) if x[0]\nf(x) := "end" if not x[0]\np := f(input).a';
    expect(check(recursive, { ...CHECKED, allowRecursiveFunctions: true })).toBeDefined();
  });

  it("treats keys of Object.prototype as keys", () => {
    expect(typeErrors('x := {"a": 1}\np := x.constructor')[0]).toContain('no key "constructor"');
    expect(typeErrors('x := {"a": 1}\np := x.__proto__')[0]).toContain('no key "__proto__"');
    expect(typeErrors('x := {"constructor": 1, "__proto__": {"toString": 2}}\np := x.constructor + x.__proto__.toString')).toEqual([]);
  });
});

describe("what a hostile policy can do to types", () => {
  it("does not let them double with each statement", () => {
    const lines = Array.from({ length: 200 }, (_, at) => `x${at + 1} := [x${at}, x${at}]`);
    expect(typeErrors(`p if {\nx0 := {"a": input.x}\n${lines.join("\n")}\nx200[0] == x199\n}`)).toEqual([]);
    const objects = Array.from({ length: 200 }, (_, at) => `q${at + 1} := {"l": q${at}, "r": q${at}}`);
    expect(typeErrors(`q0 := input.x\n${objects.join("\n")}\np := q200.l.r`)).toEqual([]);
    expect(typeErrors(`q0 := input.x\n${objects.slice(0, 3).join("\n")}\np := q3.l.x`)).toHaveLength(1);
  });

  it("widens unions of many shapes", () => {
    const rules = Array.from({ length: 2000 }, (_, at) => `q := {"k${at}": ${at}} if input.x == ${at}`).join("\n");
    expect(typeErrors(`${rules}\np := q.nothing`)).toEqual([]);
  });

  it("keeps the outline of large constants, and nothing beyond", () => {
    const large = `policy_data := {"containers": [${Array.from({ length: 3000 }, (_, at) => `{"id": ${at}, "args": ["a", "b"]}`).join(",")}], "common": {"x": 1}}`;
    expect(typeErrors(`${large}\np := policy_data.typo`)[0]).toContain('only "common", "containers"');
    expect(typeErrors(`${large}\np := policy_data.containers.x`)[0]).toContain("no index");
    expect(typeErrors(`${large}\np := policy_data.containers[2999].typo`)).toEqual([]);
  });

  it("stops after many errors", () => {
    const rules = Array.from({ length: 500 }, (_, at) => `p${at} := count(${at})`).join("\n");
    expect(typeErrors(rules)).toHaveLength(50);
  });

  it("walks chains of rules and nested comprehensions of any length without the stack", () => {
    const chain = Array.from({ length: 5000 }, (_, at) => `q${at} := q${at + 1}`).join("\n");
    expect(typeErrors(`${chain}\nq5000 := 1\np := lower(q0)`)).toEqual(["lower: operand 1 is number, expected string"]);
    const depth = 60;
    expect(typeErrors(`p := ${"[x | x := ".repeat(depth)}lower(1)${"]".repeat(depth)}`)).toHaveLength(1);
  });
});

describe("types", () => {
  const budget = { left: 1000 };

  it("stay below a size whatever they are made of", () => {
    let type: Type = NUMBER;
    for (let round = 0; round < 100; round++) {
      type = round % 2 === 0 ? tupleOf([type, type, STRING]) : either(type, arrayOf(type));
      expect(sizeOf(type)).toBeLessThanOrEqual(256);
    }
    const wide = RegoObject.of(Array.from({ length: 60 }, (_, at) => [`k${at}`, Array.from({ length: 30 }, () => at)] as const));
    expect(sizeOf(typeOfConstant(wide))).toBeLessThanOrEqual(256);
    expect(formatType(typeOfConstant(wide)).length).toBeLessThan(200);
  });

  it("compare everything as equal when the budget is used up", () => {
    expect(mayEqual(NUMBER, STRING, budget)).toBe(false);
    expect(mayEqual(NUMBER, STRING, { left: 0 })).toBe(true);
  });

  it("hold the values they were made of", () => {
    for (const value of SAMPLES)
      for (const other of SAMPLES) expect(mayEqual(either(typeOfConstant(value), typeOfConstant(other)), typeOfConstant(value), budget)).toBe(true);
  });

  it.each([
    [[], "array"],
    [["a", 1], "[string, number]"],
    [RegoSet.of([1, "a"]), "set<one of {number, string}>"],
    [RegoObject.of([["a", null]]), '{"a": null}'],
    [RegoObject.of([[[1], true]]), "object<[number], boolean>"],
    [RegoObject.empty, "object"],
  ] as readonly (readonly [Value, string])[])("show %j", (value, text) => {
    expect(formatType(typeOfConstant(value))).toBe(text);
  });
});

const SAMPLES: readonly Value[] = [
  null,
  true,
  0,
  2,
  -1,
  1.5,
  "",
  "a",
  "2006-01-02T15:04:05Z",
  "1s",
  "1.2.3",
  "10",
  "[1]",
  [],
  [1, 2],
  ["a"],
  ["a", 1],
  [["a"]],
  [RegoObject.empty],
  [RegoObject.of([["a", 1]])],
  RegoObject.empty,
  RegoObject.of([["a", "b"]]),
  RegoObject.of([["a", ["b"]]]),
  RegoObject.of([[1, RegoSet.of([1])]]),
  RegoSet.empty,
  RegoSet.of([1]),
  RegoSet.of(["a"]),
  RegoSet.of([RegoSet.of([1])]),
];

describe("BUILTIN_TYPES", () => {
  it("has every core builtin, with its number of operands", () => {
    const wrong: string[] = [];
    for (const { name, arity } of BUILTINS.values()) if (BUILTIN_TYPES.get(name)?.operands.length !== arity) wrong.push(name);
    expect(wrong).toEqual([]);
  });

  const small = [...BUILTINS.values()].filter(({ arity }) => arity > 0 && arity <= 3);
  it.each(small.map(({ name, arity }) => [name, arity] as const))("takes whatever %s has a value for, and foresees that value", (name, arity) => {
    const { operands, result } = BUILTIN_TYPES.get(name)!;
    const wrong: string[] = [];
    let values = 0;
    const note = (args: readonly Value[], value: Value): Value => {
      values++;
      const budget = { left: 10_000 };
      const taken = args.every((argument, at) => mayEqual(typeOfConstant(argument), operands[at] ?? ANY, budget));
      if (!taken || !mayEqual(typeOfConstant(value), result, budget))
        wrong.push(`${name}(${args.map((argument) => formatValue(argument)).join(", ")}) = ${formatValue(value)}`);
      return true;
    };
    const names = ["a", "b", "c"].slice(0, arity);
    const body = [...names.map((variable) => `${variable} := samples[_]`), `value := ${name}(${names.join(", ")})`, `note([${names.join(", ")}], value)`];
    const rules = `samples := [${SAMPLES.map((sample) => formatValue(sample)).join(", ")}]\np[a] { ${body.join("; ")} }`;
    const builtins: readonly Builtin[] = [{ name: "note", arity: 2, call: ([args, value]) => note(args as readonly Value[], value!) }];
    check(rules, { builtins, version: "v0", limits: { maxSteps: 1e9 } }).evaluate("data.t.p");
    expect(wrong).toEqual([]);
    expect(values).toBeGreaterThan(0);
  });
});

describe("programs made at random", () => {
  // Type errors are about expressions that can never have a value. So a body that held is accepted, unless what cannot
  // hold stands in a negation or in a comprehension that is empty for that reason: these are not made here.
  it("are accepted if they have a value", () => {
    const random = generator(20_261_122);
    const wrong: string[] = [];
    let held = 0;
    let refused = 0;
    for (let round = 0; round < 4000; round++) {
      const rules = program(random);
      const value = valueOf(rules);
      const errors = typeErrors(rules);
      if (value !== undefined) held++;
      if (errors.length > 0) refused++;
      if (value !== undefined && errors.length > 0) wrong.push(`${rules}\n${errors.join("\n")}`);
    }
    expect(wrong).toEqual([]);
    expect(held).toBeGreaterThan(400);
    expect(refused).toBeGreaterThan(400);
  });
});

const INPUT: JsonValue = { a: 1, b: "x", c: [1, "x", { a: 2 }], d: { a: { b: "y" } } };

/** The value of `data.t.p`; undefined also if rules contradict one another. */
function valueOf(rules: string): JsonValue | undefined {
  try {
    return check(rules, {}).evaluate("data.t.p", { input: INPUT }).results[0]?.expressions[0];
  } catch (error) {
    if (error instanceof RegoError && error.code === "ERR_REGO_CONFLICT") return undefined;
    throw error;
  }
}

/** A small linear congruential generator: numbers below a bound, the same in each run. */
function generator(seed: number): (bound: number) => number {
  let state = BigInt(seed);
  return (bound) => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
    return Number((state >> 33n) % BigInt(bound));
  };
}

/** A rule with a body of a few statements, most of which have a value. */
function program(random: (bound: number) => number): string {
  const pick = <T>(items: readonly T[]): T => items[random(items.length)]!;
  const names: string[] = [];
  const constant = (): string =>
    pick([
      "1",
      "2",
      '"x"',
      '"a"',
      "null",
      "true",
      '{"a": 1}',
      '{"a": "x", "b": [1]}',
      "[1, 2]",
      '["x", 1]',
      '["x"]',
      "{1, 2}",
      '{"x"}',
      "[]",
      "{}",
      "set()",
      '[{"a": 1}]',
    ]);
  const value = (): string =>
    pick([constant, constant, () => (names.length > 0 ? pick(names) : constant()), () => pick(["input.a", "input.b", "input.c", "input.d", "r.a", "r.s"])])();
  const named = (): string => (names.length > 0 ? pick(names) : "r");
  const lines: string[] = [];
  const length = 1 + random(5);
  for (let at = 0; at < length; at++) {
    const name = `v${at}`;
    const expressions = [
      (): string => value(),
      (): string => value(),
      (): string => `${named()}[${pick(["0", "1", '"a"', '"b"', "_", '"x"', "2"])}]`,
      (): string => `${named()}[_][_]`,
      (): string => `[${value()}, ${value()}]`,
      (): string => `{${pick(['"a"', '"x"', value()])}: ${value()}}`,
      (): string => `{${value()}, ${value()}}`,
      (): string => `${pick(["count", "sum", "max", "upper", "sort", "is_string", "object.keys", "f", "g", "h", "union"])}(${value()})`,
      (): string => `${pick(["concat", "array.concat", "object.union", "plus", "minus", "or", "k", "split"])}(${value()}, ${value()})`,
      (): string => `object.get(${value()}, "a", ${value()})`,
      (): string => `[y | some y in ${value()}]; count(${name}) > 0`,
      (): string => `{y | y := ${named()}[_]}; count(${name}) > 0`,
      (): string => `{y: z | some z, y in ${value()}}; count(${name}) > 0`,
      (): string => `[y | [y, _] = ${value()}]; count(${name}) > 0`,
    ];
    const statements = [
      (): string => `${name} := ${pick(expressions)()}`,
      (): string => `${name} := ${pick(expressions)()}`,
      (): string => `${name} := ${pick(expressions)()}`,
      (): string => `some ${name} in ${value()}`,
      (): string => `some ${name}, _ in ${value()}`,
      (): string => `[${name}, _] = ${pick([value(), `[${value()}, ${value()}]`])}`,
      (): string => `{"a": ${name}} = ${pick([value(), `{"a": ${value()}}`])}`,
      (): string => `${name} := 1; ${value()} == ${value()}`,
      (): string => `${name} := 1; ${value()} in ${value()}`,
    ];
    lines.push(pick(statements)());
    names.push(name);
  }
  return [
    `p := [${names.join(", ")}] if {\n${lines.join("\n")}\n}`,
    'r.a := 1 if input.a == 1\nr.s contains "x" if input.a\nr.s contains 2',
    "f(x) := [x, count(x)]",
    "g(x) := x.a",
    'g(x) := "a" if is_string(x)',
    'h([x, y]) := [y, x]\nh({"a": x}) := x + 1\nh(1) := null',
    "k(x, y) := x[_] if y == 1\nk(x, y) := concat(x, y)",
  ].join("\n");
}

const BENCH = new URL("../../../bench/rego/", import.meta.url);

describe("policies that are in use", () => {
  it.skipIf(!existsSync(BENCH))("accepts the policies of the bench", () => {
    for (const file of existsSync(BENCH) ? readdirSync(BENCH) : []) {
      if (!file.endsWith(".rego")) continue;
      const text = readFileSync(new URL(file, BENCH), "utf8");
      const messages = (["v0", "v1"] as const).map((version) => {
        try {
          compile([{ name: file, text }], { version, typeChecker: TYPE_CHECKER });
          return "";
        } catch (error) {
          return error instanceof RegoError ? error.code : "?";
        }
      });
      expect(messages).not.toContain("ERR_REGO_TYPE");
    }
  });
});

const VECTORS = new URL("../../../../shared/vectors/rego/", import.meta.url);

/** Functions of OPA about which nothing is said in {@link BUILTIN_TYPES}, by number of operands. */
const UNTYPED: readonly (readonly string[])[] = [
  ["rego.metadata.rule", "rego.metadata.chain"],
  [
    "crypto.x509.parse_certificates",
    "crypto.x509.parse_and_verify_certificates",
    "crypto.x509.parse_certificate_request",
    "crypto.x509.parse_rsa_private_key",
    "crypto.parse_private_keys",
    "graphql.parse_query",
    "graphql.parse_schema",
    "graphql.schema_is_valid",
    "test.sleep",
  ],
  [
    "crypto.x509.parse_and_verify_certificates_with_options",
    "crypto.x509.parse_keypair",
    "graphql.parse",
    "graphql.parse_and_verify",
    "graphql.is_valid",
    "rego.parse_module",
  ],
  ["providers.aws.sign_req"],
];

/** Functions that are not of the core: that they exist, and with how many operands, is all that counts here. */
const STUBS: readonly Builtin[] = [
  ...[...BUILTIN_TYPES].map(([name, { operands }]) => [name, operands.length] as const),
  ...UNTYPED.flatMap((names, arity) => names.map((name) => [name, arity] as const)),
]
  .filter(([name]) => !BUILTINS.has(name))
  .map(([name, arity]): Builtin => ({ name, arity, call: () => undefined }));

interface Case {
  readonly modules?: readonly string[];
  readonly query: string;
  readonly input_term?: string;
}

/** The first line of the type error that a module or the query gives only when types are checked. */
function refusal({ modules = [], query, input_term }: Case): string | undefined {
  const named = modules.map((text, at) => ({ name: `m${at}.rego`, text }));
  try {
    compile(named, { builtins: STUBS });
  } catch {
    return "does not compile without types";
  }
  try {
    compile(named, { builtins: STUBS, typeChecker: TYPE_CHECKER }).evaluate(input_term === undefined ? query : `${query} with input as ${input_term}`, {
      limits: { maxSteps: 10 },
    });
  } catch (error) {
    if (error instanceof RegoError && error.code === "ERR_REGO_TYPE") return error.message.split("\n")[0]!;
  }
  return undefined;
}

describe.skipIf(!existsSync(VECTORS))("what OPA accepts (skipped without ../shared/vectors/rego)", () => {
  it("accepts every module of OPA's compliance suite", () => {
    const wrong: string[] = [];
    let checked = 0;
    for (const file of readdirSync(new URL("v1/", VECTORS), { recursive: true }) as string[]) {
      if (!file.endsWith(".json")) continue;
      const { cases } = parseJson(readFileSync(new URL(`v1/${file}`, VECTORS), "utf8")) as unknown as { readonly cases: readonly Case[] };
      cases.forEach((test, at) => {
        const message = refusal(test);
        if (message === undefined) checked++;
        else if (message !== "does not compile without types") wrong.push(`${file}#${at}: ${message}`);
      });
    }
    expect(wrong).toEqual([]);
    expect(checked).toBeGreaterThan(1900);
  });

  it("answers OPA's type errors among the micro-cases with one, and no other case", () => {
    const refused: string[] = [];
    const wanted: string[] = [];
    for (const set of ["set1", "set2"]) {
      for (const line of readFileSync(new URL(`semantics/${set}.jsonl`, VECTORS), "utf8").split("\n")) {
        if (line === "") continue;
        const test = parseJson(line) as unknown as Case & { readonly name: string; readonly v0: boolean; readonly want: { readonly opa_1_19: string } };
        // Conflicts, arity and the like are type errors too, found without types.
        if (test.v0 || refusal(test) === "does not compile without types") continue;
        if (refusal(test) !== undefined) refused.push(test.name);
        if (test.want.opa_1_19.startsWith("ERR:C:rego_type_error") || test.name === "unify object differing keys") wanted.push(test.name);
      }
    }
    // That `1.0` was written with a fraction is lost in the parser.
    expect(refused).toEqual(wanted.filter((name) => name !== "array idx float"));
    expect(refused).toHaveLength(8);
  });
});
