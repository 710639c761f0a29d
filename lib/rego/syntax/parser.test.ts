import { describe, expect, it } from "vitest";
import { DEFAULT_REGO_LIMITS, withLimits } from "../limits.ts";
import type { Module, RegoVersion, Term } from "./ast.ts";
import { isDiagnostics, parseModule, parseQuery } from "./parser.ts";
import type { Diagnostic } from "./source.ts";
import { Source } from "./source.ts";
import { TokenLog } from "./token-log.ts";

function parse(text: string, version: RegoVersion = "v1"): Module {
  const result = parseModule(new Source("t.rego", text), version, DEFAULT_REGO_LIMITS, new TokenLog());
  if (isDiagnostics(result)) throw new Error(result.map((item) => `${item.line}:${item.column} ${item.message}`).join("\n"));
  return result as Module;
}

function problems(text: string, version: RegoVersion = "v1"): readonly Diagnostic[] {
  const result = parseModule(new Source("t.rego", text), version, DEFAULT_REGO_LIMITS, new TokenLog());
  return isDiagnostics(result) ? result : [];
}

function value(text: string): Term {
  return parse(`package t\np := ${text}`).rules[0]!.clauses[0]!.value!;
}

/** A term as a readable string, with every call in prefix form. */
function show(term: Term): string {
  switch (term.kind) {
    case "scalar":
      return typeof term.value === "bigint" ? String(term.value) : JSON.stringify(term.value);
    case "var":
      return term.name;
    case "ref":
      return `${show(term.head)}${term.path.map((step) => `[${show(step)}]`).join("")}`;
    case "call":
      return `${term.name.join(".")}(${term.args.map(show).join(" ")})`;
    case "array":
      return `[${term.items.map(show).join(" ")}]`;
    case "set":
      return `{${term.items.map(show).join(" ")}}`;
    case "object":
      return `{${term.entries.map(([key, item]) => `${show(key)}:${show(item)}`).join(" ")}}`;
    case "array-comprehension":
      return `[${show(term.head)} | ${term.body.length}]`;
    case "set-comprehension":
      return `{${show(term.head)} | ${term.body.length}}`;
    case "object-comprehension":
      return `{${show(term.key)}:${show(term.value)} | ${term.body.length}}`;
    case "template":
      return `$(${term.parts.map((part) => (typeof part === "string" ? part : show(part.term) + (part.modifiers.length > 0 ? ` with ${part.modifiers.length}` : ""))).join("")})`;
  }
}

