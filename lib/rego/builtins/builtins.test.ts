import { describe, expect, it } from "vitest";
import { codeOf, expression, valueOf } from "../test-support.ts";

function table(name: string, rows: readonly (readonly [string, unknown])[]): void {
  describe(name, () => {
    it.each(rows)("%s", (text, expected) => {
      expect(expression(text, { input: { n: null, s: "\u{1f600}", nul: "a\u0000b" }, clock: { now: () => 1_700_000_000_123 } })).toEqual(expected);
    });
  });
}

table("strings", [
  ['count("h\\u00e9llo")', 5],
  ["count(input.s)", 1],
  ["count(input.n)", undefined],
  ["count([1, 2])", 2],
  ["count({1})", 1],
  ['count({"a": 1})', 1],
  ['concat(",", ["a", "b"])', "a,b"],
  ['concat(",", {"b", "a"})', "a,b"],
  ['concat(",", [1])', undefined],
  ['contains("abc", "")', true],
  ['startswith("abc", "ab")', true],
  ['endswith("abc", "bc")', true],
  ['startswith(1, "a")', undefined],
  ['strings.any_prefix_match(["x", "ab"], {"a"})', true],
  ['strings.any_suffix_match("xa", "b")', false],
  ['indexof("h\\u00e9llo", "l")', 2],
  ['indexof(concat("", [input.s, "x"]), "x")', 1],
  ['indexof("abc", "z")', -1],
  ['indexof("abc", "")', undefined],
  ['indexof_n("abab", "b")', [1, 3]],
  ['lower("\\u00c0B")', "\u00e0b"],
  ['lower("\\u0130")', "i"],
  ['upper("stra\\u00dfe")', "STRA\u00dfE"],
  ['replace("aaa", "a", "b")', "bbb"],
  ['replace("abc", "", "-")', "-a-b-c-"],
  ['replace("a$(x)b", "$(x)", "$&")', "a$&b"],
  ['strings.replace_n({"a": "b", "b": "c"}, "ab")', "bc"],
  ['strings.reverse("a\\u00e9")', "\u00e9a"],
  ['strings.count("aaaa", "aa")', 2],
  ['strings.count("abc", "")', 4],
  ['split("a,b,", ",")', ["a", "b", ""]],
  ['split("abc", "")', ["a", "b", "c"]],
  ['split("", ",")', [""]],
  ['substring("h\\u00e9llo", 1, 2)', "\u00e9l"],
  ['substring("hello", 2, -1)', "llo"],
  ['substring("hello", 10, 2)', ""],
  ['substring("hello", -1, 2)', undefined],
  ['substring("hello", 3, 100)', "lo"],
  ['trim("  xx ", " ")', "xx"],
  ['trim_left("aab", "a")', "b"],
  ['trim_right("baa", "a")', "b"],
  ['trim_prefix("aab", "a")', "ab"],
  ['trim_suffix("baa", "a")', "ba"],
  ['trim_space(" \\t\\n x\\u00a0")', "x"],
  ["format_int(255, 16)", "ff"],
  ["format_int(-5.5, 10)", "-5"],
  ["format_int(1, 3)", undefined],
]);

