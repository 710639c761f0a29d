import { request, type RequestOptions } from "node:http";
import { createServer } from "node:net";
import { access, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, encodeUtf8, fromBase64, silentLogger, toHex } from "@sealpod/core";
import { verifyUvmEndorsement } from "@sealpod/cose";
import { systemRandom } from "@sealpod/io";
import { processorApi } from "@sealpod/proto";
import { launchDigest, parseCertificateChainPem, parseCertificateChainTable, parseThimBase64, processPages, verifyReport } from "@sealpod/snp";
import { fetchReport } from "@sealpod/tsm";
import { memoryStreams, TtrpcClient } from "@sealpod/ttrpc";
import type { LaunchPort } from "@sealpod/vmm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EMULATED_NOTICE, PspClient, type PspServer, SecurityProcessor, servePsp } from "./index.ts";

const clock: Clock = { now: () => Date.UTC(2026, 10, 22, 12) };
const HOST_DATA = new Uint8Array(32).fill(0x22);

let base = "";
let socketPath = "";
let agent = "";
let processor: SecurityProcessor;
let server: PspServer;
let client: PspClient;

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), "psp-"));
  socketPath = join(base, "psp.sock");
  agent = join(base, "agent.js");
  await writeFile(agent, new Uint8Array(10_000).fill(1));
  processor = await SecurityProcessor.open(join(base, "keys"), { clock, random: systemRandom });
  server = await servePsp({ processor, socketPath, guestInfoBase: join(base, "guests"), logger: silentLogger });
  client = new PspClient(socketPath);
}, 60_000);

afterAll(async () => {
  await server.close();
  await rm(base, { recursive: true, force: true });
});

