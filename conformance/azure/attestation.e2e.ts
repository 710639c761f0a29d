import { type ChildProcess, spawn } from "node:child_process";
import { createHash, type KeyObject, randomBytes, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { encodeCertificatesPem, generateKey, issueCertificate, keyUsage, OID, subjectAltName } from "@sealpod/pki";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ClientOutcome, ClientRun, ClientStep, Signer } from "./testdata/attestation-client.ts";

/** The genuine client `@azure/attestation` 1.0.0 against the program `verifier/attestation/main.ts`, each in a process of its own, over TLS. */

const MAIN = join(import.meta.dirname, "../../verifier/attestation/main.ts");
const CLIENT = join(import.meta.dirname, "testdata/attestation-client.ts");
const ISSUER = "https://attest.conformance.internal";
const POLICY = 'version= 1.0;authorizationrules{[type=="x-ms-sevsnpvm-is-debuggable", value==false] => permit();};issuancerules{};';

/** PEM of a key and its self-signed certificate. */
async function selfSigned(kind: "p256" | "rsa-2048", name: string): Promise<Signer & { readonly key: KeyObject }> {
  const key = await generateKey(kind);
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: name }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: kind === "p256" ? "ecdsa-sha256" : "rsa-sha256",
    serial: 1n,
    notBefore: Date.now() - 3_600_000,
    notAfter: Date.now() + 86_400_000,
    extensions: [keyUsage("digitalSignature"), subjectAltName({ kind: "dns", value: "localhost" })],
  });
  return { key, privateKey: key.export({ type: "pkcs8", format: "pem" }) as string, certificate: encodeCertificatesPem([certificate]) };
}

/** The service as a program. */
class Service {
  readonly endpoint: string;
  readonly #child: ChildProcess;
  readonly #directory: string;
  readonly #token: string;

  private constructor(child: ChildProcess, endpoint: string, directory: string, token: string) {
    this.#child = child;
    this.endpoint = endpoint;
    this.#directory = directory;
    this.#token = token;
  }

  static async start(management: object): Promise<Service> {
    const directory = await mkdtemp(join(tmpdir(), "sealpod-azure-"));
    const token = randomBytes(32).toString("hex");
    const tls = await selfSigned("p256", "localhost");
    const files: Readonly<Record<string, string>> = {
      "key.pem": tls.privateKey,
      "cert.pem": tls.certificate,
      "master.key": randomBytes(32).toString("hex"),
      token,
      "config.json": JSON.stringify({
        issuer: ISSUER,
        listen: "127.0.0.1:0",
        tls: { cert: "cert.pem", key: "key.pem" },
        database: "attestation.sqlite",
        masterKey: { file: "master.key" },
        management: { tokenFile: "token", ...management },
      }),
    };
    for (const [name, text] of Object.entries(files)) await writeFile(join(directory, name), text, { mode: 0o600 });
    const { SEALPOD_VERBOSE: _verbose, ...env } = process.env;
    const child = spawn(process.execPath, [MAIN, "--config", "config.json"], { cwd: directory, env, stdio: ["ignore", "pipe", "pipe"] });
    const port = await portOf(child);
    return new Service(child, `https://localhost:${port}`, directory, token);
  }

