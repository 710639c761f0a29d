import { chmod, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { execFile } from "node:child_process";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EXIT, type CliContext } from "./context.ts";
import { runCli } from "./program.ts";
import { unifiedDiff } from "./rego/unified-diff.ts";

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface Machine {
  /** Text on stdin. */
  readonly stdin?: string;
  /** Milliseconds that pass at each look at the clock. */
  readonly tick?: number;
  readonly isTerminal?: boolean;
  readonly signal?: AbortSignal;
}

/** A directory with files, and `sealpod rego` in it. */
class Desk implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async with(files: Readonly<Record<string, string>>): Promise<Desk> {
    const desk = new Desk(await mkdtemp(join(tmpdir(), "sealpod-rego-")));
    for (const [name, text] of Object.entries(files)) await desk.write(name, text);
    return desk;
  }

  async write(name: string, text: string): Promise<void> {
    await mkdir(dirname(join(this.path, name)), { recursive: true });
    await writeFile(join(this.path, name), text);
  }

  async read(name: string): Promise<string> {
    return readFile(join(this.path, name), "utf8");
  }

  async rego(argv: readonly string[], machine: Machine = {}): Promise<Ran> {
    const written = { stdout: "", stderr: "" };
    let elapsed = 0;
    let now = 1_700_000_000_000;
    const context: CliContext = {
      env: {},
      cwd: this.path,
      stdin: (async function* () {
        if (machine.stdin !== undefined) yield new TextEncoder().encode(machine.stdin);
      })(),
      stdout: { isTerminal: machine.isTerminal ?? false, write: (text) => void (written.stdout += text) },
      stderr: { isTerminal: machine.isTerminal ?? false, write: (text) => void (written.stderr += text) },
      clock: { now: () => (now += machine.tick ?? 0) },
      elapsed: () => (elapsed += machine.tick ?? 0),
      random: { bytes: (length) => new Uint8Array(length) },
      signal: machine.signal ?? new AbortController().signal,
    };
    return { exit: await runCli(["rego", ...argv], context), ...written };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }
}

const AUTHZ = `package authz

default allow := false

allow if {
	input.user == "alice"
	some role in input.roles
	role in data.roles.allowed
	print("role", role)
}

deny contains message if {
	not input.user
	message := "no user"
}
`;

const FILES = { "authz.rego": AUTHZ, "data/roles/any.json": '{"allowed": ["admin"]}', "in.json": '{"user": "alice", "roles": ["dev", "admin"]}' };

const EVAL = ["eval", "-d", "authz.rego", "-d", "data", "-i", "in.json"] as const;

describe("sealpod rego", () => {
  it("without a verb shows its verbs and is a usage error", async () => {
    await using desk = await Desk.with({});
    const ran = await desk.rego([]);
    expect(ran.exit).toBe(EXIT.usage);
    for (const verb of ["eval", "check", "test", "fmt", "bench"]) expect(ran.stderr).toContain(`\n  ${verb} `);
  });

  it.each(["eval", "check", "test", "fmt", "bench"])("%s has help with examples", async (verb) => {
    await using desk = await Desk.with({});
    const ran = await desk.rego([verb, "--help"]);
    expect(ran.exit).toBe(EXIT.ok);
    expect(ran.stdout).toMatch(new RegExp(`Examples:\\n[\\s\\S]*sealpod rego ${verb}`));
    expect(ran.stdout).not.toContain("--state");
  });

  it.each([
    [["evla"], "Did you mean eval?"],
    [["eval"], "missing required argument 'query'"],
    [["check"], "missing required argument 'paths'"],
    [["eval", "--format", "xml", "true"], "Allowed choices are json, pretty, raw, values, bindings"],
    [["eval", "-f", "raw", "--timeout", "5 seconds", "true"], "--timeout 5 seconds is no duration"],
    [["eval", "-f", "raw", "--timeout", "0s", "true"], "--timeout 0s is no duration"],
    [["eval", "-f", "raw", "-i", "a.json", "-I", "true"], "--input and --stdin-input both"],
    [["eval", "-f", "raw", "--v0-compatible", "--v1-compatible", "true"], "exclude each other"],
    [["eval", "-f", "raw", "--profile-limit", "0", "true"], "--profile-limit 0 is not a whole number from 1"],
    [["bench", "--count", "many", "true"], "--count many is not a whole number from 1"],
    [["test", "--threshold", "101"], "--threshold 101 is not a number from 0 to 100"],
    [["fmt", "-w"], "--write needs files"],
    [["fmt", "-l"], "--list needs files"],
  ])("%j is a usage error that says so", async (argv, message) => {
    await using desk = await Desk.with({});
    const ran = await desk.rego(argv);
    expect(ran).toMatchObject({ exit: EXIT.usage, stdout: "" });
    expect(ran.stderr).toContain(message);
  });

  it("is not loaded by --version, and neither is the engine", async () => {
    const script = `
      import { registerHooks } from "node:module";
      const loaded = [];
      registerHooks({ load(url, context, next) { loaded.push(url); return next(url, context); } });
      process.argv = [process.argv[0], "main.ts", "--version"];
      await import(${JSON.stringify(new URL("main.ts", import.meta.url).href)});
      console.log(JSON.stringify(loaded));`;
    const stdout = await new Promise<string>((done, fail) => {
      execFile(process.execPath, ["--input-type=module", "-e", script], (error, out) => (error === null ? done(out) : fail(error)));
    });
    const files = (JSON.parse(stdout.split("\n")[1] ?? "") as string[]).filter((url) => url.startsWith("file:")).map((url) => fileURLToPath(url));
    expect(files.some((file) => file.endsWith("cli/program.ts"))).toBe(true);
    expect(files.filter((file) => /lib\/rego|verbs\/|cli\/rego\/(?!commands\.ts)/.test(file))).toEqual([]);
  });
});