describe("terms", () => {
  it.each([
    ["1 + 2 * 3", "plus(1 mul(2 3))"],
    ["1 - 2 - 3", "minus(minus(1 2) 3)"],
    ["1 < 2 < 3", "lt(lt(1 2) 3)"],
    ["1 + 2 == 3 | 4 & 5", "equal(plus(1 2) or(3 and(4 5)))"],
    ["a in b == c", "internal.member_2(a equal(b c))"],
    ["(1 + 2) * 3", "mul(plus(1 2) 3)"],
    ["-1 - -2", "minus(-1 -2)"],
    ["f(x).a[0]", 'f(x)["a"][0]'],
    ["f(x)[0][1]", "f(x)[0][1]"],
    ["input.if.in", 'input["if"]["in"]'],
    ['["a", 1][0]', '["a" 1][0]'],
    ["contains(a, b)", "contains(a b)"],
    ['a["b"].c', 'a["b"]["c"]'],
    ["[1, 2,]", "[1 2]"],
    ["{}", "{}"],
    ["{1,}", "{1}"],
    ['{"a": 1, "b": [2],}', '{"a":1 "b":[2]}'],
    ["set()", "set()"],
    ["[x | x := 1]", "[x | 1]"],
    ["{x | some x in y; x > 1}", "{x | 2}"],
    ["{k: v | some k, v in y}", "{k:v | 1}"],
    ["{k: v | x}", "{k:v | 1}"],
    ["[a | b, c]", "[or(a b) c]"],
    ["{a | b, c}", "{or(a b) c}"],
    ["[a | b == c, d]", "[equal(or(a b) c) d]"],
    ["[a | (b == c), d]", "[or(a equal(b c)) d]"],
    ["[a | b,]", "[or(a b)]"],
    ['{"x": a | b, "y": c}', '{"x":or(a b) "y":c}'],
    ["[(a | b)]", "[or(a b)]"],
    ["[1, a | b]", "[1 or(a b)]"],
    ["[a | 1, b in c]", "[a | 1]"],
    // The head of a comprehension is one operand; behind an operator `|` is a union.
    ["[a & {1} | {2}]", "[or(and(a {1}) {2})]"],
    ["{a - b | c}", "{or(minus(a b) c)}"],
    ["{1: a - b | c}", "{1:or(minus(a b) c)}"],
    ["{a | b : c | d}", undefined],
    ["{a + b | c: d | e}", "{or(plus(a b) c):d | 1}"],
    ["[(a & b) | c]", "[and(a b) | 1]"],
    ["[f(a).b[0] | c]", '[f(a)["b"][0] | 1]'],
    ["[-1 | c]", "[-1 | 1]"],
    ["[a in b | c]", "[internal.member_2(a or(b c))]"],
    ["[a - b | c, d in e]", "[or(minus(a b) c) internal.member_2(d e)]"],
    // A comma behind `k, v in collection`, and before any other `in`, can stand only in a list.
    ["[a | b, c in d, e]", "[or(a b) internal.member_2(c d) e]"],
    ["{a | b, c in d,}", "{or(a b) internal.member_2(c d)}"],
    ["{1: a | b, c in d: e, f: g}", "{1:or(a b) internal.member_2(c d):e f:g}"],
    ["{1: a | b, c in d}", "{1:a | 1}"],
    ["[a | b in c, d in e]", "[internal.member_2(or(a b) c) internal.member_2(d e)]"],
    ["[a | b, c in d in e]", "[a | 1]"],
    ["[a | b, c in d in e, f]", "[or(a b) internal.member_2(internal.member_2(c d) e) f]"],
    ["[a | b, c in d; e]", "[a | 2]"],
    ["[a | b, c in d\n e]", "[a | 2]"],
    ["[a | b, c in d == e, f]", "[or(a b) internal.member_2(c equal(d e)) f]"],
    ["(a, b in c in d)", "internal.member_2(internal.member_3(a b c) d)"],
    ["a, b in c", "internal.member_3(a b c)"],
    ['$"{a with input as {"b": 1} with data.c as d}"', "$(a with 2)"],
    ["`raw\\n`", '"raw\\\\n"'],
    ['"\\ud83d\\ude00\\u00e9\\/"', '"\u{1f600}\u00e9/"'],
    ['"\\ud800"', '"\ufffd"'],
    ['$"a{1 + x}b\\{"', "$(aplus(1 x)b{)"],
    ["9007199254740993", "9007199254740993"],
    ["1e2", "100"],
    ["1.50", "1.5"],
  ])("%s", (text, expected) => {
    if (expected === undefined) expect(problems(`package t\np := ${text}`)).toHaveLength(1);
    else expect(show(value(text))).toBe(expected);
  });

  it("does not take brackets and parentheses from the next line or behind a space", () => {
    expect(parse("package t\np := [1,2]\nq := [0]").rules).toHaveLength(2);
    expect(problems("package t\np := count\n([1])")).not.toHaveLength(0);
    expect(problems("package t\np := count ([1])")).not.toHaveLength(0);
    expect(problems("package t\np := x [0]")).not.toHaveLength(0);
  });

  it("continues an expression on the next line behind or before an operator", () => {
    expect(parse("package t\np if {\n x := 1 +\n 2\n x == 3\n}").rules[0]!.clauses[0]!.body).toHaveLength(2);
    expect(parse("package t\np if {\n x := 1\n + 2\n}").rules[0]!.clauses[0]!.body).toHaveLength(1);
  });
});

