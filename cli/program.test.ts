import { describe, expect, it } from "vitest";
import { lstat, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EXIT, VERSION, type CliContext } from "./context.ts";
import { formatError } from "./diagnostic.ts";
import { CliError } from "./errors.ts";
import { genpolicyArguments } from "./genpolicy/commands.ts";
import { runCli, runGenpolicyCli } from "./program.ts";
import { rewriteFile } from "./verbs/genpolicy.ts";

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function cli(cwd: string, ...argv: readonly string[]): Promise<Ran> {
  return ranBy(runCli, cwd, argv);
}

async function ranBy(program: typeof runCli, cwd: string, argv: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ran> {
  const written = { stdout: "", stderr: "" };
  const context: CliContext = {
    env: { SEALPOD_HOME: join(cwd, "state"), HOME: cwd, ...env },
    cwd,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock: { now: () => 0 },
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length) },
    signal: new AbortController().signal,
  };
  return { exit: await program(argv, context), ...written };
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
    [
      "ingress.yaml",
      "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: x\n",
      "ingress.yaml:1:1: nothing here makes pods: found only Ingress",
    ],
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

  it.each([
    ["nothing that is required", ["attest", "policy", "check", "--json"], "missing required argument 'file'", "sealpod attest policy check --help shows"],
    ["an option that is missing", ["attest", "policy", "eval", "F", "--json"], "required option '--claims <file>' not specified", "--help"],
    ["an option that there is not", ["--json", "run", "--bogus"].toReversed(), "unknown option '--bogus'", "--help"],
    ["a misspelt one", ["genpolicy", "--json", "--platfrm", "x"], "unknown option '--platfrm'", "Did you mean --platform? sealpod genpolicy --help"],
    ["a choice that there is not", ["attest", "measure", "--json", "--vmm-type", "xen"], "'xen' is invalid. Allowed choices are", "--help"],
    ["too many words", ["down", "a", "--json"], "too many arguments", "--help"],
    ["a command that there is not", ["frobnicate", "--json"], "unknown command 'frobnicate'", "--help"],
    ["no command", ["attest", "policy", "--json"], "no command is named", "--help"],
    ["nothing", ["--json"], "no command is named", "--help"],
  ])("--json gives what the parser refuses as data too: %s", async (_what, argv, message, hint) => {
    const ran = await cli("/", ...argv);
    expect(ran).toMatchObject({ exit: EXIT.usage, stderr: "" });
    expect(JSON.parse(ran.stdout)).toMatchObject({
      error: { code: "ERR_CLI_USAGE", message: expect.stringContaining(message) as string, hint: expect.stringContaining(hint) as string },
    });
  });

  it("--json gives the errors of rego as a list, those of the parser too", async () => {
    for (const argv of [
      ["rego", "eval", "--json", "--bogus"],
      ["rego", "eval", "--json", "-I", "-i", "a.json", "true"],
    ]) {
      const ran = await cli("/", ...argv);
      expect(ran).toMatchObject({ exit: EXIT.usage, stderr: "" });
      expect(JSON.parse(ran.stdout)).toMatchObject({ errors: [{ code: "ERR_CLI_USAGE" }] });
    }
  });

  it("--json of another program is not ours, and help is help", async () => {
    const ran = await cli("/", "exec", "none", "--", "x", "--json");
    expect(ran).toMatchObject({ stdout: "", stderr: expect.stringContaining("no running pod") as string });
    expect(await cli("/", "down", "--json", "--help")).toMatchObject({ exit: EXIT.ok, stdout: expect.stringMatching(/^Usage: sealpod down/) as string });
    expect(JSON.parse((await ranBy(runGenpolicyCli, "/", ["--json", "--bogus"])).stdout)).toMatchObject({ error: { code: "ERR_CLI_USAGE" } });
  });

  it.each([
    [["run", "."]],
    [["genpolicy", "-y", "."]],
    [["importkey", "-c", ".", "-kh", "00"]],
    [["attest", "verify", "."]],
    [["attest", "policy", "check", "."]],
    [["example-images", "--key", ".", "--page", "."]],
  ])("%j: a directory in place of a file is called that", async (argv) => {
    await inDirectory(async (directory) => {
      const ran = await cli(directory, ...argv);
      expect(ran.exit).toBe(EXIT.failed);
      expect(ran.stderr).toMatch(/is a directory/);
      expect(ran.stderr).not.toContain("EISDIR");
    });
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

describe("genpolicy under its other names", () => {
  const VERSION_LINE = `Sealpod policy tool: id: genpolicy, version: ${VERSION}\n`;

  it.each([
    ["sealpod genpolicy -v", runCli, ["genpolicy", "-v"], VERSION_LINE],
    ["sealpod genpolicy --version", runCli, ["genpolicy", "--version"], VERSION_LINE],
    ["sealpod --version", runCli, ["--version"], `${VERSION}\n`],
    ["genpolicy -v", runGenpolicyCli, ["-v"], VERSION_LINE],
    ["genpolicy --version, whatever else is asked for", runGenpolicyCli, ["-j", "gone.json", "--version"], VERSION_LINE],
    ["confcom katapolicygen -v", runCli, ["confcom", "katapolicygen", "-v"], VERSION_LINE],
    ["confcom katapolicygen --print-version", runCli, ["confcom", "katapolicygen", "--print-version"], VERSION_LINE],
  ] as const)("%s prints a version and reads nothing", async (_name, program, argv, stdout) => {
    expect(await ranBy(program, "/", argv)).toEqual({ exit: 0, stdout, stderr: "" });
  });

  it("has every flag of both generations of the known tool", async () => {
    const help = (await ranBy(runGenpolicyCli, "/", ["--help"])).stdout;
    expect(help).toContain("Usage: genpolicy [options]");
    for (const flag of [
      "-y, --yaml-file",
      "-c, --config-map-file",
      "--config-file",
      "-p, --rego-rules-path",
      "-j, --json-settings-path",
      "-u, --use-cached-files",
      "--layers-cache-file-path",
      "-r, --raw-out",
      "-b, --base64-out",
      "-s, --silent-unsupported-fields",
      "-d, --containerd-socket-path",
      "--insecure-registry",
      "--runtime-class-names",
      "--initdata-path",
      "-i, --input-files-path",
      "-v, --version",
      "-h, --help",
    ]) {
      expect(help).toContain(`\n  ${flag}`);
    }
  });

  it.each([
    ["no file", ["confcom", "katapolicygen"], "either --yaml (-y) or --print-version (-v) is needed"],
    [
      "a socket without -d",
      ["confcom", "katapolicygen", "-y", "p.yaml", "--containerd-socket-path", "/s"],
      "--containerd-socket-path goes with --containerd-pull (-d)",
    ],
    ["another command", ["confcom", "acipolicygen"], "unknown command 'acipolicygen'"],
    ["a platform that is none", ["genpolicy", "--platform", "amd64", "-y", "p.yaml"], '--platform "amd64" is not OS/ARCHITECTURE'],
    ["a mirror that is none", ["genpolicy", "--registry-mirror", "docker.io", "-y", "p.yaml"], '--registry-mirror "docker.io" is not HOST=MIRROR'],
    ["no jobs", ["genpolicy", "--jobs", "0", "-y", "p.yaml"], "--jobs 0 is not a number from 1 to 999"],
    ["a source that is none", ["genpolicy", "--images", "tape:1", "-y", "p.yaml"], '--images "tape:1" is no source of images'],
    ["a layer format that is none", ["genpolicy", "--layer-format", "ext4"], "Allowed choices are tarfs, erofs"],
    ["initdata for aks", ["genpolicy", "--initdata-path", "x", "-y", "p.yaml"], "--initdata-path: profile aks delivers the policy without initdata"],
  ])("refuses %s as a usage error", async (_name, argv, message) => {
    await inDirectory(async (directory) => {
      await writeFile(join(directory, "p.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n");
      const ran = await cli(directory, ...argv);
      expect(ran).toMatchObject({ exit: EXIT.usage, stdout: "" });
      expect(ran.stderr).toContain(message);
    });
  });

  it.each([
    [
      ["-d", "-y", "a.yaml"],
      ["--containerd-socket-path=/var/run/containerd/containerd.sock", "-y", "a.yaml"],
    ],
    [
      ["-d", "a.yaml"],
      ["--containerd-socket-path=/var/run/containerd/containerd.sock", "a.yaml"],
    ],
    [["-d=/run/c.sock"], ["--containerd-socket-path=/run/c.sock"]],
    [["--containerd-socket-path"], ["--containerd-socket-path=/var/run/containerd/containerd.sock"]],
    [["--containerd-socket-path=/run/c.sock"], ["--containerd-socket-path=/run/c.sock"]],
    [
      ["-y=b.yaml", "-p=a=b.rego"],
      ["-y", "b.yaml", "-p", "a=b.rego"],
    ],
    [["-rbus"], ["-r", "-b", "-u", "-s"]],
    [["-rd"], ["-r", "--containerd-socket-path=/var/run/containerd/containerd.sock"]],
    [["-yb"], ["-yb"]],
  ])("takes %j as the known tool does", (argv, expected) => {
    expect(genpolicyArguments(argv)).toEqual(expected);
  });

  const POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i, tail: 1}]}\n";

  it("rewrites the file behind a link, and keeps its mode", async () => {
    await inDirectory(async (directory) => {
      await writeFile(join(directory, "real.yaml"), POD, { mode: 0o640 });
      await symlink("real.yaml", join(directory, "link.yaml"));
      await rewriteFile(join(directory, "link.yaml"), new TextEncoder().encode("new"));
      expect(await readFile(join(directory, "real.yaml"), "utf8")).toBe("new");
      expect((await lstat(join(directory, "link.yaml"))).isSymbolicLink()).toBe(true);
      expect((await lstat(join(directory, "real.yaml"))).mode & 0o777).toBe(0o640);
      expect((await readdir(directory)).toSorted()).toEqual(["link.yaml", "real.yaml"]);
    });
  });

  it("does not rewrite what is no file", async () => {
    await expect(rewriteFile("/dev/null", new Uint8Array())).rejects.toThrow("/dev/null is no regular file");
    await expect(rewriteFile(tmpdir(), new Uint8Array())).rejects.toThrow("is no regular file");
  });

  it("reads no more of an endless file than its limit", async () => {
    const ran = await cli("/", "genpolicy", "-c", "/dev/zero", "-j", "/dev/zero");
    expect(ran.exit).toBe(EXIT.failed);
    expect(ran.stderr).toMatch(/\/dev\/zero has more than [0-9]+ bytes/);
  });

  it("does not show a proxy's password", async () => {
    await inDirectory(async (directory) => {
      await writeFile(join(directory, "p.yaml"), POD.replace(", tail: 1", ""));
      const ran = await ranBy(runCli, directory, ["genpolicy", "-y", "p.yaml"], { HTTPS_PROXY: "http://u:sekret@:bad" });
      expect(ran.exit).not.toBe(0);
      expect(ran.stderr).toContain("HTTPS_PROXY: not the address of a proxy");
      expect(ran.stdout + ran.stderr).not.toContain("sekret");
    });
  });
});