describe("a launch over the socket", () => {
  it("measures files and command line, and serves everything the guest needs", async () => {
    const launched = await client.launch({ files: [agent, agent], commandLine: "agent --x", hostData: HOST_DATA });
    const bytes = new Uint8Array(await readFile(agent));
    expect(toHex(launched.launchMeasurement)).toBe(toHex(launchDigest(processPages([bytes, bytes, encodeUtf8("agent --x\0")]))));

    const info = launched.guestInfoDirectory;
    const { report, auxblob } = await fetchReport(join(info, "tsm", "report"), new Uint8Array(64).fill(3));
    const trust = await client.fetchTrust();
    const verified = verifyReport({ report, certificates: parseCertificateChainTable(auxblob), roots: [trust.root], clock });
    expect(verified.root.name).toBe("emulator");
    expect(verified.report).toMatchObject({ hostData: HOST_DATA, reportData: new Uint8Array(64).fill(3), measurement: launched.launchMeasurement });

    const endorsement = fromBase64(await readFile(join(info, "security-context", "reference-info-base64"), "utf8"));
    expect(verifyUvmEndorsement(endorsement, [{ ...trust.uvm, claim: "c" }]).launchMeasurement).toEqual(launched.launchMeasurement);
    const thim = parseThimBase64(await readFile(join(info, "security-context", "host-amd-cert-base64"), "utf8"));
    expect(parseCertificateChainPem(thim.vcekCert + thim.certificateChain).root.der).toEqual(parseCertificateChainPem(await client.fetchChain()).root.der);
    expect(await readFile(join(info, "EMULATED"), "utf8")).toContain(EMULATED_NOTICE);

    await launched.close();
    await launched.close();
    await expect(access(info)).rejects.toThrow(/ENOENT/);
  });

  it("is the launch port of the machine drivers", async () => {
    const port: LaunchPort = client;
    const launch = await port.launch({ files: [agent], commandLine: "agent", hostData: HOST_DATA });
    expect(await readdir(launch.guestInfoDirectory)).toEqual(["EMULATED", "security-context", "tsm"]);
    await launch.close();
    expect(await readdir(join(base, "guests"))).toEqual([]);
  });

  it("answers a guest that shares no files with the host, over ttRPC", async () => {
    const launched = await client.launch({ files: [agent], commandLine: "agent", hostData: HOST_DATA });
    const [near, far] = memoryStreams();
    launched.serve(far);
    const guest = new TtrpcClient(near);
    const { SecurityProcessor: service } = processorApi;
    const { report, certificates } = await guest.unary(service.method.getReport, { reportData: new Uint8Array(64).fill(4) });
    const trust = await client.fetchTrust();
    const verified = verifyReport({ report, certificates: parseCertificateChainTable(certificates), roots: [trust.root], clock });
    expect(verified.report).toMatchObject({ hostData: HOST_DATA, reportData: new Uint8Array(64).fill(4), measurement: launched.launchMeasurement });
    const { files } = await guest.unary(service.method.getFiles, {});
    for (const { path, data } of files) expect([path, data]).toEqual([path, new Uint8Array(await readFile(join(launched.guestInfoDirectory, path)))]);
    expect(files.map(({ path }) => path)).toEqual(["EMULATED", "security-context/reference-info-base64", "security-context/host-amd-cert-base64"]);
    await expect(guest.unary(service.method.getReport, { reportData: new Uint8Array(65) })).rejects.toThrow(/1 to 64 bytes/);
    await expect(guest.unary(service.method.getReport, {})).rejects.toThrow(/1 to 64 bytes/);
    await launched.close();
    await expect(guest.unary(service.method.getReport, { reportData: Uint8Array.of(1) })).rejects.toThrow(/no guest/);
    guest.close();
  });

  it("keeps guests apart", async () => {
    const [first, second] = await Promise.all(
      [1, 2].map(async (value) => client.launch({ files: [], commandLine: "", hostData: new Uint8Array(32).fill(value) })),
    );
    if (first === undefined || second === undefined) throw new Error("unreachable");
    await first.close();
    const { report } = await fetchReport(join(second.guestInfoDirectory, "tsm", "report"), Uint8Array.of(1));
    expect(report.subarray(0xc0, 0xe0)).toEqual(new Uint8Array(32).fill(2));
    await second.close();
  });

  it.each<[string, Parameters<PspClient["launch"]>[0], number, string]>([
    ["a file that is not there", { files: ["/absent/file"], commandLine: "", hostData: HOST_DATA }, 500, "ERR_IO_READ"],
    ["a device", { files: ["/dev/zero"], commandLine: "", hostData: HOST_DATA }, 500, "ERR_IO_READ"],
    ["a relative path", { files: ["agent.js"], commandLine: "", hostData: HOST_DATA }, 400, "ERR_PSP_INPUT"],
    ["HOST_DATA of 31 bytes", { files: [], commandLine: "", hostData: HOST_DATA.subarray(1) }, 400, "ERR_PSP_INPUT"],
    ["a NUL in the command line", { files: [], commandLine: "a\0b", hostData: HOST_DATA }, 400, "ERR_PSP_INPUT"],
    ["a command line above the limit", { files: [], commandLine: "a".repeat(64 * 1024), hostData: HOST_DATA }, 413, "ERR_PSP_LIMIT"],
    ["a body above the limit", { files: [], commandLine: "a".repeat(300 * 1024), hostData: HOST_DATA }, 413, "ERR_PSP_LIMIT"],
    ["256 files", { files: Array.from({ length: 256 }, () => "/x"), commandLine: "", hostData: HOST_DATA }, 413, "ERR_PSP_LIMIT"],
  ])("refuses %s and keeps nothing of it", async (_name, input, status, code) => {
    await expect(client.launch(input)).rejects.toThrow(expect.objectContaining({ code: "ERR_PROCESSOR_RESPONSE", details: { status, code } }));
    expect(await readdir(join(base, "guests"))).toEqual([]);
  });
});

