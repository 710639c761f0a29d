import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { encodeTar } from "@sealpod/verity";
import { blobPath, type LayoutStore, LayoutWriter } from "@sealpod/oci";

const ROOT = resolve(import.meta.dirname, "..");
const BIN = join(ROOT, "cli", "bin", "genpolicy.cjs");
const PASSWORD = "correct-horse-battery-staple";
const TOKEN = "a-token-of-the-registry";

/** A registry on this machine that wants a token, as most do. */
class TokenRegistry {
  readonly #files: ReadonlyMap<string, Uint8Array>;
  readonly #tags: ReadonlyMap<string, string>;
  readonly #server: Server;
  readonly requests: string[] = [];

  constructor(files: ReadonlyMap<string, Uint8Array>, tags: ReadonlyMap<string, string>) {
    this.#files = files;
    this.#tags = tags;
    this.#server = createServer((request, response) => this.#answer(request, response));
  }

  async listen(): Promise<string> {
    await new Promise<void>((done) => this.#server.listen(0, "127.0.0.1", done));
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { pathname } = new URL(request.url ?? "", "http://x");
    this.requests.push(`${request.method} ${pathname}`);
    if (pathname === "/token") {
      const right = `Basic ${Buffer.from(`robot:${PASSWORD}`).toString("base64")}`;
      response.writeHead(request.headers.authorization === right ? 200 : 401, { "content-type": "application/json" });
      response.end(request.headers.authorization === right ? JSON.stringify({ token: TOKEN }) : "{}");
      return;
    }
    if (request.headers.authorization !== `Bearer ${TOKEN}`) {
      const realm = `http://${request.headers.host}/token`;
      response.writeHead(401, { "www-authenticate": `Bearer realm="${realm}",service="test",scope="repository:team/app:pull"` });
      response.end();
      return;
    }
    const [, repository = "", kind, name = ""] = /^\/v2\/(.+)\/(manifests|blobs)\/(.+)$/.exec(pathname) ?? [];
    const digest = kind === "manifests" ? (this.#tags.get(`${repository}:${name}`) ?? name) : name;
    const bytes = digest.startsWith("sha256:") ? this.#files.get(blobPath(digest)) : undefined;
    if (bytes === undefined) {
      response.writeHead(404).end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such manifest"}]}');
      return;
    }
    response.writeHead(200, { "content-type": kind === "manifests" ? "application/vnd.oci.image.manifest.v1+json" : "application/octet-stream" });
    response.end(bytes);
  }
}

/** A layout in memory. */
function storeIn(files: Map<string, Uint8Array>): LayoutStore {
  return {
    async create() {
      const parts: Uint8Array[] = [];
      return Promise.resolve({
        write: async (bytes: Uint8Array) => void (await Promise.resolve(parts.push(bytes.slice()))),
        commit: async (path: string) => void (await Promise.resolve(files.set(path, Buffer.concat(parts)))),
        abort: async () => Promise.resolve(),
      });
    },
  };
}

/** A server that takes requests and never answers. */
async function silentServer(): Promise<{ readonly host: string; readonly asked: Promise<void>; [Symbol.asyncDispose](): Promise<void> }> {
  const { promise: asked, resolve: tell } = Promise.withResolvers<void>();
  const server = createServer(() => tell());
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}

describe("the bin genpolicy against a registry", () => {
  let directory = "";
  let host = "";
  let registry: TokenRegistry;
  const files = new Map<string, Uint8Array>();
  const path = (name: string): string => join(directory, name);

  interface Ran {
    readonly exit: number;
    readonly stdout: string;
    readonly stderr: string;
  }

  async function genpolicy(argv: readonly string[], options: { readonly stdin?: string; readonly config?: string } = {}): Promise<Ran> {
    return run(BIN, argv, options);
  }

  async function run(bin: string, argv: readonly string[], options: { readonly stdin?: string; readonly config?: string } = {}): Promise<Ran> {
    return new Promise((done, fail) => {
      const child = spawn(process.execPath, [bin, ...argv], {
        cwd: directory,
        env: { PATH: `${path("bin")}:${process.env["PATH"]}`, HOME: directory, SEALPOD_HOME: path("state"), DOCKER_CONFIG: path(options.config ?? "docker") },
        stdio: ["pipe", "pipe", "pipe"],
      });
      const out = { stdout: "", stderr: "" };
      child.stdout.setEncoding("utf8").on("data", (text: string) => void (out.stdout += text));
      child.stderr.setEncoding("utf8").on("data", (text: string) => void (out.stderr += text));
      child.stdin.end(options.stdin ?? "");
      child.on("error", fail);
      child.on("close", (code) => done({ exit: code ?? -1, ...out }));
    });
  }

  const pod = (): string =>
    `apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n    - name: app # mine\n      image: ${host}/team/app:1\n`;
  /** Our settings with a pause image that the registry has. */
  const flags = (): readonly string[] => ["--insecure-registry", host, "-j", "settings.json"];

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-genpolicy-"));
    const writer = new LayoutWriter(storeIn(files));
    const file = { mode: 0o644, uid: 0, gid: 0, mtime: 0, kind: "file" as const };
    const layer = await writer.addLayer(
      encodeTar([
        { ...file, path: "etc/passwd", data: Buffer.from("root:x:0:0:r:/:/bin/sh\nweb:x:101:102:w:/:/bin/sh\n") },
        { ...file, path: "app", data: new Uint8Array(3_000_000).fill(7) },
      ]),
      { compression: "gzip", level: 1 },
    );
    const config = { user: "web", env: ["A=b"], entrypoint: ["/app"], cmd: [], workingDir: "/" };
    const digest = await writer.addImage("example.invalid/team/app:1", { config, layers: [layer] });
    await writer.finish();
    registry = new TokenRegistry(files, new Map([["team/app:1", digest]]));
    host = await registry.listen();
    const settings = await readFile(join(ROOT, "author/genpolicy/data/genpolicy-settings.json"), "utf8");
    await writeFile(path("settings.json"), settings.replace("sealpod.internal/pause:1", `${host}/team/app:1`));
    await mkdir(path("bin"));
    await mkdir(path("docker"));
    await mkdir(path("wrong"));
    await mkdir(path("none"));
    // The login lies in a helper, as Docker Desktop and the clouds' tools have it.
    await writeFile(path("docker/config.json"), JSON.stringify({ credHelpers: { [host]: "test" } }));
    await writeFile(
      path("bin/docker-credential-test"),
      `#!/bin/sh\nread -r server\n[ "$1 $server" = "get ${host}" ] && printf '{"ServerURL":"%s","Username":"robot","Secret":"${PASSWORD}"}' "$server"\n`,
      { mode: 0o755 },
    );
    const wrong = Buffer.from("robot:a-wrong-password").toString("base64");
    await writeFile(path("wrong/config.json"), JSON.stringify({ auths: { [host]: { auth: wrong } } }));
  });

  beforeEach(() => void registry.requests.splice(0));

  afterAll(async () => {
    await registry.close();
    await rm(directory, { recursive: true, force: true });
  });

  it("pulls with a helper's login, annotates the file in place, and prints the policy", async () => {
    await writeFile(path("pod.yaml"), pod());
    const ran = await genpolicy(["-y", "pod.yaml", "-r", "--full", ...flags()]);
    expect([ran.exit, ran.stderr]).toEqual([0, ""]);
    expect(ran.stdout).toContain('"UID": 101');
    const written = await readFile(path("pod.yaml"), "utf8");
    const annotation = /agent\.policy: (\S+)/.exec(written)?.[1] ?? "";
    expect(Buffer.from(annotation, "base64").toString()).toBe(ran.stdout);
    expect(
      written
        .split("\n")
        .filter((line) => !/agent\.policy|^ {2}annotations:$/.test(line))
        .join("\n"),
    ).toBe(pod());
  });

  it("reads no layer again with -u, and does not ask for it", async () => {
    const first = await genpolicy(["-u", "-b", ...flags()], { stdin: pod() });
    expect([first.exit, first.stderr]).toEqual([0, ""]);
    expect(registry.requests.some((request) => request.includes("/blobs/"))).toBe(true);
    registry.requests.splice(0);
    const second = await genpolicy(["-u", "-b", ...flags()], { stdin: pod() });
    expect(second).toEqual(first);
    // The configuration of the image, no layer.
    expect(registry.requests.filter((request) => request.includes("/blobs/")).length).toBe(1);
    expect(JSON.parse(await readFile(path("layers-cache.json"), "utf8"))).toMatchObject([
      { diff_id: expect.stringMatching(/^sha256:/), erofs_hash: expect.stringMatching(/^[0-9a-f]{64}$/) },
    ]);
  });

  it.each([
    ["a wrong password", "wrong", () => pod(), "docker login"],
    ["no login", "none", () => pod(), "docker login"],
    ["a tag that is not there", "docker", () => pod().replace("app:1", "app:2"), "app:2"],
    ["a registry that is not there", "docker", () => pod().replace(host, "127.0.0.1:1"), "127.0.0.1:1"],
  ])("%s: one readable error, exit code 1, the file untouched, no secret", async (_name, config, text, expected) => {
    await writeFile(path("bad.yaml"), text());
    const ran = await genpolicy(["-y", "bad.yaml", ...flags()], { config });
    expect([ran.exit, ran.stdout]).toEqual([1, ""]);
    expect(ran.stderr).toMatch(/^error: bad\.yaml:8:14: spec\.containers\[0\]\.image: image "|error: bad\.yaml:6:3: spec: /);
    expect(ran.stderr).toContain(expected);
    expect(ran.stderr).toContain("to do:");
    expect(ran.stderr).not.toMatch(/\n\s+at |correct-horse|a-wrong-password|a-token-of/);
    expect(await readFile(path("bad.yaml"), "utf8")).toBe(text());
  });

  it.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("ends at once by %s while a registry does not answer, and leaves the file alone", async (signal, exit) => {
    await using silent = await silentServer();
    const text = pod().replace(host, silent.host);
    await writeFile(path("stopped.yaml"), text);
    const child = spawn(process.execPath, [BIN, "-y", "stopped.yaml", "--insecure-registry", silent.host, ...flags()], {
      cwd: directory,
      env: { PATH: process.env["PATH"], HOME: directory, SEALPOD_HOME: path("state"), DOCKER_CONFIG: path("docker") },
      stdio: "ignore",
    });
    const ended = new Promise<number | null>((done) => child.on("close", done));
    await silent.asked;
    child.kill(signal);
    expect(await ended).toBe(exit);
    expect(await readFile(path("stopped.yaml"), "utf8")).toBe(text);
  });

  /** Runs `sealpod confcom katapolicygen`, which has no flag for an insecure registry. */
  async function katapolicygen(argv: readonly string[]): Promise<Ran> {
    return run(join(ROOT, "cli/bin/sealpod.cjs"), ["confcom", "katapolicygen", ...argv]);
  }

  it("says under the name confcom katapolicygen which flag genpolicy has for an insecure registry", async () => {
    await writeFile(path("az.yaml"), pod());
    const ran = await katapolicygen(["--yaml", "az.yaml", "--print-policy", "-j", "settings.json", "--json"]);
    expect(ran.stdout).toContain("--insecure-registry");
    expect(ran.exit).toBe(1);
  });

  it("writes the same policy under the name confcom katapolicygen, from images that example-images would have left", async () => {
    for (const [name, bytes] of files) {
      await mkdir(dirname(path(`state/images/${name}`)), { recursive: true });
      await writeFile(path(`state/images/${name}`), bytes);
    }
    const text = pod().replaceAll(host, "example.invalid");
    const settings = (await readFile(path("settings.json"), "utf8")).replaceAll(host, "example.invalid");
    await writeFile(path("az-settings.json"), settings);
    await writeFile(path("az.yaml"), text);
    await writeFile(path("own.yaml"), text);
    const ran = await katapolicygen(["--yaml", "az.yaml", "--print-policy", "-j", "az-settings.json"]);
    expect([ran.exit, ran.stderr]).toEqual([0, ""]);
    const annotation = /agent\.policy: (\S+)/.exec(await readFile(path("az.yaml"), "utf8"))?.[1] ?? "";
    expect(annotation).not.toBe("");
    expect(ran.stdout.trim()).toBe(annotation);
    const own = await genpolicy(["-y", "own.yaml", "-b", "-j", "az-settings.json"]);
    expect([own.exit, own.stdout.trim()]).toEqual([0, annotation]);
  });
});
