import { describe, expect, it } from "vitest";
import type { JsonValue } from "@sealpod/core";
import { compile } from "./index.ts";
import { measureGrowth } from "../../tools/testing/growth.ts";
import { codeOf, errorOf, valueOf } from "./test-support.ts";

// What an attacker can choose: the input (the host), and the policy (its author). For each the verdict is right or a
// limit says no, and time grows with size and not faster. Growth is measured; absolute times are not looked at.

/** Highest exponent of time against size that counts as linear. */
const LINEAR = 1.2;

/** Rules as a generated agent policy has them, reduced to what is compared with the request. */
const POD_RULES = `
default allow := false

allow if {
	some container in policy.containers
	container.image == input.image
	every variable in input.env { allow_variable(container, variable) }
	every mount in input.mounts {
		some known in container.mounts
		known.destination == mount.destination
		regex.match(known.source, mount.source)
	}
}

allow_variable(container, variable) if variable in container.env

allow_variable(container, variable) if {
	some known in container.env
	regex.match(replace(known, "$(node)", "[a-z]{1,20}"), variable)
}

policy := {"containers": [{
	"image": "app",
	"env": ["A=1", "PATH=/bin", "HOST=$(node)", "^PORT_[0-9]{1,5}=(tcp|udp)$"],
	"mounts": [{"destination": "/data", "source": "^/run/[a-z]+/data$"}],
}]}
`;

function strings(count: number, make: (at: number) => string): string[] {
  return Array.from({ length: count }, (_, at) => make(at));
}

/** A number that does not tell those before and after it. */
function scattered(at: number): number {
  return (((at + 1) * 2_654_435_761) % 2 ** 32) >>> 8;
}

describe("hostile policies", () => {
  it.each([
    ["arrays", "[", "]"],
    ["sets and objects", "{", "}"],
    ["parentheses", "(", ")"],
    ["comprehensions", "[1 | ", "]"],
    ["object values", '{"a": ', "}"],
    ["calls", "count([", "])"],
    ["template strings", '$"{', '}"'],
    ["references", "input[", "]"],
  ])("%s nested 10 000 deep are refused by the limit on nesting", (_name, open, close) => {
    expect(codeOf(() => valueOf(`p := ${open.repeat(10_000)}1${close.repeat(10_000)}`))).toBe("ERR_REGO_LIMIT_NESTING");
  });

  it.each([
    ["bodies", "p if { every x in [1] { ".repeat(5000)],
    ["minus signs", `p := ${"- ".repeat(10_000)}1`],
    ["else branches", `p := 1 if false${" else := 1 if false".repeat(100_000)}`],
    ["operators in a row", `p := 1${" + 1".repeat(100_000)}`],
    ["steps of a reference", `p := input${".a".repeat(100_000)}`],
    ["negations", `p if { ${"not ".repeat(10_000)} true }`],
    ["unclosed brackets", `p := ${"[".repeat(100_000)}`],
    ["a string that never ends", `p := "${"a".repeat(1_000_000)}`],
    ["a name of 1 MB", `${"a".repeat(1_000_000)} := `],
    ["a number of 1 MB", `p := ${"9".repeat(1_000_000)}`],
    ["20 000 wrong rules", "p := }\n".repeat(20_000)],
  ])("%s: refused with a position and a bounded message", (_name, text) => {
    const error = errorOf(() => valueOf(text));
    expect(error.code).toMatch(/^ERR_REGO_(PARSE|LIMIT_NESTING|LIMIT_SOURCE)$/);
    expect(error.message.length).toBeLessThan(20_000);
    expect(error.diagnostics[0]?.line).toBeGreaterThan(0);
  });

  it.each<[string, (size: number) => string]>([
    ["rules", (size) => strings(size, (at) => `r${at} if input.x == ${at}`).join("\n")],
    ["definitions of one function", (size) => strings(size, (at) => `f(${at}) := ${at}`).join("\n")],
    ["a constant document", (size) => `p := {"containers": [${strings(size * 2, (at) => `{"id": ${at}, "env": ["A=${at}", "B"]}`).join(",")}]}`],
    ["a chain of rules", (size) => strings(size, (at) => `r${at} := r${at + 1}`).join("\n") + `\nr${size} := 1`],
    ["comments and blank lines", (size) => `${"# comment\n\n".repeat(size * 8)}p := 1`],
    ["one long line", (size) => `p := [${strings(size * 8, (at) => `"${at}"`).join(", ")}]`],
    ["strings with escapes", (size) => `p := "${"\\u00e9\\n".repeat(size * 8)}"`],
    ["members of a set", (size) => `p := {${strings(size * 2, (at) => `[${at}]`).join(", ")}}`],
    ["packages by reference", (size) => strings(size, (at) => `a.b.c${at} := ${at}`).join("\n")],
    ["undefined names", (size) => strings(size, (at) => `r${at} := nowhere${at}(1)`).join("\n")],
  ])("time to load grows with size only: %s", (_name, make) => {
    const load = (size: number): (() => void) => {
      const text = `package t\n${make(size)}`;
      return () => void codeOf(() => compile([{ name: "t.rego", text }]));
    };
    expect(measureGrowth([250, 500, 1000, 2000], LINEAR, load)).toBeLessThan(LINEAR);
  });

  it("has a limit on rules", () => {
    const text = `package t\n${strings(50, (at) => `r${at} := 1`).join("\n")}`;
    expect(codeOf(() => compile([{ name: "t.rego", text }], { limits: { maxRules: 50 } }))).toBeUndefined();
    expect(errorOf(() => compile([{ name: "t.rego", text }], { limits: { maxRules: 49 } })).code).toBe("ERR_REGO_LIMIT_SOURCE");
  });
});