  /** Runs the client; `token` is the administrator's unless another is given. */
  async run(steps: readonly ClientStep[], token = this.#token): Promise<readonly ClientOutcome[]> {
    const argument: ClientRun = { endpoint: this.endpoint, token, steps };
    const child = spawn(process.execPath, [CLIENT, JSON.stringify(argument)], {
      env: { PATH: process.env["PATH"], NODE_EXTRA_CA_CERTS: join(this.#directory, "cert.pem") },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let out = "";
    let problems = "";
    child.stdout.on("data", (chunk: Buffer) => void (out += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => void (problems += chunk.toString()));
    await once(child, "close");
    if (out === "") throw new Error(`the client ended without a word: ${problems}`);
    return JSON.parse(out) as readonly ClientOutcome[];
  }

  async stop(): Promise<void> {
    const ended = once(this.#child, "close");
    this.#child.kill("SIGTERM");
    await ended;
    await rm(this.#directory, { recursive: true });
  }
}

async function portOf(child: ChildProcess): Promise<number> {
  const { stdout, stderr } = child;
  if (stdout === null || stderr === null) throw new Error("no pipes");
  let log = "";
  stderr.on("data", (chunk: Buffer) => void (log += chunk.toString()));
  for await (const line of createInterface(stdout)) {
    log += `${line}\n`;
    const entry = line.startsWith("{") ? (JSON.parse(line) as { readonly msg?: string; readonly url?: string }) : {};
    if (entry.msg !== "listening") continue;
    stdout.resume();
    return Number(new URL(entry.url ?? "").port);
  }
  throw new Error(`the service did not start: ${log}`);
}

function valueOf(outcome: ClientOutcome | undefined): unknown {
  if (outcome === undefined || "error" in outcome) throw new Error(`the client failed: ${JSON.stringify(outcome)}`);
  return outcome.value;
}

describe("@azure/attestation against an instance in AAD mode", () => {
  let service: Service;
  beforeAll(async () => {
    service = await Service.start({});
  });
  afterAll(async () => service.stop());

  it("reads the OpenID configuration and the signing certificates", async () => {
    const [metadata, signers] = await service.run([{ call: "openIdMetadata" }, { call: "signers" }]);
    expect(valueOf(metadata)).toMatchObject({
      issuer: ISSUER,
      jwks_uri: `${ISSUER}/certs`,
      response_types_supported: ["token", "none"],
      id_token_signing_alg_values_supported: ["RS256"],
    });
    const list = valueOf(signers) as readonly { readonly keyId: string; readonly certificates: readonly string[] }[];
    expect(list).toHaveLength(1);
    const certificate = new X509Certificate(list[0]?.certificates[0] ?? "");
    expect(list[0]?.keyId).toBe(createHash("sha256").update(certificate.raw).digest("base64"));
  });

  it("reads, sets, reads and resets a policy, and verifies the tokens about it", async () => {
    const [before, set, after, reset, again] = await service.run([
      { call: "getPolicy", type: "SevSnpVm" },
      { call: "setPolicy", type: "SevSnpVm", policy: POLICY },
      { call: "getPolicy", type: "SevSnpVm" },
      { call: "resetPolicy", type: "SevSnpVm" },
      { call: "getPolicy", type: "SevSnpVm" },
    ]);
    expect(valueOf(before)).toMatch(/^version= ?1/);
    expect(valueOf(before)).not.toBe(POLICY);
    expect(valueOf(set)).toMatchObject({ policyResolution: "Updated" });
    expect(valueOf(after)).toBe(POLICY);
    expect(valueOf(reset)).toMatchObject({ policyResolution: "Removed" });
    expect(valueOf(again)).toBe(valueOf(before));
  });

  it("sets a policy with a signature, and the service names its signer", async () => {
    const signer = await selfSigned("rsa-2048", "policy signer");
    const [set] = await service.run([{ call: "setPolicy", type: "SgxEnclave", policy: POLICY, signer }]);
    const { policySigner } = valueOf(set) as { readonly policySigner: { readonly certificates: readonly string[] } };
    expect(new X509Certificate(policySigner.certificates[0] ?? "").raw).toEqual(new X509Certificate(signer.certificate).raw);
  });

  it("keeps the policies of all types apart", async () => {
    const types = ["SgxEnclave", "OpenEnclave", "Tpm", "SevSnpVm"];
    await service.run(types.map((type) => ({ call: "resetPolicy", type })));
    const outcomes = await service.run([{ call: "setPolicy", type: "Tpm", policy: POLICY }, ...types.map((type) => ({ call: "getPolicy" as const, type }))]);
    expect(outcomes.slice(1).map((outcome) => valueOf(outcome) === POLICY)).toEqual([false, false, true, false]);
  });

  it.each<[string, ClientStep, string, number, RegExp]>([
    [
      "a policy with a mistake",
      { call: "setPolicy", type: "SevSnpVm", policy: "version= 1.0;\nauthorizationrules{ => allow(); };" },
      "PolicyParsingError",
      400,
      /Line: '2'/,
    ],
    ["a type that does not exist", { call: "getPolicy", type: "Toaster" }, "InvalidParameter", 400, /toaster/],
  ])("gets a readable error for %s", async (_name, step, code, status, message) => {
    const [outcome] = await service.run([step]);
    expect(outcome).toMatchObject({ code, status, error: expect.stringMatching(message) });
  });

  it("is refused with another token", async () => {
    const [outcome, open] = await service.run([{ call: "getPolicy", type: "SevSnpVm" }, { call: "signers" }], "x".repeat(64));
    expect(outcome).toMatchObject({ status: 401 });
    expect(valueOf(open)).toHaveLength(1);
  });
});

describe("@azure/attestation against an instance in isolated mode", () => {
  let service: Service;
  let owner: Signer;
  let other: Signer;
  beforeAll(async () => {
    [owner, other] = await Promise.all([selfSigned("rsa-2048", "owner"), selfSigned("rsa-2048", "other")]);
    const directory = await mkdtemp(join(tmpdir(), "sealpod-azure-"));
    await writeFile(join(directory, "owner.pem"), owner.certificate);
    service = await Service.start({ mode: "isolated", certificates: [join(directory, "owner.pem")] });
    await rm(directory, { recursive: true });
  });
  afterAll(async () => service.stop());

  it("sets policies with a policy certificate's signature alone", async () => {
    const [unsigned, foreign, signed, read] = await service.run([
      { call: "setPolicy", type: "SevSnpVm", policy: POLICY },
      { call: "setPolicy", type: "SevSnpVm", policy: POLICY, signer: other },
      { call: "setPolicy", type: "SevSnpVm", policy: POLICY, signer: owner },
      { call: "getPolicy", type: "SevSnpVm" },
    ]);
    expect(unsigned).toMatchObject({ status: 400 });
    expect(foreign).toMatchObject({ status: 400 });
    expect(valueOf(signed)).toMatchObject({ policyResolution: "Updated" });
    expect(valueOf(read)).toBe(POLICY);
  });

  it("lists, adds and removes policy certificates", async () => {
    const [first, refused, added, both, removed, last] = await service.run([
      { call: "getCertificates" },
      { call: "addCertificate", certificate: other.certificate, signer: other },
      { call: "addCertificate", certificate: other.certificate, signer: owner },
      { call: "getCertificates" },
      { call: "removeCertificate", certificate: other.certificate, signer: owner },
      { call: "removeCertificate", certificate: owner.certificate, signer: owner },
    ]);
    expect(valueOf(first)).toHaveLength(1);
    expect(refused).toMatchObject({ status: 400 });
    const thumbprint = createHash("sha1").update(new X509Certificate(other.certificate).raw).digest("hex").toUpperCase();
    expect(valueOf(added)).toMatchObject({ certificateThumbprint: thumbprint, certificateResolution: "IsPresent" });
    expect(valueOf(both)).toHaveLength(2);
    expect(valueOf(removed)).toMatchObject({ certificateResolution: "IsAbsent" });
    expect(last).toMatchObject({ status: 400, error: expect.stringContaining("last policy certificate") });
  });
});
