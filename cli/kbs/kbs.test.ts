import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { isSealpodError, parseJson, silentLogger, type JsonObject } from "@sealpod/core";
import { ed25519Admins, kbsApp } from "@sealpod/kbs";
import { openVaultStore, type VaultStore } from "@sealpod/keyvault";
import { AMD_ROOTS } from "@sealpod/snp";
import type { CliContext } from "../context.ts";
import type { Verb } from "../program.ts";
import { adminToken } from "./admin-token.ts";
import { addKbsVerbs } from "./commands.ts";
import { kbsClient, type KbsAdmin } from "./kbs-client.ts";
import type { KbsRequest } from "./kbs-fetch.ts";
import type { KbsOperation } from "./open-kbs.ts";

const BASE = "https://kbs.test:8080";
const NOW = Date.UTC(2026, 0, 2);
const clock = { now: () => NOW };

interface Ran {
  readonly exit: number | undefined;
  readonly stdout: string;
  readonly error: { readonly code: string; readonly message: string; readonly hint: string | undefined } | undefined;
}

let directory: string;
let store: VaultStore;
let app: ReturnType<typeof kbsApp>;
let adminPem: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-cli-kbs-"));
  store = await openVaultStore({
    url: ":memory:",
    master: new Uint8Array(32).fill(7),
    clock,
    random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
  });
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  adminPem = privateKey.export({ format: "pem", type: "pkcs8" }).toString();
  app = kbsApp({
    store,
    vault: "demo",
    roots: AMD_ROOTS,
    administrators: ed25519Admins([publicKey.export({ format: "pem", type: "spki" }).toString()], clock),
    clock,
    random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
    logger: silentLogger,
  });
  await writeFile(join(directory, "admin.key"), adminPem);
  await writeFile(join(directory, "other.key"), generateKeyPairSync("ed25519").privateKey.export({ format: "pem", type: "pkcs8" }));
  await writeFile(join(directory, "rsa.key"), generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "pem", type: "pkcs8" }));
  await writeFile(join(directory, "raw"), Uint8Array.of(0, 1, 254, 255));
  await writeFile(join(directory, "policy.rego"), "package policy\n\ndefault allow := true\n");
  await writeFile(join(directory, "attestation.rego"), "package policy\n\nexecutables := 3\n");
  await writeFile(join(directory, "other.rego"), "package other\n\nallow := true\n");
  await writeFile(join(directory, "broken.rego"), "package policy\nallow if {\n");
  await writeFile(join(directory, "empty"), " \n");
});
afterAll(async () => {
  await store.close();
  await rm(directory, { recursive: true });
});

/** Runs `sealpod kbs …`: flags as they are declared, requests by the real client. Without a key broker the verb opens its own. */
async function kbs(argv: readonly string[], broker: KbsAdmin | undefined, stdin: string | Uint8Array = ""): Promise<Ran> {
  let stdout = "";
  let exit: number | undefined;
  const context: CliContext = {
    env: { SEALPOD_HOME: join(directory, "nowhere"), HOME: directory },
    cwd: directory,
    stdin: (async function* () {
      yield typeof stdin === "string" ? new TextEncoder().encode(stdin) : stdin;
    })(),
    stdout: { isTerminal: false, write: (text) => void (stdout += text) },
    stderr: { isTerminal: false, write: () => undefined },
    clock,
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length) },
    signal: new AbortController().signal,
  };
  const program = new Command("kbs").exitOverride().configureOutput({ writeOut: () => undefined, writeErr: () => undefined });
  addKbsVerbs((usage, _summary, _examples, load) => {
    const command = program.command(usage).option("--json").option("--state <dir>").exitOverride();
    command.action(async () => {
      const { run, operation } = (await load()) as { readonly run: Verb<object>; readonly operation: KbsOperation<object> };
      exit = broker === undefined ? await run(command.opts(), command.args, context) : await operation(broker, command.opts(), command.args, context);
    });
    return command;
  });
  try {
    await program.parseAsync(argv, { from: "user" });
    return { exit, stdout, error: undefined };
  } catch (error) {
    if (!isSealpodError(error)) throw error;
    const { code, message, hint, row } = error;
    return { exit: row.exit, stdout, error: { code, message, hint } };
  }
}

/** The key broker itself, in this process. */
const real = (pem = adminPem): KbsAdmin =>
  kbsClient({
    base: BASE,
    token: async () => Promise.resolve(adminToken(pem, "admin.key", clock)),
    async fetch(url, { method, headers, body }) {
      const response = await app.request(url, { method, headers, ...(body === undefined ? {} : { body }) });
      return { status: response.status, text: await response.text() };
    },
  });
