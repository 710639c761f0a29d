import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

// As users start it: the bundle where it is fresh, and the compile cache.
const MAIN = join(import.meta.dirname, "..", "bin", "sealpod.cjs");

let directory: string;
let server: ChildProcess;
let url: string;
let log = "";
let tenant: string;

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function sealpod(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Result> {
  const child = spawn(process.execPath, [MAIN, "identity", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    cwd: directory,
    env: { PATH: process.env["PATH"], HOME: directory, ...env },
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  await once(child, "close");
  return { code: child.exitCode, stdout, stderr };
}

const target = (): readonly string[] => ["--authority", url, "--ca", "dev/tls.crt"];
const managed = (): readonly string[] => [...target(), "--bearer-token-file", "dev/operator.token"];
const json = async (args: readonly string[]): Promise<Record<string, unknown>> => {
  const { code, stdout, stderr } = await sealpod([...args, ...managed(), "--json"]);
  expect(stderr).toBe("");
  expect(code).toBe(0);
  return JSON.parse(stdout) as Record<string, unknown>;
};

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-identity-"));
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, "close");
  url = `https://localhost:${port}`;
  server = spawn(process.execPath, [MAIN, "identity", "serve", "--dev", "dev", "--listen", `127.0.0.1:${port}`], {
    stdio: ["ignore", "pipe", "pipe"],
    cwd: directory,
  });
  let said = "";
  await new Promise<void>((resolve, reject) => {
    server.stdout?.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (said.includes("Ctrl-C ends it.")) resolve();
    });
    server.stderr?.setEncoding("utf8").on("data", (text: string) => {
      log += text;
    });
    server.on("exit", () => reject(new Error(`the service ended: ${log}`)));
  });
  expect(said).toContain(`issuer         ${url}/oidc/dev/ (cluster dev)`);
  tenant = readFileSync(join(directory, "dev/tenant"), "utf8").trim();
});
afterAll(async () => {
  if (server.exitCode === null) {
    server.kill("SIGTERM");
    await once(server, "exit");
  }
  rmSync(directory, { recursive: true });
});

