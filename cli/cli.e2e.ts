import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { EXIT } from "./context.ts";

const isRoot = process.getuid?.() === 0;

const ROOT = resolve(import.meta.dirname, "..");
const EXAMPLE = join(ROOT, "examples", "key-release");

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function freePort(): Promise<number> {
  const server = await listen(0);
  const address = server.address();
  await new Promise((done) => server.close(done));
  return typeof address === "object" && address !== null ? address.port : 0;
}

async function listen(port: number): Promise<Server> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(port, "127.0.0.1", () => done(server));
  });
}

// The tour of the README, typed by a machine, with the mistakes that people make. One pod of it runs in a virtual machine where there are any;
// what the agent refuses is the same in both, and laptop/demo plays the attacks in a virtual machine too.
describe.skipIf(!isRoot)(`the tour, by hand${isRoot ? "" : " (skipped: needs root)"}`, () => {
  let directory = "";
  let port = 0;

  async function sealpod(...argv: readonly string[]): Promise<Ran> {
    return new Promise((done, fail) => {
      const child = spawn(process.execPath, [join(ROOT, "cli", "bin", "sealpod.cjs"), ...argv], {
        cwd: directory,
        env: { PATH: process.env["PATH"], SEALPOD_HOME: join(directory, "state") },
        stdio: ["ignore", "pipe", "pipe"],
      });
      const out = { stdout: "", stderr: "" };
      child.stdout.on("data", (chunk: Buffer) => void (out.stdout += chunk.toString("utf8")));
      child.stderr.on("data", (chunk: Buffer) => void (out.stderr += chunk.toString("utf8")));
      child.on("error", fail);
      child.on("close", (code) => done({ exit: code ?? -1, ...out }));
    });
  }

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "sp-"));
    port = await freePort();
    await writeFile(join(directory, "encryptionKey"), randomBytes(32));
    await cp(join(EXAMPLE, "page.html"), join(directory, "page.html"));
    const yaml = await readFile(join(EXAMPLE, "myapplication.yaml"), "utf8");
    await writeFile(join(directory, "myapplication.yaml"), yaml.replaceAll(":8443", `:${port}`));
  });

  afterAll(async () => {
    await sealpod("down");
    await rm(directory, { recursive: true, force: true });
  });

  it("a port in use is named, and nothing is left running", async () => {
    const server = await listen(port);
    const ran = await sealpod("up", "-d", "--port", String(port));
    await new Promise((done) => server.close(done));
    expect(ran.exit).toBe(EXIT.failed);
    expect(ran.stderr).toContain(String(port));
    expect(ran.stderr).toContain("--port");
    expect((await sealpod("status")).stdout).toContain("not running");
  });

  it("up starts, and a second up says that it runs already", async () => {
    const first = await sealpod("up", "-d", "--port", String(port));
    expect(first).toMatchObject({ exit: EXIT.ok });
    expect(first.stdout).toContain("EMULATED");
    const second = await sealpod("up", "-d", "--port", String(port));
    expect(second.exit).toBe(EXIT.failed);
    expect(second.stderr).toContain("already run");
    expect((await sealpod("status", "--json")).stdout).toContain(`"attest.sealpod.internal:${port}"`);
  });

  it("genpolicy without images says where they come from", async () => {
    const ran = await sealpod("genpolicy", "-y", "myapplication.yaml");
    expect(ran.exit).toBe(EXIT.failed);
    expect(ran.stderr).toContain("to do:");
  });

  it("images, policy and key", async () => {
    const images = await sealpod("example-images", "--key", "encryptionKey", "--page", "page.html");
    expect(images).toMatchObject({ exit: EXIT.ok });
    expect(images.stdout.match(/sha256:[0-9a-f]{64}/g)).toHaveLength(3);
    const policy = await sealpod("genpolicy", "-y", "myapplication.yaml", "--json");
    expect(policy).toMatchObject({ exit: EXIT.ok });
    const [{ hostData }] = JSON.parse(policy.stdout) as [{ hostData: string }];
    const key = await sealpod("importkey", "-c", "myapplication.yaml", "-kh", "encryptionKey");
    expect(key).toMatchObject({ exit: EXIT.ok });
    const [bytes, url, release] = key.stdout.split("\n");
    expect(bytes).toBe(`[${[...(await readFile(join(directory, "encryptionKey")))].join(" ")}]`);
    expect(url).toMatch(/^https:\/\/demo\.vault\.sealpod\.internal:\d+\/keys\/doc-sample-key-release\/[0-9a-f]{32}$/);
    expect(JSON.parse(release ?? "")).toMatchObject({ anyOf: [{ allOf: [{ claim: "x-ms-sevsnpvm-hostdata", equals: hostData }, {}, {}] }] });
  });

  it("run serves the page; exec is refused with exit code 3 and the policy's reason", async () => {
    const ran = await sealpod("run", "-d", "-p", "80", "myapplication.yaml");
    expect(ran).toMatchObject({ exit: EXIT.ok });
    const url = /http:\/\/127\.0\.0\.1:\d+\//.exec(ran.stdout)?.[0] ?? "";
    expect(await untilServed(url)).toBe(await readFile(join(directory, "page.html"), "utf8"));
    const exec = await sealpod("exec", "nginx-deployment", "-c", "nginx", "--", "id");
    expect(exec).toMatchObject({ exit: EXIT.refused, stdout: "" });
    expect(exec.stderr).toContain('exec: found ["id"], policy allows []');
    const logs = await sealpod("logs", "nginx-deployment", "-c", "nginx");
    expect(logs.stdout).toContain("page decrypted");
    expect((await sealpod("exec", "nginx-deployment", "-c", "none", "--", "id")).stderr).toContain("It has nginx, secret-key-release");
    expect((await sealpod("stop", "nginx-deployment")).exit).toBe(EXIT.ok);
  });

  it("a manifest that was changed after genpolicy is refused, with the field that differs", async () => {
    const text = await readFile(join(directory, "myapplication.yaml"), "utf8");
    await writeFile(join(directory, "changed.yaml"), text.replace('- "/app/webapp.mjs"', '- "/app/other.mjs"'));
    const ran = await sealpod("run", "-d", "--isolation", "process", "changed.yaml");
    expect(ran.exit).toBe(EXIT.refused);
    expect(ran.stderr).toContain('process.Args: found ["/usr/bin/node","/app/other.mjs"], policy allows ["/usr/bin/node","/app/webapp.mjs"]');
    expect(ran.stderr).toContain("to do:");
  });

  it("attack plays one attack by name", async () => {
    const ran = await sealpod("attack", "--isolation", "process", "myapplication.yaml", "other-env");
    expect(ran).toMatchObject({ exit: EXIT.ok });
    expect(ran.stdout).toContain("1 of 1 attacks refused");
  });

  it("down ends everything that up and run started", async () => {
    expect((await sealpod("down")).exit).toBe(EXIT.ok);
    expect((await sealpod("status")).stdout).toContain("not running");
    expect(await readdir(join(directory, "state", "run"))).toEqual([]);
  });
});

/** The page, once it is served: a refused connection has no event that tells when to come again. Two minutes, for machines that have other things to do. */
async function untilServed(url: string): Promise<string> {
  for (let tries = 1; ; tries++) {
    try {
      const answer = await fetch(url);
      if (answer.status === 200) return await answer.text();
    } catch (error) {
      if (tries === 480) throw error;
    }
    await new Promise((done) => setTimeout(done, 250));
  }
}
