import { spawn, type ChildProcess } from "node:child_process";
import { generateKeyPairSync, privateDecrypt, type KeyObject } from "node:crypto";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { request as httpRequest } from "node:http";
import { createServer, connect } from "node:net";
import { createInterface } from "node:readline";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Code, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { encodePem } from "@sealpod/pki";
import { keyProviderApi } from "@sealpod/proto";
import { issue } from "./testdata/world.ts";

const MAIN = join(import.meta.dirname, "main.ts");

describe("the sidecar as a process", () => {
  let directory: string;
  let child: ChildProcess | undefined;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-skr-"));
    const { certificate } = await issue({ name: "root", ca: true });
    await writeFile(join(directory, "bundle.pem"), encodePem("CERTIFICATE", certificate.der));
    await mkdir(join(directory, "context"));
  });
  afterEach(async () => {
    child?.kill("SIGKILL");
    child = undefined;
    await rm(directory, { recursive: true, force: true });
  });

  const start = (environment: Record<string, string>, flags: readonly string[] = []): ChildProcess => {
    child = spawn(process.execPath, [MAIN, ...flags], {
      env: { SSL_CERT_FILE: join(directory, "bundle.pem"), UVM_SECURITY_CONTEXT_DIR: join(directory, "context"), LogLevel: "info", ...environment },
      stdio: ["ignore", "pipe", "pipe"],
    });
    return child;
  };
  /** Runs the process until it logs a message, or ends. */
  const until = async (process: ChildProcess, message: string): Promise<readonly string[]> => {
    const lines: string[] = [];
    for await (const line of createInterface({ input: process.stdout ?? fail("no stdout") })) {
      lines.push(line);
      if (line.includes(`"msg":"${message}`)) break;
    }
    return lines;
  };
  const ended = async (process: ChildProcess): Promise<{ code: unknown; stderr: string }> => {
    let stderr = "";
    process.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    process.stdout?.resume();
    const [code] = (await once(process, "close")) as [unknown];
    return { code, stderr };
  };

  it("asks no other key store than those it is allowed to, and does not start with a list that is none", async () => {
    const port = await freePort();
    await until(start({ Port: String(port), SkrAllowedStores: "demo.vault.test, *.managedhsm.azure.net" }), "listening");
    const body = JSON.stringify({ maa_endpoint: "attest.test", akv_endpoint: "thief.example", kid: "k" });
    const answer = await fetch(`http://localhost:${port}/key/release`, { method: "POST", body });
    expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining("thief.example is not among the key stores")]);
    child?.kill("SIGKILL");
    const { code, stderr } = await ended(start({ SkrAllowedStores: "https://demo.vault.test" }));
    expect([code, stderr]).toEqual([2, expect.stringContaining("SkrAllowedStores has")]);
  });

  it("listens on localhost alone, says where reports come from, and ends on SIGTERM", async () => {
    const port = await freePort();
    const skr = start({ Port: String(port) });
    const lines = await until(skr, "listening");
    expect(lines.join("\n")).toMatch(/"msg":"reports come from (the kernel|an EMULATED security processor: NO hardware protection)"/);
    const answer = await fetch(`http://127.0.0.1:${port}/status`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get("cache-control")).toBe("no-store");
    expect(await answer.json()).toEqual({ message: "Status OK" });
    for (const [host, headers] of [
      ["rebind.evil.example", {}],
      [`localhost:${port}`, { origin: "https://evil.example" }],
    ] as const) {
      expect(await statusOf(port, { ...headers, host }), host).toBe(403);
    }
    expect(await statusOf(port, { host: `localhost:${port}` })).toBe(200);
    const refused = await fetch(`http://127.0.0.1:${port}/key/release`, { method: "POST", body: "x".repeat(300 * 1024) });
    expect(refused.status).toBe(413);
    for (const address of outsideAddresses()) await expect(reach(address, port)).rejects.toMatchObject({ code: "ECONNREFUSED" });
    skr.kill("SIGTERM");
    expect(await ended(skr)).toEqual({ code: 0, stderr: "" });
  });

  it("logs to a file that only its owner reads", async () => {
    const file = join(directory, "log");
    const port = await freePort();
    const skr = start({ Port: String(port), LogFile: file });
    // The file has no event for its first line; the port has none for being listened on. So ask, with pauses.
    await expect
      .poll(
        () =>
          fetch(`http://127.0.0.1:${port}/status`).then(
            (answer) => answer.status,
            () => 0,
          ),
        { timeout: 20_000, interval: 100 },
      )
      .toBe(200);
    skr.kill("SIGTERM");
    await ended(skr);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(await readFile(file, "utf8")).toContain('"name":"skr"');
  });

  it.each<[string, Record<string, string>, number, RegExp]>([
    ["its arguments are none", { SkrSideCarArgs: "e30" }, 2, /^skr: SkrSideCarArgs is not base64 of JSON/],
    ["its port is none", { Port: "80x" }, 2, /^skr: Port is "80x"; expected 1 to 65535/],
    ["its log level is none", { LogLevel: "loud" }, 2, /^skr: LogLevel is "loud"; expected one of trace/],
    ["there are no authorities", { SSL_CERT_FILE: "/nonexistent" }, 1, /^skr: ENOENT/],
  ])("says what is wrong when %s", async (_what, environment, code, message) => {
    const result = await ended(start({ Port: "1", ...environment }));
    expect(result.stderr).toMatch(message);
    expect(result.code).toBe(code);
  });

  it("takes the flags of the genuine binary, which go before the environment", async () => {
    const port = await freePort();
    const skr = start({ Port: "1", LogLevel: "error" }, ["-port", String(port), "-loglevel=info", "-base64", "e30=", "-allowTestingMismatchedTCB"]);
    const lines = await until(skr, "listening");
    expect(lines.join("\n")).toContain("-allowTestingMismatchedTCB");
    skr.kill("SIGTERM");
    expect((await ended(skr)).code).toBe(0);
    expect(await ended(start({}, ["--help"]))).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^skr: there is no flag -help\. The flags are -base64, -port/),
    });
  });

  it("warns of half a workload identity", async () => {
    const skr = start({ Port: String(await freePort()), AZURE_CLIENT_ID: "client", AZURE_TENANT_ID: "" });
    expect((await until(skr, "listening")).join("\n")).toContain('"missing":"AZURE_TENANT_ID"');
  });

  it("speaks gRPC where it is told to, on localhost alone, and ends on SIGTERM", async () => {
    const port = await freePort();
    const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 3072 });
    const key = join(directory, "image");
    await writeFile(`${key}.pem`, publicKey.export({ format: "pem", type: "spki" }));
    await writeFile(`${key}-info.json`, JSON.stringify({ public_key_path: `${key}.pem`, kms_endpoint: "v.test", attester_endpoint: "a.test" }));
    const skr = start({ Port: String(port), ServerType: "grpc" });
    expect((await until(skr, "listening")).join("\n")).toContain('"serverType":"grpc"');
    const provider = createClient(keyProviderApi.KeyProviderService, createGrpcTransport({ baseUrl: `http://127.0.0.1:${port}` }));
    expect((await provider.sayHello({ name: "e2e" })).message).toBe("Hello e2e");
    const parameter = Buffer.from(`skr:${key}`).toString("base64");
    const input = {
      op: "keywrap",
      keywrapparams: { ec: { Parameters: { "attestation-agent": [parameter] } }, optsdata: Buffer.from("key").toString("base64") },
    };
    const output = await provider.wrapKey({ keyProviderKeyWrapProtocolInput: Buffer.from(JSON.stringify(input)) });
    const { keywrapresults } = JSON.parse(Buffer.from(output.keyProviderKeyWrapProtocolOutput).toString()) as { keywrapresults: { annotation: string } };
    expect(unwrapped(privateKey, keywrapresults.annotation)).toBe("key");
    // There is no processor here that could prove anything, so no key can be had; unless there is: then there is no such service.
    const unwrap = { op: "keyunwrap", keyunwrapparams: { annotation: keywrapresults.annotation } };
    await expect(provider.unWrapKey({ keyProviderKeyWrapProtocolInput: Buffer.from(JSON.stringify(unwrap)) })).rejects.toMatchObject({
      code: Code.Unavailable,
    });
    for (const address of outsideAddresses()) await expect(reach(address, port)).rejects.toMatchObject({ code: "ECONNREFUSED" });
    skr.kill("SIGTERM");
    expect(await ended(skr)).toEqual({ code: 0, stderr: "" });
  });

  it("wraps a file and ends", async () => {
    const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const [key, infile, outfile] = [join(directory, "image"), join(directory, "in"), join(directory, "out")];
    await writeFile(`${key}.pem`, publicKey.export({ format: "pem", type: "spki" }));
    await writeFile(`${key}-info.json`, JSON.stringify({ public_key_path: `${key}.pem`, kms_endpoint: "v.test", attester_endpoint: "a.test" }));
    await writeFile(infile, "32 bytes of key");
    const flags = ["-infile", infile, "-keypath", key, "-outfile", outfile];
    expect(await ended(start({}, flags))).toEqual({ code: 0, stderr: "" });
    expect(unwrapped(privateKey, await readFile(outfile, "utf8"))).toBe("32 bytes of key");
    await rm(`${key}.pem`);
    expect(await ended(start({}, flags))).toMatchObject({ code: 3, stderr: expect.stringMatching(/^skr: .*image\.pem cannot be read: ENOENT/) });
    expect((await ended(start({}, ["-infile", infile]))).stderr).toMatch(/^skr: -keypath is missing/);
  });

  it("says so when the security context is broken", async () => {
    await copyFile(MAIN, join(directory, "context", "reference-info-base64"));
    const result = await ended(start({ Port: "1" }));
    expect(result).toMatchObject({ code: 2, stderr: expect.stringContaining("skr: security context: reference-info-base64 is not canonical base64") });
  });

  it("says so when its port is taken", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => {
      taken.listen(0, "127.0.0.1", resolve);
    });
    const { port } = taken.address() as { port: number };
    const skr = start({ Port: String(port) });
    expect((await until(skr, "cannot listen")).at(-1)).toContain("EADDRINUSE");
    expect((await ended(skr)).code).toBe(1);
    taken.close();
  });
});

/** What an annotation wraps. */
function unwrapped(key: KeyObject, annotation: string): string {
  const packet = JSON.parse(Buffer.from(annotation, "base64").toString()) as { wrapped_data: string };
  return privateDecrypt({ key, oaepHash: "sha256" }, Buffer.from(packet.wrapped_data, "base64")).toString();
}

function fail(problem: string): never {
  throw new Error(problem);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => {
    server.close(resolve);
  });
  return port;
}

/** Status of `GET /status`, asked with any headers: `fetch` lets nobody name another host. */
async function statusOf(port: number, headers: Readonly<Record<string, string>>): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ host: "127.0.0.1", port, path: "/status", headers, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    request.on("error", reject);
    request.end();
  });
}

function outsideAddresses(): readonly string[] {
  return Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter((entry) => !entry.internal && entry.family === "IPv4")
    .map((entry) => entry.address);
}

async function reach(host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port }, () => {
      socket.destroy();
      resolve();
    });
    socket.on("error", reject);
  });
}