table("sprintf", [
  ['sprintf("%d %v %s %5.2f %x %q %t %%", [10, 1.5, "s", 3.14159, 255, "q\\"", true])', '10 1.5 s  3.14 ff "q\\"" %!t(string=true) %'],
  ['sprintf("%d", [1.5])', "%!d(float64=1.5)"],
  ['sprintf("%v %v %v", [{"a": [1, "x"]}, {1, "b"}, null])', '{"a": [1, "x"]} {1, "b"} null'],
  ['sprintf("%d %d", [1])', "1 %!d(MISSING)"],
  ['sprintf("%d", [1, 2])', "1%!(EXTRA int64=2)"],
  ['sprintf("%s", [1])', "%!s(int64=1)"],
  ['sprintf("%s", [18446744073709551615])', "18446744073709551615"],
  ['sprintf("[%5d|%-5d|%05d|%+d|% d]", [1, 2, 3, 4, 5])', "[    1|2    |00003|+4| 5]"],
  ['sprintf("%08.3f %e %g", [3.14159, 123456.5, 0.00001])', "0003.142 1.234565e+05 1e-05"],
  ['sprintf("%.0f %.0f", [2.5, 3.5])', "2 4"],
  ['sprintf("%[2]d %[1]d", [1, 2])', "2 1"],
  ['sprintf("%*d", [5, 1])', "    1"],
  ['sprintf("%x %X", ["hi", "hi"])', "6869 6869"],
  ['sprintf("%c %U %#x %b %o", [233, 233, 255, 5, 8])', "\u00e9 U+00E9 0xff 101 10"],
  ['sprintf("%", [])', "%!(NOVERB)"],
  ['sprintf("%z", [1])', "%!z(int64=1)"],
  ['sprintf("%T %5s|%.2s", ["a", "b", "\\u00e9\\u00e9\\u00e9"])', "string     b|\u00e9\u00e9"],
  ['sprintf("%v", 1)', undefined],
]);

table("regex", [
  ['regex.match("^a+$", "aaa")', true],
  ['regex.match("(?i)A", "a")', true],
  // Perl classes are ASCII in RE2; `$` is the end of the text only; `.` has no line feed and takes whole code points.
  ['regex.match("^\\\\d$", "\\u0663")', false],
  ['regex.match("^\\\\w$", "\\u00e9")', false],
  ['regex.match("^\\\\pL$", "\\u00e9")', true],
  ['regex.match("^a$", "a\\n")', false],
  ['regex.match("^a.b$", "a\\nb")', false],
  ['regex.match("^.$", input.s)', true],
  ['regex.match("^\\\\Qa.b\\\\E$", "a.b")', true],
  ['regex.match("^a{,2}$", "a{,2}")', true],
  ['regex.match("^a\\\\-b$", "a-b")', true],
  ['regex.is_valid("(")', false],
  ["regex.is_valid(1)", false],
  ['regex.is_valid("(?=a)")', false],
  ['regex.find_n("a.", "abacad", 2)', ["ab", "ac"]],
  ['regex.find_n("a*", "baac", -1)', ["", "aa", ""]],
  ['regex.find_n("a", "aaa", 0)', []],
  [
    'regex.find_all_string_submatch_n("a(b*)(c)?", "abbac", -1)',
    [
      ["abb", "bb", ""],
      ["ac", "", "c"],
    ],
  ],
  ['regex.find_all_string_submatch_n("x(y)", "zzz", 1)[0][1]', undefined],
  ['regex.replace("foobar", "o(.)", "$1$1x")', "fobar"],
  ['regex.replace("abc", "(?P<l>b)", "<${l}>$$")', "a<b>$c"],
  ['regex.replace("abc", "", "-")', "-a-b-c-"],
  ['regex.split("[,;]", "a,b;c")', ["a", "b", "c"]],
  ['regex.split("", "ab")', ["a", "b"]],
]);

table("numbers", [
  ["[round(2.5), round(-2.5), round(0.5), ceil(-1.5), floor(-1.5), abs(-3)]", [3, -3, 1, -1, -2, 3]],
  ["[bits.and(12, 10), bits.or(12, 10), bits.xor(12, 10), bits.negate(0), bits.lsh(1, 70), bits.rsh(-8, 1)]", [8, 14, 6, -1, 1180591620717411303424n, -4]],
  ["bits.negate(128)", -129],
  ["bits.and(128, bits.negate(128))", 0],
  ["bits.and(1.5, 1)", undefined],
  ["bits.lsh(1, -1)", undefined],
  ["numbers.range(1, 3)", [1, 2, 3]],
  ["numbers.range(3, 1)", [3, 2, 1]],
  ["numbers.range_step(1, 6, 2)", [1, 3, 5]],
  ["numbers.range_step(1, 6, 0)", undefined],
  ["sum([1, 0.1, 0.2])", 1.3],
  ["product({2, 3})", 6],
  ['sum([1, "a"])', undefined],
  ["[max([1, 3, 2]), min({3, 2})]", [3, 2]],
  ["max([])", undefined],
  ['sort([3, "a", 1])', [1, 3, "a"]],
]);

