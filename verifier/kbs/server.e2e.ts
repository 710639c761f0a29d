import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ask, freePort, makeLocalCertificate, ServiceProcess } from "@sealpod/service/testing";

/** The key broker as a program: configuration, administrators, what it refuses to start with. What guests do is tested with the application (kbs.test.ts) and on the laptop. */
const MAIN = join(import.meta.dirname, "main.ts");
const directory = mkdtempSync(join(tmpdir(), "sealpod-kbs-"));
const file = (name: string): string => join(directory, name);
const admin = generateKeyPairSync("ed25519");
const stranger = generateKeyPairSync("ed25519");
const processes: ServiceProcess[] = [];
let port: number;

beforeAll(async () => {
  port = await freePort();
  makeLocalCertificate(file("tls"), "localhost");
  writeFileSync(file("master.key"), randomBytes(32).toString("hex"), { mode: 0o600 });
  writeFileSync(file("admin.pem"), admin.publicKey.export({ type: "spki", format: "pem" }));
});
afterAll(async () => {
  for (const { child, exited } of processes) {
    child.kill("SIGKILL");
    await exited;
  }
  rmSync(directory, { recursive: true });
});

function start(change: object = {}): ServiceProcess {
  const config = {
    url: "https://kbs.example",
    listen: `127.0.0.1:${port}`,
    tls: { cert: "tls.crt", key: "tls.key" },
    database: "keyvault.sqlite",
    masterKey: { file: "master.key" },
    vault: "kv",
    administrators: ["admin.pem"],
    referenceValues: { snp_tee_svn: [0] },
    ...change,
  };
  writeFileSync(file("config.json"), JSON.stringify(config));
  const started = new ServiceProcess(MAIN, ["--config", file("config.json")], { PATH: process.env["PATH"] });
  processes.push(started);
  return started;
}

function adminToken(key = admin.privateKey): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const input = `${part({ alg: "EdDSA", typ: "JWT" })}.${part({ iat: now, exp: now + 600 })}`;
  return `${input}.${sign(null, Buffer.from(input), key).toString("base64url")}`;
}

async function call(method: string, path: string, body?: string, token?: string): Promise<{ readonly status: number; readonly text: string }> {
  const headers = {
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    ...(body === undefined ? {} : { "content-type": "application/json" }),
  };
  return ask({ host: "127.0.0.1", port, path, method, headers, ca: readFileSync(file("tls.crt")), servername: "localhost" }, body);
}

describe("the key broker as a process", () => {
  it("starts, begins a session, takes a resource of an administrator alone, and keeps it over a restart", async () => {
    const first = start();
    expect(await first.started()).toMatchObject({ name: "kbs", broker: "https://kbs.example", vault: "kv", roots: "amd", administrators: 1 });
    const session = await call("POST", "/kbs/v0/auth", JSON.stringify({ version: "0.4.0", tee: "snp", "extra-params": "" }));
    expect(session.status).toBe(200);
    expect(Buffer.from((JSON.parse(session.text) as { readonly nonce: string }).nonce, "base64")).toHaveLength(32);
    expect((await call("POST", "/kbs/v0/resource/default/key/disk", "secret bytes", adminToken(stranger.privateKey))).status).toBe(401);
    expect((await call("POST", "/kbs/v0/resource/default/key/disk", "secret bytes")).status).toBe(401);
    expect((await call("POST", "/kbs/v0/resource/default/key/disk", "secret bytes", adminToken())).status).toBe(200);
    expect((await call("GET", "/kbs/v0/resource/default/key/disk")).status).toBe(401);
    expect((await call("GET", "/readyz")).status).toBe(200);
    first.child.kill("SIGTERM");
    expect(await first.exited).toEqual({ code: 0, signal: null });
    expect(first.stdout + first.stderr).not.toContain("secret bytes");

    const second = start();
    await second.started();
    expect((await call("DELETE", "/kbs/v0/resource/default/key/disk", undefined, adminToken())).status).toBe(200);
    second.child.kill("SIGTERM");
    expect(await second.exited).toEqual({ code: 0, signal: null });
  });

  it.each<[string, object, RegExp]>([
    ["no master key", { masterKey: {} }, /masterKey needs one of/],
    ["a master key that the database was not made with", { masterKey: { environment: "PATH" } }, /master key/],
    ["a vault that is also its own", { vault: "kbs-state" }, /cannot be in one vault/],
    ["an administrator's key that is none", { administrators: ["tls.crt"] }, /administrator/],
    ["a policy that is none", { policies: { resource: "master.key" } }, /polic/i],
    ["an http URL", { url: "http://kbs.example" }, /expected an https URL/],
  ])("does not start with %s, and says so", async (_what, change, text) => {
    const refused = start(change);
    const { code } = await refused.exited;
    expect(code).not.toBe(0);
    expect(refused.stderr).toMatch(text);
  });
});
