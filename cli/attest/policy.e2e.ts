import { createHash, randomBytes, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { attestationApp, openAttestationStore, type AttestationStore } from "@sealpod/attestation";
import { concatBytes, silentLogger } from "@sealpod/core";
import { basicConstraints, encodePem, generateKey, issueCertificate, OID, subjectAltName } from "@sealpod/pki";
import { AMD_ROOTS } from "@sealpod/snp";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";

const POLICY = 'version= 1.0;\nauthorizationrules\n{\n    [type=="x-ms-sevsnpvm-is-debuggable", value==false] => permit();\n};\n';
const clock = { now: (): number => Date.now() };
const random = { bytes: (length: number): Uint8Array => new Uint8Array(randomBytes(length)) };

let directory = "";
let store: AttestationStore;
let server: Server;
let endpoint = "";

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-policy-e2e-"));
  store = await openAttestationStore({ file: ":memory:", masterKey: random.bytes(32), clock, random });
  const app = attestationApp({
    issuer: "https://attest.test",
    store,
    clock,
    random,
    roots: AMD_ROOTS,
    uvmTrust: [],
    logger: silentLogger,
    management: {
      authority: "https://login.test",
      authenticate: async (token) => (token === "owner" ? { kind: "allowed", subject: "owner" } : { kind: "refused", problem: "not ours" }),
    },
  });
  const tls = await certificate("127.0.0.1");
  await writeFile(join(directory, "ca.pem"), tls.pem);
  const signer = await certificate("Policy signer");
  await writeFile(join(directory, "cert.pem"), signer.pem);
  await writeFile(join(directory, "key.pem"), signer.key);
  await writeFile(join(directory, "other.pem"), tls.key);
  await writeFile(join(directory, "token"), "owner\n");
  await writeFile(join(directory, "p.txt"), POLICY);
  server = createServer(
    { key: tls.key, cert: tls.pem },
    (request, response) => void answer((url, init) => Promise.resolve(app.request(url, init)), request, response),
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  endpoint = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterAll(async () => {
  server.close();
  store.close();
  await rm(directory, { recursive: true, force: true });
});

async function certificate(name: string): Promise<{ readonly pem: string; readonly key: string }> {
  const key = await generateKey("rsa-2048");
  const { der } = issueCertificate({
    subject: [{ type: OID.commonName, value: name }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "rsa-sha256",
    serial: 1n,
    notBefore: Date.now() - 60_000,
    notAfter: Date.now() + 3_600_000,
    extensions: [basicConstraints({ ca: true }), subjectAltName({ kind: "ip", bytes: Uint8Array.of(127, 0, 0, 1) })],
  });
  return { pem: encodePem("CERTIFICATE", der), key: key.export({ type: "pkcs8", format: "pem" }) as string };
}

async function answer(app: (url: string, init: RequestInit) => Promise<Response>, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of request) chunks.push(chunk as Uint8Array);
  const body = Buffer.from(concatBytes(...chunks));
  const { method = "GET", url = "/", headers } = request;
  const result = await app(`https://attest.test${url}`, { method, headers: headers as Record<string, string>, ...(method === "GET" ? {} : { body }) });
  response.writeHead(result.status, Object.fromEntries(result.headers));
  response.end(Buffer.from(await result.arrayBuffer()));
}

async function policy(...argv: readonly string[]): Promise<{ readonly exit: number; readonly stdout: string; readonly stderr: string }> {
  const written = { stdout: "", stderr: "" };
  const context: CliContext = {
    env: {},
    cwd: directory,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock,
    elapsed: () => 0,
    random,
    signal: AbortSignal.timeout(60_000),
  };
  return { exit: await runCli(["attest", "policy", ...argv], context), ...written };
}

describe("sealpod attest policy against a service over TLS", () => {
  const reach = (): readonly string[] => ["--endpoint", `${endpoint}/`, "--ca", "ca.pem", "--bearer-token-file", "token"];

  it("sets, gets and resets a policy", async () => {
    const set = await policy("set", "p.txt", ...reach());
    expect(set).toMatchObject({ exit: EXIT.ok, stderr: "", stdout: expect.stringContaining("x-ms-policy-result: Updated\n") as string });
    const got = await policy("get", ...reach());
    expect(got).toMatchObject({ exit: EXIT.ok, stdout: POLICY, stderr: expect.stringMatching(/^not signed; /) as string });
    expect((await policy("reset", ...reach())).stdout).toContain("x-ms-policy-result: Removed\n");
    expect((await policy("get", ...reach())).stdout).toContain("=> permit()");
  });

  it("signs with a key and its certificate, and refuses another's", async () => {
    const signed = await policy("set", "p.txt", ...reach(), "--key", "key.pem", "--cert", "cert.pem", "--json");
    expect(signed.exit).toBe(EXIT.ok);
    expect(JSON.parse(signed.stdout)).toMatchObject({ "x-ms-policy-result": "Updated", "x-ms-policy-signer": { kty: "RSA" } });
    expect(JSON.parse((await policy("get", ...reach(), "--json")).stdout)).toMatchObject({ policy: POLICY, signed: true, hash: docHash(POLICY) });
    const again = await policy("set", "p.txt", ...reach(), "--key", "key.pem", "--cert", "cert.pem");
    const { fingerprint256 } = new X509Certificate(await readFile(join(directory, "cert.pem")));
    expect(again.stdout).toContain(`\nx-ms-policy-signer: CN=Policy signer, certificate with SHA-256 ${fingerprint256.replaceAll(":", "").toLowerCase()}\n`);
    for (const line of again.stdout.split("\n")) expect(line.length).toBeLessThan(300);
    expect(await policy("reset", ...reach(), "--key", "other.pem", "--cert", "cert.pem")).toMatchObject({
      exit: EXIT.usage,
      stderr: expect.stringContaining("is not the RSA key") as string,
    });
    expect((await policy("reset", ...reach(), "--key", "key.pem", "--cert", "cert.pem")).exit).toBe(EXIT.ok);
  });

  it("trusts no other authority than the one that is named", async () => {
    const ran = await policy("get", "--endpoint", endpoint, "--bearer-token-file", "token");
    expect(ran).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("ERR_ATTESTATION_SERVICE") as string });
    expect(await policy("get", "--endpoint", endpoint, "--ca", "cert.pem", "--bearer-token-file", "token")).toMatchObject({ exit: EXIT.failed });
  });

  it("says that the token is missing, or that nobody listens", async () => {
    expect(await policy("get", "--endpoint", endpoint, "--ca", "ca.pem")).toMatchObject({
      exit: EXIT.failed,
      stderr: expect.stringContaining("status 401") as string,
    });
    expect(await policy("get", "--endpoint", "http://127.0.0.1:1")).toMatchObject({
      exit: EXIT.failed,
      stderr: expect.stringContaining("127.0.0.1:1: ") as string,
    });
  });
});

function docHash(text: string): string {
  return createHash("sha256").update(Buffer.from(text).toString("base64url")).digest("base64url");
}
