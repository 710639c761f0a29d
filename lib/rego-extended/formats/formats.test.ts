import type { JsonValue } from "@sealpod/core";
import type { RegoLimits } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { formatsBuiltins } from "./formats.ts";
import { answers, failures, table } from "../testdata/tables.ts";

const answer = answers(formatsBuiltins);

function decoded(text: string): JsonValue | undefined {
  return answer("[yaml.unmarshal(input)]", { input: text });
}

describe("yaml.unmarshal", () => {
  it.each<readonly [string, JsonValue]>([
    ["", null],
    ["# nothing\n", null],
    ["a", "a"],
    ["- 1\n- [2, {b: c}]\n", [1, [2, { b: "c" }]]],
    ["a: 1\na: 2\n", { a: 2 }],
    ["a: |\n  x\n  y\nb: >-\n  x\n  y\n", { a: "x\ny\n", b: "x y" }],
    ["a:\nb: ~\nc: Null\nd: 'null'\n", { a: null, b: null, c: null, d: "null" }],
    ["[yes, No, on, OFF, y, N, true, False, yEs]", [true, false, true, false, true, false, true, false, "yEs"]],
    ["['yes', \"1\"]", ["yes", "1"]],
    ["[0x1F, 0o17, 017, 0b101, 1_000, +5, -0x10, 08, 0x, 1__]", [31, 15, 15, 5, 1000, 5, -16, 8, "0x", 1]],
    ["[18446744073709551615, -9223372036854775808]", [18446744073709551615n, -9223372036854775808n]],
    ["[18446744073709551616]", [18446744073709552000n]],
    ["[1.5, .5, 1., 1e3, -1.5e-3, 1e400, ., 1e]", [1.5, 0.5, 1, 1000, -0.0015, "1e400", ".", "1e"]],
    ["[2001-01-01, 12:30:45, 1:2]", ["2001-01-01", "12:30:45", "1:2"]],
    ["[!!str 1, !!int '5', !!float 1, !!bool 'yes', !local 5]", ["1", 5, 1, true, "5"]],
    ["!!binary aGVs\n bG8=", "hello"],
    ["{1: a, 1.5: b, true: c, yes: d}", { 1: "a", "1.5": "b", true: "d" }],
    ["a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n", { a: { b: 1, c: 2 }, d: { b: 1, c: 3 } }],
    ["d:\n  c: 3\n  <<: [{a: 1}, {a: 2, b: 2, c: 9}]\n", { d: { a: 1, b: 2, c: 3 } }],
    ["'<<': 1\n", { "<<": 1 }],
    ["&a [1, &b 2]\n", [1, 2]],
    ["[&b 2, *b]\n", [2, 2]],
    ["[&b 1, &b 2, *b]", [1, 2, 2]],
    ["a\n---\n[\n", "a"],
    ["--- a\n...\n", "a"],
    ["%YAML 1.2\n---\na\n", "a"],
    ["{__proto__: 1, constructor: 2}", { ["__proto__"]: 1, constructor: 2 }],
    ['"\\ud800x"', "\ufffdx"],
  ])("%j", (text, expected) => {
    // Objects of the answer have no prototype, so names such as __proto__ are members.
    expect(JSON.stringify(decoded(text), bigints)).toBe(JSON.stringify([expected], bigints));
  });

  it.each([
    ["[1,2", "yaml: line 1: did not find expected ',' or ']'"],
    ["a: 1\n{b", "yaml: line 2: "],
    ["a: b: c", "yaml: line 1: "],
    ["a:\n\t- b", "yaml: line 2: "],
    ["*a", "unknown anchor 'a' referenced"],
    ["a: &a [*a]", "anchor 'a' value contains itself"],
    ["{[1]: 2}", "unsupported map key: [1]"],
    ["{~: 2}", "unsupported map key: null"],
    ["<<: 1", "map merge requires map or sequence of maps as the value"],
    [".inf", "json: unsupported value: Infinity"],
    ["{a: .NaN}", "json: unsupported value: NaN"],
    ["!!int x", "cannot decode"],
    ["!!binary ???", "invalid base64"],
  ])("%j is refused", (text, why) => {
    expect(answer("yaml.unmarshal(input)", { input: text })).toBeUndefined();
    expect(answer("yaml.unmarshal(input)", { input: text, strict: true })).toContain(why);
    expect(answer("yaml.is_valid(input)", { input: text, strict: true })).toBe(false);
  });
});

