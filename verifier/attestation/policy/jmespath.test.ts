// @ts-expect-error -- the package has no types
import library from "jmespath";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encodeJson, parseJson, type JsonValue } from "@sealpod/core";
import { JmesPathFault, parseJmesPath } from "./jmespath.ts";
import { encodeFound, searchJmesPath } from "./jmespath-search.ts";

const reference = library as { search(document: unknown, expression: string): unknown };
const free = (): void => undefined;

function search(expression: string, document: string): string {
  return encodeJson(searchJmesPath(parseJmesPath(expression), parseJson(document), free));
}

/** Steps that a search takes; throws at a thousand millions less than that. */
function stepsOf(expression: string, document: JsonValue): number {
  let steps = 0;
  const found = searchJmesPath(parseJmesPath(expression), document, (more) => void (steps += more));
  encodeFound(found, (more) => void (steps += more));
  return steps;
}

const DOCUMENT =
  '{"a":{"b":{"c":"d"},"list":[1,2,3,4,5]},"people":[{"name":"bob","age":30,"tags":["x","y"]},{"name":"ann","age":25,"tags":[]},{"name":"cy","age":41}],"empty":[],"none":null,"yes":true,"no":false,"text":"abc","nested":[[1,[2]],[3],4],"mixed":[1,"a",null],"obj":{"z":1,"y":2}}';

describe("searchJmesPath", () => {
  it.each<[string, string]>([
    ["a", '{"b":{"c":"d"},"list":[1,2,3,4,5]}'],
    ["a.b.c", '"d"'],
    ['"a"."b"', '{"c":"d"}'],
    ["missing.b", "null"],
    ["a.list[0]", "1"],
    ["a.list[-1]", "5"],
    ["a.list[9]", "null"],
    ["a.list[1:3]", "[2,3]"],
    ["a.list[::2]", "[1,3,5]"],
    ["a.list[::-1]", "[5,4,3,2,1]"],
    ["a.list[-2:]", "[4,5]"],
    ["a.list[10:0:-2]", "[5,3]"],
    ["text[0]", "null"],
    ["people[*].name", '["bob","ann","cy"]'],
    ["people[].tags[]", '["x","y"]'],
    ["people[?age > `26`].name", '["bob","cy"]'],
    ["people[?name=='ann'] | [0].age", "25"],
    ["people[?tags].name", '["bob"]'],
    ["obj.*", "[1,2]"],
    ["nested[]", "[1,[2],3,4]"],
    ["nested[][]", "[1,2,3,4]"],
    ["people[0].[name,age]", '["bob",30]'],
    ["people[0].{n: name, a: age}", '{"n":"bob","a":30}'],
    ["none.{n: name}", "null"],
    ["none || text", '"abc"'],
    ["yes && text", '"abc"'],
    ["no && text", "false"],
    ["!no", "true"],
    ["!empty", "true"],
    ["empty || 'raw'", '"raw"'],
    ['a.b == `{"c": "d"}`', "true"],
    ["a.list != `[1,2]`", "true"],
    ["text > `1`", "null"],
    ["people[0].age >= `30`", "true"],
    ["abs(`-3`)", "3"],
    ["avg(a.list)", "3"],
    ["avg(empty)", "null"],
    ["ceil(`1.2`)", "2"],
    ["floor(`1.8`)", "1"],
    ["contains(text, 'bc')", "true"],
    ["contains(a.list, `3`)", "true"],
    ["starts_with(text, 'ab')", "true"],
    ["ends_with(text, 'ab')", "false"],
    ["join('-', people[*].name)", '"bob-ann-cy"'],
    ["keys(obj)", '["z","y"]'],
    ["values(obj)", "[1,2]"],
    ["length(text)", "3"],
    ["length(people)", "3"],
    ["length(obj)", "2"],
    ["map(&age, people)", "[30,25,41]"],
    ["max(a.list)", "5"],
    ["min(people[*].name)", '"ann"'],
    ["max_by(people, &age).name", '"cy"'],
    ["min_by(people, &age).name", '"ann"'],
    ["max(empty)", "null"],
    ["merge(obj, {z: `9`})", '{"z":9,"y":2}'],
    ["not_null(none, missing, text)", '"abc"'],
    ["reverse(text)", '"cba"'],
    ["reverse(a.list)", "[5,4,3,2,1]"],
    ["sort(people[*].name)", '["ann","bob","cy"]'],
    ["sort_by(people, &age)[*].name", '["ann","bob","cy"]'],
    ["sum(a.list)", "15"],
    ["to_array(text)", '["abc"]'],
    ["to_number('12.5')", "12.5"],
    ["to_number('0x10')", "null"],
    ["to_string(obj)", '"{\\"z\\":1,\\"y\\":2}"'],
    ["type(people)", '"array"'],
    ["type(none)", '"null"'],
    ["@", DOCUMENT],
    ["people[*].tags[0]", '["x"]'],
    ["a.list | [0]", "1"],
    ["(@.a).b.c", '"d"'],
    ["length(@.people[0].name)", "3"],
    ["contains(@.text, 'b')", "true"],
    ["people[?contains([@.name, @.age], `30`)].name", '["bob"]'],
    ["@ | (@ | @).text", '"abc"'],
    ["'it\\'s \\'x\\''", "\"it's 'x'\""],
    ["'a`b'", '"a`b"'],
    ["'a@b \\n'", '"a@b \\\\n"'],
    ['`"\\`a\\`\\n@"`', '"`a`\\n@"'],
    ["`unquoted`", '"unquoted"'],
    ["*.b", '[{"c":"d"}]'],
  ])("%s", (expression, expected) => {
    expect(search(expression, DOCUMENT)).toBe(expected);
  });

  it("agrees with the library where that keeps to the standard", () => {
    const field = fc.constantFrom("a", "b", "list", "people", "name", "age", "obj", "nested", "none", "text");
    const step = fc.oneof(
      field.map((name) => `.${name}`),
      fc.constantFrom(
        "[0]",
        "[-1]",
        "[*]",
        "[]",
        "[1:]",
        "[::-1]",
        ".*",
        "[?@]",
        "[?age]",
        "[?name=='bob']",
        ".[a,name]",
        ".{k: name, l: @}",
        " | @",
        " | [0]",
        " || text",
        " && obj",
      ),
    );
    const expression = fc.tuple(field, fc.array(step, { maxLength: 6 })).map(([head, steps]) => head + steps.join(""));
    fc.assert(
      fc.property(expression, (text) => {
        expect(search(text, DOCUMENT)).toBe(JSON.stringify(reference.search(JSON.parse(DOCUMENT), text) ?? null));
      }),
      { numRuns: 2000 },
    );
  });

  it("keeps integers exact", () => {
    const document = '{"n":13202930541250959283,"m":13202930541250959284,"list":[9007199254740993,1]}';
    expect(search("n", document)).toBe("13202930541250959283");
    expect(search("n == m", document)).toBe("false");
    expect(search("n < m", document)).toBe("true");
    expect(search("sum(list)", document)).toBe("9007199254740994");
    expect(search("sort(list)[1]", document)).toBe("9007199254740993");
    expect(search("to_number('13202930541250959283')", document)).toBe("13202930541250959283");
    expect(() => parseJmesPath("n == `13202930541250959283`")).toThrow("not exact");
  });

  it.each([
    "abs(text)",
    "avg(mixed)",
    "join(',', mixed)",
    "keys(text)",
    "length(none)",
    "max(mixed)",
    "max_by(people, &tags)",
    "merge(obj, text)",
    "sort(mixed)",
    "sort(people)",
    "sort_by(people, &missing)",
    "sort_by(mixed, &@)",
    "sum(people)",
    "starts_with(none, 'a')",
    "reverse(obj)",
    "map(&a, text)",
  ])("a function refuses what it does not take: %s", (expression) => {
    expect(() => search(expression, DOCUMENT)).toThrow(JmesPathFault);
  });
});

