import { spawn, type ChildProcess } from "node:child_process";
import { createCipheriv, randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createInterface } from "node:readline";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

const WEBAPP = join(import.meta.dirname, "../../examples/key-release/webapp/webapp.ts");
const PAGE = "<h1>in clear</h1>";
const KEY = randomBytes(32);

/** Stands in for nginx: says that it runs, and ends with code 7 on SIGTERM. */
const NGINX = `#!/bin/sh
trap 'exit 7' TERM
echo "nginx $*"
while :; do sleep 0.05; done
`;

describe("the example's application", () => {
  let directory: string;
  let server: Server;
  let port: number;
  let child: ChildProcess | undefined;
  let answer: (request: IncomingMessage, body: string, response: ServerResponse) => void;
  let asked: string[];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-webapp-"));
    await mkdir(join(directory, "bin"));
    await writeFile(join(directory, "bin", "nginx"), NGINX);
    await chmod(join(directory, "bin", "nginx"), 0o755);
    await writeFile(join(directory, "page.html.enc"), seal(KEY, PAGE));
    asked = [];
    server = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => (body += chunk.toString()));
      request.on("end", () => {
        asked.push(`${request.method ?? ""} ${request.url ?? ""} ${body}`);
        if (request.url === "/status") response.end('{"message":"Status OK"}');
        else answer(request, body, response);
      });
    });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    ({ port } = server.address() as { port: number });
  });
  afterEach(async () => {
    child?.kill("SIGKILL");
    child = undefined;
    server.closeAllConnections();
    server.close();
    await rm(directory, { recursive: true, force: true });
  });

  const start = (environment: Record<string, string> = {}): ChildProcess => {
    child = spawn(process.execPath, [WEBAPP], {
      env: {
        PATH: `${join(directory, "bin")}:${process.env["PATH"] ?? ""}`,
        SkrClientSidecar: `http://127.0.0.1:${port}`,
        PAGE_FILE: join(directory, "page.html.enc"),
        HTML_ROOT: join(directory, "html"),
        SkrClientKID: "doc-sample-key-release",
        SkrClientMAAEndpoint: "attest.test",
        SkrClientAKVEndpoint: "vault.test",
        ...environment,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    return child;
  };
  const ended = async (process: ChildProcess): Promise<{ code: unknown; stderr: string }> => {
    let stderr = "";
    process.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    process.stdout?.resume();
    const [code] = (await once(process, "close")) as [unknown];
    return { code, stderr };
  };
  const release = (key: Uint8Array): void => {
    answer = (_request, _body, response) => response.end(JSON.stringify({ key: JSON.stringify({ kty: "oct", k: Buffer.from(key).toString("base64url") }) }));
  };

  it("decrypts its page, starts nginx, and hands signals and exit code on", async () => {
    release(KEY);
    const app = start();
    for await (const line of createInterface({ input: app.stdout ?? ([] as never) })) if (line === "nginx -c /etc/nginx/nginx.conf") break;
    expect(await readFile(join(directory, "html", "index.html"), "utf8")).toBe(PAGE);
    expect(asked).toEqual(["GET /status ", 'POST /key/release {"maa_endpoint":"attest.test","akv_endpoint":"vault.test","kid":"doc-sample-key-release"}']);
    app.kill("SIGTERM");
    expect(await ended(app)).toEqual({ code: 7, stderr: "" });
  });

  it.each<[string, number, string, string]>([
    [
      "refused",
      403,
      '{"error":"key store answered 403: the policy is not satisfied"}',
      "the key was refused (403): key store answered 403: the policy is not satisfied",
    ],
    ["refused without JSON", 500, "oops", "the key was refused (500): oops"],
    ["missing", 200, "{}", "the sidecar answered without a key"],
    ["an RSA key", 200, JSON.stringify({ key: '{"kty":"RSA"}' }), "the released key is not a symmetric key (kty oct)"],
    ["too short", 200, JSON.stringify({ key: '{"kty":"oct","k":"AAAA"}' }), "the released key has 3 bytes, the page needs 32"],
  ])("says why when the key is %s, and serves nothing", async (_what, status, body, message) => {
    answer = (_request, _body, response) => response.writeHead(status).end(body);
    expect(await ended(start())).toEqual({ code: 1, stderr: `webapp: ${message}\n` });
    await expect(readFile(join(directory, "html", "index.html"))).rejects.toMatchObject({ code: "ENOENT" });
  });

  it("refuses a page that was sealed with another key, changed, cut, or made for another purpose", async () => {
    release(KEY);
    const page = join(directory, "page.html.enc");
    const changed = seal(KEY, PAGE);
    changed[20] = (changed[20] ?? 0) ^ 1;
    for (const sealed of [seal(randomBytes(32), PAGE), changed, seal(KEY, PAGE).subarray(0, -1), seal(KEY, PAGE, "another purpose")]) {
      await writeFile(page, sealed);
      expect(await ended(start())).toEqual({ code: 1, stderr: `webapp: ${page} was not encrypted with the released key, or was changed since\n` });
    }
    await writeFile(page, new Uint8Array(27));
    expect((await ended(start())).stderr).toContain("too few for an encrypted page");
  });

  it("waits for the sidecar, and ends at once on a signal meanwhile", async () => {
    server.close();
    const app = start();
    const [line] = (await once(createInterface({ input: app.stdout ?? ([] as never) }), "line")) as [string];
    expect(line).toBe("webapp: waiting for the sidecar (ECONNREFUSED)");
    app.kill("SIGTERM");
    expect((await ended(app)).code).toBe(143);
  });

  it("names a setting that is missing", async () => {
    release(KEY);
    expect(await ended(start({ SkrClientMAAEndpoint: "" }))).toEqual({ code: 1, stderr: "webapp: the environment variable SkrClientMAAEndpoint is not set\n" });
  });
});

/** The format of the example: nonce, ciphertext, tag. */
function seal(key: Uint8Array, text: string, purpose = "sealpod example page v1"): Uint8Array {
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  cipher.setAAD(Buffer.from(purpose));
  return Uint8Array.from(Buffer.concat([nonce, cipher.update(text), cipher.final(), cipher.getAuthTag()]));
}