describe("sealpod rego eval", () => {
  it("prints OPA's JSON, and what the policy prints on stderr", async () => {
    await using desk = await Desk.with(FILES);
    const ran = await desk.rego([...EVAL, "data.authz.allow"]);
    expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "authz.rego:9: role admin\n" });
    expect(JSON.parse(ran.stdout)).toEqual({
      result: [{ expressions: [{ value: true, text: "data.authz.allow", location: { row: 1, col: 1 } }] }],
    });
    expect(ran.stdout).toContain('\n      "expressions": [\n');
  });

  it("names each statement of a query where it stands, and its bindings", async () => {
    await using desk = await Desk.with(FILES);
    const ran = await desk.rego([...EVAL, "some x in input.roles; y := [a | some a in [1, 2]; a > 1]\n  count(x) > 3; data.authz.deny"]);
    const { result } = JSON.parse(ran.stdout) as { result: { expressions: object[]; bindings: object }[] };
    expect(result).toHaveLength(1);
    expect(result[0]).toEqual({
      expressions: [
        { value: true, text: "some x in input.roles", location: { row: 1, col: 1 } },
        { value: true, text: "y := [a | some a in [1, 2]; a > 1]", location: { row: 1, col: 24 } },
        { value: true, text: "count(x) > 3", location: { row: 2, col: 3 } },
        { value: [], text: "data.authz.deny", location: { row: 2, col: 17 } },
      ],
      bindings: { x: "admin", y: [2] },
    });
  });

  it("tells statements apart, also of what only a query may ask", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np := 1\n" });
    const ran = await desk.rego(["eval", "-d", "a.rego", "x := data; x.a.p"]);
    expect(JSON.parse(ran.stdout)).toMatchObject({ result: [{ expressions: [{ text: "x := data" }, { text: "x.a.p", value: 1 }] }] });
  });

  it("prints {} for an undefined query, with exit code 0 unless told otherwise", async () => {
    await using desk = await Desk.with(FILES);
    expect(await desk.rego([...EVAL, "data.authz.none"])).toEqual({ exit: EXIT.ok, stdout: "{}\n", stderr: "" });
    expect(await desk.rego([...EVAL, "--fail", "data.authz.none"])).toMatchObject({ exit: EXIT.refused, stdout: "{}\n" });
    expect((await desk.rego([...EVAL, "--fail", "data.authz.allow"])).exit).toBe(EXIT.ok);
    expect((await desk.rego([...EVAL, "--fail-defined", "data.authz.allow"])).exit).toBe(EXIT.refused);
    expect((await desk.rego([...EVAL, "--fail-defined", "data.authz.none"])).exit).toBe(EXIT.ok);
  });

  it.each([
    ["pretty", "data.authz.allow", "true\n"],
    ["pretty", "data.authz.none", "undefined\n"],
    [
      "pretty",
      'x := {"a": [1, {}]}; x',
      '+-----------------+-----------------+\n| x               | x               |\n+-----------------+-----------------+\n| {"a":[1,{}]}    |',
    ],
    ["pretty", '{"a": [1, {}]}', '{\n  "a": [\n    1,\n    {}\n  ]\n}\n'],
    ["pretty", "some i, x in input.roles", '+---+---------+\n| i | x       |\n+---+---------+\n| 0 | "dev"   |\n| 1 | "admin" |\n+---+---------+\n'],
    ["pretty", "true; 1 < 2", "true\n"],
    ["pretty", "input.roles[_] != 7", "true\n"],
    ["raw", "input.roles[_]", "dev\nadmin\n"],
    ["raw", 'input.roles; "a b"', '["dev","admin"] a b\n'],
    ["raw", "data.authz.none", ""],
    ["values", "input.roles[_]; 1", '[\n  "dev",\n  1\n]\n[\n  "admin",\n  1\n]\n'],
    ["bindings", "x := input.roles[_]", '{\n  "x": "dev"\n}\n{\n  "x": "admin"\n}\n'],
  ])("-f %s %s", async (format, query, expected) => {
    await using desk = await Desk.with(FILES);
    const ran = await desk.rego([...EVAL, "-f", format, query]);
    expect(ran.exit).toBe(EXIT.ok);
    if (expected.includes("| x               | x")) expect(ran.stdout.split("\n")[1]).toMatch(/^\| x +\| x +\|$/);
    else expect(ran.stdout).toBe(expected);
  });

  it("keeps integers beyond 2^53 and names such as __proto__", async () => {
    await using desk = await Desk.with({ "d.json": '{"n": 18446744073709551615, "__proto__": {"x": 1}}', "e.json": '{"__proto__": {"y": 2}}' });
    const ran = await desk.rego(["eval", "-d", "d.json", "-d", "e.json", "data"]);
    expect(ran.stdout).toContain('"n": 18446744073709551615');
    expect((await desk.rego(["eval", "-d", "d.json", "-d", "e.json", "-f", "raw", 'data["__proto__"]'])).stdout).toBe('{"x":1,"y":2}\n');
    expect((await desk.rego(["eval", "-d", "d.json", "-f", "raw", "[data.n + 1]"])).stdout).toBe("[18446744073709551616]\n");
  });

  it("merges files at the root and directories by their paths, and reads YAML as the engine does", async () => {
    await using desk = await Desk.with({
      "a.json": '{"top": {"a": 1}}',
      "b.yaml": "top:\n  b: [1, yes]\n",
      "tree/data.json": '{"root": true}',
      "tree/x/y/list.json": "[1, 2]",
      "tree/x/one.yml": "one: 1\n",
      "tree/x/two.json": '{"two": 2}',
      "tree/x/README.md": "not data",
      "tree/.hidden/z.json": '{"hidden": 1}',
      "tree/x/p.rego": "package p\nq := data.x.two\n",
    });
    const ran = await desk.rego(["eval", "-d", "a.json", "-d", "b.yaml", "-d", "tree", "data"]);
    const { result } = JSON.parse(ran.stdout) as { result: { expressions: { value: unknown }[] }[] };
    expect(result[0]?.expressions[0]?.value).toMatchObject({ root: true, top: { a: 1 }, x: { one: 1, two: 2, y: [1, 2] }, p: { q: 2 } });
    expect(ran.stdout).not.toContain("hidden");
  });

  it("takes a link to a file, leaves a link to a directory, and counts no file twice", async () => {
    await using desk = await Desk.with({ "tree/a/a.rego": "package a\np := 1\n" });
    await symlink("a/a.rego", join(desk.path, "tree", "b.rego"));
    await symlink("..", join(desk.path, "tree", "a", "loop"));
    const ran = await desk.rego(["check", "tree", "tree/a/a.rego", "-f", "json"]);
    expect(ran).toMatchObject({ exit: EXIT.ok });
    expect((await desk.rego(["eval", "-d", "tree/a", "-d", "tree/a/a.rego", "-f", "raw", "data.a.p"])).stdout).toBe("1\n");
  });

  it("reads input from stdin and from YAML", async () => {
    await using desk = await Desk.with({ "in.yaml": "user: bob\n" });
    expect((await desk.rego(["eval", "-I", "-f", "raw", "input.user"], { stdin: '{"user": "eve"}' })).stdout).toBe("eve\n");
    expect((await desk.rego(["eval", "-i", "in.yaml", "-f", "raw", "input.user"])).stdout).toBe("bob\n");
  });

  it("reads YAML files that are larger than a policy may read", async () => {
    await using desk = await Desk.with({ "in.yaml": "- name: value\n".repeat(25_000) });
    expect((await desk.rego(["eval", "-i", "in.yaml", "-f", "raw", "count(input)"])).stdout).toBe("25000\n");
    expect((await desk.rego(["eval", "-f", "pretty", 'yaml.is_valid(concat("", ["- name: value\\n" | some i in numbers.range(1, 25000)]))'])).stderr).toContain(
      "ERR_REGO_LIMIT_STEPS",
    );
  });

  it("reads v0 only if told", async () => {
    await using desk = await Desk.with({ "old.rego": "package a\np { input.x }\n", "in.json": '{"x": 1}' });
    const argv = ["eval", "-d", "old.rego", "-i", "in.json", "-f", "raw", "data.a.p"];
    expect(await desk.rego([...argv, "--v0-compatible"])).toMatchObject({ exit: EXIT.ok, stdout: "true\n" });
    const ran = await desk.rego(argv);
    expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "" });
    expect(ran.stderr).toContain("add --v0-compatible");
    await desk.write("old.rego", "package a\np {\n");
    expect((await desk.rego(argv)).stderr).not.toContain("--v0-compatible");
  });

  it("-S makes the failure of a builtin function an error", async () => {
    await using desk = await Desk.with({});
    expect(await desk.rego(["eval", "-f", "raw", "1 / 0"])).toEqual({ exit: EXIT.ok, stdout: "", stderr: "" });
    const ran = await desk.rego(["eval", "-S", "1 / 0"]);
    expect(ran.exit).toBe(EXIT.refused);
    expect(JSON.parse(ran.stdout)).toMatchObject({ errors: [{ code: "ERR_REGO_BUILTIN" }] });
  });

  it("knows OPA's builtin functions beyond the agent's", async () => {
    await using desk = await Desk.with({});
    expect((await desk.rego(["eval", "-f", "raw", 'net.cidr_contains("10.0.0.0/8", "10.1.2.3")'])).stdout).toBe("true\n");
  });

  it("--timeout bounds an evaluation", async () => {
    await using desk = await Desk.with({});
    const query = "count([1 | some i in numbers.range(1, 1000); some j in numbers.range(1, 100); i * j < 0])";
    expect((await desk.rego(["eval", "--timeout", "1m30s", "-f", "raw", query])).stdout).toBe("0\n");
    const ran = await desk.rego(["eval", "--timeout", "1500ms", query], { tick: 1000 });
    expect(ran.exit).toBe(EXIT.refused);
    expect(JSON.parse(ran.stdout)).toMatchObject({ errors: [{ code: "ERR_REGO_LIMIT_TIME", message: "evaluation took longer than 1500 ms" }] });
  });

  it.each([
    [["-d", "none.rego"], "none.rego does not exist"],
    [["-d", "policy.txt"], "policy.txt is none of .rego, .json, .yaml, .yml"],
    [["-d", "broken.json"], "not JSON: broken.json:2:8: value expected"],
    [["-d", "empty.json"], "an empty document is {}"],
    [["-d", "list.json"], "list.json: the document is an array, and data at the root must be an object"],
    [["-d", "one.json", "-d", "other.json"], "other.json: a.b has a value already"],
    [["-d", "bad.yaml"], "bad.yaml is not YAML: line 2"],
    [["-d", "bad.rego"], "bad.rego:3:1"],
    [["-d", "shadow.rego", "-d", "one.json"], "conflicting rule for data path a/b"],
    [["-i", "none.json"], "none.json does not exist"],
    [["-i", "broken.json"], "broken.json:2:8"],
    [["-i", "deep.json"], "error: deep.json: nested deeper than 128"],
    [["-d", "binary.rego"], "binary.rego is not valid UTF-8"],
  ])("%j: one readable error", async (flags, message) => {
    await using desk = await Desk.with({
      "policy.txt": "package a\n",
      "broken.json": '{\n  "a": }',
      "deep.json": "[".repeat(200) + "]".repeat(200),
      "empty.json": "\n",
      "list.json": "[1]",
      "one.json": '{"a": {"b": 1}}',
      "other.json": '{"a": {"b": {"c": 1}}}',
      "bad.yaml": "a: [1,\nb: }\n",
      "bad.rego": "package a\np if {\n",
      "shadow.rego": "package a\nb := 1\n",
    });
    await writeFile(join(desk.path, "binary.rego"), Uint8Array.of(0xff, 0xfe));
    const text = await desk.rego(["eval", "-f", "pretty", ...flags, "true"]);
    expect(text).toMatchObject({ exit: EXIT.failed, stdout: "" });
    expect(text.stderr).toContain(message);
    expect(text.stderr).not.toMatch(/\n\s+at /);
    const data = await desk.rego(["eval", ...flags, "true"]);
    expect(data).toMatchObject({ exit: EXIT.failed, stderr: "" });
    const { errors } = JSON.parse(data.stdout) as { errors: { message: string; code: string; hint?: string }[] };
    expect(errors[0]?.code).toMatch(/^ERR_/);
  });

  it.each([
    ["x =", "query:1:4"],
    ["x", "query:1:1"],
    ["nosuch(1)", "undefined function nosuch"],
    ["count(null)", "operand 1 is null"],
    ["", "query:1:1"],
  ])("the query %j is refused with its place", async (query, message) => {
    await using desk = await Desk.with({});
    const ran = await desk.rego(["eval", "-f", "pretty", query]);
    expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "" });
    expect(ran.stderr).toContain(message);
  });

  it("gives every diagnostic its place in JSON", async () => {
    await using desk = await Desk.with({ "bad.rego": "package a\np if { x > 1 }\nq if { y > 1 }\n" });
    const ran = await desk.rego(["eval", "-d", "bad.rego", "data.a.p"]);
    expect(ran.exit).toBe(EXIT.failed);
    expect(JSON.parse(ran.stdout)).toMatchObject({
      errors: [
        { code: "ERR_REGO_UNSAFE", location: { file: "bad.rego", row: 2, col: 8 } },
        { code: "ERR_REGO_UNSAFE", location: { file: "bad.rego", row: 3, col: 8 } },
      ],
    });
  });

  it("--explain fails shows where each rule body stopped, with the values there", async () => {
    await using desk = await Desk.with({ ...FILES, "in.json": '{"user": "bob\\u001b[31m"}' });
    const text = await desk.rego([...EVAL, "-f", "pretty", "--explain", "fails", "data.authz.allow"]);
    expect(text.stdout).toContain('data.authz.allow (authz.rego:5:1) does not hold\n  authz.rego:6:2: input.user == "alice"\n');
    expect(text.stdout).toMatch(/ {4}input\.user is "bob/);
    expect(text.stdout).not.toContain("\u001b");
    expect(text.stdout.endsWith("\nfalse\n")).toBe(true);
    const data = await desk.rego([...EVAL, "--explain", "fails", "data.authz.allow"]);
    expect(JSON.parse(data.stdout)).toMatchObject({
      explanation: [
        {
          rule: "data.authz.allow",
          location: { file: "authz.rego", row: 5 },
          held: false,
          failed: { location: { row: 6, col: 2 }, text: 'input.user == "alice"' },
        },
      ],
    });
  });

  it("--explain full shows the bodies that held, too", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np if q\nq if input.x\nr if not q\n" });
    const ran = await desk.rego(["eval", "-d", "a.rego", "-I", "-f", "pretty", "--explain", "full", "data.a.p"], { stdin: '{"x": 1}' });
    expect(ran.stdout).toBe("data.a.p (a.rego:2:1) holds\n| data.a.q (a.rego:3:1) holds\ntrue\n");
    const none = await desk.rego(["eval", "-f", "pretty", "--explain", "fails", "true"]);
    expect(none.stdout).toBe("no rule body failed\ntrue\n");
  });

  it("says on a terminal how to learn why a query is undefined", async () => {
    await using desk = await Desk.with({});
    expect((await desk.rego(["eval", "-f", "pretty", "data.none"], { isTerminal: true })).stderr).toContain("--explain fails");
    expect((await desk.rego(["eval", "-f", "pretty", "data.none"])).stderr).toBe("");
  });

  it("--profile takes a caller's time without what it calls", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np if { q; r }\nq if input.x\nr if input.x\n" });
    const argv = ["eval", "-d", "a.rego", "-I", "--profile", "data.a.p"];
    // Each look at the clock is a millisecond later than the last one: a body without calls takes one.
    const ran = await desk.rego(argv, { stdin: '{"x": 1}', tick: 1 });
    const { profile } = JSON.parse(ran.stdout) as { profile: object[] };
    expect(profile).toEqual([
      { total_time_ns: 3e6, cumulative_time_ns: 5e6, num_eval: 1, rule: "data.a.p", location: { file: "a.rego", row: 2, col: 1 } },
      { total_time_ns: 1e6, cumulative_time_ns: 1e6, num_eval: 1, rule: "data.a.q", location: { file: "a.rego", row: 3, col: 1 } },
      { total_time_ns: 1e6, cumulative_time_ns: 1e6, num_eval: 1, rule: "data.a.r", location: { file: "a.rego", row: 4, col: 1 } },
    ]);
    const text = await desk.rego([...argv, "-f", "pretty", "--profile-limit", "1"], { stdin: '{"x": 1}', tick: 1 });
    expect(text.stdout).toContain("|  3ms |        5ms |           1 | data.a.p | a.rego:2 |");
    expect(text.stdout).not.toContain("data.a.q");
  });

  it("--coverage and --metrics add their reports", async () => {
    await using desk = await Desk.with(FILES);
    const ran = await desk.rego([...EVAL, "--coverage", "--metrics", "data.authz.allow"], { tick: 2 });
    expect(JSON.parse(ran.stdout)).toMatchObject({
      result: [{}],
      metrics: { timer_rego_load_files_ns: 2e6, timer_rego_module_compile_ns: 2e6, timer_rego_query_eval_ns: 2e6 },
      coverage: {
        files: { "authz.rego": { covered: [{ start: { row: 5 }, end: { row: 9 } }], covered_lines: 5, not_covered_lines: 4, coverage: 55.55 } },
        coverage: 55.55,
      },
    });
    const text = await desk.rego([...EVAL, "-f", "pretty", "--coverage", "--metrics", "data.authz.allow"]);
    expect(text.stdout).toMatch(/^true\n\+-+\+-+\+\n\| METRIC +\| VALUE/);
    expect(text.stdout).toContain('"not_covered_lines": 4');
  });
});

