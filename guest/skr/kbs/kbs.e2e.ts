import { spawn, type ChildProcess } from "node:child_process";
import { createPrivateKey, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { encodeUtf8, sha256, silentLogger, toHex, type JsonObject } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { PspClient, type Launched } from "@sealpod/psp";
import { laptopFetch, requestOwnerToken, startServices, type LaptopFetch, type RunningServices } from "@sealpod/services";
import { parseReport, parseTcb } from "@sealpod/snp";
import { fetchReport } from "@sealpod/tsm";
import { releaseBy, type BackendPorts } from "../backend.ts";
import { requestGate } from "../request-gate.ts";
import { guestApi, guestListener, kbsBackend } from "./index.ts";

const MAIN = join(import.meta.dirname, "../main.ts");
/** Where the kernel's reports are goes before where the emulator's are. */
const hasKernelReports = existsSync("/sys/kernel/config/tsm/report");
const isRoot = process.getuid?.() === 0;

let state: string;
let services: RunningServices;
let fetch: LaptopFetch;
let psp: PspClient;
/** `https://HOST:PORT` of the key broker. */
let base: string;
let admin: Record<string, string>;
const guests: Launched[] = [];

beforeAll(async () => {
  state = await mkdtemp(join(tmpdir(), "sealpod-kbs-"));
  services = await startServices({
    state,
    host: "127.0.0.1",
    port: 0,
    domain: "sealpod.internal",
    pid: process.pid,
    clock: systemClock,
    random: systemRandom,
    logger: silentLogger,
  });
  fetch = laptopFetch(services.up);
  psp = new PspClient(services.up.sockets.psp);
  base = `https://${services.up.endpoints.kbs}`;
  admin = { authorization: `Bearer ${await requestOwnerToken(services.up, "https://vault.azure.net")}` };
});
afterAll(async () => {
  for (const guest of guests) await guest.close();
  await services.stop();
  await rm(state, { recursive: true, force: true });
});

/** A guest of the emulator: what is measured is its command line. */
async function launch(commandLine: string, hostData: Uint8Array): Promise<Launched> {
  const guest = await psp.launch({ files: [], commandLine, hostData });
  guests.push(guest);
  return guest;
}

/** A request of the owner; answers with status and text. */
async function asOwner(method: string, path: string, body?: string | Uint8Array<ArrayBuffer>): Promise<{ readonly status: number; readonly text: string }> {
  const response = await fetch(`${base}/kbs/v0/${path}`, { method, headers: admin, ...(body === undefined ? {} : { body }) });
  return { status: response.status, text: await response.text() };
}

async function set(path: string, body: string | Uint8Array<ArrayBuffer> | JsonObject): Promise<void> {
  const plain = typeof body === "string" || body instanceof Uint8Array;
  expect(await asOwner("POST", path, plain ? (body as string) : JSON.stringify(body))).toEqual({ status: 200, text: "" });
}

const policyOf = (text: string): JsonObject => ({ policy: Buffer.from(text).toString("base64url") });

/** The reference values for a guest as its owner finds them: in a report that he trusts. */
async function referenceValues(guest: Launched): Promise<Record<string, readonly unknown[]>> {
  const { report } = await fetchReport(`${guest.guestInfoDirectory}/tsm/report`, new Uint8Array(64));
  const { bootloader, microcode, snp, tee } = parseTcb(parseReport(report).reportedTcb, "Milan");
  return {
    snp_launch_measurement: [toHex(guest.launchMeasurement)],
    snp_host_data: [toHex(HOST_DATA)],
    snp_bootloader: [bootloader],
    snp_microcode: [microcode],
    snp_snp_svn: [snp],
    snp_tee_svn: [tee],
  };
}

/** The sidecar's own code in this process, on the report directory of a guest, and real TLS to the services. */
function portsOf(guest: Launched): BackendPorts {
  return {
    clock: systemClock,
    random: systemRandom,
    timer: { wait: async () => Promise.resolve(), deadline: (milliseconds) => AbortSignal.timeout(milliseconds) },
    logger: silentLogger,
    async http({ url, method, headers, body, signal, timeoutMs }) {
      const timeout = AbortSignal.timeout(timeoutMs);
      const response = await fetch(url, {
        method,
        headers,
        signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
        ...(body === undefined ? {} : { body }),
      });
      return { status: response.status, body: new Uint8Array(await response.arrayBuffer()), cookies: response.headers.getSetCookie() };
    },
    reports: { kind: "emulator", fetchReport: (reportData) => fetchReport(`${guest.guestInfoDirectory}/tsm/report`, reportData) },
    securityContext: { uvmEndorsement: undefined, hostCertificates: undefined },
    certificateCache: undefined,
    signal: new AbortController().signal,
  };
}

const release = async (guest: Launched, kid: string): Promise<JsonObject> =>
  releaseBy([kbsBackend()], portsOf(guest), { attestationEndpoint: undefined, storeEndpoint: `kbs+${base}`, kid, accessToken: undefined });

const HOST_DATA = sha256(encodeUtf8("the pod's policy"));
const SECRET = randomBytes(32);
const JWK = { kty: "oct", k: SECRET.toString("base64url") };

// One story: the tests are its steps, in order.
describe("a guest of the emulator and the laptop's key broker, over HTTPS", () => {
  let guest: Launched;

  beforeAll(async () => {
    guest = await launch("the pod", HOST_DATA);
    await set("resource/default/key/disk", Uint8Array.from(SECRET));
  });

  it("lets nobody but the owner set anything", async () => {
    for (const headers of [{}, { authorization: "Bearer e30.e30.e30" }, { authorization: `Bearer ${services.up.owner.clientSecret}` }])
      expect((await fetch(`${base}/kbs/v0/resource/default/key/disk`, { method: "POST", headers, body: "mine" })).status).toBe(401);
  });

  it("gives nothing while the owner has said nothing about the guest", async () => {
    await expect(release(guest, "disk")).rejects.toMatchObject({ code: "ERR_SKR_RELEASE", message: expect.stringContaining("PolicyDeny") as string });
  });

  it("gives the resource once its measurement and TCB are reference values", async () => {
    for (const [name, value] of Object.entries(await referenceValues(guest))) await set(`reference-value/${name}`, JSON.stringify(value));
    expect(JSON.parse((await asOwner("GET", "reference-value")).text)).toEqual(await referenceValues(guest));
    expect(await release(guest, "disk")).toEqual(JWK);
    expect(await release(guest, "kbs:///default/key/disk")).toEqual(JWK);
  });

  it("refuses a guest that was launched as something else, and one whose firmware is older than the owner takes", async () => {
    const other = await launch("another pod", HOST_DATA);
    await expect(release(other, "disk")).rejects.toThrow(/PolicyDeny/);
    await set("reference-value/snp_snp_svn", "[254]");
    await expect(release(guest, "disk")).rejects.toThrow(/PolicyDeny/);
    await set("reference-value/snp_snp_svn", JSON.stringify((await referenceValues(guest))["snp_snp_svn"]));
    expect(await release(guest, "disk")).toEqual(JWK);
  });

  it("asks for a HOST_DATA among the reference values, or for what the resource policy says", async () => {
    const twin = await launch("the pod", sha256(encodeUtf8("another policy")));
    expect(twin.launchMeasurement).toEqual(guest.launchMeasurement);
    await expect(release(twin, "disk")).rejects.toThrow(/PolicyDeny.*snp_host_data/);
    await set("reference-value/snp_host_data", JSON.stringify([toHex(HOST_DATA), toHex(sha256(encodeUtf8("another policy")))]));
    expect(await release(twin, "disk")).toEqual(JWK);
    await set(
      "resource-policy",
      policyOf(`package policy
import rego.v1
default allow := false
allow if {
	data["resource-path"] == ["default", "key", "disk"]
	input.submods.cpu0["ear.status"] == "affirming"
	input.submods.cpu0["ear.veraison.annotated-evidence"].init_data == "${toHex(HOST_DATA)}"
}`),
    );
    await expect(release(twin, "disk")).rejects.toThrow(/PolicyDeny/);
    expect(await release(guest, "disk")).toEqual(JWK);
    await set("resource/default/key/tape", "other bytes");
    await expect(release(guest, "tape")).rejects.toThrow(/PolicyDeny/);
  });

  it("goes by the attestation policy that the owner sets", async () => {
    const policy = (executables: number): JsonObject => ({
      type: "rego",
      policy_id: "default_cpu",
      ...policyOf(`package policy\nexecutables := ${executables}\n`),
    });
    await set("attestation-policy", policy(33));
    await expect(release(guest, "disk")).rejects.toThrow(/PolicyDeny/);
    await set("attestation-policy", policy(3));
    expect(await release(guest, "disk")).toEqual(JWK);
  });

  it("serves a key of the vault by its own release policy, if that names the key broker", async () => {
    await set("resource-policy", policyOf('package policy\nimport rego.v1\nallow if input.submods.cpu0["ear.status"] == "affirming"'));
    const key = randomBytes(32);
    const make = async (name: string, authority: string, claims: readonly (readonly [string, string | boolean])[]): Promise<void> => {
      const policy = { version: "1.0.0", anyOf: [{ authority, allOf: claims.map(([claim, equals]) => ({ claim, equals })) }] };
      const response = await fetch(`https://${services.up.endpoints.vault}/keys/${name}?api-version=7.4`, {
        method: "PUT",
        headers: { ...admin, "content-type": "application/json" },
        body: JSON.stringify({
          key: { kty: "oct-HSM", k: key.toString("base64url") },
          attributes: { exportable: true },
          release_policy: { data: Buffer.from(JSON.stringify(policy)).toString("base64url") },
        }),
      });
      expect([response.status, await response.text()]).toEqual([200, expect.anything()]);
    };
    const own = [
      ["x-ms-attestation-type", "sevsnpvm"],
      ["x-ms-sevsnpvm-hostdata", toHex(HOST_DATA)],
      ["x-ms-sevsnpvm-launchmeasurement", toHex(guest.launchMeasurement)],
      ["x-ms-sevsnpvm-is-debuggable", false],
      ["x-sealpod-root", "emulator"],
    ] as const;
    await make("mine", base, own);
    expect(await release(guest, "mine")).toEqual({ kty: "oct", k: key.toString("base64url") });
    await make("elsewhere", `https://${services.up.endpoints.attestation}`, own);
    await expect(release(guest, "elsewhere")).rejects.toThrow(/PolicyDeny: the release policy of key elsewhere does not name https:\/\/kbs\.sealpod\.internal/);
    for (const [claim, value] of [
      ["x-ms-sevsnpvm-hostdata", "00".repeat(32)],
      ["x-ms-sevsnpvm-launchmeasurement", "00".repeat(48)],
      ["x-ms-sevsnpvm-is-debuggable", true],
      ["x-sealpod-root", "amd"],
      ["x-ms-compliance-status", "azure-compliant-uvm"],
    ] as const) {
      const changed = own.filter(([name]) => name !== claim);
      await make("other", base, [...changed, [claim, value]]);
      await expect(release(guest, "other"), claim).rejects.toThrow(/PolicyDeny: the release policy of key other is not satisfied/);
    }
    // A twin of the guest with another pod's policy has the same measurement, and not the key.
    const twin = await launch("the pod", sha256(encodeUtf8("another policy")));
    await expect(release(twin, "mine")).rejects.toThrow(/not satisfied/);
  });

  it("answers the guest's API on HTTP, and ends what a caller left", async () => {
    const api = guestApi(requestGate(portsOf(guest)), base, { logger: silentLogger });
    const { createServer: createHttp } = await import("node:http");
    const server = createHttp(guestListener(api));
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const { port } = server.address() as { port: number };
    try {
      const answer = await globalThis.fetch(`http://127.0.0.1:${port}/cdh/resource/default/key/disk?x=y`);
      expect([answer.status, answer.headers.get("content-type"), answer.headers.get("cache-control")]).toEqual([200, "application/octet-stream", "no-store"]);
      expect(Buffer.from(await answer.arrayBuffer())).toEqual(SECRET);
      const ofAPage = await globalThis.fetch(`http://127.0.0.1:${port}/cdh/resource/default/key/disk`, { headers: { origin: "https://evil.example" } });
      expect([ofAPage.status, await ofAPage.text()]).toEqual([403, expect.stringContaining("comes from a web page")]);
      const posted = await globalThis.fetch(`http://127.0.0.1:${port}/aa/token`, { method: "POST", body: "x".repeat(1024 * 1024) });
      expect(posted.status).toBe(405);
      expect((await globalThis.fetch(`http://127.0.0.1:${port}/cdh/resource/default/key/none`)).status).toBe(500);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });

  it("forgets a resource that the owner deletes", async () => {
    await set("resource/default/secret/short-lived", "x");
    expect(await release(guest, "default/secret/short-lived")).toEqual({ kty: "oct", k: "eA" });
    expect((await asOwner("DELETE", "resource/default/secret/short-lived")).status).toBe(200);
    await expect(release(guest, "default/secret/short-lived")).rejects.toThrow(/there is no resource/);
    expect((await asOwner("DELETE", "resource/default/secret/short-lived")).status).toBe(401);
  });
});

const can = isRoot && !hasKernelReports;
// The report directory of the emulator and the names of the laptop are where a pod has them: in a mount namespace of its own.
describe.skipIf(!can)(`the sidecar's program in place of CoCo's agents${can ? "" : " (skipped: needs root, and a machine without SEV-SNP)"}`, () => {
  let guest: Launched;
  let child: ChildProcess | undefined;

  beforeAll(async () => {
    guest = await launch("the program's pod", HOST_DATA);
    await writeFile(join(state, "hosts"), `127.0.0.1 ${new URL(base).hostname}\n`);
    await writeFile(join(state, "bundle.pem"), services.up.caCertificate);
    await set("attestation-policy", { type: "rego", policy_id: "default_cpu", ...policyOf("package policy\nexecutables := 3\n") });
    await set("resource-policy", policyOf('package policy\nimport rego.v1\nallow if input.submods.cpu0["ear.status"] == "affirming"'));
    await set("resource/default/key/disk", Uint8Array.from(SECRET));
  });
  afterEach(() => {
    child?.kill("SIGKILL");
    child = undefined;
  });

  const start = (argv: readonly string[], environment: Record<string, string>): ChildProcess => {
    const script = 'mount -t tmpfs none /run && mkdir /run/sealpod && mount --bind "$1" /run/sealpod && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"';
    const command = ["sh", guest.guestInfoDirectory, join(state, "hosts"), process.execPath, MAIN, ...argv];
    child = spawn("unshare", ["--mount", "sh", "-c", script, ...command], {
      env: { PATH: process.env["PATH"] ?? "", SSL_CERT_FILE: join(state, "bundle.pem"), LogLevel: "info", AA_KBC_PARAMS: `cc_kbc::${base}`, ...environment },
      stdio: ["pipe", "pipe", "pipe"],
    });
    return child;
  };
  /** Runs the process until it has logged a message so many times; the lines. */
  const until = async (program: ChildProcess, message: string, times: number): Promise<readonly string[]> => {
    const lines: string[] = [];
    for await (const line of createInterface({ input: program.stdout ?? ([] as never) })) {
      lines.push(line);
      if (lines.filter((item) => item.includes(`"msg":"${message}`)).length === times) break;
    }
    return lines;
  };

  it("has the same key for /key/release with kbs+https and for /cdh/resource, and tokens and evidence as the agents give them", async () => {
    const [port, api] = [await freePort(), await freePort()];
    const program = start([], { Port: String(port), API_SERVER_REST_PORT: String(api) });
    expect((await until(program, "listening", 2)).join("\n")).toContain(`"keyBroker":"${base}"`);
    const released = await globalThis.fetch(`http://127.0.0.1:${port}/key/release`, {
      method: "POST",
      body: JSON.stringify({ akv_endpoint: `kbs+${base}`, kid: "disk" }),
    });
    expect(JSON.parse(((await released.json()) as { key: string }).key)).toEqual(JWK);
    const resource = await globalThis.fetch(`http://127.0.0.1:${api}/cdh/resource/default/key/disk`);
    expect(Buffer.from(await resource.arrayBuffer())).toEqual(SECRET);

    // What a container does with a token: it asks the broker itself, and opens the answer with the key that came along.
    const answer = await globalThis.fetch(`http://127.0.0.1:${api}/aa/token?token_type=kbs`);
    const { token, tee_keypair: pem } = (await answer.json()) as { token: string; tee_keypair: string };
    const jwe = (await (await fetch(`${base}/kbs/v0/resource/default/key/disk`, { headers: { authorization: `Bearer ${token}` } })).json()) as JsonObject;
    const { openResource } = await import("./index.ts");
    expect(Buffer.from(await openResource(jwe, createPrivateKey(pem)))).toEqual(SECRET);

    const evidence = (await (await globalThis.fetch(`http://127.0.0.1:${api}/aa/evidence?runtime_data=hello`)).json()) as {
      attestation_report: { report_data: number[]; host_data: number[] };
      cert_chain: unknown[];
    };
    expect(Buffer.from(evidence.attestation_report.report_data.slice(0, 6)).toString()).toBe("hello\0");
    expect(evidence.attestation_report.host_data).toEqual([...HOST_DATA]);
    expect(evidence.cert_chain).toHaveLength(3);
    program.kill("SIGTERM");
    expect(await once(program, "close")).toEqual([0, null]);
  });

  it("unseals a secret from standard input", async () => {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    await set("resource/default/signing/owner", JSON.stringify(publicKey.export({ format: "jwk" })));
    await set("resource/default/secret/db", "hunter2");
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const payload = { version: "0.1.0", type: "vault", provider: "kbs", name: "kbs:///default/secret/db", provider_settings: {}, annotations: {} };
    const input = `${part({ alg: "ES256", kid: "kbs:///default/signing/owner" })}.${part(payload)}`;
    const signature = sign("sha256", Buffer.from(input), { key: privateKey, dsaEncoding: "ieee-p1363" }).toString("base64url");
    const run = async (text: string, environment: Record<string, string> = {}): Promise<{ code: unknown; stdout: string; stderr: string }> => {
      const program = start(["unseal"], environment);
      const written = { stdout: "", stderr: "" };
      program.stdout?.on("data", (chunk: Buffer) => (written.stdout += chunk.toString()));
      program.stderr?.on("data", (chunk: Buffer) => (written.stderr += chunk.toString()));
      program.stdin?.end(text);
      const [code] = (await once(program, "close")) as [unknown];
      return { code, ...written };
    };
    expect(await run(`sealed.${input}.${signature}\n`)).toEqual({ code: 0, stdout: "hunter2", stderr: expect.stringContaining("EMULATED") });
    expect(await run(`sealed.${input}x.${signature}\n`)).toMatchObject({ code: 3, stdout: "", stderr: expect.stringContaining("not signed by") });
    expect(await run("hunter2", { AA_KBC_PARAMS: "" })).toMatchObject({ code: 2, stdout: "", stderr: expect.stringContaining("Set AA_KBC_PARAMS=cc_kbc::") });
  });

  it("serves neither API when the port of one is taken", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => {
      taken.listen(0, "127.0.0.1", resolve);
    });
    const program = start([], { Port: String(await freePort()), API_SERVER_REST_PORT: String((taken.address() as { port: number }).port) });
    expect((await until(program, "cannot listen", 1)).at(-1)).toContain("EADDRINUSE");
    expect(await once(program, "close")).toEqual([1, null]);
    taken.close();
  });

  it("does not start with a key broker that is none", async () => {
    const program = start([], { AA_KBC_PARAMS: "cc_kbc::http://kbs.test" });
    let stderr = "";
    program.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    program.stdout?.resume();
    expect(await once(program, "close")).toEqual([2, null]);
    expect(stderr).toMatch(/^skr: AA_KBC_PARAMS is "cc_kbc::http:\/\/kbs\.test"; expected cc_kbc::https/);
  });
});

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
