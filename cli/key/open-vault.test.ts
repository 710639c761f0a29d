import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { isSealpodError } from "@sealpod/core";
import type { CliContext } from "../context.ts";
import { parseName } from "./name.ts";
import { baseOf, openVault, type VaultOptions } from "./open-vault.ts";
import type { NameOptions } from "./name.ts";

const context: CliContext = {
  env: { SEALPOD_HOME: "/nowhere/state" },
  cwd: "/nowhere",
  stdin: (async function* () {})(),
  stdout: { isTerminal: false, write: () => undefined },
  stderr: { isTerminal: false, write: () => undefined },
  clock: { now: () => 0 },
  elapsed: () => 0,
  random: { bytes: (length) => new Uint8Array(length) },
  signal: new AbortController().signal,
};

function problemOf(work: () => unknown): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (isSealpodError(error)) return `${error.code}: ${error.message}; ${error.hint ?? ""}`;
    throw error;
  }
}

describe("names", () => {
  it.each([
    ["k", { name: "k", version: undefined, base: undefined }],
    ["k/0a", { name: "k", version: "0a", base: undefined }],
    ["https://V.vault.azure.net:443/keys/k", { name: "k", version: undefined, base: "https://v.vault.azure.net" }],
    ["https://v.test:8443/secrets/k/0a/", { name: "k", version: "0a", base: "https://v.test:8443" }],
    ["https://v.test/deletedkeys/k", { name: "k", version: undefined, base: "https://v.test" }],
  ])("%s", (text, wanted) => {
    expect(parseName(text)).toEqual(wanted);
  });

  it.each([
    "",
    "a b",
    "a/b/c",
    "../k",
    "k?x",
    "http://v.test/keys/k",
    "https://v.test/keys/k?x=1",
    "https://u@v.test/keys/k",
    "https://v.test/keys/",
    "x".repeat(128),
  ])("%j is none", (text) => {
    expect(parseName(text)).toBeUndefined();
  });
});

describe("the vault of a command line", () => {
  it.each<readonly [VaultOptions & NameOptions, readonly string[], string | undefined]>([
    [{}, [], undefined],
    [{}, ["k"], undefined],
    [{ vault: "https://v.vault.azure.net/" }, [], "https://v.vault.azure.net"],
    [{ vault: "v.test:8443" }, ["k"], "https://v.test:8443"],
    [{ hsm: "https://h.managedhsm.azure.net" }, ["k"], "https://h.managedhsm.azure.net"],
    [{}, ["https://v.test/keys/k/1"], "https://v.test"],
    [{ name: "https://v.test/keys/k/1" }, [], "https://v.test"],
    [{ vault: "https://v.test" }, ["https://v.test/keys/k"], "https://v.test"],
  ])("%o %j", (options, operands, base) => {
    expect(baseOf(options, operands)).toBe(base);
  });

  it.each<readonly [VaultOptions & NameOptions, readonly string[], string]>([
    [{ vault: "myvault" }, [], "ERR_CLI_USAGE: --vault myvault is not the https URL of a vault; e.g. https://myvault.vault.azure.net"],
    [{ hsm: "myhsm" }, [], "ERR_CLI_USAGE: --hsm myhsm is not the https URL of a vault; e.g. https://myhsm.managedhsm.azure.net"],
    [{ vault: "http://v.test" }, [], "ERR_CLI_USAGE: --vault http://v.test is not the https URL of a vault; e.g. https://myvault.vault.azure.net"],
    [
      { vault: "https://v.test/keys/k" },
      [],
      "ERR_CLI_USAGE: --vault https://v.test/keys/k is not the https URL of a vault; e.g. https://myvault.vault.azure.net",
    ],
    [{ vault: "https://v.test", hsm: "https://v.test" }, [], "ERR_CLI_USAGE: --vault and --hsm name two vaults; Name one."],
    [{ vault: "https://v.test" }, ["https://w.test/keys/k"], "ERR_CLI_USAGE: --vault and the URL of the key name two vaults; Name one."],
  ])("refuses %o %j", (options, operands, problem) => {
    expect(problemOf(() => baseOf(options, operands))).toBe(problem);
  });

  it("sends no token where none is, and says how to get one for the resource", async () => {
    for (const [base, resource] of [
      ["https://v.vault.azure.net", "https://vault.azure.net"],
      ["https://h.managedhsm.azure.net", "https://managedhsm.azure.net"],
    ] as const) {
      const vault = await openVault({ vault: base }, ["k"], context);
      await expect(vault.call("GET", "/keys/k")).rejects.toMatchObject({
        code: "ERR_CLI_USAGE",
        hint: expect.stringContaining(`--resource ${resource} `) as unknown,
      });
    }
  });

  it("is not the laptop's while that is down", async () => {
    await expect(openVault({}, [], context)).rejects.toMatchObject({
      code: "ERR_CLI_NOT_UP",
      row: { exit: 1 },
      message: "no --vault or --hsm is given, and no laptop services run on the state directory /nowhere/state",
    });
    await expect(openVault({ vault: "https://demo.vault.sealpod.internal:8443" }, [], context)).rejects.toMatchObject({ code: "ERR_CLI_NOT_UP" });
  });
});

describe("what every verb of a vault loads", () => {
  // The index of either loads hundreds of modules (the policy engine; attestation and the emulated processor): a second of each command.
  it.each(["open-vault.ts", "output.ts", "vault-client.ts", "vault-fetch.ts", "audit-text.ts"])(
    "%s loads neither importkey nor the services with itself",
    (name) => {
      const text = readFileSync(join(import.meta.dirname, name), "utf8");
      expect(text.match(/^(?:import|export) (?!type )[^;]*from "@sealpod\/(?:importkey|services|attestation|genpolicy)";/gm)).toBeNull();
    },
  );
});
