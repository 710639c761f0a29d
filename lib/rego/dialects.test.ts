import type { JsonObject, JsonValue } from "@sealpod/core";
import { describe, expect, it } from "vitest";
import { compile } from "./index.ts";
import type { CompileOptions, PatchOperation, Policy, RegoModule, RegoVersion } from "./index.ts";
import { codeOf, evaluate, expression, valueOf } from "./test-support.ts";

// The dialects of Rego that policies of confidential containers are written in (specs/rego.md section 3), feature by feature: each
// row is a rule and what it answers to inputs. All policies here are our own. The answers are OPA's.

/** Feature, rule, and the answers to inputs: some that are allowed and some that are not. */
type Row = readonly [feature: string, rule: string, answers: readonly Answer[]];

interface Answer {
  readonly input: JsonValue;
  readonly answer: JsonValue | undefined;
}

function yields(input: JsonValue, answer: JsonValue): Answer {
  return { input, answer };
}

function undefinedFor(input: JsonValue): Answer {
  return { input, answer: undefined };
}

function ask(policy: Policy, query: string, input: JsonValue): JsonValue | undefined {
  return policy.evaluate(query, { input }).results[0]?.expressions[0];
}

function features(policy: Policy, packagePath: string, rows: readonly Row[]): void {
  it.each(rows)("%s", (_, rule, answers) => {
    const found = answers.map(({ input }) => ask(policy, `${packagePath}.${rule}`, input));
    expect(found).toEqual(answers.map(({ answer }) => answer));
  });
}

// ---------------------------------------------------------------------------------------------------------------------------

const KATA_2023 = `
package agent_policy

import future.keywords.in
import future.keywords.every
import input

default AllowRequestsFailingPolicy := false
default GuestDetailsRequest := true
default ReadStreamRequest := false
default old_default = false

# Two bodies, no keyword between head and body.
default switched := false
switched { input.on == true }
switched { input.force == true }

ReadStreamRequest { policy_data.request_defaults.ReadStreamRequest == true }

old_default { input.base.version == policy_data.version }

default several := false
several { some wanted in policy_data.names; several_fit(wanted, input) }
several_fit(wanted, found) { wanted == found }
several_fit(wanted, found) { wanted == "*"; found != "" }

kind("sandbox") = "pod_sandbox"
kind("container") = "pod_container"
kind_of = value { value := kind(input) }

grade(x) = "low" { x < 10 } else = "high" { x < 100 } else = "top"
graded = grade(input)

chained = 1 { input == "a" } { input == "b" }

every_item { every item in input.items { item in policy_data.names } }
every_pair { every key, value in input { policy_data.env[key] == value } }
some_pair { some key, value in policy_data.env; input == concat("=", [key, value]) }
wildcard { policy_data.containers[_].name == input }
by_variable { policy_data.containers[index].name == input; index > 0 }
negated { not input.forbidden; not input.name in policy_data.names }
negated_call { not startswith(input.path, "/") }

seen[name] { name := input[_].name }
seen_twice { count(seen) < count(input) }
seen_a { seen["a"] }
sizes[name] = size { some name, list in input; size := count(list) }
flags.on { input.on }
flags.off { not input.on }
both_flags { flags["on"] }

null_hooks { is_null(input.Hooks) }
counted { count(input.devices) == 0 }
contained { contains(input, "$(") }
prefixed { startswith(input, "io.kubernetes.cri.") }
suffixed { endswith(input, "/..") }
left_trimmed = trim_left(input, "$(hash")
right_trimmed = trim_right(input, ")")
layer_number = to_number(trim_right(trim_left(input, "$(layer"), ")"))
keys { every key in object.keys(input) { policy_data.env[key] } }
decoded { split(base64.decode(input), ",")[1] == "tar" }
valid_base64 { base64.is_valid(input) }
encoded = base64url.encode(input)
joined { concat(" ", input.args) == "ls -l" }
matched { regex.match(concat("", ["^", replace(policy_data.path, "$(id)", "[a-z0-9]{4}"), "$"]), input) }
byte { number := to_number(input); number >= 0; number <= 255 }
last_option { input.options[count(input.layers) + 1] == "rw" }
unprefixed = trim_prefix(input, "CAP_")
printed { print("looked at", input.a, input.b); input.a == 1 }

policy_data := {
  "version": "1.1.0-rc.1",
  "names": ["a", "b", "*"],
  "env": {"A": "1", "B": "2"},
  "path": "/run/$(id)/rootfs",
  "containers": [{"name": "pause"}, {"name": "web"}],
  "request_defaults": {"ReadStreamRequest": true},
}
`;