describe("rules", () => {
  it.each<[string, RegoVersion, number]>([
    ["p := 1", "v1", 1],
    ["p = 1", "v0", 1],
    ["p { true }", "v0", 1],
    ["p = 1 { false } { true }", "v0", 2],
    ["p := 1 if { false } { true }", "v1", 2],
    ["p[x] { x := 1 }", "v0", 1],
    ['p["a"] = 1 { true }', "v0", 1],
    ["p.a", "v0", 1],
    ["a.b.c := 1", "v1", 1],
    ["p contains x if some x in [1]", "v1", 1],
    ["f(x) := x", "v1", 1],
    ["f(x) := 1 if x == 1 else := 2 if x == 2 else := 3", "v1", 1],
    ["p := 1 if { true } else := {}", "v1", 1],
    ["default p := [x | x := 1]", "v1", 1],
    ["default f(_, _) := 1", "v1", 1],
    ["p if {1 == 1}", "v1", 1],
    ['p if {"a": x} = {"a": 1}', "v1", 1],
    ["p if { {1, 2} == {2, 1} }", "v1", 1],
    ["p := x if { x := 1; };", "v1", 1],
    ["import input\nimport data.a.b as c\np := c", "v1", 1],
    ["import future.keywords\np if { every x in [1] { x == 1 } }", "v0", 1],
    ["import rego.v1\np if true", "v0", 1],
    ["every := 1\nin := 2\nif := 3", "v0", 3],
  ])("%j parses as %s", (text, version, count) => {
    expect(parse(`package t\n${text}`, version).rules).toHaveLength(count);
  });

  it("tells a v0 set from a v0 object and from a rule", () => {
    const [set, object, rule] = parse("package t\np[x] { x := 1 }\nq[x] = 1 { x := 1 }\nr.a.b { true }", "v0").rules;
    expect(set!.head.item).toMatchObject({ kind: "var", name: "x" });
    expect(object!.head).toMatchObject({ item: undefined, path: [{ kind: "var" }] });
    expect(rule!.head).toMatchObject({ item: undefined, path: [{}, {}] });
  });

  it.each<[string, RegoVersion]>([
    ["p[x] if { x := 1 }", "v1"],
    ["import future.keywords.if\np[x] if { x := 1 }", "v0"],
    ["import future.keywords.if\np.a if true { false }", "v0"],
    ["import rego.v1\np.a if true", "v0"],
  ])("a head with a step before an if is no set: %j (%s)", (text, version) => {
    for (const { head } of parse(`package t\n${text}`, version).rules) expect(head).toMatchObject({ item: undefined, path: [{}] });
  });

  it.each<[string, string]>([
    ["p = 0, x in y", "internal.member_3(0 x y)"],
    ["p := 0, x in y if true", "internal.member_3(0 x y)"],
    ["p := x in y", "internal.member_2(x y)"],
    ["p := 1 if false else := 0, x in y", "internal.member_3(0 x y)"],
    ['p contains 0, "a" in y if true', 'internal.member_3(0 "a" y)'],
    ["p.q contains x in y in z", "internal.member_2(internal.member_2(x y) z)"],
  ])("a membership in a head: %s", (text, expected) => {
    const [{ head, clauses }] = parse(`package t\n${text}`).rules as [Module["rules"][number]];
    expect(show(head.item ?? clauses.at(-1)!.value!)).toBe(expected);
  });

  it("white space may stand between the name of a function and its parameters, and nowhere else", () => {
    const { rules } = parse("package t\nsum (a, b) := c if c := a + b\ndefault f (_) := 1\ng # c\n (x) := x\nh if f(1)");
    expect(rules.map(({ head }) => head.parameters?.length)).toEqual([2, 1, 1, undefined]);
    expect(problems("package t\na.b (x) := x")).toHaveLength(1);
    expect(problems("package t\np := sum (1, 2)")).toHaveLength(1);
  });

  it("several statements may stand on a line where each shows that it is one", () => {
    const module = parse(
      'package t import data.a import data["b"].c import input p := 1 q = p default r := 2 s contains 3 f(x) := 4 if { x } t := 5 if false else := 6 u := 7',
    );
    expect(module.imports).toHaveLength(3);
    expect(module.rules.map(({ head }) => head.name)).toEqual(["p", "q", "r", "s", "f", "t", "u"]);
    expect(parse("package t\np { true } { false } q = 1 { true } r = 2", "v0").rules).toHaveLength(4);
  });

  it.each<[string, string]>([
    ["{ x }", "1: x"],
    ["{ k, v in y }", "1: internal.member_3(k v y)"],
    ["{ k, v in y; z }", "2: internal.member_3(k v y)"],
    ["{ k, v in y\n z }", "2: internal.member_3(k v y)"],
    ["{ k, v in y with input as 1 }", "1: internal.member_3(k v y)"],
    ["{ k, v in y in z }", "1: internal.member_2(internal.member_3(k v y) z)"],
    ["{ x } == y", "1: equal({x} y)"],
    ["{ x } | y == z", "1: equal(or({x} y) z)"],
    ["{ x }[y]", "1: {x}[y]"],
    ["{ k, v in y } == z", "1: equal({k internal.member_2(v y)} z)"],
    ["{ k, v in y, 1 } == z", "1: equal({k internal.member_2(v y) 1} z)"],
    ["{ k in x, v in y } == z", "1: equal({internal.member_2(k x) internal.member_2(v y)} z)"],
    ["{ k, v } == z", "1: equal({k v} z)"],
    ["{ k, } == z", "1: equal({k} z)"],
    ["{ k: v }", "1: {k:v}"],
    ["{ k: v }.a", '1: {k:v}["a"]'],
    ["{ x | y }", "1: {x | 1}"],
    ["{ x - y | z }", "1: or(minus(x y) z)"],
  ])("a brace behind if: %j", (text, expected) => {
    const [{ clauses }] = parse(`package t\np if ${text}`).rules as [Module["rules"][number]];
    const { body } = clauses[0]!;
    expect(`${body.length}: ${body[0]!.expression.kind === "term" ? show(body[0]!.expression.term) : body[0]!.expression.kind}`).toBe(expected);
  });

  it("accepts CRLF, a byte order mark, comments and quoted package steps", () => {
    expect(parse('\ufeffpackage t["a b"].c # x\r\n# y\r\np := 1\r\n').packagePath).toEqual(["t", "a b", "c"]);
  });
});

