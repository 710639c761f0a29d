import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import {
  azureCacheSource,
  type EndorsementSource,
  endorsementRequestOf,
  kdsSource,
  type KdsPorts,
  parseReport,
  thimSource,
  THIM_PATH,
  verifyReport,
} from "@sealpod/snp";
import { parseCrl, verifyCrl } from "@sealpod/pki";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { TestAmd } from "./testdata/amd.ts";
import { upstreamOf } from "./testdata/network.ts";

const ROOT = resolve(import.meta.dirname, "..", "..");
const amd = new TestAmd("Milan", Date.now());
const [A, B] = [amd.chip(1), amd.chip(2)];
const clock = { now: (): number => Date.now() };

const ports: KdsPorts = {
  fetch: async (url, init) => fetch(url, init),
  clock,
  random: { bytes: (length) => crypto.getRandomValues(new Uint8Array(length)) },
  sleep: async (ms, signal) => delay(ms, undefined, { signal }).catch(() => undefined),
};

interface Ran {
  readonly exit: number;
  readonly stdout: string;
  readonly stderr: string;
}

describe("the certificate cache, as a process", () => {
  let directory = "";
  let upstream: Server;
  let upstreamUrl = "";
  const asked: string[] = [];
  const running: { readonly child: ChildProcess; readonly done: Promise<Ran> }[] = [];

  function start(...argv: readonly string[]): { readonly child: ChildProcess; readonly out: { stdout: string; stderr: string }; readonly done: Promise<Ran> } {
    const child = spawn(process.execPath, [join(ROOT, "cli", "bin", "sealpod.cjs"), "certcache", ...argv], {
      cwd: directory,
      env: { PATH: process.env["PATH"], HOME: directory },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const out = { stdout: "", stderr: "" };
    child.stdout.on("data", (chunk: Buffer) => void (out.stdout += chunk.toString("utf8")));
    child.stderr.on("data", (chunk: Buffer) => void (out.stderr += chunk.toString("utf8")));
    const done = new Promise<Ran>((end, fail) => {
      child.on("error", fail);
      child.on("close", (code) => end({ exit: code ?? -1, ...out }));
    });
    running.push({ child, done });
    return { child, out, done };
  }

  async function sealpod(...argv: readonly string[]): Promise<Ran> {
    return start(...argv).done;
  }

  /** Starts a server on a free port and waits until it says where. */
  async function serve(...argv: readonly string[]): Promise<{ readonly url: string; readonly stop: (signal: NodeJS.Signals) => Promise<Ran> }> {
    const { child, out, done } = start("serve", "--listen", "127.0.0.1:0", "--json", ...argv);
    while (!out.stdout.includes("\n")) {
      await Promise.race([new Promise((next) => child.stdout?.once("data", next)), done]);
      if (child.exitCode !== null) throw new Error(out.stderr);
    }
    const { url } = JSON.parse(out.stdout.split("\n")[0] ?? "") as { readonly url: string };
    return {
      url,
      stop: async (signal) => {
        child.kill(signal);
        return done;
      },
    };
  }

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "sealpod-certcache-e2e-"));
    await writeFile(join(directory, "ark.pem"), amd.arkPem);
    await writeFile(join(directory, "report.bin"), amd.report(A));
    await writeFile(join(directory, "report.hex"), Buffer.from(amd.report(B)).toString("hex"));
    const answer = upstreamOf(amd, [A, B]);
    upstream = createServer((request, response) => {
      asked.push(request.url ?? "");
      const found = answer(request.url ?? "");
      void found.arrayBuffer().then((body) => response.writeHead(found.status).end(Buffer.from(body)));
    });
    await new Promise<void>((done) => upstream.listen(0, "127.0.0.1", done));
    upstreamUrl = `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`;
  });

  afterEach(async () => {
    for (const { child, done } of running.splice(0)) {
      child.kill("SIGKILL");
      await done;
    }
    asked.length = 0;
  });

  afterAll(async () => {
    upstream.closeAllConnections();
    await new Promise((done) => upstream.close(done));
    await rm(directory, { recursive: true, force: true });
  });

  it("serves our clients for all three services, asks its upstream once, and lives on without it", async () => {
    const flags = ["--dir", "first", "--trust", "emulator=ark.pem"] as const;
    const server = await serve(...flags, "--upstream", `kds=${upstreamUrl}`);
    const clients = (url: string): readonly EndorsementSource[] => [
      kdsSource({ ...ports, base: url }),
      azureCacheSource({ ...ports, endpoint: url }),
      thimSource({ ...ports, url: `${url}${THIM_PATH}` }),
    ];
    const report = amd.report(A);
    const request = endorsementRequestOf(parseReport(report));
    const all = await Promise.all(Array.from({ length: 100 }, async () => kdsSource({ ...ports, base: server.url }).fetchEndorsement(request)));
    expect(all.every(({ endorsementKey }) => Buffer.from(endorsementKey.der).equals(A.vcek.der))).toBe(true);
    expect(asked.filter((path) => path.includes("SPL"))).toHaveLength(1);
    for (const client of clients(server.url)) {
      const certificates = await client.fetchChain(request);
      expect(verifyReport({ report, certificates, roots: [amd.root], clock }).root.name).toBe("emulator");
    }
    const crl = await kdsSource({ ...ports, base: server.url }).authorities.fetchCrl("vcek", "Milan");
    expect(verifyCrl(crl, amd.vcek.root, { clock }).crl.number).toBe(1n);
    expect(asked).toHaveLength(3);
    const missing = endorsementRequestOf(parseReport(amd.report(amd.chip(9))));
    await expect(clients(server.url)[1]?.fetchChain(missing)).rejects.toMatchObject({ code: "ERR_SNP_KDS_NOT_FOUND" });

    const health = await fetch(`${server.url}/readyz`);
    expect(health.status).toBe(200);
    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    expect(metrics).toMatch(/certcache_entries 1\n/);
    expect(metrics).toMatch(/certcache_events_total\{event="hit"\} \d+/);
    expect(await server.stop("SIGTERM")).toMatchObject({ exit: 0 });

    asked.length = 0;
    const offline = await serve(...flags, "--upstream", "none");
    for (const client of clients(offline.url)) await client.fetchChain(request);
    expect(parseCrl(new Uint8Array(await (await fetch(`${offline.url}/vcek/v1/Milan/crl`)).arrayBuffer())).der).toEqual(crl.der);
    expect(asked).toEqual([]);
    expect(await offline.stop("SIGINT")).toMatchObject({ exit: 0 });
  });

  it("survives being killed while it writes", async () => {
    const flags = ["--dir", "killed", "--trust", "emulator=ark.pem", "--upstream", `kds=${upstreamUrl}`] as const;
    for (const [index, chip] of [A, B].entries()) {
      const server = await serve(...flags);
      const source = kdsSource({ ...ports, retries: 0, base: server.url });
      const answer = source.fetchEndorsement(chip.request).then(
        () => "answered",
        () => "killed",
      );
      // The second is killed without waiting for its answer: whatever it had written by then must be whole.
      if (index === 0) await answer;
      await server.stop("SIGKILL");
      await answer;
    }
    const [list, server] = await Promise.all([sealpod("list", "--json", "--dir", "killed", "--trust", "emulator=ark.pem"), serve(...flags)]);
    const listed = JSON.parse(list.stdout) as { certificates: { state: string }[] };
    expect(listed.certificates.length).toBeGreaterThan(0);
    expect(listed.certificates.every(({ state }) => state === "verified")).toBe(true);
    for (const chip of [A, B]) expect((await kdsSource({ ...ports, base: server.url }).fetchEndorsement(chip.request)).product).toBe("Milan");
  });

  it("is filled for reports, listed, carried away in a file and imported, all by command", async () => {
    const at = (dir: string): readonly string[] => ["--dir", dir, "--trust", "emulator=ark.pem"];
    const up = ["--upstream", `kds=${upstreamUrl}`];
    const fetched = await sealpod("fetch", "report.bin", "report.hex", ...at("second"), ...up);
    expect(fetched).toMatchObject({ exit: 0, stderr: "" });
    expect(fetched.stdout).toMatch(/^report\.bin: Milan chip 0000000241414141…, TCB DB18000000000004: fetched\nreport\.hex: Milan chip 00000003/);
    const product = sealpod("fetch", "--product", "milan", ...at("second"), ...up, "--json");
    const offline = sealpod("fetch", "report.bin", ...at("second"), "--upstream", "none");
    const byId = sealpod(
      "fetch",
      "--product",
      "Milan",
      "--chip-id",
      Buffer.from(A.request.chipId).toString("hex"),
      "--tcb",
      "db18000000000004",
      ...at("second"),
      ...up,
    );
    expect((JSON.parse((await product).stdout) as { fetched: unknown[] }).fetched).toHaveLength(4);
    for (const known of [offline, byId]) expect(await known).toMatchObject({ exit: 0, stdout: expect.stringContaining("was there") as string });

    for (const exported of await Promise.all(["bundle.json", "again.json"].map(async (file) => sealpod("export", "-o", file, ...at("second")))))
      expect(exported).toMatchObject({ exit: 0, stderr: "" });
    expect(await readFile(join(directory, "again.json"))).toEqual(await readFile(join(directory, "bundle.json")));

    await writeFile(join(directory, "second", "notes.txt"), "");
    const [refused, directoryImported] = await Promise.all([sealpod("import", "bundle.json", "--dir", "third"), sealpod("import", "second", ...at("fourth"))]);
    expect(directoryImported.stdout).toContain("2 new certificates");
    expect(directoryImported.stderr).toBe("ignored, in no known layout: notes.txt\n");
    expect(refused.exit).toBe(3);
    expect(refused.stderr).toMatch(/^error: .*not a trust anchor[\s\S]*to do: .*--trust emulator=ark\.pem[\s\S]*ERR_CERTCACHE_UNTRUSTED/);
    const imported = await sealpod("import", "bundle.json", ...at("third"), "--json");
    expect(JSON.parse(imported.stdout)).toMatchObject({ vceks: 2, known: 0, authorities: 2, crls: 2, entries: 2 });
    // The roots that are named are all: under AMD's, which are trusted if nothing is said, nothing of this verifies.
    const [listed, ...others] = await Promise.all([
      sealpod("list", ...at("third")),
      sealpod("list", "--dir", "third"),
      sealpod("list", "--dir", "third", "--trust", "amd"),
    ]);
    expect(listed.stdout.match(/DB18000000000004 .* verified/g)).toHaveLength(2);
    for (const { stdout } of others) expect([stdout.match(/not trusted/g)?.length, stdout.match(/ verified/g)]).toEqual([6, null]);
  });

  it("says in one error what is wrong and what to do", async () => {
    await writeFile(join(directory, "other.bin"), amd.report(amd.chip(9)));
    await writeFile(join(directory, "broken.json"), "{");
    const at = ["--dir", "fifth", "--trust", "emulator=ark.pem"];
    const cases: readonly (readonly [number, RegExp, ...string[]])[] = [
      [1, /no certificate of chip 0000000a[\s\S]*REPORTED_TCB/, "fetch", "other.bin", ...at, "--upstream", `kds=${upstreamUrl}`],
      [1, /no upstream to ask[\s\S]*certcache import/, "fetch", "other.bin", ...at, "--upstream", "none"],
      [1, /cannot be read|ERR_SNP_KDS_UNAVAILABLE/, "fetch", "other.bin", ...at, "--upstream", "kds=http://127.0.0.1:1", "--wait", "0"],
      [2, /is not a certificate|no PEM block|trust root/, "serve", "--trust", "emulator=broken.json"],
      [1, /^error: broken\.json:1:2/, "import", "broken.json", ...at],
    ];
    // What is wrong with the command line alone is shown without a process in cli/certcache/session.test.ts.
    const results = await Promise.all(cases.map(async ([exit, pattern, ...argv]) => ({ exit, pattern, argv, ran: await sealpod(...argv) })));
    for (const { exit, pattern, argv, ran } of results) {
      expect(ran, argv.join(" ")).toMatchObject({ exit, stdout: "" });
      expect(ran.stderr, argv.join(" ")).toMatch(pattern);
      expect(ran.stderr.match(/^error: /gm), argv.join(" ")).toHaveLength(1);
    }
    const both = await sealpod("fetch", "report.bin", "other.bin", ...at, "--upstream", `kds=${upstreamUrl}`, "--json");
    expect(both.exit).toBe(1);
    expect(JSON.parse(both.stdout)).toMatchObject({
      fetched: [{ name: "report.bin" }],
      failed: [{ name: "other.bin", error: { code: "ERR_SNP_KDS_NOT_FOUND" } }],
    });
  });
});