function bigints(_name: string, value: unknown): unknown {
  return typeof value === "bigint" ? `${value}n` : value;
}

describe("hostile YAML", () => {
  it("aliases of aliases are refused before they double", () => {
    const bomb = Array.from({ length: 30 }, (_, at) => `a${at}: &a${at} ${at === 0 ? "[x]" : `[*a${at - 1}, *a${at - 1}]`}`).join("\n");
    expect(answer("yaml.unmarshal(input)", { input: bomb, strict: true })).toContain("excessive aliasing");
    const merges = Array.from({ length: 30 }, (_, at) => `a${at}: &a${at} ${at === 0 ? "{k: x}" : `{<<: *a${at - 1}, b: *a${at - 1}, c: *a${at - 1}}`}`).join(
      "\n",
    );
    expect(answer("yaml.unmarshal(input)", { input: merges, strict: true })).toContain("excessive aliasing");
    const long = `a: &a ${"x".repeat(100_000)}\nb: [${"*a, ".repeat(1000)}]`;
    expect(answer("yaml.unmarshal(input)", { input: long, strict: true })).toContain("excessive aliasing");
  });

  it.each([
    ["flow sequences", "[".repeat(5000)],
    ["flow mappings", "{a: ".repeat(5000)],
    ["block sequences", "- ".repeat(5000)],
    ["explicit keys", "? ".repeat(5000)],
    ["indented mappings", Array.from({ length: 300 }, (_, at) => `${" ".repeat(at)}a:`).join("\n")],
  ])("%s deeper than the limit abort the query", (_name, text) => {
    expect(answer("yaml.unmarshal(input)", { input: text })).toMatch(/^ERR_REGO_LIMIT_/);
    expect(answer("yaml.is_valid(input)", { input: text })).toMatch(/^ERR_REGO_LIMIT_/);
  });

  it("large texts of each kind are read within the limits", () => {
    const rows = 3000;
    expect(answer("yaml.unmarshal(input)", { input: "]".repeat(1_000_000) })).toContain("ERR_REGO_LIMIT_STEPS");
    expect(answer("count(yaml.unmarshal(input))", { input: "- a: 1\n".repeat(rows) })).toBe(rows);
    expect(answer("count(yaml.unmarshal(input))", { input: `[${"1, ".repeat(rows)}]` })).toBe(rows);
    expect(answer("count(yaml.unmarshal(input))", { input: Array.from({ length: rows }, (_, at) => `k${at}: v`).join("\n") })).toBe(rows);
    expect(answer("count(yaml.unmarshal(input))", { input: `a: "${"\\n".repeat(rows)}"` })).toBe(1);
    expect(answer("count(yaml.unmarshal(input))", { input: `a: ${"x\n\n ".repeat(rows)}` })).toBe(1);
  });
});