describe("Kata of 2023, in v0", () => {
  const policy = compile([{ name: "agent_policy", text: KATA_2023 }], { version: "v0" });

  features(policy, "data.agent_policy", [
    ["a default that nothing overrides", "AllowRequestsFailingPolicy", [yields({ any: "thing" }, false)]],
    ["a default that is true", "GuestDetailsRequest", [yields({}, true)]],
    ["a rule that only the policy's data decide", "ReadStreamRequest", [yields({}, true)]],
    ["several bodies without if", "switched", [yields({ on: true }, true), yields({ force: true }, true), yields({ on: false, force: "true" }, false)]],
    [
      "import input, default with =",
      "old_default",
      [yields({ base: { version: "1.1.0-rc.1" } }, true), yields({ base: { version: "1.1.0" } }, false), yields({}, false)],
    ],
    ["functions with several definitions", "several", [yields("b", true), yields("anything", true), yields("", false)]],
    ["functions with a constant for a parameter", "kind_of", [yields("sandbox", "pod_sandbox"), yields("container", "pod_container"), undefinedFor("other")]],
    ["else without if", "graded", [yields(5, "low"), yields(50, "high"), yields(500, "top")]],
    ["chained bodies", "chained", [yields("a", 1), yields("b", 1), undefinedFor("c")]],
    ["every", "every_item", [yields({ items: ["a", "b"] }, true), yields({ items: [] }, true), undefinedFor({ items: ["a", "c"] }), undefinedFor({})]],
    ["every with key and value", "every_pair", [yields({ A: "1" }, true), undefinedFor({ A: "1", C: "3" }), undefinedFor({ A: "2" })]],
    ["some with key and value", "some_pair", [yields("B=2", true), undefinedFor("B=1")]],
    ["ref[_]", "wildcard", [yields("web", true), undefinedFor("db")]],
    ["ref[var]", "by_variable", [yields("web", true), undefinedFor("pause")]],
    ["not", "negated", [yields({ name: "z" }, true), undefinedFor({ name: "a" }), undefinedFor({ name: "z", forbidden: true }), undefinedFor({})]],
    ["not before a call", "negated_call", [yields({ path: "a/b" }, true), undefinedFor({ path: "/a" }), undefinedFor({})]],
    ["sets in the old style", "seen", [yields([{ name: "b" }, { name: "a" }, { name: "b" }, {}], ["a", "b"])]],
    ["counting such a set", "seen_twice", [yields([{ name: "a" }, { name: "a" }], true), undefinedFor([{ name: "a" }, { name: "b" }])]],
    ["a member of such a set", "seen_a", [yields([{ name: "a" }], true), undefinedFor([{ name: "b" }])]],
    ["objects in the old style", "sizes", [yields({ a: [1, 2], b: [] }, { a: 2, b: 0 })]],
    ["heads with a dot: a set of names", "flags", [yields({ on: true }, ["on"]), yields({}, ["off"])]],
    ["a name of such a set", "both_flags", [yields({ on: true }, true), undefinedFor({})]],
    ["is_null", "null_hooks", [yields({ Hooks: null }, true), undefinedFor({ Hooks: [] }), undefinedFor({})]],
    ["count", "counted", [yields({ devices: [] }, true), undefinedFor({ devices: [1] }), undefinedFor({})]],
    ["contains", "contained", [yields("a$(b)", true), undefinedFor("a(b)"), undefinedFor(1)]],
    ["startswith", "prefixed", [yields("io.kubernetes.cri.x", true), undefinedFor("io.kubernetes")]],
    ["endswith", "suffixed", [yields("a/..", true), undefinedFor("../a")]],
    ["trim_left takes a set of characters", "left_trimmed", [yields("$(hash12)", "12)"), yields("hsa$x", "x"), undefinedFor(1)]],
    ["trim_right", "right_trimmed", [yields("12))", "12"), yields("12", "12")]],
    ["to_number of what is left", "layer_number", [yields("$(layer10)", 10), undefinedFor("$(layerx)")]],
    ["object.keys", "keys", [yields({ A: "9" }, true), undefinedFor({ A: "9", Z: "9" }), undefinedFor(["A"])]],
    ["base64.decode", "decoded", [yields(btoa("abc,tar,ro"), true), undefinedFor(btoa("abc,raw,ro")), undefinedFor("%%%")]],
    ["base64.is_valid", "valid_base64", [yields("aGk=", true), undefinedFor("aGk")]],
    ["base64url.encode", "encoded", [yields("hi?>", "aGk_Pg==")]],
    ["concat", "joined", [yields({ args: ["ls", "-l"] }, true), undefinedFor({ args: ["ls"] }), undefinedFor({ args: ["ls", 1] })]],
    ["replace and regex.match", "matched", [yields("/run/ab12/rootfs", true), undefinedFor("/run/ab123/rootfs"), undefinedFor("/run/ab12/rootfs\n")]],
    ["comparisons of numbers", "byte", [yields("255", true), undefinedFor("256"), undefinedFor("-1"), undefinedFor("0x1")]],
    [
      "an index that is computed",
      "last_option",
      [yields({ layers: ["a"], options: ["p", "l", "rw"] }, true), undefinedFor({ layers: ["a", "b"], options: ["p", "l", "rw"] })],
    ],
    ["trim_prefix", "unprefixed", [yields("CAP_KILL", "KILL"), yields("KILL", "KILL")]],
    ["print of what is undefined", "printed", [yields({ a: 1 }, true), undefinedFor({ a: 2 })]],
  ]);

  it("does not load as v1", () => {
    expect(codeOf(() => compile([{ name: "agent_policy", text: KATA_2023 }]))).toBe("ERR_REGO_PARSE");
  });

  it("a policy of defaults and one constant object, as agents ship it", () => {
    const text = 'package agent_policy\n\ndefault PullImageRequest := true\ndefault ExecProcessRequest := false\npolicy_data := {"a": [1]}\n';
    for (const version of ["v0", "v1"] as const) {
      const shipped = compile([{ name: "agent_policy", text }], { version });
      expect(["PullImageRequest", "ExecProcessRequest", "OtherRequest"].map((rule) => ask(shipped, `data.agent_policy.${rule}`, {}))).toEqual([
        true,
        false,
        undefined,
      ]);
    }
  });

  it("a function that calls itself, which rules of AKS have", () => {
    const text = `package agent_policy
replaced_all(text, pairs, at) = text { at == count(pairs) }
replaced_all(text, pairs, at) = result {
    at < count(pairs)
    result := replaced_all(replace(text, pairs[at][0], pairs[at][1]), pairs, at + 1)
}
result = replaced_all(input, [["$(a)", "1"], ["$(b)", "2"]], 0)`;
    const modules: readonly RegoModule[] = [{ name: "agent_policy", text, version: "v0" }];
    expect(ask(compile(modules, { allowRecursiveFunctions: true }), "data.agent_policy.result", "$(a)-$(b)-$(a)")).toBe("1-2-1");
    expect(codeOf(() => compile(modules))).toBe("ERR_REGO_RECURSION");
  });
});

// ---------------------------------------------------------------------------------------------------------------------------

const KATA_TODAY = `
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default CreateContainerRequest := false
default ExecProcessRequest := false
default RemoveContainerRequest := true
default WriteStreamRequest := false

WriteStreamRequest if policy_data.request_defaults.WriteStreamRequest == true

CreateContainerRequest := {"ops": ops, "allowed": true} if {
    name_op := remembered("sandbox_name", input.name)
    some index, candidate in policy_data.containers
    print("candidate", index, candidate.name, candidate.nothing)
    candidate.args == input.args
    network_op := remembered("network", network())
    container_op := remembered(input.container_id, index)
    ops := [op | some op in [name_op, network_op, container_op]; op.op != "none"]
};

remembered(key, value) := {"op": "none"} if {
    state[key] == value
} else := {"op": "add", "path": concat("/", ["", "pstate", key]), "value": value} if {
    not known(key)
}

known(key) if state[key]

state := data["pstate"]

network() := path if {
    paths := [namespace.Path | some namespace in input.namespaces; namespace.Type == "network"]
    path := paths[0]
}

network() := "" if {
    count([1 | some namespace in input.namespaces; namespace.Type == "network"]) == 0
}

ExecProcessRequest if {
    container := policy_data.containers[data.pstate[input.container_id]]
    some command in container.exec_commands
    command == input.args
}

RemoveContainerRequest := {"ops": [{"op": "remove", "path": concat("", ["/pstate/", input.container_id])}], "allowed": true} if {
    known(input.container_id)
}

twins := {"allowed": true, "index": index} if {
    some index, candidate in policy_data.twins
    candidate == input
}

complete := 7 if input == "seven"
complete = 8 if input == "eight"

negated if not input.hidden
negated_membership if not input.device in policy_data.forbidden
some_item if { some item in input; item == "x" }
some_pair if { some key, value in input; key == value }
some_index if { some index; policy_data.containers[index].name == input; index == 1 }
every_item if every item in input { item in {"a", "b"} }
every_pair if every key, value in input { startswith(value, key) }
array_made := [upper_case | some item in input; upper_case := lower(item)]
set_made := {name |
    some name in input
    not startswith(name, "CAP_")
}
any_member if policy_data.containers[_].name == input
by_name if policy_data.common[input.name] == input.value

kind(text) := "mnt" if {
    lower(text) == "mount"
} else := lower(text)

kinds := [kind(text) | some text in input]

set_literal if input in {"blk", "scsi"}

first_capture := regex.find_all_string_submatch_n("^/run/([0-9a-f]{4}|[a-z-]+)/rootfs$", input, 1)[0][1]

joined := {item | some item in input.a} | {"rw"}
lacking := {item | some item in input.a} - {item | some item in input.b}
more if { extra := {item | some item in input.a} - {item | some item in input.b}; count(extra) == 0 }

counted if count(input.guest_hook_path) == 0
replaced := replace(replace(input, "$(sfprefix)", policy_data.common.sfprefix), "$(cpath)", "/shared")
matched if regex.match(replace(policy_data.common.pattern, "$(ipv4_a)", policy_data.common.ipv4_a), input)
parts := split(input, "=")
nothing if is_null(input.Seccomp)
prefixed if startswith(input, "/dev/vfio/")
glued := concat("/", ["", "pstate", input])
number := trim_prefix(input, "/dev/vfio/vfio")
placeholder if contains(input, "$(node-name)")
octet if { value := to_number(input); value >= 1; value <= 255 }
appended := array.concat(input, [{"op": "add"}])
device := base64url.encode(input)
lowered := lower(input)
short := substring(input, 4, -1)
flags_fit if bits.and(input, bits.negate(128)) == 0
state_fits if bits.or(input, 136) == 136
differs if input.name != "lo"
greater if input > 2
minus := count(input) - 1
unprefixed := short_name(input)

short_name(name) := substring(name, 4, -1) if {
    startswith(name, "CAP_")
} else := name

printed if { print("seen", input.a.b, [input.c]); true }

policy_data := {
  "containers": [
    {"name": "pause", "args": ["/pause"], "exec_commands": []},
    {"name": "web", "args": ["serve"], "exec_commands": [["ls", "-l"]]}
  ],
  "twins": ["single", "twin", "twin"],
  "forbidden": ["lo"],
  "common": {"sfprefix": "^$(cpath)/x-", "pattern": "^A_HOST=$(ipv4_a)$", "ipv4_a": "[0-9]{1,3}(?:\\\\.[0-9]{1,3}){3}"},
  "request_defaults": {"WriteStreamRequest": false}
}
`;