table("to_number", [
  ['to_number("1e3")', 1000],
  ['to_number("-0")', 0],
  ["to_number(true)", 1],
  ["to_number(null)", 0],
  ['to_number("007")', 7],
  ['to_number("+1")', 1],
  ['to_number(".5")', 0.5],
  ['to_number("18446744073709551615")', 18446744073709551615n],
  ...['"a"', '""', '" 1"', '"1 "', '"0x10"', '"0b1"', '"1_000"', '"Infinity"', '"NaN"', '"1e400"', '"1e"', '"."', '"--1"', "[]"].map(
    (text) => [`to_number(${text})`, undefined] as const,
  ),
]);

table("sets and arrays", [
  ["{1, 2} | {3}", [1, 2, 3]],
  ["{1, 2} & {2}", [2]],
  ["{1, 2} - {2}", [1]],
  ["{1} - 1", undefined],
  ["1 | 0", undefined],
  ["union({{1}, {2}})", [1, 2]],
  ["intersection({{1, 2}, {2}})", [2]],
  ["intersection(set())", []],
  ["array.concat([1], [2])", [1, 2]],
  ["array.slice([1, 2, 3], -1, 2)", [1, 2]],
  ["array.slice([1, 2, 3], 2, 1)", []],
  ["array.reverse([1, 2])", [2, 1]],
  ["array.flatten([1, [2, [3]]])", [1, 2, [3]]],
]);

table("objects", [
  ['object.get({"a": {"b": 1}}, ["a", "b"], 0)', 1],
  ['object.get({"a": 1}, "b", 9)', 9],
  ['object.get({"a": 1}, ["a", "b"], 7)', 7],
  ['object.get({"a": false}, "a", 7)', false],
  ['object.keys({"a": 1, 2: 3})', [2, "a"]],
  ['object.union({"a": {"b": 1}}, {"a": {"c": 2}})', { a: { b: 1, c: 2 } }],
  ['object.union_n([{"a": 1}, {"a": 2, "b": 3}])', { a: 2, b: 3 }],
  ['object.remove({"a": 1, "b": 2}, ["a"])', { b: 2 }],
  ['object.filter({"a": 1, "b": 2}, {"a"})', { a: 1 }],
  ['object.subset({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}})', true],
  ["object.subset([1, 2, 3], [2, 3])", true],
  ["object.subset({1}, {1, 2})", false],
  ['json.filter({"a": {"b": 1, "c": 2}}, ["a/b"])', { a: { b: 1 } }],
  ['json.remove({"a": {"b": 1, "c": 2}}, [["a", "b"]])', { a: { c: 2 } }],
  // Steps are values; only an array takes its index, and only as text.
  ['json.filter({"a": [1, [2, 3]]}, [["a", "1", "0"]])', { a: [[2]] }],
  ['json.filter({"a": [1, 2]}, [["a", 1]])', { a: [] }],
  ['json.filter({"a": {{"x"}, {8, 9}}}, [["a", {"x"}]])', { a: [["x"]] }],
  ['json.filter({"a": {{"x"}, {8, 9}}}, [["a", {8, 9}, 9]])', { a: [[9]] }],
  ['json.filter({"a": {1: 2, "1": 3}}, ["a/1"]) == {"a": {"1": 3}}', true],
  ['json.filter({"a": 5}, ["a/b"])', { a: 5 }],
  ['json.filter({"a": {"b": 1, "c": 2}}, ["a/b", "a"])', { a: { b: 1, c: 2 } }],
  ['json.filter({"a/b": 1, "": 2}, ["a~1b"])', { "a/b": 1 }],
  ['json.filter({"a": 1, "": 2}, ["/"])', { "": 2 }],
  ['json.filter({"a": 1}, [""])', {}],
  ['json.filter({"__proto__": 1, "a": 2}, ["constructor", "__proto__"]) == {"__proto__": 1}', true],
  ['json.remove({"a": [1, 2]}, [["a", 1]])', { a: [1, 2] }],
  ['json.remove({"a": {{"x"}, {8, 9}}}, [["a", {8, 9}, 9], ["a", {"x"}]])', { a: [[8]] }],
  ['json.remove({"a": 5}, ["a/b", ""])', { a: 5 }],
  ['json.remove({"a": {"b": 1}}, ["a", "a/b"])', {}],
  ['json.patch({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}, {"op": "remove", "path": "/a/0"}])', { a: [2] }],
  ['json.patch({"a": 1}, [{"op": "remove", "path": "/b"}])', undefined],
  ['json.patch({"a": 1}, [{"op": "test", "path": "/a", "value": 2}])', undefined],
  ['json.patch({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "move", "from": "/a", "path": "/c"}])', { b: 1, c: 1 }],
  [
    '[[path, v] | walk({"a": [1]}, [path, v])]',
    [
      [[], { a: [1] }],
      [["a"], [1]],
      [["a", 0], 1],
    ],
  ],
  ['{q | walk({"a": {"b": 3}}, [q, 3])}', [["a", "b"]]],
]);