describe("malformed modules", () => {
  it.each([
    ["", "package"],
    ["p := 1", "package"],
    ["package t\np {", '"if" is required'],
    ["package t\np[x] { x := 1 }", '"if" is required'],
    ["package t\np.a", '"contains"'],
    ["package t\np", "alone is not a rule"],
    ['package t\np := "\\x"', "escape"],
    ['package t\np := "\\u12g4"', "hexadecimal"],
    ['package t\np := "abc', "does not end"],
    ["package t\np := `abc", "does not end"],
    ['package t\np := "a\nb"', "does not end"],
    ["package t\np := 01", "not a number"],
    ["package t\np := 1.", "not a number"],
    ["package t\np := 0x1", "not a number"],
    ["package t\np := 1e400", "not a number"],
    ["package t\np := .5", "expression expected"],
    ['package t\np := "abc"[0]', "cannot be indexed"],
    ["package t\np := 1.a", "not a number"],
    ["package t\np := [1", "in a list"],
    ["package t\np := [1 2]", "in a list"],
    ["package t\np := {1: 2, 3}", '":" expected'],
    ["package t\np := [x | ]", "must have a body"],
    ["package t\np if {}", "at least one"],
    ["package t\np if { not every x in [1] { x } }", "every"],
    ["package t\np if { some 1 }", '"some" must be followed'],
    ["package t\np if { a b }", "new line"],
    ["package t\np := 1 q if true", "new line"],
    ["package t\np := 1 q", "new line"],
    ["package t\np := 1 2", "new line"],
    ["package t\np if a q := 1", "needs braces"],
    ["package t\np if a default q := 1", "needs braces"],
    ["package t\np if {1, 2}", "always true"],
    ["package t\np if {1,}", "always true"],
    ["package t\np if {1 in x, 2 in y}", "always true"],
    ["package t\np := 1, q", '"in" expected'],
    ["package t\nx = 10 else := 1 if true", "behind a body"],
    ["package t\nx = 10 if a else := 1 else := 2", "behind a body"],
    ["package t\nimport rego.v1\nimport future.keywords.in", "once"],
    ["package t\nimport future.keywords\nimport rego.v1", "once"],
    ["package t\nimport rego.v1\nimport data.a\nimport rego.v1", "once"],
    ["package t\nimport future.keywords.in as on", "another name"],
    ["package t\nimport rego.v1 as v", "another name"],
    ["package t\nimport data. a", "white space"],
    ["package t\nimport data .a", "expected"],
    ["package a. b", "white space"],
    ["package a.\nb", "white space"],
    ["package t\np := input. a", "white space"],
    ['package t\np := $"{not x}"', "cannot stand here"],
    ['package t\np := $"{x with input}"', '"as" expected'],
    ["package t\np := {x | y, z in w: 1}", "expected"],
    ["package t\np if a; q := 1", "needs braces"],
    ["package t\ndefault p := input.x", "reference"],
    ["package t\ndefault p := f(1)", "call"],
    ["package t\ndefault f(1) := 1", "must be variables"],
    ["package t\ndefault f(x, x) := 1", "repeated"],
    ["package t\nimport foo.bar", "must start with"],
    ["package t\nimport future.keywords.nope", "future.keywords"],
    ["package t\nimport rego.v2", "rego.v1"],
    ["package t\np := 1\nimport data.a", "above all rules"],
    ["package t\nimport data.a.x\nimport data.b.x", "shadow"],
    ["package t\nif := 1", "keyword"],
    ["package t\np := input.", "name expected"],
    ["package t\np := {x: 1 | y", "expected"],
    ["package t\np := @", "illegal character"],
    ['package t\np := $"a{1 2}"', "expected"],
    ["package t\nf(x) contains 1", "function cannot be a set"],
    ["package t\nf(x)", "needs a value"],
    ["package t\np contains 1 if true else := 2", "cannot have an else"],
  ])("%j is refused", (text, message) => {
    expect(problems(text)[0]?.message).toContain(message);
  });

  it.each([
    // Without the import of `if` this would be `x = 10` and a rule named `if`.
    ["x = 10 if { false }", "new line"],
    ["p { a } and { b }", "new line"],
    ['r["s"] q { true }', "new line"],
    ["x = 10 else { true }", "behind a body"],
    ["x = 1 { a } else = 2 else = 3", "behind a body"],
    ["import rego.v1\nimport future.keywords.if", "once"],
    ["import future.keywords\nimport future.keywords\nimport rego.v1", "once"],
  ])("%j is refused in v0", (text, message) => {
    expect(problems(`package t\n${text}`, "v0")[0]?.message).toContain(message);
  });

  it("points at the place with file, line, column, source line and caret", () => {
    const [found] = problems('package t\n\np := 1\nq := "é😀" + @ 2\n');
    expect(found).toMatchObject({ file: "t.rego", line: 4, column: 13, excerpt: 'q := "é😀" + @ 2' });
    expect(found!.excerpt[found!.caret.indexOf("^")]).toBe("@");
  });

  it("shortens long lines around the place", () => {
    const [found] = problems(`package t\np := ["${"x".repeat(100_000)}", @, "${"y".repeat(100_000)}"]`);
    expect(found!.excerpt.length).toBeLessThan(130);
    expect(found!.excerpt[found!.caret.indexOf("^")]).toBe("@");
  });

  it("reports the errors of several rules at once", () => {
    const found = problems("package t\np := @\nq := 1\nr := [1\ns := 2\nt if {\n  x y\n}\nu := 0x");
    expect(found.map((item) => item.line)).toEqual([2, 5, 7, 9]);
  });

  it("every truncation of a module ends in a diagnostic or a module, never in anything else", () => {
    const text =
      'package a.b\nimport data.x as y\ndefault p := false\np if { some k, v in {"a": [1, -2.5e3]}; not v == $"t{k}"; every z in y { z > 1 } }\nf(x) := `r` if x[_] else := {1 | true}\n';
    for (let end = 0; end <= text.length; end++) {
      const result = parseModule(new Source("t", text.slice(0, end)), "v1", DEFAULT_REGO_LIMITS);
      expect(isDiagnostics(result) || "rules" in result).toBe(true);
    }
  });
});