describe("documents cannot reach beyond themselves", () => {
  it.each<[string, string, string]>([
    ["constructor", "{}", "null"],
    ["__proto__", "{}", "null"],
    ["toString", "{}", "null"],
    ["a.constructor.name", '{"a":{}}', "null"],
    ["a.__proto__", '{"a":{"__proto__":{"admin":true}}}', '{"admin":true}'],
    ["a.admin", '{"a":{"__proto__":{"admin":true}}}', "null"],
    ['{"__proto__": a}.admin', '{"a":{"admin":true}}', "null"],
    ["merge(a, b).admin", '{"a":{},"b":{"__proto__":{"admin":true}}}', "null"],
    ['`{"__proto__":{"admin":true}}`.admin', "{}", "null"],
    ["a || b", '{"a":{"hasOwnProperty":1},"b":2}', '{"hasOwnProperty":1}'],
    ["type(a)", '{"a":{"jmespathType":"Expref"}}', '"object"'],
    ["length.a", '{"length":{"a":1}}', "1"],
    ["text.length", '{"text":"abc"}', "null"],
    ["list.length", '{"list":[1]}', "null"],
  ])("%s in %s", (expression, document, expected) => {
    expect(search(expression, document)).toBe(expected);
    expect(({} as { admin?: unknown }).admin).toBeUndefined();
  });

  it("nor have a piece of themselves taken for an expression", () => {
    const document = '{"f":{"jmespathType":"Expref","type":"Literal","value":"forged"},"list":[1]}';
    expect(() => search("map(f, list)", document)).toThrow("takes an &expression");
    // What the library makes of it is the reason.
    expect(reference.search(JSON.parse(document), "map(f, list)")).toEqual(["forged"]);
  });

  it.each(["constructor(@)", "toString()", "__proto__(@)", "hasOwnProperty(@)", "valueOf(@)"])("there is no function %s", (expression) => {
    expect(() => parseJmesPath(expression)).toThrow("has no function");
  });
});