table("yaml.marshal", answer, [
  ["yaml.marshal(null)", "null\n"],
  ["yaml.marshal([])", "[]\n"],
  ["yaml.marshal({})", "{}\n"],
  ["yaml.marshal(1.5)", "1.5\n"],
  ["yaml.marshal(1234567.5)", "1.2345675e+06\n"],
  ["yaml.marshal(18446744073709551615)", "18446744073709551615\n"],
  ['yaml.marshal({"b": [1, {"c": 2, "d": [3]}], "a": {"x": true}, "e": [], "f": {}})', "a:\n  x: true\nb:\n- 1\n- c: 2\n  d:\n  - 3\ne: []\nf: {}\n"],
  ["yaml.marshal([[1, [2]], [3]])", "- - 1\n  - - 2\n- - 3\n"],
  ["yaml.marshal({1, 2})", "- 1\n- 2\n"],
  ['yaml.marshal({1: "a", [2]: "b"})', "\"1\": a\n'[2]': b\n"],
  ['yaml.marshal({"a10": 1, "a2": 2, "a02": 3})', "a02: 3\na2: 2\na10: 1\n"],
  [
    'yaml.marshal(["2020-01-02", "2020-1-2T3:4:5Z", "2020-01-02 03:04:05.6", "2020-13-01", "2020-", "20200-01-02"])',
    '- "2020-01-02"\n- "2020-1-2T3:4:5Z"\n- "2020-01-02 03:04:05.6"\n- 2020-13-01\n- 2020-\n- 20200-01-02\n',
  ],
  [
    'yaml.marshal(["yes", "1", "0x1", "null", "", "~", "1:30", "1.5", "<<", "=", ".inf"])',
    '- "yes"\n- "1"\n- "0x1"\n- "null"\n- ""\n- "~"\n- "1:30"\n- "1.5"\n- "<<"\n- "="\n- ".inf"\n',
  ],
  [
    'yaml.marshal(["a: b", "a #b", "- a", "a\'b: ", "*a", "[", "a:", "-a", "a#b", "---", " a", "a "])',
    "- 'a: b'\n- 'a #b'\n- '- a'\n- 'a''b: '\n- '*a'\n- '['\n- 'a:'\n- -a\n- a#b\n- '---'\n- ' a'\n- 'a '\n",
  ],
  ['yaml.marshal({"a": "x\\ny\\n", "b": "x\\ny", "c": "x\\n\\n", "d": " x\\ny"})', 'a: |\n  x\n  y\nb: |-\n  x\n  y\nc: |+\n  x\n\nd: " x\\ny"\n'],
  ['yaml.marshal("\\u0000\\u007f\\t\\"")', '"\\0\\x7F\\t\\""\n'],
]);

describe("a round trip through YAML", () => {
  const texts = [
    "",
    " ",
    "a",
    "a\nb",
    "a\n",
    "\n",
    "\n\n",
    "a\n\n\n",
    " a\n b",
    "a \nb",
    "a\n ",
    "a\n  b\n",
    "# x",
    "a # b",
    "- ",
    "-",
    "?",
    "? a",
    ": a",
    "{a",
    "a, b",
    "]",
    "%a",
    "@a",
    "`a",
    "'",
    "''",
    '"',
    "\\",
    "\u0085",
    "\u2028",
    "\ufeff",
    "\u{1f600}",
    "\u00a0x",
    "\r\n",
    "a\rb",
    "\t",
    "a\tb",
    "...",
    "--- a",
    "y",
    "NO",
    "0o7",
    "0b1",
    "1_0",
    "1e3",
    "!x",
    "&x",
    "|",
    ">",
    "a:b",
    "a: ",
    "\u0007",
    "x".repeat(200),
    "null",
    "__proto__",
    "=",
    "<<",
    "~",
    ".nan",
    "+1",
    "-.5",
  ];

  it.each(texts)("keeps %j as value, as member and as key", (text) => {
    const input = { value: text, list: [text, [text, { deep: text }]], nested: { list: [text], key: { [text]: text } } };
    expect(answer("yaml.unmarshal(yaml.marshal(input)) == input", { input })).toBe(true);
    expect(answer("yaml.unmarshal(yaml.marshal(input)) == input", { input: text })).toBe(true);
  });

  it("keeps numbers, nulls, booleans and empty collections", () => {
    const input = [0, -1, 1.5, -2.5e-9, 1e21, 123456789.25, 2 ** 53, true, false, null, [], {}, [[]], [{}], { a: [], b: {} }, [[], [[1]]]];
    expect(answer("yaml.unmarshal(yaml.marshal(input)) == input", { input })).toBe(true);
  });
});

/** Renders with variables from the input. */
function rendered(template: string, vars: JsonValue = {}, strict = false, limits: Partial<RegoLimits> = {}): JsonValue | undefined {
  return answer("strings.render_template(input.template, input.vars)", { input: { template, vars }, strict, limits });
}

const VARS = {
  name: "ann",
  n: 5,
  zero: 0,
  empty: "",
  list: ["a", "b", "c"],
  none: [],
  object: { b: 2, a: { c: "deep" } },
  yes: true,
  nothing: null,
  tag: "<b>&'\"",
};

