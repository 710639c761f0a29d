import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { connect, type TLSSocket } from "node:tls";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { claimsOf, ServerWorld, tokenOf } from "./testdata/server-process.ts";

let world: ServerWorld;
beforeAll(async () => {
  world = await ServerWorld.make();
});
afterAll(async () => world.close());

/** A connection with a request whose headers the service has taken, and whose body waits. */
async function held(
  body: string,
): Promise<{ readonly socket: TLSSocket; readonly finish: () => void; readonly answer: () => string; readonly closed: Promise<unknown> }> {
  const socket = connect({ port: world.port, host: "127.0.0.1", servername: "localhost", ca: readFileSync(world.file("tls.crt")) });
  const closed = once(socket, "close");
  let text = "";
  socket.setEncoding("utf8");
  socket.on("error", () => undefined);
  const continues = new Promise<void>((resolve) => {
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (text.includes("100 Continue")) resolve();
    });
  });
  socket.write(
    `POST /attest/SevSnpVm?api-version=2022-08-01 HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`,
  );
  await continues;
  return { socket, finish: () => void socket.write(body), answer: () => text.slice(text.indexOf("\r\n\r\n") + 4), closed };
}

describe("the attestation service as a process", () => {
  afterEach(() => world.config());

  it("answers over TLS, tells its health, issues tokens, and logs no secrets", async () => {
    const server = world.start();
    expect(await server.started()).toMatchObject({
      level: 30,
      name: "attestation",
      url: `https://127.0.0.1:${world.port}`,
      roots: "amd, emulator",
      management: "aad",
    });
    const certs = await world.ask("GET", "/certs");
    expect(certs.status).toBe(200);
    expect(JSON.parse(certs.text)).toMatchObject({ keys: [{ kty: "RSA", alg: "RS256" }] });
    expect(JSON.parse((await world.ask("GET", "/healthz")).text)).toEqual({ status: "alive" });
    expect(JSON.parse((await world.ask("GET", "/readyz")).text)).toEqual({ status: "ready", checks: { database: { ok: true }, rotation: { ok: true } } });
    const attested = await world.ask("POST", "/attest/SevSnpVm?api-version=2022-08-01&probe=secret-query", { body: world.evidence() });
    expect(attested.status).toBe(200);
    expect(claimsOf(tokenOf(attested))).toMatchObject({ iss: world.origin, "x-sealpod-root": "emulator" });
    expect((await world.ask("GET", "/policies/SevSnpVm?api-version=2022-08-01")).status).toBe(401);
    expect((await world.manage("GET", "/policies/SevSnpVm")).status).toBe(200);
    const metrics = (await world.ask("GET", "/metrics")).text;
    expect(metrics).toContain('http_requests_total{route="/attest/sevsnpvm",method="POST",status="200"} 1\n');
    expect(metrics).toMatch(/^process_resident_memory_bytes \d+$/m);
    server.child.kill("SIGTERM");
    expect(await server.exited).toEqual({ code: 0, signal: null });
    const log = JSON.stringify(server.lines);
    expect(server.lines.find(({ id, msg }) => msg === "request" && id === attested.headers["x-ms-request-id"])).toMatchObject({
      route: "/attest/sevsnpvm",
      status: 200,
    });
    for (const secret of [world.token, "secret-query", tokenOf(attested), Buffer.from(world.masterKey).toString("hex")]) expect(log).not.toContain(secret);
    expect(server.stderr).toBe("");
  });

  it("takes its configuration from variables as well", async () => {
    const config = world.config({ issuer: "https://wrong.example", masterKey: {} });
    const server = world.start(["--config", config], {
      SEALPOD_ATTESTATION_ISSUER: "https://attest.example",
      SEALPOD_ATTESTATION_MASTER_KEY_ENVIRONMENT: "THE_KEY",
      THE_KEY: Buffer.from(world.masterKey).toString("base64"),
    });
    expect(await server.started()).toMatchObject({ issuer: "https://attest.example" });
    server.child.kill("SIGINT");
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  it("finishes under load what it has taken when it is asked to end, and then ends", async () => {
    const server = world.start();
    await server.started();
    const body = world.evidence();
    const holding = await Promise.all([held(body), held(body), held(body)]);
    const over = new AbortController();
    let cutOff = 0;
    const load = Array.from({ length: 6 }, async () => {
      const answers: number[] = [];
      while (!over.signal.aborted) {
        // Until the port is closed: then connections are refused, or reset where the kernel had them and the service had not.
        const answer = await world.ask("POST", "/attest/SevSnpVm?api-version=2022-08-01", { body, fresh: true }).catch((error: Error) => {
          // Node says so of an answer that has begun.
          if (error.message === "aborted") cutOff++;
          return undefined;
        });
        if (answer === undefined) break;
        answers.push(answer.status);
      }
      return answers;
    });
    for (let at = 0; at < 10; at++) await world.ask("GET", "/certs");
    server.child.kill("SIGTERM");
    await server.until(({ msg }) => msg === "stopping");
    for (const { finish } of holding) finish();
    await Promise.all(holding.map(async ({ closed }) => closed));
    for (const { answer } of holding) {
      expect(answer()).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*connection: close\r\n[^]*\{"token":"[^"]+"\}$/i);
    }
    expect(await server.exited).toEqual({ code: 0, signal: null });
    over.abort();
    const answers = (await Promise.all(load)).flat();
    expect(answers.length).toBeGreaterThan(0);
    // None was cut off in the middle, and none was told of an error.
    expect(answers.filter((status) => status !== 200)).toEqual([]);
    expect(cutOff).toBe(0);
    expect(server.lines.at(-1)).toMatchObject({ msg: "stopped" });
  });

  it("ends at once when it is asked twice", async () => {
    const server = world.start();
    await server.started();
    const { closed } = await held(world.evidence());
    server.child.kill("SIGTERM");
    await server.until(({ msg }) => msg === "stopping");
    // Signals that come together are one wish, so this goes on until it is another.
    const again = setInterval(() => server.child.kill("SIGTERM"), 50);
    expect(await server.exited).toEqual({ code: 143, signal: null });
    clearInterval(again);
    await closed;
  });

  it("reads a new TLS certificate on SIGHUP", async () => {
    const server = world.start();
    await server.started();
    world.makeCertificate("tls", "renewed");
    server.child.kill("SIGHUP");
    await server.until(({ msg }) => msg === "TLS certificate loaded");
    expect((await world.ask("GET", "/certs")).status).toBe(200);
    server.child.kill("SIGTERM");
    expect((await server.exited).code).toBe(0);
  });

  it("says why it does not start, in one block, with its exit code", async () => {
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    const { port } = taken.address() as { port: number };
    const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
      [["--config", world.file("none.json")], 2, /cannot be read.*none\.json/],
      [["--confg", "x"], 2, /--confg/],
      [[], 2, /issuer is missing[^]*database is missing/],
      [["--config", world.config({ isuer: "x" })], 2, /there is no key isuer; did you mean issuer\?/],
    ];
    for (const [args, code, message] of cases) {
      const server = world.start(args);
      expect(await server.exited).toEqual({ code, signal: null });
      expect(server.stderr).toMatch(message);
      expect(server.stderr).toMatch(/^error: [^]*\n {2}to do: .*\n {2}code: {2}ERR_[A-Z_]+ /);
      expect(server.stderr).not.toMatch(/\n\s+at /);
      expect(server.lines).toEqual([]);
    }
    const busy = world.start(["--config", world.config({ listen: `127.0.0.1:${port}` })]);
    expect(await busy.exited).toEqual({ code: 1, signal: null });
    expect(busy.stderr).toMatch(/in use by another program/);
    taken.close();
  });

  it("prints its configuration so that it reads back", async () => {
    const first = world.start(["--config", world.config(), "--print-config"], { SEALPOD_ATTESTATION_LOG_LEVEL: "warn" });
    let text = "";
    first.child.stdout?.removeAllListeners("data").on("data", (chunk: string) => {
      text += chunk;
    });
    expect((await first.exited).code).toBe(0);
    expect(JSON.parse(text)).toMatchObject({ issuer: world.origin, log: { level: "warn" }, stop: { grace: "20s" }, masterKey: { environment: null } });
    world.write("printed.json", text);
    const second = world.start(["--config", world.file("printed.json"), "--print-config"]);
    let again = "";
    second.child.stdout?.removeAllListeners("data").on("data", (chunk: string) => {
      again += chunk;
    });
    await second.exited;
    expect(again).toBe(text);
  });
});
