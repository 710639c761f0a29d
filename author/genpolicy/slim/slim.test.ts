import { existsSync, readdirSync, readFileSync } from "node:fs";
import { encodeJson, type JsonValue } from "@sealpod/core";
import { type Module, parseRego, RegoObject, RegoSet } from "@sealpod/rego";
import { describe, expect, it } from "vitest";
import { encodePrettyJson, type PrintableJson } from "../pretty-json.ts";
import { type Mutable, RULES, SHAPES, type Shape, testPod } from "../rules/test-support.ts";
import { slimPolicy, slimText } from "./index.ts";
import { printModule } from "./print.ts";
import { REQUESTS } from "./requests.ts";
import { ask, compare, load, scenes } from "./test-support.ts";
import { normalized } from "./rewrite.ts";

/** Of some 25 000 scenes per shape; agreement.e2e.ts has more. */
const STRIDE = 83;

function inputsOf(shape: Shape): readonly JsonValue[] {
  const { requests } = testPod(shape);
  return shape === "aks" || shape === "aks-tool" ? requests.map((base) => ({ base, env_map: {} })) : requests;
}

const full = (data: Mutable): string => `${RULES}\npolicy_data := ${encodeJson(data)}`;

describe("the small policy", () => {
  for (const shape of SHAPES) {
    for (const reasons of [true, false]) {
      it(`says what the full one says, ${shape}, ${reasons ? "with" : "without"} reasons`, () => {
        const { data } = testPod(shape);
        const text = full(data);
        const slim = slimPolicy(RULES, data as PrintableJson, { reasons });
        const [left, right] = [load(text), load(slim)];
        const found = compare(left, right, scenes(load(text), inputsOf(shape)), STRIDE, reasons);
        expect(found.differences).toEqual([]);
        expect(found.asked).toBeGreaterThan(250);
        expect(found.allowed).toBeGreaterThan(20);
        expect(found.steps[1]).toBeLessThanOrEqual(found.steps[0]);
        expect(slim.length).toBeLessThan(text.length / 2);
      });
    }

    it(`allows the requests of an honest runtime, ${shape}`, () => {
      const policy = load(slimPolicy(RULES, testPod(shape).data as PrintableJson));
      for (const input of inputsOf(shape)) {
        const verdict = ask(policy, { name: "CreateContainerRequest", input });
        expect(verdict).toMatchObject({ allowed: true, prints: [] });
        policy.patchData(verdict.ops);
        const { base = input } = input as { readonly base?: JsonValue };
        const { container_id: id = "" } = base as { readonly container_id?: JsonValue };
        policy.patchData(ask(policy, { name: "StartContainerRequest", input: { container_id: id } }).ops);
      }
    });
  }

  const { data } = testPod("aks");
  const slim = slimPolicy(RULES, data as PrintableJson);

  it("is the same each time", () => {
    expect(slimPolicy(RULES, structuredClone(data) as PrintableJson)).toBe(slim);
  });

  it("keeps lines below the 1024 columns of older agents, but for texts that are longer themselves", () => {
    expect(Math.max(...slim.split("\n").map((line) => line.length))).toBeLessThan(1024);
  });

  it("starts as agents expect and ends with the data", () => {
    expect(slim).toMatch(/^package agent_policy\nimport rego\.v1\n/);
    expect(slim.slice(slim.lastIndexOf("\npolicy_data:="))).toMatch(/^\npolicy_data:=\{"?/);
    expect(load(slim).evaluate("data.agent_policy.policy_data.containers[_]").results).toHaveLength(testPod("aks").requests.length);
  });

  it("has every request that the full one has", () => {
    const names = (text: string): readonly string[] =>
      [...new Set(parseRego(text).rules.map(({ head }) => head.name))].filter((name) => REQUESTS.has(name)).sort();
    expect(names(slim)).toEqual(names(full(data)));
  });
});

/** A policy of these rules with small data, slim. */
function slimOf(rules: string, data: PrintableJson = {}): string {
  return slimText(`package agent_policy\nimport rego.v1\n${rules}\npolicy_data := ${encodePrettyJson(data)}`);
}

/** The rules of a slim policy, without its head and data. */
function rulesOf(rules: string, data: PrintableJson = {}): string {
  return slimOf(rules, data)
    .slice("package agent_policy\nimport rego.v1\n".length)
    .replace(/policy_data:=.*\n$/, "");
}

describe("what is decided beforehand", () => {
  it.each<[what: string, rules: string, data: PrintableJson, slim: string]>([
    ["a setting", "ReadStreamRequest if policy_data.read == true", { read: true }, "ReadStreamRequest:=true\n"],
    ["a default without other definitions", "default AddSwapRequest := false", {}, "AddSwapRequest:=false\n"],
    [
      "a default with a body that never holds",
      "default ReadStreamRequest := false\nReadStreamRequest if policy_data.read == true",
      { read: false },
      "ReadStreamRequest:=false\n",
    ],
    ["a request without a body that can hold", "ReadStreamRequest if policy_data.absent", {}, "ReadStreamRequest if false\n"],
    ["rules that nobody asks for", "ReadStreamRequest if input.x\nhelper if input.y\nother if helper", {}, "ReadStreamRequest if input.x\n"],
    [
      "a walk through an empty list",
      "ReadStreamRequest if input.x\nReadStreamRequest if { some x in policy_data.list; input.y == x }",
      { list: [] },
      "ReadStreamRequest if input.x\n",
    ],
    [
      "every item of an empty list",
      "ReadStreamRequest if { input.x; every x in policy_data.list { input.y == x } }",
      { list: [] },
      "ReadStreamRequest if input.x\n",
    ],
    ["the negation of what is never there", "ReadStreamRequest if { input.x; not policy_data.absent }", {}, "ReadStreamRequest if input.x\n"],
    [
      "a branch behind one that never holds",
      "ReadStreamRequest := f(input.x)\nf(x) := 1 if policy_data.no else := x",
      { no: false },
      "ReadStreamRequest:=a(input.x)\na(a):=a\n".replace("a(a):=a", "b(a):=a").replace("a(input", "b(input"),
    ],
  ])("%s", (_, rules, data, wanted) => {
    expect(rulesOf(rules, data)).toBe(wanted);
  });

  it("leaves what only looks decided alone", () => {
    const cases: readonly (readonly [rules: string, data: PrintableJson, input: JsonValue, allowed: boolean])[] = [
      // The operand of a negation is looked at first: without it nothing is true.
      ["ReadStreamRequest if not f(input.x)\nf(x) if { x; policy_data.no }", { no: false }, {}, false],
      ["ReadStreamRequest if not f(input.x)\nf(x) if { x; policy_data.no }", { no: false }, { x: 1 }, true],
      // A function that is false is defined.
      ["ReadStreamRequest if { y := f(input.x); y == false }\nf(x) := false if x == policy_data.one", { one: 1 }, { x: 1 }, true],
      // Two values of one function are an error, whichever comes first.
      ["ReadStreamRequest if f(input.x)\nf(x) if x == 1\nf(x) := false if x == policy_data.one", { one: 1 }, { x: 1 }, false],
      // An argument that is not there makes the call undefined, even if nobody looks at it.
      ["ReadStreamRequest if f(input.x, input.y)\nf(_, y) if y == 1", {}, { y: 1 }, false],
      // Of one container the field is missing.
      ["ReadStreamRequest if { c := policy_data.c[input.i]; c.f == 1 }", { c: [{ f: 1 }, {}] }, { i: 1 }, false],
      ["ReadStreamRequest if { c := policy_data.c[input.i]; c.f == 1 }", { c: [{ f: 1 }, { f: 1 }] }, { i: 7 }, false],
      // The keys of an object are asked for by name.
      ["ReadStreamRequest if policy_data.o[input.k]", { o: { a: true, b: false } }, { k: "a" }, true],
      ["ReadStreamRequest if count(policy_data.o) == input.n", { o: { a: true, b: false } }, { n: 2 }, true],
      // As many items as there are, whatever is in them.
      ["ReadStreamRequest if count(input.l) == count(policy_data.l)", { l: [{ a: 1 }, { a: 1 }] }, { l: [1, 2] }, true],
      // null, zero and the empty text are true.
      ["ReadStreamRequest if { c := policy_data.c[input.i]; c.f }", { c: [{ f: null }, { f: 0 }, { f: "" }] }, { i: 2 }, true],
      // A default stands for an undefined body, not for a default function's missing argument.
      ['ReadStreamRequest if f(object.get(input, "x", policy_data.x)) == 2\nf(x) := x + 1', { x: 1 }, {}, true],
      // A placeholder of the value that is put in is not replaced again.
      [String.raw`ReadStreamRequest if strings.replace_n({"$(a)": "$(b)", "$(b)": "c"}, policy_data.t) == input.t`, { t: "x$(a)" }, { t: "x$(b)" }, true],
      // Lists that are members of an object are members, not their items.
      ["ReadStreamRequest if { some _, l in policy_data.o; input.l == l }", { o: { a: ["x"], b: [] } }, { l: [] }, true],
      ["ReadStreamRequest if { some l in policy_data.o; some x in l; x == input.x }", { o: { a: ["x"], b: [] } }, { x: "x" }, true],
      // What is alike in all but one container is not alike.
      ["ReadStreamRequest if { some c in policy_data.c; c.a.b == input.b }", { c: [{ a: { b: 1 } }, { a: { b: 2 } }] }, { b: 2 }, true],
      ["ReadStreamRequest if { some c in policy_data.c; not c.a }", { c: [{ a: 1 }, {}] }, {}, true],
      ["ReadStreamRequest if { c := policy_data.c[0]; c.a == input.a }", { c: [{ a: 1 }, { a: 2 }] }, { a: 2 }, false],
      // One of the two is missing, so the other value counts.
      ['ReadStreamRequest if { some c in policy_data.c; object.get(c, "a", 7) == input.a }', { c: [{ a: 1 }, {}] }, { a: 7 }, true],
      ['ReadStreamRequest if { some c in policy_data.c; object.get(c, ["a", "b"], 7) == input.a }', { c: [{ a: { b: 1 } }, { a: {} }] }, { a: 7 }, true],
      // Texts with line breaks are not two operands.
      [
        "ReadStreamRequest if { some t in policy_data.t; concat(t.by, t.of) == input.t }",
        {
          t: [
            { by: "\n", of: ["a", "b"] },
            { by: "", of: ["a\nb"] },
          ],
        },
        { t: "a\nb" },
        true,
      ],
      [
        "ReadStreamRequest if { some t in policy_data.t; not contains(t.a, t.b) }",
        {
          t: [
            { a: "x", b: "x" },
            { a: 'x"\n"x', b: "y" },
          ],
        },
        {},
        true,
      ],
      // An empty list in front of what is no list is an error all the same.
      ["ReadStreamRequest if array.concat(policy_data.empty, input.x) == input.x", { empty: [] }, { x: "text" }, false],
      ["ReadStreamRequest if array.concat(policy_data.empty, [input.x]) == [input.x]", { empty: [] }, { x: "text" }, true],
      // A set is no list, although both are the same JSON.
      ["ReadStreamRequest if s == input.s\ns := {x | some x in policy_data.l}", { l: ["a"] }, { s: ["a"] }, false],
      // Two definitions that disagree are an error, not the first or the default.
      ["default ReadStreamRequest := true\nReadStreamRequest := true if input.a\nReadStreamRequest := false if input.b", {}, { a: true, b: true }, false],
      ["default ReadStreamRequest := true\nReadStreamRequest := false if input.a", {}, {}, true],
      ["default ReadStreamRequest := true\nReadStreamRequest := false if input.a", {}, { a: true }, false],
      // An object of rules, one of them never there.
      [
        'ReadStreamRequest if { some t in policy_data.t; strings.replace_n(o, t) == input.t }\no["$a"] := input.a\no["$b"] := input.b if input.c',
        { t: ["1$a", "2$b"] },
        { a: "x", t: "1x" },
        true,
      ],
    ];
    for (const [rules, data, input, allowed] of cases) {
      const asked = { name: "ReadStreamRequest", input };
      const whole = `package agent_policy\nimport rego.v1\n${rules}\npolicy_data := ${encodePrettyJson(data)}`;
      expect(ask(load(whole), asked).allowed, rules).toBe(allowed);
      expect(ask(load(slimText(whole)), asked).allowed, rules).toBe(allowed);
    }
  });

  it("keeps prints, and without reasons drops them", () => {
    const rules = 'ReadStreamRequest if policy_data.yes\nWriteStreamRequest if refuse(["no ", input.x])\nrefuse(parts) if { print(concat("", parts)); false }';
    const whole = `package agent_policy\nimport rego.v1\n${rules}\npolicy_data := {"yes": true}`;
    expect(ask(load(slimText(whole)), { name: "WriteStreamRequest", input: { x: "way" } }).prints).toEqual([expect.stringMatching(/: no way$/)]);
    expect(slimText(whole, { reasons: false })).not.toContain("no ");
  });

  it("drops fields of our data that say what the rules take for granted, and no others", () => {
    const process = { Terminal: false, Cwd: "", User: { UID: 0, GID: 5, Username: "" } };
    const rules = "package agent_policy\nimport rego.v1\nReadStreamRequest if input == policy_data";
    const text = slimPolicy(rules, {
      containers: [{ sandbox_pidns: false, devices: [], after: [1], OCI: { Process: process, Root: { Readonly: true } } }],
      sandbox_pidns: false,
    });
    expect(load(text).evaluate("data.agent_policy.policy_data").results[0]?.expressions[0]).toEqual({
      containers: [{ after: [1], OCI: { Process: { User: { GID: 5 } }, Root: { Readonly: true } } }],
      sandbox_pidns: false,
    });
  });

  it("refuses data that is nested too deep", () => {
    let data: PrintableJson = 1;
    for (let depth = 0; depth < 70; depth++) data = [data];
    expect(() => slimPolicy(RULES, data)).toThrowError(/nested more than 64 deep/);
  });

  it("drops data that no rule reads, and shares what is there twice", () => {
    const long = "a text that is rather long";
    const text = slimOf("ReadStreamRequest if { some c in policy_data.c; input.a == c.a; input.b == c.b }", {
      c: [
        { a: long, b: 1, x: 2 },
        { a: long, b: 2, x: 3 },
      ],
      y: 1,
    });
    expect(load(text).evaluate("data.agent_policy.policy_data").results[0]?.expressions[0]).toEqual({ c: [{ b: 1 }, { b: 2 }] });
    expect(text.split(long)).toHaveLength(2);
  });

  it.each([
    ["a with modifier", "ReadStreamRequest if x with input as 1\nx if input"],
    ["a unification (=)", "ReadStreamRequest if { x = 1; input.x == x }"],
    ["its variable x has the name of a rule", "x := 1\nReadStreamRequest if { some x in input.x; x }"],
    ["data as a whole", "ReadStreamRequest if input.x == data"],
    ["data is read other than by the name of a document", "ReadStreamRequest if data[input.x]"],
    ["data is read other than by the name of a document", "ReadStreamRequest if data.agent_policy.policy_data"],
    ["is not declared", "ReadStreamRequest if input.x[i] == i"],
    ["it leads to itself", "ReadStreamRequest if f(input.x)\nf(x) := g(x)\ng(x) := f(x)"],
    ["import input.x", "import input.x\nReadStreamRequest if x"],
  ])("refuses rules with %s", (message, rules) => {
    expect(() => slimOf(rules)).toThrowError(message);
  });
});

describe("the printer", () => {
  it.each([
    "x if {some y in[1,2]\ny==input.z}",
    "x if not y in z",
    "x:=[(a|b),c]",
    "x:={(a|b)|some a in c}",
    "x if{a==b}",
    "x:=(1+2)*3-(4-5)",
    "x if(a in b)in c",
    "x if{y:=1\nevery k,v in z{k==v\nnot v in[k]}}else:=2 if input else:=3",
    'x:={"a b":`c"d\\e`,"f":"`\\n"}',
    "x[`a`].b:=1 if input",
    "x contains y if{some y in input}",
    "f(a,[b,_],{1})if a==b",
    "default f(_):=0",
    "x if{a\n-1<b}",
    "x if -1<b",
    "x:=count([[],{},set(),null])",
    'x if input["a b"].c[d][0].e',
    "x if f(a).b[c]",
    'x:=$"a {b} \\{ {c with input as d}"',
    "x if{1}==y",
  ])("writes %s so that it reads the same", (rule) => {
    const module = normalized(parseRego(`package t\n${rule}`));
    const text = printModule(module);
    expect(plain(normalized(parseRego(text)).rules)).toEqual(plain(module.rules));
    expect(printModule(normalized(parseRego(text)))).toBe(text);
    expect(text.length).toBeLessThanOrEqual(`package t\n${rule}\n`.length + 2);
  });

  const SUITE = new URL("../../../../shared/vectors/rego/v1/", import.meta.url);
  it.skipIf(!existsSync(SUITE))("writes all modules of OPA's suite so that they read the same (skipped without ../shared/vectors/rego)", () => {
    let count = 0;
    for (const folder of readdirSync(SUITE)) {
      for (const file of readdirSync(new URL(`${folder}/`, SUITE))) {
        for (const text of modulesOf(readFileSync(new URL(`${folder}/${file}`, SUITE), "utf8"))) {
          let module: Module;
          try {
            module = normalized(parseRego(text));
          } catch {
            continue;
          }
          if (module.version !== "v1") continue;
          count++;
          expect(plain(normalized(parseRego(printModule(module))).rules), text).toEqual(plain(module.rules));
        }
      }
    }
    expect(count).toBeGreaterThan(1000);
  });

  function modulesOf(json: string): readonly string[] {
    const { cases } = JSON.parse(json) as { readonly cases: readonly { readonly modules?: readonly string[] }[] };
    return cases.flatMap(({ modules = [] }) => modules);
  }

  /** A tree without places, and with values that can be compared. */
  function plain(node: unknown): unknown {
    if (node instanceof RegoObject || node instanceof RegoSet) return node.identity();
    if (Array.isArray(node)) return node.map(plain);
    if (typeof node !== "object" || node === null) return node;
    return Object.fromEntries(
      Object.entries(node).flatMap(([name, value]) => (["at", "end", "grouped"].includes(name) || value === undefined ? [] : [[name, plain(value)]])),
    );
  }
});
