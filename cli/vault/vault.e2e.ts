import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

// As users start it: the bundle where it is fresh, and the compile cache.
const MAIN = join(import.meta.dirname, "..", "bin", "sealpod.cjs");

let directory: string;
const file = (name: string): string => join(directory, name);
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-vault-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A command that stays. */
interface Serving {
  readonly child: ChildProcess;
  stdout: string;
  stderr: string;
  /** Until it has written this. */
  readonly said: (mark: string) => Promise<void>;
  readonly end: () => Promise<void>;
}

const running: ChildProcess[] = [];
afterAll(() => {
  for (const child of running) child.kill("SIGKILL");
});

function sealpod(args: readonly string[]): ChildProcess {
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    cwd: directory,
    env: { PATH: process.env["PATH"], HOME: directory },
  });
  running.push(child);
  return child;
}

async function serve(args: readonly string[]): Promise<Serving> {
  const child = sealpod(args);
  let wake = (): void => undefined;
  const serving: Serving = {
    child,
    stdout: "",
    stderr: "",
    async said(mark) {
      while (!(serving.stdout + serving.stderr).includes(mark)) {
        if (child.exitCode !== null) throw new Error(`it ended: ${serving.stderr}`);
        await new Promise<void>((resolve) => (wake = resolve));
      }
    },
    async end() {
      child.kill("SIGTERM");
      if (child.exitCode === null) await once(child, "close");
      expect(child.exitCode).toBe(0);
    },
  };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream]?.setEncoding("utf8").on("data", (text: string) => {
      serving[stream] += text;
      wake();
    });
  }
  child.on("close", () => wake());
  await serving.said("Ctrl-C ends it.");
  return serving;
}

async function run(program: string, args: readonly string[]): Promise<Result> {
  const child =
    program === "sealpod" ? sealpod(args) : spawn(program, args, { cwd: directory, stdio: ["ignore", "pipe", "pipe"], env: { PATH: process.env["PATH"] } });
  const result = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) child[stream]?.setEncoding("utf8").on("data", (text: string) => (result[stream] += text));
  await once(child, "close");
  return { code: child.exitCode, ...result };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** The line of a text that begins so, as a shell has it: the program is that of this checkout. */
