import { describe, expect, it } from "vitest";
import { compile } from "./index.ts";
import { codeOf, evaluate } from "./test-support.ts";

describe("print", () => {
  const lines = (rules: string, input = {}): readonly string[] => evaluate(rules, "data.t.p", { input }).prints;

  it("has the form <module>:<line>: <text>", () => {
    expect(lines('p if {\n  print("a", 1, 1.5, true, null, ["s", 1], {"a": "b"}, {2, 1}, set(), {})\n}')).toEqual([
      't.rego:3: a 1 1.5 true null ["s", 1] {"a": "b"} {1, 2} set() {}',
    ]);
  });

  it("never fails: what is undefined prints so", () => {
    expect(lines('p if { print("v", input.nope, [input.nope], input.a.b.c); true }')).toEqual(["t.rego:2: v <undefined> <undefined> <undefined>"]);
  });

  it("prints once per solution", () => {
    expect(lines("p if { x := [1, 2][_]; print(x); x == 3 }")).toEqual(["t.rego:2: 1", "t.rego:2: 2"]);
    expect(lines("p if print(input.a[_], [3, 4][_])", { a: [1, 2] })).toEqual(["1 3", "1 4", "2 3", "2 4"].map((text) => `t.rego:2: ${text}`));
    expect(lines('p := [x | x := [1, 2][_]; print("v", x)]')).toHaveLength(2);
  });

  it("quotes inside composite values as Go does", () => {
    expect(lines('p if print("a\\nb", ["a\\nb\\u0007\\u00e9"])')).toEqual(['t.rego:2: a\nb ["a\\nb\\a\u00e9"]']);
  });

  it("is bounded in number and length, and says what it leaves out", () => {
    const many = evaluate("p if { some x in numbers.range(1, 50); print(x); x > 100 }", "data.t.p", { limits: { maxPrints: 3 } }).prints;
    expect(many).toEqual(["t.rego:2: 1", "t.rego:2: 2", "t.rego:2: 3", "47 more prints left out: the limit is 3 prints"]);
    const long = evaluate("p if { some x in numbers.range(1, 50); print(input); x > 100 }", "data.t.p", {
      input: "y".repeat(100),
      limits: { maxPrintLength: 250 },
    }).prints;
    expect(long).toHaveLength(3);
    expect(long[2]).toContain("48 more prints left out");
  });
});

describe("trace", () => {
  const rules = [
    "default p := false",
    "p if { some c in data.t.policy; allow(c, input) }",
    "allow(c, i) if {",
    "  c.version == i.version",
    '  startswith(i.name, "a")',
    "  every e in i.env { e in c.env }",
    "}",
    'policy := [{"version": "1", "env": ["A=1"]}, {"version": "2", "env": []}]',
  ].join("\n");
  const traced = (input: { readonly [name: string]: string | readonly string[] }) => evaluate(rules, "data.t.p", { input, trace: true });
  const failures = (evaluation: ReturnType<typeof traced>) =>
    evaluation.trace!.entries.filter((entry) => entry.rule === "data.t.allow").map((entry) => entry.failed);

  it("names the statement at which each body stopped, with place and values", () => {
    const [first, second] = failures(traced({ version: "1", name: "xyz", env: [] }));
    expect(first).toEqual({
      position: { file: "t.rego", line: 6, column: 3 },
      text: 'startswith(i.name, "a")',
      operands: [{ text: "i.name", value: '"xyz"' }],
    });
    expect(second).toMatchObject({
      position: { line: 5 },
      text: "c.version == i.version",
      operands: [
        { text: "c.version", value: '"2"' },
        { text: "i.version", value: '"1"' },
      ],
    });
  });

  it("shows an undefined operand", () => {
    const [first] = failures(traced({ version: "1" }));
    expect(first).toMatchObject({ position: { line: 6 }, operands: [{ text: "i.name", value: undefined }] });
  });

  it("reaches the last statement", () => {
    const [first] = failures(traced({ version: "1", name: "a", env: ["B=2"] }));
    expect(first).toMatchObject({ position: { line: 7 }, text: "every e in i.env { e in c.env }" });
  });

  it("says which bodies held, and does not change the verdict or the prints", () => {
    const input = { version: "1", name: "a", env: ["A=1"] };
    const on = traced(input);
    const off = evaluate(rules, "data.t.p", { input });
    expect(on.results).toEqual(off.results);
    expect(on.trace!.entries.find((entry) => entry.rule === "data.t.allow")).toMatchObject({ held: true, depth: 1 });
    expect(off.trace!.entries).toEqual([]);
  });

  it("is bounded", () => {
    const { trace } = evaluate("f(x) if x > 100\np if { some x in numbers.range(1, 50); f(x) }", "data.t.p", { trace: true, limits: { maxTraceEntries: 10 } });
    expect(trace!.entries).toHaveLength(10);
    expect(trace!.dropped).toBe(41);
  });
});