describe("limits", () => {
  const BOMBS: readonly [string, (depth: number) => string][] = [
    ["arrays", (depth) => "[".repeat(depth)],
    ["objects", (depth) => '{"a":'.repeat(depth)],
    ["sets", (depth) => "{".repeat(depth)],
    ["mixed", (depth) => "[{".repeat(depth)],
    ["parentheses", (depth) => "(".repeat(depth)],
    ["calls", (depth) => "f(".repeat(depth)],
    ["indexes", (depth) => "a[".repeat(depth)],
    ["comprehensions", (depth) => "[1 | ".repeat(depth)],
    ["unions", (depth) => "[1 | 2, ".repeat(depth)],
    ["operators", (depth) => "1 + ".repeat(depth)],
    ["memberships", (depth) => "1 in ".repeat(depth)],
    ["steps", (depth) => `a${".b".repeat(depth)}`],
    ["templates", (depth) => '$"{'.repeat(depth)],
    ["precedences", (depth) => "1 * 2 + 3 == 4 | ".repeat(depth)],
    ["bodies", (depth) => "[1 | every x in [1] { ".repeat(depth)],
    ["unions of three items", (depth) => "[1 | 2, 3 in [4], ".repeat(depth)],
    ["operators before a union", (depth) => "[1 & 2 | ".repeat(depth)],
    ["keys behind a union", (depth) => "{1: 2 | 3, 4 in {5}: ".repeat(depth)],
  ];

  it.each(BOMBS)("%s nested a hundred thousand deep are refused", (_, bomb) => {
    const [found] = problems(`package t\np := ${bomb(100_000)}`);
    expect(found?.code).toBe("ERR_REGO_LIMIT_NESTING");
  });

  it("nesting below the limit is read once: the tokens read do not grow faster than the text", () => {
    // A parser that rewinds takes 2^depth steps here and does not come back.
    for (const [open, close] of [
      ["[", "]"],
      ["{", "}"],
      ['{"a":', "}"],
      ["[1 | 2, ", "]"],
      ["[1 | 2, 3 in [4], ", "]"],
      ["{1: 2 | 3, 4 in [5]: ", "}"],
      ["[1 & 2 | ", "]"],
    ] as const) {
      expect(value(`${open.repeat(60)}1${close.repeat(60)}`).kind).not.toBe("scalar");
    }
  });

  it("text, statements and nesting have their limits", () => {
    const limited = (text: string, limits: Parameters<typeof withLimits>[0]): readonly Diagnostic[] => {
      const result = parseModule(new Source("t", text), "v1", withLimits(limits));
      return isDiagnostics(result) ? result : [];
    };
    expect(limited("package t\np := 1", { maxSourceLength: 10 })[0]?.code).toBe("ERR_REGO_LIMIT_SOURCE");
    expect(limited("package t\np if { a; b; c }", { maxBodyStatements: 2 })[0]?.code).toBe("ERR_REGO_LIMIT_SOURCE");
    expect(limited("package t\np := [[1]]", { maxNesting: 1 })[0]?.code).toBe("ERR_REGO_LIMIT_NESTING");
  });
});