const done = async (argv: readonly string[], stdin?: string | Uint8Array): Promise<string> => {
  const { exit, stdout, error } = await kbs(argv, real(), stdin);
  expect([error, exit]).toEqual([undefined, 0]);
  return stdout;
};
const valueOf = async (name: string): Promise<string | undefined> => {
  const record = await store.secret("demo", name);
  return record === undefined ? undefined : store.openSecret(record);
};

describe("the verbs against the key broker itself", () => {
  it("set and delete resources, byte for byte", async () => {
    expect(await done(["set-resource", "--path", "default/key/disk", "--resource-file", "raw"])).toBe("kbs:///default/key/disk has 4 bytes\n");
    expect(await valueOf("kbs--default--key--disk")).toBe("AAH+/w==");
    expect(await done(["set-resource", "--path", "kbs:///default/secret/db", "--resource-file", "-", "--json"], "hunter2\n")).toBe(
      '{\n  "uri": "kbs:///default/secret/db",\n  "bytes": 8\n}\n',
    );
    expect(await valueOf("kbs--default--secret--db")).toBe("hunter2\n");
    expect(await done(["delete-resource", "--path", "default/key/disk"])).toBe("kbs:///default/key/disk is deleted\n");
    expect(await valueOf("kbs--default--key--disk")).toBeUndefined();
    expect((await kbs(["delete-resource", "--path", "default/key/disk"], real())).error).toMatchObject({
      code: "ERR_CLI_KBS_REFUSED",
      message: "DELETE kbs.test:8080/kbs/v0/resource/default/key/disk: the key broker answered 401, PluginInternalError: there is no resource default/key/disk",
    });
  });

  it("set policies, and say what is wrong with one", async () => {
    expect(await done(["set-resource-policy", "--policy-file", "policy.rego"])).toBe("the resource policy is set\n");
    expect(await done(["set-attestation-policy", "--policy-file", "attestation.rego"])).toBe('the attestation policy "default_cpu" is set\n');
    const text = async (name: string): Promise<string> => Buffer.from(await real().call("GET", name), "base64url").toString();
    expect(await text("resource-policy")).toBe("package policy\n\ndefault allow := true\n");
    expect(await text("attestation-policy/default_cpu")).toBe("package policy\n\nexecutables := 3\n");
    for (const argv of [
      ["set-resource-policy", "--policy-file", "broken.rego"],
      ["set-attestation-policy", "--policy-file", "broken.rego"],
      ["set-attestation-policy", "--policy-file", "policy.rego", "--type", "cedar"],
      ["set-attestation-policy", "--policy-file", "policy.rego", "--id", "mine"],
    ])
      expect((await kbs(argv, real())).error, argv.join(" ")).toMatchObject({
        code: "ERR_CLI_KBS_REFUSED",
        message: expect.stringContaining("ParsePolicyError") as unknown,
      });
    expect((await kbs(["set-resource-policy", "--policy-file", "empty"], real())).error?.code).toBe("ERR_CLI_FILE");
  });

  it.each([
    [["set-resource-policy", "--policy-file", "other.rego"], "it has package other with allow, expected data.policy.allow"],
    [["set-resource-policy", "--policy-file", "attestation.rego"], "That is an attestation policy: set it as such"],
    [["set-attestation-policy", "--policy-file", "policy.rego"], "That is a resource policy: set it as such"],
    [["set-reference-value", "snp_launch_measurement", '["96 hex digits"]'], 'has at index 0 "96 hex digits", expected 96 lower-case hex digits'],
    [["set-reference-value", "snp_bootloader", "256"], "expected an integer from 0 to 255"],
  ])("%j is of no use: the key broker's words are shown", async (argv, said) => {
    const { error, stdout, exit } = await kbs(argv, real());
    expect(stdout).toBe("");
    expect(exit).toBe(1);
    expect(error).toMatchObject({ code: "ERR_CLI_KBS_REFUSED", message: expect.stringContaining("answered 400, ParsePolicyError: ") as unknown });
    expect(error?.message).toContain(said);
  });

  it("the policy in the help is one that is taken", async () => {
    let help = "";
    const program = new Command("kbs");
    addKbsVerbs((usage) => program.command(usage).configureOutput({ writeOut: (text) => void (help += text) }));
    program.commands.find((command) => command.name() === "set-resource-policy")?.outputHelp();
    const snippet = /^ {2}package policy\n[^]*?^ {2}\}$/m.exec(help)?.[0] ?? "";
    expect(snippet).toContain("allow if {");
    await writeFile(join(directory, "help.rego"), snippet.replace("HOST_DATA in hex", "ab".repeat(32)));
    expect(await done(["set-resource-policy", "--policy-file", "help.rego"])).toBe("the resource policy is set\n");
  });

  it("set reference values and list them; a single one is a list of one", async () => {
    const measurement = "ab".repeat(48);
    expect(await done(["set-reference-value", "snp_launch_measurement", `["${measurement}"]`])).toBe(`snp_launch_measurement = ["${measurement}"]\n`);
    await done(["set-reference-value", "snp_bootloader", "4"]);
    await done(["set-reference-value", "snp_smt_enabled", "true"]);
    await done(["set-reference-value", "big", "[18446744073709551615]"]);
    await done(["set-reference-value", "table", '{"a": 1}']);
    expect(await done(["list-reference-values"])).toBe(
      `big = [18446744073709551615]\nsnp_bootloader = [4]\nsnp_launch_measurement = ["${measurement}"]\nsnp_smt_enabled = [true]\ntable = {"a":1}\n`,
    );
    const listed = parseJson(await done(["list-reference-values", "--json"])) as JsonObject;
    expect({ ...listed }).toMatchObject({ big: [18446744073709551615n], snp_bootloader: [4] });
    expect((await kbs(["set-reference-value", "snp_launch_measurement", measurement], real())).error).toMatchObject({
      code: "ERR_CLI_USAGE",
      hint: `Text has quotes, which the shell must leave: '["${measurement}"]'`,
    });
    expect((await kbs(["set-reference-value", "a b", "1"], real())).error?.code).toBe("ERR_CLI_KBS_REFUSED");
  });

  it("are for administrators", async () => {
    const stranger = real(generateKeyPairSync("ed25519").privateKey.export({ format: "pem", type: "pkcs8" }).toString());
    for (const argv of [
      ["set-resource", "--path", "a/b/c", "--resource-file", "raw"],
      ["delete-resource", "--path", "a/b/c"],
      ["set-resource-policy", "--policy-file", "policy.rego"],
      ["set-attestation-policy", "--policy-file", "policy.rego"],
      ["set-reference-value", "x", "1"],
      ["list-reference-values"],
    ])
      expect((await kbs(argv, stranger)).error, argv[0]).toMatchObject({
        code: "ERR_CLI_KBS_REFUSED",
        message: expect.stringContaining("AdminAuth: the bearer token is not accepted: no key of an administrator signed it") as unknown,
        hint: expect.stringContaining("--auth-private-key") as unknown,
      });
  });

  it.each(["a/b", "a/b/c/d", "a/../c", "a/b/c?x", "a/b/c d", "/a/b/c", "", "https://a/b/c"])("refuse the path %j before anything is sent", async (path) => {
    const silent: KbsAdmin = { base: BASE, call: async () => Promise.reject(new Error("was sent")) };
    for (const argv of [
      ["set-resource", "--path", path, "--resource-file", "raw"],
      ["delete-resource", "--path", path],
    ])
      expect((await kbs(argv, silent)).error?.code).toBe("ERR_CLI_USAGE");
  });
});