describe("sealpod identity", () => {
  it("makes its files for their owner alone", () => {
    for (const name of ["master.key", "operator.token", "tls.key", "config.json", "identity.sqlite"])
      expect(statSync(join(directory, "dev", name)).mode & 0o077).toBe(0);
  });

  it("registers an application, gives it a secret, and gets a token with it", async () => {
    const app = await json(["app", "create", "pipeline"]);
    const clientId = String(app["appId"]);
    const secret = await sealpod(["secret", "create", "--client-id", clientId, ...managed()]);
    expect(secret.stdout).toMatch(/^[\w-]{43}\n$/);
    expect(secret.stderr).toMatch(/is not shown again/);
    writeFileSync(join(directory, "secret"), secret.stdout);
    const token = await sealpod([
      "token",
      "--client-id",
      clientId,
      "--client-secret-file",
      "secret",
      "--tenant",
      tenant,
      "--resource",
      "https://vault.azure.net",
      ...target(),
      "--json",
    ]);
    expect(JSON.parse(token.stdout)).toMatchObject({
      token_type: "Bearer",
      claims: { appid: clientId, tid: tenant, appidacr: "1", iss: `${url}/${tenant}/v2.0` },
    });
    const shown = await json(["app", "show", "--client-id", clientId]);
    expect(shown["passwordCredentials"]).toHaveLength(1);
    const [{ keyId }] = shown["passwordCredentials"] as [{ keyId: string }];
    expect(await json(["secret", "delete", "--client-id", clientId, "--key-id", keyId])).toEqual({ deleted: true });
    const refused = await sealpod([
      "token",
      "--client-id",
      clientId,
      "--client-secret-file",
      "secret",
      "--tenant",
      tenant,
      "--resource",
      "https://vault.azure.net",
      ...target(),
    ]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(/AADSTS7000215[^]*ERR_IDENTITY_SERVICE/);
    expect(refused.stderr).not.toContain(secret.stdout.trim());
  });

  it("takes what the webhook has put around a pod", async () => {
    const made = await json(["app", "create", "from-env"]);
    writeFileSync(join(directory, "federated"), "a.b.c");
    const { code, stderr } = await sealpod(["token", "--resource", "https://vault.azure.net", "--ca", "dev/tls.crt"], {
      AZURE_AUTHORITY_HOST: `${url}/`,
      AZURE_CLIENT_ID: String(made["appId"]),
      AZURE_TENANT_ID: tenant,
      AZURE_FEDERATED_TOKEN_FILE: join(directory, "federated"),
    });
    expect(code).toBe(1);
    expect(stderr).toMatch(/AADSTS50027: JWT token is invalid or malformed/);
  });

  it("registers a managed identity and its credentials in the shapes of the Azure CLI", async () => {
    const made = await json(["app", "create", "web-identity", "--managed", "-g", "demo"]);
    expect(made).toMatchObject({ name: "web-identity", type: "Microsoft.ManagedIdentity/userAssignedIdentities", properties: { tenantId: tenant } });
    const args = [
      "--name",
      "kubernetes",
      "--identity-name",
      "web-identity",
      "-g",
      "demo",
      "--issuer",
      `${url}/oidc/dev/`,
      "--subject",
      "system:serviceaccount:default:web",
    ];
    const credential = await json(["federated-credential", "create", ...args]);
    expect(credential).toMatchObject({ name: "kubernetes", properties: { issuer: `${url}/oidc/dev/`, audiences: ["api://AzureADTokenExchange"] } });
    expect(await json(["federated-credential", "list", "--identity-name", "web-identity", "-g", "demo"])).toMatchObject([{ name: "kubernetes" }]);
    expect(await json(["federated-credential", "delete", "--name", "kubernetes", "--identity-name", "web-identity", "-g", "demo"])).toEqual({ deleted: true });
    const gone = await sealpod(["federated-credential", "delete", "--name", "kubernetes", "--identity-name", "web-identity", "-g", "demo", ...managed()]);
    expect(gone).toMatchObject({ code: 1 });
    expect(gone.stderr).toMatch(/has no federated credential kubernetes[^]*ERR_IDENTITY_NOT_FOUND/);
    expect((await sealpod(["app", "list", ...managed()])).stdout).toMatch(/^NAME[^]*web-identity {2}[0-9a-f-]{36} {2}managedIdentity/);
    expect(await json(["app", "delete", "--identity-name", "web-identity", "-g", "demo"])).toEqual({ deleted: true });
  });

  it("rotates keys, and tells of everything in the audit", async () => {
    const made = await json(["key", "rotate", "--purpose", "cluster", "--cluster", "dev"]);
    expect(made).toMatchObject({ state: "next" });
    expect((await sealpod(["key", "list", ...managed()])).stdout).toContain(`cluster  dev      next    ${String(made["signsFrom"])}  ${String(made["kid"])}`);
    const audit = await sealpod(["audit", "--limit", "1", ...managed()]);
    expect(audit.stdout).toMatch(/ {2}key\.rotate {2}cluster\/dev\/\S+ {2}operator {2}\{/);
  });

  it.each<readonly [string, () => readonly string[], number, RegExp]>([
    ["no service", () => ["app", "list", "--state", join(directory, "none")], 1, /no laptop services run[^]*ERR_CLI_NOT_UP/],
    ["no token", () => ["app", "list", ...target()], 2, /without --bearer-token-file/],
    [
      "an authority in the clear",
      () => ["app", "list", "--authority", "http://example.com", "--bearer-token-file", "dev/operator.token"],
      2,
      /not the https URL/,
    ],
    ["a wrong token", () => ["app", "list", ...target(), "--bearer-token-file", "dev/master.key"], 1, /status 401/],
    ["no authority for the certificate", () => ["app", "list", "--authority", url, "--bearer-token-file", "dev/operator.token"], 1, /certificate[^]*--ca/],
    ["no application", () => ["app", "show", ...managed()], 2, /neither --client-id nor --identity-name/],
    ["two applications", () => ["app", "show", "--client-id", "x", "--identity-name", "y", ...managed()], 2, /both --client-id and/],
    ["an id that is none", () => ["app", "show", "--client-id", "x')/y", ...managed()], 2, /not a UUID/],
    ["no issuer", () => ["federated-credential", "create", "--name", "abc", "--subject", "s", "--client-id", tenant, ...managed()], 2, /no --issuer/],
    ["two credentials", () => ["token", "--resource", "x", "--client-secret-file", "a", "--federated-token-file", "b", ...target()], 2, /more than one/],
    ["neither --config nor --dev", () => ["serve"], 2, /neither --config nor --dev/],
    ["an address that others reach", () => ["serve", "--dev", "d2", "--listen", "0.0.0.0:1"], 2, /no loopback/],
  ])("refuses %s", async (_what, args, code, message) => {
    const result = await sealpod(args());
    expect(result.stderr).toMatch(message);
    expect(result).toMatchObject({ code, stdout: "" });
  });

  it("prints every key of the configuration, and one to start from", async () => {
    expect((await sealpod(["serve", "--describe-config"])).stdout).toContain("| `tokens.issuer` | `SEALPOD_IDENTITY_TOKENS_ISSUER` |");
    expect(JSON.parse((await sealpod(["serve", "--print-config"])).stdout)).toMatchObject({ authority: null, listen: "127.0.0.1:8444", federation: "on" });
  });

  it("stops with SIGTERM, and has logged no secrets", async () => {
    server.kill("SIGTERM");
    const [code] = (await once(server, "exit")) as [number];
    expect(code).toBe(0);
    for (const name of ["operator.token", "master.key"]) expect(log).not.toContain(readFileSync(join(directory, "dev", name), "utf8").trim());
  });
});
