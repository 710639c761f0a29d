import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { startServices, type RunningServices } from "@sealpod/services";
import type { CliContext } from "../context.ts";
import { runCli } from "../program.ts";

let directory: string;
let services: RunningServices;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-cli-identity-"));
  services = await startServices({
    state: join(directory, "state"),
    host: "127.0.0.1",
    port: 0,
    domain: "sealpod.internal",
    pid: process.pid,
    clock: systemClock,
    random: systemRandom,
    logger: silentLogger,
  });
});
afterAll(async () => {
  await services.stop();
  await rm(directory, { recursive: true, force: true });
});

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function sealpod(...argv: readonly string[]): Promise<Ran> {
  const written = { stdout: "", stderr: "" };
  const context: CliContext = {
    env: { SEALPOD_HOME: join(directory, "state") },
    cwd: directory,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock: systemClock,
    elapsed: () => performance.now(),
    random: systemRandom,
    signal: new AbortController().signal,
  };
  return { exit: await runCli(argv, context), ...written };
}

describe("on the laptop", () => {
  it.each([
    ["app list", 1],
    ["app show", 2],
    ["federated-credential create", 2],
    ["federated-credential list", 1],
    ["key list", 1],
    ["key rotate", 3],
    ["audit", 2],
  ])("the examples in the help of identity %s do what they say", async (verb, count) => {
    const { stdout } = await sealpod("identity", ...verb.split(" "), "--help");
    const examples = [...stdout.matchAll(/^ {2}sealpod (identity .*?)(?: +#.*)?$/gm)].map(([, line = ""]) => line);
    expect(examples).toHaveLength(count);
    for (const line of examples) {
      const argv = line.replace(/\bID\b/, services.up.workload.clientId).split(" ");
      expect(await sealpod(...argv), line).toMatchObject({ exit: 0, stderr: "" });
    }
  });

  it("the group that a managed identity was made in need not be repeated while its name is its own", async () => {
    for (const group of ["demo", "other"]) {
      expect((await sealpod("identity", "app", "create", "web-identity", "--managed", "-g", group)).exit).toBe(0);
      const args = ["--name", "web", "--identity-name", "web-identity", "--subject", "system:serviceaccount:default:web", "--json"];
      const { exit, stdout, stderr } = await sealpod("identity", "federated-credential", "create", ...args);
      if (group === "demo") expect(JSON.parse(stdout)).toMatchObject({ name: "web", properties: { issuer: services.up.endpoints.issuer } });
      else expect({ exit, text: `${stdout}${stderr}` }).toMatchObject({ exit: 2, text: expect.stringContaining("--resource-group") });
    }
    const inOther = ["--identity-name", "web-identity", "-g", "other"];
    expect((await sealpod("identity", "app", "show", ...inOther)).stdout).toContain("/resourceGroups/other/");
  });

  it("keys that are not there lead to those that are", async () => {
    const { exit, stderr } = await sealpod("identity", "key", "rotate", "--purpose", "cluster", "--cluster", "none");
    expect({ exit, stderr }).toMatchObject({ exit: 1, stderr: expect.stringContaining("sealpod identity key list") });
  });

  it("a secret that is not there leads to where secrets are", async () => {
    const { stderr } = await sealpod("identity", "secret", "delete", "--identity-name", "workload-identity", "--key-id", "none");
    expect(stderr).toContain('to do: Its secrets are in: sealpod identity app show --identity-name "workload-identity"');
    const shown = await sealpod("identity", "app", "show", "--identity-name", "workload-identity");
    expect(shown).toMatchObject({ exit: 0, stdout: expect.stringContaining(services.up.workload.clientId) });
  });

  it("who is not the owner is refused, with the exit code of refusals", async () => {
    const made = await sealpod("identity", "app", "create", "stranger", "--json");
    const { appId } = JSON.parse(made.stdout) as { appId: string };
    await writeFile(join(directory, "secret"), (await sealpod("identity", "secret", "create", "--client-id", appId)).stdout);
    const management = ["--resource", "https://management.azure.com"];
    const token = await sealpod("identity", "token", "--client-id", appId, "--client-secret-file", "secret", ...management);
    await writeFile(join(directory, "token"), token.stdout);
    for (const argv of [
      ["app", "list"],
      ["key", "rotate", "--purpose", "tenant"],
      ["app", "create", "more"],
      ["app", "show", "--identity-name", "stranger"],
    ]) {
      const { exit, stdout, stderr } = await sealpod("identity", ...argv, "--bearer-token-file", "token");
      expect({ exit, stdout }, argv.join(" ")).toEqual({ exit: 3, stdout: "" });
      expect(stderr).toMatch(/status 403[^]*to do: .*--bearer-token-file[^]*ERR_IDENTITY_SERVICE/);
      if (argv[0] === "key") expect(stderr).toContain("management.tokenFile");
    }
    const asJson = await sealpod("identity", "app", "list", "--bearer-token-file", "token", "--json");
    expect({ ...asJson, stdout: JSON.parse(asJson.stdout) as unknown }).toMatchObject({
      exit: 3,
      stderr: "",
      stdout: { error: { code: "ERR_IDENTITY_SERVICE" } },
    });
    await writeFile(join(directory, "token"), "nobodys");
    expect((await sealpod("identity", "app", "list", "--bearer-token-file", "token")).exit).toBe(1);
  });

  it("who starts a second one is told how to stop the first", async () => {
    const { exit, stderr } = await sealpod("up", "--port", "1");
    expect({ exit, stderr }).toMatchObject({ exit: 1, stderr: expect.stringContaining('"sealpod down"') });
    expect(stderr).not.toContain("kill");
  });
});