describe.each<RegoVersion>(["v0", "v1"])("Kata of today, read as %s", (version) => {
  const load = (): Policy => {
    const policy = compile([{ name: "agent_policy", text: KATA_TODAY }], { version });
    policy.setData({ pstate: {} });
    return policy;
  };

  features(load(), "data.agent_policy", [
    ["default rules and conditions without braces", "WriteStreamRequest", [yields({}, false)]],
    ["complete rules with several definitions", "complete", [yields("seven", 7), yields("eight", 8), undefinedFor("nine")]],
    ["not", "negated", [yields({}, true), yields({ hidden: false }, true), undefinedFor({ hidden: 0 })]],
    ["not ... in: a missing operand denies", "negated_membership", [yields({ device: "eth0" }, true), undefinedFor({ device: "lo" }), undefinedFor({})]],
    ["some x in", "some_item", [yields(["a", "x"], true), yields({ k: "x" }, true), undefinedFor(["a"]), undefinedFor("x")]],
    ["some k, v in", "some_pair", [yields({ a: "b", c: "c" }, true), yields([1, 1], true), undefinedFor({ a: "b" })]],
    ["some i with a reference", "some_index", [yields("web", true), undefinedFor("pause")]],
    ["every x in, set literal", "every_item", [yields(["a", "b"], true), yields([], true), undefinedFor(["a", "c"]), undefinedFor(null)]],
    ["every k, v in", "every_pair", [yields({ a: "ab", b: "b" }, true), undefinedFor({ a: "ba" })]],
    ["array comprehension", "array_made", [yields(["B", "A", 1, "B"], ["b", "a", "b"])]],
    ["set comprehension over lines", "set_made", [yields(["b", "CAP_X", "a", "b"], ["a", "b"])]],
    ["ref[_]", "any_member", [yields("pause", true), undefinedFor("db")]],
    [
      "ref[ref]",
      "by_name",
      [yields({ name: "sfprefix", value: "^$(cpath)/x-" }, true), undefinedFor({ name: "constructor", value: "x" }), undefinedFor({ name: 1, value: 1 })],
    ],
    ["else in a function", "kinds", [yields(["Mount", "IPC"], ["mnt", "ipc"])]],
    ["in a set literal", "set_literal", [yields("scsi", true), undefinedFor("nvdimm"), undefinedFor(["blk"])]],
    [
      "a reference on the result of a call",
      "first_capture",
      [yields("/run/00ff/rootfs", "00ff"), yields("/run/my-pod/rootfs", "my-pod"), undefinedFor("/run/../rootfs")],
    ],
    ["| of sets", "joined", [yields({ a: ["ro", "rw", "ro"] }, ["ro", "rw"])]],
    ["- of sets", "lacking", [yields({ a: [3, 1, 2], b: [2] }, [1, 3])]],
    ["count of a difference", "more", [yields({ a: [1], b: [1, 2] }, true), undefinedFor({ a: [1, 3], b: [1, 2] })]],
    ["count of a string", "counted", [yields({ guest_hook_path: "" }, true), undefinedFor({ guest_hook_path: "/x" }), undefinedFor({ guest_hook_path: null })]],
    ["replace in replace", "replaced", [yields("$(sfprefix)hosts$", "^/shared/x-hosts$")]],
    [
      "regex.match with a pattern that is put together",
      "matched",
      [yields("A_HOST=10.0.0.1", true), undefinedFor("A_HOST=10.0.0"), undefinedFor("XA_HOST=10.0.0.1"), undefinedFor("A_HOST=\u0661.0.0.1")],
    ],
    ["split", "parts", [yields("A=b=c", ["A", "b", "c"]), yields("", [""]), undefinedFor(null)]],
    ["is_null", "nothing", [yields({ Seccomp: null }, true), undefinedFor({ Seccomp: {} }), undefinedFor({})]],
    ["startswith", "prefixed", [yields("/dev/vfio/1", true), undefinedFor("/dev/kvm")]],
    ["concat", "glued", [yields("id", "/pstate/id")]],
    ["trim_prefix", "number", [yields("/dev/vfio/vfio12", "12"), yields("/dev/kvm", "/dev/kvm")]],
    ["contains as a function beside the keyword", "placeholder", [yields("--on=$(node-name)", true), undefinedFor("--on=$(node)")]],
    ["to_number, >= and <=", "octet", [yields("255", true), undefinedFor("256"), undefinedFor("0"), undefinedFor("x")]],
    ["array.concat", "appended", [yields([1], [1, { op: "add" }]), undefinedFor({})]],
    ["base64url.encode", "device", [yields("0a/03?", "MGEvMDM_")]],
    ["lower", "lowered", [yields("MoUnT", "mount")]],
    ["substring to the end", "short", [yields("CAP_KILL", "KILL"), yields("CAP", "")]],
    ["bits.and, bits.negate", "flags_fit", [yields(128, true), yields(0, true), undefinedFor(129), undefinedFor(1.5)]],
    ["bits.or", "state_fits", [yields(8, true), undefinedFor(1)]],
    ["!=", "differs", [yields({ name: "eth0" }, true), undefinedFor({ name: "lo" }), undefinedFor({})]],
    [">", "greater", [yields(3, true), undefinedFor(2)]],
    ["- of numbers", "minus", [yields([1, 2], 1), yields([], -1)]],
    ["else with a value and no condition", "unprefixed", [yields("CAP_KILL", "KILL"), yields("KILL", "KILL")]],
    ["print never fails", "printed", [yields({}, true)]],
  ]);

  it("an object-valued rule, found by iteration, whose operations change data.pstate", () => {
    const policy = load();
    const create = (id: string, name: string, args: readonly string[], more: JsonObject = {}): JsonValue | undefined => {
      const verdict = ask(policy, "data.agent_policy.CreateContainerRequest", { container_id: id, name, args, namespaces: [], ...more });
      if (verdict !== false) policy.patchData((verdict as unknown as { readonly ops: readonly PatchOperation[] }).ops);
      return verdict;
    };
    const exec = (id: string): JsonValue | undefined => ask(policy, "data.agent_policy.ExecProcessRequest", { container_id: id, args: ["ls", "-l"] });
    const remove = (id: string): JsonValue | undefined => ask(policy, "data.agent_policy.RemoveContainerRequest", { container_id: id });

    expect(exec("c1")).toBe(false);
    expect(remove("c1")).toBe(true);
    expect(create("c0", "web-0", ["/pause"])).toEqual({
      allowed: true,
      ops: [
        { op: "add", path: "/pstate/sandbox_name", value: "web-0" },
        { op: "add", path: "/pstate/network", value: "" },
        { op: "add", path: "/pstate/c0", value: 0 },
      ],
    });
    expect(create("c1", "web-0", ["serve"])).toEqual({ allowed: true, ops: [{ op: "add", path: "/pstate/c1", value: 1 }] });
    // Once more the same: nothing to remember.
    expect(create("c1", "web-0", ["serve"])).toEqual({ allowed: true, ops: [] });
    expect(create("c1", "web-0", ["/pause"])).toBe(false);
    expect(create("c2", "web-1", ["serve"])).toBe(false);
    expect(create("c2", "web-0", ["serve", "-x"])).toBe(false);
    expect(create("c2", "web-0", ["serve"], { namespaces: [{ Type: "network", Path: "/run/netns/x" }] })).toBe(false);
    expect([exec("c0"), exec("c1"), exec("c2")]).toEqual([false, true, false]);
    const removal = remove("c1");
    expect(removal).toEqual({ allowed: true, ops: [{ op: "remove", path: "/pstate/c1" }] });
    policy.patchData((removal as unknown as { readonly ops: readonly PatchOperation[] }).ops);
    expect([exec("c1"), remove("c1")]).toEqual([false, true]);
  });

  it("two containers that match one request are a conflict", () => {
    const policy = load();
    expect(ask(policy, "data.agent_policy.twins", "single")).toEqual({ allowed: true, index: 0 });
    expect(ask(policy, "data.agent_policy.twins", "none")).toBeUndefined();
    expect(codeOf(() => ask(policy, "data.agent_policy.twins", "twin"))).toBe("ERR_REGO_CONFLICT");
  });

  it("prints the candidates with what they lack", () => {
    const { prints } = load().evaluate("data.agent_policy.CreateContainerRequest", { input: { container_id: "c", name: "n", args: ["no"] } });
    expect(prints).toEqual(["agent_policy:18: candidate 0 pause <undefined>", "agent_policy:18: candidate 1 web <undefined>"]);
  });
});