table("encodings", [
  ['base64.encode("hi?>")', "aGk/Pg=="],
  ['base64.decode("aGk/Pg==")', "hi?>"],
  ['base64.decode("aGk=\\n")', "hi"],
  ['base64.decode("aGk")', undefined],
  ['base64.decode("***")', undefined],
  ['base64.decode("/w==")', "\ufffd"],
  ['base64.is_valid("aGk=")', true],
  ['base64.is_valid("a")', false],
  ['base64url.encode("hi?>")', "aGk_Pg=="],
  ['base64url.encode_no_pad("h")', "aA"],
  ['base64url.decode("aGk_Pg")', "hi?>"],
  ['hex.encode("ab")', "6162"],
  ['hex.decode("6162")', "ab"],
  ['hex.decode("6")', undefined],
  ['json.marshal({"b": 1, "a": {3, 1}, "<": [18446744073709551615, null]})', '{"\\u003c":[18446744073709551615,null],"a":[1,3],"b":1}'],
  ['json.unmarshal("{\\"a\\": [1.5, 18446744073709551615, null]}")', { a: [1.5, 18446744073709551615n, null] }],
  ['json.unmarshal("{\\"a\\":1,\\"a\\":2}")', { a: 2 }],
  ['json.unmarshal("{\\"__proto__\\":1}")["__proto__"]', 1],
  ...['""', '"{"', '"[1,]"', '"01"', '"1 2"', '"\\"\\u0001\\""', '"nul"', '"[1e]"'].map((text) => [`json.unmarshal(${text})`, undefined] as const),
  ['json.is_valid("[1]")', true],
  ['json.is_valid("[1")', false],
  ['json.marshal_with_options([1], {"indent": " ", "pretty": true})', "[\n 1\n]"],
  ['urlquery.encode("a b&\\u00e9")', "a+b%26%C3%A9"],
  ['urlquery.decode("a+b%26")', "a b&"],
  ['urlquery.decode("%2")', undefined],
  ['urlquery.encode_object({"a": ["1", "2"], "b": "x"})', "a=1&a=2&b=x"],
  ['urlquery.decode_object("a=1&a=2&b")', { a: ["1", "2"], b: [""] }],
  ['crypto.sha256("a")', "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"],
  ['crypto.hmac.equal("a", "a")', true],
]);

table("types", [
  [
    '[type_name(set()), type_name({}), type_name(null), type_name(1), type_name(""), type_name([]), type_name(true)]',
    ["set", "object", "null", "number", "string", "array", "boolean"],
  ],
  [
    "[is_null(null), is_null(0), is_set({1}), is_object({1}), is_array([]), is_string(1), is_number(1), is_boolean(false)]",
    [true, false, true, false, true, false, true, true],
  ],
]);