describe("queries", () => {
  it("are bodies", () => {
    const body = parseQuery(new Source("query", "data.t.p = x; x > 1\nnot y"), DEFAULT_REGO_LIMITS);
    expect(body).toHaveLength(3);
    expect(isDiagnostics(parseQuery(new Source("query", ""), DEFAULT_REGO_LIMITS))).toBe(true);
    expect(isDiagnostics(parseQuery(new Source("query", "a b"), DEFAULT_REGO_LIMITS))).toBe(true);
  });
});

describe("the token log", () => {
  function logged(text: string, version: RegoVersion = "v1"): TokenLog {
    const log = new TokenLog();
    expect(isDiagnostics(parseModule(new Source("t", text), version, DEFAULT_REGO_LIMITS, log))).toBe(false);
    return log;
  }

  /** The tokens that have a role, with it. */
  function roles(rules: string, version: RegoVersion = "v1"): string {
    const text = `package t\n${rules}`;
    const { tokens, roles: known } = logged(text, version);
    const told = tokens.filter(({ at }) => known.has(at)).map(({ at, end }) => `${text.slice(at, end)}:${known.get(at)}`);
    return told.slice(1).join(" ");
  }

  it("has every token once and in order, a template string as one", () => {
    const text = 'package t\np := $"a {$`b {c}` + 1} d"; # x\nq := {1 | [2], 3}';
    expect(logged(text).tokens.map(({ at, end }) => text.slice(at, end))).toEqual([
      "package",
      "t",
      "p",
      ":=",
      '$"a {$`b {c}` + 1} d"',
      ";",
      "q",
      ":=",
      "{",
      "1",
      "|",
      "[",
      "2",
      "]",
      ",",
      "3",
      "}",
    ]);
  });

  it.each<[string, string, RegoVersion]>([
    ["p contains contains(x, y) if not x in y", "contains:keyword if:keyword not:keyword in:keyword", "v1"],
    ["in := 1\np { in; {1} }", "{:body", "v0"],
    ["p if { {1} == {x | x} }", "if:keyword {:body {:comprehension", "v1"],
    ["p if {1, 2} == {x: [y | y] | z}", "if:keyword {:comprehension [:comprehension", "v1"],
    ["p := [a | b, c]", "", "v1"],
    ["p := [a & b | c]", "", "v1"],
    ["p := [a | b, c in d, e]", "in:keyword", "v1"],
    ["p (x) if { k, x in y }", "(:parameters if:keyword {:body in:keyword", "v1"],
    ["p if {x} == y", "if:keyword", "v1"],
    ["p if {k, x in y} == z", "if:keyword in:keyword", "v1"],
    [
      "p if { every x in y { z with input.if as {} } } else := {1} if q",
      "if:keyword {:body every:keyword in:keyword {:every with:keyword as:keyword else:keyword if:keyword",
      "v1",
    ],
    ["default p = {}\nq { a } { b }", "default:keyword {:body {:body", "v0"],
    ["import data.x as y", "import:keyword as:keyword", "v1"],
  ])("%j: %s", (rules, expected, version) => {
    expect(roles(rules, version)).toBe(expected);
  });

  it("knows where statements end", () => {
    const text = "package t\np if { x := [y | y; z ]; not a with b as c }";
    const { statementEnds } = logged(text);
    expect([...statementEnds].map((end) => text.slice(0, end).split(" ").at(-1))).toEqual(["y", "z", "]", "c"]);
  });
});
