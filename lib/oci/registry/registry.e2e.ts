import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { silentLogger } from "@sealpod/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { blobPath, digestOf } from "../digest.ts";
import type { Image } from "../image.ts";
import { LayoutWriter } from "../layout-writer.ts";
import { MEDIA_TYPES } from "../media-types.ts";
import { collect, inPieces, memoryLayout } from "../testdata/layouts.ts";
import { openRegistry, type RegistryOptions, type RegistryPorts } from "./index.ts";
import { failureOf, pull, SECRETS } from "./test-support.ts";

/** The client against the registry that others wrote, over real sockets on this machine. */

const haveRegistry = spawnSync("docker-registry", ["--version"]).status === 0;
const haveOpenssl = spawnSync("openssl", ["version"]).status === 0;

/** bcrypt of SECRETS.password, made by crypt(3): perl -e 'print crypt(…, q($2y$05$abcdefghijklmnopqrstuu))'. */
const HTPASSWD = "user:$2y$05$abcdefghijklmnopqrstuuSnF5tLPqPFqc0z9CY0HcSLFbSRlL67u\n";
const BASIC = Buffer.from(`user:${SECRETS.password}`).toString("base64");

function realPorts(config: object, fetchPort: RegistryPorts["fetch"] = fetch): RegistryPorts {
  return {
    fetch: fetchPort,
    readFile: () => Promise.resolve(new Uint8Array(Buffer.from(JSON.stringify(config)))),
    runCredentialHelper: () => Promise.reject(new Error("none")),
    sleep: (ms, signal) => delay(Math.min(ms, 60_000), undefined, { signal }),
    clock: Date,
    random: { bytes: (length) => new Uint8Array(randomBytes(length)) },
    logger: silentLogger,
  };
}

