import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeUtf8, sha256, toBase64url } from "@sealpod/core";
import { PspClient } from "@sealpod/psp";
import { laptopFetch, readUp, type Up } from "@sealpod/services";
import { fetchReport } from "@sealpod/tsm";
import { EXIT } from "../context.ts";

// As users start it: the bundle where it is fresh, and the compile cache.
const MAIN = join(import.meta.dirname, "..", "bin", "sealpod.cjs");
const DENYING = 'version= 1.0;\nauthorizationrules\n{\n    [type=="x-ms-sevsnpvm-is-debuggable", value==true] => permit();\n};\n';

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

let directory = "";
let up: Up;
let request = "";

async function sealpod(...argv: readonly string[]): Promise<Ran> {
  const child = spawn(process.execPath, [MAIN, ...argv], {
    cwd: directory,
    env: { PATH: process.env["PATH"], SEALPOD_HOME: join(directory, "state") },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const out = { stdout: "", stderr: "" };
  child.stdout.on("data", (chunk: Buffer) => void (out.stdout += chunk.toString("utf8")));
  child.stderr.on("data", (chunk: Buffer) => void (out.stderr += chunk.toString("utf8")));
  const [code] = (await once(child, "close")) as [number | null];
  return { exit: code ?? -1, ...out };
}

/** Body of POST /attest/SevSnpVm with the evidence of a guest that the emulated processor launches. */
async function makeRequest(): Promise<string> {
  const runtimeData = encodeUtf8('{"keys":[]}');
  const psp = new PspClient(up.sockets.psp);
  const launched = await psp.launch({ files: [MAIN], commandLine: "x", hostData: new Uint8Array(32).fill(5) });
  try {
    const reportData = new Uint8Array(64);
    reportData.set(sha256(runtimeData));
    const { report } = await fetchReport(join(launched.guestInfoDirectory, "tsm", "report"), reportData);
    const evidence = { SnpReport: toBase64url(report), VcekCertChain: toBase64url(encodeUtf8(await psp.fetchChain())) };
    return JSON.stringify({ report: toBase64url(encodeUtf8(JSON.stringify(evidence))), runtimeData: { data: toBase64url(runtimeData), dataType: "JSON" } });
  } finally {
    await launched.close();
  }
}

async function attest(): Promise<{ readonly status: number; readonly text: string }> {
  const url = `https://${up.endpoints.attestation}/attest/SevSnpVm?api-version=2022-08-01`;
  const answer = await laptopFetch(up)(url, { method: "POST", headers: { "content-type": "application/json" }, body: request });
  return { status: answer.status, text: await answer.text() };
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sp-"));
  await writeFile(join(directory, "deny.txt"), DENYING);
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  expect(await sealpod("up", "-d", "--port", String(port))).toMatchObject({ exit: EXIT.ok });
  up = await readUp(join(directory, "state"));
  request = await makeRequest();
  await writeFile(join(directory, "request.json"), request);
});

afterAll(async () => {
  expect((await sealpod("down")).exit).toBe(EXIT.ok);
  await rm(directory, { recursive: true, force: true });
});

describe("sealpod attest policy, by the owner of the laptop", () => {
  it("sets a policy that denies, sees tokens refused, tries it on the request, and takes it back", async () => {
    expect((await attest()).status).toBe(200);
    expect(await sealpod("attest", "policy", "set", "deny.txt")).toMatchObject({
      exit: EXIT.ok,
      stderr: "",
      stdout: expect.stringContaining("x-ms-policy-result: Updated\n") as string,
    });
    expect((await sealpod("attest", "policy", "get")).stdout).toBe(DENYING);

    const denied = await attest();
    expect(denied.status).toBe(400);
    expect(denied.text).toContain("PolicyEvaluationError");
    expect(denied.text).toContain("sealpod attest policy eval POLICY --claims REQUEST");
    // What the hint says, with what a denied caller has.
    const tried = await sealpod("attest", "policy", "eval", "deny.txt", "--claims", "request.json");
    expect(tried.exit).toBe(EXIT.refused);
    expect(tried.stdout).toContain("found x-ms-sevsnpvm-is-debuggable = false");
    expect(tried.stdout).toContain("NOT VERIFIED");

    expect((await sealpod("attest", "policy", "reset")).stdout).toContain("x-ms-policy-result: Removed\n");
    expect((await attest()).status).toBe(200);
  });

  it("computes from a request the claims of the token that the service issues for it", async () => {
    const { token } = JSON.parse((await attest()).text) as { token: string };
    const claims = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString()) as Readonly<Record<string, unknown>>;
    const conditions = Object.entries(claims)
      .filter(([name, value]) => /^x-(ms-sevsnpvm|ms-attestation-type|ms-ver|sealpod)/.test(name) && typeof value !== "object")
      .map(([name, value]) => `[type==${JSON.stringify(name)}, value==${JSON.stringify(value)}]`);
    expect(conditions.length).toBeGreaterThanOrEqual(20);
    await writeFile(join(directory, "all.txt"), `version=1.0;authorizationrules{${conditions.join("&&")}=>permit();};`);
    expect(await sealpod("attest", "policy", "eval", "all.txt", "--claims", "request.json")).toMatchObject({ exit: EXIT.ok, stderr: "" });
  });

  it("routes the laptop's names, on whatever state directory it is", async () => {
    const endpoint = `https://${up.endpoints.attestation}`;
    expect((await sealpod("attest", "policy", "get", "--endpoint", endpoint)).exit).toBe(EXIT.ok);
    expect((await sealpod("attest", "policy", "get", "--state", join(directory, "state"))).exit).toBe(EXIT.ok);
    expect(await sealpod("attest", "policy", "get", "--state", "nowhere")).toMatchObject({
      exit: EXIT.usage,
      stderr: expect.stringContaining("--endpoint") as string,
    });
    await writeFile(join(directory, "ca.pem"), up.caCertificate);
    expect(await sealpod("attest", "policy", "get", "--ca", "ca.pem")).toMatchObject({ exit: EXIT.usage });
  });

  it("takes another token in place of the owner's, and shows no secret", async () => {
    await writeFile(join(directory, "token"), "not-a-token\n");
    const ran = await sealpod("attest", "policy", "get", "--bearer-token-file", "token");
    expect(ran).toMatchObject({ exit: EXIT.failed, stderr: expect.stringContaining("status 401") as string });
    const { owner } = JSON.parse(await readFile(join(directory, "state", "up.json"), "utf8")) as Up;
    expect(ran.stdout + ran.stderr).not.toContain(owner.clientSecret);
  });
});