describe("hostile requests", () => {
  async function send(options: RequestOptions, body?: string): Promise<{ readonly status: number; readonly body: string }> {
    const answer = Promise.withResolvers<{ readonly status: number; readonly body: string }>();
    const call = request({ socketPath, agent: false, headers: { "content-type": "application/json" }, ...options }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", () => answer.resolve({ status: response.statusCode ?? 0, body: text }));
    });
    call.on("error", answer.reject);
    call.end(body);
    return answer.promise;
  }

  const good = { files: [], commandLine: "", hostData: "22".repeat(32) };
  it.each<[string, number, string, string, string?]>([
    ["another path", 404, "GET", "/"],
    ["a query", 404, "GET", "/root?x"],
    ["an absolute URL", 404, "GET", "http://x/root"],
    ["another method", 405, "POST", "/root"],
    ["GET on launch", 405, "GET", "/launch"],
    ["an id that is none", 404, "DELETE", "/launch/.."],
    ["an id in capitals", 404, "DELETE", `/launch/${"A".repeat(32)}`],
    ["an unknown id", 404, "DELETE", `/launch/${"a".repeat(32)}`],
    ["a report of an unknown guest", 404, "POST", `/launch/${"a".repeat(32)}/report`, JSON.stringify({ reportData: "00" })],
    ["a report with GET", 405, "GET", `/launch/${"a".repeat(32)}/report`],
    ["a report with more than its data", 400, "POST", `/launch/${"a".repeat(32)}/report`, JSON.stringify({ reportData: "00", vmpl: 0 })],
    ["files of an unknown guest", 404, "GET", `/launch/${"a".repeat(32)}/files`],
    ["files with POST", 405, "POST", `/launch/${"a".repeat(32)}/files`, "{}"],
    ["a part that a guest does not have", 404, "GET", `/launch/${"a".repeat(32)}/keys`],
    ["something below a part", 404, "GET", `/launch/${"a".repeat(32)}/files/x`],
    ["GET on a guest", 405, "GET", `/launch/${"a".repeat(32)}`],
    ["no JSON", 400, "POST", "/launch", "hello"],
    ["a list", 400, "POST", "/launch", "[]"],
    ["a name twice", 400, "POST", "/launch", '{"files":[],"files":[],"commandLine":"","hostData":""}'],
    ["an unknown name", 400, "POST", "/launch", JSON.stringify({ ...good, policy: "0" })],
    ["no files", 400, "POST", "/launch", JSON.stringify({ ...good, files: undefined })],
    ["files that are numbers", 400, "POST", "/launch", JSON.stringify({ ...good, files: [1] })],
    ["a path with NUL", 400, "POST", "/launch", JSON.stringify({ ...good, files: ["/a\0b"] })],
    ["a path above PATH_MAX", 400, "POST", "/launch", JSON.stringify({ ...good, files: [`/${"a".repeat(5000)}`] })],
    ["no command line", 400, "POST", "/launch", JSON.stringify({ ...good, commandLine: 1 })],
    ["HOST_DATA in capitals", 400, "POST", "/launch", JSON.stringify({ ...good, hostData: "AA".repeat(32) })],
  ])("%s: %i", async (_name, status, method, path, body) => {
    const answer = await send({ method, path }, body);
    expect(answer.status).toBe(status);
    expect(JSON.parse(answer.body)).toMatchObject({ error: { code: expect.stringMatching(/^ERR_/) as string } });
  });

  it("refuses another content type", async () => {
    expect((await send({ method: "POST", path: "/launch", headers: { "content-type": "text/plain" } }, JSON.stringify(good))).status).toBe(400);
  });

  it("takes the request that the cases above change", async () => {
    const answer = await send({ method: "POST", path: "/launch" }, JSON.stringify(good));
    expect(answer.status).toBe(201);
    const { id } = JSON.parse(answer.body) as { readonly id: string };
    expect((await send({ method: "DELETE", path: `/launch/${id}` })).status).toBe(204);
    expect((await send({ method: "DELETE", path: `/launch/${id}` })).status).toBe(404);
  });
});

describe("the socket", () => {
  const options = (path: string) => ({ processor, socketPath: path, guestInfoBase: join(base, "guests-2"), logger: silentLogger });

  it("is for its owner alone", async () => {
    expect(((await stat(socketPath)).mode & 0o777).toString(8)).toBe("600");
  });

  it("is not taken from a server that runs", async () => {
    await expect(servePsp(options(socketPath))).rejects.toThrow(expect.objectContaining({ code: "ERR_PSP_SOCKET" }));
    expect(await client.fetchChain()).toBe(processor.chainPem);
  });

  it("is taken over when nobody serves it any more, and is removed at the end", async () => {
    const path = join(base, "left.sock");
    // A bound socket file without a listener is what a killed process leaves; a plain file refuses connections the same way.
    await writeFile(path, "");
    const second = await servePsp(options(path));
    expect((await new PspClient(path).fetchTrust()).root.name).toBe("emulator");
    const guest = await new PspClient(path).launch({ files: [], commandLine: "", hostData: HOST_DATA });
    await second.close();
    await second.close();
    await expect(access(path)).rejects.toThrow(/ENOENT/);
    await expect(access(guest.guestInfoDirectory)).rejects.toThrow(/ENOENT/);
    await expect(new PspClient(path).fetchChain()).rejects.toThrow(expect.objectContaining({ code: "ERR_PROCESSOR_UNAVAILABLE" }));
  });

  it("cannot be made where there is no directory", async () => {
    await expect(servePsp(options(join(base, "absent", "x.sock")))).rejects.toThrow(expect.objectContaining({ code: "ERR_PSP_SOCKET" }));
  });
});