describe("sealpod rego eval of what stands elsewhere", () => {
  it("asks in a package and with imports", async () => {
    await using desk = await Desk.with({ "a.rego": "package a.b\np := 1\nq := p + 1\n" });
    const inPackage = await desk.rego(["eval", "-d", "a.rego", "--package", "a.b", "-f", "raw", "p + q"]);
    expect([inPackage.exit, inPackage.stdout]).toEqual([EXIT.ok, "3\n"]);
    const imported = await desk.rego(["eval", "-d", "a.rego", "--import", "data.a.b as lib", "--import", "input as i", "-f", "raw", "lib.q"]);
    expect([imported.exit, imported.stdout]).toEqual([EXIT.ok, "2\n"]);
    const wrong = await desk.rego(["eval", "-d", "a.rego", "--package", "a b", "p"]);
    expect(wrong.exit).toBe(EXIT.failed);
  });

  it("reads policies as the agents of their time did, on request", async () => {
    await using desk = await Desk.with({
      "old.rego":
        'package t\ncut(s) := s if not startswith(s, "/")\ncut(s) := cut(substring(s, 1, -1)) if startswith(s, "/")\np if not f(input.x)\nf(1) := true\n',
    });
    const refused = await desk.rego(["check", "old.rego"]);
    expect(refused.exit).toBe(EXIT.failed);
    expect(refused.stderr + refused.stdout).toContain("recursive");
    expect((await desk.rego(["check", "--allow-recursive-functions", "old.rego"])).exit).toBe(EXIT.ok);
    const flags = ["eval", "-d", "old.rego", "--allow-recursive-functions", "-f", "raw"];
    expect((await desk.rego([...flags, 'data.t.cut("//a")'])).stdout).toBe("a\n");
    await desk.write("input.json", "{}");
    expect((await desk.rego([...flags, "-i", "input.json", "--fail", "data.t.p"])).exit).toBe(EXIT.refused);
    expect((await desk.rego([...flags, "-i", "input.json", "--negation", "regorus", "data.t.p"])).stdout).toBe("true\n");
    expect((await desk.rego([...flags, "--negation", "kata", "data.t.p"])).exit).toBe(EXIT.usage);
  });
});