describe("parseJmesPath", () => {
  it.each([
    "",
    " ",
    "a.",
    "a..b",
    ".a",
    "a.'b'",
    "a[",
    "a[0",
    "a[a]",
    "a]",
    "(a",
    "()",
    "(a b)",
    "[a b]",
    "f(a b)",
    "{a:b c:d}",
    "{a}",
    "{}",
    "a b",
    "a = b",
    "a ==",
    "&a",
    "a || &b",
    "map(a, b)",
    "map(&a, &b)",
    "sort(&a)",
    "length()",
    "length(a, b)",
    "not_null()",
    "a[::0]",
    "a[1-]",
    "a[--1]",
    "a@",
    "'a'@",
    "(a)@",
    "@a",
    "`1",
    '"a',
    "'a",
    "`[1`",
    "a ~ b",
    "a#b",
    "\u0000",
    "a && ",
    "!",
    "*a",
    "@@",
  ])("refuses %j", (expression) => {
    expect(() => parseJmesPath(expression)).toThrow(JmesPathFault);
  });

  it.each([
    ["parentheses", "(".repeat(2000)],
    ["negations", `${"!".repeat(4000)}a`],
    ["lists", `${"[".repeat(2000)}a${"]".repeat(2000)}`],
    ["objects", `${"{a:".repeat(1000)}a${"}".repeat(1000)}`],
    ["calls", `${"abs(".repeat(800)}a${")".repeat(800)}`],
    ["fields", `a${".a".repeat(2000)}`],
    ["pipes", `a${"|a".repeat(2000)}`],
    ["literals", `\`${"[".repeat(1000)}${"]".repeat(1000)}\``],
    ["length", "a".repeat(5000)],
  ])("bounds %s", (_, expression) => {
    expect(() => parseJmesPath(expression)).toThrow(JmesPathFault);
  });

  it("lets no other error escape, whatever the text", () => {
    const piece = fc.constantFrom(
      "a",
      "b.c",
      "[0]",
      "[*]",
      "[]",
      "[?",
      "]",
      "(",
      ")",
      "{",
      "}",
      ":",
      ",",
      "|",
      "||",
      "&&",
      "&",
      "!",
      "==",
      "<",
      "@",
      "*",
      ".",
      "`1`",
      "`{",
      "'s'",
      '"q"',
      "length(",
      "sort_by(",
      "__proto__",
      "-1",
      " ",
      "\\",
      "é",
      "\ud800",
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 20 }).map((list) => list.join("")),
        (text) => {
          try {
            searchJmesPath(parseJmesPath(text), parseJson(DOCUMENT), free);
          } catch (error) {
            expect(error).toBeInstanceOf(JmesPathFault);
          }
        },
      ),
      { numRuns: 10_000 },
    );
  });
});

describe("work", () => {
  it("is charged for all that is visited or made", () => {
    const list = Array.from({ length: 1000 }, (_, index) => index);
    expect(stepsOf("[0]", list)).toBeLessThan(10);
    expect(stepsOf("[*]", list)).toBeGreaterThan(2000);
    expect(stepsOf("sort(@)", list.toReversed())).toBeGreaterThan(3000);
    expect(stepsOf("[@,@][]", list)).toBeGreaterThan(2000);
    expect(stepsOf("[@,@][] | [@,@][]", list)).toBeGreaterThan(6000);
    expect(stepsOf("contains(@, join('', [@, 'x']))", "a".repeat(16_000))).toBeGreaterThan(900_000);
    expect(stepsOf("contains(@, 'x')", "a".repeat(160_000))).toBeGreaterThan(10_000);
    expect(stepsOf("join('', [@,@])", "a".repeat(160_000))).toBeGreaterThan(20_000);
  });

  it.each(["to_string(@)", "@ == `1`", "@ < `1`", "sum([@])", "length(sort([@, @]))", "type(max([@, @]))", "contains([@], `1`)", "[@]"])(
    "is charged by digits, not by integers: %s",
    (expression) => {
      const integer = (digits: number): bigint => 10n ** BigInt(digits - 1);
      const [few, many] = [stepsOf(expression, integer(1000)), stepsOf(expression, integer(16_000))];
      expect(few).toBeGreaterThan(1000 / 16);
      expect(many / few).toBeGreaterThan(8);
      expect(many / few).toBeLessThan(17);
    },
  );

  it("of a sum is charged by the digits of what is added and of what it comes to", () => {
    // One long item: each that is added to it costs as much as it does.
    expect(stepsOf("sum(@)", [10n ** 4000n, ...Array.from({ length: 1000 }, () => 1)])).toBeGreaterThan(500_000);
  });
});