describe("the requests", () => {
  let sent: { readonly url: string; readonly request: KbsRequest }[];
  let answer: { readonly status: number; readonly text: string } | Error;
  const scripted = (): KbsAdmin =>
    kbsClient({
      base: BASE,
      token: async () => Promise.resolve("t0ken"),
      fetch: async (url, request) => {
        sent.push({ url, request });
        return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
      },
    });
  beforeEach(() => {
    sent = [];
    answer = { status: 200, text: "" };
  });
  const bodyOf = (index: number): unknown => JSON.parse(Buffer.from(sent[index]?.request.body ?? new Uint8Array()).toString());

  it("are those of CoCo's tool", async () => {
    await kbs(["set-resource", "--path", "a/b/c", "--resource-file", "raw"], scripted());
    await kbs(["set-resource-policy", "--policy-file", "policy.rego"], scripted());
    await kbs(["set-attestation-policy", "--policy-file", "policy.rego", "--id", "default_gpu"], scripted());
    await kbs(["set-reference-value", "x", '"v"'], scripted());
    expect(sent.map(({ url, request }) => [request.method, url, request.headers["authorization"], request.headers["content-type"]])).toEqual([
      ["POST", `${BASE}/kbs/v0/resource/a/b/c`, "Bearer t0ken", "application/octet-stream"],
      ["POST", `${BASE}/kbs/v0/resource-policy`, "Bearer t0ken", "application/json"],
      ["POST", `${BASE}/kbs/v0/attestation-policy`, "Bearer t0ken", "application/json"],
      ["POST", `${BASE}/kbs/v0/reference-value`, "Bearer t0ken", "application/json"],
    ]);
    const policy = Buffer.from("package policy\n\ndefault allow := true\n").toString("base64url");
    expect([...(sent[0]?.request.body ?? [])]).toEqual([0, 1, 254, 255]);
    expect(bodyOf(1)).toEqual({ policy });
    expect(bodyOf(2)).toEqual({ type: "rego", policy_id: "default_gpu", policy });
    expect(bodyOf(3)).toEqual({ version: "0.1.0", type: "sample", payload: Buffer.from('{"x":["v"]}').toString("base64") });
  });

  it.each([
    [{ status: 500, text: "oops" }, "ERR_CLI_KBS", "answered 500, oops"],
    [{ status: 429, text: "" }, "ERR_CLI_KBS", "answered 429"],
    [{ status: 404, text: "<html>" }, "ERR_CLI_KBS_REFUSED", "answered 404, <html>"],
    [{ status: 401, text: '{"type":"https://x/errors/A\\u001bB","detail":"a\\nb\\u001b[31m"}' }, "ERR_CLI_KBS_REFUSED", "answered 401, A B: a b"],
    [new Error("connection refused"), "ERR_CLI_KBS", "no answer: connection refused"],
  ] as const)("that get %j say so, in one line that cannot steer a terminal", async (given, code, problem) => {
    answer = given;
    const { error } = await kbs(["list-reference-values"], scripted());
    expect(error?.code).toBe(code);
    expect(error?.message).toContain(problem);
    expect(error?.message).not.toMatch(/\p{Cc}|t0ken/u);
  });

  it("that list get an object, or nothing is listed", async () => {
    for (const text of ["[]", "", "null", "{"]) {
      answer = { status: 200, text };
      expect((await kbs(["list-reference-values"], scripted())).error?.code).toBe("ERR_CLI_KBS");
    }
    answer = { status: 200, text: '{"a\\u001b[2J":["\\u0007"]}' };
    expect((await kbs(["list-reference-values"], scripted())).stdout).not.toContain("\u001b");
  });
});