describe("sealpod rego check", () => {
  it("says nothing about modules that are right", async () => {
    await using desk = await Desk.with(FILES);
    expect(await desk.rego(["check", "."])).toEqual({ exit: EXIT.ok, stdout: "", stderr: "" });
    expect(await desk.rego(["check", ".", "-f", "json"])).toEqual({ exit: EXIT.ok, stdout: "{}\n", stderr: "" });
  });

  it("shows every error with its line and a caret", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np if { x > 1 }\n", "b/b.rego": "package b\nq if { nosuch(1) }\n" });
    const ran = await desk.rego(["check", "."]);
    expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "" });
    expect(ran.stderr).toMatch(/^b\/b\.rego:2:8: .*nosuch.*\n {2}q if \{ nosuch\(1\) \}\n {9}\^\n/m);
    expect(ran.stderr).toMatch(/\d errors? in \d of 2 files\n$/);
    const data = await desk.rego(["check", "--json", "."]);
    expect(data).toMatchObject({ exit: EXIT.failed, stderr: "" });
    expect(JSON.parse(data.stdout)).toMatchObject({
      errors: expect.arrayContaining([expect.objectContaining({ location: { file: "b/b.rego", row: 2, col: 8 } })]) as object,
    });
  });

  it("shows what the types say can never hold", async () => {
    await using desk = await Desk.with({ "a.rego": 'package a\np if { 1 == "a" }\n' });
    const ran = await desk.rego(["check", "a.rego"]);
    expect(ran.exit).toBe(EXIT.failed);
    expect(ran.stderr).toContain("a.rego:2:8: match error");
  });

  it("reports the syntax errors of all modules at once", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np if {\n", "b.rego": "package b\nq := := 1\n", "c.rego": "package c\n" });
    const ran = await desk.rego(["check", "a.rego", "b.rego", "c.rego"]);
    expect(ran.stderr).toContain("a.rego:");
    expect(ran.stderr).toContain("b.rego:2:6:");
    expect(ran.stderr).toContain("errors in 2 of 3 files\n");
  });

  it("reads v0 if told, and refuses a directory without modules", async () => {
    await using desk = await Desk.with({ "old/old.rego": "package a\np { input.x }\n", "none/x.json": "{}" });
    expect(await desk.rego(["check", "old"])).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("to do: Read as Rego v0") as string });
    expect((await desk.rego(["check", "old", "--v0-compatible"])).exit).toBe(EXIT.ok);
    const none = await desk.rego(["check", "none"]);
    expect(none.exit).toBe(EXIT.failed);
    expect(none.stderr).toContain("there is no .rego file in none");
    expect((await desk.rego(["check", "none/x.json"])).stderr).toContain("none/x.json is none of .rego");
  });
});

