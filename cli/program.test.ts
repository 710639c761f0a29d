import { describe, expect, it } from "vitest";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXIT, VERSION, type CliContext } from "./context.ts";
import { formatError } from "./diagnostic.ts";
import { CliError } from "./errors.ts";
import { runCli } from "./program.ts";

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function cli(cwd: string, ...argv: readonly string[]): Promise<Ran> {
  const written = { stdout: "", stderr: "" };
  const context: CliContext = {
    env: { SEALPOD_HOME: join(cwd, "state") },
    cwd,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock: { now: () => 0 },
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length) },
    signal: new AbortController().signal,
  };
  return { exit: await runCli(argv, context), ...written };
}

async function inDirectory(use: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "sealpod-cli-"));
  try {
    await use(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

const VERBS = ["genpolicy", "up", "down", "status", "example-images", "importkey", "run", "exec", "logs", "stop", "attack", "demo"];

describe("the command line", () => {
  it("prints its version and its help on stdout, with exit code 0", async () => {
    expect(await cli("/", "--version")).toEqual({ exit: 0, stdout: `${VERSION}\n`, stderr: "" });
    const help = await cli("/", "--help");
    expect(help.exit).toBe(0);
    for (const verb of VERBS) expect(help.stdout).toContain(`\n  ${verb} `);
  });

  it.each(VERBS)("%s has help with examples", async (verb) => {
    const help = await cli("/", verb, "--help");
    expect(help.exit).toBe(0);
    expect(help.stdout).toMatch(new RegExp(`Examples:\\n[\\s\\S]*sealpod ${verb}`));
  });

  it.each([
    [["frobnicate"], "unknown command 'frobnicate'"],
    [["genpolcy"], "Did you mean genpolicy?"],
    [["genpolicy", "--frobnicate"], "unknown option '--frobnicate'"],
    [["run"], "missing required argument 'file'"],
    [["importkey"], "required option '-c, --config <file>' not specified"],
    [["genpolicy", "--profile", "aci"], "Allowed choices are aks, coco"],
    [["up", "--port", "eighty"], "--port eighty is not a port number"],
    [["up", "--port", "0"], "--port 0 is not a port number"],
    [["run", "x.yaml", "-p", "a:b"], "--publish a:b is not HOST:CONTAINER"],
    [["attack"], "attack needs the annotated YAML"],
  ])("%j is a usage error with exit code 2 and a message on stderr", async (argv, message) => {
    await inDirectory(async (directory) => {
      const ran = await cli(directory, ...argv);
      expect(ran).toMatchObject({ exit: EXIT.usage, stdout: "" });
      expect(ran.stderr).toContain(message);
      expect(ran.stderr).not.toMatch(/\n\s+at /);
    });
  });

  it.each([
    [["genpolicy", "-y", "none.yaml"], "none.yaml"],
    [["run", "none.yaml"], "none.yaml does not exist"],
    [["importkey", "-c", "none.yaml", "-kh", "00"], "none.yaml"],
    [["attack", "none.yaml"], "none.yaml does not exist"],
    [["example-images", "--key", "none", "--page", "none"], "none does not exist"],
  ])("%j: a missing file is named, exit code 1, nothing is written", async (argv, message) => {
    await inDirectory(async (directory) => {
      const ran = await cli(directory, ...argv);
      expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "" });
      expect(ran.stderr).toContain(message);
      expect(ran.stderr).toContain("to do:");
    });
  });

  it.each([
    ["notes.yaml", "just: notes\n", "no apiVersion"],
    ["service.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n", "nothing here makes pods"],
    ["ingress.yaml", "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: x\n", 'ingress.yaml:2:7: kind: kind "Ingress" is not supported'],
    ["broken.yaml", "a: [1,\nb: }\n", "broken.yaml:"],
  ])("genpolicy refuses %s and leaves it as it was", async (name, text, message) => {
    await inDirectory(async (directory) => {
      await writeFile(join(directory, name), text);
      const ran = await cli(directory, "genpolicy", "-y", name);
      expect(ran.exit).toBe(EXIT.failed);
      expect(ran.stderr).toContain(message);
      expect(await readFile(join(directory, name), "utf8")).toBe(text);
    });
  });

  it("says what to do when nothing is up", async () => {
    await inDirectory(async (directory) => {
      const policy = Buffer.from("package agent_policy\n").toString("base64");
      const pod = `apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    io.katacontainers.config.agent.policy: ${policy}\nspec:\n  containers:\n  - name: c\n    image: x:1\n`;
      await writeFile(join(directory, "pod.yaml"), pod);
      for (const argv of [["run", "pod.yaml"], ["attack", "pod.yaml"], ["down"]]) {
        const ran = await cli(directory, ...argv);
        expect(ran.exit).toBe(EXIT.failed);
        expect(ran.stderr).toContain("sealpod up -d");
      }
      expect((await cli(directory, "status")).stdout).toContain("not running");
      expect((await cli(directory, "exec", "p", "--", "id")).stderr).toContain("no running pod");
    });
  });

  it("run without a policy says how to make one", async () => {
    await inDirectory(async (directory) => {
      await writeFile(join(directory, "pod.yaml"), "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: c\n    image: x:1\n");
      const ran = await cli(directory, "run", "pod.yaml");
      expect(ran.exit).toBe(EXIT.failed);
      expect(ran.stderr).toContain("sealpod genpolicy -y pod.yaml");
    });
  });

  it("--json gives errors as data on stdout", async () => {
    const ran = await cli("/", "run", "none.yaml", "--json");
    expect(ran.stderr).toBe("");
    expect(JSON.parse(ran.stdout)).toMatchObject({ error: { code: "ERR_CLI_FILE" } });
  });

  it("lists the attacks as text and as data", async () => {
    expect((await cli("/", "attack", "--list")).stdout).toContain("flipped-report-bit");
    expect(JSON.parse((await cli("/", "attack", "--list", "--json")).stdout)).toContainEqual(expect.objectContaining({ name: "exec", refuser: "agent" }));
  });
});

describe("formatError", () => {
  const error = new CliError("ERR_CLI_FILE", "x is missing", { hint: "Make it.", cause: new Error("underneath") });

  it("is one block without a stack, unless asked", () => {
    const options = { json: false, debug: false };
    expect(formatError(error, options)).toEqual({ text: "error: x is missing\n  to do: Make it.\n  code:  ERR_CLI_FILE (docs/errors.md)\n", exit: 1 });
    expect(formatError(error, { json: false, debug: true }).text).toMatch(/at .*program\.test\.ts[\s\S]*underneath/);
  });

  it("calls an unknown error a fault of sealpod", () => {
    expect(formatError(new TypeError("oops"), { json: false, debug: false })).toMatchObject({
      exit: 1,
      text: expect.stringContaining("fault of sealpod") as string,
    });
  });
});