table("versions, globs, units, graphs", [
  ['semver.compare("1.2.3", "1.10.0")', -1],
  ['semver.compare("1.0.0-alpha.1", "1.0.0-alpha.beta")', -1],
  ['semver.compare("1.0.0-alpha", "1.0.0")', -1],
  ['semver.compare("1.0.0+a", "1.0.0+b")', 0],
  // Numbers beyond any integer type, leading zeros and all.
  [`semver.compare("1.0.0-${"9".repeat(40)}", "1.0.0-1${"0".repeat(40)}")`, -1],
  [`semver.compare("1.0.0-1${"0".repeat(40)}", "1.0.0-${"0".repeat(9)}${"9".repeat(40)}")`, 1],
  ['semver.compare("1.0.0-10", "1.0.0-9")', 1],
  ['semver.compare("1.0.0-007", "1.0.0-7")', 0],
  ['semver.compare("1.2", "1.0.0")', undefined],
  ['semver.is_valid("1.2")', false],
  ['glob.match("*.com", ["."], "a.com")', true],
  ['glob.match("*.com", [], "a.b.com")', false],
  ['glob.match("**.com", ["."], "a.b.com")', true],
  ['glob.match("*.com", null, "a.b.com")', true],
  ['glob.match("{a,b[!c]}?", [], "bdx")', true],
  ['glob.match("a(b", [], "a(b")', true],
  ['glob.match("[", [], "a")', undefined],
  ['glob.quote_meta("*.x")', "\\*.x"],
  ['[units.parse("1.5K"), units.parse("100m"), units.parse_bytes("10Ei"), units.parse_bytes("1KB")]', [1500, 0.1, 11529215046068469760n, 1000]],
  ['units.parse("1 K")', undefined],
  ['graph.reachable({"a": ["b"], "b": ["a"], "c": []}, ["a"])', ["a", "b"]],
]);

table("time and host", [
  ["time.now_ns()", 1700000000123000000n],
  ['time.parse_rfc3339_ns("1985-04-12T23:20:50.52Z")', 482196050520000000n],
  ['time.parse_rfc3339_ns("1996-12-19T16:39:57-08:00")', 851042397000000000n],
  ['time.parse_rfc3339_ns("1996-02-30T16:39:57Z")', undefined],
  ['time.parse_rfc3339_ns("1996-12-19 16:39:57Z")', undefined],
  ['time.parse_duration_ns("1h0.5s")', 3600500000000],
  ['time.parse_duration_ns("1x")', undefined],
  ["opa.runtime()", {}],
  ['trace("x")', true],
]);

describe("strict builtin errors", () => {
  it("abort the query, with the kind of the failure", () => {
    const strict = { strictBuiltinErrors: true };
    expect(codeOf(() => valueOf('p := to_number("a")', {}, strict))).toBe("ERR_REGO_BUILTIN");
    expect(codeOf(() => valueOf("p := 1 / 0", {}, strict))).toBe("ERR_REGO_BUILTIN");
    expect(codeOf(() => valueOf("p if not count(1)", {}, strict))).toBe("ERR_REGO_OPERAND");
    expect(valueOf("p if not count(1)")).toBe(true);
  });
});

describe("host functions", () => {
  it("are called with JSON and may be undefined", () => {
    const hostFunctions = [{ name: "query_reference_value", arity: 1, call: (name: unknown) => (name === "a" ? ["x", { y: 1 }] : undefined) }];
    expect(valueOf('p if "x" in query_reference_value("a")', {}, { hostFunctions })).toBe(true);
    expect(valueOf('p := query_reference_value("a")[1].y', {}, { hostFunctions })).toBe(1);
    expect(valueOf('p := query_reference_value("b")', {}, { hostFunctions })).toBeUndefined();
    expect(codeOf(() => valueOf("p := query_reference_value(1, 2, 3)", {}, { hostFunctions }))).toBe("ERR_REGO_TYPE");
    expect(codeOf(() => valueOf("p := 1", {}, { hostFunctions: [{ name: "count", arity: 1, call: () => 1 }] }))).toBe("ERR_REGO_TYPE");
  });
});