const TESTS = `package authz_test

import data.authz

test_admin if {
	authz.allow with input as {"user": "alice", "roles": ["admin"]}
}

test_denied if {
	not authz.allow with input as {"user": "bob", "roles": ["admin"]}
	print("denied")
}
`;

const SUITE = { "authz.rego": AUTHZ, "authz_test.rego": TESTS, "roles/data.json": '{"allowed": ["admin"]}' };

describe("sealpod rego test", () => {
  it("says how many passed", async () => {
    await using desk = await Desk.with(SUITE);
    expect(await desk.rego(["test", "."])).toEqual({ exit: EXIT.ok, stdout: "PASS: 2/2\n", stderr: "" });
    expect(await desk.rego(["test"])).toMatchObject({ exit: EXIT.ok, stdout: "PASS: 2/2\n" });
  });

  it("-v names the tests with their times and prints; -r chooses by an RE2 expression", async () => {
    await using desk = await Desk.with(SUITE);
    const all = await desk.rego(["test", "-v", "."], { tick: 1.5 });
    expect(all.stdout).toBe(
      `SUMMARY\n${"-".repeat(80)}\nauthz_test.rego:\ndata.authz_test.test_admin: PASS (1.5ms)\n  authz.rego:9: role admin\ndata.authz_test.test_denied: PASS (1.5ms)\n  authz_test.rego:11: denied\n${"-".repeat(80)}\nPASS: 2/2\n`,
    );
    const one = await desk.rego(["test", "-v", "-r", "test_(den|x)ied$", "."]);
    expect(one.stdout).toContain("test_denied: PASS");
    expect(one.stdout).not.toContain("test_admin");
    expect(await desk.rego(["test", "-r", "none", "."])).toMatchObject({ exit: EXIT.usage, stdout: "" });
    expect((await desk.rego(["test", "-r", "(", "."])).stderr).toContain('--run "(" is not a regular expression');
    // Exponential for a backtracking matcher.
    const hostile = `${"a".repeat(40)}!`;
    await desk.write("long_test.rego", `package ${"a".repeat(40)}\ntest_x := true\n`);
    expect((await desk.rego(["test", "-r", `(a+)+${hostile}`, "."])).exit).toBe(EXIT.usage);
  });

  it("shows of a failed test the statement it stopped at, the values, and the rules below", async () => {
    await using desk = await Desk.with({
      ...SUITE,
      "bad_test.rego": 'package bad_test\nimport data.authz\ntest_bob if {\n\tprint("here")\n\tauthz.allow with input as {"user": "bob"}\n}\n',
    });
    const ran = await desk.rego(["test", "."]);
    expect(ran.exit).toBe(EXIT.failed);
    expect(ran.stdout).toMatch(/^FAILURES\n-+\ndata\.bad_test\.test_bob: FAIL \(/);
    expect(ran.stdout).toContain("bad_test.rego:5:2: authz.allow");
    expect(ran.stdout).toContain('authz.rego:6:2: input.user == "alice"');
    expect(ran.stdout).toContain('input.user is "bob"');
    expect(ran.stdout).toContain("print: bad_test.rego:4: here");
    expect(ran.stdout.endsWith("PASS: 2/3\nFAIL: 1/3\n")).toBe(true);
  });

  it.each([
    ["test_null := null", "fail", "its value is null, not true"],
    ["test_false := false", "fail", "its value is false, not true"],
    ["test_set contains 1", "fail", "its value is [1], not true"],
    ["test_conflict if { f(1) }\nf(x) := 1\nf(x) := 2", "error", "x_test.rego:4"],
    ["test_twice if { true }\ntest_twice if { false }", "error", "defined 2 times (x_test.rego:2:1, x_test.rego:3:1)"],
  ])("%s does not pass", async (rules, verdict, message) => {
    await using desk = await Desk.with({ "x_test.rego": `package x_test\n${rules}\n` });
    const ran = await desk.rego(["test", "."]);
    expect(ran.exit).toBe(EXIT.failed);
    expect(ran.stdout).toContain(message);
    expect(ran.stdout).toContain(verdict === "fail" ? "FAIL: 1/1" : "ERROR: 1/1");
  });

  it("skips todo tests; functions and other rules are none; else and default belong to their rule", async () => {
    await using desk = await Desk.with({
      "x_test.rego":
        "package x_test\ntodo_test_later if { false }\ntest_helper(x) := x\nmy_test_x := false\ndefault test_else := false\ntest_else if { false } else := true\n",
    });
    const ran = await desk.rego(["test", "-v", "."]);
    expect(ran).toMatchObject({ exit: EXIT.ok });
    expect(ran.stdout).toContain("todo_test_later: SKIPPED\n");
    expect(ran.stdout.endsWith("PASS: 1/2\nSKIPPED: 1/2\n")).toBe(true);
  });

  it("gives OPA's fields as JSON", async () => {
    await using desk = await Desk.with({ "x_test.rego": 'package x_test\ntest_ok := true\ntest_bad if { print("p"); 1 == 2 }\ntodo_test_z := true\n' });
    const ran = await desk.rego(["test", "-f", "json", "."], { tick: 1 });
    expect(ran.exit).toBe(EXIT.failed);
    expect(JSON.parse(ran.stdout)).toEqual([
      { location: { file: "x_test.rego", row: 2, col: 1 }, package: "data.x_test", name: "test_ok", duration: 1e6 },
      {
        location: { file: "x_test.rego", row: 3, col: 1 },
        package: "data.x_test",
        name: "test_bad",
        fail: true,
        failed: { location: { file: "x_test.rego", row: 3, col: 27 }, text: "1 == 2", operands: [] },
        duration: 1e6,
        prints: ["x_test.rego:3: p"],
      },
      { location: { file: "x_test.rego", row: 4, col: 1 }, package: "data.x_test", name: "todo_test_z", skip: true, duration: 1e6 },
    ]);
  });

  it("-c prints coverage in OPA's shape; below the threshold the run fails", async () => {
    await using desk = await Desk.with(SUITE);
    const ran = await desk.rego(["test", "-c", "."]);
    expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "" });
    expect(JSON.parse(ran.stdout)).toMatchObject({
      files: {
        "authz.rego": {
          covered: [
            { start: { row: 3 }, end: { row: 3 } },
            { start: { row: 5 }, end: { row: 9 } },
          ],
          not_covered: [{ start: { row: 12 }, end: { row: 14 } }],
        },
        "authz_test.rego": { coverage: 100, not_covered_lines: 0 },
      },
      covered_lines: 11,
      not_covered_lines: 3,
      coverage: 78.57,
    });
    const low = await desk.rego(["test", "--threshold", "78.58", "."]);
    expect(low).toEqual({ exit: EXIT.failed, stdout: "", stderr: "coverage of 78.57% is below the threshold of 78.58%\n" });
    expect((await desk.rego(["test", "--threshold", "78.57", "."])).exit).toBe(EXIT.ok);
  });

  it("with -c keeps stdout to the report when a test fails", async () => {
    await using desk = await Desk.with({ "x_test.rego": "package x_test\ntest_a if { 1 == 2 }\n" });
    const ran = await desk.rego(["test", "-c", "."]);
    expect(ran.exit).toBe(EXIT.failed);
    expect(JSON.parse(ran.stdout)).toHaveProperty("coverage");
    expect(ran.stderr).toContain("FAIL: 1/1");
  });

  it("a run without tests fails, and so does one that does not compile", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np := 1\n", "bad/b_test.rego": "package b\ntest_x if { y }\n", "empty/x.json": "{}" });
    expect(await desk.rego(["test", "a.rego"])).toMatchObject({
      exit: EXIT.failed,
      stdout: "",
      stderr: expect.stringContaining("there is no test in 1 module") as string,
    });
    expect((await desk.rego(["test", "empty"])).stderr).toContain("there is no .rego file to test");
    expect((await desk.rego(["test", "bad"])).stderr).toContain("b_test.rego:2:13");
  });

  it("ends at a signal", async () => {
    await using desk = await Desk.with(SUITE);
    expect(await desk.rego(["test", "."], { signal: AbortSignal.abort() })).toMatchObject({ exit: EXIT.failed, stdout: "" });
  });
});