describe("the data document", () => {
  const open = () => {
    const policy = compile([{ name: "t", text: "package t\np := data.pstate[input]" }]);
    policy.setData({ pstate: {} });
    const at = (key: string): unknown => policy.evaluate("data.t.p", { input: key }).results[0]?.expressions[0];
    return { policy, at };
  };

  it("changes by JSON Patch", () => {
    const { policy, at } = open();
    policy.patchData([
      { op: "add", path: "/pstate/a~1b", value: 1 },
      { op: "add", path: "/pstate/list", value: [1] },
      { op: "add", path: "/pstate/list/-", value: { x: 18446744073709551615n } },
      { op: "copy", from: "/pstate/a~1b", path: "/pstate/c" },
      { op: "move", from: "/pstate/c", path: "/pstate/d" },
      { op: "test", path: "/pstate/d", value: 1 },
      { op: "replace", path: "/pstate/list/0", value: null },
    ]);
    expect([at("a/b"), at("list"), at("c"), at("d")]).toEqual([1, [null, { x: 18446744073709551615n }], undefined, 1]);
    policy.patchData([{ op: "remove", path: "/pstate/d" }]);
    expect(at("d")).toBeUndefined();
  });

  it("changes as a whole or not at all", () => {
    const { policy, at } = open();
    for (const bad of [
      { op: "remove", path: "/pstate/nope" },
      { op: "replace", path: "/pstate/nope", value: 1 },
      { op: "add", path: "/nope/x", value: 1 },
      { op: "add", path: "pstate/x", value: 1 },
      { op: "add", path: "/pstate/x" },
      { op: "move", path: "/pstate/x" },
      { op: "move", from: "/pstate", path: "/pstate/x" },
      { op: "test", path: "/pstate", value: 1 },
      { op: "remove", path: "" },
      { op: "add", path: "/pstate/first/0/1", value: 1 },
    ] as const) {
      expect(codeOf(() => policy.patchData([{ op: "add", path: "/pstate/first", value: 1 }, bad]))).toBe("ERR_REGO_PATCH");
      expect(at("first")).toBeUndefined();
    }
    expect(codeOf(() => policy.patchData([{ op: "replace", path: "", value: 1 }]))).toBe("ERR_REGO_DATA");
    expect(codeOf(() => policy.patchData([{ op: "add", path: "/t", value: { p: 1 } }]))).toBe("ERR_REGO_DATA");
  });

  it("treats array indexes strictly", () => {
    const { policy } = open();
    policy.setData({ a: [1, 2] });
    for (const path of ["/a/01", "/a/3", "/a/-1", "/a/1.0", "/a/x", "/a/ 1"]) {
      expect(codeOf(() => policy.patchData([{ op: "add", path, value: 0 }]))).toBe("ERR_REGO_PATCH");
    }
    expect(codeOf(() => policy.patchData([{ op: "remove", path: "/a/-" }]))).toBe("ERR_REGO_PATCH");
  });

  it("keys named like members of Object.prototype are keys like others", () => {
    const { policy, at } = open();
    expect([at("__proto__"), at("constructor"), at("toString")]).toEqual([undefined, undefined, undefined]);
    policy.patchData([{ op: "add", path: "/pstate/__proto__", value: 1 }]);
    expect(at("__proto__")).toBe(1);
    expect(Object.getPrototypeOf(policy.evaluate("data.pstate").results[0]!.expressions[0])).toBeNull();
  });
});