// ---------------------------------------------------------------------------------------------------------------------------

const FRAMEWORK = `
package framework

import future.keywords.every
import future.keywords.in

version := "0.4.1"

default create_container := {"allowed": false}

create_container := {"allowed": true, "env_list": env_list, "metadata": [update]} if {
	not container_started
	possible := [container |
		some container in candidates
		layers_ok(container.layers)
		command_ok(container.command)
	]
	count(possible) > 0
	env_list := kept_environment(possible)
	count(env_list) == count(input.envList)
	update := {"name": "started", "action": "add", "key": input.containerID, "value": possible[0].id}
}

container_started if data.metadata.started[input.containerID]

default shutdown_container := {"allowed": false}

shutdown_container := {"allowed": true, "metadata": [remove]} if {
	some container in candidates
	container.id == data.metadata.started[input.containerID]
	remove := {"name": "started", "action": "remove", "key": input.containerID}
}

default load_fragment := {"allowed": false}

load_fragment := {"allowed": true, "add_module": add} if {
	some fragment in data.policy.fragments
	input.issuer == fragment.issuer
	input.feed == fragment.feed
	svn_ok(input.svn, fragment.minimum_svn)
	add := "containers" in fragment.includes
}

# All numbers, or all versions.
svn_ok(svn, minimum) if semver.compare(svn, minimum) >= 0

svn_ok(svn, minimum) if {
	not semver.is_valid(svn)
	to_number(svn) >= to_number(minimum)
}

candidates := array.concat(data.policy.containers, fragment_containers)

fragment_containers := [container |
	some feed, module in object.get(data.metadata, ["issuers", input.issuer, "feeds"], {})
	container := module.containers[_]
]

layers_ok(layers) if {
	count(layers) == count(input.layerPaths)
	every index, path in input.layerPaths {
		data.metadata.devices[path] == layers[index]
	}
}

command_ok(command) if command == input.argList

kept_environment(containers) := kept if {
	kept := [variable |
		some variable in input.envList
		some container in containers
		variable_ok(container.env_rules, variable)
	]
}

variable_ok(rules, variable) if {
	some rule in rules
	rule.strategy == "string"
	rule.pattern == variable
}

variable_ok(rules, variable) if {
	some rule in rules
	rule.strategy == "re2"
	regex.match(rule.pattern, variable)
}

# Partial sets: what went wrong, by the names of the checks.
errors contains "no container has this command" if {
	not any_command
}

errors contains message if {
	some path in input.layerPaths
	not data.metadata.devices[path]
	message := sprintf("no device at %s of %d", [path, count(input.layerPaths)])
}

errors contains concat(" ", ["variable", name, "is missing"]) if {
	some container in data.policy.containers
	some rule in container.env_rules
	rule.required
	name := substring(rule.pattern, 0, indexof(rule.pattern, "="))
	not name in {split(variable, "=")[0] | some variable in input.envList}
}

any_command if data.policy.containers[_].command == input.argList

default field(_, _) := "none"

field(object, name) := object[name]

fields := [field(data.policy.containers[0], name) | some name in input.names]

default mode := "closed"

mode := "open" if {
	input.mode == "open"
} else := "half" if {
	input.mode == "half"
}

by_id := {container.id: container.command | some container in data.policy.containers}

device_of := data.metadata.devices[data.metadata.aliases[input.alias]]

deep := object.get(input, ["a", "b", 0], "absent")

shallow := object.get(input, "a", "absent")

newest := max([version | some version in input; is_number(version)])

merged := object.union({"a": 1, "n": {"x": 1}}, input)

names := object.keys(input)

all_of := union({set_of(list) | some list in input})

common_to := intersection({set_of(list) | some list in input})

set_of(list) := {item | some item in list}

compared := semver.compare(input.a, input.b)

is_version if semver.is_valid(input)

is_mount if endswith(input, "/mount")
`;

const ACI_POLICY = `
package policy

import rego.v1

containers := [
	{"id": "web", "command": ["serve"], "layers": ["h1", "h2"], "env_rules": [
		{"pattern": "MODE=fast", "strategy": "string", "required": true},
		{"pattern": "^PORT=[0-9]+$", "strategy": "re2", "required": false},
	]},
	{"id": "db", "command": ["store"], "layers": ["h3"], "env_rules": []},
]

fragments := [{"issuer": "did:x509:a", "feed": "f", "minimum_svn": "1.2.0", "includes": ["containers"]}, {"issuer": "old", "feed": "f", "minimum_svn": "3", "includes": []}]

create_container := data.framework.create_container

load_fragment := data.framework.load_fragment

default missing := false

missing if data.framework.not_there
`;

