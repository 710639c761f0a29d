import { randomBytes, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { statSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { connect } from "node:tls";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openDatabase } from "@sealpod/storage";
import { checkVaultDatabase, type MaintenanceSettings } from "./index.ts";
import { DOMAIN, makeCredential, NOBODY, TEE, VaultWorld } from "./testdata/server-process.ts";
import { openRelease } from "./testdata/world.ts";

let world: VaultWorld;
/** Of the service's database, one for each test. */
let database = 0;
beforeAll(async () => {
  world = await VaultWorld.make();
});
afterAll(async () => world.close());
beforeEach(() => {
  database++;
});

const config = (change: Readonly<Record<string, unknown>> = {}): string => world.config({ database: `v-${database}.sqlite`, ...change });
const maintenance = (): MaintenanceSettings => ({
  database: world.file(`v-${database}.sqlite`),
  masterKey: { file: world.file("master.key"), environment: undefined, allowGroup: false, pkcs11: undefined },
});
const ports = {
  clock: { now: () => Date.now() },
  random: { bytes: (length: number) => new Uint8Array(randomBytes(length)) },
  env: {},
  uid: process.getuid?.(),
  cwd: "/",
};

/** A request whose headers the service has taken, and whose body waits. */
async function held(port: number, name: string): Promise<{ readonly finish: () => void; readonly answer: () => string; readonly closed: Promise<unknown> }> {
  const body = JSON.stringify({ value: `value of ${name}` });
  const host = `demo.${DOMAIN}`;
  const socket = connect({ port, host: "127.0.0.1", servername: host, ca: world.trusted });
  const closed = once(socket, "close");
  let text = "";
  socket.on("error", () => undefined);
  const continues = new Promise<void>((resolve) => {
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      if (text.includes("100 Continue")) resolve();
    });
  });
  const headers = [`host: ${host}:${port}`, `authorization: Bearer ${world.token()}`, "expect: 100-continue", "content-type: application/json"];
  socket.write(`PUT /secrets/${name}?api-version=7.4 HTTP/1.1\r\n${headers.join("\r\n")}\r\ncontent-length: ${body.length}\r\n\r\n`);
  await continues;
  return { finish: () => void socket.write(body), answer: () => text.slice(text.indexOf("\r\n\r\n") + 4), closed };
}