describe("hostile input", () => {
  const policy = compile([{ name: "t.rego", text: `package t\n${POD_RULES}` }]);
  const ask = (input: JsonValue): JsonValue | undefined => policy.evaluate("data.t.allow", { input }).results[0]?.expressions[0];

  it("100 000 environment variables: the verdict is right", () => {
    const env = strings(100_000, (at) => `PORT_${at % 65_536}=tcp`);
    expect(ask({ image: "app", env, mounts: [] })).toBe(true);
    expect(ask({ image: "app", env: [...env, "PORT_1=sctp"], mounts: [] })).toBe(false);
  });

  it("strings of 1 MB: the verdict is right", () => {
    const long = "a".repeat(1_000_000);
    expect(ask({ image: "app", env: [`PORT_1=${long}`], mounts: [] })).toBe(false);
    expect(ask({ image: long, env: [], mounts: [] })).toBe(false);
    expect(ask({ image: "app", env: [], mounts: [{ destination: "/data", source: `/run/${long}/data` }] })).toBe(true);
  });

  it.each<[string, string, (size: number) => JsonValue]>([
    [
      "pod rules: variables",
      POD_RULES.replace("default allow", "default p := 1\nq := allow\ndefault allow"),
      (size) => ({ image: "app", env: strings(size, (at) => `PORT_${at}=tcp`), mounts: [] }),
    ],
    [
      "pod rules: mounts",
      POD_RULES,
      (size) => ({ image: "app", env: [], mounts: strings(size, () => "").map(() => ({ destination: "/data", source: "/run/a/data" })) }),
    ],
    ["regex on a long string", 'allow if regex.match("^(([a-z])+.)+[A-Z]([a-z])+$", input)', (size) => "a".repeat(size * 8)],
    ["regex with nested counts", 'allow if regex.match("^(a{1,30})*$", input)', (size) => `${"a".repeat(size * 2)}!`],
    [
      "regex whose automaton has 2^14 states",
      'allow if regex.match("(a|b)*a(a|b){14}c", input)',
      (size) => strings(size, (at) => "ab"[scattered(at) % 2]!).join(""),
    ],
    ["regex.replace", 'allow := regex.replace(input, "a+?", "bb")', (size) => "a".repeat(size * 8)],
    // The largest list has 16 000 items: more would leave the processor's cache, whose price for each item is no growth of the work.
    ["split and concat", 'allow := concat("-", split(input, "."))', (size) => "a.".repeat(size * 4)],
    ["replace", 'allow := replace(input, "a", "bcd")', (size) => "ab".repeat(size * 16)],
    ["set of strings", "allow := count({x | some x in input})", (size) => strings(size * 4, (at) => `k${at}`)],
    ["union of sets", "allow := count({x | some x in input} | {y | some y in input})", (size) => strings(size * 2, (at) => `k${at}`)],
    ["group by key", "allow := {k: v | some v in input; k := v}", (size) => strings(size * 2, (at) => `k${at}`)],
    ["walk", "allow := count([1 | walk(input, _)])", (size) => ({ a: strings(size, (at) => `k${at}`).map((k) => ({ k })) })],
    ["json.unmarshal", "allow := count(json.unmarshal(input))", (size) => JSON.stringify(strings(size * 4, (at) => `k${at}`))],
    ["sorting", "allow := sort(input)", (size) => strings(size, (at) => scattered(at).toString(36))],
    ["membership in an array", 'allow if "absent" in input', (size) => strings(size * 8, (at) => `k${at}`)],
    ["prints", "allow if { some x in input; print(x, input); x == 0 }", (size) => strings(size, (at) => `k${at}`).map((_, at) => at + 1)],
    ["sprintf", 'allow := sprintf("%v %s", [input, input])', (size) => strings(size * 2, (at) => `k${at}`)],
    ["trim", 'allow := trim_left(input, "ab")', (size) => "ab".repeat(size * 64)],
    ["comparison of large documents", "allow if input == json.unmarshal(json.marshal(input))", (size) => ({ list: strings(size * 2, (at) => `k${at}`) })],
  ])("time to decide grows with size only: %s", (_name, rules, make) => {
    const engine = compile([{ name: "t.rego", text: `package t\n${rules}` }]);
    const decide = (size: number): (() => void) => {
      const input = make(size);
      // Prints are formatted when they are read.
      return () => void engine.evaluate("data.t.allow", { input }).prints;
    };
    expect(measureGrowth([500, 1000, 2000, 4000], LINEAR, decide)).toBeLessThan(LINEAR);
  });

  it("patches of the data document cost what they touch", () => {
    const patch = (size: number): (() => void) => {
      const engine = compile([]);
      engine.setData({ pstate: Object.fromEntries(strings(100, (at) => `k${at}`).map((k) => [k, 1])) });
      const operations = strings(size, (at) => `/pstate/c${at}`).map((path) => ({ op: "add" as const, path, value: { state: "running" } }));
      return () => engine.patchData(operations);
    };
    expect(measureGrowth([500, 1000, 2000, 4000], LINEAR, patch)).toBeLessThan(LINEAR);
  });

  it.each(["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf"])("a key named %s is a key like others", (key) => {
    const plain = JSON.parse(`{"x": {"a": 1}}`) as JsonValue;
    const own = JSON.parse(`{"x": {"${key}": {"polluted": true}}}`) as JsonValue;
    expect(valueOf(`p := input.x["${key}"]`, { input: plain })).toBeUndefined();
    expect(valueOf(`p := input.x.${key}.polluted`, { input: own })).toBe(true);
    expect(valueOf(`p := count(object.keys(input.x))`, { input: own })).toBe(1);
    expect(valueOf(`p := {"${key}": 1}["${key}"]`)).toBe(1);
    expect(valueOf("p := json.unmarshal(input.t)[input.k]", { input: { t: `{"${key}": 7}`, k: key } })).toBe(7);
    expect(valueOf("p := object.union(input.x, input.x)", { input: own })).toEqual(JSON.parse(`{"${key}": {"polluted": true}}`));
    expect(valueOf(`p contains x if { some x, _ in input.x }`, { input: own })).toEqual([key]);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  it("integers beyond 2^53 are exact", () => {
    const input = { a: 9_007_199_254_740_993n, b: 18_446_744_073_709_551_615n };
    expect(valueOf("p := input.a + 1", { input })).toBe(9_007_199_254_740_994n);
    expect(valueOf("p if input.a == 9007199254740993", { input })).toBe(true);
    expect(valueOf("p if input.a == 9007199254740992", { input })).toBeUndefined();
    expect(valueOf("p if input.b < 18446744073709551616", { input })).toBe(true);
    expect(valueOf("p if input.b == 18446744073709551616", { input })).toBeUndefined();
  });

  it("lone surrogates become U+FFFD, in input, keys and literals alike, so that no two spellings differ", () => {
    const lone = String.fromCharCode(0xd800);
    expect(valueOf('p := input.x == "\\ufffd"', { input: { x: lone } })).toBe(true);
    expect(valueOf('p := "\\ud800" == "\\ufffd"')).toBe(true);
    expect(valueOf('p := input["\\ufffd"]', { input: { [lone]: 1 } })).toBe(1);
    expect(valueOf('p := count(json.unmarshal("\\"\\\\ud800\\""))')).toBe(1);
  });

  it("of duplicate keys in text the last one counts, everywhere", () => {
    expect(valueOf('p := json.unmarshal(`{"a": 1, "a": 2}`).a')).toBe(2);
    expect(valueOf('p := {"a": 1, "a": 2}.a')).toBe(2);
  });
});

describe("values that share their parts", () => {
  // Forty rules make a value of 2^40 nodes in forty small pieces of memory. Whatever would write it out must end in a limit.
  const doubled = (name: string): string =>
    `${name}0 := [input]\n${Array.from({ length: 40 }, (_, at) => `${name}${at + 1} := [${name}${at}, ${name}${at}]`).join("\n")}\n`;

  it.each([
    "p := x40",
    "p := json.marshal(x40)",
    'p := sprintf("%v", [x40])',
    'p := $"{x40}"',
    "p := {x40}",
    "p := {x40: 1}",
    "p := {[x40]}",
    "p if x40 == y40",
    "p if x40 < y40",
    "p := sort([x40, y40])",
    "p := max([x40, y40])",
    "p := count({v | some v in [x40, y40]})",
    'p := json.patch({"a": [1]}, [o | some _ in numbers.range(1, 40); some o in [{"op": "copy", "from": "/a", "path": "/a/-"}, {"op": "copy", "from": "/a", "path": "/a/-"}]])',
    "p := walk(x40)",
    "p := [v | walk(x40, [_, v])]",
    "p if x40 in [y40]",
    'p := object.union({"a": x40}, {"a": y40})',
  ])("%s", (rule) => {
    const limits = { maxSteps: 1_000_000 };
    expect(codeOf(() => valueOf(`${doubled("x")}${doubled("y")}${rule}`, { input: 1, limits }))).toMatch(/^ERR_REGO_LIMIT_(STEPS|MEMORY)$/);
  });

  it("are printed and traced up to a length", () => {
    const policy = compile([{ name: "t.rego", text: `package t\n${doubled("x")}q if { print(x40); x40[0][0] == 7 }` }]);
    const { prints, trace } = policy.evaluate("data.t.q", { input: 1, trace: true });
    expect(prints.join("").length).toBeLessThan(2_000_000);
    expect(JSON.stringify(trace).length).toBeLessThan(100_000);
  });
});
