import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { answersTo } from "./test-support.ts";

// The agent runs where text does not become code (`eval`, `new Function`), and may run where V8 writes no machine code at all.
// The engine must come to the same there, in the form in which it gets there: bundled to one file.

const MODULE = String.raw`package t

default allow := false

allow if {
	some container in policy.containers
	print("candidate", container.name, input.image)
	regex.match(container.image, input.image)
	every variable in input.env { allow_variable(container, variable) }
	not denied[input.user]
}

allow_variable(container, variable) if {
	[name, value] := split(variable, "=")
	some pattern in container.env[name]
	regex.match(replace(pattern, "$(node)", "[a-z]{1,20}"), value)
}

denied contains user if some user in {"root", "nobody"}

report := {
	"text": sprintf("%s|%5.2f|%v|%q|%x", [input.image, 2.5, input.env, input.user, 255]),
	"names": [name | some variable in input.env; [name, _] := split(variable, "=")],
	"lengths": {variable: count(value) | some variable in input.env; [_, value] := split(variable, "=")},
	"digits": regex.find_n("[0-9]+", concat(" ", input.env), -1),
	"masked": regex.replace(input.image, "[aeiou]", "($0)"),
	"nested": {x | walk(input, [_, x]); is_string(x)},
	"large": 18446744073709551615 + 1,
	"elsewhere": [x | x := allow with input.user as "root"],
	"grade": grade(count(input.env)),
	"hash": crypto.sha256(json.marshal(input)),
	"template": $"image {input.image}, {count(input.env)} variables",
}

grade(n) := "none" if n == 0
else := "some" if n < 3
else := "many"

policy := {"containers": [
	{"name": "pause", "image": "^pause$", "env": {}},
	{"name": "web", "image": "^web:v[0-9]+(\\.[0-9]+){0,2}$", "env": {"NODE": ["^$(node)$"], "PORT": ["^\\d{1,5}$", "^$"]}},
]}
`;

const POLICY = {
  text: MODULE,
  queries: ["data.t.allow", "data.t.report", "x := data.t.report.lengths[variable]; data.t.policy.containers[i].name"],
  inputs: [
    { image: "web:v1.20", env: ["NODE=alpha", "PORT=8080", "PORT="], user: "app" },
    { image: "web:v1.20", env: ["NODE=Alpha"], user: "app" },
    { image: "web:latest", env: [], user: "app" },
    { image: "pause", env: [], user: "root" },
  ],
};

/** What the child runs: it reads a policy, and says what that answers and what is possible where it runs. */
const PROGRAM = `
import { text } from "node:stream/consumers";
import { answersTo } from "./test-support.ts";

function possible(what) {
  try {
    return what() !== undefined;
  } catch {
    return false;
  }
}

const answers = answersTo(JSON.parse(await text(process.stdin)));
const generates = possible(() => new Function("return 1")());
const compiles = typeof WebAssembly === "object";
process.stdout.write(JSON.stringify({ answers, generates, compiles }));
`;

describe("the bundled engine where no code can be generated", () => {
  const directory = mkdtempSync(join(tmpdir(), "sealpod-no-codegen-"));
  const file = join(directory, "engine.mjs");

  beforeAll(async () => {
    const { outputFiles } = await build({
      stdin: { contents: PROGRAM, resolveDir: import.meta.dirname, loader: "ts" },
      bundle: true,
      write: false,
      platform: "node",
      format: "esm",
      target: "node24",
      logLevel: "silent",
    });
    writeFileSync(file, outputFiles[0]!.contents);
  });

  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  function run(flags: readonly string[]): unknown {
    const { status, stdout, stderr } = spawnSync(process.execPath, [...flags, file], { input: JSON.stringify(POLICY), encoding: "utf8" });
    expect([status, stderr]).toEqual([0, ""]);
    return JSON.parse(stdout);
  }

  it("has a policy to answer that says yes and no, prints and is traced", () => {
    const answers = answersTo(POLICY);
    expect(answers.length).toBe(POLICY.queries.length * POLICY.inputs.length * 2);
    for (const sign of [
      '"expressions":[true]',
      '"expressions":[false]',
      "t.rego:7: candidate web web:v1.20",
      '"held":true',
      '"failed":',
      "18446744073709551616n",
    ]) {
      expect(answers.filter((answer) => answer.includes(sign)).length, sign).toBeGreaterThan(0);
    }
  });

  it.each<[flags: readonly string[], generates: boolean, compiles: boolean]>([
    [[], true, true],
    [["--disallow-code-generation-from-strings"], false, true],
    [["--jitless"], true, false],
    [["--disallow-code-generation-from-strings", "--jitless"], false, false],
  ])("answers as it does in this process: node %j", (flags, generates, compiles) => {
    expect(run(flags)).toEqual({ answers: answersTo(POLICY), generates, compiles });
  });
});