// Written for this test in the manner of generated pod policies: the v0 dialect without `if` of 2023, and today's.
const OLD_STYLE = `package agent_policy
import future.keywords.in
import future.keywords.every
import input

default CreateContainerRequest := false
default ExecProcessRequest := false

CreateContainerRequest {
    policy_container := policy_data.containers[_]
    print("CreateContainerRequest: candidate", policy_container.name)
    policy_container.oci_version == input.base.OCI.Version
    allow_args(policy_container, input.base.OCI.Process)
    allow_env(policy_container, input.env_map)
    allow_mounts(policy_container.mounts, input.base.OCI.Mounts)
}

allow_args(p, i) {
    count(p.args) == count(i.Args)
    every n, arg in i.Args { arg == p.args[n] }
}

allow_env(p, env_map) {
    every name, value in env_map { allow_variable(p.env[name], value) }
}

allow_variable(pattern, value) { pattern == value }
allow_variable(pattern, value) {
    pattern == "$(pod-ip)"
    parts := split(value, ".")
    count(parts) == 4
    every part in parts { number := to_number(part); number >= 0; number <= 255 }
}

allow_mounts(p_mounts, i_mounts) {
    every i in i_mounts { some p in p_mounts; allow_mount(p, i) }
}

allow_mount(p, i) {
    p.destination == i.destination
    pattern := replace(p.source, "$(bundle-id)", "[a-z0-9]{64}")
    regex.match(concat("", ["^", pattern, "$"]), i.source)
}

ExecProcessRequest {
    command := concat(" ", input.base.Args)
    some allowed in policy_data.exec
    command == allowed
}

policy_data := {
  "containers": [
    {"name": "pause", "oci_version": "1.1.0", "args": ["/pause"], "env": {}, "mounts": []},
    {"name": "web", "oci_version": "1.1.0", "args": ["serve", "-p", "80"], "env": {"IP": "$(pod-ip)", "A": "b"},
     "mounts": [{"destination": "/data", "source": "/run/kata-containers/shared/containers/$(bundle-id)-data"}]}
  ],
  "exec": ["ls -l"]
}
`;

const NEW_STYLE = `package agent_policy
import future.keywords.every
import future.keywords.if
import future.keywords.in

default CreateContainerRequest := false

CreateContainerRequest := {"ops": ops, "allowed": true} if {
    state := data["pstate"]
    some idx, p in policy_data.containers
    print("candidate", idx, p.name)
    p.args == input.OCI.Process.Args
    caps := {strip(c) | some c in input.OCI.Process.Capabilities}
    caps - {strip(c) | some c in p.capabilities} == set()
    name_op := sandbox_op(state, input.OCI.Annotations["sandbox-name"])
    ops := array.concat(name_op, [{"op": "add", "path": concat("/", ["", "pstate", input.container_id]), "value": idx}])
}

sandbox_op(state, name) := [{"op": "add", "path": "/pstate/sandbox_name", "value": name}] if {
    not state.sandbox_name
} else := [] if {
    state.sandbox_name == name
}

strip(c) := substring(c, 4, -1) if startswith(c, "CAP_")
else := c

policy_data := {"containers": [{"name": "web", "args": ["serve"], "capabilities": ["CAP_CHOWN"]}]}
`;