describe.skipIf(!haveRegistry)(`against docker-registry${haveRegistry ? "" : " (skipped: it is not installed; Debian package docker-registry)"}`, () => {
  const tars = [new Uint8Array(3_000_000).map((_, i) => (i * i) >> 9), new Uint8Array(5000).fill(7)];
  let directory = "";
  let registry: ChildProcess | undefined;
  let host = "";
  let digest = "";

  const open = (options: RegistryOptions = {}, ports = realPorts({ auths: { [host]: { auth: BASIC } } })): ReturnType<typeof openRegistry> =>
    openRegistry({ insecureRegistries: [host], dockerConfig: "config.json", ...options }, ports);

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), "sealpod-registry-"));
    writeFileSync(join(directory, "htpasswd"), HTPASSWD);
    writeFileSync(
      join(directory, "config.yml"),
      JSON.stringify({
        version: 0.1,
        log: { level: "info" },
        storage: { filesystem: { rootdirectory: join(directory, "storage") } },
        http: { addr: "127.0.0.1:0", secret: "test" },
        auth: { htpasswd: { realm: "test", path: join(directory, "htpasswd") } },
      }),
    );
    const child = spawn("docker-registry", ["serve", join(directory, "config.yml")], { stdio: ["ignore", "ignore", "pipe"] });
    registry = child;
    host = await new Promise<string>((resolve, reject) => {
      let log = "";
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        log += text;
        const found = /listening on (127\.0\.0\.1:\d+)/.exec(log)?.[1];
        if (found !== undefined) resolve(found);
      });
      child.once("error", reject);
      child.once("exit", () => reject(new Error(`docker-registry ended: ${log}`)));
    });
    digest = await push();
  });

  afterAll(async () => {
    if (registry !== undefined && registry.exitCode === null) {
      const ended = new Promise((resolve) => registry?.once("exit", resolve));
      registry.kill();
      await ended;
    }
    rmSync(directory, { recursive: true, force: true });
  });

  async function push(): Promise<string> {
    const store = memoryLayout();
    const writer = new LayoutWriter(store);
    const [big, small] = tars as [Uint8Array, Uint8Array];
    const layers = [
      await writer.addLayer(inPieces(big, 65_536), { compression: "gzip", level: 1 }),
      await writer.addLayer(inPieces(small, 999), { compression: "none" }),
    ];
    const config = { user: "7:8", env: ["A=b"], entrypoint: ["/app"], cmd: [], workingDir: "/" };
    const manifestDigest = await writer.addImage(`${host}/team/app:1`, { config, layers });
    const manifest = store.files.get(blobPath(manifestDigest)) ?? new Uint8Array();
    const put = async (url: string, method: string, body?: Uint8Array, type = "application/octet-stream"): Promise<Response> => {
      const response = await fetch(url, {
        method,
        headers: { authorization: `Basic ${BASIC}`, "content-type": type },
        ...(body === undefined ? {} : { body: Buffer.from(body) }),
      });
      if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${await response.text()}`);
      return response;
    };
    for (const bytes of store.files.values()) {
      if (bytes === manifest) continue;
      const upload = await put(`http://${host}/v2/team/app/blobs/uploads/`, "POST");
      const url = new URL(upload.headers.get("location") ?? "", `http://${host}`);
      url.searchParams.set("digest", digestOf(bytes));
      await put(url.href, "PUT", bytes);
    }
    await put(`http://${host}/v2/team/app/manifests/1`, "PUT", manifest, MEDIA_TYPES.manifest);
    return manifestDigest;
  }

  it("pulls by tag and by digest what was pushed", async () => {
    for (const reference of [`${host}/team/app:1`, `${host}/team/app@${digest}`, `${host}/team/app:other@${digest}`]) {
      const source = open();
      const image: Image = await source.resolve(reference);
      expect(image).toMatchObject({ manifestDigest: digest, config: { user: "7:8", entrypoint: ["/app"] } });
      expect((await pull(source, reference)).map((tar, i) => Buffer.compare(tar, tars[i] ?? new Uint8Array()))).toEqual([0, 0]);
    }
  });

  it("resumes by Range where a connection broke", async () => {
    const ranges: (string | null)[] = [];
    const ports = realPorts({ auths: { [host]: { auth: BASIC } } }, async (url, init) => {
      const response = await fetch(url, init);
      if (!url.includes("/blobs/") || response.body === null || !response.ok) return response;
      ranges.push(new Headers(init.headers).get("range"));
      let left = 100_000;
      const cut = new TransformStream<Uint8Array, Uint8Array>({
        transform(chunk, controller) {
          controller.enqueue(chunk.subarray(0, left));
          left -= chunk.length;
          if (left <= 0) controller.error(new Error("cut"));
        },
      });
      return new Response(response.body.pipeThrough(cut), { status: response.status, headers: response.headers });
    });
    const source = open({}, { ...ports, sleep: (ms, signal) => (ms === 60_000 ? ports.sleep(ms, signal) : Promise.resolve()) });
    const { layers } = await source.resolve(`${host}/team/app:1`);
    ranges.length = 0;
    const [layer] = layers;
    if (layer === undefined) throw new Error("no layer");
    expect(layer.size).toBeGreaterThan(250_000);
    expect(digestOf(await collect(source.layerBlob(layer)))).toBe(layer.digest);
    expect(ranges.length).toBeGreaterThan(2);
    expect(ranges.slice(1).every((range) => /^bytes=\d+-$/.test(range ?? ""))).toBe(true);
  });

  it("says what is not there, and what a login is for", async () => {
    expect(await failureOf(open().resolve(`${host}/team/app:2`))).toMatchObject({
      code: "ERR_OCI_NOT_FOUND",
      message: expect.stringContaining("status 404 (MANIFEST_UNKNOWN: manifest unknown)") as string,
    });
    expect(await failureOf(open({}, realPorts({})).resolve(`${host}/team/app:1`))).toMatchObject({
      code: "ERR_OCI_AUTH",
      message: expect.stringContaining("status 401 (UNAUTHORIZED: authentication required)") as string,
      hint: expect.stringContaining(`docker login ${host}`) as string,
    });
    const wrong = { auths: { [host]: { auth: Buffer.from(`user:${SECRETS.registryToken}`).toString("base64") } } };
    expect(await failureOf(open({}, realPorts(wrong)).resolve(`${host}/team/app:1`))).toMatchObject({
      code: "ERR_OCI_AUTH",
      hint: expect.stringMatching(/^The stored login/) as string,
    });
  });

  it("names the flag for a registry that does not speak HTTPS", async () => {
    const error = await failureOf(open({ insecureRegistries: [] }).resolve(`${host}/team/app:1`));
    expect(error).toMatchObject({ code: "ERR_OCI_UNREACHABLE", hint: expect.stringMatching(/not to speak HTTPS.*--insecure-registry 127/) as string });
  });

  it("falls back from a mirror that is not there", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    const source = open({ mirrors: new Map([[host, [`127.0.0.1:${port}`]]]) });
    expect((await source.resolve(`${host}/team/app:1`)).manifestDigest).toBe(digest);
  });
});

describe.skipIf(!haveOpenssl)(`against a server with a certificate of its own${haveOpenssl ? "" : " (skipped: openssl is not installed)"}`, () => {
  it("names the certificate", async () => {
    const directory = mkdtempSync(join(tmpdir(), "sealpod-registry-"));
    const [key, cert] = [join(directory, "key"), join(directory, "cert")];
    const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    spawnSync("openssl", [
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:P-256",
      "-nodes",
      "-days",
      "2",
      "-keyout",
      key,
      "-out",
      cert,
      ...subject,
    ]);
    const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (_, response) => void response.end());
    try {
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const { port } = server.address() as AddressInfo;
      const error = await failureOf(openRegistry({}, realPorts({})).resolve(`localhost:${port}/app`));
      expect(error).toMatchObject({ code: "ERR_OCI_UNREACHABLE", hint: expect.stringContaining("NODE_EXTRA_CA_CERTS") as string });
      expect(error.message).toMatch(/self[- ]signed certificate/);
    } finally {
      await new Promise((resolve) => server.close(resolve));
      rmSync(directory, { recursive: true });
    }
  });
});