describe("ACI framework", () => {
  const modules: readonly RegoModule[] = [
    { name: "framework.rego", text: FRAMEWORK },
    { name: "policy.rego", text: ACI_POLICY },
  ];
  const policy = compile(modules);
  const metadata = (started: JsonObject = {}, more: JsonObject = {}): JsonObject => ({
    metadata: { devices: { "/l1": "h1", "/l2": "h2" }, aliases: { first: "/l1", none: "/l9" }, started, ...more },
  });
  policy.setData(metadata());

  features(policy, "data.framework", [
    ["default rules with object values", "shutdown_container", [yields({ containerID: "c1" }, { allowed: false }), yields({}, { allowed: false })]],
    [
      "partial sets with contains",
      "errors",
      [
        yields({ argList: ["serve"], layerPaths: ["/l1"], envList: ["MODE=x"] }, []),
        yields({ argList: ["no"], layerPaths: ["/l1", "/l3"], envList: ["PORT=1"] }, [
          "no container has this command",
          "no device at /l3 of 2",
          "variable MODE is missing",
        ]),
      ],
    ],
    ["default function", "fields", [yields({ names: ["id", "nope", "command"] }, ["web", "none", ["serve"]])]],
    ["else under a default", "mode", [yields({ mode: "open" }, "open"), yields({ mode: "half" }, "half"), yields({}, "closed")]],
    ["object comprehension", "by_id", [yields({}, { web: ["serve"], db: ["store"] })]],
    ["ref[ref]", "device_of", [yields({ alias: "first" }, "h1"), undefinedFor({ alias: "none" }), undefinedFor({ alias: "toString" })]],
    ["object.get with a path", "deep", [yields({ a: { b: [false] } }, false), yields({ a: { b: [] } }, "absent"), yields({ a: 1 }, "absent"), undefinedFor(7)]],
    ["object.get with a key", "shallow", [yields({ a: [] }, []), yields({ __proto__: null, b: 1 }, "absent")]],
    ["max", "newest", [yields([3, "9", 12], 12), undefinedFor([])]],
    ["object.union merges deep", "merged", [yields({ b: 2, n: { y: 2 } }, { a: 1, b: 2, n: { x: 1, y: 2 } })]],
    ["object.keys", "names", [yields({ b: 1, a: 2 }, ["a", "b"]), undefinedFor(["a"])]],
    [
      "union",
      "all_of",
      [
        yields(
          [
            [1, 2],
            [2, 3],
          ],
          [1, 2, 3],
        ),
        yields([], []),
      ],
    ],
    [
      "intersection",
      "common_to",
      [
        yields(
          [
            [1, 2],
            [2, 3],
          ],
          [2],
        ),
        yields([[1], [2]], []),
      ],
    ],
    [
      "semver.compare",
      "compared",
      [
        yields({ a: "1.10.0", b: "1.9.9" }, 1),
        yields({ a: "1.0.0-rc.1", b: "1.0.0" }, -1),
        yields({ a: "1.0.0", b: "1.0.0" }, 0),
        undefinedFor({ a: "1.0", b: "1.0.0" }),
      ],
    ],
    ["semver.is_valid", "is_version", [yields("1.2.3", true), undefinedFor("v1")]],
    ["endswith", "is_mount", [yields("/a/mount", true), undefinedFor("/mount/a")]],
  ]);

  features(policy, "data.policy", [
    [
      "rules that stand for rules of another package",
      "create_container",
      [
        yields(
          { containerID: "c1", argList: ["serve"], layerPaths: ["/l1", "/l2"], envList: ["MODE=fast", "PORT=80"] },
          { allowed: true, env_list: ["MODE=fast", "PORT=80"], metadata: [{ name: "started", action: "add", key: "c1", value: "web" }] },
        ),
        yields({ containerID: "c1", argList: ["serve"], layerPaths: ["/l2", "/l1"], envList: [] }, { allowed: false }),
        yields({ containerID: "c1", argList: ["serve"], layerPaths: ["/l1", "/l2"], envList: ["PORT=x"] }, { allowed: false }),
        yields({}, { allowed: false }),
      ],
    ],
    [
      "versions and numbers compared",
      "load_fragment",
      [
        yields({ issuer: "did:x509:a", feed: "f", svn: "1.10.0" }, { allowed: true, add_module: true }),
        yields({ issuer: "did:x509:a", feed: "f", svn: "1.1.9" }, { allowed: false }),
        yields({ issuer: "old", feed: "f", svn: "12" }, { allowed: true, add_module: false }),
        yields({ issuer: "old", feed: "f", svn: "2" }, { allowed: false }),
        yields({ issuer: "did:x509:b", feed: "f", svn: "9.0.0" }, { allowed: false }),
      ],
    ],
    ["a rule that the framework lacks", "missing", [yields({}, false)]],
  ]);

  it("data.metadata is replaced between queries", () => {
    const own = compile(modules);
    const create = { containerID: "c1", argList: ["serve"], layerPaths: ["/l1", "/l2"], envList: [] };
    own.setData(metadata());
    expect(ask(own, "data.policy.create_container", create)).toMatchObject({ allowed: true });
    own.setData(metadata({ c1: "web" }));
    expect(ask(own, "data.policy.create_container", create)).toEqual({ allowed: false });
    expect(ask(own, "data.framework.shutdown_container", { containerID: "c1" })).toEqual({
      allowed: true,
      metadata: [{ name: "started", action: "remove", key: "c1" }],
    });
    // For one query alone.
    expect(own.evaluate("data.policy.create_container", { input: create, data: metadata() }).results[0]?.expressions).toMatchObject([{ allowed: true }]);
    expect(ask(own, "data.policy.create_container", create)).toEqual({ allowed: false });
  });

  it("fragments are modules that are added and taken away", () => {
    const fragment = { name: "fragment.rego", text: 'package fragment\n\nsvn := "1"\n\ncontainers := [{"id": "extra", "command": ["extra"]}]' };
    const input = { containerID: "c1", argList: ["extra"] };
    const query = "some container in data.fragment.containers; container.command == input.argList; x := container.id";
    const ids = (with_: readonly RegoModule[]): readonly unknown[] =>
      compile(with_)
        .evaluate(query, { input })
        .results.map(({ bindings }) => bindings["x"]);
    expect(ids([...modules, fragment])).toEqual(["extra"]);
    expect(ids(modules)).toEqual([]);
    // What a fragment said, kept in the state.
    const issuers = { a: { feeds: { f: { containers: [{ id: "kept", command: ["kept"] }] } } } };
    const own = compile(modules);
    own.setData(metadata({}, { issuers }));
    expect(ask(own, 'data.framework.candidates[_].id == "kept"', { issuer: "a" })).toBe(true);
    expect(ask(own, 'data.framework.candidates[_].id == "kept"', { issuer: "b" })).toBeUndefined();
  });

  it("metadata may not stand where a module does", () => {
    expect(codeOf(() => compile(modules).setData({ framework: { create_container: { allowed: true } } }))).toBe("ERR_REGO_DATA");
  });

  it("the older form, in v0", () => {
    const text = `package framework
import future.keywords.every
import future.keywords.in
default mount_device := {"allowed": false}
mount_device := {"allowed": true} { some container in data.policy.containers; input.deviceHash in container.layers }
errors["no such layer"] { not mount_device.allowed }`;
    const old = compile([{ name: "framework.rego", text, version: "v0" }, modules[1]!]);
    expect(ask(old, "data.framework.mount_device", { deviceHash: "h2" })).toEqual({ allowed: true });
    expect(ask(old, "data.framework.errors", { deviceHash: "h2" })).toEqual([]);
    expect(ask(old, "data.framework.mount_device", { deviceHash: "h9" })).toEqual({ allowed: false });
    expect(ask(old, "data.framework.errors", { deviceHash: "h9" })).toEqual(["no such layer"]);
  });
});

// ---------------------------------------------------------------------------------------------------------------------------

const TRUSTEE = `
package policy

import rego.v1

default executables := 33
default hardware := 97
default configuration := 36

executables := 3 if {
	input.snp.measurement in query_reference_value("snp_launch_measurement")
}

executables := 4 if {
	input.tdx
	input.tdx.mr_td in query_reference_value("mr_td")
	input.tdx.rtmr1 in query_reference_value("rtmr_1")
}

hardware := 2 if {
	input.snp.reported_tcb_snp >= 10
	input.snp.reported_tcb_microcode >= floor_of("microcode")
}

configuration := 2 if {
	input.snp.policy_debug_allowed == false
	input.snp.policy_migrate_ma == false
} else := 3 if {
	input.snp.policy_debug_allowed == false
} else := 35 if {
	input.snp
}

floor_of(name) := [value | some value in query_reference_value(name)][0]

claims := input.claims if {
	is_object(input.claims)
} else := {}

merged := object.union_n([{"a": 1, "n": {"x": 1}}, claims, {"z": 26}])

levels := [level | some level in [executables, hardware]; level >= 32]
`;

