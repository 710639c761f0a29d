import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createVolume } from "@sealpod/luks2";
import { encodeCertificatesPem, generateKey, issueCertificate, keyUsage, OID, subjectAltName } from "@sealpod/pki";

/** The sidecar as a process, up to the device that this machine's kernel has not: what it fetches, says, and leaves behind. */
const MAIN = join(import.meta.dirname, "main.ts");
/** It asks six times, for half a minute in all: that it does is in encfs.test.ts, and its pauses are a hundredth of that here. */
const SHORT_WAITS = join(import.meta.dirname, "testdata", "short-waits.ts");
const directory = mkdtempSync(join(tmpdir(), "sealpod-encfs-main-"));
const file = (name: string): string => join(directory, name);
const RAW_KEY = "5e".repeat(32);
const SIGNATURE = "sig=VERY-SECRET";

const { header } = createVolume({ passphrase: Buffer.from(RAW_KEY, "hex"), random: { bytes: (length) => new Uint8Array(randomBytes(length)) } });
const image = Buffer.concat([header, Buffer.alloc(4096)]);
let server: Server;
let port: number;
const requests: string[] = [];

beforeAll(async () => {
  const key = await generateKey("p256");
  const certificate = issueCertificate({
    subject: [{ type: OID.commonName, value: "storage" }],
    subjectKey: key,
    issuer: { key },
    signatureAlgorithm: "ecdsa-sha256",
    serial: 1n,
    notBefore: Date.now() - 3_600_000,
    notAfter: Date.now() + 3_600_000,
    extensions: [keyUsage("digitalSignature"), subjectAltName({ kind: "dns", value: "localhost" })],
  });
  const cert = encodeCertificatesPem([certificate]);
  writeFileSync(file("ca.pem"), cert);
  server = createServer({ cert, key: key.export({ type: "pkcs8", format: "pem" }) }, (request, response) => {
    requests.push(`${request.method ?? ""} ${request.url ?? ""}`);
    if (request.url?.startsWith("/c/missing") === true) response.writeHead(404, { "x-ms-error-code": "BlobNotFound" }).end(SIGNATURE);
    else if (request.method === "HEAD") response.writeHead(200, { "content-length": String(image.length), etag: '"1"', "x-ms-blob-type": "BlockBlob" }).end();
    else {
      const [, first = 0, last = 0] = (/^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? []).map(Number);
      response.writeHead(206, { "content-range": `bytes ${first}-${last}/${image.length}` }).end(image.subarray(first, last + 1));
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  ({ port } = server.address() as AddressInfo);
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await once(server, "close");
  rmSync(directory, { recursive: true });
});

async function run(filesystem: object): Promise<{ readonly code: number | null; readonly text: string; readonly result: string }> {
  const scratch = file("tmp");
  rmSync(scratch, { recursive: true, force: true });
  rmSync(file("result"), { force: true });
  mkdirSync(scratch);
  const args = { azure_filesystems: [{ mount_point: file("mnt/data"), raw_key: RAW_KEY, ...filesystem }] };
  const env = {
    PATH: process.env["PATH"],
    TMPDIR: scratch,
    SSL_CERT_FILE: file("ca.pem"),
    EncfsSideCarArgs: Buffer.from(JSON.stringify(args)).toString("base64"),
    EncfsResultFile: file("result"),
    LogLevel: "debug",
  };
  const child = spawn(process.execPath, ["--import", SHORT_WAITS, MAIN], { env, stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => void (text += chunk.toString()));
  const [code] = (await once(child, "close")) as [number | null];
  expect(readdirSync(scratch)).toEqual([]);
  return { code, text, result: readFileSync(file("result"), "utf8") };
}

describe("the encfs sidecar", () => {
  // Where the module nbd is loaded, this would go on to the next step.
  it.skipIf(existsSync("/sys/block/nbd0"))("looks at the blob, and says what the kernel lacks (skipped where it lacks nothing)", async () => {
    const { code, text, result } = await run({ azure_url: `https://localhost:${port}/c/data.img?${SIGNATURE}` });
    expect({ code, result }).toEqual({ code: 1, result: "0" });
    expect(requests[0]).toBe(`HEAD /c/data.img?${SIGNATURE}`);
    expect(text).toContain("needs the module nbd");
    for (const secret of ["VERY-SECRET", RAW_KEY]) expect(text).not.toContain(secret);
    expect(existsSync(file("mnt"))).toBe(false);
  });

  it("says which blob is not there, and ends", async () => {
    const { code, text, result } = await run({ azure_url: `https://localhost:${port}/c/missing?${SIGNATURE}` });
    expect({ code, result }).toEqual({ code: 1, result: "0" });
    expect(text).toContain(`https://localhost:${port}/c/missing: the service answered 404 BlobNotFound`);
    expect(text).not.toContain("VERY-SECRET");
  });

  it("does not speak to a service whose certificate it does not know", async () => {
    const { code, text } = await run({ azure_url: `https://127.0.0.1:${port}/c/data.img` });
    expect(code).toBe(1);
    expect(text).toMatch(/ERR_TLS_CERT_ALTNAME_INVALID|altnames|IP/);
  });
});