function lineOf(text: string, start: string): string {
  const line = text.split("\n").find((one) => one.startsWith(start));
  if (line === undefined) throw new Error(`there is no line ${start} in ${text}`);
  return line.replaceAll(
    /(^|\()?\bsealpod (identity|key) /g,
    (_all, before: string | undefined, verb: string) => `${before ?? ""}'${process.execPath}' '${MAIN}' ${verb} `,
  );
}

const shell = async (line: string): Promise<Result> => run("bash", ["-c", line]);

/** One request to the development vault, whose name no machine has to know. */
async function ask(port: number, method: string, path: string, body?: object): Promise<{ readonly status: number; readonly text: string }> {
  const text = body === undefined ? "" : JSON.stringify(body);
  const host = "dev.vault.localhost";
  const headers = { host: `${host}:${port}`, authorization: `Bearer ${readFileSync(file("dev/token"), "utf8").trim()}`, "content-type": "application/json" };
  return new Promise((resolve, reject) => {
    const options = {
      host: "127.0.0.1",
      port,
      servername: host,
      ca: readFileSync(file("dev/tls.crt")),
      agent: false,
      method,
      path: `${path}?api-version=7.4`,
      headers,
    };
    const outgoing = request(options, (incoming) => {
      let answer = "";
      incoming.setEncoding("utf8").on("data", (chunk: string) => (answer += chunk));
      incoming.on("end", () => resolve({ status: incoming.statusCode ?? 0, text: answer }));
    });
    outgoing.on("error", reject);
    outgoing.end(text);
  });
}

describe("sealpod vault serve --dev", () => {
  it("starts with nothing at hand; the lines that it prints work as they are; its owner outlives it", async () => {
    const [port, identityPort] = [await freePort(), await freePort()];
    const args = ["vault", "serve", "--dev", "dev", "--listen", `127.0.0.1:${port}`, "--identity-listen", `127.0.0.1:${identityPort}`];
    const first = await serve(args);
    expect(first.stdout).toContain(`vault          https://dev.vault.localhost:${port}\n`);
    expect(first.stdout).toContain(`tokens of      https://localhost:${identityPort}/`);
    expect(first.stdout).toContain("releases to    amd\n");
    const token = await shell(lineOf(first.stdout, "(umask"));
    expect(token).toMatchObject({ code: 0, stderr: "" });
    const put = await shell(`${lineOf(first.stdout, "curl")} --silent --show-error`);
    expect(put.stderr).toBe("");
    expect(JSON.parse(put.stdout)).toMatchObject({ value: "s3cret" });
    // It would be named with the address of this machine, which not every machine does by itself.
    expect(first.stdout).toMatch(new RegExp(`\\nsealpod key create first --kty EC --vault https://dev\\.vault\\.localhost:${port} --ca \\S+/dev/tls\\.crt `));
    expect((await ask(port, "POST", "/keys/first/create", { kty: "EC" })).status).toBe(200);
    const health = await run("curl", ["--silent", "--cacert", file("dev/tls.crt"), `https://127.0.0.1:${port}/readyz`]);
    expect(JSON.parse(health.stdout)).toMatchObject({ status: "ready" });
    for (const name of ["master.key", "owner.secret", "tls.key", "config.json", "keyvault.sqlite", "token", "identity/operator.token"])
      expect(statSync(file(`dev/${name}`)).mode & 0o077).toBe(0);
    for (const line of first.stderr.trim().split("\n")) expect(JSON.parse(line)).toMatchObject({ name: expect.stringMatching(/^(keyvault|identity)$/) });
    const secrets = ["dev/owner.secret", "dev/token", "dev/master.key", "dev/identity/operator.token"].map((name) => readFileSync(file(name), "utf8").trim());
    for (const secret of [...secrets, "s3cret"]) expect(first.stderr).not.toContain(secret);
    await first.end();

    const owner = readFileSync(file("dev/owner.id"), "utf8");
    const second = await serve(args);
    expect(readFileSync(file("dev/owner.id"), "utf8")).toBe(owner);
    expect(await ask(port, "GET", "/secrets/first")).toMatchObject({ status: 200 });

    // Looked after while it serves.
    const config = ["--config", "dev/config.json", "--json"];
    const rotated = await run("sealpod", ["vault", "rotate-wrapping-key", ...config]);
    expect(JSON.parse(rotated.stdout)).toMatchObject({ wrappingKey: 2, records: 2 });
    expect(await ask(port, "PUT", "/secrets/second", { value: "2" })).toMatchObject({ status: 200 });
    const copied = await run("sealpod", ["vault", "backup", ...config, "-o", "copy.sqlite"]);
    expect(JSON.parse(copied.stdout)).toMatchObject({ file: file("copy.sqlite"), counts: { secrets: 2, keys: 1 } });
    const checked = await run("sealpod", ["vault", "check", ...config]);
    expect(JSON.parse(checked.stdout)).toMatchObject({ ok: true, wrappingKeys: [{ records: 0 }, { records: 3 }] });
    writeFileSync(file("new.key"), "fedcba9876543210".repeat(4), { mode: 0o600 });
    const changed = await run("sealpod", ["vault", "change-master-key", "--config", "dev/config.json", "--to-file", "new.key"]);
    expect(changed).toMatchObject({ code: 0, stderr: "" });
    expect(await ask(port, "GET", "/secrets/second")).toMatchObject({ status: 200 });
    const audit = await run("sealpod", ["vault", "audit", ...config, "--operation", "secrets/set"]);
    expect((JSON.parse(audit.stdout) as { value: unknown[] }).value).toHaveLength(2);

    second.child.kill("SIGHUP");
    expect(await ask(port, "GET", "/secrets/second")).toMatchObject({ status: 200 });
    await second.end();
    const wrong = await run("sealpod", args);
    expect(wrong).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining("ERR_SEALING_MASTER_KEY") });
    writeFileSync(file("dev/master.key"), readFileSync(file("new.key")));
    const third = await serve(args);
    expect(await ask(port, "GET", "/secrets/second")).toMatchObject({ status: 200 });
    await third.end();
  });

  it("takes the tokens of an identity service that runs, trusts an attestation service, and says when the first is not there", async () => {
    const [port, identityPort, attestPort] = [await freePort(), await freePort(), await freePort()];
    const identity = await serve(["identity", "serve", "--dev", "identity", "--listen", `127.0.0.1:${identityPort}`]);
    const attest = await serve(["attest", "serve", "--dev", "attest", "--listen", `127.0.0.1:${attestPort}`]);
    const args = ["vault", "serve", "--dev", "dev2", "--listen", `127.0.0.1:${port}`, "--identity", "identity", "--attestation", "attest"];
    const vault = await serve(args);
    expect(vault.stdout).toContain(`tokens of      https://localhost:${identityPort}/`);
    expect(JSON.parse(readFileSync(file("dev2/config.json"), "utf8"))).toMatchObject({
      trustedCertificates: [file("identity/tls.crt"), file("attest/tls.crt")],
    });
    const token = await shell(lineOf(vault.stdout, "(umask"));
    expect(token).toMatchObject({ code: 0, stderr: "" });
    const put = await shell(`${lineOf(vault.stdout, "curl")} --silent --show-error`);
    expect(JSON.parse(put.stdout)).toMatchObject({ value: "s3cret" });
    await Promise.all([vault.end(), attest.end()]);
    const taken = await run("sealpod", ["vault", "serve", "--dev", "dev3", "--listen", `127.0.0.1:${port}`, "--identity-listen", `127.0.0.1:${identityPort}`]);
    expect(taken).toMatchObject({ code: 2, stdout: "", stderr: expect.stringMatching(/in use by another program[^]*--identity DIR/) });
    await identity.end();
    const alone = await run("sealpod", args);
    expect(alone).toMatchObject({ code: 1, stdout: "", stderr: expect.stringContaining(`localhost:${identityPort}`) });
  });
});