describe("Trustee, attestation policy", () => {
  const reference: JsonObject = { snp_launch_measurement: ["aa", "bb"], microcode: [115], mr_td: "not a list" };
  const asked: string[] = [];
  const options: CompileOptions = {
    hostFunctions: [
      {
        name: "query_reference_value",
        arity: 1,
        call(name) {
          const key = typeof name === "string" ? name : "";
          asked.push(key);
          return reference[key];
        },
      },
    ],
  };
  const policy = compile([{ name: "policy.rego", text: TRUSTEE }], options);

  features(policy, "data.policy", [
    [
      "default name := n, and a host function with in",
      "executables",
      [yields({ snp: { measurement: "bb" } }, 3), yields({ snp: { measurement: "cc" } }, 33), yields({ tdx: { mr_td: "x", rtmr1: "y" } }, 33), yields({}, 33)],
    ],
    [
      ">= with numbers from the host",
      "hardware",
      [
        yields({ snp: { reported_tcb_snp: 10, reported_tcb_microcode: 115 } }, 2),
        yields({ snp: { reported_tcb_snp: 10, reported_tcb_microcode: 114 } }, 97),
        yields({ snp: { reported_tcb_snp: "10", reported_tcb_microcode: 115 } }, 2),
        yields({ snp: { reported_tcb_snp: 9, reported_tcb_microcode: 115 } }, 97),
      ],
    ],
    [
      "a chain of else under a default",
      "configuration",
      [
        yields({ snp: { policy_debug_allowed: false, policy_migrate_ma: false } }, 2),
        yields({ snp: { policy_debug_allowed: false, policy_migrate_ma: true } }, 3),
        yields({ snp: { policy_debug_allowed: true } }, 35),
        yields({}, 36),
      ],
    ],
    ["a bare else := {}", "claims", [yields({ claims: { k: 1 } }, { k: 1 }), yields({ claims: "text" }, {}), yields({}, {})]],
    ["object.union_n", "merged", [yields({ claims: { n: { y: 2 }, z: 0 } }, { a: 1, n: { x: 1, y: 2 }, z: 26 }), yields({}, { a: 1, n: { x: 1 }, z: 26 })]],
    ["array comprehension over rules", "levels", [yields({}, [33, 97]), yields({ snp: { measurement: "aa" } }, [97])]],
  ]);

  it("rules are asked one by one; a path that is no rule is a claim that is absent", () => {
    const claims = ["executables", "hardware", "configuration", "file_system", "executables.x"].map((rule) =>
      policy.evaluate(`data.policy.${rule}`, { input: {} }).results.map(({ expressions }) => expressions[0]),
    );
    expect(claims).toEqual([[33], [97], [36], [], []]);
    expect(policy.evaluate("data.other.executables", { input: {} }).results).toEqual([]);
  });

  it("the host function is only called when a rule needs it", () => {
    asked.length = 0;
    ask(policy, "data.policy.configuration", { snp: {} });
    expect(asked).toEqual([]);
    ask(policy, "data.policy.executables", { snp: { measurement: "bb" } });
    expect(asked).toEqual(["snp_launch_measurement"]);
  });

  it("does not load where the host function is missing", () => {
    expect(codeOf(() => compile([{ name: "policy.rego", text: TRUSTEE }]))).toBe("ERR_REGO_TYPE");
  });

  it("two rules that claim different things are an error, not the first of them", () => {
    const text = "package policy\nimport rego.v1\ndefault level := 9\nlevel := 1 if input.a\nlevel := 2 if input.b";
    const claims = compile([{ name: "policy.rego", text }]);
    expect([ask(claims, "data.policy.level", { a: true }), ask(claims, "data.policy.level", {})]).toEqual([1, 9]);
    expect(codeOf(() => ask(claims, "data.policy.level", { a: true, b: true }))).toBe("ERR_REGO_CONFLICT");
  });
});

describe("Trustee, resource policy, in v0", () => {
  const text = `package policy

import future.keywords.in

default allow = false

plugin = data.plugin
resource_path = data["resource-path"]

allow {
	plugin == "resource"
	resource_path != "default/secret/root"
	not input["submods"]["cpu0"]["ear.status"] == "contraindicated"
	some name, submod in input.submods
	submod["ear.trustworthiness-vector"].executables == 3
	count(name) > 0
}

allow {
	plugin = "echo"
}

affirmed {
	not input["submods"]["cpu0"]["ear.status"] != "affirming"
}
`;
  const policy = compile([{ name: "policy.rego", text }], { version: "v0" });
  const allow = (data: JsonObject, input: JsonValue): JsonValue | undefined => policy.evaluate("data.policy.allow", { data, input }).results[0]?.expressions[0];
  const affirming = (executables: number): JsonObject => ({
    submods: { cpu0: { "ear.status": "affirming", "ear.trustworthiness-vector": { executables } } },
  });

  it.each<[string, JsonObject, JsonValue, boolean]>([
    ["everything fits", { plugin: "resource", "resource-path": "default/key/1" }, affirming(3), true],
    ["another vector", { plugin: "resource", "resource-path": "default/key/1" }, affirming(33), false],
    ["a path that is ruled out", { plugin: "resource", "resource-path": "default/secret/root" }, affirming(3), false],
    ["no path: != of what is missing does not hold", { plugin: "resource" }, affirming(3), false],
    ["the second body", { plugin: "echo" }, {}, true],
    ["another plugin", { plugin: "other", "resource-path": "a" }, affirming(3), false],
    ["no data", {}, affirming(3), false],
    ["contraindicated", { plugin: "resource", "resource-path": "a" }, { submods: { cpu0: { "ear.status": "contraindicated" } } }, false],
    [
      "not with == holds for what is missing",
      { plugin: "resource", "resource-path": "a" },
      { submods: { gpu0: { "ear.trustworthiness-vector": { executables: 3 } } } },
      true,
    ],
  ])("%s", (_, data, input, expected) => {
    expect(allow(data, input)).toBe(expected);
  });

  it("not with != denies what is missing: only == looks at it", () => {
    expect(ask(policy, "data.policy.affirmed", affirming(3))).toBe(true);
    expect(ask(policy, "data.policy.affirmed", { submods: { cpu0: { "ear.status": "warning" } } })).toBeUndefined();
    expect(ask(policy, "data.policy.affirmed", { submods: {} })).toBeUndefined();
  });
});

// ---------------------------------------------------------------------------------------------------------------------------

// Section 4 of the specification, where language.test.ts, the parser's and the builtins' tests do not have it.