const UGLY = "package   a\n\np:=1\nq   if {   p==1\n}\n";

describe("sealpod rego fmt", () => {
  it("prints a formatted file, or stdin", async () => {
    await using desk = await Desk.with({ "a.rego": UGLY });
    const file = await desk.rego(["fmt", "a.rego"]);
    expect(file).toMatchObject({ exit: EXIT.ok, stderr: "" });
    expect(file.stdout).toContain("package a\n");
    expect(file.stdout).toContain("p := 1\n");
    expect(await desk.read("a.rego")).toBe(UGLY);
    expect(await desk.rego(["fmt"], { stdin: UGLY })).toEqual(file);
  });

  it("-w rewrites what differs and keeps modes and links", async () => {
    await using desk = await Desk.with({ "real/a.rego": UGLY });
    await chmod(join(desk.path, "real", "a.rego"), 0o640);
    await symlink("real/a.rego", join(desk.path, "link.rego"));
    expect(await desk.rego(["fmt", "-w", "link.rego"])).toEqual({ exit: EXIT.ok, stdout: "", stderr: "" });
    const text = await desk.read("real/a.rego");
    expect(text).toContain("p := 1\n");
    expect((await stat(join(desk.path, "real", "a.rego"))).mode & 0o777).toBe(0o640);
    expect(await desk.read("link.rego")).toBe(text);
    const { mtimeMs, ino } = await stat(join(desk.path, "real", "a.rego"));
    await desk.rego(["fmt", "-w", "real"]);
    expect(await stat(join(desk.path, "real", "a.rego"))).toMatchObject({ mtimeMs, ino });
  });

  it("-l and -d tell what would change; --fail makes it an error", async () => {
    await using desk = await Desk.with({ "a.rego": UGLY });
    expect(await desk.rego(["fmt", "-l", "."])).toEqual({ exit: EXIT.ok, stdout: "a.rego\n", stderr: "" });
    expect(await desk.rego(["fmt", "-l", "--fail", "."])).toEqual({ exit: EXIT.failed, stdout: "a.rego\n", stderr: "" });
    const diff = await desk.rego(["fmt", "-d", "a.rego"]);
    expect(diff.stdout).toMatch(/^--- a\.rego\n\+\+\+ a\.rego \(formatted\)\n@@ -1,5 \+1,\d+ @@\n-package {3}a\n/);
    expect(diff.stdout).toContain("\n+p := 1\n");
    expect((await desk.rego(["fmt", "-d", "--fail"], { stdin: UGLY })).exit).toBe(EXIT.failed);
    await desk.rego(["fmt", "-w", "a.rego"]);
    expect(await desk.rego(["fmt", "-l", "-d", "--fail", "a.rego"])).toEqual({ exit: EXIT.ok, stdout: "", stderr: "" });
  });

  it("a file that is not Rego is named and left as it is; the others are formatted", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np if {\n", "b.rego": UGLY });
    const ran = await desk.rego(["fmt", "-w", "."]);
    expect(ran.exit).toBe(EXIT.failed);
    expect(ran.stderr).toContain("a.rego:");
    expect(await desk.read("a.rego")).toBe("package a\np if {\n");
    expect(await desk.read("b.rego")).toContain("p := 1\n");
  });

  it("--rego-v1 rewrites v0", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np[x] { x := input.y }\n" });
    await desk.rego(["fmt", "--rego-v1", "-w", "a.rego"]);
    expect(await desk.read("a.rego")).toContain("p contains x if ");
    expect((await desk.rego(["check", "a.rego"])).exit).toBe(EXIT.ok);
  });

  it("reads v0 if told", async () => {
    await using desk = await Desk.with({ "a.rego": "package a\np { input.x }\n" });
    expect(await desk.rego(["fmt", "a.rego"])).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("add --v0-compatible") as string });
    expect((await desk.rego(["fmt", "--v0-compatible", "a.rego"])).exit).toBe(EXIT.ok);
    expect((await desk.rego(["fmt", "--v0-compatible", "--no-check-result", "a.rego"])).exit).toBe(EXIT.ok);
  });
});