describe("pod policies", () => {
  const request = {
    base: {
      OCI: {
        Version: "1.1.0",
        Process: { Args: ["serve", "-p", "80"] },
        Mounts: [{ destination: "/data", source: `/run/kata-containers/shared/containers/${"a".repeat(64)}-data` }],
      },
    },
    env_map: { IP: "10.0.0.1", A: "b" },
  };

  it("of 2023, v0 without if: allow and deny", () => {
    const policy = compile([{ name: "agent_policy", text: OLD_STYLE }], { version: "v0" });
    const ask = (input: typeof request): unknown => policy.evaluate("data.agent_policy.CreateContainerRequest", { input }).results[0]?.expressions[0];
    expect(ask(request)).toBe(true);
    expect(ask({ ...request, env_map: { IP: "10.0.0.256", A: "b" } })).toBe(false);
    expect(ask({ ...request, env_map: { ...request.env_map, EXTRA: "1" } as typeof request.env_map })).toBe(false);
    expect(ask({ ...request, base: { OCI: { ...request.base.OCI, Process: { Args: ["serve"] } } } })).toBe(false);
    expect(ask({ ...request, base: { OCI: { ...request.base.OCI, Mounts: [{ destination: "/data", source: "/etc" }] } } })).toBe(false);
    expect(policy.evaluate("data.agent_policy.CreateContainerRequest", { input: request }).prints).toEqual([
      "agent_policy:11: CreateContainerRequest: candidate pause",
      "agent_policy:11: CreateContainerRequest: candidate web",
    ]);
    expect(codeOf(() => compile([{ name: "agent_policy", text: OLD_STYLE }], { version: "v1" }))).toBe("ERR_REGO_PARSE");
  });

  it("of today, in both dialects: ops go to the data document", () => {
    for (const version of ["v0", "v1"] as const) {
      const policy = compile([{ name: "agent_policy", text: NEW_STYLE }], { version });
      policy.setData({ pstate: {} });
      const ask = (name: string, id: string, capabilities: readonly string[]): unknown =>
        policy.evaluate("data.agent_policy.CreateContainerRequest", {
          input: { container_id: id, OCI: { Process: { Args: ["serve"], Capabilities: capabilities }, Annotations: { "sandbox-name": name } } },
        }).results[0]?.expressions[0];
      const first = ask("pod", "c1", ["CAP_CHOWN"]) as { readonly allowed: boolean; readonly ops: Parameters<typeof policy.patchData>[0] };
      expect(first).toEqual({
        allowed: true,
        ops: [
          { op: "add", path: "/pstate/sandbox_name", value: "pod" },
          { op: "add", path: "/pstate/c1", value: 0 },
        ],
      });
      policy.patchData(first.ops);
      expect(ask("other", "c2", [])).toBe(false);
      expect(ask("pod", "c2", ["CAP_SYS_ADMIN"])).toBe(false);
      expect(ask("pod", "c2", [])).toMatchObject({ allowed: true, ops: [{ path: "/pstate/c2" }] });
    }
  });
});

describe("cost", () => {
  it("is the same for the same evaluation", () => {
    const policy = compile([{ name: "t", text: OLD_STYLE }], { version: "v0" });
    const cost = () => policy.evaluate("data.agent_policy.CreateContainerRequest", { input: { base: {}, env_map: {} } }).cost;
    expect(cost()).toEqual(cost());
    expect(cost().steps).toBeGreaterThan(0);
  });
});

describe("queries", () => {
  const policy = compile([{ name: "a.rego", text: "package a.b\nallow if input.user == admin\nadmin := 7\nf(x) := x + 1" }]);

  it("may stand in a package, with imports", () => {
    const ask = (query: string, options: Parameters<typeof policy.evaluate>[1]): unknown => policy.evaluate(query, options).results[0]?.expressions[0];
    expect(ask("allow", { package: "a.b", input: { user: 7 } })).toBe(true);
    expect(ask("f(admin)", { package: "data.a.b" })).toBe(8);
    expect(ask("r.user + b.admin", { imports: ["input as r", "data.a.b"], input: { user: 1 } })).toBe(8);
    expect(codeOf(() => ask("allow", {}))).toBe("ERR_REGO_UNSAFE");
    expect(codeOf(() => ask("x", { imports: ["nowhere.x"] }))).toBe("ERR_REGO_PARSE");
    expect(codeOf(() => ask("x", { package: "a b" }))).toBe("ERR_REGO_PARSE");
  });

  it("may bring their own data document, which stays theirs", () => {
    policy.setData({ seen: 1 });
    expect(policy.evaluate("data.seen", { data: { seen: 2 } }).results[0]?.expressions).toEqual([2]);
    expect(policy.evaluate("data.seen").results[0]?.expressions).toEqual([1]);
    expect(codeOf(() => policy.evaluate("data.seen", { data: { a: { b: { admin: 8 } } } }))).toBe("ERR_REGO_DATA");
    expect(codeOf(() => policy.evaluate("data.seen", { data: [] }))).toBe("ERR_REGO_DATA");
  });

  it("print nothing if told so, and answer the same", () => {
    const loud = compile([{ name: "t", text: "package t\np := 1 if { print(q) }\nq := 2 if { print(input) }" }]);
    expect(loud.evaluate("data.t.p", { input: 1 }).prints).toEqual(["t:3: 1", "t:2: 2"]);
    const quiet = loud.evaluate("data.t.p", { input: 1, prints: false });
    expect([quiet.prints, quiet.results[0]?.expressions]).toEqual([[], [1]]);
  });
});