describe("grammar (4.1)", () => {
  const old = (rules: string, input: JsonValue = {}): JsonValue | undefined =>
    ask(compile([{ name: "t", text: `package t\n${rules}` }], { version: "v0" }), "data.t.p", input);

  it("the keywords of v1 are names in v0, until they are imported", () => {
    expect(old("p { if := 1; in := 2; every := 3; contains := [if, in, every]; contains == [1, 2, 3] }")).toBe(true);
    expect(old("contains(x, y) { x == y }\np { contains(1, 1) }")).toBe(true);
    expect(codeOf(() => old("import future.keywords.in\np { in := 1; in == 1 }"))).toBe("ERR_REGO_PARSE");
    expect(codeOf(() => valueOf("p if { every := 1 }"))).toBe("ERR_REGO_PARSE");
  });

  it("a bare head with a dot is a set in v0", () => {
    expect(old("p.a")).toEqual(["a"]);
    expect(old("p.a { input.x }\np.b { input.y }", { y: 1 })).toEqual(["b"]);
  });

  it("import rego.v1 makes a v0 module v1", () => {
    expect(old("import rego.v1\np contains x if { some x in [2, 1] }")).toEqual([1, 2]);
    expect(codeOf(() => old("import rego.v1\np { true }"))).toBe("ERR_REGO_PARSE");
    expect(codeOf(() => old("import rego.v1\np[x] { x := 1 }"))).toBe("ERR_REGO_PARSE");
  });

  it("future.keywords mean nothing new in v1, and all of them at once in v0", () => {
    expect(valueOf("import future.keywords.in\nimport future.keywords\np if 1 in [1]")).toBe(true);
    expect(old("import future.keywords\np contains x if { some x in [1]; every y in [x] { y == 1 } }")).toEqual([1]);
  });

  it("contains is a keyword of heads and a function in bodies", () => {
    expect(valueOf('p contains x if { some x in ["ab", "b"]; contains(x, "a") }')).toEqual(["ab"]);
  });

  it.each<[string, unknown]>([
    // A bracket on a new line begins a statement.
    ["p if { x := [1, 2]\n[y] = [x]\ny == [1, 2] }", true],
    // In the first element a bar is never a union if what follows can be a body.
    ["p := [1 | false]", []],
    ["p := {x | x}\nx := {1}", [[1]]],
    ["p := {(x | y)}\nx := {1}\ny := {2}", [[1, 2]]],
    ['p := {"a": 1 | false}', {}],
    ["p := [1, 2,]", [1, 2]],
    ['p := {"a": 1,}', { a: 1 }],
    ["p := [{}, set()] if { {} != set(); count({}) == 0 }", [{}, []]],
    ['p := `a\\n"`', 'a\\n"'],
    ['p := count("\\ud83d\\ude00")', 1],
    // Operators, loosest first: in, comparison, |, &, + and -, * / %, minus.
    ["p := x if { x := 1 == 1 in {true} }", true],
    ["p := x if { x := {1} | {2} & {3} }", [1]],
    ["p := x if { x := 1 + 2 * 3 - 8 / 4 % 3 }", 5],
    ["p := x if { x := {3, 4} - {4} | {5} }", [3, 5]],
    ["p := x if { x := - 2 + 3 }", 1],
    ["p := x if { x := 3 > 2 > 1 }", false],
    ["p := x if { x := 1 < 2 < 3 }", true],
    ["f(x) := [[x]]\np := f(f(1))[0][0][0][0]", 1],
    ['p := {"a": {"b": 2}}.a["b"]', 2],
    ['p := {x: y | some y, x in ["a"]}.a', 0],
  ])("%j", (rules, expected) => {
    expect(valueOf(rules)).toEqual(expected);
  });

  it("line ends of Windows, a byte order mark, quoted steps of a package", () => {
    const policy = compile([{ name: "t", text: '\ufeffpackage t["a b"].c\r\n\r\np if {\r\n  x := 1\r\n  x == 1\r\n}\r\n' }]);
    expect(ask(policy, 'data.t["a b"].c.p', {})).toBe(true);
    expect(ask(policy, "data.t.a.c.p", {})).toBeUndefined();
  });
});

describe("values (4.2)", () => {
  it.each<[string, unknown]>([
    ["[1e0 == 1, 1.0 == 1, {1, 1.0, 1e0}]", [true, true, [1]]],
    ['sort([set(), {}, [], "", 0, true, false, null])', [null, false, true, 0, "", [], {}, []]],
    ['sort(["\\ud83d\\ude00", "\\uffff", "Z", "a", "10", "9"])', ["10", "9", "Z", "a", "\uffff", "\u{1f600}"]],
    ['[k | some k, _ in {"b": 1, "a": 2, "10": 3, "9": 4, 7: 5}]', [7, "10", "9", "a", "b"]],
    ["[x | some x in {3, 20, 1}]", [1, 3, 20]],
    ['json.marshal({1: 2, [1]: 3, "a": 4})', '{"1":2,"[1]":3,"a":4}'],
    ['{"a": {"__proto__": 1}}.a.__proto__', 1],
    ['{"a": {}}.a.__proto__', undefined],
    ['{"constructor"} & {"constructor", "toString"}', ["constructor"]],
    ["[9007199254740993 - 1, 18446744073709551615 + 1 == 18446744073709551616]", [9007199254740992n, true]],
    ["4611686018427387904 * 4 / 4", 4611686018427387904n],
    ["[-7 % 3, 7 % -3, 6 % 3]", [-1, 1, 0]],
    ["0.1 + 0.2 == 0.3", true],
  ])("%s", (text, expected) => {
    expect(expression(text)).toEqual(expected);
  });
});

describe("undefined and false (4.3)", () => {
  it.each<[string, unknown]>([
    ["p if every x in true { x }", undefined],
    ["p if every x in 1 { x }", undefined],
    ["p if every x in set() { x == 1 }", true],
    ["p if every x in {} { x == 1 }", true],
    ['p if every v in {"k": 1} { v == 1 }', true],
    ["p if every i, x in [5, 6] { y := x - 5; y == i }", true],
    ["p if not every x in [1] { x == 2 }", "refused"],
    ["p if { some x in input.nope; x == 1 }", undefined],
    ["p if { some x in true; x == true }", undefined],
    ["p := x if { x := 1 in input.nope }", undefined],
    ["p := x if { x := 1 in null }", false],
    ["p := [x | x := [1, input.nope, 3][_]]", []],
    ['p := {x.y | some x in [{}, {"y": 1}]}', [1]],
    ['p := {k: v.y | some k, v in [{}, {"y": 1}]}', { 1: 1 }],
    ["p if { x := [false]; not x[0] }", true],
    ["p if { not false; not input.nope }", true],
    ["p if not not_there", "refused"],
  ])("%s", (rules, expected) => {
    if (expected === "refused") expect(codeOf(() => valueOf(rules, { input: {} }))).toBeDefined();
    else expect(valueOf(rules, { input: {} })).toEqual(expected);
  });
});

describe("rules (4.4)", () => {
  it("a conflict of two values passes through functions, negation, comprehensions and every", () => {
    for (const body of ["c == 1", "not c == 3", "count([1 | c == 1]) == 0", "every x in [1] { c == x }", "f(c)"]) {
      expect(codeOf(() => valueOf(`c := x if some x in [1, 2]\nf(_) := true\np if ${body}`))).toBe("ERR_REGO_CONFLICT");
    }
  });

  it("else belongs to one definition: another of the same name runs all the same", () => {
    const rules = "p := 1 if input.a else := 2 if input.b\np := 3 if input.c";
    const of = (input: JsonValue): unknown => codeOf(() => valueOf(rules, { input })) ?? valueOf(rules, { input });
    expect([of({ a: true }), of({ b: true }), of({ c: true }), of({}), of({ a: true, b: true })]).toEqual([1, 2, 3, undefined, 1]);
    expect([of({ a: true, c: true }), of({ b: true, c: true })]).toEqual(["ERR_REGO_CONFLICT", "ERR_REGO_CONFLICT"]);
  });

  it("partial rules are always defined, and equal values for one key are one", () => {
    expect(
      valueOf("p := [s, o] if { not s.x; not o.x }\ns contains x if { some x in input.nope }\no[x] := 1 if { some x in input.nope }", { input: {} }),
    ).toEqual([[], {}]);
    expect(valueOf('p[k] := v if some [k, v] in [["a", 1], ["a", 1.0]]')).toEqual({ a: 1 });
  });

  it("constants, arrays and objects as parameters", () => {
    const rules = 'f(1, _) := "one"\nf([x, 2], _) := x\nf({"k": {"l": x}}, x) := "deep"\nf(null, "a") := "null"\n';
    const calls = [
      "f(1, 5)",
      "f([7, 2], 5)",
      "f([7, 3], 5)",
      'f({"k": {"l": 4}}, 4)',
      'f({"k": {"l": 4}}, 5)',
      'f({"k": {"l": 4}, "m": 1}, 4)',
      'f(null, "a")',
    ];
    expect(calls.map((call) => valueOf(`${rules}p := ${call}`))).toEqual(["one", 7, undefined, "deep", undefined, undefined, "null"]);
  });

  it("what is wrong in a rule that nobody asks for is refused all the same", () => {
    for (const bad of ["q if x > 1", "q := nope(1)", 'q if regex.match("(", input)', "q := count(1, 2, 3)", "q if q"]) {
      expect(codeOf(() => valueOf(`p := 1\n${bad}`))).toBeDefined();
    }
  });

  it("documents of a package do not hold its functions and undefined rules", () => {
    expect(evaluate("a := 1\nb := 2 if false\nf(x) := x\ndefault d := 3\ns contains 1", "data.t").results[0]?.expressions).toEqual([{ a: 1, d: 3, s: [1] }]);
  });
});