describe("the client before a hostile server", () => {
  async function answering(response: string, use: (client: PspClient) => Promise<void>): Promise<void> {
    const path = join(base, "hostile.sock");
    const hostile = createServer((connection) => {
      connection.on("error", () => undefined);
      connection.once("data", () => connection.end(response));
    });
    await new Promise<void>((resolve) => {
      hostile.listen(path, resolve);
    });
    try {
      await use(new PspClient(path));
    } finally {
      await new Promise((resolve) => {
        hostile.close(resolve);
      });
    }
  }

  const json = (status: number, body: string): string => `HTTP/1.1 ${status} X\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n${body}`;
  const good = { id: "a".repeat(32), guestInfoDirectory: "/x", launchMeasurement: "b".repeat(96) };
  it.each<[string, string, string]>([
    ["no HTTP", "hello\r\n\r\n", "ERR_PROCESSOR_UNAVAILABLE"],
    ["nothing", "", "ERR_PROCESSOR_UNAVAILABLE"],
    ["an answer that is cut", "HTTP/1.1 201 X\r\ncontent-length: 100\r\n\r\n{", "ERR_PROCESSOR_UNAVAILABLE"],
    ["no JSON", json(201, "x"), "ERR_PROCESSOR_RESPONSE"],
    ["bytes that are not UTF-8", `${json(201, "")}\u00ff`, "ERR_PROCESSOR_RESPONSE"],
    ["an error without JSON", json(500, "x"), "ERR_PROCESSOR_RESPONSE"],
    ["an error of another shape", json(500, '{"error":{"message":{"a":1}}}'), "ERR_PROCESSOR_RESPONSE"],
    ["another status", json(200, JSON.stringify(good)), "ERR_PROCESSOR_RESPONSE"],
    ["an id that leads elsewhere", json(201, JSON.stringify({ ...good, id: "../x" })), "ERR_PROCESSOR_RESPONSE"],
    ["a relative directory", json(201, JSON.stringify({ ...good, guestInfoDirectory: "x" })), "ERR_PROCESSOR_RESPONSE"],
    ["a short measurement", json(201, JSON.stringify({ ...good, launchMeasurement: "bb" })), "ERR_PROCESSOR_RESPONSE"],
    ["no id", json(201, JSON.stringify({ ...good, id: 1 })), "ERR_PROCESSOR_RESPONSE"],
    ["more bytes than the limit", json(201, "x".repeat(300 * 1024)), "ERR_PROCESSOR_RESPONSE"],
  ])("refuses %s", async (_name, response, code) => {
    await answering(response, async (hostile) => {
      await expect(hostile.launch({ files: [], commandLine: "", hostData: HOST_DATA })).rejects.toThrow(expect.objectContaining({ code }));
    });
  });

  it.each([{}, { product: "Rome" }, { keySha256: "00" }, { uvm: 1 }, { uvm: { issuer: "i", feed: "f" } }, { name: "" }])(
    "refuses a root with %j",
    async (changes) => {
      const root = { name: "emulator", product: "Milan", keySha256: "0".repeat(64), uvm: { issuer: "i", feed: "f", minimumSvn: 1 } };
      await answering(json(200, JSON.stringify({ ...root, ...changes })), async (hostile) => {
        const outcome = hostile.fetchTrust();
        if (Object.keys(changes).length === 0) expect((await outcome).root.name).toBe("emulator");
        else await expect(outcome).rejects.toThrow(expect.objectContaining({ code: "ERR_PROCESSOR_RESPONSE" }));
      });
    },
  );
});
