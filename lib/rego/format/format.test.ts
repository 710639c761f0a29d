import { existsSync, readdirSync, readFileSync } from "node:fs";
import type { JsonValue } from "@sealpod/core";
import { parseJson } from "@sealpod/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { CompileOptions, EvaluateOptions, RegoVersion } from "../index.ts";
import { compile, RegoError } from "../index.ts";
import { DEFAULT_REGO_LIMITS } from "../limits.ts";
import type { Module } from "../syntax/ast.ts";
import { isDiagnostics, parseModule } from "../syntax/parser.ts";
import { Source } from "../syntax/source.ts";
import { measureGrowth } from "../../../tools/testing/growth.ts";
import { errorOf } from "../test-support.ts";
import { formatModule } from "./format.ts";
import { sameRules } from "./same-rules.ts";
import { TokenLog } from "../syntax/token-log.ts";
import { generateModule } from "./test-support.ts";

const VECTORS = new URL("../../../../shared/vectors/rego/v1/", import.meta.url);
const RULES = new URL("../../../author/genpolicy/rules/create-container.rego", import.meta.url);

const clock = { now: (): number => 1_700_000_000_000 };

function parse(text: string, version: RegoVersion = "v1"): Module | undefined {
  const result = parseModule(new Source("t.rego", text), version, DEFAULT_REGO_LIMITS, new TokenLog());
  return isDiagnostics(result) ? undefined : (result as Module);
}