describe("binding (4.5)", () => {
  it.each<[string, unknown]>([
    ['p := x if {"a": x} = {"a": 1, "b": 2}', undefined],
    ['p if {"a": _, "b": _} = {"a": 1, "b": 2}', true],
    ["p := x if [x, 1] = [1]", undefined],
    ['p := [x, y] if { [x, {"k": y}] = [1, {"k": [2]}] }', [1, [2]]],
    ["p := x if { input.list[i] = x; i = 1 }", 6],
    ["p := x if { x = y + 1; y = count(input.list) }", 3],
    ["p if { not x == 2; not x == 3; x = 1 }", true],
    ["x := 5\np if x == 5", true],
    ["x := 5\np := y if { x := 6; y := x }", 6],
    ["x := 5\np := [x | some x in [7]]", [7]],
    ["p := [r, x] if { r := [x | some x in [1, 2]]; x := 9 }", [[1, 2], 9]],
    ["p := r if { x := 1; r := [y | y := x + 1] }", [2]],
    ["p := y if { some x, y in [3]; x == 0 }", 3],
    ["p := n if { n := count([1 | input.list[_] = _]) }", 2],
  ])("%s", (rules, expected) => {
    expect(valueOf(rules, { input: { list: [5, 6] } })).toEqual(expected);
  });

  it("names of imports are not variables", () => {
    expect(valueOf("import input.list as list\np := list[0]", { input: { list: [5] } })).toBe(5);
    expect(valueOf("import input.list as list\np if list = [6]", { input: { list: [5] } })).toBeUndefined();
    expect(valueOf("import data.t.q as z\nq := 4\np := z", {})).toBe(4);
  });
});

describe("with (4.6)", () => {
  it.each<[string, unknown]>([
    ["q := input.x\np := [a, b, c] if { a := q; b := q with input.x as 2; c := q }", [1, 2, 1]],
    ["q := [input.x, data.y]\np := r if { r := q with input.x as 7 with data.y as 8 }", [7, 8]],
    ["f(x) := x\np := r if { r := f(1) with f as 9 }", 9],
    ["f(x) := count(x) * 10\np := r if { r := count([1, 2]) with count as f }", 20],
    ["s contains x if some x in input.list\np := r if { r := s with input.list as [3] }", [3]],
    ["g := 1\nh := g\np := [a, b] if { a := h with data.t.g as 2; b := h }", [2, 1]],
    ["p if { not input.z; input.z == 1 with input.z as 1 }", true],
    ['p := [x | some x in [1, 2]; y := input.x with input as {"x": x}; y == 2]', [2]],
    ["c := x if some x in input\np := r if { r := c with input as [4, 4] }", 4],
  ])("%s", (rules, expected) => {
    expect(valueOf(rules, { input: { x: 1 } })).toEqual(expected);
  });
});

describe("order and early exit, seen through print (4.7)", () => {
  const lines = (rules: string): readonly string[] => evaluate(rules, "data.t.p", { input: {} }).prints.map((line) => line.replace(/^t\.rego:\d+: /, ""));

  it.each<[string, string, readonly string[]]>([
    ["bodies with one constant stop at the first that holds", 'p if print("a")\np if print("b")', ["a"]],
    ["a body that fails does not stop them", 'p if { print("a"); false }\np if print("b")\np if print("c")', ["a", "b"]],
    ["constants that are equal count as one", 'p := {"k": [1]} if print("a")\np := {"k": [1]} if print("b")', ["a"]],
    ["different constants do not", 'p := 1 if { print("a"); true }\np := 2 if { print("b"); false }', ["a", "b"]],
    ["iteration stops at the first solution", "p if { some x in [1, 2, 3]; print(x); x > 1 }", ["1", "2"]],
    ["not if the value depends on it", "p := y if { some x in [1, 2, 3]; print(x); y := x > 0 }", ["1", "2", "3"]],
    ["functions stop as rules do", 'f(_) if print("a")\nf(_) if print("b")\np if f(1)', ["a"]],
    ["a rule runs once in a query", 'q if print("q")\nr if q\np if { q; r; q }', ["q"]],
    ["every stops at the first that fails", "p if every x in [1, 2, 3] { print(x); x < 2 }", ["1", "2"]],
    ["not stops at the first that holds", "q if { some x in [1, 2, 3]; print(x) }\np if not q", ["1"]],
    ["comprehensions run to the end", "p := [x | some x in [1, 2]; print(x)]", ["1", "2"]],
    ["else runs when what is before it fails", 'p := 1 if { print("a"); false } else := 2 if { print("b") } else := 3 if { print("c") }', ["a", "b"]],
    ["with has rules run again", 'q if print("q", input.x)\np if { q; q with input.x as 1; q }', ["q <undefined>", "q 1"]],
  ])("%s", (_, rules, expected) => {
    expect(lines(rules)).toEqual(expected);
  });
});

describe("errors of builtins (4.8)", () => {
  it.each<[string, unknown]>([
    ['p := 1 + "a"', undefined],
    ["p := 1 / 0", undefined],
    ["p := {1} - [1]", undefined],
    ["p if not 1 / 0 == 1", undefined],
    ['p if not to_number("x")', true],
    ['default p := false\np if to_number("x") > 0', false],
    ['f(x) := y if { y := to_number(x) }\nf("x") := 7\np := f("x")', 7],
    ['p := [y | some x in ["1", "x", "3"]; y := to_number(x)]', [1, 3]],
    ['p if { some x in ["x", "2"]; to_number(x) == 2 }', true],
    ['p if every x in ["x"] { to_number(x) }', undefined],
    ["p if input.x < {}", true],
  ])("%s", (rules, expected) => {
    expect(valueOf(rules, { input: { x: 1 } })).toEqual(expected);
  });

  it("abort in strict mode, wherever they are", () => {
    for (const body of ['to_number("x") == 1', "not 1 / 0 == 1", 'count([1 | to_number("x")]) == 0', 'every x in ["x"] { to_number(x) }']) {
      expect(["ERR_REGO_BUILTIN", "ERR_REGO_OPERAND"]).toContain(codeOf(() => valueOf(`p if { ${body} }`, {}, { strictBuiltinErrors: true })));
    }
  });
});

describe("where engines differ, with weight for security (4.9)", () => {
  it.each<[string, unknown]>([
    ["p if not data.t.f(input.nope)\nf(_) := true", undefined],
    ['p if { x := input; not startswith(x.nope, "a") }', undefined],
    ["p if not {input.nope} == {1}", undefined],
    ["p if not input.nope > 1", undefined],
    ["p if not input.nope == input.other", true],
    ['p if not input["nope"]', true],
    // A pattern from outside that is none makes the call undefined, and its negation true.
    ['p if regex.match(input.pattern, "(")', undefined],
    ['p if not regex.match(input.pattern, "(")', true],
    ['p if regex.match(`^\\s$`, "\u00a0")', undefined],
    ['p if regex.match(`^a.c$`, "a\\nc")', undefined],
    ['p if regex.match(`^\\Qa.c\\E$`, "abc")', undefined],
  ])("%j", (rules, expected) => {
    expect(valueOf(rules, { input: { pattern: "(" } })).toEqual(expected);
  });
});
