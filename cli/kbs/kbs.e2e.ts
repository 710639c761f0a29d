import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { silentLogger } from "@sealpod/core";
import { systemClock, systemRandom } from "@sealpod/io";
import { ed25519Admins } from "@sealpod/kbs";
import { startServices, type RunningServices } from "@sealpod/services";
import type { CliContext } from "../context.ts";
import { run as deleteResource } from "../verbs/kbs-delete-resource.ts";
import { run as listReferenceValues } from "../verbs/kbs-list-reference-values.ts";
import { run as setReferenceValue } from "../verbs/kbs-set-reference-value.ts";
import { run as setResource } from "../verbs/kbs-set-resource.ts";

let directory: string;
let services: RunningServices;
let context: CliContext;
let written = "";

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "sealpod-cli-kbs-"));
  services = await startServices({
    state: join(directory, "state"),
    host: "127.0.0.1",
    port: 0,
    domain: "sealpod.internal",
    pid: process.pid,
    clock: systemClock,
    random: systemRandom,
    logger: silentLogger,
  });
  context = {
    env: { SEALPOD_HOME: join(directory, "state") },
    cwd: directory,
    stdin: (async function* () {})(),
    stdout: { isTerminal: false, write: (text) => void (written += text) },
    stderr: { isTerminal: false, write: () => undefined },
    clock: systemClock,
    elapsed: () => performance.now(),
    random: systemRandom,
    signal: new AbortController().signal,
  };
  await writeFile(join(directory, "raw"), randomBytes(32));
});
afterAll(async () => {
  await services.stop();
  await rm(directory, { recursive: true, force: true });
});

it("the laptop's owner manages the laptop's key broker, with and without its URL", async () => {
  const url = `https://${services.up.endpoints.kbs}`;
  expect(await setResource({ path: "default/key/disk", resourceFile: "raw" }, [], context)).toBe(0);
  expect(await services.keys.secret("kv", "kbs--default--key--disk")).toBeDefined();
  expect(await setReferenceValue({ url }, ["snp_bootloader", "4"], context)).toBe(0);
  expect(await listReferenceValues({}, [], context)).toBe(0);
  expect(await deleteResource({ url, path: "default/key/disk" }, [], context)).toBe(0);
  expect(written).toBe("kbs:///default/key/disk has 32 bytes\nsnp_bootloader = [4]\nsnp_bootloader = [4]\nkbs:///default/key/disk is deleted\n");
  // The audit of the vault names who it was.
  const lines = await services.keys.audit({ vault: "kv", operation: "kbs/set-resource", limit: 10 });
  expect(lines.map(({ appid }) => appid)).toEqual([services.up.owner.clientId]);
  await expect(setResource({ path: "a/b/c", resourceFile: "raw", certFile: "raw" }, [], context)).rejects.toMatchObject({ code: "ERR_CLI_USAGE" });
});

it("an administrator with a key of his own manages one on the network", async () => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  await writeFile(join(directory, "admin.key"), privateKey.export({ format: "pem", type: "pkcs8" }));
  const admins = ed25519Admins([publicKey.export({ format: "pem", type: "spki" }).toString()], systemClock);
  const asked: unknown[] = [];
  const server = createServer((request, response) => {
    void (async () => {
      const chunks: Uint8Array[] = [];
      for await (const chunk of request) chunks.push(chunk as Uint8Array);
      const verdict = await admins.authenticate((request.headers.authorization ?? "").replace("Bearer ", ""));
      asked.push([request.method, request.url, request.headers["content-length"], Buffer.concat(chunks).length, verdict.kind]);
      if (request.url === "/kbs/v0/resource/a/b/away") response.writeHead(302, { location: "http://127.0.0.1:1/" });
      response.end();
    })();
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  try {
    const flags = { url: `http://127.0.0.1:${(server.address() as { port: number }).port}`, authPrivateKey: "admin.key", resourceFile: "raw" };
    expect(await setResource({ ...flags, path: "a/b/c" }, [], context)).toBe(0);
    await expect(setResource({ ...flags, path: "a/b/away" }, [], context)).rejects.toMatchObject({
      code: "ERR_CLI_KBS",
      message: expect.stringContaining("302") as unknown,
    });
    expect(asked).toEqual([
      ["POST", "/kbs/v0/resource/a/b/c", "32", 32, "allowed"],
      ["POST", "/kbs/v0/resource/a/b/away", "32", 32, "allowed"],
    ]);
    await expect(setResource({ ...flags, url: "https://127.0.0.1:1", path: "a/b/c" }, [], context)).rejects.toMatchObject({
      code: "ERR_CLI_KBS",
      message: expect.stringContaining("no answer") as unknown,
    });
  } finally {
    server.closeAllConnections();
    server.close();
  }
});