/** The comments that the generator and the tables write, sorted: sorting imports moves them. */
function comments(text: string): readonly string[] {
  return [...text.matchAll(/# ?c\d+/g)].map(([comment]) => comment).toSorted();
}

function importsOf({ imports }: Module): readonly string[] {
  return imports.map(({ path, alias }) => JSON.stringify([path, alias])).toSorted();
}

/** What is wrong with the formatting of a module that parses; undefined if nothing is. */
function problem(text: string, version: RegoVersion = "v1"): string | undefined {
  const before = parse(text, version)!;
  const formatted = formatModule(text, { version });
  const after = parse(formatted, version);
  if (after === undefined) return "does not parse any more";
  if (!sameRules(before.rules, after.rules)) return "has other rules";
  if (before.packagePath.join() !== after.packagePath.join()) return "has another package";
  if (importsOf(before).join() !== importsOf(after).join()) return "has other imports";
  if (comments(text).join() !== comments(formatted).join()) return "lost comments";
  if (formatModule(formatted, { version }) !== formatted) return "changes when formatted again";
  return undefined;
}

/** The answer of a policy as text, or the code of its error. */
function answer(modules: readonly string[], query: string, data: JsonValue | undefined, options: EvaluateOptions, compileOptions: CompileOptions = {}): string {
  try {
    const policy = compile(
      modules.map((text, at) => ({ name: `m${at}`, text })),
      compileOptions,
    );
    if (data !== undefined) policy.setData(data);
    const { results, prints } = policy.evaluate(query, { clock, ...options });
    const lines = prints.map((line) => line.slice(line.indexOf(": ")));
    return JSON.stringify([results, lines], (_, value: unknown) => (typeof value === "bigint" ? `${value}n` : value));
  } catch (error) {
    if (!(error instanceof RegoError)) throw error;
    return error.code;
  }
}

/** Lines after `package t` and an empty one. */
function formatted(rules: string, options: Parameters<typeof formatModule>[1] = {}): string {
  const text = formatModule(`package t\n${rules}`, options);
  expect(text.startsWith("package t\n")).toBe(true);
  expect(formatModule(text, options)).toBe(text);
  return text.slice("package t\n\n".length, -1);
}

type Table = readonly (readonly [name: string, before: string, after: string])[];

describe("layout", () => {
  const TABLE: Table = [
    ["spaces around operators", "p:=1+2*3-  -1", "p := 1 + 2 * 3 - -1"],
    ["parentheses stay", "p := ((1+2))*(3)", "p := ((1 + 2)) * (3)"],
    ["spelling of numbers and strings stays", 'p := [1.50, 1e2, "\\u0041", `a\\b`]', 'p := [1.50, 1e2, "\\u0041", `a\\b`]'],
    ["raw strings keep their lines", "p := `a\n\t\tb # c1\n`", "p := `a\n\t\tb # c1\n`"],
    ["template strings are left alone", 'p := $"a{1+2}\\{"', 'p := $"a{1+2}\\{"'],
    ["assignments of heads", "p = 1\ndefault q = 2\nf(x) = x if x else = 3", "p := 1\n\ndefault q := 2\n\nf(x) := x if x else := 3"],
    ["plain steps", 'p := input["a"]["b c"]["if"][`d`][0]', 'p := input.a["b c"]["if"].d[0]'],
    ["steps of heads", 'p["a"].b := 1', 'p["a"].b := 1'],
    ["words that only look like calls", "p contains(x) if not(x) in(y)", "p contains (x) if not (x) in (y)"],
    ["contains in its two meanings", 'p contains  contains(x,"a")', 'p contains contains(x, "a")'],
    [
      "lists on one line",
      "p := [1,2,]\nq := {1 ,}\nr := {}\ns := [ ]\nt := f( 1,{ }, )\nu := set( )",
      "p := [1, 2]\nq := {1}\nr := {}\ns := []\nt := f(1, {})\nu := set()",
    ],
    ["lists on several lines", 'p := [1,\n2,3]\nq := {"a":1,\n  "b":f(\n1)}', 'p := [\n\t1,\n\t2, 3,\n]\n\nq := {\n\t"a": 1,\n\t"b": f(\n\t\t1,\n\t),\n}'],
    ["a list that only ends on another line", "p := [1, 2\n]", "p := [1, 2]"],
    ["brackets that start on one line are not indented twice", 'p := f({\n"a": 1})', 'p := f({\n\t"a": 1,\n})'],
    ["empty lines in a list", "p := [\n\n1,\n\n\n2\n\n]", "p := [\n\t1,\n\n\t2,\n]"],
    ["a comma that tells a union from a comprehension", "p := [a|b,]\nq := {a | b,}\nr := {1: a | b,}", "p := [a | b,]\nq := {a | b,}\nr := {1: a | b,}"],
    ["a comma that tells a list of two from a comprehension", "p := [a|b,c in d,]\nq := {-1|b,c in d,}", "p := [a | b, c in d,]\nq := {-1 | b, c in d,}"],
    [
      "a comma behind a union that tells nothing",
      "p := [a&b|c,]\nq := {a|b,c,}\nr := {1: a - b|c,}\ns := [a|b,c in d,e,]\nt := [a in b | c,]",
      "p := [a & b | c]\nq := {a | b, c}\nr := {1: a - b | c}\ns := [a | b, c in d, e]\nt := [a in b | c]",
    ],
    ["comprehensions on one line", "p := [x|x:=1;x>0]\nq := {x:y|some x,y in z}", "p := [x | x := 1; x > 0]\nq := {x: y | some x, y in z}"],
    ["comprehensions on several lines", "p := {x|\nx := 1;x>0\n\nx<2}", "p := {x |\n\tx := 1\n\tx > 0\n\n\tx < 2\n}"],
    ["operators where the author broke the line", "p := 1 +\n2\n* 3\nq := 4", "p := 1 +\n\t2\n\t* 3\n\nq := 4"],
    ["an assignment is not broken", "p :=\n1\nq if {\nx\n:=\n2\n}", "p := 1\n\nq if {\n\tx := 2\n}"],
    ["a minus at the start of a statement", "p if { 1; -1 == x; -2 }", "p if {\n\t1;\n\t-1 == x;\n\t-2\n}"],
    ["a minus that continues a line", "p if {\n x == 1\n-2\n}", "p if {\n\tx == 1\n\t\t- 2\n}"],
    [
      "with",
      "p if x with input as{}with data.a as 1\nq if {\nx with input as 1\nwith data.b as 2\n}",
      "p if x with input as {} with data.a as 1\n\nq if {\n\tx with input as 1\n\t\twith data.b as 2\n}",
    ],
    [
      "some, every and not",
      "p if { some x,y in z;every k,v in z{ k;v }; not  x\nevery v in z { v\n v }\nsome a, b }",
      "p if {\n\tsome x, y in z\n\tevery k, v in z { k; v }\n\tnot x\n\tevery v in z {\n\t\tv\n\t\tv\n\t}\n\tsome a, b\n}",
    ],
    ["membership with a key", "p if (1,x in y)", "p if (1, x in y)"],
  ];
  it.each(TABLE)("%s", (_, before, after) => {
    expect(formatted(before)).toBe(after);
    expect(problem(`package t\n${before}`)).toBeUndefined();
  });
});

describe("rules", () => {
  const TABLE: Table = [
    ["a body of one statement on the line of its head", "p if{x}\nq := 1 if { x; }", "p if x\nq := 1 if x"],
    ["a body that stands below its head", "p if {\nx\n}", "p if {\n\tx\n}"],
    ["statements each on a line", "p if { x;y }", "p if {\n\tx\n\ty\n}"],
    ["a statement without braces comes up to its if", "p if\n  x", "p if x"],
    ["a body that starts with a brace keeps its own", "p if { {1} == x }\nq if {1, 2} == x", "p if {\n\t{1} == x\n}\n\nq if {1, 2} == x"],
    ["further bodies", "p if { x } { y }\n{ z }", "p if {\n\tx\n} {\n\ty\n} {\n\tz\n}"],
    ["else on the line of the brace", "p := 1 if { x }else:=2 if { y } else = 3", "p := 1 if x else := 2 if y else := 3"],
    ["else on a line of its own", "p := 1 if {\nx\n}\nelse := 2", "p := 1 if {\n\tx\n}\n\nelse := 2"],
    [
      "groups of lines stay, others are set apart",
      "a := 1\nb if a\nc if {\n b\n}\nd := 1\n\n\n\ne := 2;f := 3\ndefault g := 1\ndefault h := 2\ni := [\n1]\nj := 2",
      "a := 1\nb if a\n\nc if {\n\tb\n}\n\nd := 1\n\ne := 2\nf := 3\n\ndefault g := 1\n\ndefault h := 2\n\ni := [\n\t1,\n]\n\nj := 2",
    ],
    ["empty lines in a body", "p if {\n\n\nx\n\n\n\ny\n\n}", "p if {\n\tx\n\n\ty\n}"],
    [
      "sets, objects, functions",
      's contains 1\no[k] := 1 if k := 2\nf( x ,"a" ) := 1\nd.e.f := 1',
      's contains 1\no[k] := 1 if k := 2\nf(x, "a") := 1\nd.e.f := 1',
    ],
    ["white space before parameters", "f (x,y) := x\ndefault g (_) := 1\nh # c1\n(x) := 1", "f(x, y) := x\n\ndefault g(_) := 1\n\nh # c1\n\t(x) := 1"],
    ["rules on one line", "p := 1 q := 2 r contains 3 default s := 4", "p := 1\nq := 2\nr contains 3\n\ndefault s := 4"],
    ["a key and a value of a membership in a head", 'p :=0,x in y\nq contains 0,"a" in["a"]', 'p := 0, x in y\nq contains 0, "a" in ["a"]'],
    ["sets and memberships behind if", "p if {x}==y\nq if {0,x in y}\nr if {0,x in y}=={1}", "p if {x} == y\nq if 0, x in y\nr if {0, x in y} == {1}"],
    ["a template string with a modifier", 'p := $"{x with input as {"a":1}}"', 'p := $"{x with input as {"a":1}}"'],
    ["a broken head does not indent its body", "p := 1 +\n2 if {\nx\n}", "p := 1 +\n\t2 if {\n\tx\n}"],
  ];
  it.each(TABLE)("%s", (_, before, after) => {
    expect(formatted(before)).toBe(after);
    expect(problem(`package t\n${before}`)).toBeUndefined();
  });
});

describe("comments", () => {
  const TABLE: Table = [
    ["before, behind and after rules", "# c1\n# c2\n\n# c3\np := 1 # c4\n# c5\nq := 2\n# c6", "# c1\n# c2\n\n# c3\np := 1 # c4\n\n# c5\nq := 2\n\n# c6"],
    ["blocks of metadata keep their indentation", "# METADATA\n# title: x\n# custom:\n#   a: 1\np := 1", "# METADATA\n# title: x\n# custom:\n#   a: 1\np := 1"],
    ["in bodies", "p if { # c1\n# c2\nx # c3\n# c4\ny;# c5\n\nz\n# c6\n}# c7", "p if { # c1\n\t# c2\n\tx # c3\n\n\t# c4\n\ty # c5\n\n\tz\n\t# c6\n} # c7"],
    ["a comment keeps the braces of a body", "p if { x # c1\n}\nq if { # c2\nx }", "p if {\n\tx # c1\n}\n\nq if { # c2\n\tx\n}"],
    ["in lists", "p := [ # c1\n1 # c2\n, 2, # c3\n# c4\n\n# c5\n]", "p := [ # c1\n\t1, # c2\n\t2, # c3\n\t# c4\n\n\t# c5\n]"],
    ["that hold a list open", "p := [1, # c1\n2]\nq := { # c2\n}", "p := [\n\t1, # c1\n\t2,\n]\n\nq := { # c2\n}"],
    ["two behind one item", "p := [1 # c1\n, # c2\n2]", "p := [\n\t1, # c1\n\t# c2\n\t2,\n]"],
    ["in comprehensions", "p := [ # c1\nx # c2\n| # c3\nx := 1 # c4\n# c5\n]", "p := [ # c1\n\tx | # c2\n\t# c3\n\tx := 1 # c4\n\t# c5\n]"],
    ["in an expression", "p := 1 + # c1\n2\nq := x # c2", "p := 1 + # c1\n\t2\n\nq := x # c2"],
    [
      "around if and else",
      "p # c1\nif # c2\n{ x } # c3\n# c4\nelse # c5\n:= 1 # c6\nif y",
      "p if { # c1\n\t# c2\n\tx\n} # c3\n\n# c4\nelse # c5\n\t:= 1 if # c6\n\ty",
    ],
    ["with semicolons", "p if { x # c1\n; # c2\ny };# c3\nq := 1", "p if {\n\tx # c1\n\n\t# c2\n\ty\n} # c3\n\nq := 1"],
  ];
  it.each(TABLE)("%s", (_, before, after) => {
    expect(formatted(before)).toBe(after);
    expect(problem(`package t\n${before}`)).toBeUndefined();
  });

  it("around the package", () => {
    const before = "# c1\n\n# c2\npackage t # c3\n# c4\n";
    expect(formatModule(before)).toBe("# c1\n\n# c2\npackage t # c3\n\n# c4\n");
    expect(problem(before)).toBeUndefined();
  });
});

describe("imports", () => {
  const TABLE: Table = [
    [
      "are sorted in their groups",
      "import input.b as c # c1\nimport rego.v1\nimport data.b\nimport data.a.d\nimport data.a\n\nimport data.z\n# c2\nimport data.y",
      "import data.a\nimport data.a.d\nimport data.b\nimport input.b as c # c1\nimport rego.v1\n\nimport data.z\n\n# c2\nimport data.y",
    ],
    ["keep quoted steps", 'import data["a b"]["c"] as d', 'import data["a b"]["c"] as d'],
  ];
  it.each(TABLE)("%s", (_, before, after) => {
    expect(formatted(before)).toBe(after);
    expect(problem(`package t\n${before}`)).toBeUndefined();
  });

  it("stay in their order where it means something", () => {
    const shadow = "import data.b.x\nimport data.a.x";
    expect(formatted(shadow, { version: "v0" })).toBe(shadow);
    const alias = "import input.x as in\nimport future.keywords";
    expect(formatted(alias, { version: "v0" })).toBe(alias);
  });
});

describe("dialects", () => {
  it("v0 stays v0", () => {
    const before = "import future.keywords.in\np[x]{ x:=1 }\nq = 1{ a }{ b }\nr.a\ns { x in y }\nimport_ = 2";
    expect(formatted(before, { version: "v0" })).toBe(
      "import future.keywords.in\n\np[x] {\n\tx := 1\n}\n\nq = 1 {\n\ta\n} {\n\tb\n}\n\nr.a\n\ns {\n\tx in y\n}\n\nimport_ = 2",
    );
    expect(problem(`package t\n${before}`, "v0")).toBeUndefined();
  });

  it("a rule with a step and an if is no set", () => {
    const before = "import future.keywords.if\np[x] if { x := 1 }\np.a if true\nq.a { true }";
    expect(formatted(before, { version: "v0", toV1: true })).toBe('import rego.v1\n\np[x] if x := 1\np.a if true\nq contains "a" if true');
  });

  it("v0 is rewritten to v1 on request, and answers the same", () => {
    const before =
      'import future.keywords.in # c1\nimport data.a\np[x] # c2\n{ x:=1 }\nq = 1{ a }{ false }\nr.a\ns { 1 in [1] }\ndefault f(_) = 2\nf(1) = 3 { false } else = 4 { true; true }\no["k"] = 5';
    const after = formatted(before, { version: "v0", toV1: true });
    expect(after).toBe(
      'import rego.v1\n\n# c1\nimport data.a\n\np contains x if { # c2\n\tx := 1\n}\n\nq := 1 if {\n\ta\n} {\n\tfalse\n}\n\nr contains "a"\ns if 1 in [1]\n\ndefault f(_) := 2\n\nf(1) := 3 if false else := 4 if {\n\ttrue\n\ttrue\n}\n\no["k"] := 5',
    );
    for (const data of [{}, { a: true }]) {
      const wanted = answer([`package t\n${before}`], "data.t", data, {}, { version: "v0" });
      expect(wanted).toContain('"s":true');
      expect(answer([`package t\n${after}`], "data.t", data, {})).toBe(wanted);
    }
  });

  it("what v1 reads in another way is refused", () => {
    const refused = (rules: string): string => errorOf(() => formatModule(`package t\n${rules}`, { version: "v0", toV1: true })).code;
    expect(refused("p { x | y; z }")).toBe("ERR_REGO_COMPILE");
    expect(refused("in = 1")).toBe("ERR_REGO_PARSE");
    expect(refused("import data.a.x\nimport data.b.x")).toBe("ERR_REGO_PARSE");
  });

  it("a module of v1 is only laid out", () => {
    expect(formatted("import rego.v1\np = 1", { version: "v0", toV1: true })).toBe("import rego.v1\n\np := 1");
  });

  it("line ends and a byte order mark are normalised", () => {
    expect(formatModule("\ufeff# c1\r\npackage t\r\n\r\n\r\np := 1\r\n")).toBe("# c1\npackage t\n\np := 1\n");
  });
});

describe("malformed modules", () => {
  it("are refused with all diagnostics and the name", () => {
    const error = errorOf(() => formatModule("package t\np := @\nq := 1\nr := [", { name: "x.rego" }));
    expect(error.code).toBe("ERR_REGO_PARSE");
    expect(error.diagnostics.map(({ file, line }) => [file, line])).toEqual([
      ["x.rego", 2],
      ["x.rego", 4],
    ]);
  });

  it("limits hold", () => {
    expect(errorOf(() => formatModule("package t\np := 1", { limits: { maxSourceLength: 5 } })).code).toBe("ERR_REGO_LIMIT_SOURCE");
    for (const open of ["[", "{", "(", "f(", "a[", "[1 | ", '{"a":', "1 + ", '$"{', "[1 | every x in [1] {"]) {
      expect(errorOf(() => formatModule(`package t\np := ${open.repeat(50_000)}`)).code).toBe("ERR_REGO_LIMIT_NESTING");
    }
  });

  it("the deepest nesting that is allowed is printed", () => {
    for (const [open, close] of [
      ["[", "]"],
      ["[\n", "]"],
      ["(", ")"],
      ["count(", ")"],
      ["[1 | every x in [1] { x == ", "}]"],
    ] as const) {
      expect(problem(`package t\np := ${open.repeat(60)}1${close.repeat(60)}`)).toBeUndefined();
    }
  });
});

describe("growth", () => {
  const SHAPES: Table = [
    ["rules", "", 'p if { x := [1, 2, {"a": 3}]; every k in x { k > 1 } } # c\n'],
    ["rules on one line", "", "p := 1;"],
    ["comments", "", "# c\n"],
    ["empty lines", "", "\n"],
    ["items", "p := [", "1, # c\n"],
    ["items on one line", "p := [", "1,"],
    ["statements", "p if { true; ", "x with input as 1;"],
    ["branches", "p := 1 if x", " else := 2 if y"],
    ["bodies", "p if { x }", " { y }"],
    ["imports", "", "import input.x as y\n"],
  ];
  const CLOSE: ReadonlyMap<string, string> = new Map([
    ["p := [", "1]"],
    ["p if { true; ", "}"],
  ]);
  const limits = { maxRules: Infinity, maxBodyStatements: Infinity };

  it.each(SHAPES)("of many %s is linear", (_, open, piece) => {
    // Quadratic work has 2; between that and 1.2 lies what a garbage collector adds on a busy machine.
    const bound = 1.5;
    const exponent = measureGrowth([1000, 2000, 4000, 8000], bound, (times) => {
      const text = `package t\n${open}${piece.repeat(times)}${CLOSE.get(open) ?? ""}\n`;
      return () => void formatModule(text, { limits, version: piece.startsWith("import") ? "v0" : "v1" });
    });
    expect(exponent).toBeLessThan(bound);
  });
});

describe("generated modules", () => {
  const choices = fc.array(fc.nat({ max: 2 ** 31 - 1 }), { minLength: 50, maxLength: 600 });

  /** The module that a list of choices makes; when they run out, the plainest choice is taken. */
  function moduleFrom(list: readonly number[]): string {
    let at = 0;
    return generateModule((below) => (list[at++] ?? 0) % below);
  }

  const INPUTS: readonly JsonValue[] = [{ n: 2, list: [1, 2, 3], o: { if: 1, a: [2] } }, { n: 3, list: [{ n: 2 }, "a b"], o: { if: [1], a: null } }, {}];

  function answers(text: string): string {
    return INPUTS.map((input) => answer([text], "data.t", { base: [1, 2], z: {} }, { input })).join("\n");
  }

  it("the generator makes modules that are worth formatting", () => {
    const texts = fc.sample(choices, { numRuns: 300, seed: 7 }).map(moduleFrom);
    const parsed = texts.filter((text) => parse(text) !== undefined);
    expect(parsed.length).toBeGreaterThan(200);
    expect(parsed.filter((text) => answers(text).startsWith("[[{")).length).toBeGreaterThan(80);
    expect(parsed.filter((text) => formatModule(text) !== text).length).toBe(parsed.length);
  });

  it("come out as the same rules, with all comments, and are left alone from then on", () => {
    fc.assert(
      fc.property(choices, (list) => {
        const text = moduleFrom(list);
        fc.pre(parse(text) !== undefined);
        expect(problem(text)).toBeUndefined();
      }),
      { numRuns: 1000 },
    );
  });

  it("decide the same", () => {
    fc.assert(
      fc.property(choices, (list) => {
        const text = moduleFrom(list);
        fc.pre(parse(text) !== undefined);
        expect(answers(formatModule(text))).toBe(answers(text));
      }),
      { numRuns: 300 },
    );
  });
});

describe("our own policy", () => {
  it.skipIf(!existsSync(RULES))("the rules of genpolicy are laid out already", () => {
    const text = readFileSync(RULES, "utf8");
    expect(formatModule(text)).toBe(text);
  });
});

interface SuiteCase {
  readonly query: string;
  readonly modules?: readonly string[];
  readonly data?: JsonValue;
  readonly input?: JsonValue;
  readonly input_term?: string;
  readonly strict_error?: boolean;
}

describe.skipIf(!existsSync(VECTORS))("OPA compliance suite (skipped without ../shared/vectors/rego)", () => {
  it("every module comes out as the same rules, and every case has the same answer", () => {
    const failed: string[] = [];
    let modules = 0;
    let answered = 0;
    for (const folder of readdirSync(VECTORS)) {
      for (const file of readdirSync(new URL(`${folder}/`, VECTORS))) {
        const { cases } = parseJson(readFileSync(new URL(`${folder}/${file}`, VECTORS), "utf8")) as unknown as { readonly cases: readonly SuiteCase[] };
        for (const test of cases) {
          const texts = (test.modules ?? []).filter((text) => parse(text) !== undefined);
          if (texts.length !== (test.modules ?? []).length) continue;
          for (const text of texts) {
            modules++;
            const found = problem(text);
            if (found !== undefined) failed.push(`${folder}/${file}: ${found}`);
          }
          const query = test.input_term === undefined ? test.query : `${test.query} with input as ${test.input_term}`;
          const options = test.input === undefined ? {} : { input: test.input };
          const strict = { strictBuiltinErrors: test.strict_error === true };
          const wanted = answer(texts, query, test.data, options, strict);
          if (wanted.startsWith("[")) answered++;
          const found = answer(
            texts.map((text) => formatModule(text)),
            query,
            test.data,
            options,
            strict,
          );
          if (found !== wanted) failed.push(`${folder}/${file}: ${found} instead of ${wanted}`);
        }
      }
    }
    expect(failed).toEqual([]);
    expect(modules).toBeGreaterThan(2000);
    expect(answered).toBeGreaterThan(1200);
  });
});
