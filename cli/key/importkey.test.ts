import { createHash } from "node:crypto";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { isSealpodError } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import { run } from "../verbs/importkey.ts";
import { withImportKeyFlags } from "./commands.ts";

const POLICY = "package agent_policy";
const HOST_DATA = createHash("sha256").update(POLICY).digest("hex");

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-importkey-"));
  const pod = (name: string, policy: string): string =>
    `apiVersion: v1\nkind: Pod\nmetadata: {name: ${name}, annotations: {io.katacontainers.config.agent.policy: ${Buffer.from(policy).toString("base64")}}}\nspec: {containers: []}\n`;
  await writeFile(join(directory, "app.yaml"), `${pod("web", POLICY)}---\n${pod("db", "package other")}`);
});
afterAll(async () => rm(directory, { recursive: true }));

async function importkey(...argv: readonly string[]): Promise<{ readonly exit: number; readonly stdout: string; readonly problem: string | undefined }> {
  let stdout = "";
  const context: CliContext = {
    env: { SEALPOD_HOME: join(directory, "state") },
    cwd: directory,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (stdout += text) },
    stderr: { isTerminal: false, write: () => undefined },
    clock: { now: () => 0 },
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length).fill(5) },
    signal: new AbortController().signal,
  };
  const command = withImportKeyFlags(new Command("importkey").option("--json").exitOverride()).parse(argv, { from: "user" });
  try {
    return { exit: await run(command.opts(), [], context), stdout, problem: undefined };
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    return { exit: error.row.exit, stdout, problem: `${error.code}: ${error.message}` };
  }
}

const WHERE = ["--kid", "k", "--akv-endpoint", "v.vault.azure.net", "--maa-endpoint", "m.attest.azure.net"];

describe("sealpod importkey", () => {
  it("--dry-run prints what would be sent, without the key, and leaves nothing behind", async () => {
    const text = await importkey("-c", "app.yaml", "--pod", "web", "--kh", "0a".repeat(32), "--out", "--dry-run", ...WHERE);
    expect(text).toMatchObject({ exit: 0, problem: undefined });
    expect(text.stdout).toMatch(
      /^key: oct 256 bits\nPUT https:\/\/v\.vault\.azure\.net\/keys\/k\?api-version=7\.4\n\{"key":\{"kty":"oct-HSM","k":"\(not shown\)",/,
    );
    expect(text.stdout).toContain(HOST_DATA);
    const json = JSON.parse((await importkey("-c", "app.yaml", "--pod", "web", "--kty", "RSA-HSM", "--dry-run", "--json", ...WHERE)).stdout) as Record<
      string,
      object
    >;
    expect(json).toMatchObject({
      request: { method: "PUT", body: { key: { kty: "RSA-HSM", d: "(not shown)", e: "AQAB" } } },
      releasePolicy: { anyOf: [{ authority: "https://m.attest.azure.net", allOf: [{ equals: HOST_DATA }, {}, {}] }] },
    });
    expect(await readdir(directory)).toEqual(["app.yaml"]);
  });

  it.each([
    [["-c", "app.yaml", "--dry-run"], 1, /^ERR_IMPORTKEY_POLICY: app\.yaml:1:1: the Pod web and app\.yaml:6:1: the Pod db have different policies/],
    [
      ["-c", "app.yaml", "--pod", "db", "-a", "--bearer-token-file", "t", ...WHERE],
      2,
      /^ERR_CLI_USAGE: -a and --bearer-token-file are two sources of a token$/,
    ],
    [["-c", "app.yaml", "--pod", "db", ...WHERE], 2, /^ERR_CLI_USAGE: v\.vault\.azure\.net is not the laptop's vault, and no access token is given$/],
    [["-c", "app.yaml", "--pod", "db", ...WHERE, "--akv-endpoint", "demo.vault.sealpod.internal"], 1, /^ERR_CLI_NOT_UP: /],
  ])("%j fails with %i", async (argv, exit, problem) => {
    const ran = await importkey(...argv);
    expect([ran.exit, ran.stdout]).toEqual([exit, ""]);
    expect(ran.problem).toMatch(problem);
  });
});
