import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { get } from "node:https";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodePem, generateKey, issueCertificate, OID, subjectAltName } from "@sealpod/pki";
import { SecurityProcessor } from "@sealpod/psp";

// As users start it: the bundle where it is fresh, and the compile cache.
const MAIN = join(import.meta.dirname, "..", "bin", "sealpod.cjs");

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "sealpod-serve-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `sealpod attest serve`; when its output has `mark`, calls `then` and ends it with SIGTERM. */
async function serve(args: readonly string[], mark?: string, then: (stdout: string) => Promise<void> = async () => undefined): Promise<Result> {
  const child = spawn(process.execPath, [MAIN, "attest", "serve", ...args], { stdio: ["ignore", "pipe", "pipe"], cwd: directory });
  let [stdout, stderr] = ["", ""];
  const closed = once(child, "close");
  const marked = new Promise<void>((resolve) => {
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      if (mark !== undefined && stdout.includes(mark)) resolve();
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("close", () => resolve());
  });
  await marked;
  try {
    if (child.exitCode === null) await then(stdout);
  } finally {
    child.kill("SIGTERM");
    await closed;
  }
  return { code: child.exitCode, stdout, stderr };
}

async function fetchJson(url: string, headers: Readonly<Record<string, string>> = {}): Promise<{ readonly status: number; readonly body: unknown }> {
  const [response] = (await once(get(url, { ca: readFileSync(join(directory, "dev/tls.crt")), headers, agent: false }), "response")) as [IncomingMessage];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return { status: response.statusCode ?? 0, body: JSON.parse(Buffer.concat(chunks).toString()) as unknown };
}

/** Certificate for localhost and its key, PEM. */
async function selfSigned(): Promise<readonly [string, string]> {
  const key = await generateKey("p256");
  const { der } = issueCertificate({
    subject: [{ type: OID.commonName, value: "renewed" }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "ecdsa-sha256",
    serial: 9n,
    notBefore: Date.now() - 60_000,
    notAfter: Date.now() + 30 * 86_400_000,
    extensions: [subjectAltName({ kind: "dns", value: "localhost" })],
  });
  return [encodePem("CERTIFICATE", der), key.export({ type: "pkcs8", format: "pem" }) as string];
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

describe("sealpod attest serve", () => {
  it("makes all it needs with --dev, trusts AMD, says so, and keeps its keys", async () => {
    const port = await freePort();
    const url = `https://localhost:${port}`;
    const args = ["--dev", "dev", "--listen", `127.0.0.1:${port}`];
    let keys: unknown;
    const first = await serve(args, "Ctrl-C ends it.", async (stdout) => {
      expect(stdout).toContain(`attestation    ${url}`);
      expect(stdout).toContain("trusts         amd\n");
      const certs = await fetchJson(`${url}/certs`);
      expect(certs.status).toBe(200);
      keys = certs.body;
      expect((await fetchJson(`${url}/readyz`)).body).toMatchObject({ status: "ready" });
      const token = readFileSync(join(directory, "dev/operator.token"), "utf8").trim();
      expect((await fetchJson(`${url}/policies/SevSnpVm?api-version=2022-08-01`, { authorization: `Bearer ${token}` })).status).toBe(200);
    });
    expect(first.code).toBe(0);
    for (const line of first.stderr.trim().split("\n")) expect(JSON.parse(line)).toMatchObject({ name: "attestation" });
    for (const name of ["master.key", "operator.token", "tls.key", "config.json"]) expect(statSync(join(directory, "dev", name)).mode & 0o777).toBe(0o600);
    const second = await serve(args, "Ctrl-C ends it.", async () => expect((await fetchJson(`${url}/certs`)).body).toEqual(keys));
    expect(second.code).toBe(0);
    const third = await serve(["--config", "dev/config.json", "--json"], "}\n", async (stdout) => {
      expect(JSON.parse(stdout)).toMatchObject({ issuer: url, roots: "amd" });
      expect((await fetchJson(`${url}/certs`)).body).toEqual(keys);
    });
    expect(third.code).toBe(0);
  });

  it("trusts an emulator that is named, and says what that is worth", async () => {
    await SecurityProcessor.open(join(directory, "state/psp"), {
      clock: { now: () => Date.now() },
      random: { bytes: (length) => crypto.getRandomValues(new Uint8Array(length)) },
    });
    const args = ["--dev", "dev", "--listen", `127.0.0.1:${await freePort()}`, "--trust-emulator", "state"];
    const { code, stdout } = await serve(args, "Ctrl-C ends it.");
    expect(code).toBe(0);
    expect(stdout).toMatch(/trusts {9}amd, emulator \(not AMD's: its evidence proves nothing about hardware\)/);
    expect(stdout).toContain("NO HARDWARE PROTECTION");
  });

  it.each<[string, readonly string[], number, RegExp]>([
    ["neither --config nor --dev", [], 2, /neither --config nor --dev[^]*Quick start/],
    ["both", ["--config", "x", "--dev", "y"], 2, /two ways/],
    ["--listen with --config", ["--config", "x", "--listen", "127.0.0.1:1"], 2, /--listen is for --dev/],
    ["an address that others reach", ["--dev", "d2", "--listen", "0.0.0.0:8443"], 2, /no loopback address/],
    ["a directory without emulator", ["--dev", "d2", "--trust-emulator", "nowhere"], 1, /no emulated security processor/],
    ["a configuration that is not there", ["--config", "none.json"], 2, /cannot be read/],
  ])("refuses %s", async (_what, args, code, message) => {
    const result = await serve(args);
    expect(result.stderr).toMatch(message);
    expect(result.code).toBe(code);
    expect(result.stdout).toBe("");
  });

  it("reads a new TLS certificate on SIGHUP, and goes on", async () => {
    const port = await freePort();
    const args = ["--dev", "dev", "--listen", `127.0.0.1:${port}`];
    const child = spawn(process.execPath, [MAIN, "attest", "serve", ...args], { stdio: ["ignore", "pipe", "pipe"], cwd: directory });
    const exited = once(child, "exit");
    let log = "";
    const said = async (stream: "stdout" | "stderr", mark: string): Promise<void> =>
      new Promise((resolve, reject) => {
        child[stream].setEncoding("utf8").on("data", (text: string) => {
          log += text;
          if (log.includes(mark)) resolve();
        });
        child.on("exit", (code, signal) => reject(new Error(`ended with ${code ?? signal} before it said ${mark}`)));
      });
    try {
      await said("stdout", "Ctrl-C ends it.");
      const before = readFileSync(join(directory, "dev/tls.crt"), "utf8");
      const [newCert, newKey] = await selfSigned();
      writeFileSync(join(directory, "dev/tls.key"), newKey);
      writeFileSync(join(directory, "dev/tls.crt"), newCert);
      expect(newCert).not.toBe(before);
      const loaded = said("stderr", "TLS certificate loaded");
      child.kill("SIGHUP");
      await loaded;
      // Trusts the new one alone.
      expect((await fetchJson(`https://localhost:${port}/certs`)).status).toBe(200);
    } finally {
      child.kill("SIGTERM");
      expect(await exited).toEqual([0, null]);
    }
  });

  it("prints every key, and a configuration to start from", async () => {
    expect((await serve(["--describe-config"])).stdout).toContain("| `masterKey.file` | `SEALPOD_ATTESTATION_MASTER_KEY_FILE` |");
    expect(JSON.parse((await serve(["--print-config"])).stdout)).toMatchObject({ issuer: null, listen: "127.0.0.1:8443" });
  });
});