describe("sealpod rego bench", () => {
  const argv = ["bench", "-d", "authz.rego", "-d", "data", "-i", "in.json", "data.authz.allow"];

  it("measures for a second, and says which rules took the time", async () => {
    await using desk = await Desk.with(FILES);
    const ran = await desk.rego(argv, { tick: 2 });
    expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "" });
    expect(ran.stdout).toMatch(/\| ns\/op +\| +2000000 \|\n\| p50 +\| +2ms \|\n\| p90 +\| +2ms \|\n\| p99 +\| +2ms \|/);
    expect(ran.stdout).toContain("Time per rule, for one evaluation:\n");
    expect(ran.stdout).toMatch(/\| +2ms \| +2ms \| +1 \| data\.authz\.allow \| authz\.rego:5 \|/);
  });

  it("gives the numbers as JSON, --count times", async () => {
    await using desk = await Desk.with(FILES);
    const ran = await desk.rego([...argv, "--count", "2", "--prints", "-f", "json"], { tick: 5 });
    const { runs, profile, first_ns } = JSON.parse(ran.stdout) as { runs: Record<string, number>[]; profile: { rules: object[] }; first_ns: number };
    expect(first_ns).toBe(5e6);
    expect(runs).toHaveLength(2);
    expect(runs[0]).toMatchObject({ ns_per_op: 5e6, p50_ns: 5e6, p90_ns: 5e6, p99_ns: 5e6, max_ns: 5e6 });
    // 15 ms pass per round: start and end of the evaluation, and a look whether the second is over.
    expect(runs[0]?.["samples"]).toBeGreaterThan(50);
    expect(profile.rules[0]).toMatchObject({ rule: "data.authz.allow" });
  });

  it("says that a query is undefined, and refuses one that fails", async () => {
    await using desk = await Desk.with(FILES);
    expect(await desk.rego([...argv.slice(0, -1), "data.authz.none", "--fail"], { tick: 100 })).toMatchObject({
      exit: EXIT.refused,
      stderr: "note: the query is undefined\n",
    });
    expect((await desk.rego([...argv.slice(0, -1), "x ="])).stderr).toContain("query:1:4");
    expect(await desk.rego(argv, { signal: AbortSignal.abort() })).toMatchObject({ exit: EXIT.failed, stdout: "" });
  });
});