describe("patches", () => {
  it("cannot make the document deeper than it may be set", () => {
    const policy = compile([], { limits: { maxNesting: 8 } });
    policy.setData({ a: {} });
    policy.patchData([{ op: "add", path: "/a/b", value: [[[[[1]]]]] }]);
    expect(codeOf(() => policy.patchData([{ op: "add", path: "/a/c", value: [[[[[[[1]]]]]]] }]))).toBe("ERR_REGO_LIMIT_NESTING");
    expect(policy.evaluate("data.a.c").results).toEqual([]);
  });
});

describe("trace of a head", () => {
  it("shows the line of the rule where what the head reads is undefined", () => {
    const policy = compile([{ name: "t", text: "package t\nname := input.user.name # of the user\np if name == 1" }]);
    const { trace } = policy.evaluate("data.t.p", { trace: true, input: { user: {} } });
    expect(trace?.entries.find(({ rule }) => rule === "data.t.name")?.failed?.text).toBe("name := input.user.name # of the user");
  });
});

describe("trace of sets and objects", () => {
  it("says that a body held if it gave anything", () => {
    const policy = compile([
      { name: "t", text: "package t\ns contains x if { some x in [1, 2]; x > 1 }\ns contains 9 if input.y\no[k] := 1 if { some k in s }" },
    ]);
    const { trace } = policy.evaluate("data.t.o", { trace: true, input: {} });
    expect(trace?.entries.map(({ rule, position, held }) => `${rule} ${position.line} ${held}`)).toEqual([
      "data.t.o 4 true",
      "data.t.s 2 true",
      "data.t.s 3 false",
    ]);
  });
});

describe("results of functions", () => {
  const rules = `package t
twice(x) := y if {
	print("asked for", x)
	y := x * 2
}
p := [twice(1), twice(1), twice(2), twice(1)]
q := [twice(input.x), moved] if { moved := twice(input.x) with input.x as 2 }
r := [a, b] if {
	a := twice(3)
	b := twice(3) with data.t.k as 1
}
k := 0
null_or(x) := y if {
	print("null", x)
	y := null
}
s := [null_or(1), null_or(1)]
u contains 1 if { not half(3); not half(3) }
half(x) := y if {
	print("half of", x)
	x % 2 == 0
	y := x / 2
}`;

  it.each<[string, unknown, readonly string[]]>([
    ["p", [2, 2, 4, 2], ["asked for 1", "asked for 2"]],
    ["q", [2, 4], ["asked for 1", "asked for 2"]],
    // Under `with` everything is asked anew: what is replaced may matter.
    ["r", [6, 6], ["asked for 3", "asked for 3"]],
    ["s", [null, null], ["null 1"]],
    ["u", [1], ["half of 3"]],
  ])("are remembered for one query and its arguments: %s", (name, value, prints) => {
    const policy = compile([{ name: "t", text: rules }]);
    for (const options of [{}, { trace: true }]) {
      const evaluation = policy.evaluate(`data.t.${name}`, { input: { x: 1 }, ...options });
      expect(evaluation.results[0]?.expressions).toEqual([value]);
      expect(evaluation.prints.map((line) => line.slice(line.indexOf(": ") + 2)).toSorted()).toEqual(prints.toSorted());
    }
  });
});