describe("the administrator's token", () => {
  it("is the one of kbs-client: EdDSA, two hours", async () => {
    const [header, claims] = adminToken(adminPem, "f", clock)
      .split(".")
      .map((part) => Buffer.from(part, "base64url").toString());
    expect(header).toBe('{"alg":"EdDSA","typ":"JWT"}');
    expect(JSON.parse(claims ?? "")).toEqual({ iat: NOW / 1000, exp: NOW / 1000 + 7200, nbf: NOW / 1000 });
  });

  it.each([
    ["rsa.key", /is of type rsa, expected ed25519/],
    ["policy.rego", /holds no private key in PEM/],
    ["absent.key", /does not exist/],
  ])("is not made with %s", async (file, problem) => {
    const { error } = await kbs(["list-reference-values", "--url", BASE, "--auth-private-key", file], undefined);
    expect(error).toMatchObject({ code: "ERR_CLI_FILE", message: expect.stringMatching(problem) as unknown });
  });
});

describe("the key broker of a command line", () => {
  const KEY = ["--auth-private-key", "admin.key"];
  it.each<[readonly string[], string, RegExp]>([
    [[], "ERR_CLI_NOT_UP", /no --url is given, and no laptop services run/],
    [["--url", "https://kbs.sealpod.internal:8443", ...KEY], "ERR_CLI_NOT_UP", /is the laptop's, and no laptop services run/],
    [["--url", BASE], "ERR_CLI_USAGE", /no administrator's token is given/],
    [["--url", BASE, ...KEY, "--bearer-token-file", "raw"], "ERR_CLI_USAGE", /two administrators/],
    [["--url", BASE, "--bearer-token-file", "policy.rego"], "ERR_CLI_FILE", /holds no bearer token/],
    [["--url", BASE, ...KEY, "--cert-file", "policy.rego"], "ERR_CLI_FILE", /holds no certificate/],
    [["--url", "http://kbs.test:8080", ...KEY], "ERR_CLI_USAGE", /is not the https URL of a key broker/],
    [["--url", "https://kbs.test/path", ...KEY], "ERR_CLI_USAGE", /without path/],
    [["--url", "https://user@kbs.test", ...KEY], "ERR_CLI_USAGE", /without path/],
    [["--url", "kbs.test", ...KEY], "ERR_CLI_USAGE", /without path/],
  ])("%j is refused", async (flags, code, problem) => {
    expect((await kbs(["list-reference-values", ...flags], undefined)).error).toMatchObject({ code, message: expect.stringMatching(problem) as unknown });
  });
});