describe("the key vaults as a process", () => {
  it("answer over TLS, tell their health, keep and release keys, and log no secrets", async () => {
    const server = world.start(["--config", config({ operations: "main" })]);
    const port = await server.listening();
    expect(server.lines.find(({ msg }) => msg === "listening")).toMatchObject({
      level: 30,
      name: "keyvault",
      vaults: `demo.${DOMAIN}`,
      roots: "emulator",
      masterKey: expect.stringMatching(/^aes:[0-9a-f]{16}$/),
    });
    expect(server.lines.find(({ msg }) => /proves nothing about AMD's hardware/.test(String(msg)))).toMatchObject({ level: 40, roots: "emulator" });
    expect((await world.ask(port, "GET", "/healthz", { token: null })).json()).toEqual({ status: "alive" });
    expect((await world.ask(port, "GET", "/readyz", { token: null })).json()).toEqual({ status: "ready", checks: { database: { ok: true } } });
    const challenged = await world.ask(port, "GET", "/secrets", { token: null });
    expect(challenged.status).toBe(401);
    expect(challenged.headers["www-authenticate"]).toContain(`resource="https://${DOMAIN}"`);

    const bytes = randomBytes(32);
    const value = randomBytes(24).toString("base64url");
    expect((await world.ask(port, "PUT", "/secrets/db", { body: { value } })).status).toBe(403);
    await world.grant(port);
    await world.must(port, 200, "PUT", "/secrets/db", { body: { value } });
    expect(await world.must(port, 200, "GET", "/secrets/db?api-version=7.4&probe=secret-query")).toMatchObject({ value });
    await world.must(port, 200, "PUT", "/keys/app", { body: world.importBody(bytes) });
    const evidence = world.evidence();
    const released = await world.ask(port, "POST", "/keys/app/release", { body: { target: evidence } });
    expect(released.status).toBe(200);
    const { header, plaintext } = await openRelease(released.json()["value"], TEE);
    expect(plaintext.equals(bytes)).toBe(true);
    const [leaf] = header["x5c"] as readonly string[];
    expect(new X509Certificate(world.trusted).raw.toString("base64")).toBe(leaf);
    const wrong = world.evidence({ "x-ms-sevsnpvm-hostdata": "00".repeat(32) });
    expect((await world.ask(port, "POST", "/keys/app/release", { body: { target: wrong } })).status).toBe(403);
    expect((await world.ask(port, "PUT", "/secrets/db", { token: world.token(NOBODY), body: { value } })).status).toBe(403);
    const forged = `${world.token().slice(0, -6)}AAAAAA`;
    expect((await world.ask(port, "GET", "/secrets/db", { token: forged })).status).toBe(401);
    expect((await world.ask(port, "PUT", `/secrets/${"x".repeat(200)}`, { body: { value, unknown: value } })).status).toBe(400);
    const audit = await world.must(port, 200, "GET", "/sealpod/audit?operation=keys/release");
    expect(audit["value"]).toMatchObject([{ outcome: "refused", failed: "policy" }, { outcome: "allowed" }]);
    const metrics = (await world.ask(port, "GET", "/metrics", { token: null })).text;
    expect(metrics).toMatch(/http_requests_total\{route="\/keys\/[^"]*release",method="POST",status="200"\} 1\n/);

    const used = [world.token(), world.token(NOBODY), forged];
    await server.end();
    expect(server.lines.find(({ id, msg }) => msg === "request" && id === released.headers["x-ms-request-id"])).toMatchObject({ status: 200 });
    const secrets = [
      ...used,
      evidence,
      wrong,
      value,
      bytes.toString("hex"),
      bytes.toString("base64url"),
      Buffer.from(world.masterKey).toString("hex"),
      Buffer.from(world.masterKey).toString("base64"),
      "secret-query",
      "BEGIN PRIVATE KEY",
      // Signatures of tokens: what of a token would still be one.
      ...[...used, evidence].map((token) => token.split(".")[2] ?? "none"),
    ];
    for (const secret of secrets) expect(server.stdout).not.toContain(secret);
    expect(server.stderr).toBe("");
    expect(statSync(maintenance().database).mode & 0o077).toBe(0);
  });

  it("serve vaults of several kinds and domains, and answer 404 for others", async () => {
    const administrators = [{ tenantId: "11111111-2222-4333-8444-555555555555", id: "88888888-bbbb-4ccc-8ddd-eeeeeeeeeeee" }];
    const vaults = [
      { name: "demo", kind: "vault", administrators },
      { name: "hsm", kind: "managedhsm", administrators, domain: "managedhsm.test" },
    ];
    const server = world.start(["--config", config({ vaults })]);
    const port = await server.listening();
    const at = async (host: string): Promise<{ readonly status: number; readonly challenge: string }> => {
      const { status, headers } = await world.ask(port, "GET", "/keys", { token: null, headers: { host } });
      return { status, challenge: String(headers["www-authenticate"]) };
    };
    expect(await at(`demo.${DOMAIN}`)).toMatchObject({ status: 401, challenge: expect.stringContaining(`resource="https://${DOMAIN}"`) });
    expect(await at("hsm.managedhsm.test")).toMatchObject({ status: 401, challenge: expect.stringContaining('resource="https://managedhsm.test"') });
    expect((await at(`hsm.${DOMAIN}`)).status).toBe(404);
    await server.end();
  });

  it("believe an issuer only if a certificate that they trust vouches for it", async () => {
    const server = world.start(["--config", config({ trustedCertificates: ["other-issuer.crt"] })]);
    const port = await server.listening();
    const answer = await world.ask(port, "GET", "/secrets");
    expect(answer.status).toBe(503);
    // Why is for those who run the service.
    expect(answer.text).not.toMatch(/self|certificate/i);
    await server.until((line) => /self[- ]signed certificate/i.test(JSON.stringify(line)));
    await server.end();
  });

  it("finish under load what they have taken when they are asked to end, and keep it", async () => {
    const server = world.start(["--config", config()]);
    const port = await server.listening();
    await world.grant(port);
    const names = ["held-1", "held-2", "held-3"];
    const holding = await Promise.all(names.map(async (name) => held(port, name)));
    let cutOff = 0;
    const statuses: number[] = [];
    const stored: string[] = [];
    const warm = Promise.withResolvers<void>();
    const load = [0, 1, 2, 3, 4, 5].map(async (worker) => {
      for (let at = 0; ; at++) {
        const name = `load-${worker}-${at}`;
        // Until the port is closed: then connections are refused, or reset where the kernel had them and the service had not.
        const answer = await world.ask(port, "PUT", `/secrets/${name}`, { body: { value: name }, fresh: true }).catch((error: Error) => {
          // Node says so of an answer that has begun.
          if (error.message === "aborted") cutOff++;
          return undefined;
        });
        if (answer === undefined) return;
        statuses.push(answer.status);
        if (answer.status === 200) stored.push(name);
        if (statuses.length === 20) warm.resolve();
      }
    });
    await warm.promise;
    server.child.kill("SIGTERM");
    await server.until(({ msg }) => msg === "stopping");
    for (const { finish } of holding) finish();
    await Promise.all(holding.map(async ({ closed }) => closed));
    for (const [at, { answer }] of holding.entries()) {
      expect(answer()).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*connection: close\r\n/i);
      expect(answer()).toContain(`"value":"value of ${names[at] ?? ""}"`);
    }
    expect(await server.exited).toEqual({ code: 0, signal: null });
    await Promise.all(load);
    expect(statuses.filter((status) => status !== 200)).toEqual([]);
    expect(cutOff).toBe(0);
    expect(server.lines.at(-1)).toMatchObject({ msg: "stopped" });

    const again = world.start(["--config", config()]);
    const next = await again.listening();
    for (const name of [...names, ...stored]) expect((await world.ask(next, "GET", `/secrets/${name}`)).status).toBe(200);
    await again.end();
    expect(await checkVaultDatabase(maintenance(), ports)).toMatchObject({ unreadable: [], damage: [] });
  });

  it("end at once when they are asked twice", async () => {
    const server = world.start(["--config", config()]);
    const port = await server.listening();
    await world.grant(port);
    const { closed } = await held(port, "late");
    server.child.kill("SIGTERM");
    await server.until(({ msg }) => msg === "stopping");
    // Signals that come together are one wish, so this goes on until it is another.
    const again = setInterval(() => server.child.kill("SIGTERM"), 50);
    expect(await server.exited).toEqual({ code: 143, signal: null });
    clearInterval(again);
    await closed;
  });

  it("take a renewed certificate on SIGHUP, for TLS and for releases, and not half of one", async () => {
    const first = await makeCredential([`*.${DOMAIN}`]);
    const second = await makeCredential([`*.${DOMAIN}`]);
    world.useCertificate(first);
    const server = world.start(["--config", config()]);
    const port = await server.listening();
    await world.grant(port);
    await world.must(port, 200, "PUT", "/keys/app", { body: world.importBody(randomBytes(32)) });
    const signer = async (): Promise<string> => {
      const { header } = await openRelease((await world.must(port, 200, "POST", "/keys/app/release", { body: { target: world.evidence() } }))["value"], TEE);
      return (header["x5c"] as readonly string[])[0] ?? "";
    };
    expect(await signer()).toBe(Buffer.from(first.der).toString("base64"));
    // The key of one with the certificate of the other.
    writeFileSync(world.file("tls.crt"), second.cert);
    server.child.kill("SIGHUP");
    await server.until(({ msg }) => msg === "the certificate for releases cannot be renewed");
    expect(await signer()).toBe(Buffer.from(first.der).toString("base64"));
    world.useCertificate(second);
    server.child.kill("SIGHUP");
    await server.until(({ msg }) => msg === "releases are signed with a new certificate");
    await server.until(({ msg }) => msg === "TLS certificate loaded");
    // It trusts the second alone.
    expect(await signer()).toBe(Buffer.from(second.der).toString("base64"));
    await server.end();
  });

  it("run behind a proxy in plain HTTP, with the proxy's certificate for releases, and warn of it", async () => {
    const change = { tls: {}, releases: { cert: "tls.crt", key: "tls.key", evidenceRoots: ["emulator"] }, listen: "0.0.0.0:0" };
    const server = world.start(["--config", config(change)]);
    await server.listening();
    const { url, operations } = server.lines.find(({ msg }) => msg === "listening") ?? {};
    expect({ scheme: new URL(String(url)).protocol, operations }).toEqual({ scheme: "http:", operations: "off" });
    expect(server.lines.find(({ msg }) => /plain HTTP on an address that others reach/.test(String(msg)))).toMatchObject({ level: 40 });
    await server.end();
  });

  it("take DATABASE_URL and the master key from the environment", async () => {
    const key = Buffer.from(world.masterKey).toString("base64");
    const args = ["--config", config({ masterKey: { environment: "VAULT_KEY" }, database: "/nowhere/at/all" })];
    const server = world.start(args, { VAULT_KEY: key, DATABASE_URL: maintenance().database });
    await server.listening();
    await server.end();
    expect(statSync(maintenance().database).isFile()).toBe(true);
    expect(server.stdout + server.stderr).not.toContain(key);
  });

  it("do not open a database with another master key, and say which one it has", async () => {
    const server = world.start(["--config", config()]);
    const port = await server.listening();
    const own = String(server.lines.find(({ msg }) => msg === "listening")?.["masterKey"]);
    await world.grant(port);
    await server.end();
    const other = randomBytes(32).toString("hex");
    world.write("other.key", other);
    const wrong = world.start(["--config", config({ masterKey: { file: "other.key" } })]);
    expect(await wrong.exited).toEqual({ code: 2, signal: null });
    expect(wrong.stderr).toMatch(new RegExp(`^error: .*${own}[^]*\\n {2}to do: .*\\n {2}code: {2}ERR_SEALING_MASTER_KEY `));
    expect(wrong.stderr).not.toContain(other);
    expect(wrong.lines).toEqual([]);
  });

  it("say why they do not start, in one block, with an exit code", async () => {
    world.write("junk.sqlite", "this is no database, but text that is somewhat longer than a header of SQLite has to be, so that it is looked at");
    await (await openDatabase({ url: world.file("foreign.sqlite"), name: "identity", migrations: [{}] })).close();
    world.write("open.key", "00".repeat(32));
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    const { port } = taken.address() as AddressInfo;
    const cases: readonly (readonly [Readonly<Record<string, unknown>>, number, RegExp])[] = [
      [{ database: "junk.sqlite" }, 1, /junk\.sqlite.*ERR_STORAGE_FILE/s],
      [{ database: "foreign.sqlite" }, 1, /foreign\.sqlite.*ERR_STORAGE_SCHEMA/s],
      [{ database: "none/at/all.sqlite" }, 1, /all\.sqlite.*ERR_STORAGE_/s],
      [{ database: "postgres://me@127.0.0.1:1/x" }, 1, /postgres:\/\/127\.0\.0\.1:1\/x.*ERR_STORAGE_UNAVAILABLE/s],
      [{ database: "postgres://me:hush-hush@127.0.0.1:1/x" }, 2, /database has a password in it.*DATABASE_URL/s],
      [{ masterKey: { file: "none.key" } }, 2, /none\.key/],
      [{ masterKey: { file: "open.key" } }, 2, /32 equal bytes/],
      [{ vault: [] }, 2, /there is no key vault; did you mean vaults\?/],
      [{ listen: `127.0.0.1:${port}` }, 1, /in use by another program/],
      [{ tls: { cert: "issuer.crt", key: "tls.key" } }, 2, /issuer\.crt and .*tls\.key/],
    ];
    for (const [change, code, message] of cases) {
      const server = world.start(["--config", config(change)]);
      expect(await server.exited, JSON.stringify(change)).toEqual({ code, signal: null });
      expect(server.stderr).toMatch(message);
      expect(server.stderr).toMatch(/^error: [^]*\n {2}code: {2}ERR_[A-Z0-9_]+ /);
      expect(server.stderr).not.toMatch(/\n\s+at /);
      expect(server.stderr).not.toContain("hush-hush");
    }
    taken.close();
    const secret = "postgres://me:hush-hush@127.0.0.1:1/x";
    const unreachable = world.start(["--config", config()], { DATABASE_URL: secret });
    expect(await unreachable.exited).toEqual({ code: 1, signal: null });
    expect(unreachable.stderr).toContain("postgres://127.0.0.1:1/x");
    expect(unreachable.stderr + unreachable.stdout).not.toContain("hush-hush");
  });
});
