import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer, connect } from "node:net";
import { createInterface } from "node:readline";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { encodePem } from "@sealpod/pki";
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

  const start = (environment: Record<string, string>): ChildProcess => {
    child = spawn(process.execPath, [MAIN], {
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

  it("listens on localhost alone, says where reports come from, and ends on SIGTERM", async () => {
    const port = await freePort();
    const skr = start({ Port: String(port) });
    const lines = await until(skr, "listening");
    expect(lines.join("\n")).toMatch(/"msg":"reports come from (the kernel|an EMULATED security processor: NO hardware protection)"/);
    const answer = await fetch(`http://127.0.0.1:${port}/status`);
    expect(answer.status).toBe(200);
    expect(answer.headers.get("cache-control")).toBe("no-store");
    expect(await answer.json()).toEqual({ message: "Status OK" });
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
