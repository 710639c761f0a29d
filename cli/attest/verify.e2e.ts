import { sign } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toBase64url } from "@sealpod/core";
import { basicConstraints, encodePem, generateKey, issueCertificate, keyUsage, OID, subjectAltName } from "@sealpod/pki";
import { afterAll, beforeAll, expect, it } from "vitest";
import { EXIT, type CliContext } from "../context.ts";
import { runCli } from "../program.ts";
import { rsa } from "./verify-test-support.ts";

let directory = "";
let server: Server;
let origin = "";

const key = rsa();
const { n, e } = key.export({ format: "jwk" });

/** A certificate that signs itself for localhost, and its key, in PEM. */
async function authority(): Promise<{ readonly cert: string; readonly key: string }> {
  const own = await generateKey("p256");
  const { der } = issueCertificate({
    subject: [{ type: OID.commonName, value: "localhost" }],
    subjectKey: own,
    issuer: { key: own },
    signatureAlgorithm: "ecdsa-sha256",
    serial: 1n,
    notBefore: Date.now() - 3_600_000,
    notAfter: Date.now() + 3_600_000,
    extensions: [basicConstraints({ ca: true }), keyUsage("digitalSignature", "keyCertSign"), subjectAltName({ kind: "dns", value: "localhost" })],
  });
  return { cert: encodePem("CERTIFICATE", der), key: own.export({ type: "pkcs8", format: "pem" }) as string };
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-verify-"));
  const [own, other] = [await authority(), await authority()];
  server = createServer(own, (request, response) => {
    if (request.url === "/certs") response.end(JSON.stringify({ keys: [{ kid: "k", kty: "RSA", n, e }] }));
    else if (request.url === "/elsewhere") response.writeHead(302, { location: "/certs" }).end();
    else response.writeHead(404).end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  origin = `https://localhost:${(server.address() as AddressInfo).port}`;
  const now = Math.floor(Date.now() / 1000);
  const claims = { exp: now + 100, iss: origin, nbf: now - 10, "x-ms-sevsnpvm-is-debuggable": false, "x-ms-sevsnpvm-vmpl": 0 };
  const input = [{ alg: "RS256", kid: "k", typ: "JWT" }, claims].map((part) => toBase64url(Buffer.from(JSON.stringify(part)))).join(".");
  const files = { "token.jwt": `${input}.${toBase64url(sign("sha256", Buffer.from(input), key))}`, "ca.pem": own.cert, "other.pem": other.cert, text: "hello" };
  for (const [name, content] of Object.entries(files)) await writeFile(join(directory, name), content);
});

afterAll(async () => {
  server.close();
  await once(server, "close");
  await rm(directory, { recursive: true, force: true });
});

async function verify(...flags: readonly string[]): Promise<{ readonly exit: number; readonly stdout: string; readonly stderr: string }> {
  const written = { stdout: "", stderr: "" };
  const context: CliContext = {
    env: { SEALPOD_HOME: join(directory, "state") },
    cwd: directory,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written.stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (written.stderr += text) },
    clock: { now: () => Date.now() },
    elapsed: () => 0,
    random: { bytes: (length) => new Uint8Array(length) },
    signal: new AbortController().signal,
  };
  return { exit: await runCli(["attest", "verify", "token.jwt", ...flags], context), ...written };
}

it("takes keys from a server under the authority of --ca, by the issuer and by --jwks", async () => {
  for (const flags of [
    ["--issuer", origin],
    ["--jwks", `${origin}/certs`],
  ]) {
    const ran = await verify(...flags, "--ca", "ca.pem");
    expect(ran).toMatchObject({ exit: EXIT.ok, stderr: "" });
    expect(ran.stdout).toMatch(/^VERIFIED under the keys that were given/m);
  }
});

it.each<[string, () => readonly string[], RegExp]>([
  ["without --ca", () => ["--issuer", origin], /the keys at .*\/certs cannot be fetched/],
  ["under another authority", () => ["--issuer", origin, "--ca", "other.pem"], /cannot be fetched: [\s\S]*other\.pem is the authority/],
  ["under a file that is none", () => ["--issuer", origin, "--ca", "text"], /text|cannot be fetched/],
  ["that are not there", () => ["--jwks", `${origin}/absent`, "--ca", "ca.pem"], /the answer is 404/],
  ["that are somewhere else", () => ["--jwks", `${origin}/elsewhere`, "--ca", "ca.pem"], /the answer is 302/],
  ["with an authority that is not there", () => ["--issuer", origin, "--ca", "absent.pem"], /absent\.pem does not exist/],
])("takes no keys %s", async (_name, flags, message) => {
  const ran = await verify(...flags());
  expect(ran).toMatchObject({ exit: EXIT.failed, stdout: "" });
  expect(ran.stderr).toMatch(message);
});