describe("unifiedDiff", () => {
  const lines = (from: number, to: number): string => Array.from({ length: to - from + 1 }, (_, at) => `${from + at}\n`).join("");

  it.each([
    ["nothing", "a\n", "a\n", ""],
    ["one line", lines(1, 9), lines(1, 9).replace("5\n", "five\n"), "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"],
    ["an insertion into nothing", "", "a\n", "@@ -0,0 +1,1 @@\n+a\n"],
    ["a removal of all", "a\n", "", "@@ -1,1 +0,0 @@\n-a\n"],
    ["the end of the last line", "a", "a\n", "@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+a\n"],
    ["two places", lines(1, 20), lines(2, 19), "@@ -1,4 +1,3 @@\n-1\n 2\n 3\n 4\n@@ -17,4 +16,3 @@\n 17\n 18\n 19\n-20\n"],
    ["near places in one hunk", lines(1, 8), lines(2, 7), "@@ -1,8 +1,6 @@\n-1\n 2\n 3\n 4\n 5\n 6\n 7\n-8\n"],
  ])("%s", (_, before, after, expected) => {
    expect(unifiedDiff("x", before, after)).toBe(expected === "" ? "" : `--- x\n+++ x (formatted)\n${expected}`);
  });

  it("can be applied: unchanged and removed lines are the old text, unchanged and added ones the new", () => {
    const text = fc.array(fc.constantFrom("a", "b", "c", ""), { maxLength: 30 }).map((list) => list.map((line) => `${line}\n`).join(""));
    fc.assert(
      fc.property(text, text, (before, after) => {
        const hunks = unifiedDiff("x", before, after).split(/^@@ /m).slice(1);
        const old = before.split("\n").slice(0, -1);
        const patched: string[] = [];
        let at = 0;
        for (const hunk of hunks) {
          const [head = "", ...body] = hunk.split("\n").slice(0, -1);
          const [, start, removed, , added] = /^-(\d+),(\d+) \+(\d+),(\d+) @@$/.exec(head)!.map(Number);
          const first = removed === 0 ? start! : start! - 1;
          patched.push(...old.slice(at, first));
          const gone = body.filter((line) => !line.startsWith("+")).map((line) => line.slice(1));
          expect(gone).toEqual(old.slice(first, first + removed!));
          const come = body.filter((line) => !line.startsWith("-")).map((line) => line.slice(1));
          expect(come).toHaveLength(added!);
          patched.push(...come);
          at = first + removed!;
        }
        patched.push(...old.slice(at));
        expect(patched).toEqual(after.split("\n").slice(0, -1));
      }),
    );
  });

  it("gives two blocks when the texts have nothing in common", () => {
    const diff = unifiedDiff("x", lines(1, 3000), lines(5001, 8000));
    expect(diff).toContain("@@ -1,3000 +1,3000 @@\n-1\n");
    expect(diff.endsWith("+8000\n")).toBe(true);
  });
});