describe("strings.render_template", () => {
  it.each<readonly [string, string]>([
    ["plain } text { {", "plain } text { {"],
    ["{{.name}} {{ .n }} {{.yes}}", "ann 5 true"],
    ["{{.object.a.c}} {{.object}} {{.list}}", "deep map[a:map[c:deep] b:2] [a b c]"],
    ["{{.missing}} {{.nothing}} {{.object.missing}}", "<undefined> <undefined> <undefined>"],
    ["a {{- /* note }} */ -}} b {{/* x */}}c", "ab c"],
    ["x \n {{- .n -}} \n y", "x5y"],
    ["\u00a0{{- 1 -}}\u00a0", "\u00a01\u00a0"],
    ["{{-5}}|{{- 5 -}}|", "-5|5|"],
    ['{{"a\\n\\"b"}} {{`raw\\n`}} {{"}}"}}', 'a\n"b raw\\n }}'],
    ["{{if .list}}full{{else}}empty{{end}}{{if .none}}full{{else}}empty{{end}}", "fullempty"],
    ["{{if .empty}}1{{else if .zero}}2{{else}}3{{end}}", "2"],
    ["{{with .object}}{{.b}}{{$.n}}{{end}}{{with .missing}}x{{else}}no{{end}}", "25no"],
    ["{{with .empty}}x{{else with .name}}{{.}}{{end}}", "ann"],
    ["{{range .list}}[{{.}}]{{end}}{{range .none}}x{{else}}none{{end}}", "[a][b][c]none"],
    ["{{range $i, $x := .list}}{{$i}}={{$x}} {{end}}", "0=a 1=b 2=c "],
    ["{{range $k, $v := .object}}{{$k}} {{end}}{{range $x := .list}}{{$x}}{{end}}", "a b abc"],
    ['{{range .list}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}}', "ac"],
    ['{{range .list}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}', "a"],
    ['{{$x := "a"}}{{if true}}{{$x = "b"}}{{$y := "c"}}{{$y}}{{end}}{{$x}}', "cb"],
    ["{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"],
    ['{{len .list}} {{len .name}} {{len .object}} {{len "\u00e9"}}', "3 3 2 2"],
    ['{{index .list 1}} {{index .object "a" "c"}} {{slice .name 1}} {{slice .list 1 2}} {{(index .list 0)}}', "b deep nn [b] a"],
    ['{{eq .name "bob" "ann"}} {{ne 1 2}} {{lt 1 2}} {{le "b" "a"}} {{gt 2.5 2}} {{ge 1 1}} {{eq .n "5"}}', "true true true false true true true"],
    ['{{and .yes .empty}}|{{or .empty .name}}|{{not .empty}}|{{and 1 2 3}}|{{or 0 ""}}', "|ann|true|3|"],
    ["{{or .yes (index .none 5)}}", "true"],
    ['{{.name | printf "%s-%q" "x"}} {{print "a" 1 2 "b"}} {{println 1 "a"}}', 'x-"ann" a1 2b 1 a\n'],
    ['{{printf "%d %v %t %% %s" 7 .list true .n}} {{printf "%s"}}', "7 [a b c] true % 5 %!s(MISSING)"],
    ['{{.tag | html}} {{.tag | js}} {{urlquery "a b&c\'"}}', "&lt;b&gt;&amp;&#39;&#34; \\u003Cb\\u003E\\u0026\\'\\\" a+b%26c%27"],
    ["{{(.object).a.c}} {{$.name}} {{with $o := .object}}{{$o.b}}{{end}}", "deep ann 2"],
    ["{{1e3}} {{1.5}} {{nil | print}} {{true}}", "1000 1.5 <nil> true"],
    ["{{range .list}}{{$.n}}{{end}}", "555"],
  ])("%j", (template, expected) => {
    expect(rendered(template, VARS, true)).toBe(expected);
  });

  it.each([
    ["{{", "unclosed action"],
    ["{{.a", "unclosed action"],
    ['{{"a}}', "unterminated quoted string"],
    ["{{/* a", "unclosed comment"],
    ["{{}}", "missing value for command"],
    ["{{if .a}}", "{{if}} has no {{end}}"],
    ["{{if .a}}{{else}}", "has no {{end}}"],
    ["{{if .a}}{{else}}{{else}}{{end}}", "has no {{end}}"],
    ["{{end}}", "unexpected {{end}}"],
    ["{{break}}", "{{break}} outside {{range}}"],
    ["{{$x}}", 'undefined variable "$x"'],
    ["{{$x = 1}}", 'undefined variable "$x"'],
    ["{{if true}}{{$x := 1}}{{end}}{{$x}}", 'undefined variable "$x"'],
    ["{{nope .name}}", 'function "nope" not defined'],
    ["{{constructor}}", 'function "constructor" not defined'],
    ["{{.name.x}}", "can't evaluate field x in a value of type string"],
    ["{{.missing.x}}", "nil pointer evaluating interface {}.x"],
    ["{{.name 1}}", "can't give argument to non-function"],
    ["{{range .name}}{{end}}", "range can't iterate over a value of type string"],
    ["{{index .list 3}}", "index out of range: 3"],
    ["{{index .list -1}}", "index out of range: -1"],
    ["{{eq .n 5}}", "incompatible types for comparison"],
    ["{{lt .list .list}}", "invalid type for comparison"],
    ["{{len .yes}}", "len of type bool"],
    ["{{1 | .name}}", "must begin with a function"],
    ["{{(1}}", "unclosed left parenthesis"],
    ["{{1)}}", "unexpected"],
    ['{{template "x"}}', "not supported"],
    ['{{define "x"}}{{end}}', "not supported"],
    ['{{printf "%x" 1}}', "the verb %x is not supported"],
    ['{{printf "%d" "a"}}', "cannot print a value of type string"],
    ["{{ # }}", 'unexpected "#"'],
    ["a\nb\n{{nope", "template:3:"],
  ])("%j is refused", (template, why) => {
    expect(rendered(template, VARS)).toBeUndefined();
    expect(rendered(template, VARS, true)).toContain(why);
  });

  it("has no way to members that are not there", () => {
    expect(rendered("{{.__proto__}} {{.constructor}} {{.object.toString}}", VARS)).toBe("<undefined> <undefined> <undefined>");
  });

  it("loops within loops meet a limit", () => {
    const list = Array.from({ length: 1000 }, () => "x".repeat(100));
    expect(rendered("{{range $.l}}{{range $.l}}{{range $.l}}{{.}}{{end}}{{end}}{{end}}", { l: list })).toMatch(/^ERR_REGO_LIMIT_/);
    expect(rendered("{{$s := `x`}}{{range .l}}{{$s = print $s $s}}{{end}}{{$s}}", { l: list })).toMatch(/^ERR_REGO_LIMIT_/);
  });

  it("functions are charged for the texts they look through, and loops for all they could walk", () => {
    const list = Array.from({ length: 1000 }, (_, at) => at);
    const long = "x".repeat(10_000);
    const limits = { maxSteps: 100_000 };
    for (const use of ["len $.long", "slice $.long 1 2", "eq $.long $.other"]) {
      const template = `{{range .list}}{{$x := ${use}}}{{end}}`;
      expect(rendered(template, { list, long: "xxx", other: "" }, false, limits)).toBe("");
      expect(rendered(template, { list, long, other: `${long}y` }, false, limits)).toContain("ERR_REGO_LIMIT_STEPS");
    }
    expect(rendered("{{range .list}}{{range $.list}}{{break}}{{end}}{{end}}", { list }, false, limits)).toContain("ERR_REGO_LIMIT_STEPS");
  });

  it("nesting is bounded, in actions and in pipelines, by a limit that no `not` turns into true", () => {
    expect(rendered(`${"{{if true}}".repeat(5000)}${"{{end}}".repeat(5000)}`, {})).toContain("ERR_REGO_LIMIT_NESTING");
    expect(rendered(`{{if true}}a{{else if true}}${"{{else if true}}".repeat(5000)}{{end}}`, {})).toContain("ERR_REGO_LIMIT_NESTING");
    expect(rendered(`{{${"(".repeat(5000)}1${")".repeat(5000)}}}`, {})).toContain("ERR_REGO_LIMIT_NESTING");
  });
});

failures("operands", answer, [
  ["yaml.unmarshal(1)", "operand 1 must be string but got number"],
  ["strings.render_template(1, {})", "operand 1 must be string but got number"],
  ['strings.render_template("", [])', "operand 2 must be object but got array"],
  ['strings.render_template("{{.s}}", {"s": {1}})', "a set has no JSON form"],
]);

table("yaml.is_valid", answer, [
  ["yaml.is_valid(1)", false],
  ['yaml.is_valid("a: [1]")', true],
  ['yaml.is_valid("a: [1")', false],
]);
